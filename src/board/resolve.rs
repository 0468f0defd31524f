//! From names to indices: what a board file's keys mean together.
//!
//! Every check adds to the list of problems and goes on with something harmless, so that one run shows them all; a board
//! with a problem is never returned.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Board, Bus, Chip, ChipKind, Fan, Hwmon, Point, Rail, Sensor, Supply, Zone, file};
use crate::bus::Adapter;
use crate::chip::{PARTS, Part, Setting, Settings};
use crate::source::{Problems, Source};
use crate::units::{Duty, Microohms, Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

/// Name of the bus that the kernel's sensors form.
const HWMON_BUS: &str = "hwmon";

/// Checks everything, or says all that is wrong.
pub(super) fn resolve(file: &file::Board, source: &Source<'_>) -> Result<Board, Problems> {
    let mut resolver = Resolver::new(file, source);
    resolver.place_i2c_chips();
    resolver.place_hwmon_chips();
    let rails = resolver.rails();
    let supplies = resolver.supplies();
    let sensors = resolver.sensors();
    let mut fans = resolver.fans();
    let zones = resolver.zones(&mut fans);
    if file.name.is_empty() {
        resolver.complain("name", "must not be empty");
    }
    source.finish()?;
    Ok(Board {
        name: file.name.clone(),
        revision: file.revision.clone(),
        description: file.description.clone(),
        buses: resolver.buses,
        rails,
        supplies,
        sensors,
        fans,
        zones,
    })
}

/// What a channel is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Power,
    Temperature,
    Fan,
}

struct Resolver<'a> {
    file: &'a file::Board,
    source: &'a Source<'a>,
    buses: Vec<Bus>,
    /// Where each reference designator went.
    placed: BTreeMap<&'a str, (usize, usize)>,
}

impl<'a> Resolver<'a> {
    fn new(file: &'a file::Board, source: &'a Source<'a>) -> Self {
        let this = Self { file, source, buses: Vec::new(), placed: BTreeMap::new() };
        let adapter = |name: &str, bus: &file::Bus| match (&bus.adapter, &bus.socket) {
            (Some(adapter), None) => Adapter::Kernel(adapter.clone()),
            (None, Some(socket)) => {
                if socket.is_empty() || socket.contains('/') {
                    this.complain(
                        &format!("bus.{name}.socket"),
                        "must be a plain file name in the simulated rig's directory",
                    );
                }
                Adapter::Socket(socket.clone())
            }
            (None, None) | (Some(_), Some(_)) => {
                this.complain(&format!("bus.{name}"), "needs either `adapter` or `socket`");
                Adapter::Socket(String::new())
            }
        };
        for (i, (name, bus)) in file.bus.iter().enumerate() {
            let same =
                |(_, other): &&(String, file::Bus)| (&other.adapter, &other.socket) == (&bus.adapter, &bus.socket);
            if let Some((first, _)) = file.bus.iter().take(i).find(same) {
                this.complain(
                    &format!("bus.{name}"),
                    format!("is the same as bus `{first}`: chips on it go on that one"),
                );
            }
        }
        let buses = file
            .bus
            .iter()
            .map(|(name, bus)| Bus { name: name.clone(), adapter: adapter(name, bus), chips: Vec::new() })
            .collect();
        Self { buses, ..this }
    }

    fn complain(&self, key: &str, text: impl Into<String>) {
        self.source.complain(key, text);
    }

    fn place_i2c_chips(&mut self) {
        for (refdes, chip) in &self.file.chip {
            let key = |field: &str| format!("chip.{refdes}.{field}");
            let part = Part::find(&chip.part);
            if part.is_none() {
                let known = PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
                self.complain(&key("part"), format!("no driver for the part `{}`; there are {known}", chip.part));
            }
            let bus = self.buses.iter().position(|bus| bus.name == chip.bus);
            if bus.is_none() {
                self.complain(&key("bus"), format!("there is no bus `{}`", chip.bus));
            }
            let (Some(part), Some(bus)) = (part, bus) else { continue };
            self.check_address(refdes, chip, part, bus);
            let settings = self.settings(refdes, chip, part);
            let kind = ChipKind::I2c { part, addr: chip.addr, settings };
            self.place(bus, refdes, kind);
        }
    }

    fn place(&mut self, bus: usize, refdes: &'a str, kind: ChipKind) {
        if let Some(bus_entry) = self.buses.get_mut(bus) {
            self.placed.insert(refdes, (bus, bus_entry.chips.len()));
            bus_entry.chips.push(Chip { refdes: refdes.to_owned(), kind });
        }
    }

