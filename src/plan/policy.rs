//! A rig that only exists in a file: what could run on it and what it pays for energy, for a dry run.
//!
//! ```toml
//! gpus = ["RTX 4090", "RTX 3060"]      # the kind of each GPU
//! base_w = 100                         # the rig without its GPUs
//! idle_w = 20                          # an idle GPU
//! [plan]                               # as in rigd.toml; all of it may be left out
//! horizon_min = 60                     # prices are taken to stay as they are for so long
//! stickiness_pct = 5                   # what a change must bring on top of its cost
//! every_s = 900                        # decisions between two rows of the prices
//! [energy]                             # what is paid of what the prices say; may be left out
//! pct = 125
//! added_micro_per_kwh = 500_000
//! [payload.mining]
//! value_micro_per_tera = 3_000_000     # where the prices have no column of its name
//! [payload.mining.on."RTX 4090"]       # as it was measured there
//! rate = 120_000_000                   # units of work a second
//! w = 310
//! ```
//!
//! Keys mean what they mean in `rigd.toml` and in the `[plan]` of a manifest.
//! Times of day are UTC. A payload without any measurement could never run and is a mistake.

use std::time::Duration;

use super::simulate::{Policy, Prices, Rig, time};
use super::{Lease, MOST, Payload, Switch, Yield};
use crate::source::{Problems, Source, Table};
use crate::units::{MicroPerKilowattHour, MicroPerTera, MilliPerSecond, Milliwatts, Percent};

/// Longest time that may be given for anything here, min: a week.
const LONGEST_MIN: u64 = 7 * 24 * 60;

/// A dry run as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The rig and what could run there.
    pub rig: Rig,
    /// How it is planned.
    pub policy: Policy,
    /// From one decision to the next, where no price changes.
    pub every: Duration,
    /// What is paid for energy.
    pub tariff: Tariff,
}

/// What is paid for energy that has a price: so many hundredths of it, and something on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// Hundredths of the price: tax on top of it makes 125.
    pub percent: u16,
    /// On top: network and levies.
    pub added: MicroPerKilowattHour,
}

impl Tariff {
    /// The prices with what is really paid in them.
    #[must_use]
    pub fn on(self, mut prices: Prices) -> Prices {
        for row in &mut prices.rows {
            let part = i128::from(row.energy.0) * i128::from(self.percent) / 100 + i128::from(self.added.0);
            row.energy.0 = i64::try_from(part).unwrap_or(if part < 0 { i64::MIN } else { i64::MAX });
        }
        prices
    }
}

impl Scenario {
    /// Reads the text of a file of this name. `priced` are the payloads that the prices have values for.
    ///
    /// # Errors
    /// Every mistake in it, with file, line and key.
    pub fn parse(file: &str, text: &str, priced: &[String]) -> Result<Self, Problems> {
        let source = Source::parse(file, text)?;
        let root = source.root();
        root.only(&["gpus", "base_w", "idle_w", "plan", "energy", "payload"]);
        let kinds = root.texts("gpus");
        if kinds.is_empty() || kinds.len() > MOST {
            root.complain("gpus", format!("must name the kinds of 1 to {MOST} GPUs"));
        }
        let tables = root.tables("payload");
        if tables.is_empty() || tables.len() > MOST {
            root.complain("payload", format!("must have 1 to {MOST} payloads"));
        }
        for name in priced.iter().filter(|name| !tables.iter().any(|(known, _)| known == *name)) {
            root.complain("payload", format!("the prices have a column `{name}`, and no payload is called so"));
        }
        let (mut payloads, mut yields) = (Vec::new(), Vec::new());
        for (name, table) in &tables {
            payloads.push(payload(name, table, &kinds, priced.contains(name)));
            yields.push(measured(table, &kinds));
        }
        let plan = root.table("plan");
        plan.only(&["horizon_min", "stickiness_pct", "every_s"]);
        let energy = root.table("energy");
        energy.only(&["pct", "added_micro_per_kwh"]);
        let scenario = Self {
            rig: Rig {
                payloads,
                gpus: kinds.len(),
                yields,
                idle: watts(&root, "idle_w"),
                base: watts(&root, "base_w"),
            },
            policy: Policy::Planned {
                horizon: time_of(&plan, "horizon_min", 60, 60),
                stickiness: Percent(plan.number("stickiness_pct").unwrap_or(5)),
            },
            every: time_of(&plan, "every_s", 1, 900),
            tariff: Tariff {
                percent: energy.number("pct").unwrap_or(100),
                added: MicroPerKilowattHour(energy.number("added_micro_per_kwh").unwrap_or(0)),
            },
        };
        source.finish()?;
        Ok(scenario)
    }

