//! What was accepted and what came of it: on disk before anything is done, so that nothing is done twice.
//!
//! ```text
//! accepted: order, keys, counter, where to answer  ── fsync ── carried out ──  finished: the answer ── fsync
//! ```
//!
//! A command that comes again gets the answer that it got, by its id. An accepted command without an answer was interrupted by
//! the agent's end; [`after_restart`] says what becomes of it. What cannot be written down is refused and not carried out.
//!
//! Kept are commands of [`KEEP_MS`], at most [`MOST`] of them and [`KEPT_BYTES`] of the newest; counters are kept for ever. When the
//! file grows over [`COMPACT_AT`] it is written anew beside itself and takes its own place: a power cut leaves the old one or the
//! new one. A command with its answer takes some 190 bytes, so that [`MOST`] of them fit; the longest that can be signed, 32 GPUs for one
//! payload, takes 3 KB, and 330 of these do. What is forgotten can be answered no more and is carried out no more either: its counters
//! are used up, or it is too old.
//!
//! A torn end was never carried out and is cut off. Damage before the end may hide counters, and so does a file that is gone though
//! `mark.rs` names it: that is written down, and from then on what was signed before it must carry the nonce of the
//! birth. What was signed a minute after it was not carried out before it: a group is commanded again that soon, and one rig by
//! its nonce at once.
//!
//! No key has more than half of the places that are free ([`has_place`]): slow orders of one key leave room for those of others.
//!
//! Every method that writes waits for the disk.

mod interrupted;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use log::warn;
use serde::{Deserialize, Serialize};

use super::mark;
use super::replay::Used;
use super::verify::{Digest, SKEW_MS, Seen};
use crate::framed::{self, Framed};
use crate::wire::{Ack, AckState, CommandId, KeyId, Order, Outcome, Refusal};
use crate::{compact, sorted, statefile};
use interrupted::overtakes;
pub use interrupted::{AfterRestart, after_restart};

/// Commands are kept for seven days, longer than a broker's snapshot.
pub const KEEP_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// Commands kept at most; the oldest finished ones go first.
pub const MOST: usize = 4_096;
/// Commands that are being carried out at most; one more is refused.
pub const MOST_OPEN: usize = 64;
/// Bytes of finished commands that are kept when the file is written anew.
pub const KEPT_BYTES: usize = 1024 * 1024;
/// Bytes of the file at which it is written anew: [`KEPT_BYTES`], what is open (200 KB), counters (650 bytes for each key), and
/// as much again, so that it is not written for each command.
pub const COMPACT_AT: u64 = 2 * 1024 * 1024;
/// So many commands over [`MOST`] do the same.
const SLACK: usize = 1_024;
/// Longest text of an answer that is kept; a command that comes again gets no more.
pub const LONGEST_KEPT: usize = 512;
/// Nothing of ours comes near: beyond [`COMPACT_AT`] there are the ends of [`MOST_OPEN`] commands.
const LARGEST: u64 = 2 * COMPACT_AT;
const FILE: &str = "commands.log";
/// Of what takes its place.
const NEW: &str = "new";

/// A command that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: CommandId,
    /// Who signed; the counter is used up for each of them.
    pub keys: Vec<KeyId>,
    /// The counter.
    pub counter: u64,
    /// What was signed.
    pub digest: Digest,
    /// Not to be carried out later, milliseconds since 1970.
    pub not_after_ms: u64,
    /// What to do.
    pub order: Order,
    /// The topic that it came by.
    pub topic: String,
    /// The topic that whoever gave it wants the answer on.
    pub response: Option<String>,
    /// To be sent along with the answer.
    pub correlation: Vec<u8>,
    /// When, by the rig's clock, milliseconds since 1970.
    pub at_ms: u64,
    /// A number of the kernel's boot, so that a reboot can be told.
    pub boot: u32,
}

/// A record. Order and numbers are on disk: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    Accepted(Box<Entry>),
    Finished(Ack),
    /// Of one key; stands in a file that was written anew.
    Counters(KeyId, Used),
    /// Records were lost at this time by the rig's clock; 0 where it was not set.
    Lost(u64),
    /// Stands in each file, so that none of ours is empty.
    Began,
}

/// A command that has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// The command.
    pub entry: Entry,
    /// What becomes of it.
    pub then: AfterRestart,
}

/// Whether a key that has `own` commands open may have one more, where `open` are open in all: no more than half of what is free.
/// One key has 32, a second one 16 beside it, and the seventh still one.
#[must_use]
pub const fn has_place(open: usize, own: usize) -> bool {
    own < MOST_OPEN.saturating_sub(open)
}

