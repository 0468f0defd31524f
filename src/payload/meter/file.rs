//! A meter file as it is written: keys, types, and what is wrong with them.

use std::path::Path;

use super::place::Place;
use super::{Ask, BUILTIN, Call, Format, Guard, Meter, Pausing, Rate, Unit, Values};
use crate::source::{Problems, Source, Table};

const UNITS: [Unit; 4] = [Unit::Hashes, Unit::Tokens, Unit::Requests, Unit::Jobs];

impl Meter {
    /// Reads a meter: the name of a built-in one, or the path of a file (with a `/`, or ending in `.toml`).
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn load(name: &str) -> Result<Self, Problems> {
        if name.contains('/') || Path::new(name).extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(name)
                .map_err(|error| Problems::one(name, format!("could not read the meter file: {error}")))?;
            return Self::parse(name, &text);
        }
        match BUILTIN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::parse(&format!("meters/{name}.toml"), text),
            None => {
                let known: Vec<_> = BUILTIN.iter().map(|(known, _)| *known).collect();
                let text = format!("no built-in meter of this name; there are {}", known.join(", "));
                Err(Problems::one(name, text))
            }
        }
    }

    /// Parses and checks the text of a meter file; `file` is for messages only.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let source = Source::parse(file, text)?;
        let root = source.root();
        root.only(&[
            "name",
            "description",
            "unit",
            "transport",
            "format",
            "port",
            "path",
            "request",
            "guard",
            "rate",
            "values",
            "pause",
        ]);
        let unit = one_of(&root, "unit", &UNITS.map(|unit| (unit.name(), unit))).unwrap_or(Unit::Jobs);
        let formats = [("json", Format::Json), ("prometheus", Format::Prometheus), ("pairs", Format::Pairs)];
        let format = one_of(&root, "format", &formats).unwrap_or(Format::Json);
        let port = root.number::<u16>("port");
        if port == Some(0) {
            root.complain("port", "is out of range");
        }
        let meter = Self {
            name: root.needed_text("name"),
            description: root.text("description").unwrap_or_default(),
            unit,
            ask: ask(&root),
            format,
            port,
            pause: root.has("pause").then(|| pausing(&root.table("pause"), format)),
            guard: root.has("guard").then(|| guard(&root.table("guard"), format)),
            rate: root.has("rate").then(|| rate(&root.table("rate"), format, unit)),
            values: values(&root.table("values"), format),
        };
        source.finish()?;
        Ok(meter)
    }
}

fn one_of<T: Copy>(table: &Table<'_>, key: &str, known: &[(&str, T)]) -> Option<T> {
    if table.needed(key) { table.chosen(key, known) } else { None }
}

/// What is sent, which must not become more than it seems: no white space in a path, one line only.
fn ask(root: &Table<'_>) -> Ask {
    let http = one_of(root, "transport", &[("http", true), ("tcp", false)]).unwrap_or(true);
    let (key, other) = if http { ("path", "request") } else { ("request", "path") };
    if root.has(other) {
        root.complain(other, format!("does not go with this transport, which wants `{key}`"));
    }
    let text = root.needed_text(key);
    if http && root.has(key) && !(text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic())) {
        root.complain(key, "must begin with `/` and be of printable ASCII without spaces");
    }
    if !http && text.chars().any(char::is_control) {
        root.complain(key, "must be one line");
    }
    if http { Ask::Http(text) } else { Ask::Tcp(text) }
}

fn pausing(table: &Table<'_>, format: Format) -> Pausing {
    table.only(&["pause", "resume", "at", "starts"]);
    Pausing { pause: call(table, "pause"), resume: call(table, "resume"), done: guarded(table, format) }
}

/// `GET PATH` or `POST PATH BODY`, one line.
fn call(table: &Table<'_>, key: &str) -> Call {
    let text = table.needed_text(key);
    let (method, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let (path, body) = rest.split_once(' ').map_or((rest, None), |(path, body)| (path, Some(body.to_owned())));
    let good = match method {
        "GET" => body.is_none(),
        "POST" => body.is_some(),
        _ => false,
    };
    let clean =
        path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic()) && !text.chars().any(char::is_control);
    if table.has(key) && !(good && clean) {
        table.complain(key, "must be `GET /PATH` or `POST /PATH BODY`, on one line");
    }
    Call { path: path.to_owned(), body }
}

fn guard(table: &Table<'_>, format: Format) -> Guard {
    table.only(&["at", "starts"]);
    guarded(table, format)
}

fn guarded(table: &Table<'_>, format: Format) -> Guard {
    let starts = table.texts("starts");
    if starts.is_empty() {
        table.complain("starts", "must name at least one beginning");
    }
    let at = place(table, "at", &table.needed_text("at"), format);
    // A place that is wrong was complained of, and no meter comes of it.
    Guard { at: at.unwrap_or(Place::Key(String::new())), starts }
}

fn rate(table: &Table<'_>, format: Format, unit: Unit) -> Rate {
    table.only(&["at", "units", "unit_at", "factor_at", "counter"]);
    let places = places(table, "at", format);
    let units = table.texts("units");
    let factors: Vec<f64> = units
        .iter()
        .filter_map(|text| {
            let factor = unit.factor(text);
            if factor.is_none() {
                table.complain("units", format!("`{text}` is no unit that comes down to {}", unit.name()));
            }
            factor
        })
        .collect();
    if places.is_empty() {
        table.complain("at", "must name at least one place");
    } else if units.len() > 1 && units.len() != places.len() {
        table.complain("units", format!("must be one for all or one for each of the {} places", places.len()));
    }
    let factor = |at: usize| factors.get(at).or(factors.first()).copied().unwrap_or(1.0);
    let at = places.into_iter().enumerate().map(|(at, place)| (place, factor(at))).collect();
    let (factor_at, unit_at) = (self::places(table, "factor_at", format), self::places(table, "unit_at", format));
    Rate { at, factor_at, unit_at, counter: table.flag("counter").unwrap_or(false) }
}

fn values(table: &Table<'_>, format: Format) -> Values {
    table.only(&["work", "accepted", "rejected", "stale", "running", "queue", "loaded", "uptime", "version"]);
    let read = |key| places(table, key, format);
    Values {
        work: read("work"),
        accepted: read("accepted"),
        rejected: read("rejected"),
        stale: read("stale"),
        running: read("running"),
        queue: read("queue"),
        loaded: read("loaded"),
        uptime: read("uptime"),
        version: read("version"),
    }
}

fn places(table: &Table<'_>, key: &str, format: Format) -> Vec<Place> {
    table.texts(key).iter().filter_map(|text| place(table, key, text, format)).collect()
}

fn place(table: &Table<'_>, key: &str, text: &str, format: Format) -> Option<Place> {
    let parsed = Place::parse(format, text);
    if let Err(wrong) = &parsed {
        table.complain(key, format!("`{text}` is no place: {wrong}"));
    }
    parsed.ok()
}
