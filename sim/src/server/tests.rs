//! Raw bytes on the sockets, as any client would send them; each fault as that client meets it.

#![expect(clippy::disallowed_methods, reason = "what a client waits for is wall time")]

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;

use rigd::board::Board;
use rigd::units::{Duty, Rpm};

use super::*;
use crate::{Fault, Kind, Options, Sim};

const TMP75: u8 = 0x48;
const MAX31790: u8 = 0x20;
const INA226: u8 = 0x40;

/// A rig whose time stands, in a directory of its own.
struct Bench {
    sim: Option<Sim>,
    dir: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("rigd-sim-{name}-{}", std::process::id()));
        let board = Board::load("simulated-8gpu").unwrap();
        let sim = Sim::start(&board, &dir, Options { manual: true, ..Options::default() }).unwrap();
        Self { sim: Some(sim), dir }
    }

    fn sim(&self) -> &Sim {
        self.sim.as_ref().unwrap()
    }

    fn connect(&self, socket: &str) -> UnixStream {
        let stream = UnixStream::connect(self.dir.join(socket)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn refuses(&self, socket: &str) -> bool {
        UnixStream::connect(self.dir.join(socket)).is_err()
    }

    fn drive(&self) -> Vec<Duty> {
        self.sim().fans().into_iter().map(|(_, duty, _)| duty).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sim = None;
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// Sends `bytes`, takes a reply of `N`.
fn exchange<const N: usize>(mut stream: &UnixStream, bytes: &[u8]) -> [u8; N] {
    stream.write_all(bytes).unwrap();
    let mut reply = [0; N];
    stream.read_exact(&mut reply).unwrap();
    reply
}

/// Reads a register of two bytes: the status and they.
fn get(stream: &UnixStream, addr: u8, register: u8) -> [u8; 3] {
    exchange(stream, &[addr, 2, 0, 1, 0, register, 1, 2, 0])
}

/// Reads a register that cannot be read: the status alone.
fn fail(stream: &UnixStream, addr: u8) -> u8 {
    let [status] = exchange(stream, &[addr, 2, 0, 1, 0, 0, 1, 2, 0]);
    status
}

fn put(stream: &UnixStream, addr: u8, bytes: &[u8]) -> u8 {
    let mut request = vec![addr, 1, 0, u8::try_from(bytes.len()).unwrap(), 0];
    request.extend_from_slice(bytes);
    let [status] = exchange(stream, &request);
    status
}

fn say(mut stream: &UnixStream, line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut reply = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        reply += &format!("{line}\n");
        if line == "ok" || line.starts_with("error: ") {
            break;
        }
    }
    reply
}

#[test]
fn registers_are_read_and_written_over_the_socket() {
    let bench = Bench::new("registers");
    let (air, main) = (bench.connect("air"), bench.connect("main"));
    assert_eq!(get(&main, INA226, 0xfe), [0, 0x54, 0x49]);
    assert_eq!(get(&air, TMP75, 3), [0, 0x50, 0x00]);
    assert_eq!(exchange(&main, &[0x58, 2, 0, 1, 0, 0x98, 1, 1, 0]), [0, 0x22]);
    assert_eq!(fail(&air, 0x31), 1, "nobody there");
    assert_eq!(exchange(&air, &[TMP75, 1, 0, 0, 0]), [0], "an empty write asks who is there");
    assert_eq!(put(&air, MAX31790, &[0x40, 0xff, 0x80]), 0);
    assert_eq!(get(&air, MAX31790, 0x40), [0, 0xff, 0x80]);
    let second = bench.connect("air");
    assert_eq!(get(&second, MAX31790, 0x40), [0, 0xff, 0x80], "two connections, one chip");
}

#[test]
fn what_the_chips_say_is_what_the_world_has() {
    let bench = Bench::new("truth");
    bench.sim().advance(Duration::from_secs(30));
    let (air, main) = (bench.connect("air"), bench.connect("main"));
    let word = |[_, high, low]: [u8; 3]| f64::from(i16::from_be_bytes([high, low]));
    let (volts, amps, watts) = bench.sim().world(|w| (w.gpus[0].volts, w.gpus[0].amps(), w.gpus[0].watts));
    put(&main, INA226, &[0x05, 0x08, 0x00]);
    assert!((word(get(&main, INA226, 2)) * 1.25e-3 - volts).abs() < 2e-3);
    assert!((word(get(&main, INA226, 1)) * 2.5e-6 / 500e-6 - amps).abs() < 1e-2);
    assert!((word(get(&main, INA226, 3)) * 25.0 * 2.5e-6 / 500e-6 - watts).abs() < 0.3);
    put(&air, 0x49, &[1, 0x60]);
    let exhaust = bench.sim().world(|w| w.probes.iter().find(|probe| probe.name == "exhaust1").unwrap().celsius());
    assert!((word(get(&air, 0x49, 0)) / 256.0 - exhaust).abs() < 0.07);
    put(&air, MAX31790, &[0x02, 0x08]);
    bench.sim().advance(Duration::from_millis(50));
    let (_, _, Rpm(rpm)) = bench.sim().fans().swap_remove(0);
    let [_, high, low] = get(&air, MAX31790, 0x18);
    let count = f64::from(u16::from_be_bytes([high, low]) >> 5);
    assert!((60.0 * 4.0 * 8192.0 / (2.0 * count) - f64::from(rpm)).abs() < 10.0);
}

#[test]
fn a_duty_reaches_the_fan_and_the_fan_the_air() {
    let bench = Bench::new("duty");
    let air = bench.connect("air");
    for fan in 0..6 {
        put(&air, MAX31790, &[0x40 + 2 * fan, 0xff, 0x80]);
    }
    bench.sim().advance(Duration::from_secs(15));
    assert_eq!(bench.drive(), [Duty::FULL; 6]);
    assert!(bench.sim().fans().iter().all(|(_, _, rpm)| *rpm > Rpm(5_600)), "{:?}", bench.sim().fans());
    let before = bench.sim().world(|w| w.exhaust);
    for fan in 0..6 {
        put(&air, MAX31790, &[0x40 + 2 * fan, 0, 0]);
    }
    bench.sim().advance(Duration::from_secs(30));
    assert!(bench.sim().world(|w| w.exhaust) > before + 10.0);
}

#[test]
fn an_agent_that_is_silent_gets_full_air_from_the_chip() {
    let bench = Bench::new("watchdog");
    let air = bench.connect("air");
    assert_eq!(put(&air, MAX31790, &[0x00, 0x22]), 0, "5 s");
    for _ in 0..10 {
        bench.sim().advance(Duration::from_secs(4));
        assert_eq!(get(&air, MAX31790, 0x00), [0, 0x22, 0x44]);
    }
    assert!(bench.drive().iter().all(|duty| *duty < Duty::FULL));
    bench.sim().advance(Duration::from_secs(9));
    assert_eq!(bench.drive(), [Duty::FULL; 6], "5 s silence, then at most 4 s up at 7.8 ms a step");
    assert_eq!(get(&air, MAX31790, 0x00), [0, 0x23, 0x44]);
    put(&air, MAX31790, &[0x00, 0x22]);
    bench.sim().advance(Duration::from_secs(4));
    assert!(bench.drive().iter().all(|duty| *duty < Duty::FULL), "the targets hold again");
}

#[test]
fn a_chip_that_does_not_acknowledge_or_is_gone() {
    let bench = Bench::new("gone");
    let air = bench.connect("air");
    bench.sim().fault(Fault::chip("air", TMP75, Kind::Nack)).unwrap();
    assert_eq!(fail(&air, TMP75), 1);
    assert_eq!(get(&air, 0x49, 3), [0, 0x50, 0x00], "its neighbour answers");
    bench.sim().clear().unwrap();
    put(&air, MAX31790, &[0x00, 0x22]);
    put(&air, MAX31790, &[0x40, 0x00, 0x00]);
    bench.sim().fault(Fault::chip("air", MAX31790, Kind::Gone)).unwrap();
    assert_eq!(fail(&air, MAX31790), 1);
    assert_eq!(bench.drive(), [Duty::FULL; 6], "open PWM inputs");
    bench.sim().clear().unwrap();
    assert_eq!(get(&air, MAX31790, 0x00), [0, 0x20, 0x44], "registers as after power-on");
    assert_eq!(get(&air, MAX31790, 0x40), [0, 0x4c, 0x80]);
}

#[test]
fn a_nacking_fan_chip_hears_nothing_and_its_watchdog_runs_out() {
    let bench = Bench::new("deaf");
    let air = bench.connect("air");
    put(&air, MAX31790, &[0x00, 0x22]);
    bench.sim().fault("air nack 0x20".parse().unwrap()).unwrap();
    for _ in 0..10 {
        bench.sim().advance(Duration::from_secs(1));
        assert_eq!(fail(&air, MAX31790), 1);
    }
    assert_eq!(bench.drive(), [Duty::FULL; 6]);
}

#[test]
fn a_stuck_bus_holds_for_a_second_then_times_out_and_spares_the_other() {
    let bench = Bench::new("stuck");
    let (air, main) = (bench.connect("air"), bench.connect("main"));
    bench.sim().fault(Fault::bus("main", Kind::Stuck)).unwrap();
    // On a busy machine one may take so long without the other bus: once it has not is enough.
    let spared = (0..10).any(|_| {
        let start = Instant::now();
        (&main).write_all(&[INA226, 2, 0, 1, 0, 0xfe, 1, 2, 0]).unwrap();
        assert_eq!(get(&air, TMP75, 3), [0, 0x50, 0x00]);
        let took = start.elapsed();
        let mut status = [9];
        (&main).read_exact(&mut status).unwrap();
        assert_eq!(status, [5]);
        assert!(start.elapsed() >= BUS_TIME_OUT);
        took < BUS_TIME_OUT
    });
    assert!(spared, "held up by the other bus each time");
    bench.sim().clear().unwrap();
    assert_eq!(get(&main, INA226, 0xfe), [0, 0x54, 0x49]);
}

#[test]
fn a_slow_chip_takes_its_time_and_times_out_beyond_the_adapters() {
    let bench = Bench::new("slow");
    let main = bench.connect("main");
    let (some, too_much) = (Duration::from_millis(60), Duration::from_secs(10));
    bench.sim().fault(Fault::chip("main", INA226, Kind::Slow(some))).unwrap();
    let start = Instant::now();
    assert_eq!(get(&main, INA226, 0xfe), [0, 0x54, 0x49]);
    assert!(start.elapsed() >= some);
    bench.sim().fault(Fault::chip("main", 0x41, Kind::Slow(too_much))).unwrap();
    assert_eq!(fail(&main, 0x41), 5);
}

#[test]
fn wrong_bytes_wrong_id_and_a_frozen_sensor() {
    let bench = Bench::new("wrong");
    let (air, main) = (bench.connect("air"), bench.connect("main"));
    bench.sim().fault(Fault::chip("main", INA226, Kind::WrongBytes)).unwrap();
    let ids: Vec<[u8; 3]> = (0..8).map(|_| get(&main, INA226, 0xfe)).collect();
    assert!(ids.iter().any(|id| *id != [0, 0x54, 0x49]) && ids.iter().all(|[status, ..]| *status == 0));
    bench.sim().clear().unwrap();
    bench.sim().fault(Fault::chip("main", INA226, Kind::WrongId)).unwrap();
    assert_eq!(get(&main, INA226, 0xff), [0, 0x32, 0x20]);

    put(&air, 0x49, &[1, 0x60]);
    let readings = || -> Vec<[u8; 3]> {
        let minute = 0..60;
        minute
            .map(|_| {
                bench.sim().advance(Duration::from_secs(1));
                get(&air, 0x49, 0)
            })
            .collect()
    };
    bench.sim().fault(Fault::chip("air", 0x49, Kind::Frozen)).unwrap();
    let frozen = readings();
    assert!(frozen.iter().all(|reading| reading == frozen.first().unwrap()));
    bench.sim().clear().unwrap();
    let live = readings();
    assert!(live.iter().any(|reading| reading != live.first().unwrap()));
}

#[test]
fn a_seized_fan_stands_and_its_chip_says_so() {
    let bench = Bench::new("seized");
    let air = bench.connect("air");
    put(&air, MAX31790, &[0x02, 8, 8, 8, 8, 8, 8]);
    bench.sim().fault(Fault::fan_seized("fan3")).unwrap();
    bench.sim().advance(Duration::from_secs(5));
    let standing: Vec<bool> = bench.sim().fans().into_iter().map(|(_, _, rpm)| rpm == Rpm(0)).collect();
    assert_eq!(standing, [false, false, true, false, false, false]);
    assert_eq!(get(&air, MAX31790, 0x1c), [0, 0xff, 0xe0]);
    assert_eq!(get(&air, MAX31790, 0x11), [0, 0x04, 0x3f]);
    bench.sim().control("clear fan fan3").unwrap();
    bench.sim().advance(Duration::from_secs(5));
    assert!(bench.sim().fans().iter().all(|(_, _, rpm)| *rpm > Rpm(0)));
}

#[test]
fn an_adapter_that_is_away_closes_refuses_and_comes_back() {
    let bench = Bench::new("away");
    let (air, main) = (bench.connect("air"), bench.connect("main"));
    bench.sim().fault(Fault::bus("main", Kind::BusGone)).unwrap();
    assert_eq!((&main).read(&mut [0]).unwrap(), 0, "closed");
    assert!(bench.refuses("main"));
    assert_eq!(get(&air, TMP75, 3), [0, 0x50, 0x00]);
    bench.sim().clear().unwrap();
    assert_eq!(get(&bench.connect("main"), INA226, 0xfe), [0, 0x54, 0x49]);
}

#[test]
fn who_breaks_the_protocol_loses_that_connection_alone() {
    let bench = Bench::new("protocol");
    let good = bench.connect("air");
    for bad in [&[0x80, 0][..], &[TMP75, 43], &[TMP75, 1, 7, 0, 0], &[TMP75, 1, 1, 0xff, 0xff], &[TMP75, 1, 0, 9, 0, 1]]
    {
        let stream = bench.connect("air");
        (&stream).write_all(bad).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "{bad:?}");
    }
    assert_eq!(get(&good, TMP75, 3), [0, 0x50, 0x00]);
}

#[test]
fn the_control_socket_answers_each_line() {
    let bench = Bench::new("control");
    let control = bench.connect("control");
    assert_eq!(say(&control, "fault main stuck"), "ok\n");
    assert_eq!(say(&control, "get faults"), "fault=main stuck\nok\n");
    assert!(say(&control, "fault water stuck").starts_with("error: no simulated bus `water`; there are air, main"));
    assert_eq!(say(&control, "clear all"), "ok\n");
    assert!(say(&control, "get world").contains("rail.gpu0.mw="));
    assert!(say(&control, "help").contains("fault fan seized fan3"));
    (&control).write_all(&[b'x'; 2000]).unwrap();
    assert!((&control).read(&mut [0]).is_ok_and(|n| n == 0), "a line without end");
}

#[test]
fn the_driver_answers_each_call() {
    let bench = Bench::new("nvml");
    let driver = bench.connect("nvml");
    let ask = |line: &str| {
        (&driver).write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut reply = String::new();
        BufReader::new(&driver).read_line(&mut reply).unwrap();
        reply
    };
    assert_eq!(ask("0\tnvmlDeviceGetCount_v2\t-\t\t"), "1\t-\t\t\n", "before init");
    assert_eq!(ask("0\tnvmlInit_v2\t-\t\t"), "0\t-\t\t\n");
    assert_eq!(ask("0\tnvmlDeviceGetCount_v2\t-\t\t"), "0\t-\t8\t\n");
    assert_eq!(ask("0\tnvmlDeviceSetPowerManagementLimit\t3\t200000\t"), "0\t-\t\t\n");
    assert_eq!(bench.sim().world(|world| world.gpus[3].control.limit), 200_000);
    assert_eq!(ask("nonsense"), "999\t-\t\t\n");
    assert_eq!(ask("0\tnvmlDeviceGetColour\t3\t\t"), "999\t-\t\t\n");
    assert_eq!(ask("0\tnvmlDeviceGetName\t8\t\t"), "2\t-\t\t\n", "no such card");
}

#[test]
fn stopping_removes_the_sockets_and_does_not_wait_for_a_stuck_bus() {
    let mut bench = Bench::new("stop");
    bench.sim().fault(Fault::bus("main", Kind::Stuck)).unwrap();
    // One after the other: twelve seconds, if they were waited for.
    let waiting: Vec<UnixStream> = (0..12).map(|_| bench.connect("main")).collect();
    for mut stream in &waiting {
        stream.write_all(&[INA226, 2, 0, 1, 0, 0xfe, 1, 2, 0]).unwrap();
    }
    let start = Instant::now();
    bench.sim = None;
    assert!(start.elapsed() < 6 * BUS_TIME_OUT, "{:?}", start.elapsed());
    for socket in ["main", "air", "control", "nvml"] {
        assert!(!bench.dir.join(socket).exists(), "{socket}");
    }
}

#[test]
fn a_stale_socket_is_replaced_but_not_one_in_use_nor_a_file() {
    let bench = Bench::new("stale");
    let board = Board::load("simulated-8gpu").unwrap();
    let start = |dir: &Path| Sim::start(&board, dir, Options { manual: true, ..Options::default() });
    let error = start(&bench.dir).err().unwrap().to_string();
    assert!(error.contains("another simulated rig"), "{error}");
    assert!(!bench.refuses("air"), "and the other goes on");

    let dir = bench.dir.join("second");
    std::fs::create_dir_all(&dir).unwrap();
    drop(UnixListener::bind(dir.join("air")).unwrap());
    assert!(dir.join("air").exists());
    drop(start(&dir).unwrap());
    std::fs::write(dir.join("main"), "a file").unwrap();
    assert!(start(&dir).err().unwrap().to_string().contains("no socket"));
    assert!(dir.join("main").exists());
}

#[test]
fn the_clock_moves_the_world_by_itself() {
    let dir = std::env::temp_dir().join(format!("rigd-sim-clock-{}", std::process::id()));
    let board = Board::load("simulated-8gpu").unwrap();
    let sim = Sim::start(&board, &dir, Options { speed: 100.0, ..Options::default() }).unwrap();
    let give_up = Instant::now() + Duration::from_secs(20);
    while sim.world(|w| w.time()) < Duration::from_secs(10) {
        assert!(Instant::now() < give_up, "time stands at {:?}", sim.world(|w| w.time()));
        thread::park_timeout(Duration::from_millis(5));
    }
    drop(sim);
    std::fs::remove_dir_all(&dir).ok();
}
