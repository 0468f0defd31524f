//! The publisher: turns snapshots and alarm edges into messages, keeps them in the outbox, and hands over what the window
//! allows. It waits only for something to happen, never for the broker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{debug, warn};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::link::{Client, Report, Up};
use super::outbox::{Lane, Outbox, Ticket};
use super::{Inputs, Start};
use crate::alarm::Edge;
use crate::board::Board;
use crate::clock;
use crate::config::Config;
use crate::wire::{
    Birth, Encoding, Event, Header, Kind, MAX_MESSAGE, Online, OutboxInfo, Reason, RigId, Telemetry, Topic, encode,
};

/// Room in a packet for its fixed header, topic length, packet id and properties.
const PACKET_OVERHEAD: usize = 96;
/// Telemetry is worth nothing to a subscriber that comes back after an hour.
const TELEMETRY_EXPIRY_S: u32 = 3_600;

/// A packet handed to the link, in order, to be matched with the id that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// Retained state, sent again on each connect.
    State(Kind),
    /// A message of the outbox.
    Message(Ticket),
}

pub(super) struct Publisher {
    rig: RigId,
    encoding: Encoding,
    period: Duration,
    board: Arc<Board>,
    birth: Birth,
    start: Start,
    client: Client,
    reports: mpsc::Receiver<Report>,
    inputs: Inputs,
    outbox: Outbox,
    /// Retained state that waits to go out.
    state: VecDeque<(Kind, Vec<u8>)>,
    /// Handed over, without an id yet.
    unnumbered: VecDeque<Handed>,
    /// On their way, by packet id.
    numbered: BTreeMap<u16, Handed>,
    up: Option<Up>,
    refused: u32,
    /// The reason of the refusal that was logged last.
    told: Option<String>,
    due: Option<Instant>,
}

impl Publisher {
    pub(super) fn new(
        config: &Config,
        board: Arc<Board>,
        start: Start,
        client: Client,
        reports: mpsc::Receiver<Report>,
        inputs: Inputs,
    ) -> Self {
        let period_ms = u32::try_from(config.period.as_millis()).unwrap_or(u32::MAX);
        Self {
            rig: config.rig.clone(),
            encoding: config.encoding,
            period: config.period,
            birth: Birth::new(config.rig.clone(), &board, config.encoding, period_ms, start.unix_ms),
            board,
            start,
            client,
            reports,
            inputs,
            outbox: Outbox::new(config.outbox_bytes),
            state: VecDeque::new(),
            unnumbered: VecDeque::new(),
            numbered: BTreeMap::new(),
            up: None,
            refused: 0,
            told: None,
            due: None,
        }
    }

    /// Publishes until it is told to stop, then says so and waits for the broker to take it, at most for `farewell`.
    pub(super) async fn run(mut self, farewell: Duration) {
        loop {
            tokio::select! {
                changed = self.inputs.snapshot.changed() => match changed {
                    Ok(()) => self.sample(),
                    Err(_) => break,
                },
                Some(edge) = self.inputs.events.recv() => self.event(&edge),
                Some(report) = self.reports.recv() => self.report(report),
                _ = self.inputs.stop.changed() => break,
            }
            self.feed();
        }
        if timeout(farewell, self.farewell()).await.is_err() {
            debug!("the broker did not take the last words in time");
        }
    }

    /// A tick is done: telemetry where it is due.
    fn sample(&mut self) {
        let now = clock::now();
        // A snapshot that comes a little early is this period's all the same: ticks and periods are not in step.
        let slack = (self.period / 10).min(Duration::from_millis(100));
        if self.due.is_none_or(|due| now + slack >= due) {
            self.due = Some(self.due.map_or(now, |due| due.max(now - slack)) + self.period);
            self.telemetry();
        }
    }

    fn telemetry(&mut self) {
        let snapshot = self.inputs.snapshot.borrow_and_update();
        let (lost, dropped) = (self.inputs.lost_events.load(Ordering::Relaxed), self.outbox.dropped());
        let body = Telemetry::new(self.birth.id, clock::unix_ms(), uptime(self.start), &snapshot, lost, dropped);
        drop(snapshot);
        let (encoding, boot) = (self.encoding, self.start.boot);
        self.outbox.push(Lane::Telemetry, |seq| encode(encoding, Header::new(Kind::Telemetry, boot, seq), &body));
    }

