//! TMP421, TMP422, TMP423: their own temperature and one to three remote ones (Texas Instruments, SBOS398).
//!
//! A temperature is a byte of whole degrees and one with the fraction in bits 7:4; in the extended range, 64 is added.
//! Remote inputs with nothing connected say so with OPEN; what they read then is not told and is -64 °C here, as a short
//! does. Not modelled: conversion time, one-shot, and the n-factor corrections.

use std::time::Duration;

use super::{Ack, Ailment, Chip};
use crate::quantize::whole;

/// Channels at most: its own, then the remote ones.
pub const CHANNELS: usize = 4;

// Register pointers (table 3); the temperatures' are the channel's number.
const LOCAL_HIGH: u8 = 0x00;
const REMOTE_3_HIGH: u8 = 0x03;
const CONFIGURATION_1: u8 = 0x09;
const CONFIGURATION_2: u8 = 0x0a;
const CONVERSION_RATE: u8 = 0x0b;
const LOCAL_LOW: u8 = 0x10;
const REMOTE_3_LOW: u8 = 0x13;
const N_CORRECTION_1: u8 = 0x21;
const N_CORRECTION_3: u8 = 0x23;
const SOFTWARE_RESET: u8 = 0xfc;
const MANUFACTURER_ID: u8 = 0xfe;
const DEVICE_ID: u8 = 0xff;

// Configuration Register 1 bits: shutdown, and the extended range.
const SD: u8 = 0x40;
const RANGE: u8 = 0x04;
/// Configuration Register 2: its own channel is enabled with bit 3, remote ones with those above.
const LEN: u8 = 0x08;
const RC: u8 = 0x04;
const RATE_RESET: u8 = 0x07;
/// Status bit of a remote temperature's low byte: nothing is connected.
const OPEN: u8 = 0x01;
/// What is added in the extended range, °C.
const OFFSET: f64 = 64.0;

/// One of them.
#[derive(Clone, Debug)]
pub struct Tmp421 {
    ailment: Ailment,
    /// Its own and the remote ones, 2 to 4.
    channels: u8,
    pointer: u8,
    configuration: [u8; 2],
    rate: u8,
    correction: [u8; 3],
    /// High and low byte.
    temperature: [[u8; 2]; CHANNELS],
}

impl Tmp421 {
    /// A chip just powered with this many channels, 2 to 4: TMP421, TMP422 or TMP423.
    #[must_use]
    pub fn new(channels: u8) -> Self {
        Self {
            ailment: Ailment::default(),
            channels,
            pointer: 0,
            configuration: [0, enabled(channels) | RC],
            rate: RATE_RESET,
            correction: [0; 3],
            temperature: [[0; 2]; CHANNELS],
        }
    }

    /// One conversion of each channel with these °C; `None` is a remote input with nothing connected.
    pub fn measure(&mut self, celsius: [Option<f64>; CHANNELS]) {
        let [first, second] = self.configuration;
        if self.ailment.frozen || first & SD != 0 {
            return;
        }
        for (channel, (bytes, celsius)) in (0..self.channels).zip(self.temperature.iter_mut().zip(celsius)) {
            if second & LEN << channel == 0 {
                continue;
            }
            let (low, high, offset) = if first & RANGE != 0 { (0, 0xfff, OFFSET) } else { (-64 << 4, 0x7ff, 0.0) };
            let sixteenths = whole(((celsius.unwrap_or(-64.0) + offset) * 16.0).floor(), low, high) << 4;
            let [_, _, high, fraction] = sixteenths.to_be_bytes();
            *bytes = [high, fraction | if celsius.is_none() { OPEN } else { 0 }];
        }
    }

    fn value(&self) -> u8 {
        let half = |channel: u8, half: usize| {
            let bytes = self.temperature.get(usize::from(channel)).filter(|_| channel < self.channels);
            bytes.and_then(|bytes| bytes.get(half)).copied().unwrap_or(0)
        };
        let [first, second] = self.configuration;
        match self.pointer {
            pointer @ LOCAL_HIGH..=REMOTE_3_HIGH => half(pointer, 0),
            pointer @ LOCAL_LOW..=REMOTE_3_LOW => half(pointer - LOCAL_LOW, 1),
            CONFIGURATION_1 => first,
            CONFIGURATION_2 => second,
            CONVERSION_RATE => self.rate,
            pointer @ N_CORRECTION_1..=N_CORRECTION_3 => {
                self.correction.get(usize::from(pointer - N_CORRECTION_1)).copied().unwrap_or(0)
            }
            MANUFACTURER_ID => 0x55,
            // A TMP411 when it is not what it should be.
            DEVICE_ID if self.ailment.wrong_id => 0x12,
            DEVICE_ID => 0x1f + self.channels,
            _ => 0,
        }
    }

    fn set(&mut self, value: u8) {
        let [first, second] = &mut self.configuration;
        match self.pointer {
            CONFIGURATION_1 => *first = value & (SD | RANGE),
            CONFIGURATION_2 => *second = value & (enabled(self.channels) | RC),
            CONVERSION_RATE => self.rate = value & 0x07,
            pointer @ N_CORRECTION_1..=N_CORRECTION_3 => {
                if let Some(correction) = self.correction.get_mut(usize::from(pointer - N_CORRECTION_1)) {
                    *correction = value;
                }
            }
            SOFTWARE_RESET => self.reset(),
            // Acknowledged and without effect.
            _ => {}
        }
    }
}

