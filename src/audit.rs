//! Who made the rig do what, and what came of it: a log that cannot be changed unseen.
//!
//! Each record holds the SHA-256 of the one before it, and a number. Whoever changes, removes, adds or moves a record breaks the
//! chain behind it; whoever rewrites the whole chain, or cuts its end off, changes the [head](Audit::head), which the rig
//! reports to the control plane, where nobody on the rig can change it.
//!
//! ```text
//! audit-0000000000000001.log   record 1 … record 812       [`FILES`] files of about [`FILE_BYTES`]; the oldest goes
//! audit-000000000000032d.log   record 813 … (holds the hash of record 812)
//! ```
//!
//! A file is framed records; what a power cut tore off the end is cut when the log is opened. What is damaged is never
//! touched: the log goes on in a new file, and [`verify`] tells where it broke.

mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::framed::{self, Framed};
use crate::wire::{AuditHash, AuditHead, KeyId, LONGEST_TEXT};
use crate::{compact, sorted};
pub use writer::Writer;

/// Files kept.
pub const FILES: usize = 4;
/// Bytes in a file before the next one is begun.
pub const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Longest text in an entry, bytes; the rest is cut.
pub const LONGEST: usize = LONGEST_TEXT;
/// Nothing of ours comes near.
const LARGEST: u64 = 2 * FILE_BYTES;
const PREFIX: &str = "audit-";
const SUFFIX: &str = ".log";

/// SHA-256 of a record; zeros before the first.
pub type Hash = [u8; 32];

/// Who did something. Order and numbers are on disk: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// Somebody with these keys.
    Keys(Vec<KeyId>),
    /// A user of the rig, over the local socket.
    Local {
        /// The user's number.
        uid: u32,
    },
    /// The agent's own control.
    Control,
    /// The configuration.
    Config,
    /// Nobody knows: no signature was good.
    Unknown,
}

/// What is to be written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// By the rig's clock, milliseconds since 1970.
    pub at_ms: u64,
    /// The start of the agent.
    pub boot: u32,
    /// Who.
    pub who: Who,
    /// Did what.
    pub what: String,
    /// With what outcome.
    pub outcome: String,
}

/// An entry in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts from 1 for ever.
    pub n: u64,
    /// The hash of the record before.
    pub prev: Hash,
    /// Entries that could not be written right before this one.
    pub missed: u64,
    /// The entry.
    pub entry: Entry,
}

/// The end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last record; 0 where there is none.
    pub n: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// As the birth tells it; nothing before the first record.
    #[must_use]
    pub fn told(self) -> Option<AuditHead> {
        (self.n > 0).then_some(AuditHead { n: self.n, hash: AuditHash(self.hash) })
    }
}

const START: Head = Head { n: 0, hash: [0; 32] };

fn hash(body: &[u8]) -> Hash {
    digest::digest(&digest::SHA256, body).as_ref().try_into().unwrap_or_default()
}

/// The log, open to be appended to.
#[derive(Debug)]
pub struct Audit {
    directory: PathBuf,
    file: Framed,
    head: Head,
    missed: u64,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    files: usize,
    bytes: u64,
}

impl Audit {
    /// Opens or makes the log in this directory. Returns it with how many bytes of a torn end were cut off.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(directory: &Path) -> io::Result<(Self, u64)> {
        Self::with(directory, Limits { files: FILES, bytes: FILE_BYTES })
    }

    fn with(directory: &Path, limits: Limits) -> io::Result<(Self, u64)> {
        let mut head = START;
        let mut last = None;
        for (first, path) in files(directory)? {
            let bytes = read(&path)?;
            let (bodies, good) = framed::scan(&bytes);
            if let Some(body) = bodies.last() {
                let n = postcard::from_bytes::<Record>(body).map_or(head.n, |record| record.n);
                head = Head { n: n.max(head.n), hash: hash(body) };
            }
            let whole = !framed::follows(bytes.get(good..).unwrap_or_default());
            last = Some((first, path, whole));
        }
        let (file, cut) = match last {
            Some((_, path, true)) => Framed::open(&path, LARGEST, |_| {})?,
            // Damage is left for whoever looks; two files of one name there cannot be.
            Some((first, _, false)) => begin(directory, (head.n + 1).max(first + 1))?,
            None => begin(directory, 1)?,
        };
        Ok((Self { directory: directory.to_owned(), file, head, missed: 0, limits }, cut))
    }

    /// The end of the chain, to be told to whoever is not on this rig.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Appends an entry and waits for the disk.
    ///
    /// # Errors
    /// What the system says; the entry is counted as missed, in the next one that can be written.
    pub fn append(&mut self, entry: Entry) -> io::Result<Head> {
        let head = self.append_unsynced(entry)?;
        self.sync()?;
        Ok(head)
    }

    /// Waits until the disk has what was appended.
    ///
    /// # Errors
    /// What the system says; what was appended since the last time may not survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Appends an entry, which survives the agent from now on and a power cut from the next [`sync`](Self::sync) on.
    ///
    /// # Errors
    /// What the system says; the entry is counted as missed, in the next one that can be written.
    pub fn append_unsynced(&mut self, mut entry: Entry) -> io::Result<Head> {
        for text in [&mut entry.what, &mut entry.outcome] {
            text.truncate(text.floor_char_boundary(LONGEST));
        }
        let record = Record { n: self.head.n + 1, prev: self.head.hash, missed: self.missed, entry };
        let written = self.write(&record);
        match written {
            Ok(hash) => (self.head, self.missed) = (Head { n: record.n, hash }, 0),
            Err(_) => self.missed = self.missed.saturating_add(1),
        }
        written.map(|_| self.head)
    }

    fn write(&mut self, record: &Record) -> io::Result<Hash> {
        if self.file.length() >= self.limits.bytes {
            self.file.sync()?;
            (self.file, _) = begin(&self.directory, record.n)?;
            let all = files(&self.directory)?;
            for (_, path) in all.iter().take(all.len().saturating_sub(self.limits.files)) {
                fs::remove_file(path)?;
            }
        }
        let body = compact::write(record).map_err(io::Error::other)?;
        self.file.append(&body)?;
        Ok(hash(&body))
    }
}

