//! `cargo xtask test`: everything CI runs, step by step, with a table of what happened at the end.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::args::{self, Args, usage};
use crate::checkout::{Arch, Checkout, OLDEST_GLIBC, Program};
use crate::elf::{Elf, Imports};
use crate::guest::{self, Ring};
use crate::need::{Need, Needs, honesty_folder};
use crate::scratch::Scratch;
use crate::{process, real};

/// A step passes, or its error says why not.
struct Step {
    name: &'static str,
    about: &'static str,
    needs: &'static [Need],
    run: fn(&Checkout) -> Result<()>,
}

/// The cheap ones first: what fails, fails soon.
const STEPS: [Step; 10] = [
    Step { name: "fmt", about: "rustfmt changes nothing", needs: &[Need::Component("rustfmt")], run: fmt },
    Step { name: "clippy", about: "no warning, with every feature", needs: &[Need::Component("clippy")], run: clippy },
    Step {
        name: "tests",
        about: "unit tests, and the agent against simulated chips and a real mosquitto",
        needs: &[
            Need::Package { program: "mosquitto", package: "mosquitto" },
            Need::Package { program: "mosquitto_sub", package: "mosquitto-clients" },
        ],
        run: tests,
    },
    Step {
        name: "honesty",
        about: "the simulated NVML has the structs of NVIDIA's header and satisfies NVIDIA's own client",
        needs: &[Need::NvidiaClients],
        run: honesty,
    },
    Step { name: "docs", about: "the documentation builds without a warning", needs: &[], run: docs },
    Step {
        name: "deny",
        about: "licences, sources and bans of dependencies (cargo-deny)",
        needs: &[Need::Crate { program: "cargo-deny", version: "0.20.2" }],
        run: deny,
    },
    Step {
        name: "units",
        about: "systemd accepts the service and finds it as closed as it was",
        needs: &[Need::Package { program: "systemd-analyze", package: "systemd" }],
        run: units,
    },
    Step { name: "demo", about: "two simulated rigs publish, and nothing is left behind", needs: &[], run: demo },
    Step {
        name: "size",
        about: "the shipped binaries run on every rig and are small enough",
        needs: &[Need::StaticTargets, Need::GlibcTargets],
        run: size,
    },
    Step {
        name: "guest",
        about: "the shipped binaries and the kernel's own drivers agree on chips, x86_64 and aarch64",
        needs: &[Need::StaticTargets, Need::Guest],
        run: guest,
    },
];

/// What CI leaves out: each needs a machine that may be given much for it, and is asked for by name.
const ASKED: [Step; 2] = [
    Step {
        name: "real-ai",
        about: "llama.cpp's real server, started, measured, killed and drained by the example manifest",
        needs: &[MOSQUITTO, Need::LlamaCpp],
        run: real::ai,
    },
    Step {
        name: "podman",
        about: "a container, started, probed, killed and stopped by the real podman",
        needs: &[
            MOSQUITTO,
            Need::Package { program: "podman", package: "podman" },
            Need::Package { program: "crun", package: "crun" },
            // For machines that have cgroup v1 beside v2.
            Need::Package { program: "runc", package: "runc" },
            Need::Package { program: "catatonit", package: "catatonit" },
            Need::Package { program: "busybox", package: "busybox-static" },
        ],
        run: real::podman,
    },
];
const MOSQUITTO: Need = Need::Package { program: "mosquitto", package: "mosquitto" };

const HELP: &str = "\
cargo xtask test: everything CI runs, in the order CI runs it

usage: cargo xtask test [--skip STEP]... [--only STEP]... [--real-ai] [--podman] [--list]

  --skip STEP   leave a step out; may be repeated
  --only STEP   run no step but this; may be repeated
  --real-ai     llama.cpp's real server too, which CI leaves out; alone: --only real-ai
  --podman      a real container too, which CI leaves out; alone: --only podman
  --list        the steps, and what each is for

Installs what a step needs and this machine lacks, and says so: parts of the Rust toolchain by rustup, zig by pip, packages by apt where
it runs as root. A step whose needs cannot be met is skipped aloud; where CI=true, that is a failure.
";

/// `systemd-analyze security`, in tenths: 0 is closed, 100 is wide open. 4 of it are for asking whether the clock is right.
const MOST_EXPOSURE: &str = "21";
/// Bytes of rigd for x86_64.
const LARGEST_RIGD: u64 = 3_370_000;
/// Per cent that aarch64 may be above that of x86_64.
const AARCH64_MARGIN: u64 = 10;

#[derive(Clone, Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

