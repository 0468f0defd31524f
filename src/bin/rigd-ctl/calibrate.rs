//! `rigd-ctl calibrate`: measures how fast each fan of a zone turns at which drive, where it stalls and where it starts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use rigd::calibration::FanCurve;
use rigd::config;
use rigd::local::{Calibration, Reply, Request};

use crate::agent::{Agent, unexpected};

/// A step of the measurement takes 15 s at most, and a fan's start a few of those.
const SILENCE: Duration = Duration::from_secs(120);

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Takes one to three minutes for each fan, which is heard: one after the other is slowed down until it stands, while all others of the zone have full air. It ends at once when a sensor or another fan is lost or the zone comes within 10 K of its critical temperature, and with this command (Ctrl-C). What was learnt holds from then on and after a restart."
)]
pub(crate) struct Arguments {
    /// The zone's name on the board
    zone: String,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
    socket: PathBuf,
    /// Print JSON, one step a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let request = Request::Calibrate { zone: arguments.zone.clone() };
    let mut agent = Agent::ask(&arguments.socket, &request, Some(SILENCE))?;
    let (mut count, mut learnt) = (0, 0);
    loop {
        let Reply::Calibration(calibration) = agent.reply()? else { return Err(unexpected()) };
        if arguments.json {
            crate::print(&format!("{}\n", serde_json::to_string(&calibration)?))?;
            match calibration {
                Calibration::Done => return Ok(()),
                Calibration::Stopped(why) => bail!("stopped: {why}"),
                Calibration::Begun { .. } | Calibration::Point { .. } | Calibration::Learnt { .. } => continue,
            }
        }
        match calibration {
            Calibration::Begun { fans } => {
                count = fans.len();
                crate::print(&format!("{count} fans: {}\n", fans.join(", ")))?;
            }
            Calibration::Point { fan, duty, rpm } => crate::print(&format!("{fan:<12} {duty:>9}  {:>5} rpm\n", rpm.0))?,
            Calibration::Learnt { fan, curve } => {
                learnt += 1;
                crate::print(&summary(&fan, &curve, learnt, count))?;
            }
            Calibration::Done => return crate::print("Done.\n"),
            Calibration::Stopped(why) => bail!("stopped after {learnt} of {count} fans: {why}"),
        }
    }
}

fn summary(fan: &str, curve: &FanCurve, learnt: usize, count: usize) -> String {
    let fastest = curve.points.last().map_or(0, |(_, rpm)| rpm.0);
    let slowest = curve.points.first().map_or(0, |(_, rpm)| rpm.0);
    let (start, min) = (curve.start, curve.min);
    format!("{fan}: starts at {start}, turns from {min} on, {slowest} to {fastest} rpm ({learnt} of {count})\n\n")
}
