use proptest::prelude::*;

use super::life::wait;
use super::*;

mod hold;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn restart(policy: Policy) -> Restart {
    Restart { policy, min: s(1), max: s(60), budget: 5, window: s(3_600), stable: s(60) }
}

fn plain() -> Rules {
    Rules { restart: restart(Policy::Always), grace: s(10), probe: None, expect: None, pausable: true }
}

fn probed() -> Rules {
    Rules { probe: Some((s(30), 3)), ..plain() }
}

fn expected() -> Rules {
    let expect = Expectation { rate: Some(1_000), min_pct: 70, warmup: s(20), low: s(60) };
    Rules { expect: Some(expect), ..plain() }
}

/// Runs a story: each line an event, its time, and the phase and action after it.
fn story(rules: &Rules, lines: &[(u64, Event, Phase, Option<Action>)]) -> State {
    let mut state = State::default();
    for (second, event, phase, action) in lines {
        let (after, done) = next(rules, state, *event, s(*second), u32::MAX);
        assert_eq!((after.phase, done), (*phase, *action), "after {event:?} at {second}");
        state = after;
    }
    state
}

const fn draining(then: Then, kill_at: u64) -> Phase {
    Phase::Draining { then, kill_at: s(kill_at) }
}

const fn backing_off(until: u64) -> Phase {
    Phase::BackingOff { until: s(until) }
}

#[test]
fn started_and_stopped() {
    use Action::{Signal, Spawn};
    story(
        &plain(),
        &[
            (1, Event::Stop, Phase::Stopped, None),
            (1, Event::Start, Phase::Starting, Some(Spawn)),
            (2, Event::Spawned, Phase::Running, None),
            (3, Event::Start, Phase::Running, None),
            (4, Event::Stop, draining(Then::Stop, 14), Some(Signal)),
            (5, Event::Exited(Exit::Signal(15)), Phase::Stopped, None),
            (6, Event::Exited(Exit::Code(0)), Phase::Stopped, None),
        ],
    );
}

#[test]
fn one_that_does_not_end_is_killed_and_killed_again() {
    use Action::{Kill, Signal, Spawn};
    story(
        &plain(),
        &[
            (1, Event::Start, Phase::Starting, Some(Spawn)),
            (1, Event::Spawned, Phase::Running, None),
            (2, Event::Stop, draining(Then::Stop, 12), Some(Signal)),
            (11, Event::Tick, draining(Then::Stop, 12), None),
            (12, Event::Tick, draining(Then::Stop, 17), Some(Kill)),
            (17, Event::Tick, draining(Then::Stop, 22), Some(Kill)),
            (18, Event::Exited(Exit::Signal(9)), Phase::Stopped, None),
        ],
    );
}

#[test]
fn an_order_while_it_ends_decides_what_comes_after() {
    use Action::{Signal, Spawn};
    story(
        &plain(),
        &[
            (1, Event::Start, Phase::Starting, Some(Spawn)),
            (1, Event::Spawned, Phase::Running, None),
            (2, Event::Drain(s(300)), draining(Then::Stop, 302), Some(Signal)),
            (3, Event::Start, draining(Then::Start, 302), None),
            (4, Event::Stop, draining(Then::Stop, 14), None),
            (5, Event::Drain(s(300)), draining(Then::Stop, 14), None),
            (6, Event::Restart, draining(Then::Start, 14), None),
            (7, Event::Exited(Exit::Code(0)), Phase::Starting, Some(Spawn)),
            (7, Event::Stop, draining(Then::Stop, 17), Some(Signal)),
            (8, Event::Spawned, draining(Then::Stop, 17), Some(Signal)),
            (9, Event::Exited(Exit::Code(0)), Phase::Stopped, None),
        ],
    );
}

