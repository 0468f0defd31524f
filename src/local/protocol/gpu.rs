//! GPUs, as the socket shows them.

use serde::{Deserialize, Serialize};

use crate::gpu::Driver;
use crate::reading::{Snapshot, Zone};
use crate::units::Megahertz;
use crate::wire;

/// How it stands with the GPUs' driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// Whether it answers.
    pub driver: Driver,
    /// Its version, while it answers.
    pub version: Option<String>,
    /// How many GPUs follow.
    pub count: usize,
}

/// One GPU, in the words of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// What does not change.
    pub info: wire::GpuInfo,
    /// What every telemetry message says.
    pub now: wire::Gpu,
    /// The rest.
    pub more: wire::GpuDetail,
    /// Each of its performance states with its memory clock, MHz, the fastest first; none where it does not tell.
    #[serde(default)]
    pub memory_clocks: Vec<(u8, Megahertz)>,
}

impl Gpu {
    /// GPU number `index` of a snapshot.
    pub(in crate::local) fn new(index: usize, snapshot: &Snapshot) -> Option<Self> {
        let gpu = snapshot.gpus.gpus.get(index)?;
        let air = snapshot.gpu_air.get(index).copied().unwrap_or(Zone::NONE);
        Some(Self {
            info: wire::GpuInfo::new(gpu),
            now: wire::Gpu::new(gpu, air),
            more: wire::GpuDetail::new(index, gpu),
            memory_clocks: gpu.device.as_ref().and_then(|device| device.memory_clocks.clone().ok()).unwrap_or_default(),
        })
    }
}
