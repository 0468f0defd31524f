use super::*;
use crate::config::Config;
use crate::gpu::plan::tests::card;
use crate::gpu::wire::Device;
use crate::gpu::{GpuSnapshot, ProfileNow};
use crate::payload::lifecycle::Phase as Life;
use crate::payload::supervisor::Status;
use crate::scratch::Scratch;

fn gpu(uuid: &str, profile: Option<&str>, phase: Phase) -> Gpu {
    let device = Device { uuid: uuid.to_owned(), ..card() };
    let profile = ProfileNow { name: profile.map(Into::into), phase, quarantined: 0, limit: None };
    Gpu { device: Some(Arc::new(device.clone())), profile, ..Gpu::unseen(device.pci) }
}

#[test]
fn a_profile_is_done_when_every_gpu_that_was_meant_has_read_it_back() {
    let good = gpu("a", Some("eco"), Phase::Probation);
    let committed = gpu("b", Some("eco"), Phase::Committed);
    let under_way = gpu("b", Some("eco"), Phase::Applying);
    let other = gpu("b", Some("turbo"), Phase::Committed);
    let back = gpu("b", Some("eco"), Phase::RollingBack);
    let default = gpu("b", None, Phase::Default);
    for (gpus, uuid, name, expected) in [
        (vec![good.clone(), committed.clone()], None, "eco", Some(true)),
        (vec![good.clone(), under_way.clone()], None, "eco", None),
        (vec![good.clone(), under_way.clone()], Some("a"), "eco", Some(true)),
        (vec![good.clone(), under_way], Some("b"), "eco", None),
        (vec![good.clone(), other], None, "eco", None),
        (vec![good.clone(), back], None, "eco", Some(false)),
        (vec![default.clone()], None, "none", Some(true)),
        (vec![good, default], None, "none", None),
    ] {
        let found = settled(&gpus, uuid, name).map(|settled| settled.is_ok());
        assert_eq!(found, expected, "{uuid:?} {name}");
    }
}

#[test]
fn the_last_lines_are_those_that_fit() {
    assert_eq!(last_lines("a\nb\nc\n", 2), ["b", "c"]);
    assert_eq!(last_lines("", 5), [""; 0]);
    let long = "x".repeat(LONGEST_TEXT - 1);
    assert_eq!(last_lines(&format!("first\n{long}\nz"), 3), [long.as_str(), "z"]);
}

/// An actor over one payload whose supervisor does as it is told and writes it down.
struct Bench {
    actor: Actor,
    told: Arc<std::sync::Mutex<Vec<String>>>,
    ends: mpsc::Receiver<()>,
    state: Scratch,
    _snapshots: watch::Sender<Arc<Snapshot>>,
}

fn bench(name: &str) -> Bench {
    let state = Scratch::new(&format!("act-{name}"));
    let text = "board = \"frame-12gpu\"\n[profile.eco]\npower_limit_w = 200\n";
    let config = Config::parse("rigd.toml", text, "rig-1").map_err(|problems| problems.to_string()).unwrap();
    let board = Arc::new(Board::load("frame-12gpu").unwrap());
    let (setpoints, _) = Desk::open(&state, &board, &config.gpus);
    let gpus = GpuSnapshot { gpus: vec![gpu("a", Some("eco"), Phase::Committed)], ..GpuSnapshot::default() };
    let snapshot = Snapshot { gpus: Arc::new(gpus), ..Snapshot::default() };
    let (snapshots, snapshot) = watch::channel(Arc::new(snapshot));
    let running = |name: &str| Status { phase: Life::Running, ..Status::of(name) };
    let (state_of, payloads) = watch::channel(Arc::new(Payloads(vec![running("llm"), Status::of("idle")])));
    let (orders, mut ordered) = mpsc::channel(supervisor::ORDERS);
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let written = Arc::clone(&told);
    tokio::spawn(async move {
        let _held = state_of;
        while let Some(supervisor::Order { name, what }) = ordered.recv().await {
            let (said, reply) = match what {
                What::Start(reply) => ("start", reply),
                What::Stop(reply) => ("stop", reply),
                What::Restart(reply) => ("restart", reply),
                What::Drain(_, reply) => ("drain", reply),
                What::Clear(reply) => ("clear", reply),
                What::Run(_)
                | What::Rest(_)
                | What::Log(..)
                | What::Manifest(_)
                | What::Removed
                | What::Again
                | What::Hold(_) => continue,
            };
            written.lock().unwrap().push(format!("{said} {name}"));
            let unknown = name == "ghost";
            let _ = reply.send(if unknown { Err(supervisor::Refusal::Unknown) } else { Ok(()) });
        }
    });
    let (end, ends) = mpsc::channel(1);
    let (reboots, mut reboot) = mpsc::channel::<oneshot::Sender<Result<(), String>>>(1);
    let (reloads, mut reload) = mpsc::channel::<oneshot::Sender<Reloaded>>(1);
    let written = Arc::clone(&told);
    tokio::spawn(async move {
        reboot.recv().await.unwrap().send(Err("no more today".to_owned())).unwrap();
        written.lock().unwrap().push("reboot".to_owned());
    });
    tokio::spawn(async move {
        let reloaded = Reloaded { added: vec!["new".to_owned()], ..Reloaded::default() };
        reload.recv().await.unwrap().send(reloaded).unwrap();
        let reloaded = Reloaded { problems: vec!["a.toml:1: argv: is missing".to_owned()], ..Reloaded::default() };
        reload.recv().await.unwrap().send(reloaded).unwrap();
    });
    let (follow, _) = Follow::new();
    let (_, plan) = watch::channel(Arc::default());
    let trust_clock = true;
    let actor =
        Actor { board, setpoints, snapshot, payloads, plan, orders, reloads, reboots, follow, end, trust_clock };
    Bench { actor, told, ends, state, _snapshots: snapshots }
}

