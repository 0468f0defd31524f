//! A few values as one: median, least and most.

/// Values of one figure, as they were measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Values(Vec<f64>);

impl Values {
    pub(crate) fn push(&mut self, value: f64) {
        let place = self.0.partition_point(|other| *other < value);
        self.0.insert(place, value);
    }

    /// The middle one, or the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        let half = self.0.len() / 2;
        let upper = *self.0.get(half)?;
        if self.0.len() % 2 == 1 {
            return Some(upper);
        }
        Some((self.0.get(half.checked_sub(1)?)? + upper) / 2.0)
    }

    /// The value that this part of them, 0 to 1, does not pass.
    pub(crate) fn part(&self, part: f64) -> Option<f64> {
        let below = self.0.iter().enumerate().filter(|(index, _)| number(*index) < part * number(self.0.len()));
        below.map(|(_, value)| *value).next_back().or_else(|| self.least())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn least(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub(crate) fn most(&self) -> Option<f64> {
        self.0.last().copied()
    }
}

/// A count or a size. Above four thousand million it is taken as that: none of ours comes near.
pub(crate) fn number(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_many() {
        let mut values = Values::default();
        (1..=200).for_each(|value| values.push(f64::from(value)));
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| values.part(part)), [1.0, 100.0, 198.0, 200.0].map(Some));
        assert_eq!(Values::default().part(0.5), None);
    }

    #[test]
    fn the_middle_of_few() {
        for (values, expected) in [
            (&[][..], (None, None, None)),
            (&[3.0], (Some(3.0), Some(3.0), Some(3.0))),
            (&[9.0, 1.0], (Some(5.0), Some(1.0), Some(9.0))),
            (&[9.0, 1.0, 2.0], (Some(2.0), Some(1.0), Some(9.0))),
        ] {
            let mut sorted = Values::default();
            values.iter().for_each(|value| sorted.push(*value));
            assert_eq!((sorted.median(), sorted.least(), sorted.most()), expected, "{values:?}");
        }
    }
}
