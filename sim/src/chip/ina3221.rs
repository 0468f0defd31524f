//! INA3221: three shunts and three bus voltages (Texas Instruments, SBOS576).
//!
//! Not modelled: averaging and conversion time (a value is new at each transfer), single-shot mode, timing control, and the
//! alert pins themselves.

use std::time::Duration;

use super::{Ack, Ailment, Chip, repeat};
use crate::quantize::whole;

/// Channels.
pub const CHANNELS: usize = 3;

// Register pointers (table 4).
const CONFIGURATION: u8 = 0x00;
const CHANNEL_1_SHUNT: u8 = 0x01;
const CHANNEL_3_BUS: u8 = 0x06;
const CHANNEL_1_CRITICAL: u8 = 0x07;
const CHANNEL_3_WARNING: u8 = 0x0c;
const SHUNT_SUM: u8 = 0x0d;
const SHUNT_SUM_LIMIT: u8 = 0x0e;
const MASK_ENABLE: u8 = 0x0f;
const POWER_VALID_UPPER: u8 = 0x10;
const POWER_VALID_LOWER: u8 = 0x11;
const REGISTERS: usize = 0x12;
const MANUFACTURER_ID: u8 = 0xfe;
const DIE_ID: u8 = 0xff;

// Configuration bits.
const RST: u16 = 0x8000;
const CH1_ENABLE: u16 = 0x4000;
const MODE_BUS: u16 = 0x0002;
const MODE_SHUNT: u16 = 0x0001;

// Mask/Enable bits; those of channel 1, the others' are below.
const SCC1: u16 = 0x4000;
const CF1: u16 = 0x0200;
const SF: u16 = 0x0040;
const WF1: u16 = 0x0020;
const PVF: u16 = 0x0004;
const TCF: u16 = 0x0002;
const CVRF: u16 = 0x0001;
const MASK_WRITABLE: u16 = 0x7c00;
/// Flags that a read takes away.
const FLAGS: u16 = 0x03f8 | CVRF;

/// Values after reset, by pointer: both inputs of all channels, continuously; limits at the ends of the scale; power is
/// valid from 10 V on, and until it falls below 9 V.
const RESET: [u16; REGISTERS] =
    [0x7127, 0, 0, 0, 0, 0, 0, 0x7ff8, 0x7ff8, 0x7ff8, 0x7ff8, 0x7ff8, 0x7ff8, 0, 0x7ffe, TCF, 0x2710, 0x2328];

/// Shunt voltage a bit, V; the 13-bit number stands in bits 15:3.
const SHUNT_LSB: f64 = 40e-6;
/// Bus voltage a bit, V; in bits 15:3 too.
const BUS_LSB: f64 = 8e-3;
const LOWEST: i32 = -0x1000;
const HIGHEST: i32 = 0x0fff;

/// One INA3221 with its shunts, all of one value.
#[derive(Clone, Debug)]
pub struct Ina3221 {
    /// The resistors on the board, ohm.
    shunt: f64,
    ailment: Ailment,
    pointer: u8,
    registers: [u16; REGISTERS],
}

impl Ina3221 {
    /// A chip just powered, with these shunts.
    #[must_use]
    pub fn new(shunt_microohms: u32) -> Self {
        let shunt = f64::from(shunt_microohms) * 1e-6;
        Self { shunt, ailment: Ailment::default(), pointer: 0, registers: RESET }
    }

    /// One conversion of each channel that is enabled, with these volts and amperes at its pins.
    pub fn measure(&mut self, pins: [(f64, f64); CHANNELS]) {
        let configuration = self.register(CONFIGURATION);
        if self.ailment.frozen || configuration & (MODE_SHUNT | MODE_BUS) == 0 {
            return;
        }
        let mut sum = 0;
        for (channel, (volts, amps)) in (0..).zip(pins) {
            if configuration & CH1_ENABLE >> channel == 0 {
                continue;
            }
            let shunt = whole(amps * self.shunt / SHUNT_LSB, LOWEST, HIGHEST);
            if configuration & MODE_SHUNT != 0 {
                self.store(CHANNEL_1_SHUNT + 2 * channel, left_aligned(shunt, 3));
            }
            if configuration & MODE_BUS != 0 {
                let bus = whole(volts / BUS_LSB, LOWEST, HIGHEST);
                self.store(CHANNEL_1_SHUNT + 1 + 2 * channel, left_aligned(bus, 3));
            }
            if self.register(MASK_ENABLE) & SCC1 >> channel != 0 {
                sum += shunt;
            }
        }
        self.store(SHUNT_SUM, left_aligned(sum, 1));
        self.compare();
    }

