//! The decision: temperatures in, fan drives out. Pure; time is an argument.
//!
//! ```text
//! reading ── believed? ──> per zone: hottest ── curve, or what is held; quiet hours; slew ──> drive ── per fan: minimum, kick
//!               │ no                    │ at critical        │ more fans stand than can be made up for
//!               └──> full air at once <─┴────────────────────┘
//! ```
//!
//! What holds of the loop as a whole, over plants that are drawn by chance (heat that comes and goes in 8 s to 5 min, one to
//! six unlike fans, a sensor up to 10 s slow, 3 s late and in steps of up to 0.5 K, 1 to 10 ticks a second) with critical
//! temperatures 10 K above what full air makes of full load; `sim/tests/closed_loop` is the proof:
//!
//! - **What full air can hold stays below critical.** From 5 K below its critical temperature on (half way to it
//!   from 1 K above the target, where that is later; from the end of the curve, where there is no target) a zone has full air, whatever slew limit and
//!   quiet hours say. So wherever full air from two ticks after the reading got there would have kept it below critical, it
//!   stays below critical.
//! - **At constant load the drive comes to rest**, within 10 % peak to peak and without a cycle of more than 5 %, with the
//!   default gains or any of 1 to 6 %/K and 60 to 300 s, and a hysteresis of 2 K.
//! - **Blind is full air within two ticks** of what can be known: a missing reading or a jump at once, a silent bus after
//!   [`stale_after`](super::stale_after), a frozen sensor after the board's `frozen_s`; where the board gives none, never.
//! - **A dead fan raises the others**: to full air after [`SPIN_UP`], or by its share where the board spares one.

use std::time::{Duration, Instant};

use self::believe::SensorState;
use self::calibrate::Calibration;
use self::fan::FanState;
use self::zone::{Situation, ZoneState};
use crate::board::{self, Board};
use crate::calibration::FanCurve;
use crate::gpu::Gpu;
use crate::reading::{Fan, Missing, Power, Reading, Stage, Zone};
use crate::units::{Duty, Millicelsius};

mod believe;
mod calibrate;
mod fan;
mod gpu;
pub mod ladder;
mod limit;
pub mod power;
mod zone;

pub use calibrate::{ROOM, Report, Stopped};
pub use fan::{FanView, SPIN_UP};
pub use limit::{GpuLimited, Limited};

/// How long a zone may wait for its first reading before it counts as blind. Until then its fans keep the drive that
/// they were found with, so that a restart of the agent is not heard.
pub const STARTING: Duration = Duration::from_secs(1);
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
    gpus: Vec<ZoneState>,
    calibration: Option<Calibration>,
    power: Option<power::State>,
    heat: Vec<ladder::State>,
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
    /// One per rail.
    pub rails: &'a [Power],
    /// What was learnt of each fan.
    pub curves: &'a [Option<FanCurve>],
    /// Highest drive, during quiet hours.
    pub quiet: Option<Duty>,
    /// The GPUs, in the order in which they were first seen.
    pub gpus: &'a [Gpu],
    /// What was asked for since the last tick.
    pub request: Option<Request>,
    /// What limits its power and how that is held, with one entry for each GPU; none where nothing does.
    pub power: Option<(&'a power::Policy, power::Inputs<'a>)>,
}

/// What people may ask of control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Measure the fans of this zone, an index into the board's.
    Calibrate(usize),
    /// End a calibration.
    StopCalibration,
}

/// What to do, in the board's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// What each zone is driven at, and why; no drive while it starts and nothing is to be changed.
    pub zones: Vec<Zone>,
    /// The drive of each fan; none for one that no zone drives, and while nothing is to be changed.
    pub duties: Vec<Option<Duty>>,
    /// What is believed of each sensor after the checks.
    pub sensors: Vec<Reading<Millicelsius>>,
    /// Sensors whose reading came out of nowhere.
    pub jumped: Vec<bool>,
    /// What is known of each fan after the checks.
    pub fans: Vec<FanView>,
    /// What a calibration has to tell.
    pub reports: Vec<Report>,
    /// The fan that is being measured: it stands when it is told to.
    pub measured: Option<usize>,
    /// One per GPU: the drive of its own fans, and why; none where the driver has them.
    pub gpus: Vec<Zone>,
    /// What power and heat hold back.
    pub limited: Limited,
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
            gpus: Vec::new(),
            calibration: None,
            power: None,
            heat: Vec::new(),
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
        orders.sensors.push(memory.believe(sensor, *reading, now));
        orders.jumped.push(memory.has_jumped());
    }
    let curve = |fan: usize| inputs.curves.get(fan).and_then(Option::as_ref);
    for (i, ((fan, memory), reading)) in board.fans.iter().zip(&mut state.fans).zip(inputs.fans).enumerate() {
        orders.fans.push(memory.view(fan, curve(i), reading.rpm, now));
    }
    let calibrated = state.calibration.as_ref().and_then(Calibration::fan);
    for (zone, memory) in board.zones.iter().zip(&mut state.zones) {
        // One that is being measured stands when it is told to.
        let stands = |fan: &&usize| Some(**fan) != calibrated && orders.fans.get(**fan).is_none_or(|view| view.stands);
        let situation = Situation {
            hottest: hottest(board, zone, &orders.sensors, inputs.gpus),
            rails: inputs.rails,
            dead: zone.fans.iter().filter(stands).count(),
            starting,
            since,
            quiet: inputs.quiet,
            lowest: lowest_drive(board, zone, inputs.curves),
            found: || found_drive(zone, inputs.fans),
        };
        orders.zones.push(memory.decide(zone, &situation));
    }
    state.gpus.resize(inputs.gpus.len().max(state.gpus.len()), ZoneState::default());
    for (gpu, memory) in inputs.gpus.iter().zip(&mut state.gpus) {
        orders.gpus.push(gpu::decide(gpu, memory, starting, since));
    }
    limit::decide(board, &mut state, inputs, &mut orders);
    calibrate(board, &mut state, inputs, &mut orders);
    drive(board, &mut state, inputs, &mut orders);
    (state, orders)
}

