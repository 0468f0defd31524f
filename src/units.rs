//! Quantities as types: whole numbers in the unit that the chip, hwmon or NVML already uses.
//!
//! The type carries the unit, so nothing is ever multiplied by a thousand twice. Integers give `Eq`, `Ord`, exact bytes
//! on the wire and no NaN; a fraction exists only inside a driver's own formula.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($repr:ty), $symbol:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{} ", $symbol), self.0)
            }
        }

        impl TryFrom<i64> for $name {
            type Error = OutOfRange;

            fn try_from(value: i64) -> Result<Self, OutOfRange> {
                <$repr>::try_from(value).map(Self).map_err(|_| OutOfRange)
            }
        }
    };
}

/// A formula gave a number that the unit cannot hold; no sensor means such a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("value is outside its unit's range")]
pub struct OutOfRange;

unit!(
    /// Electric potential, 0 to 4.2 MV: the chips here measure against ground.
    Millivolts(u32), "mV"
);
unit!(
    /// Electric current; negative where it flows back into the supply.
    Milliamps(i32), "mA"
);
unit!(
    /// Power, always a magnitude: power registers have no sign.
    Milliwatts(u32), "mW"
);
unit!(
    /// How fast power may change.
    MilliwattsPerSecond(u32), "mW/s"
);
unit!(
    /// Temperature in thousandths of a degree Celsius, as hwmon has it.
    Millicelsius(i32), "m°C"
);
unit!(
    /// Revolutions a minute. 0 means measured and standing; a missing tachometer is a [`crate::reading::Missing`].
    Rpm(u16), "rpm"
);
unit!(
    /// Clock frequency.
    Megahertz(u32), "MHz"
);
unit!(
    /// Difference from the clock frequency that the maker set.
    MegahertzOffset(i32), "MHz"
);
unit!(
    /// Energy as NVML counts it: since the driver was loaded.
    Millijoules(u64), "mJ"
);
unit!(
    /// Energy as it is added up: a milliwatt for a millisecond is one exactly. Ends at 5 GWh.
    Microjoules(u64), "µJ"
);
unit!(
    /// Memory, 2^20 bytes.
    Mebibytes(u32), "MiB"
);
unit!(
    /// A part of a whole, 0 to 100 where nothing is wrong.
    Percent(u8), "%"
);
unit!(
    /// Work of a payload in thousandths a second: of a hash, a token, a request or a job. Ends at 18 PH/s, which no rig of
    /// graphics cards does.
    MilliPerSecond(u64), "1/1000 s"
);
unit!(
    /// What a unit of work is worth: millionths of a currency unit for 10^12 hashes, tokens, requests or jobs. Which currency is
    /// for whoever gives the prices; all are in the same one.
    MicroPerTera(u64), "µ/T"
);
unit!(
    /// What energy costs: millionths of a currency unit for a kilowatt-hour; below zero where its buyer is paid.
    MicroPerKilowattHour(i64), "µ/kWh"
);
unit!(
    /// What is earned: millionths of a currency unit an hour.
    MicroPerHour(i64), "µ/h"
);
unit!(
    /// Shunt resistance in microohm, 1 to 4.2 kOhm.
    Microohms(u32), "µΩ"
);

impl Microjoules {
    /// Whole milliwatt-hours: 3.6 J each.
    #[must_use]
    pub const fn milliwatt_hours(self) -> u64 {
        self.0 / 3_600_000
    }
}

/// Fan drive, 0 to 100 % in steps of a hundredth of a percent: fine enough that a slew limit holds at 100 ticks a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Duty(u16);

impl Duty {
    /// No drive at all.
    pub const OFF: Self = Self(0);
    /// All the air there is.
    pub const FULL: Self = Self(Self::ONE);
    /// Hundredths of a percent in the whole.
    const ONE: u16 = 10_000;

    /// Whole percent; `None` above 100.
    #[must_use]
    pub const fn from_percent(percent: u8) -> Option<Self> {
        if percent > 100 { None } else { Some(Self(percent as u16 * 100)) }
    }

    /// Hundredths of a percent, taken as full drive above 10 000.
    #[must_use]
    pub fn saturating(hundredths: u32) -> Self {
        Self(u16::try_from(hundredths).map_or(Self::ONE, |h| h.min(Self::ONE)))
    }

    /// Hundredths of a percent, 0 to 10 000.
    #[must_use]
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// This part of `full_scale`, rounded to the nearest: what goes into a PWM register whose 100 % is `full_scale`.
    #[must_use]
    pub fn of(self, full_scale: u16) -> u16 {
        let scaled = (u32::from(self.0) * u32::from(full_scale) + u32::from(Self::ONE) / 2) / u32::from(Self::ONE);
        u16::try_from(scaled).unwrap_or(full_scale)
    }

    /// What `count` of `full_scale` is, rounded to the nearest and full drive above; `None` for a scale of zero.
    #[must_use]
    pub fn from_ratio(count: u16, full_scale: u16) -> Option<Self> {
        let scale = u32::from(full_scale);
        let scaled = (u32::from(count) * u32::from(Self::ONE) + scale / 2).checked_div(scale)?;
        Some(Self::saturating(scaled))
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

impl TryFrom<u16> for Duty {
    type Error = OutOfRange;

    fn try_from(hundredths: u16) -> Result<Self, OutOfRange> {
        if hundredths <= Self::ONE { Ok(Self(hundredths)) } else { Err(OutOfRange) }
    }
}

impl TryFrom<i64> for Duty {
    type Error = OutOfRange;

    fn try_from(hundredths: i64) -> Result<Self, OutOfRange> {
        u16::try_from(hundredths).map_err(|_| OutOfRange)?.try_into()
    }
}

impl From<Duty> for u16 {
    fn from(duty: Duty) -> Self {
        duty.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duty_meets_nine_bit_registers_at_both_ends_and_comes_back() {
        for (hundredths, count) in [(0, 0), (10, 1), (5_000, 256), (9_990, 510), (10_000, 511)] {
            let duty = Duty::saturating(hundredths);
            assert_eq!(duty.of(511), count, "{duty}");
            let back = Duty::from_ratio(count, 511).map(Duty::hundredths).map(u32::from);
            assert!(back.is_some_and(|b| b.abs_diff(hundredths) <= 10), "{duty} came back as {back:?}");
        }
    }

    #[test]
    fn duty_cannot_leave_its_range() {
        assert_eq!(Duty::from_percent(101), None);
        assert_eq!(Duty::saturating(u32::MAX), Duty::FULL);
        assert_eq!(Duty::from_ratio(9, 0), None);
        assert_eq!(Duty::from_ratio(600, 511), Some(Duty::FULL));
        assert_eq!(Duty::try_from(10_001_u16), Err(OutOfRange));
    }

    #[test]
    fn a_value_outside_its_unit_is_refused_not_wrapped() {
        assert_eq!(Rpm::try_from(65_536), Err(OutOfRange));
        assert_eq!(Millivolts::try_from(-1), Err(OutOfRange));
        assert_eq!(Milliamps::try_from(-1_500), Ok(Milliamps(-1_500)));
    }

    #[test]
    fn units_print_with_their_symbol() {
        assert_eq!(Millicelsius(-250).to_string(), "-250 m°C");
        assert_eq!(Duty::saturating(4_205).to_string(), "42.05 %");
    }
}
