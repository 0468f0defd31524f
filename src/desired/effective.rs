//! What of a desired state holds at this minute.

use crate::wire::{Desired, DesiredPayload, DesiredProfile, FanTarget, PowerCap};

const DAY_MINUTES: u64 = 24 * 60;

/// When it is, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970; `None` where the clock is not known to be right.
    pub unix_ms: Option<u64>,
    /// Day of the week, 0 for Monday, and minute of the day, in the rig's own time.
    pub local: Option<(u8, u16)>,
}

impl Moment {
    /// Day and minute in UTC.
    fn utc(&self) -> Option<(u8, u16)> {
        let minutes = self.unix_ms? / 60_000;
        // 1970 began on a Thursday.
        let day = (minutes / DAY_MINUTES + 3) % 7;
        Some((u8::try_from(day).ok()?, u16::try_from(minutes % DAY_MINUTES).ok()?))
    }
}

/// What holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// Payloads that shall run, or not.
    pub payloads: Vec<DesiredPayload>,
    /// GPUs that shall have a profile.
    pub profiles: Vec<DesiredProfile>,
    /// All caps that hold, each once: which of them is the tightest changes with their ramps and deadlines. No more than one for each
    /// standing order and the state's own.
    pub power_caps: Vec<PowerCap>,
    /// Zones that shall be held at a temperature.
    pub fan_targets: Vec<FanTarget>,
    /// Somebody works at the rig: no payload shall run.
    pub maintenance: bool,
    /// Standing orders that hold, by name.
    pub standing: Vec<String>,
}

/// What of a state holds at this moment. Where nobody knows the time, caps of standing orders hold, for less power is never
/// wrong, and their payloads do not.
#[must_use]
pub fn effective(desired: &Desired, now: &Moment) -> Effective {
    let mut all = Effective {
        payloads: desired.payloads.clone(),
        profiles: desired.profiles.clone(),
        power_caps: Vec::new(),
        fan_targets: desired.fan_targets.clone(),
        maintenance: desired.maintenance,
        standing: Vec::new(),
    };
    all.cap(desired.power_cap, now);
    for order in &desired.standing {
        let when = if order.utc { now.utc() } else { now.local };
        match when {
            Some((day, minute)) if order.when.holds(day, minute) => {
                all.cap(order.power_cap, now);
                for wanted in &order.payloads {
                    if let Some(own) = all.payloads.iter_mut().find(|own| own.name == wanted.name) {
                        let gpus = wanted.gpus.clone().or_else(|| own.gpus.clone());
                        *own = DesiredPayload { gpus, ..wanted.clone() };
                    }
                }
                all.standing.push(order.name.clone());
            }
            Some(_) => {}
            None if order.power_cap.is_some() => {
                all.cap(order.power_cap, now);
                all.standing.push(order.name.clone());
            }
            None => {}
        }
    }
    if all.maintenance {
        all.payloads.iter_mut().for_each(|own| own.run = false);
    }
    all
}

impl Effective {
    fn cap(&mut self, cap: Option<PowerCap>, now: &Moment) {
        let new = |cap: &PowerCap| lasts(cap, now) && !self.power_caps.contains(cap);
        self.power_caps.extend(cap.filter(new));
    }
}

/// A cap ends by itself; where nobody knows the time it does not.
fn lasts(cap: &PowerCap, now: &Moment) -> bool {
    match (cap.until_ms, now.unix_ms) {
        (Some(until), Some(now)) => now < until,
        _ => true,
    }
}
