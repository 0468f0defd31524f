//! How the process ends in time, whatever hangs: who sees that it is to end, and who ends it where main does not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use log::{error, info};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, write};

use crate::logger;

/// For fans to be given back at the end; the agent waits for 2.5 s.
const GRACE: Duration = Duration::from_millis(1_800);

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was asked to.
    Done = 0,
    /// There is no NVML, or it hung.
    Failed = 1,
}

impl End {
    /// Ends the process now; nothing of the library runs any more.
    pub fn exit(self) -> ! {
        logger::finish();
        // SAFETY: `_exit` takes any number and does not return.
        unsafe { libc::_exit(self as i32) }
    }
}

/// Set once the process is to end; whoever waits is woken by the bell.
#[derive(Clone)]
pub(super) struct Ending(Arc<Shared>);

struct Shared {
    came: AtomicBool,
    /// Readable from the first ring on: nobody reads it, so that it wakes everybody.
    bell: OwnedFd,
}

impl Ending {
    pub(super) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared { came: AtomicBool::new(false), bell })))
    }

    /// The process is to end: main gives the fans back, and has [`GRACE`] for it.
    pub(super) fn begin(&self, why: &str) {
        if !self.0.came.swap(true, Ordering::Relaxed) {
            info!("{why}: giving the fans back");
            // Full at 2^64 - 1 only (eventfd(2)).
            let _ = write(&self.0.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Main is on its way out by itself: there is nothing to say when the agent goes.
    pub(super) fn expected(&self) {
        self.0.came.store(true, Ordering::Relaxed);
    }

    /// Whether the process is to end.
    pub(super) fn came(&self) -> bool {
        self.0.came.load(Ordering::Relaxed)
    }

    /// What becomes readable when it begins.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }

    /// Waits for the end of the agent, or for whoever else begins, and then for main; ends the process if main does not.
    /// Calls that come in do not wake it: only a hang-up is asked for, which the kernel tells apart before it wakes anybody.
    pub(super) fn watch(&self, input: impl AsFd) -> ! {
        let mut both = [PollFd::new(&input, PollFlags::RDHUP), PollFd::from_borrowed_fd(self.bell(), PollFlags::IN)];
        loop {
            match poll(&mut both, None) {
                Err(Errno::INTR) | Ok(0) => {}
                Ok(_) => break self.begin("the agent is gone"),
                Err(error) => break self.begin(&format!("the agent cannot be watched: {error}")),
            }
        }
        thread::sleep(GRACE);
        error!("a call of the driver hangs; ending without it");
        End::Failed.exit()
    }
}

const SIGNALS: [(i32, &str); 3] = [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT"), (libc::SIGHUP, "SIGHUP")];

fn signals() -> libc::sigset_t {
    // SAFETY: all zeros are a valid set to initialize; sigemptyset and sigaddset write only there.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for (signal, _) in SIGNALS {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Keeps the signals that end a process for the thread that waits for them. Before any other thread is started: each
/// inherits it.
pub fn block_signals() {
    let set = signals();
    // SAFETY: the set is a live value of ours, and the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

pub(super) fn wait_for_signal() -> &'static str {
    let (set, mut came) = (signals(), 0);
    // SAFETY: both pointers are to live values of ours.
    while unsafe { libc::sigwait(&raw const set, &raw mut came) } != 0 {
        // EINTR is the only failure there is for a valid set (sigwait(3)).
    }
    SIGNALS.iter().find(|(signal, _)| *signal == came).map_or("a signal", |(_, name)| name)
}
