//! When to commit, and when to tell a rig: pure.
//!
//! A commit costs a sync of the disk, 0.1 ms to 10 ms, whatever is in it. So a batch waits for more, but never when there is
//! nothing to wait for: a broker hands over no more than its `max_inflight_messages` (20 by default) before it wants
//! acknowledgements, and those come after the commit. A batch that waited 50 ms in any case would mean 400 messages/s there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wire::{RigId, Watermark};

/// Messages in one transaction at most.
pub(super) const BATCH: usize = 500;
/// The first message of a batch waits so long at most.
const LINGER: Duration = Duration::from_millis(50);
/// Nothing more has come for so long: nothing more will before this is acknowledged.
const QUIET: Duration = Duration::from_millis(2);
/// A rig is told no more often than this.
const TELL: Duration = Duration::from_millis(250);

/// When the batch is to be committed that has so many messages, the first and the last of which came then.
pub(super) fn commit_at(messages: usize, first: Instant, last: Instant) -> Instant {
    if messages >= BATCH { first } else { (first + LINGER).min(last + QUIET) }
}

/// Watermarks that wait to be told. A later one for the same rig takes the place of an earlier: there is one per rig at most.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    rigs: BTreeMap<RigId, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    waiting: Option<Watermark>,
    told: Option<Instant>,
}

impl Slot {
    fn due(&self) -> Option<Instant> {
        self.told.map(|told| told + TELL)
    }
}

impl Outlet {
    pub(super) fn put(&mut self, rig: RigId, watermark: Watermark) {
        self.rigs.entry(rig).or_default().waiting = Some(watermark);
    }

    /// One that may be told now; it counts as told.
    pub(super) fn next(&mut self, now: Instant) -> Option<(RigId, Watermark)> {
        // What was told long ago and says nothing is no longer remembered.
        self.rigs.retain(|_, slot| slot.waiting.is_some() || slot.due().is_some_and(|due| due > now));
        let ready = |slot: &Slot| slot.waiting.is_some() && slot.due().is_none_or(|due| due <= now);
        let (rig, slot) = self.rigs.iter_mut().find(|(_, slot)| ready(slot))?;
        slot.told = Some(now);
        slot.waiting.take().map(|watermark| (rig.clone(), watermark))
    }

    /// When the next one may be told; none where none waits.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.rigs.values().filter(|slot| slot.waiting.is_some()).map(|slot| slot.due().unwrap_or(now)).min()
    }

    /// Everything that waits, paced no longer: for the end.
    pub(super) fn hurry(&mut self) {
        for slot in self.rigs.values_mut() {
            slot.told = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::wire::{Kind, Mark};

    fn watermark(seq: u64) -> Watermark {
        Watermark { marks: vec![Mark { boot: 1, lane: Kind::Telemetry, seq }] }
    }

    #[test]
    fn a_batch_waits_for_more_while_more_comes_and_no_longer() {
        let start = clock::now();
        let ms = |ms| start + Duration::from_millis(ms);
        for (name, messages, last, expected) in [
            ("alone", 1, 0, 2),
            ("a broker's window", 20, 1, 3),
            ("a steady stream", 30, 49, 50),
            ("full", BATCH, 10, 0),
            ("more than full", BATCH + 7, 10, 0),
        ] {
            assert_eq!(commit_at(messages, start, ms(last)), ms(expected), "{name}");
        }
    }

    #[test]
    fn a_rig_is_told_the_newest_and_four_times_a_second_at_most() {
        let (a, b): (RigId, RigId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let start = clock::now();
        let mut outlet = Outlet::default();
        let mut told = Vec::new();
        for ms in 0..2_000 {
            let now = start + Duration::from_millis(ms);
            outlet.put(a.clone(), watermark(ms));
            if ms == 700 {
                outlet.put(b.clone(), watermark(1));
            }
            while let Some((rig, watermark)) = outlet.next(now) {
                told.push((ms, rig, watermark));
            }
        }
        let expected: Vec<_> = (0..2_000).step_by(250).map(|ms| (ms, a.clone(), watermark(ms))).collect();
        let of_a: Vec<_> = told.iter().filter(|(_, rig, _)| *rig == a).cloned().collect();
        assert_eq!(of_a, expected);
        assert_eq!(told.iter().filter(|(_, rig, _)| *rig == b).count(), 1);
        assert_eq!(outlet.due(start), Some(start + Duration::from_millis(2_000)));
        outlet.hurry();
        assert_eq!(outlet.next(start), Some((a, watermark(1_999))));
        assert_eq!((outlet.next(start), outlet.due(start)), (None, None));
    }
}
