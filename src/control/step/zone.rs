//! One zone's drive: the curve, the temperature that is held, quiet hours, and what overrides them.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::board::{self, Hold};
use crate::reading::{Missing, Power, Reading, Stage, Zone};
use crate::units::{Duty, Millicelsius};

/// So near to the critical temperature quiet hours begin to give way, and from the second one on they are over. A third of
/// it would be quieter for longer, and a cycle that is heard: one 0.5 K step of a sensor moved the drive by 7 %.
const LOUD_FROM: i32 = 15_000;
const LOUD_AT: i32 = 5_000;
/// So near to it the slew limit begins to give way, and from half way on the zone has full air where it only holds a target.
const URGENT: i32 = 10_000;
/// So near above the target it counts as held: two steps of the coarsest part.
const AT_TARGET: i32 = 1_000;
/// A distance from the target that is not worth a move: a converter's last bit and the air's own unrest.
const DEAD_BAND: i64 = 250;
/// Parts of a hundredth of a percent in which the integral is kept, so that it moves at a hundred ticks a second too.
const FINE: i64 = 1_000_000;

/// What is remembered of a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ZoneState {
    /// The last drive; `None` before the first decision.
    pub(super) duty: Option<Duty>,
    /// Time that was too short for the slew limit to turn into a step; not lost, or a drive would never move at 100 ticks
    /// a second.
    unused: Duration,
    /// The temperature that the curve is read at: follows upwards at once, downwards behind the hysteresis.
    held: Option<Millicelsius>,
    critical: bool,
    /// The integral of what is held, in `FINE` parts; `None` until it has been fitted to the drive that was found.
    integral: Option<i64>,
}

/// What a zone's drive depends on.
pub(super) struct Situation<'a, F: Fn() -> Duty> {
    /// The reading that is nearest to its critical temperature.
    pub(super) hottest: Reading<Millicelsius>,
    /// Power of the rails that the zone feeds forward, by the board's rails.
    pub(super) rails: &'a [Power],
    /// Fans that stand.
    pub(super) dead: usize,
    /// The first moments of the agent's life.
    pub(super) starting: bool,
    /// Time since the last tick.
    pub(super) since: Duration,
    /// Highest drive during quiet hours.
    pub(super) quiet: Option<Duty>,
    /// The lowest drive at which all of its fans turn.
    pub(super) lowest: Duty,
    /// The drive that the fans were found with.
    pub(super) found: F,
}

impl ZoneState {
    pub(super) fn decide<F: Fn() -> Duty>(&mut self, zone: &board::Zone, now: &Situation<'_, F>) -> Zone {
        let Ok(hottest) = now.hottest else {
            if self.duty.is_none() && now.starting {
                return Zone { duty: Err(Missing::NotPresent), stage: Stage::Starting };
            }
            // What was held is forgotten: nobody knows what happened meanwhile.
            self.held = None;
            return self.full_air(Stage::Blind);
        };
        let held = follow(self.held, hottest, zone.hysteresis);
        self.held = Some(held);
        let release = Millicelsius(zone.critical.0.saturating_sub(zone.hysteresis.0));
        self.critical = hottest >= zone.critical || (self.critical && hottest > release);
        if self.critical {
            return self.full_air(Stage::Critical);
        }
        if now.dead > zone.spare_fans {
            return self.full_air(Stage::FanFailed);
        }
        let urgent = urgent(zone, hottest);
        // Behind the hysteresis, or what heat takes from quiet hours would come and go with the sensor's last bit.
        // A dead fan is made up for at any hour.
        let quiet = now.quiet.filter(|_| now.dead == 0);
        let ceiling = quiet.map_or(Duty::FULL, |cap| quiet_ceiling(cap, zone.critical, held));
        let before = self.duty.unwrap_or_else(&now.found);
        let mut wanted = curve(&zone.curve, held).unwrap_or(Duty::OFF);
        let all = zone.fans.len();
        if let Some(hold) = &zone.hold {
            let whole = |duty| as_if_whole(duty, all, now.dead);
            let range = now.lowest..=whole(ceiling);
            wanted = wanted.max(self.hold(hold, hottest, now.rails, whole(before), range, now.since)).max(urgent);
        }
        let wanted = made_up(wanted, all, now.dead, now.lowest);
        let target = wanted.min(ceiling);
        let (slewed, unused) = slew(before, target, zone.slew_per_s, self.unused.saturating_add(now.since));
        let duty = slewed.max(target.min(urgent));
        (self.duty, self.unused) = (Some(duty), unused);
        let stage = match (now.dead, target < wanted) {
            (1.., _) => Stage::FanMadeUp,
            (0, true) => Stage::Quiet,
            (0, false) => Stage::Normal,
        };
        Zone { duty: Ok(duty), stage }
    }

