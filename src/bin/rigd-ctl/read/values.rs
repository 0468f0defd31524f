//! What a chip measured, for people: each channel with the board's name for it, a value with its unit or the reason why
//! there is none.

use std::fmt::{Display, Write};

use rigd::board::{Board, Chip, ChipKind, Point};
use rigd::reading::{ChipReading, Fan, Power, Reading};
use rigd::units::{Milliamps, Millivolts, Milliwatts};
use rigd::wire;
use serde_json::{Map, Value, json};

use crate::people::{amperes, celsius, percent, volts, watts};

/// Where a chip is in its board.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) board: &'a Board,
    pub(super) bus: usize,
    pub(super) chip: usize,
}

impl Place<'_> {
    /// Names that the board gives a channel, of all that it could be used for.
    fn names<'b>(self, channel: usize, points: impl Iterator<Item = (Point, &'b str)>) -> Vec<&'b str> {
        let here = |point: &Point| (point.bus, point.chip, point.channel) == (self.bus, self.chip, channel);
        points.filter(|(point, _)| here(point)).map(|(_, name)| name).collect()
    }
}

impl<'a> Place<'a> {
    fn power(self, channel: usize) -> Vec<&'a str> {
        let rails = self.board.rails.iter().map(|rail| (rail.at, rail.name.as_str()));
        let supplies = self.board.supplies.iter();
        let supplies =
            supplies.flat_map(|supply| [(supply.input, supply.name.as_str()), (supply.output, &supply.name)]);
        self.names(channel, rails.chain(supplies))
    }

    fn temperature(self, channel: usize) -> Vec<&'a str> {
        self.names(channel, self.board.sensors.iter().map(|sensor| (sensor.at, sensor.name.as_str())))
    }

    fn fan(self, channel: usize) -> Vec<&'a str> {
        self.names(channel, self.board.fans.iter().map(|fan| (fan.at, fan.name.as_str())))
    }
}

/// A line for each channel, and one for the faults.
pub(super) fn lines(place: Place<'_>, chip: &Chip, reading: &ChipReading) -> String {
    let mut text = String::new();
    let mut line = |what: String, values: String, names: Vec<&str>| {
        let name = if names.is_empty() { "not used by the board".to_owned() } else { names.join(", ") };
        let _ = writeln!(text, "  {what:<16}  {values:<34}  {name}");
    };
    for (i, power) in reading.power.iter().enumerate() {
        line(format!("power {}", channel(chip, Kind::Power, i)), self::power(power), place.power(i));
    }
    for (i, temperature) in reading.temperature.iter().enumerate() {
        line(format!("temperature {}", channel(chip, Kind::Temperature, i)), value(temperature), place.temperature(i));
    }
    for (i, fan) in reading.fan.iter().enumerate() {
        line(format!("fan {}", channel(chip, Kind::Fan, i)), self::fan(fan), place.fan(i));
    }
    if matches!(&chip.kind, ChipKind::I2c { part, .. } if part.holds_identity()) {
        let _ = writeln!(text, "  identity          {}", identity(reading));
    }
    let _ = writeln!(text, "  faults            {}", faults(reading));
    text
}

