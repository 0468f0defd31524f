//! What processes do, and what is done about it.

use std::fs;
use std::time::Duration;

use rigd::clock;
use rigd::payload::lifecycle::{Cause, Exit, Failure, Phase};
use rigd::payload::manifest::Manifest;
use rigd::payload::sandbox::Layer;
use rigd::payload::supervisor::{Refusal, Status, What};

use rustix::process::Signal;

use super::rig::{
    DEADLINE, Rig, block_on, cgroup, directory, kill, lives, no_clone3, root, script, until, until_quiet, zombies,
};

fn running(status: &Status) -> bool {
    status.phase == Phase::Running
}

#[test]
fn it_runs_says_something_and_ends_when_told() {
    block_on(async {
        let rig = Rig::new("plain", vec![script("plain", "echo hello; pwd; exec sleep 1000", "")]);
        assert_eq!(rig.start("plain").await, Ok(()));
        assert_eq!(rig.start("nobody").await, Err(Refusal::Unknown));
        let pid = rig.until("plain", running).await.pid.unwrap();
        let log = rig.until_said("plain", "state\n").await;
        assert_eq!(log, format!("hello\n{}\n", rig.directory.join("payloads/plain/state").display()));
        let status = rig.stop("plain").await;
        assert_eq!((status.exit, status.pid), (Some(Exit::Signal(15)), None));
        assert!(!lives(pid));
        rig.end().await;
    });
}

#[test]
fn one_that_ignores_the_signal_is_killed() {
    block_on(async {
        let body = "trap '' TERM; echo deaf; while :; do sleep 0.05; done";
        let rig = Rig::new("deaf", vec![script("deaf", body, "[stop]\ngrace_s = 1")]);
        rig.start("deaf").await.unwrap();
        rig.until_said("deaf", "deaf").await;
        let before = clock::now();
        let status = rig.stop("deaf").await;
        assert_eq!(status.exit, Some(Exit::Signal(9)));
        assert!(before.elapsed() >= Duration::from_secs(1));
        rig.end().await;
    });
}

#[test]
fn what_detaches_itself_dies_with_it() {
    if !root() {
        return;
    }
    block_on(async {
        let body = "(setsid sh -c 'setsid sleep 1000 & setsid sleep 1000 &' > /dev/null 2>&1 < /dev/null); echo ready; exec sleep 1000";
        let rig = Rig::new("daemon", vec![script("daemon", body, "[restart]\npolicy = \"never\"")]);
        rig.start("daemon").await.unwrap();
        rig.until_said("daemon", "ready").await;
        until("all three run", || rig.procs("daemon").len() == 3);
        let pids = rig.procs("daemon");
        rig.stop("daemon").await;
        assert!(pids.iter().all(|pid| !lives(*pid)));
        // And where the first of them ends by itself.
        rig.start("daemon").await.unwrap();
        let pid = rig.until("daemon", running).await.pid.unwrap();
        until("all three run", || rig.procs("daemon").len() == 3);
        kill(pid, Signal::INT);
        let status = rig.until("daemon", |status| status.phase == Phase::Failed(Failure::Ended)).await;
        assert_eq!(status.exit, Some(Exit::Signal(2)));
        assert!(rig.procs("daemon").is_empty());
        rig.end().await;
    });
}

#[test]
fn a_crowd_is_killed_as_one() {
    if !root() {
        return;
    }
    block_on(async {
        let body = "trap '' TERM; i=0; while [ $i -lt 200 ]; do (trap '' TERM; sleep 1000) & i=$((i+1)); done; echo crowd; wait";
        let rig = Rig::new("crowd", vec![script("crowd", body, "[stop]\ngrace_s = 0")]);
        rig.start("crowd").await.unwrap();
        rig.until_said("crowd", "crowd").await;
        assert!(rig.procs("crowd").len() > 200);
        rig.stop("crowd").await;
        assert!(rig.procs("crowd").is_empty());
        rig.end().await;
    });
}

