//! Carries out what was ordered: each order is an arm of [`Actor::act`], and ends in a setpoint or at the owner of the thing.
//!
//! Nothing here writes to a chip or a driver: control and the GPU thread do, inside their own limits.

mod follow;

use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::arbiter::view::View;
use crate::board::Board;
use crate::clock;
use crate::control::step::power;
use crate::gpu::{Gpu, Phase};
use crate::payload::supervisor::{self, Payloads, Reloaded, What};
use crate::reading::{Health, Missing, Snapshot};
use crate::setpoint::{Desk, Impossible, Maintenance, Source};
use crate::wire::{AckState, LONGEST_TEXT, MOST_LINES, Order, Outcome, PayloadAct, PowerCap, Refusal};
pub use follow::Follow;

/// A profile is applied and read back within this, or the command says that it was not.
const APPLIED: Duration = Duration::from_secs(45);
/// Manifests are small, and a disk that hangs answers nobody; they are taken in when it does.
const RELOADED: Duration = Duration::from_secs(60);
/// What a drain by command may take; the payload's own grace is added by its supervisor.
const DRAIN: Duration = Duration::from_secs(1_800);
/// What the longest order may take; the next one of the same kind waits that long at most.
const LONGEST: Duration = Duration::from_secs(2_100);
/// Bytes of a log that so many lines are cut from.
const LOG_BYTES: usize = 32 * 1024;

/// What it takes to carry orders out.
#[derive(Clone)]
pub struct Actor {
    /// What names mean on this rig.
    pub board: Arc<Board>,
    /// What control aims at.
    pub setpoints: Desk,
    /// The rig in each tick.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The payloads as they are now.
    pub payloads: watch::Receiver<Arc<Payloads>>,
    /// What the arbiter has decided.
    pub plan: watch::Receiver<Arc<View>>,
    /// The way to payloads.
    pub orders: mpsc::Sender<supervisor::Order>,
    /// The way to have the payloads' manifests read again.
    pub reloads: mpsc::Sender<oneshot::Sender<Reloaded>>,
    /// The way to have the rig restarted.
    pub reboots: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
    /// The way of a followed log to the link.
    pub follow: Follow,
    /// The way out; one order is enough, more are dropped.
    pub end: mpsc::Sender<()>,
    /// The rig's clock is right, whatever the kernel says.
    pub trust_clock: bool,
}

/// How an order ended that did not work.
enum Failure {
    /// It was not tried.
    Refused(String),
    /// It was tried.
    Failed(String),
}

impl From<Impossible> for Failure {
    fn from(impossible: Impossible) -> Self {
        Self::Refused(impossible.0)
    }
}

type Done = Result<Outcome, Failure>;

fn ended(done: Done) -> AckState {
    match done {
        Ok(outcome) => AckState::Done(outcome),
        Err(Failure::Refused(why)) => AckState::Refused(Refusal::Policy(why)),
        Err(Failure::Failed(why)) => AckState::Failed(why),
    }
}

impl Actor {
    /// Carries an order out, and says how it ended. Takes as long as that takes, at most 35 minutes.
    pub async fn act(&self, order: &Order, by: Source) -> AckState {
        match timeout(LONGEST, self.try_to(order, by)).await {
            Ok(done) => ended(done),
            Err(_) => AckState::Failed("not done in time".to_owned()),
        }
    }

    /// Holds these caps in the name of the desired state, and none that it had before. Says how that ended.
    pub async fn hold_caps(&self, caps: &[PowerCap]) -> AckState {
        ended(self.caps(caps, Source::Desired).await)
    }