fn name(name: &str) -> String {
    name.to_owned()
}

#[tokio::test]
async fn each_order_reaches_its_owner() {
    let mut bench = bench("owners");
    let start = |payload: &str| Order::Payload { name: name(payload), act: PayloadAct::Start };
    let target = |zone: &str, target| Order::SetFanTarget {
        zone: name(zone),
        target_mc: Some(crate::units::Millicelsius(target)),
    };
    let zone = bench.actor.board.zones.iter().find(|zone| zone.hold.is_some()).unwrap().name.clone();
    for (order, done) in [
        (Order::SetProfile { gpu: None, profile: Some(name("eco")) }, true),
        (Order::SetProfile { gpu: Some(name("b")), profile: Some(name("eco")) }, false),
        (Order::SetProfile { gpu: None, profile: Some(name("turbo")) }, false),
        (target(&zone, 45_000), true),
        (target("attic", 45_000), false),
        (start("llm"), true),
        (start("ghost"), false),
        (Order::Assign { payload: name("llm"), gpus: vec![name("a")] }, true),
        (Order::Assign { payload: name("idle"), gpus: vec![name("a")] }, true),
        (Order::Assign { payload: name("ghost"), gpus: vec![] }, false),
        (Order::Identify { seconds: 9 }, true),
        (Order::Probe, true),
        (Order::Reboot, false),
        (Order::Reload, true),
        (Order::Reload, false),
        (Order::RestartAgent, true),
    ] {
        let state = bench.actor.act(&order, Source::Command).await;
        assert_eq!(matches!(state, AckState::Done(_)), done, "{order:?}: {state:?}");
    }
    assert_eq!(*bench.told.lock().unwrap(), ["start llm", "start ghost", "restart llm", "reboot"]);
    assert!(bench.ends.try_recv().is_err(), "not before the answer");
    bench.actor.end();
    bench.actor.end();
    assert_eq!(bench.ends.try_recv(), Ok(()));
    let now = bench.actor.setpoints.now();
    assert!(now.pulses(clock::now()) && now.profile("a") == Some("eco"));
}

/// Each speaker sets and lifts a cap of its own, and the next start finds them.
#[tokio::test]
async fn a_cap_is_held_in_the_name_of_whoever_speaks() {
    let bench = bench("caps");
    let watts = |watts: u32| PowerCap {
        cap_mw: crate::units::Milliwatts(watts * 1_000),
        ramp_mw_per_s: 0,
        deadline_ms: 0,
        until_ms: None,
        floor_mw: None,
    };
    let told = |desk: &Desk| desk.now().caps().map(|cap| (cap.source, cap.limit.0 / 1_000)).collect::<Vec<_>>();
    let (command, schedule, grid) = (power::Source::Command, power::Source::Schedule, power::Source::Grid);
    for (by, cap, held) in [
        (Source::Command, Some(2_000), vec![(command, 2_000)]),
        (Source::Site, Some(1_500), vec![(command, 2_000), (grid, 1_500)]),
        (Source::Desired, Some(1_800), vec![(command, 2_000), (grid, 1_500), (schedule, 1_800)]),
        (Source::Command, None, vec![(grid, 1_500), (schedule, 1_800)]),
        (Source::Site, Some(1_400), vec![(schedule, 1_800), (grid, 1_400)]),
    ] {
        let done = bench.actor.act(&Order::SetPowerCap(cap.map(watts)), by).await;
        assert!(matches!(done, AckState::Done(_)), "{done:?}");
        assert_eq!(told(&bench.actor.setpoints), held, "{by:?} {cap:?}");
    }
    let (next, _) = Desk::open(&bench.state, &bench.actor.board, &crate::gpu::config::GpuConfig::default());
    assert_eq!(told(&next), [(schedule, 1_800), (grid, 1_400)]);
    bench.actor.act(&Order::SetPowerCap(None), Source::Site).await;
    assert_eq!(told(&bench.actor.setpoints), [(schedule, 1_800)]);
}

#[tokio::test]
async fn payloads_rest_while_somebody_works_at_the_rig_and_run_again_after() {
    let bench = bench("maintenance");
    let begin = Order::Maintenance { on: true, until_ms: Some(1_000) };
    assert!(matches!(bench.actor.act(&begin, Source::Command).await, AckState::Done(_)));
    let start = Order::Payload { name: name("llm"), act: PayloadAct::Start };
    assert!(matches!(bench.actor.act(&start, Source::Command).await, AckState::Refused(_)));
    assert!(matches!(bench.actor.act(&begin, Source::Command).await, AckState::Done(_)), "said twice");
    bench.actor.maintenance_over(999).await;
    assert!(bench.actor.setpoints.now().maintenance().is_some());
    bench.actor.maintenance_over(1_000).await;
    assert!(bench.actor.setpoints.now().maintenance().is_none());
    assert_eq!(*bench.told.lock().unwrap(), ["drain llm", "drain llm", "start llm"]);
}

/// Its end is ordered while its beginning is still being written down: nothing would start again what is drained then.
#[tokio::test]
async fn a_maintenance_that_is_over_before_it_began_drains_nothing() {
    let bench = bench("maintenance-over");
    let order = |on| Order::Maintenance { on, until_ms: None };
    let (begin, end) = (order(true), order(false));
    let (begun, ended) = tokio::join!(bench.actor.act(&begin, Source::Command), bench.actor.act(&end, Source::Command));
    assert!(matches!(begun, AckState::Refused(_)), "{begun:?}");
    assert!(matches!(ended, AckState::Done(_)), "{ended:?}");
    assert_eq!(*bench.told.lock().unwrap(), ["start llm"]);
}
