//! What a search found: as a table, as JSON, and over its time as a picture.

use std::fmt::Write as _;

use rigd::plan::tune::{Goal, Point};
use rigd::units::{MilliPerSecond, Milliwatts};
use rigd::wire::PayloadUnit;
use serde::Serialize;

use super::window::{Measured, Trouble};
use crate::payload::{amount, unit_name};
use crate::people::milli;
use crate::plot::steps::Steps;

/// Power limit, mW, and highest core clock, MHz; none is left as it was.
pub(super) type Tries = (Option<u32>, Option<u32>);

/// A point, and what came of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Tried {
    /// When it began, ms since the search did.
    pub(super) at_ms: u64,
    /// Power limit; none where it was left as it was.
    pub(super) limit_mw: Option<u32>,
    /// Highest core clock; none where it was left as it was.
    pub(super) core_mhz: Option<u32>,
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
    pub(super) limit_mw: Option<u32>,
    pub(super) core_mhz: Option<u32>,
    pub(super) rate: u64,
    pub(super) power_mw: u32,
    pub(super) score: i64,
    /// Beyond the rig as it was, in thousandths of that.
    pub(super) gain_permille: Option<i64>,
}

impl Tried {
    pub(super) fn new(at_ms: u64, (limit_mw, core_mhz): Tries, goal: Goal, came: &Result<Measured, Trouble>) -> Self {
        let score = came.ok().map(|came| goal.score(MilliPerSecond(came.rate), Milliwatts(came.power_mw)));
        let came = match *came {
            Ok(measured) => Outcome::Measured(measured),
            Err(trouble) => Outcome::Trouble(trouble),
        };
        Self { at_ms, limit_mw, core_mhz, came, score }
    }

    const fn measured(&self) -> Option<&Measured> {
        match &self.came {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Trouble(_) => None,
        }
    }
}

/// The means of all measurements with these limits, and how much better that is than the first one.
pub(super) fn best(points: &[Tried], (limit_mw, core_mhz): Tries, goal: Goal) -> Option<Best> {
    let its = points.iter().filter(|tried| (tried.limit_mw, tried.core_mhz) == (limit_mw, core_mhz));
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
    Some(Best { limit_mw, core_mhz, rate, power_mw, score, gain_permille })
}

