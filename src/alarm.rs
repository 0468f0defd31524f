//! What can be wrong with a rig, as values: what control raises, what the wire carries, what people read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::control::step::power::Source;
use crate::gpu::xid::{self, Action};
use crate::gpu::{Driver, Happening, Knob, Presence, Verdict, What};
use crate::payload::meter::Flag;
use crate::reading::{Faults, Missing, Stage};
use crate::wire::PayloadCause;

/// What is wrong. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A chip does not answer, or is not the part that the board names.
    ChipLost,
    /// A chip says itself that something is wrong: see the faults in the telemetry.
    ChipFault,
    /// A chip's watchdog had run out: whoever drove its fans had stopped.
    WatchdogRanOut,
    /// A fan stands although it is driven.
    FanStands,
    /// A zone has lost an input: it has full air.
    ZoneBlind,
    /// A zone is at its critical temperature: it has full air.
    ZoneCritical,
    /// A rail is below its lowest voltage.
    UnderVoltage,
    /// A rail is above its highest voltage.
    OverVoltage,
    /// A rail carries more than its highest current.
    OverCurrent,
    /// A rail or a supply's input is above its highest power.
    OverPower,
    /// A fan's chip says that it does not follow, or its output does not take a drive.
    FanFault,
    /// A tachometer tells a speed that its fan cannot have.
    TachometerImplausible,
    /// A temperature came out of nowhere, faster than any can change.
    TemperatureJump,
    /// A fan is much slower than it was when it was measured: worn out or clogged.
    FanAged,
    /// The board's EEPROM says that this is another board, or another revision.
    BoardMismatch,
    /// A GPU fell off the bus, is gone from it, or takes the driver along when it is asked.
    GpuLost,
    /// There are GPUs and their driver is not to be had.
    GpuDriver,
    /// A GPU's link has fewer lanes than card and slot could have: a bad riser.
    GpuLink,
    /// The driver told an error of a GPU. A moment: raised and never cleared.
    GpuXid,
    /// A setting of a GPU was found changed, and was set again. A moment.
    GpuDrift,
    /// A profile was committed, rolled back or quarantined. A moment.
    GpuProfile,
    /// A payload was given up until somebody orders it again.
    PayloadFailed,
    /// A payload was given up until somebody clears it.
    PayloadQuarantined,
    /// A payload was started again more than once, and no run since was long enough to be a good one.
    PayloadFailing,
    /// What a payload says of its work goes against the watts that it takes or the work that it counts.
    PayloadDoubtful,
    /// GPUs went from one payload to another, or should have. A moment.
    PayloadSwitch,
    /// A GPU's power limit is lower than its profile's: a cap or a breaker holds it back.
    PowerLimited,
    /// The same, and lower limits are not enough: its clocks are locked lower.
    PowerClocks,
    /// The same, and its payload is paused for it.
    PowerPaused,
    /// The same, and its payload was asked to end.
    PowerDrained,
    /// The same, and its payload is ended at once.
    PowerStopped,
    /// A GPU is at its critical temperature, or nobody knows how hot it is: all the air that there is.
    GpuHot,
    /// The same, and its power limit goes down.
    HeatLimited,
    /// The same, and its payload is paused for it, or was asked to end.
    HeatPaused,
    /// The same, and its payload is ended at once.
    HeatStopped,
}

/// What an alarm is about: the list and its index, in the board's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Index into the board's chips, bus by bus.
    Chip(usize),
    /// Index into the fans.
    Fan(usize),
    /// Index into the zones.
    Zone(usize),
    /// Index into the rails.
    Rail(usize),
    /// Index into the supplies.
    Supply(usize),
    /// Index into the temperature sensors.
    Sensor(usize),
    /// Index into the GPUs.
    Gpu(usize),
    /// The GPUs' driver.
    Driver,
    /// Index into the payloads.
    Payload(usize),
}

/// One thing that is wrong with one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// What.
    pub kind: Kind,
    /// With what.
    pub subject: Subject,
}

