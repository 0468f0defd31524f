//! What the rig knows now: each reading is a value or the reason why there is none.
//!
//! Nothing here ever stands in for a value: no 0 rpm, no 100 °C, no NaN. Bus threads publish a [`BusSnapshot`], the
//! control thread folds them into a [`Snapshot`] once a tick; both are plain data.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::alarm::Alarm;
use crate::control::limits::Restraint;
use crate::gpu::GpuSnapshot;
use crate::identity::Identity;
use crate::payload::supervisor::Payloads;
use crate::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts, OutOfRange, Rpm};

/// A value, or the reason why it is missing.
pub type Reading<T> = Result<T, Missing>;

/// Why there is no value. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Nothing answers there, or not the part that the board names.
    #[error("not present")]
    NotPresent,
    /// The part says of itself that it is switched off: a supply whose output is off.
    #[error("off")]
    Off,
    /// The bus failed: time-out, arbitration, adapter gone.
    #[error("bus")]
    Bus,
    /// Too old, or unchanged for longer than the sensor can be.
    #[error("stale")]
    Stale,
    /// A number came back that cannot be true.
    #[error("implausible")]
    Implausible,
}

impl From<OutOfRange> for Missing {
    fn from(OutOfRange: OutOfRange) -> Self {
        Self::Implausible
    }
}

/// One power measurement of a monitor's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    /// Bus voltage.
    pub voltage: Reading<Millivolts>,
    /// Current through the shunt.
    pub current: Reading<Milliamps>,
    /// Power as the chip computed it.
    pub power: Reading<Milliwatts>,
}

impl Power {
    /// All three missing for one reason.
    #[must_use]
    pub const fn missing(reason: Missing) -> Self {
        Self { voltage: Err(reason), current: Err(reason), power: Err(reason) }
    }
}

/// One fan channel of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fan {
    /// Speed by the tachometer.
    pub rpm: Reading<Rpm>,
    /// The drive that the chip holds as its target, read back from it.
    pub duty: Reading<Duty>,
    /// The chip itself says that this fan does not follow its target.
    pub fault: bool,
}

impl Fan {
    /// Nothing known, for one reason.
    #[must_use]
    pub const fn missing(reason: Missing) -> Self {
        Self { rpm: Err(reason), duty: Err(reason), fault: false }
    }
}

/// What a chip says is wrong, as a set of [`Fault`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Faults(u16);

/// One thing that a chip can say is wrong. Bit numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Fault {
    /// Bus, output or input voltage above its limit.
    OverVoltage,
    /// Bus, output or input voltage below its limit.
    UnderVoltage,
    /// Current above its limit.
    OverCurrent,
    /// Current below its limit.
    UnderCurrent,
    /// Power above its limit.
    OverPower,
    /// Too hot.
    Temperature,
    /// A fan of the part's own.
    Fan,
    /// Input voltage or current out of range.
    Input,
    /// The output is not good.
    PowerGood,
    /// The part is switched off.
    Off,
    /// A command was not understood or its memory is damaged.
    Communication,
    /// The chip's watchdog ran out since the last pass: whoever drives it had stopped.
    Watchdog,
    /// Anything else that its maker defined.
    Other,
}

impl Fault {
    /// Every fault, in the order of the bits.
    pub const ALL: [Self; 13] = [
        Self::OverVoltage,
        Self::UnderVoltage,
        Self::OverCurrent,
        Self::UnderCurrent,
        Self::OverPower,
        Self::Temperature,
        Self::Fan,
        Self::Input,
        Self::PowerGood,
        Self::Off,
        Self::Communication,
        Self::Watchdog,
        Self::Other,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OverVoltage => "over-voltage",
            Self::UnderVoltage => "under-voltage",
            Self::OverCurrent => "over-current",
            Self::UnderCurrent => "under-current",
            Self::OverPower => "over-power",
            Self::Temperature => "temperature",
            Self::Fan => "fan",
            Self::Input => "input",
            Self::PowerGood => "output not good",
            Self::Off => "off",
            Self::Communication => "communication",
            Self::Watchdog => "watchdog ran out",
            Self::Other => "other",
        })
    }
}

impl Faults {
    /// Nothing is wrong.
    pub const NONE: Self = Self(0);

    /// Adds a fault where `present`.
    #[must_use]
    pub const fn with(self, fault: Fault, present: bool) -> Self {
        if present { Self(self.0 | 1 << fault as u8) } else { self }
    }

    /// Takes a fault out.
    #[must_use]
    pub const fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u8))
    }

    /// What either holds.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds this fault.
    #[must_use]
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u8) != 0
    }

    /// The faults it holds, in the order of their bits.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }
}

/// What one chip measured in one pass, by channel in the order of its part's channel lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChipReading {
    /// Power channels.
    pub power: Vec<Power>,
    /// Temperature channels.
    pub temperature: Vec<Reading<Millicelsius>>,
    /// Fan channels.
    pub fan: Vec<Fan>,
    /// What it says is wrong.
    pub faults: Faults,
    /// Which board it sits on, where it holds that.
    pub identity: Option<Arc<Identity>>,
}

