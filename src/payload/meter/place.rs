//! Where a value stands in an answer, and what an answer is once it was read.

use super::json::Node;
use super::{Answer, Format, json, pairs, series};
use crate::reading::{Missing, Reading};

/// One step of a JSON pointer (RFC 6901), with three more: a name of `*`, `?` or `#` alone is no name here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A name in a table or a place in a list, from 0.
    Name(String),
    /// `*`: every one; what they lead to is summed.
    Every,
    /// `?`: the only one, whatever its name; two are not one.
    Only,
    /// `#`: how many there are.
    Count,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Json(Vec<Step>),
    /// All series of this name that have these labels; they are summed.
    Series {
        name: String,
        labels: Vec<(String, String)>,
    },
    /// The key of a pair; several records are summed.
    Key(String),
}

impl Place {
    /// # Errors
    /// What is wrong with the text, for the writer of the file.
    pub(super) fn parse(format: Format, text: &str) -> Result<Self, &'static str> {
        match format {
            Format::Json => {
                let path = text.strip_prefix('/').ok_or("a JSON pointer begins with `/`")?;
                let step = |part: &str| match part {
                    "*" => Step::Every,
                    "?" => Step::Only,
                    "#" => Step::Count,
                    name => Step::Name(name.replace("~1", "/").replace("~0", "~")),
                };
                Ok(Self::Json(path.split('/').map(step).collect()))
            }
            Format::Prometheus => {
                let wrong = "a series is `name` or `name{label=\"value\"}`";
                let (name, labels) = series::split(text.trim()).ok_or(wrong)?;
                let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
                let labels = series::labels(labels).ok_or(wrong)?;
                if plain { Ok(Self::Series { name: name.to_owned(), labels }) } else { Err(wrong) }
            }
            Format::Pairs if text.is_empty() || text.contains(['=', ';', '|']) => Err("a key is the text before `=`"),
            Format::Pairs => Ok(Self::Key(text.to_owned())),
        }
    }
}

/// An answer, read once for all its values.
pub(super) enum Document<'a> {
    Json(Node),
    Series { text: &'a [u8], whole: bool },
    Pairs { text: &'a [u8], whole: bool },
}

impl<'a> Document<'a> {
    pub(super) fn parse(format: Format, answer: &'a Answer) -> Self {
        let Answer { bytes: text, whole } = answer;
        match format {
            Format::Json => Self::Json(json::parse(text)),
            Format::Prometheus => Self::Series { text, whole: *whole },
            Format::Pairs => Self::Pairs { text, whole: *whole },
        }
    }

    /// The number at this place, or the sum of those; finite or [`Missing::Implausible`].
    pub(super) fn number(&self, place: &Place) -> Reading<f64> {
        let number = match (self, place) {
            (Self::Json(node), Place::Json(steps)) => node.sum(steps),
            (Self::Series { text, whole }, Place::Series { name, labels }) => series::sum(text, *whole, name, labels),
            (Self::Pairs { text, whole }, Place::Key(key)) => pairs::sum(text, *whole, key),
            (Self::Json(_) | Self::Series { .. } | Self::Pairs { .. }, _) => Err(Missing::NotPresent),
        }?;
        if number.is_finite() { Ok(number) } else { Err(Missing::Implausible) }
    }

    /// The text at this place. A series has none but its numbers.
    pub(super) fn text(&self, place: &Place) -> Reading<String> {
        match (self, place) {
            (Self::Json(node), Place::Json(steps)) => node.text(steps),
            (Self::Pairs { text, whole }, Place::Key(key)) => pairs::text(text, *whole, key),
            (Self::Series { .. }, Place::Series { .. }) => self.number(place).map(|number| number.to_string()),
            (Self::Json(_) | Self::Series { .. } | Self::Pairs { .. }, _) => Err(Missing::NotPresent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_its_format_has_it() {
        let name = |name: &str| Step::Name(name.to_owned());
        for (format, text, expected) in [
            (
                Format::Json,
                "/a/0/*/?/#",
                Some(Place::Json(vec![name("a"), name("0"), Step::Every, Step::Only, Step::Count])),
            ),
            (Format::Json, "/MHS 5s", Some(Place::Json(vec![name("MHS 5s")]))),
            (Format::Json, "a", None),
            (Format::Prometheus, "vllm:x_total", Some(Place::Series { name: "vllm:x_total".into(), labels: vec![] })),
            (
                Format::Prometheus,
                r#"x{a="1",b="t,\"{"}"#,
                Some(Place::Series {
                    name: "x".into(),
                    labels: vec![("a".into(), "1".into()), ("b".into(), "t,\"{".into())],
                }),
            ),
            (Format::Prometheus, "x y", None),
            (Format::Prometheus, "x{a=1}", None),
            (Format::Prometheus, "", None),
            (Format::Pairs, "KHS", Some(Place::Key("KHS".into()))),
            (Format::Pairs, "KHS=", None),
        ] {
            assert_eq!(Place::parse(format, text).ok(), expected, "{text}");
        }
    }
}
