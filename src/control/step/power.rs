//! Power: a cap in watts at the rig's input, spread over its GPUs. Pure; time is an argument.
//!
//! ```text
//! caps ──> tightest, with its ramp ──> budget for the GPUs ──> limits by worth ──> clock locks ──> pause ──> drain ──> stop
//! meter ── believed? ──> what else the rig draws ──^                 ^
//!    │ no: the sum of the parts, with a margin ──────────────────────┤
//! guards of supplies and rails, which nothing lifts ─────────────────┘
//!    each with its own meter, believed or not in the same way
//! ```
//!
//! What the meter shows is what the GPUs draw times the supply's loss ([`NOMINAL`]) and the rest: board, fans, the error of
//! that loss. The rest is learnt slowly (`budget.rs`); the GPUs' part follows a new cap in the same tick (feed-forward). So a
//! drop is as fast as the GPUs are, and what remains wrong is gone after some seconds.
//!
//! Numbers at ten ticks a second and GPUs with a time constant of 0.3 s, in `plant.rs`, as means of half a second: from 2400 W to
//! 1200 W within 2 s; at constant load within 2 % below the cap and never above it; under changing load within 3 % below from
//! 3 s after a change on where no more than one of the cards rests, and in less than one of a thousand more than 2 % above.
//!
//! A meter that fails is noticed after 0.8 s, on the way down to a cap too, which is met no more than 0.2 s after that. One that
//! is frozen, also a single one of several supplies, is noticed no later than 1.5 s after the draw has moved by a sixtieth and 3 W;
//! until then the rig may be above its cap by 3 %. From there on it is never above: cards count by their limits, and what is not
//! known by its worst. Cards that do not keep to their limits are seen by their own power then, and the next rung is taken after
//! [`PATIENCE`], as it is by the meter. A meter that shows too little by less than the supplies' loss and the rest together is
//! taken for a good one, and the rig is above its cap by that.
//!
//! A GPU that does not use its limit lends the difference: a cap counts it by what it uses, so that the watts work elsewhere.
//! A load that comes back is known by its first watts, a tick or two later, and until the others' limits are down a third to a
//! half of what was lent is drawn twice. So no more than [`Policy::lend`] of a cap is lent: with 4 % the rig is no more than 2 %
//! above the cap for half a second where all loads come back at once. That costs watts while cards rest, for no card takes a
//! limit below its lowest: of eight cards that take 100 W at least, one at 57 W costs nothing, two cost 45 W of a cap
//! of 1200 W and four 135 W; all may be lent (100 %) where 5 % too much for half a second are nobody's harm. A guard counts every GPU by its limit
//! and is not exceeded for any time once its cards have come down to it, whatever its meter shows, but for too little by less
//! than is told above, and as far as GPUs keep their limits.

pub mod cap;

mod budget;
mod halt;
mod judge;
mod share;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::budget::{Basis, NOMINAL};
use self::budget::{Belief, Found};
pub use self::cap::{Cap, Source};
use self::halt::Halts;
use self::share::{Constraint, Shares};
use crate::payload::manifest::Kind;
use crate::reading::{Reading, sum};
use crate::units::{Megahertz, Milliwatts, MilliwattsPerSecond, Percent};

/// Measured above the cap for so long although the limits should do, and the next rung is taken: six time constants of a GPU
/// and the meter's delay.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// The same for a guard: four time constants of a GPU on its way down to a new limit.
pub const GUARD_PATIENCE: Duration = Duration::from_millis(1_500);
/// Neither is over before so many ticks have shown it: at one a second an order is on the card, and seen, two later.
const PATIENT_TICKS: u32 = 3;
/// A rung is left no sooner than this after the last change of one; twice as long each time that it is entered again at once.
pub const HOLD: Duration = Duration::from_secs(60);
/// The longest that it grows to.
pub const LONGEST_HOLD: Duration = Duration::from_secs(16 * 60);
/// The longest step of time that ramps believe.
const LONGEST_STEP: Duration = Duration::from_secs(2);
/// Parts in a thousand of a cap that stay unused, for the meter's noise.
const AIM: i64 = 997;
/// Of a guard more.
const GUARD_AIM: i64 = 990;
/// Measured above so many thousandths of a cap it is exceeded.
const OVER: i64 = 1020;
/// And a guard, where a meter's noise is all that there is room for.
const GUARD_OVER: i64 = 1010;
/// GPUs that are looked at: bits of a set. The inventory takes no more.
const MOST: usize = 64;
/// Limits are whole watts, and one is raised only by this much, so that noise is not written to a card ten times a second.
const WORTH_WRITING: i64 = 2_000;

