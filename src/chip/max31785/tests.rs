use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

use super::super::pmbus::noise;
use super::*;
use crate::units::Millicelsius;

const ADDR: u8 = 0x52;

fn page(page: u8) -> T {
    T::write(ADDR, vec![0x00, page])
}

fn byte(at: u8, command: u8, value: u8) -> [T; 2] {
    [page(at), T::write_read(ADDR, vec![command], vec![value])]
}

fn word(at: u8, command: u8, value: u16) -> [T; 2] {
    [page(at), T::write_read(ADDR, vec![command], value.to_le_bytes().to_vec())]
}

/// Written, and read back.
fn set_byte(at: u8, command: u8, value: u8) -> [T; 3] {
    [page(at), T::write(ADDR, vec![command, value]), T::write_read(ADDR, vec![command], vec![value])]
}

fn send_word(at: u8, command: u8, value: u16) -> [T; 2] {
    let [low, high] = value.to_le_bytes();
    [page(at), T::write(ADDR, vec![command, low, high])]
}

fn set_word(at: u8, command: u8, value: u16) -> Vec<T> {
    let back = T::write_read(ADDR, vec![command], value.to_le_bytes().to_vec());
    send_word(at, command, value).into_iter().chain([back]).collect()
}

fn driver(transactions: &[T]) -> (Max31785<Mock>, Mock) {
    let mock = Mock::new(transactions);
    let settings = Settings { pulses: vec![2, 1, 6], ..Settings::default() };
    (Max31785::new(ADDR, mock.clone(), &settings, || {}), mock)
}

#[test]
fn is_known_by_maker_model_and_revision() {
    let script = |revision: u16| {
        [(0x99, vec![0x4d]), (0x9a, vec![0x53]), (0x9b, revision.to_le_bytes().to_vec())]
            .map(|(command, answer)| T::write_read(ADDR, vec![command], answer))
    };
    for (revision, expected) in [
        (0x3030, Ok(())),
        (0x3040, Ok(())),
        (0x3061, Ok(())),
        (0x3071, Err(Error::WrongPart { register: 0x9b, found: 0x3071 })),
    ] {
        let (mut chip, mut mock) = driver(&script(revision));
        assert_eq!(chip.identify(), expected, "{revision:#06x}");
        mock.done();
    }
}

#[test]
fn speed_is_by_the_pulses_that_the_fan_really_has() {
    for (raw, pulses, expected) in [
        (3_000, 2, Ok(Rpm(3_000))),
        (0, 2, Ok(Rpm(0))),
        (3_000, 6, Ok(Rpm(2_000))),
        (0xffff, 2, Err(Missing::Implausible)),
        (3_000, 0, Err(Missing::Implausible)),
    ] {
        assert_eq!(rpm(raw, pulses), expected, "{raw} at {pulses}");
    }
    assert_eq!([1, 2, 3, 4, 6].map(fan_config), [0x80, 0x90, 0xa0, 0xb0, 0xb0]);
}

#[test]
fn configure_takes_over_what_is_enabled_at_the_drive_that_it_has() {
    let mut script = Vec::new();
    // The first fan is as it should be, at full air; the second holds its last duty for ever; the third counts in RPM.
    script.extend(byte(0, 0x3a, 0x90));
    script.extend(word(0, 0xf3, 0x2711));
    script.extend(word(0, 0xf1, 0xe000));
    script.extend(set_word(0, 0x3b, 0x2710));
    script.extend(byte(1, 0x3a, 0x80));
    script.extend(word(1, 0xf3, 5_000));
    script.extend(word(1, 0xf1, 0xe300));
    script.extend(set_byte(1, 0x3a, 0x00));
    script.extend(set_word(1, 0xf1, 0xe100));
    script.extend(set_byte(1, 0x3a, 0x80));
    script.extend(set_word(1, 0x3b, 5_000));
    script.extend(byte(2, 0x3a, 0xc0));
    script.extend(word(2, 0xf3, 4_000));
    script.extend(word(2, 0xf1, 0x0000));
    script.extend(set_byte(2, 0x3a, 0xb0));
    script.extend(set_word(2, 0x3b, 4_000));
    for fan in 3..6 {
        script.extend(byte(fan, 0x3a, 0x00));
    }
    let (mut chip, mut mock) = driver(&script);
    assert_eq!(chip.configure(), Ok(()));
    assert_eq!(chip.commands, [Some(10_000), Some(5_000), Some(4_000), None, None, None]);
    mock.done();
}

