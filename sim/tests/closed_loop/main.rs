//! The closed loop: drawn plants, the agent's decision around them, and what must hold whatever was drawn.
//!
//! No socket, no sleep: time is a number. The bounds are those that `rigd::control::step` states. Every run draws the same
//! plants; `PROPTEST_RNG_SEED=2 PROPTEST_CASES=10000 cargo test -p rigd-sim --test closed_loop` draws others, and more.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod plant;
mod scenario;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use rigd::control::stale_after;
use rigd::control::step::{Orders, SPIN_UP, STARTING};
use rigd::reading::{Missing, Stage};
use rigd::units::{Duty, Millicelsius};

use bench::{Bench, Broken, thousandths};
use plant::Plant;
use scenario::{any_loads, any_quiet, any_scenario, length, load_at};

/// From the reading to the drive: one tick until it is decided on, and one for a reading that was just missed.
const REACTION: u32 = 2;
/// At constant load, after `SETTLED`, a drive stays within this for `WATCHED`, percent and s.
const UNREST: u16 = 10;
const SETTLED: f64 = 2400.0;
const WATCHED: f64 = 600.0;
/// Turns of the drive by more than `TURN` percent in `WATCHED`: more of them would be a cycle that keeps itself going.
const TURN: u16 = 5;
const TURNS: u32 = 2;

/// The same plants on every run, unless the environment asks for others.
fn config() -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 48;
    }
    config
}

fn quiet_at(percent: Option<u8>) -> Option<Duty> {
    percent.and_then(Duty::from_percent)
}

/// What happens after the reading has passed the trip, beside a twin of the plant that gets full air. Ends when it passes it
/// again, and the next one begins.
#[derive(Debug)]
struct Episode {
    ticks: u32,
    twin: Option<Plant>,
    peak: f64,
    peak_of_twin: f64,
}

impl Episode {
    fn new() -> Self {
        Self { ticks: 0, twin: None, peak: f64::MIN, peak_of_twin: f64::MIN }
    }

    /// One tick of both; the twin has what the loop had until the reaction time is over.
    fn tick(&mut self, bench: &Bench, load: impl Fn(f64) -> f64) {
        self.ticks += 1;
        self.peak = self.peak.max(bench.plant.celsius());
        let Some(twin) = &mut self.twin else {
            self.peak_of_twin = self.peak;
            self.twin = (self.ticks == REACTION).then(|| bench.plant.clone());
            return;
        };
        (0..bench.duties.len()).for_each(|fan| twin.drive(fan, 1.0));
        let from = bench.seconds() - bench.tick.as_secs_f64();
        for step in 0..bench.steps() {
            twin.step(load(from + plant::STEP * f64::from(step)));
        }
        self.peak_of_twin = self.peak_of_twin.max(twin.celsius());
    }

    fn seize(&mut self, fan: usize) {
        self.twin.iter_mut().for_each(|twin| twin.seize(fan));
    }

    fn holds(&self, critical: f64) -> bool {
        self.peak < critical || self.peak_of_twin >= critical
    }
}

/// The least and most that a drive was, and how often it turned.
#[derive(Debug)]
struct Swings {
    least: u16,
    most: u16,
    turns: u32,
    /// Less than this, in hundredths of a percent, is no turn.
    turn: u16,
    /// How far it has come, and in which direction.
    extreme: u16,
    rising: Option<bool>,
}

impl Swings {
    fn new(duty: Duty, turn: u16) -> Self {
        let at = duty.hundredths();
        Self { least: at, most: at, turns: 0, turn, extreme: at, rising: None }
    }

    fn see(&mut self, duty: Duty) {
        let at = duty.hundredths();
        (self.least, self.most) = (self.least.min(at), self.most.max(at));
        let goes_on = match self.rising {
            Some(true) => at >= self.extreme,
            Some(false) => at <= self.extreme,
            None => false,
        };
        if goes_on {
            self.extreme = at;
        } else if at.abs_diff(self.extreme) > self.turn {
            self.turns += u32::from(self.rising.is_some());
            (self.rising, self.extreme) = (Some(at > self.extreme), at);
        }
    }
}

