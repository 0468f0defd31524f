//! llama.cpp's real server under the real agent, by the example manifest: `cargo xtask test --real-ai`.
//!
//! `RIGD_REAL_AI` is a folder with the package xllamacpp, which is that server, `serve.py`, which gives it llama-server's command line,
//! and `model.gguf`, a language model of random weights that `model.py` has written. GPUs are simulated; the server computes on the CPU.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rigd::wire::{PayloadPhase, PayloadUnit};

use crate::agent::until;
use crate::broker::free_port;
use crate::house::{House, Seen, cgroup, kill, procs};

const EXAMPLE: &str = include_str!("../../examples/payloads/llama-server.toml");
const KEY: &str = "a-key-of-this-test";
/// A model is loaded for the first time from a cold disk.
const ANSWER: Duration = Duration::from_secs(60);

/// Where another user may read it.
struct Public(PathBuf);

impl Public {
    fn copy(from: &Path) -> Self {
        let to = PathBuf::from(format!("/var/tmp/rigd-real-ai-{}", std::process::id()));
        fs::create_dir_all(&to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["xllamacpp", "serve.py", "model.gguf"] {
            assert!(from.join(name).exists(), "{} has no {name}", from.display());
            let done = Command::new("cp").arg("-r").arg(from.join(name)).arg(&to).status().unwrap();
            assert!(done.success());
        }
        // The agent reads it, and nobody else.
        fs::write(to.join("key"), KEY).unwrap();
        fs::set_permissions(to.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        Self(to)
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The example with this machine's paths in the place of the rig's.
fn manifest(place: &Path, port: u16) -> String {
    let path = |name: &str| place.join(name).display().to_string();
    let mut text = EXAMPLE.to_owned();
    for (from, to) in [
        ("\"/opt/llama.cpp/llama-server\"", format!("\"/usr/bin/python3\", {:?}", path("serve.py"))),
        ("/srv/models/qwen3-8b-q4_k_m.gguf", path("model.gguf")),
        ("\"8080\"", format!("\"{port}\"")),
        ("user = \"ai\"\nstate_directory = \"/var/lib/rigd-ai/llama\"", "user = \"nobody\"".to_owned()),
        ("/etc/rigd/secrets/llama", path("key")),
        ("127.0.0.1:8080", format!("127.0.0.1:{port}\"\ninterval_s = 1 #")),
        ("port = 8_080", format!("port = {port}\ninterval_s = 1")),
        ("\"/srv/models\"", format!("{:?}", place)),
        ("tcp_bind = [8_080]", format!("tcp_bind = [{port}]")),
    ] {
        assert!(text.contains(from), "the example has no {from}");
        text = text.replace(from, &to);
    }
    // The probe's line was cut at its port.
    text.replace("\"\ninterval_s = 1 #/health\"", "/health\"\ninterval_s = 1")
}

/// One request; the whole answer, or nothing where nobody answers.
fn ask(port: u16, request: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// How many tokens the server says it has made.
fn predicted(port: u16) -> f64 {
    let text = ask(port, "GET /metrics", "").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("llamacpp:tokens_predicted_total "))
        .unwrap_or_else(|| panic!("{text}"));
    line.trim().parse().unwrap()
}

fn complete(port: u16) {
    let body = "{\"prompt\": \"once upon a time\", \"n_predict\": 100, \"ignore_eos\": true}";
    let answer = ask(port, "POST /completion", body).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"tokens_predicted\":100"), "{answer}");
}

#[test]
#[ignore = "takes llama.cpp: cargo xtask test --real-ai"]
fn llama_cpp_is_started_measured_killed_and_drained() {
    let folder =
        std::env::var("RIGD_REAL_AI").expect("RIGD_REAL_AI names no folder; cargo xtask test --real-ai makes it");
    let place = Public::copy(Path::new(&folder));
    let port = free_port();
    let library = PathBuf::from(env!("CARGO_BIN_EXE_rigd")).with_file_name("deps/librigd_fake_nvml.so");
    let tables = format!("[gpu]\nlibrary = {library:?}\n[profile.inference]\ncore_lock_mhz = [210, 900]\n");
    let house = House::with("real-ai", &tables, &[manifest(&place.0, port)]);
    until("a GPU for it", || house.ctl(&["start", &house.names[0]]).status.success().then_some(()));
    let first = house.runs(0);
    assert!(ask(port, "GET /health", "").unwrap().contains("{\"status\":\"ok\"}"));
    // Its meter counts what it makes.
    let idle = house.until(0, "it is measured", |payload| payload.now.rate.0.is_ok());
    assert_eq!((idle.info.unit, idle.now.rate.0.map(|rate| rate.0)), (Some(PayloadUnit::Tokens), Ok(0)));
    assert_eq!((idle.now.gpus, idle.now.queue.0), (1, Ok(0)));
    let before = predicted(port);
    let busy = until("tokens a second", || {
        complete(port);
        house.one(0).filter(|payload| payload.now.rate.0.is_ok_and(|rate| rate.0 > 0))
    });
    let made = predicted(port) - before;
    assert!(made >= 100.0, "{made} tokens");
    println!("{made} tokens; the meter said {} thousandths a second", busy.now.rate.0.unwrap().0);
    // Killed, it comes back and is ready by its own word.
    kill(first);
    let again = house.until(0, "another process", |payload| {
        payload.now.phase == PayloadPhase::Running && payload.pid.is_some_and(|pid| pid != first)
    });
    complete(port);
    let pid = again.pid.unwrap();
    let group = cgroup(pid).filter(|group| group.ends_with(&house.names[0]));
    assert!(house.ctl(&["drain", &house.names[0], "--within", "30s"]).status.success());
    house.until(0, "drained", |payload| payload.now.phase == PayloadPhase::Stopped && payload.now.gpus == 0);
    assert!(Seen::of(pid).is_none() && TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(group.is_none_or(|group| procs(&group).is_empty()));
    assert!(house.log(0).contains("listens on") && !house.log(0).contains(KEY));
}
