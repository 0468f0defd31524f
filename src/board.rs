//! Board files: what is soldered where, as data.
//!
//! ```text
//! TOML text ── file.rs: keys and types ── resolve.rs: names, addresses, parts, limits ──> Board
//! ```
//!
//! A [`Board`] cannot be wrong: every name in it has become an index, every address is unique on its bus, every part can
//! do what it is used for. Nothing later looks up a name. All mistakes of a file are reported at once, each with file,
//! line and key.

mod builtin;
mod file;
mod resolve;

use std::path::Path;
use std::time::Duration;

pub use builtin::BUILTIN;

use crate::bus::{Adapter, Segment};
use crate::chip::{Part, Settings};
use crate::gpu::wire::PciAddress;
use crate::source::{Problems, Source};
use crate::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

/// One board revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Name, as the built-in files are called.
    pub name: String,
    /// Revision; two revisions are two files.
    pub revision: String,
    /// One line for people.
    pub description: String,
    /// Buses in the file's alphabetical order; the kernel's sensors, where used, come last as a bus of their own.
    pub buses: Vec<Bus>,
    /// Power measurements.
    pub rails: Vec<Rail>,
    /// Power supplies.
    pub supplies: Vec<Supply>,
    /// Temperatures.
    pub sensors: Vec<Sensor>,
    /// Fans.
    pub fans: Vec<Fan>,
    /// Thermal zones.
    pub zones: Vec<Zone>,
    /// The EEPROM that says which board this is: bus, chip.
    pub identity: Option<(usize, usize)>,
}

/// A way to chips; each gets an OS thread of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Name in the file.
    pub name: String,
    /// Where it is.
    pub adapter: Adapter,
    /// Multiplexers on it, by reference designator.
    pub muxes: Vec<Mux>,
    /// The chips on it and behind its multiplexers, by reference designator.
    pub chips: Vec<Chip>,
}

/// A multiplexer on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mux {
    /// Reference designator on the schematic.
    pub refdes: String,
    /// Its address, 7 bits.
    pub addr: u8,
    /// How many channels it has.
    pub channels: u8,
}

/// A chip on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Reference designator on the schematic.
    pub refdes: String,
    /// How it is read.
    pub kind: ChipKind,
}

/// How a chip is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChipKind {
    /// By the agent's own driver.
    I2c {
        /// What it is.
        part: &'static Part,
        /// Its address, 7 bits.
        addr: u8,
        /// The multiplexer's channel that it is behind; none where it is on the bus itself.
        segment: Option<Segment>,
        /// What the board says about it.
        settings: Settings,
    },
    /// Through the kernel's driver.
    Hwmon(Hwmon),
}

/// A kernel driver's device and the attributes that the board uses of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hwmon {
    /// Contents of `/sys/class/hwmon/hwmonN/name`.
    pub driver: String,
    /// Last component of its device link, where several share a name.
    pub device: Option<String>,
    /// Attributes of each power channel: voltage, current, power, without `_input`.
    pub power: Vec<[String; 3]>,
    /// Attribute of each temperature channel, without `_input`.
    pub temperature: Vec<String>,
    /// Attribute of each fan channel, without `_input`.
    pub fan: Vec<String>,
}

/// A channel of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Index into [`Board::buses`].
    pub bus: usize,
    /// Index into [`Bus::chips`].
    pub chip: usize,
    /// Index into the part's channels of the kind that is meant.
    pub channel: usize,
}

/// A power measurement with its limits; `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rail {
    /// Name.
    pub name: String,
    /// Where it is measured.
    pub at: Point,
    /// Lowest voltage that is good.
    pub min_voltage: Option<Millivolts>,
    /// Highest voltage that is good.
    pub max_voltage: Option<Millivolts>,
    /// Highest current that is good.
    pub max_current: Option<Milliamps>,
    /// Highest power that is good.
    pub max_power: Option<Milliwatts>,
}

/// A power supply that measures both its sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Name.
    pub name: String,
    /// Power drawn from the mains.
    pub input: Point,
    /// Power given to the rig.
    pub output: Point,
    /// What it may draw at most.
    pub max_input: Option<Milliwatts>,
}

/// A temperature with what can be believed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sensor {
    /// Name.
    pub name: String,
    /// Where it is measured.
    pub at: Point,
    /// Below this it is implausible.
    pub min: Millicelsius,
    /// Above this it is implausible.
    pub max: Millicelsius,
    /// Unchanged to the last bit for so long means stale.
    pub frozen_after: Option<Duration>,
    /// Its own critical temperature, where it has another than its zone's.
    pub critical: Option<Millicelsius>,
    /// Faster than this, kelvin per second, no temperature there can change.
    pub max_rate: u16,
}

