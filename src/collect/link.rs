//! The collector's connection: like a rig's link ([`crate::mqtt`]), on the same [`Session`], with the roles exchanged.
//!
//! Nothing of rumqttc's survives an error: messages that were not acknowledged come again from the broker, or from the rig
//! when the broker has forgotten them. The task never waits for the store: messages with an acknowledgement are bounded by
//! the receive window, those without one are dropped and counted when nobody takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{info, warn};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Packet, Publish, PublishProperties, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Connect, Settings};
use crate::mqtt::backoff::BackOff;
use crate::mqtt::session::{self, Bounds, End, Session, will};
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
    session: session::Client,
    /// Messages without an acknowledgement that were dropped.
    pub(super) dropped: Arc<AtomicU64>,
    instance: u32,
}

impl Client {
    /// Acknowledges a message where its connection is still up; otherwise it comes again.
    pub(super) fn acknowledge(&self, connection: u32, message: &Publish) {
        if self.session.live(connection) && self.session.inner.try_ack(message).is_err() {
            // The bounds above exclude it. If it is ever wrong, the message comes again with the next connection.
            warn!("no room for an acknowledgement");
        }
    }

    /// Whether something can be said now.
    pub(super) fn up(&self) -> bool {
        !self.session.live(0)
    }

    /// Says something, retained; `false` where there is no room now.
    pub(super) fn say(&self, topic: &str, message: Vec<u8>) -> bool {
        let properties = PublishProperties {
            content_type: Some(Encoding::Postcard.content_type().to_owned()),
            ..PublishProperties::default()
        };
        let client = &self.session.inner;
        self.up() && client.try_publish_with_properties(topic, QoS::AtLeastOnce, true, message, properties).is_ok()
    }

    /// Says whether we are there.
    pub(super) fn announce(&self, online: bool) -> bool {
        self.say(CONTROLLER, state(online, self.instance))
    }

    /// Asks for the end of the connection.
    pub(super) fn leave(&self) -> bool {
        self.session.leave()
    }
}

/// The link to the broker.
pub(super) struct Link {
    session: Session,
    client: AsyncClient,
    heard: mpsc::Sender<Heard>,
    dropped: Arc<AtomicU64>,
    backoff: BackOff,
    instance: u32,
    broker: String,
    connect: Connect,
    /// The failure that was told last: one line per episode, not per attempt.
    told: Option<String>,
}

impl Link {
    /// # Errors
    /// Why there are no options to connect with.
    pub(super) fn new(settings: Settings) -> Result<(Self, Client, mpsc::Receiver<Heard>), String> {
        let Settings { broker, connect, instance, .. } = settings;
        let in_flight = u16::try_from(2 * OURS).unwrap_or(u16::MAX);
        let bounds = Bounds { window: WINDOW, in_flight, max_packet: 2 * MAX_MESSAGE, channel: CHANNEL };
        let options = (connect)()?;
        let (mut session, client) = Session::new(options.clone(), bounds);
        session.prepare(options, gone(instance));
        let (heard, inbox) = mpsc::channel(HEARD);
        let dropped: Arc<AtomicU64> = Arc::default();
        let link = Self {
            session,
            client: client.inner.clone(),
            heard,
            dropped: Arc::clone(&dropped),
            backoff: BackOff::new(instance.into()),
            instance,
            broker,
            connect,
            told: None,
        };
        Ok((link, Client { session: client, dropped, instance }, inbox))
    }

    /// Connects and polls for as long as somebody listens.
    pub(super) async fn run(mut self) {
        loop {
            // Files may have changed. What cannot be used now leaves what was used before.
            match (self.connect)() {
                Ok(next) => self.session.prepare(next, gone(self.instance)),
                Err(error) => warn!("{error}; going on with what was read before"),
            }
            let end = self.connection().await;
            let held = self.session.forget();
            if held.is_some() && self.heard.send(Heard::Down).await.is_err() {
                return;
            }
            let failure = match end {
                End::Left => return,
                End::Failed(failure) => failure,
            };
            if held.is_some() || self.told.as_ref() != Some(&failure) {
                let what = if held.is_some() { "lost" } else { "no connection to" };
                warn!("{what} broker {}: {failure}; trying again", self.broker);
                self.told = Some(failure);
            }
            sleep(self.backoff.next(held.unwrap_or_default())).await;
        }
    }

