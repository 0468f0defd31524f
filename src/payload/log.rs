//! What a payload says, in a ring of four files with a budget in bytes.
//!
//! ```text
//! payload ── stdout, stderr ── pipe ── keeper ── log/0000000000012000, named by the offset of its first byte
//! ```
//!
//! The pipe does not lead to the agent, which may be killed or replaced while the payload works, but to a **keeper**: two forks of the
//! agent that only copy (`keeper.rs`), a pair for each payload, in a cgroup of its own. It outlives the agent, ends when nobody can
//! write to it any more, and has then written down what was still in the pipe, which is where the reason of a crash stands.
//!
//! What was weighed against it: files that the payload writes itself are bounded only as often as somebody looks, and not at all
//! while nobody does: at 100 MB/s a missing agent costs 100 MB in the second that systemd takes to start the next. A pipe or FIFO
//! to the agent is bounded, and stops the payload when it is full and the agent away. A socket loses the agent and gives the payload
//! an error it was not written for. The price of a keeper is two processes that sleep, and some 200 KiB of their own each.
//!
//! **No payload dies of its log.** It has its end of the pipe for reading, too (fifo(7): "a process that uses both ends"), so there is
//! always a reader, and never a SIGPIPE, whoever else is gone.
//!
//! **None waits for its log**, but in one case. Of the two that keep it each is followed by the other, at once and without an agent,
//! and a disk that hangs holds up only the second. Where both are killed in the same moment, an agent that is there makes others
//! within 200 ms, and the next one does where there is none; the kernel offers no pipe that forgets, and an error in place of
//! a wait (`O_NONBLOCK`) is what programs die of. Until then the payload has a mebibyte to fill: at the kilobyte a second of a miner,
//! a quarter of an hour. Then it waits, is not harmed, and goes on as soon as there is an agent, which logs a line about it. The kernel kills keepers
//! for want of memory as late as the agent, whose `OOMScoreAdjust` they have.
//!
//! **Whoever comes after an agent finds the pipe by its name**, `/run/rigd/payloads/NAME`, also that of another user's payload, with
//! cgroups or without; its keeper it finds by the lock on `log/keeper`. What was in the pipe is not lost. Where systemd gives no
//! runtime directory the pipe is `log/pipe`, on the disk: a file system that hangs may then hold up a payload, since the kernel writes the time
//! into the pipe's inode. Where the name is gone (a `systemctl stop` without `RuntimeDirectoryPreserve=`, as in `payloads.conf`), the
//! keeper goes on by itself, and no agent can replace it until the payload is started again.
//!
//! Without cgroups what has left the payload's session may still write when the payload is started again. Both are kept by the keeper
//! of before, with the `[log]` settings of before, until what was left behind has ended.
//!
//! The budget holds at any rate: a file is full at a quarter of it and the oldest goes before the next is made. Beyond
//! `max_rate`, with the budget as a reserve, what comes is counted and dropped, so that a payload that babbles
//! does not wear out the rig's flash. A disk that takes nothing, or nothing in time, loses log and stops nobody.
//!
//! Secrets are masked when it is read, those of several lines line by line. What was lost begins and ends within a line mostly: of such a
//! line no half is shown, for half a secret is not known for one. On disk the files are the agent's alone, as the files of the secrets are.

mod keeper;

use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Flock, FlockType, PidfdFlags, WaitId, WaitIdOptions, fcntl_getlk, pidfd_open, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::manifest::Log;
use crate::sorted;

/// Files of a ring.
const SEGMENTS: usize = 4;
/// Bytes that one reading gives at least, where there are so many.
const LEAST: usize = 1024;
/// Bytes that a pipe holds, where the kernel gives as many (/proc/sys/fs/pipe-max-size). Memory is taken for what is in it only.
const ROOM: usize = 1 << 20;
/// Beside the ring: whoever writes to it has a lock on this.
const LOCK: &str = "keeper";
/// How our own words in a log begin.
const MARK: &str = "[rigd: ";
/// In place of a line that is longer than a reading.
const TOO_LONG: &str = "[rigd: part of a line that is too long]\n";
/// Bytes that one reading gives at most.
pub const MOST: usize = 256 * 1024;

/// One payload's ring.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    directory: PathBuf,
    pipe: PathBuf,
    segment: u64,
    max_rate: u64,
}

/// Part of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Offset of the first byte, counted from the first that was ever written.
    pub from: u64,
    /// Where to go on.
    pub next: u64,
    /// What was said, masked; bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// Who writes it down.
#[derive(Debug)]
pub(super) struct Keeper {
    /// For the payload's output. As long as it is held the keeper goes on, from one run to the next.
    pub(super) writer: OwnedFd,
    pidfd: OwnedFd,
    pipe: u64,
    /// It was there already.
    pub(super) found: bool,
}

impl Ring {
    /// A ring in this directory, and where its pipe has its name.
    pub(super) fn new(directory: &Path, pipe: PathBuf, settings: &Log) -> Self {
        let segments = u64::try_from(SEGMENTS).unwrap_or(1);
        let (segment, max_rate) = (settings.max_bytes / segments, settings.max_rate);
        Self { directory: directory.to_owned(), pipe, segment, max_rate }
    }

