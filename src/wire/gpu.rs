//! GPUs on the wire: what does not change in the birth, what does in telemetry, the rest of it one GPU at a time.

use serde::{Deserialize, Serialize};

use super::Value;
use crate::gpu::wire::{Device, Read, Sample};
use crate::gpu::{self, Phase, Presence};
use crate::reading::{Missing, Reading, Zone as ZoneNow};
use crate::sorted;
use crate::units::{Duty, Mebibytes, Megahertz, Millicelsius, Millijoules, Milliwatts, Percent, Rpm};

/// A GPU in the birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInfo {
    /// PCI address, as `0000:01:00.0`.
    pub pci: String,
    /// NVML's identifier, `GPU-…`; empty while the driver does not tell of it.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Version of its firmware.
    pub vbios: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Memory in all, MiB.
    pub memory_mib: Option<Mebibytes>,
    /// Lowest power limit, mW.
    pub min_limit_mw: Option<Milliwatts>,
    /// Highest power limit, mW.
    pub max_limit_mw: Option<Milliwatts>,
    /// The power limit that its maker set, mW.
    pub default_limit_mw: Option<Milliwatts>,
    /// Highest SM clock, MHz.
    pub max_sm_mhz: Option<Megahertz>,
    /// Highest memory clock, MHz.
    pub max_memory_mhz: Option<Megahertz>,
    /// It slows down from here on, m°C.
    pub slowdown_mc: Option<Millicelsius>,
    /// Fans.
    pub fans: u8,
    /// Highest PCIe generation of card and slot.
    pub pcie_max_generation: Option<u8>,
    /// Most PCIe lanes of card and slot.
    pub pcie_max_width: Option<u8>,
    /// What it can tell and be told, as probed.
    pub capabilities: Vec<Capability>,
}

/// Something that a GPU can tell or be told. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Tells its temperature.
    Temperature,
    /// Tells how far it is from slowing down.
    Margin,
    /// Tells its memory's temperature.
    MemoryTemperature,
    /// Tells its power.
    Power,
    /// Counts its energy.
    Energy,
    /// Tells its load.
    Load,
    /// Tells why its clocks are not higher.
    Reasons,
    /// Tells its fans' speed.
    FanSpeed,
    /// Tells its PCIe link.
    PcieLink,
    /// Counts memory errors.
    Ecc,
    /// Counts remapped rows of memory.
    RemappedRows,
    /// Takes a power limit.
    PowerLimit,
    /// Takes a lock of its core clock.
    CoreLock,
    /// Takes a lock of its memory clock.
    MemoryLock,
    /// Takes a core clock offset.
    CoreOffset,
    /// Takes a memory clock offset.
    MemoryOffset,
    /// Takes a fan drive.
    FanDrive,
}

/// A GPU in every telemetry message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Whether it is there.
    pub presence: Presence,
    /// Of the chip, m°C.
    pub temperature: Value<Millicelsius>,
    /// Of its memory, m°C.
    pub memory_temperature: Value<Millicelsius>,
    /// Power, mW, averaged over about a second.
    pub power: Value<Milliwatts>,
    /// SM clock, MHz.
    pub sm_mhz: Value<Megahertz>,
    /// Memory clock, MHz.
    pub memory_mhz: Value<Megahertz>,
    /// Part of the time in which it worked, %.
    pub load: Value<Percent>,
    /// Memory in use, MiB.
    pub memory_used: Value<Mebibytes>,
    /// Intended drive of its first fan, hundredths of a percent.
    pub fan_duty: Value<Duty>,
    /// Why its clocks are not higher: the driver's bits (`nvmlClocksEventReason…`).
    pub reasons: Value<i64>,
    /// Fan drive that was ordered in this tick and why; not present where the driver has its fans.
    pub air: super::Zone,
    /// How far its profile is.
    pub profile: Phase,
}

