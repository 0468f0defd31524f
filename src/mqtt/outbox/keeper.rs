//! What decides: which message is sent next, what is freed, what is dropped. No clock, no disk, no link: what time it is and
//! what the disk said are arguments.

mod ended;
mod jobs;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::config::OutboxConfig;
use super::disk::Cursor;
use super::freed::Freed;
use super::line::{Flight, Line, OnDisk, Record};
use super::presence::{Presence, Rule};
use super::segment::{Run, Segment, Stored};
use super::{Lane, Lanes, Message, Ticket};
use crate::wire::{Mark, Watermark, mark_backfill};
use jobs::Busy;

/// A connection that comes back gets what is younger than this at once and in order; the rest is backlog.
const FRESH: Duration = Duration::from_secs(30);
/// The watermark moves every 2 s where there is one; without a move for so long everything above it is sent again.
const STALL: Duration = Duration::from_secs(10);

/// The messages that wait.
#[derive(Debug)]
pub(super) struct Keeper {
    rules: OutboxConfig,
    boot: u32,
    lines: Lanes<Line>,
    freed: BTreeMap<(u32, Lane), Freed>,
    /// The last watermark: boots that it names may be found on the disk only later.
    marks: Vec<Mark>,
    /// Earlier starts that it names and of which nothing waits here, each with the last telemetry that was made before that was known.
    ended: BTreeMap<u32, u64>,
    /// Since when the link is up.
    up: Option<Instant>,
    /// Whether a control plane has to confirm.
    presence: Presence,
    /// No message of the backlog goes out before.
    pace: Option<Instant>,
    /// Dropped for want of room or by age since the start.
    dropped: u64,
    /// What the disk is doing.
    busy: Option<Busy>,
    /// When the disk was first asked for something.
    began: Option<Instant>,
    /// The disk was opened.
    open: bool,
    /// Nothing is written, or read, before; set after a failure.
    no_write: Option<Instant>,
    no_read: Option<Instant>,
    /// Failures of the disk since the start.
    failures: u32,
    /// What it said last, until it works again.
    trouble: Option<String>,
    spilled: Option<Instant>,
    /// The cursor on the disk, and when it was written.
    cursor: (Cursor, Option<Instant>),
    stopping: bool,
}

impl Keeper {
    /// `broker` is a number of the broker: what is known of a control plane is known of it there.
    pub(super) fn new(rules: OutboxConfig, boot: u32, broker: u32) -> Self {
        Self {
            presence: Presence::new(rules.delivery, rules.max_age, broker),
            rules,
            boot,
            lines: Lanes::default(),
            freed: BTreeMap::new(),
            marks: Vec::new(),
            ended: BTreeMap::new(),
            up: None,
            pace: None,
            dropped: 0,
            busy: None,
            began: None,
            open: false,
            no_write: None,
            no_read: None,
            failures: 0,
            trouble: None,
            spilled: None,
            cursor: (Cursor::default(), None),
            stopping: false,
        }
    }

    /// Takes a message; `encode` is given its number.
    pub(super) fn push(
        &mut self,
        lane: Lane,
        (now, unix_ms): (Instant, u64),
        extra: Vec<u8>,
        encode: impl FnOnce(u64) -> Vec<u8>,
    ) -> Ticket {
        let boot = self.boot;
        let line = self.lines.get_mut(lane);
        line.last_seq += 1;
        let seq = line.last_seq;
        let stored = Stored { boot, seq, unix_ms, extra, payload: encode(seq) };
        let (flight, disk) = (Flight::Waiting, OnDisk::No);
        line.push(Record { at: now, stored, flight, disk, exposed: false, unhurried: false, backlog: false, after: 0 });
        self.make_room();
        Ticket { boot, lane, seq }
    }

    /// It is not written at once for its own sake.
    pub(super) fn unhurried(&mut self, ticket: Ticket) {
        if let Some(record) = self.find(ticket) {
            record.unhurried = true;
        }
    }

    /// Keeps to the budget: what the disk has is let go of, then telemetry is dropped, then acks, then receipts, then events.
    fn make_room(&mut self) {
        while self.ram() > self.rules.ram_bytes {
            if Lane::DROPPED.into_iter().any(|lane| self.lines.get_mut(lane).evict()) {
                continue;
            }
            if !Lane::DROPPED.into_iter().any(|lane| self.lines.get_mut(lane).drop_oldest()) {
                return;
            }
            self.dropped += 1;
        }
    }

