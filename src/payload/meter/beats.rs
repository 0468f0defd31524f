//! What was heard of one run, as much of it as a verdict takes: thinned and bounded. Pure.

use std::time::Duration;

use super::belief::{Beat, Flag, Rules, believe};
use crate::reading::Reading;
use crate::units::{MilliPerSecond, Milliwatts};

/// Beats that are kept; one more, and the oldest goes. At a beat each five seconds that is more than ten minutes.
const MOST: usize = 128;
/// Closer together they would tell nothing more of a minute.
const APART: Duration = Duration::from_secs(5);

/// The beats of one run of a payload.
#[derive(Clone, Debug)]
pub struct Beats {
    rules: Rules,
    apart: Duration,
    beats: Vec<Beat>,
    flag: Flag,
    /// Rate and work that stood still while power moved: doubted for as long as they stand.
    frozen: Option<(Reading<MilliPerSecond>, Reading<u64>)>,
}

impl Beats {
    /// For a meter that is read in this interval. `steady` and the others are those of [`Rules`].
    #[must_use]
    pub fn new(interval: Duration, work_within: Duration, idle: Milliwatts, steady: bool) -> Self {
        let apart = interval.max(APART);
        let usual = Rules::default();
        // A slow meter needs longer for the same number of beats, and what is older than the oldest beat is not known.
        let window = usual.window.max(interval * 6);
        let longest = apart * u32::try_from(MOST - 8).unwrap_or(1);
        let rules = Rules { window, work_within: work_within.min(longest), idle, steady, ..usual };
        Self { rules, apart, beats: Vec::new(), flag: Flag::Unknown, frozen: None }
    }

    /// Takes a beat, which must not be before the last one, and judges.
    pub fn take(&mut self, beat: Beat) -> Flag {
        // A tenth less: beats come at their own pace.
        let early = |last: &Beat| beat.at.saturating_sub(last.at) < self.apart.mul_f32(0.9);
        if self.beats.last().is_some_and(early) {
            return self.flag;
        }
        if self.beats.len() >= MOST {
            self.beats.remove(0);
        }
        self.beats.push(beat);
        let found = believe(&self.beats, &self.rules);
        let stands = (beat.rate, beat.work);
        self.frozen = if found == Flag::Frozen { Some(stands) } else { self.frozen.filter(|then| *then == stands) };
        // Power that stands again where it has moved to makes the old number no truer.
        self.flag = if self.frozen.is_some() { Flag::Frozen } else { found };
        self.flag
    }

    /// Forgets what was heard: of another run, or while it was not to be judged.
    pub fn forget(&mut self) {
        self.beats.clear();
        (self.flag, self.frozen) = (Flag::Unknown, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beats(interval: u64) -> Beats {
        Beats::new(Duration::from_secs(interval), Duration::from_secs(600), Milliwatts(0), true)
    }

    fn beat(second: u64, rate: u64, work: u64, watts: u32) -> Beat {
        let rate = Ok(MilliPerSecond(rate));
        Beat { at: Duration::from_secs(second), rate, work: Ok(work), power: Ok(Milliwatts(watts * 1_000)) }
    }

    #[test]
    fn a_number_that_froze_stays_doubted_until_it_moves() {
        let mut run = beats(10);
        // seconds from to, rate, work, watts, verdict at the end
        for (from, to, rate, work, watts, expected) in [
            (0, 60, 60_000, 5, 300, Flag::Believed),
            (70, 100, 60_000, 5, 150, Flag::Frozen),
            (110, 300, 60_000, 5, 150, Flag::Frozen),
            (310, 370, 60_000, 6, 150, Flag::Believed),
        ] {
            let flags = (from..=to).step_by(10).map(|second| run.take(beat(second, rate, work, watts)));
            assert_eq!(flags.last(), Some(expected), "{from} to {to}");
        }
        run.forget();
        assert_eq!(run.take(beat(380, 60_000, 6, 150)), Flag::Unknown);
    }

    #[test]
    fn fast_and_slow_meters_keep_a_bounded_past_and_find_the_same() {
        for (interval, count) in [(1, 10_000), (10, 1_000), (30, 1_000), (3_600, 500)] {
            let mut run = beats(interval);
            let last = (0..count).map(|n| run.take(beat(n * interval, 60_000 + n % 7, 5, 300))).last();
            assert!(run.beats.len() <= MOST && run.beats.len() > 50, "{interval} s: {}", run.beats.len());
            assert_eq!(last, Some(Flag::Barren), "{interval} s");
        }
    }
}