/// The rest of one GPU; they take turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuDetail {
    /// Index into the birth's GPUs.
    pub gpu: u16,
    /// How much hotter it may get before it slows down, m°C.
    pub margin: Value<Millicelsius>,
    /// Power now, mW.
    pub power_now: Value<Milliwatts>,
    /// Energy since the driver was loaded, mJ.
    pub energy: Value<Millijoules>,
    /// Power limit as set, mW.
    pub limit: Value<Milliwatts>,
    /// Power limit that holds, mW.
    pub enforced_limit: Value<Milliwatts>,
    /// Performance state, 0 the fastest.
    pub pstate: Value<u8>,
    /// Part of the time in which memory was read or written, %.
    pub memory_load: Value<Percent>,
    /// Its fans: intended drive, and speed.
    pub fans: Vec<(Value<Duty>, Value<Rpm>)>,
    /// PCIe generation now.
    pub pcie_generation: Value<u8>,
    /// PCIe lanes now.
    pub pcie_width: Value<u8>,
    /// PCIe packets sent again since the driver was loaded.
    pub replays: Value<u32>,
    /// Memory errors: corrected, not corrected.
    pub ecc: Option<(u64, u64)>,
    /// Remapped rows: corrected, not corrected; one waits for a reset, one failed.
    pub remapped: Option<(u32, u32, bool, bool)>,
    /// What the driver asks for: 0 nothing, 1 reset, 2 reboot, 3 drain peer-to-peer, 4 drain and reset.
    pub recovery: Value<u32>,
    /// Xids since the agent's start.
    pub xids: u32,
    /// The last one.
    pub last_xid: Option<u64>,
    /// The profile in force.
    pub profile: Option<String>,
    /// Profiles that are quarantined on it.
    pub quarantined: u16,
    /// The processes on it: number, memory in MiB.
    pub processes: Vec<(u32, Value<Mebibytes>)>,
}

impl GpuInfo {
    /// What is known of it before the driver has told of it is its address.
    #[must_use]
    pub fn new(gpu: &gpu::Gpu) -> Self {
        let device = gpu.device.as_deref();
        let text = |read: fn(&Device) -> &Read<String>| device.and_then(|device| read(device).clone().ok());
        let limits = device.and_then(|device| device.limits.ok());
        Self {
            pci: gpu.pci.to_string(),
            uuid: device.map(|device| device.uuid.clone()).unwrap_or_default(),
            name: device.map(|device| device.name.clone()).unwrap_or_default(),
            vbios: text(|device| &device.vbios),
            serial: text(|device| &device.serial),
            memory_mib: device.and_then(|device| device.memory.ok()),
            min_limit_mw: limits.map(|(min, _)| min),
            max_limit_mw: limits.map(|(_, max)| max),
            default_limit_mw: device.and_then(|device| device.default_limit.ok()),
            max_sm_mhz: device.and_then(|device| device.max_sm_clock.ok()),
            max_memory_mhz: device.and_then(|device| device.max_memory_clock.ok()),
            slowdown_mc: device.and_then(|device| device.slowdown.ok()),
            fans: device.map_or(0, |device| device.fans),
            pcie_max_generation: device.and_then(|device| device.pcie_max_generation.ok()),
            pcie_max_width: device.and_then(|device| device.pcie_max_width.ok()),
            capabilities: capabilities(device, gpu.sample.as_deref().ok()),
        }
    }
}

impl GpuInfo {
    /// With what was known of it before: a GPU that is lost, or does not tell for once, is no other GPU.
    pub(super) fn after(mut self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        if self.uuid.is_empty() {
            return before;
        }
        if self.uuid == before.uuid {
            let missing = |capability: &Capability| !self.capabilities.contains(capability);
            let kept: Vec<Capability> = before.capabilities.into_iter().filter(missing).collect();
            self.capabilities = sorted::list(self.capabilities.into_iter().chain(kept));
        }
        self
    }
}

/// By what it told when it was asked, and by what its generation is known to take (`nvml.h`: core locks from Volta on, memory
/// locks from Ampere on); asking by setting would change it.
fn capabilities(device: Option<&Device>, sample: Option<&Sample>) -> Vec<Capability> {
    const VOLTA: u32 = 5;
    const AMPERE: u32 = 7;
    let tells = |has: fn(&Sample) -> bool| sample.is_some_and(has);
    let takes = |has: fn(&Device) -> bool| device.is_some_and(has);
    let all = [
        (Capability::Temperature, tells(|sample| sample.temperature.is_ok())),
        (Capability::Margin, tells(|sample| sample.margin.is_ok())),
        (Capability::MemoryTemperature, tells(|sample| sample.memory_temperature.is_ok())),
        (Capability::Power, tells(|sample| sample.power.is_ok())),
        (Capability::Energy, tells(|sample| sample.energy.is_ok())),
        (Capability::Load, tells(|sample| sample.load.is_ok())),
        (Capability::Reasons, tells(|sample| sample.reasons.is_ok())),
        (Capability::FanSpeed, tells(|sample| sample.fans.iter().any(|fan| fan.rpm.is_ok()))),
        (Capability::PcieLink, tells(|sample| sample.pcie_width.is_ok())),
        (Capability::Ecc, tells(|sample| sample.ecc.is_ok())),
        (Capability::RemappedRows, tells(|sample| sample.remapped.is_ok())),
        (Capability::PowerLimit, takes(|device| device.limits.is_ok())),
        (Capability::CoreLock, takes(|device| device.architecture.is_ok_and(|of| of >= VOLTA))),
        (Capability::MemoryLock, takes(|device| device.architecture.is_ok_and(|of| of >= AMPERE))),
        (Capability::CoreOffset, takes(|device| device.core_offsets.is_ok())),
        (Capability::MemoryOffset, takes(|device| device.memory_offsets.is_ok())),
        (Capability::FanDrive, takes(|device| device.fans > 0 && device.fan_drive.is_ok())),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(capability, _)| capability).collect()
}

