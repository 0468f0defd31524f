//! GPUs change hands: a transaction as a pure function.
//!
//! ```text
//!        ┌─────────────── there ────────────────┐        ┌──────────────── back ────────────────┐
//! Drain ─> Free ─> Reset ─> Wipe ─> Start ─> done     Drain ─> Free ─> Reset ─> Wipe ─> Start ─> back
//!   │        │       │        │       └── it does not work ──^                        └──> lost
//!   └ stuck  └ held  └ held   └ unwiped
//! ```
//!
//! Each step looks at what is and says what is missing, so that one that was interrupted at any instant is taken up by asking again:
//! the journal has the step, not what was done of it. Nobody is started before everybody who has a GPU of it has ended, nothing of
//! theirs is left on it, and their profile is gone from it.
//!
//! Longest time: to end (its grace and [`STUCK`]), to be free [`FREE`], to be reset [`RESET`], to be wiped [`WIPE`], to start (its
//! own time and [`SETTLE`]); and once more on the way back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::alarm::SwitchOutcome as Outcome;

/// What is killed and is not gone so long after its grace is in a driver's hands.
pub const STUCK: Duration = Duration::from_secs(60);
/// Processes are looked at each 10 s, memory each pass; a driver takes seconds to give it back.
pub const FREE: Duration = Duration::from_secs(45);
/// A profile is given back and read back within two passes, or it was not.
pub const RESET: Duration = Duration::from_secs(60);
/// For as many files as are removed at most.
pub const WIPE: Duration = Duration::from_secs(180);
/// What has worked for so long works.
pub const SETTLE: Duration = Duration::from_secs(2);

/// A payload and its GPUs, by UUID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its name.
    pub payload: String,
    /// All that it has, not only those that change.
    pub gpus: Vec<String>,
}

/// How far it is. The order is that of the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Who has the GPUs is told to end.
    Drain,
    /// Nothing of theirs is on the GPUs any more.
    Free,
    /// Their profile is gone from the GPUs.
    Reset,
    /// What was private is gone.
    Wipe,
    /// The next ones are started, and healthy.
    Start,
}

/// A change of hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Who ran before, with what.
    pub from: Vec<Share>,
    /// Who is to run, with what.
    pub to: Vec<Share>,
    /// It is being taken back.
    pub back: bool,
    /// How far it is.
    pub step: Step,
    /// Since when it is that far, since boot. Of this agent: the next one counts anew.
    pub since: Duration,
    /// Milliseconds of each step so far.
    pub took: [u32; 5],
    /// The next ones were told to run. Not for the journal: after a start of the agent they are told again.
    #[serde(skip)]
    pub told: bool,
    /// How often each of them had been started again when it was told.
    #[serde(skip)]
    pub restarts: Vec<u32>,
}

/// A payload as far as a switch goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Nothing of it runs, and nothing will by itself.
    pub rest: bool,
    /// It was told to end.
    pub ending: bool,
    /// Since when it is healthy, since boot; none while it is not.
    pub healthy: Option<Duration>,
    /// It waits for another attempt, or none will be made.
    pub failed: bool,
    /// How often it was started again by itself.
    pub restarts: u32,
    /// It must not be started: somebody took it out of the plan, or it is in quarantine, or gone.
    pub barred: bool,
    /// How long it may take to end, and to be healthy.
    pub times: [Duration; 2],
    /// The profile that it brings along.
    pub profile: Option<String>,
}

/// A GPU as far as a switch goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// It answers.
    pub there: bool,
    /// No payload has it, no process is on it, and no more memory is in use than without one.
    pub free: bool,
    /// Payloads at rest whose private folder is still there: nobody has it before that is gone.
    pub private: Vec<String>,
    /// The profile in force, or on its way.
    pub profile: Option<String>,
    /// The one that it has without any payload.
    pub own: Option<String>,
    /// What was set on it is being taken back, or will be: it is on the card until then.
    pub resetting: bool,
}

/// What is.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By name.
    pub payloads: BTreeMap<String, Life>,
    /// By UUID.
    pub cards: BTreeMap<String, Card>,
    /// When the GPUs were looked at, since boot.
    pub looked: Duration,
    /// Of whom something private is left, or may be, and whether that could not be removed; by name. Nobody has to know more of them.
    pub left: BTreeMap<String, bool>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Let it end.
    Stop(String),
    /// Remove what is private of it.
    Wipe(String),
    /// It has these GPUs from its next start on.
    Give(Share),
    /// Run it.
    Start(String),
    /// It is over.
    Finish(Outcome),
}

