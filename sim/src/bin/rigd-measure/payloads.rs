//! What it costs to keep payloads: how soon a killed one runs again, beside the barest loop that does it and beside runit; and what
//! a full house of 64 takes of the agent.
//!
//! The payload is a static program that stamps its first instruction with the machine's clock and sends the stamp here; then it
//! sleeps. A kill is stamped right before the signal. The agent's payloads have everything that a manifest gives by default: another
//! user, a cgroup, a log, every layer of the sandbox that this kernel has, a record on disk before they run.

mod crowd;
mod restart;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rigd::clock::{self, since_boot};
use rustix::process::{Pid, Signal, kill_process};

use crate::Options;
use crate::broker::Broker;
use crate::kernel::CpuTime;
use crate::listener::Listener;
use crate::process::{Interrupt, Running};
use crate::report::{QUIET, machine};
use crate::scratch::Scratch;

/// A payload that does not say that it runs within this does not run.
const UP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Both tables.
pub(crate) fn run(options: &Options) -> Result<String> {
    let began = CpuTime::now()?;
    let mut text = machine()?;
    let restart = restart::run(options)?;
    let idle = CpuTime::now()?.idle_since(&began);
    text += &format!("the machine was idle for {idle:.1} % of the kills\n");
    if idle < QUIET {
        text += "NOT A QUIET MACHINE: latencies are upper bounds\n";
    }
    text += &restart;
    text += &crowd::run(options)?;
    Ok(text)
}

/// What every run of the agent here needs. Dropped from the top.
struct Site {
    broker: Broker,
    listener: Listener,
    told: Told,
    house: House,
    interrupt: Interrupt,
    payload: PathBuf,
    scratch: Scratch,
}

impl Site {
    fn new(options: &Options) -> Result<Self> {
        // Payloads have a /tmp of their own, and see no other.
        let scratch = Scratch::outside_tmp()?;
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
        // Others run it too, from where they may.
        let payload = scratch.path().join("bare-payload");
        fs::copy(&options.payload, &payload).with_context(|| format!("copy {}", options.payload.display()))?;
        let interrupt = Interrupt::listen()?;
        let broker = Broker::start(scratch.path())?;
        let listener = Listener::start(broker.port)?;
        let told = Told::bind(&scratch.path().join("told"))?;
        // Without chips: what they cost is not asked here.
        fs::write(scratch.path().join("board.toml"), "name = \"house\"\nrevision = \"a\"\n")?;
        Ok(Self { broker, listener, told, house: House::new(&payload), interrupt, payload, scratch })
    }

    /// Starts the agent with these manifests: name and text.
    fn agent(&self, options: &Options, rig: &str, manifests: &[(String, String)]) -> Result<Running> {
        let directory = self.scratch.path().join(rig);
        let folder = directory.join("payloads.d");
        fs::create_dir_all(&folder)?;
        for (name, text) in manifests {
            fs::write(folder.join(name).with_extension("toml"), text)?;
        }
        let cgroup = self.house.cgroup.as_ref().map(|path| format!("cgroup = {path:?}\n")).unwrap_or_default();
        let config = directory.join("rigd.toml");
        fs::write(
            &config,
            format!(
                "rig = \"{rig}\"\nboard = {:?}\nstate = {directory:?}\n[control]\ntick_hz = 1\n\
                 [telemetry]\nperiod_ms = 1000\n[payload]\nmanifests = {folder:?}\n{cgroup}[local]\nsocket = {:?}\n\
                 [broker]\nurl = \"mqtt://127.0.0.1:{}\"\n",
                self.scratch.path().join("board.toml"),
                directory.join("rigd.sock"),
                self.broker.port
            ),
        )?;
        // Payloads pass through it to their own.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        Running::start(rig, Command::new(&options.rigd).arg("run").arg("--config").arg(&config), self.scratch.path())
    }

    /// A manifest with every default, and these lines more.
    fn manifest(&self, arguments: &[&str], more: &str) -> String {
        let user = if rustix::process::geteuid().is_root() { "user = \"nobody\"\n" } else { "" };
        let arguments: String = arguments.iter().map(|argument| format!(", {argument:?}")).collect();
        format!(
            "kind = \"ai\"\nautostart = true\n{user}argv = [{:?}, \"run\", {:?}{arguments}]\n{more}",
            self.payload, self.told.path
        )
    }
}

/// A payload said that it runs.
#[derive(Clone, Debug)]
struct Up {
    tag: String,
    pid: i32,
    /// Since boot.
    at: Duration,
}

/// The socket that payloads tell.
struct Told {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Told {
    fn bind(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// What was told, if anything was within a moment.
    fn next(&self) -> Result<Option<Up>> {
        let mut buffer = [0; 128];
        let Ok(length) = self.socket.recv(&mut buffer) else { return Ok(None) };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let mut words = text.split(' ');
        let (Some(tag), Some(pid), Some(at)) = (words.next(), words.next(), words.next()) else {
            bail!("a payload said {text:?}")
        };
        Ok(Some(Up { tag: tag.to_owned(), pid: pid.parse()?, at: Duration::from_nanos(at.parse()?) }))
    }
}

/// Where the agent's payloads live. They outlive it, which here they must not.
struct House {
    cgroup: Option<PathBuf>,
    payload: PathBuf,
}

impl House {
    fn new(payload: &Path) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
        let cgroup = mount.map(|mount| Path::new(mount).join(format!("rigd-measure-{}", std::process::id())));
        Self { cgroup: cgroup.filter(|group| fs::create_dir(group).is_ok()), payload: payload.to_owned() }
    }

    /// Ends every payload, whoever keeps it: by now nobody must.
    fn empty(&self) {
        if let Some(group) = &self.cgroup {
            fs::write(group.join("cgroup.kill"), "1").ok();
        }
        for pid in fs::read_dir("/proc").into_iter().flatten().flatten() {
            // Nobody else runs this copy of the program.
            if fs::read_link(pid.path().join("exe")).is_ok_and(|exe| exe == self.payload)
                && let Some(pid) = pid.file_name().to_str().and_then(|pid| Pid::from_raw(pid.parse().ok()?))
            {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }

    /// Processes that write logs down.
    fn keepers(&self) -> Vec<u32> {
        let Some(group) = &self.cgroup else { return Vec::new() };
        let groups = fs::read_dir(group.join("payloads")).into_iter().flatten().flatten();
        let logs = groups.filter(|group| group.file_name().to_string_lossy().ends_with(".log"));
        let procs = logs.filter_map(|group| fs::read_to_string(group.path().join("cgroup.procs")).ok());
        procs.flat_map(|procs| procs.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.empty();
        let Some(group) = &self.cgroup else { return };
        let deadline = clock::now() + UP;
        let populated =
            || fs::read_to_string(group.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"));
        while populated() && clock::now() < deadline {
            thread::sleep(POLL);
        }
        for inner in fs::read_dir(group.join("payloads")).into_iter().flatten().flatten() {
            fs::remove_dir(inner.path()).ok();
        }
        fs::remove_dir(group.join("payloads")).ok();
        fs::remove_dir(group).ok();
    }
}

/// Until this time since boot.
fn sleep_until(time: Duration) {
    thread::sleep(time.saturating_sub(since_boot()));
}
