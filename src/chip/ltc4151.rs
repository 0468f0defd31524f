//! LTC4151: input voltage and current on one rail, up to 80 V (Linear Technology, 4151).
//!
//! The chip has no power register: power is computed here from the voltage and current of the same pass. It measures
//! forward current only; what flows back reads as zero.
//!
//! There is no id register. The part is known by bits that always read as zero and by decoding three bits of the
//! register number only (table 2), so that its control register is there eight further, too. That tells it from the
//! LTC2945, which has the same addresses.
//!
//! The kernel's ltc4151 reads the same; it takes the shunt to be 1 mOhm where its device tree does not say.

use embedded_hal::i2c::I2c;

use super::register::word;
use super::{
    Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Setting, Settings, div_round_closest, holds,
    read_be, read_u8, write_u8,
};
use crate::reading::{ChipReading, Faults, Missing, Power, Reading};
use crate::units::{Microohms, Milliamps, Millivolts, Milliwatts};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "ltc4151",
    about: "voltage and current of one rail up to 80 V; power is their product",
    addresses: &[0x67..=0x6f],
    certainty: Certainty::Shape,
    power: &["1"],
    temperature: &[],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt],
    watchdog_s: &[],
    registers: Registers::of(&[
        word("SENSE", register::SENSE, "I = 20 uV x (raw >> 4) / Rshunt"),
        word("VIN", register::VIN, "U = 25 mV x (raw >> 4)"),
        word("ADIN", register::ADIN, "U = 0.5 mV x (raw >> 4)"),
        Register { name: "CONTROL", at: register::CONTROL, form: Form::U8, formula: "" },
    ]),
    kernel: Kernel { power: &[["in1", "curr1", ""]], temperature: &[], fan: &[] },
    open: |device, settings| Box::new(Ltc4151::new(device.addr(), device, settings)),
};

/// Register map (table 2).
mod register {
    pub(super) const SENSE: u8 = 0x00;
    pub(super) const VIN: u8 = 0x02;
    pub(super) const ADIN: u8 = 0x04;
    pub(super) const CONTROL: u8 = 0x06;
    /// Bits 7:3 of the number are ignored.
    pub(super) const CONTROL_AGAIN: u8 = CONTROL + 8;
}

/// CONTROL bits (table 6).
mod control {
    /// 1 = several bytes can be read at once.
    pub(super) const PAGE: u8 = 1 << 3;
    /// Bits below belong to the board and are left as they are. Those above, all 0: the ADC measures all three inputs
    /// by turns, 7.5 times a second; not one on demand (7, 6:5), and not what a test writes (4).
    pub(super) const KEPT: u8 = 0b111;
}

/// Bits below the flag that a snapshot is under way; they always read as zero (tables 3 to 5).
const ZERO: u16 = 0b111;

/// The 12-bit number that sits in bits 15:4.
fn value(raw: u16) -> i64 {
    i64::from(raw >> 4)
}

/// 25 mV a bit.
fn voltage(raw: u16) -> Reading<Millivolts> {
    Ok(Millivolts::try_from(value(raw) * 25)?)
}

