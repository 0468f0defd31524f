//! INA226: bus voltage, shunt voltage, and what it multiplies them into (Texas Instruments, SBOS547).
//!
//! Not modelled: averaging and conversion time (a value is new at each transfer), and the alert pin itself.

use std::time::Duration;

use super::{Ack, Ailment, Chip, repeat};
use crate::quantize::{signed_word, word};

// Register pointers (table 7-3).
const CONFIGURATION: u8 = 0x00;
const SHUNT_VOLTAGE: u8 = 0x01;
const BUS_VOLTAGE: u8 = 0x02;
const POWER: u8 = 0x03;
const CURRENT: u8 = 0x04;
const CALIBRATION: u8 = 0x05;
const MASK_ENABLE: u8 = 0x06;
const ALERT_LIMIT: u8 = 0x07;
const MANUFACTURER_ID: u8 = 0xfe;
const DIE_ID: u8 = 0xff;

/// Power-on value of the configuration: both inputs, continuously.
const CONFIGURATION_RESET: u16 = 0x4127;
/// Bits 14:12 always read as 100.
const CONFIGURATION_FIXED: u16 = 0x4000;
const CONFIGURATION_WRITABLE: u16 = 0x0fff;
const RST: u16 = 0x8000;
/// Operating mode bits 2:0: bit 0 measures the shunt, bit 1 the bus; neither is power-down.
const MODE_SHUNT: u16 = 0x0001;
const MODE_BUS: u16 = 0x0002;

// Mask/Enable bits (table 7-12).
const SOL: u16 = 0x8000;
const SUL: u16 = 0x4000;
const BOL: u16 = 0x2000;
const BUL: u16 = 0x1000;
const POL: u16 = 0x0800;
const AFF: u16 = 0x0010;
const CVRF: u16 = 0x0008;
const OVF: u16 = 0x0004;
const LEN: u16 = 0x0001;
const MASK_WRITABLE: u16 = 0xfc03;

/// Shunt voltage a bit, V.
const SHUNT_LSB: f64 = 2.5e-6;
/// Bus voltage a bit, V.
const BUS_LSB: f64 = 1.25e-3;
/// The bus register has 15 bits.
const BUS_MAX: u16 = 0x7fff;

/// One INA226 with its shunt.
#[derive(Clone, Debug)]
pub struct Ina226 {
    /// The resistor on the board, ohm.
    shunt: f64,
    ailment: Ailment,
    pointer: u8,
    configuration: u16,
    shunt_voltage: i16,
    bus_voltage: u16,
    power: u16,
    current: i16,
    calibration: u16,
    mask_enable: u16,
    alert_limit: u16,
}

impl Ina226 {
    /// A chip just powered, with this shunt.
    #[must_use]
    pub fn new(shunt_microohms: u32) -> Self {
        Self {
            shunt: f64::from(shunt_microohms) * 1e-6,
            ailment: Ailment::default(),
            pointer: 0,
            configuration: CONFIGURATION_RESET,
            shunt_voltage: 0,
            bus_voltage: 0,
            power: 0,
            current: 0,
            calibration: 0,
            mask_enable: 0,
            alert_limit: 0,
        }
    }

    /// One conversion with this at its pins.
    pub fn measure(&mut self, volts: f64, amps: f64) {
        if self.ailment.frozen {
            return;
        }
        if self.configuration & MODE_SHUNT != 0 {
            self.shunt_voltage = signed_word(amps * self.shunt / SHUNT_LSB);
        }
        if self.configuration & MODE_BUS != 0 {
            self.bus_voltage = word(volts / BUS_LSB, BUS_MAX);
        }
        if self.configuration & (MODE_SHUNT | MODE_BUS) != 0 {
            self.multiply();
            self.compare();
        }
    }

