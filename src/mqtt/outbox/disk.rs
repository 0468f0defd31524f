//! The disk's side: executes one job after the other on the files, and answers. It decides nothing.
//!
//! ```text
//! outbox/lock                   held by the one agent that may write here
//! outbox/cursor                 one framed record: boot u32, lane u8, number u64 each: what is done with; of lane 0: a number of
//!                               the broker u32, and when its control plane was last heard of there, 0 for never
//! outbox/{event,ack,tele}/00000012   a segment; the name is its number
//! ```
//!
//! Each step leaves the old or the new behind when the power goes: records are appended and framed, everything else is
//! written beside, synced and renamed. A file that ends in `.new` was not finished and is removed.

use std::io;
use std::path::{Path, PathBuf};

use super::segment::{Segment, Stored, find, write};
use super::{Lane, Lanes, shelf::Reclaim};
use crate::{framed, sorted};

/// Bytes of a segment that are read at a time: one record at least.
const CHUNK: usize = 160 * 1024;
/// Records of the backlog in memory at a time.
const RECORDS: usize = 32;
/// One in so many stays of what is thinned.
const THIN: u64 = 10;
/// No file of ours is longer.
const LARGEST: usize = 2 * 1024 * 1024;
/// Bytes of a mark in the cursor.
const MARK: usize = 4 + 1 + 8;
/// What stands there in the place of a lane's number where it is about a control plane. Never to be changed.
const KNOWN: u8 = 0;

/// What the outbox needs of a file system.
pub(super) trait Files: Send {
    /// Makes a directory, and those above it.
    fn make(&mut self, directory: &Path) -> io::Result<()>;
    /// Takes the lock for as long as this lives; `false` where another process has it.
    fn lock(&mut self, path: &Path) -> io::Result<bool>;
    /// Names in a directory.
    fn list(&mut self, directory: &Path) -> io::Result<Vec<String>>;
    /// So many bytes from there, or as many as there are.
    fn read(&mut self, path: &Path, from: u64, most: usize) -> io::Result<Vec<u8>>;
    /// Writes from there on, into a file that is made where there is none; nothing follows what is written.
    fn write(&mut self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Waits until the disk has the file.
    fn sync(&mut self, path: &Path) -> io::Result<()>;
    /// Waits until the disk has the names in a directory.
    fn sync_names(&mut self, directory: &Path) -> io::Result<()>;
    /// Gives a file the name of another, which is gone then.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// What is remembered from start to start beside the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Of this boot and lane everything up to this number is done with.
    pub(super) marks: Vec<(u32, Lane, u64)>,
    /// A number of the broker, and when a control plane was last heard of there, ms since 1970; 0 where there was none.
    pub(super) known: Option<(u32, u64)>,
}

/// Something to be done on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Take the lock and see what is there.
    Open,
    /// Write these records there, and wait until the disk has them.
    Append { lane: Lane, number: u64, at: u64, bytes: Vec<u8> },
    /// Read some records from there; the file ends at `end`.
    Read { lane: Lane, number: u64, offset: u64, end: u64 },
    /// Make room; what is in `stay`, boot and number each, stays in any case.
    Reclaim { lane: Lane, number: u64, how: Reclaim, stay: Vec<(u32, u64)> },
    /// Remember this.
    Cursor(Cursor),
}

/// What came of a job.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Opened(Result<Found, String>),
    Appended(Result<(), String>),
    Read(Result<Chunk, String>),
    /// What is left of the segment, if anything.
    Reclaimed(Result<Option<Segment>, String>),
    Cursor(Result<(), String>),
}

/// What was on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Oldest first, and whether the last one is whole.
    pub(super) segments: Lanes<(Vec<Segment>, bool)>,
    pub(super) cursor: Cursor,
}

/// Some records.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    /// Each with where it begins.
    pub(super) records: Vec<(u64, Stored)>,
    /// Where the next one begins.
    pub(super) next: u64,
    /// The file has damage: what it really holds.
    pub(super) damaged: Option<Segment>,
}

/// Executes jobs.
pub(super) struct Disk<F> {
    pub(super) files: F,
    root: PathBuf,
}

impl<F: Files> Disk<F> {
    pub(super) const fn new(files: F, root: PathBuf) -> Self {
        Self { files, root }
    }

    pub(super) fn execute(&mut self, job: Job) -> Answer {
        let text = |error: io::Error| error.to_string();
        match job {
            Job::Open => Answer::Opened(self.open().map_err(text)),
            Job::Append { lane, number, at, bytes } => {
                Answer::Appended(self.append(lane, number, at, &bytes).map_err(text))
            }
            Job::Read { lane, number, offset, end } => Answer::Read(self.read(lane, number, offset, end).map_err(text)),
            Job::Reclaim { lane, number, how, stay } => {
                Answer::Reclaimed(self.reclaim(lane, number, how, &stay).map_err(text))
            }
            Job::Cursor(it) => Answer::Cursor(self.put(&self.root.join("cursor"), &cursor(&it)).map_err(text)),
        }
    }

    fn directory(&self, lane: Lane) -> PathBuf {
        self.root.join(lane.name())
    }

    fn path(&self, lane: Lane, number: u64) -> PathBuf {
        self.directory(lane).join(format!("{number:08}"))
    }

