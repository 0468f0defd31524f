use std::sync::Arc;

use super::*;
use crate::board::Board;
use crate::gpu::plan::tests::{card, sample};
use crate::gpu::wire::{Code, Device, PciAddress};
use crate::gpu::{GpuSnapshot, ProfileNow};
use crate::payload::supervisor::{Payloads, Status};
use crate::payload::{By, Hold, lifecycle::Phase};
use crate::reading::Power;
use crate::units::Megahertz;

const PCI: PciAddress = PciAddress { domain: 0, bus: 1, device: 0 };

fn gpu(presence: Presence) -> Gpu {
    let device = Device { pci: PCI, uuid: "GPU-1".to_owned(), ..card() };
    let mut sample = sample(1_500, 50, 0);
    (sample.power, sample.limit) = (Ok(Milliwatts(200_000)), Ok(Milliwatts(250_000)));
    Gpu { device: Some(Arc::new(device)), presence, sample: Ok(Arc::new(sample)), ..Gpu::unseen(PCI) }
}

fn with(gpus: Vec<Gpu>, inputs: &[Reading<u32>], payloads: Vec<Status>) -> Snapshot {
    let input = |power: &Reading<u32>| {
        [Power { power: power.map(Milliwatts), ..Power::missing(Missing::Off) }, Power::missing(Missing::Off)]
    };
    Snapshot {
        supplies: inputs.iter().map(input).collect(),
        gpus: Arc::new(GpuSnapshot { gpus, ..GpuSnapshot::default() }),
        payloads: Arc::new(Payloads(payloads)),
        ..Snapshot::default()
    }
}

fn none() -> Setpoints {
    Setpoints::none(Arc::new(Board::load("simulated-8gpu").unwrap()))
}

#[test]
fn each_supply_has_its_meter() {
    for inputs in [vec![], vec![Ok(1_000)], vec![Ok(1_000), Err(Missing::Bus)]] {
        let found = gather(&Rules::default(), &with(vec![], &inputs, vec![]), &none()).meters;
        assert_eq!(found, inputs.iter().map(|input| input.map(Milliwatts)).collect::<Vec<_>>());
    }
}

#[test]
fn a_guard_is_of_the_gpus_that_it_feeds() {
    let rule = |place, gpus| Rule { place, limit: Milliwatts(1), gpus };
    let card = |name: &str| Card::named(name).unwrap();
    let guards = vec![
        rule(Place::Supplies, None),
        rule(Place::Supply(1), Some(vec![card("GPU-1"), card("GPU-9")])),
        rule(Place::Supply(7), Some(vec![card("0000:01:00.0")])),
        rule(Place::Rail(0), Some(vec![card("GPU-9")])),
    ];
    let gathered = gather(
        &Rules { guards, ..Rules::default() },
        &with(vec![gpu(Presence::Seen)], &[Ok(5), Ok(6)], vec![]),
        &none(),
    );
    let found: Vec<_> =
        gathered.guards.iter().map(|guard| (guard.meters.clone(), guard.gpus.len(), guard.input)).collect();
    let (each, missing) = ([5, 6].map(|mw| Ok(Milliwatts(mw))), vec![Err(Missing::NotPresent)]);
    assert_eq!(
        found,
        [(each.to_vec(), 1, true), (each[1..].to_vec(), 1, true), (missing.clone(), 1, true), (missing, 0, false)]
    );
}

