//! Payloads that do what they should not, and clocks that jump.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rigd::payload::lifecycle::{Action, Cause, Event, Exit, Failure, Phase, Policy, Restart, Rules, State, next, wake};
use rigd::payload::supervisor::Status;
use rustix::process::Signal;

use super::rig::{Rig, block_on, directory, kill, lives, no_clone3, root, script, until, until_quiet};

fn restart(policy: Policy) -> Restart {
    let second = Duration::from_secs(1);
    let (max, window, stable) = (300 * second, 3_600 * second, 60 * second);
    Restart { policy, min: second, max, budget: 10, window, stable }
}

fn rules() -> Rules {
    Rules {
        restart: restart(Policy::Always),
        grace: Duration::from_secs(30),
        probe: None,
        expect: None,
        pausable: true,
    }
}

#[test]
fn one_that_ends_at_once_a_thousand_times_is_never_a_loop() {
    let rules = rules();
    let (budget, window) = (usize::try_from(rules.restart.budget).unwrap(), rules.restart.window);
    let (mut state, mut now, mut starts) = (State::default(), Duration::from_secs(1), Vec::new());
    let mut ends = 0;
    while ends < 1_000 {
        let event = match (state.phase, wake(&rules, &state)) {
            (Phase::Starting, _) => Event::Spawned,
            (Phase::Running, _) => Event::Exited(Exit::Code(1)),
            (Phase::BackingOff { .. }, Some(until)) => {
                now = now.max(until);
                Event::Tick
            }
            // Somebody orders it again at once, each time it was given up.
            (phase, _) => {
                assert!(matches!(phase, Phase::Stopped | Phase::Failed(Failure::Budget)), "{phase:?}");
                Event::Start
            }
        };
        ends += usize::from(matches!(event, Event::Exited(_)));
        let (after, action) = next(&rules, state, event, now, u32::MAX / 3);
        if action == Some(Action::Spawn) {
            starts.push(now);
        }
        state = after;
    }
    assert_eq!(starts.len(), 1_000);
    let closest = starts.windows(budget + 1).map(|span| span[budget] - span[0]).min().unwrap();
    assert!(closest >= window, "{} starts within {closest:?}", budget + 1);
}

#[test]
fn a_clock_that_jumps_ahead_over_a_sleep_of_the_rig_ends_every_wait_and_starts_nothing_twice() {
    let rules = rules();
    let (start, jump) = (Duration::from_secs(100), Duration::from_secs(9 * 86_400));
    let run = |events: &[Event]| {
        events.iter().fold((State::default(), None), |(state, _), event| next(&rules, state, *event, start, 0))
    };
    let exit = Event::Exited(Exit::Code(1));
    let waiting = run(&[Event::Start, Event::Spawned, exit, Event::Spawned, exit]).0;
    assert!(matches!(waiting.phase, Phase::BackingOff { .. }), "{waiting:?}");
    let draining = run(&[Event::Start, Event::Spawned, Event::Stop]).0;
    let running = run(&[Event::Start, Event::Spawned]).0;
    for (name, state, action) in [
        ("waiting", waiting, Some(Action::Spawn)),
        ("draining", draining, Some(Action::Kill)),
        ("running", running, None),
    ] {
        let (state, first) = next(&rules, state, Event::Tick, start + jump, 0);
        assert_eq!(first, action, "{name}");
        assert!(wake(&rules, &state).is_none_or(|at| at > start + jump), "{name}: wakes for ever at {state:?}");
        assert_eq!(next(&rules, state, Event::Tick, start + jump, 0).1, None, "{name}");
    }
}

#[test]
fn a_clock_that_went_back_panics_nowhere() {
    // No clock of Linux that counts from the boot does. A record of a boot that is taken for this one would look like it.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut any = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for policy in [Policy::Always, Policy::OnFailure, Policy::Never] {
        let rules = Rules { restart: restart(policy), ..rules() };
        let mut state = State::default();
        for _ in 0..20_000 {
            let events = [
                Event::Start,
                Event::Stop,
                Event::Restart,
                Event::Spawned,
                Event::NotSpawned { lasting: false },
                Event::Exited(Exit::Signal(9)),
                Event::Exited(Exit::Code(0)),
                Event::Tick,
                Event::Clear,
                Event::Drain(Duration::from_secs(any(100))),
            ];
            let event = events[usize::try_from(any(10)).unwrap()];
            let now = Duration::from_secs(any(1 << 20));
            state = next(&rules, state, event, now, 0).0;
            assert!(wake(&rules, &state).is_none_or(|at| at < Duration::from_secs(1 << 22)), "{state:?}");
        }
    }
}