    fn check_address(&self, refdes: &str, chip: &file::Chip, part: &Part, bus: usize) {
        let key = format!("chip.{refdes}.addr");
        if !part.can_be_at(chip.addr) {
            let range = |range: &RangeInclusive<u8>| match (range.start(), range.end()) {
                (low, high) if low == high => format!("{low:#04x}"),
                (low, high) => format!("{low:#04x} to {high:#04x}"),
            };
            let ranges = part.addresses.iter().map(range).collect::<Vec<_>>().join(", ");
            self.complain(&key, format!("{} can only be at {ranges}, not at {:#04x}", part.name, chip.addr));
        }
        let neighbours = self.buses.get(bus).map_or(&[][..], |bus| &bus.chips);
        for other in neighbours {
            if matches!(other.kind, ChipKind::I2c { addr, .. } if addr == chip.addr) {
                self.complain(&key, format!("{:#04x} on bus `{}` is already {}", chip.addr, chip.bus, other.refdes));
            }
        }
    }

    fn settings(&self, refdes: &str, chip: &file::Chip, part: &Part) -> Settings {
        let key = |field: &str| format!("chip.{refdes}.{field}");
        let takes = |setting| part.takes.contains(&setting);
        match chip.shunt_microohms {
            None if takes(Setting::Shunt) => {
                self.complain(&key("shunt_microohms"), format!("{} needs its shunt's resistance", part.name))
            }
            Some(_) if !takes(Setting::Shunt) => {
                self.complain(&key("shunt_microohms"), format!("{} has no shunt", part.name))
            }
            Some(0) => self.complain(&key("shunt_microohms"), "must be above zero"),
            Some(_) | None => {}
        }
        if chip.pec.is_some() && !takes(Setting::Pec) {
            self.complain(&key("pec"), format!("{} has no packet error code", part.name));
        }
        if chip.current_divisor.is_some() && !takes(Setting::CurrentDivisor) {
            self.complain(&key("current_divisor"), format!("{} has one scale only", part.name));
        }
        let watchdog_s = match (chip.watchdog_s, part.watchdog_s) {
            (None, times) => times.first().copied().unwrap_or(0),
            (Some(time), times) => {
                if !times.contains(&time) {
                    let text = if times.is_empty() {
                        "has no watchdog".to_owned()
                    } else {
                        format!("can only be set to {times:?}")
                    };
                    self.complain(&key("watchdog_s"), format!("{} {text}", part.name));
                }
                time
            }
        };
        Settings {
            shunt: Microohms(chip.shunt_microohms.unwrap_or(0)),
            watchdog_s,
            pulses: vec![2; part.fan.len()],
            pec: chip.pec.unwrap_or(false),
            current_divisor: chip.current_divisor.unwrap_or(0),
        }
    }

    fn place_hwmon_chips(&mut self) {
        if self.file.hwmon.is_empty() {
            return;
        }
        if has(&self.file.bus, HWMON_BUS) {
            self.complain("bus.hwmon", "this name is taken by the kernel's own sensors");
        }
        let bus = self.buses.len();
        self.buses.push(Bus { name: HWMON_BUS.to_owned(), adapter: Adapter::Hwmon, chips: Vec::new() });
        for (refdes, hwmon) in &self.file.hwmon {
            if has(&self.file.chip, refdes) {
                self.complain(&format!("hwmon.{refdes}"), "there is a chip of this name too");
            }
            let kind = ChipKind::Hwmon(Hwmon {
                driver: hwmon.driver.clone(),
                device: hwmon.device.clone(),
                ..Hwmon::default()
            });
            self.place(bus, refdes, kind);
        }
    }

    /// The channel that `key.chip` and `key.FIELD` name; complains and gives `None` where there is none.
    fn point(&mut self, key: &str, chip: &str, field: &str, channel: Option<&String>, wanted: Use) -> Option<Point> {
        let Some((bus, index)) = self.placed.get(chip).copied() else {
            // A chip that is in the file but was not placed has had its complaint already.
            if !has(&self.file.chip, chip) {
                self.complain(&format!("{key}.chip"), format!("there is no chip `{chip}`"));
            }
            return None;
        };
        let kind = &mut self.buses.get_mut(bus)?.chips.get_mut(index)?.kind;
        let found = match kind {
            ChipKind::I2c { part, .. } => channel_of(part, channel, wanted),
            ChipKind::Hwmon(hwmon) => attribute_of(hwmon, channel, wanted),
        };
        match found {
            Ok(channel) => Some(Point { bus, chip: index, channel }),
            Err(text) => {
                let field = if channel.is_some() { field } else { "chip" };
                self.complain(&format!("{key}.{field}"), text);
                None
            }
        }
    }

