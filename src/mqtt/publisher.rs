//! The publisher: turns snapshots and alarm edges into messages, keeps them in the outbox, and hands over what the window
//! allows. It waits only for something to happen, never for the broker.

mod farewell;
mod handed;
mod heard;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::warn;
use tokio::sync::mpsc;

use super::inbound::Inbound;
use super::link::{Answer, LOOSE, Report, Up};
use super::outbox::reply::Reply;
use super::outbox::{Lane, Outbox};
use super::packet::Packet;
use super::session::Client;
use super::{Inputs, Start, inbox, reliable_ms};
use crate::alarm::Edge;
use crate::audit::Who;
use crate::board::Board;
use crate::clock;
use crate::command::trust::FleetConfig;
use crate::config::Config;
use crate::digest::fnv1a;
use crate::energy;
use crate::reading::Snapshot;
use crate::wire::{
    Birth, Delivery, Encoding, Energy, Event, Header, Kind, Losses, MAX_MESSAGE, Online, OutboxInfo, Reason, Receipt,
    Reported, RigId, Telemetry, Topic, encode,
};
use handed::Handed;

/// Between two attempts to acknowledge what the link had no room for.
const AGAIN: Duration = Duration::from_millis(2);

/// Answers that nobody keeps and that wait for the link, with where they are wanted; one more is not said. More than are given at once.
const SAID: usize = 256;

/// The publisher's ends of what it talks to.
pub(super) struct Ends {
    /// The way to the link.
    pub(super) client: Client,
    /// What the link tells.
    pub(super) reports: mpsc::Receiver<Report>,
    /// The way to the inbox.
    pub(super) deliver: mpsc::Sender<Inbound>,
    /// What the inbox says.
    pub(super) answers: mpsc::Receiver<inbox::Answer>,
}

/// Turns what the rig knows into messages.
pub(super) struct Publisher {
    rig: RigId,
    fleet: FleetConfig,
    encoding: Encoding,
    period: Duration,
    board: Arc<Board>,
    birth: Birth,
    start: Start,
    client: Client,
    reports: mpsc::Receiver<Report>,
    deliver: mpsc::Sender<Inbound>,
    answers: mpsc::Receiver<inbox::Answer>,
    inputs: Inputs,
    outbox: Outbox,
    /// Retained state that waits to go out.
    state: VecDeque<(Kind, Vec<u8>)>,
    said: VecDeque<(Vec<u8>, Reply)>,
    /// Handed over, without an id yet.
    unnumbered: VecDeque<Handed>,
    /// On their way, by packet id.
    numbered: BTreeMap<u16, Handed>,
    /// To be acknowledged when the link has room for that.
    unsaid: VecDeque<Inbound>,
    /// On their way at QoS 0, which the window does not bound.
    loose: usize,
    up: Option<Up>,
    refused: u32,
    /// The reason of the refusal that was logged last.
    told: Option<String>,
    due: Option<Instant>,
    /// Telemetry messages made.
    turn: usize,
    /// How near the rig is to its desired state, said on each connect and when it changes.
    reported: Option<Reported>,
    /// The broker asked for a pause; it lasts until the next tick.
    paused: bool,
}

impl Publisher {
    pub(super) fn new(config: &Config, board: Arc<Board>, start: Start, ends: Ends, inputs: Inputs) -> Self {
        let Ends { client, reports, deliver, answers } = ends;
        let period_ms = u32::try_from(config.period.as_millis()).unwrap_or(u32::MAX);
        Self {
            rig: config.rig.clone(),
            fleet: config.fleet.clone(),
            encoding: config.encoding,
            period: config.period,
            birth: Birth {
                nonce: start.nonce,
                receipt_key: inputs.receipt_key,
                ..Birth::new(config.rig.clone(), &board, config.encoding, period_ms, start.unix_ms)
            },
            board,
            start,
            client,
            reports,
            deliver,
            answers,
            inputs,
            outbox: Outbox::new(config.outbox.clone(), start.boot, number(config), config.state.join("outbox")),
            state: VecDeque::new(),
            said: VecDeque::new(),
            unnumbered: VecDeque::new(),
            numbered: BTreeMap::new(),
            loose: 0,
            unsaid: VecDeque::new(),
            up: None,
            refused: 0,
            told: None,
            due: None,
            turn: 0,
            paused: false,
            reported: None,
        }
    }

