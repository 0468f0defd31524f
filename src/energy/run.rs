//! The books while the agent runs.
//!
//! ```text
//! watch<Snapshot> ── each tick ──> step ──> books ── 10 s, or a quarter of an hour ── a blocking thread ──> Store
//!                                                                                        │ kept
//!          telemetry, local socket <── watch<Arc<Kept>> ─────────────────────────────────┤
//!          publisher <── mpsc<Receipt>, 4; full: it waits here, and so does the next one ┘
//! ```
//!
//! One write at a time; the disk is never waited for. Where it takes nothing (full, read-only, gone) counting goes on in memory, told
//! once, and is tried again each ten seconds; what is shown is then what is counted. A record that is not on the disk yet is not
//! sent, and no further interval is closed: the open one grows.
//!
//! On a clean stop everything is written and synced; the interval stays open for the next start. The newest record goes out once
//! more at each start: the last agent may have been killed between the disk and the outbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use log::{info, warn};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Basis, Books, Gpu, Kept, Key, Moment, SAVE_EVERY, SYNC_EVERY, State, Store, step};
use crate::board::Board;
use crate::clock;
use crate::reading::{Missing, Reading, Snapshot};
use crate::units::{MilliPerSecond, Milliwatts};
use crate::wire::Receipt;

/// Receipts that wait for the publisher. One more waits with its books.
pub const RECEIPTS: usize = 4;

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
    let directory = state.clone();
    let read = move || (Kept::read(&directory), Kept::newest(&directory).ok().flatten());
    let Ok((found, newest)) = spawn_blocking(read).await else { return };
    let mut keeper = Keeper::new(found.as_ref().map(Clone::clone).unwrap_or_default(), key);
    if let Err(error) = found {
        keeper.trouble(&error);
    }
    keeper.unsent = newest;
    kept.send_replace(Arc::new(keeper.kept.clone()));
    let mut store = None;
    let mut saving: Option<JoinHandle<Saved>> = None;
    loop {
        let saved = async {
            match &mut saving {
                Some(saving) => saving.await,
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
                    if saving.is_none() && let Some(job) = keeper.due(clock::now()) {
                        saving = Some(job.start(store.take(), state.clone()));
                    }
                }
                Err(_) => break,
            },
            saved = saved => {
                saving = None;
                let Ok(saved) = saved else { return };
                store = keeper.saved(saved, &kept);
                keeper.send(&receipts);
            }
        }
    }
    if let Some(saving) = saving.take() {
        let Ok(saved) = saving.await else { return };
        store = keeper.saved(saved, &kept);
    }
    let last = Job { kept: Arc::new(keeper.kept.clone()), record: keeper.waiting.clone(), sync: true };
    if let Ok(saved) = last.start(store, state).await {
        drop(keeper.saved(saved, &kept));
        keeper.send(&receipts);
    }
}

/// Something to write.
struct Job {
    kept: Arc<Kept>,
    record: Option<Receipt>,
    sync: bool,
}

/// What came of it.
struct Saved {
    job: Job,
    /// None where it cannot be opened.
    store: Option<Store>,
    /// What was on the disk, where that is more than was to be written: then nothing was.
    found: Option<Kept>,
    result: std::io::Result<()>,
}

impl Job {
    fn start(self, store: Option<Store>, directory: PathBuf) -> JoinHandle<Saved> {
        spawn_blocking(move || {
            let opened = store.map_or_else(|| Store::open(&directory), |store| Ok((store, Kept::default())));
            let (mut store, found) = match opened {
                Ok(opened) => opened,
                Err(error) => return Saved { job: self, store: None, found: None, result: Err(error) },
            };
            if found.books.rig.energy > self.kept.books.rig.energy {
                return Saved { job: self, store: Some(store), found: Some(found), result: Ok(()) };
            }
            let result = store.save(&self.kept, self.record.as_ref(), self.sync);
            Saved { job: self, store: Some(store), found: None, result }
        })
    }
}

/// The books, and how far the disk and the publisher are behind them.
struct Keeper {
    counting: State,
    kept: Kept,
    /// As they were found; until the first tick nobody knows how long ago that was.
    began: Option<Kept>,
    key: Option<Key>,
    /// Closed, and not on the disk yet.
    waiting: Option<Receipt>,
    /// On the disk, and not handed on yet.
    unsent: Option<Receipt>,
    tried: Option<Instant>,
    synced: Option<Instant>,
    told: bool,
}

impl Keeper {
    fn new(kept: Kept, key: Option<Key>) -> Self {
        let counting = State::new(kept.books.clone());
        let began = Some(kept.clone());
        Self { counting, kept, began, key, waiting: None, unsent: None, tried: None, synced: None, told: false }
    }

