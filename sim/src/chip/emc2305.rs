//! EMC2301, EMC2302, EMC2303, EMC2305: one, two, three or five fans, PWM out and tachometer in, with a watchdog on the bus
//! (SMSC/Microchip DS20006532).
//!
//! A fan that is started from 0 is first spun up: at 100 % for a quarter of the spin-up time, then at the spin level; the
//! Fan Setting register reads that drive meanwhile (seen on hardware). The watchdog runs after power-up until a fan is set,
//! and always with WD_EN; four seconds without a transfer set WATCH and drive every fan to 100 % until it is set again
//! (section 4.8).
//!
//! Not modelled: the closed loop (with EN_ALGO the drive stays), drive fail detection, the software lock, PWM frequency
//! and polarity. Inputs without a fan stand.

use std::time::Duration;

use super::{Ack, Ailment, Chip};
use crate::quantize::word;

/// Fans at most.
pub const FANS: usize = 5;

// Register map (table 5.1); those of a fan are given for the first, the next fan's are 0x10 further.
const CONFIGURATION: u8 = 0x20;
const FAN_STATUS: u8 = 0x24;
const FAN_STALL_STATUS: u8 = 0x25;
const FAN_SPIN_STATUS: u8 = 0x26;
const FAN_INTERRUPT_ENABLE: u8 = 0x29;
const PWM_BASE_F123: u8 = 0x2d;
const FAN_1_SETTING: u8 = 0x30;
const END_OF_FANS: u8 = 0x80;
// A fan's registers by their distance from its setting.
const SETTING: u8 = 0x0;
const CONFIGURATION_1: u8 = 0x2;
const CONFIGURATION_2: u8 = 0x3;
const SPIN_UP_CONFIGURATION: u8 = 0x6;
const MAX_STEP: u8 = 0x7;
const VALID_TACH_COUNT: u8 = 0x9;
const TACH_READING_HIGH: u8 = 0xe;
const TACH_READING_LOW: u8 = 0xf;
/// A fan's registers after reset, from its setting on.
const FAN_RESET: [u8; 16] =
    [0x00, 0x01, 0x2b, 0x28, 0x00, 0x2a, 0x19, 0x10, 0x66, 0xf5, 0x00, 0x00, 0xf8, 0xff, 0xff, 0xf8];
const PRODUCT_ID: u8 = 0xfd;
const MANUFACTURER_ID: u8 = 0xfe;
const REVISION: u8 = 0xff;

// Configuration bits.
const DIS_TO: u8 = 0x40;
const WD_EN: u8 = 0x20;
const CONFIGURATION_WRITABLE: u8 = 0xe3;
/// Fan Status: the watchdog ran out.
const WATCH: u8 = 0x80;
/// Fan Configuration 1: the closed loop.
const EN_ALGO: u8 = 0x80;
/// Fan Configuration 2: a change of drive goes by steps.
const EN_RRC: u8 = 0x40;
/// Fan Spin Up Configuration: no 100 % at first.
const NOKICK: u8 = 0x20;

/// Time without a transfer that the watchdog waits.
const WATCHDOG: Duration = Duration::from_secs(4);
/// Clock of the tachometer, Hz.
const TACH_CLOCK: f64 = 32_768.0;
/// No edge came in time; the 13-bit count stands in bits 15:3.
const COUNT_MAX: u16 = 0x1fff;
/// Edges less one that are counted over, by Fan Configuration 1 bits 4:3 (table 5.12).
const EDGES: [f64; 4] = [2.0, 4.0, 6.0, 8.0];
/// What the count is multiplied with, by bits 6:5 (table 5.11).
const RANGE: [f64; 4] = [1.0, 2.0, 4.0, 8.0];
/// Time between steps of drive, s, by bits 2:0 (table 5.13).
const UPDATE_S: [f64; 8] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.2, 1.6];
/// Drive while a fan is spun up, by Fan Spin Up Configuration bits 4:2 (table 5.21).
const SPIN_LEVEL: [f64; 8] = [0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65];
/// How long that takes, s, by bits 1:0 (table 5.22).
const SPIN_UP_S: [f64; 4] = [0.25, 0.5, 1.0, 2.0];
const DRIVE_MAX: f64 = 255.0;

/// One of them and what it knows of its fans.
#[derive(Clone, Debug)]
pub struct Emc2305 {
    ailment: Ailment,
    product: u8,
    fans: Vec<Fan>,
    pointer: u8,
    configuration: u8,
    /// Registers 0x29 to 0x2d: interrupts and PWM outputs, which nothing here depends on.
    outputs: [u8; 5],
    watch: bool,
    /// Since power-up no fan was set.
    untouched: bool,
    last_transfer: Duration,
    last_run: Duration,
}

