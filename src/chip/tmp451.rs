//! TMP401, TMP411, TMP431, TMP451: their own temperature and one remote diode (Texas Instruments, SBOS371 and SBOS686).
//!
//! Each result is a high byte and, read after it, a low byte of the same conversion: 12 bits from the left. The range, 0 to
//! 127 °C or -64 to 191 °C with an offset of 64, is taken as it is found: after a change the old result would be read
//! wrong. In the first, what is colder reads as 0. A diode that is not connected is not present.
//!
//! The TMP451 has no device id, so it is known by the maker's and by bits that read as zero. The kernel reads it with
//! another driver (lm90, rounding down) than the others (tmp401, rounding to the nearest).

use std::ops::RangeInclusive;

use embedded_hal::i2c::I2c;

use super::register::byte;
use super::{
    Certainty, Driver, Error, Kernel, Part, Register, Registers, Settings, Sticky, div_round_closest, read_u8,
    verify_u8,
};
use crate::bus;
use crate::reading::{ChipReading, Missing, Reading};
use crate::units::Millicelsius;

/// TMP401.
pub static TMP401: Part = part("tmp401", Certainty::Id, &[0x4c..=0x4c], |device, _| {
    Box::new(Tmp451::new(device.addr(), device, &[0x11], Rounding::Nearest))
});

/// TMP411, of which there are three by address.
pub static TMP411: Part = part("tmp411", Certainty::Id, &[0x4c..=0x4e], |device, _| {
    Box::new(Tmp451::new(device.addr(), device, &[0x12, 0x13, 0x10], Rounding::Nearest))
});

/// TMP431.
pub static TMP431: Part = part("tmp431", Certainty::Id, &[0x4c..=0x4d], |device, _| {
    Box::new(Tmp451::new(device.addr(), device, &[0x31], Rounding::Nearest))
});

/// TMP451.
pub static TMP451: Part = part("tmp451", Certainty::Shape, &[0x4c..=0x4c], |device, _| {
    Box::new(Tmp451::new(device.addr(), device, &[], Rounding::Down))
});

const fn part(
    name: &'static str,
    certainty: Certainty,
    addresses: &'static [RangeInclusive<u8>],
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about: "its own temperature and one remote in steps of 0.0625 °C",
        addresses,
        certainty,
        power: &[],
        temperature: &["local", "remote1"],
        fan: &[],
        drives_fans: false,
        takes: &[],
        watchdog_s: &[],
        registers: Registers::of(REGISTERS),
        kernel: Kernel { power: &[], temperature: &["temp1", "temp2"], fan: &[] },
        open,
    }
}

const REGISTERS: &[Register] = &[
    byte(
        "Local Temperature (High Byte)",
        register::LOCAL_HIGH,
        "T = (high << 4 | low >> 4) / 16 C, less 64 in that range",
    ),
    byte("Remote Temperature (High Byte)", register::REMOTE_HIGH, ""),
    byte("Status", register::STATUS, "bit 2: the diode is open"),
    byte("Configuration", register::CONFIGURATION, "bit 2: range from -64 C; bit 6: shut down"),
    byte("Conversion Rate", register::CONVERSION_RATE, ""),
    byte("Remote Temperature (Low Byte)", register::REMOTE_LOW, ""),
    byte("Local Temperature (Low Byte)", register::LOCAL_LOW, ""),
    byte("Manufacturer ID", register::MANUFACTURER_ID, "0x55"),
    byte("Device ID", register::DEVICE_ID, "none on the TMP451"),
];

/// Register map, as it is read; the configuration is written to another number.
mod register {
    pub(super) const LOCAL_HIGH: u8 = 0x00;
    pub(super) const REMOTE_HIGH: u8 = 0x01;
    pub(super) const STATUS: u8 = 0x02;
    pub(super) const CONFIGURATION: u8 = 0x03;
    pub(super) const CONVERSION_RATE: u8 = 0x04;
    pub(super) const CONFIGURATION_WRITE: u8 = 0x09;
    pub(super) const REMOTE_LOW: u8 = 0x10;
    pub(super) const LOCAL_LOW: u8 = 0x15;
    pub(super) const CONSECUTIVE_ALERT: u8 = 0x22;
    pub(super) const DIGITAL_FILTER: u8 = 0x24;
    pub(super) const MANUFACTURER_ID: u8 = 0xfe;
    pub(super) const DEVICE_ID: u8 = 0xff;
}

const MANUFACTURER: u8 = 0x55;
/// Status: the diode is open.
const OPEN: u8 = 1 << 2;
/// Configuration: shutdown, and the range from -64 °C.
const SD: u8 = 1 << 6;
const RANGE: u8 = 1 << 2;
/// TMP451: registers with bits that always read the same (SBOS686, table 3).
const SHAPE: [(u8, u8, u8); 5] = [
    (register::CONFIGURATION, 0b0001_1011, 0),
    (register::CONVERSION_RATE, 0b1111_0000, 0),
    (register::LOCAL_LOW, 0b0000_1111, 0),
    (register::CONSECUTIVE_ALERT, 0b0111_0001, 1),
    (register::DIGITAL_FILTER, 0b1111_1100, 0),
];

/// How the kernel's driver of the part rounds a sixteenth of a degree.
#[derive(Clone, Copy)]
enum Rounding {
    Down,
    Nearest,
}

/// 256 counts a degree, of which the upper twelve bits count.
fn convert(raw: u16, extended: bool, rounding: Rounding) -> Reading<Millicelsius> {
    let sixteenths = i64::from(raw >> 4) - if extended { 64 * 16 } else { 0 };
    let millicelsius = match rounding {
        Rounding::Down => (sixteenths * 1000) >> 4,
        Rounding::Nearest => div_round_closest(sixteenths * 1000, 16).ok_or(Missing::Implausible)?,
    };
    Ok(Millicelsius::try_from(millicelsius)?)
}

