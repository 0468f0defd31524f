//! So many at once, then one every so often.

use std::time::{Duration, Instant};

/// Counts what was spent as time: each start costs `every`, and no more than `burst` of them may be owed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    every: Duration,
    burst: u32,
    /// When nothing is owed any more.
    even: Option<Instant>,
}

impl Pace {
    pub(super) const fn new(every: Duration, burst: u32) -> Self {
        Self { every, burst, even: None }
    }

    /// Takes one.
    ///
    /// # Errors
    /// There is none; the next one is there then.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let even = self.even.map_or(now, |even| even.max(now));
        let owed = even.saturating_duration_since(now);
        let most = self.every * self.burst.saturating_sub(1);
        if owed > most {
            return Err(now + (owed - most));
        }
        self.even = Some(even + self.every);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_every_so_often() {
        let start = crate::clock::now();
        let mut pace = Pace::new(Duration::from_secs(60), 3);
        let mut at = |second: u64| pace.take(start + Duration::from_secs(second));
        for (second, expected) in
            [(0, Ok(())), (1, Ok(())), (2, Ok(())), (3, Err(60)), (59, Err(60)), (60, Ok(())), (61, Err(120))]
        {
            assert_eq!(at(second), expected.map_err(|at| start + Duration::from_secs(at)), "second {second}");
        }
        // Rest gives it all back, and no more than that.
        let later: Vec<_> = (0..4).map(|i| at(10_000 + i).is_ok()).collect();
        assert_eq!(later, [true, true, true, false]);
    }
}
