//! One connection after another: the only place that polls rumqttc for the rig and for the collector, and that guards against
//! what rumqttc does wrong.
//!
//! Each seen in 0.25.1, with its guard:
//! - a peer that stops reading: `poll()` never returns once the send buffer is full → a deadline around it;
//! - a `poll()` that is dropped while it connects begins anew → its deadline is beyond rumqttc's own;
//! - messages dropped or overwritten when a session resumes → all state is cleared, and whoever has messages sends them again;
//! - what was read in one go with the end of a connection is told on the next, whose packet ids mean other messages → it is
//!   cleared too, and the broker sends it again;
//! - 14 MB of slots for in-flight messages → a bound;
//! - a message over the packet limit reconnects for ever → sizes are announced here, and checked before sending;
//! - a message acknowledged before anybody has seen it → acknowledged by whoever it is for, where [`Client::live`];
//! - a keep-alive that the broker sets holds for all later connections, and one of zero ends the pings → ours is put back.
//!
//! No pause between attempts is a guard of the links (`backoff`), 40 ms per message of Nagle against delayed acknowledgements
//! one of [`super::connect_options`].
//!
//! `tests/link` and the tests here have a test for each that fails without the guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, LastWillProperties, Packet};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::time::timeout;

use super::tls;
use crate::clock;
use crate::wire::Encoding;

/// DNS, TCP, TLS and CONNECT together.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// How long the broker keeps the session and what is in it for us. A longer absence costs nothing: rigs keep what is not stored,
/// and send it again.
const SESSION_EXPIRY_S: u32 = 600;
/// The broker calls us lost only after this, so that a short break or a restart is nobody's business.
const WILL_DELAY_S: u32 = 10;

/// How much may be on its way, the same for each connection.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Messages from the broker without an acknowledgement of ours.
    pub(crate) window: u16,
    /// Messages of ours without one of the broker's.
    pub(crate) in_flight: u16,
    /// The largest packet that we take, bytes.
    pub(crate) max_packet: usize,
    /// Packets that wait for the event loop. A full channel takes no more.
    pub(crate) channel: usize,
}

impl Bounds {
    /// Adds what holds for every connection, whoever is at the other end.
    fn set(self, options: &mut MqttOptions) {
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
            .set_receive_maximum(Some(self.window))
            .set_max_packet_size(Some(u32::try_from(self.max_packet).unwrap_or(u32::MAX)))
            .set_outgoing_inflight_upper_limit(self.in_flight)
            .set_manual_acks(true);
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// On purpose.
    Left,
    /// For this reason.
    Failed(String),
}

/// The way to the event loop, for whoever has something to say.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) inner: AsyncClient,
    /// The connection that is up; 0 is none. Cleared before rumqttc's state is thrown away, so that nothing is handed over in
    /// between, events keep matching the order of publishing, and no acknowledgement reaches another connection than its message
    /// came on, where its packet id means another one.
    live: Arc<AtomicU32>,
    /// The end of the connection is wanted; without it a disconnect is a failure, whoever asked for it.
    leaving: Arc<AtomicBool>,
}

impl Client {
    /// Whether this connection is the one that is up; of 0, whether none is.
    pub(crate) fn live(&self, connection: u32) -> bool {
        self.live.load(Ordering::Acquire) == connection
    }

    /// Asks for the end of the connection; `false` where there is no room for the packet now.
    pub(crate) fn leave(&self) -> bool {
        self.leaving.store(true, Ordering::Release);
        self.inner.try_disconnect().is_ok()
    }
}

/// A connection, and the next when that is over. Nothing of rumqttc's goes from one to the other.
pub(crate) struct Session {
    eventloop: EventLoop,
    bounds: Bounds,
    /// Ours; a broker may set another for one connection.
    keepalive: Duration,
    connection: u32,
    up: Option<Instant>,
    live: Arc<AtomicU32>,
    leaving: Arc<AtomicBool>,
}

impl Session {
    /// Of these options only the bounds count; [`Self::prepare`] sets the rest for each attempt.
    pub(crate) fn new(mut options: MqttOptions, bounds: Bounds) -> (Self, Client) {
        bounds.set(&mut options);
        let keepalive = options.keep_alive();
        let (inner, eventloop) = AsyncClient::new(options, bounds.channel);
        let (live, leaving) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let client = Client { inner, live: Arc::clone(&live), leaving: Arc::clone(&leaving) };
        (Self { eventloop, bounds, keepalive, connection: 0, up: None, live, leaving }, client)
    }

