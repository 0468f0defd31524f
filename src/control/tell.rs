//! What payloads must be told of the GPUs under them. Pure.

use std::time::{Duration, Instant};

use crate::gpu::xid::Action;
use crate::gpu::{Gpu, Happening, Presence, What};
use crate::payload::Hold;
use crate::payload::supervisor::{Payloads, Status};

/// A payload that was told takes a moment to show it, and may have taken no order.
const AGAIN: Duration = Duration::from_secs(1);

/// The payloads that are to be started anew, each once, and why: those whose GPU told an error that asks for it, and those
/// whose GPU is gone, who get another one where there is one. `before` is where each GPU was a tick ago.
pub(super) fn restarts<'a>(
    happenings: &[Happening],
    before: &[Presence],
    gpus: &[Gpu],
    payloads: &'a Payloads,
) -> Vec<(&'a str, String)> {
    let asked = happenings.iter().filter_map(|happening| match happening.what {
        What::Xid { code, action: Action::RestartApplication } => Some((happening.gpu, format!("Xid {code}"))),
        What::Xid { .. } | What::Asks(_) | What::Drift { .. } | What::Profile(_) => None,
    });
    let gone = gpus.iter().enumerate().filter_map(|(index, gpu)| {
        let was_there = before.get(index) == Some(&Presence::Seen);
        let is_gone = matches!(gpu.presence, Presence::Lost | Presence::Hung);
        (was_there && is_gone).then(|| (index, format!("GPU {}: {}", gpu.pci, gpu.presence)))
    });
    let mut restarts: Vec<(&str, String)> = Vec::new();
    for (gpu, why) in asked.chain(gone) {
        if let Some(owner) = owner(gpus, gpu, payloads)
            && restarts.iter().all(|(name, _)| *name != owner.name)
        {
            restarts.push((&owner.name, why));
        }
    }
    restarts
}

/// The first GPU for which nothing but a restart of the rig helps.
pub(super) fn restarts_rig(happenings: &[Happening]) -> Option<usize> {
    let asks = |happening: &&Happening| match happening.what {
        What::Xid { action, .. } | What::Asks(action) => action == Action::RestartMachine,
        What::Drift { .. } | What::Profile(_) => false,
    };
    happenings.iter().find(asks).map(|happening| happening.gpu)
}

/// Whose GPU this is: that of a payload which is running or about to.
pub(super) fn owner<'a>(gpus: &[Gpu], index: usize, payloads: &'a Payloads) -> Option<&'a Status> {
    let uuid = &gpus.get(index)?.device.as_ref()?.uuid;
    payloads.0.iter().find(|payload| !payload.phase.is_at_rest() && payload.gpus.contains(uuid))
}

/// How far payloads are held back, told once a second for as long as it is not so.
#[derive(Debug, Default)]
pub(super) struct Holds(Vec<Option<(Hold, Instant)>>);

