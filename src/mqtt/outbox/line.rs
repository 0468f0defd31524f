//! One lane: what of it is in memory, and how far its files are read.
//!
//! ```text
//! files:    ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░▒▒▒▒▒▒▒▒           ░ only there   ▒ in memory too
//!           ^ reader ──> old: 32 records  new: ▒▒▒▒▒▒▒▒██    █ not on the disk yet
//! ```
//!
//! `new` holds numbers of this boot only, in order; what is on the disk already is in front, so memory is made by letting
//! go of the front.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::segment::Stored;
use super::shelf::Shelf;

/// Bytes counted for a record beside its message: its place in the queue.
pub(super) const OVERHEAD: usize = size_of::<Record>();
/// A wait for the watermark is doubled so often at most where it does not move.
const DOUBLINGS: u32 = 6;

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flight {
    Waiting,
    /// Handed to the link.
    Flying,
    /// The broker has it; whether the control plane has is not known.
    Acked,
}

/// Whether the disk has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDisk {
    No,
    /// It is being written.
    Soon,
    Yes,
}

/// A message in memory.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) at: Instant,
    pub(super) stored: Stored,
    pub(super) flight: Flight,
    pub(super) disk: OnDisk,
    /// The broker's acknowledgement is worth nothing: its connection is gone, and perhaps the broker, or there was no control
    /// plane that it could have gone to.
    pub(super) exposed: bool,
    /// It is written with what comes after it, or when it is old.
    pub(super) unhurried: bool,
    /// It goes out at the backlog's pace.
    pub(super) backlog: bool,
    /// The number before it that existed as it was sent.
    pub(super) after: u64,
}

impl Record {
    pub(super) fn cost(&self) -> usize {
        self.stored.payload.len() + self.stored.extra.len() + OVERHEAD
    }
}

/// How far the files are read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The file and where in it.
    pub(super) at: (u64, u64),
    /// The next record there is this number of this boot, which is in memory too.
    pub(super) blocked: Option<u64>,
    /// Failures since it last read something.
    pub(super) failures: u8,
}

/// Waits for the watermark to pass what the broker has acknowledged.
#[derive(Debug, Default)]
pub(super) struct Stall {
    /// Since when something waits for it.
    pub(super) since: Option<Instant>,
    /// How often it did not come.
    times: u32,
}

impl Stall {
    pub(super) fn acked(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// When it has taken too long; the wait begins no sooner than `from`.
    pub(super) fn due(&self, wait: Duration, from: Instant) -> Option<Instant> {
        self.since.map(|since| since.max(from) + wait * (1 << self.times))
    }

    /// It moved; more waits for it or not.
    pub(super) fn moved(&mut self, more: Option<Instant>) {
        *self = Self { since: more, times: 0 };
    }

    /// Everything is sent again.
    pub(super) fn give_up(&mut self) {
        *self = Self { since: None, times: (self.times + 1).min(DOUBLINGS) };
    }
}

/// One lane.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Read from the disk to be sent, oldest first.
    pub(super) old: VecDeque<Record>,
    /// Of this boot, in the order of their numbers.
    pub(super) new: VecDeque<Record>,
    pub(super) last_seq: u64,
    /// Of `new`.
    pub(super) bytes: usize,
    pub(super) shelf: Shelf,
    pub(super) reader: Reader,
    pub(super) new_stall: Stall,
    pub(super) old_stall: Stall,
    /// Nothing before this number waits to be sent live; nothing before that one as backlog.
    hints: [u64; 2],
}

impl Line {
    pub(super) fn push(&mut self, record: Record) {
        self.bytes += record.cost();
        self.new.push_back(record);
    }

    /// The place in `new` of the first number from this one on.
    pub(super) fn place(&self, seq: u64) -> usize {
        self.new.partition_point(|record| record.stored.seq < seq)
    }

