//! Every function of the driver that the agent uses, broken in every way that the simulated driver knows.
//!
//! A cell is a function and a fault, on a GPU of its own: up to six at once, so that rigs are few, and two GPUs that nothing
//! is wrong with. What must hold in each cell:
//!
//! - rails, sensors and frame fans go on, telemetry comes, and no tick is later than a period and what this machine is late
//!   for everybody;
//! - the GPUs that are well are read, within a helper's time-out where one was lost;
//! - once the fault is gone, the profile is on the card, or in quarantine with a reason, or what the card said that it
//!   cannot do is left out of it;
//! - no power limit was ever set that the card does not allow;
//! - after the agent's end no fan is driven by hand, and nothing of the profile is on any card.
//!
//! Which cells: each function of a sample x codes, garbage, race, ignored and slow, put right while the same helper runs;
//! each x lost, which only a new helper mends, as only a reset does on a rig. Each function that sets, and those that are read
//! before something is set, x all of these from the first call on. Deaths and hangs cost a helper each, so they are for one
//! function of each request. Hangs are met in this process, where a helper's deadline can be short; with the agent itself one
//! is among `gpu_breaks`. Functions that are only asked where their successor is missing are in
//! `an_old_driver_lacks_functions`.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use rigd::clock::{now, unix_ms};
use rigd::gpu::{Driver, Phase, Presence};
use rigd::reading::Stage;
use rigd::wire::{Message, Telemetry};
use rustix::process::{Signal, kill_process};

use crate::agent::{Agent, Setup, until};
use crate::broker::Broker;
use crate::gpu_breaks::{World, setup};
use crate::subscriber::{Heard, Subscriber};

/// A function and what is wrong with it.
type Cell = (&'static str, &'static str);

/// Four a second: late by a whole period is late by more than what other processes on a busy machine can do.
const TICK_HZ: u32 = 4;
/// GPUs that cells are on; 0 and 7 are well.
const ILL: std::ops::RangeInclusive<usize> = 1..=6;
/// Kept of what the witness saw: more than an hour.
const WITNESSED: usize = 100_000;
/// Rigs at a time: most of what they do is wait.
const RIGS: usize = 3;
/// W: less than every simulated card allows, and what the profile sets.
const LIMIT: i64 = 200_000;

/// What a sample and the drive of fans call.
const READ: [&str; 17] = [
    "GetHandleByPciBusId_v2",
    "GetFieldValues",
    "GetTemperatureV",
    "GetMarginTemperature",
    "GetPowerManagementLimit",
    "GetEnforcedPowerLimit",
    "GetClockInfo",
    "GetPerformanceState",
    "GetUtilizationRates",
    "GetMemoryInfo_v2",
    "GetNumFans",
    "GetFanSpeed_v2",
    "GetFanSpeedRPM",
    "GetFanControlPolicy_v2",
    "GetCurrentClocksEventReasons",
    "GetCurrPcieLinkWidth",
    "GetTotalEccErrors",
];
/// What a profile calls.
const SET: [&str; 9] = [
    "SetPersistenceMode",
    "SetPowerManagementLimit",
    "SetGpuLockedClocks",
    "ResetMemoryLockedClocks",
    "SetClockOffsets",
    "SetFanSpeed_v2",
    "GetPersistenceMode",
    "GetClockOffsets",
    "GetMinMaxFanSpeed",
];
/// What tells the limits that a profile is held against.
const LIMITS: [&str; 8] = [
    "GetPowerManagementLimitConstraints",
    "GetPowerManagementDefaultLimit",
    "GetMaxClockInfo",
    "GetSupportedPerformanceStates",
    "GetMinMaxClockOfPState",
    "GetArchitecture",
    "GetTemperatureThreshold",
    "GetUUID",
];
const CODES: [&str; 4] = ["not-supported", "no-permission", "unknown", "deprecated"];

fn cells(functions: &[&'static str], kinds: &[&'static str]) -> Vec<Cell> {
    functions.iter().flat_map(|function| kinds.iter().map(|kind| (*function, *kind))).collect()
}

/// How late a thread of this process is that does nothing but wait, since it was asked for first: when, ms since 1970, and how
/// late, us. What is later is the agent's own doing.
fn witness() -> &'static Mutex<VecDeque<(u64, u64)>> {
    static LATE: OnceLock<Mutex<VecDeque<(u64, u64)>>> = OnceLock::new();
    LATE.get_or_init(|| {
        thread::spawn(|| {
            loop {
                let due = now() + Duration::from_millis(50);
                while now() < due {
                    thread::park_timeout(due.saturating_duration_since(now()));
                }
                let late_us = u64::try_from(now().saturating_duration_since(due).as_micros()).unwrap();
                let mut late = witness().lock().unwrap();
                if late.len() >= WITNESSED {
                    late.pop_front();
                }
                late.push_back((unix_ms(), late_us));
            }
        });
        Mutex::default()
    })
}

