//! Shapes as SVG 1.1.

use super::picture::{Align, Colour, Edge, Picture, Shape};

/// The picture as a file.
pub(super) fn draw(picture: &Picture) -> String {
    let Picture { width, height, shapes } = picture;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"monospace\" font-size=\"13\" fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for shape in shapes {
        text += &draw_one(shape);
    }
    text + "</svg>\n"
}

fn draw_one(shape: &Shape) -> String {
    match shape {
        Shape::Line { points, width, colour } => {
            // A line to where it began is what makes a dot of a point alone.
            let points: Vec<String> = match points.as_slice() {
                [one] => vec![point(*one); 2],
                points => points.iter().copied().map(point).collect(),
            };
            let (width, colour) = (tenths(*width), hex(*colour));
            format!("<polyline stroke=\"{colour}\" stroke-width=\"{width}\" points=\"{}\"/>\n", points.join(" "))
        }
        Shape::Band { edges, colour } => {
            let top = edges.iter().map(|Edge { x, top, .. }| point((*x, *top)));
            let bottom = edges.iter().rev().map(|Edge { x, bottom, .. }| point((*x, *bottom)));
            let points: Vec<String> = top.chain(bottom).collect();
            let colour = hex(*colour);
            format!("<polygon fill=\"{colour}\" fill-opacity=\"0.25\" points=\"{}\"/>\n", points.join(" "))
        }
        Shape::Text { at: (x, y), text, colour, align, bold } => {
            let anchor = match align {
                Align::Left => "start",
                Align::Middle => "middle",
                Align::Right => "end",
            };
            let weight = if *bold { " font-weight=\"bold\"" } else { "" };
            let (x, y, colour, text) = (tenths(*x), tenths(*y), hex(*colour), escape(text));
            format!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\" text-anchor=\"{anchor}\"{weight}>{text}</text>\n")
        }
    }
}

fn point((x, y): (i32, i32)) -> String {
    format!("{},{}", tenths(x), tenths(y))
}

fn tenths(value: i32) -> String {
    let sign = if value < 0 { "-" } else { "" };
    match value.abs() % 10 {
        0 => format!("{sign}{}", value.abs() / 10),
        rest => format!("{sign}{}.{rest}", value.abs() / 10),
    }
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// What XML would take for its own; names come from a board file.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_what_xml_takes() {
        for (value, expected) in [(0, "0"), (15, "1.5"), (-7, "-0.7"), (12_340, "1234")] {
            assert_eq!(tenths(value), expected);
        }
        assert_eq!(escape("<a & \"b\">"), "&lt;a &amp; \"b\"&gt;");
        let dot = Shape::Line { points: vec![(10, 20)], width: 15, colour: [1, 2, 255] };
        let expected = "<polyline stroke=\"#0102ff\" stroke-width=\"1.5\" points=\"1,2 1,2\"/>\n";
        assert_eq!(draw_one(&dot), expected);
    }
}
