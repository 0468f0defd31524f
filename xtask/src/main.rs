//! Every task of a developer and of CI: `cargo xtask <command>`. No other tool is needed to start.
//!
//! Reading order: `args`, `process`, `checkout` (what cargo builds and where it is), `held` (children that end with their
//! owner), then one file per command: `demo`, `test` (with `need` and
//! `zigbuild`), `guest`, `release` (with `elf` and `sbom`), `measure`, `fuzz`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks on its standard output")]

mod args;
mod checkout;
mod demo;
mod elf;
mod fuzz;
mod guest;
mod held;
mod measure;
mod need;
mod process;
mod real;
mod release;
mod sbom;
mod scratch;
mod test;
mod zigbuild;

use std::process::ExitCode;

use anyhow::Result;

use args::{Args, Usage, usage};

const HELP: &str = "\
cargo xtask: every task of a developer and of CI

usage: cargo xtask <command> [options]; `cargo xtask <command> --help` tells more

  demo      simulated rigs, the real agent, a broker and a live view, in one command and without root
  test      everything CI runs, in the order CI runs it
  guest     boot a real kernel in QEMU and let the shipped binary read its chips
  release   shipped binaries, boards, unit files, checksums and bills of materials, byte for byte repeatable
  measure   size, memory, CPU, wake-ups and start time, and the benchmarks
  fuzz      looks for bytes that make the agent panic

First time here? `cargo xtask demo`. Before a commit: `cargo xtask test --skip guest`.
";

fn main() -> ExitCode {
    match run(Args::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn run(mut args: Args) -> Result<()> {
    match args.next().as_deref() {
        Some("demo") => demo::command(args),
        Some("test") => test::command(args),
        Some("guest") => guest::command(args),
        Some("release") => release::command(args),
        Some("measure") => measure::command(args),
        Some("fuzz") => fuzz::command(args),
        Some(held::TIED) => held::become_tied(args),
        Some("help" | "--help" | "-h") => args::help(HELP),
        Some(other) => Err(usage(format!("unknown command {other}; see cargo xtask --help"))),
        None => {
            print!("{HELP}");
            Err(usage("which command?"))
        }
    }
}