#[test]
fn the_first_failure_is_answered_at_once_and_the_next_later_until_the_budget_is_spent() {
    use Action::Spawn;
    let exit = Event::Exited(Exit::Signal(9));
    let mut state = story(
        &plain(),
        &[
            (0, Event::Start, Phase::Starting, Some(Spawn)),
            (0, Event::Spawned, Phase::Running, None),
            (1, exit, Phase::Starting, Some(Spawn)),
            (1, Event::Spawned, Phase::Running, None),
            (2, exit, backing_off(3), None),
            (3, Event::Tick, Phase::Starting, Some(Spawn)),
            (3, Event::Spawned, Phase::Running, None),
            (3, exit, backing_off(5), None),
            (4, Event::Tick, backing_off(5), None),
            (5, Event::Tick, Phase::Starting, Some(Spawn)),
            (5, Event::Spawned, Phase::Running, None),
            (5, exit, backing_off(9), None),
            (9, Event::Tick, Phase::Starting, Some(Spawn)),
            (9, Event::Spawned, Phase::Running, None),
            (10, exit, Phase::Failed(Failure::Budget), None),
        ],
    );
    assert_eq!((state.restarts, state.cause), (4, Some(Cause::Exit(Exit::Signal(9)))));
    // An order waits for the window, and a person who knows better clears it.
    (state, _) = next(&plain(), state, Event::Start, s(20), 0);
    assert_eq!(state.phase, backing_off(3_600));
    (state, _) = next(&plain(), state, Event::Clear, s(20), 0);
    let (state, action) = next(&plain(), state, Event::Start, s(21), 0);
    assert_eq!((state.phase, action), (Phase::Starting, Some(Spawn)));
}

#[test]
fn a_stable_run_makes_the_next_failure_the_first() {
    use Action::Spawn;
    let exit = Event::Exited(Exit::Code(1));
    story(
        &plain(),
        &[
            (0, Event::Start, Phase::Starting, Some(Spawn)),
            (0, Event::Spawned, Phase::Running, None),
            (1, exit, Phase::Starting, Some(Spawn)),
            (1, Event::Spawned, Phase::Running, None),
            (62, exit, Phase::Starting, Some(Spawn)),
        ],
    );
}

#[test]
fn failures_are_forgotten_once_a_run_is_a_good_one() {
    use Action::Spawn;
    let exit = Event::Exited(Exit::Code(1));
    let lines = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Running, None),
        (1, exit, Phase::Starting, Some(Spawn)),
        (1, Event::Spawned, Phase::Running, None),
        (2, exit, backing_off(3), None),
        (3, Event::Tick, Phase::Starting, Some(Spawn)),
        (3, Event::Spawned, Phase::Running, None),
        (62, Event::Tick, Phase::Running, None),
    ];
    let state = story(&plain(), &lines);
    assert_eq!((state.failures, wake(&plain(), &state)), (2, Some(s(63))));
    let (state, action) = next(&plain(), state, Event::Tick, s(63), 0);
    assert_eq!((state.failures, state.phase, action), (0, Phase::Running, None));
    assert_eq!(wake(&plain(), &state), None);
}

#[test]
fn no_rate_is_low_while_nobody_knows_what_it_should_be() {
    let mut rules = expected();
    rules.expect.as_mut().unwrap().rate = None;
    story(
        &rules,
        &[
            (0, Event::Start, Phase::Starting, Some(Action::Spawn)),
            (0, Event::Spawned, Phase::Warming, None),
            (20, Event::Tick, Phase::Running, None),
            (21, Event::Rate(0), Phase::Running, None),
            (900, Event::Rate(0), Phase::Running, None),
        ],
    );
}

#[test]
fn the_policy_decides_by_how_it_ended() {
    let again = Phase::Starting;
    for (policy, exit, phase) in [
        (Policy::Always, Exit::Code(0), again),
        (Policy::Always, Exit::Code(1), again),
        (Policy::OnFailure, Exit::Code(0), Phase::Stopped),
        (Policy::OnFailure, Exit::Code(1), again),
        (Policy::OnFailure, Exit::Signal(15), again),
        (Policy::OnFailure, Exit::OutOfMemory, again),
        (Policy::OnFailure, Exit::Unknown, again),
        (Policy::Never, Exit::Code(0), Phase::Stopped),
        (Policy::Never, Exit::Code(1), Phase::Failed(Failure::Ended)),
        (Policy::Never, Exit::OutOfMemory, Phase::Failed(Failure::Ended)),
    ] {
        let rules = Rules { restart: restart(policy), ..plain() };
        let action = (phase == again).then_some(Action::Spawn);
        let state = story(
            &rules,
            &[
                (0, Event::Start, Phase::Starting, Some(Action::Spawn)),
                (0, Event::Spawned, Phase::Running, None),
                (1, Event::Exited(exit), phase, action),
            ],
        );
        assert_eq!(state.cause, Some(Cause::Exit(exit)), "{policy:?} {exit:?}");
        assert_eq!(state.wanted, phase != Phase::Stopped);
    }
}

