use proptest::prelude::*;

use super::zone::{curve, slew};
use super::*;
use crate::units::Rpm;

const BOARD: &str = r#"
name = "t"
revision = "a"
[bus.b]
socket = "b"
[chip.U1]
part = "max31790"
bus = "b"
addr = 0x20
[chip.U2]
part = "tmp75"
bus = "b"
addr = 0x48
[chip.U3]
part = "tmp75"
bus = "b"
addr = 0x49
[sensor.s1]
chip = "U2"
frozen_s = 60
max_k_per_s = 1000
[sensor.s2]
chip = "U3"
max_k_per_s = 1000
[fan.f1]
chip = "U1"
channel = 1
min_rpm = 500
max_rpm = 5000
start_pct = 20
[fan.f2]
chip = "U1"
channel = 2
min_rpm = 500
max_rpm = 5000
start_pct = 20
[zone.z]
sensors = ["s1", "s2"]
fans = ["f1", "f2"]
curve = [[30_000, 30], [50_000, 50], [60_000, 100]]
critical_mc = 70_000
hysteresis_mc = 2_000
slew_pct_per_s = 5
"#;

fn board() -> Board {
    Board::parse("t.toml", BOARD).unwrap()
}

fn percent(percent: u8) -> Duty {
    Duty::from_percent(percent).unwrap()
}

const TURNS: Fan = Fan { rpm: Ok(Rpm(2000)), duty: Ok(Duty::OFF), fault: false };

const STARTING_ZONE: Zone = Zone { duty: Err(Missing::NotPresent), stage: Stage::Starting };

fn inputs<'a>(now: Instant, sensors: &'a [Reading<Millicelsius>], fans: &'a [Fan]) -> Inputs<'a> {
    Inputs { now, sensors, fans, rails: &[], curves: &[], quiet: None, gpus: &[], request: None, power: None }
}

/// A rig that is stepped once a second.
struct Rig {
    board: Board,
    state: Option<State>,
    now: Instant,
    fans: [Fan; 2],
    quiet: Option<Duty>,
    request: Option<Request>,
}

impl Rig {
    /// Its fans found at this drive.
    fn found_at(duty: Duty) -> Self {
        let (board, now) = (board(), crate::clock::now());
        let state = Some(State::new(&board, now));
        let fans = [Fan { duty: Ok(duty), ..TURNS }; 2];
        Self { board, state, now, fans, quiet: None, request: None }
    }

    fn tick(&mut self, sensors: [Reading<Millicelsius>; 2]) -> Orders {
        self.now += Duration::from_secs(1);
        self.at_once(sensors)
    }

    fn at_once(&mut self, sensors: [Reading<Millicelsius>; 2]) -> Orders {
        let (quiet, request) = (self.quiet, self.request.take());
        let inputs = Inputs { quiet, request, ..inputs(self.now, &sensors, &self.fans) };
        let (state, orders) = step(&self.board, self.state.take().unwrap(), &inputs);
        self.state = Some(state);
        orders
    }

    fn zone(&mut self, sensors: [Reading<Millicelsius>; 2]) -> (Duty, Stage) {
        let zone = self.tick(sensors).zones[0];
        (zone.duty.unwrap(), zone.stage)
    }
}

fn at(celsius: i32) -> [Reading<Millicelsius>; 2] {
    [Ok(Millicelsius(celsius * 1000)), Ok(Millicelsius(25_000))]
}

#[test]
fn the_curve_is_straight_between_its_points() {
    let points = &board().zones[0].curve;
    for (millicelsius, hundredths) in [
        (-40_000, 3000),
        (30_000, 3000),
        (40_000, 4000),
        (50_000, 5000),
        (55_000, 7500),
        (60_000, 10_000),
        (99_000, 10_000),
    ] {
        let duty = curve(points, Millicelsius(millicelsius)).map(Duty::hundredths);
        assert_eq!(duty, Some(hundredths), "{millicelsius} m°C");
    }
}

#[test]
fn the_drive_moves_no_faster_than_the_slew_limit_from_where_it_was_found() {
    let mut rig = Rig::found_at(percent(40));
    assert_eq!(rig.zone(at(55)), (percent(45), Stage::Normal));
    assert_eq!(rig.zone(at(55)), (percent(50), Stage::Normal));
    assert_eq!(rig.zone(at(20)).0, percent(45), "and down again as slowly");
}

