//! The real agent with payloads of a test's own, and ways to look at their processes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rigd::local::Payload;
use rigd::wire::PayloadPhase;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;

/// An agent and its payloads. What runs is ended with the test.
pub(crate) struct House {
    pub(crate) agent: Agent,
    /// Of this test alone: rigs on one machine share its cgroups.
    pub(crate) names: Vec<String>,
    manifests: Scratch,
    pub(crate) broker: Broker,
}

impl House {
    /// An agent with these manifests; `{name}` in them is the payload's own. Returns when the agent answers.
    pub(crate) fn new(what: &str, manifests: &[String]) -> Self {
        Self::with(what, "", manifests)
    }

    /// The same, with tables more in the agent's configuration.
    pub(crate) fn with(what: &str, tables: &str, manifests: &[String]) -> Self {
        Self::of(what, "", tables, manifests)
    }

    /// The same, whose first cards are these, as in `turing:1`.
    pub(crate) fn of(what: &str, gpus: &str, tables: &str, manifests: &[String]) -> Self {
        let broker = Broker::start();
        let folder = Scratch::new(what);
        let base = folder.path.file_name().unwrap().to_str().unwrap().replace("rigd-", "");
        let names: Vec<String> = (0..manifests.len()).map(|index| format!("{base}-{index}")).collect();
        for (name, text) in names.iter().zip(manifests) {
            fs::write(folder.path.join(format!("{name}.toml")), text.replace("{name}", name)).unwrap();
        }
        let setup = Setup {
            broker: format!("{tables}[payload]\nmanifests = {:?}\n", folder.path),
            tick_hz: 2,
            gpus: gpus.to_owned(),
            ..Setup::default()
        };
        let agent = Agent::start(&broker, setup);
        let house = Self { agent, names, manifests: folder, broker };
        until("the agent answers", || house.ps().map(drop));
        house
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args(arguments).arg("--socket").arg(self.agent.scratch.path.join("rigd.sock"));
        command.output().unwrap()
    }

    /// Every payload; none where no agent answers.
    pub(crate) fn ps(&self) -> Option<Vec<Payload>> {
        let said = self.ctl(&["ps", "--json"]);
        let lines = String::from_utf8(said.stdout).unwrap();
        said.status.success().then(|| lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// One payload, by its place among the manifests.
    pub(crate) fn one(&self, place: usize) -> Option<Payload> {
        self.ps()?.into_iter().find(|payload| payload.info.name == self.names[place])
    }

    /// Waits until a payload is as it should be.
    pub(crate) fn until(&self, place: usize, what: &str, good: impl Fn(&Payload) -> bool) -> Payload {
        until(&format!("{}: {what}", self.names[place]), || self.one(place).filter(&good))
    }

    /// Waits until it runs.
    pub(crate) fn runs(&self, place: usize) -> i32 {
        self.until(place, "it runs", |payload| payload.now.phase == PayloadPhase::Running && payload.pid.is_some())
            .pid
            .unwrap()
    }

    /// All of its log that is kept.
    pub(crate) fn log(&self, place: usize) -> String {
        String::from_utf8(self.ctl(&["logs", &self.names[place], "--all"]).stdout).unwrap()
    }

    /// Takes a payload's manifest away.
    pub(crate) fn remove_manifest(&self, place: usize) {
        fs::remove_file(self.manifests.path.join(format!("{}.toml", self.names[place]))).unwrap();
    }

    /// Its directory.
    pub(crate) fn home(&self, place: usize) -> PathBuf {
        self.agent.scratch.path.join("payloads").join(&self.names[place])
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // A payload outlives its agent, and must not outlive its test.
        if !self.agent.runs() {
            self.agent.run();
            let answers = || {
                (0..400).any(|_| {
                    thread::park_timeout(std::time::Duration::from_millis(10));
                    self.ps().is_some()
                })
            };
            if !answers() {
                return;
            }
        }
        for name in &self.names {
            let _ = self.ctl(&["drain", name, "--within", "1s"]);
        }
        sweep(self.agent.pid(), &self.names);
    }
}

/// Removes the cgroups of a test's payloads, which end: rigs on one machine share the group that they are in.
pub(crate) fn sweep(agent: u32, names: &[String]) {
    let agent = i32::try_from(agent).unwrap_or(0);
    let Some(groups) = cgroup(agent).map(|group| group.join("payloads")) else { return };
    for group in names.iter().flat_map(|name| [groups.join(name), groups.join(format!("{name}.log"))]) {
        let gone = || !group.exists() || fs::remove_dir(&group).is_ok();
        let _ = (0..300).any(|_| {
            gone() || {
                thread::park_timeout(std::time::Duration::from_millis(10));
                false
            }
        });
    }
}

/// A meter's API: answers what `generic-json` reads, and counts up.
pub(crate) fn api() -> u16 {
    api_of("12.5")
}

/// The same, at another rate.
pub(crate) fn api_of(rate: &'static str) -> u16 {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let body = format!("{{\"rate\": {rate}, \"work\": {count}, \"accepted\": {count}}}");
            // An agent that was killed does not listen any more.
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    port
}

/// A process of a payload: its number, its parent's, its state, when it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) state: char,
    pub(crate) start: u64,
}

impl Seen {
    /// A process as it is now (proc_pid_stat(5)); `None` where there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            pid,
            state: fields[0].chars().next()?,
            parent: fields[1].parse().ok()?,
            start: fields[19].parse().ok()?,
        })
    }

    /// All there are.
    pub(crate) fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| Self::of(entry.file_name().to_str()?.parse().ok()?)).collect()
    }
}

/// The cgroup2 directory of a process; `None` where there is no cgroup2.
pub(crate) fn cgroup(pid: i32) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(&mount).join(own.trim_start_matches('/')))
}

/// Processes in a cgroup.
pub(crate) fn procs(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(|pid| pid.parse().unwrap()).collect()
}

pub(crate) fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}
