//! The last hour in memory: what a chart is drawn from, and what is left to look at when the broker was away.
//!
//! Time is cut into slots of 5 s, 720 of them. Of each series a slot keeps the last reading, a value or the reason why
//! there is none; of temperatures and watts also the lowest and the highest value of all ticks in it, so that a peak
//! between two slots is not lost. Drives have no range: they rise at once and fall by the slew limit. A reading that was
//! missing for a moment and is back before its slot ends leaves no trace here; its alarm does.
//!
//! Memory is taken once, for as long as the agent runs, and never grows: 4 bytes a slot for each series, 8 more for each
//! with a range, 4 for the slot itself. A rig of 3 sensors, 8 rails, 2 supplies, 6 fans and 1 zone has 22 series, 15 of them
//! with a range: 212 bytes a slot, 149 KiB in all. A test holds the sum.

use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::reading::{Missing, Power, Reading, Snapshot};

/// Length of a slot, ms.
pub const SLOT_MS: u64 = 5_000;
/// How many slots are kept: an hour.
pub const SLOTS: u32 = 720;
/// The number that no slot has: 2^32 slots are 680 years.
const UNUSED: u32 = u32::MAX;

/// What a series is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// A sensor, m°C.
    Temperature,
    /// A rail, mW.
    RailPower,
    /// What a supply draws from the mains, mW.
    SupplyInput,
    /// What a supply gives to the rig, mW.
    SupplyOutput,
    /// The drive that a fan's chip holds, hundredths of a percent.
    FanDrive,
    /// The drive that a zone was ordered, hundredths of a percent.
    ZoneDrive,
}

impl Quantity {
    /// Whether the lowest and the highest of a slot are kept too.
    #[must_use]
    pub const fn has_range(self) -> bool {
        match self {
            Self::Temperature | Self::RailPower | Self::SupplyInput | Self::SupplyOutput => true,
            Self::FanDrive | Self::ZoneDrive => false,
        }
    }
}

/// Every series of a board with its name, those with a range first: the order of all that is kept.
#[must_use]
pub fn series(board: &Board) -> Vec<(Quantity, &str)> {
    let mut all = Vec::new();
    all.extend(board.sensors.iter().map(|sensor| (Quantity::Temperature, sensor.name.as_str())));
    all.extend(board.rails.iter().map(|rail| (Quantity::RailPower, rail.name.as_str())));
    for supply in &board.supplies {
        all.extend([Quantity::SupplyInput, Quantity::SupplyOutput].map(|side| (side, supply.name.as_str())));
    }
    all.extend(board.fans.iter().map(|fan| (Quantity::FanDrive, fan.name.as_str())));
    all.extend(board.zones.iter().map(|zone| (Quantity::ZoneDrive, zone.name.as_str())));
    all
}

/// What a tick has for each of [`series`], in its order and unit.
fn readings(snapshot: &Snapshot) -> Vec<Cell> {
    let mut all = Vec::new();
    all.extend(snapshot.sensors.iter().map(|sensor| Cell::new(sensor.map(|celsius| celsius.0))));
    // Above 2.1 MW it is no rig's power.
    let watts = |power: &Power| power.power.and_then(|mw| i32::try_from(mw.0).map_err(|_| Missing::Implausible));
    for power in snapshot.rails.iter().chain(snapshot.supplies.as_flattened()) {
        all.push(Cell::new(watts(power)));
    }
    let duties = snapshot.fans.iter().map(|fan| fan.duty).chain(snapshot.zones.iter().map(|zone| zone.duty));
    for duty in duties {
        all.push(Cell::new(duty.map(|duty| duty.hundredths().into())));
    }
    all
}

/// A reading in four bytes: the lowest numbers of an `i32` stand for the reasons, and no sensor means them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell(i32);

/// In the order of their cells, from `i32::MIN`.
const REASONS: [Missing; 5] = [Missing::NotPresent, Missing::Off, Missing::Bus, Missing::Stale, Missing::Implausible];
/// The lowest number that is a value.
const LOWEST: i32 = i32::MIN + 16;

impl Cell {
    const fn new(reading: Reading<i32>) -> Self {
        match reading {
            Ok(value) if value >= LOWEST => Self(value),
            Ok(_) | Err(Missing::Implausible) => Self(i32::MIN + 4),
            Err(Missing::NotPresent) => Self(i32::MIN),
            Err(Missing::Off) => Self(i32::MIN + 1),
            Err(Missing::Bus) => Self(i32::MIN + 2),
            Err(Missing::Stale) => Self(i32::MIN + 3),
        }
    }

