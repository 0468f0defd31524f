//! Ties it together: one task for each payload, which owns its life, its process and its log; one that hands out orders.
//!
//! ```text
//! mpsc<Order>, 16 ── run ─┬─ mpsc, 8 each ────┬─ Worker ── lifecycle::next ── Process, Keeper
//!                          └─ watch<Hold> each ─┘  │ ^
//!               watch<Arc<Payloads>> <─────────────┘ └── probes, meter: mpsc, 4, a new one for each run
//! ```
//!
//! From SIGKILL to running again: pidfd readable, waitid, one look at the cgroup, `next`, clone3, a record of 1 KiB written over in its
//! place without fsync, the word to the child, exec. No timer is in it, and what can be made ready was: rules, filters, the cgroup's
//! descriptors, which signals to give back. The child tells all that it has to tell in one write, which is one wake of the agent and
//! not one for each layer of the sandbox. What is left is the kernel's: a fork, two changes of the running process on the way to the
//! word and back, a mount namespace where the payload has a `/tmp` of its own, two seccomp filters and exec.
//!
//! When the last sender of orders is gone it ends, and payloads go on: the next agent adopts them.

mod reload;
mod watchers;
mod worker;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use super::cgroup::Root;
use super::lifecycle::{Cause, Exit, Phase, State};
use super::log::Part;
use super::manifest::{Kind, MOST, Manifest};
use super::meter::{self, Flag};
use super::process::{Site, make};
use super::sandbox::Layers;
use super::{By, Gpu, Grant, Hold, Terms};
use crate::reading::Reading;
use crate::sorted;
use crate::source::Problems;
use crate::units::Milliwatts;
pub use reload::Reloaded;
use reload::{Change, changes};
use worker::Worker;

/// Orders that wait for the supervisor. One more waits with its sender.
pub const ORDERS: usize = 16;
/// Orders that wait for one payload, which may be starting. One more is refused as busy.
const WAITING: usize = 8;

/// Payloads that may have been known since the agent's start, those included whose manifest is gone.
const PLACES: usize = 2 * MOST;

/// Manifests, and what is wrong with the others.
pub type Found = (Vec<Manifest>, Vec<Problems>);

/// What it takes in.
pub struct Inputs {
    /// The agent's state directory; payloads are in `payloads` below it.
    pub state: PathBuf,
    /// The cgroup below which payloads get theirs; the agent's own where it is left out.
    pub cgroup: Option<PathBuf>,
    /// What may run here.
    pub manifests: Vec<Manifest>,
    /// Reads again what may run here.
    pub load: Arc<dyn Fn() -> Found + Send + Sync>,
    /// Asked to do so.
    pub reloads: mpsc::Receiver<oneshot::Sender<Reloaded>>,
    /// What is ordered.
    pub orders: mpsc::Receiver<Order>,
    /// What everybody may know.
    pub payloads: watch::Sender<Arc<Payloads>>,
    /// What others know and do.
    pub hooks: Arc<dyn Hooks>,
    /// Spreads waits.
    pub seed: u64,
}

/// What the supervisor asks of others.
pub trait Hooks: Send + Sync {
    /// The GPUs for a payload that is about to start. Asked at a start that was ordered; a restart keeps them, and whoever gave them
    /// sees in [`Payloads`] when it has left.
    ///
    /// # Errors
    /// Why there are none.
    fn grant(&self, manifest: &Manifest) -> Result<Grant, NoGrant>;

    /// Somebody works at the rig: nothing is started by itself. Asked where a manifest is read.
    fn resting(&self) -> bool {
        false
    }

    /// What these GPUs take together, as measured now.
    fn power(&self, gpus: &[Gpu]) -> Reading<Milliwatts>;

    /// A payload was put into quarantine for its rate: nothing more is done for it here.
    fn quarantined(&self, manifest: &Manifest);

    /// The meter of a payload, told what the last one counted; `None` where there is none.
    fn meter(&self, manifest: &Manifest, counters: &[u64]) -> Option<Box<dyn Meter>>;
}

/// Why a payload does not get its GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoGrant {
    /// For people.
    pub why: String,
    /// They will not come by themselves: another attempt would fail in the same way.
    pub lasting: bool,
}

/// Measures a payload's work.
pub trait Meter: Send {
    /// What its rate counts.
    fn unit(&self) -> meter::Unit;

    /// Reads once. `None` where there was no answer; never waits for longer than its payload's interval.
    fn read(&mut self) -> Pin<Box<dyn Future<Output = Option<Sample>> + Send + '_>>;
}