#[test]
fn one_that_closes_its_output_goes_on() {
    block_on(async {
        let rig = Rig::new("mute", vec![script("mute", "exec >&- 2>&- <&-; exec sleep 1000", "")]);
        rig.start("mute").await.unwrap();
        let pid = rig.until("mute", running).await.pid.unwrap();
        until("it is asleep", || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n");
        assert!(running(&rig.until("mute", running).await) && lives(pid));
        rig.stop("mute").await;
        rig.end().await;
    });
}

#[test]
fn one_that_babbles_stays_within_its_budget() {
    block_on(async {
        let more = "[log]\nmax_kib = 256\nmax_kib_per_s = 64";
        let rig = Rig::new(
            "babble",
            vec![script("babble", "head -c 400000000 /dev/zero | tr '\\0' x; echo; echo done; exec sleep 1000", more)],
        );
        rig.start("babble").await.unwrap();
        let logs = rig.directory.join("payloads/babble/log");
        let size = || -> u64 {
            // A file may go while it is looked at.
            fs::read_dir(&logs)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.metadata().ok())
                .map(|file| file.len())
                .sum()
        };
        let pid = rig.until("babble", running).await.pid.unwrap();
        let mut largest = 0;
        let deadline = clock::now() + DEADLINE;
        while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "sleep\n" {
            largest = largest.max(size());
            assert!(clock::now() < deadline);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(largest > 0 && largest <= 256 * 1024, "{largest} bytes");
        rig.stop("babble").await;
        rig.end().await;
    });
}

#[test]
fn the_first_failure_is_answered_at_once_and_a_loop_ends() {
    block_on(async {
        let more = "[restart]\nbudget = 3\nmin_s = 1";
        let rig = Rig::new("loop", vec![script("loop", "echo run; exit 3", more)]);
        // It may have failed again before the order is answered; that is no refusal.
        let _ = rig.start("loop").await;
        let status = rig.until("loop", |status| status.phase == Phase::Failed(Failure::Budget)).await;
        assert_eq!((status.restarts, status.exit), (2, Some(Exit::Code(3))));
        assert_eq!(status.cause, Some(Cause::Exit(Exit::Code(3))));
        assert_eq!(rig.until_said("loop", "run\nrun\nrun\n").await, "run\nrun\nrun\n");
        rig.end().await;
    });
}

#[test]
fn one_that_is_killed_runs_again_in_moments() {
    block_on(async {
        let rig = Rig::new("again", vec![script("again", "exec sleep 1000", "")]);
        rig.start("again").await.unwrap();
        let mut waits = Vec::new();
        for _ in 0..30 {
            let pid = rig.until("again", running).await.pid.unwrap();
            // The next failure is the first again.
            rig.order("again", What::Clear).await.unwrap();
            let before = clock::now();
            kill(pid, Signal::KILL);
            rig.until("again", |status| running(status) && status.pid != Some(pid)).await;
            waits.push(before.elapsed());
            assert!(!lives(pid));
        }
        waits.sort();
        eprintln!("from SIGKILL to running, debug build: median {:?}, worst {:?}", waits[15], waits[29]);
        assert!(waits[15] < Duration::from_secs(2), "{waits:?}");
        rig.stop("again").await;
        rig.end().await;
    });
}

#[test]
fn what_cannot_be_started_says_why_and_is_left_at_that() {
    let base = "kind = \"ai\"\n";
    let user = if root() { "user = \"nobody\"\n" } else { "" };
    let cases = [
        (
            "missing",
            format!("{base}argv = [\"/nonexistent/miner\"]\n{user}"),
            "could not run its program: No such file",
        ),
        (
            "directory",
            format!("{base}argv = [\"/bin/sh\"]\n{user}working_directory = \"/nonexistent\""),
            "could not enter its working directory",
        ),
        ("user", format!("{base}argv = [\"/bin/sh\"]\nuser = \"no-such-user\""), "there is no user `no-such-user`"),
        (
            "secret",
            format!("{base}argv = [\"/bin/sh\"]\n{user}[secret]\nKEY = \"/nonexistent\""),
            "could not read its secret KEY",
        ),
        (
            "layer",
            format!("{base}argv = [\"/bin/sh\"]\n{user}[sandbox]\nrequire = [\"cgroup\"]"),
            "could not put a layer in force that it requires",
        ),
        ("gpus", format!("{base}argv = [\"/bin/sh\"]\n{user}[gpus]\ncount = 2"), "was given 0 of 2 GPUs"),
        ("state", format!("{base}argv = [\"/bin/sh\"]\n{user}state_directory = \"/proc/x\""), "could not make /proc/x"),
    ];
    block_on(async {
        let manifests = cases.iter().map(|(name, text, _)| Manifest::parse(name, name, text).unwrap()).collect();
        let rig = Rig::with(directory("refused"), Some("/nonexistent".into()), manifests, |_| {});
        for (name, _, expected) in &cases {
            let Err(Refusal::NotStarted(text)) = rig.start(name).await else { panic!("{name} was started") };
            assert!(text.starts_with(expected), "{name}: {text}");
            let status = rig.until(name, |status| status.phase == Phase::Failed(Failure::Start)).await;
            assert_eq!((status.pid, status.error.as_deref()), (None, Some(text.as_str())));
        }
        rig.end().await;
    });
}

#[test]
fn root_is_nobodys_default() {
    if !root() {
        return;
    }
    block_on(async {
        let manifest = Manifest::parse("x", "x", "kind = \"ai\"\nargv = [\"/bin/sh\"]").unwrap();
        let rig = Rig::new("root", vec![manifest]);
        let refused = rig.start("x").await.unwrap_err().to_string();
        assert_eq!(refused, "would run as root; its manifest must name a user");
        rig.end().await;
    });
}

#[test]
fn a_disk_that_takes_nothing_starts_nothing_and_says_so() {
    if !root() {
        return;
    }
    block_on(async {
        let directory = directory("readonly");
        // Of this thread alone.
        // SAFETY: changes this thread's view of the mounts and nothing else of it.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
        let flags = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", flags).unwrap();
        let read_only = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount("none", &directory, "tmpfs", read_only, None).unwrap();
        let rig = Rig::with(directory.clone(), cgroup("readonly"), vec![script("x", "exec sleep 1000", "")], |_| {});
        let refused = rig.start("x").await.unwrap_err().to_string();
        assert!(refused.starts_with("could not make ") && refused.contains("Read-only file system"), "{refused}");
        assert!(rig.procs("x").is_empty());
        let (_, cgroup) = rig.leave().await;
        rustix::mount::unmount(&directory, rustix::mount::UnmountFlags::empty()).unwrap();
        super::rig::clean(&directory, cgroup.as_deref());
    });
}

#[test]
fn probes_decide_when_it_is_ready_and_when_it_is_not() {
    block_on(async {
        let more = "[probe]\nexec = [\"/bin/sh\", \"-c\", \"test -e healthy\"]\ninterval_s = 1\nfailures = 1";
        let rig = Rig::new("probed", vec![script("probed", "sleep 0.3; touch healthy; exec sleep 1000", more)]);
        rig.start("probed").await.unwrap();
        let pid = rig.until("probed", |status| status.phase == Phase::Starting && status.pid.is_some()).await.pid;
        assert_eq!(rig.until("probed", running).await.pid, pid);
        fs::remove_file(rig.directory.join("payloads/probed/state/healthy")).unwrap();
        let status = rig.until("probed", |status| status.restarts == 1 && running(status)).await;
        assert_eq!(status.cause, Some(Cause::Unhealthy));
        assert_ne!(status.pid, pid);
        rig.stop("probed").await;
        // Keeper, probes and two runs: all were waited for.
        until_quiet("zombies", || zombies("probed") == 0).await;
        rig.end().await;
    });
}

#[test]
fn a_probe_over_http_believes_its_status() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 256];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n{{}}").as_bytes()).await.unwrap();
            }
        });
        let more = format!("[probe]\nhttp = \"http://127.0.0.1:{port}/health\"\ninterval_s = 1");
        let rig = Rig::new("http", vec![script("http", "exec sleep 1000", &more)]);
        rig.start("http").await.unwrap();
        rig.until("http", running).await;
        server.await.unwrap();
        rig.stop("http").await;
        rig.end().await;
    });
}

