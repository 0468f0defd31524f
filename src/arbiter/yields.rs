//! What each payload yields on each GPU, and what it costs to start and to end it: learnt as it happens, kept on the disk.
//!
//! - **Rate**: what a believed meter says, in equal parts for its GPUs where they are of one make, and else by their watts.
//! - **Watts**: what the GPU's driver says, grossed up to the rig's input by what its supplies lose: the inputs over the outputs of
//!   those that measure both, held within 1.00 and 1.35; 100/92 where none does.
//! - **A GPU that was never measured** yields what the others of its make do, or else what the manifest guesses.
//!
//! All are slow means: a sample counts by the time that it stands for, against [`SLOW`] at most, so that a market that swings in an
//! hour meets figures that do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::{MOST, Switch, Yield};
use crate::reading::{Power, Reading};
use crate::units::{MilliPerSecond, Milliwatts};

/// What is older counts for less, s.
pub const SLOW: u32 = 3_600;
/// A mean of less is not planned with, s.
pub const ENOUGH: u32 = 60;
/// Switches count as much as the last four.
const SWITCHES: u32 = 4;

/// Where a figure is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// It was measured there.
    Measured,
    /// It was measured on others of that GPU's make.
    Alike,
    /// The manifest says so, and nobody has measured it.
    Guessed,
}

/// A slow mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mean {
    /// It.
    pub value: u64,
    /// What it rests on; never more than the most of whoever takes.
    pub weight: u32,
}

impl Mean {
    /// With one more value of this weight.
    #[must_use]
    pub fn take(self, value: u64, weight: u32, most: u32) -> Self {
        let (old, new) = (u128::from(self.weight), u128::from(weight));
        let Some(half) = (old + new).checked_sub(1).map(|less| less / 2) else { return self };
        let sum = u128::from(self.value) * old + u128::from(value) * new + half;
        let value = u64::try_from(sum / (old + new).max(1)).unwrap_or(u64::MAX);
        Self { value, weight: self.weight.saturating_add(weight).min(most) }
    }
}

/// What was learnt of a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learnt {
    /// By UUID: rate in thousandths of a unit a second, and mW.
    gpus: BTreeMap<String, [Mean; 2]>,
    /// From the order to end until its GPUs are free, ms.
    drain: Mean,
    /// From its start until it is healthy, ms.
    load: Mean,
    /// Energy of that, J.
    joules: Mean,
    /// When it was last tried on a GPU on which nobody knows it, ms since 1970.
    pub tried_ms: u64,
}

/// What was learnt, by payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Yields(pub BTreeMap<String, Learnt>);

/// Power at the rig's input.
#[must_use]
pub fn gross(power: Milliwatts, supplies: &[[Power; 2]]) -> Milliwatts {
    let watts = |power: &Reading<Milliwatts>| power.map(|power| u64::from(power.0)).ok();
    let both = supplies.iter().filter_map(|[input, output]| Some((watts(&input.power)?, watts(&output.power)?)));
    let (input, output) = both.fold((0, 0), |(a, b), (input, output)| (a + input, b + output));
    let part = (input * 1_000).checked_div(output).map_or(1_087, |part| part.clamp(1_000, 1_350));
    Milliwatts(u32::try_from(u64::from(power.0) * part / 1_000).unwrap_or(u32::MAX))
}

impl Yields {
    /// A payload worked for so many seconds at this rate, its GPUs, alike or not, with these watts at the rig's input.
    pub fn learn(
        &mut self,
        payload: &str,
        gpus: &[(String, Milliwatts)],
        alike: bool,
        rate: MilliPerSecond,
        seconds: u32,
    ) {
        let part = |power: Milliwatts| if alike { 1 } else { u128::from(power.0) };
        let whole: u128 = gpus.iter().map(|(_, power)| part(*power)).sum();
        let share = |power: Milliwatts| (u128::from(rate.0) * part(power)).checked_div(whole);
        if whole == 0 {
            return;
        }
        let Some(learnt) = self.entry(payload) else { return };
        for (uuid, power) in gpus {
            if learnt.gpus.len() >= MOST && !learnt.gpus.contains_key(uuid) {
                continue;
            }
            let Some(own) = share(*power).and_then(|own| u64::try_from(own).ok()) else { return };
            let known = learnt.gpus.entry(uuid.clone()).or_default();
            *known = [known[0].take(own, seconds, SLOW), known[1].take(power.0.into(), seconds, SLOW)];
        }
    }

