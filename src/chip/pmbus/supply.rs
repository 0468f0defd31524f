//! Power supplies on generic PMBus (part II): input, output, temperatures, fan speeds, status.
//!
//! Numbers are LINEAR11, the output voltage ULINEAR16 with the exponent of VOUT_MODE; since revision 1.3 either may be
//! IEEE half precision. VID and DIRECT are refused: they are not generic. Nothing is written to a supply. A command
//! that it has not got is known by a NACK or by all ones (Delta's habit), and goes missing alone.
//!
//! PMBus 1.0 is a part of its own. The DPS-750TB, Delta's for Dell, reads PMBUS_REVISION as zero, and others of that
//! age need not have it (it came with 1.1), so a board's word is taken. What is known of the DPS-750TB is
//! sxjack/dps750tb_psu_i2c, a program that reads one: it leaves it a millisecond between accesses, asks for two
//! temperatures and one fan, not for STATUS_OTHER and STATUS_MFR_SPECIFIC, and takes the output voltage at 2^-9 V
//! whatever VOUT_MODE says.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use embedded_hal::i2c::I2c;

use super::format::{VoutMode, half, linear11, linear16};
use super::link::Link;
use super::{block, byte, command, status, word};
use crate::chip::{Certainty, Driver, Error, Kernel, Part, Registers, Setting, Settings, quantity};
use crate::reading::{ChipReading, Fan, Fault, Missing, Power, Reading};
use crate::units::{Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

/// The generic part, as boards see it.
pub static PART: Part = Part {
    name: "pmbus",
    about: "a power supply with LINEAR PMBus (CRPS and most server supplies)",
    addresses: &[0x10..=0x77],
    certainty: Certainty::Shape,
    power: &["in", "out"],
    temperature: &["1", "2", "3"],
    fan: &["1", "2"],
    drives_fans: false,
    takes: &[Setting::Pec],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("CAPABILITY", command::CAPABILITY, "bit 7: PEC, bit 3: IEEE half precision"),
        byte("VOUT_MODE", command::VOUT_MODE, "bits 7:5 mode, 000 = ULINEAR16; bits 4:0 its exponent"),
        word("STATUS_WORD", command::STATUS_WORD, ""),
        byte("STATUS_VOUT", command::STATUS_VOUT, ""),
        byte("STATUS_IOUT", command::STATUS_IOUT, ""),
        byte("STATUS_INPUT", command::STATUS_INPUT, ""),
        byte("STATUS_TEMPERATURE", command::STATUS_TEMPERATURE, ""),
        byte("STATUS_CML", command::STATUS_CML, ""),
        byte("STATUS_FANS_1_2", command::STATUS_FANS_1_2, ""),
        word("READ_VIN", command::READ_VIN, LINEAR11),
        word("READ_IIN", command::READ_IIN, LINEAR11),
        word("READ_VOUT", command::READ_VOUT, ULINEAR16),
        word("READ_IOUT", command::READ_IOUT, LINEAR11),
        word("READ_TEMPERATURE_1", command::READ_TEMPERATURE_1, LINEAR11),
        word("READ_TEMPERATURE_2", command::READ_TEMPERATURE_2, LINEAR11),
        word("READ_TEMPERATURE_3", command::READ_TEMPERATURE_3, LINEAR11),
        word("READ_FAN_SPEED_1", command::READ_FAN_SPEED_1, LINEAR11),
        word("READ_FAN_SPEED_2", command::READ_FAN_SPEED_2, LINEAR11),
        word("READ_POUT", command::READ_POUT, LINEAR11),
        word("READ_PIN", command::READ_PIN, LINEAR11),
        byte("PMBUS_REVISION", command::PMBUS_REVISION, "part I in bits 7:4, part II in bits 3:0"),
        block("MFR_ID", command::MFR_ID),
        block("MFR_MODEL", command::MFR_MODEL),
        block("MFR_REVISION", command::MFR_REVISION),
    ]),
    kernel: Kernel::NONE,
    open: |device, settings| Box::new(Pmbus::new(device.addr(), device, settings)),
};