    /// Always this payload, on as many GPUs as it may have and was measured on.
    #[must_use]
    pub fn always(&self, payload: usize) -> Policy {
        let mut left = self.rig.payloads.get(payload).map_or(0, |payload| usize::from(payload.most));
        let fits = |gpu: usize| self.rig.yields.get(payload).and_then(|on| on.get(gpu)).is_some_and(Option::is_some);
        let gpus = (0..self.rig.gpus).map(|gpu| {
            let has = left > 0 && fits(gpu);
            left -= usize::from(has);
            has.then_some(payload)
        });
        Policy::Always(gpus.collect())
    }
}

fn payload(name: &str, table: &Table<'_>, kinds: &[String], priced: bool) -> Payload {
    table.only(&["most_gpus", "hours", "value_micro_per_tera", "lease", "switch", "on"]);
    let value = table.number("value_micro_per_tera");
    match (value, priced) {
        (None, false) => table.complain("value_micro_per_tera", "is missing, and so is a column of the prices for it"),
        (Some(_), true) => table.complain("value_micro_per_tera", "the prices have a column for it: leave one out"),
        (Some(_), false) | (None, true) => {}
    }
    let most = table.number("most_gpus").unwrap_or(u8::try_from(kinds.len()).unwrap_or(u8::MAX));
    if most == 0 || usize::from(most) > kinds.len().max(1) {
        table.complain("most_gpus", format!("must be from 1 to the number of GPUs, {}", kinds.len()));
    }
    let hours = table.text("hours").and_then(|hours| {
        let found = crate::config::minutes(&hours).filter(|(from, to)| from != to);
        if found.is_none() {
            table.complain("hours", format!("must be like 22:00-07:00, not `{hours}`"));
        }
        found
    });
    let switch = table.table("switch");
    switch.only(&["drain_s", "load_s", "joules", "lost_work"]);
    Payload {
        name: name.to_owned(),
        lease: table.has("lease").then(|| lease(&table.table("lease"))),
        most,
        fits: fits(&table.table("on"), kinds),
        hours,
        value: MicroPerTera(value.unwrap_or(0)),
        switch: Switch {
            drain: time_of(&switch, "drain_s", 1, 0),
            load: time_of(&switch, "load_s", 1, 0),
            joules: switch.number("joules").unwrap_or(0),
            lost_milli: switch.number::<u64>("lost_work").unwrap_or(0).saturating_mul(1_000),
        },
    }
}

fn lease(table: &Table<'_>) -> Lease {
    table.only(&["from", "to", "priority"]);
    let moment = |key: &str| {
        let text = table.needed_text(key);
        let found = time(&text);
        if found.is_none() && !text.is_empty() {
            table.complain(key, "must be a time as 2023-02-04T12:00Z");
        }
        found
    };
    let (from, to) = (moment("from"), moment("to"));
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        table.complain("to", "must be later than `from`");
    }
    Lease {
        from_ms: from.unwrap_or(0),
        to_ms: to.unwrap_or(0),
        priority: table.number::<u8>("priority").unwrap_or(0).into(),
    }
}

/// By bit, the GPUs of a kind on which it was measured.
fn fits(on: &Table<'_>, kinds: &[String]) -> u64 {
    let bits = kinds.iter().enumerate().take(MOST).filter(|(_, kind)| on.has(kind));
    bits.fold(0, |bits, (gpu, _)| bits | 1 << gpu)
}

