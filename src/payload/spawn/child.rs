//! Between fork and exec. System calls only: no allocation, no lock, no log, since another thread may have held any lock at the
//! moment of the fork. rustix makes its system calls directly; where it has none, `libc::syscall` does.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::super::sandbox::{Layer, LayerSet};
use super::super::user::User;
use super::{Failed, How, Launch, Stage};

/// Bytes of one word to the agent.
pub(super) const LINE: usize = 4;
/// Bytes of all that a child tells at once: a word for each layer and the last one. A pipe takes and gives them whole (pipe(7)).
pub(super) const WORDS: usize = LINE * (Layer::ALL.len() + 1);
/// Capabilities that there are or may be (linux/capability.h ends at 40).
const CAPABILITIES: u32 = 63;

/// What the child tells.
pub(super) enum Word {
    Held(Layer),
    Missing(Layer, Errno),
    Failed(Failed),
    /// The next call is exec.
    Ready,
}

impl Word {
    fn line(&self) -> [u8; LINE] {
        let (kind, what, errno) = match self {
            Self::Held(layer) => (0, *layer as u8, 0),
            Self::Missing(layer, errno) => (1, *layer as u8, errno.raw_os_error()),
            Self::Failed(Failed { stage, errno }) => (2, *stage as u8, errno.raw_os_error()),
            Self::Ready => (3, 0, 0),
        };
        let [low, high] = u16::try_from(errno).unwrap_or(0).to_le_bytes();
        [kind, what, low, high]
    }

    pub(super) fn parse([kind, what, low, high]: [u8; LINE]) -> Option<Self> {
        // 0 is none, and there are 4095 of them.
        let errno = Errno::from_raw_os_error(i32::from(u16::from_le_bytes([low, high])).clamp(1, 4_095));
        let what = usize::from(what);
        Some(match kind {
            0 => Self::Held(*Layer::ALL.get(what)?),
            1 => Self::Missing(*Layer::ALL.get(what)?, errno),
            2 => Self::Failed(Failed { stage: *Stage::ALL.get(what)?, errno }),
            3 => Self::Ready,
            _ => return None,
        })
    }
}

/// Words that wait to be told. Each write wakes the agent, and puts the child off where they share a processor.
struct Words {
    bytes: [u8; WORDS],
    length: usize,
}

impl Words {
    fn push(&mut self, word: &Word) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length + LINE) {
            place.copy_from_slice(&word.line());
            self.length += LINE;
        }
    }

    fn tell(&mut self, to: BorrowedFd<'_>) {
        // An agent that is gone needs no word.
        let _ = rustix::io::write(to, self.bytes.get(..self.length).unwrap_or_default());
        self.length = 0;
    }
}

/// A user as the system calls want it.
pub(super) struct Ids {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Ids {
    pub(super) fn new(user: &User) -> Self {
        let groups = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        Self { uid: Uid::from_raw(user.uid), gid: Gid::from_raw(user.gid), groups }
    }
}

/// What the child needs, all of it made before the fork.
pub(super) struct Plan<'a> {
    pub(super) launch: &'a Launch,
    pub(super) argv: *const *const libc::c_char,
    pub(super) envp: *const *const libc::c_char,
    pub(super) ids: Option<Ids>,
    /// Where the word comes from.
    pub(super) wait: BorrowedFd<'a>,
    /// The agent's end of it, of which the child has a copy.
    pub(super) go: RawFd,
    pub(super) tell: BorrowedFd<'a>,
}

/// The child's way. It ends in exec or in exit.
pub(super) fn run(plan: &Plan<'_>, how: How) -> Infallible {
    // SAFETY: the copy is nobody else's in this process.
    unsafe { rustix::io::close(plan.go) };
    let mut words = Words { bytes: [0; WORDS], length: 0 };
    let prepared = prepare(plan, how, &mut words);
    let mut word = [0];
    // While the child was made ready the agent has written it down. Without the word there is no agent any more.
    if matches!(rustix::io::read(plan.wait, &mut word), Ok(1)) {
        let failed = match prepared {
            Ok(()) => {
                close_on_exec();
                unblock();
                words.push(&Word::Ready);
                words.tell(plan.tell);
                // SAFETY: the program and both arrays are texts with a zero at their end, the arrays end with a null pointer, and
                // all of it lives in the plan.
                unsafe { libc::execve(plan.launch.program.as_ptr(), plan.argv, plan.envp) };
                Failed { stage: Stage::Exec, errno: errno() }
            }
            Err(failed) => failed,
        };
        words.push(&Word::Failed(failed));
        words.tell(plan.tell);
    }
    // SAFETY: ends the process and runs nothing of ours on the way.
    unsafe { libc::_exit(127) }
}