impl Switch {
    /// One that begins now.
    #[must_use]
    pub const fn new(from: Vec<Share>, to: Vec<Share>, now: Duration) -> Self {
        Self { from, to, back: false, step: Step::Drain, since: now, took: [0; 5], told: false, restarts: Vec::new() }
    }

    /// Those that end, or have.
    #[must_use]
    pub fn leaving(&self) -> &[Share] {
        if self.back { &self.to } else { &self.from }
    }

    /// Those that begin.
    #[must_use]
    pub fn coming(&self) -> &[Share] {
        if self.back { &self.from } else { &self.to }
    }

    /// Whether this payload is part of it.
    #[must_use]
    pub fn has(&self, payload: &str) -> bool {
        self.from.iter().chain(&self.to).any(|share| share.payload == payload)
    }

    /// Every GPU that is part of it, some of them twice.
    pub fn gpus(&self) -> impl Iterator<Item = &String> {
        self.from.iter().chain(&self.to).flat_map(|share| &share.gpus)
    }

    fn go(mut self, step: Step, now: Duration) -> Self {
        let took = u32::try_from(now.saturating_sub(self.since).as_millis()).unwrap_or(u32::MAX);
        if let Some(sum) = self.took.get_mut(self.step as usize) {
            *sum = sum.saturating_add(took);
        }
        Self { step, since: now, told: false, restarts: Vec::new(), ..self }
    }

    fn turn(self, now: Duration) -> Self {
        Self { back: true, ..self.go(Step::Drain, now) }
    }
}

/// How it goes on, and what is to be done. Asked again whenever something has changed; a deed that is done is not named again. The
/// caller writes down a switch that has changed before it does anything.
#[must_use]
pub fn next(switch: Switch, seen: &Seen, now: Duration) -> (Switch, Vec<Deed>) {
    let late = |time: Duration| now.saturating_sub(switch.since) > time;
    let finish = |switch: Switch, outcome| (switch, vec![Deed::Finish(outcome)]);
    match switch.step {
        Step::Drain => {
            let alive = switch.leaving().iter().filter(|share| !seen.life(share).rest);
            let alive: Vec<_> = alive.map(|share| (share, seen.life(share))).collect();
            if alive.is_empty() {
                return (switch.go(Step::Free, now), vec![]);
            }
            let grace = alive.iter().map(|(_, life)| life.times[0]).max().unwrap_or_default();
            if late(grace + STUCK) {
                return finish(switch, Outcome::Stuck);
            }
            let untold = alive.iter().filter(|(_, life)| !life.ending);
            let deeds = untold.map(|(share, _)| Deed::Stop(share.payload.clone())).collect();
            (switch, deeds)
        }
        // A look from before its end proves nothing.
        Step::Free if seen.looked > switch.since && switch.is_free(seen) => (switch.go(Step::Reset, now), vec![]),
        Step::Free if late(FREE) => finish(switch, Outcome::Held),
        Step::Reset if switch.is_reset(seen) => (switch.go(Step::Wipe, now), vec![]),
        Step::Reset if late(RESET) => finish(switch, Outcome::Held),
        Step::Free | Step::Reset => (switch, vec![]),
        Step::Wipe => {
            let stays = |name: &str| switch.coming().iter().any(|share| share.payload == name);
            let names = switch.leaving().iter().filter(|share| !stays(&share.payload));
            let left: Vec<_> = names.filter_map(|share| Some((share, seen.left.get(&share.payload)?))).collect();
            if left.is_empty() {
                return (switch.go(Step::Start, now), vec![]);
            }
            if late(WIPE) || left.iter().any(|(_, could_not)| **could_not) {
                return finish(switch, Outcome::Unwiped);
            }
            let deeds = left.iter().map(|(share, _)| Deed::Wipe(share.payload.clone())).collect();
            (switch, deeds)
        }
        Step::Start => start(switch, seen, now),
    }
}

