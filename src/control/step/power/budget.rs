//! How much of a limit is left for the GPUs: what the meter shows, whether it can be believed, and the sum of the parts.
//!
//! A meter is not believed when it shows less than the GPUs draw (a supply makes no energy), far more than all parts together,
//! nothing, or the same to the last bit while the GPUs' draw has moved: each for [`DOUBT`], in which nothing is learnt from it.
//! It is believed again after [`TRUST`] without any of these.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::share::{Constraint, Shares};
use super::{AIM, Cause, GUARD_AIM, Gpu, Guard, Inputs, MOST, Policy};
use crate::units::{Milliwatts, Percent};

/// Thousandths at a supply's input for one more at a GPU: a good supply's. What a worse one loses is learnt with the rest; until
/// then a drop goes a little too far, never not far enough.
pub const NOMINAL: i64 = 1_070;
/// A meter that cannot be true for so long is not believed: longer than a PMBus supply and a GPU can be apart.
pub(super) const DOUBT: Duration = Duration::from_millis(700);
/// And it must be good for so long before it is believed again.
const TRUST: Duration = Duration::from_secs(5);
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
    /// The same for each guard.
    guards: Vec<(Option<i64>, usize)>,
    /// The GPUs' draw as late as the meter is.
    lagging: Option<i64>,
    believed: bool,
    /// Since when it is good, or bad, as opposed to `believed`.
    turning: Option<Instant>,
    same: Option<Same>,
    settled_at: Instant,
}

