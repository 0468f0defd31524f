//! A payload that says 10 MB a second: it neither waits for ever nor dies when its agent, or who writes its log down, does.

use std::fs;
use std::path::Path;
use std::process::Child;

use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_getpipe_size;
use rustix::process::{Flock, FlockType, Pid, Signal, fcntl_getlk, getpgid, kill_process_group};

use super::agent::agent_of;
use super::rig::{Guard, cgroup, clean, directory, kill, lives, procs, root, until};

/// A megabyte and a count each tenth of a second.
const BODY: &str =
    "echo $$ > pid; n=0; while :; do printf '%01000000d\\n' 0; n=$((n+1)); echo $n > count; sleep 0.1; done";

fn number(place: &Path, file: &str) -> Option<i32> {
    fs::read_to_string(place.join("payloads/kept/state").join(file)).ok()?.trim().parse().ok()
}

/// Waits until it has said so many megabytes more.
fn goes_on(place: &Path, what: &str) {
    // Between its opening and its writing the file is empty.
    let count = || number(place, "count").unwrap_or(0);
    until(what, || count() > 0);
    let before = count();
    until(what, || count() >= before + 5);
}

#[test]
fn it_goes_on_whoever_else_dies() {
    if !root() {
        return;
    }
    let place = directory("loud");
    let Some(group) = cgroup("loud") else { return };
    let _guard = Guard(Some(group.clone()));
    let pid = whoever_dies(&place, &group);
    assert_eq!(procs(&group, "kept.log").len(), 2);
    assert!(procs(&group, "kept").contains(&pid));
    clean(&place, Some(&group));
}

/// As nobody, where that is possible: the agent has no right to look into it, and does not need it.
#[test]
fn it_goes_on_without_cgroups_too() {
    let place = directory("loud-bare");
    let pid = whoever_dies(&place, Path::new("/nonexistent"));
    // Its session.
    kill_process_group(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    until("nobody keeps what is not there", || pair(&place).is_none());
    clean(&place, None);
}

fn whoever_dies(place: &Path, group: &Path) -> i32 {
    let start = || Agent(agent_of(place, Some(group), BODY));
    let mut first = start();
    goes_on(place, "it runs");
    let pid = number(place, "pid").unwrap();
    let unhurt = |what: &str| {
        goes_on(place, what);
        assert_eq!((number(place, "pid"), lives(pid)), (Some(pid), true), "{what}");
    };
    let two = |what: &str, other_than: (i32, i32)| {
        let found = || pair(place).filter(|(first, second)| *first != other_than.0 && *second != other_than.1);
        until(what, || found().is_some());
        pair(place).unwrap()
    };
    first.end();
    unhurt("without an agent");
    // Nobody but themselves follows them.
    let (keeper, second) = two("both keep it", (0, 0));
    kill(keeper, Signal::KILL);
    unhurt("without an agent and who kept its log");
    let (keeper, _) = two("two others", (keeper, 0));
    assert_eq!(keeper, second);
    let mut next = start();
    unhurt("with the next agent");
    // Both at once: there is an agent that makes others.
    both_die(keeper);
    unhurt("without who wrote its log down");
    let (keeper, second) = two("two others by the agent", (keeper, second));
    // And both at once where there is none: it has a mebibyte, and waits then.
    next.end();
    both_die(keeper);
    until("nobody is left", || !lives(keeper) && !lives(second));
    until("it has no more room", || full(place) || !lives(pid));
    assert!(lives(pid), "it died of its log");
    let mut third = start();
    unhurt("with an agent and a keeper that know each other from nowhere");
    let newest = || {
        let files = fs::read_dir(place.join("payloads/kept/log")).unwrap().flatten();
        files.filter_map(|file| u64::from_str_radix(file.file_name().to_str()?, 16).ok()).max()
    };
    let before = newest();
    until("its log is written down", || newest() > before);
    third.end();
    pid
}

fn both_die(first: i32) {
    let group = getpgid(Pid::from_raw(first)).unwrap();
    kill_process_group(group, Signal::KILL).unwrap();
}

/// Whether its pipe is full but for a page or two.
fn full(place: &Path) -> bool {
    let Ok(pipe) = fs::File::options().read(true).write(true).open(place.join("payloads/kept/log/pipe")) else {
        return false;
    };
    let room = u64::try_from(fcntl_getpipe_size(&pipe).unwrap()).unwrap();
    ioctl_fionread(&pipe).unwrap() + 8_192 >= room
}

/// Who has the lock on its ring, and the second, the child of that one.
fn pair(place: &Path) -> Option<(i32, i32)> {
    let lock = fs::File::options().read(true).write(true).open(place.join("payloads/kept/log/keeper")).ok()?;
    let first = fcntl_getlk(&lock, &Flock::from(FlockType::WriteLock)).ok()??.pid?.as_raw_nonzero().get();
    let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).ok()?;
    Some((first, children.split_whitespace().next()?.parse().ok()?))
}

/// Ends with the test, however that ends.
struct Agent(Child);

impl Agent {
    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that was ended already is no matter.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
