use super::*;
use crate::chip::probe::{get, put};

fn word(chip: &mut Adm1275, command: u8) -> u16 {
    u16::from_le_bytes(get(chip, command))
}

#[test]
fn codes_are_the_datasheets_line() {
    // 12 V, 20 A through 1 mOhm, 25 °C with everything enabled, and 48 V for the one that is made for it.
    for (kind, config, volts, vin, iout, temperature, pin) in [
        (Kind::Adm1278, 0x070e, 12.0, 2352, 3648, 3293, 14_695),
        (Kind::Adm1272, 0x000e, 48.0, 3250, 4095, 3292, 32_767),
        (Kind::Adm1272, 0x002f, 48.0, 1950, 3374, 3292, 10_114),
    ] {
        let mut chip = Adm1275::new(kind, 1000);
        let [low, high] = u16::to_le_bytes(config);
        put(&mut chip, &[0xd4, low, high]);
        chip.measure(volts, 20.0, 25.0);
        assert_eq!((word(&mut chip, 0x88), word(&mut chip, 0x8b)), (vin, vin), "{kind:?}");
        assert_eq!((word(&mut chip, 0x8c), word(&mut chip, 0x8d)), (iout, temperature), "{kind:?}");
        assert_eq!((word(&mut chip, 0x97), word(&mut chip, 0xd0)), (pin, iout), "{kind:?}");
    }
    for (config, vin, vout) in [(0x2c, 2304, 0), (0x6c, 0, 2304), (0x0c, 4095, 0)] {
        let mut chip = Adm1275::new(Kind::Adm1275, 500);
        put(&mut chip, &[0xd4, config]);
        put(&mut chip, &[0xd3, 0x01]);
        chip.measure(12.0, 20.0, 25.0);
        assert_eq!((word(&mut chip, 0x88), word(&mut chip, 0x8b)), (vin, vout), "{config:#04x}");
        assert_eq!(word(&mut chip, 0x8c), 2855, "half the resistor");
    }
}

#[test]
fn no_current_and_one_that_flows_back_are_codes_too() {
    let mut chip = Adm1275::new(Kind::Adm1278, 1000);
    for (amps, iout, pin) in [(0.0, 2048, 0), (-10.0, 1248, 0), (-100.0, 0, 0), (100.0, 4095, 32_767)] {
        chip.measure(12.0, amps, 25.0);
        assert_eq!((word(&mut chip, 0x8c), word(&mut chip, 0x97)), (iout, pin), "{amps} A");
    }
}

#[test]
fn what_is_not_selected_or_not_running_stays_as_it_is() {
    let mut chip = Adm1275::new(Kind::Adm1278, 1000);
    chip.measure(12.0, 20.0, 25.0);
    assert_eq!((word(&mut chip, 0x88), word(&mut chip, 0x8b), word(&mut chip, 0x8d)), (2352, 0, 0), "as after reset");
    put(&mut chip, &[0xd3, 0x00]);
    chip.measure(10.0, 0.0, 25.0);
    assert_eq!(word(&mut chip, 0x88), 2352, "stopped");
    let mut chip = Adm1275::new(Kind::Adm1275, 1000);
    chip.measure(12.0, 20.0, 25.0);
    assert_eq!((word(&mut chip, 0x88), word(&mut chip, 0x8c)), (0, 0), "not started");
}

#[test]
fn ids_and_reset_values_are_the_datasheets() {
    let mut chip = Adm1275::new(Kind::Adm1275, 1000);
    assert_eq!(get(&mut chip, 0x99), *b"\x03ADI\xff");
    assert_eq!(get(&mut chip, 0x9a), *b"\x09ADM1275-1\xff");
    for (command, value) in [(0x98, 0x11), (0xd3, 0x00), (0xd4, 0x2c), (0xd8, 0x00), (0x7b, 0x00)] {
        assert_eq!(get(&mut chip, command), [value], "{command:#04x}");
    }
    for (command, value) in [(0x42, 0x0fff), (0x43, 0), (0x4a, 0x0fff), (0x57, 0x0fff), (0x58, 0), (0x79, 0)] {
        assert_eq!(word(&mut chip, command), value, "{command:#04x}");
    }
    let mut chip = Adm1275::new(Kind::Adm1278, 1000);
    assert_eq!((word(&mut chip, 0xd4), get(&mut chip, 0x98)), (0x0714, [0x22]));
    chip.ail(Ailment { frozen: true, wrong_id: true });
    chip.measure(12.0, 20.0, 25.0);
    assert_eq!((get(&mut chip, 0x9a), word(&mut chip, 0x88)), (*b"\x09ADM1293-1", 0));
}

#[test]
fn commands_that_it_has_not_got_are_refused() {
    let mut chip = Adm1275::new(Kind::Adm1275, 1000);
    for command in [0x20, 0x51, 0x7d, 0x7e, 0x81, 0x8d, 0x97, 0xd9] {
        assert_eq!(chip.write(&[command], Duration::ZERO), Ack::NotAcked, "{command:#04x}");
        assert_eq!(chip.read(&mut [0], Duration::ZERO), Ack::NotAcked, "{command:#04x}");
    }
    assert_eq!((word(&mut chip, 0x79), get(&mut chip, 0x80)), (0x0002, [0x00]));
    put(&mut chip, &[0x03]);
    assert_eq!(word(&mut chip, 0x79), 0);
    let mut chip = Adm1275::new(Kind::Adm1278, 1000);
    assert_eq!(chip.write(&[0x20], Duration::ZERO), Ack::NotAcked);
    assert_eq!(get(&mut chip, 0x7e), [0x80]);
}

#[test]
fn limits_warn_until_cleared() {
    let mut chip = Adm1275::new(Kind::Adm1278, 1000);
    put(&mut chip, &[0xd4, 0x0e, 0x07]);
    put(&mut chip, &[0x58, 0x00, 0x09]);
    put(&mut chip, &[0x42, 0x80, 0x09]);
    put(&mut chip, &[0x4a, 0x00, 0x0e]);
    put(&mut chip, &[0x51, 0x00, 0x0d]);
    chip.measure(12.0, 18.0, 30.0);
    assert_eq!(word(&mut chip, 0x79), 0, "within");
    for (volts, amps, celsius, register, bit, status) in [
        (11.5, 18.0, 30.0, 0x7c, 0x20, 0x2000),
        (12.5, 18.0, 30.0, 0x7a, 0x40, 0x8000),
        (12.0, 20.0, 30.0, 0x7b, 0x20, 0x4000),
        (12.0, 18.0, 50.0, 0x7d, 0x40, 0x0004),
    ] {
        chip.measure(volts, amps, celsius);
        chip.measure(12.0, 18.0, 30.0);
        assert_eq!((get(&mut chip, register), word(&mut chip, 0x79)), ([bit], status));
        put(&mut chip, &[0x03]);
        assert_eq!(word(&mut chip, 0x79), 0);
    }
}
