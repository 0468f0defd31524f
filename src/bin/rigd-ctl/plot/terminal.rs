//! The chart in characters: lines of braille dots, eight to a character, with a letter at the end of each.

use super::chart::{Chart, Line, Panel, Summary};
use super::scale::{Axis, number, place, times};

/// Where it goes.
pub(super) struct Screen {
    pub(super) width: usize,
    /// Of a terminal; a file has no height.
    pub(super) height: Option<usize>,
    pub(super) colours: bool,
}

/// Of xterm's 256 colours, in the order of the lines; they are told apart by letters too.
const COLOURS: [u8; 10] = [33, 208, 34, 160, 135, 130, 205, 37, 142, 245];
const KEYS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// Letters side by side at the right edge; where more lines end in one row, a `+` stands for the rest.
const MOST_KEYS: usize = 8;
/// Characters that a chart needs at least.
const NARROWEST: usize = 30;

/// All panels, one below the other.
pub(super) fn draw(chart: &Chart, screen: &Screen) -> String {
    let width = screen.width.max(NARROWEST);
    let mut text = format!("{}\n", chart.title);
    for panel in &chart.panels {
        let legend = legend(panel, width, screen.colours);
        let around = 4 + legend.lines().count();
        let share = screen.height.map_or(14, |height| height.saturating_sub(2) / chart.panels.len().max(1));
        let rows = share.saturating_sub(around).clamp(7, 24);
        text += &format!("\n{}\n", panel.title);
        text += &plot(chart, panel, width, rows, screen.colours);
        text += &legend;
    }
    text
}

