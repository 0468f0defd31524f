//! GPUs: what is known of them, what they are ordered to do, and the process that talks to their driver.
//!
//! ```text
//! control ── Order, one a tick, the newest wins ──> gpu thread ── frames on a socket ──> rigd-nvml ── NVML
//!                                                       │  keeper: a profile as a transaction, one per GPU
//! kernel log, PCI inventory ──────────────────────────> │
//!                                                       ├── watch<GpuSnapshot> ──> control
//!                                                       └── mpsc<Happening> ─────> control ── events
//! ```
//!
//! NVML is never called in this process: a call that hangs or crashes costs `rigd-nvml`, which is given up and started
//! anew, and the thread that waited for it; no tick, no fan on I2C and no message waits for either. Like a bus thread, the
//! GPU thread has no clock of its own: it works when control has finished a tick. GPUs are known by PCI address and UUID,
//! never by NVML's index, which moves when one of them is lost.

pub(crate) mod air;
mod backoff;
mod card;
pub mod config;
pub mod frame;
pub mod helper;
pub mod inventory;
pub mod keeper;
pub mod kmsg;
#[cfg(feature = "nvml")]
pub mod nvml;
pub mod plan;
pub mod profile;
mod store;
pub mod wire;
mod worker;
pub mod xid;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use tokio::sync::{oneshot, watch};

use crate::board;
use crate::config::Config;
use crate::mailbox::{self, mailbox};
use crate::reading::{Missing, Reading};
use crate::units::{Duty, Millicelsius};
use helper::Launch;
use plan::Found;
pub use plan::Knob;
use store::Store;
use wire::{Device, PciAddress, Process, Sample, Setting, Versions};
use worker::Worker;
use xid::Action;

/// Happenings on their way to control; more are dropped, and the log has them.
const HAPPENINGS: usize = 64;
/// Commands that wait; one more is refused.
const COMMANDS: usize = 4;
/// Frames are taken apart on the heap; what is left is small.
const STACK: usize = 256 * 1024;

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
    /// What runs on it, as of some seconds ago.
    pub processes: Vec<Process>,
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

/// What became of a profile. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It held through its probation.
    Committed,
    /// Quarantined: the driver refused a setting, with this code of NVML.
    Refused(Knob, u32),
    /// Quarantined: the driver took a setting and did not make it.
    NotHeld(Knob),
    /// Quarantined: it was repaired again and again.
    WillNotHold(Knob),
    /// Quarantined: the driver told an error while it was tried.
    Xid(u64),
    /// Quarantined: the GPU was lost while it was tried.
    Lost,
    /// Quarantined: the core clock left its lock, MHz.
    OutsideLock(u32),
    /// Quarantined: the rig or the driver went down twice while it was tried.
    Crashed,
    /// The last good one, or the maker's defaults, in place of one in quarantine.
    RolledBack,
    /// The driver had lost all settings; they were made again.
    Reloaded,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed => f.write_str("kept through its probation"),
            Self::Refused(knob, code) => write!(f, "quarantined: {knob} refused, {}", wire::Code(*code)),
            Self::NotHeld(knob) => write!(f, "quarantined: {knob} taken and not made"),
            Self::WillNotHold(knob) => write!(f, "quarantined: {knob} will not hold"),
            Self::Xid(code) => write!(f, "quarantined: Xid {code} while it was tried"),
            Self::Lost => f.write_str("quarantined: the GPU was lost while it was tried"),
            Self::OutsideLock(clock) => write!(f, "quarantined: the core ran at {clock} MHz, outside its lock"),
            Self::Crashed => f.write_str("quarantined: the rig or the driver went down twice while it was tried"),
            Self::RolledBack => f.write_str("another in its place, which is in quarantine"),
            Self::Reloaded => f.write_str("the driver had lost all settings, made again"),
        }
    }
}

/// Something that happened to a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Index into the snapshot's GPUs.
    pub gpu: usize,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The driver told an error, and what that asks for.
    Xid {
        /// Number in NVIDIA's catalogue.
        code: u64,
        /// What to do.
        action: Action,
    },
    /// The driver asks for it itself.
    Asks(Action),
    /// A setting was found changed.
    Drift {
        /// Which.
        knob: Knob,
        /// As it was set.
        wanted: i64,
        /// As it was found.
        found: i64,
    },
    /// What became of a profile.
    Profile(Verdict),
}

impl What {
    /// What of a profile's way is for more than the log.
    fn of(happening: &keeper::Happening) -> Option<Self> {
        Some(match happening {
            keeper::Happening::Drift { expected, found } => {
                let (knob, wanted, found) = drift(*expected, *found);
                Self::Drift { knob, wanted, found }
            }
            keeper::Happening::Committed(_) => Self::Profile(Verdict::Committed),
            keeper::Happening::Quarantined { reason, .. } => Self::Profile(Verdict::from(*reason)),
            keeper::Happening::Instead { .. } => Self::Profile(Verdict::RolledBack),
            keeper::Happening::Reloaded => Self::Profile(Verdict::Reloaded),
            keeper::Happening::Began { .. }
            | keeper::Happening::Adapted(_)
            | keeper::Happening::Refused { .. }
            | keeper::Happening::Applied(_)
            | keeper::Happening::Strike(_)
            | keeper::Happening::GaveUp(_)
            | keeper::Happening::Unrecorded => return None,
        })
    }
}