#[test]
fn a_restart_and_a_drain_do_what_they_say() {
    block_on(async {
        let rig = Rig::new("orders", vec![script("orders", "exec sleep 1000", "")]);
        rig.start("orders").await.unwrap();
        let first = rig.until("orders", running).await;
        rig.order("orders", What::Restart).await.unwrap();
        let second = rig.until("orders", |status| running(status) && status.pid != first.pid).await;
        assert_eq!(second.restarts, 0);
        rig.order("orders", |reply| What::Drain(Duration::from_secs(5), reply)).await.unwrap();
        rig.until("orders", |status| status.phase == Phase::Stopped).await;
        rig.end().await;
    });
}

#[test]
fn secrets_reach_the_payload_and_not_its_log() {
    block_on(async {
        let secrets = directory("secret-files");
        fs::write(secrets.join("key"), "correct horse battery\n").unwrap();
        let more = format!("[secret]\nKEY = \"{}\"\n[environment]\nPLAIN = \"p\"", secrets.join("key").display());
        let rig =
            Rig::new("secret", vec![script("secret", "echo $PLAIN ${#KEY} $KEY; echo end; exec sleep 1000", &more)]);
        rig.start("secret").await.unwrap();
        assert_eq!(rig.until_said("secret", "end").await, "p 21 ***\nend\n");
        rig.stop("secret").await;
        // Also when nothing of it is ready any more.
        assert_eq!(rig.log("secret").await, "p 21 ***\nend\n");
        rig.end().await;
        fs::remove_dir_all(secrets).unwrap();
    });
}

