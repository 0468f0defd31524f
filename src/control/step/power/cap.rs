//! What holds of several caps now: the tightest, on its way down by its ramp or deadline and on its way up by the release.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::units::{Milliwatts, MilliwattsPerSecond};

/// Cards and meter together are so many microseconds behind a limit on its way down.
const BEHIND_US: i64 = 800_000;

/// A limit of what the rig draws from the mains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Not to be exceeded once it is reached.
    pub limit: Milliwatts,
    /// How fast the rig comes down to it; at once where neither this nor a deadline is given.
    pub ramp: Option<MilliwattsPerSecond>,
    /// When it must be reached; faster than the ramp where that would be too late.
    pub deadline: Option<Instant>,
    /// When it ends by itself.
    pub until: Option<Instant>,
    /// Where it came from.
    pub source: Source,
}

/// Where a cap came from. Order and numbers go to the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The rig's configuration.
    #[default]
    Configuration,
    /// A command.
    Command,
    /// A schedule or a price, by standing order.
    Schedule,
    /// The grid's operator.
    Grid,
}

/// What held in the last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    limit: Option<i64>,
    source: Source,
    /// When it may rise; none while nothing asks for that.
    rises_at: Option<Instant>,
    /// How far it has come down in this tick.
    fell: i64,
}

impl Held {
    /// How far the rig may be behind a limit that comes down so fast.
    pub(super) fn ahead(self, since: Duration) -> i64 {
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX).max(1);
        self.fell.saturating_mul(BEHIND_US) / micros
    }

    pub(super) const fn source(self) -> Source {
        self.source
    }

    /// The limit now, and whose it is. `drawn` and `most` are what the rig draws now and what it could draw at all.
    pub(super) fn next(
        &mut self,
        policy: &Policy,
        caps: &[Cap],
        (drawn, most): (i64, i64),
        now: Instant,
        since: Duration,
    ) -> Option<(i64, Source)> {
        let active = caps.iter().filter(|cap| cap.until.is_none_or(|until| now < until));
        let tightest = active.clone().min_by_key(|cap| (cap.limit, cap.source));
        if self.limit.is_none() {
            tightest?;
        }
        let from = self.limit.unwrap_or(drawn);
        // Each cap by its own way from here; the lowest counts.
        let way = |cap: &Cap| (down(cap, from, now, since), cap.source);
        let lower = active.filter(|cap| i64::from(cap.limit.0) < from).map(way).min();
        self.fell = 0;
        if let Some((limit, source)) = lower {
            self.rises_at = None;
            self.fell = from.saturating_sub(limit);
            (self.limit, self.source) = (Some(limit), source);
            return Some((limit, source));
        }
        let goal = tightest.map_or(most, |cap| i64::from(cap.limit.0));
        if self.limit.is_none() || goal <= from {
            // A first cap above what is drawn does not have to be walked up to.
            (self.limit, self.rises_at) = (Some(goal), None);
        } else if now >= *self.rises_at.get_or_insert(now + policy.jitter) {
            let more = per(policy.release, since);
            self.limit = Some(from.saturating_add(more).min(goal));
        }
        if let Some(cap) = tightest {
            self.source = cap.source;
        } else if self.limit >= Some(most) {
            *self = Self::default();
        }
        Some((self.limit?, self.source))
    }
}

/// Where this cap wants the rig to be after this tick.
fn down(cap: &Cap, from: i64, now: Instant, since: Duration) -> i64 {
    let limit = i64::from(cap.limit.0);
    let by_ramp = cap.ramp.map(|ramp| per(ramp, since));
    let by_deadline = cap.deadline.map(|deadline| {
        // `since` has passed already: what is left to go is spread over what is left of the time before it.
        let left = deadline.saturating_duration_since(now) + since;
        let part = i128::from(from - limit) * i128::try_from(since.as_micros()).unwrap_or(i128::MAX);
        part.checked_div(i128::try_from(left.as_micros()).unwrap_or(1))
            .map_or(from - limit, |part| i64::try_from(part).unwrap_or(from - limit))
    });
    match by_ramp.max(by_deadline) {
        Some(part) => from.saturating_sub(part).max(limit),
        None => limit,
    }
}

fn per(rate: MilliwattsPerSecond, time: Duration) -> i64 {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    i64::from(rate.0).saturating_mul(micros) / 1_000_000
}

impl Cap {
    /// A limit at once and until it is lifted.
    #[must_use]
    pub const fn at_once(limit: Milliwatts, source: Source) -> Self {
        Self { limit, ramp: None, deadline: None, until: None, source }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Command => "command",
            Self::Schedule => "schedule",
            Self::Grid => "the grid",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const TICK: Duration = Duration::from_millis(100);

    fn walk(policy: &Policy, held: &mut Held, caps: &[Cap], start: Instant, ticks: std::ops::Range<u32>) -> Vec<i64> {
        let mut now = |tick: u32| held.next(policy, caps, (2_400_000, 3_000_000), start + TICK * tick, TICK);
        ticks.map(|tick| now(tick).map_or(-1, |(limit, _)| limit / 1000)).collect()
    }

    #[test]
    fn the_way_down_is_the_caps_own() {
        let start = clock::now();
        let once = Cap::at_once(Milliwatts(1_200_000), Source::Command);
        let ramp = Cap { ramp: Some(MilliwattsPerSecond(2_000_000)), ..once };
        let late = Cap { deadline: Some(start + TICK * 4), ..once };
        let both = Cap { deadline: Some(start + TICK * 1), ..ramp };
        for (name, caps, expected) in [
            ("at once", vec![once], [1200, 1200, 1200, 1200, 1200]),
            ("ramp", vec![ramp], [2200, 2000, 1800, 1600, 1400]),
            ("deadline", vec![late], [2160, 1920, 1680, 1440, 1200]),
            ("the faster of both", vec![both], [1800, 1200, 1200, 1200, 1200]),
            ("the tightest of all", vec![late, ramp], [2160, 1920, 1680, 1440, 1200]),
            ("over", vec![Cap { until: Some(start), ..once }], [-1; 5]),
            ("above what is drawn", vec![Cap { limit: Milliwatts(2_900_000), ..once }], [2900; 5]),
        ] {
            let found = walk(&Policy::default(), &mut Held::default(), &caps, start, 0..5);
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn the_way_up_waits_and_is_a_slope_and_ends_in_no_cap() {
        let start = clock::now();
        let policy = Policy { release: MilliwattsPerSecond(3_000_000), jitter: TICK * 2, ..Policy::default() };
        let mut held = Held::default();
        let cap = Cap::at_once(Milliwatts(1_200_000), Source::Grid);
        assert_eq!(walk(&policy, &mut held, &[cap], start, 0..1), [1200]);
        let up = walk(&policy, &mut held, &[], start, 1..11);
        assert_eq!(up, [1200, 1200, 1500, 1800, 2100, 2400, 2700, -1, -1, -1]);
    }
}
