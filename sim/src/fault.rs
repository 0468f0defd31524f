//! What can be broken, as values and as text.
//!
//! ```text
//! BUS nack [ADDR]        does not acknowledge         BUS stuck          data line held low: 1 s, then timed out
//! BUS gone [ADDR]        taken out; back after reset  BUS busgone        the adapter itself is away
//! BUS garbage [ADDR]     reads give noise             BUS frozen [ADDR]  measured values stay as they are
//! BUS wrong-id [ADDR]    another part answers         BUS slow [ADDR] MS each transfer takes longer
//! fan seized FAN         stands whatever its drive; FAN is a name, a number from 1, or a supply with a fan of its own
//! ```
//!
//! Without ADDR it is every chip of the bus.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest delay that can be asked for; from 1 s on a transfer times out anyway.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Something broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A bus, or one chip on it.
    On {
        /// The bus's name on the board.
        bus: String,
        /// The chip's address; `None` is all of them.
        addr: Option<u8>,
        /// How it is broken.
        kind: Kind,
    },
    /// A fan that stands, by name, by number from 1, or by the name of a supply.
    FanSeized(String),
}

/// How a bus or a chip is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Does not acknowledge.
    Nack,
    /// Taken out. Comes back with its registers reset; its fans, their PWM inputs open, run at full speed meanwhile.
    Gone,
    /// Reads give seeded noise; writes arrive.
    WrongBytes,
    /// Each transfer takes this much longer, in wall time.
    Slow(Duration),
    /// Another part than the board says.
    WrongId,
    /// Measured values stay as they are.
    Frozen,
    /// The bus is stuck: each transfer is held for a second of wall time, then times out. Of a whole bus only.
    Stuck,
    /// The adapter is away: its socket closes and refuses. Of a whole bus only.
    BusGone,
}

impl Kind {
    /// Every kind with its word and what it does.
    const WORDS: [(&'static str, Self); 8] = [
        ("nack", Self::Nack),
        ("gone", Self::Gone),
        ("garbage", Self::WrongBytes),
        ("slow", Self::Slow(Duration::ZERO)),
        ("wrong-id", Self::WrongId),
        ("frozen", Self::Frozen),
        ("stuck", Self::Stuck),
        ("busgone", Self::BusGone),
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Nack => "nack",
            Self::Gone => "gone",
            Self::WrongBytes => "garbage",
            Self::Slow(_) => "slow",
            Self::WrongId => "wrong-id",
            Self::Frozen => "frozen",
            Self::Stuck => "stuck",
            Self::BusGone => "busgone",
        }
    }

    const fn of_a_bus_only(self) -> bool {
        match self {
            Self::Stuck | Self::BusGone => true,
            Self::Nack | Self::Gone | Self::WrongBytes | Self::Slow(_) | Self::WrongId | Self::Frozen => false,
        }
    }
}

impl Fault {
    /// A fault of one chip.
    #[must_use]
    pub fn chip(bus: &str, addr: u8, kind: Kind) -> Self {
        Self::On { bus: bus.to_owned(), addr: Some(addr), kind }
    }

    /// A fault of a bus, or of every chip on it.
    #[must_use]
    pub fn bus(bus: &str, kind: Kind) -> Self {
        Self::On { bus: bus.to_owned(), addr: None, kind }
    }

    /// A fan that stands.
    #[must_use]
    pub fn fan_seized(fan: &str) -> Self {
        Self::FanSeized(fan.to_owned())
    }

    /// The fan that it seizes, if it is that.
    pub(crate) fn seized(&self) -> Option<&String> {
        match self {
            Self::FanSeized(fan) => Some(fan),
            Self::On { .. } => None,
        }
    }

