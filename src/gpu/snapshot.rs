//! What is known of the GPUs: of the driver, of each card, and in words.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::wire::{self, Device, PciAddress, Process, Sample, Versions};
use crate::board;
use crate::reading::{Missing, Reading};
use crate::units::{Millicelsius, Milliwatts};

/// What the GPU thread found in its last pass.
#[derive(Clone, Debug, Default)]
pub struct GpuSnapshot {
    /// When the pass ended; `None` before the first one.
    pub taken: Option<Instant>,
    /// How it stands with the driver.
    pub driver: Driver,
    /// What the helper loaded, while it is up.
    pub versions: Option<Arc<Versions>>,
    /// The GPUs in the order in which they were first seen: an index stays that of one GPU while the agent runs.
    pub gpus: Vec<Gpu>,
}

/// How it stands with the driver. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// No NVIDIA GPU in the machine: nobody asks for it.
    #[default]
    None,
    /// Being brought up, which takes up to a minute and a half.
    Starting,
    /// Answering.
    Up,
    /// Not to be had now, and tried again: the number is NVML's code, 0 where the helper itself failed.
    Down(u32),
    /// Library and kernel module are of two versions: a reboot is needed.
    Mismatch,
    /// Hung: a helper could not be ended. A reboot is needed.
    Hung,
    /// Let go of on request, so that somebody may reset a GPU.
    Released,
}

/// One GPU.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Where it sits.
    pub pci: PciAddress,
    /// What does not change; none before NVML has seen it.
    pub device: Option<Arc<Device>>,
    /// Whether it is there.
    pub presence: Presence,
    /// What changes.
    pub sample: Reading<Arc<Sample>>,
    /// Most PCIe lanes that it was seen with since the agent's start.
    pub widest: Option<u8>,
    /// The fan rule of the profile in force, as a zone of its own; none leaves its fans to the driver.
    pub air: Option<Arc<board::Zone>>,
    /// What runs on it, as of some seconds ago; [`Missing::NotPresent`] where its driver does not tell.
    pub processes: Reading<Vec<Process>>,
    /// Where its profile stands.
    pub profile: ProfileNow,
    /// Xids since the agent's start.
    pub xids: u32,
    /// The last one.
    pub last_xid: Option<u64>,
}

/// Whether a GPU is there. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// On the PCI bus; NVML was not asked yet.
    #[default]
    Unseen,
    /// Answering.
    Seen,
    /// Fallen off the bus, or gone from it.
    Lost,
    /// Calls about it do not come back: it is not asked any more.
    Hung,
    /// On the PCI bus, but NVML does not list it.
    Unlisted,
}

/// Where a GPU's profile stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileNow {
    /// The profile in force, or on its way to that; none is the driver's defaults.
    pub name: Option<Arc<str>>,
    /// How far it is.
    pub phase: Phase,
    /// How many profiles are quarantined on it.
    pub quarantined: u16,
    /// The power limit that it has while nothing holds it back, where that is known.
    pub limit: Option<Milliwatts>,
}

/// How far a profile is. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// None: the driver's defaults.
    #[default]
    Default,
    /// Being applied and read back.
    Applying,
    /// Applied, and on probation.
    Probation,
    /// It has held.
    Committed,
    /// Being taken back.
    RollingBack,
}

impl Gpu {
    /// A GPU that is on the PCI bus, and nothing else is known.
    #[must_use]
    pub fn unseen(pci: PciAddress) -> Self {
        Self {
            pci,
            device: None,
            presence: Presence::Unseen,
            sample: Err(Missing::NotPresent),
            widest: None,
            air: None,
            processes: Err(Missing::Stale),
            profile: ProfileNow::default(),
            xids: 0,
            last_xid: None,
        }
    }

    /// It is the one of this UUID.
    #[must_use]
    pub fn has(&self, uuid: &str) -> bool {
        self.device.as_ref().is_some_and(|device| device.uuid == uuid)
    }

    /// Its temperature, where it tells one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn temperature(&self) -> Reading<Millicelsius> {
        self.sample.as_ref().map_err(|missing| *missing)?.temperature.map_err(Missing::from)
    }
}

impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unseen => "not asked yet",
            Self::Seen => "answers",
            Self::Lost => "lost from the bus",
            Self::Hung => "takes the driver along when it is asked: left alone",
            Self::Unlisted => "on the bus, and the driver does not list it",
        })
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no GPUs"),
            Self::Starting => f.write_str("being brought up"),
            Self::Up => f.write_str("up"),
            Self::Down(0) => f.write_str("its helper does not run"),
            Self::Down(code) => wire::Code(*code).fmt(f),
            Self::Mismatch => f.write_str("library and kernel module are of two versions, reboot needed"),
            Self::Hung => f.write_str("driver hung, reboot needed"),
            Self::Released => f.write_str("let go of"),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "the driver's defaults",
            Self::Applying => "being applied",
            Self::Probation => "on probation",
            Self::Committed => "committed",
            Self::RollingBack => "being taken back",
        })
    }
}

/// `nvmlClocksEventReason…` of nvml.h, by bit.
const REASONS: [(u64, &str); 11] = [
    (0x1, "idle"),
    (0x2, "application clocks"),
    (0x4, "power limit"),
    (0x8, "hardware slowdown"),
    (0x10, "sync boost"),
    (0x20, "heat"),
    (0x40, "hardware heat slowdown"),
    (0x80, "power brake"),
    (0x100, "display clocks"),
    (0x200, "board limit"),
    (0x400, "reliability"),
];

/// What holds a GPU's clocks back, in words.
#[must_use]
pub fn reasons(bits: i64) -> Vec<String> {
    let bits = u64::from_ne_bytes(bits.to_ne_bytes());
    let known = REASONS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned());
    let all = REASONS.iter().fold(0, |all, (bit, _)| all | bit);
    let unknown = (bits & !all != 0).then(|| format!("unknown {:#x}", bits & !all));
    let mut named: Vec<String> = known.chain(unknown).collect();
    if named.is_empty() {
        named.push("nothing".to_owned());
    }
    named
}
