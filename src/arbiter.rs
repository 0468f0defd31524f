//! Decides which payload has which GPU, and brings it about: every GPU changes hands as a transaction.
//!
//! ```text
//! watch<Snapshot> ──┐                                             ┌── Desk: GPUs given, what a watt earns
//! watch<Payloads> ──┼── look ── plan::plan ── differ ── switch ───┼── mpsc<Order> ── supervisor: end, run
//! watch<Setpoints> ─┘    │                      ^  │              ├── mpsc<Edge>: an event per finished switch
//!     market, leases     └── yields.json        │  v              └── watch<View> ── local socket: `rigd-ctl plan`
//!                                            arbiter.json: the step is on the disk before it is taken
//! ```
//!
//! Only payloads whose manifest has a `[plan]` are its business, and those only while nobody has stopped them: what is stopped by
//! hand stays so until it is started by hand. A payload that was given up stays out until somebody clears it; one that did not work
//! when its turn came is left out for a minute, then two, an hour at most. While somebody works at the rig nothing is decided.
//!
//! It lives on the agent's own thread and wakes with each tick of control, which it shares with the publisher; a plan for 16 GPUs
//! and 16 payloads is some tens of microseconds, each [`every`](crate::config::PlanConfig::every) and when something has changed.
//! What it waits for is bounded: an answer of a payload's task `ANSWER`, the steps of a switch as `switch.rs` says.

pub mod differ;
pub mod explore;
pub mod look;
pub mod switch;
pub mod tenants;
pub mod view;
pub mod yields;

mod end;
mod journal;
mod show;
mod wipe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::alarm::{Edge, SwitchOutcome};
use crate::clock;
use crate::config::{Config, PlanConfig};
use crate::gpu::config::GpuConfig;
use crate::payload::lifecycle::Phase;
use crate::payload::meter::Flag;
use crate::payload::supervisor::{self, Payloads, Status, What};
use crate::plan::{Inputs as PlanInputs, earned, plan};
use crate::reading::Snapshot;
use crate::setpoint::{Desk, Setpoints};
use crate::statefile::StateFile;
use crate::units::MilliPerSecond;
use explore::Trial;
use journal::Kept;
use look::{Draft, Facts};
use switch::{Deed, Share, Switch};
use tenants::Wipers;
use view::View;
use yields::{Yields, gross};

/// What a payload's task may take to answer: it may be starting something.
const ANSWER: Duration = Duration::from_secs(20);
/// A measured second counts once.
const LEARN: Duration = Duration::from_secs(10);
/// What was learnt is written down so often.
const KEEP: Duration = Duration::from_secs(600);
/// How long a payload is left out that did not work, at first and at most.
const BARRED: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3_600)];
/// Sixty-four payloads with sixty-four GPUs each.
const LARGEST: u64 = 2 * 1024 * 1024;
/// Looks in a row without waiting: five steps there and five back, with room.
const LOOKS: usize = 16;

/// What it takes in.
pub struct Inputs {
    /// The rig in each tick. Its other end is dropped when control has ended.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The payloads.
    pub payloads: watch::Receiver<Arc<Payloads>>,
    /// What is asked of the rig.
    pub setpoints: watch::Receiver<Arc<Setpoints>>,
    /// Where GPUs are given.
    pub desk: Desk,
    /// The way to payloads.
    pub orders: mpsc::Sender<supervisor::Order>,
    /// The way to the publisher.
    pub events: mpsc::Sender<Edge>,
    /// For people.
    pub view: watch::Sender<Arc<View>>,
}

/// The arbiter.
pub struct Arbiter {
    inputs: Inputs,
    config: PlanConfig,
    profiles: GpuConfig,
    trust_clock: crate::command::trust::FleetConfig,
    journal: StateFile,
    learnt: StateFile,
    kept: Kept,
    yields: Yields,
    trial: Option<Trial>,
    wipers: Wipers,
    /// mJ that the GPUs of a payload had used when it was started.
    energies: BTreeMap<String, u64>,
    /// How often somebody had forgiven each payload when that was last looked at.
    forgiven: BTreeMap<String, u32>,
    learned: Duration,
    saved: Duration,
    planned: Duration,
    key: Vec<(String, bool, bool)>,
    view: View,
}

/// Copies of what there was at one moment.
struct Moment {
    payloads: Arc<Payloads>,
    snapshot: Arc<Snapshot>,
    setpoints: Arc<Setpoints>,
    unix_ms: (u64, bool),
    minute: u16,
    now: Duration,
    looked: Duration,
}

fn alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // What may not be asked is there.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

