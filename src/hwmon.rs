//! `/sys/class/hwmon` as a sensor source: chips that a kernel driver owns.
//!
//! Reading clears a `_fault` file of some drivers (max31790), for every reader; an alarm made of it lasts until the fault has been
//! gone for a while. The kernel's units are ours in all but power (microwatts; Documentation/hwmon/sysfs-interface.rst).

mod drive;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::drive::Drive;
use crate::board::Hwmon;
use crate::bus;
use crate::chip::{Driver, Error, Kernel, Part, div_round_closest};
use crate::clock;
use crate::reading::{ChipReading, Fan, Missing, Power, Reading};
use crate::sorted;
use crate::units::Duty;

/// One device of a kernel driver.
pub struct Device {
    place: Place,
    spec: Hwmon,
    /// What drives each fan.
    drives: Vec<Drive>,
    /// When the driver called each temperature faulty last.
    faulty: Vec<Option<Instant>>,
    files: Option<Files>,
}

/// Where the device's `hwmonN` directory is; the number changes from boot to boot.
enum Place {
    /// In this class directory, by driver name and device.
    Class(PathBuf),
    /// Below the `hwmon` directory of a device that a driver owns.
    Owned(PathBuf),
}

/// The attributes of a device, held open: a tick reads dozens of them, one system call each. sysfs makes the value anew for
/// each read at offset 0, and says ENODEV when the device is gone, also where its number was given to another.
struct Files {
    name: File,
    power: Vec<[Attribute; 3]>,
    /// Value and fault.
    temperature: Vec<[Attribute; 2]>,
    /// Speed, fault and drive.
    fan: Vec<[Attribute; 3]>,
}

/// An attribute; `None` where the driver has no such for this chip.
type Attribute = Option<File>;

impl Device {
    /// A device that is looked for when it identifies itself.
    #[must_use]
    pub fn new(sysfs: &Path, spec: Hwmon) -> Self {
        let drives = spec.fan.iter().map(|fan| Drive::new(&fan.replacen("fan", "pwm", 1), drive::FULL)).collect();
        Self::at(Place::Class(sysfs.join("class/hwmon")), spec, drives)
    }

    /// A part that a kernel driver owns, by that device's directory; `None` where it is not known what the driver calls the
    /// part's channels.
    #[must_use]
    pub fn owned(directory: &Path, part: &Part) -> Option<Self> {
        let Kernel { power, temperature, fan } = part.kernel;
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let spec = Hwmon {
            power: power.iter().map(|names| names.map(str::to_owned)).collect(),
            temperature: own(temperature),
            fan: fan.iter().map(|(speed, ..)| (*speed).to_owned()).collect(),
            ..Hwmon::default()
        };
        let drives = fan.iter().map(|(_, drive, full)| Drive::new(drive, *full)).collect();
        let known = !(spec.power.is_empty() && spec.temperature.is_empty() && spec.fan.is_empty());
        known.then(|| Self::at(Place::Owned(directory.join("hwmon")), spec, drives))
    }

    fn at(place: Place, spec: Hwmon, drives: Vec<Drive>) -> Self {
        let faulty = vec![None; spec.temperature.len()];
        Self { place, spec, drives, faulty, files: None }
    }

    fn find(&self) -> Option<Files> {
        let directory = self.directory()?;
        let name = File::open(directory.join("name")).ok()?;
        Some(Files::open(name, &directory, &self.spec, &self.drives))
    }

    fn directory(&self) -> Option<PathBuf> {
        let (Place::Class(above) | Place::Owned(above)) = &self.place;
        let directories = sorted::list(fs::read_dir(above).ok()?.filter_map(Result::ok).map(|entry| entry.path()));
        match self.place {
            Place::Owned(_) => directories.into_iter().next(),
            Place::Class(_) => directories.into_iter().find(|directory| self.is_meant(directory)),
        }
    }

    fn is_meant(&self, directory: &Path) -> bool {
        let name = fs::read_to_string(directory.join("name"));
        if !name.is_ok_and(|name| name.trim_end() == self.spec.driver) {
            return false;
        }
        let Some(wanted) = &self.spec.device else { return true };
        let link = fs::read_link(directory.join("device"));
        link.is_ok_and(|path| path.file_name().is_some_and(|name| name == wanted.as_str()))
    }
}

/// A temperature's fault counts for so long after it was seen: with some drivers (emc1403) it is cleared by being read, and set
/// again by the next conversion.
const FAULTY: Duration = Duration::from_secs(2);

