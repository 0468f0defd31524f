//! A payload's process: made ready, started in its cgroup, asked to end, killed with all that it started, found again.
//!
//! Its end is seen on a pidfd, which stands for this process and never for another one with its number. Whose child it is says only
//! how its end is learnt: our own is waited for; another agent's is read of in `/proc` while it is a zombie and asked about later
//! (`PIDFD_GET_INFO`, Linux 6.15). On an older kernel whose init was faster, it has ended in a way that nobody knows.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, warn};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::cgroup::{Group, Root};
use super::directory;
use super::hold::By;
use super::lifecycle::Exit;
use super::log::Ring;
use super::manifest::Manifest;
use super::record::{Known, dead, started};
use super::sandbox::Layers;
use super::spawn::{self, Failed, Launch};
use super::watch;

/// For what is left in a cgroup after it was killed. More, and a driver has hold of it.
const EMPTIED: Duration = Duration::from_secs(2);

/// For a cgroup to freeze. The kernel stops what runs within a tick; what is in a driver's hands stops when it comes out of there.
const FROZEN: Duration = Duration::from_secs(2);
/// A child that cannot be watched is asked so often whether it has ended.
const ASKED: Duration = Duration::from_millis(100);
/// Who is in a removed payload's cgroup for longer than this is there to stay.
const LEAVES: Duration = Duration::from_mins(1);

/// Where payloads live on this rig.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// `payloads` in the agent's state directory.
    pub(super) directory: PathBuf,
    /// Where the pipes of their logs have names: a directory of memory; beside their logs where there is none.
    pub(super) pipes: Option<PathBuf>,
    /// Where there are cgroups.
    pub(super) root: Option<Root>,
    /// This boot of the rig.
    pub(super) boot: String,
}

/// Why a payload was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotStarted {
    /// For people.
    pub(super) text: String,
    /// Whether trying again is of no use.
    pub(super) lasting: bool,
}

impl NotStarted {
    pub(super) fn io(what: &str, error: &io::Error) -> Self {
        let lasting = [
            io::ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::ReadOnlyFilesystem,
            io::ErrorKind::NotADirectory,
            io::ErrorKind::InvalidInput,
        ];
        Self { text: format!("{what}: {error}"), lasting: lasting.contains(&error.kind()) }
    }

    /// Of something that may be otherwise the next time.
    pub(super) fn passing(what: &str, error: &io::Error) -> Self {
        Self { text: format!("{what}: {error}"), lasting: false }
    }

    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self { text: text.into(), lasting: true }
    }
}

impl From<Failed> for NotStarted {
    fn from(failed: Failed) -> Self {
        Self { text: failed.to_string(), lasting: failed.lasting() }
    }
}

impl Site {
    /// A payload's own directory.
    #[must_use]
    pub(super) fn home(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The name of its log's pipe.
    #[must_use]
    pub(super) fn pipe(&self, name: &str) -> PathBuf {
        self.pipes.as_ref().map_or_else(|| self.home(name).join("log/pipe"), |pipes| pipes.join(name))
    }

    /// Its log.
    #[must_use]
    pub(super) fn ring(&self, manifest: &Manifest) -> Ring {
        Ring::new(&self.home(&manifest.name).join("log"), self.pipe(&manifest.name), &manifest.log)
    }

    /// Its cgroup, made or not.
    #[must_use]
    pub(super) fn group(&self, name: &str) -> Option<Group> {
        self.root.as_ref().map(|root| root.group(name))
    }

    /// The cgroup of who writes its log down.
    #[must_use]
    pub(super) fn log_group(&self, name: &str) -> Option<Group> {
        self.root.as_ref().map(|root| root.group(&format!("{name}.log")))
    }

    /// Removes the cgroups of one that has no manifest any more, as soon as nobody is in them: the last of its log may still be
    /// written down.
    pub(super) fn clear(&self, name: &str) {
        for group in [self.group(name), self.log_group(name)].into_iter().flatten() {
            if !group.populated() {
                group.remove();
                continue;
            }
            tokio::spawn(async move {
                // Its manifest came back meanwhile at worst, and it is made anew.
                if group.emptied(LEAVES).await.is_ok() {
                    group.remove();
                }
            });
        }
    }

    /// Makes a payload's directory. Others may pass through it and see nothing in it; whether they get as far is for the mode of the
    /// agent's state directory to say.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make_home(&self, name: &str) -> Result<(), NotStarted> {
        for directory in [&self.directory, &self.home(name)] {
            make(directory, 0o711)
                .map_err(|error| NotStarted::io(&format!("could not make {}", directory.display()), &error))?;
        }
        Ok(())
    }
}

