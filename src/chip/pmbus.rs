//! A power supply on generic PMBus (PMBus 1.2 part II): input, output, temperatures, fan speeds, status.
//!
//! Numbers are LINEAR11, the output voltage LINEAR16 with the exponent of VOUT_MODE; DIRECT is not generic, its
//! coefficients belong to a part. Nothing is written to the supply, not even CLEAR_FAULTS, which surges the fans of some.
//! A command that the unit has not got is known by a NACK or by all ones (Delta's habit), and goes missing alone.
//! Rounding is the kernel's pmbus_core: arithmetic shift, so towards minus infinity.

use std::collections::BTreeMap;

use embedded_hal::i2c::I2c;

use super::{Certainty, Driver, Error, Form, Kernel, Part, Register, read_le, read_u8};
use crate::reading::{ChipReading, Fan, Fault, Faults, Missing, Power, Reading};
use crate::units::{Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "pmbus",
    about: "a power supply with LINEAR PMBus (CRPS and most server supplies)",
    addresses: &[0x10..=0x77],
    certainty: Certainty::Shape,
    power: &["in", "out"],
    temperature: &["1", "2", "3"],
    fan: &["1", "2"],
    drives_fans: false,
    takes: &[],
    watchdog_s: &[],
    registers: &[
        Register { name: "VOUT_MODE", at: command::VOUT_MODE, form: Form::U8, formula: "" },
        Register { name: "STATUS_WORD", at: command::STATUS_WORD, form: Form::Le(2), formula: "" },
    ],
    kernel: Kernel::NONE,
    open: |device, _| Box::new(Pmbus::new(device.addr(), device)),
};

/// Command codes (PMBus 1.2 part II, appendix I).
mod command {
    pub(super) const VOUT_MODE: u8 = 0x20;
    pub(super) const STATUS_WORD: u8 = 0x79;
    pub(super) const STATUS_VOUT: u8 = 0x7a;
    pub(super) const STATUS_IOUT: u8 = 0x7b;
    pub(super) const STATUS_FANS_1_2: u8 = 0x81;
    pub(super) const READ_VIN: u8 = 0x88;
    pub(super) const READ_IIN: u8 = 0x89;
    pub(super) const READ_VOUT: u8 = 0x8b;
    pub(super) const READ_IOUT: u8 = 0x8c;
    pub(super) const READ_TEMPERATURE: [u8; 3] = [0x8d, 0x8e, 0x8f];
    pub(super) const READ_FAN_SPEED: [u8; 2] = [0x90, 0x91];
    pub(super) const READ_POUT: u8 = 0x96;
    pub(super) const READ_PIN: u8 = 0x97;
    pub(super) const PMBUS_REVISION: u8 = 0x98;
}

/// STATUS_WORD bits (part II, table 16) that say all there is to say. Those that only point to another register are in
/// [`Pmbus::faults`].
const STATUS: [(u16, Fault); 8] = [
    (1 << 13, Fault::Input),
    (1 << 12, Fault::Other),
    (1 << 11, Fault::PowerGood),
    (1 << 6, Fault::Off),
    (1 << 5, Fault::OverVoltage),
    (1 << 4, Fault::OverCurrent),
    (1 << 3, Fault::UnderVoltage),
    (1 << 2, Fault::Temperature),
];
/// STATUS_WORD: look into STATUS_VOUT, STATUS_IOUT, STATUS_FANS_1_2.
const VOUT: u16 = 1 << 15;
const IOUT_POUT: u16 = 1 << 14;
const FANS: u16 = 1 << 10;
/// STATUS_VOUT bits, faults and warnings (part II, 17.3).
const STATUS_VOUT: [(u8, Fault); 2] = [(0b1100_0000, Fault::OverVoltage), (0b0011_0000, Fault::UnderVoltage)];
/// STATUS_IOUT bits, faults and warnings (part II, 17.4).
const STATUS_IOUT: [(u8, Fault); 3] =
    [(0b1110_0000, Fault::OverCurrent), (0b0001_0000, Fault::UnderCurrent), (0b0000_0011, Fault::OverPower)];
/// STATUS_FANS_1_2: the fault bits of fan 1 and fan 2 (part II, 17.9).
const STATUS_FANS: [u8; 2] = [1 << 7, 1 << 6];

/// STATUS_WORD's CML: a command was not understood.
const CML: u16 = 1 << 1;
/// What a unit answers to a command that it has not got.
const ABSENT: u16 = 0xffff;

/// `mantissa * 2^exponent`, rounded towards minus infinity.
fn scale(mantissa: i64, exponent: i8) -> i64 {
    if exponent >= 0 { mantissa << exponent } else { mantissa >> -exponent }
}

