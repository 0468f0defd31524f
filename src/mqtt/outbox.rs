//! Messages that wait until they are delivered: numbered per lane, in memory first, on the disk where that takes long.
//!
//! ```text
//!        push        next_message, sent                          settled (PUBACK)
//!  ────────────> memory ─────────────────> link ──> broker ─────────────────────> freed, or acked until
//!                 │   ▲                                                             watermark ──> freed
//!    events and   │   │ read in order, 20 a second,
//!    acks at once,│   │ beside what is new
//!    telemetry    ▼   │
//!    after 1 s   disk: 64 segments, by lane        ──> thinned ──> dropped, counted, declared as a gap
//! ```
//!
//! **When is it delivered?** Where a control plane is heard (`r1/ctl/state`), or was in an earlier start at the same broker, when
//! its watermark has passed the number: a broker that dies takes with it what it acknowledged. Where there is none, when the broker
//! has acknowledged it; that there is none is believed after 30 s on a first start, and `presence` says when one is forgotten.
//! While a known control plane is away, what is new goes out for whoever else listens, and the backlog is held. Where everything is
//! acknowledged and the watermark does not move for 10 s, everything above it is sent again, at the backlog's pace, and
//! each time with twice the patience (up to 64 times).
//!
//! **Gaps.** A message says how many numbers right before it do not exist here any more. It is computed as it is sent, from
//! what is there, so it needs no memory of what was dropped. It may cover numbers that were delivered, never one that
//! waits. A control plane whose own mark is below what was delivered has come later, or lost its store: it is told of those
//! numbers in the same way, and how many of the gap they are. Where numbers are dropped from the disk the last one of each boot stays, to declare them; only age removes that.
//!
//! A killed start may have lost a number from its memory and delivered a later one, and no message of it is left to declare that. So the
//! next start tells, of each start that the control plane names, when nothing of it waits here any more ([`ENDED`](crate::wire::ENDED)):
//! what is not stored of it then is lost. It says so with telemetry until one that says it is confirmed.
//!
//! **What an end costs.** A killed agent or a power cut: telemetry of the last second. The broker's acknowledgement changes
//! nothing about that where a control plane has to confirm: the broker may die next, and then the collector never hears of
//! it. A control plane whose watermark comes within the second, as `rigd-ctl collect`'s does, keeps a healthy link from
//! writing any telemetry. It is written at once where the connection is lost, and perhaps the broker with what it
//! acknowledged, and where a control plane comes, who was not there to get it. A clean stop writes whatever is not freed.
//!
//! **Wear.** The worst day is one without a broker. At the default period of 5 s it is 17 280 samples, each written and
//! synced by itself: at 350 bytes and 31 of framing 6.6 MB, 17 280 times fdatasync. No period makes it more than 86 400.
//! A flash page and the file system's journal make each about 16 KiB on the medium: 280 MB a day, 1.4 GB at most.
//! The cursor, which only saves sending twice, adds three writes each 10 s while a backlog drains.
//!
//! **The disk is never waited for.** Its thread gets one job at a time; a record stays in memory until the disk has
//! confirmed it. Full, read-only or gone: memory alone, told once, tried again each 10 s. At the bound of memory what the
//! disk has is let go of first, then the oldest telemetry is dropped, then acks, then receipts, then events.
//!
//! **What is found at a start** is read whole once for its checksums, and only the ranges of numbers are kept. A torn end
//! is ignored and not appended to; after damage in the middle the next whole record is found by its checksum.

pub mod config;
mod disk;
mod files;
mod freed;
mod keeper;
mod line;
mod presence;
pub mod reply;
mod segment;
mod shelf;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use log::{info, warn};
use tokio::time::{sleep_until, timeout};

use crate::clock;
use crate::wire::{Kind, Watermark};
use config::OutboxConfig;
use keeper::Keeper;
use worker::Worker;

/// How long a clean stop waits for the disk.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// Which queue a message waits in; each counts its messages from 1 in each start of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Events: last to be dropped, first to be sent.
    Event,
    /// Answers to commands.
    Ack,
    /// Telemetry.
    Telemetry,
    /// Receipts of energy: kept as long as events.
    Receipt,
}

