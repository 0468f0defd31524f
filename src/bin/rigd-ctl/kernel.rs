//! What the kernel says of a device that a driver of its own has: its name, and the texts of its sensors.

use std::fs;
use std::path::{Path, PathBuf};

use rigd::board::Hwmon;

/// A device that a kernel driver has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// What the kernel calls the chip, as in its `name` file.
    pub(crate) chip: String,
    /// Name of the driver.
    pub(crate) driver: Option<String>,
    /// Its sensors, where it measures.
    pub(crate) sensors: Option<Sensors>,
    /// It is a multiplexer.
    pub(crate) mux: bool,
}

/// A directory of `/sys/class/hwmon`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sensors {
    /// Where it is.
    pub(crate) directory: PathBuf,
    /// Contents of `name`.
    pub(crate) name: String,
    /// Last component of its device link.
    pub(crate) device: Option<String>,
    /// The measured quantities, such as `in1`, `temp2`, `fan1`: all that have an `_input`.
    pub(crate) inputs: Vec<String>,
    /// What the driver calls some of them, such as `vout1`.
    pub(crate) labels: Vec<(String, String)>,
}

impl Owner {
    /// What is known of the device with this directory (`/sys/bus/i2c/devices/4-0070`).
    pub(crate) fn of(directory: &Path) -> Self {
        let driver = fs::read_link(directory.join("driver")).ok();
        let sensors = fs::read_dir(directory.join("hwmon")).ok().and_then(|entries| {
            let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
            paths.sort();
            paths.first().map(|path| Sensors::of(path))
        });
        Self {
            chip: text(&directory.join("name")).unwrap_or_default(),
            driver: driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())),
            sensors,
            mux: directory.join("channel-0").symlink_metadata().is_ok(),
        }
    }
}

impl Sensors {
    fn of(directory: &Path) -> Self {
        let device = fs::canonicalize(directory.join("device")).ok();
        let mut inputs: Vec<String> = names(directory)
            .into_iter()
            .filter_map(|name| name.strip_suffix("_input").map(str::to_owned))
            .filter(|name| number(name).is_some())
            .collect();
        inputs.sort_by_key(|name| key(name));
        let label = |name: &String| Some((name.clone(), text(&directory.join(format!("{name}_label")))?));
        Self {
            labels: inputs.iter().filter_map(label).collect(),
            directory: directory.to_owned(),
            name: text(&directory.join("name")).unwrap_or_default(),
            device: device.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
            inputs,
        }
    }

    /// The ones that a board means.
    pub(crate) fn find(sysfs: &Path, hwmon: &Hwmon) -> Option<Self> {
        let mut all = Self::all(sysfs);
        all.retain(|sensors| {
            sensors.name == hwmon.driver && (hwmon.device.is_none() || sensors.device == hwmon.device)
        });
        all.into_iter().next()
    }

    /// All that the kernel has, in the order of their names.
    pub(crate) fn all(sysfs: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(sysfs.join("class/hwmon")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().map(|path| Self::of(path)).collect()
    }

    /// Every attribute of a sensor with its text, or why it cannot be read.
    pub(crate) fn attributes(&self) -> Vec<(String, Result<String, std::io::Error>)> {
        let mut names: Vec<String> = names(&self.directory).into_iter().filter(|name| is_attribute(name)).collect();
        names.sort_by_key(|name| key(name));
        let read = |name: &str| fs::read_to_string(self.directory.join(name)).map(|text| text.trim_end().to_owned());
        names.into_iter().map(|name| (name.clone(), read(&name))).collect()
    }

    /// Numbers of the kind's quantities that are measured.
    pub(crate) fn numbers(&self, kind: &str) -> Vec<u8> {
        self.inputs.iter().filter(|name| key(name).0 == kind).filter_map(|name| number(name)).collect()
    }
}

/// A current and a power of the same number, with the voltage that belongs to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rail {
    pub(crate) number: u8,
    /// The voltage's number, where it is another.
    pub(crate) voltage: Option<u8>,
}

