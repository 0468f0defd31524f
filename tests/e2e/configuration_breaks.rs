//! Wrong files: the agent refuses with file, line and key, and the tool says the same before it is tried.

use std::fs;
use std::process::{Command, Output};

use crate::agent::{Agent, Scratch, Setup, board_with};

fn rigd(config: &str) -> (Output, Scratch) {
    let scratch = Scratch::new("config");
    fs::write(scratch.path.join("rigd.toml"), config.replace("{dir}", &scratch.path.display().to_string())).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_rigd")).arg("--config").arg(scratch.path.join("rigd.toml")).output().unwrap();
    (output, scratch)
}

#[test]
fn the_agent_refuses_a_wrong_configuration_with_exit_code_2() {
    for (config, expected) in [
        ("board = \"simulated-8gpu\"\ncolour = \"red\"", "rigd.toml:2: colour: unknown key; known here are "),
        ("board = 7", "rigd.toml:1: board: must be a string, not a whole number"),
        ("board = \"octo\"", "octo: no built-in board of this name; there are "),
        ("board = \"{dir}/none.toml\"", "none.toml: could not read the board file: No such file or directory"),
        ("board = \"simulated-8gpu\"", "`simulation` must name the directory of its sockets"),
    ] {
        let (output, _scratch) = rigd(config);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{config:?} gave {stderr}");
        assert!(stderr.contains(expected), "{config:?} gave {stderr}");
    }
}

#[test]
fn two_chips_at_one_address_are_refused_by_the_agent_and_the_tool() {
    let scratch = Scratch::new("board");
    let board = scratch.path.join("board.toml");
    fs::write(&board, board_with("addr = 0x41", "addr = 0x40")).unwrap();
    let expected = format!("{}:22: chip.U11.addr: 0x40 on bus `main` is already U10", board.display());
    let (output, _scratch) = rigd(&format!("board = {board:?}\nsimulation = \"/nowhere\""));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&expected), "{}", String::from_utf8_lossy(&output.stderr));
    let checked = ctl(&["check", "--board", board.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stderr).contains(&expected));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing =
        Command::new(env!("CARGO_BIN_EXE_rigd")).args(["run", "--config", "/nonexistent/rigd.toml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/rigd.toml: could not read the configuration")
    );
    let scratch = Scratch::new("unreadable");
    let binary = scratch.path.join("rigd.toml");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let unreadable = Command::new(env!("CARGO_BIN_EXE_rigd")).arg("--config").arg(&binary).output().unwrap();
    assert_eq!(unreadable.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unreadable.stderr).contains("valid UTF-8"));
}

#[test]
fn the_command_line_is_checked_too() {
    for arguments in [&["fly"][..], &["--config"], &["run", "--colour"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_rigd")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_rigd")).arg("--help").output().unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("leave-safe"));
}

fn ctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).args(arguments).output().unwrap()
}

#[test]
fn check_prints_what_was_resolved() {
    let agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    let config = agent.scratch.path.join("rigd.toml");
    let output = ctl(&["check", "--config", config.to_str().unwrap()]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "rig        rig-1",
        "U20            max31790 at 0x20, watchdog 5 s",
        "shunt 500 µΩ",
        "simulated, socket air",
        "No mistakes found.",
    ] {
        assert!(stdout.contains(expected), "{expected:?} is not in\n{stdout}");
    }
}

#[test]
fn boards_prints_a_file_that_passes_check() {
    let list = ctl(&["boards"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains("simulated-8gpu") && list.contains("max31790"));
    let scratch = Scratch::new("boards");
    let file = scratch.path.join("b.toml");
    fs::write(&file, ctl(&["boards", "fanboard-6"]).stdout).unwrap();
    let checked = ctl(&["check", "--board", file.to_str().unwrap()]);
    assert!(checked.status.success());
    assert!(String::from_utf8_lossy(&checked.stdout).contains("not on this machine: there is no adapter"));
}

#[test]
fn the_tool_says_what_it_cannot_do() {
    let output = ctl(&["watch", "--broker", "mqtt://127.0.0.1:1", "--once"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not connect to mqtt://127.0.0.1:1"));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).arg("boards").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not write to standard output"));
    assert!(ctl(&["completions", "bash"]).status.success());
}

#[test]
fn a_payload_that_would_run_as_the_agent_is_refused_by_the_tool() {
    // An agent of anybody else can become nobody else.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let manifests = Scratch::new("userless");
    for (name, user) in [("named", "user = \"nobody\""), ("unnamed", "")] {
        let text = format!("kind = \"batch\"\nargv = [\"/bin/true\"]\n{user}\n");
        fs::write(manifests.path.join(format!("{name}.toml")), text).unwrap();
    }
    let tables = format!("[payload]\nmanifests = {:?}\n", manifests.path);
    let agent = Agent::prepare("mqtt://127.0.0.1:1", Setup { broker: tables, ..Setup::default() });
    let checked = ctl(&["check", "--config", agent.scratch.path.join("rigd.toml").to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(1), "{stderr}");
    let file = manifests.path.join("unnamed.toml");
    assert!(
        stderr.contains(&format!("{}: user: would run as root; its manifest must name a user", file.display())),
        "{stderr}"
    );
    assert_eq!(stderr.matches(": user: ").count(), 1, "{stderr}");
}
