//! A 4-wire fan: speed follows drive, with inertia, from a least drive on.

use crate::random::Random;

/// Drive of a fan whose chip has just started, 0 to 1.
pub(crate) const FIRST_DRIVE: f64 = 0.3;
/// Once it turns it goes on turning down to this part of its starting drive.
const KEEPS_TURNING: f64 = 0.6;
/// Getting faster, s.
const TAU_UP: f64 = 1.2;
/// Getting slower, s.
const TAU_DOWN: f64 = 2.0;
/// Seized, s.
const TAU_SEIZED: f64 = 0.2;
/// Slower than this it stands, rpm.
const STANDS: f64 = 30.0;
/// Power at full speed, W; it goes with the cube of speed.
const FULL_WATTS: f64 = 18.0;

/// One fan of the frame.
#[derive(Clone, Debug)]
pub struct Fan {
    /// Its name on the board.
    pub name: String,
    /// Drive at its PWM pin, 0 to 1.
    pub duty: f64,
    /// How fast it turns, rpm.
    pub rpm: f64,
    /// A broken bearing or a cable in the blades.
    pub seized: bool,
    full: f64,
    start: f64,
}

impl Fan {
    pub(super) fn new(name: &str, max_rpm: f64, start: f64, random: &mut Random) -> Self {
        // No two fans are alike, and none reaches what its label says.
        let full = max_rpm * random.between(0.95, 0.99);
        let duty = FIRST_DRIVE;
        Self { name: name.to_owned(), duty, rpm: full * duty, seized: false, full, start }
    }

    /// Part of full speed, 0 to 1.
    #[must_use]
    pub fn speed(&self) -> f64 {
        if self.full > 0.0 { self.rpm / self.full } else { 0.0 }
    }

    /// What it draws, W.
    #[must_use]
    pub fn watts(&self) -> f64 {
        FULL_WATTS * self.speed().powi(3)
    }

    pub(super) fn step(&mut self, dt: f64, powered: bool) {
        let least = if self.rpm > 0.0 { self.start * KEEPS_TURNING } else { self.start };
        let turns = powered && !self.seized && self.duty >= least;
        let wanted = if turns { self.full * self.duty } else { 0.0 };
        let tau = match (self.seized, wanted > self.rpm) {
            (true, _) => TAU_SEIZED,
            (false, true) => TAU_UP,
            (false, false) => TAU_DOWN,
        };
        self.rpm += (wanted - self.rpm) * (1.0 - (-dt / tau).exp());
        if !turns && self.rpm < STANDS {
            self.rpm = 0.0;
        }
    }
}