fn rig(ill: &[Cell]) -> World {
    witness();
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let setup = Setup { tick_hz: TICK_HZ, ..setup() };
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), setup);
    for (gpu, (function, kind)) in ILL.zip(ill) {
        agent.sim.control(&format!("fault gpu {gpu} {function} {kind}")).unwrap();
    }
    agent.run();
    World { agent, subscriber, _broker: broker }
}

impl World {
    fn break_all(&self, ill: &[Cell]) {
        for (gpu, (function, kind)) in ILL.zip(ill) {
            self.say(&format!("fault gpu {gpu} {function} {kind}"));
        }
    }

    /// Waits until each fault was met so often.
    fn met(&self, often: u32, ill: &[Cell]) {
        until(&format!("all of {ill:?} are met"), || {
            let hits = self.say("get hits");
            let hit = |line: &str| line.split(' ').next().is_some_and(|hits| hits.parse::<u32>().unwrap() >= often);
            (hits.lines().count() == ill.len() && hits.lines().all(hit)).then_some(())
        });
    }

    /// Chips, ticks and the GPUs that are well.
    fn goes_on(&self, ill: &[Cell]) {
        self.subscriber.telemetry(&format!("all else goes on beside {ill:?}"), |telemetry| {
            let well =
                |gpu: usize| telemetry.gpus[gpu].presence == Presence::Seen && telemetry.gpus[gpu].power.0.is_ok();
            telemetry.rails.iter().all(|rail| rail.mw.0.is_ok())
                && telemetry.sensors.iter().all(|sensor| sensor.0.is_ok())
                && telemetry.zones.iter().all(|zone| zone.stage == Stage::Normal)
                && telemetry.gpus.len() == 8
                && well(0)
                && well(7)
        });
    }

    /// Waits until every GPU is as it should be, or quarantined, or has told what it cannot do.
    fn settled(&self, ill: &[Cell]) {
        let wrong = Mutex::new(String::new());
        let good = |telemetry: &Telemetry| {
            let world = self.say("get world");
            let log = self.agent.log();
            let records = fs::read_to_string(self.agent.scratch.path.join("gpus.json")).unwrap_or_default();
            let unsettled: Vec<String> = (0..telemetry.gpus.len())
                .filter_map(|gpu| {
                    let why = unsettled(telemetry, gpu, &world, &log, &records)?;
                    Some(format!("GPU {gpu}: {why}"))
                })
                .collect();
            *wrong.lock().unwrap() = unsettled.join("; ");
            unsettled.is_empty() && telemetry.driver == Driver::Up
        };
        let deadline = now() + Duration::from_secs(40);
        while !good(&self.subscriber.telemetry("a telemetry", |_| true)) {
            assert!(now() < deadline, "not settled after {ill:?}: {}", wrong.lock().unwrap());
        }
    }

    /// Another helper, as after a reset.
    fn new_helper(&self) {
        let old = until("the helper runs", || self.helper());
        kill_process(old, Signal::KILL).unwrap();
        until("another one", || self.helper().filter(|pid| *pid != old));
    }

    /// What must hold of all that was ever set and heard, and of the cards when the agent is gone.
    fn ends(mut self, ill: &[Cell]) {
        self.say("clear gpu");
        self.limits_held(ill);
        self.agent.signal(Signal::TERM);
        let log = self.agent.log();
        assert!(self.agent.ended().success(), "{ill:?}: {log}");
        for gpu in 0..8 {
            let left = (self.truth(gpu, "manual"), self.truth(gpu, "limit_mw"));
            assert_eq!(left, (0, 350_000), "GPU {gpu} after {ill:?}");
        }
        let ticks: Vec<(u64, u64, u32)> = self.subscriber.wait("what was heard", |heard| {
            let tick = |one: &Heard| {
                let Message::Telemetry(telemetry) = &one.message else { return None };
                Some((telemetry.unix_ms, telemetry.uptime_ms, telemetry.tick_late_us))
            };
            Some(heard.iter().filter_map(tick).collect())
        });
        let began = ticks[0].0;
        let busy = witness().lock().unwrap().iter().filter(|(at, _)| *at >= began).map(|(_, late)| *late).max();
        let busy = busy.unwrap_or(0);
        let latest = u64::from(ticks.iter().map(|(.., late)| *late).max().unwrap());
        let period = u64::from(1_000_000 / TICK_HZ);
        assert!(latest < period + busy, "a tick was {latest} us late beside {ill:?}, the machine {busy}");
        let longest = ticks.windows(2).map(|two| two[1].1.saturating_sub(two[0].1)).max().unwrap();
        assert!(longest < 2_000 + busy / 1_000, "no telemetry for {longest} ms beside {ill:?}, the machine {busy} us");
    }

    fn limits_held(&self, ill: &[Cell]) {
        for line in self.say("get settings").lines().filter(|line| line.contains("SetPowerManagementLimit")) {
            let limit: i64 = line.split(' ').nth(2).unwrap().parse().unwrap();
            assert!((100_000..=480_000).contains(&limit), "{line} with {ill:?}");
        }
    }
}

