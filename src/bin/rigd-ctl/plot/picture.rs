//! The chart as shapes: where everything is, before it is known how a line is drawn. SVG and PNG render the same list.
//!
//! ```text
//! ┌ title ──────────────────────────────────────────────────┐
//! │ panel                                                   │
//! │  label ┤ plot                    │ legend: last low high│
//! │        └┬──────┬──────┬──────────┘                      │
//! └─────────────────────────────────────────────────────────┘
//! ```

use super::chart::{Chart, Line, Panel};
use super::scale::{Axis, number, place, times};

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// A point in tenths of a pixel, from the top left.
pub(super) type At = (i32, i32);

/// Shapes in the order in which they are drawn.
pub(super) struct Picture {
    /// In pixels.
    pub(super) width: i32,
    pub(super) height: i32,
    pub(super) shapes: Vec<Shape>,
}

/// Something to draw.
pub(super) enum Shape {
    /// Straight lines from point to point; a point alone is a dot. `width` in tenths of a pixel.
    Line { points: Vec<At>, width: i32, colour: Colour },
    /// What is between a top and a bottom that run from left to right; it lets shine through what is below.
    Band { edges: Vec<Edge>, colour: Colour },
    /// Monospaced, 13 pixels high and 8 wide a character; `at` is on the base line.
    Text { at: At, text: String, colour: Colour, align: Align, bold: bool },
}

/// The top and the bottom of a band at one x.
#[derive(Clone, Copy)]
pub(super) struct Edge {
    pub(super) x: i32,
    pub(super) top: i32,
    pub(super) bottom: i32,
}

/// Where in a text its point is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Middle,
    Right,
}

/// Told apart on white, and by most who see colours differently. Lighter ones for boards with more than ten rails.
const COLOURS: [Colour; 20] = [
    [0x1f, 0x77, 0xb4],
    [0xff, 0x7f, 0x0e],
    [0x2c, 0xa0, 0x2c],
    [0xd6, 0x27, 0x28],
    [0x94, 0x67, 0xbd],
    [0x8c, 0x56, 0x4b],
    [0xe3, 0x77, 0xc2],
    [0x17, 0xbe, 0xcf],
    [0xbc, 0xbd, 0x22],
    [0x7f, 0x7f, 0x7f],
    [0xae, 0xc7, 0xe8],
    [0xff, 0xbb, 0x78],
    [0x98, 0xdf, 0x8a],
    [0xff, 0x98, 0x96],
    [0xc5, 0xb0, 0xd5],
    [0xc4, 0x9c, 0x94],
    [0xf7, 0xb6, 0xd2],
    [0x9e, 0xda, 0xe5],
    [0xdb, 0xdb, 0x8d],
    [0xc7, 0xc7, 0xc7],
];
const BLACK: Colour = [0x22, 0x22, 0x22];
const GREY: Colour = [0x77, 0x77, 0x77];
const GRID: Colour = [0xe4, 0xe4, 0xe4];
const FRAME: Colour = [0xaa, 0xaa, 0xaa];

/// Pixels. The plot is between `LEFT` and `RIGHT`; the legend's columns end at these.
const WIDTH: i32 = 1_240;
const LEFT: i32 = 64;
const RIGHT: i32 = 884;
const NAME: i32 = 936;
const COLUMNS: [i32; 3] = [1_112, 1_168, 1_224];
const TOP: i32 = 48;
const PLOT: i32 = 190;
const ROW: i32 = 18;
/// Characters of a name, and of the words below it, in one row of the legend.
const NAME_WIDTH: usize = 15;
const NOTE_WIDTH: usize = 36;

/// The whole chart.
pub(super) fn draw(chart: &Chart) -> Picture {
    let mut page = Page(Vec::new());
    page.text((16, 26), &chart.title, BLACK, Align::Left, true);
    let mut top = TOP;
    for panel in &chart.panels {
        page.text((16, top + 14), panel.title, BLACK, Align::Left, true);
        let plot = (top + 30, top + 30 + PLOT);
        page.plot(chart, panel, plot);
        let legend = page.legend(panel, top + 14);
        // Below the plot are its times.
        top = legend.max(plot.1 + 22) + 22;
    }
    Picture { width: WIDTH, height: top, shapes: page.0 }
}

struct Page(Vec<Shape>);

