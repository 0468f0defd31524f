//! Held back for the rig's sake: a payload that counts stands still, and goes on.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use rigd::payload::lifecycle::{Exit, Phase};
use rigd::payload::manifest::Manifest;
use rigd::payload::supervisor::Status;
use rigd::payload::{By, Hold};

use super::rig::{DEADLINE, Rig, block_on, cgroup, directory, lives, root, script_of, until_quiet};

/// Adds a line every few milliseconds.
const COUNTS: &str = "echo up; while :; do echo >> count; sleep 0.005; done";

fn counter(name: &str, more: &str) -> Manifest {
    script_of("mining", name, COUNTS, more)
}

fn count(directory: &Path, name: &str) -> u64 {
    fs::metadata(directory.join("payloads").join(name).join("state/count")).map_or(0, |file| file.len())
}

/// Whether it stands while another one counts twenty.
async fn stands(rig: &Rig, name: &str, clock: &str) -> bool {
    let (before, from) = (count(&rig.directory, name), count(&rig.directory, clock));
    until_quiet("the clock counts", || count(&rig.directory, clock) >= from + 20).await;
    count(&rig.directory, name) == before
}

async fn counts(rig: &Rig, name: &str) {
    let before = count(&rig.directory, name);
    until_quiet("it counts", || count(&rig.directory, name) > before + 3).await;
}

fn running(status: &Status) -> bool {
    status.phase == Phase::Running
}

fn paused(status: &Status) -> bool {
    status.phase == Phase::Paused && status.paused.is_some()
}

/// A counter and a clock that both run.
async fn two(name: &str, more: &str) -> (Rig, i32) {
    let rig = Rig::new(name, vec![counter("held", more), counter("clock", "")]);
    rig.start("clock").await.unwrap();
    rig.start("held").await.unwrap();
    let pid = rig.until("held", running).await.pid.unwrap();
    counts(&rig, "clock").await;
    counts(&rig, "held").await;
    (rig, pid)
}

async fn end(rig: Rig) {
    rig.stop("held").await;
    rig.stop("clock").await;
    rig.end().await;
}

#[test]
fn a_paused_payload_stands_and_the_same_one_goes_on() {
    block_on(async {
        let (rig, pid) = two("pause", "").await;
        rig.hold("held", Hold::Pause).await;
        let status = rig.until("held", paused).await;
        let by = if rig.cgroup.is_some() { By::Freezer } else { By::Signal };
        assert_eq!((status.paused, status.hold, status.pid, status.restarts), (Some(by), Hold::Pause, Some(pid), 0));
        assert!(stands(&rig, "held", "clock").await);
        // Said again it is no other thing.
        rig.hold("held", Hold::Pause).await;
        rig.hold("held", Hold::Free).await;
        let status = rig.until("held", running).await;
        assert_eq!((status.paused, status.hold, status.pid, status.restarts), (None, Hold::Free, Some(pid), 0));
        counts(&rig, "held").await;
        end(rig).await;
    });
}

#[test]
fn without_cgroups_it_is_stopped_by_a_signal_and_says_so() {
    block_on(async {
        let manifests = vec![counter("held", ""), counter("clock", "")];
        let rig = Rig::with(directory("signal"), Some("/nonexistent".into()), manifests, |_| {});
        rig.start("clock").await.unwrap();
        rig.start("held").await.unwrap();
        counts(&rig, "held").await;
        counts(&rig, "clock").await;
        rig.hold("held", Hold::Pause).await;
        assert_eq!(rig.until("held", paused).await.paused, Some(By::Signal));
        assert!(stands(&rig, "held", "clock").await);
        rig.hold("held", Hold::Free).await;
        rig.until("held", running).await;
        counts(&rig, "held").await;
        // And one that is told to end while it is stopped hears that.
        rig.hold("held", Hold::Pause).await;
        rig.until("held", paused).await;
        let status = rig.stop("held").await;
        assert_eq!((status.exit, status.paused), (Some(Exit::Signal(15)), None));
        rig.stop("clock").await;
        rig.end().await;
    });
}

