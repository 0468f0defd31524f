//! The books on disk.
//!
//! ```text
//! energy            the books again and again, the newest counts      energy.bad           what was damaged, for whoever looks
//! energy-intervals  the signed records                                energy-intervals.old, .bad    older ones, damaged ones
//! ```
//!
//! Books are appended every [`SAVE_EVERY`] and left to the kernel, so that a killed agent loses ten seconds of them and counts that
//! time as a gap; they are forced to the disk every [`SYNC_EVERY`] and with each record, so that a power cut loses five minutes.
//! Wear, with eight GPUs and four payloads: 1 KiB each ten seconds is 8 MiB a day, in about 4000 writes of a page; flash that is
//! good for a thousand times 8 GiB outlives it by centuries.
//!
//! Damage: the newest whole books count, wherever in the file they stand. Where none are whole they are added up from the records.
//! The first damaged file of its name is put aside as it is; of the next ones what is whole stays, so that none takes the place of
//! records that were put aside. One record's beginning is no damage: a power cut tears the first record of a new file too.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::path::PathBuf;

use std::time::Duration;

use log::warn;
use serde::{Deserialize, Serialize};

use super::{Books, Interval, QUARTER};
use crate::framed::{Framed, OVERHEAD, salvage, scan};
use crate::wire::{ChainHash, Receipt};
use crate::{compact, sorted};

/// From one append to the next.
pub const SAVE_EVERY: Duration = Duration::from_secs(10);
/// From one fsync to the next.
pub const SYNC_EVERY: Duration = Duration::from_secs(300);
/// A clock is set where it differs by so much from what it should say, ms. One that is disciplined moves by 500 ppm.
const SET: u64 = 2_000;
/// Nobody looked for so long, ms: then an interval ends when somebody does again.
const HOLE: u64 = 60_000;
/// A clock that says less was never set: 2024, ms since 1970.
const NEVER_SET: u64 = 1_704_067_200_000;
/// Then the books' file begins anew.
const LARGEST_BOOKS: u64 = 256 * 1024;
/// Then the records' file becomes the older one of two, and the one that was that is gone: 40 days with 1 KiB each quarter of an hour.
const LARGEST_RECORDS: u64 = 4 * 1024 * 1024;
/// What one write may add to that: a file that is longer is not ours.
const ROOM: u64 = 1024 * 1024;
/// Longest books and longest record: of the most accounts, with the longest names.
const LONGEST: [usize; 2] = [512 * 1024, 128 * 1024];

const BOOKS: &str = "energy";
const RECORDS: &str = "energy-intervals";
const OLDER: &str = "energy-intervals.old";
const ASIDE: &str = "energy-intervals.bad";

/// When something was: by the rig's clock, and by one that never jumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Ms since 1970, by the rig's clock.
    pub unix_ms: u64,
    /// Which boot of the kernel.
    pub boot: u32,
    /// Ms since that.
    pub since_boot_ms: u64,
}

impl Moment {
    /// From an earlier moment to this one, ms: over a reboot of the kernel only as good as the rig's clock, and no less than the
    /// time since then.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> u64 {
        if earlier.boot == self.boot {
            return self.since_boot_ms.saturating_sub(earlier.since_boot_ms);
        }
        let known = earlier.unix_ms >= NEVER_SET;
        let away = if known { self.unix_ms.saturating_sub(earlier.unix_ms) } else { 0 };
        away.max(self.since_boot_ms)
    }
}

/// What outlives the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The books.
    pub books: Books,
    /// When they were so; zeros before the first.
    pub at: Moment,
    /// The books at the start of the interval that is open.
    pub opened: Books,
    /// When that began, ms since 1970; 0 before the first.
    pub opened_ms: u64,
    /// How many records were written.
    pub records: u64,
    /// The hash of the last one.
    pub chain: ChainHash,
}

impl Kept {
    /// Goes on to these books at this moment.
    pub fn go_on(&mut self, books: &Books, now: Moment) {
        self.books.clone_from(books);
        self.at = now;
        if self.opened_ms == 0 {
            (self.opened_ms, self.opened) = (now.unix_ms, books.clone());
        }
    }

