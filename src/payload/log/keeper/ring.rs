//! The files of a ring, as who writes them down sees them: by system calls only.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom, openat, seek, statat, unlinkat};
use rustix::io::Errno;

use super::super::SEGMENTS;

/// Bytes of the kernel's list of a directory that are looked at at a time.
const LIST: usize = 2_048;

/// A file's name.
pub(in super::super) struct Name([u8; 17]);

/// The name of the file that starts at this offset.
pub(in super::super) fn name(start: u64) -> Name {
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
    pub(in super::super) fn text(&self) -> &str {
        CStr::from_bytes_until_nul(&self.0).ok().and_then(|name| name.to_str().ok()).unwrap_or_default()
    }

    fn text_c(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"log")
    }
}

/// The offset that a file's name says; none of what is no part of the ring.
fn offset(name: &CStr) -> Option<u64> {
    u64::from_str_radix(name.to_str().ok()?, 16).ok()
}

/// The files.
pub(super) struct Ring<'a> {
    directory: BorrowedFd<'a>,
    segment: u64,
    starts: [u64; SEGMENTS],
    known: usize,
    filled: u64,
    file: Option<OwnedFd>,
}

impl<'a> Ring<'a> {
    /// As it is on disk now, whoever has written there before.
    pub(super) fn found(directory: BorrowedFd<'a>, segment: u64) -> Self {
        let mut ring = Self { directory, segment, starts: [0; SEGMENTS], known: 0, filled: 0, file: None };
        // The place in the list is shared with whoever has looked before.
        let _ = seek(directory, SeekFrom::Start(0));
        let mut room = [MaybeUninit::uninit(); LIST];
        let mut entries = RawDir::new(directory, &mut room);
        while let Some(Ok(entry)) = entries.next() {
            if let Some(start) = offset(entry.file_name()) {
                ring.has(start);
            }
        }
        let newest = ring.known.checked_sub(1).and_then(|newest| ring.starts.get(newest));
        let stat = newest.and_then(|start| statat(directory, name(*start).text_c(), AtFlags::empty()).ok());
        ring.filled = stat.and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0);
        ring
    }

    /// There is a file that starts here. The newest ones are known.
    fn has(&mut self, start: u64) {
        if self.known < SEGMENTS {
            if let Some(slot) = self.starts.get_mut(self.known) {
                *slot = start;
                self.known += 1;
            }
        } else if let Some(oldest) = self.starts.first_mut().filter(|oldest| **oldest < start) {
            *oldest = start;
        }
        if let Some(known) = self.starts.get_mut(..self.known) {
            known.sort_unstable();
        }
    }

    /// Writes, and gives how many bytes could not be.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> u64 {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn a_files_name_sorts_as_its_offset() {
        for (start, expected) in [(0, "0000000000000000"), (0x12ab, "00000000000012ab"), (u64::MAX, "ffffffffffffffff")]
        {
            assert_eq!(name(start).text(), expected);
            assert_eq!(offset(name(start).text_c()), Some(start));
        }
    }

    #[test]
    fn whoever_comes_next_finds_the_newest_files_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("rigd-ring-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let list = File::open(&directory).unwrap();
        let found = || {
            let ring = Ring::found(list.as_fd(), 100);
            (ring.starts[..ring.known].to_vec(), ring.filled)
        };
        assert_eq!(found(), (vec![], 0));
        for (file, bytes) in [("pipe", 3), ("keeper", 0), ("00000000000000a0", 100), ("0000000000000104", 7)] {
            fs::write(directory.join(file), vec![b'x'; bytes]).unwrap();
        }
        assert_eq!(found(), (vec![0xa0, 0x104], 7));
        // More than it keeps: the oldest are left alone.
        for start in [0_u64, 50, 1_000, 2_000, 3_000] {
            fs::write(directory.join(name(start).text()), vec![b'x'; 9]).unwrap();
        }
        assert_eq!(found(), (vec![0x104, 1_000, 2_000, 3_000], 9));
        fs::remove_dir_all(&directory).unwrap();
    }
}
