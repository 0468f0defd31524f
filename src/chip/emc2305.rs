//! EMC2301, EMC2302, EMC2303, EMC2305: one, two, three or five fans (SMSC/Microchip DS20006532).
//!
//! Driven in Direct Setting mode: the agent decides the duty, the chip only makes it. Its watchdog (WD_EN, bit 5 of the
//! configuration; bit 6 beside it is the bus time-out) runs out after four seconds without a transfer to the chip and then
//! drives all fans to 100 % until they are set again (section 4.8). What feeds it is a finished tick, as with all chips.
//!
//! The tachometer counts a clock while n edges pass (section 5.18): RPM = 60 * 32768 * (n - 1) * m / (NP * count), with m
//! by the range bits and NP pulses a revolution. We measure five edges at m = 1, which reaches down to 480 rpm. The
//! kernel's emc2305 takes m = 2, the reset value, and two pulses: twice of what is true after we have set the chip up.
//!
//! A fan that starts from 0 gets the chip's spin-up first, and the setting register shows that drive (section 5.7).

use std::ops::RangeInclusive;

use embedded_hal::i2c::I2c;

use super::register::byte;
use super::{
    Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Settings, change_u8, holds, read_be, read_u8,
    verify_u8, write_u8,
};
use crate::bus;
use crate::reading::{ChipReading, Fan, Fault, Faults, Missing, Reading};
use crate::units::{Duty, Rpm};

/// One fan.
pub static EMC2301: Part =
    part("emc2301", "one fan: PWM, tachometer, a watchdog that gives full air", &[0x2f..=0x2f], 1, |d, s| {
        Box::new(Emc2305::new(d.addr(), d, 0x37, 1, s))
    });

/// Two fans.
pub static EMC2302: Part =
    part("emc2302", "two fans: PWM, tachometer, a watchdog that gives full air", &[0x2e..=0x2f], 2, |d, s| {
        Box::new(Emc2305::new(d.addr(), d, 0x36, 2, s))
    });

/// Three fans.
pub static EMC2303: Part =
    part("emc2303", "three fans: PWM, tachometer, a watchdog that gives full air", SELECTED, 3, |d, s| {
        Box::new(Emc2305::new(d.addr(), d, 0x35, 3, s))
    });

/// Five fans.
pub static EMC2305: Part =
    part("emc2305", "five fans: PWM, tachometer, a watchdog that gives full air", SELECTED, 5, |d, s| {
        Box::new(Emc2305::new(d.addr(), d, 0x34, 5, s))
    });

/// By the resistor at ADDR_SEL (table 3.1).
const SELECTED: &[RangeInclusive<u8>] = &[0x2c..=0x2f, 0x4c..=0x4d];

const fn part(
    name: &'static str,
    about: &'static str,
    addresses: &'static [RangeInclusive<u8>],
    fans: usize,
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about,
        addresses,
        certainty: Certainty::Id,
        power: &[],
        temperature: &[],
        fan: CHANNELS.split_at(fans).0,
        drives_fans: true,
        takes: &[],
        watchdog_s: &[4],
        registers: Registers::of(REGISTERS.split_at(COMMON + 3 * fans).0),
        kernel: Kernel { power: &[], temperature: &[], fan: KERNEL.split_at(fans).0 },
        open,
    }
}

