//! One payload's task.

mod change;
mod held;
mod judge;
mod planned;
mod start;
mod told;
mod waits;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};

use super::super::learnt::{HalfHour, Learnt};
use super::super::lifecycle::{Action, Event, Exit, Phase, Rules, State, next, wake};
use super::super::log::{Keeper, Ring};
use super::super::manifest::{Kind, Manifest};
use super::super::meter::{Beats, Flag};
use super::super::prepare::{self, Prepared};
use super::super::process::{Process, Site, reap};
use super::super::record::{Record, Shelf, Survives};
use super::super::{By, Grant, Hold, Terms};
use super::watchers::{Heard, hear, metering, probing};
use super::{Hooks, Payloads, Refusal, Status, What};
use crate::clock;
use told::verb;
use waits::{after, ended, readable};

/// What probes and meter have told and nobody has heard. They wait then.
const HEARD: usize = 4;
/// For the keeper of an earlier run to write down the last of it.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What a meter has counted is written down so often: a killed agent forgets no more than this.
const COUNTED: Duration = Duration::from_secs(60);
/// What cannot be killed is looked at so often.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    index: usize,
    manifest: Arc<Manifest>,
    rules: Rules,
    site: Arc<Site>,
    payloads: Arc<watch::Sender<Arc<Payloads>>>,
    hooks: Arc<dyn Hooks>,
    random: u64,
    shelf: Shelf,
    ring: Ring,
    state: State,
    status: Status,
    grant: Option<Grant>,
    /// The next start asks for GPUs anew.
    regrant: bool,
    counters: Vec<u64>,
    /// When it was last written down, since boot.
    saved: Duration,
    prepared: Option<Prepared>,
    process: Option<Process>,
    /// Kills for memory that its cgroup has counted, where it was seen to be empty a moment ago.
    empty: Option<u64>,
    /// It has ended like this, and something of it is left.
    lingering: Option<Exit>,
    keeper: Option<Keeper>,
    /// The pipe of an adopted payload's log, of which no more is known.
    pipe: u64,
    /// What tells of its end.
    keeping: Option<AsyncFd<OwnedFd>>,
    watchers: JoinSet<()>,
    heard: Option<mpsc::Receiver<Heard>>,
    /// What its meter said in this run.
    beats: Option<Beats>,
    half_hour: HalfHour,
    learnt: Learnt,
}

fn rules(manifest: &Manifest) -> Rules {
    Rules {
        restart: manifest.restart.clone(),
        grace: manifest.stop.grace,
        probe: manifest.probe.as_ref().map(|probe| (probe.startup, probe.failures)),
        expect: manifest.expect.clone(),
        pausable: manifest.kind != Kind::Ai,
    }
}

impl Worker {
    pub(super) fn new(
        index: usize,
        manifest: Manifest,
        site: Arc<Site>,
        payloads: Arc<watch::Sender<Arc<Payloads>>>,
        hooks: Arc<dyn Hooks>,
        random: u64,
    ) -> Self {
        let home = site.home(&manifest.name);
        let state = State::default();
        let plan = Terms::of(&manifest, &home).map(Arc::new);
        Self {
            index,
            rules: rules(&manifest),
            payloads,
            hooks,
            // Odd, and spread over all bits: see `mqtt/backoff.rs`.
            random: random.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            shelf: Shelf::new(&home, &site.boot),
            ring: site.ring(&manifest),
            status: Status { plan, ..Status::new(&manifest, &state) },
            state,
            manifest: Arc::new(manifest),
            site,
            grant: None,
            regrant: false,
            counters: Vec::new(),
            saved: Duration::ZERO,
            prepared: None,
            process: None,
            empty: None,
            lingering: None,
            keeper: None,
            pipe: 0,
            keeping: None,
            watchers: JoinSet::new(),
            heard: None,
            beats: None,
            half_hour: HalfHour::default(),
            learnt: Learnt::default(),
        }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<What>, mut holds: watch::Receiver<Hold>) {
        self.take_up().await;
        loop {
            let now = clock::since_boot();
            let wait = wake(&self.rules, &self.state).map(|at| at.saturating_sub(now));
            tokio::select! {
                order = orders.recv() => match order {
                    Some(what) => self.order(what).await,
                    None => break,
                },
                Ok(()) = holds.changed() => {
                    let hold = *holds.borrow_and_update();
                    self.held_back(hold).await;
                }
                () = ended(self.process.as_ref(), self.lingering.is_some()) => self.ended().await,
                () = after(self.lingering.is_some().then_some(LINGER)) => self.linger().await,
                heard = hear(self.heard.as_mut()) => self.heard(heard).await,
                () = readable(self.keeping.as_ref()) => self.keep_on().await,
                () = after(wait) => self.event(Event::Tick).await,
            }
        }
        self.save(Survives::Downgrade).await;
    }

