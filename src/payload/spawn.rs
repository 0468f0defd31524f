//! From a prepared launch to a running program.
//!
//! The child is made by clone3(2) right inside its cgroup (`CLONE_INTO_CGROUP`, Linux 5.7): "migrating a process across cgroups is a
//! relatively expensive operation" (cgroup-v2.rst), since it locks out every fork of the rig, and there is no moment at which the child
//! is in the agent's own. Older kernels move it. It makes itself ready while the agent writes its record down, and then waits for a word:
//! nothing of the payload runs before it is on record, so no agent that dies in between leaves a payload that nobody knows. An agent
//! that dies before the word leaves a child that ends.
//!
//! What the child finds on its way to exec(2) comes back through a pipe that exec closes. Its last word is that exec comes next: a pipe
//! that closes without it is that of a child that was killed before. The kernel does that where the group was killed by `cgroup.kill` at
//! any time before: since Linux 6.14 and the stable kernels of that time, a child of `CLONE_INTO_CGROUP` is held against the count of
//! kills of its parent's group (kernel/cgroup/cgroup.c, `cgroup_css_set_fork`). It is started once more then, in a group that is made anew.

mod child;

pub(super) use child::{default_handlers, ignored, unblock};

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::sandbox::{Filter, Layer, LayerSet, Layers, Rules};
use super::user::User;

/// From the word to exec. A program on a disk that does not answer is given up then.
const LIMIT: Duration = Duration::from_secs(10);
/// linux/sched.h; the first two do not fit libc's type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_PIDFD: u64 = 0x1000;

/// All that it takes, made before the fork.
#[derive(Debug)]
pub(super) struct Launch {
    /// From the root.
    pub(super) program: CString,
    /// The program's name first.
    pub(super) arguments: Vec<CString>,
    /// NAME=value.
    pub(super) environment: Vec<CString>,
    /// Where it starts.
    pub(super) directory: CString,
    /// Its standard input.
    pub(super) input: OwnedFd,
    /// Its standard output and error.
    pub(super) output: OwnedFd,
    /// The directory of its cgroup.
    pub(super) cgroup: Option<OwnedFd>,
    /// Its `cgroup.procs`, for a child that cannot be made in it.
    pub(super) procs: Option<OwnedFd>,
    /// The signals that the agent ignores, a bit each: exec would keep that.
    pub(super) ignored: u64,
    /// Who it becomes, where that is somebody else.
    pub(super) user: Option<User>,
    /// What is to be its `/tmp`.
    pub(super) tmp: Option<CString>,
    /// Limits of its processes.
    pub(super) limits: Vec<(Resource, Rlimit)>,
    /// Landlock.
    pub(super) rules: Option<Rules>,
    /// Seccomp.
    pub(super) filters: Vec<Filter>,
    /// Layers that it is to have.
    pub(super) wanted: LayerSet,
    /// Layers without which it must not run.
    pub(super) require: LayerSet,
}

/// Where it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Before the child was there.
    Fork,
    /// Into its cgroup.
    Cgroup,
    /// Its standard input and output.
    Output,
    /// Another user.
    User,
    /// Its working directory.
    Directory,
    /// A layer that its manifest insists on.
    Layer,
    /// The program itself.
    Exec,
    /// It took too long.
    Time,
}

impl Stage {
    const ALL: [Self; 8] =
        [Self::Fork, Self::Cgroup, Self::Output, Self::User, Self::Directory, Self::Layer, Self::Exec, Self::Time];

    const fn tried(self) -> &'static str {
        match self {
            Self::Fork => "make a process",
            Self::Cgroup => "enter its cgroup",
            Self::Output => "set up its output",
            Self::User => "become its user",
            Self::Directory => "enter its working directory",
            Self::Layer => "put a layer in force that it requires",
            Self::Exec => "run its program",
            Self::Time => "run its program in time",
        }
    }
}

