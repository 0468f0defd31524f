//! The inbox: what the control plane sends, verified, written down, carried out once, and answered.
//!
//! ```text
//! publisher ── mpsc<Inbound>, 32 ──> inbox ── a blocking thread: verify, journal, fsync ──┐
//!    ^                                                                                    v
//!    └── mpsc<Answer>: acknowledge, accepted, running, done <── journal, fsync <── Actor::act
//! ```
//!
//! What says something new of a command goes through the outbox, and survives broker and agent. What does not is said once and kept
//! nowhere: that a command came again, that there were too many, and whatever there is to say to somebody whose frame no key of ours
//! signed. That one costs no fsync either: strangers are counted, and told of in one line every [`TELL_STRANGERS`].
//!
//! The broker is told that it need not send a command again only after the journal has it; until then its place in the broker's
//! window is taken, and a killed agent gets it again. Nothing here waits for the disk on the agent's own thread.
//!
//! Four times the disk is synced for a command, and two of these are waited for:
//!
//! | what is synced | what it protects | who waits |
//! |---|---|---|
//! | journal: accepted | carried out at most once | the carrying out, and the broker's acknowledgement |
//! | journal: how it ended | what was told as done is never carried out again, or told as unknown, after a restart | the answer |
//! | outbox: the last answer, and `accepted` with it | no answer is lost | nobody |
//! | audit: what came within 100 ms of the first | who did what | nobody |
//!
//! `accepted` is not synced for its own sake: the journal has it, and the next start ends the command and answers again.
//! Every message that comes is answered or counted: what comes too fast, or finds no room, in telemetry's `unread`.

mod desk;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::{info, warn};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::inbound::Inbound;
use super::outbox::reply::Reply;
use super::reconcile;
use super::reliable_ms;
use crate::audit::{Who, Writer};
use crate::clock;
use crate::command::act::Actor;
use crate::command::journal::{AfterRestart, Entry, Interrupted};
use crate::command::rate::{Admission, Rate, Tally};
use crate::command::trust::FleetConfig;
use crate::command::verify::Me;
use crate::desired::Moment;
use crate::setpoint::Source;
use crate::wire::{Ack, AckState, CommandId, Desired, Kind, Order, Outcome, Refusal, RefusedRevision, Reported, Topic};
use desk::{Desk, Looked, lock};

/// Messages that wait to be looked at: more than the broker may have on its way to us. One more is counted and not read.
pub(super) const DELIVERIES: usize = 32;
/// Answers that wait for the publisher, which never waits for us.
pub(super) const ANSWERS: usize = 64;
/// How often what is is compared with what is desired.
const RECONCILE: Duration = Duration::from_secs(5);
/// How often it looks whether something is over, s: a maintenance, a flood.
const LOOK: Duration = Duration::from_secs(1);
/// How often frames that nobody known signed are told of, and commands that were too many.
const TELL_STRANGERS: Duration = Duration::from_secs(10);

/// What the inbox wants of the publisher.
#[derive(Debug)]
pub(super) enum Answer {
    /// The broker need not send it again.
    Acknowledge(Inbound),
    /// Something to say about a command, to be kept until the control plane has it.
    Ack(Ack, Reply),
    /// The same, to be said where it can be now, and kept nowhere.
    Said(Ack, Reply),
    /// Birth and telemetry, now.
    Sample,
    /// How near the rig is to its desired state.
    Reported(Box<Reported>),
}

/// Where an answer to this is wanted: on the rig's own topic for answers, or nowhere else. The response topic is not signed, so
/// whoever owns the broker chooses it; a wildcard or a control character in it would be a message that no broker takes and that
/// all others wait behind, and on any other topic the control plane would miss the answer's number.
fn reply(me: &Me, inbound: &Inbound) -> Reply {
    let own = Topic::new(me.rig.clone(), Kind::Ack).to_string();
    let topic = inbound.response_topic().filter(|topic| *topic == own).map(str::to_owned).unwrap_or_default();
    Reply { topic, correlation: inbound.correlation().unwrap_or_default().to_vec() }
}

