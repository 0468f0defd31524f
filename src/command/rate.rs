//! How many commands a second are looked at. Checking a signature takes 70 us, so that a broker that floods a rig with
//! commands would cost it a core; so it costs it [`PER_SECOND`] of them, and one line a second in the audit log.

use std::time::{Duration, Instant};

/// Commands a second in the long run.
pub const PER_SECOND: u32 = 10;
/// Commands at once after a silence.
pub const BURST: u32 = 20;
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A bucket of commands that may be looked at, which fills by itself.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// When it would be full.
    full_at: Instant,
    refused: u64,
    told_at: Option<Instant>,
}

/// What to do with the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Look at it.
    Look,
    /// Drop it unread. `tell`: so many were dropped since the last time that it was told, this one too; tell it now.
    Drop {
        /// How many, at most once a second.
        tell: Option<u64>,
    },
}

impl Rate {
    /// A full bucket.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { full_at: now, refused: 0, told_at: None }
    }

    /// One frame has come.
    pub fn admit(&mut self, now: Instant) -> Admission {
        let each = Duration::from_secs(1) / PER_SECOND;
        let full_at = self.full_at.max(now) + each;
        if full_at.saturating_duration_since(now) <= each * BURST {
            self.full_at = full_at;
            return Admission::Look;
        }
        self.refused += 1;
        let due = self.told_at.is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY);
        Admission::Drop { tell: if due { self.tell(now) } else { None } }
    }

    /// Nothing was dropped that was not told.
    #[must_use]
    pub const fn quiet(&self) -> bool {
        self.refused == 0
    }

    /// How many were dropped and not told yet: for when the flood is over.
    pub fn tell(&mut self, now: Instant) -> Option<u64> {
        let refused = std::mem::take(&mut self.refused);
        (refused > 0).then(|| {
            self.told_at = Some(now);
            refused
        })
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
        let (mut looks, mut lines, mut told) = (0, 0, 0);
        for i in 0..10_000 {
            match rate.admit(start + Duration::from_micros(100) * i) {
                Admission::Look => looks += 1,
                Admission::Drop { tell: None } => {}
                Admission::Drop { tell: Some(count) } => {
                    lines += 1;
                    told += count;
                }
            }
        }
        assert_eq!((looks, lines), (BURST + PER_SECOND - 1, 1));
        told += rate.tell(start + Duration::from_secs(1)).unwrap();
        assert_eq!(u64::from(looks) + told, 10_000);
        assert_eq!(rate.tell(start + Duration::from_secs(1)), None);
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
        let looks = (0..100).filter(|_| rate.admit(at) == Admission::Look).count();
        assert_eq!(looks, usize::try_from(BURST).unwrap());
    }
}
