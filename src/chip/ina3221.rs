//! INA3221: bus voltage and current on three rails (Texas Instruments, SBOS576).
//!
//! The chip has no power register: power is computed here from the bus and shunt registers of the same channel, which
//! its relatives multiply inside. It is a magnitude, as their power registers are. A board gives one shunt for the part,
//! so all three channels have to have the same.
//!
//! Registers and scales are those of the kernel's ina3221, which reads each channel as in1..3 and curr1..3.

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
    name: "ina3221",
    about: "voltage and current of three rails with the same shunt; power is their product",
    addresses: &[0x40..=0x43],
    certainty: Certainty::Id,
    power: &["1", "2", "3"],
    temperature: &[],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt],
    watchdog_s: &[],
    registers: Registers::of(&[
        word("Configuration", register::CONFIGURATION, ""),
        word("Channel-1 Shunt Voltage", register::SHUNT_VOLTAGE, "I = 40 uV x (raw >> 3) / Rshunt, signed"),
        word("Channel-1 Bus Voltage", register::BUS_VOLTAGE, "U = 8 mV x (raw >> 3), signed"),
        word("Channel-2 Shunt Voltage", register::SHUNT_VOLTAGE + 2, ""),
        word("Channel-2 Bus Voltage", register::BUS_VOLTAGE + 2, ""),
        word("Channel-3 Shunt Voltage", register::SHUNT_VOLTAGE + 4, ""),
        word("Channel-3 Bus Voltage", register::BUS_VOLTAGE + 4, ""),
        word("Mask/Enable", register::MASK_ENABLE, "reading it clears the alert flags, bits 9:3"),
        word("Manufacturer ID", register::MANUFACTURER_ID, "0x5449"),
        word("Die ID", register::DIE_ID, "0x3220"),
    ]),
    kernel: Kernel {
        power: &[["in1", "curr1", ""], ["in2", "curr2", ""], ["in3", "curr3", ""]],
        temperature: &[],
        fan: &[],
    },
    open: |device, settings| Box::new(Ina3221::new(device.addr(), device, settings)),
};

/// Register map (table 3); those of a channel are given for the first, the next channel's are two further.
mod register {
    pub(super) const CONFIGURATION: u8 = 0x00;
    pub(super) const SHUNT_VOLTAGE: u8 = 0x01;
    pub(super) const BUS_VOLTAGE: u8 = 0x02;
    pub(super) const MASK_ENABLE: u8 = 0x0f;
    pub(super) const MANUFACTURER_ID: u8 = 0xfe;
    pub(super) const DIE_ID: u8 = 0xff;
}

/// All channels, four samples of 1.1 ms each, shunt and bus, continuously: a new value every 26 ms. Not the reset
/// value, 0x7127, which averages nothing: so a part that was reset is noticed.
const CONFIGURATION: u16 = CH_EN | AVG_4 << 9 | CT_1100_US << 6 | CT_1100_US << 3 | MODE_CONTINUOUS;
const CH_EN: u16 = 0b111 << 12;
const AVG_4: u16 = 0b001;
const CT_1100_US: u16 = 0b100;
const MODE_CONTINUOUS: u16 = 0b111;
/// "TI" in ASCII.
const MANUFACTURER: u16 = 0x5449;
const DIE: u16 = 0x3220;

/// Mask/Enable bits (section 8.6.2.16), each set when a shunt voltage passed its limit: CF1 to CF3, the critical one,
/// on a single conversion; SF, that of the sum; WF1 to WF3, the warning one, on the average. Limits are at full scale
/// after reset, so nothing is set where nobody set one.
const FLAGS: u16 = CF | SF | WF;
const CF: u16 = 0b111 << 7;
const SF: u16 = 1 << 6;
const WF: u16 = 0b111 << 3;
/// A round of conversions has ended since this register was read or the configuration written.
const CVRF: u16 = 1;

/// The 13-bit number that sits in bits 15:3.
fn value(raw: u16) -> i64 {
    i64::from(raw.cast_signed() >> 3)
}