    /// Current = Shunt * Cal / 2048 (equation 3), Power = Current * Bus / 20000 (equation 4); 0 without calibration.
    fn multiply(&mut self) {
        let current = i32::from(self.shunt_voltage) * i32::from(self.calibration) / 2048;
        let power = i64::from(current.unsigned_abs()) * i64::from(self.bus_voltage) / 20_000;
        let (fits, overflows) = (i16::try_from(current), u16::try_from(power));
        let overflow = fits.is_err() || overflows.is_err();
        self.current = fits.unwrap_or(if current < 0 { i16::MIN } else { i16::MAX });
        self.power = overflows.unwrap_or(u16::MAX);
        self.mask_enable = self.mask_enable & !OVF | if overflow { OVF } else { 0 };
    }

    /// The highest function that is enabled compares with the limit (section 7.6.7).
    fn compare(&mut self) {
        let (mask, limit) = (self.mask_enable, self.alert_limit);
        let signed = limit.cast_signed();
        let alert = match mask {
            m if m & SOL != 0 => self.shunt_voltage > signed,
            m if m & SUL != 0 => self.shunt_voltage < signed,
            m if m & BOL != 0 => self.bus_voltage > limit,
            m if m & BUL != 0 => self.bus_voltage < limit,
            m if m & POL != 0 => self.power > limit,
            _ => false,
        };
        let latched = mask & LEN != 0 && mask & AFF != 0;
        self.mask_enable = mask & !AFF | CVRF | if alert || latched { AFF } else { 0 };
    }

    fn value(&mut self) -> u16 {
        match self.pointer {
            CONFIGURATION => self.configuration,
            SHUNT_VOLTAGE => self.shunt_voltage.cast_unsigned(),
            BUS_VOLTAGE => self.bus_voltage,
            POWER => self.power,
            CURRENT => self.current.cast_unsigned(),
            CALIBRATION => self.calibration,
            MASK_ENABLE => {
                let value = self.mask_enable;
                self.mask_enable &= !(AFF | CVRF);
                value
            }
            ALERT_LIMIT => self.alert_limit,
            MANUFACTURER_ID => 0x5449,
            // An INA3221 when it is not what it should be.
            DIE_ID if self.ailment.wrong_id => 0x3220,
            DIE_ID => 0x2260,
            _ => 0,
        }
    }

    fn set(&mut self, value: u16) {
        match self.pointer {
            CONFIGURATION if value & RST != 0 => self.reset(),
            CONFIGURATION => {
                self.configuration = value & CONFIGURATION_WRITABLE | CONFIGURATION_FIXED;
                // A new conversion begins, except into power-down (section 7.6.7).
                if value & (MODE_SHUNT | MODE_BUS) != 0 {
                    self.mask_enable &= !CVRF;
                }
            }
            CALIBRATION => self.calibration = value & 0x7fff,
            MASK_ENABLE => self.mask_enable = value & MASK_WRITABLE | self.mask_enable & (AFF | CVRF | OVF),
            ALERT_LIMIT => self.alert_limit = value,
            // Acknowledged and without effect: measured values and ids cannot be written.
            _ => {}
        }
    }
}

