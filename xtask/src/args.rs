//! Command-line arguments, taken from the front one at a time.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

use anyhow::{Error, Result};

/// The caller wrote something that cannot be meant: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(String);

pub(crate) fn usage(text: impl Into<String>) -> Error {
    Error::new(Usage(text.into()))
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

pub(crate) struct Args(VecDeque<String>);

impl Args {
    pub(crate) fn from_env() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub(crate) fn next(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    /// The value that follows an option.
    pub(crate) fn value(&mut self, option: &str) -> Result<String> {
        self.next().ok_or_else(|| usage(format!("{option} needs a value")))
    }

    /// The number that follows an option.
    pub(crate) fn number(&mut self, option: &str, range: RangeInclusive<u32>) -> Result<u32> {
        let text = self.value(option)?;
        text.parse()
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| usage(format!("{option} {text}: a whole number from {} to {}", range.start(), range.end())))
    }
}

pub(crate) fn help(text: &str) -> Result<()> {
    print!("{text}");
    Ok(())
}

/// What to answer to an argument that a command does not know.
pub(crate) fn unknown(command: &str, arg: &str) -> Error {
    usage(format!("unknown argument {arg}; see cargo xtask {command} --help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_outside_its_range_is_a_usage_error() {
        for (text, expected) in [("1", Some(1)), ("64", Some(64)), ("0", None), ("65", None), ("x", None), ("-1", None)]
        {
            let mut args = Args(VecDeque::from([text.to_owned()]));
            let number = args.number("--rigs", 1..=64);
            assert!(number.as_ref().err().is_none_or(|error| error.is::<Usage>()), "{text}");
            assert_eq!(number.ok(), expected, "{text}");
        }
        assert!(Args(VecDeque::new()).number("--rigs", 1..=64).is_err());
    }
}