/// What made an alarm. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A value that passed its limit, both in the quantity's unit: mV, mA, mW, m°C or rpm.
    Limit {
        /// As measured.
        value: i64,
        /// What it should not have passed.
        limit: i64,
    },
    /// A reading that is missing, and why.
    Missing(Missing),
    /// What the chip itself says.
    Faults(Faults),
    /// A word read from the board that should be another.
    Identity,
    /// Whether a GPU is there.
    Presence(Presence),
    /// How it stands with the GPUs' driver.
    Driver(Driver),
    /// An error of NVIDIA's catalogue and what it asks for; without a number, what the driver itself asks for.
    Xid {
        /// Its number; 0 where there is none.
        code: u64,
        /// What it asks for.
        action: Action,
    },
    /// A setting that was found changed.
    Drift {
        /// Which.
        knob: Knob,
        /// As it was set; the highest of a lock.
        wanted: i64,
        /// As it was found.
        found: i64,
    },
    /// What became of a profile.
    Profile(Verdict),
    /// What last went wrong with a payload; none where it was not told why.
    Payload(Option<PayloadCause>),
    /// What speaks against a payload's word.
    Belief(Flag),
    /// How GPUs changed hands.
    Switch(Switched),
    /// A cap, and where it came from.
    Cap(Source),
    /// What all supplies together may draw.
    Supplies,
    /// What a supply may draw, an index into the birth's supplies.
    Supply(u16),
    /// What a rail may carry, an index into the birth's rails.
    Rail(u16),
    /// A zone stands there.
    Zone {
        /// An index into the birth's zones.
        zone: u16,
        /// Where.
        stage: Stage,
    },
    /// It is cool again, and on its way back.
    Cooling,
}

/// How GPUs changed hands. Milliseconds of each step; a step that was taken twice, there and back, is the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// Who had them: an index into the birth's payloads, the first where there are several; none where nobody had.
    pub from: Option<u16>,
    /// Who was to have them.
    pub to: Option<u16>,
    /// Until who had them had ended.
    pub drain_ms: u32,
    /// Until nothing of it was on the GPUs any more.
    pub free_ms: u32,
    /// Until its profile was gone.
    pub reset_ms: u32,
    /// Until what was private was gone.
    pub wipe_ms: u32,
    /// Until the next one was healthy.
    pub start_ms: u32,
    /// What came of it.
    pub outcome: SwitchOutcome,
}

/// What came of a change of hands. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchOutcome {
    /// The next one works.
    Done,
    /// It does not; who was there before works again.
    Back,
    /// It does not, and who was there before does not either.
    Lost,
    /// Who had them does not end.
    Stuck,
    /// Something is left on the GPUs, or the profile is: nobody has them.
    Held,
    /// What was private could not be removed: nobody has them.
    Unwiped,
    /// Somebody works at the rig: it was given up.
    Dropped,
}

/// An alarm that was raised or cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Which.
    pub alarm: Alarm,
    /// Raised, or cleared.
    pub raised: bool,
    /// What made it; when it is cleared, what made it last.
    pub cause: Cause,
    /// The rung of the ladder on which the zone stands that it touches; none where it touches none.
    pub rung: Option<Stage>,
}

impl From<Happening> for Edge {
    /// A moment is an edge with no other side.
    fn from(Happening { gpu, what }: Happening) -> Self {
        let (kind, cause) = match what {
            What::Xid { code, action } => (Kind::GpuXid, Cause::Xid { code, action }),
            What::Asks(action) => (Kind::GpuXid, Cause::Xid { code: 0, action }),
            What::Drift { knob, wanted, found } => (Kind::GpuDrift, Cause::Drift { knob, wanted, found }),
            What::Profile(verdict) => (Kind::GpuProfile, Cause::Profile(verdict)),
        };
        Self { alarm: Alarm { kind, subject: Subject::Gpu(gpu) }, raised: true, cause, rung: None }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { value, limit } => write!(f, "{value}, limit {limit}"),
            Self::Missing(missing) => missing.fmt(f),
            Self::Faults(faults) => {
                let names: Vec<String> = faults.iter().map(|fault| fault.to_string()).collect();
                f.write_str(&names.join(", "))
            }
            Self::Identity => f.write_str("its EEPROM says otherwise"),
            Self::Presence(presence) => presence.fmt(f),
            Self::Driver(driver) => driver.fmt(f),
            Self::Xid { code: 0, action } => write!(f, "{action}"),
            Self::Xid { code, action } => write!(f, "Xid {code}, {}: {action}", xid::name(*code)),
            Self::Drift { knob, wanted, found } => write!(f, "{knob} was {found} and not {wanted}"),
            Self::Profile(verdict) => verdict.fmt(f),
            Self::Payload(Some(cause)) => cause.fmt(f),
            Self::Payload(None) => f.write_str("for no reason that is known"),
            Self::Belief(flag) => flag.fmt(f),
            Self::Switch(Switched { drain_ms, free_ms, reset_ms, wipe_ms, start_ms, outcome, .. }) => {
                write!(f, "{outcome}: drained in {drain_ms} ms, free {free_ms}, reset {reset_ms}")?;
                write!(f, ", wiped {wipe_ms}, started {start_ms}")
            }
            Self::Cap(source) => write!(f, "cap by {source}"),
            Self::Supplies => f.write_str("limit of all supplies together"),
            Self::Supply(index) => write!(f, "limit of supply {index}"),
            Self::Rail(index) => write!(f, "limit of rail {index}"),
            Self::Zone { zone, stage } => write!(f, "zone {zone}: {stage}"),
            Self::Cooling => f.write_str("cool again, on its way back"),
        }
    }
}

