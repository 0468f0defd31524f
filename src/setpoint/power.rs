//! Caps of the rig's power that were asked for: one slot for each source, and a list for the desired state, of which several may hold.
//! Control gets all of them, and holds in each tick what is tightest then: the lower one may have a ramp of hours.
//!
//! A cap says by the wall clock when it is to be reached and when it ends. That is turned into moments of the clock that never
//! jumps, once. Where nobody knows what time it is, less is held rather than more: a deadline is now, whatever the ramp, and no cap
//! ends; it is looked at again once the clock is known to be right. A cap that is over is forgotten.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Desk, Impossible, Kept, Setpoints};
use crate::control::step::power::{Cap, Source};
use crate::units::MilliwattsPerSecond;
use crate::wire::PowerCap;

/// Later than that is never.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What survives a restart. The configuration keeps its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Caps {
    command: Option<PowerCap>,
    schedule: Option<PowerCap>,
    /// More of the schedule's.
    more: Vec<PowerCap>,
    grid: Option<PowerCap>,
}

/// A cap that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    asked: PowerCap,
    cap: Cap,
    /// It speaks of a time of day, and nobody knew what time it is.
    unsure: bool,
}

impl Caps {
    fn of(&self, source: Source) -> Vec<PowerCap> {
        match source {
            Source::Command => self.command.into_iter().collect(),
            Source::Schedule => self.schedule.iter().chain(&self.more).copied().collect(),
            Source::Grid => self.grid.into_iter().collect(),
            Source::Configuration => Vec::new(),
        }
    }

    /// Only the schedule has more than one.
    fn set(&mut self, source: Source, caps: &[PowerCap]) {
        let first = caps.first().copied();
        match source {
            Source::Command => self.command = first,
            Source::Schedule => (self.schedule, self.more) = (first, caps.iter().skip(1).copied().collect()),
            Source::Grid => self.grid = first,
            Source::Configuration => {}
        }
    }

    /// All of them, where nobody knows the time yet.
    pub(super) fn held(&self, now: Instant) -> Vec<Held> {
        let sources = [Source::Command, Source::Schedule, Source::Grid];
        let of = |source| self.of(source).into_iter().map(move |asked| held(asked, source, now, None));
        sources.into_iter().flat_map(of).collect()
    }
}

/// A cap as control takes it.
fn held(asked: PowerCap, source: Source, now: Instant, unix_ms: Option<u64>) -> Held {
    let at = |ms: u64| Some(now + Duration::from_millis(ms.saturating_sub(unix_ms?)).min(LONGEST));
    // The floor was for whoever computed the limit; a limit below it, of an agent that took such ones, is a limit.
    let PowerCap { cap_mw, ramp_mw_per_s, deadline_ms, until_ms, floor_mw: _ } = asked;
    let timed = deadline_ms != 0 || until_ms.is_some();
    let cap = Cap {
        limit: cap_mw,
        ramp: Some(MilliwattsPerSecond(ramp_mw_per_s)).filter(|ramp| ramp.0 != 0),
        deadline: (deadline_ms != 0).then(|| at(deadline_ms).unwrap_or(now)),
        until: until_ms.and_then(at),
        source,
    };
    Held { asked, cap, unsure: timed && unix_ms.is_none() }
}

fn is_over(cap: &PowerCap, unix_ms: Option<u64>) -> bool {
    cap.until_ms.zip(unix_ms).is_some_and(|(until, now)| now >= until)
}

impl Setpoints {
    /// The caps that were asked for, of every source; those that are over are still among them for a moment.
    pub fn caps(&self) -> impl Iterator<Item = Cap> {
        self.caps.iter().map(|held| held.cap)
    }

    /// What was asked for by this source.
    #[must_use]
    pub fn asked(&self, source: Source) -> Vec<PowerCap> {
        self.kept.caps.of(source)
    }
}

impl Desk {
    /// Sets the caps of one source, of all but the schedule no more than one; none lifts them. `unix_ms` is the time, where it is
    /// known. One of the schedule's that was asked for before stays as it is.
    ///
    /// # Errors
    /// Where one is over already.
    pub fn set_caps(
        &self,
        source: Source,
        caps: &[PowerCap],
        now: Instant,
        unix_ms: Option<u64>,
    ) -> Result<(), Impossible> {
        if caps.iter().any(|cap| is_over(cap, unix_ms)) {
            return Err(Impossible("it is over already".to_owned()));
        }
        self.change_caps(|kept, all| {
            kept.caps.set(source, caps);
            let (before, others) = all.iter().partition::<Vec<Held>, _>(|held| held.cap.source == source);
            *all = others;
            all.extend(kept.caps.of(source).into_iter().map(|cap| {
                let same = |held: &&Held| source == Source::Schedule && held.asked == cap && !held.unsure;
                let known = before.iter().find(same);
                known.copied().unwrap_or_else(|| held(cap, source, now, unix_ms))
            }));
            true
        });
        Ok(())
    }

    /// Forgets caps that are over, and takes those anew that nobody knew the time for; whether that is to be saved. To be asked
    /// now and then.
    #[must_use]
    pub fn look_at_caps(&self, now: Instant, unix_ms: u64) -> bool {
        let mut forgotten = false;
        self.change_caps(|kept, caps| {
            let before = caps.clone();
            caps.retain(|held| match held.unsure {
                true => !is_over(&held.asked, Some(unix_ms)),
                false => held.cap.until.is_none_or(|until| now < until),
            });
            for over in before.iter().filter(|held| !caps.contains(held)) {
                let source = over.cap.source;
                let left: Vec<PowerCap> = kept.caps.of(source).into_iter().filter(|cap| *cap != over.asked).collect();
                kept.caps.set(source, &left);
                forgotten = true;
            }
            for unsure in caps.iter_mut().filter(|held| held.unsure) {
                *unsure = held(unsure.asked, unsure.cap.source, now, Some(unix_ms));
            }
            before != *caps
        });
        forgotten
    }

