use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

use super::super::noise;
use super::*;

const ADDR: u8 = 0x58;

fn byte(command: u8, value: u8) -> T {
    T::write_read(ADDR, vec![command], vec![value])
}

fn word(command: u8, word: u16) -> T {
    T::write_read(ADDR, vec![command], word.to_le_bytes().to_vec())
}

fn nack(command: u8, length: usize) -> T {
    let error = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data);
    T::write_read(ADDR, vec![command], vec![0; length]).with_error(error)
}

fn driver(transactions: &[T]) -> (Pmbus<Mock>, Mock) {
    let mock = Mock::new(transactions);
    (Pmbus::new(ADDR, mock.clone(), &Settings::default()), mock)
}

#[test]
fn a_fan_fault_is_that_fans() {
    for (status, byte_81, expected) in
        [(0x0400, 0x40, [false, true]), (0x0400, 0x80, [true, false]), (0x0400, 0x20, [false, false])]
    {
        let (mut chip, mut mock) = driver(&[byte(0x81, byte_81)]);
        assert_eq!(chip.faulty_fans(status), Ok(expected), "{byte_81:#04x}");
        mock.done();
    }
}

#[test]
fn reads_a_supply_and_loses_only_what_it_has_not_got() {
    let (mut chip, mut mock) = driver(&[
        byte(0x98, 0x22),
        byte(0x20, 0x17),
        word(0x79, 0x0400),
        byte(0x81, 0x80),
        word(0x88, 0x1f << 11 | 460),
        word(0x89, 0x1b << 11 | 80),
        word(0x97, 540),
        word(0x8b, 12 * 512),
        word(0x8c, 0x1e << 11 | 160),
        word(0x96, 500),
        word(0x8d, 0x1e << 11 | 168),
        word(0x8e, 0xffff),
        nack(0x8f, 2),
        word(0x90, 2 << 11 | 800),
        word(0x91, 0x7ff),
    ]);
    assert_eq!(chip.identify(), Ok(()));
    let mut reading = PART.missing(Missing::Stale);
    assert_eq!(chip.read(&mut reading), Ok(()));
    assert_eq!(
        reading.power,
        [
            Power { voltage: Ok(Millivolts(230_000)), current: Ok(Milliamps(2_500)), power: Ok(Milliwatts(540_000)) },
            Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(40_000)), power: Ok(Milliwatts(500_000)) },
        ]
    );
    assert_eq!(reading.temperature, [Ok(Millicelsius(42_000)), Err(Missing::NotPresent), Err(Missing::NotPresent)]);
    let [first, second] = reading.fan.as_slice() else { panic!("two fans") };
    assert_eq!((first.rpm, second.rpm), (Ok(Rpm(3_200)), Err(Missing::Implausible)));
    assert!(first.fault && !second.fault && reading.faults.has(Fault::Fan));
    mock.done();
}

#[test]
fn a_command_missed_once_is_asked_for_again_and_one_never_answered_is_left_alone() {
    let (mut chip, mut mock) = driver(&[
        word(0x88, ABSENT),
        word(0x88, 230),
        word(0x88, ABSENT),
        word(0x88, ABSENT),
        word(0x88, ABSENT),
        word(0x88, 230),
    ]);
    let mut ask = |pass: u32| {
        chip.passes = pass;
        chip.milli::<Millivolts>(command::READ_VIN)
    };
    let (there, absent) = (Ok(Ok(Millivolts(230_000))), Ok(Err(Missing::NotPresent)));
    assert_eq!([ask(1), ask(2)], [absent, there]);
    assert_eq!([ask(3), ask(4), ask(5), ask(6), ask(7)], std::array::from_fn(|_| Ok(Err(Missing::NotPresent))));
    assert_eq!(ask(ASK_AGAIN), Ok(Ok(Millivolts(230_000))));
    mock.done();
}

#[test]
fn what_is_not_generic_is_refused() {
    for (what, mode) in [("DIRECT", 0x40), ("VID", 0x21), ("a byte of ones", 0xff)] {
        let (mut chip, mut mock) = driver(&[byte(0x98, 0x22), byte(0x20, mode)]);
        assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x20, found: mode.into() }), "{what}");
        mock.done();
    }
    let (mut chip, mut mock) = driver(&[byte(0x98, 0xff)]);
    assert_eq!(chip.identify(), Err(Error::WrongPart { register: 0x98, found: 0xff }));
    mock.done();
}

