//! One fan: whether it turns, whether its tachometer can be believed, and what drive it gets for its zone's.

use std::time::{Duration, Instant};

use crate::board;
use crate::calibration::FanCurve;
use crate::reading::{Missing, Reading};
use crate::units::{Duty, Rpm};

/// A fan that is driven turns within this time, or it stands: spin-up of large server fans takes 2 to 3 s.
pub const SPIN_UP: Duration = Duration::from_secs(5);
/// How long a fan that does not turn yet gets its start drive, and how long it is left before the next try.
const KICK: Duration = Duration::from_secs(2);
const KICK_PAUSE: Duration = Duration::from_secs(10);
/// A drive that moved by less than this for `STEADY` is one at which the speed can be compared with what was learnt.
const STEADY_WITHIN: u16 = 300;
const STEADY: Duration = Duration::from_secs(30);
/// Per cent of the learnt speed: slower is worn out or clogged, faster is another fan or a tachometer's mistake. Both are told
/// and neither is acted on: a fan that was replaced must not make its zone bark.
const AGED_BELOW: u32 = 85;
const TOO_FAST_ABOVE: u32 = 150;
/// Per cent of the maker's speed at full drive that no fan passes.
const IMPOSSIBLE_ABOVE: u32 = 130;

/// What is remembered of a fan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FanState {
    /// Since when it has been driven without turning.
    stands_since: Option<Instant>,
    /// When the last kick began.
    kicked: Option<Instant>,
    /// The drive that it was given last.
    pub(super) ordered: Option<Duty>,
    /// A drive that has stayed about the same, and since when.
    steady: Option<(Duty, Instant)>,
}

/// What is known of a fan in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FanView {
    /// Its speed after the checks.
    pub rpm: Reading<Rpm>,
    /// It stands, or nobody can tell that it turns, although it has been driven for long enough.
    pub stands: bool,
    /// Much slower than it was when it was measured: the speed that it had then.
    pub aged: Option<Rpm>,
    /// Much faster than it was then, the speed of which this is: another fan, or a tachometer that lies.
    pub fast: Option<Rpm>,
}

impl FanState {
    /// Looks at the fan. One that is only watched is driven by somebody else, and is expected to turn.
    pub(super) fn view(
        &mut self,
        fan: &board::Fan,
        curve: Option<&FanCurve>,
        rpm: Reading<Rpm>,
        now: Instant,
    ) -> FanView {
        let duty = if fan.zone.is_some() { self.ordered } else { Some(Duty::FULL) };
        let learnt = self.steadily(duty, now).and_then(|duty| curve?.expected(duty));
        let rpm = rpm.and_then(|rpm| plausible(fan, rpm));
        let driven = duty.is_some_and(|duty| duty >= min(fan, curve) && duty > Duty::OFF);
        self.stands_since = match self.stands_since {
            // Where there is no tachometer the board has taken it upon itself.
            _ if !driven || fan.tachometer.is_none() || turns(fan, rpm) => None,
            None => Some(now),
            since => since,
        };
        let stands = self.stands_since.is_some_and(|since| now.saturating_duration_since(since) >= SPIN_UP);
        let aged = match (rpm, learnt) {
            (Ok(rpm), Some(learnt)) if !stands && percent_of(rpm, learnt) < AGED_BELOW => Some(learnt),
            _ => None,
        };
        let fast = match (rpm, learnt) {
            (Ok(rpm), Some(learnt)) if percent_of(rpm, learnt) > TOO_FAST_ABOVE => Some(learnt),
            _ => None,
        };
        FanView { rpm, stands, aged, fast }
    }

    /// The drive for its zone's: never below what it needs to turn, and a kick where it does not turn yet.
    pub(super) fn order(
        &mut self,
        fan: &board::Fan,
        curve: Option<&FanCurve>,
        rpm: Reading<Rpm>,
        zone: Duty,
        now: Instant,
    ) -> Duty {
        let start = curve.map_or(fan.start, |curve| curve.start);
        let was_off = self.ordered == Some(Duty::OFF);
        let standing = match rpm {
            Ok(_) => !turns(fan, rpm),
            // Nobody knows: a fan that was off is taken to stand.
            Err(_) => was_off,
        };
        let since = self.kicked.map(|at| now.saturating_duration_since(at));
        let duty = if zone == Duty::OFF {
            self.kicked = None;
            Duty::OFF
        } else if since.is_some_and(|since| since < KICK) && (standing || rpm.is_err()) {
            zone.max(start)
        } else if standing && since.is_none_or(|since| since >= KICK + KICK_PAUSE) {
            self.kicked = Some(now);
            zone.max(start)
        } else {
            zone.max(min(fan, curve))
        };
        self.ordered = Some(duty);
        duty
    }

    /// The drive that it has had, about, for long enough to have reached its speed.
    fn steadily(&mut self, duty: Option<Duty>, now: Instant) -> Option<Duty> {
        let duty = duty?;
        let since = match self.steady {
            Some((anchor, since)) if anchor.hundredths().abs_diff(duty.hundredths()) <= STEADY_WITHIN => since,
            _ => {
                self.steady = Some((duty, now));
                now
            }
        };
        (now.saturating_duration_since(since) >= STEADY).then_some(duty)
    }
}