    pub(super) fn ram(&self) -> usize {
        Lane::ALL.into_iter().map(|lane| self.lines.get(lane).bytes).sum()
    }

    /// Whether messages leave by the watermark, of whichever lane.
    pub(super) fn by_watermark(&self) -> bool {
        self.presence.rule(Lane::Event) == Rule::Watermark
    }

    /// Since when the backlog may flow.
    fn flows(&self) -> Option<Instant> {
        self.presence.flows(self.up)
    }

    /// The message to send next: what is new by lanes, then the backlog at its pace. It stays until it is freed.
    pub(super) fn next(&mut self, now: Instant) -> Option<Message> {
        for lane in Lane::ALL {
            if let Some(index) = self.lines.get_mut(lane).waiting(false) {
                return self.message(lane, false, index);
            }
        }
        if self.flows().is_none() || self.pace.is_some_and(|pace| now < pace) {
            return None;
        }
        Lane::ALL.into_iter().find_map(|lane| {
            let line = self.lines.get_mut(lane);
            if let Some(index) = line.old.iter().position(|record| record.flight == Flight::Waiting) {
                return self.message(lane, true, index);
            }
            // What is older than what is in memory goes first, as soon as it is read.
            if self.unread(lane).is_some() {
                return None;
            }
            let index = self.lines.get_mut(lane).waiting(true)?;
            self.message(lane, false, index)
        })
    }

    fn message(&mut self, lane: Lane, old: bool, index: usize) -> Option<Message> {
        let line = self.lines.get(lane);
        let record = if old { line.old.get(index) } else { line.new.get(index) }?;
        let Stored { boot, seq, .. } = record.stored;
        let neighbour = index.checked_sub(1).filter(|_| !old).and_then(|before| line.new.get(before));
        let after = self.before(boot, lane, seq).max(neighbour.map_or(0, |record| record.stored.seq));
        // What comes first of the gap may be what was delivered before this control plane was there.
        let delivered = self.freed.get(&(boot, lane)).map_or(0, Freed::upto);
        let early = delivered.min(seq - 1).saturating_sub(after);
        let ended = if boot == self.boot && lane == Lane::Telemetry { self.ended() } else { Vec::new() };
        let line = self.lines.get_mut(lane);
        let record = if old { line.old.get_mut(index) } else { line.new.get_mut(index) }?;
        record.after = after;
        let backlog = old || record.backlog;
        let Stored { extra, mut payload, .. } = record.stored.clone();
        if backlog {
            mark_backfill(&mut payload);
        }
        Some(Message {
            ticket: Ticket { boot, lane, seq },
            payload,
            extra,
            gap: seq - 1 - after,
            early,
            ended,
            backlog,
        })
    }

    /// The highest number below this one that is delivered or still on the disk. Delivered to the control plane where one has to
    /// confirm: what went to a broker before it came, or to another one, it has to be told of.
    fn before(&self, boot: u32, lane: Lane, seq: u64) -> u64 {
        let freed = self.freed.get(&(boot, lane));
        let delivered = freed.map_or(0, Freed::upto);
        let mut below = self.lines.get(lane).shelf.below(boot, seq);
        while let Some(lost) = below.and_then(|below| freed?.lost_from(below)) {
            below = self.lines.get(lane).shelf.below(boot, lost);
        }
        let known = || if self.by_watermark() { freed.map_or(0, Freed::confirmed) } else { delivered };
        below.filter(|below| *below > delivered).unwrap_or_else(known)
    }

    fn find(&mut self, ticket: Ticket) -> Option<&mut Record> {
        let own = ticket.boot == self.boot;
        let line = self.lines.get_mut(ticket.lane);
        if own && line.place(ticket.seq) < line.new.len() && line.front() <= ticket.seq {
            return line.get_mut(ticket.seq);
        }
        line.old_mut(ticket.boot, ticket.seq)
    }

    /// It was handed to the link.
    pub(super) fn sent(&mut self, ticket: Ticket, now: Instant) {
        let Some(record) = self.find(ticket) else { return };
        (record.flight, record.exposed) = (Flight::Flying, false);
        let backlog = record.backlog;
        if backlog {
            self.pace = Some(self.pace.map_or(now, |pace| pace.max(now)) + self.rules.pace);
        }
    }

