//! LM75 (National, SNOS808) and TMP75 (Texas Instruments, SBOS288): one temperature, no id register.
//!
//! Both keep the temperature left-aligned in register 0; they differ in how many of its bits count. Having no id, they are
//! known by what cannot be otherwise: bits of the configuration that always read as zero and, on the TMP75 alone, the bits
//! below the resolution in all three temperature registers (the LM75's datasheet leaves those undefined).

use embedded_hal::i2c::I2c;

use super::{
    Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Settings, holds, read_be, read_u8, write_u8,
};
use crate::bus;
use crate::reading::{ChipReading, Reading};
use crate::units::Millicelsius;

/// LM75: 9 bits, half a degree.
pub static LM75: Part = part("lm75", "one temperature in steps of 0.5 °C (LM75, LM75A, DS75)", |device, _| {
    Box::new(Lm75::new(device.addr(), device, Resolution::Bits9))
});

/// TMP105: the same registers and bits as the TMP75.
pub static TMP105: Part = part("tmp105", "one temperature in steps of 0.0625 °C", |device, _| {
    Box::new(Lm75::new(device.addr(), device, Resolution::Bits12))
});

/// TMP75 and its kin: 12 bits, a sixteenth of a degree.
pub static TMP75: Part =
    part("tmp75", "one temperature in steps of 0.0625 °C (TMP75, TMP175, TMP275)", |device, _| {
        Box::new(Lm75::new(device.addr(), device, Resolution::Bits12))
    });

const fn part(
    name: &'static str,
    about: &'static str,
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about,
        addresses: &[0x48..=0x4f],
        certainty: Certainty::Shape,
        power: &[],
        temperature: &["1"],
        fan: &[],
        drives_fans: false,
        takes: &[],
        watchdog_s: &[],
        registers: Registers::of(&[
            Register {
                name: "Temperature",
                at: register::TEMPERATURE,
                form: Form::Be(2),
                formula: "T = (raw >> 4) / 16 C",
            },
            Register { name: "Configuration", at: register::CONFIGURATION, form: Form::U8, formula: "" },
            Register { name: "T_LOW", at: register::T_LOW, form: Form::Be(2), formula: "as Temperature" },
            Register { name: "T_HIGH", at: register::T_HIGH, form: Form::Be(2), formula: "as Temperature" },
        ]),
        kernel: Kernel { power: &[], temperature: &["temp1"], fan: &[] },
        open,
    }
}

/// Register map (SBOS288 table 7-4; the LM75's is the same).
mod register {
    pub(super) const TEMPERATURE: u8 = 0;
    pub(super) const CONFIGURATION: u8 = 1;
    pub(super) const T_LOW: u8 = 2;
    pub(super) const T_HIGH: u8 = 3;
}

/// How many of the 16 bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    Bits9,
    Bits12,
}

impl Resolution {
    const fn bits(self) -> u32 {
        match self {
            Self::Bits9 => 9,
            Self::Bits12 => 12,
        }
    }

    /// Bits of the temperature registers that always read as zero.
    const fn unused(self) -> u16 {
        match self {
            Self::Bits9 => 0,
            Self::Bits12 => u16::MAX >> 12,
        }
    }

    /// Bits of the configuration that always read as zero: 7:5 on the LM75; on the TMP75 those are one-shot, which reads as
    /// zero, and the resolution.
    const fn unused_configuration(self) -> u8 {
        match self {
            Self::Bits9 => 0b1110_0000,
            Self::Bits12 => 0b1000_0000,
        }
    }

    /// Configuration: continuous, comparator mode; R1:R0 = 11 for 12 bits (SBOS288 table 7-8), none such on the LM75.
    const fn configuration(self) -> u8 {
        match self {
            Self::Bits9 => 0,
            Self::Bits12 => 0b11 << 5,
        }
    }
}

/// Two's complement, left-aligned, 256 counts a degree before the shift; rounded down as the kernel's lm75 does.
fn convert(raw: u16, resolution: Resolution) -> Reading<Millicelsius> {
    let bits = resolution.bits();
    let count = i32::from(raw.cast_signed()) >> (16 - bits);
    Ok(Millicelsius((count * 1000) >> (bits - 8)))
}

