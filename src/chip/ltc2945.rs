//! LTC2945: input voltage, current and power on one rail, up to 80 V (Linear Technology, 2945).
//!
//! Three 12-bit registers, left-aligned, and a 24-bit one that the chip fills with the product of current and voltage
//! while CONTROL selects the input voltage for it, as it does after reset. It measures forward current only; what flows
//! back reads as zero. Whether the input voltage is taken at SENSE+ or at VDD is the board's choice, and stays.
//!
//! There is no id register: the part is known by the bits below the twelve, which always read as zero. The LTC2946 has
//! the same measurements at the same places and passes for it; its control registers are others.
//!
//! The kernel's ltc2945 reads the same; it takes the shunt to be 1 mOhm where its device tree does not say.

use embedded_hal::i2c::I2c;

use super::register::{byte, word};
use super::{
    Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Setting, Settings, div_round_closest, holds,
    read_be, read_u8, read_wide, write_u8,
};
use crate::reading::{ChipReading, Fault, Faults, Missing, Power, Reading};
use crate::units::{Microohms, Milliamps, Millivolts, Milliwatts};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "ltc2945",
    about: "voltage, current and power of one rail up to 80 V",
    addresses: &[0x67..=0x6f],
    certainty: Certainty::Shape,
    power: &["1"],
    temperature: &[],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt],
    watchdog_s: &[],
    registers: Registers::of(&[
        byte("CONTROL", register::CONTROL, ""),
        byte("ALERT", 0x01, ""),
        byte("STATUS", 0x02, "bits as FAULT, now"),
        byte("FAULT", 0x03, "bits as STATUS, since they were last cleared"),
        Register { name: "POWER", at: register::POWER, form: Form::Be(3), formula: "P = 25 mV x 25 uV x raw / Rshunt" },
        word("SENSE", register::SENSE, "I = 25 uV x (raw >> 4) / Rshunt"),
        word("VIN", register::VIN, "U = 25 mV x (raw >> 4)"),
        word("ADIN", register::ADIN, "U = 0.5 mV x (raw >> 4)"),
    ]),
    kernel: Kernel { power: &[["in1", "curr1", "power1"]], temperature: &[], fan: &[] },
    open: |device, settings| Box::new(Ltc2945::new(device.addr(), device, settings)),
};

/// Register map (table 2).
mod register {
    pub(super) const CONTROL: u8 = 0x00;
    /// FAULT, cleared by being read.
    pub(super) const FAULT_COR: u8 = 0x04;
    pub(super) const POWER: u8 = 0x05;
    pub(super) const SENSE: u8 = 0x14;
    pub(super) const VIN: u8 = 0x1e;
    pub(super) const ADIN: u8 = 0x28;
}

/// CONTROL bits. Those without a name are to be 0: snapshot mode (7) and its channel (6:5), test mode (4), shutdown
/// (1). The ADC then measures all three inputs by turns, 7.5 times a second.
mod control {
    /// 1 = VIN is measured at SENSE+, 0 = at VDD.
    pub(super) const VIN_AT_SENSE: u8 = 1 << 2;
    /// 1 = power is current times VIN, 0 = times ADIN.
    pub(super) const MULTIPLY_VIN: u8 = 1;
}

/// FAULT bits: a threshold was passed. Thresholds are at the ends of the scale after reset, so nothing is set where
/// nobody set one.
const FAULTS: [(u8, Fault); 6] = [
    (1 << 7, Fault::OverPower),
    (1 << 5, Fault::OverCurrent),
    (1 << 4, Fault::UnderCurrent),
    (1 << 3, Fault::OverVoltage),
    (1 << 2, Fault::UnderVoltage),
    // Power below its minimum, ADIN above and below.
    (1 << 6 | 0b11, Fault::Other),
];

/// Bits below the twelve.
const ZERO: u16 = 0xf;

/// The 12-bit number that sits in bits 15:4.
fn value(raw: u16) -> i64 {
    i64::from(raw >> 4)
}

/// 25 mV a bit.
fn voltage(raw: u16) -> Reading<Millivolts> {
    Ok(Millivolts::try_from(value(raw) * 25)?)
}

