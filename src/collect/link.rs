//! The collector's connection: like a rig's link ([`crate::mqtt`]), with the same guards and the roles exchanged.
//!
//! Nothing of rumqttc's survives an error: messages that were not acknowledged come again from the broker, or from the rig
//! when the broker has forgotten them. The task never waits for the store: messages with an acknowledgement are bounded by
//! the receive window, those without one are dropped and counted when nobody takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{info, warn};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, LastWill, LastWillProperties, Packet, Publish, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{Connect, Settings};
use crate::clock;
use crate::mqtt::backoff::BackOff;
use crate::wire::{CONTROLLER, Controller, Encoding, Header, Kind, MAX_MESSAGE, Topic, encode};

/// Messages from the broker without an acknowledgement of ours at most; a broker may allow fewer.
const WINDOW: u16 = 1_000;
/// Messages of ours without an acknowledgement of the broker's at most. rumqttc stops sending acknowledgements at twice as
/// many, so that never happens.
pub(super) const OURS: usize = 32;
/// Requests to the event loop: an acknowledgement for each of the window, and our own. It is never full while both bounds hold.
const CHANNEL: usize = 1_200;
/// News for the collector: a window, and what comes without an acknowledgement.
const HEARD: usize = 2_048;
/// DNS, TCP and CONNECT together.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the broker keeps the session. A longer absence costs nothing: rigs keep what is not stored, and send it again.
const SESSION_EXPIRY_S: u32 = 600;
/// Rigs are told that we are gone only after this, so that a restart is none of their business.
const WILL_DELAY_S: u32 = 10;

/// What the link hears.
pub(super) enum Heard {
    /// Connected and subscribed: the connection of this number.
    Up(u32),
    /// A message on the connection of this number.
    Message(u32, Box<Publish>),
    /// The broker has taken one of ours.
    Taken,
    /// Not connected any more.
    Down,
}

/// The collector's end.
pub(super) struct Client {
    inner: AsyncClient,
    /// The connection that is up; 0 is none. Cleared before the link forgets, on the same thread, so that no acknowledgement
    /// reaches another connection than its message came on.
    current: Arc<AtomicU32>,
    leaving: Arc<AtomicBool>,
    /// Messages without an acknowledgement that were dropped.
    pub(super) dropped: Arc<AtomicU64>,
    instance: u32,
}

impl Client {
    /// Acknowledges a message where its connection is still up; otherwise it comes again.
    pub(super) fn acknowledge(&self, connection: u32, message: &Publish) {
        if self.current.load(Ordering::Acquire) == connection && self.inner.try_ack(message).is_err() {
            // The bounds above exclude it. If it is ever wrong, the message comes again with the next connection.
            warn!("no room for an acknowledgement");
        }
    }

    /// Whether something can be said now.
    pub(super) fn up(&self) -> bool {
        self.current.load(Ordering::Acquire) != 0
    }

    /// Says something, retained; `false` where there is no room now.
    pub(super) fn say(&self, topic: &str, message: Vec<u8>) -> bool {
        let properties = PublishProperties {
            content_type: Some(Encoding::Postcard.content_type().to_owned()),
            ..PublishProperties::default()
        };
        self.up() && self.inner.try_publish_with_properties(topic, QoS::AtLeastOnce, true, message, properties).is_ok()
    }

    /// Says whether we are there.
    pub(super) fn announce(&self, online: bool) -> bool {
        self.say(CONTROLLER, state(online, self.instance))
    }

    /// Asks for the end of the connection.
    pub(super) fn leave(&self) -> bool {
        self.leaving.store(true, Ordering::Release);
        self.inner.try_disconnect().is_ok()
    }
}

/// How a connection ended.
enum End {
    /// On purpose.
    Left,
    /// For this reason.
    Failed(String),
}

/// The link to the broker.
pub(super) struct Link {
    client: AsyncClient,
    eventloop: EventLoop,
    heard: mpsc::Sender<Heard>,
    current: Arc<AtomicU32>,
    leaving: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
    backoff: BackOff,
    instance: u32,
    keepalive: Duration,
    broker: String,
    connect: Connect,
    connection: u32,
    /// The failure that was told last: one line per episode, not per attempt.
    told: Option<String>,
}

