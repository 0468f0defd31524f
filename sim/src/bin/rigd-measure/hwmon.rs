//! The simulated board's quantities as a kernel's hwmon drivers would have them: plain files, values that stand still.
//!
//! It shows the agent's own work: neither a bus nor a driver's time is in it. Fans are watched and not driven, for hwmon
//! is read only.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

/// One device: its name in the board file, driver, device and what it has.
struct Device {
    chip: String,
    driver: &'static str,
    device: String,
    inputs: Vec<(String, i64)>,
}

const CARDS: i64 = 8;
const FANS: i64 = 6;
const SENSORS: i64 = 3;

fn devices() -> Vec<Device> {
    let power = |channel: i64, mv: i64, ma: i64| {
        [("in", mv), ("curr", ma), ("power", mv * ma)].map(|(what, value)| (format!("{what}{channel}"), value))
    };
    let cards = (0..CARDS).map(|card| Device {
        chip: format!("U1{card}"),
        driver: "ina226",
        device: format!("0-004{card}"),
        inputs: power(1, 12_000 + card, 20_000 + 100 * card).to_vec(),
    });
    let sensors = (0..SENSORS).map(|sensor| Device {
        chip: format!("U3{sensor}"),
        driver: "tmp75",
        device: format!("1-004{}", 8 + sensor),
        inputs: vec![("temp1".to_owned(), 30_000 + 5_000 * sensor)],
    });
    let fans = Device {
        chip: "U20".to_owned(),
        driver: "max31790",
        device: "1-0020".to_owned(),
        inputs: (1..=FANS).map(|fan| (format!("fan{fan}"), 2_000 + fan)).collect(),
    };
    let supply = Device {
        chip: "PS1".to_owned(),
        driver: "pmbus",
        device: "0-0058".to_owned(),
        inputs: power(1, 230_000, 8_000).into_iter().chain(power(2, 12_000, 140_000)).collect(),
    };
    cards.chain(sensors).chain([fans, supply]).collect()
}

/// Files that the agent reads in each tick: every input, and for each fan whether it has failed.
pub(crate) fn files() -> usize {
    devices()
        .iter()
        .flat_map(|device| &device.inputs)
        .map(|(name, _)| if name.starts_with("fan") { 2 } else { 1 })
        .sum()
}

/// Writes the tree that goes in the place of `/sys/class`.
pub(crate) fn write_class(class: &Path) -> Result<()> {
    for (index, device) in devices().iter().enumerate() {
        let directory = class.join(format!("hwmon/hwmon{index}"));
        let behind = class.join("devices").join(&device.device);
        fs::create_dir_all(&directory).and_then(|()| fs::create_dir_all(&behind))?;
        symlink(format!("../../devices/{}", device.device), directory.join("device"))?;
        let mut files = vec![("name".to_owned(), device.driver.to_owned())];
        for (input, value) in &device.inputs {
            files.push((format!("{input}_input"), value.to_string()));
            if input.starts_with("fan") {
                files.push((format!("{input}_fault"), "0".to_owned()));
            }
        }
        for (name, text) in files {
            let file = directory.join(name);
            fs::write(&file, text + "\n").with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}

/// The board file for it.
pub(crate) fn board() -> String {
    let mut text = "name = \"files\"\nrevision = \"a\"\ndescription = \"Files in the place of hwmon\"\n".to_owned();
    for Device { chip, driver, device, .. } in devices() {
        text += &format!("[hwmon.{chip}]\ndriver = \"{driver}\"\ndevice = \"{device}\"\n");
    }
    for card in 0..CARDS {
        text += &format!("[rail.gpu{card}]\nchip = \"U1{card}\"\nmin_mv = 11_400\nmax_mv = 12_600\nmax_mw = 450_000\n");
    }
    for sensor in 0..SENSORS {
        text += &format!("[sensor.t{sensor}]\nchip = \"U3{sensor}\"\n");
    }
    for fan in 1..=FANS {
        text += &format!(
            "[fan.fan{fan}]\nchip = \"U20\"\nchannel = {fan}\nmin_rpm = 500\nmax_rpm = 6_000\nstart_pct = 20\n"
        );
    }
    text + "[supply.psu1]\nchip = \"PS1\"\ninput = 1\noutput = 2\nmax_input_mw = 3_200_000\n"
}

#[cfg(test)]
mod tests {
    use rigd::board::Board;

    use super::*;

    #[test]
    fn the_board_is_as_large_as_the_simulated_one_and_every_file_is_there() {
        let ours = Board::parse("files.toml", &board()).unwrap();
        let simulated = Board::load("simulated-8gpu").unwrap();
        let size = |board: &Board| {
            (board.rails.len(), board.supplies.len(), board.sensors.len(), board.fans.len(), board.chips().count())
        };
        assert_eq!(size(&ours), size(&simulated));
        let class = std::env::temp_dir().join(format!("rigd-measure-test-{}", std::process::id()));
        write_class(&class).unwrap();
        let count = |directory: std::path::PathBuf| fs::read_dir(directory).unwrap().count();
        let devices = count(class.join("hwmon"));
        let all: usize = (0..devices).map(|index| count(class.join(format!("hwmon/hwmon{index}")))).sum();
        fs::remove_dir_all(&class).unwrap();
        // Besides the inputs each has its name and its device.
        assert_eq!(all, files() + 2 * devices);
    }
}