    /// How the chip at `addr` of this bus is broken by it, if it is.
    pub(crate) fn hits(&self, bus: &str, addr: u8) -> Option<Kind> {
        match self {
            Self::On { bus: on, addr: at, kind } if on == bus && at.is_none_or(|at| at == addr) => Some(*kind),
            Self::On { .. } | Self::FanSeized(_) => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FanSeized(fan) => write!(f, "fan seized {fan}"),
            Self::On { bus, addr, kind } => {
                write!(f, "{bus} {}", kind.word())?;
                if let Some(addr) = addr {
                    write!(f, " {addr:#04x}")?;
                }
                if let Kind::Slow(delay) = kind {
                    write!(f, " {}ms", delay.as_millis())?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["fan", "seized", fan] => Ok(Self::fan_seized(fan)),
            ["fan", "seized"] => Err("seized needs a fan, as in `fault fan seized fan3`".to_owned()),
            [bus, kind, rest @ ..] => on(bus, kind, rest),
            _ => Err("needs a bus and a kind, as in `fault air nack 0x48` or `fault main stuck`".to_owned()),
        }
    }
}

fn on(bus: &str, word: &str, rest: &[&str]) -> Result<Fault, String> {
    let words = || Kind::WORDS.map(|(word, _)| word).join(", ");
    let kind = Kind::WORDS.into_iter().find(|(known, _)| *known == word).map(|(_, kind)| kind);
    let kind = kind.ok_or_else(|| format!("no kind of fault `{word}`; there are {}, and `fan seized FAN`", words()))?;
    let (kind, rest) = match (kind, rest) {
        (Kind::Slow(_), [rest @ .., delay]) => (Kind::Slow(milliseconds(delay)?), rest),
        (Kind::Slow(_), []) => return Err(format!("slow needs milliseconds, as in `fault {bus} slow 0x48 50ms`")),
        (kind, rest) => (kind, rest),
    };
    match rest {
        [] => Ok(Fault::bus(bus, kind)),
        [_] if kind.of_a_bus_only() => Err(format!("{word} is of a whole bus, as in `fault {bus} {word}`")),
        [addr] => Ok(Fault::chip(bus, address(addr)?, kind)),
        [_, extra, ..] => Err(format!("`{extra}` is too much")),
    }
}

/// A 7-bit address in hexadecimal.
pub(crate) fn address(text: &str) -> Result<u8, String> {
    let digits = text.strip_prefix("0x").and_then(|digits| u8::from_str_radix(digits, 16).ok());
    digits.filter(|addr| *addr < 0x80).ok_or_else(|| format!("`{text}` is no 7-bit address; write it as 0x48"))
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").unwrap_or(text).parse().map(Duration::from_millis).ok();
    let most = MAX_DELAY.as_millis();
    number.filter(|delay| *delay <= MAX_DELAY).ok_or_else(|| format!("`{text}` is no delay; write 0ms to {most}ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_its_text() {
        for (text, fault) in [
            ("air nack 0x48", Fault::chip("air", 0x48, Kind::Nack)),
            ("air gone", Fault::bus("air", Kind::Gone)),
            ("main stuck", Fault::bus("main", Kind::Stuck)),
            ("main busgone", Fault::bus("main", Kind::BusGone)),
            ("air garbage 0x20", Fault::chip("air", 0x20, Kind::WrongBytes)),
            ("air slow 0x48 50ms", Fault::chip("air", 0x48, Kind::Slow(Duration::from_millis(50)))),
            ("air slow 50ms", Fault::bus("air", Kind::Slow(Duration::from_millis(50)))),
            ("main wrong-id 0x40", Fault::chip("main", 0x40, Kind::WrongId)),
            ("air frozen 0x49", Fault::chip("air", 0x49, Kind::Frozen)),
            ("fan seized fan3", Fault::fan_seized("fan3")),
            ("fan nack 0x48", Fault::chip("fan", 0x48, Kind::Nack)),
        ] {
            assert_eq!(text.parse(), Ok(fault.clone()), "{text}");
            assert_eq!(fault.to_string(), text);
        }
    }

    #[test]
    fn mistakes_are_told_with_an_example() {
        for (text, told) in [
            ("air", "needs a bus and a kind"),
            ("air melt", "there are nack, gone"),
            ("air nack 48", "write it as 0x48"),
            ("air nack 0x80", "7-bit"),
            ("main stuck 0x40", "whole bus"),
            ("air slow 0x48", "no delay"),
            ("air slow 60000ms", "10000ms"),
            ("air nack 0x48 0x49", "too much"),
            ("fan seized", "needs a fan"),
        ] {
            let error = text.parse::<Fault>().err().unwrap_or_default();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
