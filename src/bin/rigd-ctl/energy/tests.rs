use rigd::energy::{Key, Line};
use rigd::wire::ChainHash;

use super::*;

fn chain(key: &Key, count: u64) -> Vec<Receipt> {
    let mut previous = ChainHash([0; 32]);
    (0..count)
        .map(|index| {
            let rig = Account { energy: Microjoules(3_600_000_000_000), gap_ms: 2_000, ..Account::default() };
            let payloads = vec![Line { name: "p\x1b[2J".to_owned(), gpu: "GPU-1".to_owned(), used: rig }];
            let (from_ms, to_ms) = (1_700_000_100_000 + index * 900_000, 1_700_001_000_000 + index * 900_000);
            let mut one =
                Receipt::after(previous, &Interval { index, from_ms, to_ms, rig, payloads, ..Interval::default() });
            key.sign(&mut one);
            previous = one.hash;
            one
        })
        .collect()
}

#[test]
fn what_is_exported_is_judged_line_by_line() {
    let path = std::env::temp_dir().join(format!("rigd-ctl-energy-{}.jsonl", std::process::id()));
    let (key, other) = (Key::of(&[1; 32]).unwrap(), Key::of(&[2; 32]).unwrap());
    let text = list(&(Some("rig-1".to_owned()), chain(&key, 4)), true);
    let lines: Vec<&str> = text.lines().collect();
    let judged = |lines: &[&str], key: &Key| {
        fs::write(&path, lines.join("\n")).unwrap();
        let chains = chains(&path).unwrap();
        let mut said = String::new();
        (judge(&mut said, chains[0].0.as_deref(), &chains[0].1, Some(&key.public())), said)
    };
    let (good, said) = judged(&lines, &key);
    assert!(good && said.starts_with("rig-1: receipts 0 to 3 hold together: 4.000 kWh, 8 s not measured; "), "{said}");
    assert!(said.ends_with(&format!("rig-1: signed by {}\n", key.public())), "{said}");
    let changed = lines[1].replacen("\"body\":\"01", "\"body\":\"02", 1);
    for (lines, key, expected) in [
        (vec![lines[0], lines[2], lines[3]], &key, "a record is missing or was put in before record 2"),
        (vec![lines[0], &changed, lines[2]], &key, "record 2 was changed"),
        (lines.clone(), &other, &format!("record 0 is signed by another key: {}", key.public())),
    ] {
        assert_eq!(judged(&lines, key), (false, format!("rig-1: BROKEN: {expected}\n")));
    }
    fs::write(&path, "{}\n").unwrap();
    assert!(chains(&path).unwrap_err().to_string().contains("line 1 is no line of"));
    fs::remove_file(&path).unwrap();
    let people = list(&(None, chain(&key, 1)), false);
    assert!(
        people.contains("2023-11-14T22:15:00Z to 2023-11-14T22:30:00Z") && people.contains("1.000 kWh"),
        "{people}"
    );
}

#[test]
fn people_see_what_everything_used_and_what_came_of_it() {
    let account = |of, name: &str, energy, work, unit, milli_per_joule| EnergyAccount {
        of,
        name: name.to_owned(),
        gpu: if of == Use::Payload { "GPU-1".to_owned() } else { String::new() },
        used: Account { energy: Microjoules(energy), work, gap_ms: 61_000, ..Account::default() },
        unit,
        milli_per_joule,
    };
    let accounts = [
        account(Use::Rig, "", 3_600_000_000_000, 0, None, None),
        account(Use::SupplyInput, "psu1", 5_400_000_000, 0, None, None),
        account(Use::Payload, "llm", 1, 7, Some(PayloadUnit::Tokens), Some(1_500)),
        account(Use::Payload, "hash", 1, 9, Some(PayloadUnit::Hashes), Some(612_345_678)),
    ];
    let head = Energy {
        at_unix_ms: 1_700_000_000_000,
        basis: Basis::Input,
        opened_ms: 1,
        receipts: 3,
        hash: ChainHash([0; 32]),
        key: None,
        accounts: 4,
    };
    let text = table(&head, &accounts);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["rig", "1.000", "61", "s"]);
    assert_eq!(rows[2], ["psu1", "in", "0.001", "61", "s"]);
    assert_eq!(rows[3], ["llm", "on", "GPU-1", "0.000", "61", "s", "7", "tokens", "1.500", "tokens/J"]);
    assert_eq!(rows[4][7..], ["hashes", "612.345", "kH/J"]);
    assert!(text.ends_with("3 receipts, signed by nobody\n"), "{text}");
    assert!(table(&Energy { at_unix_ms: 0, ..head }, &[]).contains("not open"));
}
