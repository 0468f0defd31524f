//! A dry run: the planner over prices that were, and a rig that only exists here. A year of hours is some seconds.
//!
//! Between two rows of the prices everything is constant, so time goes from one decision to the next and nothing is done in
//! between. What a change costs is taken from the payloads themselves: while it lasts a GPU earns nothing and draws what the
//! coming payload draws; its energy of loading is added, and the work that is lost is taken off.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Inputs, Payload, Plan, Yield, plan};
use crate::units::{MicroPerKilowattHour, MicroPerTera, Milliwatts, Percent};

/// Rows of a price file: two years of quarters of an hour. A longer one is refused.
const MOST_ROWS: usize = 70_080;
const DAY: u64 = 86_400_000;

/// Prices from one moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From when, ms since 1970.
    pub from_ms: u64,
    /// What energy costs.
    pub energy: MicroPerKilowattHour,
    /// What work is worth, in the order of [`Prices::names`].
    pub values: Vec<MicroPerTera>,
}

/// A price file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Payloads that it has values for.
    pub names: Vec<String>,
    /// In the order of time; the last one only ends the one before it.
    pub rows: Vec<Row>,
}

/// What is wrong with a price file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Mistake {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Prices {
    /// Reads CSV: `#` begins a comment, the first line names the columns (`time,energy,NAME…`). A time is as
    /// `2023-02-04T12:00Z`, energy in currency for a kilowatt-hour, a value in currency for 10^12 units.
    ///
    /// # Errors
    /// The first line that does not read so, or is not later than the one before it.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let mut prices: Option<Self> = None;
        for (at, line) in text.lines().enumerate() {
            let mistake = |what| Mistake { line: at + 1, what };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut cells = line.split(',').map(str::trim);
            let (first, second) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            let Some(prices) = &mut prices else {
                if (first, second) != ("time", "energy") {
                    return Err(mistake("the columns must be time, energy and names of payloads"));
                }
                prices = Some(Self { names: cells.map(str::to_owned).collect(), rows: Vec::new() });
                continue;
            };
            let from_ms = time(first).ok_or(mistake("no time as 2023-02-04T12:00Z"))?;
            let energy = decimal(second).ok_or(mistake("no price of energy"))?;
            let values: Option<Vec<MicroPerTera>> =
                cells.map(|cell| Some(MicroPerTera(u64::try_from(decimal(cell)?).ok()?))).collect();
            let values = values.ok_or(mistake("a value is no number, or below zero"))?;
            if values.len() != prices.names.len() {
                return Err(mistake("has another number of cells than there are columns"));
            }
            if prices.rows.last().is_some_and(|last| last.from_ms >= from_ms) {
                return Err(mistake("is not later than the one before it"));
            }
            if prices.rows.len() == MOST_ROWS {
                return Err(mistake("more rows than are taken"));
            }
            prices.rows.push(Row { from_ms, energy: MicroPerKilowattHour(energy), values });
        }
        prices.filter(|prices| prices.rows.len() > 1).ok_or(Mistake { line: 1, what: "two rows at least are needed" })
    }

    /// These prices over so many days from their first row on, at most 70 080 rows, two years of quarter hours. Where they are shorter they begin again,
    /// at the hour of the day at which they began; until then the last price holds.
    #[must_use]
    pub fn over(&self, days: u16) -> Self {
        let Some((first, last)) = self.rows.first().zip(self.rows.last()) else { return self.clone() };
        let (begin, end) = (first.from_ms, first.from_ms + u64::from(days) * DAY);
        let period = (last.from_ms - begin).div_ceil(DAY).max(1) * DAY;
        // The last row is the first of the next time where it is as late as that.
        let again = |round: u64| {
            let within = self.rows.iter().filter(move |row| row.from_ms < begin + period);
            within.map(move |row| Row { from_ms: row.from_ms + round * period, ..row.clone() })
        };
        let mut rows: Vec<Row> = (0..).flat_map(again).take_while(|row| row.from_ms < end).take(MOST_ROWS).collect();
        rows.push(Row { from_ms: end, ..last.clone() });
        Self { names: self.names.clone(), rows }
    }
}