/// What it is made of.
pub(super) struct Inputs {
    /// Who this rig is to those who command it.
    pub(super) me: Me,
    /// Who may command it.
    pub(super) fleet: FleetConfig,
    /// The state directory.
    pub(super) state: PathBuf,
    /// The nonce of this start's birth.
    pub(super) nonce: u64,
    /// What comes.
    pub(super) deliveries: mpsc::Receiver<Inbound>,
    /// What goes.
    pub(super) answers: mpsc::Sender<Answer>,
    /// Carries orders out.
    pub(super) actor: Actor,
    /// Who ordered what is written down here.
    pub(super) audit: Writer,
    /// Counts what is dropped unread.
    pub(super) unread: Arc<AtomicU32>,
}

/// The inbox.
pub(super) struct Inbox {
    deliveries: mpsc::Receiver<Inbound>,
    answers: mpsc::Sender<Answer>,
    actor: Actor,
    me: Me,
    desk: Arc<Mutex<Desk>>,
    rate: Rate,
    /// Frames that no key of ours signed, with why the last one was refused.
    strangers: (Tally, String),
    /// Commands that were refused as too many.
    excess: Tally,
    running: JoinSet<(Entry, AckState)>,
    audit: Writer,
    unread: Arc<AtomicU32>,
    fleet: FleetConfig,
    /// The state in force, where there is one.
    desired: Option<Arc<Desired>>,
    refused: Option<RefusedRevision>,
    /// Orders of the desired state that are being carried out: it is not looked at again before they are done.
    reconciling: JoinSet<()>,
    /// What was reported last.
    reported: Option<Reported>,
}

impl Inbox {
    /// Opens journal and trust, and takes up what a restart interrupted.
    pub(super) async fn open(inputs: Inputs) -> Option<Self> {
        let Inputs { me, fleet, state, nonce, deliveries, answers, actor, audit, unread } = inputs;
        let (own, trusted, log) = (me.clone(), fleet.clone(), audit.clone());
        let open = spawn_blocking(move || Desk::open(state, own, nonce, trusted, log));
        let (desk, interrupted) = open.await.ok()?;
        let (desired, finished) = (desk.in_force.desired.clone(), desk.finished());
        let mut inbox = Self {
            deliveries,
            answers,
            actor,
            me,
            desk: Arc::new(Mutex::new(desk)),
            rate: Rate::new(clock::now()),
            strangers: (Tally::new(TELL_STRANGERS), String::new()),
            excess: Tally::new(TELL_STRANGERS),
            running: JoinSet::new(),
            audit,
            unread,
            fleet,
            desired,
            refused: None,
            reconciling: JoinSet::new(),
            reported: None,
        };
        // The end of a command is in the journal before its answer is in the outbox: the last answers are said once more.
        for (entry, ack) in finished {
            inbox
                .answer(Answer::Ack(
                    ack,
                    Reply { topic: entry.response.unwrap_or_default(), correlation: entry.correlation },
                ))
                .await;
        }
        inbox.take_up(interrupted).await;
        Some(inbox)
    }

    async fn take_up(&mut self, interrupted: Vec<Interrupted>) {
        for Interrupted { entry, then } in interrupted {
            info!("command {}: was interrupted by the agent's end: {then:?}", entry.id);
            match then {
                AfterRestart::Again => self.carry_out(entry),
                AfterRestart::Done => self.finished(entry, AckState::Done(Outcome::Nothing)).await,
                AfterRestart::Unknown => self.finished(entry, AckState::Unknown).await,
            }
        }
    }

