//! What payloads ask of the rig: GPUs, and their meters.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::manifest::{Gpus, Manifest};
use super::metering::Metering;
use super::supervisor::{Hooks, Meter, NoGrant, Payloads};
use super::{Gpu, Grant, reboot};
use crate::gpu::Presence;
use crate::reading::{Missing, Reading, Snapshot};
use crate::setpoint::Setpoints;
use crate::units::Milliwatts;

/// Device nodes that every CUDA program opens beside its card's own.
const SHARED: [&str; 4] = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

/// A GPU as far as handing it out is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Card {
    uuid: String,
    minor: Option<u32>,
    memory_mib: u32,
    /// It answers.
    usable: bool,
    /// The payload that has it.
    owner: Option<String>,
}

/// The rig as its payloads see it.
pub struct Rig {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    payloads: watch::Receiver<Arc<Payloads>>,
    setpoints: watch::Receiver<Arc<Setpoints>>,
    /// Who may restart the rig.
    reboot: mpsc::Sender<reboot::Why>,
    /// What was handed out to a payload that may not show it yet.
    promised: Mutex<BTreeMap<String, Vec<String>>>,
}

impl Rig {
    /// The rig in each tick, its payloads as they stand, and what is asked of it.
    #[must_use]
    pub fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        payloads: watch::Receiver<Arc<Payloads>>,
        setpoints: watch::Receiver<Arc<Setpoints>>,
        reboot: mpsc::Sender<reboot::Why>,
    ) -> Self {
        Self { snapshot, payloads, setpoints, reboot, promised: Mutex::default() }
    }

    fn cards(&self, promised: &BTreeMap<String, Vec<String>>) -> Vec<Card> {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let known = snapshot.gpus.gpus.iter().filter_map(|gpu| Some((gpu, gpu.device.as_ref()?)));
        let owner = |uuid: &String| promised.iter().find(|(_, gpus)| gpus.contains(uuid)).map(|(name, _)| name.clone());
        known
            .map(|(gpu, device)| Card {
                uuid: device.uuid.clone(),
                minor: device.minor.ok(),
                memory_mib: device.memory.map_or(0, |memory| memory.0),
                usable: gpu.presence == Presence::Seen,
                owner: owner(&device.uuid),
            })
            .collect()
    }
}

impl Hooks for Rig {
    fn grant(&self, manifest: &Manifest) -> Result<Grant, NoGrant> {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let payloads = Arc::clone(&self.payloads.borrow());
        // Who has left has nothing any more; who is not told of yet keeps what was promised.
        for status in &payloads.0 {
            if status.phase.is_at_rest() {
                promised.remove(&status.name);
            } else if !status.gpus.is_empty() {
                promised.insert(status.name.clone(), status.gpus.clone());
            }
        }
        promised.remove(&manifest.name);
        let cards = self.cards(&promised);
        let setpoints = Arc::clone(&self.setpoints.borrow());
        let assigned = match manifest.plan {
            // Nobody else hands out GPUs to what is planned.
            Some(_) => Some(
                setpoints
                    .given(&manifest.name)
                    .ok_or_else(|| NoGrant { why: "the plan has no GPU for it now".to_owned(), lasting: true })?,
            ),
            None => setpoints.assigned(&manifest.name),
        };
        let assigned = assigned.map(<[String]>::to_vec);
        let wanted = assigned.map(|uuids| Gpus { uuids, ..manifest.gpus.clone() });
        let chosen = choose(wanted.as_ref().unwrap_or(&manifest.gpus), &cards)?;
        promised.insert(manifest.name.clone(), chosen.iter().map(|card| card.uuid.clone()).collect());
        Ok(Grant { gpus: chosen.into_iter().map(grant).collect() })
    }

    fn resting(&self) -> bool {
        self.setpoints.borrow().maintenance().is_some()
    }

    fn power(&self, gpus: &[Gpu]) -> Reading<Milliwatts> {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let known = |uuid: &str| {
            let is = |gpu: &&crate::gpu::Gpu| gpu.has(uuid);
            snapshot.gpus.gpus.iter().find(is).ok_or(Missing::NotPresent)
        };
        if gpus.is_empty() {
            return Err(Missing::NotPresent);
        }
        gpus.iter().try_fold(Milliwatts(0), |sum, gpu| {
            let sample = known(&gpu.uuid)?.sample.as_ref().map_err(|missing| *missing)?;
            Ok(Milliwatts(sum.0.saturating_add(sample.power?.0)))
        })
    }

    fn meter(&self, manifest: &Manifest, counters: &[u64]) -> Option<Box<dyn Meter>> {
        Some(Box::new(Metering::new(manifest, counters)?))
    }

    fn quarantined(&self, manifest: &Manifest) {
        // One that waits already is enough.
        let _ = self.reboot.try_send(reboot::Why::Payload(manifest.name.clone()));
    }
}

fn grant(card: &Card) -> Gpu {
    let own = card.minor.map(|minor| PathBuf::from(format!("/dev/nvidia{minor}")));
    Gpu { uuid: card.uuid.clone(), nodes: own.into_iter().chain(SHARED.map(PathBuf::from)).collect() }
}