    /// Safety does not wait for the slew limit, nor for anybody's sleep.
    pub(super) fn full_air(&mut self, stage: Stage) -> Zone {
        // The integral starts anew from full air, so that the way down is a slope and not a step.
        (self.duty, self.unused, self.integral) = (Some(Duty::FULL), Duration::ZERO, None);
        Zone { duty: Ok(Duty::FULL), stage }
    }

    /// Proportional and integral on the distance to the target, on top of what the watts ask for. The integral stops where
    /// the drive cannot follow (conditional integration; Astrom and Murray, Feedback Systems, 11.4).
    fn hold(
        &mut self,
        hold: &Hold,
        hottest: Millicelsius,
        rails: &[Power],
        before: Duty,
        range: RangeInclusive<Duty>,
        since: Duration,
    ) -> Duty {
        let distance = beyond_dead_band(i64::from(hottest.0) - i64::from(hold.target.0));
        let gain = i64::from(hold.gain.hundredths());
        let proportional = distance.saturating_mul(gain).saturating_div(1000);
        let fixed = feed_forward(hold, rails).saturating_add(proportional);
        // Bumpless: it takes over at the drive that the fans have.
        let integral = self.integral.unwrap_or_else(|| (i64::from(before.hundredths()) - fixed).saturating_mul(FINE));
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let period = i64::try_from(hold.integral.as_micros()).unwrap_or(i64::MAX).max(1);
        let more = i128::from(proportional) * i128::from(FINE) * i128::from(micros) / i128::from(period);
        let more = i64::try_from(more).unwrap_or(0);
        let now = fixed.saturating_add(integral / FINE);
        let (lowest, ceiling) = (i64::from(range.start().hundredths()), i64::from(range.end().hundredths()));
        let saturated = (now >= ceiling && more > 0) || (now <= lowest && more < 0);
        let full = i64::from(Duty::FULL.hundredths()) * FINE;
        let integral = if saturated { integral } else { integral.saturating_add(more) }.clamp(-full, full);
        self.integral = Some(integral);
        Duty::saturating(u32::try_from(fixed.saturating_add(integral / FINE)).unwrap_or(0)).max(*range.start())
    }
}

fn beyond_dead_band(distance: i64) -> i64 {
    distance - distance.clamp(-DEAD_BAND, DEAD_BAND)
}

/// What the power asks for at once, in hundredths of a percent. A rail that cannot be read asks for nothing: the
/// temperature still does.
fn feed_forward(hold: &Hold, rails: &[Power]) -> i64 {
    let milliwatts = |rail: &usize| rails.get(*rail).and_then(|rail| rail.power.ok()).map_or(0, |power| power.0.into());
    let power: i64 = hold.power.iter().map(milliwatts).sum();
    power.saturating_mul(hold.feed_forward.hundredths().into()) / 1_000_000
}

/// The drive that gives the same air with `dead` of `fans` fans: air goes with the number of fans and about with their
/// drive (fan affinity laws). Fans that turn at all had no less than `lowest`.
fn made_up(duty: Duty, fans: usize, dead: usize, lowest: Duty) -> Duty {
    if dead == 0 || duty == Duty::OFF {
        return duty;
    }
    times(duty.max(lowest), fans, fans.saturating_sub(dead))
}

/// The drive that all fans would have for the air that the living give at this one.
fn as_if_whole(duty: Duty, fans: usize, dead: usize) -> Duty {
    times(duty, fans.saturating_sub(dead), fans)
}

fn times(duty: Duty, by: usize, over: usize) -> Duty {
    let whole = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let product = u32::from(duty.hundredths()).saturating_mul(whole(by)).checked_div(whole(over));
    product.map_or(Duty::FULL, Duty::saturating)
}