#[test]
fn what_cannot_be_started_is_tried_again_only_where_that_may_help() {
    for (lasting, phase, action) in
        [(true, Phase::Failed(Failure::Start), None), (false, Phase::Starting, Some(Action::Spawn))]
    {
        let state = story(
            &plain(),
            &[
                (0, Event::Start, Phase::Starting, Some(Action::Spawn)),
                (0, Event::NotSpawned { lasting }, phase, action),
            ],
        );
        assert_eq!(state.cause, Some(Cause::NotStarted));
    }
}

#[test]
fn probes_make_ready_degrade_and_restart() {
    use Action::{Signal, Spawn};
    let state = story(
        &probed(),
        &[
            (0, Event::Start, Phase::Starting, Some(Spawn)),
            (0, Event::Spawned, Phase::Starting, None),
            (5, Event::Probe(false), Phase::Starting, None),
            (6, Event::Probe(false), Phase::Starting, None),
            (7, Event::Probe(false), Phase::Starting, None),
            (8, Event::Probe(true), Phase::Running, None),
            (9, Event::Probe(false), Phase::Degraded, None),
            (10, Event::Probe(false), Phase::Degraded, None),
            (11, Event::Probe(true), Phase::Running, None),
            (12, Event::Probe(false), Phase::Degraded, None),
            (13, Event::Probe(false), Phase::Degraded, None),
            (14, Event::Probe(false), draining(Then::Again, 24), Some(Signal)),
            (15, Event::Probe(true), draining(Then::Again, 24), None),
            (16, Event::Exited(Exit::Code(0)), Phase::Starting, Some(Spawn)),
        ],
    );
    assert_eq!(state.cause, Some(Cause::Unhealthy));
}

#[test]
fn what_never_gets_ready_is_started_again() {
    use Action::{Signal, Spawn};
    let state = story(
        &probed(),
        &[
            (0, Event::Start, Phase::Starting, Some(Spawn)),
            (0, Event::Spawned, Phase::Starting, None),
            (29, Event::Tick, Phase::Starting, None),
            (30, Event::Tick, draining(Then::Again, 40), Some(Signal)),
            (31, Event::Exited(Exit::Signal(15)), Phase::Starting, Some(Spawn)),
        ],
    );
    assert_eq!(state.cause, Some(Cause::NeverReady));
}

#[test]
fn a_low_rate_is_restarted_once_and_then_held() {
    use Action::{Signal, Spawn};
    let mut state = story(
        &expected(),
        &[
            (0, Event::Start, Phase::Starting, Some(Spawn)),
            (0, Event::Spawned, Phase::Warming, None),
            (1, Event::Rate(0), Phase::Warming, None),
            (20, Event::Tick, Phase::Running, None),
            (21, Event::Rate(699), Phase::Degraded, None),
            (22, Event::Rate(700), Phase::Running, None),
            (30, Event::Rate(0), Phase::Degraded, None),
            (89, Event::Rate(0), Phase::Degraded, None),
            (90, Event::Rate(0), draining(Then::Again, 100), Some(Signal)),
            (91, Event::Exited(Exit::Signal(15)), Phase::Starting, Some(Spawn)),
            (91, Event::Spawned, Phase::Warming, None),
            (111, Event::Tick, Phase::Running, None),
            (112, Event::Rate(100), Phase::Degraded, None),
            (172, Event::Rate(100), draining(Then::Hold, 182), Some(Signal)),
            (173, Event::Start, draining(Then::Hold, 182), None),
            (174, Event::Exited(Exit::Signal(15)), Phase::Quarantined, None),
            (175, Event::Start, Phase::Quarantined, None),
            (176, Event::Stop, Phase::Stopped, None),
            (177, Event::Start, Phase::Quarantined, None),
        ],
    );
    assert_eq!(state.held, Some(Cause::LowRate));
    assert_eq!(state.clone().after_boot().held, Some(Cause::LowRate));
    (state, _) = next(&expected(), state, Event::Clear, s(178), 0);
    assert_eq!((state.phase, state.held), (Phase::Stopped, None));
}

