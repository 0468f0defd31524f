//! Plays a rig: has messages of several boots, sends them out of order and some twice, and again whatever no watermark has
//! passed, as a rig's outbox does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rigd::alarm;
use rigd::clock;
use rigd::reading::Snapshot;
use rigd::wire::{
    Encoding, Event as Alarm, GAP, Header, Kind, Losses, Message, RigId, Subject, Telemetry, Topic, decode, encode,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{Client, Connection, Event, MqttOptions};

/// A lane of a boot.
pub(crate) type Lane = (u32, Kind);

/// A message that the rig has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
    /// Numbers right before it that the rig has dropped.
    pub(crate) gap: u64,
}

impl Part {
    pub(crate) fn payload(&self) -> Vec<u8> {
        let ((boot, kind), seq) = (self.lane, self.seq);
        let header = Header::new(kind, boot, seq);
        if kind == Kind::Telemetry {
            let body = Telemetry::new(boot, seq, seq, &Snapshot::default(), Losses::default(), 0);
            return encode(Encoding::Postcard, header, &body);
        }
        let body = Alarm {
            birth: boot,
            unix_ms: 1_700_000_000_000 + seq,
            uptime_ms: seq,
            alarm: alarm::Kind::FanStands,
            subject: Subject::Fan(0),
            name: format!("fan{seq}"),
            raised: true,
            cause: None,
            rung: None,
        };
        encode(Encoding::Postcard, header, &body)
    }
}

/// All of a lane from 1 to `last`, with a hole of three that the rig dropped in each hundred.
pub(crate) fn lane(boot: u32, kind: Kind, last: u64) -> Vec<Part> {
    let kept = (1..=last).filter(|seq| !(48..=50).contains(&(seq % 100)));
    kept.map(|seq| Part { lane: (boot, kind), seq, gap: if seq % 100 == 51 { 3 } else { 0 } }).collect()
}

#[derive(Default)]
struct Shared {
    marks: Mutex<BTreeMap<Lane, u64>>,
    news: Condvar,
    stop: AtomicBool,
}

/// A rig that keeps sending until it is told that everything arrived.
pub(crate) struct Player {
    shared: Arc<Shared>,
    parts: BTreeSet<Part>,
    thread: Option<JoinHandle<()>>,
}

impl Player {
    pub(crate) fn start(port: u16, rig: &RigId, parts: Vec<Part>) -> Self {
        let shared = Arc::new(Shared::default());
        let all = parts.iter().cloned().collect();
        let (ours, rig) = (Arc::clone(&shared), rig.clone());
        let thread = thread::spawn(move || {
            let mut options = MqttOptions::new(rig.as_str(), "127.0.0.1", port);
            options.set_keep_alive(Duration::from_secs(5));
            let (client, connection) = Client::new(options, 64);
            play(&client, connection, &rig, &shuffled(parts), &ours);
        });
        Self { shared, parts: all, thread: Some(thread) }
    }

    /// Every message that it has.
    pub(crate) const fn parts(&self) -> &BTreeSet<Part> {
        &self.parts
    }

    /// Waits until watermarks have passed so many numbers in all; what it was told by then.
    pub(crate) fn told(&self, numbers: u64) -> BTreeMap<Lane, u64> {
        let deadline = clock::now() + Duration::from_secs(60);
        let mut marks = self.shared.marks.lock().unwrap();
        while marks.values().sum::<u64>() < numbers {
            let left = deadline.saturating_duration_since(clock::now());
            assert!(!left.is_zero(), "waited in vain for {numbers} numbers to be acknowledged: {marks:?}");
            marks = self.shared.news.wait_timeout(marks, left).unwrap().0;
        }
        marks.clone()
    }

    /// Waits until everything was acknowledged by watermarks.
    pub(crate) fn done(&self) {
        let mut last = BTreeMap::new();
        for part in &self.parts {
            last.entry(part.lane).and_modify(|seq: &mut u64| *seq = part.seq.max(*seq)).or_insert(part.seq);
        }
        let told = self.told(last.values().sum());
        assert_eq!(told, last);
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Out of order within each sixteen, and each tenth twice.
fn shuffled(parts: Vec<Part>) -> Vec<Part> {
    let mut order = Vec::new();
    for window in parts.chunks(16) {
        order.extend(window.iter().rev().cloned());
        order.extend(window.iter().step_by(10).cloned());
    }
    order
}

fn play(client: &Client, mut connection: Connection, rig: &RigId, parts: &[Part], shared: &Shared) {
    let marks = || shared.marks.lock().unwrap().clone();
    let (mut next, mut up, mut progress) = (0, false, clock::now());
    while !shared.stop.load(Ordering::Acquire) {
        // A second without a word although all was sent: again, from what was not acknowledged.
        if next >= parts.len() && clock::now().saturating_duration_since(progress) > Duration::from_secs(1) {
            (next, progress) = (0, clock::now());
        }
        let acknowledged = marks();
        while up && let Some(part) = parts.get(next) {
            let known = acknowledged.get(&part.lane).is_some_and(|mark| *mark >= part.seq);
            if !known && !send(client, rig, part) {
                break;
            }
            next += 1;
        }
        match connection.recv_timeout(Duration::from_millis(50)) {
            Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {
                client.try_subscribe(Topic::new(rig.clone(), Kind::Watermark).to_string(), QoS::AtLeastOnce).unwrap();
                (next, up) = (0, true);
            }
            Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                let Ok((_, Message::Watermark(watermark))) = decode(&publish.payload) else { panic!("a watermark") };
                let mut marks = shared.marks.lock().unwrap();
                // A retained one also speaks of what was before us.
                let ours = |lane: &Lane| parts.iter().any(|part| part.lane == *lane);
                for mark in watermark.marks.into_iter().filter(|mark| ours(&(mark.boot, mark.lane))) {
                    let known = marks.entry((mark.boot, mark.lane)).or_default();
                    if mark.seq > *known {
                        (*known, progress) = (mark.seq, clock::now());
                    }
                }
                shared.news.notify_all();
            }
            Ok(Err(_)) => {
                // All that it had is sent again.
                connection.eventloop.clean();
                connection.eventloop.pending.clear();
                connection.eventloop.state.collision = None;
                up = false;
                thread::park_timeout(Duration::from_millis(20));
            }
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

fn send(client: &Client, rig: &RigId, part: &Part) -> bool {
    let user_properties = if part.gap > 0 { vec![(GAP.to_owned(), part.gap.to_string())] } else { Vec::new() };
    let properties = PublishProperties { user_properties, ..PublishProperties::default() };
    let topic = Topic::new(rig.clone(), part.lane.1).to_string();
    client.try_publish_with_properties(topic, QoS::AtLeastOnce, false, part.payload(), properties).is_ok()
}