#[test]
fn the_slew_limit_gives_way_near_the_critical_temperature() {
    let mut rig = Rig::found_at(percent(30));
    assert_eq!(rig.zone(at(60)).0, percent(35), "10 °C below it as slowly as ever");
    assert_eq!(rig.zone(at(62)).0, percent(40));
    assert_eq!(rig.zone(at(63)).0, percent(60));
    assert_eq!(rig.zone(at(65)).0, Duty::FULL, "5 °C below it all that the curve asks for");
    assert_eq!(rig.zone(at(40)).0, percent(95), "down as slowly as ever");
}

#[test]
fn a_held_temperature_stops_no_fan_and_has_full_air_before_it_is_critical() {
    let mut rig = Rig::found_at(percent(30));
    let text = BOARD.replace("curve = [[30_000, 30], [50_000, 50], [60_000, 100]]", "target_mc = 55_000");
    rig.board = Board::parse("t.toml", &text).unwrap();
    let mut cold = Orders::default();
    for celsius in (20..40).cycle().take(600) {
        cold = rig.tick(at(celsius));
    }
    assert_eq!(cold.zones[0].duty, Ok(percent(20)), "what the fans need to turn");
    assert_eq!(cold.duties, [Some(percent(20)); 2]);
    assert_eq!(rig.zone(at(65)).0, Duty::FULL);
}

/// The same drive after the same time, however often it ticks.
#[test]
fn the_slew_limit_is_the_same_at_any_tick() {
    for per_s in [1, 5] {
        for millis in [7, 10, 33, 100, 1000] {
            let (mut duty, mut left, mut time) = (percent(30), Duration::ZERO, Duration::ZERO);
            while time < Duration::from_secs(4) {
                let step = Duration::from_millis(millis);
                (duty, left) = slew(duty, Duty::FULL, percent(per_s), left + step);
                time += step;
            }
            let expected = 3000.0 + f64::from(per_s) * 100.0 * time.as_secs_f64();
            assert!((f64::from(duty.hundredths()) - expected).abs() <= 1.0, "{per_s} %/s at {millis} ms: {duty}");
        }
    }
}

#[test]
fn a_restart_changes_nothing_until_it_has_read() {
    let mut rig = Rig::found_at(percent(35));
    assert_eq!(rig.at_once([Err(Missing::NotPresent); 2]).zones, [STARTING_ZONE]);
    assert_eq!(rig.at_once(at(35)).zones, [Zone { duty: Ok(percent(35)), stage: Stage::Normal }]);
}

#[test]
fn blind_means_full_air_at_once_for_every_reason_and_either_sensor() {
    for reason in [Missing::NotPresent, Missing::Off, Missing::Bus, Missing::Stale, Missing::Implausible] {
        for sensors in [[Err(reason), Ok(Millicelsius(20_000))], [Ok(Millicelsius(20_000)), Err(reason)]] {
            let mut rig = Rig::found_at(percent(30));
            assert_eq!(rig.zone(at(30)).1, Stage::Normal);
            assert_eq!(rig.zone(sensors), (Duty::FULL, Stage::Blind), "{reason}");
        }
    }
}

#[test]
fn a_zone_that_never_gets_a_reading_is_blind_after_its_grace() {
    let mut rig = Rig::found_at(percent(30));
    assert_eq!(rig.at_once([Err(Missing::NotPresent); 2]).zones, [STARTING_ZONE]);
    assert_eq!(rig.zone([Err(Missing::NotPresent); 2]), (Duty::FULL, Stage::Blind));
}

#[test]
fn implausible_and_frozen_sensors_are_not_believed() {
    let mut rig = Rig::found_at(percent(30));
    assert_eq!(rig.tick(at(200)).sensors[0], Err(Missing::Implausible));
    let moving = |i: i32| [Ok(Millicelsius(35_000)), Ok(Millicelsius(30_000 + i))];
    for second in 0..60 {
        assert_eq!(rig.tick(moving(second)).sensors[0], Ok(Millicelsius(35_000)), "after {second} s");
    }
    let orders = rig.tick(moving(60));
    assert_eq!((orders.sensors[0], orders.zones[0].stage), (Err(Missing::Stale), Stage::Blind));
    let moved = [Ok(Millicelsius(35_063)), Ok(Millicelsius(30_000))];
    assert_eq!(rig.tick(moved).sensors[0], Ok(Millicelsius(35_063)), "believed again as soon as it moves");
}

