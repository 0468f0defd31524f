//! What is drawn: plants, boards that somebody would write for them, loads.

use std::time::Duration;

use proptest::prelude::*;
use rigd_sim::world::{Layout, Place, World};

use crate::bench::{Bench, OnBoard, Zone, thousandths};
use crate::plant::{Drawn, FanPhysics, Physics, Plant, Probe};

/// A plant and its board.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    plant: Drawing,
    pub(crate) zone: Zone,
    tick: Duration,
    /// Load in which it is found, 0 to 1.
    pub(crate) load: f64,
    seed: u64,
}

#[derive(Clone, Debug)]
enum Drawing {
    Any(Physics),
    /// The simulated rig, with this many fans.
    World(usize, Probe),
}

impl Scenario {
    pub(crate) fn bench(&self) -> Bench {
        let (plant, fans, probe): (Plant, Vec<OnBoard>, Probe) = match &self.plant {
            Drawing::Any(physics) => {
                let plant = Drawn::new(physics.clone(), self.load, 0.5, self.seed);
                let fans = physics.fans.iter().map(|fan| (fan.rpm, fan.start)).collect();
                (Plant::Drawn(Box::new(plant)), fans, physics.probe)
            }
            Drawing::World(fans, probe) => {
                (Plant::World(Box::new(world(*fans, self.seed))), vec![(6_000.0, 0.2); *fans], *probe)
            }
        };
        Bench::new(self.zone.board(&fans), plant, probe, self.tick)
    }

    /// The temperature, °C, from which on the loop gives full air, whatever its curve, target and quiet hours say below it.
    pub(crate) fn trip(&self) -> f64 {
        let critical = self.zone.critical;
        let room = self.zone.target.map_or(URGENT, |target| (critical - target - AT_TARGET).min(URGENT));
        let top = self.zone.curve.last().filter(|_| self.zone.target.is_none()).map_or(i32::MIN, |(top, _)| *top);
        f64::from((critical - room / 2).max(top)) / 1000.0
    }

    pub(crate) fn critical(&self) -> f64 {
        f64::from(self.zone.critical) / 1000.0
    }
}

/// The constants of `control::step`, m°C, written apart from it.
const URGENT: i32 = 10_000;
const AT_TARGET: i32 = 1_000;

/// The demo's frame with one probe.
fn world(fans: usize, seed: u64) -> World {
    let layout = Layout {
        profiles: Vec::new(),
        gpus: (0..8).map(|i| format!("gpu{i}")).collect(),
        fans: (0..fans).map(|i| (format!("f{i}"), 6000.0, 0.2)).collect(),
        probes: vec![("exhaust".to_owned(), Place::Exhaust)],
        supplies: Vec::new(),
    };
    World::new(&layout, seed)
}

prop_compose! {
    fn any_probe()(
        lag in 1.0..10.0, dead_time in 0.0..3.0, resolution in prop::sample::select(vec![0.0625, 0.5]), unrest in 0.02..0.12,
    ) -> Probe {
        Probe { lag, dead_time, resolution, unrest }
    }
}

prop_compose! {
    fn any_fan()(size in 0.5..2.0, rpm in 1500.0..15_000.0, start in 0.10..0.30, tau in 0.5..3.0) -> FanPhysics {
        FanPhysics { size, rpm, start, tau }
    }
}

prop_compose! {
    fn any_physics()(
        ambient in 15.0..35.0, watts in 100.0..3000.0, idle in 0.05..0.3, air_rise in 6.0..20.0, transfer in 0.3..1.5,
        tau in 8.0..300.0, on_sink: bool, probe in any_probe(), fans in prop::collection::vec(any_fan(), 1..=6),
    ) -> Physics {
        Physics { ambient, watts, idle, air_rise, transfer, tau, on_sink, probe, fans }
    }
}

