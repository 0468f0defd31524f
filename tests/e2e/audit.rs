//! `rigd-ctl audit` on a log that somebody writes at the same time, and on one that somebody changed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use rigd::audit::{Audit, Entry, Who};

use crate::agent::Scratch;

fn ctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).args(arguments).output().unwrap()
}

fn entry(what: &str) -> Entry {
    let (what, outcome) = (what.to_owned(), "done".to_owned());
    Entry { at_ms: 1_700_000_000_000, boot: 7, who: Who::Local { uid: 1_000 }, what, outcome }
}

#[test]
fn a_log_is_followed_and_what_was_changed_in_it_is_found() {
    let scratch = Scratch::new("audit");
    let directory = scratch.path.to_str().unwrap();
    let (mut audit, _) = Audit::open(&scratch.path).unwrap();
    audit.append(entry("first")).unwrap();
    let mut follower = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"))
        .args(["audit", "show", directory, "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "1 2023-11-14T22:13:20Z uid 1000: first: done");
    let head = audit.append(entry("second")).unwrap();
    assert_eq!(next(), "2 2023-11-14T22:13:20Z uid 1000: second: done");
    follower.kill().unwrap();
    follower.wait().unwrap();

    let told: String = head.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let told = format!("{}:{told}", head.n);
    let verify = || ctl(&["audit", "verify", directory, "--head", &told]);
    let whole = verify();
    let said = String::from_utf8(whole.stdout).unwrap();
    assert!(whole.status.success() && said.starts_with("records 1 to 2 hold together; the last is 2:"), "{said}");
    assert!(said.ends_with("what the rig told of it is in it\n"), "{said}");

    // A directory that holds no log is none that is whole.
    let elsewhere = Scratch::new("no-audit");
    let nothing = ctl(&["audit", "verify", elsewhere.path.to_str().unwrap()]);
    let said = String::from_utf8(nothing.stdout).unwrap();
    assert!(nothing.status.code() == Some(1) && said.starts_with("there is no record"), "{said}");

    // The end cut off, as if the second had never been.
    let file = fs::read_dir(&scratch.path).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&file).unwrap();
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    fs::write(&file, &bytes[..at]).unwrap();
    let cut = verify();
    let said = String::from_utf8(cut.stdout).unwrap();
    assert_eq!(cut.status.code(), Some(1), "{said}");
    assert!(said.contains("CUT OFF: it ends before what the rig told of it"), "{said}");
    // A byte of the first changed, and the second behind it.
    let mut changed = bytes;
    let at = changed.windows(5).position(|window| window == b"first").unwrap();
    changed[at] ^= 1;
    fs::write(&file, &changed).unwrap();
    let json = ctl(&["audit", "verify", directory, "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), &value["whole"], &value["broken"]["n"]), (Some(1), &false.into(), &1.into()));
}
