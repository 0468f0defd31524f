//! A board file made of what was found.
//!
//! What is sure, or likely, stands in it as it is; what is not known stands behind `#`, so that it can be taken in by hand.
//! Prose has a blank after its `#`, a proposal has none: `#[chip.X]`. The file passes `rigd-ctl check` as it is, and also
//! with every proposal taken in.

mod uses;

use std::fmt::Write;
use std::ops::RangeInclusive;

use rigd::chip::{Certainty, Kernel, PARTS, Part, Setting};

use super::prose::{could_be, likely, unasked, who};
use super::scan::{What, Why, needs_writes};
use super::survey::Names;
use crate::kernel::{Owner, Sensors};
use uses::Uses;

/// All that goes into a file.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// Lines for its head.
    pub(crate) notes: Vec<String>,
    pub(crate) buses: Vec<Bus>,
}

/// A bus with what is on it and behind its multiplexers.
#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) name: String,
    /// Key and value of where it is.
    pub(crate) entry: (&'static str, String),
    pub(crate) title: String,
    pub(crate) notes: Vec<String>,
    pub(crate) muxes: Vec<Mux>,
    pub(crate) seen: Vec<Seen>,
}

/// A multiplexer.
#[derive(Debug)]
pub(crate) struct Mux {
    /// Name of the part.
    pub(crate) part: &'static str,
    pub(crate) addr: u8,
    /// The kernel's driver switches it.
    pub(crate) kernel: bool,
}

/// Something at an address.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) addr: u8,
    /// Address and channel of the multiplexer that it is behind.
    pub(crate) behind: Option<(u8, u8)>,
    pub(crate) what: What,
    /// What the kernel says of it, where a driver has it.
    pub(crate) owner: Option<Owner>,
}

/// The text of the file.
pub(crate) fn text(draft: &Draft) -> String {
    let mut writer = Writer::default();
    writer.head(&draft.notes);
    for bus in &draft.buses {
        writer.bus(bus);
    }
    if draft.buses.iter().all(|bus| bus.seen.is_empty() && bus.muxes.is_empty()) {
        writer.text.push('\n');
        writer.note("Nothing answered.");
    }
    let Writer { mut text, uses, .. } = writer;
    text.push_str(&uses.text());
    text
}

#[derive(Default)]
struct Writer {
    text: String,
    names: Names,
    uses: Uses,
}

/// Where a chip is, in the words of the file.
struct Spot<'a> {
    bus: &'a str,
    /// Refdes of the multiplexer and its channel.
    behind: Option<(String, u8)>,
    addr: u8,
}

impl Spot<'_> {
    fn block(&self, refdes: &str, part: &Part) -> String {
        let mut text = format!("[chip.{refdes}]\npart = {}\n", quoted(part.name));
        let _ = match &self.behind {
            None => writeln!(text, "bus = {}", quoted(self.bus)),
            Some((mux, channel)) => writeln!(text, "mux = {}\nchannel = {channel}", quoted(mux)),
        };
        let _ = writeln!(text, "addr = {:#04x}", self.addr);
        if part.takes.contains(&Setting::Shunt) {
            text.push_str(
                "shunt_microohms = 1_000       # a guess: until it is measured, current and power are wrong\n",
            );
        }
        text
    }
}

impl Writer {
    /// Prose: each line with its `# `. A name that a driver gives could hold anything.
    fn note(&mut self, text: &str) {
        for line in text.lines() {
            let line = line.replace(char::is_control, "?");
            let _ = writeln!(self.text, "# {line}");
        }
    }

