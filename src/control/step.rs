//! The decision: temperatures in, fan drives out. Pure; time is an argument.
//!
//! ```text
//! reading ── plausible? fresh? moving? ──> per zone: hottest sensor ── curve, hysteresis, slew ──> drive
//!                      │ no                                 │ at critical          │ a fan stands
//!                      └────> full air at once <────────────┴──────────────────────┘
//! ```

use std::time::{Duration, Instant};

use crate::board::{self, Board};
use crate::reading::{Fan, Missing, Reading, Stage, Zone};
use crate::units::{Duty, Millicelsius, Rpm};

/// How long a zone may wait for its first reading before it counts as blind. Until then its fans keep the drive that
/// they were found with, so that a restart of the agent is not heard.
pub const STARTING: Duration = Duration::from_secs(1);
/// A fan that is driven at or above its start drive turns within this time, or it stands: spin-up of large server
/// fans takes 2 to 3 s.
pub const SPIN_UP: Duration = Duration::from_secs(5);
/// The longest step of time that the slew limit believes: after a pause of the machine a drive must not jump.
const LONGEST_STEP: Duration = Duration::from_secs(2);

/// What step knows from one tick to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    started: Instant,
    at: Instant,
    sensors: Vec<SensorState>,
    fans: Vec<FanState>,
    zones: Vec<ZoneState>,
}

/// When a sensor last moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SensorState {
    moved: Option<(Millicelsius, Instant)>,
}

/// Since when a fan has been driven without turning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FanState {
    stands_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ZoneState {
    /// The last drive; `None` before the first decision.
    duty: Option<Duty>,
    /// Time that was too short for the slew limit to turn into a step; not lost, or a drive would never move at 100 ticks
    /// a second.
    unused: Duration,
    /// The temperature that the curve is read at: follows upwards at once, downwards behind the hysteresis.
    held: Option<Millicelsius>,
    critical: bool,
}

/// What is known in this tick, in the board's order; what is too old has been made `Stale` already.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Now.
    pub now: Instant,
    /// One per temperature sensor.
    pub sensors: &'a [Reading<Millicelsius>],
    /// One per fan.
    pub fans: &'a [Fan],
}

/// What to do, in the board's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// What each zone is driven at, and why; no drive while it starts and nothing is to be changed.
    pub zones: Vec<Zone>,
    /// What is believed of each sensor after the checks.
    pub sensors: Vec<Reading<Millicelsius>>,
    /// Fans that stand although driven.
    pub standing: Vec<bool>,
}

impl State {
    /// Nothing known yet.
    #[must_use]
    pub fn new(board: &Board, now: Instant) -> Self {
        Self {
            started: now,
            at: now,
            sensors: vec![SensorState::default(); board.sensors.len()],
            fans: vec![FanState::default(); board.fans.len()],
            zones: vec![ZoneState::default(); board.zones.len()],
        }
    }
}

/// Decides one tick.
#[must_use]
pub fn step(board: &Board, mut state: State, inputs: &Inputs<'_>) -> (State, Orders) {
    let now = inputs.now;
    let since = now.saturating_duration_since(state.at).min(LONGEST_STEP);
    let starting = now.saturating_duration_since(state.started) < STARTING;
    state.at = now;

    let mut orders = Orders::default();
    for ((sensor, memory), reading) in board.sensors.iter().zip(&mut state.sensors).zip(inputs.sensors) {
        orders.sensors.push(believe(sensor, memory, *reading, now));
    }
    for ((fan, memory), reading) in board.fans.iter().zip(&mut state.fans).zip(inputs.fans) {
        // A fan that is only watched is driven by somebody else, and is expected to turn.
        let driven = match fan.zone {
            Some(zone) => state.zones.get(zone).and_then(|zone| zone.duty),
            None => Some(Duty::FULL),
        };
        orders.standing.push(stands(fan, memory, reading, driven, now));
    }
    for (zone, memory) in board.zones.iter().zip(&mut state.zones) {
        let found = || found_drive(zone, inputs.fans);
        let failed = zone.fans.iter().any(|fan| orders.standing.get(*fan).copied().unwrap_or(true));
        orders.zones.push(decide(zone, memory, hottest(zone, &orders.sensors), failed, starting, since, found));
    }
    (state, orders)
}

/// A sensor's reading after the checks: in its range, and moving where it is said to.
fn believe(
    sensor: &board::Sensor,
    memory: &mut SensorState,
    reading: Reading<Millicelsius>,
    now: Instant,
) -> Reading<Millicelsius> {
    let value = reading?;
    if value < sensor.min || value > sensor.max {
        return Err(Missing::Implausible);
    }
    let moved = match memory.moved {
        Some((before, at)) if before == value => at,
        _ => now,
    };
    memory.moved = Some((value, moved));
    match sensor.frozen_after {
        Some(limit) if now.saturating_duration_since(moved) >= limit => Err(Missing::Stale),
        _ => Ok(value),
    }
}

