//! `rigd-sim`: a simulated rig as a process of its own.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rigd::board::Board;
use rigd_sim::world::card::Profile;
use rigd_sim::{Options, Sim};

const HELP: &str = "\
rigd-sim: a simulated rig behind Unix sockets

usage: rigd-sim --dir DIR [--board NAME|FILE] [--gpus LIST] [--seed N] [--speed F] [--lifeline]

  --dir DIR          where the sockets go: one for each bus of the board with `socket = \"...\"`, DIR/nvml for the cards'
                     driver, and DIR/control; DIR/pci, DIR/kmsg and DIR/proc-driver-nvidia-version are what a kernel would show
  --board NAME|FILE  what the rig consists of (default simulated-8gpu)
  --gpus LIST        what its first cards are, as in ampere:4,blackwell:4 (default ampere); also pascal, turing, ada, datacenter
  --seed N           what chance there is in it (default 1); the same seed is the same rig
  --speed F          simulated seconds per second, 0 to 1000 (default 1); chip watchdogs run on simulated time
  --lifeline         stop when standard input ends
  --help             this text

Prints `simulated rig ready: DIR` once all sockets listen. An agent uses it with `simulation = \"DIR\"` in rigd.toml;
what loads librigd_fake_nvml.so (cargo build --package rigd-fake-nvml) with RIGD_SIMULATION=DIR has its cards.
DIR/control takes one command a line and answers with lines, then `ok`, or with `error: ...`:

  rigd-sim --dir /tmp/rig1 &
  echo 'fault air nack 0x48'   | socat - UNIX-CONNECT:/tmp/rig1/control
  echo 'set gpu all load 1.0'  | socat - UNIX-CONNECT:/tmp/rig1/control
  echo 'help'                  | socat - UNIX-CONNECT:/tmp/rig1/control
";

struct Arguments {
    dir: PathBuf,
    board: String,
    options: Options,
    lifeline: bool,
}

fn main() -> ExitCode {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return finish(io::stdout().write_all(HELP.as_bytes()).context("print the help"), 1),
        Err(error) => return finish(Err(error), 2),
    };
    finish(run(&arguments), 1)
}

fn finish(end: Result<()>, code: u8) -> ExitCode {
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let board = Board::load(&arguments.board)?;
    let sim = Sim::start(&board, &arguments.dir, arguments.options.clone())?;
    writeln!(io::stdout(), "simulated rig ready: {}", arguments.dir.display())?;
    if arguments.lifeline {
        // Only the end matters; what comes before it is read away, a piece at a time.
        let mut ignored = [0; 256];
        while io::stdin().read(&mut ignored)? > 0 {}
        drop(sim);
        return Ok(());
    }
    loop {
        thread::park();
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
    let (mut dir, mut board) = (None, "simulated-8gpu".to_owned());
    let (mut options, mut lifeline) = (Options::default(), false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value; see --help"));
        match arg.as_str() {
            "--dir" => dir = Some(PathBuf::from(value()?)),
            "--board" => board = value()?,
            "--gpus" => options.gpus = Profile::list(&value()?).map_err(anyhow::Error::msg)?,
            "--seed" => options.seed = value()?.parse().context("--seed needs a whole number")?,
            "--speed" => options.speed = value()?.parse().context("--speed needs a number")?,
            "--lifeline" => lifeline = true,
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown argument {arg}; see --help"),
        }
    }
    ensure!((0.0..=1000.0).contains(&options.speed), "--speed {} is outside 0 to 1000", options.speed);
    let dir = dir.context("--dir is needed, as in `rigd-sim --dir /tmp/rig1`; see --help")?;
    Ok(Some(Arguments { dir, board, options, lifeline }))
}

/// Log lines on standard error.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // Whoever closed our standard error does not want to hear of it.
        writeln!(io::stderr(), "rigd-sim: {}: {}", record.level().as_str().to_lowercase(), record.args()).ok();
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Option<Arguments>> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_taken_and_mistakes_told() {
        let taken = args("--dir /tmp/x --board b.toml --gpus ada:2 --seed 7 --speed 60 --lifeline").ok().flatten();
        assert!(taken.is_some_and(|taken| {
            let Arguments { dir, board, options, lifeline } = taken;
            *dir == *"/tmp/x"
                && board == "b.toml"
                && options.seed == 7
                && options.gpus.len() == 2
                && options.speed == 60.0
                && lifeline
        }));
        assert!(args("--help").is_ok_and(|taken| taken.is_none()));
        for (line, told) in [
            ("", "--dir is needed"),
            ("--dir", "--dir needs a value"),
            ("--dir x --seed many", "whole number"),
            ("--dir x --gpus voodoo", "there are ampere"),
            ("--dir x --speed NaN", "outside 0 to 1000"),
            ("--dri x", "unknown argument --dri"),
        ] {
            let error = args(line).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
