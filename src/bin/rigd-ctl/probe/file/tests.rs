use rigd::board::Board;

use super::*;

fn bus(name: &str, adapter: &str, seen: Vec<Seen>) -> Bus {
    let entry = ("adapter", adapter.to_owned());
    Bus { name: name.to_owned(), entry, title: adapter.to_owned(), notes: Vec::new(), muxes: Vec::new(), seen }
}

fn sure(part: &str, addr: u8) -> Seen {
    Seen { addr, behind: None, what: What::Sure(Part::find(part).unwrap()), owner: None }
}

#[test]
fn every_part_there_is_makes_a_good_file() {
    for part in PARTS {
        let name = part.name;
        let addr = part.addresses.iter().cloned().flatten().next().unwrap();
        let seen = sure(name, addr);
        let text = text(&Draft { notes: Vec::new(), buses: vec![bus("a", "adapter", vec![seen])] });
        let board = Board::parse(name, &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(board.chips().count(), 1, "{text}");
        assert_eq!((board.sensors.len(), board.fans.len()), (part.temperature.len(), part.fan.len()), "{text}");
        assert_eq!(board.rails.len() + 2 * board.supplies.len(), part.power.len(), "{text}");
    }
}

#[test]
fn two_chips_alike_have_two_names() {
    let buses = vec![
        bus("a", "one", vec![sure("ina226", 0x40), sure("ina226", 0x4f)]),
        bus("b", "another", vec![sure("ina226", 0x40)]),
    ];
    let text = text(&Draft { notes: Vec::new(), buses });
    let board = Board::parse("draft", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let refdes: Vec<&str> = board.chips().map(|(_, chip)| chip.refdes.as_str()).collect();
    assert_eq!(refdes, ["INA226_40", "INA226_4F", "INA226_40_2"]);
    assert_eq!(board.rails.len(), 3);
}

#[test]
fn an_adapters_name_cannot_break_the_file() {
    for name in ["plain", "a \"quoted\" one", "back\\slash", "tab\there", "Größe\u{7}\n[x]"] {
        let text = text(&Draft { notes: Vec::new(), buses: vec![bus("a", name, Vec::new())] });
        let board = Board::parse("draft", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        let expected = rigd::bus::Selector::Name(name.to_owned());
        let adapter = board.buses.first().map(|bus| bus.adapter.clone());
        assert_eq!(adapter, Some(rigd::bus::Adapter::Kernel { selector: expected, timeout: None }));
    }
}

/// A zone answers to the air: to no supply's or monitor's own heat. And a fast fan that is only watched is no alarm.
#[test]
fn the_zone_to_start_from_is_of_thermometers_and_fan_chips() {
    let seen = [("nct7802", 0x28), ("max31790", 0x20), ("tmp75", 0x48), ("ina228", 0x40), ("pmbus", 0x58)];
    let seen = seen.map(|(part, addr)| sure(part, addr)).into();
    let text = text(&Draft { notes: Vec::new(), buses: vec![bus("a", "adapter", seen)] });
    let air = (1..=4).map(|channel| format!("\"nct7802_28_{channel}\"")).collect::<Vec<_>>().join(", ");
    assert!(text.contains("[sensor.ina228_40") && text.contains("[sensor.pmbus_58_1]"), "{text}");
    let line = text.lines().find(|line| line.starts_with("#sensors = ")).unwrap();
    assert_eq!(line, format!("#sensors = [{air}, \"tmp75_48\"]"), "{text}");
    let board = Board::parse("draft", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert!(board.fans.iter().all(|fan| fan.zone.is_none() && fan.max_rpm.0 == 30_000), "{text}");
}