#[test]
fn what_is_drained_or_killed_comes_back_by_itself() {
    block_on(async {
        let body = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let more = "[restart]\nbudget = 1";
        let manifests = vec![script_of("mining", "miner", body, more), script_of("ai", "model", body, more)];
        let rig = Rig::new("drain", manifests);
        // An AI is drained where a miner is paused.
        for (name, hold, exit, last) in [
            ("miner", Hold::Drain, Exit::Code(0), "bye"),
            ("model", Hold::Pause, Exit::Code(0), "bye"),
            ("miner", Hold::Stop, Exit::Signal(9), "up"),
        ] {
            if hold != Hold::Stop {
                rig.start(name).await.unwrap();
            }
            let pid = rig.until(name, running).await.pid.unwrap();
            rig.until_said(name, "up").await;
            rig.hold(name, hold).await;
            let status = rig.until(name, |status| status.phase == Phase::Waiting).await;
            assert_eq!((status.exit, status.pid, status.hold, status.restarts), (Some(exit), None, hold, 0));
            let told = status.error.unwrap();
            assert!(
                told.starts_with("waits, to be ")
                    && told.ends_with("for the rig's power or heat; it starts when that is over")
            );
            assert!(!lives(pid));
            rig.until_said(name, last).await;
            rig.hold(name, Hold::Free).await;
            let status = rig.until(name, running).await;
            assert_eq!((status.error, status.restarts, status.failures, status.cause), (None, 0, 0, None));
            assert_ne!(status.pid, Some(pid));
        }
        rig.stop("model").await;
        // A start is remembered while it is held back, and a stop ends that.
        rig.stop("miner").await;
        rig.hold("miner", Hold::Stop).await;
        rig.until("miner", |status| status.hold == Hold::Stop).await;
        rig.start("miner").await.unwrap();
        assert_eq!(rig.until("miner", |_| true).await.phase, Phase::Waiting);
        rig.stop("miner").await;
        rig.hold("miner", Hold::Free).await;
        rig.hold("model", Hold::Free).await;
        let status = rig.until("miner", |status| status.hold == Hold::Free).await;
        assert_eq!((status.phase, status.error), (Phase::Stopped, None));
        rig.end().await;
    });
}

/// A group that was killed is made anew for the next run, and not before the last child of the one before is gone.
#[test]
fn one_that_was_killed_is_started_each_time_it_may_go_on() {
    block_on(async {
        let manifest = script_of("mining", "miner", "exec sleep 1000", "[restart]\nbudget = 1");
        let rig = Rig::new("kills", vec![manifest]);
        rig.start("miner").await.unwrap();
        for turn in 0..40 {
            let status = rig.until("miner", |status| !matches!(status.phase, Phase::Waiting | Phase::Starting)).await;
            assert_eq!((status.phase, status.error), (Phase::Running, None), "turn {turn}");
            rig.hold("miner", Hold::Stop).await;
            rig.until("miner", |status| status.phase == Phase::Waiting).await;
            rig.hold("miner", Hold::Free).await;
        }
        rig.until("miner", running).await;
        rig.stop("miner").await;
        rig.end().await;
    });
}

#[test]
fn one_that_is_told_to_end_while_it_is_frozen_ends_as_it_likes_to() {
    block_on(async {
        let body = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.01; done";
        let manifest = script_of("batch", "held", body, "[restart]\npolicy = \"never\"");
        let rig = Rig::new("term", vec![manifest]);
        rig.start("held").await.unwrap();
        rig.until_said("held", "up").await;
        rig.hold("held", Hold::Pause).await;
        let pid = rig.until("held", paused).await.pid.unwrap();
        let status = rig.stop("held").await;
        assert_eq!((status.exit, status.paused), (Some(Exit::Code(7)), None));
        rig.until_said("held", "bye").await;
        // Killed while it is frozen, it ends, and its cgroup takes the next one.
        rig.hold("held", Hold::Free).await;
        rig.start("held").await.unwrap();
        rig.until("held", running).await;
        rig.hold("held", Hold::Pause).await;
        let second = rig.until("held", paused).await.pid.unwrap();
        rig.hold("held", Hold::Stop).await;
        let status = rig.until("held", |status| status.phase == Phase::Waiting).await;
        assert_eq!(status.exit, Some(Exit::Signal(9)));
        rig.hold("held", Hold::Free).await;
        let third = rig.until("held", running).await.pid.unwrap();
        assert!(pid != second && second != third && lives(third));
        rig.stop("held").await;
        rig.end().await;
    });
}

#[test]
fn the_next_agent_keeps_a_pause_that_is_said_again_and_ends_one_that_is_not() {
    if !root() {
        return;
    }
    block_on(async {
        let (rig, pid) = two("next", "").await;
        rig.hold("held", Hold::Pause).await;
        rig.until("held", paused).await;
        let manifests = || vec![counter("held", ""), counter("clock", "")];
        let (place, group) = rig.leave().await;
        let frozen = || {
            let file = group.as_ref().map(|group| group.join("payloads/held/cgroup.freeze"));
            file.and_then(|file| fs::read_to_string(file).ok()).is_none_or(|text| text == "1\n")
        };
        assert!(lives(pid) && frozen());
        let rig = Rig::with(place, group.clone(), manifests(), |_| {});
        let status = rig.until("held", paused).await;
        assert_eq!((status.pid, status.adopted, status.hold), (Some(pid), true, Hold::Pause));
        rig.hold("held", Hold::Pause).await;
        assert!(stands(&rig, "held", "clock").await);
        let (place, group_again) = rig.leave().await;
        assert!(frozen());
        // Nobody says it to this one: it is as if it had never been.
        let rig = Rig::with(place, group_again, manifests(), |_| {});
        rig.until("held", paused).await;
        let status = rig.until("held", running).await;
        assert_eq!((status.pid, status.hold, status.restarts), (Some(pid), Hold::Free, 0));
        counts(&rig, "held").await;
        end(rig).await;
    });
}

