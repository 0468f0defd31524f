//! Where a GPU stands on its way, and what is to be done next.

use std::time::{Duration, Instant};

use super::lock::{Clock, Lock, Locked};
use super::pace::Pace;
use super::record::{Quarantined, Reason, Record, Trying};
use super::{DECIDED, Happening, OUTSIDE, RECONCILE, Seen, acts};
use crate::gpu;
use crate::gpu::plan::{self, Found, Knob, Note, Plan};
use crate::gpu::profile::Profile;
use crate::gpu::wire::{Code, Setting};
use crate::units::Milliwatts;

/// What is known of one GPU's settings.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) record: Record,
    /// The record is not on the disk yet.
    pub(super) dirty: bool,
    /// It is on its way there.
    pub(super) saving: bool,
    /// It could not be written; not before then again.
    pub(super) save_again: Option<Instant>,
    /// The record's `trying` was looked at.
    begun: bool,
    pub(super) goal: Goal,
    /// The goal was never good on this GPU.
    pub(super) trial: bool,
    /// A setting of the trial may be on the card.
    pub(super) exposed: bool,
    /// Going down now is a strike, the first of this attempt.
    pub(super) at_stake: bool,
    pub(super) phase: Phase,
    /// The goal's settings, less what the card cannot do.
    pub(super) plan: Plan,
    /// What the card turned out not to be able to do.
    pub(super) unable: Vec<Knob>,
    pub(super) pending: Option<Pending>,
    /// The power limit that was set last and holds.
    pub(super) limit: Option<Milliwatts>,
    /// The power limit before the first one of ours.
    pub(super) found: Option<Milliwatts>,
    /// A limit of ours is on a card that has no profile.
    pub(super) capped: bool,
    /// A cap was refused; not before then again.
    pub(super) cap_again: Option<Instant>,
    /// The locks of the core and of the memory clock.
    pub(super) core: Locked,
    pub(super) memory: Locked,
    /// Whether the driver keeps the card without clients, where that is known.
    pub(super) persistent: Option<bool>,
    /// That was asked for; not before then again.
    pub(super) persist_again: Option<Instant>,
    /// Refused while it was given back.
    pub(super) undone: Vec<Knob>,
    /// Refusals that were told.
    pub(super) refused: Vec<(Knob, Code)>,
    /// When the settings are read back next.
    pub(super) read_at: Option<Instant>,
    /// Since when the clock is outside its lock.
    pub(super) outside: Option<Instant>,
    /// Nothing more is tried until the helper is a new one.
    pub(super) gave_up: bool,
    /// All of the goal was on the card already.
    pub(super) applied: bool,
    /// Quarantined content that is wanted, as it was told.
    passed_over: Option<u32>,
    pub(super) starts: Pace,
    pub(super) repairs: Pace,
}

/// What should be on the card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Whatever is there: nothing of ours.
    Untouched,
    /// As its maker set it.
    Defaults,
    Profile(Profile),
}

impl Goal {
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Untouched | Self::Defaults => None,
            Self::Profile(profile) => Some(profile.name.clone()),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Profile(a), Self::Profile(b)) => a.digest() == b.digest(),
            (a, b) => a == b,
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing under way.
    Rest,
    /// To be read before it is set.
    Start,
    /// Settings to make, the last one first.
    Set(Vec<Setting>),
    /// To be read back.
    Verify,
    /// Watched until then.
    Probation { until: Instant },
    /// Cannot be reached; begun again then at the earliest.
    Away { until: Instant },
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// A setting of a transaction or a repair.
    Step(Setting),
    /// A power limit beside it.
    Cap(Milliwatts),
    /// A lock beside it.
    Ceiling(Clock, Lock),
    /// Persistence beside it.
    Persistence(bool),
    Read,
}

