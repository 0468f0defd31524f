//! A payload that nobody has measured on a GPU of some make is tried there now and then, or it would never be planned for; one of
//! which somebody has a guess too, for that may be too low. Pure.
//!
//! At most one at a time, each at most once a day, for the time that it takes to start and to warm up and [`LONG`]: on a GPU that
//! stays idle, or is, or else on one that has had the same payload for [`SETTLED`]. Never one that is planned for anyway. Never one
//! whose work is worth nothing, or that is leased.

use std::time::Duration;

use super::look::{Draft, Facts};
use super::yields::Known;

/// Of its work, warmed up: five times what a yield must rest on.
pub const LONG: Duration = Duration::from_secs(300);
/// A payload that has run for so long can spare a GPU for that.
pub const SETTLED: Duration = Duration::from_secs(3_600);
/// From one trial of a payload to the next, ms.
pub const DAY_MS: u64 = 86_400_000;

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// This payload.
    pub payload: String,
    /// On this GPU.
    pub uuid: String,
    /// Until then, since boot.
    pub until: Duration,
}

/// What to try next beside what is planned, where there is anything to try. Not asked while something is under way.
#[must_use]
pub fn choose(facts: &Facts<'_>, draft: &Draft, planned: &[Option<usize>]) -> Option<Trial> {
    let waits = |name: &str| {
        let tried = facts.yields.0.get(name).map_or(0, |learnt| learnt.tried_ms);
        // A time that is still to come is that of a clock that was wrong.
        facts.unix_ms.0.checked_sub(tried).is_none_or(|passed| passed >= DAY_MS)
    };
    let since = |payload: usize| {
        let name = &draft.payloads.get(payload)?.name;
        let status = facts.payloads.iter().find(|status| status.name == *name)?;
        Some(facts.now.saturating_sub(status.since))
    };
    let inputs = facts.inputs(draft);
    draft.payloads.iter().enumerate().find_map(|(at, payload)| {
        let known = draft.known.get(at)?;
        let new = |gpu: &usize| matches!(known.get(*gpu), Some(None | Some(Known::Guessed)));
        // What has its turn anyway is learnt of anyway.
        let runs = draft.current.contains(&Some(at)) || planned.contains(&Some(at));
        let worthless = payload.value.0 == 0 || payload.lease.is_some() || !inputs.may_run(at);
        if runs || worthless || !waits(&payload.name) {
            return None;
        }
        let fits = |gpu: &usize| payload.fits >> gpu & 1 == 1;
        let place = |places: &[Option<usize>], gpu: usize| places.get(gpu).copied().flatten();
        let free = |gpu: &usize| draft.current.get(*gpu) == Some(&None);
        let idle = |gpu: &usize| free(gpu) && place(planned, *gpu).is_none();
        // What begins there on somebody's guess is about to be learnt of too.
        let guessed = |owner: usize, gpu: usize| {
            draft.known.get(owner).and_then(|known| known.get(gpu)) == Some(&Some(Known::Guessed))
        };
        let open = |gpu: &usize| free(gpu) && !place(planned, *gpu).is_some_and(|owner| guessed(owner, *gpu));
        let spare = |gpu: &usize| {
            let owner = place(&draft.current, *gpu);
            let leased = |owner: usize| draft.payloads.get(owner).is_none_or(|owner| owner.lease.is_some());
            owner.is_some_and(|owner| !leased(owner) && since(owner).is_some_and(|since| since >= SETTLED))
        };
        let gpus = || (0..draft.uuids.len()).filter(fits).filter(new);
        let gpu = gpus().find(idle).or_else(|| gpus().find(open)).or_else(|| gpus().find(spare))?;
        let status = facts.payloads.iter().find(|status| status.name == payload.name)?;
        let terms = status.plan.as_ref()?;
        let until = facts.now + terms.startup + terms.warmup + LONG;
        Some(Trial { payload: payload.name.clone(), uuid: draft.uuids.get(gpu)?.clone(), until })
    })
}