#[test]
fn a_fan_that_was_disabled_for_a_change_runs_again_whatever_failed() {
    use embedded_hal::i2c::ErrorKind;
    let mut script = word(1, 0xf1, 0xe300).to_vec();
    script.extend(set_byte(1, 0x3a, 0x10));
    script.extend([page(1), T::write(ADDR, vec![0xf1, 0x00, 0xe1]).with_error(ErrorKind::Bus)]);
    script.extend(set_byte(1, 0x3a, 0x90));
    let (mut chip, mut mock) = driver(&script);
    assert_eq!(chip.take_over(1, 0x90, 1, 5_000), Err(Error::I2c(ErrorKind::Bus)));
    mock.done();
}

#[test]
fn each_pass_writes_the_command_again() {
    let mut script = Vec::new();
    script.extend(byte(0, 0x3a, 0x90));
    script.extend(word(0, 0x3b, 5_000));
    script.extend(byte(0, 0x81, 0x81));
    script.extend(word(0, 0x90, 3_000));
    script.extend(send_word(0, 0x3b, 5_000));
    for sensor in 6..16 {
        script.extend(word(sensor, 0x8d, 0));
    }
    script.extend(word(16, 0x8d, 4_250));
    script.extend(word(16, 0x79, 0x1004));
    let (mut chip, mut mock) = driver(&script);
    chip.commands = [Some(5_000), None, None, None, None, None];
    let mut reading = PART.missing(Missing::Stale);
    assert_eq!(chip.read(&mut reading), Ok(()));
    let running = Fan { rpm: Ok(Rpm(3_000)), duty: Ok(Duty::saturating(5_000)), fault: true };
    assert_eq!(reading.fan.first(), Some(&running));
    assert_eq!(reading.fan.get(1), Some(&Fan::missing(Missing::NotPresent)));
    assert_eq!(reading.temperature.first(), Some(&Err(Missing::NotPresent)));
    assert_eq!(reading.temperature.get(10), Some(&Ok(Millicelsius(42_500))));
    assert_eq!(reading.faults, Faults::NONE.with(Fault::Fan, true).with(Fault::Temperature, true));
    mock.done();
}

#[test]
fn one_that_does_not_obey_us_any_more_is_not_believed() {
    let commanded = |command| byte(0, 0x3a, 0x90).into_iter().chain(word(0, 0x3b, command)).collect::<Vec<T>>();
    for (script, expected) in [
        (byte(0, 0x3a, 0x00).to_vec(), Error::ReadBack { register: 0x3a, written: 0x90, found: 0 }),
        (commanded(0xffff), Error::ReadBack { register: 0x3b, written: 5_000, found: 0xffff }),
        // Somebody else's, and it must not be made to last.
        (commanded(2_000), Error::ReadBack { register: 0x3b, written: 5_000, found: 2_000 }),
    ] {
        let (mut chip, mut mock) = driver(&script);
        chip.commands = [Some(5_000), None, None, None, None, None];
        assert_eq!(chip.read(&mut PART.missing(Missing::Stale)), Err(expected));
        mock.done();
    }
}

#[test]
fn a_duty_is_read_back_and_enables_its_fan() {
    let mut script = set_word(0, 0x3b, 10_000);
    script.extend(byte(1, 0x3a, 0x00));
    script.extend(word(1, 0xf1, 0x0000));
    script.extend(set_byte(1, 0x3a, 0x80));
    script.extend(set_word(1, 0x3b, 2_500));
    script.extend(send_word(0, 0x3b, 0));
    script.push(T::write_read(ADDR, vec![0x3b], vec![0xff, 0xff]));
    let (mut chip, mut mock) = driver(&script);
    chip.commands = [Some(5_000), None, None, None, None, None];
    assert_eq!(chip.set_duty(0, Duty::FULL), Ok(()));
    assert_eq!(chip.set_duty(1, Duty::saturating(2_500)), Ok(()));
    assert_eq!(chip.commands.get(..2), Some([Some(10_000), Some(2_500)].as_slice()));
    assert_eq!(chip.set_duty(0, Duty::OFF), Err(Error::ReadBack { register: 0x3b, written: 0, found: 0xffff }));
    assert_eq!(chip.set_duty(6, Duty::FULL), Err(Error::NoChannel));
    mock.done();
}

#[test]
fn noise_is_survived() {
    noise::feed(&PART, |noise| Max31785::new(ADDR, noise, &Settings::default(), || {}));
}
