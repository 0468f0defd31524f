//! `cargo xtask demo`: simulated rigs, the real agent on each, a broker, a collector, a key, and the operator's live view.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::args::{self, Args};
use crate::checkout::Checkout;
use crate::held::{Ending, Held, tied};
use crate::process::{self, Interrupt};
use crate::scratch::Scratch;

const HELP: &str = "\
cargo xtask demo: see a small fleet at work, without hardware and without root

usage: cargo xtask demo [--rigs N] [--broker URL] [--seconds S] [--programs DIR]

  --rigs N         how many rigs, 1 to 64 (default 1)
  --broker URL     publish there, e.g. mqtt://127.0.0.1:1883; without it an MQTT 5 broker of our own is started,
                   and a collector, which nobody wants beside the one of a real site
  --seconds S      end after S seconds; without it Ctrl-C ends it
  --programs DIR   run the binaries in DIR instead of building them

Simulated: the rigs, that is eight GPUs, their heat, watts and air, the chips that measure them, register by register,
behind sockets, and NVIDIA's library. Real: rigd and rigd-nvml as they run on a rig, the MQTT they speak, rigd-ctl collect and watch,
and a key, made for this run, that the rigs take orders from.
Nothing is left behind: neither processes nor files, however it ends.
";

const BOARD: &str = "simulated-8gpu";
/// The buses of that board, the driver of its cards, and the socket that takes commands.
const SOCKETS: [&str; 4] = ["air", "main", "nvml", "control"];
/// In place of NVIDIA's library: built beside the programs.
const LIBRARY: &str = "librigd_fake_nvml.so";
/// What its GPUs are: two kinds that can do different things.
const GPUS: &str = "ampere:4,ada:4";
/// Less power, a clock that does not wander, and fans that follow the card's own heat. Each GPU says what it has not got.
const PROFILE: &str = "\
[gpu]
profile = \"eco\"

[profile.eco]
power_limit_pct = 70
core_lock_mhz = [210, 1500]
fan_curve = [[30, 30], [60, 60], [80, 100]]
";
/// Name of the key that the rigs trust, and what it may order: all that takes one key.
const KEY: &str = "demo";
const SCOPES: [&str; 4] = ["observe", "operate", "tune", "payload"];
/// Whoever orders does so by the clock that the rigs have too.
const FLEET: &str = "\
[fleet]
groups = [\"demo\"]
trust_clock = true
";
/// What a simulated rig may take until its sockets are there.
const SOCKETS_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Options {
    rigs: Option<u32>,
    broker: Option<String>,
    seconds: Option<u32>,
    programs: Option<PathBuf>,
}

pub(crate) fn command(mut args: Args) -> Result<()> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rigs" => options.rigs = Some(args.number("--rigs", 1..=64)?),
            "--broker" => options.broker = Some(args.value("--broker")?),
            "--seconds" => options.seconds = Some(args.number("--seconds", 1..=86_400)?),
            "--programs" => options.programs = Some(args.value("--programs")?.into()),
            "--help" | "-h" => return args::help(HELP),
            other => return Err(args::unknown("demo", other)),
        }
    }
    run(options)
}