impl Link {
    /// # Errors
    /// Why there are no options to connect with.
    pub(super) fn new(settings: Settings) -> Result<(Self, Client, mpsc::Receiver<Heard>), String> {
        let Settings { broker, connect, instance, .. } = settings;
        let options = options((connect)()?, instance);
        let keepalive = options.keep_alive();
        let (inner, eventloop) = AsyncClient::new(options, CHANNEL);
        let (heard, inbox) = mpsc::channel(HEARD);
        let (current, leaving, dropped) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default(), Arc::default());
        let client = Client {
            inner: inner.clone(),
            current: Arc::clone(&current),
            leaving: Arc::clone(&leaving),
            dropped: Arc::clone(&dropped),
            instance,
        };
        let link = Self {
            client: inner,
            eventloop,
            heard,
            current,
            leaving,
            dropped,
            backoff: BackOff::new(instance.into()),
            instance,
            keepalive,
            broker,
            connect,
            connection: 0,
            told: None,
        };
        Ok((link, client, inbox))
    }

    /// Connects and polls for as long as somebody listens.
    pub(super) async fn run(mut self) {
        loop {
            // Files may have changed, and the last broker may have set another keep-alive. What cannot be used now leaves what
            // was used before.
            match (self.connect)() {
                Ok(next) => self.eventloop.options = options(next, self.instance),
                Err(error) => warn!("{error}; going on with what was read before"),
            }
            self.eventloop.options.set_keep_alive(self.keepalive);
            let attempt = clock::now();
            let (up, end) = self.session().await;
            self.current.store(0, Ordering::Release);
            self.eventloop.clean();
            self.eventloop.pending.clear();
            self.eventloop.state.collision = None;
            if self.heard.send(Heard::Down).await.is_err() {
                return;
            }
            let failure = match end {
                End::Left => return,
                End::Failed(failure) => failure,
            };
            if up.is_some() || self.told.as_ref() != Some(&failure) {
                let what = if up.is_some() { "lost" } else { "no connection to" };
                warn!("{what} broker {}: {failure}; trying again", self.broker);
                self.told = Some(failure);
            }
            let held = up.map_or(Duration::ZERO, |since| clock::now().saturating_duration_since(since.max(attempt)));
            sleep(self.backoff.next(held)).await;
        }
    }

    /// One connection from its attempt to its end: when it was up, and what ended it.
    async fn session(&mut self) -> (Option<Instant>, End) {
        let mut up = None;
        loop {
            let guard = if up.is_some() { self.guard() } else { CONNECT + Duration::from_secs(1) };
            let event = match timeout(guard, self.eventloop.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => return (up, End::Failed(error.to_string())),
                Err(_) => return (up, End::Failed(format!("no sign of life for {} s", guard.as_secs()))),
            };
            let heard = match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    up = Some(clock::now());
                    self.connection = self.connection.saturating_add(1);
                    if self.eventloop.options.keep_alive().is_zero() {
                        // The broker wants none; ours is what tells a dead peer from a silent one.
                        self.eventloop.options.set_keep_alive(self.keepalive);
                    }
                    // Also where the session is still there: the broker then repeats what is retained.
                    let filter = Filter::new(Topic::everything(), QoS::AtLeastOnce);
                    if self.client.try_subscribe_many([filter]).is_err() {
                        return (up, End::Failed("no room for the subscription".to_owned()));
                    }
                    continue;
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    let good = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                    if let Some(code) = ack.return_codes.iter().find(|code| !good(code)) {
                        return (up, End::Failed(format!("it refuses the subscription: {code:?}")));
                    }
                    info!("connected to {}", self.broker);
                    self.told = None;
                    self.current.store(self.connection, Ordering::Release);
                    Heard::Up(self.connection)
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    // A session that resumes begins with messages; they may be acknowledged before the subscription is.
                    self.current.store(self.connection, Ordering::Release);
                    if publish.qos == QoS::AtMostOnce {
                        if self.heard.try_send(Heard::Message(self.connection, Box::new(publish))).is_err() {
                            self.dropped.fetch_add(1, Ordering::Relaxed);
                        }
                        continue;
                    }
                    Heard::Message(self.connection, Box::new(publish))
                }
                Event::Incoming(Packet::PubAck(_)) => Heard::Taken,
                Event::Outgoing(Outgoing::Disconnect) if self.leaving.load(Ordering::Acquire) => {
                    return (up, End::Left);
                }
                Event::Outgoing(Outgoing::Disconnect) => {
                    return (up, End::Failed("the broker broke the protocol".to_owned()));
                }
                Event::Incoming(_) | Event::Outgoing(_) => continue,
            };
            if self.heard.send(heard).await.is_err() {
                return (up, End::Left);
            }
        }
    }

    /// Longest silence of the event loop that is still life: it pings once per keep-alive.
    fn guard(&self) -> Duration {
        self.eventloop.options.keep_alive() * 3 / 2 + Duration::from_secs(3)
    }
}

/// What every connection of ours has beside address and keys.
fn options(mut options: MqttOptions, instance: u32) -> MqttOptions {
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
        .set_receive_maximum(Some(WINDOW))
        .set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok())
        .set_outgoing_inflight_upper_limit(u16::try_from(2 * OURS).unwrap_or(u16::MAX))
        .set_manual_acks(true)
        .set_last_will(will(instance));
    options
}

fn state(online: bool, instance: u32) -> Vec<u8> {
    encode(Encoding::Postcard, Header::new(Kind::Controller, instance, 0), &Controller { online, instance })
}

/// What the broker says for us when we vanish.
fn will(instance: u32) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: Some(WILL_DELAY_S),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: Some(Encoding::Postcard.content_type().to_owned()),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    LastWill::new(CONTROLLER, state(false, instance), QoS::AtLeastOnce, true, Some(properties))
}
