//! A card: clocks and load make watts, up to its limit; a heat sink in the stream of air, with fans of its own; slower when
//! that gets too hot, and off before it burns.
//!
//! ```text
//! lock, offset, limit, load ── core clock f, memory clock m
//! W = idle + load × (full - idle) × (3/4 f V(f)² + 1/4 m), as parts of what they are at work without settings
//! work = load / ((1 - b) / f + b / m), where b is the part of its time in which it waits for memory
//! ```
//!
//! What is worked is simulated as well: a guess of how much of a real payload's time goes with which clock, and no payload's numbers.

use crate::quantize::whole;
use crate::random::{Drift, Random};

use super::card::Profile;

/// Heat capacity of card and heat sink, J/K.
const CAPACITY: f64 = 700.0;
/// From the sink into moving air at full fan speed, W/K.
const SINK_FULL: f64 = 7.2;
/// From the sink into still air, W/K.
const SINK_STILL: f64 = 1.2;
/// How the sink's conductance grows with air speed (turbulent flow over plates).
const SINK_EXPONENT: f64 = 0.6;
/// What the card's own fans make of that: standing, and more at full speed.
const OWN_STILL: f64 = 0.7;
const OWN_FULL: f64 = 0.6;
/// The driver's own curve: its least drive up to here, full drive from there on, °C.
const CURVE: [f64; 2] = [50.0, 90.0];
const CURVE_LEAST: f64 = 0.3;
/// The card's own fans follow their drive, s.
const FAN_TAU: f64 = 1.0;
/// Past the air, through the frame, W/K.
const FRAME: f64 = 0.3;
/// It starts to get slower so many degrees before the temperature that its maker allows.
const SLOWER_BEFORE: f64 = 3.0;
/// Between supply and card, ohm.
const CABLE_OHMS: f64 = 0.004;
/// Below this the card is off, V.
const MIN_VOLTS: f64 = 9.0;
/// Part of the power at work that goes with the core clock; the rest goes with the memory clock.
const CORE_PART: f64 = 0.75;
/// Voltage by core clock, as parts of those at work: never less than the first, and this much per part of clock.
const LEAST_VOLTAGE: f64 = 0.7;
const VOLTAGE_SLOPE: f64 = 0.75;
/// Less load than this is rest.
const REST: f64 = 0.01;
/// Part of the time that waits for memory where nobody says another: a guess.
const MEMORY_BOUND: f64 = 0.35;
/// A card that switched itself off, W.
const OFF_WATTS: f64 = 3.0;

/// Why clocks are not higher: bits of `nvmlClocksEventReasons` in `nvml.h`.
pub mod reason {
    /// Nothing runs.
    pub const IDLE: u64 = 0x1;
    /// The power limit.
    pub const POWER_CAP: u64 = 0x4;
    /// Hardware slowdown.
    pub const HW_SLOWDOWN: u64 = 0x8;
    /// Temperature, by software.
    pub const SW_THERMAL: u64 = 0x20;
    /// Temperature, by hardware.
    pub const HW_THERMAL: u64 = 0x40;
}

/// Performance states of NVML, P0 to P15.
pub const PSTATES: usize = 16;

/// What the driver has set on a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Power limit, mW.
    pub limit: u32,
    /// Core clock held between these, MHz.
    pub core_lock: Option<(u32, u32)>,
    /// Memory held in this of the profile's states.
    pub memory_lock: Option<usize>,
    /// Core clock offset by performance state, MHz.
    pub core_offset: [i32; PSTATES],
    /// Memory clock offset by performance state, of the data rate: the clock moves by half, MHz.
    pub memory_offset: [i32; PSTATES],
}

impl Control {
    /// As the driver sets it when it is loaded.
    #[must_use]
    pub const fn new(profile: &Profile) -> Self {
        let [_, limit, _] = profile.limits;
        Self { limit, core_lock: None, memory_lock: None, core_offset: [0; PSTATES], memory_offset: [0; PSTATES] }
    }
}

/// A fan of a card.
#[derive(Clone, Debug, Default)]
pub struct CardFan {
    /// Its drive by hand, %; none is the driver's own curve.
    pub manual: Option<u32>,
    /// The drive that is intended, 0 to 1.
    pub intended: f64,
    /// How fast it turns, 0 to 1.
    pub speed: f64,
    /// Stands, whatever its drive.
    pub stuck: bool,
}

/// Whether a card is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// It works.
    #[default]
    There,
    /// Off the bus: does nothing, its fans at full speed.
    Lost,
    /// Too hot: switched itself off.
    Off,
}

