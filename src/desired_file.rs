//! A desired state as people write it: a TOML file with the names of [`Desired`]'s fields, read with every mistake told by
//! file, line and key. [`EXAMPLE`] shows each key.

use crate::source::{Problems, Source, Table};
use crate::units::{MicroPerKilowattHour, MicroPerTera};
use crate::wire::{
    Audience, Desired, DesiredPayload, DesiredProfile, EVERY_DAY, FanTarget, Market, MarketLease, MarketValue,
    PowerCap, RigId, StandingOrder, Window,
};

/// A file with every key in it.
pub const EXAMPLE: &str = include_str!("../systemd/desired.toml");
/// The name that stands for every GPU that is not named.
const ALL: &str = "all";
/// In the order of their bits in [`Window::days`].
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The desired state in this text, for this rig, under this number; `issued_ms` is ms since 1970.
///
/// # Errors
/// Every problem found, with file, line and key.
pub fn parse(file: &str, text: &str, rig: RigId, revision: u64, issued_ms: u64) -> Result<Desired, Problems> {
    let source = Source::parse(file, text)?;
    let root = source.root();
    root.only(&["not_after", "maintenance", "payloads", "profiles", "power_cap", "fan_targets", "standing", "market"]);
    let desired = Desired {
        audience: Audience::Rig(rig),
        revision,
        issued_ms,
        not_after_ms: instant(&root, "not_after"),
        payloads: payloads(&root),
        profiles: root
            .named_texts("profiles")
            .into_iter()
            .map(|(gpu, profile)| DesiredProfile { gpu: (gpu != ALL).then_some(gpu), profile })
            .collect(),
        power_cap: power_cap(&root),
        fan_targets: root.tables("fan_targets").into_iter().map(|(zone, table)| fan_target(zone, &table)).collect(),
        maintenance: root.flag("maintenance").unwrap_or(false),
        standing: root.tables("standing").into_iter().map(|(name, table)| standing(name, &table)).collect(),
        market: root.has("market").then(|| market(&root.table("market"))),
    };
    if let Err(why) = desired.check() {
        root.complain("", why);
    }
    source.finish().map(|()| desired)
}

fn payloads(table: &Table<'_>) -> Vec<DesiredPayload> {
    let one = |(name, table): (String, Table<'_>)| {
        table.only(&["run", "gpus"]);
        let run = table.flag("run");
        if run.is_none() {
            table.complain("run", "is missing: true or false");
        }
        let gpus = table.has("gpus").then(|| table.texts("gpus"));
        DesiredPayload { name, run: run.unwrap_or(false), gpus }
    };
    table.tables("payloads").into_iter().map(one).collect()
}

fn power_cap(table: &Table<'_>) -> Option<PowerCap> {
    if !table.has("power_cap") {
        return None;
    }
    let table = table.table("power_cap");
    table.only(&["cap_mw", "ramp_mw_per_s", "deadline", "until", "floor_mw"]);
    Some(PowerCap {
        cap_mw: table.needed_number("cap_mw"),
        ramp_mw_per_s: table.number("ramp_mw_per_s").unwrap_or(0),
        deadline_ms: instant(&table, "deadline").unwrap_or(0),
        until_ms: instant(&table, "until"),
        floor_mw: table.number("floor_mw"),
    })
}

fn fan_target(zone: String, table: &Table<'_>) -> FanTarget {
    table.only(&["target_mc"]);
    FanTarget { zone, target_mc: table.number("target_mc") }
}

fn standing(name: String, table: &Table<'_>) -> StandingOrder {
    table.only(&["days", "from", "to", "utc", "power_cap", "payloads"]);
    let days = if table.has("days") { days(table) } else { EVERY_DAY };
    let when = Window { days, from_min: minute(table, "from", 1_439), to_min: minute(table, "to", 1_440) };
    let utc = table.flag("utc").unwrap_or(false);
    StandingOrder { name, when, utc, power_cap: power_cap(table), payloads: payloads(table) }
}

fn market(table: &Table<'_>) -> Market {
    table.only(&["until", "energy_micro_per_kwh", "value_micro_per_tera", "lease"]);
    let value = |(payload, worth): (String, Table<'_>)| {
        worth.only(&["each"]);
        MarketValue { payload, value: MicroPerTera(worth.needed_number("each")) }
    };
    let lease = |(payload, terms): (String, Table<'_>)| {
        terms.only(&["from", "to", "priority"]);
        let needed = |key: &str| {
            let at = instant(&terms, key);
            if !terms.has(key) {
                terms.complain(key, "is missing");
            }
            at.unwrap_or(0)
        };
        let (from_ms, to_ms) = (needed("from"), needed("to"));
        MarketLease { payload, from_ms, to_ms, priority: terms.number("priority").unwrap_or(0) }
    };
    if !table.has("until") {
        table.complain("until", "is missing");
    }
    Market {
        until_ms: instant(table, "until").unwrap_or(0),
        energy: table.number("energy_micro_per_kwh").map(MicroPerKilowattHour),
        values: table.tables("value_micro_per_tera").into_iter().map(value).collect(),
        leases: table.tables("lease").into_iter().map(lease).collect(),
    }
}