#[test]
fn critical_is_full_air_and_lets_go_behind_the_hysteresis() {
    let mut rig = Rig::found_at(percent(30));
    assert_eq!(rig.zone(at(70)), (Duty::FULL, Stage::Critical));
    assert_eq!(rig.zone(at(69)), (Duty::FULL, Stage::Critical));
    assert_eq!(rig.zone(at(67)).1, Stage::Normal);
}

#[test]
fn the_drive_falls_only_behind_the_hysteresis() {
    let mut rig = Rig::found_at(percent(40));
    let mut tick = |celsius| rig.tick([Ok(Millicelsius(celsius)), Ok(Millicelsius(25_000))]).zones[0].duty.unwrap();
    assert_eq!(tick(40_000), percent(40));
    assert_eq!(tick(38_500), percent(40), "1.5 °C cooler, 2 °C of hysteresis");
    assert_eq!(tick(37_000), percent(39));
}

#[test]
fn a_fan_that_stands_gives_the_others_full_air_after_its_spin_up() {
    for rpm in [Ok(Rpm(0)), Ok(Rpm(499)), Err(Missing::Bus)] {
        let mut rig = Rig::found_at(percent(40));
        assert_eq!(rig.zone(at(40)).1, Stage::Normal);
        rig.fans[1].rpm = rpm;
        for _ in 0..SPIN_UP.as_secs() {
            assert_eq!(rig.zone(at(40)).1, Stage::Normal, "{rpm:?} too early");
        }
        let orders = rig.tick(at(40));
        assert_eq!(orders.zones[0], Zone { duty: Ok(Duty::FULL), stage: Stage::FanFailed }, "{rpm:?}");
        assert_eq!(orders.fans.iter().map(|fan| fan.stands).collect::<Vec<_>>(), [false, true]);
        rig.fans[1].rpm = Ok(Rpm(1500));
        assert_eq!(rig.zone(at(40)).1, Stage::Normal, "it turns again");
    }
}

#[test]
fn a_sensor_with_a_limit_of_its_own_counts_by_its_distance_from_it() {
    let text = BOARD.replace("[sensor.s2]\n", "[sensor.s2]\ncritical_mc = 95_000\n");
    let mut rig = Rig::found_at(percent(30));
    rig.board = Board::parse("t.toml", &text).unwrap();
    let both = |a: i32, b: i32| [Ok(Millicelsius(a * 1000)), Ok(Millicelsius(b * 1000))];
    assert_eq!(rig.zone(both(30, 75)), (percent(35), Stage::Normal), "as near to its end as the other one at 50");
    assert_eq!(rig.zone(both(30, 95)), (Duty::FULL, Stage::Critical));
    assert_eq!(rig.zone(both(30, 60)).1, Stage::Normal);
    assert_eq!(rig.zone(both(70, 60)), (Duty::FULL, Stage::Critical));
}

#[test]
fn the_others_make_up_for_as_many_fans_as_the_board_spares() {
    let mut rig = Rig::found_at(percent(40));
    rig.board =
        Board::parse("t.toml", &BOARD.replace("slew_pct_per_s = 5", "slew_pct_per_s = 100\nspare_fans = 1")).unwrap();
    assert_eq!(rig.zone(at(40)), (percent(40), Stage::Normal));
    rig.fans[1].rpm = Ok(Rpm(0));
    for _ in 0..SPIN_UP.as_secs() {
        assert_eq!(rig.zone(at(40)).1, Stage::Normal);
    }
    assert_eq!(rig.zone(at(40)), (percent(80), Stage::FanMadeUp), "half the fans, twice the drive");
    rig.fans[0].rpm = Err(Missing::Bus);
    for _ in 0..SPIN_UP.as_secs() {
        assert_eq!(rig.zone(at(40)).1, Stage::FanMadeUp);
    }
    assert_eq!(rig.zone(at(40)), (Duty::FULL, Stage::FanFailed));
}

#[test]
fn quiet_hours_hold_the_drive_down_and_nothing_safe() {
    let mut rig = Rig::found_at(percent(40));
    rig.quiet = Some(percent(40));
    assert_eq!(rig.zone(at(35)), (percent(35), Stage::Normal));
    assert_eq!(rig.zone(at(50)), (percent(40), Stage::Quiet));
    assert_eq!(rig.zone([Err(Missing::Bus), Ok(Millicelsius(20_000))]), (Duty::FULL, Stage::Blind));
    assert_eq!(rig.zone(at(70)), (Duty::FULL, Stage::Critical));
}

