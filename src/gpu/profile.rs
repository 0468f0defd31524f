//! Profiles: what a GPU is to be set to, by name, as `rigd.toml` has it.
//!
//! ```toml
//! [profile.eco]
//! power_limit_w = 220            # or power_limit_pct = 70, of what the maker set
//! core_lock_mhz = [900, 1500]    # or one number for both
//! memory_lock_mhz = 5001
//! core_offset_mhz = 150
//! memory_offset_mhz = 1000       # of the data rate: the clock moves by half of it
//! fan_curve = [[40, 30], [60, 60], [80, 100]]   # °C and %; or fan_pct = 60, or fan = "auto"
//! persistence = true
//! ```
//!
//! A profile is known by its content and not by its name: a profile that was edited is a new one, one that was only
//! renamed is not.

use serde::{Deserialize, Serialize};

use crate::compact;
use crate::digest::fnv1a;
use crate::source::Table;
use crate::units::{Duty, Megahertz, MegahertzOffset, Millicelsius, Milliwatts, Percent};

/// What a GPU is to be set to. What is left out stands at its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Power limit.
    pub power_limit: Option<Limit>,
    /// Lowest and highest core clock.
    pub core_lock: Option<(Megahertz, Megahertz)>,
    /// Lowest and highest memory clock.
    pub memory_lock: Option<(Megahertz, Megahertz)>,
    /// Core clock offset.
    pub core_offset: Option<MegahertzOffset>,
    /// Memory clock offset, of the data rate.
    pub memory_offset: Option<MegahertzOffset>,
    /// Its fans; where nothing is said of them, control's own rule holds.
    pub fans: Option<FanRule>,
    /// The driver stays loaded without clients. On where it is left out: without it, settings are gone as soon as nobody
    /// has the GPU open, and that of locks cannot be read back. Off is off under a cap, too.
    pub persistence: Option<bool>,
}

/// A power limit as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// So much.
    Power(Milliwatts),
    /// So much of what the maker set.
    OfDefault(Percent),
}

/// How a GPU's own fans are driven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FanRule {
    /// By the driver.
    Auto,
    /// Always like this.
    Fixed(Duty),
    /// By temperature: rising temperatures with drives that do not fall; straight lines between, level outside.
    Curve(Vec<(Millicelsius, Duty)>),
}

impl Profile {
    /// Stands for the content. The name is not part of it.
    #[must_use]
    pub fn digest(&self) -> u32 {
        let Self { name: _, power_limit, core_lock, memory_lock, core_offset, memory_offset, fans, persistence } = self;
        let content = (power_limit, core_lock, memory_lock, core_offset, memory_offset, fans, persistence);
        // Fails for a body of unknown length only; lists have one.
        fnv1a(&compact::write(&content).unwrap_or_default())
    }

    /// Reads one table. What is wrong with it is complained of there.
    pub(super) fn read(name: String, table: &Table<'_>) -> Self {
        table.only(&[
            "power_limit_w",
            "power_limit_pct",
            "core_lock_mhz",
            "memory_lock_mhz",
            "core_offset_mhz",
            "memory_offset_mhz",
            "fan",
            "fan_pct",
            "fan_curve",
            "persistence",
        ]);
        let ranged = |key: &str, low: i32, high: i32| {
            let value = table.number::<i32>(key)?;
            if !(low..=high).contains(&value) {
                table.complain(key, format!("must be {low} to {high}, not {value}"));
            }
            Some(value)
        };
        let unsigned =
            |key: &str, low: i32, high: i32| ranged(key, low, high).and_then(|value| u32::try_from(value).ok());
        let lock = |key: &str, highest: u32| {
            let (low, high) = table.range::<u32>(key)?;
            if low < 100 || high > highest || low > high {
                table.complain(key, format!("must rise and be within 100 to {highest}"));
            }
            Some((Megahertz(low), Megahertz(high)))
        };
        let watts = unsigned("power_limit_w", 10, 2_000);
        let percent = unsigned("power_limit_pct", 10, 200).and_then(|percent| u8::try_from(percent).ok());
        if watts.is_some() && percent.is_some() {
            table.complain("power_limit_pct", "is one too many beside power_limit_w");
        }
        let power_limit = watts
            .map(|watts| Limit::Power(Milliwatts(watts.saturating_mul(1000))))
            .or(percent.map(|percent| Limit::OfDefault(Percent(percent))));
        Self {
            name,
            power_limit,
            core_lock: lock("core_lock_mhz", 10_000),
            memory_lock: lock("memory_lock_mhz", 50_000),
            core_offset: ranged("core_offset_mhz", -2_000, 2_000).map(MegahertzOffset),
            memory_offset: ranged("memory_offset_mhz", -10_000, 10_000).map(MegahertzOffset),
            fans: fans(table),
            persistence: table.flag("persistence"),
        }
    }
}

/// Below that a driven fan may stand or stutter: makers let fans stand only under the driver's own control.
const LOWEST_FAN_PCT: u8 = 20;

fn fans(table: &Table<'_>) -> Option<FanRule> {
    let (word, percent) = (table.text("fan"), table.number::<u8>("fan_pct"));
    let points = table.pairs::<i32, u8>("fan_curve");
    if usize::from(word.is_some()) + usize::from(percent.is_some()) + usize::from(!points.is_empty()) > 1 {
        table.complain("fan", "only one of fan, fan_pct and fan_curve can hold");
    }
    if let Some(other) = word.as_deref().filter(|word| *word != "auto") {
        table.complain("fan", format!("must be `auto`, not `{other}`; a drive is fan_pct"));
    }
    let good = |percent: u8| (LOWEST_FAN_PCT..=100).contains(&percent);
    if percent.is_some_and(|percent| !good(percent)) {
        table.complain("fan_pct", format!("must be {LOWEST_FAN_PCT} to 100"));
    }
    if !points.is_empty() {
        let rises = points.is_sorted_by(|(t, d), (u, e)| t < u && d <= e);
        if !rises || points.iter().any(|(t, d)| !(0..=110).contains(t) || !good(*d)) {
            let text =
                format!("temperatures must rise within 0 to 110, drives not fall within {LOWEST_FAN_PCT} to 100");
            table.complain("fan_curve", text);
        }
        if points.len() > 16 {
            table.complain("fan_curve", "has more than 16 points");
        }
    }
    let fixed = percent.and_then(Duty::from_percent).map(FanRule::Fixed);
    let point = |(t, d): &(i32, u8)| Some((Millicelsius(t.saturating_mul(1000)), Duty::from_percent(*d)?));
    let curve = (!points.is_empty()).then(|| FanRule::Curve(points.iter().filter_map(point).collect()));
    word.map(|_| FanRule::Auto).or(fixed).or(curve)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eco() -> Profile {
        Profile {
            name: "eco".to_owned(),
            power_limit: Some(Limit::Power(Milliwatts(220_000))),
            core_lock: Some((Megahertz(900), Megahertz(1_500))),
            fans: Some(FanRule::Curve(vec![(Millicelsius(40_000), Duty::saturating(3_000))])),
            ..Profile::default()
        }
    }

    /// Stores out there hold it in their quarantine lists: if this test fails, do not change the test.
    #[test]
    fn the_digest_is_pinned_and_of_the_content_alone() {
        assert_eq!(eco().digest(), 0x37f4_a526);
        assert_eq!(Profile { name: "other".to_owned(), ..eco() }.digest(), eco().digest());
        assert_ne!(Profile { persistence: Some(true), ..eco() }.digest(), eco().digest());
    }
}