#[test]
fn without_cgroups_it_runs_and_ends_and_says_so() {
    block_on(async {
        let nowhere = Some("/nonexistent".into());
        let rig = Rig::with(
            directory("bare"),
            nowhere.clone(),
            vec![script("bare", "sleep 1000 & echo ready; wait", "")],
            |_| {},
        );
        rig.start("bare").await.unwrap();
        let status = rig.until("bare", running).await;
        assert!(status.layers.missing.has(Layer::Cgroup) && !status.layers.held.has(Layer::Cgroup));
        rig.until_said("bare", "ready").await;
        let pid = status.pid.unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let child: i32 = children.trim().parse().unwrap();
        // Another agent knows it again by the moment at which it was started.
        let (place, _) = rig.leave().await;
        let rig = Rig::with(place, nowhere, vec![script("bare", "", "")], |_| {});
        let status = rig.until("bare", running).await;
        assert_eq!((status.pid, status.adopted), (Some(pid), true));
        rig.order("bare", |reply| What::Drain(Duration::ZERO, reply)).await.unwrap();
        rig.until("bare", |status| status.phase == Phase::Stopped).await;
        until("both are gone", || !lives(pid) && !lives(child));
        rig.end().await;
    });
}

#[test]
fn where_there_is_no_clone3_it_is_moved_into_its_cgroup() {
    if !root() {
        return;
    }
    block_on(async {
        no_clone3();
        let body = "while read line; do case $line in Sig[BI]*) echo $line;; esac; done < /proc/self/status; echo ready; exec sleep 1000";
        let rig = Rig::new("old", vec![script("old", body, "")]);
        rig.start("old").await.unwrap();
        let status = rig.until("old", running).await;
        assert_eq!(rig.procs("old"), [status.pid.unwrap()]);
        assert!(status.layers.held.has(Layer::Cgroup));
        let said = rig.until_said("old", "ready").await;
        assert!(said.contains("SigBlk: 0000000000000000\nSigIgn: 0000000000000000\n"), "{said}");
        rig.stop("old").await;
        rig.end().await;
    });
}

#[test]
fn a_payload_inherits_no_handler_no_mask_and_no_descriptor() {
    block_on(async {
        let body = "while read line; do case $line in Sig[BI]*) echo $line;; esac; done < /proc/self/status; ls /proc/self/fd | tr '\n' ' '; echo; umask; echo ready; exec sleep 1000";
        let rig = Rig::new("clean", vec![script("clean", body, "")]);
        rig.start("clean").await.unwrap();
        let said = rig.until_said("clean", "ready").await;
        let none = "0000000000000000";
        // 3 is the directory that ls reads.
        assert_eq!(said, format!("SigBlk: {none}\nSigIgn: {none}\n0 1 2 3 \n0027\nready\n"));
        rig.stop("clean").await;
        rig.end().await;
    });
}