/// What a meter says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Now, in thousandths of the meter's unit a second; `None` where it does not say.
    pub rate: Option<u64>,
    /// What it has counted, in its own order. Kept over restarts of payload and agent.
    pub counters: Vec<u64>,
    /// All that it says.
    pub told: Option<Arc<meter::Sample>>,
}

/// Something to do.
#[derive(Debug)]
pub struct Order {
    /// Which payload.
    pub name: String,
    /// What.
    pub what: What,
}

/// What to do. Who ordered it may have stopped listening; it is done all the same.
#[derive(Debug)]
pub enum What {
    /// The plan has given it GPUs: run it.
    Run(oneshot::Sender<Result<(), Refusal>>),
    /// The plan has others for its GPUs: end it. It stays in the plan.
    Rest(oneshot::Sender<Result<(), Refusal>>),
    /// Run it; what is planned for is in the plan again, which decides when it runs.
    Start(oneshot::Sender<Result<(), Refusal>>),
    /// End it; what is planned for is out of the plan.
    Stop(oneshot::Sender<Result<(), Refusal>>),
    /// End it and run it again.
    Restart(oneshot::Sender<Result<(), Refusal>>),
    /// End it within this time.
    Drain(Duration, oneshot::Sender<Result<(), Refusal>>),
    /// Its manifest is this one from now on.
    Manifest(Box<Manifest>),
    /// Its manifest is gone: end it, and let nobody start it.
    Removed,
    /// One more start out of quarantine: the rig was restarted for it. What was learnt of it holds.
    Again,
    /// It is held back so far from now on; said again with every change, and once more after a start of the agent.
    Hold(Hold),
    /// A person forgives it everything.
    Clear(oneshot::Sender<Result<(), Refusal>>),
    /// Read its log from this offset, or its end, and so many bytes at most.
    Log(Option<u64>, usize, oneshot::Sender<Result<Part, Refusal>>),
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No manifest has this name.
    #[error("there is no such payload")]
    Unknown,
    /// Too many orders wait.
    #[error("too many orders wait for it")]
    Busy,
    /// It must be cleared first.
    #[error("it is in quarantine")]
    Quarantined,
    /// It could not be started.
    #[error("{0}")]
    NotStarted(String),
    /// Its log could not be read.
    #[error("its log could not be read: {0}")]
    Log(String),
}

/// Every payload of the rig, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payloads(pub Vec<Status>);

/// What everybody may know of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it earns with.
    pub kind: Kind,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when, since boot.
    pub since: Duration,
    /// What last went wrong.
    pub cause: Option<Cause>,
    /// Why it was last not started, for people.
    pub error: Option<String>,
    /// In quarantine for this.
    pub held: Option<Cause>,
    /// How far it is held back for the rig's sake.
    pub hold: Hold,
    /// What keeps it from working while it is paused.
    pub paused: Option<By>,
    /// How long it may take to end.
    pub grace: Duration,
    /// Starts that nobody ordered.
    pub restarts: u32,
    /// Short runs in a row.
    pub failures: u32,
    /// Its first process.
    pub pid: Option<i32>,
    /// Started by an earlier agent.
    pub adopted: bool,
    /// What keeps it to itself.
    pub layers: Layers,
    /// Limits of its manifest that do not hold here.
    pub unlimited: Vec<&'static str>,
    /// How it last ended.
    pub exit: Option<Exit>,
    /// The GPUs it has.
    pub gpus: Vec<String>,
    /// The profile that these get while it runs.
    pub profile: Option<String>,
    /// What its rate counts; none where it has no meter.
    pub unit: Option<meter::Unit>,
    /// What its meter said last.
    pub sample: Option<Sample>,
    /// Whether that can be believed.
    pub belief: Flag,
    /// What it is expected to yield, thousandths of its unit a second; none where nobody knows.
    pub expected: Option<u64>,
    /// Its manifest is gone since the agent's start; it keeps its place in every list, and its log can be read.
    pub removed: bool,
    /// What it is planned by; none where people start and stop it.
    pub plan: Option<Arc<Terms>>,
    /// Out of the plan until somebody starts it: it was stopped by somebody, or its work is done.
    pub out: bool,
    /// How often somebody started or cleared it since the agent's start: whatever it failed at before is forgiven.
    pub forgiven: u32,
    /// What an earlier agent left of it was found. Before that nothing here counts.
    pub known: bool,
}

