//! The collector against what breaks: itself killed, the broker killed, the disk full, a message that is none. What it has is
//! read from its store by other means than its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rigd::alarm;
use rigd::wire::{Delivery, Kind, Message, RigId};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{Client, MqttOptions};
use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::player::{Part, Player, lane};
use crate::subscriber::Subscriber;

/// A collector's process with its store.
pub(crate) struct Collector {
    scratch: Scratch,
    port: u16,
    process: Option<Child>,
}

impl Collector {
    fn start(broker: &Broker) -> Self {
        let mut collector = Self::absent(broker);
        collector.run();
        collector
    }

    /// Its place, without a process.
    pub(crate) fn absent(broker: &Broker) -> Self {
        Self { scratch: Scratch::new("collector"), port: broker.port, process: None }
    }

    pub(crate) fn run(&mut self) {
        let log = File::options().append(true).create(true).open(self.log_file()).unwrap();
        let mut command = self.command("collect");
        command.arg("--store").arg(&self.scratch.path).args(["--broker", &self.url()]);
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Where its store is.
    pub(crate) fn store(&self) -> &Path {
        &self.scratch.path
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.arg(verb);
        command
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path.join("log")
    }

    fn logged(&self, text: &str) {
        until(&format!("{text:?} in the log"), || {
            fs::read_to_string(self.log_file()).ok().filter(|log| log.contains(text))
        });
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.process.as_ref().unwrap())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGTERM; it must end well.
    pub(crate) fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let ended = self.process.take().unwrap().wait().unwrap();
        assert!(ended.success(), "{ended}: {}", fs::read_to_string(self.log_file()).unwrap());
    }

    pub(crate) fn complete(&self) -> Output {
        self.command("complete").arg(&self.scratch.path).output().unwrap()
    }

    /// Every message of a rig that the store has, as (boot, kind, seq, payload); a number that is there twice is there twice.
    pub(crate) fn stored(&self) -> Vec<(u32, String, u64, Vec<u8>)> {
        let store = Connection::open(self.scratch.path.join("collect.db")).unwrap();
        let mut rows = store.prepare("SELECT boot, kind, seq, payload FROM messages ORDER BY boot, kind, seq").unwrap();
        let rows =
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get(3)?))).unwrap();
        rows.map(|row| row.unwrap())
            .map(|(boot, kind, seq, payload)| (boot, kind, seq.cast_unsigned(), payload))
            .collect()
    }

    /// Everything that the player has is there once and as it was, and nothing else.
    fn has_all_of(&self, player: &Player) {
        let text = |part: &Part| if part.lane.1 == Kind::Event { "event" } else { "telemetry" };
        let mut expected: Vec<_> =
            player.parts().iter().map(|part| (part.lane.0, text(part).to_owned(), part.seq, part.payload())).collect();
        expected.sort();
        let stored = self.stored();
        assert_eq!(stored.len(), expected.len());
        assert!(stored == expected);
        let complete = self.complete();
        assert!(complete.status.success(), "{}", String::from_utf8_lossy(&complete.stderr));
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            println!("--- collector\n{}", fs::read_to_string(self.log_file()).unwrap_or_default());
        }
    }
}

