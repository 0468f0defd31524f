//! A message as an MQTT packet: topic, retain, expiry, content type, and how large that makes it.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use super::outbox::reply::Reply;
use super::session::Client;
use crate::wire::{EARLY, ENDED, Encoding, GAP, Kind, RigId, Topic};

/// Telemetry is worth nothing to a subscriber that comes back after an hour.
const TELEMETRY_EXPIRY_S: u32 = 3_600;
/// What a payload says is for whoever looks at it now.
const LOG_EXPIRY_S: u32 = 60;
/// Nobody waits for a command's answer longer than a day.
const ACK_EXPIRY_S: u32 = 86_400;

/// A message on its way to the link.
pub(super) struct Packet {
    topic: String,
    payload: Vec<u8>,
    content_type: &'static str,
    qos: QoS,
    retain: bool,
    expiry_s: Option<u32>,
    /// The user property that says how many messages before it are gone.
    gap: Option<String>,
    /// The one that says how many of these were delivered all the same.
    early: Option<String>,
    /// The one that names starts of which nothing waits any more.
    ended: Option<String>,
    correlation: Option<Vec<u8>>,
}

impl Packet {
    pub(super) fn new(rig: &RigId, encoding: Encoding, kind: Kind, payload: Vec<u8>) -> Self {
        let (retain, expiry_s) = match kind {
            Kind::Online | Kind::Birth => (true, None),
            Kind::Telemetry => (false, Some(TELEMETRY_EXPIRY_S)),
            Kind::Event | Kind::Receipt => (false, None),
            Kind::Ack => (false, Some(ACK_EXPIRY_S)),
            Kind::Reported => (true, None),
            Kind::Log => (false, Some(LOG_EXPIRY_S)),
            // The control plane's own; never ours to send.
            Kind::Watermark | Kind::Controller | Kind::Desired => (true, None),
            Kind::Command => (false, None),
        };
        let topic = Topic::new(rig.clone(), kind).to_string();
        let qos = if kind == Kind::Log { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        Self {
            topic,
            payload,
            content_type: encoding.content_type(),
            qos,
            retain,
            expiry_s,
            gap: None,
            early: None,
            ended: None,
            correlation: None,
        }
    }

    /// So many numbers right before it do not exist any more; of these, the lowest, so many were delivered before there was a control
    /// plane to confirm them.
    pub(super) fn after_gap(mut self, gap: u64, early: u64) -> Self {
        self.gap = (gap > 0).then(|| gap.to_string());
        self.early = (early > 0).then(|| early.to_string());
        self
    }

    /// Of these starts nothing waits any more.
    pub(super) fn naming_ended(mut self, boots: &[u32]) -> Self {
        let boots: Vec<String> = boots.iter().map(u32::to_string).collect();
        self.ended = (!boots.is_empty()).then(|| boots.join(","));
        self
    }

    /// It answers a command: it goes where that one asked for.
    pub(super) fn in_reply(mut self, reply: Reply) -> Self {
        if !reply.topic.is_empty() {
            self.topic = reply.topic;
        }
        self.correlation = Some(reply.correlation).filter(|correlation| !correlation.is_empty());
        self
    }

    /// Bytes of the whole packet at most (MQTT 5, 3.3): fixed header with up to 4 bytes of length, topic, packet id, length of
    /// the properties, content type (1 + 2 + text), expiry (1 + 4), correlation data (1 + 2 + bytes), user property
    /// (1 + 2 + name + 2 + value), payload.
    pub(super) fn size(&self) -> usize {
        let expiry = if self.expiry_s.is_some() { 1 + 4 } else { 0 };
        let correlation = self.correlation.as_ref().map_or(0, |correlation| 1 + 2 + correlation.len());
        let property =
            |name: &str, value: &Option<String>| value.as_ref().map_or(0, |value| 1 + 2 + name.len() + 2 + value.len());
        let gap = property(GAP, &self.gap) + property(EARLY, &self.early) + property(ENDED, &self.ended);
        // The length of the properties takes a second byte from 128 on.
        let properties = 2 + (1 + 2 + self.content_type.len()) + expiry + correlation + gap;
        (1 + 4) + (2 + self.topic.len()) + 2 + properties + self.payload.len()
    }

    /// Gives it to the link, or the payload back where the link's channel is full.
    pub(super) fn hand_over(self, client: &Client) -> Result<(), Vec<u8>> {
        let properties = PublishProperties {
            content_type: Some(self.content_type.to_owned()),
            message_expiry_interval: self.expiry_s,
            correlation_data: self.correlation.map(Into::into),
            user_properties: [(GAP, self.gap), (EARLY, self.early), (ENDED, self.ended)]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect(),
            ..PublishProperties::default()
        };
        let payload = self.payload.clone();
        let handed =
            client.inner.try_publish_with_properties(self.topic, self.qos, self.retain, self.payload, properties);
        handed.map_err(|_| payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_no_larger_than_it_says_with_the_longest_name() {
        let rig: RigId = "a".repeat(64).parse().unwrap();
        let packet = Packet::new(&rig, Encoding::Postcard, Kind::Telemetry, vec![0; 1000]);
        // Topic of 75 bytes, content type of 32: 1000 + (1 + 2) + (2 + 75) + 2 + 1 + (1 + 2 + 32) + (1 + 4) on the wire, and
        // three bytes of length to spare.
        assert_eq!((packet.topic.len(), packet.content_type.len(), packet.size()), (75, 32, 1126));
        // "gap" and "12": 1 + (2 + 3) + (2 + 2).
        let packet = packet.after_gap(12, 0);
        assert_eq!(packet.size(), 1126 + 10);
        // "ended" and "7,4294967295": 1 + (2 + 5) + (2 + 12).
        let packet = packet.after_gap(0, 0).naming_ended(&[7, u32::MAX]);
        assert_eq!(packet.size(), 1126 + 22);
        let packet = packet.naming_ended(&[]);
        let reply = Reply { topic: "t".to_owned(), correlation: vec![0; 16] };
        let packet = packet.in_reply(reply);
        assert_eq!((packet.topic.as_str(), packet.size()), ("t", 1126 - 74 + 19));
    }
}
