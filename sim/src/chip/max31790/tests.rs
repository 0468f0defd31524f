//! Register rows of the datasheet, and the watchdog second by second.

use super::*;
use crate::chip::probe::{get, get_at, put};

const STILL: [f64; FANS] = [0.0; FANS];

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn chip() -> Max31790 {
    Max31790::new([2; FANS])
}

/// A chip whose tachometers are on.
fn listening() -> Max31790 {
    let mut chip = chip();
    put(&mut chip, &[0x02, 0x08, 0x08, 0x08, 0x08, 0x08, 0x08]);
    chip
}

#[test]
fn registers_have_their_reset_values() {
    let mut chip = chip();
    for (what, register, value) in [
        ("global configuration: bus time-out disabled, watchdog off", 0x00, 0x20),
        ("PWM frequency", 0x01, 0x44),
        ("fan 1 configuration", 0x02, 0x00),
        ("fan 1 dynamics: SR 4, 7.8 ms", 0x08, 0x4c),
        ("fault status 1", 0x11, 0x00),
        ("fault mask 1", 0x13, 0x3f),
        ("failed fan options", 0x14, 0x45),
        ("tach 1 count, high byte", 0x18, 0xff),
        ("tach 1 count, low byte", 0x19, 0xe0),
        ("beyond the map", 0x70, 0xff),
    ] {
        assert_eq!(get(&mut chip, register), [value], "{what}");
    }
    assert_eq!(get(&mut chip, 0x40), [0x4c, 0x80, 0x4c, 0x80], "153 of 511, and the next word");
    assert_eq!(chip.outputs().map(|duty| (duty * 511.0).round()), [153.0; 6]);
}