    fn rails(&mut self) -> Vec<Rail> {
        let mut rails = Vec::new();
        for (name, rail) in &self.file.rail {
            let key = format!("rail.{name}");
            let Some(at) = self.point(&key, &rail.chip, "channel", rail.channel.as_ref(), Use::Power) else { continue };
            if let (Some(low), Some(high)) = (rail.min_mv, rail.max_mv)
                && low >= high
            {
                self.complain(&format!("{key}.min_mv"), format!("must be below max_mv ({high})"));
            }
            rails.push(Rail {
                name: name.clone(),
                at,
                min_voltage: rail.min_mv.map(Millivolts),
                max_voltage: rail.max_mv.map(Millivolts),
                max_current: rail.max_ma.map(Milliamps),
                max_power: rail.max_mw.map(Milliwatts),
            });
        }
        rails
    }

    fn supplies(&mut self) -> Vec<Supply> {
        let mut supplies = Vec::new();
        for (name, supply) in &self.file.supply {
            let key = format!("supply.{name}");
            let input = self.point(&key, &supply.chip, "input", supply.input.as_ref(), Use::Power);
            let output = self.point(&key, &supply.chip, "output", supply.output.as_ref(), Use::Power);
            let (Some(input), Some(output)) = (input, output) else { continue };
            if input == output {
                self.complain(&format!("{key}.output"), "input and output are one channel");
            }
            supplies.push(Supply { name: name.clone(), input, output, max_input: supply.max_input_mw.map(Milliwatts) });
        }
        supplies
    }

    fn sensors(&mut self) -> Vec<Sensor> {
        let mut sensors = Vec::new();
        for (name, sensor) in &self.file.sensor {
            let key = format!("sensor.{name}");
            let Some(at) = self.point(&key, &sensor.chip, "channel", sensor.channel.as_ref(), Use::Temperature) else {
                continue;
            };
            if sensor.min_mc >= sensor.max_mc {
                self.complain(&format!("{key}.min_mc"), format!("must be below max_mc ({})", sensor.max_mc));
            }
            if sensor.frozen_s == Some(0) {
                self.complain(&format!("{key}.frozen_s"), "must be above zero; leave it out to never call it frozen");
            }
            sensors.push(Sensor {
                name: name.clone(),
                at,
                min: Millicelsius(sensor.min_mc),
                max: Millicelsius(sensor.max_mc),
                frozen_after: sensor.frozen_s.map(|s| Duration::from_secs(s.into())),
            });
        }
        sensors
    }

    fn fans(&mut self) -> Vec<Fan> {
        let mut fans: Vec<Fan> = Vec::new();
        for (name, fan) in &self.file.fan {
            let key = |field: &str| format!("fan.{name}.{field}");
            let Some(at) = self.point(&format!("fan.{name}"), &fan.chip, "channel", fan.channel.as_ref(), Use::Fan)
            else {
                continue;
            };
            if let Some(other) = fans.iter().find(|other| other.at == at) {
                self.complain(&key("channel"), format!("this channel is already fan `{}`", other.name));
            }
            if fan.min_rpm == 0 || fan.min_rpm >= fan.max_rpm {
                self.complain(&key("min_rpm"), format!("must be above zero and below max_rpm ({})", fan.max_rpm));
            }
            if fan.pulses == 0 {
                self.complain(&key("pulses"), "must be above zero");
            }
            let start = Duty::from_percent(fan.start_pct).unwrap_or_else(|| {
                self.complain(&key("start_pct"), "must be at most 100");
                Duty::FULL
            });
            self.set_pulses(at, fan.pulses);
            fans.push(Fan {
                name: name.clone(),
                at,
                max_rpm: Rpm(fan.max_rpm),
                min_rpm: Rpm(fan.min_rpm),
                start,
                zone: None,
            });
        }
        fans
    }

    /// The tachometer's pulses are a fan's, but it is the chip's formula that needs them.
    fn set_pulses(&mut self, at: Point, value: u8) {
        let chip = self.buses.get_mut(at.bus).and_then(|bus| bus.chips.get_mut(at.chip));
        if let Some(Chip { kind: ChipKind::I2c { settings, .. }, .. }) = chip
            && let Some(pulses) = settings.pulses.get_mut(at.channel)
        {
            *pulses = value;
        }
    }

