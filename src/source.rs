//! A TOML text to read keys from. Whoever writes such a file is told every mistake at once, each with file, line and key.
//!
//! Reading is by hand and not by derive: a mistake in one key does not hide those in the next, each says what was
//! expected there, and the binary is 100 kB smaller for it.

use std::cell::RefCell;
use std::fmt;

use crate::sorted;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: Option<usize>,
    /// The key, from the top: `chip.U12.addr`.
    pub key: String,
    /// What is wrong with it.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Every mistake of a file, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// A file that is wrong as a whole.
    pub(crate) fn one(file: &str, text: String) -> Self {
        Self(vec![Problem { file: file.to_owned(), line: None, key: String::new(), text }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A file's text, parsed, with what was found wrong so far.
pub(crate) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    root: DeTable<'a>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    /// # Errors
    /// A text that is no TOML at all.
    pub(crate) fn parse(file: &'a str, text: &'a str) -> Result<Self, Problems> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { file, text, root: root.into_inner(), problems: RefCell::default() }),
            Err(error) => {
                let line = error.span().map(|span| line_of(text, span.start));
                let text = error.message().to_owned();
                Err(Problems(vec![Problem { file: file.to_owned(), line, key: String::new(), text }]))
            }
        }
    }

    /// The keys at the top.
    pub(crate) fn root(&self) -> Table<'_> {
        Table { source: self, path: String::new(), keys: Some(&self.root) }
    }

    /// Notes a mistake at this key, or at the nearest table above it that exists.
    pub(crate) fn complain(&self, key: &str, text: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { text: text.into(), ..self.place(key) });
    }

    fn place(&self, key: &str) -> Problem {
        let line = offset_of(&self.root, key).map(|offset| line_of(self.text, offset));
        Problem { file: self.file.to_owned(), line, key: key.to_owned(), text: String::new() }
    }

    /// # Errors
    /// Everything that was complained of, in the order of the lines.
    pub(crate) fn finish(&self) -> Result<(), Problems> {
        let problems = sorted::list_by(self.problems.take(), |a, b| a.line.cmp(&b.line));
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }
}

/// The keys of one table; all of them missing where the file has no such table.
pub(crate) struct Table<'a> {
    source: &'a Source<'a>,
    path: String,
    keys: Option<&'a DeTable<'a>>,
}

impl<'a> Table<'a> {
    /// Complains of every key that is not one of these.
    pub(crate) fn only(&self, known: &[&str]) {
        for (key, _) in self.keys.into_iter().flatten() {
            let key = key.get_ref();
            if !known.contains(&key.as_ref()) {
                self.complain(key, format!("unknown key; known here are {}", known.join(", ")));
            }
        }
    }

    /// Complains of one of its keys.
    pub(crate) fn complain(&self, key: &str, text: impl Into<String>) {
        self.source.complain(&self.path_of(key), text);
    }

    /// Where it begins, for a mistake that shows later.
    pub(crate) fn place(&self) -> Problem {
        self.source.place(&self.path)
    }

    /// The same for one of its keys.
    pub(crate) fn place_of(&self, key: &str) -> Problem {
        self.source.place(&self.path_of(key))
    }