/// LINEAR11 (part II, 7.1): exponent in bits 15:11, mantissa in bits 10:0, both two's complement. Result times `factor`.
fn linear11(raw: u16, factor: i64) -> i64 {
    let exponent = raw.cast_signed() >> 11;
    let mantissa = (raw << 5).cast_signed() >> 5;
    scale(i64::from(mantissa) * factor, i8::try_from(exponent).unwrap_or(0))
}

/// LINEAR16 (part II, 8.3.1): an unsigned mantissa with the exponent of VOUT_MODE. Result in mV.
fn linear16(raw: u16, exponent: i8) -> i64 {
    scale(i64::from(raw) * 1000, exponent)
}

/// VOUT_MODE (part II, 8.1): bits 7:5 = 000 is LINEAR16 with a 5-bit exponent.
fn vout_exponent(vout_mode: u8) -> Option<i8> {
    (vout_mode >> 5 == 0).then_some((vout_mode << 3).cast_signed() >> 3)
}

/// The faults of a table whose bits are set.
fn of<T: Copy + Into<u16>>(table: &[(T, Fault)], status: u16) -> Faults {
    table.iter().fold(Faults::NONE, |faults, (bits, fault)| faults.with(*fault, status & (*bits).into() != 0))
}

/// Driver of one PMBus supply.
pub struct Pmbus<I> {
    i2c: I,
    addr: u8,
    exponent: Option<i8>,
    /// Times in a row that a command was not answered.
    unanswered: BTreeMap<u8, u8>,
    /// Passes since the unit was identified.
    passes: u32,
}

/// A command that was not answered so often in a row is one that the unit has not got: a busy one misses one now and then.
const ABSENT_AFTER: u8 = 3;
/// How often such a command is asked for once more, in passes: seldom, because asking sets CML in the status.
const ASK_AGAIN: u32 = 600;