/// What can be said of a command that came before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is being carried out.
    Open,
    /// It came to this.
    Finished(Ack),
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    ack: Option<Ack>,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    file: Framed,
    commands: BTreeMap<CommandId, Kept>,
    /// Ids in the order of their coming.
    order: VecDeque<CommandId>,
    used: BTreeMap<KeyId, Used>,
    lost_ms: Option<u64>,
    /// What is on disk may be more than what was said to be: it has to be written anew before anything else.
    doubtful: bool,
}

impl Seen for Journal {
    fn digest(&self, id: &CommandId) -> Option<Digest> {
        self.commands.get(id).map(|kept| kept.entry.digest)
    }

    fn fresh(&self, key: &KeyId, counter: u64) -> bool {
        self.used.get(key).is_none_or(|used| used.fresh(counter))
    }

    fn lost(&self, not_before_ms: u64) -> bool {
        let Some(lost_ms) = self.lost_ms else { return false };
        // What was carried out before the loss was valid then, so it did not begin later than clocks may differ; once more the
        // same for a clock that was put right since. A loss at a time that nobody knew tells nothing.
        lost_ms == 0 || not_before_ms < lost_ms.saturating_add(2 * SKEW_MS)
    }
}

impl Journal {
    /// Opens or makes the journal in the state directory. `boot` is a number of the kernel's boot, `unix_ms` the rig's clock
    /// where it is known to be right. Returns the journal and, in the order of their coming, what was interrupted; each of
    /// these gets its end with [`finish`](Self::finish).
    ///
    /// # Errors
    /// What the system says; then no command can be taken.
    pub fn open(directory: &Path, boot: u32, unix_ms: Option<u64>) -> io::Result<(Self, Vec<Interrupted>)> {
        let path = directory.join(FILE);
        if is_missing(&path)? {
            let gone = mark::names(directory, FILE)?;
            if gone {
                warn!("commands.log is gone: what was signed before now must carry the nonce of the birth");
            }
            // In one step with what it stands for, so that no power cut leaves one that lacks counters and does not know it.
            let first = if gone { Record::Lost(unix_ms.unwrap_or(0)) } else { Record::Began };
            statefile::replace(&path, NEW, &framed::frame(&body(&first)?))?;
        } else if is_damaged(&path)? {
            mend(&path, unix_ms)?;
        }
        mark::name(directory, FILE)?;
        let mut bodies = Vec::new();
        let (file, _) = Framed::open(&path, LARGEST, |body| bodies.push(body.to_vec()))?;
        let mut journal = Self {
            directory: directory.to_owned(),
            file,
            commands: BTreeMap::new(),
            order: VecDeque::new(),
            used: BTreeMap::new(),
            lost_ms: None,
            doubtful: false,
        };
        for body in bodies {
            // What cannot be read is not left there by `mend`.
            if let Ok(record) = postcard::from_bytes(&body) {
                journal.apply(record);
            }
        }
        journal.clock_set(unix_ms)?;
        let interrupted = journal.interrupted(boot, unix_ms);
        Ok((journal, interrupted))
    }

    /// Tells the journal the time, once it is known to be right: a loss at a time that nobody knew is counted from here on.
    ///
    /// # Errors
    /// What the system says; it is to be told again.
    pub fn clock_set(&mut self, unix_ms: Option<u64>) -> io::Result<()> {
        let (Some(0), Some(unix_ms)) = (self.lost_ms, unix_ms) else { return Ok(()) };
        let lost = Record::Lost(unix_ms);
        self.write(&lost)?;
        self.apply(lost);
        Ok(())
    }

