//! An agent as systemd starts it with `payloads.conf`: a user of its own, with a few capabilities that are ambient.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rigd::payload::lifecycle::Phase;
use rigd::payload::manifest::Manifest;
use rigd::payload::sandbox::Layer;
use rigd::payload::supervisor::Refusal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::rig::{DEADLINE, Rig, block_on, directory, root};

const PLACE: &str = "RIGD_TEST_PLACE";
/// Of nobody else.
const AGENT: u32 = 60_991;
/// Those of `systemd/payloads.conf`.
const OWN: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// What it runs as, and which capabilities it has.
const SAYS: &str = "grep -E '^(Uid|Cap(Inh|Prm|Eff|Amb)):' /proc/self/status; id -G; echo end";

/// No cgroup: what systemd delegates to its unit is not here.
fn none() -> Option<PathBuf> {
    Some("/nonexistent".into())
}

/// A payload's manifest; `more` may name a user.
fn manifest(name: &str, more: &str) -> Manifest {
    let text = format!(
        "kind = \"batch\"\nargv = [\"/bin/sh\", \"-c\", \"\"\"{SAYS}\"\"\"]\n{more}\n[restart]\npolicy = \"never\""
    );
    Manifest::parse(name, name, &text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
#[ignore = "run as an agent by the other"]
fn agent_of_a_unit() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ambient = format!("CapAmb:\t{:016x}", OWN.bits());
    assert!(status.contains(&ambient), "the test's own agent is not what it should be: {status}");
    let open = "[sandbox]\noff = [\"capabilities\"]";
    let manifests = vec![
        manifest("jailed", "user = \"nobody\""),
        manifest("open", &format!("user = \"nobody\"\n{open}")),
        manifest("nobodys", ""),
        manifest("own", &format!("user = \"{AGENT}\"")),
    ];
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    block_on(async {
        let rig = Rig::with(place, none(), manifests, |_| {});
        for name in ["jailed", "open"] {
            rig.start(name).await.unwrap();
            let said = rig.until_said(name, "end\n").await;
            let status = rig.until(name, |status| status.phase == Phase::Stopped && status.exit.is_some()).await;
            let said: Vec<_> = said.split_whitespace().collect();
            let none = "0000000000000000";
            let expected = [
                "Uid:", "65534", "65534", "65534", "65534", "CapInh:", none, "CapPrm:", none, "CapEff:", none,
                "CapAmb:", none, "65534", "end",
            ];
            assert_eq!(said, expected, "{name}");
            assert_eq!(status.layers.held.has(Layer::Capabilities), name == "jailed");
            assert!(!status.unlimited.contains(&"a user of its own"), "{:?}", status.unlimited);
        }
        for (name, why) in [
            ("nobodys", "would run as the agent's own user; its manifest must name another"),
            // Nobody has this number in /etc/passwd; with a name it would be the same.
            ("own", &format!("there is no user `{AGENT}`")),
        ] {
            let Err(Refusal::NotStarted(text)) = rig.start(name).await else { panic!("{name}: was started") };
            assert_eq!(text, why);
        }
        rig.leave().await;
    });
}

#[test]
#[ignore = "run as an agent by the other"]
fn agent_of_a_person() {
    let place = PathBuf::from(std::env::var(PLACE).unwrap());
    block_on(async {
        let rig = Rig::with(place, none(), vec![manifest("mine", "")], |_| {});
        rig.start("mine").await.unwrap();
        let said = rig.until_said("mine", "end\n").await;
        assert!(said.contains(&format!("Uid:\t{AGENT}\t{AGENT}\t{AGENT}\t{AGENT}\n")), "{said}");
        // It is told what it has not.
        let status = rig.until("mine", |status| status.phase == Phase::Stopped && status.exit.is_some()).await;
        assert!(status.unlimited.contains(&"a user of its own"), "{:?}", status.unlimited);
        rig.leave().await;
    });
}

/// The rest of this process is of this user, with these capabilities and no others to be had.
fn become_agent(own: CapabilitySet) -> io::Result<()> {
    let call = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let prctl = |option: libc::c_int, argument: libc::c_ulong, more: libc::c_ulong| {
        // SAFETY: numbers only, which change nothing but what this process may do (prctl(2)).
        call(unsafe { libc::syscall(libc::SYS_prctl, option, argument, more, 0, 0) })
    };
    for number in (0..64).filter(|number| own.bits() >> number & 1 == 0) {
        // There are fewer than that.
        let _ = prctl(libc::PR_CAPBSET_DROP, number, 0);
    }
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    // SAFETY: numbers, and no list.
    call(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
    // SAFETY: numbers.
    call(unsafe { libc::syscall(libc::SYS_setresgid, AGENT, AGENT, AGENT) })?;
    // SAFETY: numbers.
    call(unsafe { libc::syscall(libc::SYS_setresuid, AGENT, AGENT, AGENT) })?;
    let sets = CapabilitySets { effective: own, permitted: own, inheritable: own };
    rustix::thread::set_capabilities(None, sets)?;
    for number in (0..64).filter(|number| own.bits() >> number & 1 == 1) {
        prctl(libc::PR_CAP_AMBIENT, libc::c_ulong::try_from(libc::PR_CAP_AMBIENT_RAISE).unwrap_or(0), number)?;
    }
    Ok(())
}

/// Runs one of these tests as such an agent.
fn runs(test: &str, place: &Path, own: CapabilitySet) -> std::process::Output {
    // Where everybody may run it.
    let home = directory(&format!("{test}-bin"));
    let program = home.join("agent");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    chown(place, Some(AGENT), Some(AGENT)).unwrap();
    let mut command = Command::new(&program);
    command.args(["--exact", &format!("unit::{test}"), "--ignored", "--nocapture"]).env(PLACE, place);
    // SAFETY: between fork and exec there are system calls only.
    unsafe { command.pre_exec(move || become_agent(own)) };
    let deadline = rigd::clock::now() + DEADLINE;
    let output = loop {
        match command.output() {
            // A child that another test was just making had the copy open for writing still, until its exec.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && rigd::clock::now() < deadline => {}
            output => break output.unwrap(),
        }
    };
    fs::remove_dir_all(home).unwrap();
    output
}

#[test]
fn no_payload_has_anything_of_an_agent_with_capabilities() {
    if !root() {
        return;
    }
    for (test, own) in [("agent_of_a_unit", OWN), ("agent_of_a_person", CapabilitySet::empty())] {
        let place = directory(test);
        let output = runs(test, &place, own);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        fs::remove_dir_all(place).unwrap();
    }
}
