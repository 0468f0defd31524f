//! How much of a limit is left for the GPUs: what the meter shows, whether it can be believed, and the sum of the parts.
//!
//! Of the meter's word and of each guard's [`judge`](super::judge) decides. Of one that is not believed nothing is learnt; the cap, or
//! the guard, is then held by the sum of its own parts.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::judge::{Judge, Parts};
use super::share::{Constraint, Shares};
use super::{AIM, Cause, GUARD_AIM, GUARD_OVER, Gpu, Guard, Inputs, MOST, Policy};
use crate::units::Percent;

/// Thousandths at a supply's input for one more at a GPU: a good supply's. What a worse one loses is learnt with the rest; until
/// then a drop goes a little too far, never not far enough.
pub const NOMINAL: i64 = 1_070;
/// What else the rig draws is learnt with this time constant.
const LEARN_MS: i64 = 700;
/// What else a guard's members' rail carries sinks so slowly: a fan's start must not be forgotten at once.
const FORGET_MS: i64 = 30_000;
/// A supply's meter comes so much later than a GPU's.
const LAG_MS: i64 = 250;
/// Nothing is learnt for so long after the limits have moved.
const SETTLE: Duration = Duration::from_millis(800);
/// GPUs that were just found, or a new helper's, are given so long before they count for what they may draw at worst.
const FOUND: Duration = Duration::from_secs(2);
/// So much below the sum of the GPUs a meter may read: two instruments, and moments that differ.
const LOW: (i64, i64) = (970, 30_000);
/// A rail may carry so much less for each card: its slot has that from elsewhere (PCI Express CEM, 75 W).
const SLOT: i64 = 75_000;
/// So much above all parts at their worst.
const HIGH: (i64, i64) = (1_300, 100_000);

/// What a decision rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The measured input.
    #[default]
    Meter,
    /// The sum of what is known, because the meter is missing or cannot be true.
    Parts {
        /// What stays unused of a cap for that.
        margin: Percent,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Belief {
    /// At the input, what is not explained by the limited GPUs at nominal loss; none before the first good reading.
    rest: Option<i64>,
    /// GPUs that told what they draw when that was learnt.
    told: usize,
    /// How many GPUs there are while not all tell that, and since when.
    silent: Option<(usize, Instant)>,
    judge: Judge,
    guards: Vec<Guarded>,
    /// The GPUs' draw as late as the meter is.
    lagging: Option<i64>,
    settled_at: Instant,
}

/// The same for a guard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Guarded {
    rest: Option<i64>,
    told: usize,
    judge: Judge,
}

/// What was found in this tick.
pub(super) struct Found {
    pub(super) basis: Basis,
    /// What the rig draws.
    pub(super) estimate: i64,
    /// The meter is good now: who does not use a limit may lend it.
    pub(super) good: bool,
    /// The GPUs are known, or nobody will know them: what they must have at least can be held against the budget.
    pub(super) known: bool,
    rest: i64,
    /// Thousandths at the input for one at a GPU.
    loss: i64,
}

impl Found {
    /// What the GPUs may draw together under this limit.
    pub(super) fn budget(&self, limit: i64) -> i64 {
        let aim = match self.basis {
            Basis::Meter => limit.saturating_mul(AIM) / 1000,
            Basis::Parts { margin } => limit.saturating_mul(AIM - 10 * i64::from(margin.0.min(90))) / 1000,
        };
        (aim - self.rest).saturating_mul(1000) / self.loss
    }

    /// What the rig draws when its GPUs draw this.
    pub(super) fn whole(&self, gpus: i64) -> i64 {
        self.rest.saturating_add(gpus.saturating_mul(self.loss) / 1000)
    }
}

