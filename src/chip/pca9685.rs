//! PCA9685: sixteen PWM outputs of 12 bits, no tachometer (NXP).
//!
//! A part for LEDs. Its frequency is one for all outputs, 24 to 1526 Hz by PRE_SCALE: the 25 kHz that four-wire fans ask
//! for are not to be had, so a board must know that its fans take what there is, or switch them with transistors. The
//! frequency can only be changed while all outputs are off and is therefore left as it is found, as are the outputs' kind
//! and polarity (MODE2). The chip answers to no other address than its own: ALLCALL would be 0x70, which is a mux's.
//!
//! Each output turns on at one count of 4096 and off at another; here they turn on at 0, so duty = off / 4096. Bit 12 of
//! either is full on or full off, and full off wins. The word that changes first is chosen so that a fan which is to run
//! never stops in between. There is no watchdog and nothing that measures: speeds are not present, so a board that has
//! only this sees its fans as standing.
//!
//! A pass reads two words an output, 32 transfers or about 16 ms of a 100 kHz bus.

use embedded_hal::i2c::I2c;

use super::register::{byte, word_le};
use super::{Certainty, Driver, Error, Kernel, Part, Registers, Setting, holds, read_le, read_u8, verify_u8};
use crate::reading::{ChipReading, Fan, Faults, Missing, Reading};
use crate::units::Duty;

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "pca9685",
    about: "sixteen PWM outputs up to 1526 Hz, no tachometer",
    addresses: &[0x40..=0x6f, 0x71..=0x77],
    certainty: Certainty::Shape,
    power: &[],
    temperature: &[],
    fan: &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"],
    drives_fans: true,
    takes: &[Setting::Tachometer],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("MODE1", register::MODE1, ""),
        byte("MODE2", register::MODE2, ""),
        word_le("LED0_ON", register::LED_ON, ""),
        word_le("LED0_OFF", register::LED_OFF, "duty = (off - on) / 4096; bit 12 full on, full off"),
        word_le("LED15_ON", register::LED_ON + 60, ""),
        word_le("LED15_OFF", register::LED_OFF + 60, ""),
        byte("PRE_SCALE", register::PRE_SCALE, "f = 25 MHz / (4096 x (raw + 1))"),
    ]),
    kernel: Kernel::NONE,
    open: |device, _| Box::new(Pca9685::new(device.addr(), device)),
};

/// Register map; those of an output are given for the first.
mod register {
    pub(super) const MODE1: u8 = 0x00;
    pub(super) const MODE2: u8 = 0x01;
    pub(super) const LED_ON: u8 = 0x06;
    pub(super) const LED_OFF: u8 = 0x08;
    pub(super) const PRE_SCALE: u8 = 0xfe;
}

const OUTPUTS: u8 = 16;
/// MODE1: RESTART, which says that outputs were on when the chip was put to sleep, and the external clock, which stays.
const RESTART: u8 = 1 << 7;
const EXTCLK: u8 = 1 << 6;
/// Register numbers count up, without which there are no words; SLEEP and the further addresses (bits 4:0) off.
const AI: u8 = 1 << 5;
/// MODE2: bits 7:5 always read as zero, as they do in the high byte of an output's words.
const RESERVED: u8 = 0b1110_0000;
/// The chip takes no smaller one.
const LEAST_PRE_SCALE: u8 = 3;
/// In an output's words: full on or full off.
const FULL: u16 = 1 << 12;
const COUNTS: u16 = 1 << 12;

/// A drive as the words LED_ON and LED_OFF.
fn words(duty: Duty) -> [u16; 2] {
    match duty.of(COUNTS) {
        0 => [0, FULL],
        COUNTS => [FULL, COUNTS - 1],
        off => [0, off],
    }
}

fn duty([on, off]: [u16; 2]) -> Reading<Duty> {
    let count = match (on & FULL != 0, off & FULL != 0) {
        (_, true) => 0,
        (true, false) => COUNTS,
        (false, false) => off.wrapping_sub(on) & (COUNTS - 1),
    };
    Duty::from_ratio(count, COUNTS).ok_or(Missing::Implausible)
}

/// Driver of one PCA9685.
pub struct Pca9685<I> {
    i2c: I,
    addr: u8,
}

impl<I: I2c> Pca9685<I> {
    fn new(addr: u8, i2c: I) -> Self {
        Self { i2c, addr }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }

    fn write(&mut self, register: u8, word: u16) -> Result<(), Error<I::Error>> {
        let [low, high] = word.to_le_bytes();
        self.i2c.write(self.addr, &[register, low, high])?;
        holds(register, word, read_le(&mut self.i2c, self.addr, register)?)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Pca9685<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        let outputs = (0..2 * OUTPUTS).map(|word| register::LED_ON + 1 + 2 * word);
        for register in std::iter::once(register::MODE2).chain(outputs) {
            let found = self.byte(register)?;
            if found & RESERVED != 0 {
                return Err(Error::WrongPart { register, found: found.into() });
            }
        }
        let found = self.byte(register::PRE_SCALE)?;
        if found < LEAST_PRE_SCALE {
            return Err(Error::WrongPart { register: register::PRE_SCALE, found: found.into() });
        }
        Ok(())
    }

