//! MAX31785: six fans, PWM out and tachometer in, and eleven temperatures (Maxim 19-5703, PMBus).
//!
//! Fans are pages 0 to 5, temperatures pages 6 to 16, the last of them the part's own. Driven in PWM mode
//! (FAN_CONFIG_1_2): the agent decides the duty. What keeps the rig cool when the agent is gone is TSFO
//! (MFR_FAN_CONFIG, table 26): as long as it is clear, a fan whose FAN_COMMAND_1 was not written for ten seconds goes
//! to 100 %, and stays there until the next write. So each pass writes FAN_COMMAND_1 again, and the bus thread makes a
//! pass only when control has finished a tick. The part does not say that this time ran out, so neither does the
//! driver.
//!
//! A fan that is not enabled is driven to a standstill and left alone until it is given a duty. A fault of a fan stays
//! until the part loses power. The kernel's max31785 found that the part misses an access now and then that follows
//! another too closely: 250 us are kept between any two. That driver numbers the enabled fans without a gap; the names
//! here are right where the boards' fans are the first ones. It takes a drive out of 255, and shows it out of 100.

use std::thread;
use std::time::Duration;

use embedded_hal::i2c::I2c;

use super::pmbus::format::Direct;
use super::pmbus::link::Link;
use super::pmbus::maxim::{self, Sensors};
use super::pmbus::{byte, command, status, word};
use super::{Certainty, Driver, Error, Kernel, Part, Registers, Settings, holds};
use crate::reading::{ChipReading, Fan, Fault, Faults, Missing, Reading};
use crate::units::{Duty, Rpm};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "max31785",
    about: "six fans: PWM, tachometer, full air when it is forgotten; eleven temperatures",
    addresses: &[0x52..=0x55],
    certainty: Certainty::Id,
    power: &[],
    temperature: &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"],
    fan: &["1", "2", "3", "4", "5", "6"],
    drives_fans: true,
    takes: &[],
    watchdog_s: &[10],
    registers: Registers::of(&[
        byte("PAGE", command::PAGE, "the registers below are those of this page"),
        byte("FAN_CONFIG_1_2", command::FAN_CONFIG_1_2, "bit 7: enabled, bit 6: RPM, bits 5:4: pulses - 1"),
        word("FAN_COMMAND_1", command::FAN_COMMAND_1, "duty = raw x 0.01 %, negative: automatic"),
        word("STATUS_WORD", command::STATUS_WORD, ""),
        byte("STATUS_MFR_SPECIFIC", command::STATUS_MFR_SPECIFIC, ""),
        byte("STATUS_FANS_1_2", command::STATUS_FANS_1_2, "bit 7: fault, bit 5: warning"),
        word("READ_TEMPERATURE_1", command::READ_TEMPERATURE_1, "T = raw x 0.01 °C, signed"),
        word("READ_FAN_SPEED_1", command::READ_FAN_SPEED_1, "rpm = raw"),
        byte("MFR_ID", command::MFR_ID, "0x4d"),
        byte("MFR_MODEL", command::MFR_MODEL, "0x53"),
        word("MFR_REVISION", command::MFR_REVISION, "0x3030, 0x3040 or 0x3061"),
        word("MFR_FAN_CONFIG", MFR_FAN_CONFIG, "bit 9: TSFO, bit 8: TACHO"),
        word("MFR_READ_FAN_PWM", MFR_READ_FAN_PWM, "duty = raw x 0.01 %"),
    ]),
    kernel: Kernel {
        power: &[],
        temperature: &[
            "temp1", "temp2", "temp3", "temp4", "temp5", "temp6", "temp7", "temp8", "temp9", "temp10", "temp11",
        ],
        fan: &[
            ("fan1", "pwm1", 100),
            ("fan2", "pwm2", 100),
            ("fan3", "pwm3", 100),
            ("fan4", "pwm4", 100),
            ("fan5", "pwm5", 100),
            ("fan6", "pwm6", 100),
        ],
    },
    open: |device, settings| Box::new(Max31785::new(device.addr(), device, settings, pause)),
};

