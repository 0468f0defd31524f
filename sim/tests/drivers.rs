//! The agent's drivers against these models: two register tables written apart from each other must agree.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a bus thread back-off is told the time")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rigd::board::{Board, Point};
use rigd::bus::{Host, Order, Worker};
use rigd::reading::{ChipReading, Fault as ChipFault, Health, Missing};
use rigd::units::{Duty, Millicelsius, Milliwatts, Rpm};
use rigd_sim::chip::pmbus::Absent;
use rigd_sim::{Fault, Kind, Options, Sim};

struct Bench {
    board: Board,
    workers: Vec<Worker>,
    sim: Option<Sim>,
    dir: PathBuf,
    /// What the workers are told the time is: the start and what has been advanced.
    now: Instant,
}

impl Bench {
    fn new(name: &str, absent: Absent) -> Self {
        let dir = std::env::temp_dir().join(format!("rigd-sim-drivers-{name}-{}", std::process::id()));
        let board = Board::load("simulated-8gpu").unwrap();
        let options = Options { manual: true, absent, ..Options::default() };
        let sim = Sim::start(&board, &dir, options).unwrap();
        let host = Host { simulation: Some(dir.clone()), ..Host::default() };
        let workers = (0..board.buses.len()).map(|bus| Worker::new(&board, bus, &host)).collect();
        Self { board, workers, sim: Some(sim), dir, now: Instant::now() }
    }

    fn sim(&self) -> &Sim {
        self.sim.as_ref().unwrap()
    }

