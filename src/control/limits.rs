//! What holds the rig back: gathered for the decision from what was found, what is asked for and what is settled; and what was
//! decided, in words for everybody.
//!
//! ```text
//! configuration, setpoints ── caps ──┐
//! supplies ── input, their sum ──────┤                        ┌── gpu::Limits ── the lower of it and a search's trial ──> card
//! board, configuration ── guards ────┼──> step: power, heat ──┼── Hold ── tell::Holds ──> payloads
//! GPUs, payloads, worth ─────────────┘                        └── Restraint ──> snapshot: telemetry, alarms, rigd-ctl power
//! ```

use std::time::Instant;

use super::step::power::{self, Basis, Cap, Guard, Policy, Source};
use super::step::{Limited, ladder};
use super::tell;
use crate::alarm;
use crate::gpu::config::Card;
use crate::gpu::{Gpu, Limits, Presence};
use crate::reading::{Missing, Reading, Snapshot};
use crate::setpoint::Setpoints;
use crate::units::Milliwatts;

/// First architecture with a core lock: Volta (`nvml.h`, SetGpuLockedClocks).
const VOLTA: u32 = 5;
/// What a card draws with nothing running: the simulated ones of 2020 to 2025, which are real ones' numbers, draw 8 to 30 W.
const IDLE: Milliwatts = Milliwatts(25_000);

/// What is settled for as long as the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How caps are held.
    pub policy: Policy,
    /// The configuration's cap.
    pub cap: Option<Cap>,
    /// What nothing lifts.
    pub guards: Vec<Rule>,
}

/// What a guard measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The inputs of all supplies together.
    Supplies,
    /// The input of a supply, an index into the board's.
    Supply(usize),
    /// A rail, an index into the board's.
    Rail(usize),
}

/// A breaker: a limit that nothing lifts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it is measured.
    pub place: Place,
    /// Not to be exceeded.
    pub limit: Milliwatts,
    /// The GPUs that it feeds; none stands for all.
    pub gpus: Option<Vec<Card>>,
}

/// What a tick knows of power.
pub(super) struct Gathered {
    caps: Vec<Cap>,
    meters: Vec<Reading<Milliwatts>>,
    guards: Vec<Guard>,
    gpus: Vec<power::Gpu>,
    payloads: Vec<power::Payload>,
}

impl Gathered {
    pub(super) fn inputs(&self, now: Instant) -> power::Inputs<'_> {
        let Self { caps, meters, guards, gpus, payloads } = self;
        power::Inputs { now, caps, meters, guards, gpus, payloads }
    }
}

/// Gathers it. GPUs and payloads are in the order of their lists.
pub(super) fn gather(rules: &Rules, snapshot: &Snapshot, setpoints: &Setpoints) -> Gathered {
    let gpus = &snapshot.gpus.gpus;
    let member = |rule: &Rule, gpu: &Gpu| {
        let uuid = gpu.device.as_ref().map(|device| device.uuid.as_str());
        rule.gpus.as_ref().is_none_or(|cards| cards.iter().any(|card| card.is(uuid, gpu.pci)))
    };
    let guard = |rule: &Rule| Guard {
        limit: rule.limit,
        meters: meters(rule.place, snapshot),
        gpus: gpus.iter().enumerate().filter(|(_, gpu)| member(rule, gpu)).map(|(index, _)| index).collect(),
        input: !matches!(rule.place, Place::Rail(_)),
    };
    let payload = |status: &crate::payload::supervisor::Status| power::Payload {
        kind: status.kind,
        grace: status.grace,
        running: status.pid.is_some(),
        paused: status.paused.is_some(),
    };
    Gathered {
        caps: rules.cap.iter().copied().chain(setpoints.caps()).collect(),
        meters: meters(Place::Supplies, snapshot),
        guards: rules.guards.iter().map(guard).collect(),
        gpus: gpus.iter().enumerate().map(|(index, gpu)| of(index, gpu, snapshot, setpoints)).collect(),
        payloads: snapshot.payloads.0.iter().map(payload).collect(),
    }
}

/// What is drawn there, by each meter.
fn meters(place: Place, snapshot: &Snapshot) -> Vec<Reading<Milliwatts>> {
    let one = match place {
        Place::Supplies => return snapshot.supplies.iter().map(|[input, _]| input.power).collect(),
        Place::Supply(index) => snapshot.supplies.get(index).map(|[input, _]| input.power),
        Place::Rail(index) => snapshot.rails.get(index).map(|rail| rail.power),
    };
    vec![one.unwrap_or(Err(Missing::NotPresent))]
}