fn plot(chart: &Chart, panel: &Panel, width: usize, rows: usize, colours: bool) -> String {
    let axis = panel.axis(i64::try_from(rows / 2).unwrap_or(4).min(6));
    let mut canvas = Canvas::new(rows, axis, chart.from);
    let labels: Vec<(usize, String)> =
        axis.ticks().map(|tick| (canvas.row_of(tick), number(tick, panel.one, axis.decimals(panel.one)))).collect();
    let left = labels.iter().map(|(_, label)| label.len()).max().unwrap_or(0);
    let keys = keys(panel, &canvas);
    let right = keys.iter().map(|row| row.len()).max().unwrap_or(0);
    canvas.widen(width.saturating_sub(left + right + 3).max(10));
    for (index, line) in panel.lines.iter().enumerate() {
        canvas.line(line, index);
    }
    let mut text = String::new();
    for (row, cells) in canvas.cells.chunks(canvas.columns).enumerate() {
        let label = labels.iter().find(|(at, _)| *at == row).map(|(_, label)| label.as_str());
        text += &format!("{:>left$} {}", label.unwrap_or_default(), if label.is_some() { '┤' } else { '│' });
        let mut pen = Pen::new(colours);
        for cell in cells {
            match cell.dots {
                0 if label.is_some() => pen.grey(&mut text, '┈'),
                0 => pen.put(&mut text, ' ', None),
                dots => pen.put(&mut text, braille(dots), Some(cell.line)),
            }
        }
        pen.lift(&mut text);
        text.push(' ');
        for key in keys.get(row).into_iter().flatten() {
            match *key {
                Some(line) => pen.put(&mut text, letter(line), Some(line)),
                None => pen.put(&mut text, '+', None),
            }
        }
        pen.lift(&mut text);
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text + &time_axis(chart, left, canvas.columns)
}

/// The letters at the right edge, row by row: those of the lines that end there.
fn keys(panel: &Panel, canvas: &Canvas) -> Vec<Vec<Option<usize>>> {
    let mut keys = vec![Vec::new(); canvas.rows];
    for (index, line) in panel.lines.iter().enumerate() {
        let last = line.points.last().and_then(|point| point.last.ok());
        let row = last.and_then(|value| keys.get_mut(canvas.row_of(value)));
        row.into_iter().for_each(|row| row.push(Some(index)));
    }
    for row in keys.iter_mut().filter(|row| row.len() > MOST_KEYS) {
        row.truncate(MOST_KEYS - 1);
        row.push(None);
    }
    keys
}

/// Marks and labels below the plot; a label that would touch its neighbour is left out.
fn time_axis(chart: &Chart, left: usize, columns: usize) -> String {
    let mut marks = vec!['─'; columns];
    let mut labels = vec![' '; left + 2 + columns + 4];
    let most = i64::try_from(columns / 12).unwrap_or(1).max(1);
    let end = i32::try_from(columns - 1).unwrap_or(i32::MAX);
    let mut free = labels.len();
    for (time, label) in times(-chart.from, most, chart.end) {
        let column = usize::try_from(place(-time, chart.from..=0, (0, end))).unwrap_or(0);
        let start = (left + 2 + column).saturating_sub(label.len() / 2);
        let start = start.min(labels.len() - label.len());
        marks.iter_mut().skip(column).take(1).for_each(|mark| *mark = '┬');
        if start + label.len() < free {
            labels.iter_mut().skip(start).zip(label.chars()).for_each(|(place, c)| *place = c);
            free = start;
        }
    }
    let line = |characters: Vec<char>| characters.into_iter().collect::<String>();
    format!("{:left$} └{}\n{}\n", "", line(marks), line(labels).trim_end())
}

/// What each letter is, as many side by side as fit; below it, why there were no readings.
fn legend(panel: &Panel, width: usize, colours: bool) -> String {
    let (mut entries, mut notes) = (Vec::new(), Vec::new());
    for (index, line) in panel.lines.iter().enumerate() {
        let Summary { last, low, high, missing } = panel.summary(line);
        let range = if low == high { String::new() } else { format!(" ({low} to {high})") };
        entries.push((index, format!("{} {last}{range}", line.names.join(", "))));
        notes.extend((!missing.is_empty()).then(|| (index, format!("no reading: {missing}"))));
    }
    let column = entries.iter().map(|(_, entry)| entry.chars().count() + 5).max().unwrap_or(0);
    let side_by_side = (width / column.max(1)).max(1);
    let mut text = String::new();
    for row in entries.chunks(side_by_side).chain(notes.chunks(1)) {
        let mut pen = Pen::new(colours);
        for (index, entry) in row {
            pen.put(&mut text, ' ', None);
            pen.put(&mut text, letter(*index), Some(*index));
            pen.lift(&mut text);
            text += &format!(" {entry:<pad$}", pad = column - 3);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

fn letter(line: usize) -> char {
    KEYS.chars().cycle().nth(line).unwrap_or('?')
}

/// A character of so many dots: bit 0 to 7 as Unicode numbers them.
fn braille(dots: u8) -> char {
    char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ')
}

/// Changes the colour only where it changes.
struct Pen {
    colours: bool,
    now: Option<u8>,
}

impl Pen {
    const fn new(colours: bool) -> Self {
        Self { colours, now: None }
    }

    fn put(&mut self, text: &mut String, character: char, line: Option<usize>) {
        let colour = line.and_then(|line| COLOURS.iter().cycle().nth(line).copied());
        // Space has no colour of its own.
        self.to(text, if character == ' ' { self.now } else { colour });
        text.push(character);
    }

    fn grey(&mut self, text: &mut String, character: char) {
        self.to(text, Some(238));
        text.push(character);
    }

    fn lift(&mut self, text: &mut String) {
        self.to(text, None);
    }

    fn to(&mut self, text: &mut String, colour: Option<u8>) {
        if self.colours && colour != self.now {
            *text += &colour.map_or("\x1b[0m".to_owned(), |colour| format!("\x1b[38;5;{colour}m"));
            self.now = colour;
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Cell {
    dots: u8,
    /// Whose colour it has: that of the first line to come here.
    line: usize,
}

/// Dots, two by four in a cell.
struct Canvas {
    columns: usize,
    rows: usize,
    axis: Axis,
    from: i64,
    cells: Vec<Cell>,
}

impl Canvas {
    fn new(rows: usize, axis: Axis, from: i64) -> Self {
        Self { columns: 0, rows, axis, from, cells: Vec::new() }
    }

    fn widen(&mut self, columns: usize) {
        self.columns = columns;
        self.cells = vec![Cell::default(); columns * self.rows];
    }

    /// Rows of dots, from the top.
    fn y(&self, value: i64) -> i32 {
        self.axis.place(value, (i32::try_from(4 * self.rows).unwrap_or(i32::MAX) - 1, 0))
    }

    fn x(&self, at: i64) -> i32 {
        place(at, self.from..=0, (0, i32::try_from(2 * self.columns).unwrap_or(i32::MAX) - 1))
    }

    fn row_of(&self, value: i64) -> usize {
        usize::try_from(self.y(value) / 4).unwrap_or(0)
    }

    /// A line: from reading to reading, and at each from the lowest to the highest.
    fn line(&mut self, line: &Line, index: usize) {
        let shown = |at: &i64| *at >= self.from;
        let runs = line.runs(|point| point.last.ok());
        let ranges = line.runs(|point| point.range.ok());
        let mut strokes = Vec::new();
        for run in &runs {
            let dots: Vec<(i32, i32)> =
                run.iter().filter(|(at, _)| shown(at)).map(|(at, value)| (self.x(*at), self.y(*value))).collect();
            strokes.extend(dots.first().map(|first| (*first, *first)));
            strokes.extend(dots.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))));
        }
        for (at, (low, high)) in ranges.iter().flatten().filter(|(at, _)| shown(at)) {
            strokes.push(((self.x(*at), self.y(*low)), (self.x(*at), self.y(*high))));
        }
        for (from, to) in strokes {
            self.stroke(from, to, index);
        }
    }

    fn stroke(&mut self, from: (i32, i32), to: (i32, i32), line: usize) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
        for i in 0..=steps {
            let way = |a: i32, b: i32| place(i64::from(i), 0..=i64::from(steps), (a, b));
            self.dot(way(from.0, to.0), way(from.1, to.1), line);
        }
    }

    fn dot(&mut self, x: i32, y: i32, line: usize) {
        /// Bits of a cell's dots, row by row.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        let bit = BITS.get(y % 4).and_then(|row| row.get(x % 2)).copied().unwrap_or(0);
        if let Some(cell) = self.cells.get_mut(y / 4 * self.columns + x / 2) {
            if cell.dots == 0 {
                cell.line = line;
            }
            cell.dots |= bit;
        }
    }
}
