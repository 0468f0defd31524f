//! GPUs and their driver that fail: each takes down itself alone, settings come back, and no fan stays in nobody's hands.
//!
//! Real: the agent, `rigd-nvml`, the wrapper around NVIDIA's library, the broker. Simulated: the library and the cards.

use std::fs;
use std::path::PathBuf;

use rigd::alarm::{Cause, Kind};
use rigd::gpu::helper::{DEADLINE, Helper, Launch, Program, START};
use rigd::gpu::wire::{Answer, Request, Setting};
use rigd::gpu::{Driver, Phase, Presence, Verdict};
use rigd::reading::Stage;
use rigd::units::{Megahertz, Milliwatts};
use rigd::wire::{Event, Message, Telemetry};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, Setup, until};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

/// What most tests here set: less power and a locked clock, fans by hand.
const PROFILE: &str = "[gpu]\nlibrary = \"LIBRARY\"\nprofile = \"eco\"\nprobation_s = 10\n\
    [profile.eco]\npower_limit_w = 200\ncore_lock_mhz = [210, 1200]\nfan_pct = 60\n";

/// The simulated library: what tests depend on is left among the dependencies, not beside the programs.
pub(crate) fn library() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_rigd")).with_file_name("deps/librigd_fake_nvml.so")
}

pub(crate) fn setup() -> Setup {
    Setup { broker: PROFILE.replace("LIBRARY", library().to_str().unwrap()), ..Setup::default() }
}

pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) subscriber: Subscriber,
    pub(crate) _broker: Broker,
}

pub(crate) fn world(setup: Setup) -> World {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, setup);
    World { agent, subscriber, _broker: broker }
}

impl World {
    pub(crate) fn say(&self, line: &str) -> String {
        self.agent.sim.control(line).unwrap_or_else(|error| panic!("{line}: {error:#}"))
    }

    /// What is true of a GPU, whatever the library says.
    pub(crate) fn truth(&self, gpu: usize, what: &str) -> i64 {
        let world = self.say("get world");
        let key = format!("gpu.{gpu}.{what}=");
        let value =
            world.lines().find_map(|line| line.strip_prefix(&key)).unwrap_or_else(|| panic!("{key} in {world}"));
        // `manual` is a list with a word for each fan.
        value.parse().unwrap_or_else(|_| i64::from(value.contains("true")))
    }

    pub(crate) fn event(&self, what: &str, good: impl Fn(&Event) -> bool) {
        self.subscriber.wait(what, |heard| {
            heard.iter().find(|one| matches!(&one.message, Message::Event(event) if good(event))).map(drop)
        });
    }

    /// The helper's process.
    pub(crate) fn helper(&self) -> Option<Pid> {
        helper(self.agent.pid())
    }

    /// Another client of the driver: a miner, or a person.
    fn somebody_else(&self) -> Helper {
        let launch = Launch {
            program: Program::Run(env!("CARGO_BIN_EXE_rigd-nvml").into()),
            library: Some(library()),
            simulation: Some(self.agent.sim.dir().to_owned()),
            start: START,
            deadline: DEADLINE,
        };
        Helper::start(&launch).map_err(|(failure, _)| failure).unwrap()
    }

    /// What must hold whatever broke: chips, rails and frame fans are read and driven as if there were no GPU.
    fn air_goes_on(&self) {
        self.subscriber.telemetry("rails, sensors and frame fans go on", |telemetry| {
            telemetry.rails.iter().all(|rail| rail.mw.0.is_ok())
                && telemetry.sensors.iter().all(|sensor| sensor.0.is_ok())
                && telemetry.zones.iter().all(|zone| zone.stage == Stage::Normal)
                && telemetry.tick_late_us < 100_000
        });
    }
}

/// The process of an agent's helper: its only child.
pub(crate) fn helper(agent: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap_or_default();
    let others = fs::read_dir(format!("/proc/{agent}/task"))
        .ok()?
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let all = others.chain([children]).collect::<Vec<_>>().join(" ");
    let pids = all.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
    pids.filter(|pid| {
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        name.is_ok_and(|name| name.starts_with("rigd-nvml"))
    })
    .max_by_key(|pid| pid.as_raw_nonzero())
}