impl Arbiter {
    /// One over what the last agent left; none where the configuration leaves everything to people. It waits for the disk, and tells
    /// what was given before anybody is started.
    #[must_use]
    pub fn open(config: &Config, inputs: Inputs) -> Option<Self> {
        if !config.plan.enabled {
            return None;
        }
        let journal = StateFile::new(&config.state, "arbiter.json", LARGEST);
        let learnt = StateFile::new(&config.state, "yields.json", LARGEST);
        let now = clock::since_boot();
        let kept = Kept::load(&journal, clock::kernel_boot(), now);
        inputs.desk.set_given(kept.given.clone());
        Some(Self {
            yields: learnt.load("what payloads yield is learnt anew"),
            inputs,
            config: config.plan,
            profiles: config.gpus.clone(),
            trust_clock: config.fleet.clone(),
            journal,
            learnt,
            kept,
            trial: None,
            wipers: Wipers::new(config.payloads.cgroup.clone()),
            energies: BTreeMap::new(),
            forgiven: BTreeMap::new(),
            learned: now,
            saved: now,
            planned: Duration::ZERO,
            key: Vec::new(),
            view: View { enabled: true, ..View::default() },
        })
    }

    /// Works until control has ended.
    pub async fn run(mut self) {
        loop {
            self.turn().await;
            tokio::select! {
                changed = self.inputs.snapshot.changed() => if changed.is_err() { break },
                changed = self.inputs.payloads.changed() => if changed.is_err() { break },
                Some((name, done)) = self.wipers.next() => self.wiped(name, done).await,
            }
        }
        self.keep_learnt().await;
    }

    fn moment(&mut self) -> Moment {
        let payloads = Arc::clone(&self.inputs.payloads.borrow_and_update());
        let snapshot = Arc::clone(&self.inputs.snapshot.borrow_and_update());
        let setpoints = Arc::clone(&self.inputs.setpoints.borrow_and_update());
        let now = clock::since_boot();
        let reliable = crate::mqtt::reliable_ms(&self.trust_clock);
        let age = snapshot.gpus.taken.map(|taken| clock::now().saturating_duration_since(taken));
        Moment {
            payloads,
            snapshot,
            setpoints,
            unix_ms: (reliable.unwrap_or_else(clock::unix_ms), reliable.is_some()),
            minute: clock::local_minute().unwrap_or(0),
            now,
            looked: age.map_or(Duration::ZERO, |age| now.saturating_sub(age)),
        }
    }

    fn facts<'a>(&'a self, moment: &'a Moment) -> Facts<'a> {
        Facts {
            config: &self.config,
            profiles: &self.profiles,
            payloads: &moment.payloads.0,
            gpus: &moment.snapshot.gpus.gpus,
            setpoints: &moment.setpoints,
            yields: &self.yields,
            bars: &self.kept.bars,
            left: &self.kept.left,
            unwiped: &self.wipers.failed,
            switches: &self.kept.switches,
            trial: self.trial.as_ref(),
            alive: &alive,
            unix_ms: moment.unix_ms,
            minute: moment.minute,
            now: moment.now,
        }
    }

    /// Takes up what is under way, and plans where it is time to or something has changed.
    async fn turn(&mut self) {
        let moment = self.moment();
        if !self.facts(&moment).ready() || moment.snapshot.gpus.taken.is_none() {
            return self.publish(&moment, Some("payloads and GPUs are not all known yet"));
        }
        self.note_who_runs(&moment).await;
        if moment.setpoints.maintenance().is_some() {
            for switch in std::mem::take(&mut self.kept.switches) {
                self.finish(&moment, &switch, SwitchOutcome::Dropped);
                self.save().await;
            }
            return self.publish(&moment, Some("somebody works at the rig"));
        }
        self.learn(&moment).await;
        self.advance().await;
        self.wipe_who_rests(false);
        let moment = self.moment();
        for status in moment.payloads.0.iter().filter(|status| status.plan.is_some()) {
            if self.forgiven.insert(status.name.clone(), status.forgiven).unwrap_or(0) < status.forgiven {
                self.kept.bars.remove(&status.name);
            }
        }
        self.trial = self.trial.take().filter(|trial| moment.now < trial.until);
        let key = self.key(&moment);
        if key != self.key || moment.now.saturating_sub(self.planned) >= self.config.every {
            (self.key, self.planned) = (key, moment.now);
            self.wipe_who_rests(true);
            if self.plan(&moment) {
                // On the disk before the first of it is done.
                self.save().await;
                self.advance().await;
                let moment = self.moment();
                self.key = self.key(&moment);
            }
        }
        self.publish(&moment, None);
    }