#[test]
fn nothing_of_a_payloads_life_asks_the_clock_on_the_wall() {
    fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                rust_files(&entry.path(), found);
            } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
                found.push(entry.path());
            }
        }
    }
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/payload"), &mut files);
    assert!(files.len() > 20, "{files:?}");
    // A day's budget of reboots outlives the boot, and with it every clock but that one; one that jumped errs towards none.
    for file in files.iter().filter(|file| !file.ends_with("reboot.rs")) {
        let text = fs::read_to_string(file).unwrap();
        for clock in ["unix_ms", "SystemTime", "local_minute"] {
            assert!(!text.contains(clock), "{} reads {clock}, which jumps", file.display());
        }
    }
}

#[test]
fn a_fork_bomb_is_held_in_its_limit_and_ended_as_one() {
    if !root() {
        return;
    }
    block_on(async {
        // A user of this test alone: where the kernel does not count a group's processes, it counts a user's. It would stop at a
        // thousand, so that a limit that does not hold fails the test and not the machine.
        let body = "b() { if [ $1 -gt 0 ]; then b $(($1-1)) & b $(($1-1)) & fi; exec sleep 1000; }; (b 9 &) 2> /dev/null; \
                    echo lit; exec sleep 1000";
        let text = format!(
            "kind = \"batch\"\nargv = [\"/bin/sh\", \"-c\", \"{body}\"]\nuser = \"news\"\n[limits]\npids = 50\n[stop]\ngrace_s = 1\n\
             [restart]\npolicy = \"never\""
        );
        let rig = Rig::new("bomb", vec![rigd::payload::manifest::Manifest::parse("bomb", "bomb", &text).unwrap()]);
        rig.start("bomb").await.unwrap();
        rig.until_said("bomb", "lit").await;
        until("it has gone off", || rig.procs("bomb").len() > 20);
        let most = (0..200).map(|_| rig.procs("bomb").len()).max().unwrap();
        assert!(most <= 51, "{most} processes");
        rig.stop("bomb").await;
        assert!(rig.procs("bomb").is_empty());
        rig.end().await;
    });
}

#[test]
fn one_that_leaves_children_and_ends_takes_them_with_it_each_time() {
    if !root() {
        return;
    }
    block_on(async {
        let body = "for i in 1 2 3; do sleep 1000 & echo $! >> children; done; echo ran; exit 7";
        let rig = Rig::new("litter", vec![script("litter", body, "[restart]\nbudget = 3\nmin_s = 1")]);
        // It may have ended before the order is answered.
        let _ = rig.start("litter").await;
        let given_up = |status: &Status| status.phase == Phase::Failed(Failure::Budget);
        let status = rig.until("litter", given_up).await;
        assert_eq!(status.cause, Some(Cause::Exit(Exit::Code(7))));
        assert_eq!(rig.until_said("litter", "ran\nran\nran\n").await.lines().count(), 3);
        let children = fs::read_to_string(rig.directory.join("payloads/litter/state/children")).unwrap();
        let children: Vec<i32> = children.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(children.len(), 9);
        assert!(children.iter().all(|pid| !lives(*pid)) && rig.procs("litter").is_empty());
        rig.end().await;
    });
}

