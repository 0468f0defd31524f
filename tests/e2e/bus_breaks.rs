//! Chips and buses that fail: each takes down itself alone.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rigd::alarm::Kind::{ChipLost, FanStands, ZoneBlind};
use rigd::reading::{Missing, Reading, Stage};
use rigd::units::Duty;
use rigd::wire::{Message, Telemetry};
use rigd_sim::{Fault, Kind};

use crate::agent::{Agent, Setup, board_with};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

struct World {
    agent: Agent,
    subscriber: Subscriber,
    _broker: Broker,
}

fn world(setup: Setup) -> World {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, setup);
    World { agent, subscriber, _broker: broker }
}

fn well(telemetry: &Telemetry) -> bool {
    let rails = telemetry.rails.iter().all(|rail| rail.mv.0.is_ok() && rail.ma.0.is_ok() && rail.mw.0.is_ok());
    let air =
        telemetry.sensors.iter().all(|sensor| sensor.0.is_ok()) && telemetry.fans.iter().all(|fan| fan.rpm.0.is_ok());
    rails && air && telemetry.troubles.is_empty() && telemetry.zones.iter().all(|zone| zone.stage == Stage::Normal)
}

fn rail(telemetry: &Telemetry, index: usize) -> Reading<()> {
    telemetry.rails[index].mv.0.map(drop)
}

/// A zone that is only starting has no drive: taken as none at all.
fn stage(telemetry: &Telemetry) -> (Stage, Duty) {
    (telemetry.zones[0].stage, telemetry.zones[0].duty.0.unwrap_or(Duty::OFF))
}

#[test]
fn nothing_broken_every_reading_is_the_worlds() {
    let world = world(Setup::default());
    let telemetry = world.subscriber.telemetry("all is well", well);
    assert_eq!((telemetry.rails.len(), telemetry.fans.len(), telemetry.supplies.len()), (8, 6, 1));
    let birth = world.subscriber.wait("a birth", |heard| {
        heard.iter().find_map(|one| {
            if let Message::Birth(birth) = &one.message { Some((one.clone(), birth.clone())) } else { None }
        })
    });
    assert_eq!((birth.1.id, birth.1.simulated, birth.0.topic.as_str()), (telemetry.birth, true, "r1/rig-1/up/birth"));
    assert_eq!(birth.0.content_type.as_deref(), Some("application/vnd.rigd.v1+postcard"));
    // What the rails draw together is what the supply gives them, within its overhead.
    let rails: u32 = telemetry.rails.iter().map(|rail| rail.mw.0.unwrap().0).sum();
    let output = telemetry.supplies[0].output.mw.0.unwrap().0;
    let input = telemetry.supplies[0].input.mw.0.unwrap().0;
    assert!(rails < output && output < input, "rails {rails} mW, output {output} mW, input {input} mW");
}

#[test]
fn a_chip_that_does_not_acknowledge_loses_its_own_rail_and_comes_back() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.fault(Fault::chip("main", 0x42, Kind::Nack)).unwrap();
    let telemetry = world.subscriber.telemetry("rail 2 is missing", |t| rail(t, 2).is_err());
    assert_eq!(rail(&telemetry, 2), Err(Missing::NotPresent));
    assert!((0..8).filter(|i| *i != 2).all(|i| rail(&telemetry, i).is_ok()));
    assert_eq!(stage(&telemetry).0, Stage::Normal);
    world.subscriber.event(ChipLost, "U12", true);
    world.agent.logged("U12 (ina226 at 0x42 on main): no acknowledge");
    world.agent.sim.clear().unwrap();
    world.subscriber.telemetry("it is back", well);
    world.subscriber.event(ChipLost, "U12", false);
    world.agent.logged("U12 (ina226 at 0x42 on main): answers again");
}

#[test]
fn another_part_than_the_board_says_is_not_believed() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), Setup::default());
    agent.sim.fault(Fault::chip("main", 0x40, Kind::WrongId)).unwrap();
    agent.run();
    let telemetry = subscriber.telemetry("the others are read", |t| rail(t, 1).is_ok());
    assert_eq!(rail(&telemetry, 0), Err(Missing::NotPresent));
    agent.logged("U10 (ina226 at 0x40 on main): register 0xff reads 0x3220");
}

