//! `rigd-ctl simulate`: what a rig would have earned over prices that were, and with which payloads. Needs no rig and no agent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use rigd::clock;
use rigd::plan::policy::Scenario;
use rigd::plan::simulate::{self, Outcome, Policy, Prices, Report, Stretch, Table};
use serde::Serialize;

use crate::plot::steps::{self, Steps};

/// A run that takes longer than this says how far it is, and again so often.
const SILENT: Duration = Duration::from_millis(500);

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl simulate examples/policies/two-cards-and-a-tenant.toml --prices examples/prices/denmark-2023-02-04.csv\n  rigd-ctl simulate my-rig.toml --days 7 --prices prices.csv --svg week.svg   who ran when, and the price\n  rigd-ctl simulate my-rig.toml --days 365 --prices year.csv --json | jq .planned.all\n\nPrices are CSV: a line `time,energy,NAME…` with the names of payloads, then a line for each change, as `2023-02-04T12:00Z,0.99,3.0`:\nfor a kWh and for 10^12 units of work, in any currency. Each payload is also run alone, and the rig idle, to compare.\nTimes of day in the policy are UTC. Nothing is known of the future: the planner takes prices to stay as they are for its horizon."
)]
pub(crate) struct Arguments {
    /// What could run on the rig, and how it is planned: TOML, as in examples/policies
    policy: PathBuf,
    /// Prices of energy and of work: CSV, as in examples/prices
    #[arg(long, value_name = "FILE")]
    prices: PathBuf,
    /// How long; prices that are shorter begin again at the same hour of the day [default: the prices once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=730))]
    days: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a picture of who ran when, and of the price
    #[arg(long, value_name = "FILE", conflicts_with = "png")]
    svg: Option<PathBuf>,
    /// The same as PNG
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
}

/// Everything that came of it.
#[derive(Serialize)]
struct Results {
    from_ms: u64,
    to_ms: u64,
    planned: Planned,
    /// What else could have been done, by what that is.
    others: BTreeMap<String, Outcome>,
    /// Who ran, from when.
    ran: Vec<Moment>,
}

/// What came of the plan.
#[derive(Serialize)]
struct Planned {
    all: Outcome,
    payloads: BTreeMap<String, Outcome>,
    /// Idle GPUs and the rig without its GPUs.
    rest: Outcome,
}

/// From one change to the next.
#[derive(Serialize)]
struct Moment {
    from_ms: u64,
    micro_per_kwh: i64,
    gpus: Vec<Option<String>>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (scenario, prices) = read(&arguments.policy, &arguments.prices, arguments.days)?;
    let mut progress = Progress::new(&prices);
    let results = results(&scenario, &prices, &mut |now| progress.show(now));
    progress.end();
    for (path, is_svg) in [(&arguments.svg, true), (&arguments.png, false)] {
        if let Some(path) = path {
            let title = format!("{}, {}", arguments.policy.display(), results.when());
            steps::write(path, is_svg, &title, (results.from_ms, results.to_ms), results.steps(&scenario))?;
        }
    }
    if arguments.json {
        return crate::print(&(serde_json::to_string(&results)? + "\n"));
    }
    crate::print(&results.text())
}

/// Both files; the prices are those that are paid.
fn read(policy: &Path, prices: &Path, days: Option<u16>) -> anyhow::Result<(Scenario, Prices)> {
    let text = |path: &Path| fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
    let read = Prices::parse(&text(prices)?)
        .map_err(|mistake| anyhow!("{}:{}: {}", prices.display(), mistake.line, mistake.what))?;
    let scenario = Scenario::parse(&policy.display().to_string(), &text(policy)?, &read.names)?;
    let read = days.map_or_else(|| read.clone(), |days| read.over(days));
    let read = scenario.tariff.on(read);
    Ok((scenario, read))
}

/// Runs the plan, telling how far it is, and then what else could have been done.
fn results(scenario: &Scenario, prices: &Prices, at: &mut dyn FnMut(u64)) -> Results {
    let Scenario { rig, policy, every, .. } = scenario;
    let mut ran: Vec<Moment> = Vec::new();
    let mut see = |stretch: &Stretch<'_>| {
        let name = |payload: &Option<usize>| Some(rig.payloads.get((*payload)?)?.name.clone());
        let gpus: Vec<Option<String>> = stretch.gpus.iter().map(name).collect();
        let micro_per_kwh = stretch.energy.0;
        if ran.last().is_none_or(|last| last.gpus != gpus || last.micro_per_kwh != micro_per_kwh) {
            ran.push(Moment { from_ms: stretch.from_ms, micro_per_kwh, gpus });
        }
        at(stretch.to_ms);
    };
    let Report { all, payloads, rest } = simulate::report(prices, rig, policy, *every, &mut see);
    let mut others = BTreeMap::new();
    // A lease is a promise, nothing to be chosen instead.
    for (index, payload) in rig.payloads.iter().enumerate().filter(|(_, payload)| payload.lease.is_none()) {
        let outcome = simulate::run(prices, rig, &scenario.always(index), *every);
        others.insert(format!("always {}", payload.name), outcome);
    }
    others.insert("idle".to_owned(), simulate::run(prices, rig, &Policy::Always(vec![None; rig.gpus]), *every));
    let names = rig.payloads.iter().map(|payload| payload.name.clone());
    Results {
        from_ms: prices.rows.first().map_or(0, |row| row.from_ms),
        to_ms: prices.rows.last().map_or(0, |row| row.from_ms),
        planned: Planned { all, payloads: names.zip(payloads).collect(), rest },
        others,
        ran,
    }
}

