//! What a payload is: one TOML file in `/etc/rigd/payloads.d/`, named after it. `examples/payloads/` has one of each sort.
//!
//! Only `argv` or `[container]` is needed; all else has a default that suits a program that runs until it is told to stop.
//! A secret never stands in a manifest: `[secret]` names the file that holds it.

mod container;
mod read;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lifecycle::{Expectation, Restart};
use super::sandbox::LayerSet;
use crate::plan::Yield;
use crate::sorted;
use crate::source::Problems;
use crate::units::{MicroPerTera, Milliwatts};

/// Where the manifests are.
pub const DIRECTORY: &str = "/etc/rigd/payloads.d";
/// A manifest of 64 KiB is a mistake.
const LARGEST: u64 = 64 * 1024;
/// Manifests on a rig; more are refused aloud.
pub const MOST: usize = 64;

/// One payload, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The file's name without `.toml`: 1 to 32 of `a-z`, `0-9` and `-`, a letter or digit first.
    pub name: String,
    /// The file, as it was named to whoever read it.
    pub file: String,
    /// What it earns with.
    pub kind: Kind,
    /// Started when the agent sees it for the first time; afterwards what was last ordered counts, also over a boot of the rig.
    pub autostart: bool,
    /// The program, a path from the root, and its arguments. Empty where there is a container.
    pub argv: Vec<String>,
    /// A container in place of a program of the rig.
    pub container: Option<Container>,
    /// Added to the clean environment that every payload gets.
    pub environment: BTreeMap<String, String>,
    /// Variables whose values are in these files, less newlines at their end.
    pub secrets: BTreeMap<String, PathBuf>,
    /// Who it runs as. Left out, the agent's own user, which the agent refuses where it is root or may become others: it is then only
    /// for an agent that a person runs as themselves.
    pub user: Option<String>,
    /// Its group; the user's own where it is left out.
    pub group: Option<String>,
    /// Where it starts; its state directory where it is left out.
    pub working_directory: Option<PathBuf>,
    /// What it may write; `payloads/NAME/state` in the agent's state directory where it is left out.
    pub state_directory: Option<PathBuf>,
    /// The GPUs it needs.
    pub gpus: Gpus,
    /// How its health is told.
    pub probe: Option<Probe>,
    /// How its work is measured.
    pub meter: Option<MeterUse>,
    /// How it is paused, where its own API does that better than the freezer.
    pub pause: Option<PauseUse>,
    /// How it is asked to end.
    pub stop: Stop,
    /// When it is started again.
    pub restart: Restart,
    /// What it is expected to yield.
    pub expect: Option<Expectation>,
    /// What it may use of the rig.
    pub limits: Limits,
    /// What it may see and do.
    pub sandbox: Sandbox,
    /// What is kept of what it says.
    pub log: Log,
    /// The rig decides when it runs, and where; none leaves that to people.
    pub plan: Option<Planned>,
    /// It works for somebody else: what is in `private` of its state directory goes when it leaves its GPUs.
    pub tenant: bool,
}

/// What the plan goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What a unit of its work is worth, where no market signal says so.
    pub value: MicroPerTera,
    /// GPUs that it may have at most; a lease has exactly these.
    pub most_gpus: u8,
    /// Minutes of the day, from and to, in which it may run; from after to is over midnight.
    pub hours: Option<(u16, u16)>,
    /// Work that is lost when it is ended, in thousandths of a unit.
    pub lost_milli: u64,
    /// What somebody thinks that it yields on a GPU, until that was measured.
    pub guess: Option<Yield>,
}

/// What a payload earns with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hashes for a pool.
    Mining,
    /// A model that answers requests, or is trained.
    Ai,
    /// Runs to its end once.
    Batch,
}

/// Run by podman, which is given the GPUs as CDI devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// With its registry: `docker.io/ollama/ollama:0.12.3`.
    pub image: String,
    /// The program that runs it, a path from the root.
    pub podman: String,
    /// More options for `podman run`.
    pub options: Vec<String>,
    /// What the image is started with.
    pub arguments: Vec<String>,
}

/// The GPUs a payload needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// So many of any; as many as `uuids` where these are given.
    pub count: u8,
    /// Exactly these.
    pub uuids: Vec<String>,
    /// Memory that each must have, MiB.
    pub min_vram_mib: u32,
    /// The profile they get while it runs.
    pub profile: Option<String>,
}

/// How a payload's health is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub target: Target,
    /// From one to the next.
    pub interval: Duration,
    /// An answer that takes longer is none.
    pub timeout: Duration,
    /// So many failures in a row and it is started again.
    pub failures: u32,
    /// From its start, before which nothing counts as a failure.
    pub startup: Duration,
}

