//! MAX34451: sixteen channels of voltage or current and five temperatures (Maxim, "PMBus 16-Channel V/I Monitor and
//! 12-Channel Sequencer/Marginer").
//!
//! Channels are pages 0 to 15, temperatures pages 16 to 20. MFR_CHANNEL_CONFIG, which the board's maker burnt in, says
//! which channel measures what; one that sequences nothing and measures nothing, or is an input of its sequencer, goes
//! missing. Numbers are DIRECT (table 6, and the kernel's max34440): millivolts, hundredths of an ampere and of a
//! degree. Nothing but PAGE is written: the part switches the board's supplies, and what it does with them is not ours
//! to touch.
//!
//! The kernel numbers its attributes by what is configured, so a channel has no name there that would hold on every
//! board.

use std::thread;
use std::time::Duration;

use embedded_hal::i2c::I2c;

use super::pmbus::format::Direct;
use super::pmbus::link::Link;
use super::pmbus::maxim::{self, Sensors};
use super::pmbus::{byte, command, status, word};
use super::{Certainty, Driver, Error, Kernel, Part, Registers};
use crate::reading::{ChipReading, Faults, Missing, Power, Reading};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "max34451",
    about: "sixteen channels of voltage or current, five temperatures",
    addresses: &[0x10..=0x77],
    certainty: Certainty::Id,
    power: &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"],
    temperature: &["1", "2", "3", "4", "5"],
    fan: &[],
    drives_fans: false,
    takes: &[],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("PAGE", command::PAGE, "the registers below are those of this page"),
        word("STATUS_WORD", command::STATUS_WORD, ""),
        byte("STATUS_VOUT", command::STATUS_VOUT, ""),
        byte("STATUS_IOUT", command::STATUS_IOUT, ""),
        byte("STATUS_TEMPERATURE", command::STATUS_TEMPERATURE, ""),
        byte("STATUS_MFR_SPECIFIC", command::STATUS_MFR_SPECIFIC, ""),
        word("READ_VOUT", command::READ_VOUT, "U = raw x 1 mV, signed"),
        word("READ_IOUT", command::READ_IOUT, "I = raw x 10 mA, signed"),
        word("READ_TEMPERATURE_1", command::READ_TEMPERATURE_1, "T = raw x 0.01 °C, signed"),
        byte("MFR_ID", command::MFR_ID, "0x4d"),
        byte("MFR_MODEL", command::MFR_MODEL, "0x59"),
        word("MFR_REVISION", command::MFR_REVISION, ""),
        word("MFR_CHANNEL_CONFIG", MFR_CHANNEL_CONFIG, "bits 5:0: what the channel is"),
    ]),
    kernel: Kernel {
        power: &[["", "", ""]; CHANNELS as usize],
        temperature: &["temp1", "temp2", "temp3", "temp4", "temp5"],
        fan: &[],
    },
    open: |device, _| Box::new(Max34451::new(device.addr(), device, settle)),
};

const CHANNELS: u8 = 16;
/// MFR_MODEL.
const MODEL: u8 = 0x59;
const MFR_CHANNEL_CONFIG: u8 = 0xe4;
/// MFR_CHANNEL_CONFIG bits 5:0, SELECT.
const SELECT: u16 = 0x3f;
const VOLTAGE: Direct = Direct { m: 1, b: 0, r: 3 };
const CURRENT: Direct = Direct { m: 1, b: 0, r: 2 };
/// What STATUS_MFR_SPECIFIC says (off, power not good) is in the word already, or about margins.
const STATUS_IGNORED: u16 = status::MFR_SPECIFIC;

/// What the part is left alone for between two accesses, as the kernel does it: a page takes a while to change.
fn settle() {
    thread::sleep(Duration::from_micros(50));
}

/// What a channel is, by SELECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Voltage,
    Current,
    /// Off, or an input of the sequencer.
    Unused,
}

impl Channel {
    /// Sequenced and watched, watched, or only read.
    fn parse(config: u16) -> Self {
        match config & SELECT {
            0x10 | 0x20 | 0x21 => Self::Voltage,
            0x22 | 0x23 => Self::Current,
            _ => Self::Unused,
        }
    }
}

/// Thousandths of whatever the scale is for.
fn convert<T: TryFrom<i64>>(raw: u16, scale: Direct) -> Reading<T> {
    let value = scale.decode(raw, 3).ok_or(Missing::Implausible)?;
    T::try_from(value).map_err(|_| Missing::Implausible)
}

/// Driver of one MAX34451.
struct Max34451<I> {
    link: Link<I>,
    channels: [Channel; CHANNELS as usize],
    sensors: Sensors,
}

impl<I: I2c> Max34451<I> {
    fn new(addr: u8, i2c: I, gap: fn()) -> Self {
        let link = Link::new(addr, i2c, false).with_gap(gap);
        Self { link, channels: [Channel::Unused; CHANNELS as usize], sensors: Sensors::default() }
    }

    fn word(&mut self, page: u8, command: u8) -> Result<u16, Error<I::Error>> {
        self.link.page(page)?.read_word(command)
    }

    fn faults(&mut self, page: u8) -> Result<Faults, Error<I::Error>> {
        let word = self.word(page, command::STATUS_WORD)?;
        status::faults(word & !STATUS_IGNORED, |command| self.link.page(page)?.status_byte(command))
    }
}