#[derive(Clone, Debug)]
struct Fan {
    /// Tachometer pulses per revolution.
    pulses: u8,
    registers: [u8; 16],
    /// At the pin, 0 to 255 with fractions while it is changing.
    drive: f64,
    /// How long it has been spun up, s.
    spinning: Option<f64>,
    count: u16,
    /// Latched until read: stalled, and not spun up.
    stalled: bool,
    failed: bool,
}

impl Emc2305 {
    /// A chip just powered with this many fans (1, 2, 3 or 5), whose tachometers give so many pulses a revolution.
    #[must_use]
    pub fn new(fans: usize, pulses: [u8; FANS]) -> Self {
        let product = match fans {
            1 => 0x37,
            2 => 0x36,
            3 => 0x35,
            _ => 0x34,
        };
        Self {
            ailment: Ailment::default(),
            product,
            fans: pulses.into_iter().take(fans).map(Fan::new).collect(),
            pointer: 0,
            configuration: DIS_TO,
            outputs: [0; 5],
            watch: false,
            untouched: true,
            last_transfer: Duration::ZERO,
            last_run: Duration::ZERO,
        }
    }

    /// Goes on to `now` with the fans at these speeds: watchdog, drive, tachometers, stalls.
    pub fn run(&mut self, now: Duration, rpm: [f64; FANS]) {
        let dt = now.saturating_sub(self.last_run).as_secs_f64();
        self.last_run = now;
        let armed = self.untouched || self.configuration & WD_EN != 0;
        if armed && now.saturating_sub(self.last_transfer) >= WATCHDOG {
            (self.watch, self.untouched) = (true, false);
            self.fans.iter_mut().for_each(Fan::drive_fully);
        }
        for (fan, rpm) in self.fans.iter_mut().zip(rpm) {
            fan.run(dt, rpm, self.ailment.frozen, self.untouched);
        }
    }

    /// Drive at the pins, 0 to 1.
    #[must_use]
    pub fn outputs(&self) -> [f64; FANS] {
        std::array::from_fn(|fan| self.fans.get(fan).map_or(0.0, |fan| fan.drive / DRIVE_MAX))
    }

    /// A bit for each fan of which it is true.
    fn bits(&self, of: impl Fn(&Fan) -> bool) -> u8 {
        self.fans.iter().enumerate().fold(0, |bits, (index, fan)| bits | u8::from(of(fan)) << index)
    }

    /// The fan that a register belongs to, and the register's distance from the fan's first.
    fn fan(&mut self, register: u8) -> Option<(&mut Fan, u8)> {
        let register = register.checked_sub(FAN_1_SETTING)?;
        Some((self.fans.get_mut(usize::from(register >> 4))?, register & 0xf))
    }

    fn value(&mut self, register: u8) -> u8 {
        match register {
            CONFIGURATION => self.configuration,
            FAN_STATUS => {
                let (stalled, failed) = (self.bits(|fan| fan.stalled), self.bits(|fan| fan.failed));
                let watch = if std::mem::take(&mut self.watch) { WATCH } else { 0 };
                watch | u8::from(failed != 0) << 1 | u8::from(stalled != 0)
            }
            FAN_STALL_STATUS => {
                let bits = self.bits(|fan| fan.stalled);
                self.fans.iter_mut().for_each(|fan| fan.stalled &= fan.stalls());
                bits
            }
            FAN_SPIN_STATUS => {
                let bits = self.bits(|fan| fan.failed);
                self.fans.iter_mut().for_each(|fan| fan.failed &= fan.stalls());
                bits
            }
            FAN_INTERRUPT_ENABLE..=PWM_BASE_F123 => {
                self.outputs.get(usize::from(register - FAN_INTERRUPT_ENABLE)).copied().unwrap_or(0)
            }
            FAN_1_SETTING..END_OF_FANS => self.fan(register).map_or(0, |(fan, offset)| fan.value(offset)),
            // A part of another kind when it is not what it should be.
            PRODUCT_ID if self.ailment.wrong_id => 0x26,
            PRODUCT_ID => self.product,
            MANUFACTURER_ID => 0x5d,
            REVISION => 0x80,
            // Among them Fan Drive Fail Status: no fan ages here.
            _ => 0,
        }
    }

    fn set(&mut self, register: u8, value: u8) {
        match register {
            CONFIGURATION => self.configuration = value & CONFIGURATION_WRITABLE,
            FAN_INTERRUPT_ENABLE..=PWM_BASE_F123 => {
                if let Some(output) = self.outputs.get_mut(usize::from(register - FAN_INTERRUPT_ENABLE)) {
                    *output = value;
                }
            }
            FAN_1_SETTING..END_OF_FANS => {
                if let Some((fan, offset)) = self.fan(register)
                    && fan.set(offset, value)
                {
                    self.untouched = false;
                }
            }
            // Acknowledged and without effect: status and ids cannot be written.
            _ => {}
        }
    }
}