    async fn try_to(&self, order: &Order, by: Source) -> Done {
        match order {
            Order::SetProfile { gpu, profile } => self.profile(gpu.as_deref(), profile.as_deref()).await,
            Order::SetPowerCap(cap) => self.caps(cap.as_slice(), by).await,
            Order::SetFanTarget { zone, target_mc } => {
                self.setpoints.set_target(zone, target_mc.map(|target| target.0))?;
                self.kept().await
            }
            Order::Payload { name, act } => self.payload(name, *act).await,
            Order::Assign { payload, gpus } => self.assign(payload, gpus).await,
            Order::Identify { seconds } => {
                self.setpoints.identify(clock::now(), Duration::from_secs((*seconds).into()));
                Ok(Outcome::Nothing)
            }
            Order::Probe => Ok(Outcome::Lines(survey(&self.board, &self.snapshot.borrow()))),
            Order::Logs { payload, lines } => self.logs(payload, usize::from(*lines)).await,
            Order::FollowLogs { payload, seconds } => self.follow(payload, *seconds).await,
            // Said by the publisher with the answer.
            Order::Snapshot => Ok(Outcome::Nothing),
            Order::Reload => self.reload().await,
            // Whoever gives the answer ends it after that, by [`end`](Self::end).
            Order::RestartAgent => Ok(Outcome::Nothing),
            Order::Reboot => self.reboot().await,
            // Trust is the inbox's own.
            Order::RotateKey { .. } => Err(Failure::Failed("nobody took the key".to_owned())),
            Order::Maintenance { on: true, until_ms } => self.begin_maintenance(*until_ms, by).await,
            Order::Maintenance { on: false, .. } => self.end_maintenance().await,
        }
    }

    /// Ends the agent. A second time finds the first on its way.
    pub fn end(&self) {
        let _ = self.end.try_send(());
    }

    /// Ends a maintenance whose time has come. To be asked now and then.
    pub async fn maintenance_over(&self, unix_ms: u64) {
        let over = |maintenance: &Maintenance| maintenance.until_ms.is_some_and(|until| unix_ms >= until);
        if self.setpoints.now().maintenance().is_some_and(over) {
            info!("the maintenance is over");
            let _ = self.end_maintenance().await;
        }
    }

    /// Sets or lifts caps. Done is: it is taken, and kept for the next start. How far the rig is with it is in its telemetry,
    /// for a ramp or a deadline may take hours, and what cannot be held by limits alone is alarmed.
    async fn caps(&self, caps: &[PowerCap], by: Source) -> Done {
        let source = match by {
            Source::Command => power::Source::Command,
            // What a whole site is told is what its feed, or the grid behind it, has to give.
            Source::Site => power::Source::Grid,
            Source::Desired => power::Source::Schedule,
        };
        let unix_ms = if self.trust_clock { Some(clock::unix_ms()) } else { clock::synced_unix_ms() };
        self.setpoints.set_caps(source, caps, clock::now(), unix_ms)?;
        self.kept().await
    }

    /// Forgets caps that are over, and takes those anew that nobody knew the time for. To be asked now and then.
    pub async fn look_at_caps(&self, unix_ms: u64) {
        if self.setpoints.look_at_caps(clock::now(), unix_ms) {
            info!("a power cap is over");
            let _ = self.kept().await;
        }
    }

    async fn profile(&self, gpu: Option<&str>, profile: Option<&str>) -> Done {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        self.setpoints.set_profile(gpu, profile, &snapshot)?;
        self.kept().await?;
        let Some(name) = profile else { return Ok(Outcome::Nothing) };
        let mut snapshots = self.snapshot.clone();
        let settled = async {
            loop {
                let state = settled(&snapshots.borrow_and_update().gpus.gpus, gpu, name);
                if let Some(state) = state {
                    return state;
                }
                if snapshots.changed().await.is_err() {
                    return Err("the agent is stopping".to_owned());
                }
            }
        };
        match timeout(APPLIED, settled).await {
            Ok(Ok(text)) => Ok(Outcome::Text(text)),
            Ok(Err(why)) => Err(Failure::Failed(why)),
            Err(_) => Err(Failure::Failed(format!("not applied within {} s; it stays asked for", APPLIED.as_secs()))),
        }
    }

    async fn payload(&self, name: &str, act: PayloadAct) -> Done {
        if let (Some(_), PayloadAct::Start | PayloadAct::Restart) = (self.setpoints.now().maintenance(), act) {
            return Err(Failure::Refused("somebody works at the rig: its payloads rest".to_owned()));
        }
        self.ask(name, |reply| match act {
            PayloadAct::Start => What::Start(reply),
            PayloadAct::Stop => What::Stop(reply),
            PayloadAct::Restart => What::Restart(reply),
            PayloadAct::Drain => What::Drain(DRAIN, reply),
        })
        .await
        .map(|()| Outcome::Nothing)
    }

