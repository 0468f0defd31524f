//! What a board becomes.

use rigd::board::BUILTIN;

use super::*;
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
    let (status, bytes) = rig.transact(0, &Request { addr, operations });
    assert_eq!(status, Status::Ok);
    bytes.try_into().unwrap()
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
    assert_eq!(rig.transact(0, &Request { addr: 0x20, operations: enable }).0, Status::Ok);
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
