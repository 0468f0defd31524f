//! The publisher and the link in this process, and a hand that feeds them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rigd::alarm::{Alarm, Cause, Edge, Kind, Subject};
use rigd::audit::Writer;
use rigd::board::Board;
use rigd::clock;
use rigd::command::act::{Actor, Follow};
use rigd::config::Config;
use rigd::mqtt::{self, Inputs, Start};
use rigd::reading::Snapshot;
use rigd::setpoint::Desk;
use rigd::units::Rpm;
use tokio::sync::{mpsc, watch};

/// Publishes until it is dropped.
pub(crate) struct Rig {
    snapshot: Option<watch::Sender<Arc<Snapshot>>>,
    events: Option<mpsc::Sender<Edge>>,
    thread: Option<JoinHandle<()>>,
    /// Its state directory.
    pub(crate) state: PathBuf,
}

impl Rig {
    /// One that reports to this port of the loopback; `lines` go into the configuration.
    pub(crate) fn start(port: u16, lines: &str) -> Self {
        // Of each rig its own: an outbox has one owner.
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let state = std::env::temp_dir().join(format!("rigd-link-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        let text = format!(
            "rig = \"rig-1\"\nboard = \"simulated-8gpu\"\nsimulation = \"/nowhere\"\nstate = {state:?}\n{lines}\n[telemetry]\nperiod_ms = 100\n\
             [broker]\nurl = \"mqtt://127.0.0.1:{port}\"\nkeepalive_s = 5\n"
        );
        let config = Config::parse("rigd.toml", &text, "").unwrap();
        let board = Arc::new(Board::load("simulated-8gpu").unwrap());
        let start = Start { boot: 7, at: clock::now(), unix_ms: clock::unix_ms(), nonce: 9, seed: 1 };
        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let (events, edges) = mpsc::channel(16);
        let (setpoints, _) = Desk::open(&config.state, &board, &config.gpus);
        let (follow, logs) = Follow::new();
        let actor = Actor {
            board: Arc::clone(&board),
            setpoints,
            snapshot: snapshots.clone(),
            payloads: watch::channel(Arc::default()).1,
            plan: watch::channel(Arc::default()).1,
            orders: mpsc::channel(1).0,
            reloads: mpsc::channel(1).0,
            reboots: mpsc::channel(1).0,
            follow,
            end: mpsc::channel(1).0,
            trust_clock: false,
        };
        let audit = Writer::start(state.join("audit"), 7);
        let (_, receipts) = mpsc::channel(1);
        let inputs = Inputs {
            snapshot: snapshots,
            events: edges,
            lost_events: Arc::new(AtomicU32::new(0)),
            unread: Arc::default(),
            logs,
            actor,
            audit,
            energy: watch::channel(Arc::default()).1,
            receipts,
            receipt_key: None,
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(mqtt::run(&config, None, board, start, inputs));
            runtime.shutdown_background();
        });
        Self { snapshot: Some(snapshot), events: Some(events), thread: Some(thread), state }
    }

    /// An alarm, which is an event and a sample at once. Waits while the publisher is busy.
    pub(crate) fn alarm(&self) {
        let alarm = Alarm { kind: Kind::FanStands, subject: Subject::Fan(0) };
        let cause = Cause::Limit { value: i64::from(Rpm(0).0), limit: 500 };
        self.events.as_ref().unwrap().blocking_send(Edge { alarm, raised: true, cause, rung: None }).unwrap();
    }

    /// A tick of control.
    pub(crate) fn tick(&self) {
        self.snapshot.as_ref().unwrap().send_replace(Arc::new(Snapshot::default()));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.snapshot.take();
        self.events.take();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
        let _ = std::fs::remove_dir_all(&self.state);
    }
}