#[test]
fn noise_from_a_sensor_that_is_in_no_zone_disturbs_no_fan() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.fault(Fault::chip("air", 0x48, Kind::WrongBytes)).unwrap();
    let noisy = |t: &Telemetry| t.sensors[2].0 == Err(Missing::Implausible) || t.sensors[2].0.is_err();
    let telemetry = world.subscriber.telemetry("noise is not believed", noisy);
    assert_eq!(stage(&telemetry).0, Stage::Normal);
    assert!(telemetry.sensors[0].0.is_ok() && telemetry.sensors[1].0.is_ok());
}

#[test]
fn a_stuck_bus_stops_that_bus_only() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.fault(Fault::bus("main", Kind::Stuck)).unwrap();
    let telemetry =
        world.subscriber.telemetry("every rail is missing", |t| t.rails.iter().all(|rail| rail.mv.0.is_err()));
    assert_eq!(stage(&telemetry).0, Stage::Normal, "the air has a bus of its own");
    // Fans go on being driven: a rig that gets hotter gets more air while the other bus hangs.
    let before = stage(&telemetry).1;
    world.agent.sim.control("set gpu all load 1.0").unwrap();
    world.agent.sim.control("set ambient 45000").unwrap();
    world.agent.sim.control("set speed 60").unwrap();
    world.subscriber.telemetry("more air", |t| stage(t).1 > before && t.rails.iter().all(|rail| rail.mv.0.is_err()));
    world.agent.sim.control("set speed 1").unwrap();
    world.agent.sim.clear().unwrap();
    world.subscriber.telemetry("rails are back", |t| t.rails.iter().all(|rail| rail.mv.0.is_ok()));
}

#[test]
fn a_stuck_fan_bus_is_blind_and_the_chips_own_watchdog_gives_full_air() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.fans("fans are slowed", |percent| percent < 100);
    world.agent.sim.fault(Fault::bus("air", Kind::Stuck)).unwrap();
    let telemetry = world.subscriber.telemetry("blind", |t| stage(t).0 == Stage::Blind);
    assert_eq!(stage(&telemetry).1, Duty::FULL);
    assert!(telemetry.rails.iter().all(|rail| rail.mv.0.is_ok()), "the rails have a bus of their own");
    world.subscriber.event(ZoneBlind, "cards", true);
    // No order reaches the fan controller; its watchdog does.
    world.agent.fans("full air by the chip's watchdog", |percent| percent == 100);
    world.agent.sim.clear().unwrap();
    world.subscriber.telemetry("sees again", |t| stage(t).0 == Stage::Normal);
}

#[test]
fn a_bus_that_disappears_comes_back() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.fault(Fault::bus("main", Kind::BusGone)).unwrap();
    let gone = |t: &Telemetry| (0..8).all(|i| rail(t, i) == Err(Missing::Bus));
    let telemetry = world.subscriber.telemetry("rails are gone", gone);
    assert_eq!(stage(&telemetry).0, Stage::Normal);
    world.agent.sim.clear().unwrap();
    world.subscriber.telemetry("rails are back", well);
}

#[test]
fn an_adapter_that_this_machine_has_not_got_leaves_the_rest_working() {
    let board = board_with(
        "[bus.main]                    # power monitors and the supply\nsocket = \"main\"",
        "[bus.main]\nadapter = \"i2c-none\"",
    );
    let world = world(Setup { board, ..Setup::default() });
    let telemetry = world.subscriber.telemetry("the air is read", |t| stage(t).0 == Stage::Normal);
    assert!((0..8).all(|i| rail(&telemetry, i) == Err(Missing::Bus)));
    world.agent.logged("there is no adapter `i2c-none`");
    assert_eq!(world.agent.log().matches("U10 (").count(), 1, "one line per episode, not per attempt");
}

