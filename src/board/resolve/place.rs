//! Buses, multiplexers and the chips on them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::{Bus, Chip, ChipKind, Hwmon, Mux, file};
use super::{Resolver, has};
use crate::bus::{self, Adapter, MUXES, Segment};
use crate::chip::{PARTS, Part, Setting, Settings};
use crate::source::Source;
use crate::units::Microohms;

/// Name of the bus that the kernel's sensors form.
const HWMON_BUS: &str = "hwmon";

impl<'a> Resolver<'a> {
    pub(super) fn new(file: &'a file::Board, source: &'a Source<'a>) -> Self {
        let this = Self { file, source, buses: Vec::new(), placed: BTreeMap::new() };
        let adapter = |name: &str, bus: &file::Bus| match (&bus.adapter, &bus.socket) {
            (Some(adapter), None) => {
                let selector = adapter.parse().unwrap_or_else(|text: String| {
                    this.complain(&format!("bus.{name}.adapter"), text);
                    bus::Selector::Name(String::new())
                });
                // A second is what leaving the fans safe reckons with.
                if bus.timeout_ms.is_some_and(|ms| !(10..=1_000).contains(&ms)) {
                    this.complain(&format!("bus.{name}.timeout_ms"), "must be 10 to 1000");
                }
                Adapter::Kernel { selector, timeout: bus.timeout_ms.map(|ms| Duration::from_millis(ms.into())) }
            }
            (None, Some(socket)) => {
                if socket.is_empty() || socket.contains('/') {
                    this.complain(
                        &format!("bus.{name}.socket"),
                        "must be a plain file name in the simulated rig's directory",
                    );
                }
                if bus.timeout_ms.is_some() {
                    this.complain(&format!("bus.{name}.timeout_ms"), "is for kernel adapters");
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
            .map(|(name, bus)| Bus {
                name: name.clone(),
                adapter: adapter(name, bus),
                muxes: Vec::new(),
                chips: Vec::new(),
            })
            .collect();
        Self { buses, ..this }
    }

    pub(super) fn place_i2c_chips(&mut self) {
        for (refdes, chip) in &self.file.chip {
            let key = |field: &str| format!("chip.{refdes}.{field}");
            let part = Part::find(&chip.part);
            if part.is_none() {
                let known = PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
                self.complain(&key("part"), format!("no driver for the part `{}`; there are {known}", chip.part));
            }
            let (Some((bus, segment)), Some(part)) = (self.way(refdes, chip), part) else { continue };
            self.check_address(refdes, chip, part, bus, segment);
            let settings = self.settings(refdes, chip, part);
            let kind = ChipKind::I2c { part, addr: chip.addr, segment, settings };
            self.place(bus, refdes, kind);
        }
    }

    pub(super) fn place_muxes(&mut self) {
        for (refdes, mux) in &self.file.mux {
            let key = |field: &str| format!("mux.{refdes}.{field}");
            let part = MUXES.iter().find(|part| part.name == mux.part);
            if part.is_none() {
                let known = MUXES.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
                self.complain(&key("part"), format!("no multiplexer `{}`; there are {known}", mux.part));
            }
            if !bus::MUX_ADDRESSES.contains(&mux.addr) {
                self.complain(&key("addr"), format!("must be 0x70 to 0x77, not {:#04x}", mux.addr));
            }
            if has(&self.file.chip, refdes) {
                self.complain(&format!("mux.{refdes}"), "there is a chip of this name too");
            }
            let channels = part.map_or(0, |part| part.channels);
            let mux = (Mux { refdes: refdes.clone(), addr: mux.addr, channels }, &mux.bus);
            let Some(bus) = self.buses.iter_mut().find(|bus| bus.name == *mux.1) else {
                self.complain(&key("bus"), format!("there is no bus `{}`", mux.1));
                continue;
            };
            if let Some(other) = bus.muxes.iter().find(|other| other.addr == mux.0.addr) {
                let text = format!("{:#04x} on bus `{}` is already {}", other.addr, bus.name, other.refdes);
                self.complain(&key("addr"), text);
                continue;
            }
            bus.muxes.push(mux.0);
        }
    }

    /// The bus that a chip is on, and the channel that it is behind.
    fn way(&self, refdes: &str, chip: &file::Chip) -> Option<(usize, Option<Segment>)> {
        let key = |field: &str| format!("chip.{refdes}.{field}");
        match (&chip.bus, &chip.mux) {
            (Some(name), None) => {
                if chip.channel.is_some() {
                    self.complain(&key("channel"), "is a multiplexer's, and no `mux` is named");
                }
                let bus = self.buses.iter().position(|bus| bus.name == *name);
                if bus.is_none() {
                    self.complain(&key("bus"), format!("there is no bus `{name}`"));
                }
                Some((bus?, None))
            }
            (None, Some(name)) => {
                let found = self.buses.iter().enumerate().find_map(|(index, bus)| {
                    let mux = bus.muxes.iter().find(|mux| mux.refdes == *name)?;
                    Some((index, mux, bus.muxes.len() == 1))
                });
                let Some((bus, mux, alone)) = found else {
                    // One that is in the file but could not be placed has had its complaint already.
                    if !has(&self.file.mux, name) {
                        self.complain(&key("mux"), format!("there is no multiplexer `{name}`"));
                    }
                    return None;
                };
                match chip.channel {
                    Some(channel) if channel < mux.channels => {
                        Some((bus, Some(Segment { mux: mux.addr, channel, alone })))
                    }
                    Some(channel) => {
                        let text =
                            format!("{name} has channels 0 to {}, not {channel}", mux.channels.saturating_sub(1));
                        self.complain(&key("channel"), text);
                        None
                    }
                    None => {
                        self.complain(
                            &format!("chip.{refdes}"),
                            format!("needs the `channel` of {name} that it is on"),
                        );
                        None
                    }
                }
            }
            (None, None) | (Some(_), Some(_)) => {
                self.complain(&format!("chip.{refdes}"), "needs either `bus`, or `mux` and `channel`");
                None
            }
        }
    }

    fn place(&mut self, bus: usize, refdes: &'a str, kind: ChipKind) {
        if let Some(bus_entry) = self.buses.get_mut(bus) {
            self.placed.insert(refdes, (bus, bus_entry.chips.len()));
            bus_entry.chips.push(Chip { refdes: refdes.to_owned(), kind });
        }
    }

    fn check_address(&self, refdes: &str, chip: &file::Chip, part: &Part, bus: usize, segment: Option<Segment>) {
        let key = format!("chip.{refdes}.addr");
        if !part.can_be_at(chip.addr) {
            let range = |range: &RangeInclusive<u8>| match (range.start(), range.end()) {
                (low, high) if low == high => format!("{low:#04x}"),
                (low, high) => format!("{low:#04x} to {high:#04x}"),
            };
            let ranges = part.addresses.iter().map(range).collect::<Vec<_>>().join(", ");
            self.complain(&key, format!("{} can only be at {ranges}, not at {:#04x}", part.name, chip.addr));
        }
        let Some(bus) = self.buses.get(bus) else { return };
        if let Some(mux) = bus.muxes.iter().find(|mux| mux.addr == chip.addr) {
            self.complain(&key, format!("{:#04x} on bus `{}` is already {}", chip.addr, bus.name, mux.refdes));
        }
        for other in &bus.chips {
            let ChipKind::I2c { addr, segment: theirs, .. } = &other.kind else { continue };
            // What is on the bus itself is heard on every channel; two channels are never open at once.
            let together = segment.is_none() || theirs.is_none() || segment == *theirs;
            if *addr == chip.addr && together {
                self.complain(&key, format!("{:#04x} on bus `{}` is already {}", chip.addr, bus.name, other.refdes));
            }
        }
    }

    /// The chip that says which board this is.
    pub(super) fn identity(&self) -> Option<(usize, usize)> {
        let refdes = self.file.identity.as_ref()?;
        let placed = self.placed.get(refdes.as_str()).copied();
        let (bus, chip) = match placed {
            Some(placed) => placed,
            None => {
                if !has(&self.file.chip, refdes) {
                    self.complain("identity", format!("there is no chip `{refdes}`"));
                }
                return None;
            }
        };
        let kind = &self.buses.get(bus)?.chips.get(chip)?.kind;
        if !matches!(kind, ChipKind::I2c { part, .. } if part.holds_identity()) {
            self.complain("identity", format!("{refdes} is no EEPROM"));
        }
        Some((bus, chip))
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

    pub(super) fn place_hwmon_chips(&mut self) {
        if self.file.hwmon.is_empty() {
            return;
        }
        if has(&self.file.bus, HWMON_BUS) {
            self.complain("bus.hwmon", "this name is taken by the kernel's own sensors");
        }
        let bus = self.buses.len();
        self.buses.push(Bus {
            name: HWMON_BUS.to_owned(),
            adapter: Adapter::Hwmon,
            muxes: Vec::new(),
            chips: Vec::new(),
        });
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
}
