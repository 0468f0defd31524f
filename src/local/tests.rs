use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::gpu::{Command, Released};
use crate::history::{Quantity, SLOT_MS, SLOTS};
use crate::reading::{Fan, Missing, Power, Stage, Zone};
use crate::units::{Duty, Millicelsius, Milliwatts};
use crate::wire::Value;

/// Longer than anything here takes, and far from what a person would wait for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A local socket in a folder of its own, with the control thread's end of it in the test's hands.
struct Lab {
    path: PathBuf,
    control: Control,
    task: JoinHandle<()>,
}

/// What the control thread holds.
struct Control {
    snapshot: watch::Sender<Arc<Snapshot>>,
    requests: mpsc::Receiver<step::Request>,
    reports: broadcast::Sender<Report>,
    /// The GPU thread's end.
    commands: Option<std::sync::mpsc::Receiver<Command>>,
    setpoints: Option<watch::Receiver<Arc<setpoint::Setpoints>>>,
}

fn rig(path: &Path) -> (Control, Rig) {
    let (sender, snapshot) = watch::channel(Arc::default());
    let (requests, asked) = mpsc::channel(4);
    let (reports, _) = broadcast::channel(8);
    let (_, payloads) = watch::channel(Arc::default());
    let (orders, _) = mpsc::channel(1);
    let (reloads, _) = mpsc::channel(1);
    let mut control =
        Control { snapshot: sender, requests: asked, reports: reports.clone(), commands: None, setpoints: None };
    let board = Arc::new(Board::load("simulated-8gpu").unwrap());
    let (gpus, commands) = Desk::pair(1);
    control.commands = Some(commands);
    let started = clock::now();
    let audit = Writer::to_nobody();
    let state = path.parent().unwrap();
    let (setpoints, held) = setpoint::Desk::open(state, &board, &crate::gpu::config::GpuConfig::default());
    control.setpoints = Some(held);
    let (_, energy) = watch::channel(Arc::default());
    let (_, plan) = watch::channel(Arc::default());
    let rig = Rig {
        name: "rig-1".parse().unwrap(),
        board,
        started,
        snapshot,
        requests,
        payloads,
        orders,
        reloads,
        reports,
        gpus,
        setpoints,
        audit,
        energy,
        receipt_key: None,
        plan,
    };
    (control, rig)
}