    /// The broker has taken it.
    pub(super) fn settled(&mut self, ticket: Ticket, now: Instant) {
        let rule = self.presence.rule(ticket.lane);
        let Some(record) = self.find(ticket) else { return };
        if rule == Rule::Puback {
            let after = record.after;
            self.freed.entry((ticket.boot, ticket.lane)).or_default().settle(after, ticket.seq);
            self.forget(ticket);
            return;
        }
        record.flight = Flight::Acked;
        let line = self.lines.get_mut(ticket.lane);
        if let Some(index) = line.old.iter().position(|record| record.flight == Flight::Acked) {
            // The disk has it.
            line.old.remove(index);
            line.old_stall.acked(now);
        } else {
            line.new_stall.acked(now);
        }
    }

    /// The broker will never take it: it counts as lost, and the next one declares it.
    pub(super) fn refused(&mut self, ticket: Ticket) {
        let Some(record) = self.find(ticket) else { return };
        if record.disk != OnDisk::No {
            self.freed.entry((ticket.boot, ticket.lane)).or_default().lose(ticket.seq);
        }
        self.forget(ticket);
    }

    fn forget(&mut self, ticket: Ticket) {
        let own = ticket.boot == self.boot;
        let line = self.lines.get_mut(ticket.lane);
        let index = line.place(ticket.seq);
        if own && line.new.get(index).is_some_and(|record| record.stored.seq == ticket.seq) {
            line.remove(index);
        } else {
            line.old.retain(|record| (record.stored.boot, record.stored.seq) != (ticket.boot, ticket.seq));
        }
    }

    /// The broker would not take it now: it waits again.
    pub(super) fn returned(&mut self, ticket: Ticket) {
        if let Some(record) = self.find(ticket) {
            record.flight = Flight::Waiting;
        }
        self.lines.get_mut(ticket.lane).look_again();
    }