    fn zones(&self, fans: &mut [Fan]) -> Vec<Zone> {
        let mut zones = Vec::new();
        for (name, zone) in &self.file.zone {
            let key = |field: &str| format!("zone.{name}.{field}");
            let sensors = self.members(&key("sensors"), "sensor", &zone.sensors, &self.file.sensor);
            let members = self.members(&key("fans"), "fan", &zone.fans, &self.file.fan);
            for fan in members.iter().filter_map(|i| fans.get(*i)) {
                if fan.zone.is_some() {
                    self.complain(&key("fans"), format!("fan `{}` belongs to another zone already", fan.name));
                }
                if !self.drives(fan.at) {
                    self.complain(
                        &key("fans"),
                        format!("the chip of fan `{}` can only watch it, not drive it", fan.name),
                    );
                }
            }
            for member in &members {
                if let Some(fan) = fans.get_mut(*member) {
                    fan.zone = Some(zones.len());
                }
            }
            if zone.hysteresis_mc < 0 {
                self.complain(&key("hysteresis_mc"), "must not be negative");
            }
            let slew_per_s =
                Duty::from_percent(zone.slew_pct_per_s).filter(|slew| *slew > Duty::OFF).unwrap_or_else(|| {
                    self.complain(&key("slew_pct_per_s"), "must be 1 to 100");
                    Duty::FULL
                });
            zones.push(Zone {
                name: name.clone(),
                sensors,
                fans: members,
                curve: self.curve(&key("curve"), zone),
                critical: Millicelsius(zone.critical_mc),
                hysteresis: Millicelsius(zone.hysteresis_mc),
                slew_per_s,
            });
        }
        zones
    }

    /// Indices of the named members in the file's order, which is the order of the lists built from it.
    fn members<T>(&self, key: &str, what: &str, names: &[String], all: &file::Named<T>) -> Vec<usize> {
        if names.is_empty() {
            self.complain(key, format!("needs at least one {what}"));
        }
        let mut members: Vec<usize> = Vec::new();
        for name in names {
            match all.iter().position(|(known, _)| known == name) {
                None => self.complain(key, format!("there is no {what} `{name}`")),
                Some(index) if members.contains(&index) => {
                    self.complain(key, format!("{what} `{name}` is named twice"))
                }
                Some(index) => members.push(index),
            }
        }
        members
    }

    fn drives(&self, at: Point) -> bool {
        let chip = self.buses.get(at.bus).and_then(|bus| bus.chips.get(at.chip));
        matches!(chip, Some(Chip { kind: ChipKind::I2c { part, .. }, .. }) if part.drives_fans)
    }

    fn curve(&self, key: &str, zone: &file::Zone) -> Vec<(Millicelsius, Duty)> {
        let mut curve: Vec<(Millicelsius, Duty)> = Vec::new();
        for (celsius, percent) in &zone.curve {
            let Some(duty) = Duty::from_percent(*percent) else {
                self.complain(key, format!("{percent} % is more than all"));
                continue;
            };
            if curve.last().is_some_and(|(before, lower)| before.0 >= *celsius || *lower > duty) {
                self.complain(key, format!("must rise: {celsius} m°C at {percent} % does not"));
            }
            curve.push((Millicelsius(*celsius), duty));
        }
        match curve.last() {
            None => self.complain(key, "needs at least one point"),
            Some((top, _)) if top.0 > zone.critical_mc => {
                self.complain(key, format!("ends above critical_mc ({})", zone.critical_mc));
            }
            Some(_) => {}
        }
        curve
    }
}

/// Whether there is a table of this name.
fn has<T>(all: &file::Named<T>, name: &str) -> bool {
    all.iter().any(|(known, _)| known == name)
}

/// Index of the channel in the part's list.
fn channel_of(part: &Part, channel: Option<&String>, wanted: Use) -> Result<usize, String> {
    let (names, what) = match wanted {
        Use::Power => (part.power, "power"),
        Use::Temperature => (part.temperature, "temperature"),
        Use::Fan => (part.fan, "fan"),
    };
    let list = || names.join(", ");
    match (names, channel) {
        ([], _) => Err(format!("{} measures no {what}", part.name)),
        ([_], None) => Ok(0),
        (_, None) => Err(format!("{} has several {what} channels, name one of {}", part.name, list())),
        (_, Some(name)) => {
            let index = names.iter().position(|known| known == name);
            index.ok_or_else(|| format!("{} has no {what} channel `{name}`, only {}", part.name, list()))
        }
    }
}

/// Adds the attributes that a channel of a kernel driver means, and gives its index.
fn attribute_of(hwmon: &mut Hwmon, channel: Option<&String>, wanted: Use) -> Result<usize, String> {
    let name = channel.map_or("1", String::as_str);
    let number = || name.parse::<u8>().map_err(|_| format!("`{name}` is not a number of the driver's attributes"));
    match wanted {
        Use::Power => {
            let attributes = match name.split(',').map(str::trim).collect::<Vec<_>>().as_slice() {
                [voltage, current, power] => [voltage, current, power].map(|attribute| (*attribute).to_owned()),
                _ => {
                    let n = number()?;
                    [format!("in{n}"), format!("curr{n}"), format!("power{n}")]
                }
            };
            Ok(index_of(&mut hwmon.power, attributes))
        }
        Use::Temperature => Ok(index_of(&mut hwmon.temperature, format!("temp{}", number()?))),
        Use::Fan => Ok(index_of(&mut hwmon.fan, format!("fan{}", number()?))),
    }
}

/// Index of `item`, appended where it is not there yet.
fn index_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}