    /// Starts a keeper, in this cgroup; one that is left of an earlier run goes on instead.
    ///
    /// # Errors
    /// What the system says; then there is no log.
    pub(super) fn keep(&self, cgroup: Option<&OwnedFd>) -> io::Result<Keeper> {
        self.make_directory()?;
        match mknodat(CWD, &self.pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
            // A payload of another user is given its pipe (`prepare.rs`); the agent's group keeps its hold on it.
            Ok(()) => fs::set_permissions(&self.pipe, fs::Permissions::from_mode(0o660))?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.of(self.open()?, cgroup)
    }

    /// The keeper of a payload that an earlier agent has started, whose pipe this is; another one where nobody keeps it any more.
    ///
    /// # Errors
    /// What the system says; `NotFound` where the pipe of that name is another one.
    pub(super) fn take_over(&self, pipe: u64, cgroup: Option<&OwnedFd>) -> io::Result<Keeper> {
        let writer = self.open()?;
        if writer.metadata()?.ino() != pipe {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.of(writer, cgroup)
    }

    /// Finds who has taken the place of one that has ended, or starts another. What was in the pipe is not lost.
    ///
    /// # Errors
    /// What the system says; then the pipe is left to fill, and held.
    pub(super) fn go_on(&self, keeper: &mut Keeper, cgroup: Option<&OwnedFd>) -> io::Result<()> {
        (keeper.pidfd, keeper.found) = self.keeper(&keeper.writer, cgroup)?;
        Ok(())
    }

    fn make_directory(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Both ends of the pipe in one, which waits for nobody (fifo(7)).
    fn open(&self) -> io::Result<File> {
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let pipe = File::options().read(true).write(true).custom_flags(flags).open(&self.pipe)?;
        if !pipe.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other(format!("{} is no pipe", self.pipe.display())));
        }
        Ok(pipe)
    }

    fn of(&self, writer: File, cgroup: Option<&OwnedFd>) -> io::Result<Keeper> {
        let (pipe, writer) = (writer.metadata()?.ino(), OwnedFd::from(writer));
        // A pipe as the kernel makes it is one, too.
        let _ = fcntl_setpipe_size(&writer, ROOM);
        let (pidfd, found) = self.keeper(&writer, cgroup)?;
        Ok(Keeper { writer, pidfd, pipe, found })
    }

    /// Who keeps it, and whether that one was there already.
    fn keeper(&self, writer: &OwnedFd, cgroup: Option<&OwnedFd>) -> io::Result<(OwnedFd, bool)> {
        self.make_directory()?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = OwnedFd::from(options.open(self.directory.join(LOCK))?);
        match holder(&lock) {
            Some(keeper) => Ok((keeper, true)),
            // Where somebody is about to take the lock, this one is the next after it.
            None => Ok((self.copier(writer, &lock, cgroup)?, false)),
        }
    }

    /// Forks who copies from this pipe.
    fn copier(&self, writer: &OwnedFd, lock: &OwnedFd, cgroup: Option<&OwnedFd>) -> io::Result<OwnedFd> {
        let input = File::open(format!("/proc/self/fd/{}", writer.as_raw_fd()))?.into();
        let directory = File::open(&self.directory)?.into();
        let null = File::options().read(true).write(true).open("/dev/null")?.into();
        let plan = keeper::Plan {
            input: &input,
            directory: &directory,
            lock,
            null: &null,
            segment: self.segment,
            max_rate: self.max_rate,
        };
        let (_, pidfd) = super::spawn::fork(cgroup, |how| keeper::run(&plan, how))?;
        Ok(pidfd)
    }

    /// First offset and length of each file, oldest first.
    fn segments(&self) -> Vec<(u64, u64)> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        sorted::list(entries.filter_map(|entry| {
            let start = u64::from_str_radix(entry.file_name().to_str()?, 16).ok()?;
            Some((start, entry.metadata().ok()?.len()))
        }))
    }

    /// Reads whole lines from an offset on, or the newest where none is given; at most `most` bytes, which are 1 to 256 KiB. What is
    /// gone already is left out: then `from` is above what was asked for.
    ///
    /// Whole lines, because half a secret is not known for one: whoever could choose where a reading begins would be shown the rest
    /// of it. The last line may be half a one where nothing more will be written to it, `ended`.
    ///
    /// # Errors
    /// What the system says of the files.
    pub(super) fn read(&self, from: Option<u64>, most: usize, ended: bool, mask: &Mask) -> io::Result<Part> {
        let segments = self.segments();
        let Some((newest, length)) = segments.last().copied() else { return Ok(Part::default()) };
        let (oldest, end) = (segments.first().map_or(newest, |(start, _)| *start), newest + length);
        let most = u64::try_from(most.clamp(LEAST, MOST)).unwrap_or(0);
        let from = from.unwrap_or_else(|| end.saturating_sub(most)).clamp(oldest, end);
        // With the byte before it, which says whether a line begins there.
        let (start, bytes) = self.bytes(&segments, from.saturating_sub(1).max(oldest), most + 1)?;
        let whole = if from == 0 { 0 } else { bytes.iter().position(is_end).map_or(bytes.len(), |at| at + 1) };
        let next = start + size(&bytes);
        let last = bytes.iter().rposition(is_end).map_or(0, |at| at + 1).max(whole);
        let last = if ended && next == end { bytes.len() } else { last };
        let text = bytes.get(whole..last).unwrap_or_default();
        if !text.is_empty() {
            let from = start + u64::try_from(whole).unwrap_or(0);
            let text = mask.apply(&String::from_utf8_lossy(text));
            return Ok(Part { from, next: start + u64::try_from(last).unwrap_or(0), text });
        }
        // One line that does not fit is told of and passed over; one that is not finished yet is waited for.
        let long = size(&bytes) > most;
        let text = if long { TOO_LONG.to_owned() } else { String::new() };
        Ok(Part { from, next: if long { next } else { from }, text })
    }