impl Fan {
    fn new(pulses: u8) -> Self {
        Self {
            pulses,
            registers: FAN_RESET,
            drive: 0.0,
            spinning: None,
            count: COUNT_MAX,
            stalled: false,
            failed: false,
        }
    }

    fn register(&self, offset: u8) -> u8 {
        self.registers.get(usize::from(offset)).copied().unwrap_or(0)
    }

    fn store(&mut self, offset: u8, value: u8) {
        if let Some(register) = self.registers.get_mut(usize::from(offset)) {
            *register = value;
        }
    }

    fn value(&self, offset: u8) -> u8 {
        let [high, low] = (self.count << 3).to_be_bytes();
        match offset {
            SETTING => u8::try_from(word(self.drive, 0xff)).unwrap_or(0xff),
            TACH_READING_HIGH => high,
            TACH_READING_LOW => low,
            _ => self.register(offset),
        }
    }

    /// Whether that ends the watchdog of the power-up.
    fn set(&mut self, offset: u8, value: u8) -> bool {
        match offset {
            // Ignored while the chip controls the speed itself.
            SETTING if self.register(CONFIGURATION_1) & EN_ALGO != 0 => return false,
            SETTING => {
                if self.drive == 0.0 && value > 0 {
                    self.spinning = Some(0.0);
                } else if value == 0 {
                    self.spinning = None;
                }
                self.store(SETTING, value);
                // Shows at once where no step limits it; a fan that starts, at its first drive.
                self.go(0.0);
                return true;
            }
            TACH_READING_HIGH | TACH_READING_LOW => return false,
            _ => self.store(offset, value),
        }
        offset == CONFIGURATION_1 && value & EN_ALGO != 0
    }

    /// What the watchdog does.
    fn drive_fully(&mut self) {
        self.store(SETTING, 0xff);
        self.store(CONFIGURATION_1, self.register(CONFIGURATION_1) & !EN_ALGO);
        (self.drive, self.spinning) = (DRIVE_MAX, None);
    }

    /// It is driven, and too slow to be measured as turning.
    fn stalls(&self) -> bool {
        let valid = u16::from(self.register(VALID_TACH_COUNT)) << 5;
        self.drive > 0.0 && self.spinning.is_none() && self.count > valid
    }

    fn run(&mut self, dt: f64, rpm: f64, frozen: bool, untouched: bool) {
        let was_spinning = self.spinning.is_some();
        self.go(dt);
        if !frozen {
            let configuration = self.register(CONFIGURATION_1);
            let (edges, range) = (pick(&EDGES, configuration >> 3 & 0b11), pick(&RANGE, configuration >> 5 & 0b11));
            let counted = 60.0 * TACH_CLOCK * edges * range / (f64::from(self.pulses) * rpm);
            self.count = if rpm > 0.0 { word(counted, COUNT_MAX) } else { COUNT_MAX };
        }
        if self.stalls() && !untouched {
            self.stalled = true;
            self.failed |= was_spinning;
        }
    }

    /// Moves the drive on.
    fn go(&mut self, dt: f64) {
        let (first, second) = (self.register(CONFIGURATION_1), self.register(CONFIGURATION_2));
        if first & EN_ALGO != 0 {
            return;
        }
        if let Some(elapsed) = self.spinning {
            let spin = self.register(SPIN_UP_CONFIGURATION);
            let (elapsed, total) = (elapsed + dt, pick(&SPIN_UP_S, spin & 0b11));
            if elapsed < total {
                let kicks = spin & NOKICK == 0 && elapsed < total / 4.0;
                self.drive = DRIVE_MAX * if kicks { 1.0 } else { pick(&SPIN_LEVEL, spin >> 2 & 0b111) };
                self.spinning = Some(elapsed);
                return;
            }
            self.spinning = None;
        }
        let most = if second & EN_RRC != 0 {
            f64::from(self.register(MAX_STEP)) * dt / pick(&UPDATE_S, first & 0b111)
        } else {
            f64::INFINITY
        };
        self.drive += (f64::from(self.register(SETTING)) - self.drive).clamp(-most, most);
    }
}

impl Chip for Emc2305 {
    fn reset(&mut self) {
        let mut pulses = [2; FANS];
        for (ours, fan) in pulses.iter_mut().zip(&self.fans) {
            *ours = fan.pulses;
        }
        let (last_run, last_transfer) = (self.last_run, self.last_run);
        *self = Self { ailment: self.ailment, last_run, last_transfer, ..Self::new(self.fans.len(), pulses) };
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
                self.pointer = self.pointer.wrapping_add(1);
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

fn pick(table: &[f64], code: u8) -> f64 {
    table.get(usize::from(code)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