/// A directory of the agent's own with this mode; one that is there stays as it is.
pub(super) fn make(directory: &Path, mode: u32) -> io::Result<OwnedFd> {
    directory::make(directory, mode, None, None)
}

/// A process that runs, or did a moment ago.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) known: Known,
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    group: Option<Group>,
    /// Whether this agent has started it.
    ours: bool,
    /// Its group is not where this agent makes one for it.
    moved: bool,
}

impl Process {
    /// Starts it. `write_down` is called when its process exists and nothing of it runs yet. `oom_kills` is what its group has counted,
    /// where that is known.
    ///
    /// # Errors
    /// What is in the way, for people. Then nothing of it is left.
    pub(super) async fn start(
        launch: &Launch,
        group: Option<Group>,
        oom_kills: Option<u64>,
        write_down: impl FnOnce(Known) -> io::Result<()>,
    ) -> Result<Self, NotStarted> {
        let oom_kills = oom_kills.unwrap_or_else(|| group.as_ref().map_or(0, Group::oom_kills));
        let waiting = launch.fork()?;
        let pid = waiting.pid.as_raw_nonzero().get();
        let known = Known {
            pid,
            start: started(pid).unwrap_or(0),
            grouped: group.is_some(),
            oom_kills,
            layers: Layers::default(),
        };
        if let Err(error) = write_down(known) {
            // Without the word it ends by itself.
            drop(Reaped(Some(waiting.pidfd)));
            return Err(NotStarted::io("could not be written down", &error));
        }
        // Watched before it gets the word: nothing runs whose end would not be seen.
        let watched = match waiting.pidfd.try_clone().and_then(|pidfd| watch(pidfd, Interest::READABLE)) {
            Ok(watched) => watched,
            Err(error) => {
                drop(Reaped(Some(waiting.pidfd)));
                return Err(NotStarted::passing("could not be watched", &error));
            }
        };
        let (pid, pidfd, ran) = waiting.go().await;
        match ran {
            Ok(layers) => {
                Ok(Self { known: Known { layers, ..known }, pid, pidfd: watched, group, ours: true, moved: false })
            }
            Err(failed) => {
                drop(Reaped(Some(pidfd)));
                Err(failed.into())
            }
        }
    }

    /// Finds it again; `None` where it is gone. `group` is the one that this agent would start it in. What runs is in the one that
    /// the agent before has started it in, which is another one where the configuration names another place by now.
    #[must_use]
    pub(super) fn adopt(name: &str, known: Known, group: Option<Group>) -> Option<Self> {
        let pid = Pid::from_raw(known.pid)?;
        // First the descriptor, then the question who that is: it cannot become another in between.
        let pidfd = spawn::open(pid).ok()?;
        let same = started(known.pid) == Some(known.start);
        if !same {
            return None;
        }
        let found = if known.grouped { Group::of(known.pid, name)?.or_else(|| group.clone()) } else { None };
        let pidfd = watch(pidfd, Interest::READABLE).ok()?;
        let moved = known.grouped && found != group;
        Some(Self { known, pid, pidfd, group: found, ours: false, moved })
    }