    fn reading(self) -> Reading<i32> {
        if self.0 >= LOWEST {
            return Ok(self.0);
        }
        let reason = usize::try_from(self.0.wrapping_sub(i32::MIN)).ok().and_then(|code| REASONS.get(code));
        Err(reason.copied().unwrap_or(Missing::NotPresent))
    }

    /// The better of two by `choose`; a value beats a reason, and the later reason the earlier one.
    fn fold(self, later: Self, choose: fn(i32, i32) -> i32) -> Self {
        match (self.reading(), later.reading()) {
            (Ok(a), Ok(b)) => Self(choose(a, b)),
            (Ok(_), Err(_)) => self,
            (Err(_), _) => later,
        }
    }
}

/// One series in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The last reading.
    pub last: Reading<i32>,
    /// The lowest and the highest value, where the series has a range; a reason where there was no value at all.
    pub range: Option<[Reading<i32>; 2]>,
}

/// The last hour of a rig.
#[derive(Clone, Debug)]
pub struct History {
    /// Series, and how many of them have a range.
    width: usize,
    ranged: usize,
    /// Which slot each row holds. A slot's row is its number modulo [`SLOTS`], so the newest takes the place of the oldest.
    slots: Vec<u32>,
    newest: Option<u32>,
    last: Vec<Cell>,
    ranges: Vec<[Cell; 2]>,
}

const ROWS: usize = SLOTS as usize;

impl History {
    /// Room for an hour of this board.
    #[must_use]
    pub fn new(board: &Board) -> Self {
        let series = series(board);
        let width = series.len();
        let ranged = series.iter().filter(|(quantity, _)| quantity.has_range()).count();
        let nothing = Cell::new(Err(Missing::NotPresent));
        Self {
            width,
            ranged,
            slots: vec![UNUSED; ROWS],
            newest: None,
            last: vec![nothing; ROWS * width],
            ranges: vec![[nothing; 2]; ROWS * ranged],
        }
    }

    /// Takes a tick in. `uptime_ms` never falls; a tick of another board's shape is no reading of ours.
    pub fn take(&mut self, uptime_ms: u64, snapshot: &Snapshot) {
        let readings = readings(snapshot);
        if readings.len() != self.width {
            return;
        }
        let slot = u32::try_from(uptime_ms / SLOT_MS).unwrap_or(UNUSED - 1).max(self.newest.unwrap_or(0));
        let fresh = self.newest.replace(slot) != Some(slot);
        let row = row(slot);
        self.slots.iter_mut().skip(row).take(1).for_each(|held| *held = slot);
        for (last, reading) in self.last.iter_mut().skip(row * self.width).zip(&readings) {
            *last = *reading;
        }
        let ranges = self.ranges.iter_mut().skip(row * self.ranged).take(self.ranged);
        for ([low, high], reading) in ranges.zip(&readings) {
            *low = if fresh { *reading } else { low.fold(*reading, i32::min) };
            *high = if fresh { *reading } else { high.fold(*reading, i32::max) };
        }
    }

    /// The slots of the last hour that have a sample, the oldest first: slot n began n times [`SLOT_MS`] after the agent.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let kept = self.newest.map(|newest| newest.saturating_sub(SLOTS - 1)..=newest);
        kept.into_iter().flatten().filter(|slot| self.slots.get(row(*slot)) == Some(slot))
    }

    /// One of [`series`], by its index, in each of [`Self::slots`].
    pub fn samples(&self, index: usize) -> impl Iterator<Item = Sample> + '_ {
        self.slots().filter_map(move |slot| {
            let last = self.last.get(row(slot) * self.width..)?.get(..self.width)?.get(index)?.reading();
            let range = self.ranges.get(row(slot) * self.ranged..)?.get(..self.ranged)?.get(index);
            Some(Sample { last, range: range.map(|pair| pair.map(Cell::reading)) })
        })
    }
}

/// Where a slot is kept.
fn row(slot: u32) -> usize {
    usize::try_from(slot % SLOTS).unwrap_or(0)
}

#[cfg(test)]
mod tests;
