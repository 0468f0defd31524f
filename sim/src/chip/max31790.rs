//! MAX31790: six fans, PWM out and tachometer in, with a watchdog on the bus (Maxim, 19-6540).
//!
//! Registers are bytes; words have their high byte at the lower address. Reads go on to the next address, writes wrap
//! inside a row of eight. Every change of drive goes at the rate of the channel's Fan Dynamics register: with its reset
//! value, 7.8 ms for each of the 511 steps, so 4 s from standing to full, also when the watchdog runs out.
//!
//! Not modelled: RPM mode and monitor mode (the drive stays), spin-up, sequential start, the actions of the Failed Fan
//! Options, tachometers 7 to 12 (standing). In PWM mode a fan counts as failed when its tachometer stands although it
//! is driven; the comparison with the target count is left out.

use std::time::Duration;

use super::{Ack, Ailment, Chip, RELEASED};
use crate::quantize::word;

/// Fans.
pub const FANS: usize = 6;

// Register addresses (datasheet, "Register Map").
const GLOBAL_CONFIGURATION: u8 = 0x00;
const PWM_FREQUENCY: u8 = 0x01;
const FAN_1_CONFIGURATION: u8 = 0x02;
const FAN_1_DYNAMICS: u8 = 0x08;
const FAN_FAULT_STATUS_2: u8 = 0x10;
const FAN_FAULT_STATUS_1: u8 = 0x11;
const FAN_FAULT_MASK_2: u8 = 0x12;
const FAN_FAULT_MASK_1: u8 = 0x13;
const FAILED_FAN_OPTIONS: u8 = 0x14;
const TACH_1_COUNT: u8 = 0x18;
const TACH_7_COUNT: u8 = 0x24;
const PWMOUT_1_DUTY_CYCLE: u8 = 0x30;
const PWMOUT_1_TARGET_DUTY_CYCLE: u8 = 0x40;
const TACH_1_TARGET_COUNT: u8 = 0x50;
const WINDOW_1: u8 = 0x60;
const REGISTERS: usize = 0x68;

// Global Configuration bits.
const STANDBY: u8 = 0x80;
const RESET: u8 = 0x40;
const WATCHDOG_PERIOD_SHIFT: u8 = 1;
const WATCHDOG_STATUS: u8 = 0x01;
/// Seconds by bits 2:1; 0 is off.
const WATCHDOG_S: [u64; 4] = [0, 5, 10, 30];

// Fan Configuration bits.
const RPM_MODE: u8 = 0x80;
const TACH_INPUT_ENABLE: u8 = 0x08;

/// Tachometer periods counted, by Fan Dynamics bits 7:5.
const SR: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0, 32.0];
/// Seconds for each of 511 steps of drive, by Fan Dynamics bits 4:2; 0 is at once.
const RATE_S: [f64; 8] = [0.0, 0.001_953_125, 0.003_906_25, 0.007_812_5, 0.015_625, 0.031_25, 0.062_5, 0.125];
/// Clock of the tachometer, Hz.
const TACH_CLOCK: f64 = 8192.0;
/// No pulse came in time.
const COUNT_MAX: u16 = 0x7ff;
const DRIVE_MAX: u16 = 0x1ff;
/// A tachometer stands for so long before its fan counts as failed.
const FAILED_AFTER: Duration = Duration::from_secs(1);

/// One MAX31790 and what it knows of its fans.
#[derive(Clone, Debug)]
pub struct Max31790 {
    ailment: Ailment,
    /// Tachometer pulses per revolution, a property of each fan.
    pulses: [u8; FANS],
    pointer: u8,
    registers: [u8; REGISTERS],
    /// Drive at the pins, 0 to 511 with fractions while it is changing.
    drive: [f64; FANS],
    /// Counts as last measured.
    count: [u16; FANS],
    /// How long each has stood although driven.
    standing: [Duration; FANS],
    last_transfer: Duration,
    last_run: Duration,
}

impl Max31790 {
    /// A chip just powered. Its PWM_START pins are strapped to 30 %.
    #[must_use]
    pub fn new(pulses: [u8; FANS]) -> Self {
        let mut chip = Self {
            ailment: Ailment::default(),
            pulses,
            pointer: 0,
            registers: [0; REGISTERS],
            drive: [0.0; FANS],
            count: [COUNT_MAX; FANS],
            standing: [Duration::ZERO; FANS],
            last_transfer: Duration::ZERO,
            last_run: Duration::ZERO,
        };
        chip.reset();
        chip
    }