    /// So many bytes from an offset on, and where they start: later, where the ring has turned meanwhile.
    fn bytes(&self, segments: &[(u64, u64)], from: u64, most: u64) -> io::Result<(u64, Vec<u8>)> {
        let (mut bytes, mut next) = (Vec::new(), from);
        for (start, length) in segments.iter().filter(|(start, length)| start + length > from) {
            let left = most.saturating_sub(size(&bytes));
            // Full, or a gap: what is behind it is another reading's.
            if left == 0 || !bytes.is_empty() && *start > next {
                break;
            }
            let mut file = match File::open(self.directory.join(keeper::name(*start).text())) {
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let at = next.max(*start);
            file.seek(SeekFrom::Start(at - start))?;
            let read = file.take(left.min(length - (at - start))).read_to_end(&mut bytes)?;
            next = at + u64::try_from(read).unwrap_or(0);
        }
        Ok((next - size(&bytes), bytes))
    }
}

/// Progress bars end their lines with a carriage return.
const fn is_end(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The process that has the lock; `None` where none has.
fn holder(lock: &OwnedFd) -> Option<OwnedFd> {
    let held = || fcntl_getlk(lock, &Flock::from(FlockType::WriteLock)).ok().flatten()?.pid;
    let pid = held()?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // It may have ended in between, and its number be another one's.
    (held() == Some(pid)).then_some(pidfd)
}

impl Keeper {
    /// Whether it still works. One that has ended is forgotten by the kernel with this call.
    #[must_use]
    pub(super) fn works(&self) -> bool {
        use std::os::fd::AsFd;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // That of an earlier agent is not ours to wait for; its end is heard all the same.
        matches!(waitid(WaitId::PidFd(self.pidfd.as_fd()), options), Ok(None) | Err(Errno::CHILD))
    }

    /// What tells of its end.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn end(&self) -> io::Result<AsyncFd<OwnedFd>> {
        super::watch(self.pidfd.try_clone()?, Interest::READABLE)
    }

    /// The pipe, by its inode.
    #[must_use]
    pub(super) const fn pipe(&self) -> u64 {
        self.pipe
    }

    /// Lets it end by itself, and gives what tells of that.
    #[must_use]
    pub(super) fn release(self) -> OwnedFd {
        self.pidfd
    }
}

/// What must not be shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Mask {
    /// What follows one of these, to the next blank or quote.
    before: Vec<String>,
    /// These, wherever they stand.
    secrets: Vec<String>,
}

const HIDDEN: &str = "***";

impl Mask {
    pub(super) fn new(before: &[String], secrets: impl Iterator<Item = String>) -> Self {
        // A key of many lines may be said in parts, or with something before each.
        let parts = secrets.flat_map(|secret| {
            let lines: Vec<String> = secret.split(['\n', '\r']).map(|line| line.trim().to_owned()).collect();
            [secret].into_iter().chain(lines)
        });
        // A shorter one would hide half of any text. The longest first: one that is part of another leaves nothing of that one.
        let parts = parts.filter(|part| part.len() >= 6);
        let mut secrets = sorted::list_by(parts, |one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        secrets.dedup();
        Self { before: before.to_vec(), secrets }
    }

    fn apply(&self, text: &str) -> String {
        let mut text = without_halves(text);
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), HIDDEN);
        }
        for pattern in &self.before {
            text = hide_after(&text, pattern);
        }
        text
    }
}

/// Without those beginnings of lines whose rest the keeper has lost. Its mark comes right behind them.
fn without_halves(text: &str) -> String {
    let shown = |line| -> &str {
        let marked = str::trim_end(line).ends_with(']');
        marked.then(|| line.rfind(MARK)).flatten().and_then(|at| line.get(at..)).unwrap_or(line)
    };
    text.split_inclusive(['\n', '\r']).map(shown).collect()
}

fn hide_after(text: &str, pattern: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(pattern) {
        shown.push_str(before);
        shown.push_str(pattern);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).unwrap_or(after.len());
        let (secret, after) = after.split_at(end);
        shown.push_str(if secret.is_empty() { "" } else { HIDDEN });
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests;
