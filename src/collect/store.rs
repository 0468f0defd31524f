//! The store: takes messages in, each once, and says how far each lane is complete.
//!
//! All of a batch is one transaction with the marks that follow from it. What is in memory is only ever a copy: where a
//! transaction fails it is thrown away and read again, so no mark can speak of what was not committed.

mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Statement, Transaction, params};

use super::intake::{Entry, Gone, Incoming, LOST, sort};
use super::marks::Marks;
use super::schema::{self, Error, about};
use crate::lock::Lock;
use crate::wire::{Header, Kind, MARKS, Mark, RigId, Watermark};

/// Rigs at most; what another one says is rejected, so that whoever may publish cannot fill the memory with names.
const RIGS: usize = 10_000;
/// Rejected messages that are kept, the newest.
const REJECTED: i64 = 10_000;
/// Kept of a rejected message, bytes.
const REJECTED_BYTES: usize = 1_024;
/// Kept of its topic, characters.
const REJECTED_TOPIC: usize = 256;

/// A rig, in memory.
struct Rig {
    id: i64,
    /// At most [`MARKS`], those heard of last.
    lanes: Vec<Lane>,
}

/// One lane of one boot, in memory.
struct Lane {
    id: i64,
    boot: u32,
    kind: Kind,
    marks: Marks,
    /// Highest number that retention has deleted.
    expired_to: u64,
    heard_ms: u64,
    touched: bool,
}

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Messages stored now.
    pub stored: u64,
    /// Messages that were there already.
    pub duplicates: u64,
    /// Messages that were none.
    pub rejected: u64,
    /// What to tell the rigs of which a mark advanced, or which sent again what is stored.
    pub watermarks: Vec<(RigId, Watermark)>,
}

/// The store of one collector.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    rigs: BTreeMap<RigId, Rig>,
    /// Where retention goes on.
    cursor: i64,
    /// Held as long as the store is open.
    _lock: Lock,
}

impl Store {
    /// Opens the store at this path, or makes it; a directory means `collect.db` in it.
    ///
    /// # Errors
    /// Another collector has it open, or it cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = schema::file(path);
        let (connection, lock) = schema::open(&path)?;
        Ok(Self { connection, path, rigs: BTreeMap::new(), cursor: 0, _lock: lock })
    }

    /// Stores a batch, all of it or, where there is an error, nothing; when this returns it is on the disk.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn commit(&mut self, batch: &[Incoming<'_>], now_ms: u64) -> Result<Outcome, Error> {
        let stored = self.connection.transaction().and_then(|transaction| {
            let mut writer = Writer::new(&transaction, &mut self.rigs, now_ms)?;
            for incoming in batch {
                writer.take(*incoming)?;
            }
            let outcome = writer.finish()?;
            transaction.commit()?;
            Ok(outcome)
        });
        stored.map_err(|error| {
            // It may speak of what was rolled back.
            self.rigs.clear();
            about(&self.path)(error)
        })
    }

    /// What to tell every rig, as after a start or to a broker that may have forgotten.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn watermarks(&mut self) -> Result<Vec<(RigId, Watermark)>, Error> {
        self.all_watermarks().map_err(about(&self.path))
    }

    fn all_watermarks(&mut self) -> rusqlite::Result<Vec<(RigId, Watermark)>> {
        let mut statement = self.connection.prepare("SELECT name FROM rig ORDER BY id LIMIT ?1")?;
        let names = statement.query_map([int(RIGS)], |row| row.get::<_, String>(0))?;
        let names = names.collect::<rusqlite::Result<Vec<_>>>()?;
        for name in names.into_iter().filter_map(|name| RigId::try_from(name).ok()) {
            if !self.rigs.contains_key(&name)
                && let Some(rig) = load(&self.connection, &name)?
            {
                self.rigs.insert(name, rig);
            }
        }
        Ok(self.rigs.iter().map(|(name, rig)| (name.clone(), rig.watermark())).collect())
    }
}

/// One transaction's work.
struct Writer<'a> {
    connection: &'a Connection,
    rigs: &'a mut BTreeMap<RigId, Rig>,
    message: Statement<'a>,
    now_ms: u64,
    outcome: Outcome,
    /// Rigs to be told.
    tell: BTreeSet<RigId>,
}

