//! What a store has, read beside the collector that writes it: the proof of completeness, and the last events.

use std::path::Path;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::schema::{self, Error, about};
use super::store::{int, kind_name, natural};
use crate::wire::{Kind, RigId};

/// Missing ranges that are listed per lane; all are counted.
const LISTED: usize = 1_000;

/// What is there of one lane of one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    /// Whose.
    pub rig: String,
    /// Of which start of its agent.
    pub boot: u32,
    /// What its messages are.
    pub lane: String,
    /// The highest number that was stored or declared.
    pub highest: u64,
    /// The mark as it was last told to the rig, or is about to be: it acknowledges every number up to this one.
    pub complete: u64,
    /// Messages in the store.
    pub stored: u64,
    /// Numbers that are not stored because the rig declared them as dropped, or as lost with a start of its agent that was killed.
    pub dropped: u64,
    /// Numbers that were stored, and deleted when they were old.
    pub expired: u64,
    /// Numbers that the rig had delivered before there was a collector, or to another store, by its own word.
    pub earlier: u64,
    /// Numbers below the highest of which nothing is known, or that the mark acknowledges and the store has not.
    pub missing: u64,
    /// The same as ranges, first and last included: the lowest 1000.
    pub missing_ranges: Vec<(u64, u64)>,
}

/// Every lane of a store, by rig, boot and lane; `rig` leaves out all others. Each number is looked for: the marks are not
/// believed.
///
/// # Errors
/// The file cannot be read, or is no store.
pub fn completeness(path: &Path, rig: Option<&RigId>) -> Result<Vec<LaneReport>, Error> {
    let path = schema::file(path);
    let mut connection = schema::read(&path)?;
    // One snapshot, whatever is written meanwhile.
    let transaction = connection.transaction().map_err(about(&path))?;
    lanes(&transaction, rig).map_err(about(&path))
}

fn lanes(connection: &Connection, rig: Option<&RigId>) -> rusqlite::Result<Vec<LaneReport>> {
    let mut statement = connection.prepare(
        "SELECT lane.id, rig.name, boot, kind, complete, expired_to FROM lane JOIN rig ON rig.id = lane.rig
         WHERE ?1 IS NULL OR rig.name = ?1 ORDER BY rig.name, lane.id",
    )?;
    let mut rows = statement.query([rig.map(RigId::as_str)])?;
    let mut reports = Vec::new();
    while let Some(row) = rows.next()? {
        let mut report = LaneReport {
            rig: row.get(1)?,
            boot: row.get(2)?,
            lane: row.get(3)?,
            complete: natural(row.get(4)?),
            ..LaneReport::default()
        };
        let (id, expired_to): (i64, i64) = (row.get(0)?, row.get(5)?);
        report.read(connection, id, natural(expired_to))?;
        reports.push(report);
    }
    Ok(reports)
}

/// How far ranges go that were declared, by what they were declared as.
#[derive(Default)]
struct Ends {
    dropped: u64,
    expired: u64,
    earlier: u64,
}

impl LaneReport {
    fn read(&mut self, connection: &Connection, lane: i64, expired_to: u64) -> rusqlite::Result<()> {
        // In the order of their beginnings, so that one pass finds every hole; a message is a run of one.
        let mut statement = connection.prepare(
            "SELECT seq, seq, 0 FROM message WHERE lane = ?1
             UNION ALL SELECT first, last, CASE why WHEN 'expired' THEN 1 WHEN 'earlier' THEN 3 ELSE 2 END FROM range WHERE lane = ?1
             ORDER BY 1, 3",
        )?;
        let mut rows = statement.query([lane])?;
        // Every number up to `seen` has been dealt with; the others are ends of declared and expired ranges that go on.
        let (mut seen, mut ends) = (0, Ends { expired: expired_to.min(self.complete), ..Ends::default() });
        while let Some(row) = rows.next()? {
            let (first, last) = (natural(row.get(0)?), natural(row.get(1)?));
            self.pass(&mut seen, first.saturating_sub(1), &ends);
            match row.get::<_, i64>(2)? {
                0 => {
                    self.stored += 1;
                    seen = seen.max(last);
                }
                1 => ends.expired = ends.expired.max(last),
                3 => ends.earlier = ends.earlier.max(last),
                _ => ends.dropped = ends.dropped.max(last),
            }
            self.highest = self.highest.max(last);
        }
        self.highest = self.highest.max(self.complete);
        let highest = self.highest;
        self.pass(&mut seen, highest, &ends);
        Ok(())
    }

    /// Accounts for the numbers after `seen` up to `to`, of which none is stored.
    fn pass(&mut self, seen: &mut u64, to: u64, ends: &Ends) {
        let mut take = |end: u64| {
            let length = end.min(to).saturating_sub(*seen);
            *seen += length;
            length
        };
        self.dropped += take(ends.dropped);
        self.expired += take(ends.expired);
        self.earlier += take(ends.earlier);
        let missing = take(to);
        self.missing += missing;
        if missing > 0 && self.missing_ranges.len() < LISTED {
            self.missing_ranges.push((to - missing + 1, to));
        }
    }
}

/// Every receipt of energy in a store with its rig's name, in the order in which they came.
///
/// # Errors
/// The file cannot be read, or is no store.
pub fn receipts(path: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let path = schema::file(path);
    let connection = schema::read(&path)?;
    let read = || -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
        let mut statement = connection.prepare("SELECT rig, payload FROM messages WHERE kind = ?1 ORDER BY rig, id")?;
        statement.query_map([kind_name(Kind::Receipt)], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    read().map_err(about(&path))
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Whose.
    pub rig: RigId,
    /// When the collector received it, ms since 1970 by its own clock.
    pub received_ms: u64,
    /// The message.
    pub payload: Vec<u8>,
}

/// The last events of these rigs, or of all where none is named, in the order in which they came; at most `limit`.
///
/// # Errors
/// The file cannot be read, or is no store.
pub fn last_events(path: &Path, rigs: &[RigId], limit: usize) -> Result<Vec<StoredEvent>, Error> {
    let path = schema::file(path);
    let connection = schema::read(&path)?;
    events(&connection, rigs, limit).map_err(about(&path))
}

fn events(connection: &Connection, rigs: &[RigId], limit: usize) -> rusqlite::Result<Vec<StoredEvent>> {
    // By lane: telemetry is a hundred times as much, and is not read.
    let mut lanes = connection.prepare(
        "SELECT lane.id, rig.name FROM lane JOIN rig ON rig.id = lane.rig WHERE kind = ?1 ORDER BY heard_ms DESC",
    )?;
    let lanes =
        lanes.query_map([kind_name(Kind::Event)], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let mut newest = connection
        .prepare("SELECT id, received_ms, payload FROM message WHERE lane = ?1 ORDER BY seq DESC LIMIT ?2")?;
    let mut found: Vec<(i64, StoredEvent)> = Vec::new();
    for lane in lanes {
        let (lane, name) = lane?;
        let Ok(rig) = RigId::try_from(name) else { continue };
        if !rigs.is_empty() && !rigs.contains(&rig) {
            continue;
        }
        let mut rows = newest.query(params![lane, int(limit)])?;
        while let Some(row) = rows.next()? {
            let event = StoredEvent { rig: rig.clone(), received_ms: natural(row.get(1)?), payload: row.get(2)? };
            found.push((row.get(0)?, event));
        }
        // Never more than twice as many in memory.
        if found.len() > limit {
            found.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
            found.truncate(limit);
        }
    }
    found.sort_unstable_by_key(|(id, _)| *id);
    Ok(found.into_iter().map(|(_, event)| event).collect())
}
