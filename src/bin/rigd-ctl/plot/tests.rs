use rigd::reading::{Missing, Reading};
use rigd::wire::Value;

use super::*;

/// A series with a range of 2 % around each reading.
fn series(quantity: Quantity, name: &str, values: impl Fn(i32) -> Reading<i32>) -> Series {
    let last: Vec<_> = (0..i32::try_from(SLOTS).unwrap()).map(|slot| Value(values(slot))).collect();
    let around = |sign: i32| last.iter().map(|value| Value(value.0.map(|value| value + sign * (value / 50)))).collect();
    let (low, high) = if quantity.has_range() { (around(-1), around(1)) } else { (Vec::new(), Vec::new()) };
    Series { quantity, name: name.to_owned(), last, low, high }
}

/// An hour of a rig on which things happened.
fn hour() -> (Head, Vec<Series>) {
    let mut all = vec![
        series(Quantity::Temperature, "intake", |slot| Ok(24_000 + slot)),
        series(Quantity::Temperature, "exhaust <1>", |slot| match slot {
            100..160 => Err(Missing::Bus),
            160..170 => Err(Missing::Stale),
            slot => Ok(45_000 + slot % 90 * 20),
        }),
        series(Quantity::RailPower, "gpu0", |_| Ok(220_000)),
        series(Quantity::RailPower, "gpu1", |_| Err(Missing::NotPresent)),
        series(Quantity::SupplyInput, "psu1", |slot| Ok(1_900_000 + slot * 100)),
        series(Quantity::SupplyOutput, "psu1", |slot| Ok(1_800_000 + slot * 100)),
        series(Quantity::FanDrive, "fan1", |slot| Ok(4_000 + slot)),
        series(Quantity::FanDrive, "fan2", |slot| Ok(4_000 + slot)),
        series(Quantity::ZoneDrive, "cards", |slot| Ok(4_000 + slot)),
    ];
    // A peak between two readings.
    all[2].high[400] = Value(Ok(431_000));
    let head = Head {
        rig: "rig-7".parse().unwrap(),
        simulated: true,
        unix_ms: 1_792_000_000_000,
        uptime_ms: u64::from(SLOTS) * SLOT_MS,
        slot_ms: SLOT_MS,
        slots: (0..SLOTS).collect(),
        series: all.len(),
    };
    (head, all)
}

fn arguments(line: &str) -> Arguments {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }
    let words = std::iter::once("plot").chain(line.split_whitespace());
    <Line as clap::Parser>::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).arguments
}

/// The chart of this command line.
fn chart(line: &str) -> Chart {
    let arguments = arguments(line);
    let (head, series) = select(&arguments, hour()).unwrap();
    Chart::new(&head, &series, arguments.since)
}

fn on_terminal(line: &str, width: usize) -> String {
    terminal::draw(&chart(line), &Screen { width, height: None, colours: false })
}