    /// Works until the publisher has ended.
    pub(super) async fn run(mut self) {
        let every = |period| {
            let mut every = tokio::time::interval(period);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            every
        };
        let (mut look, mut reconcile) = (every(LOOK), every(RECONCILE));
        loop {
            let told = self.rate.quiet() && self.strangers.0.quiet() && self.excess.quiet();
            let setpoints = self.actor.setpoints.now();
            let busy = !told || setpoints.maintenance().is_some() || setpoints.caps().next().is_some();
            drop(setpoints);
            tokio::select! {
                inbound = self.deliveries.recv() => match inbound {
                    Some(inbound) => self.delivered(inbound).await,
                    None => return,
                },
                Some(Ok((entry, state))) = self.running.join_next() => {
                    let ends = matches!((&entry.order, &state), (Order::RestartAgent, AckState::Done(_)));
                    self.finished(entry, state).await;
                    // Only now, or the end would come before the answer.
                    if ends {
                        self.actor.end();
                    }
                }
                Some(_) = self.reconciling.join_next() => {}
                _ = reconcile.tick(), if self.desired.is_some() && self.reconciling.is_empty() => self.reconcile().await,
                // Nothing wakes where nothing can be over.
                _ = look.tick(), if busy => {
                    self.tell_flood(clock::now());
                    // A clock that only seems to be past its end starts nothing under somebody's hands.
                    if let Some(unix_ms) = reliable_ms(&self.fleet) {
                        self.actor.maintenance_over(unix_ms).await;
                        self.actor.look_at_caps(unix_ms).await;
                    }
                }
            }
        }
    }

    fn tell_flood(&mut self, now: Instant) {
        if let Some(count) = self.rate.tell(now) {
            self.told_flood(count);
        }
        if let Some(count) = self.strangers.0.tell(now) {
            self.told_strangers(count);
        }
        if let Some(count) = self.excess.tell(now) {
            self.told_excess(count);
        }
    }

    fn told_flood(&self, count: u64) {
        let text = format!("commands: {count} came too fast");
        warn!("{text} and were dropped unread");
        self.audit.note(Who::Unknown, text, "dropped unread");
    }

    fn told_strangers(&self, count: u64) {
        let text = format!("commands: {count} that no key of ours signed");
        warn!("{text}; the last: {}", self.strangers.1);
        self.audit.note(Who::Unknown, text, format!("refused; the last: {}", self.strangers.1));
    }

    fn told_excess(&self, count: u64) {
        let text = format!("commands: {count} more than are taken at once");
        warn!("{text}");
        self.audit.note(Who::Unknown, text, format!("refused: {}", Refusal::TooMany));
    }