prop_compose! {
    /// A zone for a plant that settles at `full` °C with full load and full air, and is at `ambient` without any: its critical
    /// temperature at least 10 K above that, its target at least 5 K below the critical one.
    fn any_zone(ambient: f64, full: f64, kilowatts: f64)(
        margin in 10.0..25.0, target in 0.1..0.5, top in 0.3..1.0, low in 15..40u8, kind in 0..3u8, spare_fans in 0..2usize,
        gains in prop::option::of((1..=6u8, 60..300u16)), feed_forward in prop::option::of(10.0..60.0),
    ) -> Zone {
        let critical = full + margin;
        let (first, last) = (ambient + 5.0, full + margin * top);
        let middle = ((first + last) / 2.0, low + (100 - low) / 3);
        let curve = [(first, low), middle, (last, 100)].map(|(at, percent)| (thousandths(at), percent));
        let holds = kind > 0;
        let more = feed_forward.map(|percent: f64| u8::try_from(thousandths(percent / kilowatts / 1000.0)).unwrap_or(u8::MAX));
        Zone {
            curve: if kind == 1 { Vec::new() } else { curve.to_vec() },
            critical: thousandths(critical),
            target: holds.then(|| thousandths(full + margin * target)),
            gain: gains.filter(|_| holds).map(|(gain, _)| gain),
            integral: gains.filter(|_| holds).map(|(_, integral)| integral),
            feed_forward: more.filter(|_| holds),
            spare_fans,
            frozen_s: None,
        }
    }
}

fn any_plant() -> impl Strategy<Value = (Drawing, Zone)> {
    let drawn = any_physics().prop_flat_map(|physics| {
        let zone = any_zone(physics.ambient, physics.settled(1.0, 1.0), physics.watts / 1000.0);
        zone.prop_map(move |zone| (physics.fans.len(), Drawing::Any(physics.clone()), zone))
    });
    // Its exhaust settles at 41 °C with full load and full air, and draws 2.8 kW.
    let world = (1..=6usize, any_probe(), any_zone(25.0, 41.0, 2.8));
    let world = world.prop_map(|(fans, probe, zone)| (fans, Drawing::World(fans, probe), zone));
    prop_oneof![4 => drawn, 1 => world].prop_map(|(fans, plant, zone)| {
        let spare_fans = zone.spare_fans.min(fans - 1);
        (plant, Zone { spare_fans, ..zone })
    })
}

prop_compose! {
    pub(crate) fn any_scenario()(
        (plant, zone) in any_plant(), tick in prop::sample::select(vec![100u64, 200, 500, 1000, 1000, 1000]), load in 0.0..1.0, seed: u64,
    ) -> Scenario {
        Scenario { plant, zone, tick: Duration::from_millis(tick), load, seed }
    }
}

/// Quiet hours or none.
pub(crate) fn any_quiet() -> impl Strategy<Value = Option<u8>> {
    prop::option::weighted(0.4, 25..60u8)
}

/// A stretch of load.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    seconds: f64,
    shape: Shape,
    /// 0 to 1.
    level: f64,
}

#[derive(Clone, Debug)]
enum Shape {
    Step,
    /// From the level of the stretch before.
    Ramp,
    /// Full and idle in turns of so many seconds.
    Bursts(f64),
}

pub(crate) fn any_loads() -> impl Strategy<Value = Vec<Stretch>> {
    let shape = prop_oneof![Just(Shape::Step), Just(Shape::Ramp), (3.0..60.0).prop_map(Shape::Bursts)];
    let stretch = (30.0..200.0, shape, 0.0..=1.0);
    prop::collection::vec(stretch.prop_map(|(seconds, shape, level)| Stretch { seconds, shape, level }), 3..9)
}

/// The load after so many seconds; that of the last stretch for ever after.
pub(crate) fn load_at(loads: &[Stretch], before: f64, seconds: f64) -> f64 {
    let (mut from, mut start) = (before, 0.0);
    for Stretch { seconds: length, shape, level } in loads {
        if seconds < start + length {
            let into = seconds - start;
            return match shape {
                Shape::Step => *level,
                Shape::Ramp => from + (level - from) * into / length,
                Shape::Bursts(turn) => {
                    if (into / turn) % 2.0 < 1.0 {
                        *level
                    } else {
                        0.0
                    }
                }
            };
        }
        (from, start) = (*level, start + length);
    }
    from
}

pub(crate) fn length(loads: &[Stretch]) -> f64 {
    loads.iter().map(|stretch| stretch.seconds).sum()
}