/// Driver of one of the family.
pub struct Tmp451<I> {
    i2c: I,
    addr: u8,
    /// Ids of the part; none on the TMP451.
    devices: &'static [u8],
    rounding: Rounding,
    open: Sticky,
}

impl<I: I2c> Tmp451<I> {
    fn new(addr: u8, i2c: I, devices: &'static [u8], rounding: Rounding) -> Self {
        Self { i2c, addr, devices, rounding, open: Sticky::default() }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }

    fn expect(&mut self, register: u8, fits: impl Fn(u8) -> bool) -> Result<(), Error<I::Error>> {
        let found = self.byte(register)?;
        if fits(found) { Ok(()) } else { Err(Error::WrongPart { register, found: found.into() }) }
    }
}

impl<I: I2c + Send> Driver<I::Error> for Tmp451<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        self.expect(register::MANUFACTURER_ID, |found| found == MANUFACTURER)?;
        let devices = self.devices;
        if !devices.is_empty() {
            return self.expect(register::DEVICE_ID, |found| devices.contains(&found));
        }
        for (register, mask, bits) in SHAPE {
            self.expect(register, |found| found & mask == bits)?;
        }
        // Where the others have their id.
        self.expect(register::DEVICE_ID, |found| found == 0)
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.byte(register::CONFIGURATION)?;
        if found & SD == 0 {
            return Ok(());
        }
        self.i2c.write(self.addr, &[register::CONFIGURATION_WRITE, found & !SD])?;
        verify_u8(&mut self.i2c, self.addr, register::CONFIGURATION, SD, 0).map(drop)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let extended = verify_u8(&mut self.i2c, self.addr, register::CONFIGURATION, SD, 0)? & RANGE != 0;
        let status = self.byte(register::STATUS)?;
        let local = [self.byte(register::LOCAL_HIGH)?, self.byte(register::LOCAL_LOW)?];
        let remote = [self.byte(register::REMOTE_HIGH)?, self.byte(register::REMOTE_LOW)?];
        let [local, remote] = [local, remote].map(u16::from_be_bytes);
        let open = self.open.is_set(status & OPEN != 0, remote);
        if let [ours, diode] = reading.temperature.as_mut_slice() {
            *ours = convert(local, extended, self.rounding);
            *diode = if open { Err(Missing::NotPresent) } else { convert(remote, extended, self.rounding) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x4c;

    #[test]
    fn converts_the_datasheets_rows_in_both_ranges() {
        // SBOS686, tables 1 and 2.
        for (raw, extended, millicelsius) in [
            (0x0000, false, 0),
            (0x1900, false, 25_000),
            (0x1980, false, 25_500),
            (0x7ff0, false, 127_937),
            (0x0e00, true, -50_000),
            (0x5900, true, 25_000),
            (0xbd00, true, 125_000),
            (0x3ff0, true, -63),
        ] {
            assert_eq!(convert(raw, extended, Rounding::Down), Ok(Millicelsius(millicelsius)), "{raw:#06x}");
        }
        assert_eq!(convert(0x1910, false, Rounding::Down), Ok(Millicelsius(25_062)));
        assert_eq!(convert(0x1910, false, Rounding::Nearest), Ok(Millicelsius(25_063)));
    }

    #[test]
    fn a_tmp451_is_known_by_its_shape_and_started() {
        let byte = |register: u8, value: u8| T::write_read(ADDR, vec![register], vec![value]);
        let pass = |status: u8, remote: u8| {
            let head = [byte(0x03, 0x04), byte(0x02, status), byte(0x00, 0x59), byte(0x15, 0x00)];
            head.into_iter().chain([byte(0x01, remote), byte(0x10, 0x80)])
        };
        let mut all = vec![byte(0xfe, 0x55), byte(0x03, 0x44), byte(0x04, 0x08), byte(0x15, 0xf0), byte(0x22, 0x81)];
        all.extend([byte(0x24, 0x03), byte(0xff, 0x00), byte(0x03, 0x44), T::write(ADDR, vec![0x09, 0x04])]);
        all.push(byte(0x03, 0x04));
        all.extend(pass(0x04, 0xff));
        all.extend(pass(0x00, 0xff));
        all.extend(pass(0x00, 0x72));
        all.push(byte(0x03, 0x44));
        let mut mock = Mock::new(&all);
        let mut chip = Tmp451::new(ADDR, mock.clone(), &[], Rounding::Down);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = TMP451.missing(Missing::Stale);
        for what in ["open", "the status was read away, the conversion is the same"] {
            assert_eq!(chip.read(&mut reading), Ok(()));
            assert_eq!(reading.temperature, [Ok(Millicelsius(25_000)), Err(Missing::NotPresent)], "{what}");
        }
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.temperature, [Ok(Millicelsius(25_000)), Ok(Millicelsius(50_500))]);
        assert_eq!(chip.read(&mut reading), Err(Error::ReadBack { register: 3, written: 0, found: 0x40 }));
        mock.done();
    }

    #[test]
    fn the_others_are_known_by_their_id() {
        let byte = |register: u8, value: u8| T::write_read(ADDR, vec![register], vec![value]);
        let mut mock = Mock::new(&[byte(0xfe, 0x55), byte(0xff, 0x13), byte(0xfe, 0x55), byte(0xff, 0x21)]);
        let mut chip = Tmp451::new(ADDR, mock.clone(), &[0x12, 0x13, 0x10], Rounding::Nearest);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0xff, found: 0x21 }));
        mock.done();
    }
}
