//! What the answer to the last act makes of it.

use super::lock::{Clock, Lock};
use super::record::Reason;
use super::state::{Goal, Pending, Phase, State};
use super::{AGAIN, Answer, Happening, RECONCILE, Rules, Seen};
use crate::gpu::plan::{self, Found, Knob};
use crate::gpu::wire::{Code, Read, Setting, Settings};
use crate::units::Milliwatts;

/// What a refusal says of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Nothing: this card cannot do it.
    Cannot,
    /// The GPU is gone.
    Lost,
    /// It may have been too much for the driver.
    Hung,
    /// Nothing: nobody could have set anything.
    Barred,
    /// Not this.
    Bad,
}

const fn refusal(code: Code) -> Refusal {
    match code {
        Code::NOT_SUPPORTED | Code::FUNCTION_NOT_FOUND | Code::DEPRECATED => Refusal::Cannot,
        // 28 is NVML_ERROR_GPU_NOT_FOUND.
        Code::GPU_IS_LOST | Code::RESET_REQUIRED | Code::NOT_FOUND | Code(28) => Refusal::Lost,
        Code::TIMEOUT => Refusal::Hung,
        // 1 is NVML_ERROR_UNINITIALIZED.
        Code::NO_PERMISSION
        | Code::DRIVER_NOT_LOADED
        | Code::LIBRARY_NOT_FOUND
        | Code::LIB_RM_VERSION_MISMATCH
        | Code(1) => Refusal::Barred,
        _ => Refusal::Bad,
    }
}

impl State {
    /// Takes the answer in. One that nobody waits for is nothing.
    pub(super) fn answered(&mut self, rules: &Rules, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if let Some(saved) = seen.saved.filter(|_| self.saving) {
            self.saving = false;
            if !saved && self.save_again.is_none() && self.trial {
                told.push(Happening::Unrecorded);
            }
            self.dirty |= !saved;
            self.save_again = (!saved).then(|| seen.now + RECONCILE);
        }
        let (Some(pending), Some(answer)) = (self.pending, seen.answer) else { return };
        match (pending, answer) {
            (Pending::Step(setting), Answer::Set(result)) => {
                self.pending = None;
                self.made(setting, *result, seen, told);
            }
            (Pending::Cap(limit), Answer::Set(result)) => {
                self.pending = None;
                self.limited(limit, *result, seen, told);
            }
            (Pending::Ceiling(clock, lock), Answer::Set(result)) => {
                self.pending = None;
                self.locked(clock, lock, *result, seen, told);
            }
            (Pending::Persistence(on), Answer::Set(result)) => {
                self.pending = None;
                self.persisted(on, *result, seen, told);
            }
            (Pending::Read, Answer::Read(result)) => {
                self.pending = None;
                match result {
                    Ok(settings) => self.read(settings, rules, seen, told),
                    Err(code) => self.unread(*code, seen, told),
                }
            }
            (
                Pending::Step(_) | Pending::Cap(_) | Pending::Ceiling(..) | Pending::Persistence(_) | Pending::Read,
                _,
            ) => {}
        }
    }

    /// A step of a transaction or of a repair.
    fn made(&mut self, setting: Setting, result: Read<()>, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        let knob = Knob::from(setting);
        let Err(code) = result else {
            match setting {
                Setting::PowerLimit(limit) => self.limit = Some(limit),
                Setting::CoreLock(lock) => self.core.last = Some(lock),
                Setting::MemoryLock(lock) => self.memory.last = Some(lock),
                Setting::CoreOffset(_) | Setting::MemoryOffset(_) | Setting::Persistence(_) => {}
            }
            self.undone.retain(|other| *other != knob);
            return;
        };
        match refusal(code) {
            Refusal::Cannot => self.cannot(knob, code, seen, told),
            Refusal::Lost => {
                self.fail(Reason::Lost, seen, told);
                self.phase = Phase::Away { until: seen.now + AGAIN };
            }
            Refusal::Hung => {
                self.refuse(knob, code, told);
                if let Goal::Profile(profile) = &self.goal
                    && self.trial
                {
                    let (digest, name) = (profile.digest(), profile.name.clone());
                    self.strike(digest, &name, seen, told);
                }
                self.phase = Phase::Away { until: seen.now + AGAIN };
            }
            Refusal::Barred => {
                self.refuse(knob, code, told);
                // Nothing can go down with what cannot be set.
                if self.record.trying.take().is_some() {
                    self.change(seen);
                }
                self.at_stake = false;
                self.phase = Phase::Away { until: seen.now + AGAIN };
            }
            Refusal::Bad if self.trial => self.bar_goal(Reason::Refused { knob, code }, seen, told),
            // The rest is made all the same; this one again at the next look, where it is not as it should be anyway.
            Refusal::Bad => {
                self.refuse(knob, code, told);
                if !self.undone.contains(&knob) {
                    self.undone.push(knob);
                }
            }
        }
    }

