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
//! GPU thread has no clock of its own: it works when control has finished a tick. Where there is no GPU it works when the
//! PCI bus is to be looked at again, and where there is no way to a driver only when an operator asks for something. GPUs
//! are known by PCI address and UUID, never by NVML's index, which moves when one of them is lost.

pub(crate) mod air;
mod backoff;
mod card;
pub mod config;
pub mod frame;
mod happening;
pub mod helper;
pub mod inventory;
pub mod keeper;
pub mod kmsg;
#[cfg(feature = "nvml")]
pub mod nvml;
pub mod plan;
pub mod profile;
mod snapshot;
mod store;
pub mod wire;
mod worker;
pub mod xid;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::mailbox::{self, mailbox};
use crate::units::{Duty, Megahertz, Milliwatts};
pub use happening::{Happening, Verdict, What};
use helper::Launch;
pub use plan::Knob;
pub use snapshot::{Driver, Gpu, GpuSnapshot, Phase, Presence, ProfileNow, reasons};
use store::Store;
use wire::PciAddress;
use worker::Worker;

/// Happenings on their way to control; more are dropped, and the log has them.
const HAPPENINGS: usize = 64;
/// Commands that wait; one more is refused.
const COMMANDS: usize = 4;
/// Time between looks at the PCI bus.
const LOOK: Duration = Duration::from_secs(30);
/// Frames are taken apart on the heap; what is left is small.
const STACK: usize = 256 * 1024;

/// What control wants done this tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The drive of each GPU's fans, in the order of the snapshot; none leaves them to the driver.
    pub fans: Vec<Option<Duty>>,
    /// The profile that what runs on each GPU brings along; none leaves it at that of the configuration.
    pub profiles: Vec<Option<String>>,
    /// What holds each GPU back beside its profile, the lower of both; none while nothing is decided on one, which keeps what it has.
    pub limits: Vec<Option<Limits>>,
}

/// What a GPU may take beside its profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Highest power limit; none leaves that of the profile.
    pub power: Option<Milliwatts>,
    /// Highest core clock; none leaves that of the profile.
    pub clock: Option<Megahertz>,
    /// Highest memory clock; none leaves that of the profile. Only a search asks for one.
    pub memory: Option<Megahertz>,
}

impl Limits {
    /// The lower of both.
    #[must_use]
    pub fn lower(self, other: Self) -> Self {
        let clock = |one: Option<Megahertz>, other| one.into_iter().chain(other).min();
        Self {
            power: self.power.into_iter().chain(other.power).min(),
            clock: clock(self.clock, other.clock),
            memory: clock(self.memory, other.memory),
        }
    }
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
pub struct Desk {
    commands: SyncSender<Command>,
    /// Something was asked since control looked: the next order is for a pass, whatever it is for else.
    asked: Arc<AtomicBool>,
}

impl Desk {
    /// One with its other end.
    pub(crate) fn pair(room: usize) -> (Self, Receiver<Command>) {
        let (commands, taken) = sync_channel(room);
        (Self { commands, asked: Arc::default() }, taken)
    }

    /// Asks for it; whether there was room. The next pass carries it out.
    pub(crate) fn ask(&self, command: Command) -> bool {
        let room = self.commands.try_send(command).is_ok();
        self.asked.fetch_or(room, Ordering::Release);
        room
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
    /// There is a way to a driver.
    launch: bool,
    orders: mailbox::Sender<Order>,
    snapshot: watch::Receiver<Arc<GpuSnapshot>>,
    happenings: Receiver<Happening>,
    finished: Receiver<bool>,
    desk: Desk,
}

impl Handle {
    /// Asks for a pass, where one has anything to do now. Where the last one is still under way it is carried out after it,
    /// unless a newer one takes its place.
    pub fn order(&self, order: Order, now: Instant) {
        let asked = self.desk.asked.swap(false, Ordering::Acquire);
        if asked || self.launch && due(&self.snapshot.borrow(), now) {
            self.orders.put(order);
        }
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

/// Whether a pass has anything to do where there is a way to a driver. Where no GPU was found, there is but the PCI bus to
/// look at, and a thread that is woken each tick for nothing is a third of what wakes an agent without GPUs.
fn due(found: &GpuSnapshot, now: Instant) -> bool {
    let looked = |taken| now.saturating_duration_since(taken) < LOOK;
    !(found.gpus.is_empty() && found.taken.is_some_and(looked))
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
    let (desk, commands) = Desk::pair(COMMANDS);
    let launch = places.launch.is_some();
    let rules = (config.gpus.clone(), Store::load(&config.state));
    thread::Builder::new().name("gpu".to_owned()).stack_size(STACK).spawn(move || {
        let mut worker = Worker::new(places, rules, publish, tell, commands);
        while let Some(order) = inbox.take() {
            worker.pass(&order);
        }
        // Nobody waits for it where control has given up on it.
        let _ = finish.try_send(worker.leave());
    })?;
    Ok(Handle { launch, orders, snapshot, happenings, finished, desk })
}

#[cfg(test)]
mod tests;
