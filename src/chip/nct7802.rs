//! NCT7802Y: three fans and four temperatures (Nuvoton; register numbers and scales as in the kernel's nct7802).
//!
//! Fans are driven by hand (Smart Fan off); what the pins are, which temperatures are measured and how, is the board's and
//! left as it is: an input that is not set up as a temperature, or a fan that is not enabled, goes missing.
//! Only bank 0 is known here, and the bank is not switched: a chip left in another one is not identified.
//!
//! The tachometer counts 22.5 kHz over two pulses: RPM = 60 * 22500 * 2 / (NP * count), NP pulses a revolution.
//! There is no watchdog: when the agent is gone the outputs stay as they are, until the service's own way out sets them.

use embedded_hal::i2c::I2c;

use super::register::byte;
use super::{
    Certainty, Driver, Error, Kernel, Part, Registers, Settings, change_u8, div_round_closest, read_u8, verify_u8,
    write_u8,
};
use crate::reading::{ChipReading, Fan, Faults, Missing, Reading};
use crate::units::{Duty, Millicelsius, Rpm};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "nct7802",
    about: "three fans: PWM, tachometer; three remote temperatures and its own",
    addresses: &[0x28..=0x2f],
    certainty: Certainty::Id,
    power: &[],
    temperature: &["1", "2", "3", "4"],
    fan: &["1", "2", "3"],
    drives_fans: true,
    takes: &[],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("Bank Selection", register::BANK, "0"),
        byte("RTD1 Temperature", register::TEMPERATURE, "T = raw C, signed; the fraction is in the LSB register"),
        byte("RTD2 Temperature", register::TEMPERATURE + 1, ""),
        byte("RTD3 Temperature", register::TEMPERATURE + 2, ""),
        byte("Local Temperature", register::TEMPERATURE + 3, "T = raw C, signed"),
        byte("Temperature LSB", register::TEMPERATURE_LSB, "of the one read last: raw >> 5 eighths"),
        byte(
            "Fan 1 Count",
            register::FAN_COUNT,
            "rpm = 60 x 22500 x 2 / (NP x (raw << 5 | low >> 3)), all ones: stands",
        ),
        byte("Fan 2 Count", register::FAN_COUNT + 1, ""),
        byte("Fan 3 Count", register::FAN_COUNT + 2, ""),
        byte("Fan Count LSB", register::FAN_COUNT_LSB, "of the one read last"),
        byte("Temperature Fault", register::TEMPERATURE_FAULT, ""),
        byte("Fan Alarm", register::FAN_ALARM, ""),
        byte("Start", register::START, ""),
        byte("Mode Selection", register::MODE, "two bits an RTD: 01 diode, 10 thermistor, 11 voltage; bit 6 local"),
        byte("Fan Enable", register::FAN_ENABLE, ""),
        byte("Fan Control Output 1", register::PWM, "duty = raw / 255"),
        byte("Fan Control Output 2", register::PWM + 1, ""),
        byte("Fan Control Output 3", register::PWM + 2, ""),
        byte("Smart Fan Enable 1-2", register::SMART_FAN, "bits 0 and 4: not driven by hand"),
        byte("Smart Fan Enable 3", register::SMART_FAN + 1, "bit 0"),
        byte("Vendor ID", register::VENDOR_ID, "0x50"),
        byte("Chip ID", register::CHIP_ID, "0xc3"),
        byte("Version ID", register::VERSION_ID, "0x2x"),
    ]),
    kernel: Kernel {
        power: &[],
        temperature: &["temp1", "temp2", "temp3", "temp4"],
        fan: &[("fan1", "pwm1", 255), ("fan2", "pwm2", 255), ("fan3", "pwm3", 255)],
    },
    open: |device, settings| Box::new(Nct7802::new(device.addr(), device, settings)),
};