    fn interrupted(&self, boot: u32, unix_ms: Option<u64>) -> Vec<Interrupted> {
        let all = || self.order.iter().filter_map(|id| self.commands.get(id));
        let open = all().enumerate().filter(|(_, kept)| kept.ack.is_none());
        open.map(|(place, Kept { entry, .. })| {
            let in_time = unix_ms.is_some_and(|now| now <= entry.not_after_ms.saturating_add(SKEW_MS));
            // Carried out again it would undo what was ordered after it.
            let overtaken = all().skip(place + 1).any(|later| overtakes(&later.entry.order, &entry.order));
            // Where nobody told which boot it was, it may have been this one.
            let same_boot = entry.boot == boot || entry.boot == 0 || boot == 0;
            let then = match after_restart(&entry.order, same_boot) {
                AfterRestart::Again if !in_time || overtaken => AfterRestart::Unknown,
                then @ (AfterRestart::Again | AfterRestart::Done | AfterRestart::Unknown) => then,
            };
            Interrupted { entry: entry.clone(), then }
        })
        .collect()
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted(entry) => {
                for key in &entry.keys {
                    self.used.entry(*key).or_default().take(entry.counter);
                }
                if self.commands.insert(entry.id, Kept { entry: *entry.clone(), ack: None }).is_none() {
                    self.order.push_back(entry.id);
                }
            }
            Record::Finished(ack) => {
                if let Some(kept) = self.commands.get_mut(&ack.id) {
                    kept.ack = Some(ack);
                }
            }
            Record::Counters(key, used) => drop(self.used.insert(key, used)),
            Record::Lost(at_ms) => self.lost_ms = Some(at_ms),
            Record::Began => {}
        }
    }

    /// Appends and waits for the disk.
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.file.append_synced(&body(record)?)
    }

    /// Writes down that a command will be carried out. When this returns it may be acknowledged, and carried out.
    ///
    /// # Errors
    /// `Replayed` for a command that is known, `TooMany` where too many are being carried out, or too many of its key, `Policy` where
    /// it could not be written down: then it must not be carried out.
    pub fn accept(&mut self, entry: Entry) -> Result<(), Refusal> {
        let fresh = !entry.keys.is_empty() && entry.keys.iter().all(|key| self.fresh(key, entry.counter));
        if !fresh || self.commands.contains_key(&entry.id) {
            return Err(Refusal::Replayed);
        }
        let open = || self.commands.values().filter(|kept| kept.ack.is_none());
        let own = open().filter(|kept| kept.entry.keys.first() == entry.keys.first()).count();
        if !has_place(open().count(), own) {
            return Err(Refusal::TooMany);
        }
        let refuse = |error: io::Error| Refusal::Policy(format!("journal: {error}"));
        if self.doubtful || self.file.length() > COMPACT_AT || self.order.len() >= MOST + SLACK {
            self.compact(entry.at_ms).map_err(refuse)?;
        }
        let at_ms = entry.at_ms;
        let record = Record::Accepted(Box::new(entry));
        if let Err(error) = self.write(&record) {
            // Whether it reached the disk is open, and it must not be found there as accepted. Where the file cannot be written
            // anew now, that is tried again before anything else is.
            let _ = self.compact(at_ms);
            return Err(refuse(error));
        }
        self.apply(record);
        Ok(())
    }

    /// Writes down the end of a command. One that cannot be written is remembered until the agent ends; after that the command
    /// counts as interrupted.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(&mut self, ack: &Ack) -> io::Result<()> {
        let record = Record::Finished(shortened(ack));
        self.apply(record.clone());
        if self.doubtful {
            return self.compact(ack.at_ms);
        }
        self.write(&record).inspect_err(|_| self.doubtful = true)
    }

    /// What to say of a command that came before.
    #[must_use]
    pub fn answer(&self, id: &CommandId) -> Option<Answer> {
        let kept = self.commands.get(id)?;
        Some(kept.ack.clone().map_or(Answer::Open, Answer::Finished))
    }

    /// Commands that came within `within_ms` before `now_ms`, with how they ended, the oldest first.
    #[must_use]
    pub fn finished(&self, now_ms: u64, within_ms: u64) -> Vec<(Entry, Ack)> {
        let young = |kept: &&Kept| now_ms.saturating_sub(kept.entry.at_ms) <= within_ms;
        let recent = self.order.iter().rev().filter_map(|id| self.commands.get(id)).take_while(young);
        let mut finished: Vec<(Entry, Ack)> =
            recent.filter_map(|kept| Some((kept.entry.clone(), kept.ack.clone()?))).collect();
        finished.reverse();
        finished
    }

    /// The command of this id, where it is kept.
    #[must_use]
    pub fn entry(&self, id: &CommandId) -> Option<&Entry> {
        self.commands.get(id).map(|kept| &kept.entry)
    }

    /// Leaves out what is too old or too much, and writes the rest anew.
    ///
    /// # Errors
    /// What the system says; the old file is there then and nothing is forgotten.
    pub fn compact(&mut self, now_ms: u64) -> io::Result<()> {
        self.doubtful = true;
        let kept = self.kept(now_ms)?;
        let mut bytes = framed::frame(&body(&Record::Began)?);
        for (key, used) in &self.used {
            bytes.extend(framed::frame(&body(&Record::Counters(*key, used.clone()))?));
        }
        if let Some(at_ms) = self.lost_ms {
            bytes.extend(framed::frame(&body(&Record::Lost(at_ms))?));
        }
        kept.iter().for_each(|(_, records)| bytes.extend(records));
        let path = self.directory.join(FILE);
        statefile::replace(&path, NEW, &bytes)?;
        let (file, _) = Framed::open(&path, LARGEST, |_| {})?;
        (self.file, self.doubtful) = (file, false);
        self.order = kept.into_iter().map(|(id, _)| id).collect();
        let order = sorted::set(self.order.iter().copied());
        self.commands.retain(|id, _| order.contains(id));
        Ok(())
    }

    /// What is open, and the newest finished ones that are not too old, with their records.
    fn kept(&self, now_ms: u64) -> io::Result<Vec<(CommandId, Vec<u8>)>> {
        let (mut most, mut room) = (MOST, KEPT_BYTES);
        let mut kept = Vec::new();
        for id in self.order.iter().rev() {
            let Some(Kept { entry, ack }) = self.commands.get(id) else { continue };
            let young = most > 0 && now_ms.saturating_sub(entry.at_ms) < KEEP_MS;
            if !young && ack.is_some() {
                continue;
            }
            let mut records = framed::frame(&body(&Record::Accepted(Box::new(entry.clone())))?);
            if let Some(ack) = ack {
                records.extend(framed::frame(&body(&Record::Finished(ack.clone()))?));
                if records.len() > room {
                    // Of the finished ones the newest are kept, without a hole between them.
                    most = 0;
                    continue;
                }
                room -= records.len();
            }
            most = most.saturating_sub(1);
            kept.push((*id, records));
        }
        kept.reverse();
        Ok(kept)
    }
}

