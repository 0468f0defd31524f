//! The books while the agent runs.
//!
//! ```text
//! watch<Snapshot> ── each tick ──> step ──> books ── 10 s, or a quarter of an hour ── a blocking thread ──> Store
//!                                                                                        │ kept
//!          telemetry, local socket <── watch<Arc<Kept>> ─────────────────────────────────┤
//!          publisher <── mpsc<Receipt>, 4; full: it waits here, and so does the next one ┘
//! ```
//!
//! One thing at a time is asked of the disk, and it is never waited for. Where it takes nothing (full, read-only, gone), or does not
//! answer for [`PATIENCE`], counting goes on in memory, told once, and is tried again each ten seconds; what is shown is then what is
//! counted. A record that is not on the disk yet is not sent, and no further interval is closed: the open one grows.
//!
//! What was kept is read beside the first ticks. Until it is known, however long that takes, counting goes on as well, and nothing is
//! written, shown or closed: books of zero would be taken for less than before, and a chain that the same key begins anew is two
//! chains. Then what was counted comes on top of what was kept.
//!
//! On a clean stop everything is written and synced; the interval stays open for the next start. The newest record goes out once
//! more at each start: the last agent may have been killed between the disk and the outbox.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Basis, Books, Gpu, Kept, Key, Moment, SAVE_EVERY, SYNC_EVERY, State, Store, step};
use crate::board::Board;
use crate::clock;
use crate::reading::{Missing, Reading, Snapshot, sum};
use crate::units::{MilliPerSecond, Millijoules, Milliwatts};
use crate::wire::Receipt;

/// Receipts that wait for the publisher. One more waits with its books.
pub const RECEIPTS: usize = 4;
/// So long the disk may take for anything; then it is told that it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What it takes in.
pub struct Inputs {
    /// The agent's state directory.
    pub state: PathBuf,
    /// Names of the supplies.
    pub board: Arc<Board>,
    /// The rig in each tick. Its other end is dropped when control has ended.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Where what is kept can be seen; the default before that is known.
    pub kept: watch::Sender<Arc<Kept>>,
    /// The way to the control plane.
    pub receipts: mpsc::Sender<Receipt>,
    /// What signs; without it receipts go out unsigned.
    pub key: Option<Key>,
}

