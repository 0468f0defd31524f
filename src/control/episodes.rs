//! What is wrong now, as a set, and the edges between one tick's set and the next: log once per episode, publish edges.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::limits::Restrained;
use super::step::{Orders, ladder, power};
use crate::alarm::{Alarm, Cause, Kind, Subject};
use crate::board::{self, Board};
use crate::gpu::{Driver, GpuSnapshot, Presence};
use crate::payload::lifecycle::{Phase, Then};
use crate::payload::supervisor::Payloads;
use crate::reading::{Fault, Faults, Health, Missing, Power, Snapshot, Stage, Zone};
use crate::wire::PayloadCause;

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
        | Kind::ZoneCritical
        | Kind::TemperatureJump
        | Kind::BoardMismatch
        | Kind::GpuLost
        | Kind::GpuXid
        | Kind::GpuDrift
        | Kind::GpuProfile
        | Kind::PayloadFailed
        | Kind::PayloadQuarantined
        | Kind::PayloadFailing
        | Kind::PayloadDoubtful
        | Kind::PayloadSwitch
        | Kind::PowerClocks
        | Kind::PowerPaused
        | Kind::PowerDrained
        | Kind::PowerStopped
        | Kind::GpuHot
        | Kind::HeatLimited
        | Kind::HeatPaused
        | Kind::HeatStopped => Duration::ZERO,
        // Who has watts to spare lends them for a moment, and is not held back.
        Kind::PowerLimited => Duration::from_secs(2),
        Kind::UnderVoltage | Kind::OverVoltage | Kind::OverCurrent | Kind::OverPower => Duration::from_secs(2),
        Kind::TachometerImplausible => Duration::from_secs(3),
        // One helper that was ended by hand is back in two.
        Kind::GpuDriver => Duration::from_secs(5),
        // Links are trained anew now and then.
        Kind::GpuLink => Duration::from_secs(30),
        // Dust does not settle in a minute; a filter that is being changed is over in one.
        Kind::FanAged => Duration::from_secs(60),
    }
}

/// One failure is answered by a start at once and is nobody's business; the next is.
const FAILING: u32 = 2;

/// How long an alarm must be gone before it is cleared, so that one on the edge is one episode and not fifty.
pub(super) const CLEAR: Duration = Duration::from_secs(5);