#[test]
fn its_output_may_be_opened_anew_and_is_no_other_after_a_run_that_changed_it() {
    block_on(async {
        // As containers' entry points do; and dd asks for errors in place of waits, which outlives it.
        let body = "echo anew > /dev/stderr; echo and >> /dev/stdout; \
                    while read key flags; do case $key in flags:) echo mode $flags;; esac; done < /proc/self/fdinfo/1; \
                    dd if=/dev/null oflag=nonblock 2> /dev/null; echo ready; exec sleep 1000";
        let rig = Rig::new("anew", vec![script("anew", body, "")]);
        rig.start("anew").await.unwrap();
        rig.until_said("anew", "ready").await;
        rig.order("anew", What::Restart).await.unwrap();
        // Whole lines are read, so that of the second run is there.
        let said = rig.until_said("anew", "ready\nanew\nand\nmode ").await;
        assert!(said.starts_with("anew\nand\nmode "), "{said}");
        let modes = said.lines().filter_map(|line| line.strip_prefix("mode "));
        let modes: Vec<u32> = modes.map(|mode| u32::from_str_radix(mode, 8).unwrap()).collect();
        // O_NONBLOCK (asm-generic/fcntl.h).
        assert!(modes.len() == 2 && modes.iter().all(|mode| mode & 0o4000 == 0), "{said}");
        rig.stop("anew").await;
        rig.end().await;
    });
}

#[test]
fn a_crowd_stays_below_its_limit_even_where_the_kernel_counts_by_user() {
    if !root() {
        return;
    }
    block_on(async {
        // Another user than that of the other tests.
        let body =
            "i=0; while [ $i -lt 500 ]; do (sleep 1000 &) 2> /dev/null; i=$((i+1)); done; echo tried; sleep 1000";
        let manifest = format!(
            "kind = \"ai\"\nargv = [\"/bin/sh\", \"-c\", \"{body}\"]\nuser = \"games\"\n[limits]\npids = 40\n[restart]\npolicy = \"never\""
        );
        let rig = Rig::new("limit", vec![Manifest::parse("limit", "limit", &manifest).unwrap()]);
        rig.start("limit").await.unwrap();
        // Either it is refused so long that it has tried all, or the shell gives up.
        let mut most = 0;
        let deadline = clock::now() + DEADLINE;
        let tried = loop {
            most = most.max(rig.procs("limit").len());
            if rig.until("limit", |_| true).await.phase != Phase::Running {
                break false;
            }
            if rig.log("limit").await.contains("tried") {
                break true;
            }
            assert!(clock::now() < deadline);
        };
        // All that it has started are there still, unless it has given up and they are gone with it.
        most = most.max(rig.procs("limit").len());
        assert!(most <= 40 && (!tried || most >= 5), "{most}, tried {tried}");
        rig.order("limit", What::Stop).await.unwrap();
        rig.until("limit", |status| status.pid.is_none()).await;
        assert!(rig.procs("limit").is_empty());
        rig.end().await;
    });
}

#[test]
fn a_limit_that_the_agent_may_not_give_is_told() {
    block_on(async {
        let rig = Rig::new("rlimit", vec![script("rlimit", "ulimit -n; echo ready; exec sleep 1000", "")]);
        rig.start("rlimit").await.unwrap();
        let said = rig.until_said("rlimit", "ready").await;
        let files: u32 = said.lines().next().unwrap().parse().unwrap();
        // Root without CAP_SYS_RESOURCE has no more to give than anybody.
        let told = rig.until("rlimit", running).await.unlimited.contains(&"open_files");
        assert!(files <= 65_536 && told == (files < 65_536), "{files} {told}");
        rig.stop("rlimit").await;
        rig.end().await;
    });
}