#[test]
fn a_rate_that_is_told_no_more_is_none_after_one_answer_that_was_missed() {
    use Action::{Pause, Resume, Signal, Spawn};
    let begun = |second| {
        [
            (second, Event::Start, Phase::Starting, Some(Spawn)),
            (second, Event::Spawned, Phase::Warming, None),
            (second + 20, Event::Tick, Phase::Running, None),
        ]
    };
    let check = |lines: &[_]| story(&expected(), &[&begun(0), lines].concat());
    // One that has never told a rate is not measured, however long it is silent.
    check(&[(21, Event::Silent, Phase::Running, None), (9_000, Event::Silent, Phase::Running, None)]);
    // Nobody knows what it should be: nothing is too little.
    let mut unknown = expected();
    unknown.expect.as_mut().unwrap().rate = None;
    let rated = [
        (21, Event::Rate(900), Phase::Running, None),
        (22, Event::Silent, Phase::Running, None),
        (999, Event::Silent, Phase::Running, None),
    ];
    story(&unknown, &[begun(0).as_slice(), &rated].concat());
    // Once is no fault; and what answers again begins anew.
    let missed = [
        (21, Event::Rate(900), Phase::Running, None),
        (31, Event::Silent, Phase::Running, None),
        (41, Event::Rate(900), Phase::Running, None),
        (51, Event::Silent, Phase::Running, None),
        (61, Event::Silent, Phase::Degraded, None),
        (71, Event::Rate(900), Phase::Running, None),
        (9_000, Event::Silent, Phase::Running, None),
    ];
    check(&missed);
    // From the first answer that was missed on it is as a rate of nothing. What it told while it warmed up was a rate, too.
    let hung = [
        (1, Event::Rate(900), Phase::Warming, None),
        (2, Event::Silent, Phase::Warming, None),
        (20, Event::Tick, Phase::Running, None),
        (30, Event::Silent, Phase::Running, None),
        (40, Event::Silent, Phase::Degraded, None),
        (89, Event::Silent, Phase::Degraded, None),
        (90, Event::Silent, draining(Then::Again, 100), Some(Signal)),
        (95, Event::Silent, draining(Then::Again, 100), None),
        (96, Event::Exited(Exit::Signal(15)), Phase::Starting, Some(Spawn)),
        (96, Event::Spawned, Phase::Warming, None),
        (116, Event::Tick, Phase::Running, None),
        // It is asked anew in each run.
        (9_000, Event::Silent, Phase::Running, None),
        (9_100, Event::Silent, Phase::Running, None),
    ];
    let state = story(&expected(), &[&begun(0)[..2], &hung].concat());
    assert_eq!((state.cause, state.restarts, state.held), (Some(Cause::LowRate), 1, None));
    // What rests is not asked, and warms up again when it goes on.
    let rested = [
        (21, Event::Rate(900), Phase::Running, None),
        (31, Event::Silent, Phase::Running, None),
        (32, Event::Hold(Hold::Pause), Phase::Paused, Some(Pause)),
        (33, Event::Silent, Phase::Paused, None),
        (9_000, Event::Silent, Phase::Paused, None),
        (9_001, Event::Hold(Hold::Free), Phase::Warming, Some(Resume)),
        (9_010, Event::Silent, Phase::Warming, None),
        (9_021, Event::Tick, Phase::Running, None),
        (9_022, Event::Silent, Phase::Running, None),
        (9_081, Event::Silent, Phase::Degraded, None),
        (9_082, Event::Silent, draining(Then::Again, 9_092), Some(Signal)),
    ];
    check(&rested);
}

#[test]
fn a_kill_for_memory_is_no_end_for_another_reason() {
    let memory = Exit::OutOfMemory;
    for (exit, expected) in [
        (Exit::Signal(9), memory),
        (Exit::Unknown, memory),
        (memory, memory),
        // A shell, or what runs containers, of a child that was killed; and one that could not do without it.
        (Exit::Code(137), memory),
        (Exit::Code(1), memory),
        (Exit::Code(128), memory),
        (Exit::Code(255), memory),
        // It went on without that child.
        (Exit::Code(0), Exit::Code(0)),
        (Exit::Code(143), Exit::Code(143)),
        (Exit::Code(139), Exit::Code(139)),
        (Exit::Signal(15), Exit::Signal(15)),
        (Exit::Signal(11), Exit::Signal(11)),
    ] {
        assert_eq!(exit.with_memory_kill(), expected, "{exit:?}");
    }
}

