//! What the rig shall be: taken, kept, and brought about.
//!
//! ```text
//! frame ─ command::verify::desired ─ accept ─ Store ─┐
//!                                  clock ─ effective ─┴─ plan(actual) ─ orders, differences ─ Reported
//! ```
//!
//! A state is taken as a whole or not at all: its revision must rise, and all that it names must be there. The last good one
//! stays in force, over restarts, without the broker, and when it gets old: an age over [`STALE_MS`] is reported and
//! nothing is done about it. [`effective`] is what holds at this minute, standing orders and all; [`plan`] compares it with what is and
//! gives the orders that are missing, each once: what is on its way, or failed, is a difference and is not ordered again.
//!
//! What a state does not name is left as it is. Its power cap is one of its own: without one it has none, and a cap that a
//! command set holds beside it, the lower of both.

use crate::wire::{Desired, RefusedRevision, Reported};

mod effective;
mod plan;
mod store;

pub use effective::{Effective, Moment, effective};
pub use plan::{Actual, ActualGpu, ActualPayload, Plan, plan, unserved};
pub use store::{Kept, Store};

/// A control plane signs anew each day; three days without is an age to be told.
pub const STALE_MS: u64 = 72 * HOUR_MS;
const HOUR_MS: u64 = 3_600 * 1_000;

/// Names that a rig knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Of payloads.
    pub payloads: Vec<String>,
    /// Of profiles.
    pub profiles: Vec<String>,
    /// UUIDs of GPUs, also of those that are lost now.
    pub gpus: Vec<String>,
    /// Of zones.
    pub zones: Vec<String>,
    /// It can hold a power cap.
    pub power_cap: bool,
}

/// What a desired state is to a rig that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A new one: keep it, then bring it about.
    New,
    /// The one that is in force, once more.
    Same,
}

/// Whether a verified state is taken. `revision` is the highest that was ever taken, `current` the one in force.
///
/// # Errors
/// Why none of it is.
pub fn accept(
    current: Option<&Desired>,
    revision: u64,
    candidate: &Desired,
    known: &Known,
) -> Result<Taken, RefusedRevision> {
    let refuse = |reason: String| Err(RefusedRevision { revision: candidate.revision, reason });
    if current == Some(candidate) {
        return Ok(Taken::Same);
    }
    if candidate.revision <= revision {
        return refuse(format!("it is not newer than revision {revision}"));
    }
    if let Err(text) = candidate.check() {
        return refuse(text.to_owned());
    }
    match unknown(candidate, known) {
        Some(text) => refuse(text),
        None => Ok(Taken::New),
    }
}

/// The first thing named that is not there.
fn unknown(desired: &Desired, known: &Known) -> Option<String> {
    let missing = |what: &str, names: &[String], name: &str| {
        (!names.iter().any(|known| known == name)).then(|| format!("no {what} `{name}` here"))
    };
    let gpu = |uuid: &String| missing("GPU", &known.gpus, uuid);
    let standing = desired.standing.iter().flat_map(|order| &order.payloads);
    for entry in desired.payloads.iter().chain(standing) {
        let gpus = entry.gpus.iter().flatten().find_map(gpu);
        if let Some(text) = missing("payload", &known.payloads, &entry.name).or(gpus) {
            return Some(text);
        }
    }
    let leases = desired.market.iter().flat_map(|market| &market.leases);
    if let Some(text) = leases.map(|lease| &lease.payload).find_map(|name| missing("payload", &known.payloads, name)) {
        return Some(text);
    }
    let mut standing = desired.standing.iter();
    if !known.power_cap && (desired.power_cap.is_some() || standing.any(|order| order.power_cap.is_some())) {
        return Some("this agent does not hold power caps".to_owned());
    }
    let mut profiles = desired.profiles.iter();
    let profile = profiles.find_map(|entry| {
        missing("profile", &known.profiles, &entry.profile).or_else(|| entry.gpu.as_ref().and_then(gpu))
    });
    profile.or_else(|| desired.fan_targets.iter().find_map(|target| missing("zone", &known.zones, &target.zone)))
}

/// Hours since a state was signed, where these are too many; none where the clock is not known to be right.
#[must_use]
pub fn stale_h(desired: &Desired, unix_ms: Option<u64>) -> Option<u32> {
    let age = unix_ms?.saturating_sub(desired.issued_ms);
    (age > STALE_MS).then(|| u32::try_from(age / HOUR_MS).unwrap_or(u32::MAX))
}

/// How near the rig is to the state in force.
#[must_use]
pub fn report(
    desired: Option<&Desired>,
    refused: Option<RefusedRevision>,
    effective: Option<&Effective>,
    plan: &Plan,
    unix_ms: Option<u64>,
) -> Reported {
    let accepted = desired.map_or(0, |desired| desired.revision);
    Reported {
        reached: if plan.differences.is_empty() { accepted } else { 0 },
        accepted,
        refused,
        differences: plan.differences.clone(),
        standing: effective.map(|effective| effective.standing.clone()).unwrap_or_default(),
        stale_h: desired.and_then(|desired| stale_h(desired, unix_ms)),
    }
}

#[cfg(test)]
mod tests;
