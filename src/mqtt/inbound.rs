//! What comes from the broker: which topics the link listens on, and a message on its way to whoever it is for.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Publish, SubAck, SubscribeReasonCode};

use super::session::Client;
use crate::command::trust::FleetConfig;
use crate::wire::{CONTROLLER, GroupTopic, RigId, Topic};

/// Longest response topic and correlation data that are answered to, bytes: they are kept on disk with the answer.
const LONGEST_RETURN: usize = 127;

/// The topics on which a rig listens, at QoS 1: the broker keeps what comes while the link is down for as long as it keeps the
/// session, and sends again what was not acknowledged. Asked for on each connection, whether or not the broker still has the
/// session: then it tells again what is retained there, and a lost session costs nothing.
pub(super) fn filters(rig: &RigId, fleet: &FleetConfig) -> Vec<String> {
    let groups = fleet.groups.iter().chain(&fleet.site).map(|group| GroupTopic(group.clone()).to_string());
    [Topic::commands(rig), CONTROLLER.to_owned()].into_iter().chain(groups).collect()
}

/// The same as rumqttc wants them.
pub(super) fn subscriptions(filters: &[String]) -> impl Iterator<Item = Filter> {
    filters.iter().map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce))
}

/// The filters that the broker does not let us listen on.
pub(super) fn refused<'a>(filters: &'a [String], answer: &SubAck) -> Vec<&'a str> {
    let mut answers = answer.return_codes.iter();
    let refused = filters.iter().filter(|_| !matches!(answers.next(), Some(SubscribeReasonCode::Success(_))));
    refused.map(String::as_str).collect()
}

/// A message from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inbound {
    /// Which connection it came on; on another one its packet id means another message.
    pub(super) connection: u32,
    publish: Publish,
}

impl Inbound {
    pub(super) fn new(connection: u32, publish: Publish) -> Self {
        Self { connection, publish }
    }

    /// Its topic; none where that is no text.
    pub(super) fn topic(&self) -> Option<&str> {
        std::str::from_utf8(&self.publish.topic).ok()
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.publish.payload
    }

    /// The broker kept it, and nobody sent it just now.
    pub(super) fn retained(&self) -> bool {
        self.publish.retain
    }

    /// Where an answer is wanted.
    pub(super) fn response_topic(&self) -> Option<&str> {
        let topic = self.publish.properties.as_ref()?.response_topic.as_deref()?;
        (topic.len() <= LONGEST_RETURN).then_some(topic)
    }

    /// What an answer is to carry, so that whoever asked knows it again.
    pub(super) fn correlation(&self) -> Option<&[u8]> {
        let data = self.publish.properties.as_ref()?.correlation_data.as_deref()?;
        (data.len() <= LONGEST_RETURN).then_some(data)
    }

    /// It came without a promise of the broker's, at QoS 0: it never comes again.
    pub(super) fn unpromised(&self) -> bool {
        self.publish.qos == QoS::AtMostOnce
    }

    /// What is needed to acknowledge it.
    pub(super) fn without_payload(mut self) -> Self {
        self.publish.payload.clear();
        self.publish.properties = None;
        self
    }

    /// Tells the broker that it need not send it again; `false` where the link's channel has no room now. On another
    /// connection than its own there is nothing to say: the broker sends it again there.
    pub(super) fn acknowledge(&self, client: &Client) -> bool {
        !client.live(self.connection) || client.inner.try_ack(&self.publish).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_refuses_is_named() {
        let rig = "rig-7".parse().unwrap();
        let fleet = FleetConfig { site: Some("north".parse().unwrap()), ..FleetConfig::default() };
        assert_eq!(filters(&rig, &fleet), ["r1/rig-7/dn/+", "r1/ctl/state", "r1/g/north/dn/cmd"]);
        let filters = filters(&rig, &FleetConfig::default());
        let good = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        for (return_codes, expected) in [
            (vec![good, good], vec![]),
            (vec![SubscribeReasonCode::NotAuthorized, good], vec!["r1/rig-7/dn/+"]),
            (vec![good], vec!["r1/ctl/state"]),
        ] {
            let answer = SubAck { pkid: 1, return_codes, properties: None };
            assert_eq!(refused(&filters, &answer), expected);
        }
    }

    #[test]
    fn an_answer_goes_only_where_it_can_be_kept() {
        let mut publish = Publish::new("r1/rig-7/dn/cmd", QoS::AtLeastOnce, "x", None);
        for (length, kept) in [(LONGEST_RETURN, true), (LONGEST_RETURN + 1, false)] {
            publish.properties = Some(rumqttc::v5::mqttbytes::v5::PublishProperties {
                response_topic: Some("t".repeat(length)),
                correlation_data: Some(vec![7; length].into()),
                ..Default::default()
            });
            let inbound = Inbound::new(1, publish.clone());
            assert_eq!((inbound.response_topic().is_some(), inbound.correlation().is_some()), (kept, kept));
        }
    }
}
