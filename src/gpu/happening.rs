//! What happens to a GPU and is for more than the log: errors, settings that were changed, what became of a profile.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plan::{Found, Knob};
use super::wire::Setting;
use super::xid::Action;
use super::{keeper, wire};

/// What became of a profile. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It held through its probation.
    Committed,
    /// Quarantined: the driver refused a setting, with this code of NVML.
    Refused(Knob, u32),
    /// Quarantined: the driver took a setting and did not make it.
    NotHeld(Knob),
    /// Quarantined: it was repaired again and again.
    WillNotHold(Knob),
    /// Quarantined: the driver told an error while it was tried.
    Xid(u64),
    /// Quarantined: the GPU was lost while it was tried.
    Lost,
    /// Quarantined: the core clock left its lock, MHz.
    OutsideLock(u32),
    /// Quarantined: the rig or the driver went down twice while it was tried.
    Crashed,
    /// The last good one, or the maker's defaults, in place of one in quarantine.
    RolledBack,
    /// The driver had lost all settings; they were made again.
    Reloaded,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed => f.write_str("kept through its probation"),
            Self::Refused(knob, code) => write!(f, "quarantined: {knob} refused, {}", wire::Code(*code)),
            Self::NotHeld(knob) => write!(f, "quarantined: {knob} taken and not made"),
            Self::WillNotHold(knob) => write!(f, "quarantined: {knob} will not hold"),
            Self::Xid(code) => write!(f, "quarantined: Xid {code} while it was tried"),
            Self::Lost => f.write_str("quarantined: the GPU was lost while it was tried"),
            Self::OutsideLock(clock) => write!(f, "quarantined: the core ran at {clock} MHz, outside its lock"),
            Self::Crashed => f.write_str("quarantined: the rig or the driver went down twice while it was tried"),
            Self::RolledBack => f.write_str("another in its place, which is in quarantine"),
            Self::Reloaded => f.write_str("the driver had lost all settings, made again"),
        }
    }
}

/// Something that happened to a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Index into the snapshot's GPUs.
    pub gpu: usize,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The driver told an error, and what that asks for.
    Xid {
        /// Number in NVIDIA's catalogue.
        code: u64,
        /// What to do.
        action: Action,
    },
    /// The driver asks for it itself.
    Asks(Action),
    /// A setting was found changed.
    Drift {
        /// Which.
        knob: Knob,
        /// As it was set.
        wanted: i64,
        /// As it was found.
        found: i64,
    },
    /// What became of a profile.
    Profile(Verdict),
}

impl What {
    /// What of a profile's way is for more than the log.
    pub(super) fn of(happening: &keeper::Happening) -> Option<Self> {
        Some(match happening {
            keeper::Happening::Drift { expected, found } => {
                let (knob, wanted, found) = drift(*expected, *found);
                Self::Drift { knob, wanted, found }
            }
            keeper::Happening::Committed(_) => Self::Profile(Verdict::Committed),
            keeper::Happening::Quarantined { reason, .. } => Self::Profile(Verdict::from(*reason)),
            keeper::Happening::Instead { .. } => Self::Profile(Verdict::RolledBack),
            keeper::Happening::Reloaded => Self::Profile(Verdict::Reloaded),
            keeper::Happening::Began { .. }
            | keeper::Happening::Adapted(_)
            | keeper::Happening::Refused { .. }
            | keeper::Happening::Applied(_)
            | keeper::Happening::Strike(_)
            | keeper::Happening::GaveUp(_)
            | keeper::Happening::Persists(_)
            | keeper::Happening::Unrecorded => return None,
        })
    }
}

/// A setting as a number; of a lock its upper end, of one that was given free -1, and of what is not known -2.
fn drift(expected: Setting, found: Found) -> (Knob, i64, i64) {
    let number = |setting: Setting| match setting {
        Setting::PowerLimit(limit) => i64::from(limit.0),
        Setting::CoreLock(lock) | Setting::MemoryLock(lock) => lock.map_or(-1, |(_, high)| i64::from(high.0)),
        Setting::CoreOffset(offset) | Setting::MemoryOffset(offset) => i64::from(offset.0),
        Setting::Persistence(on) => i64::from(on),
    };
    let found = match found {
        Found::Set(setting) => number(setting),
        Found::Clock(clock) => i64::from(clock.0),
        Found::Nothing => -2,
    };
    (Knob::from(expected), number(expected), found)
}

impl From<keeper::Reason> for Verdict {
    fn from(reason: keeper::Reason) -> Self {
        match reason {
            keeper::Reason::Refused { knob, code } => Self::Refused(knob, code.0),
            keeper::Reason::NotHeld(knob) => Self::NotHeld(knob),
            keeper::Reason::WillNotHold(knob) => Self::WillNotHold(knob),
            keeper::Reason::Xid(code) => Self::Xid(code),
            keeper::Reason::Lost => Self::Lost,
            keeper::Reason::OutsideLock(clock) => Self::OutsideLock(clock.0),
            keeper::Reason::Crashed => Self::Crashed,
        }
    }
}