fn body(record: &Record) -> io::Result<Vec<u8>> {
    compact::write(record).map_err(io::Error::other)
}

/// Writes what can be read, and that something was lost, anew: in one step, so that no power cut and no full disk leaves a
/// journal that lacks counters and does not know it.
fn mend(path: &Path, unix_ms: Option<u64>) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let readable = framed::scan(&bytes).0.into_iter().filter(|body| postcard::from_bytes::<Record>(body).is_ok());
    let mut left: Vec<u8> = readable.flat_map(framed::frame).collect();
    left.extend(framed::frame(&body(&Record::Lost(unix_ms.unwrap_or(0)))?));
    statefile::replace(path, NEW, &left)
}

/// Whether there is none, or one with nothing in it, which none of ours is.
fn is_missing(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len() == 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether more than a torn end is wrong with a file.
fn is_damaged(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.len() <= LARGEST => {
            let bytes = fs::read(path)?;
            let (bodies, good) = framed::scan(&bytes);
            let unread = bodies.into_iter().any(|body| postcard::from_bytes::<Record>(body).is_err());
            Ok(unread || framed::follows(bytes.get(good..).unwrap_or_default()))
        }
        // The one who opens it says so.
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An answer with its texts cut to what is kept.
fn shortened(ack: &Ack) -> Ack {
    let cut = |text: &str| text.get(..text.floor_char_boundary(LONGEST_KEPT)).unwrap_or_default().to_owned();
    let state = match &ack.state {
        AckState::Done(Outcome::Text(text)) => AckState::Done(Outcome::Text(cut(text))),
        AckState::Done(Outcome::Lines(lines)) => {
            let mut room = LONGEST_KEPT;
            let fitting = lines.iter().rev().take_while(|line| {
                let fits = line.len() < room;
                room = room.saturating_sub(line.len() + 1);
                fits
            });
            let mut lines: Vec<String> = fitting.cloned().collect();
            lines.reverse();
            AckState::Done(Outcome::Lines(lines))
        }
        AckState::Failed(text) => AckState::Failed(cut(text)),
        AckState::Refused(Refusal::Policy(text)) => AckState::Refused(Refusal::Policy(cut(text))),
        AckState::Refused(Refusal::Malformed(text)) => AckState::Refused(Refusal::Malformed(cut(text))),
        other @ (AckState::Accepted
        | AckState::Running { .. }
        | AckState::Done(Outcome::Nothing)
        | AckState::Refused(_)
        | AckState::Unknown) => other.clone(),
    };
    Ack { id: ack.id, at_ms: ack.at_ms, state }
}

#[cfg(test)]
mod tests;
