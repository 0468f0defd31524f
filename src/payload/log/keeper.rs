//! The keeper: forks of the agent that copy a pipe into files. System calls only, as in every child of ours before exec: they have
//! copies of locks that nobody will ever release.
//!
//! ```text
//! payload ── its pipe ── first: reads, counts, drops ── a pipe between them ── second: writes the files
//! ```
//!
//! They are two, so that neither a disk that hangs nor the death of one holds the payload up. The first never touches the disk: what
//! the second does not take it drops and counts, and the rest of that line with it (`lines.rs`). A second that dies is replaced by the
//! first. A first that dies is followed by its second, which writes down what was between them, becomes the first and makes another
//! second. Only what the dead one had in its hand, at most 64 KiB, is lost then, and nobody knows that it is. The first has the lock of
//! the ring, by which the next one, and the next agent, know of it.

mod lines;
mod ring;

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, OFlags, fcntl_lock, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::super::spawn::{How, twin};
use super::{ROOM, SEGMENTS};
use crate::clock;
use lines::Lines;
use ring::Ring;
pub(super) use ring::name;

/// What is copied at a time: as much as a pipe holds by itself.
const CHUNK: usize = 64 * 1024;
/// Descriptors above these are the agent's.
const DIRECTORY: i32 = 3;
const LOCK: i32 = 4;
/// The first waits so long for a second that takes nothing, once, and not at all until that takes something again.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Whatever ends a second, another is made so often at most; and so long is waited where none can be made.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// All that it needs, made before the fork.
pub(super) struct Plan<'a> {
    pub(super) input: &'a OwnedFd,
    pub(super) directory: &'a OwnedFd,
    pub(super) lock: &'a OwnedFd,
    pub(super) null: &'a OwnedFd,
    /// Bytes of a file.
    pub(super) segment: u64,
    /// Bytes a second.
    pub(super) max_rate: u64,
}

/// Copies until nobody can write any more.
pub(super) fn run(plan: &Plan<'_>, how: How) -> Infallible {
    if settle(plan, how).is_some() {
        keep(plan.segment, plan.max_rate);
    }
    // SAFETY: ends the process and runs nothing of ours on the way.
    unsafe { libc::_exit(0) }
}

/// Leaves everything of the agent behind but the three descriptors that it needs.
fn settle(plan: &Plan<'_>, how: How) -> Option<()> {
    rustix::stdio::dup2_stdin(plan.input).ok()?;
    rustix::stdio::dup2_stdout(plan.null).ok()?;
    rustix::stdio::dup2_stderr(plan.null).ok()?;
    // Out of the way first: either may be where the other one goes.
    let away = |fd: &OwnedFd| fcntl_dupfd_cloexec(fd, LOCK + 1).map(OwnedFd::into_raw_fd);
    for (from, to) in [(away(plan.directory).ok()?, DIRECTORY), (away(plan.lock).ok()?, LOCK)] {
        // SAFETY: whatever was there is a copy of the agent's that nobody here uses.
        if unsafe { libc::syscall(libc::SYS_dup3, from, to, libc::O_CLOEXEC) } < 0 {
            return None;
        }
    }
    // SAFETY: nothing above is used from here on.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, LOCK + 1, libc::c_uint::MAX, 0) };
    if closed < 0 {
        // Before Linux 5.9. The agent has some tens.
        // SAFETY: as above.
        (LOCK + 1..1024).for_each(|fd| unsafe { rustix::io::close(fd) });
    }
    let _ = rustix::process::setsid();
    if how == How::Old {
        super::super::spawn::default_handlers();
    }
    super::super::spawn::unblock();
    let _ = rustix::thread::set_name(c"rigd-log");
    Some(())
}

/// The first, and what becomes of its second.
fn keep(segment: u64, max_rate: u64) {
    // SAFETY: `settle` has put all three there, and nothing closes them.
    let [input, directory, lock] = [0, DIRECTORY, LOCK].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    // One at a time writes to a ring: where somebody else still does, this one is its relief. Where there are no locks there is
    // nobody to wait for.
    while fcntl_lock(lock, FlockOperation::LockExclusive) == Err(Errno::INTR) {}
    let budget = segment.saturating_mul(u64::try_from(SEGMENTS).unwrap_or(1));
    // A chunk always fits: otherwise all of it would be dropped for ever.
    let most = budget.max(u64::try_from(CHUNK).unwrap_or(budget));
    let mut chunk = [0; CHUNK];
    while let Some(source) = receive(&mut chunk, input, Rate::new(max_rate, most)) {
        write_down(&mut chunk, source.as_fd(), &mut Ring::found(directory, segment));
        // The kernel has taken the lock from one that was killed. One that has it still is at its end, and waits for this one.
        if fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
    }
}