    /// Publishes until control has ended, then says so and waits a bounded time for the broker to take it.
    pub(super) async fn run(mut self) {
        loop {
            // Between samples a tick is no reason to wake, unless the broker asked for a pause of one.
            let next = if self.paused { None } else { self.due.and_then(|due| due.checked_sub(self.slack())) };
            // What a payload says waits for nobody: where there is no room for it, who follows it leaves it out and counts that.
            let room = self.loose < LOOSE && self.up.is_some_and(|up| self.client.live(up.connection));
            let snapshot = &mut self.inputs.snapshot;
            let due = async move {
                if let Some(next) = next {
                    tokio::time::sleep_until(next.into()).await;
                }
                snapshot.changed().await
            };
            tokio::select! {
                changed = due => match changed {
                    Ok(()) => self.sample(),
                    Err(_) => break,
                },
                edge = self.inputs.events.recv() => match edge {
                    Some(edge) => self.events(&edge),
                    // Control has let go of its end: it is over.
                    None => break,
                },
                Some(report) = self.reports.recv() => self.report(report),
                Some(answer) = self.answers.recv() => self.answer(answer),
                Some(receipt) = self.inputs.receipts.recv() => self.receipt(&receipt),
                Some(lines) = self.inputs.logs.recv(), if room => self.log(&lines),
                () = self.outbox.happened() => self.listened(),
                // The link does not tell when it has room again for what was not acknowledged yet.
                () = tokio::time::sleep(AGAIN), if !self.unsaid.is_empty() => {}
            }
            self.feed();
        }
        if let Ok(edge) = self.inputs.events.try_recv() {
            self.events(&edge);
        }
        while let Ok(receipt) = self.inputs.receipts.try_recv() {
            self.receipt(&receipt);
        }
        // What was answered by now is kept for the next start at least.
        while let Ok(answer) = self.answers.try_recv() {
            self.answer(answer);
        }
        self.farewell().await;
        self.outbox.close().await;
    }

    /// A tick is done: telemetry where it is due.
    fn sample(&mut self) {
        let now = clock::now();
        self.paused = false;
        let slack = self.slack();
        if self.due.is_none_or(|due| now + slack >= due) {
            self.due = Some(self.due.map_or(now, |due| due.max(now - slack)) + self.period);
            self.telemetry();
        }
    }

    /// A snapshot that comes so much early is this period's all the same: ticks and periods are not in step.
    fn slack(&self) -> Duration {
        (self.period / 10).min(Duration::from_millis(100))
    }

    fn telemetry(&mut self) {
        // The lock is held for the copy of a pointer only: control never waits for a message to be built.
        let snapshot = Arc::clone(&self.inputs.snapshot.borrow_and_update());
        self.learn(&snapshot);
        let losses = Losses {
            events: self.inputs.lost_events.load(Ordering::Relaxed),
            dropped: self.outbox.dropped(),
            refused: self.refused,
            unread: self.inputs.unread.load(Ordering::Relaxed),
        };
        let mut body =
            Telemetry::new(self.birth.id, clock::unix_ms(), self.start.uptime(), &snapshot, losses, self.turn);
        body.energy =
            energy::shown(&self.inputs.energy.borrow()).map(|books| Energy::new(books, &self.board, &snapshot));
        self.turn = self.turn.wrapping_add(1);
        let (encoding, boot) = (self.encoding, self.start.boot);
        self.outbox
            .push(Lane::Telemetry, Vec::new(), |seq| encode(encoding, Header::new(Kind::Telemetry, boot, seq), &body));
    }

    /// An edge and all that came with it go out as events, and after them the readings of that moment, once.
    fn events(&mut self, first: &Edge) {
        // Whoever it is about is in the birth that it names.
        let snapshot = Arc::clone(&self.inputs.snapshot.borrow());
        self.learn(&snapshot);
        self.event(first);
        while let Ok(edge) = self.inputs.events.try_recv() {
            self.event(&edge);
        }
        self.telemetry();
    }

    /// One that no message can hold is on the rig's disk all the same; the next one shows that it is missing.
    fn receipt(&mut self, receipt: &Receipt) {
        let (encoding, boot) = (self.encoding, self.start.boot);
        let message = |seq| encode(encoding, Header::new(Kind::Receipt, boot, seq), receipt);
        // In JSON it is as long as its number.
        if message(u64::MAX).len() > MAX_MESSAGE {
            return warn!("a receipt of energy is too large for a message: see `rigd-ctl energy records`");
        }
        self.outbox.push(Lane::Receipt, Vec::new(), message);
    }

    fn event(&mut self, edge: &Edge) {
        self.note(edge);
        let body = Event::new(&self.birth, clock::unix_ms(), self.start.uptime(), edge, &self.board);
        let (encoding, boot) = (self.encoding, self.start.boot);
        self.outbox.push(Lane::Event, Vec::new(), |seq| encode(encoding, Header::new(Kind::Event, boot, seq), &body));
    }

