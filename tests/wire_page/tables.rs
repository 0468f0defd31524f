//! The tables of the page, from the source: structs and enums of the wire, read line by line.
//!
//! This is no parser of Rust: it knows how these files are written, and a line that it does not know is a failure.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the wire's types are: the file, and of files that hold other things too those that are meant, with their names here.
const SOURCES: &[(&str, &[(&str, &str)])] = &[
    ("src/wire/envelope.rs", &[("Kind", "Kind"), ("Encoding", "Encoding")]),
    ("src/wire/online.rs", &[]),
    ("src/wire/birth.rs", &[]),
    ("src/wire/telemetry.rs", &[]),
    ("src/wire/gpu.rs", &[]),
    ("src/wire/payload.rs", &[]),
    ("src/wire/event.rs", &[]),
    ("src/wire/command.rs", &[]),
    ("src/wire/desired.rs", &[]),
    ("src/wire/watermark.rs", &[]),
    ("src/wire/power.rs", &[]),
    ("src/wire/receipt.rs", &[]),
    ("src/wire/log.rs", &[("LogLines", "Log")]),
    ("src/energy/interval.rs", &[("Interval", "Interval"), ("Line", "Line")]),
    ("src/energy.rs", &[("Account", "Account"), ("Basis", "Basis")]),
    ("src/control/step/power.rs", &[("Rung", "PowerRung")]),
    ("src/control/step/power/cap.rs", &[("Source", "CapSource")]),
    ("src/control/step/power/budget.rs", &[("Basis", "CapBasis")]),
    ("src/control/step/ladder.rs", &[("Rung", "HeatRung")]),
    (
        "src/alarm.rs",
        &[("Kind", "Alarm"), ("Cause", "Cause"), ("Switched", "Switched"), ("SwitchOutcome", "SwitchOutcome")],
    ),
    ("src/reading.rs", &[("Missing", "Missing"), ("Stage", "Stage"), ("Fault", "Fault")]),
    ("src/gpu/snapshot.rs", &[("Driver", "Driver"), ("Presence", "Presence"), ("Phase", "Phase")]),
    ("src/gpu/happening.rs", &[("Verdict", "Verdict")]),
    ("src/gpu/plan.rs", &[("Knob", "Knob")]),
    ("src/gpu/xid.rs", &[("Action", "Action")]),
    ("src/payload/sandbox.rs", &[("Layer", "Layer")]),
    ("src/payload/meter/belief.rs", &[("Flag", "Flag")]),
];

/// Not encoded themselves: their numbers are bits of a number.
const BITS: [&str; 2] = ["Fault", "Layer"];

struct Field {
    name: String,
    rust: String,
    meaning: String,
}

enum Holds {
    Nothing,
    Types(Vec<String>),
    Fields(Vec<Field>),
}

enum Body {
    Struct(Vec<Field>),
    Enum(Vec<(String, Holds, String)>),
}

struct Item {
    name: String,
    doc: String,
    body: Body,
}

/// Every table of the page, in order.
pub(crate) fn render(read: impl Fn(&str) -> String) -> String {
    let units = units(&read("src/units.rs"));
    let mut items = Vec::new();
    for (file, wanted) in SOURCES {
        for mut item in items_of(file, &read(file)) {
            match wanted.iter().find(|(name, _)| *name == item.name) {
                Some((_, here)) => item.name = (*here).to_owned(),
                None if wanted.is_empty() => {}
                None => continue,
            }
            items.push(item);
        }
    }
    let names: Vec<String> = items.iter().map(|item| item.name.clone()).collect();
    let types = Types { units, names };
    items.iter().map(|item| table(item, &types)).collect()
}

struct Types {
    /// A unit's Rust type: its number, and its symbol.
    units: BTreeMap<String, (String, String)>,
    names: Vec<String>,
}

