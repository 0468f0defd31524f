//! A profile on one GPU: which settings, within what the card takes, in which order, and whether they hold.
//!
//! A plan always names every setting that the card has, those that the profile leaves out at their default: so the
//! profile before leaves nothing behind.
//!
//! # Order
//!
//! A card crashes on the way, too, so at no instant may it be faster than both where it comes from and where it goes to.
//! Persistence goes first: without it the rest may be lost between two calls. Then whatever slows down: offsets that fall,
//! a power limit that falls. Then the locks, set over the old ones and not after a reset, which would leave the card free
//! for an instant under the old offset. Then whatever speeds up: a power limit that rises, and offsets that rise last of
//! all, because an offset above zero beside a lock is an undervolt: the lock bounds the clock with the offset in it
//! (xor2k/gpu_undervolt, issue 1; ilya-zlobintsev/LACT, issue 486), and without the lock the same offset is an overclock that
//! nobody meant. For the same reason such an offset is not set at all where the lock cannot be had.
//!
//! Offsets snap to what the card can do (ilya-zlobintsev/LACT, issue 1202: 464 MHz for 465), so they hold within one step. Locks
//! cannot be read back; [`outside`] judges the core lock by the clock. The memory lock is not judged: it snaps to one of few
//! states, which may be far away (Lolliedieb/lolMiner-releases, issue 1851: 6000 MHz for 5001).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::profile::{Limit, Profile};
use super::wire::{Code, Device, Read, Sample, Setting, Settings};
use crate::sorted;
use crate::units::{Megahertz, MegahertzOffset, Milliwatts, Percent};

/// What can be set of a GPU. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    /// Power limit.
    PowerLimit,
    /// Core clock lock.
    CoreLock,
    /// Memory clock lock.
    MemoryLock,
    /// Core clock offset.
    CoreOffset,
    /// Memory clock offset.
    MemoryOffset,
    /// Persistence.
    Persistence,
}

impl From<Setting> for Knob {
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::PowerLimit(_) => Self::PowerLimit,
            Setting::CoreLock(_) => Self::CoreLock,
            Setting::MemoryLock(_) => Self::MemoryLock,
            Setting::CoreOffset(_) => Self::CoreOffset,
            Setting::MemoryOffset(_) => Self::MemoryOffset,
            Setting::Persistence(_) => Self::Persistence,
        }
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerLimit => "power limit",
            Self::CoreLock => "core lock",
            Self::MemoryLock => "memory lock",
            Self::CoreOffset => "core offset",
            Self::MemoryOffset => "memory offset",
            Self::Persistence => "persistence",
        })
    }
}

/// Which settings, and what could not be as the profile has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one of each knob.
    pub settings: Vec<Setting>,
    /// Told once.
    pub notes: Vec<Note>,
}

/// Where a plan is not what the profile says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The card does not go as far.
    Clamped {
        /// By the profile.
        asked: Setting,
        /// What the card takes.
        given: Setting,
    },
    /// The card cannot do that at all, or does not tell how far it goes.
    Unable {
        /// What was left out.
        knob: Knob,
        /// What the driver said.
        code: Code,
    },
    /// An offset above zero was meant for a locked clock, and the lock cannot be had.
    Unlocked(Knob),
}

/// First architecture with a core lock: Volta (`nvml.h`, SetGpuLockedClocks).
const VOLTA: u32 = 5;
/// First architecture with a memory lock: Ampere (`nvml.h`, SetMemoryLockedClocks).
const AMPERE: u32 = 7;

