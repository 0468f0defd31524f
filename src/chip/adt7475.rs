//! ADT7475: three PWM outputs, four tachometers, three temperatures (Analog Devices/ON Semiconductor).
//!
//! Outputs are driven by hand (BHVR = 111). Fans 3 and 4 hang on the one output PWM3, so a board has them in one zone, and
//! they get the greater of their two drives.
//! A software lock (CONFIG1, bit 1) keeps the chip from being taken over; that is told as a setting that does not hold.
//!
//! The tachometer counts 90 kHz over as many pulses as register 0x7b says, which is kept at two:
//! RPM = 60 * 90000 * 2 / (NP * count), NP pulses a revolution. A low byte holds its high byte until that is read. In the
//! same way reading the extended resolution holds the temperatures until they are read. They have ten bits, a quarter of a
//! degree each, in two's complement or with an offset of 64 by CONFIG5.
//! There is no watchdog: when the agent is gone the outputs stay as they are, until the service's own way out sets them.

use embedded_hal::i2c::I2c;

use super::register::byte;
use super::{
    Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Settings, Sticky, change_u8, read_u8, verify_u8,
    write_u8,
};
use crate::reading::{ChipReading, Fan, Faults, Missing, Reading};
use crate::units::{Duty, Millicelsius, Rpm};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "adt7475",
    about: "four fans on three PWM outputs; two remote temperatures and its own",
    addresses: &[0x2e..=0x2e],
    certainty: Certainty::Id,
    power: &[],
    temperature: &["remote1", "local", "remote2"],
    fan: &["1", "2", "3", "4"],
    drives_fans: true,
    takes: &[],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("Remote 1 Temperature", register::TEMPERATURE, "T = raw C, signed or less 64 by Configuration 5"),
        byte("Local Temperature", register::TEMPERATURE + 1, ""),
        byte("Remote 2 Temperature", register::TEMPERATURE + 2, ""),
        tach("TACH1", register::TACH),
        tach("TACH2", register::TACH + 2),
        tach("TACH3", register::TACH + 4),
        tach("TACH4", register::TACH + 6),
        byte("PWM1 Current Duty Cycle", register::PWM, "duty = raw / 255"),
        byte("PWM2 Current Duty Cycle", register::PWM + 1, ""),
        byte("PWM3 Current Duty Cycle", register::PWM + 2, ""),
        byte("Device ID", register::DEVICE_ID, "0x75"),
        byte("Company ID", register::COMPANY_ID, "0x41"),
        byte("Revision", register::REVISION, "0x68 to 0x6f"),
        byte("Configuration 1", register::CONFIGURATION_1, ""),
        byte("Interrupt Status 2", register::INTERRUPT_STATUS_2, "cleared by being read"),
        byte("PWM1 Configuration", register::PWM_CONFIGURATION, "bits 7:5, 111: by hand"),
        byte("PWM2 Configuration", register::PWM_CONFIGURATION + 1, ""),
        byte("PWM3 Configuration", register::PWM_CONFIGURATION + 2, ""),
        byte("Extended Resolution 2", register::EXTENDED_RESOLUTION_2, ""),
        byte("TACH Pulses per Revolution", register::TACH_PULSES, "0x55: two of each"),
        byte("Configuration 5", register::CONFIGURATION_5, ""),
        byte("Configuration 4", register::CONFIGURATION_4, ""),
    ]),
    kernel: Kernel { power: &[], temperature: &["temp1", "temp2", "temp3"], fan: &KERNEL_FANS },
    open: |device, settings| Box::new(Adt7475::new(device.addr(), device, settings)),
};

/// Fans 3 and 4 hang on one output.
const KERNEL_FANS: [(&str, &str, u16); FANS] =
    [("fan1", "pwm1", 255), ("fan2", "pwm2", 255), ("fan3", "pwm3", 255), ("fan4", "pwm3", 255)];

const fn tach(name: &'static str, at: u8) -> Register {
    Register { name, at, form: Form::Le(2), formula: "rpm = 60 x 90000 x 2 / (NP x raw), all ones: stands" }
}

