//! Rails, supplies, sensors and fans: a table for each channel of each chip.

use std::fmt::Write;

use rigd::chip::{Part, Setting};

use super::quoted;
use crate::kernel::{Rail, Sensors};

const POWER: &str =
    "# What each channel feeds, and its limits (min_mv, max_mv, max_ma, max_mw), are the board's to say.\n";
const TEMPERATURE: &str = "# A channel that has nothing connected reads as missing: take it out.\n";
const FAN: &str = "# Watched only, until a zone drives them: max_rpm is above any fan's, so that no speed is an alarm before it is\n\
                   # known. The fan's data sheet has the speeds to put here before a zone has it.\n\
                   # Take out the channels that have no fan.\n";

/// The tables so far, by kind.
#[derive(Default)]
pub(super) struct Uses {
    power: String,
    temperature: String,
    fan: String,
    sensors: Vec<String>,
    driven: Vec<String>,
}

impl Uses {
    pub(super) fn of_part(&mut self, refdes: &str, part: &Part) {
        let several = |names: &[&str]| names.len() > 1;
        if part.power == ["in", "out"] {
            let name = refdes.to_ascii_lowercase();
            let _ =
                write!(self.power, "\n[supply.{name}]\nchip = {}\ninput = \"in\"\noutput = \"out\"\n", quoted(refdes));
        } else {
            for channel in part.power {
                self.rail(refdes, several(part.power).then_some(*channel));
            }
        }
        for channel in part.temperature {
            // The heat of a supply or a power monitor is its own, and not the air's.
            let of_air = part.power.is_empty() || part.drives_fans;
            self.sensor(refdes, several(part.temperature).then_some(*channel), of_air);
        }
        for channel in part.fan {
            let blind = part.takes.contains(&Setting::Tachometer);
            self.fan(refdes, several(part.fan).then_some(*channel), part.drives_fans, blind);
        }
    }

    /// Whether there is anything in it that a board can use.
    pub(super) fn has_any(sensors: &Sensors) -> bool {
        let mut uses = Self::default();
        uses.of_sensors("X", sensors);
        !uses.tables().is_empty()
    }

    /// What a kernel driver measures.
    pub(super) fn of_sensors(&mut self, refdes: &str, sensors: &Sensors) {
        for Rail { number, voltage } in sensors.rails() {
            let name = name(refdes, Some(&number.to_string()));
            let channel =
                voltage.map_or(number.to_string(), |voltage| format!("in{voltage}, curr{number}, power{number}"));
            let _ = write!(self.power, "\n[rail.{name}]\n{}", at(refdes, Some(&channel)));
        }
        let of_air = sensors.rails().is_empty();
        for number in sensors.numbers("temp") {
            self.sensor(refdes, Some(&number.to_string()), of_air);
        }
        for number in sensors.numbers("fan") {
            self.fan(refdes, Some(&number.to_string()), false, false);
        }
    }

    fn rail(&mut self, refdes: &str, channel: Option<&str>) {
        let _ = write!(self.power, "\n[rail.{}]\n{}", name(refdes, channel), at(refdes, channel));
    }

    /// `of_air`: a zone may answer to it.
    fn sensor(&mut self, refdes: &str, channel: Option<&str>, of_air: bool) {
        let name = name(refdes, channel);
        let _ = write!(self.temperature, "\n[sensor.{name}]\n{}", at(refdes, channel));
        if of_air {
            self.sensors.push(name);
        }
    }

    /// `blind`: the chip measures no speed, and a scan cannot know who does.
    fn fan(&mut self, refdes: &str, channel: Option<&str>, driven: bool, blind: bool) {
        let name = name(refdes, channel);
        let speed = if blind {
            "tachometer = false            # or tach_chip and tach_channel: who measures its speed\n"
        } else {
            "min_rpm = 500\nmax_rpm = 30_000              # while it is only watched\n"
        };
        let _ = write!(self.fan, "\n[fan.{name}]\n{}{speed}", at(refdes, channel));
        if driven {
            self.driven.push(name);
        }
    }

    /// The tables alone.
    pub(super) fn tables(&self) -> String {
        [self.power.as_str(), &self.temperature, &self.fan].concat()
    }

    /// The tables, each kind with what is left to do about it, and a zone to start from.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (prose, tables) in [(POWER, &self.power), (TEMPERATURE, &self.temperature), (FAN, &self.fan)] {
            if !tables.is_empty() {
                let _ = write!(text, "\n{prose}{}", tables.trim_start_matches('\n'));
            }
        }
        text + &self.zone()
    }

    /// A zone to start from, where there is something to measure and something to drive.
    fn zone(&self) -> String {
        if self.sensors.is_empty() || self.driven.is_empty() {
            return String::new();
        }
        let list = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        format!(
            "\n# No fan is driven before there is a zone: temperatures, the fans that answer to them, and how. One to start from:\n\
             #[zone.all]\n#sensors = [{}]\n#fans = [{}]\n#curve = [[30_000, 30], [45_000, 50], [60_000, 100]]    # m°C, %\n\
             #critical_mc = 65_000\n",
            list(&self.sensors),
            list(&self.driven)
        )
    }
}

fn name(refdes: &str, channel: Option<&str>) -> String {
    let refdes = refdes.to_ascii_lowercase();
    channel.map_or(refdes.clone(), |channel| format!("{refdes}_{channel}"))
}

fn at(refdes: &str, channel: Option<&str>) -> String {
    let mut text = format!("chip = {}\n", quoted(refdes));
    match channel {
        Some(channel) if channel.chars().all(|c| c.is_ascii_digit()) => {
            let _ = writeln!(text, "channel = {channel}");
        }
        Some(channel) => {
            let _ = writeln!(text, "channel = {}", quoted(channel));
        }
        None => {}
    }
    text
}
