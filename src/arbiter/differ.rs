//! From a plan to changes of hands: what must go together goes together, and what does not pay for its restarts is left.

use std::time::Duration;

use super::look::Draft;
use super::switch::{Share, Switch};
use crate::plan::{Inputs, Plan, over};
use crate::sorted;

/// The changes of hands that a plan asks for, each over payloads and GPUs of its own. None of them touches one that is under way.
#[must_use]
pub fn differences(
    draft: &Draft,
    inputs: &Inputs<'_>,
    plan: &Plan,
    under_way: &[Switch],
    now: Duration,
) -> Vec<Switch> {
    let set = |places: &[Option<usize>], payload: usize| -> Vec<usize> {
        let own = places.iter().enumerate().filter(|(_, place)| **place == Some(payload));
        own.map(|(gpu, _)| gpu).collect()
    };
    let sets: Vec<[Vec<usize>; 2]> =
        (0..draft.payloads.len()).map(|payload| [set(&draft.current, payload), set(&plan.gpus, payload)]).collect();
    let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for (payload, [old, new]) in sets.iter().enumerate().filter(|(_, [old, new])| old != new) {
        let gpus = || old.iter().chain(new).copied();
        let (mut joined, mut rest) = ((vec![payload], gpus().collect::<Vec<_>>()), Vec::new());
        for group in groups {
            if gpus().any(|gpu| group.1.contains(&gpu)) {
                joined.0.extend(group.0);
                joined.1.extend(group.1);
            } else {
                rest.push(group);
            }
        }
        rest.push(joined);
        groups = rest;
    }
    let shares = |payloads: &[usize], which: usize| -> Vec<Share> {
        let share = |payload: &usize| {
            let gpus = sets.get(*payload)?.get(which)?.iter().filter_map(|gpu| draft.uuids.get(*gpu).cloned());
            let gpus: Vec<String> = gpus.collect();
            let payload = draft.payloads.get(*payload)?.name.clone();
            (!gpus.is_empty()).then_some(Share { payload, gpus })
        };
        payloads.iter().filter_map(share).collect()
    };
    let wanted = groups.into_iter().filter(|(payloads, gpus)| {
        let mut gpus = sorted::list(gpus.iter().copied());
        gpus.dedup();
        pays(draft, inputs, plan, payloads, &gpus, &sets)
    });
    let switches = wanted.map(|(payloads, _)| {
        let payloads = sorted::list(payloads);
        Switch::new(shares(&payloads, 0), shares(&payloads, 1), now)
    });
    let touches = |switch: &Switch| {
        let names = switch.from.iter().chain(&switch.to).map(|share| &share.payload);
        let busy = |name: &String| under_way.iter().any(|other| other.has(name));
        names.into_iter().any(busy)
            || switch.gpus().any(|gpu| under_way.iter().any(|other| other.gpus().any(|own| own == gpu)))
    };
    switches.filter(|switch| !touches(switch)).collect()
}

/// Whether the gain over the horizon is above what it costs those that keep some of their GPUs to be started anew, which the plan
/// does not count. What is leased, may not run any more or cannot goes whatever it costs.
fn pays(
    draft: &Draft,
    inputs: &Inputs<'_>,
    plan: &Plan,
    payloads: &[usize],
    gpus: &[usize],
    sets: &[[Vec<usize>; 2]],
) -> bool {
    let leased = |payload: &usize| inputs.payloads.get(*payload).is_some_and(|payload| payload.lease.is_some());
    let place = |places: &[Option<usize>], gpu: usize| places.get(gpu).copied().flatten();
    let cannot = |gpu: &usize| {
        place(inputs.current, *gpu).is_some_and(|now| {
            let fits = inputs.payloads.get(now).is_none_or(|own| own.fits >> gpu & 1 == 1);
            // What nobody can measure earns nothing that anybody knows of, and was given its time.
            let unknown = draft.settled.get(now) == Some(&true) && inputs.yields(*gpu, now).is_none();
            !inputs.may_run(now) || !fits || unknown
        })
    };
    if payloads.iter().any(leased) || gpus.iter().any(cannot) {
        return true;
    }
    let brings = |gpu: usize, payload: Option<usize>| match payload {
        Some(payload) => inputs.score(gpu, payload).unwrap_or(0),
        None => inputs.score_of_idle(gpu),
    };
    // Idle as it was costs nothing.
    let stays = |gpu: usize| place(inputs.current, gpu).map_or(0, |now| brings(gpu, Some(now)));
    let gain: i64 = gpus.iter().map(|gpu| brings(*gpu, place(&plan.gpus, *gpu)) - stays(*gpu)).sum();
    let restarts = payloads.iter().filter_map(|payload| {
        let [old, new] = sets.get(*payload)?;
        let kept = old.iter().filter(|gpu| new.contains(gpu));
        Some(kept.map(|gpu| restart(inputs, *gpu, *payload)).sum::<i64>())
    });
    gain > restarts.sum()
}

