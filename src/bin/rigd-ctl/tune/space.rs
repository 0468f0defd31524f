//! Which settings may be tried: what the cards take, no higher than it is now, and what a person wishes.
//!
//! The memory clock is varied only where a person wishes it. Mining gains by it, up or down, AI seldom does and waits for memory
//! more often than not; each point costs a minute; and a lock has a side effect on some cards: with one at the very clock at
//! which it works anyway, one draws a quarter less and does a sixth less (ilya-zlobintsev/LACT, issue 1128). The clocks to
//! try are those of the card's performance states below the one in which it works: what is between them a driver does not make.

use anyhow::{bail, ensure};
use clap::ValueEnum;
use rigd::local::Gpu;
use rigd::plan::tune::{Axis, Point, Space};
use rigd::units::{Megahertz, Milliwatts};
use rigd::wire::Capability;

use super::window::Measured;

/// An axis has no more steps.
const STEPS: u32 = 250;
/// The lowest core clock where nothing is wished, of that at work, in percent: cards are at their lowest voltage above that.
const LOWEST_CORE: u32 = 40;
/// Any clock.
const ANY: (u32, u32) = (0, 99_999);

/// What a person wishes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Wishes {
    /// Power limits to try, W, as 150-250 [default: from the card's lowest to what it is]
    #[arg(long, value_name = "LOW-HIGH", value_parser = range)]
    power: Option<(u32, u32)>,
    /// One step of them, W
    #[arg(long, value_name = "W", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=200))]
    power_step: u32,
    /// Core clocks to try, MHz, as 1200-1700 [default: from two fifths of what it is to what it is]
    #[arg(long, value_name = "LOW-HIGH", value_parser = range)]
    core: Option<(u32, u32)>,
    /// One step of them, MHz
    #[arg(long, value_name = "MHZ", default_value_t = 30, value_parser = clap::value_parser!(u32).range(5..=500))]
    core_step: u32,
    /// Memory clocks to try, MHz, as 800-5100, or all: the card's own, which are few, within these and below what it is [default:
    /// none, or all with --only memory]
    #[arg(long, value_name = "LOW-HIGH|all", value_parser = range_or_all)]
    memory: Option<(u32, u32)>,
    /// Vary this alone
    #[arg(long)]
    only: Option<Only>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    /// The power limit
    Power,
    /// The core clock
    Core,
    /// The memory clock
    Memory,
}

/// Two whole numbers that do not fall.
fn range(text: &str) -> Result<(u32, u32), String> {
    let both = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    both.filter(|(low, high)| low <= high && *high <= ANY.1).ok_or_else(|| "must be like 150-250".to_owned())
}

fn range_or_all(text: &str) -> Result<(u32, u32), String> {
    if text == "all" { Ok(ANY) } else { range(text).map_err(|_| "must be like 800-5100, or all".to_owned()) }
}

/// What is varied.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) space: Space,
    /// Where the GPUs are in it now.
    pub(super) now: Point,
    /// What is not varied though it was to be, and why: a sentence each.
    pub(super) left: Vec<String>,
}

impl Wishes {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Some(only) = self.only else { return Ok(()) };
        let name = |only| match only {
            Only::Power => "power",
            Only::Core => "core",
            Only::Memory => "memory",
        };
        for (own, wished) in [(Only::Power, self.power), (Only::Core, self.core), (Only::Memory, self.memory)] {
            let useless = wished.is_some() && own != only;
            ensure!(!useless, "--{} has no effect beside --only {}", name(own), name(only));
        }
        Ok(())
    }

    fn varies(&self, one: Only) -> bool {
        self.only.map_or(one != Only::Memory || self.memory.is_some(), |only| only == one)
    }

    /// The room for these GPUs, of which this was measured as they are.
    pub(super) fn room(&self, gpus: &[Gpu], first: &Measured) -> anyhow::Result<Room> {
        let limit = gpus.iter().filter_map(|gpu| gpu.more.limit.0.ok()).max().map(|limit| limit.0);
        let mut left = Vec::new();
        let mut told = |what: &str, why: String| left.push(format!("the {what} is left as it is: {why}"));
        let power = self
            .varies(Only::Power)
            .then(|| power(gpus, limit))
            .and_then(|found| found.map_err(|why| told("power limit", why)).ok());
        let core = self
            .varies(Only::Core)
            .then(|| core(gpus, first.clock_mhz))
            .and_then(|found| found.map_err(|why| told("core clock", why)).ok());
        let memory = self.varies(Only::Memory).then(|| memory(gpus, first, self.memory.unwrap_or(ANY)));
        let memory = memory.and_then(|found| found.map_err(|why| told("memory clock", why)).ok()).unwrap_or_default();
        if power.is_none() && core.is_none() && memory.is_empty() {
            bail!("there is nothing to vary: {}", left.join("; "));
        }
        let limits = match power {
            Some((now, least)) => {
                let (low, high) = self.power.map_or((least, now), |(low, high)| (low * 1000, high * 1000));
                // A profile has whole watts.
                axis(low.max(least).next_multiple_of(1000), high.min(now) / 1000 * 1000, self.power_step * 1000)
            }
            None => axis(limit.unwrap_or(0), limit.unwrap_or(0), 1),
        };
        let clock = first.clock_mhz;
        let cores = match core {
            Some(now) => {
                let (low, high) = self.core.unwrap_or((now * LOWEST_CORE / 100, now));
                axis(low, high.min(now), self.core_step)
            }
            None => axis(clock.unwrap_or(0), clock.unwrap_or(0), 1),
        };
        let (Some(limits), Some(cores)) = (limits, cores) else {
            bail!("what is wished is not within what the GPUs take and have now");
        };
        ensure!(
            limits.lowest < limits.highest || cores.lowest < cores.highest || !memory.is_empty(),
            "there is nothing to vary: the GPUs are at their lowest already"
        );
        // What is not varied is where it was, however it is counted.
        let as_it_was = |top: u32, now: Option<u32>| now.filter(|now| top < now / 1000 * 1000).unwrap_or(top);
        let now = Point {
            limit: Milliwatts(as_it_was(limits.highest, limit)),
            core: Megahertz(clock.filter(|clock| cores.highest < *clock).unwrap_or(cores.highest)),
            memory: memory.last().copied(),
        };
        Ok(Room { space: Space { limit: limits, core: cores, memory }, now, left })
    }
}

