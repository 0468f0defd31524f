//! A rig to be capped: GPUs that reach their limit with a time constant, a supply with an efficiency that depends on its load,
//! a meter that is late, noisy and coarse, payloads that take a while to end and to start.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Cap, Gpu, Guard, Inputs, Orders, Payload, Policy, Rung, State, step};
use crate::payload::manifest::Kind;
use crate::reading::{Missing, Reading};
use crate::units::{Megahertz, Milliwatts};

pub(super) const TICK: Duration = Duration::from_millis(100);
/// Steps of the plant in a tick.
const FINE: u32 = 10;
const CLOCK: f64 = 2_500.0;
const FULL: f64 = 350.0;
pub(super) const IDLE: f64 = 25.0;
/// Watts of board and fans behind the supply.
const BASE: f64 = 120.0;
/// Ticks that the meter is late.
const LATE: usize = 2;

impl Card {
    /// The clock that its draw stands for, or nothing runs: the highest that it may have.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
    fn speed(&self) -> Megahertz {
        let part = ((self.draw - IDLE) / (FULL - IDLE) / self.load.max(0.01)).clamp(0.0, 1.0);
        Megahertz((CLOCK * part.sqrt()).min(self.clock) as u32)
    }
}

/// How a meter fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Lost,
    Zero,
    Frozen,
    Half,
    Double,
}

pub(super) struct Card {
    pub(super) load: f64,
    draw: f64,
    limit: f64,
    clock: f64,
    pub(super) blind: bool,
    /// It fell off the bus, and draws what it drew.
    pub(super) lost: bool,
    /// It takes no limit and no clock lock, and says that it did.
    pub(super) deaf: bool,
    /// Its payload says that it rests, and does not.
    pub(super) lies: bool,
}

pub(super) struct Plant {
    pub(super) now: Instant,
    pub(super) policy: Policy,
    pub(super) cards: Vec<Card>,
    pub(super) kinds: Vec<Kind>,
    pub(super) grace: Duration,
    /// Payloads end only when they are made to.
    pub(super) stubborn: bool,
    pub(super) worth: Vec<u64>,
    /// Until when each payload ends or starts, and whether it runs.
    running: Vec<(bool, Option<Instant>)>,
    pub(super) caps: Vec<Cap>,
    pub(super) guards: Vec<Guard>,
    pub(super) failure: Option<Failure>,
    /// The only supply of which the meter fails, where there are several.
    pub(super) broken: Option<usize>,
    /// How the guards' meters fail.
    pub(super) guard_failure: Option<Failure>,
    /// The cards of each supply, board and fans shared by all; one for all where there is none.
    pub(super) supplies: Vec<Vec<usize>>,
    /// The supplies share all that is drawn instead.
    pub(super) sharing: bool,
    /// It decides in every so manieth tick only.
    pub(super) every: u32,
    ticks: u32,
    /// The helper that knows the cards is not there yet.
    pub(super) alone: bool,
    meters: VecDeque<(Vec<f64>, Vec<f64>)>,
    shown: Vec<Milliwatts>,
    pub(super) state: Option<State>,
    pub(super) orders: Orders,
    pub(super) seed: u64,
}

impl Plant {
    pub(super) fn new(now: Instant, cards: usize, load: f64) -> Self {
        let card = || Card {
            load,
            draw: IDLE,
            limit: FULL,
            clock: CLOCK,
            blind: false,
            lost: false,
            deaf: false,
            lies: false,
        };
        let mut plant = Self {
            now,
            policy: Policy::default(),
            cards: (0..cards).map(|_| card()).collect(),
            kinds: vec![Kind::Mining; cards],
            grace: Duration::from_secs(5),
            stubborn: false,
            worth: (0..cards).map(|card| u64::try_from(card).unwrap()).collect(),
            running: vec![(true, None); cards],
            caps: Vec::new(),
            guards: Vec::new(),
            failure: None,
            broken: None,
            guard_failure: None,
            supplies: Vec::new(),
            sharing: false,
            every: 1,
            ticks: 0,
            alone: false,
            meters: VecDeque::new(),
            shown: Vec::new(),
            state: Some(State::new(now)),
            orders: Orders::default(),
            seed: 1,
        };
        plant.run(50);
        plant
    }