/// What it costs to start a payload anew on a GPU that it keeps.
fn restart(inputs: &Inputs<'_>, gpu: usize, payload: usize) -> i64 {
    let margin = inputs.margin(gpu, payload).unwrap_or_default();
    over(margin, inputs.downtime(gpu, payload)).max(0) - inputs.score_of_idle(gpu).min(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Lease, Payload, Yield, plan};
    use crate::units::{MicroPerKilowattHour, MicroPerTera, MilliPerSecond, Milliwatts, Percent};

    fn payload(name: &str, value: u64, most: u8) -> Payload {
        Payload {
            name: name.to_owned(),
            lease: None,
            most,
            fits: u64::MAX,
            hours: None,
            value: MicroPerTera(value),
            switch: crate::plan::Switch {
                drain: Duration::from_secs(60),
                load: Duration::from_secs(60),
                ..Default::default()
            },
        }
    }

    fn draft(payloads: Vec<Payload>, current: Vec<Option<usize>>) -> Draft {
        let yields = Yield { rate: MilliPerSecond(100_000_000_000), power: Milliwatts(220_000) };
        Draft {
            yields: vec![vec![Some(yields); current.len()]; payloads.len()],
            known: Vec::new(),
            settled: vec![true; payloads.len()],
            uuids: (0..current.len()).map(|gpu| format!("G{gpu}")).collect(),
            payloads,
            current,
            energy: MicroPerKilowattHour(0),
        }
    }

    fn found(draft: &Draft, under_way: &[Switch]) -> Vec<String> {
        let inputs = Inputs {
            now_ms: 5,
            minute: 0,
            payloads: &draft.payloads,
            current: &draft.current,
            yields: &draft.yields,
            idle: Milliwatts(20_000),
            energy: draft.energy,
            horizon: Duration::from_secs(3_600),
            stickiness: Percent(5),
            lead: Duration::ZERO,
        };
        let text = |shares: &[Share]| {
            let one = |share: &Share| format!("{}:{}", share.payload, share.gpus.join("+"));
            shares.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let switches = differences(draft, &inputs, &plan(&inputs), under_way, Duration::ZERO);
        switches.iter().map(|switch| format!("{} > {}", text(&switch.from), text(&switch.to))).collect()
    }

    #[test]
    fn what_must_go_together_goes_together_and_what_does_not_pay_stays() {
        let lease = |mut payload: Payload| {
            payload.lease = Some(Lease { from_ms: 0, to_ms: 9, priority: 0 });
            payload
        };
        // Its lease is over, or its trial, and it has no meter.
        let unmeasured = |settled: bool| Draft {
            yields: vec![vec![None]],
            settled: vec![settled],
            ..draft(vec![payload("a", 100, 1)], vec![Some(0)])
        };
        for (name, draft, expected) in [
            ("nothing to do", draft(vec![payload("a", 100, 2)], vec![Some(0), Some(0)]), vec![]),
            ("to idle GPUs", draft(vec![payload("a", 100, 2)], vec![None, None]), vec![" > a:G0+G1"]),
            (
                "one for another",
                draft(vec![payload("a", 100, 2), payload("b", 200, 2)], vec![Some(0), Some(0)]),
                vec!["a:G0+G1 > b:G0+G1"],
            ),
            (
                "each by itself",
                draft(vec![payload("a", 100, 1), payload("b", 200, 1)], vec![None, None]),
                vec![" > a:G1", " > b:G0"],
            ),
            // A sixtieth of an hour each for two GPUs that stop, against an hour of one more.
            (
                "one more is worth a restart",
                draft(vec![payload("a", 100, 3)], vec![Some(0), Some(0), None]),
                vec!["a:G0+G1 > a:G0+G1+G2"],
            ),
            (
                "half an hour of each is lost for the gain of one",
                draft(
                    vec![Payload {
                        switch: crate::plan::Switch { load: Duration::from_secs(1_800), ..Default::default() },
                        ..payload("a", 100, 4)
                    }],
                    vec![Some(0), Some(0), Some(0), None],
                ),
                vec![],
            ),
            (
                "a lease goes first whatever it costs",
                draft(vec![payload("a", 1_000_000, 2), lease(payload("l", 0, 1))], vec![Some(0), Some(0)]),
                vec!["a:G0+G1 > a:G1 l:G0"],
            ),
            ("what was never measured goes when its time is over", unmeasured(true), vec!["a:G0 > "]),
            ("and not before", unmeasured(false), vec![]),
        ] {
            let mut switches = found(&draft, &[]);
            switches.sort();
            assert_eq!(switches, expected, "{name}");
        }
    }

    #[test]
    fn what_is_under_way_is_left_to_its_end() {
        let draft = draft(vec![payload("a", 100, 2), payload("b", 200, 1)], vec![Some(0), Some(0)]);
        let share = |payload: &str, gpu: &str| Share { payload: payload.to_owned(), gpus: vec![gpu.to_owned()] };
        let of = |from, to| Switch::new(from, to, Duration::ZERO);
        assert_eq!(found(&draft, &[of(vec![share("x", "G0")], vec![])]), [""; 0]);
        assert_eq!(found(&draft, &[of(vec![share("b", "G7")], vec![])]), [""; 0]);
        assert_eq!(found(&draft, &[of(vec![share("x", "G7")], vec![])]).len(), 1);
    }
}
