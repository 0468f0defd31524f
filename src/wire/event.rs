//! An alarm raised or cleared. Never dropped before telemetry is.

use serde::{Deserialize, Serialize};

use super::Birth;
use crate::alarm::{self, Cause};
use crate::board::Board;
use crate::reading::Stage;

/// Body of `up/event`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The birth that the indices belong to.
    pub birth: u32,
    /// Wall clock, ms since 1970; only as good as the rig's clock.
    pub unix_ms: u64,
    /// Since the agent's start, ms; never jumps.
    pub uptime_ms: u64,
    /// What is wrong.
    pub alarm: alarm::Kind,
    /// With what.
    pub subject: Subject,
    /// Its name on the board.
    pub name: String,
    /// Raised, or cleared.
    pub raised: bool,
    /// What made it; when it is cleared, what made it last.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// The rung of the ladder on which the zone stands that it touches.
    #[serde(default)]
    pub rung: Option<Stage>,
}

/// What an alarm is about: an index into a list of the birth. Numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Into `chips`.
    Chip(u16),
    /// Into `fans`.
    Fan(u16),
    /// Into `zones`.
    Zone(u16),
    /// Into `rails`.
    Rail(u16),
    /// Into `supplies`.
    Supply(u16),
    /// Into `sensors`.
    Sensor(u16),
    /// Into `gpus`.
    Gpu(u16),
    /// The GPUs' driver.
    Driver,
    /// Into `payloads`.
    Payload(u16),
}

impl From<alarm::Subject> for Subject {
    fn from(subject: alarm::Subject) -> Self {
        let index = |i: usize| u16::try_from(i).unwrap_or(u16::MAX);
        match subject {
            alarm::Subject::Chip(i) => Self::Chip(index(i)),
            alarm::Subject::Fan(i) => Self::Fan(index(i)),
            alarm::Subject::Zone(i) => Self::Zone(index(i)),
            alarm::Subject::Rail(i) => Self::Rail(index(i)),
            alarm::Subject::Supply(i) => Self::Supply(index(i)),
            alarm::Subject::Sensor(i) => Self::Sensor(index(i)),
            alarm::Subject::Gpu(i) => Self::Gpu(index(i)),
            alarm::Subject::Driver => Self::Driver,
            alarm::Subject::Payload(i) => Self::Payload(index(i)),
        }
    }
}

impl Event {
    /// The event for an edge at a rig with this birth.
    #[must_use]
    pub fn new(birth: &Birth, unix_ms: u64, uptime_ms: u64, edge: &alarm::Edge, board: &Board) -> Self {
        let alarm::Edge { alarm, raised, cause, rung } = *edge;
        let gpu = |i: usize| birth.gpus.get(i).map(|gpu| gpu.pci.clone());
        let payload = |i: usize| birth.payloads.get(i).map(|payload| payload.name.clone());
        let name = alarm.subject.name(board, gpu, payload);
        let (kind, subject) = (alarm.kind, alarm.subject.into());
        Self { birth: birth.id, unix_ms, uptime_ms, alarm: kind, subject, name, raised, cause: Some(cause), rung }
    }
}
