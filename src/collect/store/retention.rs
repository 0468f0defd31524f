//! Old telemetry goes, in bounded steps; what was accounted for stays accounted for.

use rusqlite::{Connection, params};

use super::{RANGE, Store, int, kind_name, natural};
use crate::collect::schema::{Error, about};
use crate::wire::Kind;

/// Words of a rig's state that are kept per kind.
const HISTORY: i64 = 1_000;

/// One message that is old enough.
struct Old {
    id: i64,
    lane: i64,
    seq: u64,
    complete: u64,
}

impl Store {
    /// Looks at the `limit` oldest messages that were not looked at, and deletes the telemetry among them that was received
    /// before a time. Events stay. Returns how many it deleted; fewer than `limit` looked at is the end for now.
    ///
    /// # Errors
    /// What SQLite says; nothing is deleted then.
    pub fn expire(&mut self, before_ms: u64, limit: usize) -> Result<usize, Error> {
        self.expire_step(before_ms, limit).map_err(|error| {
            self.rigs.clear();
            about(&self.path)(error)
        })
    }

    fn expire_step(&mut self, before_ms: u64, limit: usize) -> rusqlite::Result<usize> {
        let transaction = self.connection.transaction()?;
        let (mut old, cursor) = oldest(&transaction, self.cursor, before_ms, limit)?;
        if cursor == self.cursor {
            return Ok(0);
        }
        old.sort_unstable_by_key(|old| (old.lane, old.seq));
        for Old { id, lane, seq, complete } in &old {
            transaction.execute("DELETE FROM message WHERE id = ?1", [id])?;
            transaction
                .execute("UPDATE lane SET expired_to = max(expired_to, ?2) WHERE id = ?1", params![lane, int(*seq)])?;
            // Beyond the mark only the row itself said that the number was there.
            if seq > complete {
                keep(&transaction, *lane, *seq)?;
            }
        }
        transaction.commit()?;
        self.cursor = cursor;
        for lane in self.rigs.values_mut().flat_map(|rig| &mut rig.lanes) {
            let deleted = old.iter().filter(|old| old.lane == lane.id).map(|old| old.seq).max();
            lane.expired_to = lane.expired_to.max(deleted.unwrap_or(0));
        }
        Ok(old.len())
    }

    /// Forgets all but the newest words on each rig's state.
    ///
    /// # Errors
    /// What SQLite says; nothing is forgotten then.
    pub fn trim(&mut self) -> Result<usize, Error> {
        let trim = "DELETE FROM state WHERE id IN (SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY rig, kind ORDER BY id DESC) AS place FROM state) WHERE place > ?1)";
        self.connection.execute(trim, [HISTORY]).map_err(about(&self.path))
    }
}

/// Remembers that a number was stored once: as part of the range that ends right before it, where there is one.
fn keep(connection: &Connection, lane: i64, seq: u64) -> rusqlite::Result<()> {
    let grow = "UPDATE range SET last = ?2 WHERE lane = ?1 AND why = 'expired' AND last = ?2 - 1
      AND first = (SELECT max(first) FROM range WHERE lane = ?1 AND first < ?2 AND why = 'expired')";
    if connection.execute(grow, params![lane, int(seq)])? == 0 {
        connection.execute(RANGE, params![lane, int(seq), "expired", int(seq)])?;
    }
    Ok(())
}

/// Telemetry among the messages after a row, and the last row that was looked at. Rows are in the order in which they came;
/// the newest always stays, because SQLite would give its number to the next.
fn oldest(connection: &Connection, after: i64, before_ms: u64, limit: usize) -> rusqlite::Result<(Vec<Old>, i64)> {
    let mut statement = connection.prepare(
        "SELECT message.id, lane.id, seq, complete, kind FROM
           (SELECT id, lane, seq, received_ms FROM message WHERE id > ?1 ORDER BY id LIMIT ?3) AS message
           JOIN lane ON lane.id = message.lane
         WHERE received_ms < ?2 AND message.id < (SELECT max(id) FROM message) ORDER BY message.id",
    )?;
    let mut rows = statement.query(params![after, int(before_ms), int(limit)])?;
    let (mut old, mut cursor) = (Vec::new(), after);
    while let Some(row) = rows.next()? {
        cursor = row.get(0)?;
        if row.get::<_, String>(4)? == kind_name(Kind::Telemetry) {
            old.push(Old { id: cursor, lane: row.get(1)?, seq: natural(row.get(2)?), complete: natural(row.get(3)?) });
        }
    }
    Ok((old, cursor))
}
