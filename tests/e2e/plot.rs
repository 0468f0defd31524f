//! The last hour of a rig, asked from its agent on the rig itself: with no broker, in every form, and when the agent is gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rigd::history::Quantity;
use rigd::local::{Head, Reply, Series};
use rigd::reading::Missing;
use rustix::process::Signal;

use crate::agent::{Agent, Setup, until};

fn socket(agent: &Agent) -> PathBuf {
    agent.scratch.path.join("rigd.sock")
}

fn plot(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl"))
        .arg("plot")
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned()
}

/// What the agent has, once it has something that is `good`.
fn history(agent: &Agent, what: &str, good: impl Fn(&Head, &[Series]) -> bool) -> (Head, Vec<Series>) {
    until(what, || {
        let output = plot(&socket(agent), &["--json"]);
        let mut replies =
            output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let Some(Reply::History(head)) = replies.next() else { return None };
        let series = replies.map(|reply| if let Reply::Series(series) = reply { series } else { panic!("{reply:?}") });
        let series: Vec<Series> = series.collect();
        good(&head, &series).then_some((head, series))
    })
}

fn find<'a>(series: &'a [Series], quantity: Quantity, name: &str) -> &'a Series {
    series.iter().find(|one| one.quantity == quantity && one.name == name).unwrap()
}

#[test]
fn every_reading_is_plotted_on_a_terminal_and_as_pictures_and_a_lost_chip_with_its_reason() {
    let mut agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    agent.run();
    history(&agent, "a reading of everything", |_, series| {
        series.len() == 20 && series.iter().all(|series| series.last.last().is_some_and(|value| value.0.is_ok()))
    });
    agent.sim.control("fault main nack 0x42").unwrap();
    let (head, series) = history(&agent, "gpu2 lost", |_, series| {
        find(series, Quantity::RailPower, "gpu2").last.last().is_some_and(|value| value.0 == Err(Missing::NotPresent))
    });
    assert_eq!((head.rig.as_str(), head.simulated, head.slot_ms), ("rig-1", true, 5_000));
    let gpu2 = find(&series, Quantity::RailPower, "gpu2");
    assert!(gpu2.high.iter().any(|value| value.0.is_ok()), "what it drew before it was lost is there: {gpu2:?}");
    let watts = find(&series, Quantity::SupplyInput, "psu1").last.last().unwrap().0.unwrap();
    assert!((200_000..3_200_000).contains(&watts), "{watts}");

    let names = ["exhaust1", "intake", "gpu0", "gpu7", "psu1 in", "psu1 out", "fan1", "fan6", "zone cards"];
    let terminal = said(&plot(&socket(&agent), &[]));
    let svg = agent.scratch.path.join("rig.svg");
    assert_eq!(said(&plot(&socket(&agent), &["-o", svg.to_str().unwrap()])), "");
    let svg = fs::read_to_string(svg).unwrap();
    for expected in names.into_iter().chain(["SIMULATED", "no reading: not present", "Temperature, °C", "now"]) {
        assert!(terminal.contains(expected), "{expected:?} is not in\n{terminal}");
        assert!(svg.contains(expected), "{expected:?} is not in\n{svg}");
    }
    assert!(!terminal.contains('\x1b') && terminal.lines().all(|line| line.chars().count() <= 100), "{terminal}");
    assert_eq!(svg.matches("<text ").count(), svg.matches("</text>").count());
    assert_eq!(svg.lines().filter(|line| !line.ends_with("/>") && !line.ends_with("</text>")).count(), 2, "{svg}");

    let png = agent.scratch.path.join("rig.png");
    assert_eq!(said(&plot(&socket(&agent), &["--what", "watts", "-o", png.to_str().unwrap()])), "");
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(&png).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let colours: std::collections::BTreeSet<&[u8]> = pixels.chunks(3).collect();
    assert!(colours.len() > 20, "eight rails and two sides of a supply have their colours");

    let only = said(&plot(&socket(&agent), &["--only", "gpu0", "fan1", "--since", "1m"]));
    assert!(
        only.contains("a gpu0 ") && only.contains("a fan1 ") && !only.contains("gpu1") && !only.contains("exhaust")
    );
    let stranger = plot(&socket(&agent), &["--only", "gpu9"]);
    assert!(said(&stranger).contains("nothing is called `gpu9` here; there are exhaust1,"), "{}", said(&stranger));
}

/// The file is there while the agent is, for its group and nobody else, and a dead one is in nobody's way.
#[test]
fn the_socket_comes_and_goes_with_the_agent() {
    let mut agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    let socket = socket(&agent);
    let absent = plot(&socket, &[]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(said(&absent).contains("no agent listens at"), "{}", said(&absent));
    agent.run();
    history(&agent, "a reading", |head, _| !head.slots.is_empty());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    agent.signal(Signal::KILL);
    agent.ended();
    assert!(socket.exists());
    assert!(said(&plot(&socket, &[])).contains("is gone; see `systemctl status rigd`"));
    agent.run();
    history(&agent, "a reading of the next agent", |head, _| !head.slots.is_empty());
    // A client that does nothing keeps no agent from ending.
    let idle = UnixStream::connect(&socket).unwrap();
    agent.signal(Signal::TERM);
    assert!(agent.ended().success());
    assert!(!socket.exists());
    drop(idle);
}

/// Law 2: what cannot be had is a warning, and the fans are cooled all the same.
#[test]
fn no_place_for_a_socket_stops_nothing() {
    let mut agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    fs::create_dir(socket(&agent)).unwrap();
    agent.run();
    agent.logged("no local socket, rigd-ctl cannot ask this agent");
    agent.fans("fans are under control", |percent| percent < 100);
    agent.signal(Signal::TERM);
    assert!(agent.ended().success());
    assert!(socket(&agent).is_dir());
}