/// What a probe asks. Network probes go to 127.0.0.1 and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// GET of this path; any status 200 to 299 is health.
    Http {
        /// TCP port.
        port: u16,
        /// From the `/` on.
        path: String,
    },
    /// A connection that is accepted.
    Tcp(u16),
    /// A program that exits with 0, run as the payload is.
    Exec(Vec<String>),
}

/// How its work is measured. The meter engine knows what the options mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterUse {
    /// A built-in meter, or the path of a meter file.
    pub name: String,
    /// Where the payload answers, on 127.0.0.1.
    pub port: Option<u16>,
    /// From one reading to the next.
    pub interval: Duration,
    /// With a rate, work must be counted in so long, or its word is doubted; zero: not looked at.
    pub work_within: Duration,
    /// What its GPUs take together with nothing to do; zero where nobody knows.
    pub idle: Milliwatts,
    /// What else this meter wants to know.
    pub options: BTreeMap<String, String>,
}

/// How a payload is paused by its own API. The freezer does it where that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseUse {
    /// A built-in meter, or the path of a meter file, that has a `[pause]`.
    pub api: String,
    /// Where the payload answers, on 127.0.0.1; the meter's where it is left out.
    pub port: Option<u16>,
    /// A file with the token that its API wants; that of the meter's option where it is left out.
    pub token_file: Option<PathBuf>,
}

/// How a payload is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Sent to its first process.
    pub signal: StopSignal,
    /// How long it may take; then everything in its cgroup is killed.
    pub grace: Duration,
}

/// The signals that ask a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    Hup,
}

/// What it may use of the rig. Each holds only where its cgroup controller is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, MiB; above it the kernel kills in the payload.
    pub memory_mib: Option<u32>,
    /// Its share where others want the processor too, 1 to 10 000; others have 100.
    pub cpu_weight: Option<u16>,
    /// Hundredths of one processor: 150 is one and a half.
    pub cpu_pct: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Open files of one process.
    pub open_files: u32,
    /// Locked memory of one process, MiB; drivers pin buffers.
    pub locked_mib: Option<u32>,
}

/// What it may see and do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Paths that it may read, and run programs from, beyond the system's.
    pub read: Vec<PathBuf>,
    /// Paths that it may write beyond its state directory.
    pub write: Vec<PathBuf>,
    /// TCP ports that it may listen on; any where it is left out. 0 stands for a port that the kernel chooses.
    pub tcp_bind: Option<Vec<u16>>,
    /// TCP ports that it may connect to; any where it is left out.
    pub tcp_connect: Option<Vec<u16>>,
    /// Layers that are left off.
    pub off: LayerSet,
    /// Layers without which it is not started.
    pub require: LayerSet,
}

/// What is kept of what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// On disk in all, bytes.
    pub max_bytes: u64,
    /// Kept in the long run, bytes a second; what is beyond is counted and dropped.
    pub max_rate: u64,
    /// Where one of these stands, what follows it to the next blank or quote is not shown.
    pub mask: Vec<String>,
}

impl Manifest {
    /// Reads a file.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let file = path.display().to_string();
        let text = fs::metadata(path).and_then(|metadata| {
            if metadata.len() > LARGEST {
                return Err(std::io::Error::other("too large for a manifest"));
            }
            fs::read_to_string(path)
        });
        let text = text.map_err(|error| Problems::one(&file, format!("could not read the manifest: {error}")))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&file, &name, &text)
    }

    /// Reads every `*.toml` in a directory, by name. What is wrong with one keeps none of the others away.
    #[must_use]
    pub fn load_all(directory: &Path) -> (Vec<Self>, Vec<Problems>) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (Vec::new(), Vec::new()),
            Err(error) => {
                let text = format!("could not read the payloads' directory: {error}");
                return (Vec::new(), vec![Problems::one(&directory.display().to_string(), text)]);
            }
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let paths = sorted::list(paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
        let mut problems = Vec::new();
        for path in paths.iter().skip(MOST) {
            let text = format!("left out: a rig has at most {MOST} payloads");
            problems.push(Problems::one(&path.display().to_string(), text));
        }
        let loaded = paths.iter().take(MOST).map(|path| Self::load(path));
        let manifests = loaded.filter_map(|loaded| loaded.map_err(|found| problems.push(found)).ok()).collect();
        (manifests, problems)
    }

    /// Whether both say the same, whatever their files are called.
    #[must_use]
    pub fn says(&self, other: &Self) -> bool {
        *self == Self { file: self.file.clone(), ..other.clone() }
    }

    /// The program and its arguments, for these GPUs.
    #[must_use]
    pub fn command(&self, gpus: &[String]) -> Vec<String> {
        match &self.container {
            None => self.argv.clone(),
            Some(container) => container.command(self, gpus),
        }
    }
}

impl StopSignal {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Term => libc::SIGTERM,
            Self::Int => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Hup => libc::SIGHUP,
        }
    }
}

#[cfg(test)]
mod tests;
