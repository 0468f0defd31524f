//! What a board becomes.

use rigd::board::BUILTIN;

use super::*;
use crate::wire::Operation;
use crate::world::Place;

/// Rails out of the file's order, an LM75, two supplies of which one has no name, and channels left open.
const ODD: &str = r#"
name = "odd"
revision = "a"
description = "simulated"
[bus.b]
socket = "b"
[bus.real]
adapter = "SMBus I801 adapter at efa0"
[chip.U1]
part = "ina226"
bus = "b"
addr = 0x41
shunt_microohms = 500
[chip.U2]
part = "ina226"
bus = "b"
addr = 0x40
shunt_microohms = 500
[chip.U3]
part = "ina226"
bus = "b"
addr = 0x42
shunt_microohms = 500
[chip.U4]
part = "lm75"
bus = "b"
addr = 0x48
[chip.U5]
part = "max31790"
bus = "b"
addr = 0x20
[chip.P1]
part = "pmbus"
bus = "b"
addr = 0x58
[chip.P2]
part = "pmbus"
bus = "b"
addr = 0x59
[chip.R1]
part = "tmp75"
bus = "real"
addr = 0x48
[rail.a]
chip = "U2"
[rail.b]
chip = "U1"
[sensor.intake_left]
chip = "U4"
[sensor.elsewhere]
chip = "R1"
[fan.only]
chip = "U5"
channel = 5
min_rpm = 300
max_rpm = 3000
start_pct = 20
[supply.main]
chip = "P2"
input = "in"
output = "out"
"#;

fn odd() -> Rig {
    Rig::new(&Board::parse("odd.toml", ODD).unwrap(), 3, Absent::Ones).unwrap()
}

fn get(rig: &mut Rig, addr: u8, register: u8) -> [u8; 2] {
    let operations = vec![Operation::Write(vec![register]), Operation::Read(2)];
    let outcome = rig.transact(0, &Request { addr, operations });
    assert_eq!((outcome.status, outcome.done), (Status::Ok, 2));
    outcome.bytes.try_into().unwrap()
}