/// The first GPU that does not take that.
fn unable(gpus: &[Gpu], capability: Capability) -> Option<&str> {
    gpus.iter().find(|gpu| !gpu.info.capabilities.contains(&capability)).map(|gpu| gpu.info.uuid.as_str())
}

/// The power limit now and the lowest, mW.
fn power(gpus: &[Gpu], limit: Option<u32>) -> Result<(u32, u32), String> {
    if let Some(gpu) = unable(gpus, Capability::PowerLimit) {
        return Err(format!("GPU {gpu} takes none"));
    }
    let least = gpus.iter().filter_map(|gpu| gpu.info.min_limit_mw).max().map(|limit| limit.0);
    limit.zip(least).ok_or_else(|| "the driver does not tell it".to_owned())
}

/// The core clock at work, MHz.
fn core(gpus: &[Gpu], clock: Option<u32>) -> Result<u32, String> {
    if let Some(gpu) = unable(gpus, Capability::CoreLock) {
        return Err(format!("GPU {gpu} takes no lock of it"));
    }
    clock.ok_or_else(|| "the driver does not tell it".to_owned())
}

/// The memory clocks that all of them have below what they work at, and are within, from the lowest on; what it is now is the last.
fn memory(gpus: &[Gpu], first: &Measured, (low, high): (u32, u32)) -> Result<Vec<Megahertz>, String> {
    if let Some(gpu) = unable(gpus, Capability::MemoryLock) {
        return Err(format!("GPU {gpu} takes no lock of it"));
    }
    let (Some(now), Some(state)) = (first.memory_mhz, first.pstate) else {
        return Err(format!("GPU {} does not tell it", gpus.first().map_or("", |gpu| gpu.info.uuid.as_str())));
    };
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.memory_clocks.is_empty()) {
        return Err(format!("GPU {} does not tell which memory clocks it has", gpu.info.uuid));
    }
    // With an offset a card works above the clock of its state: the faster states are not below it for that.
    let slower = |gpu: &Gpu, clock: Megahertz| {
        gpu.memory_clocks.iter().any(|(own, other)| *own > state && *other == clock && clock.0 < now)
    };
    let within = |clock: &Megahertz| (low.max(1)..=high).contains(&clock.0);
    let all = gpus.first().into_iter().flat_map(|gpu| &gpu.memory_clocks).map(|(_, clock)| *clock).filter(within);
    let mut clocks: Vec<Megahertz> = all.filter(|clock| gpus.iter().all(|gpu| slower(gpu, *clock))).collect();
    clocks.sort_unstable();
    clocks.dedup();
    if clocks.is_empty() {
        let gpu = gpus.first().map_or("", |gpu| gpu.info.uuid.as_str());
        let within = if (low, high) == ANY { String::new() } else { format!(" from {low} to {high} MHz") };
        return Err(format!("GPU {gpu} has no lower one{within}"));
    }
    clocks.push(Megahertz(now));
    Ok(clocks)
}

/// An axis whose highest value is exactly this one; none where it would be below the lowest.
fn axis(low: u32, high: u32, step: u32) -> Option<Axis> {
    let span = high.checked_sub(low)?;
    let step = step.max(span.div_ceil(STEPS)).max(1);
    Some(Axis { lowest: high - span / step * step, highest: high, step })
}

#[cfg(test)]
mod tests;