impl ChipReading {
    /// A chip with so many channels of each kind, all missing for one reason.
    #[must_use]
    pub fn missing(power: usize, temperature: usize, fan: usize, reason: Missing) -> Self {
        Self {
            power: vec![Power::missing(reason); power],
            temperature: vec![Err(reason); temperature],
            fan: vec![Fan::missing(reason); fan],
            faults: Faults::NONE,
            identity: None,
        }
    }

    /// Every channel goes missing for one reason.
    pub fn lose(&mut self, reason: Missing) {
        self.power.fill(Power::missing(reason));
        self.temperature.fill(Err(reason));
        self.fan.fill(Fan::missing(reason));
        self.faults = Faults::NONE;
        self.identity = None;
    }
}

/// How a chip stands with its bus thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not asked yet.
    Unknown,
    /// Identified, and answering.
    Ok,
    /// A kernel driver owns the chip; answering through that.
    ThroughKernel,
    /// Not to be used, and why.
    Failed(Missing),
}

/// The last pass of one bus over its chips.
#[derive(Clone, Debug, Default)]
pub struct BusSnapshot {
    /// When the pass ended; `None` before the first one.
    pub taken: Option<Instant>,
    /// One per chip, in the board's order.
    pub chips: Vec<ChipReading>,
    /// One per chip.
    pub health: Vec<Health>,
    /// Settings found changed behind our back and written again, since start.
    pub repairs: u32,
}

/// Which rung of the ladder a zone stands on. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing was decided yet: the fans keep the drive that they were found with.
    #[default]
    Starting,
    /// The curve rules.
    Normal,
    /// A fan of the zone stands still: full air from the others.
    FanFailed,
    /// An input is missing or stale: full air.
    Blind,
    /// At or above the critical temperature: full air.
    Critical,
    /// A fan stands still: the others make up for it, as the board allows.
    FanMadeUp,
    /// The curve would give more: quiet hours hold it down.
    Quiet,
    /// Its fans are being measured.
    Calibrating,
}

impl Stage {
    /// How far up the ladder it is; the numbers on the wire are in the order of their invention.
    #[must_use]
    pub const fn severity(self) -> u8 {
        match self {
            Self::Starting | Self::Normal => 0,
            Self::Quiet | Self::Calibrating => 1,
            Self::FanMadeUp => 2,
            Self::FanFailed => 3,
            Self::Blind => 4,
            Self::Critical => 5,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Normal => "normal",
            Self::FanFailed => "fan failed",
            Self::Blind => "blind",
            Self::Critical => "critical",
            Self::FanMadeUp => "fan made up for",
            Self::Quiet => "quiet hours",
            Self::Calibrating => "calibrating",
        })
    }
}

/// What a zone was ordered in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Drive for all fans of the zone; not present while nothing is ordered.
    pub duty: Reading<Duty>,
    /// Why.
    pub stage: Stage,
}

impl Zone {
    /// Nothing is ordered and nothing decided.
    pub const NONE: Self = Self { duty: Err(Missing::NotPresent), stage: Stage::Starting };
}

/// The rig in one tick; every list is in the board's order.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// One per rail.
    pub rails: Vec<Power>,
    /// One per supply: its input, then its output.
    pub supplies: Vec<[Power; 2]>,
    /// One per temperature sensor.
    pub sensors: Vec<Reading<Millicelsius>>,
    /// One per fan.
    pub fans: Vec<Fan>,
    /// One per zone.
    pub zones: Vec<Zone>,
    /// One per chip, in the order of [`crate::board::Board::chips`].
    pub chips: Vec<(Health, Faults)>,
    /// Settings found changed and repaired, since start.
    pub repairs: u32,
    /// Alarms that stand raised.
    pub alarms: Vec<Alarm>,
    /// What the board's EEPROM says of the board.
    pub identity: Option<Arc<Identity>>,
    /// How late the tick came.
    pub late: Duration,
    /// The GPUs.
    pub gpus: Arc<GpuSnapshot>,
    /// One per GPU: the drive that its own fans were ordered, and why.
    pub gpu_air: Vec<Zone>,
    /// The payloads.
    pub payloads: Arc<Payloads>,
    /// What holds its power back.
    pub restraint: Restraint,
}

impl Snapshot {
    /// What the rig draws: the inputs of all supplies together. One that is switched off draws its standby and tells of it.
    ///
    /// # Errors
    /// Why the first that does not tell does not; not present where there is no supply.
    pub fn input(&self) -> Reading<Milliwatts> {
        sum(self.supplies.iter().map(|[input, _]| input.power))
    }
}

/// All of them, at most what fits, or the reason why the first that does not tell does not; of nothing there is no sum.
pub(crate) fn sum(mut parts: impl Iterator<Item = Reading<Milliwatts>>) -> Reading<Milliwatts> {
    let first = parts.next().unwrap_or(Err(Missing::NotPresent))?;
    parts.try_fold(first, |sum, part| Ok(Milliwatts(sum.0.saturating_add(part?.0))))
}