    /// An edge goes out as an event, and with it the readings of that moment.
    fn event(&mut self, edge: &Edge) {
        let body = Event::new(self.birth.id, clock::unix_ms(), uptime(self.start), edge, &self.board);
        let (encoding, boot) = (self.encoding, self.start.boot);
        self.outbox.push(Lane::Event, |seq| encode(encoding, Header::new(Kind::Event, boot, seq), &body));
        self.telemetry();
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Up(up) => {
                self.start_over();
                self.up = Some(up);
                self.announce(up.connection);
            }
            Report::Sent(id) => {
                if let Some(handed) = self.unnumbered.pop_front() {
                    self.numbered.insert(id, handed);
                }
            }
            Report::Acknowledged { id, refused } => self.acknowledged(id, refused),
            Report::Down => self.start_over(),
        }
    }

    fn start_over(&mut self) {
        self.up = None;
        self.unnumbered.clear();
        self.numbered.clear();
        self.state.clear();
        self.outbox.disconnected();
    }

    fn acknowledged(&mut self, id: u16, refused: Option<String>) {
        let Some(handed) = self.numbered.remove(&id) else { return };
        if let Handed::Message(ticket) = handed {
            self.outbox.settled(ticket);
        }
        if let Some(reason) = refused {
            // Sending it again would be refused again: it counts as lost, and is said once per reason.
            self.refused = self.refused.saturating_add(1);
            if self.told.as_ref() != Some(&reason) {
                warn!("the broker refused {handed:?}: {reason}");
                self.told = Some(reason);
            }
        }
    }

    /// Says who we are: online first, so that a will that is still on its way is overtaken.
    fn announce(&mut self, connection: u32) {
        self.birth.connection = connection;
        self.birth.outbox = OutboxInfo {
            waiting: u32::try_from(self.outbox.waiting()).unwrap_or(u32::MAX),
            dropped: self.outbox.dropped(),
            refused: self.refused,
        };
        self.say(&Online { online: true, connection, reason: Reason::Connected });
        let birth = encode(self.encoding, Header::new(Kind::Birth, self.start.boot, 0), &self.birth);
        self.state.push_back((Kind::Birth, birth));
    }

    fn say(&mut self, online: &Online) {
        let message = encode(self.encoding, Header::new(Kind::Online, self.start.boot, 0), online);
        self.state.push_back((Kind::Online, message));
    }

    /// Hands over what the window allows: state first, then the outbox.
    fn feed(&mut self) {
        let Some(up) = self.up else { return };
        while self.client.live() && self.unnumbered.len() + self.numbered.len() < up.window {
            if let Some((kind, payload)) = self.state.front() {
                if !self.hand_over(*kind, payload.clone(), up) {
                    return;
                }
                let kind = *kind;
                self.state.pop_front();
                self.unnumbered.push_back(Handed::State(kind));
                continue;
            }
            let Some((ticket, payload)) = self.outbox.next() else { return };
            if payload.len() + PACKET_OVERHEAD > up.max_packet {
                warn!(
                    "a message of {} bytes is over the broker's limit of {} and is dropped",
                    payload.len(),
                    up.max_packet
                );
                self.refused = self.refused.saturating_add(1);
                self.outbox.settled(ticket);
                continue;
            }
            if !self.hand_over(ticket.lane.kind(), payload.to_vec(), up) {
                return;
            }
            self.outbox.sent(ticket);
            self.unnumbered.push_back(Handed::Message(ticket));
        }
    }

    /// `false` where the link's channel is full; the next report makes room.
    fn hand_over(&self, kind: Kind, payload: Vec<u8>, up: Up) -> bool {
        debug_assert!(payload.len() <= MAX_MESSAGE.max(up.max_packet), "sizes are checked before");
        let (retain, expiry) = match kind {
            Kind::Online | Kind::Birth => (true, None),
            Kind::Telemetry => (false, Some(TELEMETRY_EXPIRY_S)),
            Kind::Event => (false, None),
        };
        let properties = PublishProperties {
            content_type: Some(self.encoding.content_type().to_owned()),
            message_expiry_interval: expiry,
            ..PublishProperties::default()
        };
        let topic = Topic::new(self.rig.clone(), kind).to_string();
        self.client.inner.try_publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties).is_ok()
    }

    /// Says that the rig stops on purpose, after all that still waits, and leaves when the broker has it.
    async fn farewell(&mut self) {
        let Some(up) = self.up else { return };
        self.say(&Online { online: false, connection: up.connection, reason: Reason::Stopped });
        self.feed();
        while self.up.is_some() && !(self.state.is_empty() && self.unnumbered.is_empty() && self.numbered.is_empty()) {
            let Some(report) = self.reports.recv().await else { return };
            self.report(report);
            self.feed();
        }
        if self.client.inner.try_disconnect().is_ok() {
            // The link ends the connection once the packet is out; its last report is that it is down.
            while self.up.is_some() {
                let Some(report) = self.reports.recv().await else { return };
                self.report(report);
            }
        }
    }
}

/// Since the agent's start, ms.
fn uptime(start: Start) -> u64 {
    u64::try_from(clock::now().saturating_duration_since(start.at).as_millis()).unwrap_or(u64::MAX)
}