impl Belief {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            rest: None,
            told: 0,
            silent: None,
            judge: Judge::new(),
            guards: Vec::new(),
            lagging: None,
            settled_at: now,
        }
    }

    /// The limits have just moved.
    pub(super) fn unsettle(&mut self, now: Instant) {
        self.settled_at = now + SETTLE;
    }

    pub(super) fn look(&mut self, policy: &Policy, inputs: &Inputs<'_>, shares: &Shares, since: Duration) -> Found {
        let worst = worst_loss(policy);
        let explained = sum(inputs.gpus, shares, u64::MAX);
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let mut lagging = self.lagging.map_or(explained, |before| toward(before, explained, millis, LAG_MS));
        let steady = lagging.abs_diff(explained) <= explained.unsigned_abs() / 25 && inputs.now >= self.settled_at;

        let most =
            inputs.gpus.iter().map(at_worst).sum::<i64>().saturating_mul(worst) / 1000 + i64::from(policy.base.0);
        let most = most.saturating_mul(HIGH.0) / 1000 + HIGH.1;
        let drawn = told(inputs.gpus, u64::MAX);
        let parts = Parts { drawn, loss: NOMINAL, rest: self.rest, bounds: (least(drawn), most) };
        if self.judge.look(inputs.meters, &parts, inputs.now) {
            // What was learnt before is from another time; what is too much for the parts stays until then.
            self.rest = None;
        }
        let good = self.judge.good;
        let tell = telling(inputs.gpus, u64::MAX);
        let count = inputs.gpus.len();
        let silent = self.silent.filter(|(before, _)| *before == count).unwrap_or((count, inputs.now));
        self.silent = tell.is_none_or(|telling| telling == 0).then_some(silent);
        let known =
            self.silent.is_none_or(|(_, since)| count > 0 && inputs.now.saturating_duration_since(since) >= FOUND);
        if let Some(meter) = good
            && self.judge.believed
            && (self.rest.is_none() || tell.is_some())
        {
            let telling = tell.unwrap_or(0);
            if telling != self.told {
                // The draw of those that are known now was taken for the rest's, and that of those that are lost belongs to it.
                self.rest = None;
                lagging = explained;
            }
            self.told = telling;
            let rest = (meter - lagging.saturating_mul(NOMINAL) / 1000).max(0);
            let learn = |before| if steady { toward(before, rest, millis, LEARN_MS) } else { before };
            self.rest = Some(self.rest.map_or(rest, learn));
        }
        self.lagging = Some(lagging);
        self.guards.resize(inputs.guards.len(), Guarded { rest: None, told: 0, judge: Judge::new() });
        for (memory, guard) in self.guards.iter_mut().zip(inputs.guards) {
            memory.learn(guard, inputs, shares, most, (steady, millis));
        }
        match (self.rest, self.judge.believed) {
            (Some(rest), true) => {
                let estimate = rest + lagging.saturating_mul(NOMINAL) / 1000;
                Found { basis: Basis::Meter, estimate, good: good.is_some(), known, rest, loss: NOMINAL }
            }
            (rest, _) => {
                let free = unlimited(inputs.gpus.iter());
                let base = i64::from(policy.base.0) + free.saturating_mul(worst) / 1000;
                let rest = base.max(rest.unwrap_or(0));
                let drawn: i64 = inputs.gpus.iter().filter(|gpu| gpu.limits.is_some()).map(at_worst).sum();
                let estimate = rest.saturating_add(drawn.saturating_mul(worst) / 1000);
                Found {
                    basis: Basis::Parts { margin: policy.margin },
                    estimate,
                    good: good.is_some(),
                    known,
                    rest,
                    loss: worst,
                }
            }
        }
    }

    /// A guard, as a limit of its GPUs' sum; what it carries is then `rest` and so many thousandths of that sum.
    pub(super) fn guard(&self, policy: &Policy, index: usize, guard: &Guard, gpus: &[Gpu]) -> Constraint {
        let (rest, loss, margin) = self.carries(policy, index, guard, gpus);
        let aim = i64::from(guard.limit.0).saturating_mul(GUARD_AIM - margin) / 1000;
        let budget = (aim - rest).saturating_mul(1000) / loss;
        Constraint { cause: Cause::Guard(index), budget, strict: true, members: members(guard) }
    }

    /// Whether more is carried than may be, and whether that is measured, or the sum of the parts where what is measured is not believed.
    pub(super) fn exceeds(
        &self,
        policy: &Policy,
        index: usize,
        guard: &Guard,
        gpus: &[Gpu],
        known: bool,
    ) -> (bool, bool) {
        let limit = i64::from(guard.limit.0);
        let judge = self.guards.get(index).map(|memory| &memory.judge);
        if let Ok(measured) = guard.measured()
            && judge.is_some_and(|judge| judge.believed)
        {
            return (i64::from(measured.0) * 1000 > limit.saturating_mul(GUARD_OVER), true);
        }
        let (rest, loss, _) = self.carries(policy, index, guard, gpus);
        let limited = fed(guard, gpus).filter(|gpu| gpu.limits.is_some());
        (known && rest + limited.map(at_worst).sum::<i64>().saturating_mul(loss) / 1000 > limit, false)
    }

    /// What it carries beside its GPUs, thousandths for one at a GPU, and the thousandths that stay unused for what is not known.
    fn carries(&self, policy: &Policy, index: usize, guard: &Guard, gpus: &[Gpu]) -> (i64, i64, i64) {
        let memory = self.guards.get(index);
        let known = memory.and_then(|memory| memory.rest);
        let believed = guard.measured().is_ok() && memory.is_some_and(|memory| memory.judge.believed);
        match known.filter(|_| believed) {
            Some(rest) => (rest, nominal(guard), 0),
            None => {
                let (base, loss) = if guard.input { (i64::from(policy.base.0), worst_loss(policy)) } else { (0, 1000) };
                let free = unlimited(fed(guard, gpus)).saturating_mul(loss) / 1000;
                ((base + free).max(known.unwrap_or(0)), loss, 10 * i64::from(policy.margin.0.min(90)))
            }
        }
    }
}

