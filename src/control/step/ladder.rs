//! Heat's own ladder for each GPU: air, then a lower power limit, then its payload paused, then ended; and back in reverse.
//!
//! ```text
//! level  0 free | 1 air | 2 ..= 11 limit, a tenth of the way to the lowest each | 12 pause | 13 stop
//!         ^ cooler than critical by the hysteresis, one level after its time     hot: one level after its time ^
//! ```
//!
//! Hot is at or above the GPU's critical temperature, or that one of its zones is critical: a zone gives full air at once, and
//! this ladder begins to climb beside it. From its emergency temperature on nothing is waited for: stop. A GPU that does
//! not tell its temperature, or whose zone is blind, climbs as far as its lowest limit and stays: nobody knows that it is hot,
//! and it looks after itself. A zone whose fan has failed has full air from the others and holds the level.
//!
//! From hot to the lowest limit: 10 s of air, then nine times 3 s: 37 s; another 30 s to a pause. A heat sink needs some 30 s to
//! show what a change did, so steps are small at first. The times are the reason why it does not cycle: one level down takes
//! 15 s or more in which it must stay cool.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::power::{self, GpuOrder};
use crate::payload::manifest::Kind;
use crate::reading::{Missing, Reading, Stage};
use crate::units::{Millicelsius, Milliwatts};

/// Full air gets so long before the limit goes down.
const AIR: Duration = Duration::from_secs(10);
/// Each tenth of the limit.
const TENTH: Duration = Duration::from_secs(3);
/// The lowest limit before a pause, and a pause before the end.
const LONG: Duration = Duration::from_secs(30);
/// Cool for so long, and it is one tenth of the limit more.
const BACK: Duration = Duration::from_secs(15);
const LOWEST_LIMIT: u8 = 11;
const PAUSE: u8 = 12;
const STOP: u8 = 13;

/// How far heat has taken a GPU. Order and numbers go to the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Nothing is held back.
    #[default]
    Free,
    /// Its fans and those of its zone have all that they can give.
    Air,
    /// Its power limit goes down.
    Limit,
    /// Its payload is paused; AI work is drained.
    Pause,
    /// Its payload is ended at once.
    Stop,
}

/// What took it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is this hot.
    Hot(Millicelsius),
    /// It does not tell, and why.
    Blind(Missing),
    /// A zone that it belongs to, an index into the board's, stands there.
    Zone(usize, Stage),
    /// It is cool again, and on its way back.
    Cooling,
}

/// A GPU as heat sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its temperature.
    pub temperature: Reading<Millicelsius>,
    /// Not to be reached.
    pub critical: Millicelsius,
    /// From here on everything is ended at once: above critical, and before it switches itself off.
    pub emergency: Millicelsius,
    /// The level falls only when it is cooler than critical by this.
    pub hysteresis: Millicelsius,
    /// Of the zones that it belongs to, the one that is worst off.
    pub zone: Option<(usize, Stage)>,
    /// Lowest and highest power limit that it takes; none where it takes none.
    pub limits: Option<(Milliwatts, Milliwatts)>,
    /// The limit of its profile.
    pub top: Milliwatts,
    /// It gives samples: one that does not can be ordered nothing either.
    pub answers: bool,
}

/// What is remembered of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    level: u8,
    /// When the level was reached, or the heat turned.
    since: Instant,
    heat: Heat,
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heat {
    Cool,
    /// Between the two, or not to be told from a failed fan: the level stays.
    Between,
    Blind,
    Hot,
    Emergency,
}

/// What to do with a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// How far it is.
    pub rung: Rung,
    /// Why; none where it is free.
    pub cause: Option<Cause>,
    /// Its highest power limit; none leaves that of the profile.
    pub limit: Option<Milliwatts>,
}

impl State {
    /// Nothing known yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { level: 0, since: now, heat: Heat::Cool }
    }
}