/// Counts until control has ended, and returns when everything is on the disk, or the disk has said no.
pub async fn run(inputs: Inputs) {
    let Inputs { state, board, mut snapshot, kept, receipts, key } = inputs;
    let boot = clock::kernel_boot();
    let mut keeper = Keeper::new(key);
    let mut store = None;
    let mut working: Option<JoinHandle<Done>> = None;
    loop {
        if working.is_none()
            && let Some(job) = keeper.due(clock::now())
        {
            working = Some(job.start(store.take(), state.clone()));
        }
        let done = async {
            match &mut working {
                Some(working) => working.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = snapshot.changed() => match changed {
                Ok(()) => {
                    let snapshot = Arc::clone(&snapshot.borrow_and_update());
                    let since_boot_ms = u64::try_from(clock::since_boot().as_millis()).unwrap_or(u64::MAX);
                    let moment = Moment { unix_ms: clock::unix_ms(), boot, since_boot_ms };
                    keeper.tick(&board, &snapshot, clock::now(), moment);
                    keeper.send(&receipts);
                    if working.is_some() {
                        keeper.waits(clock::now(), &kept);
                    }
                }
                Err(_) => break,
            },
            done = done => {
                working = None;
                let Ok(done) = done else { return };
                store = keeper.done(done, &kept);
                keeper.send(&receipts);
            }
        }
    }
    if let Some(working) = working.take() {
        let Ok(done) = working.await else { return };
        store = keeper.done(done, &kept);
    }
    // Nothing is written over what is not known.
    if !keeper.read {
        let Ok(done) = Job::Read.start(store, state.clone()).await else { return };
        store = keeper.done(done, &kept);
    }
    if keeper.read
        && let Ok(done) = keeper.save(true).start(store, state).await
    {
        drop(keeper.done(done, &kept));
        keeper.send(&receipts);
    }
}

/// What was kept, and the newest record.
type Found = (Kept, Option<Receipt>);

/// What is asked of the disk.
enum Job {
    /// What was kept.
    Read,
    /// To keep this; the record first.
    Save { kept: Arc<Kept>, record: Option<Receipt>, sync: bool },
}

/// What came of it.
struct Done {
    job: Job,
    /// None where it was not opened.
    store: Option<Store>,
    /// None where it was not asked for.
    found: io::Result<Option<Found>>,
}

impl Job {
    fn start(self, store: Option<Store>, directory: PathBuf) -> JoinHandle<Done> {
        spawn_blocking(move || {
            let Self::Save { kept, record, sync } = &self else {
                let found = Kept::read(&directory).and_then(|kept| Ok(Some((kept, Kept::newest(&directory)?))));
                return Done { job: self, store, found };
            };
            let opened = store.map_or_else(|| Store::open(&directory).map(|(store, _)| store), Ok);
            let (store, result) = match opened {
                Ok(mut store) => {
                    let result = store.save(kept, record.as_ref(), *sync);
                    (Some(store), result)
                }
                Err(error) => (None, Err(error)),
            };
            Done { job: self, store, found: result.map(|()| None) }
        })
    }
}

/// The books, and how far the disk and the publisher are behind them.
struct Keeper {
    counting: State,
    kept: Kept,
    /// What was kept before is known, and what is counted is on top of it.
    read: bool,
    /// The first tick's moment, and the last one's.
    ticks: Option<[Moment; 2]>,
    key: Option<Key>,
    /// Closed, and not on the disk yet.
    waiting: Option<Receipt>,
    /// On the disk, and not handed on yet.
    unsent: Option<Receipt>,
    tried: Option<Instant>,
    synced: Option<Instant>,
    /// When books were shown that the disk does not answer for.
    shown: Option<Instant>,
    told: bool,
    /// GPUs whose counter is not believed, as that was told.
    doubted: Vec<String>,
}

impl Keeper {
    fn new(key: Option<Key>) -> Self {
        Self {
            counting: State::default(),
            kept: Kept::default(),
            read: false,
            ticks: None,
            key,
            waiting: None,
            unsent: None,
            tried: None,
            synced: None,
            shown: None,
            told: false,
            doubted: Vec::new(),
        }
    }

    fn tick(&mut self, board: &Board, snapshot: &Snapshot, now: Instant, moment: Moment) {
        let first = self.ticks.map_or(moment, |[first, _]| first);
        // Until the first tick nobody knows how long ago it was that they were kept.
        if self.ticks.replace([first, moment]).is_none() && self.kept != Kept::default() {
            self.counting.books.away(moment.since(&self.kept.at));
        }
        let mut state = std::mem::take(&mut self.counting);
        let (basis, rig) = rig(board, snapshot);
        state.books.basis = basis;
        let supplies: Vec<_> = supplies(board, snapshot).collect();
        let (gpus, payloads) = (gpus(snapshot), payloads(snapshot));
        let inputs = super::Inputs { now, rig, supplies: &supplies, gpus: &gpus, payloads: &payloads };
        self.counting = step(state, &inputs);
        self.tell_doubts();
        self.go_on(moment);
    }

    /// Takes over what is counted, and closes an interval where that has ended.
    fn go_on(&mut self, moment: Moment) {
        if !self.read || self.waiting.is_some() || self.unsent.is_some() {
            self.kept.go_on(&self.counting.books, moment);
        } else if let Some(mut record) = self.kept.turn(&self.counting.books, moment) {
            if let Some(key) = &self.key {
                key.sign(&mut record);
            }
            self.waiting = Some(record);
        }
    }

    /// Said once per GPU and episode.
    fn tell_doubts(&mut self) {
        let doubted: Vec<&str> = self.counting.doubted().collect();
        if doubted == self.doubted {
            return;
        }
        for uuid in doubted.iter().filter(|uuid| !self.doubted.iter().any(|told| told == *uuid)) {
            warn!(
                "energy: GPU {uuid}: its counter is far from what its power adds up to; its power is counted instead"
            );
        }
        self.doubted = doubted.into_iter().map(str::to_owned).collect();
    }

    /// Goes on from what was kept: what was counted meanwhile comes on top of it, and the time before that is a gap.
    fn adopt(&mut self, (found, newest): Found) {
        (self.read, self.tried, self.unsent) = (true, None, newest);
        // Of nothing there is nothing to go on from.
        if found == Kept::default() {
            return;
        }
        let mut books = found.books.clone();
        if let Some([first, _]) = self.ticks {
            books.away(first.since(&found.at));
        }
        self.counting.adopt(books);
        self.kept = found;
        if let Some([_, last]) = self.ticks {
            self.go_on(last);
        }
    }

    /// What the disk is to do now.
    fn due(&mut self, now: Instant) -> Option<Job> {
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        // After a failure a record waits for its turn like everything else.
        if !due(self.tried, SAVE_EVERY) && (self.waiting.is_none() || self.told) {
            return None;
        }
        if !self.read {
            self.tried = Some(now);
            return Some(Job::Read);
        }
        // Before the first tick there is nothing that is not there.
        self.ticks?;
        self.tried = Some(now);
        let sync = due(self.synced, SYNC_EVERY);
        if sync {
            self.synced = Some(now);
        }
        Some(self.save(sync))
    }

    fn save(&self, sync: bool) -> Job {
        Job::Save { kept: Arc::new(self.kept.clone()), record: self.waiting.clone(), sync }
    }

    fn done(&mut self, done: Done, shown: &watch::Sender<Arc<Kept>>) -> Option<Store> {
        let Done { job, store, found } = done;
        match found {
            Ok(Some(found)) => {
                self.adopt(found);
                shown.send_replace(Arc::new(self.kept.clone()));
            }
            Ok(None) => {
                if let Job::Save { record: Some(_), .. } = &job {
                    self.unsent = self.waiting.take();
                }
                if self.told {
                    info!("energy: the disk works again, nothing of what was counted is missing");
                }
                self.told = false;
            }
            Err(error) => {
                // What was to be synced may not be.
                self.synced = None;
                self.trouble(&error);
            }
        }
        if let Job::Save { kept, .. } = job {
            // Where the disk takes nothing this is more than the next start will know of. It is never less than what was shown.
            let newer = self.shown.take().map(|_| Arc::new(self.kept.clone()));
            shown.send_replace(newer.unwrap_or(kept));
        }
        store
    }

    /// The disk is at work. Where it takes too long that is told like an error, and what is counted is shown all the same.
    fn waits(&mut self, now: Instant, shown: &watch::Sender<Arc<Kept>>) {
        let passed = |since: Option<Instant>, long| since.is_some_and(|at| now.saturating_duration_since(at) >= long);
        if !passed(self.tried, PATIENCE) {
            return;
        }
        self.trouble(&io::ErrorKind::TimedOut.into());
        if self.read && (self.shown.is_none() || passed(self.shown, SAVE_EVERY)) {
            self.shown = Some(now);
            shown.send_replace(Arc::new(self.kept.clone()));
        }
    }

    /// Told once per episode.
    fn trouble(&mut self, error: &io::Error) {
        if !self.told {
            let what = if self.read {
                "kept, what is counted since is lost with the agent"
            } else {
                "read, what is counted is shown as soon as they can be"
            };
            warn!("energy: the books cannot be {what}: {error}");
        }
        self.told = true;
    }

    fn send(&mut self, receipts: &mpsc::Sender<Receipt>) {
        if let Some(receipt) = self.unsent.take()
            && let Err(mpsc::error::TrySendError::Full(receipt)) = receipts.try_send(receipt)
        {
            self.unsent = Some(receipt);
        }
    }
}

/// What the rig draws, and what that is made of.
fn rig(board: &Board, snapshot: &Snapshot) -> (Basis, Reading<Milliwatts>) {
    if !board.supplies.is_empty() {
        // Also where control holds the rig to its parts: it doubts rather too often, and in the books a doubt would be a gap.
        return (Basis::Input, snapshot.input());
    }
    if !board.rails.is_empty() {
        return (Basis::Rails, sum(snapshot.rails.iter().map(|rail| rail.power)));
    }
    (Basis::Gpus, sum(snapshot.gpus.gpus.iter().map(own)))
}

fn supplies<'a>(
    board: &'a Board,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (&'a str, Reading<Milliwatts>, Reading<Milliwatts>)> {
    let sides = snapshot.supplies.iter().map(|[input, output]| (input.power, output.power));
    board.supplies.iter().zip(sides).map(|(supply, (input, output))| (supply.name.as_str(), input, output))
}

