//! Which settings may be tried: what the cards take, no higher than it is now, and what a person wishes.

use anyhow::{bail, ensure};
use clap::ValueEnum;
use rigd::local::Gpu;
use rigd::plan::tune::{Axis, Point, Space};
use rigd::units::{Megahertz, Milliwatts};
use rigd::wire::Capability;

/// An axis has no more steps.
const STEPS: u32 = 250;
/// The lowest core clock where nothing is wished, of that at work, in percent: cards are at their lowest voltage above that.
const LOWEST_CORE: u32 = 40;

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
    /// Vary this alone
    #[arg(long)]
    only: Option<Only>,
}

/// One of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    /// The power limit
    Power,
    /// The core clock
    Core,
}

/// Two whole numbers that do not fall.
fn range(text: &str) -> Result<(u32, u32), String> {
    let both = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    both.filter(|(low, high)| low <= high && *high < 100_000).ok_or_else(|| "must be like 150-250".to_owned())
}

impl Wishes {
    /// The space for these GPUs, whose fastest core clock at work is `clock`, and where they are in it now.
    pub(super) fn space(&self, gpus: &[Gpu], clock: Option<u32>) -> anyhow::Result<(Space, Point)> {
        let takes = |capability| gpus.iter().all(|gpu| gpu.info.capabilities.contains(&capability));
        let limit = gpus.iter().filter_map(|gpu| gpu.more.limit.0.ok()).max().map(|limit| limit.0);
        let least = gpus.iter().filter_map(|gpu| gpu.info.min_limit_mw).max().map(|limit| limit.0);
        let power = limit.zip(least).filter(|_| takes(Capability::PowerLimit) && self.only != Some(Only::Core));
        let core = clock.filter(|_| takes(Capability::CoreLock) && self.only != Some(Only::Power));
        if power.is_none() && core.is_none() {
            bail!("these GPUs take nothing of what is to be varied");
        }
        let watts = self.power.map(|(low, high)| (low * 1000, high * 1000));
        let limits = match power {
            Some((now, least)) => {
                let (low, high) = watts.unwrap_or((least, now));
                // A profile has whole watts.
                axis(low.max(least).next_multiple_of(1000), high.min(now) / 1000 * 1000, self.power_step * 1000)
            }
            None => axis(limit.unwrap_or(0), limit.unwrap_or(0), 1),
        };
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
            limits.lowest < limits.highest || cores.lowest < cores.highest,
            "there is nothing to vary: the GPUs are at their lowest already"
        );
        // What is not varied is where it was, however it is counted.
        let as_it_was = |top: u32, now: Option<u32>| now.filter(|now| top < now / 1000 * 1000).unwrap_or(top);
        let now = Point {
            limit: Milliwatts(as_it_was(limits.highest, limit)),
            core: Megahertz(clock.filter(|clock| cores.highest < *clock).unwrap_or(cores.highest)),
            memory: None,
        };
        Ok((Space { limit: limits, core: cores, memory: None }, now))
    }
}

/// An axis whose highest value is exactly this one; none where it would be below the lowest.
fn axis(low: u32, high: u32, step: u32) -> Option<Axis> {
    let span = high.checked_sub(low)?;
    let step = step.max(span.div_ceil(STEPS)).max(1);
    Some(Axis { lowest: high - span / step * step, highest: high, step })
}

#[cfg(test)]
mod tests {
    use rigd::gpu::{Phase, Presence};
    use rigd::reading::Missing;
    use rigd::wire::Value;

    use super::*;