impl<I: I2c> Pmbus<I> {
    /// A driver for the supply at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I) -> Self {
        Self { i2c, addr, exponent: None, unanswered: BTreeMap::new(), passes: 0 }
    }

    /// One quantity; what the unit does not acknowledge or answers with all ones goes missing alone.
    fn quantity<T: TryFrom<i64>>(
        &mut self,
        command: u8,
        convert: impl Fn(u16) -> i64,
    ) -> Result<Reading<T>, Error<I::Error>> {
        let unanswered = self.unanswered.get(&command).copied().unwrap_or(0);
        if unanswered >= ABSENT_AFTER && !self.passes.is_multiple_of(ASK_AGAIN) {
            return Ok(Err(Missing::NotPresent));
        }
        match read_le(&mut self.i2c, self.addr, command) {
            Err(error) if error.missing() != Missing::NotPresent => Err(error),
            Err(_) | Ok(ABSENT) => {
                self.unanswered.insert(command, unanswered.saturating_add(1));
                Ok(Err(Missing::NotPresent))
            }
            Ok(raw) => {
                self.unanswered.remove(&command);
                Ok(T::try_from(convert(raw)).map_err(|_| Missing::Implausible))
            }
        }
    }

    fn milli<T: TryFrom<i64>>(&mut self, command: u8) -> Result<Reading<T>, Error<I::Error>> {
        self.quantity(command, |raw| linear11(raw, 1000))
    }

    /// Everything that STATUS_WORD says, with the registers that it points to; `Other` where one of those is not there.
    fn faults(&mut self, status: u16) -> Result<Faults, Error<I::Error>> {
        let mut faults = of(&STATUS, status);
        for (bit, command, table) in
            [(VOUT, command::STATUS_VOUT, &STATUS_VOUT[..]), (IOUT_POUT, command::STATUS_IOUT, &STATUS_IOUT[..])]
        {
            if status & bit != 0 {
                match self.status_byte(command)? {
                    Some(byte) => faults = faults.and(of(table, byte.into())),
                    None => faults = faults.with(Fault::Other, true),
                }
            }
        }
        Ok(faults)
    }

    /// Which of the fans the supply calls faulty; all, where it does not say.
    fn faulty_fans(&mut self, status: u16) -> Result<[bool; 2], Error<I::Error>> {
        if status & FANS == 0 {
            return Ok([false; 2]);
        }
        let byte = self.status_byte(command::STATUS_FANS_1_2)?;
        Ok(STATUS_FANS.map(|bit| byte.is_none_or(|byte| byte & bit != 0)))
    }

    fn status_byte(&mut self, command: u8) -> Result<Option<u8>, Error<I::Error>> {
        match read_u8(&mut self.i2c, self.addr, command) {
            Ok(byte) => Ok(Some(byte)),
            Err(error) if error.missing() == Missing::NotPresent => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn output_voltage(&mut self) -> Result<Reading<Millivolts>, Error<I::Error>> {
        match self.exponent {
            Some(exponent) => self.quantity(command::READ_VOUT, |raw| linear16(raw, exponent)),
            None => Ok(Err(Missing::NotPresent)),
        }
    }
}

impl<I: I2c + Send> Driver<I::Error> for Pmbus<I> {
    /// PMBUS_REVISION is part I in bits 7:4 and part II in bits 3:0, each 0 to 5 so far (revisions 1.0 to 1.5).
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        self.unanswered.clear();
        self.passes = 0;
        let revision = read_u8(&mut self.i2c, self.addr, command::PMBUS_REVISION)?;
        if revision >> 4 > 5 || revision & 0xf > 5 {
            return Err(Error::WrongPart { register: command::PMBUS_REVISION, found: revision.into() });
        }
        let vout_mode = read_u8(&mut self.i2c, self.addr, command::VOUT_MODE)?;
        self.exponent = vout_exponent(vout_mode);
        if self.exponent.is_some() {
            Ok(())
        } else {
            Err(Error::WrongPart { register: command::VOUT_MODE, found: vout_mode.into() })
        }
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        self.passes = self.passes.wrapping_add(1);
        // A supply that is there has a STATUS_WORD: without it, it is the chip that is missing, not a quantity.
        let status = read_le(&mut self.i2c, self.addr, command::STATUS_WORD)?;
        // CML stays set until CLEAR_FAULTS, which is never sent; where we set it ourselves it says nothing.
        let misunderstood = status & CML != 0 && self.unanswered.is_empty();
        let faulty = self.faulty_fans(status)?;
        reading.faults =
            self.faults(status)?.with(Fault::Communication, misunderstood).with(Fault::Fan, status & FANS != 0);
        let input = Power {
            voltage: self.milli::<Millivolts>(command::READ_VIN)?,
            current: self.milli::<Milliamps>(command::READ_IIN)?,
            power: self.milli::<Milliwatts>(command::READ_PIN)?,
        };
        let output = Power {
            voltage: self.output_voltage()?,
            current: self.milli::<Milliamps>(command::READ_IOUT)?,
            power: self.milli::<Milliwatts>(command::READ_POUT)?,
        };
        let output = if reading.faults.has(Fault::Off) { Power::missing(Missing::Off) } else { output };
        for (channel, power) in reading.power.iter_mut().zip([input, output]) {
            *channel = power;
        }
        for (channel, command) in reading.temperature.iter_mut().zip(command::READ_TEMPERATURE) {
            *channel = self.milli::<Millicelsius>(command)?;
        }
        for ((channel, command), fault) in reading.fan.iter_mut().zip(command::READ_FAN_SPEED).zip(faulty) {
            let rpm = self.quantity::<Rpm>(command, |raw| linear11(raw, 1))?;
            *channel = Fan { rpm, duty: Err(Missing::NotPresent), fault };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x58;

    #[test]
    fn linear11_has_two_signs() {
        for (what, raw, expected) in [
            ("230 V, R = -1", 0x1f << 11 | 460, 230_000),
            ("2.5 A, R = -5", 0x1b << 11 | 80, 2_500),
            ("-10.5 °C, R = -2", 0x1e << 11 | (0x7ff & (!42 + 1)), -10_500),
            ("500 W, R = 0", 500, 500_000),
            ("3200, R = 2", 2 << 11 | 800, 3_200_000),
            ("rounded down", 0x1e << 11 | 0x7ff, -250),
            ("largest", 0x0f << 11 | 0x3ff, 1023 * 1000 * (1 << 15)),
        ] {
            assert_eq!(linear11(raw, 1000), expected, "{what}");
        }
    }

    #[test]
    fn linear16_takes_its_exponent_from_vout_mode() {
        assert_eq!(vout_exponent(0x17), Some(-9));
        assert_eq!(vout_exponent(0x1f), Some(-1));
        assert_eq!(vout_exponent(0x02), Some(2));
        assert_eq!(vout_exponent(0x40), None, "DIRECT");
        assert_eq!(linear16(12 * 512 + 256, -9), 12_500);
        assert_eq!(linear16(1, -9), 1, "1.95 mV");
    }

    #[test]
    fn status_bits_are_the_standards() {
        let set = |faults: &[Fault]| faults.iter().fold(Faults::NONE, |all, fault| all.with(*fault, true));
        let byte = |command: u8, value: u8| T::write_read(ADDR, vec![command], vec![value]);
        let nack = |command: u8| {
            let error = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data);
            T::write_read(ADDR, vec![command], vec![0]).with_error(error)
        };
        for (what, status, reads, expected) in [
            ("nothing", 0x0000, vec![], set(&[])),
            (
                "off, no power good, input low",
                0x0848,
                vec![],
                set(&[Fault::Off, Fault::PowerGood, Fault::UnderVoltage]),
            ),
            ("output low", 0x8000, vec![byte(0x7a, 0x10)], set(&[Fault::UnderVoltage])),
            ("output high", 0x8020, vec![byte(0x7a, 0x80)], set(&[Fault::OverVoltage])),
            ("over-current alone", 0x4010, vec![byte(0x7b, 0x80)], set(&[Fault::OverCurrent])),
            ("over-power alone", 0x4000, vec![byte(0x7b, 0x02)], set(&[Fault::OverPower])),
            ("a register that is not there", 0x4000, vec![nack(0x7b)], set(&[Fault::Other])),
        ] {
            let mut mock = Mock::new(&reads);
            assert_eq!(Pmbus::new(ADDR, mock.clone()).faults(status), Ok(expected), "{what}");
            mock.done();
        }
    }

    #[test]
    fn a_fan_fault_is_that_fans() {
        for (status, byte, expected) in
            [(0x0400, 0x40, [false, true]), (0x0400, 0x80, [true, false]), (0x0400, 0x20, [false, false])]
        {
            let mut mock = Mock::new(&[T::write_read(ADDR, vec![0x81], vec![byte])]);
            assert_eq!(Pmbus::new(ADDR, mock.clone()).faulty_fans(status), Ok(expected), "{byte:#04x}");
            mock.done();
        }
    }

    #[test]
    fn reads_a_supply_and_loses_only_what_it_has_not_got() {
        let word = |command: u8, word: u16| T::write_read(ADDR, vec![command], word.to_le_bytes().to_vec());
        let mut mock = Mock::new(&[
            T::write_read(ADDR, vec![0x98], vec![0x22]),
            T::write_read(ADDR, vec![0x20], vec![0x17]),
            word(0x79, 0x0400),
            T::write_read(ADDR, vec![0x81], vec![0x80]),
            word(0x88, 0x1f << 11 | 460),
            word(0x89, 0x1b << 11 | 80),
            word(0x97, 540),
            word(0x8b, 12 * 512),
            word(0x8c, 0x1e << 11 | 160),
            word(0x96, 500),
            word(0x8d, 0x1e << 11 | 168),
            word(0x8e, 0xffff),
            T::write_read(ADDR, vec![0x8f], vec![0, 0]).with_error(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data)),
            word(0x90, 2 << 11 | 800),
            word(0x91, 0x7ff),
        ]);
        let mut chip = Pmbus::new(ADDR, mock.clone());
        assert_eq!(chip.identify(), Ok(()));
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(
            reading.power,
            [
                Power {
                    voltage: Ok(Millivolts(230_000)),
                    current: Ok(Milliamps(2_500)),
                    power: Ok(Milliwatts(540_000))
                },
                Power {
                    voltage: Ok(Millivolts(12_000)),
                    current: Ok(Milliamps(40_000)),
                    power: Ok(Milliwatts(500_000))
                },
            ]
        );
        assert_eq!(reading.temperature, [Ok(Millicelsius(42_000)), Err(Missing::NotPresent), Err(Missing::NotPresent)]);
        let [first, second] = reading.fan.as_slice() else { panic!("two fans") };
        assert_eq!((first.rpm, second.rpm), (Ok(Rpm(3_200)), Err(Missing::Implausible)));
        assert!(first.fault && !second.fault && reading.faults.has(Fault::Fan));
        mock.done();
    }

    #[test]
    fn a_command_missed_once_is_asked_for_again_and_one_never_answered_is_left_alone() {
        let word = |command: u8, word: u16| T::write_read(ADDR, vec![command], word.to_le_bytes().to_vec());
        let mut mock = Mock::new(&[
            word(0x88, ABSENT),
            word(0x88, 230),
            word(0x88, ABSENT),
            word(0x88, ABSENT),
            word(0x88, ABSENT),
            word(0x88, 230),
        ]);
        let mut chip = Pmbus::new(ADDR, mock.clone());
        let mut ask = |pass: u32| {
            chip.passes = pass;
            chip.milli::<Millivolts>(command::READ_VIN)
        };
        let (there, absent) = (Ok(Ok(Millivolts(230_000))), Ok(Err(Missing::NotPresent)));
        assert_eq!([ask(1), ask(2)], [absent, there]);
        assert_eq!([ask(3), ask(4), ask(5), ask(6), ask(7)], std::array::from_fn(|_| Ok(Err(Missing::NotPresent))));
        assert_eq!(ask(ASK_AGAIN), Ok(Ok(Millivolts(230_000))));
        mock.done();
    }

    #[test]
    fn direct_format_is_not_generic() {
        let mut mock =
            Mock::new(&[T::write_read(ADDR, vec![0x98], vec![0x22]), T::write_read(ADDR, vec![0x20], vec![0x40])]);
        assert_eq!(Pmbus::new(ADDR, mock.clone()).identify(), Err(Error::WrongPart { register: 0x20, found: 0x40 }));
        mock.done();
    }
}
