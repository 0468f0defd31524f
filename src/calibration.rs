//! What was learnt of a fan: how fast it turns at which drive, where it starts and where it stalls.
//!
//! Kept in a file of its own in the state directory, by board and fan name, so that a fan that moves to another connector
//! does not take another's curve. A file that cannot be read or understood is put aside and never stops a start: then
//! the board's own numbers hold.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::sorted;
use crate::statefile::StateFile;
use crate::units::{Duty, Rpm};

/// Name of the file in the state directory.
const FILE: &str = "fans.json";
/// Thirteen fans of twenty points take a tenth of that.
const LARGEST: u64 = 64 * 1024;

/// How one fan answers to its drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanCurve {
    /// The lowest drive at which it started from standing.
    pub start: Duty,
    /// The lowest drive at which it kept turning.
    pub min: Duty,
    /// Drive and speed, rising by drive.
    pub points: Vec<(Duty, Rpm)>,
}

impl FanCurve {
    /// Speed that it had at this drive, straight lines between the points; `None` outside them.
    #[must_use]
    pub fn expected(&self, duty: Duty) -> Option<Rpm> {
        let above = self.points.iter().position(|(at, _)| *at >= duty)?;
        let (high, fast) = *self.points.get(above)?;
        if high == duty {
            return Some(fast);
        }
        let (low, slow) = *self.points.get(above.checked_sub(1)?)?;
        let run = u32::from(high.hundredths()) - u32::from(low.hundredths());
        let part = u32::from(duty.hundredths()) - u32::from(low.hundredths());
        let rise = i64::from(fast.0) - i64::from(slow.0);
        let more = (rise * i64::from(part)).checked_div(run.into())?;
        Rpm::try_from(i64::from(slow.0) + more).ok()
    }

    /// Whether it is a curve at all: drives rise, start and minimum are inside them.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let rises = self.points.is_sorted_by(|(a, _), (b, _)| a < b);
        rises && self.points.len() >= 2 && self.min <= self.start
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct Store(StateFile);

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    board: String,
    revision: String,
    fans: BTreeMap<String, FanCurve>,
}

impl Store {
    /// The file in this state directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self(StateFile::new(directory, FILE, LARGEST))
    }

    /// What is known of the board's fans, in its order.
    #[must_use]
    pub fn load(&self, board: &Board) -> Vec<Option<FanCurve>> {
        let kept: Kept = self.0.load("the fans go by their board's numbers until they are calibrated again");
        let same = kept.board == board.name && kept.revision == board.revision;
        let curve = |name: &str| kept.fans.get(name).filter(|curve| same && curve.is_sound()).cloned();
        board.fans.iter().map(|fan| curve(&fan.name)).collect()
    }

    /// Writes what is known; a power cut leaves the old file or the new one.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, board: &Board, curves: &[Option<FanCurve>]) -> io::Result<()> {
        let known = board.fans.iter().zip(curves).filter_map(|(fan, curve)| Some((fan.name.clone(), curve.clone()?)));
        let kept = Kept { board: board.name.clone(), revision: board.revision.clone(), fans: sorted::map(known) };
        self.0.save(&kept)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::scratch::Scratch;

    fn percent(percent: u8) -> Duty {
        Duty::from_percent(percent).unwrap()
    }

    #[test]
    fn between_two_points_the_speed_is_straight_and_outside_unknown() {
        let points = vec![(percent(20), Rpm(1_000)), (percent(60), Rpm(3_000)), (percent(100), Rpm(4_000))];
        let curve = FanCurve { start: percent(30), min: percent(20), points };
        assert!(curve.is_sound());
        for (at, expected) in
            [(10, None), (20, Some(1_000)), (40, Some(2_000)), (60, Some(3_000)), (90, Some(3_750)), (100, Some(4_000))]
        {
            assert_eq!(curve.expected(percent(at)), expected.map(Rpm), "{at} %");
        }
    }

    #[test]
    fn a_curve_that_does_not_rise_is_not_sound() {
        let points = vec![(percent(60), Rpm(3_000)), (percent(20), Rpm(1_000))];
        assert!(!FanCurve { start: percent(30), min: percent(20), points }.is_sound());
        assert!(!FanCurve { start: percent(10), min: percent(20), points: vec![] }.is_sound());
    }

    #[test]
    fn what_was_learnt_survives_a_restart_and_only_on_its_board() {
        let directory = Scratch::new("fans");
        let store = Store::new(&directory);
        let board = Board::load("simulated-8gpu").unwrap();
        assert_eq!(store.load(&board), vec![None; 6]);
        let points = vec![(percent(20), Rpm(1_000)), (percent(100), Rpm(4_000))];
        let mut curves = vec![None; 6];
        curves[2] = Some(FanCurve { start: percent(30), min: percent(20), points });
        store.save(&board, &curves).unwrap();
        assert_eq!(store.load(&board), curves);
        let other = Board { revision: "b".to_owned(), ..board.clone() };
        assert_eq!(store.load(&other), vec![None; 6]);
        for damage in ["{", "{\"board\":1}", &"x".repeat(100_000)] {
            fs::write(directory.join(FILE), damage).unwrap();
            assert_eq!(store.load(&board), vec![None; 6]);
            assert!(directory.join("fans.json.bad").exists() && !directory.join(FILE).exists());
        }
    }
}