    /// A block that is not sure enough to stand: each line behind a `#` of its own.
    fn proposal(&mut self, block: &str) {
        for line in block.lines() {
            self.text.push_str(if line.is_empty() { "" } else { "#" });
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    fn head(&mut self, notes: &[String]) {
        self.note(
            "A draft by `rigd-ctl probe`: what answered, and how sure that is. Blocks behind a `#` without a blank are proposals:\n\
             take the `#` away where they are right. Left to do: name and revision as printed on the board, the schematic's\n\
             reference designators instead of those invented here, shunts, limits, and zones. Then `rigd-ctl check`.",
        );
        for note in notes {
            self.note(note);
        }
        self.text.push_str("name = \"unnamed\"\nrevision = \"draft\"\ndescription = \"What rigd-ctl probe found\"\n");
    }

    fn bus(&mut self, bus: &Bus) {
        self.text.push('\n');
        self.note(&bus.title);
        for note in &bus.notes {
            self.note(note);
        }
        let (key, value) = &bus.entry;
        let _ = writeln!(self.text, "[bus.{}]\n{key} = {}", bus.name, quoted(value));
        let mut muxes = Vec::new();
        for mux in &bus.muxes {
            let refdes = self.names.take(&refdes(mux.part, mux.addr));
            self.text.push('\n');
            self.note(if mux.kernel {
                "The kernel's driver switches it."
            } else {
                "No kernel driver has it: it does what a multiplexer does, and is switched by the agent."
            });
            self.text.push_str(&mux_block(&refdes, mux.part, &bus.name, mux.addr));
            muxes.push((mux.addr, refdes));
        }
        for seen in &bus.seen {
            let behind = seen.behind.and_then(|(addr, channel)| {
                let (_, mux) = muxes.iter().find(|(known, _)| *known == addr)?;
                Some((mux.clone(), channel))
            });
            self.text.push('\n');
            self.seen(bus, seen, behind);
        }
    }

    fn seen(&mut self, bus: &Bus, seen: &Seen, behind: Option<(String, u8)>) {
        let addr = seen.addr;
        let spot = Spot { bus: &bus.name, behind, addr };
        match &seen.what {
            What::Sure(part) => self.take_in(&spot, part, "Sure, by its id registers."),
            What::Likely(parts) => {
                let [part, others @ ..] = parts.as_slice() else { return };
                self.take_in(&spot, part, &likely(part, others));
            }
            What::Owned => {
                let owner = seen.owner.clone().unwrap_or_default();
                match Part::find(&owner.chip).filter(|part| part.can_be_at(addr) && is_read_through_kernel(part)) {
                    Some(part) => {
                        let note = format!("{} has it: the agent reads it through that.", who(&owner));
                        self.take_in(&spot, part, &note);
                    }
                    None => self.owned(addr, &owner),
                }
            }
            What::Unknown => {
                let parts = by_word(addr, |part| !part.holds_identity() && !needs_writes(part));
                self.note(&format!("{addr:#04x} answers, and is no part that the agent can tell.{}", could_be(&parts)));
                self.propose(&spot, &parts);
            }
            What::Unasked(why) => {
                let others = match why {
                    Why::Memory => PARTS.iter().copied().filter(|part| sits_among_memories(part, addr)).collect(),
                    Why::Supply => by_word(addr, |part| !part.holds_identity() && !needs_writes(part)),
                    Why::Mux | Why::WriteProtection | Why::PortExpander | Why::Clock => Vec::new(),
                };
                self.note(&format!("{addr:#04x} {}{}", unasked(*why, addr, spot.behind.is_some()), could_be(&others)));
                match why {
                    Why::Memory => self.propose(&spot, &by_word(addr, Part::holds_identity)),
                    Why::Supply => self.propose(&spot, &by_word(addr, needs_writes)),
                    // The kernel's channels are no place for another multiplexer, and neither are ours.
                    Why::Mux if spot.behind.is_none() => {
                        let name = self.names.take(&refdes("mux", addr));
                        self.proposal(&mux_block(&name, "pca9548", &bus.name, addr));
                    }
                    Why::Mux | Why::WriteProtection | Why::PortExpander | Why::Clock => {}
                }
            }
            What::Fails(error) => self.note(&format!("{addr:#04x} fails when it is asked: {error}.")),
        }
    }

    /// A chip that stands in the file, with all that it measures.
    fn take_in(&mut self, spot: &Spot<'_>, part: &Part, note: &str) {
        let refdes = self.names.take(&refdes(part.name, spot.addr));
        self.note(note);
        self.text.push_str(&spot.block(&refdes, part));
        self.uses.of_part(&refdes, part);
    }

    /// A chip that could be taken in, as the first of these parts, with all that it would measure.
    fn propose(&mut self, spot: &Spot<'_>, parts: &[&Part]) {
        let Some(part) = parts.first() else { return };
        let refdes = self.names.take(&refdes(part.name, spot.addr));
        let mut uses = Uses::default();
        uses.of_part(&refdes, part);
        self.proposal(&(spot.block(&refdes, part) + &uses.tables()));
    }

    /// What a kernel driver has and the agent has no driver for.
    fn owned(&mut self, addr: u8, owner: &Owner) {
        let Some(sensors) = owner.sensors.as_ref().filter(|sensors| Uses::has_any(sensors)) else {
            self.note(&format!("{addr:#04x}: {} has it, and measures nothing there.", who(owner)));
            return;
        };
        let refdes = self.names.take(&refdes(&sensors.name, addr));
        self.note(&format!("{} has the address {addr:#04x}.", who(owner)));
        self.text.push_str(&hwmon_block(&refdes, sensors));
        self.uses.of_sensors(&refdes, sensors);
    }
}

fn mux_block(refdes: &str, part: &str, bus: &str, addr: u8) -> String {
    format!("[mux.{refdes}]\npart = {}\nbus = {}\naddr = {addr:#04x}\n", quoted(part), quoted(bus))
}

fn hwmon_block(refdes: &str, sensors: &Sensors) -> String {
    let mut text = format!("[hwmon.{refdes}]\ndriver = {}\n", quoted(&sensors.name));
    if let Some(device) = &sensors.device {
        let _ = writeln!(text, "device = {}       # its number can change with the bus's", quoted(device));
    }
    text
}

/// A reference designator until somebody looks at the schematic.
fn refdes(part: &str, addr: u8) -> String {
    let name: String =
        part.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("{name}_{addr:02X}")
}

fn is_read_through_kernel(part: &Part) -> bool {
    let Kernel { power, temperature, fan } = &part.kernel;
    !(power.is_empty() && temperature.is_empty() && fan.is_empty())
}

/// Whether it is no memory, and can be where only memories are looked for.
fn sits_among_memories(part: &Part, addr: u8) -> bool {
    let there =
        |range: &RangeInclusive<u8>| (0x50..=0x57).contains(range.start()) && (0x50..=0x57).contains(range.end());
    part.can_be_at(addr) && part.addresses.iter().all(there) && !part.holds_identity()
}

/// Parts that nothing tells from others, of those that could be at this address.
fn by_word(addr: u8, wanted: impl Fn(&Part) -> bool) -> Vec<&'static Part> {
    let untold = |part: &&Part| part.certainty == Certainty::Word || needs_writes(part);
    PARTS.iter().copied().filter(|part| part.can_be_at(addr)).filter(untold).filter(|part| wanted(part)).collect()
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
