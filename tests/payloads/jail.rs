//! A payload that tries what it must not: this test, run as one.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};

use rigd::payload::lifecycle::{Exit, Phase};
use rigd::payload::manifest::Manifest;
use rigd::payload::sandbox::{Layer, Layers};

use super::rig::{Rig, block_on, root};

/// What the payload tries. Says `name: ok` or `name: <error>`.
fn tries() -> Vec<(&'static str, Result<(), String>)> {
    let text = |error: std::io::Error| error.to_string();
    let call = |result: i64| if result < 0 { Err(std::io::Error::last_os_error().to_string()) } else { Ok(()) };
    let state = std::env::var("HOME").unwrap();
    vec![
        ("own file", fs::write(format!("{state}/file"), "x").map_err(text)),
        ("own tmp", fs::write(format!("{}/file", std::env::var("TMPDIR").unwrap()), "x").map_err(text)),
        ("tmp", fs::write(format!("/tmp/{}", std::env::var("RIGD_PAYLOAD").unwrap()), "x").map_err(text)),
        ("null", fs::write("/dev/null", "x").map_err(text)),
        ("library", fs::read_dir("/usr/lib").map(drop).map_err(text)),
        ("passwords", fs::read("/etc/shadow").map(drop).map_err(text)),
        ("etc", fs::write("/etc/rigd-jail", "x").and_then(|()| fs::remove_file("/etc/rigd-jail")).map_err(text)),
        (
            "outside",
            fs::write("/var/tmp/rigd-jail", "x").and_then(|()| fs::remove_file("/var/tmp/rigd-jail")).map_err(text),
        ),
        ("home", fs::read_dir("/root").map(drop).map_err(text)),
        ("disk", fs::read_dir("/dev").map(drop).map_err(text)),
        ("listen", TcpListener::bind("127.0.0.1:0").map(drop).map_err(text)),
        ("connect", TcpStream::connect("127.0.0.1:9").map(drop).map_err(text)),
        (
            "mount",
            rustix::mount::mount("none", "/mnt", "tmpfs", rustix::mount::MountFlags::empty(), None)
                .map_err(|e| text(e.into())),
        ),
        // SAFETY: PTRACE_TRACEME changes nothing but who may trace this process.
        ("ptrace", call(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) })),
        // SAFETY: no flags: it would do nothing.
        ("namespace", call(i64::from(unsafe { libc::unshare(libc::CLONE_NEWUSER) }))),
        // SAFETY: asks for the session's keyring.
        ("keys", call(unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) })),
        // SAFETY: an unknown command with no memory.
        ("bpf", call(unsafe { libc::syscall(libc::SYS_bpf, 9_999, 0_usize, 0) })),
        // SAFETY: sends nothing, only asks whether it might.
        ("signal", call(i64::from(unsafe { libc::kill(1, 0) }))),
        ("process", std::process::Command::new("/bin/true").status().map(drop).map_err(text)),
        ("thread", std::thread::spawn(|| ()).join().map_err(|_| "panicked".to_owned())),
    ]
}

#[test]
#[ignore = "run as a payload by the others"]
fn payload_that_tries() {
    let mut said = std::io::stdout();
    for (name, result) in tries() {
        writeln!(said, "{name}: {}", result.err().unwrap_or_else(|| "ok".to_owned())).unwrap();
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    for key in ["Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"] {
        let line = status.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap();
        writeln!(said, "{}", line.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap();
    }
    writeln!(said, "oom {}", fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim()).unwrap();
    writeln!(said, "names {}", std::env::vars().map(|(name, _)| name).collect::<Vec<_>>().join(" ")).unwrap();
    writeln!(said, "the end").unwrap();
}

/// Whether this kernel has what a layer takes, asked apart from the agent.
pub(crate) fn possible(layer: Layer) -> bool {
    // SAFETY: with this flag the kernel reads no attribute and answers its version (landlock_create_ruleset(2)).
    let landlock = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, 1_u32) };
    let possible = match layer {
        Layer::Files => landlock >= 1,
        Layer::Ports => landlock >= 4,
        Layer::Scope => landlock >= 6,
        Layer::SystemCalls => fs::exists("/proc/sys/kernel/seccomp/actions_avail").unwrap(),
        Layer::Cgroup | Layer::Tmp | Layer::NoNewPrivs | Layer::Capabilities => true,
    };
    if !possible {
        eprintln!("this kernel cannot give the layer {}", layer.name());
    }
    possible
}