    /// The same, and a record where an interval has ended with that: with its quarter of an hour, or as soon as the clock is
    /// set. Where nobody has looked for a while, or nobody has asked, it goes on until now. Each interval begins with the books
    /// of the end of the one before: whatever clocks do, nothing is in two of them.
    pub fn turn(&mut self, books: &Books, now: Moment) -> Option<Receipt> {
        let before = self.at;
        self.go_on(books, now);
        let quarter = |ms: u64| ms / QUARTER;
        let passed = now.since(&before);
        // What the clock would say had nobody set it. Over a reboot nobody knows, unless it goes back.
        let unset = before.unix_ms.saturating_add(passed);
        let set =
            if before.boot == now.boot { unset.abs_diff(now.unix_ms) > SET } else { now.unix_ms < before.unix_ms };
        let set = set || now.unix_ms < self.opened_ms;
        if before.unix_ms == 0 || (!set && quarter(now.unix_ms) == quarter(self.opened_ms)) {
            return None;
        }
        let whole = quarter(self.opened_ms).saturating_add(1).saturating_mul(QUARTER);
        let end = if set {
            let last = if before.boot == now.boot { unset } else { before.unix_ms };
            last.max(self.opened_ms)
        } else if before.unix_ms <= whole && passed <= HOLE {
            whole
        } else {
            now.unix_ms
        };
        let interval = Interval::between(self.records, (self.opened_ms, &self.opened), (end, books));
        let record = Receipt::after(self.chain, &interval);
        (self.chain, self.records) = (record.hash, self.records + 1);
        let begins = if end == whole && !set { whole } else { now.unix_ms };
        (self.opened_ms, self.opened) = (begins, books.clone());
        Some(record)
    }

    /// Takes in a record that the books do not know of.
    fn take(&mut self, record: &Receipt, interval: &Interval) {
        let mut books = self.opened.clone();
        books.plus(interval);
        (self.chain, self.records) = (record.hash, interval.index + 1);
        (self.opened_ms, self.opened, self.books) = (interval.to_ms, books.clone(), books);
        self.at.unix_ms = self.at.unix_ms.max(interval.to_ms);
    }
}

/// The files, open.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    books: Framed,
    records: Framed,
    /// The record that was written last by this one, and is on the disk.
    last: Option<ChainHash>,
}

impl Store {
    /// Opens or makes both files in this directory, and returns what was kept. What is damaged is put aside, aloud.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(directory: &Path) -> io::Result<(Self, Kept)> {
        let kept = Kept::read(directory)?;
        let records = whole(directory, RECORDS, LARGEST_RECORDS, LONGEST[1])?;
        let books = whole(directory, BOOKS, LARGEST_BOOKS, LONGEST[0])?;
        let mut this = Self { directory: directory.to_owned(), books, records, last: None };
        if this.books.length() == 0 && kept != Kept::default() {
            // What was put aside, or is known from the records alone.
            this.save(&kept, None, true)?;
        }
        Ok((this, kept))
    }

    /// Writes books, and first the record that closed an interval. Both survive a killed agent; with `sync`, or a record, a power
    /// cut too.
    ///
    /// # Errors
    /// What the system says. The next call with the same record goes on where this one stopped.
    pub fn save(&mut self, kept: &Kept, record: Option<&Receipt>, sync: bool) -> io::Result<()> {
        let bytes = |error: postcard::Error| io::Error::other(error);
        if let Some(record) = record.filter(|record| self.last != Some(record.hash)) {
            if self.records.length() > LARGEST_RECORDS {
                let path = self.directory.join(RECORDS);
                // After a try that stopped half way the name is free, or a new file's.
                if fs::metadata(&path).is_ok_and(|data| data.len() > LARGEST_RECORDS) {
                    fs::rename(&path, self.directory.join(OLDER))?;
                }
                self.records = Framed::open(&path, LARGEST_RECORDS + ROOM, |_| ())?.0;
            }
            self.records.append_synced(&compact::write(record).map_err(bytes)?)?;
            self.last = Some(record.hash);
        }
        let body = compact::write(kept).map_err(bytes)?;
        if self.books.length() > LARGEST_BOOKS {
            self.books = anew(&self.directory, BOOKS, LARGEST_BOOKS, &[&body])?;
        } else {
            self.books.append(&body)?;
        }
        if sync || record.is_some() { self.books.sync() } else { Ok(()) }
    }
}

