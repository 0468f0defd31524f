//! A GPU's fan rule as a thermal zone of its own: control knows but one kind of zone.

use super::profile::FanRule;
use super::wire::{Device, PciAddress};
use crate::board::Zone;
use crate::units::{Duty, Millicelsius};

/// What a card may reach where it does not tell itself: below every slowdown threshold of the last ten years' cards.
const CRITICAL: Millicelsius = Millicelsius(85_000);
/// Full air so far below the temperature at which a card slows down by itself.
pub(crate) const BEFORE_SLOWDOWN: i32 = 3_000;
/// Cards step in whole degrees: a fan that follows each of them is heard.
pub(crate) const HYSTERESIS: Millicelsius = Millicelsius(2_000);
/// A card's heat sink warms within seconds, a frame's air within minutes.
const SLEW_PCT_PER_S: u8 = 10;

/// The temperature from which on this GPU's zone gives full air.
#[must_use]
pub(crate) fn critical(device: Option<&Device>) -> Millicelsius {
    let slowdown = device.and_then(|device| device.slowdown.ok());
    slowdown.map_or(CRITICAL, |slowdown| Millicelsius(slowdown.0.saturating_sub(BEFORE_SLOWDOWN)))
}

/// The zone; none where the driver keeps the fans.
pub(crate) fn zone(pci: PciAddress, rule: Option<&FanRule>, device: &Device) -> Option<Zone> {
    let curve = match rule? {
        FanRule::Auto => return None,
        FanRule::Fixed(duty) => vec![(Millicelsius(0), *duty)],
        FanRule::Curve(points) => points.clone(),
    };
    Some(Zone {
        name: pci.to_string(),
        sensors: Vec::new(),
        fans: Vec::new(),
        curve,
        hold: None,
        critical: critical(Some(device)),
        hysteresis: HYSTERESIS,
        slew_per_s: Duty::from_percent(SLEW_PCT_PER_S).unwrap_or(Duty::FULL),
        spare_fans: 0,
        gpus: None,
    })
}
