//! The link to the broker.
//!
//! ```text
//! watch<Snapshot> ─┐                      ┌─ try_publish ─> link task: rumqttc's poll() under a deadline ── broker
//! mpsc<Edge> ──────┴─> publisher ── outbox┘        │
//!                          ▲──── mpsc<Report>: up, sent, acknowledged, down
//! ```
//!
//! rumqttc is used for the protocol and never as a queue: on any error all its state is thrown away and the [`outbox`]
//! sends again what was not acknowledged. `poll()` runs in a task of its own, because it is not cancel-safe while it
//! connects, and under a deadline of its own, because it waits for ever on a peer that stopped reading.

mod backoff;
mod link;
pub mod outbox;
mod packet;
mod publisher;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::alarm::Edge;
use crate::board::Board;
use crate::config::Config;
use crate::reading::Snapshot;
use link::Link;
use publisher::Publisher;

/// What the publisher takes in.
pub struct Inputs {
    /// The rig in each tick.
    /// Its other end is dropped when control has ended and the fans are left safe: then the publisher says goodbye.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Alarms raised and cleared.
    pub events: mpsc::Receiver<Edge>,
    /// Events that control could not hand over.
    pub lost_events: Arc<AtomicU32>,
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
    /// Seeds the jitter of reconnects, so that a thousand rigs do not come back in step.
    pub seed: u64,
}

/// Publishes until control has ended, says that the rig stops, and returns.
pub async fn run(config: &Config, password: Option<String>, board: Arc<Board>, start: Start, inputs: Inputs) {
    let (link, client, reports) = Link::new(config, password, start);
    let task = tokio::spawn(link.run());
    Publisher::new(config, board, start, client, reports, inputs).run().await;
    task.abort();
}
