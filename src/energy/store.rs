//! The books on disk.
//!
//! `energy` holds the books again and again, the last one counts; `energy-intervals` holds the chained records. Books are
//! appended every [`SAVE_EVERY`] and left to the kernel, so that a killed agent loses ten seconds of them and counts that time as a gap;
//! they are forced to the disk every [`SYNC_EVERY`] and with each record, so that a power cut loses five minutes. Wear, with eight
//! GPUs and four payloads: 0.5 KiB each ten seconds is 4 MiB a day, in about 3000 writes of a page; flash that is good for a
//! thousand times 8 GiB outlives it by centuries.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::warn;
use serde::{Deserialize, Serialize};

use super::{Books, Interval, QUARTER, Record};
use crate::framed::{Framed, scan};

/// From one append to the next.
pub const SAVE_EVERY: Duration = Duration::from_secs(10);
/// From one fsync to the next.
pub const SYNC_EVERY: Duration = Duration::from_secs(300);
/// Then the books' file begins anew.
const LARGEST_BOOKS: u64 = 256 * 1024;
/// Then the records' file becomes the older one of two, and the one that was that is gone: half a year with 200 bytes a payload
/// and GPU.
const LARGEST_RECORDS: u64 = 16 * 1024 * 1024;
/// A file that is longer than it can get is not ours.
const ROOM: u64 = 4 * 1024 * 1024;

/// What outlives the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The books.
    pub books: Books,
    /// The books at the start of the interval that is open.
    pub opened: Books,
    /// When that began, ms since 1970; 0 before the first.
    pub opened_ms: u64,
    /// How many records were written.
    pub records: u64,
    /// The hash of the last one.
    pub chain: [u8; 32],
}

impl Kept {
    /// Goes on to these books at this time by the rig's clock; a record for each interval that has ended with that. An interval
    /// ends with its quarter of an hour, or as soon as the clock is set back.
    pub fn turn(&mut self, books: &Books, unix_ms: u64) -> Option<Record> {
        let quarter = |ms: u64| ms / QUARTER;
        self.books.clone_from(books);
        if self.opened_ms == 0 {
            (self.opened_ms, self.opened) = (unix_ms, books.clone());
            return None;
        }
        if quarter(unix_ms) == quarter(self.opened_ms) && unix_ms >= self.opened_ms {
            return None;
        }
        // Where the clock was set the end is not later than the next quarter, and not before the beginning.
        let end = unix_ms.clamp(self.opened_ms, (quarter(self.opened_ms) + 1) * QUARTER);
        let interval = Interval::between(self.records, (self.opened_ms, &self.opened), (end, books));
        let record = Record::after(self.chain, &interval);
        (self.chain, self.records) = (record.hash, self.records + 1);
        (self.opened_ms, self.opened) = (unix_ms, books.clone());
        Some(record)
    }
}

/// The files, open.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    books: Framed,
    records: Framed,
    saved: Option<Instant>,
    synced: Option<Instant>,
}

impl Store {
    /// Opens or makes both files in this directory, and returns what was kept. What does not read as books is put aside and
    /// begun anew, aloud.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(directory: &Path) -> io::Result<(Self, Kept)> {
        let path = directory.join("energy");
        let mut last = None;
        let mut keep = |body: &[u8]| last = postcard::from_bytes::<Kept>(body).ok().or_else(|| last.take());
        let books = match Framed::open(&path, LARGEST_BOOKS + ROOM, &mut keep) {
            Ok((books, _)) => books,
            Err(error) if error.kind() == io::ErrorKind::Other => {
                warn!("{}: {error}; it is put aside, energy is counted from zero", path.display());
                fs::rename(&path, directory.join("energy.bad"))?;
                Framed::open(&path, LARGEST_BOOKS + ROOM, &mut keep)?.0
            }
            Err(error) => return Err(error),
        };
        let mut kept: Kept = last.unwrap_or_default();
        let mut newest = None;
        let (records, _) = Framed::open(&directory.join("energy-intervals"), LARGEST_RECORDS + ROOM, |body| {
            newest = postcard::from_bytes::<Record>(body).ok().or_else(|| newest.take());
        })?;
        // A record is on the disk before the books that know of it: after a cut between the two the chain goes on at the record.
        if let Some((record, interval)) = newest.and_then(|record| Some((record.clone(), record.interval()?)))
            && interval.index >= kept.records
        {
            (kept.chain, kept.records) = (record.hash, interval.index + 1);
            (kept.opened_ms, kept.opened) = (interval.to_ms, kept.books.clone());
        }
        Ok((Self { directory: directory.to_owned(), books, records, saved: None, synced: None }, kept))
    }

    /// Writes what is due, and with a record everything.
    ///
    /// # Errors
    /// What the system says; the next call tries again.
    pub fn save(&mut self, kept: &Kept, record: Option<&Record>, now: Instant) -> io::Result<()> {
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        let bytes = |error: postcard::Error| io::Error::other(error);
        if let Some(record) = record {
            if self.records.length() > LARGEST_RECORDS {
                self.records = renewed(&self.directory, "energy-intervals", Some("energy-intervals.old"))?;
            }
            self.records.append(&postcard::to_allocvec(record).map_err(bytes)?)?;
            self.records.sync()?;
        }
        if record.is_some() || due(self.saved, SAVE_EVERY) {
            let body = postcard::to_allocvec(kept).map_err(bytes)?;
            if self.books.length() > LARGEST_BOOKS {
                let mut fresh = Framed::open(&self.directory.join("energy.new"), LARGEST_BOOKS + ROOM, |_| ())?.0;
                fresh.append(&body)?;
                fresh.sync()?;
                fs::rename(self.directory.join("energy.new"), self.directory.join("energy"))?;
                File::open(&self.directory)?.sync_all()?;
                self.books = fresh;
            } else {
                self.books.append(&body)?;
            }
            self.saved = Some(now);
        }
        if record.is_some() || due(self.synced, SYNC_EVERY) {
            self.books.sync()?;
            self.synced = Some(now);
        }
        Ok(())
    }

    /// Every record that is kept, the oldest first.
    ///
    /// # Errors
    /// What the system says.
    pub fn records(&self) -> io::Result<Vec<Record>> {
        let mut all = Vec::new();
        for name in ["energy-intervals.old", "energy-intervals"] {
            match fs::read(self.directory.join(name)) {
                Ok(bytes) => all.extend(scan(&bytes).0.into_iter().filter_map(|body| postcard::from_bytes(body).ok())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// An empty file of this name; the one that was there is kept under the other name.
fn renewed(directory: &Path, name: &str, aside: Option<&str>) -> io::Result<Framed> {
    if let Some(aside) = aside {
        fs::rename(directory.join(name), directory.join(aside))?;
    }
    Ok(Framed::open(&directory.join(name), LARGEST_RECORDS + ROOM, |_| ())?.0)
}