const FANS: u8 = 6;
/// MFR_MODEL.
const MODEL: u8 = 0x53;
/// MFR_REVISION of the MAX31785, the MAX31785A and the MAX31785B.
const REVISIONS: [u16; 3] = [0x3030, 0x3040, 0x3061];

/// The maker's own command codes.
const MFR_FAN_CONFIG: u8 = 0xf1;
const MFR_READ_FAN_PWM: u8 = 0xf3;

/// FAN_CONFIG_1_2 (table 13): bit 6 clear is PWM mode; bits 5:4 are the pulses per revolution less one.
const ENABLED: u8 = 1 << 7;
const PULSES_SHIFT: u8 = 4;
const PULSES_MAX: u8 = 4;
/// MFR_FAN_CONFIG: 1 = the last duty holds, however long ago it was set.
const TSFO: u16 = 1 << 9;
/// FAN_COMMAND_1 in PWM mode and MFR_READ_FAN_PWM (tables 3 and 14): percent.
const PERCENT: Direct = Direct { m: 1, b: 0, r: 2 };
/// Everything above is full air too, until it is negative.
const FULL: u16 = 10_000;
/// STATUS_FANS_1_2: fan 1 is faulty, or about to be.
const FAN_FAULT: u8 = 1 << 7;
const FAN_WARNING: u8 = 1 << 5;

/// What the part is left alone for between two accesses.
fn pause() {
    thread::sleep(Duration::from_micros(250));
}

/// FAN_CONFIG_1_2 of a fan of so many pulses per revolution, as far as the part can count them.
fn fan_config(pulses: u8) -> u8 {
    ENABLED | (counted(pulses) - 1) << PULSES_SHIFT
}

/// The pulses per revolution that the part is told.
fn counted(pulses: u8) -> u8 {
    pulses.clamp(1, PULSES_MAX)
}

/// FAN_COMMAND_1 for a duty.
fn fan_command(duty: Duty) -> u16 {
    PERCENT.encode(duty.hundredths().into(), 2).unwrap_or(FULL)
}

/// READ_FAN_SPEED_1, where the part was told the truth about the pulses; else in proportion.
fn rpm(raw: u16, pulses: u8) -> Reading<Rpm> {
    let rpm = i64::from(raw.cast_signed()) * i64::from(counted(pulses));
    Ok(Rpm::try_from(rpm.checked_div(pulses.into()).ok_or(Missing::Implausible)?)?)
}

/// Driver of one MAX31785.
struct Max31785<I> {
    link: Link<I>,
    pulses: [u8; FANS as usize],
    /// FAN_COMMAND_1 of each fan as it was set last; `None` for one that is not enabled.
    commands: [Option<u16>; FANS as usize],
    sensors: Sensors,
}

impl<I: I2c> Max31785<I> {
    fn new(addr: u8, i2c: I, settings: &Settings, gap: fn()) -> Self {
        let mut pulses = [2; FANS as usize];
        for (ours, board) in pulses.iter_mut().zip(&settings.pulses) {
            *ours = *board;
        }
        let link = Link::new(addr, i2c, false).with_gap(gap);
        Self { link, pulses, commands: [None; FANS as usize], sensors: Sensors::default() }
    }

    fn byte(&mut self, page: u8, command: u8) -> Result<u8, Error<I::Error>> {
        self.link.page(page)?.read_byte(command)
    }

    fn word(&mut self, page: u8, command: u8) -> Result<u16, Error<I::Error>> {
        self.link.page(page)?.read_word(command)
    }

    /// Takes a fan over: full air when it is forgotten, PWM mode, and this command. `config` is its FAN_CONFIG_1_2.
    fn take_over(&mut self, page: u8, config: u8, pulses: u8, command: u16) -> Result<(), Error<I::Error>> {
        let wanted = fan_config(pulses);
        let options = self.word(page, MFR_FAN_CONFIG)?;
        if options & TSFO != 0 {
            let changed = self.set_options(page, config, options & !TSFO);
            // It runs again also where something failed, then as it was found; the first error is told.
            let back = if changed.is_ok() { wanted } else { config };
            let enabled = self.link.page(page).and_then(|link| link.write_byte(command::FAN_CONFIG_1_2, back));
            changed.and(enabled)?;
        } else if config != wanted {
            self.link.page(page)?.write_byte(command::FAN_CONFIG_1_2, wanted)?;
        }
        self.link.page(page)?.write_word(command::FAN_COMMAND_1, command)
    }

