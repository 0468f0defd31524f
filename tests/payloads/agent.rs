//! An agent that is killed, again and again: its payload does not notice, and is never there twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rigd::payload::lifecycle::{Exit, Phase};
use rigd::payload::supervisor::{self, Order, What};
use rigd::payload::{By, Hold};
use rustix::process::Signal;

use super::rig::{
    DEADLINE, Guard, Rig, block_on, cgroup, clean, directory, inputs, kill, lives, procs, root, script_of, until,
    until_quiet,
};

const PLACE: &str = "RIGD_TEST_PLACE";
const GROUP: &str = "RIGD_TEST_GROUP";
const BODY_OF: &str = "RIGD_TEST_BODY";
/// Where it is set, its payload is a miner, which is paused and let go on again without end.
const HOLDS: &str = "RIGD_TEST_HOLDS";

/// Writes a line at each start, and one word more each 10 ms.
const BODY: &str = "echo $$ >> starts; while :; do echo tick; sleep 0.01; done";

fn manifest() -> rigd::payload::manifest::Manifest {
    let body = std::env::var(BODY_OF);
    kept(if std::env::var(HOLDS).is_ok() { "mining" } else { "ai" }, body.as_deref().unwrap_or(BODY))
}

fn kept(kind: &str, body: &str) -> rigd::payload::manifest::Manifest {
    script_of(kind, "kept", body, "autostart = true\n[restart]\nbudget = 100\nstable_s = 1\nmin_s = 1")
}

#[test]
#[ignore = "run as an agent by the others"]
fn agent_that_is_killed() {
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    let group = std::env::var(GROUP).ok().map(PathBuf::from);
    block_on(async {
        let (inputs, orders, mut seen) = inputs(&place, group, vec![manifest()]);
        if std::env::var(HOLDS).is_ok() {
            let orders = orders.clone();
            tokio::spawn(async move {
                for (hold, phase) in [(Hold::Free, Phase::Running), (Hold::Pause, Phase::Paused)].iter().cycle() {
                    orders.send(Order { name: "kept".to_owned(), what: What::Hold(*hold) }).await.unwrap();
                    seen.wait_for(|all| all.0.iter().any(|status| status.phase == *phase)).await.unwrap();
                }
            });
        }
        supervisor::run(inputs).await;
        drop(orders);
    });
}

fn agent(place: &Path, group: Option<&Path>) -> Child {
    agent_of(place, group, BODY)
}

/// An agent that pauses its payload and lets it go on, without end.
fn agent_that_holds(place: &Path, group: Option<&Path>) -> Child {
    command(place, group, BODY).env(HOLDS, "1").spawn().unwrap()
}

/// An agent whose payload runs this.
pub(crate) fn agent_of(place: &Path, group: Option<&Path>, body: &str) -> Child {
    command(place, group, body).spawn().unwrap()
}

