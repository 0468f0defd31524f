//! `/etc/rigd/rigd.toml`. Every default is here; only `board` has none.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::board::Board;
use crate::bus::Host;
use crate::command::trust::FleetConfig;
use crate::gpu::config::GpuConfig;
use crate::mqtt::outbox::config::OutboxConfig;
use crate::payload::config::PayloadConfig;
use crate::source::{Problems, Source, Table};
use crate::units::Duty;
use crate::wire::{Encoding, RigId};

pub mod broker;
pub mod plan;
pub mod power;

pub use broker::Broker;
pub use plan::PlanConfig;
pub use power::PowerConfig;

/// Where it is looked for.
pub const PATH: &str = "/etc/rigd/rigd.toml";
/// The state directory where none is given; systemd makes it.
pub const STATE: &str = "/var/lib/rigd";
/// Where the agent listens on the rig itself; systemd makes the folder.
pub const SOCKET: &str = "/run/rigd/rigd.sock";

/// The agent's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the rig; the host's where none is given.
    pub rig: RigId,
    /// The board and where it is.
    pub place: Place,
    /// How messages are written.
    pub encoding: Encoding,
    /// Time between control ticks, 10 ms to 1 s.
    pub tick: Duration,
    /// Time between telemetry messages, 10 ms to 1 h; no shorter than a tick in effect.
    pub period: Duration,
    /// The broker.
    pub broker: Broker,
    /// Directory for what must survive a restart.
    pub state: PathBuf,
    /// Hours in which people sleep nearby.
    pub quiet: Option<Quiet>,
    /// How messages wait for the broker.
    pub outbox: OutboxConfig,
    /// Where it listens for the operator's tool.
    pub socket: PathBuf,
    /// Profiles, and which GPU gets which.
    pub gpus: GpuConfig,
    /// Where payloads come from.
    pub payloads: PayloadConfig,
    /// How much it may draw.
    pub power: PowerConfig,
    /// Whose commands count, and which groups of rigs this one is in.
    pub fleet: FleetConfig,
    /// Whether and how it decides which payload has which GPU.
    pub plan: PlanConfig,
}

/// Hours of the local day in which fans are held down as long as nothing gets hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// First minute of the day.
    from: u16,
    /// First minute after it; before `from` where it lasts over midnight.
    to: u16,
    /// Highest drive.
    max: Duty,
}

impl Quiet {
    /// The highest drive at this minute of the local day, where it is one of the quiet ones.
    #[must_use]
    pub fn at(&self, minute: u16) -> Option<Duty> {
        let quiet = if self.from <= self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        };
        quiet.then_some(self.max)
    }

    fn read(table: &Table<'_>) -> Option<Self> {
        table.only(&["hours", "max_pct"]);
        let Some(hours) = table.text("hours") else {
            if table.number::<u8>("max_pct").is_some() {
                table.complain("hours", "is missing: without hours nothing is quiet");
            }
            return None;
        };
        let max_pct = table.number("max_pct").unwrap_or(50);
        if !(10..=100).contains(&max_pct) {
            table.complain("max_pct", "must be 10 to 100");
        }
        let Some((from, to)) = minutes(&hours) else {
            table.complain("hours", format!("must be like 22:00-07:00, not `{hours}`"));
            return None;
        };
        if from == to {
            table.complain("hours", "begin and end at the same time");
        }
        Some(Self { from, to, max: Duty::from_percent(max_pct)? })
    }
}

