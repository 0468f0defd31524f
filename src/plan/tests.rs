use proptest::prelude::*;

use super::*;

/// 8.64 T units a day: with a million to the 10^12 that is 8.64 a day, 0.36 an hour.
const RATE: MilliPerSecond = MilliPerSecond(100_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn miner(name: &str, value: u64) -> Payload {
    Payload {
        name: name.to_owned(),
        lease: None,
        most: 64,
        fits: u64::MAX,
        hours: None,
        value: MicroPerTera(value),
        switch: Switch::default(),
    }
}

fn leased(name: &str, most: u8, priority: i16) -> Payload {
    Payload { most, lease: Some(Lease { from_ms: 1_000, to_ms: 2_000, priority }), ..miner(name, 0) }
}

/// Everything measured alike: 100 M units a second for 220 W, 20 W idle; energy 0.25 a kilowatt-hour, so 0.05 an hour.
fn with<'a>(payloads: &'a [Payload], current: &'a [Option<usize>], yields: &'a [Vec<Option<Yield>>]) -> Inputs<'a> {
    Inputs {
        now_ms: 1_500,
        minute: 600,
        payloads,
        current,
        yields,
        idle: Milliwatts(20_000),
        energy: MicroPerKilowattHour(250_000),
        horizon: HOUR,
        stickiness: Percent(0),
        lead: Duration::ZERO,
    }
}

fn alike(payloads: usize, gpus: usize) -> Vec<Vec<Option<Yield>>> {
    vec![vec![Some(Yield { rate: RATE, power: Milliwatts(220_000) }); gpus]; payloads]
}

#[test]
fn what_earns_most_runs_and_leases_come_first() {
    let night = Payload { hours: Some((22 * 60, 6 * 60)), ..miner("night", 9_000_000) };
    let small = Payload { most: 1, ..miner("small", 3_000_000) };
    for (name, payloads, expected, refused) in [
        ("nothing", vec![], vec![None; 3], vec![]),
        ("the better of two", vec![miner("a", 1_000_000), miner("b", 2_000_000)], vec![Some(1); 3], vec![]),
        ("as many as it may", vec![miner("a", 1_000_000), small.clone()], vec![Some(1), Some(0), Some(0)], vec![]),
        ("at a loss", vec![miner("a", 100_000)], vec![None; 3], vec![]),
        ("not at this hour", vec![miner("a", 1_000_000), night], vec![Some(0); 3], vec![]),
        ("a lease", vec![miner("a", 1_000_000), leased("l", 2, 1)], vec![Some(1), Some(1), Some(0)], vec![]),
        ("two that do not fit", vec![leased("a", 2, 1), leased("b", 2, 2)], vec![Some(1), Some(1), None], vec![0]),
        (
            "a smaller one after it",
            vec![leased("a", 2, 1), leased("b", 2, 2), leased("c", 1, 0)],
            vec![Some(1), Some(1), Some(2)],
            vec![0],
        ),
        ("not on its GPUs", vec![Payload { fits: 0b100, ..leased("a", 1, 1) }], vec![None, None, Some(0)], vec![]),
        ("as a whole or not at all", vec![Payload { fits: 0b100, ..leased("a", 2, 1) }], vec![None; 3], vec![0]),
    ] {
        let yields = alike(payloads.len(), 3);
        let found = plan(&with(&payloads, &[None; 3], &yields));
        assert_eq!((found.gpus, found.refused), (expected, refused), "{name}");
    }
}

#[test]
fn a_trial_that_runs_gives_way_to_any_promise() {
    for (priority, expected) in [(-1, Some(1)), (0, Some(0))] {
        let payloads = [leased("tried", 1, priority), leased("promised", 1, 0)];
        let found = plan(&with(&payloads, &[Some(0)], &alike(2, 1)));
        assert_eq!(found.gpus, [expected], "{priority}");
    }
}

#[test]
fn what_somebody_claims_to_earn_is_cut_off_and_does_not_wrap() {
    assert_eq!(earned(MilliPerSecond(u64::MAX), MicroPerTera(u64::MAX)), LARGEST.into());
}

#[test]
fn leases_have_their_time() {
    let payloads = [leased("l", 1, 1)];
    for (now_ms, lead, expected) in
        [(999, 0, None), (999, 1, Some(0)), (1_000, 0, Some(0)), (1_999, 0, Some(0)), (2_000, 0, None)]
    {
        // Never measured: a lease does not have to be.
        let inputs = Inputs { now_ms, lead: Duration::from_millis(lead), ..with(&payloads, &[None], &[]) };
        assert_eq!(plan(&inputs).gpus, [expected], "{now_ms}");
    }
}