#[test]
fn a_terminal_shows_every_name_number_and_reason_and_fits() {
    for width in [40, 80, 200] {
        let text = on_terminal("", width);
        for expected in [
            "rig-7 · SIMULATED · until 2026-10-14 17:46:40 UTC",
            "Temperature, °C",
            "a intake 24.7 (23.5 to 25.2)",
            "b no reading: bus 5 min, stale 50 s",
            "a gpu0 220 (216 to 431)",
            "b gpu1 absent",
            "b no reading: not present 60 min",
            "a psu1 in 1972 (1862 to 2011)",
            // Three that were the same are one line.
            "a fan1, fan2, zone cards 47 (40 to 47)",
            "-60 min",
            "now",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        let plots = text.lines().filter(|line| line.contains(['┤', '│', '└']));
        assert!(plots.clone().count() >= 4 * 8, "{text}");
        assert!(plots.clone().all(|line| line.chars().count() <= width), "{text}");
        assert!(!text.contains('\x1b'));
    }
    // Where a line ends, its letter is.
    let text = on_terminal("--what watts --only psu1", 80);
    assert!([" a", " b"].iter().all(|key| text.lines().any(|line| line.ends_with(key))), "{text}");
}

#[test]
fn a_gap_is_a_gap_and_a_peak_is_a_peak() {
    let text = on_terminal("--only gpu0", 120);
    // The top of the axis is above all readings but the peak, and the peak reaches it.
    let peak =
        text.lines().filter(|line| line.contains('│') && line.contains(|c| ('\u{2801}'..='\u{28ff}').contains(&c)));
    assert!(peak.count() >= 2, "{text}");
    // From slot 100 to 170 of 720 nothing is drawn.
    let text = on_terminal("--only exhaust --what temperatures".replace("exhaust", "intake").as_str(), 120);
    assert!(columns(&text).len() > 100, "an unbroken line\n{text}");
    let mut arguments = arguments("--what temperatures");
    arguments.only = vec!["exhaust <1>".to_owned()];
    let (head, series) = select(&arguments, hour()).unwrap();
    let chart = Chart::new(&head, &series, arguments.since);
    let screen = Screen { width: 120, height: None, colours: false };
    let text = terminal::draw(&chart, &screen);
    let drawn = columns(&text);
    let gap = drawn.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(gap.is_some_and(|gap| (9..=13).contains(&gap)), "{gap:?}\n{text}");
    let runs = chart.panels[0].lines[0].runs(|point| point.last.ok());
    assert_eq!(runs.iter().map(Vec::len).collect::<Vec<_>>(), [100, 550]);
}

/// Columns of the first plot in which a dot is.
fn columns(text: &str) -> Vec<usize> {
    let rows = text.lines().filter(|line| line.contains(['┤', '│']));
    let mut columns: Vec<usize> = rows
        .flat_map(|row| row.chars().enumerate().filter(|(_, c)| ('\u{2801}'..='\u{28ff}').contains(c)))
        .map(|(column, _)| column)
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

#[test]
fn colours_change_nothing_but_the_colour() {
    let chart = chart("");
    let coloured = terminal::draw(&chart, &Screen { width: 90, height: Some(50), colours: true });
    let plain = terminal::draw(&chart, &Screen { width: 90, height: Some(50), colours: false });
    let mut stripped = String::new();
    for (i, part) in coloured.split('\x1b').enumerate() {
        stripped += if i == 0 { part } else { part.split_once('m').unwrap().1 };
    }
    let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&stripped), trimmed(&plain));
    assert!(
        coloured.lines().all(|line| !line.contains('\x1b') || line.contains("\x1b[0m")),
        "no line leaves its colour on"
    );
}

#[test]
fn an_svg_has_every_text_and_a_line_for_every_run() {
    let svg = svg::draw(&picture::draw(&chart("")));
    for expected in [
        "rig-7 · SIMULATED",
        "Temperature, °C",
        ">intake<",
        ">exhaust &lt;1&gt;<",
        ">gpu1<",
        ">absent<",
        "-50 min",
        ">now<",
    ] {
        assert!(svg.contains(expected), "{expected:?} is not in the picture");
    }
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    // Two of the exhaust, none of gpu1, one of everything else; drives have no band.
    assert_eq!(svg.matches("stroke-width=\"1.5\"").count(), 2 + 1 + 1 + 2 + 1);
    assert_eq!(svg.matches("<polygon").count(), 2 + 1 + 1 + 2);
}

#[test]
fn a_png_is_one_and_shows_the_same() {
    let picture = picture::draw(&chart(""));
    let bytes = super::png::draw(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    let mut reader = ::png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (1_240, u32::try_from(picture.height).unwrap()));
    let count = |colour: [u8; 3]| pixels.chunks(3).filter(|pixel| *pixel == colour).count();
    // Blue and orange of the first two lines, the black of the texts, and mostly paper.
    assert!(count([0x1f, 0x77, 0xb4]) > 1_000 && count([0xff, 0x7f, 0x0e]) > 500 && count([0x22; 3]) > 1_000);
    assert!(count([0xff; 3]) > pixels.len() / 3 / 2);
}

/// Nothing is drawn over something else, or outside.
#[test]
fn no_two_texts_of_a_picture_touch() {
    for line in ["", "--since 2m", "--since 7m", "--what watts", "--what duties"] {
        let picture = picture::draw(&chart(line));
        let mut boxes: Vec<(i32, i32, i32, i32, &str)> = Vec::new();
        for shape in &picture.shapes {
            let picture::Shape::Text { at: (x, y), text, align, .. } = shape else { continue };
            let width = 80 * i32::try_from(text.chars().count()).unwrap();
            let left = match align {
                picture::Align::Left => *x,
                picture::Align::Middle => x - width / 2,
                picture::Align::Right => x - width,
            };
            let place = (left, left + width, y - 100, y + 30, text.as_str());
            assert!(place.0 >= 0 && place.1 <= 10 * picture.width, "{text:?} is outside");
            assert!(place.3 <= 10 * picture.height, "{text:?} is below");
            let over = boxes.iter().find(|o| o.0 < place.1 && place.0 < o.1 && o.2 < place.3 && place.2 < o.3);
            assert!(over.is_none(), "{line:?}: {text:?} is over {:?}", over.unwrap().4);
            boxes.push(place);
        }
    }
}

