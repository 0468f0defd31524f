//! JSON that may be broken off: what was complete before the break is kept, what was not says so.
//!
//! Miners send JSON that ends in the middle (xmrig/xmrig, issue 3363: after `"threads": [`; bzminer/bzminer, issue 112: after
//! eight cards) and JSON that never was any (cgminer's heirs). Closing brackets until a parser is content would make a sum over eight cards of
//! twelve look like a sum; so the tree is filled in place while serde_json reads, and each list and table knows whether
//! its end was seen. The last number before a break may itself be broken (`12` of `1234`) and counts as not read.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::mend;
use super::place::Step;
use crate::reading::{Missing, Reading};

/// One value; names stand in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// The text broke off before this value was complete.
    Cut,
    /// `null`.
    Nothing,
    Flag(bool),
    Number(f64),
    Text(String),
    List {
        items: Vec<Node>,
        whole: bool,
    },
    Table {
        entries: Vec<(String, Node)>,
        whole: bool,
    },
}

/// Reads as much as can be read. Whatever follows the first value is left alone: cgminer ends its own with a NUL.
pub(super) fn parse(bytes: &[u8]) -> Node {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}');
    let mut node = Node::Cut;
    if fill(text, &mut node).is_some_and(|error| !error.is_eof()) {
        node = Node::Cut;
        fill(&mend::mend(text), &mut node);
    }
    node
}

/// Fills as much as can be read; why it ended early.
fn fill(text: &str, node: &mut Node) -> Option<serde_json::Error> {
    // As bytes: all else in JSON comes so, and for a text there would be a second reader in the agent.
    let error = Fill(node).deserialize(&mut serde_json::Deserializer::from_slice(text.as_bytes())).err();
    if error.is_some() {
        doubt_last(node);
    }
    error
}

/// The last number before a break may be only the beginning of one.
fn doubt_last(node: &mut Node) {
    match node {
        Node::Number(_) => *node = Node::Cut,
        Node::List { items, whole: false } => {
            if let Some(last) = items.last_mut() {
                doubt_last(last);
            }
        }
        Node::Table { entries, whole: false } => {
            if let Some((_, last)) = entries.last_mut() {
                doubt_last(last);
            }
        }
        Node::List { .. } | Node::Table { .. } | Node::Cut | Node::Nothing | Node::Flag(_) | Node::Text(_) => {}
    }
}

/// Fills the place that it is given, so that an error higher up loses nothing that was read. serde_json goes 128 levels
/// deep and no further; the answer's bound of 256 KiB is at most 128 Ki values of 32 bytes, 12 MiB while their list grows,
/// and only for the time of one reading.
struct Fill<'a>(&'a mut Node);

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        *self.0 = Node::Nothing;
        Ok(())
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        *self.0 = Node::Flag(flag);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        *self.0 = Node::Number(number);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a count above 2^53 is good to one part in 10^15")]
    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        *self.0 = Node::Number(number as f64);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a count below -2^53 is as implausible as its neighbour")]
    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        *self.0 = Node::Number(number as f64);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        *self.0 = Node::Text(text.to_owned());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        *self.0 = Node::List { items: Vec::new(), whole: false };
        let Node::List { items, whole } = self.0 else { return Ok(()) };
        loop {
            let mut item = Node::Cut;
            let read = access.next_element_seed(Fill(&mut item));
            // Nothing begun is nothing there: a break after a number must find that number as the last.
            if item != Node::Cut {
                items.push(item);
            }
            if read?.is_none() {
                *whole = true;
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        *self.0 = Node::Table { entries: Vec::new(), whole: false };
        let Node::Table { entries, whole } = self.0 else { return Ok(()) };
        while let Some(key) = access.next_key::<String>()? {
            let mut value = Node::Cut;
            let read = access.next_value_seed(Fill(&mut value));
            entries.push((key, value));
            read?;
        }
        *whole = true;
        Ok(())
    }
}