/// What this profile sets on this card.
#[must_use]
pub fn plan(profile: &Profile, device: &Device) -> Plan {
    let mut plan = Plan::default();
    plan.settings.push(Setting::Persistence(profile.persistence.unwrap_or(true)));
    let asked = match profile.power_limit {
        None => None,
        Some(Limit::Power(power)) => Some(Ok(power)),
        Some(Limit::OfDefault(Percent(percent))) => Some(device.default_limit.map(|Milliwatts(default)| {
            let power = u64::from(default) * u64::from(percent) / 100;
            Milliwatts(u32::try_from(power).unwrap_or(u32::MAX))
        })),
    };
    plan.limit(asked, device);
    plan.lock(Setting::CoreLock, profile.core_lock, device.max_sm_clock, VOLTA, device);
    plan.lock(Setting::MemoryLock, profile.memory_lock, device.max_memory_clock, AMPERE, device);
    plan.offset(Setting::CoreOffset, profile.core_offset, device.core_offsets);
    plan.offset(Setting::MemoryOffset, profile.memory_offset, device.memory_offsets);
    for (lock, offset, asked) in [
        (Knob::CoreLock, Knob::CoreOffset, profile.core_lock),
        (Knob::MemoryLock, Knob::MemoryOffset, profile.memory_lock),
    ] {
        if asked.is_some() && !plan.settings.iter().any(|setting| Knob::from(*setting) == lock) {
            plan.unlock(offset, device);
        }
    }
    plan
}

/// What gives this card back as its maker set it. Persistence stays as it is: it changes no clock, and whoever wanted it
/// may be somebody else.
#[must_use]
pub fn defaults(device: &Device) -> Plan {
    let mut plan = plan(&Profile::default(), device);
    plan.settings.retain(|setting| !matches!(setting, Setting::Persistence(_)));
    plan
}

impl Plan {
    /// Takes out what the card turned out not to be able to do, and an offset that was meant for that lock.
    pub fn without(&mut self, knob: Knob, device: &Device) {
        let lock = self.settings.iter().any(|setting| {
            Knob::from(*setting) == knob && matches!(setting, Setting::CoreLock(Some(_)) | Setting::MemoryLock(Some(_)))
        });
        self.settings.retain(|setting| Knob::from(*setting) != knob);
        if lock {
            self.unlock(if knob == Knob::CoreLock { Knob::CoreOffset } else { Knob::MemoryOffset }, device);
        }
    }

    /// The setting of this knob.
    #[must_use]
    pub fn get(&self, knob: Knob) -> Option<Setting> {
        self.settings.iter().copied().find(|setting| Knob::from(*setting) == knob)
    }

    /// An offset above zero goes back to zero.
    fn unlock(&mut self, knob: Knob, device: &Device) {
        let (new, range) = match self.get(knob) {
            Some(Setting::CoreOffset(offset)) if offset.0 > 0 => {
                (Setting::CoreOffset as fn(MegahertzOffset) -> Setting, device.core_offsets)
            }
            Some(Setting::MemoryOffset(offset)) if offset.0 > 0 => {
                (Setting::MemoryOffset as fn(MegahertzOffset) -> Setting, device.memory_offsets)
            }
            Some(_) | None => return,
        };
        self.settings.retain(|setting| Knob::from(*setting) != knob);
        self.settings.push(new(neutral(range)));
        self.notes.push(Note::Unlocked(knob));
    }

    /// A power limit, or the maker's where nothing is asked.
    fn limit(&mut self, asked: Option<Read<Milliwatts>>, device: &Device) {
        let within = |asked: Milliwatts| Ok((asked, clamped(asked, sound(device.limits)?)));
        match asked.unwrap_or(device.default_limit).and_then(within) {
            Ok(both) => self.push(asked.is_some(), both, Setting::PowerLimit),
            Err(code) => self.leave_out(asked.is_some(), Knob::PowerLimit, code),
        }
    }

    /// A clock lock, or none where nothing is asked: that takes no limits, so it is tried wherever it may work.
    fn lock(
        &mut self,
        setting: fn(Option<(Megahertz, Megahertz)>) -> Setting,
        asked: Option<(Megahertz, Megahertz)>,
        highest: Read<Megahertz>,
        first: u32,
        device: &Device,
    ) {
        let too_old = device.architecture.is_ok_and(|architecture| architecture < first);
        match (asked, highest) {
            _ if too_old => self.leave_out(asked.is_some(), setting(None).into(), Code::NOT_SUPPORTED),
            (None, _) => self.settings.push(setting(None)),
            (Some((low, high)), Ok(highest)) => {
                let given = (low.min(highest), high.min(highest));
                self.push(true, ((low, high), given), |lock| setting(Some(lock)));
            }
            (Some(_), Err(code)) => self.leave_out(true, setting(None).into(), code),
        }
    }

