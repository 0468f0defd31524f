//! The agent. Knows how to run, how to leave the fans safe, and its version; all else is the operator's tool's.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use log::{error, info, warn};
use rigd::arbiter::{self, Arbiter};
use rigd::audit::Writer;
use rigd::board::Board;
use rigd::bus::Host;
use rigd::calibration::{self, FanCurve};
use rigd::command::act::{Actor, Follow};
use rigd::config::{self, Config, Place};
use rigd::control::limits::Rules;
use rigd::control::step::Report;
use rigd::control::{self, Outputs, Policy, Sources, Stop};
use rigd::mqtt::{self, Inputs, Start};
use rigd::payload::reboot;
use rigd::payload::supervisor::{self, Payloads};
use rigd::reading::Snapshot;
use rigd::source::Problems;
use rigd::{clock, energy, gpu, local, logger, payload, setpoint};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

const HELP: &str = "\
rigd - the agent on each rig of a GPU fleet

Usage: rigd [run | leave-safe] [--config FILE]

  run          read sensors, drive fans, publish to the broker (the default)
  leave-safe   set every driven fan to full air and end: for ExecStopPost=

  --config FILE  settings [default: /etc/rigd/rigd.toml]
  --version      print the version
  --help         print this

Signals: SIGTERM, SIGINT and SIGHUP leave the fans at full air, tell the broker, and end.
Environment: RIGD_LOG=error|warn|info|debug
Exit: 0 stopped on purpose, 1 failed, 2 wrong usage or configuration
Check a configuration without running it: rigd-ctl check
";

/// Wrong usage or configuration; systemd is told not to try again.
const EXIT_CONFIGURATION: u8 = 2;

/// Reboots that may be ordered in a day.
const REBOOTS_ORDERED: u8 = 4;

/// How long a clean stop waits for the books of energy.
const LAST_WRITES: Duration = Duration::from_secs(2);

enum Verb {
    Run,
    LeaveSafe,
    Say(String),
}

fn main() -> ExitCode {
    logger::start();
    let code = act();
    logger::finish();
    code
}

fn act() -> ExitCode {
    let (verb, path) = match arguments(std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(text) => return refuse(&text),
    };
    match verb {
        // Whoever asked may have gone away (`rigd --help | head -1`); that is no failure.
        Verb::Say(text) if std::io::stdout().write_all(text.as_bytes()).is_ok() => ExitCode::SUCCESS,
        Verb::Say(_) => ExitCode::FAILURE,
        Verb::Run => Rig::load(&path).map_or_else(|problems| refuse(&problems.to_string()), run),
        Verb::LeaveSafe => leave_safe(&path).unwrap_or_else(|problems| refuse(&problems.to_string())),
    }
}

fn arguments(arguments: impl Iterator<Item = String>) -> Result<(Verb, PathBuf), String> {
    let mut verb = Verb::Run;
    let mut path = PathBuf::from(config::PATH);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "run" => verb = Verb::Run,
            "leave-safe" => verb = Verb::LeaveSafe,
            "--config" => path = arguments.next().ok_or("--config needs a file")?.into(),
            "--version" | "-V" => return Ok((Verb::Say(format!("rigd {}\n", env!("CARGO_PKG_VERSION"))), path)),
            "--help" | "-h" => return Ok((Verb::Say(HELP.to_owned()), path)),
            other => match other.strip_prefix("--config=") {
                Some(file) => path = file.into(),
                None => return Err(format!("unknown argument `{other}`; see rigd --help")),
            },
        }
    }
    Ok((verb, path))
}

struct Rig {
    config: Config,
    board: Arc<Board>,
    host: Host,
    password: Option<String>,
    rules: Rules,
}

impl Rig {
    fn load(path: &Path) -> Result<Self, Problems> {
        let config = Config::load(path)?;
        let board = Arc::new(Board::load(&config.place.board)?);
        let host = config.place.host(path, &board)?;
        let rules = Rules {
            policy: config.power.policy(config.rig.as_str()),
            cap: config.power.cap,
            guards: config.power.rules(&board)?,
        };
        // No reason to let the cards get hot: the broker says no until it is put right.
        let password = config.broker.password().unwrap_or_else(|problems| {
            error!("{problems}; going on without it");
            None
        });
        Ok(Self { config, board, host, password, rules })
    }
}

fn refuse(text: &str) -> ExitCode {
    for line in text.lines() {
        error!("{line}");
    }
    ExitCode::from(EXIT_CONFIGURATION)
}

