//! The kernel log, for what the driver says of a GPU there and nowhere else: a GPU can fall off the bus with no Xid in any
//! event set, and a driver that hangs still logs.
//!
//! `/dev/kmsg` gives one record a read (Documentation/ABI/testing/dev-kmsg): `3,1234,5678901,-;NVRM: Xid ...`, the priority
//! with the facility first. A facility other than 0 was written by a process and not by the kernel, and is not believed:
//! what is said here can restart a rig. Reading needs CAP_SYSLOG where `kernel.dmesg_restrict` is set. In place of the
//! device a FIFO will do, with a record a line, with that head or without it.
//!
//! Reading begins at the end: what was logged before shows in the inventory. Nothing here blocks, and one [`Reader::poll`]
//! takes at most [`RECORDS`] records. PCIe errors are not read here: their lines name ports and change from kernel to
//! kernel, while sysfs counts them by device ([`Card::errors`](super::inventory::Card::errors)).

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::wire::PciAddress;

/// What the driver said of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which GPU; none where the line does not say.
    pub pci: Option<PciAddress>,
    /// What.
    pub kind: Kind,
}

/// What happened to a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An error of NVIDIA's catalogue: see [`Action::of`](super::xid::Action::of).
    Xid(u64),
    /// What the driver now asks for, told with Xid 154: see [`Action::of_recovery`](super::xid::Action::of_recovery).
    Recovery(u32),
    /// It does not answer on the bus; told with Xid 79, or without it.
    FellOff,
    /// The driver could not bring it up.
    NotStarted,
}

impl Kind {
    /// The Xid that it is, or that it comes with, so that both count once.
    #[must_use]
    pub const fn xid(self) -> Option<u64> {
        match self {
            Self::Xid(code) => Some(code),
            Self::Recovery(_) => Some(154),
            Self::FellOff => Some(79),
            Self::NotStarted => None,
        }
    }
}

/// Reads one record, or one line of a log. Forms of drivers from 2011 on; see the tests for each.
#[must_use]
pub fn parse(record: &str) -> Option<Event> {
    let said = message(record)?.strip_prefix("NVRM: ")?;
    if let Some(rest) = said.strip_prefix("Xid (") {
        // (PCI:0000:01:00), with an instance of a divided GPU behind it, or of old (0000:01:00).
        let (place, rest) = rest.split_once("): ")?;
        let (code, rest) = number(rest, 10)?;
        let asks = || number(rest.split_once("recovery action changed from ")?.1.split_once(" to 0x")?.1, 16);
        let kind = match (code, asks()) {
            (154, Some((action, _))) => Kind::Recovery(u32::try_from(action).ok()?),
            _ => Kind::Xid(code),
        };
        return Some(Event { pci: address(place), kind });
    }
    let kind = if said.contains("fallen off the bus") {
        Kind::FellOff
    } else if said.contains("RmInitAdapter failed!") {
        Kind::NotStarted
    } else {
        return None;
    };
    // "GPU 0000:01:00.0: ...", "GPU at PCI:0000:01:00: ...", "The NVIDIA GPU 0000:01:00.0" with a line break behind it.
    let place = said.split_once("GPU ").map_or("", |(_, rest)| rest.strip_prefix("at ").unwrap_or(rest));
    Some(Event { pci: address(place), kind })
}

/// The record without its head, if it is the kernel's.
fn message(record: &str) -> Option<&str> {
    // Only what begins with a digit has a head; a message may have semicolons of its own.
    let Some((head, text)) =
        record.split_once(';').filter(|_| record.starts_with(|first: char| first.is_ascii_digit()))
    else {
        return Some(record);
    };
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    (priority < FACILITY).then_some(text)
}

/// The facility is above the three bits of the level. The kernel lets no process write with facility 0 (same document).
const FACILITY: u32 = 1 << 3;

/// The digits that the text begins with, and what is behind them.
fn number(text: &str, radix: u32) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((u64::from_str_radix(digits, radix).ok()?, rest))
}

/// The address that the text begins with; of a GPU, so of function 0.
fn address(text: &str) -> Option<PciAddress> {
    let text = text.strip_prefix("PCI:").unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_hexdigit() && c != ':' && c != '.').unwrap_or(text.len());
    text.get(..end)?.trim_end_matches([':', '.']).parse().ok()
}

/// Most records that one poll takes; the rest waits for the next.
pub const RECORDS: usize = 64;
/// Longest record of the kernel, with its head (`CONSOLE_EXT_LOG_MAX`). A longer line of a FIFO is dropped.
const LONGEST: usize = 8 * 1024;