/// The highest drive of quiet hours, which give way to heat: a straight line to full drive.
fn quiet_ceiling(cap: Duty, critical: Millicelsius, hottest: Millicelsius) -> Duty {
    let room = critical.0.saturating_sub(hottest.0);
    let more = part_of(Duty::FULL.hundredths() - cap.hundredths(), LOUD_FROM.saturating_sub(room), LOUD_FROM - LOUD_AT);
    Duty::saturating(u32::from(cap.hundredths()) + more)
}

/// The drive that heat alone asks for near the critical temperature: a straight line from none to full drive half way. The
/// slew limit does not hold it back, and a zone gets it that only holds a target. It begins above the target, or that could
/// not be held.
fn urgent(zone: &board::Zone, hottest: Millicelsius) -> Duty {
    let above = |hold: &Hold| zone.critical.0.saturating_sub(hold.target.0).saturating_sub(AT_TARGET);
    let from = zone.hold.as_ref().map_or(URGENT, |hold| above(hold).clamp(0, URGENT));
    let room = zone.critical.0.saturating_sub(hottest.0);
    Duty::saturating(part_of(Duty::FULL.hundredths(), from.saturating_sub(room), from - from / 2))
}

/// `all` times `part / whole`, that being 0 to 1.
fn part_of(all: u16, part: i32, whole: i32) -> u32 {
    let whole = i64::from(whole).max(1);
    u32::try_from(i64::from(part).clamp(0, whole) * i64::from(all) / whole).unwrap_or(0)
}

/// Follows upwards at once and downwards only behind the hysteresis.
fn follow(held: Option<Millicelsius>, hottest: Millicelsius, hysteresis: Millicelsius) -> Millicelsius {
    let ceiling = Millicelsius(hottest.0.saturating_add(hysteresis.0));
    held.map_or(hottest, |held| held.clamp(hottest, ceiling))
}

/// Straight lines between the points; the first drive below them, the last above; `None` without points.
pub(super) fn curve(points: &[(Millicelsius, Duty)], at: Millicelsius) -> Option<Duty> {
    let mut below: Option<(Millicelsius, Duty)> = None;
    for (celsius, duty) in points.iter().copied() {
        if at <= celsius {
            return Some(below.map_or(duty, |below| between(below, (celsius, duty), at)));
        }
        below = Some((celsius, duty));
    }
    below.map(|(_, duty)| duty)
}

fn between(low: (Millicelsius, Duty), high: (Millicelsius, Duty), at: Millicelsius) -> Duty {
    let run = i64::from(high.0.0) - i64::from(low.0.0);
    let rise = i64::from(high.1.hundredths()) - i64::from(low.1.hundredths());
    let part = i64::from(at.0) - i64::from(low.0.0);
    // Rounded up: a fraction of a hundredth more air, never less.
    let more = (rise * part + run - 1).checked_div(run).unwrap_or(rise);
    Duty::saturating(u32::try_from(i64::from(low.1.hundredths()) + more).unwrap_or(u32::MAX))
}

