//! A supply of HP's common slot (DPS-1200FB and its kind), which speaks a protocol of its own.
//!
//! No datasheet is public; numbers and scales are what owners of such supplies found out and told each other.
//!
//! ```text
//! write  register, c             selects, with 2 * address + register + c = 0, modulo 256
//! read   low, high, c            what was selected, with low + high + c = 0
//! write  register, low, high, c  sets, with 2 * address + register + low + high + c = 0
//! ```
//!
//! Whatever has a wrong checksum is acknowledged and dropped: the read after it finds nobody driving the line. Not
//! modelled: the one answer in 500 that comes damaged, and the supply's EEPROM.

use std::time::Duration;

use super::pmbus::Inside;
use super::{Ack, Ailment, Chip, RELEASED};
use crate::quantize::word;

// Registers.
const INPUT_VOLTAGE: u8 = 0x08;
const INPUT_CURRENT: u8 = 0x0a;
const INPUT_POWER: u8 = 0x0c;
const OUTPUT_VOLTAGE: u8 = 0x0e;
const OUTPUT_CURRENT: u8 = 0x10;
const OUTPUT_POWER: u8 = 0x12;
const INTAKE: u8 = 0x1a;
const INTERNAL: u8 = 0x1c;
const FAN_SPEED: u8 = 0x1e;
const ENERGY_LOW: u8 = 0x2c;
const ENERGY_HIGH: u8 = 0x2e;
const ON_TIME: u8 = 0x30;
const PEAK_INPUT_POWER: u8 = 0x32;
const PEAK_OUTPUT_CURRENT: u8 = 0x36;
const FAN_TARGET: u8 = 0x40;
// Written with 0 they begin anew.
const RESET_ENERGY: u8 = 0x31;
const RESET_PEAK_INPUT_POWER: u8 = 0x33;
const RESET_PEAK_OUTPUT_CURRENT: u8 = 0x37;

/// Counts per ampere of the output current where nothing else is known; some units have twice as many.
const CURRENT_DIVISOR: u16 = 64;
/// A slower target is not taken, rpm.
const SLOWEST_TARGET: u16 = 3300;

/// One supply.
#[derive(Clone, Debug)]
pub struct CommonSlot {
    /// It is part of each checksum.
    address: u8,
    current_divisor: u16,
    ailment: Ailment,
    inside: Inside,
    /// `None` after a write that was dropped.
    selected: Option<u8>,
    /// W s, since it was reset.
    energy: f64,
    peak_input_watts: f64,
    peak_output_amps: f64,
    fan_target: u16,
    powered: Option<Duration>,
    measured: Duration,
}

impl CommonSlot {
    /// A supply just plugged in at this address; a divisor of 0 is the usual one.
    #[must_use]
    pub fn new(address: u8, current_divisor: u16) -> Self {
        Self {
            address,
            current_divisor: if current_divisor == 0 { CURRENT_DIVISOR } else { current_divisor },
            ailment: Ailment::default(),
            inside: Inside::default(),
            selected: None,
            energy: 0.0,
            peak_input_watts: 0.0,
            peak_output_amps: 0.0,
            fan_target: 0,
            powered: None,
            measured: Duration::ZERO,
        }
    }

    /// Measures itself.
    pub fn measure(&mut self, now: Duration, inside: Inside) {
        let dt = now.saturating_sub(self.measured).as_secs_f64();
        self.measured = now;
        if self.ailment.frozen {
            return;
        }
        self.powered.get_or_insert(now);
        self.inside = inside;
        self.energy += inside.input_watts * dt;
        self.peak_input_watts = self.peak_input_watts.max(inside.input_watts);
        self.peak_output_amps = self.peak_output_amps.max(inside.output_amps);
    }