    /// What an earlier agent has left: its process, or what there is to know.
    async fn take_up(&mut self) {
        let record = self.shelf.load();
        let first = record.is_none();
        let Record { state, process, grant, counters, pipe, out, .. } = record.unwrap_or_default();
        (self.state, self.counters, self.status.out) = (state.taken_up(clock::since_boot()), counters, out);
        let name = &self.manifest.name;
        let group = self.site.group(name);
        let adopted = process.and_then(|known| Process::adopt(name, known, group.clone()));
        if let Some(process) = adopted.filter(|_| self.state.alive()) {
            info!("payload {name}: adopted, process {}", process.known.pid);
            self.grant = Some(grant);
            (self.status.adopted, self.status.layers) = (true, process.known.layers);
            if self.state.phase != Phase::Paused {
                // The agent before may have died between its deed and its word.
                process.wake();
            }
            self.process = Some(process);
            self.pipe = pipe;
            self.take_over_log(pipe);
            self.listen();
            // The agent before may have died between any two steps: ready or signalled, it is so at least now.
            return self.event(Event::Spawned).await;
        }
        // Nothing may run that nobody knows.
        if let Some(group) = group.filter(|group| group.populated()) {
            warn!("payload {name}: killing what was left of it");
            if let Err(error) = group.kill() {
                warn!("payload {name}: could not kill what was left of it: {error}");
            }
            let _ = group.emptied(LAST_WORDS).await;
            // In a frozen group nothing can be started.
            let _ = group.thaw();
        }
        if self.state.alive() {
            self.grant = Some(grant);
            self.status.exit = Some(Exit::Unknown);
            self.event(Event::Exited(Exit::Unknown)).await;
        } else if self.state.phase == Phase::Stopped
            // What is planned waits for the plan.
            && self.manifest.plan.is_none()
            && (self.state.wanted || first && self.manifest.autostart)
            && !self.rests()
        {
            self.event(Event::Start).await;
        } else {
            self.event(Event::Tick).await;
        }
    }

    async fn order(&mut self, what: What) {
        let by_plan = matches!(what, What::Run(_) | What::Rest(_));
        let (event, reply) = match what {
            What::Log(from, most, reply) => {
                let mask = self.prepared.as_ref().map(|prepared| prepared.mask.clone());
                // A payload of an earlier agent: its secrets are read for this only.
                let mask = mask.unwrap_or_else(|| prepare::mask(&self.manifest));
                let part = self
                    .ring
                    .read(from, most, self.process.is_none(), &mask)
                    .map_err(|error| Refusal::Log(error.to_string()));
                let _ = reply.send(part);
                return;
            }
            What::Manifest(manifest) => return self.change(*manifest).await,
            What::Removed => return self.remove().await,
            What::Again => return self.again().await,
            What::Hold(hold) => return self.held_back(hold).await,
            What::Run(reply) | What::Start(reply) | What::Restart(reply) if self.status.removed => {
                let _ = reply.send(Err(Refusal::Unknown));
                return;
            }
            // Decided before somebody began to work at the rig.
            What::Run(reply) if self.rests() => {
                let _ = reply.send(Err(Refusal::NotStarted("somebody works at the rig".to_owned())));
                return;
            }
            What::Run(reply) => (Event::Start, reply),
            What::Rest(reply) => (Event::Stop, reply),
            What::Start(reply) => (Event::Start, reply),
            What::Stop(reply) => (Event::Stop, reply),
            What::Restart(reply) => (Event::Restart, reply),
            What::Drain(grace, reply) => (Event::Drain(grace), reply),
            What::Clear(reply) => (Event::Clear, reply),
        };
        info!("payload {}: ordered to {}", self.manifest.name, verb(event));
        if matches!(event, Event::Start | Event::Restart | Event::Clear) && !by_plan {
            self.status.forgiven = self.status.forgiven.saturating_add(1);
        }
        if !by_plan && self.status.plan.is_some() && self.planned(event).await {
            self.publish();
            let _ = reply.send(Ok(()));
            return;
        }
        // What was changed since is read again: secrets, users, GPUs.
        if matches!(event, Event::Start | Event::Restart) && !self.state.alive() {
            (self.prepared, self.grant) = (None, None);
        }
        // What runs keeps its GPUs until it has ended; one of them may be why it is ended.
        self.regrant |= event == Event::Restart;
        if event == Event::Clear {
            self.unlearn().await;
        }
        self.event(event).await;
        let refusal = match (event, self.state.phase) {
            (Event::Start | Event::Restart, Phase::Quarantined) => Err(Refusal::Quarantined),
            (Event::Start | Event::Restart, Phase::Failed(_)) => {
                Err(Refusal::NotStarted(self.status.error.clone().unwrap_or_else(|| "it failed at once".to_owned())))
            }
            _ => Ok(()),
        };
        let _ = reply.send(refusal);
    }