    /// A card with so high a limit now, W.
    fn card(limit: u32, capabilities: &[Capability]) -> Gpu {
        // Nothing but what matters here is there.
        let missing = || serde_json::to_value(Value::<u32>(Err(Missing::NotPresent))).unwrap();
        let text = serde_json::json!({
            "info": {
                "pci": "0000:01:00.0", "uuid": "GPU-1", "name": "", "vbios": null, "serial": null, "memory_mib": null,
                "min_limit_mw": 100_000, "max_limit_mw": 480_000, "default_limit_mw": 350_000, "max_sm_mhz": 2_100,
                "max_memory_mhz": null, "slowdown_mc": null, "fans": 0, "pcie_max_generation": null,
                "pcie_max_width": null, "capabilities": capabilities,
            },
            "now": {
                "presence": Presence::Seen, "temperature": missing(), "memory_temperature": missing(), "power": missing(),
                "sm_mhz": missing(), "memory_mhz": missing(), "load": missing(), "memory_used": missing(),
                "fan_duty": missing(), "reasons": missing(), "air": {"duty": missing(), "stage": "normal"},
                "profile": Phase::Default,
            },
            "more": {
                "gpu": 0, "margin": missing(), "power_now": missing(), "energy": missing(),
                "limit": Value(Ok(Milliwatts(limit * 1000))), "enforced_limit": missing(), "pstate": missing(),
                "memory_load": missing(), "fans": [], "pcie_generation": missing(), "pcie_width": missing(),
                "replays": missing(), "ecc": null, "remapped": null, "recovery": missing(), "xids": 0, "last_xid": null,
                "profile": null, "quarantined": 0, "processes": [],
            },
        });
        serde_json::from_value(text).unwrap()
    }

    fn wishes(power: Option<(u32, u32)>, core: Option<(u32, u32)>, only: Option<Only>) -> Wishes {
        Wishes { power, power_step: 10, core, core_step: 30, only }
    }

    #[test]
    fn a_space_is_within_what_the_card_takes_and_has_now() {
        const BOTH: &[Capability] = &[Capability::PowerLimit, Capability::CoreLock];
        let (all, power) = ((100, 350, 680, 1_695), (BOTH, 350));
        for (wished, (capabilities, limit), expected, now) in [
            (wishes(None, None, None), power, Some((100, 350, 705, 1_695)), (350, 1_695)),
            (wishes(None, None, Some(Only::Power)), power, Some((100, 350, 1_695, 1_695)), (350, 1_695)),
            (wishes(None, None, Some(Only::Core)), power, Some((350, 350, 705, 1_695)), (350, 1_695)),
            (wishes(None, None, None), (&BOTH[..1], 350), Some((100, 350, 1_695, 1_695)), (350, 1_695)),
            (wishes(None, None, None), (BOTH, 225), Some((105, 225, 705, 1_695)), (225, 1_695)),
            (wishes(Some((50, 900)), Some((1_200, 9_000)), None), power, Some((100, 350, 1_215, 1_695)), (350, 1_695)),
            (wishes(Some((150, 200)), Some((1_200, 1_500)), None), power, Some((150, 200, 1_200, 1_500)), (350, 1_695)),
            (wishes(Some((400, 450)), None, None), power, None, (0, 0)),
            (wishes(None, None, Some(Only::Core)), (&BOTH[..1], 350), None, (0, 0)),
            (wishes(None, None, Some(Only::Power)), (BOTH, 100), None, (0, 0)),
        ] {
            let card = card(limit, capabilities);
            let found = wished.space(&[card], Some(1_695)).ok();
            let numbers = found.map(|(Space { limit, core, .. }, now)| {
                let watts = (limit.lowest / 1000, limit.highest / 1000, core.lowest, core.highest);
                (watts, (now.limit.0 / 1000, now.core.0))
            });
            assert_eq!(numbers, expected.map(|expected| (expected, now)), "{wished:?}");
        }
        assert_eq!(axis(all.0, all.1, 1).unwrap().step, 1);
        assert_eq!(axis(0, 100_000, 1), Some(Axis { lowest: 0, highest: 100_000, step: 400 }));
    }

    #[test]
    fn a_range_is_two_numbers() {
        for (text, expected) in [
            ("150-250", Some((150, 250))),
            ("150-150", Some((150, 150))),
            ("250-150", None),
            ("150", None),
            ("a-b", None),
        ] {
            assert_eq!(range(text).ok(), expected, "{text}");
        }
    }
}
