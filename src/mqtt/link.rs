//! The link task: owns rumqttc's event loop, polls it under a deadline, connects again with back-off, and reports.
//!
//! What it guards against (each seen in rumqttc 0.25.1):
//! - a peer that stops reading: `poll()` never returns once the send buffer is full → a deadline around it;
//! - no pause between connection attempts → one, by [`Brokers`];
//! - messages dropped or overwritten when a session resumes → all state is cleared, the outbox sends again;
//! - 14 MB of slots for in-flight messages → a window;
//! - a message over the packet limit reconnects for ever → sizes are announced, and checked before sending;
//! - a message acknowledged before anybody has seen it → acknowledged by whoever it is for, [`Inbound::acknowledge`];
//! - 40 ms per message of Nagle against delayed acknowledgements → TCP_NODELAY;
//! - a `poll()` that is dropped while it connects begins anew → its deadline is beyond rumqttc's own.
//!
//! `tests/link` has a test for each that fails without the guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use log::warn;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, LastWill, LastWillProperties, Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Start;
use super::brokers::{Brokers, CONNECT};
use super::inbound::{Inbound, filters, refused, subscriptions};
use super::tls;
use crate::clock;
use crate::config::Config;
use crate::wire::{Encoding, Header, Kind, MAX_MESSAGE, Online, Reason, RigId, Topic, encode};

/// Messages on their way to the broker at most.
pub(super) const WINDOW: u16 = 16;
/// Messages at QoS 0 that the event loop has not written yet at most.
pub(super) const LOOSE: usize = 4;
/// Packets between publisher and event loop: a window, its acknowledgements of as many, and what is at QoS 0. Full means not yet.
const CHANNEL: usize = 32 + LOOSE;
/// Reports to the publisher: each packet makes two. The link waits when it is full; the publisher never waits for it.
const REPORTS: usize = 64;
/// How long the broker keeps the session and what is in it for us.
const SESSION_EXPIRY_S: u32 = 600;
/// The broker calls us lost only after this, so that a short break is not an alarm.
const WILL_DELAY_S: u32 = 10;

/// What the link tells the publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Connected. Everything that was in flight has to be sent again.
    Up(Up),
    /// The packet handed over next in order has this id.
    Sent(u16),
    /// A packet at QoS 0, for which nobody answers, is written.
    Loose,
    /// The broker has answered for the packet.
    Acknowledged { id: u16, answer: Answer },
    /// Somebody said this. It is acknowledged by whoever it is for.
    Heard(Inbound),
    /// Not connected any more.
    Down,
}

/// How a connection ended.
enum End {
    /// On purpose.
    Left,
    /// For this reason.
    Failed(String),
    /// To come back at once with other files for TLS.
    Renewed,
}

/// What a broker says to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it.
    Taken,
    /// Not now, for this reason: it may take the same message later.
    Later(String),
    /// Never, for this reason: it would say the same again.
    Never(String),
}

/// The reason codes of MQTT 5, table 3-4 (3.4.2.1), by what they mean for the message.
fn answer(reason: PubAckReason) -> Answer {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Answer::Taken,
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::QuotaExceeded => Answer::Later(format!("{reason:?}")),
        PubAckReason::NotAuthorized | PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
            Answer::Never(format!("{reason:?}"))
        }
    }
}

/// What the broker said as it let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Up {
    /// Which connection of this start it is, from 1.
    pub(super) connection: u32,
    /// How many messages may be on their way.
    pub(super) window: usize,
    /// Largest packet that it takes.
    pub(super) max_packet: usize,
}

/// The publisher's end.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) inner: AsyncClient,
    /// The connection that is up; 0 is none. Cleared by the link before it throws its state away, so that nothing is handed over
    /// in between, the order of `Report::Sent` keeps matching the order of publishing, and no acknowledgement reaches another
    /// connection than its message came on, where its packet id means another one.
    live: Arc<AtomicU32>,
    /// The end of the connection is wanted; without it a disconnect is a failure, whoever asked for it.
    leaving: Arc<AtomicBool>,
}

impl Client {
    /// Whether this connection is the one that is up.
    pub(super) fn live(&self, connection: u32) -> bool {
        self.live.load(Ordering::Acquire) == connection
    }

    /// Asks for the end of the connection; `false` where the link has no room for the packet now.
    pub(super) fn leave(&self) -> bool {
        self.leaving.store(true, Ordering::Release);
        self.inner.try_disconnect().is_ok()
    }
}

/// The link to the broker.
pub(super) struct Link {
    eventloop: EventLoop,
    /// The way to the event loop's own channel, for subscriptions.
    client: AsyncClient,
    filters: Vec<String>,
    reports: mpsc::Sender<Report>,
    live: Arc<AtomicU32>,
    leaving: Arc<AtomicBool>,
    brokers: Brokers,
    keepalive: Duration,
    rig: RigId,
    encoding: Encoding,
    start: Start,
    connection: u32,
}

impl Link {
    pub(super) fn new(
        config: &Config,
        password: Option<String>,
        start: Start,
    ) -> (Self, Client, mpsc::Receiver<Report>) {
        // Only what the event loop keeps of these counts: the window and the acknowledgements. Each attempt sets the rest.
        let (inner, eventloop) = AsyncClient::new(ours(MqttOptions::new(config.rig.as_str(), "", 0)), CHANNEL);
        let (live, leaving) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (reports, inbox) = mpsc::channel(REPORTS);
        let link = Self {
            eventloop,
            client: inner.clone(),
            filters: filters(&config.rig, &config.fleet),
            reports,
            live: Arc::clone(&live),
            leaving: Arc::clone(&leaving),
            brokers: Brokers::new(config, password, start.seed),
            keepalive: config.broker.keepalive,
            rig: config.rig.clone(),
            encoding: config.encoding,
            start,
            connection: 0,
        };
        (link, Client { inner, live, leaving }, inbox)
    }

