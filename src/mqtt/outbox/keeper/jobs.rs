//! What the disk is asked to do, one thing at a time, and what its answers change.

use std::time::{Duration, Instant};

use super::super::disk::{Answer, Chunk, Cursor, Found, Job};
use super::super::line::{Flight, OnDisk, Reader, Record};
use super::super::segment::{Run, Segment, write};
use super::super::shelf::{Reclaim, Shelf, reclaim};
use super::super::{Lane, Lanes};
use super::{Freed, Keeper, Rule, STALL};

/// Telemetry is written once it is so old and not freed: what a killed agent loses at most. Not more often either.
const SPILL: Duration = Duration::from_secs(1);
/// What the broker has acknowledged waits this long where it is not known yet whether that is all there will be.
const UNDECIDED: Duration = Duration::from_secs(5);
/// Bytes written at once at most.
const BATCH: usize = 128 * 1024;
/// The cursor is written so often at most: what it lacks is sent twice.
const CURSOR: Duration = Duration::from_secs(10);
/// The disk is asked again so long after it failed.
const RETRY: Duration = Duration::from_secs(10);
/// A segment that cannot be read so often is given up.
const FAILURES: u8 = 3;

/// What the disk is doing.
#[derive(Debug)]
pub(super) enum Busy {
    Open,
    /// Records as number and time; the file's length when they are there.
    Append {
        lane: Lane,
        number: u64,
        length: u64,
        records: Vec<(u64, u64)>,
    },
    Read {
        lane: Lane,
        number: u64,
    },
    Reclaim {
        lane: Lane,
        number: u64,
        how: Reclaim,
    },
    Cursor(Cursor),
}

impl Keeper {
    /// What the disk has to do next; none while it does something, or where there is nothing to do.
    pub(in super::super) fn job(&mut self, now: Instant, unix_ms: u64) -> Option<Job> {
        self.tick(now, unix_ms);
        if self.busy.is_some() {
            return None;
        }
        // A clock that is put right makes all that was written before it old at once, also what came a minute ago: nothing goes
        // by its age before this start has been there for as long.
        let began = *self.began.get_or_insert(now);
        let unix_ms = if now.saturating_duration_since(began) > self.rules.max_age { unix_ms } else { 0 };
        let may_write = self.no_write.is_none_or(|until| now >= until);
        let (busy, job) = if self.open {
            let written = if may_write { self.append(now).or_else(|| self.make_space(unix_ms)) } else { None };
            written.or_else(|| self.read(now)).or_else(|| if may_write { self.note(now) } else { None })?
        } else if may_write {
            (Busy::Open, Job::Open)
        } else {
            return None;
        };
        self.busy = Some(busy);
        Some(job)
    }

    /// When something has to be done though nothing happens; asked when there is nothing to do now.
    pub(in super::super) fn wake(&mut self, now: Instant) -> Option<Instant> {
        let mut times = Vec::new();
        if self.busy.is_none() {
            let write = |due: Instant, until: Option<Instant>| until.map_or(due, |until| due.max(until));
            if !self.open {
                times.extend(self.no_write);
            } else if let Some(due) = Lane::ALL.into_iter().filter_map(|lane| self.append_due(lane, now)).min() {
                times.push(write(due, self.no_write));
            } else if let Some(due) = self.note_due(now) {
                times.push(write(due, self.no_write));
            }
        }
        times.extend(self.presence.wake(self.up));
        if let Some(from) = self.flows() {
            let mut backlog = false;
            for lane in Lane::ALL {
                let unread = self.unread(lane).is_some();
                let line = self.lines.get_mut(lane);
                let waits = line.old.iter().any(|record| record.flight == Flight::Waiting);
                backlog |= waits || (!unread && line.waiting(true).is_some());
                if unread && !waits {
                    times.extend(self.no_read.filter(|_| self.busy.is_none()));
                }
                if self.by_watermark() {
                    let line = self.lines.get(lane);
                    times.extend([&line.new_stall, &line.old_stall].into_iter().filter_map(|it| it.due(STALL, from)));
                }
            }
            // One that is due already waits for the link, not for us.
            times.extend(self.pace.filter(|pace| backlog && *pace > now));
        }
        times.into_iter().min()
    }