impl Found {
    /// For people.
    pub(super) fn table(&self, goal: Goal) -> String {
        let unit = unit_name(self.unit);
        let score = |score: i64| match goal {
            // Millionths of a unit.
            Goal::PerJoule => amount(u64::try_from(score).unwrap_or(0) / 1000, &format!("{unit}/J")),
            Goal::Margin { .. } => format!("{} /h", milli(score / 1000, 3)),
        };
        let option = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let limits = |limit: Option<u32>, core: Option<u32>| {
            [option(limit.map(|limit| milli(limit, 0))), option(core.map(|core| core.to_string()))]
        };
        let mut rows: Vec<Vec<String>> =
            vec![["", "limit W", "lock MHz", "rate", "W", "MHz", "score", ""].map(str::to_owned).to_vec()];
        let mut row = |name: &str, limits: [String; 2], numbers: [String; 4], remark: String| {
            rows.push([vec![name.to_owned()], limits.to_vec(), numbers.to_vec(), vec![remark]].concat());
        };
        for (index, tried) in self.points.iter().enumerate() {
            let name = if index == 0 { "as it was".to_owned() } else { index.to_string() };
            let nothing = || ["-", "-", "-", "-"].map(str::to_owned);
            let (numbers, remark) = match &tried.came {
                Outcome::Measured(measured) => (
                    [
                        amount(measured.rate, &format!("{unit}/s")),
                        milli(measured.power_mw, 1),
                        option(measured.clock_mhz.map(|clock| clock.to_string())),
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
            row(&name, limits(tried.limit_mw, tried.core_mhz), numbers, remark);
        }
        if let Some(best) = &self.best {
            let rate = amount(best.rate, &format!("{unit}/s"));
            let numbers = [rate, milli(best.power_mw, 1), "-".to_owned(), score(best.score)];
            row("best", limits(best.limit_mw, best.core_mhz), numbers, gain(best.gain_permille));
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
        vec![
            Steps { title, one, decimals, lines: vec![("tried".to_owned(), scores), best] },
            Steps { title: "Power, W", one: 1000, decimals: 1, lines: vec![("drawn".to_owned(), drawn)] },
            Steps { title: "Core clock, MHz", one: 1, decimals: 0, lines: vec![("fastest".to_owned(), clock)] },
        ]
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

/// The point of the search as limits: what is no lower than it was is left as it was.
pub(super) fn limits(point: Point, as_it_was: Point) -> Tries {
    let power = Some(point.limit.0).filter(|_| point.limit < as_it_was.limit);
    (power, Some(point.core.0).filter(|_| point.core < as_it_was.core))
}

#[cfg(test)]
mod tests {
    use rigd::units::{Megahertz, MicroPerKilowattHour, MicroPerTera};

    use super::*;

    fn tried(at_ms: u64, limits: (Option<u32>, Option<u32>), rate: u64, power_mw: u32) -> Tried {
        let measured = Measured { rate, power_mw, clock_mhz: Some(1_695), noise: 4, refused: 0 };
        Tried::new(at_ms, limits, Goal::PerJoule, &Ok(measured))
    }

    fn found() -> Found {
        let lower = (Some(220_000), None);
        let points = vec![
            tried(0, (None, None), 60_000_000_000, 350_000),
            tried(60_000, lower, 50_000_000_000, 220_000),
            Tried::new(120_000, (Some(220_000), Some(1_200)), Goal::PerJoule, &Err(Trouble::Xid)),
            tried(180_000, lower, 50_400_000_000, 220_000),
        ];
        let best = best(&points, lower, Goal::PerJoule);
        Found {
            payload: "miner".to_owned(),
            unit: Some(PayloadUnit::Hashes),
            gpus: vec!["GPU-1".to_owned()],
            goal: "efficiency",
            points,
            best,
            end: "found".to_owned(),
            took_ms: 240_000,
            profile: None,
        }
    }

    #[test]
    fn the_table_has_every_point_and_the_best_with_its_gain() {
        let expected = "           limit W  lock MHz        rate      W   MHz        score\n\
                        as it was        -         -  60.00 MH/s  350.0  1695  171.42 kH/J\n\
                        1              220         -  50.00 MH/s  220.0  1695  227.27 kH/J\n\
                        2              220      1200           -      -     -            -  the driver told of an error (Xid)\n\
                        3              220         -  50.40 MH/s  220.0  1695  229.09 kH/J\n\
                        best           220         -  50.20 MH/s  220.0     -  228.18 kH/J  +33.1 %\n";
        assert_eq!(found().table(Goal::PerJoule), expected);
    }

    #[test]
    fn the_gain_is_of_means_and_of_a_loss_too() {
        let goal = Goal::Margin { value: MicroPerTera(10), energy: MicroPerKilowattHour(300_000) };
        let of = |rate, power_mw| {
            let measured = Measured { rate, power_mw, clock_mhz: None, noise: 0, refused: 0 };
            Tried::new(0, (None, None), goal, &Ok(measured))
        };
        let best_of = |points: &[Tried]| best(points, (None, None), goal).unwrap();
        // It loses 105 000 millionths an hour, less what the work earns.
        let start = of(0, 350_000);
        assert_eq!((start.score, best_of(&[start]).gain_permille), (Some(-105_000), Some(0)));
        let half = Tried { limit_mw: Some(1), ..of(0, 175_000) };
        let found = best(&[start, half], (Some(1), None), goal).unwrap();
        assert_eq!(
            (found.score, found.gain_permille, gain(found.gain_permille)),
            (-52_500, Some(500), "+50.0 %".into())
        );
        assert_eq!(best(&[start], (Some(1), None), goal), None);
        assert_eq!((gain(Some(-7)), gain(Some(0)), gain(None)), ("-0.7 %".into(), "0.0 %".into(), String::new()));
    }

    #[test]
    fn what_is_no_lower_than_it_was_is_left_as_it_was() {
        let point = |limit, core| Point { limit: Milliwatts(limit), core: Megahertz(core), memory: None };
        let as_it_was = point(350_000, 1_700);
        for (tried, expected) in [
            (as_it_was, (None, None)),
            (point(340_000, 1_700), (Some(340_000), None)),
            (point(350_000, 1_685), (None, Some(1_685))),
            (point(360_000, 2_000), (None, None)),
        ] {
            assert_eq!(limits(tried, as_it_was), expected);
        }
    }

    #[test]
    fn picture_and_json_have_what_was_tried() {
        let steps = found().steps(Goal::PerJoule);
        assert_eq!(steps[0].title, "10³ units for a joule");
        let best: Vec<i64> = steps[0].lines[1].1.iter().map(|(_, score)| score / 1_000_000).collect();
        assert_eq!(best, [171_428, 227_272, 229_090]);
        let text = crate::plot::steps::terminal("t", (0, 240_000), steps);
        assert!(text.contains("a tried") && text.contains("b best so far"), "{text}");
        let json = serde_json::to_value(found()).unwrap();
        assert_eq!(json["points"][2]["trouble"], "xid");
        assert_eq!(json["points"][1]["measured"]["rate"], 50_000_000_000_u64);
        assert_eq!((&json["best"]["gain_permille"], &json["unit"]), (&331.into(), &"hashes".into()));
    }
}
