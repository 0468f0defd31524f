//! Which numbers of one lane are accounted for: stored, or declared as dropped by the rig.
//!
//! A set of numbers as ranges that neither overlap nor touch. A lane that is complete is one range from 1, whatever its length;
//! each hole adds one. There are at most [`RANGES`]: at the bound the highest range is forgotten, which is safe because the
//! store still has it. The mark is never ahead of the store, it only lags, and [`Marks::forgot`] tells the store when to
//! read again what was forgotten.

use std::collections::BTreeMap;

/// Ranges remembered per lane at most: 160 kB. A lane has so many holes only where somebody plays with it.
pub const RANGES: usize = 10_000;

/// The numbers of one lane that are accounted for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// First to last, both included.
    ranges: BTreeMap<u64, u64>,
    /// A range was forgotten at the bound.
    forgot: bool,
}

impl Marks {
    /// A lane of which every number up to this one is accounted for.
    #[must_use]
    pub fn from_complete(complete: u64) -> Self {
        let mut marks = Self::default();
        marks.declare(1, complete);
        marks
    }

    /// Accounts for one number; `false` where it was already. 0 numbers nothing.
    pub fn insert(&mut self, seq: u64) -> bool {
        !self.covers(seq) && self.declare(seq, seq)
    }

    /// Accounts for all numbers from `first` to `last`, both included; `false` where that changes nothing. 0 numbers
    /// nothing, and a range that ends before it begins is none.
    pub fn declare(&mut self, first: u64, last: u64) -> bool {
        let (mut first, mut last) = (first.max(1), last);
        if first > last || self.ranges.range(..=first).next_back().is_some_and(|(_, end)| *end >= last) {
            return false;
        }
        // What overlaps or touches on the left becomes the beginning, all that does within and on the right goes into it.
        if let Some((start, end)) = self.ranges.range(..first).next_back()
            && *end >= first - 1
        {
            first = *start;
        }
        while let Some((start, end)) = self.ranges.range(first..=last.saturating_add(1)).next() {
            let start = *start;
            last = last.max(*end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(first, last);
        if self.ranges.len() > RANGES {
            self.ranges.pop_last();
            self.forgot = true;
        }
        true
    }

    /// Every number from 1 to this one is accounted for; 0 where the first is not.
    #[must_use]
    pub fn complete(&self) -> u64 {
        self.ranges.first_key_value().filter(|(first, _)| **first == 1).map_or(0, |(_, last)| *last)
    }

    /// Whether this number is accounted for; `false` is also said of what was forgotten.
    #[must_use]
    pub fn covers(&self, seq: u64) -> bool {
        self.ranges.range(..=seq).next_back().is_some_and(|(_, last)| *last >= seq)
    }

    /// Numbers up to the highest one that are not accounted for, as ranges.
    pub fn missing(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut next = 1;
        self.ranges.iter().filter_map(move |(first, last)| {
            let hole = (next, first.saturating_sub(1));
            next = last.saturating_add(1);
            (hole.0 <= hole.1).then_some(hole)
        })
    }

    /// Ranges were forgotten at the bound, and there is room to read them again.
    #[must_use]
    pub fn forgot(&self) -> bool {
        self.forgot && self.ranges.len() <= RANGES / 2
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn marks(ranges: &[(u64, u64)]) -> Marks {
        let mut marks = Marks::default();
        for (first, last) in ranges {
            marks.declare(*first, *last);
        }
        marks
    }

    #[test]
    fn the_mark_is_the_end_of_what_begins_at_one() {
        type Row = (&'static str, &'static [(u64, u64)], u64, &'static [(u64, u64)]);
        let rows: [Row; 12] = [
            ("nothing", &[], 0, &[]),
            ("the first", &[(1, 1)], 1, &[]),
            ("not the first", &[(2, 2)], 0, &[(1, 1)]),
            ("in order", &[(1, 1), (2, 2), (3, 3)], 3, &[]),
            ("backwards", &[(3, 3), (2, 2), (1, 1)], 3, &[]),
            ("a hole", &[(1, 1), (3, 3)], 1, &[(2, 2)]),
            ("a hole that is filled", &[(1, 1), (3, 3), (2, 2)], 3, &[]),
            ("a gap over what is stored", &[(1, 1), (3, 3), (5, 5), (2, 4)], 5, &[]),
            ("a gap inside of what is stored", &[(1, 9), (3, 4)], 9, &[]),
            ("zero numbers nothing", &[(0, 0)], 0, &[]),
            ("a gap that ends before it begins", &[(5, 4)], 0, &[]),
            ("the last number that there is", &[(1, 1), (u64::MAX, u64::MAX)], 1, &[(2, u64::MAX - 1)]),
        ];
        for (name, ranges, complete, missing) in rows {
            let marks = marks(ranges);
            assert_eq!(marks.complete(), complete, "{name}");
            assert_eq!(marks.missing().collect::<Vec<_>>(), missing, "{name}");
        }
    }

    #[test]
    fn a_number_comes_once() {
        let mut marks = Marks::from_complete(7);
        assert_eq!((marks.insert(7), marks.insert(8), marks.insert(8), marks.insert(0)), (false, true, false, false));
        assert_eq!(marks.complete(), 8);
    }

    /// The mark lags and is never ahead; what is remembered is bounded.
    #[test]
    fn at_the_bound_the_highest_is_forgotten() {
        let mut marks = Marks::default();
        let last = 2 * u64::try_from(RANGES).unwrap() + 2;
        for seq in (2..=last).step_by(2) {
            assert!(marks.insert(seq));
        }
        assert_eq!((marks.ranges.len(), marks.covers(last), marks.covers(last - 2)), (RANGES, false, true));
        assert!(!marks.forgot(), "there is no room to read it again yet");
        for seq in (1..last).step_by(2) {
            marks.insert(seq);
        }
        assert_eq!(marks.complete(), last - 1);
        assert!(marks.forgot());
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_all_that_was_said(said in prop::collection::vec((0..60_u64, 0..6_u64), 0..40)) {
            let mut marks = Marks::default();
            let mut all = BTreeSet::new();
            for (first, length) in said {
                let news: BTreeSet<u64> = (first.max(1)..first + length).collect();
                let changed = if length == 1 { marks.insert(first) } else { marks.declare(first, (first + length).saturating_sub(1)) };
                prop_assert_eq!(changed, !news.is_subset(&all));
                all.extend(news);
                let complete = (1..).take_while(|seq| all.contains(seq)).last().unwrap_or(0);
                prop_assert_eq!(marks.complete(), complete);
                for seq in 0..70 {
                    prop_assert_eq!(marks.covers(seq), all.contains(&seq));
                }
                let top = all.last().copied().unwrap_or(0);
                let missing: BTreeSet<u64> = (1..=top).filter(|seq| !all.contains(seq)).collect();
                let told: BTreeSet<u64> = marks.missing().flat_map(|(first, last)| first..=last).collect();
                prop_assert_eq!(told, missing);
                // Ranges neither overlap nor touch.
                let ends: Vec<(u64, u64)> = marks.ranges.clone().into_iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