/// Register map of bank 0; those of a channel are given for the first.
mod register {
    pub(super) const BANK: u8 = 0x00;
    pub(super) const TEMPERATURE: u8 = 0x01;
    pub(super) const TEMPERATURE_LSB: u8 = 0x05;
    pub(super) const FAN_COUNT: u8 = 0x10;
    pub(super) const FAN_COUNT_LSB: u8 = 0x13;
    pub(super) const TEMPERATURE_FAULT: u8 = 0x17;
    pub(super) const FAN_ALARM: u8 = 0x1a;
    pub(super) const START: u8 = 0x21;
    pub(super) const MODE: u8 = 0x22;
    pub(super) const FAN_ENABLE: u8 = 0x24;
    pub(super) const PWM: u8 = 0x60;
    pub(super) const SMART_FAN: u8 = 0x64;
    pub(super) const VENDOR_ID: u8 = 0xfd;
    pub(super) const CHIP_ID: u8 = 0xfe;
    pub(super) const VERSION_ID: u8 = 0xff;
}

const FANS: usize = 3;
const VENDOR: u8 = 0x50;
const CHIP: u8 = 0xc3;
/// In bits 7:4, the revision below.
const VERSION: u8 = 0x2;
/// Start: measure.
const START: u8 = 1;
/// Mode Selection: the chip's own temperature is measured.
const LOCAL: u8 = 1 << 6;
/// Place of the chip's own temperature among the four.
const LOCAL_CHANNEL: u8 = 3;

/// Smart Fan Enable of a fan, from 0: its register and its bit.
const SMART_FAN: [(u8, u8); FANS] =
    [(register::SMART_FAN, 1), (register::SMART_FAN, 1 << 4), (register::SMART_FAN + 1, 1)];

/// 60 s/min, the clock, two pulses.
const RPM_TIMES_COUNT: i64 = 60 * 22_500 * 2;
/// The 13-bit count when no pulse came in time.
const COUNT_STOPPED: u16 = 0x1fff;
const DUTY_FULL: u16 = 0xff;

fn rpm(high: u8, low: u8, pulses_per_revolution: u8) -> Reading<Rpm> {
    let count = u16::from(high) << 5 | u16::from(low) >> 3;
    if count == COUNT_STOPPED {
        return Ok(Rpm(0));
    }
    let divisor = i64::from(pulses_per_revolution) * i64::from(count);
    Ok(Rpm::try_from(div_round_closest(RPM_TIMES_COUNT, divisor).ok_or(Missing::Implausible)?)?)
}

/// Two's complement, eighths of a degree in 11 bits from the left.
fn celsius(high: u8, low: u8) -> Reading<Millicelsius> {
    let raw = u16::from_be_bytes([high, low]).cast_signed() >> 5;
    Ok(Millicelsius(i32::from(raw) * 125))
}

/// Whether an input, from 0, is set up as a temperature. The third can only be a thermistor.
const fn is_temperature(mode: u8, channel: u8) -> bool {
    match (channel, mode >> (2 * (channel & 3)) & 0b11) {
        (LOCAL_CHANNEL, _) => mode & LOCAL != 0,
        (2, bits) => bits == 0b10,
        (_, bits) => bits == 0b01 || bits == 0b10,
    }
}

/// Driver of one NCT7802Y.
pub struct Nct7802<I> {
    i2c: I,
    addr: u8,
    /// Pulses of each fan, and whether it was driven in the last pass.
    fans: [(u8, bool); FANS],
}

