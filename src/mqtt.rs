//! The link to the broker.
//!
//! ```text
//! watch<Snapshot> ─┐                      ┌─ try_publish ─> link task: rumqttc's poll() under a deadline ── broker
//! mpsc<Edge> ──────┴─> publisher ── outbox┘        │
//! mpsc<LogLines> ───────┤  ▲ ▲──── mpsc<Report>: up, sent, acknowledged, heard, down        (a followed log: QoS 0, no outbox)
//!              commands │  │ answers
//!                       └> inbox: verify, journal ── Actor ──> setpoints, payloads
//! ```
//!
//! rumqttc is used for the protocol and never as a queue: on any error all its state is thrown away and the [`outbox`]
//! sends again what was not acknowledged. `poll()` runs in a task of its own, because it is not cancel-safe while it
//! connects; `session` has all guards against what rumqttc does wrong. `brokers` says to which broker and when, [`tls`] whom to
//! believe and who we are.

pub(crate) mod backoff;
mod brokers;
mod inbound;
mod inbox;
mod link;
pub mod outbox;
mod packet;
mod publisher;
mod reconcile;
pub(crate) mod session;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::alarm::Edge;
use crate::audit::Writer;
use crate::board::Board;
use crate::clock;
use crate::command::act::Actor;
use crate::command::trust::FleetConfig;
use crate::command::verify::Me;
use crate::config::Config;
use crate::energy::Kept;
use crate::reading::Snapshot;
use crate::wire::{LogLines, PublicKey, Receipt};
pub use brokers::connect_options;
use inbox::Inbox;
use link::Link;
use publisher::{Ends, Publisher};

/// What the publisher takes in.
pub struct Inputs {
    /// The rig in each tick.
    /// Its other end is dropped when control has ended and the fans are left safe: then the publisher says goodbye.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Alarms raised and cleared.
    pub events: mpsc::Receiver<Edge>,
    /// Events that control could not hand over.
    pub lost_events: Arc<AtomicU32>,
    /// Commands that were dropped unread since the start: they came too fast, or there was no room for them.
    pub unread: Arc<AtomicU32>,
    /// What payloads say, to whoever follows it.
    pub logs: mpsc::Receiver<LogLines>,
    /// Carries out what the control plane orders.
    pub actor: Actor,
    /// Where what was done is written down.
    pub audit: Writer,
    /// What was used, as it is kept.
    pub energy: watch::Receiver<Arc<Kept>>,
    /// Signed receipts of it.
    pub receipts: mpsc::Receiver<Receipt>,
    /// The key that signs them.
    pub receipt_key: Option<PublicKey>,
}

/// What identifies this start of the agent.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Random, in every message.
    pub boot: u32,
    /// By the monotonic clock.
    pub at: Instant,
    /// By the rig's clock, ms since 1970.
    pub unix_ms: u64,
    /// Random, in each birth: a command that carries it is for this start and no other.
    pub nonce: u64,
    /// Seeds the jitter of reconnects, so that a thousand rigs do not come back in step.
    pub seed: u64,
}

impl Start {
    /// Since the agent's start, ms.
    fn uptime(self) -> u64 {
        u64::try_from(clock::now().saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Publishes until control has ended, says that the rig stops, and returns.
pub async fn run(config: &Config, password: Option<String>, board: Arc<Board>, start: Start, inputs: Inputs) {
    let (link, client, reports) = Link::new(config, password, start);
    let link = tokio::spawn(link.run());
    let (deliver, deliveries) = mpsc::channel(inbox::DELIVERIES);
    let (answer, answers) = mpsc::channel(inbox::ANSWERS);
    let FleetConfig { groups, site, .. } = config.fleet.clone();
    let inbox = inbox::Inputs {
        me: Me { rig: config.rig.clone(), groups, site },
        fleet: config.fleet.clone(),
        state: config.state.clone(),
        nonce: start.nonce,
        deliveries,
        answers: answer,
        actor: inputs.actor.clone(),
        audit: inputs.audit.clone(),
        unread: Arc::clone(&inputs.unread),
    };
    let inbox = tokio::spawn(async move {
        if let Some(inbox) = Inbox::open(inbox).await {
            inbox.run().await;
        }
    });
    let ends = Ends { client, reports, deliver, answers };
    Publisher::new(config, board, start, ends, inputs).run().await;
    link.abort();
    inbox.abort();
}

/// The rig's clock where it may be relied on, ms since 1970.
pub(crate) fn reliable_ms(fleet: &FleetConfig) -> Option<u64> {
    if fleet.trust_clock { Some(clock::unix_ms()) } else { clock::synced_unix_ms() }
}
