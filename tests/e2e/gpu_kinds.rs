//! Rigs with other GPUs than eight of a kind, and drivers that are not as they were.

use rigd::gpu::{Phase, Presence};
use rigd::units::{Megahertz, Milliwatts};
use rigd::wire::Telemetry;
use rigd_sim::nvml::without_symbol;
use rustix::process::{Signal, kill_process};

use crate::agent::{Scratch, Setup, until};
use crate::gpu_breaks::{World, library, setup, world};

/// The simulated board with rails for so many GPUs.
fn board(gpus: usize) -> String {
    let (_, text) = rigd::board::BUILTIN.iter().find(|(name, _)| *name == "simulated-8gpu").unwrap();
    let more = (8..gpus).map(|i| {
        format!(
            "[chip.V{i}]\npart = \"ina226\"\nbus = \"main\"\naddr = {:#x}\nshunt_microohms = 500\n\
             [rail.gpu{i}]\nchip = \"V{i}\"\n",
            0x40 + i
        )
    });
    format!("{text}\n{}", more.collect::<String>())
}

fn all_set(telemetry: &Telemetry, gpus: usize) -> bool {
    telemetry.gpus.len() == gpus
        && telemetry.gpus.iter().all(|gpu| {
            gpu.presence == Presence::Seen
                && gpu.temperature.0.is_ok()
                && matches!(gpu.profile, Phase::Probation | Phase::Committed)
        })
}

fn ends(mut world: World, gpus: usize) {
    world.agent.signal(Signal::TERM);
    assert!(world.agent.ended().success());
    for gpu in 0..gpus {
        assert_eq!(world.truth(gpu, "manual"), 0, "GPU {gpu}");
    }
}

#[test]
fn thirteen_and_sixteen_gpus_of_several_kinds_each_get_what_they_can() {
    for (many, gpus) in [(13, "ampere:4,pascal:3,turing:3,ada:3"), (16, "ada:4,blackwell:4,turing:4,ampere:4")] {
        let setup = setup();
        let setup = Setup { board: board(many), gpus: gpus.to_owned(), tick_hz: 4, ..setup };
        let text = setup.broker.replace("power_limit_w = 200", "power_limit_pct = 90");
        let world = world(Setup { broker: text, ..setup });
        let telemetry = world.subscriber.telemetry("all are set", |telemetry| all_set(telemetry, many));
        assert!(telemetry.rails.len() == many && telemetry.rails.iter().all(|rail| rail.mw.0.is_ok()));
        let truth = world.say("get world");
        let limit = |gpu: usize| world.truth(gpu, "limit_mw");
        // What `rigd-sim` takes for the makers' limits of these: ampere, pascal, turing, ada, blackwell.
        for (gpu, class) in gpus
            .split(',')
            .flat_map(|kind| {
                let (class, count) = kind.split_once(':').unwrap();
                std::iter::repeat_n(class, count.parse().unwrap())
            })
            .enumerate()
        {
            assert!(truth.contains(&format!("gpu.{gpu}.class={class}")), "GPU {gpu} is no {class}");
            let locked = truth.contains(&format!("gpu.{gpu}.core_lock_mhz=210-1200"))
                || truth.contains(&format!("gpu.{gpu}.core_lock_mhz=300-1200"));
            assert_eq!(locked, class != "pascal", "GPU {gpu}, {class}");
            let limits = rigd_sim::world::card::Profile::list(class).unwrap()[0].limits.map(i64::from);
            assert!((limits[0]..=limits[2]).contains(&limit(gpu)) && limit(gpu) <= limits[1], "GPU {gpu}, {class}");
        }
        ends(world, many);
    }
}

#[test]
fn an_index_that_moved_is_still_the_same_gpu() {
    let text = setup().broker + "[gpu.card.\"0000:01:00.0\"]\nprofile = \"low\"\n[profile.low]\npower_limit_w = 150\n";
    let world = world(Setup { broker: text, ..setup() });
    world.subscriber.telemetry("all are set", |telemetry| all_set(telemetry, 8));
    let first = until("the helper runs", || world.helper());
    world.say("driver order 7 6 5 4 3 2 1 0");
    kill_process(first, Signal::KILL).unwrap();
    until("another one", || world.helper().filter(|pid| *pid != first));
    world.say("set gpu 0 load 1.0");
    let low =
        |telemetry: &Telemetry, gpu: usize| telemetry.gpus[gpu].power.0.is_ok_and(|power| power <= Milliwatts(155_000));
    world.subscriber.telemetry("each is where it was", |telemetry| {
        all_set(telemetry, 8)
            && telemetry.gpus[0].load.0.is_ok_and(|load| load.0 > 90)
            && telemetry.gpus[7].load.0.is_ok_and(|load| load.0 < 90)
            && low(telemetry, 0)
    });
    for gpu in 0..8 {
        assert_eq!(world.truth(gpu, "limit_mw"), if gpu == 0 { 150_000 } else { 200_000 }, "GPU {gpu}");
    }
    ends(world, 8);
}

#[test]
fn an_old_driver_lacks_functions_and_not_its_gpus() {
    let scratch = Scratch::new("old");
    let old = scratch.path.join("old.so");
    let mut from = library();
    for symbol in [
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetMarginTemperature",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetClockOffsets",
        "nvmlDeviceSetClockOffsets",
        "nvmlDeviceGetFanSpeedRPM",
        "nvmlEventSetCreate",
    ] {
        without_symbol(&from, symbol, &old).unwrap();
        from.clone_from(&old);
    }
    let text = setup().broker.replace(library().to_str().unwrap(), old.to_str().unwrap());
    let world = world(Setup { broker: text + "core_offset_mhz = -60\n", ..setup() });
    world.subscriber.telemetry("all are set, by the functions that there are", |telemetry| {
        all_set(telemetry, 8)
            && telemetry.gpus.iter().all(|gpu| {
                gpu.power.0.is_ok()
                    && gpu.reasons.0.is_ok()
                    && gpu.sm_mhz.0.is_ok_and(|clock| clock <= Megahertz(1_200))
            })
    });
    for gpu in 0..8 {
        until("each has all of it, its fans too", || {
            let set = (world.truth(gpu, "limit_mw"), world.truth(gpu, "core_offset_mhz"), world.truth(gpu, "manual"));
            (set == (200_000, -60, 1)).then_some(())
        });
    }
    ends(world, 8);
}