/// Everything that is wrong in this tick and what made it. `orders` is step's word on sensors, fans and zones.
#[must_use]
pub(super) fn active(board: &Board, snapshot: &Snapshot, orders: &Orders) -> Vec<(Alarm, Cause)> {
    let mut found = Found(Vec::new());
    for (i, (health, faults)) in snapshot.chips.iter().enumerate() {
        let subject = Subject::Chip(i);
        if let Health::Failed(missing) = health {
            found.add(Kind::ChipLost, subject, Cause::Missing(*missing));
        }
        if faults.has(Fault::Watchdog) {
            found.add(Kind::WatchdogRanOut, subject, Cause::Faults(Faults::NONE.with(Fault::Watchdog, true)));
        }
        let others = faults.without(Fault::Watchdog);
        if others != Faults::NONE {
            found.add(Kind::ChipFault, subject, Cause::Faults(others));
        }
    }
    for (i, jumped) in orders.jumped.iter().enumerate() {
        if *jumped {
            found.add(Kind::TemperatureJump, Subject::Sensor(i), Cause::Missing(Missing::Implausible));
        }
    }
    for (i, (fan, (view, measured))) in board.fans.iter().zip(orders.fans.iter().zip(&snapshot.fans)).enumerate() {
        if orders.measured == Some(i) {
            continue;
        }
        let subject = Subject::Fan(i);
        // A speed that could not be read is the chip's alarm: nobody measured a standstill.
        if let (true, Ok(rpm)) = (view.stands, view.rpm) {
            found.add(Kind::FanStands, subject, limit(rpm.0, fan.min_rpm.0));
        }
        if let (Some(learnt), Ok(rpm)) = (view.fast, view.rpm) {
            found.add(Kind::TachometerImplausible, subject, limit(rpm.0, learnt.0));
        }
        if let (Ok(rpm), Err(Missing::Implausible)) = (measured.rpm, view.rpm) {
            found.add(Kind::TachometerImplausible, subject, limit(rpm.0, fan.max_rpm.0));
        }
        if let (Some(learnt), Ok(rpm)) = (view.aged, view.rpm) {
            found.add(Kind::FanAged, subject, limit(rpm.0, learnt.0));
        }
        if measured.fault {
            found.add(Kind::FanFault, subject, Cause::Faults(Faults::NONE.with(Fault::Fan, true)));
        }
    }
    for (i, (zone, decided)) in board.zones.iter().zip(&orders.zones).enumerate() {
        let readings = || zone.sensors.iter().filter_map(|sensor| orders.sensors.get(*sensor).copied());
        if decided.stage == Stage::Blind {
            let missing = readings().find_map(Result::err).unwrap_or(Missing::NotPresent);
            found.add(Kind::ZoneBlind, Subject::Zone(i), Cause::Missing(missing));
        }
        if decided.stage == Stage::Critical {
            let hottest = readings().filter_map(Result::ok).max().unwrap_or(zone.critical);
            found.add(Kind::ZoneCritical, Subject::Zone(i), limit(hottest.0, zone.critical.0));
        }
    }
    for (i, (rail, Power { voltage, current, power })) in board.rails.iter().zip(&snapshot.rails).enumerate() {
        let subject = Subject::Rail(i);
        found.below(Kind::UnderVoltage, subject, voltage.ok().map(|v| v.0), rail.min_voltage.map(|v| v.0));
        found.above(Kind::OverVoltage, subject, voltage.ok().map(|v| v.0), rail.max_voltage.map(|v| v.0));
        found.above(Kind::OverCurrent, subject, current.ok().map(|i| i.0), rail.max_current.map(|i| i.0));
        found.above(Kind::OverPower, subject, power.ok().map(|p| p.0), rail.max_power.map(|p| p.0));
    }
    for (i, (supply, [input, _])) in board.supplies.iter().zip(&snapshot.supplies).enumerate() {
        let (power, most) = (input.power.ok().map(|p| p.0), supply.max_input.map(|p| p.0));
        found.above(Kind::OverPower, Subject::Supply(i), power, most);
    }
    gpus(&snapshot.gpus, &mut found);
    restrained(snapshot, &mut found);
    payloads(&snapshot.payloads, &mut found);
    if let (Some(identity), Some((bus, chip))) = (&snapshot.identity, board.identity)
        && (&identity.name, &identity.revision) != (&board.name, &board.revision)
    {
        let before: usize = board.buses.iter().take(bus).map(|bus| bus.chips.len()).sum();
        found.add(Kind::BoardMismatch, Subject::Chip(before + chip), Cause::Identity);
    }
    found.0
}

fn gpus(gpus: &GpuSnapshot, found: &mut Found) {
    match gpus.driver {
        Driver::Down(_) | Driver::Mismatch | Driver::Hung => {
            found.add(Kind::GpuDriver, Subject::Driver, Cause::Driver(gpus.driver));
        }
        Driver::None | Driver::Starting | Driver::Up | Driver::Released => {}
    }
    for (i, gpu) in gpus.gpus.iter().enumerate() {
        match gpu.presence {
            Presence::Lost | Presence::Hung | Presence::Unlisted => {
                found.add(Kind::GpuLost, Subject::Gpu(i), Cause::Presence(gpu.presence));
            }
            Presence::Unseen | Presence::Seen => {}
        }
        let width = gpu.sample.as_ref().ok().and_then(|sample| sample.pcie_width.ok());
        found.below(Kind::GpuLink, Subject::Gpu(i), width, gpu.widest);
    }
}