impl State {
    /// As the record has it, before the first step of a start.
    #[must_use]
    pub const fn new(record: Record) -> Self {
        let every = Duration::from_secs(120);
        Self {
            record,
            dirty: false,
            saving: false,
            save_again: None,
            begun: false,
            goal: Goal::Untouched,
            trial: false,
            exposed: false,
            at_stake: false,
            phase: Phase::Rest,
            plan: Plan { settings: Vec::new(), notes: Vec::new() },
            unable: Vec::new(),
            pending: None,
            limit: None,
            found: None,
            capped: false,
            cap_again: None,
            core: Locked::UNKNOWN,
            memory: Locked::UNKNOWN,
            persistent: None,
            persist_again: None,
            undone: Vec::new(),
            refused: Vec::new(),
            read_at: None,
            outside: None,
            gave_up: false,
            applied: false,
            passed_over: None,
            starts: Pace::new(every, 10),
            repairs: Pace::new(every, 5),
        }
    }

    /// What must survive a restart.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The profile that is on the card or on its way there: its fan rule holds.
    #[must_use]
    pub const fn profile(&self) -> Option<&Profile> {
        match &self.goal {
            Goal::Untouched | Goal::Defaults => None,
            Goal::Profile(profile) => Some(profile),
        }
    }

    /// How far it is.
    #[must_use]
    pub const fn stage(&self) -> gpu::Phase {
        match (&self.goal, &self.phase) {
            // What the last agent left is on the card until somebody has looked.
            (Goal::Untouched, Phase::Rest) if !self.begun && self.record.ours => gpu::Phase::RollingBack,
            (Goal::Untouched | Goal::Defaults, Phase::Rest) => gpu::Phase::Default,
            (Goal::Untouched | Goal::Defaults, _) => gpu::Phase::RollingBack,
            (Goal::Profile(_), Phase::Rest) => gpu::Phase::Committed,
            (Goal::Profile(_), Phase::Probation { .. }) => gpu::Phase::Probation,
            (Goal::Profile(_), Phase::Start | Phase::Set(_) | Phase::Verify | Phase::Away { .. }) => {
                gpu::Phase::Applying
            }
        }
    }

    /// It is new on this GPU and not kept through its probation yet.
    #[must_use]
    pub const fn on_trial(&self) -> bool {
        self.trial
    }

    /// Nothing of ours is on the card, or all that could be given back was: where a clean stop may end.
    #[must_use]
    pub const fn is_given_back(&self) -> bool {
        let back = matches!(self.goal, Goal::Untouched) && !self.holds() || self.gave_up;
        let kept = !self.saving && (!self.dirty || self.save_again.is_some());
        back && !self.record.persists && self.pending.is_none() && kept
    }

    /// A limit or a lock of ours is on a card that has no profile.
    pub(super) const fn holds(&self) -> bool {
        self.capped || self.core.ours || self.memory.ours
    }

    pub(super) const fn lock(&self, clock: Clock) -> &Locked {
        match clock {
            Clock::Core => &self.core,
            Clock::Memory => &self.memory,
        }
    }

    pub(super) const fn lock_mut(&mut self, clock: Clock) -> &mut Locked {
        match clock {
            Clock::Core => &mut self.core,
            Clock::Memory => &mut self.memory,
        }
    }

    /// Lets a profile out of quarantine, or all; gives how many were. The next step tries them where they are wanted.
    pub fn clear(&mut self, name: Option<&str>) -> usize {
        let cleared = self.record.clear(name);
        self.dirty = true;
        cleared
    }

    /// What is neither answer nor order: a strike from before, an Xid, a lost GPU, a new helper.
    pub(super) fn notice(&mut self, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if !self.begun {
            self.begun = true;
            if let Some(Trying { digest, name }) = self.record.trying.take() {
                self.strike(digest, &name, seen, told);
            }
        }
        if let Some(code) = seen.xid {
            self.fail(Reason::Xid(code), seen, told);
        }
        if seen.lost {
            self.fail(Reason::Lost, seen, told);
            self.forget(seen.now);
        }
        if seen.fresh {
            if let Goal::Profile(profile) = &self.goal
                && self.trial
                && self.at_stake
                && !seen.spared
            {
                let (digest, name) = (profile.digest(), profile.name.clone());
                self.strike(digest, &name, seen, told);
            }
            self.forget(seen.now);
        }
    }

