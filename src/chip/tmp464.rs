//! TMP464: its own temperature and four remote diodes (Texas Instruments; its larger relative TMP468 is SBOS762).
//!
//! All registers have 16 bits; a temperature has 13 of them from the left, a sixteenth of a degree each. All channels are
//! set to convert. A chip whose registers are locked (0xc4) keeps what it has; where that is not enough, it is told as a
//! setting that does not hold. A diode that is not connected is not present.

use embedded_hal::i2c::I2c;

use super::register::word;
use super::{Certainty, Driver, Error, Kernel, Part, Registers, Sticky, div_round_closest, holds, read_be};
use crate::reading::{ChipReading, Missing, Reading};
use crate::units::Millicelsius;

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "tmp464",
    about: "its own temperature and four remote in steps of 0.0625 °C",
    addresses: &[0x48..=0x4b],
    certainty: Certainty::Id,
    power: &[],
    temperature: &["local", "remote1", "remote2", "remote3", "remote4"],
    fan: &[],
    drives_fans: false,
    takes: &[],
    watchdog_s: &[],
    registers: Registers::of(&[
        word("Local temperature", register::TEMPERATURE, "T = (raw >> 3) / 16 C, signed"),
        word("Remote temperature 1", register::TEMPERATURE + 1, ""),
        word("Remote temperature 2", register::TEMPERATURE + 2, ""),
        word("Remote temperature 3", register::TEMPERATURE + 3, ""),
        word("Remote temperature 4", register::TEMPERATURE + 4, ""),
        word("THERM Status", register::THERM_STATUS, ""),
        word("Remote channel OPEN Status", register::REMOTE_OPEN, "cleared by being read"),
        word("Configuration", register::CONFIGURATION, ""),
        word("Manufacturer ID", register::MANUFACTURER_ID, "0x5449"),
        word("Device ID", register::DEVICE_ID, "0x1468"),
    ]),
    kernel: Kernel { power: &[], temperature: &["temp1", "temp2", "temp3", "temp4", "temp5"], fan: &[] },
    open: |device, _| Box::new(Tmp464::new(device.addr(), device)),
};

/// Register map; that of a channel is given for the first.
mod register {
    pub(super) const TEMPERATURE: u8 = 0x00;
    pub(super) const THERM_STATUS: u8 = 0x21;
    pub(super) const REMOTE_OPEN: u8 = 0x23;
    pub(super) const CONFIGURATION: u8 = 0x30;
    pub(super) const MANUFACTURER_ID: u8 = 0xfe;
    pub(super) const DEVICE_ID: u8 = 0xff;
}

const CHANNELS: usize = 5;
/// "TI" in ASCII.
const MANUFACTURER: u16 = 0x5449;
const DEVICE: u16 = 0x1468;
/// Configuration: channels that convert, the chip's own in bit 7; shutdown, and one-shot beside it.
const ENABLED: u16 = 0b1_1111 << 7;
const SD: u16 = 1 << 5;
const OS: u16 = 1 << 6;
/// The bit of the first channel in the open status, which the chip's own never sets.
const OPEN: u16 = 1 << 7;

fn convert(raw: u16) -> Reading<Millicelsius> {
    let sixteenths = i64::from(raw.cast_signed() >> 3);
    Ok(Millicelsius::try_from(div_round_closest(sixteenths * 625, 10).ok_or(Missing::Implausible)?)?)
}

/// Driver of one TMP464.
pub struct Tmp464<I> {
    i2c: I,
    addr: u8,
    open: [Sticky; CHANNELS],
}

impl<I: I2c> Tmp464<I> {
    fn new(addr: u8, i2c: I) -> Self {
        Self { i2c, addr, open: [Sticky::default(); CHANNELS] }
    }

    fn word(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }

    /// Makes sure that all channels convert.
    fn verify(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.word(register::CONFIGURATION)?;
        holds(register::CONFIGURATION, ENABLED, found & (ENABLED | SD))
    }
}

impl<I: I2c + Send> Driver<I::Error> for Tmp464<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, expected) in [(register::MANUFACTURER_ID, MANUFACTURER), (register::DEVICE_ID, DEVICE)] {
            let found = self.word(register)?;
            if found != expected {
                return Err(Error::WrongPart { register, found });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.word(register::CONFIGURATION)?;
        if found & (ENABLED | SD) == ENABLED {
            return Ok(());
        }
        let [high, low] = (found & !(SD | OS) | ENABLED).to_be_bytes();
        self.i2c.write(self.addr, &[register::CONFIGURATION, high, low])?;
        self.verify()
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        self.verify()?;
        let status = self.word(register::REMOTE_OPEN)?;
        for ((channel, sticky), temperature) in (0..).zip(&mut self.open).zip(&mut reading.temperature) {
            let raw = read_be(&mut self.i2c, self.addr, register::TEMPERATURE + channel)?;
            let open = sticky.is_set(status & OPEN << channel != 0, raw);
            *temperature = if open { Err(Missing::NotPresent) } else { convert(raw) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x48;

    #[test]
    fn converts_the_datasheets_rows() {
        for (raw, millicelsius) in [
            (0xe000, -64_000),
            (0xe700, -50_000),
            (0xf380, -25_000),
            (0xfff0, -125),
            (0xfff8, -63),
            (0x0000, 0),
            (0x0008, 63),
            (0x0018, 188),
            (0x0c80, 25_000),
            (0x3200, 100_000),
            (0x8000, -256_000),
        ] {
            assert_eq!(convert(raw), Ok(Millicelsius(millicelsius)), "{raw:#06x}");
        }
    }

    #[test]
    fn identifies_enables_all_channels_and_reads_them() {
        let word = |register: u8, value: u16| T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec());
        let mut all = vec![
            word(0xfe, 0x5449),
            word(0xff, 0x1468),
            word(0x30, 0x07bc),
            T::write(ADDR, vec![0x30, 0x0f, 0x9c]),
            word(0x30, 0x0f9c),
            word(0x30, 0x0f9e),
        ];
        for open in [0x0800, 0x0000] {
            all.extend([word(0x30, 0x0f9e), word(0x23, open), word(0x00, 0x0c80), word(0x01, 0x1900)]);
            all.extend([word(0x02, 0x0008), word(0x03, 0xf380), word(0x04, 0x8000)]);
        }
        all.extend([word(0x30, 0x0fbc), word(0xfe, 0x5449), word(0xff, 0x0468)]);
        let mut mock = Mock::new(&all);
        let mut chip = Tmp464::new(ADDR, mock.clone());
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        assert_eq!(chip.configure(), Ok(()), "nothing to do");
        let mut reading = PART.missing(Missing::Stale);
        for what in ["open", "the status was read away, the conversion is the same"] {
            assert_eq!(chip.read(&mut reading), Ok(()));
            let expected = [25_000, 50_000, 63, -25_000].map(|celsius| Ok(Millicelsius(celsius)));
            assert_eq!(reading.temperature.split_last().unwrap(), (&Err(Missing::NotPresent), &expected[..]), "{what}");
        }
        let stopped = Error::ReadBack { register: 0x30, written: 0x0f80, found: 0x0fa0 };
        assert_eq!(chip.read(&mut reading), Err(stopped));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0xff, found: 0x0468 }));
        mock.done();
    }
}
