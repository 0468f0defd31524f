//! Brokers that are absent, refuse, die or hang: nothing of it reaches the fans, and what waited arrives.

use std::process::Command;

use rigd::reading::Stage;
use rigd::wire::{BACKFILL, Kind, Message, Reason, Topic};
use rustix::process::Signal;

use crate::agent::{Agent, Setup, until};
use crate::broker::Broker;
use crate::subscriber::{Heard, Subscriber};

/// The numbers of the telemetry heard so far, in the order of their coming, without repeats.
fn numbers(heard: &[Heard]) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        heard.iter().filter(|one| one.header.kind == Kind::Telemetry).map(|one| one.header.seq).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn without_a_gap(numbers: &[u64]) -> bool {
    numbers.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

#[test]
fn absent_at_the_start_control_works_and_every_sample_arrives_later() {
    let mut broker = Broker::absent();
    let agent = Agent::start(&broker, Setup::default());
    agent.logged("no connection to broker");
    // Safety waits for nothing: the fans follow the curve with no broker in the world.
    agent.fans("fans are slowed to the curve", |percent| (20..100).contains(&percent));
    let subscriber = {
        broker.run();
        Subscriber::new(broker.port)
    };
    let heard = subscriber.wait("twenty samples", |heard| (numbers(heard).len() >= 20).then(|| numbers(heard)));
    assert!(without_a_gap(&heard), "{heard:?}");
    assert_eq!(agent.log().matches("no connection to broker").count(), 1, "one line per episode, not per attempt");
}

/// Nothing but the disk remembers.
#[test]
fn killed_while_it_waits_the_next_start_delivers_what_was_written() {
    let mut broker = Broker::absent();
    let mut agent = Agent::start(&broker, Setup::default());
    agent.logged("no connection to broker");
    let segment = agent.scratch.path.join("outbox/tele/00000001");
    until("telemetry on the disk", || std::fs::metadata(&segment).ok().filter(|file| file.len() > 4_000));
    agent.signal(Signal::KILL);
    agent.ended();
    broker.run();
    let subscriber = Subscriber::new(broker.port);
    agent.run();
    let old = subscriber.wait("what waited", |heard| {
        let old: Vec<Heard> = heard.iter().filter(|one| one.header.flags == BACKFILL).cloned().collect();
        (numbers(&old).len() >= 8).then_some(old)
    });
    assert_eq!(numbers(&old)[0], 1);
    assert!(without_a_gap(&numbers(&old)), "{:?}", numbers(&old));
    let live = subscriber.wait("what is new", |heard| {
        heard.iter().find(|one| one.header.kind == Kind::Telemetry && one.header.flags == 0).map(|one| one.header.boot)
    });
    assert!(old.iter().all(|one| one.header.boot != live), "of the start before");
}

#[test]
fn gone_and_back_it_is_told_again_who_we_are() {
    let mut broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    let birth = |connection: u32| {
        move |heard: &[Heard]| {
            heard.iter().find_map(|one| {
                let Message::Birth(birth) = &one.message else { return None };
                (birth.connection >= connection).then_some((birth.connection, one.header.boot))
            })
        }
    };
    let (first, boot) = subscriber.wait("a birth", birth(1));
    assert_eq!(first, 1);
    broker.kill();
    agent.logged("lost broker");
    broker.run();
    let (_, later) = subscriber.wait("another birth", birth(first + 1));
    assert_eq!(boot, later, "the same start of the agent");
    let next = subscriber.telemetry("samples go on", |_| true);
    assert_eq!(next.dropped, 0);
}

/// A broker that accepts bytes and does not answer: noticed by our own deadline, and nothing is lost.
#[test]
fn hanging_it_is_noticed_and_nothing_is_lost() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    subscriber.telemetry("a sample", |_| true);
    broker.signal(Signal::STOP);
    agent.logged("lost broker");
    broker.signal(Signal::CONT);
    let before = subscriber.wait("samples", |heard| Some(numbers(heard).len()));
    let heard = subscriber.wait("the backlog", |heard| (numbers(heard).len() > before + 60).then(|| numbers(heard)));
    assert!(without_a_gap(&heard), "{heard:?}");
}