    /// It took so long to end, ms.
    pub fn ended(&mut self, payload: &str, drain_ms: u64) {
        if let Some(learnt) = self.entry(payload) {
            learnt.drain = learnt.drain.take(drain_ms, 1, SWITCHES);
        }
    }

    /// It took so long to be healthy, ms, and so much energy, J, where that is known.
    pub fn started(&mut self, payload: &str, load_ms: u64, joules: Option<u64>) {
        if let Some(learnt) = self.entry(payload) {
            learnt.load = learnt.load.take(load_ms, 1, SWITCHES);
            if let Some(joules) = joules {
                learnt.joules = learnt.joules.take(joules, 1, SWITCHES);
            }
        }
    }

    /// It is tried where nobody knows it.
    pub fn tried(&mut self, payload: &str, now_ms: u64) {
        if let Some(learnt) = self.entry(payload) {
            learnt.tried_ms = now_ms;
        }
    }

    /// What it yields on this GPU, by its own measure.
    #[must_use]
    pub fn own(&self, payload: &str, uuid: &str) -> Option<Yield> {
        let [rate, power] = self.0.get(payload)?.gpus.get(uuid)?;
        let enough = rate.weight >= ENOUGH;
        let power = Milliwatts(u32::try_from(power.value).unwrap_or(u32::MAX));
        enough.then_some(Yield { rate: MilliPerSecond(rate.value), power })
    }

