//! A payload that says 10 MB a second: it neither waits for ever nor dies when its agent, or who writes its log down, does.

use std::fs;
use std::path::Path;
use std::process::Child;

use rustix::process::Signal;

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
    let start = || Agent(agent_of(&place, Some(&group), BODY));
    let mut first = start();
    goes_on(&place, "it runs");
    let pid = number(&place, "pid").unwrap();
    let keeper = || procs(&group, "kept.log").first().copied();
    let unhurt = |what: &str| {
        goes_on(&place, what);
        assert_eq!((number(&place, "pid"), lives(pid)), (Some(pid), true), "{what}");
    };
    first.end();
    unhurt("without an agent");
    let mut second = start();
    unhurt("with the next agent");
    let old = keeper().unwrap();
    // That agent has taken hold of the pipe by the time it has told the record of it.
    until("it is adopted", || held(second.0.id(), pid));
    kill(old, Signal::KILL);
    unhurt("without who wrote its log down");
    until("another keeper", || keeper().is_some_and(|new| new != old));
    // Both die while it does not write: nobody is left at its pipe when it goes on.
    kill(pid, Signal::STOP);
    second.end();
    let old = keeper().unwrap();
    kill(old, Signal::KILL);
    until("nobody writes its log down", || keeper().is_none());
    let mut third = start();
    until("another keeper", || keeper().is_some());
    kill(pid, Signal::CONT);
    unhurt("with an agent and a keeper that know each other from nowhere");
    let newest = || {
        let files = fs::read_dir(place.join("payloads/kept/log")).unwrap().flatten();
        files.filter_map(|file| u64::from_str_radix(file.file_name().to_str()?, 16).ok()).max()
    };
    let before = newest();
    until("its log is written down", || newest() > before);
    third.end();
    clean(&place, Some(&group));
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

/// Whether this process holds a pipe that is also another one's output.
fn held(holder: u32, payload: i32) -> bool {
    let Ok(pipe) = fs::read_link(format!("/proc/{payload}/fd/1")) else { return false };
    let held = fs::read_dir(format!("/proc/{holder}/fd")).into_iter().flatten().flatten();
    held.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == pipe)).count() >= 2
}
