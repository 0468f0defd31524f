//! Sorting, for short lists. The standard library's sort is made for a million items and costs 4 KB of code for every type that it
//! is used on; collecting into one of its trees sorts first, and costs the same. None of the agent's lists is that long.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// These in their order; of equals, the first one first. Moves half of what it has for each that is new: for up to some thousands.
pub(crate) fn list<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    list_by(items, T::cmp)
}

/// [`list`] in an order of one's own.
pub(crate) fn list_by<T>(items: impl IntoIterator<Item = T>, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    let mut sorted = Vec::new();
    for item in items {
        let place = sorted.partition_point(|other| order(other, &item) != Ordering::Greater);
        sorted.insert(place, item);
    }
    sorted
}

/// These by their keys; of equals, the last one.
pub(crate) fn map<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(entries);
    map
}

/// These, each once.
pub(crate) fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(items);
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_the_standard_library_makes_of_it(items in prop::collection::vec((0..20_u8, any::<u8>()), 0..60)) {
            let mut expected = items.clone();
            expected.sort();
            prop_assert_eq!(list(items.clone()), expected);
            let mut expected = items.clone();
            expected.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(list_by(items.clone(), |a, b| a.0.cmp(&b.0)), expected, "stable");
            prop_assert_eq!(map(items.clone()), items.iter().copied().collect::<BTreeMap<_, _>>());
            prop_assert_eq!(set(items.clone()), items.into_iter().collect::<BTreeSet<_>>());
        }
    }
}
