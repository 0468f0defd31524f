//! The physics of a simulated rig: load makes watts, watts make heat and rail current, fans carry the heat away.
//!
//! ```text
//! load ── gpu: W ──┬── rail: A, V droop ── supply: efficiency, W at the mains
//!                  └── heat sink: J/K ──(air: W/K by fan speed)── exhaust ── probes
//! ```
//!
//! Pure: no clock, no I/O; a [`World`] is moved on by [`World::step`] alone and is the same for the same seed, layout,
//! steps and settings. The numbers are chosen to be plausible for a frame of eight 350 W cards, not measured on one:
//! at 60 % load and half air the exhaust is about 45 °C; at full load with every fan seized it passes 65 °C within
//! three minutes and settles near 90 °C, where the cards throttle.

pub mod card;
mod fan;
mod gpu;
mod probe;
mod supply;

use std::time::Duration;

pub use fan::Fan;
pub use gpu::{CardFan, Control, Gpu, PSTATES, Presence, reason};
pub use probe::{Place, Probe};
pub use supply::Supply;

use card::{Profile, default_profile};

use crate::quantize::count;
use crate::random::Random;

/// Longest step that the formulas are made for.
pub const MAX_STEP: Duration = Duration::from_millis(100);

/// Heat that the air of one card's share carries at full fan speed, W/K: about 19 l/s.
const AIR_FULL: f64 = 22.0;
/// The same when no fan turns and only convection is left, W/K.
const AIR_STILL: f64 = 0.6;
/// Part of the exhaust's warmth that finds its way back to the intake.
const RECIRCULATED: f64 = 0.03;
/// Sheet metal and the way of the air between cards and exhaust, s.
const EXHAUST_TAU: f64 = 3.0;
/// What a board draws besides cards and fans, W.
const BOARD_WATTS: f64 = 60.0;

/// What a rig consists of; the names are for the control socket.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// A card each, with the rail that feeds it.
    pub gpus: Vec<String>,
    /// What kind each card is, in that order; the rest are of the default kind.
    pub profiles: Vec<&'static Profile>,
    /// Name, speed at full drive in rpm, and the drive (0 to 1) at which it starts to turn.
    pub fans: Vec<(String, f64, f64)>,
    /// Thermometers.
    pub probes: Vec<(String, Place)>,
    /// Metered supplies; without one, an unmetered supply feeds the rig.
    pub supplies: Vec<String>,
}

/// All that is true of the rig, whatever the chips say.
#[derive(Clone, Debug)]
pub struct World {
    time: Duration,
    random: Random,
    /// Air around the rig, °C.
    pub ambient: f64,
    /// Mains voltage, V.
    pub mains: f64,
    /// The cards.
    pub gpus: Vec<Gpu>,
    /// The frame's fans.
    pub fans: Vec<Fan>,
    /// Thermometers.
    pub probes: Vec<Probe>,
    /// Supplies, sharing the load evenly.
    pub supplies: Vec<Supply>,
    /// Air that leaves the cards, °C.
    pub exhaust: f64,
}

impl World {
    /// A rig that has been at work for a while: cards warm, fans at the drive that their chip starts with.
    #[must_use]
    pub fn new(layout: &Layout, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let unmetered = [String::from("unmetered")];
        let supplies = if layout.supplies.is_empty() { &unmetered[..] } else { &layout.supplies };
        let ambient = 25.0;
        let profiles = layout.profiles.iter().copied().chain(std::iter::repeat(default_profile()));
        let mut world = Self {
            time: Duration::ZERO,
            ambient,
            mains: 230.0,
            gpus: layout.gpus.iter().zip(profiles).map(|(name, of)| Gpu::new(name, of, ambient, &mut random)).collect(),
            fans: layout.fans.iter().map(|(name, rpm, start)| Fan::new(name, *rpm, *start, &mut random)).collect(),
            probes: layout.probes.iter().map(|(name, place)| Probe::new(name, *place, ambient, &mut random)).collect(),
            supplies: supplies.iter().map(|name| Supply::new(name, ambient)).collect(),
            exhaust: ambient + 15.0,
            random,
        };
        // Currents, voltages and noise find each other before anybody looks.
        for _ in 0..10 {
            world.step(MAX_STEP);
        }
        world.time = Duration::ZERO;
        world
    }

    /// How long it has run.
    #[must_use]
    pub const fn time(&self) -> Duration {
        self.time
    }

    /// Air that enters the frame, °C.
    #[must_use]
    pub fn intake(&self) -> f64 {
        self.ambient + RECIRCULATED * (self.exhaust - self.ambient)
    }

    /// Fan speed of all in all, 0 to 1.
    #[must_use]
    pub fn airflow(&self) -> f64 {
        if self.fans.is_empty() { 0.0 } else { self.fans.iter().map(Fan::speed).sum::<f64>() / count(self.fans.len()) }
    }

    /// Heat that the air carries out of the frame, W.
    #[must_use]
    pub fn heat_carried(&self) -> f64 {
        let (air, airflow, intake) = (self.air(), self.airflow(), self.intake());
        self.gpus.iter().map(|gpu| gpu.conductance(air, airflow) * (gpu.celsius - intake)).sum()
    }

    /// Voltage where the supplies feed the rails, V; 0 when all are off.
    #[must_use]
    pub fn bus_volts(&self) -> f64 {
        self.supplies.iter().map(|supply| supply.volts).fold(0.0, f64::max)
    }

    /// Drawn from the supplies, W.
    #[must_use]
    pub fn output_watts(&self) -> f64 {
        if self.bus_volts() <= 0.0 {
            return 0.0;
        }
        let cards: f64 = self.gpus.iter().map(|gpu| gpu.watts).sum();
        let fans: f64 = self.fans.iter().map(Fan::watts).sum();
        cards + fans + BOARD_WATTS
    }

    /// Moves on by `dt`, at most [`MAX_STEP`]; more is cut to that.
    pub fn step(&mut self, dt: Duration) {
        let dt = dt.min(MAX_STEP);
        self.time += dt;
        let dt = dt.as_secs_f64();

        let (intake, air, airflow, volts) = (self.intake(), self.air(), self.airflow(), self.bus_volts());
        for fan in &mut self.fans {
            fan.step(dt, volts > 0.0);
        }
        for gpu in &mut self.gpus {
            gpu.step(dt, intake, air, airflow, volts, &mut self.random);
        }
        let leaving = self.leaving();
        self.exhaust += (leaving - self.exhaust) * (1.0 - (-dt / EXHAUST_TAU).exp());

        let output = self.output_watts();
        let on = self.supplies.iter().filter(|supply| !supply.off).count().max(1);
        for supply in &mut self.supplies {
            supply.step(dt, self.ambient, self.mains, output / count(on), &mut self.random);
        }
        let (intake, exhaust) = (self.intake(), self.exhaust);
        for probe in &mut self.probes {
            probe.step(dt, intake, exhaust, &mut self.random);
        }
    }

    /// One card's share of the air, W/K.
    fn air(&self) -> f64 {
        AIR_STILL + AIR_FULL * self.airflow()
    }

    /// Temperature of the mixed air behind the cards, °C.
    fn leaving(&self) -> f64 {
        let share = self.air() * count(self.gpus.len());
        if share > 0.0 { self.intake() + self.heat_carried() / share } else { self.intake() }
    }
}

#[cfg(test)]
mod tests;