impl Types {
    /// The type as the page has it, and its unit.
    fn wire(&self, rust: &str) -> (String, String) {
        let inside = |prefix: &str| rust.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
        let with = |inner: &str, form: fn(&str) -> String| {
            let (kind, unit) = self.wire(inner);
            (form(&kind), unit)
        };
        if let Some(inner) = inside("Option<") {
            return with(inner, |kind| format!("{kind}?"));
        }
        if let Some(inner) = inside("Vec<") {
            return with(inner, |kind| format!("[{kind}]"));
        }
        if let Some(inner) = inside("Value<") {
            return with(inner, |kind| format!("value({kind})"));
        }
        if let Some(inner) = rust.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
            let parts: Vec<(String, String)> = split(inner).iter().map(|part| self.wire(part)).collect();
            let units: Vec<&str> =
                parts.iter().map(|(_, unit)| unit.as_str()).filter(|unit| !unit.is_empty()).collect();
            let kinds: Vec<&str> = parts.iter().map(|(kind, _)| kind.as_str()).collect();
            return (format!("({})", kinds.join(", ")), units.join(", "));
        }
        if let Some((number, symbol)) = self.units.get(rust) {
            return (number.clone(), symbol.clone());
        }
        let kind = match rust {
            "bool" | "u8" | "u16" | "u32" | "u64" | "i16" | "i32" | "i64" => rust,
            "String" | "RigId" | "GroupId" => "text",
            "CommandId" => "bytes(16)",
            "KeyId" => "bytes(8)",
            "PublicKey" | "AuditHash" | "ChainHash" => "bytes(32)",
            "Hex" => "bytes",
            "Faults" => "u16",
            "alarm::Kind" => "Alarm",
            "super::Zone" => "Zone",
            "power::Rung" => "PowerRung",
            "power::Basis" => "CapBasis",
            "Source" => "CapSource",
            "ladder::Rung" => "HeatRung",
            known if self.names.iter().any(|name| name == known) => known,
            other => panic!("{other} is a type that the page does not have: add its file to SOURCES"),
        };
        (kind.to_owned(), String::new())
    }

    fn list(&self, types: &[String]) -> String {
        types.iter().map(|rust| self.wire(rust).0).collect::<Vec<_>>().join(", ")
    }
}

/// At the commas that are in no brackets.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in text.chars() {
        match c {
            '(' | '<' => depth += 1,
            ')' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// `unit!(… Millivolts(u32), "mV")`.
fn units(source: &str) -> BTreeMap<String, (String, String)> {
    let mut units = BTreeMap::from([("Duty".to_owned(), ("u16".to_owned(), "0.01 %".to_owned()))]);
    for line in source.lines() {
        let Some((name, rest)) = line.trim().split_once('(') else { continue };
        let Some((number, symbol)) = rest.split_once("), \"") else { continue };
        if let Some(symbol) = symbol.strip_suffix('"') {
            units.insert(name.to_owned(), (number.to_owned(), symbol.to_owned()));
        }
    }
    units
}

fn items_of(file: &str, source: &str) -> Vec<Item> {
    let (mut items, mut doc, mut encoded) = (Vec::new(), Vec::new(), false);
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let named = |what: &str| line.strip_prefix(what)?.strip_suffix(" {").map(str::to_owned);
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if line.starts_with("#[derive") {
            encoded = line.contains("Serialize");
        } else if line.starts_with("#[") {
            assert!(!line.contains("tag =") && !line.contains("untagged"), "{file}: {line}");
        } else {
            let body: Vec<&str> = if line.ends_with('{') && line.starts_with("pub ") {
                lines.by_ref().take_while(|line| *line != "}").map(str::trim).collect()
            } else {
                Vec::new()
            };
            let bits = named("pub enum ").is_some_and(|name| BITS.contains(&name.as_str()));
            if let Some(name) = named("pub struct ").filter(|_| encoded) {
                items.push(Item { name, doc: prose(&doc), body: Body::Struct(fields(file, &body)) });
            } else if let Some(name) = named("pub enum ").filter(|_| encoded || bits) {
                items.push(Item { name, doc: prose(&doc), body: Body::Enum(variants(file, &body)) });
            }
            (doc, encoded) = (Vec::new(), false);
        }
    }
    assert!(!items.is_empty(), "{file} has no type of the wire");
    items
}