    /// Whether the key is there at all.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// A text that may be left out.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        if let DeValue::String(text) = value { Some(text.to_string()) } else { self.not("a string", key, value) }
    }

    /// A `true` or `false` that may be left out.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        if let DeValue::Boolean(flag) = value { Some(*flag) } else { self.not("`true` or `false`", key, value) }
    }

    /// A text that must be there; empty, and complained of, where it is not.
    pub(crate) fn needed_text(&self, key: &str) -> String {
        self.needed(key).then(|| self.text(key)).flatten().unwrap_or_default()
    }

    /// A whole number that may be left out.
    pub(crate) fn number<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        let value = self.value(key)?;
        if let DeValue::Integer(number) = value {
            self.fits(key, number)
        } else {
            self.not("a whole number", key, value)
        }
    }

    /// A whole number between bounds, both included, that may be left out. What is outside is complained of, and stands at the
    /// nearer bound.
    pub(crate) fn ranged<T: TryFrom<i64> + Into<i64>>(&self, key: &str, low: T, high: T) -> Option<T> {
        self.within(key, low.into(), high.into()).and_then(|value| T::try_from(value).ok())
    }

    fn within(&self, key: &str, low: i64, high: i64) -> Option<i64> {
        let value = self.number(key)?;
        if !(low..=high).contains(&value) {
            self.complain(key, format!("must be {low} to {high}, not {value}"));
        }
        Some(value.clamp(low, high))
    }

    /// What one of these texts stands for; may be left out.
    pub(crate) fn chosen<T: Copy>(&self, key: &str, known: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let (_, value) = known.get(self.choice(key, &names)?)?;
        Some(*value)
    }

    fn choice(&self, key: &str, names: &[&str]) -> Option<usize> {
        let text = self.text(key)?;
        let found = names.iter().position(|name| *name == text);
        if found.is_none() {
            self.complain(key, format!("must be one of {}, not `{text}`", names.join(", ")));
        }
        found
    }

    /// A whole number that must be there; the default, and complained of, where it is not.
    pub(crate) fn needed_number<T: TryFrom<i64> + Default>(&self, key: &str) -> T {
        self.needed(key).then(|| self.number(key)).flatten().unwrap_or_default()
    }

    /// A name; a whole number is taken as its name.
    pub(crate) fn name(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        match value {
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.not("a number or a name", key, value)
            }
        }
    }

    /// A list of texts; empty where it is left out.
    pub(crate) fn texts(&self, key: &str) -> Vec<String> {
        self.list(key, |item| {
            let DeValue::String(text) = item else { return self.not("a list of strings", key, item) };
            Some(text.to_string())
        })
    }

    /// A text or a list of texts; empty where it is left out.
    pub(crate) fn text_or_texts(&self, key: &str) -> Vec<String> {
        if let Some(DeValue::String(text)) = self.value(key) { vec![text.to_string()] } else { self.texts(key) }
    }

    /// A list of whole numbers; `None` where it is left out.
    pub(crate) fn numbers<T: TryFrom<i64>>(&self, key: &str) -> Option<Vec<T>> {
        self.value(key)?;
        Some(self.list(key, |item| {
            let DeValue::Integer(number) = item else { return self.not("a list of whole numbers", key, item) };
            self.fits(key, number)
        }))
    }

    /// The names and texts in the table of this name, by name.
    pub(crate) fn named_texts(&self, key: &str) -> Vec<(String, String)> {
        let table = self.table(key);
        let names = table.keys.into_iter().flatten().map(|(name, _)| name.get_ref().to_string());
        sorted::list(names.filter_map(|name| table.text(&name).map(|text| (name, text))))
    }

    /// A list of pairs of whole numbers; empty where it is left out.
    pub(crate) fn pairs<A: TryFrom<i64>, B: TryFrom<i64>>(&self, key: &str) -> Vec<(A, B)> {
        self.list(key, |item| {
            let pair: Vec<_> = item.as_array().into_iter().flatten().map(Spanned::get_ref).collect();
            let [DeValue::Integer(a), DeValue::Integer(b)] = pair.as_slice() else {
                return self.not("a list of pairs of whole numbers", key, item);
            };
            Some((self.fits(key, a)?, self.fits(key, b)?))
        })
    }

    /// Two whole numbers from low to high, or one that stands for both; may be left out.
    pub(crate) fn range<T: TryFrom<i64>>(&self, key: &str) -> Option<(T, T)> {
        let value = self.value(key)?;
        let items: Vec<_> = match value.as_array() {
            Some(items) => items.iter().map(Spanned::get_ref).collect(),
            None => vec![value, value],
        };
        let [DeValue::Integer(low), DeValue::Integer(high)] = items.as_slice() else {
            return self.not("a whole number or a list of two", key, value);
        };
        Some((self.fits(key, low)?, self.fits(key, high)?))
    }

    /// The table of this name.
    pub(crate) fn table(&self, key: &str) -> Table<'a> {
        let keys = self.value(key).and_then(|value| {
            let DeValue::Table(keys) = value else { return self.not("a table", key, value) };
            Some(keys)
        });
        Table { source: self.source, path: self.path_of(key), keys }
    }

    /// The tables inside the table of this name, by name.
    pub(crate) fn tables(&self, key: &str) -> Vec<(String, Table<'a>)> {
        let outer = self.table(key);
        let names = sorted::list(outer.keys.into_iter().flatten().map(|(name, _)| name.get_ref().to_string()));
        names.into_iter().map(|name| (name.clone(), outer.table(&name))).collect()
    }

    fn value(&self, key: &str) -> Option<&'a DeValue<'a>> {
        self.keys?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value.get_ref())
    }

    /// Whether the key is there; complained of where it is not.
    pub(crate) fn needed(&self, key: &str) -> bool {
        let there = self.value(key).is_some();
        if !there {
            self.complain(key, "is missing");
        }
        there
    }

    fn list<T>(&self, key: &str, item: impl Fn(&'a DeValue<'a>) -> Option<T>) -> Vec<T> {
        match self.value(key) {
            None => Vec::new(),
            Some(DeValue::Array(items)) => items.iter().filter_map(|value| item(value.get_ref())).collect(),
            Some(other) => self.not("a list", key, other).unwrap_or_default(),
        }
    }

    fn fits<T: TryFrom<i64>>(&self, key: &str, number: &DeInteger<'_>) -> Option<T> {
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let fitting = value.and_then(|value| T::try_from(value).ok());
        if fitting.is_none() {
            self.complain(key, format!("{number} is out of range"));
        }
        fitting
    }

    fn not<T>(&self, expected: &str, key: &str, found: &DeValue<'_>) -> Option<T> {
        self.complain(key, format!("must be {expected}, not {}", kind_of(found)));
        None
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// What a value is, for people.
const fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Offset of the deepest part of `key` that exists. A name may hold dots itself: the longest that fits is taken.
fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let fits = |name: &str| {
        let rest = key.strip_prefix(name)?;
        if rest.is_empty() { Some(None) } else { rest.strip_prefix('.').map(Some) }
    };
    let found = table.iter().filter_map(|(name, value)| Some((name, value, fits(name.get_ref())?)));
    let (name, value, rest) = found.max_by_key(|(name, ..)| name.get_ref().len())?;
    let deeper = match (value.get_ref(), rest) {
        (DeValue::Table(inner), Some(rest)) => offset_of(inner, rest),
        _ => None,
    };
    Some(deeper.unwrap_or(name.span().start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name = \"x\"\n\n[chip.U1]\npart = \"ina226\"\naddr = 0x40\n[chip.U2]\npart = 7\n";

    #[test]
    fn a_key_is_found_on_its_line_and_a_missing_one_at_its_table() {
        let source = Source::parse("f", TEXT).unwrap();
        for key in ["rail", "chip.U1.addr", "chip.U1.bus", "chip.U2.part"] {
            source.complain(key, "x");
        }
        let lines: Vec<_> =
            source.finish().unwrap_err().0.into_iter().map(|problem| (problem.key, problem.line)).collect();
        let expected = [("rail", None), ("chip.U1.bus", Some(3)), ("chip.U1.addr", Some(5)), ("chip.U2.part", Some(7))];
        assert_eq!(lines, expected.map(|(key, line)| (key.to_owned(), line)));
    }

    #[test]
    fn values_come_in_their_types_and_everything_else_is_complained_of() {
        let source =
            Source::parse("f", "a = 0x1f\nb = \"t\"\nc = [[1, 2], [3]]\nd = 1.5\ne = 300\n[f]\ng = true\n").unwrap();
        let root = source.root();
        assert_eq!((root.number::<u8>("a"), root.name("a").as_deref()), (Some(31), Some("0x1f")));
        assert_eq!((root.text("b").as_deref(), root.text("z")), (Some("t"), None));
        assert_eq!(root.pairs::<i32, u8>("c"), [(1, 2)]);
        assert_eq!(
            (root.number::<u8>("d"), root.number::<u8>("e"), root.needed_text("h")),
            (None, None, String::new())
        );
        root.table("f").only(&["x", "y"]);
        let problems = source.finish().unwrap_err().to_string();
        let expected = [
            "f: h: is missing",
            "f:3: c: must be a list of pairs of whole numbers, not a list",
            "f:4: d: must be a whole number, not a number with a fraction",
            "f:5: e: 300 is out of range",
            "f:7: f.g: unknown key; known here are x, y",
        ];
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_number_out_of_its_bounds_and_a_word_that_is_none_of_those_known_are_named() {
        let source = Source::parse("f", "a = 3\nb = 300\nc = -1\nd = \"no\"\ne = \"two\"\nf = 0.5\n").unwrap();
        let root = source.root();
        let ranged = |key: &str| root.ranged::<u8>(key, 1, 10);
        assert_eq!(["a", "b", "c", "z", "f"].map(ranged), [Some(3), Some(10), Some(1), None, None]);
        assert_eq!(root.ranged("c", -2_000, 2_000), Some(-1));
        let chosen = |key: &str| root.chosen(key, &[("one", 1), ("two", 2)]);
        assert_eq!(["d", "e", "z"].map(chosen), [None, Some(2), None]);
        let problems = source.finish().unwrap_err().to_string();
        let expected = [
            "f:2: b: must be 1 to 10, not 300",
            "f:3: c: must be 1 to 10, not -1",
            "f:4: d: must be one of one, two, not `no`",
            "f:6: f: must be a whole number, not a number with a fraction",
        ];
        assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let error = Source::parse("f", "a = 1\nb = ").err().unwrap().to_string();
        assert!(error.starts_with("f:2: "), "{error}");
    }
}
