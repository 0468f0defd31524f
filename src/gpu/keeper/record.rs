//! What must survive a restart of one GPU's profiles.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gpu::plan::Knob;
use crate::gpu::profile::Profile;
use crate::gpu::wire::Code;
use crate::units::Megahertz;

/// Profiles that are remembered as good; the oldest is forgotten, and would be on probation again.
const GOOD: usize = 8;
/// Profiles in quarantine; the oldest is forgotten, and would be tried again.
const QUARANTINE: usize = 32;
/// Profiles with one strike; the oldest is forgotten.
const STRIKES: usize = 16;

/// The record of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When it last changed, s since 1970.
    pub(in crate::gpu) changed_unix_s: u64,
    /// Settings of ours may be on the card.
    pub(super) ours: bool,
    /// Persistence was off and is on for a limit of ours: it goes with the last of them.
    pub(super) persists: bool,
    /// Newest first.
    pub(super) good: Vec<Profile>,
    /// Content of those of them that a payload brought along: nobody else gets them.
    pub(super) brought: Vec<u32>,
    /// Being tried: found at a start, the rig went down meanwhile.
    pub(super) trying: Option<Trying>,
    /// Content of profiles that the rig went down with once.
    pub(super) strikes: Vec<u32>,
    /// Oldest first.
    pub(super) quarantine: Vec<Quarantined>,
}

/// A profile that is being tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trying {
    pub(super) digest: u32,
    pub(super) name: String,
}

/// A profile that this GPU does not get any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Of its content.
    pub digest: u32,
    /// Its name then.
    pub name: String,
    /// Why.
    pub reason: Reason,
    /// Since when, s since 1970 by the rig's clock.
    pub unix_s: u64,
}

/// Why a profile is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The driver refused a setting.
    Refused {
        /// Which.
        knob: Knob,
        /// Why.
        code: Code,
    },
    /// The driver took a setting and did not make it.
    NotHeld(Knob),
    /// It was repaired again and again.
    WillNotHold(Knob),
    /// The driver told of an error while it was tried.
    Xid(u64),
    /// The GPU was lost while it was tried.
    Lost,
    /// The core clock left its lock while it was tried.
    OutsideLock(Megahertz),
    /// The rig or the helper went down twice while it was tried.
    Crashed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { knob, code } => write!(f, "the driver refused its {knob}: {code}"),
            Self::NotHeld(knob) => write!(f, "the driver took its {knob} and did not make it"),
            Self::WillNotHold(knob) => write!(f, "its {knob} will not hold"),
            Self::Xid(code) => write!(f, "Xid {code} while it was tried"),
            Self::Lost => f.write_str("the GPU was lost while it was tried"),
            Self::OutsideLock(clock) => write!(f, "the core ran at {clock}, outside its lock"),
            Self::Crashed => f.write_str("the rig or the driver went down twice while it was tried"),
        }
    }
}

impl Record {
    /// What is in quarantine, oldest first.
    #[must_use]
    pub fn quarantine(&self) -> &[Quarantined] {
        &self.quarantine
    }

    /// Whether settings of ours may be on the card.
    #[must_use]
    pub const fn ours(&self) -> bool {
        self.ours
    }

    /// The newest profile that was kept through its probation.
    #[must_use]
    pub fn last_good(&self) -> Option<&Profile> {
        self.good.first()
    }

    /// What it gets in place of the profile of this name: that as it was when it was good, or else the newest that was its own. What a
    /// payload brought along is not left behind for another one.
    pub(super) fn instead_of(&self, name: &str) -> Option<&Profile> {
        let own = |profile: &&Profile| !self.brought.contains(&profile.digest());
        self.good.iter().find(|profile| profile.name == name).or_else(|| self.good.iter().find(own))
    }

    /// Lets a profile out of quarantine, or all; gives how many were.
    pub fn clear(&mut self, name: Option<&str>) -> usize {
        let before = self.quarantine.len();
        self.quarantine.retain(|entry| name.is_some_and(|name| entry.name != name));
        if name.is_none() {
            self.strikes.clear();
        }
        before - self.quarantine.len()
    }

    pub(super) fn bars(&self, digest: u32) -> bool {
        self.quarantine.iter().any(|entry| entry.digest == digest)
    }

    pub(super) fn knows(&self, digest: u32) -> bool {
        self.good.iter().any(|profile| profile.digest() == digest)
    }

    pub(super) fn commit(&mut self, profile: &Profile, brought: bool) {
        let digest = profile.digest();
        self.trying = None;
        self.strikes.retain(|known| *known != digest);
        self.good.retain(|known| known.digest() != digest);
        self.good.insert(0, profile.clone());
        self.good.truncate(GOOD);
        let Self { good, brought: all, .. } = self;
        all.retain(|known| *known != digest && good.iter().any(|profile| profile.digest() == *known));
        if brought {
            all.push(digest);
        }
    }

    /// Notes that the rig went down with it; whether it was the second time.
    pub(super) fn strike(&mut self, digest: u32) -> bool {
        if self.strikes.contains(&digest) {
            return true;
        }
        make_room(&mut self.strikes, STRIKES);
        self.strikes.push(digest);
        false
    }

    pub(super) fn bar(&mut self, entry: Quarantined) {
        self.trying = None;
        self.strikes.retain(|known| *known != entry.digest);
        self.good.retain(|known| known.digest() != entry.digest);
        self.quarantine.retain(|known| known.digest != entry.digest);
        make_room(&mut self.quarantine, QUARANTINE);
        self.quarantine.push(entry);
    }

    /// Puts a list that was read from a file within its bounds.
    pub(in crate::gpu) fn bounded(mut self) -> Self {
        self.good.truncate(GOOD);
        self.brought.truncate(GOOD);
        make_room(&mut self.strikes, STRIKES + 1);
        make_room(&mut self.quarantine, QUARANTINE + 1);
        self
    }
}

/// Drops the oldest until one more fits.
fn make_room<T>(list: &mut Vec<T>, bound: usize) {
    list.drain(..(list.len() + 1).saturating_sub(bound));
}
