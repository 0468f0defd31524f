//! What is to be done next.

use super::lock::{Clock, Lock};
use super::state::{Goal, Pending, Phase, State};
use super::{Act, Seen};
use crate::gpu::plan::{self, Knob};
use crate::gpu::wire::{Device, Setting};
use crate::units::Milliwatts;

impl State {
    /// The power limit that should hold now.
    pub(super) fn effective(&self, seen: &Seen<'_>) -> Option<Milliwatts> {
        if self.unable.contains(&Knob::PowerLimit) {
            return None;
        }
        let planned = match self.plan.get(Knob::PowerLimit) {
            Some(Setting::PowerLimit(limit)) => Some(limit),
            Some(_) | None => self.found,
        };
        plan::limited(planned, seen.cap, seen.device)
    }

    /// The power limit that holds while there is no cap, where that is known.
    #[must_use]
    pub fn uncapped(&self, device: &Device) -> Option<Milliwatts> {
        let planned = match self.plan.get(Knob::PowerLimit) {
            Some(Setting::PowerLimit(limit)) => Some(limit),
            Some(_) | None => self.found,
        };
        plan::limited(planned, None, device)
    }

    /// The lock of that clock to set beside the transaction: at once where it falls, at rest where it may rise again.
    fn ceiling(&self, clock: Clock, seen: &Seen<'_>) -> Option<Lock> {
        let held = self.lock(clock);
        if self.unable.contains(&clock.knob()) || held.again.is_some_and(|at| seen.now < at) {
            return None;
        }
        let planned = match self.plan.get(clock.knob()) {
            Some(Setting::CoreLock(lock) | Setting::MemoryLock(lock)) => lock,
            Some(_) | None => None,
        };
        let lock = clock.below(planned, seen);
        let ceiling = clock.ceiling(seen).is_some();
        // One that was set before the helper was lost is taken back, too.
        let Some(now) = held.last else { return (ceiling || held.ours).then_some(lock) };
        let at_rest = matches!(self.phase, Phase::Rest | Phase::Probation { .. })
            && !self.gave_up
            && !self.undone.contains(&clock.knob());
        let highest = |lock: Lock| lock.map_or(u32::MAX, |(_, high)| high.0);
        // A lower lock of the profile alone is made in its turn, with the rest of it.
        let falls = ceiling && highest(lock) < highest(now);
        (falls || at_rest && lock != now).then_some(lock)
    }

    /// The limit to set beside the transaction: at once where it falls, at rest where it may rise again.
    fn cap(&self, seen: &Seen<'_>) -> Option<Milliwatts> {
        if self.cap_again.is_some_and(|at| seen.now < at) {
            return None;
        }
        let limit = self.effective(seen)?;
        let at_rest = matches!(self.phase, Phase::Rest | Phase::Probation { .. })
            && !self.gave_up
            && !self.undone.contains(&Knob::PowerLimit);
        match (&self.goal, self.limit) {
            // Its own limit must be known first, and holds where it is lower.
            (Goal::Untouched, None) => {
                let found = self.found?;
                (self.capped || seen.cap.is_some() && limit < found).then_some(limit)
            }
            (_, None) => seen.cap.map(|_| limit),
            (_, Some(now)) => (limit < now || at_rest && limit != now).then_some(limit),
        }
    }

    /// Persistence to set beside the transaction. A profile says itself what it wants of it. It is read for as long as something holds
    /// the card back, and given back behind the last limit of ours: until then a client of the driver is here, and nothing is lost.
    fn persistence(&self, seen: &Seen<'_>) -> Option<bool> {
        if self.profile().is_some() || self.unable.contains(&Knob::Persistence) {
            return None;
        }
        if held(seen) {
            // Limits come first, and where none is of ours there is nothing to keep.
            let off = self.persistent == Some(false) && self.persist_again.is_none_or(|at| seen.now >= at);
            return (self.holds() && off).then_some(true);
        }
        (self.record.persists && !self.holds()).then_some(false)
    }

