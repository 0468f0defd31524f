//! Numbers out of Prometheus' text exposition format: a sample a line, all samples of a name together, and a line feed
//! after the last (prometheus.io, "Exposition formats").

use crate::reading::{Missing, Reading};

/// The sum of all samples of this name that have these labels.
///
/// Where the text broke off, a sum counts only if samples of another name follow it: until then more of its own may have
/// stood behind the break.
pub(super) fn sum(text: &[u8], whole: bool, name: &str, labels: &[(String, String)]) -> Reading<f64> {
    // What has no line feed behind it may be half a line.
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let cut = !whole || end < text.len();
    let lines = text.get(..end).unwrap_or_default();
    let mut sum = None;
    let mut followed = false;
    for line in String::from_utf8_lossy(lines).lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let same = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ', '\t']));
        followed = !same;
        if same {
            // A sample that cannot be read would leave the sum short.
            let (of, value) = sample(line).ok_or(Missing::Implausible)?;
            if labels.iter().all(|label| of.contains(label)) {
                sum = Some(sum.unwrap_or(0.0) + value);
            }
        }
    }
    match sum {
        Some(sum) if followed || !cut => Ok(sum),
        None if !cut => Err(Missing::NotPresent),
        Some(_) | None => Err(Missing::Bus),
    }
}

/// Labels and value of a sample's line; a time may follow and does not matter.
fn sample(line: &str) -> Option<(Vec<(String, String)>, f64)> {
    let end = if line.contains('{') { line.rfind('}')? + 1 } else { line.find(char::is_whitespace)? };
    let (series, rest) = line.split_at_checked(end)?;
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((labels(split(series)?.1)?, value))
}

/// A series as its name and what stands in its braces.
pub(super) fn split(series: &str) -> Option<(&str, &str)> {
    match series.split_once('{') {
        None => Some((series, "")),
        Some((name, rest)) => Some((name, rest.strip_suffix('}')?)),
    }
}

/// `a="1",b="2"`; backslash, quote and line feed are escaped in a value, and a comma may stand at the end.
pub(super) fn labels(text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let mut value = String::new();
        let mut chars = after.trim_start().strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                plain => value.push(plain),
            }
        }
        labels.push((name.trim().to_owned(), value));
        let after = chars.as_str().trim_start();
        if after.is_empty() {
            break;
        }
        rest = after.strip_prefix(',')?.trim_start();
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x Things. x{a=\"9\"} 99\n# TYPE x counter\nx{a=\"1\",r=\"stop\"} 8.128902e+06\nx{a=\"2\",r=\"a, }b\"} 2 1720000000000\nx_total 5\n\nnan NaN\nbad{a=\"1} 3\nbad2 three\nlast 7\n";

    fn read(text: &str, whole: bool, series: &str) -> Reading<f64> {
        let (name, text_of_labels) = split(series).unwrap();
        sum(text.as_bytes(), whole, name, &labels(text_of_labels).unwrap())
    }

    #[test]
    fn samples_of_a_name_are_summed_by_their_labels() {
        for (series, expected) in [
            ("x", Ok(8_128_904.0)),
            ("x{a=\"2\"}", Ok(2.0)),
            ("x{r=\"a, }b\"}", Ok(2.0)),
            ("x{a=\"3\"}", Err(Missing::NotPresent)),
            ("x_total", Ok(5.0)),
            ("x_tot", Err(Missing::NotPresent)),
            ("bad", Err(Missing::Implausible)),
            ("bad2", Err(Missing::Implausible)),
            ("last", Ok(7.0)),
        ] {
            assert_eq!(read(TEXT, true, series), expected, "{series}");
        }
        assert!(read(TEXT, true, "nan").is_ok_and(f64::is_nan));
    }

    #[test]
    fn a_sum_counts_only_if_nothing_of_it_can_be_behind_the_break() {
        let text = "x{a=\"1\"} 10\nx{a=\"2\"} 20\ny 3\nz 45\n";
        for (end, whole, series, expected) in [
            (text.len(), true, "z", Ok(45.0)),
            (text.len(), false, "z", Err(Missing::Bus)),
            (text.len(), false, "y", Ok(3.0)),
            (text.len() - 1, true, "z", Err(Missing::Bus)),
            (text.len() - 2, true, "y", Err(Missing::Bus)),
            (13, true, "x", Err(Missing::Bus)),
            (30, true, "x", Ok(30.0)),
            (0, true, "x", Err(Missing::NotPresent)),
        ] {
            assert_eq!(read(&text[..end], whole, series), expected, "{end} {series}");
        }
    }
}