/// Processes of a session that are there; of ended ones, those that are ours to wait for.
fn session(leader: i32) -> usize {
    let is_of = |stat: &str| {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let (state, parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let ours = parent == std::process::id().to_string();
        (session == leader.to_string() && (state != "Z" || ours)).then_some(())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    stats.filter(|stat| is_of(stat).is_some()).count()
}

#[test]
fn a_probe_leaves_nothing_behind_whether_it_hangs_or_ends() {
    block_on(async {
        let more = |body: &str| {
            let body = format!("echo $$ >> asked; {body}");
            format!("[probe]\nexec = [\"/bin/sh\", \"-c\", \"{body}\"]\ninterval_s = 1\ntimeout_s = 1\nfailures = 100")
        };
        let names = ["hangs", "litters"];
        let manifests = [("hangs", "sleep 1000; true"), ("litters", "sleep 1000 & exit 0")]
            .map(|(name, body)| script(name, "exec sleep 1000", &more(body)));
        // Without cgroups, in which all of it would end with its payload.
        let rig = Rig::with(directory("asked"), Some("/nonexistent".into()), manifests.into(), |_| {});
        let asked = |name: &str| -> Vec<i32> {
            let file = rig.directory.join("payloads").join(name).join("state/asked");
            // The last line may not be whole yet.
            let text = fs::read_to_string(file).unwrap_or_default();
            text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
        };
        for name in names {
            rig.start(name).await.unwrap();
        }
        for name in names {
            until_quiet("the third", || asked(name).len() >= 3).await;
            for leader in &asked(name)[..2] {
                until_quiet("one of the first two", || session(*leader) == 0).await;
            }
        }
        assert_eq!(rig.until("litters", |status| status.pid.is_some()).await.phase, Phase::Running);
        // And one that is given up with its payload.
        for name in names {
            rig.stop(name).await;
            for leader in asked(name) {
                until_quiet("one of all", || session(leader) == 0).await;
            }
        }
        rig.end().await;
    });
}

#[test]
fn a_child_that_was_killed_for_memory_is_the_reason_only_where_it_ended_the_payload() {
    block_on(async {
        // Files play the kernel's part, since the kernel of a desk may count no memory; no process can be made in their directory.
        no_clone3();
        let place = directory("memory");
        let group = place.join("group/payloads/memory");
        fs::create_dir_all(&group).unwrap();
        for (directory, file, text) in [
            ("..", "cgroup.procs", ""),
            (".", "cgroup.procs", ""),
            (".", "cgroup.events", "populated 0\n"),
            (".", "memory.events", "oom 0\noom_kill 0\n"),
        ] {
            fs::write(group.join(directory).join(file), text).unwrap();
        }
        let body = "while ! [ -s code ]; do sleep 0.01; done; read code < code; rm code; exit $code";
        let manifest = script("memory", body, "[restart]\npolicy = \"never\"");
        let rig = Rig::with(place.clone(), Some(place.join("group")), vec![manifest], |_| {});
        // Kills so far, the code of a shell or of podman, what it was.
        for (kills, code, expected) in [
            (1, 137, Exit::OutOfMemory),
            (1, 137, Exit::Code(137)),
            (2, 0, Exit::Code(0)),
            (3, 143, Exit::Code(143)),
            (5, 1, Exit::OutOfMemory),
        ] {
            rig.start("memory").await.unwrap();
            rig.until("memory", |status| status.pid.is_some()).await;
            fs::write(group.join("memory.events"), format!("oom {kills}\noom_kill {kills}\n")).unwrap();
            fs::write(place.join("payloads/memory/state/code"), format!("{code}\n")).unwrap();
            let status = rig.until("memory", |status| status.pid.is_none()).await;
            assert_eq!((status.exit, status.cause), (Some(expected), Some(Cause::Exit(expected))), "{kills} {code}");
        }
        rig.leave().await;
        fs::remove_dir_all(place).unwrap();
    });
}

#[test]
fn one_whose_daemon_left_its_session_and_ignores_the_signal_is_drained_in_its_time() {
    if !root() {
        return;
    }
    block_on(async {
        // The usual way to become a daemon: fork, a session of its own, fork again, and the parents end.
        let body = "(setsid sh -c 'trap \"\" TERM HUP; (trap \"\" TERM HUP; echo $$ > deep; while :; do sleep 0.05; done) &'); \
                    trap '' TERM; echo deaf; while :; do sleep 0.05; done";
        let rig = Rig::new("deep", vec![script("deep", body, "[stop]\ngrace_s = 1")]);
        rig.start("deep").await.unwrap();
        rig.until_said("deep", "deaf").await;
        until("both run", || rig.procs("deep").len() >= 2);
        let all = rig.procs("deep");
        let status = rig.stop("deep").await;
        assert_eq!(status.exit, Some(Exit::Signal(9)));
        assert!(rig.procs("deep").is_empty() && all.iter().all(|pid| !lives(*pid)));
        rig.end().await;
    });
}

#[test]
fn a_program_that_is_gone_at_its_next_start_is_given_up_and_comes_back_by_order() {
    block_on(async {
        let place = super::rig::directory("gone-bin");
        let program = place.join("worker");
        // A script is opened by name by its interpreter; what is copied is a program of its own.
        fs::copy("/bin/sleep", &program).unwrap();
        let user = if root() { "user = \"nobody\"\n" } else { "" };
        let text = format!("kind = \"ai\"\nargv = [{program:?}, \"1000\"]\n{user}");
        let manifest = rigd::payload::manifest::Manifest::parse("gone", "gone", &text).unwrap();
        let rig = Rig::new("gone", vec![manifest]);
        rig.start("gone").await.unwrap();
        let pid = rig.until("gone", |status| status.phase == Phase::Running).await.pid.unwrap();
        fs::remove_file(&program).unwrap();
        kill(pid, Signal::KILL);
        let status = rig.until("gone", |status| status.phase == Phase::Failed(Failure::Start)).await;
        let error = status.error.unwrap_or_default();
        assert!(error.starts_with("could not run its program: No such file"), "{error}");
        fs::copy("/bin/sleep", &program).unwrap();
        rig.start("gone").await.unwrap();
        rig.stop("gone").await;
        rig.end().await;
        fs::remove_dir_all(place).unwrap();
    });
}
