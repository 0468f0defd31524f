//! ADM1272, ADM1275, ADM1278: hot swap controllers with a power monitor on PMBus, in DIRECT numbers (Analog Devices data
//! sheets of the same names).
//!
//! A DIRECT number is Y = (m * X + b) * 10^R (PMBus 1.2 part II, 7.4); m of current and power is given for a sense resistor
//! of 1 mOhm and goes with it. Voltages and current have 12 bits. The monitor measures while PMON_CONTROL says so, and what
//! PMON_CONFIG selects: the ADM1275 neither before it is started nor both voltages, the other two VOUT and temperature only
//! when asked. A command that the part has not got is not acknowledged and sets CML.
//!
//! Not modelled: packet error codes (CAPABILITY says there are none), switching off by command, peaks but that of current,
//! energy, alerts, IOUT_WARN2.

use std::time::Duration;

use super::command::{
    CAPABILITY, CLEAR_FAULTS, MFR_ID, MFR_MODEL, PMBUS_REVISION, READ_IOUT, READ_PIN, READ_TEMPERATURE_1, READ_VIN,
    READ_VOUT, block,
};
use super::status::{
    INVALID_COMMAND, IOUT_OC_WARNING, OT_WARNING, OV_WARNING, STATUS_CML, STATUS_FANS_1_2, STATUS_INPUT, STATUS_IOUT,
    STATUS_TEMPERATURE, STATUS_VOUT, Status, UV_WARNING,
};
use super::{Ack, Ailment, Chip, RELEASED};
use crate::quantize::word;

// Command codes of this family alone.
const VOUT_OV_WARN_LIMIT: u8 = 0x42;
const VOUT_UV_WARN_LIMIT: u8 = 0x43;
const IOUT_OC_WARN_LIMIT: u8 = 0x4a;
const OT_WARN_LIMIT: u8 = 0x51;
const VIN_OV_WARN_LIMIT: u8 = 0x57;
const VIN_UV_WARN_LIMIT: u8 = 0x58;
const STATUS_MFR_SPECIFIC: u8 = 0x80;
const PEAK_IOUT: u8 = 0xd0;
const PMON_CONTROL: u8 = 0xd3;
const PMON_CONFIG: u8 = 0xd4;
const DEVICE_CONFIG: u8 = 0xd8;

/// PMON_CONTROL: the monitor runs.
const CONVERT: u8 = 0x01;
/// PMON_CONFIG of the ADM1275: the voltage at VOUT is measured instead of that at the input.
const VOUT_SELECT: u16 = 0x0040;
/// PMON_CONFIG of the ADM1272 and ADM1275: the wide range of voltage.
const VRANGE: u16 = 0x0020;
/// PMON_CONFIG of the ADM1272: the wide range of current.
const IRANGE: u16 = 0x0001;
// PMON_CONFIG of the ADM1272 and ADM1278: what is measured besides the current.
const TEMP1_EN: u16 = 0x0008;
const VIN_EN: u16 = 0x0004;
const VOUT_EN: u16 = 0x0002;

/// Twelve bits.
const CODE_MAX: u16 = 0x0fff;

/// Which of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 16 to 80 V; power and temperature.
    Adm1272,
    /// 2 to 20 V.
    Adm1275,
    /// 4.5 to 20 V; power and temperature.
    Adm1278,
}

/// m, b and R of a DIRECT number.
#[derive(Clone, Copy)]
struct Direct(f64, f64, i32);

impl Direct {
    /// The nearest code of `value`; m times `milliohms`.
    fn code(self, value: f64, milliohms: f64, most: u16) -> u16 {
        let Self(m, b, r) = self;
        word((m * milliohms * value + b) * 10_f64.powi(r), most)
    }
}