/// Carries a calibration on, begins one, or ends it.
fn calibrate(board: &Board, state: &mut State, inputs: &Inputs<'_>, orders: &mut Orders) {
    match inputs.request {
        Some(Request::StopCalibration) if state.calibration.take().is_some() => {
            orders.reports.push(Report::Stopped(Stopped::Asked));
        }
        Some(Request::Calibrate(zone)) if state.calibration.is_none() => {
            state.calibration = Calibration::begin(board, zone, inputs.now);
            if state.calibration.is_none() {
                orders.reports.push(Report::Stopped(Stopped::Refused));
            }
        }
        Some(Request::Calibrate(_)) => orders.reports.push(Report::Stopped(Stopped::Refused)),
        Some(Request::StopCalibration) | None => {}
    }
    let Some(calibration) = state.calibration.take() else { return };
    let index = calibration.zone;
    let (Some(zone), Some(decided)) = (board.zones.get(index), orders.zones.get_mut(index)) else { return };
    let cool = hottest(board, zone, &orders.sensors, inputs.gpus)
        .is_ok_and(|hottest| i64::from(hottest.0) <= i64::from(zone.critical.0) - i64::from(ROOM));
    if !cool || !matches!(decided.stage, Stage::Normal | Stage::Quiet) {
        orders.reports.push(Report::Stopped(Stopped::Unsafe));
        return;
    }
    let rpm = calibration.fan().and_then(|fan| orders.fans.get(fan)).map_or(Err(Missing::NotPresent), |fan| fan.rpm);
    let step = calibration.step(board, rpm, inputs.now);
    orders.reports.extend(step.reports);
    state.calibration = step.next;
    if let (Some(_), Some(memory)) = (&state.calibration, state.zones.get_mut(index)) {
        // The way back is a slope from full air.
        *decided = memory.full_air(Stage::Calibrating);
    }
}

/// Each fan's own drive for that of its zone.
fn drive(board: &Board, state: &mut State, inputs: &Inputs<'_>, orders: &mut Orders) {
    let calibrated = state.calibration.as_ref().and_then(|calibration| Some((calibration.fan()?, calibration.duty())));
    orders.measured = calibrated.map(|(fan, _)| fan);
    for (i, (fan, memory)) in board.fans.iter().zip(&mut state.fans).enumerate() {
        let zone = fan.zone.and_then(|zone| orders.zones.get(zone)?.duty.ok());
        let rpm = orders.fans.get(i).map_or(Err(Missing::NotPresent), |view| view.rpm);
        let curve = inputs.curves.get(i).and_then(Option::as_ref);
        orders.duties.push(match (calibrated, zone) {
            (Some((index, duty)), _) if index == i => {
                memory.ordered = Some(duty);
                Some(duty)
            }
            (_, Some(zone)) => Some(memory.order(fan, curve, rpm, zone, inputs.now)),
            (_, None) => None,
        });
    }
}

/// The zone's reading that is nearest to its critical temperature, told as if that were the zone's; missing as soon as one
/// of them is: the missing one may be the hottest.
fn hottest(
    board: &Board,
    zone: &board::Zone,
    sensors: &[Reading<Millicelsius>],
    gpus: &[Gpu],
) -> Reading<Millicelsius> {
    let own = |index: &usize| {
        let own = board.sensors.get(*index).and_then(|sensor| sensor.critical);
        (sensors.get(*index).copied().unwrap_or(Err(Missing::NotPresent)), own.unwrap_or(zone.critical))
    };
    let mut hottest = None;
    for (reading, critical) in zone.sensors.iter().map(own).chain(gpu::readings(zone, gpus)) {
        let here = Millicelsius(reading?.0.saturating_add(zone.critical.0.saturating_sub(critical.0)));
        hottest = hottest.max(Some(here));
    }
    hottest.ok_or(Missing::NotPresent)
}

/// The drive that the zone's fans were found with, full where that is not known.
fn found_drive(zone: &board::Zone, fans: &[Fan]) -> Duty {
    let held = zone.fans.iter().filter_map(|fan| fans.get(*fan)?.duty.ok());
    held.max().unwrap_or(Duty::FULL)
}

/// The lowest drive at which all fans of the zone turn.
fn lowest_drive(board: &Board, zone: &board::Zone, curves: &[Option<FanCurve>]) -> Duty {
    let of = |fan: &usize| Some(fan::min(board.fans.get(*fan)?, curves.get(*fan).and_then(Option::as_ref)));
    zone.fans.iter().filter_map(of).max().unwrap_or(Duty::OFF)
}

#[cfg(test)]
mod tests;
