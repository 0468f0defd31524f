//! Axes: round numbers at even steps, and where a value is between them. Whole numbers throughout.

use std::ops::RangeInclusive;

/// An axis of values, from one round number to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) low: i64,
    pub(super) high: i64,
    pub(super) step: i64,
}

impl Axis {
    /// The shortest that holds both ends and has at most so many steps, of 1, 2 or 5 times a power of ten.
    pub(super) fn new(low: i64, high: i64, most: i64) -> Self {
        let steps = (0..18).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_i64.pow(power)));
        let axis = |step: i64| Self { low: low.div_euclid(step) * step, high: -(-high).div_euclid(step) * step, step };
        let fits = |axis: &Self| axis.high - axis.low <= axis.step * most.max(1);
        let found = steps.map(axis).find(fits).unwrap_or(Self { low, high, step: (high - low).max(1) });
        Self { high: found.high.max(found.low + found.step), ..found }
    }

    /// Its round numbers, the lowest first.
    pub(super) fn ticks(self) -> impl Iterator<Item = i64> {
        (0..=(self.high - self.low) / self.step).map(move |i| self.low + i * self.step)
    }

    /// Where a value is when the axis goes from `ends.0` to `ends.1`; what is outside is at the end.
    pub(super) fn place(self, value: i64, ends: (i32, i32)) -> i32 {
        place(value, self.low..=self.high, ends)
    }

    /// How many decimals tell its round numbers apart, where `one` is a whole.
    pub(super) fn decimals(self, one: i64) -> usize {
        let fits = |decimals: &u32| (self.step * 10_i64.pow(*decimals)).rem_euclid(one) == 0;
        usize::try_from((0..4).find(fits).unwrap_or(4)).unwrap_or(4)
    }
}

/// Where a value of `range` is between `ends`, to the nearest.
pub(super) fn place(value: i64, range: RangeInclusive<i64>, ends: (i32, i32)) -> i32 {
    let (low, high) = range.into_inner();
    let span = i128::from((high - low).max(1));
    let part = i128::from(value.clamp(low, high.max(low)) - low);
    let way = i128::from(ends.1) - i128::from(ends.0);
    let moved = (2 * part * way + span * way.signum()) / (2 * span);
    i32::try_from(i128::from(ends.0) + moved).unwrap_or(ends.1)
}

/// Round times before now in ms, and how they are written at an axis: every so often that there are at most `most`.
/// `zero` is what the last moment is called.
pub(super) fn times(span_ms: i64, most: i64, zero: &str) -> impl Iterator<Item = (i64, String)> {
    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    const SHORT: [i64; 12] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, HOUR];
    const LONG: [i64; 9] = [2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY, 90 * DAY];
    let mut steps = SHORT.into_iter().chain(LONG);
    let step = steps.find(|step| span_ms / (step * 1_000) < most).unwrap_or(365 * DAY);
    // All of an axis in one unit.
    let (one, unit) = match step {
        DAY.. => (DAY, "d"),
        step if step > HOUR => (HOUR, "h"),
        step if step % 60 == 0 => (60, "min"),
        _ => (1, "s"),
    };
    (0..=span_ms / (step * 1_000)).map(move |i| match i * step {
        0 => (0, zero.to_owned()),
        seconds => (seconds * 1_000, format!("-{} {unit}", seconds / one)),
    })
}

/// A number of thousandths, or of whatever `one` is a whole, rounded to so many decimals.
pub(super) fn number(value: i64, one: i64, decimals: usize) -> String {
    let factor = 10_i64.pow(u32::try_from(decimals).unwrap_or(0));
    let rounded = (2 * value.abs() * factor + one) / (2 * one);
    let sign = if value < 0 && rounded != 0 { "-" } else { "" };
    let whole = rounded / factor;
    if decimals == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{:0decimals$}", rounded % factor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_round_short_and_holds_everything() {
        for (low, high, most, expected) in [
            (0, 10_000, 5, (0, 10_000, 2_000)),
            (0, 243_017, 5, (0, 250_000, 50_000)),
            (24_187, 46_900, 5, (20_000, 50_000, 10_000)),
            (-1_200, 800, 4, (-2_000, 1_000, 1_000)),
            (43_111, 43_499, 4, (43_100, 43_500, 100)),
            (5, 5, 5, (5, 6, 1)),
            (0, 0, 1, (0, 1, 1)),
        ] {
            let axis = Axis::new(low, high, most);
            assert_eq!((axis.low, axis.high, axis.step), expected, "{low} to {high}");
            assert!(axis.ticks().count() <= usize::try_from(most).unwrap() + 1);
        }
        let extreme = Axis::new(i64::from(i32::MIN), i64::from(i32::MAX), 5);
        assert_eq!(extreme.ticks().last(), Some(extreme.high));
    }

    #[test]
    fn a_value_has_its_place() {
        let axis = Axis::new(0, 100, 5);
        for (value, expected) in [(0, 400), (100, 0), (50, 200), (-7, 400), (1_000, 0), (1, 396)] {
            assert_eq!(axis.place(value, (400, 0)), expected, "{value}");
        }
        assert_eq!(place(2, 0..=3, (0, 10)), 7, "to the nearest");
        assert_eq!(place(2, 5..=5, (0, 10)), 0);
    }

    #[test]
    fn times_are_round_and_few() {
        for (span_s, most, expected) in [
            (3_600, 8, &["now", "-10 min", "-20 min", "-30 min", "-40 min", "-50 min", "-60 min"][..]),
            (3_600, 3, &["now", "-30 min", "-60 min"]),
            (95, 5, &["now", "-30 s", "-60 s", "-90 s"]),
            (48 * 3_600, 10, &["now", "-6 h", "-12 h", "-18 h", "-24 h", "-30 h", "-36 h", "-42 h", "-48 h"]),
            (7 * 86_400, 8, &["now", "-1 d", "-2 d", "-3 d", "-4 d", "-5 d", "-6 d", "-7 d"]),
            (4, 8, &["now", "-1 s", "-2 s", "-3 s", "-4 s"]),
        ] {
            let labels: Vec<_> = times(span_s * 1_000, most, "now").map(|(_, label)| label).collect();
            assert_eq!(labels, expected);
        }
    }

    #[test]
    fn numbers_are_rounded_to_their_decimals() {
        for (value, one, decimals, expected) in [
            (43_250, 1_000, 1, "43.3"),
            (-43_249, 1_000, 1, "-43.2"),
            (-20, 1_000, 1, "0.0"),
            (4_990, 100, 0, "50"),
            (1_980_500, 1_000, 0, "1981"),
            (7, 1_000, 3, "0.007"),
        ] {
            assert_eq!(number(value, one, decimals), expected);
        }
        assert_eq!(Axis::new(43_111, 43_499, 4).decimals(1_000), 1);
        assert_eq!(Axis::new(0, 10_000, 5).decimals(100), 0);
    }
}
