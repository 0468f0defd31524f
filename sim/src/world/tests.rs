//! What must hold of any rig, whatever the numbers.

use super::*;

const TICK: Duration = MAX_STEP;

fn rig(seed: u64) -> World {
    World::new(
        &Layout {
            gpus: (0..8).map(|i| format!("gpu{i}")).collect(),
            fans: (1..=6).map(|i| (format!("fan{i}"), 6000.0, 0.2)).collect(),
            probes: vec![("intake".to_owned(), Place::Intake), ("exhaust1".to_owned(), Place::Exhaust)],
            supplies: vec!["psu1".to_owned()],
            profiles: Vec::new(),
        },
        seed,
    )
}

fn run(world: &mut World, seconds: u32) {
    for _ in 0..seconds * 10 {
        world.step(TICK);
    }
}

fn at(load: f64, duty: f64) -> World {
    let mut world = rig(1);
    world.gpus.iter_mut().for_each(|gpu| gpu.load = load);
    world.fans.iter_mut().for_each(|fan| fan.duty = duty);
    world
}

fn settled(load: f64, duty: f64) -> World {
    let mut world = at(load, duty);
    run(&mut world, 1800);
    world
}

fn probe(world: &World, place: Place) -> f64 {
    world.probes.iter().find(|probe| probe.place == place).map_or(f64::NAN, Probe::celsius)
}

#[test]
fn a_rig_at_work_is_plausible() {
    let world = settled(0.6, 0.5);
    let volts: Vec<f64> = world.gpus.iter().map(|gpu| gpu.volts).collect();
    let supply = &world.supplies[0];
    assert!((40.0..50.0).contains(&probe(&world, Place::Exhaust)), "exhaust {}", probe(&world, Place::Exhaust));
    assert!((24.0..28.0).contains(&probe(&world, Place::Intake)), "intake {}", probe(&world, Place::Intake));
    assert!(world.gpus.iter().all(|gpu| (190.0..260.0).contains(&gpu.watts)), "{:?}", world.gpus);
    assert!(world.gpus.iter().all(|gpu| (60.0..95.0).contains(&gpu.celsius)), "{:?}", world.gpus);
    assert!(volts.iter().all(|v| (11.7..12.2).contains(v)), "{volts:?}");
    assert!((1700.0..2200.0).contains(&supply.input_watts) && (30.0..60.0).contains(&supply.celsius), "{supply:?}");
    assert!(!supply.off && !supply.hot() && !supply.fan_fails() && !supply.overloaded() && !supply.input_low());
    let idle = settled(0.0, 0.3);
    assert!(idle.gpus.iter().all(|gpu| (20.0..30.0).contains(&gpu.watts)), "{:?}", idle.gpus);
    let full = settled(1.0, 1.0);
    assert!(full.gpus.iter().all(|gpu| (320.0..370.0).contains(&gpu.watts)), "{:?}", full.gpus);
    assert!(probe(&full, Place::Exhaust) < 55.0 && !full.supplies[0].off);
}

#[test]
fn more_air_is_cooler_and_more_load_is_warmer() {
    let by_air: Vec<f64> = [0.0, 0.3, 0.5, 0.8, 1.0].map(|duty| settled(0.6, duty).exhaust).to_vec();
    assert!(by_air.is_sorted_by(|less, more| less > more), "{by_air:?}");
    let by_load: Vec<f64> = [0.0, 0.3, 0.6, 1.0].map(|load| settled(load, 0.5).exhaust).to_vec();
    assert!(by_load.is_sorted_by(|less, more| less < more), "{by_load:?}");
}

#[test]
fn full_load_with_seized_fans_passes_critical_in_minutes_and_does_not_run_away() {
    let mut world = at(1.0, 1.0);
    world.gpus.iter_mut().for_each(|gpu| gpu.celsius = 30.0);
    world.exhaust = 30.0;
    world.fans.iter_mut().for_each(|fan| fan.seized = true);
    let mut after = 0;
    while probe(&world, Place::Exhaust) < 65.0 && after < 600 {
        run(&mut world, 1);
        after += 1;
    }
    assert!((20..180).contains(&after), "65 °C after {after} s");
    assert!(world.fans.iter().all(|fan| fan.rpm == 0.0));
    run(&mut world, 3600);
    assert!((80.0..115.0).contains(&world.exhaust), "{}", world.exhaust);
    assert!(world.gpus.iter().all(|gpu| gpu.watts < 150.0), "throttled: {:?}", world.gpus);
}

