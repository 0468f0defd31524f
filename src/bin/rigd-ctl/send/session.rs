//! A conversation with rigs over the broker: one connection, what rigs say to it, and its end.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rigd::wire::{Ack, Birth, CommandId, MAX_MESSAGE, Message, RigId, Topic, decode};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason, Publish, PublishProperties, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event};
use tokio::sync::mpsc;

use crate::broker::{Flags, explain};

/// Answers that wait for a person's screen; a fleet that says more is read more slowly.
const HEARD: usize = 256;
const WINDOW: u16 = 16;

/// What came.
pub(super) enum Heard {
    /// An answer, from this rig.
    Ack(RigId, Ack),
    /// A rig's birth.
    Birth(Box<Birth>),
}

/// What the connection says.
enum News {
    Subscribed,
    Heard(Publish),
    Taken(PubAckReason),
    Failed(anyhow::Error),
}

/// An open conversation.
pub(super) struct Session {
    client: AsyncClient,
    news: mpsc::Receiver<News>,
    broker: String,
    /// Answers are wanted here.
    response: Option<String>,
    /// What answers to our command carry.
    correlation: Option<CommandId>,
}

impl Session {
    /// Connects and listens to one rig's answers and birth, or to every rig's answers.
    ///
    /// # Errors
    /// A broker that cannot be reached or does not let us listen.
    pub(super) async fn open(broker: Flags, rig: Option<&RigId>) -> anyhow::Result<Self> {
        let mut options = broker.options(&format!("rigd-ctl-{}", std::process::id()))?;
        options
            .set_receive_maximum(Some(WINDOW))
            .set_outgoing_inflight_upper_limit(WINDOW)
            .set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok());
        let (client, mut eventloop) = AsyncClient::new(options, 8);
        let (tell, news) = mpsc::channel(HEARD);
        let filters: Vec<String> = match rig {
            Some(rig) => vec![Topic::new(rig.clone(), rigd::wire::Kind::Ack).to_string(), birth(rig)],
            None => vec!["r1/+/up/ack".to_owned()],
        };
        let subscriber = client.clone();
        // In a task of its own: poll() must not be dropped while it connects.
        tokio::spawn(async move {
            loop {
                let said = match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let filters = filters.iter().map(|filter| Filter::new(filter.as_str(), QoS::AtLeastOnce));
                        match subscriber.try_subscribe_many(filters) {
                            Ok(()) => continue,
                            Err(error) => News::Failed(anyhow::anyhow!("could not subscribe: {error}")),
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(ack))) => {
                        match ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
                            None => News::Subscribed,
                            Some(code) => News::Failed(anyhow::anyhow!("refuses the subscription: {code:?}")),
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => News::Heard(publish),
                    Ok(Event::Incoming(Packet::PubAck(ack))) => News::Taken(ack.reason),
                    Ok(_) => continue,
                    Err(error) => News::Failed(anyhow::anyhow!("{}", explain(&error))),
                };
                let ends = matches!(said, News::Failed(_));
                if tell.send(said).await.is_err() || ends {
                    return;
                }
            }
        });
        let response = rig.map(|rig| Topic::new(rig.clone(), rigd::wire::Kind::Ack).to_string());
        let mut session = Self { client, news, broker: broker.url(), response, correlation: None };
        loop {
            match session.news.recv().await.context("the connection ended")? {
                News::Subscribed => return Ok(session),
                News::Failed(error) => return Err(error.context(session.broker.clone())),
                News::Heard(_) | News::Taken(_) => {}
            }
        }
    }

    /// Sends a command.
    ///
    /// # Errors
    /// Where the connection has no room.
    pub(super) fn publish(
        &mut self,
        topic: &str,
        frame: Vec<u8>,
        id: CommandId,
        valid: Duration,
    ) -> anyhow::Result<()> {
        self.correlation = Some(id);
        let properties = PublishProperties {
            message_expiry_interval: u32::try_from(valid.as_secs()).ok(),
            response_topic: self.response.clone(),
            correlation_data: Some(id.0.to_vec().into()),
            ..PublishProperties::default()
        };
        let sent = self.client.try_publish_with_properties(topic, QoS::AtLeastOnce, false, frame, properties);
        sent.context("could not send")
    }

    /// The next thing that a rig says; none when the time is over.
    ///
    /// # Errors
    /// A lost broker, or one that does not take the command.
    pub(super) async fn next(&mut self, until: Instant) -> anyhow::Result<Option<Heard>> {
        loop {
            let Ok(news) = tokio::time::timeout_at(until.into(), self.news.recv()).await else { return Ok(None) };
            match news.context("the connection ended")? {
                News::Subscribed | News::Taken(PubAckReason::Success) => {}
                News::Taken(PubAckReason::NoMatchingSubscribers) => {
                    bail!("{}: no rig listens there now", self.broker);
                }
                News::Taken(reason) => bail!("{} does not take the command: {reason:?}", self.broker),
                News::Failed(error) => return Err(error.context(self.broker.clone())),
                News::Heard(publish) => {
                    let topic = std::str::from_utf8(&publish.topic).ok().and_then(Topic::parse);
                    // What others say there is not ours to complain about.
                    match (topic, decode(&publish.payload)) {
                        (Some(topic), Ok((_, Message::Ack(mut ack)))) => {
                            // A frame that was refused unread is known by what came with it alone.
                            let data = publish.properties.and_then(|properties| properties.correlation_data);
                            if let (Some(id), Some(data)) = (self.correlation, data)
                                && data == id.0[..]
                            {
                                ack.id = id;
                            }
                            return Ok(Some(Heard::Ack(topic.rig, ack)));
                        }
                        (Some(_), Ok((_, Message::Birth(birth)))) => return Ok(Some(Heard::Birth(Box::new(birth)))),
                        _ => {}
                    }
                }
            }
        }
    }
}

fn birth(rig: &RigId) -> String {
    Topic::new(rig.clone(), rigd::wire::Kind::Birth).to_string()
}
