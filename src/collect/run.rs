//! The collector's loop: link, store and clock, tied together; it waits for none of them alone.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use log::{info, warn};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::link::{Client, Heard, Link, OURS};
use super::pace::{BATCH, Outlet, commit_at};
use super::schema::Error;
use super::store::{Outcome, Store};
use super::worker::{self, Done, Job, Taken};
use super::{Settings, Status};
use crate::clock;
use crate::wire::{Encoding, Header, Kind, RigId, Topic, Watermark, encode};

/// Messages that wait for the store at most; only those without an acknowledgement can be more, and are dropped and counted.
const PENDING: usize = 2_000;
/// Messages taken from the link before the loop looks at anything else.
const GULP: usize = 128;
/// Pause after a commit that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often the status is told.
const STATUS: Duration = Duration::from_secs(10);
/// How long the end waits: for what is on its way into the store and out to the rigs, for the last word, for the disconnect.
const FAREWELL: [Duration; 3] = [Duration::from_secs(3), Duration::from_millis(500), Duration::from_millis(300)];

/// Collects until `stop`; then commits what it has, tells the rigs, says goodbye and returns. `status` hears how it stands every
/// 10 s.
///
/// Must run on a current-thread runtime: the order of the link's forgetting and our acknowledging rests on it.
///
/// # Errors
/// The store cannot be opened, or is damaged: nothing is acknowledged that is not in it.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>, status: impl FnMut(&Status)) -> Result<(), Error> {
    let store = Store::open(&settings.store)?;
    let (jobs, results) = worker::start(store, settings.keep).map_err(Error::Thread)?;
    let (link, client, heard) = Link::new(settings).map_err(Error::Broker)?;
    let task = tokio::spawn(link.run());
    let mut collector = Collector::new(client, jobs);
    let mut inbox = Inbox { heard, results };
    let outcome = collector.collect(&mut inbox, stop, status).await;
    collector.farewell(&mut inbox).await;
    task.abort();
    outcome
}

/// What the loop listens to.
struct Inbox {
    heard: mpsc::Receiver<Heard>,
    results: mpsc::Receiver<Done>,
}

struct Collector {
    client: Client,
    jobs: SyncSender<Job>,
    /// Subscribed, on the connection of this number.
    up: Option<u32>,
    /// The connection that messages come on, subscribed or not; 0 is none.
    connection: u32,
    /// Ours, without an acknowledgement.
    ours: usize,
    pending: VecDeque<Taken>,
    /// The store has a job.
    busy: bool,
    retry: Option<Instant>,
    /// Rigs are to be told everything again.
    tell_all: bool,
    /// That we are there is to be said.
    announce: bool,
    outlet: Outlet,
    status: Status,
    /// The last commit failed, and that was said.
    failing: bool,
    /// The end has begun: nothing more is taken.
    ending: bool,
}

impl Collector {
    fn new(client: Client, jobs: SyncSender<Job>) -> Self {
        Self {
            client,
            jobs,
            up: None,
            connection: 0,
            ours: 0,
            pending: VecDeque::new(),
            busy: false,
            retry: None,
            tell_all: false,
            announce: false,
            outlet: Outlet::default(),
            status: Status::default(),
            failing: false,
            ending: false,
        }
    }

