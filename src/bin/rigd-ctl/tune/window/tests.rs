use rigd::units::Megahertz;

use super::*;

const RULES: Rules = Rules { settle: 3_000, measure: 4_000, patience: 10_000 };
const GOOD: Look = Look {
    runs: true,
    degraded: false,
    rate: Some(60_000),
    accepted: 100,
    rejected: 1,
    there: true,
    power: Some(200_000),
    clock: Some(1_500),
    memory: Some(5_001),
    pstate: Some(3),
    limit: Some(200_000),
    xids: 2,
    hot: false,
};

const LIMITS: Limits =
    Limits { power: Some(Milliwatts(200_000)), clock: Some(Megahertz(1_500)), memory: Some(Megahertz(5_001)) };
const NORMAL: Normal = Normal { refused: 0, memory: Some(9_501) };

/// A look a second until something comes of it: when, and what.
fn run(look: impl Fn(u64) -> Look) -> (u64, Step) {
    let mut watch = Watch::new(RULES, LIMITS, NORMAL, GOOD, 0);
    for second in 0..60 {
        match watch.step(second * 1_000, &look(second)) {
            Step::Settling | Step::Measuring | Step::Silent => {}
            step @ (Step::Came(_) | Step::Over(_)) => return (second, step),
        }
    }
    panic!("it never ends");
}

fn measured(rate: u64, power_mw: u32, noise: u64) -> Step {
    let (clock_mhz, memory_mhz, pstate) = (Some(1_500), Some(5_001), Some(3));
    Step::Came(Ok(Measured { rate, power_mw, clock_mhz, memory_mhz, pstate, noise, refused: 0 }))
}

#[test]
fn a_point_settles_and_is_measured_and_both_take_longer_where_nothing_stands_still() {
    let warms = |second: u64| Look { power: Some(200_000 - 20_000 / (second + 1)), ..GOOD };
    let climbs = |second: u64| Look { rate: Some(60_000 + 3_000 * second), ..GOOD };
    let jumps = |second: u64| Look { rate: Some(if second.is_multiple_of(2) { 60_000 } else { 63_000 }), ..GOOD };
    assert_eq!(run(|_| GOOD), (7, measured(60_000, 200_000, 0)));
    assert_eq!(run(warms).0, 7 + 1, "the warmth of the first seconds is waited for");
    // 3 × 3 s and 2 × 4 s, and then it is as noisy as it is.
    let (second, step) = run(climbs);
    let Step::Came(Ok(came)) = step else { panic!("{step:?}") };
    assert_eq!((second, came.rate, came.noise > NOISY), (17, 100_500, true));
    // By turns is not by halves: the mean is what it is.
    let (second, step) = run(jumps);
    let Step::Came(Ok(came)) = step else { panic!("{step:?}") };
    assert!(second <= 17 && (61_000..62_500).contains(&came.rate), "{second} {came:?}");
}