    async fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Probe(passed) => self.event(Event::Probe(passed)).await,
            Heard::Sample(sample) => self.sampled(sample).await,
            Heard::Nothing => self.unsaid().await,
        }
    }

    async fn ended(&mut self) {
        self.stop_listening();
        let Some(process) = &mut self.process else { return };
        match process.finish().await {
            Ok(exit) => self.gone(exit).await,
            Err(exit) => {
                warn!("payload {}: has ended and cannot be killed; a driver has hold of it", self.manifest.name);
                self.lingering = Some(exit);
            }
        }
    }

    async fn linger(&mut self) {
        if let Some(process) = &self.process
            && process.lingers()
        {
            return process.kill();
        }
        if let Some(exit) = self.lingering.take() {
            self.gone(exit).await;
        }
    }

    async fn gone(&mut self, exit: Exit) {
        if self.status.paused == Some(By::Signal) {
            // Its session's number may be another's by now.
            self.status.paused = None;
        }
        self.unpause();
        // Nobody is in its cgroup, as was just seen: a start that comes at once need not look again.
        self.empty = self.process.take().map(|process| process.known.oom_kills);
        if self.status.adopted {
            // An earlier agent's, with that one's settings.
            self.let_go();
        }
        (self.status.exit, self.status.pid, self.status.adopted) = (Some(exit), None, false);
        // What nobody does is no work.
        (self.status.sample, self.status.belief) = (None, Flag::Unknown);
        self.event(Event::Exited(exit)).await;
        self.empty = None;
        if self.status.removed && self.process.is_none() {
            self.site.clear(&self.manifest.name);
        }
    }

    /// Takes an event, does what comes of it, and lets it be known. Each start is counted against the budget, so this ends.
    async fn event(&mut self, event: Event) {
        let (wanted, held) = (self.state.wanted, self.state.held);
        let before = self.state.clone();
        let mut following = Some(event);
        while let Some(event) = following.take() {
            let phase = self.state.phase;
            let random = self.random();
            let state = std::mem::take(&mut self.state);
            let (state, action) = next(&self.rules, state, event, clock::since_boot(), random);
            self.state = state;
            self.tell(phase);
            match action {
                None => {}
                Some(Action::Spawn) => {
                    // Whoever hands out GPUs takes back those of all that are at rest, and it takes a while to start.
                    if self.status.phase.is_at_rest() {
                        self.publish();
                    }
                    following = Some(self.spawn().await);
                }
                Some(Action::Signal) => {
                    if let Some(process) = &self.process {
                        process.signal(self.manifest.stop.signal.number());
                    }
                    // What is frozen takes it when it goes on, before anything else.
                    self.unpause();
                }
                Some(Action::Kill) => {
                    self.kill();
                    self.unpause();
                }
                Some(Action::Pause) => following = self.pause().await,
                Some(Action::Resume) => following = self.resume().await,
            }
        }
        if !self.state.alive() && !matches!(self.state.phase, Phase::BackingOff { .. } | Phase::Waiting) {
            self.rest();
        }
        self.explain();
        // Its work is done; who wants more of it says so.
        let done = matches!(event, Event::Exited(_)) && wanted && !self.state.wanted && self.status.plan.is_some();
        let put_out = done && !std::mem::replace(&mut self.status.out, true);
        if self.state != before || put_out {
            let ordered = (wanted, held) != (self.state.wanted, self.state.held);
            self.save(if ordered { Survives::PowerCut } else { Survives::Agent }).await;
        }
        self.publish();
    }

    /// Nothing runs and nothing is about to.
    fn rest(&mut self) {
        (self.prepared, self.grant) = (None, None);
        self.let_go();
    }

    /// Begins to probe and to meter.
    fn listen(&mut self) {
        self.watchers.abort_all();
        self.begin_run();
        let (tell, heard) = mpsc::channel(HEARD);
        self.heard = Some(heard);
        if let Some(probe) = self.manifest.probe.clone() {
            let (site, manifest) = (Arc::clone(&self.site), Arc::clone(&self.manifest));
            let grant = self.grant.clone().unwrap_or_default();
            self.watchers.spawn(probing(site, manifest, grant, probe, tell.clone()));
        }
        if let (Some(used), Some(meter)) = (&self.manifest.meter, self.hooks.meter(&self.manifest, &self.counters)) {
            self.status.unit = Some(meter.unit());
            self.watchers.spawn(metering(meter, used.interval, tell));
        }
    }

    fn stop_listening(&mut self) {
        self.watchers.abort_all();
        // Aborted ones are forgotten as they end.
        while self.watchers.try_join_next().is_some() {}
        self.heard = None;
    }

    /// What the next agent has to know.
    fn record(&self) -> Record {
        Record {
            state: self.state.clone(),
            process: self.process.as_ref().map(|process| process.known),
            grant: self.grant.clone().unwrap_or_default(),
            counters: self.counters.clone(),
            pipe: self.keeper.as_ref().map_or(self.pipe, Keeper::pipe),
            out: self.status.out,
            ..Record::default()
        }
    }

    /// Holds on to who writes its log down, and listens for its end.
    fn hold(&mut self, keeper: Option<Keeper>) {
        // One whose end would not be heard might leave its payload waiting for ever at a full pipe.
        (self.keeping, self.keeper) = keeper.and_then(|keeper| Some((keeper.end().ok()?, keeper))).unzip();
    }

    /// It ends when nobody writes to it any more, and the next start makes another.
    fn let_go(&mut self) {
        (self.keeping, self.pipe) = (None, 0);
        if let Some(keeper) = self.keeper.take() {
            tokio::spawn(reap(keeper.release()));
        }
    }

    async fn save(&mut self, survives: Survives) {
        self.saved = clock::since_boot();
        let record = self.record();
        let saved = if survives == Survives::PowerCut {
            // What was ordered. Only this payload waits for the disk.
            let shelf = self.shelf.clone();
            spawn_blocking(move || shelf.save(&record, survives)).await.unwrap_or_else(|error| Err(error.into()))
        } else {
            self.shelf.save(&record, survives)
        };
        match saved {
            // A payload that was never started has no directory yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn!("payload {}: its state could not be written down: {error}", self.manifest.name),
            Ok(()) => {}
        }
    }

    fn publish(&mut self) {
        let State { phase, since, cause, held, restarts, failures, hold, .. } = &self.state;
        let grant = self.grant.iter().flat_map(|grant| &grant.gpus);
        let status = Status {
            phase: *phase,
            since: *since,
            cause: *cause,
            held: *held,
            hold: *hold,
            restarts: *restarts,
            failures: *failures,
            expected: self.rules.expect.as_ref().and_then(|expect| expect.rate),
            pid: self.process.as_ref().map(|process| process.known.pid),
            gpus: grant.map(|gpu| gpu.uuid.clone()).collect(),
            known: true,
            ..self.status.clone()
        };
        self.payloads.send_if_modified(|payloads| {
            let changed = payloads.0.get(self.index).is_some_and(|known| *known != status);
            if changed && let Some(known) = Arc::make_mut(payloads).0.get_mut(self.index) {
                known.clone_from(&status);
            }
            changed
        });
        self.status = status;
    }

    /// Marsaglia, "Xorshift RNGs", 2003: jitter needs no more.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [a, b, c, d, ..] = self.random.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}
