//! `cargo xtask measure`: the figures of the shipped binary, taken on this machine, and the benchmarks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::args::{self, Args};
use crate::checkout::{Arch, Checkout, Program};
use crate::need::{Need, Needs};
use crate::process;

const HELP: &str = "\
cargo xtask measure: size, memory, CPU, wake-ups, start time and message size of the shipped binary, and the benchmarks

usage: cargo xtask measure [--quick] [--buses | --link | --payloads]

  --quick   one window of 10 s instead of two of 60 s
  --buses   instead: 40 chips on 4 simulated buses at 10 Hz, beside the same bare transactions; how late ticks are
  --link    instead: a signed command to its answer over mosquitto, beside a bare echo, one signature and one fdatasync. 3 minutes
  --payloads  instead: from SIGKILL of a payload to running again, beside the barest loop that does it and beside runit, and
            what 64 payloads cost the agent. 4 minutes

Runs the static rigd for this machine in turns with a bare MQTT publisher, then `cargo bench` for what a tick computes and
what it costs that NVML is in a process of its own.
About 10 minutes after the builds, 2 with --quick. The figures want a quiet machine.
";

pub(crate) fn command(mut args: Args) -> Result<()> {
    let mut passed_on = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" | "--buses" | "--link" | "--payloads" => passed_on.push(arg),
            "--help" | "-h" => return args::help(HELP),
            other => return Err(args::unknown("measure", other)),
        }
    }
    let checkout = Checkout::here()?;
    let arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };
    let needs = Needs::new(&checkout, false);
    needs.meet(Need::Package { program: "mosquitto", package: "mosquitto" })?;
    needs.meet(Need::StaticTargets)?;
    let built = checkout.build_shipped(Program::Rigd, &[arch])?;
    let (_, rigd) = built.first().context("one was asked for")?;
    if passed_on.iter().any(|arg| arg == "--payloads") {
        return payloads(&checkout, &needs, arch, rigd, &passed_on);
    }
    if passed_on.iter().any(|arg| arg == "--link") {
        let rigd_measure = build(&checkout, "rigd-measure", None)?;
        return process::run(checkout.command(rigd_measure).arg("--rigd").arg(rigd).args(passed_on));
    }
    let bare = build(&checkout, "bare-publisher", Some(arch))?;
    let rigd_measure = build(&checkout, "rigd-measure", None)?;
    let buses = passed_on.iter().any(|arg| arg == "--buses");
    process::run(checkout.command(rigd_measure).arg("--rigd").arg(rigd).arg("--bare").arg(bare).args(passed_on))?;
    if buses {
        return Ok(());
    }
    // Every benchmark, and nothing else: cargo would start the unit tests too.
    process::run(&mut checkout.cargo(&["bench", "--quiet", "--package", "rigd", "--bench", "*", "--", "--quiet"]))
}

fn payloads(checkout: &Checkout, needs: &Needs<'_>, arch: Arch, rigd: &Path, passed_on: &[String]) -> Result<()> {
    let payload = build(checkout, "bare-payload", Some(arch))?;
    let mut command = checkout.command(build(checkout, "rigd-measure", None)?);
    command.arg("--rigd").arg(rigd).arg("--payload").arg(payload).args(passed_on);
    match needs.meet(Need::Package { program: "runsv", package: "runit" }) {
        Ok(()) => drop(command.arg("--runsv").arg("runsv")),
        Err(error) => println!("measure: without runit beside it: {error:#}"),
    }
    process::run(&mut command)
}

/// Builds a program of the simulation, static where an architecture is named. With the release profile, as rigd is.
fn build(checkout: &Checkout, program: &str, arch: Option<Arch>) -> Result<PathBuf> {
    let fixed = ["build", "--locked", "--release", "--package", "rigd-sim", "--features", "measure", "--bin", program];
    let mut command = checkout.cargo(&fixed);
    let mut folder = checkout.target().to_owned();
    if let Some(arch) = arch {
        command.args(["--target", arch.triple()]);
        folder.push(arch.triple());
    }
    process::run(&mut command)?;
    Ok(folder.join("release").join(program))
}