/// A fan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fan {
    /// Name.
    pub name: String,
    /// The channel that drives it.
    pub at: Point,
    /// The channel that measures its speed, mostly the same; none where nobody does.
    pub tachometer: Option<Point>,
    /// Speed at full drive as its maker gives it.
    pub max_rpm: Rpm,
    /// Slower than this at or above `start`, it stands.
    pub min_rpm: Rpm,
    /// Drive at which it surely starts.
    pub start: Duty,
    /// The lowest drive that keeps it turning.
    pub min: Duty,
    /// Index into [`Board::zones`] of the zone that drives it; `None` where it is only watched.
    pub zone: Option<usize>,
}

/// Temperatures and the fans that answer to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Name.
    pub name: String,
    /// Indices into [`Board::sensors`].
    pub sensors: Vec<usize>,
    /// Indices into [`Board::fans`].
    pub fans: Vec<usize>,
    /// Drive by temperature: both rising, straight lines between. Empty where the zone only holds a target.
    pub curve: Vec<(Millicelsius, Duty)>,
    /// A temperature to be held, beside the curve or instead of it; the higher drive counts.
    pub hold: Option<Hold>,
    /// Full air from here on, whatever the curve says.
    pub critical: Millicelsius,
    /// The drive falls only when it is cooler by this than where it rose.
    pub hysteresis: Millicelsius,
    /// How fast the drive may change, per second; safety does not wait for it.
    pub slew_per_s: Duty,
    /// So many dead fans are made up for by the others in proportion; one more gives full air.
    pub spare_fans: usize,
    /// The GPUs whose temperatures count for it beside those of the sensors.
    pub gpus: Option<Gpus>,
}

/// GPUs whose temperatures count for a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// Which; none is all of them.
    pub only: Option<Vec<PciAddress>>,
    /// Their critical temperature; that of each GPU, as it tells it, where none is given.
    pub critical: Option<Millicelsius>,
}

impl Gpus {
    /// Whether the one that sits there counts.
    #[must_use]
    pub fn count(&self, pci: PciAddress) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&pci))
    }
}

/// A temperature that a zone holds: proportional and integral on the distance, and what the watts ask for at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// To be held.
    pub target: Millicelsius,
    /// Drive per kelvin above it.
    pub gain: Duty,
    /// Time in which a distance that stays has added as much again as the gain gives at once.
    pub integral: Duration,
    /// Indices into [`Board::rails`] whose power counts for `feed_forward`.
    pub power: Vec<usize>,
    /// Drive per kilowatt of those.
    pub feed_forward: Duty,
}

impl Board {
    /// Reads a board: the name of a built-in one, or the path of a file (with a `/`, or ending in `.toml`).
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn load(name: &str) -> Result<Self, Problems> {
        if !is_path(name) {
            let text = BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
            let known = || BUILTIN.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
            return match text {
                Some(text) => Self::parse(&format!("boards/{name}.toml"), text),
                None => Err(Problems::one(name, format!("no built-in board of this name; there are {}", known()))),
            };
        }
        let text = std::fs::read_to_string(Path::new(name))
            .map_err(|error| Problems::one(name, format!("could not read the board file: {error}")))?;
        Self::parse(name, &text)
    }

    /// Parses and checks the text of a board file; `file` is for messages only.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let source = Source::parse(file, text)?;
        let file = file::Board::read(&source);
        // What is not even well-formed would only be complained of twice.
        source.finish()?;
        resolve::resolve(&file, &source)
    }

    /// All chips with the bus they are on, bus by bus.
    pub fn chips(&self) -> impl Iterator<Item = (&Bus, &Chip)> {
        self.buses.iter().flat_map(|bus| bus.chips.iter().map(move |chip| (bus, chip)))
    }

    /// Whether any of it is a simulated rig.
    #[must_use]
    pub fn simulated(&self) -> bool {
        self.buses.iter().any(|bus| matches!(bus.adapter, Adapter::Socket(_)))
    }
}

/// Whether a board's name means a file.
fn is_path(name: &str) -> bool {
    name.contains('/') || Path::new(name).extension().is_some_and(|extension| extension == "toml")
}

#[cfg(test)]
mod tests;