    /// The card or its driver may have lost everything, and its last call is not answered any more.
    fn forget(&mut self, now: Instant) {
        self.pending = None;
        (self.limit, self.cap_again, self.outside) = (None, None, None);
        for lock in [&mut self.core, &mut self.memory] {
            (lock.last, lock.again) = (None, None);
        }
        self.persistent = None;
        self.gave_up = false;
        self.at_stake = false;
        self.undone.clear();
        if self.goal != Goal::Untouched {
            self.phase = Phase::Away { until: now };
        }
    }

    /// It went down with this profile; the second time is a quarantine.
    pub(super) fn strike(&mut self, digest: u32, name: &str, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        self.at_stake = false;
        self.record.trying = None;
        self.change(seen);
        told.push(Happening::Strike(name.to_owned()));
        if self.record.strike(digest) {
            self.bar(digest, name, Reason::Crashed, seen, told);
        }
    }

    /// Ends a trial for that reason, if there is one.
    pub(super) fn fail(&mut self, reason: Reason, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if self.trial && self.exposed {
            self.bar_goal(reason, seen, told);
        }
    }

    /// Puts the goal in quarantine, where it is a profile.
    pub(super) fn bar_goal(&mut self, reason: Reason, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if let Goal::Profile(profile) = &self.goal {
            let (digest, name) = (profile.digest(), profile.name.clone());
            self.bar(digest, &name, reason, seen, told);
        }
    }

    fn bar(&mut self, digest: u32, name: &str, reason: Reason, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        (self.trial, self.exposed, self.at_stake) = (false, false, false);
        self.record.bar(Quarantined { digest, name: name.to_owned(), reason, unix_s: seen.unix_s });
        self.change(seen);
        told.push(Happening::Quarantined { profile: name.to_owned(), reason });
    }

    pub(super) fn change(&mut self, seen: &Seen<'_>) {
        self.record.changed_unix_s = seen.unix_s;
        self.dirty = true;
    }

    /// Judges the core lock by the clock: it cannot be read back.
    pub(super) fn watch(&mut self, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        let watched = matches!(self.phase, Phase::Rest | Phase::Probation { .. });
        let Some(lock) = self.core.last.flatten().filter(|_| watched && self.profile().is_some()) else {
            self.outside = None;
            return;
        };
        let expected = Setting::CoreLock(Some(lock));
        let Some(clock) = seen.sample.and_then(|sample| plan::outside(lock, sample)) else {
            self.outside = None;
            return;
        };
        let since = *self.outside.get_or_insert(seen.now);
        if seen.now.saturating_duration_since(since) < OUTSIDE || self.pending.is_some() {
            return;
        }
        self.outside = None;
        if self.trial {
            self.bar_goal(Reason::OutsideLock(clock), seen, told);
        } else {
            told.push(Happening::Drift { expected, found: Found::Clock(clock) });
            self.repair(vec![expected], seen, told);
        }
    }

    /// Makes these settings again, within the budget.
    pub(super) fn repair(&mut self, settings: Vec<Setting>, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        let Some(knob) = settings.first().copied().map(Knob::from) else { return };
        if self.repairs.take(seen.now).is_ok() {
            self.phase = Phase::Set(settings.into_iter().rev().collect());
        } else if self.profile().is_some() {
            self.bar_goal(Reason::WillNotHold(knob), seen, told);
        } else {
            self.gave_up = true;
            told.push(Happening::GaveUp(knob));
        }
    }

