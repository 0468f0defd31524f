//! Every way out leaves the fans at full air.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

use rigd::reading::Stage;
use rigd::wire::{Message, Reason};
use rustix::process::Signal;

use crate::agent::{Agent, Setup};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

fn said(subscriber: &Subscriber, reason: Reason) {
    subscriber.wait(&format!("offline, {reason:?}"), |heard| {
        let matches = |message: &Message| matches!(message, Message::Online(o) if !o.online && o.reason == reason);
        heard.iter().any(|one| matches(&one.message)).then_some(())
    });
}

#[test]
fn a_stop_leaves_full_air_says_goodbye_and_exits_with_zero() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let broker = Broker::start();
        let subscriber = Subscriber::new(broker.port);
        let mut agent = Agent::start(&broker, Setup::default());
        agent.fans("fans are slowed", |percent| percent < 100);
        subscriber.telemetry("normal", |t| t.zones[0].stage == Stage::Normal);
        agent.signal(signal);
        assert_eq!(agent.ended().code(), Some(0), "{signal:?}");
        assert!(
            agent.sim.fans().iter().all(|(_, duty, _)| duty.hundredths() == 10_000),
            "full air before the process has ended"
        );
        said(&subscriber, Reason::Stopped);
    }
}

/// The agent dies at once; the fan controller's own watchdog does what it cannot do any more, and the broker speaks for it.
#[test]
fn sigkill_gives_full_air_by_the_chips_watchdog_and_the_last_will_speaks() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::start(&broker, Setup::default());
    agent.fans("fans are slowed", |percent| percent < 100);
    subscriber.telemetry("normal", |t| t.zones[0].stage == Stage::Normal);
    agent.signal(Signal::KILL);
    assert!(!agent.ended().success());
    assert!(agent.sim.fans().iter().all(|(_, duty, _)| duty.hundredths() < 10_000), "nobody was there to do it yet");
    agent.fans("full air by the watchdog", |percent| percent == 100);
    said(&subscriber, Reason::Lost);
    // Started again it takes the fans back.
    agent.run();
    agent.fans("under control again", |percent| percent < 100);
}

#[test]
fn leave_safe_gives_full_air_without_an_agent() {
    let mut agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    agent.run();
    agent.fans("fans are slowed", |percent| percent < 100);
    agent.signal(Signal::KILL);
    agent.ended();
    let output = agent.command().arg("leave-safe").output().unwrap();
    assert!(output.status.success());
    assert!(agent.sim.fans().iter().all(|(_, duty, _)| duty.hundredths() == 10_000));
    assert!(String::from_utf8_lossy(&output.stderr).contains("every driven fan is at full air"));
}

#[test]
fn leave_safe_says_what_it_could_not_reach() {
    let agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    agent.sim.control("fault air busgone").unwrap();
    let output = agent.command().arg("leave-safe").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not be left at full air"));
}

#[test]
fn a_full_disk_behind_the_log_stops_nothing() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::start(&broker, Setup { stderr: Some(PathBuf::from("/dev/full")), ..Setup::default() });
    subscriber.telemetry("normal", |t| t.zones[0].stage == Stage::Normal);
    agent.sim.control("fault main nack 0x40").unwrap();
    subscriber.telemetry("it would have logged this", |t| t.rails[0].mv.0.is_err());
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().code(), Some(0));
}

#[test]
fn systemd_hears_ready_alive_and_stopping() {
    let name = format!("rigd-e2e-{}", std::process::id());
    let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let environment = vec![("NOTIFY_SOCKET", format!("@{name}")), ("WATCHDOG_USEC", "600000".to_owned())];
    let mut agent = Agent::prepare("mqtt://127.0.0.1:1", Setup { environment, ..Setup::default() });
    agent.run();
    let hear = || {
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).expect("systemd hears something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    assert_eq!(hear(), "WATCHDOG=1");
    assert_eq!(hear(), "WATCHDOG=1");
    agent.signal(Signal::TERM);
    let mut last = hear();
    while last == "WATCHDOG=1" {
        last = hear();
    }
    assert_eq!(last, "STOPPING=1");
    assert!(agent.ended().success());
}
