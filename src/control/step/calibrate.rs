//! Calibration: how fast each fan of a zone turns at which drive, where it stalls, and where it starts.
//!
//! ```text
//! per fan:  Down 100 % ... 10 %, 5 % ── speed steady: a point ──> Stop 0 % ── stands ──> Up 5 %, 10 % ... ── turns: start ──> next fan
//!                                    └─ stands: it stalled ───────────────────────────────^
//! ```
//!
//! One fan at a time; all others of the zone have full air meanwhile. It ends at once, and the zone is as it was, when a
//! reading is missing, another fan stands, or the zone comes near its critical temperature.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::fan::turns;
use crate::board::Board;
use crate::calibration::FanCurve;
use crate::reading::Reading;
use crate::units::{Duty, Rpm};

/// The zone must be cooler than its critical temperature by this.
pub const ROOM: i32 = 10_000;
/// A speed counts when it has stayed within `STEADY_PERCENT` for `STEADY`, or after `PATIENCE` in any case.
const STEADY: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(15);
const STEADY_PERCENT: u32 = 2;
/// Time that a fan gets to start at a drive.
const START: Duration = Duration::from_secs(3);
/// Steps on the way down and up, in hundredths of a percent; below `FINE_BELOW` the way down is as fine as the way up.
const COARSE: u16 = 1_000;
const FINE: u16 = 500;
const FINE_BELOW: u16 = 3_000;

/// A calibration under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calibration {
    pub(super) zone: usize,
    /// Fans that are still to be measured; the first is being measured.
    fans: Vec<usize>,
    phase: Phase,
    /// Since when it has had its drive.
    since: Instant,
    /// A speed that stays, and since when.
    steady: Option<(Rpm, Instant)>,
    /// It turned in the tick before, on the way up.
    turned: bool,
    /// Falling by drive, as they are found.
    points: Vec<(Duty, Rpm)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down(Duty),
    Stop,
    Up(Duty),
}

/// What a calibration tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// A fan was measured at a drive.
    Point {
        /// Index into the board's fans.
        fan: usize,
        /// Drive.
        duty: Duty,
        /// Speed.
        rpm: Rpm,
    },
    /// A fan is done.
    Learnt {
        /// Index into the board's fans.
        fan: usize,
        /// What was learnt.
        curve: FanCurve,
    },
    /// All fans of the zone are done.
    Done,
    /// It was ended early; the fans already done stay learnt.
    Stopped(Stopped),
}

/// Why a calibration was ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// The zone is not in its normal state, or not cool enough.
    #[error("the zone has lost an input or a fan, or is within 10 K of its critical temperature")]
    Unsafe,
    /// Nobody can tell the fan's speed.
    #[error("the fan's speed cannot be read")]
    NoSpeed,
    /// It does not turn, whatever the drive.
    #[error("the fan does not turn at full drive")]
    NeverTurns,
    /// There is no such zone, none of its fans has a tachometer, or one is being calibrated already.
    #[error("there is no such zone, none of its fans has a tachometer, or a calibration is under way")]
    Refused,
    /// Somebody asked for it.
    #[error("stopped on request")]
    Asked,
}

/// What one tick of it comes to.
pub(super) struct Step {
    /// The calibration after it; `None` where it has ended.
    pub(super) next: Option<Calibration>,
    pub(super) reports: Vec<Report>,
}

impl Calibration {
    pub(super) fn begin(board: &Board, zone: usize, now: Instant) -> Option<Self> {
        let measured = |fan: &&usize| board.fans.get(**fan).is_some_and(|fan| fan.tachometer.is_some());
        let fans: Vec<usize> = board.zones.get(zone)?.fans.iter().filter(measured).copied().collect();
        if fans.is_empty() {
            return None;
        }
        Some(Self {
            turned: false,
            zone,
            fans,
            phase: Phase::Down(Duty::FULL),
            since: now,
            steady: None,
            points: Vec::new(),
        })
    }

    /// The fan that is being measured.
    pub(super) fn fan(&self) -> Option<usize> {
        self.fans.first().copied()
    }

    /// Its drive.
    pub(super) const fn duty(&self) -> Duty {
        match self.phase {
            Phase::Down(duty) | Phase::Up(duty) => duty,
            Phase::Stop => Duty::OFF,
        }
    }

