use rigd::board::Board;
use rigd::reading::{Health, Missing, Snapshot, Stage, Zone};
use rigd::wire::{Encoding, Header, Kind};

use rigd::units::{Duty, Milliamps, Millivolts};

use super::*;

fn fleet(rigs: &[&str]) -> (Fleet, Instant) {
    let board = Board::load("simulated-8gpu").unwrap();
    let now = rigd::clock::now();
    let mut fleet = Fleet::default();
    for name in rigs {
        let rig: RigId = name.parse().unwrap();
        let birth = Birth::new(rig.clone(), &board, Encoding::Postcard, 1000, 0);
        let power =
            |mw| rigd::reading::Power { voltage: Ok(Millivolts(12_015)), current: Ok(Milliamps(-1_250)), power: mw };
        let fan = rigd::reading::Fan { rpm: Ok(Rpm(2950)), duty: Ok(Duty::from_percent(49).unwrap()), fault: false };
        let snapshot = Snapshot {
            rails: [vec![power(Ok(Milliwatts(250_040))); 7], vec![power(Err(Missing::Bus))]].concat(),
            supplies: vec![[power(Ok(Milliwatts(2_100_000))), power(Ok(Milliwatts(1_950_000)))]],
            sensors: vec![Ok(Millicelsius(47_312)), Err(Missing::Stale), Ok(Millicelsius(-500))],
            fans: vec![fan; 6],
            zones: vec![Zone { duty: Ok(Duty::FULL), stage: Stage::Blind }],
            chips: vec![(Health::Failed(Missing::NotPresent), rigd::reading::Faults::NONE)],
            ..Snapshot::default()
        };
        let telemetry = Telemetry::new(birth.id, 0, 0, &snapshot, rigd::wire::Losses::default(), 0);
        fleet.take(rig.clone(), (Header::new(Kind::Birth, 1, 0), Message::Birth(birth)), now);
        fleet.take(rig, (Header::new(Kind::Telemetry, 1, 1), Message::Telemetry(telemetry)), now);
    }
    (fleet, now)
}

#[test]
fn one_rig_shows_every_reading_and_every_reason() {
    let (fleet, now) = fleet(&["rig-1"]);
    let text = draw(&fleet, "x", 200, 100, now);
    for expected in [
        "gpu0           12.015    -1.25    250.0",
        "psu1 in",
        "2100.0",
        "47.3",
        "stale",
        "-0.5",
        "2950",
        "49 %",
        "blind",
        "SIMULATED",
        "U20 lost: not present",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let rail = text.lines().find(|line| line.starts_with("gpu7")).unwrap();
    assert!(rail.contains("bus"), "{rail}");
}

#[test]
fn several_rigs_have_a_line_each_and_fit_the_screen() {
    let (fleet, now) = fleet(&["rig-1", "rig-2", "rig-3"]);
    let text = draw(&fleet, "x", 60, 5, now);
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().all(|line| line.chars().count() <= 60));
    let wide = draw(&fleet, "x", 200, 50, now);
    assert!(wide.contains("1750 W+"), "what is missing is said\n{wide}");
}

/// Each of these is shown where it is, and nothing where all is as it should be.
#[test]
fn what_else_is_worth_a_look_is_a_note() {
    use rigd::wire::{Difference, RefusedRevision};

    let (mut fleet, now) = fleet(&["rig-1", "rig-2"]);
    let name: RigId = "rig-1".parse().unwrap();
    let line = |fleet: &Fleet| {
        let text = draw(fleet, "x", 300, 50, now);
        text.lines().find(|line| line.starts_with("rig-1")).unwrap().to_owned()
    };
    assert!(line(&fleet).ends_with(" 0 s"), "{}", line(&fleet));
    let mut birth = fleet.rigs.get(&name).and_then(|rig| rig.birth.clone()).unwrap();
    (birth.nonce, birth.outbox.waiting) = (5, 12);
    fleet.take(name.clone(), (Header::new(Kind::Birth, 1, 0), Message::Birth(birth.clone())), now);
    assert!(line(&fleet).ends_with("0 s   clock not set, 12 waited"), "{}", line(&fleet));
    (birth.clock_set, birth.outbox.waiting) = (true, 0);
    fleet.take(name.clone(), (Header::new(Kind::Birth, 1, 0), Message::Birth(birth)), now);
    let text = String::new;
    let difference = Difference { what: text(), want: text(), have: text(), why: text() };
    let refused = RefusedRevision { revision: 8, reason: text() };
    for (reported, expected) in [
        (Reported::default(), " 0 s"),
        (Reported { reached: 7, accepted: 7, ..Reported::default() }, "revision 7"),
        (
            Reported { accepted: 7, differences: vec![difference], refused: Some(refused), ..Reported::default() },
            "revision 7: 1 differ, revision 8 REFUSED",
        ),
        (Reported { reached: 7, accepted: 7, stale_h: Some(80), ..Reported::default() }, "revision 7, signed 80 h ago"),
    ] {
        fleet.take(name.clone(), (Header::new(Kind::Reported, 1, 0), Message::Reported(reported)), now);
        assert!(line(&fleet).ends_with(expected), "{}", line(&fleet));
    }
    fleet.rigs.retain(|rig, _| *rig == name);
    let whole = draw(&fleet, "x", 200, 100, now);
    assert!(whole.contains("delivered to the broker, revision 7, signed 80 h ago"), "{whole}");
}

#[test]
fn no_rig_can_drive_the_terminal() {
    assert_eq!(harmless_lines("gpu\x1b[2J0\n"), "gpu\u{fffd}[2J0\n");
}

#[test]
fn thousandths_are_cut_to_decimals() {
    for (value, decimals, expected) in [(12_345, 3, "12.345"), (12_345, 1, "12.3"), (-950, 2, "-0.95"), (5, 1, "0.0")] {
        assert_eq!(milli(value, decimals), expected);
    }
}