fn run(options: Options) -> Result<()> {
    let Options { rigs, broker, seconds, programs } = options;
    let programs = match programs {
        Some(programs) => programs,
        None => {
            println!("demo: building; the first time takes minutes, for the broker is a large library");
            Checkout::here()?.build_programs(false)?
        }
    };
    // The agents run elsewhere and must find the library all the same.
    let programs = programs.canonicalize().with_context(|| programs.display().to_string())?;
    for file in ["rigd-nvml", LIBRARY] {
        ensure!(programs.join(file).exists(), "{} is not there", programs.join(file).display());
    }
    let rigs = rigs.unwrap_or(1);
    let interrupt = Interrupt::listen()?;
    let mut fleet = Fleet::start(&programs, rigs, broker)?;
    println!(
        "demo: SIMULATED: {rigs} x {BOARD}, its chips behind sockets, its GPUs behind a library; real: a rigd on each"
    );
    println!("demo: broker {}", fleet.broker_url);
    let scratch = fleet.scratch.path();
    let first = scratch.join(rig_name(1));
    println!("demo: Ctrl-C ends everything; logs meanwhile in {}", scratch.display());
    let (ctl, socket) = (programs.join("rigd-ctl"), socket(&first));
    println!("demo: the last hour: {} plot --socket {}", ctl.display(), socket.display());
    println!("demo: its GPUs: {} gpu list --socket {}", ctl.display(), socket.display());
    for (what, line) in [("break something", "fault fan seized fan3"), ("lose a GPU", "gpu 3 xid 79")] {
        println!("demo: {what}: echo '{line}' | socat - UNIX:{}/control", first.display());
    }
    let flags = format!("--broker {} --plain-text", fleet.broker_url);
    println!(
        "demo: give an order: {} send --rig {} --sign {} {flags} identify 10s",
        ctl.display(),
        rig_name(1),
        fleet.key.display()
    );
    let stored =
        if fleet.collector.is_some() { format!("--store {} ", fleet.store().display()) } else { String::new() };
    println!(
        "demo: alarms{}: {} events {stored}-f {flags}",
        if stored.is_empty() { "" } else { ", stored and new" },
        ctl.display()
    );
    fleet.watch(&programs, seconds, &interrupt)
}

/// Everything that runs. Dropped from the top: agents stop first, while their chips and the broker still answer.
struct Fleet {
    agents: Vec<Held>,
    collector: Option<Held>,
    simulators: Vec<Held>,
    broker: Option<Held>,
    broker_url: String,
    /// The secret half of the key that the rigs trust, and the table that trusts it.
    key: PathBuf,
    trust: String,
    scratch: Scratch,
}

impl Fleet {
    fn start(programs: &Path, rigs: u32, broker_url: Option<String>) -> Result<Self> {
        let scratch = Scratch::new("demo")?;
        let (broker, broker_url) = match broker_url {
            Some(url) => (None, url),
            None => {
                let (broker, url) = start_broker(programs, scratch.path())?;
                (Some(broker), url)
            }
        };
        let key = scratch.path().join(format!("{KEY}.key"));
        let trust = make_key(programs, &key)?;
        let (agents, simulators) = (Vec::new(), Vec::new());
        let mut fleet = Self { agents, collector: None, simulators, broker, broker_url, key, trust, scratch };
        // On a broker of somebody else's, the rigs there would take it for their own control plane.
        if fleet.broker.is_some() {
            fleet.start_collector(programs)?;
        }
        for number in 1..=rigs {
            fleet.start_simulator(programs, number)?;
        }
        for number in 1..=rigs {
            fleet.start_agent(programs, number)?;
        }
        Ok(fleet)
    }

    fn store(&self) -> PathBuf {
        self.scratch.path().join("collect.db")
    }

    fn start_collector(&mut self, programs: &Path) -> Result<()> {
        let mut command = tied(&programs.join("rigd-ctl"), Ending::Term);
        command.args(["collect", "--plain-text", "--broker", &self.broker_url, "--store"]).arg(self.store());
        command.stdout(Stdio::null());
        let log = self.scratch.path().join("collect.log");
        self.collector = Some(Held::start("rigd-ctl collect", &mut command, Ending::Term, &log)?);
        Ok(())
    }

