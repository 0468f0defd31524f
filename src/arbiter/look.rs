//! What is, in the words of the plan and of a switch. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::explore::{LONG, Trial};
use super::switch::{Card, Life, Seen, Switch};
use super::tenants::Left;
use super::yields::{Known, Yields};
use crate::config::PlanConfig;
use crate::gpu::config::{GpuConfig, NONE};
use crate::gpu::wire::Code;
use crate::gpu::{Gpu, Presence};
use crate::payload::lifecycle::Phase;
use crate::payload::supervisor::Status;
use crate::payload::{Hold, Terms};
use crate::plan::{Inputs, Lease, MOST, Payload, Yield};
use crate::reading::Missing;
use crate::setpoint::Setpoints;
use crate::sorted;
use crate::units::{Mebibytes, MicroPerKilowattHour};

/// Everything that the arbiter goes by, as of one moment.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The configuration's word.
    pub config: &'a PlanConfig,
    /// Which profile each GPU has without a payload.
    pub profiles: &'a GpuConfig,
    /// Every payload.
    pub payloads: &'a [Status],
    /// Every GPU.
    pub gpus: &'a [Gpu],
    /// Prices, leases, maintenance.
    pub setpoints: &'a Setpoints,
    /// What was learnt.
    pub yields: &'a Yields,
    /// Payloads that failed when it was their turn, and until when they are left out, since boot.
    pub bars: &'a BTreeMap<String, (u32, Duration)>,
    /// What tenants leave, or may have left, by payload.
    pub left: &'a BTreeMap<String, Left>,
    /// Why that could not be removed, by payload.
    pub unwiped: &'a BTreeMap<String, String>,
    /// What is under way.
    pub switches: &'a [Switch],
    /// What is tried.
    pub trial: Option<&'a Trial>,
    /// Whether a process of this number is there.
    pub alive: &'a dyn Fn(u32) -> bool,
    /// Now, ms since 1970, and whether that is known to be right.
    pub unix_ms: (u64, bool),
    /// Minute of the local day.
    pub minute: u16,
    /// Now, since boot.
    pub now: Duration,
}

/// The plan's inputs, owned.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// What may run.
    pub payloads: Vec<Payload>,
    /// The GPUs, by UUID; an index is the plan's.
    pub uuids: Vec<String>,
    /// What each has, or will have when what is under way is done.
    pub current: Vec<Option<usize>>,
    /// By payload: it works for so long that it would have been measured, if it could be.
    pub settled: Vec<bool>,
    /// By payload, then by GPU.
    pub yields: Vec<Vec<Option<Yield>>>,
    /// Where each of these is from.
    pub known: Vec<Vec<Option<Known>>>,
    /// What energy costs now.
    pub energy: MicroPerKilowattHour,
}

/// Nothing of this payload runs, or nobody knows of one of this name.
pub(super) fn rests(payloads: &[Status], name: &str) -> bool {
    payloads.iter().find(|status| status.name == name).is_none_or(|status| status.phase.is_at_rest())
}