#[test]
fn a_change_must_pay_for_itself() {
    let switch =
        Switch { drain: Duration::from_secs(60), load: Duration::from_secs(300), joules: 360_000, lost_milli: 0 };
    let payloads = |value| [miner("now", 1_000_000), Payload { switch, ..miner("then", value) }];
    let yields = alike(2, 1);
    // 0.31 an hour now. Then: five minutes of the hour are lost, what runs ends at once, and 0.1 kWh.
    for (value, stickiness, expected) in
        [(1_000_000, 0, 0), (1_150_000, 0, 0), (1_160_000, 0, 1), (1_240_000, 10, 0), (1_250_000, 10, 1)]
    {
        let payloads = payloads(value);
        let inputs = Inputs { stickiness: Percent(stickiness), ..with(&payloads, &[Some(0)], &yields) };
        assert_eq!(plan(&inputs).gpus, [Some(expected)], "{value} {stickiness}");
    }
    // What must end anyway holds nobody back.
    let over = [Payload { hours: Some((0, 1)), ..miner("now", 1_000_000) }, miner("then", 900_000)];
    assert_eq!(plan(&with(&over, &[Some(0)], &yields)).gpus, [Some(1)]);
    // Work that is lost counts: 10^12 units are 1.0.
    let lost = Switch { lost_milli: 1_000_000_000_000_000, ..Switch::default() };
    let payloads = [Payload { switch: lost, ..miner("now", 1_000_000) }, miner("then", 2_000_000)];
    assert_eq!(plan(&with(&payloads, &[Some(0)], &yields)).gpus, [Some(0)]);
}

#[test]
fn it_says_why_and_what_would_change_it() {
    let slow = Switch { load: Duration::from_secs(600), ..Switch::default() };
    let line = |payloads: &[Payload], current: &[Option<usize>], gpu: usize| {
        let yields = alike(payloads.len(), current.len());
        plan(&with(payloads, current, &yields)).whys[gpu].line(payloads)
    };
    assert_eq!(
        line(&[miner("a", 1_000_000), miner("b", 500_000)], &[Some(0)], 0),
        "a: earns most, 0.3100/h, while energy is below 1.8000/kWh; then b at 100 % more for its work"
    );
    assert_eq!(
        line(&[miner("a", 1_000_000), Payload { switch: slow, ..miner("b", 1_100_000) }], &[Some(0)], 0),
        "a: stays at 0.3100/h, a change to b for 0.3460/h would not pay; b at 6 % more for its work"
    );
    assert_eq!(
        line(&[miner("a", 100_000)], &[None], 0),
        "idle: the best, a, would bring -0.0140/h; it pays below 0.1800/kWh"
    );
    assert_eq!(line(&[leased("a", 1, 1)], &[None], 0), "a: leased");
    let one = Payload { most: 1, ..miner("b", 2_000_000) };
    assert_eq!(line(&[miner("a", 1_000_000), one], &[None, None], 1), "a: 0.3100/h; b is of more use on another GPU");
    assert_eq!(line(&[], &[None], 0), "idle: nothing may run here now");
}

/// What could run, what runs, and what it yields.
type World = (Vec<Payload>, Vec<Option<usize>>, Vec<Vec<Option<Yield>>>);

/// Up to four of each, with everything in them that the plan looks at.
fn world() -> impl Strategy<Value = World> {
    let payload = (any::<bool>(), 1..4_u8, 0..16_u64, 0..3_i16, 0..3_000_000_u64, 0..900_u64, 0..4_000_000_u32)
        .prop_map(|(lease, most, fits, priority, value, load, joules)| Payload {
            lease: lease.then_some(Lease { from_ms: 0, to_ms: 10_000, priority }),
            most,
            fits: fits | 1,
            switch: Switch {
                load: Duration::from_secs(load),
                joules,
                lost_milli: load * 1_000_000,
                ..Switch::default()
            },
            ..miner("p", value)
        });
    let one = prop::option::weighted(
        0.8,
        (1..200_u64, 30..400_u32).prop_map(|(rate, watts)| Yield {
            rate: MilliPerSecond(rate * 1_000_000_000),
            power: Milliwatts(watts * 1000),
        }),
    );
    (
        prop::collection::vec(payload, 1..=4),
        prop::collection::vec(prop::option::of(0..4_usize), 1..=4),
        prop::collection::vec(prop::collection::vec(one, 4), 4),
    )
}

/// Every way to give the GPUs away.
fn all(gpus: usize, payloads: usize) -> Vec<Vec<Option<usize>>> {
    (0..gpus).fold(vec![vec![]], |ways, _| {
        ways.into_iter()
            .flat_map(|way| {
                (0..payloads).map(Some).chain([None]).map(move |next| way.iter().copied().chain([next]).collect())
            })
            .collect()
    })
}