    fn tick(&mut self, board: &Board, snapshot: &Snapshot, now: Instant, moment: Moment) {
        if let Some(began) = self.began.take()
            && began != Kept::default()
        {
            self.counting.books.away(moment.since(&began.at));
        }
        let mut state = std::mem::take(&mut self.counting);
        let (basis, rig) = rig(board, snapshot);
        state.books.basis = basis;
        let supplies: Vec<_> = supplies(board, snapshot).collect();
        let (gpus, payloads) = (gpus(snapshot), payloads(snapshot));
        let inputs = super::Inputs { now, rig, supplies: &supplies, gpus: &gpus, payloads: &payloads };
        self.counting = step(state, &inputs);
        if self.waiting.is_some() || self.unsent.is_some() {
            self.kept.go_on(&self.counting.books, moment);
        } else if let Some(mut record) = self.kept.turn(&self.counting.books, moment) {
            if let Some(key) = &self.key {
                key.sign(&mut record);
            }
            self.waiting = Some(record);
        }
    }

    /// What is to be written now.
    fn due(&mut self, now: Instant) -> Option<Job> {
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now.saturating_duration_since(last) >= every);
        // After a failure a record waits for its turn like everything else.
        if !due(self.tried, SAVE_EVERY) && (self.waiting.is_none() || self.told) {
            return None;
        }
        self.tried = Some(now);
        let sync = due(self.synced, SYNC_EVERY);
        if sync {
            self.synced = Some(now);
        }
        Some(Job { kept: Arc::new(self.kept.clone()), record: self.waiting.clone(), sync })
    }

    fn saved(&mut self, saved: Saved, kept: &watch::Sender<Arc<Kept>>) -> Option<Store> {
        let Saved { job, store, found, result } = saved;
        // Books that could not be read at the start, and can be now, are the ones that hold. What was counted since is lost, and that
        // time a gap.
        if let Some(found) = found {
            kept.send_replace(Arc::new(found.clone()));
            *self = Self { told: self.told, ..Self::new(found, self.key.take()) };
            return store;
        }
        match result {
            Ok(()) => {
                if job.record.is_some() {
                    self.unsent = self.waiting.take();
                }
                if self.told {
                    info!("energy: the disk works again, nothing of what was counted is missing");
                }
                self.told = false;
            }
            Err(error) => self.trouble(&error),
        }
        // Where the disk takes nothing this is more than the next start will know of.
        kept.send_replace(job.kept);
        store
    }

    /// Told once per episode.
    fn trouble(&mut self, error: &std::io::Error) {
        if !self.told {
            warn!("energy: the books cannot be kept, what is counted since is lost with the agent: {error}");
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

/// What the rig draws, and what that is made of. One supply that is off draws nothing but its standby, which it does not tell.
fn rig(board: &Board, snapshot: &Snapshot) -> (Basis, Reading<Milliwatts>) {
    if !board.supplies.is_empty() {
        let inputs = snapshot.supplies.iter().map(|[input, _]| input.power);
        let on: Vec<_> = inputs.filter(|input| *input != Err(Missing::Off)).collect();
        return (Basis::Input, if on.is_empty() { Err(Missing::Off) } else { sum(on.into_iter()) });
    }
    if !board.rails.is_empty() {
        return (Basis::Rails, sum(snapshot.rails.iter().map(|rail| rail.power)));
    }
    (Basis::Gpus, sum(snapshot.gpus.gpus.iter().map(own)))
}

/// All of them, or the reason why one does not tell; of nothing there is no sum.
fn sum(mut parts: impl Iterator<Item = Reading<Milliwatts>>) -> Reading<Milliwatts> {
    let first = parts.next().unwrap_or(Err(Missing::NotPresent))?;
    parts.try_fold(first, |sum, part| Ok(Milliwatts(sum.0.saturating_add(part?.0))))
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

/// The GPUs that have told who they are, with the payload that has each; and those that a payload has and the driver does not tell of,
/// as after a start of the agent: their time is a gap.
fn gpus(snapshot: &Snapshot) -> Vec<Gpu<'_>> {
    let owner = |uuid: &str| {
        let mut working = snapshot.payloads.0.iter().filter(|status| !status.phase.is_at_rest());
        working.find(|status| status.gpus.iter().any(|has| has == uuid)).map(|status| status.name.as_str())
    };
    let known = snapshot.gpus.gpus.iter().filter_map(|gpu| Some((gpu, gpu.device.as_ref()?.uuid.as_str())));
    let mut gpus: Vec<Gpu<'_>> = known.map(|(gpu, uuid)| Gpu { uuid, power: own(gpu), payload: owner(uuid) }).collect();
    for status in snapshot.payloads.0.iter().filter(|status| !status.phase.is_at_rest()) {
        for uuid in &status.gpus {
            if gpus.iter().all(|known| known.uuid != uuid) {
                gpus.push(Gpu { uuid, power: Err(Missing::NotPresent), payload: Some(&status.name) });
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
