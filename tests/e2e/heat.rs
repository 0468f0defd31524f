//! GPUs that get hot although their fans are at full: each rung of heat's ladder, up and down, as everybody is told.
//!
//! Real: the agent, `rigd-nvml`, the wrapper around NVIDIA's library, the broker, payloads. Simulated: the library and the cards, which are
//! as hot as they are said to be. The ladder's times are the real ones, so three cards climb side by side:
//!
//! | s | GPU 0, just above critical | GPU 1, an emergency | GPU 2, hot for a moment |
//! |---|---|---|---|
//! | 0 | full air | its payload is ended; cool: on its way back | full air |
//! | 10 | limit | | limit; cool: on its way back |
//! | 25 to 42 | the lowest limit | 30: a pause would do | full air, free |
//! | 61 to 67 | its payload is paused | limit: its payload runs again | |

use std::cell::Cell;
use std::time::Duration;

use rigd::alarm::{Cause, Kind};
use rigd::control::step::ladder::Rung;
use rigd::payload::Hold;
use rigd::wire::{Message, PayloadPhase, Rungs};

use crate::agent::until;
use crate::gpu_breaks::library;
use crate::house::{House, Seen};
use crate::subscriber::{Heard, Subscriber};

/// Where a card of the simulated rig is as hot as it may be: 3 K below the 95 °C at which it slows down.
const CRITICAL: i64 = 92_000;
/// 2 K below the 98 °C at which it switches itself off.
const EMERGENCY: u32 = 96_000;
const COOL: u32 = 70_000;

/// Far beyond what any of it takes: a card that is not read for a moment, on a machine that has much to do, loses its time on the ladder.
const LONGEST: Duration = Duration::from_secs(240);
const ALARMS: [(Rung, Kind); 4] = [
    (Rung::Air, Kind::GpuHot),
    (Rung::Limit, Kind::HeatLimited),
    (Rung::Pause, Kind::HeatPaused),
    (Rung::Stop, Kind::HeatStopped),
];

struct World {
    house: House,
    subscriber: Subscriber,
    /// How much of what was heard is behind each GPU.
    seen: [Cell<usize>; 8],
}

impl World {
    fn say(&self, line: &str) -> String {
        self.house.agent.sim.control(line).unwrap_or_else(|error| panic!("{line}: {error:#}"))
    }

    fn held_at(&self, gpu: usize, millicelsius: u32) {
        self.say(&format!("set gpu {gpu} mc {millicelsius}"));
    }

    /// What is true of a GPU, whatever the library says.
    fn truth(&self, gpu: usize, what: &str) -> String {
        let (world, key) = (self.say("get world"), format!("gpu.{gpu}.{what}="));
        world.lines().find_map(|line| line.strip_prefix(&key)).unwrap_or_else(|| panic!("{key} in {world}")).to_owned()
    }

    /// How fast its first fan turns, %.
    fn fan(&self, gpu: usize) -> u32 {
        self.truth(gpu, "fan_pct").split(',').next().unwrap().parse().unwrap()
    }

    fn limit(&self, gpu: usize) -> u32 {
        self.truth(gpu, "limit_mw").parse().unwrap()
    }

    /// Waits until telemetry had it on this rung for this, later than where it was waited for last, and until the rung's event was heard.
    fn on(&self, gpu: usize, rung: Rung, cause: Option<Cause>) {
        let what = format!("GPU {gpu} at {rung:?} for {cause:?}");
        let from = self.seen[gpu].get();
        let at = self.subscriber.wait_within(LONGEST, &what, |heard| {
            let found = |one: &Heard| {
                let Message::Telemetry(telemetry) = &one.message else { return false };
                let now = telemetry.rungs.get(gpu).map(|Rungs { heat, heat_cause, .. }| (*heat, *heat_cause));
                now.unwrap_or((Rung::Free, None)) == (rung, cause)
            };
            heard.iter().skip(from).position(found)
        });
        self.seen[gpu].set(from + at);
        if let Some((_, kind)) = ALARMS.iter().find(|(of, _)| *of == rung) {
            self.subscriber.event(*kind, &name(gpu), true);
        }
    }

    /// Waits until the alarm of this rung stands, and none of another.
    fn stands(&self, gpu: usize, rung: Rung) {
        self.subscriber.wait(&format!("GPU {gpu} at {rung:?}: its alarm alone"), |heard| {
            let last = |kind: Kind| {
                heard.iter().rev().find_map(|one| {
                    let Message::Event(event) = &one.message else { return None };
                    (event.alarm == kind && event.name == name(gpu)).then_some(event.raised)
                })
            };
            ALARMS.iter().all(|(of, kind)| last(*kind).unwrap_or(false) == (*of == rung)).then_some(())
        });
    }
}

