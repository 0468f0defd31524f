//! MAX31790: six fans, PWM out and tachometer in (Maxim 19-6540).
//!
//! Driven in PWM mode: the agent decides the duty, the chip only makes it. Its I2C watchdog is what keeps the rig cool when
//! the agent is gone: armed at configuration, restarted by any transfer to the chip, and when it runs out the chip drives
//! all outputs to 100 % by itself. The bus thread talks to the chip only when control has finished a tick, so what feeds
//! the watchdog is a finished tick and nothing else.
//!
//! The tachometer counts cycles of an 8192 Hz clock over SR pulses: with NP pulses a revolution
//! RPM = 60 * SR * 8192 / (NP * count). The kernel's max31790 shifts the register one bit less, which is NP = 2.
//! There is no id register: the part is known by the bits of its 11-bit and 9-bit registers that always read as zero.

use embedded_hal::i2c::I2c;

use super::register::{byte, word};
use super::{Certainty, Driver, Error, Kernel, Part, Registers, Settings, holds, read_be, read_u8, write_be, write_u8};
use crate::reading::{ChipReading, Fan, Fault, Faults, Missing, Reading};
use crate::units::{Duty, Rpm};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "max31790",
    about: "six fans: PWM, tachometer, a watchdog that gives full air",
    addresses: &[0x20..=0x2f],
    certainty: Certainty::Shape,
    power: &[],
    temperature: &[],
    fan: &["1", "2", "3", "4", "5", "6"],
    drives_fans: true,
    takes: &[],
    watchdog_s: &[10, 5, 30],
    registers: Registers::of(&[
        byte("Global Configuration", register::GLOBAL_CONFIGURATION, ""),
        byte("Fan 1 Configuration", register::FAN_CONFIGURATION, ""),
        byte("Fan 1 Dynamics", register::FAN_DYNAMICS, ""),
        byte("Fan Fault Status 1", register::FAN_FAULT_STATUS_1, "a bit for each fan"),
        word("TACH 1 Count", register::TACH_COUNT, "rpm = 60 x SR x 8192 / (NP x (raw >> 5)), all ones: stands"),
        word("TACH 2 Count", register::TACH_COUNT + 2, ""),
        word("TACH 3 Count", register::TACH_COUNT + 4, ""),
        word("TACH 4 Count", register::TACH_COUNT + 6, ""),
        word("TACH 5 Count", register::TACH_COUNT + 8, ""),
        word("TACH 6 Count", register::TACH_COUNT + 10, ""),
        word("PWMOUT 1 Target Duty Cycle", register::PWMOUT_TARGET_DUTY_CYCLE, "duty = (raw >> 7) / 511"),
        word("PWMOUT 2 Target Duty Cycle", register::PWMOUT_TARGET_DUTY_CYCLE + 2, ""),
        word("PWMOUT 3 Target Duty Cycle", register::PWMOUT_TARGET_DUTY_CYCLE + 4, ""),
        word("PWMOUT 4 Target Duty Cycle", register::PWMOUT_TARGET_DUTY_CYCLE + 6, ""),
        word("PWMOUT 5 Target Duty Cycle", register::PWMOUT_TARGET_DUTY_CYCLE + 8, ""),
        word("PWMOUT 6 Target Duty Cycle", register::PWMOUT_TARGET_DUTY_CYCLE + 10, ""),
    ]),
    kernel: Kernel {
        power: &[],
        temperature: &[],
        fan: &[
            ("fan1", "pwm1", 255),
            ("fan2", "pwm2", 255),
            ("fan3", "pwm3", 255),
            ("fan4", "pwm4", 255),
            ("fan5", "pwm5", 255),
            ("fan6", "pwm6", 255),
        ],
    },
    open: |device, settings| Box::new(Max31790::new(device.addr(), device, settings)),
};

const FANS: u8 = 6;

