//! Quantities as people say them: volts and not millivolts, cut and not rounded, for a screen.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use rigd::reading::Missing;
use rigd::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts};
use rigd::wire::{self, Encoding, Header, Message};
use serde_json::Value;

/// What comes from others, without what could drive the operator's terminal or begin a line of its own.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Lines of ours, the same for each: what others said in them was made [`harmless`] before they were put together.
pub(crate) fn harmless_lines(text: &str) -> String {
    text.split('\n').map(harmless).collect::<Vec<_>>().join("\n")
}

/// `1 rig`, `2 rigs`.
pub(crate) fn count(number: usize, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

/// A message of a rig, with every text in it [`harmless`]; a log's lines are lines, and whoever shows them makes them [`harmless_lines`].
///
/// # Errors
/// Bytes that are no message of ours.
pub(crate) fn decode(bytes: &[u8]) -> anyhow::Result<(Header, Message)> {
    let (header, message) = wire::decode(bytes).map_err(|error| anyhow::anyhow!(harmless(&error.to_string())))?;
    if matches!(message, Message::Log(_)) {
        return Ok((header, message));
    }
    let mut value: Value = serde_json::from_slice(&message.encode(Encoding::Json, header))?;
    if !clean(&mut value) {
        return Ok((header, message));
    }
    wire::decode(value.to_string().as_bytes()).context("a text in it has control characters, and means nothing without")
}

/// Whether there was something to clean.
fn clean(value: &mut Value) -> bool {
    match value {
        Value::String(text) if text.contains(char::is_control) => {
            *text = harmless(text);
            true
        }
        Value::Array(all) => all.iter_mut().fold(false, |any, one| clean(one) | any),
        Value::Object(all) => all.values_mut().fold(false, |any, one| clean(one) | any),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What was done, for people or as one line of JSON.
pub(crate) fn say(json: bool, text: &str, value: &Value) -> anyhow::Result<()> {
    if json { crate::print(&format!("{value}\n")) } else { crate::print(text) }
}

/// Thousandths as units with so many decimals.
pub(crate) fn milli(value: impl Into<i64>, decimals: u32) -> String {
    let value: i64 = value.into();
    let magnitude = value.unsigned_abs();
    let step = 10_u64.pow(3 - decimals.min(3));
    // What is cut to nothing has no sign.
    let sign = if value < 0 && magnitude >= step { "-" } else { "" };
    if decimals == 0 {
        return format!("{sign}{}", magnitude / 1000);
    }
    let fraction = magnitude % 1000 / step;
    let width = usize::try_from(decimals).unwrap_or(0);
    format!("{sign}{}.{fraction:0width$}", magnitude / 1000)
}

/// A moment, ms since 1970.
pub(crate) fn time(unix_ms: u64) -> String {
    // The last moment that has a text: the end of the year 9999.
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms.min(253_402_300_799_000)));
    at.map_or_else(String::new, |at| humantime::format_rfc3339_seconds(at).to_string())
}

/// A time of so many seconds, in the largest unit of which there are two.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800.. => format!("{} d", seconds / 86_400),
    }
}

/// A reason that fits a column.
pub(crate) const fn short(missing: Missing) -> &'static str {
    match missing {
        Missing::NotPresent => "absent",
        Missing::Off => "off",
        Missing::Bus => "bus",
        Missing::Stale => "stale",
        Missing::Implausible => "absurd",
    }
}

/// Volts.
pub(crate) fn volts(voltage: Millivolts) -> String {
    milli(voltage.0, 3)
}

/// Amperes.
pub(crate) fn amperes(current: Milliamps) -> String {
    milli(current.0, 2)
}

/// Watts.
pub(crate) fn watts(power: Milliwatts) -> String {
    milli(power.0, 1)
}

/// Degrees.
pub(crate) fn celsius(temperature: Millicelsius) -> String {
    milli(temperature.0, 1)
}

/// Percent, to the nearest.
pub(crate) fn percent(duty: Duty) -> String {
    format!("{} %", (duty.hundredths() + 50) / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_rig_begins_a_line_or_drives_the_terminal() {
        let ack = wire::Ack {
            id: wire::CommandId([7; 16]),
            at_ms: 5,
            state: wire::AckState::Done(wire::Outcome::Lines(vec![
                "a\u{1b}[2Jb".to_owned(),
                "c\nrig-2: done".to_owned(),
            ])),
        };
        for encoding in [Encoding::Postcard, Encoding::Json] {
            let bytes = wire::encode(encoding, Header::new(wire::Kind::Ack, 1, 2), &ack);
            let (header, message) = decode(&bytes).unwrap();
            let Message::Ack(wire::Ack { state: wire::AckState::Done(wire::Outcome::Lines(lines)), .. }) = message
            else {
                panic!()
            };
            assert_eq!((header.seq, lines), (2, vec!["a\u{fffd}[2Jb".to_owned(), "c\u{fffd}rig-2: done".to_owned()]));
        }
        assert_eq!(harmless("a\n\r\t\u{7f}\u{85}b"), "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}b");
        assert_eq!(harmless_lines("a\u{7}\nb\n"), "a\u{fffd}\nb\n");
        assert!(decode(b"nothing").is_err());
    }

    #[test]
    fn thousandths_are_cut() {
        for (value, decimals, expected) in [
            (12_054, 3, "12.054"),
            (-1_259, 2, "-1.25"),
            (-5, 2, "0.00"),
            (43_690, 1, "43.6"),
            (-999, 0, "0"),
            (-1_000, 0, "-1"),
        ] {
            assert_eq!(milli(value, decimals), expected);
        }
        assert_eq!(percent(Duty::saturating(4_250)), "43 %");
        assert_eq!([119, 120, 7_200, 200_000].map(span), ["119 s", "2 min", "2 h", "2 d"]);
    }
}
