//! What happens to a payload next. Pure: the supervisor brings events and does what comes back.
//!
//! ```text
//!            Start                 probe passed           warm-up over
//! Stopped ──────────> Starting ───────────────> Warming ───────────────> Running <───> Degraded
//!    ^                   │ │          exit         │                        │             │  probe or rate
//!    │       cannot start│ └───────────┬───────────┴──────────┬─────────────┘             │  failed for good
//!    │                   v             v                      │ Stop, Drain, Restart      v
//!    │                Failed <── budget spent ── BackingOff   └──────────────────────> Draining ──> Quarantined
//!    └────────────────────────────────────── Stop ─────────────────────────────────────────┘
//! ```
//!
//! No loop is endless: every start, whoever asked for it, is counted against a budget in a sliding window. An automatic restart
//! beyond it fails the payload; an ordered one waits until the window has room. Only [`Event::Clear`], which a person sends,
//! empties the window. The first failure after a stable run is answered at once, each further one after a wait that doubles.
//!
//! A **hold** ([`Hold`]) stands beside the order to run and never changes it. What is held back does not run, whoever orders it to:
//!
//! ```text
//! Starting, Warming, Running, Degraded ── Pause ──> Paused ── Free ──> Starting, Warming, Running: probes and warm-up begin anew
//!                 │                                   │ Drain, Stop
//!                 └───────── Drain, Stop ─────────────┴──> Draining ──> Waiting ── Free ──> Starting
//! ```
//!
//! Whatever would start while it is held waits in [`Phase::Waiting`], and an order to stop ends that. The start after a run that was
//! ended by a hold is not counted against the budget, since that run's was; there is one at most for each hold. A hold that an
//! earlier agent was told of ends by itself unless it is said again in [`SAID_AGAIN`]: nothing is held for ever by nobody.
//!
//! Times are the rig's time since boot, so that a state can be written down and taken up by the next agent.

mod life;

use std::fmt;
use std::time::Duration;

use life::Life;
use serde::{Deserialize, Serialize};

use super::Hold;

/// A hold that was said to an earlier agent only, and that nobody has said again in this time, is none.
pub const SAID_AGAIN: Duration = Duration::from_secs(10);

/// When a payload is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// After which ends.
    pub policy: Policy,
    /// Wait before the second start in a row.
    pub min: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Starts in a window, the first included; 1 to 100.
    pub budget: u32,
    /// The window.
    pub window: Duration,
    /// A run of this length was a good one: failures are counted from the beginning.
    pub stable: Duration,
}

/// After which ends a payload is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    Always,
    /// All but exit code 0. An end that nobody saw counts as a failure: work is done twice rather than not at all.
    OnFailure,
    /// None.
    Never,
}

/// What a payload is expected to yield.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Thousandths of its meter's unit, a second; none where nobody knows it (yet): then no rate is low.
    pub rate: Option<u64>,
    /// Below so many percent of it the rate is low.
    pub min_pct: u8,
    /// From when it is ready; rates before that are not believed.
    pub warmup: Duration,
    /// How long it must be low.
    pub low: Duration,
}

/// What rules one payload's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// When it is started again.
    pub restart: Restart,
    /// How long it may take to end.
    pub grace: Duration,
    /// Where it has a probe: how long it may take until the first one passes, and how many failures in a row are too many.
    pub probe: Option<(Duration, u32)>,
    /// What it must yield.
    pub expect: Option<Expectation>,
    /// Whether it may be paused; it is drained where it may not.
    pub pausable: bool,
}

/// Where a payload is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not running, and nobody wants it to.
    #[default]
    Stopped,
    /// Being started, or not ready yet.
    Starting,
    /// Ready; its rate is not believed yet.
    Warming,
    /// Works.
    Running,
    /// A probe failed or the rate is low, not for long enough yet.
    Degraded,
    /// Told to end; what comes after, and when everything left of it is killed.
    Draining {
        /// What comes after.
        then: Then,
        /// Since boot.
        kill_at: Duration,
    },
    /// Waits to be started.
    BackingOff {
        /// Since boot.
        until: Duration,
    },
    /// Given up until somebody orders it again.
    Failed(Failure),
    /// Given up until somebody clears it.
    Quarantined,
    /// Held back: its processes are there and do not work.
    Paused,
    /// Held back: nothing of it is there; it starts when it is free.
    Waiting,
}

