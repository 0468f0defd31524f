//! What is said to the rig, each to whom it is for; and what payloads say, which waits for nobody.

use std::sync::atomic::Ordering;

use log::debug;
use tokio::sync::mpsc::error::TrySendError;

use super::super::inbound::Inbound;
use super::super::link::WINDOW;
use super::super::packet::Packet;
use super::Publisher;
use crate::wire::{CONTROLLER, Header, Kind, LogLines, Message, Topic, decode_to_a_rig, encode};

/// Acknowledgements that wait for room in the link, which has room for all that the broker may have on its way to us. mosquitto 2.0.11
/// hands over all that it has queued, a thousand by default, with the first acknowledgement that makes room for one.
const UNSAID: usize = 4_096;

impl Publisher {
    /// What a payload says, to whoever listens now.
    pub(super) fn log(&mut self, lines: &LogLines) {
        let message = encode(self.encoding, Header::new(Kind::Log, self.start.boot, 0), lines);
        let packet = Packet::new(&self.rig, self.encoding, Kind::Log, message);
        let fits = self.up.is_some_and(|up| packet.size() <= up.max_packet);
        if fits && packet.hand_over(&self.client).is_ok() {
            self.loose += 1;
        }
    }

    /// What the control plane says to the outbox is taken here; the rest is the inbox's.
    pub(super) fn heard(&mut self, inbound: Inbound) {
        let topic = inbound.topic();
        let to_us = topic.and_then(Topic::parse).filter(|topic| topic.rig == self.rig).map(|topic| topic.kind);
        let said = match (topic, to_us) {
            // A retained message that was cleared.
            (Some(CONTROLLER), _) if inbound.payload().is_empty() => {
                self.outbox.cleared();
                self.listened();
                return self.acknowledge(inbound);
            }
            (Some(CONTROLLER), _) | (_, Some(Kind::Watermark)) => decode_to_a_rig(inbound.payload()),
            _ => {
                // There is room for as many as the broker may have on their way to us, and what comes beside that, at QoS 0,
                // leaves it free: nobody has promised that to anybody.
                let room = !inbound.unpromised() || self.deliver.capacity() > usize::from(WINDOW);
                let over =
                    if room { self.deliver.try_send(inbound).map_err(TrySendError::into_inner) } else { Err(inbound) };
                if let Err(inbound) = over {
                    // A broker that sends more at once than we said that we take. Acknowledged, or its place in the broker's window would be taken until the next connection.
                    self.inputs.unread.fetch_add(1, Ordering::Relaxed);
                    self.acknowledge(inbound);
                }
                return;
            }
        };
        match said {
            Ok((_, Message::Watermark(watermark))) => self.outbox.watermark(&watermark, inbound.retained()),
            Ok((_, Message::Controller(controller))) => {
                self.outbox.controller(controller.online, inbound.retained());
                self.listened();
            }
            Ok(_) => debug!("a message on a topic that is not its own"),
            Err(error) => debug!("not understood: {error}"),
        }
        self.acknowledge(inbound);
    }

    /// Now, or when there is room. At the bound of what waits for that the broker sends it again on the next connection.
    pub(super) fn acknowledge(&mut self, inbound: Inbound) {
        if inbound.acknowledge(&self.client) {
            return;
        }
        if self.unsaid.len() < UNSAID {
            self.unsaid.push_back(inbound.without_payload());
        } else {
            debug!("no room to acknowledge a message; the broker sends it again on the next connection");
        }
    }
}
