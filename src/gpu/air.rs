//! A GPU's fan rule as a thermal zone of its own: control knows but one kind of zone.

use super::profile::FanRule;
use super::wire::{Device, PciAddress};
use crate::board::Zone;
use crate::units::{Duty, Millicelsius};

/// What a card may reach where it does not tell itself: below every slowdown threshold of the last ten years' cards.
const CRITICAL: Millicelsius = Millicelsius(85_000);
/// Full air so far below the temperature at which a card slows down by itself.
pub(crate) const BEFORE_SLOWDOWN: i32 = 3_000;
/// So far above critical a card's payload is ended at once: its own slowdown does not hold it.
const EMERGENCY: i32 = 6_000;
/// And so far below the temperature at which a card switches itself off, which takes more than its payload along.
const BEFORE_SHUTDOWN: i32 = 2_000;
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

/// The temperature from which on nothing is waited for. Many cards slow down 3 K before they switch off (`nvidia-smi -q` of a GeForce
/// RTX 3090: 95 and 98 °C), which is where the distance from critical alone would be.
#[must_use]
pub(crate) fn emergency(device: Option<&Device>) -> Millicelsius {
    let critical = critical(device).0;
    let shutdown = device.and_then(|device| device.shutdown.ok());
    let told = shutdown.filter(|shutdown| shutdown.0 > critical.saturating_add(BEFORE_SLOWDOWN));
    let before = told.map_or(i32::MAX, |shutdown| shutdown.0.saturating_sub(BEFORE_SHUTDOWN));
    Millicelsius(critical.saturating_add(EMERGENCY).min(before))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::plan::tests::card;
    use crate::gpu::wire::Code;

    #[test]
    fn nothing_is_waited_for_before_a_card_switches_itself_off() {
        let told =
            |celsius: Option<i32>| celsius.map(|celsius| Millicelsius(celsius * 1_000)).ok_or(Code::NOT_SUPPORTED);
        for (name, slowdown, shutdown, expected) in [
            ("a GeForce RTX 3090", Some(95), Some(98), (92, 96)),
            ("with room", Some(89), Some(104), (86, 92)),
            ("as near as they come", Some(95), Some(96), (92, 94)),
            ("no shutdown told", Some(95), None, (92, 98)),
            ("nothing told", None, None, (85, 91)),
            ("the wrong way round", Some(95), Some(90), (92, 98)),
            ("nonsense", None, Some(0), (85, 91)),
        ] {
            let device = Device { slowdown: told(slowdown), shutdown: told(shutdown), ..card() };
            let found = (critical(Some(&device)).0 / 1_000, emergency(Some(&device)).0 / 1_000);
            assert_eq!(found, expected, "{name}");
        }
    }
}
