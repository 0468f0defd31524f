//! Brings the desired state about: compares it with what is, gives the orders that are missing, and says how near the rig is.
//!
//! ```text
//! frame ── verify, accept, keep on the disk ── Desired ──┐ every 5 s, and at once with a new one
//! snapshot, payloads, setpoints ── Actual ── plan ───────┴─ orders ── Actor      Reported ── publisher
//! ```

use std::sync::Arc;

use log::{info, warn};

use crate::command::act::Actor;
use crate::command::trust::Trust;
use crate::command::verify::{self, Me, Received, Refused};
use crate::control::step::power::Source;
use crate::desired::{
    Actual, ActualGpu, ActualPayload, Effective, Kept, Known, Moment, Plan, Store, Taken, accept, effective, plan,
    report, unserved,
};
use crate::gpu::{Gpu, Phase};
use crate::payload::supervisor::{Payloads, Status};
use crate::wire::{
    Desired, FanTarget, KeyId, Message, Order, PayloadAct, Refusal, RefusedRevision, Reported, Signed, decode_to_a_rig,
};

/// The state in force, as the disk has it.
#[derive(Debug, Default)]
pub(super) struct InForce {
    kept: Kept,
    pub(super) desired: Option<Arc<Desired>>,
    /// The last one that was not taken.
    pub(super) refused: Option<RefusedRevision>,
}

impl InForce {
    /// What the last start had. A file that cannot be read, or that nobody who is trusted now has signed, is told.
    pub(super) fn load(store: &Store, trust: &Trust, me: &Me) -> Self {
        let kept = store.load().unwrap_or_else(|error| {
            warn!("the rig goes on without a desired state: desired.bin: {error}");
            Kept::default()
        });
        let desired = kept.desired(trust, me).unwrap_or_else(|refused| {
            warn!("the rig goes on without a desired state: {}", refused.refusal);
            None
        });
        Self { kept, desired: desired.map(Arc::new), refused: None }
    }

    /// Takes a state that came, or refuses it whole; whether something changed, and whose signatures were good. Waits for the disk.
    pub(super) fn take(
        &mut self,
        store: &Store,
        received: &Received<'_>,
        judge: (&Trust, &Me, Option<u64>),
        known: &Known,
    ) -> (Vec<KeyId>, Result<bool, String>) {
        let (trust, me, unix_ms) = judge;
        match verify::desired(received, trust, me, unix_ms, true) {
            Ok((candidate, keys)) => (keys, self.candidate(store, received, candidate, known)),
            Err(Refused { keys, refusal, .. }) => {
                let reason = refusal.to_string();
                // Whoever signs with a key that is known is told why it is not taken. Of strangers, of states of other rigs, and of
                // one that was taken before and comes again when its time is over, nothing is said.
                if !keys.is_empty()
                    && refusal != Refusal::WrongAudience
                    && let Some(revision) = revision(received).filter(|revision| *revision > self.kept.revision)
                {
                    self.refused = Some(RefusedRevision { revision, reason: reason.clone() });
                }
                (keys, Err(reason))
            }
        }
    }

    fn candidate(
        &mut self,
        store: &Store,
        received: &Received<'_>,
        candidate: Desired,
        known: &Known,
    ) -> Result<bool, String> {
        match accept(self.desired.as_deref(), self.kept.revision, &candidate, known) {
            Ok(Taken::Same) => Ok(false),
            Ok(Taken::New) => {
                let kept = Kept {
                    revision: candidate.revision,
                    topic: received.topic.to_owned(),
                    frame: received.frame.to_vec(),
                };
                // What a restart would forget is not in force.
                store.save(&kept).map_err(|error| format!("desired.bin: {error}"))?;
                info!("desired state: revision {} is in force", kept.revision);
                (self.kept, self.desired, self.refused) = (kept, Some(Arc::new(candidate)), None);
                Ok(true)
            }
            Err(refused) => {
                warn!("desired state: revision {} is refused: {}", refused.revision, refused.reason);
                let text = refused.reason.clone();
                self.refused = Some(refused);
                Err(text)
            }
        }
    }
}

/// The number of a desired state of which the signature was seen to be good.
fn revision(received: &Received<'_>) -> Option<u64> {
    match decode_to_a_rig(Signed::parse(received.frame).ok()?.message) {
        Ok((_, Message::Desired(desired))) => Some(desired.revision),
        Ok(_) | Err(_) => None,
    }
}

/// Names that this rig knows.
pub(super) fn known(actor: &Actor) -> Known {
    let uuids = |gpu: &Gpu| gpu.device.as_ref().map(|device| device.uuid.clone());
    Known {
        payloads: actor.payloads.borrow().0.iter().map(|status| status.name.clone()).collect(),
        profiles: actor.setpoints.profiles().to_vec(),
        gpus: actor.snapshot.borrow().gpus.gpus.iter().filter_map(uuids).collect(),
        zones: actor.board.zones.iter().map(|zone| zone.name.clone()).collect(),
        power_cap: true,
    }
}

/// One look: what is missing, and what is to be reported.
pub(super) fn look(
    desired: Option<&Desired>,
    refused: Option<RefusedRevision>,
    actor: &Actor,
    now: &Moment,
) -> (Plan, Reported) {
    actor.setpoints.set_market(desired.and_then(|desired| desired.market.as_ref()));
    let Some(desired) = desired else {
        return (Plan::default(), report(None, refused, None, &Plan::default(), now.unix_ms));
    };
    let mut effective = effective(desired, now);
    let put_out = planned(&mut effective, &actor.payloads.borrow());
    let actual = actual(actor, &mut effective);
    let mut plan = plan(&effective, &actual);
    plan.orders.extend(put_out);
    if let Some(market) = &desired.market {
        unserved(market, now.unix_ms, &actor.plan.borrow(), &mut plan);
    }
    let reported = report(Some(desired), refused, Some(&effective), &plan, now.unix_ms);
    (plan, reported)
}