#[test]
fn a_frozen_sensor_is_stale_and_its_zone_blind() {
    let board = board_with(
        "[sensor.exhaust1]\nchip = \"U31\"\nfrozen_s = 120",
        "[sensor.exhaust1]\nchip = \"U31\"\nfrozen_s = 2",
    );
    let world = world(Setup { board, speed: 30.0, ..Setup::default() });
    world.subscriber.telemetry("normal", |t| stage(t).0 == Stage::Normal);
    world.agent.sim.fault(Fault::chip("air", 0x49, Kind::Frozen)).unwrap();
    let telemetry = world.subscriber.telemetry("stale and blind", |t| t.sensors[0].0 == Err(Missing::Stale));
    assert_eq!(stage(&telemetry), (Stage::Blind, Duty::FULL));
    world.agent.fans("full air", |percent| percent == 100);
}

#[test]
fn a_seized_fan_gives_its_zone_full_air() {
    let world = world(Setup { speed: 10.0, ..Setup::default() });
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.fault(Fault::fan_seized("fan3")).unwrap();
    world.subscriber.event(FanStands, "fan3", true);
    let telemetry = world.subscriber.telemetry("full air", |t| stage(t) == (Stage::FanFailed, Duty::FULL));
    assert_eq!(telemetry.fans[2].rpm.0.map(|rpm| rpm.0), Ok(0), "measured and standing, not missing");
    world.agent.fans("full air", |percent| percent == 100);
    world.agent.sim.clear().unwrap();
    world.subscriber.event(FanStands, "fan3", false);
}

#[test]
fn a_slow_bus_is_slow_alone() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.control("fault main slow 30ms").unwrap();
    // Nine chips at several transfers of 30 ms each take over a second: the air must not wait for them.
    let first = world.subscriber.telemetry("a sample", |_| true);
    let later = world.subscriber.telemetry("two seconds on", |t| t.uptime_ms > first.uptime_ms + 2_000);
    assert_eq!(stage(&later).0, Stage::Normal);
}

/// Law 5: somebody else on the bus changes a setting; it is noticed, repaired and counted.
#[test]
fn a_drive_that_was_changed_behind_our_back_is_repaired() {
    let world = world(Setup::default());
    let before = world.subscriber.telemetry("all is well", well);
    let mut other_master = UnixStream::connect(world.agent.sim.dir().join("air")).unwrap();
    let repaired = (0..50).any(|_| {
        // PWMOUT target of the first fan to zero: address, one operation, a write of three bytes.
        other_master.write_all(&[0x20, 1, 0, 3, 0, 0x40, 0, 0]).unwrap();
        let mut status = [0xff];
        other_master.read_exact(&mut status).unwrap();
        assert_eq!(status, [0]);
        // One that falls between the agent's reading and its next order is simply written over; the next is not.
        let now = world.subscriber.telemetry("a sample", |_| true);
        let later = world.subscriber.telemetry("two ticks on", |t| t.uptime_ms > now.uptime_ms + 150);
        later.repairs > before.repairs
    });
    assert!(repaired);
    world.agent.fans("every fan is driven again", |percent| percent > 20);
    world.agent.logged("set again");
}

/// Out for less than a pass or two: its tachometers are off and its watchdog is not armed until it is set up anew.
#[test]
fn a_fan_controller_that_was_reset_for_a_moment_is_not_taken_for_standing_fans() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.fault(Fault::chip("air", 0x20, Kind::Gone)).unwrap();
    world.agent.sim.clear().unwrap();
    let start = world.subscriber.telemetry("a sample", |_| true).uptime_ms;
    let spin_up = 6_000;
    let later = world.subscriber.telemetry("longer than a spin-up later", |t| t.uptime_ms > start + spin_up);
    assert!(well(&later), "{later:?}");
    assert!(later.fans.iter().all(|fan| fan.rpm.0.is_ok_and(|rpm| rpm.0 > 500)));
}

#[test]
fn a_fan_controller_that_lost_power_is_set_up_anew() {
    let world = world(Setup::default());
    world.subscriber.telemetry("all is well", well);
    world.agent.sim.fault(Fault::chip("air", 0x20, Kind::Gone)).unwrap();
    world.subscriber.telemetry("no fan is read", |t| t.fans.iter().all(|fan| fan.rpm.0.is_err()));
    world.subscriber.event(ChipLost, "U20", true);
    world.agent.sim.clear().unwrap();
    world.subscriber.telemetry("all is well again", well);
    world.agent.fans("and driven", |percent| (20..100).contains(&percent));
}
