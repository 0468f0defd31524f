//! What it costs that NVML is in a process of its own: a sample of eight GPUs through `rigd-nvml`, as the GPU thread asks for
//! it, beside the same calls of the same simulated library in this process. Both take turns in one run, with world time
//! standing, so the library answers both alike.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stdout, reason = "what it finds is for people")]

use std::path::Path;
use std::time::Duration;

use rigd::clock::now;
use rigd::gpu::helper::{DEADLINE, Helper, Launch, Program, START};
use rigd::gpu::nvml::Nvml;
use rigd::gpu::nvml::serve::Server;
use rigd::gpu::wire::{Answer, Request};

/// Rounds that count, and those before them.
const ROUNDS: usize = 5_000;
const WARM_UP: usize = 200;
const GPUS: usize = 8;

fn main() {
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("RIGD_FAKE_NVML", format!("ampere:{GPUS}"));
        std::env::set_var("RIGD_FAKE_NVML_STEP_MS", "0");
    }
    let program = Path::new(env!("CARGO_BIN_EXE_rigd-nvml"));
    let library = program.with_file_name("deps/librigd_fake_nvml.so");
    let mut bare = Server::new(Nvml::load(Some(&library)).unwrap());
    let launch = Launch {
        program: Program::Run(program.to_owned()),
        library: Some(library),
        simulation: None,
        start: START,
        deadline: DEADLINE,
    };
    let mut helper = Helper::start(&launch).map_err(|(failure, _)| failure).unwrap();
    let Answer::Inventory(Ok(devices)) = bare.answer(&Request::Inventory, now()) else { unreachable!() };
    let samples: Vec<Request> = devices.into_iter().map(|device| Request::Sample(device.unwrap().pci)).collect();
    assert_eq!(samples.len(), GPUS);
    let (mut inside, mut through) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for _ in 0..WARM_UP + ROUNDS {
        let begun = now();
        for request in &samples {
            good(&bare.answer(request, begun));
        }
        inside.push(begun.elapsed());
        let begun = now();
        helper.calls(&samples, |_, answer| good(&answer)).unwrap();
        through.push(begun.elapsed());
    }
    assert!(helper.give_up().is_none());
    let [bare, helper] = [inside, through].map(quantiles);
    let line = |what: &str, [p50, p99]: [Duration; 2]| {
        println!("{what:<44} p50 {:>5} us   p99 {:>5} us", p50.as_micros(), p99.as_micros());
    };
    line("8 GPUs sampled, simulated NVML in process", bare);
    line("8 GPUs sampled, through rigd-nvml", helper);
    line("what the process of its own costs", [0, 1].map(|i| helper[i].saturating_sub(bare[i])));
}

fn good(answer: &Answer) {
    assert!(matches!(answer, Answer::Sample(Ok(sample)) if sample.power.is_ok()));
}

fn quantiles(mut rounds: Vec<Duration>) -> [Duration; 2] {
    rounds.drain(..WARM_UP);
    rounds.sort();
    [50, 99].map(|percent| rounds[rounds.len() * percent / 100])
}
