//! `cargo xtask measure`: the figures of the shipped binary, taken on this machine, and the benchmarks.

use anyhow::Result;

use crate::args::{self, Args};
use crate::checkout::{Arch, Checkout, Program};
use crate::need::{Need, Needs};
use crate::process;

const HELP: &str = "\
cargo xtask measure: size, memory, CPU, wake-ups and start time of the shipped binary, and the benchmarks

usage: cargo xtask measure [arguments of rigd-measure]

Runs the static rigd for this machine against a simulated rig, then `cargo bench`. Rough figures take a quiet machine.
";

pub(crate) fn command(mut args: Args) -> Result<()> {
    let mut passed_on = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return args::help(HELP),
            _ => passed_on.push(arg),
        }
    }
    let checkout = Checkout::here()?;
    let arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };
    Needs::new(&checkout, false).meet(Need::StaticTargets)?;
    let rigd = checkout.build_static(Program::Rigd, arch)?;
    process::run(&mut checkout.cargo(&[
        "build",
        "--quiet",
        "--release",
        "--package",
        "rigd-sim",
        "--bins",
        "--features",
        "measure",
    ]))?;
    let simulators = checkout.target().join("release");
    let mut measure = checkout.command(simulators.join("rigd-measure"));
    process::run(measure.arg("--rigd").arg(rigd).arg("--rigd-sim").arg(simulators.join("rigd-sim")).args(passed_on))?;
    process::run(&mut checkout.cargo(&["bench", "--quiet", "--package", "rigd"]))
}