/// Both fans turn from 20 % on and start at 26 %; their speed follows the drive at once.
#[test]
fn a_calibration_measures_each_fan_and_gives_the_zone_back() {
    let mut rig = Rig::found_at(percent(40));
    assert_eq!(rig.zone(at(40)), (percent(40), Stage::Normal));
    rig.request = Some(Request::Calibrate(0));
    let (mut learnt, mut points, mut done, mut turning) = (Vec::new(), 0, false, [true; 2]);
    for second in 0..400 {
        let orders = rig.tick(at(40 + second % 2));
        let duties: Vec<Duty> = orders.duties.iter().map(|duty| duty.unwrap()).collect();
        if !done && !orders.reports.contains(&Report::Done) {
            assert_eq!(orders.zones[0].stage, Stage::Calibrating, "second {second}");
            assert!(duties.contains(&Duty::FULL), "one is measured, the other has full air");
        }
        for (i, duty) in duties.iter().enumerate() {
            turning[i] = *duty >= percent(26) || (turning[i] && *duty >= percent(20));
            rig.fans[i].rpm = Ok(Rpm(if turning[i] { duty.hundredths() / 2 } else { 0 }));
        }
        for report in orders.reports {
            match report {
                Report::Point { .. } => points += 1,
                Report::Learnt { fan, curve } => learnt.push((fan, curve)),
                Report::Done => done = true,
                Report::Stopped(why) => panic!("stopped: {why}"),
            }
        }
        if done {
            break;
        }
    }
    assert!(done && points == 20, "{points} points");
    for (i, (fan, curve)) in learnt.iter().enumerate() {
        assert_eq!((*fan, curve.min, curve.start), (i, percent(20), percent(30)));
        assert!(curve.is_sound());
        assert_eq!(curve.expected(percent(85)), Some(Rpm(4_250)));
    }
    assert_eq!(learnt.len(), 2);
    assert_eq!(rig.zone(at(40)).1, Stage::Normal);
}

/// A fan that turns until it is stopped and never again must not keep its zone in calibration for ever.
#[test]
fn a_fan_that_does_not_start_again_ends_the_calibration() {
    let mut rig = Rig::found_at(percent(40));
    assert_eq!(rig.zone(at(40)).1, Stage::Normal);
    rig.request = Some(Request::Calibrate(0));
    let mut stopped = false;
    for second in 0..600 {
        let orders = rig.tick(at(40 + second % 2));
        stopped |= orders.duties.first() == Some(&Some(Duty::OFF));
        rig.fans[0].rpm = Ok(Rpm(if stopped { 0 } else { 2_000 }));
        if orders.reports.contains(&Report::Stopped(Stopped::NeverTurns)) {
            return;
        }
    }
    panic!("it never ended");
}

#[test]
fn after_a_calibration_the_drive_falls_no_faster_than_the_slew_limit() {
    let mut rig = Rig::found_at(percent(40));
    assert_eq!(rig.zone(at(40)), (percent(40), Stage::Normal));
    rig.request = Some(Request::Calibrate(0));
    for _ in 0..20 {
        assert_eq!(rig.zone(at(32)).1, Stage::Calibrating);
    }
    rig.request = Some(Request::StopCalibration);
    assert_eq!(rig.zone(at(32)), (percent(95), Stage::Normal));
}

#[test]
fn a_fan_without_a_tachometer_is_left_out_of_a_calibration() {
    let text = BOARD.replace("channel = 1\nmin_rpm = 500\nmax_rpm = 5000\n", "channel = 1\ntachometer = false\n");
    let mut rig = Rig::found_at(percent(40));
    rig.board = Board::parse("t.toml", &text).unwrap();
    assert_eq!(rig.zone(at(40)).1, Stage::Normal);
    rig.request = Some(Request::Calibrate(0));
    assert_eq!(rig.tick(at(40)).measured, Some(1));
}

#[test]
fn dead_fans_are_made_up_for_at_any_hour() {
    let mut rig = Rig::found_at(percent(40));
    let text = BOARD.replace("slew_pct_per_s = 5", "slew_pct_per_s = 100\nspare_fans = 1");
    rig.board = Board::parse("t.toml", &text).unwrap();
    rig.quiet = Some(percent(40));
    assert_eq!(rig.zone(at(45)), (percent(40), Stage::Quiet));
    rig.fans[1].rpm = Ok(Rpm(0));
    for _ in 0..SPIN_UP.as_secs() {
        assert_eq!(rig.zone(at(45)).1, Stage::Quiet);
    }
    assert_eq!(rig.zone(at(45)), (percent(90), Stage::FanMadeUp));
}