fn name(gpu: usize) -> String {
    format!("0000:{:02x}:00.0", gpu + 1)
}

fn hot(millicelsius: u32) -> Option<Cause> {
    Some(Cause::Limit { value: millicelsius.into(), limit: CRITICAL })
}

fn miner(gpu: u32) -> String {
    format!(
        "kind = \"mining\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sleep\", \"100000\"]\n\
         [gpus]\nuuids = [\"GPU-fa4e000{gpu}-0000-4000-8000-00000000000{gpu}\"]\n"
    )
}

#[test]
fn heat_takes_the_limit_then_the_work_and_gives_both_back_in_reverse() {
    let tables = format!("[gpu]\nlibrary = {:?}\nprofile = \"quiet\"\n[profile.quiet]\nfan_pct = 40\n", library());
    let house = House::with("heat", &tables, &[miner(0), miner(1)]);
    let world = World { subscriber: Subscriber::new(house.broker.port), house, seen: Default::default() };
    world.say(&format!("set gpu all mc {COOL}"));
    let (first, second) = (world.house.runs(0), world.house.runs(1));
    until("its fans are quiet", || (world.fan(0) <= 45).then_some(()));
    let whole = world.limit(0);

    let (above, burning) = (CRITICAL.unsigned_abs().try_into().unwrap(), EMERGENCY);
    for (gpu, millicelsius) in [(0, above), (1, burning), (2, above)] {
        world.held_at(gpu, millicelsius);
    }
    world.on(0, Rung::Air, hot(above));
    assert_eq!((world.limit(0), world.house.one(0).unwrap().hold), (whole, Hold::Free), "air comes first");
    world.on(1, Rung::Stop, hot(burning));
    world.on(7, Rung::Free, None);
    world.house.until(1, "it is ended at once, and waits", |payload| {
        (payload.hold, payload.now.phase, payload.pid) == (Hold::Stop, PayloadPhase::Waiting, None)
    });
    assert_eq!(Seen::of(second).filter(|seen| seen.state != 'Z'), None, "nothing of it is left");
    // A little below critical is not cool.
    world.held_at(1, above - 1_000);
    world.on(1, Rung::Stop, hot(above - 1_000));
    world.held_at(1, COOL);
    world.on(1, Rung::Stop, Some(Cause::Cooling));
    for gpu in [0, 2] {
        until("its fans have all that they can give", || (world.fan(gpu) >= 90).then_some(()));
    }

    world.on(2, Rung::Limit, hot(above));
    until("its limit goes down", || (world.limit(2) < whole).then_some(()));
    world.held_at(2, COOL);
    world.on(0, Rung::Limit, hot(above));
    world.on(1, Rung::Pause, Some(Cause::Cooling));
    let shown = String::from_utf8(world.house.ctl(&["power"]).stdout).unwrap();
    assert!(shown.contains("limit (92 of 92 °C)") && shown.contains("paused (cool again, on its way back)"), "{shown}");
    until("the lowest limit", || (world.limit(0) == 100_000).then_some(()));
    assert_eq!(world.house.one(0).unwrap().now.phase, PayloadPhase::Running, "limits go first");

    world.on(1, Rung::Limit, Some(Cause::Cooling));
    assert_ne!(world.house.runs(1), second, "it runs again, started anew");
    world.on(0, Rung::Pause, hot(above));
    let paused = world.house.until(0, "it is paused, and all of it is there", |payload| {
        (payload.hold, payload.now.phase) == (Hold::Pause, PayloadPhase::Paused) && payload.paused.is_some()
    });
    assert_eq!((paused.pid, paused.error), (Some(first), None));
    // What rests and gets hotter all the same is ended.
    world.held_at(0, burning);
    world.on(0, Rung::Stop, hot(burning));
    world.house.until(0, "it is ended", |payload| {
        (payload.hold, payload.now.phase, payload.pid) == (Hold::Stop, PayloadPhase::Waiting, None)
    });
    world.stands(0, Rung::Stop);
    // The one that was hot for a moment has been free again for long.
    world.on(2, Rung::Air, Some(Cause::Cooling));
    world.on(2, Rung::Free, None);
    world.stands(2, Rung::Free);
    until("its limit is back", || (world.limit(2) == whole).then_some(()));
}
