//! The rig while it is tuned: looks at it, tries limits on it, and leaves it as it was.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use rigd::clock;
use rigd::gpu::{Limits, Phase};
use rigd::local::{Get, Gpu, Payload, Reply, Request};
use rigd::units::Milliwatts;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::window::{Look, Measured, Normal, Rules, Step, Trouble, Watch};
use crate::agent::{Agent, unexpected};

/// The agent takes limits back after so long without word of us, s: a few looks.
const LEASE: u32 = 15;
/// More than any card.
const UNLIMITED: Milliwatts = Milliwatts(2_000_000);
/// Between two looks.
const LONGEST: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(200);
/// An agent that is restarted is back before that: it has forgotten the limits, and is told them again.
const AWAY: Duration = Duration::from_secs(10);

/// Why a search ends before its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// A person said so.
    Interrupted,
    /// Nothing more can be measured.
    Over(String),
}

/// The payload and its GPUs.
pub(super) struct Rig {
    socket: PathBuf,
    payload: String,
    /// All of the payload's, by UUID.
    gpus: Vec<String>,
    /// Those that limits are tried on.
    pub(super) varied: Vec<String>,
    /// What is tried on them.
    limits: Limits,
    /// Holds nothing back, and keeps others from trying: no card takes more.
    free: Limits,
    rules: Rules,
    pause: Pause,
    started: Instant,
}

impl Rig {
    /// Finds the payload and its GPUs; `only` is the UUID of one that alone is varied.
    pub(super) fn find(
        socket: PathBuf,
        name: &str,
        only: Option<&str>,
        rules: Rules,
    ) -> anyhow::Result<(Self, Payload)> {
        let pause = Pause::new()?;
        let mut rig = Self {
            socket,
            payload: name.to_owned(),
            gpus: Vec::new(),
            varied: Vec::new(),
            limits: Limits::default(),
            free: Limits { power: Some(UNLIMITED), ..Limits::default() },
            rules,
            pause,
            started: clock::now(),
        };
        let payload = rig.payload()?;
        ensure!(!payload.gpus.is_empty(), "payload {name} has no GPUs now: it must run to be tuned");
        ensure!(payload.now.rate.0.is_ok(), "payload {name} does not tell its rate: it needs a meter that answers");
        rig.gpus.clone_from(&payload.gpus);
        rig.varied = match only {
            None => payload.gpus.clone(),
            Some(uuid) if payload.gpus.iter().any(|gpu| gpu == uuid) => vec![uuid.to_owned()],
            Some(uuid) => bail!("payload {name} has no GPU {uuid}, only: {}", payload.gpus.join(", ")),
        };
        let varied = rig.varied()?;
        // An Xid while it is on probation would be taken for its fault.
        if let Some(gpu) = varied.iter().find(|gpu| !matches!(gpu.now.profile, Phase::Default | Phase::Committed)) {
            bail!("the profile of GPU {} is {}: tune it when that is over", gpu.info.uuid, gpu.now.profile);
        }
        rig.free.power = varied.iter().filter_map(|gpu| gpu.info.max_limit_mw).max().or(rig.free.power);
        // One whose search is under way is not disturbed: the agent refuses.
        rig.limits = rig.free;
        rig.try_limits(rig.free)?;
        Ok((rig, payload))
    }

