//! A change of hands is over: what was learnt of it, who is left out for it, and the event.

use log::{info, warn};

use super::look::rests;
use super::switch::{SETTLE, Share, Step, Switch};
use super::view::{Finished, LAST};
use super::{Arbiter, BARRED, Moment, energy, told};
use crate::alarm::{Alarm, Cause, Edge, Kind, Subject, SwitchOutcome, Switched};

impl Arbiter {
    pub(super) fn finish(&mut self, moment: &Moment, switch: &Switch, outcome: SwitchOutcome) {
        let [drain_ms, free_ms, reset_ms, wipe_ms, start_ms] = switch.took;
        if !switch.back && switch.step > Step::Free {
            for share in &switch.from {
                self.yields.ended(&share.payload, u64::from(drain_ms) + u64::from(free_ms));
            }
        }
        let settle = u64::try_from(SETTLE.as_millis()).unwrap_or(0);
        for share in &switch.to {
            let used = self.energies.remove(&share.payload);
            let joules = energy(&moment.snapshot, &share.gpus).zip(used).and_then(|(now, then)| now.checked_sub(then));
            if outcome == SwitchOutcome::Done {
                let load = u64::from(start_ms).saturating_sub(settle);
                self.yields.started(&share.payload, load, joules.map(|millis| millis / 1_000));
                self.kept.bars.remove(&share.payload);
            }
        }
        // What did not work is not tried again before its next turn.
        let failed = outcome != SwitchOutcome::Done;
        self.trial =
            self.trial.take().filter(|trial| !(failed && switch.to.iter().any(|share| share.payload == trial.payload)));
        let barred = match outcome {
            SwitchOutcome::Back | SwitchOutcome::Lost | SwitchOutcome::Held => &switch.to,
            SwitchOutcome::Stuck => &switch.from,
            SwitchOutcome::Done | SwitchOutcome::Unwiped | SwitchOutcome::Dropped => &vec![],
        };
        for share in barred {
            let (count, until) = self.kept.bars.entry(share.payload.clone()).or_default();
            let wait = BARRED[0].saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX)).min(BARRED[1]);
            (*count, *until) = (count.saturating_add(1), moment.now + wait);
        }
        // Whoever is at rest has none; what is under way gives its own.
        let rests = |name: &str| rests(&moment.payloads.0, name);
        self.kept.given.retain(|name, _| !rests(name) || self.kept.switches.iter().any(|other| other.has(name)));
        self.inputs.desk.set_given(self.kept.given.clone());
        let index = |shares: &[Share]| {
            let name = &shares.first()?.payload;
            moment.payloads.0.iter().position(|status| status.name == *name)
        };
        let (from, to) = (index(&switch.from), index(&switch.to));
        let short = |index: Option<usize>| index.and_then(|index| u16::try_from(index).ok());
        let cause =
            Switched { from: short(from), to: short(to), drain_ms, free_ms, reset_ms, wipe_ms, start_ms, outcome };
        let subject = Subject::Payload(to.or(from).unwrap_or(usize::MAX));
        let cause = Cause::Switch(cause);
        info!("arbiter: {} to {}: {cause}", told(&switch.from), told(&switch.to));
        let alarm = Alarm { kind: Kind::PayloadSwitch, subject };
        if self.inputs.events.try_send(Edge { alarm, raised: true, cause, rung: None }).is_err() {
            warn!("arbiter: too many events wait; this one is in the log only");
        }
        let Switch { from, to, took, .. } = switch.clone();
        if self.view.last.len() >= LAST {
            self.view.last.remove(0);
        }
        self.view.last.push(Finished { at_ms: moment.unix_ms.0, from, to, took, outcome });
    }
}