/// One alarm for the rung on which power has a GPU, and one for heat's.
fn restrained(snapshot: &Snapshot, found: &mut Found) {
    for (i, Restrained { power, heat, limits }) in snapshot.restraint.gpus.iter().enumerate() {
        let (rung, cause) = *power;
        // A breaker is there all the time: who would not draw more anyway is not held back by it.
        let drawn = snapshot.gpus.gpus.get(i).and_then(|gpu| gpu.sample.as_ref().ok()?.power.ok());
        let idle = drawn.zip(limits.power).is_some_and(|(drawn, limit)| drawn.0 < limit.0 - limit.0 / 32);
        let power = match rung {
            power::Rung::Free => None,
            power::Rung::Limit if idle && !matches!(cause, Some(Cause::Cap(_))) => None,
            power::Rung::Limit => Some(Kind::PowerLimited),
            power::Rung::Clocks => Some(Kind::PowerClocks),
            power::Rung::Pause => Some(Kind::PowerPaused),
            power::Rung::Drain => Some(Kind::PowerDrained),
            power::Rung::Stop => Some(Kind::PowerStopped),
        };
        if let (Some(kind), Some(cause)) = (power, cause) {
            found.add(kind, Subject::Gpu(i), cause);
        }
        let (rung, cause) = *heat;
        let heat = match rung {
            ladder::Rung::Free => None,
            ladder::Rung::Air => Some(Kind::GpuHot),
            ladder::Rung::Limit => Some(Kind::HeatLimited),
            ladder::Rung::Pause => Some(Kind::HeatPaused),
            ladder::Rung::Stop => Some(Kind::HeatStopped),
        };
        if let (Some(kind), Some(cause)) = (heat, cause) {
            found.add(kind, Subject::Gpu(i), cause);
        }
    }
}

fn payloads(payloads: &Payloads, found: &mut Found) {
    for (i, payload) in payloads.0.iter().enumerate() {
        let cause = Cause::Payload(payload.held.or(payload.cause).map(PayloadCause::from));
        let wrong = match payload.phase {
            Phase::Failed(_) => Some(Kind::PayloadFailed),
            Phase::Quarantined => Some(Kind::PayloadQuarantined),
            // Nobody wants it to run.
            Phase::Stopped | Phase::Draining { then: Then::Stop, .. } => None,
            Phase::Starting
            | Phase::Warming
            | Phase::Running
            | Phase::Degraded
            | Phase::Draining { .. }
            | Phase::Paused
            | Phase::Waiting
            | Phase::BackingOff { .. } => (payload.failures >= FAILING).then_some(Kind::PayloadFailing),
        };
        if let Some(kind) = wrong {
            found.add(kind, Subject::Payload(i), cause);
        }
        if payload.belief.is_doubt() {
            found.add(Kind::PayloadDoubtful, Subject::Payload(i), Cause::Belief(payload.belief));
        }
    }
}

fn limit(value: impl Into<i64>, limit: impl Into<i64>) -> Cause {
    Cause::Limit { value: value.into(), limit: limit.into() }
}

struct Found(Vec<(Alarm, Cause)>);

impl Found {
    fn add(&mut self, kind: Kind, subject: Subject, cause: Cause) {
        self.0.push((Alarm { kind, subject }, cause));
    }

    /// A value that is known and below a limit that exists.
    fn below<T: Copy + Into<i64>>(&mut self, kind: Kind, subject: Subject, value: Option<T>, least: Option<T>) {
        if let (Some(value), Some(least)) = (value, least)
            && value.into() < least.into()
        {
            self.add(kind, subject, limit(value, least));
        }
    }

    /// A value that is known and above a limit that exists.
    fn above<T: Copy + Into<i64>>(&mut self, kind: Kind, subject: Subject, value: Option<T>, most: Option<T>) {
        if let (Some(value), Some(most)) = (value, most)
            && value.into() > most.into()
        {
            self.add(kind, subject, limit(value, most));
        }
    }
}