    async fn assign(&self, payload: &str, gpus: &[String]) -> Done {
        let status = |payloads: &Payloads| payloads.0.iter().find(|status| status.name == payload).map(|now| now.phase);
        let Some(phase) = status(&self.payloads.borrow()) else {
            return Err(Failure::Refused(format!("{payload}: {}", supervisor::Refusal::Unknown)));
        };
        let snapshot = Arc::clone(&self.snapshot.borrow());
        self.setpoints.assign(payload, gpus, &snapshot)?;
        self.kept().await?;
        if !phase.is_at_rest() {
            self.ask(payload, What::Restart).await?;
        }
        Ok(Outcome::Nothing)
    }

    async fn logs(&self, payload: &str, lines: usize) -> Done {
        let part = self.ask(payload, |reply| What::Log(None, LOG_BYTES, reply)).await?;
        Ok(Outcome::Lines(last_lines(&part.text, lines.min(MOST_LINES))))
    }

    async fn begin_maintenance(&self, until_ms: Option<u64>, by: Source) -> Done {
        let running = |payloads: &Payloads| {
            let running = payloads.0.iter().filter(|status| !status.phase.is_at_rest());
            running.map(|status| status.name.clone()).collect::<Vec<_>>()
        };
        let mut resume = running(&self.payloads.borrow());
        let leaving = resume.clone();
        if let Some(before) = self.setpoints.now().maintenance() {
            // Said twice: what ran before the first one is what runs again.
            resume.extend(before.resume.iter().filter(|name| !leaving.contains(name)).cloned());
        }
        let desired = by == Source::Desired;
        self.setpoints.set_maintenance(Some(Maintenance { until_ms, resume, desired }));
        self.kept().await?;
        if self.setpoints.now().maintenance().is_none() {
            // Its end found nothing to start again yet.
            return Err(Failure::Refused("it was ended before it began".to_owned()));
        }
        // All at once, and each waited for.
        let (names, mut waiting) = (leaving.clone(), Vec::new());
        for name in leaving {
            let (reply, done) = oneshot::channel();
            self.order(supervisor::Order { name, what: What::Drain(DRAIN, reply) })?;
            waiting.push(done);
        }
        for (name, done) in names.iter().zip(waiting) {
            answered(name, done.await)?;
        }
        Ok(Outcome::Text(format!("{} payloads rest", names.len())))
    }

    async fn end_maintenance(&self) -> Done {
        let Some(before) = self.setpoints.set_maintenance(None) else { return Ok(Outcome::Nothing) };
        self.kept().await?;
        let mut refused = Vec::new();
        for name in &before.resume {
            if let Err(Failure::Refused(why) | Failure::Failed(why)) = self.ask(name, What::Start).await {
                refused.push(why);
            }
        }
        if refused.is_empty() { Ok(Outcome::Nothing) } else { Err(Failure::Failed(refused.join("; "))) }
    }

    async fn reload(&self) -> Done {
        let (reply, done) = oneshot::channel();
        self.reloads
            .try_send(reply)
            .map_err(|_| Failure::Refused("manifests are being read again already; try again".to_owned()))?;
        let done = timeout(RELOADED, done)
            .await
            .map_err(|_| Failure::Failed("the manifests' disk does not answer".to_owned()))?;
        let Reloaded { added, changed, removed, problems } = done.map_err(|_| stopping())?;
        let told = |what: &str, names: &[String]| names.iter().map(|name| format!("{what} {name}")).collect::<Vec<_>>();
        let lines = [told("added", &added), told("changed", &changed), told("removed", &removed)].concat();
        if problems.is_empty() {
            Ok(Outcome::Lines(lines.into_iter().take(MOST_LINES).collect()))
        } else {
            let mut text = [problems, lines].concat().join("; ");
            text.truncate(text.floor_char_boundary(LONGEST_TEXT));
            Err(Failure::Failed(text))
        }
    }

    async fn reboot(&self) -> Done {
        let (reply, done) = oneshot::channel();
        self.reboots.try_send(reply).map_err(|_| Failure::Refused("a reboot is on its way already".to_owned()))?;
        done.await.map_err(|_| stopping())?.map_err(Failure::Refused)?;
        Ok(Outcome::Nothing)
    }

