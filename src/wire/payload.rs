//! Payloads on the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Value;
use crate::payload::lifecycle::{self, Exit};
use crate::payload::manifest::Kind;
use crate::payload::meter::Unit;
use crate::payload::supervisor::Status;
use crate::reading::Missing;
use crate::units::MilliPerSecond;

/// A payload in the birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadInfo {
    /// Its name.
    pub name: String,
    /// What it earns with.
    pub kind: PayloadKind,
    /// What its rate counts, for each second; none where it has no meter.
    pub unit: Option<PayloadUnit>,
}

/// What a payload earns with. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadKind {
    /// Hashes for a pool.
    Mining,
    /// A model that answers requests, or is trained.
    Ai,
    /// Runs to its end once.
    Batch,
}

/// What a rate counts. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadUnit {
    /// Hashes.
    Hashes,
    /// Tokens.
    Tokens,
    /// Requests.
    Requests,
    /// Jobs.
    Jobs,
}

/// A payload in every telemetry message, in the order of the birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Where it is in its life.
    pub phase: PayloadPhase,
    /// What last went wrong.
    pub cause: Option<PayloadCause>,
    /// In quarantine for this.
    pub held: Option<PayloadCause>,
    /// Starts that nobody ordered.
    pub restarts: u32,
    /// It was found running by this agent, started by the one before.
    pub adopted: bool,
    /// Layers of its sandbox that are in force: a bit each, in the order of `Layer`.
    pub layers: u16,
    /// Layers that were wanted and are not possible here.
    pub missing_layers: u16,
    /// How many GPUs it has.
    pub gpus: u8,
    /// Its rate, thousandths of the birth's unit a second.
    pub rate: Value<MilliPerSecond>,
    /// Results taken.
    pub accepted: Value<u64>,
    /// Results refused.
    pub rejected: Value<u64>,
    /// Results that came too late.
    pub stale: Value<u64>,
    /// Requests that wait.
    pub queue: Value<u64>,
}

/// Where a payload is in its life. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadPhase {
    /// Not running, and nobody wants it to.
    Stopped,
    /// Being started, or not ready yet.
    Starting,
    /// Ready; its rate is not believed yet.
    Warming,
    /// Works.
    Running,
    /// A probe failed or the rate is low, not for long enough yet.
    Degraded,
    /// Told to end.
    Draining,
    /// Waits to be started again.
    BackingOff,
    /// Given up: it cannot be started as things are.
    FailedToStart,
    /// Given up: it ended, and its policy leaves it at that.
    Ended,
    /// Given up: it was started too often.
    OutOfBudget,
    /// Given up until somebody clears it.
    Quarantined,
    /// Held back for the rig's power or heat: its processes are there and do not work.
    Paused,
    /// Held back: nothing of it is there, and it starts when it is free.
    Waiting,
}

/// What went wrong with a payload. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadCause {
    /// It could not be started.
    NotStarted,
    /// It ended by itself with this code.
    Exited(i32),
    /// It ended by this signal.
    Signal(i32),
    /// The kernel killed it for its memory.
    OutOfMemory,
    /// It ended unseen.
    Unseen,
    /// No probe passed in the time for that.
    NeverReady,
    /// Too many probes failed in a row.
    Unhealthy,
    /// It yielded too little for too long.
    LowRate,
}

impl fmt::Display for PayloadCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "could not be started",
            Self::Exited(code) => return write!(f, "ended with code {code}"),
            Self::Signal(signal) => return write!(f, "ended by signal {signal}"),
            Self::OutOfMemory => "killed for its memory",
            Self::Unseen => "ended unseen",
            Self::NeverReady => "was never ready",
            Self::Unhealthy => "failed its probes",
            Self::LowRate => "yields too little",
        })
    }
}

impl From<lifecycle::Cause> for PayloadCause {
    fn from(cause: lifecycle::Cause) -> Self {
        match cause {
            lifecycle::Cause::NotStarted => Self::NotStarted,
            lifecycle::Cause::Exit(Exit::Code(code)) => Self::Exited(code),
            lifecycle::Cause::Exit(Exit::Signal(signal)) => Self::Signal(signal),
            lifecycle::Cause::Exit(Exit::OutOfMemory) => Self::OutOfMemory,
            lifecycle::Cause::Exit(Exit::Unknown) => Self::Unseen,
            lifecycle::Cause::NeverReady => Self::NeverReady,
            lifecycle::Cause::Unhealthy => Self::Unhealthy,
            lifecycle::Cause::LowRate => Self::LowRate,
        }
    }
}

impl From<lifecycle::Phase> for PayloadPhase {
    fn from(phase: lifecycle::Phase) -> Self {
        match phase {
            lifecycle::Phase::Stopped => Self::Stopped,
            lifecycle::Phase::Starting => Self::Starting,
            lifecycle::Phase::Warming => Self::Warming,
            lifecycle::Phase::Running => Self::Running,
            lifecycle::Phase::Degraded => Self::Degraded,
            lifecycle::Phase::Draining { .. } => Self::Draining,
            lifecycle::Phase::BackingOff { .. } => Self::BackingOff,
            lifecycle::Phase::Failed(lifecycle::Failure::Start) => Self::FailedToStart,
            lifecycle::Phase::Failed(lifecycle::Failure::Ended) => Self::Ended,
            lifecycle::Phase::Failed(lifecycle::Failure::Budget) => Self::OutOfBudget,
            lifecycle::Phase::Quarantined => Self::Quarantined,
            lifecycle::Phase::Paused => Self::Paused,
            lifecycle::Phase::Waiting => Self::Waiting,
        }
    }
}

impl From<Kind> for PayloadKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Mining => Self::Mining,
            Kind::Ai => Self::Ai,
            Kind::Batch => Self::Batch,
        }
    }
}

impl From<Unit> for PayloadUnit {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Hashes => Self::Hashes,
            Unit::Tokens => Self::Tokens,
            Unit::Requests => Self::Requests,
            Unit::Jobs => Self::Jobs,
        }
    }
}

impl PayloadInfo {
    /// A payload, with the unit of its meter.
    #[must_use]
    pub fn new(status: &Status) -> Self {
        Self { name: status.name.clone(), kind: status.kind.into(), unit: status.unit.map(PayloadUnit::from) }
    }
}

impl Payload {
    /// A payload as it goes out.
    #[must_use]
    pub fn new(status: &Status) -> Self {
        let told = status.sample.as_ref().and_then(|sample| sample.told.as_deref());
        let told = |read: fn(&crate::payload::meter::Sample) -> Result<u64, Missing>| {
            Value(told.map_or(Err(Missing::NotPresent), read))
        };
        let rate = status.sample.as_ref().and_then(|sample| sample.told.as_deref());
        Self {
            phase: status.phase.into(),
            cause: status.cause.map(PayloadCause::from),
            held: status.held.map(PayloadCause::from),
            restarts: status.restarts,
            adopted: status.adopted,
            layers: status.layers.held.bits(),
            missing_layers: status.layers.missing.bits(),
            gpus: u8::try_from(status.gpus.len()).unwrap_or(u8::MAX),
            rate: Value(rate.map_or(Err(Missing::NotPresent), |sample| sample.rate)),
            accepted: told(|sample| sample.accepted),
            rejected: told(|sample| sample.rejected),
            stale: told(|sample| sample.stale),
            queue: told(|sample| sample.queue),
        }
    }
}
