//! What a payload is expected to yield, learnt from what it has yielded.
//!
//! Each half hour in which it ran, was warm, was believed and was never low gives one figure, the median of its thirty
//! minutes. What is expected is the median of the first [`FIGURES`] of them. Later ones are not taken: they could only
//! teach it, a little at a time, that slow is normal. Another program, other arguments, other GPUs or another profile, and
//! all is forgotten; so it is when a person clears the payload.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Grant;
use super::manifest::Manifest;
use crate::digest::fnv1a;
use crate::sorted;
use crate::statefile::StateFile;

/// Half hours that are learnt from.
const FIGURES: usize = 7;
/// Minutes of one figure.
const MINUTES: usize = 30;
const MINUTE: Duration = Duration::from_secs(60);
/// Seven numbers are a tenth of that.
const LARGEST: u64 = 4 * 1024;

/// What was learnt of a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Learnt {
    /// Of what: [`mark`].
    of: u32,
    /// A figure each half hour, thousandths of the meter's unit a second; at most [`FIGURES`].
    figures: Vec<u64>,
}

/// What a payload's yield depends on, as a number.
pub(super) fn mark(manifest: &Manifest, grant: &Grant) -> u32 {
    let gpus = sorted::list(grant.gpus.iter().map(|gpu| gpu.uuid.clone()));
    let environment = manifest.environment.iter().map(|(name, value)| format!("{name}={value}"));
    let mut parts: Vec<String> = manifest.command(&gpus);
    parts.extend(environment);
    parts.extend(manifest.meter.as_ref().map(|meter| meter.name.clone()));
    parts.extend(manifest.gpus.profile.clone());
    parts.extend(gpus);
    // No part has a zero byte in it: each is an argument, a variable or a name.
    fnv1a(parts.join("\0").as_bytes())
}

impl Learnt {
    /// Nothing, of this.
    pub(super) const fn nothing(of: u32) -> Self {
        Self { of, figures: Vec::new() }
    }

    /// What the file has of this; nothing where it is of something else.
    pub(super) fn load(home: &Path, of: u32) -> Self {
        let kept: Self = file(home).load("the payload's rate is learnt anew");
        if kept.of == of { kept } else { Self::nothing(of) }
    }

    /// Writes it down.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn save(&self, home: &Path) -> std::io::Result<()> {
        file(home).save(self)
    }

    /// Of what it is.
    pub(super) const fn of(&self) -> u32 {
        self.of
    }

    /// What is expected; none before the first half hour.
    pub(super) fn rate(&self) -> Option<u64> {
        median(self.figures.clone())
    }

    /// Takes the figure of half an hour; whether there was room for it.
    pub(super) fn take(&mut self, figure: u64) -> bool {
        // A payload that does nothing all the time is no measure.
        let taken = self.figures.len() < FIGURES && figure > 0;
        if taken {
            self.figures.push(figure);
        }
        taken
    }
}

fn file(home: &Path) -> StateFile {
    StateFile::new(home, "learnt.json", LARGEST)
}

/// Half an hour on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct HalfHour {
    /// Since when, the sum and how many of the minute under way.
    minute: Option<(Duration, u128, u32)>,
    /// The mean of each minute; fewer than [`MINUTES`].
    minutes: Vec<u64>,
}

impl HalfHour {
    /// Takes the rate of a moment in which all was well, and gives the figure once the half hour is full.
    pub(super) fn take(&mut self, rate: u64, at: Duration) -> Option<u64> {
        let (since, sum, count) = self.minute.unwrap_or((at, 0, 0));
        if at.saturating_sub(since) < MINUTE {
            self.minute = Some((since, sum + u128::from(rate), count.saturating_add(1)));
            return None;
        }
        self.minute = Some((at, rate.into(), 1));
        self.minutes.push(u64::try_from(sum / u128::from(count.max(1))).unwrap_or(u64::MAX));
        if self.minutes.len() < MINUTES {
            return None;
        }
        median(std::mem::take(&mut self.minutes))
    }

