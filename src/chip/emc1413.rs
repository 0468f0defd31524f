//! EMC1412, EMC1413, EMC1414: their own temperature and one, two or three remote diodes (SMSC/Microchip DS20005274).
//! The EMC1402, EMC1403 and EMC1404 before them have the same ids and registers.
//!
//! Each result is a high byte, which holds the low byte of the same conversion until that is read: 11 bits from the left,
//! an eighth of a degree each. The range, 0 to 127 °C or -64 to 191 °C with an offset of 64, is taken as it is found: after
//! a change the old result would be read wrong. The kernel's emc1403 knows only the first. A diode that the chip calls
//! faulty is not present.

use embedded_hal::i2c::I2c;

use super::register::byte;
use super::{
    Certainty, Driver, Error, Kernel, Part, Register, Registers, Settings, Sticky, change_u8, read_u8, verify_u8,
};
use crate::bus;
use crate::reading::{ChipReading, Missing, Reading};
use crate::units::Millicelsius;

/// One remote diode.
pub static EMC1412: Part = part("emc1412", "its own temperature and one remote (EMC1402, EMC1412)", 2, |d, _| {
    Box::new(Emc1413::new(d.addr(), d, 0x20))
});

/// Two.
pub static EMC1413: Part = part("emc1413", "its own temperature and two remote (EMC1403, EMC1413)", 3, |d, _| {
    Box::new(Emc1413::new(d.addr(), d, 0x21))
});

/// Three.
pub static EMC1414: Part = part("emc1414", "its own temperature and three remote (EMC1404, EMC1414)", 4, |d, _| {
    Box::new(Emc1413::new(d.addr(), d, 0x25))
});

const fn part(
    name: &'static str,
    about: &'static str,
    channels: usize,
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about,
        addresses: &[0x18..=0x18, 0x1c..=0x1c, 0x29..=0x29, 0x3c..=0x3c, 0x4c..=0x4d, 0x5c..=0x5c],
        certainty: Certainty::Id,
        power: &[],
        temperature: NAMES.split_at(channels).0,
        fan: &[],
        drives_fans: false,
        takes: &[],
        watchdog_s: &[],
        registers: Registers::of(REGISTERS.split_at(COMMON + 2 * channels).0),
        kernel: Kernel { power: &[], temperature: KERNEL.split_at(channels).0, fan: &[] },
        open,
    }
}

const CHANNELS: usize = 4;
const NAMES: &[&str] = &["local", "remote1", "remote2", "remote3"];
const KERNEL: &[&str] = &["temp1", "temp2", "temp3", "temp4"];
/// Registers that are not a channel's.
const COMMON: usize = 5;
const REGISTERS: &[Register] = &[
    byte("Status", register::STATUS, ""),
    byte("Configuration", register::CONFIGURATION, "bit 2: range from -64 C; bit 6: standby"),
    byte("External Diode Fault", register::EXTERNAL_DIODE_FAULT, "cleared by being read; bits 1 to 3"),
    byte("Product ID", register::PRODUCT_ID, "0x20, 0x21, 0x25"),
    byte("Manufacturer ID", register::MANUFACTURER_ID, "0x5d"),
    byte("Internal Diode High Byte", 0x00, "T = (high << 3 | low >> 5) / 8 C, less 64 in that range"),
    byte("Internal Diode Low Byte", 0x29, ""),
    byte("External Diode 1 High Byte", 0x01, ""),
    byte("External Diode 1 Low Byte", 0x10, ""),
    byte("External Diode 2 High Byte", 0x23, ""),
    byte("External Diode 2 Low Byte", 0x24, ""),
    byte("External Diode 3 High Byte", 0x2a, ""),
    byte("External Diode 3 Low Byte", 0x2b, ""),
];

/// Register map.
mod register {
    pub(super) const STATUS: u8 = 0x02;
    pub(super) const CONFIGURATION: u8 = 0x03;
    pub(super) const EXTERNAL_DIODE_FAULT: u8 = 0x1b;
    pub(super) const PRODUCT_ID: u8 = 0xfd;
    pub(super) const MANUFACTURER_ID: u8 = 0xfe;
    /// High and low byte of each channel.
    pub(super) const TEMPERATURE: [(u8, u8); super::CHANNELS] =
        [(0x00, 0x29), (0x01, 0x10), (0x23, 0x24), (0x2a, 0x2b)];
}

