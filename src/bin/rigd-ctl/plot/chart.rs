//! What is shown, before it is known where: panels of lines over one time.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use rigd::history::Quantity;
use rigd::local::{Head, Series};
use rigd::reading::{Missing, Reading};

use super::scale::{Axis, number};
use crate::people::short;

/// Everything, with its time in ms: 0 is now, and what was is below.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) from: i64,
    /// What 0 is called at the axis.
    pub(super) end: &'static str,
    pub(super) panels: Vec<Panel>,
}

/// Lines of one unit.
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// How many of the readings' units are one of the shown.
    pub(super) one: i64,
    /// Decimals of readings in the legend.
    pub(super) decimals: usize,
    /// From the lowest to the highest that must have a place.
    pub(super) span: (i64, i64),
    pub(super) lines: Vec<Line>,
}

/// One or more series that were the same all the time.
pub(super) struct Line {
    pub(super) names: Vec<String>,
    pub(super) points: Vec<Point>,
    slot_ms: i64,
}

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// Its end.
    pub(super) at: i64,
    pub(super) last: Reading<i64>,
    /// The lowest and the highest in it; of drives both are the last.
    pub(super) range: Reading<(i64, i64)>,
}

/// What a line comes to, as its legend says it.
pub(super) struct Summary {
    pub(super) last: String,
    pub(super) low: String,
    pub(super) high: String,
    /// Why there was no reading, and how long; empty where there always was one.
    pub(super) missing: String,
}

impl Chart {
    /// The chart of what was selected, as far back as `since` and as there is something.
    pub(super) fn new(head: &Head, series: &[Series], since: Duration) -> Self {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let now = ms(head.uptime_ms);
        let begin = head.slots.first().map_or(now, |slot| i64::from(*slot) * ms(head.slot_ms));
        let since = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let mut panels: BTreeMap<Kind, Vec<Line>> = BTreeMap::new();
        for one in series {
            let (kind, name) = Kind::of(one);
            let line = Line::new(head, one, name);
            let lines = panels.entry(kind).or_default();
            match lines.iter_mut().find(|known| known.points == line.points) {
                Some(same) => same.names.extend(line.names),
                None => lines.push(line),
            }
        }
        let simulated = if head.simulated { " · SIMULATED" } else { "" };
        let until = UNIX_EPOCH.checked_add(Duration::from_millis(head.unix_ms)).unwrap_or(UNIX_EPOCH);
        let until = humantime::format_rfc3339_seconds(until).to_string().replace('T', " ").replace('Z', " UTC");
        Self {
            title: format!("{}{simulated} · until {until}", head.rig),
            // At least a few slots wide, or a chart of the first moments would be all gap.
            from: (begin - now).max(since.saturating_neg()).min(-6 * ms(head.slot_ms)),
            end: "now",
            panels: panels.into_iter().map(|(kind, lines)| kind.panel(lines)).collect(),
        }
    }
}

/// The panels, from top to bottom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Temperature,
    Drive,
    Rails,
    Supplies,
}

impl Kind {
    /// Where a series belongs, and what it is called there.
    fn of(series: &Series) -> (Self, String) {
        // Nothing on a board is called so that it could drive a terminal, or break a file.
        let name: String =
            series.name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        match series.quantity {
            Quantity::Temperature => (Self::Temperature, name),
            Quantity::FanDrive => (Self::Drive, name),
            Quantity::ZoneDrive => (Self::Drive, format!("zone {name}")),
            Quantity::RailPower => (Self::Rails, name),
            Quantity::SupplyInput => (Self::Supplies, format!("{name} in")),
            Quantity::SupplyOutput => (Self::Supplies, format!("{name} out")),
        }
    }