impl Kind {
    const fn model(self) -> &'static str {
        match self {
            Self::Adm1272 => "ADM1272-A1",
            Self::Adm1275 => "ADM1275-1",
            Self::Adm1278 => "ADM1278-1",
        }
    }

    /// PMON_CONTROL, PMON_CONFIG and DEVICE_CONFIG after reset. The ADM1278's configuration is from memory.
    const fn reset(self) -> (u8, u16, u16) {
        match self {
            Self::Adm1272 => (0x01, 0x3f35, 0x0008),
            Self::Adm1275 => (0x00, 0x002c, 0x0000),
            Self::Adm1278 => (0x01, 0x0714, 0x000d),
        }
    }

    /// Power, temperature, and configurations of 16 bits.
    const fn is_large(self) -> bool {
        match self {
            Self::Adm1272 | Self::Adm1278 => true,
            Self::Adm1275 => false,
        }
    }

    /// PMBus 1.1 or 1.2 in both parts.
    const fn revision(self) -> u8 {
        if self.is_large() { 0x22 } else { 0x11 }
    }

    fn voltage(self, config: u16) -> Direct {
        match (self, config & VRANGE != 0) {
            (Self::Adm1272, false) => Direct(6770.0, 0.0, -2),
            (Self::Adm1272, true) => Direct(4062.0, 0.0, -2),
            (Self::Adm1275, false) => Direct(6720.0, 0.0, -1),
            (Self::Adm1275, true) => Direct(19_199.0, 0.0, -2),
            (Self::Adm1278, _) => Direct(19_599.0, 0.0, -2),
        }
    }

    fn current(self, config: u16) -> Direct {
        match (self, config & IRANGE != 0) {
            (Self::Adm1272, false) => Direct(1326.0, 20_480.0, -1),
            (Self::Adm1272, true) => Direct(663.0, 20_480.0, -1),
            (Self::Adm1275, _) => Direct(807.0, 20_475.0, -1),
            (Self::Adm1278, _) => Direct(800.0, 20_475.0, -1),
        }
    }

    fn power(self, config: u16) -> Direct {
        match (self, config & VRANGE != 0, config & IRANGE != 0) {
            (Self::Adm1272, false, false) => Direct(3512.0, 0.0, -2),
            (Self::Adm1272, true, false) => Direct(21_071.0, 0.0, -3),
            (Self::Adm1272, false, true) => Direct(17_561.0, 0.0, -3),
            (Self::Adm1272, true, true) => Direct(10_535.0, 0.0, -3),
            // The ADM1275 has none; its READ_PIN is not acknowledged.
            (Self::Adm1278 | Self::Adm1275, _, _) => Direct(6123.0, 0.0, -2),
        }
    }

    fn temperature(self) -> Direct {
        let b = if self == Self::Adm1272 { 31_871.0 } else { 31_880.0 };
        Direct(42.0, b, -1)
    }

    /// What the bits of PMON_CONFIG select: VIN, VOUT, temperature.
    fn selects(self, config: u16) -> [bool; 3] {
        if self.is_large() {
            [config & VIN_EN != 0, config & VOUT_EN != 0, config & TEMP1_EN != 0]
        } else {
            [config & VOUT_SELECT == 0, config & VOUT_SELECT != 0, false]
        }
    }
}

/// One of them with its sense resistor.
#[derive(Clone, Debug)]
pub struct Adm1275 {
    kind: Kind,
    shunt_microohms: u32,
    ailment: Ailment,
    command: u8,
    control: u8,
    config: u16,
    device_config: u16,
    /// VOUT over and under, IOUT over, temperature over, VIN over and under, in codes.
    limits: [u16; LIMITS.len()],
    vin: u16,
    vout: u16,
    iout: u16,
    peak_iout: u16,
    temperature: u16,
    pin: u16,
    status: Status,
}

/// Limits with their value after reset.
const LIMITS: [(u8, u16); 6] = [
    (VOUT_OV_WARN_LIMIT, CODE_MAX),
    (VOUT_UV_WARN_LIMIT, 0),
    (IOUT_OC_WARN_LIMIT, CODE_MAX),
    (OT_WARN_LIMIT, CODE_MAX),
    (VIN_OV_WARN_LIMIT, CODE_MAX),
    (VIN_UV_WARN_LIMIT, 0),
];

impl Adm1275 {
    /// A part just powered, with this resistor.
    #[must_use]
    pub fn new(kind: Kind, shunt_microohms: u32) -> Self {
        let (control, config, device_config) = kind.reset();
        Self {
            kind,
            shunt_microohms,
            ailment: Ailment::default(),
            command: 0,
            control,
            config,
            device_config,
            limits: LIMITS.map(|(_, reset)| reset),
            vin: 0,
            vout: 0,
            iout: 0,
            peak_iout: 0,
            temperature: 0,
            pin: 0,
            status: Status::default(),
        }
    }

    /// One conversion: before and behind the switch are these volts, through it go these amperes, at these °C.
    pub fn measure(&mut self, volts: f64, amps: f64, celsius: f64) {
        if self.ailment.frozen || self.control & CONVERT == 0 {
            return;
        }
        let (kind, config, milliohms) = (self.kind, self.config, f64::from(self.shunt_microohms) / 1000.0);
        let [vin, vout, temperature] = kind.selects(config);
        let code = kind.voltage(config).code(volts, 1.0, CODE_MAX);
        if vin {
            self.vin = code;
        }
        if vout {
            self.vout = code;
        }
        if temperature {
            self.temperature = kind.temperature().code(celsius, 1.0, CODE_MAX);
        }
        self.iout = kind.current(config).code(amps, milliohms, CODE_MAX);
        self.peak_iout = self.peak_iout.max(self.iout);
        self.pin = kind.power(config).code((volts * amps).max(0.0), milliohms, 0x7fff);
        self.compare([vin, vout, temperature]);
    }