    /// Flags: set while true, and until they are read.
    fn compare(&mut self) {
        let configuration = self.register(CONFIGURATION);
        let mut mask = self.register(MASK_ENABLE) | CVRF;
        let above = |value: u16, limit: u16| value.cast_signed() > limit.cast_signed();
        let mut powered = 0;
        for channel in 0..3 {
            let shunt = self.register(CHANNEL_1_SHUNT + 2 * channel);
            let bus = self.register(CHANNEL_1_SHUNT + 1 + 2 * channel);
            let limit = CHANNEL_1_CRITICAL + 2 * channel;
            if configuration & CH1_ENABLE >> channel == 0 {
                powered += 1;
                continue;
            }
            if above(shunt, self.register(limit)) {
                mask |= CF1 >> channel;
            }
            if above(shunt, self.register(limit + 1)) {
                mask |= WF1 >> channel;
            }
            // With hysteresis: what was valid stays so down to the lower limit.
            let needed = if mask & PVF != 0 { POWER_VALID_LOWER } else { POWER_VALID_UPPER };
            powered += u8::from(!above(self.register(needed), bus));
        }
        if above(self.register(SHUNT_SUM), self.register(SHUNT_SUM_LIMIT)) {
            mask |= SF;
        }
        self.store(MASK_ENABLE, mask & !PVF | if powered == 3 { PVF } else { 0 });
    }

    fn register(&self, pointer: u8) -> u16 {
        self.registers.get(usize::from(pointer)).copied().unwrap_or(0)
    }

    fn store(&mut self, pointer: u8, value: u16) {
        if let Some(register) = self.registers.get_mut(usize::from(pointer)) {
            *register = value;
        }
    }

    fn value(&mut self) -> u16 {
        match self.pointer {
            MASK_ENABLE => {
                let value = self.register(MASK_ENABLE);
                self.store(MASK_ENABLE, value & !FLAGS);
                value
            }
            MANUFACTURER_ID => 0x5449,
            // An INA226 when it is not what it should be.
            DIE_ID if self.ailment.wrong_id => 0x2260,
            DIE_ID => 0x3220,
            pointer => self.register(pointer),
        }
    }

    fn set(&mut self, value: u16) {
        match self.pointer {
            CONFIGURATION if value & RST != 0 => self.reset(),
            CONFIGURATION => {
                self.store(CONFIGURATION, value);
                // A new conversion begins, except into power-down.
                if value & (MODE_SHUNT | MODE_BUS) != 0 {
                    self.store(MASK_ENABLE, self.register(MASK_ENABLE) & !CVRF);
                }
            }
            MASK_ENABLE => self.store(MASK_ENABLE, value & MASK_WRITABLE | self.register(MASK_ENABLE) & !MASK_WRITABLE),
            CHANNEL_1_CRITICAL..=CHANNEL_3_WARNING => self.store(self.pointer, value & 0xfff8),
            SHUNT_SUM_LIMIT => self.store(self.pointer, value & 0xfffe),
            POWER_VALID_UPPER | POWER_VALID_LOWER => self.store(self.pointer, value & 0xfff8),
            // Acknowledged and without effect: measured values and ids cannot be written.
            CHANNEL_1_SHUNT..=CHANNEL_3_BUS | SHUNT_SUM => {}
            pointer => self.store(pointer, value),
        }
    }
}

/// `value` in the highest bits, so many bits up.
fn left_aligned(value: i32, shift: u8) -> u16 {
    let most = i32::from(i16::MAX) >> shift;
    i16::try_from(value.clamp(-most - 1, most) << shift).unwrap_or(0).cast_unsigned()
}

impl Chip for Ina3221 {
    fn reset(&mut self) {
        (self.pointer, self.registers) = (0, RESET);
    }

    fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
    }

    fn write(&mut self, bytes: &[u8], _: Duration) -> Ack {
        if let [pointer, ..] = bytes {
            self.pointer = *pointer;
        }
        if let [_, high, low, ..] = bytes {
            self.set(u16::from_be_bytes([*high, *low]));
        }
        Ack::Acked
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Ack {
        let value = self.value();
        repeat(buffer, &value.to_be_bytes())
    }
}

#[cfg(test)]
mod tests;