/// Minutes of the day of `22:00-07:00`.
pub(crate) fn minutes(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    Some((minute(from)?, minute(to)?))
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let (name, text) = read(path)?;
        Self::parse(&name, &text, rustix::system::uname().nodename().to_str().unwrap_or_default())
    }

    /// Parses the text of a configuration; `hostname` is the rig's name where the text gives none.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn parse(file: &str, text: &str, hostname: &str) -> Result<Self, Problems> {
        let source = Source::parse(file, text)?;
        let root = source.root();
        root.only(&[
            "rig",
            "board",
            "simulation",
            "encoding",
            "control",
            "telemetry",
            "broker",
            "outbox",
            "quiet",
            "state",
            "local",
            "gpu",
            "profile",
            "payload",
            "key",
            "fleet",
            "plan",
            "power",
        ]);
        let control = root.table("control");
        control.only(&["tick_hz"]);
        let tick_hz = control.ranged("tick_hz", 1, 100).unwrap_or(1);
        let telemetry = root.table("telemetry");
        telemetry.only(&["period_ms"]);
        let period_ms: u32 = telemetry.ranged("period_ms", 10, 3_600_000).unwrap_or(5_000);
        let outbox = OutboxConfig::read(&root);
        let encoding = match root.text("encoding").as_deref() {
            None | Some("postcard") => Encoding::Postcard,
            Some("json") => Encoding::Json,
            Some(other) => {
                root.complain("encoding", format!("must be `postcard` or `json`, not `{other}`"));
                Encoding::Postcard
            }
        };
        let name = root.text("rig").unwrap_or_else(|| hostname.to_owned());
        let rig = RigId::try_from(name).map_err(|error| root.complain("rig", error.to_string()));
        let board = root.needed_text("board");
        let broker = Broker::read(&root.table("broker"));
        let simulation = root.text("simulation").map(PathBuf::from);
        let state = root.text("state").unwrap_or_else(|| STATE.to_owned());
        let quiet = Quiet::read(&root.table("quiet"));
        let local = root.table("local");
        local.only(&["socket"]);
        let socket = PathBuf::from(local.text("socket").unwrap_or_else(|| SOCKET.to_owned()));
        if !socket.is_absolute() {
            local.complain("socket", "must be a path from the root: /…");
        }
        let gpus = GpuConfig::read(&root);
        let payloads = PayloadConfig::read(&root);
        let fleet = FleetConfig::read(&root);
        let plan = PlanConfig::read(&root.table("plan"));
        let power = PowerConfig::read(&root);
        source.finish()?;
        let Ok(rig) = rig else {
            // Never reached: what is missing here has complained, and `finish` has returned.
            return Err(Problems(Vec::new()));
        };
        Ok(Self {
            rig,
            place: Place { board, simulation },
            encoding,
            tick: Duration::from_secs(1) / tick_hz,
            period: Duration::from_millis(period_ms.into()),
            broker,
            state: state.into(),
            quiet,
            outbox,
            socket,
            gpus,
            payloads,
            power,
            fleet,
            plan,
        })
    }
}

/// What it takes to reach the fans: all that `rigd leave-safe` reads, so that a mistake about the broker keeps no rig from
/// full air.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of a built-in board, or the path of a board file.
    pub board: String,
    /// Directory of the simulated rig's sockets.
    pub simulation: Option<PathBuf>,
}

impl Place {
    /// Reads these keys of the file and no other.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, or names no board.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let (name, text) = read(path)?;
        let source = Source::parse(&name, &text)?;
        let root = source.root();
        let place = Self { board: root.needed_text("board"), simulation: root.text("simulation").map(PathBuf::from) };
        source.finish()?;
        Ok(place)
    }

    /// Where it finds the board's buses; `path` is for messages only.
    ///
    /// # Errors
    /// Where the board is a simulated one and no directory is given for it.
    pub fn host(&self, path: &Path, board: &Board) -> Result<Host, Problems> {
        if board.simulated() && self.simulation.is_none() {
            let text = format!(
                "the board `{}` is a simulated rig: `simulation` must name the directory of its sockets",
                board.name
            );
            return Err(Problems::one(&path.display().to_string(), text));
        }
        Ok(Host { simulation: self.simulation.clone(), ..Host::default() })
    }
}

/// The file's name for messages, and its text.
fn read(path: &Path) -> Result<(String, String), Problems> {
    let name = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Problems::one(&name, format!("could not read the configuration: {error}"))),
    }
}

