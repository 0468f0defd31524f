//! What comes of a point, from looks at payload and GPUs. Pure: time and looks come in, one word comes out.
//!
//! ```text
//! settings ── settle ── both halves of it alike? ── measure ── both halves alike? ── mean
//!   Xid, heat, not running, refused work, settings that do not hold: trouble, at any time
//!   no rate or no watts for too long, a lost GPU: the end of the search
//! ```
//!
//! The numbers: what is not on the card after 5 s, or three times the settling time, is not taken; what has not settled after three
//! times its time is measured as it is; a window that is too noisy is made longer, up to twice, and then taken as it is and marked.
//! So a point takes 3 × settle + 2 × measure at most, and up to 5 s more where settling is that short.
//!
//! A lock of the memory is read back by its clock, as one of the core is; but a card may go to another of its few clocks than was
//! asked for, and what is measured is true of what was asked for all the same. So it only must be lower than without the lock.

use rigd::gpu::{Limits, Presence};
use rigd::local::{Gpu, Payload};
use rigd::plan::tune::Event;
use rigd::reading::Stage;
use rigd::units::{MilliPerSecond, Milliwatts};
use rigd::wire::PayloadPhase;
use serde::Serialize;

/// Halves of the settling time that are no farther apart are at rest, in thousandths.
const STEADY: u64 = 20;
/// Halves of a measurement that are farther apart are noise, in thousandths.
const NOISY: u64 = 10;
/// Fewer samples make no mean.
const FEWEST: usize = 2;
/// What was set is on the card and read back by then, ms: two ticks of the slowest agent and a slow driver.
const TAKEN: u64 = 5_000;
/// A limit that is read back higher by more than this does not hold, mW.
const LIMIT_STEP: u32 = 1_000;
/// A clock that is higher by more than this is not held, MHz: cards go in steps of up to 15.
const CLOCK_STEP: u32 = 30;
/// Refused results before it counts, and the share of all that is too much beyond what was so before, in thousandths: a pool
/// refuses one now and then.
const REFUSED: u64 = 3;
const REFUSED_SHARE: u64 = 100;
/// `nvmlClocksEventReason…` of nvml.h: hardware slowdown, heat by software, heat by hardware.
const HOT: i64 = 0x8 | 0x20 | 0x40;

/// What payload and GPUs are like at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Works, as the agent sees it.
    pub(super) runs: bool,
    /// Works, and yields less than its manifest expects, or its probe fails: soon it would be given up.
    pub(super) degraded: bool,
    /// By its word, where nothing speaks against it, thousandths a second.
    pub(super) rate: Option<u64>,
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// All GPUs answer.
    pub(super) there: bool,
    /// Of all its GPUs, mW.
    pub(super) power: Option<u64>,
    /// The fastest of those that are varied, MHz.
    pub(super) clock: Option<u32>,
    /// The fastest memory of those, MHz.
    pub(super) memory: Option<u32>,
    /// The performance state of the slowest of those.
    pub(super) pstate: Option<u8>,
    /// The highest power limit among those, mW.
    pub(super) limit: Option<u32>,
    /// Of all its GPUs since the agent's start.
    pub(super) xids: u32,
    /// One of them is held back by heat.
    pub(super) hot: bool,
}

impl Look {
    /// The payload with all its GPUs, of which these are varied.
    pub(super) fn new(payload: &Payload, gpus: &[Gpu], varied: &[String]) -> Self {
        let all = |read: fn(&Gpu) -> Option<u64>| gpus.iter().map(read).sum::<Option<u64>>();
        let ours = || gpus.iter().filter(|gpu| varied.contains(&gpu.info.uuid));
        let hot =
            |gpu: &Gpu| gpu.now.reasons.0.is_ok_and(|bits| bits & HOT != 0) || gpu.now.air.stage == Stage::Critical;
        Self {
            runs: payload.now.phase == PayloadPhase::Running,
            degraded: payload.now.phase == PayloadPhase::Degraded,
            rate: payload.now.rate.0.ok().filter(|_| !payload.belief.is_doubt()).map(|rate| rate.0),
            accepted: payload.now.accepted.0.unwrap_or(0),
            rejected: payload.now.rejected.0.unwrap_or(0),
            there: gpus.iter().all(|gpu| gpu.now.presence == Presence::Seen),
            power: all(|gpu| gpu.now.power.0.ok().map(|power| power.0.into())),
            clock: ours().filter_map(|gpu| Some(gpu.now.sm_mhz.0.ok()?.0)).max(),
            memory: ours().filter_map(|gpu| Some(gpu.now.memory_mhz.0.ok()?.0)).max(),
            pstate: ours().filter_map(|gpu| gpu.more.pstate.0.ok()).max(),
            limit: ours().filter_map(|gpu| Some(gpu.more.limit.0.ok()?.0)).max(),
            xids: gpus.iter().fold(0, |sum, gpu| gpu.more.xids.saturating_add(sum)),
            hot: gpus.iter().any(hot),
        }
    }