impl<I: I2c> Nct7802<I> {
    fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        let mut fans = [(2, false); FANS];
        for ((ours, _), board) in fans.iter_mut().zip(&settings.pulses) {
            *ours = *board;
        }
        Self { i2c, addr, fans }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Nct7802<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, shift, expected) in [
            (register::BANK, 0, 0),
            (register::VENDOR_ID, 0, VENDOR),
            (register::CHIP_ID, 0, CHIP),
            (register::VERSION_ID, 4, VERSION),
        ] {
            let found = self.byte(register)?;
            if found >> shift != expected {
                return Err(Error::WrongPart { register, found: found.into() });
            }
        }
        Ok(())
    }

    /// Fans keep the drive that Smart Fan gave them last.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        for ((register, bit), fan) in SMART_FAN.into_iter().zip(0..) {
            if self.byte(register)? & bit != 0 {
                let drive = self.byte(register::PWM + fan)?;
                change_u8(&mut self.i2c, self.addr, register, bit, 0)?;
                write_u8(&mut self.i2c, self.addr, register::PWM + fan, drive)?;
            }
        }
        change_u8(&mut self.i2c, self.addr, register::START, START, START)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        verify_u8(&mut self.i2c, self.addr, register::BANK, u8::MAX, 0)?;
        verify_u8(&mut self.i2c, self.addr, register::START, START, START)?;
        let mode = self.byte(register::MODE)?;
        let open = self.byte(register::TEMPERATURE_FAULT)?;
        let enabled = self.byte(register::FAN_ENABLE)?;
        let alarm = self.byte(register::FAN_ALARM)?;
        for (channel, temperature) in (0..).zip(&mut reading.temperature) {
            if !is_temperature(mode, channel) || (channel < LOCAL_CHANNEL && open & 1 << channel != 0) {
                *temperature = Err(Missing::NotPresent);
                continue;
            }
            let high = self.byte(register::TEMPERATURE + channel)?;
            let low = if channel < LOCAL_CHANNEL { self.byte(register::TEMPERATURE_LSB)? } else { 0 };
            *temperature = celsius(high, low);
        }
        for (((fan, (pulses, driven)), (register, bit)), channel) in
            (0..).zip(&mut self.fans).zip(SMART_FAN).zip(&mut reading.fan)
        {
            verify_u8(&mut self.i2c, self.addr, register, bit, 0)?;
            let drive = read_u8(&mut self.i2c, self.addr, register::PWM + fan)?;
            let high = read_u8(&mut self.i2c, self.addr, register::FAN_COUNT + fan)?;
            let low = read_u8(&mut self.i2c, self.addr, register::FAN_COUNT_LSB)?;
            let counts = enabled & 1 << fan != 0;
            *channel = Fan {
                rpm: if counts { rpm(high, low, *pulses) } else { Err(Missing::NotPresent) },
                duty: Duty::from_ratio(drive.into(), DUTY_FULL).ok_or(Missing::Implausible),
                fault: counts && alarm & 1 << fan != 0 && drive != 0 && *driven,
            };
            *driven = drive != 0;
        }
        reading.faults = Faults::NONE;
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<I::Error>> {
        let fan = u8::try_from(channel).ok().filter(|_| channel < FANS).ok_or(Error::NoChannel)?;
        let raw = u8::try_from(duty.of(DUTY_FULL)).unwrap_or(u8::MAX);
        write_u8(&mut self.i2c, self.addr, register::PWM + fan, raw)
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x2c;

    fn driver(transactions: &[T]) -> (Nct7802<Mock>, Mock) {
        let mock = Mock::new(transactions);
        let settings = Settings { pulses: vec![2, 4, 2], ..Settings::default() };
        (Nct7802::new(ADDR, mock.clone(), &settings), mock)
    }

    fn byte(register: u8, value: u8) -> T {
        T::write_read(ADDR, vec![register], vec![value])
    }

    #[test]
    fn converts_as_the_kernel_does() {
        for (high, low, millicelsius) in
            [(0x19, 0x20, 25_125), (0x7f, 0xe0, 127_875), (0xff, 0xe0, -125), (0xe7, 0, -25_000)]
        {
            assert_eq!(celsius(high, low), Ok(Millicelsius(millicelsius)), "{high:#04x} {low:#04x}");
        }
        // DIV_ROUND_CLOSEST(1350000, count) at two pulses.
        for (what, high, low, np, expected) in [
            ("450", 0x0e, 0x10, 2, Ok(Rpm(3000))),
            ("451, rounded", 0x0e, 0x18, 2, Ok(Rpm(2993))),
            ("four pulses", 0x0e, 0x10, 4, Ok(Rpm(1500))),
            ("stands", 0xff, 0xff, 2, Ok(Rpm(0))),
            ("count of zero", 0, 7, 2, Err(Missing::Implausible)),
            ("faster than any fan", 0, 8, 2, Err(Missing::Implausible)),
        ] {
            assert_eq!(rpm(high, low, np), expected, "{what}");
        }
    }

    #[test]
    fn only_inputs_set_up_as_temperatures_are() {
        for (mode, expected) in [
            (0b0110_1001, [true, true, true, true]),
            (0b0001_1100, [false, false, false, false]),
            (0b0011_0010, [true, false, false, false]),
        ] {
            assert_eq!(std::array::from_fn(|i| is_temperature(mode, u8::try_from(i).unwrap())), expected, "{mode:#b}");
        }
    }

    #[test]
    fn identifies_in_bank_0_only() {
        let (mut chip, mut mock) =
            driver(&[byte(0x00, 0), byte(0xfd, 0x50), byte(0xfe, 0xc3), byte(0xff, 0x21), byte(0x00, 0x01)]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0, found: 1 }));
        mock.done();
    }

    #[test]
    fn takes_fans_over_at_the_drive_that_they_have() {
        let (mut chip, mut mock) = driver(&[
            byte(0x64, 0x12),
            byte(0x64, 0x12),
            byte(0x61, 0xc0),
            byte(0x64, 0x12),
            T::write(ADDR, vec![0x64, 0x02]),
            byte(0x64, 0x02),
            T::write(ADDR, vec![0x61, 0xc0]),
            byte(0x61, 0xc0),
            byte(0x65, 0x00),
            byte(0x21, 0x00),
            T::write(ADDR, vec![0x21, 0x01]),
            byte(0x21, 0x01),
        ]);
        assert_eq!(chip.configure(), Ok(()));
        mock.done();
    }

    #[test]
    fn reads_what_is_set_up_and_loses_the_rest() {
        let mut all = Vec::new();
        for _ in 0..2 {
            // A diode, a thermistor that is open, a voltage, its own; the third fan is not enabled.
            all.extend([byte(0x00, 0), byte(0x21, 1), byte(0x22, 0b0111_1001), byte(0x17, 0x02), byte(0x24, 0x03)]);
            all.extend([byte(0x1a, 0x07), byte(0x01, 0x32), byte(0x05, 0x80), byte(0x04, 0xff)]);
            all.extend([byte(0x64, 0), byte(0x60, 0xff), byte(0x10, 0x0e), byte(0x13, 0x10)]);
            all.extend([byte(0x64, 0), byte(0x61, 0), byte(0x11, 0xff), byte(0x13, 0xf8)]);
            all.extend([byte(0x65, 0), byte(0x62, 0x80), byte(0x12, 0), byte(0x13, 0)]);
        }
        all.extend([byte(0x00, 0), byte(0x21, 0)]);
        let (mut chip, mut mock) = driver(&all);
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(chip.read(&mut reading), Ok(()));
        let absent = Err(Missing::NotPresent);
        assert_eq!(reading.temperature, [Ok(Millicelsius(50_500)), absent, absent, Ok(Millicelsius(-1_000))]);
        let first = Fan { rpm: Ok(Rpm(3000)), duty: Ok(Duty::FULL), fault: true };
        let second = Fan { rpm: Ok(Rpm(0)), duty: Ok(Duty::OFF), fault: false };
        let third = Fan { rpm: Err(Missing::NotPresent), duty: Ok(Duty::saturating(5020)), fault: false };
        assert_eq!(reading.fan, [first, second, third]);
        let reset = Error::ReadBack { register: 0x21, written: 1, found: 0 };
        assert_eq!(chip.read(&mut reading), Err(reset));
        mock.done();
    }

    #[test]
    fn a_duty_is_written_and_read_back() {
        let (mut chip, mut mock) = driver(&[T::write(ADDR, vec![0x62, 0x80]), byte(0x62, 0x7f)]);
        let half = Duty::saturating(5000);
        assert_eq!(chip.set_duty(2, half), Err(Error::ReadBack { register: 0x62, written: 0x80, found: 0x7f }));
        assert_eq!(chip.set_duty(3, half), Err(Error::NoChannel));
        mock.done();
    }
}
