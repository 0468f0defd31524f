//! A subscriber's connection: connects again for as long as it is asked, and says how it stands.

use std::time::Duration;

use anyhow::{Context, bail};
use rigd::wire::{MAX_MESSAGE, RigId, Topic};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::broker::{Flags, explain};

/// Messages in flight to us at most; a person's screen needs no more.
const WINDOW: u16 = 64;
const RETRY: Duration = Duration::from_secs(1);

/// Messages and news on their way to the screen. When it is full the task waits, and the broker with it.
const HEARD: usize = 256;

/// What a subscriber hears.
pub(crate) enum Heard {
    /// A message as it came.
    Message { topic: String, payload: Vec<u8> },
    /// How the connection stands now, for people.
    State(String),
    /// It cannot work; nothing follows.
    Failed(anyhow::Error),
}

/// Connects and subscribes, in a task of its own: rumqttc's `poll()` must not be dropped while it connects.
///
/// # Errors
/// Flags or files that cannot work.
pub(super) fn subscribe(broker: Flags, rigs: &[RigId]) -> anyhow::Result<mpsc::Receiver<Heard>> {
    let filters = match rigs {
        [] => vec![Topic::filter(None)],
        rigs => rigs.iter().map(|rig| Topic::filter(Some(rig))).collect(),
    };
    follow(broker, filters)
}

/// The same for any topics.
///
/// # Errors
/// Flags or files that cannot work.
pub(crate) fn follow(broker: Flags, filters: Vec<String>) -> anyhow::Result<mpsc::Receiver<Heard>> {
    let (heard, inbox) = mpsc::channel(HEARD);
    let session = Session::new(broker, filters)?;
    tokio::spawn(async move {
        if let Err(error) = session.run(&heard).await {
            // Whoever does not listen any more needs no reason.
            let _ = heard.send(Heard::Failed(error)).await;
        }
    });
    Ok(inbox)
}

struct Session {
    client: AsyncClient,
    eventloop: EventLoop,
    filters: Vec<String>,
    broker: Flags,
}

impl Session {
    fn new(broker: Flags, filters: Vec<String>) -> anyhow::Result<Self> {
        let (client, eventloop) = AsyncClient::new(options(&broker)?, 8);
        Ok(Self { client, eventloop, filters, broker })
    }

    /// A broker that cannot be reached at first is an error; one that goes away is waited for.
    async fn run(mut self, heard: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
        let mut connected_before = false;
        let broker = self.broker.url();
        loop {
            let news = match self.eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    connected_before = true;
                    let filters = self.filters.iter().map(|filter| Filter::new(filter.as_str(), QoS::AtMostOnce));
                    self.client.try_subscribe_many(filters).context("could not subscribe")?;
                    Heard::State(format!("connected to {broker}"))
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                    if let Some(code) = refused {
                        bail!("{broker} refuses the subscription: {code:?}");
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
                    // Certificates may have been renewed meanwhile; where a file is half written, what was read before holds.
                    if let Ok(options) = options(&self.broker) {
                        self.eventloop.options = options;
                    }
                    Heard::State(format!("lost {broker}: {}; trying again", explain(&error)))
                }
                // Its text has its cause in it already.
                Err(error) => bail!("could not connect to {broker}: {}", explain(&error)),
            };
            if heard.send(news).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The broker wants an id of each client; the process id tells two watchers on one desk apart.
fn options(broker: &Flags) -> anyhow::Result<MqttOptions> {
    let mut options = broker.options(&format!("rigd-ctl-{}", std::process::id()))?;
    options
        .set_receive_maximum(Some(WINDOW))
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok());
    Ok(options)
}