    fn value(&self, register: u8) -> u16 {
        let of = |value: f64, divisor: u16| word(value * f64::from(divisor), u16::MAX);
        let Inside { input_volts, input_amps, input_watts, output_volts, output_amps, output_watts, .. } = self.inside;
        // A quarter of W s, as 32 bits, the high half first wraps.
        let energy = |half: f64| word((self.energy / 4.0 / half).floor() % 65_536.0, u16::MAX);
        match register {
            INPUT_VOLTAGE => of(input_volts, 32),
            INPUT_CURRENT => of(input_amps, 128),
            INPUT_POWER => of(input_watts, 2),
            OUTPUT_VOLTAGE => of(output_volts, 256),
            OUTPUT_CURRENT => of(output_amps, self.current_divisor),
            OUTPUT_POWER => of(output_watts, 2),
            INTAKE => of(self.inside.inlet, 64),
            INTERNAL => of(self.inside.celsius, 64),
            FAN_SPEED => of(self.inside.fan_rpm, 1),
            ENERGY_LOW => energy(1.0),
            ENERGY_HIGH => energy(65_536.0),
            ON_TIME => {
                let on = self.powered.map_or(Duration::ZERO, |powered| self.measured.saturating_sub(powered));
                of(on.as_secs_f64(), 2)
            }
            PEAK_INPUT_POWER => of(self.peak_input_watts, 2),
            PEAK_OUTPUT_CURRENT => of(self.peak_output_amps, self.current_divisor),
            FAN_TARGET => self.fan_target,
            _ => 0,
        }
    }

    fn set(&mut self, register: u8, value: u16) {
        match (register, value) {
            (RESET_ENERGY, 0) => self.energy = 0.0,
            (RESET_PEAK_INPUT_POWER, 0) => self.peak_input_watts = 0.0,
            (RESET_PEAK_OUTPUT_CURRENT, 0) => self.peak_output_amps = 0.0,
            (FAN_TARGET, rpm) if rpm >= SLOWEST_TARGET => self.fan_target = rpm,
            _ => {}
        }
    }
}

impl Chip for CommonSlot {
    fn reset(&mut self) {
        *self =
            Self { ailment: self.ailment, measured: self.measured, ..Self::new(self.address, self.current_divisor) };
    }

    fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
    }

    fn write(&mut self, bytes: &[u8], _: Duration) -> Ack {
        let fits = bytes.iter().fold(self.address << 1, |sum, byte| sum.wrapping_add(*byte)) == 0;
        self.selected = None;
        match bytes {
            [register, _] if fits && !self.ailment.wrong_id => self.selected = Some(*register),
            [register, low, high, _] if fits => self.set(*register, u16::from_le_bytes([*low, *high])),
            _ => {}
        }
        Ack::Acked
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Ack {
        let answer = self.selected.map(|register| {
            let [low, high] = self.value(register).to_le_bytes();
            [low, high, 0_u8.wrapping_sub(low).wrapping_sub(high)]
        });
        let answer = answer.into_iter().flatten().chain(std::iter::repeat(RELEASED));
        for (to, from) in buffer.iter_mut().zip(answer) {
            *to = from;
        }
        Ack::Acked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::probe::put;

    const AT_WORK: Inside = Inside {
        input_volts: 230.0,
        input_amps: 2.5,
        input_watts: 570.0,
        output_volts: 12.1,
        output_amps: 45.0,
        output_watts: 544.5,
        inlet: 25.0,
        celsius: 42.5,
        fan_rpm: 5200.0,
        off: false,
        input_low: false,
        hot: false,
        fan_fails: false,
        overloaded: false,
    };

    fn supply() -> CommonSlot {
        let mut supply = CommonSlot::new(0x5f, 0);
        supply.measure(Duration::ZERO, AT_WORK);
        supply
    }

    fn read(supply: &mut CommonSlot) -> [u8; 3] {
        let mut answer = [0; 3];
        assert_eq!(supply.read(&mut answer, Duration::ZERO), Ack::Acked);
        answer
    }

    fn get(supply: &mut CommonSlot, register: u8) -> u16 {
        put(supply, &[register, 0_u8.wrapping_sub(0xbe).wrapping_sub(register)]);
        let [low, high, sum] = read(supply);
        assert_eq!(low.wrapping_add(high).wrapping_add(sum), 0, "{register:#04x}");
        u16::from_le_bytes([low, high])
    }

    #[test]
    fn scales_are_what_is_known_of_them() {
        let mut supply = supply();
        for (what, register, value) in [
            ("230 V", 0x08, 7360),
            ("2.5 A", 0x0a, 320),
            ("570 W", 0x0c, 1140),
            ("12.1 V", 0x0e, 3098),
            ("45 A", 0x10, 2880),
            ("544.5 W", 0x12, 1089),
            ("25 °C", 0x1a, 1600),
            ("42.5 °C", 0x1c, 2720),
            ("5200 rpm", 0x1e, 5200),
            ("no register", 0x50, 0),
        ] {
            assert_eq!(get(&mut supply, register), value, "{what}");
        }
        let mut supply = CommonSlot::new(0x5f, 128);
        supply.measure(Duration::ZERO, AT_WORK);
        assert_eq!(get(&mut supply, 0x10), 5760, "twice as many counts per ampere");
    }

    #[test]
    fn a_request_as_it_was_captured() {
        let mut supply = supply();
        put(&mut supply, &[0x08, 0x3a]);
        assert_eq!(read(&mut supply), [0xc0, 0x1c, 0x24]);
        assert_eq!(read(&mut supply), [0xc0, 0x1c, 0x24], "again");
    }

    #[test]
    fn a_wrong_checksum_is_dropped() {
        let mut supply = supply();
        for request in [&[0x08, 0x3b][..], &[0x08], &[], &[0x40, 0xa0, 0x0f, 0x00]] {
            put(&mut supply, &[0x08, 0x3a]);
            put(&mut supply, request);
            assert_eq!(read(&mut supply), [0xff; 3], "{request:02x?}");
        }
        assert_eq!(get(&mut supply, 0x40), 0);
    }

    #[test]
    fn totals_run_on_and_can_be_reset() {
        let mut supply = supply();
        supply.measure(Duration::from_secs(1000), Inside { input_watts: 600.0, ..AT_WORK });
        supply.measure(Duration::from_secs(1001), AT_WORK);
        // 600 W for 1000 s and 570 W for one, in units of 4 W s.
        let total = 600_570 / 4;
        assert_eq!((get(&mut supply, 0x2c), get(&mut supply, 0x2e)), (u16::try_from(total % 65_536).unwrap(), 2));
        assert_eq!((get(&mut supply, 0x30), get(&mut supply, 0x32), get(&mut supply, 0x36)), (2002, 1200, 2880));
        for (register, sum) in [(0x31, 0x11), (0x33, 0x0f), (0x37, 0x0b)] {
            put(&mut supply, &[register, 0, 0, sum]);
        }
        assert_eq!((get(&mut supply, 0x2c), get(&mut supply, 0x32), get(&mut supply, 0x36)), (0, 0, 0));
        put(&mut supply, &[0x40, 0xa0, 0x0f, 0x53]);
        assert_eq!(get(&mut supply, 0x40), 4000);
        put(&mut supply, &[0x40, 0xe8, 0x03, 0x17]);
        assert_eq!(get(&mut supply, 0x40), 4000, "too slow");
    }

    #[test]
    fn ailments() {
        let mut supply = supply();
        supply.ail(Ailment { frozen: true, wrong_id: false });
        supply.measure(Duration::from_secs(10), Inside { input_volts: 100.0, ..AT_WORK });
        assert_eq!((get(&mut supply, 0x08), get(&mut supply, 0x30)), (7360, 20));
        supply.ail(Ailment { frozen: false, wrong_id: true });
        put(&mut supply, &[0x08, 0x3a]);
        assert_eq!(read(&mut supply), [0xff; 3]);
    }
}
