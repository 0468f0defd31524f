//! What is decided and under way, for people.

use std::sync::Arc;

use super::look::Draft;
use super::view::{GpuView, MarketView, SwitchView, View, YieldView};
use super::yields::Known;
use super::{Arbiter, Moment};
use crate::payload::lifecycle::Phase;
use crate::payload::supervisor::Status;
use crate::plan::{Plan, Why};
use crate::wire::PayloadUnit;

impl Arbiter {
    pub(super) fn shown(&self, draft: &Draft, made: &Plan, moment: &Moment) -> View {
        let name = |payload: Option<usize>| payload.and_then(|at| draft.payloads.get(at)).map(|own| own.name.clone());
        let tried = |gpu: usize| {
            let payload = made.gpus.get(gpu).copied().flatten()?;
            let is_tried = self.trial.as_ref()?.payload == draft.payloads.get(payload)?.name;
            is_tried.then_some(Why::Tried { payload })
        };
        let facts = self.facts(moment);
        let taken = |gpu: usize, uuid: &str| {
            let nothing = matches!(made.whys.get(gpu), Some(Why::Nothing) | None);
            nothing.then(|| facts.taken(uuid))?
        };
        let why = |gpu: usize| made.whys.get(gpu).map(|why| why.line(&draft.payloads));
        let gpus = draft.uuids.iter().enumerate().map(|(gpu, uuid)| GpuView {
            uuid: uuid.clone(),
            pci: super::gpu(&moment.snapshot, uuid).map_or_else(String::new, |gpu| gpu.pci.to_string()),
            runs: name(draft.current.get(gpu).copied().flatten()),
            planned: name(made.gpus.get(gpu).copied().flatten()),
            why: tried(gpu)
                .map(|why| why.line(&draft.payloads))
                .or_else(|| taken(gpu, uuid).or_else(|| why(gpu)))
                .unwrap_or_default(),
        });
        let signal = moment.setpoints.market();
        let until_ms = signal.map(|market| market.until_ms);
        let taken = if self.view.market.until_ms == until_ms { self.view.market.taken_ms } else { moment.unix_ms.0 };
        let yields = draft.payloads.iter().enumerate().flat_map(|(at, payload)| {
            let status = moment.payloads.0.iter().find(|status| status.name == payload.name);
            let unit = status.and_then(|status| status.unit).map(PayloadUnit::from);
            draft.uuids.iter().enumerate().filter_map(move |(gpu, uuid)| {
                let found = draft.yields.get(at)?.get(gpu).copied().flatten()?;
                let known = draft.known.get(at)?.get(gpu).copied().flatten()?;
                // Where it may not run a figure that was never measured there is of no use.
                if known != Known::Measured && payload.fits >> gpu & 1 == 0 {
                    return None;
                }
                let (payload, uuid) = (payload.name.clone(), uuid.clone());
                Some(YieldView { payload, uuid, rate: found.rate, unit, power: found.power, known })
            })
        });
        View {
            enabled: true,
            planned_ms: moment.unix_ms.0,
            waits: None,
            gpus: gpus.collect(),
            refused: made.refused.iter().filter_map(|refused| name(Some(*refused))).collect(),
            left_out: Vec::new(),
            switches: Vec::new(),
            last: self.view.last.clone(),
            yields: yields.collect(),
            market: MarketView {
                until_ms,
                taken_ms: taken,
                stale: until_ms.is_some_and(|until| !moment.unix_ms.1 || moment.unix_ms.0 >= until),
                energy: draft.energy.0,
                values: draft.payloads.iter().map(|own| (own.name.clone(), own.value.0)).collect(),
            },
        }
    }

    pub(super) fn publish(&mut self, moment: &Moment, waits: Option<&str>) {
        let facts = self.facts(moment);
        let out = moment.payloads.0.iter().filter(|status| status.plan.is_some() && !facts.plannable(status));
        let why = |status: &Status| left_out(status, facts.is_to_be_wiped(&status.name)).to_owned();
        let mut left_out: Vec<_> = out.map(|status| (status.name.clone(), why(status))).collect();
        for (name, why) in &self.wipers.failed {
            left_out.retain(|(other, _)| other != name);
            let why = format!("what is private of it could not be removed, tried again later: {why}");
            left_out.push((name.clone(), why));
        }
        let switches = self.kept.switches.iter().map(|switch| SwitchView {
            from: switch.from.clone(),
            to: switch.to.clone(),
            step: switch.step,
            back: switch.back,
        });
        let switches = switches.collect();
        (self.view.left_out, self.view.switches, self.view.waits) = (left_out, switches, waits.map(str::to_owned));
        let view = &self.view;
        self.inputs.view.send_if_modified(|shown| {
            let changed = **shown != *view;
            if changed {
                *shown = Arc::new(view.clone());
            }
            changed
        });
    }
}

fn left_out(status: &Status, is_to_be_wiped: bool) -> &'static str {
    if status.removed {
        "its manifest is gone"
    } else if status.held.is_some() {
        "in quarantine, waits for somebody to clear it"
    } else if status.out {
        "stopped by somebody, or its work is done: waits for somebody to start it"
    } else if matches!(status.phase, Phase::Failed(_)) {
        "given up, waits for somebody to clear it"
    } else if status.hold != crate::payload::Hold::Free {
        "held back for the rig's power or heat"
    } else if is_to_be_wiped {
        "what is private of it is being removed"
    } else {
        "did not work when its turn came: tried again within the hour, or as soon as somebody clears it"
    }
}
