//! Quantities as people say them: volts and not millivolts, cut and not rounded, for a screen.

use rigd::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts};

/// What comes from others, without what could drive the operator's terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Thousandths as units with so many decimals.
pub(crate) fn milli(value: impl Into<i64>, decimals: u32) -> String {
    let value: i64 = value.into();
    let magnitude = value.unsigned_abs();
    let step = 10_u64.pow(3 - decimals.min(3));
    // What is cut to nothing has no sign.
    let sign = if value < 0 && magnitude >= step { "-" } else { "" };
    if decimals == 0 {
        return format!("{sign}{}", magnitude / 1000);
    }
    let fraction = magnitude % 1000 / step;
    let width = usize::try_from(decimals).unwrap_or(0);
    format!("{sign}{}.{fraction:0width$}", magnitude / 1000)
}

/// Volts.
pub(crate) fn volts(voltage: Millivolts) -> String {
    milli(voltage.0, 3)
}

/// Amperes.
pub(crate) fn amperes(current: Milliamps) -> String {
    milli(current.0, 2)
}

/// Watts.
pub(crate) fn watts(power: Milliwatts) -> String {
    milli(power.0, 1)
}

/// Degrees.
pub(crate) fn celsius(temperature: Millicelsius) -> String {
    milli(temperature.0, 1)
}

/// Percent, to the nearest.
pub(crate) fn percent(duty: Duty) -> String {
    format!("{} %", (duty.hundredths() + 50) / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousandths_are_cut() {
        for (value, decimals, expected) in [
            (12_054, 3, "12.054"),
            (-1_259, 2, "-1.25"),
            (-5, 2, "0.00"),
            (43_690, 1, "43.6"),
            (-999, 0, "0"),
            (-1_000, 0, "-1"),
        ] {
            assert_eq!(milli(value, decimals), expected);
        }
        assert_eq!(percent(Duty::saturating(4_250)), "43 %");
    }
}