/// Whether a fan is known to stand although it has been driven for long enough. A tachometer that cannot be read is as
/// good as one that stands: nobody knows that there is air.
fn stands(fan: &board::Fan, memory: &mut FanState, reading: &Fan, driven: Option<Duty>, now: Instant) -> bool {
    let driven = driven.is_some_and(|duty| duty >= fan.start);
    let turns = reading.rpm.is_ok_and(|rpm| rpm >= fan.min_rpm && rpm > Rpm(0));
    memory.stands_since = match memory.stands_since {
        _ if !driven || turns => None,
        None => Some(now),
        since => since,
    };
    memory.stands_since.is_some_and(|since| now.saturating_duration_since(since) >= SPIN_UP)
}

/// The zone's hottest sensor; missing as soon as one of them is: the missing one may be the hottest.
fn hottest(zone: &board::Zone, sensors: &[Reading<Millicelsius>]) -> Reading<Millicelsius> {
    let mut hottest = Err(Missing::NotPresent);
    for sensor in &zone.sensors {
        let value = sensors.get(*sensor).copied().unwrap_or(Err(Missing::NotPresent))?;
        hottest = hottest.map_or(Ok(value), |before: Millicelsius| Ok(before.max(value)));
    }
    hottest
}

/// The drive that the zone's fans were found with, full where that is not known.
fn found_drive(zone: &board::Zone, fans: &[Fan]) -> Duty {
    let held = zone.fans.iter().filter_map(|fan| fans.get(*fan)?.duty.ok());
    held.max().unwrap_or(Duty::FULL)
}

fn decide(
    zone: &board::Zone,
    memory: &mut ZoneState,
    hottest: Reading<Millicelsius>,
    fan_failed: bool,
    starting: bool,
    since: Duration,
    found: impl Fn() -> Duty,
) -> Zone {
    let Ok(hottest) = hottest else {
        if memory.duty.is_none() && starting {
            return Zone { duty: Err(Missing::NotPresent), stage: Stage::Starting };
        }
        // What was held is forgotten: nobody knows what happened meanwhile.
        memory.held = None;
        return full_air(memory, Stage::Blind);
    };
    let held = hold(memory.held, hottest, zone.hysteresis);
    memory.held = Some(held);
    let release = Millicelsius(zone.critical.0.saturating_sub(zone.hysteresis.0));
    memory.critical = hottest >= zone.critical || (memory.critical && hottest > release);
    if memory.critical {
        return full_air(memory, Stage::Critical);
    }
    if fan_failed {
        return full_air(memory, Stage::FanFailed);
    }
    let before = memory.duty.unwrap_or_else(found);
    let (duty, unused) = slew(before, curve(&zone.curve, held), zone.slew_per_s, memory.unused + since);
    (memory.duty, memory.unused) = (Some(duty), unused);
    Zone { duty: Ok(duty), stage: Stage::Normal }
}

/// Safety does not wait for the slew limit.
fn full_air(memory: &mut ZoneState, stage: Stage) -> Zone {
    (memory.duty, memory.unused) = (Some(Duty::FULL), Duration::ZERO);
    Zone { duty: Ok(Duty::FULL), stage }
}

/// Follows upwards at once and downwards only behind the hysteresis.
fn hold(held: Option<Millicelsius>, hottest: Millicelsius, hysteresis: Millicelsius) -> Millicelsius {
    let ceiling = Millicelsius(hottest.0.saturating_add(hysteresis.0));
    held.map_or(hottest, |held| held.clamp(hottest, ceiling))
}

/// Straight lines between the points; the first drive below them, the last above.
fn curve(points: &[(Millicelsius, Duty)], at: Millicelsius) -> Duty {
    let mut below: Option<(Millicelsius, Duty)> = None;
    for (celsius, duty) in points.iter().copied() {
        if at <= celsius {
            return below.map_or(duty, |below| between(below, (celsius, duty), at));
        }
        below = Some((celsius, duty));
    }
    below.map_or(Duty::FULL, |(_, duty)| duty)
}

fn between(low: (Millicelsius, Duty), high: (Millicelsius, Duty), at: Millicelsius) -> Duty {
    let run = i64::from(high.0.0) - i64::from(low.0.0);
    let rise = i64::from(high.1.hundredths()) - i64::from(low.1.hundredths());
    let part = i64::from(at.0) - i64::from(low.0.0);
    // Rounded up: a fraction of a hundredth more air, never less.
    let more = (rise * part + run - 1).checked_div(run).unwrap_or(rise);
    Duty::saturating(u32::try_from(i64::from(low.1.hundredths()) + more).unwrap_or(u32::MAX))
}

/// `target`, as far as it can be reached from `before` in this time, and the time that was left over.
fn slew(before: Duty, target: Duty, per_s: Duty, time: Duration) -> (Duty, Duration) {
    const MICROS: u128 = 1_000_000;
    let rate = u128::from(per_s.hundredths());
    let reach = rate * time.as_micros() / MICROS;
    let reached = u16::try_from(reach).unwrap_or(u16::MAX);
    let low = before.hundredths().saturating_sub(reached);
    let high = before.hundredths().saturating_add(reached);
    let duty = Duty::saturating(target.hundredths().clamp(low, high).into());
    if duty == target {
        return (duty, Duration::ZERO);
    }
    let used = (reach * MICROS).div_ceil(rate.max(1));
    (duty, time.saturating_sub(Duration::from_micros(u64::try_from(used).unwrap_or(u64::MAX))))
}

#[cfg(test)]
mod tests;