/// Register map (datasheet, "Register Map"); those of a fan are given for the first.
mod register {
    pub(super) const GLOBAL_CONFIGURATION: u8 = 0x00;
    pub(super) const FAN_CONFIGURATION: u8 = 0x02;
    pub(super) const FAN_DYNAMICS: u8 = 0x08;
    pub(super) const FAN_FAULT_STATUS_1: u8 = 0x11;
    pub(super) const TACH_COUNT: u8 = 0x18;
    pub(super) const PWMOUT_DUTY_CYCLE: u8 = 0x30;
    pub(super) const PWMOUT_TARGET_DUTY_CYCLE: u8 = 0x40;
    pub(super) const TACH_TARGET_COUNT: u8 = 0x50;
}

/// Global Configuration bits.
mod global {
    /// 1 = standby: outputs off.
    pub(super) const STANDBY: u8 = 1 << 7;
    /// Bits 2:1, I2C watchdog: 00 off, 01 5 s, 10 10 s, 11 30 s.
    pub(super) const WATCHDOG_SHIFT: u8 = 1;
    /// 1 = the watchdog ran out; outputs stay at 100 % until it is written to 0.
    pub(super) const WATCHDOG_STATUS: u8 = 1;
    /// Bit 5 (bus time-out disable) and bit 3 (external clock) belong to the board and are left as they are.
    pub(super) const KEPT: u8 = 1 << 5 | 1 << 3;
}

/// What the watchdog's drive is, and what its end must not take away: 100 %.
const PWM_FULL: u16 = DUTY_BITS;

/// Fan Configuration bits.
mod fan {
    /// 1 = RPM mode: the part chases a count; 0 = PWM mode.
    pub(super) const RPM_MODE: u8 = 1 << 7;
    pub(super) const SPIN_UP: u8 = 0b11 << 5;
    /// 1 = the channel is measured and not driven.
    pub(super) const MONITOR_ONLY: u8 = 1 << 4;
    pub(super) const TACH_INPUT_ENABLE: u8 = 1 << 3;
    /// 1 = the PWMOUT pin is another tachometer's input.
    pub(super) const TACH_ON_PWMOUT: u8 = 1 << 0;
    /// The spin-up and the pin belong to the board and stay as they are. A channel that is only measured is driven from
    /// its first duty on.
    pub(super) const KEPT: u8 = SPIN_UP | MONITOR_ONLY | TACH_ON_PWMOUT;
}

/// Fan Dynamics: speed range in bits 7:5, rate of change in bits 4:2.
const SPEED_RANGE_SHIFT: u8 = 5;
/// SR = 4 pulses, code 010: covers 480 rpm (count 2047) upwards at two pulses a revolution.
const SPEED_RANGE: u8 = 0b010;
/// Code 000: the output follows its target at once. At the reset value (011) full air takes 4 s to arrive, the
/// watchdog's too; how fast a drive may change is control's business.
const RATE_OF_CHANGE: u8 = 0b000 << 2;
/// In PWM mode a fan is called faulty when its count passes the target count. The longest count but one: only a fan
/// that stands, whose count is the longest, is.
const TACH_TARGET: u16 = (COUNT_STOPPED - 1) << COUNT_SHIFT;
/// Pulses that are counted over with that code.
const SR: u32 = 4;
const DYNAMICS: u8 = SPEED_RANGE << SPEED_RANGE_SHIFT | RATE_OF_CHANGE;

/// Clock that the tachometer counts, Hz.
const TACH_HZ: u32 = 8192;
/// The 11-bit count sits in bits 15:5.
const COUNT_SHIFT: u8 = 5;
/// The count when no pulse came in time.
const COUNT_STOPPED: u16 = 0x7ff;
/// The 9-bit duty sits in bits 15:7.
const DUTY_SHIFT: u8 = 7;
const DUTY_FULL: u16 = 0x1ff;
const DUTY_BITS: u16 = DUTY_FULL << DUTY_SHIFT;

/// RPM = 60 * SR * 8192 / (NP * count).
fn rpm(raw: u16, pulses_counted: u32, pulses_per_revolution: u8) -> Reading<Rpm> {
    let count = raw >> COUNT_SHIFT;
    if count == COUNT_STOPPED {
        return Ok(Rpm(0));
    }
    let divisor = u32::from(pulses_per_revolution) * u32::from(count);
    let rpm = (60 * pulses_counted * TACH_HZ).checked_div(divisor).ok_or(Missing::Implausible)?;
    Ok(Rpm::try_from(i64::from(rpm))?)
}