#[test]
fn a_calibration_ends_as_soon_as_the_zone_needs_its_air() {
    let hot = [Ok(Millicelsius(61_000)), Ok(Millicelsius(25_000))];
    let blind = [Err(Missing::Bus), Ok(Millicelsius(25_000))];
    for (what, sensors, stage) in [("hot", hot, Stage::Normal), ("blind", blind, Stage::Blind)] {
        let mut rig = Rig::found_at(percent(40));
        assert_eq!(rig.zone(at(40)).1, Stage::Normal);
        rig.request = Some(Request::Calibrate(0));
        assert_eq!(rig.zone(at(40)).1, Stage::Calibrating);
        let orders = rig.tick(sensors);
        assert_eq!(orders.reports, [Report::Stopped(Stopped::Unsafe)], "{what}");
        assert_eq!(orders.zones[0].stage, stage, "{what}");
    }
    let mut rig = Rig::found_at(percent(40));
    for (request, why) in [(Request::Calibrate(7), Stopped::Refused), (Request::Calibrate(0), Stopped::Unsafe)] {
        rig.request = Some(request);
        assert_eq!(rig.tick(hot).reports, [Report::Stopped(why)], "{request:?} refused from the start");
    }
    rig = Rig::found_at(percent(40));
    assert_eq!(rig.zone(at(40)).1, Stage::Normal);
    rig.request = Some(Request::Calibrate(0));
    assert_eq!(rig.zone(at(40)).1, Stage::Calibrating);
    rig.request = Some(Request::StopCalibration);
    assert_eq!(rig.tick(at(40)).reports, [Report::Stopped(Stopped::Asked)]);
}

prop_compose! {
    fn any_reading()(value in -60_000..160_000i32, kind in 0..8u8) -> Reading<Millicelsius> {
        match kind {
            0 => Err(Missing::Bus),
            1 => Err(Missing::Stale),
            _ => Ok(Millicelsius(value)),
        }
    }
}

prop_compose! {
    fn any_fan()(rpm in 0..6000u16, duty in 0..=10_000u32, kind in 0..6u8) -> Fan {
        match kind {
            0 => Fan::missing(Missing::Bus),
            _ => Fan { rpm: Ok(Rpm(rpm)), duty: Ok(Duty::saturating(duty)), fault: false },
        }
    }
}

proptest! {
    /// Law 4, over any history: as soon as an input of the zone is missing it has full air.
    #[test]
    fn missing_input_is_full_air_whatever_came_before(
        history in prop::collection::vec(([any_reading(), any_reading()], [any_fan(), any_fan()], 0..5000u64), 1..40),
    ) {
        let board = board();
        let mut now = crate::clock::now();
        let mut state = State::new(&board, now);
        now += STARTING;
        for (sensors, fans, millis) in history {
            now += Duration::from_millis(millis);
            let (next, orders) = step(&board, state, &inputs(now, &sensors, &fans));
            state = next;
            let zone = orders.zones[0];
            let blind = orders.sensors.iter().any(Result::is_err);
            prop_assert_eq!(blind, zone.stage == Stage::Blind);
            let hot = orders.sensors.iter().flatten().any(|t| *t >= board.zones[0].critical);
            prop_assert!(!(blind || hot) || zone.duty == Ok(Duty::FULL));
        }
    }

    /// From the same state, hotter never gives less air.
    #[test]
    fn hotter_never_gives_less_air(
        history in prop::collection::vec(20_000..75_000i32, 0..20), base in 20_000..75_000i32, more in 0..30_000i32,
        duty in 0..=10_000u32,
    ) {
        let board = board();
        let fans = [Fan { duty: Ok(Duty::saturating(duty)), ..TURNS }; 2];
        let mut now = crate::clock::now();
        let mut state = State::new(&board, now);
        for celsius in history {
            now += Duration::from_secs(1);
            let sensors = [Ok(Millicelsius(celsius)), Ok(Millicelsius(20_000))];
            state = step(&board, state, &inputs(now, &sensors, &fans)).0;
        }
        now += Duration::from_secs(1);
        let air = |celsius: i32| {
            let sensors = [Ok(Millicelsius(celsius)), Ok(Millicelsius(20_000))];
            step(&board, state.clone(), &inputs(now, &sensors, &fans)).1.zones[0].duty.unwrap()
        };
        prop_assert!(air(base + more) >= air(base));
    }
}
