//! Payloads under the real agent: GPUs and their profile come with a payload and go with it, and it outlives the agent.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rigd::alarm::{self, Cause};
use rigd::units::Megahertz;
use rigd::wire::{Message, PayloadCause, PayloadPhase, Subject, Telemetry};
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::house::sweep;
use crate::subscriber::Subscriber;

struct World {
    agent: Agent,
    subscriber: Subscriber,
    /// Its name, of this test alone: rigs on one machine share its cgroups.
    name: String,
    manifests: Scratch,
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
    World { agent, subscriber, name, manifests: directory, _broker: broker }
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

    /// Waits for an alarm of its payload; its cause.
    fn alarm(&self, kind: alarm::Kind, raised: bool) -> Option<Cause> {
        self.subscriber.wait(&format!("{kind:?} raised={raised}"), |heard| {
            heard.iter().find_map(|one| {
                let Message::Event(event) = &one.message else { return None };
                let its = event.name == self.name && event.subject == Subject::Payload(0);
                (its && event.alarm == kind && event.raised == raised).then_some(event.cause)
            })
        })
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
            let _ = self.ctl(&["drain", &self.name, "--within", "1s"]);
            sweep(self.agent.pid(), std::slice::from_ref(&self.name));
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
    until("it has said so", || {
        let log = String::from_utf8(world.ctl(&["logs", &world.name]).stdout).unwrap();
        log.contains("up\n").then_some(())
    });
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

/// The API of a payload whose number the test sets; its port and the number.
fn api() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rate = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&rate);
    // Ends with the tests.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Whoever leaves before its answer has had its time.
            let _ = stream.read(&mut [0; 1_024]);
            let body = format!("{{\"rate\": {}}}", told.load(Ordering::Relaxed));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (port, rate)
}

#[test]
fn a_payload_that_yields_too_little_is_restarted_once_then_held_and_the_control_plane_is_told() {
    let (port, rate) = api();
    rate.store(100, Ordering::Relaxed);
    let world = world(&format!(
        "kind = \"mining\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sleep\", \"1000\"]\n\
         [meter]\nname = \"generic-json\"\nport = {port}\ninterval_s = 1\n[expect]\nrate = 100\nwarmup_s = 1\nlow_s = 10\n"
    ));
    let telemetry = world.subscriber.telemetry("it yields what it should", |telemetry| {
        phase(telemetry) == Some(PayloadPhase::Running) && telemetry.payloads[0].rate.0.is_ok()
    });
    assert_eq!((telemetry.beliefs.len(), telemetry.payloads[0].restarts), (1, 0));
    let first = until("its process", || world.pid());
    rate.store(69, Ordering::Relaxed);
    world.subscriber.telemetry("low", |telemetry| phase(telemetry) == Some(PayloadPhase::Degraded));
    let telemetry = world.subscriber.telemetry("started anew", |telemetry| telemetry.payloads[0].restarts == 1);
    assert_eq!(telemetry.payloads[0].cause, Some(PayloadCause::LowRate));
    assert_ne!(until("another process", || world.pid()), first);
    let telemetry = world.subscriber.telemetry("held", |telemetry| phase(telemetry) == Some(PayloadPhase::Quarantined));
    assert_eq!(telemetry.payloads[0].held, Some(PayloadCause::LowRate));
    let cause = world.alarm(alarm::Kind::PayloadQuarantined, true);
    assert_eq!(cause, Some(Cause::Payload(Some(PayloadCause::LowRate))));
    // Switched off unless somebody switches it on, and never on a simulated rig.
    world.agent.logged("the rig could be restarted");
    let refused = world.ctl(&["start", &world.name]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it is in quarantine"));
    rate.store(70, Ordering::Relaxed);
    assert!(world.ctl(&["clear", &world.name]).status.success());
    assert!(world.ctl(&["start", &world.name]).status.success());
    world.subscriber.telemetry("enough", |telemetry| phase(telemetry) == Some(PayloadPhase::Running));
    world.alarm(alarm::Kind::PayloadQuarantined, false);
}

#[test]
fn a_payload_that_keeps_failing_is_told_of_with_its_exit_code() {
    let world = world(
        "kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", \"exit 3\"]\n\
         [restart]\nbudget = 3\nmin_s = 3\n",
    );
    let cause = Some(Cause::Payload(Some(PayloadCause::Exited(3))));
    assert_eq!(world.alarm(alarm::Kind::PayloadFailing, true), cause);
    assert_eq!(world.alarm(alarm::Kind::PayloadFailed, true), cause);
    let telemetry =
        world.subscriber.telemetry("given up", |telemetry| phase(telemetry) == Some(PayloadPhase::OutOfBudget));
    assert!(telemetry.alarms.iter().any(|alarm| alarm.subject == Subject::Payload(0)));
    assert!(world.ctl(&["stop", &world.name]).status.success());
    world.alarm(alarm::Kind::PayloadFailed, false);
}

#[test]
fn a_manifest_is_taken_in_on_request_and_a_wrong_one_is_not() {
    let world = world(MANIFEST);
    world.subscriber.telemetry("it runs", |telemetry| phase(telemetry) == Some(PayloadPhase::Running));
    let first = until("its process", || world.pid());
    let file = world.manifests.path.join(format!("{}.toml", world.name));
    let said = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(said(&world.ctl(&["reload"])), "No manifest has changed.\n");
    fs::write(&file, MANIFEST.replace("count = 2", "count = \"two\"")).unwrap();
    let wrong = world.ctl(&["reload"]);
    let line = format!("{}:6: gpus.count: must be", file.display());
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains(&line), "{wrong:?}");
    assert_eq!(world.pid(), Some(first), "the one that was right goes on");
    fs::write(&file, MANIFEST.replace("count = 2", "count = 3")).unwrap();
    assert_eq!(said(&world.ctl(&["reload"])), format!("changed {}\n", world.name));
    until("another process on three GPUs", || {
        world.gpus().filter(|gpus| gpus.len() == 3 && world.pid().is_some_and(|pid| pid != first))
    });
    world.subscriber.telemetry("its profile on each", |telemetry| slowed(telemetry) == 3);
    fs::remove_file(&file).unwrap();
    assert_eq!(said(&world.ctl(&["reload"])), format!("removed {}\n", world.name));
    world.subscriber.telemetry("drained, and its profile is gone", |telemetry| {
        phase(telemetry) == Some(PayloadPhase::Stopped) && slowed(telemetry) == 0
    });
    assert!(said(&world.ctl(&["ps"])).contains("has no manifest any more"));
}