    /// Nothing speaks against trying the next point.
    pub(super) const fn is_calm(&self) -> bool {
        self.runs && self.there && !self.hot && self.rate.is_some() && self.power.is_some()
    }

    /// Refused results among those since `before`, in thousandths; none where too few were refused to tell.
    fn refused(&self, before: &Self) -> Option<u64> {
        let refused = self.rejected.saturating_sub(before.rejected);
        let all = self.accepted.saturating_sub(before.accepted).saturating_add(refused);
        refused.saturating_mul(1000).checked_div(all).filter(|_| refused >= REFUSED)
    }
}

/// How long things take, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) settle: u64,
    pub(super) measure: u64,
    /// A meter may say nothing for so long, and a payload be down after a trouble.
    pub(super) patience: u64,
}

/// How it is while nothing is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Normal {
    /// Share of its work that is refused anyway, in thousandths.
    pub(super) refused: u64,
    /// The fastest memory, MHz.
    pub(super) memory: Option<u32>,
}

/// What is measured at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Measured {
    /// Thousandths of a unit a second.
    pub(super) rate: u64,
    pub(super) power_mw: u32,
    /// The fastest that was seen.
    pub(super) clock_mhz: Option<u32>,
    /// The same of the memory.
    pub(super) memory_mhz: Option<u32>,
    /// The fastest performance state that was seen.
    pub(super) pstate: Option<u8>,
    /// How far both halves are apart, in thousandths: rate or watts, whichever are farther.
    pub(super) noise: u64,
    /// Refused results, in thousandths.
    pub(super) refused: u64,
}

/// Why a point has no measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Trouble {
    Xid,
    Heat,
    Stopped,
    NotHeld,
    MemoryNotHeld,
    HeldLower,
    TooLittle,
    Refused,
}

impl Trouble {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Xid => "the driver told of an error (Xid)",
            Self::Heat => "held back by heat",
            Self::Stopped => "the payload did not go on",
            Self::NotHeld => "the card did not take it",
            Self::MemoryNotHeld => "its memory did not get slower",
            Self::HeldLower => "something else holds it lower: heat, or the rig's power budget",
            Self::TooLittle => "less than the payload is expected to yield",
            Self::Refused => "its work was refused",
        }
    }
}

/// What the search is told of it.
pub(super) const fn event(came: &Result<Measured, Trouble>) -> Event {
    match came {
        Ok(measured) => Event::Measured(MilliPerSecond(measured.rate), Milliwatts(measured.power_mw)),
        Err(Trouble::Xid) => Event::Xid,
        Err(Trouble::Heat | Trouble::HeldLower) => Event::Heat,
        // No fault of the card: it is worth nothing there, and what is around it may be tried.
        Err(Trouble::TooLittle | Trouble::MemoryNotHeld) => Event::Measured(MilliPerSecond(0), Milliwatts(u32::MAX)),
        Err(Trouble::Stopped | Trouble::NotHeld | Trouble::Refused) => Event::Rejected,
    }
}

/// What to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look again.
    Settling,
    /// The same.
    Measuring,
    /// The same: the meter says nothing.
    Silent,
    /// This is what came of it.
    Came(Result<Measured, Trouble>),
    /// Nothing more can be measured, and why.
    Over(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: u64,
    rate: u64,
    power: u64,
}

/// One point under way.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    rules: Rules,
    limits: Limits,
    normal: Normal,
    /// As it was when the settings were made.
    before: Look,
    began: u64,
    settled: Option<u64>,
    silent: Option<u64>,
    /// The fastest core and memory, and the fastest state.
    core: Option<u32>,
    memory: Option<u32>,
    pstate: Option<u8>,
    samples: Vec<Sample>,
}

impl Watch {
    /// These limits were set at `now`, ms; `before` is the last look before that.
    pub(super) const fn new(rules: Rules, limits: Limits, normal: Normal, before: Look, now: u64) -> Self {
        Self {
            rules,
            limits,
            normal,
            before,
            began: now,
            settled: None,
            silent: None,
            core: None,
            memory: None,
            pstate: None,
            samples: Vec::new(),
        }
    }