    /// 0 to 1.
    pub(super) fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.seed >> 33).unwrap()) / f64::from(1_u32 << 31)
    }

    /// What the rig draws from the mains, watts.
    pub(super) fn input(&self) -> f64 {
        let output = self.cards.iter().map(|card| card.draw).sum::<f64>() + BASE;
        let part = output / 3_000.0;
        // Best at half load.
        output / (0.94 - 0.12 * (part - 0.5).powi(2))
    }

    pub(super) fn output(&self, cards: &[usize]) -> f64 {
        cards.iter().map(|card| self.cards[*card].draw).sum()
    }

    /// The same at each supply.
    fn inputs(&self) -> Vec<f64> {
        let count = self.supplies.len();
        if count == 0 {
            return vec![self.input()];
        }
        let all = self.cards.iter().map(|card| card.draw).sum::<f64>() + BASE;
        let many = f64::from(u32::try_from(count).unwrap());
        let part =
            |cards: &Vec<usize>| if self.sharing { 1.0 / many } else { (self.output(cards) + BASE / many) / all };
        self.supplies.iter().map(|cards| self.input() * part(cards)).collect()
    }

    /// What each guard carries.
    fn guarded(&self) -> Vec<f64> {
        self.guards.iter().map(|guard| if guard.input { self.input() } else { self.output(&guard.gpus) }).collect()
    }

    /// The highest input of so many ticks, looked at between them too.
    pub(super) fn run(&mut self, ticks: u32) -> f64 {
        (0..ticks).map(|_| self.tick()).fold(0.0, f64::max)
    }

    pub(super) fn tick(&mut self) -> f64 {
        self.serve();
        self.meters.push_back((self.inputs(), self.guarded()));
        if self.meters.len() > LATE + 1 {
            self.meters.pop_front();
        }
        if self.ticks.is_multiple_of(self.every) {
            self.decide();
        }
        self.ticks += 1;
        let mut most: f64 = 0.0;
        for _ in 0..FINE {
            for (index, card) in self.cards.iter_mut().enumerate() {
                let ended = self.orders.payloads.get(index).is_some_and(|rung| *rung == Rung::Stop);
                let load = if self.running[index].0 || card.lies && !ended { card.load } else { 0.0 };
                let wanted = IDLE + (FULL - IDLE) * load * (card.clock / CLOCK).powi(2);
                let to = wanted.min(card.limit.max(IDLE));
                card.draw += (to - card.draw) * (TICK / FINE).as_secs_f64() / 0.3;
            }
            most = most.max(self.input());
        }
        self.now += TICK;
        most
    }

    /// Payloads end and start.
    fn serve(&mut self) {
        for (index, (running, until)) in self.running.iter_mut().enumerate() {
            let most = if self.stubborn { Rung::Stop } else { Rung::Pause };
            let wanted = self.orders.payloads.get(index).is_none_or(|rung| *rung < most);
            match (*running == wanted, *until) {
                (true, _) => *until = None,
                (false, None) => *until = Some(self.now + Duration::from_secs(if wanted { 3 } else { 1 })),
                (false, Some(at)) if self.now >= at => (*running, *until) = (wanted, None),
                (false, Some(_)) => {}
            }
        }
    }

    fn decide(&mut self) {
        let (meters, guarded) = self.shown();
        let gpus: Vec<Gpu> = if self.alone { Vec::new() } else { self.gpus() };
        let payloads: Vec<Payload> = {
            let held = |index| self.orders.payloads.get(index).copied().unwrap_or_default();
            let payload = |(index, (kind, (running, _))): (usize, (&Kind, &(bool, _)))| Payload {
                kind: *kind,
                grace: self.grace,
                running: *running || held(index) == Rung::Pause,
                paused: !*running,
            };
            self.kinds.iter().zip(&self.running).enumerate().map(payload).collect()
        };
        let mut guards = self.guards.clone();
        for (guard, shown) in guards.iter_mut().zip(guarded) {
            guard.meters = guard.meters.iter().map(|meter| meter.and(shown)).collect();
        }
        let inputs = Inputs {
            now: self.now,
            caps: &self.caps,
            meters: &meters,
            guards: &guards,
            gpus: &gpus,
            payloads: &payloads,
        };
        let (state, orders) = step(&self.policy, self.state.take().unwrap(), &inputs);
        self.state = Some(state);
        for (card, order) in self.cards.iter_mut().zip(&orders.gpus).filter(|(card, _)| !card.lost && !card.deaf) {
            card.limit = order.limit.map_or(300.0, watts);
            card.clock = order.clock.map_or(CLOCK, |clock| f64::from(clock.0));
        }
        self.orders = orders;
    }

    pub(super) fn gpus(&mut self) -> Vec<Gpu> {
        let noise: Vec<f64> = (0..self.cards.len()).map(|_| self.random() * 2.0 - 1.0).collect();
        let gpu = |(index, (card, noise)): (usize, (&Card, f64))| Gpu {
            limits: (!card.lost).then_some((Milliwatts(100_000), Milliwatts(320_000))),
            top: Milliwatts(300_000),
            power: if card.blind || card.lost { Err(Missing::Stale) } else { Ok(milli(card.draw + noise)) },
            idle: milli(IDLE),
            clock: Ok(card.speed()),
            max_clock: Some(Megahertz(2_500)),
            payload: Some(index),
            worth: self.worth[index],
        };
        self.cards.iter().zip(noise).enumerate().map(gpu).collect()
    }

    /// What the supplies' and the guards' meters show.
    fn shown(&mut self) -> (Vec<Reading<Milliwatts>>, Vec<Reading<Milliwatts>>) {
        let (supplies, guards) = self.meters.front().cloned().unwrap_or_else(|| (self.inputs(), self.guarded()));
        // A guard that was just set has none yet.
        let guards = if guards.len() == self.guards.len() { guards } else { self.guarded() };
        self.shown.resize(supplies.len() + guards.len(), Milliwatts(0));
        let mut shown = Vec::new();
        for (index, true_watts) in supplies.iter().chain(&guards).enumerate() {
            let noise = 1.0 + (self.random() - 0.5) * 0.008;
            // Steps of 2 W.
            let live = milli((true_watts * noise / 2.0).round() * 2.0);
            let fails = index >= supplies.len() || self.broken.is_none_or(|broken| broken == index);
            let failure = if index < supplies.len() { self.failure } else { self.guard_failure };
            let now = match failure.filter(|_| fails) {
                None => Ok(live),
                Some(Failure::Lost) => Err(Missing::Bus),
                Some(Failure::Zero) => Ok(Milliwatts(0)),
                Some(Failure::Frozen) => Ok(self.shown[index]),
                Some(Failure::Half) => Ok(Milliwatts(live.0 / 2)),
                Some(Failure::Double) => Ok(Milliwatts(live.0 * 2)),
            };
            self.shown[index] = now.unwrap_or(self.shown[index]);
            shown.push(now);
        }
        let guards = shown.split_off(supplies.len());
        (shown, guards)
    }
}

fn watts(value: Milliwatts) -> f64 {
    f64::from(value.0) / 1000.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "watts of a rig, never below zero")]
pub(super) fn milli(watts: f64) -> Milliwatts {
    Milliwatts((watts.max(0.0) * 1000.0) as u32)
}
