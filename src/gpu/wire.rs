//! What the agent and `rigd-nvml` say to each other: postcard in COBS frames on the helper's standard input and output.
//!
//! ```text
//! < Hello                          once, as soon as NVML is up or could not be brought up
//! > Call { id: 1, Device(pci) }    < Reply { id: 1, Device(Ok(Device)) }
//! > Call { id: 2, Sample(pci) }    < Reply { id: 2, Sample(Ok(Sample)) }
//!                                  < Xid { gpu, code: 79 }           whenever the driver tells one
//! ```
//!
//! Calls are answered in their order, one reply each; replies may wait up to 5 ms for those to calls that came together
//! with theirs. A frame ends with a zero byte and holds none, so after a torn one
//! the reader is in step again at the next zero. Both ends come from one release and [`PROTOCOL`] says so: the forms may
//! change with it. NVML's return codes cross as the numbers that they are: the wrapper knows fewer of them than drivers do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::reading::Missing;
use crate::units::{Duty, Mebibytes, Megahertz, MegahertzOffset, Millicelsius, Millijoules, Milliwatts, Percent, Rpm};

/// Version of these forms. A helper of another one is not used.
pub const PROTOCOL: u16 = 3;
/// Longest frame, before COBS; what is longer is dropped to the next zero byte.
pub const MAX_FRAME: usize = 64 * 1024;

/// A return code of NVML (`nvmlReturn_t`), as the driver gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(transparent)]
#[error("NVML {0}: {name}", name = self.name())]
pub struct Code(pub u32);

/// What NVML said, or why it said nothing.
pub type Read<T> = Result<T, Code>;

impl Code {
    /// NVML was not brought up, or the driver was unloaded since.
    pub const UNINITIALIZED: Self = Self(1);
    /// A parameter was out of range: a power limit outside its constraints, for one.
    pub const INVALID_ARGUMENT: Self = Self(2);
    /// This GPU cannot do that.
    pub const NOT_SUPPORTED: Self = Self(3);
    /// Needs root.
    pub const NO_PERMISSION: Self = Self(4);
    /// No such GPU.
    pub const NOT_FOUND: Self = Self(6);
    /// The kernel module is not loaded.
    pub const DRIVER_NOT_LOADED: Self = Self(9);
    /// No answer in time.
    pub const TIMEOUT: Self = Self(10);
    /// The library could not be loaded.
    pub const LIBRARY_NOT_FOUND: Self = Self(12);
    /// The library has no such function.
    pub const FUNCTION_NOT_FOUND: Self = Self(13);
    /// The GPU fell off the bus; only a reset or a reboot brings it back.
    pub const GPU_IS_LOST: Self = Self(15);
    /// The GPU must be reset.
    pub const RESET_REQUIRED: Self = Self(16);
    /// The library and the kernel module are of two versions: every new process fails until a reboot.
    pub const LIB_RM_VERSION_MISMATCH: Self = Self(18);
    /// The function is there, and not in this version of its structure.
    pub const ARGUMENT_VERSION_MISMATCH: Self = Self(25);
    /// Removed from this driver.
    pub const DEPRECATED: Self = Self(26);
    /// Anything else.
    pub const UNKNOWN: Self = Self(999);

    /// The name in `nvml.h` without `NVML_ERROR_`, in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "success",
            1 => "uninitialized",
            2 => "invalid argument",
            3 => "not supported",
            4 => "no permission",
            5 => "already initialized",
            6 => "not found",
            7 => "insufficient size",
            8 => "insufficient power",
            9 => "driver not loaded",
            10 => "timeout",
            11 => "interrupt request issue",
            12 => "library not found",
            13 => "function not found",
            14 => "corrupted infoROM",
            15 => "GPU is lost",
            16 => "reset required",
            17 => "operating system",
            18 => "library and driver versions differ",
            19 => "in use",
            20 => "memory",
            21 => "no data",
            22 => "vGPU ECC not supported",
            23 => "insufficient resources",
            24 => "frequency not supported",
            25 => "argument version mismatch",
            26 => "deprecated",
            27 => "not ready",
            28 => "GPU not found",
            29 => "invalid state",
            _ => "unknown",
        }
    }
}

