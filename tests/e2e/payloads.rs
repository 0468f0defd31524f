//! Payloads under the real agent: GPUs and their profile come with a payload and go with it, and it outlives the agent.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rigd::units::Megahertz;
use rigd::wire::{Message, PayloadPhase, Telemetry};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

struct World {
    agent: Agent,
    subscriber: Subscriber,
    /// Its name, of this test alone: rigs on one machine share its cgroups.
    name: String,
    _manifests: Scratch,
    _broker: Broker,
}

/// An agent with simulated GPUs and one payload on two of them.
fn world(manifest: &str) -> World {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let library = PathBuf::from(env!("CARGO_BIN_EXE_rigd")).with_file_name("deps/librigd_fake_nvml.so");
    let directory = Scratch::new("manifests");
    let tables = format!(
        "[gpu]\nlibrary = {library:?}\nprobation_s = 10\n[profile.ai]\ncore_lock_mhz = [210, 900]\n[payload]\nmanifests = {:?}\n",
        directory.path
    );
    let name = directory.path.file_name().unwrap().to_str().unwrap().replace("rigd-manifests", "work");
    fs::write(directory.path.join(format!("{name}.toml")), manifest).unwrap();
    let setup = Setup { broker: tables, ..Setup::default() };
    let agent = Agent::start(&broker, setup);
    // The agent reads them once, at its start, which the first telemetry is the end of.
    subscriber.telemetry("a start", |_| true);
    World { agent, subscriber, name, _manifests: directory, _broker: broker }
}

const MANIFEST: &str = "kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", \"echo up; exec sleep 1000\"]\n\
    [gpus]\ncount = 2\nprofile = \"ai\"\n[restart]\npolicy = \"always\"\n";

fn phase(telemetry: &Telemetry) -> Option<PayloadPhase> {
    telemetry.payloads.first().map(|payload| payload.phase)
}

fn slowed(telemetry: &Telemetry) -> usize {
    telemetry.gpus.iter().filter(|gpu| gpu.sm_mhz.0.is_ok_and(|clock| clock <= Megahertz(900))).count()
}

impl World {
    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args(arguments).arg("--socket").arg(self.agent.scratch.path.join("rigd.sock"));
        command.output().unwrap()
    }

    fn ps(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.ctl(&["ps", "--json"]).stdout).ok()
    }

    /// The payload's first process.
    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.ps()?.get("pid")?.as_i64()?).ok()?)
    }

    /// The ends of its GPUs' UUIDs, while it runs.
    fn gpus(&self) -> Option<Vec<String>> {
        let payload = self.ps()?;
        payload.get("pid")?.as_i64()?;
        let last = |uuid: &serde_json::Value| Some(uuid.as_str()?.chars().last()?.to_string());
        payload.get("gpus")?.as_array()?.iter().map(last).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A payload outlives its agent, and must not outlive its test.
        if self.agent.runs() {
            let _ = self.ctl(&["stop", &self.name]);
        }
    }
}

#[test]
fn gpus_and_their_profile_come_with_a_payload_and_go_with_it() {
    let world = world(MANIFEST);
    world.subscriber.telemetry("it runs, and two GPUs have its profile", |telemetry| {
        phase(telemetry) == Some(PayloadPhase::Running) && slowed(telemetry) == 2
    });
    let birth = world.subscriber.wait("a birth with it", |heard| {
        heard.iter().rev().find_map(|one| {
            let Message::Birth(birth) = &one.message else { return None };
            (!birth.payloads.is_empty()).then(|| birth.clone())
        })
    });
    assert_eq!(birth.payloads[0].name, world.name);
    let log = String::from_utf8(world.ctl(&["logs", &world.name]).stdout).unwrap();
    assert!(log.contains("up\n"), "{log:?}");
    assert!(world.ctl(&["stop", &world.name]).status.success());
    world.subscriber.telemetry("it is gone, and so is its profile", |telemetry| {
        phase(telemetry) == Some(PayloadPhase::Stopped) && slowed(telemetry) == 0
    });
    let wrong = world.ctl(&["start", "nothing"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("no such payload"));
}

#[test]
fn a_payload_that_is_killed_is_back_and_one_whose_agent_is_killed_is_unhurt() {
    let mut world = world(MANIFEST);
    world.subscriber.telemetry("it runs", |telemetry| phase(telemetry) == Some(PayloadPhase::Running));
    let first = until("its process", || world.pid());
    kill_process(first, Signal::KILL).unwrap();
    let second = until("another process", || world.pid().filter(|pid| *pid != first));
    for _ in 0..5 {
        world.agent.signal(Signal::KILL);
        let _ = world.agent.ended();
        world.agent.run();
        let again = until("the agent tells of it", || world.pid());
        assert_eq!(again, second, "adopted, neither ended nor doubled");
    }
    let telemetry = world.subscriber.telemetry("adopted", |telemetry| {
        telemetry.payloads.first().is_some_and(|payload| payload.adopted) && slowed(telemetry) == 2
    });
    assert_eq!(phase(&telemetry), Some(PayloadPhase::Running));
}

#[test]
fn a_payload_whose_gpu_is_gone_gets_another_one() {
    let world = world(MANIFEST);
    world.subscriber.telemetry("it runs", |telemetry| phase(telemetry) == Some(PayloadPhase::Running));
    let first = until("its process", || world.pid());
    assert_eq!(world.gpus().unwrap(), ["0", "1"]);
    world.agent.sim.control("gpu 1 fall").unwrap();
    until("another process on others", || {
        world.gpus().filter(|gpus| gpus == &["0", "2"]).filter(|_| world.pid().is_some_and(|pid| pid != first))
    });
    let now = until("its process", || world.pid());
    world.agent.sim.control("gpu 2 xid 31").unwrap();
    until("started anew for an error of its own doing", || world.pid().filter(|pid| *pid != now));
}