/// Decides one tick for one GPU.
#[must_use]
pub fn step(mut state: State, gpu: &Gpu, now: Instant) -> (State, Order) {
    let (heat, cause) = heat(gpu);
    if heat != state.heat {
        // The first rung does not wait; each other one gets its whole time in the new state.
        (state.heat, state.since) = (heat, now);
    }
    let waited = now.saturating_duration_since(state.since);
    let level = match heat {
        Heat::Emergency => STOP,
        Heat::Hot if waited >= up(state.level) => (state.level + 1).min(STOP),
        Heat::Blind if state.level < blind(gpu) && waited >= up(state.level) => state.level + 1,
        Heat::Cool if waited >= down(state.level) => state.level.saturating_sub(1),
        Heat::Hot | Heat::Blind | Heat::Cool | Heat::Between => state.level,
    };
    if level != state.level {
        (state.level, state.since) = (level, now);
    }
    let rung = rung(level);
    let cause = (rung != Rung::Free).then_some(if heat == Heat::Cool { Cause::Cooling } else { cause });
    (state, Order { rung, cause, limit: limit(gpu, level) })
}

fn heat(gpu: &Gpu) -> (Heat, Cause) {
    let own = match gpu.temperature {
        Err(missing) => (Heat::Blind, Cause::Blind(missing)),
        Ok(now) => {
            let room = i64::from(gpu.critical.0) - i64::from(now.0);
            let heat = match room {
                ..=0 if now >= gpu.emergency => Heat::Emergency,
                ..=0 => Heat::Hot,
                _ if room <= i64::from(gpu.hysteresis.0) => Heat::Between,
                _ => Heat::Cool,
            };
            (heat, Cause::Hot(now))
        }
    };
    let zone = gpu.zone.map_or((Heat::Cool, own.1), |(index, stage)| {
        let heat = match stage {
            Stage::Critical => Heat::Hot,
            Stage::Blind => Heat::Blind,
            Stage::FanFailed => Heat::Between,
            Stage::Starting | Stage::Normal | Stage::FanMadeUp | Stage::Quiet | Stage::Calibrating => Heat::Cool,
        };
        (heat, Cause::Zone(index, stage))
    });
    if zone.0.severity() > own.0.severity() { zone } else { own }
}

impl Heat {
    const fn severity(self) -> u8 {
        match self {
            Self::Cool => 0,
            Self::Between => 1,
            Self::Blind => 2,
            Self::Hot => 3,
            Self::Emergency => 4,
        }
    }
}

/// How far one climbs of which nobody knows whether it is hot. Where it cannot be told anything no further than air: when it is back its
/// temperature is known at once.
const fn blind(gpu: &Gpu) -> u8 {
    if gpu.answers { LOWEST_LIMIT } else { 1 }
}

const fn up(level: u8) -> Duration {
    match level {
        0 => Duration::ZERO,
        1 => AIR,
        2..LOWEST_LIMIT => TENTH,
        _ => LONG,
    }
}

const fn down(level: u8) -> Duration {
    match level {
        0 => Duration::ZERO,
        1..=LOWEST_LIMIT => BACK,
        _ => LONG,
    }
}

const fn rung(level: u8) -> Rung {
    match level {
        0 => Rung::Free,
        1 => Rung::Air,
        2..=LOWEST_LIMIT => Rung::Limit,
        PAUSE => Rung::Pause,
        _ => Rung::Stop,
    }
}

fn limit(gpu: &Gpu, level: u8) -> Option<Milliwatts> {
    let (lowest, highest) = gpu.limits?;
    let tenths = u32::from(level.min(LOWEST_LIMIT).checked_sub(1).filter(|tenths| *tenths > 0)?);
    let top = gpu.top.0.min(highest.0).max(lowest.0);
    let less = u64::from(top - lowest.0) * u64::from(tenths) / 10;
    Some(Milliwatts(top - u32::try_from(less).unwrap_or(0)))
}

