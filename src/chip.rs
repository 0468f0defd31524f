//! Chips: one file per part, over `embedded_hal::i2c::I2c`.
//!
//! To add a part: copy the neighbour that is most like it, keep the datasheet's register names, derive the formula,
//! repeat the datasheet's rows as tests, and add its [`Part`] to [`PARTS`]. Nothing else in the agent needs to know.
//! Boards, `rigd-ctl probe` and `rigd-ctl read` learn all they need of it from there.
//!
//! Each driver does three things: it makes sure that it talks to its part (`identify`, reads only), it brings the part
//! into the state that the formulas assume (`configure`, after each identification), and it reads (`read`). A chip that
//! drives fans also takes a duty. All of it is blocking and runs on the bus thread; time-outs are the adapter's.

pub mod adm1275;
pub mod adt7475;
pub mod amc6821;
pub mod at24;
pub mod common_slot;
pub mod emc1413;
pub mod emc2305;
pub mod ina219;
pub mod ina226;
pub mod ina228;
pub mod ina3221;
pub mod lm75;
pub mod ltc2945;
pub mod ltc4151;
pub mod ltc4282;
pub mod max31785;
pub mod max31790;
pub mod max34451;
pub mod nct7802;
pub mod pca9685;
pub mod pmbus;
mod register;
pub mod tmp102;
pub mod tmp421;
pub mod tmp451;
pub mod tmp464;

use std::fmt;
use std::ops::RangeInclusive;

use embedded_hal::i2c::ErrorKind;

pub use self::register::{Form, Register, Registers};
pub(crate) use self::register::{
    change_u8, holds, quantity, read_be, read_le, read_u8, read_wide, verify_u8, write_be, write_u8,
};
use crate::bus;
use crate::reading::{ChipReading, Missing};
use crate::units::{Duty, Microohms};

/// What a part is and can do. A board is checked against this, so that nothing later has to ask.
pub struct Part {
    /// Name in board files: the maker's, in lower case.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Addresses that its pins can select, 7 bits.
    pub addresses: &'static [RangeInclusive<u8>],
    /// What `identify` can know.
    pub certainty: Certainty,
    /// Names of its power channels.
    pub power: &'static [&'static str],
    /// Names of its temperature channels.
    pub temperature: &'static [&'static str],
    /// Names of its fan channels.
    pub fan: &'static [&'static str],
    /// Whether it drives its fans, not only measures them.
    pub drives_fans: bool,
    /// What a board says about it beside its place.
    pub takes: &'static [Setting],
    /// Times in seconds that its own watchdog can be set to, the default first; empty without one.
    pub watchdog_s: &'static [u8],
    /// What `rigd-ctl read` shows of it, in the order of the datasheet.
    pub registers: Registers,
    /// What the kernel's driver calls its channels, for where that driver owns the chip.
    pub kernel: Kernel,
    /// Opens a driver on the chip's place on the bus.
    pub open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
}

/// How sure it is, once a part has been identified, that it is the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Nothing tells it from others but that it answers: a board's word is taken for it.
    Word,
    /// By bits that cannot be otherwise; a relative may pass for it.
    Shape,
    /// By its id registers.
    Id,
}

/// What a board can say about a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `shunt_microohms`: its current depends on a shunt on the board, so the board has to say.
    Shunt,
    /// `pec`: it can end each transfer with a packet error code.
    Pec,
    /// It drives fans and measures no speed: their `tach_chip` says who does, or `tachometer = false` that nobody does.
    Tachometer,
    /// `current_divisor`: its makers disagree on the scale of its output current.
    CurrentDivisor,
}

/// Names of the kernel driver's attributes, without `_input`, in the order of the part's channels; an empty name where the
/// driver has none. All empty lists: this part is not read through the kernel.
pub struct Kernel {
    /// Voltage, current and power of each power channel.
    pub power: &'static [[&'static str; 3]],
    /// Of each temperature channel.
    pub temperature: &'static [&'static str],
    /// Speed and drive of each fan channel, and what the drive reads as when it is full. Two fans that hang on one output have
    /// the same drive.
    pub fan: &'static [(&'static str, &'static str, u16)],
}

