//! How it ends, and what it leaves.

use std::net::Shutdown;
use std::process::Stdio;
use std::time::Duration;

use rigd::clock::now;
use rigd::gpu::wire::{Code, FAN_PATIENCE, PciAddress, Request, Setting};
use rigd::units::{Duty, MegahertzOffset};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Process, Rig, library, program, until};

/// Far more than the 1.8 s that a hang may keep it, far less than for good.
const SOON: Duration = Duration::from_secs(10);

/// A process that drives the fans of the first card.
fn driving(rig: &Rig) -> Process {
    let mut process = rig.start();
    let gpu = process.first();
    assert_eq!(process.set(Request::Drive(gpu, Duty::from_percent(60))), Ok(()));
    assert!(!rig.settings("SetFanSpeed_v2").is_empty());
    assert!(rig.settings("SetDefaultFanSpeed_v2").is_empty());
    process
}

/// Each fan that was driven was given back.
fn given_back(rig: &Rig) -> bool {
    let driven = rig.settings("SetFanSpeed_v2").len();
    let given = rig.settings("SetDefaultFanSpeed_v2");
    driven > 0 && given.len() >= driven && given.iter().all(|line| line.ends_with("-> 0"))
}

fn signal(process: &Process, signal: Signal) {
    kill_process(Pid::from_child(&process.child), signal).unwrap();
}

#[test]
fn the_end_of_the_agent_gives_the_fans_back() {
    let rig = Rig::new("eof", "ampere");
    let mut process = driving(&rig);
    process.stream.shutdown(Shutdown::Both).unwrap();
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(given_back(&rig), "{}", rig.say("get settings"));
}

#[test]
fn so_does_a_signal() {
    for (name, number) in [("term", Signal::TERM), ("int", Signal::INT), ("hup", Signal::HUP)] {
        let rig = Rig::new(name, "ampere");
        let mut process = driving(&rig);
        signal(&process, number);
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(0), "{name}: {said}");
        assert!(given_back(&rig), "{name}: {}", rig.say("get settings"));
    }
}

#[test]
fn what_a_killed_one_left_is_given_back_by_the_first_word_to_the_next() {
    let rig = Rig::new("killed", "ampere");
    let mut process = driving(&rig);
    signal(&process, Signal::KILL);
    process.end();
    assert!(!given_back(&rig));
    let mut next = rig.start();
    let gpu = next.first();
    assert!(!given_back(&rig), "another one may drive them: starting is no reason to touch them");
    assert_eq!(next.set(Request::Drive(gpu, None)), Ok(()));
    until(|| given_back(&rig));
    next.stream.shutdown(Shutdown::Both).unwrap();
    next.end();
}

#[test]
fn an_agent_that_says_nothing_more_loses_the_fans() {
    let rig = Rig::new("patience", "ampere");
    let began = now();
    let mut process = driving(&rig);
    until(|| given_back(&rig));
    let took = now() - began;
    assert!(took >= FAN_PATIENCE, "{took:?}");
    let gpu = process.first();
    assert!(process.sample(gpu).unwrap().fans.iter().all(|fan| fan.manual == Ok(false)));
    process.stream.shutdown(Shutdown::Both).unwrap();
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("no drive for 5 s"), "{said}");
}

#[test]
fn released_it_gives_the_fans_back_lets_go_and_ends() {
    let rig = Rig::new("release", "ampere");
    let mut process = driving(&rig);
    assert_eq!(process.set(Request::Release), Ok(()));
    assert!(given_back(&rig), "{}", rig.say("get settings"));
    assert_eq!(process.message(), None, "that was the last frame");
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("let go of NVML"), "{said}");
}

/// The first two cards, their fans driven.
fn two_driven(rig: &Rig) -> (Process, [PciAddress; 2]) {
    let mut process = rig.start();
    let mut all = process.inventory().into_iter().map(|device| device.unwrap().pci);
    let two = [all.next().unwrap(), all.next().unwrap()];
    for gpu in two {
        assert_eq!(process.set(Request::Drive(gpu, Duty::from_percent(60))), Ok(()));
    }
    assert_eq!([0, 1].map(|gpu| by_hand(rig, gpu)), [true, true]);
    (process, two)
}

/// Whether a fan of that card is driven by hand, whatever the library says.
fn by_hand(rig: &Rig, gpu: usize) -> bool {
    let (world, key) = (rig.say("get world"), format!("gpu.{gpu}.manual="));
    world.lines().find_map(|line| line.strip_prefix(&key)).unwrap().contains("true")
}