/// The part for PMBus 1.0.
pub static DPS750TB: Part = Part {
    name: "dps750tb",
    about: "a power supply on PMBus 1.0 (Dell DPS-750TB)",
    addresses: &[0x10..=0x77],
    certainty: Certainty::Word,
    power: &["in", "out"],
    temperature: &["1", "2"],
    fan: &["1"],
    drives_fans: false,
    takes: &[Setting::Pec],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("VOUT_MODE", command::VOUT_MODE, ""),
        byte("STATUS_BYTE", command::STATUS_BYTE, ""),
        word("STATUS_WORD", command::STATUS_WORD, ""),
        byte("STATUS_VOUT", command::STATUS_VOUT, ""),
        byte("STATUS_IOUT", command::STATUS_IOUT, ""),
        byte("STATUS_INPUT", command::STATUS_INPUT, ""),
        byte("STATUS_TEMPERATURE", command::STATUS_TEMPERATURE, ""),
        byte("STATUS_CML", command::STATUS_CML, ""),
        byte("STATUS_FANS_1_2", command::STATUS_FANS_1_2, ""),
        word("READ_VIN", command::READ_VIN, LINEAR11),
        word("READ_IIN", command::READ_IIN, LINEAR11),
        word("READ_VOUT", command::READ_VOUT, "U = raw x 2^-9 V"),
        word("READ_IOUT", command::READ_IOUT, LINEAR11),
        word("READ_TEMPERATURE_1", command::READ_TEMPERATURE_1, LINEAR11),
        word("READ_TEMPERATURE_2", command::READ_TEMPERATURE_2, LINEAR11),
        word("READ_FAN_SPEED_1", command::READ_FAN_SPEED_1, LINEAR11),
        word("READ_POUT", command::READ_POUT, LINEAR11),
        word("READ_PIN", command::READ_PIN, LINEAR11),
        byte("PMBUS_REVISION", command::PMBUS_REVISION, "0: PMBus 1.0"),
        block("MFR_ID", command::MFR_ID),
        block("MFR_MODEL", command::MFR_MODEL),
    ]),
    kernel: Kernel::NONE,
    open: |device, settings| Box::new(Pmbus::revision_1_0(device.addr(), device, settings, breathe)),
};

const LINEAR11: &str = "X = (raw & 0x7ff, signed) x 2^(raw >> 11, signed)";
const ULINEAR16: &str = "U = raw x 2^exponent, of VOUT_MODE";

/// What a unit answers to a command that it has not got.
const ABSENT: u16 = 0xffff;
const ABSENT_BYTE: u8 = 0xff;
/// A command that was not answered so often in a row is one that the unit has not got: a busy one misses one now and
/// then.
const ABSENT_AFTER: u8 = 3;
/// How often such a command is asked for once more, in passes: seldom, because asking sets CML in the status.
const ASK_AGAIN: u32 = 600;
/// CAPABILITY (11.12 since revision 1.3): numbers are IEEE half precision.
const CAPABILITY_HALF: u8 = 1 << 3;
/// READ_VOUT of PMBus 1.0 supplies: 1.95 mV a bit.
const EXPONENT_1_0: i8 = -9;

/// What a unit of PMBus 1.0 is left alone for between two accesses.
fn breathe() {
    thread::sleep(Duration::from_millis(1));
}

/// Driver of one PMBus supply.
struct Pmbus<I> {
    link: Link<I>,
    /// PMBus 1.0.
    old: bool,
    vout: Option<VoutMode>,
    /// All numbers but the output voltage are IEEE half precision.
    halves: bool,
    /// Times in a row that a command was not answered.
    unanswered: BTreeMap<u8, u8>,
    /// Passes since the unit was identified.
    passes: u32,
}