    /// Since the search began, ms.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(clock::now().saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    fn payload(&self) -> anyhow::Result<Payload> {
        let mut agent = Agent::ask(&self.socket, &Request::Get(Get::Payloads), None)?;
        let Reply::Payloads(count) = agent.reply()? else { return Err(unexpected()) };
        let mut known = Vec::new();
        for _ in 0..count {
            let Reply::Payload(payload) = agent.reply()? else { return Err(unexpected()) };
            if payload.info.name == self.payload {
                return Ok(*payload);
            }
            known.push(payload.info.name);
        }
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        bail!("there is no payload `{}`; there are: {known}", self.payload)
    }

    /// The payload's GPUs; fewer where some are gone.
    fn gpus(&self) -> anyhow::Result<Vec<Gpu>> {
        let mut agent = Agent::ask(&self.socket, &Request::Get(Get::Gpus), None)?;
        let Reply::Gpus(gpus) = agent.reply()? else { return Err(unexpected()) };
        let mut found = Vec::new();
        for _ in 0..gpus.count {
            let Reply::Gpu(gpu) = agent.reply()? else { return Err(unexpected()) };
            if self.gpus.contains(&gpu.info.uuid) {
                found.push(*gpu);
            }
        }
        Ok(found)
    }

    /// Those that limits are tried on.
    pub(super) fn varied(&self) -> anyhow::Result<Vec<Gpu>> {
        let gpus = self.gpus()?;
        Ok(gpus.into_iter().filter(|gpu| self.varied.contains(&gpu.info.uuid)).collect())
    }

    fn look(&self) -> anyhow::Result<Look> {
        let (payload, gpus) = (self.payload()?, self.gpus()?);
        let all = gpus.len() == self.gpus.len() && self.gpus.iter().all(|gpu| payload.gpus.contains(gpu));
        let look = Look::new(&payload, &gpus, &self.varied);
        // While it is started again it has none.
        Ok(Look { runs: look.runs && all, there: look.there && gpus.len() == self.gpus.len(), ..look })
    }

    /// Asks for the limits, or for as much longer; none ends them.
    fn try_limits(&self, limits: Limits) -> anyhow::Result<()> {
        for gpu in &self.varied {
            let Limits { power, clock, memory } = limits;
            let gpu = gpu.clone();
            let request = Request::Trial { gpu, power_mw: power, core_mhz: clock, memory_mhz: memory, seconds: LEASE };
            let Reply::Done = Agent::ask(&self.socket, &request, None)?.reply()? else { return Err(unexpected()) };
        }
        Ok(())
    }

    /// Limits and a look in one; waits for an agent that is just restarted.
    fn turn(&mut self) -> Result<Look, Ended> {
        let since = clock::now();
        loop {
            match self.try_limits(self.limits).and_then(|()| self.look()) {
                Ok(look) => return Ok(look),
                Err(error) if clock::now().saturating_duration_since(since) >= AWAY => {
                    return Err(Ended::Over(format!("{error:#}")));
                }
                Err(_) => self.wait(LONGEST)?,
            }
        }
    }

    /// What comes of these limits.
    pub(super) fn measure(
        &mut self,
        limits: Limits,
        normal: Normal,
        told: &mut dyn FnMut(&'static str),
    ) -> Result<Result<Measured, Trouble>, Ended> {
        let before = self.turn()?;
        self.limits = if limits == Limits::default() { self.free } else { limits };
        let mut watch = Watch::new(self.rules, limits, normal, before, self.now());
        loop {
            let look = self.turn()?;
            match watch.step(self.now(), &look) {
                Step::Settling => told("settling"),
                Step::Measuring => told("measuring"),
                Step::Silent => told("waiting for its meter"),
                Step::Came(came) => return Ok(came),
                Step::Over(why) => return Err(Ended::Over(why.to_owned())),
            }
            self.wait(self.between())?;
        }
    }

    /// After trouble: as it was, until it has worked again for as long as it takes to settle. What is started anew for an Xid
    /// is still seen to run at first.
    pub(super) fn recover(&mut self, told: &mut dyn FnMut(&'static str)) -> Result<(), Ended> {
        self.limits = self.free;
        let since = self.now();
        let mut calm = None;
        loop {
            let look = self.turn()?;
            let now = self.now();
            calm = look.is_calm().then(|| calm.unwrap_or(now));
            if calm.is_some_and(|calm| now.saturating_sub(calm) >= self.rules.settle) {
                return Ok(());
            }
            // A start with all its warming up takes longer than a meter's silence.
            if now.saturating_sub(since) >= self.rules.patience * 5 / 2 {
                return Err(Ended::Over("it does not work again after the last trouble".to_owned()));
            }
            told("waiting until it works again");
            self.wait(self.between())?;
        }
    }

    /// Between two looks.
    fn between(&self) -> Duration {
        Duration::from_millis(self.rules.measure / 10).clamp(SHORTEST, LONGEST)
    }

    fn wait(&mut self, time: Duration) -> Result<(), Ended> {
        if self.pause.is_interrupted(time) { Err(Ended::Interrupted) } else { Ok(()) }
    }

    /// Leaves the GPUs as they were.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.limits) != Limits::default() {
            // An agent that does not hear of it ends them within seconds by itself.
            let _ = self.try_limits(Limits::default());
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits, unless a person ends it.
struct Pause {
    runtime: Runtime,
    signals: [Signal; 3],
}

impl Pause {
    fn new() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        let signals = [interrupt?, terminate?, hangup?];
        drop(inside);
        Ok(Self { runtime, signals })
    }

    fn is_interrupted(&mut self, time: Duration) -> bool {
        let Self { runtime, signals: [interrupt, terminate, hangup] } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                _ = hangup.recv() => true,
                () = tokio::time::sleep(time) => false,
            }
        })
    }
}