impl Status {
    /// A payload of this name that was never started.
    #[cfg(test)]
    pub(crate) fn of(name: &str) -> Self {
        let manifest =
            Manifest::parse("test", name, "kind = \"ai\"\nargv = [\"/bin/true\"]").map_err(|p| p.to_string());
        Self::new(&manifest.unwrap(), &State::default())
    }

    fn new(manifest: &Manifest, state: &State) -> Self {
        Self {
            name: manifest.name.clone(),
            kind: manifest.kind,
            phase: state.phase,
            since: state.since,
            cause: state.cause,
            error: None,
            held: state.held,
            hold: state.hold,
            paused: None,
            grace: manifest.stop.grace,
            restarts: state.restarts,
            failures: state.failures,
            pid: None,
            adopted: false,
            layers: Layers::default(),
            unlimited: Vec::new(),
            exit: None,
            gpus: Vec::new(),
            profile: manifest.gpus.profile.clone(),
            unit: None,
            sample: None,
            belief: Flag::Unknown,
            expected: None,
            removed: false,
            plan: None,
            out: false,
            forgiven: 0,
            known: false,
        }
    }
}

/// Runs payloads until nobody can order anything any more.
pub async fn run(inputs: Inputs) {
    let Inputs { state, cgroup, manifests, load, mut orders, mut reloads, payloads, hooks, seed } = inputs;
    let site = Arc::new(site(&state, cgroup.as_deref()));
    strangers(&site, &manifests);
    payloads.send_replace(Arc::default());
    let mut ward = Ward { site, payloads: Arc::new(payloads), hooks, seed, places: Vec::new(), tasks: JoinSet::new() };
    let mut manifests = sorted::list_by(manifests, |a, b| a.name.cmp(&b.name));
    manifests.dedup_by(|a, b| a.name == b.name);
    for manifest in manifests {
        ward.add(manifest);
    }
    let mut asked = true;
    // The manifests' disk may hang: orders, and what holds payloads back for heat or a breaker, do not wait for it.
    let mut loading: Option<(JoinHandle<Found>, oneshot::Sender<Reloaded>)> = None;
    loop {
        let free = asked && loading.is_none();
        let loaded = async {
            match &mut loading {
                Some((found, _)) => found.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order { name, what }) => ward.pass_on(&name, what),
                None => break,
            },
            found = loaded => {
                // Of no file: it is not known that any is gone.
                let found = found.unwrap_or_else(|error| (vec![], vec![Problems::one("", error.to_string())]));
                let told = ward.reload(found);
                if let Some((_, reply)) = loading.take() {
                    // Who asked may be gone; it is done all the same.
                    let _ = reply.send(told);
                }
            },
            reload = reloads.recv(), if free => match reload {
                Some(reply) => {
                    let load = Arc::clone(&load);
                    loading = Some((spawn_blocking(move || load()), reply));
                }
                None => asked = false,
            },
        }
    }
    ward.end().await;
}

/// The payloads and the ways to them.
struct Ward {
    site: Arc<Site>,
    payloads: Arc<watch::Sender<Arc<Payloads>>>,
    hooks: Arc<dyn Hooks>,
    seed: u64,
    /// In the order of [`Payloads`].
    places: Vec<Place>,
    tasks: JoinSet<()>,
}

/// One payload.
struct Place {
    manifest: Manifest,
    /// Its manifest is still there.
    there: bool,
    way: mpsc::Sender<What>,
    /// How far it is held back. Of several that were said the last one counts, so none is refused.
    hold: watch::Sender<Hold>,
}

impl Ward {
    fn add(&mut self, manifest: Manifest) {
        let (way, waiting) = mpsc::channel(WAITING);
        let index = self.places.len();
        self.payloads.send_modify(|payloads| {
            Arc::make_mut(payloads).0.push(Status::new(&manifest, &State::default()));
        });
        let random = self.seed.wrapping_add(u64::try_from(index).unwrap_or(0));
        let (site, payloads, hooks) = (Arc::clone(&self.site), Arc::clone(&self.payloads), Arc::clone(&self.hooks));
        let worker = Worker::new(index, manifest.clone(), site, payloads, hooks, random);
        let (hold, held) = watch::channel(Hold::Free);
        self.tasks.spawn(worker.run(waiting, held));
        self.places.push(Place { manifest, there: true, way, hold });
    }

    fn pass_on(&self, name: &str, what: What) {
        match self.places.iter().find(|place| place.manifest.name == name) {
            None => what.refuse(Refusal::Unknown),
            Some(place) => {
                if let What::Hold(hold) = what {
                    place.hold.send_replace(hold);
                } else if let Err(error) = place.way.try_send(what) {
                    error.into_inner().refuse(Refusal::Busy);
                }
            }
        }
    }

