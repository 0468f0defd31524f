//! `rigd-measure`: the agent's figures on this machine, beside a bare publisher's in the same run.
//!
//! Reading order: `lab` (broker, simulated rig, listener: what all runs share), `subject` (what is measured), `kernel` (what
//! the kernel has counted for a process), then here: which run follows which; `report` and `table` print. Around them:
//! `broker`, `listener`, `process`, `hwmon` (files in the place of a kernel driver's), `namespace`.

mod broker;
mod buses;
mod hwmon;
mod kernel;
mod lab;
mod link;
mod listener;
mod namespace;
mod payloads;
mod process;
mod report;
mod scratch;
mod statistic;
mod subject;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use lab::Lab;
use report::Report;
use subject::Subject;

const HELP: &str = "\
rigd-measure: size, memory, CPU, wake-ups, start time and message size of rigd, beside a bare publisher in the same run

usage: rigd-measure --rigd FILE --bare FILE [--quick] [--buses | --link]
       rigd-measure --rigd FILE --payload FILE [--runsv FILE] [--quick] --payloads

  --rigd FILE   the agent, as it is shipped
  --bare FILE   bare-publisher, built the same way
  --quick       one window of 10 s each instead of two of 60 s
  --buses       instead of all that: 40 chips on 4 buses at 10 Hz beside the same bare transactions, and how late ticks are
  --link        instead of all that: a signed command to its answer, beside a bare echo, a signature and an fdatasync
  --payloads    instead of all that: SIGKILL of a payload to running again, beside the barest loop and runit; 64 payloads
  --payload FILE   bare-payload, built the same way
  --runsv FILE  runit's supervisor; without it the table has no line of it
  --help        this text

Needs mosquitto. Runs the agent twice: on a simulated rig behind sockets, and, where a mount namespace is to be had, on files
in the place of /sys/class/hwmon. Takes about 8 minutes, 1 with --quick; the figures want a quiet machine.
";

/// What to run and for how long.
pub(crate) struct Options {
    rigd: PathBuf,
    bare: PathBuf,
    /// Left out of a window at its start.
    settle: Duration,
    window: Duration,
    /// Windows for each subject.
    rounds: u32,
    /// Timed starts for each subject.
    starts: u32,
    /// The forty chips instead.
    buses: bool,
    /// A command's round trip instead.
    link: bool,
    /// What payloads cost instead.
    payloads: bool,
    /// The process that is kept running.
    payload: PathBuf,
    runsv: Option<PathBuf>,
    /// Kills of each supervisor's payloads.
    kills: usize,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "rigd-measure: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // The bare transactions' process of `--buses`.
    if let [verb, board, simulation] = std::env::args().skip(1).collect::<Vec<_>>().as_slice()
        && verb == "--replay"
    {
        return buses::replay(board.as_ref(), simulation.as_ref());
    }
    let Some(options) = parse(std::env::args().skip(1))? else {
        return Ok(io::stdout().write_all(HELP.as_bytes())?);
    };
    if options.buses {
        return Ok(io::stdout().write_all(buses::run(&options)?.as_bytes())?);
    }
    if options.link {
        return Ok(io::stdout().write_all(link::run(&options)?.as_bytes())?);
    }
    if options.payloads {
        return Ok(io::stdout().write_all(payloads::run(&options)?.as_bytes())?);
    }
    let mut lab = Lab::open(&options)?;
    let mut report = Report::new(&options, &lab)?;
    say(&format!("{} starts of each, then {} window(s) of {:?} each", options.starts, options.rounds, options.window))?;
    // In turns, so that whatever else the machine does meets all of them alike. The first start of each warms the caches.
    for start in 0..=options.starts {
        for subject in lab.subjects() {
            let first = lab.first_publish(subject)?;
            if start > 0 {
                report.started(subject, &first);
            }
        }
    }
    for _ in 0..options.rounds {
        for subject in lab.subjects() {
            say(subject.title())?;
            report.watched(subject, lab.window(&options, subject)?);
        }
    }
    for subject in lab.subjects().into_iter().filter(|subject| *subject != Subject::Bare) {
        report.json(subject, lab.json_bytes(&options, subject)?);
    }
    Ok(io::stdout().write_all(report.finish()?.as_bytes())?)
}

/// Progress, so that eight minutes are not taken for a hang.
fn say(what: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "rigd-measure: {what}")?)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let (mut rigd, mut bare, mut quick, mut buses) = (None, None, false, false);
    let (mut payloads, mut link, mut payload, mut runsv) = (false, false, None, None);
    while let Some(arg) = args.next() {
        let mut file = || args.next().map(PathBuf::from).with_context(|| format!("{arg} needs a file; see --help"));
        match arg.as_str() {
            "--rigd" => rigd = Some(file()?),
            "--bare" => bare = Some(file()?),
            "--quick" => quick = true,
            "--buses" => buses = true,
            "--link" => link = true,
            "--payloads" => payloads = true,
            "--payload" => payload = Some(file()?),
            "--runsv" => runsv = Some(file()?),
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown argument {arg}; see --help"),
        }
    }
    let (settle, window, rounds) = if quick { (2, 10, 1) } else { (5, 60, 2) };
    // Each kind of run needs one of them only.
    let needed = |file: Option<PathBuf>, here: bool, name: &str| match file {
        None if here => bail!("{name} is needed; see --help"),
        file => Ok(file.unwrap_or_default()),
    };
    Ok(Some(Options {
        rigd: rigd.context("--rigd is needed; see --help")?,
        bare: needed(bare, !payloads && !link, "--bare")?,
        payload: needed(payload, payloads, "--payload")?,
        settle: Duration::from_secs(settle),
        window: Duration::from_secs(window),
        rounds,
        starts: 21,
        buses,
        link,
        payloads,
        runsv,
        kills: if quick { 40 } else { 200 },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_taken_and_mistakes_told() {
        let args = |line: &str| parse(line.split_whitespace().map(str::to_owned));
        let taken = args("--rigd a --bare b --quick").unwrap().unwrap();
        assert_eq!((taken.rounds, taken.window), (1, Duration::from_secs(10)));
        assert!(args("--rigd a --link").unwrap().unwrap().link);
        assert!(args("--help").unwrap().is_none());
        assert!(args("--rigd a --payload b --payloads").unwrap().unwrap().payloads);
        for (line, told) in [
            ("--rigd a", "--bare is needed"),
            ("--rigd a --payloads", "--payload is needed"),
            ("--rigd", "needs a file"),
            ("--brae b", "unknown"),
        ] {
            let error = args(line).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