impl Chip for Ina226 {
    fn reset(&mut self) {
        *self = Self { shunt: self.shunt, ailment: self.ailment, ..Self::new(0) };
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
mod tests {
    use super::*;
    use crate::chip::probe::{get, put};

    /// The datasheet's worked example (table 8-1): 2 mOhm, 10 A, 11.98 V, calibration 2560 for an LSB of 1 mA.
    fn example() -> Ina226 {
        let mut chip = Ina226::new(2_000);
        put(&mut chip, &[0x05, 0x0a, 0x00]);
        chip.measure(11.98, 10.0);
        chip
    }

    #[test]
    fn the_worked_example_of_the_datasheet() {
        let mut chip = example();
        for (what, register, value) in [
            ("configuration", 0x00, 0x4127),
            ("shunt", 0x01, 8_000),
            ("bus", 0x02, 9_584),
            ("power", 0x03, 4_792),
            ("current", 0x04, 10_000),
            ("calibration", 0x05, 2_560),
            ("manufacturer", 0xfe, 0x5449),
            ("die", 0xff, 0x2260),
        ] {
            assert_eq!(u16::from_be_bytes(get(&mut chip, register)), value, "{what}");
        }
    }

    #[test]
    fn without_calibration_nothing_is_multiplied() {
        let mut chip = Ina226::new(2_000);
        chip.measure(11.98, 10.0);
        assert_eq!(get(&mut chip, 0x01), [0x1f, 0x40]);
        assert_eq!((get(&mut chip, 0x03), get(&mut chip, 0x04)), ([0, 0], [0, 0]));
        put(&mut chip, &[0x05, 0x08, 0x00]);
        chip.measure(11.98, -10.0);
        assert_eq!(get(&mut chip, 0x04), get::<2>(&mut chip, 0x01), "2048 repeats the shunt register");
        assert_eq!(get(&mut chip, 0x04), (-8_000_i16).to_be_bytes());
        assert_eq!(u16::from_be_bytes(get(&mut chip, 0x03)), 3_833, "8000 * 9584 / 20000, a magnitude");
    }

    #[test]
    fn fixed_bits_read_only_registers_and_reset() {
        let mut chip = example();
        put(&mut chip, &[0x00, 0x7f, 0xff]);
        assert_eq!(get(&mut chip, 0x00), [0x4f, 0xff]);
        put(&mut chip, &[0x02, 0x12, 0x34]);
        assert_eq!(get(&mut chip, 0x02), [0x25, 0x70]);
        put(&mut chip, &[0x05, 0xff]);
        assert_eq!(get(&mut chip, 0x05), [0x0a, 0x00], "half a word is no word");
        put(&mut chip, &[0x00, 0x80, 0x00]);
        assert_eq!((get(&mut chip, 0x00), get(&mut chip, 0x05)), ([0x41, 0x27], [0, 0]));
    }

    #[test]
    fn power_down_holds_the_last_values() {
        let mut chip = example();
        put(&mut chip, &[0x00, 0x41, 0x20]);
        chip.measure(5.0, 1.0);
        assert_eq!(get(&mut chip, 0x02), [0x25, 0x70]);
        put(&mut chip, &[0x00, 0x41, 0x26]);
        chip.measure(5.0, 1.0);
        assert_eq!((get(&mut chip, 0x02), get(&mut chip, 0x01)), ([0x0f, 0xa0], [0x1f, 0x40]), "bus alone");
    }

    #[test]
    fn the_alert_follows_its_limit_or_latches() {
        let mut chip = example();
        put(&mut chip, &[0x07, 0x25, 0x80]);
        put(&mut chip, &[0x06, 0x10, 0x00]);
        chip.measure(11.98, 10.0);
        assert_eq!(get(&mut chip, 0x06), [0x10, 0x18], "bus under 12.00 V, conversion ready");
        chip.measure(12.01, 10.0);
        assert_eq!(get(&mut chip, 0x06), [0x10, 0x08]);
        put(&mut chip, &[0x06, 0x10, 0x01]);
        chip.measure(11.98, 10.0);
        chip.measure(12.01, 10.0);
        assert_eq!(get(&mut chip, 0x06), [0x10, 0x19], "latched");
        assert_eq!(get(&mut chip, 0x06), [0x10, 0x01], "until it was read");
    }

    #[test]
    fn too_much_to_multiply_sets_the_overflow_bit() {
        let mut chip = Ina226::new(2_000);
        put(&mut chip, &[0x05, 0x7f, 0xff]);
        chip.measure(12.0, 10.0);
        assert_eq!(get::<2>(&mut chip, 0x06)[1] & 0x04, 0x04);
        chip.measure(12.0, 0.1);
        assert_eq!(get::<2>(&mut chip, 0x06)[1] & 0x04, 0);
    }

    #[test]
    fn ailments() {
        let mut chip = example();
        chip.ail(Ailment { frozen: true, wrong_id: true });
        chip.measure(5.0, 1.0);
        assert_eq!((get(&mut chip, 0x02), get(&mut chip, 0xff)), ([0x25, 0x70], [0x32, 0x20]));
    }
}
