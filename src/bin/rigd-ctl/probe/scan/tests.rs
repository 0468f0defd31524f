use rigd::chip::{Driver, Kernel, Register, Registers};

use super::super::bench::Bench;
use super::*;
use rigd::chip::PARTS;
use rigd::reading::ChipReading;

fn scanned(bench: &Bench, terms: &Terms) -> Scan {
    scan(terms, PARTS, &[], &|addr| bench.open(addr))
}

fn found(bench: &Bench, addr: u8) -> What {
    let scan = scanned(bench, &Terms::default());
    assert_eq!((scan.given_up, scan.no_question), (None, Vec::new()));
    let mut found = scan.found;
    assert_eq!(found.iter().map(|found| found.addr).collect::<Vec<_>>(), [addr]);
    found.remove(0).what
}

fn names(what: &What) -> Vec<&'static str> {
    let What::Likely(parts) = what else { panic!("{what:?}") };
    parts.iter().map(|part| part.name).collect()
}

/// Commands of two bytes, least significant first; all ones elsewhere.
fn pmbus(commands: &'static [(u8, u16)]) -> impl Fn(u8, usize) -> Result<Vec<u8>, Error> + Send + 'static {
    move |pointer, length| {
        let known = commands.iter().find(|(command, _)| *command == pointer).map(|(_, word)| word.to_le_bytes());
        Ok(known.unwrap_or([0xff; 2]).into_iter().cycle().take(length).collect())
    }
}

/// Four registers that are there again and again: an LM75 or TMP75 at 25.25 °C, still as it was powered on.
const LM75: [(u8, u16); 4] = [(0, 0x1940), (1, 0x0000), (2, 0x4b00), (3, 0x5000)];

fn lm75() -> Vec<(u8, u16)> {
    (0..=0xff)
        .map(|pointer: u8| LM75[usize::from(pointer & 3)])
        .zip(0..=0xff)
        .map(|((_, word), at)| (at, word))
        .collect()
}

#[test]
fn an_id_is_sure() {
    let bench = Bench::default().words(0x40, &[(0xfe, 0x5449), (0xff, 0x2260)]);
    let What::Sure(part) = found(&bench, 0x40) else { panic!("not sure") };
    assert_eq!(part.name, "ina226");
}

#[test]
fn a_shape_is_likely_with_all_that_share_it() {
    let names = names(&found(&Bench::default().words(0x48, &lm75()), 0x48));
    assert_eq!(names.first(), Some(&"lm75"), "the narrower part first: {names:?}");
    assert!(names.contains(&"tmp75"), "{names:?}");
}

#[test]
fn nothing_that_is_known_is_unknown() {
    assert_eq!(found(&Bench::default().constant(0x45, 0xff), 0x45), What::Unknown);
}

#[test]
fn a_supply_is_asked_for_pmbus_and_otherwise_left_alone() {
    let supply = pmbus(&[(0x98, 0x0022), (0x20, 0x0017), (0x79, 0)]);
    assert_eq!(names(&found(&Bench::default().chip(0x58, supply), 0x58)).first(), Some(&"pmbus"));
    assert_eq!(found(&Bench::default().constant(0x5f, 0xff), 0x5f), What::Unasked(Why::Supply));
}

#[test]
fn addresses_that_bite_are_asked_no_more_than_whether_they_answer() {
    for (addr, why) in [
        (0x30, Why::WriteProtection),
        (0x37, Why::WriteProtection),
        (0x50, Why::Memory),
        (0x57, Why::Memory),
        (0x70, Why::Mux),
        (0x77, Why::Mux),
    ] {
        let bench = Bench::default().constant(addr, 0x00);
        assert_eq!(found(&bench, addr), What::Unasked(why));
        let asked: Vec<_> = bench.log().into_iter().filter(|(at, ..)| *at == addr).collect();
        assert_eq!(asked, [(addr, vec![], 1)]);
    }
}

#[test]
fn a_port_expander_is_never_sent_a_registers_number() {
    for bench in [Bench::default(), Bench::default().smbus_only()] {
        let bench = bench.constant(0x20, 0xff).constant(0x3f, 0x5a);
        let scan = scanned(&bench, &Terms::default());
        let expander = What::Unasked(Why::PortExpander);
        assert_eq!(scan.found.iter().map(|found| &found.what).collect::<Vec<_>>(), [&expander, &expander]);
        assert!(bench.log().iter().all(|(addr, written, _)| !matches!(addr, 0x20 | 0x3f) || written.is_empty()));
    }
    let vouched = Terms { ask: vec![0x20], ..Terms::default() };
    let bench = Bench::default().constant(0x20, 0xff);
    assert_eq!(scanned(&bench, &vouched).found.remove(0).what, What::Unknown, "the operator says that it is none");
}

/// A MAX31790 goes on to its next register, also where the adapter reads byte by byte.
#[test]
fn what_has_registers_is_asked_for_them() {
    let image = |pointer: u8, length: usize| {
        let at = |address: u8| match (address, address.is_multiple_of(2)) {
            (0x18..=0x23, true) => 0x28,
            (0x18..=0x23, false) => 0xe0,
            (0x40..=0x4b, true) => 0x80,
            (0x40..=0x4b, false) => 0x00,
            _ => 0x20,
        };
        Ok((0..length).map(|i| at(pointer.wrapping_add(u8::try_from(i).unwrap()))).collect())
    };
    assert_eq!(names(&found(&Bench::default().chip(0x21, image), 0x21)).first(), Some(&"max31790"));
}

#[test]
fn a_main_boards_clock_generator_is_not_even_looked_for() {
    let terms = |ask: &[u8]| Terms { main_board: true, ask: ask.to_vec() };
    let bench = Bench::default().constant(0x69, 0x00);
    assert_eq!(scanned(&bench, &terms(&[])).found, [Found { addr: 0x69, what: What::Unasked(Why::Clock) }]);
    assert!(bench.log().iter().all(|(addr, ..)| *addr != 0x69));
    assert_ne!(scanned(&bench, &terms(&[0x69])).found.remove(0).what, What::Unasked(Why::Clock));
}

#[test]
fn an_address_that_a_driver_has_is_not_touched() {
    let bench = Bench::default().owned(0x48);
    assert_eq!(found(&bench, 0x48), What::Owned);
    assert!(bench.log().iter().all(|(addr, ..)| *addr != 0x48));
}

#[test]
fn a_bus_that_hangs_is_given_up_after_two_time_outs_in_a_row() {
    let hangs =
        |bench: Bench, addrs: &[u8]| addrs.iter().fold(bench, |bench, addr| bench.fails(*addr, Error::TimedOut));
    let all: Vec<u8> = ADDRESSES.collect();
    let bench = hangs(Bench::default(), &all);
    assert_eq!(scanned(&bench, &Terms::default()).given_up, Some((0x71, Error::TimedOut)));
    assert_eq!(bench.log().len(), 2, "two time-outs are two seconds");
    // Neighbours that answer in time keep it from being given up.
    let bench = hangs(Bench::default().words(0x4f, &lm75()), &[0x20, 0x40, 0x60]);
    let scan = scanned(&bench, &Terms::default());
    assert_eq!((scan.given_up, scan.found.len()), (None, 4));
}

#[test]
fn an_adapter_that_fails_is_given_up_at_once() {
    let gone = Error::Gone("the adapter is gone".to_owned());
    let scan = scan(&Terms::default(), PARTS, &[], &|_| Err(Error::Gone("the adapter is gone".to_owned())));
    assert_eq!((scan.found, scan.given_up), (Vec::new(), Some((0x70, gone))));
}

#[test]
fn an_adapter_without_a_receive_byte_asks_registers_where_that_is_harmless() {
    let unsupported = || Error::Os(Errno::OPNOTSUPP.raw_os_error());
    let words = lm75();
    // It answers to registers, and its adapter cannot do a plain read.
    let bench = Bench::default();
    let open = |addr: u8| {
        if addr != 0x48 {
            return Ok(Device::new(addr, Box::new(NoReceiveByte(Bench::default()))));
        }
        Ok(Device::new(addr, Box::new(NoReceiveByte(bench.clone().words(0x48, &words)))))
    };
    let scan = scan(&Terms::default(), PARTS, &[], &open);
    assert_eq!(scan.found.iter().map(|found| found.addr).collect::<Vec<_>>(), [0x48]);
    let expected: Vec<u8> = (0x70..=0x77).chain(0x20..=0x27).chain(0x30..=0x3f).chain(0x50..=0x57).collect();
    assert_eq!((scan.no_question, scan.given_up), (expected, None));
    assert!(is_unsupported(&unsupported()));
}

struct NoReceiveByte(Bench);

impl rigd::bus::Link for NoReceiveByte {
    fn transaction(&mut self, address: u8, operations: &mut [embedded_hal::i2c::Operation<'_>]) -> Result<(), Error> {
        if let [embedded_hal::i2c::Operation::Read(_)] = operations {
            return Err(Error::Os(Errno::OPNOTSUPP.raw_os_error()));
        }
        self.0.transaction(address, operations)
    }
}

/// A driver that breaks its promise, and one of a part that is asked by a write.
struct Rude(Device);

impl Driver<Error> for Rude {
    fn identify(&mut self) -> Result<(), chip::Error<Error>> {
        let addr = self.0.addr();
        self.0.write(addr, &[0x00, 0x80])?;
        Ok(())
    }

    fn configure(&mut self) -> Result<(), chip::Error<Error>> {
        panic!("a scan configures nothing")
    }

    fn read(&mut self, _: &mut ChipReading) -> Result<(), chip::Error<Error>> {
        panic!("a scan measures nothing")
    }
}

const fn rude(name: &'static str, registers: &'static [Register]) -> Part {
    Part {
        name,
        about: "",
        addresses: &[0x10..=0x77],
        certainty: Certainty::Id,
        power: &[],
        temperature: &[],
        fan: &[],
        drives_fans: false,
        takes: &[],
        watchdog_s: &[],
        registers: Registers::of(registers),
        kernel: Kernel::NONE,
        open: |device, _| Box::new(Rude(device)),
    }
}

static RUDE: Part = rude("rude", &[]);
static COMMON_SLOT: Part =
    rude("common-slot", &[Register { name: "Vin", at: 0x08, form: Form::CommonSlot, formula: "" }]);

#[test]
fn a_driver_that_writes_is_held_back() {
    let bench = Bench::default().constant(0x40, 0x00).constant(0x58, 0x00);
    let scan = scan(&Terms::default(), &[&RUDE], &[], &|addr| bench.open(addr));
    let what: Vec<&What> = scan.found.iter().map(|found| &found.what).collect();
    assert_eq!(what, [&What::Unknown, &What::Unasked(Why::Supply)]);
}

#[test]
fn a_part_that_is_asked_by_a_write_is_not_asked() {
    assert!(candidates(&[&COMMON_SLOT], 0x58).is_empty());
    assert_eq!(candidates(&[&RUDE, &COMMON_SLOT], 0x58), [&RUDE]);
}

#[test]
fn the_surest_and_narrowest_part_is_asked_first() {
    let names: Vec<&str> = candidates(PARTS, 0x48).iter().map(|part| part.name).collect();
    let at = |name: &str| names.iter().position(|known| *known == name).unwrap();
    assert!(at("ina226") < at("lm75"), "an id before a shape: {names:?}");
    assert!(at("lm75") < at("ina219") && at("ina219") < at("pmbus"), "what fits everywhere last: {names:?}");
    assert!(candidates(PARTS, 0x48).iter().all(|part| part.certainty != Certainty::Word));
}