#[test]
fn what_is_asked_for_is_what_is_given() {
    let selected = |line: &str| {
        let (head, series) = select(&arguments(line), hour()).unwrap();
        assert_eq!(head.series, series.len());
        assert!(series.iter().all(|series| series.last.len() == head.slots.len()));
        (head.slots.len(), series.into_iter().map(|series| series.name).collect::<Vec<_>>().join(" "))
    };
    let all = "intake exhaust <1> gpu0 gpu1 psu1 psu1 fan1 fan2 cards";
    for (line, expected) in [
        ("", (720, all)),
        ("--since 60m", (720, all)),
        ("--since 30m --what duties", (360, "fan1 fan2 cards")),
        ("--since 5s --what temperatures --only intake", (1, "intake")),
        ("--what watts --only gpu1,psu1", (720, "gpu1 psu1 psu1")),
        ("--only fan2 gpu0", (720, "gpu0 fan2")),
    ] {
        assert_eq!(selected(line), (expected.0, expected.1.to_owned()), "{line}");
    }
    let error = |line: &str, hour| select(&arguments(line), hour).unwrap_err().to_string();
    assert_eq!(
        error("--what watts --only intake", hour()),
        "`intake` is not of the watts: leave --what out; of them there are gpu0, gpu1, psu1"
    );
    assert_eq!(error("--what watts --only moon", hour()), "nothing is called `moon` here; there are gpu0, gpu1, psu1");
    let (mut head, series) = hour();
    head.slots.clear();
    assert_eq!(error("", (head, series)), "the agent has no readings yet: it has only just started");
    let (head, mut series) = hour();
    series.retain(|series| series.quantity == Quantity::Temperature);
    assert_eq!(error("--what watts", (head, series)), "the board of rig-7 has nothing of that kind");
}

#[test]
fn the_first_seconds_of_an_agent_are_a_chart_too() {
    let (mut head, mut series) = hour();
    head.slots.truncate(1);
    head.uptime_ms = 1_200;
    for one in &mut series {
        for values in [&mut one.last, &mut one.low, &mut one.high] {
            values.truncate(1);
        }
    }
    let chart = Chart::new(&head, &series, Duration::from_secs(3_600));
    assert_eq!(chart.from, -30_000);
    let text = terminal::draw(&chart, &Screen { width: 80, height: Some(24), colours: false });
    assert!(!columns(&text).is_empty());
    assert!(svg::draw(&picture::draw(&chart)).contains("polyline"));
    assert!(super::png::draw(&picture::draw(&chart)).is_ok());
}

#[test]
fn json_is_what_the_agent_said() {
    let text = json(hour().0, hour().1).unwrap();
    let lines: Vec<Reply> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[0], Reply::History(hour().0));
    assert_eq!(lines[4], Reply::Series(hour().1[3].clone()));
}

#[test]
fn a_time_is_one_that_the_agent_can_have() {
    for (text, expected) in [("5s", 5), ("90s", 90), ("30m", 1_800), ("1h", 3_600)] {
        assert_eq!(since(text), Ok(Duration::from_secs(expected)));
    }
    for text in ["0s", "4999ms", "3601s", "2h"] {
        assert_eq!(since(text).unwrap_err(), "must be 5s to 1h: the agent keeps an hour", "{text}");
    }
    assert!(since("10").unwrap_err().ends_with(": a time is like 90s, 30m or 1h"));
}

#[test]
fn a_picture_needs_a_name_that_says_which() {
    for name in ["rig", "rig.jpg", "png", ".png", "rig.svg.gz"] {
        assert!(Output::parse(name).is_err(), "{name}");
    }
    assert!(matches!(Output::parse("a/b.SVG"), Ok(Output::Svg(_))));
    assert!(matches!(Output::parse("b.png"), Ok(Output::Png(_))));
}