/// One card and the 12 V rail that feeds it.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// The rail's name.
    pub name: String,
    /// What kind of card.
    pub profile: &'static Profile,
    /// What it is asked to do, 0 to 1.
    pub load: f64,
    /// Part of its time at work in which what it is asked to do waits for memory: near 1 for mining that reads all over its
    /// memory, near 0 for hashing that does not, between for AI.
    pub memory_bound: f64,
    /// What it draws, W.
    pub watts: f64,
    /// Drawn on average over about a second, W.
    pub average_watts: f64,
    /// Drawn since it was made, J.
    pub joules: f64,
    /// Its heat sink, °C.
    pub celsius: f64,
    /// Its heat sink is held there, whatever its power and its air make of it, °C.
    pub held: Option<f64>,
    /// At its connector, V.
    pub volts: f64,
    /// What is set on it.
    pub control: Control,
    /// Fans of its own.
    pub fans: Vec<CardFan>,
    /// Core clock, MHz.
    pub core_mhz: u32,
    /// Memory clock, MHz.
    pub memory_mhz: u32,
    /// Performance state.
    pub pstate: u8,
    /// Why the clock is not higher.
    pub reasons: u64,
    /// Whether it is there.
    pub presence: Presence,
    idle: f64,
    full: f64,
    /// How fast its power follows its load, s.
    tau: f64,
    noise: Drift,
}

impl Gpu {
    pub(super) fn new(name: &str, profile: &'static Profile, ambient: f64, random: &mut Random) -> Self {
        let [_, limit, _] = profile.limits;
        let (load, idle) = (0.6, profile.idle_watts * random.between(0.88, 1.12));
        let full = f64::from(limit) / 1000.0 * random.between(338.0 / 350.0, 362.0 / 350.0);
        let watts = idle + (full - idle) * load;
        Self {
            name: name.to_owned(),
            profile,
            load,
            memory_bound: MEMORY_BOUND,
            watts,
            average_watts: watts,
            joules: 0.0,
            celsius: ambient + 45.0,
            held: None,
            volts: 12.0,
            control: Control::new(profile),
            fans: vec![CardFan { speed: 0.6, ..CardFan::default() }; profile.fans],
            core_mhz: 0,
            memory_mhz: 0,
            pstate: 0,
            reasons: 0,
            presence: Presence::There,
            idle,
            full,
            tau: random.between(0.2, 0.5),
            noise: Drift::new(0.02, 5.0),
        }
    }

    /// What it gets done, as a part of what it would at full load without settings.
    #[must_use]
    pub fn work(&self) -> f64 {
        let [_, boost, _] = self.profile.core;
        let (core, memory) = (f64::from(self.core_mhz) / f64::from(boost), self.memory_part(self.memory_mhz));
        if core <= 0.0 || memory <= 0.0 {
            return 0.0;
        }
        self.load / ((1.0 - self.memory_bound) / core + self.memory_bound / memory)
    }

    /// Through the rail, A.
    #[must_use]
    pub fn amps(&self) -> f64 {
        if self.volts > 0.0 { self.watts / self.volts } else { 0.0 }
    }

    /// Into the air that passes it, W/K, where `air` W/K pass it at that part of full fan speed.
    pub(super) fn conductance(&self, air: f64, airflow: f64) -> f64 {
        let own = if self.fans.is_empty() { 1.0 } else { OWN_STILL + OWN_FULL * self.own_speed() };
        let sink = (SINK_STILL + SINK_FULL * airflow.powf(SINK_EXPONENT)) * own;
        // How near the air comes to the sink's temperature: the effectiveness of a heat exchanger.
        air * (1.0 - (-sink / air).exp())
    }

    pub(super) fn step(&mut self, dt: f64, intake: f64, air: f64, airflow: f64, supply: f64, random: &mut Random) {
        let noise = self.noise.step(dt, random);
        let powered = supply >= MIN_VOLTS;
        let [hot, slowdown, shutdown] = self.profile.hot.map(f64::from);
        if powered && self.celsius >= shutdown && self.presence == Presence::There {
            self.presence = Presence::Off;
        }
        let from = hot - SLOWER_BEFORE;
        let cool = ((slowdown - self.celsius) / (slowdown - from)).clamp(0.0, 1.0);
        let wanted = match self.presence {
            _ if !powered => 0.0,
            Presence::There => self.clocks((self.load * (1.0 + noise)).clamp(0.0, 1.0), cool),
            Presence::Lost => self.idle,
            Presence::Off => OFF_WATTS,
        };
        if !powered || self.presence != Presence::There {
            (self.core_mhz, self.memory_mhz, self.reasons) = (0, 0, 0);
        } else if self.celsius >= slowdown {
            self.reasons |= reason::HW_SLOWDOWN | reason::HW_THERMAL;
        } else if self.celsius > from {
            self.reasons |= reason::SW_THERMAL;
        }
        self.turn_fans(dt, powered);
        self.watts += (wanted - self.watts) * (1.0 - (-dt / self.tau).exp());
        self.average_watts += (self.watts - self.average_watts) * (1.0 - (-dt).exp());
        self.joules += self.watts * dt;
        self.volts = if powered { supply - CABLE_OHMS * self.watts / supply } else { 0.0 };
        let conductance = self.conductance(air, airflow) + FRAME;
        self.celsius += (self.watts - conductance * (self.celsius - intake)) / CAPACITY * dt;
        self.celsius = self.held.unwrap_or(self.celsius);
    }