#[test]
fn trouble_ends_a_point_at_once_and_says_which() {
    let from = |second: u64, bad: Look| move |now: u64| if now < second { GOOD } else { bad };
    let xid = Look { xids: 3, there: false, ..GOOD };
    for (what, bad, expected) in [
        ("Xid, before all else", xid, (2, Step::Came(Err(Trouble::Xid)))),
        ("heat", Look { hot: true, ..GOOD }, (2, Step::Came(Err(Trouble::Heat)))),
        ("not running", Look { runs: false, ..GOOD }, (2, Step::Came(Err(Trouble::Stopped)))),
        ("less than expected", Look { runs: false, degraded: true, ..GOOD }, (2, Step::Came(Err(Trouble::TooLittle)))),
        ("lost", Look { there: false, ..GOOD }, (2, Step::Over("a GPU does not answer any more"))),
        ("a limit of before", Look { limit: Some(250_000), ..GOOD }, (9, Step::Came(Err(Trouble::NotHeld)))),
        ("a limit within its step", Look { limit: Some(200_900), ..GOOD }, (7, measured(60_000, 200_000, 0))),
        ("another holds it lower", Look { limit: Some(180_000), ..GOOD }, (9, Step::Came(Err(Trouble::HeldLower)))),
        ("a clock that is not held", Look { clock: Some(1_600), ..GOOD }, (9, Step::Came(Err(Trouble::NotHeld)))),
        ("memory as it was", Look { memory: Some(9_501), ..GOOD }, (9, Step::Came(Err(Trouble::MemoryNotHeld)))),
        ("memory that goes to another of its clocks", Look { memory: Some(6_001), ..GOOD }, {
            let Step::Came(Ok(plain)) = measured(60_000, 200_000, 0) else { panic!() };
            (7, Step::Came(Ok(Measured { memory_mhz: Some(6_001), ..plain })))
        }),
        ("nobody tells of limit and clocks", Look { limit: None, clock: None, memory: None, pstate: None, ..GOOD }, {
            let Step::Came(Ok(plain)) = measured(60_000, 200_000, 0) else { panic!() };
            (7, Step::Came(Ok(Measured { clock_mhz: None, memory_mhz: None, pstate: None, ..plain })))
        }),
        ("refused", Look { accepted: 110, rejected: 5, ..GOOD }, (2, Step::Came(Err(Trouble::Refused)))),
        ("two refused", Look { accepted: 101, rejected: 3, ..GOOD }, (7, measured(60_000, 200_000, 0))),
        ("no rate", Look { rate: None, ..GOOD }, (12, Step::Over("its rate or the watts are not told any more"))),
        ("no work", Look { rate: Some(0), power: Some(0), ..GOOD }, (13, Step::Over("it yields nothing"))),
    ] {
        let (second, step) = run(from(2, bad));
        // How long it takes to settle on nothing is not the matter here.
        let second = if what == "no work" { 13 } else { second };
        assert_eq!((second, step), expected, "{what}");
    }
}

#[test]
fn a_card_that_takes_it_late_has_taken_it() {
    let before = Look { limit: Some(250_000), clock: Some(1_700), memory: Some(9_501), pstate: Some(2), ..GOOD };
    let late = |second: u64| if second < 5 { before } else { GOOD };
    assert_eq!(run(late), (9, measured(60_000, 200_000, 0)));
    let lost = |second: u64| if second < 5 { GOOD } else { Look { limit: Some(250_000), ..GOOD } };
    assert_eq!(run(lost), (5, Step::Came(Err(Trouble::NotHeld))), "once it has held it must hold");
}

#[test]
fn what_yields_too_little_is_worse_than_anything_and_forbids_nothing() {
    use rigd::plan::tune::Goal;
    use rigd::units::{MicroPerKilowattHour, MicroPerTera};
    let Event::Measured(rate, power) = event(&Err(Trouble::TooLittle)) else { panic!("it is no trouble of the card") };
    let margin = Goal::Margin { value: MicroPerTera(1), energy: MicroPerKilowattHour(300_000) };
    assert_eq!(event(&Err(Trouble::MemoryNotHeld)), Event::Measured(rate, power));
    for goal in [Goal::PerJoule, margin] {
        assert!(goal.score(rate, power) < goal.score(MilliPerSecond(1), Milliwatts(500_000)), "{goal:?}");
    }
    assert_eq!(event(&Err(Trouble::Refused)), Event::Rejected);
    assert_eq!((event(&Err(Trouble::Xid)), event(&Err(Trouble::HeldLower))), (Event::Xid, Event::Heat));
}

#[test]
fn a_hole_begins_the_point_anew() {
    let (second, step) = run(|second| if second == 5 { Look { rate: None, ..GOOD } } else { GOOD });
    assert_eq!((second, step), (13, measured(60_000, 200_000, 0)));
}

#[test]
fn a_share_that_was_refused_before_is_no_trouble() {
    let bad = Look { accepted: 110, rejected: 3 + 1, ..GOOD };
    for (refused, expected) in [(0, Step::Came(Err(Trouble::Refused))), (200, Step::Settling)] {
        let normal = Normal { refused, ..NORMAL };
        assert_eq!(Watch::new(RULES, Limits::default(), normal, GOOD, 0).step(0, &bad), expected);
    }
}