/// 20 uV a bit across the shunt: I in mA = 20 000 * value / R in uOhm, fractions cut off as the kernel does.
fn current(raw: u16, shunt: Microohms) -> Reading<Milliamps> {
    let nanovolts = value(raw) * 20_000;
    Ok(Milliamps::try_from(nanovolts.checked_div(shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// 25 mV * 20 000 nV / R in uOhm is 500 000 uW a bit of the product: P in mW = 500 * voltage * current / R in uOhm.
fn power(vin: u16, sense: u16, shunt: Microohms) -> Reading<Milliwatts> {
    let product = 500 * value(vin) * value(sense);
    Ok(Milliwatts::try_from(div_round_closest(product, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// Driver of one LTC4151.
pub struct Ltc4151<I> {
    i2c: I,
    addr: u8,
    shunt: Microohms,
}

impl<I: I2c> Ltc4151<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        Self { i2c, addr, shunt: settings.shunt }
    }

    fn word(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }

    fn control(&mut self, register: u8) -> Result<u8, Error<I::Error>> {
        read_u8(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Ltc4151<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        let control = self.control(register::CONTROL)?;
        let again = self.control(register::CONTROL_AGAIN)?;
        if again != control {
            return Err(Error::WrongPart { register: register::CONTROL_AGAIN, found: again.into() });
        }
        for register in [register::SENSE, register::VIN, register::ADIN] {
            let found = self.word(register)?;
            if found & ZERO != 0 {
                return Err(Error::WrongPart { register, found });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let kept = self.control(register::CONTROL)? & control::KEPT;
        write_u8(&mut self.i2c, self.addr, register::CONTROL, kept | control::PAGE)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let found = self.control(register::CONTROL)? & !control::KEPT;
        holds(register::CONTROL, control::PAGE.into(), found.into())?;
        let sense = self.word(register::SENSE)?;
        let vin = self.word(register::VIN)?;
        reading.faults = Faults::NONE;
        if let [channel] = reading.power.as_mut_slice() {
            *channel = Power {
                voltage: voltage(vin),
                current: current(sense, self.shunt),
                power: power(vin, sense, self.shunt),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x6f;
    /// The datasheet's typical application: 20 mOhm.
    const SHUNT: Microohms = Microohms(20_000);

    fn driver(transactions: &[T]) -> (Ltc4151<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Ltc4151::new(ADDR, mock.clone(), &Settings { shunt: SHUNT, ..Settings::default() }), mock)
    }

    fn byte(register: u8, value: u8) -> T {
        T::write_read(ADDR, vec![register], vec![value])
    }

    fn word(register: u8, value: u16) -> T {
        T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec())
    }

    #[test]
    fn converts_as_the_datasheet_does() {
        // Tables 3 and 4: 12 bits of 20 uV, full scale 81.92 mV, and of 25 mV, full scale 102.4 V; less one step.
        assert_eq!(voltage(0xfff0), Ok(Millivolts(102_375)));
        assert_eq!(voltage(0x7800), Ok(Millivolts(48_000)));
        assert_eq!(current(0xfff0, SHUNT), Ok(Milliamps(4_095)));
        assert_eq!(current(0x0010, Microohms(30_000)), Ok(Milliamps(0)));
        assert_eq!(power(0x7800, 0x7d00, SHUNT), Ok(Milliwatts(96_000)));
        // What a snapshot under way adds below does not count.
        assert_eq!(voltage(0x7808), Ok(Millivolts(48_000)));
    }

    #[test]
    fn a_shunt_of_zero_is_implausible_not_a_panic() {
        assert_eq!(current(0x10, Microohms(0)), Err(Missing::Implausible));
        assert_eq!(power(0x10, 0x10, Microohms(0)), Err(Missing::Implausible));
    }

    #[test]
    fn is_known_by_the_register_that_is_there_twice() {
        let (mut chip, mut mock) = driver(&[
            byte(0x06, 0x8c),
            byte(0x0e, 0x8c),
            word(0x00, 0x7d08),
            word(0x02, 0x7800),
            word(0x04, 0x0000),
            // Its snapshot mode goes, the board's bit stays.
            byte(0x06, 0x8c),
            T::write(ADDR, vec![0x06, 0x0c]),
            byte(0x06, 0x0c),
            // An LTC2945: power, and a limit of it.
            byte(0x06, 0x12),
            byte(0x0e, 0xff),
            // Neither.
            byte(0x06, 0x00),
            byte(0x0e, 0x00),
            word(0x00, 0x7d01),
        ]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x0e, found: 0xff }));
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x00, found: 0x7d01 }));
        mock.done();
    }

    #[test]
    fn reads_and_does_not_believe_one_in_snapshot_mode() {
        let (mut chip, mut mock) =
            driver(&[byte(0x06, 0x0c), word(0x00, 0x7d00), word(0x02, 0x7800), byte(0x06, 0x8c)]);
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let expected =
            Power { voltage: Ok(Millivolts(48_000)), current: Ok(Milliamps(2_000)), power: Ok(Milliwatts(96_000)) };
        assert_eq!(reading.power, [expected]);
        let snapshot = Error::ReadBack { register: 0x06, written: 0x08, found: 0x88 };
        assert_eq!(chip.read(&mut reading), Err(snapshot));
        mock.done();
    }
}