    /// When the first record that the disk does not have is to be written.
    fn append_due(&self, lane: Lane, now: Instant) -> Option<Instant> {
        let line = self.lines.get(lane);
        let unwritten = line.new.iter().skip(line.unwritten());
        if self.stopping || lane != Lane::Telemetry {
            let due = |record: &Record| if record.unhurried && !self.stopping { record.at + SPILL } else { now };
            return unwritten.map(due).min();
        }
        let undecided = self.presence.rule(lane) == Rule::Open;
        let due = |record: &Record| match record.flight {
            // It is sent again late, after what is newer.
            Flight::Acked if record.exposed => record.at,
            Flight::Acked if undecided => record.at + UNDECIDED,
            Flight::Waiting | Flight::Flying | Flight::Acked => record.at + SPILL,
        };
        let due = unwritten.map(due).min()?;
        Some(self.spilled.map_or(due, |spilled| due.max(spilled + SPILL)))
    }

    fn append(&mut self, now: Instant) -> Option<(Busy, Job)> {
        let lane = Lane::ALL.into_iter().find(|lane| self.append_due(*lane, now).is_some_and(|due| now >= due))?;
        if lane == Lane::Telemetry {
            self.spilled = Some(now);
        }
        let most = BATCH.min(self.rules.ram_bytes / 4);
        let line = self.lines.get_mut(lane);
        let (mut bytes, mut records, from) = (Vec::new(), Vec::new(), line.unwritten());
        for record in line.new.iter_mut().skip(from) {
            if bytes.len() >= most {
                break;
            }
            let it = &record.stored;
            bytes.extend(write(it.boot, it.seq, it.unix_ms, &it.extra, &it.payload));
            records.push((it.seq, it.unix_ms));
            record.disk = OnDisk::Soon;
        }
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let (number, at) = line.shelf.place(size, self.rules.segment());
        Some((Busy::Append { lane, number, length: at + size, records }, Job::Append { lane, number, at, bytes }))
    }

    fn shelves(&self) -> Lanes<&Shelf> {
        let Lanes { event, ack, telemetry, receipt } = &self.lines;
        Lanes { event: &event.shelf, ack: &ack.shelf, telemetry: &telemetry.shelf, receipt: &receipt.shelf }
    }

    fn make_space(&mut self, unix_ms: u64) -> Option<(Busy, Job)> {
        let lanes = self.shelves();
        let (lane, number, how) = reclaim(&lanes, |lane, segment| self.done_with(lane, segment), &self.rules, unix_ms)?;
        let boot = self.boot;
        let line = self.lines.get_mut(lane);
        let runs = line.shelf.get(number)?.runs.clone();
        let stay = runs.iter().filter(|run| line.shelf.last_of(run.boot) == Some(run.last));
        let stay = stay.map(|run| (run.boot, run.last)).collect();
        // The copies in memory are no longer ones of something on the disk.
        let last = runs.iter().filter(|run| run.boot == boot).map(|run| run.last).max().unwrap_or(0);
        while line.front() <= last && line.evict() {}
        Some((Busy::Reclaim { lane, number, how }, Job::Reclaim { lane, number, how, stay }))
    }

    /// Whether nothing in it has to be sent.
    fn done_with(&self, lane: Lane, segment: &Segment) -> bool {
        let done = |run: &Run| self.freed.get(&(run.boot, lane)).is_some_and(|freed| freed.done(*run));
        segment.runs.iter().all(done)
    }

    /// Whether anything on the disk has to be sent, in memory too or not.
    pub(super) fn unsent(&self, lane: Lane) -> bool {
        self.lines.get(lane).shelf.segments.iter().any(|segment| !self.done_with(lane, segment))
    }

