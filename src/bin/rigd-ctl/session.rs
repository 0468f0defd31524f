//! A conversation over the broker: one connection, what is heard on some topics, and its end.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, anyhow};
use rigd::wire::MAX_MESSAGE;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason, Publish, PublishProperties, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event};
use tokio::sync::mpsc;

use crate::broker::{Flags, explain};

/// Answers that wait for a person's screen; a fleet that says more is read more slowly.
const HEARD: usize = 256;
const WINDOW: u16 = 16;

/// What came.
pub(crate) enum Heard {
    /// A message.
    Message(Box<Publish>),
    /// What the broker says to ours.
    Taken(PubAckReason),
}

/// What the connection says.
enum News {
    Subscribed,
    Heard(Heard),
    Failed(anyhow::Error),
}

/// An open conversation.
pub(crate) struct Session {
    client: AsyncClient,
    news: mpsc::Receiver<News>,
    /// What came before the subscription was confirmed: a broker may hand out retained messages earlier. At most [`HEARD`].
    early: VecDeque<Heard>,
    broker: String,
}

impl Session {
    /// Connects and listens on these topics.
    ///
    /// # Errors
    /// A broker that cannot be reached or does not let us listen.
    pub(crate) async fn open(broker: Flags, filters: Vec<String>) -> anyhow::Result<Self> {
        let mut options = broker.options(&format!("rigd-ctl-{}", std::process::id()))?;
        options
            .set_receive_maximum(Some(WINDOW))
            .set_outgoing_inflight_upper_limit(WINDOW)
            .set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok());
        let (client, mut eventloop) = AsyncClient::new(options, 8);
        let (tell, news) = mpsc::channel(HEARD);
        let subscriber = client.clone();
        // In a task of its own: poll() must not be dropped while it connects.
        tokio::spawn(async move {
            loop {
                let said = match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let filters = filters.iter().map(|filter| Filter::new(filter.as_str(), QoS::AtLeastOnce));
                        match subscriber.try_subscribe_many(filters) {
                            Ok(()) => continue,
                            Err(error) => News::Failed(anyhow!("could not subscribe: {error}")),
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(ack))) => {
                        match ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
                            None => News::Subscribed,
                            Some(code) => News::Failed(anyhow!("refuses the subscription: {code:?}")),
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => News::Heard(Heard::Message(Box::new(publish))),
                    Ok(Event::Incoming(Packet::PubAck(ack))) => News::Heard(Heard::Taken(ack.reason)),
                    Ok(_) => continue,
                    Err(error) => News::Failed(anyhow!("{}", explain(&error))),
                };
                let ends = matches!(said, News::Failed(_));
                if tell.send(said).await.is_err() || ends {
                    return;
                }
            }
        });
        let mut session = Self { client, news, early: VecDeque::new(), broker: broker.url() };
        loop {
            match session.news.recv().await.context("the connection ended")? {
                News::Subscribed => return Ok(session),
                News::Failed(error) => return Err(error.context(session.broker)),
                News::Heard(heard) if session.early.len() < HEARD => session.early.push_back(heard),
                // More than any rig retains; it is not waited for.
                News::Heard(_) => {}
            }
        }
    }

    /// The broker, for messages.
    pub(crate) fn broker(&self) -> &str {
        &self.broker
    }

    /// Sends a message with QoS 1.
    ///
    /// # Errors
    /// Where the connection has no room.
    pub(crate) fn publish(
        &self,
        topic: &str,
        retain: bool,
        payload: Vec<u8>,
        properties: PublishProperties,
    ) -> anyhow::Result<()> {
        let sent = self.client.try_publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties);
        sent.context("could not send")
    }

    /// The next thing that comes; none when the time is over.
    ///
    /// # Errors
    /// A lost broker.
    pub(crate) async fn next(&mut self, until: Instant) -> anyhow::Result<Option<Heard>> {
        if let Some(heard) = self.early.pop_front() {
            return Ok(Some(heard));
        }
        loop {
            let Ok(news) = tokio::time::timeout_at(until.into(), self.news.recv()).await else { return Ok(None) };
            match news.context("the connection ended")? {
                News::Subscribed => {}
                News::Heard(heard) => return Ok(Some(heard)),
                News::Failed(error) => return Err(error.context(self.broker.clone())),
            }
        }
    }
}
