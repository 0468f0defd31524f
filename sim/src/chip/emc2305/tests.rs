use super::*;
use crate::chip::probe::{get, get_at, put};

const PULSES: [u8; FANS] = [2; FANS];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Five fans, the first set to 128 and past its spin-up, one second after power-up.
fn running() -> Emc2305 {
    let mut chip = Emc2305::new(5, PULSES);
    put(&mut chip, &[0x30, 0x80]);
    chip.run(ms(1000), [2000.0, 0.0, 0.0, 0.0, 0.0]);
    chip
}

#[test]
fn reset_values_and_ids_are_the_datasheets() {
    for (fans, id) in [(1, 0x37), (2, 0x36), (3, 0x35), (5, 0x34)] {
        let mut chip = Emc2305::new(fans, PULSES);
        for (register, value) in
            [(0x20, 0x40), (0x24, 0), (0x25, 0), (0x26, 0), (0x27, 0), (0xfd, id), (0xfe, 0x5d), (0xff, 0x80)]
        {
            assert_eq!(get(&mut chip, register), [value], "{register:#04x}");
        }
        let last = 0x30 + 0x10 * u8::try_from(fans - 1).unwrap();
        let fan = [0x00, 0x01, 0x2b, 0x28, 0x00, 0x2a, 0x19, 0x10, 0x66, 0xf5, 0x00, 0x00, 0xf8, 0xff, 0xff, 0xf8];
        assert_eq!((get(&mut chip, 0x30), get(&mut chip, last)), (fan, fan));
        assert_eq!(get(&mut chip, last + 0x10), [0; 16], "no such fan");
    }
}