    pub(super) fn connected(&mut self, now: Instant) {
        self.up = Some(now);
        if let Some(fresh) = now.checked_sub(FRESH) {
            Lane::ALL.into_iter().for_each(|lane| self.lines.get_mut(lane).connected(fresh));
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.up = None;
        for lane in Lane::ALL {
            self.lines.get_mut(lane).expose();
            self.lines.get_mut(lane).disconnected();
        }
    }

    /// The control plane said whether it is there.
    pub(super) fn controller(&mut self, online: bool, now: Instant) {
        let before = self.by_watermark();
        if self.presence.said(online, now) {
            // What went out before it came went to nobody; what of it is still here goes out again, where no session of its
            // can have kept it: there was none that anybody knew of.
            for lane in Lane::ALL {
                let line = self.lines.get_mut(lane);
                line.expose();
                if !before && online {
                    line.again();
                }
            }
        }
    }

    /// What the control plane said was said just now, and not kept by the broker.
    pub(super) fn lives(&mut self, now: Instant) {
        self.presence.lives(now);
    }

    /// The control plane's word was taken back: there is none any more.
    pub(super) fn cleared(&mut self) {
        let before = self.rules_now();
        self.presence.cleared();
        self.rules_changed(before);
    }

    fn rules_now(&self) -> [Rule; 4] {
        Lane::ALL.map(|lane| self.presence.rule(lane))
    }

    /// Where the broker's word is enough from now on, what it has is delivered.
    fn rules_changed(&mut self, before: [Rule; 4]) {
        for (lane, before) in Lane::ALL.into_iter().zip(before) {
            if before != Rule::Puback && self.presence.rule(lane) == Rule::Puback {
                self.free_acked(lane);
            }
        }
    }

    /// The control plane said how far it has everything.
    pub(super) fn watermark(&mut self, watermark: &Watermark, now: Instant) {
        self.marks.clone_from(&watermark.marks);
        self.marks.truncate(crate::wire::MARKS);
        self.apply(now);
    }

    fn apply(&mut self, now: Instant) {
        for mark in self.marks.clone() {
            if let Some(lane) = Lane::of(mark.lane) {
                self.pass(mark.boot, lane, mark.seq, now);
            }
        }
    }

    fn pass(&mut self, boot: u32, lane: Lane, upto: u64, now: Instant) {
        let own = boot == self.boot;
        let line = self.lines.get_mut(lane);
        // A boot of which nothing is left, or a number that was never given, is not ours to remember.
        let known = if own { upto <= line.last_seq } else { line.shelf.last_of(boot).is_some() };
        if !known {
            return;
        }
        let freed = self.freed.entry((boot, lane)).or_default();
        freed.confirm(upto);
        if !freed.pass(upto) {
            return;
        }
        line.old.retain(|record| record.stored.boot != boot || record.stored.seq > upto);
        if own {
            while line.new.front().is_some_and(|record| record.stored.seq <= upto) {
                line.remove(0);
            }
            line.new_stall.moved(line.any_acked().then_some(now));
        }
        let more = line.old_stall.since.map(|_| now);
        line.old_stall.moved(more);
    }

    /// What time alone decides.
    fn tick(&mut self, now: Instant, unix_ms: u64) {
        let before = self.rules_now();
        self.presence.look(now, unix_ms, self.up);
        self.rules_changed(before);
        let (true, Some(from)) = (self.by_watermark(), self.flows()) else { return };
        for lane in Lane::ALL {
            let unsent = self.unsent(lane);
            let line = self.lines.get_mut(lane);
            if line.new_stall.due(STALL, from).is_some_and(|due| now >= due) {
                line.again();
                line.new_stall.give_up();
            }
            if line.old_stall.due(STALL, from).is_some_and(|due| now >= due) {
                if unsent {
                    line.reread();
                    line.old_stall.give_up();
                } else {
                    line.old_stall.moved(None);
                }
            }
        }
    }

    /// There is no control plane: what the broker has is delivered.
    fn free_acked(&mut self, lane: Lane) {
        let line = self.lines.get_mut(lane);
        let acked = line.new.iter().filter(|record| record.flight == Flight::Acked);
        let acked: Vec<(u64, u64)> = acked.map(|record| (record.after, record.stored.seq)).collect();
        line.new_stall.moved(None);
        for (after, seq) in acked {
            let ticket = Ticket { boot: self.boot, lane, seq };
            self.freed.entry((ticket.boot, lane)).or_default().settle(after, seq);
            self.forget(ticket);
        }
        let line = self.lines.get_mut(lane);
        if line.old_stall.since.is_some() {
            // What it has of the backlog is only on the disk, and is told from the rest by being sent once more.
            line.old_stall.moved(None);
            line.reread();
        }
    }

    /// How many numbers of this run have to be sent.
    fn left(&self, lane: Lane, run: Run) -> u64 {
        self.freed.get(&(run.boot, lane)).map_or_else(|| run.above(0), |freed| freed.left(run))
    }

    /// Messages that are neither delivered nor dropped.
    pub(super) fn waiting(&self) -> u64 {
        let lane = |lane: Lane| {
            let line = self.lines.get(lane);
            let above = |segment: &Segment| -> u64 {
                // What is in memory too is counted there.
                let here = |run: &Run| if run.boot == self.boot { run.above(line.front() - 1) } else { 0 };
                segment.runs.iter().map(|run| self.left(lane, *run).saturating_sub(here(run))).sum()
            };
            line.shelf.segments.iter().map(above).sum::<u64>() + u64::try_from(line.new.len()).unwrap_or(u64::MAX)
        };
        Lane::ALL.into_iter().map(lane).sum()
    }

    /// Whether this message of this start survives a killed agent and a power cut, or needs to no longer.
    pub(super) fn safe(&self, ticket: Ticket) -> bool {
        let line = self.lines.get(ticket.lane);
        let record = line.new.get(line.place(ticket.seq)).filter(|record| record.stored.seq == ticket.seq);
        record.is_none_or(|record| record.disk == OnDisk::Yes)
    }

    /// Whether the link has nothing left to do: what may go out now is taken by the broker.
    pub(super) fn idle(&mut self) -> bool {
        Lane::ALL.into_iter().all(|lane| {
            let line = self.lines.get_mut(lane);
            let flies = line.new.iter().chain(&line.old).any(|record| record.flight == Flight::Flying);
            !flies && line.waiting(false).is_none()
        })
    }

    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What is wrong with the disk, if anything.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// From now on everything goes to the disk, which is asked once more where it failed.
    pub(super) const fn stop(&mut self) {
        self.stopping = true;
        self.no_write = None;
    }

    /// The disk does something.
    pub(super) const fn busy(&self) -> bool {
        self.busy.is_some()
    }
}

#[cfg(test)]
impl Keeper {
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn line(&self, lane: Lane) -> &Line {
        self.lines.get(lane)
    }

    pub(super) fn is_freed(&self, boot: u32, lane: Lane, seq: u64) -> bool {
        self.freed.get(&(boot, lane)).is_some_and(|freed| freed.contains(seq))
    }
}