impl Node {
    /// The sum of all numbers that the steps lead to.
    pub(super) fn sum(&self, steps: &[Step]) -> Reading<f64> {
        let mut found = Vec::new();
        self.find(steps, &mut found)?;
        let mut sum = None;
        for value in found {
            match value.as_ref().number() {
                Ok(number) => sum = Some(sum.unwrap_or(0.0) + number),
                // A card that says nothing adds nothing.
                Err(Missing::NotPresent) => {}
                Err(reason) => return Err(reason),
            }
        }
        sum.ok_or(Missing::NotPresent)
    }

    /// The one text, or the one number as text, that the steps lead to.
    pub(super) fn text(&self, steps: &[Step]) -> Reading<String> {
        let mut found = Vec::new();
        self.find(steps, &mut found)?;
        match found.first().map(Cow::as_ref) {
            Some(Self::Text(text)) => Ok(text.clone()),
            Some(Self::Number(number)) => Ok(number.to_string()),
            Some(Self::Flag(flag)) => Ok(flag.to_string()),
            Some(Self::Cut) => Err(Missing::Bus),
            Some(Self::Nothing | Self::List { .. } | Self::Table { .. }) | None => Err(Missing::NotPresent),
        }
    }

    fn number(&self) -> Reading<f64> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Text(text) if text.trim().is_empty() => Err(Missing::NotPresent),
            Self::Text(text) => text.trim().parse().map_err(|_| Missing::Implausible),
            Self::Cut => Err(Missing::Bus),
            Self::Nothing => Err(Missing::NotPresent),
            Self::Flag(_) | Self::List { .. } | Self::Table { .. } => Err(Missing::Implausible),
        }
    }

    /// Follows the steps; what may have stood behind the break is [`Missing::Bus`] and not absent.
    fn find<'a>(&'a self, steps: &[Step], found: &mut Vec<Cow<'a, Self>>) -> Reading<()> {
        let Some((step, rest)) = steps.split_first() else {
            found.push(Cow::Borrowed(self));
            return Ok(());
        };
        let (children, whole): (Vec<(Option<&str>, &Self)>, bool) = match self {
            Self::List { items, whole } => (items.iter().map(|item| (None, item)).collect(), *whole),
            Self::Table { entries, whole } => {
                (entries.iter().map(|(name, value)| (Some(name.as_str()), value)).collect(), *whole)
            }
            Self::Cut => return Err(Missing::Bus),
            Self::Nothing | Self::Flag(_) | Self::Number(_) | Self::Text(_) => return Err(Missing::NotPresent),
        };
        let absent = if whole { Missing::NotPresent } else { Missing::Bus };
        match step {
            Step::Name(wanted) => {
                let index = wanted.parse::<usize>().ok();
                let child = children.iter().enumerate().rev().find(|(at, (name, _))| match name {
                    Some(name) => name == wanted,
                    None => Some(*at) == index,
                });
                child.ok_or(absent)?.1.1.find(rest, found)
            }
            Step::Every | Step::Only | Step::Count if !whole => Err(Missing::Bus),
            Step::Every => {
                for (_, child) in children {
                    match child.find(rest, found) {
                        Ok(()) | Err(Missing::NotPresent) => {}
                        Err(reason) => return Err(reason),
                    }
                }
                Ok(())
            }
            Step::Only => match children.as_slice() {
                [] => Err(Missing::NotPresent),
                [(_, child)] => child.find(rest, found),
                [_, _, ..] => Err(Missing::Implausible),
            },
            Step::Count => {
                let count = u32::try_from(children.len()).map_err(|_| Missing::Implausible)?;
                found.push(Cow::Owned(Self::Number(f64::from(count))));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::super::place::Place;
    use super::*;

    fn sum(text: &str, pointer: &str) -> Reading<f64> {
        let Ok(Place::Json(steps)) = Place::parse(Format::Json, pointer) else { panic!("{pointer}") };
        parse(text.as_bytes()).sum(&steps)
    }

    #[test]
    fn a_pointer_finds_its_number() {
        let text = r#"{"a": {"b/c": [1, {"d e": "2.5"}, null]}, "n": null, "t": "x", "u": " ", "f": true, "a~": 7}"#;
        for (pointer, expected) in [
            ("/a/b~1c/0", Ok(1.0)),
            ("/a/b~1c/1/d e", Ok(2.5)),
            ("/a/b~1c/#", Ok(3.0)),
            ("/a~0", Ok(7.0)),
            ("/a/b~1c/2", Err(Missing::NotPresent)),
            ("/a/b~1c/3", Err(Missing::NotPresent)),
            ("/n", Err(Missing::NotPresent)),
            ("/n/deeper", Err(Missing::NotPresent)),
            ("/u", Err(Missing::NotPresent)),
            ("/t", Err(Missing::Implausible)),
            ("/f", Err(Missing::Implausible)),
            ("/a", Err(Missing::Implausible)),
            ("/z", Err(Missing::NotPresent)),
        ] {
            assert_eq!(sum(text, pointer), expected, "{pointer}");
        }
    }

    #[test]
    fn stars_sum_and_a_question_mark_wants_exactly_one() {
        let text = r#"{"cards": [{"hs": 10, "x": [1]}, {"hs": null}, {"hs": 5}], "one": {"kawpow": 3}, "two": {"a": 1, "b": 2}, "none": {}}"#;
        for (pointer, expected) in [
            ("/cards/*/hs", Ok(15.0)),
            ("/cards/*/x/0", Ok(1.0)),
            ("/cards/*/y", Err(Missing::NotPresent)),
            ("/one/?", Ok(3.0)),
            ("/two/?", Err(Missing::Implausible)),
            ("/two/*", Ok(3.0)),
            ("/none/?", Err(Missing::NotPresent)),
        ] {
            assert_eq!(sum(text, pointer), expected, "{pointer}");
        }
    }

    #[test]
    fn what_was_complete_before_the_break_counts_and_nothing_else() {
        let text = r#"{"id": 1, "cards": [{"hs": 10}, {"hs": 5}, {"hs": 123"#;
        for (pointer, expected) in [
            ("/id", Ok(1.0)),
            ("/cards/1/hs", Ok(5.0)),
            ("/cards/2/hs", Err(Missing::Bus)),
            ("/cards/*/hs", Err(Missing::Bus)),
            ("/cards/#", Err(Missing::Bus)),
            ("/later", Err(Missing::Bus)),
        ] {
            assert_eq!(sum(text, pointer), expected, "{pointer}");
        }
        // At every place where it can be cut: the right number or none.
        let whole = r#"{"a": {"x": [11, 22]}, "rate": 345.5, "ok": 1}"#;
        for end in 0..whole.len() {
            let read = sum(&whole[..end], "/rate");
            assert!(read == Ok(345.5) || read == Err(Missing::Bus), "{end}: {read:?}");
        }
    }

    #[test]
    fn known_mistakes_are_mended_and_no_others() {
        for (text, pointer, expected) in [
            ("{\"a\":1}\0", "/a", Ok(1.0)),
            (r#"{"S":[{"x":1}{"a":2}],"id":1}"#, "/S/1/a", Ok(2.0)),
            (r#"{"S":[,{"a":2},],"id":1,}"#, "/S/0/a", Ok(2.0)),
            (r#",{"a":3}"#, "/a", Ok(3.0)),
            (r#"{"n":nan,"i":-inf,"a":4}"#, "/a", Ok(4.0)),
            ("{\"s\":\"x\ny}{\",\"a\":5}", "/a", Ok(5.0)),
            (r#"{"s":"a,]","q":"\"","t":[1,],"a":6e0}"#, "/a", Ok(6.0)),
            (r#"{"a":12abc}"#, "/a", Err(Missing::Bus)),
            ("<html><body>not found</body></html>", "/a", Err(Missing::Bus)),
            ("", "/a", Err(Missing::Bus)),
        ] {
            assert_eq!(sum(text, pointer), expected, "{text}");
        }
        assert!(sum(r#"{"n":nan,}"#, "/n").is_ok_and(f64::is_nan));
    }

    #[test]
    fn a_value_is_as_small_as_the_bound_on_memory_says() {
        assert!(size_of::<Node>() <= 32);
    }

    #[test]
    fn a_thousand_brackets_are_no_way_down() {
        assert_eq!(sum(&"[".repeat(200_000), "/1"), Err(Missing::Bus));
    }
}
