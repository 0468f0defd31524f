//! ADM1272, ADM1275, ADM1278: hot-swap controllers that measure what goes through them (Analog Devices, PMBus).
//!
//! A 12-bit converter looks at the shunt, at the voltage before it (or, on the ADM1275 if so set, behind it), and on
//! two of the parts at a transistor's temperature. Numbers are DIRECT; the coefficients, and the bits of PMON_CONFIG
//! that select them, are those of the kernel's adm1275, which has them from the datasheets. They are given for one
//! milliohm: m of current and power is proportional to the shunt.
//!
//! PMON_CONFIG is only obeyed while the converter stands, so it is stopped for the change. Nothing else is ever
//! written: what goes through the part is the board's business, and OPERATION, which could switch it off, is never
//! sent.

use embedded_hal::i2c::I2c;

use super::pmbus::format::{Direct, MILLIOHM};
use super::pmbus::link::Link;
use super::pmbus::{block, byte, command, status, word};
use super::{
    Certainty, Driver, Error, Kernel, Part, Register, Registers, Setting, Settings, div_round_closest, holds, quantity,
};
use crate::reading::{ChipReading, Missing, Power, Reading};
use crate::units::{Microohms, Milliamps, Millicelsius, Millivolts, Milliwatts};

/// The part for 48 V, as boards see it.
pub static ADM1272: Part = Part {
    name: "adm1272",
    about: "hot swap of a 48 V rail: voltage, current, power, temperature",
    addresses: &[0x10..=0x77],
    certainty: Certainty::Id,
    power: &["1"],
    temperature: &["1"],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt, Setting::Pec],
    watchdog_s: &[],
    registers: Registers::of(&REGISTERS_WIDE),
    kernel: Kernel { power: &[["in1", "curr1", "power1"]], temperature: &["temp1"], fan: &[] },
    open: |device, settings| Box::new(Adm1275::new(&MODEL_1272, device.addr(), device, settings)),
};

/// The part without power and temperature, as boards see it.
pub static ADM1275: Part = Part {
    name: "adm1275",
    about: "hot swap of a rail up to 20 V: voltage, current",
    addresses: &[0x10..=0x77],
    certainty: Certainty::Id,
    power: &["1"],
    temperature: &[],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt, Setting::Pec],
    watchdog_s: &[],
    registers: Registers::of(&REGISTERS_1275),
    kernel: Kernel { power: &[["in1", "curr1", ""]], temperature: &[], fan: &[] },
    open: |device, settings| Box::new(Adm1275::new(&MODEL_1275, device.addr(), device, settings)),
};

/// The part for 12 V with power and temperature, as boards see it.
pub static ADM1278: Part = Part {
    name: "adm1278",
    about: "hot swap of a rail up to 20 V: voltage, current, power, temperature",
    addresses: &[0x10..=0x77],
    certainty: Certainty::Id,
    power: &["1"],
    temperature: &["1"],
    fan: &[],
    drives_fans: false,
    takes: &[Setting::Shunt, Setting::Pec],
    watchdog_s: &[],
    registers: Registers::of(&REGISTERS_WIDE),
    kernel: Kernel { power: &[["in1", "curr1", "power1"]], temperature: &["temp1"], fan: &[] },
    open: |device, settings| Box::new(Adm1275::new(&MODEL_1278, device.addr(), device, settings)),
};

const DIRECT: &str = "X = (raw x 10^-R - b) / m, signed; m, b, R by the part and PMON_CONFIG";

const REGISTERS_WIDE: [Register; 16] = [
    word("STATUS_WORD", command::STATUS_WORD, ""),
    byte("STATUS_VOUT", command::STATUS_VOUT, ""),
    byte("STATUS_IOUT", command::STATUS_IOUT, ""),
    byte("STATUS_INPUT", command::STATUS_INPUT, ""),
    byte("STATUS_TEMPERATURE", command::STATUS_TEMPERATURE, ""),
    byte("STATUS_MFR_SPECIFIC", command::STATUS_MFR_SPECIFIC, ""),
    word("READ_VIN", command::READ_VIN, DIRECT),
    word("READ_VOUT", command::READ_VOUT, DIRECT),
    word("READ_IOUT", command::READ_IOUT, DIRECT),
    word("READ_TEMPERATURE_1", command::READ_TEMPERATURE_1, DIRECT),
    word("READ_PIN", command::READ_PIN, DIRECT),
    block("MFR_ID", command::MFR_ID),
    block("MFR_MODEL", command::MFR_MODEL),
    byte("PMON_CONTROL", register::PMON_CONTROL, "bit 0: converting"),
    word("PMON_CONFIG", register::PMON_CONFIG, "bit 5 (ADM1272): 100 V, bit 0 (ADM1272): 30 mV"),
    word("DEVICE_CONFIG", register::DEVICE_CONFIG, ""),
];