/// What comes after draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Nothing.
    Stop,
    /// A start that was ordered.
    Start,
    /// A restart that was not.
    Again,
    /// Quarantine.
    Hold,
    /// A start when it is free: it was ended because it is held back.
    Wait,
}

/// Why it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// It cannot be started as things are.
    Start,
    /// It ended, and its policy leaves it at that.
    Ended,
    /// It was started too often.
    Budget,
}

/// What last went otherwise than wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It could not be started.
    NotStarted,
    /// It ended by itself.
    Exit(Exit),
    /// No probe passed in the time for that.
    NeverReady,
    /// Too many probes failed in a row.
    Unhealthy,
    /// It yielded too little for too long.
    LowRate,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Killed by the kernel for its memory.
    OutOfMemory,
    /// Unseen: it was another agent's child.
    Unknown,
}

impl Exit {
    /// This end, where the kernel has killed something in its group for its memory while it ran. A shell passes on what ended its child
    /// as 128 and the signal (bash(1), "EXIT STATUS"), and so do engines of containers: another signal is another reason. So is an
    /// orderly end, whoever was killed on the way. Any other code is taken for that of one that could not go on.
    #[must_use]
    pub const fn with_memory_kill(self) -> Self {
        const SHELLS: i32 = 128;
        match self {
            Self::Code(0) | Self::OutOfMemory => self,
            Self::Code(code) if code > SHELLS && code <= SHELLS + 64 && code != SHELLS + libc::SIGKILL => self,
            Self::Signal(signal) if signal != libc::SIGKILL => self,
            Self::Code(_) | Self::Signal(_) | Self::Unknown => Self::OutOfMemory,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "cannot be started as things are",
            Self::Ended => "has ended, and its policy leaves it at that",
            Self::Budget => "was started too often",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("it could not be started"),
            Self::Exit(exit) => exit.fmt(f),
            Self::NeverReady => f.write_str("no probe passed in the time for that"),
            Self::Unhealthy => f.write_str("too many probes failed"),
            Self::LowRate => f.write_str("its rate was too low for too long"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it ended with code {code}"),
            Self::Signal(signal) => write!(f, "it was ended by signal {signal}"),
            Self::OutOfMemory => f.write_str("the kernel killed it for its memory"),
            Self::Unknown => f.write_str("it ended unseen"),
        }
    }
}

/// What the supervisor has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Ordered: run.
    Start,
    /// Ordered: end.
    Stop,
    /// Ordered: end, within this time.
    Drain(Duration),
    /// Ordered: end and run again.
    Restart,
    /// Ordered by a person: forget quarantine, failures and what was spent.
    Clear,
    /// It was started, or found again by another agent.
    Spawned,
    /// It could not be; `lasting` where another attempt would fail in the same way.
    NotSpawned {
        /// Whether trying again is of no use.
        lasting: bool,
    },
    /// Its first process has ended, and nothing else in its cgroup lives.
    Exited(Exit),
    /// A probe passed or failed.
    Probe(bool),
    /// It is held back so far from now on.
    Hold(Hold),
    /// It could not be paused.
    NotPaused,
    /// It was paused, and does not go on.
    NotResumed,
    /// What its meter says, in thousandths of its unit.
    Rate(u64),
    /// Its meter says no rate: nobody answers, or not with one.
    Silent,
    /// Time has passed.
    Tick,
}

/// What the supervisor has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Spawn,
    /// Ask it to end.
    Signal,
    /// Kill all of it.
    Kill,
    /// Let it rest, with all that it has.
    Pause,
    /// Let it go on.
    Resume,
}