pub(crate) fn command(mut args: Args) -> Result<()> {
    let (mut skip, mut only, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--skip" => skip.push(step_name(&args.value("--skip")?)?),
            "--only" => only.push(step_name(&args.value("--only")?)?),
            "--real-ai" | "--podman" => asked.push(step_name(arg.trim_start_matches('-'))?),
            "--list" => {
                STEPS.iter().chain(&ASKED).for_each(|step| println!("{:8}{}", step.name, step.about));
                return Ok(());
            }
            "--help" | "-h" => return args::help(HELP),
            other => return Err(args::unknown("test", other)),
        }
    }
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let checkout = Checkout::here()?;
    let needs = Needs::new(&checkout, ci);
    let mut report = Vec::new();
    let extra = ASKED.iter().filter(|step| asked.contains(&step.name) || only.contains(&step.name));
    for step in STEPS.iter().chain(extra) {
        let chosen = only.is_empty() || only.contains(&step.name) || asked.contains(&step.name);
        let asked_for = !skip.contains(&step.name) && chosen;
        let began = Instant::now();
        let outcome = if asked_for {
            println!("\n== {}: {}", step.name, step.about);
            attempt(step, &needs, &checkout, ci)
        } else {
            Outcome::Skipped("not asked for".to_owned())
        };
        match &outcome {
            Outcome::Passed => println!("== {}: passed in {}", step.name, seconds(began.elapsed())),
            Outcome::Failed(why) => println!("== {}: FAILED: {why}", step.name),
            Outcome::Skipped(why) if asked_for => println!("== {}: SKIPPED: {why}", step.name),
            Outcome::Skipped(_) => {}
        }
        report.push((step.name, outcome, began.elapsed()));
    }
    summary(&report)
}

fn step_name(name: &str) -> Result<&'static str> {
    let step = STEPS.iter().chain(&ASKED).find(|step| step.name == name);
    step.map(|step| step.name).ok_or_else(|| usage(format!("no step {name}; see cargo xtask test --list")))
}

