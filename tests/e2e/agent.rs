//! The agent under test with its simulated rig.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rigd::board::{BUILTIN, Board};
use rigd::clock;
use rigd_sim::world::card::Profile;
use rigd_sim::{Options, Sim};
use rustix::process::{Pid, Signal, kill_process};

use crate::broker::Broker;

/// A directory that goes with the test.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(what: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rigd-{what}-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Asks again until there is an answer; for what has no way to call back (a process, a socket, a file).
pub(crate) fn until<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    until_within(Duration::from_secs(40), what, ask)
}

/// The same for what takes its time.
pub(crate) fn until_within<T>(time: Duration, what: &str, ask: impl Fn() -> Option<T>) -> T {
    let deadline = clock::now() + time;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(clock::now() < deadline, "waited in vain for: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// The simulated board with a change to its text.
pub(crate) fn board_with(from: &str, to: &str) -> String {
    let (_, text) = BUILTIN.iter().find(|(name, _)| *name == "simulated-8gpu").unwrap();
    assert!(text.contains(from), "{from:?} is not in the simulated board");
    text.replace(from, to)
}

/// What a test wants of its agent.
pub(crate) struct Setup {
    pub(crate) board: String,
    /// Lines of the configuration's top level.
    pub(crate) top: String,
    /// Lines of its tables; `[telemetry]` and the broker's URL are there already.
    pub(crate) broker: String,
    pub(crate) tick_hz: u32,
    pub(crate) speed: f64,
    /// What its first cards are, as in `ampere:4,ada:4`; none is the default kind.
    pub(crate) gpus: String,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) stderr: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            board: board_with("name", "name"),
            top: String::new(),
            broker: String::new(),
            tick_hz: 10,
            speed: 1.0,
            gpus: String::new(),
            environment: Vec::new(),
            stderr: None,
        }
    }
}

/// A simulated rig with its agent, which is started and ended by hand or with the test.
pub(crate) struct Agent {
    pub(crate) sim: Sim,
    pub(crate) scratch: Scratch,
    log: PathBuf,
    stderr: PathBuf,
    environment: Vec<(&'static str, String)>,
    process: Option<Child>,
}

impl Agent {
    /// A rig and its running agent.
    pub(crate) fn start(broker: &Broker, setup: Setup) -> Self {
        let mut agent = Self::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), setup);
        agent.run();
        agent
    }

    /// A rig whose agent is not started yet.
    pub(crate) fn prepare(url: &str, setup: Setup) -> Self {
        Self::prepare_for(&[url], setup)
    }

    /// The same with several brokers in order.
    pub(crate) fn prepare_for(urls: &[&str], setup: Setup) -> Self {
        let scratch = Scratch::new("agent");
        let board_file = scratch.path.join("board.toml");
        fs::write(&board_file, &setup.board).unwrap();
        let board = Board::load(board_file.to_str().unwrap()).unwrap_or_else(|problems| panic!("{problems}"));
        let gpus = if setup.gpus.is_empty() { Vec::new() } else { Profile::list(&setup.gpus).unwrap() };
        let options = Options { speed: setup.speed, gpus, ..Options::default() };
        let sim = Sim::start(&board, &scratch.path.join("rig"), options).unwrap();
        let config = format!(
            "rig = \"rig-1\"\nboard = {board_file:?}\nstate = {:?}\nsimulation = {:?}\n{}\n[control]\ntick_hz = {}\n[telemetry]\nperiod_ms = 100\n\
             [local]\nsocket = {:?}\n[broker]\nurl = {urls:?}\nkeepalive_s = 5\n{}\n",
            scratch.path,
            sim.dir(),
            setup.top,
            setup.tick_hz,
            scratch.path.join("rigd.sock"),
            setup.broker,
        );
        fs::write(scratch.path.join("rigd.toml"), config).unwrap();
        let log = scratch.path.join("rigd.log");
        let stderr = setup.stderr.unwrap_or_else(|| log.clone());
        Self { sim, scratch, log, stderr, environment: setup.environment, process: None }
    }

    /// Starts the agent.
    pub(crate) fn run(&mut self) {
        let stderr = File::options().append(true).create(true).open(&self.stderr).unwrap();
        let mut command = self.command();
        command.arg("run").envs(self.environment.iter().map(|(key, value)| (*key, value.as_str())));
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
    }

    /// Another place for what it logs.
    pub(crate) fn stderr_to(&mut self, path: PathBuf) {
        self.stderr = path;
    }

    /// The agent's command line without a verb.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd"));
        command.arg("--config").arg(self.scratch.path.join("rigd.toml"));
        command
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// Whether it was started and not ended.
    pub(crate) const fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.process.take().unwrap().wait().unwrap()
    }

    /// Waits until its log has this text.
    pub(crate) fn logged(&self, text: &str) {
        until(&format!("{text:?} in the log"), || fs::read_to_string(&self.log).ok().filter(|log| log.contains(text)));
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until every fan's true drive, in percent, satisfies `good`.
    pub(crate) fn fans(&self, what: &str, good: impl Fn(u16) -> bool) {
        until(what, || self.sim.fans().iter().all(|(_, duty, _)| good(duty.hundredths() / 100)).then_some(()));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            // The harness shows this with the failed test and hides it otherwise.
            println!("the agent's log:\n{log}");
        }
    }
}
