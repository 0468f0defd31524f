use proptest::prelude::*;

use super::*;
use crate::reading::{Fan, Stage, Zone};
use crate::units::{Duty, Millicelsius, Milliwatts};

fn board() -> Board {
    Board::load("simulated-8gpu").unwrap()
}

/// A tick of the simulated board with the same reading everywhere; where it is a drive, as far as a drive goes.
fn tick(reading: Reading<i32>) -> Snapshot {
    let power = Power { power: reading.map(|mw| Milliwatts(mw.unsigned_abs())), ..Power::missing(Missing::Off) };
    let duty = reading.map(|duty| Duty::saturating(duty.unsigned_abs()));
    Snapshot {
        rails: vec![power; 8],
        supplies: vec![[power; 2]],
        sensors: vec![reading.map(Millicelsius); 3],
        fans: vec![Fan { duty, ..Fan::missing(Missing::Off) }; 6],
        zones: vec![Zone { duty, stage: Stage::Normal }],
        ..Snapshot::default()
    }
}

fn index(quantity: Quantity) -> usize {
    series(&board()).iter().position(|(of, _)| *of == quantity).unwrap()
}

#[test]
fn names_and_readings_have_one_order() {
    let names: Vec<_> = series(&board()).iter().map(|(quantity, name)| format!("{quantity:?} {name}")).collect();
    assert_eq!(names.len(), readings(&tick(Ok(1))).len());
    assert_eq!((names[0].as_str(), names[10].as_str()), ("Temperature exhaust1", "RailPower gpu7"));
    assert_eq!(names[11..14], ["SupplyInput psu1", "SupplyOutput psu1", "FanDrive fan1"]);
    // Those with a range come first: one index serves both tables.
    let ranged: Vec<_> = series(&board()).iter().map(|(quantity, _)| quantity.has_range()).collect();
    assert!(ranged.is_sorted_by(|before, after| before >= after), "{ranged:?}");
}

/// The numbers of the module's head.
#[test]
fn memory_is_the_sum_of_its_parts() {
    let mut board = board();
    let supply = board.supplies[0].clone();
    board.supplies.push(supply);
    let mut history = History::new(&board);
    let bytes = |history: &History| {
        let History { width: _, ranged: _, slots, newest: _, last, ranges } = history;
        size_of_val(&slots[..]) + size_of_val(&last[..]) + size_of_val(&ranges[..])
    };
    let (series, ranged) = (3 + 8 + 2 * 2 + 6 + 1, 3 + 8 + 2 * 2);
    assert_eq!((history.width, history.ranged), (series, ranged));
    let a_slot = 4 * series + 8 * ranged + 4;
    assert_eq!((a_slot, bytes(&history)), (212, 212 * 720));
    assert!(bytes(&history) < 150 * 1024);
    let capacity = (history.slots.capacity(), history.last.capacity(), history.ranges.capacity());
    let mut snapshot = tick(Ok(1));
    snapshot.supplies.push(snapshot.supplies[0]);
    for hour in 0..3 * u64::from(SLOTS) {
        history.take(hour * SLOT_MS, &snapshot);
    }
    assert_eq!(capacity, (history.slots.capacity(), history.last.capacity(), history.ranges.capacity()));
    assert_eq!(bytes(&history.clone()), bytes(&history));
    assert_eq!(history.slots().count(), ROWS);
}

#[test]
fn a_cell_gives_back_what_went_in() {
    for reason in REASONS {
        assert_eq!(Cell::new(Err(reason)).reading(), Err(reason));
    }
    for value in [LOWEST, -273_150, -1, 0, 1, i32::MAX] {
        assert_eq!(Cell::new(Ok(value)).reading(), Ok(value));
    }
    // What would be taken for a reason is no value of any sensor, and says so.
    assert_eq!(Cell::new(Ok(i32::MIN)).reading(), Err(Missing::Implausible));
    let mut snapshot = tick(Ok(1));
    snapshot.rails[0].power = Ok(Milliwatts(u32::MAX));
    assert_eq!(readings(&snapshot)[3].reading(), Err(Missing::Implausible));
}

