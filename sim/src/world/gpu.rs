//! A card: watts by load, a heat sink in the stream of air, throttling when that gets too hot.

use crate::random::{Drift, Random};

/// Heat capacity of card and heat sink, J/K.
const CAPACITY: f64 = 700.0;
/// From the sink into moving air at full fan speed, W/K.
const SINK_FULL: f64 = 7.2;
/// From the sink into still air, W/K.
const SINK_STILL: f64 = 1.2;
/// How the sink's conductance grows with air speed (turbulent flow over plates).
const SINK_EXPONENT: f64 = 0.6;
/// Past the air, through the frame, W/K.
const FRAME: f64 = 0.3;
/// The card takes less from here on, °C...
const THROTTLE_FROM: f64 = 95.0;
/// ...and nothing but its idle power from here on, °C.
const THROTTLE_FULL: f64 = 110.0;
/// Between supply and card, ohm.
const CABLE_OHMS: f64 = 0.004;
/// Below this the card is off, V.
const MIN_VOLTS: f64 = 9.0;

/// One card and the 12 V rail that feeds it.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The rail's name.
    pub name: String,
    /// What it is asked to do, 0 to 1.
    pub load: f64,
    /// What it draws, W.
    pub watts: f64,
    /// Its heat sink, °C.
    pub celsius: f64,
    /// At its connector, V.
    pub volts: f64,
    idle: f64,
    full: f64,
    /// How fast its power follows its load, s.
    tau: f64,
    noise: Drift,
}

impl Gpu {
    pub(super) fn new(name: &str, ambient: f64, random: &mut Random) -> Self {
        let (load, idle, full) = (0.6, random.between(22.0, 28.0), random.between(338.0, 362.0));
        Self {
            name: name.to_owned(),
            load,
            watts: idle + (full - idle) * load,
            celsius: ambient + 45.0,
            volts: 12.0,
            idle,
            full,
            tau: random.between(0.2, 0.5),
            noise: Drift::new(0.02, 5.0),
        }
    }

    /// Through the rail, A.
    #[must_use]
    pub fn amps(&self) -> f64 {
        if self.volts > 0.0 { self.watts / self.volts } else { 0.0 }
    }

    pub(super) fn step(&mut self, dt: f64, intake: f64, air: f64, airflow: f64, supply: f64, random: &mut Random) {
        let noise = self.noise.step(dt, random);
        let throttle = ((THROTTLE_FULL - self.celsius) / (THROTTLE_FULL - THROTTLE_FROM)).clamp(0.0, 1.0);
        let work = (self.load * (1.0 + noise)).clamp(0.0, 1.0) * throttle;
        let wanted = if supply < MIN_VOLTS { 0.0 } else { self.idle + (self.full - self.idle) * work };
        self.watts += (wanted - self.watts) * (1.0 - (-dt / self.tau).exp());
        self.volts = if supply < MIN_VOLTS { 0.0 } else { supply - CABLE_OHMS * self.watts / supply };
        let conductance = air * effectiveness(air, airflow) + FRAME;
        self.celsius += (self.watts - conductance * (self.celsius - intake)) / CAPACITY * dt;
    }
}

/// How near the air comes to the sink's temperature, 0 to 1, where `air` W/K pass it at that part of full fan speed.
pub(super) fn effectiveness(air: f64, airflow: f64) -> f64 {
    let sink = SINK_STILL + SINK_FULL * airflow.powf(SINK_EXPONENT);
    1.0 - (-sink / air).exp()
}
