//! Locks of the core and of the memory clock, which are held by the same rules.

use std::time::Instant;

use super::Seen;
use crate::gpu::plan::{self, Knob};
use crate::gpu::wire::Setting;
use crate::units::Megahertz;

/// Lowest and highest clock; none is no lock.
pub(super) type Lock = Option<(Megahertz, Megahertz)>;

/// The lock of one clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locked {
    /// As it was set last; none where that is not known.
    pub(super) last: Option<Lock>,
    /// One of ours is on a card that has no profile.
    pub(super) ours: bool,
    /// A ceiling was refused; not before then again.
    pub(super) again: Option<Instant>,
}

impl Locked {
    pub(super) const UNKNOWN: Self = Self { last: None, ours: false, again: None };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Core,
    Memory,
}

impl Clock {
    pub(super) const BOTH: [Self; 2] = [Self::Core, Self::Memory];

    pub(super) const fn knob(self) -> Knob {
        match self {
            Self::Core => Knob::CoreLock,
            Self::Memory => Knob::MemoryLock,
        }
    }

    pub(super) const fn setting(self, lock: Lock) -> Setting {
        match self {
            Self::Core => Setting::CoreLock(lock),
            Self::Memory => Setting::MemoryLock(lock),
        }
    }

    /// The highest that is allowed now.
    pub(super) const fn ceiling(self, seen: &Seen<'_>) -> Option<Megahertz> {
        match self {
            Self::Core => seen.ceiling,
            Self::Memory => seen.memory,
        }
    }

    /// The lock that holds beside that.
    pub(super) fn below(self, lock: Lock, seen: &Seen<'_>) -> Lock {
        match self {
            Self::Core => plan::below(lock, seen.ceiling),
            Self::Memory => plan::memory_below(lock, seen.memory, seen.device),
        }
    }
}
