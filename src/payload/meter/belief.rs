//! Whether a payload's word can be believed: what it says against the watts that it takes and the work that it counts.
//!
//! APIs lie. A card that fell off keeps its old rate (todxx/teamredminer, issue 55), a rate is too high while a DAG is built
//! (sp-hash/TeamBlackMiner, issue 69), a miner runs and does nothing (nicehash/excavator, issue 218). Watts are measured on the rail and do not lie, so a
//! number that does not move while power does, or moves while power does not, is flagged. A flag is no order: what
//! follows from it is the supervisor's to say, after its warm-up.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::reading::Reading;
use crate::units::{MilliPerSecond, Milliwatts};

/// What was known at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Since any fixed moment.
    pub at: Duration,
    /// By the payload's word.
    pub rate: Reading<MilliPerSecond>,
    /// Work done, by the payload's word.
    pub work: Reading<u64>,
    /// What its cards took, by measurement.
    pub power: Reading<Milliwatts>,
}

/// What is held against a payload's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Less time than this proves nothing.
    pub window: Duration,
    /// With a rate above zero, work must have grown in so long: several times what one share takes. Zero: not looked at.
    pub work_within: Duration,
    /// What the cards take with nothing to do; zero where nobody knows.
    pub idle: Milliwatts,
    /// Power that varies by more than this part of its highest value moves, in percent.
    pub moves_pct: u8,
    /// Power that varies by less than this part of its highest value stands, in percent.
    pub stands_pct: u8,
    /// Whether rate and power belong together closely enough to doubt a rate that moves alone or comes without power:
    /// true for mining. An AI server answers ten times as many requests with little more power, and one with hardly any.
    pub steady: bool,
}

impl Default for Rules {
    /// A minute; ten minutes for work; a fifth of the power moves, a twentieth stands; not steady.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            work_within: Duration::from_secs(600),
            idle: Milliwatts(0),
            moves_pct: 20,
            stands_pct: 5,
            steady: false,
        }
    }
}

/// What was found. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Not enough is known: too short a time, fewer than three beats, or something missing in the newest.
    #[default]
    Unknown,
    /// Nothing speaks against it.
    Believed,
    /// The same rate to the last digit, and no work counted, while power moves: a number that nobody refreshes.
    Frozen,
    /// The rate is more than doubled or halved while power stands.
    Adrift,
    /// Work is claimed at no more than idle power.
    Hollow,
    /// A rate, and no work for longer than work takes.
    Barren,
}

impl Flag {
    /// Something speaks against it.
    #[must_use]
    pub const fn is_doubt(self) -> bool {
        !matches!(self, Self::Unknown | Self::Believed)
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "not known",
            Self::Believed => "nothing speaks against it",
            Self::Frozen => "it stands while power moves",
            Self::Adrift => "it moves while power stands",
            Self::Hollow => "it claims work at idle power",
            Self::Barren => "a rate, and no work is counted",
        })
    }
}

/// Judges the beats of one payload, oldest first; the caller bounds how many, and starts anew with each start of the
/// payload. Beats in which anything is missing prove nothing and are left out.
#[must_use]
pub fn believe(history: &[Beat], rules: &Rules) -> Flag {
    let newest_known = history.last().is_some_and(|beat| beat.rate.is_ok() && beat.power.is_ok());
    let known: Vec<(Duration, u64, Option<u64>, u32)> = history
        .iter()
        .filter_map(|beat| Some((beat.at, beat.rate.ok()?.0, beat.work.ok(), beat.power.ok()?.0)))
        .collect();
    let Some(&(now, rate, work, _)) = known.last() else { return Flag::Unknown };
    let recent: Vec<_> = known.iter().filter(|beat| now.saturating_sub(beat.0) <= rules.window).collect();
    // Beats come at their own pace: the window counts as seen once nine tenths of it are.
    let seen = recent.first().map_or(Duration::ZERO, |first| now.saturating_sub(first.0));
    if !newest_known || recent.len() < 3 || seen < rules.window.mul_f32(0.9) {
        return Flag::Unknown;
    }
    if rate == 0 {
        // No work is claimed.
        return Flag::Believed;
    }
    let power = || recent.iter().map(|beat| beat.3);
    let (least, most) = (power().min().unwrap_or(0), power().max().unwrap_or(0));
    let spread = u64::from(most - least) * 100;
    let moves = spread > u64::from(most) * u64::from(rules.moves_pct);
    let stands = spread < u64::from(most) * u64::from(rules.stands_pct);
    let same_rate = recent.iter().all(|beat| beat.1 == rate);
    // A payload without a counter cannot be cleared by one.
    let worked = recent.iter().any(|beat| beat.2.zip(work).is_some_and(|(then, now)| then != now));
    let rates = || recent.iter().map(|beat| beat.1);
    let (slowest, fastest) = (rates().min().unwrap_or(0), rates().max().unwrap_or(0));
    if rules.steady && rules.idle.0 > 0 && u64::from(most) * 10 <= u64::from(rules.idle.0) * 11 {
        return Flag::Hollow;
    }
    if same_rate && !worked && moves {
        return Flag::Frozen;
    }
    if rules.steady && stands && fastest > slowest.saturating_mul(2) {
        return Flag::Adrift;
    }
    if barren(&known, now, work, rules.work_within) { Flag::Barren } else { Flag::Believed }
}