fn days(table: &Table<'_>) -> u8 {
    let mut days = 0;
    for name in table.texts("days") {
        match DAYS.iter().position(|day| *day == name) {
            Some(bit) => days |= 1 << bit,
            None => table.complain("days", format!("`{name}` is none of {}", DAYS.join(", "))),
        }
    }
    days
}

/// Minutes since midnight of `HH:MM`.
fn minute(table: &Table<'_>, key: &str, most: u16) -> u16 {
    let text = table.needed_text(key);
    let parsed = text.split_once(':').and_then(|(hour, minute)| {
        let two = |digits: &str| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
        let minute: u16 = Some(minute).filter(|minute| two(minute))?.parse().ok().filter(|minute| *minute < 60)?;
        let hour: u16 = Some(hour).filter(|hour| two(hour))?.parse().ok()?;
        Some(hour * 60 + minute).filter(|minute| *minute <= most)
    });
    if parsed.is_none() && !text.is_empty() {
        table.complain(key, format!("`{text}` must be a time of the day: \"22:00\""));
    }
    parsed.unwrap_or(0)
}

/// Milliseconds since 1970 of an RFC 3339 time.
fn instant(table: &Table<'_>, key: &str) -> Option<u64> {
    let text = table.text(key)?;
    let since = humantime::parse_rfc3339(&text).ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let parsed = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    if parsed.is_none() {
        table.complain(key, format!("`{text}` must be a time as \"2030-01-01T00:00:00Z\""));
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Millicelsius, Milliwatts};

    fn read(text: &str) -> Result<Desired, String> {
        parse("x", text, "rig-7".parse().unwrap(), 3, 5).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_example_is_read_whole() {
        let desired = read(EXAMPLE).unwrap();
        assert_eq!((desired.revision, desired.issued_ms, desired.maintenance), (3, 5, false));
        assert_eq!(desired.payloads.len(), 2);
        assert_eq!(desired.profiles.iter().filter(|entry| entry.gpu.is_none()).count(), 1);
        assert_eq!(desired.power_cap.map(|cap| (cap.cap_mw, cap.floor_mw)), Some((Milliwatts(1_200_000), None)));
        assert_eq!(desired.fan_targets[0].target_mc, Some(Millicelsius(55_000)));
        let [night] = &desired.standing[..] else { panic!("{:?}", desired.standing) };
        assert_eq!(night.when, Window { days: 0x1f, from_min: 22 * 60, to_min: 6 * 60 });
        assert!(!night.payloads[0].run && night.power_cap.is_some());
        let market = desired.market.as_ref().unwrap();
        assert_eq!(
            (market.energy, market.values.len(), market.leases.len()),
            (Some(MicroPerKilowattHour(280_000)), 1, 1)
        );
        // Also with every line that is commented out.
        let all: Vec<String> = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(char::is_alphabetic) => rest.to_owned(),
                _ => line.to_owned(),
            })
            .collect();
        let desired = read(&all.join("\n")).unwrap();
        assert_eq!(desired.not_after_ms, Some(1_893_456_000_000));
        assert_eq!(desired.power_cap.unwrap().floor_mw, Some(Milliwatts(300_000)));
    }

    #[test]
    fn an_empty_file_desires_nothing() {
        let desired = read("").unwrap();
        assert!(desired.payloads.is_empty() && desired.power_cap.is_none() && desired.not_after_ms.is_none());
    }

    #[test]
    fn mistakes_are_told_by_their_keys() {
        for (text, expected) in [
            ("maintenence = true", "maintenence"),
            ("[payloads.a]\nrunn = true", "payloads.a.runn"),
            ("[payloads.a]", "payloads.a.run: is missing"),
            ("[power_cap]", "power_cap.cap_mw"),
            ("[market]", "market.until: is missing"),
            ("[market.lease.a]\nfrom = \"x\"", "market.lease.a.from: `x` must be a time"),
            ("not_after = \"tomorrow\"", "x:1: not_after: `tomorrow` must be a time"),
            ("[standing.n]\nfrom = \"24:00\"\nto = \"25:00\"", "x:2: standing.n.from: `24:00` must be a time"),
            ("[standing.n]\nfrom = \"1:00\"\nto = \"02:60\"", "x:3: standing.n.to: `02:60` must be a time"),
            ("[standing.n]\nfrom = \"22:00\"\nto = \"24:00\"\ndays = [\"so\"]", "`so` is none of mon"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text} gave {error}");
        }
    }
}