/// Runs one of these tests as a payload with this sandbox, and gives what it said and how it ended.
pub(crate) fn tried(name: &str, test: &str, user: &str, sandbox: &str) -> (Vec<String>, Layers, Exit) {
    let exe = std::env::current_exe().unwrap();
    // Where everybody may run it, and out of /tmp.
    let home = super::rig::directory(&format!("{name}-bin"));
    let program = home.join("payload");
    // By another process: a child that another test forks while this one writes could not be told to let go of it, and what
    // somebody may write to is not run (execve(2), ETXTBSY).
    assert!(std::process::Command::new("cp").arg(exe).arg(&program).status().unwrap().success());
    let text = format!(
        "kind = \"batch\"\nargv = [\"{}\", \"--exact\", \"{test}\", \"--ignored\", \"--nocapture\"]\n{user}\n\
         [sandbox]\nread = [\"{}\"]\n{sandbox}\n[restart]\npolicy = \"never\"",
        program.display(),
        home.display(),
    );
    let manifest = Manifest::parse(name, name, &text).unwrap_or_else(|problems| panic!("{problems}"));
    let mut found = None;
    block_on(async {
        let rig = Rig::new(name, vec![manifest]);
        rig.start(name).await.unwrap();
        let status = rig
            .until(name, |status| matches!(status.phase, Phase::Stopped | Phase::Failed(_)) && status.exit.is_some())
            .await;
        let said = rig.until_said(name, "the end").await;
        found = Some((said.lines().map(str::to_owned).collect(), status.layers, status.exit.unwrap()));
        rig.end().await;
    });
    fs::remove_dir_all(home).unwrap();
    found.unwrap()
}

fn check(said: &[String], expected: &[(&str, &str)]) {
    for (name, expected) in expected {
        let line = said
            .iter()
            .find(|line| line.starts_with(&format!("{name}: ")))
            .unwrap_or_else(|| panic!("no {name} in {said:?}"));
        assert!(line[name.len() + 2..].starts_with(expected), "{line}, not {expected}");
    }
}

const TRIES: &str = "jail::payload_that_tries";
const DENIED: &str = "Permission denied";
const REFUSED: &str = "Operation not permitted";

#[test]
fn a_jailed_payload_does_no_more_than_it_is_for() {
    let root = root();
    let user = if root { "user = \"root\"" } else { "" };
    let (said, layers, _) = tried("jailed", TRIES, user, "tcp_bind = [1]\ntcp_connect = [1]");
    eprintln!("{layers:?}");
    for layer in [Layer::NoNewPrivs, Layer::Files, Layer::Ports, Layer::Scope, Layer::SystemCalls] {
        assert_eq!(layers.held.has(layer), possible(layer), "{}", layer.name());
    }
    if layers.held.has(Layer::Files) {
        check(
            &said,
            &[
                ("own file", "ok"),
                ("own tmp", "ok"),
                ("null", "ok"),
                ("library", "ok"),
                ("passwords", DENIED),
                ("etc", DENIED),
                ("outside", DENIED),
                ("home", DENIED),
                ("disk", DENIED),
            ],
        );
    }
    if layers.held.has(Layer::Tmp) {
        check(&said, &[("tmp", "ok")]);
        assert!(!std::path::Path::new("/tmp/jailed").exists());
    }
    if layers.held.has(Layer::Ports) {
        check(&said, &[("listen", DENIED), ("connect", DENIED)]);
    }
    if layers.held.has(Layer::Scope) {
        check(&said, &[("signal", REFUSED)]);
    }
    if layers.held.has(Layer::SystemCalls) {
        check(
            &said,
            &[
                ("mount", REFUSED),
                ("ptrace", REFUSED),
                ("namespace", REFUSED),
                ("keys", REFUSED),
                ("bpf", REFUSED),
                ("process", "ok"),
                ("thread", "ok"),
            ],
        );
        assert!(said.contains(&"Seccomp: 2".to_owned()));
    }
    if layers.held.has(Layer::Capabilities) {
        assert!(said.contains(&"CapEff: 0000000000000000".to_owned()), "{said:?}");
        // Only root could have got any back.
        assert!(!root || said.contains(&"CapBnd: 0000000000000000".to_owned()), "{said:?}");
    }
    assert!(said.contains(&"NoNewPrivs: 1".to_owned()) && said.contains(&"oom 100".to_owned()));
    let names = said.iter().find(|line| line.starts_with("names ")).unwrap();
    let expected = "names CUDA_DEVICE_ORDER CUDA_VISIBLE_DEVICES HOME LANG LOGNAME PATH RIGD_PAYLOAD TMPDIR USER";
    assert_eq!(names, expected);
}

#[test]
fn what_is_left_off_is_left_off() {
    if !root() {
        return;
    }
    let (said, layers, _) = tried(
        "open",
        TRIES,
        "user = \"root\"",
        "off = [\"files\", \"ports\", \"scope\", \"capabilities\", \"tmp\"]\ntcp_bind = [1]",
    );
    fs::remove_file("/tmp/open").unwrap();
    check(&said, &[("passwords", "ok"), ("listen", "ok"), ("signal", "ok"), ("disk", "ok"), ("mount", REFUSED)]);
    assert!(!layers.held.has(Layer::Files) && !layers.missing.has(Layer::Files) && layers.held.has(Layer::SystemCalls));
}

#[test]
fn another_user_is_another_user() {
    if !root() {
        return;
    }
    let (said, ..) = tried("other", TRIES, "user = \"nobody\"", "off = [\"files\"]");
    check(&said, &[("own file", "ok"), ("passwords", DENIED), ("etc", DENIED), ("listen", "ok")]);
    let uid = said.iter().find(|line| line.starts_with("Uid: ")).unwrap();
    assert_eq!(uid, "Uid: 65534 65534 65534 65534");
}