    /// Finds its clocks for so much work, held back by heat to the part `cool`; gives the watts that come of it.
    fn clocks(&mut self, work: f64, cool: f64) -> f64 {
        let profile = self.profile;
        let rest = self.load < REST;
        let at_work = if rest { profile.memory.len().saturating_sub(1) } else { profile.work_state };
        let state = self.control.memory_lock.unwrap_or(at_work);
        let (pstate, state_mhz) = profile.memory.get(state).copied().unwrap_or_default();
        let of = |offsets: &[i32; PSTATES]| offsets.get(usize::from(pstate)).copied().unwrap_or(0);
        let (core_offset, memory_offset) = (of(&self.control.core_offset), of(&self.control.memory_offset));
        let memory = state_mhz.saturating_add_signed(memory_offset / 2);

        let [least, boost, highest] = profile.core;
        let free = if rest { least } else { boost.saturating_add_signed(core_offset) };
        let locked = self.control.core_lock.map_or(free, |(low, high)| free.clamp(low, high.max(low)));
        let wished = locked.clamp(least, highest.saturating_add_signed(core_offset).max(least));
        let warm = f64::from(least) + f64::from(wished - least) * cool;
        let watts_at = |mhz: f64| {
            let share = CORE_PART * self.power_of(mhz, core_offset) + (1.0 - CORE_PART) * self.memory_part(memory);
            self.idle + (self.full - self.idle) * work * cool * share
        };
        let limit = f64::from(self.control.limit) / 1000.0;
        let capped = watts_at(warm) > limit;
        let mhz = if capped { highest_below(least.into(), warm, |mhz| watts_at(mhz) <= limit) } else { warm };
        let watts = watts_at(mhz).min(limit.max(self.idle));

        self.reasons = if rest { reason::IDLE } else { 0 } | if capped { reason::POWER_CAP } else { 0 };
        self.core_mhz = self.on_step(mhz);
        (self.memory_mhz, self.pstate) = (memory, pstate);
        watts
    }

    /// Core power at this clock as a part of that at work; an offset gives the clock at the voltage of a lower one.
    fn power_of(&self, mhz: f64, offset: i32) -> f64 {
        let [_, boost, _] = self.profile.core;
        let boost = f64::from(boost);
        let at = (mhz - f64::from(offset)) / boost;
        let volts = (1.0 - VOLTAGE_SLOPE * (1.0 - at)).max(LEAST_VOLTAGE);
        mhz / boost * volts * volts
    }

    /// Memory clock as a part of that at work.
    fn memory_part(&self, mhz: u32) -> f64 {
        let at_work = self.profile.memory.get(self.profile.work_state).map_or(1, |(_, mhz)| *mhz);
        f64::from(mhz) / f64::from(at_work.max(1))
    }

    /// The step at or below a clock, counted from the lowest.
    fn on_step(&self, mhz: f64) -> u32 {
        let ([least, ..], step) = (self.profile.core, f64::from(self.profile.half_steps) / 2.0);
        let steps = ((mhz - f64::from(least)) / step + 1e-6).floor();
        u32::try_from(whole((f64::from(least) + steps * step).floor(), 0, i32::MAX)).unwrap_or(0)
    }

    fn own_speed(&self) -> f64 {
        let sum: f64 = self.fans.iter().map(|fan| fan.speed).sum();
        sum / crate::quantize::count(self.fans.len().max(1))
    }

    fn turn_fans(&mut self, dt: f64, powered: bool) {
        let [from, to] = CURVE;
        let curve = CURVE_LEAST + (1.0 - CURVE_LEAST) * ((self.celsius - from) / (to - from)).clamp(0.0, 1.0);
        for fan in &mut self.fans {
            fan.intended = match (self.presence, fan.manual) {
                (Presence::There, Some(percent)) => f64::from(percent) / 100.0,
                (Presence::There, None) => curve,
                (Presence::Lost, _) => 1.0,
                (Presence::Off, _) => 0.0,
            };
            let wanted = if powered && !fan.stuck { fan.intended } else { 0.0 };
            fan.speed += (wanted - fan.speed) * (1.0 - (-dt / FAN_TAU).exp());
        }
    }
}

/// The highest clock between two that is good, where all below a good one are; the lowest if none is.
fn highest_below(mut low: f64, mut high: f64, good: impl Fn(f64) -> bool) -> f64 {
    // 12 halvings: within 1 MHz of 3 000.
    for _ in 0..12 {
        let middle = f64::midpoint(low, high);
        if good(middle) { low = middle } else { high = middle }
    }
    low
}