impl fmt::Display for SwitchOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Back => "taken back, the next one did not work",
            Self::Lost => "neither the next one nor the one before works",
            Self::Stuck => "who had the GPUs does not end",
            Self::Held => "the GPUs did not become free",
            Self::Unwiped => "what was private could not be removed",
            Self::Dropped => "given up, somebody works at the rig",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChipLost => "chip lost",
            Self::ChipFault => "chip reports a fault",
            Self::WatchdogRanOut => "watchdog ran out",
            Self::FanStands => "fan stands",
            Self::ZoneBlind => "zone blind, full air",
            Self::ZoneCritical => "zone critical, full air",
            Self::UnderVoltage => "under-voltage",
            Self::OverVoltage => "over-voltage",
            Self::OverCurrent => "over-current",
            Self::OverPower => "over-power",
            Self::FanFault => "fan fault",
            Self::TachometerImplausible => "tachometer implausible",
            Self::TemperatureJump => "temperature jumped",
            Self::FanAged => "fan aged",
            Self::BoardMismatch => "another board than configured",
            Self::GpuLost => "GPU lost",
            Self::GpuDriver => "GPU driver not to be had",
            Self::GpuLink => "PCIe link too narrow",
            Self::GpuXid => "GPU error",
            Self::GpuDrift => "GPU setting had changed",
            Self::GpuProfile => "GPU profile",
            Self::PayloadFailed => "payload failed",
            Self::PayloadQuarantined => "payload in quarantine",
            Self::PayloadFailing => "payload keeps failing",
            Self::PayloadDoubtful => "payload's rate cannot be believed",
            Self::PayloadSwitch => "GPUs changed hands",
            Self::PowerLimited => "power limit lowered",
            Self::PowerClocks => "clocks lowered for power",
            Self::PowerPaused => "payload paused for power",
            Self::PowerDrained => "payload asked to end for power",
            Self::PowerStopped => "payload ended for power",
            Self::GpuHot => "GPU too hot",
            Self::HeatLimited => "power limit lowered for heat",
            Self::HeatPaused => "payload paused for heat",
            Self::HeatStopped => "payload ended for heat",
        })
    }
}

impl Kind {
    /// It happens and is over: raised once, never cleared, and not among the alarms that stand.
    #[must_use]
    pub const fn is_moment(self) -> bool {
        matches!(self, Self::GpuXid | Self::GpuDrift | Self::GpuProfile | Self::PayloadSwitch)
    }
}

impl Subject {
    /// Its name on the board; by `gpu` the PCI address of a GPU, by `payload` the name of a payload.
    #[must_use]
    pub fn name(
        self,
        board: &Board,
        gpu: impl FnOnce(usize) -> Option<String>,
        payload: impl FnOnce(usize) -> Option<String>,
    ) -> String {
        let name = match self {
            Self::Gpu(i) => return gpu(i).unwrap_or_else(|| "?".to_owned()),
            Self::Payload(i) => return payload(i).unwrap_or_else(|| "?".to_owned()),
            Self::Driver => return "nvidia".to_owned(),
            Self::Chip(i) => board.chips().nth(i).map(|(_, chip)| &chip.refdes),
            Self::Fan(i) => board.fans.get(i).map(|fan| &fan.name),
            Self::Zone(i) => board.zones.get(i).map(|zone| &zone.name),
            Self::Rail(i) => board.rails.get(i).map(|rail| &rail.name),
            Self::Supply(i) => board.supplies.get(i).map(|supply| &supply.name),
            Self::Sensor(i) => board.sensors.get(i).map(|sensor| &sensor.name),
        };
        name.map_or("?", String::as_str).to_owned()
    }
}