#[test]
fn in_balance_the_air_carries_what_the_cards_draw() {
    let world = settled(0.6, 0.5);
    let drawn: f64 = world.gpus.iter().map(|gpu| gpu.watts).sum();
    let part = world.heat_carried() / drawn;
    assert!((0.85..1.02).contains(&part), "air carries {part} of {drawn} W; the frame has the rest");
    let supply = &world.supplies[0];
    assert!((0.85..0.96).contains(&(supply.output_watts / supply.input_watts)), "{supply:?}");
    assert!((world.output_watts() - supply.output_watts).abs() < 50.0);
    let rails: f64 = world.gpus.iter().map(|gpu| gpu.volts * gpu.amps()).sum();
    assert!((rails - drawn).abs() < 1.0);
}

#[test]
fn the_seed_and_nothing_else_decides() {
    let (mut a, mut b, mut other) = (rig(5), rig(5), rig(6));
    for world in [&mut a, &mut b, &mut other] {
        run(world, 60);
    }
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
    assert_ne!(format!("{a:?}"), format!("{other:?}"));
}

#[test]
fn a_fan_needs_its_least_drive_to_start_and_less_to_go_on() {
    let mut world = at(0.0, 0.0);
    run(&mut world, 30);
    assert!(world.fans[0].rpm == 0.0);
    world.fans[0].duty = 0.15;
    run(&mut world, 30);
    assert!(world.fans[0].rpm == 0.0, "15 % does not start it");
    world.fans[0].duty = 0.25;
    run(&mut world, 30);
    assert!((1300.0..1500.0).contains(&world.fans[0].rpm), "{}", world.fans[0].rpm);
    world.fans[0].duty = 0.15;
    run(&mut world, 30);
    assert!((800.0..900.0).contains(&world.fans[0].rpm), "but it keeps turning at it: {}", world.fans[0].rpm);
}

#[test]
fn a_probe_is_never_still_for_long() {
    let mut world = settled(0.0, 0.5);
    let first = (probe(&world, Place::Exhaust) * 16.0).floor();
    let mut moved = false;
    for _ in 0..60 {
        run(&mut world, 1);
        moved |= (probe(&world, Place::Exhaust) * 16.0).floor() != first;
    }
    assert!(moved, "a thermometer that stands for a minute would count as frozen");
}

#[test]
fn low_mains_switch_the_rig_off_and_back_on() {
    let mut world = at(0.6, 0.5);
    world.mains = 150.0;
    run(&mut world, 10);
    let supply = &world.supplies[0];
    assert!(supply.off && supply.input_low() && supply.volts == 0.0);
    assert!(world.gpus.iter().all(|gpu| gpu.volts == 0.0 && gpu.amps() == 0.0 && gpu.watts < 0.1));
    assert!(world.fans.iter().all(|fan| fan.rpm < 100.0));
    world.mains = 230.0;
    run(&mut world, 10);
    assert!(!world.supplies[0].off && world.gpus[0].watts > 150.0);
    assert!(!world.supplies[0].fan_fails(), "its fan may take a moment to come up");
}

#[test]
fn a_supply_without_its_fan_gets_hot_and_switches_off() {
    let mut world = at(1.0, 1.0);
    world.supplies[0].fan_seized = true;
    run(&mut world, 60);
    assert!(world.supplies[0].fan_fails() && !world.supplies[0].off);
    let (mut hot, mut off_after) = (false, 0);
    while !world.supplies[0].off && off_after < 3600 {
        run(&mut world, 1);
        off_after += 1;
        hot |= world.supplies[0].hot();
    }
    assert!(hot && (120..1800).contains(&off_after), "off after {off_after} s");
    run(&mut world, 3600);
    assert!(!world.supplies[0].off || world.supplies[0].celsius < 105.0, "it cools while it is off");
}

/// A frame with these cards at full load and three quarters of the air.
fn cards(list: &str) -> World {
    let profiles = Profile::list(list).unwrap();
    let gpus = (0..profiles.len()).map(|card| format!("gpu{card}")).collect();
    let fans = (1..=6).map(|fan| (format!("fan{fan}"), 6000.0, 0.2)).collect();
    let mut world = World::new(&Layout { gpus, fans, profiles, ..Layout::default() }, 1);
    world.gpus.iter_mut().for_each(|gpu| gpu.load = 1.0);
    world.fans.iter_mut().for_each(|fan| fan.duty = 0.75);
    world
}

#[test]
fn each_kind_of_card_keeps_to_its_limit_and_rests_at_its_slowest() {
    let mut world = cards("ampere,pascal,turing,ada,blackwell,datacenter");
    run(&mut world, 900);
    for gpu in &world.gpus {
        let (limit, [least, _, most]) = (f64::from(gpu.control.limit) / 1000.0, gpu.profile.core);
        assert!((0.5 * limit..1.01 * limit).contains(&gpu.watts), "{gpu:?}");
        assert!((least..=most).contains(&gpu.core_mhz) && gpu.presence == Presence::There, "{gpu:?}");
        assert!(gpu.celsius < f64::from(gpu.profile.hot[1]), "{gpu:?}");
    }
    world.gpus.iter_mut().for_each(|gpu| gpu.load = 0.0);
    run(&mut world, 60);
    for gpu in &world.gpus {
        let slowest = gpu.profile.memory.last().copied().unwrap();
        assert_eq!((gpu.core_mhz, (gpu.pstate, gpu.memory_mhz)), (gpu.profile.core[0], slowest), "{gpu:?}");
        assert!(gpu.watts < gpu.profile.idle_watts * 1.15 && gpu.reasons & reason::IDLE != 0, "{gpu:?}");
    }
}