const REGISTERS_1275: [Register; 12] = [
    word("STATUS_WORD", command::STATUS_WORD, ""),
    byte("STATUS_VOUT", command::STATUS_VOUT, ""),
    byte("STATUS_IOUT", command::STATUS_IOUT, ""),
    byte("STATUS_INPUT", command::STATUS_INPUT, ""),
    word("READ_VIN", command::READ_VIN, DIRECT),
    word("READ_VOUT", command::READ_VOUT, DIRECT),
    word("READ_IOUT", command::READ_IOUT, DIRECT),
    block("MFR_ID", command::MFR_ID),
    block("MFR_MODEL", command::MFR_MODEL),
    byte("PMON_CONTROL", register::PMON_CONTROL, "bit 0: converting"),
    byte("PMON_CONFIG", register::PMON_CONFIG, "bit 6: measures VOUT, not VIN; bit 5: range of 20 V, not 6 V"),
    byte("DEVICE_CONFIG", register::DEVICE_CONFIG, ""),
];

/// The maker's own command codes.
mod register {
    pub(super) const PMON_CONTROL: u8 = 0xd3;
    pub(super) const PMON_CONFIG: u8 = 0xd4;
    pub(super) const DEVICE_CONFIG: u8 = 0xd8;
}

/// MFR_ID.
const MAKER: &str = "ADI";
/// PMON_CONTROL: the converter runs.
const CONVERT: u8 = 1;
/// The largest number of 12 bits.
const CONVERTER_MAX: u16 = 0xfff;

/// PMON_CONFIG bits of the ADM1275.
mod narrow {
    /// Converts continuously, not once.
    pub(super) const PMON_MODE: u16 = 1 << 7;
    /// Measures the output voltage, not that of the input.
    pub(super) const VIN_VOUT_SELECT: u16 = 1 << 6;
    /// The larger of two voltage ranges.
    pub(super) const VRANGE: u16 = 1 << 5;
}

/// PMON_CONFIG bits of the ADM1272 and the ADM1278.
mod wide {
    /// Filters the temperature; the parts' makers advise it.
    pub(super) const TSFILT: u16 = 1 << 15;
    /// ADM1272: 100 V, not 60 V.
    pub(super) const VRANGE: u16 = 1 << 5;
    /// Converts continuously, not once.
    pub(super) const PMON_MODE: u16 = 1 << 4;
    pub(super) const TEMP1_EN: u16 = 1 << 3;
    pub(super) const VIN_EN: u16 = 1 << 2;
    /// ADM1272: 30 mV, not 15 mV, across the shunt.
    pub(super) const IRANGE: u16 = 1 << 0;
    /// What a reading needs.
    pub(super) const NEEDED: u16 = TSFILT | PMON_MODE | TEMP1_EN | VIN_EN;
}

/// Where the parts differ.
struct Model {
    /// What MFR_MODEL starts with; a revision follows.
    name: &'static str,
    /// Length of MFR_MODEL, mostly.
    length: u8,
    /// PMON_CONFIG is a word, not a byte.
    wide: bool,
    /// Bits of PMON_CONFIG without which there is nothing to read.
    needed: u16,
    /// Coefficients by PMON_CONFIG.
    scales: fn(u16) -> Scales,
}

/// Coefficients of one part in one configuration, at one milliohm.
struct Scales {
    voltage: Direct,
    current: Direct,
    power: Option<Direct>,
    temperature: Option<Direct>,
}

const fn direct(m: i64, b: i64, r: i8) -> Direct {
    Direct { m, b, r }
}

static MODEL_1272: Model = Model {
    name: "ADM1272",
    length: 10,
    wide: true,
    needed: wide::NEEDED,
    scales: |config| {
        let (high_voltage, high_current) = (config & wide::VRANGE != 0, config & wide::IRANGE != 0);
        Scales {
            voltage: if high_voltage { direct(4062, 0, -2) } else { direct(6770, 0, -2) },
            current: if high_current { direct(663, 20480, -1) } else { direct(1326, 20480, -1) },
            power: Some(match (high_voltage, high_current) {
                (false, false) => direct(3512, 0, -2),
                (true, false) => direct(21071, 0, -3),
                (false, true) => direct(17561, 0, -3),
                (true, true) => direct(10535, 0, -3),
            }),
            temperature: Some(direct(42, 31871, -1)),
        }
    },
};

static MODEL_1275: Model = Model {
    name: "ADM1275",
    length: 9,
    wide: false,
    needed: narrow::PMON_MODE,
    scales: |config| Scales {
        voltage: if config & narrow::VRANGE != 0 { direct(19199, 0, -2) } else { direct(6720, 0, -1) },
        current: direct(807, 20475, -1),
        power: None,
        temperature: None,
    },
};

static MODEL_1278: Model = Model {
    name: "ADM1278",
    length: 10,
    wide: true,
    needed: wide::NEEDED,
    scales: |_| Scales {
        voltage: direct(19599, 0, -2),
        current: direct(800, 20475, -1),
        power: Some(direct(6123, 0, -2)),
        temperature: Some(direct(42, 31880, -1)),
    },
};

