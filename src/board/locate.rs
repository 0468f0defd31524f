//! Where a key stands in a TOML text: so that every message names file, line and key.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Problem, Problems};

/// A file's text, to point into.
pub(crate) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    /// `None` where it is not TOML at all; then nothing can be located and nothing needs to be.
    table: Option<Spanned<DeTable<'a>>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, table: DeTable::parse(text).ok() }
    }

    /// The text as `T`, or what keeps it from being one.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Problems> {
        toml::from_str(self.text).map_err(|error| {
            let start = error.span().map(|span| span.start);
            let key = start.and_then(|offset| self.table.as_ref().map(|table| path_at(table.get_ref(), offset)));
            Problems(vec![Problem {
                file: self.file.to_owned(),
                line: start.map(|offset| self.line_of(offset)),
                key: key.unwrap_or_default(),
                text: error.message().to_owned(),
            }])
        })
    }

    /// A mistake at this key, or at the nearest table above it that exists.
    pub(crate) fn problem(&self, key: &str, text: impl Into<String>) -> Problem {
        let line =
            self.table.as_ref().and_then(|table| offset_of(table.get_ref(), key)).map(|offset| self.line_of(offset));
        Problem { file: self.file.to_owned(), line, key: key.to_owned(), text: text.into() }
    }

    fn line_of(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// Offset of the deepest part of `key` that exists.
fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let (name, value) = table.iter().find(|(name, _)| name.get_ref() == first)?;
    let deeper = match (value.get_ref(), rest) {
        (DeValue::Table(inner), Some(rest)) => offset_of(inner, rest),
        _ => None,
    };
    Some(deeper.unwrap_or(name.span().start))
}

/// The path of the innermost key whose name or value covers `offset`.
fn path_at(table: &DeTable<'_>, offset: usize) -> String {
    for (name, value) in table {
        if let DeValue::Table(inner) = value.get_ref() {
            let deeper = path_at(inner, offset);
            if !deeper.is_empty() {
                return format!("{}.{deeper}", name.get_ref());
            }
        }
        if name.span().contains(&offset) || value.span().contains(&offset) {
            return name.get_ref().to_string();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name = \"x\"\n\n[chip.U1]\npart = \"ina226\"\naddr = 0x40\n[chip.U2]\npart = 7\n";

    #[test]
    fn a_key_is_found_on_its_line_and_a_missing_one_at_its_table() {
        let source = Source::new("f", TEXT);
        assert_eq!(source.problem("chip.U1.addr", "x").line, Some(5));
        assert_eq!(source.problem("chip.U1.bus", "x").line, Some(3));
        assert_eq!(source.problem("chip.U2.part", "x").line, Some(7));
        assert_eq!(source.problem("rail", "x").line, None);
    }

    #[test]
    fn an_offset_names_its_key() {
        let table = DeTable::parse(TEXT).unwrap();
        let at = |needle: &str| path_at(table.get_ref(), TEXT.find(needle).unwrap());
        assert_eq!(at("0x40"), "chip.U1.addr");
        assert_eq!(at("7"), "chip.U2.part");
        assert_eq!(at("name"), "name");
    }
}