fn attempt(step: &Step, needs: &Needs, checkout: &Checkout, ci: bool) -> Outcome {
    if let Err(error) = step.needs.iter().try_for_each(|need| needs.meet(*need)) {
        return if ci { Outcome::Failed(format!("{error:#}")) } else { Outcome::Skipped(format!("{error:#}")) };
    }
    match (step.run)(checkout) {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn summary(report: &[(&str, Outcome, Duration)]) -> Result<()> {
    println!();
    for (name, outcome, took) in report {
        match outcome {
            Outcome::Passed => println!("{name:8}ok       {:>8}", seconds(*took)),
            Outcome::Failed(why) => println!("{name:8}FAILED   {:>8}  {why}", seconds(*took)),
            Outcome::Skipped(why) => println!("{name:8}skipped            {why}"),
        }
    }
    let count = |of: fn(&Outcome) -> bool| report.iter().filter(|(_, outcome, _)| of(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    println!("\nsteps: {} passed, {failed} failed, {skipped} skipped", report.len() - failed - skipped);
    ensure!(failed == 0, "not everything passed");
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn fmt(checkout: &Checkout) -> Result<()> {
    process::run(&mut checkout.cargo(&["fmt", "--all", "--check"]))
}

fn clippy(checkout: &Checkout) -> Result<()> {
    let fixed =
        ["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"];
    process::run(&mut checkout.cargo(&fixed))
}

fn tests(checkout: &Checkout) -> Result<()> {
    let fixed = ["test", "--locked", "--no-fail-fast", "--workspace", "--all-features"];
    // Most of them wait, for ticks and for probes: half as many again as there are processors.
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    process::run(checkout.cargo(&fixed).env("RUST_TEST_THREADS", (processors + processors.div_ceil(2)).to_string()))
}

fn honesty(checkout: &Checkout) -> Result<()> {
    let fixed = ["test", "--locked", "--package", "rigd-fake-nvml", "--test", "wrapper", "honesty", "--", "--ignored"];
    process::run(checkout.cargo(&fixed).env("RIGD_HONESTY", honesty_folder(checkout)))
}

fn docs(checkout: &Checkout) -> Result<()> {
    let fixed = ["doc", "--quiet", "--locked", "--no-deps", "--workspace", "--all-features"];
    process::run(checkout.cargo(&fixed).env("RUSTDOCFLAGS", "--deny warnings"))
}

fn deny(checkout: &Checkout) -> Result<()> {
    // Not `advisories`: its database is fetched from the network.
    let fixed = ["deny", "--locked", "--all-features", "--log-level", "error", "check", "bans", "licenses", "sources"];
    process::run(&mut checkout.cargo(&fixed))
}

fn units(checkout: &Checkout) -> Result<()> {
    let scratch = Scratch::new("units")?;
    let names = ["rigd.service", "rigd-payloads.service", "rigd-nvml.socket", "rigd-nvml@.service"];
    for name in names {
        let text = fs::read_to_string(checkout.root().join("systemd").join(name))?;
        // They are not installed where this runs, and verify wants to see the programs.
        let text = text.replace("/usr/bin/rigd", "/bin/true").replace("/usr/libexec/rigd-nvml", "/bin/true");
        fs::write(scratch.path().join(name), text)?;
    }
    let unit = scratch.path().join("rigd.service");
    let verify = || -> Result<()> {
        let units = names.map(|name| scratch.path().join(name));
        let said = Command::new("systemd-analyze").arg("verify").args(units).output()?;
        let text = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success() && !text.contains("rigd"), "systemd-analyze verify: {text}");
        Ok(())
    };
    verify()?;
    let threshold = format!("--threshold={MOST_EXPOSURE}");
    process::run(
        Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", &threshold])
            .arg(&unit)
            .stdout(Stdio::null()),
    )
    .context("the service is more open than it was; see systemd-analyze security")?;
    let drop_in = scratch.path().join("rigd.service.d");
    fs::create_dir(&drop_in)?;
    for name in ["payloads.conf", "podman.conf", "kernel-log.conf"] {
        fs::copy(checkout.root().join("systemd").join(name), drop_in.join(name))?;
    }
    verify()
}

fn demo(checkout: &Checkout) -> Result<()> {
    let programs = checkout.build_programs(true)?;
    // As a user runs it, in a process of its own; rigd-ctl watch prints plain lines where there is no terminal.
    let mut command = Command::new("/proc/self/exe");
    command.args(["demo", "--rigs", "2", "--seconds", "20", "--programs"]).arg(programs).stdout(Stdio::piped());
    let demo = command.spawn()?;
    let scratch = std::env::temp_dir().join(format!("rigd-demo-{}", demo.id()));
    let output = demo.wait_with_output()?;
    let lines = String::from_utf8(output.stdout)?;
    print!("{lines}");
    ensure!(output.status.success(), "demo: {}", output.status);
    for rig in ["rig-0001", "rig-0002"] {
        let count = lines.lines().filter(|line| line.contains(rig) && line.contains("telemetry")).count();
        ensure!(count >= 3, "demo: {count} lines of telemetry from {rig}, at least 3 expected");
        let gpus = lines.lines().any(|line| line.contains(rig) && line.contains("gpus=8/8"));
        ensure!(gpus, "demo: no line of {rig} tells that all its GPUs answer");
    }
    ensure!(!scratch.exists(), "demo: {} is left behind", scratch.display());
    Ok(())
}

fn size(checkout: &Checkout) -> Result<()> {
    for program in Program::ALL {
        let mut limit = LARGEST_RIGD;
        for (arch, path) in checkout.build_shipped(program, &Arch::ALL)? {
            let (bytes, linked) = check_shipped(program, arch, &path)?;
            println!("{:10}{:8}{bytes:>10} bytes, {linked}", program.name(), arch.name());
            if program == Program::Rigd {
                ensure!(bytes <= limit, "rigd for {} has {bytes} bytes, {limit} are allowed", arch.name());
                limit = bytes + bytes * AARCH64_MARGIN / 100;
            }
        }
    }
    Ok(())
}

/// Size of a binary that was checked to be what a rig can run, and what it needs of the rig.
pub(crate) fn check_shipped(program: Program, arch: Arch, path: &Path) -> Result<(u64, String)> {
    let file = fs::read(path).with_context(|| path.display().to_string())?;
    let elf = Elf::parse(&file).with_context(|| path.display().to_string())?;
    ensure!(elf == Elf { arch, is_static: program.is_static() }, "{}: {elf:?}", path.display());
    let linked = if program.is_static() {
        "static".to_owned()
    } else {
        let [major, minor] = Imports::parse(&file)
            .and_then(|imports| imports.oldest_glibc())
            .with_context(|| path.display().to_string())?;
        ensure!([major, minor] <= OLDEST_GLIBC, "{} needs glibc {major}.{minor}", path.display());
        format!("glibc {major}.{minor}")
    };
    Ok((u64::try_from(file.len())?, linked))
}

fn guest(checkout: &Checkout) -> Result<()> {
    guest::run(checkout, Ring::All)
}
