//! What is missing to what holds, and the orders that bring it about.

use super::Effective;
use crate::arbiter::view::View;
use crate::sorted;
use crate::wire::{
    DesiredPayload, Difference, FanTarget, MOST_DIFFERENCES, Market, Order, PayloadAct, PayloadPhase, PowerCap,
};

/// What is, as far as a desired state can change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Every payload.
    pub payloads: Vec<ActualPayload>,
    /// Every GPU that is there.
    pub gpus: Vec<ActualGpu>,
    /// The caps that the last plan set, not those of commands.
    pub power_caps: Vec<PowerCap>,
    /// Targets that were set.
    pub fan_targets: Vec<FanTarget>,
    /// Maintenance is on.
    pub maintenance: bool,
}

/// A payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualPayload {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub phase: PayloadPhase,
    /// The GPUs that it was given by order, by UUID; `None` where the rig chooses.
    pub assigned: Option<Vec<String>>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualGpu {
    /// Its UUID.
    pub uuid: String,
    /// The profile that it was told to have.
    pub profile: Option<String>,
    /// It is on its way to it.
    pub changing: bool,
    /// Why it does not have it, where it was tried.
    pub failed: Option<String>,
}

/// What to do, and what is not as it shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The caps that are to hold in the name of the desired state, where these are others than now: before any order.
    pub caps: Option<Vec<PowerCap>>,
    /// To be carried out in this order: what frees power and GPUs comes before what takes them.
    pub orders: Vec<Order>,
    /// Also what was ordered before and is on its way, or failed; at most [`MOST_DIFFERENCES`].
    pub differences: Vec<Difference>,
}

impl Plan {
    fn differ(&mut self, what: String, want: impl Into<String>, have: impl Into<String>, why: impl Into<String>) {
        let all = &mut self.differences;
        if all.len() < MOST_DIFFERENCES {
            all.push(Difference { what, want: want.into(), have: have.into(), why: why.into() });
        } else if let Some(last) = all.last_mut() {
            "more than can be told".clone_into(&mut last.why);
        }
    }
}

/// What was promised to somebody for now and is not served, by the arbiter's own word.
pub fn unserved(market: &Market, unix_ms: Option<u64>, view: &View, plan: &mut Plan) {
    let Some(now) = unix_ms else { return };
    let due = market.leases.iter().filter(|lease| lease.from_ms <= now && now < lease.to_ms);
    for name in due.map(|lease| &lease.payload) {
        if view.gpus.iter().any(|gpu| gpu.runs.as_ref() == Some(name)) {
            continue;
        }
        let left_out = view.left_out.iter().find(|(other, _)| other == name);
        let why = match (left_out, &view.waits) {
            _ if !view.enabled => "this agent leaves payloads to people: `[plan]` is not enabled",
            (Some((_, why)), _) => why,
            (None, Some(waits)) => waits,
            _ if view.refused.contains(name) => "no GPU can be found for it",
            _ if view.market.values.iter().any(|(other, _)| other == name) => ON_ITS_WAY,
            _ => "its manifest has no `[plan]`",
        };
        plan.differ(format!("lease of payload {name}"), "served", "not served", why);
    }
}

const ORDERED: &str = "ordered now";
const ON_ITS_WAY: &str = "on its way";

/// What is missing.
#[must_use]
pub fn plan(effective: &Effective, actual: &Actual) -> Plan {
    let mut plan = Plan::default();
    if effective.maintenance != actual.maintenance {
        let word = |on: bool| if on { "on" } else { "off" };
        plan.orders.push(Order::Maintenance { on: effective.maintenance, until_ms: None });
        plan.differ("maintenance".to_owned(), word(effective.maintenance), word(actual.maintenance), ORDERED);
    }
    for wanted in effective.payloads.iter().filter(|wanted| !wanted.run) {
        payload(wanted, actual, &mut plan);
    }
    if effective.power_caps != actual.power_caps {
        let word = |caps: &[PowerCap]| match caps {
            [] => "none".to_owned(),
            caps => caps.iter().map(|cap| cap.cap_mw.to_string()).collect::<Vec<_>>().join(", "),
        };
        plan.caps = Some(effective.power_caps.clone());
        plan.differ("power cap".to_owned(), word(&effective.power_caps), word(&actual.power_caps), ORDERED);
    }
    profiles(effective, actual, &mut plan);
    for wanted in &effective.fan_targets {
        let target = |target: Option<&FanTarget>| target.and_then(|target| target.target_mc);
        let have = target(actual.fan_targets.iter().find(|target| target.zone == wanted.zone));
        if have != wanted.target_mc {
            let word = |target: Option<crate::units::Millicelsius>| {
                target.map_or_else(|| "the board's own".to_owned(), |target| target.to_string())
            };
            plan.orders.push(Order::SetFanTarget { zone: wanted.zone.clone(), target_mc: wanted.target_mc });
            plan.differ(format!("zone {}", wanted.zone), word(wanted.target_mc), word(have), ORDERED);
        }
    }
    for wanted in effective.payloads.iter().filter(|wanted| wanted.run) {
        payload(wanted, actual, &mut plan);
    }
    plan
}

