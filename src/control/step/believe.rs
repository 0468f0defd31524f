//! What is believed of a temperature: in its range, moving where it is said to, and not faster than anything can.

use std::time::{Duration, Instant};

use crate::board;
use crate::reading::{Missing, Reading};
use crate::units::Millicelsius;

/// A jump that stays for so long is no glitch: the part was changed, or the rig came back from a long pause. Downwards it
/// is more likely a part that was reset or a diode that is gone, and believing it would take the air away.
pub(super) const SETTLED: Duration = Duration::from_secs(3);
pub(super) const SETTLED_COOLER: Duration = Duration::from_secs(60);
/// While a jump is in doubt the way from the last value that was believed grows no longer than this makes it: else noise would
/// be in its reach sooner or later.
const DOUBT: Duration = Duration::from_secs(2);
/// What a converter's noise and the coarsest part's step may add to a change at any time.
const SLACK: Millicelsius = Millicelsius(2_000);

/// What is remembered of a sensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SensorState {
    /// The last value that differed from the one before, and since when it has stood.
    moved: Option<(Millicelsius, Instant)>,
    /// The last value that was believed.
    believed: Option<(Millicelsius, Instant)>,
    /// A value that came out of nowhere, since when it has been around, and when it was last seen.
    jumped: Option<(Millicelsius, Instant, Instant)>,
}

impl SensorState {
    /// Whether the last reading was refused for coming out of nowhere.
    pub(super) const fn has_jumped(&self) -> bool {
        self.jumped.is_some()
    }

    /// The reading after the checks.
    pub(super) fn believe(
        &mut self,
        sensor: &board::Sensor,
        reading: Reading<Millicelsius>,
        now: Instant,
    ) -> Reading<Millicelsius> {
        let value = match reading {
            Ok(value) if (sensor.min..=sensor.max).contains(&value) => value,
            other => {
                self.jumped = None;
                return other.and(Err(Missing::Implausible));
            }
        };
        let moved = match self.moved {
            Some((before, at)) if before == value => at,
            _ => now,
        };
        self.moved = Some((value, moved));
        if self.jumps(sensor, value, now) {
            return Err(Missing::Implausible);
        }
        self.believed = Some((value, now));
        match sensor.frozen_after {
            Some(limit) if now.saturating_duration_since(moved) >= limit => Err(Missing::Stale),
            _ => Ok(value),
        }
    }

    /// Whether no temperature can have come here from where it was believed to be, and has not stayed either.
    fn jumps(&mut self, sensor: &board::Sensor, value: Millicelsius, now: Instant) -> bool {
        let doubt = if self.jumped.is_some() { DOUBT } else { Duration::MAX };
        let reaches = |(from, at): (Millicelsius, Instant)| {
            let since = now.saturating_duration_since(at).min(doubt);
            let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            let reach = i64::from(sensor.max_rate).saturating_mul(millis).saturating_add(SLACK.0.into());
            (i64::from(value.0) - i64::from(from.0)).abs() <= reach
        };
        if self.believed.is_none_or(reaches) {
            self.jumped = None;
            return false;
        }
        let since = match self.jumped {
            Some((from, since, at)) if reaches((from, at)) => since,
            _ => now,
        };
        let cooler = self.believed.is_some_and(|(from, _)| value < from);
        let needed = if cooler { SETTLED_COOLER } else { SETTLED };
        let settled = now.saturating_duration_since(since) >= needed;
        self.jumped = (!settled).then_some((value, since, now));
        !settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENSOR: board::Sensor = board::Sensor {
        name: String::new(),
        at: board::Point { bus: 0, chip: 0, channel: 0 },
        min: Millicelsius(-40_000),
        max: Millicelsius(150_000),
        frozen_after: None,
        critical: None,
        max_rate: 20,
    };

    #[test]
    fn a_jump_is_not_believed_until_it_has_stayed() {
        let start = crate::clock::now();
        let mut state = SensorState::default();
        // ms, m°C, whether it is believed
        for (ms, value, believed) in [
            (0, 40_000, true),
            (1_000, 55_000, true),
            // A bit that flipped for one reading.
            (2_000, 119_000, false),
            (3_000, 56_000, true),
            // A new part: it stays, and moves as temperatures do.
            (4_000, 130_000, false),
            (5_000, 131_000, false),
            (6_000, 130_500, false),
            (7_000, 131_000, true),
            (8_000, 130_000, true),
        ] {
            let now = start + Duration::from_millis(ms);
            let reading = state.believe(&SENSOR, Ok(Millicelsius(value)), now);
            assert_eq!(reading.is_ok(), believed, "{value} m°C after {ms} ms");
            assert_eq!(state.has_jumped(), !believed);
        }
    }

    #[test]
    fn noise_of_random_values_is_never_believed_for_long() {
        let start = crate::clock::now();
        let mut state = SensorState::default();
        assert!(state.believe(&SENSOR, Ok(Millicelsius(40_000)), start).is_ok());
        let noise = [120_000, -30_000, 130_000, -35_000].into_iter().cycle().take(240);
        for (half, value) in (1..).zip(noise) {
            let now = start + Duration::from_millis(half * 500);
            assert_eq!(state.believe(&SENSOR, Ok(Millicelsius(value)), now), Err(Missing::Implausible));
        }
    }

    /// A part that was reset, or a diode that is gone, while the zone cooks.
    #[test]
    fn a_fall_is_believed_only_after_a_minute() {
        let start = crate::clock::now();
        let mut state = SensorState::default();
        assert!(state.believe(&SENSOR, Ok(Millicelsius(85_000)), start).is_ok());
        for (second, believed) in [(1, false), (3, false), (30, false), (60, false), (61, true), (62, true)] {
            let reading = state.believe(&SENSOR, Ok(Millicelsius(0)), start + Duration::from_secs(second));
            assert_eq!(reading.is_ok(), believed, "after {second} s");
        }
    }

    #[test]
    fn a_sensor_that_went_away_in_doubt_is_not_in_doubt_any_more() {
        let start = crate::clock::now();
        let mut state = SensorState::default();
        assert!(state.believe(&SENSOR, Ok(Millicelsius(30_000)), start).is_ok());
        assert!(state.believe(&SENSOR, Ok(Millicelsius(120_000)), start + Duration::from_secs(1)).is_err());
        assert!(state.has_jumped());
        assert_eq!(state.believe(&SENSOR, Err(Missing::Bus), start + Duration::from_secs(2)), Err(Missing::Bus));
        assert!(!state.has_jumped());
    }

    #[test]
    fn after_a_silence_the_way_it_may_have_gone_is_longer() {
        let start = crate::clock::now();
        let mut state = SensorState::default();
        assert!(state.believe(&SENSOR, Ok(Millicelsius(30_000)), start).is_ok());
        let later = start + Duration::from_secs(4);
        assert_eq!(state.believe(&SENSOR, Err(Missing::Bus), later), Err(Missing::Bus));
        assert!(state.believe(&SENSOR, Ok(Millicelsius(95_000)), later).is_ok());
    }
}