/// What is planned for runs when the plan says so: to want it to run is to want it in the plan. What shall not run and is in the
/// plan, at rest for now, is told to stay out of it.
fn planned(effective: &mut Effective, payloads: &Payloads) -> Vec<Order> {
    let status = |name: &str| payloads.0.iter().find(|status| status.name == name && status.plan.is_some());
    effective.payloads.retain(|wanted| !(wanted.run && status(&wanted.name).is_some_and(|status| !status.out)));
    let in_plan = |status: &Status| !status.out && status.phase.is_at_rest();
    let unwanted = effective.payloads.iter().filter(|wanted| !wanted.run && status(&wanted.name).is_some_and(in_plan));
    unwanted.map(|wanted| Order::Payload { name: wanted.name.clone(), act: PayloadAct::Stop }).collect()
}

/// What is. A maintenance that somebody else began goes before what is desired: its payloads rest until that one ends it.
fn actual(actor: &Actor, effective: &mut Effective) -> Actual {
    let setpoints = actor.setpoints.now();
    let somebody = setpoints.maintenance().is_some_and(|maintenance| !maintenance.desired);
    if somebody {
        effective.maintenance = true;
        effective.payloads.iter_mut().for_each(|payload| payload.run = false);
    }
    let (known, snapshot) = (Arc::clone(&actor.payloads.borrow()), Arc::clone(&actor.snapshot.borrow()));
    let payloads = known.0.iter().map(|status| ActualPayload {
        name: status.name.clone(),
        phase: status.phase.into(),
        assigned: setpoints.assigned(&status.name).map(<[String]>::to_vec),
    });
    let gpus = snapshot.gpus.gpus.iter().filter_map(|gpu| {
        let uuid = gpu.device.as_ref()?.uuid.clone();
        let told = setpoints.profile(&uuid).map(str::to_owned);
        Some(actual_gpu(uuid, told, gpu))
    });
    let fan_targets =
        setpoints.targets().map(|(zone, target)| FanTarget { zone: zone.to_owned(), target_mc: Some(target) });
    Actual {
        payloads: payloads.collect(),
        gpus: gpus.collect(),
        power_caps: setpoints.asked(Source::Schedule),
        fan_targets: fan_targets.collect(),
        maintenance: setpoints.maintenance().is_some(),
    }
}

/// How far a GPU is with the profile that it was told to have.
fn actual_gpu(uuid: String, told: Option<String>, gpu: &Gpu) -> ActualGpu {
    let now = &gpu.profile;
    let wanted = told.as_deref().filter(|name| *name != crate::gpu::config::NONE);
    let there = now.name.as_deref() == wanted;
    let changing = matches!(now.phase, Phase::Applying | Phase::RollingBack) || (!there && now.quarantined == 0);
    let failed = (!there && !changing && told.is_some())
        .then(|| "it did not hold on this GPU, and waits for somebody to clear it".to_owned());
    ActualGpu { uuid, profile: told, changing, failed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::ProfileNow;
    use crate::gpu::wire::PciAddress;

    #[test]
    fn what_is_planned_is_wanted_in_the_plan_or_out_of_it() {
        use crate::arbiter::look::tests::payload;
        use crate::payload::lifecycle::Phase;
        let of = |name: &str, out, phase| Status { out, phase, ..payload(name, 1, 1) };
        let payloads = Payloads(vec![
            of("in", false, Phase::Stopped),
            of("out", true, Phase::Stopped),
            of("works", false, Phase::Running),
            Status::of("ours"),
        ]);
        let wanted = |run| {
            let one = |name: &str| crate::wire::DesiredPayload { name: name.to_owned(), run, gpus: None };
            ["in", "out", "works", "ours"].map(one).to_vec()
        };
        for (run, left, told_out) in
            [(true, ["out", "ours"].as_slice(), None), (false, &["in", "out", "works", "ours"], Some("in"))]
        {
            let mut effective = Effective { payloads: wanted(run), ..Effective::default() };
            let orders = planned(&mut effective, &payloads);
            let names: Vec<&str> = effective.payloads.iter().map(|payload| payload.name.as_str()).collect();
            assert_eq!(names, left);
            let stop = |name: &str| Order::Payload { name: name.to_owned(), act: PayloadAct::Stop };
            assert_eq!(orders, told_out.map(stop).into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_gpu_is_there_on_its_way_or_gave_up() {
        let gpu = |name: Option<&str>, phase, quarantined| Gpu {
            profile: ProfileNow { name: name.map(Into::into), phase, quarantined, limit: None },
            ..Gpu::unseen(PciAddress { domain: 0, bus: 1, device: 0 })
        };
        for (told, gpu, changing, failed) in [
            (Some("eco"), gpu(Some("eco"), Phase::Committed, 0), false, false),
            (Some("eco"), gpu(Some("eco"), Phase::Probation, 0), false, false),
            (Some("eco"), gpu(Some("eco"), Phase::Applying, 0), true, false),
            (Some("eco"), gpu(None, Phase::Default, 0), true, false),
            (Some("eco"), gpu(None, Phase::Default, 1), false, true),
            (Some("eco"), gpu(Some("old"), Phase::Committed, 1), false, true),
            (Some("none"), gpu(None, Phase::Default, 0), false, false),
            (None, gpu(None, Phase::Default, 1), false, false),
        ] {
            let found = actual_gpu("GPU-a".to_owned(), told.map(str::to_owned), &gpu);
            assert_eq!((found.changing, found.failed.is_some()), (changing, failed), "{told:?} {:?}", gpu.profile);
        }
    }
}