#[test]
fn a_slot_keeps_its_last_reading_and_its_peaks() {
    let mut history = History::new(&board());
    for (uptime_ms, reading) in
        [(0, Ok(50)), (1_000, Ok(90)), (2_000, Err(Missing::Bus)), (3_000, Ok(10)), (4_999, Ok(40)), (5_000, Ok(41))]
    {
        history.take(uptime_ms, &tick(reading));
    }
    let sample = |quantity| history.samples(index(quantity)).collect::<Vec<_>>();
    for quantity in [Quantity::Temperature, Quantity::RailPower, Quantity::SupplyInput, Quantity::SupplyOutput] {
        let first = Sample { last: Ok(40), range: Some([Ok(10), Ok(90)]) };
        assert_eq!(sample(quantity), [first, Sample { last: Ok(41), range: Some([Ok(41); 2]) }]);
    }
    for quantity in [Quantity::FanDrive, Quantity::ZoneDrive] {
        assert_eq!(sample(quantity), [Ok(40), Ok(41)].map(|last| Sample { last, range: None }));
    }
}

#[test]
fn a_missing_reading_keeps_its_reason_and_hides_no_peak() {
    let mut history = History::new(&board());
    for (uptime_ms, reading) in [(0, Ok(70)), (4_000, Err(Missing::Stale)), (5_000, Err(Missing::Bus))] {
        history.take(uptime_ms, &tick(reading));
    }
    history.take(6_000, &tick(Err(Missing::Off)));
    let samples: Vec<_> = history.samples(index(Quantity::Temperature)).collect();
    assert_eq!(samples[0], Sample { last: Err(Missing::Stale), range: Some([Ok(70); 2]) });
    assert_eq!(samples[1], Sample { last: Err(Missing::Off), range: Some([Err(Missing::Off); 2]) });
}

#[test]
fn a_pause_is_a_gap_and_what_is_older_than_an_hour_goes() {
    let mut history = History::new(&board());
    assert_eq!(history.slots().count(), 0);
    for slot in [3, 4, 700, 722, 723] {
        history.take(slot * SLOT_MS, &tick(Ok(1)));
    }
    assert_eq!(history.slots().collect::<Vec<_>>(), [4, 700, 722, 723]);
    assert_eq!(history.samples(0).count(), 4);
    // Time that runs back, and a tick of another shape, cannot do harm.
    history.take(0, &tick(Ok(2)));
    history.take(800 * SLOT_MS, &Snapshot::default());
    history.take(u64::MAX, &tick(Ok(3)));
    assert_eq!(history.slots().collect::<Vec<_>>(), [UNUSED - 1]);
    assert_eq!(history.samples(99).count(), 0);
}

proptest! {
    /// Against a list of everything that ever was.
    #[test]
    fn it_is_what_a_list_of_all_ticks_gives(
        steps in prop::collection::vec((0_u64..40_000, prop_oneof![
            (-50_000_i32..200_000).prop_map(Ok),
            prop::sample::select(REASONS.to_vec()).prop_map(Err),
        ]), 1..400)
    ) {
        let mut history = History::new(&board());
        let mut ticks = Vec::new();
        let mut now = 0;
        for (step, reading) in steps {
            now += step;
            history.take(now, &tick(reading));
            ticks.push((u32::try_from(now / SLOT_MS).unwrap(), reading));
        }
        let newest = ticks.last().unwrap().0;
        let mut slots: Vec<u32> = ticks.iter().map(|(slot, _)| *slot).filter(|slot| slot + SLOTS > newest).collect();
        slots.dedup();
        prop_assert_eq!(history.slots().collect::<Vec<_>>(), slots.clone());
        for (slot, sample) in slots.iter().zip(history.samples(index(Quantity::Temperature))) {
            let of_slot = || ticks.iter().filter(|tick| tick.0 == *slot).map(|tick| tick.1);
            prop_assert_eq!(Some(sample.last), of_slot().next_back());
            let low = of_slot().flatten().min().map_or(sample.last, Ok);
            let high = of_slot().flatten().max().map_or(sample.last, Ok);
            prop_assert_eq!(sample.range, Some([low, high]));
        }
    }
}
