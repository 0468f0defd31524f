//! Seeded chance: the same seed gives the same rig on every run.
//!
//! SplitMix64 (Steele, Lea, Flood 2014). Not for secrets.

/// A stream of numbers that only its seed decides.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next byte.
    pub const fn byte(&mut self) -> u8 {
        let [byte, ..] = self.bits().to_le_bytes();
        byte
    }

    /// Between `low` and `high`, evenly spread.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        let [a, b, c, d, ..] = self.bits().to_le_bytes();
        low + (high - low) * f64::from(u32::from_le_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
    }

    /// About normal with mean 0 and deviation 1: the sum of twelve even ones.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.between(-0.5, 0.5)).sum()
    }
}

/// Noise that wanders and comes back to zero (Ornstein-Uhlenbeck).
#[derive(Clone, Debug)]
pub struct Drift {
    value: f64,
    /// Standard deviation in the long run.
    deviation: f64,
    /// Time in which it forgets, s.
    tau: f64,
}

impl Drift {
    /// Noise of this size that forgets in `tau` seconds.
    #[must_use]
    pub const fn new(deviation: f64, tau: f64) -> Self {
        Self { value: 0.0, deviation, tau }
    }

    /// What it is `dt` seconds on.
    pub fn step(&mut self, dt: f64, random: &mut Random) -> f64 {
        let kept = (-dt / self.tau).exp();
        self.value = self.value * kept + self.deviation * (1.0 - kept * kept).sqrt() * random.normal();
        self.value
    }

    /// What it is now.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_its_published_numbers() {
        // The first outputs for seed 1234567 of the reference implementation.
        let mut random = Random::new(1_234_567);
        assert_eq!([random.bits(), random.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn drift_keeps_its_deviation_whatever_the_step() {
        for dt in [0.05, 1.0] {
            let (mut random, mut drift) = (Random::new(7), Drift::new(2.0, 3.0));
            let squares: f64 = (0..20_000).map(|_| drift.step(dt, &mut random).powi(2)).sum();
            let deviation = (squares / 20_000.0).sqrt();
            assert!((1.7..2.3).contains(&deviation), "{deviation} at steps of {dt} s");
        }
    }
}