fn start(mut switch: Switch, seen: &Seen, now: Duration) -> (Switch, Vec<Deed>) {
    let lives: Vec<(Share, Life)> = switch.coming().iter().map(|share| (share.clone(), seen.life(share))).collect();
    let end = |switch: Switch, worked: bool| match (worked, switch.back) {
        (true, back) => {
            let outcome = if back { Outcome::Back } else { Outcome::Done };
            (switch.go(Step::Start, now), vec![Deed::Finish(outcome)])
        }
        (false, false) => (switch.turn(now), vec![]),
        (false, true) => (switch.go(Step::Start, now), vec![Deed::Finish(Outcome::Lost)]),
    };
    // On the way back those that may still run do.
    let lives: Vec<_> = lives.into_iter().filter(|(_, life)| !(switch.back && life.barred)).collect();
    if lives.iter().any(|(_, life)| life.barred) {
        return end(switch, false);
    }
    if !switch.told {
        // Lost since, or not seen yet by an agent that was just started.
        if lives.iter().flat_map(|(share, _)| &share.gpus).any(|gpu| seen.cards.get(gpu).is_none_or(|card| !card.there))
        {
            return if now.saturating_sub(switch.since) > FREE { end(switch, false) } else { (switch, vec![]) };
        }
        switch.told = true;
        switch.restarts = lives.iter().map(|(_, life)| life.restarts).collect();
        let gives = lives.iter().map(|(share, _)| Deed::Give(share.clone()));
        let starts = lives.iter().map(|(share, _)| Deed::Start(share.payload.clone()));
        let deeds = gives.chain(starts).collect();
        return (switch, deeds);
    }
    let again = lives.iter().zip(&switch.restarts).any(|((_, life), before)| life.restarts > *before);
    let broken = lives.iter().any(|(_, life)| life.rest || life.failed || life.ending);
    let time = lives.iter().map(|(_, life)| life.times[1]).max().unwrap_or_default() + SETTLE;
    if again || broken || now.saturating_sub(switch.since) > time {
        return end(switch, false);
    }
    let works = |life: &Life| life.healthy.is_some_and(|since| now.saturating_sub(since) >= SETTLE);
    if lives.iter().all(|(_, life)| works(life)) { end(switch, true) } else { (switch, vec![]) }
}

impl Switch {
    /// Every GPU that somebody is to have is there and free, and so is every one that somebody leaves and that is there. What is
    /// private of who leaves is not in the way: it is removed before anybody is started.
    fn is_free(&self, seen: &Seen) -> bool {
        let card = |uuid: &String| seen.cards.get(uuid).cloned().unwrap_or_default();
        let leaves = self.leaving().iter().flat_map(|share| &share.gpus).map(card).all(|card| card.free || !card.there);
        let ours = |name: &String| self.leaving().iter().any(|share| share.payload == *name);
        leaves
            && self
                .coming()
                .iter()
                .flat_map(|share| &share.gpus)
                .map(card)
                .all(|card| card.free && card.private.iter().all(ours))
    }

    /// No GPU that is there has the profile of who left it, unless that is its own; none that somebody is to have has a stranger's.
    fn is_reset(&self, seen: &Seen) -> bool {
        let clean = |share: &Share| {
            let profile = seen.life(share).profile;
            let none = |card: &Card| card.profile.is_none() && !card.resetting;
            let good =
                |card: &Card| none(card) || card.profile.is_some() && [&card.own, &profile].contains(&&card.profile);
            // Of a card that an agent has not seen yet nobody knows.
            share.gpus.iter().all(|uuid| seen.cards.get(uuid).is_some_and(good))
        };
        self.coming().iter().all(clean)
            && self.leaving().iter().all(|share| {
                let profile = seen.life(share).profile;
                let gone = |card: &Card| {
                    !card.there || !card.resetting && (card.profile != profile || card.profile == card.own)
                };
                profile.is_none() || share.gpus.iter().filter_map(|uuid| seen.cards.get(uuid)).all(gone)
            })
    }
}

impl Seen {
    /// What is known of it; whatever is gone is at rest and cannot be started.
    fn life(&self, share: &Share) -> Life {
        let gone = || Life { rest: true, barred: true, ..Life::default() };
        self.payloads.get(&share.payload).cloned().unwrap_or_else(gone)
    }
}

#[cfg(test)]
mod tests;
