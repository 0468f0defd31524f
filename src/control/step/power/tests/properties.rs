//! For every input: no order exceeds a limit, a tighter cap never gives more, blind is safe, breakers hold.

use proptest::prelude::*;

use super::*;

fn gpu() -> impl Strategy<Value = Gpu> {
    let power =
        prop_oneof![4 => (10_000..400_000_u32).prop_map(|power| Ok(Milliwatts(power))), 1 => Just(Err(Missing::Bus))];
    let limited = prop::bool::weighted(0.9);
    (50_000..200_000_u32, 0..300_000_u32, 50..=100_u32, power, 0..5_u64, 0..6_usize, any::<bool>(), limited).prop_map(
        |(lowest, more, top, power, worth, payload, clocks, limited)| Gpu {
            limits: limited.then_some((Milliwatts(lowest), Milliwatts(lowest + more))),
            top: Milliwatts(lowest + more / 100 * top),
            power,
            idle: Milliwatts(20_000),
            clock: Ok(Megahertz(1_500)),
            max_clock: (clocks && limited).then_some(Megahertz(2_500)),
            payload: Some(payload),
            worth,
        },
    )
}

fn meter() -> impl Strategy<Value = Reading<Milliwatts>> {
    prop_oneof![3 => (0..5_000_000_u32).prop_map(|power| Ok(Milliwatts(power))), 1 => Just(Err(Missing::Stale))]
}

/// The last orders after so many ticks of the same inputs, and each GPU's highest possible draw by them.
fn after(ticks: u32, gpus: &[Gpu], meter: Reading<Milliwatts>, caps: &[Cap], guards: &[Guard]) -> Orders {
    let start = clock::now();
    let payloads: Vec<Payload> = [Kind::Mining, Kind::Ai, Kind::Batch, Kind::Mining, Kind::Ai, Kind::Batch]
        .map(|kind| Payload { kind, grace: Duration::ZERO, running: false, paused: false })
        .to_vec();
    let (mut state, mut orders) = (State::new(start), Orders::default());
    for tick in 0..ticks {
        let inputs = Inputs { now: start + TICK * tick, caps, meters: &[meter], guards, gpus, payloads: &payloads };
        (state, orders) = step(&Policy::default(), state, &inputs);
    }
    orders
}

/// What is asked of a rig: caps with their ramps, guards with every so manieth card.
#[derive(Clone, Debug)]
struct Wanted {
    caps: Vec<(u32, Option<u32>)>,
    guards: Vec<(u32, usize)>,
}

/// What makes it tighter: so much less, of all caps, ramps or guards, or one more of them.
#[derive(Clone, Copy, Debug)]
enum Tighter {
    Caps(u32),
    Faster(u32),
    Guards(u32),
    Cap(u32, Option<u32>),
    Guard(u32, usize),
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let cap = (0..3_000_000_u32, prop::option::of(10_000..400_000_u32));
    let guard = (0..2_000_000_u32, 1..4_usize);
    (prop::collection::vec(cap, 0..3), prop::collection::vec(guard, 0..3))
        .prop_map(|(caps, guards)| Wanted { caps, guards })
}

fn tighter() -> impl Strategy<Value = Tighter> {
    let ramp = || prop::option::of(10_000..400_000_u32);
    prop_oneof![
        (0..2_000_000_u32).prop_map(Tighter::Caps),
        (0..200_000_u32).prop_map(Tighter::Faster),
        (0..1_000_000_u32).prop_map(Tighter::Guards),
        (0..3_000_000_u32, ramp()).prop_map(|(limit, ramp)| Tighter::Cap(limit, ramp)),
        (0..2_000_000_u32, 1..4_usize).prop_map(|(limit, step)| Tighter::Guard(limit, step)),
    ]
}

impl Wanted {
    fn tighter(&self, by: Tighter) -> Self {
        let mut wanted = self.clone();
        match by {
            Tighter::Caps(less) => wanted.caps.iter_mut().for_each(|cap| cap.0 = cap.0.saturating_sub(less)),
            Tighter::Faster(more) => wanted.caps.iter_mut().for_each(|cap| cap.1 = cap.1.map(|ramp| ramp + more)),
            Tighter::Guards(less) => wanted.guards.iter_mut().for_each(|guard| guard.0 = guard.0.saturating_sub(less)),
            Tighter::Cap(limit, ramp) => wanted.caps.push((limit, ramp)),
            Tighter::Guard(limit, step) => wanted.guards.push((limit, step)),
        }
        wanted
    }
}