#[test]
fn half_precision_is_for_all_numbers_or_for_the_output_voltage_alone() {
    for (capability, raw_input) in [(0xb0, 0x1f << 11 | 460), (0xb8, 0x5b30)] {
        let (mut chip, mut mock) = driver(&[
            byte(0x98, 0x33),
            byte(0x20, 0x60),
            byte(0x19, capability),
            word(0x8b, 0x4a00),
            word(0x88, raw_input),
        ]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.output_voltage(), Ok(Ok(Millivolts(12_000))));
        assert_eq!(chip.milli(command::READ_VIN), Ok(Ok(Millivolts(230_000))), "{capability:#04x}");
        mock.done();
    }
}

#[test]
fn cml_is_told_where_it_is_not_our_own_doing() {
    let (mut chip, mut mock) = driver(&[
        byte(0x7e, 0x80),
        nack(0x8f, 2),
        byte(0x7e, 0x80),
        byte(0x7e, 0x90),
        // STATUS_CML itself is not there: from then on it is our own doing.
        word(0x8f, 0),
        nack(0x7e, 1),
        nack(0x7e, 1),
    ]);
    assert_eq!(chip.misunderstood(0x0000), Ok(false));
    assert_eq!(chip.misunderstood(0x0002), Ok(true));
    assert_eq!(chip.milli::<Millicelsius>(0x8f), Ok(Err(Missing::NotPresent)));
    assert_eq!(chip.misunderstood(0x0002), Ok(false));
    assert_eq!(chip.misunderstood(0x0002), Ok(true), "its memory is damaged");
    assert_eq!(chip.milli(0x8f), Ok(Ok(Millicelsius(0))));
    assert_eq!(chip.misunderstood(0x0002), Ok(true));
    assert_eq!(chip.misunderstood(0x0002), Ok(false));
    mock.done();
}

#[test]
fn with_pec_a_disturbed_quantity_goes_missing_alone() {
    let disturbed = || T::write_read(ADDR, vec![0x88], vec![0xcc, 0xf9, 0x00]);
    let mut mock = Mock::new(&[disturbed(), disturbed(), disturbed()]);
    let settings = Settings { pec: true, ..Settings::default() };
    let mut chip = Pmbus::new(ADDR, mock.clone(), &settings);
    assert_eq!(chip.milli::<Millivolts>(command::READ_VIN), Ok(Err(Missing::Bus)));
    mock.done();
}

#[test]
fn pmbus_1_0_is_known_by_its_status() {
    let old = |transactions: &[T]| {
        let mock = Mock::new(transactions);
        (Pmbus::revision_1_0(ADDR, mock.clone(), &Settings::default(), || {}), mock)
    };
    for (vout_mode, raw) in [(byte(0x20, 0x16), 12 * 1024), (byte(0x20, 0x00), 12 * 512), (nack(0x20, 1), 12 * 512)] {
        let (mut chip, mut mock) = old(&[word(0x79, 0x0800), byte(0x78, 0x00), vout_mode, word(0x8b, raw)]);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.output_voltage(), Ok(Ok(Millivolts(12_000))));
        mock.done();
    }
    for (transactions, found) in [
        (vec![word(0x79, 0x0802), byte(0x78, 0x04)], Error::WrongPart { register: 0x79, found: 0x0802 }),
        (vec![word(0x79, 0xffff)], Error::WrongPart { register: 0x79, found: 0xffff }),
        (vec![word(0x79, 0), byte(0x78, 0), byte(0x20, 0x40)], Error::WrongPart { register: 0x20, found: 0x40 }),
    ] {
        let (mut chip, mut mock) = old(&transactions);
        assert_eq!(chip.identify(), Err(found));
        mock.done();
    }
}

#[test]
fn a_status_of_all_ones_is_no_status() {
    let (mut chip, mut mock) = driver(&[word(0x79, 0xffff)]);
    let absent = Error::WrongPart { register: 0x79, found: 0xffff };
    assert_eq!(chip.read(&mut PART.missing(Missing::Stale)), Err(absent));
    mock.done();
}

#[test]
fn noise_is_survived() {
    for pec in [false, true] {
        let settings = Settings { pec, ..Settings::default() };
        noise::feed(&PART, |noise| Pmbus::new(ADDR, noise, &settings));
        noise::feed(&DPS750TB, |noise| Pmbus::revision_1_0(ADDR, noise, &settings, || {}));
    }
}
