//! The subscriber: every telemetry message with the moment it came at.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rigd::clock;
use rigd::wire::MAX_MESSAGE;
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};

const FILTER: &str = "r1/+/up/tele";
const WITHIN: Duration = Duration::from_secs(10);
/// Messages not yet looked at, minutes of one rig's; when it is full the subscriber waits.
const WAITING: usize = 1024;

/// A message as it came.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// The whole MQTT packet: fixed header, topic, packet id, properties, payload.
    pub(crate) packet: usize,
}

pub(crate) struct Listener(Receiver<Arrival>);

impl Listener {
    /// Returns when the subscription stands.
    pub(crate) fn start(port: u16) -> Result<Self> {
        let mut options = MqttOptions::new("rigd-measure", "127.0.0.1", port);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network).set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok());
        let (client, mut connection) = Client::new(options, 16);
        client.try_subscribe(FILTER, QoS::AtLeastOnce).context("subscribe")?;
        let (ready, subscribed) = sync_channel(1);
        let (tell, arrivals) = sync_channel(WAITING);
        thread::Builder::new().name("listener".to_owned()).spawn(move || {
            // Dropping it would end the connection.
            let _client = client;
            for event in connection.iter() {
                if !heard(event, &ready, &tell) {
                    return;
                }
            }
        })?;
        subscribed.recv_timeout(WITHIN).context("the subscription does not stand")?;
        Ok(Self(arrivals))
    }

    /// The next message, if one comes until then.
    pub(crate) fn next(&self, until: Instant) -> Result<Option<Arrival>> {
        match self.0.recv_timeout(until.saturating_duration_since(clock::now())) {
            Ok(arrival) => Ok(Some(arrival)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the subscriber has lost the broker"),
        }
    }
}

/// `false` where there is no use in going on.
fn heard<E>(event: Result<Event, E>, ready: &SyncSender<()>, tell: &SyncSender<Arrival>) -> bool {
    let at = clock::now();
    match event {
        Ok(Event::Incoming(Packet::SubAck(_))) => {
            ready.try_send(()).ok();
            true
        }
        Ok(Event::Incoming(Packet::Publish(publish))) => {
            let packet = publish.size();
            let topic = String::from_utf8_lossy(&publish.topic).into_owned();
            tell.send(Arrival { at, topic, payload: publish.payload.to_vec(), packet }).is_ok()
        }
        Ok(_) => true,
        Err(_) => false,
    }
}
