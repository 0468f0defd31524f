//! A subscriber in another language, which has `src/wire/README.md` and nothing else, and what the agent really sends: it reads
//! the same as `rigd-ctl decode`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rigd::wire::Message;

use crate::agent::Agent;
use crate::broker::Broker;
use crate::gpu_breaks::{set, setup};
use crate::subscriber::Subscriber;

fn ctl_decode(hex: &str) -> serde_json::Value {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"))
        .args(["decode", "--hex", "--compact"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(hex.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_subscriber_by_the_page_alone_reads_what_the_agent_sends() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let _agent = Agent::start(&broker, setup());
    subscriber.telemetry("eight GPUs with their profile", set);
    let births = subscriber.all(|heard| matches!(heard.message, Message::Birth(_)).then_some(()));
    assert!(!births.is_empty());
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/subscriber.py");
    // Retained ones come first, then telemetry each 100 ms: each GPU's turn is among them.
    let port = broker.port.to_string();
    let output = Command::new("python3").arg(script).args(["127.0.0.1", &port, "r1/+/up/+", "14"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut kinds = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let heard: serde_json::Value = serde_json::from_str(line).unwrap();
        let expected = ctl_decode(heard["hex"].as_str().unwrap());
        assert_eq!(heard["message"], expected, "on {}", heard["topic"]);
        kinds.push(expected["kind"].as_str().unwrap().to_owned());
        if kinds.last().is_some_and(|kind| kind == "telemetry") {
            assert_eq!(expected["body"]["gpus"].as_array().map(Vec::len), Some(8));
            assert!(expected["body"]["gpu_detail"].is_object());
        }
    }
    for (kind, least) in [("online", 1), ("birth", 1), ("telemetry", 8)] {
        let count = kinds.iter().filter(|one| *one == kind).count();
        assert!(count >= least, "{count} of {kind} in {kinds:?}");
    }
}
