//! A fan's drive through the kernel driver that owns its chip: `pwmN`.
//!
//! Every driver takes it out of 255. It reads as each likes: in coarser steps (emc2305 has ten), in percent (max31785), or as
//! what the chip has made of it by now, which follows slowly (max31790). So what reads back at once may be the drive from
//! before; it has a few seconds to arrive, and only what has not arrived then is a drive that did not hold.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::reading::{Missing, Reading};
use crate::units::Duty;

/// `pwmN_enable` where the value in `pwmN` is the drive.
const MANUAL: &str = "1";
/// What is written for full drive.
pub(super) const FULL: u16 = 255;
/// The coarsest steps of a driver: emc2305 has ten.
const STEP: u16 = 26;
/// A drive has arrived by then: the outputs of a MAX31790 take four seconds from end to end.
const SETTLE: Duration = Duration::from_secs(6);

/// The drive of one fan.
pub(super) struct Drive {
    name: String,
    full: u16,
    set: Option<Set>,
}

/// What was set last.
struct Set {
    wanted: u16,
    since: Instant,
    /// What it reads as until it has arrived: between the drive from before and this one.
    way: RangeInclusive<u16>,
    /// What it reads as since it has arrived.
    held: Option<u16>,
    /// Times in a row that it had not arrived in time.
    missed: u8,
}

