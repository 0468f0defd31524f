use super::*;
use crate::chip::probe::{get, put};

/// 2 mOhm; 20 A at 12 V, 1 A backwards at 5 V, nothing.
fn example() -> Ina3221 {
    let mut chip = Ina3221::new(2_000);
    chip.measure([(12.0, 20.0), (5.0, -1.0), (0.0, 0.0)]);
    chip
}

fn word(chip: &mut Ina3221, register: u8) -> u16 {
    u16::from_be_bytes(get(chip, register))
}

#[test]
fn registers_hold_thirteen_bits_left_aligned() {
    let mut chip = example();
    for (what, register, value) in [
        ("configuration", 0x00, 0x7127),
        ("shunt 1: 40 mV", 0x01, 1000 << 3),
        ("bus 1: 12 V", 0x02, 1500 << 3),
        ("shunt 2: -2 mV", 0x03, u16::MAX - (50 << 3) + 1),
        ("bus 2: 5 V", 0x04, 625 << 3),
        ("shunt 3", 0x05, 0),
        ("critical limit 1", 0x07, 0x7ff8),
        ("sum of none", 0x0d, 0),
        ("power valid upper: 10 V", 0x10, 1250 << 3),
        ("power valid lower: 9 V", 0x11, 1125 << 3),
        ("manufacturer", 0xfe, 0x5449),
        ("die", 0xff, 0x3220),
        ("nothing there", 0x12, 0),
    ] {
        assert_eq!(word(&mut chip, register), value, "{what}");
    }
    // SBOS576 table 5: -80 mV is 0xc180, and the ends of the scale.
    for (amps, shunt) in [(-40.0, 0xc180), (40.0, 0x3e80), (1e6, 0x7ff8), (-1e6, 0x8000)] {
        chip.measure([(12.0, amps), (0.0, 0.0), (0.0, 0.0)]);
        assert_eq!(word(&mut chip, 0x01), shunt, "{amps} A");
    }
}

#[test]
fn channels_that_are_switched_off_keep_their_last_values() {
    let mut chip = example();
    put(&mut chip, &[0x00, 0x31, 0x27]);
    chip.measure([(1.0, 1.0), (6.0, 1.0), (0.0, 0.0)]);
    assert_eq!((word(&mut chip, 0x02), word(&mut chip, 0x04)), (1500 << 3, 750 << 3));
    put(&mut chip, &[0x00, 0x71, 0x20]);
    chip.measure([(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)]);
    assert_eq!(word(&mut chip, 0x04), 750 << 3, "powered down");
    put(&mut chip, &[0x00, 0x80, 0x00]);
    assert_eq!((word(&mut chip, 0x00), word(&mut chip, 0x04)), (0x7127, 0), "reset");
}

#[test]
fn flags_stay_until_they_are_read() {
    let mut chip = example();
    assert_eq!(word(&mut chip, 0x0f), 0x0003, "timing control, conversion ready");
    put(&mut chip, &[0x07, 0x1f, 0x40]);
    put(&mut chip, &[0x0a, 0xff, 0x00]);
    chip.measure([(12.0, 21.0), (5.0, 0.0), (0.0, 0.0)]);
    chip.measure([(12.0, 20.0), (5.0, -2.0), (0.0, 0.0)]);
    assert_eq!(word(&mut chip, 0x0f), 0x0213, "critical 1, warning 2");
    assert_eq!(word(&mut chip, 0x0f), 0x0002);
    put(&mut chip, &[0x0f, 0x60, 0x00]);
    put(&mut chip, &[0x0e, 0x07, 0x6a]);
    chip.measure([(12.0, 20.0), (12.0, -1.0), (12.0, 5.0)]);
    assert_eq!((word(&mut chip, 0x0d), word(&mut chip, 0x0f)), (950 << 1, 0x6047), "the sum of 1 and 2, power valid");
    chip.measure([(9.5, 0.0), (9.5, 0.0), (9.5, 0.0)]);
    assert_eq!(word(&mut chip, 0x0f) & 0x0004, 0x0004, "down to 9 V");
    chip.measure([(8.9, 0.0), (9.5, 0.0), (9.5, 0.0)]);
    assert_eq!(word(&mut chip, 0x0f) & 0x0004, 0);
}

#[test]
fn what_cannot_be_written_is_not() {
    let mut chip = example();
    for register in [0x01, 0x02, 0x0d, 0xfe, 0xff] {
        let before = word(&mut chip, register);
        put(&mut chip, &[register, 0x12, 0x34]);
        assert_eq!(word(&mut chip, register), before, "{register:#04x}");
    }
    put(&mut chip, &[0x08, 0x12]);
    assert_eq!(word(&mut chip, 0x08), 0x7ff8, "half a word is no word");
    chip.ail(Ailment { frozen: true, wrong_id: true });
    chip.measure([(1.0, 1.0); 3]);
    assert_eq!((word(&mut chip, 0x02), word(&mut chip, 0xff)), (1500 << 3, 0x2260));
}
