//! What can be broken in the driver, as values and as text.
//!
//! ```text
//! gpu 3 nvmlDeviceGetTemperature hang after 10     gpu all any slow 500     nvml init code 18
//! ```

use std::fmt;

use super::code;
use super::wire::SYMBOLS;

/// Longest delay that can be asked for, ms.
const MAX_SLOW: u32 = 600_000;

/// A call that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// On which card; none is all of them, and calls of no card.
    pub card: Option<usize>,
    /// In which function; none is all of them.
    pub symbol: Option<String>,
    /// How.
    pub kind: Kind,
    /// After so many calls that go right.
    pub after: u32,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Never comes back.
    Hang,
    /// Comes back after so many ms.
    Slow(u32),
    /// Returns this code and does nothing.
    Code(u32),
    /// The card is lost from that call on.
    Lost,
    /// A list grows between the call for its size and the one for its content, every time.
    Race,
    /// Is accepted and changes nothing.
    Ignored,
    /// The caller dies of a segmentation fault.
    Segv,
    /// The caller dies of `abort`.
    Abort,
    /// Comes back with seeded noise for every number and for the length of lists.
    Garbage,
}

/// Words for codes, for the ones that have one.
const CODES: [(&str, u32); 6] = [
    ("mismatch", code::VERSION_MISMATCH),
    ("not-loaded", code::DRIVER_NOT_LOADED),
    ("not-supported", code::NOT_SUPPORTED),
    ("no-permission", code::NO_PERMISSION),
    ("unknown", code::UNKNOWN),
    ("deprecated", code::DEPRECATED),
];

impl Fault {
    /// From the words after `gpu N` or `nvml`.
    pub(crate) fn parse(card: Option<usize>, words: &[&str]) -> Result<Self, String> {
        let (words, after) = match words {
            [words @ .., "after", calls] => (words, number(calls, u32::MAX)?),
            words => (words, 0),
        };
        let [symbol, kind @ ..] = words else {
            return Err("needs a function and a kind, as in `fault gpu 3 any hang`".to_owned());
        };
        let symbol = match *symbol {
            "any" => None,
            "init" => Some("nvmlInit_v2".to_owned()),
            name => {
                let bare = name.strip_prefix("nvml").unwrap_or(name);
                let known = SYMBOLS.iter().find(|known| **known == bare || known.strip_prefix("Device") == Some(bare));
                Some(format!(
                    "nvml{}",
                    known.ok_or_else(|| format!("no function `{name}`; any, init or one of nvml.h"))?
                ))
            }
        };
        let kind = match kind {
            ["hang"] => Kind::Hang,
            ["slow", ms] => Kind::Slow(number(ms, MAX_SLOW)?),
            ["code", code] => Kind::Code(number(code, 999)?),
            ["lost"] => Kind::Lost,
            ["race"] => Kind::Race,
            ["ignored"] => Kind::Ignored,
            ["segv"] => Kind::Segv,
            ["abort"] => Kind::Abort,
            ["garbage"] => Kind::Garbage,
            [word] if CODES.iter().any(|(known, _)| known == word) => {
                Kind::Code(CODES.iter().find(|(known, _)| known == word).map_or(code::UNKNOWN, |(_, code)| *code))
            }
            other => {
                return Err(format!(
                    "no kind of fault `{}`; there are hang, slow MS, code N, lost, race, ignored, segv, abort, garbage, {}",
                    other.join(" "),
                    CODES.map(|(word, _)| word).join(", ")
                ));
            }
        };
        Ok(Self { card, symbol, kind, after })
    }

    /// Whether a call is one of those that go wrong.
    pub(super) fn hits(&self, card: Option<usize>, symbol: &str) -> bool {
        let init = |symbol: &str| matches!(symbol, "nvmlInit_v2" | "nvmlInitWithFlags");
        let mine = self.symbol.as_ref().is_none_or(|mine| mine == symbol || init(mine) && init(symbol));
        mine && (self.card.is_none() || self.card == card)
    }
}

fn number(text: &str, most: u32) -> Result<u32, String> {
    let number = text.strip_suffix("ms").unwrap_or(text).parse().ok();
    number.filter(|number| *number <= most).ok_or_else(|| format!("`{text}` is no number from 0 to {most}"))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.card {
            Some(card) => write!(f, "gpu {card}")?,
            None => f.write_str("nvml")?,
        }
        write!(f, " {} ", self.symbol.as_deref().unwrap_or("any"))?;
        match self.kind {
            Kind::Hang => f.write_str("hang"),
            Kind::Slow(ms) => write!(f, "slow {ms}"),
            Kind::Code(code) => write!(f, "code {code}"),
            Kind::Lost => f.write_str("lost"),
            Kind::Race => f.write_str("race"),
            Kind::Ignored => f.write_str("ignored"),
            Kind::Segv => f.write_str("segv"),
            Kind::Abort => f.write_str("abort"),
            Kind::Garbage => f.write_str("garbage"),
        }?;
        if self.after > 0 { write!(f, " after {}", self.after) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Fault, String> {
        Fault::parse(Some(3), &text.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn faults_are_their_text() {
        for (text, shown) in [
            ("nvmlDeviceGetTemperature hang after 10", "gpu 3 nvmlDeviceGetTemperature hang after 10"),
            ("GetTemperature slow 50ms", "gpu 3 nvmlDeviceGetTemperature slow 50"),
            ("init mismatch", "gpu 3 nvmlInit_v2 code 18"),
            ("any lost", "gpu 3 any lost"),
            ("SetFanSpeed_v2 ignored", "gpu 3 nvmlDeviceSetFanSpeed_v2 ignored"),
        ] {
            assert_eq!(parse(text).map(|fault| fault.to_string()).as_deref(), Ok(shown));
        }
        for (text, told) in [
            ("", "needs a function"),
            ("GetColour hang", "no function `GetColour`"),
            ("any dance", "there are hang"),
            ("any slow x", "no number"),
            ("any code 1000", "0 to 999"),
        ] {
            assert!(parse(text).is_err_and(|error| error.contains(told)), "{text}");
        }
    }

    #[test]
    fn a_fault_hits_its_card_and_function_alone() {
        let fault = parse("GetTemperature hang").unwrap();
        assert!(fault.hits(Some(3), "nvmlDeviceGetTemperature"));
        assert!(!fault.hits(Some(2), "nvmlDeviceGetTemperature") && !fault.hits(Some(3), "nvmlDeviceGetName"));
        let init = Fault { card: None, ..parse("init hang").unwrap() };
        assert!(init.hits(None, "nvmlInitWithFlags") && init.hits(None, "nvmlInit_v2"));
    }
}
