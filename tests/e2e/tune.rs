//! `rigd-ctl tune` on a running rig: a simulated card whose clocks make its payload's rate, as `sim/src/world/gpu.rs` has it. It
//! finds what is better and writes it; whatever breaks on the way, the card is as it was.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use rigd::config::Config;
use rigd::units::Megahertz;
use rustix::process::{Pid, Signal, kill_process};

use crate::agent::until;
use crate::gpu_breaks::library;
use crate::house::House;

/// What the payload's API knows.
#[derive(Default)]
struct Meter {
    /// The simulated rig's control socket.
    control: OnceLock<PathBuf>,
    broken: AtomicBool,
    count: AtomicU64,
}

impl Meter {
    /// Serves what `generic-json` reads; the port.
    fn serve(self: Arc<Self>) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let body = match self.work().filter(|_| !self.broken.load(Ordering::Relaxed)) {
                    Some(work) => {
                        let count = self.count.fetch_add(1, Ordering::Relaxed);
                        format!("{{\"rate\": {work}000, \"work\": {count}, \"accepted\": {count}}}")
                    }
                    None => "{}".to_owned(),
                };
                // An agent that was ended does not listen any more.
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        port
    }

    /// What the first card truly gets done, in millionths of the most; none once the simulated rig is gone.
    fn work(&self) -> Option<u32> {
        let stream = UnixStream::connect(self.control.get()?).ok()?;
        (&stream).write_all(b"get world\n").ok()?;
        let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| line != "ok");
        lines.filter_map(|line| line.strip_prefix("gpu.0.work_ppm=")?.parse().ok()).last()
    }
}

/// Three power limits and three core clocks, as first and last.
const BOTH: [&str; 8] = ["--power", "190-350", "--power-step", "80", "--core", "1095-1695", "--core-step", "300"];

struct World {
    house: House,
    meter: Arc<Meter>,
    /// The card's limit and locks before anything was tried.
    before: [String; 3],
}

/// A rig whose first card is of this kind, and whose payload waits for memory for this part of its time.
fn world(what: &str, card: &str, waits: &str) -> World {
    let meter = Arc::new(Meter::default());
    let port = Arc::clone(&meter).serve();
    let manifest = format!(
        "kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sleep\", \"10000\"]\n[gpus]\ncount = 1\n\
         [restart]\npolicy = \"always\"\n[meter]\nname = \"generic-json\"\nport = {port}\ninterval_s = 1\n"
    );
    let house = House::of(what, card, &format!("[gpu]\nlibrary = {:?}\n", library()), &[manifest]);
    meter.control.set(house.agent.sim.dir().join("control")).unwrap();
    house.agent.sim.control("set gpu 0 load 1.0").unwrap();
    house.agent.sim.control(&format!("set gpu 0 memory-bound {waits}")).unwrap();
    house.until(0, "it runs and is measured", |payload| {
        payload.pid.is_some() && payload.gpus.len() == 1 && payload.now.rate.0.is_ok_and(|rate| rate.0 > 0)
    });
    let mut world = World { house, meter, before: Default::default() };
    world.before = world.settings();
    world
}

impl World {
    /// The true limit and locks of the first card.
    fn settings(&self) -> [String; 3] {
        let text = self.house.agent.sim.control("get world").unwrap();
        let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        ["gpu.0.limit_mw=", "gpu.0.core_lock_mhz=", "gpu.0.memory_lock_mhz="].map(of)
    }

    fn is_as_it_was(&self, when: &str) {
        until(&format!("the card is as it was {when}"), || (self.settings() == self.before).then_some(()));
    }

