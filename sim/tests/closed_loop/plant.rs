//! A heated thing in a stream of air with every number of it drawn by chance, and the simulated rig of the demo beside it.
//!
//! ```text
//! watts ── sink: J/K ──(air: W/K by fan speed)── exhaust ── probe: lag, dead time, steps
//! ```
//!
//! The formulas are those of `rigd_sim::world`; there the numbers are those of one frame, here they are of any: a card that
//! heats in ten seconds and a cabinet that takes ten minutes, one fan or six of unlike size, a probe on the sink or in the exhaust.

use std::collections::VecDeque;
use std::time::Duration;

use rigd_sim::random::{Drift, Random};
use rigd_sim::world::{Probe as WorldProbe, World};

/// Step of the formulas, s.
pub(crate) const STEP: f64 = 0.1;

/// What a plant is built of.
#[derive(Clone, Debug)]
pub(crate) struct Physics {
    pub(crate) ambient: f64,
    /// At full load, W.
    pub(crate) watts: f64,
    /// Part of that at no load.
    pub(crate) idle: f64,
    /// By how much the air gets warmer at full load and full air, K.
    pub(crate) air_rise: f64,
    /// Sink's conductance in parts of the air's, at full air: small where the sink is much hotter than its air.
    pub(crate) transfer: f64,
    /// In which the sink forgets at full air, s.
    pub(crate) tau: f64,
    /// The probe is on the sink, or else in the exhaust.
    pub(crate) on_sink: bool,
    pub(crate) probe: Probe,
    pub(crate) fans: Vec<FanPhysics>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// s
    pub(crate) lag: f64,
    /// s
    pub(crate) dead_time: f64,
    /// K
    pub(crate) resolution: f64,
    /// Standard deviation of the air's unrest, K.
    pub(crate) unrest: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FanPhysics {
    /// Its part of the air against the others'.
    pub(crate) size: f64,
    /// At full drive.
    pub(crate) rpm: f64,
    /// Drive at which it starts, 0 to 1; it keeps turning down to 0.6 of that.
    pub(crate) start: f64,
    /// Getting faster, s.
    pub(crate) tau: f64,
}

/// Part of its starting drive at which a fan that turns keeps turning.
const KEEPS_TURNING: f64 = 0.6;
/// Of a fan that seizes, s.
const TAU_SEIZED: f64 = 0.2;
/// How much longer it takes to get slower than to get faster.
const SLOWER: f64 = 1.7;
/// Air that passes without any fan, in parts of full air.
const STILL: f64 = 0.03;
/// The sink's conductance into still air, in parts of that into full air, and how it grows (turbulent flow over plates).
const SINK_STILL: f64 = 0.15;
const SINK_EXPONENT: f64 = 0.6;
/// Past the air, through the frame, in parts of full air.
const FRAME: f64 = 0.02;
/// How fast watts follow load, and the exhaust its sink, s.
const LOAD_TAU: f64 = 0.3;
const EXHAUST_TAU: f64 = 3.0;

#[derive(Clone, Debug)]
struct Fan {
    of: FanPhysics,
    /// 0 to 1.
    duty: f64,
    /// Part of full speed, 0 to 1.
    speed: f64,
    seized: bool,
}

impl Fan {
    fn step(&mut self) {
        let least = if self.speed > 0.0 { self.of.start * KEEPS_TURNING } else { self.of.start };
        let turns = !self.seized && self.duty >= least;
        let wanted = if turns { self.duty } else { 0.0 };
        let tau = match (self.seized, wanted > self.speed) {
            (true, _) => TAU_SEIZED,
            (false, true) => self.of.tau,
            (false, false) => self.of.tau * SLOWER,
        };
        self.speed += (wanted - self.speed) * part(tau);
        if !turns && self.speed < 0.005 {
            self.speed = 0.0;
        }
    }
}

/// A plant of drawn numbers.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    physics: Physics,
    /// Above ambient, K.
    sink: f64,
    exhaust: f64,
    settled: f64,
    unrest: Drift,
    random: Random,
    fans: Vec<Fan>,
    watts: f64,
}

/// Of the way that is gone in a step, where `tau` s are needed for 1 - 1/e of it.
fn part(tau: f64) -> f64 {
    1.0 - (-STEP / tau).exp()
}

impl Physics {
    /// W/K that the air carries at this part of full air.
    fn air(&self, airflow: f64) -> f64 {
        self.watts / self.air_rise * (STILL + (1.0 - STILL) * airflow)
    }

    /// W/K from the sink out of the frame.
    fn conductance(&self, airflow: f64) -> f64 {
        let air = self.air(airflow);
        let full = self.watts / self.air_rise;
        let sink = self.transfer * full * (SINK_STILL + (1.0 - SINK_STILL) * airflow.powf(SINK_EXPONENT));
        air * (1.0 - (-sink / air).exp()) + FRAME * full
    }

    fn watts(&self, load: f64) -> f64 {
        self.watts * (self.idle + (1.0 - self.idle) * load)
    }

