//! The keeper and the disk's side together, on a file system that can fail, be cut off, and counts.

mod breaks;
mod delivery;
mod ended;
mod fake;
mod property;
mod room;

use std::time::{Duration, Instant};

use super::config::{Delivery, OutboxConfig};
use super::disk::{Disk, Job};
use super::keeper::Keeper;
use super::{Lane, Message, Ticket};
use crate::clock;
use crate::wire::{Encoding, Header, Kind, Mark, Online, Reason, Watermark, decode, encode};
use fake::Fake;

/// A time that a set clock could say.
const START_MS: u64 = 1_750_000_000_000;

pub(super) fn rules(delivery: Delivery) -> OutboxConfig {
    OutboxConfig {
        ram_bytes: 1 << 20,
        disk_bytes: 64 << 20,
        max_age: Duration::from_secs(72 * 3_600),
        delivery,
        pace: Duration::from_millis(50),
    }
}

/// An outbox with its disk, and the time that it is told.
pub(super) struct Site {
    pub(super) keeper: Keeper,
    pub(super) disk: Disk<Fake>,
    pub(super) now: Instant,
    began: Instant,
    boot: u32,
    /// The disk does not answer.
    pub(super) hangs: bool,
    pub(super) pad: usize,
}

impl Site {
    pub(super) fn new(rules: OutboxConfig) -> Self {
        Self::on(rules, Fake::default(), 1)
    }

    /// A start of the agent over what is on the disk.
    pub(super) fn on(rules: OutboxConfig, files: Fake, boot: u32) -> Self {
        // Far from the clock's own beginning, so that times before it exist.
        let now = clock::now() + Duration::from_secs(1_000_000);
        let disk = Disk::new(files, "/outbox".into());
        let mut site =
            Self { keeper: Keeper::new(rules, boot, 7), disk, now, began: now, boot, hangs: false, pad: 300 };
        site.work();
        site
    }

    /// The agent is killed and started anew, or what the power cut left is.
    pub(super) fn restart(self, rules: OutboxConfig, files: Fake) -> Self {
        let next = Self::on(rules, files, self.boot + 1);
        Self { pad: self.pad, ..next }
    }

    pub(super) fn unix_ms(&self) -> u64 {
        START_MS + u64::try_from((self.now - self.began).as_millis()).unwrap()
    }

    /// The disk does everything that it is asked for.
    pub(super) fn work(&mut self) {
        while let Some(job) = self.job() {
            let answer = self.disk.execute(job);
            self.keeper.answered(answer, self.now);
        }
    }

    pub(super) fn job(&mut self) -> Option<Job> {
        if self.hangs && self.keeper.busy() {
            return None;
        }
        let job = self.keeper.job(self.now, self.unix_ms());
        if self.hangs { None } else { job }
    }

    pub(super) fn push(&mut self, lane: Lane) -> Ticket {
        let (now, pad, boot) = ((self.now, self.unix_ms()), self.pad, self.boot);
        let message = |seq| {
            let body = Online { online: true, connection: 1, reason: Reason::Connected };
            let mut bytes = encode(Encoding::Postcard, Header::new(Kind::Online, boot, seq), &body);
            bytes.resize(pad, 0);
            bytes
        };
        self.keeper.push(lane, now, Vec::new(), message)
    }

    /// Pushed and seen to.
    pub(super) fn add(&mut self, lane: Lane) -> Ticket {
        let ticket = self.push(lane);
        self.work();
        ticket
    }

    /// Time goes on, and whatever is due is done when it is due.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.work();
        while let Some(wake) = self.keeper.wake(self.now).filter(|wake| *wake <= end) {
            assert!(wake > self.now || self.hangs, "it wants to be woken for what it could do now");
            self.now = wake.max(self.now);
            self.work();
            if self.hangs || self.keeper.next(self.now).is_some() {
                break;
            }
        }
        self.now = end;
        self.work();
    }

    pub(super) fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// Sends what may go out now; at most so many.
    pub(super) fn send(&mut self, most: usize) -> Vec<Message> {
        let mut sent = Vec::new();
        while sent.len() < most
            && let Some(message) = self.keeper.next(self.now)
        {
            self.keeper.sent(message.ticket, self.now);
            let (header, _) = decode(&message.payload).unwrap();
            assert_eq!((header.boot, header.seq), (message.ticket.boot, message.ticket.seq));
            assert_eq!(header.flags != 0, message.backlog);
            sent.push(message);
            self.work();
        }
        sent
    }

    /// Sends what may go out now, and the broker takes it.
    pub(super) fn deliver(&mut self) -> Vec<Message> {
        let sent = self.send(usize::MAX);
        for message in &sent {
            self.keeper.settled(message.ticket, self.now);
        }
        self.work();
        sent
    }

    /// Delivers for so long, looking each 50 ms.
    pub(super) fn deliver_for(&mut self, time: Duration) -> Vec<Message> {
        let (end, mut all) = (self.now + time, Vec::new());
        while self.now < end {
            all.extend(self.deliver());
            self.pass(Duration::from_millis(50));
        }
        all
    }

    pub(super) fn mark(&mut self, boot: u32, lane: Lane, seq: u64) {
        self.marks(&[(boot, lane, seq)]);
    }

    pub(super) fn marks(&mut self, marks: &[(u32, Lane, u64)]) {
        let mark = |(boot, lane, seq): &(u32, Lane, u64)| Mark { boot: *boot, lane: lane.kind(), seq: *seq };
        let marks = marks.iter().map(mark).collect();
        self.keeper.watermark(&Watermark { marks }, self.now);
        self.work();
    }
}

pub(super) fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.ticket.seq).collect()
}