    /// What a plan is made anew for.
    fn key(&self, moment: &Moment) -> Vec<(String, bool, bool)> {
        let facts = self.facts(moment);
        let payloads = moment.payloads.0.iter().filter(|status| status.plan.is_some());
        let payloads = payloads.map(|status| (status.name.clone(), facts.plannable(status), status.phase.is_at_rest()));
        let gpus = moment.snapshot.gpus.gpus.iter();
        let gpus =
            gpus.map(|gpu| (gpu.pci.to_string(), gpu.presence == crate::gpu::Presence::Seen, gpu.sample.is_ok()));
        let market = moment.setpoints.market().map(|market| (format!("{:?}", Arc::as_ptr(market)), true, true));
        let left = self.kept.left.keys().map(|name| (name.clone(), true, true));
        payloads
            .chain(gpus)
            .chain(market)
            .chain(left)
            .chain([(self.kept.switches.len().to_string(), false, false)])
            .collect()
    }

    /// Plans; whether something begins.
    fn plan(&mut self, moment: &Moment) -> bool {
        let mut draft = self.facts(moment).draft();
        if self.trial.is_none() && self.kept.switches.is_empty() {
            let facts = self.facts(moment);
            let planned = plan(&facts.inputs(&draft)).gpus;
            self.trial = explore::choose(&facts, &draft, &planned);
            if let Some(trial) = &self.trial {
                info!("arbiter: tries {} on GPU {}: nobody knows what it yields", trial.payload, trial.uuid);
                self.yields.tried(&trial.payload, moment.unix_ms.0);
                draft = self.facts(moment).draft();
            }
        }
        let facts = self.facts(moment);
        let inputs = facts.inputs(&draft);
        let made = plan(&inputs);
        let new = differ::differences(&draft, &inputs, &made, &self.kept.switches, moment.now);
        let worths = worths(&draft, &inputs);
        let view = self.shown(&draft, &made, moment);
        for switch in &new {
            info!("arbiter: {} to {}", told(&switch.from), told(&switch.to));
        }
        self.inputs.desk.set_worths(worths);
        self.view = view;
        let begins = !new.is_empty();
        self.kept.switches.extend(new);
        begins
    }

    /// Everything that is under way goes on as far as it can now. A maintenance that has begun meanwhile ends it with the next turn.
    async fn advance(&mut self) {
        for _ in 0..LOOKS {
            let moment = self.moment();
            if moment.setpoints.maintenance().is_some() {
                return;
            }
            let mut moved = false;
            for at in 0..self.kept.switches.len() {
                let Some(before) = self.kept.switches.get(at).cloned() else { break };
                let seen = self.facts(&moment).seen(moment.looked);
                let (after, deeds) = switch::next(before.clone(), &seen, moment.now);
                let ends = deeds.iter().find_map(|deed| match deed {
                    Deed::Finish(outcome) => Some(*outcome),
                    Deed::Stop(_) | Deed::Wipe(_) | Deed::Give(_) | Deed::Start(_) => None,
                });
                moved |= after != before || ends.is_some();
                if let Some(outcome) = ends {
                    self.kept.switches.remove(at);
                    self.finish(&moment, &after, outcome);
                    self.save().await;
                    break;
                }
                if let Some(place) = self.kept.switches.get_mut(at) {
                    *place = after.clone();
                }
                for deed in &deeds {
                    if let Deed::Give(share) = deed {
                        self.kept.given.insert(share.payload.clone(), share.gpus.clone());
                        self.leaves(&share.payload, &share.gpus, &moment);
                    }
                }
                if after.step != before.step || after.back != before.back || after.told != before.told {
                    self.save().await;
                }
                for deed in deeds {
                    self.act(deed, &after, &moment).await;
                }
            }
            if !moved {
                return;
            }
        }
    }

    async fn act(&mut self, deed: Deed, switch: &Switch, moment: &Moment) {
        match deed {
            Deed::Stop(name) => self.order(&name, What::Rest).await,
            Deed::Start(name) => {
                if let Some(share) = switch.coming().iter().find(|share| share.payload == name)
                    && let Some(energy) = energy(&moment.snapshot, &share.gpus)
                {
                    self.energies.insert(name.clone(), energy);
                }
                self.order(&name, What::Run).await;
            }
            Deed::Wipe(name) => self.wipe(&name),
            // All at once, so that nobody is given what another still has on paper.
            Deed::Give(_) => self.inputs.desk.set_given(self.kept.given.clone()),
            Deed::Finish(_) => {}
        }
    }

