//! What a payload says, in a ring of four files with a budget in bytes.
//!
//! ```text
//! payload ── stdout, stderr ── pipe ── keeper ── log/0000000000012000, named by the offset of its first byte
//! ```
//!
//! The pipe does not lead to the agent, which may be killed or replaced while the payload works, but to a **keeper**: a fork of the
//! agent that only copies (`keeper.rs`), one for each payload, in a cgroup of its own. It outlives the agent, ends when nobody can
//! write to it any more, and has then written down what was still in the pipe, which is where the reason of a crash stands.
//!
//! What was weighed against it: files that the payload writes itself are bounded only as often as somebody looks, and not at all
//! while nobody does: at 100 MB/s a missing agent costs 100 MB in the second that systemd takes to start the next. A pipe or FIFO
//! to the agent is bounded, and stops the payload when it is full and the agent away. A socket loses the agent and gives the payload
//! an error it was not written for. The price of a keeper is one process that sleeps, and some 200 KiB of its own.
//!
//! Whoever comes after an agent takes hold of both ends of the pipe again, through its keeper, so that a keeper that dies costs
//! nothing while an agent is there. Where one dies while none is, and the next agent may not look into the payload (a payload of
//! another user, an agent without `CAP_SYS_PTRACE`), nobody is left who has the pipe's other end: the payload's next word is answered
//! with SIGPIPE. Only another process that holds it could close that gap, and it could be killed as well.
//!
//! The budget holds at any rate: a file is full at a quarter of it and the oldest goes before the next is made. Beyond
//! `max_rate`, with the budget as a reserve, what comes is counted and dropped, so that a payload that babbles
//! does not wear out the rig's flash. A disk that takes nothing loses log and stops nobody.
//!
//! Secrets are masked when it is read. On disk the files are the agent's alone, as the files of the secrets are.

mod keeper;

use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::manifest::Log;
use crate::sorted;

/// Files of a ring.
const SEGMENTS: usize = 4;
/// Bytes that one reading gives at least, where there are so many.
const LEAST: usize = 1024;
/// In place of a line that is longer than a reading.
const TOO_LONG: &str = "[rigd: part of a line that is too long]\n";
/// Bytes that one reading gives at most.
pub const MOST: usize = 256 * 1024;

/// One payload's ring.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    directory: PathBuf,
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
    /// The other end, which nobody reads here: as long as it is held, a payload whose keeper is gone waits for the next one
    /// and gets no SIGPIPE.
    input: OwnedFd,
    pidfd: OwnedFd,
    pipe: u64,
}

impl Ring {
    pub(super) fn new(directory: &Path, settings: &Log) -> Self {
        let segments = u64::try_from(SEGMENTS).unwrap_or(1);
        Self { directory: directory.to_owned(), segment: settings.max_bytes / segments, max_rate: settings.max_rate }
    }

    /// Starts a keeper, in this cgroup.
    ///
    /// # Errors
    /// What the system says; then there is no log.
    pub(super) fn keep(&self, cgroup: Option<&OwnedFd>) -> io::Result<Keeper> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let (input, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let pidfd = self.copier(&input, cgroup)?;
        Keeper::new(writer, input, pidfd)
    }

    /// Starts another in the place of one that has ended, at the same pipe. What was in the pipe is not lost.
    ///
    /// # Errors
    /// What the system says; then the pipe is left without a reader, and held.
    pub(super) fn go_on(&self, keeper: &mut Keeper, cgroup: Option<&OwnedFd>) -> io::Result<()> {
        keeper.pidfd = self.copier(&keeper.input, cgroup)?;
        Ok(())
    }

    /// The keeper of a payload that an earlier agent has started, found by the pipe that it reads; another one where
    /// that has ended. `keeper` is the process that may be it.
    ///
    /// The pipe is opened anew through `/proc`, which the kernel allows as it allows tracing (`proc_fd_access_allowed`): of a keeper,
    /// which is a fork of the agent with its user and its capabilities, to any agent of the same unit; of a payload, which may be
    /// another user's, only to one with `CAP_SYS_PTRACE`, which the unit does not have.
    ///
    /// # Errors
    /// What the system says, which may not let us look.
    pub(super) fn take_over(
        &self,
        payload: i32,
        pipe: u64,
        keeper: Option<Pid>,
        cgroup: Option<&OwnedFd>,
    ) -> io::Result<Keeper> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let theirs = [1, 2].map(|fd| format!("/proc/{payload}/fd/{fd}"));
        let own = keeper.map(|keeper| format!("/proc/{}/fd/0", keeper.as_raw_nonzero()));
        // What it has put in that place itself is none of ours.
        let ours = |path: &&String| fs::metadata(path).is_ok_and(|at| at.file_type().is_fifo() && at.ino() == pipe);
        let path = own.iter().chain(&theirs).find(ours).ok_or(io::ErrorKind::NotFound)?;
        let open = |flags| {
            let end = rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
            rustix::fs::fcntl_setfl(&end, OFlags::empty()).map(|()| end)
        };
        let writer = open(OFlags::WRONLY)?;
        // Set where nobody reads any more (poll(2)); asked before we could.
        let mut asked = [PollFd::new(&writer, PollFlags::empty())];
        poll(&mut asked, Some(&Timespec::default()))?;
        let alone = asked.iter().any(|end| end.revents().contains(PollFlags::ERR));
        let input = open(OFlags::RDONLY)?;
        let pidfd = if alone {
            self.copier(&input, cgroup)?
        } else {
            pidfd_open(keeper.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?
        };
        Keeper::new(writer, input, pidfd)
    }

    /// Forks who copies from this pipe.
    fn copier(&self, input: &OwnedFd, cgroup: Option<&OwnedFd>) -> io::Result<OwnedFd> {
        let directory: OwnedFd = File::open(&self.directory)?.into();
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
        let mut starts = [0; SEGMENTS];
        let segments = self.segments();
        let newest = segments.get(segments.len().saturating_sub(SEGMENTS)..).unwrap_or_default();
        for (slot, (start, _)) in starts.iter_mut().zip(newest) {
            *slot = *start;
        }
        let plan = keeper::Plan {
            input,
            directory: &directory,
            null: &null,
            segment: self.segment,
            max_rate: self.max_rate,
            starts,
            known: newest.len(),
            filled: newest.last().map_or(0, |(_, length)| *length),
        };
        let (_, pidfd) = super::spawn::fork(cgroup, |how| keeper::run(plan, how))?;
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

impl Keeper {
    fn new(writer: OwnedFd, input: OwnedFd, pidfd: OwnedFd) -> io::Result<Self> {
        let pipe = rustix::fs::fstat(&writer)?.st_ino;
        Ok(Self { writer, input, pidfd, pipe })
    }

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
        // A shorter one would hide half of any text.
        Self { before: before.to_vec(), secrets: secrets.filter(|secret| secret.len() >= 6).collect() }
    }

    fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), HIDDEN);
        }
        for pattern in &self.before {
            text = hide_after(&text, pattern);
        }
        text
    }
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
