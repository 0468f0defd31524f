//! What a control plane wants a rig to be, and how near the rig is to it.
//!
//! A [`Desired`] travels only inside of a [signed frame](super::Signed), retained on `dn/des`; the rig answers with
//! [`Reported`]. A desired state is taken as a whole or not at all; payloads, GPUs and zones that it does not name are left
//! as they are.

use serde::{Deserialize, Serialize};

use super::Audience;
use super::command::{MOST_GPUS, PowerCap, name};
use crate::sorted;
use crate::units::{MicroPerKilowattHour, MicroPerTera, Millicelsius};

/// Payloads, profiles, zones or standing orders in one desired state at most, of each.
pub const MOST_ENTRIES: usize = 64;
/// Differences in one report at most; the rest is counted in the last one.
pub const MOST_DIFFERENCES: usize = 64;
/// A thousand currency units for a kilowatt-hour is a slip of the pen.
const DEAREST: u64 = 1_000_000_000;
/// Every day of the week, in [`Window::days`].
pub const EVERY_DAY: u8 = 0x7f;

/// Body of `dn/des`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Whom it is for.
    pub audience: Audience,
    /// Rises with each; what is not above the last one taken is old.
    pub revision: u64,
    /// When it was signed, milliseconds since 1970; a control plane signs anew each day.
    pub issued_ms: u64,
    /// Not to be taken later, milliseconds since 1970. One that was taken stays in force.
    pub not_after_ms: Option<u64>,
    /// Payloads that shall run, or not.
    pub payloads: Vec<DesiredPayload>,
    /// GPUs that shall have a profile.
    pub profiles: Vec<DesiredProfile>,
    /// The rig's limit; without one a limit of an earlier desired state ends.
    pub power_cap: Option<PowerCap>,
    /// Zones that shall be held at a temperature.
    pub fan_targets: Vec<FanTarget>,
    /// Somebody works at the rig.
    pub maintenance: bool,
    /// What holds at some hours of the week, also while the broker is away.
    pub standing: Vec<StandingOrder>,
    /// What work and energy are worth, and who was promised what.
    #[serde(default)]
    pub market: Option<Market>,
}

/// What work and energy are worth now, and who was promised what. It has no place for an appended field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Market {
    /// Its prices hold until then, milliseconds since 1970; afterwards those of the rig's configuration do. Leases hold on.
    pub until_ms: u64,
    /// What energy costs; the rig's configuration says so where there is none.
    pub energy: Option<MicroPerKilowattHour>,
    /// What the work of payloads is worth; of one that is not named, its manifest says so.
    pub values: Vec<MarketValue>,
    /// Payloads that get their GPUs before all others.
    pub leases: Vec<MarketLease>,
}

/// What a payload's work is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketValue {
    /// The payload.
    pub payload: String,
    /// A unit of its work.
    pub value: MicroPerTera,
}

/// What somebody was promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketLease {
    /// The payload that does the work.
    pub payload: String,
    /// From when, milliseconds since 1970.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// The higher goes first.
    pub priority: u8,
}

/// A payload that shall run, or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPayload {
    /// Its name.
    pub name: String,
    /// It shall run.
    pub run: bool,
    /// On these GPUs, by UUID; none leaves them to the rig.
    pub gpus: Option<Vec<String>>,
}

/// A GPU that shall have a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredProfile {
    /// By UUID; every GPU that no other entry names where there is none.
    pub gpu: Option<String>,
    /// By name, as the rig's configuration has it.
    pub profile: String,
}

/// A zone that shall be held at a temperature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanTarget {
    /// The zone, as the board file has it.
    pub zone: String,
    /// Thousandths of a degree; the board's own where there is none.
    pub target_mc: Option<Millicelsius>,
}

/// What holds in a window of the week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingOrder {
    /// Its name.
    pub name: String,
    /// When.
    pub when: Window,
    /// The window is in UTC; else in the rig's own time.
    pub utc: bool,
    /// A limit; where several hold, whatever is lowest of them at each moment, ramps included.
    pub power_cap: Option<PowerCap>,
    /// Payloads that shall run, or not, of those that the state itself names; of several orders that name one the last in the
    /// list holds.
    pub payloads: Vec<DesiredPayload>,
}

/// Hours of some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Days on which it begins: bit 0 is Monday, bit 6 Sunday.
    pub days: u8,
    /// First minute of the day, 0 to 1439.
    pub from_min: u16,
    /// First minute after it, 0 to 1440. At or before `from_min` it lasts over midnight, and the same is a whole day.
    pub to_min: u16,
}