/// A setting as a number; of a lock its upper end, of one that was given free -1, and of what is not known -2.
fn drift(expected: Setting, found: Found) -> (Knob, i64, i64) {
    let number = |setting: Setting| match setting {
        Setting::PowerLimit(limit) => i64::from(limit.0),
        Setting::CoreLock(lock) | Setting::MemoryLock(lock) => lock.map_or(-1, |(_, high)| i64::from(high.0)),
        Setting::CoreOffset(offset) | Setting::MemoryOffset(offset) => i64::from(offset.0),
        Setting::Persistence(on) => i64::from(on),
    };
    let found = match found {
        Found::Set(setting) => number(setting),
        Found::Clock(clock) => i64::from(clock.0),
        Found::Nothing => -2,
    };
    (Knob::from(expected), number(expected), found)
}

impl From<keeper::Reason> for Verdict {
    fn from(reason: keeper::Reason) -> Self {
        match reason {
            keeper::Reason::Refused { knob, code } => Self::Refused(knob, code.0),
            keeper::Reason::NotHeld(knob) => Self::NotHeld(knob),
            keeper::Reason::WillNotHold(knob) => Self::WillNotHold(knob),
            keeper::Reason::Xid(code) => Self::Xid(code),
            keeper::Reason::Lost => Self::Lost,
            keeper::Reason::OutsideLock(clock) => Self::OutsideLock(clock.0),
            keeper::Reason::Crashed => Self::Crashed,
        }
    }
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
            processes: Vec::new(),
            profile: ProfileNow::default(),
            xids: 0,
            last_xid: None,
        }
    }

    /// Its temperature, where it tells one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn temperature(&self) -> Reading<Millicelsius> {
        self.sample.as_ref().map_err(|missing| *missing)?.temperature.map_err(Missing::from)
    }
}

/// What control wants done this tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The drive of each GPU's fans, in the order of the snapshot; none leaves them to the driver.
    pub fans: Vec<Option<Duty>>,
    /// The profile that what runs on each GPU brings along; none leaves it at that of the configuration.
    pub profiles: Vec<Option<String>>,
}

/// What an operator may ask of the GPU thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Lets a profile out of quarantine on one GPU, or all of them: how many were; none where the GPU is not known.
    Clear {
        /// Where it sits.
        pci: PciAddress,
        /// The profile's name; none for all.
        profile: Option<String>,
        /// Where the answer goes.
        answer: oneshot::Sender<Option<usize>>,
    },
    /// Lets go of the driver for so long, so that somebody may reset a GPU.
    Release {
        /// How long; none takes it up again at once.
        time: Duration,
        /// Where the answer goes.
        answer: oneshot::Sender<Released>,
    },
}

/// How letting go of the driver went. The names are those of the local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Released {
    /// Settings and fans are the driver's again, and nobody of ours holds it.
    Clean,
    /// Nobody of ours holds it, and not every setting or fan is known to be the driver's again.
    Partly,
    /// The helper hangs in the driver and still holds it.
    Hung,
}

/// An operator's way to the GPU thread; the end of the commands is that of the thread.
#[derive(Clone, Debug)]
pub struct Desk(SyncSender<Command>);

impl Desk {
    /// One with its other end, for tests of whoever asks.
    #[cfg(test)]
    pub(crate) fn pair() -> (Self, Receiver<Command>) {
        let (ask, commands) = sync_channel(1);
        (Self(ask), commands)
    }

    /// Asks for it; whether there was room. The next pass carries it out.
    pub(crate) fn ask(&self, command: Command) -> bool {
        self.0.try_send(command).is_ok()
    }
}

/// Where things are found on this machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// How the helper is had; none where there is no way to any driver.
    pub launch: Option<Launch>,
    /// `/sys`, or what stands in its place.
    pub sysfs: PathBuf,
    /// `/dev/kmsg`, or what stands in its place.
    pub kmsg: PathBuf,
}

/// Control's end of the GPU thread.
pub struct Handle {
    orders: mailbox::Sender<Order>,
    snapshot: watch::Receiver<Arc<GpuSnapshot>>,
    happenings: Receiver<Happening>,
    finished: Receiver<bool>,
    desk: Desk,
}

impl Handle {
    /// Asks for a pass. Where the last one is still under way it is carried out after it, unless a newer one takes its
    /// place.
    pub fn order(&self, order: Order) {
        self.orders.put(order);
    }

    /// What the last pass found.
    #[must_use]
    pub fn snapshot(&self) -> Arc<GpuSnapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// What happened since the last time.
    pub fn happenings(&self) -> impl Iterator<Item = Happening> {
        self.happenings.try_iter()
    }

    /// An operator's way to it.
    #[must_use]
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Ends the thread: settings and fans go back to the driver's defaults. Its last word is whether they did.
    #[must_use]
    pub fn leave(self) -> Receiver<bool> {
        self.finished
    }
}

/// Starts the GPU thread.
///
/// # Errors
/// What the system says where it cannot start one.
pub fn spawn(places: Places, config: &Config) -> std::io::Result<Handle> {
    let (orders, inbox) = mailbox();
    let (publish, snapshot) = watch::channel(Arc::new(GpuSnapshot::default()));
    let (tell, happenings) = sync_channel(HAPPENINGS);
    let (finish, finished) = sync_channel(1);
    let (ask, commands) = sync_channel(COMMANDS);
    let rules = (config.gpus.clone(), Store::load(&config.state));
    thread::Builder::new().name("gpu".to_owned()).stack_size(STACK).spawn(move || {
        let mut worker = Worker::new(places, rules, publish, tell, commands);
        while let Some(order) = inbox.take() {
            worker.pass(&order);
        }
        // Nobody waits for it where control has given up on it.
        let _ = finish.try_send(worker.leave());
    })?;
    Ok(Handle { orders, snapshot, happenings, finished, desk: Desk(ask) })
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