impl Holds {
    /// Who is to be told what now. `holds` is in the payloads' order.
    pub(super) fn tell<'a>(&mut self, holds: &[Hold], payloads: &'a Payloads, now: Instant) -> Vec<(&'a str, Hold)> {
        self.0.resize(payloads.0.len(), None);
        let mut tells = Vec::new();
        for ((payload, hold), told) in payloads.0.iter().zip(holds).zip(&mut self.0) {
            // One that an earlier agent was told of is not known to hold on.
            let said = *hold == Hold::Free || told.is_some_and(|(said, _)| said == *hold);
            let over = |(said, at): (Hold, Instant)| said != *hold || now.saturating_duration_since(at) >= AGAIN;
            let there = payload.removed || payload.hold == *hold && said;
            if !there && told.is_none_or(over) {
                *told = Some((*hold, now));
                tells.push((payload.name.as_str(), *hold));
            }
        }
        tells
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gpu::plan::tests::card;
    use crate::gpu::wire::{Device, PciAddress};
    use crate::payload::lifecycle::Phase;

    fn gpu(bus: u8, presence: Presence) -> Gpu {
        let pci = PciAddress { domain: 0, bus, device: 0 };
        let device = Device { pci, uuid: format!("GPU-{bus}"), ..card() };
        Gpu { device: Some(Arc::new(device)), presence, ..Gpu::unseen(pci) }
    }

    fn payload(name: &str, phase: Phase, gpus: &[&str]) -> Status {
        let gpus = gpus.iter().map(|gpu| (*gpu).to_owned()).collect();
        Status { phase, gpus, ..Status::of(name) }
    }

    fn xid(gpu: usize, action: Action) -> Happening {
        Happening { gpu, what: What::Xid { code: 31, action } }
    }

    #[test]
    fn a_payload_is_told_how_far_it_is_held_back_once_a_second_until_it_is() {
        let mut payloads = Payloads(vec![payload("a", Phase::Running, &[]), payload("b", Phase::Running, &[])]);
        let (mut told, start) = (Holds::default(), crate::clock::now());
        let mut tell = |payloads: &Payloads, hold, ms| {
            let now = start + Duration::from_millis(ms);
            told.tell(&[hold, Hold::Free], payloads, now)
                .into_iter()
                .map(|(name, hold)| (name.to_owned(), hold))
                .collect()
        };
        let one = |hold| vec![("a".to_owned(), hold)];
        let nobody: Vec<(String, Hold)> = Vec::new();
        for (hold, is, ms, expected) in [
            (Hold::Free, Hold::Free, 0, &nobody),
            (Hold::Pause, Hold::Free, 100, &one(Hold::Pause)),
            (Hold::Pause, Hold::Free, 1_000, &nobody),
            (Hold::Pause, Hold::Free, 1_100, &one(Hold::Pause)),
            (Hold::Pause, Hold::Pause, 1_200, &nobody),
            (Hold::Free, Hold::Pause, 1_300, &one(Hold::Free)),
        ] {
            payloads.0[0].hold = is;
            let found: Vec<(String, Hold)> = tell(&payloads, hold, ms);
            assert_eq!(&found, expected, "at {ms} ms");
        }
    }

    #[test]
    fn a_hold_from_before_is_said_again_once() {
        let held = Status { hold: Hold::Pause, ..payload("a", Phase::Paused, &[]) };
        let (payloads, now) = (Payloads(vec![held]), crate::clock::now());
        let mut told = Holds::default();
        assert_eq!(told.tell(&[Hold::Pause], &payloads, now), [("a", Hold::Pause)]);
        assert_eq!(told.tell(&[Hold::Pause], &payloads, now + AGAIN * 2), []);
    }

    #[test]
    fn only_what_asks_for_it_restarts_the_rig() {
        let others = [Action::Record, Action::RestartApplication, Action::ResetGpu, Action::CheckHardware];
        let mild = others.map(|action| xid(0, action));
        let asks = || Happening { gpu: 3, what: What::Asks(Action::RestartMachine) };
        assert_eq!(restarts_rig(&mild), None);
        assert_eq!(restarts_rig(&[mild.as_slice(), &[xid(2, Action::RestartMachine), asks()]].concat()), Some(2));
        assert_eq!(restarts_rig(&[asks()]), Some(3));
    }

    #[test]
    fn who_runs_on_a_gpu_that_is_gone_or_asks_for_it_is_started_anew_once() {
        let payloads = Payloads(vec![
            payload("a", Phase::Running, &["GPU-0", "GPU-1"]),
            payload("b", Phase::Stopped, &["GPU-2"]),
            payload("c", Phase::Starting, &["GPU-3"]),
        ]);
        let there = [Presence::Seen; 4];
        let lost = |which: usize| {
            [0_u8, 1, 2, 3].map(|bus| gpu(bus, if usize::from(bus) == which { Presence::Lost } else { Presence::Seen }))
        };
        let well = lost(9);
        let names = |happenings: &[Happening], before: &[Presence], gpus: &[Gpu]| -> Vec<String> {
            restarts(happenings, before, gpus, &payloads).into_iter().map(|(name, _)| name.to_owned()).collect()
        };
        assert_eq!(names(&[], &there, &well), [""; 0]);
        assert_eq!(names(&[xid(1, Action::RestartApplication)], &there, &well), ["a"]);
        assert_eq!(names(&[xid(1, Action::ResetGpu), xid(2, Action::RestartApplication)], &there, &well), [""; 0]);
        let both = [xid(0, Action::RestartApplication), xid(1, Action::RestartApplication)];
        assert_eq!(names(&both, &there, &lost(1)), ["a"]);
        assert_eq!(names(&[], &there, &lost(3)), ["c"]);
        let gone = [Presence::Seen, Presence::Seen, Presence::Seen, Presence::Lost];
        assert_eq!(names(&[], &gone, &lost(3)), [""; 0], "it was told already");
        assert_eq!(names(&[xid(9, Action::RestartApplication)], &there, &well), [""; 0]);
    }
}
