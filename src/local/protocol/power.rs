//! What holds the rig's power back, as the socket shows it.

use serde::{Deserialize, Serialize};

use crate::reading::{Snapshot, Zone};
use crate::units::{Megahertz, Milliwatts};
use crate::wire::{self, Value};

/// What holds the rig's power back, as of the last tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerHeld {
    /// The cap that holds; none where nothing is held back.
    pub now: Option<wire::PowerNow>,
    /// Drawn at the inputs of all supplies together.
    pub meter: Value<Milliwatts>,
    /// Each GPU.
    pub gpus: Vec<GpuHeld>,
}

/// What holds a GPU back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuHeld {
    /// Where it sits.
    pub pci: String,
    /// What it draws.
    pub power: Value<Milliwatts>,
    /// Its highest power limit; none leaves that of its profile.
    pub limit: Option<Milliwatts>,
    /// Its highest core clock; none leaves that of its profile.
    pub clock: Option<Megahertz>,
    /// How far it is held back, and why.
    pub rungs: wire::Rungs,
}

impl PowerHeld {
    /// Of a snapshot.
    pub(in crate::local) fn new(snapshot: &Snapshot) -> Self {
        let gpus = snapshot.gpus.gpus.iter().zip(&snapshot.restraint.gpus).map(|(gpu, held)| GpuHeld {
            pci: gpu.pci.to_string(),
            power: wire::Gpu::new(gpu, Zone::NONE).power,
            limit: held.limits.power,
            clock: held.limits.clock,
            rungs: wire::Rungs::new(held),
        });
        Self { now: wire::PowerNow::new(&snapshot.restraint), meter: Value(snapshot.input()), gpus: gpus.collect() }
    }
}
