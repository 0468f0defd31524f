//! HP common-slot supplies (DPS-1200FB and the HSTNS family of 460 to 1200 W), which do not speak PMBus.
//!
//! No datasheet is public. Framing and scales are those of raplin/DPS-1200FB, which took them from the supply's
//! firmware; that output current and temperatures are in 64ths is the finding of kamilzierke/DPS-1200-I2C-ESPHome and
//! others, who measured. Units differ: a board can set the divisor of the output current.
//!
//! ```text
//! write  register, c    with 2 * address + register + c = 0, modulo 256
//! read   low, high, c   with low + high + c = 0, modulo 256
//! ```
//!
//! Each read takes a write of two bytes, so a scan never asks for this part, and an adapter that only does SMBus
//! cannot. A stop between the two is fine with the supply, and spares the adapter a repeated start. About one answer in
//! 500 comes damaged. The supply also takes writes, of its fan's speed and to reset its peaks; none is made.

use embedded_hal::i2c::I2c;

use super::{
    Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Setting, Settings, div_round_closest, quantity,
};
use crate::reading::{ChipReading, Fan, Faults, Missing, Power, Reading};
use crate::units::{Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "hp-common-slot",
    about: "a server supply of HP's common slot (DPS-1200FB and its kind)",
    addresses: &[0x58..=0x5f],
    certainty: Certainty::Shape,
    power: &["in", "out"],
    temperature: &["intake", "internal"],
    fan: &["1"],
    drives_fans: false,
    takes: &[Setting::CurrentDivisor],
    watchdog_s: &[],
    registers: Registers::of(&[
        word("Input voltage", register::INPUT_VOLTAGE, "U = raw / 32 V"),
        word("Input current", register::INPUT_CURRENT, "I = raw / 128 A"),
        word("Input power", register::INPUT_POWER, "P = raw / 2 W"),
        word("Output voltage", register::OUTPUT_VOLTAGE, "U = raw / 256 V"),
        word("Output current", register::OUTPUT_CURRENT, "I = raw / 64 A, on some / 128 A"),
        word("Output power", register::OUTPUT_POWER, "P = raw / 2 W"),
        word("Intake temperature", register::INTAKE, "T = raw / 64 °C"),
        word("Internal temperature", register::INTERNAL, "T = raw / 64 °C"),
        word("Fan speed", register::FAN_SPEED, "rpm = raw"),
        word("On-time", register::ON_TIME, "t = raw / 2 s"),
    ]),
    kernel: Kernel::NONE,
    open: |device, settings| Box::new(CommonSlot::new(device.addr(), device, settings)),
};

const fn word(name: &'static str, at: u8, formula: &'static str) -> Register {
    Register { name, at, form: Form::CommonSlot, formula }
}

/// Registers, as numbered on the wire.
mod register {
    pub(super) const INPUT_VOLTAGE: u8 = 0x08;
    pub(super) const INPUT_CURRENT: u8 = 0x0a;
    pub(super) const INPUT_POWER: u8 = 0x0c;
    pub(super) const OUTPUT_VOLTAGE: u8 = 0x0e;
    pub(super) const OUTPUT_CURRENT: u8 = 0x10;
    pub(super) const OUTPUT_POWER: u8 = 0x12;
    pub(super) const INTAKE: u8 = 0x1a;
    pub(super) const INTERNAL: u8 = 0x1c;
    pub(super) const FAN_SPEED: u8 = 0x1e;
    pub(super) const ON_TIME: u8 = 0x30;
}

/// Asked for at identification: PMBus has no command of these numbers that writes, so a unit that speaks that takes no
/// harm.
const IDENTIFYING: [u8; 3] = [register::INPUT_VOLTAGE, register::INTERNAL, register::ON_TIME];
/// Counts per ampere of the output current, where the board says nothing.
const CURRENT_DIVISOR: u16 = 64;
/// Times that a read whose checksum does not fit is repeated.
const RETRIES: usize = 2;

