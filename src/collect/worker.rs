//! The thread that owns the store: syncs to the disk wait here, and nowhere else.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::mpsc;

use super::intake::Incoming;
use super::schema::Error;
use super::store::{Outcome, Store};
use crate::clock;
use crate::wire::{EARLY, ENDED, GAP, RigId, Watermark};

/// Old messages looked at in one step; more after a large batch, so that deleting keeps up with storing.
const STEP: usize = 500;
/// Time between steps where there is nothing to store.
const IDLE: Duration = Duration::from_millis(250);
/// Time between looks at the histories of state.
const TRIM: Duration = Duration::from_secs(600);

/// A message on its way into the store.
pub(super) struct Taken {
    /// The connection that it came on.
    pub(super) connection: u32,
    /// When.
    pub(super) at: Instant,
    /// It.
    pub(super) publish: Box<Publish>,
}

/// What the store is asked for. One at a time: the channel never waits.
pub(super) enum Job {
    /// Store these.
    Commit(Vec<Taken>),
    /// Say how far every rig is.
    Watermarks,
}

/// What the store answers.
pub(super) enum Done {
    /// It has these on the disk, or none of them.
    Committed(Vec<Taken>, Result<Outcome, Error>),
    /// How far every rig is.
    Watermarks(Result<Vec<(RigId, Watermark)>, Error>),
}

/// Starts the thread; it ends when the jobs do. Telemetry that is older than `keep` goes.
pub(super) fn start(mut store: Store, keep: Duration) -> std::io::Result<(SyncSender<Job>, mpsc::Receiver<Done>)> {
    let (orders, jobs) = sync_channel(1);
    let (done, results) = mpsc::channel(1);
    thread::Builder::new().name("store".to_owned()).spawn(move || run(&mut store, keep, &jobs, &done))?;
    Ok((orders, results))
}

fn run(store: &mut Store, keep: Duration, jobs: &Receiver<Job>, done: &mpsc::Sender<Done>) {
    let mut caretaker = Caretaker { keep, trimmed: None, told: false };
    loop {
        let (answer, stored) = match jobs.recv_timeout(IDLE) {
            Ok(Job::Commit(batch)) => {
                let outcome = commit(store, &batch);
                let stored = batch.len();
                (Some(Done::Committed(batch, outcome)), stored)
            }
            Ok(Job::Watermarks) => (Some(Done::Watermarks(store.watermarks())), 0),
            Err(RecvTimeoutError::Timeout) => (None, 0),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if answer.is_some_and(|answer| done.blocking_send(answer).is_err()) {
            return;
        }
        caretaker.step(store, stored);
    }
}

fn commit(store: &mut Store, batch: &[Taken]) -> Result<Outcome, Error> {
    let batch: Vec<Incoming<'_>> = batch
        .iter()
        .map(|Taken { publish, .. }| {
            let properties = publish.properties.as_ref();
            let property = |wanted: &str| {
                let found = properties?.user_properties.iter().find(|(name, _)| name == wanted);
                found.map(|(_, value)| value.as_str())
            };
            let (gap, early, ended) = (property(GAP), property(EARLY), property(ENDED));
            Incoming { topic: &publish.topic, payload: &publish.payload, gap, early, ended }
        })
        .collect();
    store.commit(&batch, clock::unix_ms())
}

/// Deletes what is old, a little at a time.
struct Caretaker {
    keep: Duration,
    trimmed: Option<Instant>,
    /// A failure is said once per episode.
    told: bool,
}

impl Caretaker {
    fn step(&mut self, store: &mut Store, stored: usize) {
        let now = clock::now();
        let keep_ms = u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX);
        let mut result = store.expire(clock::unix_ms().saturating_sub(keep_ms), STEP.max(2 * stored));
        if self.trimmed.is_none_or(|trimmed| now.saturating_duration_since(trimmed) >= TRIM) {
            self.trimmed = Some(now);
            result = result.and_then(|_| store.trim());
        }
        match result {
            Ok(_) if self.told => {
                self.told = false;
                info!("old messages are deleted again");
            }
            Err(error) if !self.told => {
                self.told = true;
                warn!("could not delete old messages: {error}; trying again");
            }
            Ok(_) | Err(_) => {}
        }
    }
}