    pub(super) fn get_mut(&mut self, seq: u64) -> Option<&mut Record> {
        let index = self.place(seq);
        self.new.get_mut(index).filter(|record| record.stored.seq == seq)
    }

    pub(super) fn old_mut(&mut self, boot: u32, seq: u64) -> Option<&mut Record> {
        self.old.iter_mut().find(|record| record.stored.boot == boot && record.stored.seq == seq)
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Record> {
        let removed = self.new.remove(index);
        self.bytes -= removed.as_ref().map_or(0, Record::cost);
        removed
    }

    /// The first number of this boot that is in memory; one that is not made yet where none is.
    pub(super) fn front(&self) -> u64 {
        self.new.front().map_or(self.last_seq + 1, |record| record.stored.seq)
    }

    /// The place in `new` of the first that waits, live or as backlog.
    pub(super) fn waiting(&mut self, backlog: bool) -> Option<usize> {
        let [live, late] = self.hints;
        let from = self.place(if backlog { late } else { live });
        let waits = |record: &Record| record.flight == Flight::Waiting && record.backlog == backlog;
        let found = self.new.iter().skip(from).position(waits).map(|index| from + index);
        let seq = found.and_then(|index| self.new.get(index)).map_or(self.last_seq + 1, |record| record.stored.seq);
        self.hints = if backlog { [live, seq] } else { [seq, late] };
        found
    }

    /// More may wait than before.
    pub(super) const fn look_again(&mut self) {
        self.hints = [0; 2];
    }

    /// Everything that was on its way waits again; what is older than `fresh` as backlog.
    pub(super) fn disconnected(&mut self) {
        for record in self.new.iter_mut().chain(&mut self.old) {
            if record.flight == Flight::Flying {
                record.flight = Flight::Waiting;
            }
        }
        self.look_again();
    }

    /// What the broker has acknowledged, or is about to, may reach nobody.
    pub(super) fn expose(&mut self) {
        for record in self.new.iter_mut().filter(|record| record.flight != Flight::Waiting) {
            record.exposed = true;
        }
    }

    /// What has waited since before that is backlog.
    pub(super) fn connected(&mut self, fresh: Instant) {
        for record in self.new.iter_mut().filter(|record| record.flight == Flight::Waiting) {
            record.backlog |= record.at < fresh;
        }
        self.look_again();
    }

    /// What the broker has and the control plane does not, in memory, is sent again.
    pub(super) fn again(&mut self) {
        for record in self.new.iter_mut().filter(|record| record.flight == Flight::Acked) {
            (record.flight, record.backlog) = (Flight::Waiting, true);
        }
        self.look_again();
    }

    /// The files are read from the beginning.
    pub(super) fn reread(&mut self) {
        self.old.clear();
        self.reader = Reader::default();
    }

    /// The place in `new` of the first that the disk does not have: what it has is in front.
    pub(super) fn unwritten(&self) -> usize {
        self.new.partition_point(|record| record.disk != OnDisk::No)
    }

    /// What was being written is there, or is not.
    pub(super) fn written(&mut self, done: bool) {
        for record in self.new.iter_mut().filter(|record| record.disk == OnDisk::Soon) {
            record.disk = if done { OnDisk::Yes } else { OnDisk::No };
        }
    }

    /// Lets go of the oldest where the disk has it.
    pub(super) fn evict(&mut self) -> bool {
        self.new.front().is_some_and(|record| record.disk == OnDisk::Yes) && self.remove(0).is_some()
    }

    /// Drops the oldest that the disk does not have and that is not on its way.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let from = self.unwritten();
        let found = self.new.iter().skip(from).position(|record| record.flight != Flight::Flying);
        found.is_some_and(|index| self.remove(from + index).is_some())
    }

    /// Whether anything in `new` is acknowledged and not freed.
    pub(super) fn any_acked(&self) -> bool {
        self.new.iter().any(|record| record.flight == Flight::Acked)
    }
}