/// A rig to be simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rig {
    /// What could run; values are taken from the prices where those have its name.
    pub payloads: Vec<Payload>,
    /// How many GPUs it has.
    pub gpus: usize,
    /// Rate and watts by payload, then by GPU.
    pub yields: Vec<Vec<Option<Yield>>>,
    /// What an idle GPU draws.
    pub idle: Milliwatts,
    /// What the rig draws without its GPUs.
    pub base: Milliwatts,
}

/// How it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// By the planner.
    Planned {
        /// How long it takes prices to stay.
        horizon: Duration,
        /// What a change must bring on top of its cost.
        stickiness: Percent,
    },
    /// Always the same on each GPU, whatever it earns: what most rigs do.
    Always(Vec<Option<usize>>),
}

/// What came of it. Money is in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Earned by work.
    pub revenue: i64,
    /// Paid for energy.
    pub energy_cost: i64,
    /// Energy, watt-hours.
    pub watt_hours: u64,
    /// Changes of what runs on a GPU.
    pub switches: u32,
    /// GPU-minutes in which nothing ran.
    pub idle_minutes: u64,
    /// Minutes of leases that were not served: promises broken.
    pub violated_minutes: u64,
}

/// What ran from one moment to another, nothing changing in between.
#[derive(Clone, Copy, Debug)]
pub struct Stretch<'a> {
    /// From when, ms since 1970.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// What energy cost.
    pub energy: MicroPerKilowattHour,
    /// One per GPU: what ran there, an index into the payloads.
    pub gpus: &'a [Option<usize>],
}

/// What came of it, and of whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All of it.
    pub all: Outcome,
    /// One per payload, in the order of the rig's; a change counts for what comes, work that is lost for what goes.
    pub payloads: Vec<Outcome>,
    /// GPUs while they were idle, and the rig without its GPUs.
    pub rest: Outcome,
}

/// Runs a rig through the prices; decisions are taken at each row and every `every` in between.
#[must_use]
pub fn run(prices: &Prices, rig: &Rig, policy: &Policy, every: Duration) -> Outcome {
    report(prices, rig, policy, every, &mut |_| ()).all
}

/// Runs a rig through the prices and tells of each stretch as it goes by.
#[must_use]
pub fn report(
    prices: &Prices,
    rig: &Rig,
    policy: &Policy,
    every: Duration,
    see: &mut dyn FnMut(&Stretch<'_>),
) -> Report {
    let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(60_000);
    let mut payloads = rig.payloads.clone();
    let mut current = vec![None; rig.gpus];
    // Until when each GPU earns nothing, for what runs there is being changed.
    let mut busy = vec![0_u64; rig.gpus];
    let mut ledger = Ledger { payloads: vec![Sums::default(); payloads.len()], rest: Sums::default() };
    for (row, next) in prices.rows.iter().zip(prices.rows.iter().skip(1)) {
        for (name, value) in prices.names.iter().zip(&row.values) {
            payloads.iter_mut().filter(|payload| payload.name == *name).for_each(|payload| payload.value = *value);
        }
        let mut now = row.from_ms;
        while now < next.from_ms {
            let end = now.saturating_add(every).min(next.from_ms);
            let inputs = Inputs {
                now_ms: now,
                minute: u16::try_from(now / 60_000 % 1440).unwrap_or(0),
                payloads: &payloads,
                current: &current,
                yields: &rig.yields,
                idle: rig.idle,
                energy: row.energy,
                horizon: Duration::ZERO,
                stickiness: Percent(0),
                lead: Duration::ZERO,
            };
            let wanted = match policy {
                Policy::Planned { horizon, stickiness } => {
                    plan(&Inputs { horizon: *horizon, stickiness: *stickiness, ..inputs })
                }
                Policy::Always(gpus) => Plan { gpus: gpus.clone(), ..Plan::default() },
            };
            ledger.leases(&inputs, &wanted, end - now);
            let changed = ledger.change(&inputs, &wanted, &mut busy);
            ledger.pass(&Inputs { current: &changed, ..inputs }, rig, &busy, (now, end));
            see(&Stretch { from_ms: now, to_ms: end, energy: row.energy, gpus: &changed });
            (current, now) = (changed, end);
        }
    }
    let all = ledger.payloads.iter().fold(ledger.rest, |all, one| all.and(one));
    Report {
        all: all.outcome(),
        payloads: ledger.payloads.iter().map(|sums| sums.outcome()).collect(),
        rest: ledger.rest.outcome(),
    }
}

/// Sums as they come, finer than what is told.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    switches: u32,
    /// Milliwatts times milliseconds, microjoule.
    energy: u128,
    /// That times millionths for a kilowatt-hour.
    cost: i128,
    /// Thousandths of a unit a second times milliseconds times millionths for 10^12 of them.
    revenue: i128,
    idle_ms: u64,
    violated_ms: u64,
}

