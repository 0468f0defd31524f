//! What the inbox keeps on the disk: the journal, whom it trusts, the desired state. Only blocking threads take it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{info, warn};

use super::reply;
use crate::audit::{Who, Writer};
use crate::clock;
use crate::command::journal::{self, Entry, Interrupted, Journal};
use crate::command::trust::{FleetConfig, Trust};
use crate::command::verify::{self, Me, Now, Received, Refused, Verdict};
use crate::desired::{Known, Store};
use crate::mqtt::inbound::Inbound;
use crate::mqtt::reconcile::InForce;
use crate::mqtt::reliable_ms;
use crate::wire::{Ack, AckState, CommandId, KeyId, Outcome, Refusal};

/// An answer reaches the outbox's disk within a second of the journal's; a minute covers the slowest.
const SAY_AGAIN_MS: u64 = 60_000;

/// Where everything that the disk knows is kept; only blocking threads take it.
pub(super) struct Desk {
    state: PathBuf,
    me: Me,
    nonce: u64,
    fleet: FleetConfig,
    trust: Result<Trust, String>,
    journal: Result<Journal, String>,
    store: Store,
    pub(super) in_force: InForce,
    /// Where it is written down that nobody is trusted, and that somebody is again.
    audit: Writer,
    /// What was interrupted, found by a journal that could not be opened at the start.
    pub(super) late: Vec<Interrupted>,
}

/// What came of a delivered command.
pub(super) enum Looked {
    /// Carry it out.
    New(Box<Entry>),
    /// It was seen before: say this again.
    Again(CommandId, AckState),
    /// Say this, and nothing else; these keys had signed it.
    Refused(CommandId, Vec<KeyId>, Refusal),
}

impl Desk {
    pub(super) fn open(
        state: PathBuf,
        me: Me,
        nonce: u64,
        fleet: FleetConfig,
        audit: Writer,
    ) -> (Self, Vec<Interrupted>) {
        let trust = Trust::load(&fleet, &state).map_err(|error| {
            warn!("nobody is trusted: keys.json: {error}");
            audit.note(Who::Control, "trusts nobody", format!("keys.json: {error}"));
            format!("keys.json: {error}")
        });
        let store = Store::new(&state);
        let in_force = trust.as_ref().map(|trust| InForce::load(&store, trust, &me)).unwrap_or_default();
        let (journal, late) = (Err(String::new()), Vec::new());
        let mut desk = Self { state, me, nonce, fleet, trust, journal, store, in_force, audit, late };
        let interrupted = desk.open_journal();
        (desk, interrupted)
    }

    /// What was carried out so shortly before this start that its answer may have been lost with the last one.
    pub(super) fn finished(&self) -> Vec<(Entry, Ack)> {
        self.journal.as_ref().map(|journal| journal.finished(clock::unix_ms(), SAY_AGAIN_MS)).unwrap_or_default()
    }

    pub(super) fn open_journal(&mut self) -> Vec<Interrupted> {
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

    /// Where nobody is trusted, looks again: somebody on the rig may have brought the file back, or removed the mark.
    fn trust_again(&mut self) {
        if self.trust.is_ok() {
            return;
        }
        self.trust = Trust::load(&self.fleet, &self.state).map_err(|error| format!("keys.json: {error}"));
        if let Ok(trust) = &self.trust {
            let what = "keys.json is back, or trust.mark is gone";
            let outcome = format!("trusts again, keys: {}", trust.keys().len());
            info!("{what}: {outcome}");
            self.audit.note(Who::Unknown, what, outcome);
            // Nothing older than what was in force is taken from now on, either.
            self.in_force = InForce::load(&self.store, trust, &self.me);
        }
    }

    /// Verifies what came, and writes it down where it is to be carried out.
    pub(super) fn look(&mut self, inbound: &Inbound, revision: u64) -> Looked {
        let refused =
            |id: Option<CommandId>, keys, refusal| Looked::Refused(id.unwrap_or(CommandId([0; 16])), keys, refusal);
        let policy = |text: String| refused(None, Vec::new(), Refusal::Policy(text));
        if self.journal.is_err() {
            // Nothing was taken up at the start: it could not be read then.
            self.late = self.open_journal();
        }
        self.trust_again();
        let (journal, trust) = match (&mut self.journal, &self.trust) {
            (Ok(journal), Ok(trust)) => (journal, trust),
            (Err(why), _) => return policy(format!("journal: {why}")),
            (_, Err(why)) => return policy(why.clone()),
        };
        let Some(topic) = inbound.topic() else { return policy("its topic is no text".to_owned()) };
        let received = Received { topic, frame: inbound.payload(), retained: inbound.retained() };
        let now = Now { unix_ms: reliable_ms(&self.fleet), nonce: self.nonce, revision };
        if let Err(error) = journal.clock_set(now.unix_ms) {
            warn!("commands.log: {error}; commands need the nonce of the birth for longer");
        }
        match verify::command(&received, trust, &self.me, &now, journal) {
            Err(Refused { id, keys, refusal }) => refused(id, keys, refusal),
            Ok(Verdict::Again(id)) => match journal.answer(&id) {
                Some(journal::Answer::Finished(ack)) => Looked::Again(id, ack.state),
                Some(journal::Answer::Open) | None => Looked::Again(id, AckState::Accepted),
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
                    Err(refusal) => refused(Some(entry.id), entry.keys, refusal),
                }
            }
        }
    }

    /// The command to refuse as one too many, if any: nothing is written down of it.
    pub(super) fn in_excess(&self, inbound: &Inbound) -> Option<CommandId> {
        let (Ok(journal), Ok(trust)) = (&self.journal, &self.trust) else { return None };
        let received = Received { topic: inbound.topic()?, frame: inbound.payload(), retained: inbound.retained() };
        verify::in_excess(&received, trust, journal).map(|(id, _)| id)
    }

    /// Takes a desired state, or says why not; and whose signatures were good.
    pub(super) fn take(&mut self, inbound: &Inbound, known: &Known) -> (Vec<KeyId>, Result<bool, String>) {
        self.trust_again();
        let trust = match &self.trust {
            Ok(trust) => trust,
            Err(why) => return (Vec::new(), Err(why.clone())),
        };
        let Some(topic) = inbound.topic() else { return (Vec::new(), Err("its topic is no text".to_owned())) };
        let received = Received { topic, frame: inbound.payload(), retained: inbound.retained() };
        let judge = (trust, &self.me, reliable_ms(&self.fleet));
        self.in_force.take(&self.store, &received, judge, known)
    }

    pub(super) fn rotate(&mut self, add: Option<&crate::wire::TrustedKey>, revoke: Option<KeyId>) -> AckState {
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

    pub(super) fn finish(&mut self, ack: &Ack) -> Result<(), String> {
        let journal = self.journal.as_mut().map_err(|why| why.clone())?;
        journal.finish(ack).map_err(|error| error.to_string())
    }
}

/// A thread that panicked in here would have ended the agent.
pub(super) fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}