const FANS: usize = 5;
const CHANNELS: &[&str] = &["1", "2", "3", "4", "5"];
const KERNEL: &[(&str, &str, u16)] = &[
    ("fan1", "pwm1", 255),
    ("fan2", "pwm2", 255),
    ("fan3", "pwm3", 255),
    ("fan4", "pwm4", 255),
    ("fan5", "pwm5", 255),
];
/// Registers that are not a fan's.
const COMMON: usize = 7;
const REGISTERS: &[Register] = &[
    byte("Configuration", register::CONFIGURATION, ""),
    byte("Fan Status", register::FAN_STATUS, "cleared by being read"),
    byte("Fan Stall Status", register::FAN_STALL_STATUS, "a bit for each fan"),
    byte("Fan Spin Status", register::FAN_SPIN_STATUS, "a bit for each fan"),
    byte("Fan Drive Fail Status", register::FAN_DRIVE_FAIL_STATUS, "a bit for each fan"),
    byte("Product ID", register::PRODUCT_ID, "0x34 to 0x37"),
    byte("Manufacturer ID", register::MANUFACTURER_ID, "0x5d"),
    byte("Fan 1 Setting", register::FAN_SETTING, "duty = raw / 255"),
    byte("Fan 1 Configuration 1", register::FAN_CONFIGURATION_1, ""),
    tach("TACH 1 Reading", register::TACH_READING),
    byte("Fan 2 Setting", of(register::FAN_SETTING, 1), ""),
    byte("Fan 2 Configuration 1", of(register::FAN_CONFIGURATION_1, 1), ""),
    tach("TACH 2 Reading", of(register::TACH_READING, 1)),
    byte("Fan 3 Setting", of(register::FAN_SETTING, 2), ""),
    byte("Fan 3 Configuration 1", of(register::FAN_CONFIGURATION_1, 2), ""),
    tach("TACH 3 Reading", of(register::TACH_READING, 2)),
    byte("Fan 4 Setting", of(register::FAN_SETTING, 3), ""),
    byte("Fan 4 Configuration 1", of(register::FAN_CONFIGURATION_1, 3), ""),
    tach("TACH 4 Reading", of(register::TACH_READING, 3)),
    byte("Fan 5 Setting", of(register::FAN_SETTING, 4), ""),
    byte("Fan 5 Configuration 1", of(register::FAN_CONFIGURATION_1, 4), ""),
    tach("TACH 5 Reading", of(register::TACH_READING, 4)),
];

const fn tach(name: &'static str, at: u8) -> Register {
    Register { name, at, form: Form::Be(2), formula: "rpm = 60 x 32768 x (n - 1) x m / (NP x (raw >> 3))" }
}

/// Register map (table 5.1); those of a fan are given for the first.
mod register {
    pub(super) const CONFIGURATION: u8 = 0x20;
    pub(super) const FAN_STATUS: u8 = 0x24;
    pub(super) const FAN_STALL_STATUS: u8 = 0x25;
    pub(super) const FAN_SPIN_STATUS: u8 = 0x26;
    pub(super) const FAN_DRIVE_FAIL_STATUS: u8 = 0x27;
    pub(super) const FAN_SETTING: u8 = 0x30;
    pub(super) const FAN_CONFIGURATION_1: u8 = 0x32;
    pub(super) const FAN_CONFIGURATION_2: u8 = 0x33;
    pub(super) const FAN_SPIN_UP_CONFIGURATION: u8 = 0x36;
    pub(super) const VALID_TACH_COUNT: u8 = 0x39;
    pub(super) const TACH_READING: u8 = 0x3e;
    pub(super) const PRODUCT_ID: u8 = 0xfd;
    pub(super) const MANUFACTURER_ID: u8 = 0xfe;
}

/// The register of a fan, from 0.
const fn of(register: u8, fan: u8) -> u8 {
    register + 0x10 * fan
}

/// Microchip, formerly SMSC.
const MANUFACTURER: u8 = 0x5d;
/// Configuration: the watchdog runs always, not only once after power-up. The clock and time-out bits are the board's.
const WD_EN: u8 = 1 << 5;
/// Fan Status: the watchdog ran out; bits 2:0, look into one of the three registers behind it.
const WATCH: u8 = 1 << 7;
const DRIVE_FAIL_SPIN_STALL: u8 = 0b111;
/// Fan Configuration 1: the chip's own speed control.
const EN_ALGO: u8 = 1 << 7;
/// No speed control, range 00 (m = 1), edges 01 (five), update time as at reset.
const CONFIGURATION_1: u8 = RANGE << 5 | EDGES << 3 | 0b011;
const RANGE: u8 = 0b00;
const EDGES: u8 = 0b01;
/// Fan Configuration 2 as at reset: EN_RRC (bit 6) clear, so that a drive is there at once and not ramped to.
const CONFIGURATION_2: u8 = 0x28;
/// Spin-up at 100 %, then 60 % as at reset, but for the shortest time, 250 ms: it is over at the next tick.
const SPIN_UP: u8 = 0b110 << 2;
/// The highest there is: a fan is called stalled when it is too slow to be measured, not before.
const VALID_TACH: u8 = 0xff;
/// Passes for which a fan that starts may show another drive than its own: 250 ms at 100 ticks a second, and some.
const STARTING: u8 = 30;

