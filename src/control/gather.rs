//! From what the buses found to what the rig knows: folds bus snapshots into the board's order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::board::{self, Board, Point};
use crate::gpu::GpuSnapshot;
use crate::identity::Identity;
use crate::reading::{BusSnapshot, ChipReading, Fan, Faults, Health, Missing, Power, Reading, Snapshot};
use crate::units::Millicelsius;

/// The tick's readings in the board's order. A bus whose last pass (or, before the first one, whose start) is longer ago
/// than `stale_after` has nothing but stale readings, whatever it said then.
#[must_use]
pub fn gather(
    board: &Board,
    buses: &[Arc<BusSnapshot>],
    started: Instant,
    now: Instant,
    stale_after: Duration,
) -> Snapshot {
    let lookup = Lookup { buses, started, now, stale_after };
    Snapshot {
        rails: board.rails.iter().map(|rail| lookup.power(rail.at)).collect(),
        supplies: board
            .supplies
            .iter()
            .map(|supply| [lookup.power(supply.input), lookup.power(supply.output)])
            .collect(),
        sensors: board.sensors.iter().map(|sensor| lookup.temperature(sensor.at)).collect(),
        fans: board.fans.iter().map(|fan| lookup.whole_fan(fan)).collect(),
        chips: buses.iter().flat_map(|bus| lookup.chips(bus)).collect(),
        identity: board.identity.and_then(|(bus, chip)| lookup.identity(bus, chip)),
        repairs: buses.iter().fold(0, |sum, bus| sum.saturating_add(bus.repairs)),
        ..Snapshot::default()
    }
}

/// What the last pass over the GPUs found, or that it is too long ago.
#[must_use]
pub fn gather_gpus(found: Arc<GpuSnapshot>, started: Instant, now: Instant, stale_after: Duration) -> Arc<GpuSnapshot> {
    if now.saturating_duration_since(found.taken.unwrap_or(started)) <= stale_after {
        return found;
    }
    let mut stale = GpuSnapshot::clone(&found);
    for gpu in &mut stale.gpus {
        gpu.sample = Err(Missing::Stale);
    }
    Arc::new(stale)
}

struct Lookup<'a> {
    buses: &'a [Arc<BusSnapshot>],
    started: Instant,
    now: Instant,
    stale_after: Duration,
}

impl Lookup<'_> {
    fn fresh(&self, bus: &BusSnapshot) -> Result<(), Missing> {
        if self.now.saturating_duration_since(bus.taken.unwrap_or(self.started)) > self.stale_after {
            return Err(Missing::Stale);
        }
        if bus.taken.is_some() { Ok(()) } else { Err(Missing::NotPresent) }
    }

    fn chip(&self, at: Point) -> Result<&ChipReading, Missing> {
        let bus = self.buses.get(at.bus).ok_or(Missing::NotPresent)?;
        self.fresh(bus)?;
        bus.chips.get(at.chip).ok_or(Missing::NotPresent)
    }

    fn power(&self, at: Point) -> Power {
        let found = self.chip(at).and_then(|chip| chip.power.get(at.channel).copied().ok_or(Missing::NotPresent));
        found.unwrap_or_else(Power::missing)
    }

    fn temperature(&self, at: Point) -> Reading<Millicelsius> {
        self.chip(at)?.temperature.get(at.channel).copied().unwrap_or(Err(Missing::NotPresent))
    }

    /// Its drive from the chip that makes it, its speed from the one that measures it.
    fn whole_fan(&self, fan: &board::Fan) -> Fan {
        let driven = self.fan(fan.at);
        match fan.tachometer {
            Some(at) if at == fan.at => driven,
            Some(at) => {
                let watched = self.fan(at);
                Fan { rpm: watched.rpm, fault: driven.fault || watched.fault, ..driven }
            }
            None => Fan { rpm: Err(Missing::NotPresent), ..driven },
        }
    }

    fn fan(&self, at: Point) -> Fan {
        let found = self.chip(at).and_then(|chip| chip.fan.get(at.channel).copied().ok_or(Missing::NotPresent));
        found.unwrap_or_else(Fan::missing)
    }

    fn identity(&self, bus: usize, chip: usize) -> Option<Arc<Identity>> {
        self.chip(Point { bus, chip, channel: 0 }).ok()?.identity.clone()
    }

    fn chips(&self, bus: &BusSnapshot) -> Vec<(Health, Faults)> {
        let fresh = self.fresh(bus);
        let stands = |(chip, health): (&ChipReading, &Health)| match fresh {
            Err(Missing::Stale) => (Health::Failed(Missing::Stale), Faults::NONE),
            Ok(()) | Err(Missing::NotPresent | Missing::Off | Missing::Bus | Missing::Implausible) => {
                (*health, chip.faults)
            }
        };
        bus.chips.iter().zip(&bus.health).map(stands).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rpm;

    #[test]
    fn a_bus_that_stopped_answering_goes_stale_and_takes_nobody_with_it() {
        let board = Board::load("simulated-8gpu").unwrap();
        let now = crate::clock::now() + Duration::from_secs(60);
        let bus = |name: &str, age: Duration| {
            let bus = board.buses.iter().find(|bus| bus.name == name).unwrap();
            let chips = bus.chips.iter().map(|chip| match &chip.kind {
                crate::board::ChipKind::I2c { part, .. } => ChipReading {
                    power: vec![
                        Power { voltage: Ok(crate::units::Millivolts(12_000)), ..Power::missing(Missing::Off) };
                        part.power.len()
                    ],
                    temperature: vec![Ok(Millicelsius(30_000)); part.temperature.len()],
                    fan: vec![Fan { rpm: Ok(Rpm(1_000)), ..Fan::missing(Missing::Off) }; part.fan.len()],
                    faults: Faults::NONE,
                    identity: None,
                },
                crate::board::ChipKind::Hwmon(_) => ChipReading::default(),
            });
            BusSnapshot {
                taken: Some(now - age),
                chips: chips.collect(),
                health: vec![Health::Ok; bus.chips.len()],
                repairs: 0,
            }
        };
        // In the board's order: air, then main.
        let buses = [bus("air", Duration::from_secs(3)), bus("main", Duration::from_secs(1))].map(Arc::new);
        let snapshot = gather(&board, &buses, now, now, Duration::from_millis(2500));
        assert!(snapshot.rails.iter().all(|rail| rail.voltage.is_ok()));
        assert!(snapshot.sensors.iter().all(|sensor| *sensor == Err(Missing::Stale)));
        assert!(snapshot.fans.iter().all(|fan| fan.rpm == Err(Missing::Stale)));
        let failed = snapshot.chips.iter().filter(|(health, _)| *health == Health::Failed(Missing::Stale)).count();
        assert_eq!(failed, 4, "the fan controller and three sensors");
        // A bus whose first pass hangs from the start is found out just the same.
        let never = [Arc::new(BusSnapshot { taken: None, ..(*buses[0]).clone() }), Arc::clone(&buses[1])];
        let at = |after| gather(&board, &never, now - after, now, Duration::from_millis(2500)).sensors;
        assert_eq!(at(Duration::from_secs(1))[0], Err(Missing::NotPresent));
        assert_eq!(at(Duration::from_secs(3))[0], Err(Missing::Stale));
    }
}