fn leave_safe(path: &Path) -> Result<ExitCode, Problems> {
    let place = Place::load(path)?;
    let board = Board::load(&place.board)?;
    let host = place.host(path, &board)?;
    if control::leave_safe(&board, &host) {
        info!("every driven fan is at full air");
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

fn run(rig: Rig) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!("could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(rig));
    // A name look-up may still hang in its own thread; it is not waited for.
    runtime.shutdown_background();
    code
}

async fn serve(rig: Rig) -> ExitCode {
    let Rig { config, board, host, password, rules } = rig;
    let nonce = u64::from(random()) << 32 | u64::from(random());
    let start = Start { boot: random(), at: clock::now(), unix_ms: clock::unix_ms(), nonce, seed: random().into() };
    info!(
        "rigd {}: rig {}, board {} revision {}{}",
        env!("CARGO_PKG_VERSION"),
        config.rig,
        board.name,
        board.revision,
        if board.simulated() { ", simulated" } else { "" }
    );
    let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let (events, edges) = mpsc::channel(control::EVENTS);
    let lost_events = Arc::new(AtomicU32::new(0));
    let (reports, told) = mpsc::channel(control::REPORTS);
    let (requests, asked) = mpsc::channel(control::REQUESTS);
    let outputs = Outputs { snapshot, events: events.clone(), lost_events: Arc::clone(&lost_events), reports };
    let store = calibration::Store::new(&config.state);
    let curves = store.load(&board);
    let (passed_on, _) = broadcast::channel(control::REPORTS);
    tokio::spawn(keep(told, passed_on.clone(), store, Arc::clone(&board), curves.clone()));
    let stop = Stop::default();
    // Before the first order to a fan: from then on no way out may be missed.
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            error!("could not catch signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Loads the time zone here, for good: the control thread never waits for the disk.
    let _ = clock::local_minute();
    let policy = Policy { board: Arc::clone(&board), tick: config.tick, quiet: config.quiet, curves, power: rules };
    let gpus = match gpu::spawn(config.gpus.places(&host), &config) {
        Ok(gpus) => gpus,
        Err(error) => {
            error!("could not start the GPU thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let desk = gpus.desk();
    let (payloads, supervised) = watch::channel(Arc::new(Payloads::default()));
    let (orders, ordered) = mpsc::channel(supervisor::ORDERS);
    let (wish, wishes) = mpsc::channel(reboot::WISHES);
    let (setpoint_desk, setpoints) = setpoint::Desk::open(&config.state, &board, &config.gpus);
    let sources = Sources {
        gpus,
        payloads: supervised.clone(),
        orders: orders.clone(),
        reboot: wish.clone(),
        requests: asked,
        setpoints: setpoints.clone(),
    };
    let control = match control::spawn(policy, &host, sources, outputs, stop.clone()) {
        Ok(control) => control,
        Err(error) => {
            error!("could not start the control thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (manifests, problems) = payload::config::manifests(&config);
    for line in problems.iter().flat_map(|problems| problems.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
    {
        error!("{line}");
    }
    let (reloads, reloaded) = mpsc::channel(1);
    let (reboots, reboots_ordered) = mpsc::channel(1);
    let restarts = reboot::run(reboot::Inputs {
        // A simulated rig is not the machine that it is simulated on.
        per_day: if board.simulated() { 0 } else { config.payloads.reboots_per_day },
        state: config.state.clone(),
        boot: clock::kernel_boot_id().unwrap_or_default(),
        wishes,
        ordered_per_day: if board.simulated() { 0 } else { REBOOTS_ORDERED },
        ordered: reboots_ordered,
        orders: orders.clone(),
        restart: reboot::restart,
    });
    let (view, views) = watch::channel(Arc::default());
    let arbiter = Arbiter::open(
        &config,
        arbiter::Inputs {
            snapshot: snapshots.clone(),
            payloads: supervised.clone(),
            setpoints: setpoints.clone(),
            desk: setpoint_desk.clone(),
            orders: orders.clone(),
            events,
            view,
        },
    );
    let arbiter = async {
        if let Some(arbiter) = arbiter {
            arbiter.run().await;
        }
    };
    let hooks = Arc::new(payload::rig::Rig::new(snapshots.clone(), supervised.clone(), setpoints, wish));
    let supervisor = supervisor::run(supervisor::Inputs {
        state: config.state.clone(),
        cgroup: config.payloads.cgroup.clone(),
        manifests,
        load: Arc::new({
            let config = config.clone();
            move || payload::config::manifests(&config)
        }),
        orders: ordered,
        reloads: reloaded,
        payloads,
        hooks,
        seed: start.seed.rotate_left(16),
    });
    let (end, mut ends) = mpsc::channel(1);
    let (follow, logs) = Follow::new();
    let actor = Actor {
        board: Arc::clone(&board),
        setpoints: setpoint_desk.clone(),
        snapshot: snapshots.clone(),
        payloads: supervised.clone(),
        plan: views.clone(),
        orders: orders.clone(),
        reloads: reloads.clone(),
        reboots,
        follow,
        end,
        trust_clock: config.fleet.trust_clock,
    };
    let audit = Writer::start(config.state.join("audit"), start.boot);
    let key = match energy::Key::open(&config.state, seed) {
        Ok(key) => Some(key),
        Err(error) => {
            error!("energy.key in {}: {error}; receipts go out unsigned", config.state.display());
            None
        }
    };
    let receipt_key = key.as_ref().map(energy::Key::public);
    let (kept, energy_kept) = watch::channel(Arc::default());
    let (receipts, receipts_made) = mpsc::channel(energy::RECEIPTS);
    // A task of its own: it has to end by itself, with everything on the disk.
    let counted = tokio::spawn(energy::run(energy::RunInputs {
        state: config.state.clone(),
        board: Arc::clone(&board),
        snapshot: snapshots.clone(),
        kept,
        receipts,
        key,
    }));
    let rig = local::Rig {
        name: config.rig.clone(),
        board: Arc::clone(&board),
        started: start.at,
        snapshot: snapshots.clone(),
        requests,
        payloads: supervised.clone(),
        orders,
        reloads,
        reports: passed_on,
        gpus: desk,
        setpoints: setpoint_desk,
        audit: audit.clone(),
        energy: energy_kept.clone(),
        receipt_key,
        plan: views,
    };
    let local = local::run(config.socket.clone(), rig);
    let inputs = Inputs {
        snapshot: snapshots,
        events: edges,
        lost_events,
        unread: Arc::default(),
        logs,
        actor,
        audit,
        energy: energy_kept,
        receipts: receipts_made,
        receipt_key,
    };
    let publisher = mqtt::run(&config, password, board, start, inputs);
    let end = async {
        tokio::select! {
            name = signals.next() => info!("{name}: stopping"),
            Some(()) = ends.recv() => info!("ordered to restart: stopping; systemd starts it again"),
        }
        // Control leaves the fans safe and ends; the publisher sees that, says goodbye and ends below.
        stop.stop();
        std::future::pending().await
    };
    tokio::select! {
        () = publisher => {}
        () = end => {}
        () = async { tokio::join!(local, supervisor, restarts, arbiter); std::future::pending().await } => {}
    }
    // Control has ended, and with it the counting; a disk that hangs is not waited for.
    if timeout(LAST_WRITES, counted).await.is_err() {
        warn!("energy: the disk takes too long; up to ten seconds are not kept");
    }
    if !stop.stopped() {
        error!("the control thread has ended by itself");
    }
    let safe = control.join().unwrap_or(false);
    if safe && stop.stopped() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Passes on what calibrations tell to whoever listens, and keeps it for the next start. Reports do not wait for the disk.
async fn keep(
    mut told: mpsc::Receiver<Report>,
    passed_on: broadcast::Sender<Report>,
    store: calibration::Store,
    board: Arc<Board>,
    mut curves: Vec<Option<FanCurve>>,
) {
    let mut saving: Option<JoinHandle<()>> = None;
    while let Some(report) = told.recv().await {
        // Nobody listens where nobody asked.
        let _ = passed_on.send(report.clone());
        let Report::Learnt { fan, curve } = report else { continue };
        if let Some(known) = curves.get_mut(fan) {
            *known = Some(curve);
        }
        let (store, board, curves) = (store.clone(), Arc::clone(&board), curves.clone());
        let before = saving.take();
        saving = Some(tokio::spawn(async move {
            // One after the other: the newest is written last.
            if let Some(before) = before {
                let _ = before.await;
            }
            if let Ok(Err(error)) = spawn_blocking(move || store.save(&board, &curves)).await {
                warn!("what was learnt of the fans could not be kept: {error}");
            }
        }));
    }
}

/// The ways in which an agent is asked to stop. A terminal that is closed is one of them.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// For a key that is made at the first start. A kernel that has no randomness yet is waited for: it has some when payloads run.
fn seed() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    // So few bytes come at once (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// From the kernel; the clock stands in on a kernel that has no randomness yet, which is good enough to tell starts apart.
fn random() -> u32 {
    let mut bytes = [0; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(_) => u32::from_le_bytes(bytes),
        Err(_) => u32::try_from(clock::unix_ms() & u64::from(u32::MAX)).unwrap_or(1),
    }
}
