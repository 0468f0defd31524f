//! `systemd/rigd.toml`, which every operator starts from: it parses with each key in force, it has every key, and the
//! defaults in it are the defaults.

use std::collections::BTreeMap;

use super::*;

const EXAMPLE: &str = include_str!("../../systemd/rigd.toml");

/// The file with every example in force: explanations begin with `# `, examples with the key itself.
fn in_force() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first == '[' || first.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|text| line(text) + "\n").collect()
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse("rigd.toml", text, "rig-0001")
}

/// The file's lines by table, `profile.eco`; the keys above every table are those of "".
fn tables(text: &str) -> BTreeMap<String, String> {
    let (mut tables, mut now) = (BTreeMap::new(), String::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            now = name.trim_end_matches(']').replace('"', "");
        }
        let table: &mut String = tables.entry(now.clone()).or_default();
        table.push_str(line);
        table.push('\n');
    }
    tables
}

#[test]
fn it_parses_as_it_is_and_with_every_example_in_force() {
    parse(EXAMPLE).unwrap_or_else(|problems| panic!("{problems}"));
    parse(&in_force()).unwrap_or_else(|problems| panic!("{problems}"));
}

/// What the parser knows in each table, it says itself: to whoever writes a key that it does not know.
#[test]
fn it_has_every_key() {
    let text = in_force();
    let all = tables(&text);
    let with_a_stranger = all.iter().map(|(name, lines)| match name.as_str() {
        "" => format!("stranger = 1\n{lines}"),
        _ => format!("{lines}stranger = 1\n"),
    });
    let problems = parse(&with_a_stranger.collect::<String>()).unwrap_err();
    assert_eq!(problems.0.len(), all.len(), "a table in which anything goes: {problems}");
    for problem in problems.0 {
        let table = problem.key.strip_suffix("stranger").unwrap().trim_end_matches('.');
        let known = problem.text.strip_prefix("unknown key; known here are ").unwrap_or_else(|| panic!("{problem}"));
        for key in known.split(", ") {
            // In its own table, set or named in an explanation, or a table itself.
            let here = all[table].split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|word| word == key);
            let below = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            let table_of_its_own = all.keys().any(|name| *name == below || name.starts_with(&format!("{below}.")));
            assert!(here || table_of_its_own, "[{table}] does not show `{key}`");
        }
    }
}

/// Compared where what is shown is a default and not an example.
#[test]
fn what_it_shows_as_a_default_is_one() {
    let shown = parse(&in_force()).unwrap();
    let default = parse("board = \"a\"").unwrap();
    assert_eq!(
        (shown.tick, shown.period, shown.encoding, &shown.state, &shown.socket),
        (default.tick, default.period, default.encoding, &default.state, &default.socket)
    );
    assert_eq!(shown.broker.keepalive, default.broker.keepalive);
    assert_eq!((shown.gpus.probation, shown.gpus.start), (default.gpus.probation, default.gpus.start));
    assert_eq!(shown.payloads.manifests, default.payloads.manifests);
    assert_eq!((shown.payloads.reboots_per_day, shown.fleet.trust_clock), (0, false));
    assert_eq!((shown.outbox, shown.plan), (default.outbox, default.plan));
    assert_eq!(shown.power.policy("rig-0001"), default.power.policy("rig-0001"));
    let unsaid = parse("board = \"a\"\n[quiet]\nhours = \"22:00-07:00\"").unwrap();
    assert_eq!(shown.quiet, unsaid.quiet);
}
