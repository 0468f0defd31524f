//! `/sys/class/hwmon` as a sensor source: chips that a kernel driver owns.
//!
//! A `_fault` file of some drivers (max31790) is cleared by being read, for every reader; an alarm made of it lasts until it
//! has been gone for a while. The kernel's unit is ours in all but power (hwmon has microwatts; Documentation/hwmon/sysfs-interface.rst).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::board::Hwmon;
use crate::bus;
use crate::chip::{Driver, Error, div_round_closest};
use crate::reading::{ChipReading, Fan, Missing, Power, Reading};

/// One device of a kernel driver.
pub struct Device {
    class: PathBuf,
    spec: Hwmon,
    files: Option<Files>,
}

/// The attributes of a device, held open: a tick reads dozens of them, one system call each. sysfs makes the value anew for
/// each read at offset 0, and says ENODEV when the device is gone, also where its number was given to another.
struct Files {
    name: File,
    power: Vec<[Attribute; 3]>,
    temperature: Vec<Attribute>,
    /// Speed and fault.
    fan: Vec<[Attribute; 2]>,
}

/// An attribute; `None` where the driver has no such for this chip.
type Attribute = Option<File>;

impl Device {
    /// A device that is looked for when it identifies itself.
    #[must_use]
    pub fn new(sysfs: &Path, spec: Hwmon) -> Self {
        Self { class: sysfs.join("class/hwmon"), spec, files: None }
    }

    /// The device's files. Its number changes from boot to boot, so it goes by driver name and device.
    fn find(&self) -> Option<Files> {
        let mut directories: Vec<PathBuf> =
            fs::read_dir(&self.class).ok()?.filter_map(Result::ok).map(|entry| entry.path()).collect();
        directories.sort();
        directories.into_iter().filter(|directory| self.is_device(directory)).find_map(|directory| {
            let name = File::open(directory.join("name")).ok()?;
            let mut buffer = [0; LONGEST];
            let ours = read(&name, &mut buffer).is_ok_and(|driver| driver == self.spec.driver);
            ours.then(|| Files::open(name, &directory, &self.spec))
        })
    }

    fn is_device(&self, directory: &Path) -> bool {
        let Some(wanted) = &self.spec.device else { return true };
        let link = fs::canonicalize(directory.join("device"));
        link.is_ok_and(|path| path.file_name().is_some_and(|name| name == wanted.as_str()))
    }
}

impl Files {
    fn open(name: File, directory: &Path, spec: &Hwmon) -> Self {
        let open = |attribute: &str, suffix: &str| File::open(directory.join(format!("{attribute}{suffix}"))).ok();
        let input = |attribute: &String| open(attribute, "_input");
        Self {
            name,
            power: spec.power.iter().map(|attributes| attributes.each_ref().map(input)).collect(),
            temperature: spec.temperature.iter().map(input).collect(),
            fan: spec.fan.iter().map(|fan| [input(fan), open(fan, "_fault")]).collect(),
        }
    }

    /// Whether the device is still there.
    fn alive(&self) -> bool {
        read(&self.name, &mut [0; LONGEST]).is_ok()
    }
}

impl Driver<bus::Error> for Device {
    fn identify(&mut self) -> Result<(), Error<bus::Error>> {
        self.files = self.find();
        match &self.files {
            Some(_) => Ok(()),
            None => Err(bus::Error::NoAcknowledge.into()),
        }
    }