    /// Goes on to `now` with the fans at these speeds: tachometers, watchdog, drive, fault status.
    pub fn run(&mut self, now: Duration, rpm: [f64; FANS]) {
        let dt = now.saturating_sub(self.last_run);
        self.last_run = now;
        let global = self.register(GLOBAL_CONFIGURATION);
        let period = Duration::from_secs(pick(&WATCHDOG_S, global >> WATCHDOG_PERIOD_SHIFT & 0b11));
        if !period.is_zero() && now.saturating_sub(self.last_transfer) >= period {
            self.store(GLOBAL_CONFIGURATION, global | WATCHDOG_STATUS);
        }
        for (fan, rpm) in (0..).zip(rpm) {
            self.run_fan(fan, rpm, dt);
        }
    }

    /// Drive at the pins, 0 to 1.
    #[must_use]
    pub fn outputs(&self) -> [f64; FANS] {
        self.drive.map(|drive| drive / f64::from(DRIVE_MAX))
    }

    fn run_fan(&mut self, fan: u8, rpm: f64, dt: Duration) {
        let configuration = self.register(FAN_1_CONFIGURATION + fan);
        let dynamics = self.register(FAN_1_DYNAMICS + fan);
        let goal = self.goal(fan);
        let enabled = configuration & TACH_INPUT_ENABLE != 0;
        let index = usize::from(fan);
        let (Some(drive), Some(count), Some(standing), Some(pulses)) = (
            self.drive.get_mut(index),
            self.count.get_mut(index),
            self.standing.get_mut(index),
            self.pulses.get(index),
        ) else {
            return;
        };

        if configuration & RPM_MODE == 0 {
            let rate = pick(&RATE_S, dynamics >> 2 & 0b111);
            let most = if rate > 0.0 { dt.as_secs_f64() / rate } else { f64::INFINITY };
            *drive += (goal - *drive).clamp(-most, most);
        }
        if !self.ailment.frozen {
            let counted = 60.0 * pick(&SR, dynamics >> 5) * TACH_CLOCK / (f64::from(*pulses) * rpm);
            // Beyond eleven bits, and for a fan that stands, the counter stays at its end.
            *count = if enabled && rpm > 0.0 { word(counted, COUNT_MAX) } else { COUNT_MAX };
        }
        let stands = enabled && configuration & RPM_MODE == 0 && *drive > 0.0 && *count == COUNT_MAX;
        *standing = if stands { standing.saturating_add(dt) } else { Duration::ZERO };
        if *standing >= FAILED_AFTER {
            self.store(FAN_FAULT_STATUS_1, self.register(FAN_FAULT_STATUS_1) | 1 << fan);
        }
    }

    /// Where the drive of this fan is heading, 0 to 511.
    fn goal(&self, fan: u8) -> f64 {
        let global = self.register(GLOBAL_CONFIGURATION);
        if global & STANDBY != 0 {
            0.0
        } else if global & WATCHDOG_STATUS != 0 {
            DRIVE_MAX.into()
        } else {
            let at = PWMOUT_1_TARGET_DUTY_CYCLE + 2 * fan;
            f64::from(u16::from_be_bytes([self.register(at), self.register(at + 1)]) >> 7)
        }
    }

    fn register(&self, address: u8) -> u8 {
        self.registers.get(usize::from(address)).copied().unwrap_or(RELEASED)
    }

    fn store(&mut self, address: u8, value: u8) {
        if let Some(register) = self.registers.get_mut(usize::from(address)) {
            *register = value;
        }
    }

    fn value(&self, address: u8) -> u8 {
        match address {
            TACH_1_COUNT..TACH_7_COUNT => {
                let raw = self.count.get(usize::from(address - TACH_1_COUNT) / 2).copied().unwrap_or(COUNT_MAX) << 5;
                // Another part uses the bits that are zero here.
                half(if self.ailment.wrong_id { raw | 0x13 } else { raw }, address)
            }
            TACH_7_COUNT..PWMOUT_1_DUTY_CYCLE => half(COUNT_MAX << 5, address),
            PWMOUT_1_DUTY_CYCLE..0x3c => {
                let drive = self.drive.get(usize::from(address - PWMOUT_1_DUTY_CYCLE) / 2).copied().unwrap_or(0.0);
                half(word(drive, DRIVE_MAX) << 7, address)
            }
            _ => self.register(address),
        }
    }