    /// Outputs keep what they have; those of a chip that slept come back as each is set.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let before = self.byte(register::MODE1)?;
        if before & !(RESTART | EXTCLK) != AI {
            self.i2c.write(self.addr, &[register::MODE1, before & EXTCLK | AI])?;
            verify_u8(&mut self.i2c, self.addr, register::MODE1, !(RESTART | EXTCLK), AI)?;
        }
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        verify_u8(&mut self.i2c, self.addr, register::MODE1, !(RESTART | EXTCLK), AI)?;
        for (output, channel) in (0..OUTPUTS).zip(&mut reading.fan) {
            let on = read_le(&mut self.i2c, self.addr, register::LED_ON + 4 * output)?;
            let off = read_le(&mut self.i2c, self.addr, register::LED_OFF + 4 * output)?;
            *channel = Fan { rpm: Err(Missing::NotPresent), duty: duty([on, off]), fault: false };
        }
        reading.faults = Faults::NONE;
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<I::Error>> {
        let output = u8::try_from(channel).ok().filter(|output| *output < OUTPUTS).ok_or(Error::NoChannel)?;
        let [on, off] = words(duty);
        // The word that turns it off is right before the one that had it full on is taken away, and never zero.
        self.write(register::LED_OFF + 4 * output, off)?;
        self.write(register::LED_ON + 4 * output, on)
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x41;

    fn driver(transactions: &[T]) -> (Pca9685<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Pca9685::new(ADDR, mock.clone()), mock)
    }

    fn byte(register: u8, value: u8) -> T {
        T::write_read(ADDR, vec![register], vec![value])
    }

    fn word(register: u8, value: u16) -> T {
        T::write_read(ADDR, vec![register], value.to_le_bytes().to_vec())
    }

    fn set(register: u8, value: u16) -> [T; 2] {
        let [low, high] = value.to_le_bytes();
        [T::write(ADDR, vec![register, low, high]), word(register, value)]
    }

    #[test]
    fn drives_become_counts_and_come_back() {
        for (hundredths, expected) in [
            (0, [0, 0x1000]),
            (1, [0, 0x1000]),
            (2, [0, 1]),
            (5_000, [0, 0x800]),
            (9_999, [0x1000, 0xfff]),
            (10_000, [0x1000, 0xfff]),
        ] {
            let wanted = Duty::saturating(hundredths);
            assert_eq!(words(wanted), expected, "{wanted}");
            let back = duty(expected).unwrap().hundredths();
            assert!(back.abs_diff(wanted.hundredths()) <= 2, "{wanted} came back as {back}");
        }
        for (what, found, expected) in [
            ("full off wins", [0x1000, 0x1000], 0),
            ("as at reset", [0, 0x1000], 0),
            ("on later than at 0", [0x400, 0xc00], 5_000),
            ("over the end", [0xc00, 0x400], 5_000),
        ] {
            assert_eq!(duty(found), Ok(Duty::saturating(expected)), "{what}");
        }
    }

    #[test]
    fn is_known_by_the_bits_that_read_as_zero() {
        let mut all = vec![byte(0x01, 0x04)];
        all.extend((0..32).map(|word| byte(0x07 + 2 * word, 0x10)));
        all.push(byte(0xfe, 0x1e));
        // An INA219, whose bus voltage is there.
        all.extend([byte(0x01, 0x00), byte(0x07, 0x00), byte(0x09, 0x2e)]);
        let (mut chip, mut mock) = driver(&all);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x09, found: 0x2e }));
        mock.done();
    }

    #[test]
    fn wakes_the_chip_and_shuts_its_other_addresses() {
        let (mut chip, mut mock) = driver(&[
            byte(0x00, 0x11),
            T::write(ADDR, vec![0x00, 0x20]),
            byte(0x00, 0xa0),
            byte(0x00, 0xa0),
            byte(0x00, 0x11),
        ]);
        assert_eq!(chip.configure(), Ok(()));
        assert_eq!(chip.configure(), Ok(()), "nothing to do");
        let reset = Error::ReadBack { register: 0x00, written: 0x20, found: 0x11 };
        assert_eq!(chip.read(&mut PART.missing(Missing::Stale)), Err(reset));
        mock.done();
    }

    #[test]
    fn reads_drives_and_no_speeds() {
        let mut all = vec![byte(0x00, 0x20)];
        for output in 0..16 {
            all.extend([word(0x06 + 4 * output, 0), word(0x08 + 4 * output, 0x800)]);
        }
        let (mut chip, mut mock) = driver(&all);
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let half = Fan { rpm: Err(Missing::NotPresent), duty: Ok(Duty::saturating(5000)), fault: false };
        assert_eq!(reading.fan, [half; 16]);
        mock.done();
    }

    #[test]
    fn a_duty_is_written_off_first_and_read_back() {
        let mut all = set(0x0c, 0xfff).to_vec();
        all.extend(set(0x0a, 0x1000));
        all.extend([set(0x44, 0x800)[0].clone(), word(0x44, 0)]);
        let (mut chip, mut mock) = driver(&all);
        assert_eq!(chip.set_duty(1, Duty::FULL), Ok(()));
        let lost = Error::ReadBack { register: 0x44, written: 0x800, found: 0 };
        assert_eq!(chip.set_duty(15, Duty::saturating(5000)), Err(lost));
        assert_eq!(chip.set_duty(16, Duty::FULL), Err(Error::NoChannel));
        mock.done();
    }
}
