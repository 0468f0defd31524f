//! What was accepted and what came of it: on disk before anything is done, so that nothing is done twice.
//!
//! ```text
//! accepted: order, keys, counter, where to answer  ── fsync ── carried out ──  finished: the answer ── fsync
//! ```
//!
//! A command that comes again gets the answer that it got, by its id. An accepted command without an answer was interrupted by
//! the agent's end; [`after_restart`] says what becomes of it. What cannot be written down is refused and not carried out.
//!
//! Kept are commands of [`KEEP_MS`], at most [`MOST`] of them; counters are kept for ever. When the file grows over
//! [`COMPACT_AT`] it is written anew beside itself and takes its own place: a power cut leaves the old one or the new one. A
//! torn end was never carried out and is cut off. Damage before the end may hide counters: it is written down, and for as long
//! as a command of before could still be valid each command must carry the nonce of the birth.
//!
//! Every method that writes waits for the disk.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::replay::Used;
use super::verify::{Digest, LIFETIME_MS, SKEW_MS, Seen};
use crate::framed::{self, Framed};
use crate::sorted;
use crate::wire::{Ack, AckState, CommandId, KeyId, Order, Outcome, PayloadAct, Refusal};

/// Commands are kept for seven days, longer than a broker's snapshot.
pub const KEEP_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// Commands kept at most; the oldest finished ones go first.
pub const MOST: usize = 4_096;
/// Commands that are being carried out at most; one more is refused.
pub const MOST_OPEN: usize = 64;
/// Bytes of the file at which it is written anew.
pub const COMPACT_AT: u64 = 8 * 1024 * 1024;
/// So many commands over [`MOST`] do the same.
const SLACK: usize = 1_024;
/// Longest text of an answer that is kept; a command that comes again gets no more.
pub const LONGEST_KEPT: usize = 512;
/// Nothing of ours comes near.
const LARGEST: u64 = 32 * 1024 * 1024;
const FILE: &str = "commands.log";
const NEW: &str = "commands.new";

/// A command that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: CommandId,
    /// Who signed; the first one's counter is used up.
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
}

/// What becomes of a command that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestart {
    /// Carried out again, or for the first time: twice is the same as once.
    Again,
    /// The restart was what it wanted.
    Done,
    /// Nobody can tell.
    Unknown,
}

/// A command that has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// The command.
    pub entry: Entry,
    /// What becomes of it.
    pub then: AfterRestart,
}

/// What becomes of an interrupted order, on the same boot of the kernel or on another: the only such table.
#[must_use]
pub const fn after_restart(order: &Order, same_boot: bool) -> AfterRestart {
    match order {
        Order::SetProfile { .. }
        | Order::SetPowerCap(_)
        | Order::SetFanTarget { .. }
        | Order::Payload { act: PayloadAct::Start | PayloadAct::Stop | PayloadAct::Drain, .. }
        | Order::Assign { .. }
        | Order::Probe
        | Order::Logs { .. }
        | Order::Snapshot
        | Order::RotateKey { .. }
        | Order::Maintenance { .. } => AfterRestart::Again,
        // The agent that starts reads its configuration.
        Order::Reload | Order::RestartAgent => AfterRestart::Done,
        Order::Reboot if !same_boot => AfterRestart::Done,
        Order::Reboot | Order::Payload { act: PayloadAct::Restart, .. } | Order::Identify { .. } => {
            AfterRestart::Unknown
        }
    }
}

