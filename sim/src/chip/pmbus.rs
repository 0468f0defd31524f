//! A power supply on PMBus (PMBus 1.2 part II): LINEAR numbers, status that stays until it is cleared.
//!
//! It has READ_VIN, IIN, VOUT, IOUT, POUT, PIN, two temperatures (inlet, inside), one fan, and the status registers.
//! Fault bits stay set after their cause is gone until CLEAR_FAULTS or until a 1 is written to them (part II, 10.2.3 and
//! 10.2.4); OFF and POWER_GOOD# follow. Not modelled: pages, limits, on and off or fan speed by command, PEC.

use std::time::Duration;

use super::command::{
    CAPABILITY, CLEAR_FAULTS, MFR_ID, MFR_MODEL, PMBUS_REVISION, READ_IOUT, READ_PIN, READ_TEMPERATURE_1, READ_VIN,
    READ_VOUT, block,
};
use super::status::{
    FAN_1_FAULT, INVALID_COMMAND, IOUT_OC_FAULT, OT_WARNING, STATUS_CML, STATUS_FANS_1_2, STATUS_INPUT, STATUS_IOUT,
    STATUS_TEMPERATURE, Status, VIN_UV_FAULT,
};
use super::{Ack, Ailment, Chip, RELEASED};
use crate::quantize::{signed_word, whole, word};

// Command codes that no other part here has (part II, appendix I).
const VOUT_MODE: u8 = 0x20;
const FAN_CONFIG_1_2: u8 = 0x3a;
const READ_IIN: u8 = 0x89;
const READ_TEMPERATURE_2: u8 = 0x8e;
const READ_FAN_SPEED_1: u8 = 0x90;
const READ_POUT: u8 = 0x96;

/// LINEAR16 with exponent -9 (part II, 8.1): 1.95 mV a bit.
const VOUT_EXPONENT: i32 = -9;
const VOUT_MODE_VALUE: u8 = 0x17;
/// Fan 1 is installed, driven by duty, with two pulses a revolution; there is no fan 2.
const FAN_CONFIG_VALUE: u8 = 0x90;
/// PMBus 1.2 in both parts.
const REVISION_VALUE: u8 = 0x22;

/// How a unit answers a command that it has not got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// With all ones, as some makers' units do.
    #[default]
    Ones,
    /// By not acknowledging it and setting CML, as the standard says (part II, 10.9.3).
    Nack,
}

/// What a supply measures of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Inside {
    /// At the mains, V.
    pub input_volts: f64,
    /// At the mains, A.
    pub input_amps: f64,
    /// At the mains, W.
    pub input_watts: f64,
    /// At the output, V.
    pub output_volts: f64,
    /// At the output, A.
    pub output_amps: f64,
    /// At the output, W.
    pub output_watts: f64,
    /// Air that it breathes, °C.
    pub inlet: f64,
    /// Inside, °C.
    pub celsius: f64,
    /// Its fan, rpm.
    pub fan_rpm: f64,
    /// Switched off.
    pub off: bool,
    /// Mains too low.
    pub input_low: bool,
    /// Too warm.
    pub hot: bool,
    /// Its fan does not turn as it should.
    pub fan_fails: bool,
    /// More current than it is rated for.
    pub overloaded: bool,
}

/// One supply.
#[derive(Clone, Debug)]
pub struct Pmbus {
    absent: Absent,
    ailment: Ailment,
    command: u8,
    inside: Inside,
    status: Status,
}

impl Pmbus {
    /// A supply just connected.
    #[must_use]
    pub fn new(absent: Absent) -> Self {
        Self { absent, ailment: Ailment::default(), command: 0, inside: Inside::default(), status: Status::default() }
    }

    /// Measures itself.
    pub fn measure(&mut self, inside: Inside) {
        if !self.ailment.frozen {
            self.inside = inside;
            self.raise();
        }
    }

    /// Faults that are there now.
    fn raise(&mut self) {
        let Inside { off, input_low, hot, fan_fails, overloaded, .. } = self.inside;
        self.status.off = off;
        for (is, register, bit) in [
            (overloaded, STATUS_IOUT, IOUT_OC_FAULT),
            (input_low, STATUS_INPUT, VIN_UV_FAULT),
            (hot, STATUS_TEMPERATURE, OT_WARNING),
            (fan_fails, STATUS_FANS_1_2, FAN_1_FAULT),
        ] {
            if is {
                self.status.raise(register, bit);
            }
        }
    }