/// `target`, as far as it can be reached from `before` in this time, and the time that was left over.
pub(super) fn slew(before: Duty, target: Duty, per_s: Duty, time: Duration) -> (Duty, Duration) {
    const MICROS: u128 = 1_000_000;
    let rate = u128::from(per_s.hundredths());
    let reach = rate * time.as_micros() / MICROS;
    let reached = u16::try_from(reach).unwrap_or(u16::MAX);
    let low = before.hundredths().saturating_sub(reached);
    let high = before.hundredths().saturating_add(reached);
    let duty = Duty::saturating(target.hundredths().clamp(low, high).into());
    if duty == target {
        return (duty, Duration::ZERO);
    }
    let used = (reach * MICROS).div_ceil(rate.max(1));
    (duty, time.saturating_sub(Duration::from_micros(u64::try_from(used).unwrap_or(u64::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Milliwatts;

    fn percent(percent: u8) -> Duty {
        Duty::from_percent(percent).unwrap()
    }

    fn hold() -> Hold {
        Hold {
            target: Millicelsius(50_000),
            gain: percent(4),
            integral: Duration::from_secs(100),
            power: vec![0, 1],
            feed_forward: percent(20),
        }
    }

    fn rail(milliwatts: Reading<u32>) -> Power {
        Power { power: milliwatts.map(Milliwatts), ..Power::missing(Missing::NotPresent) }
    }

    #[test]
    fn what_is_held_takes_over_without_a_bump_and_leans_against_what_stays() {
        let mut state = ZoneState::default();
        let mut duty = |celsius: i32, seconds: u64, ceiling: Duty| {
            let (before, range) = (state.duty.unwrap_or(percent(40)), percent(20)..=ceiling);
            let duty = state.hold(&hold(), Millicelsius(celsius), &[], before, range, Duration::from_secs(seconds));
            state.duty = Some(duty);
            duty.hundredths()
        };
        assert_eq!(duty(50_200, 1, Duty::FULL), 4_000, "inside the dead band nothing moves");
        assert_eq!(duty(55_250, 0, Duty::FULL), 6_000, "five kelvin times four");
        assert_eq!(duty(55_250, 100, Duty::FULL), 8_000, "as much again after the integral's time");
        assert_eq!(duty(50_000, 1, Duty::FULL), 6_000);
        assert_eq!(duty(80_250, 1_000, Duty::FULL), 10_000);
        assert_eq!(duty(50_000, 1, Duty::FULL), 6_000, "nothing was wound up at the end of the scale");
        assert_eq!(duty(55_250, 100, percent(60)), 8_000, "nor at a ceiling, which is applied later");
        assert_eq!(duty(50_000, 1, Duty::FULL), 6_000);
        assert_eq!(duty(20_000, 1_000, Duty::FULL), 2_000, "what is held never stops a fan");
        assert_eq!(duty(50_000, 1, Duty::FULL), 6_000, "nor does the integral run down where the drive cannot follow");
    }

    #[test]
    fn near_the_critical_temperature_heat_alone_asks_for_air() {
        let zone = |target: Option<i32>| board::Zone {
            name: String::new(),
            sensors: vec![],
            fans: vec![],
            curve: vec![],
            hold: target.map(|target| Hold { target: Millicelsius(target), ..hold() }),
            critical: Millicelsius(70_000),
            hysteresis: Millicelsius(2_000),
            slew_per_s: percent(5),
            spare_fans: 0,
            gpus: None,
        };
        for (target, celsius, hundredths) in [
            (None, 60_000, 0),
            (None, 62_500, 5_000),
            (None, 65_000, 10_000),
            (Some(50_000), 62_500, 5_000),
            (Some(65_000), 66_000, 0),
            (Some(65_000), 67_000, 5_000),
            (Some(65_000), 68_000, 10_000),
            // No room left; at the critical temperature itself it is full air whatever this says.
            (Some(69_900), 70_000, 0),
            (None, i32::MIN, 0),
            (Some(i32::MIN), i32::MAX, 10_000),
        ] {
            let air = urgent(&zone(target), Millicelsius(celsius)).hundredths();
            assert_eq!(air, hundredths, "{target:?}, {celsius} m°C");
        }
    }

    #[test]
    fn watts_ask_for_air_before_the_heat_comes() {
        for (rails, hundredths) in [
            (vec![rail(Ok(1_000_000)), rail(Ok(500_000))], 3_000),
            (vec![rail(Ok(1_000_000)), rail(Err(Missing::Bus))], 2_000),
            (vec![], 0),
        ] {
            assert_eq!(feed_forward(&hold(), &rails), hundredths);
        }
    }

    #[test]
    fn the_living_make_up_for_the_dead() {
        for (duty, fans, dead, expected) in [
            (30, 6, 0, 3_000),
            (10, 6, 0, 1_000),
            (30, 6, 1, 3_600),
            // They had their minimum of 20 %, whatever the zone asked for.
            (10, 6, 1, 2_400),
            (0, 6, 1, 0),
            (30, 6, 3, 6_000),
            (90, 6, 2, 10_000),
            (30, 2, 2, 10_000),
        ] {
            assert_eq!(made_up(percent(duty), fans, dead, percent(20)).hundredths(), expected, "{dead} of {fans}");
        }
        assert_eq!(as_if_whole(Duty::FULL, 6, 1).hundredths(), 8_333, "so far the integral may go");
    }

    #[test]
    fn quiet_hours_give_way_to_heat() {
        for (celsius, hundredths) in
            [(40_000, 4_000), (55_000, 4_000), (60_000, 7_000), (65_000, 10_000), (69_000, 10_000)]
        {
            let ceiling = quiet_ceiling(percent(40), Millicelsius(70_000), Millicelsius(celsius));
            assert_eq!(ceiling.hundredths(), hundredths, "{celsius} m°C");
        }
    }
}