/// A rig that runs, of which every tick shows the same.
#[derive(Clone)]
struct Run<'a> {
    gpus: &'a [Gpu],
    meter: Reading<Milliwatts>,
    now: Instant,
    state: State,
}

impl<'a> Run<'a> {
    fn new(gpus: &'a [Gpu], meter: Reading<Milliwatts>) -> Self {
        let now = clock::now();
        Self { gpus, meter, now, state: State::new(now) }
    }

    fn tick(&mut self, Wanted { caps, guards }: &Wanted) -> Orders {
        let cap = |(limit, ramp): &(u32, Option<u32>)| Cap {
            ramp: ramp.map(MilliwattsPerSecond),
            ..Cap::at_once(Milliwatts(*limit), Source::Schedule)
        };
        let guard = |(limit, step): &(u32, usize)| Guard {
            limit: Milliwatts(*limit),
            meters: vec![self.meter],
            gpus: (0..self.gpus.len()).step_by(*step).collect(),
            input: true,
        };
        let caps: Vec<Cap> = caps.iter().map(cap).collect();
        let guards: Vec<Guard> = guards.iter().map(guard).collect();
        let payloads = [Kind::Mining, Kind::Ai, Kind::Batch, Kind::Mining, Kind::Ai, Kind::Batch].map(|kind| Payload {
            kind,
            grace: Duration::from_secs(5),
            running: true,
            paused: false,
        });
        self.now += TICK;
        let (gpus, now) = (self.gpus, self.now);
        let inputs = Inputs { now, caps: &caps, meters: &[self.meter], guards: &guards, gpus, payloads: &payloads };
        let (state, orders) = step(&Policy::default(), self.state.clone(), &inputs);
        self.state = state;
        orders
    }
}

/// What they may draw by these limits; one that does not tell is counted in full, whatever its limit, as it is by the step.
fn allowed(gpus: &[Gpu], orders: &Orders) -> u64 {
    let each = gpus.iter().zip(&orders.gpus);
    let each = each.map(|(gpu, order)| order.limit.filter(|_| gpu.power.is_ok()).unwrap_or(gpu.top).0);
    each.map(u64::from).sum()
}

fn halted(gpu: &Gpu, orders: &Orders) -> bool {
    gpu.payload.is_some_and(|payload| orders.payloads[payload] >= Rung::Pause)
}

/// What they may draw by these orders: one that does not tell, or takes no limit, all that it can.
fn most(members: &[usize], gpus: &[Gpu], orders: &Orders) -> u64 {
    let each = members.iter().map(|index| match &gpus[*index] {
        Gpu { limits: None, power, top, .. } => power.unwrap_or(*top).0,
        Gpu { limits: Some((_, highest)), power: Err(_), .. } => highest.0,
        gpu if halted(gpu, orders) => 0,
        gpu => orders.gpus[*index].limit.unwrap_or(gpu.top).0,
    });
    each.map(u64::from).sum()
}

/// All was done that can be: clocks are locked wherever they can be, or nothing of it works.
fn held(members: &[usize], gpus: &[Gpu], orders: &Orders) -> bool {
    let locked = |index: usize| {
        orders.gpus[index].clock.is_some() || gpus[index].max_clock.is_none() || gpus[index].power.is_err()
    };
    let some = members.iter().any(|index| orders.gpus[*index].clock.is_some());
    some && members.iter().all(|index| locked(*index)) || members.iter().all(|index| halted(&gpus[*index], orders))
}

