//! Fans, and the zones that drive them.

use std::time::Duration;

use super::super::{Chip, ChipKind, Fan, Gpus, Hold, Point, Rail, Zone, file};
use super::{Resolver, Use};
use crate::chip::{Part, Setting};
use crate::units::{Duty, Millicelsius, Rpm};

impl Resolver<'_> {
    pub(super) fn fans(&mut self) -> Vec<Fan> {
        let mut fans: Vec<Fan> = Vec::new();
        for (name, fan) in &self.file.fan {
            let key = |field: &str| format!("fan.{name}.{field}");
            let Some(at) = self.point(&format!("fan.{name}"), &fan.chip, "channel", fan.channel.as_ref(), Use::Fan)
            else {
                continue;
            };
            if let Some(other) = fans.iter().find(|other| other.at == at) {
                self.complain(&key("channel"), format!("this channel is already fan `{}`", other.name));
            }
            let tachometer = self.tachometer(name, fan, at);
            if let Some(other) = fans.iter().find(|other| other.tachometer.is_some() && other.tachometer == tachometer)
            {
                self.complain(&key("tach_channel"), format!("this tachometer is already that of fan `{}`", other.name));
            }
            if fan.tachometer && (fan.min_rpm == 0 || fan.min_rpm >= fan.max_rpm) {
                self.complain(&key("min_rpm"), format!("must be above zero and below max_rpm ({})", fan.max_rpm));
            }
            if fan.pulses == 0 {
                self.complain(&key("pulses"), "must be above zero");
            }
            let start = Duty::from_percent(fan.start_pct).unwrap_or_else(|| {
                self.complain(&key("start_pct"), "must be at most 100");
                Duty::FULL
            });
            let min = fan.min_pct.map_or(start, |min| Duty::from_percent(min).unwrap_or(Duty::FULL));
            if min > start {
                self.complain(&key("min_pct"), format!("must be at most start_pct ({})", fan.start_pct));
            }
            if let Some(tachometer) = tachometer {
                self.set_pulses(tachometer, fan.pulses);
            }
            fans.push(Fan {
                name: name.clone(),
                at,
                tachometer,
                max_rpm: Rpm(fan.max_rpm),
                min_rpm: Rpm(fan.min_rpm),
                start,
                min,
                zone: None,
            });
        }
        fans
    }

    /// Where a fan's speed is measured: by the chip that drives it, unless the board says otherwise.
    fn tachometer(&mut self, name: &str, fan: &file::Fan, at: Point) -> Option<Point> {
        let key = format!("fan.{name}");
        let kind = self.buses.get(at.bus).and_then(|bus| bus.chips.get(at.chip)).map(|chip| &chip.kind);
        let blind = matches!(kind, Some(ChipKind::I2c { part, .. }) if part.takes.contains(&Setting::Tachometer));
        match (fan.tachometer, &fan.tach_chip) {
            (true, Some(chip)) => {
                self.named_point(&key, ["tach_chip", "tach_channel"], chip, fan.tach_channel.as_ref(), Use::Fan)
            }
            (true, None) if blind => {
                let text =
                    "its chip measures no speed: `tach_chip` says who does, or `tachometer = false` that nobody does";
                self.complain(&key, text);
                None
            }
            (true, None) => {
                if fan.tach_channel.is_some() {
                    self.complain(&format!("{key}.tach_channel"), "needs a tach_chip");
                }
                Some(at)
            }
            (false, _) => {
                if fan.tach_chip.is_some() {
                    self.complain(&format!("{key}.tachometer"), "is false, and a tach_chip is named");
                }
                None
            }
        }
    }

    /// The tachometer's pulses are a fan's, but it is the chip's formula that needs them.
    fn set_pulses(&mut self, at: Point, value: u8) {
        let chip = self.buses.get_mut(at.bus).and_then(|bus| bus.chips.get_mut(at.chip));
        if let Some(Chip { kind: ChipKind::I2c { settings, .. }, .. }) = chip
            && let Some(pulses) = settings.pulses.get_mut(at.channel)
        {
            *pulses = value;
        }
    }

    pub(super) fn zones(&self, fans: &mut [Fan], rails: &[Rail]) -> Vec<Zone> {
        let mut zones = Vec::new();
        for (name, zone) in &self.file.zone {
            let key = |field: &str| format!("zone.{name}.{field}");
            let sensors = if zone.sensors.is_empty() && !zone.gpus.is_empty() {
                Vec::new()
            } else {
                self.members(&key("sensors"), "sensor", &zone.sensors, &self.file.sensor)
            };
            let members = self.members(&key("fans"), "fan", &zone.fans, &self.file.fan);
            for fan in members.iter().filter_map(|i| fans.get(*i)) {
                if fan.zone.is_some() {
                    self.complain(&key("fans"), format!("fan `{}` belongs to another zone already", fan.name));
                }
                if let Some(other) =
                    fans.iter().find(|other| other.zone.is_some() && self.share_output(fan.at, other.at))
                {
                    let text =
                        format!("fan `{}` hangs on the output of fan `{}`, of another zone", fan.name, other.name);
                    self.complain(&key("fans"), text);
                }
                if !self.drives(fan.at) {
                    self.complain(
                        &key("fans"),
                        format!("the chip of fan `{}` can only watch it, not drive it", fan.name),
                    );
                }
            }
            for member in &members {
                if let Some(fan) = fans.get_mut(*member) {
                    fan.zone = Some(zones.len());
                }
            }
            if zone.hysteresis_mc < 0 {
                self.complain(&key("hysteresis_mc"), "must not be negative");
            }
            let slew_per_s =
                Duty::from_percent(zone.slew_pct_per_s).filter(|slew| *slew > Duty::OFF).unwrap_or_else(|| {
                    self.complain(&key("slew_pct_per_s"), "must be 1 to 100");
                    Duty::FULL
                });
            let spare_fans = usize::from(zone.spare_fans);
            if spare_fans > 0 && spare_fans >= members.len() {
                self.complain(&key("spare_fans"), format!("must leave one of the zone's {} fans", members.len()));
            }
            let hold = self.hold(name, zone, rails);
            zones.push(Zone {
                name: name.clone(),
                sensors,
                fans: members,
                curve: self.curve(&key("curve"), zone, hold.is_some()),
                hold,
                critical: Millicelsius(zone.critical_mc),
                hysteresis: Millicelsius(zone.hysteresis_mc),
                slew_per_s,
                spare_fans,
                gpus: self.gpus(name, zone),
            });
        }
        zones
    }

    /// `["all"]`, or PCI addresses: which cards a frame holds is nothing that a board file knows better.
    fn gpus(&self, name: &str, zone: &file::Zone) -> Option<Gpus> {
        let key = |field: &str| format!("zone.{name}.{field}");
        if zone.gpus.is_empty() {
            if zone.gpu_critical_mc.is_some() {
                self.complain(&key("gpu_critical_mc"), "needs gpus");
            }
            return None;
        }
        let mut only = Vec::new();
        for gpu in zone.gpus.iter().filter(|gpu| *gpu != "all") {
            match gpu.parse() {
                Ok(pci) if !only.contains(&pci) => only.push(pci),
                Ok(_) => self.complain(&key("gpus"), format!("`{gpu}` is named twice")),
                Err(error) => self.complain(&key("gpus"), format!("`{gpu}`: {error}, or `all`")),
            }
        }
        let all = zone.gpus.iter().any(|gpu| gpu == "all");
        if all && zone.gpus.len() > 1 {
            self.complain(&key("gpus"), "`all` leaves none to be named");
        }
        Some(Gpus { only: (!all).then_some(only), critical: zone.gpu_critical_mc.map(Millicelsius) })
    }

    /// What the zone holds; gains that most zones of a frame of cards are steady with where the file gives none.
    fn hold(&self, name: &str, zone: &file::Zone, rails: &[Rail]) -> Option<Hold> {
        let key = |field: &str| format!("zone.{name}.{field}");
        let Some(target) = zone.target_mc else {
            for (field, given) in [
                ("gain_pct_per_k", zone.gain_pct_per_k.is_some()),
                ("integral_s", zone.integral_s.is_some()),
                ("power", !zone.power.is_empty()),
                ("feed_forward_pct_per_kw", zone.feed_forward_pct_per_kw.is_some()),
            ] {
                if given {
                    self.complain(&key(field), "needs a target_mc");
                }
            }
            return None;
        };
        if target >= zone.critical_mc {
            self.complain(&key("target_mc"), format!("must be below critical_mc ({})", zone.critical_mc));
        }
        if zone.power.is_empty() != zone.feed_forward_pct_per_kw.is_none() {
            self.complain(&key("power"), "and feed_forward_pct_per_kw go together");
        }
        if zone.gain_pct_per_k == Some(0) || zone.gain_pct_per_k.is_some_and(|gain| gain > 100) {
            self.complain(&key("gain_pct_per_k"), "must be 1 to 100");
        }
        if zone.integral_s == Some(0) {
            self.complain(&key("integral_s"), "must be above zero");
        }
        let mut power = Vec::new();
        for rail in &zone.power {
            match rails.iter().position(|known| known.name == *rail) {
                Some(index) if !power.contains(&index) => power.push(index),
                Some(_) => self.complain(&key("power"), format!("rail `{rail}` is named twice")),
                None => self.complain(&key("power"), format!("there is no rail `{rail}`")),
            }
        }
        let percent = |percent: Option<u8>, default: u8| Duty::saturating(u32::from(percent.unwrap_or(default)) * 100);
        Some(Hold {
            target: Millicelsius(target),
            gain: percent(zone.gain_pct_per_k, 4),
            integral: Duration::from_secs(zone.integral_s.unwrap_or(120).into()),
            power,
            feed_forward: percent(zone.feed_forward_pct_per_kw, 0),
        })
    }

    /// Two fans of a chip that drives both by one output.
    fn share_output(&self, one: Point, other: Point) -> bool {
        (one.bus, one.chip) == (other.bus, other.chip)
            && self.part(one).is_some_and(|part| part.share_output(one.channel, other.channel))
    }

    fn drives(&self, at: Point) -> bool {
        self.part(at).is_some_and(|part| part.drives_fans)
    }

    fn part(&self, at: Point) -> Option<&Part> {
        match &self.buses.get(at.bus)?.chips.get(at.chip)?.kind {
            ChipKind::I2c { part, .. } => Some(part),
            ChipKind::Hwmon(_) => None,
        }
    }

    fn curve(&self, key: &str, zone: &file::Zone, may_be_empty: bool) -> Vec<(Millicelsius, Duty)> {
        let mut curve: Vec<(Millicelsius, Duty)> = Vec::new();
        for (celsius, percent) in &zone.curve {
            let Some(duty) = Duty::from_percent(*percent) else {
                self.complain(key, format!("{percent} % is more than all"));
                continue;
            };
            if curve.last().is_some_and(|(before, lower)| before.0 >= *celsius || *lower > duty) {
                self.complain(key, format!("must rise: {celsius} m°C at {percent} % does not"));
            }
            curve.push((Millicelsius(*celsius), duty));
        }
        match curve.last() {
            None if may_be_empty => {}
            None => self.complain(key, "needs at least one point, or the zone a target_mc"),
            Some((top, _)) if top.0 > zone.critical_mc => {
                self.complain(key, format!("ends above critical_mc ({})", zone.critical_mc));
            }
            Some(_) => {}
        }
        curve
    }
}