/// A number of the converter itself, in thousandths.
fn converted<T: TryFrom<i64>>(raw: u16, scale: Direct, shunt: Microohms) -> Reading<T> {
    if raw > CONVERTER_MAX {
        return Err(Missing::Implausible);
    }
    let value = scale.decode_across(raw, 3, shunt).ok_or(Missing::Implausible)?;
    T::try_from(value).map_err(|_| Missing::Implausible)
}

/// The product of both is wider. The kernel computes it in microwatts.
fn power(raw: u16, scale: Direct, shunt: Microohms) -> Reading<Milliwatts> {
    let microwatts = scale.decode_across(raw, 6, shunt).ok_or(Missing::Implausible)?;
    Ok(div_round_closest(microwatts, 1000).ok_or(Missing::Implausible)?.try_into()?)
}

/// Driver of one of them.
struct Adm1275<I> {
    link: Link<I>,
    model: &'static Model,
    shunt: Microohms,
    /// PMON_CONFIG as it was left by `configure`.
    config: u16,
}

impl<I: I2c> Adm1275<I> {
    fn new(model: &'static Model, addr: u8, i2c: I, settings: &Settings) -> Self {
        Self { link: Link::new(addr, i2c, settings.pec), model, shunt: settings.shunt, config: 0 }
    }

    fn config(&mut self) -> Result<u16, Error<I::Error>> {
        if self.model.wide {
            self.link.read_word(register::PMON_CONFIG)
        } else {
            self.link.read_byte(register::PMON_CONFIG).map(u16::from)
        }
    }

    fn set_config(&mut self, config: u16) -> Result<(), Error<I::Error>> {
        match u8::try_from(config) {
            Ok(config) if !self.model.wide => self.link.write_byte(register::PMON_CONFIG, config),
            _ => self.link.write_word(register::PMON_CONFIG, config),
        }
    }

    /// Lets the converter run, whatever it did.
    fn start(&mut self) -> Result<(), Error<I::Error>> {
        match self.link.read_byte(register::PMON_CONTROL) {
            Ok(CONVERT) => Ok(()),
            _ => self.link.write_byte(register::PMON_CONTROL, CONVERT),
        }
    }

    fn quantity<T>(&mut self, command: u8, convert: impl Fn(u16) -> Reading<T>) -> Result<Reading<T>, Error<I::Error>> {
        quantity(self.link.read_word(command), convert)
    }
}

impl<I: I2c + Send> Driver<I::Error> for Adm1275<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        for (register, id, length) in
            [(command::MFR_ID, MAKER, 3), (command::MFR_MODEL, self.model.name, self.model.length)]
        {
            let found = self.link.read_block(register, length)?;
            // As the kernel has it: in any case, and what follows is a revision.
            let start = found.get(..id.len()).unwrap_or(&found);
            if !start.eq_ignore_ascii_case(id.as_bytes()) {
                let told = start.last_chunk().copied().map_or(0, u16::from_be_bytes);
                return Err(Error::WrongPart { register, found: told });
            }
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.config()?;
        self.config = found | self.model.needed;
        let changed = if self.config == found {
            Ok(())
        } else {
            self.link.write_byte(register::PMON_CONTROL, 0).and_then(|()| self.set_config(self.config))
        };
        // It is started again also where something failed; the first error is told.
        let started = self.start();
        changed.and(started)
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        holds(register::PMON_CONFIG, self.config, self.config()?)?;
        let control = self.link.read_byte(register::PMON_CONTROL)?;
        holds(register::PMON_CONTROL, CONVERT.into(), control.into())?;
        let word = self.link.read_word(command::STATUS_WORD)?;
        reading.faults = status::faults(word, |command| self.link.status_byte(command))?;

        let scales = (self.model.scales)(self.config);
        let shunt = self.shunt;
        let behind = !self.model.wide && self.config & narrow::VIN_VOUT_SELECT != 0;
        let voltage = if behind { command::READ_VOUT } else { command::READ_VIN };
        let measured = Power {
            voltage: self.quantity::<Millivolts>(voltage, |raw| converted(raw, scales.voltage, MILLIOHM))?,
            current: self.quantity::<Milliamps>(command::READ_IOUT, |raw| converted(raw, scales.current, shunt))?,
            power: match scales.power {
                Some(scale) => self.quantity(command::READ_PIN, |raw| power(raw, scale, shunt))?,
                None => Err(Missing::NotPresent),
            },
        };
        if let Some(channel) = reading.power.first_mut() {
            *channel = measured;
        }
        if let (Some(scale), Some(channel)) = (scales.temperature, reading.temperature.first_mut()) {
            *channel =
                self.quantity::<Millicelsius>(command::READ_TEMPERATURE_1, |raw| converted(raw, scale, MILLIOHM))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