/// Whose sums.
struct Ledger {
    /// One per payload.
    payloads: Vec<Sums>,
    /// What no payload has caused.
    rest: Sums,
}

impl Ledger {
    fn of(&mut self, payload: Option<usize>) -> &mut Sums {
        payload.and_then(|payload| self.payloads.get_mut(payload)).unwrap_or(&mut self.rest)
    }

    fn leases(&mut self, inputs: &Inputs<'_>, wanted: &Plan, time: u64) {
        for (index, payload) in inputs.payloads.iter().enumerate().filter(|(_, payload)| payload.lease.is_some()) {
            let has = wanted.gpus.iter().filter(|gpu| **gpu == Some(index)).count();
            if inputs.may_run(index) && has < usize::from(payload.most) {
                self.of(Some(index)).violated_ms += time;
            }
        }
    }

    /// What runs from now on.
    fn change(&mut self, inputs: &Inputs<'_>, wanted: &Plan, busy: &mut [u64]) -> Vec<Option<usize>> {
        let mut now = Vec::with_capacity(busy.len());
        for (gpu, busy) in busy.iter_mut().enumerate() {
            let to = wanted.gpus.get(gpu).copied().flatten().filter(|payload| inputs.may_run(*payload));
            let from = inputs.current.get(gpu).copied().flatten();
            if to != from {
                if let Some(left) = from.and_then(|from| inputs.payloads.get(from)) {
                    let lost = 1000 * i128::from(left.switch.lost_milli) * i128::from(left.value.0);
                    self.of(from).revenue -= lost;
                }
                if let Some(payload) = to.and_then(|to| inputs.payloads.get(to)) {
                    let joules = u128::from(payload.switch.joules) * 1_000_000;
                    self.of(to).use_energy(joules, inputs.energy);
                    let down = to.map_or(Duration::ZERO, |to| inputs.downtime(gpu, to));
                    *busy = inputs.now_ms.saturating_add(u64::try_from(down.as_millis()).unwrap_or(u64::MAX));
                }
                self.of(to).switches += 1;
            }
            now.push(to);
        }
        now
    }

    fn pass(&mut self, inputs: &Inputs<'_>, rig: &Rig, busy: &[u64], (from, to): (u64, u64)) {
        let time = to - from;
        self.rest.use_energy(u128::from(rig.base.0) * u128::from(time), inputs.energy);
        for (gpu, busy) in busy.iter().enumerate() {
            let index = inputs.current.get(gpu).copied().flatten();
            let yields = index.and_then(|payload| inputs.yields(gpu, payload));
            let power = yields.map_or(rig.idle, |yields| yields.power);
            let sums = self.of(index);
            sums.use_energy(u128::from(power.0) * u128::from(time), inputs.energy);
            let Some((payload, yields)) = index.and_then(|payload| inputs.payloads.get(payload)).zip(yields) else {
                sums.idle_ms += if index.is_none() { time } else { 0 };
                continue;
            };
            let working = to.saturating_sub((*busy).max(from));
            let done = u128::from(yields.rate.0) * u128::from(working) * u128::from(payload.value.0);
            sums.revenue += i128::try_from(done).unwrap_or(i128::MAX);
        }
    }
}