#[test]
fn counts_follow_the_datasheets_formula() {
    // count = 60 * SR * 8192 / (NP * RPM), in bits 15:5.
    for (what, dynamics, pulses, rpm, count) in [
        ("3000 rpm, SR 4, NP 2", 0x4c, 2, 3000.0, 328),
        ("12000 rpm, SR 4, NP 2", 0x4c, 2, 12_000.0, 82),
        ("slowest that SR 4 can tell", 0x4c, 2, 480.5, 2046),
        ("slower than that", 0x4c, 2, 400.0, 0x7ff),
        ("SR 1", 0x0c, 2, 400.0, 614),
        ("SR 32", 0xac, 2, 12_000.0, 655),
        ("code 111 is 32 too", 0xec, 2, 12_000.0, 655),
        ("one pulse a turn", 0x4c, 1, 3000.0, 655),
        ("stands", 0x4c, 2, 0.0, 0x7ff),
    ] {
        let mut chip = Max31790::new([pulses; FANS]);
        put(&mut chip, &[0x02, 0x08]);
        put(&mut chip, &[0x08, dynamics]);
        chip.run(s(0), [rpm, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(u16::from_be_bytes(get(&mut chip, 0x18)), count << 5, "{what}");
    }
}

#[test]
fn a_tachometer_that_is_not_enabled_stands() {
    let mut chip = chip();
    chip.run(s(0), [3000.0; FANS]);
    assert_eq!(get(&mut chip, 0x18), [0xff, 0xe0]);
}

#[test]
fn drive_goes_to_its_target_at_the_rate_of_the_channel() {
    let mut chip = chip();
    put(&mut chip, &[0x40, 0x00, 0x7f]);
    assert_eq!(get(&mut chip, 0x40), [0x00, 0x00], "nine bits from the left");
    chip.run(s(2), STILL);
    assert_eq!(get(&mut chip, 0x30), [0x00, 0x00]);
    put(&mut chip, &[0x40, 0xff, 0x80]);
    chip.run(s(3), STILL);
    assert_eq!(get(&mut chip, 0x30), [0x40, 0x00], "128 steps of 7.8 ms in a second");
    chip.run(s(6), STILL);
    assert_eq!(get(&mut chip, 0x30), [0xff, 0x80]);
    put(&mut chip, &[0x08, 0x40]);
    put(&mut chip, &[0x40, 0x80, 0x00]);
    chip.run(s(6), STILL);
    assert_eq!(get(&mut chip, 0x30), [0x80, 0x00], "rate 000 is at once");
}

#[test]
fn reads_go_on_and_writes_wrap_in_their_row_of_eight() {
    let mut chip = chip();
    put(&mut chip, &[0x46, 1, 0x80, 2, 0x80]);
    assert_eq!(get(&mut chip, 0x46), [1, 0x80, 0x4c, 0x80]);
    assert_eq!(get(&mut chip, 0x40), [2, 0x80]);
    put(&mut chip, &[0x30, 0xff]);
    put(&mut chip, &[0x18, 0x00]);
    assert_eq!((get(&mut chip, 0x30), get(&mut chip, 0x18)), ([0x4c], [0xff]), "read only");
}

#[test]
fn the_watchdog_gives_full_air_until_its_status_is_written_to_zero() {
    for (bits, seconds) in [(0x02, 5), (0x04, 10), (0x06, 30)] {
        let mut chip = chip();
        assert_eq!(chip.write(&[0x00, 0x20 | bits], s(100)), Ack::Acked);
        chip.run(s(100 + seconds) - Duration::from_millis(1), STILL);
        assert_eq!(chip.registers[0] & 1, 0, "{seconds} s");
        chip.run(s(100 + seconds), STILL);
        chip.run(s(104 + seconds), STILL);
        assert_eq!(chip.outputs(), [1.0; 6]);
        assert_eq!(get_at(&mut chip, 0x00, s(110 + seconds)), [0x21 | bits]);

        assert_eq!(chip.write(&[0x40, 0x80, 0x00], s(111 + seconds)), Ack::Acked);
        chip.run(s(115 + seconds), STILL);
        assert_eq!(chip.outputs(), [1.0; 6], "a new target does not end it");
        assert_eq!(chip.write(&[0x00, 0x21 | bits], s(115 + seconds)), Ack::Acked);
        assert_eq!(get_at(&mut chip, 0x00, s(115 + seconds)), [0x21 | bits], "nor does writing 1");
        assert_eq!(chip.write(&[0x00, 0x20 | bits], s(115 + seconds)), Ack::Acked);
        chip.run(s(119 + seconds), STILL);
        assert_eq!(get_at(&mut chip, 0x00, s(119 + seconds)), [0x20 | bits]);
        assert_eq!(get_at(&mut chip, 0x30, s(119 + seconds)), [0x80, 0x00]);
    }
}

#[test]
fn any_transfer_restarts_the_watchdog() {
    let mut chip = chip();
    assert_eq!(chip.write(&[0x00, 0x22], s(0)), Ack::Acked);
    for now in 1..60 {
        let mut byte = [0];
        assert_eq!(
            if now % 2 == 0 { chip.read(&mut byte, s(4 * now)) } else { chip.write(&[0x11], s(4 * now)) },
            Ack::Acked
        );
        chip.run(s(4 * now + 4), STILL);
    }
    assert_eq!(chip.registers[0], 0x22);
    chip.run(s(59 * 4 + 5), STILL);
    assert_eq!(chip.registers[0], 0x23);
}

#[test]
fn without_a_period_there_is_no_watchdog() {
    let mut chip = chip();
    chip.run(s(100_000), STILL);
    assert_eq!(get(&mut chip, 0x00), [0x20]);
}

#[test]
fn a_fan_that_stands_although_driven_has_failed() {
    let mut chip = listening();
    let third_stands = [2000.0, 2000.0, 0.0, 2000.0, 2000.0, 2000.0];
    chip.run(s(0), third_stands);
    chip.run(Duration::from_millis(900), third_stands);
    assert_eq!(get(&mut chip, 0x11), [0x00]);
    chip.run(s(1), third_stands);
    assert_eq!(get(&mut chip, 0x11), [0x04]);
    chip.run(s(2), [2000.0; FANS]);
    assert_eq!(get(&mut chip, 0x11), [0x04], "kept although it turns again");
    put(&mut chip, &[0x42, 0x80, 0x00]);
    assert_eq!(get(&mut chip, 0x11), [0x04], "another fan's target does not clear it");
    put(&mut chip, &[0x44, 0x80, 0x00]);
    assert_eq!(get(&mut chip, 0x11), [0x00]);
    chip.run(s(10), third_stands);
    put(&mut chip, &[0x44, 0x80, 0x00]);
    chip.run(s(10) + Duration::from_millis(50), third_stands);
    assert_eq!(get(&mut chip, 0x11), [0x04], "it comes back while the fan still stands");
}

#[test]
fn a_fan_that_is_not_driven_may_stand() {
    let mut chip = listening();
    for fan in 0..6 {
        put(&mut chip, &[0x40 + 2 * fan, 0, 0]);
    }
    chip.run(s(0), STILL);
    for now in 1..20 {
        chip.run(s(now), STILL);
        put(&mut chip, &[0x40, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(chip.registers[0x11] & 0x01, 0x00);
}

#[test]
fn standby_and_reset() {
    let mut chip = listening();
    put(&mut chip, &[0x00, 0xa0]);
    chip.run(s(4), STILL);
    assert_eq!(chip.outputs(), [0.0; 6]);
    put(&mut chip, &[0x00, 0x60]);
    assert_eq!((get(&mut chip, 0x00), get(&mut chip, 0x02)), ([0x20], [0x00]), "the reset bit clears itself");
}

#[test]
fn ailments() {
    let mut chip = listening();
    chip.run(s(0), [3000.0; FANS]);
    chip.ail(Ailment { frozen: true, wrong_id: false });
    chip.run(s(1), STILL);
    assert_eq!(get(&mut chip, 0x18), [0x29, 0x00]);
    chip.ail(Ailment { frozen: false, wrong_id: true });
    chip.run(s(1), [3000.0; FANS]);
    assert_eq!(get(&mut chip, 0x18), [0x29, 0x13]);
}
