//! When to try again: exponential with full jitter, from 0.25 to 30 s.
//!
//! The first retry comes within a quarter of a second, so that a restart of the broker costs less than one; the jitter
//! spreads a site's rigs over the whole of each step (Marc Brooker, "Exponential Backoff And Jitter", AWS 2015).

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(30);
/// A connection that held for so long was a good one: the next failure starts from the beginning. One that did not
/// (refused after the handshake, kicked off by a twin) keeps backing off.
pub(crate) const GOOD: Duration = Duration::from_secs(10);

/// Counts failures and spreads retries.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    failures: u32,
    random: u64,
}

impl BackOff {
    pub(crate) const fn new(seed: u64) -> Self {
        // Spread over all bits (Knuth's multiplicative hash): a small seed would give small numbers at first. Odd, because
        // xorshift stays at zero once it is there.
        Self { failures: 0, random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// A connection ended after it had been up for `held`; how long to wait before the next.
    pub(crate) fn next(&mut self, held: Duration) -> Duration {
        if held >= GOOD {
            self.failures = 0;
        }
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(7)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(self.fraction())
    }

    /// Uniform in 0..1 (Marsaglia, "Xorshift RNGs", 2003): jitter needs no more.
    fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [a, b, c, d, ..] = self.random.to_be_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_spread_below_a_ceiling_that_doubles_to_thirty_seconds() {
        let ceilings_ms = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000];
        let mut widest = [0; 10];
        for seed in 0..500 {
            let mut backoff = BackOff::new(seed);
            for (ceiling, widest) in ceilings_ms.into_iter().zip(&mut widest) {
                let wait = backoff.next(Duration::ZERO).as_millis();
                assert!(wait < ceiling, "{wait} ms against {ceiling} ms");
                *widest = wait.max(*widest);
            }
        }
        assert!(ceilings_ms.into_iter().zip(widest).all(|(ceiling, widest)| widest * 10 > ceiling * 9), "{widest:?}");
    }

    #[test]
    fn only_a_connection_that_held_starts_over() {
        let mut backoff = BackOff::new(7);
        for _ in 0..20 {
            backoff.next(Duration::from_secs(1));
        }
        assert!(backoff.failures > 10);
        assert!(backoff.next(GOOD) < FIRST);
    }
}
