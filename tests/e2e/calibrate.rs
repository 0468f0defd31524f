//! Calibration on a running rig: one fan is slowed down, the others have full air, and everything ends it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rigd::alarm::Kind;
use rigd::reading::Stage;

use crate::agent::{Agent, Setup};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

fn calibrate(agent: &Agent, zone: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl"))
        .args(["calibrate", zone, "--socket"])
        .arg(agent.scratch.path.join("rigd.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads the tool's lines until one has this text.
fn told(child: &mut Child, text: &str) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let found = lines.map(Result::unwrap).any(|line| line.contains(text));
    assert!(found, "the tool ended before it said {text:?}");
}

fn stage(subscriber: &Subscriber, what: &str, stage: Stage) {
    subscriber.telemetry(what, |telemetry| telemetry.zones.first().is_some_and(|zone| zone.stage == stage));
}

#[test]
fn a_fan_is_measured_while_the_others_have_full_air_until_the_tool_is_ended() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    stage(&subscriber, "the zone in its normal state", Stage::Normal);
    let mut tool = calibrate(&agent, "cards");
    told(&mut tool, "fan1         100.00 %");
    stage(&subscriber, "the zone being calibrated", Stage::Calibrating);
    subscriber.telemetry("fan1 slowed down, the others at full air", |telemetry| {
        let duty = |i: usize| telemetry.fans.get(i).and_then(|fan| fan.duty.0.ok()).map(|duty| duty.hundredths());
        duty(0).is_some_and(|duty| duty < 9_500) && (1..6).all(|i| duty(i) == Some(10_000))
    });
    let second = calibrate(&agent, "cards").wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("a calibration is under way already"));
    tool.kill().unwrap();
    tool.wait().unwrap();
    stage(&subscriber, "the zone given back", Stage::Normal);
    let unknown = calibrate(&agent, "attic").wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no zone `attic`, only: cards"));
}

#[test]
fn a_lost_sensor_ends_a_calibration_and_gives_full_air() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    stage(&subscriber, "the zone in its normal state", Stage::Normal);
    let mut tool = calibrate(&agent, "cards");
    told(&mut tool, "fan1         100.00 %");
    agent.sim.control("fault air nack 0x49").unwrap();
    subscriber.event(Kind::ZoneBlind, "cards", true);
    let output = tool.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("stopped after 0 of 6 fans: the zone has lost an input"));
    agent.fans("full air", |duty| duty == 100);
}
