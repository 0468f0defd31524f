//! What whoever plans has to know of a payload: a part of its manifest that everybody may see.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::manifest::{Manifest, Planned};

/// For a start that is no probe's business.
const STARTUP: Duration = Duration::from_secs(30);

/// What a planned payload asks and offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What the plan goes by.
    pub plan: Planned,
    /// It runs on these GPUs only; any where there is none.
    pub uuids: Vec<String>,
    /// Memory that each must have, MiB.
    pub min_vram_mib: u32,
    /// How long it may take to end.
    pub grace: Duration,
    /// How long it may take until it is healthy.
    pub startup: Duration,
    /// Its rates before that are not believed.
    pub warmup: Duration,
    /// What goes when it leaves its GPUs; none where it is not a tenant's.
    pub private: Option<PathBuf>,
}

impl Terms {
    /// Those of this manifest; none where it is not planned for. `home` is its directory in the agent's state.
    pub(super) fn of(manifest: &Manifest, home: &Path) -> Option<Self> {
        let state = || manifest.state_directory.clone().unwrap_or_else(|| home.join("state"));
        Some(Self {
            plan: manifest.plan?,
            uuids: manifest.gpus.uuids.clone(),
            min_vram_mib: manifest.gpus.min_vram_mib,
            grace: manifest.stop.grace,
            startup: manifest.probe.as_ref().map_or(STARTUP, |probe| probe.startup),
            warmup: manifest.expect.as_ref().map_or(Duration::ZERO, |expect| expect.warmup),
            private: manifest.tenant.then(|| state().join("private")),
        })
    }
}