/// What is settled for a rig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The supplies' efficiency at its worst.
    pub efficiency: Percent,
    /// What the rig draws without its GPUs, at most.
    pub base: Milliwatts,
    /// What stays unused of a cap while its meter is not believed.
    pub margin: Percent,
    /// Part of a cap that GPUs at rest lend at most to the others.
    pub lend: Percent,
    /// How fast a cap that was raised or lifted is followed.
    pub release: MilliwattsPerSecond,
    /// How long this rig waits before it follows: drawn once for each rig, so that a fleet does not come back together.
    pub jitter: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            efficiency: Percent(88),
            base: Milliwatts(250_000),
            margin: Percent(3),
            lend: Percent(4),
            release: MilliwattsPerSecond(50_000),
            jitter: Duration::ZERO,
        }
    }
}

/// A hard limit of a supply or a rail, with the GPUs that it feeds. It is no cap: no command, floor or ramp is above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Not to be exceeded.
    pub limit: Milliwatts,
    /// What is measured there now: by one meter, or by that of each supply.
    pub meters: Vec<Reading<Milliwatts>>,
    /// The GPUs that it feeds, by index.
    pub gpus: Vec<usize>,
    /// Measured before the supply's loss: at its input.
    pub input: bool,
}

impl Guard {
    /// All that is measured there; missing as soon as a part of it is.
    fn measured(&self) -> Reading<Milliwatts> {
        sum(self.meters.iter().copied())
    }
}

/// A GPU as power sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Lowest and highest power limit that it takes; none where it takes none.
    pub limits: Option<(Milliwatts, Milliwatts)>,
    /// The limit of its profile: what it has while nothing is capped.
    pub top: Milliwatts,
    /// What it draws.
    pub power: Reading<Milliwatts>,
    /// What it draws with nothing running.
    pub idle: Milliwatts,
    /// Its core clock.
    pub clock: Reading<Megahertz>,
    /// Its highest core clock; none where it cannot be locked.
    pub max_clock: Option<Megahertz>,
    /// What runs on it, an index into [`Inputs::payloads`].
    pub payload: Option<usize>,
    /// What a watt earns on it, in any unit that is the same for all.
    pub worth: u64,
}

/// A payload as power sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Only mining and batch work is paused; AI work is drained.
    pub kind: Kind,
    /// How long it may take to end.
    pub grace: Duration,
    /// It has processes.
    pub running: bool,
    /// They are said to rest.
    pub paused: bool,
}

/// What is known in this tick.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Now.
    pub now: Instant,
    /// What was asked for.
    pub caps: &'a [Cap],
    /// Input of each supply. Their sum is what counts, and is missing as soon as one is.
    pub meters: &'a [Reading<Milliwatts>],
    /// Hard limits.
    pub guards: &'a [Guard],
    /// The GPUs, at most 64.
    pub gpus: &'a [Gpu],
    /// The payloads.
    pub payloads: &'a [Payload],
}

/// How far it had to go, from the mildest. Order and numbers go to the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Nothing is held back.
    #[default]
    Free,
    /// Its power limit is lower than its profile's.
    Limit,
    /// At its lowest limit, and its clocks are locked lower.
    Clocks,
    /// Its payload, mining or batch work, is paused.
    Pause,
    /// Its payload was asked to finish.
    Drain,
    /// Its payload is ended at once.
    Stop,
}

/// What holds a GPU back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A cap, and where it came from.
    Cap(Source),
    /// A guard, an index into [`Inputs::guards`].
    Guard(usize),
}

impl Cause {
    /// The same limit: of all caps there is one at a time, whoever set it.
    fn is(self, other: Self) -> bool {
        matches!((self, other), (Self::Cap(_), Self::Cap(_))) || self == other
    }
}

/// What a GPU gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuOrder {
    /// Power limit; none leaves that of the profile.
    pub limit: Option<Milliwatts>,
    /// Highest core clock; none leaves that of the profile.
    pub clock: Option<Megahertz>,
    /// How far it had to go.
    pub rung: Rung,
    /// Why.
    pub cause: Option<Cause>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// One per GPU.
    pub gpus: Vec<GpuOrder>,
    /// One per payload: [`Rung::Pause`] or above where it is not to run.
    pub payloads: Vec<Rung>,
    /// What holds of all caps now, ramps included; none where nothing is capped.
    pub cap: Option<Milliwatts>,
    /// Whose that is.
    pub source: Option<Source>,
    /// What the decision rests on.
    pub basis: Basis,
    /// What the rig draws: measured, or the sum of its parts with the margin in it.
    pub estimate: Milliwatts,
}

