//! Shapes as pixels, and pixels as PNG. Lines are drawn at twice the size and then halved, which makes them smooth; texts are
//! drawn afterwards in a bitmap font, which is sharpest as it is.

use std::convert::Infallible;

use anyhow::Context;
use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_8X13_BOLD};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PointsIter};
use embedded_graphics::text::{Alignment, Text};

use super::picture::{Align, Colour, Edge, Picture, Shape};

/// How much larger lines are drawn.
const FINE: i32 = 2;

/// The picture as a file.
pub(super) fn draw(picture: &Picture) -> anyhow::Result<Vec<u8>> {
    let mut fine = Canvas::new(picture.width * FINE, picture.height * FINE);
    for shape in &picture.shapes {
        match shape {
            Shape::Line { points, width, colour } => fine.line(points, *width, *colour),
            Shape::Band { edges, colour } => fine.band(edges, *colour),
            Shape::Text { .. } => {}
        }
    }
    let mut canvas = fine.halved();
    for shape in &picture.shapes {
        if let Shape::Text { at, text, colour, align, bold } = shape {
            canvas.text(*at, text, *colour, *align, if *bold { &FONT_8X13_BOLD } else { &FONT_8X13 });
        }
    }
    canvas.encode().context("could not encode the picture")
}

struct Canvas {
    width: i32,
    height: i32,
    pixels: Vec<Colour>,
}

impl Canvas {
    fn new(width: i32, height: i32) -> Self {
        let pixels = usize::try_from(width).unwrap_or(0) * usize::try_from(height).unwrap_or(0);
        Self { width, height, pixels: vec![[0xff; 3]; pixels] }
    }

    fn pixel(&mut self, x: i32, y: i32) -> Option<&mut Colour> {
        let inside = (0..self.width).contains(&x) && (0..self.height).contains(&y);
        inside.then(|| usize::try_from(y * self.width + x).ok()).flatten().and_then(|i| self.pixels.get_mut(i))
    }

    /// A round brush along the way from point to point.
    fn line(&mut self, points: &[(i32, i32)], width: i32, colour: Colour) {
        let place = |(x, y): (i32, i32)| Point::new(x * FINE / 10, y * FINE / 10);
        let brush = brush(width * FINE);
        let ends = points.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
        let alone = points.first().map(|point| (*point, *point));
        for (from, to) in alone.into_iter().chain(ends) {
            for Point { x, y } in Line::new(place(from), place(to)).points() {
                for (dx, dy) in &brush {
                    self.pixel(x + dx, y + dy).into_iter().for_each(|pixel| *pixel = colour);
                }
            }
        }
    }

    /// Column by column, the edges joined by straight lines.
    fn band(&mut self, edges: &[Edge], colour: Colour) {
        let fine = |tenths: i32| tenths * FINE / 10;
        for pair in edges.windows(2) {
            let [a, b] = pair else { return };
            let (from, to) = (fine(a.x), fine(b.x));
            for x in from..to {
                let way = |a: i32, b: i32| fine(a) + (fine(b) - fine(a)) * (x - from) / (to - from);
                for y in way(a.top, b.top)..way(a.bottom, b.bottom) {
                    let blend = |below: u8, above: u8| below.midpoint(below.midpoint(above));
                    if let Some(pixel) = self.pixel(x, y) {
                        *pixel = [blend(pixel[0], colour[0]), blend(pixel[1], colour[1]), blend(pixel[2], colour[2])];
                    }
                }
            }
        }
    }

    /// Each pixel the mean of four.
    fn halved(mut self) -> Self {
        let mut half = Self::new(self.width / FINE, self.height / FINE);
        for y in 0..half.height {
            for x in 0..half.width {
                let mut sum = [0_u16; 3];
                for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                    let four = self.pixel(x * FINE + dx, y * FINE + dy).copied().unwrap_or([0xff; 3]);
                    sum.iter_mut().zip(four).for_each(|(sum, one)| *sum += u16::from(one));
                }
                if let Some(pixel) = half.pixel(x, y) {
                    *pixel = sum.map(|sum| u8::try_from(sum / 4).unwrap_or(u8::MAX));
                }
            }
        }
        half
    }

    fn text(&mut self, (x, y): (i32, i32), text: &str, colour: Colour, align: Align, font: &MonoFont<'_>) {
        let style = MonoTextStyle::new(font, Rgb888::new(colour[0], colour[1], colour[2]));
        let alignment = match align {
            Align::Left => Alignment::Left,
            Align::Middle => Alignment::Center,
            Align::Right => Alignment::Right,
        };
        let Ok(_) = Text::with_alignment(text, Point::new(x / 10, y / 10), style, alignment).draw(self);
    }

    fn encode(self) -> Result<Vec<u8>, ::png::EncodingError> {
        let mut bytes = Vec::new();
        let (width, height) = (u32::try_from(self.width).unwrap_or(0), u32::try_from(self.height).unwrap_or(0));
        let mut encoder = ::png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(::png::ColorType::Rgb);
        encoder.set_depth(::png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels.as_flattened())?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// The pixels of a disc around the origin, by its diameter in tenths of a pixel: those whose middle is in it. Of an even
/// number of pixels the middle is between four.
fn brush(diameter: i32) -> Vec<(i32, i32)> {
    let pixels = (diameter + 5) / 10;
    let middle = |at: i32| 20 * at - 10 * (pixels - 1);
    let inside = |(dx, dy): &(i32, i32)| middle(*dx).pow(2) + middle(*dy).pow(2) <= diameter.pow(2);
    let square = (0..pixels).flat_map(|dy| (0..pixels).map(move |dx| (dx, dy)));
    square.filter(inside).map(|(dx, dy)| (dx - (pixels - 1) / 2, dy - (pixels - 1) / 2)).collect()
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(u32::try_from(self.width).unwrap_or(0), u32::try_from(self.height).unwrap_or(0))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            if let Some(pixel) = self.pixel(at.x, at.y) {
                *pixel = [colour.r(), colour.g(), colour.b()];
            }
        }
        Ok(())
    }
}