/// `raw / divisor` in thousandths, rounded to the nearest.
fn convert<T: TryFrom<i64>>(raw: u16, divisor: u16) -> Reading<T> {
    let value = div_round_closest(i64::from(raw) * 1000, divisor.into()).ok_or(Missing::Implausible)?;
    T::try_from(value).map_err(|_| Missing::Implausible)
}

/// Whether it has a sign is not known, and it is never above 511 °C.
fn temperature(raw: u16) -> Reading<Millicelsius> {
    if raw & 0x8000 == 0 { convert(raw, 64) } else { Err(Missing::Implausible) }
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Driver of one supply.
struct CommonSlot<I> {
    i2c: I,
    addr: u8,
    current_divisor: u16,
}

impl<I: I2c> CommonSlot<I> {
    fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        let current_divisor = match settings.current_divisor {
            0 => CURRENT_DIVISOR,
            divisor => divisor,
        };
        Self { i2c, addr, current_divisor }
    }

    fn register(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        for _ in 0..=RETRIES {
            let mut answer = [0; 3];
            self.i2c.write(self.addr, &[register, checksum(&[self.addr << 1, register])])?;
            self.i2c.read(self.addr, &mut answer)?;
            let [low, high, _] = answer;
            if checksum(&answer) == 0 {
                return Ok(u16::from_le_bytes([low, high]));
            }
        }
        Err(Error::Checksum { register })
    }

    fn quantity<T>(
        &mut self,
        register: u8,
        convert: impl Fn(u16) -> Reading<T>,
    ) -> Result<Reading<T>, Error<I::Error>> {
        quantity(self.register(register), convert)
    }
}

impl<I: I2c + Send> Driver<I::Error> for CommonSlot<I> {
    /// Three answers with a checksum that fits; zeros have one too, but a supply that answers has been on for a while.
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        let mut all = 0;
        for register in IDENTIFYING {
            all |= self.register(register)?;
        }
        if all == 0 { Err(Error::WrongPart { register: register::INPUT_VOLTAGE, found: 0 }) } else { Ok(()) }
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let divisor = self.current_divisor;
        let input = Power {
            voltage: self.quantity::<Millivolts>(register::INPUT_VOLTAGE, |raw| convert(raw, 32))?,
            current: self.quantity::<Milliamps>(register::INPUT_CURRENT, |raw| convert(raw, 128))?,
            power: self.quantity::<Milliwatts>(register::INPUT_POWER, |raw| convert(raw, 2))?,
        };
        let output = Power {
            voltage: self.quantity::<Millivolts>(register::OUTPUT_VOLTAGE, |raw| convert(raw, 256))?,
            current: self.quantity::<Milliamps>(register::OUTPUT_CURRENT, |raw| convert(raw, divisor))?,
            power: self.quantity::<Milliwatts>(register::OUTPUT_POWER, |raw| convert(raw, 2))?,
        };
        for (channel, power) in reading.power.iter_mut().zip([input, output]) {
            *channel = power;
        }
        for (channel, register) in reading.temperature.iter_mut().zip([register::INTAKE, register::INTERNAL]) {
            *channel = self.quantity(register, temperature)?;
        }
        if let Some(channel) = reading.fan.first_mut() {
            let rpm = self.quantity(register::FAN_SPEED, |raw| Ok(Rpm(raw)))?;
            *channel = Fan { rpm, duty: Err(Missing::NotPresent), fault: false };
        }
        reading.faults = Faults::NONE;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::super::pmbus::noise;
    use super::*;

    const ADDR: u8 = 0x5f;

    fn driver(transactions: &[T], current_divisor: u16) -> (CommonSlot<Mock>, Mock) {
        let mock = Mock::new(transactions);
        let settings = Settings { current_divisor, ..Settings::default() };
        (CommonSlot::new(ADDR, mock.clone(), &settings), mock)
    }