fn fields(file: &str, body: &[&str]) -> Vec<Field> {
    let (mut fields, mut doc, mut appended) = (Vec::new(), Vec::new(), false);
    for line in body {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if *line == "#[serde(default)]" {
            appended = true;
        } else {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let (name, rust) = line.strip_suffix(',').and_then(|line| line.split_once(": ")).unwrap_or_else(|| {
                panic!("{file}: this line of a struct is not understood: {line}");
            });
            let later = if appended { " *Appended.*" } else { "" };
            let meaning = prose(&doc) + later;
            fields.push(Field { name: name.to_owned(), rust: rust.to_owned(), meaning });
            (doc, appended) = (Vec::new(), false);
        }
    }
    fields
}

fn variants(file: &str, body: &[&str]) -> Vec<(String, Holds, String)> {
    let (mut variants, mut doc) = (Vec::new(), Vec::new());
    let mut lines = body.iter();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if !line.starts_with("#[") {
            let (name, holds) = if let Some(name) = line.strip_suffix(" {") {
                let inner: Vec<&str> = lines.by_ref().take_while(|line| **line != "},").copied().collect();
                (name, Holds::Fields(fields(file, &inner)))
            } else {
                let line = line.strip_suffix(',').unwrap_or_else(|| panic!("{file}: not understood: {line}"));
                match line.split_once('(') {
                    Some((name, types)) => (name, Holds::Types(split(types.strip_suffix(')').unwrap()))),
                    None => (line.split(" = ").next().unwrap(), Holds::Nothing),
                }
            };
            variants.push((snake(name), holds, prose(&doc)));
            doc.clear();
        }
    }
    variants
}

/// As serde's `snake_case` has it.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(c.to_lowercase());
    }
    text
}

/// Documentation without its links.
fn prose(doc: &[&str]) -> String {
    doc.join(" ")
        .replace(" Order and numbers are on the wire: only append.", "")
        .replace(" Numbers are on the wire: only append.", "")
        .replace("[`", "`")
        .replace("`]", "`")
        .replace("](super::Signed)", "")
        .replace('|', "\\|")
}

fn table(item: &Item, types: &Types) -> String {
    let mut text = format!("### {}\n\n{}\n\n", item.name, item.doc);
    match &item.body {
        Body::Struct(fields) => {
            text += "| field | type | unit | meaning |\n|---|---|---|---|\n";
            for Field { name, rust, meaning } in fields {
                let (kind, unit) = types.wire(rust);
                writeln!(text, "| `{name}` | `{kind}` | {unit} | {meaning} |").unwrap();
            }
        }
        Body::Enum(variants) => {
            let number = if BITS.contains(&item.name.as_str()) { "bit" } else { "number" };
            writeln!(text, "| {number} | name | holds | meaning |\n|---|---|---|---|").unwrap();
            for (index, (name, holds, meaning)) in variants.iter().enumerate() {
                let mut meaning = meaning.clone();
                let holds = match holds {
                    Holds::Nothing => String::new(),
                    Holds::Types(rust) => format!("`{}`", types.list(rust)),
                    Holds::Fields(fields) => {
                        let one = |field: &Field| format!("{}: {}", field.name, types.wire(&field.rust).0);
                        for field in fields {
                            meaning += &format!(" `{}`: {}", field.name, field.meaning);
                        }
                        format!("`{}`", fields.iter().map(one).collect::<Vec<_>>().join(", "))
                    }
                };
                writeln!(text, "| {index} | `{name}` | {holds} | {meaning} |").unwrap();
            }
        }
    }
    text + "\n"
}
