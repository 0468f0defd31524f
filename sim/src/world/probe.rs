//! A thermometer: somewhere in the air, late, and never quite still.

use crate::random::{Drift, Random};

/// Sensor and board around it, s.
const TAU: f64 = 4.0;

/// Where a thermometer sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the air that enters the frame.
    Intake,
    /// In the air that leaves it.
    Exhaust,
}

/// One thermometer.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its name on the board.
    pub name: String,
    /// Where it sits.
    pub place: Place,
    settled: f64,
    /// The spot is this much warmer than the average, K.
    bias: f64,
    /// Turbulence: without it a thermometer with 1/16 K steps would look frozen on an idle rig.
    noise: Drift,
}

impl Probe {
    pub(super) fn new(name: &str, place: Place, ambient: f64, random: &mut Random) -> Self {
        let (settled, bias) = match place {
            Place::Intake => (ambient, random.between(-0.3, 0.3)),
            Place::Exhaust => (ambient + 15.0, random.between(-1.0, 1.0)),
        };
        Self { name: name.to_owned(), place, settled, bias, noise: Drift::new(0.12, 2.0) }
    }

    /// What the sensor's die has, °C.
    #[must_use]
    pub fn celsius(&self) -> f64 {
        self.settled + self.bias + self.noise.value()
    }

    pub(super) fn step(&mut self, dt: f64, intake: f64, exhaust: f64, random: &mut Random) {
        let air = match self.place {
            Place::Intake => intake,
            Place::Exhaust => exhaust,
        };
        self.settled += (air - self.settled) * (1.0 - (-dt / TAU).exp());
        self.noise.step(dt, random);
    }
}