    fn tune(&self, arguments: &[&str]) -> Command {
        let place = &self.house.agent.scratch.path;
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args(["tune", &self.house.names[0]]).args(arguments);
        command.arg("--socket").arg(place.join("rigd.sock")).arg("--config").arg(place.join("rigd.toml"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Begun with these, and so far that a limit is on the card.
    fn begun(&self, arguments: &[&str]) -> Running {
        let mut child = self.tune(arguments).args(["--settle-s", "1", "--measure-s", "2"]).spawn().unwrap();
        let told = BufReader::new(child.stderr.take().unwrap());
        until("a limit is tried", || (self.settings() != self.before).then_some(()));
        Running { child, told }
    }
}

struct Running {
    child: Child,
    told: BufReader<ChildStderr>,
}

impl Running {
    /// Reads until it tells this.
    fn tells(&mut self, text: &str) {
        let found = self.told.by_ref().lines().map(Result::unwrap).any(|line| line.contains(text));
        assert!(found, "it ended before it told {text:?}");
    }

    /// Whether it went well, the rest of what it told, and what it printed.
    fn ended(mut self) -> (bool, String, String) {
        let (mut told, mut printed) = (String::new(), String::new());
        self.told.read_to_string(&mut told).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        (self.child.wait().unwrap().success(), told, printed)
    }
}

#[test]
fn a_better_point_is_found_and_written_as_a_profile() {
    let world = world("tune", "ampere", "0.36");
    let place = &world.house.agent.scratch.path;
    let (config, svg) = (place.join("rigd.toml"), place.join("tune.svg"));
    let text = fs::read_to_string(&config).unwrap();
    let output = world
        .tune(&BOTH)
        .args(["--settle-s", "2", "--measure-s", "2", "--json", "--write", "best", "--svg"])
        .arg(&svg)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    world.is_as_it_was("after it");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let gain = found["best"]["gain_permille"].as_i64().unwrap();
    assert!((150..600).contains(&gain), "{found}");
    assert!(found["points"].as_array().unwrap().len() >= 5, "{found}");
    assert!(told.contains("its GPU; up to about") && told.contains(" 1 of at most 90"), "{told}");
    assert!(fs::read_to_string(svg).unwrap().contains("best so far"));

    let written = fs::read_to_string(&config).unwrap();
    assert!(written.starts_with(&text) && written.len() > text.len(), "{written}");
    assert_eq!(fs::read_to_string(place.join("rigd.toml.old")).unwrap(), text);
    let profile = Config::load(&config).unwrap().gpus.named_profile("best").unwrap().clone();
    let core = found["best"]["core_mhz"].as_u64().map(|core| Megahertz(u32::try_from(core).unwrap()));
    assert_eq!(profile.core_lock.map(|(_, high)| high), core);
    assert!(profile.power_limit.is_some() && profile.memory_lock.is_none());
    let again = world.tune(&["--write", "best"]).output().unwrap();
    let refused = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && refused.contains("--replace"), "refused before anything is tried: {refused}");
}

#[test]
fn slower_memory_is_found_and_written_where_the_work_does_not_wait_for_it() {
    let world = world("tune-memory", "ampere", "0.05");
    let place = &world.house.agent.scratch.path;
    let (config, png) = (place.join("rigd.toml"), place.join("tune.png"));
    let axes = ["--power", "270-350", "--power-step", "80", "--core", "1395-1695", "--core-step", "300"];
    let output = world
        .tune(&axes)
        .args(["--memory", "all", "--settle-s", "2", "--measure-s", "2", "--write", "best", "--png"])
        .arg(&png)
        .output()
        .unwrap();
    let (told, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{told}");
    world.is_as_it_was("after it");
    // Of 9501, 5001, 810 and 405 MHz: a quarter of a card's watts goes with its memory, and a twentieth of the work.
    let profile = Config::load(&config).unwrap().gpus.named_profile("best").unwrap().clone();
    assert_eq!(profile.memory_lock, Some((Megahertz(5_001), Megahertz(5_001))), "{told}\n{printed}");
    assert!(told.contains("memory 5001 MHz: +") && told.contains("memory 810 MHz: "), "{told}");
    let best = printed.lines().find(|line| line.starts_with("best")).unwrap();
    assert!(best.contains(" 5001 ") && best.contains('+'), "{printed}");
    assert!(printed.contains("mem lock") && printed.contains("Memory clock, MHz"), "{printed}");
    assert!(fs::metadata(png).unwrap().len() > 1_000);
    let calls = world.house.agent.sim.control("get settings").unwrap();
    assert!(calls.contains("DeviceSetMemoryLockedClocks") && calls.contains("5001 5001"), "{calls}");
}

#[test]
fn a_card_without_memory_locks_is_tuned_without_and_it_says_so() {
    let world = world("tune-turing", "turing", "0.05");
    let mut running = world.begun(&["--memory", "all"]);
    running.tells("the memory clock is left as it is: GPU ");
    running.tells(" 2 of at most");
    kill_process(Pid::from_child(&running.child), Signal::INT).unwrap();
    let (_, told, printed) = running.ended();
    assert!(told.contains("interrupted"), "{told}");
    assert!(printed.contains("takes no lock of it") && !printed.contains("mem lock"), "{printed}");
    world.is_as_it_was("after it");
    let calls = world.house.agent.sim.control("get settings").unwrap();
    assert!(!calls.contains("DeviceSetMemoryLockedClocks"), "{calls}");
    let only = world.tune(&["--only", "memory", "--settle-s", "1", "--measure-s", "1"]).output().unwrap();
    let refused = String::from_utf8_lossy(&only.stderr).into_owned();
    assert!(!only.status.success() && refused.contains("takes no lock of it"), "{refused}");
}

#[test]
fn memory_that_does_not_get_slower_is_no_trouble_of_the_card() {
    let world = world("tune-ignored", "ampere", "0.05");
    world.house.agent.sim.control("fault gpu 0 SetMemoryLockedClocks ignored").unwrap();
    let output = world
        .tune(&["--only", "memory", "--memory", "800-5100", "--settle-s", "1", "--measure-s", "1", "--write", "best"])
        .output()
        .unwrap();
    let (told, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{told}");
    assert!(told.contains("memory 5001 MHz: its memory did not get slower"), "{told}");
    assert!(told.contains(" 2 of at most 9,"), "three clocks, three times each at most: {told}");
    assert!(printed.contains("Nothing better") && printed.contains("No profile was written"), "{printed}");
}

#[test]
fn a_meter_that_fails_ends_it_and_what_was_found_is_told() {
    let world = world("tune-meter", "ampere", "0.36");
    let mut running = world.begun(&BOTH);
    running.tells(" 2 of at most");
    world.meter.broken.store(true, Ordering::Relaxed);
    let (good, told, printed) = running.ended();
    assert!(!good && told.contains("ended early: its rate or the watts are not told any more"), "{told}");
    assert!(printed.contains("as it was") && printed.contains("best"), "{printed}");
    world.is_as_it_was("after it");
}

#[test]
fn an_xid_narrows_the_search_and_the_second_ends_it() {
    let world = world("tune-xid", "ampere", "0.36");
    let mut running = world.begun(&BOTH);
    for xid in [31, 13] {
        until("a limit is tried", || (world.settings() != world.before).then_some(()));
        world.house.agent.sim.control(&format!("gpu 0 xid {xid}")).unwrap();
        running.tells("the driver told of an error (Xid)");
        // More Xids of one fault are no further trouble: it goes on when all is as it was.
        world.is_as_it_was("after an Xid");
    }
    let (good, told, printed) = running.ended();
    assert!(!good && told.contains("too much trouble"), "{told}");
    assert!(printed.contains("(Xid)"), "{printed}");
    world.is_as_it_was("after it");
}

#[test]
fn the_card_is_as_it_was_when_the_tool_is_interrupted_or_killed_and_only_one_at_a_time_tries() {
    let world = world("tune-killed", "ampere", "0.05");
    let memory = ["--only", "memory"];
    for (signal, arguments, good) in [
        (Signal::INT, &BOTH[..], "ended early: interrupted"),
        (Signal::INT, &memory, "ended early"),
        (Signal::KILL, &memory, ""),
    ] {
        let running = world.begun(arguments);
        let other = world.tune(&["--settle-s", "1", "--measure-s", "1"]).output().unwrap();
        let refused = String::from_utf8_lossy(&other.stderr).into_owned();
        // Before it tries or measures anything.
        assert!(!refused.contains("tuning") && refused.contains("somebody else tries limits now"), "{refused}");
        assert_ne!(world.settings(), world.before, "it goes on");
        assert_eq!(world.settings()[2] == "none", arguments == BOTH, "the memory is held where it is varied");
        kill_process(Pid::from_child(&running.child), signal).unwrap();
        let (success, told, _) = running.ended();
        assert!(!success && told.contains(good), "{told}");
        world.is_as_it_was(&format!("after {signal:?}"));
    }
}