impl From<Code> for Missing {
    fn from(code: Code) -> Self {
        match code {
            Code::NOT_SUPPORTED | Code::FUNCTION_NOT_FOUND | Code::DEPRECATED | Code::NOT_FOUND => Self::NotPresent,
            _ => Self::Bus,
        }
    }
}

/// Where a GPU sits: PCI domain, bus and device; GPUs are function 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PciAddress {
    /// PCI domain.
    pub domain: u32,
    /// PCI bus.
    pub bus: u8,
    /// Device on it.
    pub device: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.0", self.domain, self.bus, self.device)
    }
}

/// Not a PCI address of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a PCI address like 0000:01:00.0")]
pub struct NoPciAddress;

impl FromStr for PciAddress {
    type Err = NoPciAddress;

    /// As sysfs has it (`0000:01:00.0`) or NVML (`00000000:01:00.0`); the function may be left out.
    fn from_str(text: &str) -> Result<Self, NoPciAddress> {
        let text = text.strip_suffix(".0").unwrap_or(text);
        let mut parts = text.split(':');
        let (Some(domain), Some(bus), Some(device), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoPciAddress);
        };
        let hex = |text: &str, least: usize, most: usize| {
            let good = (least..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(text, 16).ok().filter(|_| good).ok_or(NoPciAddress)
        };
        let byte = |text: &str| u8::try_from(hex(text, 2, 2)?).map_err(|_| NoPciAddress);
        Ok(Self { domain: hex(domain, 4, 8)?, bus: byte(bus)?, device: byte(device)? })
    }
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Given back with the reply.
    pub id: u32,
    /// What is asked.
    pub request: Request,
}

/// What the agent may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Every GPU that NVML sees, with all that does not change: [`Answer::Inventory`].
    Inventory,
    /// What changes, of one GPU: [`Answer::Sample`].
    Sample(PciAddress),
    /// What was set, read back: [`Answer::Settings`].
    Settings(PciAddress),
    /// The processes on it: [`Answer::Processes`].
    Processes(PciAddress),
    /// Changes one setting: [`Answer::Set`].
    Set(PciAddress, Setting),
    /// The drive of all its fans, or back to the driver's own control: [`Answer::Set`]. While a GPU's fans are driven this
    /// must come for it at least every [`FAN_PATIENCE`], or the helper gives them back.
    Drive(PciAddress, Option<Duty>),
    /// Each NVML call that the agent uses, once, on one GPU; none that changes anything: [`Answer::Selftest`].
    Selftest(PciAddress),
    /// Gives the fans back, lets go of NVML and ends: [`Answer::Set`] is the last frame, some second later.
    Release,
    /// What does not change, of one GPU: [`Answer::Device`]. One that does not answer keeps no other from being asked.
    Device(PciAddress),
}

/// How long a driven fan may wait for the next [`Request::Drive`] before the helper gives it back to the driver.
pub const FAN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// From the helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first frame.
    Hello(Hello),
    /// The answer to the call of this id.
    Reply {
        /// The call's.
        id: u32,
        /// The answer.
        answer: Answer,
    },
    /// The driver told of an error on a GPU.
    Xid {
        /// Which; none where the driver did not say.
        gpu: Option<PciAddress>,
        /// Number in NVIDIA's catalogue; 999 where the driver does not know it.
        code: u64,
    },
}

/// Who the helper is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of these forms.
    pub protocol: u16,
    /// Version of the release.
    pub version: String,
    /// NVML, or why there is none; the helper ends after telling that, with exit code 1.
    pub nvml: Read<Versions>,
}

/// Versions of what the helper loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the driver.
    pub driver: String,
    /// Of the library.
    pub nvml: String,
}

/// What the helper may answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// One per index of NVML; an error where a GPU has none to give.
    Inventory(Read<Vec<Read<Device>>>),
    /// What changes.
    Sample(Read<Box<Sample>>),
    /// What was set.
    Settings(Read<Settings>),
    /// What runs there.
    Processes(Read<Vec<Process>>),
    /// Done, or why not.
    Set(Read<()>),
    /// The calls with their results.
    Selftest(Read<Vec<Probe>>),
    /// What does not change.
    Device(Read<Box<Device>>),
}