    /// What control did on its own, and why.
    fn note(&self, edge: &Edge) {
        let gpus = &self.birth.gpus;
        let gpu = |index: usize| gpus.get(index).map(|gpu| gpu.pci.clone());
        let payload = |index: usize| self.birth.payloads.get(index).map(|payload| payload.name.clone());
        let name = edge.alarm.subject.name(&self.board, gpu, payload);
        let rung = edge.rung.map(|rung| format!("; {rung}")).unwrap_or_default();
        let what = format!("{name}: {} ({}{rung})", edge.alarm.kind, edge.cause);
        self.inputs.audit.note(Who::Control, what, if edge.raised { "raised" } else { "over" });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Up(up) => {
                self.start_over();
                self.up = Some(up);
                self.outbox.connected();
                self.announce(up.connection);
            }
            Report::Sent(id) => {
                if let Some(handed) = self.unnumbered.pop_front() {
                    self.numbered.insert(id, handed);
                }
            }
            Report::Loose => self.loose = self.loose.saturating_sub(1),
            Report::Acknowledged { id, answer } => self.acknowledged(id, answer),
            Report::Heard(inbound) => self.heard(inbound),
            Report::Down => self.start_over(),
        }
    }

    fn answer(&mut self, answer: inbox::Answer) {
        match answer {
            inbox::Answer::Acknowledge(inbound) => self.acknowledge(inbound),
            inbox::Answer::Ack(ack, reply) => {
                let (encoding, boot) = (self.encoding, self.start.boot);
                let encode = |seq| encode(encoding, Header::new(Kind::Ack, boot, seq), &ack);
                let extra = reply.to_extra().unwrap_or_default();
                if ack.state.last() {
                    self.outbox.push(Lane::Ack, extra, encode);
                } else {
                    // The journal has it: the next start knows that it was accepted, and ends it.
                    self.outbox.push_unhurried(Lane::Ack, extra, encode);
                }
            }
            inbox::Answer::Said(ack, reply) => {
                // It has no number: nothing waits for it, and nobody misses it.
                if self.up.is_some() && self.said.len() < SAID {
                    self.said
                        .push_back((encode(self.encoding, Header::new(Kind::Ack, self.start.boot, 0), &ack), reply));
                } else {
                    self.inputs.unread.fetch_add(1, Ordering::Relaxed);
                }
            }
            inbox::Answer::Reported(reported) => {
                self.reported = Some(*reported);
                self.say_reported();
            }
            inbox::Answer::Sample => {
                self.bear();
                self.telemetry();
            }
        }
    }

    fn start_over(&mut self) {
        self.up = None;
        self.loose = 0;
        // The broker sends those again on the next connection.
        self.unsaid.clear();
        self.unnumbered.clear();
        self.numbered.clear();
        self.state.clear();
        self.said.clear();
        self.outbox.disconnected();
    }

    fn acknowledged(&mut self, id: u16, answer: Answer) {
        let Some(handed) = self.numbered.remove(&id) else { return };
        match (answer, handed) {
            (Answer::Taken, Handed::Message(ticket)) => self.outbox.settled(ticket),
            (Answer::Taken, Handed::State(_) | Handed::Said) => {}
            (Answer::Later(reason), handed) => {
                self.paused = true;
                if let Handed::Message(ticket) = handed {
                    self.outbox.returned(ticket);
                }
                self.complain(handed, &reason);
            }
            (Answer::Never(reason), handed) => self.lost(handed, &reason),
        }
    }

    /// It will never be taken: it counts as lost.
    fn lost(&mut self, handed: Handed, reason: &str) {
        if let Handed::Message(ticket) = handed {
            self.outbox.refused(ticket);
        }
        self.refused = self.refused.saturating_add(u32::from(handed != Handed::Said));
        self.complain(handed, reason);
    }

    /// Once per reason.
    fn complain(&mut self, handed: Handed, reason: &str) {
        if self.told.as_deref() != Some(reason) {
            warn!("the broker does not take our {}: {reason}", Topic::new(self.rig.clone(), handed.kind()));
            self.told = Some(reason.to_owned());
        }
    }

    /// Says who we are: online first, so that a will that is still on its way is overtaken.
    fn announce(&mut self, connection: u32) {
        self.birth.connection = connection;
        let snapshot = Arc::clone(&self.inputs.snapshot.borrow());
        // Said below in any case.
        self.learn(&snapshot);
        self.state.clear();
        self.birth.delivery = self.delivery();
        self.birth.outbox =
            OutboxInfo { waiting: self.outbox.waiting(), dropped: self.outbox.dropped(), refused: self.refused };
        self.say(&Online { online: true, connection, reason: Reason::Connected });
        self.bear();
        self.say_reported();
    }

    fn bear(&mut self) {
        self.birth.audit_head = self.inputs.audit.head().told();
        let birth = encode(self.encoding, Header::new(Kind::Birth, self.start.boot, 0), &self.birth);
        self.state.push_back((Kind::Birth, birth));
    }

    /// What became known of the rig after its start makes another birth: its EEPROM's word, its GPUs.
    fn learn(&mut self, snapshot: &Snapshot) {
        let serial =
            snapshot.identity.as_ref().map(|identity| &identity.serial).or(self.birth.serial.as_ref()).cloned();
        // A clock that nobody keeps in step any more is one that a command's sender has to know of.
        let clock_set = reliable_ms(&self.fleet).is_some();
        // The log is opened beside the start. Later records are told by the next birth and make none of their own.
        let log = self.birth.audit_head.is_none() && self.inputs.audit.head().told().is_some();
        let another = serial != self.birth.serial || clock_set != self.birth.clock_set || log;
        (self.birth.serial, self.birth.clock_set) = (serial, clock_set);
        if (self.birth.learn(&snapshot.gpus, &snapshot.payloads) || another) && self.up.is_some() {
            self.bear();
        }
    }

    fn delivery(&self) -> Delivery {
        if self.outbox.by_watermark() { Delivery::Watermark } else { Delivery::Puback }
    }

    /// A control plane that was not known of makes another birth: messages leave in another way.
    fn listened(&mut self) {
        let delivery = self.delivery();
        if delivery != self.birth.delivery && self.up.is_some() {
            self.birth.delivery = delivery;
            self.bear();
        }
    }

    fn say_reported(&mut self) {
        if let (Some(reported), true) = (&self.reported, self.up.is_some()) {
            let message = encode(self.encoding, Header::new(Kind::Reported, self.start.boot, 0), reported);
            self.state.push_back((Kind::Reported, message));
        }
    }

    fn say(&mut self, online: &Online) {
        let message = encode(self.encoding, Header::new(Kind::Online, self.start.boot, 0), online);
        self.state.push_back((Kind::Online, message));
    }

    /// Hands over what the window allows: state first, then the outbox, then what nobody keeps.
    fn feed(&mut self) {
        while self.unsaid.pop_front_if(|inbound| inbound.acknowledge(&self.client)).is_some() {}
        let Some(up) = self.up else { return };
        while self.client.live(up.connection) && !self.paused && self.on_the_way() < up.window {
            let mut to = None;
            let (handed, packet) = if let Some((kind, payload)) = self.state.pop_front() {
                (Handed::State(kind), Packet::new(&self.rig, self.encoding, kind, payload))
            } else if let Some(message) = self.outbox.next_message() {
                // An earlier start may have written another encoding.
                let encoding = Encoding::of(&message.payload);
                let packet = Packet::new(&self.rig, encoding, message.ticket.lane.kind(), message.payload);
                let packet = packet.after_gap(message.gap, message.early).naming_ended(&message.ended);
                let packet = match Reply::from_extra(&message.extra) {
                    Some(reply) => packet.in_reply(reply),
                    None => packet,
                };
                (Handed::Message(message.ticket), packet)
            } else if let Some((payload, reply)) = self.said.pop_front() {
                to = Some(reply.clone());
                (Handed::Said, Packet::new(&self.rig, self.encoding, Kind::Ack, payload).in_reply(reply))
            } else {
                return;
            };
            let size = packet.size();
            if size > up.max_packet {
                self.lost(handed, &format!("{size} bytes are over its limit of {}", up.max_packet));
                continue;
            }
            if let Err(payload) = packet.hand_over(&self.client) {
                // The link's channel is full; its next report makes room.
                match (handed, to) {
                    (Handed::State(kind), _) => self.state.push_front((kind, payload)),
                    (_, Some(reply)) => self.said.push_front((payload, reply)),
                    (Handed::Message(_) | Handed::Said, None) => {}
                }
                return;
            }
            if let Handed::Message(ticket) = handed {
                self.outbox.sent(ticket);
            }
            self.unnumbered.push_back(handed);
        }
    }

    fn on_the_way(&self) -> usize {
        self.unnumbered.len() + self.numbered.len()
    }
}

/// Of the brokers that are configured: what is known of a control plane is known of it there.
fn number(config: &Config) -> u32 {
    let addresses = config.broker.addresses.iter().flat_map(|at| [at.host.as_bytes(), &at.port.to_le_bytes()].concat());
    fnv1a(&addresses.collect::<Vec<_>>())
}