#[test]
fn refusing_it_is_said_once_and_a_password_from_a_file_gets_in() {
    let mut broker = Broker::with("allow_anonymous false\npassword_file {dir}/passwords\n");
    let passwords = broker.directory().join("passwords");
    for (user, password) in [("rig-1", "secret"), ("test", "test")] {
        let made = Command::new("mosquitto_passwd")
            .args(["-b"])
            .args(if passwords.exists() { vec![] } else { vec!["-c"] })
            .arg(&passwords)
            .args([user, password])
            .status();
        assert!(made.unwrap().success());
    }
    // mosquitto drops root's privileges before it reads the file.
    std::fs::set_permissions(&passwords, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::set_permissions(broker.directory(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    broker.run();
    let refused = Agent::start(&broker, Setup::default());
    refused.logged("NotAuthorized");
    refused.fans("fans are under control", |percent| percent < 100);
    let password = broker.directory().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let lines = format!("username = \"rig-1\"\npassword_file = {password:?}");
    let admitted = Agent::start(&broker, Setup { broker: lines, ..Setup::default() });
    admitted.logged("connected to 127.0.0.1");
    assert_eq!(refused.log().matches("NotAuthorized").count(), 1, "one line per episode, not per attempt");
    assert!(!admitted.log().contains("secret"));
    // The operator's tool gets in the same way.
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let watch = |arguments: &[&str]| {
        let command = ["watch", "--once", "--rig", "rig-1", "--broker", &url];
        Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).args(command).args(arguments).output().unwrap()
    };
    let stranger = watch(&[]);
    assert!(!stranger.status.success() && String::from_utf8_lossy(&stranger.stderr).contains("NotAuthorized"));
    std::fs::write(&password, "test").unwrap();
    let operator = watch(&["--username", "test", "--password-file", password.to_str().unwrap()]);
    assert!(operator.status.success(), "{}", String::from_utf8_lossy(&operator.stderr));
    assert!(String::from_utf8_lossy(&operator.stdout).contains("rig-1  online  simulated-8gpu"));
}

#[test]
fn a_name_that_does_not_resolve_stops_nothing() {
    let setup = Setup { broker: "plain_text = true".to_owned(), ..Setup::default() };
    let mut agent = Agent::prepare("mqtt://broker.invalid", setup);
    agent.run();
    agent.logged("no connection to broker broker.invalid:1883");
    agent.fans("fans are under control", |percent| percent < 100);
    agent.signal(Signal::TERM);
    assert!(agent.ended().success());
    agent.fans("full air on the way out", |percent| percent == 100);
}

#[test]
fn a_topic_that_is_refused_is_counted_and_does_not_loop() {
    // The broker lets events and state pass, and no telemetry.
    let acl = "allow_anonymous true\nacl_file {dir}/acl\n";
    let mut broker = Broker::with(acl);
    let topics = "topic write r1/rig-1/up/online\ntopic write r1/rig-1/up/birth\ntopic read r1/#\n";
    let acl = broker.directory().join("acl");
    std::fs::write(&acl, topics).unwrap();
    std::fs::set_permissions(&acl, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::set_permissions(broker.directory(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    broker.run();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    agent.logged("the broker does not take our r1/rig-1/up/tele: NotAuthorized");
    subscriber.wait("online", |heard| {
        heard.iter().any(|one| matches!(one.message, Message::Online(o) if o.online)).then_some(())
    });
    assert_eq!(agent.log().matches("the broker does not take").count(), 1);
    assert_eq!(agent.log().matches("connected to").count(), 1, "a refusal is no reason to reconnect");
}

/// A broker with a limit below our birth: it goes without, says so once, and does not reconnect for ever.
#[test]
fn a_message_over_the_brokers_limit_is_dropped_and_does_not_loop() {
    let mut broker = Broker::with("allow_anonymous true\nmax_packet_size 600\n");
    broker.run();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    let telemetry = subscriber.telemetry("a sample, counting what was lost", |t| t.refused > 0);
    assert_eq!(telemetry.refused, 1);
    agent.logged("r1/rig-1/up/birth: ");
    assert_eq!(agent.log().matches("connected to").count(), 1);
}

#[test]
fn json_is_the_same_in_words() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let _agent = Agent::start(&broker, Setup { top: "encoding = \"json\"".to_owned(), ..Setup::default() });
    let telemetry = subscriber.telemetry("a sample", |t| t.zones.iter().all(|zone| zone.stage == Stage::Normal));
    assert_eq!(telemetry.rails.len(), 8);
    let kinds = subscriber.wait("a JSON message", |heard| {
        heard.iter().all(|one| one.content_type.as_deref() == Some("application/json")).then_some(heard.len())
    });
    assert!(kinds >= 3);
}

#[test]
fn state_is_retained_and_readings_are_not() {
    let broker = Broker::start();
    let first = Subscriber::new(broker.port);
    let mut agent = Agent::start(&broker, Setup::default());
    first.telemetry("a sample", |_| true);
    agent.signal(Signal::TERM);
    assert!(agent.ended().success());
    first.wait("the last word", |heard| {
        heard.iter().any(|one| matches!(one.message, Message::Online(o) if o.reason == Reason::Stopped)).then_some(())
    });
    drop(first);
    let late = Subscriber::new(broker.port);
    let heard = late.wait("what is retained", |heard| {
        let retained: Vec<Heard> = heard.iter().filter(|one| one.retain).cloned().collect();
        (retained.len() >= 2).then_some(retained)
    });
    let mut topics: Vec<_> = heard.iter().map(|one| Topic::parse(&one.topic).unwrap().kind).collect();
    topics.sort();
    assert_eq!(topics, [Kind::Online, Kind::Birth]);
}

/// rumqttc keeps 65 536 places for messages on their way, 14 MB, unless it is told how many it will need.
/// Seen to fail without `set_outgoing_inflight_upper_limit` in the link.
#[test]
fn a_connected_agent_takes_little_memory_of_its_own() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    subscriber.telemetry("a sample", |_| true);
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kib: u32 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 8_192, "{kib} KiB");
}
