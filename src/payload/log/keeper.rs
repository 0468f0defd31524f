//! The keeper: a fork of the agent that copies a pipe into files. System calls only, as in every child of ours before exec: it has
//! copies of locks that nobody will ever release.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::super::spawn::How;
use super::SEGMENTS;
use crate::clock;

/// What is copied at a time: as much as a pipe holds.
const CHUNK: usize = 64 * 1024;
/// Descriptors above these are the agent's.
const DIRECTORY: i32 = 3;

/// All that it needs, made before the fork.
pub(super) struct Plan<'a> {
    pub(super) input: &'a OwnedFd,
    pub(super) directory: &'a OwnedFd,
    pub(super) null: &'a OwnedFd,
    /// Bytes of a file.
    pub(super) segment: u64,
    /// Bytes a second.
    pub(super) max_rate: u64,
    /// First offsets of the files that are there, oldest first.
    pub(super) starts: [u64; SEGMENTS],
    /// How many there are.
    pub(super) known: usize,
    /// Length of the newest.
    pub(super) filled: u64,
}

/// A file's name.
pub(super) struct Name([u8; 17]);

/// The name of the file that starts at this offset.
pub(super) fn name(start: u64) -> Name {
    let mut name = [0; 17];
    for (digit, shift) in name.iter_mut().zip((0..16).rev()) {
        *digit = u8::try_from(start >> (4 * shift) & 0xf).map_or(b'0', |nibble| match nibble {
            0..=9 => b'0' + nibble,
            _ => b'a' + nibble - 10,
        });
    }
    Name(name)
}

impl Name {
    pub(super) fn text(&self) -> &str {
        std::ffi::CStr::from_bytes_until_nul(&self.0).ok().and_then(|name| name.to_str().ok()).unwrap_or_default()
    }
}

/// Copies until nobody can write any more.
pub(super) fn run(plan: Plan<'_>, how: How) -> Infallible {
    if let Some(directory) = settle(&plan, how) {
        let budget = plan.segment.saturating_mul(u64::try_from(SEGMENTS).unwrap_or(1));
        // A chunk always fits: otherwise all of it would be dropped for ever.
        let rate = Rate::new(plan.max_rate, budget.max(u64::try_from(CHUNK).unwrap_or(budget)));
        let mut ring = Ring::new(&plan, directory);
        // SAFETY: `settle` has put the input there, and nothing closes it.
        copy(unsafe { BorrowedFd::borrow_raw(0) }, &mut ring, rate);
    }
    // SAFETY: ends the process and runs nothing of ours on the way.
    unsafe { libc::_exit(0) }
}

