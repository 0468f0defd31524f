//! What is wrong now, as a set, and the edges between one tick's set and the next: log once per episode, publish edges.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::alarm::{Alarm, Edge, Kind, Subject};
use crate::board::Board;
use crate::reading::{Fault, Health, Power, Snapshot, Stage};

/// How long it must hold before it is raised. What control has already acted on is said at once; a measurement on
/// the edge of its limit is given two seconds.
const fn settle(kind: Kind) -> Duration {
    match kind {
        Kind::ChipLost
        | Kind::ChipFault
        | Kind::WatchdogRanOut
        | Kind::FanStands
        | Kind::FanFault
        | Kind::ZoneBlind
        | Kind::ZoneCritical => Duration::ZERO,
        Kind::UnderVoltage | Kind::OverVoltage | Kind::OverCurrent | Kind::OverPower => Duration::from_secs(2),
    }
}

/// How long an alarm must be gone before it is cleared, so that one on the edge is one episode and not fifty.
pub(super) const CLEAR: Duration = Duration::from_secs(5);

/// Everything that is wrong in this tick. `standing` is step's word on the fans.
#[must_use]
pub(super) fn active(board: &Board, snapshot: &Snapshot, standing: &[bool]) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut add = |present: bool, kind, subject| {
        if present {
            alarms.push(Alarm { kind, subject });
        }
    };
    for (i, (health, faults)) in snapshot.chips.iter().enumerate() {
        let watchdog = faults.has(Fault::Watchdog);
        add(matches!(health, Health::Failed(_)), Kind::ChipLost, Subject::Chip(i));
        add(faults.iter().any(|fault| fault != Fault::Watchdog), Kind::ChipFault, Subject::Chip(i));
        add(watchdog, Kind::WatchdogRanOut, Subject::Chip(i));
    }
    for (i, (stands, fan)) in standing.iter().zip(&snapshot.fans).enumerate() {
        // A speed that could not be read is the chip's alarm: nobody measured a standstill.
        add(*stands && fan.rpm.is_ok(), Kind::FanStands, Subject::Fan(i));
    }
    for (i, fan) in snapshot.fans.iter().enumerate() {
        add(fan.fault, Kind::FanFault, Subject::Fan(i));
    }
    for (i, zone) in snapshot.zones.iter().enumerate() {
        add(zone.stage == Stage::Blind, Kind::ZoneBlind, Subject::Zone(i));
        add(zone.stage == Stage::Critical, Kind::ZoneCritical, Subject::Zone(i));
    }
    for (i, (rail, Power { voltage, current, power })) in board.rails.iter().zip(&snapshot.rails).enumerate() {
        let subject = Subject::Rail(i);
        add(beyond(voltage.ok(), rail.min_voltage, |v, low| v < low), Kind::UnderVoltage, subject);
        add(beyond(voltage.ok(), rail.max_voltage, |v, high| v > high), Kind::OverVoltage, subject);
        add(beyond(current.ok(), rail.max_current, |i, high| i > high), Kind::OverCurrent, subject);
        add(beyond(power.ok(), rail.max_power, |p, high| p > high), Kind::OverPower, subject);
    }
    for (i, (supply, [input, _])) in board.supplies.iter().zip(&snapshot.supplies).enumerate() {
        add(beyond(input.power.ok(), supply.max_input, |p, high| p > high), Kind::OverPower, Subject::Supply(i));
    }
    alarms
}

/// Whether a value that is known is on the wrong side of a limit that exists.
fn beyond<T: Copy>(value: Option<T>, limit: Option<T>, wrong: impl Fn(T, T) -> bool) -> bool {
    matches!((value, limit), (Some(value), Some(limit)) if wrong(value, limit))
}

/// The alarms that have been raised and those that are settling. At most one entry per kind and subject of the board.
#[derive(Clone, Debug, Default)]
pub(super) struct Episodes(BTreeMap<Alarm, Episode>);

#[derive(Clone, Copy, Debug)]
struct Episode {
    first: Instant,
    last: Instant,
    raised: bool,
}

impl Episodes {
    /// Takes one tick's alarms and gives the edges.
    pub(super) fn tick(&mut self, active: &[Alarm], now: Instant) -> Vec<Edge> {
        let mut edges = Vec::new();
        for alarm in active {
            let episode = self.0.entry(*alarm).or_insert(Episode { first: now, last: now, raised: false });
            episode.last = now;
            if !episode.raised && now.saturating_duration_since(episode.first) >= settle(alarm.kind) {
                episode.raised = true;
                edges.push(Edge { alarm: *alarm, raised: true });
            }
        }
        self.0.retain(|alarm, episode| {
            let gone = now.saturating_duration_since(episode.last);
            let over = if episode.raised { gone >= CLEAR } else { gone > Duration::ZERO };
            if over && episode.raised {
                edges.push(Edge { alarm: *alarm, raised: false });
            }
            !over
        });
        edges
    }

    /// What stands raised now.
    pub(super) fn raised(&self) -> impl Iterator<Item = Alarm> {
        self.0.iter().filter(|(_, episode)| episode.raised).map(|(alarm, _)| *alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Faults, Missing};
    use crate::units::Millivolts;

    #[test]
    fn an_alarm_settles_is_raised_once_and_clears_once() {
        let alarm = Alarm { kind: Kind::UnderVoltage, subject: Subject::Rail(0) };
        let start = crate::clock::now();
        let mut episodes = Episodes::default();
        let mut tick = |second: u64, present: bool| {
            let active = if present { vec![alarm] } else { vec![] };
            let edges = episodes.tick(&active, start + Duration::from_secs(second));
            edges.iter().map(|edge| edge.raised).collect::<Vec<_>>()
        };
        // second, present, edges
        for (second, present, expected) in [
            (0, true, vec![]),
            (1, false, vec![]),
            (2, true, vec![]),
            (3, true, vec![]),
            (4, true, vec![true]),
            (5, true, vec![]),
            (6, false, vec![]),
            (9, true, vec![]),
            (10, false, vec![]),
            (13, false, vec![]),
            (14, false, vec![false]),
            (15, false, vec![]),
        ] {
            assert_eq!(tick(second, present), expected, "second {second}");
        }
    }

    #[test]
    fn what_is_missing_raises_no_limit() {
        let board = Board::load("simulated-8gpu").unwrap();
        let missing = Power::missing(Missing::Bus);
        let mut snapshot = Snapshot { rails: vec![missing; 8], ..Snapshot::default() };
        assert_eq!(active(&board, &snapshot, &[]), []);
        if let Some(rail) = snapshot.rails.first_mut() {
            rail.voltage = Ok(Millivolts(11_000));
        }
        assert_eq!(active(&board, &snapshot, &[]), [Alarm { kind: Kind::UnderVoltage, subject: Subject::Rail(0) }]);
    }

    #[test]
    fn a_watchdog_is_told_apart_from_a_chips_other_faults() {
        let board = Board::load("simulated-8gpu").unwrap();
        let watchdog = Faults::NONE.with(Fault::Watchdog, true);
        let snapshot = Snapshot {
            chips: vec![(Health::Ok, watchdog), (Health::Failed(Missing::Bus), Faults::NONE)],
            ..Snapshot::default()
        };
        assert_eq!(
            active(&board, &snapshot, &[]),
            [
                Alarm { kind: Kind::WatchdogRanOut, subject: Subject::Chip(0) },
                Alarm { kind: Kind::ChipLost, subject: Subject::Chip(1) },
            ]
        );
    }
}