/// The highest rung on which a zone stands that the subject belongs to.
#[must_use]
pub(super) fn rung(board: &Board, zones: &[Zone], subject: Subject) -> Option<Stage> {
    let mut first = 0;
    let chips = board.buses.iter().enumerate().find_map(|(bus, on)| {
        let start = first;
        first += on.chips.len();
        let Subject::Chip(index) = subject else { return None };
        (start..first).contains(&index).then(|| (bus, index - start))
    });
    let touches = |(index, zone): &(usize, &board::Zone)| match subject {
        Subject::Zone(i) => *index == i,
        Subject::Fan(i) => zone.fans.contains(&i),
        Subject::Sensor(i) => zone.sensors.contains(&i),
        Subject::Chip(_) => {
            let at = |point: board::Point| chips == Some((point.bus, point.chip));
            zone.fans.iter().any(|fan| board.fans.get(*fan).is_some_and(|fan| at(fan.at)))
                || zone.sensors.iter().any(|sensor| board.sensors.get(*sensor).is_some_and(|sensor| at(sensor.at)))
        }
        Subject::Gpu(_) => zone.gpus.is_some(),
        Subject::Rail(_) | Subject::Supply(_) | Subject::Driver | Subject::Payload(_) => false,
    };
    let stages = board.zones.iter().enumerate().filter(touches).filter_map(|(index, _)| zones.get(index));
    stages.map(|zone| zone.stage).max_by_key(|stage| stage.severity())
}

/// The alarms that have been raised and those that are settling. At most one entry per kind and subject of the board.
#[derive(Clone, Debug, Default)]
pub(super) struct Episodes(BTreeMap<Alarm, Episode>);

#[derive(Clone, Copy, Debug)]
struct Episode {
    first: Instant,
    last: Instant,
    raised: bool,
    cause: Cause,
}

/// An edge before it is known on which rung it ends.
pub(super) type Turn = (Alarm, bool, Cause);