    /// Something was not well, or another run begins.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// The middle one; of two the lower.
fn median(all: Vec<u64>) -> Option<u64> {
    let all = sorted::list(all);
    all.get(all.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::super::Gpu;
    use super::*;
    use crate::scratch::Scratch;

    /// Rates ten seconds apart, each minute's the same; the figures that come of them.
    fn figures(minutes: &[u64]) -> Vec<u64> {
        let mut half_hour = HalfHour::default();
        let rates = minutes.iter().flat_map(|rate| [*rate; 6]).chain([0]);
        let at = (0..).map(|n| Duration::from_secs(5_000 + 10 * n));
        rates.zip(at).filter_map(|(rate, at)| half_hour.take(rate, at)).collect()
    }

    #[test]
    fn half_an_hour_gives_its_median_and_less_gives_nothing() {
        let mut odd = vec![60; 30];
        odd[3] = 0;
        odd[9] = 1_000_000;
        for (name, minutes, expected) in [
            ("twenty-nine minutes", vec![60; 29], vec![]),
            ("thirty", vec![60; 30], vec![60]),
            ("two minutes that are not like the others", odd, vec![60]),
            ("slowly down", (0..30).map(|n| 60 - n).collect(), vec![45]),
            ("an hour", [vec![60; 30], vec![70; 30]].concat(), vec![60, 70]),
            ("as fast as can be", vec![u64::MAX; 30], vec![u64::MAX]),
        ] {
            assert_eq!(figures(&minutes), expected, "{name}");
        }
        let mut broken = HalfHour::default();
        for second in (0..1_790).step_by(10) {
            assert_eq!(broken.take(60, Duration::from_secs(second)), None);
        }
        broken.forget();
        assert_eq!(broken.take(60, Duration::from_secs(1_800)), None);
        assert!(broken.minutes.is_empty());
    }

    #[test]
    fn the_first_figures_count_and_a_slow_decay_teaches_nothing() {
        let mut learnt = Learnt::nothing(7);
        for (figure, taken, expected) in [
            (0, false, None),
            (60, true, Some(60)),
            (10, true, Some(10)),
            (61, true, Some(60)),
            (62, true, Some(60)),
            (63, true, Some(61)),
            (64, true, Some(61)),
            (65, true, Some(62)),
            (50, false, Some(62)),
            (40, false, Some(62)),
        ] {
            assert_eq!((learnt.take(figure), learnt.rate()), (taken, expected), "{figure}");
        }
    }

    #[test]
    fn it_is_kept_until_the_payload_is_another_one() {
        let parse = |text: &str| Manifest::parse("x", "x", text).unwrap();
        let base = "kind = \"mining\"\nargv = [\"/m\", \"-a\", \"b\"]\n[meter]\nname = \"xmrig\"\nport = 1\n";
        let gpus = |uuids: &[&str]| Grant {
            gpus: uuids.iter().map(|uuid| Gpu { uuid: (*uuid).to_owned(), nodes: vec![] }).collect(),
        };
        let first = mark(&parse(base), &gpus(&["A", "B"]));
        assert_eq!(mark(&parse(&format!("{base}[restart]\nbudget = 3\n")), &gpus(&["B", "A"])), first);
        for (name, manifest, grant) in [
            ("other GPUs", base.to_owned(), gpus(&["A", "C"])),
            ("fewer", base.to_owned(), gpus(&["A"])),
            ("arguments", base.replace("\"-a\", \"b\"", "\"-ab\""), gpus(&["A", "B"])),
            ("profile", format!("{base}[gpus]\nprofile = \"p\"\n"), gpus(&["A", "B"])),
            ("meter", base.replace("xmrig", "rigel"), gpus(&["A", "B"])),
            ("environment", format!("{base}[environment]\nA = \"1\"\n"), gpus(&["A", "B"])),
        ] {
            assert_ne!(mark(&parse(&manifest), &grant), first, "{name}");
        }
        let home = Scratch::new("learnt");
        assert_eq!(Learnt::load(&home, first), Learnt::nothing(first));
        let mut learnt = Learnt::nothing(first);
        assert!(learnt.take(60));
        learnt.save(&home).unwrap();
        assert_eq!(Learnt::load(&home, first).rate(), Some(60));
        assert_eq!(Learnt::load(&home, first ^ 1), Learnt::nothing(first ^ 1));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]
        #[test]
        fn a_figure_lies_among_the_rates_and_takes_half_an_hour_of_them(
            rates in proptest::collection::vec((0..u64::MAX, 1..90_u64), 0..400),
        ) {
            let mut half_hour = HalfHour::default();
            let (mut now, mut since) = (Duration::ZERO, None);
            let (mut least, mut most) = (u64::MAX, 0);
            for (rate, seconds) in rates {
                now += Duration::from_secs(seconds);
                let first = *since.get_or_insert(now);
                let figure = half_hour.take(rate, now);
                if let Some(figure) = figure {
                    proptest::prop_assert!(now - first >= Duration::from_secs(1_800));
                    proptest::prop_assert!((least..=most).contains(&figure));
                    since = Some(now);
                    // The rate that ends a half hour is the first of the next.
                    (least, most) = (u64::MAX, 0);
                }
                (least, most) = (least.min(rate), most.max(rate));
                proptest::prop_assert!(half_hour.minutes.len() < MINUTES);
            }
        }
    }
}