impl<'a> Writer<'a> {
    fn new(
        transaction: &'a Transaction<'_>,
        rigs: &'a mut BTreeMap<RigId, Rig>,
        now_ms: u64,
    ) -> rusqlite::Result<Self> {
        let message =
            "INSERT INTO message (lane, seq, received_ms, payload) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        Ok(Self {
            connection: transaction,
            rigs,
            message: transaction.prepare(message)?,
            now_ms,
            outcome: Outcome::default(),
            tell: BTreeSet::new(),
        })
    }

    fn take(&mut self, incoming: Incoming<'_>) -> rusqlite::Result<()> {
        match sort(incoming) {
            Entry::Passing => Ok(()),
            Entry::Rejected(reason) => self.reject(incoming, &reason),
            Entry::State { rig, header } => {
                if self.rig(&rig)? {
                    self.state(&rig, header, incoming)
                } else {
                    self.reject(incoming, TOO_MANY)
                }
            }
            Entry::Numbered { rig, header, gone, ended } => {
                if self.rig(&rig)? {
                    self.number(&rig, header, &gone, incoming)?;
                    ended.into_iter().try_for_each(|boot| self.close(&rig, boot))
                } else {
                    self.reject(incoming, TOO_MANY)
                }
            }
        }
    }

    /// Sees to it that the rig is in memory; `false` where there are too many.
    fn rig(&mut self, name: &RigId) -> rusqlite::Result<bool> {
        if self.rigs.contains_key(name) {
            return Ok(true);
        }
        if self.rigs.len() >= RIGS {
            return Ok(false);
        }
        let rig = if let Some(rig) = load(self.connection, name)? {
            rig
        } else {
            self.connection.execute("INSERT INTO rig (name) VALUES (?1)", [name.as_str()])?;
            Rig { id: self.connection.last_insert_rowid(), lanes: Vec::new() }
        };
        self.rigs.insert(name.clone(), rig);
        Ok(true)
    }

    fn number(&mut self, name: &RigId, header: Header, gone: &[Gone], incoming: Incoming<'_>) -> rusqlite::Result<()> {
        let Some(rig) = self.rigs.get_mut(name) else { return Ok(()) };
        let lane = rig.lane(self.connection, header, self.now_ms)?;
        lane.heard_ms = self.now_ms;
        lane.touched = true;
        let before = lane.marks.complete();
        for Gone { first, last, why } in gone {
            if lane.marks.declare(*first, *last) {
                self.connection.execute(RANGE, params![lane.id, int(*first), why, int(*last)])?;
            }
        }
        // What retention has deleted is not stored a second time.
        let expired = header.seq <= lane.expired_to && lane.marks.covers(header.seq);
        let row = params![lane.id, int(header.seq), int(self.now_ms), incoming.payload];
        let stored = !expired && self.message.execute(row)? == 1;
        lane.marks.insert(header.seq);
        if stored {
            self.outcome.stored += 1;
        } else {
            self.outcome.duplicates += 1;
        }
        if !stored || lane.marks.complete() > before {
            self.tell.insert(name.clone());
        }
        Ok(())
    }

    /// Of this start nothing waits at the rig any more: what is not here of it, in any lane, is lost.
    fn close(&mut self, name: &RigId, boot: u32) -> rusqlite::Result<()> {
        let Some(rig) = self.rigs.get_mut(name) else { return Ok(()) };
        let mut statement = self.connection.prepare(&format!("{LANE} WHERE rig = ?1 AND boot = ?2"))?;
        let rows = statement.query_map(params![rig.id, boot], Row::read)?.collect::<rusqlite::Result<Vec<_>>>()?;
        for row in rows {
            if let Some(lane) = rig.lanes.iter_mut().find(|lane| lane.id == row.id) {
                if lane.lose(self.connection)? {
                    lane.touched = true;
                    self.tell.insert(name.clone());
                }
            } else if let Some(mut lane) = row.lane(self.connection)?
                && lane.lose(self.connection)?
            {
                let row = params![lane.id, int(lane.marks.complete()), int(lane.heard_ms)];
                self.connection.execute(LANE_UPDATE, row)?;
            }
        }
        Ok(())
    }

    /// The broker sends the retained ones again to each subscription: only what is new is history.
    fn state(&mut self, name: &RigId, header: Header, incoming: Incoming<'_>) -> rusqlite::Result<()> {
        let Some(rig) = self.rigs.get(name) else { return Ok(()) };
        let kind = kind_name(header.kind);
        let newest = "SELECT payload = ?3 FROM state WHERE rig = ?1 AND kind = ?2 ORDER BY id DESC LIMIT 1";
        let same =
            self.connection.query_row(newest, params![rig.id, kind, incoming.payload], |row| row.get::<_, bool>(0));
        if same.optional()? == Some(true) {
            self.outcome.duplicates += 1;
            return Ok(());
        }
        let insert = "INSERT INTO state (rig, kind, received_ms, payload) VALUES (?1, ?2, ?3, ?4)";
        self.connection.execute(insert, params![rig.id, kind, int(self.now_ms), incoming.payload])?;
        self.outcome.stored += 1;
        Ok(())
    }

    fn reject(&mut self, incoming: Incoming<'_>, reason: &str) -> rusqlite::Result<()> {
        let topic: String = String::from_utf8_lossy(incoming.topic).chars().take(REJECTED_TOPIC).collect();
        let payload = incoming.payload.get(..REJECTED_BYTES).unwrap_or(incoming.payload);
        let insert = "INSERT INTO rejected (received_ms, topic, reason, payload) VALUES (?1, ?2, ?3, ?4)";
        self.connection.execute(insert, params![int(self.now_ms), topic, reason, payload])?;
        let oldest = self.connection.last_insert_rowid() - REJECTED;
        self.connection.execute("DELETE FROM rejected WHERE id <= ?1", [oldest])?;
        self.outcome.rejected += 1;
        Ok(())
    }

    /// Writes down the marks of what was touched.
    fn finish(mut self) -> rusqlite::Result<Outcome> {
        let mut update = self.connection.prepare(LANE_UPDATE)?;
        for (name, rig) in self.rigs.iter_mut() {
            for lane in rig.lanes.iter_mut().filter(|lane| lane.touched) {
                lane.touched = false;
                if lane.marks.forgot() {
                    lane.marks = accounted(self.connection, lane.id, lane.marks.complete())?;
                    self.tell.insert(name.clone());
                }
                update.execute(params![lane.id, int(lane.marks.complete()), int(lane.heard_ms)])?;
            }
            if self.tell.contains(name) {
                self.outcome.watermarks.push((name.clone(), rig.watermark()));
            }
        }
        Ok(self.outcome)
    }
}