/// Body of `up/rep`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The revision that the rig is as it says; 0 where it is on its way to one, or never had one.
    pub reached: u64,
    /// The last revision that was taken and is in force; 0 is none.
    pub accepted: u64,
    /// The last one that was not taken.
    pub refused: Option<RefusedRevision>,
    /// What is not as it is desired, at most [`MOST_DIFFERENCES`].
    pub differences: Vec<Difference>,
    /// Standing orders that hold now, by name.
    pub standing: Vec<String>,
    /// Hours since the one in force was signed, where these are too many; nothing is done about it.
    pub stale_h: Option<u32>,
}

/// A desired state that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRevision {
    /// Its number.
    pub revision: u64,
    /// Why.
    pub reason: String,
}

/// One thing that is not as it is desired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which: `payload llm`, `zone front`.
    pub what: String,
    /// How it is desired.
    pub want: String,
    /// How it is.
    pub have: String,
    /// Why it is not so yet, or will not be.
    pub why: String,
}

impl Desired {
    /// Every text, list and window within its bounds, and nothing named twice.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self) -> Result<(), &'static str> {
        let Self { payloads: wanted, profiles, fan_targets, standing, .. } = self;
        if [wanted.len(), profiles.len(), fan_targets.len(), standing.len()].iter().any(|len| *len > MOST_ENTRIES) {
            return Err("too many entries");
        }
        payloads(wanted)?;
        for DesiredProfile { gpu, profile } in profiles {
            gpu.iter().chain([profile]).try_for_each(|text| name(text))?;
        }
        fan_targets.iter().try_for_each(|target| name(&target.zone))?;
        for StandingOrder { name: own, when, payloads: at_times, .. } in standing {
            name(own)?;
            when.check()?;
            payloads(at_times)?;
            // Else nobody knows what it shall be when the window is over.
            let outside = |entry: &DesiredPayload| wanted.iter().find(|always| always.name == entry.name);
            if at_times.iter().any(|entry| outside(entry).is_none()) {
                return Err("a standing order names a payload that the state itself does not");
            }
            if at_times.iter().any(|entry| entry.gpus.is_some() && outside(entry).is_some_and(|own| own.gpus.is_none()))
            {
                return Err("a standing order gives GPUs to a payload to which the state itself gives none");
            }
        }
        let caps = standing.iter().map(|order| &order.power_cap).chain([&self.power_cap]);
        caps.flatten().try_for_each(PowerCap::check)?;
        self.market.as_ref().map_or(Ok(()), Market::check)?;
        once(profiles.iter().map(|entry| entry.gpu.as_deref().unwrap_or_default()), "a GPU has two profiles")?;
        once(fan_targets.iter().map(|target| target.zone.as_str()), "a zone has two targets")?;
        once(standing.iter().map(|order| order.name.as_str()), "two standing orders have one name")
    }
}

impl Market {
    fn check(&self) -> Result<(), &'static str> {
        let Self { until_ms: _, energy, values, leases } = self;
        if values.len() > MOST_ENTRIES || leases.len() > MOST_ENTRIES {
            return Err("too many entries");
        }
        if energy.is_some_and(|price| price.0.unsigned_abs() > DEAREST) {
            return Err("a price of energy that nobody pays");
        }
        values.iter().try_for_each(|value| name(&value.payload))?;
        leases.iter().try_for_each(|lease| name(&lease.payload))?;
        if leases.iter().any(|lease| lease.from_ms >= lease.to_ms) {
            return Err("a lease ends before it begins");
        }
        once(values.iter().map(|value| value.payload.as_str()), "a payload has two values")
    }
}

fn payloads(wanted: &[DesiredPayload]) -> Result<(), &'static str> {
    if wanted.len() > MOST_ENTRIES {
        return Err("too many payloads");
    }
    for DesiredPayload { name: own, gpus, .. } in wanted {
        name(own)?;
        let gpus = gpus.as_deref().unwrap_or_default();
        if gpus.len() > MOST_GPUS {
            return Err("too many GPUs");
        }
        gpus.iter().try_for_each(|text| name(text))?;
    }
    once(wanted.iter().map(|entry| entry.name.as_str()), "a payload is named twice")
}

fn once<'a>(names: impl Iterator<Item = &'a str>, twice: &'static str) -> Result<(), &'static str> {
    let names = sorted::list(names);
    if names.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(twice) }
}

impl Window {
    fn check(self) -> Result<(), &'static str> {
        let good = self.days & !EVERY_DAY == 0 && self.from_min < 1440 && self.to_min <= 1440;
        if good { Ok(()) } else { Err("a window outside of the week") }
    }

    /// Whether it holds at this minute of this day, 0 for Monday.
    #[must_use]
    pub fn holds(self, weekday: u8, minute: u16) -> bool {
        let on = |day: u8| day < 7 && self.days >> day & 1 == 1;
        let yesterday = (weekday + 6) % 7;
        if self.from_min < self.to_min {
            on(weekday) && (self.from_min..self.to_min).contains(&minute)
        } else {
            on(weekday) && minute >= self.from_min || on(yesterday) && minute < self.to_min
        }
    }
}