impl Lane {
    /// In the order in which they are sent.
    pub(crate) const ALL: [Self; 4] = [Self::Event, Self::Receipt, Self::Ack, Self::Telemetry];
    /// In the order in which they are dropped where there is no room.
    const DROPPED: [Self; 4] = [Self::Telemetry, Self::Ack, Self::Receipt, Self::Event];

    /// What its messages are.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Event => Kind::Event,
            Self::Ack => Kind::Ack,
            Self::Telemetry => Kind::Telemetry,
            Self::Receipt => Kind::Receipt,
        }
    }

    /// The lane of these messages; none where they do not wait.
    fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.kind() == kind)
    }

    /// Its directory.
    const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Ack => "ack",
            Self::Telemetry => "tele",
            Self::Receipt => "receipt",
        }
    }

    /// Its number on the disk, never to be changed.
    const fn number(self) -> u8 {
        match self {
            Self::Event => 1,
            Self::Ack => 2,
            Self::Telemetry => 3,
            Self::Receipt => 4,
        }
    }
}

/// One of each lane.
#[derive(Clone, Debug, Default)]
struct Lanes<T> {
    event: T,
    ack: T,
    telemetry: T,
    receipt: T,
}

impl<T> Lanes<T> {
    const fn get(&self, lane: Lane) -> &T {
        match lane {
            Lane::Event => &self.event,
            Lane::Ack => &self.ack,
            Lane::Telemetry => &self.telemetry,
            Lane::Receipt => &self.receipt,
        }
    }

    const fn get_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Event => &mut self.event,
            Lane::Ack => &mut self.ack,
            Lane::Telemetry => &mut self.telemetry,
            Lane::Receipt => &mut self.receipt,
        }
    }
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// Start of the agent that made it.
    pub boot: u32,
    /// Its lane.
    pub lane: Lane,
    /// Its number there.
    pub seq: u64,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which.
    pub ticket: Ticket,
    /// As it was encoded; one of the backlog says so.
    pub payload: Vec<u8>,
    /// What was given with it.
    pub extra: Vec<u8>,
    /// How many numbers right before it do not exist any more.
    pub gap: u64,
    /// How many of these, the lowest, were not dropped: they were delivered before this control plane was there.
    pub early: u64,
    /// Earlier starts of which nothing waits here any more, which the control plane may not know yet; as many as it names at most.
    pub ended: Vec<u32>,
    /// It is older than what came before it.
    pub backlog: bool,
}

/// The messages that wait, and the disk under them.
#[derive(Debug)]
pub struct Outbox {
    keeper: Keeper,
    /// None where the thread could not be started.
    disk: Option<Worker>,
    /// The trouble was told.
    told: bool,
}

impl Outbox {
    /// An outbox of this start of the agent, with its files in this directory. It does not wait for the disk. `broker` is a number
    /// of the broker: what is known of a control plane from an earlier start is known of it there.
    #[must_use]
    pub fn new(config: OutboxConfig, boot: u32, broker: u32, directory: PathBuf) -> Self {
        let disk = Worker::start(directory).inspect_err(|error| warn!("outbox: no thread for the disk: {error}")).ok();
        Self { keeper: Keeper::new(config, boot, broker), disk, told: false }
    }

    /// Takes a message; `encode` is given its number, and `extra`, at most 256 bytes, comes back with it. At the bound of
    /// memory older messages are let go of or dropped.
    pub fn push(&mut self, lane: Lane, extra: Vec<u8>, encode: impl FnOnce(u64) -> Vec<u8>) -> Ticket {
        self.keeper.push(lane, (clock::now(), clock::unix_ms()), extra, encode)
    }

    /// Takes a message that loses its worth with the next one of its lane, and is written with that, or after a second.
    pub fn push_unhurried(&mut self, lane: Lane, extra: Vec<u8>, encode: impl FnOnce(u64) -> Vec<u8>) -> Ticket {
        let ticket = self.push(lane, extra, encode);
        self.keeper.unhurried(ticket);
        ticket
    }

    /// The message to send next. It stays until it is delivered.
    pub fn next_message(&mut self) -> Option<Message> {
        self.keeper.next(clock::now())
    }

