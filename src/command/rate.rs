//! How many commands a second are looked at, and how often that is told.
//!
//! Checking a signature takes 70 us and writing a command down an fsync, so that a broker that floods a rig with frames would cost it
//! its core and its disk. Two buckets, one behind the other:
//!
//! | frames | what becomes of them | cost at most |
//! |---|---|---|
//! | [`PER_SECOND`], or [`BURST`] after a silence | looked at, written down, carried out | an fsync and 70 us each |
//! | [`EXCESS_PER_SECOND`] more, or [`EXCESS_BURST`] | signed by a key of ours: refused by name, as too many; nothing else is read of it | 70 us each: 3.5 ms a second |
//! | the rest | dropped unread and counted | nothing |
//!
//! What is refused as too many uses nothing up, neither its name nor its counter: the same frame can be sent again.

use std::time::{Duration, Instant};

/// Commands a second in the long run.
pub const PER_SECOND: u32 = 10;
/// Commands at once after a silence.
pub const BURST: u32 = 20;
/// Commands over that that are answered, a second in the long run.
pub const EXCESS_PER_SECOND: u32 = 50;
/// Commands over the burst that are answered after a silence.
pub const EXCESS_BURST: u32 = 200;
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Counts what is told in one line now and then.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    every: Duration,
    count: u64,
    told_at: Option<Instant>,
}

impl Tally {
    /// Nothing yet; it is told no more often than this.
    #[must_use]
    pub const fn new(every: Duration) -> Self {
        Self { every, count: 0, told_at: None }
    }

    /// One more. Where it is time to tell: how many since the last time, this one too.
    pub fn add(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        self.tell(now)
    }

    /// How many were not told, where it is time to tell: for when it is over.
    pub fn tell(&mut self, now: Instant) -> Option<u64> {
        let due = self.told_at.is_none_or(|told| now.saturating_duration_since(told) >= self.every);
        (due && self.count > 0).then(|| {
            self.told_at = Some(now);
            std::mem::take(&mut self.count)
        })
    }

    /// Everything was told.
    #[must_use]
    pub const fn quiet(&self) -> bool {
        self.count == 0
    }
}

/// A bucket that fills by itself.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it would be full.
    full_at: Instant,
    each: Duration,
    burst: u32,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.each;
        let good = full_at.saturating_duration_since(now) <= self.each * self.burst;
        if good {
            self.full_at = full_at;
        }
        good
    }
}

/// How many frames may be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    looks: Bucket,
    excess: Bucket,
    dropped: Tally,
}

/// What to do with the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Look at it.
    Look,
    /// Refuse it as one too many, where a key of ours signed it.
    Excess,
    /// Drop it unread. `tell`: so many were dropped since the last time that it was told, this one too; tell it now.
    Drop {
        /// How many, at most once a second.
        tell: Option<u64>,
    },
}

impl Rate {
    /// Full buckets.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let bucket = |per_second, burst| Bucket { full_at: now, each: Duration::from_secs(1) / per_second, burst };
        Self {
            looks: bucket(PER_SECOND, BURST),
            excess: bucket(EXCESS_PER_SECOND, EXCESS_BURST),
            dropped: Tally::new(TELL_EVERY),
        }
    }

    /// One frame has come.
    pub fn admit(&mut self, now: Instant) -> Admission {
        if self.looks.take(now) {
            Admission::Look
        } else if self.excess.take(now) {
            Admission::Excess
        } else {
            Admission::Drop { tell: self.dropped.add(now) }
        }
    }

    /// Nothing was dropped that was not told.
    #[must_use]
    pub const fn quiet(&self) -> bool {
        self.dropped.quiet()
    }

    /// How many were dropped and not told yet: for when the flood is over.
    pub fn tell(&mut self, now: Instant) -> Option<u64> {
        self.dropped.tell(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn ten_thousand_in_a_second_are_thirty_looks_and_two_lines() {
        let start = clock::now();
        let mut rate = Rate::new(start);
        let (mut looks, mut answers, mut lines, mut told) = (0, 0, 0, 0);
        for i in 0..10_000 {
            match rate.admit(start + Duration::from_micros(100) * i) {
                Admission::Look => looks += 1,
                Admission::Excess => answers += 1,
                Admission::Drop { tell: None } => {}
                Admission::Drop { tell: Some(count) } => {
                    lines += 1;
                    told += count;
                }
            }
        }
        assert_eq!((looks, lines), (BURST + PER_SECOND - 1, 1));
        assert!((EXCESS_BURST..=EXCESS_BURST + EXCESS_PER_SECOND).contains(&answers), "{answers}");
        let over = start + Duration::from_secs(2);
        told += rate.tell(over).unwrap();
        assert_eq!(u64::from(looks + answers) + told, 10_000);
        assert!(rate.quiet() && rate.tell(over).is_none());
    }

    #[test]
    fn ten_a_second_go_through_for_ever_and_a_silence_gives_a_burst() {
        let start = clock::now();
        let mut rate = Rate::new(start);
        let mut at = start;
        for _ in 0..1_000 {
            assert_eq!(rate.admit(at), Admission::Look);
            at += Duration::from_millis(100);
        }
        at += Duration::from_secs(3600);
        let admitted: Vec<_> = (0..100).map(|_| rate.admit(at)).collect();
        let looks = admitted.iter().filter(|one| **one == Admission::Look).count();
        // Nobody who sends a hundred at once goes without an answer.
        let answers = admitted.iter().filter(|one| **one == Admission::Excess).count();
        assert_eq!((looks, answers), (usize::try_from(BURST).unwrap(), 80));
    }

    #[test]
    fn what_is_counted_is_told_at_once_and_then_now_and_then() {
        let start = clock::now();
        let mut tally = Tally::new(Duration::from_secs(10));
        let told: Vec<_> = (0..25).filter_map(|s| tally.add(start + Duration::from_secs(s))).collect();
        assert_eq!((told, tally.quiet()), (vec![1, 10, 10], false));
        assert_eq!(tally.tell(start + Duration::from_secs(30)), Some(4));
        assert_eq!(tally.tell(start + Duration::from_secs(90)), None);
    }
}
