use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

use super::super::pmbus::noise;
use super::*;
use crate::reading::{Fault, Faults};

const ADDR: u8 = 0x10;
/// PMON_CONFIG of the ADM1272 after reset: 100 V, 30 mV, continuously, without temperature.
const RESET_1272: u16 = 0x3f35;

fn byte(command: u8, value: u8) -> T {
    T::write_read(ADDR, vec![command], vec![value])
}

fn word(command: u8, word: u16) -> T {
    T::write_read(ADDR, vec![command], word.to_le_bytes().to_vec())
}

fn text(command: u8, text: &str) -> T {
    let length = u8::try_from(text.len()).unwrap();
    T::write_read(ADDR, vec![command], [&[length], text.as_bytes()].concat())
}

fn set_byte(command: u8, value: u8) -> [T; 2] {
    [T::write(ADDR, vec![command, value]), byte(command, value)]
}

fn driver(model: &'static Model, transactions: &[T]) -> (Adm1275<Mock>, Mock) {
    let mock = Mock::new(transactions);
    let settings = Settings { shunt: Microohms(500), ..Settings::default() };
    (Adm1275::new(model, ADDR, mock.clone(), &settings), mock)
}

#[test]
fn numbers_are_on_the_lines_of_the_datasheets() {
    let shunt = Microohms(500);
    for (what, model, config, voltage, amperes) in [
        ("60 V, 15 mV", &MODEL_1272, 0, (3249, 47_991), (3000, 14_358)),
        ("100 V, 30 mV", &MODEL_1272, 0x21, (1950, 48_005), (3000, 28_717)),
        ("6 V", &MODEL_1275, 0, (2304, 3_428), (2451, 10_000)),
        ("20 V", &MODEL_1275, 0x20, (2304, 12_000), (2451, 10_000)),
        ("ADM1278", &MODEL_1278, 0, (2352, 12_000), (2448, 10_012)),
    ] {
        let scales = (model.scales)(config);
        assert_eq!(converted(voltage.0, scales.voltage, MILLIOHM), Ok(Millivolts(voltage.1)), "{what}");
        assert_eq!(converted(amperes.0, scales.current, shunt), Ok(Milliamps(amperes.1)), "{what}");
        assert_eq!(converted::<Millivolts>(0x1000, scales.voltage, MILLIOHM), Err(Missing::Implausible), "13 bits");
        assert_eq!(converted::<Milliamps>(1, scales.current, Microohms(0)), Err(Missing::Implausible), "no shunt");
    }
    for (what, model, config, expected) in [
        ("60 V, 15 mV", &MODEL_1272, 0x00, 455_581),
        ("100 V, 15 mV", &MODEL_1272, 0x20, 759_337),
        ("60 V, 30 mV", &MODEL_1272, 0x01, 911_110),
        ("100 V, 30 mV", &MODEL_1272, 0x21, 1_518_747),
        ("ADM1278", &MODEL_1278, 0x00, 261_310),
    ] {
        let scale = (model.scales)(config).power.unwrap();
        assert_eq!(power(8000, scale, shunt), Ok(Milliwatts(expected)), "{what}");
        assert_eq!(power(0xffff, scale, shunt), Err(Missing::Implausible), "{what}: less than nothing");
    }
    for (model, raw, expected) in
        [(&MODEL_1272, 3292, 24_976), (&MODEL_1278, 3293, 25_000), (&MODEL_1278, 2768, -100_000)]
    {
        let scale = (model.scales)(0).temperature.unwrap();
        assert_eq!(converted(raw, scale, MILLIOHM), Ok(Millicelsius(expected)));
    }
}

#[test]
fn is_known_by_maker_and_model_and_its_converter_is_stopped_for_the_change() {
    let stopped = set_byte(0xd3, 0x00);
    let started = set_byte(0xd3, 0x01);
    let mut script = vec![text(0x99, "ADI"), text(0x9a, "ADM1272-A1"), word(0xd4, RESET_1272)];
    script.extend(stopped);
    // The temperature, and its filter.
    script.extend([T::write(ADDR, vec![0xd4, 0x3d, 0xbf]), word(0xd4, 0xbf3d), byte(0xd3, 0x00)]);
    script.extend(started);
    let (mut chip, mut mock) = driver(&MODEL_1272, &script);
    assert_eq!((chip.identify(), chip.configure()), (Ok(()), Ok(())));
    assert_eq!(chip.config, 0xbf3d);
    mock.done();
}

#[test]
fn one_that_is_as_it_should_be_is_not_written_to() {
    let (mut chip, mut mock) = driver(&MODEL_1275, &[byte(0xd4, 0xac), byte(0xd3, 0x01)]);
    assert_eq!(chip.configure(), Ok(()));
    mock.done();
}

#[test]
fn a_change_that_does_not_hold_leaves_it_converting() {
    let mut script = vec![byte(0xd4, 0x2c)];
    script.extend(set_byte(0xd3, 0x00));
    script.extend([T::write(ADDR, vec![0xd4, 0xac]), byte(0xd4, 0x2c), byte(0xd3, 0x00)]);
    script.extend(set_byte(0xd3, 0x01));
    let (mut chip, mut mock) = driver(&MODEL_1275, &script);
    assert_eq!(chip.configure(), Err(Error::ReadBack { register: 0xd4, written: 0xac, found: 0x2c }));
    mock.done();
}

