//! Keeps one GPU at its profile. A profile is a transaction:
//!
//! ```text
//! recorded ─ read ─ set, one after the other ─ read back ─ probation ─ committed ─ read back every 30 s
//!               any failure: quarantined; its last good edition instead, else the card's own last good profile,
//!               else the maker's defaults; never what another payload brought along
//! ```
//!
//! - **Probation**: no Xid of any kind, never lost, every setting reads back, the core clock within its lock. An Xid that is
//!   an application's fault otherwise counts too: a core that is too fast shows as just that.
//! - **Quarantine** is of a profile's content on one GPU. It ends when the content is edited, or by an operator.
//! - **What a card cannot do** (not supported, no such function, removed from the driver) is told once and left out: a
//!   profile is of a fleet of mixed cards. Any other refusal fails a profile on trial, but for what says nothing of it: no
//!   permission, no driver, another driver's library. Then it waits: five minutes, or for a new helper. A profile that was
//!   good before is repaired like any drift.
//! - **Crash guard**: `trying` is on disk before the first setting of a profile that was never good. Found at a start, or
//!   when the helper had to be started anew meanwhile, it is a strike; two are a quarantine. A helper that was lost over one
//!   GPU's settings is that GPU's strike alone. What cannot be recorded is not tried: a rig that goes down with it would
//!   try it again at each start.
//! - **Drift** is told and repaired. Five repairs at once and one more every two minutes; then the profile will not hold.
//!   What a new driver or helper lost is set again as a whole and is no drift.
//! - **A cap** is a setpoint beside the profile, and so is a **ceiling** of the core or the memory clock: the lower of both
//!   holds. They wait for no disk, also where that hangs, and for no transaction. A GPU without a profile is not touched but for these, and gets back the limit that it had;
//!   a lock of somebody else's cannot be read, so after a ceiling the card has none.
//! - **Persistence** goes with them: without it a driver forgets every setting with its last client (`nvml.h`,
//!   nvmlDeviceSetPersistenceMode; NVIDIA's "Driver Persistence"), and an agent that is killed under a cap would leave the cards
//!   without it until the next one is up. That one leaves everything as it is until it knows how far the card is to be held back: a
//!   clock that it gave free meanwhile would be above the cap. Where persistence was off, that is on record, and it goes off behind the last limit. A profile
//!   has a word of its own on it: on where it says nothing; off, cap or no cap, where it says so.
//!
//! All of it is one pure function, [`step`]: at most one act at a time, whose answer comes with the next call. A shell
//! calls it until there is no act left, a bounded number of times a tick.
//!
//! # Numbers
//!
//! Starts of a whole profile without a change of what is wanted: ten, then one every two minutes, so at most 40 in the
//! first hour, of six settings each at most: 240 calls. Repairs: 35 in the first hour, 210 calls. Caps and ceilings: one call
//! per change; one every 30 s where they are refused. Persistence: two calls per cap, and one every five minutes where it is
//! refused or does not hold.

use std::fmt;
use std::time::{Duration, Instant};

use super::plan::{Found, Knob, Note};
use super::profile::Profile;
use super::wire::{Code, Device, Read, Sample, Setting, Settings};
use crate::units::{Megahertz, Milliwatts};

mod acts;
mod answers;
mod lock;
mod pace;
mod record;
mod state;

pub use record::{Quarantined, Reason, Record};
pub use state::State;

/// Time between two looks at what is set.
pub const RECONCILE: Duration = Duration::from_secs(30);
/// Time before something is tried again that failed for no fault of the profile.
pub const AGAIN: Duration = Duration::from_secs(300);
/// A new agent knows by then how far a card is to be held back: control believes what it reads after 2 s, and locks clocks where limits
/// turn out not to be enough after another 3.
const DECIDED: Duration = Duration::from_secs(6);
/// How long a clock must be outside its lock to count.
const OUTSIDE: Duration = Duration::from_secs(5);

/// What an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a new profile is watched before it is good.
    pub probation: Duration,
}

/// Everything that a step may know.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Now.
    pub now: Instant,
    /// Seconds since 1970 by the rig's clock, for the record only.
    pub unix_s: u64,
    /// The card.
    pub device: &'a Device,
    /// The profile that it should have; none gives it back.
    pub wanted: Option<&'a Profile>,
    /// A payload brought it along; else it is the card's own.
    pub brought: bool,
    /// The highest power limit that control allows now.
    pub cap: Option<Milliwatts>,
    /// The highest core clock that control allows now.
    pub ceiling: Option<Megahertz>,
    /// The highest memory clock that a search allows now.
    pub memory: Option<Megahertz>,
    /// The newest sample; none where it is old.
    pub sample: Option<&'a Sample>,
    /// Answer to the act of the step before.
    pub answer: Option<&'a Answer>,
    /// Whether the record that was to be put on the disk is there; not known at once, where the disk is slow.
    pub saved: Option<bool>,
    /// The driver told of an error on this GPU since the step before.
    pub xid: Option<u64>,
    /// It does not answer, fell off the bus, or is missing in the inventory.
    pub lost: bool,
    /// The helper is a new one since the step before: what was asked of the old one is not answered any more.
    pub fresh: bool,
    /// The old one was lost over a setting of another GPU: no strike for this one.
    pub spared: bool,
}

