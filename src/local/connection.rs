//! One client: reads a line, answers it, reads the next. Each in a bounded time and a bounded memory.

use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use log::{debug, info};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::protocol::{
    Calibration, Energy, EnergyAccount, Get, Gpu, Gpus, Head, MAX_RELEASE, MAX_REQUEST, MAX_TRIAL, Payload,
    PayloadOrder, PowerHeld, Reply, Request, Series,
};
use super::{Peer, Rig, Shared, uptime_ms};
use crate::audit::Who;
use crate::clock;
use crate::control::step::{self, Report};
use crate::gpu::{Command, Limits};
use crate::history::series;
use crate::payload::LOG_MOST;
use crate::payload::supervisor::{Order, Refusal, What};

/// The GPU thread gives everything back within 20 s and lets the helper go within 14; it may be in the middle of a call.
const GPU_ANSWER: Duration = Duration::from_secs(45);
const NO_ANSWER: &str =
    "the GPUs' driver keeps the agent waiting; what was asked may still be done: see `rigd-ctl gpu list`";
/// A payload's order is written to the disk before it is answered, and manifests are read from it.
const PAYLOAD_ANSWER: Duration = Duration::from_secs(30);
const PAYLOADS_WAIT: &str = "no answer in 30 s; what was asked may still be done: see `rigd-ctl ps`";