/// A process that ends with the test.
pub(crate) struct Follower(pub(crate) Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn rig() -> RigId {
    "rig-1".parse().unwrap()
}

/// Three boots, the oldest last, as an outbox that was found on the disk sends them.
fn three_boots(last: u64) -> Vec<Part> {
    let newest = lane(30, Kind::Telemetry, last).into_iter().chain(lane(30, Kind::Event, last / 10));
    newest.chain(lane(20, Kind::Telemetry, last / 2)).chain(lane(10, Kind::Event, last / 10)).collect()
}

#[test]
fn a_rig_is_told_what_is_stored_and_when_its_collector_goes() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    // What goes out before there is a collector is the broker's, and freed by its word.
    subscriber.wait("samples before the collector", |heard| {
        let samples = heard.iter().filter(|one| one.header.kind == Kind::Telemetry && one.header.seq > 40);
        (samples.count() > 0).then_some(())
    });
    let mut collector = Collector::start(&broker);
    let online = |online: bool| {
        subscriber.wait("the collector's word", move |heard| {
            let said = heard.iter().rev().find_map(|one| {
                let Message::Controller(controller) = &one.message else { return None };
                Some(controller.online)
            });
            (said == Some(online)).then_some(())
        });
    };
    online(true);
    agent.sim.control("fault fan seized fan3").unwrap();
    subscriber.event(alarm::Kind::FanStands, "fan3", true);
    let mark = |kind: Kind, at_least: u64| {
        subscriber.wait("a watermark", move |heard| {
            heard.iter().find_map(|one| {
                let Message::Watermark(watermark) = &one.message else { return None };
                assert_eq!(one.topic, "r1/rig-1/dn/wm");
                watermark.marks.iter().find(|mark| mark.lane == kind && mark.seq >= at_least).copied()
            })
        })
    };
    // The rig tells of what went out before, so that its numbers do not stay open.
    let mark = mark(Kind::Telemetry, 60);
    assert!(agent.runs());
    let stored =
        collector.stored().into_iter().filter(|(boot, kind, ..)| (*boot, kind.as_str()) == (mark.boot, "telemetry"));
    let numbers: Vec<u64> = stored.map(|(_, _, seq, _)| seq).collect();
    assert!(numbers.len() >= 10 && numbers[0] > 10, "{numbers:?}");
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let complete = collector.complete();
    let table = String::from_utf8_lossy(&complete.stdout).into_owned();
    assert!(complete.status.success(), "{table}{}", String::from_utf8_lossy(&complete.stderr));
    let row: Vec<&str> = table.lines().find(|line| line.contains(" telemetry ")).unwrap().split_whitespace().collect();
    // RIG BOOT LANE HIGHEST STORED DROPPED EXPIRED EARLIER MISSING
    assert_eq!((row[5], row[8]), ("0", "0"), "{table}");
    assert_eq!(row[7].parse(), Ok(numbers[0] - 1), "{table}");
    let newest = Connection::open(collector.scratch.path.join("collect.db")).unwrap();
    let kinds = newest.query_row("SELECT group_concat(kind) FROM (SELECT kind FROM newest ORDER BY kind)", [], |row| {
        row.get::<_, String>(0)
    });
    assert_eq!(kinds.unwrap(), "birth,online");
    collector.stop();
    online(false);
}

/// A collector that was only tried holds the backlog no longer than until somebody says that it will not come back.
#[test]
fn a_collector_that_will_not_come_back_is_forgotten_by_order() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup::default());
    let delivers_by = |delivery: Delivery| {
        subscriber.wait("a birth with this delivery", move |heard| {
            let birth = heard.iter().rev().find_map(|one| {
                let Message::Birth(birth) = &one.message else { return None };
                Some(birth.delivery)
            });
            (birth == Some(delivery)).then_some(())
        });
    };
    let forget = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command
            .args(["collect", "--forget", "--broker", &format!("mqtt://127.0.0.1:{}", broker.port)])
            .output()
            .unwrap()
    };
    delivers_by(Delivery::Puback);
    let nothing = forget();
    assert!(nothing.status.success(), "{nothing:?}");
    let mut collector = Collector::start(&broker);
    delivers_by(Delivery::Watermark);
    let refused = forget();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("stop it first"),
        "{refused:?}"
    );
    collector.stop();
    let forgotten = forget();
    assert!(forgotten.status.success(), "{forgotten:?}");
    delivers_by(Delivery::Puback);
    // Nothing of it is left for a rig that comes later.
    let agents_word = agent.scratch.path.join("outbox/cursor");
    until("it is written down", || std::fs::metadata(&agents_word).ok());
    let late = Subscriber::with(MqttOptions::new("late", "127.0.0.1", broker.port));
    late.telemetry("a sample", |_| true);
    assert!(late.all(|heard| matches!(heard.message, Message::Controller(_)).then_some(())).is_empty());
}

#[test]
fn killed_at_any_time_it_has_each_number_once_and_acknowledged_none_that_it_has_not() {
    let broker = Broker::start();
    let mut collector = Collector::start(&broker);
    let player = Player::start(broker.port, &rig(), three_boots(4_000));
    let (mut midway, mut before) = (0, 0);
    let connected = |collector: &Collector| {
        fs::read_to_string(collector.log_file()).map_or(0, |log| log.matches("connected to").count())
    };
    for numbers in [1, 1_000, 2_500, 4_000] {
        player.told(numbers);
        collector.kill();
        // Whatever it was told until now is in the store, or was declared.
        let told = player.told(0);
        let stored: BTreeSet<(u32, String, u64)> =
            collector.stored().into_iter().map(|(boot, kind, seq, _)| (boot, kind, seq)).collect();
        midway += usize::from(stored.len() < player.parts().len());
        for part in player.parts() {
            if told.get(&part.lane).is_some_and(|mark| *mark >= part.seq) {
                let kind = if part.lane.1 == Kind::Event { "event" } else { "telemetry" };
                assert!(stored.contains(&(part.lane.0, kind.to_owned(), part.seq)), "{part:?} was acknowledged");
            }
        }
        before = connected(&collector);
        collector.run();
    }
    assert!(midway > 0, "each kill came after all was stored");
    player.done();
    // The last one may have found nothing left to do; asked to end before it listens for that it would just be killed.
    until("the last start is up", || (connected(&collector) > before).then_some(()));
    collector.stop();
    collector.has_all_of(&player);
}