#[test]
fn an_error_on_the_way_leaves_it_converting() {
    let failed = T::write(ADDR, vec![0xd3, 0x00]).with_error(ErrorKind::Bus);
    let mut script = vec![byte(0xd4, 0x2c), failed, byte(0xd3, 0x00)];
    script.extend(set_byte(0xd3, 0x01));
    let (mut chip, mut mock) = driver(&MODEL_1275, &script);
    assert_eq!(chip.configure(), Err(Error::I2c(ErrorKind::Bus)));
    mock.done();
}

#[test]
fn a_status_byte_that_is_refused_does_not_lose_the_rest() {
    let refused = byte(0x7b, 0).with_error(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data));
    let script = [byte(0xd4, 0xac), byte(0xd3, 1), word(0x79, 0x4000), refused, word(0x88, 2304), word(0x8c, 2451)];
    let (mut chip, mut mock) = driver(&MODEL_1275, &script);
    chip.config = 0xac;
    let mut reading = ADM1275.missing(Missing::Stale);
    assert_eq!(chip.read(&mut reading), Ok(()));
    assert_eq!(reading.power.first().map(|power| power.voltage), Some(Ok(Millivolts(12_000))));
    assert_eq!(reading.faults, Faults::NONE.with(Fault::Other, true));
    mock.done();
}

#[test]
fn another_part_is_refused_without_a_write() {
    for (maker, model, expected) in [
        ("ADI", "ADM1276-3", Error::WrongPart { register: 0x9a, found: u16::from_be_bytes(*b"76") }),
        ("TI", "", Error::WrongPart { register: 0x99, found: u16::from_be_bytes(*b"TI") }),
    ] {
        let mut script = vec![T::write_read(ADDR, vec![0x99], [&[3], b"ADI".as_slice()].concat()), text(0x9a, model)];
        if maker == "TI" {
            script = vec![T::write_read(ADDR, vec![0x99], b"\x02TI\xff".to_vec()), text(0x99, maker)];
        }
        let (mut chip, mut mock) = driver(&MODEL_1275, &script);
        assert_eq!(chip.identify(), Err(expected));
        mock.done();
    }
}

#[test]
fn reads_everything_that_the_part_has() {
    let (mut chip, mut mock) = driver(
        &MODEL_1272,
        &[
            word(0xd4, 0xbf3d),
            byte(0xd3, 0x01),
            word(0x79, 0x4004),
            byte(0x7b, 0x20),
            byte(0x7d, 0x40),
            word(0x88, 1950),
            word(0x8c, 3000),
            word(0x97, 8000),
            word(0x8d, 3292),
        ],
    );
    chip.config = 0xbf3d;
    let mut reading = ADM1272.missing(Missing::Stale);
    assert_eq!(chip.read(&mut reading), Ok(()));
    let power =
        Power { voltage: Ok(Millivolts(48_005)), current: Ok(Milliamps(28_717)), power: Ok(Milliwatts(1_518_747)) };
    assert_eq!((reading.power, reading.temperature), (vec![power], vec![Ok(Millicelsius(24_976))]));
    assert_eq!(reading.faults, Faults::NONE.with(Fault::OverCurrent, true).with(Fault::Temperature, true));
    mock.done();
}

#[test]
fn an_adm1275_reads_the_voltage_that_it_was_set_to() {
    for (config, command) in [(0xac, 0x88), (0xec, 0x8b)] {
        let script = [byte(0xd4, config), byte(0xd3, 1), word(0x79, 0), word(command, 2304), word(0x8c, 2451)];
        let (mut chip, mut mock) = driver(&MODEL_1275, &script);
        chip.config = config.into();
        let mut reading = ADM1275.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let voltage = Ok(Millivolts(12_000));
        let current = Ok(Milliamps(10_000));
        assert_eq!(reading.power, [Power { voltage, current, power: Err(Missing::NotPresent) }]);
        mock.done();
    }
}

#[test]
fn one_that_was_reset_or_stands_is_not_believed() {
    for (script, expected) in [
        (vec![word(0xd4, RESET_1272)], Error::ReadBack { register: 0xd4, written: 0xbf3d, found: RESET_1272 }),
        (vec![word(0xd4, 0xbf3d), byte(0xd3, 0)], Error::ReadBack { register: 0xd3, written: 1, found: 0 }),
    ] {
        let (mut chip, mut mock) = driver(&MODEL_1272, &script);
        chip.config = 0xbf3d;
        assert_eq!(chip.read(&mut ADM1272.missing(Missing::Stale)), Err(expected));
        mock.done();
    }
}

#[test]
fn noise_is_survived() {
    for (part, model) in [(&ADM1272, &MODEL_1272), (&ADM1275, &MODEL_1275), (&ADM1278, &MODEL_1278)] {
        let settings = Settings { shunt: Microohms(1), pec: false, ..Settings::default() };
        noise::feed(part, |noise| Adm1275::new(model, ADDR, noise, &settings));
    }
}
