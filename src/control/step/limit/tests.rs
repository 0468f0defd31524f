use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock;
use crate::control::step::power::{Cap, Payload, Policy, Source};
use crate::control::step::step;
use crate::gpu::plan::tests::{card, sample};
use crate::gpu::wire::{Code, PciAddress, Sample};
use crate::payload::manifest::Kind;
use crate::units::Millicelsius;

const PCI: PciAddress = PciAddress { domain: 0, bus: 1, device: 0 };

/// A card that slows down at 95 °C, so that 92 is critical, and switches itself off at 98, at this temperature.
fn gpu(celsius: i32) -> Gpu {
    let (slowdown, shutdown) = (Ok(Millicelsius(95_000)), Ok(Millicelsius(98_000)));
    let device = crate::gpu::wire::Device { pci: PCI, slowdown, shutdown, ..card() };
    let mut sample = sample(1_500, 100, 0);
    sample.temperature = Ok(Millicelsius(celsius * 1000));
    Gpu { device: Some(Arc::new(device)), presence: Presence::Seen, sample: Ok(Arc::new(sample)), ..Gpu::unseen(PCI) }
}

fn own(payload: usize) -> power::Gpu {
    power::Gpu {
        limits: Some((Milliwatts(100_000), Milliwatts(480_000))),
        top: Milliwatts(300_000),
        power: Ok(Milliwatts(280_000)),
        idle: Milliwatts(25_000),
        clock: Err(Missing::Bus),
        max_clock: None,
        payload: Some(payload),
        worth: 1,
    }
}

/// What is decided after so many seconds of the same.
fn run(gpus: &[Gpu], kinds: [Kind; 2], caps: &[Cap], seconds: u32) -> Limited {
    let board = Board::load("simulated-8gpu").unwrap();
    let (start, policy) = (clock::now(), Policy::default());
    let owned: Vec<power::Gpu> = (0..gpus.len()).map(own).collect();
    let payloads = kinds.map(|kind| Payload { kind, grace: Duration::from_secs(900), running: true, paused: false });
    let (mut state, mut limited) = (State::new(&board, start), Limited::default());
    for second in 0..=seconds {
        let now = start + Duration::from_secs(second.into());
        let found =
            power::Inputs { now, caps, meters: &[Err(Missing::Bus)], guards: &[], gpus: &owned, payloads: &payloads };
        let inputs = Inputs {
            now,
            sensors: &[],
            fans: &[],
            rails: &[],
            curves: &[],
            quiet: None,
            gpus,
            request: None,
            power: Some((&policy, found)),
        };
        let (next, orders) = step(&board, state, &inputs);
        (state, limited) = (next, orders.limited);
    }
    limited
}

#[test]
fn heat_and_power_meet_in_what_a_gpu_may_take_and_how_far_its_payload_is_held() {
    let kinds = [Kind::Mining, Kind::Ai];
    let cap = |watts: u32| vec![Cap::at_once(Milliwatts(watts * 1000), Source::Command)];
    let (free, limit) = (power::Rung::Free, power::Rung::Limit);
    use Hold::{Drain, Free, Pause, Stop};
    for (name, celsius, caps, seconds, rungs, heat, holds) in [
        ("cool and free", [60, 60], vec![], 5, [free; 2], ladder::Rung::Free, [Free, Free]),
        ("a cap", [60, 60], cap(800), 5, [limit; 2], ladder::Rung::Free, [Free, Free]),
        ("hot", [92, 60], vec![], 20, [free; 2], ladder::Rung::Limit, [Free, Free]),
        ("hot for good", [92, 60], vec![], 80, [free; 2], ladder::Rung::Pause, [Pause, Free]),
        ("slow by itself", [95, 60], vec![], 1, [free; 2], ladder::Rung::Air, [Free, Free]),
        ("an emergency", [96, 60], vec![], 1, [free; 2], ladder::Rung::Stop, [Stop, Free]),
        ("no number that a card can have", [900, 60], vec![], 5, [free; 2], ladder::Rung::Air, [Free, Free]),
        (
            "what limits cannot do",
            [60, 60],
            cap(330),
            5,
            [power::Rung::Pause, power::Rung::Drain],
            ladder::Rung::Free,
            [Pause, Drain],
        ),
    ] {
        let limited = run(&celsius.map(gpu), kinds, &caps, seconds);
        let found: Vec<power::Rung> = limited.gpus.iter().map(|gpu| gpu.power.rung).collect();
        assert_eq!(found, rungs, "{name}");
        assert_eq!((limited.gpus[0].heat.rung, limited.gpus[1].heat.rung), (heat, ladder::Rung::Free), "{name}");
        assert_eq!(limited.holds, holds, "{name}");
        assert_eq!(limited.cap, caps.first().map(|cap| (cap.limit, cap.source)), "{name}");
    }
    // AI work is never paused for heat either, and the lower limit of both holds.
    let limited = run(&[gpu(60), gpu(92)], kinds, &cap(900), 80);
    assert_eq!(limited.holds, [Free, Drain]);
    assert_eq!(limited.gpus[1].limits.power, Some(Milliwatts(100_000)));
    assert!(limited.gpus[0].limits.power.is_some_and(|limit| limit > Milliwatts(100_000)));
}

#[test]
fn what_is_not_there_or_was_let_go_of_is_no_heat() {
    for (sample, presence) in [(Err(Missing::Off), Presence::Seen), (Err(Missing::Bus), Presence::Lost)] {
        let gone = Gpu { sample, presence, ..gpu(60) };
        let limited = run(&[gone], [Kind::Mining; 2], &[], 200);
        assert_eq!(limited.gpus[0].heat, ladder::Order::default());
    }
    // One that answers and does not tell comes down to its lowest limit, and no further; of one that does not answer nobody can ask that.
    let told =
        gpu(60).sample.map(|sample| Arc::new(Sample { temperature: Err(Code::NOT_SUPPORTED), ..(*sample).clone() }));
    for (sample, rung, limit) in
        [(told, ladder::Rung::Limit, Some(Milliwatts(100_000))), (Err(Missing::Bus), ladder::Rung::Air, None)]
    {
        let limited = run(&[Gpu { sample, ..gpu(60) }], [Kind::Mining; 2], &[], 200);
        assert_eq!((limited.gpus[0].heat.rung, limited.holds[0]), (rung, Hold::Free));
        assert_eq!(limited.gpus[0].limits.power, limit);
    }
}