impl<I: I2c> Pmbus<I> {
    /// A driver for the supply at `addr`; nothing is sent yet.
    fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        let link = Link::new(addr, i2c, settings.pec);
        Self { link, old: false, vout: None, halves: false, unanswered: BTreeMap::new(), passes: 0 }
    }

    fn revision_1_0(addr: u8, i2c: I, settings: &Settings, gap: fn()) -> Self {
        let this = Self::new(addr, i2c, settings);
        Self { link: this.link.with_gap(gap), old: true, ..this }
    }

    /// What a command answers. `Ok(None)` where the unit does not acknowledge it, answers with `absent`, or has done so
    /// too often.
    fn ask<T: PartialEq>(
        &mut self,
        command: u8,
        absent: T,
        read: impl FnOnce(&mut Link<I>, u8) -> Result<T, Error<I::Error>>,
    ) -> Result<Option<T>, Error<I::Error>> {
        let unanswered = self.unanswered.get(&command).copied().unwrap_or(0);
        if unanswered >= ABSENT_AFTER && !self.passes.is_multiple_of(ASK_AGAIN) {
            return Ok(None);
        }
        match read(&mut self.link, command) {
            Ok(answer) if answer != absent => {
                self.unanswered.remove(&command);
                Ok(Some(answer))
            }
            Err(error) if error.missing() != Missing::NotPresent => Err(error),
            Ok(_) | Err(_) => {
                self.unanswered.insert(command, unanswered.saturating_add(1));
                Ok(None)
            }
        }
    }

    /// One quantity; what the unit has not got goes missing alone, too.
    fn quantity<T: TryFrom<i64>>(
        &mut self,
        command: u8,
        convert: impl Fn(u16) -> Option<i64>,
    ) -> Result<Reading<T>, Error<I::Error>> {
        quantity(self.ask(command, ABSENT, Link::read_word), |answer| {
            let raw = answer.ok_or(Missing::NotPresent)?;
            convert(raw).and_then(|value| T::try_from(value).ok()).ok_or(Missing::Implausible)
        })
    }

    fn number<T: TryFrom<i64>>(&mut self, command: u8, factor: i64) -> Result<Reading<T>, Error<I::Error>> {
        let halves = self.halves;
        self.quantity(command, |raw| if halves { half(raw, factor) } else { Some(linear11(raw, factor)) })
    }

    fn milli<T: TryFrom<i64>>(&mut self, command: u8) -> Result<Reading<T>, Error<I::Error>> {
        self.number(command, 1000)
    }

    fn output_voltage(&mut self) -> Result<Reading<Millivolts>, Error<I::Error>> {
        match self.vout {
            Some(VoutMode::Linear(exponent)) => self.quantity(command::READ_VOUT, |raw| Some(linear16(raw, exponent))),
            Some(VoutMode::Half) => self.quantity(command::READ_VOUT, |raw| half(raw, 1000)),
            None => Ok(Err(Missing::NotPresent)),
        }
    }

    /// A status register of one byte; `None` where it is not there or came disturbed.
    fn status_byte(&mut self, command: u8) -> Result<Option<u8>, Error<I::Error>> {
        match self.ask(command, ABSENT_BYTE, Link::read_byte) {
            Err(Error::Checksum { .. }) => Ok(None),
            answer => answer,
        }
    }

    /// Which of the fans the supply calls faulty; all, where it does not say.
    fn faulty_fans(&mut self, word: u16) -> Result<[bool; 2], Error<I::Error>> {
        if word & status::FANS == 0 {
            return Ok([false; 2]);
        }
        let byte = self.status_byte(command::STATUS_FANS_1_2)?;
        Ok(status::FAN_FAULT.map(|bit| byte.is_none_or(|byte| byte & bit != 0)))
    }

    /// Whether the unit is damaged or does not understand its masters. CML stays set until CLEAR_FAULTS, which is never
    /// sent; where we set it ourselves, by asking for what is not there, only damage is worth a word.
    fn misunderstood(&mut self, word: u16) -> Result<bool, Error<I::Error>> {
        if word & status::CML == 0 {
            return Ok(false);
        }
        let ours = !self.unanswered.is_empty();
        let cml = self.status_byte(command::STATUS_CML)?;
        Ok(!ours || cml.is_some_and(|cml| cml & status::CML_DAMAGED != 0))
    }

    /// PMBUS_REVISION is part I in bits 7:4 and part II in bits 3:0, each 0 to 5 so far (revisions 1.0 to 1.5).
    fn identify_by_revision(&mut self) -> Result<VoutMode, Error<I::Error>> {
        let revision = self.link.read_byte(command::PMBUS_REVISION)?;
        if revision >> 4 > 5 || revision & 0xf > 5 {
            return Err(Error::WrongPart { register: command::PMBUS_REVISION, found: revision.into() });
        }
        let vout_mode = self.link.read_byte(command::VOUT_MODE)?;
        let parsed = VoutMode::parse(vout_mode);
        let vout = parsed.ok_or(Error::WrongPart { register: command::VOUT_MODE, found: vout_mode.into() })?;
        self.halves = vout == VoutMode::Half && self.link.read_byte(command::CAPABILITY)? & CAPABILITY_HALF != 0;
        Ok(vout)
    }

    /// STATUS_BYTE is the low byte of STATUS_WORD. VOUT_MODE may be missing or not filled in: with an exponent of zero
    /// the output would be told in whole volts.
    fn identify_by_status(&mut self) -> Result<VoutMode, Error<I::Error>> {
        let word = self.link.read_word(command::STATUS_WORD)?;
        let [low, _] = word.to_le_bytes();
        if word == ABSENT || self.link.read_byte(command::STATUS_BYTE)? != low {
            return Err(Error::WrongPart { register: command::STATUS_WORD, found: word });
        }
        match self.status_byte(command::VOUT_MODE)? {
            None | Some(0) => Ok(VoutMode::Linear(EXPONENT_1_0)),
            Some(mode) => VoutMode::parse(mode)
                .filter(|parsed| *parsed != VoutMode::Half)
                .ok_or(Error::WrongPart { register: command::VOUT_MODE, found: mode.into() }),
        }
    }
}