impl Kernel {
    /// The kernel has no driver for this part, or none that says the same.
    pub const NONE: Self = Self { power: &[], temperature: &[], fan: &[] };
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Part {}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every part that the agent knows.
pub const PARTS: &[&Part] = &[
    &adm1275::ADM1272,
    &adm1275::ADM1275,
    &adm1275::ADM1278,
    &adt7475::PART,
    &amc6821::PART,
    &at24::AT24C02,
    &at24::AT24C128,
    &at24::AT24C256,
    &at24::AT24C32,
    &at24::AT24C64,
    &common_slot::PART,
    &emc1413::EMC1412,
    &emc1413::EMC1413,
    &emc1413::EMC1414,
    &emc2305::EMC2301,
    &emc2305::EMC2302,
    &emc2305::EMC2303,
    &emc2305::EMC2305,
    &ina219::PART,
    &ina226::PART,
    &ina228::INA228,
    &ina228::INA237,
    &ina228::INA238,
    &ina3221::PART,
    &lm75::LM75,
    &lm75::TMP105,
    &lm75::TMP75,
    &ltc2945::PART,
    &ltc4151::PART,
    &ltc4282::PART,
    &max31785::PART,
    &max31790::PART,
    &max34451::PART,
    &nct7802::PART,
    &pca9685::PART,
    &pmbus::DPS750TB,
    &pmbus::PART,
    &tmp102::TMP102,
    &tmp102::TMP112,
    &tmp421::TMP421,
    &tmp421::TMP422,
    &tmp421::TMP423,
    &tmp451::TMP401,
    &tmp451::TMP411,
    &tmp451::TMP431,
    &tmp451::TMP451,
    &tmp464::PART,
];

impl Part {
    /// The part of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        PARTS.iter().copied().find(|part| part.name == name)
    }

    /// Whether it is a memory that may say which board it sits on, and measures nothing.
    #[must_use]
    pub const fn holds_identity(&self) -> bool {
        self.power.is_empty() && self.temperature.is_empty() && self.fan.is_empty()
    }

    /// Whether its pins can select this address.
    #[must_use]
    pub fn can_be_at(&self, addr: u8) -> bool {
        self.addresses.iter().any(|range| range.contains(&addr))
    }

    /// Whether two of its fans hang on one output.
    pub(crate) fn share_output(&self, one: usize, other: usize) -> bool {
        let drive = |fan: usize| self.kernel.fan.get(fan).map(|(_, drive, _)| *drive).filter(|drive| !drive.is_empty());
        one != other && drive(one).is_some() && drive(one) == drive(other)
    }

    /// A reading with this part's channels, all missing.
    #[must_use]
    pub fn missing(&self, reason: Missing) -> ChipReading {
        ChipReading::missing(self.power.len(), self.temperature.len(), self.fan.len(), reason)
    }
}

/// What the board says about one chip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Shunt resistance; zero where the part needs none.
    pub shunt: Microohms,
    /// Time of the part's own watchdog in seconds; zero where it has none.
    pub watchdog_s: u8,
    /// Tachometer pulses per revolution, by fan channel.
    pub pulses: Vec<u8>,
    /// Whether each transfer carries a packet error code (SMBus 3.1, 6.4).
    pub pec: bool,
    /// Counts per ampere of the part's output current, where its makers disagree; zero for the part's default.
    pub current_divisor: u16,
}