fn zone_duty(orders: &Orders) -> Duty {
    orders.zones[0].duty.unwrap()
}

fn all_full(orders: &Orders) -> bool {
    orders.duties.iter().all(|duty| *duty == Some(Duty::FULL))
}

proptest! {
    #![proptest_config(config())]

    /// Whenever the reading passes the trip: if full air from `REACTION` ticks after that keeps the plant below its critical
    /// temperature, so does the loop.
    #[test]
    fn what_full_air_can_hold_stays_below_critical(
        scenario in any_scenario(), quiet in any_quiet(), loads in any_loads(),
        dead in prop::option::of((any::<prop::sample::Index>(), 0.0..300.0)),
    ) {
        let mut bench = scenario.bench();
        bench.quiet = quiet_at(quiet);
        let load = |seconds| load_at(&loads, scenario.load, seconds);
        let mut episode: Option<Episode> = None;
        let mut above = true;
        while bench.seconds() < length(&loads) {
            if let Some((fan, at)) = &dead && bench.seconds() >= *at {
                let fan = fan.index(bench.duties.len());
                bench.plant.seize(fan);
                episode.iter_mut().for_each(|episode| episode.seize(fan));
            }
            bench.tick(load);
            episode.iter_mut().for_each(|episode| episode.tick(&bench, load));
            let passes = bench.reading() >= scenario.trip();
            if passes && !above {
                let before = episode.replace(Episode::new());
                prop_assert!(before.as_ref().is_none_or(|before| before.holds(scenario.critical())), "{:?}", before);
            }
            above = passes;
        }
        prop_assert!(episode.as_ref().is_none_or(|last| last.holds(scenario.critical())), "{:?}", episode);
    }

    /// At constant load the drive of the zone and of each fan comes to rest.
    #[test]
    fn at_constant_load_the_drive_comes_to_rest(
        scenario in any_scenario(), quiet in any_quiet(), load in 0.0..1.0, dead in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bench = scenario.bench();
        bench.quiet = quiet_at(quiet);
        if let Some(fan) = dead {
            bench.plant.seize(fan.index(bench.duties.len()));
        }
        let mut orders = bench.tick(|_| load);
        while bench.seconds() < SETTLED {
            orders = bench.tick(|_| load);
        }
        // A dead fan is kicked every twelve seconds, in case it turns again; the others swing for it too.
        let alive: Vec<usize> = (0..bench.duties.len()).filter(|fan| !orders.fans[*fan].stands).collect();
        let [all, left] = [bench.duties.len(), alive.len()].map(|count| u16::try_from(count).unwrap());
        let more = |percent: u16| percent * 100 * all / left.max(1);
        let mut zone = Swings::new(zone_duty(&orders), more(TURN));
        let mut fans: Vec<Swings> =
            alive.iter().map(|fan| Swings::new(orders.duties[*fan].unwrap(), more(TURN))).collect();
        while bench.seconds() < SETTLED + WATCHED {
            let orders = bench.tick(|_| load);
            zone.see(zone_duty(&orders));
            fans.iter_mut().zip(&alive).for_each(|(swings, fan)| swings.see(orders.duties[*fan].unwrap()));
        }
        for swings in fans.iter().chain([&zone]) {
            let rests = swings.most - swings.least <= more(UNREST) && swings.turns <= TURNS;
            prop_assert!(rests, "{:?} of {:?}", swings, orders.zones);
        }
    }

    /// Nothing believable to go by: full air from every fan within two ticks of what can be known.
    #[test]
    fn blind_is_full_air_within_two_ticks(
        scenario in any_scenario(), quiet in any_quiet(), load in 0.0..1.0, after in 5.0..60.0, fault in 0..4u8, by in 30_000..70_000i32, down: bool,
        reason in prop::sample::select(vec![Missing::NotPresent, Missing::Off, Missing::Bus, Missing::Stale, Missing::Implausible]),
    ) {
        const FROZEN: u32 = 30;
        let mut scenario = scenario;
        scenario.zone.frozen_s = Some(FROZEN);
        let mut bench = scenario.bench();
        bench.quiet = quiet_at(quiet);
        while bench.seconds() < after {
            bench.tick(|_| load);
        }
        let jumped = thousandths(bench.reading()) + if down { -by } else { by };
        let (broken, known_after) = match fault {
            0 => (Broken { sensor: Some(Err(reason)), ..Broken::default() }, 0.0),
            1 => (Broken { sensor: Some(Ok(Millicelsius(jumped))), ..Broken::default() }, 0.0),
            2 => (Broken { frozen: true, ..Broken::default() }, f64::from(FROZEN)),
            _ => (Broken { hangs: true, ..Broken::default() }, stale_after(bench.tick).as_secs_f64()),
        };
        bench.broken = broken;
        let deadline = bench.seconds() + known_after + f64::from(REACTION) * bench.tick.as_secs_f64();
        let mut orders = bench.tick(|_| load);
        while bench.seconds() < deadline - 1e-9 {
            orders = bench.tick(|_| load);
        }
        prop_assert!(all_full(&orders), "{:?}: {:?}", broken, orders.zones);
        prop_assert_eq!(orders.zones[0].stage, Stage::Blind);
    }

    /// A fan that stands, or that nobody can tell to turn: all others get full air, or, where the board spares one, their part
    /// of what it gave, as far as quiet hours let them.
    #[test]
    fn a_dead_fan_raises_the_others(
        scenario in any_scenario(), quiet in any_quiet(), load in 0.0..1.0, fan in any::<prop::sample::Index>(), tach: bool,
    ) {
        /// Found out, and up at the slew limit's 5 %/s.
        const RAISED: f64 = 20.0;
        let mut bench = scenario.bench();
        bench.quiet = quiet_at(quiet);
        let mut before = bench.tick(|_| load);
        while bench.seconds() < 600.0 {
            before = bench.tick(|_| load);
        }
        let count = bench.duties.len();
        let fan = fan.index(count);
        if tach { bench.broken.tach = Some(fan) } else { bench.plant.seize(fan) }
        // It runs down, a pass sees it, and two ticks later it has been known for its time.
        let from = bench.seconds();
        let known = from + 15.0 + SPIN_UP.as_secs_f64();
        let mut most = vec![Duty::OFF; count];
        let mut orders = before.clone();
        while bench.seconds() < known + RAISED {
            orders = bench.tick(|_| load);
            most.iter_mut().zip(&orders.duties).for_each(|(most, duty)| *most = (*most).max(duty.unwrap()));
            if bench.seconds() >= known && scenario.zone.spare_fans == 0 {
                prop_assert!(all_full(&orders), "{:?}", orders.zones);
            }
        }
        let stage = orders.zones[0].stage;
        prop_assert!(matches!(stage, Stage::FanFailed | Stage::FanMadeUp | Stage::Critical), "{:?}", stage);
        let others = u32::try_from(count).unwrap().saturating_sub(1).max(1);
        let cap = bench.quiet.unwrap_or(Duty::FULL).hundredths();
        for (index, most) in most.iter().enumerate().filter(|(index, _)| *index != fan) {
            let had = before.duties[index].unwrap().hundredths();
            // Half of the dead fan's share: a plant that cools in seconds asks for less before the slew limit has given all.
            let share = u32::from(had) / others;
            let wanted = (u32::from(had) + share / 2).min(cap.max(had).into());
            prop_assert!(u32::from(most.hundredths()) >= wanted, "{} had {}, got {}, wanted {}", index, had, most, wanted);
        }
    }

    /// With nothing to read from the start, fans are left as they are for the first moment and then get full air.
    #[test]
    fn nothing_to_read_from_the_start_ends_in_full_air(scenario in any_scenario(), quiet in any_quiet()) {
        let mut bench = scenario.bench();
        bench.quiet = quiet_at(quiet);
        bench.broken.sensor = Some(Err(Missing::Bus));
        bench.read();
        while bench.seconds() < 10.0 {
            let starting = bench.seconds() < STARTING.as_secs_f64();
            let orders = bench.tick(|_| scenario.load);
            prop_assert!(starting || all_full(&orders));
            prop_assert!(!starting || orders.duties.iter().all(Option::is_none));
        }
    }
}