#[cfg(test)]
mod example;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse("rigd.toml", text, "host-1").map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_board_is_all_that_is_needed() {
        let config = parse("board = \"simulated-8gpu\"").unwrap();
        assert_eq!(
            (config.rig.as_str(), config.tick, config.period),
            ("host-1", Duration::from_secs(1), Duration::from_secs(5))
        );
        assert_eq!(
            config.broker.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["mqtt://127.0.0.1:1883"]
        );
        assert_eq!(config.socket, Path::new("/run/rigd/rigd.sock"));
    }

    #[test]
    fn every_mistake_names_file_line_and_key() {
        for (text, expected) in [
            ("", "rigd.toml: board: is missing"),
            ("board = \"a\"\nborad = 1", "rigd.toml:2: borad: unknown key; known here are rig, board"),
            ("board = 7", "rigd.toml:1: board: must be a string, not a whole number"),
            ("board = \"a\"\n[control]\ntick_hz = 0", "rigd.toml:3: control.tick_hz: must be 1 to 100, not 0"),
            (
                "board = \"a\"\n[telemetry]\nperiod_ms = 9",
                "rigd.toml:3: telemetry.period_ms: must be 10 to 3600000, not 9",
            ),
            ("board = \"a\"\nrig = \"Rig 1\"", "rigd.toml:2: rig: `Rig 1` cannot be a rig's name"),
            (
                "board = \"a\"\n[broker]\nurl = \"ws://x\"",
                "rigd.toml:3: broker.url: must be mqtts://HOST[:PORT] or mqtt://HOST[:PORT]; `ws` is not",
            ),
            (
                "board = \"a\"\n[broker]\npassword_file = \"x\"",
                "rigd.toml:3: broker.password_file: needs a username too",
            ),
            (
                "board = \"a\"\n[quiet]\nhours = \"22-7\"",
                "rigd.toml:3: quiet.hours: must be like 22:00-07:00, not `22-7`",
            ),
            (
                "board = \"a\"\n[quiet]\nhours = \"1:00-2:00\"\nmax_pct = 5",
                "rigd.toml:4: quiet.max_pct: must be 10 to 100",
            ),
            (
                "board = \"a\"\n[local]\nsocket = \"rigd.sock\"",
                "rigd.toml:3: local.socket: must be a path from the root",
            ),
            ("board = ", "rigd.toml:1: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn quiet_hours_may_last_over_midnight() {
        for (hours, minute, quiet) in [
            ("22:00-07:00", 21 * 60 + 59, false),
            ("22:00-07:00", 22 * 60, true),
            ("22:00-07:00", 0, true),
            ("22:00-07:00", 7 * 60, false),
            ("13:00-15:30", 15 * 60 + 29, true),
            ("13:00-15:30", 12 * 60, false),
        ] {
            let config = parse(&format!("board = \"a\"\n[quiet]\nhours = \"{hours}\"\nmax_pct = 40")).unwrap();
            let cap = config.quiet.and_then(|config| config.at(minute));
            assert_eq!(cap, quiet.then(|| Duty::from_percent(40).unwrap()), "{hours} at minute {minute}");
        }
        assert_eq!(parse("board = \"a\"").unwrap().quiet, None);
    }

    #[test]
    fn several_mistakes_are_told_at_once() {
        let error = parse("board = \"a\"\n[control]\ntick_hz = 500\n[outbox]\nmax_kib = 1").unwrap_err();
        assert_eq!(error.lines().count(), 2, "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_or_cannot_be_read_is_named() {
        let error = Config::load(Path::new("/nonexistent/rigd.toml")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/rigd.toml: could not read the configuration: No such file"), "{error}");
        let error = Config::load(Path::new("/")).unwrap_err().to_string();
        assert!(error.starts_with("/: could not read the configuration: Is a directory"), "{error}");
    }
}