impl Sensors {
    /// What is measured as power. PMBus drivers number voltages on their own and say by their labels what belongs together:
    /// `vout1`, `iout1`, `pout1`.
    pub(crate) fn rails(&self) -> Vec<Rail> {
        let mut numbers = [self.numbers("curr"), self.numbers("power")].concat();
        numbers.sort_unstable();
        numbers.dedup();
        let label =
            |name: String| self.labels.iter().find(|(known, _)| *known == name).map(|(_, label)| label.as_str());
        let voltage = |number: u8| {
            let current = label(format!("curr{number}")).and_then(|label| label.strip_prefix('i'));
            let of = current.or_else(|| label(format!("power{number}")).and_then(|label| label.strip_prefix('p')))?;
            let (name, _) = self.labels.iter().find(|(_, label)| label.strip_prefix('v') == Some(of))?;
            self::number(name).filter(|voltage| *voltage != number)
        };
        numbers.into_iter().map(|number| Rail { number, voltage: voltage(number) }).collect()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// Kinds of attributes (Documentation/hwmon/sysfs-interface.rst) that the agent has a use for.
const KINDS: [&str; 6] = ["in", "curr", "power", "temp", "fan", "pwm"];

fn is_attribute(name: &str) -> bool {
    number(name).is_some() && KINDS.contains(&key(name).0.as_str())
}

/// The number in an attribute's name.
fn number(name: &str) -> Option<u8> {
    let digits: String = name.chars().skip_while(char::is_ascii_alphabetic).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// In the order of kind, number, rest: `temp2_input` before `temp10_input`.
fn key(name: &str) -> (String, Option<u8>, String) {
    let kind: String = name.chars().take_while(char::is_ascii_alphabetic).collect();
    (kind, number(name), name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_belongs_together_is_known_by_its_labels() {
        let sensors = |inputs: &[&str], labels: &[(&str, &str)]| Sensors {
            inputs: inputs.iter().map(|name| (*name).to_owned()).collect(),
            labels: labels.iter().map(|(name, label)| ((*name).to_owned(), (*label).to_owned())).collect(),
            ..Sensors::default()
        };
        let rail = |number, voltage| Rail { number, voltage };
        // As the kernel's pmbus names those of a supply.
        let supply = sensors(
            &["in1", "in2", "in3", "curr1", "curr2", "power1", "power2"],
            &[
                ("in1", "vin"),
                ("in2", "vcap"),
                ("in3", "vout1"),
                ("curr1", "iin"),
                ("curr2", "iout1"),
                ("power1", "pin"),
                ("power2", "pout1"),
            ],
        );
        assert_eq!(supply.rails(), [rail(1, None), rail(2, Some(3))]);
        assert_eq!(sensors(&["in0", "in1", "curr1", "power1"], &[]).rails(), [rail(1, None)]);
        assert_eq!(sensors(&["in0", "temp1"], &[]).rails(), [], "a voltage alone is no rail");
    }

    #[test]
    fn a_device_is_told_with_its_driver_and_its_sensors() {
        let root = Scratch::new("kernel");
        let device = root.join("4-0018");
        let hwmon = device.join("hwmon/hwmon3");
        fs::create_dir_all(&hwmon).unwrap();
        fs::create_dir_all(root.join("drivers/jc42")).unwrap();
        symlink("../drivers/jc42", device.join("driver")).unwrap();
        symlink("../..", hwmon.join("device")).unwrap();
        for (file, text) in [
            ("name", "jc42\n"),
            ("temp10_input", "30000\n"),
            ("temp2_input", "25000\n"),
            ("temp2_crit", "95000\n"),
            ("uevent", ""),
            ("update_interval", "10\n"),
        ] {
            fs::write(hwmon.join(file), text).unwrap();
        }
        fs::write(device.join("name"), "jc42\n").unwrap();
        let owner = Owner::of(&device);
        assert_eq!((owner.chip.as_str(), owner.driver.as_deref(), owner.mux), ("jc42", Some("jc42"), false));
        let sensors = owner.sensors.unwrap();
        assert_eq!((sensors.name.as_str(), sensors.device.as_deref()), ("jc42", Some("4-0018")));
        assert_eq!(sensors.inputs, ["temp2", "temp10"]);
        assert_eq!((sensors.numbers("temp"), sensors.numbers("in")), (vec![2, 10], vec![]));
        let attributes: Vec<_> = sensors.attributes().into_iter().map(|(name, text)| (name, text.unwrap())).collect();
        let expected = [("temp2_crit", "95000"), ("temp2_input", "25000"), ("temp10_input", "30000")];
        assert_eq!(attributes, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        assert_eq!(Owner::of(&root.join("4-0019")), Owner::default(), "nothing is known of it");
    }
}