    /// One tick: `duty` to all fans and a pass over all chips, then a second.
    fn tick(&mut self, duty: Option<Duty>) {
        let now = self.now;
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let fans = self.board.fans.iter().filter(|fan| fan.at.bus == index);
            let duties = fans.filter_map(|fan| Some((fan.at.chip, fan.at.channel, duty?))).collect();
            worker.pass(&Order { duties }, || now);
        }
        self.wait(1);
    }

    fn wait(&mut self, seconds: u64) {
        self.sim().advance(Duration::from_secs(seconds));
        self.now += Duration::from_secs(seconds);
    }

    fn chip(&self, at: Point) -> &ChipReading {
        &self.workers[at.bus].snapshot().chips[at.chip]
    }

    fn health(&self) -> Vec<Health> {
        self.workers.iter().flat_map(|worker| worker.snapshot().health.clone()).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.sim = None;
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

fn near(what: &str, read: f64, truth: f64, within: f64) {
    assert!((read - truth).abs() <= within, "{what}: read {read}, true {truth}");
}

#[test]
fn every_chip_is_identified_and_tells_the_truth() {
    let mut bench = Bench::new("truth", Absent::Ones);
    for _ in 0..20 {
        bench.tick(Duty::from_percent(50));
    }
    // The last pass saw the world as it is now but for the second that followed it: look before that.
    let now = bench.now;
    bench.workers.iter_mut().for_each(|worker| worker.pass(&Order::default(), || now));
    assert!(bench.health().iter().all(|health| *health == Health::Ok), "{:?}", bench.health());

    let world = bench.sim().world(|world| world.clone());
    for (rail, gpu) in bench.board.rails.iter().zip(&world.gpus) {
        let power = bench.chip(rail.at).power[rail.at.channel];
        near(&rail.name, f64::from(power.voltage.unwrap().0), gpu.volts * 1000.0, 1.5);
        near(&rail.name, f64::from(power.current.unwrap().0), gpu.amps() * 1000.0, 5.0);
        near(&rail.name, f64::from(power.power.unwrap().0), gpu.watts * 1000.0, 200.0);
    }
    for sensor in &bench.board.sensors {
        let Millicelsius(read) = bench.chip(sensor.at).temperature[sensor.at.channel].unwrap();
        let probe = world.probes.iter().find(|probe| probe.name == sensor.name).unwrap();
        near(&sensor.name, f64::from(read), probe.celsius() * 1000.0, 63.0);
    }
    for (fan, truth) in bench.board.fans.iter().zip(&world.fans) {
        let read = bench.chip(fan.at).fan[fan.at.channel];
        near(&fan.name, f64::from(read.rpm.unwrap().0), truth.rpm, 20.0);
        near(&fan.name, f64::from(read.duty.unwrap().hundredths()), truth.duty * 10_000.0, 20.0);
        assert!(!read.fault);
    }
    for (supply, truth) in bench.board.supplies.iter().zip(&world.supplies) {
        let (input, output) = (bench.chip(supply.input).power[0], bench.chip(supply.output).power[1]);
        near("input V", f64::from(input.voltage.unwrap().0), truth.input_volts * 1000.0, 300.0);
        near("input A", f64::from(input.current.unwrap().0), truth.input_amps * 1000.0, 20.0);
        near("input W", f64::from(input.power.unwrap().0), truth.input_watts * 1000.0, 2500.0);
        near("output V", f64::from(output.voltage.unwrap().0), truth.volts * 1000.0, 3.0);
        near("output A", f64::from(output.current.unwrap().0), truth.output_amps() * 1000.0, 300.0);
        near("output W", f64::from(output.power.unwrap().0), truth.output_watts * 1000.0, 2500.0);
        let reading = bench.chip(supply.output);
        near("inlet", f64::from(reading.temperature[0].unwrap().0), truth.inlet * 1000.0, 100.0);
        near("inside", f64::from(reading.temperature[1].unwrap().0), truth.celsius * 1000.0, 100.0);
        assert_eq!(reading.temperature[2], Err(Missing::NotPresent));
        near("fan", f64::from(reading.fan[0].rpm.unwrap().0), truth.fan_rpm, 20.0);
        assert_eq!(reading.faults.iter().count(), 0);
    }
}

#[test]
fn duties_arrive_and_silence_brings_full_air_that_a_new_pass_ends() {
    let mut bench = Bench::new("duties", Absent::Ones);
    for _ in 0..15 {
        bench.tick(Duty::from_percent(40));
    }
    let near_40 = |(_, duty, _): &(String, Duty, Rpm)| duty.hundredths().abs_diff(4_000) <= 20;
    assert!(bench.sim().fans().iter().all(near_40), "{:?}", bench.sim().fans());
    bench.wait(30);
    assert!(bench.sim().fans().iter().all(|(_, duty, _)| *duty == Duty::FULL), "{:?}", bench.sim().fans());
    bench.tick(Duty::from_percent(40));
    let fan = &bench.board.fans[0];
    assert!(bench.chip(fan.at).faults.has(ChipFault::Watchdog), "told once");
    for _ in 0..15 {
        bench.tick(Duty::from_percent(40));
    }
    let fan = &bench.board.fans[0];
    assert!(!bench.chip(fan.at).faults.has(ChipFault::Watchdog));
    assert!(bench.sim().fans().iter().all(near_40), "{:?}", bench.sim().fans());
}

#[test]
fn a_seized_fan_is_known_by_its_tachometer_and_by_its_chip() {
    let mut bench = Bench::new("seized", Absent::Ones);
    for _ in 0..5 {
        bench.tick(Duty::from_percent(50));
    }
    bench.sim().fault(Fault::fan_seized("fan2")).unwrap();
    for _ in 0..5 {
        bench.tick(Duty::from_percent(50));
    }
    for fan in &bench.board.fans {
        let read = bench.chip(fan.at).fan[fan.at.channel];
        assert_eq!((read.rpm == Ok(Rpm(0)), read.fault), (fan.name == "fan2", fan.name == "fan2"), "{}", fan.name);
    }
}

#[test]
fn faults_of_one_chip_stay_with_it_and_pass() {
    for kind in [Kind::Nack, Kind::Gone, Kind::WrongId] {
        let mut bench = Bench::new(&format!("one-{kind:?}"), Absent::Ones);
        let rail = bench.board.rails[2].clone();
        bench.sim().fault(Fault::chip("main", 0x42, kind)).unwrap();
        for _ in 0..3 {
            bench.tick(None);
        }
        let failed = bench.health().iter().filter(|health| **health != Health::Ok).count();
        assert_eq!(failed, 1, "{kind:?}: {:?}", bench.health());
        assert_eq!(bench.chip(rail.at).power[0].power, Err(Missing::NotPresent), "{kind:?}");
        bench.sim().clear().unwrap();
        for _ in 0..90 {
            bench.tick(None);
        }
        assert!(bench.health().iter().all(|health| *health == Health::Ok), "{kind:?}: {:?}", bench.health());
        let Milliwatts(power) = bench.chip(rail.at).power[0].power.unwrap();
        assert!(power > 100_000, "{kind:?}: calibrated again: {power} mW");
    }
}

#[test]
fn an_adapter_that_comes_back_is_used_again() {
    let mut bench = Bench::new("adapter", Absent::Ones);
    bench.tick(None);
    bench.sim().fault(Fault::bus("main", Kind::BusGone)).unwrap();
    for _ in 0..5 {
        bench.tick(None);
    }
    let rail = bench.board.rails[0].clone();
    assert!(bench.chip(rail.at).power[0].power.is_err());
    bench.sim().clear().unwrap();
    for _ in 0..90 {
        bench.tick(None);
    }
    assert!(bench.chip(rail.at).power[0].power.is_ok());
}

#[test]
fn a_supply_that_refuses_unknown_commands_loses_only_those() {
    let mut bench = Bench::new("strict", Absent::Nack);
    bench.tick(None);
    bench.tick(None);
    let supply = bench.board.supplies[0].clone();
    let reading = bench.chip(supply.output);
    assert!(reading.power[0].power.is_ok() && reading.power[1].power.is_ok());
    assert_eq!(reading.temperature[2], Err(Missing::NotPresent));
    assert_eq!(reading.fan[1].rpm, Err(Missing::NotPresent));
}