/// What is known of a payload's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it is.
    pub phase: Phase,
    /// Since when, since boot.
    pub since: Duration,
    /// Whether the last order was to run.
    pub wanted: bool,
    /// What last went wrong.
    pub cause: Option<Cause>,
    /// In quarantine for this, also while it is stopped.
    pub held: Option<Cause>,
    /// Starts that nobody ordered.
    pub restarts: u32,
    /// Short runs in a row, the one under way left out.
    pub failures: u32,
    /// Starts inside the window, oldest first; never more than the budget.
    starts: Vec<Duration>,
    /// When the process was started.
    up: Option<Duration>,
    /// When it was ready.
    ready: Option<Duration>,
    /// Failed probes in a row.
    misses: u32,
    /// Since when the rate is low, or there is none any more.
    low: Option<Duration>,
    /// Its meter has told a rate in this run: one that falls silent afterwards is no meter that never worked.
    #[serde(default)]
    rated: bool,
    /// When it was last started again for a low rate.
    suspect: Option<Duration>,
    /// How far it is held back, as it was last said.
    #[serde(default)]
    pub hold: Hold,
    /// Until when the hold stands if nobody says it again; none where this agent was told of it.
    #[serde(default)]
    unsaid: Option<Duration>,
    /// Its next start is the return from a hold, which was paid for with the run before.
    #[serde(default)]
    paid: bool,
}

/// What happens next. `now` is the time since boot, `random` spreads waits.
#[must_use]
pub fn next(rules: &Rules, state: State, event: Event, now: Duration, random: u32) -> (State, Option<Action>) {
    let mut life = Life { rules, state, now, random, action: None };
    life.take(event);
    life.obey();
    (life.state, life.action)
}

/// When a [`Event::Tick`] would change something.
#[must_use]
pub fn wake(rules: &Rules, state: &State) -> Option<Duration> {
    [turns(rules, state), settles(rules, state), state.unsaid].into_iter().flatten().min()
}

/// When its run is long enough for the failures before it to be forgotten.
fn settles(rules: &Rules, state: &State) -> Option<Duration> {
    let runs = matches!(state.phase, Phase::Warming | Phase::Running | Phase::Degraded);
    (runs && state.failures > 0).then(|| Some(state.up? + rules.restart.stable))?
}

/// When its phase ends by itself.
fn turns(rules: &Rules, state: &State) -> Option<Duration> {
    match state.phase {
        Phase::Starting => Some(state.up? + rules.probe?.0),
        Phase::Warming => Some(state.ready? + rules.expect.as_ref()?.warmup),
        Phase::Draining { kill_at, .. } => Some(kill_at),
        Phase::BackingOff { until } => Some(until),
        Phase::Stopped
        | Phase::Running
        | Phase::Degraded
        | Phase::Failed(_)
        | Phase::Quarantined
        | Phase::Paused
        | Phase::Waiting => None,
    }
}

impl Phase {
    /// Nothing of it runs, and nothing will unless somebody orders it: what it had is free.
    #[must_use]
    pub const fn is_at_rest(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed(_) | Self::Quarantined)
    }
}

impl State {
    /// After the rig was started anew: what outlives that.
    #[must_use]
    pub fn after_boot(self) -> Self {
        Self { wanted: self.wanted, cause: self.cause, held: self.held, restarts: self.restarts, ..Self::default() }
    }

    /// Taken up by another agent, which nobody has told of any hold.
    #[must_use]
    pub fn taken_up(self, now: Duration) -> Self {
        let unsaid = (self.hold != Hold::Free).then(|| now + SAID_AGAIN);
        Self { unsaid, ..self }
    }

    /// Whether a process is there or on its way.
    #[must_use]
    pub const fn alive(&self) -> bool {
        match self.phase {
            Phase::Starting
            | Phase::Warming
            | Phase::Running
            | Phase::Degraded
            | Phase::Draining { .. }
            | Phase::Paused => true,
            Phase::Stopped | Phase::BackingOff { .. } | Phase::Failed(_) | Phase::Quarantined | Phase::Waiting => false,
        }
    }
}

#[cfg(test)]
mod tests;