    /// One connection from its attempt to its end.
    async fn connection(&mut self) -> End {
        loop {
            let event = match self.session.next().await {
                Ok(event) => event,
                Err(end) => return end,
            };
            let connection = self.session.connection();
            let heard = match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    // Also where the session is still there: the broker then repeats what is retained.
                    let filter = Filter::new(Topic::everything(), QoS::AtLeastOnce);
                    if self.client.try_subscribe_many([filter]).is_err() {
                        return End::Failed("no room for the subscription".to_owned());
                    }
                    continue;
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    let good = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                    if let Some(code) = ack.return_codes.iter().find(|code| !good(code)) {
                        return End::Failed(format!("it refuses the subscription: {code:?}"));
                    }
                    info!("connected to {}", self.broker);
                    self.told = None;
                    self.session.open();
                    Heard::Up(connection)
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    // A session that resumes begins with messages; they may be acknowledged before the subscription is.
                    self.session.open();
                    if publish.qos == QoS::AtMostOnce {
                        if self.heard.try_send(Heard::Message(connection, Box::new(publish))).is_err() {
                            self.dropped.fetch_add(1, Ordering::Relaxed);
                        }
                        continue;
                    }
                    Heard::Message(connection, Box::new(publish))
                }
                Event::Incoming(Packet::PubAck(_)) => Heard::Taken,
                Event::Incoming(_) | Event::Outgoing(_) => continue,
            };
            if self.heard.send(heard).await.is_err() {
                return End::Left;
            }
        }
    }
}

fn state(online: bool, instance: u32) -> Vec<u8> {
    encode(Encoding::Postcard, Header::new(Kind::Controller, instance, 0), &Controller { online, instance })
}

/// What the broker says for us when we vanish.
fn gone(instance: u32) -> LastWill {
    will(CONTROLLER.to_owned(), state(false, instance))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::thread;
    use std::time::Duration;

    use rumqttc::v5::MqttOptions;
    use tokio::time::timeout;

    use super::*;

    /// Seen to fail where each attempt that came to nothing said `Down`.
    #[test]
    fn what_never_was_up_does_not_go_down() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (hang_up, told) = std::sync::mpsc::sync_channel::<()>(1);
        let broker = thread::spawn(move || {
            // The first two are hung up on, the third is let in, and hung up on when it has its subscription.
            let mut streams = listener.incoming();
            for _ in 0..2 {
                drop(streams.next());
            }
            let mut stream = streams.next().unwrap().unwrap();
            let mut packet = [0; 256];
            assert!(stream.read(&mut packet).unwrap() > 0);
            stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
            assert!(stream.read(&mut packet).unwrap() > 3);
            stream.write_all(&[0x90, 4, packet[2], packet[3], 0, 1]).unwrap();
            assert!(told.recv().is_err());
        });
        let settings = Settings {
            broker: "it".to_owned(),
            connect: Box::new(move || Ok(MqttOptions::new("me", "127.0.0.1", port))),
            store: PathBuf::new(),
            keep: Duration::ZERO,
            instance: 7,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (link, client, mut heard) = Link::new(settings).unwrap();
            let link = tokio::spawn(link.run());
            let mut next = async || timeout(Duration::from_secs(60), heard.recv()).await.unwrap().unwrap();
            assert!(matches!(next().await, Heard::Up(1)) && client.up());
            drop(hang_up);
            assert!(matches!(next().await, Heard::Down) && !client.up());
            link.abort();
        });
        broker.join().unwrap();
    }
}