    fn configure(&mut self) -> Result<(), Error<bus::Error>> {
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<bus::Error>> {
        let Some(files) = self.files.as_ref().filter(|files| files.alive()) else {
            return Err(bus::Error::Gone("the kernel driver is gone".to_owned()).into());
        };
        for (channel, [voltage, current, power]) in reading.power.iter_mut().zip(&files.power) {
            *channel = Power {
                voltage: quantity(voltage, Some),
                current: quantity(current, Some),
                power: quantity(power, |microwatts| div_round_closest(microwatts, 1000)),
            };
        }
        for (channel, input) in reading.temperature.iter_mut().zip(&files.temperature) {
            *channel = quantity(input, Some);
        }
        for (channel, [input, fault]) in reading.fan.iter_mut().zip(&files.fan) {
            let mut buffer = [0; LONGEST];
            *channel = Fan {
                rpm: quantity(input, Some),
                duty: Err(Missing::NotPresent),
                fault: fault.as_ref().is_some_and(|fault| read(fault, &mut buffer).is_ok_and(|text| text == "1")),
            };
        }
        Ok(())
    }
}

/// Longest text of an attribute: a number of 64 bits with its sign, or a driver's name.
const LONGEST: usize = 64;

/// The text of an attribute file, which is one read of less than a page.
fn read<'a>(file: &File, buffer: &'a mut [u8; LONGEST]) -> std::io::Result<&'a str> {
    let length = file.read_at(buffer, 0)?;
    let text = buffer.get(..length).unwrap_or_default();
    std::str::from_utf8(text).map(str::trim_end).map_err(std::io::Error::other)
}

/// One `_input` file. Which attributes a driver has differs by chip: one that is not there is not present; one that
/// the driver cannot read now (EIO, ENXIO, ENODATA, EAGAIN) failed on the bus behind it.
fn quantity<T: TryFrom<i64>>(input: &Attribute, scale: impl Fn(i64) -> Option<i64>) -> Reading<T> {
    let mut buffer = [0; LONGEST];
    let file = input.as_ref().ok_or(Missing::NotPresent)?;
    let text = read(file, &mut buffer).map_err(|_| Missing::Bus)?;
    let value = text.parse().ok().and_then(scale).ok_or(Missing::Implausible)?;
    T::try_from(value).map_err(|_| Missing::Implausible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

    fn sysfs(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("rigd-hwmon-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join("class/hwmon").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn reads_a_driver_by_name_and_says_what_it_has_not_got() {
        let root = sysfs(
            "read",
            &[
                ("hwmon0/name", "k10temp\n"),
                ("hwmon1/name", "ina226\n"),
                ("hwmon1/in1_input", "12000\n"),
                ("hwmon1/curr1_input", "-1500\n"),
                ("hwmon1/power1_input", "18000500\n"),
                ("hwmon1/temp1_input", "-250\n"),
                ("hwmon1/temp2_input", "warm\n"),
                ("hwmon1/fan1_input", "3006\n"),
                ("hwmon1/fan1_fault", "1\n"),
            ],
        );
        let spec = Hwmon {
            driver: "ina226".to_owned(),
            device: None,
            power: vec![["in1", "curr1", "power1"].map(str::to_owned), ["in2", "curr2", "power2"].map(str::to_owned)],
            temperature: vec!["temp1".to_owned(), "temp2".to_owned()],
            fan: vec!["fan1".to_owned()],
        };
        let mut device = Device::new(&root, spec);
        assert_eq!(device.identify(), Ok(()));
        let mut reading = ChipReading::missing(2, 2, 1, Missing::Stale);
        assert_eq!(device.read(&mut reading), Ok(()));
        let first =
            Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(-1_500)), power: Ok(Milliwatts(18_001)) };
        assert_eq!(reading.power, [first, Power::missing(Missing::NotPresent)]);
        assert_eq!(reading.temperature, [Ok(Millicelsius(-250)), Err(Missing::Implausible)]);
        assert_eq!(reading.fan, [Fan { rpm: Ok(Rpm(3_006)), duty: Err(Missing::NotPresent), fault: true }]);
        // Held open, and read anew each time.
        fs::write(root.join("class/hwmon/hwmon1/fan1_input"), "2950\n").unwrap();
        assert_eq!(device.read(&mut reading), Ok(()));
        assert_eq!(reading.fan.first().map(|fan| fan.rpm), Some(Ok(Rpm(2_950))));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_driver_that_is_not_loaded_is_not_present() {
        let root = sysfs("absent", &[("hwmon0/name", "k10temp\n")]);
        let mut device = Device::new(&root, Hwmon { driver: "ina226".to_owned(), ..Hwmon::default() });
        assert_eq!(device.identify().map_err(|error| error.missing()), Err(Missing::NotPresent));
        fs::remove_dir_all(&root).unwrap();
    }
}
