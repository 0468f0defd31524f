//! INA226: bus voltage, current and power on one rail (Texas Instruments, SBOS547).
//!
//! The calibration register is set to 2048, so that the current register repeats the shunt register (equation 3:
//! Current = Shunt * Cal / 2048) and its LSB is 2.5 uV / Rshunt. The power register's LSB is 25 times that (section 7.5).
//! Current is taken from the shunt register, as the kernel's ina2xx does since 6.12; both give the same number.

use embedded_hal::i2c::I2c;

use super::register::word;
use super::{
    Certainty, Conversion, Driver, Error, Kernel, Part, Registers, Setting, Settings, div_round_closest, holds,
    read_be, write_be,
};
use crate::reading::{ChipReading, Fault, Faults, Missing, Power, Reading};
use crate::units::{Microohms, Milliamps, Millivolts, Milliwatts};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "ina226",
    about: "voltage, current and power of one rail",
    addresses: &[0x40..=0x4f],
    certainty: Certainty::Id,
    power: &["1"],
    temperature: &[],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt],
    watchdog_s: &[],
    registers: Registers::of(&[
        word("Configuration", register::CONFIGURATION, ""),
        word("Shunt Voltage", register::SHUNT_VOLTAGE, "I = 2.5 uV x raw / Rshunt, signed"),
        word("Bus Voltage", register::BUS_VOLTAGE, "U = 1.25 mV x raw"),
        word("Power", register::POWER, "P = 25 x 2.5 uV x raw / Rshunt"),
        word("Calibration", register::CALIBRATION, "2048: the current register repeats the shunt register"),
        word("Mask/Enable", register::MASK_ENABLE, ""),
        word("Manufacturer ID", register::MANUFACTURER_ID, "0x5449"),
        word("Die ID", register::DIE_ID, "0x2260"),
    ]),
    kernel: Kernel { power: &[["in1", "curr1", "power1"]], temperature: &[], fan: &[] },
    open: |device, settings| Box::new(Ina226::new(device.addr(), device, settings)),
};

/// Register map (table 7-3).
mod register {
    pub(super) const CONFIGURATION: u8 = 0x00;
    pub(super) const SHUNT_VOLTAGE: u8 = 0x01;
    pub(super) const BUS_VOLTAGE: u8 = 0x02;
    pub(super) const POWER: u8 = 0x03;
    pub(super) const CALIBRATION: u8 = 0x05;
    pub(super) const MASK_ENABLE: u8 = 0x06;
    pub(super) const MANUFACTURER_ID: u8 = 0xfe;
    pub(super) const DIE_ID: u8 = 0xff;
}

/// Averages 16 samples of 1.1 ms each, shunt and bus, continuously: a new value every 36 ms.
/// Bit 14 always reads as one (table 7-4).
const CONFIGURATION: u16 = 0x4000 | AVG_16 << 9 | CT_1100_US << 6 | CT_1100_US << 3 | MODE_CONTINUOUS;
const AVG_16: u16 = 0b010;
const CT_1100_US: u16 = 0b100;
const MODE_CONTINUOUS: u16 = 0b111;
/// Makes the current register equal the shunt register (equation 3).
const CALIBRATION: u16 = 2048;
/// "TI" in ASCII.
const MANUFACTURER: u16 = 0x5449;
/// Die id 0x226 in bits 15:4, revision below.
const DIE: u16 = 0x226;

/// Mask/Enable bits (table 7-12): which limit the alert pin watches, and that it was passed.
mod mask {
    pub(super) const SHUNT_OVER: u16 = 1 << 15;
    pub(super) const SHUNT_UNDER: u16 = 1 << 14;
    pub(super) const BUS_OVER: u16 = 1 << 13;
    pub(super) const BUS_UNDER: u16 = 1 << 12;
    pub(super) const POWER_OVER: u16 = 1 << 11;
    pub(super) const ALERT_FUNCTION_FLAG: u16 = 1 << 4;
    /// A conversion has ended since this register was read or the configuration written.
    pub(super) const CONVERSION_READY: u16 = 1 << 3;
    pub(super) const MATH_OVERFLOW: u16 = 1 << 2;
}

/// 1.25 mV a bit, rounded (section 7.5).
fn bus_voltage(raw: u16) -> Reading<Millivolts> {
    let microvolts = i64::from(raw) * 1250;
    Ok(Millivolts::try_from(div_round_closest(microvolts, 1000).ok_or(Missing::Implausible)?)?)
}

