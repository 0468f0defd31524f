//! The link task: connects to one broker after another with back-off, through [`Session`] with its guards, and reports.

use log::warn;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{ConnAck, LastWill, Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Start;
use super::brokers::Brokers;
use super::inbound::{Inbound, filters, refused, subscriptions};
use super::session::{Bounds, Client, End, Session, will};
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

/// The link to the broker.
pub(super) struct Link {
    session: Session,
    /// The way to the event loop's own channel, for subscriptions.
    client: AsyncClient,
    filters: Vec<String>,
    reports: mpsc::Sender<Report>,
    brokers: Brokers,
    rig: RigId,
    encoding: Encoding,
    start: Start,
}

impl Link {
    pub(super) fn new(
        config: &Config,
        password: Option<String>,
        start: Start,
    ) -> (Self, Client, mpsc::Receiver<Report>) {
        let bounds = Bounds { window: WINDOW, in_flight: WINDOW, max_packet: MAX_MESSAGE, channel: CHANNEL };
        let (session, client) = Session::new(MqttOptions::new(config.rig.as_str(), "", 0), bounds);
        let (reports, inbox) = mpsc::channel(REPORTS);
        let link = Self {
            session,
            client: client.inner.clone(),
            filters: filters(&config.rig, &config.fleet),
            reports,
            brokers: Brokers::new(config, password, start.seed),
            rig: config.rig.clone(),
            encoding: config.encoding,
            start,
        };
        (link, client, inbox)
    }

    /// Connects and polls for as long as somebody listens.
    pub(super) async fn run(mut self) {
        loop {
            let ended = match self.brokers.options(clock::now()) {
                Ok(options) => {
                    let will = self.will();
                    self.session.prepare(options, will);
                    self.connection().await
                }
                Err(text) => Err(End::Failed(text)),
            };
            let held = self.session.forget();
            if held.is_some() && self.reports.send(Report::Down).await.is_err() {
                return;
            }
            match ended {
                // Bounded by how often files are looked at.
                Ok(()) => {}
                Err(End::Left) => return,
                Err(End::Failed(failure)) => sleep(self.brokers.ended(held, failure)).await,
            }
        }
    }

    /// One connection from its attempt to its end. Without an error it is to come back at once with other files for TLS.
    async fn connection(&mut self) -> Result<(), End> {
        while !(self.session.is_up() && self.brokers.renewed(clock::now())) {
            let report = match self.session.next().await? {
                Event::Incoming(Packet::ConnAck(connack)) => {
                    self.session.open();
                    self.brokers.admitted();
                    // The channel was emptied with the last connection; where it is full all the same nothing works.
                    if self.client.try_subscribe_many(subscriptions(&self.filters)).is_err() {
                        return Err(End::Failed("no room to subscribe".to_owned()));
                    }
                    Report::Up(self.admitted(&connack))
                }
                Event::Incoming(Packet::SubAck(answer)) => {
                    for filter in refused(&self.filters, &answer) {
                        warn!("the broker does not let us listen on {filter}: nothing that comes there is heard");
                    }
                    continue;
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    Report::Heard(Inbound::new(self.session.connection(), publish))
                }
                // Id 0 is a QoS 0 message, which nobody answers for.
                Event::Outgoing(Outgoing::Publish(0)) => Report::Loose,
                Event::Outgoing(Outgoing::Publish(id)) => Report::Sent(id),
                Event::Incoming(Packet::PubAck(ack)) => {
                    Report::Acknowledged { id: ack.pkid, answer: answer(ack.reason) }
                }
                Event::Incoming(_) | Event::Outgoing(_) => continue,
            };
            if self.reports.send(report).await.is_err() {
                return Err(End::Left);
            }
        }
        Ok(())
    }

    fn admitted(&self, connack: &ConnAck) -> Up {
        let properties = connack.properties.as_ref();
        let receive_max = properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
        let max_packet = properties.and_then(|properties| properties.max_packet_size);
        Up {
            connection: self.session.connection(),
            window: WINDOW.min(receive_max).into(),
            max_packet: max_packet.and_then(|size| usize::try_from(size).ok()).unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE),
        }
    }

    /// What the broker says for us when we vanish; it carries the number of the connection that it ends, which is the next.
    fn will(&self) -> LastWill {
        let connection = self.session.connection().saturating_add(1);
        let body = Online { online: false, connection, reason: Reason::Lost };
        let topic = Topic::new(self.rig.clone(), Kind::Online).to_string();
        will(topic, encode(self.encoding, Header::new(Kind::Online, self.start.boot, 0), &body))
    }
}
