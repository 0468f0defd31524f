//! Meters: watts that are read now and then, and a GPU's own counter of energy.
//!
//! **A GPU counts for itself** in millijoule from Volta on (`nvmlDeviceGetTotalEnergyConsumption`), so what it drew is the difference
//! of that, whatever was between two readings; its power is the mean of a second, and late. A counter that goes back (the driver was
//! loaded anew, a card was reset) or that leaps by more than any card draws is a gap. One that stands still or is silent for
//! [`LONGEST`] is no counter: then its power counts, as for a card that has none. So it does for [`WINDOW`] after one in which both
//! differ by more than [`APART`]: there are rigs where the counter tells half of what the power adds up to
//! (ml-energy/zeus, issue 181).
//!
//! Until a counter moves its time is neither counted nor a gap: at most [`LONGEST`], which an agent that is killed loses.

use std::mem;
use std::time::Duration;

use super::LONGEST;
use crate::reading::Reading;
use crate::units::{Millijoules, Milliwatts};

/// Counter and power are held against each other over so long, ms: long enough that a mean which is late by a second matters less.
pub(super) const WINDOW: u64 = 300_000;
/// One part in so many is too far apart.
pub(super) const APART: u64 = 5;
/// No card draws more, in millijoule a millisecond: 10 kW.
const MOST_DRAWN: u64 = 10_000;

/// The last reading of watts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trapezoid {
    last: Option<Milliwatts>,
    /// Nanojoule that are not a whole microjoule yet.
    rest: u64,
}

impl Trapezoid {
    /// What was used since the last reading, microjoule; none where that is a gap.
    pub(super) fn next(&mut self, reading: Reading<Milliwatts>, since: Option<Duration>) -> Option<u64> {
        let before = mem::replace(&mut self.last, reading.ok());
        let (before, now, since) = (before?, self.last?, since?);
        // Milliwatts times microseconds are nanojoule; 5 s of 8 MW are far from the end.
        let micros = u64::try_from(since.as_micros()).unwrap_or(0);
        let sum = u64::from(before.0) + u64::from(now.0);
        let all = sum.saturating_mul(micros) / 2 + self.rest;
        self.rest = all % 1000;
        Some(all / 1000)
    }
}

/// What a GPU drew itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    power: Trapezoid,
    counter: Option<Millijoules>,
    /// Not settled yet, ms.
    waits: u64,
    /// What that was by its power, microjoule; none where that was not told all the time.
    meanwhile: Option<u64>,
    /// Since the window began: by its counter, by its power, microjoule, and for how long, ms.
    both: [u64; 3],
    /// In the window before they were too far apart.
    pub(super) doubted: bool,
}

/// What one tick brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    /// By its power in this tick, microjoule: who pays for what goes by that.
    pub(super) weight: Option<u64>,
    /// What is settled with this tick: for so long, ms, it drew so much, microjoule, or nobody knows.
    pub(super) settled: Option<(u64, Option<u64>)>,
}

impl Own {
    /// Takes one tick's readings, `since` the last one and `millis` long; `since` is none where that is too long ago.
    pub(super) fn next(
        &mut self,
        power: Reading<Milliwatts>,
        counter: Reading<Millijoules>,
        (since, millis): (Option<Duration>, u64),
    ) -> Drawn {
        let weight = self.power.next(power, since);
        let time = mem::take(&mut self.waits).saturating_add(millis);
        let before = if time == millis { Some(0) } else { self.meanwhile };
        let by_power = before.zip(weight).map(|(before, more)| before.saturating_add(more));
        let last = mem::replace(&mut self.counter, counter.ok());
        let used = match (last, self.counter) {
            _ if since.is_none() => None,
            (Some(then), Some(now)) if now > then => self.counted(now.0 - then.0, by_power, time),
            (Some(then), Some(now)) if now < then => None,
            // Not read anew, or not to be read.
            (Some(_), _) if Duration::from_millis(time) <= LONGEST => {
                (self.counter, self.waits, self.meanwhile) = (last, time, by_power);
                return Drawn { weight, settled: None };
            }
            // It begins anew, for this time is over with this.
            (Some(_), _) => {
                self.counter = None;
                by_power
            }
            (None, _) => by_power,
        };
        Drawn { weight, settled: Some((time, used)) }
    }