fn prepare(plan: &Plan<'_>, how: How, words: &mut Words) -> Result<(), Failed> {
    let launch = plan.launch;
    let at = |stage| move |errno| Failed { stage, errno };
    if how == How::Old
        && let Some(procs) = &launch.procs
    {
        rustix::io::write(procs, b"0").map_err(at(Stage::Cgroup))?;
    }
    // What is ignored stays so over exec: SIGPIPE by our runtime, others by whoever started us.
    match how {
        How::New => (1..=64).filter(|signal| launch.ignored >> (signal - 1) & 1 == 1).for_each(default_handler),
        How::Old => default_handlers(),
    }
    // A terminal that is closed is nothing to a payload. Fails only where it leads a session already.
    let _ = rustix::process::setsid();
    rustix::stdio::dup2_stdin(&launch.input).map_err(at(Stage::Output))?;
    // The run before may have asked for errors in place of waits, which this one is not written for.
    let _ = rustix::fs::fcntl_setfl(&launch.output, rustix::fs::OFlags::empty());
    rustix::stdio::dup2_stdout(&launch.output).map_err(at(Stage::Output))?;
    rustix::stdio::dup2_stderr(&launch.output).map_err(at(Stage::Output))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    for (resource, limit) in &launch.limits {
        // Made to fit by the agent; a limit that does not hold keeps nothing from running.
        let _ = rustix::process::setrlimit(*resource, *limit);
    }
    mortal();
    let wants = |layer| launch.wanted.has(layer);
    if wants(Layer::Tmp) {
        layer(plan, words, Layer::Tmp, own_tmp(launch.tmp.as_deref()))?;
    }
    let bounded = if wants(Layer::Capabilities) { drop_bounding_set() } else { Ok(()) };
    if wants(Layer::NoNewPrivs) {
        layer(plan, words, Layer::NoNewPrivs, rustix::thread::set_no_new_privs(true))?;
    }
    if let Some(Ids { uid, gid, groups }) = &plan.ids {
        rustix::thread::set_thread_groups(groups).map_err(at(Stage::User))?;
        rustix::thread::set_thread_res_gid(*gid, *gid, *gid).map_err(at(Stage::User))?;
        rustix::thread::set_thread_res_uid(*uid, *uid, *uid).map_err(at(Stage::User))?;
    }
    let root = rustix::process::geteuid().is_root();
    let dropped = drop_capabilities(root && !wants(Layer::Capabilities));
    if wants(Layer::Capabilities) {
        // Only root gets back by exec what the bounding set still has.
        layer(plan, words, Layer::Capabilities, dropped.and(if root { bounded } else { Ok(()) }))?;
    } else {
        dropped.map_err(at(Stage::User))?;
    }
    // With no more rights than the program will have, which must be able to come back to it.
    rustix::process::chdir(launch.directory.as_c_str()).map_err(at(Stage::Directory))?;
    if let Some(rules) = &launch.rules {
        let done = restrict(rules.fd.as_raw_fd());
        for each in [Layer::Files, Layer::Ports, Layer::Scope] {
            if rules.layers.has(each) {
                layer(plan, words, each, done)?;
            }
        }
    }
    if wants(Layer::SystemCalls) && !launch.filters.is_empty() {
        let done = launch.filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter).map_err(|_| errno()));
        layer(plan, words, Layer::SystemCalls, done)?;
    }
    // What could not even be made ready was not told of above.
    let told = launch.rules.as_ref().map_or(LayerSet::NONE, |rules| rules.layers);
    let unready = [
        (Layer::Files, !told.has(Layer::Files)),
        (Layer::Ports, wants(Layer::Ports) && !told.has(Layer::Ports)),
        (Layer::Scope, !told.has(Layer::Scope)),
        (Layer::SystemCalls, launch.filters.is_empty()),
        (Layer::Cgroup, launch.cgroup.is_none()),
    ];
    if unready.iter().any(|(each, unready)| *unready && launch.require.has(*each)) {
        return Err(Failed { stage: Stage::Layer, errno: Errno::NOTSUP });
    }
    Ok(())
}

