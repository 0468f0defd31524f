//! The operator's tool at the chips: what is connected, what a chip says, which board this is.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use rigd::board::{Board, ChipKind};
use rigd::bus::socket::{READ, Status};
use rigd::reading::Stage;
use rigd::wire::Telemetry;

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

fn ctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The address of each chip on each bus.
fn places(board: &Board) -> Vec<(String, u8)> {
    let addr = |kind: &ChipKind| if let ChipKind::I2c { addr, .. } = kind { *addr } else { 0 };
    let mut places: Vec<(String, u8)> = board.chips().map(|(bus, chip)| (bus.name.clone(), addr(&chip.kind))).collect();
    places.sort();
    places
}

#[test]
fn probe_finds_every_chip_and_its_file_runs_the_agent() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), Setup::default());
    let file = agent.scratch.path.join("found.toml");
    let probed = ctl(&["probe", "--simulation", path(agent.sim.dir()), "-o", path(&file)]);
    assert!(probed.status.success(), "{}", stderr(&probed));
    assert!(probed.stdout.is_empty() && stderr(&probed).contains("simulated bus main: asking 0x10 to 0x77"));
    let checked = ctl(&["check", "--board", path(&file)]);
    assert!(stdout(&checked).contains("No mistakes found."), "{}", stderr(&checked));
    let text = fs::read_to_string(&file).unwrap();
    let (found, board) = (Board::load(path(&file)).unwrap(), Board::load("simulated-8gpu").unwrap());
    assert_eq!(places(&found), places(&board), "{text}");
    for expected in
        ["[chip.INA226_47]\npart = \"ina226\"", "[chip.MAX31790_20]\npart = \"max31790\"", "[supply.pmbus_58]"]
    {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(text.contains("tmp75"), "what else could be at 0x48 is told:\n{text}");
    // The same for programs.
    let probed = ctl(&["probe", "--simulation", path(agent.sim.dir()), "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&probed.stdout).unwrap();
    assert_eq!(told["missed"], serde_json::json!([]));
    Board::parse("told", told["file"].as_str().unwrap()).unwrap_or_else(|problems| panic!("{problems}"));
    let mut there: Vec<(String, u64)> = Vec::new();
    for bus in told["buses"].as_array().unwrap() {
        for found in bus["found"].as_array().unwrap() {
            // A fan controller that was asked before may stand where it gives the same byte twice, as a port expander does.
            let expected = if found["addr"] == 0x20 { &["likely", "unasked"] } else { &["sure", "likely"] };
            assert!(expected.contains(&found["sure"].as_str().unwrap()), "{found}");
            there.push((bus["bus"].as_str().unwrap().to_owned(), found["addr"].as_u64().unwrap()));
        }
    }
    there.sort();
    let expected: Vec<(String, u64)> = places(&board).into_iter().map(|(bus, addr)| (bus, addr.into())).collect();
    assert_eq!(there, expected);
    // A second time it is not overwritten.
    let again = ctl(&["probe", "--simulation", path(agent.sim.dir()), "-o", path(&file)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    // The agent runs it with the zone that it proposes.
    let proposal = |line: &str| line.strip_prefix('#').filter(|line| !line.starts_with(' ')).unwrap_or(line).to_owned();
    let taken_in: Vec<String> = text.lines().map(proposal).collect();
    fs::write(agent.scratch.path.join("board.toml"), taken_in.join("\n")).unwrap();
    agent.run();
    let telemetry = subscriber.telemetry("a decision about the fans", |t| t.zones.iter().any(|z| z.duty.0.is_ok()));
    assert_eq!((telemetry.rails.len(), telemetry.fans.len(), telemetry.supplies.len()), (8, 8, 1));
    assert!(telemetry.rails.iter().all(|rail| rail.mv.0.is_ok() && rail.ma.0.is_ok()));
}

#[test]
fn probe_gives_up_a_bus_that_hangs_and_keeps_what_it_found() {
    let agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    agent.sim.control("fault main stuck").unwrap();
    let probed = ctl(&["probe", "--simulation", path(agent.sim.dir())]);
    assert_eq!(probed.status.code(), Some(1));
    assert!(
        stderr(&probed).contains("not all was looked at:\n  simulated bus main: it times out"),
        "{}",
        stderr(&probed)
    );
    let told = ctl(&["probe", "--simulation", path(agent.sim.dir()), "--json"]);
    assert_eq!(told.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert!(told["missed"][0].as_str().unwrap().starts_with("simulated bus main: it times out"), "{told}");
    let board = Board::parse("probed", &stdout(&probed)).unwrap();
    assert_eq!(board.chips().count(), 4, "those of the other bus");
    // Alone, the other bus is no failure.
    let probed = ctl(&["probe", "--simulation", path(agent.sim.dir()), "--adapter", "air"]);
    assert!(probed.status.success(), "{}", stderr(&probed));
}

#[test]
fn probe_says_what_it_cannot_do() {
    let scratch = Scratch::new("probe");
    for (arguments, code, expected) in [
        (&["--simulation", "/nonexistent"][..], 1, "could not read the simulated rig's directory /nonexistent"),
        (&["--simulation", path(&scratch.path)], 1, "holds no bus of a simulated rig"),
        (&["--ask", "0x50"], 2, "only what is left alone at"),
        (&["--adapter", "pci:1f.4"], 2, "is no PCI address"),
    ] {
        let output = ctl(&[&["probe"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

/// The values of one line of `rigd-ctl read`.
fn values(text: &str, channel: &str) -> String {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(channel));
    let line = line.unwrap_or_else(|| panic!("no {channel} in\n{text}")).trim_start();
    line.split("  ").next().unwrap_or_default().to_owned()
}

#[test]
fn read_says_what_telemetry_says() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    // Time stands, so that both see the same world.
    let agent = Agent::start(&broker, Setup { speed: 0.0, ..Setup::default() });
    let config = agent.scratch.path.join("rigd.toml");
    let read = |refdes: &str| stdout(&ctl(&["read", refdes, "--config", path(&config)]));
    let power = |power: &rigd::wire::Power| {
        let (mv, ma, mw) = (power.mv.0.unwrap(), power.ma.0.unwrap(), power.mw.0.unwrap());
        format!("{mv}, {ma}, {mw}")
    };
    let fan = |fan: &rigd::wire::Fan| format!("{}, drive {}", fan.rpm.0.unwrap(), fan.duty.0.unwrap());
    let same = |t: &Telemetry| {
        let (rail, controller, supply) = (read("U10"), read("U20"), read("PS1"));
        let fans = (1..).zip(&t.fans).all(|(i, on)| values(&controller, &format!("fan {i}")) == fan(on));
        fans && values(&rail, "power 1") == power(&t.rails[0])
            && values(&supply, "power in") == power(&t.supplies[0].input)
            && values(&supply, "power out") == power(&t.supplies[0].output)
    };
    // Fans come to rest first: until then the one of them that is asked later is further.
    until("telemetry and what is read are the same", || {
        let telemetry = subscriber.telemetry("all is well", |t| t.zones.iter().all(|zone| zone.stage == Stage::Normal));
        same(&telemetry).then_some(())
    });
    let text = read("U10");
    assert!(text.starts_with("U10  ina226 at 0x40 on main\n"), "{text}");
    assert!(text.contains("Manufacturer ID  0xfe  0x5449      0x5449\n") && text.contains("  gpu0\n"), "{text}");
    let all = ctl(&["read", "--all", "--config", path(&config)]);
    assert!(all.status.success(), "{}", stderr(&all));
    assert_eq!(stdout(&all).lines().count(), 13);
    let millivolts: u32 = values(&text, "power 1").split(' ').next().unwrap().parse().unwrap();
    let volts = format!(" {}.{:03} V, ", millivolts / 1_000, millivolts % 1_000);
    assert!(stdout(&all).contains(&volts), "{volts:?} is not in\n{}", stdout(&all));
    assert!(stderr(&all).contains("Reading U20 feeds its watchdog"), "{}", stderr(&all));
}

#[test]
fn read_writes_nothing_and_says_what_nobody_set_up() {
    let agent = Agent::prepare("mqtt://127.0.0.1:1", Setup::default());
    let config = agent.scratch.path.join("rigd.toml");
    for (refdes, raw, why) in [
        (
            "U10",
            "Calibration      0x05  0x0000",
            "U10: register 0x05 holds 0x0000 where the agent sets 0x0800: it is not set up",
        ),
        (
            "U20",
            "Global Configuration        0x00  0x20",
            "U20: register 0x08 holds 0x004c where the agent sets 0x0040",
        ),
    ] {
        for _ in 0..2 {
            let output = ctl(&["read", refdes, "--config", path(&config)]);
            assert_eq!(output.status.code(), Some(1));
            assert!(stdout(&output).contains(raw) && !stdout(&output).contains("VALUES"), "{}", stdout(&output));
            assert!(stderr(&output).contains(why), "{}", stderr(&output));
        }
        let output = ctl(&["read", refdes, "--raw-only", "--config", path(&config)]);
        assert!(output.status.success() && stdout(&output).contains(raw), "{}", stderr(&output));
    }
    agent.sim.control("fault main nack U12").unwrap();
    // For programs: a line for each chip, whatever came of it.
    let lines = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let output = ctl(&[&["read", "--json", "--config", path(&config)], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["--all"]);
    assert_eq!(all.len(), Board::load("simulated-8gpu").unwrap().chips().count());
    let of = |refdes: &str| all.iter().find(|chip| chip["chip"] == refdes).unwrap();
    assert_eq!((&of("U12")["error"], &of("U12")["part"]), (&"no acknowledge".into(), &"ina226".into()));
    let sound = all.iter().find(|chip| chip["error"].is_null()).unwrap();
    assert!(sound["faults"].is_array() && sound["withheld"].is_u64(), "{sound}");
    let [one] = &lines(&["U10"])[..] else { panic!("one chip is one line") };
    assert!(one["error"].as_str().unwrap().starts_with("U10: register 0x05 holds 0x0000"), "{one}");
    assert!(
        one["registers"].as_array().unwrap().iter().any(|it| it["register"] == "Calibration" && it["raw"] == "0x0000")
    );
    for (arguments, code, expected) in [
        (&["U12"][..], 1, "U12: no acknowledge"),
        (&["U99"], 1, "board simulated-8gpu has no chip `U99`; there are U20, U30"),
        (&["gpu0"], 1, "gpu0 is a rail of U10: rigd-ctl read U10"),
        (&[], 2, "<REFDES|--all>"),
        (&["--all", "U10"], 2, "cannot be used with"),
        (&["--all"], 1, "could not be read: U20, U30, U31, U32, U10, U11, U12"),
    ] {
        let output = ctl(&[&["read", "--config", path(&config)], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    let output = ctl(&["read", "U10", "--board", "simulated-8gpu"]);
    assert!(stderr(&output).contains("is a simulated rig: give the --config"), "{}", stderr(&output));
}

/// Where the EEPROM is.
const ADDR: u8 = 0x50;

/// Every transaction: what was written, how much was read.
type Log = Vec<(Vec<u8>, usize)>;

/// An EEPROM of 256 bytes on a simulated bus.
struct Eeprom {
    memory: Arc<Mutex<[u8; 256]>>,
    log: Arc<Mutex<Log>>,
}

impl Eeprom {
    fn start(directory: &Path) -> Self {
        let eeprom = Self { memory: Arc::new(Mutex::new([0xff; 256])), log: Arc::default() };
        let listener = UnixListener::bind(directory.join("rom")).unwrap();
        let (memory, log) = (Arc::clone(&eeprom.memory), Arc::clone(&eeprom.log));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (memory, log) = (Arc::clone(&memory), Arc::clone(&log));
                thread::spawn(move || serve(stream, &memory, &log));
            }
        });
        eeprom
    }
}

fn serve(mut stream: UnixStream, memory: &Mutex<[u8; 256]>, log: &Mutex<Log>) -> Option<()> {
    let mut pointer = 0_u8;
    loop {
        let [addr, operations] = take(&mut stream)?;
        let (mut written, mut read) = (Vec::new(), Vec::new());
        for _ in 0..operations {
            let [kind, low, high] = take(&mut stream)?;
            let mut bytes = vec![0; u16::from_le_bytes([low, high]).into()];
            if kind == READ {
                for byte in &mut bytes {
                    *byte = memory.lock().unwrap()[usize::from(pointer)];
                    pointer = pointer.wrapping_add(1);
                }
                read.extend(bytes);
            } else {
                stream.read_exact(&mut bytes).ok()?;
                if let (ADDR, [to, data @ ..]) = (addr, bytes.as_slice()) {
                    pointer = *to;
                    for byte in data {
                        memory.lock().unwrap()[usize::from(pointer)] = *byte;
                        // A page has eight bytes and begins again after the last.
                        pointer = pointer & 0xf8 | pointer.wrapping_add(1) & 0x07;
                    }
                }
                written.extend(bytes);
            }
        }
        if addr != ADDR {
            stream.write_all(&[Status::NoAddress as u8]).ok()?;
            continue;
        }
        log.lock().unwrap().push((written, read.len()));
        stream.write_all(&[&[Status::Ok as u8], read.as_slice()].concat()).ok()?;
    }
}

fn take<const N: usize>(stream: &mut UnixStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

const OCTO: &str = "name = \"octo\"\nrevision = \"b\"\nidentity = \"U40\"\n[bus.rom]\nsocket = \"rom\"\n\
                    [chip.U40]\npart = \"at24c02\"\nbus = \"rom\"\naddr = 0x50\n";

#[test]
fn an_identity_is_written_once_shown_and_never_over_something_else_unasked() {
    let scratch = Scratch::new("identity");
    let eeprom = Eeprom::start(&scratch.path);
    let (config, board) = (scratch.path.join("rigd.toml"), scratch.path.join("board.toml"));
    fs::write(&board, OCTO).unwrap();
    fs::write(&config, format!("board = {board:?}\nsimulation = {:?}\n", scratch.path)).unwrap();
    let identity = |arguments: &[&str], code: i32| {
        let output = ctl(&[&["identity"], arguments, &["--config", path(&config)]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output) + &stderr(&output)
    };
    let memory = || *eeprom.memory.lock().unwrap();
    assert!(identity(&["read"], 1).contains("U40 (at24c02 at 0x50 on rom): no identity: the memory is blank"));
    assert!(identity(&["write"], 2).contains("--serial"));
    let text = identity(&["write", "--serial", "0042"], 0);
    assert!(text.contains("Before:\n  blank\n"), "{text}");
    assert!(text.contains("Written, and read back:\n  name      octo\n  revision  b\n  serial    0042\n"), "{text}");
    assert!(identity(&["read"], 0).contains("  serial    0042\n"));
    // The same again changes nothing; another one is shown with what it takes the place of.
    let before = memory();
    assert!(identity(&["write", "--serial", "0042"], 0).contains("It says that already: nothing was written."));
    assert_eq!(memory(), before);
    let text = identity(&["write", "--serial", "0043", "--revision", "c"], 0);
    assert!(text.contains("Before:\n  name      octo\n  revision  b\n  serial    0042\n"), "{text}");
    assert!(text.contains("The board file is for another one: octo revision b.\n"), "{text}");
    let read = ctl(&["read", "U40", "--config", path(&config)]);
    assert!(stdout(&read).contains("  identity          octo revision c serial 0043\n"), "{}", stdout(&read));
    // What is too long is refused before anything is touched.
    let before = memory();
    assert!(identity(&["write", "--serial", &"x".repeat(200)], 1).contains("must not be longer than"));
    // Something else, such as a supply's data, stays.
    eeprom.memory.lock().unwrap()[..8].copy_from_slice(b"\x01\0\0\0DELT");
    let foreign = memory();
    assert_ne!(foreign, before);
    let text = identity(&["write", "--serial", "0044"], 1);
    assert!(text.contains("....DELT") && text.contains("not overwritten without --force"), "{text}");
    assert_eq!(memory(), foreign);
    assert!(identity(&["write", "--serial", "0044", "--force"], 0).contains("  serial    0044\n"));
}

/// What sits at a memory's address is found, and nothing is sent to it.
#[test]
fn probe_leaves_a_memory_alone() {
    let scratch = Scratch::new("memory");
    let eeprom = Eeprom::start(&scratch.path);
    let probed = ctl(&["probe", "--simulation", path(&scratch.path)]);
    assert!(probed.status.success(), "{}", stderr(&probed));
    assert!(stdout(&probed).contains("# 0x50 answers: a memory"), "{}", stdout(&probed));
    assert!(stdout(&probed).contains("#[chip.AT24C02_50]\n#part = \"at24c02\"\n"), "{}", stdout(&probed));
    assert_eq!(*eeprom.log.lock().unwrap(), [(vec![], 1)], "one byte received");
}
