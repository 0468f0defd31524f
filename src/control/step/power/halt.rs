//! What limits alone cannot do: clock locks, then payloads one by one, and the way back in reverse order.
//!
//! Halted are mining and batch work first, the one that earns least a watt before the others; then AI work, drained; then what
//! has outlived its grace is ended at once; a breaker gives [`GUARD_GRACE`] at most. What was paused and works on, as its cards' power
//! shows, is ended before anybody else is halted for it; and where nobody is left to halt and it is still too much, the paused are ended
//! too, one at a time, the one that draws most first. A stack remembers the order. Going up needs no
//! patience; coming back waits [`HOLD`] since the last change, twice as long each time that it was too early.

use std::time::{Duration, Instant};

use super::budget::at_worst;
use super::share::{Constraint, at_least, at_lowest_clocks};
use super::{Cause, GUARD_PATIENCE, Gpu, HOLD, Inputs, LONGEST_HOLD, Rung};
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
    /// Since when it is said to rest, or is gone.
    rests: Option<Instant>,
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

    /// `known`: the GPUs' sums hold. `late`: what has been exceeded for too long whatever they say, and whether that was measured.
    pub(super) fn step(
        &mut self,
        inputs: &Inputs<'_>,
        constraints: &[Constraint],
        known: bool,
        late: &[(Cause, bool)],
    ) {
        self.stack.retain(|halted| halted.payload < inputs.payloads.len());
        self.clocks.retain(|cause| constraints.iter().any(|one| cause.is(one.cause)));
        for halted in &mut self.stack {
            let rests = !is_running(halted.payload, inputs);
            halted.rests = rests.then(|| halted.rests.unwrap_or(inputs.now));
        }
        let before = self.count();
        for one in constraints.iter().filter(|_| known) {
            let least = |halts: &Self, clocks| at_least(one, inputs.gpus, halts, clocks);
            // Each round halts one payload or ends it.
            while least(self, true) > one.budget && self.push(inputs, one) {}
            if !self.locks(one) && least(self, false) > one.budget {
                self.clocks.push(one.cause);
            }
        }
        let of = |one: &Constraint| late.iter().find(|(late, _)| late.is(one.cause)).map(|(_, measured)| *measured);
        for (one, measured) in constraints.iter().filter_map(|one| Some((one, of(one)?))) {
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
            let works = |gpu: &Gpu| gpu.power.is_ok_and(|power| i64::from(power.0) >= at_lowest_clocks(gpu));
            if self.end(inputs, one, works) {
                continue;
            }
            if !self.locks(one) {
                self.clocks.push(one.cause);
            } else if !self.push(inputs, one) {
                // By the parts alone, nobody can tell that it is one of which nobody knows what it draws.
                self.end(inputs, one, |gpu| measured || gpu.power.is_ok());
            }
        }
        for halted in &mut self.stack {
            if !waits(halted, inputs) && is_running(halted.payload, inputs) {
                halted.rung = Rung::Stop;
            }
        }
        if before != self.count() {
            if self.left && inputs.now.saturating_duration_since(self.changed) < self.hold {
                self.hold = (self.hold * 2).min(LONGEST_HOLD);
            }
            (self.changed, self.left) = (inputs.now, false);
            return;
        }
        self.back(inputs, constraints);
    }

    /// How much is done.
    fn count(&self) -> (usize, usize, usize) {
        (self.clocks.len(), self.stack.len(), self.stack.iter().filter(|halted| halted.rung == Rung::Stop).count())
    }

    /// Ends the payload that draws most of those that were halted for this constraint and have such a GPU; whether there was one.
    fn end(&mut self, inputs: &Inputs<'_>, one: &Constraint, such: impl Fn(&Gpu) -> bool) -> bool {
        let of = |payload| inputs.gpus.iter().filter(move |gpu| gpu.payload == Some(payload));
        let candidate = |halted: &&mut Halted| {
            let there = inputs.payloads.get(halted.payload).is_some_and(|payload| payload.running);
            halted.rung < Rung::Stop && there && feeds(one, halted.payload, inputs) && of(halted.payload).any(&such)
        };
        let draws = |halted: &&mut Halted| of(halted.payload).map(at_worst).sum::<i64>();
        let most = self.stack.iter_mut().filter(candidate).max_by_key(draws);
        most.map(|halted| halted.rung = Rung::Stop).is_some()
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
        self.stack.push(Halted { payload, rung, cause: one.cause, since: inputs.now, rests: None });
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

/// It may still be ending by itself, or what its rest has brought is not seen yet.
fn waits(halted: &Halted, inputs: &Inputs<'_>) -> bool {
    let grace = inputs.payloads.get(halted.payload).map_or(Duration::ZERO, |payload| payload.grace);
    let grace = if matches!(halted.cause, Cause::Guard(_)) { grace.min(GUARD_GRACE) } else { grace };
    let (from, time) = halted.rests.map_or((halted.since, grace), |rests| (rests, GUARD_PATIENCE));
    inputs.now.saturating_duration_since(from) < time
}

/// Said to work still.
fn is_running(payload: usize, inputs: &Inputs<'_>) -> bool {
    inputs.payloads.get(payload).is_some_and(|payload| payload.running && !payload.paused)
}
