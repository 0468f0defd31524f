//! What `rigd.toml` says of planning: whether the agent decides which payload has which GPU, and by what.
//!
//! ```toml
//! [plan]
//! enabled = true                      # false where it is left out: people start and stop every payload
//! every_s = 60                        # it is planned so often, and at once where something has changed
//! horizon_min = 60                    # prices are taken to stay as they are for so long
//! stickiness_pct = 5                  # a change must bring so much more than its cost
//! energy_micro_per_kwh = 250_000      # what energy costs, where no market signal says so
//! idle_w = 20                         # what an idle GPU draws at the rig's input
//! lead_s = 120                        # a lease gets its GPUs so long before it begins
//! free_mib = 600                      # a GPU with no more memory in use than this is free
//! ```
//!
//! What is planned is every payload whose manifest has a `[plan]`; all others stay with people.

use std::time::Duration;

use crate::source::Table;
use crate::units::{Mebibytes, MicroPerKilowattHour, Milliwatts, Percent};

/// Whether and how it is decided which payload has which GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanConfig {
    /// It is.
    pub enabled: bool,
    /// So often.
    pub every: Duration,
    /// Prices are taken to stay as they are for so long.
    pub horizon: Duration,
    /// What a change must bring on top of its cost.
    pub stickiness: Percent,
    /// What energy costs where no market says so.
    pub energy: MicroPerKilowattHour,
    /// What an idle GPU draws.
    pub idle: Milliwatts,
    /// A lease gets its GPUs so long before it begins.
    pub lead: Duration,
    /// A GPU with more memory in use is not free.
    pub free: Mebibytes,
}

impl PlanConfig {
    /// Reads the table. What is wrong with it is complained of there.
    pub(crate) fn read(table: &Table<'_>) -> Self {
        table.only(&[
            "enabled",
            "every_s",
            "horizon_min",
            "stickiness_pct",
            "energy_micro_per_kwh",
            "idle_w",
            "lead_s",
            "free_mib",
        ]);
        let number = |key, default: u32, low, high| table.ranged(key, low, high).unwrap_or(default);
        Self {
            enabled: table.flag("enabled").unwrap_or(false),
            every: Duration::from_secs(number("every_s", 60, 1, 3_600).into()),
            horizon: Duration::from_secs(u64::from(number("horizon_min", 60, 1, 1_440)) * 60),
            stickiness: Percent(u8::try_from(number("stickiness_pct", 5, 0, 100)).unwrap_or(100)),
            energy: MicroPerKilowattHour(table.number("energy_micro_per_kwh").unwrap_or(0)),
            idle: Milliwatts(number("idle_w", 20, 0, 1_000) * 1_000),
            lead: Duration::from_secs(number("lead_s", 120, 0, 86_400).into()),
            // What drivers and firmware keep for themselves on large cards, which old drivers count as used.
            free: Mebibytes(number("free_mib", 600, 1, 65_536)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn planning_is_off_unless_somebody_switches_it_on() {
        for (text, expected) in [
            ("", Ok((false, 60))),
            ("enabled = true\nevery_s = 5", Ok((true, 5))),
            ("every_s = 0", Err("x.toml:3: plan.every_s: must be 1 to 3600, not 0")),
            ("horizon_min = 9000", Err("x.toml:3: plan.horizon_min: must be 1 to 1440, not 9000")),
            ("enable = true", Err("x.toml:3: plan.enable: unknown key")),
        ] {
            let config = Config::parse("x.toml", &format!("board = \"a\"\n[plan]\n{text}\n"), "host");
            match (config, expected) {
                (Ok(config), Ok(expected)) => {
                    assert_eq!((config.plan.enabled, config.plan.every.as_secs()), expected, "{text}");
                }
                (Err(problems), Err(expected)) => assert!(problems.to_string().starts_with(expected), "{problems}"),
                (config, _) => panic!("{text}: {config:?}"),
            }
        }
    }
}