    async fn collect(
        &mut self,
        inbox: &mut Inbox,
        stop: impl Future<Output = ()>,
        mut tell: impl FnMut(&Status),
    ) -> Result<(), Error> {
        tokio::pin!(stop);
        let mut ticks = interval(STATUS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.reset();
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                step = self.step(inbox) => step?,
                _ = ticks.tick() => tell(&self.standing(clock::now())),
            }
        }
    }

    /// Does what can be done now, and waits for the next thing to happen. Nothing is lost where it is dropped while it waits.
    async fn step(&mut self, inbox: &mut Inbox) -> Result<(), Error> {
        let now = clock::now();
        self.order(now);
        self.speak(now);
        let wake = self.wake(now);
        let due = async move {
            match wake {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = inbox.results.recv() => self.done(done.ok_or(Error::Ended("store"))?),
            heard = inbox.heard.recv() => {
                self.hear(heard.ok_or(Error::Ended("link"))?);
                for _ in 0..GULP {
                    let Ok(heard) = inbox.heard.try_recv() else { break };
                    self.hear(heard);
                }
                Ok(())
            }
            () = due => Ok(()),
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Up(connection) => {
                self.up = Some(connection);
                self.connection = connection;
                self.ours = 0;
                // The broker may have lost what it retained.
                (self.announce, self.tell_all) = (true, true);
            }
            Heard::Message(connection, publish) => self.take(connection, publish),
            Heard::Taken => self.ours = self.ours.saturating_sub(1),
            Heard::Down => {
                self.up = None;
                self.connection = 0;
                self.ours = 0;
                // They come again.
                self.pending.retain(|taken| taken.publish.qos == QoS::AtMostOnce);
            }
        }
    }

    fn take(&mut self, connection: u32, publish: Box<Publish>) {
        self.connection = connection;
        if self.ending {
            return;
        }
        if publish.qos == QoS::AtMostOnce && self.pending.len() >= PENDING {
            self.status.dropped += 1;
            return;
        }
        self.pending.push_back(Taken { connection, at: clock::now(), publish });
    }

    /// When there is something to do that no one will tell of.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let order = if self.busy { None } else { self.due(now) };
        let tell = if self.up.is_some() && self.ours < OURS { self.outlet.due(now) } else { None };
        [order, tell].into_iter().flatten().min()
    }

    /// When the store is to have its next job.
    fn due(&self, now: Instant) -> Option<Instant> {
        let commit = self
            .pending
            .front()
            .zip(self.pending.back())
            .map(|(first, last)| if self.ending { now } else { commit_at(self.pending.len(), first.at, last.at) });
        let due = if self.tell_all { Some(now) } else { commit };
        due.map(|due| self.retry.map_or(due, |retry| retry.max(due)))
    }

    /// Gives the store its next job, where it has none.
    fn order(&mut self, now: Instant) {
        if self.busy || self.due(now).is_none_or(|due| due > now) {
            return;
        }
        self.retry = None;
        let job = if self.tell_all {
            self.tell_all = false;
            Job::Watermarks
        } else {
            Job::Commit(self.pending.drain(..self.pending.len().min(BATCH)).collect())
        };
        // One job at a time always has room, and the thread ends after us.
        self.busy = self.jobs.try_send(job).is_ok();
    }

    fn done(&mut self, done: Done) -> Result<(), Error> {
        self.busy = false;
        match done {
            Done::Committed(batch, Ok(outcome)) => {
                if self.failing {
                    self.failing = false;
                    info!("messages are stored again");
                }
                // In the order in which they came (MQTT 5, 4.6).
                for taken in batch {
                    self.client.acknowledge(taken.connection, &taken.publish);
                }
                self.count(outcome);
                Ok(())
            }
            Done::Committed(batch, Err(error)) => {
                for taken in batch.into_iter().rev() {
                    if taken.publish.qos == QoS::AtMostOnce || self.connection == taken.connection {
                        self.pending.push_front(taken);
                    }
                }
                self.failed(error)
            }
            Done::Watermarks(Ok(watermarks)) => {
                self.tell(watermarks);
                Ok(())
            }
            Done::Watermarks(Err(error)) => {
                self.tell_all = true;
                self.failed(error)
            }
        }
    }

    fn failed(&mut self, error: Error) -> Result<(), Error> {
        if !error.passes() {
            return Err(error);
        }
        self.retry = Some(clock::now() + RETRY);
        if !self.failing {
            self.failing = true;
            warn!("could not store: {error}; until it works nothing is acknowledged; trying again");
        }
        Ok(())
    }

    fn count(&mut self, outcome: Outcome) {
        let Outcome { stored, duplicates, rejected, watermarks } = outcome;
        self.status.stored += stored;
        self.status.duplicates += duplicates;
        self.status.rejected += rejected;
        self.tell(watermarks);
    }

    fn tell(&mut self, watermarks: Vec<(RigId, Watermark)>) {
        for (rig, watermark) in watermarks {
            self.status.rigs.insert(rig.clone());
            self.outlet.put(rig, watermark);
        }
    }

    /// Says what is to be said, as far as there is room.
    fn speak(&mut self, now: Instant) {
        while self.up.is_some() && self.ours < OURS {
            if self.announce {
                if !self.client.announce(true) {
                    return;
                }
                self.announce = false;
            } else {
                let Some((rig, watermark)) = self.outlet.next(now) else { return };
                let message = encode(Encoding::Postcard, Header::new(Kind::Watermark, 0, 0), &watermark);
                if !self.client.say(&Topic::new(rig.clone(), Kind::Watermark).to_string(), message) {
                    self.outlet.put(rig, watermark);
                    return;
                }
            }
            self.ours += 1;
        }
    }

    fn standing(&self, now: Instant) -> Status {
        let oldest = self.pending.front().map(|taken| now.saturating_duration_since(taken.at));
        Status {
            connected: self.up.is_some(),
            waiting: self.pending.len(),
            lag: oldest.unwrap_or_default(),
            dropped: self.status.dropped + self.client.dropped.load(Ordering::Relaxed),
            ..self.status.clone()
        }
    }

    /// What is on its way, then that we go, then the end of the connection: each for a bounded time. What is not stored by
    /// then was not acknowledged, and comes again.
    async fn farewell(&mut self, inbox: &mut Inbox) {
        let [work, word, end] = FAREWELL;
        self.ending = true;
        self.outlet.hurry();
        let quiet = |this: &Self| {
            let told = this.up.is_none() || (this.ours == 0 && this.outlet.due(clock::now()).is_none());
            !this.busy && this.pending.is_empty() && told
        };
        let _ = timeout(work, self.until(inbox, quiet)).await;
        if self.up.is_some() && self.client.announce(false) {
            self.ours += 1;
            let _ = timeout(word, self.until(inbox, |this| this.up.is_none() || this.ours == 0)).await;
        }
        if self.up.is_some() && self.client.leave() {
            let _ = timeout(end, self.until(inbox, |this| this.up.is_none())).await;
        }
    }

    async fn until(&mut self, inbox: &mut Inbox, good: impl Fn(&Self) -> bool) {
        while !good(self) {
            if self.step(inbox).await.is_err() {
                return;
            }
        }
    }
}
