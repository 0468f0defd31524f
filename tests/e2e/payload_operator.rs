//! Whoever works with payloads by hand: wrong names, things twice and in the wrong order, a log that is followed while the agent is
//! replaced.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use rigd::wire::PayloadPhase;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::until;
use crate::house::{House, kill};

/// For a line of a log that is followed.
const DEADLINE: Duration = Duration::from_secs(40);

fn manifest() -> String {
    let body = "i=0; while :; do i=$((i+1)); printf 'line %d\\r\\n' $i; sleep 0.05; done";
    format!("kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", '''{body}''']\n")
}

/// `rigd-ctl` that goes on until it is ended.
struct Following {
    process: Child,
    lines: Receiver<String>,
}

impl Following {
    fn new(house: &House, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args(arguments).arg("--socket").arg(house.agent.scratch.path.join("rigd.sock"));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let (tell, lines) = sync_channel(64);
        thread::spawn(move || said.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { process, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap()
    }

    /// Told to end: not by Ctrl-C's signal, which is ignored below a shell that has put the tests into the background. The signal that
    /// ended it, and what it said on standard error.
    fn ended(mut self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.process.wait().unwrap();
        (std::os::unix::process::ExitStatusExt::signal(&status), said)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // One that has ended is no matter.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(line: &str) -> u64 {
    line.strip_prefix("line ").and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
}

#[test]
fn a_followed_log_has_no_hole_where_the_agent_was_replaced_and_ends_when_it_is_told_to() {
    let mut house = House::new("follow", &[manifest()]);
    let pid = house.runs(0);
    let name = house.names[0].clone();
    let following = Following::new(&house, &["logs", "-f", &name]);
    let json = Following::new(&house, &["logs", "-f", "--json", &name]);
    let first = number(&following.line());
    assert_eq!(number(&following.line()), first + 1);
    house.agent.signal(Signal::KILL);
    let _ = house.agent.ended();
    // Whatever it had before it noticed: it says so, and waits.
    house.agent.run();
    assert_eq!(house.runs(0), pid);
    let newest = number(house.log(0).lines().last().unwrap());
    let mut last = first + 1;
    while last <= newest {
        let next = number(&following.line());
        assert_eq!(next, last + 1, "a hole");
        last = next;
    }
    assert_eq!(following.ended().0, Some(15));
    // A piece for each line of JSON, and none that is empty.
    let mut text = String::new();
    while text.lines().count() < 20 {
        let piece: serde_json::Value = serde_json::from_str(&json.line()).unwrap();
        let words = piece["text"].as_str().unwrap();
        assert!(!words.is_empty(), "{piece}");
        text.push_str(words);
    }
    assert_eq!(json.ended().0, Some(15));
}

#[test]
fn orders_in_any_order_are_answered_and_do_what_they_say() {
    let mut house = House::new("orders", &[manifest(), manifest()]);
    let (one, other) = (house.names[0].clone(), house.names[1].clone());
    let pid = house.runs(0);
    house.runs(1);
    let done = |arguments: &[&str]| {
        let said = house.ctl(arguments);
        assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap()
    };
    // What runs is not started twice.
    done(&["start", &one]);
    assert_eq!(house.runs(0), pid);
    for _ in 0..2 {
        done(&["stop", &one]);
        house.until(0, "it has stopped", |payload| payload.now.phase == PayloadPhase::Stopped && payload.pid.is_none());
    }
    // What stands is drained and cleared at once, and started by a restart.
    done(&["drain", &one, "--within", "1s"]);
    done(&["clear", &one]);
    let answer: serde_json::Value = serde_json::from_str(&done(&["restart", &one, "--json"])).unwrap();
    assert_eq!(answer, serde_json::json!({ "payload": one, "done": true }));
    assert_ne!(house.runs(0), pid);
    let told: Vec<serde_json::Value> =
        done(&["ps", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 2);
    // The log of one that stands is there, and following it waits for more.
    done(&["stop", &other]);
    assert!(done(&["logs", &other, "--tail", "1"]).ends_with('\n'));
    for arguments in [
        ["start", "nobody"],
        ["stop", "nobody"],
        ["restart", "nobody"],
        ["drain", "nobody"],
        ["logs", "nobody"],
        ["clear", ""],
    ] {
        let said = house.ctl(&arguments);
        let error = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success() && said.stdout.is_empty(), "{arguments:?}");
        let expected = format!("rigd-ctl: the agent says: {}: there is no such payload\n", arguments[1]);
        assert_eq!(error, expected, "{arguments:?}");
    }
    // Nobody there is one line that says what to do.
    house.agent.signal(Signal::KILL);
    let _ = house.agent.ended();
    for arguments in [["ps", "--json"], ["stop", one.as_str()], ["logs", one.as_str()]] {
        let said = house.ctl(&arguments);
        let error = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success() && said.stdout.is_empty(), "{arguments:?}");
        assert!(error.contains("systemctl status rigd") && error.lines().count() == 1, "{arguments:?}: {error}");
    }
    house.agent.run();
    until("the agent answers", || house.ps());
}

#[test]
fn a_payload_whose_manifest_goes_ends_and_can_still_be_asked_of() {
    let house = House::new("goes", &[manifest(), manifest()]);
    let (gone, kept) = (house.names[0].clone(), house.names[1].clone());
    let (pid, stays) = (house.runs(0), house.runs(1));
    house.remove_manifest(0);
    let said = house.ctl(&["reload"]);
    assert!(said.status.success());
    assert_eq!(String::from_utf8(said.stdout).unwrap(), format!("removed {gone}\n"));
    house.until(0, "it ends", |payload| payload.removed && payload.pid.is_none());
    assert!(crate::house::Seen::of(pid).is_none_or(|seen| seen.state == 'Z'));
    // Twice is no other thing.
    let said = house.ctl(&["reload"]);
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "No manifest has changed.\n");
    assert!(!house.log(0).is_empty());
    assert!(String::from_utf8(house.ctl(&["ps"]).stdout).unwrap().contains("has no manifest any more"));
    for verb in ["start", "restart"] {
        let said = house.ctl(&[verb, &gone]);
        assert!(!said.status.success(), "{verb}");
        let expected = format!("rigd-ctl: the agent says: {gone}: there is no such payload\n");
        assert_eq!(String::from_utf8(said.stderr).unwrap(), expected);
    }
    assert!(house.ctl(&["stop", &gone]).status.success());
    assert_eq!(house.runs(1), stays, "{kept} has not noticed");
    kill(stays);
    house.until(1, "it is back", |payload| payload.pid.is_some_and(|pid| pid != stays));
}