/// What does not change of a GPU while its driver is loaded. An error says that this GPU does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where it sits.
    pub pci: PciAddress,
    /// NVML's identifier, `GPU-...`.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Serial number of the board.
    pub serial: Read<String>,
    /// Version of its firmware.
    pub vbios: Read<String>,
    /// Number in `/dev/nvidiaN`.
    pub minor: Read<u32>,
    /// `NVML_DEVICE_ARCH_*`: 4 Pascal, 5 Volta, 6 Turing, 7 Ampere, 8 Ada, 9 Hopper, 10 Blackwell.
    pub architecture: Read<u32>,
    /// Memory in all.
    pub memory: Read<Mebibytes>,
    /// Lowest and highest power limit that it takes.
    pub limits: Read<(Milliwatts, Milliwatts)>,
    /// The power limit that its maker set.
    pub default_limit: Read<Milliwatts>,
    /// Highest SM clock.
    pub max_sm_clock: Read<Megahertz>,
    /// Highest memory clock.
    pub max_memory_clock: Read<Megahertz>,
    /// Lowest and highest core clock offset in P0.
    pub core_offsets: Read<(MegahertzOffset, MegahertzOffset)>,
    /// Lowest and highest memory clock offset in P0.
    pub memory_offsets: Read<(MegahertzOffset, MegahertzOffset)>,
    /// How many fans it has.
    pub fans: u8,
    /// Lowest and highest drive that its fans take by hand.
    pub fan_drive: Read<(Duty, Duty)>,
    /// It slows down from here on.
    pub slowdown: Read<Millicelsius>,
    /// It switches itself off from here on.
    pub shutdown: Read<Millicelsius>,
    /// Highest PCIe generation of card and slot.
    pub pcie_max_generation: Read<u8>,
    /// Most PCIe lanes of card and slot.
    pub pcie_max_width: Read<u8>,
    /// Each performance state that tells its memory clock, with that, the fastest first.
    pub memory_clocks: Read<Vec<(u8, Megahertz)>>,
}

/// What changes of a GPU. An error says that this value could not be had, not that it is zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Of the chip.
    pub temperature: Read<Millicelsius>,
    /// How much hotter it may get before it slows down.
    pub margin: Read<Millicelsius>,
    /// Of its memory; few GPUs tell.
    pub memory_temperature: Read<Millicelsius>,
    /// Power, averaged by the driver over about a second where it is of Ampere or later.
    pub power: Read<Milliwatts>,
    /// Power now.
    pub power_now: Read<Milliwatts>,
    /// Energy since the driver was loaded.
    pub energy: Read<Millijoules>,
    /// Power limit as it was set.
    pub limit: Read<Milliwatts>,
    /// Power limit that holds, the lowest of all.
    pub enforced_limit: Read<Milliwatts>,
    /// SM clock.
    pub sm_clock: Read<Megahertz>,
    /// Memory clock.
    pub memory_clock: Read<Megahertz>,
    /// Performance state, 0 the fastest.
    pub pstate: Read<u8>,
    /// Part of the time in which a kernel ran.
    pub load: Read<Percent>,
    /// Part of the time in which memory was read or written.
    pub memory_load: Read<Percent>,
    /// Memory in use.
    pub memory_used: Read<Mebibytes>,
    /// Its fans.
    pub fans: Vec<FanSample>,
    /// Why its clocks are not higher: the driver's own bits, all of them.
    pub reasons: Read<u64>,
    /// PCIe generation now; lower than the highest at rest.
    pub pcie_generation: Read<u8>,
    /// PCIe lanes now; fewer than the most: a bad riser.
    pub pcie_width: Read<u8>,
    /// PCIe packets sent again since the driver was loaded.
    pub replays: Read<u32>,
    /// Memory errors corrected and not corrected since the driver was loaded.
    pub ecc: Read<(u64, u64)>,
    /// Rows of memory remapped.
    pub remapped: Read<Remapped>,
    /// What the driver asks for (field 230): 0 nothing, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset.
    pub recovery: Read<u32>,
}