    /// By its counter, mJ, or by its power where that is doubted; none for more than any card draws.
    fn counted(&mut self, millijoules: u64, by_power: Option<u64>, time: u64) -> Option<u64> {
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        if millijoules > MOST_DRAWN.saturating_mul(time.saturating_add(longest)) {
            return None;
        }
        let own = millijoules.saturating_mul(1_000);
        let Some(by_power) = by_power else { return Some(own) };
        let used = if self.doubted { by_power } else { own };
        let [counter, power, long] = self.both;
        self.both = [counter.saturating_add(own), power.saturating_add(by_power), long.saturating_add(time)];
        let [counter, power, long] = self.both;
        if long >= WINDOW {
            self.doubted = counter.abs_diff(power) > counter.max(power) / APART;
            self.both = [0; 3];
        }
        Some(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Missing;

    const TICK: (Option<Duration>, u64) = (Some(Duration::from_millis(100)), 100);

    fn mw(watts: u32) -> Reading<Milliwatts> {
        Ok(Milliwatts(watts * 1_000))
    }

    /// Power in W, counter in mJ, and what is settled by them.
    type Row = (Option<u32>, Option<u64>, Option<(u64, Option<u64>)>);

    /// Ticks of a tenth of a second: what each settles.
    fn check(name: &str, rows: &[Row]) {
        let mut own = Own::default();
        own.next(mw(100), Ok(Millijoules(50_000)), (None, 0));
        for (at, (power, counter, expected)) in rows.iter().enumerate() {
            let power = power.map_or(Err(Missing::Bus), mw);
            let counter = counter.map_or(Err(Missing::Bus), |counter| Ok(Millijoules(counter)));
            assert_eq!(own.next(power, counter, TICK).settled, *expected, "{name}, row {at}");
        }
    }

    #[test]
    fn a_counter_is_what_it_counted_whatever_the_power_says() {
        let ten = Some(100);
        check(
            "it moves",
            &[(ten, Some(50_011), Some((100, Some(11_000)))), (ten, Some(50_020), Some((100, Some(9_000))))],
        );
        check(
            "not read anew, and not to be read",
            &[(ten, Some(50_000), None), (None, None, None), (ten, Some(50_033), Some((300, Some(33_000))))],
        );
        check(
            "the driver was loaded anew",
            &[
                (ten, Some(50_010), Some((100, Some(10_000)))),
                (ten, Some(3), Some((100, None))),
                (ten, Some(13), Some((100, Some(10_000)))),
            ],
        );
        check(
            "more than any card draws, and back",
            &[
                (ten, Some(1 << 60), Some((100, None))),
                (ten, Some(50_020), Some((100, None))),
                (ten, Some(50_030), Some((100, Some(10_000)))),
            ],
        );
    }

    #[test]
    fn what_is_no_counter_leaves_it_to_the_power() {
        let mut own = Own::default();
        let mut sums = (0, 0, 0);
        let mut run =
            |own: &mut Own, ticks: u32, counter: &dyn Fn(u32) -> Reading<Millijoules>, power: Reading<Milliwatts>| {
                for tick in 0..ticks {
                    let Some((time, used)) = own.next(power, counter(tick), TICK).settled else { continue };
                    match used {
                        Some(used) => sums = (sums.0 + used, sums.1 + time, sums.2),
                        None => sums.2 += time,
                    }
                }
                sums
            };
        own.next(mw(100), Err(Missing::NotPresent), (None, 0));
        assert_eq!(run(&mut own, 100, &|_| Err(Missing::NotPresent), mw(100)), (1_000_000_000, 10_000, 0), "none");
        // The tick that begins it is its power's; then nothing for five seconds, and all of it.
        assert_eq!(run(&mut own, 51, &|_| Ok(Millijoules(7)), mw(100)), (1_010_000_000, 10_100, 0), "stands still");
        assert_eq!(run(&mut own, 1, &|_| Ok(Millijoules(7)), mw(100)), (1_520_000_000, 15_200, 0));
        assert_eq!(run(&mut own, 1, &|_| Ok(Millijoules(7)), mw(100)), (1_530_000_000, 15_300, 0));
        let moves = |tick: u32| Ok(Millijoules(7 + 20_000 * (u64::from(tick) + 1)));
        assert_eq!(run(&mut own, 10, &moves, mw(100)), (1_730_000_000, 16_300, 0), "it does move");
        let gone = |_| Err(Missing::Bus);
        assert_eq!(run(&mut own, 50, &gone, Err(Missing::Bus)), (1_730_000_000, 16_300, 0), "silent: nobody knows yet");
        assert_eq!(run(&mut own, 1, &gone, Err(Missing::Bus)), (1_730_000_000, 16_300, 5_100), "a gap");
        assert_eq!(run(&mut own, 2, &gone, Err(Missing::Bus)), (1_730_000_000, 16_300, 5_300));
    }

    #[test]
    fn ticks_too_far_apart_are_a_gap_also_by_the_counter() {
        let mut own = Own::default();
        own.next(mw(100), Ok(Millijoules(0)), (None, 0));
        assert_eq!(own.next(mw(100), Ok(Millijoules(0)), TICK).settled, None);
        let late = own.next(mw(100), Ok(Millijoules(600_000)), (None, 6_000));
        assert_eq!(late, Drawn { weight: None, settled: Some((6_100, None)) });
        assert_eq!(own.next(mw(100), Ok(Millijoules(600_010)), TICK).settled, Some((100, Some(10_000))));
    }

    #[test]
    fn a_counter_that_tells_half_is_doubted_until_it_tells_all() {
        let mut own = Own::default();
        own.next(mw(100), Ok(Millijoules(0)), (None, 0));
        let mut counter = 0;
        let mut minutes = |own: &mut Own, many: u32, each: u64| {
            let mut sum = 0;
            for _ in 0..many * 600 {
                counter += each;
                sum += own.next(mw(100), Ok(Millijoules(counter)), TICK).settled.unwrap().1.unwrap();
            }
            sum / 1_000_000
        };
        assert_eq!(minutes(&mut own, 5, 5_000), 15_000, "nobody knows yet");
        assert!(own.doubted);
        assert_eq!(minutes(&mut own, 5, 5_000), 30_000, "as its power says");
        assert_eq!(minutes(&mut own, 5, 9_000), 30_000, "within a fifth");
        assert!(!own.doubted);
        assert_eq!(minutes(&mut own, 5, 9_000), 27_000);
    }
}