/// 60 s/min, the clock, n - 1 for five edges, m = 1.
const RPM_TIMES_COUNT: u32 = 60 * 32_768 * 4;
const COUNT_SHIFT: u8 = 3;
/// The count ends at 0x1fff; inputs with nothing at them have been seen to read one less.
const COUNT_STOPPED: u16 = 0x1ffe;
const DUTY_FULL: u16 = 0xff;

fn rpm(raw: u16, pulses_per_revolution: u8) -> Reading<Rpm> {
    let count = raw >> COUNT_SHIFT;
    if count >= COUNT_STOPPED {
        return Ok(Rpm(0));
    }
    let divisor = u32::from(pulses_per_revolution) * u32::from(count);
    let rpm = RPM_TIMES_COUNT.checked_div(divisor).ok_or(Missing::Implausible)?;
    Ok(Rpm::try_from(i64::from(rpm))?)
}

fn duty(raw: u8) -> Reading<Duty> {
    Duty::from_ratio(raw.into(), DUTY_FULL).ok_or(Missing::Implausible)
}

/// One fan, as we left it.
#[derive(Clone, Copy)]
struct Channel {
    pulses: u8,
    /// It was driven in the last pass: a stall that was latched while it was not says nothing.
    driven: bool,
    /// It starts: the drive that was set, and the passes left until the register has to show it.
    starting: Option<(u8, u8)>,
}

/// Driver of one EMC2301, EMC2302, EMC2303 or EMC2305.
pub struct Emc2305<I> {
    i2c: I,
    addr: u8,
    product: u8,
    fans: u8,
    watchdog: u8,
    channels: [Channel; FANS],
}

impl<I: I2c> Emc2305<I> {
    fn new(addr: u8, i2c: I, product: u8, fans: u8, settings: &Settings) -> Self {
        let mut channels = [Channel { pulses: 2, driven: false, starting: None }; FANS];
        for (channel, pulses) in channels.iter_mut().zip(&settings.pulses) {
            channel.pulses = *pulses;
        }
        let watchdog = if settings.watchdog_s == 0 { 0 } else { WD_EN };
        Self { i2c, addr, product, fans, watchdog, channels }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }

    fn set(&mut self, register: u8, value: u8) -> Result<(), Error<I::Error>> {
        write_u8(&mut self.i2c, self.addr, register, value)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Emc2305<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, expected) in [(register::MANUFACTURER_ID, MANUFACTURER), (register::PRODUCT_ID, self.product)] {
            let found = self.byte(register)?;
            if found != expected {
                return Err(Error::WrongPart { register, found: found.into() });
            }
        }
        Ok(())
    }

    /// Fans keep the drive that they have, also the watchdog's, which stays until a fan is set.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        for fan in 0..self.fans {
            let drive = self.byte(of(register::FAN_SETTING, fan))?;
            let found = self.byte(of(register::FAN_CONFIGURATION_1, fan))?;
            self.set(of(register::FAN_CONFIGURATION_1, fan), CONFIGURATION_1)?;
            if found & EN_ALGO != 0 {
                self.set(of(register::FAN_SETTING, fan), drive)?;
            }
            self.set(of(register::FAN_CONFIGURATION_2, fan), CONFIGURATION_2)?;
            self.set(of(register::FAN_SPIN_UP_CONFIGURATION, fan), SPIN_UP)?;
            self.set(of(register::VALID_TACH_COUNT, fan), VALID_TACH)?;
        }
        change_u8(&mut self.i2c, self.addr, register::CONFIGURATION, WD_EN, self.watchdog)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let status = self.byte(register::FAN_STATUS)?;
        let mut failing = 0;
        if status & DRIVE_FAIL_SPIN_STALL != 0 {
            for register in [register::FAN_STALL_STATUS, register::FAN_SPIN_STATUS, register::FAN_DRIVE_FAIL_STATUS] {
                failing |= self.byte(register)?;
            }
        }
        for ((fan, ours), channel) in (0..self.fans).zip(&mut self.channels).zip(&mut reading.fan) {
            // A chip that was reset measures in another range.
            let register = of(register::FAN_CONFIGURATION_1, fan);
            verify_u8(&mut self.i2c, self.addr, register, u8::MAX, CONFIGURATION_1)?;
            let tach = read_be(&mut self.i2c, self.addr, of(register::TACH_READING, fan))?;
            let drive = read_u8(&mut self.i2c, self.addr, of(register::FAN_SETTING, fan))?;
            let fault = failing & 1 << fan != 0 && drive != 0 && ours.driven;
            ours.driven = drive != 0;
            ours.starting = ours
                .starting
                .filter(|(set, left)| drive != *set && *left > 0)
                .map(|(set, left)| (set, left.saturating_sub(1)));
            let duty = if ours.starting.is_some() { Err(Missing::Stale) } else { duty(drive) };
            *channel = Fan { rpm: rpm(tach, ours.pulses), duty, fault };
        }
        reading.faults = Faults::NONE.with(Fault::Watchdog, status & WATCH != 0);
        change_u8(&mut self.i2c, self.addr, register::CONFIGURATION, WD_EN, self.watchdog)
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<I::Error>> {
        let fan = u8::try_from(channel).ok().filter(|fan| *fan < self.fans).ok_or(Error::NoChannel)?;
        let register = of(register::FAN_SETTING, fan);
        let raw = u8::try_from(duty.of(DUTY_FULL)).unwrap_or(u8::MAX);
        let before = self.byte(register)?;
        self.i2c.write(self.addr, &[register, raw])?;
        let found = self.byte(register)?;
        let ours = self.channels.get_mut(channel).ok_or(Error::NoChannel)?;
        ours.starting = (before == 0 && raw != 0 && found > raw).then_some((raw, STARTING));
        if ours.starting.is_some() { Ok(()) } else { holds(register, raw.into(), found.into()) }
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x2f;

    fn driver(transactions: &[T]) -> (Emc2305<Mock>, Mock) {
        let mock = Mock::new(transactions);
        let settings = Settings { watchdog_s: 4, pulses: vec![2, 4], ..Settings::default() };
        (Emc2305::new(ADDR, mock.clone(), 0x36, 2, &settings), mock)
    }

    fn byte(register: u8, value: u8) -> T {
        T::write_read(ADDR, vec![register], vec![value])
    }

    fn set(register: u8, value: u8) -> [T; 2] {
        [T::write(ADDR, vec![register, value]), byte(register, value)]
    }

    #[test]
    fn bits_are_the_datasheets() {
        // Tables 5.2 (40h at reset, WD_EN beside DIS_TO), 5.10 (2Bh at reset, m = 2), 5.19 (19h at reset, 500 ms).
        assert_eq!((WD_EN, CONFIGURATION_1, SPIN_UP), (0x20, 0x2b & !(0b11 << 5), 0x19 & !0b11));
        assert_eq!(RPM_TIMES_COUNT / 2, 3_932_160, "equation [3]: two pulses, five edges");
        #[cfg(feature = "ctl")]
        assert_eq!((EMC2305.registers.list().len(), EMC2301.registers.list().len()), (22, 10));
    }

    #[test]
    fn rpm_follows_the_datasheets_formula() {
        for (what, raw, np, expected) in [
            ("3000 rpm", 1311 << 3, 2, Ok(Rpm(2999))),
            ("slowest", 8189 << 3, 2, Ok(Rpm(480))),
            ("16000 rpm", 246 << 3, 2, Ok(Rpm(15_984))),
            ("four pulses", 1311 << 3, 4, Ok(Rpm(1499))),
            ("nothing at the input", 0xfff0, 2, Ok(Rpm(0))),
            ("stands", 0xfff8, 2, Ok(Rpm(0))),
            ("count of zero", 7, 2, Err(Missing::Implausible)),
            ("faster than any fan", 1 << 3, 2, Err(Missing::Implausible)),
            ("no pulses", 1311 << 3, 0, Err(Missing::Implausible)),
        ] {
            assert_eq!(rpm(raw, np), expected, "{what}");
        }
    }

    #[test]
    fn identifies_by_both_ids() {
        let (mut chip, mut mock) = driver(&[byte(0xfe, 0x5d), byte(0xfd, 0x34)]);
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0xfd, found: 0x34 }));
        mock.done();
    }

    #[test]
    fn configure_keeps_each_fans_drive_and_arms_the_watchdog_last() {
        let mut expected = Vec::new();
        for (fan, found) in [(0x00, 0x2b), (0x10, 0xab)] {
            expected.extend([byte(0x30 + fan, 0x99), byte(0x32 + fan, found)]);
            expected.extend(set(0x32 + fan, 0x0b));
            if found & 0x80 != 0 {
                // The chip had controlled the speed itself.
                expected.extend(set(0x30 + fan, 0x99));
            }
            for (register, value) in [(0x33, 0x28), (0x36, 0x18), (0x39, 0xff)] {
                expected.extend(set(register + fan, value));
            }
        }
        expected.push(byte(0x20, 0x40));
        expected.extend(set(0x20, 0x60));
        let (mut chip, mut mock) = driver(&expected);
        assert_eq!(chip.configure(), Ok(()));
        mock.done();
    }

    #[test]
    fn a_watchdog_that_ran_out_is_told_and_a_stall_belongs_to_its_fan() {
        let pass = |status: u8, drive: u8, configuration: u8| {
            let mut all = vec![byte(0x24, status)];
            if status & 0x07 != 0 {
                all.extend([byte(0x25, 0x03), byte(0x26, 0x00), byte(0x27, 0x00)]);
            }
            all.extend([byte(0x32, 0x0b), T::write_read(ADDR, vec![0x3e], vec![0x28, 0xf8]), byte(0x30, drive)]);
            all.extend([byte(0x42, 0x0b), T::write_read(ADDR, vec![0x4e], vec![0xff, 0xf8]), byte(0x40, 0x00)]);
            all.push(byte(0x20, configuration));
            all
        };
        let mut all = pass(0x81, 0xff, 0x40);
        all.extend(set(0x20, 0x60));
        all.extend(pass(0x01, 0xff, 0x60));
        let (mut chip, mut mock) = driver(&all);
        let mut reading = EMC2302.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.faults, Faults::NONE.with(Fault::Watchdog, true));
        let first = Fan { rpm: Ok(Rpm(2999)), duty: Ok(Duty::FULL), fault: false };
        let second = Fan { rpm: Ok(Rpm(0)), duty: Ok(Duty::OFF), fault: false };
        assert_eq!(reading.fan, [first, second], "what was latched before the fan was driven says nothing");
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.fan, [Fan { fault: true, ..first }, second], "one that is not driven does not stall");
        assert_eq!(reading.faults, Faults::NONE);
        mock.done();
    }

    #[test]
    fn one_that_was_reset_is_not_believed() {
        let (mut chip, mut mock) = driver(&[byte(0x24, 0x00), byte(0x32, 0x2b)]);
        let reset = Error::ReadBack { register: 0x32, written: 0x0b, found: 0x2b };
        assert_eq!(chip.read(&mut EMC2302.missing(Missing::Stale)), Err(reset));
        mock.done();
    }

    #[test]
    fn a_fan_that_starts_shows_its_spin_up_for_a_while() {
        let [write, _] = set(0x30, 0x40);
        let rest = |drive: u8| {
            let mut all = vec![byte(0x24, 0), byte(0x32, 0x0b), T::write_read(ADDR, vec![0x3e], vec![0x28, 0xf8])];
            all.extend([byte(0x30, drive), byte(0x42, 0x0b), T::write_read(ADDR, vec![0x4e], vec![0x28, 0xf8])]);
            all.extend([byte(0x40, 0x80), byte(0x20, 0x60)]);
            all
        };
        let mut all = vec![byte(0x30, 0x00), write.clone(), byte(0x30, 0xff)];
        all.extend(rest(0x99));
        all.extend(rest(0x40));
        // Not from 0: a drive that does not hold is one.
        all.extend([byte(0x30, 0x80), write, byte(0x30, 0xff)]);
        let (mut chip, mut mock) = driver(&all);
        let quarter = Duty::saturating(2510);
        let mut reading = EMC2302.missing(Missing::Stale);
        assert_eq!(chip.set_duty(0, quarter), Ok(()));
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.fan[0].duty, Err(Missing::Stale));
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.fan[0].duty, Ok(quarter));
        assert_eq!(chip.set_duty(0, quarter), Err(Error::ReadBack { register: 0x30, written: 0x40, found: 0xff }));
        assert_eq!(chip.set_duty(2, quarter), Err(Error::NoChannel));
        mock.done();
    }
}