/// The GPUs for a payload: those that it names, or the first free ones with memory enough.
fn choose<'a>(wanted: &Gpus, cards: &'a [Card]) -> Result<Vec<&'a Card>, NoGrant> {
    let enough = |card: &Card| card.memory_mib >= wanted.min_vram_mib;
    // GPUs come back, and their owners leave; memory does not grow.
    let now = |why: String| NoGrant { why, lasting: false };
    let never = |why: String| NoGrant { why, lasting: true };
    if !wanted.uuids.is_empty() {
        let named = wanted.uuids.iter().map(|uuid| {
            let card =
                cards.iter().find(|card| card.uuid == *uuid).ok_or_else(|| now(format!("there is no GPU {uuid}")))?;
            match &card.owner {
                Some(owner) => Err(now(format!("GPU {uuid} is payload {owner}'s"))),
                None if !card.usable => Err(now(format!("GPU {uuid} does not answer"))),
                None if !enough(card) => {
                    Err(never(format!("GPU {uuid} has {} MiB and not {}", card.memory_mib, wanted.min_vram_mib)))
                }
                None => Ok(card),
            }
        });
        return named.collect();
    }
    let free = cards.iter().filter(|card| card.usable && card.owner.is_none() && enough(card));
    let chosen: Vec<&Card> = free.take(wanted.count.into()).collect();
    if chosen.len() < wanted.count.into() {
        let memory = if wanted.min_vram_mib > 0 { format!(" with {} MiB", wanted.min_vram_mib) } else { String::new() };
        return Err(now(format!("it needs {} GPUs{memory}, and {} are free", wanted.count, chosen.len())));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(number: u32, memory_mib: u32, usable: bool, owner: Option<&str>) -> Card {
        Card { uuid: format!("GPU-{number}"), minor: Some(number), memory_mib, usable, owner: owner.map(str::to_owned) }
    }

    #[test]
    fn gpus_go_to_who_names_them_or_to_who_comes_first() {
        let cards = [
            card(0, 8_000, true, Some("miner")),
            card(1, 8_000, false, None),
            card(2, 8_000, true, None),
            card(3, 24_000, true, None),
        ];
        let any = |count, min_vram_mib| Gpus { count, min_vram_mib, ..Gpus::default() };
        let named = |uuids: &[&str]| Gpus {
            count: 1,
            uuids: uuids.iter().map(|uuid| (*uuid).to_owned()).collect(),
            min_vram_mib: 10_000,
            profile: None,
        };
        for (wanted, expected) in [
            (any(0, 0), Ok(vec![])),
            (any(1, 0), Ok(vec!["GPU-2"])),
            (any(2, 0), Ok(vec!["GPU-2", "GPU-3"])),
            (any(1, 10_000), Ok(vec!["GPU-3"])),
            (any(3, 0), Err("it needs 3 GPUs, and 2 are free")),
            (any(2, 10_000), Err("it needs 2 GPUs with 10000 MiB, and 1 are free")),
            (named(&["GPU-3"]), Ok(vec!["GPU-3"])),
            (named(&["GPU-0"]), Err("GPU GPU-0 is payload miner's")),
            (named(&["GPU-1"]), Err("GPU GPU-1 does not answer")),
            (named(&["GPU-2"]), Err("GPU GPU-2 has 8000 MiB and not 10000")),
            (named(&["GPU-9"]), Err("there is no GPU GPU-9")),
        ] {
            let chosen = choose(&wanted, &cards);
            let uuids = chosen.map(|cards| cards.iter().map(|card| card.uuid.as_str()).collect::<Vec<_>>());
            assert_eq!(uuids.map_err(|no| no.why), expected.map_err(str::to_owned), "{wanted:?}");
        }
    }

    #[test]
    fn power_is_the_sum_of_its_cards_and_unknown_where_one_is() {
        use crate::gpu::plan::tests::{card as device, sample};
        let gpu = |number: u32, watts: Option<u32>| {
            let device = crate::gpu::wire::Device { uuid: format!("GPU-{number}"), ..device() };
            let told =
                |watts| Arc::new(crate::gpu::wire::Sample { power: Ok(Milliwatts(watts)), ..sample(1_500, 99, 0) });
            let sample = watts.map(told).ok_or(Missing::Stale);
            let pci = device.pci;
            crate::gpu::Gpu { device: Some(Arc::new(device)), sample, ..crate::gpu::Gpu::unseen(pci) }
        };
        let gpus = vec![gpu(0, Some(250_000)), gpu(1, Some(199_500)), gpu(2, None)];
        let gpus = Arc::new(crate::gpu::GpuSnapshot { gpus, ..Default::default() });
        let (_snapshots, snapshot) = watch::channel(Arc::new(Snapshot { gpus, ..Snapshot::default() }));
        let (_known, payloads) = watch::channel(Arc::default());
        let board = Arc::new(crate::board::Board::load("simulated-8gpu").unwrap());
        let (_asked, setpoints) = watch::channel(Arc::new(Setpoints::none(board)));
        let rig = Rig::new(snapshot, payloads, setpoints, mpsc::channel(1).0);
        for (gpus, expected) in [
            (vec![], Err(Missing::NotPresent)),
            (vec![0], Ok(Milliwatts(250_000))),
            (vec![0, 1], Ok(Milliwatts(449_500))),
            (vec![0, 2], Err(Missing::Stale)),
            (vec![1, 7], Err(Missing::NotPresent)),
        ] {
            let granted = gpus.iter().map(|number| grant(&card(*number, 0, true, None))).collect::<Vec<_>>();
            assert_eq!(rig.power(&granted), expected, "{gpus:?}");
        }
    }

    #[test]
    fn a_card_brings_its_own_node_and_those_that_all_share() {
        let nodes = grant(&card(3, 0, true, None)).nodes;
        assert_eq!(nodes.first(), Some(&PathBuf::from("/dev/nvidia3")));
        assert!(nodes.contains(&PathBuf::from("/dev/nvidiactl")) && nodes.len() == 5);
    }
}
