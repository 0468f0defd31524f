//! TMP75 (Texas Instruments, SBOS288) and LM75 (National, SNOS808): one temperature, left-aligned.
//!
//! Not modelled: conversion time, one-shot, and the alert pin.

use std::time::Duration;

use super::{Ack, Ailment, Chip, repeat};
use crate::quantize::whole;

// Register pointers (SBOS288 table 7-4), in bits 1:0 of the first byte.
const TEMPERATURE: u8 = 0;
const CONFIGURATION: u8 = 1;
const T_LOW: u8 = 2;
const T_HIGH: u8 = 3;
const POINTER_BITS: u8 = 0b11;

/// 75 °C and 80 °C.
const T_LOW_RESET: u16 = 0x4b00;
const T_HIGH_RESET: u16 = 0x5000;
/// Shutdown: the last temperature stays.
const SD: u8 = 0x01;
const RESOLUTION_SHIFT: u8 = 5;

/// Which of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 9 to 12 bits, by configuration; 9 after reset.
    Tmp75,
    /// 9 bits.
    Lm75,
}

impl Kind {
    /// Configuration bits that can be written; OS of the TMP75 reads as 0.
    const fn configuration_bits(self) -> u8 {
        match self {
            Self::Tmp75 => 0x7f,
            Self::Lm75 => 0x1f,
        }
    }

    /// Bits of T_LOW and T_HIGH that exist.
    const fn limit_bits(self) -> u16 {
        match self {
            Self::Tmp75 => 0xfff0,
            Self::Lm75 => 0xff80,
        }
    }
}

/// One TMP75 or LM75.
#[derive(Clone, Debug)]
pub struct Lm75 {
    kind: Kind,
    ailment: Ailment,
    pointer: u8,
    configuration: u8,
    t_low: u16,
    t_high: u16,
    /// All twelve bits; what is read has fewer.
    temperature: i16,
}

impl Lm75 {
    /// A chip just powered; it reads 0 °C until it has measured.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            ailment: Ailment { frozen: false, wrong_id: false },
            pointer: TEMPERATURE,
            configuration: 0,
            t_low: T_LOW_RESET,
            t_high: T_HIGH_RESET,
            temperature: 0,
        }
    }

    /// One conversion at this temperature: 16 counts a degree, in bits 15:4.
    pub fn measure(&mut self, celsius: f64) {
        if self.configuration & SD == 0 && !self.ailment.frozen {
            let count = whole((celsius * 16.0).floor(), -0x800, 0x7ff);
            self.temperature = i16::try_from(count << 4).unwrap_or(0);
        }
    }

    /// Bits that count: R1:R0 are 9, 10, 11, 12 bits (SBOS288 table 7-8).
    const fn bits(&self) -> u8 {
        match self.kind {
            Kind::Tmp75 => 9 + (self.configuration >> RESOLUTION_SHIFT & 0b11),
            Kind::Lm75 => 9,
        }
    }

    fn value(&self) -> u16 {
        let whole = match self.pointer {
            T_LOW => self.t_low,
            T_HIGH => self.t_high,
            _ => self.temperature.cast_unsigned() & !(u16::MAX >> self.bits()),
        };
        // A part with all sixteen bits, when it is not what it should be.
        if self.ailment.wrong_id { whole | 0x0005 } else { whole }
    }
}

impl Chip for Lm75 {
    fn reset(&mut self) {
        *self = Self { ailment: self.ailment, ..Self::new(self.kind) };
    }

    fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
    }

    fn write(&mut self, bytes: &[u8], _: Duration) -> Ack {
        if let [pointer, ..] = bytes {
            self.pointer = pointer & POINTER_BITS;
        }
        match (self.pointer, bytes) {
            (CONFIGURATION, [_, value, ..]) => self.configuration = value & self.kind.configuration_bits(),
            (T_LOW, [_, high, low, ..]) => self.t_low = u16::from_be_bytes([*high, *low]) & self.kind.limit_bits(),
            (T_HIGH, [_, high, low, ..]) => self.t_high = u16::from_be_bytes([*high, *low]) & self.kind.limit_bits(),
            // The pointer alone, half a word, or a write to the temperature: acknowledged and without effect.
            _ => {}
        }
        Ack::Acked
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Ack {
        match self.pointer {
            CONFIGURATION => repeat(buffer, &[self.configuration]),
            _ => repeat(buffer, &self.value().to_be_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::probe::{get, put};

    #[test]
    fn the_rows_of_the_datasheet_at_twelve_bits() {
        let mut chip = Lm75::new(Kind::Tmp75);
        put(&mut chip, &[1, 0x60]);
        // SBOS288 table 7-5.
        for (celsius, bytes) in [
            (127.9375, [0x7f, 0xf0]),
            (100.0, [0x64, 0x00]),
            (80.0, [0x50, 0x00]),
            (75.0, [0x4b, 0x00]),
            (50.0, [0x32, 0x00]),
            (25.0, [0x19, 0x00]),
            (0.25, [0x00, 0x40]),
            (0.0, [0x00, 0x00]),
            (-0.25, [0xff, 0xc0]),
            (-25.0, [0xe7, 0x00]),
            (-55.0, [0xc9, 0x00]),
            (500.0, [0x7f, 0xf0]),
        ] {
            chip.measure(celsius);
            assert_eq!(get(&mut chip, 0), bytes, "{celsius} °C");
        }
    }

    #[test]
    fn resolution_is_nine_bits_until_configured_and_always_on_the_lm75() {
        for (kind, configuration, bytes) in [
            (Kind::Tmp75, 0x00, [0x19, 0x80]),
            (Kind::Tmp75, 0x20, [0x19, 0xc0]),
            (Kind::Tmp75, 0x40, [0x19, 0xe0]),
            (Kind::Tmp75, 0x60, [0x19, 0xf0]),
            (Kind::Lm75, 0x60, [0x19, 0x80]),
        ] {
            let mut chip = Lm75::new(kind);
            chip.measure(25.99);
            assert_eq!(get(&mut chip, 0), [0x19, 0x80], "after reset");
            put(&mut chip, &[1, configuration]);
            assert_eq!(get(&mut chip, 0), bytes, "{kind:?} at {configuration:#04x}");
        }
    }

    #[test]
    fn limits_reset_to_75_and_80_degrees_and_take_only_their_bits() {
        for (kind, bytes) in [(Kind::Tmp75, [0x12, 0xf0]), (Kind::Lm75, [0x12, 0x80])] {
            let mut chip = Lm75::new(kind);
            assert_eq!((get(&mut chip, 2), get(&mut chip, 3)), ([0x4b, 0x00], [0x50, 0x00]));
            put(&mut chip, &[2, 0x12, 0xff]);
            assert_eq!(get(&mut chip, 2), bytes);
            chip.reset();
            assert_eq!(get(&mut chip, 2), [0x4b, 0x00]);
        }
    }

    #[test]
    fn configuration_reads_back_without_the_one_shot_bit() {
        let mut chip = Lm75::new(Kind::Tmp75);
        put(&mut chip, &[1, 0xe1]);
        assert_eq!(get(&mut chip, 1), [0x61, 0x61]);
        chip.measure(30.0);
        assert_eq!(get(&mut chip, 0), [0, 0], "shut down");
    }

    #[test]
    fn ailments() {
        let mut chip = Lm75::new(Kind::Tmp75);
        chip.measure(30.0);
        chip.ail(Ailment { frozen: true, wrong_id: false });
        chip.measure(40.0);
        assert_eq!(get(&mut chip, 0), [0x1e, 0x00]);
        chip.ail(Ailment { frozen: false, wrong_id: true });
        assert_eq!((get(&mut chip, 0), get(&mut chip, 2)), ([0x1e, 0x05], [0x4b, 0x05]));
    }
}