    /// The next act, if there is one: what holds the card back before the disk, and the disk before everything else.
    pub(super) fn next(&mut self, seen: &Seen<'_>) -> Option<Act> {
        if self.pending.is_some() {
            return None;
        }
        let mut due = self.beside(seen);
        if due.is_none() {
            self.come_back(seen);
            if self.dirty && !self.saving && self.save_again.is_none_or(|at| seen.now >= at) {
                (self.dirty, self.saving) = (false, true);
                return Some(Act::Save);
            }
            // A card at rest is looked at whatever the disk does: its own limit must be known before it is held back.
            let waits = self.saving && self.phase != Phase::Rest;
            due = if waits || seen.lost { None } else { self.due(seen) };
        }
        let (pending, act) = due?;
        self.pending = Some(pending);
        Some(act)
    }

    /// What is set beside the transaction.
    fn beside(&self, seen: &Seen<'_>) -> Option<(Pending, Act)> {
        if seen.lost {
            return None;
        }
        let cap = || self.cap(seen).map(|limit| (Pending::Cap(limit), Setting::PowerLimit(limit)));
        let ceiling =
            |clock: Clock| self.ceiling(clock, seen).map(|lock| (Pending::Ceiling(clock, lock), clock.setting(lock)));
        let persistence = || self.persistence(seen).map(|on| (Pending::Persistence(on), Setting::Persistence(on)));
        let beside = cap().or_else(|| Clock::BOTH.into_iter().find_map(ceiling)).or_else(persistence);
        beside.map(|(pending, setting)| (pending, Act::Set(setting)))
    }

    /// A transaction that could not go on begins again where its time has come.
    fn come_back(&mut self, seen: &Seen<'_>) {
        if let Phase::Away { until } = self.phase
            && !seen.lost
            && seen.now >= until
        {
            match self.starts.take(seen.now) {
                Ok(()) => self.start(seen),
                Err(at) => self.phase = Phase::Away { until: at },
            }
        }
    }

    /// The next of the transaction, or of its upkeep.
    fn due(&mut self, seen: &Seen<'_>) -> Option<(Pending, Act)> {
        let read = Some((Pending::Read, Act::Read));
        let time = self.read_at.is_none_or(|at| seen.now >= at);
        if let Phase::Set(steps) = &mut self.phase {
            if let Some(step) = steps.pop() {
                return self.make(step, seen);
            }
            self.phase = Phase::Verify;
            self.read_at = None;
            return read;
        }
        match &self.phase {
            // Not before `trying` is on the disk.
            Phase::Start => read.filter(|_| !(self.trial && self.dirty)),
            Phase::Verify | Phase::Probation { .. } => read.filter(|_| time),
            Phase::Rest if self.gave_up => None,
            Phase::Rest if self.goal == Goal::Untouched => {
                let wanted = self.capped || held(seen);
                read.filter(|_| time && wanted)
            }
            Phase::Rest => read.filter(|_| time),
            Phase::Set(_) | Phase::Away { .. } => None,
        }
    }

    fn make(&mut self, step: Setting, seen: &Seen<'_>) -> Option<(Pending, Act)> {
        let step = match step {
            Setting::PowerLimit(planned) => Setting::PowerLimit(self.effective(seen).unwrap_or(planned)),
            Setting::CoreLock(planned) => Setting::CoreLock(Clock::Core.below(planned, seen)),
            Setting::MemoryLock(planned) => Setting::MemoryLock(Clock::Memory.below(planned, seen)),
            Setting::CoreOffset(_) | Setting::MemoryOffset(_) | Setting::Persistence(_) => step,
        };
        if self.trial {
            (self.exposed, self.at_stake) = (true, true);
        }
        Some((Pending::Step(step), Act::Set(step)))
    }
}

/// Control holds the card back now.
pub(super) const fn held(seen: &Seen<'_>) -> bool {
    seen.cap.is_some() || seen.ceiling.is_some() || seen.memory.is_some()
}
