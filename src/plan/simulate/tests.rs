use super::*;
use crate::plan::{Lease, Switch};
use crate::units::MilliPerSecond;

const EXAMPLE: &str = include_str!("../../../examples/prices/denmark-2023-02-04.csv");
const QUARTER: Duration = Duration::from_secs(900);

fn payload(name: &str) -> Payload {
    Payload {
        name: name.to_owned(),
        lease: None,
        most: 8,
        fits: u64::MAX,
        hours: None,
        value: MicroPerTera(0),
        switch: Switch { load: Duration::from_secs(120), joules: 20_000, ..Switch::default() },
    }
}

/// Two GPUs; 100 M units a second for 220 W.
fn rig(payloads: Vec<Payload>) -> Rig {
    let one = Yield { rate: MilliPerSecond(100_000_000_000), power: Milliwatts(220_000) };
    Rig {
        yields: vec![vec![Some(one); 2]; payloads.len()],
        payloads,
        gpus: 2,
        idle: Milliwatts(20_000),
        base: Milliwatts(100_000),
    }
}

fn planned() -> Policy {
    Policy::Planned { horizon: Duration::from_secs(3600), stickiness: Percent(5) }
}

#[test]
fn sums_are_those_of_a_calculation_by_hand() {
    let prices = Prices::parse("time,energy,a\n1970-01-02T00:00Z,0.5,1\n1970-01-02T10:00Z,0.5,1\n").unwrap();
    let found = run(&prices, &rig(vec![payload("a")]), &Policy::Always(vec![Some(0), None]), QUARTER);
    // Ten hours less two minutes of 360 G units an hour; 100 W, 220 W and 20 W for ten hours and 20 kJ.
    assert_eq!(found.revenue, 3_588_000);
    assert_eq!((found.watt_hours, found.energy_cost), (3_405, 1_702_777));
    assert_eq!((found.switches, found.idle_minutes, found.violated_minutes), (1, 600, 0));
    assert_eq!(found.margin(), 3_588_000 - 1_702_777);
}

#[test]
fn the_planner_earns_more_than_any_fixed_choice_over_the_example() {
    let prices = Prices::parse(EXAMPLE).unwrap();
    assert_eq!(
        (prices.names.as_slice(), prices.rows.len()),
        (["mining".to_owned(), "batch".to_owned()].as_slice(), 35)
    );
    let rig = rig(vec![payload("mining"), payload("batch")]);
    let best = run(&prices, &rig, &planned(), QUARTER);
    for fixed in [None, Some(0), Some(1)] {
        let other = run(&prices, &rig, &Policy::Always(vec![fixed; 2]), QUARTER);
        assert!(best.margin() > other.margin(), "{best:?} against {other:?}");
    }
    assert!((4..=12).contains(&best.switches), "{best:?}");
    let table = Table("policy", &[("planned", best)]).to_string();
    assert_eq!(table.lines().count(), 2);
    assert!(table.lines().all(|line| line.len() == table.lines().next().unwrap().len()), "{table}");
}

#[test]
fn a_year_of_hours_goes_by_and_a_broken_promise_is_counted() {
    let row = |hour: u64| Row {
        from_ms: hour * 3_600_000,
        energy: MicroPerKilowattHour(if hour % 24 < 12 { 100_000 } else { 900_000 }),
        values: vec![MicroPerTera(1_000_000)],
    };
    let prices = Prices { names: vec!["a".to_owned()], rows: (0..=8_760).map(row).collect() };
    let lease = |most| Payload {
        most,
        lease: Some(Lease { from_ms: 3_600_000, to_ms: 2 * 3_600_000, priority: 1 }),
        ..payload("lease")
    };
    let hour = Duration::from_secs(3600);
    let served = run(&prices, &rig(vec![payload("a"), lease(2)]), &planned(), hour);
    assert_eq!((served.violated_minutes, served.idle_minutes), (0, 0), "it pays at every hour");
    let broken = run(&prices, &rig(vec![payload("a"), lease(3)]), &planned(), hour);
    assert_eq!(broken.violated_minutes, 60);
}