/// 511 is 100 %.
fn duty(raw: u16) -> Reading<Duty> {
    Duty::from_ratio(raw >> DUTY_SHIFT, DUTY_FULL).ok_or(Missing::Implausible)
}

/// The code for a watchdog time, off for any that the chip has not got.
const fn watchdog_code(seconds: u8) -> u8 {
    match seconds {
        5 => 0b01,
        10 => 0b10,
        30 => 0b11,
        _ => 0b00,
    }
}

/// What is known of one fan.
#[derive(Clone, Copy)]
struct Channel {
    pulses: u8,
    /// Fan Configuration as it was left.
    configuration: u8,
    /// PWMOUT Target Duty Cycle as it was set last; `None` until then.
    target: Option<u16>,
}

impl Channel {
    /// The target becomes the fan's drive.
    const fn drives(self) -> bool {
        self.configuration & (fan::MONITOR_ONLY | fan::TACH_ON_PWMOUT) == 0
    }
}

/// Driver of one MAX31790.
pub struct Max31790<I> {
    i2c: I,
    addr: u8,
    watchdog: u8,
    channels: [Channel; FANS as usize],
    /// The watchdog had run out when the chip was configured; told with the next reading.
    ran_out: bool,
}

impl<I: I2c> Max31790<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        let mut channels = [Channel { pulses: 2, configuration: 0, target: None }; FANS as usize];
        for (ours, board) in channels.iter_mut().zip(&settings.pulses) {
            ours.pulses = *board;
        }
        Self {
            i2c,
            addr,
            watchdog: watchdog_code(settings.watchdog_s) << global::WATCHDOG_SHIFT,
            channels,
            ran_out: false,
        }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }

    fn word(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }

    /// Sets a fan's target and makes sure that it holds.
    fn set_target(&mut self, fan: u8, target: u16) -> Result<(), Error<I::Error>> {
        write_be(&mut self.i2c, self.addr, register::PWMOUT_TARGET_DUTY_CYCLE + 2 * fan, target)
    }

    fn set_configuration(&mut self, fan: u8, configuration: u8) -> Result<(), Error<I::Error>> {
        write_u8(&mut self.i2c, self.addr, register::FAN_CONFIGURATION + fan, configuration)
    }

    /// PWM mode. The target of a fan in RPM mode is a count, and what its target duty holds may be years old, or
    /// nothing: the drive that it has goes there before the mode changes, so that it is there at once, and again
    /// after, because the part may have changed it until then.
    fn pwm_mode(&mut self, fan: u8) -> Result<(u8, Option<u16>), Error<I::Error>> {
        let found = self.byte(register::FAN_CONFIGURATION + fan)?;
        let configuration = found & fan::KEPT | fan::TACH_INPUT_ENABLE;
        if found & fan::RPM_MODE == 0 {
            self.set_configuration(fan, configuration)?;
            return Ok((configuration, None));
        }
        let drive = self.word(register::PWMOUT_DUTY_CYCLE + 2 * fan)? & DUTY_BITS;
        let [high, low] = drive.to_be_bytes();
        self.i2c.write(self.addr, &[register::PWMOUT_TARGET_DUTY_CYCLE + 2 * fan, high, low])?;
        self.set_configuration(fan, configuration)?;
        self.set_target(fan, drive)?;
        Ok((configuration, Some(drive)))
    }

    fn expect_zero(&mut self, register: u8, bits: u16) -> Result<(), Error<I::Error>> {
        let found = self.word(register)?;
        if found & bits == 0 { Ok(()) } else { Err(Error::WrongPart { register, found }) }
    }
}