#[test]
fn a_board_becomes_what_it_names_on_its_simulated_buses() {
    let mut rig = odd();
    let world = &rig.world;
    assert_eq!(world.gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(world.supplies.iter().map(|supply| supply.name.as_str()).collect::<Vec<_>>(), ["P1", "main"]);
    assert_eq!(world.probes.iter().map(|probe| probe.place).collect::<Vec<_>>(), [Place::Intake]);
    assert_eq!((world.fans.len(), rig.buses.len()), (1, 1));
    rig.world.gpus[1].load = 1.0;
    rig.advance(Duration::from_secs(10));
    let [a, b, none] = [0x40, 0x41, 0x42].map(|addr| u16::from_be_bytes(get(&mut rig, addr, 1)));
    assert!(none == 0 && a > 2_000 && b > a + 1_000, "rail a is GPU 0 at 0x40, b is GPU 1: {a} {b}");
    let share = rig.world.output_watts() / 2.0;
    assert!(rig.world.supplies.iter().all(|supply| (supply.output_watts - share).abs() < 1.0));
}

#[test]
fn channels_without_a_fan_stand_and_the_named_one_turns() {
    let mut rig = odd();
    let enable = vec![Operation::Write(vec![0x02, 8, 8, 8, 8, 8, 8])];
    assert_eq!(rig.transact(0, &Request { addr: 0x20, operations: enable }).status, Status::Ok);
    rig.advance(Duration::from_secs(3));
    assert_eq!(get(&mut rig, 0x20, 0x18), [0xff, 0xe0]);
    assert_ne!(get(&mut rig, 0x20, 0x20), [0xff, 0xe0], "channel 5");
    assert_eq!(get(&mut rig, 0x20, 0x11), [0x2f, 0x3f], "driven into nothing");
}

#[test]
fn every_built_in_board_starts_or_has_no_simulated_bus() {
    for (name, text) in BUILTIN {
        let board = Board::parse(name, text).unwrap();
        match Rig::new(&board, 1, Absent::Ones) {
            Ok(_) => assert!(board.simulated(), "{name}"),
            Err(error) => {
                assert!(!board.simulated() && error.to_string().contains("no simulated bus"), "{name}: {error}")
            }
        }
    }
}

#[test]
fn time_may_be_cut_in_any_steps_that_end_together() {
    let (mut once, mut often) = (odd(), odd());
    once.advance(Duration::from_secs(5));
    for _ in 0..50 {
        often.advance(Duration::from_millis(100));
    }
    assert_eq!(format!("{:?}", once.world), format!("{:?}", often.world));
}

#[test]
fn a_supplys_own_fan_can_be_seized_by_the_supplys_name() {
    let mut rig = odd();
    rig.break_it(Fault::fan_seized("main")).unwrap();
    assert_eq!(rig.world.supplies.iter().map(|supply| supply.fan_seized).collect::<Vec<_>>(), [false, true]);
    rig.break_it(Fault::fan_seized("1")).unwrap();
    assert!(rig.world.fans[0].seized);
    assert_eq!(rig.repair(|_| false), 2);
    assert!(!rig.world.fans[0].seized && !rig.world.supplies[1].fan_seized);
}

/// Two thermometers at one address, each behind a channel of its own.
fn behind_a_mux() -> Rig {
    const TEXT: &str = r#"
name = "odd"
revision = "a"
[bus.b]
socket = "b"
[mux.X1]
part = "pca9548"
bus = "b"
addr = 0x70
[chip.T1]
part = "tmp75"
mux = "X1"
channel = 0
addr = 0x48
[chip.T2]
part = "tmp75"
mux = "X1"
channel = 5
addr = 0x48
[sensor.intake]
chip = "T1"
[sensor.exhaust]
chip = "T2"
"#;
    Rig::new(&Board::parse("odd.toml", TEXT).unwrap(), 3, Absent::Ones).unwrap()
}

fn select(rig: &mut Rig, channels: u8) -> Status {
    rig.transact(0, &Request { addr: 0x70, operations: vec![Operation::Write(vec![channels])] }).status
}

fn temperature(rig: &mut Rig) -> Result<u16, Status> {
    let operations = vec![Operation::Write(vec![0]), Operation::Read(2)];
    let outcome = rig.transact(0, &Request { addr: 0x48, operations });
    outcome.bytes.try_into().map(u16::from_be_bytes).map_err(|_| outcome.status)
}

#[test]
fn a_chip_behind_a_multiplexer_answers_while_its_channel_is_open() {
    let mut rig = behind_a_mux();
    rig.advance(Duration::from_secs(60));
    assert_eq!(temperature(&mut rig), Err(Status::NoAddress), "all closed");
    assert_eq!(select(&mut rig, 0x01), Status::Ok);
    let intake = temperature(&mut rig).unwrap();
    assert_eq!(select(&mut rig, 0x20), Status::Ok);
    let exhaust = temperature(&mut rig).unwrap();
    assert_ne!(intake, exhaust);
    select(&mut rig, 0x21);
    assert_eq!(temperature(&mut rig), Ok(intake & exhaust), "both at once, and neither is read");
    select(&mut rig, 0x02);
    assert_eq!(temperature(&mut rig), Err(Status::NoAddress), "another channel");
}

#[test]
fn a_multiplexer_can_be_taken_out_and_comes_back_closed() {
    let mut rig = behind_a_mux();
    select(&mut rig, 0x01);
    rig.break_it(Fault::chip("b", 0x70, Kind::Gone)).unwrap();
    assert_eq!((select(&mut rig, 0x01), temperature(&mut rig)), (Status::NoAddress, Err(Status::NoAddress)));
    rig.repair(|_| false);
    assert_eq!(temperature(&mut rig), Err(Status::NoAddress));
    assert_eq!(select(&mut rig, 0x01), Status::Ok);
    assert!(temperature(&mut rig).is_ok());
    assert_eq!((rig.buses[0].address("X1"), rig.buses[0].address("T2")), (Some(0x70), Some(0x48)));
}

/// One of each part that the other boards here have not got.
const OTHERS: &str = r#"
name = "others"
revision = "a"
[bus.b]
socket = "b"
[chip.E]
part = "emc2305"
bus = "b"
addr = 0x2c
[chip.I]
part = "ina3221"
bus = "b"
addr = 0x43
shunt_microohms = 2000
[chip.A]
part = "adm1278"
bus = "b"
addr = 0x10
shunt_microohms = 500
[chip.T]
part = "tmp422"
bus = "b"
addr = 0x4c
[chip.C]
part = "hp-common-slot"
bus = "b"
addr = 0x5f
[rail.a]
chip = "I"
channel = 3
[rail.b]
chip = "A"
[sensor.exhaust]
chip = "T"
channel = "remote2"
[sensor.intake]
chip = "A"
[fan.x]
chip = "E"
channel = 4
min_rpm = 300
max_rpm = 3000
[supply.main]
chip = "C"
input = "in"
output = "out"
"#;

#[test]
fn every_part_is_connected_where_the_board_says() {
    let mut rig = Rig::new(&Board::parse("others.toml", OTHERS).unwrap(), 3, Absent::Ones).unwrap();
    rig.advance(Duration::from_secs(3));
    assert!(rig.world.fans[0].duty == 0.0, "an EMC2305 starts with its fans at rest");
    rig.advance(Duration::from_secs(2));
    assert!(rig.world.fans[0].duty == 1.0, "until its watchdog runs out");
    rig.advance(Duration::from_secs(30));
    let near = |found: [u8; 2], expected: f64, what: &str| {
        let found = f64::from(u16::from_be_bytes(found));
        assert!((found - expected).abs() < expected.abs() / 100.0 + 8.0, "{what}: {found} for {expected}");
    };
    let swapped = |[low, high]: [u8; 2]| [high, low];
    let (a, b) = (rig.world.gpus[0].clone(), rig.world.gpus[1].clone());
    near(get(&mut rig, 0x43, 0x06), a.volts * 1000.0, "INA3221 channel 3, volts");
    near(get(&mut rig, 0x43, 0x05), a.amps() * 2.0 / 0.04 * 8.0, "its amperes");
    near(get(&mut rig, 0x43, 0x03), 0.0, "channel 2, of which nothing draws");
    near(swapped(get(&mut rig, 0x10, 0x88)), b.volts * 195.99, "ADM1278, volts");
    near(swapped(get(&mut rig, 0x10, 0x8c)), b.amps() * 40.0 + 2047.5, "its amperes");
    let exhaust = rig.world.probes[0].celsius();
    near(get(&mut rig, 0x4c, 0x02), exhaust * 256.0, "TMP422, second remote");
    assert_eq!(get(&mut rig, 0x4c, 0x11)[0] & 1, 1, "its first is open");
    let rpm = rig.world.fans[0].rpm;
    near(get(&mut rig, 0x2c, 0x6e), 3_932_160.0 * 2.0 / rpm * 8.0, "EMC2305, tachometer 4");
    let ask = |register: u8| vec![Operation::Write(vec![register, 0x42_u8.wrapping_sub(register)]), Operation::Read(2)];
    let outcome = rig.transact(0, &Request { addr: 0x5f, operations: ask(0x08) });
    near(swapped(outcome.bytes.try_into().unwrap()), rig.world.supplies[0].input_volts * 32.0, "common slot, input");
}