/// 25 uV a bit across the shunt: I in mA = 25 000 * value / R in uOhm.
fn current(raw: u16, shunt: Microohms) -> Reading<Milliamps> {
    let nanovolts = value(raw) * 25_000;
    Ok(Milliamps::try_from(div_round_closest(nanovolts, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// 25 mV * 25 000 nV / R in uOhm is 625 000 uW a bit: P in mW = 625 * raw / R in uOhm.
fn power(raw: u64, shunt: Microohms) -> Reading<Milliwatts> {
    let scaled = raw.cast_signed().checked_mul(625).ok_or(Missing::Implausible)?;
    Ok(Milliwatts::try_from(div_round_closest(scaled, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

fn faults(fault: u8) -> Faults {
    FAULTS.iter().fold(Faults::NONE, |faults, (bits, is)| faults.with(*is, fault & bits != 0))
}

/// Driver of one LTC2945.
pub struct Ltc2945<I> {
    i2c: I,
    addr: u8,
    shunt: Microohms,
}

impl<I: I2c> Ltc2945<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        Self { i2c, addr, shunt: settings.shunt }
    }

    fn byte(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }

    fn word(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Ltc2945<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for register in [register::SENSE, register::VIN, register::ADIN] {
            let found = self.word(register)?;
            if found & ZERO != 0 {
                return Err(Error::WrongPart { register, found });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let kept = self.byte(register::CONTROL)? & control::VIN_AT_SENSE;
        write_u8(&mut self.i2c, self.addr, register::CONTROL, kept | control::MULTIPLY_VIN)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let found = self.byte(register::CONTROL)? & !control::VIN_AT_SENSE;
        holds(register::CONTROL, control::MULTIPLY_VIN.into(), found.into())?;
        // Cleared by being read, so each pass tells what happened since the last one; what lasts is set again.
        reading.faults = faults(self.byte(register::FAULT_COR)?);
        let power_raw = read_wide::<3, I>(&mut self.i2c, self.addr, register::POWER)?;
        let sense = self.word(register::SENSE)?;
        let vin = self.word(register::VIN)?;
        if let [channel] = reading.power.as_mut_slice() {
            *channel = Power {
                voltage: voltage(vin),
                current: current(sense, self.shunt),
                power: power(power_raw, self.shunt),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x6a;
    /// 5 mOhm: 5 mA and 125 uW a bit.
    const SHUNT: Microohms = Microohms(5_000);

    fn driver(transactions: &[T]) -> (Ltc2945<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Ltc2945::new(ADDR, mock.clone(), &Settings { shunt: SHUNT, ..Settings::default() }), mock)
    }

    fn byte(register: u8, value: u8) -> T {
        T::write_read(ADDR, vec![register], vec![value])
    }

    fn word(register: u8, value: u16) -> T {
        T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec())
    }

    #[test]
    fn converts_as_the_datasheet_does() {
        // "LSB Step Size": 25 uV, full scale 102.4 mV; 25 mV, full scale 102.4 V; less one step.
        assert_eq!(voltage(0xfff0), Ok(Millivolts(102_375)));
        assert_eq!(voltage(0x1e00), Ok(Millivolts(12_000)));
        assert_eq!(current(0x0010, SHUNT), Ok(Milliamps(5)));
        assert_eq!(current(0xfff0, SHUNT), Ok(Milliamps(20_475)));
        assert_eq!(power(8, SHUNT), Ok(Milliwatts(1)));
        assert_eq!(power(480 * 2000, SHUNT), Ok(Milliwatts(120_000)));
        assert_eq!(power(0xff_ffff, Microohms(1)), Err(Missing::Implausible));
    }

    #[test]
    fn a_shunt_of_zero_is_implausible_not_a_panic() {
        assert_eq!(current(0x10, Microohms(0)), Err(Missing::Implausible));
        assert_eq!(power(1, Microohms(0)), Err(Missing::Implausible));
    }

    #[test]
    fn is_known_by_the_bits_that_read_as_zero_and_keeps_the_boards_wiring() {
        let (mut chip, mut mock) = driver(&[
            word(0x14, 0x7d00),
            word(0x1e, 0x1e00),
            word(0x28, 0xfff0),
            // In snapshot mode, VIN at VDD.
            byte(0x00, 0xa0),
            T::write(ADDR, vec![0x00, 0x01]),
            byte(0x00, 0x01),
            // After reset.
            byte(0x00, 0x05),
            T::write(ADDR, vec![0x00, 0x05]),
            byte(0x00, 0x05),
            word(0x14, 0x7d01),
        ]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x14, found: 0x7d01 }));
        mock.done();
    }

    #[test]
    fn reads_with_faults_and_does_not_believe_one_that_multiplies_otherwise() {
        let (mut chip, mut mock) = driver(&[
            byte(0x00, 0x05),
            byte(0x04, 0xe4),
            T::write_read(ADDR, vec![0x05], vec![0x0e, 0xa6, 0x00]),
            word(0x14, 0x7d00),
            word(0x1e, 0x1e00),
            byte(0x00, 0x04),
        ]);
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let expected =
            Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(10_000)), power: Ok(Milliwatts(120_000)) };
        assert_eq!(reading.power, [expected]);
        let told = [Fault::UnderVoltage, Fault::OverCurrent, Fault::OverPower, Fault::Other];
        assert_eq!(reading.faults.iter().collect::<Vec<_>>(), told);
        let other = Error::ReadBack { register: 0x00, written: 0x01, found: 0x00 };
        assert_eq!(chip.read(&mut reading), Err(other));
        mock.done();
    }
}