fn folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("rigd-local-{}-{count}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

impl Lab {
    /// One that has an hour of history behind it.
    async fn new(deadline: Duration) -> Self {
        let path = folder().join("rigd.sock");
        let (control, rig) = rig(&path);
        let (socket, listener) = Socket::listen(&path).await.unwrap();
        let mut local = Local::new(rig, deadline);
        let mut history = History::new(&local.rig.board);
        for slot in 0..u64::from(SLOTS) {
            history.take(slot * SLOT_MS, &tick(i32::try_from(slot).unwrap()));
        }
        local.history.send_replace(Arc::new(history));
        // Ticks of the test come after that hour.
        local.rig.started = clock::now().checked_sub(Duration::from_millis(u64::from(SLOTS) * SLOT_MS)).unwrap();
        let task = tokio::spawn(async move {
            local.serve(&listener).await;
            drop(socket);
        });
        Self { path, control, task }
    }

    async fn client(&self) -> Client {
        Client(BufReader::new(UnixStream::connect(&self.path).await.unwrap()))
    }

    async fn end(self) {
        drop(self.control);
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        assert!(!self.path.exists(), "the socket goes with the agent");
        fs::remove_dir_all(self.path.parent().unwrap()).unwrap();
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next line; none at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("an answer").unwrap_or(0);
        (length > 0).then_some(line)
    }

    async fn reply(&mut self) -> Reply {
        serde_json::from_str(&self.line().await.expect("a line")).unwrap()
    }

    async fn error(&mut self) -> String {
        let Reply::Error(text) = self.reply().await else { panic!("no error") };
        text
    }

    async fn history(&mut self) -> (Head, Vec<Series>) {
        self.send(b"{\"get\":\"history\"}\n").await;
        let Reply::History(head) = self.reply().await else { panic!("no head") };
        let mut all = Vec::new();
        for _ in 0..head.series {
            let Reply::Series(series) = self.reply().await else { panic!("no series") };
            all.push(series);
        }
        (head, all)
    }
}

/// A tick of the simulated board. Its numbers are long, so that an hour of them does not fit a socket's buffer.
fn tick(number: i32) -> Snapshot {
    let power = Power { power: Ok(Milliwatts(2_000_000_000 + number.unsigned_abs())), ..Power::missing(Missing::Off) };
    let duty = Duty::from_percent(40);
    Snapshot {
        rails: [vec![power; 7], vec![Power::missing(Missing::Bus)]].concat(),
        supplies: vec![[power; 2]],
        sensors: vec![Ok(Millicelsius(-2_000_000_000 + number)); 3],
        fans: vec![Fan { duty: duty.ok_or(Missing::Off), ..Fan::missing(Missing::Off) }; 6],
        zones: vec![Zone { duty: Err(Missing::NotPresent), stage: Stage::Starting }],
        ..Snapshot::default()
    }
}

#[tokio::test]
async fn an_hour_comes_over_line_by_line_with_every_name_and_every_reason() {
    let lab = Lab::new(PATIENCE).await;
    assert_eq!(fs::metadata(&lab.path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut client = lab.client().await;
    let (head, series) = client.history().await;
    assert_eq!((head.rig.as_str(), head.simulated, head.slot_ms, head.series), ("rig-1", true, 5_000, 20));
    assert_eq!(head.slots, (0..SLOTS).collect::<Vec<_>>());
    assert!(head.uptime_ms >= u64::from(SLOTS) * SLOT_MS);
    let find = |quantity, name: &str| series.iter().find(|one| one.quantity == quantity && one.name == name).unwrap();
    let intake = find(Quantity::Temperature, "intake");
    assert_eq!(intake.last.last(), Some(&Value(Ok(-1_999_999_281))));
    assert_eq!((intake.last.len(), &intake.low, &intake.high), (720, &intake.last, &intake.last));
    assert!(find(Quantity::RailPower, "gpu7").last.iter().all(|value| *value == Value(Err(Missing::Bus))));
    let fan = find(Quantity::FanDrive, "fan6");
    assert_eq!((fan.last.last(), fan.low.len()), (Some(&Value(Ok(4_000))), 0));
    assert!(find(Quantity::ZoneDrive, "cards").last.iter().all(|value| *value == Value(Err(Missing::NotPresent))));
    // The same connection again, after a tick.
    lab.control.snapshot.send_replace(Arc::new(tick(7)));
    let (head, series) = client.history().await;
    assert_eq!((head.slots.first(), head.slots.last()), (Some(&1), Some(&SLOTS)));
    assert_eq!(series.first().unwrap().last.last(), Some(&Value(Ok(-1_999_999_993))));
    lab.end().await;
}

#[tokio::test]
async fn garbage_is_answered_and_the_next_line_is_understood() {
    let lab = Lab::new(PATIENCE).await;
    let mut client = lab.client().await;
    for garbage in [
        &b"\n"[..],
        b"history\n",
        b"{\"get\":\"moon\"}\n",
        b"{\"get\":\"history\",\"set\":1}\n",
        b"{\"fly\":\"home\"}\n",
        b"[[[[[[\n",
        b"\xff\xfe\0\r\n",
    ] {
        client.send(garbage).await;
        let error = client.error().await;
        assert!(error.starts_with("not understood: "), "{garbage:?} gave {error}");
    }
    // Two requests in one piece, one in two, and the last without a newline.
    client.send(b"1\n2\n{\"get\":").await;
    assert!(client.error().await.contains("line 1"));
    client.error().await;
    client.send(b"\"history\"}").await;
    client.0.get_mut().shutdown().await.unwrap();
    assert!(matches!(client.reply().await, Reply::History(_)));
    let mut rest = String::new();
    timeout(PATIENCE, client.0.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest.lines().count(), 20);
    lab.end().await;
}

#[tokio::test]
async fn a_line_has_an_end_or_the_connection_has() {
    let lab = Lab::new(PATIENCE).await;
    for (length, taken) in [(MAX_REQUEST - 1, true), (MAX_REQUEST, false), (64 * MAX_REQUEST, false)] {
        let mut client = lab.client().await;
        let mut line = vec![b' '; length];
        line.push(b'\n');
        // It may be sent away before it has said all.
        let _ = client.0.get_mut().write_all(&line).await;
        let error = client.error().await;
        assert_eq!(error.starts_with("not understood"), taken, "{length}: {error}");
        assert_eq!(error == "a request has at most 4096 bytes", !taken);
        if !taken {
            assert_eq!(client.line().await, None, "{length}");
        }
    }
    lab.end().await;
}

#[tokio::test]
async fn who_is_silent_or_does_not_read_is_sent_away_and_delays_nobody() {
    let lab = Lab::new(Duration::from_secs(10)).await;
    let mut slow = lab.client().await;
    for _ in 0..4 {
        slow.send(b"{\"get\":\"history\"}\n").await;
    }
    slow.0.get_ref().readable().await.unwrap();
    // Comes after it, so that when this one's time is over, so is that of the other.
    let mut silent = lab.client().await;
    // Ticks and others come through while it sits on its answer, which stays that of its moment.
    for number in 0..5 {
        lab.control.snapshot.send_replace(Arc::new(tick(number)));
        let (head, _) = lab.client().await.history().await;
        assert_eq!(head.slots.len(), ROWS);
    }
    assert_eq!(silent.line().await, None);
    let Reply::History(head) = slow.reply().await else { panic!("no head") };
    assert_eq!(head.slots.last(), Some(&(SLOTS - 1)));
    let mut rest = Vec::new();
    // What did fit is there, and then it ends in the middle.
    let _ = timeout(PATIENCE, slow.0.read_to_end(&mut rest)).await.expect("an end");
    assert!(rest.iter().filter(|byte| **byte == b'\n').count() < head.series);
    lab.end().await;
}

const ROWS: usize = SLOTS as usize;

#[tokio::test]
async fn one_client_too_many_is_told_and_comes_in_when_another_leaves() {
    let lab = Lab::new(PATIENCE).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = lab.client().await;
        client.history().await;
        clients.push(client);
    }
    let mut refused = lab.client().await;
    assert_eq!(refused.error().await, "8 clients are being served; try again");
    assert_eq!(refused.line().await, None);
    clients.pop();
    let mut admitted = loop {
        let mut client = lab.client().await;
        // Its place may not be free yet.
        let _ = client.0.get_mut().write_all(b"{\"get\":\"history\"}\n").await;
        if let Reply::History(_) = client.reply().await {
            break client;
        }
    };
    admitted.line().await.unwrap();
    lab.end().await;
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_nothing_else_is() {
    let folder = folder();
    let path = folder.join("rigd.sock");
    // As a killed agent leaves it; a child that another test has just forked may have a copy, so it is not only closed.
    let listener = OwnedFd::from(std::os::unix::net::UnixListener::bind(&path).unwrap());
    std::os::unix::net::UnixStream::from(listener).shutdown(std::net::Shutdown::Both).unwrap();
    let (first, _listener) = Socket::listen(&path).await.unwrap();
    let error = Socket::listen(&path).await.unwrap_err();
    assert_eq!(error.to_string(), "another agent listens there");
    UnixStream::connect(&path).await.expect("the first still listens");
    // Somebody else's file at the path stays.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(first);
    let error = Socket::listen(&path).await.unwrap_err();
    assert_eq!(error.to_string(), "a file that is no socket is in the way");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn where_there_can_be_no_socket_it_ends_and_harms_nobody() {
    let path = PathBuf::from("/nonexistent/rigd.sock");
    let (control, rig) = rig(&path);
    timeout(PATIENCE, run(path, rig)).await.unwrap();
    control.snapshot.send_replace(Arc::new(tick(1)));
    let long = folder().join("x".repeat(120));
    assert!(Socket::listen(&long).await.is_err(), "a path that no socket can have");
    fs::remove_dir_all(long.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_calibration_is_handed_to_control_and_told_line_by_line() {
    let mut lab = Lab::new(PATIENCE).await;
    let mut client = lab.client().await;
    client.send(b"{\"calibrate\":{\"zone\":\"attic\"}}\n").await;
    assert_eq!(client.error().await, "there is no zone `attic`, only: cards");
    client.send(b"{\"calibrate\":{\"zone\":\"cards\"}}\n").await;
    assert_eq!(timeout(PATIENCE, lab.control.requests.recv()).await.unwrap(), Some(step::Request::Calibrate(0)));
    let Reply::Calibration(Calibration::Begun { fans }) = client.reply().await else { panic!("not begun") };
    assert_eq!(fans.len(), 6);
    let mut other = lab.client().await;
    other.send(b"{\"calibrate\":{\"zone\":\"cards\"}}\n").await;
    assert_eq!(other.error().await, "a calibration is under way already");
    let (duty, rpm) = (Duty::FULL, crate::units::Rpm(5_800));
    lab.control.reports.send(Report::Point { fan: 1, duty, rpm }).unwrap();
    assert_eq!(client.reply().await, Reply::Calibration(Calibration::Point { fan: "fan2".to_owned(), duty, rpm }));
    lab.control.reports.send(Report::Done).unwrap();
    assert_eq!(client.reply().await, Reply::Calibration(Calibration::Done));
    // The next one may begin.
    other.send(b"{\"calibrate\":{\"zone\":\"cards\"}}\n").await;
    assert_eq!(timeout(PATIENCE, lab.control.requests.recv()).await.unwrap(), Some(step::Request::Calibrate(0)));
    drop(other);
    assert_eq!(timeout(PATIENCE, lab.control.requests.recv()).await.unwrap(), Some(step::Request::StopCalibration));
    // Until control has said so it is not over, and nobody takes its end for their own.
    let mut third = lab.client().await;
    third.send(b"{\"calibrate\":{\"zone\":\"cards\"}}\n").await;
    assert_eq!(third.error().await, "a calibration is under way already");
    lab.control.reports.send(Report::Stopped(step::Stopped::Asked)).unwrap();
    lab.end().await;
}

#[tokio::test]
async fn what_an_operator_asks_of_gpus_is_handed_to_their_thread() {
    let mut lab = Lab::new(PATIENCE).await;
    let commands = lab.control.commands.take().unwrap();
    let thread = std::thread::spawn(move || {
        for command in commands {
            match command {
                Command::Clear { pci, profile, answer } => {
                    let known = pci.bus == 1 && profile.as_deref() == Some("eco");
                    answer.send(known.then_some(2)).unwrap();
                }
                Command::Release { time, answer } => {
                    assert_eq!(time, Duration::from_secs(300));
                    answer.send(Released::Clean).unwrap();
                    return;
                }
            }
        }
    });
    let mut client = lab.client().await;
    client.send(b"{\"gpu_clear\":{\"gpu\":\"0000:01:00.0\",\"profile\":\"eco\"}}\n").await;
    assert_eq!(client.reply().await, Reply::GpuCleared(2));
    client.send(b"{\"gpu_clear\":{\"gpu\":\"0000:02:00.0\"}}\n").await;
    assert_eq!(client.error().await, "the driver has not told of any GPU 0000:02:00.0 yet");
    client.send(b"{\"gpu_clear\":{\"gpu\":\"first\"}}\n").await;
    assert_eq!(client.error().await, "`first` is no PCI address");
    client.send(b"{\"gpu_release\":{\"seconds\":3601}}\n").await;
    assert_eq!(client.error().await, "at most 3600 s");
    client.send(b"{\"gpu_release\":{\"seconds\":300}}\n").await;
    assert_eq!(client.reply().await, Reply::GpuReleased(Released::Clean));
    thread.join().unwrap();
    // A thread that has ended takes no command.
    client.send(b"{\"gpu_release\":{\"seconds\":300}}\n").await;
    assert!(client.error().await.starts_with("the GPUs' driver keeps the agent waiting"));
    lab.end().await;
}

#[tokio::test]
async fn limits_are_tried_for_a_time_on_a_gpu_that_is_there() {
    let lab = Lab::new(PATIENCE).await;
    let device = crate::gpu::wire::Device { uuid: "GPU-a".to_owned(), ..crate::gpu::plan::tests::card() };
    let gpu = crate::gpu::Gpu { device: Some(Arc::new(device.clone())), ..crate::gpu::Gpu::unseen(device.pci) };
    let gpus = Arc::new(crate::gpu::GpuSnapshot { gpus: vec![gpu], ..Default::default() });
    lab.control.snapshot.send_replace(Arc::new(Snapshot { gpus, ..tick(1) }));
    let held = lab.control.setpoints.clone().unwrap();
    let tried = |after| held.borrow().trial("GPU-a", clock::now() + Duration::from_secs(after)).power;
    let mut client = lab.client().await;
    client.send(b"{\"trial\":{\"gpu\":\"GPU-a\",\"power_mw\":200000,\"seconds\":61}}\n").await;
    assert_eq!(client.error().await, "at most 60 s");
    client.send(b"{\"trial\":{\"gpu\":\"GPU-b\",\"power_mw\":200000,\"seconds\":60}}\n").await;
    assert_eq!(client.error().await, "there is no GPU GPU-b");
    assert_eq!(tried(0), None);
    client.send(b"{\"trial\":{\"gpu\":\"GPU-a\",\"power_mw\":200000,\"seconds\":60}}\n").await;
    assert_eq!(client.reply().await, Reply::Done);
    assert_eq!((tried(0), tried(61)), (Some(Milliwatts(200_000)), None), "it ends by itself");
    // Another connection of the same process goes on with it, and ends it.
    let mut client = lab.client().await;
    client.send(b"{\"trial\":{\"gpu\":\"GPU-a\",\"core_mhz\":1500,\"seconds\":60}}\n").await;
    assert_eq!((client.reply().await, tried(0)), (Reply::Done, None));
    client.send(b"{\"trial\":{\"gpu\":\"GPU-a\",\"seconds\":0}}\n").await;
    assert_eq!(client.reply().await, Reply::Done);
    assert_eq!(held.borrow().trial("GPU-a", clock::now()), crate::gpu::Limits::default());
    lab.end().await;
}