    /// More than are taken at once: whoever signed it is told, and may send it again.
    async fn excess(&mut self, inbound: Inbound) {
        let (desk, message) = (Arc::clone(&self.desk), inbound.clone());
        let Ok(id) = spawn_blocking(move || lock(&desk).in_excess(&message)).await else { return };
        let to = reply(&self.me, &inbound);
        self.answer(Answer::Acknowledge(inbound)).await;
        match id {
            Some(id) => self.say_once(id, AckState::Refused(Refusal::TooMany), to).await,
            None => {
                self.unread.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Some(count) = self.excess.add(clock::now()) {
            self.told_excess(count);
        }
    }

    /// A desired state: taken whole or not at all, and then brought about.
    async fn desired(&mut self, inbound: Inbound) {
        if inbound.payload().is_empty() {
            // A retained message that was cleared. What is in force stays.
            return self.answer(Answer::Acknowledge(inbound)).await;
        }
        let (desk, message, known) = (Arc::clone(&self.desk), inbound.clone(), reconcile::known(&self.actor));
        let taken = spawn_blocking(move || {
            let mut desk = lock(&desk);
            let taken = desk.take(&message, &known);
            (taken, desk.in_force.desired.clone(), desk.in_force.refused.clone())
        });
        let Ok(((keys, taken), desired, refused)) = taken.await else { return };
        let outcome = match &taken {
            Ok(true) => Some("taken".to_owned()),
            Ok(false) => None,
            Err(why) => Some(format!("refused: {why}")),
        };
        if let Some(outcome) = outcome {
            let revision = desired.as_ref().map_or(0, |desired| desired.revision);
            let who = if keys.is_empty() { Who::Unknown } else { Who::Keys(keys) };
            self.audit.note(who, format!("desired state; revision {revision} is in force"), outcome);
        }
        (self.desired, self.refused) = (desired, refused);
        self.answer(Answer::Acknowledge(inbound)).await;
        if self.reconciling.is_empty() {
            self.reconcile().await;
        }
    }

    /// Orders what is missing, and reports where that is news.
    async fn reconcile(&mut self) {
        let now = Moment { unix_ms: reliable_ms(&self.fleet), local: clock::local_week() };
        let (plan, reported) = reconcile::look(self.desired.as_deref(), self.refused.clone(), &self.actor, &now);
        if plan.caps.is_some() || !plan.orders.is_empty() {
            let (actor, audit) = (self.actor.clone(), self.audit.clone());
            self.reconciling.spawn(async move {
                let ended = |what: String, state: AckState| {
                    if !matches!(state, AckState::Done(_)) {
                        warn!("desired state: {what}: {state:?}");
                    }
                    audit.note(Who::Control, format!("desired state: {what}"), format!("{state:?}"));
                };
                if let Some(caps) = plan.caps {
                    info!("desired state: {caps:?}");
                    let state = actor.hold_caps(&caps).await;
                    ended(format!("{caps:?}"), state);
                }
                for order in plan.orders {
                    info!("desired state: {order:?}");
                    let state = actor.act(&order, Source::Desired).await;
                    ended(format!("{order:?}"), state);
                }
            });
        }
        if self.reported.as_ref() != Some(&reported) {
            self.reported = Some(reported.clone());
            self.answer(Answer::Reported(Box::new(reported))).await;
        }
    }

    async fn delivered(&mut self, inbound: Inbound) {
        let kind = inbound.topic().and_then(Topic::parse).map(|topic| topic.kind);
        if kind == Some(Kind::Desired) {
            return self.desired(inbound).await;
        }
        match self.rate.admit(clock::now()) {
            Admission::Look => {}
            Admission::Excess => return self.excess(inbound).await,
            Admission::Drop { tell } => {
                self.unread.fetch_add(1, Ordering::Relaxed);
                if let Some(count) = tell {
                    self.told_flood(count);
                }
                return self.answer(Answer::Acknowledge(inbound)).await;
            }
        }
        let (desk, message) = (Arc::clone(&self.desk), inbound.clone());
        let revision = self.reported.as_ref().map_or(0, |reported| reported.reached);
        let look = move || {
            let mut desk = lock(&desk);
            let looked = desk.look(&message, revision);
            (looked, std::mem::take(&mut desk.late))
        };
        let Ok((looked, late)) = spawn_blocking(look).await else { return };
        self.take_up(late).await;
        // What was refused will be refused again; what is in the journal is not needed again.
        let to = reply(&self.me, &inbound);
        self.answer(Answer::Acknowledge(inbound)).await;
        match looked {
            // Its first answer is in the outbox until the control plane has it.
            Looked::Again(id, state) => self.say_once(id, state, to).await,
            Looked::Refused(id, keys, refusal) if keys.is_empty() => {
                self.strangers.1 = refusal.to_string();
                self.say_once(id, AckState::Refused(refusal), to).await;
                if let Some(count) = self.strangers.0.add(clock::now()) {
                    self.told_strangers(count);
                }
            }
            Looked::Refused(id, keys, refusal) => {
                self.audit.note(Who::Keys(keys), format!("command {id}"), format!("refused: {refusal}"));
                self.say(id, AckState::Refused(refusal), to).await;
            }
            Looked::New(entry) => {
                self.audit.note(
                    Who::Keys(entry.keys.clone()),
                    format!("command {}: {:?}", entry.id, entry.order),
                    "accepted",
                );
                info!("command {}: {:?}", entry.id, entry.order);
                self.say(entry.id, AckState::Accepted, to).await;
                self.carry_out(*entry);
            }
        }
    }

    fn carry_out(&mut self, entry: Entry) {
        let (actor, desk, by) = (self.actor.clone(), Arc::clone(&self.desk), self.me.speaker(&entry.topic));
        self.running.spawn(async move {
            let state = if let Order::RotateKey { add, revoke } = &entry.order {
                let (add, revoke) = (add.clone(), *revoke);
                let rotated = spawn_blocking(move || lock(&desk).rotate(add.as_ref(), revoke)).await;
                rotated.unwrap_or_else(|_| AckState::Failed("the agent is stopping".to_owned()))
            } else {
                actor.act(&entry.order, by).await
            };
            (entry, state)
        });
    }

    async fn finished(&mut self, entry: Entry, state: AckState) {
        let ack = Ack { id: entry.id, at_ms: clock::unix_ms(), state };
        let told = told(&ack.state);
        info!("command {}: {told}", entry.id);
        self.audit.note(Who::Keys(entry.keys.clone()), format!("command {}", entry.id), told);
        let (desk, kept) = (Arc::clone(&self.desk), ack.clone());
        let written = spawn_blocking(move || lock(&desk).finish(&kept)).await;
        if let Ok(Err(why)) = written {
            warn!("command {}: its end could not be written down: {why}", entry.id);
        }
        let done = matches!((&entry.order, &ack.state), (Order::Snapshot, AckState::Done(_)));
        let to = Reply { topic: entry.response.unwrap_or_default(), correlation: entry.correlation };
        self.answer(Answer::Ack(ack, to)).await;
        if done {
            self.answer(Answer::Sample).await;
        }
    }

    async fn say(&self, id: CommandId, state: AckState, to: Reply) {
        self.answer(Answer::Ack(Ack { id, at_ms: clock::unix_ms(), state }, to)).await;
    }

    async fn say_once(&self, id: CommandId, state: AckState, to: Reply) {
        self.answer(Answer::Said(Ack { id, at_ms: clock::unix_ms(), state }, to)).await;
    }

    /// The publisher takes answers as long as it lives.
    async fn answer(&self, answer: Answer) {
        let _ = self.answers.send(answer).await;
    }
}

/// The end of a command for logs, which what a payload said is no business of.
fn told(state: &AckState) -> String {
    match state {
        AckState::Done(Outcome::Lines(lines)) => format!("Done({} lines)", lines.len()),
        AckState::Accepted
        | AckState::Running { .. }
        | AckState::Done(_)
        | AckState::Failed(_)
        | AckState::Refused(_)
        | AckState::Unknown => format!("{state:?}"),
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};

    use super::*;

    /// What it names is not signed: the broker's owner may write there what he likes.
    #[test]
    fn an_answer_goes_to_the_rigs_own_topic_whatever_is_asked_for() {
        let me = Me { rig: "rig-7".parse().unwrap(), groups: Vec::new(), site: None };
        for (asked, expected) in [
            ("r1/rig-7/up/ack", "r1/rig-7/up/ack"),
            ("r1/rig-7/up/ack/deeper", ""),
            ("r1/rig-7/up/ack/#", ""),
            ("r1/rig-7/up/ack/+", ""),
            ("r1/rig-7/up/ack/\u{1}", ""),
            ("r1/rig-7/up/birth", ""),
            ("r1/rig-8/up/ack", ""),
            ("r1/rig-7/dn/cmd", ""),
        ] {
            let mut publish = Publish::new("r1/rig-7/dn/cmd", QoS::AtLeastOnce, "x", None);
            publish.properties = Some(PublishProperties {
                response_topic: Some(asked.to_owned()),
                correlation_data: Some(vec![7].into()),
                ..PublishProperties::default()
            });
            let reply = reply(&me, &Inbound::new(1, publish));
            assert_eq!((reply.topic.as_str(), reply.correlation.as_slice()), (expected, &[7][..]), "{asked}");
        }
    }
}