    /// What a command reads, least significant byte first; `None` where the unit has not got it.
    fn answer(&self, command: u8) -> Option<Vec<u8>> {
        let Inside { input_volts, input_amps, input_watts, output_volts, output_amps, output_watts, .. } = self.inside;
        let linear = |value| Some(linear11(value).to_le_bytes().to_vec());
        match command {
            CAPABILITY => Some(vec![0]),
            // DIRECT format and an unknown revision, when it is not what it should be.
            VOUT_MODE => Some(vec![if self.ailment.wrong_id { 0x40 } else { VOUT_MODE_VALUE }]),
            PMBUS_REVISION => Some(vec![if self.ailment.wrong_id { 0x99 } else { REVISION_VALUE }]),
            FAN_CONFIG_1_2 => Some(vec![FAN_CONFIG_VALUE]),
            READ_VIN => linear(input_volts),
            READ_IIN => linear(input_amps),
            READ_PIN => linear(input_watts),
            READ_VOUT => Some(word(output_volts / 2_f64.powi(VOUT_EXPONENT), u16::MAX).to_le_bytes().to_vec()),
            READ_IOUT => linear(output_amps),
            READ_POUT => linear(output_watts),
            READ_TEMPERATURE_1 => linear(self.inside.inlet),
            READ_TEMPERATURE_2 => linear(self.inside.celsius),
            READ_FAN_SPEED_1 => linear(self.inside.fan_rpm),
            MFR_ID => Some(block("SIMULATED")),
            MFR_MODEL => Some(block("SIM-3200")),
            _ => self.status.read(command),
        }
    }
}

impl Chip for Pmbus {
    fn reset(&mut self) {
        *self = Self { ailment: self.ailment, ..Self::new(self.absent) };
    }

    fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
    }

    fn write(&mut self, bytes: &[u8], _: Duration) -> Ack {
        let [command, data @ ..] = bytes else { return Ack::Acked };
        self.command = *command;
        match (*command, data) {
            (CLEAR_FAULTS, []) => {
                self.status.clear();
                self.raise();
                return Ack::Acked;
            }
            // The pointer of a read that follows.
            (_, []) if self.answer(*command).is_some() => return Ack::Acked,
            (_, [clear, ..]) if self.status.write(*command, *clear) => return Ack::Acked,
            _ => {}
        }
        match self.absent {
            Absent::Ones => Ack::Acked,
            Absent::Nack => {
                self.status.raise(STATUS_CML, INVALID_COMMAND);
                Ack::NotAcked
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Ack {
        let answer = match (self.answer(self.command), self.absent) {
            (Some(answer), _) => answer,
            (None, Absent::Ones) => Vec::new(),
            (None, Absent::Nack) => return Ack::NotAcked,
        };
        for (to, from) in buffer.iter_mut().zip(answer.into_iter().chain(std::iter::repeat(RELEASED))) {
            *to = from;
        }
        Ack::Acked
    }
}

/// LINEAR11 (part II, 7.1): the smallest exponent whose 11-bit mantissa still holds the value.
fn linear11(value: f64) -> u16 {
    for exponent in -16..15_i32 {
        let mantissa = signed_word(value / 2_f64.powi(exponent));
        if (-1024..=1023).contains(&mantissa) {
            return exponent_bits(exponent) | mantissa.cast_unsigned() & 0x07ff;
        }
    }
    let mantissa = i16::try_from(whole(value / 2_f64.powi(15), -1024, 1023)).unwrap_or(0);
    exponent_bits(15) | mantissa.cast_unsigned() & 0x07ff
}

fn exponent_bits(exponent: i32) -> u16 {
    i16::try_from(exponent).unwrap_or(0).cast_unsigned() << 11
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::probe::{get, put};

    const AT_WORK: Inside = Inside {
        input_volts: 230.0,
        input_amps: 2.5,
        input_watts: 570.0,
        output_volts: 12.0,
        output_amps: 45.0,
        output_watts: 540.0,
        inlet: 25.0,
        celsius: 42.5,
        fan_rpm: 4000.0,
        off: false,
        input_low: false,
        hot: false,
        fan_fails: false,
        overloaded: false,
    };

    fn supply(absent: Absent, inside: Inside) -> Pmbus {
        let mut supply = Pmbus::new(absent);
        supply.measure(inside);
        supply
    }

    #[test]
    fn linear11_takes_the_finest_exponent() {
        for (value, expected) in [
            (0.0, 0x8000),
            (1.0, 0xba00),
            (230.0, 0xf398),
            (2.5, 0xc280),
            (-10.5, 0xd560),
            (1023.0, 0x03ff),
            (1024.0, 0x0a00),
            (18_000.0, 0x2a33),
            (1e9, 0x7bff),
        ] {
            assert_eq!(linear11(value), expected, "{value}: {:#06x}", linear11(value));
        }
    }

    #[test]
    fn reads_are_words_with_the_low_byte_first() {
        let mut supply = supply(Absent::Ones, AT_WORK);
        for (what, command, value) in [
            ("VIN 230 V", 0x88, 0xf398),
            ("IIN 2.5 A", 0x89, 0xc280),
            ("VOUT 12 V at 2^-9", 0x8b, 6144),
            ("IOUT 45 A", 0x8c, 0xe2d0),
            ("inlet 25 °C", 0x8d, 0xdb20),
            ("inside 42.5 °C", 0x8e, 0xe2a8),
            ("fan 4000 rpm", 0x90, 0x13e8),
            ("POUT 540 W", 0x96, 0x021c),
            ("PIN 570 W", 0x97, 0x023a),
            ("STATUS_WORD", 0x79, 0),
        ] {
            assert_eq!(u16::from_le_bytes(get(&mut supply, command)), value, "{what}");
        }
        assert_eq!((get(&mut supply, 0x20), get(&mut supply, 0x98)), ([0x17], [0x22]));
        assert_eq!(get(&mut supply, 0x99), *b"\x09SIMULATED\xff");
    }

    #[test]
    fn what_it_has_not_got_reads_all_ones_or_is_refused() {
        let mut ones = supply(Absent::Ones, AT_WORK);
        assert_eq!((get(&mut ones, 0x8f), get(&mut ones, 0x79)), ([0xff, 0xff], [0, 0]));
        let mut strict = supply(Absent::Nack, AT_WORK);
        assert_eq!(strict.write(&[0x8f], Duration::ZERO), Ack::NotAcked);
        assert_eq!(strict.read(&mut [0, 0], Duration::ZERO), Ack::NotAcked);
        assert_eq!((get(&mut strict, 0x79), get(&mut strict, 0x7e)), ([0x02, 0x00], [0x80]), "and says so");
        put(&mut strict, &[0x03]);
        assert_eq!(get(&mut strict, 0x79), [0x00, 0x00]);
    }

    #[test]
    fn faults_have_their_bits_and_stay_until_cleared() {
        for (what, inside, status, register, bit) in [
            ("fan", Inside { fan_fails: true, ..AT_WORK }, 0x0400, 0x81, 0x80),
            ("temperature", Inside { hot: true, ..AT_WORK }, 0x0004, 0x7d, 0x40),
            ("overload", Inside { overloaded: true, ..AT_WORK }, 0x4010, 0x7b, 0x80),
            ("input", Inside { input_low: true, ..AT_WORK }, 0x2008, 0x7c, 0x10),
        ] {
            let mut supply = supply(Absent::Ones, inside);
            assert_eq!(u16::from_le_bytes(get(&mut supply, 0x79)), status, "{what}");
            put(&mut supply, &[register, bit]);
            supply.measure(inside);
            supply.measure(AT_WORK);
            assert_eq!(u16::from_le_bytes(get(&mut supply, 0x79)), status, "{what} is over but kept");
            assert_eq!(get(&mut supply, register), [bit], "{what}");
            put(&mut supply, &[register, !bit]);
            assert_eq!(get(&mut supply, register), [bit], "{what}: another bit was cleared");
            put(&mut supply, &[register, bit]);
            assert_eq!(get(&mut supply, 0x79), [0, 0], "{what}");
            supply.measure(inside);
            supply.measure(AT_WORK);
            put(&mut supply, &[0x03]);
            assert_eq!(get(&mut supply, 0x79), [0, 0], "{what}");
        }
        let mut supply = supply(Absent::Ones, Inside { off: true, ..AT_WORK });
        assert_eq!(get(&mut supply, 0x79), [0x40, 0x08]);
        supply.measure(AT_WORK);
        assert_eq!(get(&mut supply, 0x79), [0, 0], "off and power good follow");
    }

    #[test]
    fn ailments() {
        let mut supply = supply(Absent::Ones, AT_WORK);
        supply.ail(Ailment { frozen: true, wrong_id: true });
        supply.measure(Inside { input_volts: 100.0, ..AT_WORK });
        assert_eq!(get(&mut supply, 0x88), [0x98, 0xf3]);
        assert_eq!((get(&mut supply, 0x98), get(&mut supply, 0x20)), ([0x99], [0x40]));
    }
}
