//! `rigd-ctl desired` over a real broker, with a rig that the test plays.

use std::fs;
use std::process::{Command, Output};
use std::thread;

use rigd::wire::{
    Desired, Difference, Encoding, Header, Kind, Message, RefusedRevision, Reported, Signed, decode, encode,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};

use crate::agent::Scratch;
use crate::broker::Broker;

/// What the played rig reports, in order: the name of the first payload is what it shall do.
fn reports(desired: &Desired) -> Vec<Reported> {
    let revision = desired.revision;
    let difference = Difference {
        what: "payload x".to_owned(),
        want: "runs".to_owned(),
        have: "stopped".to_owned(),
        why: "it is being started".to_owned(),
    };
    let under_way = Reported { accepted: revision, differences: vec![difference], ..Reported::default() };
    let reached = Reported { reached: revision, accepted: revision, ..Reported::default() };
    let reason = "no such payload".to_owned();
    let refused = Reported { accepted: 1, refused: Some(RefusedRevision { revision, reason }), ..Reported::default() };
    match desired.payloads.first().map(|payload| payload.name.as_str()) {
        Some("good") => vec![under_way, reached],
        Some("slow") => vec![under_way],
        Some("bad") => vec![refused],
        _ => Vec::new(),
    }
}

/// A rig that answers each desired state as its first payload says, until the broker goes.
fn play(port: u16) {
    let (client, mut connection) = Client::new(MqttOptions::new("rig-1", "127.0.0.1", port), 16);
    client.try_subscribe("r1/rig-1/dn/des", QoS::AtLeastOnce).unwrap();
    let (ready, subscribed) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        for event in connection.iter() {
            match event {
                Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.try_send(())),
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let signed = Signed::parse(&publish.payload).unwrap();
                    let (_, Message::Desired(desired)) = decode(signed.message).unwrap() else { panic!("not desired") };
                    for reported in reports(&desired) {
                        let bytes = encode(Encoding::Postcard, Header::new(Kind::Reported, 7, 0), &reported);
                        client.try_publish("r1/rig-1/up/rep", QoS::AtLeastOnce, true, bytes).unwrap();
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    subscribed.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
}

#[test]
fn a_desired_state_is_set_and_the_exit_code_tells_what_became_of_it() {
    let broker = Broker::start();
    let scratch = Scratch::new("desired");
    let at = |name: &str| scratch.path.join(name).to_str().unwrap().to_owned();
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args(arguments).output().unwrap()
    };
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let with = |verb: &str, rest: &[&str]| ctl(&[&["desired", verb, "--broker", &url, "rig-1"], rest].concat());
    let text = |output: &Output| String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    let keys = ctl(&["keygen", "ops", "--scope", "operate", "--out", &at("ops.key")]);
    fs::write(at("rigd.toml"), [b"rig = \"rig-1\"\n", &keys.stdout[..]].concat()).unwrap();
    let stranger = ctl(&["keygen", "stranger", "--out", &at("stranger.key")]);
    fs::write(at("stranger.toml"), &stranger.stdout).unwrap();
    let file = |payload: &str| {
        fs::write(at("desired.toml"), format!("[payloads.{payload}]\nrun = true\n")).unwrap();
        at("desired.toml")
    };
    let set = |payload: &str, rest: &[&str]| {
        with("set", &[&[file(payload).as_str(), "--sign", &at("ops.key")], rest].concat())
    };

    let nothing = with("get", &[]);
    assert!(text(&nothing).contains("the broker holds no desired state"), "{}", text(&nothing));
    assert_eq!(with("diff", &[]).status.code(), Some(3));

    play(broker.port);
    let reached = set("good", &[]);
    assert_eq!(reached.status.code(), Some(0), "{}", text(&reached));
    assert!(text(&reached).ends_with("rig-1: revision 1 is reached\n"), "{}", text(&reached));
    assert_eq!(with("diff", &[]).status.code(), Some(0));

    let slow = set("slow", &["--wait", "1s"]);
    assert_eq!(slow.status.code(), Some(4), "{}", text(&slow));
    let taken = set("slow", &["--taken"]);
    assert_eq!(taken.status.code(), Some(0), "{}", text(&taken));
    let differs = with("diff", &[]);
    assert_eq!(differs.status.code(), Some(1));
    assert!(text(&differs).contains("payload x"), "{}", text(&differs));
    assert!(text(&differs).contains("want runs, have stopped: it is being started"), "{}", text(&differs));

    let got = with("get", &["--trust", &at("rigd.toml")]);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got));
    assert!(
        text(&got).contains("rig-1: revision 3, signed ") && text(&got).contains("by ops, which fits"),
        "{}",
        text(&got)
    );
    assert!(text(&got).contains("revision 3 is in force, 1 not so yet"), "{}", text(&got));
    let doubted = with("get", &["--trust", &at("stranger.toml"), "--json"]);
    assert_eq!(doubted.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&doubted.stdout).unwrap();
    assert_eq!((&json["desired"]["revision"], &json["signatures"][0]["fits"]), (&3.into(), &false.into()));

    let refused = set("bad", &["--revision", "9"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("revision 9 was refused: no such payload"), "{}", text(&refused));
    let silent = set("silent", &["--wait", "1s"]);
    assert_eq!(silent.status.code(), Some(3), "{}", text(&silent));
    assert!(text(&silent).contains("rig-1 said nothing to revision 10 within 1s"), "{}", text(&silent));
    assert!(text(&with("get", &[])).contains("rig-1: revision 10, signed"), "the number after the refused one");

    fs::write(at("desired.toml"), "[payload.x]\nrun = true\n").unwrap();
    let wrong = with("set", &[&at("desired.toml"), "--sign", &at("ops.key")]);
    assert!(!wrong.status.success() && text(&wrong).contains("desired.toml:1: payload"), "{}", text(&wrong));
    let example = ctl(&["desired", "set", "--example"]);
    assert!(example.status.success() && text(&example).contains("[payloads.llm]"));
}