    /// Goes for what is wanted, or for what it gets instead. Never while a call is under way: its answer is the old goal's.
    pub(super) fn choose(&mut self, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if self.pending.is_some() {
            return;
        }
        let barred = seen.wanted.filter(|profile| self.record.bars(profile.digest()));
        let goal = match (seen.wanted, barred) {
            (Some(profile), None) => Goal::Profile(profile.clone()),
            (Some(bad), Some(_)) if let Some(good) = self.record.instead_of(&bad.name) => Goal::Profile(good.clone()),
            _ if self.record.ours && !self.holds() => Goal::Defaults,
            _ => Goal::Untouched,
        };
        let digest = barred.map(Profile::digest);
        if let Some(barred) = barred.filter(|_| digest != self.passed_over) {
            told.push(Happening::Instead { wanted: barred.name.clone(), given: goal.name() });
        }
        self.passed_over = digest;
        if self.goal.is(&goal) {
            // Perhaps under another name.
            self.goal = goal;
        } else {
            self.begin(goal, seen, told);
        }
    }

    fn begin(&mut self, goal: Goal, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        self.plan = match &goal {
            Goal::Untouched => Plan::default(),
            Goal::Defaults => plan::defaults(seen.device),
            Goal::Profile(profile) => plan::plan(profile, seen.device),
        };
        self.trial = matches!(&goal, Goal::Profile(profile) if !self.record.knows(profile.digest()));
        let left = self.goal == Goal::Untouched && self.record.ours && !self.holds();
        self.goal = goal;
        (self.exposed, self.at_stake, self.gave_up, self.applied, self.outside) = (false, false, false, false, None);
        self.undone.clear();
        self.refused.clear();
        // A profile says itself what becomes of persistence.
        let handed = self.profile().is_some() && std::mem::take(&mut self.record.persists);
        if self.record.trying.take().is_some() || handed {
            self.change(seen);
        }
        if self.goal == Goal::Untouched {
            (self.phase, self.limit, self.found, self.read_at) = (Phase::Rest, None, None, None);
            (self.core.last, self.memory.last) = (None, None);
            return;
        }
        told.push(Happening::Began { profile: self.goal.name(), trial: self.trial });
        for knob in self.unable.clone() {
            self.plan.without(knob, seen.device);
        }
        told.extend(self.plan.notes.drain(..).map(Happening::Adapted));
        (self.capped, self.core.ours, self.memory.ours) = (false, false, false);
        if left && acts::held(seen) {
            // What an earlier agent has left holds until control has found out how far the card is to be held back.
            self.phase = Phase::Away { until: seen.now + DECIDED };
        } else {
            self.start(seen);
        }
    }

    pub(super) fn start(&mut self, seen: &Seen<'_>) {
        let Self { goal, trial, record, .. } = self;
        let trying = match goal {
            Goal::Profile(profile) if *trial => Some(Trying { digest: profile.digest(), name: profile.name.clone() }),
            Goal::Untouched | Goal::Defaults | Goal::Profile(_) => None,
        };
        if !record.ours || record.trying != trying {
            (record.ours, record.trying) = (true, trying);
            self.change(seen);
        }
        self.phase = Phase::Start;
    }

    /// The card cannot do that: told once, and not asked for again.
    pub(super) fn cannot(&mut self, knob: Knob, code: Code, seen: &Seen<'_>, told: &mut Vec<Happening>) {
        if !self.unable.contains(&knob) {
            self.unable.push(knob);
            told.push(Happening::Adapted(Note::Unable { knob, code }));
        }
        self.undone.retain(|other| *other != knob);
        self.plan.without(knob, seen.device);
        let changed = self.plan.notes.drain(..).collect::<Vec<_>>();
        for note in &changed {
            if let (Note::Unlocked(knob), Phase::Set(steps)) = (note, &mut self.phase) {
                steps.retain(|step| Knob::from(*step) != *knob);
                steps.extend(self.plan.get(*knob));
            }
        }
        told.extend(changed.into_iter().map(Happening::Adapted));
    }

    pub(super) fn look_again(&mut self, seen: &Seen<'_>) {
        let at = seen.now + RECONCILE;
        self.read_at = Some(match self.phase {
            Phase::Probation { until } if until > seen.now => at.min(until),
            Phase::Probation { .. }
            | Phase::Rest
            | Phase::Start
            | Phase::Set(_)
            | Phase::Verify
            | Phase::Away { .. } => at,
        });
    }
}
