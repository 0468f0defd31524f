//! Every way out leaves the fans at full air.

use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

use rigd::reading::Stage;
use rigd::wire::{Message, Reason};
use rustix::process::Signal;

use crate::agent::{Agent, Setup, board_with};
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

/// Law 8 on the way out: a bus that hangs keeps no other from full air, and is not passed over in silence.
#[test]
fn a_stuck_bus_keeps_no_other_fan_from_full_air() {
    // First in the order of the names, and with a fan of its own, so that it is left first.
    let more = "\n[bus.aaa]\nsocket = \"aaa\"\n[chip.U40]\npart = \"max31790\"\nbus = \"aaa\"\naddr = 0x21\n\
                [fan.other]\nchip = \"U40\"\nchannel = 1\nmin_rpm = 500\nmax_rpm = 6000\n";
    let board = board_with("fans = [\"fan1\"", "fans = [\"other\", \"fan1\"") + more;
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::start(&broker, Setup { board, ..Setup::default() });
    subscriber.telemetry("under control", |t| t.zones[0].stage == Stage::Normal);
    agent.sim.control("fault aaa stuck").unwrap();
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().code(), Some(1), "a fan that could not be reached is no success");
    let reached = |name: &str| agent.sim.fans().iter().any(|(fan, duty, _)| fan == name && duty.hundredths() == 10_000);
    assert!((1..=6).all(|i| reached(&format!("fan{i}"))), "{:?}", agent.sim.fans());
    agent.logged("bus aaa: not every fan is known to be at full air");
}

/// A restart after the chip's watchdog ran out takes the fans over at full air, and says what had happened.
#[test]
fn a_restart_after_a_crash_begins_at_full_air_and_says_so() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::start(&broker, Setup::default());
    subscriber.telemetry("under control", |t| t.zones[0].stage == Stage::Normal);
    agent.signal(Signal::KILL);
    agent.ended();
    agent.fans("full air by the watchdog", |percent| percent == 100);
    agent.run();
    subscriber.event(rigd::alarm::Kind::WatchdogRanOut, "U20", true);
    let first = subscriber.telemetry("a decision", |t| t.zones[0].stage == Stage::Normal);
    let duty = first.zones[0].duty.0.unwrap();
    assert!(duty.hundredths() > 9_000, "it falls from full air by the slew limit, not at once: {duty}");
}

/// What leaves the rig safe must not care for the broker's part of the configuration.
#[test]
fn leave_safe_works_with_a_configuration_that_run_refuses() {
    let mut agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    agent.run();
    agent.fans("fans are slowed", |percent| percent < 100);
    agent.signal(Signal::KILL);
    agent.ended();
    let file = agent.scratch.path.join("rigd.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("mqtt://127.0.0.1:1", "carrier-pigeon://coop");
    std::fs::write(&file, text + "\nusername = \"a\"\npassword_file = \"/nonexistent\"\n").unwrap();
    let refused = agent.command().arg("run").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(agent.command().arg("leave-safe").output().unwrap().status.success());
    assert!(agent.sim.fans().iter().all(|(_, duty, _)| duty.hundredths() == 10_000));
}

/// Law 2: a pipe behind stderr that nobody empties holds the log, not the fans.
#[test]
fn a_full_pipe_behind_the_log_stops_nothing() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), Setup::default());
    let fifo = agent.scratch.path.join("stderr");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Held open on both sides, full, and never read.
    let mut pipe = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    while pipe.write(&[b'.'; 1 << 16]).is_ok() {}
    rustix::io::ioctl_fionbio(&pipe, false).unwrap();
    agent.stderr_to(fifo);
    agent.run();
    subscriber.telemetry("normal", |t| t.zones[0].stage == Stage::Normal);
    agent.sim.control("fault main nack 0x40").unwrap();
    subscriber.telemetry("a fault that is worth a line", |t| t.rails[0].mv.0.is_err());
    subscriber.telemetry("and it goes on", |t| t.uptime_ms > 2_000);
    agent.signal(Signal::TERM);
    assert_eq!(agent.ended().code(), Some(0));
    assert!(agent.sim.fans().iter().all(|(_, duty, _)| duty.hundredths() == 10_000));
    drop(pipe);
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
