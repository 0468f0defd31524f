use proptest::prelude::*;

use super::*;

const SPACE: Space = Space {
    limit: Axis { lowest: 100_000, highest: 350_000, step: 10_000 },
    core: Axis { lowest: 600, highest: 2_100, step: 15 },
    memory: Vec::new(),
};
const START: Point = Point { limit: Milliwatts(350_000), core: Megahertz(2_100), memory: None };

/// An axis of many memory clocks, and one as cards have it: `sim/src/world/card.rs`, ampere, as it works.
const MEMORY: [Megahertz; 6] =
    [Megahertz(5_000), Megahertz(6_000), Megahertz(7_000), Megahertz(8_000), Megahertz(9_000), Megahertz(10_000)];
const STATES: [Megahertz; 4] = [Megahertz(405), Megahertz(810), Megahertz(5_001), Megahertz(9_501)];

/// A card: the clock that limit and lock allow, power with its cube, work that a memory holds back.
#[derive(Clone, Copy, Debug)]
struct Card {
    idle: f64,
    cube: f64,
    wall: f64,
}

impl Card {
    fn at(self, point: Point) -> (f64, f64) {
        let (limit, lock) = (f64::from(point.limit.0) / 1000.0, f64::from(point.core.0));
        let memory = point.memory.map_or(1.0, |memory| f64::from(memory.0) / 9_000.0);
        let by_limit = ((limit - self.idle - 30.0 * memory).max(1.0) / self.cube).cbrt() * 1000.0;
        let clock = lock.min(by_limit);
        let power = self.idle + 30.0 * memory + self.cube * (clock / 1000.0).powi(3);
        (1e9 * clock / (1.0 + clock / (self.wall * memory)), power)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a simulated meter")]
    fn measure(self, point: Point, noise: (f64, f64)) -> (MilliPerSecond, Milliwatts) {
        let (rate, power) = self.at(point);
        (MilliPerSecond((rate * noise.0) as u64), Milliwatts((power * noise.1 * 1000.0) as u32))
    }
}

fn card() -> impl Strategy<Value = Card> {
    (20.0..80.0_f64, 15.0..40.0_f64, 1_000.0..9_000.0_f64).prop_map(|(idle, cube, wall)| Card { idle, cube, wall })
}

/// The best score of the whole space, without noise.
fn best(space: &Space, goal: Goal, card: Card) -> i64 {
    let axis = |axis: Axis| (0..=axis.last()).map(move |steps| axis.value(steps));
    let memories: Vec<Option<Megahertz>> =
        if space.memory.is_empty() { vec![None] } else { space.memory.iter().copied().map(Some).collect() };
    let score = |limit, core, memory: Option<Megahertz>| {
        let point = Point { limit: Milliwatts(limit), core: Megahertz(core), memory };
        let (rate, power) = card.measure(point, (1.0, 1.0));
        goal.score(rate, power)
    };
    axis(space.limit)
        .flat_map(|limit| axis(space.core).map(move |core| (limit, core)))
        .flat_map(|(limit, core)| memories.iter().map(move |memory| (limit, core, *memory)))
        .map(|(limit, core, memory)| score(limit, core, memory))
        .max()
        .unwrap()
}

/// Every point that was tried, and the end.
fn search(space: Space, goal: Goal, mut answer: impl FnMut(Point) -> Event) -> (Vec<Point>, Next) {
    let (mut state, mut next) = State::begin(space, goal, START);
    let mut points = Vec::new();
    while let Next::Try(point) = next {
        points.push(point);
        (state, next) = state.next(answer(point));
    }
    (points, next)
}

fn noise(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    1.0 + (f64::from(u32::try_from(*seed >> 33).unwrap()) / f64::from(1_u32 << 31) - 0.5) * 0.006
}

fn goals() -> impl Strategy<Value = Goal> {
    let margin = (300_000..3_000_000_u64, 50_000..600_000_i64)
        .prop_map(|(value, energy)| Goal::Margin { value: MicroPerTera(value), energy: MicroPerKilowattHour(energy) });
    prop_oneof![Just(Goal::PerJoule), margin]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn on_a_concave_curve_it_finds_the_top_through_noise(card in card(), goal in goals(), seed in any::<u64>(), memory in any::<bool>()) {
        let clocks = if memory { MEMORY.to_vec() } else { Vec::new() };
        let space = Space { memory: clocks, ..SPACE };
        let mut seed = seed;
        let (points, next) = search(space.clone(), goal, |point| {
            let (rate, power) = card.measure(point, (noise(&mut seed), noise(&mut seed)));
            Event::Measured(rate, power)
        });
        prop_assert!(points.len() <= MOST);
        for point in &points {
            prop_assert!((100_000..=350_000).contains(&point.limit.0) && (600..=2_100).contains(&point.core.0));
            prop_assert_eq!(point.memory.is_some(), memory);
        }
        let Next::Done { best: found, end, .. } = next else { return Err(TestCaseError::fail("nothing found")) };
        prop_assert!(end != End::Trouble);
        let (rate, power) = card.measure(found, (1.0, 1.0));
        let top = best(&space, goal, card);
        let score = goal.score(rate, power);
        prop_assert!(score >= top - top.abs() * 3 / 100, "{} of {} at {:?} after {}", score, top, found, points.len());
    }

    #[test]
    fn what_was_trouble_is_not_tried_again(card in card(), from in 900..2_000_u32, heat in 150_000..340_000_u32, xid in any::<bool>(), memory in any::<bool>()) {
        let mut bad: Vec<(Point, Event)> = Vec::new();
        let mut wrong = None;
        let space = Space { memory: if memory { MEMORY.to_vec() } else { Vec::new() }, ..SPACE };
        let (points, next) = search(space, Goal::PerJoule, |point| {
            let again = bad.iter().any(|(before, event)| match event {
                Event::Heat => point.limit >= before.limit,
                Event::Rejected | Event::Xid | Event::Measured(..) => {
                    point.core >= before.core && point.memory >= before.memory
                }
            });
            wrong = wrong.or(again.then_some(point));
            let event = match (point.core.0 >= from, point.limit.0 >= heat) {
                (true, _) if xid => Event::Xid,
                (true, _) => Event::Rejected,
                (_, true) => Event::Heat,
                _ => {
                    let (rate, power) = card.measure(point, (1.0, 1.0));
                    return Event::Measured(rate, power);
                }
            };
            bad.push((point, event));
            event
        });
        prop_assert_eq!(wrong, None);
        let xids = bad.iter().filter(|(_, event)| *event == Event::Xid).count();
        prop_assert!(bad.len() <= TROUBLES && xids <= XIDS, "{:?}", bad);
        if let Next::Done { best, .. } = next {
            prop_assert!(best.core.0 < from && best.limit.0 < heat);
        }
        prop_assert!(!points.is_empty());
    }
}

/// A card at work that waits for memory for this part of its time: `sim/src/world/gpu.rs`.
fn waits(part: f64, point: Point) -> (f64, f64) {
    let memory = f64::from(point.memory.map_or(9_501, |memory| memory.0)) / 9_501.0;
    let power = |core: f64| {
        let volts = (1.0 - 0.75 * (1.0 - core)).max(0.7);
        25.0 + 325.0 * (0.75 * core * volts * volts + 0.25 * memory)
    };
    let locked = f64::from(point.core.0.min(1_695)) / 1_695.0;
    let limit = f64::from(point.limit.0) / 1000.0;
    let core = (0..1_000).map(|step| locked * (1.0 - f64::from(step) / 1_000.0)).find(|core| power(*core) <= limit);
    let core = core.unwrap_or(0.1);
    (1e8 / ((1.0 - part) / core + part / memory), power(core))
}

#[test]
fn the_best_of_three_axes_is_found_whatever_the_work_waits_for() {
    let space = Space {
        limit: Axis { lowest: 100_000, highest: 350_000, step: 10_000 },
        core: Axis { lowest: 675, highest: 1_695, step: 30 },
        memory: STATES.to_vec(),
    };
    let start = Point { limit: Milliwatts(350_000), core: Megahertz(1_695), memory: None };
    let margin = |value| Goal::Margin { value: MicroPerTera(value), energy: MicroPerKilowattHour(250_000) };
    for (part, goal, expected) in [
        // Hashing that never looks at its memory, with a little of it, more, AI.
        (0.001, Goal::PerJoule, 405),
        (0.02, Goal::PerJoule, 810),
        (0.2, Goal::PerJoule, 5_001),
        (0.5, Goal::PerJoule, 9_501),
        (0.05, margin(500_000), 5_001),
        (0.05, margin(50_000_000), 9_501),
        // Mining all over it.
        (0.95, margin(1_000_000), 9_501),
    ] {
        let score = |point| {
            let (rate, power) = waits(part, point);
            let whole = |value: f64| format!("{:.0}", value * 1000.0).parse::<u64>().unwrap();
            let event = (MilliPerSecond(whole(rate)), Milliwatts(u32::try_from(whole(power)).unwrap()));
            (goal.score(event.0, event.1), Event::Measured(event.0, event.1))
        };
        let (mut state, mut next) = State::begin(space.clone(), goal, start);
        let mut tried = 0;
        while let Next::Try(point) = next {
            assert!(tried > 0 || point == Point { memory: Some(Megahertz(9_501)), ..start }, "it begins as it was");
            tried += 1;
            (state, next) = state.next(score(point).1);
        }
        let Next::Done { best, score: found, end } = next else { panic!("{part}: {next:?}") };
        let axis = |axis: Axis| (0..=axis.last()).map(move |steps| axis.value(steps));
        let points = axis(space.limit).flat_map(|limit| axis(space.core).map(move |core| (limit, core)));
        let points = points.flat_map(|(limit, core)| STATES.map(|memory| (limit, core, memory)));
        let point =
            |(limit, core, memory)| Point { limit: Milliwatts(limit), core: Megahertz(core), memory: Some(memory) };
        let top = points.map(|at| (score(point(at)).0, point(at))).max_by_key(|(score, _)| *score).unwrap();
        assert_eq!((end, best.memory), (End::Found, Some(Megahertz(expected))), "{part} {goal:?}: {best:?} of {top:?}");
        assert!(
            found >= top.0 - top.0.abs() * 3 / 100,
            "{part} {goal:?}: {found} at {best:?} of {top:?} after {tried}"
        );
        assert!(tried <= 40, "{part} {goal:?}: {tried}");
    }
}

#[test]
fn a_small_space_has_few_measurements() {
    let one = Axis { lowest: 1_695, highest: 1_695, step: 1 };
    let limit = Axis { lowest: 350_000, highest: 350_000, step: 1 };
    let memory = Space { limit, core: one, memory: STATES.to_vec() };
    for (space, most) in [
        (Space { memory: Vec::new(), ..memory.clone() }, 3),
        (memory.clone(), 12),
        (Space { limit: Axis { lowest: 330_000, step: 10_000, ..limit }, ..memory }, 36),
        (SPACE, MOST),
    ] {
        assert_eq!(space.most(), most);
        let (points, _) = search(space, Goal::PerJoule, |point| {
            let memory = point.memory.map_or(0, |memory| memory.0);
            Event::Measured(MilliPerSecond(u64::from(memory) + 1_000), Milliwatts(point.limit.0))
        });
        assert!(points.len() <= most, "{points:?}");
    }
}

#[test]
fn trouble_ends_it() {
    let measured = Event::Measured(MilliPerSecond(1_000_000), Milliwatts(100_000));
    let start = Point { limit: Milliwatts(200_000), core: Megahertz(1_200), memory: None };
    for (name, events, ended) in [
        ("one Xid goes on", vec![measured, Event::Xid, measured], false),
        // With clocks below those of the first point: that one is not trusted any more either.
        ("the second ends it", vec![measured, Event::Xid, Event::Xid], true),
        ("three troubles", vec![measured, Event::Heat, Event::Rejected, Event::Rejected], true),
        ("from the start", vec![Event::Rejected, Event::Rejected, Event::Rejected], true),
        ("a start that is too high", vec![Event::Rejected, measured, measured], false),
    ] {
        let (mut state, mut next) = State::begin(SPACE, Goal::PerJoule, start);
        for event in events {
            assert!(matches!(next, Next::Try(_)), "{name}");
            (state, next) = state.next(event);
        }
        assert_eq!(next == Next::Failed(End::Trouble), ended, "{name}: {next:?}");
    }
}

#[test]
fn what_was_found_until_the_trouble_is_kept() {
    let start = Point { limit: Milliwatts(200_000), core: Megahertz(1_200), memory: None };
    let (mut state, mut next) = State::begin(SPACE, Goal::PerJoule, start);
    let mut xids = 0;
    while let Next::Try(point) = next {
        let away = u64::from(point.limit.0.abs_diff(140_000)) + 100 * u64::from(point.core.0.abs_diff(1_200));
        let event = match point.core.0 > 1_200 {
            true => Event::Xid,
            false => Event::Measured(MilliPerSecond(1_000_000 - away), Milliwatts(100_000)),
        };
        xids += u32::from(event == Event::Xid);
        (state, next) = state.next(event);
    }
    let best = Point { limit: Milliwatts(140_000), ..start };
    assert!(matches!(next, Next::Done { best: found, end: End::Trouble, .. } if found == best), "{next:?}");
    assert_eq!(xids, 2);
}

#[test]
fn scores_are_work_for_energy_or_money() {
    let (rate, power) = (MilliPerSecond(100_000_000_000), Milliwatts(200_000));
    assert_eq!(Goal::PerJoule.score(rate, power), 500_000_000_000);
    let margin = Goal::Margin { value: MicroPerTera(1_000_000), energy: MicroPerKilowattHour(250_000) };
    assert_eq!(margin.score(rate, power), 360_000 - 50_000);
}

#[test]
fn what_is_best_so_far_is_known_at_any_time() {
    let (state, _) = State::begin(SPACE, Goal::PerJoule, START);
    assert_eq!(state.so_far(), None);
    let (state, next) = state.next(Event::Measured(MilliPerSecond(1_000), Milliwatts(300_000)));
    assert_eq!(state.so_far(), Some(START));
    let Next::Try(better) = next else { panic!("{next:?}") };
    let (state, _) = state.next(Event::Measured(MilliPerSecond(1_000), Milliwatts(200_000)));
    assert_eq!(state.so_far(), Some(better));
    let (state, _) = state.next(Event::Heat);
    assert_eq!(state.so_far(), None, "nothing with a limit as high counts any more");
}