fn command(place: &Path, group: Option<&Path>, body: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "agent::agent_that_is_killed", "--ignored"]).env(PLACE, place);
    if let Some(group) = group {
        command.env(GROUP, group);
    }
    command.env(BODY_OF, body);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn starts(place: &Path) -> Vec<i32> {
    let text = fs::read_to_string(place.join("payloads/kept/state/starts")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Numbers from a generator that is the same each time.
fn times() -> impl Iterator<Item = Duration> {
    let mut random = 0x9e37_79b9_u64;
    std::iter::repeat_with(move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        Duration::from_micros(random % 20_000)
    })
}

#[test]
fn a_payload_survives_its_agents_and_is_never_doubled() {
    let place = directory("agents");
    let group = root().then(|| cgroup("agents")).flatten();
    let mut first = agent(&place, group.as_deref());
    until("it runs", || starts(&place).len() == 1);
    first.kill().unwrap();
    first.wait().unwrap();
    let pid = starts(&place)[0];
    for time in times().take(30) {
        let mut next = agent(&place, group.as_deref());
        std::thread::sleep(time);
        next.kill().unwrap();
        next.wait().unwrap();
        assert!(lives(pid), "after {time:?}");
        assert_eq!(starts(&place), [pid], "after {time:?}");
    }
    if let Some(group) = &group {
        assert!(procs(group, "kept").contains(&pid));
    }
    block_on(async {
        let rig = Rig::with(place, group, vec![manifest()], |_| {});
        let status = rig.until("kept", |status| status.phase == Phase::Running).await;
        assert_eq!((status.pid, status.adopted), (Some(pid), true));
        // Its output has been written down all the while.
        let before = rig.log("kept").await.len();
        until("it goes on", || {
            fs::metadata(rig.directory.join("payloads/kept/log/0000000000000000")).unwrap().len()
                > before.try_into().unwrap()
        });
        // It is not our child, and its end is seen all the same.
        kill(pid, Signal::KILL);
        let status = rig.until("kept", |status| status.phase == Phase::Running && status.pid != Some(pid)).await;
        assert_eq!(status.exit, Some(Exit::Signal(9)));
        assert!(!status.adopted);
        until("it has started", || starts(&rig.directory).len() == 2);
        rig.stop("kept").await;
        rig.end().await;
    });
}

#[test]
fn agents_that_are_killed_while_they_pause_leave_one_payload_that_goes_on() {
    let place = directory("holds");
    let group = root().then(|| cgroup("holds")).flatten();
    let mut first = agent_that_holds(&place, group.as_deref());
    until("it runs", || starts(&place).len() == 1);
    let pid = starts(&place)[0];
    let frozen = || {
        let file = group.as_ref().map(|group| group.join("payloads/kept/cgroup.freeze"));
        file.is_none_or(|file| fs::read_to_string(file).is_ok_and(|text| text == "1\n"))
    };
    for time in times().take(20) {
        until("it is paused once", frozen);
        std::thread::sleep(time);
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(lives(pid) && starts(&place) == [pid], "after {time:?}");
        first = agent_that_holds(&place, group.as_deref());
    }
    first.kill().unwrap();
    first.wait().unwrap();
    block_on(async {
        // To this agent nobody says any hold.
        let rig = Rig::with(place, group, vec![kept("mining", BODY)], |_| {});
        let status = rig.until("kept", |status| status.phase == Phase::Running).await;
        assert_eq!((status.pid, status.restarts), (Some(pid), 0));
        let before = rig.log("kept").await.len();
        until_quiet("it goes on", || {
            fs::metadata(rig.directory.join("payloads/kept/log/0000000000000000")).unwrap().len()
                > before.try_into().unwrap()
        })
        .await;
        rig.stop("kept").await;
        rig.end().await;
    });
}

#[test]
fn one_that_was_started_under_another_cgroup_is_paused_and_ended_as_one_all_the_same() {
    if !root() {
        return;
    }
    let (Some(old), Some(new)) = (cgroup("moved-old"), cgroup("moved-new")) else { return };
    let _guard = Guard(Some(old.clone()));
    // What leaves its session is held by its cgroup alone.
    let body =
        "setsid sh -c 'trap \"\" TERM; echo $$ > child; while :; do echo >> count; sleep 0.01; done' & exec sleep 1000";
    let manifest = || script_of("mining", "kept", body, "[stop]\ngrace_s = 1");
    block_on(async {
        let rig = Rig::with(directory("moved"), Some(old.clone()), vec![manifest()], |_| {});
        rig.start("kept").await.unwrap();
        let pid = rig.until("kept", |status| status.phase == Phase::Running).await.pid;
        let state = rig.directory.join("payloads/kept/state");
        let count = || fs::metadata(state.join("count")).map_or(0, |file| file.len());
        until_quiet("its child counts", || count() > 0).await;
        let child = fs::read_to_string(state.join("child")).unwrap().trim().parse().unwrap();
        let (place, _) = rig.leave().await;

        let rig = Rig::with(place, Some(new), vec![manifest()], |_| {});
        let status = rig.until("kept", |status| status.phase == Phase::Running).await;
        assert_eq!((status.pid, status.adopted), (pid, true));
        rig.hold("kept", Hold::Pause).await;
        rig.until("kept", |status| status.phase == Phase::Paused && status.paused == Some(By::Freezer)).await;
        assert_eq!(fs::read_to_string(old.join("payloads/kept/cgroup.freeze")).unwrap(), "1\n");
        rig.hold("kept", Hold::Free).await;
        let before = count();
        until_quiet("it goes on", || count() > before).await;
        rig.stop("kept").await;
        assert!(!lives(child), "{child} is left");
        assert!(!old.join("payloads/kept").exists());
        // From now on it is where it belongs.
        rig.start("kept").await.unwrap();
        let pid = rig.until("kept", |status| status.phase == Phase::Running).await.pid.unwrap();
        assert!(rig.procs("kept").contains(&pid));
        rig.stop("kept").await;
        rig.end().await;
    });
    clean(Path::new("/nonexistent"), Some(&old));
}

#[test]
fn an_agent_that_is_killed_while_it_starts_leaves_one_or_none() {
    let place = directory("early");
    let group = root().then(|| cgroup("early")).flatten();
    for time in times().take(40) {
        let mut next = agent(&place, group.as_deref());
        // Most of this is the agent's own start.
        std::thread::sleep(time / 2);
        next.kill().unwrap();
        next.wait().unwrap();
        let alive: Vec<i32> = starts(&place).into_iter().filter(|pid| lives(*pid)).collect();
        assert!(alive.len() <= 1, "{alive:?} after {time:?}");
    }
    block_on(async {
        let rig = Rig::with(place, group, vec![manifest()], |_| {});
        // What is adopted first may be a child that never got the word and ends; then another one comes.
        let began = rigd::clock::now();
        let pid = loop {
            let running = rig.until("kept", |status| status.phase == Phase::Running).await.pid.unwrap();
            if starts(&rig.directory).contains(&running) {
                break running;
            }
            assert!(began.elapsed() < DEADLINE, "{running} has not said so");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let alive: Vec<i32> = starts(&rig.directory).into_iter().filter(|pid| lives(*pid)).collect();
        assert_eq!(alive, [pid]);
        rig.stop("kept").await;
        rig.end().await;
    });
}

#[test]
fn what_was_stopped_stays_stopped_and_what_died_alone_runs_again() {
    block_on(async {
        let rig =
            Rig::with(directory("stopped"), root().then(|| cgroup("stopped")).flatten(), vec![manifest()], |_| {});
        let pid = rig.until("kept", |status| status.phase == Phase::Running).await.pid.unwrap();
        rig.until_said("kept", "tick").await;
        let (place, group) = rig.leave().await;
        assert!(lives(pid));
        kill(pid, Signal::KILL);
        let rig = Rig::with(place, group, vec![manifest()], |_| {});
        // As it is our own child it may be found as a zombie first.
        rig.until("kept", |status| status.phase == Phase::Running && status.pid != Some(pid)).await;
        rig.stop("kept").await;
        let (place, group) = rig.leave().await;
        let before = starts(&place).len();
        let rig = Rig::with(place, group, vec![manifest()], |_| {});
        assert_eq!(rig.until("kept", |_| true).await.phase, Phase::Stopped);
        assert!(!rig.log("kept").await.is_empty());
        assert_eq!(starts(&rig.directory).len(), before);
        let (place, group) = rig.leave().await;
        clean(&place, group.as_deref());
    });
}
