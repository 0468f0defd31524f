use proptest::prelude::*;

use super::*;
use crate::clock;
use crate::reading::Missing;
use crate::wire::{ChainHash, Receipt};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn mw(watts: u32) -> Reading<Milliwatts> {
    Ok(Milliwatts(watts * 1000))
}

pub(super) fn gpu(uuid: &'static str, watts: u32, payload: Option<&'static str>) -> Gpu<'static> {
    Gpu { uuid, power: mw(watts), energy: Err(Missing::NotPresent), payload }
}

/// Ticks of a second each with these.
pub(super) fn run(
    ticks: u32,
    rig: Reading<Milliwatts>,
    gpus: &[Gpu<'_>],
    payloads: &[(&str, Option<MilliPerSecond>)],
) -> Books {
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
        let gpus = [Gpu { power: own, ..gpu("a", 0, Some("p")) }, gpu("b", 100, Some("q"))];
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
fn a_gpus_own_account_is_its_counter_and_who_pays_goes_by_power() {
    let start = clock::now();
    let tick = |state, tick: u32| {
        // Its mean is late: the counter knows that it draws half of what that says. Read anew with each third tick only.
        let counted =
            Gpu { energy: Ok(Millijoules(1_000_000 + u64::from(tick / 3) * 45_000)), ..gpu("a", 300, Some("p")) };
        let gpus = [counted, gpu("b", 100, Some("q"))];
        let now = start + Duration::from_millis(100) * tick;
        step(state, &Inputs { now, rig: mw(800), supplies: &[], gpus: &gpus, payloads: &[] })
    };
    let books = (0..=300).fold(State::default(), tick).books;
    let [a, b] = [books.gpus[0].1, books.gpus[1].1];
    assert_eq!((a.energy.0, a.counted_ms, a.gap_ms), (4_500_000_000, 30_000, 0));
    assert_eq!((b.energy.0, b.counted_ms, b.gap_ms), (3_000_000_000, 30_000, 0));
    assert_eq!((books.payload("p").energy.0, books.payload("q").energy.0), (18_000_000_000, 6_000_000_000));
}

#[test]
fn too_many_accounts_share_the_last_one() {
    let names: Vec<String> = (0..MOST + 10).map(|number| format!("payload-{number}")).collect();
    let start = clock::now();
    let mut state = State::default();
    for (second, name) in (0..).zip(names.iter().flat_map(|name| [name, name])) {
        let gpus = [Gpu { uuid: "a", power: mw(100), energy: Err(Missing::NotPresent), payload: Some(name) }];
        let inputs = Inputs { now: start + SECOND * second, rig: mw(100), supplies: &[], gpus: &gpus, payloads: &[] };
        state = step(state, &inputs);
    }
    let Books { rig, payloads, overhead, .. } = state.books;
    assert_eq!((payloads.len(), payloads[MOST - 1].0.as_str(), overhead.energy.0), (MOST, OTHERS, 0));
    assert_eq!(payloads.iter().map(|(.., account)| account.energy.0).sum::<u64>(), rig.energy.0);
}

#[test]
fn a_changed_or_missing_record_is_seen() {
    let (key, other) = (Key::of(&[1; 32]).unwrap(), Key::of(&[2; 32]).unwrap());
    let mut chain = ChainHash::default();
    let all: Vec<Receipt> = (0..5)
        .map(|index| {
            let mut record = Receipt::after(chain, &Interval { index, to_ms: index * QUARTER, ..Interval::default() });
            key.sign(&mut record);
            chain = record.hash;
            record
        })
        .collect();
    let with = |change: &dyn Fn(&mut Vec<Receipt>)| {
        let mut records = all.clone();
        change(&mut records);
        verify(&records, Some(&key.public())).map_err(|broken| broken.to_string())
    };
    assert_eq!(with(&|_| ()), Ok(()));
    assert_eq!(with(&|all| drop(all.drain(..2))), Ok(()), "from anywhere");
    type Change<'a> = &'a dyn Fn(&mut Vec<Receipt>);
    let rows: [(Change<'_>, &str); 8] = [
        (&|all| drop(all.remove(2)), "a record is missing or was put in before record 3"),
        (&|all| all.swap(1, 2), "a record is missing or was put in before record 2"),
        (&|all| all.insert(2, all[1].clone()), "a record is missing or was put in before record 1"),
        (&|all| all[3].body.0[1] ^= 1, "record 3 was changed"),
        (&|all| all[3].body.0.truncate(2), "record 3 was changed"),
        (&|all| all[3].signature.0.clear(), "record 3 is not signed"),
        (&|all| all[3].signature.0[5] ^= 1, "the signature of record 3 is not that of the key that it names"),
        (&|all| other.sign(&mut all[4]), &format!("record 4 is signed by another key: {}", other.public())),
    ];
    for (change, expected) in rows {
        assert_eq!(with(change), Err(expected.to_owned()));
    }
    let stranger: Vec<Receipt> = all
        .iter()
        .cloned()
        .map(|mut one| {
            other.sign(&mut one);
            one
        })
        .collect();
    assert_eq!(verify(&stranger, None), Ok(()), "without a key that is known it says only who says so");
}

#[test]
fn another_order_of_the_gpus_after_a_restart_changes_nobodys_account() {
    let (a, b) = (gpu("a", 300, Some("p")), gpu("b", 100, None));
    let before = run(10, mw(500), &[a, b], &[]);
    let start = clock::now();
    let next = |state, gpus: &[Gpu<'_>], second: u32| {
        let now = start + SECOND * second;
        step(state, &Inputs { now, rig: mw(500), supplies: &[("psu", mw(500), mw(450))], gpus, payloads: &[] })
    };
    let state = next(State::new(before.clone()), &[b, a], 0);
    let state = next(state, &[b, a], 10);
    let books = next(state, &[a, b], 20).books;
    let drawn = |books: &Books, of: &str| books.gpus.iter().find(|(uuid, _)| uuid == of).unwrap().1.energy.0;
    assert_eq!((drawn(&before, "a"), drawn(&before, "b")), (3_000_000_000, 1_000_000_000));
    // Ten seconds apart is too far: a gap, and nothing is guessed.
    assert_eq!(books.rig.gap_ms, 20_000);
    let state = next(State::new(before), &[b, a], 0);
    let orders = [[a, b], [b, a]];
    let books =
        (1..=20_usize).fold(state, |state, second| next(state, &orders[second % 2], second.try_into().unwrap())).books;
    assert_eq!((drawn(&books, "a"), drawn(&books, "b")), (9_000_000_000, 3_000_000_000));
    assert_eq!(books.payload("p").energy.0, 30 * 375_000_000);
    assert_eq!(books.payloads.len() + books.gpus.len(), 3);
}

#[test]
fn a_payload_that_is_renamed_or_gone_keeps_what_it_used() {
    let start = clock::now();
    let tick = |state, second: u32| {
        let payload = if second <= 10 { "old" } else { "new" };
        let gpus = [gpu("a", 300, (second <= 20).then_some(payload))];
        step(state, &Inputs { now: start + SECOND * second, rig: mw(400), supplies: &[], gpus: &gpus, payloads: &[] })
    };
    let books = (0..=30).fold(State::default(), tick).books;
    assert_eq!((books.payload("old").energy.0, books.payload("new").energy.0), (4_000_000_000, 4_000_000_000));
    assert_eq!((books.overhead.energy.0, books.rig.energy.0), (4_000_000_000, 12_000_000_000));
}

#[test]
fn a_meter_that_is_silent_for_a_minute_is_a_gap_of_a_minute() {
    let start = clock::now();
    let tick = |state, tick: u32| {
        let rig = if (100..700).contains(&tick) { Err(Missing::Bus) } else { mw(400) };
        let now = start + Duration::from_millis(100) * tick;
        step(
            state,
            &Inputs { now, rig, supplies: &[("psu", rig, rig)], gpus: &[gpu("a", 300, Some("p"))], payloads: &[] },
        )
    };
    let books = (0..=1_000).fold(State::default(), tick).books;
    // The line from the last reading to the next one is not drawn either.
    assert_eq!((books.rig.gap_ms, books.rig.counted_ms, books.rig.energy.0), (60_100, 39_900, 39_900 * 400_000));
    assert_eq!((books.supplies[0].1, books.payload("p").gap_ms, books.gpus[0].1.gap_ms), (books.rig, 60_100, 0));
    let mut away = books.clone();
    away.away(5_000);
    assert_eq!((away.rig.gap_ms, away.gpus[0].1.gap_ms, away.payload("p").gap_ms), (65_100, 5_000, 60_100));
    assert_eq!(away.rig.energy, books.rig.energy);
}

#[test]
fn of_time_and_work_nothing_is_cut_off_at_a_tick() {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    // A tick in ns, how many, the payload's rate in thousandths a second, and by how much each card draws more than the one before.
    for (tick, ticks, rate, more) in [
        (1_000_000_000_u64, 4_000_u32, 5, 0),
        (1_000_000_000, 4_000, 5, 7),
        (10_500_000, 20_000, 1_234, 0),
        (10_999_999, 20_000, 3, 13),
        (33_333_333, 9_000, 77, 3),
        (1_000_000_007, 1_000, 1_000_003, 1),
    ] {
        let watts = |gpu: u32| 100 + gpu * more;
        let gpus: Vec<_> = (0..).zip(NAMES).map(|(gpu, uuid)| self::gpu(uuid, watts(gpu), Some("p"))).collect();
        let start = clock::now();
        let mut state = State::default();
        for number in 0..=ticks {
            let now = start + Duration::from_nanos(tick * u64::from(number));
            let rig = Err(Missing::Bus);
            let supplies = [("psu", mw(900), rig)];
            let payloads = [("p", Some(MilliPerSecond(rate)))];
            // The rig's meter fails all the time in one row: no work is counted then, and the gap is as exact.
            let rig = if more == 13 { rig } else { mw(1_000) };
            state = step(state, &Inputs { now, rig, supplies: &supplies, gpus: &gpus, payloads: &payloads });
        }
        let books = state.books;
        let nanos = u128::from(tick) * u128::from(ticks);
        let millis = u64::try_from(nanos / 1_000_000).unwrap();
        let what = format!("{tick} ns, {rate} milli/s: {books:?}");
        assert_eq!((books.supplies[0].1.counted_ms, books.supplies[0].2.gap_ms), (millis, millis), "{what}");
        let all: u32 = (0..8).map(watts).sum();
        for (gpu, (.., account)) in (0..).zip(&books.payloads) {
            let counted = if more == 13 { 0 } else { u128::from(rate) * u128::from(millis) / 1_000 };
            let expected = counted * u128::from(watts(gpu)) / u128::from(all);
            assert!(account.milli().abs_diff(expected) <= 2, "{gpu}: {expected} of {what}");
        }
    }
}

/// What is on the wire inside of a receipt never changes: only its end may grow.
#[test]
fn an_interval_byte_by_byte() {
    let used = Account { energy: Microjoules(300), work: 2, counted_ms: 900_000, gap_ms: 1, thousandths: 7 };
    let line = |name: &str, gpu: &str| Line { name: name.to_owned(), gpu: gpu.to_owned(), used };
    let interval = Interval {
        index: 300,
        from_ms: 1,
        to_ms: 2,
        basis: Basis::Rails,
        rig: used,
        overhead: Account::default(),
        supplies: vec![line("s", "")],
        gpus: vec![line("g", "")],
        payloads: vec![line("p", "g")],
    };
    let bytes: String = postcard::to_allocvec(&interval).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let used = "ac02 02 a0f736 01 07";
    let expected =
        format!("ac02 01 02 01 {used} 00 00 00 00 00 01 0173 00 {used} 01 0167 00 {used} 01 0170 0167 {used}");
    assert_eq!(bytes, expected.replace(' ', ""));
}

/// One moment of a world: after how long, what its GPUs draw, what is not to be read.
type Scene = (u64, [u32; 3], u8);

fn scene() -> impl Strategy<Value = Scene> {
    (50..1_500_u64, [0..400_000_u32, 0..400_000_u32, 0..400_000_u32], any::<u8>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The world draws what was last set until the next moment, and in steps, where the meters are read every half second.
    #[test]
    fn payloads_and_overhead_are_the_rig_and_the_rig_is_the_world(
        moments in prop::collection::vec(scene(), 200..400),
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
                Gpu { power: read(0), ..gpu("a", 0, Some("p")) },
                Gpu { power: read(1), ..gpu("b", 0, Some("p")) },
                Gpu { power: read(2), ..gpu("c", 0, (tick % 200 < 100).then_some("q")) },
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
