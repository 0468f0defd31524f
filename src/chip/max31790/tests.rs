use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

use super::*;

const ADDR: u8 = 0x20;

fn driver(transactions: &[T], watchdog_s: u8) -> (Max31790<Mock>, Mock) {
    let mock = Mock::new(transactions);
    let settings = Settings { watchdog_s, pulses: vec![2, 2, 2, 2, 2, 4], ..Settings::default() };
    (Max31790::new(ADDR, mock.clone(), &settings), mock)
}

#[test]
fn rpm_follows_the_datasheets_formula() {
    // RPM = 60 * SR * 8192 / (NP * count), and 0x7ff means that it stands.
    for (what, raw, sr, np, expected) in [
        ("3000 rpm, SR 4", 327 << 5, 4, 2, Ok(Rpm(3006))),
        ("slowest, SR 4", 2046 << 5, 4, 2, Ok(Rpm(480))),
        ("stands", 0xffe0, 4, 2, Ok(Rpm(0))),
        ("one pulse", 100 << 5, 1, 1, Ok(Rpm(4915))),
        ("count of zero", 0, 4, 2, Err(Missing::Implausible)),
        ("faster than any fan", 1 << 5, 4, 2, Err(Missing::Implausible)),
    ] {
        assert_eq!(rpm(raw, sr, np), expected, "{what}");
    }
}

#[test]
fn duty_fills_nine_bits_from_the_left() {
    assert_eq!(duty(0xff80), Ok(Duty::FULL));
    assert_eq!(duty(0), Ok(Duty::OFF));
    assert_eq!(Duty::FULL.of(DUTY_FULL) << DUTY_SHIFT, 0xff80);
}

#[test]
fn watchdog_codes_are_bits_2_and_1() {
    for (seconds, bits) in [(5, 0x02), (10, 0x04), (30, 0x06), (0, 0x00)] {
        assert_eq!(watchdog_code(seconds) << global::WATCHDOG_SHIFT, bits);
    }
}

#[test]
fn configure_sets_pwm_mode_and_arms_the_watchdog_last() {
    let mut expected = Vec::new();
    for fan in 0..6 {
        expected.push(T::write_read(ADDR, vec![0x02 + fan], vec![0x47]));
        expected.push(T::write(ADDR, vec![0x02 + fan, 0x49]));
        expected.push(T::write_read(ADDR, vec![0x02 + fan], vec![0x49]));
        expected.push(T::write(ADDR, vec![0x08 + fan, 0x40]));
        expected.push(T::write_read(ADDR, vec![0x08 + fan], vec![0x40]));
        expected.push(T::write(ADDR, vec![0x50 + 2 * fan, 0xff, 0xc0]));
        expected.push(T::write_read(ADDR, vec![0x50 + 2 * fan], vec![0xff, 0xc0]));
    }
    expected.push(T::write_read(ADDR, vec![0x00], vec![0x21]));
    for fan in 0..6 {
        // Its watchdog had run out: full air stays until somebody decides otherwise.
        expected.push(T::write(ADDR, vec![0x40 + 2 * fan, 0xff, 0x80]));
        expected.push(T::write_read(ADDR, vec![0x40 + 2 * fan], vec![0xff, 0x80]));
    }
    expected.push(T::write(ADDR, vec![0x00, 0x24]));
    expected.push(T::write_read(ADDR, vec![0x00], vec![0x24]));
    let (mut chip, mut mock) = driver(&expected, 10);
    assert_eq!(chip.configure(), Ok(()));
    assert!(chip.ran_out);
    mock.done();
}

