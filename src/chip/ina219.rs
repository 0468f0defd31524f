//! INA219: bus voltage, current and power on one rail (Texas Instruments, SBOS448).
//!
//! The calibration register is set to 4096, so that the current register repeats the shunt register (section 8.6.3.4:
//! Current = Shunt * Cal / 4096) and its LSB is 10 uV / Rshunt. The power register holds Current * Bus / 5000, with the
//! bus in steps of 4 mV, so its LSB is 20 of the current's. Current is taken from the shunt register, as the kernel's
//! ina2xx takes it; both give the same number.
//!
//! There is no id register: the part is known by bits of three registers that always read as zero. The INA220, which
//! has the same registers, passes too. The INA226 and the INA3221 share its addresses and do not.

use embedded_hal::i2c::I2c;

use super::register::word;
use super::{
    Certainty, Conversion, Driver, Error, Kernel, Part, Registers, Setting, Settings, div_round_closest, holds,
    read_be, write_be,
};
use crate::reading::{ChipReading, Faults, Missing, Power, Reading};
use crate::units::{Microohms, Milliamps, Millivolts, Milliwatts};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "ina219",
    about: "voltage, current and power of one rail (INA219, INA220)",
    addresses: &[0x40..=0x4f],
    certainty: Certainty::Shape,
    power: &["1"],
    temperature: &[],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt],
    watchdog_s: &[],
    registers: Registers::of(&[
        word("Configuration", register::CONFIGURATION, ""),
        word("Shunt voltage", register::SHUNT_VOLTAGE, "I = 10 uV x raw / Rshunt, signed"),
        word("Bus voltage", register::BUS_VOLTAGE, "U = 4 mV x (raw >> 3); bit 0: math overflow"),
        word("Power", register::POWER, "P = 20 x 10 uV x raw / Rshunt"),
        word("Current", register::CURRENT, "as the shunt register"),
        word("Calibration", register::CALIBRATION, "4096: the current register repeats the shunt register"),
    ]),
    kernel: Kernel { power: &[["in1", "curr1", "power1"]], temperature: &[], fan: &[] },
    open: |device, settings| Box::new(Ina219::new(device.addr(), device, settings)),
};

/// Register map (table 2).
mod register {
    pub(super) const CONFIGURATION: u8 = 0x00;
    pub(super) const SHUNT_VOLTAGE: u8 = 0x01;
    pub(super) const BUS_VOLTAGE: u8 = 0x02;
    pub(super) const POWER: u8 = 0x03;
    pub(super) const CURRENT: u8 = 0x04;
    pub(super) const CALIBRATION: u8 = 0x05;
}

/// The widest ranges; averages 32 samples of 532 us each, shunt and bus, continuously: a new value every 34 ms.
const CONFIGURATION: u16 = BRNG_32_V | PG_320_MV | ADC_32_SAMPLES << BADC | ADC_32_SAMPLES << SADC | MODE_CONTINUOUS;
const BRNG_32_V: u16 = 1 << 13;
/// PGA /8. The step of the shunt register is 10 uV at each gain, so the widest costs nothing but noise.
const PG_320_MV: u16 = 0b11 << 11;
/// Where the bus converter's setting sits, and the shunt converter's.
const BADC: u8 = 7;
const SADC: u8 = 3;
/// Table 5: 17.02 ms.
const ADC_32_SAMPLES: u16 = 0b1101;
const MODE_CONTINUOUS: u16 = 0b111;
/// Makes the current register equal the shunt register.
const CALIBRATION: u16 = 4096;
/// Bus voltage bit 0: power and current could not be computed.
const OVF: u16 = 1;
/// Bus voltage bit 1: a conversion has ended since the power register was read.
const CNVR: u16 = 1 << 1;

/// Bits that always read as zero: RST, which clears itself, and the unused bit below it; the unused bit between the bus
/// voltage and its flags; the void bit of the calibration.
const ZERO: [(u8, u16); 3] =
    [(register::CONFIGURATION, 0b11 << 14), (register::BUS_VOLTAGE, 1 << 2), (register::CALIBRATION, 1)];

/// 4 mV a bit, above three bits of flags.
fn bus_voltage(raw: u16) -> Reading<Millivolts> {
    Ok(Millivolts::try_from(i64::from(raw >> 3) * 4)?)
}