    /// A clock offset, or none.
    fn offset(
        &mut self,
        setting: fn(MegahertzOffset) -> Setting,
        asked: Option<MegahertzOffset>,
        range: Read<(MegahertzOffset, MegahertzOffset)>,
    ) {
        match sound(range) {
            Ok(range) => {
                let wanted = asked.unwrap_or_default();
                self.push(asked.is_some(), (wanted, clamped(wanted, range)), setting);
            }
            Err(code) => self.leave_out(asked.is_some(), setting(MegahertzOffset(0)).into(), code),
        }
    }

    fn push<T: Copy + PartialEq>(&mut self, wanted: bool, (asked, given): (T, T), setting: impl Fn(T) -> Setting) {
        self.settings.push(setting(given));
        if wanted && asked != given {
            self.notes.push(Note::Clamped { asked: setting(asked), given: setting(given) });
        }
    }

    fn leave_out(&mut self, wanted: bool, knob: Knob, code: Code) {
        if wanted {
            self.notes.push(Note::Unable { knob, code });
        }
    }
}

/// Limits in their order; a card that tells them the other way round tells nothing.
fn sound<T: PartialOrd>(range: Read<(T, T)>) -> Read<(T, T)> {
    range.and_then(|(low, high)| if low <= high { Ok((low, high)) } else { Err(Code::UNKNOWN) })
}

/// `value` within sound limits.
fn clamped<T: Ord>(value: T, (low, high): (T, T)) -> T {
    value.max(low).min(high)
}

/// No offset, or as near as the card goes.
fn neutral(range: Read<(MegahertzOffset, MegahertzOffset)>) -> MegahertzOffset {
    sound(range).map_or(MegahertzOffset(0), |range| clamped(MegahertzOffset(0), range))
}

/// The power limit that holds beside a cap: the lower of both, within what the card takes. None where it takes none.
#[must_use]
pub fn limited(limit: Option<Milliwatts>, cap: Option<Milliwatts>, device: &Device) -> Option<Milliwatts> {
    let lower = limit.into_iter().chain(cap).min()?;
    Some(clamped(lower, sound(device.limits).ok()?))
}

/// The core lock that holds beside a ceiling: the lower of both. Without a lock the ceiling stands alone, from 0 upwards, as
/// `nvidia-smi -lgc 0,N` has it.
#[must_use]
pub fn below(lock: Option<(Megahertz, Megahertz)>, ceiling: Option<Megahertz>) -> Option<(Megahertz, Megahertz)> {
    match (lock, ceiling) {
        (lock, None) => lock,
        (None, Some(ceiling)) => Some((Megahertz(0), ceiling)),
        (Some((low, high)), Some(ceiling)) => Some((low.min(ceiling), high.min(ceiling))),
    }
}

/// The memory lock that holds beside a ceiling: the lower of both. A memory has few clocks, and of what is between them a driver
/// makes the next one (Lolliedieb/lolMiner-releases, issue 1851), which may be higher, or nothing (rigelminer/rigel, issue 194);
/// so it is the highest clock of the card's at or below the ceiling, and both ends of the lock, as miners have it. Of a ceiling
/// below them all it is the lowest.
#[must_use]
pub fn memory_below(
    lock: Option<(Megahertz, Megahertz)>,
    ceiling: Option<Megahertz>,
    device: &Device,
) -> Option<(Megahertz, Megahertz)> {
    let Some(ceiling) = ceiling.filter(|ceiling| lock.is_none_or(|(_, high)| *ceiling < high)) else { return lock };
    let clocks = || device.memory_clocks.iter().flatten().map(|(_, clock)| *clock);
    let own = clocks().filter(|clock| *clock <= ceiling).max().or_else(|| clocks().min());
    let at = own.unwrap_or_else(|| device.max_memory_clock.map_or(ceiling, |highest| ceiling.min(highest)));
    Some((at, at))
}