impl Lane {
    /// What is missing below its highest number will never come; whether that was anything.
    fn lose(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        let before = self.marks.complete();
        loop {
            for (first, last) in self.marks.missing().collect::<Vec<_>>() {
                self.marks.declare(first, last);
                connection.execute(RANGE, params![self.id, int(first), LOST, int(last)])?;
            }
            if !self.marks.forgot() {
                return Ok(self.marks.complete() > before);
            }
            // Each time there is less left of it: what was forgotten is in the store.
            self.marks = accounted(connection, self.id, self.marks.complete())?;
        }
    }
}

const LANE_UPDATE: &str = "UPDATE lane SET complete = ?2, heard_ms = ?3 WHERE id = ?1";
const TOO_MANY: &str = "there are too many rigs already";
const RANGE: &str = "INSERT INTO range (lane, first, why, last) VALUES (?1, ?2, ?3, ?4)
  ON CONFLICT (lane, first, why) DO UPDATE SET last = max(last, excluded.last)";

impl Rig {
    /// The lane of this header; the one heard of longest ago makes room for it.
    fn lane(&mut self, connection: &Connection, header: Header, now_ms: u64) -> rusqlite::Result<&mut Lane> {
        let known = self.lanes.iter().position(|lane| (lane.boot, lane.kind) == (header.boot, header.kind));
        let place = if let Some(place) = known {
            place
        } else {
            let select = format!("{LANE} WHERE rig = ?1 AND boot = ?2 AND kind = ?3");
            let key = params![self.id, header.boot, kind_name(header.kind)];
            let found = connection.query_row(&select, key, Row::read).optional()?;
            let lane = match found.map(|row| row.lane(connection)).transpose()?.flatten() {
                Some(lane) => lane,
                None => {
                    let insert = "INSERT INTO lane (rig, boot, kind, heard_ms) VALUES (?1, ?2, ?3, ?4)";
                    connection.execute(insert, params![self.id, header.boot, kind_name(header.kind), int(now_ms)])?;
                    let id = connection.last_insert_rowid();
                    let (boot, kind) = (header.boot, header.kind);
                    Lane { id, boot, kind, marks: Marks::default(), expired_to: 0, heard_ms: now_ms, touched: false }
                }
            };
            if self.lanes.len() >= MARKS {
                // Never one of this batch unless all are: then its mark is written first.
                let oldest = self.lanes.iter().enumerate().min_by_key(|(_, lane)| (lane.touched, lane.heard_ms));
                if let Some(oldest) = oldest.map(|(place, _)| place) {
                    let oldest = self.lanes.swap_remove(oldest);
                    let row = params![oldest.id, int(oldest.marks.complete()), int(oldest.heard_ms)];
                    connection.execute(LANE_UPDATE, row)?;
                }
            }
            self.lanes.push(lane);
            self.lanes.len() - 1
        };
        self.lanes.get_mut(place).ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// The newest boots first: a boot is new when its first message comes.
    fn watermark(&self) -> Watermark {
        let mut lanes: Vec<&Lane> = self.lanes.iter().collect();
        lanes.sort_by_key(|lane| std::cmp::Reverse(lane.id));
        let mark = |lane: &Lane| Mark { boot: lane.boot, lane: lane.kind, seq: lane.marks.complete() };
        Watermark { marks: lanes.into_iter().take(MARKS).map(mark).collect() }
    }
}

const LANE: &str = "SELECT id, boot, kind, complete, expired_to, heard_ms FROM lane";

/// A row of the lanes.
struct Row {
    id: i64,
    boot: u32,
    kind: String,
    complete: u64,
    expired_to: u64,
    heard_ms: u64,
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            boot: row.get(1)?,
            kind: row.get(2)?,
            complete: natural(row.get(3)?),
            expired_to: natural(row.get(4)?),
            heard_ms: natural(row.get(5)?),
        })
    }

    /// None where a later version wrote a kind that this one does not know.
    fn lane(self, connection: &Connection) -> rusqlite::Result<Option<Lane>> {
        let Self { id, boot, kind, complete, expired_to, heard_ms } = self;
        let Some(kind) = Kind::ALL.into_iter().find(|known| kind_name(*known) == kind) else { return Ok(None) };
        let marks = accounted(connection, id, complete)?;
        Ok(Some(Lane { id, boot, kind, marks, expired_to, heard_ms, touched: false }))
    }
}