impl<I: I2c + Send> Driver<I::Error> for Pmbus<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        self.unanswered.clear();
        self.passes = 0;
        self.vout = Some(if self.old { self.identify_by_status()? } else { self.identify_by_revision()? });
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        self.passes = self.passes.wrapping_add(1);
        // A supply that is there has a STATUS_WORD: without it, it is the chip that is missing, not a quantity.
        let word = self.link.read_word(command::STATUS_WORD)?;
        if word == ABSENT {
            return Err(Error::WrongPart { register: command::STATUS_WORD, found: word });
        }
        let misunderstood = self.misunderstood(word)?;
        let faulty = self.faulty_fans(word)?;
        let faults = status::faults(word, |command| self.status_byte(command))?;
        reading.faults = faults.with(Fault::Communication, misunderstood).with(Fault::Fan, word & status::FANS != 0);
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
        let temperatures = [command::READ_TEMPERATURE_1, command::READ_TEMPERATURE_2, command::READ_TEMPERATURE_3];
        for (channel, command) in reading.temperature.iter_mut().zip(temperatures) {
            *channel = self.milli::<Millicelsius>(command)?;
        }
        let speeds = [command::READ_FAN_SPEED_1, command::READ_FAN_SPEED_2];
        for ((channel, command), fault) in reading.fan.iter_mut().zip(speeds).zip(faulty) {
            let rpm = self.number::<Rpm>(command, 1)?;
            *channel = Fan { rpm, duty: Err(Missing::NotPresent), fault };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