fn payload(wanted: &DesiredPayload, actual: &Actual, plan: &mut Plan) {
    let name = &wanted.name;
    let what = || format!("payload {name}");
    let want = if wanted.run { "running" } else { "stopped" };
    let Some(own) = actual.payloads.iter().find(|own| own.name == *name) else {
        return plan.differ(what(), want, "gone", "there is no such payload any more");
    };
    if let Some(gpus) = &wanted.gpus {
        let set = |gpus: &[String]| sorted::set(gpus.iter().cloned());
        // None of them is the rig's own choice.
        let have = own.assigned.as_deref().unwrap_or_default();
        if set(gpus) != set(have) {
            plan.orders.push(Order::Assign { payload: name.clone(), gpus: gpus.clone() });
            plan.differ(format!("GPUs of payload {name}"), gpus.join(" "), have.join(" "), ORDERED);
        }
    }
    let have = phase(own.phase);
    let (act, why) = match (wanted.run, own.phase) {
        (true, PayloadPhase::Running | PayloadPhase::Degraded | PayloadPhase::Ended)
        | (
            false,
            PayloadPhase::Stopped
            | PayloadPhase::Ended
            | PayloadPhase::FailedToStart
            | PayloadPhase::OutOfBudget
            | PayloadPhase::Quarantined,
        ) => return,
        (true, PayloadPhase::Starting | PayloadPhase::Warming | PayloadPhase::BackingOff)
        | (_, PayloadPhase::Draining) => (None, ON_ITS_WAY),
        (true, PayloadPhase::Paused | PayloadPhase::Waiting) => {
            (None, "it is held back for the rig's power or heat, and runs when that is over")
        }
        (true, PayloadPhase::FailedToStart | PayloadPhase::OutOfBudget | PayloadPhase::Quarantined) => {
            (None, "it was given up, and waits for somebody to clear it")
        }
        (true, PayloadPhase::Stopped) => (Some(PayloadAct::Start), ORDERED),
        (
            false,
            PayloadPhase::Starting
            | PayloadPhase::Warming
            | PayloadPhase::Running
            | PayloadPhase::Degraded
            | PayloadPhase::Paused
            | PayloadPhase::Waiting
            | PayloadPhase::BackingOff,
        ) => (Some(PayloadAct::Stop), ORDERED),
    };
    plan.orders.extend(act.map(|act| Order::Payload { name: name.clone(), act }));
    plan.differ(what(), want, have, why);
}

const fn phase(phase: PayloadPhase) -> &'static str {
    match phase {
        PayloadPhase::Stopped => "stopped",
        PayloadPhase::Starting => "starting",
        PayloadPhase::Warming => "warming up",
        PayloadPhase::Running => "running",
        PayloadPhase::Degraded => "degraded",
        PayloadPhase::Draining => "draining",
        PayloadPhase::BackingOff => "waiting to be started again",
        PayloadPhase::FailedToStart => "failed to start",
        PayloadPhase::Ended => "ended",
        PayloadPhase::OutOfBudget => "started too often",
        PayloadPhase::Quarantined => "in quarantine",
        PayloadPhase::Paused => "paused",
        PayloadPhase::Waiting => "held back",
    }
}

fn profiles(effective: &Effective, actual: &Actual, plan: &mut Plan) {
    let for_all = effective.profiles.iter().find(|entry| entry.gpu.is_none());
    for gpu in &actual.gpus {
        let own = effective.profiles.iter().find(|entry| entry.gpu.as_ref() == Some(&gpu.uuid));
        let Some(wanted) = own.or(for_all) else { continue };
        let told = gpu.profile.as_ref() == Some(&wanted.profile);
        let why = match (told, &gpu.failed) {
            (false, _) => ORDERED,
            (true, Some(why)) => why,
            (true, None) if gpu.changing => ON_ITS_WAY,
            (true, None) => continue,
        };
        if !told {
            let (uuid, profile) = (gpu.uuid.clone(), wanted.profile.clone());
            plan.orders.push(Order::SetProfile { gpu: Some(uuid), profile: Some(profile) });
        }
        let have = gpu.profile.as_deref().unwrap_or("the rig's own");
        plan.differ(format!("GPU {}", gpu.uuid), &wanted.profile, have, why);
    }
    for entry in &effective.profiles {
        if let Some(uuid) = entry.gpu.as_ref().filter(|uuid| actual.gpus.iter().all(|gpu| gpu.uuid != **uuid)) {
            plan.differ(format!("GPU {uuid}"), &entry.profile, "gone", "the GPU is not there now");
        }
    }
}