/// What a way brings; none where it may not be. Leases that are granted have all that they want, others nothing.
fn worth(inputs: &Inputs<'_>, granted: &[usize], way: &[Option<usize>]) -> Option<i64> {
    for (index, payload) in inputs.payloads.iter().enumerate() {
        let has = way.iter().filter(|place| **place == Some(index)).count();
        let most = usize::from(payload.most);
        let right = match payload.lease {
            Some(_) if granted.contains(&index) => has == most,
            Some(_) => has == 0,
            None => has <= most,
        };
        if !right {
            return None;
        }
    }
    way.iter()
        .enumerate()
        .map(|(gpu, place)| match place {
            Some(payload) => inputs.score(gpu, *payload),
            None => Some(inputs.score_of_idle(gpu)),
        })
        .sum()
}

fn brute(inputs: &Inputs<'_>) -> (Vec<usize>, i64) {
    let ways = all(inputs.current.len(), inputs.payloads.len());
    let mut due: Vec<usize> =
        (0..inputs.payloads.len()).filter(|index| inputs.payloads[*index].lease.is_some()).collect();
    due.sort_by_key(|index| {
        let lease = inputs.payloads[*index].lease.unwrap();
        (std::cmp::Reverse(lease.priority), !inputs.current.contains(&Some(*index)), *index)
    });
    let mut granted = Vec::new();
    for index in due {
        granted.push(index);
        if ways.iter().all(|way| worth(inputs, &granted, way).is_none()) {
            granted.pop();
        }
    }
    let best = ways.iter().filter_map(|way| worth(inputs, &granted, way)).max().unwrap();
    (granted, best)
}

proptest! {
    #[test]
    fn no_other_plan_brings_more((payloads, current, yields) in world(), stickiness in 0..20_u8) {
        let inputs = Inputs { stickiness: Percent(stickiness), ..with(&payloads, &current, &yields) };
        let found = plan(&inputs);
        let (granted, best) = brute(&inputs);
        prop_assert_eq!(worth(&inputs, &granted, &found.gpus), Some(best), "{:?}", found);
        let refused = |index: &usize| payloads[*index].lease.is_some() && !granted.contains(index);
        let mut told = found.refused.clone();
        told.sort_unstable();
        prop_assert_eq!(told, (0..payloads.len()).filter(refused).collect::<Vec<_>>());
        prop_assert_eq!(&plan(&inputs), &found, "the same again");
        for why in &found.whys {
            prop_assert!(!why.line(&payloads).contains('\n'));
        }
    }

    #[test]
    fn what_was_planned_stays_planned((payloads, current, yields) in world()) {
        let first = plan(&with(&payloads, &current, &yields));
        let second = plan(&with(&payloads, &first.gpus, &yields));
        prop_assert_eq!(first.gpus, second.gpus);
    }

    /// Energy costs nothing here, so margins move as prices do: two of them by 1.041 to 1 at most, against 1.05 for a change.
    #[test]
    fn prices_that_shake_within_the_stickiness_move_nobody(
        (payloads, current, yields) in world(),
        shakes in prop::collection::vec(prop::collection::vec(980..=1_020_u64, 4), 1..20),
    ) {
        let empty = vec![None; current.len()];
        let calm = Inputs {
            stickiness: Percent(5),
            energy: MicroPerKilowattHour(0),
            ..with(&payloads, &empty, &yields)
        };
        let settled = plan(&calm).gpus;
        for shake in shakes {
            let mut shaken = payloads.clone();
            for (payload, part) in shaken.iter_mut().zip(shake) {
                payload.value = MicroPerTera(payload.value.0 * part / 1_000);
            }
            let next = plan(&Inputs { payloads: &shaken, current: &settled, ..calm });
            prop_assert_eq!(&next.gpus, &settled);
        }
    }

    #[test]
    fn a_break_even_is_where_it_turns((payloads, current, yields) in world()) {
        let inputs = with(&payloads, &current, &yields);
        for (gpu, why) in plan(&inputs).whys.iter().enumerate() {
            if let Why::Earns { next: Some((other, value)), payload, .. } = *why {
                let mut raised = payloads.clone();
                raised[other].value = MicroPerTera(value.0 + value.0 / 1000 + 1_000);
                let more = Inputs { payloads: &raised, ..inputs };
                prop_assert!(more.score(gpu, other) >= more.score(gpu, payload), "{:?}", why);
            }
        }
    }

    #[test]
    fn any_size_is_planned(gpus in 0..20_usize, payloads in 0..20_usize, most in 0..5_u8) {
        let list: Vec<Payload> = (0..payloads).map(|index| Payload { most, ..miner("p", 1_000_000 + 1000 * u64::try_from(index).unwrap()) }).collect();
        let yields = alike(payloads, gpus);
        let found = plan(&with(&list, &vec![None; gpus], &yields));
        prop_assert_eq!(found.gpus.iter().flatten().count(), gpus.min(payloads * usize::from(most)));
    }
}
