//! What limits alone cannot do: clock locks, then payloads one by one, and the way back in reverse order.
//!
//! Halted are mining and batch work first, the one that earns least a watt before the others; then AI work, drained; then what
//! has outlived its grace is ended at once; a breaker gives [`GUARD_GRACE`] at most. A stack remembers the order. Going up needs no
//! patience; coming back waits [`HOLD`] since the last change, twice as long each time that it was too early.

use std::time::{Duration, Instant};

use super::share::{Constraint, at_least};
use super::{Cause, HOLD, Inputs, LONGEST_HOLD, Rung};
use crate::payload::manifest::Kind;

/// What would be restored must fit with so many hundredths of the budget to spare.
const SPARE: i64 = 5;

/// What a payload may take to end on a breaker that carries too much: thermal breakers carry a few hundredths more for minutes
/// (IEC 60898-1, table 7: 1.13 times the rated current for an hour).
const GUARD_GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halts {
    stack: Vec<Halted>,
    /// Why clocks are locked: each locks those of its own GPUs.
    clocks: Vec<Cause>,
    changed: Instant,
    hold: Duration,
    /// A rung was left at `changed`.
    left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halted {
    payload: usize,
    rung: Rung,
    cause: Cause,
    since: Instant,
}

impl Halts {
    pub(super) const fn new(now: Instant) -> Self {
        Self { stack: Vec::new(), clocks: Vec::new(), changed: now, hold: HOLD, left: false }
    }

    pub(super) fn rung(&self, payload: Option<usize>) -> Option<(Rung, Cause)> {
        let payload = payload?;
        self.stack.iter().find(|halted| halted.payload == payload).map(|halted| (halted.rung, halted.cause))
    }

    /// Whether this one locks the clocks of its GPUs.
    pub(super) fn locks(&self, one: &Constraint) -> bool {
        self.clocks.iter().any(|cause| cause.is(one.cause))
    }

    pub(super) fn payloads(&self, count: usize) -> Vec<Rung> {
        (0..count).map(|payload| self.rung(Some(payload)).map_or(Rung::Free, |(rung, _)| rung)).collect()
    }

    /// `known`: the GPUs' sums hold. `late`: what has been exceeded for too long whatever they say.
    pub(super) fn step(&mut self, inputs: &Inputs<'_>, constraints: &[Constraint], known: bool, late: &[Cause]) {
        self.stack.retain(|halted| halted.payload < inputs.payloads.len());
        self.clocks.retain(|cause| constraints.iter().any(|one| cause.is(one.cause)));
        let before = (self.clocks.len(), self.stack.len());
        for one in constraints.iter().filter(|_| known) {
            let least = |halts: &Self, clocks| at_least(one, inputs.gpus, halts, clocks);
            // Each round halts one payload or ends it.
            while least(self, true) > one.budget && self.push(inputs, one) {}
            if !self.locks(one) && least(self, false) > one.budget {
                self.clocks.push(one.cause);
            }
        }
        for one in constraints.iter().filter(|one| late.iter().any(|late| late.is(one.cause))) {
            let mut waiting = false;
            for halted in self.stack.iter_mut().filter(|halted| feeds(one, halted.payload, inputs)) {
                if matches!(one.cause, Cause::Guard(_)) {
                    // Whoever had halted it before gave it longer.
                    halted.cause = one.cause;
                }
                waiting |= waits(halted, inputs);
            }
            if waiting {
                continue;
            }
            if self.locks(one) {
                self.push(inputs, one);
            } else {
                self.clocks.push(one.cause);
            }
        }
        for halted in &mut self.stack {
            if waits(halted, inputs) || halted.rung == Rung::Stop || !is_running(halted.payload, inputs) {
                continue;
            }
            halted.rung = Rung::Stop;
        }
        if before != (self.clocks.len(), self.stack.len()) {
            if self.left && inputs.now.saturating_duration_since(self.changed) < self.hold {
                self.hold = (self.hold * 2).min(LONGEST_HOLD);
            }
            (self.changed, self.left) = (inputs.now, false);
            return;
        }
        self.back(inputs, constraints);
    }

    /// Halts the next payload of this constraint; whether there was one.
    fn push(&mut self, inputs: &Inputs<'_>, one: &Constraint) -> bool {
        let candidates = inputs.gpus.iter().enumerate().filter_map(|(index, gpu)| {
            let payload = gpu.payload.filter(|_| one.members & super::budget::bit(index) != 0)?;
            let kind = inputs.payloads.get(payload)?.kind;
            let rung = if kind == Kind::Ai { Rung::Drain } else { Rung::Pause };
            self.rung(Some(payload)).is_none().then_some((rung, gpu.worth, payload))
        });
        // A payload on several GPUs counts by its best one.
        let mut best: Vec<(Rung, u64, usize)> = Vec::new();
        for (rung, worth, payload) in candidates {
            match best.iter_mut().find(|(.., known)| *known == payload) {
                Some(known) => known.1 = known.1.max(worth),
                None => best.push((rung, worth, payload)),
            }
        }
        let Some((rung, _, payload)) = best.into_iter().min() else { return false };
        self.stack.push(Halted { payload, rung, cause: one.cause, since: inputs.now });
        true
    }

    /// One rung back, the last one of its cause, where it surely fits and long enough after the last change.
    fn back(&mut self, inputs: &Inputs<'_>, constraints: &[Constraint]) {
        let waited = inputs.now.saturating_duration_since(self.changed);
        if self.stack.is_empty() && self.clocks.is_empty() {
            if waited >= LONGEST_HOLD {
                self.hold = HOLD;
            }
            return;
        }
        if waited < self.hold {
            return;
        }
        let halted = (0..self.stack.len()).rev().filter_map(|place| {
            let mut after = self.clone();
            let halted = after.stack.remove(place);
            let last = after.stack.iter().skip(place).all(|later| !later.cause.is(halted.cause));
            last.then_some((after, Some(halted.payload), halted.cause))
        });
        let locked = (0..self.clocks.len()).rev().filter_map(|place| {
            let mut after = self.clone();
            let cause = after.clocks.remove(place);
            let last = after.stack.iter().all(|halted| !halted.cause.is(cause));
            last.then_some((after, None, cause))
        });
        let fits = |after: &Self, one: &Constraint| {
            at_least(&Constraint { strict: true, ..one.clone() }, inputs.gpus, after, false)
                <= one.budget - one.budget.max(0) * SPARE / 100
        };
        // Whoever it does not concern may be exceeded for ever.
        let good = |(after, payload, cause): &(Self, Option<usize>, Cause)| {
            let concerned = |one: &&Constraint| match payload {
                Some(payload) => feeds(one, *payload, inputs),
                None => cause.is(one.cause),
            };
            constraints.iter().filter(concerned).all(|one| fits(after, one))
        };
        if let Some((after, ..)) = halted.chain(locked).find(good) {
            *self = Self { changed: inputs.now, left: true, ..after };
        }
    }
}

/// Whether this payload draws what this constraint limits.
fn feeds(one: &Constraint, payload: usize, inputs: &Inputs<'_>) -> bool {
    let mut gpus = inputs.gpus.iter().enumerate();
    gpus.any(|(index, gpu)| gpu.payload == Some(payload) && one.members & super::budget::bit(index) != 0)
}

/// It may still be ending by itself.
fn waits(halted: &Halted, inputs: &Inputs<'_>) -> bool {
    let grace = inputs.payloads.get(halted.payload).map_or(Duration::ZERO, |payload| payload.grace);
    let grace = if matches!(halted.cause, Cause::Guard(_)) { grace.min(GUARD_GRACE) } else { grace };
    is_running(halted.payload, inputs) && inputs.now.saturating_duration_since(halted.since) < grace
}

fn is_running(payload: usize, inputs: &Inputs<'_>) -> bool {
    inputs.payloads.get(payload).is_some_and(|payload| payload.running)
}