pub(crate) fn set(telemetry: &Telemetry) -> bool {
    telemetry.driver == Driver::Up
        && telemetry.gpus.len() == 8
        && telemetry.gpus.iter().all(|gpu| {
            gpu.presence == Presence::Seen
                && matches!(gpu.profile, Phase::Probation | Phase::Committed)
                && gpu.sm_mhz.0.is_ok_and(|clock| clock <= Megahertz(1_200))
        })
}

#[test]
fn a_profile_changes_clocks_watts_and_the_supplys_current() {
    let world = world(Setup { broker: String::new(), ..setup() });
    world.say("set gpu all load 1.0");
    let before = world.subscriber.telemetry("full load without a profile", |telemetry| {
        telemetry.supplies[0].output.mw.0.is_ok_and(|power| power > Milliwatts(2_600_000))
    });
    assert!(before.gpus.is_empty() && before.driver == Driver::None, "without a library there are no GPUs");
    drop(world);
    let world = self::world(setup());
    world.say("set gpu all load 1.0");
    let after = world.subscriber.telemetry("the profile holds the supply down", |telemetry| {
        set(telemetry)
            && telemetry.supplies[0].output.mw.0.is_ok_and(|power| power < Milliwatts(2_000_000))
            && telemetry.gpus.iter().all(|gpu| gpu.power.0.is_ok_and(|power| power <= Milliwatts(205_000)))
    });
    let rails = |telemetry: &Telemetry| telemetry.rails.iter().map(|rail| i64::from(rail.ma.0.unwrap().0)).sum::<i64>();
    assert!(rails(&after) * 10 < rails(&before) * 8, "amperes follow: {} mA, {} mA", rails(&before), rails(&after));
    // Its fans follow the profile a tick after its limit does.
    until("limit and fans", || (world.truth(0, "limit_mw") == 200_000 && world.truth(0, "manual") == 1).then_some(()));
    let birth = world.subscriber.wait("a birth with GPUs", |heard| {
        heard.iter().rev().find_map(|one| {
            let Message::Birth(birth) = &one.message else { return None };
            (birth.gpus.len() == 8 && birth.gpus.iter().all(|gpu| !gpu.uuid.is_empty())).then(|| birth.clone())
        })
    });
    assert_eq!(birth.gpus[3].pci, "0000:04:00.0");
    assert!(birth.driver.is_some_and(|driver| driver.contains("simulated")), "no fake passes for a real driver");
}

#[test]
fn a_clean_stop_gives_everything_back() {
    let mut world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    world.agent.signal(Signal::TERM);
    assert!(world.agent.ended().success());
    for gpu in 0..8 {
        assert_eq!((world.truth(gpu, "manual"), world.truth(gpu, "limit_mw") > 200_000), (0, true), "GPU {gpu}");
    }
}

#[test]
fn an_agent_that_is_killed_leaves_no_fan_by_hand() {
    let mut world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    until("the fans are driven", || (world.truth(0, "manual") == 1).then_some(()));
    world.agent.signal(Signal::KILL);
    let _ = world.agent.ended();
    until("the fans are the driver's again", || (0..8).all(|gpu| world.truth(gpu, "manual") == 0).then_some(()));
}

#[test]
fn a_helper_that_is_killed_comes_back_and_settings_with_it() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    let first = until("the helper runs", || world.helper());
    kill_process(first, Signal::KILL).unwrap();
    let second = until("another one", || world.helper().filter(|pid| *pid != first));
    world.air_goes_on();
    world.subscriber.telemetry("all is set again", set);
    until("fans are driven again", || (0..8).all(|gpu| world.truth(gpu, "manual") == 1).then_some(()));
    assert_ne!(first, second);
}