/// A reading for as long as it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Same {
    meter: Milliwatts,
    since: Instant,
    /// The GPUs' draw when it came.
    drawn: i64,
    /// How far it was from what that draw explains.
    off: u64,
    /// That has been another one since.
    moved: bool,
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
            guards: Vec::new(),
            lagging: None,
            believed: true,
            turning: None,
            same: None,
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

        let good = self.plausible(policy, inputs);
        self.believe(good, inputs.now);
        let tell = telling(inputs.gpus, u64::MAX);
        let count = inputs.gpus.len();
        let silent = self.silent.filter(|(before, _)| *before == count).unwrap_or((count, inputs.now));
        self.silent = tell.is_none_or(|telling| telling == 0).then_some(silent);
        let known =
            self.silent.is_none_or(|(_, since)| count > 0 && inputs.now.saturating_duration_since(since) >= FOUND);
        if let Ok(meter) = inputs.meter
            && good
            && self.believed
            && (self.rest.is_none() || tell.is_some())
        {
            let telling = tell.unwrap_or(0);
            if telling != self.told {
                // The draw of those that are known now was taken for the rest's, and that of those that are lost belongs to it.
                self.rest = None;
                lagging = explained;
            }
            self.told = telling;
            let rest = (i64::from(meter.0) - lagging.saturating_mul(NOMINAL) / 1000).max(0);
            let learn = |before| if steady { toward(before, rest, millis, LEARN_MS) } else { before };
            self.rest = Some(self.rest.map_or(rest, learn));
        }
        self.lagging = Some(lagging);
        self.guards.resize(inputs.guards.len(), (None, 0));
        for ((rest, told), guard) in self.guards.iter_mut().zip(inputs.guards) {
            let Ok(measured) = guard.measured else { continue };
            let Some(telling) = telling(inputs.gpus, members(guard)) else { continue };
            if telling != *told {
                *rest = None;
            }
            // Nor is anything learnt first while it moves: the draw of GPUs that were just found would be taken for the rest's.
            if rest.is_none() && !steady {
                continue;
            }
            *told = telling;
            let loss = if guard.input { NOMINAL } else { 1000 };
            let members = sum(inputs.gpus, shares, members(guard));
            let found = (i64::from(measured.0) - members.saturating_mul(loss) / 1000).max(0);
            let learn = |before| match steady {
                true if found > before => toward(before, found, millis, LEARN_MS),
                true => toward(before, found, millis, FORGET_MS),
                false => before,
            };
            *rest = Some(rest.map_or(found, learn));
        }
        match (self.rest, self.believed) {
            (Some(rest), true) => {
                let estimate = rest + lagging.saturating_mul(NOMINAL) / 1000;
                Found { basis: Basis::Meter, estimate, good, known, rest, loss: NOMINAL }
            }
            (rest, _) => {
                let free = unlimited(inputs.gpus.iter());
                let base = i64::from(policy.base.0) + free.saturating_mul(worst) / 1000;
                let rest = base.max(rest.unwrap_or(0));
                let drawn: i64 = inputs.gpus.iter().filter(|gpu| gpu.limits.is_some()).map(at_worst).sum();
                let estimate = rest.saturating_add(drawn.saturating_mul(worst) / 1000);
                Found { basis: Basis::Parts { margin: policy.margin }, estimate, good, known, rest, loss: worst }
            }
        }
    }

    /// A guard, as a limit of its GPUs' sum.
    pub(super) fn guard(&self, policy: &Policy, index: usize, guard: &Guard, gpus: &[Gpu]) -> Constraint {
        let limit = i64::from(guard.limit.0);
        let measured = guard.measured.ok().and_then(|_| self.guards.get(index)?.0);
        let (aim, rest, loss) = match (measured, guard.input) {
            (Some(rest), true) => (limit.saturating_mul(GUARD_AIM) / 1000, rest, NOMINAL),
            (Some(rest), false) => (limit.saturating_mul(GUARD_AIM) / 1000, rest, 1000),
            (None, input) => {
                let aim = limit.saturating_mul(GUARD_AIM - 10 * i64::from(policy.margin.0.min(90))) / 1000;
                let known = self.guards.get(index).and_then(|(rest, _)| *rest).unwrap_or(0);
                let (base, loss) = if input { (i64::from(policy.base.0), worst_loss(policy)) } else { (0, 1000) };
                let fed = gpus.iter().enumerate().filter(|(index, _)| members(guard) & bit(*index) != 0);
                let free = unlimited(fed.map(|(_, gpu)| gpu));
                (aim, (base + free.saturating_mul(loss) / 1000).max(known), loss)
            }
        };
        let budget = (aim - rest).saturating_mul(1000) / loss;
        Constraint { cause: Cause::Guard(index), budget, strict: true, members: members(guard) }
    }

    fn plausible(&mut self, policy: &Policy, inputs: &Inputs<'_>) -> bool {
        let Ok(meter) = inputs.meter else { return false };
        let known = |gpu: &Gpu| gpu.power.map_or(0, |power| i64::from(power.0));
        let least: i64 = inputs.gpus.iter().map(known).sum();
        let most: i64 = inputs.gpus.iter().map(at_worst).sum();
        let most = most.saturating_mul(worst_loss(policy)) / 1000 + i64::from(policy.base.0);
        let value = i64::from(meter.0);
        let off = self.rest.map_or(0, |rest| value.abs_diff(rest.saturating_add(least.saturating_mul(NOMINAL) / 1000)));
        let mut same = self.same.filter(|same| same.meter == meter).unwrap_or(Same {
            meter,
            since: inputs.now,
            drawn: least,
            off,
            moved: false,
        });
        // Once the draw was another one it stays frozen, also when the draw comes back, until the meter shows something else. What the
        // cards tell is a mean and comes to where the meter is already: that is no draw that the meter does not see.
        let away = self.rest.is_none() || off > same.off;
        same.moved |= away && least.abs_diff(same.drawn).saturating_mul(60) > value.unsigned_abs();
        self.same = Some(same);
        let frozen = same.moved && inputs.now.saturating_duration_since(same.since) >= DOUBT;
        let low = value < least.saturating_mul(LOW.0) / 1000 - LOW.1;
        let high = value > most.saturating_mul(HIGH.0) / 1000 + HIGH.1;
        !(frozen || low || high)
    }

    fn believe(&mut self, good: bool, now: Instant) {
        if good == self.believed {
            self.turning = None;
            return;
        }
        let began = *self.turning.get_or_insert(now);
        if now.saturating_duration_since(began) >= if self.believed { DOUBT } else { TRUST } {
            (self.believed, self.turning) = (good, None);
            // What was learnt before is from another time; what is too much for the parts stays until then.
            if good {
                self.rest = None;
            }
        }
    }
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