#[test]
fn what_an_agent_froze_and_did_not_write_down_goes_on_with_the_next() {
    let Some(group) = root().then(|| cgroup("torn")).flatten() else { return };
    block_on(async {
        let place = directory("torn");
        let rig = Rig::with(place, Some(group.clone()), vec![counter("held", "")], |_| {});
        rig.start("held").await.unwrap();
        counts(&rig, "held").await;
        let pid = rig.until("held", running).await.pid;
        let (place, again) = rig.leave().await;
        fs::write(group.join("payloads/held/cgroup.freeze"), "1").unwrap();
        let rig = Rig::with(place, again, vec![counter("held", "")], |_| {});
        assert_eq!(rig.until("held", running).await.pid, pid);
        counts(&rig, "held").await;
        rig.stop("held").await;
        rig.end().await;
    });
}

/// What a program's API says to each request, in turn; no answer at all where there is none left. Gives what it was asked.
fn api(answers: &'static [&'static str]) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = sync_channel(16);
    thread::spawn(move || {
        let mut answers = answers.iter();
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            // Head and body of xmrig's requests end with the body's brace.
            while !asked.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => asked.extend_from_slice(buffer.get(..count).unwrap()),
                    _ => break,
                }
            }
            let _ = tell.try_send(String::from_utf8(asked).unwrap());
            match answers.next() {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => silent.push(stream),
            }
        }
    });
    (port, told)
}

/// As xmrig says it: 200 in any case, with a result or an error (src/base/api/requests/HttpApiRequest.cpp, 6.26).
const YES: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 49\r\n\r\n\
    {\"result\":{\"status\":\"OK\"},\"jsonrpc\":\"2.0\",\"id\":1}";
const NO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n\
    {\"error\":{\"code\":-32601,\"message\":\"Method not found\"},\"jsonrpc\":\"2.0\",\"id\":1}";
/// With "restricted": true (src/base/api/Httpd.cpp, 6.26).
const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";

async fn asked(told: &Receiver<String>) -> String {
    let deadline = rigd::clock::now() + DEADLINE;
    loop {
        if let Ok(text) = told.try_recv() {
            return text;
        }
        assert!(rigd::clock::now() < deadline, "was not asked");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn request(port: u16, method: &str) -> String {
    let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\"}}");
    format!(
        "POST /json_rpc HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Authorization: Bearer secret-1\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_miner_with_an_api_is_asked_first_and_frozen_where_it_says_no() {
    if !root() {
        return;
    }
    block_on(async {
        let place = directory("api-token");
        let token = place.join("token");
        fs::write(&token, "secret-1\n").unwrap();
        for (name, answers, by) in [
            ("yes", [YES, YES].as_slice(), By::Api),
            ("no", &[NO, NO], By::Freezer),
            ("forbidden", &[FORBIDDEN, FORBIDDEN], By::Freezer),
            ("silent", &[], By::Freezer),
        ] {
            let (port, told) = api(answers);
            let more = format!("[pause]\napi = \"xmrig\"\nport = {port}\ntoken_file = {token:?}\n");
            let rig = Rig::with(directory(name), cgroup(name), vec![counter("held", &more)], |_| {});
            rig.start("held").await.unwrap();
            counts(&rig, "held").await;
            let pid = rig.until("held", running).await.pid;
            rig.hold("held", Hold::Pause).await;
            assert_eq!(rig.until("held", paused).await.paused, Some(by), "{name}");
            assert_eq!(asked(&told).await, request(port, "pause"), "{name}");
            let freeze = rig.cgroup.as_ref().unwrap().join("payloads/held/cgroup.freeze");
            assert_eq!(fs::read_to_string(&freeze).unwrap() == "1\n", by == By::Freezer, "{name}");
            rig.hold("held", Hold::Free).await;
            let status = rig.until("held", running).await;
            assert_eq!((status.pid, status.paused), (pid, None), "{name}");
            assert_eq!(asked(&told).await, request(port, "resume"), "{name}");
            counts(&rig, "held").await;
            rig.stop("held").await;
            rig.end().await;
        }
        fs::remove_dir_all(place).unwrap();
    });
}

#[test]
fn a_miner_that_was_paused_by_its_api_and_cannot_be_resumed_is_started_again() {
    if !root() {
        return;
    }
    block_on(async {
        let (port, _told) = api(&[YES, FORBIDDEN, NO, FORBIDDEN]);
        let more = format!("[pause]\napi = \"xmrig\"\nport = {port}\n");
        let rig = Rig::with(directory("stuck"), cgroup("stuck"), vec![counter("held", &more)], |_| {});
        rig.start("held").await.unwrap();
        let pid = rig.until("held", running).await.pid;
        rig.hold("held", Hold::Pause).await;
        rig.until("held", paused).await;
        rig.hold("held", Hold::Free).await;
        let status = rig.until("held", |status| running(status) && status.pid != pid).await;
        assert_eq!((status.restarts, status.hold), (1, Hold::Free));
        counts(&rig, "held").await;
        rig.stop("held").await;
        rig.end().await;
    });
}