/// What one poll found.
#[derive(Debug, Default)]
pub struct Poll {
    /// In their order; at most [`RECORDS`].
    pub events: Vec<Event>,
    /// It ended at [`RECORDS`]: there may be more now.
    pub more: bool,
    /// Records were lost: the kernel wrote over them before they were read, a line was too long, or the log was opened anew.
    pub lost: bool,
    /// The log cannot be read now. It is tried again with each poll.
    pub error: Option<io::Error>,
}

/// The log at one path, opened with the first poll.
pub struct Reader {
    path: PathBuf,
    open: Option<Log>,
    /// It was open before: what was logged in between is lost.
    again: bool,
}

struct Log {
    file: File,
    /// The device gives a record a read; anything else is a stream of lines.
    device: bool,
    buffer: Box<[u8; LONGEST]>,
    /// Of the stream: what is read and not yet taken.
    filled: usize,
    /// Of the stream: within a line that was too long.
    skipping: bool,
}

impl Reader {
    /// Of `/dev/kmsg`, or what stands in its place.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, open: None, again: false }
    }

    /// Takes what there is, without waiting.
    pub fn poll(&mut self) -> Poll {
        let mut poll = Poll::default();
        let log = match self.open.take().map_or_else(|| Log::open(&self.path), Ok) {
            Ok(log) => self.open.insert(log),
            Err(error) => return Poll { error: Some(error), ..poll },
        };
        poll.lost = std::mem::take(&mut self.again);
        poll.more = true;
        for _ in 0..RECORDS {
            match log.next(&mut poll.lost) {
                Ok(Next::Record(record)) => {
                    poll.events.extend(parse(&record));
                    continue;
                }
                Ok(Next::Skipped) => continue,
                Ok(Next::End) if log.replaced(&self.path) => self.close(),
                Ok(Next::End) => {}
                Err(error) => {
                    self.close();
                    poll.error = Some(error);
                }
            }
            poll.more = false;
            break;
        }
        poll
    }

    fn close(&mut self) {
        self.open = None;
        self.again = true;
    }
}

/// What a log has next.
enum Next {
    Record(String),
    /// Something that is no record; there may be more.
    Skipped,
    End,
}

impl Log {
    fn open(path: &std::path::Path) -> io::Result<Self> {
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        // A FIFO cannot seek, and has nothing of before.
        let _ = file.seek(SeekFrom::End(0));
        let device = file.metadata()?.file_type().is_char_device();
        Ok(Self { file, device, buffer: Box::new([0; LONGEST]), filled: 0, skipping: false })
    }

    fn next(&mut self, lost: &mut bool) -> io::Result<Next> {
        if !self.device
            && let Some(line) = self.line()
        {
            return Ok(line);
        }
        if self.filled == LONGEST {
            self.filled = 0;
            *lost |= !self.skipping;
            self.skipping = true;
        }
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        match self.file.read(room) {
            Ok(0) => Ok(Next::End),
            Ok(length) if self.device => Ok(Next::Record(text(self.buffer.get(..length)))),
            Ok(length) => {
                self.filled += length;
                Ok(self.line().unwrap_or(Next::Skipped))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Next::End),
                Some(libc::EINTR) => Ok(Next::Skipped),
                // Written over: the next read is of the oldest record there is. EINVAL: longer than our buffer, passed over
                // (kernel/printk/printk.c, devkmsg_read: both move on before they fail).
                Some(libc::EPIPE | libc::EINVAL) => {
                    *lost = true;
                    Ok(Next::Skipped)
                }
                _ => Err(error),
            },
        }
    }

    /// The first whole line of the buffer, taken out.
    fn line(&mut self) -> Option<Next> {
        let end = self.buffer.get(..self.filled)?.iter().position(|byte| *byte == b'\n')?;
        let line = text(self.buffer.get(..end));
        self.buffer.copy_within(end + 1..self.filled, 0);
        self.filled -= end + 1;
        // The end of a line whose beginning was dropped is no line.
        Some(if std::mem::take(&mut self.skipping) { Next::Skipped } else { Next::Record(line) })
    }

    /// Whether another file is at the path by now, or none.
    fn replaced(&self, path: &std::path::Path) -> bool {
        let identity = |of: fs::Metadata| (of.dev(), of.ino());
        !self.device && fs::metadata(path).map(identity).ok() != self.file.metadata().map(identity).ok()
    }
}

/// The driver writes ASCII; the kernel escapes what is not.
fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests;