/// Register map; those of a channel are given for the first.
mod register {
    pub(super) const TEMPERATURE: u8 = 0x25;
    pub(super) const TACH: u8 = 0x28;
    pub(super) const PWM: u8 = 0x30;
    pub(super) const DEVICE_ID: u8 = 0x3d;
    pub(super) const COMPANY_ID: u8 = 0x3e;
    pub(super) const REVISION: u8 = 0x3f;
    pub(super) const CONFIGURATION_1: u8 = 0x40;
    pub(super) const INTERRUPT_STATUS_2: u8 = 0x42;
    pub(super) const TACH_MINIMUM: u8 = 0x54;
    pub(super) const PWM_CONFIGURATION: u8 = 0x5c;
    pub(super) const EXTENDED_RESOLUTION_2: u8 = 0x77;
    pub(super) const TACH_PULSES: u8 = 0x7b;
    pub(super) const CONFIGURATION_5: u8 = 0x7c;
    pub(super) const CONFIGURATION_4: u8 = 0x7d;
}

const OUTPUTS: u8 = 3;
const FANS: usize = 4;
const DEVICE: u8 = 0x75;
const COMPANY: u8 = 0x41;
/// In bits 7:3, the revision below.
const REVISION: u8 = 0x68 >> 3;
/// Configuration 1: monitoring.
const STRT: u8 = 1;
/// Configuration 4: what the pin of TACH4 is; 00 is the tachometer.
const PIN_FUNCTION: u8 = 0b11;
/// Configuration 5: temperatures are two's complement.
const TWOS_COMPLEMENT: u8 = 1;
/// PWM Configuration: who decides the duty.
const BHVR: u8 = 0b111 << 5;
const BHVR_FULL_SPEED: u8 = 0b011 << 5;
const BHVR_DISABLED: u8 = 0b100 << 5;
const BHVR_MANUAL: u8 = 0b111 << 5;
/// Two pulses for each tachometer, as at reset.
const TACH_PULSES: u8 = 0b01_01_01_01;
/// The longest count but one: only a fan that stands, whose count is the longest, passes it. At the longest itself the
/// status is never set.
const TACH_MINIMUM: [u8; 2] = (COUNT_STOPPED - 1).to_le_bytes();
/// Interrupt Status 2: the fault of the first fan; the others' follow.
const FAN_1: u8 = 1 << 2;

/// 60 s/min, the clock, two pulses.
const RPM_TIMES_COUNT: u32 = 60 * 90_000 * 2;
const COUNT_STOPPED: u16 = u16::MAX;
const DUTY_FULL: u16 = 0xff;

fn rpm(count: u16, pulses_per_revolution: u8) -> Reading<Rpm> {
    if count == COUNT_STOPPED {
        return Ok(Rpm(0));
    }
    let divisor = u32::from(pulses_per_revolution) * u32::from(count);
    let rpm = RPM_TIMES_COUNT.checked_div(divisor).ok_or(Missing::Implausible)?;
    Ok(Rpm::try_from(i64::from(rpm))?)
}

/// `quarters` are the two bits below the register's. The lowest value of either format is that of a diode that is open or
/// short.
fn celsius(raw: u8, quarters: u8, twos_complement: bool) -> Reading<Millicelsius> {
    let (degrees, lowest) =
        if twos_complement { (i32::from(raw.cast_signed()), -128) } else { (i32::from(raw) - 64, -64) };
    if degrees == lowest {
        return Err(Missing::NotPresent);
    }
    Ok(Millicelsius((degrees * 4 + i32::from(quarters & 0b11)) * 250))
}

/// The output that a fan hangs on, both from 0.
const fn output(fan: u8) -> u8 {
    if fan < OUTPUTS { fan } else { OUTPUTS - 1 }
}

/// Driver of one ADT7475.
pub struct Adt7475<I> {
    i2c: I,
    addr: u8,
    fans: [Channel; FANS],
}

/// One fan, as we left it.
#[derive(Clone, Copy)]
struct Channel {
    pulses: u8,
    /// It was driven in the last pass.
    driven: bool,
    stalled: Sticky,
}