    fn panel(self, lines: Vec<Line>) -> Panel {
        let ranges = || lines.iter().flat_map(|line| &line.points).filter_map(|point| point.range.ok());
        let low = ranges().map(|(low, _)| low).min().unwrap_or(0);
        let high = ranges().map(|(_, high)| high).max().unwrap_or(0);
        // What stands still must not look as if it jumped.
        let around = |least: i64| {
            let room = (least - (high - low)).max(0) / 2;
            (low - room, high + room)
        };
        // From zero, unless that would press all lines together at the top.
        let watts = if 2 * low <= high { (low.min(0), high.max(10_000)) } else { around(high / 10) };
        let (title, one, span) = match self {
            Self::Temperature => ("Temperature, °C", 1_000, around(4_000)),
            Self::Drive => ("Fan drive, %", 100, (0, 10_000)),
            Self::Rails => ("Rails, W", 1_000, watts),
            Self::Supplies => ("Supplies, W", 1_000, watts),
        };
        let decimals = usize::from(matches!(self, Self::Temperature) || span.1 < 100 * one);
        Panel { title, one, decimals, span, lines }
    }
}

impl Panel {
    /// Its axis of values, with at most so many steps.
    pub(super) fn axis(&self, most: i64) -> Axis {
        Axis::new(self.span.0, self.span.1, most)
    }

    /// A line's place in the legend.
    pub(super) fn summary(&self, line: &Line) -> Summary {
        let show = |value: Reading<i64>| match value {
            Ok(value) => number(value, self.one, self.decimals),
            Err(missing) => short(missing).to_owned(),
        };
        let ranges = || line.points.iter().filter_map(|point| point.range.ok());
        let extreme = |value: Option<i64>| value.map_or("-".to_owned(), |value| show(Ok(value)));
        let mut missing: BTreeMap<Missing, i64> = BTreeMap::new();
        for reason in line.points.iter().filter_map(|point| point.last.err()) {
            *missing.entry(reason).or_default() += line.slot_ms / 1_000;
        }
        let missing: Vec<String> =
            missing.into_iter().map(|(reason, seconds)| format!("{reason} {}", duration(seconds))).collect();
        Summary {
            last: line.points.last().map_or("-".to_owned(), |point| show(point.last)),
            low: extreme(ranges().map(|(low, _)| low).min()),
            high: extreme(ranges().map(|(_, high)| high).max()),
            missing: missing.join(", "),
        }
    }
}

impl Line {
    /// A line that has no gap, however far its points are apart.
    pub(super) fn whole(name: String, points: Vec<Point>) -> Self {
        Self { names: vec![name], points, slot_ms: i64::MAX }
    }

    fn new(head: &Head, series: &Series, name: String) -> Self {
        let slot_ms = i64::try_from(head.slot_ms).unwrap_or(i64::MAX);
        let now = i64::try_from(head.uptime_ms).unwrap_or(i64::MAX);
        let value = |values: &[rigd::wire::Value<i32>], i: usize| values.get(i).map(|value| value.0.map(i64::from));
        let points = head.slots.iter().enumerate().filter_map(|(i, slot)| {
            let last = value(&series.last, i)?;
            let low = value(&series.low, i).unwrap_or(last);
            let high = value(&series.high, i).unwrap_or(last);
            let range = low.and_then(|low| high.map(|high| (low, high)));
            Some(Point { at: ((i64::from(*slot) + 1) * slot_ms - now).min(0), last, range })
        });
        Self { names: vec![name], points: points.collect(), slot_ms }
    }

    /// Its points cut at every gap: where the agent took no sample, and where `value` has none.
    pub(super) fn runs<T>(&self, value: impl Fn(&Point) -> Option<T>) -> Vec<Vec<(i64, T)>> {
        let mut runs: Vec<Vec<(i64, T)>> = Vec::new();
        let mut before = None;
        for point in &self.points {
            // The slot that is not over yet is a little early.
            let joined = before.is_some_and(|before| point.at - before <= self.slot_ms);
            before = value(point).map(|value| {
                match runs.last_mut().filter(|_| joined) {
                    Some(run) => run.push((point.at, value)),
                    None => runs.push(vec![(point.at, value)]),
                }
                point.at
            });
        }
        runs
    }
}

fn duration(seconds: i64) -> String {
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", (seconds + 30) / 60) }
}
