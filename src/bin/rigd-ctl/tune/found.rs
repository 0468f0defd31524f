//! What a search found: as a table, as JSON, and over its time as a picture.

use std::fmt::{self, Write as _};

use rigd::gpu::Limits;
use rigd::plan::tune::{Goal, Point};
use rigd::units::{Megahertz, MilliPerSecond, Milliwatts};
use rigd::wire::PayloadUnit;
use serde::Serialize;

use super::profile::Tuned;
use super::window::{Measured, Trouble};
use crate::payload::{amount, unit_name};
use crate::people::milli;
use crate::plot::steps::Steps;

/// Columns of the table that are there where the memory clock was varied.
const OF_MEMORY: [usize; 2] = [3, 7];

/// What is tried; none is left as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tries {
    /// Power limit.
    pub(super) limit_mw: Option<Milliwatts>,
    /// Highest core clock.
    pub(super) core_mhz: Option<Megahertz>,
    /// Memory clock.
    pub(super) memory_mhz: Option<Megahertz>,
}

/// A point, and what came of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Tried {
    /// When it began, ms since the search did.
    pub(super) at_ms: u64,
    #[serde(flatten)]
    pub(super) tries: Tries,
    #[serde(flatten)]
    pub(super) came: Outcome,
    /// What is sought, as the search counts it.
    pub(super) score: Option<i64>,
}

/// One of both.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Measured(Measured),
    Trouble(Trouble),
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Found {
    pub(super) payload: String,
    pub(super) unit: Option<PayloadUnit>,
    /// UUIDs of those that were varied together.
    pub(super) gpus: Vec<String>,
    /// What is sought, in words.
    pub(super) goal: &'static str,
    /// What was not varied though it was to be, and why.
    pub(super) left: Vec<String>,
    /// The first is the rig as it was.
    pub(super) points: Vec<Tried>,
    /// The best, with the means of its measurements.
    pub(super) best: Option<Best>,
    /// Why the search ended.
    pub(super) end: String,
    /// How long it took, ms.
    pub(super) took_ms: u64,
    /// The profile that was written.
    pub(super) profile: Option<String>,
}

/// The best of what was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Best {
    #[serde(flatten)]
    pub(super) tries: Tries,
    pub(super) rate: u64,
    pub(super) power_mw: u32,
    pub(super) score: i64,
    /// Beyond the rig as it was, in thousandths of that.
    pub(super) gain_permille: Option<i64>,
}

impl Tries {
    /// The point of the search: what is no lower than it was is left as it was.
    pub(super) fn new(point: Point, as_it_was: Point) -> Self {
        Self {
            limit_mw: Some(point.limit).filter(|limit| *limit < as_it_was.limit),
            core_mhz: Some(point.core).filter(|core| *core < as_it_was.core),
            memory_mhz: point.memory.filter(|memory| as_it_was.memory.is_some_and(|was| *memory < was)),
        }
    }

    /// Nothing is other than it was.
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl From<Tries> for Limits {
    fn from(Tries { limit_mw, core_mhz, memory_mhz }: Tries) -> Self {
        Self { power: limit_mw, clock: core_mhz, memory: memory_mhz }
    }
}

impl fmt::Display for Tries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("as it was");
        }
        let Self { limit_mw, core_mhz, memory_mhz } = self;
        let power = limit_mw.map(|limit| format!("{} W", milli(limit.0, 0)));
        let memory = memory_mhz.map(|memory| format!("memory {memory}"));
        let all = power.into_iter().chain(core_mhz.map(|core| core.to_string())).chain(memory);
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}

impl Tried {
    pub(super) fn new(at_ms: u64, tries: Tries, goal: Goal, came: &Result<Measured, Trouble>) -> Self {
        let score = came.ok().map(|came| goal.score(MilliPerSecond(came.rate), Milliwatts(came.power_mw)));
        let came = match *came {
            Ok(measured) => Outcome::Measured(measured),
            Err(trouble) => Outcome::Trouble(trouble),
        };
        Self { at_ms, tries, came, score }
    }

    const fn measured(&self) -> Option<&Measured> {
        match &self.came {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Trouble(_) => None,
        }
    }
}

/// The means of all measurements with these limits, and how much better that is than the first one.
pub(super) fn best(points: &[Tried], tries: Tries, goal: Goal) -> Option<Best> {
    let its = points.iter().filter(|tried| tried.tries == tries);
    let its: Vec<&Measured> = its.filter_map(Tried::measured).collect();
    let mean = |of: fn(&Measured) -> u64| {
        let sum: u128 = its.iter().map(|measured| u128::from(of(measured))).sum();
        u64::try_from(sum.checked_div(u128::try_from(its.len()).ok()?)?).ok()
    };
    let rate = mean(|measured| measured.rate)?;
    let power_mw = u32::try_from(mean(|measured| measured.power_mw.into())?).ok()?;
    let score = goal.score(MilliPerSecond(rate), Milliwatts(power_mw));
    let start = points.first().and_then(|first| first.score).map(i128::from);
    let gain = start.and_then(|start| ((i128::from(score) - start) * 1000).checked_div(start.abs()));
    let gain_permille = gain.and_then(|gain| i64::try_from(gain).ok());
    Some(Best { tries, rate, power_mw, score, gain_permille })
}

impl Best {
    /// As a profile; `watts` is the power limit as it was.
    pub(super) fn tuned(&self, watts: u32) -> Tuned {
        let Tries { limit_mw, core_mhz, memory_mhz } = self.tries;
        Tuned {
            watts: limit_mw.map_or(watts, |limit| limit.0 / 1000),
            core: core_mhz.map(|clock| clock.0),
            memory: memory_mhz.map(|clock| clock.0),
        }
    }
}

