//! What is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rigd::wire::{Encoding, Message, Telemetry, decode};

use crate::process::Running;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The agent on a simulated rig, chip by chip through its sockets.
    Sockets,
    /// The agent on files in the place of hwmon.
    Files,
    /// A publisher and nothing else.
    Bare,
}

impl Subject {
    pub(crate) const ALL: [Self; 3] = [Self::Sockets, Self::Files, Self::Bare];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Sockets => "rigd, sockets",
            Self::Files => "rigd, files",
            Self::Bare => "bare publisher",
        }
    }
}

/// How to start them.
pub(crate) struct Programs {
    pub(crate) rigd: PathBuf,
    pub(crate) bare: PathBuf,
    /// Directory of the simulated rig's sockets.
    pub(crate) simulation: PathBuf,
    /// Board file of [`Subject::Files`].
    pub(crate) board: PathBuf,
    pub(crate) port: u16,
}

impl Programs {
    /// Starts one. Its telemetry comes on `r1/{rig}/up/tele`; a bare publisher's is `bytes` long.
    pub(crate) fn start(
        &self,
        subject: Subject,
        rig: &str,
        encoding: Encoding,
        bytes: usize,
        dir: &Path,
    ) -> Result<Running> {
        let config = dir.join(format!("{rig}.toml"));
        let mut command = match subject {
            Subject::Sockets | Subject::Files => {
                fs::write(&config, self.rigd_toml(subject, rig, encoding))?;
                let mut command = Command::new(&self.rigd);
                command.arg("run").arg("--config").arg(&config);
                command
            }
            Subject::Bare => {
                let mut command = Command::new(&self.bare);
                command.args([self.port.to_string(), topic(rig), bytes.to_string()]);
                command
            }
        };
        Running::start(rig, &mut command, dir)
    }

    fn rigd_toml(&self, subject: Subject, rig: &str, encoding: Encoding) -> String {
        let board = match subject {
            Subject::Files => format!("board = {:?}", self.board),
            Subject::Sockets | Subject::Bare => {
                format!("board = \"simulated-8gpu\"\nsimulation = {:?}", self.simulation)
            }
        };
        let encoding = match encoding {
            Encoding::Postcard => "postcard",
            Encoding::Json => "json",
        };
        format!(
            "rig = \"{rig}\"\n{board}\nencoding = \"{encoding}\"\n[control]\ntick_hz = 1\n[telemetry]\nperiod_ms = 1000\n\
             [local]\nsocket = {:?}\n[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n",
            self.simulation.join("rigd.sock"),
            self.port
        )
    }
}

pub(crate) fn topic(rig: &str) -> String {
    format!("r1/{rig}/up/tele")
}

/// Whether no reading is missing in the agent's telemetry. A fan's drive may be: hwmon has none.
pub(crate) fn is_complete(payload: &[u8]) -> Result<bool> {
    let (_, message) = decode(payload).context("is the agent of another version?")?;
    let Message::Telemetry(telemetry) = message else { bail!("{:?} where telemetry belongs", message.kind()) };
    let Telemetry { rails, supplies, sensors, fans, .. } = telemetry;
    let powers = rails.into_iter().chain(supplies.into_iter().flat_map(|supply| [supply.input, supply.output]));
    let mut powers = powers.into_iter();
    Ok(powers.all(|power| power.mv.0.is_ok() && power.ma.0.is_ok() && power.mw.0.is_ok())
        && sensors.iter().all(|sensor| sensor.0.is_ok())
        && fans.iter().all(|fan| fan.rpm.0.is_ok()))
}
