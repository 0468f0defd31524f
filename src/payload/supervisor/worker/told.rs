//! What the log is told of a payload's life.

use log::{debug, info, warn};

use super::super::super::hold::waits;
use super::super::super::lifecycle::{Event, Phase, State, Then};
use super::Worker;

impl Worker {
    /// A line for each turn that matters; a rate on the edge of its limit is not one.
    pub(super) fn tell(&self, before: Phase) {
        let name = &self.manifest.name;
        let State { phase, cause, .. } = &self.state;
        if std::mem::discriminant(&before) == std::mem::discriminant(phase) {
            return;
        }
        let why = cause.as_ref().map(ToString::to_string).unwrap_or_default();
        match phase {
            Phase::Failed(failure) => warn!("payload {name}: {failure}; last: {why}"),
            Phase::Quarantined => {
                warn!("payload {name}: in quarantine: {why}");
                // Not where it was so before and somebody tried to start it.
                if matches!(before, Phase::Draining { then: Then::Hold, .. }) {
                    self.hooks.quarantined(&self.manifest);
                }
            }
            Phase::BackingOff { until } => {
                info!("payload {name}: {why}; again in {:.1?}", until.saturating_sub(self.state.since));
            }
            Phase::Draining { then: Then::Stop | Then::Start, .. } => info!("payload {name}: told to end"),
            Phase::Draining { then: Then::Wait, .. } => info!("payload {name}: told to end: {}", self.state.hold),
            Phase::Draining { then: Then::Again | Then::Hold, .. } => warn!("payload {name}: told to end: {why}"),
            Phase::Stopped => match &self.status.exit {
                Some(exit) => info!("payload {name}: stopped: {exit}"),
                None => info!("payload {name}: stopped"),
            },
            Phase::Waiting => info!("payload {name}: {}", waits(self.state.hold)),
            Phase::Starting if before == Phase::Waiting => {
                info!("payload {name}: starting, it is not held back any more")
            }
            Phase::Starting if !matches!(before, Phase::Stopped | Phase::Paused) => {
                info!("payload {name}: starting again: {why}")
            }
            Phase::Starting | Phase::Warming | Phase::Running | Phase::Degraded | Phase::Paused => {
                debug!("payload {name}: {phase:?}");
            }
        }
    }
}

/// An order, as people would say it.
pub(super) const fn verb(event: Event) -> &'static str {
    match event {
        Event::Start => "start",
        Event::Stop => "stop",
        Event::Restart => "start again",
        Event::Drain(_) => "drain",
        Event::Clear => "be cleared",
        Event::Spawned
        | Event::NotSpawned { .. }
        | Event::Exited(_)
        | Event::Probe(_)
        | Event::Rate(_)
        | Event::Silent
        | Event::Hold(_)
        | Event::NotPaused
        | Event::NotResumed
        | Event::Tick => "go on",
    }
}