impl Page {
    fn plot(&mut self, chart: &Chart, panel: &Panel, (top, bottom): (i32, i32)) {
        let axis = panel.axis(5);
        for tick in axis.ticks() {
            let y = axis.place(tick, (10 * bottom, 10 * top));
            self.line(vec![(10 * LEFT, y), (10 * RIGHT, y)], 10, GRID);
            let label = number(tick, panel.one, axis.decimals(panel.one));
            self.text((LEFT - 8, y / 10 + 4), &label, GREY, Align::Right, false);
        }
        for (time, label) in times(-chart.from, 10, chart.end) {
            let x = place(-time, chart.from..=0, (10 * LEFT, 10 * RIGHT));
            self.line(vec![(x, 10 * top), (x, 10 * bottom)], 10, GRID);
            self.text((x / 10, bottom + 18), &label, GREY, Align::Middle, false);
        }
        let corners = [(LEFT, top), (RIGHT, top), (RIGHT, bottom), (LEFT, bottom), (LEFT, top)];
        self.line(corners.map(|(x, y)| (10 * x, 10 * y)).to_vec(), 10, FRAME);
        let area = Area { axis, from: chart.from, top: 10 * top, bottom: 10 * bottom };
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            self.0.extend(area.bands(line).map(|edges| Shape::Band { edges, colour: *colour }));
        }
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            self.0.extend(area.lines(line).map(|points| Shape::Line { points, width: 15, colour: *colour }));
        }
    }

    /// Returns where it ends.
    fn legend(&mut self, panel: &Panel, top: i32) -> i32 {
        for (x, heading) in COLUMNS.into_iter().zip(["last", "low", "high"]) {
            self.text((x, top), heading, GREY, Align::Right, false);
        }
        let mut y = top + ROW + 4;
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            let summary = panel.summary(line);
            self.line(vec![(10 * (RIGHT + 20), 10 * y - 40), (10 * (NAME - 8), 10 * y - 40)], 30, *colour);
            for (x, value) in COLUMNS.into_iter().zip([&summary.last, &summary.low, &summary.high]) {
                self.text((x, y), value, BLACK, Align::Right, false);
            }
            for words in wrap(&line.names.join(", "), NAME_WIDTH) {
                self.text((NAME, y), &words, BLACK, Align::Left, false);
                y += ROW;
            }
            let note =
                if summary.missing.is_empty() { String::new() } else { format!("no reading: {}", summary.missing) };
            for words in wrap(&note, NOTE_WIDTH) {
                self.text((NAME, y), &words, GREY, Align::Left, false);
                y += ROW;
            }
        }
        y - ROW
    }

    fn line(&mut self, points: Vec<At>, width: i32, colour: Colour) {
        self.0.push(Shape::Line { points, width, colour });
    }

    fn text(&mut self, (x, y): (i32, i32), text: &str, colour: Colour, align: Align, bold: bool) {
        self.0.push(Shape::Text { at: (10 * x, 10 * y), text: text.to_owned(), colour, align, bold });
    }
}

/// Where a panel's values are.
struct Area {
    axis: Axis,
    from: i64,
    top: i32,
    bottom: i32,
}

impl Area {
    fn lines(&self, line: &Line) -> impl Iterator<Item = Vec<At>> {
        self.runs(line.runs(|point| point.last.ok()), |x, value| (x, self.y(value)))
    }

    /// Where there is something between the lowest and the highest.
    fn bands(&self, line: &Line) -> impl Iterator<Item = Vec<Edge>> {
        let edge = |x, (low, high)| Edge { x, top: self.y(high), bottom: self.y(low) };
        let bands = self.runs(line.runs(|point| point.range.ok()), edge);
        bands.filter(|edges| edges.iter().any(|edge| edge.top < edge.bottom))
    }

    fn runs<T: Copy, S>(&self, runs: Vec<Vec<(i64, T)>>, shape: impl Fn(i32, T) -> S) -> impl Iterator<Item = Vec<S>> {
        let x = |at| place(at, self.from..=0, (10 * LEFT, 10 * RIGHT));
        runs.into_iter()
            .map(move |run| run.iter().filter(|(at, _)| *at >= self.from).map(|(at, v)| shape(x(*at), *v)).collect())
            .filter(|run: &Vec<S>| !run.is_empty())
    }

    fn y(&self, value: i64) -> i32 {
        self.axis.place(value, (self.bottom, self.top))
    }
}

/// Rows of at most `width` characters, broken between words where there is a place. No row for no text.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    let pieces = text.split_whitespace().flat_map(|word| {
        let characters: Vec<char> = word.chars().collect();
        characters.chunks(width.max(1)).map(|piece| piece.iter().collect::<String>()).collect::<Vec<_>>()
    });
    for piece in pieces {
        match rows.last_mut().filter(|row| row.chars().count() + 1 + piece.chars().count() <= width) {
            Some(row) => *row += &format!(" {piece}"),
            None => rows.push(piece),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words_and_only_a_long_word_within() {
        for (text, expected) in [
            ("", &[][..]),
            ("fan1", &["fan1"]),
            ("fan1, fan2, fan3", &["fan1,", "fan2,", "fan3"]),
            ("a b c d", &["a b c", "d"]),
            ("left_front_fan a", &["left_f", "ront_f", "an a"]),
        ] {
            assert_eq!(wrap(text, 6), expected);
        }
    }
}