/// The same as JSON, each value as in telemetry: a number, or the reason why there is none.
pub(super) fn facts(place: Place<'_>, chip: &Chip, reading: &ChipReading) -> Map<String, Value> {
    let power = reading.power.iter().enumerate().map(|(i, power)| {
        let wire::Power { mv, ma, mw } = (*power).into();
        json!({ "channel": channel(chip, Kind::Power, i), "names": place.power(i), "mv": mv, "ma": ma, "mw": mw })
    });
    let temperature = reading.temperature.iter().enumerate().map(|(i, temperature)| {
        let value = wire::Value(*temperature);
        json!({ "channel": channel(chip, Kind::Temperature, i), "names": place.temperature(i), "mc": value })
    });
    let fan = reading.fan.iter().enumerate().map(|(i, fan)| {
        let (rpm, duty) = (wire::Value(fan.rpm), wire::Value(fan.duty));
        let channel = channel(chip, Kind::Fan, i);
        json!({ "channel": channel, "names": place.fan(i), "rpm": rpm, "duty": duty, "fault": fan.fault })
    });
    let identity = reading
        .identity
        .as_ref()
        .map(|identity| json!({ "name": identity.name, "revision": identity.revision, "serial": identity.serial }));
    let faults: Vec<String> = reading.faults.iter().map(|fault| fault.to_string()).collect();
    let all: [(&str, Value); 5] = [
        ("power", power.collect()),
        ("temperature", temperature.collect()),
        ("fan", fan.collect()),
        ("identity", identity.into()),
        ("faults", faults.into()),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// All of it on one line, in the units of `rigd-ctl watch`.
pub(super) fn short(reading: &ChipReading) -> String {
    let power = reading.power.iter().map(|Power { voltage, current, power }| {
        let voltage = shown(voltage, |v: Millivolts| format!("{} V", volts(v)));
        let current = shown(current, |a: Milliamps| format!("{} A", amperes(a)));
        format!("{voltage}, {current}, {}", shown(power, |w: Milliwatts| format!("{} W", watts(w))))
    });
    let temperature = reading.temperature.iter().map(|t| shown(t, |t| format!("{} °C", celsius(t))));
    let fan = reading.fan.iter().map(|fan| fan_with(fan, shown(&fan.duty, percent)));
    let mut all: Vec<String> = power.chain(temperature).chain(fan).collect();
    if all.is_empty() {
        all.push(identity(reading));
    }
    if reading.faults.iter().next().is_some() {
        all.push(format!("faults: {}", faults(reading)));
    }
    all.join(" | ")
}

#[derive(Clone, Copy)]
enum Kind {
    Power,
    Temperature,
    Fan,
}

/// The part's name for a channel, or the kernel's.
fn channel(chip: &Chip, kind: Kind, index: usize) -> String {
    let name = match &chip.kind {
        ChipKind::I2c { part, .. } => {
            let names = match kind {
                Kind::Power => part.power,
                Kind::Temperature => part.temperature,
                Kind::Fan => part.fan,
            };
            names.get(index).map(|name| (*name).to_owned())
        }
        ChipKind::Hwmon(hwmon) => match kind {
            Kind::Power => hwmon.power.get(index).map(|names| names.join(",")),
            Kind::Temperature => hwmon.temperature.get(index).cloned(),
            Kind::Fan => hwmon.fan.get(index).cloned(),
        },
    };
    name.unwrap_or_default()
}

fn value<T: Display + Copy>(reading: &Reading<T>) -> String {
    shown(reading, |value| value.to_string())
}

fn shown<T: Copy>(reading: &Reading<T>, show: impl Fn(T) -> String) -> String {
    match reading {
        Ok(value) => show(*value),
        Err(missing) => missing.to_string(),
    }
}

fn power(power: &Power) -> String {
    let Power { voltage, current, power } = power;
    format!("{}, {}, {}", value(voltage), value(current), value(power))
}

fn fan(fan: &Fan) -> String {
    fan_with(fan, value(&fan.duty))
}

fn fan_with(fan: &Fan, drive: String) -> String {
    let fault = if fan.fault { ", fault" } else { "" };
    format!("{}, drive {drive}{fault}", value(&fan.rpm))
}

fn identity(reading: &ChipReading) -> String {
    let identity = reading.identity.as_ref();
    identity.map_or_else(
        || "no identity".to_owned(),
        |identity| format!("{} revision {} serial {}", identity.name, identity.revision, identity.serial),
    )
}

fn faults(reading: &ChipReading) -> String {
    let faults: Vec<String> = reading.faults.iter().map(|fault| fault.to_string()).collect();
    if faults.is_empty() { "none".to_owned() } else { faults.join(", ") }
}

#[cfg(test)]
mod tests {
    use rigd::chip::Part;
    use rigd::reading::{Fault, Faults, Missing};
    use rigd::units::{Duty, Milliamps, Millicelsius, Millivolts, Rpm};

    use super::*;

    #[test]
    fn values_reasons_and_faults_are_told_with_the_boards_names() {
        let board = Board::load("simulated-8gpu").unwrap();
        let find = |refdes: &str| {
            let all =
                board.buses.iter().enumerate().flat_map(|(bus, on)| on.chips.iter().enumerate().map(move |c| (bus, c)));
            all.into_iter().find(|(_, (_, chip))| chip.refdes == refdes).unwrap()
        };
        let (bus, (chip, on_board)) = find("PS1");
        let mut reading = Part::find("pmbus").unwrap().missing(Missing::NotPresent);
        reading.power[0].voltage = Ok(Millivolts(230_000));
        reading.power[0].current = Ok(Milliamps(-5));
        reading.fan[0] = Fan { rpm: Ok(Rpm(3_200)), duty: Ok(Duty::FULL), fault: true };
        reading.faults = Faults::NONE.with(Fault::Fan, true).with(Fault::Input, true);
        let text = lines(Place { board: &board, bus, chip }, on_board, &reading);
        for expected in [
            "  power in          230000 mV, -5 mA, not present       psu1\n",
            "  temperature 3     not present                         not used by the board\n",
            "  fan 1             3200 rpm, drive 100.00 %, fault     not used by the board\n",
            "  faults            fan, input\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        let facts = Value::Object(facts(Place { board: &board, bus, chip }, on_board, &reading));
        assert_eq!(
            facts["power"][0],
            json!({ "channel": "in", "names": ["psu1"], "mv": 230_000, "ma": -5, "mw": "not_present" })
        );
        assert_eq!(facts["temperature"][2], json!({ "channel": "3", "names": [], "mc": "not_present" }));
        assert_eq!(
            facts["fan"][0],
            json!({ "channel": "1", "names": [], "rpm": 3_200, "duty": 10_000, "fault": true })
        );
        assert_eq!((&facts["faults"], &facts["identity"]), (&json!(["fan", "input"]), &Value::Null));
        let line = short(&reading);
        assert!(line.starts_with("230.000 V, 0.00 A, not present | "), "{line}");
        assert!(line.contains(" | 3200 rpm, drive 100 %, fault | "), "{line}");
        assert!(line.ends_with(" | faults: fan, input"), "{line}");
        let (bus, (chip, on_board)) = find("U30");
        let reading = Part::find("tmp75").unwrap().missing(Missing::Bus);
        let text = lines(Place { board: &board, bus, chip }, on_board, &reading);
        assert_eq!(text, "  temperature 1     bus                                 intake\n  faults            none\n");
        assert_eq!(short(&reading), "bus");
        let mut reading = reading;
        reading.temperature[0] = Ok(Millicelsius(43_690));
        assert_eq!(short(&reading), "43.6 °C");
    }
}