fn begin(directory: &Path, first: u64) -> io::Result<(Framed, u64)> {
    Framed::open(&directory.join(format!("{PREFIX}{first:016x}{SUFFIX}")), LARGEST, |_| {})
}

/// The log's files with the numbers in their names, the oldest first.
fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if let Some(first) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            found.push((first, entry.path()));
        }
    }
    Ok(sorted::list(found))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > LARGEST {
        return Err(io::Error::other(format!(
            "{}: longer than {LARGEST} bytes, which nothing of ours is",
            path.display()
        )));
    }
    fs::read(path)
}

/// Where a chain breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// In which file.
    pub file: String,
    /// The record that should stand there.
    pub n: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// What is left of a log, and whether it is what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The first record that is there; 0 where there is none. Older ones were rotated away.
    pub first: u64,
    /// The end of what holds together.
    pub head: Head,
    /// Where it stops to hold.
    pub broken: Option<Break>,
    /// Bytes of a record at the end that is not whole: a power cut, or somebody's hand; the head tells which.
    pub cut: u64,
    /// Entries that could not be written.
    pub missed: u64,
}

/// Reads the log in this directory and checks that each record follows on the one before; `each` gets those that do.
///
/// # Errors
/// What the system says.
pub fn verify(directory: &Path, mut each: impl FnMut(&Record)) -> io::Result<Report> {
    let mut report = Report { first: 0, head: START, broken: None, cut: 0, missed: 0 };
    let all = files(directory)?;
    let count = all.len();
    for (index, (first, path)) in all.into_iter().enumerate() {
        let bytes = read(&path)?;
        let (bodies, good) = framed::scan(&bytes);
        let broken = |n, why| Some(Break { file: path.display().to_string(), n, why });
        let started = report.head != START;
        if (started && first != report.head.n + 1) || (!started && first == 0) {
            report.broken = broken(report.head.n + 1, "the file does not begin where the one before ends");
            return Ok(report);
        }
        for (place, body) in bodies.into_iter().enumerate() {
            let next = if report.head == START { first } else { report.head.n + 1 };
            let Ok(record) = postcard::from_bytes::<Record>(body) else {
                report.broken = broken(next, "it cannot be read");
                return Ok(report);
            };
            let anchored = report.head == START && place == 0 && (first > 1 || record.prev == START.hash);
            if record.n != next || !(anchored || record.prev == report.head.hash && report.head != START) {
                report.broken = broken(next, "it does not follow on the one before");
                return Ok(report);
            }
            if report.first == 0 {
                report.first = record.n;
            }
            report.missed = report.missed.saturating_add(record.missed);
            report.head = Head { n: record.n, hash: hash(body) };
            each(&record);
        }
        let left = bytes.get(good..).unwrap_or_default();
        if left.is_empty() {
            continue;
        }
        if index + 1 < count || framed::follows(left) {
            report.broken = broken(report.head.n + 1, "it was changed, and others stand behind it");
            return Ok(report);
        }
        report.cut = u64::try_from(left.len()).unwrap_or(u64::MAX);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("rigd-audit-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn entry(what: &str) -> Entry {
        Entry {
            at_ms: 1,
            boot: 2,
            who: Who::Keys(vec![KeyId([3; 8])]),
            what: what.to_owned(),
            outcome: "done".to_owned(),
        }
    }

    /// A log of seven entries, and its records as bytes.
    fn seven(name: &str) -> (PathBuf, Vec<Vec<u8>>, Head) {
        let directory = directory(name);
        let (mut audit, _) = Audit::open(&directory).unwrap();
        for number in 0..7 {
            audit.append(entry(&format!("order {number}"))).unwrap();
        }
        let bytes = fs::read(only(&directory)).unwrap();
        let bodies = framed::scan(&bytes).0.into_iter().map(<[u8]>::to_vec).collect();
        (directory, bodies, audit.head())
    }

    fn only(directory: &Path) -> PathBuf {
        files(directory).unwrap().pop().unwrap().1
    }

    fn write(directory: &Path, bodies: &[Vec<u8>]) {
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed::frame(body)).collect();
        fs::write(only(directory), bytes).unwrap();
    }

    fn report(directory: &Path) -> Report {
        verify(directory, |_| {}).unwrap()
    }

    #[test]
    fn a_log_nobody_touched_is_whole() {
        let (directory, _, head) = seven("whole");
        let mut what = Vec::new();
        let found = verify(&directory, |record| what.push(record.entry.what.clone())).unwrap();
        assert_eq!(found, Report { first: 1, head, broken: None, cut: 0, missed: 0 });
        assert_eq!((head.n, what.len(), what[6].as_str()), (7, 7, "order 6"));
        let (mut audit, cut) = Audit::open(&directory).unwrap();
        assert_eq!((audit.head(), cut), (head, 0));
        audit.append(entry("later")).unwrap();
        assert_eq!(report(&directory).head, audit.head());
        fs::remove_dir_all(&directory).unwrap();
    }

    /// By somebody who knows the format and mends every checksum.
    #[test]
    fn whatever_is_done_to_a_record_is_found_there() {
        let (directory, bodies, head) = seven("touched");
        let changed = |body: &[u8]| {
            let mut record: Record = postcard::from_bytes(body).unwrap();
            record.entry.outcome = "nothing".to_owned();
            postcard::to_allocvec(&record).unwrap()
        };
        for at in 0..bodies.len() {
            let number = u64::try_from(at).unwrap() + 1;
            let mut all = bodies.clone();
            all[at] = changed(&bodies[at]);
            write(&directory, &all);
            let found = report(&directory);
            // The last has none behind it that knows: the head does.
            assert_eq!(found.broken.map(|broken| broken.n), (number < 7).then_some(number + 1), "changed {number}");
            assert_ne!(found.head, head);
            let mut all = bodies.clone();
            all.remove(at);
            write(&directory, &all);
            let found = report(&directory);
            assert_eq!(found.broken.map(|broken| broken.n), (number < 7).then_some(number), "removed {number}");
            assert_ne!(found.head, head);
            let mut all = bodies.clone();
            all.insert(at, bodies[at].clone());
            write(&directory, &all);
            assert_eq!(report(&directory).broken.map(|broken| broken.n), Some(number + 1), "doubled {number}");
            if at > 0 {
                let mut all = bodies.clone();
                all.swap(at - 1, at);
                write(&directory, &all);
                assert_eq!(report(&directory).broken.map(|broken| broken.n), Some(number - 1), "moved {number}");
            }
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_torn_end_is_told_and_cut_and_damage_is_left_as_it_is() {
        let (directory, bodies, head) = seven("torn");
        let path = only(&directory);
        let whole = fs::read(&path).unwrap();
        let last = bodies[6].len() + framed::OVERHEAD;
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let found = report(&directory);
        assert_eq!((found.broken, found.cut, found.head.n), (None, u64::try_from(last - 3).unwrap(), 6));
        let (audit, cut) = Audit::open(&directory).unwrap();
        assert_eq!((audit.head().n, cut), (6, u64::try_from(last - 3).unwrap()));
        assert_ne!(audit.head(), head);

        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let broken = report(&directory).broken.unwrap();
        let (mut audit, _) = Audit::open(&directory).unwrap();
        audit.append(entry("after the damage")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), damaged);
        assert_eq!(report(&directory).broken, Some(broken));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn files_come_and_go_and_the_chain_goes_over_them() {
        let directory = directory("rotated");
        let limits = Limits { files: 3, bytes: 300 };
        let (mut audit, _) = Audit::with(&directory, limits).unwrap();
        for number in 0..40 {
            audit.append(entry(&format!("order {number}"))).unwrap();
            if number % 7 == 0 {
                let head = audit.head();
                (audit, _) = Audit::with(&directory, limits).unwrap();
                assert_eq!(audit.head(), head);
            }
        }
        let found = report(&directory);
        assert_eq!((found.broken.clone(), found.head, files(&directory).unwrap().len()), (None, audit.head(), 3));
        assert!(found.first > 1);
        // A file from the middle of it is missed.
        fs::remove_file(&files(&directory).unwrap()[1].1).unwrap();
        assert!(report(&directory).broken.is_some());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_could_not_be_written_is_counted_in_the_next() {
        let directory = directory("missed");
        let (mut audit, _) = Audit::with(&directory, Limits { files: 3, bytes: 0 }).unwrap();
        audit.append(entry("first")).unwrap();
        let aside = directory.with_extension("aside");
        fs::rename(&directory, &aside).unwrap();
        assert!(audit.append(entry("lost")).is_err());
        assert!(audit.append(entry("lost")).is_err());
        fs::rename(&aside, &directory).unwrap();
        let long = "ü".repeat(LONGEST);
        audit.append(entry(&long)).unwrap();
        let mut lengths = Vec::new();
        let found = verify(&directory, |record| lengths.push(record.entry.what.len())).unwrap();
        assert_eq!((found.missed, found.head.n, lengths), (2, 2, vec![5, LONGEST]));
        fs::remove_dir_all(&directory).unwrap();
    }
}