    /// What is asked for survives the next start.
    async fn kept(&self) -> Done {
        let desk = self.setpoints.clone();
        match spawn_blocking(move || desk.save()).await {
            Ok(Ok(())) => Ok(Outcome::Nothing),
            Ok(Err(error)) => {
                warn!("what was asked for holds until the next start only: {error}");
                Ok(Outcome::Text(format!("holds until the next start only: {error}")))
            }
            Err(_) => Err(stopping()),
        }
    }

    fn order(&self, order: supervisor::Order) -> Result<(), Failure> {
        self.orders.try_send(order).map_err(|_| Failure::Refused("payloads take no order now; try again".to_owned()))
    }

    async fn ask<T>(
        &self,
        name: &str,
        what: impl FnOnce(oneshot::Sender<Result<T, supervisor::Refusal>>) -> What,
    ) -> Result<T, Failure> {
        let (reply, done) = oneshot::channel();
        self.order(supervisor::Order { name: name.to_owned(), what: what(reply) })?;
        answered(name, done.await)
    }
}

fn stopping() -> Failure {
    Failure::Failed("the agent is stopping".to_owned())
}

fn answered<T>(
    name: &str,
    done: Result<Result<T, supervisor::Refusal>, oneshot::error::RecvError>,
) -> Result<T, Failure> {
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(refusal @ (supervisor::Refusal::NotStarted(_) | supervisor::Refusal::Log(_)))) => {
            Err(Failure::Failed(format!("{name}: {refusal}")))
        }
        Ok(Err(refusal)) => Err(Failure::Refused(format!("{name}: {refusal}"))),
        Err(_) => Err(Failure::Failed(format!("{name}: the agent is stopping"))),
    }
}

/// Whether the profile is in force on the GPU that it was asked for, or on all; none while that is not known yet.
fn settled(gpus: &[Gpu], uuid: Option<&str>, name: &str) -> Option<Result<String, String>> {
    let meant = gpus.iter().filter(|gpu| {
        let own = gpu.device.as_ref().map(|device| device.uuid.as_str());
        uuid.is_none_or(|uuid| own == Some(uuid))
    });
    let wanted = (name != crate::gpu::config::NONE).then_some(name);
    let mut on = 0;
    for gpu in meant {
        let now = gpu.profile.name.as_deref();
        match gpu.profile.phase {
            Phase::Probation | Phase::Committed if now == wanted => on += 1,
            Phase::Default if now.is_none() && wanted.is_none() => on += 1,
            Phase::RollingBack => return Some(Err(format!("GPU {}: did not hold, and is taken back", gpu.pci))),
            Phase::Default | Phase::Applying | Phase::Probation | Phase::Committed => return None,
        }
    }
    Some(Ok(format!("read back on {on} GPUs")))
}

/// Which chips and GPUs answer, a line each.
fn survey(board: &Board, snapshot: &Snapshot) -> Vec<String> {
    let told = |health: &Health| match health {
        Health::Unknown => "not asked yet".to_owned(),
        Health::Ok => "answers".to_owned(),
        Health::ThroughKernel => "answers through its kernel driver".to_owned(),
        Health::Failed(why) => why.to_string(),
    };
    let health = snapshot.chips.iter().map(|(health, _)| told(health));
    let chips =
        board.chips().zip(health).map(|((bus, chip), health)| format!("{} on {}: {health}", chip.refdes, bus.name));
    let gpus = snapshot.gpus.gpus.iter().map(|gpu| {
        let temperature = gpu.temperature().map_err(|missing: Missing| missing.to_string());
        let shown = temperature.map_or_else(|why| why, |celsius| format!("{} °C", celsius.0 / 1000));
        format!("GPU {}: {}, {shown}", gpu.pci, gpu.presence)
    });
    chips.chain(gpus).take(MOST_LINES).collect()
}

/// The last lines, as many as fit into an answer.
fn last_lines(text: &str, lines: usize) -> Vec<String> {
    let mut room = LONGEST_TEXT;
    let mut last: Vec<String> = Vec::new();
    for line in text.lines().rev().take(lines) {
        if line.len() > room {
            break;
        }
        room -= line.len();
        last.push(line.to_owned());
    }
    last.reverse();
    last
}

#[cfg(test)]
mod tests;