    /// Takes a look.
    pub(super) fn step(&mut self, now: u64, look: &Look) -> Step {
        let trouble = |trouble| Step::Came(Err(trouble));
        if look.xids > self.before.xids {
            return trouble(Trouble::Xid);
        }
        if !look.there {
            return Step::Over("a GPU does not answer any more");
        }
        if look.hot {
            return trouble(Trouble::Heat);
        }
        if look.degraded {
            return trouble(Trouble::TooLittle);
        }
        if !look.runs {
            return trouble(Trouble::Stopped);
        }
        if look.refused(&self.before).is_some_and(|share| share > self.normal.refused + REFUSED_SHARE) {
            return trouble(Trouble::Refused);
        }
        let (Some(rate), Some(power)) = (look.rate, look.power) else {
            let since = *self.silent.get_or_insert(now);
            let over = now.saturating_sub(since) >= self.rules.patience;
            return if over { Step::Over("its rate or the watts are not told any more") } else { Step::Silent };
        };
        // A hole is not measured over.
        if self.silent.take().is_some() {
            (self.began, self.settled) = (now, None);
            self.samples.clear();
        }
        self.samples.push(Sample { at: now, rate, power });
        let Some(settled) = self.settled else {
            if self.is_settled(now) {
                if let Some(other) = self.other(look) {
                    let late = now.saturating_sub(self.began) >= TAKEN.max(3 * self.rules.settle);
                    return if late { trouble(other) } else { Step::Settling };
                }
                self.settled = Some(now);
                self.samples.clear();
            }
            return Step::Settling;
        };
        (self.core, self.memory) = (self.core.max(look.clock), self.memory.max(look.memory));
        self.pstate = self.pstate.into_iter().chain(look.pstate).min();
        if let Some(other) = self.other(look) {
            return trouble(other);
        }
        let time = now.saturating_sub(settled);
        let noise = noise(&self.samples);
        let enough = time >= self.rules.measure && self.samples.len() >= FEWEST;
        if !enough || noise.is_some_and(|noise| noise > NOISY) && time < 2 * self.rules.measure {
            return Step::Measuring;
        }
        let mean = |of: fn(&Sample) -> u64| mean(&self.samples, of).unwrap_or(0);
        let (rate, power) = (mean(|sample| sample.rate), mean(|sample| sample.power));
        if rate == 0 || power == 0 {
            return Step::Over("it yields nothing");
        }
        Step::Came(Ok(Measured {
            rate,
            power_mw: u32::try_from(power).unwrap_or(u32::MAX),
            clock_mhz: self.core,
            memory_mhz: self.memory,
            pstate: self.pstate,
            noise: noise.unwrap_or(0),
            refused: look.refused(&self.before).unwrap_or(0),
        }))
    }

    /// Its time is over, and what came in it stood still or will not.
    fn is_settled(&self, now: u64) -> bool {
        let time = now.saturating_sub(self.began);
        let from = now.saturating_sub(self.rules.settle);
        let first = self.samples.iter().position(|sample| sample.at >= from).unwrap_or(0);
        let steady = self.samples.get(first..).and_then(noise).is_some_and(|noise| noise <= STEADY);
        time >= self.rules.settle && (steady || time >= 3 * self.rules.settle)
    }

    /// What is there in place of what was set, as far as the card tells.
    fn other(&self, look: &Look) -> Option<Trouble> {
        let limits = self.limits.power.map(|power| power.0).zip(look.limit);
        let clocks = self.limits.clock.map(|clock| clock.0).zip(look.clock);
        let memory = self.limits.memory.and(self.normal.memory).zip(look.memory);
        let above = |step: u32| move |(set, found): (u32, u32)| found > set.saturating_add(step);
        if limits.is_some_and(above(LIMIT_STEP)) || clocks.is_some_and(above(CLOCK_STEP)) {
            return Some(Trouble::NotHeld);
        }
        if memory.is_some_and(|(without, found)| found.saturating_add(CLOCK_STEP) > without) {
            return Some(Trouble::MemoryNotHeld);
        }
        limits.filter(|(set, found)| found.saturating_add(LIMIT_STEP) < *set).map(|_| Trouble::HeldLower)
    }
}

/// How far the means of both halves are apart, in thousandths of what is between them; none where there are not two.
fn noise(samples: &[Sample]) -> Option<u64> {
    let (early, late) = samples.split_at_checked(samples.len() / 2)?;
    let apart = |of: fn(&Sample) -> u64| {
        let (early, late) = (mean(early, of)?, mean(late, of)?);
        let apart = u128::from(early.abs_diff(late)) * 1000;
        // Both are nothing: they are alike.
        Some(apart.checked_div(early.midpoint(late).into()).map_or(0, |apart| u64::try_from(apart).unwrap_or(u64::MAX)))
    };
    apart(|sample| sample.rate).max(apart(|sample| sample.power))
}

fn mean(samples: &[Sample], of: fn(&Sample) -> u64) -> Option<u64> {
    let sum: u128 = samples.iter().map(|sample| u128::from(of(sample))).sum();
    let mean = sum.checked_div(u128::try_from(samples.len()).ok()?)?;
    u64::try_from(mean).ok()
}

#[cfg(test)]
mod tests;