    fn set(&mut self, address: u8, value: u8) {
        match address {
            GLOBAL_CONFIGURATION if value & RESET != 0 => self.reset(),
            GLOBAL_CONFIGURATION => {
                // Status is cleared by writing 0; a 1 does not set it.
                let status = self.register(GLOBAL_CONFIGURATION) & value & WATCHDOG_STATUS;
                self.store(GLOBAL_CONFIGURATION, value & !WATCHDOG_STATUS | status);
            }
            FAN_FAULT_STATUS_2 | FAN_FAULT_STATUS_1 | TACH_1_COUNT..0x3c => {}
            FAN_1_CONFIGURATION..FAN_1_DYNAMICS => self.set_fan(address - FAN_1_CONFIGURATION, address, value),
            PWMOUT_1_TARGET_DUTY_CYCLE..0x4c => {
                let existing = if address.is_multiple_of(2) { value } else { value & 0x80 };
                self.set_fan((address - PWMOUT_1_TARGET_DUTY_CYCLE) / 2, address, existing);
            }
            TACH_1_TARGET_COUNT..0x5c => {
                let existing = if address.is_multiple_of(2) { value } else { value & 0xe0 };
                self.set_fan((address - TACH_1_TARGET_COUNT) / 2, address, existing);
            }
            _ => self.store(address, value),
        }
    }

    /// A write to a fan's configuration or target also clears its fault; it comes back if the fan still stands.
    fn set_fan(&mut self, fan: u8, address: u8, value: u8) {
        self.store(address, value);
        self.store(FAN_FAULT_STATUS_1, self.register(FAN_FAULT_STATUS_1) & !(1 << fan));
    }
}

impl Chip for Max31790 {
    fn reset(&mut self) {
        self.pointer = 0;
        self.registers = [0; REGISTERS];
        self.store(GLOBAL_CONFIGURATION, 0x20);
        self.store(PWM_FREQUENCY, 0x44);
        self.store(FAN_FAULT_MASK_2, 0x3f);
        self.store(FAN_FAULT_MASK_1, 0x3f);
        self.store(FAILED_FAN_OPTIONS, 0x45);
        for fan in 0..6 {
            self.store(FAN_1_DYNAMICS + fan, 0x4c);
            self.store(PWMOUT_1_TARGET_DUTY_CYCLE + 2 * fan, 0x4c);
            self.store(PWMOUT_1_TARGET_DUTY_CYCLE + 2 * fan + 1, 0x80);
            self.store(TACH_1_TARGET_COUNT + 2 * fan, 0x3d);
            self.store(TACH_1_TARGET_COUNT + 2 * fan + 1, 0x60);
            self.store(WINDOW_1 + fan, 0x00);
            let goal = self.goal(fan);
            if let Some(drive) = self.drive.get_mut(usize::from(fan)) {
                *drive = goal;
            }
        }
        self.count = [COUNT_MAX; FANS];
        self.standing = [Duration::ZERO; FANS];
    }

    fn ail(&mut self, ailment: Ailment) {
        self.ailment = ailment;
    }

    fn write(&mut self, bytes: &[u8], now: Duration) -> Ack {
        self.last_transfer = now;
        if let [pointer, values @ ..] = bytes {
            self.pointer = *pointer;
            for value in values {
                self.set(self.pointer, *value);
                self.pointer = self.pointer & 0xf8 | self.pointer.wrapping_add(1) & 0x07;
            }
        }
        Ack::Acked
    }

    fn read(&mut self, buffer: &mut [u8], now: Duration) -> Ack {
        self.last_transfer = now;
        for byte in buffer {
            *byte = self.value(self.pointer);
            self.pointer = self.pointer.wrapping_add(1);
        }
        Ack::Acked
    }
}

/// The byte of a word at this address: words begin at even ones.
fn half(value: u16, address: u8) -> u8 {
    let [high, low] = value.to_be_bytes();
    if address.is_multiple_of(2) { high } else { low }
}

fn pick<T: Copy + Default>(table: &[T], code: u8) -> T {
    table.get(usize::from(code)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