impl Episodes {
    /// Takes one tick's alarms and gives the edges.
    pub(super) fn tick(&mut self, active: &[(Alarm, Cause)], now: Instant) -> Vec<Turn> {
        let mut edges = Vec::new();
        for (alarm, cause) in active {
            let new = Episode { first: now, last: now, raised: false, cause: *cause };
            let episode = self.0.entry(*alarm).or_insert(new);
            (episode.last, episode.cause) = (now, *cause);
            if !episode.raised && now.saturating_duration_since(episode.first) >= settle(alarm.kind) {
                episode.raised = true;
                edges.push((*alarm, true, *cause));
            }
        }
        self.0.retain(|alarm, episode| {
            let gone = now.saturating_duration_since(episode.last);
            let over = if episode.raised { gone >= CLEAR } else { gone > Duration::ZERO };
            if over && episode.raised {
                edges.push((*alarm, false, episode.cause));
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
    use crate::control::step::FanView;
    use crate::reading::Fan;
    use crate::units::{Duty, Millivolts, Rpm};

    #[test]
    fn an_alarm_settles_is_raised_once_and_clears_once() {
        let alarm = Alarm { kind: Kind::UnderVoltage, subject: Subject::Rail(0) };
        let start = crate::clock::now();
        let mut episodes = Episodes::default();
        let mut tick = |second: u64, present: bool| {
            let active = if present { vec![(alarm, limit(11_000, 11_400))] } else { vec![] };
            let edges = episodes.tick(&active, start + Duration::from_secs(second));
            edges.iter().map(|(_, raised, _)| *raised).collect::<Vec<_>>()
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
        assert_eq!(active(&board, &snapshot, &Orders::default()), []);
        if let Some(rail) = snapshot.rails.first_mut() {
            rail.voltage = Ok(Millivolts(11_000));
        }
        let alarm = Alarm { kind: Kind::UnderVoltage, subject: Subject::Rail(0) };
        assert_eq!(active(&board, &snapshot, &Orders::default()), [(alarm, limit(11_000, 11_400))]);
    }

    #[test]
    fn a_fan_that_is_being_measured_raises_nothing() {
        let board = Board::load("simulated-8gpu").unwrap();
        let fan = Fan { rpm: Ok(Rpm(0)), duty: Ok(Duty::OFF), fault: true };
        let snapshot = Snapshot { fans: vec![fan; 6], ..Snapshot::default() };
        let view = FanView { rpm: Ok(Rpm(0)), stands: true, aged: None, fast: None };
        let mut orders = Orders { fans: vec![view; 6], ..Orders::default() };
        assert_eq!(active(&board, &snapshot, &orders).len(), 12);
        orders.measured = Some(3);
        let alarms = active(&board, &snapshot, &orders);
        assert!(alarms.len() == 10 && alarms.iter().all(|(alarm, _)| alarm.subject != Subject::Fan(3)));
    }

    #[test]
    fn a_payload_that_is_given_up_or_keeps_failing_says_why() {
        use crate::payload::lifecycle::{Cause as Why, Exit, Failure};
        use crate::payload::meter::Flag;
        use crate::payload::supervisor::Status;
        let board = Board::load("simulated-8gpu").unwrap();
        let well = Status { phase: Phase::Running, ..Status::of("a") };
        let crash = |phase, failures, exit| Status { phase, failures, cause: Some(Why::Exit(exit)), ..Status::of("b") };
        let soon = Phase::BackingOff { until: Duration::from_secs(9) };
        let ending = |then| Phase::Draining { then, kill_at: Duration::from_secs(9) };
        let of = |kind, cause| vec![(Alarm { kind, subject: Subject::Payload(1) }, cause)];
        for (status, expected) in [
            (well.clone(), vec![]),
            (crash(Phase::Running, 1, Exit::Code(3)), vec![]),
            (crash(soon, 2, Exit::Code(3)), of(Kind::PayloadFailing, Cause::Payload(Some(PayloadCause::Exited(3))))),
            (
                crash(Phase::Running, 2, Exit::Signal(11)),
                of(Kind::PayloadFailing, Cause::Payload(Some(PayloadCause::Signal(11)))),
            ),
            (
                crash(ending(Then::Again), 2, Exit::OutOfMemory),
                of(Kind::PayloadFailing, Cause::Payload(Some(PayloadCause::OutOfMemory))),
            ),
            (crash(ending(Then::Stop), 2, Exit::OutOfMemory), vec![]),
            (crash(Phase::Stopped, 2, Exit::OutOfMemory), vec![]),
            (
                crash(Phase::Failed(Failure::Budget), 0, Exit::OutOfMemory),
                of(Kind::PayloadFailed, Cause::Payload(Some(PayloadCause::OutOfMemory))),
            ),
            (
                Status { phase: Phase::Failed(Failure::Start), cause: Some(Why::Unhealthy), ..Status::of("b") },
                of(Kind::PayloadFailed, Cause::Payload(Some(PayloadCause::Unhealthy))),
            ),
            (
                Status { phase: Phase::Quarantined, held: Some(Why::LowRate), ..Status::of("b") },
                of(Kind::PayloadQuarantined, Cause::Payload(Some(PayloadCause::LowRate))),
            ),
            (Status { belief: Flag::Frozen, ..well.clone() }, of(Kind::PayloadDoubtful, Cause::Belief(Flag::Frozen))),
            (Status { belief: Flag::Believed, ..well.clone() }, vec![]),
        ] {
            let payloads = std::sync::Arc::new(Payloads(vec![well.clone(), status.clone()]));
            let snapshot = Snapshot { payloads, ..Snapshot::default() };
            assert_eq!(active(&board, &snapshot, &Orders::default()), expected, "{status:?}");
        }
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
            active(&board, &snapshot, &Orders::default()),
            [
                (Alarm { kind: Kind::WatchdogRanOut, subject: Subject::Chip(0) }, Cause::Faults(watchdog)),
                (Alarm { kind: Kind::ChipLost, subject: Subject::Chip(1) }, Cause::Missing(Missing::Bus)),
            ]
        );
    }
}