    fn open(&mut self) -> io::Result<Found> {
        for lane in Lane::ALL {
            self.files.make(&self.directory(lane))?;
        }
        if !self.files.lock(&self.root.join("lock"))? {
            return Err(io::Error::other("another agent writes there"));
        }
        let mut found = Found::default();
        for lane in Lane::ALL {
            let directory = self.directory(lane);
            let mut numbers = Vec::new();
            for name in self.files.list(&directory)? {
                match name.parse::<u64>() {
                    Ok(number) => numbers.push(number),
                    Err(_) if name.ends_with(".new") => self.files.remove(&directory.join(name))?,
                    Err(_) => {}
                }
            }
            let numbers = sorted::list(numbers);
            let mut last_is_whole = true;
            let mut segments = Vec::with_capacity(numbers.len());
            for number in numbers {
                let Ok(bytes) = self.files.read(&self.path(lane, number), 0, LARGEST) else {
                    // It hides no other, and is not taken for an empty one, which would be removed: it is read when its turn comes.
                    segments.push(Segment::unseen(number, LARGEST));
                    last_is_whole = false;
                    continue;
                };
                let (segment, whole) = Segment::scan(number, &bytes);
                last_is_whole = whole && !bytes.is_empty();
                segments.push(segment);
            }
            *found.segments.get_mut(lane) = (segments, last_is_whole);
        }
        // Without it everything is sent again, and nothing is lost.
        let bytes = self.files.read(&self.root.join("cursor"), 0, LARGEST).unwrap_or_default();
        found.cursor = framed::next(&bytes).map(|(body, _)| read(body)).unwrap_or_default();
        Ok(found)
    }

    fn append(&mut self, lane: Lane, number: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(lane, number);
        let done = self.files.write(&path, at, bytes).and_then(|()| self.files.sync(&path));
        if let Err(error) = done {
            // What is half there would be found by the next start; it does no harm if this fails too.
            let _ = if at == 0 { self.files.remove(&path) } else { self.files.write(&path, at, &[]) };
            return Err(error);
        }
        if at == 0 { self.files.sync_names(&self.directory(lane)) } else { Ok(()) }
    }

    fn read(&mut self, lane: Lane, number: u64, offset: u64, end: u64) -> io::Result<Chunk> {
        let path = self.path(lane, number);
        let most = usize::try_from(end.saturating_sub(offset)).unwrap_or(CHUNK).min(CHUNK);
        let bytes = self.files.read(&path, offset, most)?;
        let mut chunk = Chunk { next: offset, ..Chunk::default() };
        let mut rest = bytes.as_slice();
        while chunk.records.len() < RECORDS
            && let Some((body, after)) = framed::next(rest)
        {
            if let Some(stored) = Stored::read(body) {
                chunk.records.push((chunk.next, stored));
            }
            chunk.next += length(rest) - length(after);
            rest = after;
        }
        if chunk.next == offset {
            let bytes = self.files.read(&path, 0, LARGEST)?;
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            chunk.next = find(&bytes, at).and_then(|(begin, ..)| u64::try_from(begin).ok()).unwrap_or(end);
            chunk.damaged = Some(Segment::scan(number, &bytes).0);
        }
        Ok(chunk)
    }

    fn reclaim(&mut self, lane: Lane, number: u64, how: Reclaim, stay: &[(u32, u64)]) -> io::Result<Option<Segment>> {
        let path = self.path(lane, number);
        if how != Reclaim::Delete {
            let bytes = self.files.read(&path, 0, LARGEST)?;
            let (mut left, mut at) = (Vec::new(), 0);
            while let Some((_, end, body)) = find(&bytes, at) {
                at = end;
                let Some(Stored { boot, seq, unix_ms, extra, payload }) = Stored::read(body) else { continue };
                if stay.contains(&(boot, seq)) || (how == Reclaim::Thin && seq % THIN == 0) {
                    left.extend(write(boot, seq, unix_ms, &extra, &payload));
                }
            }
            if !left.is_empty() {
                self.put(&path, &left)?;
                let (segment, _) = Segment::scan(number, &left);
                return Ok(Some(Segment { thinned: true, remnant: how == Reclaim::Remnant, ..segment }));
            }
        }
        match self.files.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(None),
        }
    }

    /// A file, whole or not at all.
    fn put(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        self.files.write(&new, 0, bytes)?;
        self.files.sync(&new)?;
        self.files.rename(&new, path)?;
        self.files.sync_names(path.parent().unwrap_or(path))
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn cursor(Cursor { marks, known }: &Cursor) -> Vec<u8> {
    let mut body = Vec::with_capacity((marks.len() + 1) * MARK);
    let marks = marks.iter().map(|(boot, lane, seq)| (*boot, lane.number(), *seq));
    for (number, lane, seq) in marks.chain(known.map(|(broker, heard_ms)| (broker, KNOWN, heard_ms))) {
        body.extend(number.to_le_bytes());
        body.push(lane);
        body.extend(seq.to_le_bytes());
    }
    framed::frame(&body)
}

fn read(body: &[u8]) -> Cursor {
    let mut cursor = Cursor::default();
    for mark in body.chunks_exact(MARK) {
        let Some((number, rest)) = mark.split_first_chunk() else { continue };
        let Some((lane, rest)) = rest.split_first() else { continue };
        let Some(seq) = rest.first_chunk() else { continue };
        let (number, seq) = (u32::from_le_bytes(*number), u64::from_le_bytes(*seq));
        match Lane::ALL.into_iter().find(|known| known.number() == *lane) {
            Some(lane) => cursor.marks.push((number, lane, seq)),
            None if *lane == KNOWN => cursor.known = Some((number, seq)),
            // From a later version.
            None => {}
        }
    }
    cursor
}
