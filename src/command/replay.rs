//! Which counters of a key were used.
//!
//! A key counts over all rigs, so one rig sees some of its numbers only, and a broker may bring them in another order. Kept
//! are the [`KEPT`] highest that were used; whatever is not above the lowest of so many is too old to tell and is used up.

use serde::{Deserialize, Serialize};

/// Counters kept for each key.
pub const KEPT: usize = 64;

/// The counters of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used(Vec<u64>);

impl Used {
    /// Whether it was not used, for certain.
    #[must_use]
    pub fn fresh(&self, counter: u64) -> bool {
        let above = self.0.len() < KEPT || self.0.first().is_some_and(|lowest| counter > *lowest);
        above && self.0.binary_search(&counter).is_err()
    }

    /// Uses it up.
    pub fn take(&mut self, counter: u64) {
        if let (true, Err(place)) = (self.fresh(counter), self.0.binary_search(&counter)) {
            self.0.insert(place, counter);
            if self.0.len() > KEPT {
                self.0.remove(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_used_once_in_any_order_and_what_is_too_old_never() {
        let mut used = Used::default();
        for counter in [100, 300, 200] {
            assert!(used.fresh(counter));
            used.take(counter);
            assert!(!used.fresh(counter));
        }
        // Enough newer ones, and 150 cannot be told any more.
        assert!(used.fresh(150));
        (1000..1064).for_each(|counter| used.take(counter));
        assert!(!used.fresh(150) && !used.fresh(1000) && used.fresh(1064));
    }

    proptest! {
        #[test]
        fn none_is_fresh_twice(counters in prop::collection::vec(0..300_u64, 0..600)) {
            let (mut used, mut taken) = (Used::default(), std::collections::BTreeSet::new());
            for counter in counters {
                if used.fresh(counter) {
                    prop_assert!(taken.insert(counter));
                }
                used.take(counter);
                prop_assert!(used.0.len() <= KEPT && used.0.is_sorted());
            }
        }
    }
}