/// What is to be done, and answered with the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make this setting: [`Answer::Set`].
    Set(Setting),
    /// Read the settings back: [`Answer::Read`].
    Read,
    /// Put [`State::record`] on the disk: [`Seen::saved`]. What holds the card back meanwhile goes on.
    Save,
}

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Act::Set`].
    Set(Read<()>),
    /// Of [`Act::Read`].
    Read(Read<Settings>),
}

/// What people should know. Each is told once per episode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A profile is being set; none stands for the maker's defaults.
    Began {
        /// Its name.
        profile: Option<String>,
        /// It was never good on this GPU.
        trial: bool,
    },
    /// The card does not take the profile as it is.
    Adapted(Note),
    /// A setting was refused, and that fails no profile; tried again.
    Refused {
        /// Which.
        knob: Knob,
        /// Why.
        code: Code,
    },
    /// All settings are made and read back; none stands for the maker's defaults.
    Applied(Option<String>),
    /// The probation is over.
    Committed(String),
    /// The rig or the helper went down while a profile was tried.
    Strike(String),
    /// Not tried again on this GPU.
    Quarantined {
        /// The profile's name.
        profile: String,
        /// Why.
        reason: Reason,
    },
    /// Another one than wanted, which is in quarantine.
    Instead {
        /// What is wanted.
        wanted: String,
        /// What is set; none stands for the maker's defaults.
        given: Option<String>,
    },
    /// A setting was not as it was made; it is repaired.
    Drift {
        /// As it should be.
        expected: Setting,
        /// As it was.
        found: Found,
    },
    /// The driver had lost settings; all are made again.
    Reloaded,
    /// A default cannot be had back; nothing more is tried until the helper is a new one.
    GaveUp(Knob),
    /// A profile waits because the record could not be written.
    Unrecorded,
    /// The driver keeps what is set without us from now on, or no more.
    Persists(bool),
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            |profile: &Option<String>| profile.as_ref().map_or("its defaults".to_owned(), |name| format!("`{name}`"));
        match self {
            Self::Began { profile, trial: true } => write!(f, "is set to {}, on probation", name(profile)),
            Self::Began { profile, trial: false } => write!(f, "is set to {}", name(profile)),
            Self::Adapted(Note::Clamped { asked, given }) => write!(f, "does not take {asked}: {given} instead"),
            Self::Adapted(Note::Unable { knob, code }) => write!(f, "takes no {knob}: {code}"),
            Self::Adapted(Note::Unlocked(knob)) => write!(f, "gets no {knob}: it was meant for a locked clock"),
            Self::Refused { knob, code } => write!(f, "refused its {knob}: {code}"),
            Self::Applied(profile) => write!(f, "stands at {}", name(profile)),
            Self::Committed(profile) => write!(f, "has kept `{profile}` through its probation"),
            Self::Strike(profile) => write!(f, "or its driver went down while `{profile}` was tried"),
            Self::Quarantined { profile, reason } => write!(f, "does not get `{profile}` any more: {reason}"),
            Self::Instead { wanted, given } => {
                write!(f, "gets {} and not `{wanted}`, which is in quarantine", name(given))
            }
            Self::Drift { expected, found: Found::Set(found) } => write!(f, "had {found} and not {expected}"),
            Self::Drift { expected, found: Found::Clock(clock) } => {
                write!(f, "runs at {clock} in spite of {expected}")
            }
            Self::Drift { expected, found: Found::Nothing } => write!(f, "did not take {expected} before"),
            Self::Reloaded => f.write_str("had lost its settings"),
            Self::GaveUp(knob) => write!(f, "does not give back its default {knob}"),
            Self::Persists(true) => f.write_str("keeps what holds it back, whatever becomes of us: persistence is on"),
            Self::Persists(false) => f.write_str("is held back by nothing: persistence is off again"),
            Self::Unrecorded => f.write_str("waits for its profile: the record cannot be written"),
        }
    }
}

/// One step: takes in what was seen, gives the next act if there is one, and what happened.
#[must_use]
pub fn step(rules: &Rules, mut state: State, seen: &Seen<'_>) -> (State, Option<Act>, Vec<Happening>) {
    let mut told = Vec::new();
    state.notice(seen, &mut told);
    state.answered(rules, seen, &mut told);
    state.watch(seen, &mut told);
    state.choose(seen, &mut told);
    let act = state.next(seen);
    (state, act, told)
}

#[cfg(test)]
mod tests;