/// What a sample says, or why it says nothing.
fn value<T>(sample: &Reading<&Sample>, read: impl FnOnce(&Sample) -> Read<T>) -> Value<T> {
    Value(sample.and_then(|sample| read(sample).map_err(Missing::from)))
}

impl Gpu {
    /// A GPU as it goes out; `air` is what control ordered for its fans.
    #[must_use]
    pub fn new(gpu: &gpu::Gpu, air: ZoneNow) -> Self {
        let sample = gpu.sample.as_deref().map_err(|missing| *missing);
        Self {
            presence: gpu.presence,
            temperature: value(&sample, |sample| sample.temperature),
            memory_temperature: value(&sample, |sample| sample.memory_temperature),
            power: value(&sample, |sample| sample.power),
            sm_mhz: value(&sample, |sample| sample.sm_clock),
            memory_mhz: value(&sample, |sample| sample.memory_clock),
            load: value(&sample, |sample| sample.load),
            memory_used: value(&sample, |sample| sample.memory_used),
            fan_duty: Value(sample.and_then(|sample| {
                sample.fans.first().map_or(Err(Missing::NotPresent), |fan| fan.duty.map_err(Missing::from))
            })),
            // The driver has 64 bits and uses ten.
            reasons: value(&sample, |sample| sample.reasons.map(|bits| i64::from_ne_bytes(bits.to_ne_bytes()))),
            air: super::Zone { duty: Value(air.duty), stage: air.stage },
            profile: gpu.profile.phase,
        }
    }
}

impl GpuDetail {
    /// The rest of GPU number `index`.
    #[must_use]
    pub fn new(index: usize, gpu: &gpu::Gpu) -> Self {
        let sample = gpu.sample.as_deref().map_err(|missing| *missing);
        let known = sample.ok();
        Self {
            gpu: u16::try_from(index).unwrap_or(u16::MAX),
            margin: value(&sample, |sample| sample.margin),
            power_now: value(&sample, |sample| sample.power_now),
            energy: value(&sample, |sample| sample.energy),
            limit: value(&sample, |sample| sample.limit),
            enforced_limit: value(&sample, |sample| sample.enforced_limit),
            pstate: value(&sample, |sample| sample.pstate),
            memory_load: value(&sample, |sample| sample.memory_load),
            fans: known.map_or_else(Vec::new, |sample| {
                let fan = |fan: &gpu::wire::FanSample| {
                    (Value(fan.duty.map_err(Missing::from)), Value(fan.rpm.map_err(Missing::from)))
                };
                sample.fans.iter().map(fan).collect()
            }),
            pcie_generation: value(&sample, |sample| sample.pcie_generation),
            pcie_width: value(&sample, |sample| sample.pcie_width),
            replays: value(&sample, |sample| sample.replays),
            ecc: known.and_then(|sample| sample.ecc.ok()),
            remapped: known.and_then(|sample| {
                sample.remapped.ok().map(|rows| (rows.corrected, rows.uncorrected, rows.pending, rows.failed))
            }),
            recovery: value(&sample, |sample| sample.recovery),
            xids: gpu.xids,
            last_xid: gpu.last_xid,
            profile: gpu.profile.name.as_deref().map(str::to_owned),
            quarantined: gpu.profile.quarantined,
            processes: gpu
                .processes
                .iter()
                .flatten()
                .map(|process| (process.pid, Value(process.memory.map_err(Missing::from))))
                .collect(),
        }
    }
}
