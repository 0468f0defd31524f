//! TMP102 and TMP112: one temperature, no id register (Texas Instruments, SBOS397 and SBOS473).
//!
//! Set to extended mode, 13 bits to 150 °C, as the kernel's tmp102 sets it. Bit 0 of a result says which mode it was made
//! in, so the one that is still there after the change is read right too. What the alert pin does is the board's and stays.
//! Having no id, they are known by bits that cannot be otherwise: the resolution reads as 11, and the bits below a result
//! as zero.

use embedded_hal::i2c::I2c;

use super::register::word;
use super::{Certainty, Driver, Error, Kernel, Part, Register, Registers, Settings, holds, read_be};
use crate::bus;
use crate::reading::{ChipReading, Reading};
use crate::units::Millicelsius;

/// TMP102: 2 °C.
pub static TMP102: Part =
    part("tmp102", "one temperature in steps of 0.0625 °C", |device, _| Box::new(Tmp102::new(device.addr(), device)));

/// TMP112: the same, 0.5 °C.
pub static TMP112: Part = part("tmp112", "one temperature in steps of 0.0625 °C, to 0.5 °C", |device, _| {
    Box::new(Tmp102::new(device.addr(), device))
});

const fn part(
    name: &'static str,
    about: &'static str,
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about,
        addresses: &[0x48..=0x4b],
        certainty: Certainty::Shape,
        power: &[],
        temperature: &["1"],
        fan: &[],
        drives_fans: false,
        takes: &[],
        watchdog_s: &[],
        registers: Registers::of(REGISTERS),
        kernel: Kernel { power: &[], temperature: &["temp1"], fan: &[] },
        open,
    }
}

const REGISTERS: &[Register] = &[
    word("Temperature", register::TEMPERATURE, "T = raw / 128 C, signed; with bit 0 clear raw / 256 C"),
    word("Configuration", register::CONFIGURATION, ""),
    word("T_LOW", register::T_LOW, "as Temperature"),
    word("T_HIGH", register::T_HIGH, "as Temperature"),
];

/// Register map.
mod register {
    pub(super) const TEMPERATURE: u8 = 0;
    pub(super) const CONFIGURATION: u8 = 1;
    pub(super) const T_LOW: u8 = 2;
    pub(super) const T_HIGH: u8 = 3;
}

/// Configuration: one-shot, shutdown, extended mode.
const OS: u16 = 1 << 15;
const SD: u16 = 1 << 8;
const EM: u16 = 1 << 4;
/// Configuration: R1:R0, which read as 11, and the bits that read as zero.
const FIXED: u16 = R1_R0 | 0b1111;
const R1_R0: u16 = 0b11 << 13;
/// Bits of a result that read as zero in either mode; in T_LOW and T_HIGH bit 0 is one of them.
const UNUSED: u16 = 0b110;
/// In a result: it has 13 bits.
const EXTENDED: u16 = 1;

/// 1/128 of a degree a count in extended mode, 1/256 in the other; towards zero, as the kernel divides.
fn convert(raw: u16) -> Reading<Millicelsius> {
    let (count, one) = if raw & EXTENDED != 0 { (raw & !EXTENDED, 128) } else { (raw, 256) };
    Ok(Millicelsius(i32::from(count.cast_signed()) * 1000 / one))
}

/// Driver of one TMP102 or TMP112.
pub struct Tmp102<I> {
    i2c: I,
    addr: u8,
}

impl<I: I2c> Tmp102<I> {
    fn new(addr: u8, i2c: I) -> Self {
        Self { i2c, addr }
    }

    fn word(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }

    /// Makes sure that it converts in extended mode.
    fn verify(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.word(register::CONFIGURATION)?;
        holds(register::CONFIGURATION, EM, found & (SD | EM))
    }
}

impl<I: I2c + Send> Driver<I::Error> for Tmp102<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, mask, expected) in [
            (register::CONFIGURATION, FIXED, R1_R0),
            (register::TEMPERATURE, UNUSED, 0),
            (register::T_LOW, UNUSED | 1, 0),
            (register::T_HIGH, UNUSED | 1, 0),
        ] {
            let found = self.word(register)?;
            if found & mask != expected {
                return Err(Error::WrongPart { register, found });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.word(register::CONFIGURATION)?;
        let [high, low] = (found & !(OS | SD) | EM).to_be_bytes();
        self.i2c.write(self.addr, &[register::CONFIGURATION, high, low])?;
        self.verify()
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        self.verify()?;
        let raw = self.word(register::TEMPERATURE)?;
        if let [channel] = reading.temperature.as_mut_slice() {
            *channel = convert(raw);
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
    fn converts_the_datasheets_rows_in_both_modes() {
        // SBOS397, 12-bit and 13-bit temperature data format.
        for (normal, extended, millicelsius) in [
            (0x6400, 0x3201, 100_000),
            (0x5000, 0x2801, 80_000),
            (0x3200, 0x1901, 50_000),
            (0x1900, 0x0c81, 25_000),
            (0x0040, 0x0021, 250),
            (0x0000, 0x0001, 0),
            (0xffc0, 0xffe1, -250),
            (0xe700, 0xf381, -25_000),
            (0xc900, 0xe481, -55_000),
        ] {
            assert_eq!(convert(normal), Ok(Millicelsius(millicelsius)), "{normal:#06x}");
            assert_eq!(convert(extended), Ok(Millicelsius(millicelsius)), "{extended:#06x}");
        }
        assert_eq!(convert(0x4b01), Ok(Millicelsius(150_000)));
        assert_eq!((convert(0x0009), convert(0xfff9)), (Ok(Millicelsius(62)), Ok(Millicelsius(-62))), "towards zero");
    }

    #[test]
    fn is_known_by_its_bits_and_set_to_extended_mode() {
        let word = |register: u8, value: u16| T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec());
        let mut mock = Mock::new(&[
            word(1, 0x60a0),
            word(0, 0x1900),
            word(2, 0x4b00),
            word(3, 0x5000),
            word(1, 0x61a0),
            T::write(ADDR, vec![1, 0x60, 0xb0]),
            word(1, 0x60b0),
            word(1, 0x60b0),
            word(0, 0x1900),
            word(1, 0x60b0),
            word(0, 0x0c81),
            // Reset behind our back.
            word(1, 0x60a0),
            // An LM75 repeats its one byte of configuration or reads ones behind it.
            word(1, 0x00ff),
        ]);
        let mut chip = Tmp102::new(ADDR, mock.clone());
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = TMP102.missing(Missing::Stale);
        for what in ["of before the change", "of after it"] {
            assert_eq!(chip.read(&mut reading), Ok(()));
            assert_eq!(reading.temperature, [Ok(Millicelsius(25_000))], "{what}");
        }
        assert_eq!(chip.read(&mut reading), Err(Error::ReadBack { register: 1, written: EM, found: 0 }));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 1, found: 0x00ff }));
        mock.done();
    }
}