/// Whether an order sets what an earlier one has set.
fn overtakes(later: &Order, earlier: &Order) -> bool {
    match (later, earlier) {
        (Order::SetProfile { gpu: one, .. }, Order::SetProfile { gpu: other, .. }) => {
            one.is_none() || other.is_none() || one == other
        }
        (Order::SetFanTarget { zone: one, .. }, Order::SetFanTarget { zone: other, .. })
        | (Order::Payload { name: one, .. }, Order::Payload { name: other, .. })
        | (Order::Assign { payload: one, .. }, Order::Assign { payload: other, .. }) => one == other,
        (Order::SetPowerCap(_), Order::SetPowerCap(_))
        | (Order::RotateKey { .. }, Order::RotateKey { .. })
        | (Order::Maintenance { .. }, Order::Maintenance { .. } | Order::Payload { .. })
        | (Order::Payload { .. }, Order::Maintenance { .. }) => true,
        _ => false,
    }
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

    fn lost(&self, unix_ms: Option<u64>) -> bool {
        let Some(lost_ms) = self.lost_ms else { return false };
        // Whatever was valid then is not any more after its lifetime; a clock that was not set then tells nothing.
        lost_ms == 0 || unix_ms.is_none_or(|now| now < lost_ms.saturating_add(LIFETIME_MS + 3 * SKEW_MS))
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
        if is_damaged(&path)? {
            mend(directory, unix_ms)?;
        }
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
            let then = match after_restart(&entry.order, entry.boot == boot) {
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
                if let Some(key) = entry.keys.first() {
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
        }
    }

    /// Appends and waits for the disk.
    fn write(&mut self, record: &Record) -> io::Result<()> {
        self.file.append(&body(record)?)?;
        self.file.sync()
    }

    /// Writes down that a command will be carried out. When this returns it may be acknowledged, and carried out.
    ///
    /// # Errors
    /// `Replayed` for a command that is known, `TooMany` where too many are being carried out, `Policy` where it could not be
    /// written down: then it must not be carried out.
    pub fn accept(&mut self, entry: Entry) -> Result<(), Refusal> {
        let fresh = entry.keys.first().is_some_and(|key| self.fresh(key, entry.counter));
        if !fresh || self.commands.contains_key(&entry.id) {
            return Err(Refusal::Replayed);
        }
        if self.commands.values().filter(|kept| kept.ack.is_none()).count() >= MOST_OPEN {
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
        let kept: Vec<CommandId> = self.kept(now_ms);
        let mut bytes = Vec::new();
        let mut add = |record: &Record| -> io::Result<()> {
            bytes.extend(framed::frame(&body(record)?));
            Ok(())
        };
        for (key, used) in &self.used {
            add(&Record::Counters(*key, used.clone()))?;
        }
        if let Some(at_ms) = self.lost_ms {
            add(&Record::Lost(at_ms))?;
        }
        for Kept { entry, ack } in kept.iter().filter_map(|id| self.commands.get(id)) {
            add(&Record::Accepted(Box::new(entry.clone())))?;
            if let Some(ack) = ack {
                add(&Record::Finished(ack.clone()))?;
            }
        }
        replace(&self.directory, &bytes)?;
        let (file, _) = Framed::open(&self.directory.join(FILE), LARGEST, |_| {})?;
        (self.file, self.doubtful) = (file, false);
        self.order = kept.into();
        let order = sorted::set(self.order.iter().copied());
        self.commands.retain(|id, _| order.contains(id));
        Ok(())
    }

    /// Ids of what is open, and of the newest finished ones that are not too old.
    fn kept(&self, now_ms: u64) -> Vec<CommandId> {
        let mut room = MOST;
        let mut kept: Vec<CommandId> = Vec::with_capacity(MOST);
        for id in self.order.iter().rev() {
            let Some(Kept { entry, ack }) = self.commands.get(id) else { continue };
            let young = now_ms.saturating_sub(entry.at_ms) < KEEP_MS;
            if ack.is_none() || (young && room > 0) {
                room = room.saturating_sub(1);
                kept.push(*id);
            }
        }
        kept.reverse();
        kept
    }
}

fn body(record: &Record) -> io::Result<Vec<u8>> {
    postcard::to_allocvec(record).map_err(io::Error::other)
}

/// Writes what can be read, and that something was lost, anew: in one step, so that no power cut and no full disk leaves a
/// journal that lacks counters and does not know it.
fn mend(directory: &Path, unix_ms: Option<u64>) -> io::Result<()> {
    let bytes = fs::read(directory.join(FILE))?;
    let readable = framed::scan(&bytes).0.into_iter().filter(|body| postcard::from_bytes::<Record>(body).is_ok());
    let mut left: Vec<u8> = readable.flat_map(framed::frame).collect();
    left.extend(framed::frame(&body(&Record::Lost(unix_ms.unwrap_or(0)))?));
    replace(directory, &left)
}

/// Another file takes the journal's place.
fn replace(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(NEW);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(FILE))?;
    File::open(directory)?.sync_all()
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
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
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