    /// What it yields on this GPU, or on the mean of `alike`.
    #[must_use]
    pub fn on<'a>(&self, payload: &str, uuid: &str, alike: impl Iterator<Item = &'a str>) -> Option<(Yield, Known)> {
        self.own(payload, uuid).map(|own| (own, Known::Measured)).or_else(|| {
            let known: Vec<Yield> = alike.filter_map(|other| self.own(payload, other)).collect();
            let count = u64::try_from(known.len()).ok()?;
            let rate = known.iter().map(|one| one.rate.0 / count.max(1)).sum();
            let power: u64 = known.iter().map(|one| u64::from(one.power.0)).sum();
            let power = Milliwatts(u32::try_from(power.checked_div(count)?).unwrap_or(u32::MAX));
            Some((Yield { rate: MilliPerSecond(rate), power }, Known::Alike))
        })
    }

    /// How many figures rest on enough.
    #[must_use]
    pub fn measured(&self) -> usize {
        let gpus = self.0.values().flat_map(|learnt| learnt.gpus.values());
        gpus.filter(|[rate, _]| rate.weight >= ENOUGH).count()
    }

    /// What it costs to start and to end it; `lost_milli` is its manifest's word.
    #[must_use]
    pub fn switch(&self, payload: &str, lost_milli: u64) -> Switch {
        let learnt = self.0.get(payload).cloned().unwrap_or_default();
        Switch {
            drain: std::time::Duration::from_millis(learnt.drain.value),
            load: std::time::Duration::from_millis(learnt.load.value),
            joules: u32::try_from(learnt.joules.value).unwrap_or(u32::MAX),
            lost_milli,
        }
    }

    /// The place of a payload. Where all are taken it is not learnt of.
    fn entry(&mut self, payload: &str) -> Option<&mut Learnt> {
        if self.0.len() >= MOST && !self.0.contains_key(payload) {
            return None;
        }
        Some(self.0.entry(payload.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Missing;

    #[test]
    fn a_mean_begins_with_the_first_value_and_moves_slowly_ever_after() {
        let mut mean = Mean::default().take(1_000, 10, SLOW);
        assert_eq!(mean, Mean { value: 1_000, weight: 10 });
        mean = mean.take(2_000, 10, SLOW);
        assert_eq!(mean.value, 1_500);
        for _ in 0..1_000 {
            mean = mean.take(1_500, 10, SLOW);
        }
        assert_eq!(mean, Mean { value: 1_500, weight: SLOW });
        // A minute at ten times the rate is a seventh on top, not ten times.
        assert_eq!(mean.take(15_000, 60, SLOW).value, 1_721);
        assert_eq!(Mean::default().take(5, 0, SLOW), Mean::default());
        assert_eq!(Mean { value: u64::MAX, weight: SLOW }.take(u64::MAX, SLOW, SLOW).value, u64::MAX);
    }

    #[test]
    fn what_was_measured_for_long_enough_is_known_and_its_like_are_taken_for_it() {
        let mut yields = Yields::default();
        let gpus = [("a".to_owned(), Milliwatts(200_000)), ("b".to_owned(), Milliwatts(220_000))];
        yields.learn("miner", &gpus, true, MilliPerSecond(3_000), ENOUGH - 1);
        assert_eq!((yields.own("miner", "a"), yields.measured()), (None, 0));
        yields.learn("miner", &gpus, true, MilliPerSecond(3_000), 1);
        let one = |power| Some(Yield { rate: MilliPerSecond(1_500), power: Milliwatts(power) });
        assert_eq!(yields.own("miner", "a"), one(200_000));
        let known = |power, known| one(power).map(|one| (one, known));
        assert_eq!(yields.on("miner", "a", ["b"].into_iter()), known(200_000, Known::Measured));
        assert_eq!(yields.on("miner", "c", ["a", "b"].into_iter()), known(210_000, Known::Alike));
        assert_eq!(yields.measured(), 2);
        assert_eq!(yields.on("miner", "c", ["d"].into_iter()), None);
        assert_eq!(yields.on("llm", "a", ["b"].into_iter()), None);
        // The larger one does most of the work.
        let unlike = [("c".to_owned(), Milliwatts(100_000)), ("d".to_owned(), Milliwatts(300_000))];
        yields.learn("mixed", &unlike, false, MilliPerSecond(4_000), ENOUGH);
        let rates = ["c", "d"].map(|uuid| yields.own("mixed", uuid).unwrap().rate.0);
        assert_eq!(rates, [1_000, 3_000]);
        yields.learn("none", &[], true, MilliPerSecond(1), 100);
        assert!(!yields.0.contains_key("none"));
        yields.ended("miner", 4_000);
        yields.started("miner", 30_000, Some(9_000));
        yields.started("miner", 34_000, None);
        let switch = yields.switch("miner", 7);
        assert_eq!((switch.drain.as_millis(), switch.load.as_millis(), switch.joules), (4_000, 32_000, 9_000));
        assert_eq!(yields.switch("other", 7), Switch { lost_milli: 7, ..Switch::default() });
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut yields = Yields::default();
        for number in 0..200 {
            let gpus = [(format!("GPU-{number}"), Milliwatts(1))];
            yields.learn("one", &gpus, true, MilliPerSecond(1), 60);
            yields.learn(&format!("payload-{number}"), &gpus, true, MilliPerSecond(1), 60);
        }
        assert_eq!((yields.0.len(), yields.0["one"].gpus.len()), (MOST, MOST));
    }

    #[test]
    fn watts_are_those_of_the_rigs_input() {
        let power = |power: Reading<u32>| Power { power: power.map(Milliwatts), ..Power::missing(Missing::Bus) };
        let supply = |input, output| [power(input), power(output)];
        for (supplies, expected) in [
            (vec![], 217_400),
            (vec![supply(Ok(1_000), Err(Missing::Bus))], 217_400),
            (vec![supply(Ok(1_000_000), Ok(900_000))], 222_200),
            (vec![supply(Ok(1_000_000), Ok(900_000)), supply(Ok(0), Err(Missing::Bus))], 222_200),
            (vec![supply(Ok(900_000), Ok(1_000_000))], 200_000),
            (vec![supply(Ok(90), Ok(10))], 270_000),
        ] {
            assert_eq!(gross(Milliwatts(200_000), &supplies), Milliwatts(expected), "{supplies:?}");
        }
    }
}
