//! `cargo xtask fuzz`: bytes that lead somewhere new, until something panics.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::args::{self, Args, usage};
use crate::checkout::Checkout;
use crate::need::{Need, Needs};
use crate::process;

const HELP: &str = "\
cargo xtask fuzz: looks for bytes that make the agent panic, guided by what they reach in its code

usage: cargo xtask fuzz [TARGET]... [--seconds N] [--file FILE]

  TARGET        chips, boards, meters, energy or wire; all of them in turn where none is named
  --seconds N   for each target, 60 if left out
  --file FILE   only these bytes, as a run that found something has left them; needs one TARGET

What it has learnt stays in target/fuzz/corpus and is where the next run begins. The same targets run with bytes drawn by
chance in every `cargo test` (tests/any_bytes.rs).
";

const TARGETS: [&str; 5] = ["chips", "boards", "meters", "energy", "wire"];
/// A message may be 64 KiB, but what there is to find does not need as much.
const LONGEST: &str = "-max_len=4096";

/// What libFuzzer wants to see of a program while it runs (SanitizerCoverage in the documentation of clang); options of the
/// stable compiler, so the pinned one does. In one unit: the linker drops counters of others.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

pub(crate) fn command(mut args: Args) -> Result<()> {
    let (mut targets, mut seconds, mut file) = (Vec::new(), 60, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.number("--seconds", 1..=86_400)?,
            "--file" => file = Some(PathBuf::from(args.value("--file")?)),
            "--help" | "-h" => return args::help(HELP),
            name if TARGETS.contains(&name) => targets.push(arg),
            other => return Err(args::unknown("fuzz", other)),
        }
    }
    let checkout = Checkout::here()?;
    // libFuzzer is C++.
    Needs::new(&checkout, false).meet(Need::Package { program: "g++", package: "g++" })?;
    if targets.is_empty() && file.is_none() {
        targets = TARGETS.map(str::to_owned).to_vec();
    }
    let folder = checkout.target().join("fuzz");
    let programs = build(&checkout, &folder)?;
    if let Some(file) = file {
        let [target] = targets.as_slice() else { return Err(usage("--file needs one TARGET")) };
        return process::run(checkout.command(programs.join(target)).arg(file));
    }
    targets.iter().try_for_each(|target| fuzz(&checkout, &folder, &programs.join(target), target, seconds))
}

/// Builds every target and returns the folder they are in.
fn build(checkout: &Checkout, folder: &Path) -> Result<PathBuf> {
    let version = process::output(checkout.command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    // With a target named, build scripts and macros are built without the flags.
    let fixed = ["build", "--locked", "--release", "--manifest-path", "tests/fuzz/Cargo.toml", "--target", host];
    let mut command = checkout.cargo(&fixed);
    command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    process::run(command.env("CARGO_TARGET_DIR", folder))?;
    Ok(folder.join(host).join("release"))
}

fn fuzz(checkout: &Checkout, folder: &Path, program: &Path, target: &str, seconds: u32) -> Result<()> {
    let (corpus, found) = (folder.join("corpus").join(target), folder.join("found"));
    [&corpus, &found].into_iter().try_for_each(fs::create_dir_all)?;
    println!("\n== {target}: {seconds} s, corpus in {}", corpus.display());
    let log = folder.join(format!("{target}.log"));
    let mut command = checkout.command(program);
    command.args([LONGEST, "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/{target}-", found.display()));
    command.arg(corpus).stderr(File::create(&log)?);
    let result = process::run(&mut command);
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    said.lines()
        .filter(|line| line.starts_with("stat::") || line.contains("panicked"))
        .for_each(|line| println!("{line}"));
    let (log, found) = (log.display(), found.display());
    result.with_context(|| format!("see {log}; the bytes are in {found}: cargo xtask fuzz {target} --file FILE"))
}