    /// Waits until its first process has ended.
    pub(super) async fn ended(&self) {
        match self.pidfd.readable().await {
            Ok(mut ready) => ready.retain_ready(),
            // The runtime is going away, and we with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// How it ended, and clears up what it left behind. `Err` where something is left that cannot be killed yet.
    pub(super) async fn finish(&mut self) -> Result<Exit, Exit> {
        if self.group.is_none() {
            // What has left its session is lost to us. Its number is nobody else's yet: a child of ours is still to be waited for, and
            // after another's the kernel gives out all other numbers first.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        let exit = self.exit().await;
        let Some(group) = &self.group else { return Ok(exit) };
        // The next run counts from here.
        let before = std::mem::replace(&mut self.known.oom_kills, group.oom_kills());
        let killed = self.known.oom_kills > before;
        let exit = if killed { exit.with_memory_kill() } else { exit };
        if group.populated() {
            debug!("payloads: killing what process {} left behind", self.known.pid);
            if let Err(error) = group.kill() {
                warn!("payloads: could not kill what process {} left behind: {error}", self.known.pid);
            }
            if group.emptied(EMPTIED).await.is_err() {
                return Err(exit);
            }
        }
        if self.moved {
            // The next run is in another one.
            group.remove();
        }
        Ok(exit)
    }

    /// Whether anything of it is left that could not be killed.
    #[must_use]
    pub(super) fn lingers(&self) -> bool {
        self.group.as_ref().is_some_and(Group::populated)
    }

    async fn exit(&self) -> Exit {
        if self.ours {
            let status =
                waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            let Ok(Some(status)) = status else { return Exit::Unknown };
            return match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            };
        }
        // Until its parent has waited for it, its line in /proc says it; afterwards the pidfd does.
        for _ in 0..20 {
            let zombie = || {
                dead(self.known.pid)
                    .filter(|(start, _)| *start == self.known.start)
                    .map(|(_, status)| status)
                    .filter(|status| *status != 0)
            };
            if let Some(status) = zombie().or_else(|| exit_status(self.pidfd.get_ref())) {
                return exit_of(status);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Exit::Unknown
    }

    /// Sends a signal to its first process.
    pub(super) fn signal(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number)
            && let Err(error) = pidfd_send_signal(self.pidfd.get_ref(), signal)
        {
            debug!("payloads: process {} takes no signal: {error}", self.known.pid);
        }
    }

    /// Freezes all of it, or stops its session where there is no freezer, which a program that left it does not notice.
    ///
    /// # Errors
    /// What the system says; then it goes on.
    pub(super) async fn freeze(&self) -> io::Result<By> {
        if let Some(group) = &self.group {
            match group.freeze(FROZEN).await {
                Ok(()) => return Ok(By::Freezer),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    warn!("payloads: process {} is not frozen yet; a driver has hold of it", self.known.pid);
                    return Ok(By::Freezer);
                }
                Err(error) => debug!("payloads: the cgroup of process {} does not freeze: {error}", self.known.pid),
            }
        }
        kill_process_group(self.pid, Signal::STOP)?;
        Ok(By::Signal)
    }

    /// Lets all of it go on, whatever has stopped it. Harmless where it was not.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn thaw(&self, by: By) -> io::Result<()> {
        match (by, &self.group) {
            (By::Api, _) => Ok(()),
            (By::Freezer, Some(group)) => group.thaw(),
            (By::Signal, _) | (By::Freezer, None) => Ok(kill_process_group(self.pid, Signal::CONT)?),
        }
    }

    /// What an earlier agent may have left stopped.
    pub(super) fn wake(&self) {
        let done = match &self.group {
            Some(group) if group.freezes() => group.thaw(),
            Some(_) => Ok(()),
            None => self.thaw(By::Signal),
        };
        if let Err(error) = done {
            warn!("payloads: process {} could not be let go on: {error}", self.known.pid);
        }
    }

    /// Kills all of it.
    pub(super) fn kill(&self) {
        let group = self.group.as_ref().map(Group::kill);
        if let Some(Err(error)) = &group {
            warn!("payloads: the cgroup of process {} could not be killed: {error}", self.known.pid);
        }
        if !matches!(group, Some(Ok(()))) {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }
}

/// How a process ended, from the status that wait(2) gives.
const fn exit_of(status: i32) -> Exit {
    match (status & 0x7f, status >> 8 & 0xff) {
        (0, code) => Exit::Code(code),
        (signal, _) => Exit::Signal(signal),
    }
}

/// What the kernel keeps of an ended process for whoever holds its pidfd (linux/pidfd.h, PIDFD_GET_INFO).
fn exit_status(pidfd: &OwnedFd) -> Option<i32> {
    /// `struct pidfd_info`, first version: 64 bytes.
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const GET_INFO: libc::c_ulong = 0xc040_ff0b;
    const EXIT: u64 = 1 << 3;
    let mut info = Info { mask: EXIT, cgroup: 0, ids: [0; 11], exit_code: 0 };
    // SAFETY: the request says 64 bytes, which is what the kernel reads and writes here.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    (result >= 0 && info.mask & EXIT != 0).then_some(info.exit_code)
}

/// A child of ours that nobody waits for any more: killed, and waited for in the background.
#[derive(Debug)]
pub(super) struct Reaped(pub(super) Option<OwnedFd>);

impl Drop for Reaped {
    fn drop(&mut self) {
        let Some(pidfd) = self.0.take() else { return };
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        // Where the runtime is going away so is the agent, and its children have another parent.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(reap(pidfd));
        }
    }
}

/// Waits for a child in the background.
pub(super) async fn reap(pidfd: OwnedFd) {
    let gone = |pidfd: &OwnedFd| {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None))
    };
    let asked = pidfd.try_clone();
    if let Ok(watched) = watch(pidfd, Interest::READABLE)
        && watched.readable().await.is_ok()
    {
        gone(watched.get_ref());
    } else if let Ok(pidfd) = asked {
        // What cannot be watched is asked again and again, until it is gone or the agent is.
        while !gone(&pidfd) {
            tokio::time::sleep(ASKED).await;
        }
    }
}

#[cfg(test)]
mod tests;