    /// A power limit beside the transaction.
    fn limited(&mut self, limit: Milliwatts, result: Read<()>, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        match result {
            Ok(()) => {
                self.limit = Some(limit);
                self.refused.retain(|(knob, _)| *knob != Knob::PowerLimit);
                if self.goal == Goal::Untouched {
                    self.capped = self.found != Some(limit);
                    if !self.capped {
                        (self.limit, self.found, self.read_at) = (None, None, None);
                    }
                    self.own(seen);
                }
            }
            Err(code) => {
                self.cap_again = Some(seen.now + RECONCILE);
                if refusal(code) == Refusal::Cannot {
                    self.cannot(Knob::PowerLimit, code, seen, told);
                } else {
                    self.refuse(Knob::PowerLimit, code, told);
                }
            }
        }
    }

    /// A lock beside the transaction.
    fn locked(&mut self, clock: Clock, lock: Lock, result: Read<()>, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        let knob = clock.knob();
        match result {
            Ok(()) => {
                let untouched = self.goal == Goal::Untouched;
                let held = self.lock_mut(clock);
                held.last = Some(lock).filter(|lock| !untouched || lock.is_some());
                held.ours = untouched && lock.is_some();
                if clock == Clock::Core {
                    self.outside = None;
                }
                self.refused.retain(|(other, _)| *other != knob);
                if untouched {
                    self.own(seen);
                }
            }
            Err(code) => {
                self.lock_mut(clock).again = Some(seen.now + RECONCILE);
                if refusal(code) == Refusal::Cannot {
                    self.cannot(knob, code, seen, told);
                } else {
                    self.refuse(knob, code, told);
                }
            }
        }
    }

    /// Persistence beside the transaction. It changes no clock: where it is refused the limits hold as they did, for as long as the
    /// driver has a client, and what the driver does not take back stays.
    fn persisted(&mut self, on: bool, result: Read<()>, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        let ours = on && result.is_ok();
        // Also where it was taken: whether it was made is read, and one that is not is no reason to ask without end.
        self.persist_again = on.then(|| seen.now + AGAIN);
        match result {
            Ok(()) => {
                self.persistent = Some(on);
                self.refused.retain(|(knob, _)| *knob != Knob::Persistence);
                told.push(Happening::Persists(on));
            }
            Err(code) if refusal(code) == Refusal::Cannot => self.cannot(Knob::Persistence, code, seen, told),
            Err(code) => self.refuse(Knob::Persistence, code, told),
        }
        if self.record.persists != ours {
            self.record.persists = ours;
            self.change(seen);
        }
    }

    /// On a card without a profile: whether something of ours is on it, for the next agent.
    fn own(&mut self, seen: &Seen<'_>) {
        let ours = self.holds();
        if self.record.ours != ours {
            self.record.ours = ours;
            self.change(seen);
        }
    }

    fn refuse(&mut self, knob: Knob, code: Code, told: &mut Vec<Happening>) {
        if !self.refused.contains(&(knob, code)) {
            // One of each knob: a card that answers with another code each time is told of each time.
            self.refused.retain(|(other, _)| *other != knob);
            self.refused.push((knob, code));
            told.push(Happening::Refused { knob, code });
        }
    }