/// A way out, and how it is begun.
type Way = (&'static str, fn(&mut Process));

const WAYS: [Way; 3] = [
    ("end of input", |process| process.stream.shutdown(Shutdown::Both).unwrap()),
    ("signal", |process| signal(process, Signal::TERM)),
    ("release", |process| {
        let _ = process.set(Request::Release);
    }),
];

#[test]
fn fans_that_are_not_taken_back_one_way_are_given_back_the_other() {
    for (way, leave) in WAYS {
        let rig = Rig::new("policy", "ampere:2");
        let (mut process, _) = two_driven(&rig);
        rig.say("fault gpu 0 SetDefaultFanSpeed_v2 unknown");
        leave(&mut process);
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(0), "{way}: {said}");
        assert_eq!([0, 1].map(|gpu| by_hand(&rig, gpu)), [false, false], "{way}: {said}");
        let tried = rig.settings("SetFanControlPolicy");
        assert!(!tried.is_empty() && tried.iter().all(|line| line.starts_with("0 ") && line.ends_with(" 0 -> 0")));
        assert!(!said.contains("stay"), "{way}: {said}");
    }
}

#[test]
fn fans_that_are_taken_back_no_way_are_told_and_keep_nobody() {
    for (way, leave) in WAYS {
        let rig = Rig::new("no-way", "ampere:2");
        let (mut process, [pci, _]) = two_driven(&rig);
        rig.say("fault gpu 0 SetDefaultFanSpeed_v2 unknown");
        rig.say("fault gpu 0 SetFanControlPolicy no-permission");
        assert_eq!(process.set(Request::Drive(pci, None)), Err(Code::UNKNOWN), "the first reason is told");
        let began = now();
        leave(&mut process);
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(0), "{way}: {said}");
        assert!(now() - began < SOON, "{way}: {:?}", now() - began);
        assert!(said.contains("the fans of 1 of 2 driven GPUs stay as they are"), "{way}: {said}");
        assert_eq!([0, 1].map(|gpu| by_hand(&rig, gpu)), [true, false], "{way}: {said}");
        rig.say("clear gpu");
        let mut next = rig.start();
        assert_eq!(next.set(Request::Drive(pci, None)), Ok(()));
        assert!(!by_hand(&rig, 0), "{way}");
    }
}

#[test]
fn a_call_that_hangs_does_not_keep_it() {
    let ways: [Way; 3] = [
        ("both", |process| process.stream.shutdown(Shutdown::Both).unwrap()),
        ("write", |process| process.stream.shutdown(Shutdown::Write).unwrap()),
        ("signal", |process| signal(process, Signal::TERM)),
    ];
    for (way, leave) in ways {
        let rig = Rig::new("hang", "ampere");
        let mut process = rig.start();
        let gpu = process.first();
        // The first half of the offset goes through, so it is known when the second hangs.
        rig.say("fault gpu 0 SetClockOffsets hang after 1");
        process.send(Request::Set(gpu, Setting::CoreOffset(MegahertzOffset(30))));
        until(|| !rig.settings("SetClockOffsets").is_empty());
        // What lies there when it ends is not carried out.
        process.send(Request::Sample(gpu));
        leave(&mut process);
        let began = now();
        let (status, said) = process.end();
        assert_eq!(status.code(), Some(1), "{way}: {said}");
        assert!(now() - began < SOON, "{way}: {:?}", now() - began);
    }
}

#[test]
fn an_input_that_is_no_socket_ends_it_too() {
    let rig = Rig::new("input", "ampere");
    let start = |input| {
        let mut command = program();
        command.arg("--library").arg(library()).env("RIGD_SIMULATION", &rig.dir);
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let told = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = told(start(Stdio::null()));
    assert!(code == Some(0) && said.contains("the agent is gone"), "{said}");
    rig.say("fault nvml init hang");
    let mut child = start(Stdio::piped());
    drop(child.stdin.take());
    let (code, said) = told(child);
    assert!(code == Some(1) && said.contains("the agent is gone") && said.contains("hangs"), "{said}");
}

#[test]
fn nor_does_a_driver_that_never_comes_up() {
    let rig = Rig::new("init", "ampere");
    rig.say("fault nvml init hang");
    let mut process = rig.start_silent();
    process.stream.shutdown(Shutdown::Both).unwrap();
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("hangs"), "{said}");
}
