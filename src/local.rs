//! The agent's socket on the rig itself: `rigd-ctl` asks there, with no broker in between.
//!
//! ```text
//! watch<Snapshot> ── once a tick ──> history, an Arc ── watch ──> connection, up to 8 ── lines of JSON ── rigd-ctl
//! ```
//!
//! One request is one line, at most 4 KiB; the answer is one line or more (`protocol.rs`). Whoever may open the socket may ask:
//! root and the socket's group, by the mode of the file. What is ordered goes to control, which decides.
//!
//! It shares a thread with the publisher and wakes when that one does: once a tick, and for a client. A client gets a reference
//! to the history as it is and reads it series by series, and the next tick copies it first where somebody still reads: 149 KiB
//! for each of 8 clients at worst, for 5 s. Between two lines everybody else has a turn.
//!
//! **To add a request**: a variant of [`Request`], one of [`Reply`], an arm in `connection.rs`'s `answer`. What changes
//! something takes a channel to its owner in [`Rig`] and logs the peer.

mod connection;
mod protocol;
mod socket;

use std::convert::Infallible;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use log::{debug, warn};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, broadcast, mpsc, oneshot, watch};

use crate::arbiter::view::View;
use crate::audit::Writer;
use crate::board::Board;
use crate::clock;
use crate::control::step::{self, Report};
use crate::energy::Kept;
use crate::gpu::Desk;
use crate::history::History;
use crate::payload::supervisor::{Order, Payloads, Reloaded};
use crate::reading::Snapshot;
use crate::setpoint;
use crate::wire::{PublicKey, RigId};
use connection::Connection;
pub use protocol::{
    Calibration, Energy, EnergyAccount, Get, Gpu, GpuHeld, Gpus, Head, MAX_RELEASE, MAX_REQUEST, MAX_TRIAL, Payload,
    PayloadOrder, PowerHeld, Reply, Request, Series, Use,
};
use socket::Socket;

/// Clients at a time. One more is told so and sent away.
const CONNECTIONS: usize = 8;
/// To send a request, and again to take its answer. Who takes longer is sent away.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where another agent seems to listen it is tried again so often, and after so long.
const TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_secs(1);

/// What every connection needs of the agent to answer.
#[derive(Clone)]
pub struct Rig {
    /// The rig's name.
    pub name: RigId,
    /// The names of the series.
    pub board: Arc<Board>,
    /// When the agent started: the history's time counts from here.
    pub started: Instant,
    /// The rig in each tick. Its other end is dropped when control has ended.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The way to control.
    pub requests: mpsc::Sender<step::Request>,
    /// The payloads, as they are now and not as of the last tick.
    pub payloads: watch::Receiver<Arc<Payloads>>,
    /// The way to payloads.
    pub orders: mpsc::Sender<Order>,
    /// The way to their manifests.
    pub reloads: mpsc::Sender<oneshot::Sender<Reloaded>>,
    /// What control tells of a calibration.
    pub reports: broadcast::Sender<Report>,
    /// The way to the GPU thread.
    pub gpus: Desk,
    /// Where limits are tried on them.
    pub setpoints: setpoint::Desk,
    /// Where what somebody did is written down.
    pub audit: Writer,
    /// What was used, as it is kept.
    pub energy: watch::Receiver<Arc<Kept>>,
    /// The key that signs receipts of it.
    pub receipt_key: Option<PublicKey>,
    /// What the arbiter has decided.
    pub plan: watch::Receiver<Arc<View>>,
}

/// What the connections share with each other.
#[derive(Clone)]
struct Shared {
    history: watch::Receiver<Arc<History>>,
    trying: Arc<std::sync::Mutex<Option<Trier>>>,
    /// Held by the client whose calibration is under way.
    calibrating: Arc<Mutex<()>>,
}

/// The process that tries limits, and until when nobody else may.
type Trier = (Option<i32>, Instant);

