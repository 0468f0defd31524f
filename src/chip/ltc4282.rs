//! LTC4282: a hot-swap controller that measures its rail: voltage, current, power, and why it is off (Analog Devices).
//!
//! **Nothing is ever written to it.** It switches the rail, its settings come from its own EEPROM, and more than one
//! register can turn the output off, or on again by clearing the log. So this driver takes it as the board has set it
//! up: which full scale the voltage has is read each time from VIN_MODE, and a converter that stands is told, not
//! started.
//!
//! Codes are left-aligned in 16 bits in both resolutions: U = code / 65535 * Vfs, I = code / 65535 * 40 mV / Rsense, and
//! P = code * 65536 / 65535^2 * Vfs * 40 mV / Rsense. The voltage is that of the output (VSOURCE) or of the input (VDD),
//! as ILIM_ADJUST has it; the kernel's ltc4282 calls it in0 or in1. The maker's own code selects the output.
//!
//! There is no id register, and no bit that could stand for one: the board's word is taken for it. Register names and
//! bits are those of the maker's own code for the part (Linduino) and of the kernel's ltc4282.

use embedded_hal::i2c::I2c;

use super::register::{byte, word};
use super::{
    Certainty, Driver, Error, Kernel, Part, Registers, Setting, Settings, div_round_closest, read_be, read_u8,
};
use crate::reading::{ChipReading, Fault, Faults, Missing, Power, Reading};
use crate::units::{Microohms, Milliamps, Millivolts, Milliwatts};

/// The part, as boards see it.
pub static PART: Part = Part {
    name: "ltc4282",
    about: "hot swap of one rail: voltage, current, power, faults; nothing is written to it",
    addresses: &[0x40..=0x5a],
    certainty: Certainty::Word,
    power: &["1"],
    temperature: &[],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt],
    watchdog_s: &[],
    registers: Registers::of(&[
        word("CONTROL", register::CONTROL, "bits 1:0: VIN_MODE, Vfs 5.54, 8.32, 16.64, 33.28 V"),
        byte("FAULT_LOG", register::FAULT_LOG, "since it was last cleared"),
        byte("ADC_ALERT_LOG", 0x05, "since it was last cleared"),
        byte("ILIM_ADJUST", 0x11, "bit 2: VSOURCE is the output, else the input; bit 0: 16 bits, else 12"),
        byte("ADC_CONTROL", 0x1d, ""),
        word("STATUS", register::STATUS, ""),
        word("VSOURCE", register::VSOURCE, "U = Vfs x raw / 65535"),
        word("VSENSE", register::VSENSE, "I = 40 mV x raw / 65535 / Rsense"),
        word("POWER", register::POWER, "P = 40 mV x Vfs x 65536 x raw / 65535^2 / Rsense"),
    ]),
    kernel: Kernel { power: &[["in0", "curr1", "power1"]], temperature: &[], fan: &[] },
    open: |device, settings| Box::new(Ltc4282::new(device.addr(), device, settings)),
};

/// Register map.
mod register {
    pub(super) const CONTROL: u8 = 0x00;
    pub(super) const FAULT_LOG: u8 = 0x04;
    pub(super) const STATUS: u8 = 0x1e;
    pub(super) const VSOURCE: u8 = 0x3a;
    pub(super) const VSENSE: u8 = 0x40;
    pub(super) const POWER: u8 = 0x46;
}

/// CONTROL, both bytes: VIN_MODE sits in the second.
const VIN_MODE: u16 = 0b11;

/// STATUS, both bytes: how things are now.
mod status {
    pub(super) const ON_STATUS: u16 = 1 << 15;
    pub(super) const FET_BAD_COOLDOWN_STATUS: u16 = 1 << 14;
    pub(super) const FET_SHORT_PRESENT: u16 = 1 << 13;
    pub(super) const POWER_GOOD_STATUS: u16 = 1 << 11;
    pub(super) const OC_COOLDOWN_STATUS: u16 = 1 << 10;
    pub(super) const UV_STATUS: u16 = 1 << 9;
    pub(super) const OV_STATUS: u16 = 1 << 8;
    /// The converter stands, after a single measurement: 0 while it runs.
    pub(super) const ADC_IDLE: u16 = 1 << 2;
}

