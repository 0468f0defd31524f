//! A server supply: mains to 12 V, with losses that heat it, a fan of its own and the usual protections.

use crate::random::{Drift, Random};

/// What it can give for good, W.
const RATED: f64 = 3200.0;
/// Efficiency by part of the rated power, as published curves of platinum supplies run.
const EFFICIENCY: [(f64, f64); 6] = [(0.0, 0.70), (0.05, 0.86), (0.10, 0.91), (0.20, 0.94), (0.50, 0.95), (1.0, 0.92)];
/// What it takes with nothing connected, W.
const STANDBY: f64 = 6.0;
/// Part of volts times amps at the mains that is real power.
const POWER_FACTOR: f64 = 0.99;
/// Output without load, V, and how it droops, ohm.
const NO_LOAD: f64 = 12.2;
const DROOP_OHMS: f64 = 0.0005;
/// Heat capacity, J/K; heat it loses without and with its fan at full speed, W/K.
const CAPACITY: f64 = 1500.0;
const COOLED_STILL: f64 = 1.5;
const COOLED_FULL: f64 = 12.0;
/// Its fan, rpm: slowest at 30 °C, fastest at 60 °C.
const FAN_MIN: f64 = 4000.0;
const FAN_MAX: f64 = 18_000.0;
const FAN_TAU: f64 = 1.5;
/// Time that it has to come up after the supply switches on, s.
const FAN_STARTS_IN: f64 = 5.0;
/// Warns, switches off and comes back, °C.
const HOT: f64 = 85.0;
const TOO_HOT: f64 = 105.0;
const COOL_AGAIN: f64 = 70.0;
/// Switches off below and comes back above, V.
const MAINS_LOW: f64 = 170.0;
const MAINS_BACK: f64 = 180.0;

/// One supply.
#[derive(Clone, Debug)]
pub struct Supply {
    /// Its name on the board.
    pub name: String,
    /// At the mains, V, A and W.
    pub input_volts: f64,
    /// At the mains, A.
    pub input_amps: f64,
    /// At the mains, W.
    pub input_watts: f64,
    /// At the output, V; 0 when off.
    pub volts: f64,
    /// At the output, W.
    pub output_watts: f64,
    /// Taken from the mains ever, J.
    pub joules: f64,
    /// Inside, °C.
    pub celsius: f64,
    /// Air that it breathes, °C.
    pub inlet: f64,
    /// Its own fan, rpm.
    pub fan_rpm: f64,
    /// Its own fan is broken.
    pub fan_seized: bool,
    /// A protection has switched it off.
    pub off: bool,
    /// How long its fan has been slower than it should be, s.
    fan_slow: f64,
    mains_noise: Drift,
}

impl Supply {
    pub(super) fn new(name: &str, ambient: f64) -> Self {
        Self {
            name: name.to_owned(),
            input_volts: 230.0,
            input_amps: 0.0,
            input_watts: 0.0,
            volts: NO_LOAD,
            output_watts: 0.0,
            joules: 0.0,
            celsius: ambient + 10.0,
            inlet: ambient,
            fan_rpm: FAN_MIN,
            fan_seized: false,
            off: false,
            fan_slow: 0.0,
            mains_noise: Drift::new(0.8, 10.0),
        }
    }

    /// At the output, A.
    #[must_use]
    pub fn output_amps(&self) -> f64 {
        if self.volts > 0.0 { self.output_watts / self.volts } else { 0.0 }
    }

    /// The mains are too low to run on.
    #[must_use]
    pub fn input_low(&self) -> bool {
        self.input_volts < MAINS_LOW
    }

    /// Too warm inside for comfort.
    #[must_use]
    pub fn hot(&self) -> bool {
        self.celsius > HOT
    }

    /// Its fan does not turn as it should.
    #[must_use]
    pub fn fan_fails(&self) -> bool {
        self.fan_slow > FAN_STARTS_IN
    }

    /// Gives more than it is rated for.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        self.output_watts > RATED * 1.05
    }

    pub(super) fn step(&mut self, dt: f64, ambient: f64, mains: f64, share: f64, random: &mut Random) {
        let noise = self.mains_noise.step(dt, random);
        self.input_volts = if mains > 0.0 { (mains + noise).max(0.0) } else { 0.0 };
        self.inlet = ambient;
        self.off = if self.off {
            self.input_volts < MAINS_BACK || self.celsius > COOL_AGAIN
        } else {
            self.input_low() || self.celsius > TOO_HOT
        };
        self.output_watts = if self.off { 0.0 } else { share };
        self.volts = if self.off { 0.0 } else { NO_LOAD - DROOP_OHMS * share / NO_LOAD };
        let standby = if self.input_volts > 0.0 { STANDBY } else { 0.0 };
        self.input_watts = self.output_watts / efficiency(self.output_watts / RATED) + standby;
        self.input_amps =
            if self.input_volts > 0.0 { self.input_watts / (self.input_volts * POWER_FACTOR) } else { 0.0 };

        // What it takes stays the same until the next step: this is the sum, and no estimate of one.
        self.joules += self.input_watts * dt;
        let lost = self.input_watts - self.output_watts;
        let cooled = COOLED_STILL + (COOLED_FULL - COOLED_STILL) * self.fan_rpm / FAN_MAX;
        self.celsius += (lost - cooled * (self.celsius - ambient)) / CAPACITY * dt;
        let wanted = match (self.fan_seized || self.off, (self.celsius - 30.0) / 30.0) {
            (true, _) => 0.0,
            (false, warm) => FAN_MIN + (FAN_MAX - FAN_MIN) * warm.clamp(0.0, 1.0),
        };
        self.fan_rpm += (wanted - self.fan_rpm) * (1.0 - (-dt / FAN_TAU).exp());
        self.fan_slow = if self.off || self.fan_rpm > FAN_MIN / 2.0 { 0.0 } else { self.fan_slow + dt };
    }
}

/// Straight lines between the points of the curve.
fn efficiency(part: f64) -> f64 {
    let mut below = (0.0, 0.70);
    for above in EFFICIENCY {
        if part <= above.0 {
            let width = above.0 - below.0;
            return if width > 0.0 { below.1 + (above.1 - below.1) * (part - below.0) / width } else { above.1 };
        }
        below = above;
    }
    below.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efficiency_meets_its_points_and_stays_between_them() {
        for (part, expected) in [(0.0, 0.70), (0.1, 0.91), (0.35, 0.945), (1.0, 0.92), (2.0, 0.92)] {
            assert!((efficiency(part) - expected).abs() < 1e-9, "{part}: {}", efficiency(part));
        }
    }
}
