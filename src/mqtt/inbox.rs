//! The inbox: what the control plane sends, verified, written down, carried out once, and answered.
//!
//! ```text
//! publisher ── mpsc<Inbound>, 32 ──> inbox ── a blocking thread: verify, journal, fsync ──┐
//!    ^                                                                                    v
//!    └── mpsc<Answer>: acknowledge, accepted, running, done <── journal, fsync <── Actor::act
//! ```
//!
//! The broker is told that it need not send a command again only after the journal has it; until then its place in the broker's
//! window is taken, and a killed agent gets it again. Nothing here waits for the disk on the agent's own thread.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::{info, warn};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::inbound::Inbound;
use super::outbox::reply::Reply;
use super::reliable_ms;
use crate::clock;
use crate::command::act::Actor;
use crate::command::journal::{self, AfterRestart, Entry, Interrupted, Journal};
use crate::command::rate::{Admission, Rate};
use crate::command::trust::{FleetConfig, Trust};
use crate::command::verify::{self, Me, Now, Received, Refused, Verdict};
use crate::wire::{Ack, AckState, CommandId, KeyId, Kind, Order, Outcome, Refusal, Topic};

/// Messages that wait to be looked at: more than the broker may have on its way to us, so that none is ever turned away.
pub(super) const DELIVERIES: usize = 32;
/// Answers that wait for the publisher, which never waits for us.
pub(super) const ANSWERS: usize = 64;
/// How often it looks whether something is over, s: a maintenance, a flood.
const LOOK: Duration = Duration::from_secs(1);

/// What the inbox wants of the publisher.
#[derive(Debug)]
pub(super) enum Answer {
    /// The broker need not send it again.
    Acknowledge(Inbound),
    /// Something to say about a command.
    Ack(Ack, Reply),
    /// Birth and telemetry, now.
    Sample,
}

/// Where an answer to this is wanted. A rig may write below its own topics only, so nothing else is answered on.
fn reply(me: &Me, inbound: &Inbound) -> Reply {
    let own = Topic::new(me.rig.clone(), Kind::Ack).to_string();
    let below = |topic: &&str| topic.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let topic = inbound.response_topic().filter(below).map(str::to_owned).unwrap_or_default();
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
}

/// Where everything that the disk knows is kept; only blocking threads take it.
struct Desk {
    state: PathBuf,
    me: Me,
    nonce: u64,
    fleet: FleetConfig,
    trust: Result<Trust, String>,
    journal: Result<Journal, String>,
}

/// What came of a delivered command.
enum Looked {
    /// Carry it out.
    New(Box<Entry>),
    /// Say this, and nothing else.
    Say(CommandId, AckState),
}

/// The inbox.
pub(super) struct Inbox {
    deliveries: mpsc::Receiver<Inbound>,
    answers: mpsc::Sender<Answer>,
    actor: Actor,
    me: Me,
    desk: Arc<Mutex<Desk>>,
    rate: Rate,
    running: JoinSet<(Entry, AckState)>,
}

impl Inbox {
    /// Opens journal and trust, and takes up what a restart interrupted.
    pub(super) async fn open(inputs: Inputs) -> Option<Self> {
        let Inputs { me, fleet, state, nonce, deliveries, answers, actor } = inputs;
        let own = me.clone();
        let open = spawn_blocking(move || Desk::open(state, own, nonce, fleet));
        let (desk, interrupted) = open.await.ok()?;
        let desk = Arc::new(Mutex::new(desk));
        let rate = Rate::new(clock::now());
        let mut inbox = Self { deliveries, answers, actor, me, desk, rate, running: JoinSet::new() };
        for Interrupted { entry, then } in interrupted {
            info!("command {}: was interrupted by the agent's end: {then:?}", entry.id);
            match then {
                AfterRestart::Again => inbox.carry_out(entry),
                AfterRestart::Done => inbox.finished(entry, AckState::Done(Outcome::Nothing)).await,
                AfterRestart::Unknown => inbox.finished(entry, AckState::Unknown).await,
            }
        }
        Some(inbox)
    }

    /// Works until the publisher has ended.
    pub(super) async fn run(mut self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let busy = !self.rate.quiet() || self.actor.setpoints.now().maintenance().is_some();
            tokio::select! {
                inbound = self.deliveries.recv() => match inbound {
                    Some(inbound) => self.delivered(inbound).await,
                    None => return,
                },
                Some(Ok((entry, state))) = self.running.join_next() => self.finished(entry, state).await,
                // Nothing wakes where nothing can be over.
                _ = look.tick(), if busy => {
                    self.tell_flood();
                    self.actor.maintenance_over(clock::unix_ms()).await;
                }
            }
        }
    }

    fn tell_flood(&mut self) {
        if let Some(count) = self.rate.tell(clock::now()) {
            warn!("commands: {count} came too fast and were dropped unread");
        }
    }

    async fn delivered(&mut self, inbound: Inbound) {
        match self.rate.admit(clock::now()) {
            Admission::Look => {}
            Admission::Drop { tell } => {
                if let Some(count) = tell {
                    warn!("commands: {count} came too fast and were dropped unread");
                }
                return self.answer(Answer::Acknowledge(inbound)).await;
            }
        }
        let (desk, message) = (Arc::clone(&self.desk), inbound.clone());
        let revision = 0;
        let Ok(looked) = spawn_blocking(move || lock(&desk).look(&message, revision)).await else { return };
        // What was refused will be refused again; what is in the journal is not needed again.
        let to = reply(&self.me, &inbound);
        self.answer(Answer::Acknowledge(inbound)).await;
        match looked {
            Looked::Say(id, state) => self.say(id, state, to).await,
            Looked::New(entry) => {
                info!("command {}: {:?}", entry.id, entry.order);
                self.say(entry.id, AckState::Accepted, to).await;
                self.carry_out(*entry);
            }
        }
    }

    fn carry_out(&mut self, entry: Entry) {
        let (actor, desk) = (self.actor.clone(), Arc::clone(&self.desk));
        self.running.spawn(async move {
            let state = match &entry.order {
                Order::RotateKey { add, revoke } => {
                    let (add, revoke) = (add.clone(), *revoke);
                    let rotated = spawn_blocking(move || lock(&desk).rotate(add.as_ref(), revoke)).await;
                    rotated.unwrap_or_else(|_| AckState::Failed("the agent is stopping".to_owned()))
                }
                order => actor.act(order).await,
            };
            (entry, state)
        });
    }

    async fn finished(&mut self, entry: Entry, state: AckState) {
        let ack = Ack { id: entry.id, at_ms: clock::unix_ms(), state };
        info!("command {}: {:?}", entry.id, ack.state);
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

    /// The publisher takes answers as long as it lives.
    async fn answer(&self, answer: Answer) {
        let _ = self.answers.send(answer).await;
    }
}