    /// Connects and polls for as long as somebody listens.
    pub(super) async fn run(mut self) {
        loop {
            let attempt = clock::now();
            let (up, end) = match self.brokers.options(attempt) {
                Ok(options) => {
                    let next = self.connection.saturating_add(1);
                    self.eventloop.options = ours(options);
                    self.eventloop.options.set_last_will(will(&self.rig, self.encoding, self.start.boot, next));
                    self.session().await
                }
                Err(text) => (None, End::Failed(text)),
            };
            self.live.store(0, Ordering::Release);
            self.forget();
            if up.is_some() && self.reports.send(Report::Down).await.is_err() {
                return;
            }
            let held = up.map(|since| clock::now().saturating_duration_since(since.max(attempt)));
            match end {
                End::Left => return,
                // Bounded by how often files are looked at.
                End::Renewed => {}
                End::Failed(failure) => sleep(self.brokers.ended(held, failure)).await,
            }
        }
    }

    /// One connection from its attempt to its end: when it was up, and what ended it.
    async fn session(&mut self) -> (Option<Instant>, End) {
        let mut up = None;
        loop {
            // The first poll connects, under rumqttc's own time-out for that.
            let guard = if up.is_some() { self.guard() } else { CONNECT + Duration::from_secs(1) };
            let event = match timeout(guard, self.eventloop.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => {
                    let now = i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX);
                    return (up, End::Failed(tls::explain(&error, now)));
                }
                Err(_) => return (up, End::Failed(format!("no sign of life for {} s", guard.as_secs()))),
            };
            if up.is_some() && self.brokers.renewed(clock::now()) {
                return (up, End::Renewed);
            }
            let report = match event {
                Event::Incoming(Packet::ConnAck(connack)) => {
                    up = Some(clock::now());
                    self.connection = self.connection.saturating_add(1);
                    if self.eventloop.options.keep_alive().is_zero() {
                        // The broker wants none; ours is what tells a dead peer from a silent one.
                        self.eventloop.options.set_keep_alive(self.keepalive);
                    }
                    self.live.store(self.connection, Ordering::Release);
                    self.brokers.admitted();
                    // The channel was emptied with the last connection; where it is full all the same nothing works.
                    if self.client.try_subscribe_many(subscriptions(&self.filters)).is_err() {
                        return (up, End::Failed("no room to subscribe".to_owned()));
                    }
                    Report::Up(self.admitted(&connack))
                }
                Event::Incoming(Packet::SubAck(answer)) => {
                    for filter in refused(&self.filters, &answer) {
                        warn!("the broker does not let us listen on {filter}: nothing that comes there is heard");
                    }
                    continue;
                }
                Event::Incoming(Packet::Publish(publish)) => Report::Heard(Inbound::new(self.connection, publish)),
                // Id 0 is a QoS 0 message, which nobody answers for.
                Event::Outgoing(Outgoing::Publish(0)) => Report::Loose,
                Event::Outgoing(Outgoing::Publish(id)) => Report::Sent(id),
                Event::Incoming(Packet::PubAck(ack)) => {
                    Report::Acknowledged { id: ack.pkid, answer: answer(ack.reason) }
                }
                Event::Outgoing(Outgoing::Disconnect) if self.leaving.load(Ordering::Acquire) => {
                    return (up, End::Left);
                }
                Event::Outgoing(Outgoing::Disconnect) => {
                    return (up, End::Failed("the broker broke the protocol".to_owned()));
                }
                Event::Incoming(_) | Event::Outgoing(_) => continue,
            };
            if self.reports.send(report).await.is_err() {
                return (up, End::Left);
            }
        }
    }

    /// Longest silence of the event loop that is still life: it pings once per keep-alive, the broker's where that has set
    /// one.
    fn guard(&self) -> Duration {
        self.eventloop.options.keep_alive() * 3 / 2 + Duration::from_secs(3)
    }

    fn admitted(&self, connack: &ConnAck) -> Up {
        let properties = connack.properties.as_ref();
        let receive_max = properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
        let max_packet = properties.and_then(|properties| properties.max_packet_size);
        Up {
            connection: self.connection,
            window: WINDOW.min(receive_max).into(),
            max_packet: max_packet.and_then(|size| usize::try_from(size).ok()).unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE),
        }
    }

    /// All of rumqttc's state is disposable: what is not acknowledged is still in the outbox.
    fn forget(&mut self) {
        self.eventloop.clean();
        self.eventloop.pending.clear();
        self.eventloop.state.collision = None;
    }
}

/// Adds what holds for every connection, whoever is at the other end.
fn ours(mut options: MqttOptions) -> MqttOptions {
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
        .set_receive_maximum(Some(WINDOW))
        .set_max_packet_size(Some(u32::try_from(MAX_MESSAGE).unwrap_or(u32::MAX)))
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_manual_acks(true);
    options
}

/// What the broker says for us when we vanish; it carries the number of the connection that it ends.
fn will(rig: &RigId, encoding: Encoding, boot: u32, connection: u32) -> LastWill {
    let body = Online { online: false, connection, reason: Reason::Lost };
    let properties = LastWillProperties {
        delay_interval: Some(WILL_DELAY_S),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: Some(encoding.content_type().to_owned()),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    let topic = Topic::new(rig.clone(), Kind::Online).to_string();
    let message = encode(encoding, Header::new(Kind::Online, boot, 0), &body);
    LastWill::new(topic, message, QoS::AtLeastOnce, true, Some(properties))
}