#[test]
fn the_broker_killed_takes_nothing_with_it() {
    let mut broker = Broker::start();
    let mut collector = Collector::start(&broker);
    let player = Player::start(broker.port, &rig(), three_boots(4_000));
    for numbers in [1, 1_500, 3_500] {
        player.told(numbers);
        broker.kill();
        broker.run();
    }
    player.done();
    collector.stop();
    collector.has_all_of(&player);
}

/// A disk that takes no more: nothing is acknowledged, and when there is room again everything is there.
#[test]
fn a_full_disk_acknowledges_nothing_and_loses_nothing() {
    let broker = Broker::start();
    let mut collector = Collector::absent(&broker);
    // A limit on the size of its files is the nearest thing to a full disk that needs no root.
    let mut command = Command::new("sh");
    let script = "ulimit -S -f 200; trap '' XFSZ; exec \"$@\"";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_rigd-ctl"), "collect", "--store"]);
    command.arg(&collector.scratch.path).args(["--broker", &collector.url()]);
    let log = File::create(collector.log_file()).unwrap();
    collector.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let player = Player::start(broker.port, &rig(), three_boots(3_000));
    collector.logged("could not store: ");
    let told: u64 = player.told(0).values().sum();
    let everything: u64 = 3_000 + 300 + 1_500 + 300;
    assert!(told < everything, "the limit was not reached");
    let _ = prlimit(Some(collector.pid()), Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    collector.logged("messages are stored again");
    player.done();
    collector.stop();
    collector.has_all_of(&player);
}

#[test]
fn what_is_no_message_holds_up_nothing_and_a_second_collector_is_refused() {
    let broker = Broker::start();
    let mut collector = Collector::start(&broker);
    collector.logged("connected to");
    let (stranger, mut connection) = Client::new(MqttOptions::new("stranger", "127.0.0.1", broker.port), 64);
    for payload in 0..50_u8 {
        stranger.try_publish("r1/rig-9/up/tele", QoS::AtLeastOnce, false, vec![payload; 40]).unwrap();
    }
    std::thread::spawn(move || connection.iter().take_while(Result::is_ok).for_each(drop));
    let player = Player::start(broker.port, &rig(), lane(1, Kind::Telemetry, 200));
    player.done();
    until("the rejects", || {
        let store = Connection::open(collector.scratch.path.join("collect.db")).ok()?;
        let count =
            "SELECT count(*) FROM rejected WHERE topic = 'r1/rig-9/up/tele' AND reason LIKE '%no message of a rig%'";
        (store.query_row(count, [], |row| row.get::<_, i64>(0)).ok()? == 50).then_some(())
    });
    let _ = stranger.try_disconnect();
    let second = collector.command("collect").arg("--store").arg(&collector.scratch.path).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another collector has"), "{second:?}");
    collector.stop();
    collector.has_all_of(&player);
    // A hole is found without believing the marks.
    let store = Connection::open(collector.scratch.path.join("collect.db")).unwrap();
    store.execute("DELETE FROM message WHERE seq IN (7, 8)", []).unwrap();
    let holes = collector.complete();
    assert_eq!(holes.status.code(), Some(1));
    let said = String::from_utf8_lossy(&holes.stdout).into_owned();
    assert!(said.lines().nth(1).unwrap().ends_with(" 2 7-8"), "{said}");
}

#[test]
fn events_come_from_the_store_and_then_live() {
    let broker = Broker::start();
    let collector = Collector::start(&broker);
    let player = Player::start(broker.port, &rig(), lane(1, Kind::Event, 30));
    player.done();
    drop(player);
    let store = collector.scratch.path.to_str().unwrap();
    let last = collector.command("events").args(["--store", store, "-n", "3"]).output().unwrap();
    let lines: Vec<String> = String::from_utf8(last.stdout).unwrap().lines().map(str::to_owned).collect();
    // They came out of order.
    assert_eq!(lines.len(), 3);
    let all = collector.command("events").args(["--store", store, "-n", "100", "--json"]).output().unwrap();
    assert_eq!(String::from_utf8(all.stdout).unwrap().lines().count(), 30);
    assert!(lines.iter().all(|line| line.starts_with("2023-11-14T22:13:20Z rig-1 event fan")), "{lines:?}");
    let mut command = collector.command("events");
    command.args(["-f", "--rig", "rig-1", "--store", store, "-n", "1", "--broker", &collector.url()]);
    let mut follower = Follower(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains(" rig-1 event fan"));
    let again = Player::start(broker.port, &rig(), lane(2, Kind::Event, 1));
    assert_eq!(said.next().unwrap().unwrap(), "2023-11-14T22:13:20Z rig-1 event fan1: fan stands raised");
    again.done();
}