impl Facts<'_> {
    /// Whether every payload's past is known. Before that nothing is at rest.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.payloads.iter().all(|status| status.known)
    }

    /// It may be planned for.
    #[must_use]
    pub fn plannable(&self, status: &Status) -> bool {
        let barred = self.bars.get(&status.name).is_some_and(|(_, until)| self.now < *until);
        let given_up = matches!(status.phase, Phase::Failed(_) | Phase::Quarantined) || status.held.is_some();
        let taken_out = status.removed || status.out || status.hold >= Hold::Drain;
        status.plan.is_some() && !taken_out && !given_up && !barred && !self.is_to_be_wiped(&status.name)
    }

    /// It is at rest and in no switch, and what is private of it is not gone.
    #[must_use]
    pub fn is_to_be_wiped(&self, name: &str) -> bool {
        self.left.contains_key(name)
            && rests(self.payloads, name)
            && !self.switches.iter().any(|switch| switch.has(name))
    }

    fn owner(&self, uuid: &str) -> Option<&Status> {
        self.payloads.iter().find(|status| !status.phase.is_at_rest() && status.gpus.iter().any(|own| own == uuid))
    }

    fn card(&self, gpu: &Gpu, uuid: &str) -> Card {
        let sample = gpu.sample.as_ref().ok().filter(|_| gpu.presence == Presence::Seen);
        let empty = sample.is_some_and(|sample| match sample.memory_used {
            Ok(used) => used <= self.config.free,
            // Then its processes alone have to do.
            Err(code) => code == Code::NOT_SUPPORTED,
        });
        let nobody = match &gpu.processes {
            Ok(processes) => !processes.iter().any(|process| (self.alive)(process.pid)),
            // Then its memory alone has to do.
            Err(Missing::NotPresent) => sample.is_some_and(|sample| sample.memory_used.is_ok()),
            // A question without an answer is no proof.
            Err(_) => false,
        };
        let own = match self.setpoints.profile(uuid) {
            Some(NONE) => None,
            Some(name) => Some(name.to_owned()),
            None => self.profiles.wanted(uuid, gpu.pci).map(|profile| profile.name.clone()),
        };
        Card {
            there: sample.is_some(),
            free: empty && nobody && self.owner(uuid).is_none(),
            private: self.private(uuid),
            profile: gpu.profile.name.as_deref().map(str::to_owned),
            own,
            resetting: gpu.profile.phase == crate::gpu::Phase::RollingBack,
        }
    }

    /// Whoever is at rest and has left something private that keeps this GPU from all others.
    fn private(&self, uuid: &str) -> Vec<String> {
        let has =
            |(name, left): &(&String, &Left)| left.gpus.iter().any(|own| own == uuid) && rests(self.payloads, name);
        self.left.iter().filter(has).map(|(name, _)| name.clone()).collect()
    }

    /// What keeps every payload from this GPU; none where nothing does, or where one has it.
    #[must_use]
    pub fn taken(&self, uuid: &str) -> Option<String> {
        let gpu = self.gpus.iter().find(|gpu| gpu.has(uuid))?;
        let card = self.card(gpu, uuid);
        let process = || gpu.processes.iter().flatten().find(|process| (self.alive)(process.pid));
        let used = || gpu.sample.as_ref().ok()?.memory_used.ok();
        if !card.private.is_empty() {
            let names = card.private.join(", ");
            Some(format!("not free: what is private of {names} is not removed yet"))
        } else if card.free || self.owner(uuid).is_some() {
            None
        } else if !card.there {
            Some("does not answer".to_owned())
        } else if let Some(process) = process() {
            Some(format!("not free: process {} is on it, and no payload", process.pid))
        } else if let Err(missing) = &gpu.processes {
            Some(format!("not free: what runs on it is not known: {missing}"))
        } else {
            used().map(|used| format!("not free: {} MiB are in use, and no payload is on it", used.0))
        }
    }

    /// As a switch sees it; `looked` is when the GPUs were.
    #[must_use]
    pub fn seen(&self, looked: Duration) -> Seen {
        let payloads = self.payloads.iter().filter_map(|status| Some((status, status.plan.as_ref()?)));
        let life = |(status, terms): (&Status, &Arc<Terms>)| {
            let works = matches!(status.phase, Phase::Warming | Phase::Running | Phase::Degraded);
            let life = Life {
                rest: status.phase.is_at_rest(),
                ending: matches!(status.phase, Phase::Draining { .. }),
                healthy: works.then_some(status.since),
                failed: matches!(status.phase, Phase::Failed(_) | Phase::Quarantined | Phase::BackingOff { .. }),
                restarts: status.restarts,
                barred: status.out || status.removed || status.held.is_some(),
                times: [terms.grace, terms.startup],
                profile: status.profile.clone(),
            };
            (status.name.clone(), life)
        };
        let device = |gpu: &Gpu| {
            let uuid = gpu.device.as_ref()?.uuid.clone();
            Some((uuid.clone(), self.card(gpu, &uuid)))
        };
        let left = |name: &String| (name.clone(), self.unwiped.contains_key(name));
        Seen {
            payloads: sorted::map(payloads.map(life)),
            cards: sorted::map(self.gpus.iter().filter_map(device)),
            looked,
            left: self.left.keys().map(left).collect(),
        }
    }

    /// What a unit of this payload's work is worth, and what energy costs, now.
    fn market(&self) -> Option<&crate::wire::Market> {
        let (now_ms, known) = self.unix_ms;
        self.setpoints.market().map(AsRef::as_ref).filter(|market| known && now_ms < market.until_ms)
    }

    /// The lease that rules it now, of those that are not over the one that goes first.
    fn lease(&self, name: &str) -> Option<Lease> {
        let lead = u64::try_from(self.config.lead.as_millis()).unwrap_or(0);
        let (now, known) = self.unix_ms;
        let leases = self.setpoints.market().into_iter().flat_map(|market| &market.leases);
        // A clock that may be wrong begins no lease and ends none.
        let runs = !known && !rests(self.payloads, name);
        let due = leases.filter(|lease| {
            let now = known && lease.from_ms <= now.saturating_add(lead) && now < lease.to_ms;
            lease.payload == name && (now || runs)
        });
        let first = due.min_by_key(|lease| (std::cmp::Reverse(lease.priority), lease.from_ms))?;
        let (from_ms, to_ms) = if known { (first.from_ms, first.to_ms) } else { (0, u64::MAX) };
        Some(Lease { from_ms, to_ms, priority: first.priority.into() })
    }

    /// As the plan sees it.
    #[must_use]
    pub fn draft(&self) -> Draft {
        let statuses: Vec<&Status> = self.payloads.iter().filter(|status| self.plannable(status)).take(MOST).collect();
        let index = |name: &str| statuses.iter().position(|status| status.name == name);
        let gpus: Vec<_> = self.gpus.iter().filter_map(|gpu| Some((gpu, gpu.device.as_ref()?))).take(MOST).collect();
        let cards: Vec<Card> = gpus.iter().map(|(gpu, device)| self.card(gpu, &device.uuid)).collect();
        let switching = |uuid: &String| self.switches.iter().find(|switch| switch.gpus().any(|gpu| gpu == uuid));
        let current = gpus.iter().map(|(_, device)| match switching(&device.uuid) {
            Some(switch) => {
                let share = switch.coming().iter().find(|share| share.gpus.contains(&device.uuid))?;
                index(&share.payload)
            }
            None => index(&self.owner(&device.uuid)?.name),
        });
        let current: Vec<Option<usize>> = current.collect();
        let market = self.market();
        let payload = |(at, status): (usize, &&Status)| {
            let terms = status.plan.as_ref()?;
            let busy = self.switches.iter().any(|switch| switch.has(&status.name));
            let mut fits = 0_u64;
            for (gpu, ((_, device), card)) in gpus.iter().zip(&cards).enumerate() {
                let memory = device.memory.map_or(Mebibytes(0), |memory| memory);
                let wanted = terms.uuids.is_empty() || terms.uuids.contains(&device.uuid);
                let has = current.get(gpu) == Some(&Some(at));
                let open = match switching(&device.uuid) {
                    // What is under way is left to its end.
                    Some(_) => has,
                    None if busy => has,
                    None => (card.free && card.private.is_empty()) || current.get(gpu).is_some_and(Option::is_some),
                };
                if card.there | (busy && has) && wanted && memory.0 >= terms.min_vram_mib && open {
                    fits |= 1 << gpu;
                }
            }
            let told = market.and_then(|market| market.values.iter().find(|value| value.payload == status.name));
            let mut payload = Payload {
                name: status.name.clone(),
                lease: self.lease(&status.name),
                most: terms.plan.most_gpus,
                fits,
                hours: terms.plan.hours,
                value: told.map_or(terms.plan.value, |told| told.value),
                switch: self.yields.switch(&status.name, terms.plan.lost_milli),
            };
            let lease = payload.lease.is_some();
            if let Some(trial) = self.trial.filter(|trial| trial.payload == payload.name && !lease) {
                let at = gpus.iter().position(|(_, device)| device.uuid == trial.uuid);
                payload.fits &= at.map_or(0, |at| 1 << at);
                payload.most = 1;
                // Whoever was promised something goes first.
                payload.lease = Some(Lease { from_ms: 0, to_ms: u64::MAX, priority: -1 });
            }
            Some(payload)
        };
        let payloads: Vec<Payload> = statuses.iter().enumerate().filter_map(payload).collect();
        let known = |status: &&Status| -> Vec<Option<(Yield, Known)>> {
            let guess = status.plan.as_ref().and_then(|terms| terms.plan.guess);
            let on = |at: usize| {
                let (_, device) = gpus.get(at)?;
                let alike = gpus.iter().filter(|(_, other)| other.name == device.name && other.memory == device.memory);
                let found = self.yields.on(&status.name, &device.uuid, alike.map(|(_, other)| other.uuid.as_str()));
                found.or_else(|| Some((guess?, Known::Guessed)))
            };
            (0..gpus.len()).map(on).collect()
        };
        let settled = |status: &&Status| {
            let works = matches!(status.phase, Phase::Running | Phase::Degraded);
            let long = |terms: &Arc<Terms>| self.now.saturating_sub(status.since) >= terms.warmup + LONG;
            works && status.plan.as_ref().is_some_and(long)
        };
        let figures: Vec<_> = statuses.iter().map(known).collect();
        Draft {
            yields: figures.iter().map(|all| all.iter().map(|one| one.map(|(found, _)| found)).collect()).collect(),
            known: figures.iter().map(|all| all.iter().map(|one| one.map(|(_, known)| known)).collect()).collect(),
            settled: statuses.iter().map(settled).collect(),
            payloads,
            uuids: gpus.iter().map(|(_, device)| device.uuid.clone()).collect(),
            current,
            energy: market.and_then(|market| market.energy).unwrap_or(self.config.energy),
        }
    }

    /// The plan's inputs from a draft.
    #[must_use]
    pub fn inputs<'b>(&self, draft: &'b Draft) -> Inputs<'b> {
        Inputs {
            now_ms: self.unix_ms.0,
            minute: self.minute,
            payloads: &draft.payloads,
            current: &draft.current,
            yields: &draft.yields,
            idle: self.config.idle,
            energy: draft.energy,
            horizon: self.config.horizon,
            stickiness: self.config.stickiness,
            lead: self.config.lead,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
