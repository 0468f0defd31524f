use std::fs;

use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::reading::Missing;

const SECOND: Duration = Duration::from_secs(1);

fn mw(watts: u32) -> Reading<Milliwatts> {
    Ok(Milliwatts(watts * 1000))
}

fn gpu(uuid: &'static str, watts: u32, payload: Option<&'static str>) -> Gpu<'static> {
    Gpu { uuid, power: mw(watts), payload }
}

/// Ticks of a second each with these.
fn run(ticks: u32, rig: Reading<Milliwatts>, gpus: &[Gpu<'_>], payloads: &[(&str, Option<MilliPerSecond>)]) -> Books {
    let start = clock::now();
    let tick = |state, tick| {
        step(state, &Inputs { now: start + SECOND * tick, rig, supplies: &[("psu", rig, mw(900))], gpus, payloads })
    };
    (0..=ticks).fold(State::default(), tick).books
}

#[test]
fn the_rigs_energy_goes_to_who_caused_it() {
    let gpus =
        [gpu("a", 300, Some("llm")), gpu("b", 100, Some("llm")), gpu("c", 400, Some("hash")), gpu("d", 100, None)];
    let payloads = [("llm", Some(MilliPerSecond(400_000))), ("hash", Some(MilliPerSecond(1)))];
    let books = run(100, mw(1_350), &gpus, &payloads);
    let joules = |account: Account| account.energy.0 / 1_000_000;
    assert_eq!(joules(books.rig), 135_000);
    // 1.5 at the input for 1 at a GPU.
    assert_eq!(joules(books.payload("llm")), 60_000);
    assert_eq!(joules(books.payload("hash")), 60_000);
    assert_eq!(joules(books.overhead), 15_000, "the idle GPU's part");
    assert_eq!(joules(books.gpus[0].1), 30_000, "its own");
    assert_eq!((joules(books.supplies[0].1), joules(books.supplies[0].2)), (135_000, 90_000));
    let works: Vec<u64> = books.payloads.iter().map(|(.., account)| account.work).collect();
    assert_eq!(works, [30_000, 10_000, 0], "by energy");
    assert_eq!(books.payload("hash").thousandths, 100);
    assert_eq!(books.payload("llm").milli_per_joule(), Some(666), "two thirds of a token for a joule");
    assert_eq!(books.payload("nobody").milli_per_joule(), None);
}

#[test]
fn what_is_not_known_is_a_gap_and_not_a_guess() {
    let start = clock::now();
    let mut state = State::default();
    let mut at = |after: u64, rig, own| {
        let gpus = [Gpu { uuid: "a", power: own, payload: Some("p") }, gpu("b", 100, Some("q"))];
        let now = start + Duration::from_millis(after);
        state = step(std::mem::take(&mut state), &Inputs { now, rig, supplies: &[], gpus: &gpus, payloads: &[] });
        let p = state.books.payload("p");
        (state.books.rig.energy.0 / 1_000_000, state.books.rig.gap_ms, p.energy.0 / 1_000_000, p.gap_ms)
    };
    assert_eq!(at(0, mw(400), mw(100)), (0, 0, 0, 0));
    assert_eq!(at(1_000, mw(400), mw(100)), (400, 0, 200, 0));
    assert_eq!(at(2_000, Err(Missing::Bus), mw(100)), (400, 1_000, 200, 1_000));
    assert_eq!(at(3_000, mw(400), mw(100)), (400, 2_000, 200, 2_000), "from nothing there is no way to here");
    assert_eq!(at(4_000, mw(400), Err(Missing::Stale)), (800, 2_000, 200, 3_000), "the other is not charged for it");
    assert_eq!(at(5_000, mw(400), mw(100)), (1_200, 2_000, 200, 4_000));
    assert_eq!(at(5_000 + 5_001, mw(400), mw(100)), (1_200, 7_001, 200, 9_001), "too far apart");
    assert_eq!(at(11_001, mw(200), mw(100)), (1_500, 7_001, 350, 9_001), "a trapezoid");
}

#[test]
fn too_many_accounts_share_the_last_one() {
    let names: Vec<String> = (0..MOST + 10).map(|number| format!("payload-{number}")).collect();
    let start = clock::now();
    let mut state = State::default();
    for (second, name) in (0..).zip(names.iter().flat_map(|name| [name, name])) {
        let gpus = [Gpu { uuid: "a", power: mw(100), payload: Some(name) }];
        let inputs = Inputs { now: start + SECOND * second, rig: mw(100), supplies: &[], gpus: &gpus, payloads: &[] };
        state = step(state, &inputs);
    }
    let Books { rig, payloads, overhead, .. } = state.books;
    assert_eq!((payloads.len(), payloads[MOST - 1].0.as_str(), overhead.energy.0), (MOST, OTHERS, 0));
    assert_eq!(payloads.iter().map(|(.., account)| account.energy.0).sum::<u64>(), rig.energy.0);
}

fn directory(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("rigd-energy-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn books_and_chain_survive_a_restart_and_a_torn_end() {
    let directory = directory("restart");
    let start = clock::now();
    let books = |seconds| run(seconds, mw(1_000), &[gpu("a", 500, Some("p"))], &[]);
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    assert_eq!(kept, Kept::default());
    let begun = 7 * QUARTER + 60_000;
    for minute in 0..40 {
        let now = start + Duration::from_secs(u64::from(minute) * 60);
        let record = kept.turn(&books(minute * 6), begun + u64::from(minute) * 60_000);
        store.save(&kept, record.as_ref(), now).unwrap();
    }
    drop(store);
    // The last record is torn: the one before it is ten seconds old.
    let path = directory.join("energy");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let (store, again) = Store::open(&directory).unwrap();
    assert_eq!((again.books.rig.energy.0, again.records), (38 * 6_000_000_000, 2));
    assert_eq!((again.chain, again.opened_ms), (kept.chain, kept.opened_ms));
    let records = store.records().unwrap();
    assert_eq!(verify(&records), Ok(()));
    let intervals: Vec<Interval> = records.iter().map(|record| record.interval().unwrap()).collect();
    assert_eq!(intervals.iter().map(|one| one.to_ms).collect::<Vec<_>>(), [8 * QUARTER, 9 * QUARTER]);
    assert_eq!(intervals[0].rig.energy.0, 14 * 6_000_000_000);
    assert_eq!(intervals[1].payloads[0].used.energy.0, 15 * 6_000_000_000);
    // The books were not written any more when the second record was: the chain goes on behind it all the same.
    fs::remove_file(&path).unwrap();
    let (_, lost) = Store::open(&directory).unwrap();
    assert_eq!((lost.chain, lost.records), (kept.chain, 2));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_books_file_does_not_grow_for_ever() {
    let directory = directory("wear");
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    kept.books = run(10, mw(1_000), &[gpu("a", 500, Some("p"))], &[]);
    let start = clock::now();
    let mut longest = 0;
    for tick in 0..4_000 {
        store.save(&kept, None, start + SAVE_EVERY * tick).unwrap();
        longest = longest.max(fs::metadata(directory.join("energy")).unwrap().len());
    }
    assert!((200_000..270_000).contains(&longest), "{longest}");
    let (_, again) = Store::open(&directory).unwrap();
    assert_eq!(again, kept);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_changed_or_missing_record_is_seen() {
    let mut chain = [0; 32];
    let mut records: Vec<Record> = (0..5)
        .map(|index| {
            let record = Record::after(chain, &Interval { index, to_ms: index * QUARTER, ..Interval::default() });
            chain = record.hash;
            record
        })
        .collect();
    assert_eq!(verify(&records), Ok(()));
    assert_eq!(verify(&records[2..]), Ok(()), "from anywhere");
    let removed: Vec<Record> =
        records.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, one)| one.clone()).collect();
    assert_eq!(verify(&removed), Err(Broken::Order(2)));
    records[3].body[1] ^= 1;
    assert_eq!(verify(&records), Err(Broken::Changed(3)));
}

#[test]
fn a_clock_that_is_set_ends_the_interval() {
    let books = Books::default();
    let mut kept = Kept::default();
    assert_eq!(kept.turn(&books, 5 * QUARTER + 10), None);
    let ends = |kept: &mut Kept, ms| {
        kept.turn(&books, ms).and_then(|record| record.interval()).map(|one| (one.from_ms, one.to_ms))
    };
    assert_eq!(ends(&mut kept, 5 * QUARTER + 5), Some((5 * QUARTER + 10, 5 * QUARTER + 10)), "back");
    assert_eq!(ends(&mut kept, 99 * QUARTER), Some((5 * QUARTER + 5, 6 * QUARTER)), "far ahead");
}

/// One moment of a world: after how long, what its GPUs draw, what is not to be read.
type Moment = (u64, [u32; 3], u8);

fn moment() -> impl Strategy<Value = Moment> {
    (50..1_500_u64, [0..400_000_u32, 0..400_000_u32, 0..400_000_u32], any::<u8>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The world draws what was last set until the next moment, and in steps, where the meters are read every half second.
    #[test]
    fn payloads_and_overhead_are_the_rig_and_the_rig_is_the_world(
        moments in prop::collection::vec(moment(), 200..400),
        gap in 0..100_u64,
    ) {
        let start = clock::now();
        let (mut state, mut world, mut at) = (State::default(), 0_u128, 0_u64);
        let (mut before, mut was_gap) = (Books::default(), true);
        let mut level = 0_u32;
        let mut moments = moments.into_iter().cycle();
        let mut draws = [0_u32; 3];
        let mut until = 0;
        for tick in 0..1_200_u64 {
            if at >= until {
                let (length, next, _) = moments.next().unwrap();
                (until, draws) = (at + length * 10, next);
            }
            let now = 200_000 + draws.iter().sum::<u32>();
            // A straight line from tick to tick is what the world does.
            let missing = tick % 97 < gap / 20;
            if !missing && !was_gap {
                world += u128::from(u64::from(level) + u64::from(now)) * 100 / 2;
            }
            (level, was_gap) = (now, missing);
            let rig = if missing { Err(Missing::Bus) } else { Ok(Milliwatts(now)) };
            let read = |gpu: usize| if tick % 31 == u64::try_from(gpu).unwrap() { Err(Missing::Stale) } else { Ok(Milliwatts(draws[gpu])) };
            let gpus = [
                Gpu { uuid: "a", power: read(0), payload: Some("p") },
                Gpu { uuid: "b", power: read(1), payload: Some("p") },
                Gpu { uuid: "c", power: read(2), payload: (tick % 200 < 100).then_some("q") },
            ];
            let inputs = Inputs {
                now: start + Duration::from_millis(at),
                rig,
                supplies: &[],
                gpus: &gpus,
                payloads: &[("p", Some(MilliPerSecond(1_234_567)))],
            };
            state = step(state, &inputs);
            let books = &state.books;
            let payloads: u64 = books.payloads.iter().map(|(.., account)| account.energy.0).sum();
            prop_assert_eq!(payloads + books.overhead.energy.0, books.rig.energy.0);
            for (old, new) in [(before.rig, books.rig), (before.overhead, books.overhead), (before.payload("p"), books.payload("p"))] {
                prop_assert!(new.energy >= old.energy && new.work >= old.work && new.gap_ms >= old.gap_ms);
            }
            prop_assert_eq!(books.rig.counted_ms + books.rig.gap_ms, at);
            before = books.clone();
            at += 100;
        }
        let counted = u128::from(state.books.rig.energy.0);
        prop_assert!(counted.abs_diff(world) * 200 <= world, "{} of {}", counted, world);
    }

    /// Against a sum in steps of a millisecond, the load jumping at any of them, read ten times a second.
    #[test]
    fn jumps_between_two_readings_even_out(jumps in prop::collection::vec((20..3_000_u64, 50_000..400_000_u32), 300..400), seed in any::<u64>()) {
        let start = clock::now();
        let (mut state, mut world, mut at, mut seed) = (State::default(), 0_u64, 0_u64, seed);
        let mut next = 0;
        for (length, power) in jumps {
            for _ in 0..length {
                if at >= next {
                    let inputs = Inputs { now: start + Duration::from_millis(at), rig: Ok(Milliwatts(power)), supplies: &[], gpus: &[], payloads: &[] };
                    state = step(state, &inputs);
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    next = at + 80 + (seed >> 60) * 2;
                }
                world += u64::from(power);
                at += 1;
            }
        }
        let counted = state.books.rig.energy.0;
        prop_assert!(counted.abs_diff(world) * 200 <= world, "{} of {}", counted, world);
    }
}