impl<I: I2c + Send> Driver<I::Error> for Max34451<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        self.sensors = Sensors::default();
        maxim::identify(&mut self.link, MODEL)
    }

    /// Learns what the channels are; that does not change while the part has power.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        for (page, channel) in (0..).zip(&mut self.channels) {
            *channel = Channel::parse(self.link.page(page)?.read_word(MFR_CHANNEL_CONFIG)?);
        }
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let mut faults = Faults::NONE;
        for ((page, power), channel) in (0..).zip(&mut reading.power).zip(self.channels) {
            let nothing = Power::missing(Missing::NotPresent);
            *power = match channel {
                Channel::Voltage => {
                    Power { voltage: convert(self.word(page, command::READ_VOUT)?, VOLTAGE), ..nothing }
                }
                Channel::Current => {
                    Power { current: convert(self.word(page, command::READ_IOUT)?, CURRENT), ..nothing }
                }
                Channel::Unused => nothing,
            };
            if channel != Channel::Unused {
                faults = faults.and(self.faults(page)?);
            }
        }
        for (index, (page, temperature)) in (CHANNELS..).zip(&mut reading.temperature).enumerate() {
            let raw = self.word(page, command::READ_TEMPERATURE_1)?;
            *temperature = self.sensors.convert(index, raw);
            if *temperature != Err(Missing::NotPresent) {
                faults = faults.and(self.faults(page)?);
            }
        }
        reading.faults = faults;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::super::pmbus::noise;
    use super::*;
    use crate::reading::Fault;
    use crate::units::{Milliamps, Millicelsius, Millivolts};

    const ADDR: u8 = 0x59;

    fn driver(transactions: &[T]) -> (Max34451<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Max34451::new(ADDR, mock.clone(), || {}), mock)
    }

    fn byte(command: u8, value: u8) -> T {
        T::write_read(ADDR, vec![command], vec![value])
    }

    fn word(page: u8, command: u8, word: u16) -> [T; 2] {
        [T::write(ADDR, vec![0x00, page]), T::write_read(ADDR, vec![command], word.to_le_bytes().to_vec())]
    }

    #[test]
    fn select_says_what_a_channel_is() {
        for (config, expected) in [
            (0x0010, Channel::Voltage),
            (0x4020, Channel::Voltage),
            (0x0021, Channel::Voltage),
            (0x0022, Channel::Current),
            (0x0023, Channel::Current),
            (0x0030, Channel::Unused),
            (0x0034, Channel::Unused),
            (0x0000, Channel::Unused),
            (0xffff, Channel::Unused),
        ] {
            assert_eq!(Channel::parse(config), expected, "{config:#06x}");
        }
    }

    #[test]
    fn is_known_by_maker_and_model() {
        let (mut chip, mut mock) = driver(&[byte(0x99, 0x4d), byte(0x9a, 0x59), byte(0x99, 0x4d), byte(0x9a, 0x53)]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x9a, found: 0x53 }));
        mock.done();
    }

    #[test]
    fn each_channel_is_read_as_what_it_is() {
        let mut script = Vec::new();
        for page in 0..16 {
            script.extend(word(page, 0xe4, [0x0010, 0x0022, 0x0030].get(usize::from(page)).copied().unwrap_or(0)));
        }
        // 12 V and too much of it.
        script.extend(word(0, 0x8b, 0x2ee0));
        script.extend(word(0, 0x79, 0x9000));
        script.extend([T::write(ADDR, vec![0x00, 0]), byte(0x7a, 0x40)]);
        script.extend(word(1, 0x8c, 0xfff6));
        script.extend(word(1, 0x79, 0x0000));
        // The first temperature is there and 25.5 °C, the third has an open diode.
        for (page, raw) in [(16, 2_550), (17, 0), (18, 0x7fff), (19, 0), (20, 0)] {
            script.extend(word(page, 0x8d, raw));
            if raw != 0 {
                script.extend(word(page, 0x79, 0x0000));
            }
        }
        let (mut chip, mut mock) = driver(&script);
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let nothing = Power::missing(Missing::NotPresent);
        let expected = [
            Power { voltage: Ok(Millivolts(12_000)), ..nothing },
            Power { current: Ok(Milliamps(-100)), ..nothing },
            nothing,
        ];
        assert_eq!(reading.power.get(..3), Some(expected.as_slice()));
        assert_eq!(reading.power.get(15), Some(&nothing));
        let absent = Err(Missing::NotPresent);
        assert_eq!(reading.temperature, [Ok(Millicelsius(25_500)), absent, Err(Missing::Implausible), absent, absent]);
        assert_eq!(reading.faults, Faults::NONE.with(Fault::OverVoltage, true));
        mock.done();
    }

    #[test]
    fn a_status_byte_that_is_refused_does_not_lose_the_rest() {
        use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
        let mut script = word(3, 0x79, 0x8000).to_vec();
        let refused = byte(0x7a, 0).with_error(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data));
        script.extend([T::write(ADDR, vec![0x00, 3]), refused]);
        let (mut chip, mut mock) = driver(&script);
        assert_eq!(chip.faults(3), Ok(Faults::NONE.with(Fault::Other, true)));
        mock.done();
    }

    #[test]
    fn no_voltage_is_below_nothing() {
        assert_eq!(convert::<Millivolts>(0x8000, VOLTAGE), Err(Missing::Implausible));
        assert_eq!(convert(0x7fff, CURRENT), Ok(Milliamps(327_670)));
    }

    #[test]
    fn noise_is_survived() {
        noise::feed(&PART, |noise| Max34451::new(ADDR, noise, || {}));
    }
}
