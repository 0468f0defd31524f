//! How a calibration goes, as the socket tells it.

use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::calibration::FanCurve;
use crate::control::step::{Report, Stopped};
use crate::units::{Duty, Rpm};

/// How a calibration goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// It begins with these fans, one after the other.
    Begun {
        /// Their names.
        fans: Vec<String>,
    },
    /// A fan turns so fast at this drive.
    Point {
        /// Its name.
        fan: String,
        /// Drive, hundredths of a percent.
        duty: Duty,
        /// Speed.
        rpm: Rpm,
    },
    /// A fan is done.
    Learnt {
        /// Its name.
        fan: String,
        /// What was learnt.
        curve: FanCurve,
    },
    /// All are done.
    Done,
    /// It ended early; the fans already done stay learnt.
    Stopped(Stopped),
}

impl Calibration {
    /// A report with the names of the board.
    pub(in crate::local) fn new(report: Report, board: &Board) -> Self {
        let name = |fan: usize| board.fans.get(fan).map_or_else(|| "?".to_owned(), |fan| fan.name.clone());
        match report {
            Report::Point { fan, duty, rpm } => Self::Point { fan: name(fan), duty, rpm },
            Report::Learnt { fan, curve } => Self::Learnt { fan: name(fan), curve },
            Report::Done => Self::Done,
            Report::Stopped(why) => Self::Stopped(why),
        }
    }

    /// Nothing comes after it.
    pub(in crate::local) const fn ends(&self) -> bool {
        matches!(self, Self::Done | Self::Stopped(_))
    }
}
