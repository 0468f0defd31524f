//! A subscriber of the test's own: keeps every message, and waits for one.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rigd::clock;
use rigd::wire::{CONTROLLER, ENDED, Header, MAX_MESSAGE, Message, Telemetry, Topic, decode};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};

/// A message as it came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) topic: String,
    pub(crate) retain: bool,
    pub(crate) content_type: Option<String>,
    /// The starts that it says have ended.
    pub(crate) ended: Option<String>,
    pub(crate) header: Header,
    pub(crate) message: Message,
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Vec<Heard>>,
    news: Condvar,
}

/// Hears everything below `r1/`.
pub(crate) struct Subscriber {
    shared: Arc<Shared>,
    client: Client,
}

impl Subscriber {
    /// Subscribes, and comes back when the broker is lost; returns when the subscription stands.
    pub(crate) fn new(port: u16) -> Self {
        Self::with(MqttOptions::new(format!("test-{port}"), "127.0.0.1", port))
    }

    /// The same with options of the test's own.
    pub(crate) fn with(mut options: MqttOptions) -> Self {
        options.set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok()).set_clean_start(false);
        options.set_session_expiry_interval(Some(60));
        let (client, mut connection) = Client::new(options, 16);
        let shared = Arc::new(Shared::default());
        let (ours, subscriber) = (Arc::clone(&shared), client.clone());
        let (ready, subscribed) = std::sync::mpsc::sync_channel(1);
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        subscriber.try_subscribe("r1/#", QoS::AtLeastOnce).unwrap()
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        let _ = ready.try_send(());
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        if topic.ends_with("/dn/cmd") || topic.ends_with("/dn/des") {
                            // Signed frames, or what a test passes off as one.
                            continue;
                        }
                        if publish.payload.is_empty() {
                            // A retained message that was cleared.
                            continue;
                        }
                        assert!(topic == CONTROLLER || Topic::parse(&topic).is_some(), "{topic} is not one of ours");
                        let (header, message) =
                            decode(&publish.payload).unwrap_or_else(|error| panic!("{topic}: {error}"));
                        let properties = publish.properties.unwrap_or_default();
                        let mut said = properties.user_properties.into_iter();
                        let ended = said.find_map(|(name, value)| (name == ENDED).then_some(value));
                        let (content_type, retain) = (properties.content_type, publish.retain);
                        let heard = Heard { topic, retain, content_type, ended, header, message };
                        ours.heard.lock().unwrap().push(heard);
                        ours.news.notify_all();
                    }
                    Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                    Ok(_) => {}
                    // rumqttc tries again at once; a broker that is away for a moment must not cost a core meanwhile.
                    Err(_) => thread::park_timeout(Duration::from_millis(20)),
                }
            }
        });
        subscribed.recv_timeout(Duration::from_secs(20)).expect("the subscription stands");
        Self { shared, client }
    }

    /// Its way to say something itself.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// What `look` finds in each message so far.
    pub(crate) fn all<T>(&self, look: impl Fn(&Heard) -> Option<T>) -> Vec<T> {
        self.shared.heard.lock().unwrap().iter().filter_map(look).collect()
    }

    /// Waits for a message in which `look` finds something.
    pub(crate) fn first<T>(&self, what: &str, look: impl Fn(&Heard) -> Option<T>) -> T {
        self.wait(what, |heard| heard.iter().find_map(&look))
    }

    /// Waits until `look` finds something in all that was heard so far.
    pub(crate) fn wait<T>(&self, what: &str, look: impl Fn(&[Heard]) -> Option<T>) -> T {
        self.wait_within(Duration::from_secs(40), what, look)
    }

    /// The same for what takes its time.
    pub(crate) fn wait_within<T>(&self, time: Duration, what: &str, look: impl Fn(&[Heard]) -> Option<T>) -> T {
        let deadline = clock::now() + time;
        let mut heard = self.shared.heard.lock().unwrap();
        loop {
            if let Some(found) = look(&heard) {
                return found;
            }
            let left = deadline.saturating_duration_since(clock::now());
            assert!(!left.is_zero(), "waited in vain for: {what}; last heard {:#?}", heard.last());
            heard = self.shared.news.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Waits for a telemetry that comes from now on and satisfies `good`.
    pub(crate) fn telemetry(&self, what: &str, good: impl Fn(&Telemetry) -> bool) -> Telemetry {
        let before = self.shared.heard.lock().unwrap().len();
        self.wait(what, |heard| {
            heard[before..].iter().rev().find_map(|one| {
                let Message::Telemetry(telemetry) = &one.message else { return None };
                good(telemetry).then(|| telemetry.clone())
            })
        })
    }

    /// Waits for an event about the subject of this name.
    pub(crate) fn event(&self, kind: rigd::alarm::Kind, name: &str, raised: bool) {
        self.wait(&format!("{kind:?} {name} raised={raised}"), |heard| {
            heard.iter().find(|one| {
                matches!(&one.message, Message::Event(event) if event.alarm == kind && event.name == name && event.raised == raised)
            }).map(drop)
        });
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.client.try_disconnect();
    }
}