    fn compare(&mut self, [vin, vout, temperature]: [bool; 3]) {
        let [vout_over, vout_under, iout_over, hot, vin_over, vin_under] = self.limits;
        for (is, register, bit) in [
            (vout && self.vout > vout_over, STATUS_VOUT, OV_WARNING),
            (vout && self.vout < vout_under, STATUS_VOUT, UV_WARNING),
            (self.iout > iout_over, STATUS_IOUT, IOUT_OC_WARNING),
            (temperature && self.temperature > hot, STATUS_TEMPERATURE, OT_WARNING),
            (vin && self.vin > vin_over, STATUS_INPUT, OV_WARNING),
            (vin && self.vin < vin_under, STATUS_INPUT, UV_WARNING),
        ] {
            if is {
                self.status.raise(register, bit);
            }
        }
    }

    /// A configuration as it is read: one byte or two.
    fn sized(&self, value: u16) -> Vec<u8> {
        value.to_le_bytes().into_iter().take(if self.kind.is_large() { 2 } else { 1 }).collect()
    }

    /// What a command reads, least significant byte first; `None` where the part has not got it.
    fn answer(&self, command: u8) -> Option<Vec<u8>> {
        let word = |value: u16| Some(value.to_le_bytes().to_vec());
        let large = self.kind.is_large();
        match command {
            CAPABILITY => Some(vec![0x30]),
            READ_VIN => word(self.vin),
            READ_VOUT => word(self.vout),
            READ_IOUT => word(self.iout),
            READ_TEMPERATURE_1 if large => word(self.temperature),
            READ_PIN if large => word(self.pin),
            PMBUS_REVISION => Some(vec![self.kind.revision()]),
            MFR_ID => Some(block("ADI")),
            // A relative when it is not what it should be.
            MFR_MODEL => Some(block(if self.ailment.wrong_id { "ADM1293-1" } else { self.kind.model() })),
            PEAK_IOUT => word(self.peak_iout),
            PMON_CONTROL => Some(vec![self.control]),
            PMON_CONFIG => Some(self.sized(self.config)),
            DEVICE_CONFIG => Some(self.sized(self.device_config)),
            OT_WARN_LIMIT | STATUS_TEMPERATURE | STATUS_CML if !large => None,
            STATUS_FANS_1_2 => None,
            STATUS_MFR_SPECIFIC => Some(vec![0]),
            _ => {
                let mut limits = LIMITS.iter().zip(self.limits);
                let limit = limits.find(|((known, _), _)| *known == command).map(|(_, limit)| limit);
                limit.map(|limit| limit.to_le_bytes().to_vec()).or_else(|| self.status.read(command))
            }
        }
    }

    /// Whether there was something to write it to.
    fn set(&mut self, command: u8, data: &[u8]) -> bool {
        let value = data.iter().take(2).rev().fold(0_u16, |value, byte| value << 8 | u16::from(*byte));
        match (command, data) {
            (PMON_CONTROL, [control, ..]) => self.control = control & CONVERT,
            (PMON_CONFIG, _) => self.config = value,
            (DEVICE_CONFIG, _) => self.device_config = value,
            (PEAK_IOUT, _) => self.peak_iout = value & CODE_MAX,
            (_, [clear]) if self.status.write(command, *clear) => {}
            _ => {
                let mut limits = LIMITS.iter().zip(&mut self.limits);
                match limits.find(|((known, _), _)| *known == command) {
                    Some((_, limit)) => *limit = value & CODE_MAX,
                    None => return false,
                }
            }
        }
        true
    }
}

impl Chip for Adm1275 {
    fn reset(&mut self) {
        *self = Self { ailment: self.ailment, ..Self::new(self.kind, self.shunt_microohms) };
    }

    fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
    }

    fn write(&mut self, bytes: &[u8], _: Duration) -> Ack {
        let [command, data @ ..] = bytes else { return Ack::Acked };
        self.command = *command;
        let taken = match (*command, data) {
            (CLEAR_FAULTS, []) => {
                self.status.clear();
                true
            }
            // The pointer of a read that follows.
            (_, []) => self.answer(*command).is_some(),
            _ => self.set(*command, data),
        };
        if taken {
            return Ack::Acked;
        }
        self.status.raise(STATUS_CML, INVALID_COMMAND);
        Ack::NotAcked
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Ack {
        let Some(answer) = self.answer(self.command) else { return Ack::NotAcked };
        for (to, from) in buffer.iter_mut().zip(answer.into_iter().chain(std::iter::repeat(RELEASED))) {
            *to = from;
        }
        Ack::Acked
    }
}

#[cfg(test)]
mod tests;