/// Rate and watts by GPU.
fn measured(payload: &Table<'_>, kinds: &[String]) -> Vec<Option<Yield>> {
    let on = payload.tables("on");
    if on.is_empty() {
        payload.complain("on", "is missing: on which kinds of GPU it was measured");
    }
    let mut by_kind = Vec::new();
    for (kind, table) in &on {
        table.only(&["rate", "w"]);
        if !kinds.contains(kind) {
            payload.complain(&format!("on.{kind}"), "no GPU is of this kind");
        }
        let rate = MilliPerSecond(table.needed_number::<u64>("rate").saturating_mul(1_000));
        by_kind.push((kind, Yield { rate, power: watts(table, "w") }));
    }
    kinds.iter().map(|kind| by_kind.iter().find(|(known, _)| *known == kind).map(|(_, found)| *found)).collect()
}

/// A time of so many units, each of so many seconds, of which there is a default.
fn time_of(table: &Table<'_>, key: &str, seconds: u64, default: u64) -> Duration {
    let most = LONGEST_MIN * 60 / seconds;
    let found = table.number(key).unwrap_or(default);
    if found > most {
        table.complain(key, format!("must be at most {most}, a week"));
    }
    Duration::from_secs(found.min(most) * seconds)
}

/// Whole watts, which must be there.
fn watts(table: &Table<'_>, key: &str) -> Milliwatts {
    Milliwatts(table.needed_number::<u32>(key).saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../examples/policies/two-cards-and-a-tenant.toml");

    #[test]
    fn the_example_is_what_it_says() {
        let priced = ["mining".to_owned(), "batch".to_owned()];
        let scenario = Scenario::parse("x", EXAMPLE, &priced).unwrap();
        let names: Vec<&str> = scenario.rig.payloads.iter().map(|payload| payload.name.as_str()).collect();
        assert_eq!(names, ["batch", "mining", "tenant"]);
        assert_eq!(scenario.rig.gpus, 3);
        let fits: Vec<u64> = scenario.rig.payloads.iter().map(|payload| payload.fits).collect();
        assert_eq!(fits, [0b011, 0b111, 0b011]);
        assert_eq!(scenario.always(0), Policy::Always(vec![Some(0), Some(0), None]));
        assert_eq!(scenario.always(2), Policy::Always(vec![Some(2), None, None]), "one at most");
    }

    #[test]
    fn energy_costs_what_is_paid() {
        let prices = Prices::parse("time,energy\n1970-01-01T00:00Z,0.8\n1970-01-01T01:00Z,-0.1\n").unwrap();
        let tariff = Tariff { percent: 125, added: MicroPerKilowattHour(500_000) };
        let paid: Vec<i64> = tariff.on(prices).rows.iter().map(|row| row.energy.0).collect();
        assert_eq!(paid, [1_500_000, 375_000]);
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_key() {
        let text = "gpus = [\"A\"]\nbase_w = 1\nidle = 2\n[payload.x]\nmost_gpus = 2\nhours = \"25:00-1:00\"\n\
                    [payload.x.lease]\nfrom = \"2023-02-04T12:00Z\"\nto = \"2023-02-04T11:00Z\"\n\
                    [payload.x.on.B]\nrate = -1\nw = 2\n[payload.x.switch]\nload_s = 9_999_999\n";
        let problems = Scenario::parse("p", text, &["y".to_owned()]).unwrap_err().to_string();
        let mut lines: Vec<&str> = problems.lines().collect();
        lines.sort_unstable();
        let mut expected = [
            "p: idle_w: is missing",
            "p:3: idle: unknown key; known here are gpus, base_w, idle_w, plan, energy, payload",
            "p:4: payload: the prices have a column `y`, and no payload is called so",
            "p:4: payload.x.value_micro_per_tera: is missing, and so is a column of the prices for it",
            "p:5: payload.x.most_gpus: must be from 1 to the number of GPUs, 1",
            "p:6: payload.x.hours: must be like 22:00-07:00, not `25:00-1:00`",
            "p:9: payload.x.lease.to: must be later than `from`",
            "p:10: payload.x.on.B: no GPU is of this kind",
            "p:11: payload.x.on.B.rate: -1 is out of range",
            "p:14: payload.x.switch.load_s: must be at most 604800, a week",
        ];
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }
}
