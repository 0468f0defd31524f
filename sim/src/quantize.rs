//! From the world's real numbers to the whole ones that fit a register.

/// The nearest whole number within the bounds; NaN gives 0.
pub(crate) fn whole(value: f64, low: i32, high: i32) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped into i32 just before, and rounded")]
    let whole = value.round().clamp(f64::from(low), f64::from(high)) as i32;
    whole
}

/// The nearest value of an unsigned 16-bit register that is at most `high`.
pub(crate) fn word(value: f64, high: u16) -> u16 {
    u16::try_from(whole(value, 0, high.into())).unwrap_or(high)
}

/// The nearest value of a signed 16-bit register.
pub(crate) fn signed_word(value: f64) -> i16 {
    i16::try_from(whole(value, i16::MIN.into(), i16::MAX.into())).unwrap_or(0)
}

/// How many, as a real number.
pub(crate) fn count(many: usize) -> f64 {
    u32::try_from(many).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_stops_at_the_bound() {
        for (value, expected) in
            [(1.4, 1), (1.5, 2), (-3.0, 0), (70_000.0, 65_535), (f64::NAN, 0), (f64::INFINITY, 65_535)]
        {
            assert_eq!(word(value, u16::MAX), expected, "{value}");
        }
        assert_eq!((signed_word(-40_000.0), signed_word(-1.5)), (i16::MIN, -2));
    }
}