/// 2.5 uV a bit across the shunt, signed: I in mA = 2500 * raw / R in uOhm.
fn current(raw: u16, shunt: Microohms) -> Reading<Milliamps> {
    let nanovolts = i64::from(raw.cast_signed()) * 2500;
    Ok(Milliamps::try_from(div_round_closest(nanovolts, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// 25 current LSBs a bit: P in mW = 25 * 2500 * raw / R in uOhm.
fn power(raw: u16, shunt: Microohms) -> Reading<Milliwatts> {
    let scaled = i64::from(raw) * 25 * 2500;
    Ok(Milliwatts::try_from(div_round_closest(scaled, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// What the alert function says, where it was set up.
fn faults(mask_enable: u16) -> Faults {
    let alert = |bit| mask_enable & mask::ALERT_FUNCTION_FLAG != 0 && mask_enable & bit != 0;
    Faults::NONE
        .with(Fault::OverVoltage, alert(mask::BUS_OVER))
        .with(Fault::UnderVoltage, alert(mask::BUS_UNDER))
        .with(Fault::OverCurrent, alert(mask::SHUNT_OVER))
        .with(Fault::UnderCurrent, alert(mask::SHUNT_UNDER))
        .with(Fault::OverPower, alert(mask::POWER_OVER))
}

/// Driver of one INA226.
pub struct Ina226<I> {
    i2c: I,
    addr: u8,
    shunt: Microohms,
    conversion: Conversion,
}

impl<I: I2c> Ina226<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        Self { i2c, addr, shunt: settings.shunt, conversion: Conversion::default() }
    }

    fn register(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Ina226<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.register(register::MANUFACTURER_ID)?;
        if found != MANUFACTURER {
            return Err(Error::WrongPart { register: register::MANUFACTURER_ID, found });
        }
        let found = self.register(register::DIE_ID)?;
        if found >> 4 == DIE { Ok(()) } else { Err(Error::WrongPart { register: register::DIE_ID, found }) }
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        write_be(&mut self.i2c, self.addr, register::CALIBRATION, CALIBRATION)?;
        write_be(&mut self.i2c, self.addr, register::CONFIGURATION, CONFIGURATION)?;
        self.conversion.start();
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        holds(register::CALIBRATION, CALIBRATION, self.register(register::CALIBRATION)?)?;
        let mask_enable = self.register(register::MASK_ENABLE)?;
        let shunt_raw = self.register(register::SHUNT_VOLTAGE)?;
        let bus_raw = self.register(register::BUS_VOLTAGE)?;
        let power_raw = self.register(register::POWER)?;
        let overflow = mask_enable & mask::MATH_OVERFLOW != 0;
        reading.faults = faults(mask_enable);
        if !self.conversion.has_ended(mask_enable & mask::CONVERSION_READY != 0) {
            reading.power.fill(Power::missing(Missing::Stale));
            return Ok(());
        }
        if let [channel] = reading.power.as_mut_slice() {
            *channel = Power {
                voltage: bus_voltage(bus_raw),
                current: current(shunt_raw, self.shunt),
                power: if overflow { Err(Missing::Implausible) } else { power(power_raw, self.shunt) },
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
    /// The datasheet's worked example (table 8-1): 2 mOhm, 10 A, 12 V.
    const SHUNT: Microohms = Microohms(2_000);

    fn driver(transactions: &[T]) -> (Ina226<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Ina226::new(ADDR, mock.clone(), &Settings { shunt: SHUNT, ..Settings::default() }), mock)
    }

    #[test]
    fn configuration_is_the_bits_of_the_datasheet() {
        assert_eq!(CONFIGURATION, 0x4527);
    }

    #[test]
    fn converts_the_datasheets_rows() {
        // Table 8-1: bus 9584 = 11.98 V, shunt 8000 = 20 mV = 10 A; power register 4792 at 25 mW/bit and a 1 mA LSB there,
        // at our LSB of 1.25 mA the register holds 4792 / 1.25 = 3834 (31.25 mW a bit).
        assert_eq!(bus_voltage(9584), Ok(Millivolts(11_980)));
        assert_eq!(current(8000, SHUNT), Ok(Milliamps(10_000)));
        assert_eq!(power(3834, SHUNT), Ok(Milliwatts(119_813)));
        // Section 7.6.2: -80 mV is 0x8300.
        assert_eq!(current(0x8300, SHUNT), Ok(Milliamps(-40_000)));
        assert_eq!(bus_voltage(0), Ok(Millivolts(0)));
        assert_eq!(bus_voltage(0x7fff), Ok(Millivolts(40_959)));
    }

    #[test]
    fn a_shunt_of_zero_is_implausible_not_a_panic() {
        assert_eq!(current(1, Microohms(0)), Err(Missing::Implausible));
    }

    #[test]
    fn identifies_by_both_id_registers_and_configures_with_read_back() {
        let (mut chip, mut mock) = driver(&[
            T::write_read(ADDR, vec![0xfe], vec![0x54, 0x49]),
            T::write_read(ADDR, vec![0xff], vec![0x22, 0x60]),
            T::write(ADDR, vec![0x05, 0x08, 0x00]),
            T::write_read(ADDR, vec![0x05], vec![0x08, 0x00]),
            T::write(ADDR, vec![0x00, 0x45, 0x27]),
            T::write_read(ADDR, vec![0x00], vec![0x45, 0x27]),
        ]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        mock.done();
    }

    #[test]
    fn refuses_another_part_without_a_write() {
        let (mut chip, mut mock) = driver(&[
            T::write_read(ADDR, vec![0xfe], vec![0x54, 0x49]),
            T::write_read(ADDR, vec![0xff], vec![0x32, 0x20]),
        ]);
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0xff, found: 0x3220 }));
        mock.done();
    }

    #[test]
    fn one_that_lost_its_calibration_is_not_believed() {
        let (mut chip, mut mock) = driver(&[T::write_read(ADDR, vec![0x05], vec![0x00, 0x00])]);
        let lost = Error::ReadBack { register: 0x05, written: 2048, found: 0 };
        assert_eq!(chip.read(&mut PART.missing(Missing::Stale)), Err(lost));
        mock.done();
    }

    #[test]
    fn nothing_is_believed_before_the_first_conversion() {
        let configure = [(0x05, 0x08, 0x00), (0x00, 0x45, 0x27)].map(|(register, high, low)| {
            [T::write(ADDR, vec![register, high, low]), T::write_read(ADDR, vec![register], vec![high, low])]
        });
        let pass = |mask| {
            [(0x05, [0x08, 0x00]), (0x06, [0x00, mask]), (0x01, [0, 0]), (0x02, [0x25, 0x80]), (0x03, [0, 0])]
                .map(|(register, value)| T::write_read(ADDR, vec![register], value.to_vec()))
        };
        let stale = Power::missing(Missing::Stale);
        let idle = Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(0)), power: Ok(Milliwatts(0)) };
        for (ready, first) in [(0x00, stale), (0x08, idle)] {
            let (mut chip, mut mock) = driver(&[&configure.concat()[..], &pass(ready), &pass(0x00)].concat());
            assert_eq!(chip.configure(), Ok(()));
            for expected in [first, idle] {
                let mut reading = PART.missing(Missing::Bus);
                assert_eq!(chip.read(&mut reading), Ok(()));
                assert_eq!(reading.power, [expected]);
            }
            mock.done();
        }
    }

    #[test]
    fn reads_all_four_registers_and_reports_overflow_and_alerts() {
        let words = |mask: [u8; 2]| {
            [
                T::write_read(ADDR, vec![0x05], vec![0x08, 0x00]),
                T::write_read(ADDR, vec![0x06], mask.to_vec()),
                T::write_read(ADDR, vec![0x01], vec![0xf0, 0x60]),
                T::write_read(ADDR, vec![0x02], vec![0x25, 0x80]),
                T::write_read(ADDR, vec![0x03], vec![0x07, 0x80]),
            ]
        };
        let mut all = words([0x00, 0x00]).to_vec();
        all.extend(words([0x10, 0x14]));
        let (mut chip, mut mock) = driver(&all);
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let expected =
            Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(-5_000)), power: Ok(Milliwatts(60_000)) };
        assert_eq!(reading.power, [expected]);
        assert_eq!(reading.faults, Faults::NONE);
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.power, [Power { power: Err(Missing::Implausible), ..expected }]);
        assert_eq!(reading.faults, Faults::NONE.with(Fault::UnderVoltage, true));
        mock.done();
    }
}