/// Tells what became of a layer. One that is insisted on is not gone without.
fn layer(plan: &Plan<'_>, words: &mut Words, layer: Layer, done: Result<(), Errno>) -> Result<(), Failed> {
    match done {
        Ok(()) => words.push(&Word::Held(layer)),
        Err(errno) if plan.launch.require.has(layer) => return Err(Failed { stage: Stage::Layer, errno }),
        Err(errno) => words.push(&Word::Missing(layer, errno)),
    }
    Ok(())
}

/// A `/tmp` of its own. Mounts of the rig still come in, none go out.
fn own_tmp(tmp: Option<&CStr>) -> Result<(), Errno> {
    let tmp = tmp.ok_or(Errno::INVAL)?;
    // SAFETY: this process has one thread and shares no memory; of files, only its own view of the mounts is made its own.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    rustix::mount::mount_bind(tmp, c"/tmp")
}

/// The agent is the last that the kernel kills for memory, and its children inherit that.
fn mortal() {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", flags, rustix::fs::Mode::empty()) {
        let _ = rustix::io::write(file, b"100");
    }
}

/// The agent's own, which another user would keep over setresuid and exec where they are ambient (capabilities(7)): the kernel takes
/// out of that set what is not inheritable. `keep`: root has what is its own by being root, and whoever builds containers needs it.
fn drop_capabilities(keep: bool) -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    let mut sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    if keep {
        sets = CapabilitySets { inheritable: none, ..rustix::thread::capabilities(None)? };
    }
    rustix::thread::set_capabilities(None, sets)
}

fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..CAPABILITIES {
        let (drop, none) = (libc::PR_CAPBSET_DROP, 0_usize);
        // SAFETY: takes a number and changes nothing but the set (prctl(2)).
        let result = unsafe { libc::syscall(libc::SYS_prctl, drop, libc::c_ulong::from(capability), none, none, none) };
        if result < 0 {
            // EINVAL: there are no more.
            return if errno() == Errno::INVAL { Ok(()) } else { Err(errno()) };
        }
    }
    Ok(())
}

fn restrict(rules: RawFd) -> Result<(), Errno> {
    // SAFETY: takes a descriptor of landlock, which the agent holds open, and no flags (landlock_restrict_self(2)).
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, 0_u32) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

pub(in super::super) fn default_handlers() {
    (1..=64).for_each(default_handler);
}

/// The C library's sigaction may take a lock; the kernel's own takes 32 bytes of zeros for the default, and 8 of mask.
fn default_handler(signal: libc::c_int) {
    let action = [0_u64; 4];
    // SAFETY: the kernel reads a `struct sigaction` of 32 bytes, and writes none where the old one is not asked for.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
}

/// The signals that this process ignores, a bit each, the first for signal 1.
pub(in super::super) fn ignored() -> u64 {
    (1..=64_i32).fold(0, |ignored, signal| {
        let mut action = [0_u64; 4];
        // SAFETY: the kernel writes a `struct sigaction` of 32 bytes, handler first, and reads none.
        let asked = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, std::ptr::null::<u64>(), action.as_mut_ptr(), 8_usize)
        };
        let [handler, ..] = action;
        ignored | u64::from(asked == 0 && handler == libc::SIG_IGN as u64) << (signal - 1)
    })
}

pub(in super::super) fn unblock() {
    let none = 0_u64;
    // SAFETY: the kernel reads 8 bytes of mask and writes none.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, std::ptr::null::<u64>(), 8_usize);
    }
}

/// Ours all are; what whoever started us has left open is not. Before Linux 5.11 that stays.
fn close_on_exec() {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: marks descriptors, and closes none.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
}

fn errno() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(raw)
}
