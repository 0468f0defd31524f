//! What is wrong now, as a set, and the edges between one tick's set and the next: log once per episode, publish edges.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::reading::{Fault, Health, Power, Snapshot, Stage};

/// What is wrong. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A chip does not answer, or is not the part that the board names.
    ChipLost,
    /// A chip says itself that something is wrong: see the faults in the telemetry.
    ChipFault,
    /// A chip's watchdog had run out: whoever drove its fans had stopped.
    WatchdogRanOut,
    /// A fan stands although it is driven.
    FanStands,
    /// A zone has lost an input: it has full air.
    ZoneBlind,
    /// A zone is at its critical temperature: it has full air.
    ZoneCritical,
    /// A rail is below its lowest voltage.
    UnderVoltage,
    /// A rail is above its highest voltage.
    OverVoltage,
    /// A rail carries more than its highest current.
    OverCurrent,
    /// A rail or a supply's input is above its highest power.
    OverPower,
}

/// What an alarm is about: the list and its index, in the board's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Index into the board's chips, bus by bus.
    Chip(usize),
    /// Index into the fans.
    Fan(usize),
    /// Index into the zones.
    Zone(usize),
    /// Index into the rails.
    Rail(usize),
    /// Index into the supplies.
    Supply(usize),
}

/// One thing that is wrong with one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// What.
    pub kind: Kind,
    /// With what.
    pub subject: Subject,
}

/// An alarm that was raised or cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Which.
    pub alarm: Alarm,
    /// Raised, or cleared.
    pub raised: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChipLost => "chip lost",
            Self::ChipFault => "chip reports a fault",
            Self::WatchdogRanOut => "watchdog ran out",
            Self::FanStands => "fan stands",
            Self::ZoneBlind => "zone blind, full air",
            Self::ZoneCritical => "zone critical, full air",
            Self::UnderVoltage => "under-voltage",
            Self::OverVoltage => "over-voltage",
            Self::OverCurrent => "over-current",
            Self::OverPower => "over-power",
        })
    }
}

impl Kind {
    /// How long it must hold before it is raised. What control has already acted on is said at once; a measurement on
    /// the edge of its limit is given two seconds.
    const fn settle(self) -> Duration {
        match self {
            Self::ChipLost
            | Self::ChipFault
            | Self::WatchdogRanOut
            | Self::FanStands
            | Self::ZoneBlind
            | Self::ZoneCritical => Duration::ZERO,
            Self::UnderVoltage | Self::OverVoltage | Self::OverCurrent | Self::OverPower => Duration::from_secs(2),
        }
    }
}

/// How long an alarm must be gone before it is cleared, so that one on the edge is one episode and not fifty.
pub const CLEAR: Duration = Duration::from_secs(5);

impl Subject {
    /// Its name on the board.
    #[must_use]
    pub fn name(self, board: &Board) -> &str {
        let name = match self {
            Self::Chip(i) => board.chips().nth(i).map(|(_, chip)| &chip.refdes),
            Self::Fan(i) => board.fans.get(i).map(|fan| &fan.name),
            Self::Zone(i) => board.zones.get(i).map(|zone| &zone.name),
            Self::Rail(i) => board.rails.get(i).map(|rail| &rail.name),
            Self::Supply(i) => board.supplies.get(i).map(|supply| &supply.name),
        };
        name.map_or("?", String::as_str)
    }
}

/// Everything that is wrong in this tick. `standing` is step's word on the fans.
#[must_use]
pub fn active(board: &Board, snapshot: &Snapshot, standing: &[bool]) -> Vec<Alarm> {
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
pub struct Episodes(BTreeMap<Alarm, Episode>);

#[derive(Clone, Copy, Debug)]
struct Episode {
    first: Instant,
    last: Instant,
    raised: bool,
}

impl Episodes {
    /// Takes one tick's alarms and gives the edges.
    pub fn tick(&mut self, active: &[Alarm], now: Instant) -> Vec<Edge> {
        let mut edges = Vec::new();
        for alarm in active {
            let episode = self.0.entry(*alarm).or_insert(Episode { first: now, last: now, raised: false });
            episode.last = now;
            if !episode.raised && now.saturating_duration_since(episode.first) >= alarm.kind.settle() {
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
    pub fn raised(&self) -> impl Iterator<Item = Alarm> {
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