#[test]
fn a_helper_that_is_stopped_is_given_up() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    let first = until("the helper runs", || world.helper());
    kill_process(first, Signal::STOP).unwrap();
    world.air_goes_on();
    world.subscriber.telemetry("readings of GPUs are missing, not old", |telemetry| {
        telemetry.gpus.iter().all(|gpu| gpu.temperature.0.is_err())
    });
    until("another one", || world.helper().filter(|pid| *pid != first));
    world.subscriber.telemetry("all is set again", set);
}

#[test]
fn a_call_that_hangs_costs_one_gpu_and_not_its_neighbours() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    world.say("fault gpu 3 GetUtilizationRates hang");
    world.air_goes_on();
    world.subscriber.event(Kind::GpuLost, "0000:04:00.0", true);
    world.subscriber.telemetry("the others go on", |telemetry| {
        telemetry.gpus[3].presence == Presence::Hung
            && telemetry.gpus.iter().enumerate().all(|(i, gpu)| i == 3 || gpu.temperature.0.is_ok())
    });
}

#[test]
fn a_crash_in_the_library_is_a_new_helper() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    let first = until("the helper runs", || world.helper());
    world.say("fault gpu 1 GetUtilizationRates segv");
    until("another one", || world.helper().filter(|pid| *pid != first));
    world.say("clear gpu 1");
    world.air_goes_on();
    world.subscriber.telemetry("all is set again", set);
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_lost_alone_with_an_xid_and_without() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    world.say("gpu 2 xid 79");
    world.say("gpu 5 fall");
    for name in ["0000:03:00.0", "0000:06:00.0"] {
        world.subscriber.event(Kind::GpuLost, name, true);
    }
    world.event("the Xid with what it asks for", |event| {
        event.name == "0000:03:00.0" && matches!(event.cause, Some(Cause::Xid { code: 79, .. }))
    });
    world.air_goes_on();
    world.subscriber.telemetry("the others go on", |telemetry| {
        let lost = |i: usize| telemetry.gpus[i].presence == Presence::Lost && telemetry.gpus[i].temperature.0.is_err();
        lost(2) && lost(5) && (0..8).all(|i| i == 2 || i == 5 || telemetry.gpus[i].temperature.0.is_ok())
    });
}

#[test]
fn what_somebody_else_changes_is_told_and_repaired() {
    let world = world(Setup { tick_hz: 10, ..setup() });
    world.subscriber.telemetry("the profile is set", set);
    world
        .subscriber
        .telemetry("and kept", |telemetry| telemetry.gpus.iter().all(|gpu| gpu.profile == Phase::Committed));
    let mut other = world.somebody_else();
    let limit = Setting::PowerLimit(Milliwatts(330_000));
    let set = other.call(Request::Set("0000:05:00.0".parse().unwrap(), limit)).unwrap();
    assert_eq!(set, Answer::Set(Ok(())));
    world.event("the drift, with both values", |event| {
        event.alarm == Kind::GpuDrift
            && event.name == "0000:05:00.0"
            && matches!(event.cause, Some(Cause::Drift { wanted: 200_000, found: 330_000, .. }))
    });
    until("the limit is back", || (world.truth(4, "limit_mw") == 200_000).then_some(()));
}

#[test]
fn settings_that_a_driver_reload_lost_are_made_again() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    world.say("driver reload");
    until("all limits are back", || (0..8).all(|gpu| world.truth(gpu, "limit_mw") == 200_000).then_some(()));
    world.subscriber.telemetry("all is set again", set);
}

#[test]
fn a_setting_that_is_taken_and_not_made_puts_the_profile_into_quarantine_on_that_gpu_alone() {
    let world = world(Setup { broker: String::new(), ..setup() });
    drop(world);
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), setup());
    agent.sim.control("fault gpu 6 SetPowerManagementLimit ignored").unwrap();
    agent.run();
    let world = World { agent, subscriber, _broker: broker };
    world.event("the quarantine", |event| {
        event.name == "0000:07:00.0" && matches!(event.cause, Some(Cause::Profile(Verdict::NotHeld(_))))
    });
    world.subscriber.telemetry("the others keep it", |telemetry| {
        telemetry.gpus.iter().enumerate().all(|(i, gpu)| (i == 6) == (gpu.profile == Phase::Default))
    });
    let kept = fs::read_to_string(world.agent.scratch.path.join("gpus.json")).unwrap();
    assert!(kept.contains("not_held"), "{kept}");
}