/// Why a program could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not {}: {errno}", .stage.tried())]
pub(super) struct Failed {
    /// Where.
    pub(super) stage: Stage,
    /// Why.
    pub(super) errno: Errno,
}

impl Failed {
    /// Whether another attempt would fail in the same way.
    #[must_use]
    pub(super) fn lasting(self) -> bool {
        let passing = [
            Errno::AGAIN,
            Errno::NOMEM,
            Errno::TXTBSY,
            Errno::BUSY,
            Errno::MFILE,
            Errno::NFILE,
            Errno::IO,
            Errno::TIMEDOUT,
        ];
        // Before those the child was killed, or its cgroup went away, by what an agent that died had begun.
        let own = matches!(self.stage, Stage::User | Stage::Directory | Stage::Layer | Stage::Exec);
        own && !passing.contains(&self.errno)
    }
}

/// A child that waits for the word.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its process.
    pub(super) pid: Pid,
    /// The same, for good.
    pub(super) pidfd: OwnedFd,
    go: OwnedFd,
    report: OwnedFd,
    prepared: Layers,
}

impl Launch {
    /// Makes the child.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn fork(&self) -> Result<Waiting, Failed> {
        let made = self.clone_child();
        made.map_err(|error| Failed { stage: Stage::Fork, errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) })
    }

    fn clone_child(&self) -> io::Result<Waiting> {
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
        let (report, tell) = pipe_with(PipeFlags::CLOEXEC)?;
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&self.arguments), pointers(&self.environment));
        let ids = self.user.as_ref().map(child::Ids::new);
        let plan = child::Plan {
            launch: self,
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            ids,
            wait: wait.as_fd(),
            go: go.as_raw_fd(),
            tell: tell.as_fd(),
        };
        let (pid, pidfd) = fork(self.cgroup.as_ref(), |how| child::run(&plan, how))?;
        let Self { wanted, rules, filters, .. } = self;
        let mut prepared = Layers::default();
        // What could not be made ready; the child tells of the rest.
        for layer in [Layer::Files, Layer::Ports, Layer::Scope] {
            if wanted.has(layer) && !rules.as_ref().is_some_and(|rules| rules.layers.has(layer)) {
                prepared.missing = prepared.missing.with(layer);
            }
        }
        if wanted.has(Layer::SystemCalls) && filters.is_empty() {
            prepared.missing = prepared.missing.with(Layer::SystemCalls);
        }
        if wanted.has(Layer::Cgroup) {
            let layers = if self.cgroup.is_some() { &mut prepared.held } else { &mut prepared.missing };
            *layers = layers.with(Layer::Cgroup);
        }
        Ok(Waiting { pid, pidfd, go, report, prepared })
    }
}

/// How a child came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// In its cgroup, with no signal handlers of ours.
    New,
    /// As a copy of the agent in all.
    Old,
}

/// Forks, by clone3 where there is one, and runs `child` in the child with all signals blocked.
pub(super) fn fork(cgroup: Option<&OwnedFd>, child: impl FnOnce(How) -> Infallible) -> io::Result<(Pid, OwnedFd)> {
    let mut pidfd: libc::c_int = -1;
    let blocked = Signals::block();
    // SAFETY: an all-zero `clone_args` is the empty request (clone(2)).
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    request.pidfd = (&raw mut pidfd).addr() as u64;
    request.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    if let Some(group) = cgroup {
        request.flags |= CLONE_INTO_CGROUP;
        request.cgroup = u64::from(group.as_raw_fd().unsigned_abs());
    }
    // SAFETY: no memory is shared and no stack given, so this is a fork; the child runs only `child`, which makes system calls and
    // touches no lock, and never comes back. The request and the pidfd outlive the call.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const request, size_of::<libc::clone_args>()) };
    let mut how = How::New;
    let old = [libc::ENOSYS, libc::EINVAL, libc::E2BIG, libc::EPERM];
    if pid < 0 && io::Error::last_os_error().raw_os_error().is_some_and(|errno| old.contains(&errno)) {
        how = How::Old;
        let flags = CLONE_PIDFD | request.exit_signal;
        // SAFETY: as above; the third argument of clone takes the pidfd on every architecture (clone(2)).
        pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, &raw mut pidfd, 0_usize, 0_usize) };
    }
    if pid == 0 {
        // Does not come back.
        child(how);
    }
    let error = io::Error::last_os_error();
    drop(blocked);
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) else { return Err(error) };
    // SAFETY: the kernel has put a new descriptor there, which nobody else has.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Forks as fork(2) does: parent and child both go on from here, the child with `None`. For a process with one thread that makes