/// A client that was let in.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
    rig: Rig,
    shared: Shared,
    deadline: Duration,
    /// What came and is no whole line yet; never more than [`MAX_REQUEST`].
    received: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, peer: Peer, (rig, shared): (Rig, Shared), deadline: Duration) -> Self {
        Self { stream, peer, rig, shared, deadline, received: Vec::new() }
    }

    /// Answers until the client leaves or is too slow.
    pub(super) async fn run(mut self) {
        while let Ok(Some(line)) = timeout(self.deadline, self.line()).await.unwrap_or(Ok(None)) {
            // Every request is an arm here.
            let answered = match serde_json::from_slice(&line) {
                Ok(Request::Get(Get::History)) => self.in_time(Self::history).await,
                Ok(Request::Get(Get::Gpus)) => self.in_time(Self::gpus).await,
                Ok(Request::Get(Get::Payloads)) => self.in_time(Self::payloads).await,
                Ok(Request::Get(Get::Energy)) => self.in_time(Self::energy).await,
                Ok(Request::Get(Get::Plan)) => {
                    let view = Arc::clone(&self.rig.plan.borrow());
                    self.say(&Reply::Plan(Box::new(view.as_ref().clone()))).await
                }
                Ok(Request::Get(Get::Power)) => self.in_time(Self::power).await,
                Ok(Request::Payload { name, order }) => self.order(name, order).await,
                Ok(Request::Reload) => self.reload().await,
                Ok(Request::Log { name, from, bytes }) => self.log(name, from, bytes).await,
                Ok(Request::GpuClear { gpu, profile }) => self.clear(&gpu, profile).await,
                Ok(Request::GpuRelease { seconds }) => self.release(seconds).await,
                Ok(Request::Trial { gpu, power_mw, core_mhz, memory_mhz, seconds }) => {
                    let limits = Limits { power: power_mw, clock: core_mhz, memory: memory_mhz };
                    self.trial(&gpu, limits, seconds).await
                }
                // Takes minutes; each of its lines is in time by itself.
                Ok(Request::Calibrate { zone }) => self.calibrate(&zone).await,
                Err(error) => self.refused(&format!("not understood: {error}")).await,
            };
            if answered.is_err() {
                return debug!("local: {}: left before its answer, or took too long over it", self.peer);
            }
        }
    }

    /// An answer that must be taken before the deadline.
    async fn in_time(&mut self, answer: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        timeout(self.deadline, answer(self)).await?
    }

    async fn refused(&mut self, why: &str) -> Result<()> {
        self.say(&Reply::Error(why.to_owned())).await
    }

    /// Says why, where it can be said without waiting, and ends.
    pub(super) fn refuse(self, why: &str) {
        // Who is gone already needs no reason.
        let _ = self.stream.try_write(&bytes(&Reply::Error(why.to_owned())));
    }

    /// The next line; none where the client has left. What it sent last needs no newline.
    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.received, rest)));
            }
            if self.received.len() >= MAX_REQUEST {
                self.send(&Reply::Error(format!("a request has at most {MAX_REQUEST} bytes"))).await?;
                return Err(Error::from(ErrorKind::InvalidData));
            }
            let room = u64::try_from(MAX_REQUEST - self.received.len()).unwrap_or(0);
            if (&mut self.stream).take(room).read_buf(&mut self.received).await? == 0 {
                let last = std::mem::take(&mut self.received);
                return Ok(Some(last).filter(|last| !last.is_empty()));
            }
        }
    }

    async fn gpus(&mut self) -> Result<()> {
        let snapshot = Arc::clone(&self.rig.snapshot.borrow());
        let (gpus, count) = (&snapshot.gpus, snapshot.gpus.gpus.len());
        let version = gpus.versions.as_ref().map(|versions| versions.driver.clone());
        self.send(&Reply::Gpus(Gpus { driver: gpus.driver, version, count })).await?;
        for gpu in (0..count).filter_map(|index| Gpu::new(index, &snapshot)) {
            self.send(&Reply::Gpu(Box::new(gpu))).await?;
        }
        Ok(())
    }

    async fn power(&mut self) -> Result<()> {
        let held = PowerHeld::new(&self.rig.snapshot.borrow());
        self.send(&Reply::Power(Box::new(held))).await
    }

    async fn payloads(&mut self) -> Result<()> {
        let payloads = Arc::clone(&self.rig.payloads.borrow());
        let now = clock::since_boot();
        self.send(&Reply::Payloads(payloads.0.len())).await?;
        for status in &payloads.0 {
            self.send(&Reply::Payload(Box::new(Payload::new(status, now)))).await?;
        }
        Ok(())
    }

    async fn energy(&mut self) -> Result<()> {
        let (kept, payloads) = (Arc::clone(&self.rig.energy.borrow()), Arc::clone(&self.rig.payloads.borrow()));
        let accounts = EnergyAccount::all(&kept.books, &payloads);
        self.send(&Reply::Energy(Energy::new(&kept, self.rig.receipt_key, accounts.len()))).await?;
        for account in accounts {
            self.send(&Reply::EnergyAccount(account)).await?;
        }
        Ok(())
    }

    /// What somebody on the rig has done goes where what is done from afar goes.
    fn note(&self, what: String) {
        info!("local: {}: {what}", self.peer);
        self.rig.audit.note(Who::Local { uid: self.peer.uid }, what, "asked for");
    }

    /// Hands an order to the supervisor. It is carried out whether or not the client waits for it.
    async fn order(&mut self, name: String, order: PayloadOrder) -> Result<()> {
        self.note(format!("payload {name}: {order:?}"));
        let (reply, done) = oneshot::channel();
        let what = match order {
            PayloadOrder::Start => What::Start(reply),
            PayloadOrder::Stop => What::Stop(reply),
            PayloadOrder::Restart => What::Restart(reply),
            PayloadOrder::Drain(seconds) => What::Drain(Duration::from_secs(seconds.into()), reply),
            PayloadOrder::Clear => What::Clear(reply),
        };
        match self.asked(Order { name, what }, done).await {
            Ok(()) => self.in_time(async |this: &mut Self| this.send(&Reply::Done).await).await,
            Err(why) => self.refused(&why).await,
        }
    }

    async fn reload(&mut self) -> Result<()> {
        self.note("has the payloads' manifests read again".to_owned());
        let (reply, done) = oneshot::channel();
        if self.rig.reloads.try_send(reply).is_err() {
            return self.refused("manifests are being read again already; try again").await;
        }
        match timeout(PAYLOAD_ANSWER, done).await {
            Ok(Ok(reloaded)) => self.say(&Reply::Reloaded(reloaded)).await,
            Ok(Err(_)) => self.refused("the agent is stopping").await,
            Err(_) => self.refused(PAYLOADS_WAIT).await,
        }
    }

    async fn log(&mut self, name: String, from: Option<u64>, bytes: usize) -> Result<()> {
        let (reply, read) = oneshot::channel();
        match self.asked(Order { name, what: What::Log(from, bytes.min(LOG_MOST), reply) }, read).await {
            Ok(part) => self.in_time(async |this: &mut Self| this.send(&Reply::Log(part)).await).await,
            Err(why) => self.refused(&why).await,
        }
    }

    /// What came of an order, or why nothing did.
    async fn asked<T>(
        &self,
        order: Order,
        done: oneshot::Receiver<std::result::Result<T, Refusal>>,
    ) -> std::result::Result<T, String> {
        let name = order.name.clone();
        self.rig.orders.try_send(order).map_err(|_| "payloads take no order now; try again".to_owned())?;
        match timeout(PAYLOAD_ANSWER, done).await {
            Ok(Ok(done)) => done.map_err(|refusal| format!("{name}: {refusal}")),
            Ok(Err(_)) => Err(format!("{name}: the agent is stopping")),
            Err(_) => Err(format!("{name}: {PAYLOADS_WAIT}")),
        }
    }

    async fn clear(&mut self, gpu: &str, profile: Option<String>) -> Result<()> {
        let Ok(pci) = gpu.parse() else {
            return self.refused(&format!("`{gpu}` is no PCI address")).await;
        };
        self.note(format!("clears the quarantine of GPU {gpu}"));
        match self.command(|answer| Command::Clear { pci, profile, answer }).await {
            Some(Some(cleared)) => self.say(&Reply::GpuCleared(cleared)).await,
            Some(None) => self.refused(&format!("the driver has not told of any GPU {gpu} yet")).await,
            None => self.refused(NO_ANSWER).await,
        }
    }

    async fn release(&mut self, seconds: u32) -> Result<()> {
        if seconds > MAX_RELEASE {
            return self.refused(&format!("at most {MAX_RELEASE} s")).await;
        }
        self.note(format!("lets go of the GPUs' driver for {seconds} s"));
        let time = Duration::from_secs(seconds.into());
        match self.command(|answer| Command::Release { time, answer }).await {
            Some(released) => self.say(&Reply::GpuReleased(released)).await,
            None => self.refused(NO_ANSWER).await,
        }
    }

    /// Tries limits on a GPU for a time, or ends that. Asked for again every second or so, it is noted where it changes.
    async fn trial(&mut self, uuid: &str, limits: Limits, seconds: u32) -> Result<()> {
        if seconds > MAX_TRIAL {
            return self.refused(&format!("at most {MAX_TRIAL} s")).await;
        }
        let now = clock::now();
        let until = now + Duration::from_secs(seconds.into());
        let ends = limits == Limits::default();
        let other = {
            let mut trying = self.shared.trying.lock().unwrap_or_else(PoisonError::into_inner);
            let other = trying.filter(|(pid, until)| *pid != self.peer.pid && now < *until);
            if ends || other.is_none() {
                *trying = (!ends).then_some((self.peer.pid, until));
            }
            other.filter(|_| !ends)
        };
        if other.is_some() {
            return self.refused("somebody else tries limits now; one at a time").await;
        }
        let snapshot = Arc::clone(&self.rig.snapshot.borrow());
        let before = self.rig.setpoints.now().trial(uuid, now);
        if let Err(why) = self.rig.setpoints.set_trial(uuid, limits, until, &snapshot) {
            return self.refused(&why.to_string()).await;
        }
        if before != limits {
            let clocks = [limits.clock, limits.memory].map(|clock| clock.map(|clock| clock.to_string()));
            let [core, memory] = clocks.map(|clock| clock.unwrap_or_else(|| "as it is".to_owned()));
            let power = limits.power.map_or_else(|| "as it is".to_owned(), |power| power.to_string());
            self.note(format!("tries GPU {uuid}: power {power}, core clock {core}, memory clock {memory}"));
        }
        self.say(&Reply::Done).await
    }

    /// Asks the GPU thread; none where it takes no command or is too busy with the driver to answer.
    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        if !self.rig.gpus.ask(command(answer)) {
            return None;
        }
        timeout(GPU_ANSWER, answered).await.ok()?.ok()
    }

    /// One reply that must be taken before the deadline.
    async fn say(&mut self, reply: &Reply) -> Result<()> {
        self.in_time(async |this: &mut Self| this.send(reply).await).await
    }

    /// Hands the request to control and passes on what control tells, until it has ended or the client has left.
    async fn calibrate(&mut self, zone: &str) -> Result<()> {
        let board = Arc::clone(&self.rig.board);
        let Some((index, found)) = board.zones.iter().enumerate().find(|(_, known)| known.name == zone) else {
            let known: Vec<&str> = board.zones.iter().map(|zone| zone.name.as_str()).collect();
            return self.refused(&format!("there is no zone `{zone}`, only: {}", known.join(", "))).await;
        };
        let calibrating = Arc::clone(&self.shared.calibrating);
        let Ok(_held) = calibrating.try_lock() else {
            return self.refused("a calibration is under way already").await;
        };
        let mut reports = self.rig.reports.subscribe();
        if self.rig.requests.try_send(step::Request::Calibrate(index)).is_err() {
            return self.refused("control takes no request now; try again").await;
        }
        self.note(format!("calibrates zone {zone}"));
        let measured = found.fans.iter().filter_map(|fan| board.fans.get(*fan)).filter(|fan| fan.tachometer.is_some());
        let fans = measured.map(|fan| fan.name.clone()).collect();
        let mut next = Some(Calibration::Begun { fans });
        let mut rest = [0; 64];
        loop {
            if let Some(calibration) = next.take() {
                if let Calibration::Stopped(why) = &calibration {
                    info!("local: {}: the calibration of zone {zone} has ended early: {why}", self.peer);
                }
                if calibration == Calibration::Done {
                    info!("local: {}: the calibration of zone {zone} is done", self.peer);
                }
                let (ends, reply) = (calibration.ends(), Reply::Calibration(calibration));
                let sent = self.in_time(async |this: &mut Self| this.send(&reply).await).await;
                if ends {
                    return sent;
                }
                if sent.is_err() {
                    return self.stop_calibration(reports, sent).await;
                }
            }
            tokio::select! {
                report = reports.recv() => match report {
                    Ok(report) => next = Some(Calibration::new(report, &board)),
                    // So many reports behind is a client that does not read; the fans are measured for nobody.
                    Err(_) => return self.stop_calibration(reports, Err(Error::from(ErrorKind::TimedOut))).await,
                },
                read = self.stream.read(&mut rest) => match read {
                    // Whatever it has to say now has to wait for the end of this; that it left does not.
                    Ok(1..) => {}
                    Ok(0) | Err(_) => {
                        let left = Err(Error::from(ErrorKind::ConnectionAborted));
                        return self.stop_calibration(reports, left).await;
                    }
                },
            }
        }
    }

    /// Its client is gone. Until its end is heard nobody else begins one: they would take that end for theirs.
    async fn stop_calibration(&self, mut reports: broadcast::Receiver<Report>, result: Result<()>) -> Result<()> {
        info!("local: {}: left; its calibration is stopped", self.peer);
        let stopped = async {
            // Control that has ended has ended its calibration too.
            let _ = self.rig.requests.send(step::Request::StopCalibration).await;
            while !matches!(
                reports.recv().await,
                Ok(Report::Done | Report::Stopped(_)) | Err(broadcast::error::RecvError::Closed)
            ) {}
        };
        let _ = timeout(self.deadline, stopped).await;
        result
    }

    /// As it is now, whatever comes while it is sent.
    async fn history(&mut self) -> Result<()> {
        let history = Arc::clone(&self.shared.history.borrow());
        let head = Head::new(&self.rig, &history, clock::unix_ms(), uptime_ms(self.rig.started));
        self.send(&Reply::History(head)).await?;
        let board = Arc::clone(&self.rig.board);
        for (index, (quantity, name)) in series(&board).into_iter().enumerate() {
            self.send(&Reply::Series(Series::new(&history, index, quantity, name))).await?;
        }
        Ok(())
    }

    /// A line. The publisher's turn comes between two of them, and not after a whole answer.
    async fn send(&mut self, reply: &Reply) -> Result<()> {
        self.stream.write_all(&bytes(reply)).await?;
        yield_now().await;
        Ok(())
    }
}

/// A reply as it is sent.
fn bytes(reply: &Reply) -> Vec<u8> {
    // Fails for a map whose keys are no text; a reply has none.
    let mut bytes = serde_json::to_vec(reply).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