/// Why a GPU is not settled.
fn unsettled(telemetry: &Telemetry, gpu: usize, world: &str, log: &str, records: &str) -> Option<String> {
    let now = &telemetry.gpus[gpu];
    if now.presence != Presence::Seen || now.power.0.is_err() || now.temperature.0.is_err() {
        return Some(format!("{:?} {:?}", now.presence, now.temperature));
    }
    let truth = |key: &str| {
        let key = format!("gpu.{gpu}.{key}=");
        world.lines().find_map(|line| line.strip_prefix(&key)).unwrap().to_owned()
    };
    let (limit, lock, manual) = (truth("limit_mw"), truth("core_lock_mhz"), truth("manual"));
    let pci = format!("GPU 0000:{:02x}:00.0", gpu + 1);
    let unable = log.contains(&format!("{pci}: takes no"));
    let records: serde_json::Value = serde_json::from_str(records).unwrap_or_default();
    let quarantine = &records[&format!("GPU-fa4e{gpu:04x}-0000-4000-8000-{gpu:012x}")]["quarantine"];
    let barred =
        quarantine.as_array().is_some_and(|list| list.iter().all(|one| !one["reason"].is_null()) && !list.is_empty());
    let held = matches!(now.profile, Phase::Probation | Phase::Committed);
    let set = limit.parse() == Ok(LIMIT) && lock == "210-1200";
    let good = held && !manual.contains("false") && (set || unable)
        || barred && now.profile == Phase::Default && !manual.contains("true") && limit == "350000" && lock == "none";
    (!good).then(|| {
        format!("{:?}, {limit} mW, {lock} MHz, by hand {manual}, unable {unable}, quarantine {quarantine}", now.profile)
    })
}

/// A rig that is started with the faults or meets them later, and then a new helper without.
fn restarted(ill: &[Cell], from_the_start: bool) {
    let world = rig(if from_the_start { ill } else { &[] });
    if !from_the_start {
        world.settled(&[]);
        world.break_all(ill);
    }
    world.met(1, ill);
    world.goes_on(ill);
    world.limits_held(ill);
    world.say("clear gpu");
    world.new_helper();
    world.settled(ill);
    world.ends(ill);
}

/// Rigs beside each other.
pub(crate) fn rigs<T: Sync>(rows: &[T], run: impl Fn(&T) + Sync) {
    let next = Mutex::new(rows.iter());
    let take = || next.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..RIGS {
            scope.spawn(|| {
                while let Some(row) = take() {
                    run(row);
                }
            });
        }
    });
}

#[test]
fn what_is_read_wrongly_is_read_again() {
    let world = rig(&[]);
    world.settled(&[]);
    let kinds = [&CODES[..], &["garbage", "race", "ignored"]].concat();
    for ill in cells(&READ, &kinds).chunks(ILL.count()) {
        world.break_all(ill);
        world.met(2, ill);
        world.goes_on(ill);
        world.say("clear gpu");
        world.settled(ill);
        world.limits_held(ill);
    }
    world.ends(&[("all", "read")]);
}

#[test]
fn a_slow_driver_slows_nothing_else() {
    let world = rig(&[]);
    world.settled(&[]);
    for ill in cells(&READ, &["slow 300"]).chunks(2) {
        world.break_all(ill);
        world.met(2, ill);
        world.goes_on(ill);
        world.say("clear gpu");
        world.settled(ill);
    }
    world.ends(&[("all", "slow")]);
}

#[test]
fn a_lost_gpu_is_back_with_a_new_helper() {
    let lost = cells(&READ, &["lost"]);
    rigs(&lost.chunks(ILL.count()).collect::<Vec<_>>(), |ill| restarted(ill, false));
}

#[test]
fn what_is_not_set_is_set_later_or_quarantined() {
    let kinds = [&CODES[..], &["ignored", "garbage", "slow 300", "lost"]].concat();
    let ill = [cells(&SET, &kinds), cells(&LIMITS, &["not-supported", "unknown", "garbage"])].concat();
    rigs(&ill.chunks(ILL.count()).collect::<Vec<_>>(), |ill| restarted(ill, true));
}

#[test]
fn a_death_costs_one_helper_and_no_setting() {
    let rows: [(Cell, bool); 8] = [
        (("GetUtilizationRates", "segv"), false),
        (("GetHandleByPciBusId_v2", "abort"), false),
        (("GetFieldValues", "abort"), false),
        (("SetPowerManagementLimit", "segv"), true),
        (("SetFanSpeed_v2", "abort"), true),
        (("GetPersistenceMode", "segv"), true),
        (("GetPowerManagementLimitConstraints", "abort"), true),
        (("GetComputeRunningProcesses_v3", "segv"), true),
    ];
    rigs(&rows, |(cell, from_the_start)| {
        let ill = [*cell];
        let world = rig(if *from_the_start { &ill } else { &[] });
        if !*from_the_start {
            world.settled(&[]);
            world.break_all(&ill);
        }
        world.met(1, &ill);
        world.say("clear gpu");
        world.settled(&ill);
        world.goes_on(&ill);
        world.ends(&ill);
    });
}