/// system calls only; the child has no more signals blocked than its parent.
///
/// # Errors
/// What the system says.
pub(super) fn twin() -> Result<Option<OwnedFd>, Errno> {
    let mut pidfd: libc::c_int = -1;
    let flags = CLONE_PIDFD | u64::from(libc::SIGCHLD.unsigned_abs());
    // SAFETY: no memory is shared and no stack given, so this is a fork; the third argument takes the pidfd on every architecture
    // (clone(2)), and outlives the call.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, &raw mut pidfd, 0_usize, 0_usize) } {
        0 => Ok(None),
        // SAFETY: the kernel has put a new descriptor there, which nobody else has.
        1.. => Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) })),
        _ => Err(Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN))),
    }
}

/// All signals of this thread, blocked until it is dropped: a handler of ours must not run in a child.
struct Signals(libc::sigset_t);

impl Signals {
    fn block() -> Self {
        // SAFETY: both sets are plain memory of ours, filled by the calls before they are read.
        unsafe {
            let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by `block`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

impl Waiting {
    /// Gives the word, and waits until the program runs or could not be run. In the second case the child ends by itself.
    ///
    /// # Errors
    /// Where it failed and why.
    pub(super) async fn go(self) -> (Pid, OwnedFd, Result<Layers, Failed>) {
        let Self { pid, pidfd, go, report, prepared } = self;
        let result = tokio::time::timeout(LIMIT, hear(go, report, prepared)).await;
        (pid, pidfd, result.unwrap_or(Err(Failed { stage: Stage::Time, errno: Errno::TIMEDOUT })))
    }
}

async fn hear(go: OwnedFd, report: OwnedFd, prepared: Layers) -> Result<Layers, Failed> {
    let failed =
        |error: io::Error| Failed { stage: Stage::Fork, errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) };
    let mut report = Receiver::from_owned_fd(report).map_err(failed)?;
    rustix::io::write(&go, b"!").map_err(|errno| Failed { stage: Stage::Fork, errno })?;
    drop(go);
    let (mut layers, mut ready) = (prepared, false);
    let mut words = [0; child::WORDS];
    loop {
        let length = match report.read(&mut words).await {
            // exec has closed it.
            Ok(0) if ready => return Ok(layers),
            Ok(0) => return Err(Failed { stage: Stage::Fork, errno: Errno::PIPE }),
            Ok(length) => length,
            Err(error) => return Err(failed(error)),
        };
        let (lines, _) = words.get(..length).unwrap_or_default().as_chunks();
        for line in lines {
            match child::Word::parse(*line) {
                Some(child::Word::Held(layer)) => layers.held = layers.held.with(layer),
                Some(child::Word::Missing(layer, errno)) => {
                    log::debug!("payloads: the layer {} is not possible: {errno}", layer.name());
                    layers.missing = layers.missing.with(layer);
                }
                Some(child::Word::Failed(failed)) => return Err(failed),
                Some(child::Word::Ready) => ready = true,
                None => {}
            }
        }
    }
}

/// A descriptor for a process that is no child of ours.
///
/// # Errors
/// `ESRCH` where there is none.
pub(super) fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    pidfd_open(pid, PidfdFlags::empty())
}
