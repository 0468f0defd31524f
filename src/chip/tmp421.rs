//! TMP421, TMP422, TMP423: their own temperature and one, two or three remote diodes (Texas Instruments, SBOS398).
//!
//! Each result is a high byte and, read after it, a low byte of the same conversion: 12 bits from the left, two bits of
//! status at the right. A diode that is not connected (OPEN) is not present; a result that was made at too low a supply
//! (PVLD, active high in this register) is implausible. The range, -40 to 127 °C or -64 to 191 °C with an offset of 64, is
//! taken as it is found: after a change the old result would be read wrong.

use std::ops::RangeInclusive;

use embedded_hal::i2c::I2c;

use super::register::byte;
use super::{
    Certainty, Driver, Error, Kernel, Part, Register, Registers, Settings, change_u8, div_round_closest, read_u8,
    verify_u8,
};
use crate::bus;
use crate::reading::{ChipReading, Missing, Reading};
use crate::units::Millicelsius;

/// One remote diode.
pub static TMP421: Part =
    part("tmp421", "its own temperature and one remote", &[0x2a..=0x2a, 0x4c..=0x4f], 2, |d, _| {
        Box::new(Tmp421::new(d.addr(), d, 0x21, 2))
    });

/// Two.
pub static TMP422: Part = part("tmp422", "its own temperature and two remote", &[0x4c..=0x4f], 3, |d, _| {
    Box::new(Tmp421::new(d.addr(), d, 0x22, 3))
});

/// Three.
pub static TMP423: Part = part("tmp423", "its own temperature and three remote", &[0x4c..=0x4d], 4, |d, _| {
    Box::new(Tmp421::new(d.addr(), d, 0x23, 4))
});

const fn part(
    name: &'static str,
    about: &'static str,
    addresses: &'static [RangeInclusive<u8>],
    channels: usize,
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about,
        addresses,
        certainty: Certainty::Id,
        power: &[],
        temperature: CHANNELS.split_at(channels).0,
        fan: &[],
        drives_fans: false,
        takes: &[],
        watchdog_s: &[],
        registers: Registers::of(REGISTERS.split_at(COMMON + 2 * channels).0),
        kernel: Kernel { power: &[], temperature: KERNEL.split_at(channels).0, fan: &[] },
        open,
    }
}

const CHANNELS: &[&str] = &["local", "remote1", "remote2", "remote3"];
const KERNEL: &[&str] = &["temp1", "temp2", "temp3", "temp4"];
/// Registers that are not a channel's.
const COMMON: usize = 5;
const REGISTERS: &[Register] = &[
    byte("Status", register::STATUS, ""),
    byte("Configuration 1", register::CONFIGURATION_1, "bit 2: range from -64 C"),
    byte("Configuration 2", register::CONFIGURATION_2, ""),
    byte("Manufacturer ID", register::MANUFACTURER_ID, "0x55"),
    byte("Device ID", register::DEVICE_ID, "0x21 to 0x23"),
    byte("Local Temperature (High Byte)", register::HIGH, "T = (high << 4 | low >> 4) / 16 C, less 64 in that range"),
    byte("Local Temperature (Low Byte)", register::LOW, "bit 0: open, bit 1: supply too low"),
    byte("Remote Temperature 1 (High Byte)", register::HIGH + 1, ""),
    byte("Remote Temperature 1 (Low Byte)", register::LOW + 1, ""),
    byte("Remote Temperature 2 (High Byte)", register::HIGH + 2, ""),
    byte("Remote Temperature 2 (Low Byte)", register::LOW + 2, ""),
    byte("Remote Temperature 3 (High Byte)", register::HIGH + 3, ""),
    byte("Remote Temperature 3 (Low Byte)", register::LOW + 3, ""),
];

/// Register map; those of a channel are given for the first.
mod register {
    pub(super) const HIGH: u8 = 0x00;
    pub(super) const STATUS: u8 = 0x08;
    pub(super) const CONFIGURATION_1: u8 = 0x09;
    pub(super) const CONFIGURATION_2: u8 = 0x0a;
    pub(super) const LOW: u8 = 0x10;
    pub(super) const MANUFACTURER_ID: u8 = 0xfe;
    pub(super) const DEVICE_ID: u8 = 0xff;
}

const MANUFACTURER: u8 = 0x55;
/// Configuration 1: shutdown, and the range from -64 °C.
const SD: u8 = 1 << 6;
const RANGE: u8 = 1 << 2;
/// Configuration 2: the first channel converts; the others' bits follow.
const LEN: u8 = 1 << 3;
/// Low byte: status.
const OPEN: u16 = 1;
const PVLD: u16 = 1 << 1;
const STATUS: u16 = 0xf;