    /// What the next attempt connects with; without it, the same as the last.
    pub(crate) fn prepare(&mut self, mut options: MqttOptions, will: LastWill) {
        self.bounds.set(&mut options);
        options.set_last_will(will);
        self.keepalive = options.keep_alive();
        self.eventloop.options = options;
    }

    /// Which connection of this start it is or was, from 1; 0 before the first.
    pub(crate) fn connection(&self) -> u32 {
        self.connection
    }

    /// Whether the broker has let us in.
    pub(crate) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// From now on others may use the connection.
    pub(crate) fn open(&self) {
        self.live.store(self.connection, Ordering::Release);
    }

    /// The next that happens; the first of a connection is its CONNACK. Must be polled to its end: never in a `select!`.
    pub(crate) async fn next(&mut self) -> Result<Event, End> {
        // The first poll connects, under rumqttc's own time-out for that. After it there is no longer silence than this that is
        // still life: it pings once per keep-alive, the broker's where that has set one.
        let guard = if self.is_up() {
            self.eventloop.options.keep_alive() * 3 / 2 + Duration::from_secs(3)
        } else {
            CONNECT + Duration::from_secs(1)
        };
        let event = match timeout(guard, self.eventloop.poll()).await {
            Ok(Ok(event)) => event,
            Ok(Err(error)) => {
                let now = i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX);
                return Err(End::Failed(tls::explain(&error, now)));
            }
            Err(_) => return Err(End::Failed(format!("no sign of life for {} s", guard.as_secs()))),
        };
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                self.up = Some(clock::now());
                self.connection = self.connection.saturating_add(1);
                if self.eventloop.options.keep_alive().is_zero() {
                    // The broker wants none; ours is what tells a dead peer from a silent one.
                    self.eventloop.options.set_keep_alive(self.keepalive);
                }
            }
            Event::Outgoing(Outgoing::Disconnect) if self.leaving.load(Ordering::Acquire) => return Err(End::Left),
            Event::Outgoing(Outgoing::Disconnect) => {
                return Err(End::Failed("the broker broke the protocol".to_owned()));
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
        Ok(event)
    }

    /// Ends the connection and throws away all that rumqttc has of it; how long it was up, where it was. Who has messages still
    /// has them, and sends them again.
    pub(crate) fn forget(&mut self) -> Option<Duration> {
        self.live.store(0, Ordering::Release);
        self.eventloop.clean();
        self.eventloop.pending.clear();
        self.eventloop.state.collision = None;
        self.eventloop.state.events.clear();
        self.eventloop.options.set_keep_alive(self.keepalive);
        self.up.take().map(|since| clock::now().saturating_duration_since(since))
    }
}

/// What the broker says for us when we vanish, retained.
pub(crate) fn will(topic: String, message: Vec<u8>) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: Some(WILL_DELAY_S),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: Some(Encoding::of(&message).content_type().to_owned()),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    LastWill::new(topic, message, QoS::AtLeastOnce, true, Some(properties))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A message that came in one read with the end of its connection: it belongs to no other. Seen to fail without
    /// `state.events.clear()`: the second connection began with the message.
    #[test]
    fn each_connection_begins_with_its_own_connack_whatever_the_last_one_left() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let broker = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 256]).unwrap() > 0);
                let connack = [0x20, 3, 0, 0, 0];
                let message = [0x32, 7, 0, 1, b't', 0, 9, 0, b'x'];
                // There is no packet of type 0.
                let nonsense = [0, 0];
                stream.write_all(&[&connack[..], &message, &nonsense].concat()).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let bounds = Bounds { window: 4, in_flight: 4, max_packet: 1_000, channel: 4 };
        let (mut session, client) = Session::new(MqttOptions::new("me", "127.0.0.1", port), bounds);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for connection in [1, 2] {
                let first = session.next().await.unwrap();
                assert!(matches!(first, Event::Incoming(Packet::ConnAck(_))), "{first:?}");
                session.open();
                assert!(session.is_up() && client.live(connection) && !client.live(0));
                let end = loop {
                    if let Err(end) = session.next().await {
                        break end;
                    }
                };
                assert!(matches!(end, End::Failed(_)), "{end:?}");
                assert!(session.forget().is_some() && session.forget().is_none());
                assert!(client.live(0) && session.connection() == connection);
            }
        });
        drop(session);
        broker.join().unwrap();
    }
}