#[test]
fn less_clock_less_memory_and_an_offset_each_save_watts() {
    let mut world = cards("ampere:5");
    for gpu in world.gpus.iter_mut().skip(1) {
        gpu.control.core_lock = Some((1500, 1500));
    }
    world.gpus[2].control.memory_lock = Some(2);
    // The same clock at the voltage of one 150 MHz lower: what undervolting is.
    world.gpus[3].control.core_offset = [150; PSTATES];
    world.gpus[4].control.limit = 200_000;
    // What cards differ in by chance must not count.
    let twins = world.gpus[1].clone();
    for gpu in &mut world.gpus {
        let control = std::mem::replace(gpu, twins.clone()).control;
        gpu.control = control;
    }
    run(&mut world, 60);
    let [free, locked, slow_memory, undervolted, limited] = [0, 1, 2, 3, 4].map(|card| world.gpus[card].watts);
    assert!(free > locked + 30.0 && locked > slow_memory + 20.0 && locked > undervolted + 15.0, "{:?}", world.gpus);
    assert_eq!([1, 2, 3].map(|card| world.gpus[card].core_mhz), [1500; 3]);
    assert_eq!((world.gpus[2].memory_mhz, world.gpus[2].pstate), (5001, 3));
    assert!((190.0..201.0).contains(&limited) && world.gpus[4].core_mhz < 1500);
    assert!(world.gpus[4].reasons & reason::POWER_CAP != 0 && world.gpus[3].reasons & reason::POWER_CAP == 0);
}

#[test]
fn work_that_waits_for_memory_goes_with_its_clock_and_other_work_does_not() {
    /// How much of it waits, which memory state, which core lock, an offset: what is worked, as parts of all.
    type Row = (f64, Option<usize>, Option<u32>, i32, (f64, f64));
    let mut world = cards("ampere:6");
    let twins = world.gpus[0].clone();
    let rows: [Row; 6] = [
        (0.95, None, None, 0, (0.9, 1.01)),
        (0.95, Some(2), None, 0, (0.5, 0.56)),
        (0.95, None, Some(1_200), 0, (0.93, 0.99)),
        (0.05, Some(2), None, 0, (0.93, 0.97)),
        (0.05, None, Some(1_200), 0, (0.70, 0.74)),
        // Memory that is made faster, as miners do.
        (0.95, None, None, 2_000, (1.07, 1.13)),
    ];
    for (gpu, (bound, state, lock, offset, _)) in world.gpus.iter_mut().zip(rows) {
        *gpu = twins.clone();
        gpu.memory_bound = bound;
        gpu.control.limit = 480_000;
        gpu.control.memory_lock = state;
        gpu.control.core_lock = lock.map(|mhz| (mhz, mhz));
        gpu.control.memory_offset = [offset; PSTATES];
    }
    run(&mut world, 30);
    for (gpu, (.., (least, most))) in world.gpus.iter().zip(rows) {
        assert!((least..most).contains(&gpu.work()), "{} {gpu:?}", gpu.work());
    }
    // Slower memory saves watts where work waits for it and where it does not.
    assert!(world.gpus[0].watts > world.gpus[1].watts + 20.0 && world.gpus[0].watts > world.gpus[3].watts + 20.0);
    assert!(world.gpus[5].watts > world.gpus[0].watts);
    world.gpus[0].presence = Presence::Lost;
    run(&mut world, 1);
    assert_eq!(world.gpus[0].work(), 0.0);
}

#[test]
fn a_card_without_air_gets_slow_and_one_that_boils_is_off_for_good() {
    let mut world = cards("ampere:2");
    world.fans.iter_mut().for_each(|fan| fan.seized = true);
    run(&mut world, 900);
    assert!(world.gpus.iter().all(|gpu| gpu.presence == Presence::There && gpu.reasons & reason::SW_THERMAL != 0));
    world.gpus[0].celsius = 99.0;
    run(&mut world, 10);
    assert_eq!((world.gpus[0].presence, world.gpus[0].core_mhz), (Presence::Off, 0));
    assert!(world.gpus[0].watts < 10.0 && world.gpus[1].presence == Presence::There);
    world.gpus[0].celsius = 30.0;
    run(&mut world, 10);
    assert_eq!(world.gpus[0].presence, Presence::Off, "until somebody resets it");
}
