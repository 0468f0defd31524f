//! The control plane for a site that has no other: stores what rigs say, each message once, and tells rigs what it has.
//!
//! ```text
//! broker ── link ── mpsc<Heard> ──> loop ── one batch at a time ──> store thread ── SQLite, synced
//!   ▲        ▲                       │ ▲                                │
//!   │        └── acknowledgements ───┘ └────── outcome: watermarks ─────┘
//!   └─────────── r1/{rig}/dn/wm, r1/ctl/state
//! ```
//!
//! # What it promises
//!
//! - A message is acknowledged, to the broker and to its rig, only after the transaction that stored it is on the disk
//!   (`synchronous = FULL`). Whenever it is killed, the message is stored or comes again.
//! - (rig, boot, lane, seq) is stored once, however often it is sent.
//! - A watermark never speaks of what is not in the store: it is computed from the same transaction.
//! - Where the store cannot be written (a full disk) nothing is acknowledged, and it is tried again each second. Where it is
//!   damaged, or another collector has it, it ends and says so.
//!
//! # Tables
//!
//! One SQLite file in WAL mode, to be read by anybody while it is written:
//!
//! | table | a row is |
//! |---|---|
//! | `message(id, lane, seq, received_ms, payload)` | a message with a number, as it came; (lane, seq) is unique |
//! | `lane(id, rig, boot, kind, complete, expired_to, heard_ms)` | one lane of one start of a rig's agent; every number up to `complete` is accounted for |
//! | `range(lane, first, why, last)` | numbers that are not there: `dropped` by the rig, `lost` with a start of its agent that was killed, or delivered `earlier` than there was a collector, which it declared, or `expired` |
//! | `state(id, rig, kind, received_ms, payload)` | a retained word of a rig (online, birth), the newest last; 1000 are kept of each |
//! | `rejected(id, received_ms, topic, reason, payload)` | what was no message; the newest 10 000, cut to 1 KiB |
//! | `rig(id, name)` | a rig |
//!
//! The view `messages` has rig, boot, kind, seq, `received_ms` and payload in one, the view `newest` each rig's last word of
//! each kind. `payload` is what `rigd-ctl decode` reads; times are of the collector's clock.
//!
//! # Bounds
//!
//! | what | bound | at the bound |
//! |---|---|---|
//! | a batch | 500 messages, 50 ms, or 2 ms without another | is committed |
//! | messages without our acknowledgement | 1000, or what the broker allows | the broker waits |
//! | messages without any acknowledgement (QoS 0) that wait | 2000 | are dropped and counted |
//! | ranges in memory per lane | 10 000 | the highest is forgotten and read again later; the mark only lags |
//! | lanes in memory per rig | 64 | the one heard of longest ago leaves, and is read when it is heard of |
//! | rigs | 10 000 | another one's messages are rejected |
//! | watermarks | 4 a second per rig, 64 marks each | the newest waits, in the place of an older one |

mod check;
mod intake;
mod link;
pub mod marks;
mod pace;
mod run;
mod schema;
mod store;
mod worker;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

pub use check::{LaneReport, StoredEvent, completeness, last_events, receipts};
pub use intake::Incoming;
pub use run::run;
pub use schema::{Error, file};
pub use store::{Outcome, Store};

use rumqttc::v5::MqttOptions;

use crate::wire::RigId;

/// Options that reach the broker under our name, or why there are none. Whoever comes with the same name takes the session
/// over.
pub type Connect = Box<dyn Fn() -> Result<MqttOptions, String> + Send>;

/// What a collector is started with.
pub struct Settings {
    /// The broker, for messages.
    pub broker: String,
    /// How it is reached, asked for each connection: certificates may have been renewed.
    pub connect: Connect,
    /// The store's file, or a directory for it.
    pub store: PathBuf,
    /// Telemetry that was received longer ago is deleted.
    pub keep: Duration,
    /// Random per start.
    pub instance: u32,
}

/// How a collector stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Subscribed.
    pub connected: bool,
    /// Rigs that were told something since the start.
    pub rigs: BTreeSet<RigId>,
    /// Messages stored since the start.
    pub stored: u64,
    /// Messages that came again.
    pub duplicates: u64,
    /// Messages that were none.
    pub rejected: u64,
    /// Messages without an acknowledgement that were dropped.
    pub dropped: u64,
    /// Messages that wait for the store.
    pub waiting: usize,
    /// How long the oldest of them waits.
    pub lag: Duration,
}