    /// The next records that are only on the disk: the file, from where to where.
    pub(super) fn unread(&self, lane: Lane) -> Option<(u64, u64, u64)> {
        let line = self.lines.get(lane);
        if line.reader.blocked.is_some_and(|seq| seq >= line.front()) {
            return None;
        }
        let (number, offset) = line.reader.at;
        let upto = |run: &Run| self.freed.get(&(run.boot, lane)).map_or(0, Freed::upto);
        let here = |run: &Run| run.boot == self.boot && run.first.max(upto(run).saturating_add(1)) >= line.front();
        let segments = line.shelf.segments.iter().filter(|segment| segment.number >= number);
        segments.filter(|segment| !segment.runs.iter().all(|run| here(run) || run.last <= upto(run))).find_map(|it| {
            let offset = if it.number == number { offset } else { 0 };
            (offset < it.bytes).then_some((it.number, offset, it.bytes))
        })
    }

    fn read(&mut self, now: Instant) -> Option<(Busy, Job)> {
        if self.flows().is_none() || self.no_read.is_some_and(|until| now < until) {
            return None;
        }
        let dry = |lane: &Lane| self.lines.get(*lane).old.iter().all(|record| record.flight != Flight::Waiting);
        let mut lanes = Lane::ALL.into_iter().filter(dry);
        let (lane, (number, offset, end)) = lanes.find_map(|lane| Some((lane, self.unread(lane)?)))?;
        Some((Busy::Read { lane, number }, Job::Read { lane, number, offset, end }))
    }

    /// What the cursor has to say: of each boot on the disk how far it is done with, as far as that goes.
    fn to_keep(&self) -> Cursor {
        let mark = |(&(boot, lane), freed): (&(u32, Lane), &Freed)| {
            let last = self.lines.get(lane).shelf.last_of(boot)?;
            Some((boot, lane, freed.upto().min(last))).filter(|(.., upto)| *upto > 0)
        };
        Cursor { marks: self.freed.iter().filter_map(mark).collect(), known: self.presence.to_keep() }
    }

    fn note_due(&self, now: Instant) -> Option<Instant> {
        let (written, at) = &self.cursor;
        let due = at.filter(|_| !self.stopping).map_or(now, |at| at + CURSOR);
        (self.to_keep() != *written).then_some(due)
    }

    fn note(&mut self, now: Instant) -> Option<(Busy, Job)> {
        if self.note_due(now).is_none_or(|due| now < due) {
            return None;
        }
        let (boot, lines) = (self.boot, &self.lines);
        self.freed.retain(|(of, lane), _| *of == boot || lines.get(*lane).shelf.last_of(*of).is_some());
        let cursor = self.to_keep();
        Some((Busy::Cursor(cursor.clone()), Job::Cursor(cursor)))
    }

    /// The disk has answered.
    pub(in super::super) fn answered(&mut self, answer: Answer, now: Instant) {
        match (self.busy.take(), answer) {
            (Some(Busy::Open), Answer::Opened(result)) => match result {
                Ok(found) => self.opened(found, now),
                Err(text) => self.failed(text, now),
            },
            (Some(Busy::Append { lane, number, length, records }), Answer::Appended(result)) => {
                let boot = self.boot;
                let line = self.lines.get_mut(lane);
                line.written(result.is_ok());
                match result {
                    Ok(()) => {
                        line.shelf.placed(number, length, boot, &records);
                        self.works();
                    }
                    Err(text) => {
                        line.shelf.spoilt(number);
                        self.failed(text, now);
                    }
                }
            }
            (Some(Busy::Read { lane, number }), Answer::Read(result)) => match result {
                Ok(chunk) => self.took(lane, number, chunk, now),
                Err(text) => self.unreadable(lane, number, text, now),
            },
            (Some(Busy::Reclaim { lane, number, how }), Answer::Reclaimed(result)) => match result {
                Ok(left) => self.replace(lane, number, left),
                Err(text) => {
                    // What cannot be made smaller can still be removed.
                    let it = self.lines.get_mut(lane).shelf.segments.iter_mut().find(|it| it.number == number);
                    if let Some(segment) = it.filter(|_| how != Reclaim::Delete) {
                        (segment.thinned, segment.remnant) = (true, true);
                    }
                    self.failed(text, now);
                }
            },
            (Some(Busy::Cursor(cursor)), Answer::Cursor(result)) => {
                match result {
                    Ok(()) => {
                        self.cursor.0 = cursor;
                        self.works();
                    }
                    Err(text) => self.failed(text, now),
                }
                self.cursor.1 = Some(now);
            }
            // An answer to nothing that was asked: it changes nothing.
            (busy, _) => self.busy = busy,
        }
    }