    /// Sets MFR_FAN_CONFIG. The datasheet wants the fan disabled for this; its momentum carries it over.
    fn set_options(&mut self, page: u8, config: u8, options: u16) -> Result<(), Error<I::Error>> {
        self.link.page(page)?.write_byte(command::FAN_CONFIG_1_2, config & !ENABLED)?;
        self.link.page(page)?.write_word(MFR_FAN_CONFIG, options)
    }

    /// One fan that is enabled; with the same command written again, its ten seconds start anew.
    fn fan(&mut self, page: u8, pulses: u8, last: u16) -> Result<(Fan, u8), Error<I::Error>> {
        // A part that was reset, or set back by somebody else, does not obey us.
        let config = self.byte(page, command::FAN_CONFIG_1_2)?;
        holds(command::FAN_CONFIG_1_2, fan_config(pulses).into(), config.into())?;
        holds(command::FAN_COMMAND_1, last, self.word(page, command::FAN_COMMAND_1)?)?;
        let status = self.byte(page, command::STATUS_FANS_1_2)?;
        let speed = self.word(page, command::READ_FAN_SPEED_1)?;
        self.link.page(page)?.send_word(command::FAN_COMMAND_1, last)?;
        let duty = Ok(Duty::saturating(last.into()));
        Ok((Fan { rpm: rpm(speed, pulses), duty, fault: status & FAN_FAULT != 0 }, status))
    }
}

impl<I: I2c + Send> Driver<I::Error> for Max31785<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        self.sensors = Sensors::default();
        maxim::identify(&mut self.link, MODEL)?;
        let found = self.link.read_word(command::MFR_REVISION)?;
        let known = REVISIONS.contains(&found);
        if known { Ok(()) } else { Err(Error::WrongPart { register: command::MFR_REVISION, found }) }
    }

    /// Fans keep the drive that they have, also where the part gave them full air by itself: control takes it from
    /// there.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        for (page, pulses) in (0..FANS).zip(self.pulses) {
            let config = self.byte(page, command::FAN_CONFIG_1_2)?;
            let mut command = None;
            if config & ENABLED != 0 {
                let drive = fan_command(Duty::saturating(self.word(page, MFR_READ_FAN_PWM)?.into()));
                self.take_over(page, config, pulses, drive)?;
                command = Some(drive);
            }
            if let Some(ours) = self.commands.get_mut(usize::from(page)) {
                *ours = command;
            }
        }
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let mut faults = Faults::NONE;
        for (((page, channel), pulses), last) in (0..FANS).zip(&mut reading.fan).zip(self.pulses).zip(self.commands) {
            *channel = Fan::missing(Missing::NotPresent);
            if let Some(last) = last {
                let (fan, status) = self.fan(page, pulses, last)?;
                *channel = fan;
                faults = faults.with(Fault::Fan, status & (FAN_FAULT | FAN_WARNING) != 0);
            }
        }
        for (index, (page, temperature)) in (FANS..).zip(&mut reading.temperature).enumerate() {
            let raw = self.word(page, command::READ_TEMPERATURE_1)?;
            *temperature = self.sensors.convert(index, raw);
            if *temperature != Err(Missing::NotPresent) {
                let word = self.word(page, command::STATUS_WORD)?;
                faults = faults.with(Fault::Temperature, word & status::TEMPERATURE != 0);
            }
        }
        reading.faults = faults;
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<I::Error>> {
        let page = u8::try_from(channel).map_err(|_| Error::NoChannel)?;
        let pulses = *self.pulses.get(channel).ok_or(Error::NoChannel)?;
        let ours = self.commands.get(channel).copied().ok_or(Error::NoChannel)?;
        let command = fan_command(duty);
        if ours.is_some() {
            self.link.page(page)?.write_word(command::FAN_COMMAND_1, command)?;
        } else {
            let config = self.byte(page, command::FAN_CONFIG_1_2)?;
            self.take_over(page, config, pulses, command)?;
        }
        if let Some(ours) = self.commands.get_mut(channel) {
            *ours = Some(command);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