#[test]
fn a_gpu_is_what_its_card_its_profile_and_its_owner_make_of_it() {
    let found = |gpu: Gpu, payloads: Vec<Status>| {
        gather(&Rules::default(), &with(vec![gpu], &[], payloads), &none()).gpus[0].clone()
    };
    let plain = found(gpu(Presence::Seen), vec![]);
    assert_eq!(plain.limits, Some((Milliwatts(100_000), Milliwatts(480_000))));
    assert_eq!((plain.top, plain.power), (Milliwatts(250_000), Ok(Milliwatts(200_000))));
    assert_eq!((plain.payload, plain.worth), (None, 0));
    assert!(plain.max_clock.is_some());
    let profile = ProfileNow { limit: Some(Milliwatts(220_000)), ..ProfileNow::default() };
    assert_eq!(found(Gpu { profile, ..gpu(Presence::Seen) }, vec![]).top, Milliwatts(220_000));
    // Lost: nobody can limit it, and it may draw what it did.
    let lost = found(Gpu { sample: Err(Missing::Bus), ..gpu(Presence::Lost) }, vec![]);
    assert_eq!((lost.limits, lost.top, lost.power), (None, Milliwatts(390_000), Err(Missing::Bus)));
    // Never seen by a driver: nothing is known.
    assert_eq!(found(Gpu::unseen(PCI), vec![]).top, Milliwatts(0));
    let old = Device { pci: PCI, architecture: Ok(4), limits: Err(Code::NOT_SUPPORTED), ..card() };
    let old = found(Gpu { device: Some(Arc::new(old)), ..gpu(Presence::Seen) }, vec![]);
    assert_eq!((old.limits, old.max_clock), (None, None));
    let owner = |phase| Status { phase, gpus: vec!["GPU-1".to_owned()], pid: Some(7), ..Status::of("miner") };
    let other = Status::of("other");
    let owned = found(gpu(Presence::Seen), vec![other.clone(), owner(Phase::Running)]);
    assert_eq!((owned.payload, owned.worth), (Some(1), 1));
    assert_eq!(found(gpu(Presence::Seen), vec![other, owner(Phase::Stopped)]).payload, None);
    let snapshot = |hold, paused| with(vec![], &[], vec![Status { hold, paused, ..owner(Phase::Running) }]);
    for (hold, paused) in
        [(Hold::Free, None), (Hold::Pause, None), (Hold::Pause, Some(By::Freezer)), (Hold::Drain, None)]
    {
        let found = gather(&Rules::default(), &snapshot(hold, paused), &none()).payloads[0];
        assert_eq!((found.running, found.paused), (true, paused.is_some()));
    }
}

#[test]
fn what_a_search_tries_is_beside_what_was_decided() {
    let gpus = [gpu(Presence::Seen)];
    let mut limited = Limited::default();
    let now = crate::clock::now();
    let setpoints = none();
    // A GPU that nothing was decided on gets no limit.
    assert_eq!(orders(&limited, &gpus, &setpoints, now), [Some(Limits::default())]);
    let limits = Limits { power: Some(Milliwatts(150_000)), memory: Some(Megahertz(5_001)), ..Limits::default() };
    limited.gpus.push(crate::control::step::GpuLimited { limits, ..Default::default() });
    assert_eq!(orders(&limited, &gpus, &setpoints, now), [Some(limits)]);
}

#[test]
fn causes_are_told_in_the_boards_words() {
    let rule = |place| Rule { place, limit: Milliwatts(1), gpus: None };
    let guards = vec![rule(Place::Supplies), rule(Place::Supply(1)), rule(Place::Rail(2))];
    let rules = Rules { guards, ..Rules::default() };
    for (cause, expected) in [
        (power::Cause::Cap(Source::Grid), alarm::Cause::Cap(Source::Grid)),
        (power::Cause::Guard(0), alarm::Cause::Supplies),
        (power::Cause::Guard(1), alarm::Cause::Supply(1)),
        (power::Cause::Guard(2), alarm::Cause::Rail(2)),
    ] {
        let power = power::GpuOrder { rung: power::Rung::Limit, cause: Some(cause), ..Default::default() };
        let one = crate::control::step::GpuLimited { power, ..Default::default() };
        let limited = Limited { gpus: vec![one], ..Limited::default() };
        let told = restraint(&rules, &limited, &[gpu(Presence::Seen)]);
        assert_eq!(told.gpus[0].power, (power::Rung::Limit, Some(expected)));
    }
}