const MANUFACTURER: u8 = 0x5d;
/// Configuration: standby, and the range from -64 °C.
const STOP: u8 = 1 << 6;
const RANGE: u8 = 1 << 2;

/// Unsigned eighths of a degree in the upper eleven bits.
fn convert(raw: u16, extended: bool) -> Reading<Millicelsius> {
    let eighths = i32::from(raw >> 5) - if extended { 64 * 8 } else { 0 };
    Ok(Millicelsius(eighths * 125))
}

/// Driver of one of the family.
pub struct Emc1413<I> {
    i2c: I,
    addr: u8,
    product: u8,
    faulty: [Sticky; CHANNELS],
}

impl<I: I2c> Emc1413<I> {
    fn new(addr: u8, i2c: I, product: u8) -> Self {
        Self { i2c, addr, product, faulty: [Sticky::default(); CHANNELS] }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Emc1413<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, expected) in [(register::MANUFACTURER_ID, MANUFACTURER), (register::PRODUCT_ID, self.product)] {
            let found = self.byte(register)?;
            if found != expected {
                return Err(Error::WrongPart { register, found: found.into() });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        change_u8(&mut self.i2c, self.addr, register::CONFIGURATION, STOP, 0)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let extended = verify_u8(&mut self.i2c, self.addr, register::CONFIGURATION, STOP, 0)? & RANGE != 0;
        let faults = self.byte(register::EXTERNAL_DIODE_FAULT)?;
        let channels = (0..).zip(register::TEMPERATURE).zip(&mut self.faulty);
        for (((channel, (high, low)), faulty), temperature) in channels.zip(&mut reading.temperature) {
            let high = read_u8(&mut self.i2c, self.addr, high)?;
            let low = read_u8(&mut self.i2c, self.addr, low)?;
            let raw = u16::from_be_bytes([high, low]);
            let faulty = channel > 0 && faulty.is_set(faults & 1 << channel != 0, raw);
            *temperature = if faulty { Err(Missing::NotPresent) } else { convert(raw, extended) };
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
        for (raw, extended, millicelsius) in [
            (0x0000, false, 0),
            (0x0020, false, 125),
            (0x1900, false, 25_000),
            (0x7fe0, false, 127_875),
            (0x0000, true, -64_000),
            (0x4000, true, 0),
            (0x5920, true, 25_125),
            (0xffe0, true, 191_875),
        ] {
            assert_eq!(convert(raw, extended), Ok(Millicelsius(millicelsius)), "{raw:#06x} {extended}");
        }
    }

    #[test]
    fn identifies_by_both_ids_and_reads_high_bytes_first() {
        let byte = |register: u8, value: u8| T::write_read(ADDR, vec![register], vec![value]);
        let pass = |configuration: u8, faults: u8, second: u8| {
            let head = [byte(0x03, configuration), byte(0x1b, faults), byte(0x00, 0x19), byte(0x29, 0x20)];
            head.into_iter().chain([byte(0x01, 0x32), byte(0x10, 0x80), byte(0x23, second), byte(0x24, 0x00)])
        };
        let mut all = vec![byte(0xfe, 0x5d), byte(0xfd, 0x21), byte(0x03, 0x40), T::write(ADDR, vec![0x03, 0x00])];
        all.push(byte(0x03, 0x00));
        all.extend(pass(0x00, 0x04, 0x00));
        all.extend(pass(0x00, 0x00, 0x00));
        all.extend(pass(0x00, 0x00, 0x28));
        all.extend([byte(0x03, 0x40), byte(0xfe, 0x5d), byte(0xfd, 0x25)]);
        let mut mock = Mock::new(&all);
        let mut chip = Emc1413::new(ADDR, mock.clone(), 0x21);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = EMC1413.missing(Missing::Stale);
        for third in [Err(Missing::NotPresent), Err(Missing::NotPresent), Ok(Millicelsius(40_000))] {
            assert_eq!(chip.read(&mut reading), Ok(()));
            assert_eq!(reading.temperature, [Ok(Millicelsius(25_125)), Ok(Millicelsius(50_500)), third]);
        }
        assert_eq!(chip.read(&mut reading), Err(Error::ReadBack { register: 3, written: 0, found: 0x40 }));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0xfd, found: 0x25 }));
        mock.done();
    }
}