fn own(gpu: &crate::gpu::Gpu) -> Reading<Milliwatts> {
    gpu.sample.as_ref().map_err(|missing| *missing)?.power.map_err(Missing::from)
}

fn counter(gpu: &crate::gpu::Gpu) -> Reading<Millijoules> {
    gpu.sample.as_ref().map_err(|missing| *missing)?.energy.map_err(Missing::from)
}

/// The GPUs that have told who they are, with the payload that has each; and those that a payload has and the driver does not tell of,
/// as after a start of the agent: their time is a gap.
fn gpus(snapshot: &Snapshot) -> Vec<Gpu<'_>> {
    let owner = |uuid: &str| {
        let mut working = snapshot.payloads.0.iter().filter(|status| !status.phase.is_at_rest());
        working.find(|status| status.gpus.iter().any(|has| has == uuid)).map(|status| status.name.as_str())
    };
    let known = snapshot.gpus.gpus.iter().filter_map(|gpu| Some((gpu, gpu.device.as_ref()?.uuid.as_str())));
    let told = |(gpu, uuid)| Gpu { uuid, power: own(gpu), energy: counter(gpu), payload: owner(uuid) };
    let mut gpus: Vec<Gpu<'_>> = known.map(told).collect();
    for status in snapshot.payloads.0.iter().filter(|status| !status.phase.is_at_rest()) {
        for uuid in &status.gpus {
            if gpus.iter().all(|known| known.uuid != uuid) {
                let silent = Missing::NotPresent;
                gpus.push(Gpu { uuid, power: Err(silent), energy: Err(silent), payload: Some(&status.name) });
            }
        }
    }
    gpus
}

/// What works, and how fast: a rate that cannot be believed is no work.
fn payloads(snapshot: &Snapshot) -> Vec<(&str, Option<MilliPerSecond>)> {
    let working = snapshot.payloads.0.iter().filter(|status| !status.phase.is_at_rest());
    let rate = |status: &crate::payload::supervisor::Status| {
        status.sample.as_ref().filter(|_| !status.belief.is_doubt()).and_then(|sample| sample.rate).map(MilliPerSecond)
    };
    working.map(|status| (status.name.as_str(), rate(status))).collect()
}

/// The books as they may be shown; none before they are known.
#[must_use]
pub fn shown(kept: &Kept) -> Option<&Books> {
    (kept.at.unix_ms > 0).then_some(&kept.books)
}

#[cfg(test)]
mod tests;