/// Driver of one LM75 or TMP75.
pub struct Lm75<I> {
    i2c: I,
    addr: u8,
    resolution: Resolution,
}

impl<I: I2c> Lm75<I> {
    fn new(addr: u8, i2c: I, resolution: Resolution) -> Self {
        Self { i2c, addr, resolution }
    }
}

impl<I: I2c + Send> Driver<I::Error> for Lm75<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        let found = read_u8(&mut self.i2c, self.addr, register::CONFIGURATION)?;
        if found & self.resolution.unused_configuration() != 0 {
            return Err(Error::WrongPart { register: register::CONFIGURATION, found: found.into() });
        }
        for register in [register::TEMPERATURE, register::T_LOW, register::T_HIGH] {
            let found = read_be(&mut self.i2c, self.addr, register)?;
            if found & self.resolution.unused() != 0 {
                return Err(Error::WrongPart { register, found });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        write_u8(&mut self.i2c, self.addr, register::CONFIGURATION, self.resolution.configuration())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let configuration = read_u8(&mut self.i2c, self.addr, register::CONFIGURATION)?;
        holds(register::CONFIGURATION, self.resolution.configuration().into(), configuration.into())?;
        let raw = read_be(&mut self.i2c, self.addr, register::TEMPERATURE)?;
        if let [channel] = reading.temperature.as_mut_slice() {
            *channel = convert(raw, self.resolution);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;
    use crate::reading::Missing;

    const ADDR: u8 = 0x48;

    #[test]
    fn converts_the_rows_of_both_datasheets() {
        // SBOS288 table 7-5 (12 bits).
        for (raw, millicelsius) in [
            (0x7ff0, 127_937),
            (0x6400, 100_000),
            (0x5000, 80_000),
            (0x4b00, 75_000),
            (0x3200, 50_000),
            (0x1900, 25_000),
            (0x0040, 250),
            (0x0000, 0),
            (0xffc0, -250),
            (0xe700, -25_000),
            (0xc900, -55_000),
        ] {
            assert_eq!(convert(raw, Resolution::Bits12), Ok(Millicelsius(millicelsius)), "{raw:#06x}");
        }
        // SNOS808 table 1 (9 bits).
        for (raw, millicelsius) in [
            (0x7d00, 125_000),
            (0x1900, 25_000),
            (0x0080, 500),
            (0x0000, 0),
            (0xff80, -500),
            (0xe700, -25_000),
            (0xc900, -55_000),
        ] {
            assert_eq!(convert(raw, Resolution::Bits9), Ok(Millicelsius(millicelsius)), "{raw:#06x}");
        }
    }

    #[test]
    fn the_kernel_rounds_a_sixteenth_below_zero_down() {
        assert_eq!(convert(0xfff0, Resolution::Bits12), Ok(Millicelsius(-63)));
    }

    #[test]
    fn is_known_by_the_bits_that_read_as_zero() {
        let byte = |value: u8| T::write_read(ADDR, vec![1], vec![value]);
        let word = |register: u8, high: u8, low: u8| T::write_read(ADDR, vec![register], vec![high, low]);
        let mut mock = Mock::new(&[
            byte(0x00),
            word(0, 0x19, 0x40),
            word(2, 0x4b, 0x00),
            word(3, 0x50, 0x00),
            T::write(ADDR, vec![1, 0x60]),
            byte(0x60),
            byte(0x60),
            word(0, 0x19, 0x40),
            // Reset behind our back: nine bits again.
            byte(0x00),
            // Not a TMP75: a bit below the sixteenths.
            byte(0x00),
            word(0, 0x19, 0x41),
            // Not an LM75: it has no resolution to set.
            byte(0x60),
        ]);
        let mut chip = Lm75::new(ADDR, mock.clone(), Resolution::Bits12);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = TMP75.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.temperature, [Ok(Millicelsius(25_250))]);
        assert_eq!(chip.read(&mut reading), Err(Error::ReadBack { register: 1, written: 0x60, found: 0 }));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0, found: 0x1941 }));
        let mut other = Lm75::new(ADDR, mock.clone(), Resolution::Bits9);
        assert_eq!(other.identify(), Err(Error::WrongPart { register: 1, found: 0x60 }));
        mock.done();
    }
}