/// Whether all work ever counted was counted longer ago than it may be, with a rate at each beat since.
fn barren(known: &[(Duration, u64, Option<u64>, u32)], now: Duration, work: Option<u64>, within: Duration) -> bool {
    let Some(work) = work.filter(|_| within > Duration::ZERO) else { return false };
    let counted = known.iter().rev().filter(|beat| beat.2.is_some());
    let since = counted.take_while(|beat| beat.1 > 0 && beat.2 == Some(work)).last();
    since.is_some_and(|first| now.saturating_sub(first.0) >= within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Missing;

    const RULES: Rules = Rules {
        window: Duration::from_secs(60),
        work_within: Duration::from_secs(600),
        idle: Milliwatts(100_000),
        moves_pct: 20,
        stands_pct: 5,
        steady: true,
    };

    /// Beats ten seconds apart: rate in MH/s, work, watts.
    fn beats(rows: &[(u64, u64, u32)]) -> Vec<Beat> {
        let beat = |(n, (rate, work, watts)): (u64, &(u64, u64, u32))| Beat {
            at: Duration::from_secs(1_000 + 10 * n),
            rate: Ok(MilliPerSecond(rate * 1_000_000_000)),
            work: Ok(*work),
            power: Ok(Milliwatts(watts * 1_000)),
        };
        (0..).zip(rows).map(beat).collect()
    }

    #[test]
    fn a_word_is_held_against_watts_and_work() {
        for (name, rows, expected) in [
            (
                "a good miner",
                vec![(60, 1, 300), (61, 1, 301), (60, 2, 300), (60, 2, 299), (60, 2, 300), (61, 3, 300), (60, 3, 300)],
                Flag::Believed,
            ),
            ("exactly steady, power too", vec![(60, 1, 300); 7], Flag::Believed),
            (
                "exactly steady, power moves, shares come",
                (0..7).map(|n| (60, u64::from(n), 300 - 20 * n)).collect(),
                Flag::Believed,
            ),
            (
                "a card fell off, its rate stayed",
                vec![(60, 9, 300), (60, 9, 300), (60, 9, 300), (60, 9, 200), (60, 9, 150), (60, 9, 150), (60, 9, 150)],
                Flag::Frozen,
            ),
            (
                "twice the rate for the same watts",
                vec![(30, 1, 300), (30, 2, 300), (30, 3, 301), (30, 4, 300), (61, 5, 300), (62, 6, 300), (62, 7, 301)],
                Flag::Adrift,
            ),
            (
                "rate and watts rise together",
                vec![(30, 1, 150), (30, 2, 150), (40, 3, 200), (50, 4, 250), (61, 5, 300), (62, 6, 300), (62, 7, 301)],
                Flag::Believed,
            ),
            ("claims at idle power", vec![(60, 1, 105); 7], Flag::Hollow),
            ("nothing claimed at idle power", vec![(0, 1, 105); 7], Flag::Believed),
            ("no work for ten minutes", (0..61).map(|n| (60 + n % 2, 5, 300)).collect(), Flag::Barren),
            ("no work for nine", (0..55).map(|n| (60 + n % 2, 5, 300)).collect(), Flag::Believed),
            ("too short", vec![(60, 1, 300); 5], Flag::Unknown),
            ("nothing at all", vec![], Flag::Unknown),
        ] {
            assert_eq!(believe(&beats(&rows), &RULES), expected, "{name}");
        }
    }

    #[test]
    fn an_ai_server_may_do_more_for_the_same_watts() {
        let rows = [(1, 1, 300), (9, 2, 300), (9, 3, 300), (2, 4, 300), (9, 5, 300), (9, 6, 300), (1, 7, 300)];
        assert_eq!(believe(&beats(&rows), &RULES), Flag::Adrift);
        let server = Rules { steady: false, ..RULES };
        assert_eq!(believe(&beats(&rows), &server), Flag::Believed);
        // And hardly any power for hardly any.
        assert_eq!(believe(&beats(&[(1, 1, 101); 7]), &server), Flag::Believed);
    }

    #[test]
    fn a_counter_that_is_not_always_there_still_stands() {
        let mut history = beats(&(0..61).map(|n| (60 + n % 2, 5, 300)).collect::<Vec<_>>());
        history.iter_mut().step_by(2).for_each(|beat| beat.work = Err(Missing::Bus));
        history[60].work = Ok(5);
        history[0].work = Ok(5);
        assert_eq!(believe(&history, &RULES), Flag::Barren);
        // None is no proof of idleness.
        history.iter_mut().for_each(|beat| beat.work = Err(Missing::NotPresent));
        assert_eq!(believe(&history, &RULES), Flag::Believed);
        history.iter_mut().for_each(|beat| beat.work = Ok(5));
        assert_eq!(believe(&history, &Rules { work_within: Duration::ZERO, ..RULES }), Flag::Believed);
    }

    #[test]
    fn what_is_missing_proves_nothing() {
        let mut history =
            beats(&[(60, 9, 300), (60, 9, 300), (60, 9, 300), (60, 9, 200), (60, 9, 150), (60, 9, 150), (60, 9, 150)]);
        history[3].power = Err(Missing::Bus);
        assert_eq!(believe(&history, &RULES), Flag::Frozen);
        // No counter at all: the rate and the power are enough.
        history.iter_mut().for_each(|beat| beat.work = Err(Missing::NotPresent));
        assert_eq!(believe(&history, &RULES), Flag::Frozen);
        history[6].work = Ok(9);
        assert_eq!(believe(&history, &RULES), Flag::Frozen);
        history[6].rate = Err(Missing::Bus);
        assert_eq!(believe(&history, &RULES), Flag::Unknown);
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]
        #[test]
        fn nobody_is_doubted_for_claiming_nothing_or_for_what_is_unknown(
            rows in proptest::collection::vec((0..u64::MAX, 0..u64::MAX, 0..u32::MAX, 0..5_u8), 0..20),
        ) {
            let mut history: Vec<Beat> = rows.iter().zip(0..).map(|((rate, work, power, _), n)| Beat {
                at: Duration::from_secs(10 * n),
                rate: Ok(MilliPerSecond(*rate)),
                work: Ok(*work),
                power: Ok(Milliwatts(*power)),
            }).collect();
            for (beat, (.., missing)) in history.iter_mut().zip(&rows) {
                if *missing == 0 { beat.power = Err(Missing::Stale); }
            }
            let flag = believe(&history, &RULES);
            let idle = |beat: &Beat| beat.power.is_ok_and(|power| power.0 <= 110_000);
            proptest::prop_assert!(flag != Flag::Hollow || history.last().is_some_and(idle));
            if let Some(last) = history.last_mut() {
                last.rate = Ok(MilliPerSecond(0));
            }
            proptest::prop_assert!(matches!(believe(&history, &RULES), Flag::Unknown | Flag::Believed));
            if let Some(last) = history.last_mut() {
                last.rate = Err(Missing::Bus);
            }
            proptest::prop_assert_eq!(believe(&history, &RULES), Flag::Unknown);
        }
    }
}