    /// One tick with the speed of the fan that is being measured.
    pub(super) fn step(mut self, board: &Board, rpm: Reading<Rpm>, now: Instant) -> Step {
        let end = |report| Step { next: None, reports: vec![report] };
        let Some((index, fan)) = self.fan().and_then(|index| Some((index, board.fans.get(index)?))) else {
            return end(Report::Done);
        };
        let waited = now.saturating_duration_since(self.since);
        let Ok(rpm) = rpm else {
            // One pass may miss; a fan whose speed stays unknown cannot be measured.
            let gone = waited >= PATIENCE;
            return if gone {
                end(Report::Stopped(Stopped::NoSpeed))
            } else {
                Step { next: Some(self), reports: vec![] }
            };
        };
        let settled = self.settled(rpm, now) || waited >= PATIENCE;
        let turning = turns(fan, Ok(rpm));
        match self.phase {
            Phase::Down(duty) if settled && turning => {
                self.points.push((duty, rpm));
                let report = Report::Point { fan: index, duty, rpm };
                let fine = duty.hundredths() <= FINE_BELOW;
                let lower = duty.hundredths().saturating_sub(if fine { FINE } else { COARSE });
                let next = if lower == 0 { Phase::Stop } else { Phase::Down(Duty::saturating(lower.into())) };
                Step { next: Some(self.go(next, now)), reports: vec![report] }
            }
            Phase::Down(_) if settled && self.points.is_empty() => end(Report::Stopped(Stopped::NeverTurns)),
            Phase::Down(_) if settled => Step { next: Some(self.go(Phase::Stop, now)), reports: vec![] },
            // It never stands still, or the others' draught turns it: the board's own numbers hold.
            Phase::Stop if settled && turning => self.finish(board, index, None, now),
            Phase::Stop if settled => {
                let next = Phase::Up(Duty::saturating(FINE.into()));
                Step { next: Some(self.go(next, now)), reports: vec![] }
            }
            // One tick may be a pulse of noise.
            Phase::Up(duty) if turning && self.turned => self.finish(board, index, Some(duty), now),
            Phase::Up(_) if turning => {
                self.turned = true;
                Step { next: Some(self), reports: vec![] }
            }
            Phase::Up(Duty::FULL) if waited >= PATIENCE => end(Report::Stopped(Stopped::NeverTurns)),
            Phase::Up(duty) if duty < Duty::FULL && waited >= START => {
                let higher = Phase::Up(Duty::saturating(u32::from(duty.hundredths() + FINE)));
                Step { next: Some(self.go(higher, now)), reports: vec![] }
            }
            Phase::Down(_) | Phase::Stop | Phase::Up(_) => Step { next: Some(self), reports: vec![] },
        }
    }

    const fn go(mut self, phase: Phase, now: Instant) -> Self {
        (self.phase, self.since, self.steady, self.turned) = (phase, now, None, false);
        self
    }

    /// Whether the speed has stayed for long enough; a fan that stands is as steady as one that turns.
    fn settled(&mut self, rpm: Rpm, now: Instant) -> bool {
        let within = |(before, _): &(Rpm, Instant)| {
            u32::from(before.0.abs_diff(rpm.0)) * 100 <= u32::from(before.0.max(rpm.0)) * STEADY_PERCENT
        };
        let (_, since) = *self.steady.get_or_insert((rpm, now));
        if self.steady.as_ref().is_some_and(within) {
            return now.saturating_duration_since(since) >= STEADY;
        }
        self.steady = Some((rpm, now));
        false
    }

    /// Writes the fan's curve and goes on to the next one.
    fn finish(mut self, board: &Board, index: usize, start: Option<Duty>, now: Instant) -> Step {
        self.points.reverse();
        let points = std::mem::take(&mut self.points);
        let slowest = points.first().map_or(Duty::FULL, |(duty, _)| *duty);
        let fan = board.fans.get(index);
        let min = if start.is_none() { fan.map_or(slowest, |fan| fan.min.max(slowest)) } else { slowest };
        let start = start.or(fan.map(|fan| fan.start)).unwrap_or(min).max(min);
        let curve = FanCurve { start, min, points };
        let mut reports = vec![Report::Learnt { fan: index, curve }];
        self.fans.remove(0);
        if self.fans.is_empty() {
            reports.push(Report::Done);
            return Step { next: None, reports };
        }
        Step { next: Some(self.go(Phase::Down(Duty::FULL), now)), reports }
    }
}