/// 256 counts a degree.
fn convert(raw: u16, extended: bool) -> Reading<Millicelsius> {
    if raw & OPEN != 0 {
        return Err(Missing::NotPresent);
    }
    if raw & PVLD != 0 {
        return Err(Missing::Implausible);
    }
    let result = raw & !STATUS;
    let count = if extended { i64::from(result) - 64 * 256 } else { i64::from(result.cast_signed()) };
    Ok(Millicelsius::try_from(div_round_closest(count * 1000, 256).ok_or(Missing::Implausible)?)?)
}

/// Driver of one TMP421, TMP422 or TMP423.
pub struct Tmp421<I> {
    i2c: I,
    addr: u8,
    device: u8,
    /// Bits of the channels in Configuration 2.
    enabled: u8,
}

impl<I: I2c> Tmp421<I> {
    fn new(addr: u8, i2c: I, device: u8, channels: u8) -> Self {
        let enabled = (0..channels).fold(0, |bits, channel| bits | LEN << channel);
        Self { i2c, addr, device, enabled }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Tmp421<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, expected) in [(register::MANUFACTURER_ID, MANUFACTURER), (register::DEVICE_ID, self.device)] {
            let found = self.byte(register)?;
            if found != expected {
                return Err(Error::WrongPart { register, found: found.into() });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        change_u8(&mut self.i2c, self.addr, register::CONFIGURATION_2, self.enabled, self.enabled)?;
        change_u8(&mut self.i2c, self.addr, register::CONFIGURATION_1, SD, 0)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        verify_u8(&mut self.i2c, self.addr, register::CONFIGURATION_2, self.enabled, self.enabled)?;
        let extended = verify_u8(&mut self.i2c, self.addr, register::CONFIGURATION_1, SD, 0)? & RANGE != 0;
        for (channel, temperature) in (0..).zip(&mut reading.temperature) {
            let high = self.byte(register::HIGH + channel)?;
            let low = self.byte(register::LOW + channel)?;
            *temperature = convert(u16::from_be_bytes([high, low]), extended);
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
        for (raw, extended, expected) in [
            (0x7f00, false, Ok(127_000)),
            (0x1900, false, Ok(25_000)),
            (0x0010, false, Ok(63)),
            (0xfff0, false, Ok(-63)),
            (0xe700, false, Ok(-25_000)),
            (0xff00, true, Ok(191_000)),
            (0x5910, true, Ok(25_063)),
            (0x4000, true, Ok(0)),
            (0x2700, true, Ok(-25_000)),
            (0x0000, true, Ok(-64_000)),
            (0x1901, false, Err(Missing::NotPresent)),
            (0x1902, false, Err(Missing::Implausible)),
        ] {
            assert_eq!(convert(raw, extended), expected.map(Millicelsius), "{raw:#06x} {extended}");
        }
    }

    #[test]
    fn identifies_by_both_ids_and_reads_high_bytes_first() {
        let byte = |register: u8, value: u8| T::write_read(ADDR, vec![register], vec![value]);
        let mut mock = Mock::new(&[
            byte(0xfe, 0x55),
            byte(0xff, 0x22),
            // The second diode was switched off, and the chip.
            byte(0x0a, 0x1c),
            T::write(ADDR, vec![0x0a, 0x3c]),
            byte(0x0a, 0x3c),
            byte(0x09, 0x44),
            T::write(ADDR, vec![0x09, 0x04]),
            byte(0x09, 0x04),
            byte(0x0a, 0x3c),
            byte(0x09, 0x04),
            byte(0x00, 0x59),
            byte(0x10, 0x00),
            byte(0x01, 0x72),
            byte(0x11, 0x80),
            byte(0x02, 0x40),
            byte(0x12, 0x01),
            byte(0x0a, 0x1c),
            byte(0xfe, 0x55),
            byte(0xff, 0x21),
        ]);
        let mut chip = Tmp421::new(ADDR, mock.clone(), 0x22, 3);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = TMP422.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let expected = [Ok(Millicelsius(25_000)), Ok(Millicelsius(50_500)), Err(Missing::NotPresent)];
        assert_eq!(reading.temperature, expected);
        let reset = Error::ReadBack { register: 0x0a, written: 0x38, found: 0x18 };
        assert_eq!(chip.read(&mut reading), Err(reset));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0xff, found: 0x21 }));
        mock.done();
    }
}
