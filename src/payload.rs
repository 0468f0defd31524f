//! AI and mining programs that the agent runs: started, watched, measured, kept apart, ended, found again.
//!
//! ```text
//! payloads.d/*.toml ── manifest ─┐                ┌── cgroup: what it started, as one ──┐
//! orders ── mpsc<Order> ── supervisor ── lifecycle::next ── process ── sandbox ── exec  │
//!            watch<Payloads> ──┘                  └── log: a keeper and a ring on disk ─┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`manifest`] | what a payload is, as data; one file each, as in `examples/payloads/` |
//! | [`lifecycle`] | what happens next, as a pure function |
//! | `process`, `spawn`, `prepare` | from a manifest to a running program and to its end |
//! | [`sandbox`] | the layers that keep it to itself |
//! | `cgroup` | what it started, as one |
//! | `directory` | its directories, opened past every link of its own |
//! | `hold` | how far a payload is held back, and what pauses it |
//! | `record` | what the next agent has to know |
//! | `log` | what it says, within a budget |
//! | [`meter`] | what it earns, read from its API; a file for each API |
//! | `probe` | whether it is healthy |
//! | `learnt` | what it should yield, from what it has yielded |
//! | [`Terms`] | what whoever plans has to know of it |
//! | [`reboot`] | whether the rig is restarted for it |
//! | [`supervisor`] | the tasks that tie it together |
//!
//! An agent that ends, however it ends, leaves payloads running, or paused; the next one adopts them by cgroup and start time. No
//! payload ever runs without being on record: its process waits for a word from the agent until the record is written.

pub mod config;
pub mod lifecycle;
pub mod manifest;
pub mod meter;
mod metering;
pub mod reboot;
pub mod rig;
pub mod sandbox;
pub mod supervisor;

mod cgroup;
mod directory;
mod hold;
mod learnt;
mod log;
mod prepare;
mod probe;
mod process;
mod record;
mod spawn;
mod terms;
mod user;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use self::cgroup::deserted;
pub use self::hold::{By, Hold};
pub use self::log::{MOST as LOG_MOST, Part as LogPart};
pub use self::terms::Terms;

/// The GPUs that a payload is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Each of them.
    pub gpus: Vec<Gpu>,
}

/// A GPU for a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// `GPU-…`, as the driver has it.
    pub uuid: String,
    /// The device nodes that belong to it, those that all cards share included: `/dev/nvidia0`, `/dev/nvidiactl`, `/dev/nvidia-uvm`.
    pub nodes: Vec<PathBuf>,
}

/// A descriptor that the runtime watches.
fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor each time it is asked, and keeps it open until it is dropped with this.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}