impl Files {
    fn open(name: File, directory: &Path, spec: &Hwmon, drives: &[Drive]) -> Self {
        let open = |attribute: &str, suffix: &str| {
            // The driver of an owned part may have no such attribute.
            let named = (!attribute.is_empty()).then(|| directory.join(format!("{attribute}{suffix}")));
            named.and_then(|path| File::open(path).ok())
        };
        let input = |attribute: &String| open(attribute, "_input");
        Self {
            name,
            power: spec.power.iter().map(|attributes| attributes.each_ref().map(input)).collect(),
            temperature: spec.temperature.iter().map(|name| [input(name), open(name, "_fault")]).collect(),
            fan: spec
                .fan
                .iter()
                .zip(drives)
                .map(|(fan, drive)| [input(fan), open(fan, "_fault"), open(drive.name(), "")])
                .collect(),
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
        let now = clock::now();
        let temperatures = reading.temperature.iter_mut().zip(&files.temperature).zip(&mut self.faulty);
        for ((channel, [input, fault]), faulty) in temperatures {
            *channel = quantity(input, Some);
            // What an open diode is measured as is no temperature.
            if is_faulty(raised(fault), faulty, now) && channel.is_ok() {
                *channel = Err(Missing::NotPresent);
            }
        }
        for ((channel, [input, fault, pwm]), drive) in reading.fan.iter_mut().zip(&files.fan).zip(&self.drives) {
            *channel = Fan {
                rpm: quantity(input, Some),
                duty: quantity::<i64>(pwm, Some).and_then(|pwm| drive.parse(pwm)),
                fault: raised(fault),
            };
        }
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<bus::Error>> {
        let directory = self.directory().ok_or(Error::NoChannel)?;
        let drive = self.drives.get_mut(channel).ok_or(Error::NoChannel)?;
        match drive.set(&directory, duty, clock::now()).map_err(|error| not_set(&error))? {
            None => Err(Error::NoChannel),
            Some((_, None)) => Ok(()),
            Some((written, Some(found))) => {
                // Named by its channel: there is no register to be named.
                let register = u8::try_from(channel + 1).unwrap_or(u8::MAX);
                Err(Error::ReadBack { register, written, found })
            }
        }
    }

    fn holds(&mut self, channel: usize, ordered: Duty, reads: Duty) -> bool {
        self.drives.get_mut(channel).is_none_or(|drive| drive.holds(ordered, reads, clock::now()))
    }
}

/// Why a drive could not be set. Where `pwmN` is not there or not ours to write, or the driver does not take the value, that is
/// one output's affair: the chip is read on.
fn not_set(error: &io::Error) -> Error<bus::Error> {
    let os = bus::Error::Os(error.raw_os_error().unwrap_or(0));
    let refused = matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
            | ErrorKind::Unsupported
    );
    if refused { Error::Refused(os) } else { Error::I2c(os) }
}

/// Whether a temperature counts as faulty; `seen` is when the driver said so last.
fn is_faulty(raised: bool, seen: &mut Option<Instant>, now: Instant) -> bool {
    if raised {
        *seen = Some(now);
    }
    seen.is_some_and(|seen| now.saturating_duration_since(seen) < FAULTY)
}

/// Whether an alarm or fault file says so.
fn raised(file: &Attribute) -> bool {
    file.as_ref().is_some_and(|file| read(file, &mut [0; LONGEST]).is_ok_and(|text| text == "1"))
}

/// Longest text of an attribute: a number of 64 bits with its sign, or a driver's name.
const LONGEST: usize = 64;

/// The text of an attribute file, which is one read of less than a page.
fn read<'a>(file: &File, buffer: &'a mut [u8; LONGEST]) -> io::Result<&'a str> {
    let length = file.read_at(buffer, 0)?;
    let text = buffer.get(..length).unwrap_or_default();
    std::str::from_utf8(text).map(str::trim_end).map_err(io::Error::other)
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
                ("hwmon1/temp3_input", "127937\n"),
                ("hwmon1/temp3_fault", "1\n"),
                ("hwmon1/fan1_input", "3006\n"),
                ("hwmon1/fan1_fault", "1\n"),
            ],
        );
        let spec = Hwmon {
            driver: "ina226".to_owned(),
            device: None,
            power: vec![["in1", "curr1", "power1"].map(str::to_owned), ["in2", "curr2", "power2"].map(str::to_owned)],
            temperature: ["temp1", "temp2", "temp3"].map(str::to_owned).to_vec(),
            fan: vec!["fan1".to_owned()],
        };
        let mut device = Device::new(&root, spec);
        assert_eq!(device.identify(), Ok(()));
        let mut reading = ChipReading::missing(2, 3, 1, Missing::Stale);
        assert_eq!(device.read(&mut reading), Ok(()));
        let first =
            Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(-1_500)), power: Ok(Milliwatts(18_001)) };
        assert_eq!(reading.power, [first, Power::missing(Missing::NotPresent)]);
        assert_eq!(
            reading.temperature,
            [Ok(Millicelsius(-250)), Err(Missing::Implausible), Err(Missing::NotPresent)],
            "the third diode is open"
        );
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

    #[test]
    fn a_part_that_a_driver_owns_is_read_and_driven_under_that_drivers_names() {
        let root = std::env::temp_dir().join(format!("rigd-hwmon-owned-{}", std::process::id()));
        let directory = root.join("hwmon/hwmon7");
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in
            [("name", "max31790\n"), ("fan2_input", "3000\n"), ("pwm2", "128\n"), ("pwm2_enable", "2\n")]
        {
            fs::write(directory.join(file), text).unwrap();
        }
        let part = Part::find("max31790").unwrap();
        let mut device = Device::owned(&root, part).unwrap();
        assert_eq!(device.identify(), Ok(()));
        let mut reading = part.missing(Missing::Stale);
        assert_eq!(device.read(&mut reading), Ok(()));
        let fan = |i: usize| reading.fan.get(i).copied().unwrap();
        assert_eq!((fan(1).rpm, fan(1).duty.map(Duty::hundredths)), (Ok(Rpm(3_000)), Ok(5_020)));
        assert_eq!(fan(0), Fan::missing(Missing::NotPresent));
        assert_eq!(device.set_duty(1, Duty::FULL), Ok(()));
        let text = |file| fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!((text("pwm2"), text("pwm2_enable")), ("255".to_owned(), "1".to_owned()));
        assert_eq!(device.set_duty(0, Duty::FULL), Err(Error::NoChannel), "the driver drives no such fan");
        assert!(Device::owned(&root, Part::find("pmbus").unwrap()).is_none(), "its names are not known");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_drive_that_is_not_ours_to_set_is_no_failure_of_the_chip() {
        let of = |errno| not_set(&io::Error::from_raw_os_error(errno));
        for (refused, errno) in
            [("EPERM", 1), ("ENOENT", 2), ("EACCES", 13), ("EINVAL", 22), ("EROFS", 30), ("ENOTSUP", 95)]
        {
            assert_eq!(of(errno), Error::Refused(bus::Error::Os(errno)), "{refused}");
        }
        for (failed, errno) in [("EIO", 5), ("ENXIO", 6), ("EAGAIN", 11), ("ENODEV", 19), ("ETIMEDOUT", 110)] {
            assert_eq!(of(errno), Error::I2c(bus::Error::Os(errno)), "{failed}");
        }
    }

    #[test]
    fn a_fault_that_is_cleared_by_being_read_lasts_until_the_next_conversion() {
        let (start, mut seen) = (clock::now(), None);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let told =
            [(0, false), (100, true), (200, false), (2_000, false), (2_099, true), (3_000, false), (4_099, false)];
        let faulty: Vec<bool> = told.map(|(ms, raised)| is_faulty(raised, &mut seen, at(ms))).to_vec();
        assert_eq!(faulty, [false, true, true, true, true, true, false]);
    }

    #[test]
    fn fans_on_one_output_are_driven_by_it() {
        let root = std::env::temp_dir().join(format!("rigd-hwmon-shared-{}", std::process::id()));
        let directory = root.join("hwmon/hwmon3");
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in [("name", "adt7475\n"), ("fan4_input", "1500\n"), ("pwm3", "51\n")] {
            fs::write(directory.join(file), text).unwrap();
        }
        let part = Part::find("adt7475").unwrap();
        let mut device = Device::owned(&root, part).unwrap();
        assert_eq!(device.identify(), Ok(()));
        let mut reading = part.missing(Missing::Stale);
        assert_eq!(device.read(&mut reading), Ok(()));
        assert_eq!(reading.fan.last().map(|fan| fan.duty), Some(Ok(Duty::from_percent(20).unwrap())));
        assert_eq!(device.set_duty(3, Duty::FULL), Ok(()));
        assert_eq!(fs::read_to_string(directory.join("pwm3")).unwrap(), "255");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn of_several_devices_of_one_driver_the_named_one_is_read() {
        let root = sysfs("several", &[("hwmon0/name", "k10temp\n"), ("hwmon1/name", "k10temp\n")]);
        for (hwmon, device) in [("hwmon0", "0000:00:18.3"), ("hwmon1", "0000:00:19.3")] {
            let directory = root.join("class/hwmon").join(hwmon);
            std::os::unix::fs::symlink(format!("../../../{device}"), directory.join("device")).unwrap();
            fs::write(directory.join("temp1_input"), if hwmon == "hwmon0" { "40000" } else { "50000" }).unwrap();
        }
        for (name, celsius) in [("0000:00:18.3", 40_000), ("0000:00:19.3", 50_000)] {
            let spec = Hwmon {
                driver: "k10temp".to_owned(),
                device: Some(name.to_owned()),
                temperature: vec!["temp1".to_owned()],
                ..Hwmon::default()
            };
            let mut device = Device::new(&root, spec);
            assert_eq!(device.identify(), Ok(()));
            let mut reading = ChipReading::missing(0, 1, 0, Missing::Stale);
            assert_eq!(device.read(&mut reading), Ok(()));
            assert_eq!(reading.temperature, [Ok(Millicelsius(celsius))]);
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