/// What went wrong with a chip.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The transfer failed.
    #[error("{0}")]
    I2c(E),
    /// Another part answers there.
    #[error("register {register:#04x} reads {found:#06x}, which is not this part's")]
    WrongPart {
        /// The register that gave it away.
        register: u8,
        /// What it held.
        found: u16,
    },
    /// A setting did not read back as written.
    #[error("register {register:#04x} reads back {found:#06x} after {written:#06x} was written")]
    ReadBack {
        /// The register.
        register: u8,
        /// What was written.
        written: u16,
        /// What came back.
        found: u16,
    },
    /// A checksum or packet error code does not fit: the line is disturbed, or the part does not speak so.
    #[error("register {register:#04x}: the checksum does not fit")]
    Checksum {
        /// The register.
        register: u8,
    },
    /// The part has no such channel.
    #[error("no such channel")]
    NoChannel,
    /// Whoever owns the part lets nobody set this output.
    #[error("not to be set: {0}")]
    Refused(E),
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Self::I2c(error)
    }
}

impl<E: embedded_hal::i2c::Error> Error<E> {
    /// The reason that a reading goes missing for.
    #[must_use]
    pub fn missing(&self) -> Missing {
        match self {
            Self::I2c(error) if matches!(error.kind(), ErrorKind::NoAcknowledge(_)) => Missing::NotPresent,
            Self::I2c(_) | Self::Checksum { .. } => Missing::Bus,
            Self::WrongPart { .. } | Self::NoChannel | Self::Refused(_) => Missing::NotPresent,
            Self::ReadBack { .. } => Missing::Implausible,
        }
    }
}

/// Fans read back in the chip's own steps; half a step of an 8-bit PWM is 0.196 %.
const DUTY_TOLERANCE: u16 = 20;

/// A chip in use. `E` is the error of the bus below.
pub trait Driver<E>: Send {
    /// Makes sure that the part is what the board says. Reads only.
    ///
    /// # Errors
    /// `WrongPart` where something else answers, `I2c` where nothing does.
    fn identify(&mut self) -> Result<(), Error<E>>;

    /// Brings the part into the state that `read` assumes, and arms its watchdog where it has one.
    ///
    /// # Errors
    /// `ReadBack` where a setting does not hold, `I2c` where the transfer fails.
    fn configure(&mut self) -> Result<(), Error<E>>;

    /// Makes sure that the settings still hold, and measures all channels. A quantity that the chip has not got or that cannot be true goes missing by itself.
    ///
    /// # Errors
    /// `I2c` where the chip as a whole does not answer, `ReadBack` where it was reset behind our back; `reading` is then to
    /// be thrown away.
    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<E>>;

    /// Sets a fan's drive.
    ///
    /// # Errors
    /// `NoChannel` where the part does not drive that fan, `Refused` where it is not ours to drive, `ReadBack` where the
    /// drive does not hold; the part is well then. `I2c` where the transfer fails.
    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), Error<E>> {
        let _ = (channel, duty);
        Err(Error::NoChannel)
    }

    /// Whether a fan still has the drive that it was set to, `ordered`, where it reads as `reads` now.
    fn holds(&mut self, channel: usize, ordered: Duty, reads: Duty) -> bool {
        let _ = channel;
        reads.hundredths().abs_diff(ordered.hundredths()) <= DUTY_TOLERANCE
    }
}

/// A status bit that is cleared by being read and set again by the next conversion. Whoever reads faster than the part
/// converts would see it come and go, so it counts as set until the result that it was read with has changed. A result
/// of coarse steps may never change again: no part takes [`Sticky::PASSES`] passes to convert, and then it is let go of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sticky {
    /// The result that the bit was last read with, and how many passes ago.
    seen: Option<(u16, u8)>,
}

impl Sticky {
    const PASSES: u8 = 100;

    /// Whether the bit counts as set, with the `bit` and the `result` of this pass.
    pub(crate) fn is_set(&mut self, bit: bool, result: u16) -> bool {
        self.seen = match self.seen {
            _ if bit => Some((result, 0)),
            Some((same, passes)) if same == result && passes < Self::PASSES => Some((result, passes + 1)),
            _ => None,
        };
        self.seen.is_some()
    }
}