/// These settings in the order in which they are made on a card that has these now.
#[must_use]
pub fn ordered(settings: &[Setting], present: Option<&Settings>) -> Vec<Setting> {
    let rank = |setting: &Setting| match *setting {
        Setting::Persistence(true) => 0,
        Setting::CoreOffset(offset) => falls(offset, present.map(|p| p.core_offset)),
        Setting::MemoryOffset(offset) => falls(offset, present.map(|p| p.memory_offset)),
        Setting::PowerLimit(limit) if present.is_some_and(|p| p.limit.is_ok_and(|now| now <= limit)) => 4,
        // It falls, or nobody knows what it is.
        Setting::PowerLimit(_) => 2,
        Setting::CoreLock(_) | Setting::MemoryLock(_) => 3,
        Setting::Persistence(false) => 6,
    };
    sorted::list_by(settings.iter().copied(), |a, b| rank(a).cmp(&rank(b)))
}

/// Rank of an offset: 1 where it falls in any performance state and rises in none, 5 elsewhere.
fn falls(offset: MegahertzOffset, present: Option<[Read<MegahertzOffset>; 2]>) -> u8 {
    let known: Vec<_> = present.into_iter().flatten().filter_map(Result::ok).collect();
    let lower = if known.is_empty() { offset.0 <= 0 } else { known.iter().all(|now| offset <= *now) };
    if lower { 1 } else { 5 }
}

/// A found value that is not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// As it was read back.
    Set(Setting),
    /// By the clock, of a lock.
    Clock(Megahertz),
    /// The driver had refused it before.
    Nothing,
}

/// Two power limits within that are the same: a driver may round.
const LIMIT_STEP: u32 = 1_000;
/// Clocks go in steps of 7.5 or 15 MHz.
const CLOCK_STEP: u32 = 15;

/// What was read back instead of this setting; none where it holds, or where the card does not tell.
#[must_use]
pub fn drifted(setting: Setting, found: &Settings) -> Option<Setting> {
    let offset = |expected: MegahertzOffset, found: [Read<MegahertzOffset>; 2]| {
        found.into_iter().filter_map(Result::ok).find(|found| found.0.abs_diff(expected.0) >= CLOCK_STEP)
    };
    match setting {
        Setting::PowerLimit(expected) => {
            let found = found.limit.ok().filter(|found| found.0.abs_diff(expected.0) > LIMIT_STEP);
            found.map(Setting::PowerLimit)
        }
        Setting::CoreOffset(expected) => offset(expected, found.core_offset).map(Setting::CoreOffset),
        Setting::MemoryOffset(expected) => offset(expected, found.memory_offset).map(Setting::MemoryOffset),
        Setting::Persistence(expected) => {
            found.persistence.ok().filter(|found| *found != expected).map(Setting::Persistence)
        }
        Setting::CoreLock(_) | Setting::MemoryLock(_) => None,
    }
}

/// Whether it is there by what was read back. Not where the card does not tell.
#[must_use]
pub fn holds(setting: Setting, found: &Settings) -> bool {
    let told = match setting {
        Setting::PowerLimit(_) => found.limit.is_ok(),
        Setting::CoreOffset(_) => found.core_offset.iter().any(Result::is_ok),
        Setting::MemoryOffset(_) => found.memory_offset.iter().any(Result::is_ok),
        Setting::Persistence(_) => found.persistence.is_ok(),
        Setting::CoreLock(_) | Setting::MemoryLock(_) => false,
    };
    told && drifted(setting, found).is_none()
}

/// The bits that say nothing of what holds a clock down: those of a user's own clocks. `nvml.h`, nvmlClocksEventReason*.
const APPLICATION_CLOCKS: u64 = 0x2;

/// The core clock, where it says that this lock does not hold. Only under load: at rest a card leaves any lock downwards.
/// Above is above. Below it must be by more than a tenth, under full load and with no reason given: voltage and
/// temperature take a few steps that older drivers name no reason for.
#[must_use]
pub fn outside(lock: (Megahertz, Megahertz), sample: &Sample) -> Option<Megahertz> {
    let (clock, load) = (sample.sm_clock.ok()?, sample.load.ok()?);
    let (low, high) = lock;
    let above = load >= Percent(50) && clock.0 > high.0.saturating_add(CLOCK_STEP);
    let below = load >= Percent(95)
        && clock.0 < low.0 - low.0 / 10
        && sample.reasons.is_ok_and(|reasons| reasons & !APPLICATION_CLOCKS == 0);
    (above || below).then_some(clock)
}

#[cfg(test)]
pub(crate) mod tests;