impl Results {
    fn when(&self) -> String {
        let time = |ms| {
            let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH);
            let text = humantime::format_rfc3339_seconds(time).to_string();
            text.get(..16).unwrap_or(&text).replace('T', " ")
        };
        format!("{} to {} UTC", time(self.from_ms), time(self.to_ms))
    }

    /// For people.
    fn text(&self) -> String {
        let Planned { all, payloads, rest } = &self.planned;
        let parts = payloads.iter().map(|(name, outcome)| (name.as_str(), *outcome));
        let parts: Vec<_> = parts.chain([("idle and the rig", *rest), ("all", *all)]).collect();
        let others = self.others.iter().map(|(name, outcome)| (name.as_str(), *outcome));
        let policies: Vec<_> = [("planned", *all)].into_iter().chain(others).collect();
        let mut text = String::new();
        // A String takes everything.
        let _ = write!(text, "{}\n\n{}\n{}", self.when(), Table("payload", &parts), Table("policy", &policies));
        text
    }

    /// How many GPUs each has, and what energy costs.
    fn steps(&self, scenario: &Scenario) -> Vec<Steps> {
        let line = |value: &dyn Fn(&Moment) -> i64| {
            let mut line: Vec<(u64, i64)> = self.ran.iter().map(|moment| (moment.from_ms, value(moment))).collect();
            line.dedup_by_key(|(_, value)| *value);
            line
        };
        let of = |name: Option<&str>| {
            line(&|moment| {
                let has = moment.gpus.iter().filter(|gpu| gpu.as_deref() == name).count();
                i64::try_from(has).unwrap_or(i64::MAX)
            })
        };
        let names = scenario.rig.payloads.iter().map(|payload| payload.name.as_str());
        let lines = names.map(|name| (name.to_owned(), of(Some(name)))).chain([("idle".to_owned(), of(None))]);
        let price = ("energy".to_owned(), line(&|moment| moment.micro_per_kwh));
        vec![
            Steps { title: "GPUs by payload", one: 1, decimals: 0, lines: lines.collect() },
            Steps { title: "Price of a kWh", one: 1_000_000, decimals: 2, lines: vec![price] },
        ]
    }
}

/// Tells a person at a terminal how far a long run is.
struct Progress {
    span: (u64, u64),
    told: Instant,
    shown: bool,
    terminal: bool,
}

impl Progress {
    fn new(prices: &Prices) -> Self {
        let span = prices.rows.first().zip(prices.rows.last()).map_or((0, 0), |(a, b)| (a.from_ms, b.from_ms));
        Self { span, told: clock::now(), shown: false, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, now: u64) {
        if !self.terminal || clock::now().saturating_duration_since(self.told) < SILENT {
            return;
        }
        (self.told, self.shown) = (clock::now(), true);
        let (from, to) = self.span;
        let percent = (now.saturating_sub(from) * 100).checked_div(to.saturating_sub(from)).unwrap_or(100);
        // A terminal that is gone needs no progress.
        let _ = write!(std::io::stderr(), "\rsimulating: {percent} %");
    }

    fn end(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example, as its own first lines have it run.
    fn example(days: Option<u16>) -> (Scenario, Results) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let policy = root.join("policies/two-cards-and-a-tenant.toml");
        let (scenario, prices) = read(&policy, &root.join("prices/denmark-2023-02-04.csv"), days).unwrap();
        let mut last = 0;
        let results = results(&scenario, &prices, &mut |now| last = now);
        assert_eq!(last, results.to_ms, "it tells how far it is, to the end");
        (scenario, results)
    }

    #[test]
    fn the_example_comes_to_this_table() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/rigd-ctl/simulate/example.txt");
        assert_eq!(example(Some(2)).1.text(), fs::read_to_string(golden).unwrap());
    }

    #[test]
    fn the_picture_has_everybody_and_all_gpus_at_any_time() {
        let (scenario, results) = example(None);
        let steps = results.steps(&scenario);
        let names: Vec<&str> = steps[0].lines.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["batch", "mining", "tenant", "idle"]);
        let at = |time: u64| {
            let value = |line: &[(u64, i64)]| line.iter().rev().find(|(from, _)| *from <= time).unwrap().1;
            steps[0].lines.iter().map(|(_, line)| value(line)).sum::<i64>()
        };
        assert!(results.ran.iter().all(|moment| at(moment.from_ms) == 3));
        assert_eq!(steps[1].lines[0].1.first(), Some(&(results.from_ms, 1_142_840)), "with the network's part");
        let json = serde_json::to_value(&results).unwrap();
        assert_eq!(json["planned"]["payloads"]["tenant"]["violated_minutes"], 0);
        assert!(json["ran"].as_array().unwrap().len() >= 34);
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let folder = std::env::temp_dir().join(format!("rigd-simulate-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (policy, prices) = (folder.join("p.toml"), folder.join("p.csv"));
        fs::write(&policy, "gpus = 3\n").unwrap();
        fs::write(&prices, "time,energy\nnow,1\n").unwrap();
        let said = |days| read(&policy, &prices, days).unwrap_err().to_string();
        assert_eq!(said(None), format!("{}:2: no time as 2023-02-04T12:00Z", prices.display()));
        fs::write(&prices, "time,energy\n2023-02-04T00:00Z,1\n2023-02-04T01:00Z,1\n").unwrap();
        let found = said(Some(1));
        assert!(found.contains(&format!("{}:1: gpus: must be a list", policy.display())), "{found}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