/// FAULT_LOG bits that are faults of what is switched.
const LOG: [(u8, Fault); 4] = [
    (1, Fault::OverVoltage),
    (1 << 1, Fault::UnderVoltage),
    (1 << 2, Fault::OverCurrent),
    // FET short, FET bad.
    (0b11 << 5, Fault::Other),
];

/// Full scale of the codes.
const CODE_MAX: i64 = 0xffff;
/// Full scale of the sense voltage, in mV.
const SENSE_MV: i64 = 40;

/// Full scale of the voltage in mV.
fn full_scale(control: u16) -> i64 {
    match control & VIN_MODE {
        0b00 => 5_540,
        0b01 => 8_320,
        0b10 => 16_640,
        _ => 33_280,
    }
}

/// U in mV = code * Vfs in mV / 65535.
fn voltage(code: u16, full_scale: i64) -> Reading<Millivolts> {
    Ok(Millivolts::try_from(div_round_closest(i64::from(code) * full_scale, CODE_MAX).ok_or(Missing::Implausible)?)?)
}

/// The sense voltage in tenths of a microvolt first, as the kernel has it: I in mA = 100 * tenths / R in uOhm.
fn current(code: u16, shunt: Microohms) -> Reading<Milliamps> {
    let scaled = i64::from(code) * SENSE_MV * 10_000;
    let tenths = div_round_closest(scaled, CODE_MAX).ok_or(Missing::Implausible)?;
    Ok(Milliamps::try_from(div_round_closest(tenths * 100, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// mV * mV / uOhm is 1000 mW: P in mW = 1000 * 40 * Vfs in mV * code * 65536 / (65535^2 * R in uOhm).
fn power(code: u16, full_scale: i64, shunt: Microohms) -> Reading<Milliwatts> {
    let scaled = 1000 * SENSE_MV * full_scale * i64::from(code) * (CODE_MAX + 1);
    let divisor = (CODE_MAX * CODE_MAX).checked_mul(shunt.0.into()).ok_or(Missing::Implausible)?;
    Ok(Milliwatts::try_from(div_round_closest(scaled, divisor).ok_or(Missing::Implausible)?)?)
}

/// What is wrong now; and while the output is off, what the log has as the reason. The log is never cleared here, so
/// while the output is on it only tells of old times.
fn faults(status: u16, log: u8) -> Faults {
    let off = status & status::ON_STATUS == 0;
    let reasons = LOG.iter().fold(Faults::NONE, |faults, (bits, is)| faults.with(*is, off && log & bits != 0));
    reasons
        .with(Fault::OverVoltage, status & status::OV_STATUS != 0)
        .with(Fault::UnderVoltage, status & status::UV_STATUS != 0)
        .with(Fault::OverCurrent, status & status::OC_COOLDOWN_STATUS != 0)
        .with(Fault::PowerGood, status & status::POWER_GOOD_STATUS == 0)
        .with(Fault::Off, off)
        .with(Fault::Other, status & (status::FET_SHORT_PRESENT | status::FET_BAD_COOLDOWN_STATUS) != 0)
}

/// Driver of one LTC4282.
pub struct Ltc4282<I> {
    i2c: I,
    addr: u8,
    shunt: Microohms,
}

impl<I: I2c> Ltc4282<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, settings: &Settings) -> Self {
        Self { i2c, addr, shunt: settings.shunt }
    }

    fn word(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Ltc4282<I> {
    /// That something answers is all there is to know.
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        self.word(register::STATUS).map(|_| ())
    }

    /// Writes nothing: see the module's text.
    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        Ok(())
    }

    /// A rail that is off is measured all the same: what still flows through it is worth knowing.
    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let full_scale = full_scale(self.word(register::CONTROL)?);
        let status = self.word(register::STATUS)?;
        let log = read_u8(&mut self.i2c, self.addr, register::FAULT_LOG)?;
        let vsource = self.word(register::VSOURCE)?;
        let vsense = self.word(register::VSENSE)?;
        let power_code = self.word(register::POWER)?;
        reading.faults = faults(status, log);
        if let [channel] = reading.power.as_mut_slice() {
            *channel = if status & status::ADC_IDLE != 0 {
                Power::missing(Missing::Stale)
            } else {
                Power {
                    voltage: voltage(vsource, full_scale),
                    current: current(vsense, self.shunt),
                    power: power(power_code, full_scale, self.shunt),
                }
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x4a;
    const SHUNT: Microohms = Microohms(1_000);
    /// On, ON pin high, power good.
    const GOOD: u16 = 0x9800;

    fn driver(transactions: &[T]) -> (Ltc4282<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Ltc4282::new(ADDR, mock.clone(), &Settings { shunt: SHUNT, ..Settings::default() }), mock)
    }

    fn word(register: u8, value: u16) -> T {
        T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec())
    }

    #[test]
    fn full_scale_codes_are_full_scale() {
        for (mode, millivolts) in [(0, 5_540), (1, 8_320), (2, 16_640), (3, 33_280)] {
            assert_eq!(full_scale(0xbbfc | mode), i64::from(millivolts));
            assert_eq!(voltage(0xffff, full_scale(mode)), Ok(Millivolts(millivolts)));
        }
        // 40 mV over 1 mOhm is 40 A; times 16.64 V that is 665.6 W, and 65536 / 65535 of it.
        assert_eq!(current(0xffff, SHUNT), Ok(Milliamps(40_000)));
        assert_eq!(power(0xffff, 16_640, SHUNT), Ok(Milliwatts(665_610)));
    }

    #[test]
    fn rounds_as_the_kernel_does() {
        // 47260 * 16640 mV / 65535 = 11999.8 mV.
        assert_eq!(voltage(47_260, 16_640), Ok(Millivolts(12_000)));
        // 100 * 40 mV / 65535 = 61.038 uV, which is 61.0 uV before it is divided.
        assert_eq!(current(100, Microohms(1)), Ok(Milliamps(61_000)));
    }

    #[test]
    fn no_content_and_no_shunt_panics() {
        assert_eq!(current(1, Microohms(0)), Err(Missing::Implausible));
        assert_eq!(power(1, 33_280, Microohms(0)), Err(Missing::Implausible));
        assert_eq!(power(0xffff, 33_280, Microohms(u32::MAX)), Err(Missing::Implausible));
        assert_eq!(power(0xffff, 33_280, Microohms(1)), Ok(Milliwatts(1_331_220_313)));
    }

    #[test]
    fn the_log_counts_while_the_output_is_off() {
        let told = |status, log| faults(status, log).iter().collect::<Vec<_>>();
        assert_eq!(told(GOOD, 0xff), []);
        assert_eq!(told(GOOD | 1 << 9, 0), [Fault::UnderVoltage]);
        assert_eq!(told(0x1000, 0), [Fault::PowerGood, Fault::Off]);
        assert_eq!(told(0x1000, 1 << 2), [Fault::OverCurrent, Fault::PowerGood, Fault::Off]);
        assert_eq!(told(0x1000, 1 << 6), [Fault::PowerGood, Fault::Off, Fault::Other]);
        assert_eq!(told(0x3000, 0), [Fault::PowerGood, Fault::Off, Fault::Other]);
        // EEPROM written, ON pin changed: no faults.
        assert_eq!(told(0x1000, 0x90), [Fault::PowerGood, Fault::Off]);
    }

    #[test]
    fn reads_only_and_tells_a_converter_that_stands() {
        let pass = |status| {
            [
                word(0x00, 0xbb02),
                word(0x1e, status),
                T::write_read(ADDR, vec![0x04], vec![0x00]),
                word(0x3a, 47_260),
                word(0x40, 32_768),
                word(0x46, 23_630),
            ]
        };
        let (mut chip, mut mock) = driver(&[&[word(0x1e, GOOD)][..], &pass(GOOD), &pass(GOOD | 1 << 2)].concat());
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = PART.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let expected =
            Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(20_000)), power: Ok(Milliwatts(240_000)) };
        assert_eq!(reading.power, [expected]);
        assert_eq!(reading.faults, Faults::NONE);
        assert_eq!(chip.read(&mut reading), Ok(()));
        assert_eq!(reading.power, [Power::missing(Missing::Stale)]);
        mock.done();
    }
}