    fn start_simulator(&mut self, programs: &Path, number: u32) -> Result<()> {
        let name = rig_name(number);
        let folder = self.scratch.path().join(&name);
        fs::create_dir(&folder)?;
        let mut command = tied(&programs.join("rigd-sim"), Ending::Kill);
        command
            .args(["--board", BOARD, "--gpus", GPUS, "--seed", &number.to_string()])
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null());
        let log = self.scratch.path().join(format!("sim{number}.log"));
        self.simulators.push(Held::start(&format!("rigd-sim of {name}"), &mut command, Ending::Kill, &log)?);
        Ok(())
    }

    fn start_agent(&mut self, programs: &Path, number: u32) -> Result<()> {
        let name = rig_name(number);
        let simulation = self.scratch.path().join(&name);
        let deadline = Instant::now() + SOCKETS_WITHIN;
        while !SOCKETS.iter().all(|socket| simulation.join(socket).exists()) {
            self.still_running()?;
            ensure!(Instant::now() < deadline, "rigd-sim of {name}: no sockets after {SOCKETS_WITHIN:?}");
            thread::sleep(POLL);
        }
        let config = self.scratch.path().join(format!("{name}.toml"));
        fs::write(&config, rigd_toml(&name, &simulation, &programs.join(LIBRARY), &self.broker_url) + &self.trust)?;
        let mut command = tied(&programs.join("rigd"), Ending::Term);
        command.arg("run").arg("--config").arg(config).stdout(Stdio::null());
        let log = self.scratch.path().join(format!("rig{number}.log"));
        self.agents.push(Held::start(&format!("rigd of {name}"), &mut command, Ending::Term, &log)?);
        Ok(())
    }

    /// Shows `rigd-ctl watch` until it ends, the time is up, or somebody interrupts.
    fn watch(&mut self, programs: &Path, seconds: Option<u32>, interrupt: &Interrupt) -> Result<()> {
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        let mut command = tied(&programs.join("rigd-ctl"), Ending::Interrupt);
        command.args(["watch", "--plain-text", "--broker", &self.broker_url]);
        let mut watch = Held::start_in_foreground("rigd-ctl watch", &mut command, Ending::Interrupt)?;
        while !interrupt.came() && end.is_none_or(|end| Instant::now() < end) {
            if let Some(status) = watch.ended()? {
                // Ctrl-C reaches it too, and it may be the first to go.
                thread::sleep(POLL);
                ensure!(interrupt.came() || status.success(), "rigd-ctl watch: {status}");
                break;
            }
            self.still_running()?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn still_running(&mut self) -> Result<()> {
        let mut parts =
            self.broker.iter_mut().chain(&mut self.collector).chain(&mut self.simulators).chain(&mut self.agents);
        parts.try_for_each(Held::still_running)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            agent.ask_to_end();
        }
    }
}

fn start_broker(programs: &Path, logs: &Path) -> Result<(Held, String)> {
    let mut command = tied(&programs.join("sim-broker"), Ending::Kill);
    command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut broker = Held::start("sim-broker", &mut command, Ending::Kill, &logs.join("broker.log"))?;
    let mut line = String::new();
    BufReader::new(broker.stdout().context("a pipe was asked for")?).read_line(&mut line)?;
    match line.trim().strip_prefix("listening on ") {
        Some(address) => Ok((broker, format!("mqtt://{address}"))),
        None => bail!("sim-broker does not listen. The end of its log:\n{}", broker.tail()),
    }
}

/// Makes a key with this secret half; what a rig's configuration says of it.
fn make_key(programs: &Path, secret: &Path) -> Result<String> {
    let mut keygen = Command::new(programs.join("rigd-ctl"));
    keygen.args(["keygen", KEY, "--out"]).arg(secret).args(SCOPES.iter().flat_map(|scope| ["--scope", *scope]));
    Ok(format!("\n{FLEET}\n{}", process::output(&mut keygen)?))
}

fn rig_name(number: u32) -> String {
    format!("rig-{number:04}")
}

/// Where a rig's agent listens, beside the sockets of its chips.
fn socket(simulation: &Path) -> PathBuf {
    simulation.join("rigd.sock")
}

fn rigd_toml(rig: &str, simulation: &Path, library: &Path, broker_url: &str) -> String {
    // A Rust string literal is a TOML one, as long as it is of plain characters.
    let gpus = PROFILE.replacen("[gpu]", &format!("[gpu]\nlibrary = {library:?}"), 1);
    format!(
        "rig = {rig:?}\nboard = {BOARD:?}\nsimulation = {simulation:?}\nstate = {simulation:?}\n\n\
         [telemetry]\nperiod_ms = 1000\n\n[local]\nsocket = {:?}\n\n[broker]\nurl = {broker_url:?}\nplain_text = true\n\n\
         [payload]\nmanifests = {:?}\n\n{gpus}",
        socket(simulation),
        // Not those of the machine, should it be a rig.
        simulation.join("payloads")
    )
}
