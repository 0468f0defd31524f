//! What can be wrong with a rig, as values: what control raises, what the wire carries, what people read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::reading::{Faults, Missing, Stage};

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
        }
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
        })
    }
}

impl Subject {
    /// Its name on the board.
    #[must_use]
    pub fn name(self, board: &Board) -> &str {
        let name = match self {
            Self::Chip(i) => board.chips().nth(i).map(|(_, chip)| &chip.refdes),
            Self::Fan(i) => board.fans.get(i).map(|fan| &fan.name),
            Self::Zone(i) => board.zones.get(i).map(|zone| &zone.name),
            Self::Rail(i) => board.rails.get(i).map(|rail| &rail.name),
            Self::Supply(i) => board.supplies.get(i).map(|supply| &supply.name),
            Self::Sensor(i) => board.sensors.get(i).map(|sensor| &sensor.name),
        };
        name.map_or("?", String::as_str)
    }
}
