//! Numbers that stay as they are until they jump, as a picture: what `rigd-ctl simulate` and `tune` draw.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::chart::{Chart, Line, Panel, Point};
use super::{picture, png, svg, terminal};

/// Lines of one unit.
pub(crate) struct Steps {
    pub(crate) title: &'static str,
    /// How many of the values' units are one of the shown.
    pub(crate) one: i64,
    /// Decimals in the legend.
    pub(crate) decimals: usize,
    /// Each by its name: from when, ms, which value; the earliest first.
    pub(crate) lines: Vec<(String, Vec<(u64, i64)>)>,
}

/// Writes the picture of these from one time to another, as SVG or as PNG.
pub(crate) fn write(path: &Path, is_svg: bool, title: &str, span: (u64, u64), steps: Vec<Steps>) -> anyhow::Result<()> {
    let picture = picture::draw(&chart(title, span, steps));
    let bytes = if is_svg { svg::draw(&picture).into_bytes() } else { png::draw(&picture)? };
    fs::write(path, bytes).with_context(|| format!("could not write {}", path.display()))
}

/// The same in characters, as wide as the terminal.
pub(crate) fn terminal(title: &str, span: (u64, u64), steps: Vec<Steps>) -> String {
    terminal::draw(&chart(title, span, steps), &super::screen())
}

pub(super) fn chart(title: &str, (from, to): (u64, u64), steps: Vec<Steps>) -> Chart {
    let ago = |ms: u64| i64::try_from(to.saturating_sub(ms)).unwrap_or(i64::MAX).saturating_neg();
    let panel = |Steps { title, one, decimals, lines }: Steps| {
        let all = || lines.iter().flat_map(|(_, values)| values).map(|(_, value)| *value);
        // Zero has its place: a price may be below it.
        let span = (all().min().unwrap_or(0).min(0), all().max().unwrap_or(0).max(one));
        let line = |(name, values): &(String, Vec<(u64, i64)>)| {
            let ends = values.iter().skip(1).map(|(from, _)| *from).chain([to]);
            let points = values.iter().zip(ends).flat_map(|((from, value), end)| {
                [*from, end].map(|at| Point { at: ago(at), last: Ok(*value), range: Ok((*value, *value)) })
            });
            Line::whole(name.clone(), points.collect())
        };
        Panel { title, one, decimals, span, lines: lines.iter().map(line).collect() }
    };
    Chart { title: title.to_owned(), from: ago(from), end: "end", panels: steps.into_iter().map(panel).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_goes_up_where_it_is_and_holds_until_the_next() {
        let lines = vec![("a".to_owned(), vec![(1_000, 1), (3_000, 2)])];
        let chart = chart("t", (1_000, 6_000), vec![Steps { title: "GPUs", one: 1, decimals: 0, lines }]);
        let runs = chart.panels[0].lines[0].runs(|point| point.last.ok());
        assert_eq!(runs, [[(-5_000, 1), (-3_000, 1), (-3_000, 2), (0, 2)]]);
        assert_eq!((chart.from, chart.panels[0].span), (-5_000, (0, 2)));
        let text = svg::draw(&picture::draw(&chart));
        assert!(text.contains(">GPUs<") && text.contains(">end<"), "{text}");
    }
}
