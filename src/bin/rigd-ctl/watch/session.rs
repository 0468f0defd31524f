//! A subscriber's connection: connects again for as long as it is asked, and says how it stands.

use std::time::Duration;

use anyhow::{Context, bail};
use rigd::config::Broker;
use rigd::wire::{MAX_MESSAGE, RigId, Topic};
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Messages in flight to us at most; a person's screen needs no more.
const WINDOW: u16 = 64;
const RETRY: Duration = Duration::from_secs(1);

/// Messages and news on their way to the screen. When it is full the task waits, and the broker with it.
const HEARD: usize = 256;

/// What a subscriber hears.
pub(super) enum Heard {
    /// A message as it came.
    Message { topic: String, payload: Vec<u8> },
    /// How the connection stands now, for people.
    State(String),
    /// It cannot work; nothing follows.
    Failed(anyhow::Error),
}

/// Connects and subscribes, in a task of its own: rumqttc's `poll()` must not be dropped while it connects.
pub(super) fn subscribe(broker: &Broker, password: Option<String>, rigs: &[RigId]) -> mpsc::Receiver<Heard> {
    let (heard, inbox) = mpsc::channel(HEARD);
    let session = Session::new(broker, password, rigs);
    tokio::spawn(async move {
        if let Err(error) = session.run(&heard).await {
            // Whoever does not listen any more needs no reason.
            let _ = heard.send(Heard::Failed(error)).await;
        }
    });
    inbox
}

struct Session {
    client: AsyncClient,
    eventloop: EventLoop,
    filters: Vec<String>,
    broker: String,
}

impl Session {
    fn new(broker: &Broker, password: Option<String>, rigs: &[RigId]) -> Self {
        // The broker wants an id of each client; the process id tells two watchers on one desk apart.
        let mut options = MqttOptions::new(format!("rigd-ctl-{}", std::process::id()), &broker.host, broker.port);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options
            .set_keep_alive(broker.keepalive)
            .set_network_options(network)
            .set_receive_maximum(Some(WINDOW))
            .set_outgoing_inflight_upper_limit(WINDOW)
            .set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok());
        if let Some(username) = &broker.username {
            options.set_credentials(username, password.unwrap_or_default());
        }
        let (client, eventloop) = AsyncClient::new(options, 8);
        let filters = match rigs {
            [] => vec![Topic::filter(None)],
            rigs => rigs.iter().map(|rig| Topic::filter(Some(rig))).collect(),
        };
        let broker = format!("mqtt://{}:{}", broker.host, broker.port);
        Self { client, eventloop, filters, broker }
    }

    /// A broker that cannot be reached at first is an error; one that goes away is waited for.
    async fn run(mut self, heard: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
        let mut connected_before = false;
        loop {
            let news = match self.eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    connected_before = true;
                    let filters = self.filters.iter().map(|filter| Filter::new(filter.as_str(), QoS::AtMostOnce));
                    self.client.try_subscribe_many(filters).context("could not subscribe")?;
                    Heard::State(format!("connected to {}", self.broker))
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                    if let Some(code) = refused {
                        bail!("{} refuses the subscription: {code:?}", self.broker);
                    }
                    continue;
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    Heard::Message { topic, payload: publish.payload.to_vec() }
                }
                Ok(Event::Incoming(_) | Event::Outgoing(_)) => continue,
                Err(error) if connected_before => {
                    self.eventloop.clean();
                    self.eventloop.pending.clear();
                    sleep(RETRY).await;
                    Heard::State(format!("lost {}: {error}; trying again", self.broker))
                }
                // Its text has its cause in it already.
                Err(error) => bail!("could not connect to {}: {error}", self.broker),
            };
            if heard.send(news).await.is_err() {
                return Ok(());
            }
        }
    }
}
