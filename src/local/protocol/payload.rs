//! Payloads, as the socket shows them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::payload::meter::Flag;
use crate::payload::supervisor::Status;
use crate::payload::{By, Hold};
use crate::units::MilliPerSecond;
use crate::wire;

/// One payload, in the words of the wire, and what only people want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// What does not change.
    pub info: wire::PayloadInfo,
    /// What every telemetry message says.
    pub now: wire::Payload,
    /// Its first process.
    pub pid: Option<i32>,
    /// The GPUs that it has.
    pub gpus: Vec<String>,
    /// How long it has been in its phase, s.
    pub for_s: u64,
    /// Why it was last not started.
    pub error: Option<String>,
    /// Whether its word on its work can be believed.
    pub belief: Flag,
    /// What it is expected to yield; none where nobody knows.
    pub expected: Option<MilliPerSecond>,
    /// Its manifest is gone.
    pub removed: bool,
    /// How far it is held back for the rig's power or heat.
    #[serde(default)]
    pub hold: Hold,
    /// What keeps it from working while it is paused.
    #[serde(default)]
    pub paused: Option<By>,
    /// Limits of its manifest that do not hold here.
    pub unlimited: Vec<String>,
    /// Layers of its sandbox that hold, and those that are missing, in words.
    pub layers: [String; 2],
}

impl Payload {
    /// A payload; `since_boot` is now on the clock that its status counts by.
    pub(in crate::local) fn new(status: &Status, since_boot: Duration) -> Self {
        Self {
            info: wire::PayloadInfo::new(status),
            now: wire::Payload::new(status),
            pid: status.pid,
            gpus: status.gpus.clone(),
            for_s: since_boot.saturating_sub(status.since).as_secs(),
            error: status.error.clone(),
            belief: status.belief,
            expected: status.expected.map(MilliPerSecond),
            removed: status.removed,
            hold: status.hold,
            paused: status.paused,
            unlimited: status.unlimited.iter().map(|limit| (*limit).to_owned()).collect(),
            layers: [status.layers.held.to_string(), status.layers.missing.to_string()],
        }
    }
}
