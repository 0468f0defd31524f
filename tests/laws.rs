//! Laws that are about who may call what: read from the source, so that a new call shows itself here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Files below `src`, tests left out: their path from there, and their text up to the tests in them.
fn shipped() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<_> = sources(&root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !path.ends_with("tests.rs") && path.iter().all(|part| part != "tests"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("[cfg(test)]").next().unwrap().to_owned();
            (path.strip_prefix(&root).unwrap().display().to_string(), code)
        })
        .collect();
    files.sort();
    files
}

/// Those that have this text.
fn with(text: &str) -> Vec<String> {
    shipped().into_iter().filter(|(_, code)| code.contains(text)).map(|(file, _)| file).collect()
}

/// Law 1: only control gives orders to a bus, only a bus thread's slot drives a fan, and only a driver writes a register.
#[test]
fn only_control_gives_orders() {
    assert_eq!(with("bus.order("), ["control.rs"]);
    assert_eq!(with(".set_duty("), ["bus/slot.rs"]);
    for file in with("fn set_duty(") {
        assert!(file.starts_with("chip") || file == "hwmon.rs", "{file} drives fans");
    }
}

/// Law 9: one place reads the clock, and what decides is not among those that ask it.
#[test]
fn decisions_do_not_ask_for_the_time() {
    assert_eq!(with("Instant::now("), ["clock.rs"]);
    for file in with("clock::") {
        assert!(!file.starts_with("chip") && !file.contains("episodes"), "{file} asks the clock");
    }
}

/// Law 9 again: a file whose head says that it is pure is so, with all that is in the folder of its name.
#[test]
fn what_says_that_it_is_pure_asks_for_nothing() {
    let files = shipped();
    let says = |code: &str| {
        let mut head = code.lines().take_while(|line| line.starts_with("//!"));
        // A row of a table is about another file.
        head.any(|line| {
            let words = line.split(|c: char| !c.is_alphabetic());
            !line.starts_with("//! |") && words.into_iter().any(|word| word.eq_ignore_ascii_case("pure"))
        })
    };
    let pure: Vec<&str> = files.iter().filter(|(_, code)| says(code)).map(|(file, _)| file.as_str()).collect();
    for known in ["command/verify.rs", "control/step.rs", "gpu/keeper.rs", "payload/lifecycle.rs", "plan.rs"] {
        assert!(pure.contains(&known), "{known} does not say so any more: {pure:?}");
    }
    for (file, code) in &files {
        let folder = |one: &str| one.strip_suffix(".rs").is_some_and(|name| file.starts_with(&format!("{name}/")));
        if !pure.iter().any(|one| one == file || folder(one)) {
            continue;
        }
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for asked in ["clock::", "fs::", "net::", "process::", "rand::", "getrandom", "thread::"] {
                assert!(!line.contains(asked), "{file} says that it is pure, and has `{}`", line.trim());
            }
        }
    }
}