proptest! {
    #[test]
    fn no_order_leaves_a_cards_limits_and_nobody_is_forgotten(
        gpus in prop::collection::vec(gpu(), 0..9),
        meter in meter(),
        limit in 0..5_000_000_u32,
        guard in prop::option::of(0..2_000_000_u32),
    ) {
        let guards: Vec<Guard> = guard
            .map(|limit| Guard { limit: Milliwatts(limit), meters: vec![meter], gpus: vec![0, 2, 4], input: true })
            .into_iter()
            .collect();
        let orders = after(5, &gpus, meter, &[Cap::at_once(Milliwatts(limit), Source::Grid)], &guards);
        prop_assert_eq!(orders.gpus.len(), gpus.len());
        for (gpu, order) in gpus.iter().zip(&orders.gpus) {
            let lowest = gpu.limits.map(|(lowest, _)| lowest);
            let within = |limit| lowest.is_some_and(|lowest| limit >= lowest) && limit <= gpu.top;
            prop_assert!(order.limit.is_none_or(within));
            prop_assert!(order.clock.is_none_or(|clock| gpu.max_clock.is_some_and(|highest| clock <= highest)));
            prop_assert_eq!(order.rung == Rung::Free, order.cause.is_none());
        }
    }

    #[test]
    fn a_tighter_cap_never_gives_more(
        gpus in prop::collection::vec(gpu(), 1..9),
        meter in meter(),
        limit in 0..5_000_000_u32,
        less in 0..3_000_000_u32,
    ) {
        let with = |limit: u32| after(4, &gpus, meter, &[Cap::at_once(Milliwatts(limit), Source::Grid)], &[]);
        let (loose, tight) = (with(limit), with(limit.saturating_sub(less)));
        prop_assert!(allowed(&gpus, &tight) <= allowed(&gpus, &loose) + 3_000 * u64::try_from(gpus.len()).unwrap());
        let running = |orders: &Orders| orders.payloads.iter().filter(|rung| **rung < Rung::Pause).count();
        prop_assert!(running(&tight) <= running(&loose));
    }

    #[test]
    fn a_tighter_input_never_raises_the_cap_of_a_rig_that_runs(
        gpus in prop::collection::vec(gpu(), 1..9),
        meter in meter(),
        earlier in prop::collection::vec((wanted(), 1..40_u32), 0..3),
        loose in wanted(),
        tighter in tighter(),
    ) {
        let mut run = Run::new(&gpus, meter);
        for (wanted, ticks) in &earlier {
            for _ in 0..*ticks {
                run.tick(wanted);
            }
        }
        let (mut other, tight) = (run.clone(), loose.tighter(tighter));
        for _ in 0..10 {
            let (loose, tight) = (run.tick(&loose), other.tick(&tight));
            prop_assert!(tight.cap.is_some() || loose.cap.is_none());
            prop_assert!(loose.cap.is_none_or(|loose| tight.cap.is_some_and(|tight| tight <= loose)));
        }
    }

    #[test]
    fn blind_is_never_more_than_the_cap_by_the_sum_of_the_parts(
        gpus in prop::collection::vec(gpu(), 1..9),
        limit in 0..5_000_000_u32,
    ) {
        let orders = after(40, &gpus, Err(Missing::Bus), &[Cap::at_once(Milliwatts(limit), Source::Grid)], &[]);
        prop_assert_eq!(orders.basis, Basis::Parts { margin: Percent(3) });
        let all: Vec<usize> = (0..gpus.len()).collect();
        let whole = most(&all, &gpus, &orders) * 100 / 88 + 250_000;
        prop_assert!(held(&all, &gpus, &orders) || whole <= u64::from(limit), "{whole} of {limit}");
    }

    #[test]
    fn guards_hold_whatever_the_caps_say(
        gpus in prop::collection::vec(gpu(), 1..9),
        meter in meter(),
        caps in prop::collection::vec(0..9_000_000_u32, 0..3),
        limits in (0..2_000_000_u32, 0..2_000_000_u32),
    ) {
        let caps: Vec<Cap> = caps
            .iter()
            .map(|limit| Cap::at_once(Milliwatts(*limit), Source::Command))
            .collect();
        let of = |limit, step| Guard {
            limit: Milliwatts(limit),
            meters: vec![Err(Missing::Bus)],
            gpus: (0..gpus.len()).step_by(step).collect(),
            input: false,
        };
        // Some cards are on both.
        let guards = [of(limits.0, 2), of(limits.1, 3)];
        let orders = after(40, &gpus, meter, &caps, &guards);
        for guard in &guards {
            let sum = most(&guard.gpus, &gpus, &orders);
            prop_assert!(held(&guard.gpus, &gpus, &orders) || sum <= u64::from(guard.limit.0), "{sum} of {:?}", guard);
        }
    }
}