#[test]
fn a_fan_in_rpm_mode_keeps_the_drive_that_it_has() {
    let mut expected = Vec::new();
    for fan in 0..6 {
        // The second fan is in RPM mode at half its drive; the third is only measured, the fourth's pin is an input.
        let (found, left) = [(0x08, 0x08), (0xe8, 0x68), (0x18, 0x18), (0x01, 0x09)]
            .get(usize::from(fan))
            .copied()
            .unwrap_or((0x08, 0x08));
        let target = T::write(ADDR, vec![0x40 + 2 * fan, 0x80, 0x00]);
        expected.push(T::write_read(ADDR, vec![0x02 + fan], vec![found]));
        if fan == 1 {
            expected.push(T::write_read(ADDR, vec![0x32], vec![0x80, 0x7f]));
            expected.push(target.clone());
        }
        expected.push(T::write(ADDR, vec![0x02 + fan, left]));
        expected.push(T::write_read(ADDR, vec![0x02 + fan], vec![left]));
        if fan == 1 {
            expected.push(target);
            expected.push(T::write_read(ADDR, vec![0x42], vec![0x80, 0x00]));
        }
        expected.push(T::write(ADDR, vec![0x08 + fan, 0x40]));
        expected.push(T::write_read(ADDR, vec![0x08 + fan], vec![0x40]));
        expected.push(T::write(ADDR, vec![0x50 + 2 * fan, 0xff, 0xc0]));
        expected.push(T::write_read(ADDR, vec![0x50 + 2 * fan], vec![0xff, 0xc0]));
    }
    expected.push(T::write_read(ADDR, vec![0x00], vec![0x20]));
    expected.push(T::write(ADDR, vec![0x00, 0x24]));
    expected.push(T::write_read(ADDR, vec![0x00], vec![0x24]));
    // The one that is only measured is driven from its first duty on.
    expected.push(T::write(ADDR, vec![0x44, 0xff, 0x80]));
    expected.push(T::write_read(ADDR, vec![0x44], vec![0xff, 0x80]));
    expected.push(T::write(ADDR, vec![0x04, 0x08]));
    expected.push(T::write_read(ADDR, vec![0x04], vec![0x08]));
    let (mut chip, mut mock) = driver(&expected, 10);
    assert_eq!(chip.configure(), Ok(()));
    assert_eq!(chip.channels.map(|channel| channel.target), [None, Some(0x8000), None, None, None, None]);
    assert_eq!(chip.channels.map(Channel::drives), [true, true, false, false, true, true]);
    assert_eq!(chip.set_duty(2, Duty::FULL), Ok(()));
    assert!(chip.channels[2].drives());
    assert_eq!(chip.set_duty(3, Duty::FULL), Err(Error::ReadBack { register: 0x05, written: 0, found: 1 }));
    mock.done();
}

#[test]
fn one_that_was_reset_is_not_believed() {
    let (mut chip, mut mock) = driver(
        &[
            T::write_read(ADDR, vec![0x00], vec![0x20]),
            T::write_read(ADDR, vec![0x11], vec![0x00]),
            T::write_read(ADDR, vec![0x08], vec![0x4c]),
        ],
        10,
    );
    let reset = Error::ReadBack { register: 0x08, written: 0x40, found: 0x4c };
    assert_eq!(chip.read(&mut PART.missing(Missing::Stale)), Err(reset));
    mock.done();
}

#[test]
fn a_watchdog_that_ran_out_is_told_and_rearmed() {
    let mut expected = vec![T::write_read(ADDR, vec![0x00], vec![0x05]), T::write_read(ADDR, vec![0x11], vec![0x02])];
    for fan in 0..6 {
        expected.push(T::write_read(ADDR, vec![0x08 + fan], vec![0x40]));
        expected.push(T::write_read(ADDR, vec![0x18 + 2 * fan], vec![0x28, 0xe0]));
        expected.push(T::write_read(ADDR, vec![0x40 + 2 * fan], vec![0x80, 0x00]));
        if fan == 1 {
            // The fault of the second fan is let go of, with the drive that it was given.
            expected.push(T::write(ADDR, vec![0x42, 0xff, 0x80]));
            expected.push(T::write_read(ADDR, vec![0x42], vec![0xff, 0x80]));
        }
    }
    expected.push(T::write(ADDR, vec![0x00, 0x04]));
    expected.push(T::write_read(ADDR, vec![0x00], vec![0x04]));
    let (mut chip, mut mock) = driver(&expected, 10);
    chip.channels[1].target = Some(PWM_FULL);
    let mut reading = PART.missing(Missing::Stale);
    assert_eq!(chip.read(&mut reading), Ok(()));
    assert_eq!(reading.faults, Faults::NONE.with(Fault::Watchdog, true));
    let half = Duty::saturating(5010);
    let first = Fan { rpm: Ok(Rpm(3006)), duty: Ok(half), fault: false };
    assert_eq!(reading.fan.first(), Some(&first));
    assert_eq!(reading.fan.get(1), Some(&Fan { fault: true, ..first }));
    assert_eq!(reading.fan.get(5), Some(&Fan { rpm: Ok(Rpm(1503)), ..first }), "four pulses a revolution");
    mock.done();
}

#[test]
fn a_duty_is_written_and_read_back() {
    let (mut chip, mut mock) = driver(
        &[
            T::write(ADDR, vec![0x44, 0xff, 0x80]),
            T::write_read(ADDR, vec![0x44], vec![0xff, 0x80]),
            T::write(ADDR, vec![0x40, 0x00, 0x00]),
            T::write_read(ADDR, vec![0x40], vec![0xff, 0x80]),
        ],
        5,
    );
    assert_eq!(chip.set_duty(2, Duty::FULL), Ok(()));
    assert_eq!(chip.set_duty(0, Duty::OFF), Err(Error::ReadBack { register: 0x40, written: 0, found: 0xff80 }));
    assert_eq!(chip.set_duty(6, Duty::FULL), Err(Error::NoChannel));
    mock.done();
}

#[test]
fn another_part_is_known_by_a_bit_that_should_be_zero() {
    let (mut chip, mut mock) = driver(&[T::write_read(ADDR, vec![0x18], vec![0x28, 0xe1])], 10);
    assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x18, found: 0x28e1 }));
    mock.done();
}