#[test]
fn each_payload_has_its_part_and_all_parts_are_the_whole() {
    let prices = Prices::parse(EXAMPLE).unwrap();
    let mut seen = Vec::new();
    let mut see = |stretch: &Stretch<'_>| seen.push((stretch.from_ms, stretch.to_ms));
    let found = report(&prices, &rig(vec![payload("mining"), payload("batch")]), &planned(), QUARTER, &mut see);
    let parts = || found.payloads.iter().chain([&found.rest]);
    for (what, sum, all) in [
        ("revenue", parts().map(|part| part.revenue).sum::<i64>(), found.all.revenue),
        ("cost", parts().map(|part| part.energy_cost).sum(), found.all.energy_cost),
        ("changes", parts().map(|part| i64::from(part.switches)).sum(), found.all.switches.into()),
    ] {
        // Each part is rounded by itself.
        assert!((all - sum).abs() <= 3, "{what}: {sum} of {all}");
    }
    assert!(found.payloads.iter().all(|part| part.revenue > 0 && part.switches > 0), "{found:?}");
    assert_eq!(seen.len(), 34 * 4);
    assert!(seen.windows(2).all(|pair| pair[0].1 == pair[1].0), "without a hole");
}

#[test]
fn prices_begin_again_at_the_same_hour_and_end_on_time() {
    let hours = |text: &str, days| {
        let prices = Prices::parse(text).unwrap().over(days);
        prices.rows.iter().map(|row| (row.from_ms / 3_600_000, row.energy.0 / 1_000_000)).collect::<Vec<_>>()
    };
    let whole = "time,energy\n1970-01-01T00:00Z,1\n1970-01-01T12:00Z,2\n1970-01-02T00:00Z,3\n";
    assert_eq!(hours(whole, 2), [(0, 1), (12, 2), (24, 1), (36, 2), (48, 3)]);
    let part = "time,energy\n1970-01-01T06:00Z,1\n1970-01-02T08:00Z,2\n";
    assert_eq!(hours(part, 3), [(6, 1), (32, 2), (54, 1), (78, 2)], "30 hours begin again after 48");
    assert_eq!(hours(part, 1), [(6, 1), (30, 2)], "cut off");
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (text, line, what) in [
        ("", 1, "two rows at least are needed"),
        ("# nothing\ntime,price\n", 2, "the columns must be time, energy and names of payloads"),
        ("time,energy\n2023-02-04,1\n", 2, "no time as 2023-02-04T12:00Z"),
        ("time,energy\n2023-02-04T00:00Z,one\n", 2, "no price of energy"),
        ("time,energy,a\n2023-02-04T00:00Z,1,-1\n", 2, "a value is no number, or below zero"),
        ("time,energy,a\n2023-02-04T00:00Z,1\n", 2, "has another number of cells than there are columns"),
        ("time,energy\n2023-02-04T01:00Z,1\n2023-02-04T01:00Z,1\n", 3, "is not later than the one before it"),
    ] {
        assert_eq!(Prices::parse(text), Err(Mistake { line, what }), "{text}");
    }
}

#[test]
fn times_and_numbers() {
    for (text, ms) in [
        ("1970-01-01T00:00Z", Some(0)),
        ("2000-02-29T12:30Z", Some(951_827_400_000)),
        ("2023-02-04T12:00Z", Some(1_675_512_000_000)),
        ("2023-13-04T12:00Z", None),
        ("2023-02-04T12:00", None),
    ] {
        assert_eq!(time(text), ms, "{text}");
    }
    for (text, micro) in [
        ("1", Some(1_000_000)),
        ("-0.00001", Some(-10)),
        ("0.1234567", Some(123_456)),
        ("", None),
        (".5", None),
        ("1e3", None),
    ] {
        assert_eq!(decimal(text), micro, "{text}");
    }
}
