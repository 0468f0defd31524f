//! ccminer's own form: `KEY=VALUE;KEY=VALUE|`, a record up to each bar (tpruvot/ccminer, api.cpp; a NUL may follow).

use crate::reading::{Missing, Reading};

/// The sum of this key's numbers over all records.
pub(super) fn sum(text: &[u8], whole: bool, key: &str) -> Reading<f64> {
    let text = String::from_utf8_lossy(text);
    let (records, cut) = records(&text, whole);
    let mut sum = None;
    for value in values(records, key) {
        let number: f64 = value.parse().map_err(|_| Missing::Implausible)?;
        sum = Some(sum.unwrap_or(0.0) + number);
    }
    // Behind the break there may be a further record; the first is complete in itself.
    let several = records.contains('|');
    match sum {
        Some(sum) if !cut || !several => Ok(sum),
        None if !cut => Err(Missing::NotPresent),
        Some(_) | None => Err(Missing::Bus),
    }
}

/// This key's text in the first record that has it.
pub(super) fn text(text: &[u8], whole: bool, key: &str) -> Reading<String> {
    let text = String::from_utf8_lossy(text);
    let (records, cut) = records(&text, whole);
    let absent = if cut { Missing::Bus } else { Missing::NotPresent };
    values(records, key).next().map(str::to_owned).ok_or(absent)
}

/// What is sure to be complete, and whether anything was broken off.
fn records(text: &str, whole: bool) -> (&str, bool) {
    let text = text.trim_end_matches(['\0', ' ', '\r', '\n']);
    match text.strip_suffix('|') {
        Some(records) => (records, !whole),
        None => (text.rfind([';', '|']).and_then(|end| text.get(..end)).unwrap_or_default(), true),
    }
}

fn values<'a>(records: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = records.split([';', '|']).filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(name, _)| name.trim() == key).map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_summed_over_the_records_that_are_complete() {
        let one = "NAME=ccminer;API=1.9;KHS=153232.61;ACC=30;REJ=;UPTIME=492|\0";
        let two = "GPU=0;KHS=10.5;ACC=1|GPU=1;KHS=0.5;ACC=2|";
        for (text, whole, key, expected) in [
            (one, true, "KHS", Ok(153_232.61)),
            (one, true, "REJ", Err(Missing::NotPresent)),
            (one, true, "NAME", Err(Missing::Implausible)),
            (one, true, "HS", Err(Missing::NotPresent)),
            (&one[..40], true, "KHS", Ok(153_232.61)),
            (&one[..28], true, "KHS", Err(Missing::Bus)),
            (&one[..40], true, "UPTIME", Err(Missing::Bus)),
            (two, true, "KHS", Ok(11.0)),
            (two, false, "KHS", Err(Missing::Bus)),
            (&two[..30], true, "KHS", Err(Missing::Bus)),
            ("", true, "KHS", Err(Missing::Bus)),
        ] {
            assert_eq!(sum(text.as_bytes(), whole, key), expected, "{text} {key}");
        }
        assert_eq!(super::text(one.as_bytes(), true, "NAME"), Ok("ccminer".to_owned()));
    }
}