/// Who is at the other end, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    uid: u32,
    gid: u32,
    pid: Option<i32>,
}

/// Keeps the history and answers on the socket until control has ended. Where there can be no socket the agent works as well
/// without, and nobody could ask for a history.
pub async fn run(path: PathBuf, rig: Rig) {
    let mut listening = Socket::listen(&path).await;
    for _ in 0..TRIES {
        let in_use = matches!(&listening, Err(error) if error.kind() == std::io::ErrorKind::AddrInUse);
        if !in_use {
            break;
        }
        // A payload's process that an agent was killed over has its descriptors until it has become the program, or has ended.
        tokio::time::sleep(AGAIN).await;
        listening = Socket::listen(&path).await;
    }
    match listening {
        Ok((socket, listener)) => {
            debug!("local: listening on {}", path.display());
            Local::new(rig, DEADLINE).serve(&listener).await;
            drop(socket);
        }
        Err(error) => warn!("no local socket, rigd-ctl cannot ask this agent: {}: {error}", path.display()),
    }
}

struct Local {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    history: watch::Sender<Arc<History>>,
    rig: Rig,
    shared: Shared,
    deadline: Duration,
    clients: Clients,
    /// Accepting failed, for want of file descriptors or memory; it is tried again at the next tick.
    paused: bool,
    told: bool,
}

impl Local {
    fn new(rig: Rig, deadline: Duration) -> Self {
        let (sender, history) = watch::channel(Arc::new(History::new(&rig.board)));
        Self {
            snapshot: rig.snapshot.clone(),
            history: sender,
            rig,
            shared: Shared { history, trying: Arc::default(), calibrating: Arc::default() },
            deadline,
            clients: Clients(Vec::new()),
            paused: false,
            told: false,
        }
    }

    async fn serve(mut self, listener: &UnixListener) {
        loop {
            tokio::select! {
                changed = self.snapshot.changed() => match changed {
                    Ok(()) => self.tick(),
                    Err(_) => return,
                },
                accepted = listener.accept(), if !self.paused => match accepted {
                    Ok((stream, _)) => self.accept(stream),
                    Err(error) => self.pause(&error),
                },
                never = self.clients.serve() => match never {},
            }
        }
    }

    fn tick(&mut self) {
        self.paused = false;
        let uptime_ms = uptime_ms(self.rig.started);
        let snapshot = Arc::clone(&self.snapshot.borrow_and_update());
        self.history.send_modify(|history| Arc::make_mut(history).take(uptime_ms, &snapshot));
    }

    fn accept(&mut self, stream: UnixStream) {
        let peer = match stream.peer_cred() {
            Ok(peer) => Peer { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() },
            Err(error) => return debug!("local: nobody is at the other end: {error}"),
        };
        let connection = Connection::new(stream, peer, (self.rig.clone(), self.shared.clone()), self.deadline);
        if self.clients.0.len() < CONNECTIONS {
            debug!("local: {peer}");
            self.clients.0.push(Box::pin(connection.run()));
        } else {
            connection.refuse(&format!("{CONNECTIONS} clients are being served; try again"));
        }
    }

    /// Said once.
    fn pause(&mut self, error: &std::io::Error) {
        self.paused = true;
        if !self.told {
            warn!("local: could not accept a client: {error}");
            self.told = true;
        }
    }
}

/// Those that are served. They share one task, not one each: it takes less of everything, and they end with it.
struct Clients(Vec<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Clients {
    /// Lets each go on, and those go that are done.
    async fn serve(&mut self) -> Infallible {
        poll_fn(|context| {
            self.0.retain_mut(|client| client.as_mut().poll(context).is_pending());
            Poll::Pending
        })
        .await
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { uid, gid, pid } = self;
        write!(f, "uid {uid} gid {gid} pid {}", pid.unwrap_or_default())
    }
}

/// Since the agent's start.
fn uptime_ms(started: Instant) -> u64 {
    u64::try_from(clock::now().saturating_duration_since(started).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
