use rigd::units::{MicroPerKilowattHour, MicroPerTera};

use super::*;

const MEASURED: Measured = Measured {
    rate: 0,
    power_mw: 0,
    clock_mhz: Some(1_695),
    memory_mhz: Some(9_501),
    pstate: Some(2),
    noise: 4,
    refused: 0,
};

fn tries(limit_mw: Option<u32>, core_mhz: Option<u32>, memory_mhz: Option<u32>) -> Tries {
    let clock = |clock: Option<u32>| clock.map(Megahertz);
    Tries { limit_mw: limit_mw.map(Milliwatts), core_mhz: clock(core_mhz), memory_mhz: clock(memory_mhz) }
}

fn tried(at_ms: u64, tries: Tries, rate: u64, power_mw: u32) -> Tried {
    Tried::new(at_ms, tries, Goal::PerJoule, &Ok(Measured { rate, power_mw, ..MEASURED }))
}

fn found() -> Found {
    let lower = tries(Some(220_000), None, None);
    let points = vec![
        tried(0, Tries::default(), 60_000_000_000, 350_000),
        tried(60_000, lower, 50_000_000_000, 220_000),
        Tried::new(120_000, tries(Some(220_000), Some(1_200), None), Goal::PerJoule, &Err(Trouble::Xid)),
        tried(180_000, lower, 50_400_000_000, 220_000),
    ];
    let best = best(&points, lower, Goal::PerJoule);
    Found {
        payload: "miner".to_owned(),
        unit: Some(PayloadUnit::Hashes),
        gpus: vec!["GPU-1".to_owned()],
        goal: "efficiency",
        left: Vec::new(),
        points,
        best,
        end: "found".to_owned(),
        took_ms: 240_000,
        profile: None,
    }
}

#[test]
fn the_table_has_every_point_and_the_best_with_its_gain() {
    let expected = "           limit W  lock MHz        rate      W   MHz        score\n\
                    as it was        -         -  60.00 MH/s  350.0  1695  171.42 kH/J\n\
                    2              220         -  50.00 MH/s  220.0  1695  227.27 kH/J\n\
                    3              220      1200           -      -     -            -  the driver told of an error (Xid)\n\
                    4              220         -  50.40 MH/s  220.0  1695  229.09 kH/J\n\
                    best           220         -  50.20 MH/s  220.0     -  228.18 kH/J  +33.1 %\n";
    assert_eq!(found().table(Goal::PerJoule), expected);
}

#[test]
fn the_gain_is_of_means_and_of_a_loss_too() {
    let goal = Goal::Margin { value: MicroPerTera(10), energy: MicroPerKilowattHour(300_000) };
    let of = |rate, power_mw| Tried::new(0, Tries::default(), goal, &Ok(Measured { rate, power_mw, ..MEASURED }));
    let best_of = |points: &[Tried]| best(points, Tries::default(), goal).unwrap();
    // It loses 105 000 millionths an hour, less what the work earns.
    let start = of(0, 350_000);
    assert_eq!((start.score, best_of(&[start]).gain_permille), (Some(-105_000), Some(0)));
    let lower = tries(Some(1), None, None);
    let half = Tried { tries: lower, ..of(0, 175_000) };
    let found = best(&[start, half], lower, goal).unwrap();
    assert_eq!((found.score, found.gain_permille, gain(found.gain_permille)), (-52_500, Some(500), "+50.0 %".into()));
    assert_eq!(best(&[start], lower, goal), None);
    assert_eq!((gain(Some(-7)), gain(Some(0)), gain(None)), ("-0.7 %".into(), "0.0 %".into(), String::new()));
}

#[test]
fn what_is_no_lower_than_it_was_is_left_as_it_was() {
    let point = |limit, core, memory: u32| Point {
        limit: Milliwatts(limit),
        core: Megahertz(core),
        memory: Some(memory).filter(|memory| *memory > 0).map(Megahertz),
    };
    let as_it_was = point(350_000, 1_700, 9_501);
    for (tried, expected, words) in [
        (as_it_was, Tries::default(), "as it was"),
        (point(340_000, 1_700, 9_501), tries(Some(340_000), None, None), "340 W"),
        (point(350_000, 1_685, 9_501), tries(None, Some(1_685), None), "1685 MHz"),
        (point(360_000, 2_000, 9_751), Tries::default(), "as it was"),
        (point(350_000, 1_700, 5_001), tries(None, None, Some(5_001)), "memory 5001 MHz"),
        (point(220_500, 1_200, 810), tries(Some(220_500), Some(1_200), Some(810)), "220 W, 1200 MHz, memory 810 MHz"),
        (point(340_000, 1_700, 0), tries(Some(340_000), None, None), "340 W"),
    ] {
        let found = Tries::new(tried, as_it_was);
        assert_eq!((found, found.to_string().as_str()), (expected, words));
        assert_eq!(found.is_nothing(), words == "as it was");
    }
}

#[test]
fn memory_has_its_columns_and_its_picture_where_it_was_varied() {
    let slow = tries(None, None, Some(5_001));
    let mut found = found();
    assert_eq!(found.steps(Goal::PerJoule).len(), 3);
    let measured = Measured { rate: 58_000_000_000, power_mw: 300_000, memory_mhz: Some(5_001), ..MEASURED };
    found.points = vec![
        tried(0, Tries::default(), 60_000_000_000, 350_000),
        Tried::new(60_000, slow, Goal::PerJoule, &Ok(measured)),
    ];
    found.best = best(&found.points, slow, Goal::PerJoule);
    let expected = "           limit W  lock MHz  mem lock        rate      W   MHz  mem MHz        score\n\
                    as it was        -         -         -  60.00 MH/s  350.0  1695     9501  171.42 kH/J\n\
                    2                -         -      5001  58.00 MH/s  300.0  1695     5001  193.33 kH/J\n\
                    best             -         -      5001  58.00 MH/s  300.0     -        -  193.33 kH/J  +12.7 %\n";
    assert_eq!(found.table(Goal::PerJoule), expected);
    let steps = found.steps(Goal::PerJoule);
    assert_eq!((steps[3].title, steps[3].lines[0].1.clone()), ("Memory clock, MHz", vec![(0, 9_501), (60_000, 5_001)]));
    let json = serde_json::to_value(found).unwrap();
    assert_eq!(
        (&json["best"]["memory_mhz"], &json["points"][0]["memory_mhz"]),
        (&5_001.into(), &serde_json::Value::Null)
    );
}

#[test]
fn picture_and_json_have_what_was_tried() {
    let steps = found().steps(Goal::PerJoule);
    assert_eq!(steps[0].title, "10³ units for a joule");
    let best: Vec<i64> = steps[0].lines[1].1.iter().map(|(_, score)| score / 1_000_000).collect();
    assert_eq!(best, [171_428, 227_272, 229_090]);
    let text = crate::plot::steps::terminal("t", (0, 240_000), steps);
    assert!(text.contains("a tried") && text.contains("b best so far"), "{text}");
    let json = serde_json::to_value(found()).unwrap();
    assert_eq!(json["points"][2]["trouble"], "xid");
    assert_eq!(json["points"][1]["measured"]["rate"], 50_000_000_000_u64);
    assert_eq!((&json["best"]["gain_permille"], &json["unit"]), (&331.into(), &"hashes".into()));
}