/// What is remembered from one tick to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    at: Instant,
    cap: cap::Held,
    belief: Belief,
    shares: Shares,
    halts: Halts,
    /// Since when each is exceeded: the cap, then the guards.
    over: Vec<Option<Instant>>,
}

impl State {
    /// Nothing known yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            at: now,
            cap: cap::Held::default(),
            belief: Belief::new(now),
            shares: Shares::default(),
            halts: Halts::new(now),
            over: Vec::new(),
        }
    }
}

/// Decides one tick.
#[must_use]
pub fn step(policy: &Policy, mut state: State, inputs: &Inputs<'_>) -> (State, Orders) {
    let now = inputs.now;
    let since = now.saturating_duration_since(state.at).min(LONGEST_STEP);
    state.at = now;
    state.shares.begin(inputs.gpus);
    let found = state.belief.look(policy, inputs, &state.shares, since);
    let all: i64 = inputs.gpus.iter().map(|gpu| i64::from(gpu.top.0)).sum();
    let most = found.whole(all);
    let cap = state.cap.next(policy, inputs.caps, (found.estimate, most), now, since);

    let mut constraints = Vec::with_capacity(1 + inputs.guards.len());
    if let Some((limit, source)) = cap {
        let strict = !found.good || found.basis != Basis::Meter;
        let budget = found.budget(limit);
        constraints.push(Constraint { cause: Cause::Cap(source), budget, strict, members: u64::MAX });
    }
    for (index, guard) in inputs.guards.iter().enumerate() {
        constraints.push(state.belief.guard(policy, index, guard, inputs.gpus));
    }

    let late = exceeded(&mut state, policy, inputs, (cap, &found), since);
    state.halts.step(inputs, &constraints, found.known, &late);
    let before = state.shares.sum();
    let mut orders = state.shares.share(inputs, &constraints, &state.halts, (policy.lend, since));
    if before.abs_diff(state.shares.sum()) > before.unsigned_abs() / 32 {
        // The meter is behind the GPUs for a moment: nothing is learnt from the difference.
        state.belief.unsettle(now);
    }
    orders.payloads = state.halts.payloads(inputs.payloads.len());
    (orders.cap, orders.source) = (cap.map(|(limit, _)| milliwatts(limit)), cap.map(|(_, source)| source));
    orders.basis = found.basis;
    orders.estimate = milliwatts(found.estimate);
    (state, orders)
}

/// What has been exceeded for too long although the limits should do, and whether that was measured or is the sum of the parts.
fn exceeded(
    state: &mut State,
    policy: &Policy,
    inputs: &Inputs<'_>,
    (cap, found): (Option<(i64, Source)>, &Found),
    since: Duration,
) -> Vec<(Cause, bool)> {
    let above = |limit: i64| match found.basis {
        Basis::Meter => {
            let most = limit.saturating_mul(OVER) / 1000 + state.cap.ahead(since);
            sum(inputs.meters.iter().copied()).is_ok_and(|measured| i64::from(measured.0) > most)
        }
        // The margin is in it already.
        Basis::Parts { .. } => found.known && found.estimate > limit + state.cap.ahead(since),
    };
    let first = (
        Cause::Cap(state.cap.source()),
        (cap.is_some_and(|(limit, _)| above(limit)), found.basis == Basis::Meter),
        PATIENCE.max(since * PATIENT_TICKS),
    );
    let guard = |(index, guard): (usize, &Guard)| {
        let above = state.belief.exceeds(policy, index, guard, inputs.gpus, found.known);
        (Cause::Guard(index), above, GUARD_PATIENCE.max(since * PATIENT_TICKS))
    };
    state.over.resize(1 + inputs.guards.len(), None);
    let mut late = Vec::new();
    let all = std::iter::once(first).chain(inputs.guards.iter().enumerate().map(guard));
    for (over, (cause, (above, measured), patience)) in state.over.iter_mut().zip(all) {
        if !above {
            *over = None;
        } else if inputs.now.saturating_duration_since(*over.get_or_insert(inputs.now)) >= patience {
            late.push((cause, measured));
            // What was done now gets as much time again.
            *over = Some(inputs.now);
        }
    }
    late
}

/// As a unit; nothing below zero, nothing above what a unit can hold.
fn milliwatts(value: i64) -> Milliwatts {
    Milliwatts(u32::try_from(value.max(0)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod plant;
#[cfg(test)]
mod tests;