/// 10 uV a bit across the shunt, signed: I in mA = 10 000 * raw / R in uOhm.
fn current(raw: u16, shunt: Microohms) -> Reading<Milliamps> {
    let nanovolts = i64::from(raw.cast_signed()) * 10_000;
    Ok(Milliamps::try_from(div_round_closest(nanovolts, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// 20 current LSBs a bit: P in mW = 20 * 10 000 * raw / R in uOhm.
fn power(raw: u16, shunt: Microohms) -> Reading<Milliwatts> {
    let scaled = i64::from(raw) * 20 * 10_000;
    Ok(Milliwatts::try_from(div_round_closest(scaled, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// Driver of one INA219.
pub struct Ina219<I> {
    i2c: I,
    addr: u8,
    shunt: Microohms,
    conversion: Conversion,
}

impl<I: I2c> Ina219<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        Self { i2c, addr, shunt: settings.shunt, conversion: Conversion::default() }
    }

    fn register(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Ina219<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, zero) in ZERO {
            let found = self.register(register)?;
            if found & zero != 0 {
                return Err(Error::WrongPart { register, found });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let settings = [(register::CALIBRATION, CALIBRATION), (register::CONFIGURATION, CONFIGURATION)];
        let mut changed = false;
        for (register, value) in settings {
            changed |= self.register(register)? != value;
        }
        if changed {
            for (register, value) in settings {
                write_be(&mut self.i2c, self.addr, register, value)?;
            }
            // Takes away the flag of a conversion that knew other settings.
            self.register(register::POWER)?;
        }
        self.conversion.start();
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        holds(register::CALIBRATION, CALIBRATION, self.register(register::CALIBRATION)?)?;
        let shunt_raw = self.register(register::SHUNT_VOLTAGE)?;
        let bus_raw = self.register(register::BUS_VOLTAGE)?;
        let power_raw = self.register(register::POWER)?;
        reading.faults = Faults::NONE;
        // The flag came with the bus voltage, before the power register took it away.
        if !self.conversion.has_ended(bus_raw & CNVR != 0) {
            reading.power.fill(Power::missing(Missing::Stale));
            return Ok(());
        }
        if let [channel] = reading.power.as_mut_slice() {
            *channel = Power {
                voltage: bus_voltage(bus_raw),
                current: current(shunt_raw, self.shunt),
                power: if bus_raw & OVF != 0 { Err(Missing::Implausible) } else { power(power_raw, self.shunt) },
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x40;
    const SHUNT: Microohms = Microohms(2_000);

    fn driver(transactions: &[T]) -> (Ina219<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Ina219::new(ADDR, mock.clone(), &Settings { shunt: SHUNT, ..Settings::default() }), mock)
    }

    fn word(register: u8, value: u16) -> T {
        T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec())
    }

    #[test]
    fn configuration_is_the_bits_of_the_datasheet() {
        // Section 8.6.2.1: the same fields with 12 bits, no averaging, are the reset value.
        assert_eq!(BRNG_32_V | PG_320_MV | 0b0011 << BADC | 0b0011 << SADC | MODE_CONTINUOUS, 0x399f);
        assert_eq!(CONFIGURATION, 0x3eef);
    }

    #[test]
    fn converts_as_the_datasheet_does() {
        // Section 8.6.3.2: full scale is 8000 steps, 32 V; the flags below do not count.
        assert_eq!(bus_voltage(8000 << 3 | 0b011), Ok(Millivolts(32_000)));
        assert_eq!(bus_voltage(2995 << 3), Ok(Millivolts(11_980)));
        // 20 mV over 2 mOhm, and full scale backwards, -320 mV.
        assert_eq!(current(2000, SHUNT), Ok(Milliamps(10_000)));
        assert_eq!(current(0x8300, SHUNT), Ok(Milliamps(-160_000)));
        // Power register = Current * Bus / 5000 = 2000 * 2995 / 5000 = 1198: 10 A at 11.98 V.
        assert_eq!(power(1198, SHUNT), Ok(Milliwatts(119_800)));
        assert_eq!(power(0xffff, Microohms(1)), Err(Missing::Implausible));
    }

    #[test]
    fn a_shunt_of_zero_is_implausible_not_a_panic() {
        assert_eq!(current(1, Microohms(0)), Err(Missing::Implausible));
        assert_eq!(power(1, Microohms(0)), Err(Missing::Implausible));
    }

    #[test]
    fn identifies_by_what_reads_as_zero_and_configures_with_read_back() {
        let (mut chip, mut mock) = driver(&[
            word(0x00, 0x399f),
            word(0x02, 0x5d9a),
            word(0x05, 0x0000),
            word(0x05, 0x0000),
            word(0x00, 0x399f),
            T::write(ADDR, vec![0x05, 0x10, 0x00]),
            word(0x05, 0x1000),
            T::write(ADDR, vec![0x00, 0x3e, 0xef]),
            word(0x00, 0x3eef),
            word(0x03, 0x0000),
        ]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        mock.done();
    }

    #[test]
    fn refuses_its_relatives_without_a_write() {
        // INA226 and INA3221 after reset.
        for found in [0x4127, 0x7127] {
            let (mut chip, mut mock) = driver(&[word(0x00, found)]);
            assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x00, found }));
            mock.done();
        }
    }

    #[test]
    fn one_that_lost_its_calibration_is_not_believed() {
        let (mut chip, mut mock) = driver(&[word(0x05, 0)]);
        let lost = Error::ReadBack { register: 0x05, written: 4096, found: 0 };
        assert_eq!(chip.read(&mut PART.missing(Missing::Stale)), Err(lost));
        mock.done();
    }

    #[test]
    fn nothing_is_believed_before_the_first_conversion() {
        let held = [word(0x05, 0x1000), word(0x00, 0x3eef)];
        let pass = |bus| [word(0x05, 0x1000), word(0x01, 0), word(0x02, bus), word(0x03, 0)];
        let stale = Power::missing(Missing::Stale);
        let idle = Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(0)), power: Ok(Milliwatts(0)) };
        for (ready, first) in [(0b00, stale), (0b10, idle)] {
            let (mut chip, mut mock) = driver(&[&held[..], &pass(3000 << 3 | ready), &pass(3000 << 3)].concat());
            assert_eq!(chip.configure(), Ok(()), "nothing to write");
            for expected in [first, idle] {
                let mut reading = PART.missing(Missing::Bus);
                assert_eq!(chip.read(&mut reading), Ok(()));
                assert_eq!(reading.power, [expected]);
            }
            mock.done();
        }
    }

    #[test]
    fn reads_three_registers_and_reports_overflow() {
        let pass = |bus| [word(0x05, 0x1000), word(0x01, 0xfc18), word(0x02, bus), word(0x03, 600)];
        let (mut chip, mut mock) = driver(&[pass(3000 << 3 | 0b10), pass(3000 << 3 | 0b11)].concat());
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let expected =
            Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(-5_000)), power: Ok(Milliwatts(60_000)) };
        assert_eq!(reading.power, [expected]);
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.power, [Power { power: Err(Missing::Implausible), ..expected }]);
        assert_eq!(reading.faults, Faults::NONE);
        mock.done();
    }
}
