//! Caps of the rig's power that were asked for: one slot for each source, and the tightest holds.
//!
//! A cap says by the wall clock when it is to be reached and when it ends. That is turned into moments of the clock that never
//! jumps, once. Where nobody knows what time it is, less is held rather than more: a deadline is now, and no cap ends; it is
//! looked at again once the clock is known to be right. A cap that is over is forgotten.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Desk, Impossible, Kept, Setpoints};
use crate::control::step::power::{Cap, Source};
use crate::units::{Milliwatts, MilliwattsPerSecond};
use crate::wire::PowerCap;

/// Later than that is never.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What survives a restart. The configuration keeps its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Caps {
    command: Option<PowerCap>,
    schedule: Option<PowerCap>,
    grid: Option<PowerCap>,
}

/// A cap that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    cap: Cap,
    /// It speaks of a time of day, and nobody knew what time it is.
    unsure: bool,
}

const SOURCES: [Source; 3] = [Source::Command, Source::Schedule, Source::Grid];

impl Caps {
    const fn of(&self, source: Source) -> Option<PowerCap> {
        match source {
            Source::Command => self.command,
            Source::Schedule => self.schedule,
            Source::Grid => self.grid,
            Source::Configuration => None,
        }
    }

    const fn set(&mut self, source: Source, cap: Option<PowerCap>) {
        match source {
            Source::Command => self.command = cap,
            Source::Schedule => self.schedule = cap,
            Source::Grid => self.grid = cap,
            Source::Configuration => {}
        }
    }

    /// All of them, where nobody knows the time yet.
    pub(super) fn held(&self, now: Instant) -> Vec<Held> {
        SOURCES.into_iter().filter_map(|source| Some(held(self.of(source)?, source, now, None))).collect()
    }
}

/// A cap as control takes it.
fn held(asked: PowerCap, source: Source, now: Instant, unix_ms: Option<u64>) -> Held {
    let at = |ms: u64| Some(now + Duration::from_millis(ms.saturating_sub(unix_ms?)).min(LONGEST));
    let PowerCap { cap_mw, ramp_mw_per_s, deadline_ms, until_ms, floor_mw } = asked;
    let timed = deadline_ms != 0 || until_ms.is_some();
    let cap = Cap {
        limit: cap_mw,
        ramp: Some(MilliwattsPerSecond(ramp_mw_per_s)).filter(|ramp| ramp.0 != 0),
        deadline: Some(deadline_ms).filter(|deadline| *deadline != 0).and_then(at),
        until: until_ms.and_then(at),
        floor: floor_mw.unwrap_or(Milliwatts(0)),
        source,
    };
    Held { cap, unsure: timed && unix_ms.is_none() }
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
    pub const fn cap(&self, source: Source) -> Option<PowerCap> {
        self.kept.caps.of(source)
    }
}

impl Desk {
    /// Sets the cap of one source; none lifts it. `unix_ms` is the time, where it is known.
    ///
    /// # Errors
    /// Where it is over already.
    pub fn set_cap(
        &self,
        source: Source,
        cap: Option<PowerCap>,
        now: Instant,
        unix_ms: Option<u64>,
    ) -> Result<(), Impossible> {
        if cap.is_some_and(|cap| is_over(&cap, unix_ms)) {
            return Err(Impossible("it is over already".to_owned()));
        }
        self.change_caps(|kept, caps| {
            kept.caps.set(source, cap);
            caps.retain(|held| held.cap.source != source);
            caps.extend(cap.map(|cap| held(cap, source, now, unix_ms)));
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
            for source in SOURCES {
                let Some(cap) = kept.caps.of(source) else { continue };
                let known = caps.iter_mut().find(|held| held.cap.source == source);
                let ended = |held: &Held| !held.unsure && held.cap.until.is_some_and(|until| now >= until);
                match known {
                    Some(known) if ended(known) || known.unsure && is_over(&cap, Some(unix_ms)) => {
                        kept.caps.set(source, None);
                        forgotten = true;
                    }
                    Some(known) if known.unsure => *known = held(cap, source, now, Some(unix_ms)),
                    Some(_) | None => {}
                }
            }
            caps.retain(|held| kept.caps.of(held.cap.source).is_some());
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
            desk.set_cap(source, Some(cap(watts)), now, None).unwrap();
        }
        assert_eq!(seen(&desk.now()), [(Source::Schedule, 1_500), (Source::Command, 1_800)]);
        desk.save().unwrap();
        let (desk, _) = bench.open();
        assert_eq!(seen(&desk.now()), [(Source::Command, 1_800), (Source::Schedule, 1_500)]);
        desk.set_cap(Source::Command, None, now, None).unwrap();
        assert_eq!(seen(&desk.now()), [(Source::Schedule, 1_500)]);
        assert_eq!(desk.now().cap(Source::Schedule), Some(cap(1_500)));
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
            floor: Milliwatts(7),
            source: Source::Grid,
        };
        desk.set_cap(Source::Grid, Some(asked), now, Some(NOW_MS)).unwrap();
        assert_eq!(only(), Some(expected));
        // The wall clock jumps, and the moments stay.
        assert!(!desk.look_at_caps(later(1), NOW_MS + 50_000));
        assert_eq!(only(), Some(expected));
        assert!(desk.look_at_caps(later(60), NOW_MS));
        assert_eq!((only(), desk.now().cap(Source::Grid)), (None, None));
        // Nobody knows the time: it does not end, and is not put off.
        desk.set_cap(Source::Grid, Some(asked), now, None).unwrap();
        assert_eq!(only(), Some(Cap { deadline: None, until: None, ..expected }));
        assert!(!desk.look_at_caps(later(5), NOW_MS + 5_000));
        assert_eq!(only(), Some(expected));
        // It was over before anybody knew.
        desk.set_cap(Source::Grid, Some(asked), now, None).unwrap();
        assert!(desk.look_at_caps(later(5), NOW_MS + 60_000));
        assert_eq!(only(), None);
        assert!(desk.set_cap(Source::Grid, Some(asked), now, Some(NOW_MS + 60_000)).is_err());
        assert_eq!(only(), None);
    }
}
