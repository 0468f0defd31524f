//! AMC6821: one fan and two temperatures (Texas Instruments, SBAS386).
//!
//! Driven in software DCY mode: the duty register is the output. Polarity, PWM range and limits are the board's. The chip's
//! own spin-up is switched off, so that the output is what was ordered; its THERM input and limit stay as they are and
//! drive the fan to full speed without us.
//!
//! The tachometer counts 100 kHz over two or, with PSPR set, four pulses: RPM = 60 * 100000 * counted / (NP * count), NP
//! pulses a revolution. Temperatures are taken in whole degrees, as the kernel's amc6821 takes them.
//! There is no watchdog: when the agent is gone the output stays as it is, until the service's own way out sets it.

use embedded_hal::i2c::I2c;

use super::register::byte;
use super::{
    Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Settings, Sticky, change_u8, read_u8, verify_u8,
    write_u8,
};
use crate::reading::{ChipReading, Fan, Fault, Faults, Missing, Reading};
use crate::units::{Duty, Millicelsius, Rpm};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "amc6821",
    about: "one fan: PWM, tachometer; its own temperature and a remote one",
    addresses: &[0x18..=0x1a, 0x2c..=0x2e, 0x4c..=0x4e],
    certainty: Certainty::Id,
    power: &[],
    temperature: &["local", "remote"],
    fan: &["1"],
    drives_fans: true,
    takes: &[],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("Configuration 1", register::CONFIGURATION_1, ""),
        byte("Configuration 2", register::CONFIGURATION_2, ""),
        byte("Status 1", register::STATUS_1, "cleared by being read"),
        byte("Status 2", register::STATUS_2, "cleared by being read"),
        byte("Configuration 4", register::CONFIGURATION_4, ""),
        Register {
            name: "TACH-DATA",
            at: register::TACH_DATA,
            form: Form::Le(2),
            formula: "rpm = 60 x 100000 x counted pulses / (NP x raw), all ones: stands",
        },
        byte("Local-Temp-DATA-HByte", register::LOCAL_TEMPERATURE, "T = raw C, signed"),
        byte("Remote-Temp-DATA-HByte", register::REMOTE_TEMPERATURE, "T = raw C, signed"),
        byte("Fan Characteristics", register::FAN_CHARACTERISTICS, ""),
        byte("DCY", register::DCY, "duty = raw / 255"),
        byte("Device ID", register::DEVICE_ID, "0x21"),
        byte("Company ID", register::COMPANY_ID, "0x49"),
    ]),
    kernel: Kernel { power: &[], temperature: &["temp1", "temp2"], fan: &[("fan1", "pwm1", 255)] },
    open: |device, settings| Box::new(Amc6821::new(device.addr(), device, settings)),
};

/// Register map.
mod register {
    pub(super) const CONFIGURATION_1: u8 = 0x00;
    pub(super) const CONFIGURATION_2: u8 = 0x01;
    pub(super) const STATUS_1: u8 = 0x02;
    pub(super) const STATUS_2: u8 = 0x03;
    pub(super) const CONFIGURATION_4: u8 = 0x04;
    pub(super) const TACH_DATA: u8 = 0x08;
    pub(super) const LOCAL_TEMPERATURE: u8 = 0x0a;
    pub(super) const REMOTE_TEMPERATURE: u8 = 0x0b;
    pub(super) const FAN_CHARACTERISTICS: u8 = 0x20;
    pub(super) const DCY: u8 = 0x22;
    pub(super) const DEVICE_ID: u8 = 0x3d;
    pub(super) const COMPANY_ID: u8 = 0x3e;
}

const DEVICE: u8 = 0x21;
const COMPANY: u8 = 0x49;
/// Configuration 1: START, and FDRC1:FDRC0 = 00 for the software DCY mode.
const START: u8 = 1;
const FDRC: u8 = 0b11 << 5;
/// Configuration 2: the output and the tachometer are on; whether the tachometer is read at any duty (four wires).
const PWM_EN: u8 = 1;
const TACH_MODE: u8 = 1 << 1;
const TACH_EN: u8 = 1 << 2;
/// Without TACH_MODE the tachometer is not read below a duty of 7 %, and keeps its last count.
const TACH_LEAST_DUTY: u8 = 18;
/// Configuration 4: set, as the kernel's driver sets it, for normal operation; four pulses are counted, not two.
const MODE: u8 = 1 << 7;
const PSPR: u8 = 1 << 6;
/// Fan Characteristics: no spin-up.
const FSPD: u8 = 1 << 7;
/// Status 1: the fan is slower than its limit; the remote sensor fails; the remote THERM limit was passed.
const FANS: u8 = 1 << 1;
const RTF: u8 = 1 << 5;
const R_THERM: u8 = 1 << 4;
/// Status 2: the remote and local critical limits and the local THERM limit were passed.
const TOO_HOT: u8 = 1 << 3 | 1 << 4 | 1 << 6;