#[test]
fn a_wait_doubles_to_its_limit_and_keeps_to_its_upper_half() {
    let restart = restart(Policy::Always);
    for (failures, most) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (7, 32), (8, 60), (40, 60), (u32::MAX, 60)] {
        assert_eq!(wait(&restart, failures, u32::MAX), s(most), "failure {failures}");
        assert_eq!(wait(&restart, failures, 0), s(most) / 2, "failure {failures}");
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let exit =
        prop_oneof![(0..3).prop_map(Exit::Code), Just(Exit::Signal(9)), Just(Exit::OutOfMemory), Just(Exit::Unknown)];
    prop_oneof![
        Just(Event::Start),
        Just(Event::Stop),
        (0_u64..100).prop_map(|seconds| Event::Drain(s(seconds))),
        Just(Event::Restart),
        Just(Event::Spawned),
        any::<bool>().prop_map(|lasting| Event::NotSpawned { lasting }),
        exit.prop_map(Event::Exited),
        any::<bool>().prop_map(Event::Probe),
        (0_u64..2_000).prop_map(Event::Rate),
        Just(Event::Silent),
        prop::sample::select(vec![Hold::Free, Hold::Pause, Hold::Drain, Hold::Stop]).prop_map(Event::Hold),
        Just(Event::NotPaused),
        Just(Event::NotResumed),
        Just(Event::Tick),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let policy = prop_oneof![Just(Policy::Always), Just(Policy::OnFailure), Just(Policy::Never)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (policy, flags, 1_u32..8).prop_map(|(policy, (probe, expect, pausable), budget)| Rules {
        pausable,
        restart: Restart { budget, ..restart(policy) },
        probe: probe.then_some((s(30), 3)),
        expect: expected().expect.filter(|_| expect),
        ..plain()
    })
}

proptest! {
    #[test]
    fn starts_in_any_window_are_within_the_budget(
        rules in any_rules(),
        events in prop::collection::vec((any_event(), 0_u64..400, any::<u32>()), 0..300),
    ) {
        let (mut state, mut now, mut starts) = (State::default(), Duration::ZERO, Vec::new());
        for (event, seconds, random) in events {
            now += s(seconds);
            let before = state.starts.clone();
            let (after, action) = next(&rules, state, event, now, random);
            state = after;
            // The return from a hold is none: `hold.rs` counts these.
            if action == Some(Action::Spawn) && state.starts != before {
                starts.push(now);
            }
        }
        let budget = usize::try_from(rules.restart.budget).unwrap();
        for span in starts.windows(budget + 1) {
            prop_assert!(span[budget] - span[0] >= rules.restart.window, "{starts:?}");
        }
    }

    #[test]
    fn a_stop_always_ends_in_stopped(
        rules in any_rules(),
        events in prop::collection::vec((any_event(), 0_u64..400, any::<u32>()), 0..60),
        exit in prop_oneof![Just(Exit::Code(0)), Just(Exit::Signal(9)), Just(Exit::Unknown)],
    ) {
        let (mut state, mut now) = (State::default(), Duration::ZERO);
        for (event, seconds, random) in events {
            now += s(seconds);
            (state, _) = next(&rules, state, event, now, random);
        }
        (state, _) = next(&rules, state, Event::Stop, now, 0);
        if state.alive() {
            let (after, action) = next(&rules, state, Event::Tick, now + s(1_000), 0);
            prop_assert_eq!(action, Some(Action::Kill));
            (state, _) = next(&rules, after, Event::Exited(exit), now + s(1_001), 0);
        }
        prop_assert_eq!(state.phase, Phase::Stopped);
        let (state, action) = next(&rules, state, Event::Tick, now + s(100_000), 0);
        prop_assert_eq!((state.phase, action), (Phase::Stopped, None));
    }
}