    fn change_caps(&self, change: impl FnOnce(&mut Kept, &mut Vec<Held>) -> bool) {
        self.sender.send_if_modified(|setpoints| {
            let mut next = Setpoints::clone(setpoints);
            let changed = change(&mut next.kept, &mut next.caps);
            if changed {
                *setpoints = std::sync::Arc::new(next);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::setpoint::tests::Bench;
    use crate::units::Milliwatts;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn cap(watts: u32) -> PowerCap {
        PowerCap { cap_mw: Milliwatts(watts * 1000), ramp_mw_per_s: 0, deadline_ms: 0, until_ms: None, floor_mw: None }
    }

    fn seen(setpoints: &Setpoints) -> Vec<(Source, u32)> {
        setpoints.caps().map(|cap| (cap.source, cap.limit.0 / 1000)).collect()
    }

    #[test]
    fn each_source_has_its_slot_and_what_is_asked_for_survives_a_restart() {
        let bench = Bench::new("caps");
        let now = clock::now();
        let (desk, _) = bench.open();
        for (source, watts) in [(Source::Command, 2_000), (Source::Schedule, 1_500), (Source::Command, 1_800)] {
            desk.set_caps(source, &[cap(watts)], now, None).unwrap();
        }
        assert_eq!(seen(&desk.now()), [(Source::Schedule, 1_500), (Source::Command, 1_800)]);
        desk.save().unwrap();
        let (desk, _) = bench.open();
        assert_eq!(seen(&desk.now()), [(Source::Command, 1_800), (Source::Schedule, 1_500)]);
        desk.set_caps(Source::Command, &[], now, None).unwrap();
        assert_eq!(seen(&desk.now()), [(Source::Schedule, 1_500)]);
        assert_eq!(desk.now().asked(Source::Schedule), [cap(1_500)]);
    }

    #[test]
    fn a_schedule_may_hold_several_and_each_ends_by_itself() {
        let bench = Bench::new("cap-list");
        let now = clock::now();
        let (desk, _) = bench.open();
        let short = PowerCap { until_ms: Some(NOW_MS + 1_000), ..cap(1_200) };
        let slow = PowerCap { ramp_mw_per_s: 9, ..cap(1_000) };
        desk.set_caps(Source::Schedule, &[slow, short, cap(1_400)], now, Some(NOW_MS)).unwrap();
        let all = [(Source::Schedule, 1_000), (Source::Schedule, 1_200), (Source::Schedule, 1_400)];
        assert_eq!(seen(&desk.now()), all);
        desk.save().unwrap();
        let (next, _) = bench.open();
        assert_eq!(seen(&next.now()), all, "the next start has them all");
        // One goes and the others stay as they are, whatever the wall clock says now.
        desk.set_caps(Source::Schedule, &[short, slow], now, Some(NOW_MS - 50_000)).unwrap();
        assert!(!desk.look_at_caps(now, NOW_MS));
        assert!(desk.look_at_caps(now + Duration::from_secs(1), NOW_MS));
        assert_eq!(desk.now().asked(Source::Schedule), [slow]);
        assert_eq!(seen(&desk.now()), [(Source::Schedule, 1_000)]);
    }

    #[test]
    fn times_of_day_are_moments_once_the_clock_is_known_and_less_until_then() {
        let bench = Bench::new("cap-times");
        let (desk, _) = bench.open();
        let now = clock::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let asked = PowerCap {
            ramp_mw_per_s: 50_000,
            deadline_ms: NOW_MS + 10_000,
            until_ms: Some(NOW_MS + 60_000),
            floor_mw: Some(Milliwatts(7)),
            ..cap(1_000)
        };
        let only = || desk.now().caps().next();
        let expected = Cap {
            limit: Milliwatts(1_000_000),
            ramp: Some(MilliwattsPerSecond(50_000)),
            deadline: Some(later(10)),
            until: Some(later(60)),
            source: Source::Grid,
        };
        desk.set_caps(Source::Grid, &[asked], now, Some(NOW_MS)).unwrap();
        assert_eq!(only(), Some(expected));
        // The wall clock jumps, and the moments stay.
        assert!(!desk.look_at_caps(later(1), NOW_MS + 50_000));
        assert_eq!(only(), Some(expected));
        assert!(desk.look_at_caps(later(60), NOW_MS));
        assert_eq!((only(), desk.now().asked(Source::Grid)), (None, vec![]));
        // Nobody knows the time: it does not end, and its deadline is now, whatever its ramp.
        desk.set_caps(Source::Grid, &[asked], now, None).unwrap();
        assert_eq!(only(), Some(Cap { deadline: Some(now), until: None, ..expected }));
        assert!(!desk.look_at_caps(later(5), NOW_MS + 5_000));
        assert_eq!(only(), Some(expected));
        // It was over before anybody knew.
        desk.set_caps(Source::Grid, &[asked], now, None).unwrap();
        assert!(desk.look_at_caps(later(5), NOW_MS + 60_000));
        assert_eq!(only(), None);
        assert!(desk.set_caps(Source::Grid, &[asked], now, Some(NOW_MS + 60_000)).is_err());
        assert_eq!(only(), None);
    }
}