/// The first: reads until nobody can write any more, and waits until all of it is written down. In the second, a fork of it, it comes
/// back with what that one has to read.
fn receive(chunk: &mut [u8; CHUNK], input: BorrowedFd<'_>, mut rate: Rate) -> Option<OwnedFd> {
    let (source, sink) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    // The second has nothing else to do than wait.
    let _ = fcntl_setfl(&source, OFlags::empty());
    let _ = fcntl_setpipe_size(&sink, ROOM);
    let mut way = Way { sink, patient: true };
    let (mut second, mut lines): (Option<OwnedFd>, _) = (None, Lines::default());
    loop {
        if second.is_none() && !at_end(input) {
            match twin() {
                Ok(Some(pidfd)) => second = Some(pidfd),
                Ok(None) => return Some(source),
                // Tried again; what it does not take meanwhile waits in the pipe between them.
                Err(_) => {}
            }
        }
        let watched = second.as_ref().map_or(input, AsFd::as_fd);
        let mut asked = [input, watched].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut asked, second.is_none().then_some(&AGAIN)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
        let [said, gone] = asked.map(|fd| !fd.revents().is_empty());
        if let Some(pidfd) = second.take_if(|_| gone) {
            // Forgotten by the kernel with this.
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            let _ = poll(&mut [], Some(&AGAIN));
            continue;
        }
        if !said {
            continue;
        }
        let read = match rustix::io::read(input, chunk.as_mut_slice()) {
            Ok(0) => break,
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(_) => break,
        };
        let bytes = chunk.get(..read).unwrap_or_default();
        if rate.take(length(bytes), clock::now()) {
            lines.pass(bytes, &mut |bytes| way.pass(bytes));
        } else {
            lines.lose(bytes);
        }
    }
    if let Some(pidfd) = second.as_ref().filter(|_| lines.has_lost()) {
        // Nobody is held up any more.
        let mut asked =
            [PollFd::new(&way.sink, PollFlags::OUT), PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        let _ = poll(&mut asked, None);
        lines.tell(&mut |bytes| way.pass(bytes));
    }
    // That is the end for the second, too.
    drop(way);
    if let Some(pidfd) = second {
        while matches!(waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED), Err(Errno::INTR)) {}
    }
    None
}

/// Whether nobody can write to it any more and nothing is left in it.
fn at_end(input: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(input, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec::default())).is_ok() && asked.iter().all(|fd| fd.revents() == PollFlags::HUP)
}

/// From the first to the second.
struct Way {
    sink: OwnedFd,
    /// The second has taken something since it was last waited for in vain.
    patient: bool,
}

impl Way {
    /// Passes on, and gives how many bytes could not be.
    fn pass(&mut self, mut bytes: &[u8]) -> u64 {
        while !bytes.is_empty() {
            match rustix::io::write(&self.sink, bytes) {
                Ok(written) => {
                    self.patient = true;
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.patient => {
                    let mut asked = [PollFd::new(&self.sink, PollFlags::OUT)];
                    self.patient = poll(&mut asked, Some(&PATIENCE)).is_ok_and(|ready| ready > 0);
                }
                Err(_) => break,
            }
        }
        length(bytes)
    }
}

/// The second: writes down until the first is gone.
fn write_down(chunk: &mut [u8; CHUNK], source: BorrowedFd<'_>, ring: &mut Ring<'_>) {
    let mut lines = Lines::default();
    loop {
        let read = match rustix::io::read(source, chunk.as_mut_slice()) {
            Ok(0) => break,
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(_) => break,
        };
        lines.pass(chunk.get(..read).unwrap_or_default(), &mut |bytes| ring.write(bytes));
    }
    lines.tell(&mut |bytes| ring.write(bytes));
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// A reserve that fills by time and is emptied by bytes.
struct Rate {
    rate: u64,
    most: u64,
    reserve: u64,
    at: Instant,
}

impl Rate {
    fn new(rate: u64, most: u64) -> Self {
        Self { rate, most, reserve: most, at: clock::now() }
    }

    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let micros = u64::try_from(now.saturating_duration_since(self.at).as_micros()).unwrap_or(u64::MAX);
        let more = self.rate.saturating_mul(micros) / 1_000_000;
        if more > 0 {
            self.at = now;
            self.reserve = self.reserve.saturating_add(more).min(self.most);
        }
        let enough = self.reserve >= bytes;
        if enough {
            self.reserve -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_second_that_takes_nothing_is_waited_for_once() {
        let (source, sink) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut way = Way { sink, patient: true };
        let chunk = [b'x'; CHUNK];
        // As much as it holds, and no more.
        assert_eq!((way.pass(&chunk), way.patient), (0, true));
        let before = clock::now();
        assert_eq!((way.pass(&chunk), way.patient), (65_536, false));
        assert!(before.elapsed() >= Duration::from_millis(200));
        let before = clock::now();
        for _ in 0..100 {
            assert_eq!((way.pass(&chunk), way.patient), (65_536, false));
        }
        // A wait for each of them would be twenty seconds.
        assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
        // It takes something again: so does the next one that waits.
        let mut taken = [0; CHUNK];
        assert_eq!(rustix::io::read(&source, &mut taken), Ok(CHUNK));
        assert_eq!((way.pass(b"said"), way.patient), (0, true));
    }

    #[test]
    fn a_rate_has_a_reserve_and_no_more() {
        let start = clock::now();
        let mut rate = Rate { rate: 1_000, most: 500, reserve: 500, at: start };
        // milliseconds, bytes, taken
        for (millis, bytes, taken) in [
            (0, 400, true),
            (0, 200, false),
            (100, 200, true),
            (150, 51, false),
            (150, 50, true),
            (9_000, 501, false),
            (9_000, 500, true),
        ] {
            let at = start + Duration::from_millis(millis);
            assert_eq!(rate.take(bytes, at), taken, "{bytes} bytes at {millis} ms");
        }
    }
}