/// The lowest drive that keeps it turning.
pub(super) fn min(fan: &board::Fan, curve: Option<&FanCurve>) -> Duty {
    curve.map_or(fan.min, |curve| curve.min)
}

/// Whether it is known to turn.
pub(super) fn turns(fan: &board::Fan, rpm: Reading<Rpm>) -> bool {
    rpm.is_ok_and(|rpm| rpm >= fan.min_rpm && rpm > Rpm(0))
}

fn plausible(fan: &board::Fan, rpm: Rpm) -> Reading<Rpm> {
    if percent_of(rpm, fan.max_rpm) > IMPOSSIBLE_ABOVE { Err(Missing::Implausible) } else { Ok(rpm) }
}

fn percent_of(rpm: Rpm, whole: Rpm) -> u32 {
    (u32::from(rpm.0) * 100).checked_div(whole.0.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(percent: u8) -> Duty {
        Duty::from_percent(percent).unwrap()
    }

    const AT: board::Point = board::Point { bus: 0, chip: 0, channel: 0 };

    fn fan() -> board::Fan {
        board::Fan {
            name: "f".to_owned(),
            at: AT,
            tachometer: Some(AT),
            max_rpm: Rpm(5_000),
            min_rpm: Rpm(500),
            start: percent(30),
            min: percent(20),
            zone: Some(0),
        }
    }

    #[test]
    fn a_fan_that_stands_is_kicked_and_then_let_go_to_its_minimum() {
        let start = crate::clock::now();
        let mut state = FanState::default();
        // ms, zone's drive, rpm, the fan's drive
        for (ms, zone, rpm, expected) in [
            (0, 10, Ok(0), 30),
            (1_000, 10, Ok(0), 30),
            (2_000, 10, Ok(0), 20),
            (11_000, 10, Ok(0), 20),
            (12_000, 10, Ok(0), 30),
            (13_000, 10, Ok(900), 20),
            (14_000, 60, Ok(900), 60),
            (15_000, 0, Ok(900), 0),
            (16_000, 10, Ok(900), 20),
            (17_000, 0, Ok(0), 0),
            (18_000, 15, Err(Missing::Bus), 30),
            (19_000, 15, Err(Missing::Bus), 30),
            (20_000, 15, Err(Missing::Bus), 20),
        ] {
            let now = start + Duration::from_millis(ms);
            let duty = state.order(&fan(), None, rpm.map(Rpm), percent(zone), now);
            assert_eq!(duty, percent(expected), "after {ms} ms");
        }
    }

    #[test]
    fn what_was_learnt_rules_minimum_start_and_age() {
        let curve = FanCurve {
            start: percent(16),
            min: percent(12),
            points: vec![(percent(12), Rpm(800)), (percent(100), Rpm(5_200))],
        };
        let mut state = FanState::default();
        let start = crate::clock::now();
        assert_eq!(state.order(&fan(), Some(&curve), Ok(Rpm(0)), percent(5), start), percent(16));
        assert_eq!(state.order(&fan(), Some(&curve), Ok(Rpm(900)), percent(5), start), percent(12));
        assert_eq!(state.order(&fan(), Some(&curve), Ok(Rpm(900)), percent(56), start), percent(56));
        let expected = curve.expected(percent(56)).unwrap();
        let mut view =
            |ms: u64, rpm: u16| state.view(&fan(), Some(&curve), Ok(Rpm(rpm)), start + Duration::from_millis(ms));
        let (slow, fair, fast) = (expected.0 / 5 * 4, expected.0 / 10 * 9, expected.0 * 2);
        assert_eq!(view(0, slow).aged, None, "it may still be on its way");
        assert_eq!(view(30_000, slow).aged, Some(expected));
        assert_eq!(view(31_000, fair).aged, None);
        assert_eq!(
            (view(32_000, fast).rpm, view(33_000, fast).fast),
            (Ok(Rpm(fast)), Some(expected)),
            "told, and it turns"
        );
        assert_eq!(view(33_000, 7_000).rpm, Err(Missing::Implausible));
    }

    #[test]
    fn a_fan_stands_only_when_driven_for_long_enough() {
        let start = crate::clock::now();
        let mut state = FanState { ordered: Some(percent(20)), ..FanState::default() };
        let mut stands = |second, rpm: Reading<u16>| {
            let now = start + Duration::from_secs(second);
            state.view(&fan(), None, rpm.map(Rpm), now).stands
        };
        assert!(!stands(0, Ok(0)));
        assert!(!stands(4, Ok(0)));
        assert!(stands(5, Ok(0)));
        assert!(!stands(6, Ok(600)));
        assert!(!stands(7, Err(Missing::Bus)));
        assert!(stands(12, Err(Missing::Bus)), "nobody knows that there is air");
        let blind = board::Fan { tachometer: None, ..fan() };
        let mut state = FanState { ordered: Some(percent(20)), ..FanState::default() };
        for second in [20, 40] {
            let now = start + Duration::from_secs(second);
            assert!(!state.view(&blind, None, Err(Missing::NotPresent), now).stands);
        }
    }
}