impl Kept {
    /// What is kept in this directory, which stays as it is; the default where nothing is.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let bytes = read(&directory.join(BOOKS), LARGEST_BOOKS)?;
        let found = salvage(&bytes, LONGEST[0]).into_iter().rev().find_map(Self::parse);
        let mut kept = found.unwrap_or_default();
        // A record is on the disk before the books that know of it: after a cut between the two it goes on at the record.
        let unknown = |record: &Receipt| record.interval().filter(|one| one.index >= kept.records);
        let newest = newest(directory)?;
        if newest.as_ref().and_then(unknown).is_some() {
            for record in records(directory)? {
                if let Some(interval) = record.interval().filter(|one| one.index >= kept.records) {
                    kept.take(&record, &interval);
                }
            }
        }
        Ok(kept)
    }

    /// Books as they are in the file; none where these bytes are something else.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        postcard::from_bytes(body).ok()
    }

    /// The record that was written last.
    ///
    /// # Errors
    /// What the system says.
    pub fn newest(directory: &Path) -> io::Result<Option<Receipt>> {
        newest(directory)
    }
}

fn newest(directory: &Path) -> io::Result<Option<Receipt>> {
    let last = |name: &str| -> io::Result<Option<Receipt>> {
        let bytes = read(&directory.join(name), LARGEST_RECORDS)?;
        Ok(salvage(&bytes, LONGEST[1]).into_iter().rev().find_map(Receipt::parse))
    };
    if let Some(found) = last(RECORDS)? {
        return Ok(Some(found));
    }
    // Either may have come after the other.
    let either = [last(ASIDE)?, last(OLDER)?].into_iter().flatten();
    Ok(either.max_by_key(|record| record.interval().map(|interval| interval.index)))
}

/// Every record that is kept in this directory, in the order of their numbers, each once.
///
/// # Errors
/// What the system says.
pub fn records(directory: &Path) -> io::Result<Vec<Receipt>> {
    let mut all: Vec<(u64, Receipt)> = Vec::new();
    for name in [OLDER, ASIDE, RECORDS] {
        let bytes = read(&directory.join(name), LARGEST_RECORDS)?;
        let found = salvage(&bytes, LONGEST[1]).into_iter().filter_map(Receipt::parse);
        all.extend(found.map(|record| (record.interval().map_or(u64::MAX, |interval| interval.index), record)));
    }
    let mut all = sorted::list_by(all, |a, b| a.0.cmp(&b.0));
    all.dedup_by_key(|(_, record)| record.hash);
    Ok(all.into_iter().map(|(_, record)| record).collect())
}

/// A file's bytes, none where there is no file; one that is too long is not ours and is not read.
fn read(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    match fs::metadata(path) {
        Ok(data) if data.len() > largest + ROOM => Ok(Vec::new()),
        Ok(_) => fs::read(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A file to append to. One that is damaged, and not just torn at its end, is put aside first; where one was before, what is whole
/// in it stays and the rest is gone.
fn whole(directory: &Path, name: &str, largest: u64, longest: usize) -> io::Result<Framed> {
    let path = directory.join(name);
    let (bytes, there) = (read(&path, largest)?, fs::metadata(&path).map_or(0, |data| data.len()));
    let (bodies, found) = (scan(&bytes).0, salvage(&bytes, longest));
    // The first record may be torn like any other.
    let foreign = bodies.is_empty() && there > u64::try_from(longest + OVERHEAD).unwrap_or(u64::MAX);
    if foreign || found.len() > bodies.len() {
        let aside = directory.join(format!("{name}.bad"));
        if fs::exists(&aside)? {
            warn!("{}: damaged, and {name}.bad is there already: what is whole in it stays", path.display());
            return anew(directory, name, largest, &found);
        }
        warn!("{}: damaged; it is kept as {name}.bad, and counting goes on with what is whole in it", path.display());
        fs::rename(&path, aside)?;
    }
    Ok(Framed::open(&path, largest + ROOM, |_| ())?.0)
}

/// A file of these records alone, in the place of the one of its name.
fn anew(directory: &Path, name: &str, largest: u64, bodies: &[&[u8]]) -> io::Result<Framed> {
    let new = directory.join(format!("{name}.new"));
    // One that was being written when the power went is nobody's.
    File::create(&new)?;
    let mut file = Framed::open(&new, largest + ROOM, |_| ())?.0;
    for body in bodies {
        file.append(body)?;
    }
    file.sync()?;
    fs::rename(new, directory.join(name))?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests;
