//! What an order is about on the broker: it goes out, and rigs answer.

use std::time::{Duration, Instant};

use anyhow::bail;
use rigd::wire::{Ack, Birth, CommandId, Kind, LogLines, Message, RigId, Topic};
use rumqttc::v5::mqttbytes::v5::{PubAckReason, PublishProperties};

use crate::broker::Flags;
use crate::people::decode;
use crate::session;

/// What came.
pub(super) enum Heard {
    /// An answer, from this rig.
    Ack(RigId, Ack),
    /// A rig's birth.
    Birth(Box<Birth>),
    /// What a payload of the rig says.
    Log(LogLines),
}

/// An open conversation.
pub(super) struct Session {
    session: session::Session,
    /// Answers are wanted here.
    response: Option<String>,
    /// What answers to our command carry.
    correlation: Option<CommandId>,
}

impl Session {
    /// Connects and listens to one rig's answers and birth, and to what its payloads say where that is wanted; or to every rig's
    /// answers.
    ///
    /// # Errors
    /// A broker that cannot be reached or does not let us listen.
    pub(super) async fn open(broker: Flags, rig: Option<&RigId>, logs: bool) -> anyhow::Result<Self> {
        let of = |kind| rig.map(|rig| Topic::new(rig.clone(), kind).to_string());
        let mut filters = match (of(Kind::Ack), of(Kind::Birth)) {
            (Some(ack), Some(birth)) => vec![ack, birth],
            _ => vec!["r1/+/up/ack".to_owned()],
        };
        filters.extend(of(Kind::Log).filter(|_| logs));
        let session = session::Session::open(broker, filters).await?;
        Ok(Self { session, response: of(Kind::Ack), correlation: None })
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
        self.session.publish(topic, false, frame, properties)
    }

    /// The next thing that a rig says; none when the time is over.
    ///
    /// # Errors
    /// A lost broker, or one that does not take the command.
    pub(super) async fn next(&mut self, until: Instant) -> anyhow::Result<Option<Heard>> {
        while let Some(heard) = self.session.next(until).await? {
            let publish = match heard {
                session::Heard::Message(publish) => *publish,
                session::Heard::Taken(PubAckReason::Success) => continue,
                session::Heard::Taken(PubAckReason::NoMatchingSubscribers) => {
                    bail!("{}: no rig listens there now", self.session.broker());
                }
                session::Heard::Taken(reason) => {
                    bail!("{} does not take the command: {reason:?}", self.session.broker());
                }
            };
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
                (Some(_), Ok((_, Message::Log(lines)))) => return Ok(Some(Heard::Log(lines))),
                _ => {}
            }
        }
        Ok(None)
    }
}