    fn works(&mut self) {
        (self.trouble, self.no_write) = (None, None);
    }

    fn failed(&mut self, text: String, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.no_write = Some(now + RETRY);
        self.trouble = Some(text);
    }

    fn opened(&mut self, found: Found, now: Instant) {
        let mut segments = found.segments;
        for lane in Lane::ALL {
            let (segments, whole) = std::mem::take(segments.get_mut(lane));
            self.lines.get_mut(lane).shelf = Shelf::found(segments, whole);
        }
        for (boot, lane, upto) in &found.cursor.marks {
            let freed = self.freed.entry((*boot, *lane)).or_default();
            // Confirmed as far as it knows; a control plane that has less says so.
            freed.confirm(*upto);
            freed.pass(*upto);
        }
        self.presence.found(found.cursor.known);
        self.cursor.0 = found.cursor;
        self.open = true;
        self.works();
        self.apply(now);
    }

    fn took(&mut self, lane: Lane, number: u64, chunk: Chunk, now: Instant) {
        self.no_read = None;
        let boot = self.boot;
        let line = self.lines.get_mut(lane);
        line.reader = Reader { at: (number, chunk.next), blocked: None, failures: 0 };
        for (begin, stored) in chunk.records {
            if stored.boot == boot && stored.seq >= line.front() {
                (line.reader.at, line.reader.blocked) = ((number, begin), Some(stored.seq));
                break;
            }
            let freed = self.freed.get(&(stored.boot, lane));
            if freed.is_some_and(|freed| freed.contains(stored.seq)) {
                continue;
            }
            let (flight, disk) = (Flight::Waiting, OnDisk::Yes);
            line.old.push_back(Record {
                at: now,
                stored,
                flight,
                disk,
                exposed: false,
                unhurried: false,
                backlog: true,
                after: 0,
            });
        }
        if let Some(damaged) = chunk.damaged {
            let at = line.reader.at;
            self.replace(lane, number, Some(damaged));
            self.lines.get_mut(lane).reader.at = at;
        }
    }

    fn unreadable(&mut self, lane: Lane, number: u64, text: String, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.no_read = Some(now + RETRY);
        self.trouble = Some(text);
        let line = self.lines.get_mut(lane);
        line.reader.failures = line.reader.failures.saturating_add(1);
        if line.reader.failures >= FAILURES {
            line.reader.failures = 0;
            self.replace(lane, number, None);
        }
    }

    /// A segment holds something else from now on; what is not in it any more counts as dropped.
    fn replace(&mut self, lane: Lane, number: u64, left: Option<Segment>) {
        let count = |segment: &Segment| segment.runs.iter().map(|run| self.left(lane, *run)).sum::<u64>();
        let before = self.lines.get(lane).shelf.get(number).map_or(0, count);
        self.dropped += before.saturating_sub(left.as_ref().map_or(0, count));
        let line = self.lines.get_mut(lane);
        line.shelf.replace(number, left);
        if line.reader.at.0 == number {
            line.reader.at.1 = 0;
        }
    }
}