/// 60 s/min and the clock.
const RPM_TIMES_COUNT: u32 = 60 * 100_000;
const COUNT_STOPPED: u16 = u16::MAX;
const DUTY_FULL: u16 = 0xff;

fn rpm(count: u16, counted: u8, pulses_per_revolution: u8) -> Reading<Rpm> {
    if count == COUNT_STOPPED {
        return Ok(Rpm(0));
    }
    let divisor = u32::from(pulses_per_revolution) * u32::from(count);
    let rpm = (RPM_TIMES_COUNT * u32::from(counted)).checked_div(divisor).ok_or(Missing::Implausible)?;
    Ok(Rpm::try_from(i64::from(rpm))?)
}

fn celsius(raw: u8) -> Reading<Millicelsius> {
    Ok(Millicelsius(i32::from(raw.cast_signed()) * 1000))
}

/// Driver of one AMC6821.
pub struct Amc6821<I> {
    i2c: I,
    addr: u8,
    pulses: u8,
    /// The fan was driven in the last pass.
    driven: bool,
    open: Sticky,
    slow: Sticky,
}

impl<I: I2c> Amc6821<I> {
    fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        let pulses = settings.pulses.first().copied().unwrap_or(2);
        Self { i2c, addr, pulses, driven: false, open: Sticky::default(), slow: Sticky::default() }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }

    fn change(&mut self, register: u8, mask: u8, bits: u8) -> Result<(), Error<I::Error>> {
        change_u8(&mut self.i2c, self.addr, register, mask, bits)
    }

    fn verify(&mut self, register: u8, mask: u8, bits: u8) -> Result<u8, Error<I::Error>> {
        verify_u8(&mut self.i2c, self.addr, register, mask, bits)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Amc6821<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, expected) in [(register::DEVICE_ID, DEVICE), (register::COMPANY_ID, COMPANY)] {
            let found = self.byte(register)?;
            if found != expected {
                return Err(Error::WrongPart { register, found: found.into() });
            }
        }
        Ok(())
    }

    /// The fan keeps the drive that it has: the duty register shows it in every mode, and what is written there in another
    /// mode becomes the drive with the change to this one.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        self.change(register::FAN_CHARACTERISTICS, FSPD, FSPD)?;
        self.change(register::CONFIGURATION_4, MODE | PSPR, if self.pulses == 4 { MODE | PSPR } else { MODE })?;
        self.change(register::CONFIGURATION_2, PWM_EN | TACH_EN, PWM_EN | TACH_EN)?;
        if self.byte(register::CONFIGURATION_1)? & FDRC != 0 {
            let drive = self.byte(register::DCY)?;
            self.i2c.write(self.addr, &[register::DCY, drive])?;
        }
        self.change(register::CONFIGURATION_1, FDRC | START, START)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        self.verify(register::CONFIGURATION_1, FDRC | START, START)?;
        let measures = self.verify(register::CONFIGURATION_2, PWM_EN | TACH_EN, PWM_EN | TACH_EN)? & TACH_MODE != 0;
        let counted = if self.verify(register::CONFIGURATION_4, MODE, MODE)? & PSPR != 0 { 4 } else { 2 };
        let status_1 = self.byte(register::STATUS_1)?;
        let status_2 = self.byte(register::STATUS_2)?;
        // The low byte first: it holds the high one until that is read.
        let low = self.byte(register::TACH_DATA)?;
        let high = self.byte(register::TACH_DATA + 1)?;
        let count = u16::from_le_bytes([low, high]);
        let local = self.byte(register::LOCAL_TEMPERATURE)?;
        let remote = self.byte(register::REMOTE_TEMPERATURE)?;
        let drive = self.byte(register::DCY)?;
        let open = self.open.is_set(status_1 & RTF != 0, remote.into());
        let slow = self.slow.is_set(status_1 & FANS != 0, count);
        if let [ours, diode] = reading.temperature.as_mut_slice() {
            *ours = celsius(local);
            *diode = if open { Err(Missing::NotPresent) } else { celsius(remote) };
        }
        if let [fan] = reading.fan.as_mut_slice() {
            let measured = measures || drive >= TACH_LEAST_DUTY;
            *fan = Fan {
                rpm: if measured { rpm(count, counted, self.pulses) } else { Err(Missing::Stale) },
                duty: Duty::from_ratio(drive.into(), DUTY_FULL).ok_or(Missing::Implausible),
                fault: slow && drive != 0 && self.driven,
            };
        }
        self.driven = drive != 0;
        let too_hot = status_1 & R_THERM != 0 || status_2 & TOO_HOT != 0;
        reading.faults = Faults::NONE.with(Fault::Temperature, too_hot);
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<I::Error>> {
        if channel != 0 {
            return Err(Error::NoChannel);
        }
        let raw = u8::try_from(duty.of(DUTY_FULL)).unwrap_or(u8::MAX);
        write_u8(&mut self.i2c, self.addr, register::DCY, raw)
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x18;

    fn driver(transactions: &[T]) -> (Amc6821<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Amc6821::new(ADDR, mock.clone(), &Settings::default()), mock)
    }

    fn byte(register: u8, value: u8) -> T {
        T::write_read(ADDR, vec![register], vec![value])
    }

    #[test]
    fn converts_as_the_kernel_does() {
        for (what, count, counted, np, expected) in [
            ("6000000 / 2000", 2000, 2, 2, Ok(Rpm(3000))),
            ("rounded down", 1999, 2, 2, Ok(Rpm(3001))),
            ("four pulses, four counted", 2000, 4, 4, Ok(Rpm(3000))),
            ("one pulse", 2000, 2, 1, Ok(Rpm(6000))),
            ("stands", 0xffff, 2, 2, Ok(Rpm(0))),
            ("nothing measured yet", 0, 2, 2, Err(Missing::Implausible)),
            ("faster than any fan", 91, 2, 2, Err(Missing::Implausible)),
        ] {
            assert_eq!(rpm(count, counted, np), expected, "{what}");
        }
        for (raw, millicelsius) in [(25, 25_000), (0x7f, 127_000), (0xff, -1_000), (0x80, -128_000)] {
            assert_eq!(celsius(raw), Ok(Millicelsius(millicelsius)), "{raw:#04x}");
        }
    }

    #[test]
    fn identifies_by_both_ids() {
        let (mut chip, mut mock) = driver(&[byte(0x3d, 0x21), byte(0x3e, 0x49), byte(0x3d, 0x75)]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x3d, found: 0x75 }));
        mock.done();
    }

    #[test]
    fn takes_the_fan_over_from_its_own_control_at_the_drive_that_it_has() {
        // Configuration 1 as at reset, 0xd4: driven by the remote temperature, not started.
        let (mut chip, mut mock) = driver(&[
            byte(0x20, 0x1d),
            T::write(ADDR, vec![0x20, 0x9d]),
            byte(0x20, 0x9d),
            byte(0x04, 0x08),
            T::write(ADDR, vec![0x04, 0x88]),
            byte(0x04, 0x88),
            byte(0x01, 0x3d),
            byte(0x00, 0xd4),
            byte(0x22, 0x90),
            T::write(ADDR, vec![0x22, 0x90]),
            byte(0x00, 0xd4),
            T::write(ADDR, vec![0x00, 0x95]),
            byte(0x00, 0x95),
        ]);
        assert_eq!(chip.configure(), Ok(()));
        mock.done();
    }

    #[test]
    fn reads_both_temperatures_and_the_fan() {
        let pass = |status: [u8; 2], remote: u8, drive: u8| {
            let head =
                [byte(0x00, 0x95), byte(0x01, 0x3d), byte(0x04, 0x88), byte(0x02, status[0]), byte(0x03, status[1])];
            let rest = [byte(0x08, 0xd0), byte(0x09, 0x07), byte(0x0a, 0x19), byte(0x0b, remote), byte(0x22, drive)];
            head.into_iter().chain(rest)
        };
        let mut all: Vec<T> = pass([0x22, 0x40], 0x80, 0xff).collect();
        all.extend(pass([0x02, 0x00], 0x80, 0xff));
        all.extend(pass([0x00, 0x00], 0x20, 0x10));
        all.push(byte(0x00, 0xd4));
        let (mut chip, mut mock) = driver(&all);
        let mut reading = PART.missing(Missing::Stale);
        let full = Fan { rpm: Ok(Rpm(3000)), duty: Ok(Duty::FULL), fault: false };
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.temperature, [Ok(Millicelsius(25_000)), Err(Missing::NotPresent)]);
        assert_eq!((reading.fan[0], reading.faults), (full, Faults::NONE.with(Fault::Temperature, true)));
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.temperature[1], Err(Missing::NotPresent), "the flag is gone, the conversion is the same");
        assert_eq!((reading.fan[0], reading.faults), (Fan { fault: true, ..full }, Faults::NONE));
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.temperature[1], Ok(Millicelsius(32_000)));
        assert_eq!(reading.fan[0].rpm, Err(Missing::Stale), "three wires, 6 %: the count is an old one");
        let reset = Error::ReadBack { register: 0x00, written: 0x01, found: 0x40 };
        assert_eq!(chip.read(&mut reading), Err(reset));
        mock.done();
    }

    #[test]
    fn a_duty_is_written_and_read_back() {
        let (mut chip, mut mock) = driver(&[T::write(ADDR, vec![0x22, 0x80]), byte(0x22, 0x80)]);
        assert_eq!(chip.set_duty(0, Duty::saturating(5000)), Ok(()));
        assert_eq!(chip.set_duty(1, Duty::FULL), Err(Error::NoChannel));
        mock.done();
    }
}