    fn reload(&mut self, (found, problems): Found) -> Reloaded {
        let known = self.places.iter().map(|place| (&place.manifest, place.there));
        let changes = changes(known, &found, &problems);
        let lines = problems.iter().flat_map(|problems| &problems.0).map(ToString::to_string);
        let mut told = Reloaded { problems: lines.collect(), ..Reloaded::default() };
        for change in changes {
            let (place, new) = match change {
                Change::Add(new) => {
                    if let Some(new) = found.get(new) {
                        self.add_known(new, &mut told);
                    }
                    continue;
                }
                Change::Become(place, new) => (self.places.get_mut(place), found.get(new)),
                Change::Remove(place) => (self.places.get_mut(place), None),
            };
            if let Some(place) = place {
                place.becomes(new, &mut told);
            }
        }
        told
    }

    fn add_known(&mut self, new: &Manifest, told: &mut Reloaded) {
        if self.places.len() < PLACES {
            told.added.push(new.name.clone());
            return self.add(new.clone());
        }
        let text = "there is no place for it until the agent is restarted";
        told.problems.push(format!("{}: {text}: {PLACES} payloads were known since its start", new.file));
    }

    async fn end(mut self) {
        self.places.clear();
        // Each writes down what it knows.
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Place {
    /// Another manifest, or none any more.
    fn becomes(&mut self, new: Option<&Manifest>, told: &mut Reloaded) {
        let what = new.map_or(What::Removed, |new| What::Manifest(Box::new(new.clone())));
        let name = self.manifest.name.clone();
        if self.way.try_send(what).is_err() {
            return told.problems.push(format!("{}: {}", self.manifest.file, Refusal::Busy));
        }
        let was_there = std::mem::replace(&mut self.there, new.is_some());
        match (new, was_there) {
            (None, _) => told.removed.push(name),
            (Some(_), true) => told.changed.push(name),
            (Some(_), false) => told.added.push(name),
        }
        if let Some(new) = new {
            self.manifest = new.clone();
        }
    }
}

impl What {
    fn refuse(self, refusal: Refusal) {
        // Nobody listens where the sender has gone away.
        match self {
            Self::Run(reply)
            | Self::Rest(reply)
            | Self::Start(reply)
            | Self::Stop(reply)
            | Self::Restart(reply)
            | Self::Drain(_, reply)
            | Self::Clear(reply) => {
                let _ = reply.send(Err(refusal));
            }
            Self::Log(_, _, reply) => {
                let _ = reply.send(Err(refusal));
            }
            // Nobody waits for an answer.
            Self::Manifest(_) | Self::Removed | Self::Again | Self::Hold(_) => {}
        }
    }
}

fn site(state: &Path, cgroup: Option<&Path>) -> Site {
    let root = Root::make(cgroup).map_err(|reason| {
        warn!("payloads: no cgroups, what a payload detaches from itself is not ended with it: {reason}");
    });
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Site { directory: state.join("payloads"), pipes: pipes(), root: root.ok(), boot: boot.trim().to_owned() }
}

/// For the names of pipes, in the runtime directory that systemd gives us (systemd.exec(5), RuntimeDirectory=). Other users see
/// nothing of it.
fn pipes() -> Option<PathBuf> {
    let pipes = PathBuf::from(std::env::var_os("RUNTIME_DIRECTORY")?).join("payloads");
    match make(&pipes, 0o700) {
        Ok(_) => Some(pipes),
        Err(error) => {
            warn!("payloads: {}: {error}; the pipes of logs are on the disk", pipes.display());
            None
        }
    }
}

/// What runs here and has no manifest is left alone, and told: it may be one whose file has a mistake since yesterday. What does
/// not run leaves its empty cgroup behind, which goes; one that no agent with this state directory has made is somebody else's.
fn strangers(site: &Site, manifests: &[Manifest]) {
    let groups = site.root.as_ref().map(Root::groups).unwrap_or_default();
    let names = groups.iter().filter(|name| !name.ends_with(".log"));
    for name in names.filter(|name| manifests.iter().all(|manifest| manifest.name != **name)) {
        if site.group(name).is_some_and(|group| group.populated()) {
            warn!("payload {name}: runs, and has no manifest that can be read; it is left alone");
        } else if site.home(name).exists() {
            info!("payload {name}: has no manifest any more");
            site.clear(name);
        }
    }
}