fn of(index: usize, gpu: &Gpu, snapshot: &Snapshot, setpoints: &Setpoints) -> power::Gpu {
    let device = gpu.device.as_deref();
    // One that is lost takes no limit and counts as it may be: at its profile's.
    let limits = device.filter(|_| gpu.presence == Presence::Seen).and_then(|device| device.limits.ok());
    let limits = limits.filter(|(lowest, highest)| lowest <= highest);
    let sample = gpu.sample.as_deref();
    let power =
        sample.map_err(|missing| *missing).and_then(|sample| sample.power_now.or(sample.power).map_err(Missing::from));
    let clock = sample.map_err(|missing| *missing).and_then(|sample| sample.sm_clock.map_err(Missing::from));
    let found = || sample.ok().and_then(|sample| sample.limit.ok());
    let default =
        || device.and_then(|device| device.default_limit.ok().or(device.limits.ok().map(|(_, highest)| highest)));
    let lockable = |device: &&crate::gpu::wire::Device| device.architecture.is_ok_and(|of| of >= VOLTA);
    let owner = tell::owner(&snapshot.gpus.gpus, index, &snapshot.payloads);
    let place = |name: &str| snapshot.payloads.0.iter().position(|payload| payload.name == name);
    power::Gpu {
        limits,
        top: gpu.profile.limit.or_else(found).or_else(default).unwrap_or_default(),
        power,
        idle: IDLE.min(limits.map_or(IDLE, |(lowest, _)| lowest)),
        clock,
        max_clock: device.filter(lockable).and_then(|device| device.max_sm_clock.ok()).filter(|_| limits.is_some()),
        payload: owner.and_then(|payload| place(&payload.name)),
        worth: owner.map_or(0, |payload| setpoints.worth(&payload.name)),
    }
}

/// What each card gets: what was decided, and what a search tries, the lower of both. Nothing is decided of one that no driver has told
/// of yet: it keeps what an earlier agent has left on it.
pub(super) fn orders(limited: &Limited, gpus: &[Gpu], setpoints: &Setpoints, now: Instant) -> Vec<Option<Limits>> {
    let trial = |gpu: &Gpu| gpu.device.as_ref().map_or_else(Limits::default, |one| setpoints.trial(&one.uuid, now));
    let decided = limited.gpus.iter().map(|gpu| gpu.limits).chain(std::iter::repeat(Limits::default()));
    let order = |(gpu, limits): (&Gpu, Limits)| gpu.device.is_some().then(|| limits.lower(trial(gpu)));
    gpus.iter().zip(decided).map(order).collect()
}

/// What holds the rig back now, as everybody is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restraint {
    /// The cap that holds now, ramps included, and whose it is.
    pub cap: Option<(Milliwatts, Source)>,
    /// What it is held by.
    pub basis: Basis,
    /// What the rig draws by that.
    pub estimate: Milliwatts,
    /// One per GPU.
    pub gpus: Vec<Restrained>,
}

/// What holds a GPU back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restrained {
    /// How far power has taken it, and why.
    pub power: (power::Rung, Option<alarm::Cause>),
    /// How far heat has.
    pub heat: (ladder::Rung, Option<alarm::Cause>),
    /// What it may take.
    pub limits: Limits,
}

impl Restrained {
    /// Neither power nor heat holds it back.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.power.0 == power::Rung::Free && self.heat.0 == ladder::Rung::Free
    }
}

/// The decision in the words of alarms and the wire.
pub(super) fn restraint(rules: &Rules, limited: &Limited, gpus: &[Gpu]) -> Restraint {
    let power = |cause| match cause {
        power::Cause::Cap(source) => alarm::Cause::Cap(source),
        power::Cause::Guard(index) => match rules.guards.get(index).map_or(Place::Supplies, |rule| rule.place) {
            Place::Supplies => alarm::Cause::Supplies,
            Place::Supply(index) => alarm::Cause::Supply(short(index)),
            Place::Rail(index) => alarm::Cause::Rail(short(index)),
        },
    };
    let heat = |cause, gpu: &Gpu| match cause {
        ladder::Cause::Hot(now) => {
            let critical = crate::gpu::air::critical(gpu.device.as_deref());
            alarm::Cause::Limit { value: now.0.into(), limit: critical.0.into() }
        }
        ladder::Cause::Blind(missing) => alarm::Cause::Missing(missing),
        ladder::Cause::Zone(index, stage) => alarm::Cause::Zone { zone: short(index), stage },
        ladder::Cause::Cooling => alarm::Cause::Cooling,
    };
    let each = |(one, gpu): (&super::step::GpuLimited, &Gpu)| Restrained {
        power: (one.power.rung, one.power.cause.map(power)),
        heat: (one.heat.rung, one.heat.cause.map(|cause| heat(cause, gpu))),
        limits: one.limits,
    };
    Restraint {
        cap: limited.cap,
        basis: limited.basis,
        estimate: limited.estimate,
        gpus: limited.gpus.iter().zip(gpus).map(each).collect(),
    }
}

fn short(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