impl Drive {
    /// A drive by its file, and what that reads as when it is full.
    pub(super) fn new(name: &str, full: u16) -> Self {
        Self { name: name.to_owned(), full, set: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What a text of the file means.
    pub(super) fn parse(&self, pwm: i64) -> Reading<Duty> {
        u16::try_from(pwm).ok().and_then(|pwm| Duty::from_ratio(pwm, self.full)).ok_or(Missing::Implausible)
    }

    /// Sets it below the `hwmonN` directory; manual mode is chosen first. `None` where the driver has no such drive; else,
    /// out of 255, what it was set to and, where it does not arrive there, what it reads as.
    pub(super) fn set(&mut self, directory: &Path, duty: Duty, now: Instant) -> io::Result<Option<(u16, Option<u16>)>> {
        let pwm = directory.join(&self.name);
        let read = |this: &Self| -> io::Result<u16> {
            let text = fs::read_to_string(&pwm)?;
            Ok(text.trim_end().parse().ok().and_then(|value| this.parse(value).ok()).map_or(0, |held| held.of(FULL)))
        };
        if !pwm.exists() {
            return Ok(None);
        }
        let before = read(self)?;
        // max31785 sets a drive of its own making with it: only where it has to be.
        let enable = directory.join(format!("{}_enable", self.name));
        if fs::read_to_string(&enable).is_ok_and(|mode| mode.trim_end() != MANUAL) {
            fs::write(enable, MANUAL)?;
        }
        let wanted = duty.of(FULL);
        let write = |value: u16| fs::write(&pwm, value.to_string()).and_then(|()| read(self));
        let (set, short) = settle(self.set.as_ref(), wanted, before, now, write)?;
        self.set = Some(set);
        Ok(Some((wanted, short)))
    }

    /// Whether what was set still holds, where it reads as `reads` now.
    pub(super) fn holds(&mut self, ordered: Duty, reads: Duty, now: Instant) -> bool {
        let (wanted, reads) = (ordered.of(FULL), reads.of(FULL));
        match &mut self.set {
            Some(set) if set.wanted == wanted => set.holds(reads, now),
            _ => reads == wanted,
        }
    }
}

impl Set {
    fn holds(&mut self, reads: u16, now: Instant) -> bool {
        let late = now.saturating_duration_since(self.since) >= SETTLE;
        if reads == self.wanted || (self.held.is_none() && late && close(self.wanted, reads)) {
            self.held = Some(reads);
        }
        self.held == Some(reads) || (self.held.is_none() && !late && self.way.contains(&reads))
    }

    fn overdue(&self, now: Instant) -> bool {
        self.held.is_none() && now.saturating_duration_since(self.since) >= SETTLE
    }
}

/// What a drive may read as that goes from one of these to another, each a count off by rounding.
fn way(ends: [u16; 4]) -> RangeInclusive<u16> {
    let from = ends.iter().min().map_or(0, |least| least.saturating_sub(1));
    let to = ends.iter().max().map_or(FULL, |most| most.saturating_add(1));
    from..=to
}

/// Whether a driver with coarse steps may have made that of it: not less air, and one step more at most.
fn close(wanted: u16, found: u16) -> bool {
    (wanted..=wanted + STEP).contains(&found)
}

/// Times that a drive may not arrive, so that somebody may change it on its way, once.
const MISSES: u8 = 2;

/// Sets a drive by `write`, which gives what it reads as then; `before`, what it read as before. A driver with coarse steps may
/// have rounded it down; then the next step is taken, for more rather than less air: asked for by what was missing, where it
/// cuts off, or half a step more, where it rounds. Beside what was set comes what it reads as, where the same drive was set
/// before, has not arrived, and does not now.
fn settle(
    last: Option<&Set>,
    wanted: u16,
    before: u16,
    now: Instant,
    mut write: impl FnMut(u16) -> io::Result<u16>,
) -> io::Result<(Set, Option<u16>)> {
    let last = last.filter(|set| set.wanted == wanted && set.overdue(now));
    let (again, missed) = (last.is_some(), last.map_or(0, |set| set.missed.saturating_add(1)));
    let (mut asked, mut found) = (wanted, write(wanted)?);
    // What follows slowly has not moved by more than a count yet.
    let answers = |found: u16| again || found.abs_diff(before) > 1;
    for more in [wanted.saturating_sub(found), STEP / 2] {
        if found < wanted && answers(found) {
            asked = (wanted + more).min(FULL);
            found = write(asked)?;
        }
    }
    let arrived = found == wanted || (answers(found) && close(wanted, found));
    let failed = !arrived && missed >= MISSES;
    // One that failed is not given time again, at each further try.
    let since = last.filter(|_| failed).map_or(now, |set| set.since);
    let set = Set { wanted, since, way: way([before, found, wanted, asked]), held: arrived.then_some(found), missed };
    Ok((set, failed.then_some(found)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// The kernel's emc2305 has ten steps and rounds to the nearest; its max31785 has a hundred and cuts off, twice.
    #[test]
    fn a_driver_with_coarse_steps_gives_at_least_what_was_ordered() {
        let emc2305 = |value: u16| ((value * 10 + FULL / 2) / FULL * FULL + 5) / 10;
        let max31785 = |value: u16| value * 100 / FULL * FULL / 100;
        let start = clock::now();
        for driver in [&emc2305 as &dyn Fn(u16) -> u16, &max31785] {
            for (before, wanted) in
                (0..=FULL).flat_map(|wanted| [(0, wanted), (FULL, wanted), (driver(wanted), wanted)])
            {
                let mut reads = before;
                let mut write = |value| {
                    reads = driver(value);
                    Ok(reads)
                };
                let (mut set, short) = settle(None, wanted, before, start, &mut write).unwrap();
                assert_eq!(short, None);
                let late = start + SETTLE;
                let first = reads;
                if !set.holds(first, late) {
                    // It could not be told from one that follows slowly, at first.
                    let mut write = |value| {
                        reads = driver(value);
                        Ok(reads)
                    };
                    let (again, short) = settle(Some(&set), wanted, first, late, &mut write).unwrap();
                    assert_eq!(short, None);
                    set = again;
                }
                assert!(set.holds(reads, late), "{wanted} after {before} became {reads}");
                assert!(close(wanted, reads), "{wanted} after {before} became {reads}");
            }
        }
    }

    #[test]
    fn a_chip_that_follows_slowly_is_given_time() {
        let start = clock::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (mut set, short) = settle(None, 204, 76, start, |_| Ok(76)).unwrap();
        assert_eq!(short, None);
        for (ms, reads) in [(1_000, 120), (2_000, 160), (3_000, 204)] {
            assert!(set.holds(reads, at(ms)), "{reads}");
        }
        assert!(!set.holds(76, at(3_500)), "somebody else lowered it");
        let (mut set, _) = settle(None, 204, 76, start, |_| Ok(76)).unwrap();
        assert!(set.holds(120, at(1_000)));
        assert!(!set.holds(0, at(1_500)), "somebody else lowered it on its way");
        assert!(!set.holds(255, at(1_500)), "or raised it");
        // That is no failure, so there is time again.
        let (mut set, short) = settle(Some(&set), 204, 76, at(3_500), |_| Ok(76)).unwrap();
        assert_eq!(short, None);
        assert!(set.holds(77, at(9_000)));
    }

    #[test]
    fn a_drive_that_never_arrives_did_not_hold() {
        let (mut now, mut last) = (clock::now(), None);
        for _ in 0..MISSES {
            let (mut set, short) = settle(last.as_ref(), 204, 76, now, |_| Ok(76)).unwrap();
            assert_eq!(short, None, "it may have been changed on its way");
            assert!(set.holds(76, now));
            now += SETTLE;
            assert!(!set.holds(76, now));
            last = Some(set);
        }
        for _ in 0..3 {
            let (set, short) = settle(last.as_ref(), 204, 76, now, |_| Ok(76)).unwrap();
            assert_eq!(short, Some(76), "at once, at each further try");
            last = Some(set);
        }
        let (mut set, short) = settle(last.as_ref(), 204, 76, now, |_| Ok(204)).unwrap();
        assert_eq!(short, None);
        assert!(set.holds(204, now) && !set.holds(76, now));
    }

    #[test]
    fn percent_are_told_right() {
        let max31785 = Drive::new("pwm1", 100);
        assert_eq!(max31785.parse(30), Ok(Duty::from_percent(30).unwrap()));
        assert_eq!(max31785.parse(-1), Err(Missing::Implausible));
    }
}
