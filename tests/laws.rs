//! Laws that are about who may call what: read from the source, so that a new call shows itself here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Files below `src` whose code, tests left out, has this text.
fn with(text: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<String> = sources(&root)
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs") && path.iter().all(|part| part != "tests"))
        .filter(|path| {
            let source = fs::read_to_string(path).unwrap();
            source.split("[cfg(test)]").next().is_some_and(|code| code.contains(text))
        })
        .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    files.sort();
    files
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
        assert!(
            !file.starts_with("chip") && !file.contains("step") && !file.contains("episodes"),
            "{file} asks the clock"
        );
    }
}