    /// It was handed to the link.
    pub fn sent(&mut self, ticket: Ticket) {
        self.keeper.sent(ticket, clock::now());
    }

    /// The broker has it. One that is not there any more is fine.
    pub fn settled(&mut self, ticket: Ticket) {
        self.keeper.settled(ticket, clock::now());
    }

    /// The broker will never take it: the next one of its lane declares it as a gap.
    pub fn refused(&mut self, ticket: Ticket) {
        self.keeper.refused(ticket);
    }

    /// The broker would not take it now: it waits again.
    pub fn returned(&mut self, ticket: Ticket) {
        self.keeper.returned(ticket);
    }

    /// The link is up.
    pub fn connected(&mut self) {
        self.keeper.connected(clock::now());
    }

    /// The link is gone: everything in flight waits again.
    pub fn disconnected(&mut self) {
        self.keeper.disconnected();
    }

    /// The control plane said how far it has this rig's messages; `retained`: some time ago.
    pub fn watermark(&mut self, watermark: &Watermark, retained: bool) {
        let now = clock::now();
        self.keeper.watermark(watermark, now);
        if !retained {
            self.keeper.lives(now);
        }
    }

    /// The control plane said whether it is there; `retained`: some time ago.
    pub fn controller(&mut self, online: bool, retained: bool) {
        let now = clock::now();
        self.keeper.controller(online, now);
        if !retained {
            self.keeper.lives(now);
        }
    }

    /// The control plane's word was taken back: there is none any more.
    pub fn cleared(&mut self) {
        self.keeper.cleared();
    }

    /// Whether messages leave by the control plane's watermark, not by the broker's acknowledgement.
    #[must_use]
    pub fn by_watermark(&self) -> bool {
        self.keeper.by_watermark()
    }

    /// Whether this message of this start survives a killed agent and a power cut, or needs to no longer: it is on the disk,
    /// delivered or dropped. Events and acks are, as soon as the disk has answered.
    #[must_use]
    pub fn safe(&self, ticket: Ticket) -> bool {
        self.keeper.safe(ticket)
    }

    /// Whether the link has nothing left to do for what is new.
    pub fn idle(&mut self) -> bool {
        self.keeper.idle()
    }

    /// Messages that are neither delivered nor dropped, of earlier starts too once the disk is read.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        u32::try_from(self.keeper.waiting()).unwrap_or(u32::MAX)
    }

    /// Messages dropped for want of room or by age since the start, those of earlier starts too.
    #[must_use]
    pub fn dropped(&self) -> u32 {
        u32::try_from(self.keeper.dropped()).unwrap_or(u32::MAX)
    }

    /// Resolves when there may be something to send that was not there before: the disk has answered, or it is time. May be
    /// dropped at any moment.
    pub async fn happened(&mut self) {
        self.turn();
        let wake = self.keeper.wake(clock::now());
        let late = async {
            match wake {
                Some(wake) => sleep_until(wake.into()).await,
                None => std::future::pending().await,
            }
        };
        let answered = async {
            match &mut self.disk {
                Some(disk) => disk.answers.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = answered => match answer {
                Some(answer) => self.keeper.answered(answer, clock::now()),
                None => self.disk = None,
            },
            () = late => {}
        }
        self.turn();
    }

    /// Gives the disk what it has to do, and tells of its troubles, once per episode.
    fn turn(&mut self) {
        if let Some(disk) = &self.disk
            && let Some(job) = self.keeper.job(clock::now(), clock::unix_ms())
        {
            // There is room: it has answered for the last one.
            let _ = disk.jobs.try_send(job);
        }
        match (self.keeper.trouble(), self.told) {
            (Some(trouble), false) => warn!("outbox: {trouble}; messages wait in memory until the disk works"),
            (None, true) => info!("outbox: the disk works again"),
            _ => return,
        }
        self.told = !self.told;
    }

    /// Writes what is not delivered, for the next start; waits a bounded time for the disk.
    pub async fn close(mut self) {
        self.keeper.stop();
        let _ = timeout(LAST_WRITES, async {
            self.turn();
            while self.disk.is_some() && self.keeper.busy() {
                self.happened().await;
            }
        })
        .await;
    }
}