impl Desk {
    fn open(state: PathBuf, me: Me, nonce: u64, fleet: FleetConfig) -> (Self, Vec<Interrupted>) {
        let trust = Trust::load(&fleet, &state).map_err(|error| {
            warn!("nobody is trusted: keys.json: {error}");
            format!("keys.json: {error}")
        });
        let mut desk = Self { state, me, nonce, fleet, trust, journal: Err(String::new()) };
        let interrupted = desk.open_journal();
        (desk, interrupted)
    }

    fn open_journal(&mut self) -> Vec<Interrupted> {
        match Journal::open(&self.state, clock::kernel_boot(), reliable_ms(&self.fleet)) {
            Ok((journal, interrupted)) => {
                self.journal = Ok(journal);
                interrupted
            }
            Err(error) => {
                warn!("no command is taken: commands.log: {error}");
                self.journal = Err(error.to_string());
                Vec::new()
            }
        }
    }

    /// Verifies what came, and writes it down where it is to be carried out.
    fn look(&mut self, inbound: &Inbound, revision: u64) -> Looked {
        let refused =
            |id: Option<CommandId>, refusal| Looked::Say(id.unwrap_or(CommandId([0; 16])), AckState::Refused(refusal));
        let policy = |text: String| refused(None, Refusal::Policy(text));
        if self.journal.is_err() {
            // What it would take up was taken up at the start, or there was nothing to be read.
            let _ = self.open_journal();
        }
        if self.trust.is_err() {
            self.trust = Trust::load(&self.fleet, &self.state).map_err(|error| format!("keys.json: {error}"));
        }
        let (journal, trust) = match (&mut self.journal, &self.trust) {
            (Ok(journal), Ok(trust)) => (journal, trust),
            (Err(why), _) => return policy(format!("journal: {why}")),
            (_, Err(why)) => return policy(why.clone()),
        };
        let Some(topic) = inbound.topic() else { return policy("its topic is no text".to_owned()) };
        let received = Received { topic, frame: inbound.payload(), retained: inbound.retained() };
        let now = Now { unix_ms: reliable_ms(&self.fleet), nonce: self.nonce, revision };
        match verify::command(&received, trust, &self.me, &now, journal) {
            Err(Refused { id, refusal, .. }) => refused(id, refusal),
            Ok(Verdict::Again(id)) => match journal.answer(&id) {
                Some(journal::Answer::Finished(ack)) => Looked::Say(id, ack.state),
                Some(journal::Answer::Open) | None => Looked::Say(id, AckState::Accepted),
            },
            Ok(Verdict::New(verified)) => {
                let verify::Verified { command, keys, digest } = *verified;
                let to = reply(&self.me, inbound);
                let entry = Entry {
                    id: command.id,
                    keys,
                    counter: command.counter,
                    digest,
                    not_after_ms: command.not_after_ms,
                    order: command.order,
                    topic: topic.to_owned(),
                    response: Some(to.topic).filter(|topic| !topic.is_empty()),
                    correlation: to.correlation,
                    at_ms: clock::unix_ms(),
                    boot: clock::kernel_boot(),
                };
                match journal.accept(entry.clone()) {
                    Ok(()) => Looked::New(Box::new(entry)),
                    Err(refusal) => refused(Some(entry.id), refusal),
                }
            }
        }
    }

    fn rotate(&mut self, add: Option<&crate::wire::TrustedKey>, revoke: Option<KeyId>) -> AckState {
        let trust = match &self.trust {
            Ok(trust) => trust,
            Err(why) => return AckState::Failed(why.clone()),
        };
        match trust.rotated(add, revoke) {
            Ok(next) => match next.save(&self.state) {
                Ok(()) => {
                    self.trust = Ok(next);
                    AckState::Done(Outcome::Nothing)
                }
                // What a restart would forget is not said to be done.
                Err(error) => AckState::Failed(format!("keys.json: {error}")),
            },
            Err(refusal) => AckState::Refused(refusal),
        }
    }

    fn finish(&mut self, ack: &Ack) -> Result<(), String> {
        let journal = self.journal.as_mut().map_err(|why| why.clone())?;
        journal.finish(ack).map_err(|error| error.to_string())
    }
}

/// A thread that panicked in here would have ended the agent.
fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}