impl Sums {
    fn use_energy(&mut self, microjoules: u128, price: MicroPerKilowattHour) {
        self.energy += microjoules;
        self.cost += i128::try_from(microjoules).unwrap_or(i128::MAX) * i128::from(price.0);
    }

    const fn and(self, other: &Self) -> Self {
        let Self { switches, energy, cost, revenue, idle_ms, violated_ms } = self;
        Self {
            switches: switches.saturating_add(other.switches),
            energy: energy + other.energy,
            cost: cost + other.cost,
            revenue: revenue + other.revenue,
            idle_ms: idle_ms + other.idle_ms,
            violated_ms: violated_ms + other.violated_ms,
        }
    }

    fn outcome(self) -> Outcome {
        let narrow = |value: i128| i64::try_from(value).unwrap_or(i64::MAX);
        Outcome {
            revenue: narrow(self.revenue / 1_000_000_000_000_000_000),
            energy_cost: narrow(self.cost / 3_600_000_000_000),
            watt_hours: u64::try_from(self.energy / 3_600_000_000).unwrap_or(u64::MAX),
            switches: self.switches,
            idle_minutes: self.idle_ms / 60_000,
            violated_minutes: self.violated_ms / 60_000,
        }
    }
}

impl Outcome {
    /// What is left, millionths.
    #[must_use]
    pub const fn margin(&self) -> i64 {
        self.revenue - self.energy_cost
    }
}

/// Outcomes side by side, as a table for people: what they are of, then each with its name.
#[derive(Clone, Debug)]
pub struct Table<'a>(pub &'a str, pub &'a [(&'a str, Outcome)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.1.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(self.0.len());
        writeln!(
            f,
            "{:wide$} {:>12} {:>12} {:>12} {:>9} {:>8} {:>10} {:>12}",
            self.0, "revenue", "energy", "margin", "kWh", "changes", "idle min", "broken min"
        )?;
        for (name, outcome) in self.1 {
            let money = super::why::decimal;
            let kwh = format!("{}.{:01}", outcome.watt_hours / 1000, outcome.watt_hours % 1000 / 100);
            writeln!(
                f,
                "{name:wide$} {:>12} {:>12} {:>12} {kwh:>9} {:>8} {:>10} {:>12}",
                money(outcome.revenue),
                money(outcome.energy_cost),
                money(outcome.margin()),
                outcome.switches,
                outcome.idle_minutes,
                outcome.violated_minutes,
            )?;
        }
        Ok(())
    }
}

/// A decimal number as millionths; more than six digits after the point are cut off.
fn decimal(text: &str) -> Option<i64> {
    let (minus, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(part) {
        return None;
    }
    let part: i64 = part.chars().chain("000000".chars()).take(6).collect::<String>().parse().ok()?;
    let micro = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(part)?;
    Some(if minus { -micro } else { micro })
}

/// `2023-02-04T12:00Z` as ms since 1970; none before that.
pub(super) fn time(text: &str) -> Option<u64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (hour, minute) = clock.split_once(':')?;
    let (hour, minute) = (hour.parse::<u64>().ok()?, minute.parse::<u64>().ok()?);
    if !(1970..3000).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
    {
        return None;
    }
    // Days since 1 March of year 0 (H. Hinnant, chrono-compatible low-level date algorithms), less those until 1970.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000)
}

#[cfg(test)]
mod tests;