/// Leaves everything of the agent behind but the two descriptors that it needs.
fn settle(plan: &Plan<'_>, how: How) -> Option<BorrowedFd<'static>> {
    rustix::stdio::dup2_stdin(plan.input).ok()?;
    rustix::stdio::dup2_stdout(plan.null).ok()?;
    rustix::stdio::dup2_stderr(plan.null).ok()?;
    // SAFETY: whatever was there is a copy of the agent's that nobody here uses.
    let kept = unsafe { libc::syscall(libc::SYS_dup3, plan.directory.as_raw_fd(), DIRECTORY, libc::O_CLOEXEC) };
    let same = plan.directory.as_raw_fd() == DIRECTORY;
    if kept < 0 && !same {
        return None;
    }
    // SAFETY: nothing above is used from here on.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, DIRECTORY + 1, libc::c_uint::MAX, 0) };
    if closed < 0 {
        // Before Linux 5.9. The agent has some tens.
        // SAFETY: as above.
        (DIRECTORY + 1..1024).for_each(|fd| unsafe { rustix::io::close(fd) });
    }
    let _ = rustix::process::setsid();
    if how == How::Old {
        super::super::spawn::default_handlers();
    }
    super::super::spawn::unblock();
    let _ = rustix::thread::set_name(c"rigd-log");
    // SAFETY: put there above, and nothing closes it.
    Some(unsafe { BorrowedFd::borrow_raw(DIRECTORY) })
}

fn copy(input: BorrowedFd<'_>, ring: &mut Ring<'_>, mut rate: Rate) {
    let mut chunk = [0; CHUNK];
    let mut dropped: u64 = 0;
    loop {
        let read = match rustix::io::read(input, &mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(_) => break,
        };
        let bytes = chunk.get(..read).unwrap_or_default();
        let length = u64::try_from(read).unwrap_or(0);
        if !rate.take(length, clock::now()) {
            dropped = dropped.saturating_add(length);
            continue;
        }
        if dropped > 0 {
            ring.note(dropped);
            dropped = 0;
        }
        dropped = dropped.saturating_add(ring.write(bytes));
    }
    if dropped > 0 {
        ring.note(dropped);
    }
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

/// The files.
struct Ring<'a> {
    directory: BorrowedFd<'a>,
    segment: u64,
    starts: [u64; SEGMENTS],
    known: usize,
    filled: u64,
    file: Option<OwnedFd>,
}

impl<'a> Ring<'a> {
    fn new(plan: &Plan<'_>, directory: BorrowedFd<'a>) -> Self {
        let Plan { segment, starts, known, filled, .. } = *plan;
        Self { directory, segment, starts, known, filled, file: None }
    }

    /// Writes, and gives how many bytes could not be.
    fn write(&mut self, mut bytes: &[u8]) -> u64 {
        while !bytes.is_empty() {
            if self.known == 0 || self.filled >= self.segment {
                self.turn();
            }
            let room = usize::try_from(self.segment.saturating_sub(self.filled)).unwrap_or(usize::MAX);
            let part = bytes.get(..room).unwrap_or(bytes);
            let Some(file) = self.file() else { break };
            match rustix::io::write(file, part) {
                Ok(written) => {
                    self.filled += u64::try_from(written).unwrap_or(0);
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        u64::try_from(bytes.len()).unwrap_or(0)
    }

    /// The newest file. One that was removed under us would take bytes to nowhere, so it is opened for each start only.
    fn file(&mut self) -> Option<BorrowedFd<'_>> {
        if self.file.is_none() {
            let newest = *self.starts.get(self.known.checked_sub(1)?)?;
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            self.file = openat(self.directory, name(newest).text_c(), flags, Mode::from_raw_mode(0o600)).ok();
        }
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Begins the next file; the oldest goes first.
    fn turn(&mut self) {
        let next = match self.known.checked_sub(1).and_then(|newest| self.starts.get(newest)) {
            Some(start) => start + self.filled,
            None => 0,
        };
        if self.known == SEGMENTS {
            if let Some(oldest) = self.starts.first() {
                let _ = unlinkat(self.directory, name(*oldest).text_c(), AtFlags::empty());
            }
            self.starts.rotate_left(1);
            self.known -= 1;
        }
        if let Some(slot) = self.starts.get_mut(self.known) {
            *slot = next;
            self.known += 1;
        }
        (self.filled, self.file) = (0, None);
    }

    /// A line that says how much is missing.
    fn note(&mut self, dropped: u64) {
        let mut digits = [b'0'; 20];
        let (mut rest, mut first) = (dropped, digits.len());
        for (i, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            first = i;
            if rest == 0 {
                break;
            }
        }
        for part in [b"\n[rigd: ".as_slice(), digits.get(first..).unwrap_or_default(), b" bytes dropped]\n"] {
            let _ = self.write(part);
        }
    }
}

impl Name {
    fn text_c(&self) -> &std::ffi::CStr {
        std::ffi::CStr::from_bytes_until_nul(&self.0).unwrap_or(c"log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_files_name_sorts_as_its_offset() {
        for (start, expected) in [(0, "0000000000000000"), (0x12ab, "00000000000012ab"), (u64::MAX, "ffffffffffffffff")]
        {
            assert_eq!(name(start).text(), expected);
        }
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