    fn asked(register: u8, answer: [u8; 3]) -> [T; 2] {
        let question = 0x42_u8.wrapping_sub(register);
        [T::write(ADDR, vec![register, question]), T::read(ADDR, answer.to_vec())]
    }

    fn word(register: u8, raw: u16) -> [T; 2] {
        let [low, high] = raw.to_le_bytes();
        asked(register, [low, high, 0_u8.wrapping_sub(low).wrapping_sub(high)])
    }

    #[test]
    fn a_checksum_makes_the_sum_zero() {
        // Register 0x0e at address 0x5f: be + 0e + 34 = 100.
        assert_eq!(checksum(&[0xbe, 0x0e]), 0x34);
        assert_eq!(checksum(&[0x12, 0x0c, 0xe2]), 0);
        assert_eq!(checksum(&[0xff, 0xff, 0xff]), 3);
    }

    #[test]
    fn scales_are_the_makers() {
        assert_eq!(convert(7_360, 32), Ok(Millivolts(230_000)));
        assert_eq!(convert(333, 128), Ok(Milliamps(2_602)));
        assert_eq!(convert(3_146, 256), Ok(Millivolts(12_289)));
        assert_eq!(convert(0xffff, 2), Ok(Milliwatts(32_767_500)));
        assert_eq!(convert::<Milliamps>(1, 0), Err(Missing::Implausible));
        assert_eq!(temperature(1_600), Ok(Millicelsius(25_000)));
        assert_eq!(temperature(0xffff), Err(Missing::Implausible));
    }

    #[test]
    fn reads_a_supply_and_loses_only_what_came_disturbed() {
        for (divisor, amperes) in [(0, 40_000), (128, 20_000)] {
            let mut script = Vec::new();
            script.extend(word(0x08, 7_360));
            // Damaged once, and three times.
            script.extend(asked(0x0a, [0x4d, 0x01, 0xff]));
            script.extend(word(0x0a, 333));
            for _ in 0..3 {
                script.extend(asked(0x0c, [0xff, 0xff, 0xff]));
            }
            for (register, raw) in
                [(0x0e, 3_072), (0x10, 2_560), (0x12, 960), (0x1a, 1_600), (0x1c, 2_240), (0x1e, 7_200)]
            {
                script.extend(word(register, raw));
            }
            let (mut chip, mut mock) = driver(&script, divisor);
            let mut reading = PART.missing(Missing::Stale);
            assert_eq!(chip.read(&mut reading), Ok(()));
            let input =
                Power { voltage: Ok(Millivolts(230_000)), current: Ok(Milliamps(2_602)), power: Err(Missing::Bus) };
            let output = Power {
                voltage: Ok(Millivolts(12_000)),
                current: Ok(Milliamps(amperes)),
                power: Ok(Milliwatts(480_000)),
            };
            assert_eq!(reading.power, [input, output]);
            assert_eq!(reading.temperature, [Ok(Millicelsius(25_000)), Ok(Millicelsius(35_000))]);
            assert_eq!(reading.fan, [Fan { rpm: Ok(Rpm(7_200)), ..Fan::missing(Missing::NotPresent) }]);
            mock.done();
        }
    }

    #[test]
    fn is_known_by_its_checksums() {
        let three = |raw| [word(0x08, raw), word(0x1c, 0), word(0x30, 0)].concat();
        let damaged = || asked(0x08, [0xff, 0xff, 0xff]);
        for (script, expected) in [
            (three(7_360), Ok(())),
            (three(0), Err(Error::WrongPart { register: 0x08, found: 0 })),
            ([damaged(), damaged(), damaged()].concat(), Err(Error::Checksum { register: 0x08 })),
        ] {
            let (mut chip, mut mock) = driver(&script, 0);
            assert_eq!(chip.identify(), expected);
            mock.done();
        }
    }

    #[test]
    fn noise_is_survived() {
        noise::feed(&PART, |noise| CommonSlot::new(ADDR, noise, &Settings::default()));
    }
}