/// A rig with its lanes as the store has them; none where it has no such rig.
fn load(connection: &Connection, name: &RigId) -> rusqlite::Result<Option<Rig>> {
    let id =
        connection.query_row("SELECT id FROM rig WHERE name = ?1", [name.as_str()], |row| row.get(0)).optional()?;
    let Some(id) = id else { return Ok(None) };
    let mut statement =
        connection.prepare(&format!("{LANE} WHERE rig = ?1 ORDER BY heard_ms DESC, id DESC LIMIT ?2"))?;
    let rows = statement.query_map(params![id, int(MARKS)], Row::read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let lanes = rows.into_iter().filter_map(|row| row.lane(connection).transpose()).collect::<rusqlite::Result<_>>()?;
    Ok(Some(Rig { id, lanes }))
}

/// What is accounted for in a lane that is complete up to a number: only what is beyond it has to be read.
fn accounted(connection: &Connection, lane: i64, complete: u64) -> rusqlite::Result<Marks> {
    let mut marks = Marks::from_complete(complete);
    let mut statement =
        connection.prepare("SELECT first, last FROM range WHERE lane = ?1 AND last > ?2 ORDER BY first")?;
    let mut rows = statement.query(params![lane, int(complete)])?;
    while let Some(row) = rows.next()? {
        marks.declare(natural(row.get(0)?), natural(row.get(1)?));
    }
    let mut statement = connection.prepare("SELECT seq FROM message WHERE lane = ?1 AND seq > ?2 ORDER BY seq")?;
    let mut rows = statement.query(params![lane, int(complete)])?;
    while let Some(row) = rows.next()? {
        marks.insert(natural(row.get(0)?));
    }
    Ok(marks)
}

/// A kind as the wire's JSON and the tables have it.
pub(super) fn kind_name(kind: Kind) -> String {
    serde_json::to_string(&kind).unwrap_or_default().trim_matches('"').to_owned()
}

/// SQLite's numbers have a sign; ours come nowhere near the limit.
pub(super) fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

pub(super) fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