impl Guarded {
    /// Judges its meter, and learns what else it carries.
    fn learn(&mut self, guard: &Guard, inputs: &Inputs<'_>, shares: &Shares, most: i64, (steady, millis): (bool, i64)) {
        let set = members(guard);
        let drawn = told(inputs.gpus, set);
        let loss = nominal(guard);
        // Cards that are not named may hang on it too, so no more than the whole rig bounds it; and of a rail not even that.
        let bounds = if guard.input {
            (least(drawn), most)
        } else {
            (least(drawn) - SLOT.saturating_mul(i64::from(set.count_ones())), i64::MAX)
        };
        if self.judge.look(&guard.meters, &Parts { drawn, loss, rest: self.rest, bounds }, inputs.now) {
            self.rest = None;
        }
        let Some(measured) = self.judge.good.filter(|_| self.judge.believed) else { return };
        let Some(telling) = telling(inputs.gpus, set) else { return };
        if telling != self.told {
            self.rest = None;
        }
        // Nor is anything learnt first while it moves: the draw of GPUs that were just found would be taken for the rest's.
        if self.rest.is_none() && !steady {
            return;
        }
        self.told = telling;
        let found = (measured - sum(inputs.gpus, shares, set).saturating_mul(loss) / 1000).max(0);
        let learn = |before| match steady {
            true if found > before => toward(before, found, millis, LEARN_MS),
            true => toward(before, found, millis, FORGET_MS),
            false => before,
        };
        self.rest = Some(self.rest.map_or(found, learn));
    }
}

/// Thousandths that it shows for one at a GPU.
const fn nominal(guard: &Guard) -> i64 {
    if guard.input { NOMINAL } else { 1000 }
}

/// What those GPUs draw, as far as they tell it.
fn told(gpus: &[Gpu], members: u64) -> i64 {
    let of = gpus.iter().enumerate().filter(|(index, _)| members & bit(*index) != 0);
    of.filter_map(|(_, gpu)| gpu.power.ok()).map(|power| i64::from(power.0)).sum()
}

/// The least that a meter of GPUs that draw so much can show.
const fn least(drawn: i64) -> i64 {
    drawn.saturating_mul(LOW.0) / 1000 - LOW.1
}

/// The GPUs that a guard feeds.
fn fed<'a>(guard: &Guard, gpus: &'a [Gpu]) -> impl Iterator<Item = &'a Gpu> {
    let set = members(guard);
    gpus.iter().enumerate().filter(move |(index, _)| set & bit(*index) != 0).map(|(_, gpu)| gpu)
}

/// Thousandths at the input for one at a GPU, at the supply's worst.
fn worst_loss(policy: &Policy) -> i64 {
    100_000 / i64::from(policy.efficiency.0.clamp(50, 100))
}

/// What a GPU may be drawing: its highest limit where it does not tell, for its settings may not have taken either.
pub(super) fn at_worst(gpu: &Gpu) -> i64 {
    let highest = gpu.limits.map_or(gpu.top, |(_, highest)| highest.max(gpu.top));
    i64::from(gpu.power.unwrap_or(highest).0)
}

/// What cannot be limited cannot be held back either, and is counted as at its worst.
fn unlimited<'a>(gpus: impl Iterator<Item = &'a Gpu>) -> i64 {
    gpus.filter(|gpu| gpu.limits.is_none()).map(at_worst).sum()
}

/// How many of those GPUs can be limited, where each of these tells what it draws. While one does not, nothing more is learnt of the
/// rest: its draw would be taken for the rest's, and its limit counts too. One that cannot be limited, because it is lost, is a
/// part of the rest.
fn telling(gpus: &[Gpu], members: u64) -> Option<usize> {
    let mut of = gpus.iter().enumerate().filter(|(index, gpu)| members & bit(*index) != 0 && gpu.limits.is_some());
    of.try_fold(0, |count, (_, gpu)| gpu.power.ok().map(|_| count + 1))
}

/// What those GPUs draw that can be limited and tell it, as far as they keep to their limits.
fn sum(gpus: &[Gpu], shares: &Shares, members: u64) -> i64 {
    let drawn = |(index, gpu): (usize, &Gpu)| {
        let power = gpu.power.ok().filter(|_| gpu.limits.is_some() && members & bit(index) != 0)?;
        Some(i64::from(power.0).min(shares.set(index).unwrap_or(i64::MAX)))
    };
    gpus.iter().enumerate().filter_map(drawn).sum()
}

pub(super) fn members(guard: &Guard) -> u64 {
    guard.gpus.iter().fold(0, |set, index| set | bit(*index))
}

pub(super) fn bit(index: usize) -> u64 {
    if index < MOST { 1 << index } else { 0 }
}

/// Part of the way, as a time constant has it.
pub(super) fn toward(from: i64, to: i64, millis: i64, constant: i64) -> i64 {
    from + (to - from).saturating_mul(millis.min(constant)) / constant
}