#[test]
fn the_tachometer_counts_the_clock_between_edges() {
    // Equation 2 of section 5.18 at two pulses: RPM = 3932160 * m / count for five edges.
    for (configuration, rpm, count) in [
        (0x2b, 2000.0, 3932),
        (0x0b, 2000.0, 1966),
        (0x4b, 2000.0, 7864),
        (0x03, 2000.0, 983),
        (0x13, 2000.0, 2949),
        (0x2b, 10_000.0, 786),
        (0x2b, 500.0, 0x1fff),
        (0x2b, 0.0, 0x1fff),
    ] {
        let mut chip = running();
        put(&mut chip, &[0x32, configuration]);
        chip.run(ms(1100), [rpm, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(u16::from_be_bytes(get(&mut chip, 0x3e)), count << 3, "{configuration:#04x} {rpm}");
    }
}

#[test]
fn a_fan_that_starts_is_spun_up_first_and_its_register_shows_that() {
    let mut chip = Emc2305::new(5, PULSES);
    put(&mut chip, &[0x30, 0x40]);
    // 500 ms: 125 ms at 100 %, then 60 %.
    for (now, setting) in [(0, 0xff), (100, 0xff), (130, 0x99), (490, 0x99), (500, 0x40), (600, 0x40)] {
        chip.run(ms(now), [2000.0; FANS]);
        assert_eq!(get_at(&mut chip, 0x30, ms(now)), [setting], "{now} ms");
    }
    put(&mut chip, &[0x30, 0x80]);
    assert_eq!(get(&mut chip, 0x30), [0x80], "from a drive to another at once");
    // 250 ms without the kick, at 30 %.
    put(&mut chip, &[0x46, 0x20]);
    put(&mut chip, &[0x40, 0xc0]);
    for (now, setting) in [(600, 0x4d), (840, 0x4d), (860, 0xc0)] {
        chip.run(ms(now), [2000.0; FANS]);
        assert_eq!(get_at(&mut chip, 0x40, ms(now)), [setting], "{now} ms");
    }
}

#[test]
fn steps_can_be_limited() {
    let mut chip = running();
    put(&mut chip, &[0x33, 0x68]);
    put(&mut chip, &[0x30, 0xff]);
    // 16 steps each 400 ms.
    for (now, setting) in [(1000, 0x80), (1400, 0x90), (2200, 0xb0), (5000, 0xff)] {
        chip.run(ms(now), [2000.0; FANS]);
        assert_eq!(get_at(&mut chip, 0x30, ms(now)), [setting], "{now} ms");
    }
}

#[test]
fn the_watchdog_runs_from_power_up_until_a_fan_is_set() {
    let mut chip = Emc2305::new(5, PULSES);
    put(&mut chip, &[0x32, 0x0b]);
    assert_eq!(get_at(&mut chip, 0xfd, ms(3000)), [0x34]);
    chip.run(ms(6900), [0.0; FANS]);
    assert_eq!(chip.outputs(), [0.0; FANS], "a transfer was at 3 s");
    chip.run(ms(7000), [0.0; FANS]);
    assert_eq!(chip.outputs(), [1.0; FANS]);
    assert_eq!((get(&mut chip, 0x24), get(&mut chip, 0x24)), ([0x81], [0x01]), "told once; the fans do not turn yet");
    put(&mut chip, &[0x30, 0x80]);
    chip.run(ms(60_000), [2000.0; FANS]);
    assert!((chip.outputs()[0] - 0.5).abs() < 0.01 && chip.outputs()[1] == 1.0, "over; each until it is set");
    let mut chip = running();
    chip.run(ms(60_000), [2000.0; FANS]);
    assert!((chip.outputs()[0] - 0.5).abs() < 0.01, "set before it ran out");
}

#[test]
fn the_watchdog_runs_always_when_enabled() {
    let mut chip = running();
    assert_eq!(chip.write(&[0x20, 0x60], ms(1000)), Ack::Acked);
    chip.run(ms(4900), [2000.0; FANS]);
    assert_eq!(get_at(&mut chip, 0x24, ms(4900)), [0]);
    chip.run(ms(8800), [2000.0; FANS]);
    assert_eq!(get_at::<1>(&mut chip, 0x30, ms(8800)), [0x80], "fed by a read");
    chip.run(ms(12_800), [2000.0; FANS]);
    assert_eq!((chip.outputs(), get_at(&mut chip, 0x24, ms(12_800))), ([1.0; FANS], [0x80]));
    put(&mut chip, &[0x20, 0x40]);
    assert_eq!((chip.outputs(), get(&mut chip, 0x30)), ([1.0; FANS], [0xff]), "until they are set");
}

#[test]
fn a_fan_that_stands_although_driven_is_called_stalled_until_read() {
    let mut chip = running();
    chip.run(ms(1100), [0.0; FANS]);
    assert_eq!((get(&mut chip, 0x25), get(&mut chip, 0x24)), ([0x01], [0x01]), "the first alone is driven");
    chip.run(ms(1200), [2000.0; FANS]);
    assert_eq!((get(&mut chip, 0x25), get(&mut chip, 0x25)), ([0x01], [0x00]), "latched, then read");
    put(&mut chip, &[0x50, 0x80]);
    chip.run(ms(1300), [2000.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(get(&mut chip, 0x25), [0x00], "it is being spun up");
    chip.run(ms(1900), [2000.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!((get(&mut chip, 0x26), get(&mut chip, 0x25), get(&mut chip, 0x24)), ([0x04], [0x04], [0x03]));
}

#[test]
fn the_closed_loop_holds_the_drive_and_ids_cannot_be_written() {
    let mut chip = running();
    put(&mut chip, &[0x32, 0xab]);
    put(&mut chip, &[0x30, 0x10]);
    put(&mut chip, &[0xfd, 0x10]);
    put(&mut chip, &[0x3e, 0x10]);
    chip.run(ms(2000), [2000.0; FANS]);
    assert_eq!((get(&mut chip, 0x30), get(&mut chip, 0xfd)), ([0x80], [0x34]));
    put(&mut chip, &[0x20, 0xff]);
    assert_eq!(get(&mut chip, 0x20), [0xe3]);
    chip.reset();
    assert_eq!((get(&mut chip, 0x20), get(&mut chip, 0x30), chip.outputs()), ([0x40], [0x00], [0.0; FANS]));
}

#[test]
fn ailments() {
    let mut chip = running();
    let before: [u8; 2] = get(&mut chip, 0x3e);
    chip.ail(Ailment { frozen: true, wrong_id: true });
    chip.run(ms(1100), [500.0; FANS]);
    assert_eq!((get(&mut chip, 0x3e), get(&mut chip, 0xfd)), (before, [0x26]));
}