#[test]
fn library_and_module_of_two_versions_are_a_reboot_and_not_a_loop() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), setup());
    agent.sim.control("fault nvml init mismatch").unwrap();
    agent.run();
    let world = World { agent, subscriber, _broker: broker };
    world.subscriber.event(Kind::GpuDriver, "nvidia", true);
    world.agent.logged("reboot needed");
    world.air_goes_on();
    assert_eq!(world.agent.log().matches("reboot needed").count(), 2, "said once by the GPU thread, once as an alarm");
}

#[test]
fn a_driver_that_hangs_as_it_is_brought_up_keeps_nothing_else() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let tables = setup().broker.replace("[gpu]\n", "[gpu]\nstart_s = 10\n");
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), Setup { broker: tables, ..setup() });
    agent.sim.control("fault nvml init hang").unwrap();
    agent.run();
    let mut world = World { agent, subscriber, _broker: broker };
    world.subscriber.telemetry("it is waited for", |telemetry| {
        telemetry.driver == Driver::Starting
            && telemetry.gpus.len() == 8
            && telemetry.gpus.iter().all(|gpu| gpu.presence == Presence::Unseen)
    });
    world.air_goes_on();
    let first = until("a helper hangs", || world.helper());
    world.subscriber.event(Kind::GpuDriver, "nvidia", true);
    world.subscriber.telemetry("it is given up", |telemetry| telemetry.driver == Driver::Down(0));
    world.agent.logged("no answer for 10 s");
    world.air_goes_on();
    // That one hangs as well, and is no reason to stay.
    until("another one", || world.helper().filter(|pid| *pid != first));
    world.agent.signal(Signal::TERM);
    assert!(world.agent.ended().success());
    world.say("clear nvml");
    world.agent.run();
    world.subscriber.telemetry("all is set", set);
}

/// Some drivers refuse the function that gives fans back.
#[test]
fn fans_that_are_not_taken_back_one_way_are_given_back_the_other() {
    let mut world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    until("fans are driven", || (0..8).all(|gpu| world.truth(gpu, "manual") == 1).then_some(()));
    world.say("fault gpu all SetDefaultFanSpeed_v2 unknown");
    // One where neither way goes keeps nobody, and is told.
    world.say("fault gpu 3 SetFanControlPolicy unknown");
    world.agent.signal(Signal::TERM);
    assert!(world.agent.ended().success());
    let left: Vec<usize> = (0..8).filter(|gpu| world.truth(*gpu, "manual") == 1).collect();
    assert_eq!(left, [3]);
    world.agent.logged("the fans of 1 of 8 driven GPUs stay as they are");
    world.agent.logged("not every setting is known to be back");
    world.say("clear gpu");
    world.agent.run();
    until("the next agent drives them", || (0..8).all(|gpu| world.truth(gpu, "manual") == 1).then_some(()));
    world.agent.signal(Signal::TERM);
    assert!(world.agent.ended().success());
    assert!((0..8).all(|gpu| world.truth(gpu, "manual") == 0));
}

#[test]
fn a_library_that_is_not_there_leaves_a_rig_that_cools() {
    let gpu = "[gpu]\nlibrary = \"/nonexistent/libnvidia-ml.so.1\"\n".to_owned();
    let world = world(Setup { broker: gpu, ..Setup::default() });
    world.subscriber.event(Kind::GpuDriver, "nvidia", true);
    world.subscriber.telemetry("its code is NVML's", |telemetry| telemetry.driver == Driver::Down(12));
    world.air_goes_on();
}
