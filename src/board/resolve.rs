//! From names to indices: what a board file's keys mean together.
//!
//! Every check adds to the list of problems and goes on with something harmless, so that one run shows them all; a board
//! with a problem is never returned.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Board, Bus, ChipKind, Hwmon, Point, Rail, Sensor, Supply, file};
use crate::chip::Part;
use crate::source::{Problems, Source};
use crate::units::{Milliamps, Millicelsius, Millivolts, Milliwatts};

mod place;
mod thermal;

/// Most that a supply may draw, mW: a rig is no hall.
const MOST_INPUT_MW: u32 = 100_000_000;

/// Checks everything, or says all that is wrong.
pub(super) fn resolve(file: &file::Board, source: &Source<'_>) -> Result<Board, Problems> {
    let mut resolver = Resolver::new(file, source);
    resolver.place_muxes();
    resolver.place_i2c_chips();
    resolver.place_hwmon_chips();
    let rails = resolver.rails();
    let supplies = resolver.supplies();
    let sensors = resolver.sensors();
    let mut fans = resolver.fans();
    let zones = resolver.zones(&mut fans, &rails);
    let identity = resolver.identity();
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
        identity,
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
    fn complain(&self, key: &str, text: impl Into<String>) {
        self.source.complain(key, text);
    }

    /// The channel that `key.chip` and `key.FIELD` name; complains and gives `None` where there is none.
    fn point(&mut self, key: &str, chip: &str, field: &str, channel: Option<&String>, wanted: Use) -> Option<Point> {
        self.named_point(key, ["chip", field], chip, channel, wanted)
    }

    /// The same where the chip's key has another name.
    fn named_point(
        &mut self,
        key: &str,
        [chip_field, field]: [&str; 2],
        chip: &str,
        channel: Option<&String>,
        wanted: Use,
    ) -> Option<Point> {
        let Some((bus, index)) = self.placed.get(chip).copied() else {
            // A chip that is in the file but was not placed has had its complaint already.
            if !has(&self.file.chip, chip) {
                self.complain(&format!("{key}.{chip_field}"), format!("there is no chip `{chip}`"));
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
                let field = if channel.is_some() { field } else { chip_field };
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
            if let Some(most) = supply.max_input_mw
                && !(1..=MOST_INPUT_MW).contains(&most)
            {
                self.complain(&format!("{key}.max_input_mw"), format!("must be 1 to {MOST_INPUT_MW}, not {most}"));
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
            if sensor.max_k_per_s == 0 {
                self.complain(&format!("{key}.max_k_per_s"), "must be above zero");
            }
            if sensor.critical_mc.is_some_and(|critical| critical > sensor.max_mc) {
                self.complain(&format!("{key}.critical_mc"), format!("is above max_mc ({})", sensor.max_mc));
            }
            sensors.push(Sensor {
                name: name.clone(),
                at,
                min: Millicelsius(sensor.min_mc),
                max: Millicelsius(sensor.max_mc),
                frozen_after: sensor.frozen_s.map(|s| Duration::from_secs(s.into())),
                critical: sensor.critical_mc.map(Millicelsius),
                max_rate: sensor.max_k_per_s,
            });
        }
        sensors
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