impl<I: I2c + Send> Driver<I::Error> for Max31790<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for fan in 0..FANS {
            self.expect_zero(register::TACH_COUNT + 2 * fan, (1 << COUNT_SHIFT) - 1)?;
            self.expect_zero(register::PWMOUT_TARGET_DUTY_CYCLE + 2 * fan, (1 << DUTY_SHIFT) - 1)?;
        }
        Ok(())
    }

    /// Outputs keep their drive while this runs, also the watchdog's where that had run out: control takes it from there.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        for (fan, mut channel) in (0..FANS).zip(self.channels) {
            (channel.configuration, channel.target) = self.pwm_mode(fan)?;
            write_u8(&mut self.i2c, self.addr, register::FAN_DYNAMICS + fan, DYNAMICS)?;
            write_be(&mut self.i2c, self.addr, register::TACH_TARGET_COUNT + 2 * fan, TACH_TARGET)?;
            if let Some(ours) = self.channels.get_mut(usize::from(fan)) {
                *ours = channel;
            }
        }
        let global = self.byte(register::GLOBAL_CONFIGURATION)?;
        if global & global::WATCHDOG_STATUS != 0 {
            self.ran_out = true;
            for (fan, channel) in (0..FANS).zip(&mut self.channels) {
                channel.target = Some(PWM_FULL);
                write_be(&mut self.i2c, self.addr, register::PWMOUT_TARGET_DUTY_CYCLE + 2 * fan, PWM_FULL)?;
            }
        }
        let kept = global & global::KEPT;
        write_u8(&mut self.i2c, self.addr, register::GLOBAL_CONFIGURATION, kept | self.watchdog)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let global = self.byte(register::GLOBAL_CONFIGURATION)?;
        let faulty = self.byte(register::FAN_FAULT_STATUS_1)?;
        for ((fan, channel), ours) in (0..FANS).zip(&mut reading.fan).zip(self.channels) {
            // A chip that was reset counts no pulses, which would read as fans that stand.
            let dynamics = read_u8(&mut self.i2c, self.addr, register::FAN_DYNAMICS + fan)?;
            holds(register::FAN_DYNAMICS + fan, DYNAMICS.into(), dynamics.into())?;
            let tach = read_be(&mut self.i2c, self.addr, register::TACH_COUNT + 2 * fan)?;
            let target = read_be(&mut self.i2c, self.addr, register::PWMOUT_TARGET_DUTY_CYCLE + 2 * fan)?;
            let fault = faulty & 1 << fan != 0;
            let duty = if ours.drives() { duty(target) } else { Err(Missing::NotPresent) };
            *channel = Fan { rpm: rpm(tach, SR, ours.pulses), duty, fault };
            if fault {
                // The bit stays until the fan is written to; it comes back with the next count if it is still true.
                // What somebody else wrote there is not made to last.
                self.set_target(fan, ours.target.unwrap_or(target))?;
            }
        }
        let ran_out = global & global::WATCHDOG_STATUS != 0 || std::mem::take(&mut self.ran_out);
        reading.faults = Faults::NONE.with(Fault::Watchdog, ran_out).with(Fault::Off, global & global::STANDBY != 0);
        if global & !global::KEPT != self.watchdog {
            // Ran out, put to standby or reset behind our back: the outputs obey again only after this.
            write_u8(&mut self.i2c, self.addr, register::GLOBAL_CONFIGURATION, global & global::KEPT | self.watchdog)?;
        }
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<I::Error>> {
        let fan = u8::try_from(channel).ok().filter(|fan| *fan < FANS).ok_or(Error::NoChannel)?;
        let mut ours = *self.channels.get(channel).ok_or(Error::NoChannel)?;
        // Where the pin is an input, nothing can be driven; the other fans can.
        let input = ours.configuration & fan::TACH_ON_PWMOUT;
        holds(register::FAN_CONFIGURATION + fan, 0, input.into())?;
        let raw = duty.of(DUTY_FULL) << DUTY_SHIFT;
        self.set_target(fan, raw)?;
        ours.target = Some(raw);
        if !ours.drives() {
            ours.configuration &= !fan::MONITOR_ONLY;
            self.set_configuration(fan, ours.configuration)?;
        }
        if let Some(channel) = self.channels.get_mut(channel) {
            *channel = ours;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