    async fn order(&self, name: &str, what: impl FnOnce(oneshot::Sender<Result<(), supervisor::Refusal>>) -> What) {
        let (reply, done) = oneshot::channel();
        let order = supervisor::Order { name: name.to_owned(), what: what(reply) };
        if self.inputs.orders.try_send(order).is_err() {
            return warn!("arbiter: payload {name} takes no order now");
        }
        match timeout(ANSWER, done).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(refusal))) => warn!("arbiter: payload {name}: {refusal}"),
            Ok(Err(_)) | Err(_) => warn!("arbiter: payload {name} does not answer"),
        }
    }

    /// What works and is believed teaches what to expect of it.
    async fn learn(&mut self, moment: &Moment) {
        let passed = moment.now.saturating_sub(self.learned);
        if passed < LEARN {
            return;
        }
        self.learned = moment.now;
        let seconds = u32::try_from(passed.min(LEARN * 2).as_secs()).unwrap_or(0);
        let measured = self.yields.measured();
        if self.yields.0.len() >= crate::plan::MOST {
            // What has no manifest any more makes room.
            self.yields.0.retain(|name, _| moment.payloads.0.iter().any(|status| status.name == *name));
        }
        let works = |status: &&Status| status.phase == Phase::Running && status.belief == Flag::Believed;
        // What holds back for an hour teaches nothing of the next one; but a rig that always is held back must learn something.
        let held = |uuid: &String| {
            let at = moment.snapshot.gpus.gpus.iter().position(|gpu| gpu.has(uuid));
            at.and_then(|at| moment.snapshot.restraint.gpus.get(at)).is_some_and(|held| !held.is_free())
        };
        for status in moment.payloads.0.iter().filter(|status| status.plan.is_some()).filter(works) {
            if status.gpus.iter().any(|uuid| held(uuid) && self.yields.own(&status.name, uuid).is_some()) {
                continue;
            }
            let Some(rate) = status.sample.as_ref().and_then(|sample| sample.rate) else { continue };
            let power = |uuid: &String| {
                let sample = gpu(&moment.snapshot, uuid)?.sample.as_ref().ok()?;
                Some((uuid.clone(), gross(sample.power.ok()?, &moment.snapshot.supplies)))
            };
            let powers: Option<Vec<_>> = status.gpus.iter().map(power).collect();
            let makes = status.gpus.iter().map(|uuid| Some(gpu(&moment.snapshot, uuid)?.device.as_ref()?.name.clone()));
            let mut makes: Vec<_> = makes.collect();
            makes.dedup();
            if let Some(powers) = powers {
                self.yields.learn(&status.name, &powers, makes.len() <= 1, MilliPerSecond(rate), seconds);
            }
        }
        // A figure that is planned with for the first time is not learnt again by an agent that follows one that was killed.
        if self.yields.measured() > measured || moment.now.saturating_sub(self.saved) >= KEEP {
            self.saved = moment.now;
            self.keep_learnt().await;
        }
    }

    async fn keep_learnt(&self) {
        let (file, yields) = (self.learnt.clone(), self.yields.clone());
        if let Ok(Err(error)) = spawn_blocking(move || file.save(&yields)).await {
            warn!("arbiter: what was learnt could not be written down: {error}");
        }
    }
}

fn told(shares: &[Share]) -> String {
    let one = |share: &Share| format!("{} on {}", share.payload, share.gpus.join(" "));
    if shares.is_empty() { "nobody".to_owned() } else { shares.iter().map(one).collect::<Vec<_>>().join(", ") }
}

fn gpu<'a>(snapshot: &'a Snapshot, uuid: &str) -> Option<&'a crate::gpu::Gpu> {
    snapshot.gpus.gpus.iter().find(|gpu| gpu.has(uuid))
}

/// mJ that these GPUs have used since their driver was loaded.
fn energy(snapshot: &Snapshot, uuids: &[String]) -> Option<u64> {
    uuids.iter().map(|uuid| Some(gpu(snapshot, uuid)?.sample.as_ref().ok()?.energy.ok()?.0)).sum()
}

/// No work earns as much: what was promised to somebody is held back last.
const PROMISED: u64 = 1 << 62;

/// What a watt earns with each payload that runs, millionths an hour.
fn worths(draft: &Draft, inputs: &PlanInputs<'_>) -> BTreeMap<String, u64> {
    let worth = |(at, payload): (usize, &crate::plan::Payload)| {
        // A trial's priority is below 0: nobody's promise.
        let promised = payload.lease.and_then(|lease| u64::try_from(lease.priority).ok());
        if let Some(priority) = promised.filter(|_| draft.current.contains(&Some(at))) {
            return Some((payload.name.clone(), PROMISED + priority));
        }
        let own = (0..draft.uuids.len()).filter(|gpu| draft.current.get(*gpu) == Some(&Some(at)));
        let yields = own.filter_map(|gpu| inputs.yields(gpu, at));
        let (earns, milliwatts) = yields.fold((0_i128, 0_i128), |(earns, watts), one| {
            (earns + earned(one.rate, payload.value), watts + i128::from(one.power.0))
        });
        let worth = u64::try_from(earns.checked_mul(1_000)?.checked_div(milliwatts)?).ok()?;
        Some((payload.name.clone(), worth.max(1)))
    };
    crate::sorted::map(draft.payloads.iter().enumerate().filter_map(worth))
}