    /// What should be there and is not, and what is there instead.
    fn drift(&self, limit: Option<Milliwatts>, settings: &Settings) -> Vec<(Setting, Found)> {
        let mut expected = self.plan.settings.clone();
        expected.retain(|setting| !matches!(setting, Setting::PowerLimit(_)));
        expected.extend(limit.map(Setting::PowerLimit));
        let drifted = |setting: Setting| Some((setting, Found::Set(plan::drifted(setting, settings)?)));
        expected.into_iter().filter_map(drifted).collect()
    }

    fn read(&mut self, settings: &Settings, rules: &Rules, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if self.limit.is_none() && (self.found.is_none() || self.goal == Goal::Untouched && !self.capped) {
            self.found = settings.limit.ok();
        }
        self.persistent = settings.persistence.ok();
        match self.phase {
            Phase::Start => {
                if self.applied && !self.drift(self.effective(seen), settings).is_empty() {
                    told.push(Happening::Reloaded);
                }
                self.set_all(Some(settings));
            }
            Phase::Verify | Phase::Probation { .. } if self.trial => {
                match (self.drift(self.limit, settings).first(), &self.phase) {
                    (Some((setting, _)), _) => self.bar_goal(Reason::NotHeld((*setting).into()), seen, told),
                    (None, Phase::Probation { until }) if seen.now >= *until => self.commit(seen, told),
                    (None, Phase::Probation { .. }) => self.look_again(seen),
                    (None, _) => {
                        self.applied = true;
                        self.phase = Phase::Probation { until: seen.now + rules.probation };
                        self.look_again(seen);
                    }
                }
            }
            Phase::Verify | Phase::Probation { .. } | Phase::Rest => {
                let Self { plan, undone, .. } = self;
                undone.retain(|knob| plan.get(*knob).is_some_and(|setting| !plan::holds(setting, settings)));
                let verified = self.phase != Phase::Rest;
                self.phase = Phase::Rest;
                self.look_again(seen);
                self.settle(self.drift(self.limit, settings), verified, seen, told);
            }
            Phase::Set(_) | Phase::Away { .. } => {}
        }
    }

    /// At rest, or just set: repaired at the next look and not at once, so that two who fight do so slowly.
    fn settle(&mut self, drift: Vec<(Setting, Found)>, verified: bool, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        let undone =
            self.undone.iter().filter_map(|knob| self.plan.get(*knob)).map(|setting| (setting, Found::Nothing));
        let wrong: Vec<_> = undone.chain(drift).collect();
        if wrong.is_empty() {
            self.applied = true;
            if verified && self.goal != Goal::Untouched {
                told.push(Happening::Applied(self.goal.name()));
            }
            let free = seen.cap.is_none() && seen.ceiling.is_none() && seen.memory.is_none();
            if self.goal == Goal::Defaults && free {
                self.record.ours = false;
                self.change(seen);
            }
        } else if !verified {
            told.extend(wrong.iter().map(|(expected, found)| Happening::Drift { expected: *expected, found: *found }));
            let settings: Vec<_> = wrong.into_iter().map(|(setting, _)| setting).collect();
            self.repair(plan::ordered(&settings, None), seen, told);
        }
    }

    fn set_all(&mut self, present: Option<&Settings>) {
        let mut steps = plan::ordered(&self.plan.settings, present);
        steps.reverse();
        self.phase = Phase::Set(steps);
    }

    fn commit(&mut self, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if let Goal::Profile(profile) = &self.goal {
            self.record.commit(profile, seen.brought);
            told.push(Happening::Committed(profile.name.clone()));
        }
        (self.trial, self.exposed, self.at_stake) = (false, false, false);
        self.phase = Phase::Rest;
        self.look_again(seen);
        self.change(seen);
    }

    /// The settings could not be read.
    fn unread(&mut self, code: Code, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        let refusal = refusal(code);
        self.look_again(seen);
        if refusal == Refusal::Lost {
            self.fail(Reason::Lost, seen, told);
        }
        if self.phase == Phase::Start {
            if refusal == Refusal::Cannot {
                self.set_all(None);
            } else {
                self.at_stake = false;
                self.phase = Phase::Away { until: seen.now + AGAIN };
            }
        }
    }
}