    /// Where the probe settles, °C.
    pub(crate) fn settled(&self, load: f64, airflow: f64) -> f64 {
        let sink = self.watts(load) / self.conductance(airflow);
        self.ambient + if self.on_sink { sink } else { self.leaving(sink, airflow) }
    }

    /// Of the air behind the sink, above ambient, K.
    fn leaving(&self, sink: f64, airflow: f64) -> f64 {
        let full = self.watts / self.air_rise;
        (self.conductance(airflow) - FRAME * full) * sink / self.air(airflow)
    }
}

impl Drawn {
    /// Settled at this load and drive.
    pub(crate) fn new(physics: Physics, load: f64, duty: f64, seed: u64) -> Self {
        let watts = physics.watts(load);
        let sink = watts / physics.conductance(duty);
        let exhaust = physics.leaving(sink, duty);
        let settled = if physics.on_sink { sink } else { exhaust };
        let fans = physics.fans.iter().map(|fan| Fan { of: *fan, duty, speed: duty, seized: false }).collect();
        let unrest = Drift::new(physics.probe.unrest, 2.0);
        Self { sink, exhaust, settled, unrest, random: Random::new(seed), fans, watts, physics }
    }

    fn airflow(&self) -> f64 {
        let all: f64 = self.fans.iter().map(|fan| fan.of.size).sum();
        self.fans.iter().map(|fan| fan.of.size * fan.speed).sum::<f64>() / all
    }

    fn step(&mut self, load: f64) {
        let airflow = self.airflow();
        self.fans.iter_mut().for_each(Fan::step);
        let physics = &self.physics;
        self.watts += (physics.watts(load) - self.watts) * part(LOAD_TAU);
        let capacity = physics.tau * physics.conductance(1.0);
        self.sink += (self.watts - physics.conductance(airflow) * self.sink) / capacity * STEP;
        self.exhaust += (physics.leaving(self.sink, airflow) - self.exhaust) * part(EXHAUST_TAU);
        let site = if physics.on_sink { self.sink } else { self.exhaust };
        self.settled += (site - self.settled) * part(physics.probe.lag);
        self.unrest.step(STEP, &mut self.random);
    }
}

/// Either kind of plant behind one face.
#[derive(Clone, Debug)]
pub(crate) enum Plant {
    Drawn(Box<Drawn>),
    World(Box<World>),
}

impl Plant {
    /// A step at this load, 0 to 1.
    pub(crate) fn step(&mut self, load: f64) {
        match self {
            Self::Drawn(plant) => plant.step(load),
            Self::World(world) => {
                world.gpus.iter_mut().for_each(|gpu| gpu.load = load);
                world.step(Duration::from_secs_f64(STEP));
            }
        }
    }

    /// What the probe's die has, °C; of several the hottest.
    pub(crate) fn celsius(&self) -> f64 {
        match self {
            Self::Drawn(plant) => plant.physics.ambient + plant.settled + plant.unrest.value(),
            Self::World(world) => world.probes.iter().map(WorldProbe::celsius).fold(f64::MIN, f64::max),
        }
    }

    pub(crate) fn watts(&self) -> f64 {
        match self {
            Self::Drawn(plant) => plant.watts,
            Self::World(world) => world.gpus.iter().map(|gpu| gpu.watts).sum(),
        }
    }

    pub(crate) fn drive(&mut self, fan: usize, duty: f64) {
        match self {
            Self::Drawn(plant) => plant.fans.get_mut(fan).into_iter().for_each(|fan| fan.duty = duty),
            Self::World(world) => world.fans.get_mut(fan).into_iter().for_each(|fan| fan.duty = duty),
        }
    }

    /// From now on it stands.
    pub(crate) fn seize(&mut self, fan: usize) {
        match self {
            Self::Drawn(plant) => plant.fans.get_mut(fan).into_iter().for_each(|fan| fan.seized = true),
            Self::World(world) => world.fans.get_mut(fan).into_iter().for_each(|fan| fan.seized = true),
        }
    }

    pub(crate) fn rpm(&self, fan: usize) -> f64 {
        match self {
            Self::Drawn(plant) => plant.fans.get(fan).map_or(0.0, |fan| fan.of.rpm * fan.speed),
            Self::World(world) => world.fans.get(fan).map_or(0.0, |fan| fan.rpm),
        }
    }
}

/// What the probe's chip says: late and in steps.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    probe: Probe,
    past: VecDeque<f64>,
}

impl Reader {
    pub(crate) fn new(probe: Probe, celsius: f64) -> Self {
        let steps = (probe.dead_time / STEP).round();
        let length = (0_u32..).take_while(|i| f64::from(*i) <= steps).count();
        Self { probe, past: vec![celsius; length].into() }
    }

    pub(crate) fn step(&mut self, celsius: f64) {
        self.past.push_back(celsius);
        self.past.pop_front();
    }

    pub(crate) fn celsius(&self) -> f64 {
        let oldest = self.past.front().copied().unwrap_or(0.0);
        (oldest / self.probe.resolution).floor() * self.probe.resolution
    }
}