/// 8 mV a bit. The register is signed; what is below ground cannot be a rail.
fn bus_voltage(raw: u16) -> Reading<Millivolts> {
    Ok(Millivolts::try_from(value(raw) * 8)?)
}

/// 40 uV a bit across the shunt: I in mA = 40 000 * value / R in uOhm.
fn current(raw: u16, shunt: Microohms) -> Reading<Milliamps> {
    let nanovolts = value(raw) * 40_000;
    Ok(Milliamps::try_from(div_round_closest(nanovolts, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// Bus times shunt voltage: 8 mV * 40 000 nV / R in uOhm is 320 000 uW a bit, so P in mW = 320 * bus * shunt / R in
/// uOhm.
fn power(bus_raw: u16, shunt_raw: u16, shunt: Microohms) -> Reading<Milliwatts> {
    bus_voltage(bus_raw)?;
    let product = 320 * value(bus_raw) * value(shunt_raw).abs();
    Ok(Milliwatts::try_from(div_round_closest(product, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// Driver of one INA3221.
pub struct Ina3221<I> {
    i2c: I,
    addr: u8,
    shunt: Microohms,
    conversion: Conversion,
}

impl<I: I2c> Ina3221<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        Self { i2c, addr, shunt: settings.shunt, conversion: Conversion::default() }
    }

    fn register(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Ina3221<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, id) in [(register::MANUFACTURER_ID, MANUFACTURER), (register::DIE_ID, DIE)] {
            let found = self.register(register)?;
            if found != id {
                return Err(Error::WrongPart { register, found });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        write_be(&mut self.i2c, self.addr, register::CONFIGURATION, CONFIGURATION)?;
        self.conversion.start();
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        holds(register::CONFIGURATION, CONFIGURATION, self.register(register::CONFIGURATION)?)?;
        // Reading the flags clears them, so each pass tells what happened since the last one.
        let mask_enable = self.register(register::MASK_ENABLE)?;
        reading.faults = Faults::NONE.with(Fault::OverCurrent, mask_enable & FLAGS != 0);
        if !self.conversion.has_ended(mask_enable & CVRF != 0) {
            reading.power.fill(Power::missing(Missing::Stale));
            return Ok(());
        }
        for (channel, offset) in reading.power.iter_mut().zip([0, 2, 4]) {
            let shunt_raw = self.register(register::SHUNT_VOLTAGE + offset)?;
            let bus_raw = self.register(register::BUS_VOLTAGE + offset)?;
            *channel = Power {
                voltage: bus_voltage(bus_raw),
                current: current(shunt_raw, self.shunt),
                power: power(bus_raw, shunt_raw, self.shunt),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x41;
    const SHUNT: Microohms = Microohms(10_000);

    fn driver(transactions: &[T]) -> (Ina3221<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Ina3221::new(ADDR, mock.clone(), &Settings { shunt: SHUNT, ..Settings::default() }), mock)
    }

    fn word(register: u8, value: u16) -> T {
        T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec())
    }

    #[test]
    fn bits_are_those_of_the_datasheet() {
        // Section 8.6.2.1: without averaging, the fields are the reset value.
        assert_eq!(CONFIGURATION & !(AVG_4 << 9), 0x7127);
        assert_eq!(CONFIGURATION, 0x7327);
        assert_eq!(FLAGS, 0x03f8);
    }

    #[test]
    fn converts_the_datasheets_rows() {
        // Section 8.6.2.2: -80 mV is 0xc180, full scale 163.8 mV is 0x7ff8. Section 8.6.2.3: 32.76 V is 0x7ff8.
        assert_eq!(current(0xc180, SHUNT), Ok(Milliamps(-8_000)));
        assert_eq!(current(0x7ff8, SHUNT), Ok(Milliamps(16_380)));
        assert_eq!(bus_voltage(0x7ff8), Ok(Millivolts(32_760)));
        // One step below zero: no large number, and no rail either.
        assert_eq!(current(0xfff8, SHUNT), Ok(Milliamps(-4)));
        assert_eq!(bus_voltage(0xfff8), Err(Missing::Implausible));
        // 12 V times 8 A, whichever way it flows.
        assert_eq!(power(0x2ee0, 0xc180, SHUNT), Ok(Milliwatts(96_000)));
        assert_eq!(power(0x2ee0, 0x3e80, SHUNT), Ok(Milliwatts(96_000)));
        assert_eq!(power(0xfff8, 0x3e80, SHUNT), Err(Missing::Implausible));
    }

    #[test]
    fn a_shunt_of_zero_is_implausible_not_a_panic() {
        assert_eq!(current(8, Microohms(0)), Err(Missing::Implausible));
        assert_eq!(power(8, 8, Microohms(0)), Err(Missing::Implausible));
    }

    #[test]
    fn identifies_by_both_id_registers_and_configures_with_read_back() {
        let (mut chip, mut mock) = driver(&[
            word(0xfe, 0x5449),
            word(0xff, 0x3220),
            T::write(ADDR, vec![0x00, 0x73, 0x27]),
            word(0x00, 0x7327),
            // An INA226.
            word(0xfe, 0x5449),
            word(0xff, 0x2260),
        ]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0xff, found: 0x2260 }));
        mock.done();
    }

    #[test]
    fn one_that_was_reset_is_not_believed() {
        let (mut chip, mut mock) = driver(&[word(0x00, 0x7127)]);
        let reset = Error::ReadBack { register: 0x00, written: 0x7327, found: 0x7127 };
        assert_eq!(chip.read(&mut PART.missing(Missing::Stale)), Err(reset));
        mock.done();
    }

    #[test]
    fn nothing_is_believed_before_the_first_conversion() {
        let configure = [T::write(ADDR, vec![0x00, 0x73, 0x27]), word(0x00, 0x7327)];
        let flags = |mask| [word(0x00, 0x7327), word(0x0f, mask)];
        let values: [T; 6] = [1, 2, 3, 4, 5, 6].map(|register| word(register, 0));
        let nothing = Power { voltage: Ok(Millivolts(0)), current: Ok(Milliamps(0)), power: Ok(Milliwatts(0)) };
        let waits = [&configure[..], &flags(0x0002), &flags(0x0002), &values].concat();
        let has_it = [&configure[..], &flags(0x0003), &values].concat();
        for (script, passes) in [(waits, vec![Power::missing(Missing::Stale), nothing]), (has_it, vec![nothing])] {
            let (mut chip, mut mock) = driver(&script);
            assert_eq!(chip.configure(), Ok(()));
            for expected in passes {
                let mut reading = PART.missing(Missing::Bus);
                assert_eq!(chip.read(&mut reading), Ok(()));
                assert_eq!(reading.power, [expected; 3]);
            }
            mock.done();
        }
    }

    #[test]
    fn reads_three_channels_and_tells_a_passed_limit_once() {
        let pass = |mask| {
            [
                word(0x00, 0x7327),
                word(0x0f, mask),
                word(0x01, 0x3e80),
                word(0x02, 0x2ee0),
                word(0x03, 0xfff8),
                word(0x04, 0x0ce8),
                word(0x05, 0x0000),
                word(0x06, 0xfff8),
            ]
        };
        // The timing flag means nothing here, nor conversion ready once there was a pass; WF3 does.
        let (mut chip, mut mock) = driver(&[pass(0x0003), pass(0x000b), pass(0x0003)].concat());
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let rail = |voltage, current, power| Power {
            voltage: Ok(Millivolts(voltage)),
            current: Ok(Milliamps(current)),
            power: Ok(Milliwatts(power)),
        };
        let below_ground = Power { current: Ok(Milliamps(0)), ..Power::missing(Missing::Implausible) };
        assert_eq!(reading.power, [rail(12_000, 8_000, 96_000), rail(3_304, -4, 13), below_ground]);
        assert_eq!(reading.faults, Faults::NONE);
        for over_current in [true, false] {
            assert_eq!(chip.read(&mut reading), Ok(()));
            assert_eq!(reading.faults.has(Fault::OverCurrent), over_current);
        }
        mock.done();
    }
}