impl Found {
    /// The best, where it is another than it was.
    pub(super) fn better(&self) -> Option<Best> {
        self.best.filter(|best| !best.tries.is_nothing())
    }

    /// Another memory clock was tried.
    fn has_memory(&self) -> bool {
        self.points.iter().any(|tried| tried.tries.memory_mhz.is_some())
    }

    /// For people.
    pub(super) fn table(&self, goal: Goal) -> String {
        let unit = unit_name(self.unit);
        let score = |score: i64| match goal {
            // Millionths of a unit.
            Goal::PerJoule => amount(u64::try_from(score).unwrap_or(0) / 1000, &format!("{unit}/J")),
            Goal::Margin { .. } => format!("{} /h", milli(score / 1000, 3)),
        };
        let option = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let limits = |Tries { limit_mw, core_mhz, memory_mhz }: Tries| {
            let clock = |clock: Option<Megahertz>| option(clock.map(|clock| clock.0.to_string()));
            [option(limit_mw.map(|limit| milli(limit.0, 0))), clock(core_mhz), clock(memory_mhz)]
        };
        let has_memory = self.has_memory();
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, limits: [String; 3], numbers: [String; 5], remark: String| {
            let cells = [name.to_owned()].into_iter().chain(limits).chain(numbers).chain([remark]).enumerate();
            let shown = cells.filter(|(column, _)| has_memory || !OF_MEMORY.contains(column));
            rows.push(shown.map(|(_, cell)| cell).collect());
        };
        let heads = ["rate", "W", "MHz", "mem MHz", "score"].map(str::to_owned);
        row("", ["limit W", "lock MHz", "mem lock"].map(str::to_owned), heads, String::new());
        for (index, tried) in self.points.iter().enumerate() {
            let name = if index == 0 { "as it was".to_owned() } else { (index + 1).to_string() };
            let nothing = || ["-"; 5].map(str::to_owned);
            let (numbers, remark) = match &tried.came {
                Outcome::Measured(measured) => (
                    [
                        amount(measured.rate, &format!("{unit}/s")),
                        milli(measured.power_mw, 1),
                        option(measured.clock_mhz.map(|clock| clock.to_string())),
                        option(measured.memory_mhz.map(|clock| clock.to_string())),
                        option(tried.score.map(score)),
                    ],
                    if measured.noise > 20 {
                        format!("± {} %", milli(measured.noise.try_into().unwrap_or(0) * 50, 1))
                    } else {
                        String::new()
                    },
                ),
                Outcome::Trouble(trouble) => (nothing(), trouble.words().to_owned()),
            };
            row(&name, limits(tried.tries), numbers, remark);
        }
        if let Some(best) = &self.best {
            let rate = amount(best.rate, &format!("{unit}/s"));
            let numbers = [rate, milli(best.power_mw, 1), "-".to_owned(), "-".to_owned(), score(best.score)];
            row("best", limits(best.tries), numbers, gain(best.gain_permille));
        }
        columns(&rows)
    }

    /// What was tried when, and what came of it.
    pub(super) fn steps(&self, goal: Goal) -> Vec<Steps> {
        let line = |of: &dyn Fn(&Tried) -> Option<i64>| -> Vec<(u64, i64)> {
            self.points.iter().filter_map(|tried| Some((tried.at_ms, of(tried)?))).collect()
        };
        let scores = line(&|tried| tried.score);
        let best = scores.iter().scan(i64::MIN, |best, (at, score)| {
            *best = (*best).max(*score);
            Some((*at, *best))
        });
        let best = ("best so far".to_owned(), best.collect());
        let (title, one, decimals) = match (goal, scores.iter().map(|(_, score)| *score).max().unwrap_or(0)) {
            (Goal::PerJoule, 1_000_000_000_000..) => ("10⁶ units for a joule", 1_000_000_000_000, 3),
            (Goal::PerJoule, 1_000_000_000..) => ("10³ units for a joule", 1_000_000_000, 3),
            (Goal::PerJoule, _) => ("Units for a joule", 1_000_000, 3),
            (Goal::Margin { .. }, _) => ("Margin an hour", 1_000_000, 4),
        };
        let measured = |of: fn(&Measured) -> Option<i64>| line(&|tried| tried.measured().and_then(of));
        let drawn = measured(|measured| Some(measured.power_mw.into()));
        let clock = measured(|measured| measured.clock_mhz.map(i64::from));
        let panel = |title, one, decimals, name: &str, line| Steps {
            title,
            one,
            decimals,
            lines: vec![(name.to_owned(), line)],
        };
        let mut panels = vec![
            Steps { title, one, decimals, lines: vec![("tried".to_owned(), scores), best] },
            panel("Power, W", 1000, 1, "drawn", drawn),
            panel("Core clock, MHz", 1, 0, "fastest", clock),
        ];
        if self.has_memory() {
            let memory = measured(|measured| measured.memory_mhz.map(i64::from));
            panels.push(panel("Memory clock, MHz", 1, 0, "fastest", memory));
        }
        panels
    }
}

/// `+12.3 %`.
pub(super) fn gain(permille: Option<i64>) -> String {
    permille.map_or_else(String::new, |gain| {
        format!("{}{} %", if gain > 0 { "+" } else { "" }, milli(gain.saturating_mul(100), 1))
    })
}

/// Cells side by side, numbers to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let last = row.len().saturating_sub(1);
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 || column == last { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests;