/// Bits of Configuration Register 2 for so many channels.
fn enabled(channels: u8) -> u8 {
    (0..channels).fold(0, |bits, channel| bits | LEN << channel)
}

impl Chip for Tmp421 {
    fn reset(&mut self) {
        *self = Self { ailment: self.ailment, ..Self::new(self.channels) };
    }

    fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
    }

    fn write(&mut self, bytes: &[u8], _: Duration) -> Ack {
        if let [pointer, ..] = bytes {
            self.pointer = *pointer;
        }
        if let [_, value, ..] = bytes {
            self.set(*value);
        }
        Ack::Acked
    }

    /// Two bytes from a high byte on are the whole temperature (figure 19).
    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Ack {
        let pointer = self.pointer;
        for byte in buffer {
            *byte = self.value();
            self.pointer = match self.pointer {
                high @ LOCAL_HIGH..=REMOTE_3_HIGH => high + LOCAL_LOW,
                other => other,
            };
        }
        self.pointer = pointer;
        Ack::Acked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::probe::{get, put};

    #[test]
    fn the_rows_of_the_datasheet() {
        // SBOS398 tables 1 and 2: standard range, extended range, and the fraction beside both.
        for (celsius, standard, extended, fraction) in [
            (-64.0, 0xc0, 0x00, 0x00),
            (-50.0, 0xce, 0x0e, 0x00),
            (-25.0, 0xe7, 0x27, 0x00),
            (0.0, 0x00, 0x40, 0x00),
            (1.0625, 0x01, 0x41, 0x10),
            (25.5, 0x19, 0x59, 0x80),
            (127.0, 0x7f, 0xbf, 0x00),
        ] {
            let mut chip = Tmp421::new(2);
            chip.measure([Some(celsius), Some(celsius), None, None]);
            assert_eq!((get(&mut chip, 0x00), get(&mut chip, 0x10)), ([standard], [fraction]), "{celsius} °C");
            put(&mut chip, &[0x09, 0x04]);
            chip.measure([Some(celsius), Some(celsius), None, None]);
            assert_eq!(get(&mut chip, 0x01), [extended, fraction], "{celsius} °C, remote, both bytes at once");
        }
        let mut chip = Tmp421::new(2);
        chip.measure([Some(150.0), Some(-70.0), None, None]);
        assert_eq!((get(&mut chip, 0x00), get(&mut chip, 0x01)), ([0x7f, 0xf0], [0xc0, 0x00]), "ends of the scale");
    }

    #[test]
    fn an_open_input_says_so() {
        let mut chip = Tmp421::new(4);
        chip.measure([Some(25.0), Some(30.0), None, Some(40.0)]);
        assert_eq!((get(&mut chip, 0x11), get(&mut chip, 0x12), get(&mut chip, 0x13)), ([0x00], [0x01], [0x00]));
        let mut chip = Tmp421::new(2);
        chip.measure([Some(25.0), Some(30.0), None, Some(40.0)]);
        assert_eq!((get(&mut chip, 0x02), get(&mut chip, 0x13)), ([0x00], [0x00]), "which it has not got");
    }

    #[test]
    fn ids_and_configuration_are_the_parts() {
        for (channels, id, second) in [(2, 0x21, 0x1c), (3, 0x22, 0x3c), (4, 0x23, 0x7c)] {
            let mut chip = Tmp421::new(channels);
            for (register, value) in [(0x08, 0), (0x09, 0), (0x0a, second), (0x0b, 7), (0xfe, 0x55), (0xff, id)] {
                assert_eq!(get(&mut chip, register), [value], "{register:#04x}");
            }
            put(&mut chip, &[0x0a, 0xff]);
            put(&mut chip, &[0x09, 0xff]);
            put(&mut chip, &[0x0b, 0xff]);
            put(&mut chip, &[0x22, 0x12]);
            let read = [0x0a, 0x09, 0x0b, 0x22].map(|register| get::<1>(&mut chip, register));
            assert_eq!(read, [[second], [0x44], [0x07], [0x12]]);
            put(&mut chip, &[0xfc, 0]);
            assert_eq!((get(&mut chip, 0x09), get(&mut chip, 0x22)), ([0], [0]));
        }
    }

    #[test]
    fn what_is_off_keeps_its_last_value() {
        let mut chip = Tmp421::new(2);
        chip.measure([Some(25.0), Some(30.0), None, None]);
        put(&mut chip, &[0x0a, 0x0c]);
        chip.measure([Some(26.0), Some(31.0), None, None]);
        assert_eq!((get(&mut chip, 0x00), get(&mut chip, 0x01)), ([26], [30]));
        put(&mut chip, &[0x09, 0x40]);
        chip.measure([Some(27.0), Some(32.0), None, None]);
        assert_eq!(get(&mut chip, 0x00), [26], "shut down");
        put(&mut chip, &[0x09, 0x00]);
        chip.ail(Ailment { frozen: true, wrong_id: true });
        chip.measure([Some(27.0), Some(32.0), None, None]);
        assert_eq!((get(&mut chip, 0x00), get(&mut chip, 0xff)), ([26], [0x12]));
    }
}