/// Heat and power together: the lower limit, the higher rung.
#[must_use]
pub fn join(power: &GpuOrder, heat: &Order, kind: Option<Kind>) -> GpuOrder {
    let rung = match heat.rung {
        Rung::Free | Rung::Air => power::Rung::Free,
        Rung::Limit => power::Rung::Limit,
        Rung::Pause if kind == Some(Kind::Ai) => power::Rung::Drain,
        Rung::Pause => power::Rung::Pause,
        Rung::Stop => power::Rung::Stop,
    };
    let limit = match (power.limit, heat.limit) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    // Power's cause stays where power is as far up: it names the order that somebody gave.
    let cause = if rung > power.rung { None } else { power.cause };
    GpuOrder { limit, rung: rung.max(power.rung), cause, ..*power }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const TICK: Duration = Duration::from_millis(500);

    fn gpu(celsius: Reading<i32>, zone: Option<Stage>) -> Gpu {
        Gpu {
            temperature: celsius.map(|celsius| Millicelsius(celsius * 1000)),
            critical: Millicelsius(85_000),
            emergency: Millicelsius(91_000),
            hysteresis: Millicelsius(4_000),
            zone: zone.map(|stage| (2, stage)),
            limits: Some((Milliwatts(100_000), Milliwatts(300_000))),
            top: Milliwatts(300_000),
            answers: true,
        }
    }

    /// The rungs of so many seconds of each, without repetitions, and the last limit.
    fn walk(parts: &[(u32, Gpu)]) -> (Vec<(Rung, Option<Cause>)>, Option<u32>) {
        let start = clock::now();
        let (mut state, mut seen, mut limit, mut tick) = (State::new(start), Vec::new(), None, 0);
        for (seconds, gpu) in parts {
            for _ in 0..seconds * 2 {
                let (next, order) = step(state, gpu, start + TICK * tick);
                if seen.last() != Some(&(order.rung, order.cause)) {
                    seen.push((order.rung, order.cause));
                }
                (state, limit, tick) = (next, order.limit.map(|limit| limit.0 / 1000), tick + 1);
            }
        }
        (seen, limit)
    }

    #[test]
    fn each_rung_has_its_time_and_its_cause() {
        let hot = Some(Cause::Hot(Millicelsius(86_000)));
        let zone = |stage| Some(Cause::Zone(2, stage));
        let all = |cause| vec![(Rung::Air, cause), (Rung::Limit, cause), (Rung::Pause, cause), (Rung::Stop, cause)];
        for (name, parts, rungs, limit) in [
            ("cool", vec![(100, gpu(Ok(60), Some(Stage::Normal)))], vec![(Rung::Free, None)], None),
            ("hot for a moment", vec![(9, gpu(Ok(86), None))], all(hot)[..1].to_vec(), None),
            ("hot for longer", vec![(20, gpu(Ok(86), None))], all(hot)[..2].to_vec(), Some(220)),
            ("at its lowest limit", vec![(60, gpu(Ok(86), None))], all(hot)[..2].to_vec(), Some(100)),
            ("hot for good", vec![(200, gpu(Ok(86), None))], all(hot), Some(100)),
            ("its zone is", vec![(200, gpu(Ok(60), Some(Stage::Critical)))], all(zone(Stage::Critical)), Some(100)),
            ("no air", vec![(99, gpu(Ok(60), Some(Stage::FanFailed)))], vec![(Rung::Free, None)], None),
            (
                "blind",
                vec![(999, gpu(Err(Missing::Stale), None))],
                all(Some(Cause::Blind(Missing::Stale)))[..2].to_vec(),
                Some(100),
            ),
            (
                "silent",
                vec![(999, Gpu { answers: false, ..gpu(Err(Missing::Bus), None) })],
                vec![(Rung::Air, Some(Cause::Blind(Missing::Bus)))],
                None,
            ),
            (
                "emergency",
                vec![(1, gpu(Ok(91), None))],
                vec![(Rung::Stop, Some(Cause::Hot(Millicelsius(91_000))))],
                Some(100),
            ),
        ] {
            assert_eq!(walk(&parts), (rungs, limit), "{name}");
        }
    }

    #[test]
    fn the_way_back_is_the_way_up_reversed() {
        let (seen, limit) = walk(&[(1, gpu(Ok(95), None)), (100, gpu(Ok(82), None)), (400, gpu(Ok(80), None))]);
        let rungs: Vec<Rung> = seen.iter().map(|(rung, _)| *rung).collect();
        // Between critical and the hysteresis it stays; then it is cooling.
        assert_eq!(rungs, [Rung::Stop, Rung::Stop, Rung::Stop, Rung::Pause, Rung::Limit, Rung::Air, Rung::Free]);
        assert_eq!(seen[3].1, Some(Cause::Cooling));
        assert_eq!(limit, None);
    }

    #[test]
    fn heat_and_power_give_the_lower_limit_and_the_higher_rung() {
        let power = |rung, limit: Option<u32>| GpuOrder {
            limit: limit.map(Milliwatts),
            clock: None,
            rung,
            cause: (rung != power::Rung::Free).then_some(power::Cause::Guard(0)),
        };
        let heat = |rung, limit: Option<u32>| Order { rung, cause: Some(Cause::Cooling), limit: limit.map(Milliwatts) };
        for (one, other, kind, rung, limit) in [
            (power(power::Rung::Free, None), heat(Rung::Air, None), None, power::Rung::Free, None),
            (power(power::Rung::Limit, Some(200)), heat(Rung::Limit, Some(150)), None, power::Rung::Limit, Some(150)),
            (
                power(power::Rung::Free, None),
                heat(Rung::Pause, Some(100)),
                Some(Kind::Ai),
                power::Rung::Drain,
                Some(100),
            ),
            (
                power(power::Rung::Drain, Some(100)),
                heat(Rung::Free, None),
                Some(Kind::Ai),
                power::Rung::Drain,
                Some(100),
            ),
            (
                power(power::Rung::Pause, Some(100)),
                heat(Rung::Stop, None),
                Some(Kind::Mining),
                power::Rung::Stop,
                Some(100),
            ),
        ] {
            let joined = join(&one, &other, kind);
            assert_eq!((joined.rung, joined.limit), (rung, limit.map(Milliwatts)));
            assert_eq!(joined.cause.is_some(), one.rung != power::Rung::Free && one.rung == joined.rung);
        }
    }

    fn reading() -> impl Strategy<Value = Reading<i32>> {
        prop_oneof![5 => (40..95).prop_map(Ok), 1 => Just(Err(Missing::Bus))]
    }

    proptest! {
        #[test]
        fn hotter_never_gives_more(readings in prop::collection::vec(reading(), 1..300), last in 40..95, more in 0..20) {
            let start = clock::now();
            let state = readings.iter().zip(0..).fold(State::new(start), |state, (celsius, tick)| {
                step(state, &gpu(*celsius, None), start + TICK * tick).0
            });
            let at = start + TICK * 300;
            let order = |celsius| step(state, &gpu(Ok(celsius), None), at).1;
            let (cooler, hotter) = (order(last), order(last + more));
            prop_assert!(hotter.rung >= cooler.rung);
            prop_assert!(hotter.limit.map_or(u32::MAX, |limit| limit.0) <= cooler.limit.map_or(u32::MAX, |limit| limit.0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn rungs_change_seldom_and_limits_hold(readings in prop::collection::vec(reading(), 7_200)) {
            let start = clock::now();
            let (mut state, mut rung, mut changes) = (State::new(start), Rung::Free, 0);
            for (celsius, tick) in readings.iter().zip(0..) {
                // No more than the hysteresis around critical: the worst of all for a cycle.
                let celsius = celsius.map(|celsius| 80 + celsius % 7);
                let (next, order) = step(state, &gpu(celsius, None), start + TICK * tick);
                changes += u32::from(order.rung != rung);
                (state, rung) = (next, order.rung);
                prop_assert!(order.limit.is_none_or(|limit| (100_000..=300_000).contains(&limit.0)));
            }
            // An hour: down takes 15 s at least, and each way down one way up.
            prop_assert!(changes <= 2 * 3_600 / 15, "{}", changes);
        }
    }
}