impl<I: I2c> Adt7475<I> {
    fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        let mut fans = [Channel { pulses: 2, driven: false, stalled: Sticky::default() }; FANS];
        for (ours, board) in fans.iter_mut().zip(&settings.pulses) {
            ours.pulses = *board;
        }
        Self { i2c, addr, fans }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }

    fn set(&mut self, register: u8, value: u8) -> Result<(), Error<I::Error>> {
        write_u8(&mut self.i2c, self.addr, register, value)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Adt7475<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, shift, expected) in
            [(register::COMPANY_ID, 0, COMPANY), (register::DEVICE_ID, 0, DEVICE), (register::REVISION, 3, REVISION)]
        {
            let found = self.byte(register)?;
            if found >> shift != expected {
                return Err(Error::WrongPart { register, found: found.into() });
            }
        }
        Ok(())
    }

    /// Fans keep the drive that the chip gave them last.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        for output in 0..OUTPUTS {
            let drive = match self.byte(register::PWM_CONFIGURATION + output)? & BHVR {
                BHVR_MANUAL => continue,
                BHVR_FULL_SPEED => u8::MAX,
                BHVR_DISABLED => 0,
                _ => self.byte(register::PWM + output)?,
            };
            change_u8(&mut self.i2c, self.addr, register::PWM_CONFIGURATION + output, BHVR, BHVR_MANUAL)?;
            self.set(register::PWM + output, drive)?;
        }
        let minimums = (register::TACH_MINIMUM..).zip(TACH_MINIMUM.into_iter().cycle()).take(2 * FANS);
        for (register, value) in minimums {
            self.set(register, value)?;
        }
        self.set(register::TACH_PULSES, TACH_PULSES)?;
        change_u8(&mut self.i2c, self.addr, register::CONFIGURATION_1, STRT, STRT)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        verify_u8(&mut self.i2c, self.addr, register::CONFIGURATION_1, STRT, STRT)?;
        verify_u8(&mut self.i2c, self.addr, register::TACH_PULSES, u8::MAX, TACH_PULSES)?;
        let status = self.byte(register::INTERRUPT_STATUS_2)?;
        let fourth = self.byte(register::CONFIGURATION_4)? & PIN_FUNCTION == 0;
        let twos_complement = self.byte(register::CONFIGURATION_5)? & TWOS_COMPLEMENT != 0;
        let extended = self.byte(register::EXTENDED_RESOLUTION_2)?;
        for (channel, temperature) in (0..).zip(&mut reading.temperature) {
            let raw = self.byte(register::TEMPERATURE + channel)?;
            *temperature = celsius(raw, extended >> (2 * channel + 2), twos_complement);
        }
        let mut drives = [0; OUTPUTS as usize];
        for (output, drive) in (0..).zip(&mut drives) {
            verify_u8(&mut self.i2c, self.addr, register::PWM_CONFIGURATION + output, BHVR, BHVR_MANUAL)?;
            *drive = self.byte(register::PWM + output)?;
        }
        for ((fan, ours), channel) in (0..).zip(&mut self.fans).zip(&mut reading.fan) {
            let low = read_u8(&mut self.i2c, self.addr, register::TACH + 2 * fan)?;
            let high = read_u8(&mut self.i2c, self.addr, register::TACH + 2 * fan + 1)?;
            let count = u16::from_le_bytes([low, high]);
            let drive = drives.get(usize::from(output(fan))).copied().unwrap_or(0);
            let there = output(fan) == fan || fourth;
            let stalled = ours.stalled.is_set(status & FAN_1 << fan != 0, count);
            *channel = Fan {
                rpm: if there { rpm(count, ours.pulses) } else { Err(Missing::NotPresent) },
                duty: Duty::from_ratio(drive.into(), DUTY_FULL).ok_or(Missing::Implausible),
                fault: there && stalled && drive != 0 && ours.driven,
            };
            ours.driven = drive != 0;
        }
        reading.faults = Faults::NONE;
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<I::Error>> {
        let fan = u8::try_from(channel).ok().filter(|_| channel < FANS).ok_or(Error::NoChannel)?;
        let raw = u8::try_from(duty.of(DUTY_FULL)).unwrap_or(u8::MAX);
        self.set(register::PWM + output(fan), raw)
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x2e;

    fn driver(transactions: &[T]) -> (Adt7475<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Adt7475::new(ADDR, mock.clone(), &Settings { pulses: vec![2, 2, 2, 4], ..Settings::default() }), mock)
    }

    fn byte(register: u8, value: u8) -> T {
        T::write_read(ADDR, vec![register], vec![value])
    }

    fn set(register: u8, value: u8) -> [T; 2] {
        [T::write(ADDR, vec![register, value]), byte(register, value)]
    }

    #[test]
    fn temperatures_are_the_datasheets_in_both_formats() {
        for (raw, quarters, twos_complement, expected) in [
            (0x19, 0b01, true, Ok(25_250)),
            (0x7f, 0b11, true, Ok(127_750)),
            (0xff, 0b11, true, Ok(-250)),
            (0x80, 0b00, true, Err(Missing::NotPresent)),
            (0x59, 0b01, false, Ok(25_250)),
            (0xff, 0b11, false, Ok(191_750)),
            (0x3f, 0b10, false, Ok(-500)),
            (0x00, 0b00, false, Err(Missing::NotPresent)),
        ] {
            assert_eq!(celsius(raw, quarters, twos_complement), expected.map(Millicelsius), "{raw:#04x}");
        }
    }

    #[test]
    fn rpm_follows_the_datasheets_formula() {
        for (count, np, expected) in [
            (1800, 2, Ok(Rpm(3000))),
            (1800, 4, Ok(Rpm(1500))),
            (0xffff, 2, Ok(Rpm(0))),
            (0, 2, Err(Missing::Implausible)),
            (82, 2, Err(Missing::Implausible)),
        ] {
            assert_eq!(rpm(count, np), expected, "{count}");
        }
    }

    #[test]
    fn identifies_by_all_three_ids() {
        let (mut chip, mut mock) =
            driver(&[byte(0x3e, 0x41), byte(0x3d, 0x75), byte(0x3f, 0x69), byte(0x3e, 0x41), byte(0x3d, 0x76)]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x3d, found: 0x76 }));
        mock.done();
    }

    #[test]
    fn takes_outputs_over_at_the_drive_that_they_have() {
        // As at reset, at full speed; by a temperature; by hand already.
        let mut all = vec![byte(0x5c, 0x62), byte(0x5c, 0x62)];
        all.extend(set(0x5c, 0xe2));
        all.extend(set(0x30, 0xff));
        all.extend([byte(0x5d, 0x12), byte(0x31, 0x90), byte(0x5d, 0x12)]);
        all.extend(set(0x5d, 0xf2));
        all.extend(set(0x31, 0x90));
        all.push(byte(0x5e, 0xe2));
        for fan in 0..4 {
            all.extend(set(0x54 + 2 * fan, 0xfe));
            all.extend(set(0x55 + 2 * fan, 0xff));
        }
        all.extend(set(0x7b, 0x55));
        all.push(byte(0x40, 0x04));
        all.extend(set(0x40, 0x05));
        let (mut chip, mut mock) = driver(&all);
        assert_eq!(chip.configure(), Ok(()));
        mock.done();
    }

    #[test]
    fn reads_low_bytes_first_and_the_fourth_fan_on_the_third_output() {
        let mut all = Vec::new();
        for (status, config4) in [(0x10, 0x00), (0x10, 0x01)] {
            all.extend([byte(0x40, 0x05), byte(0x7b, 0x55), byte(0x42, status), byte(0x7d, config4), byte(0x7c, 0x01)]);
            all.extend([byte(0x77, 0b11_01_10_00), byte(0x25, 0x19), byte(0x26, 0x20), byte(0x27, 0x80)]);
            for (output, drive) in [(0, 0xff), (1, 0x00), (2, 0x80)] {
                all.extend([byte(0x5c + output, 0xe2), byte(0x30 + output, drive)]);
            }
            for (fan, count) in [(0, 1800_u16), (1, 0xffff), (2, 0xffff), (3, 1800)] {
                let [low, high] = count.to_le_bytes();
                all.extend([byte(0x28 + 2 * fan, low), byte(0x29 + 2 * fan, high)]);
            }
        }
        let (mut chip, mut mock) = driver(&all);
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let expected = [Ok(Millicelsius(25_500)), Ok(Millicelsius(32_250)), Err(Missing::NotPresent)];
        assert_eq!(reading.temperature, expected);
        let half = Duty::saturating(5020);
        let fan = |rpm, duty, fault| Fan { rpm, duty: Ok(duty), fault };
        let [first, second] = [fan(Ok(Rpm(3000)), Duty::FULL, false), fan(Ok(Rpm(0)), Duty::OFF, false)];
        assert_eq!(reading.fan, [first, second, fan(Ok(Rpm(0)), half, false), fan(Ok(Rpm(1500)), half, false)]);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let fourth = fan(Err(Missing::NotPresent), half, false);
        assert_eq!(reading.fan, [first, second, fan(Ok(Rpm(0)), half, true), fourth]);
        mock.done();
    }

    #[test]
    fn a_duty_is_written_and_read_back() {
        let mut all = set(0x32, 0x80).to_vec();
        all.extend([T::write(ADDR, vec![0x30, 0x80]), byte(0x30, 0xff)]);
        let (mut chip, mut mock) = driver(&all);
        let half = Duty::saturating(5000);
        assert_eq!(chip.set_duty(3, half), Ok(()));
        assert_eq!(chip.set_duty(0, half), Err(Error::ReadBack { register: 0x30, written: 0x80, found: 0xff }));
        assert_eq!(chip.set_duty(4, half), Err(Error::NoChannel));
        mock.done();
    }
}