/// A fan of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanSample {
    /// The drive that is intended, not measured.
    pub duty: Read<Duty>,
    /// Speed by its tachometer, where the driver passes that on.
    pub rpm: Read<Rpm>,
    /// Driven by hand and not by the driver.
    pub manual: Read<bool>,
}

/// Rows of memory that were remapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remapped {
    /// For corrected errors.
    pub corrected: u32,
    /// For errors that were not corrected.
    pub uncorrected: u32,
    /// One waits for a reset.
    pub pending: bool,
    /// One could not be remapped.
    pub failed: bool,
}

/// What was set, as the driver tells it. NVML tells nothing of clock locks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Power limit.
    pub limit: Read<Milliwatts>,
    /// Core clock offset in P0 and in P2.
    pub core_offset: [Read<MegahertzOffset>; 2],
    /// Memory clock offset in P0 and in P2.
    pub memory_offset: [Read<MegahertzOffset>; 2],
    /// The driver stays loaded without clients.
    pub persistence: Read<bool>,
}

/// One setting of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// Power limit.
    PowerLimit(Milliwatts),
    /// Core clock held between these two; none gives it free.
    CoreLock(Option<(Megahertz, Megahertz)>),
    /// Memory clock held between these two; none gives it free.
    MemoryLock(Option<(Megahertz, Megahertz)>),
    /// Core clock offset in P0 and P2.
    CoreOffset(MegahertzOffset),
    /// Memory clock offset in P0 and P2, of the data rate: the clock moves by half of it.
    MemoryOffset(MegahertzOffset),
    /// Keep the driver loaded without clients.
    Persistence(bool),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock = |f: &mut fmt::Formatter<'_>, what: &str, lock: Option<(Megahertz, Megahertz)>| match lock {
            Some((low, high)) if low == high => write!(f, "a {what} lock of {high}"),
            Some((low, high)) => write!(f, "a {what} lock of {} to {high}", low.0),
            None => write!(f, "no {what} lock"),
        };
        match self {
            Self::PowerLimit(limit) => write!(f, "a power limit of {limit}"),
            Self::CoreLock(range) => lock(f, "core", *range),
            Self::MemoryLock(range) => lock(f, "memory", *range),
            Self::CoreOffset(offset) => write!(f, "a core offset of {offset}"),
            Self::MemoryOffset(offset) => write!(f, "a memory offset of {offset}"),
            Self::Persistence(true) => f.write_str("persistence"),
            Self::Persistence(false) => f.write_str("no persistence"),
        }
    }
}

/// A process on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Memory that it holds there.
    pub memory: Read<Mebibytes>,
}

/// One call of a self-test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Name of the C function, with its argument where it matters.
    pub call: String,
    /// What came back, in words.
    pub result: Read<String>,
    /// How long it took, µs.
    pub micros: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_of_sysfs_and_of_nvml_are_the_same() {
        let address = PciAddress { domain: 0, bus: 0x0a, device: 0x1f };
        for text in ["0000:0a:1f.0", "00000000:0A:1F.0", "0000:0a:1f"] {
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
        assert_eq!(address.to_string(), "0000:0a:1f.0");
        for text in ["", "0a:1f.0", "0000:0a:1f.1", "0000:0a:1f.0.0", "0000:+a:1f.0", "0000:0a:1f:0", "000g:0a:1f.0"] {
            assert_eq!(text.parse::<PciAddress>(), Err(NoPciAddress), "{text}");
        }
    }

    #[test]
    fn what_a_gpu_does_not_have_is_no_fault_of_the_bus() {
        assert_eq!(Missing::from(Code::NOT_SUPPORTED), Missing::NotPresent);
        assert_eq!(Missing::from(Code::GPU_IS_LOST), Missing::Bus);
        assert_eq!(Code(18).to_string(), "NVML 18: library and driver versions differ");
        assert_eq!(Code(77).name(), "unknown");
    }
}