/// The first conversion after a part was configured. What its registers hold until then was not measured with our
/// settings, if it was measured at all. A conversion takes far less than the tick between two passes, so only the first
/// pass needs the part's word for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conversion {
    awaited: bool,
}

impl Conversion {
    /// The part was configured.
    pub(crate) const fn start(&mut self) {
        self.awaited = true;
    }

    /// Whether what is read in this pass was measured; `ready` is the part's flag that a conversion has ended.
    pub(crate) const fn has_ended(&mut self, ready: bool) -> bool {
        !std::mem::replace(&mut self.awaited, false) || ready
    }
}

/// `dividend / divisor` to the nearest whole number, halves away from zero, as the kernel's `DIV_ROUND_CLOSEST` has it;
/// `None` for a divisor of zero or a result beyond 64 bits.
pub(crate) fn div_round_closest(dividend: i64, divisor: i64) -> Option<i64> {
    let half = divisor.checked_div(2)?.checked_abs()?;
    let shifted = if dividend < 0 { dividend.checked_sub(half)? } else { dividend.checked_add(half)? };
    shifted.checked_div(divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_the_kernels() {
        for (dividend, divisor, closest) in [
            (5, 2, Some(3)),
            (-5, 2, Some(-3)),
            (4, 3, Some(1)),
            (-4, 3, Some(-1)),
            (0, 7, Some(0)),
            (1, 0, None),
            (i64::MAX, 2, None),
        ] {
            assert_eq!(div_round_closest(dividend, divisor), closest, "{dividend} / {divisor}");
        }
    }

    #[test]
    fn a_bit_that_was_read_away_counts_until_the_next_result() {
        let mut open = Sticky::default();
        let passes = [(false, 7), (true, 7), (false, 7), (false, 7), (true, 8), (false, 8), (false, 9), (false, 8)];
        let seen = passes.map(|(bit, result)| open.is_set(bit, result));
        assert_eq!(seen, [false, true, true, true, true, true, false, false]);
    }

    #[test]
    fn a_bit_that_flickered_is_let_go_of_although_the_result_stays() {
        let mut open = Sticky::default();
        assert!(open.is_set(true, 25));
        assert!((0..100).all(|_| open.is_set(false, 25)));
        assert!(!open.is_set(false, 25));
        assert!(!open.is_set(false, 25));
        assert!(open.is_set(true, 25), "and is seen again");
    }

    #[test]
    fn a_conversion_is_awaited_for_one_pass_at_most() {
        let mut conversion = Conversion::default();
        assert!(conversion.has_ended(false), "one that nobody configured");
        conversion.start();
        assert_eq!([false, false].map(|ready| conversion.has_ended(ready)), [false, true]);
        conversion.start();
        assert!(conversion.has_ended(true));
    }

    #[test]
    fn parts_have_unique_names_and_something_to_measure() {
        for (i, part) in PARTS.iter().enumerate() {
            assert!(PARTS.iter().skip(i + 1).all(|other| other.name != part.name), "{part:?} is there twice");
            // A memory measures nothing, and has no registers where its addresses are wider than one byte.
            if part.name.starts_with("at24") {
                continue;
            }
            assert!(part.power.len() + part.temperature.len() + part.fan.len() > 0, "{part:?} measures nothing");
            assert!(part.drives_fans || part.watchdog_s.is_empty(), "{part:?}: a watchdog guards fans");
            assert!(part.addresses.iter().all(|range| *range.start() >= 0x08 && *range.end() <= 0x77), "{part:?}");
            #[cfg(feature = "ctl")]
            assert!(!part.registers.list().is_empty(), "{part:?} shows no register");
            let kernel = &part.kernel;
            let named = (kernel.power.len(), kernel.temperature.len(), kernel.fan.len());
            let has = (part.power.len(), part.temperature.len(), part.fan.len());
            assert!(named == (0, 0, 0) || named == has, "{part:?}: the kernel's names are not those of its channels");
        }
    }
}
