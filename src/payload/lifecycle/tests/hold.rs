//! Held back and free again.

use super::*;

const FREE: Event = Event::Hold(Hold::Free);
const PAUSE: Event = Event::Hold(Hold::Pause);
const DRAIN: Event = Event::Hold(Hold::Drain);
const STOP: Event = Event::Hold(Hold::Stop);

#[test]
fn a_pause_stops_every_clock_and_what_comes_after_it_is_as_new() {
    use Action::{Pause, Resume, Spawn};
    let rules = Rules { probe: Some((s(30), 3)), ..expected() };
    let lines = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Starting, None),
        (5, Event::Probe(true), Phase::Warming, None),
        (25, Event::Tick, Phase::Running, None),
        (30, Event::Rate(0), Phase::Degraded, None),
        (31, PAUSE, Phase::Paused, Some(Pause)),
        (32, PAUSE, Phase::Paused, None),
        (33, Event::Probe(false), Phase::Paused, None),
        (34, Event::Probe(false), Phase::Paused, None),
        (35, Event::Probe(false), Phase::Paused, None),
        (900, Event::Rate(0), Phase::Paused, None),
        (901, Event::Tick, Phase::Paused, None),
        (1_000, FREE, Phase::Starting, Some(Resume)),
        (1_001, Event::Probe(false), Phase::Starting, None),
        (1_029, Event::Tick, Phase::Starting, None),
        (1_029, Event::Probe(true), Phase::Warming, None),
        (1_048, Event::Rate(0), Phase::Warming, None),
        (1_049, Event::Tick, Phase::Running, None),
        (1_050, Event::Rate(0), Phase::Degraded, None),
        (1_051, Event::Rate(1_000), Phase::Running, None),
    ];
    for end in 6..12 {
        let state = story(&rules, lines.get(..end).unwrap());
        assert_eq!(wake(&rules, &state), None, "nothing is due after {end} lines");
    }
    let state = story(&rules, &lines);
    assert_eq!((state.restarts, state.failures, state.starts.len(), state.wanted), (0, 0, 1, true));
    // What has no probe works at once; what has one and never passes it is started again.
    let begun = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Running, None),
        (1, PAUSE, Phase::Paused, Some(Pause)),
        (2, FREE, Phase::Running, Some(Resume)),
    ];
    story(&plain(), &begun);
    let never = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Starting, None),
        (1, PAUSE, Phase::Paused, Some(Pause)),
        (100, FREE, Phase::Starting, Some(Resume)),
        (130, Event::Tick, draining(Then::Again, 140), Some(Action::Signal)),
    ];
    story(&probed(), &never);
}

#[test]
fn what_is_drained_or_killed_waits_and_its_return_costs_nothing() {
    use Action::{Kill, Signal, Spawn};
    let mut rules = plain();
    rules.restart.budget = 1;
    let lines = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Running, None),
        (1, DRAIN, draining(Then::Wait, 11), Some(Signal)),
        (2, Event::Exited(Exit::Code(0)), Phase::Waiting, None),
        (3, Event::Tick, Phase::Waiting, None),
        (4, PAUSE, Phase::Waiting, None),
        (5, FREE, Phase::Starting, Some(Spawn)),
        (5, Event::Spawned, Phase::Running, None),
        (6, STOP, draining(Then::Wait, 11), Some(Kill)),
        (7, STOP, draining(Then::Wait, 11), None),
        (8, FREE, draining(Then::Wait, 11), None),
        (9, Event::Exited(Exit::Signal(9)), Phase::Starting, Some(Spawn)),
        (9, Event::Spawned, Phase::Running, None),
        // One that ends by itself costs what it always costs.
        (10, Event::Exited(Exit::Code(0)), Phase::Failed(Failure::Budget), None),
    ];
    let state = story(&rules, lines.get(..13).unwrap());
    assert_eq!((state.restarts, state.failures, state.cause, state.wanted), (0, 0, None, true));
    story(&rules, &lines);
}

#[test]
fn a_hold_goes_from_mild_to_hard_and_never_back_to_work() {
    use Action::{Kill, Pause, Signal, Spawn};
    let lines = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        // What is on its way is held as soon as it is there.
        (0, PAUSE, Phase::Starting, None),
        (1, Event::Spawned, Phase::Paused, Some(Pause)),
        (2, DRAIN, draining(Then::Wait, 12), Some(Signal)),
        (3, PAUSE, draining(Then::Wait, 12), None),
        (4, STOP, draining(Then::Wait, 9), Some(Kill)),
        (9, Event::Tick, draining(Then::Wait, 14), Some(Kill)),
        (10, Event::Exited(Exit::Signal(9)), Phase::Waiting, None),
        (11, DRAIN, Phase::Waiting, None),
    ];
    story(&plain(), &lines);
    // An AI's requests cannot rest.
    let rules = Rules { pausable: false, ..plain() };
    let lines = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Running, None),
        (1, PAUSE, draining(Then::Wait, 11), Some(Signal)),
        (2, Event::Exited(Exit::Code(0)), Phase::Waiting, None),
    ];
    assert_eq!(story(&rules, &lines).hold, Hold::Pause);
    // And what cannot be paused must not be there.
    let lines = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Running, None),
        (1, PAUSE, Phase::Paused, Some(Pause)),
        (3, Event::NotPaused, draining(Then::Wait, 13), Some(Signal)),
        (4, Event::Exited(Exit::Code(0)), Phase::Waiting, None),
        (5, FREE, Phase::Starting, Some(Spawn)),
        (5, Event::Spawned, Phase::Running, None),
        (6, PAUSE, Phase::Paused, Some(Pause)),
        (7, FREE, Phase::Running, Some(Action::Resume)),
        (8, Event::NotResumed, draining(Then::Again, 18), Some(Signal)),
    ];
    story(&plain(), &lines);
}

#[test]
fn orders_of_people_hold_beside_it() {
    use Action::{Kill, Pause, Signal, Spawn};
    let up = [(0, Event::Start, Phase::Starting, Some(Spawn)), (0, Event::Spawned, Phase::Running, None)];
    let after = |more: &[(u64, Event, Phase, Option<Action>)]| story(&plain(), &[&up, more].concat());
    let state = after(&[
        (1, PAUSE, Phase::Paused, Some(Pause)),
        (2, Event::Start, Phase::Paused, None),
        (2, Event::Clear, Phase::Paused, None),
        (3, Event::Stop, draining(Then::Stop, 13), Some(Signal)),
        (4, Event::Exited(Exit::Signal(15)), Phase::Stopped, None),
        (5, FREE, Phase::Stopped, None),
    ]);
    assert!(!state.wanted);
    // A start is remembered, and is counted when it comes.
    let state = after(&[
        (1, Event::Stop, draining(Then::Stop, 11), Some(Signal)),
        (2, STOP, draining(Then::Stop, 7), Some(Kill)),
        (2, Event::Exited(Exit::Signal(9)), Phase::Stopped, None),
        (3, Event::Start, Phase::Waiting, None),
        (4, Event::Clear, Phase::Waiting, None),
        (4, Event::Restart, Phase::Waiting, None),
        (5, FREE, Phase::Starting, Some(Spawn)),
    ]);
    assert_eq!((state.wanted, state.starts.len()), (true, 1));
    // Stopped while it waits: it does not come back.
    after(&[
        (1, DRAIN, draining(Then::Wait, 11), Some(Signal)),
        (2, Event::Exited(Exit::Code(0)), Phase::Waiting, None),
        (3, Event::Stop, Phase::Stopped, None),
        (4, FREE, Phase::Stopped, None),
    ]);
    // Started again while it is paused: ended now, and started when it is free.
    after(&[
        (1, PAUSE, Phase::Paused, Some(Pause)),
        (2, Event::Restart, draining(Then::Start, 12), Some(Signal)),
        (3, Event::Exited(Exit::Signal(15)), Phase::Waiting, None),
        (4, FREE, Phase::Starting, Some(Spawn)),
    ]);
    // An operator gave it five minutes; the rig has only its own grace.
    after(&[
        (1, Event::Drain(s(300)), draining(Then::Stop, 301), Some(Signal)),
        (2, DRAIN, draining(Then::Stop, 12), None),
    ]);
}

#[test]
fn an_end_while_paused_is_an_end_and_the_pause_is_no_part_of_its_run() {
    use Action::{Pause, Spawn};
    let lines = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Running, None),
        (1, PAUSE, Phase::Paused, Some(Pause)),
        (500, Event::Exited(Exit::Signal(9)), Phase::Waiting, None),
        (501, FREE, Phase::Starting, Some(Spawn)),
        (501, Event::Spawned, Phase::Running, None),
        // The second short run in a row.
        (502, Event::Exited(Exit::Signal(9)), backing_off(503), None),
        (502, PAUSE, backing_off(503), None),
        (503, Event::Tick, Phase::Waiting, None),
        (600, FREE, Phase::Starting, Some(Spawn)),
    ];
    let state = story(&plain(), &lines);
    assert_eq!((state.cause, state.starts.len()), (Some(Cause::Exit(Exit::Signal(9))), 3));
    for (policy, exit, phase) in [
        (Policy::Never, Exit::Code(1), Phase::Failed(Failure::Ended)),
        (Policy::OnFailure, Exit::Code(0), Phase::Stopped),
    ] {
        let rules = Rules { restart: restart(policy), ..plain() };
        let ends = [(4, Event::Exited(exit), phase, None), (5, FREE, phase, None)];
        story(&rules, &[&lines[..3], &ends].concat());
    }
}

#[test]
fn a_hold_that_nobody_says_again_to_the_next_agent_ends() {
    use Action::{Pause, Resume, Spawn};
    let paused = [
        (0, Event::Start, Phase::Starting, Some(Spawn)),
        (0, Event::Spawned, Phase::Running, None),
        (1, PAUSE, Phase::Paused, Some(Pause)),
    ];
    let state = story(&plain(), &paused).taken_up(s(100));
    let (state, action) = next(&plain(), state, Event::Spawned, s(100), 0);
    // Paused once more: the agent before may have died between its word and its deed.
    assert_eq!((state.phase, action, wake(&plain(), &state)), (Phase::Paused, Some(Pause), Some(s(110))));
    let (late, action) = next(&plain(), state.clone(), Event::Tick, s(110), 0);
    assert_eq!((late.phase, action, late.hold), (Phase::Running, Some(Resume), Hold::Free));
    let (said, _) = next(&plain(), state, PAUSE, s(103), 0);
    let (said, action) = next(&plain(), said, Event::Tick, s(110), 0);
    assert_eq!((said.phase, action, wake(&plain(), &said)), (Phase::Paused, None, None));
    // So it is with one that waits; and after a boot of the rig there is no hold.
    let waiting = State { phase: Phase::Waiting, hold: Hold::Stop, wanted: true, ..State::default() };
    let (state, action) = next(&plain(), waiting.clone().taken_up(s(100)), Event::Tick, s(110), 0);
    assert_eq!((state.phase, action), (Phase::Starting, Some(Spawn)));
    let booted = waiting.after_boot().taken_up(s(5));
    assert_eq!((booted.phase, booted.hold, wake(&plain(), &booted)), (Phase::Stopped, Hold::Free, None));
}

proptest! {
    /// Events come as a rig has them: nothing ends that does not run, and a start is answered.
    #[test]
    fn what_is_held_does_not_work_and_nothing_is_ever_there_twice(
        rules in any_rules(),
        events in prop::collection::vec((any_event(), 0_u64..40, any::<u32>()), 0..300),
    ) {
        let (mut state, mut now) = (State::default(), Duration::ZERO);
        let (mut there, mut starting, mut paused) = (false, false, false);
        let (mut holds, mut returns) = (0_u32, 0_u32);
        for (event, seconds, random) in events {
            now += s(seconds);
            // Whoever starts it answers before anything else.
            let answer = if random % 4 == 0 { Event::NotSpawned { lasting: random % 8 == 0 } } else { Event::Spawned };
            let event = if starting { answer } else { event };
            let answers = matches!(event, Event::Spawned | Event::NotSpawned { .. });
            let ends = matches!(event, Event::Exited(_));
            if answers && !starting || ends && !there {
                continue;
            }
            starting &= !answers;
            there = event == Event::Spawned || there && !ends;
            paused &= !ends;
            if let Event::Hold(hold) = event {
                holds += u32::from(hold != state.hold);
            }
            let before = state.starts.clone();
            let (after, action) = next(&rules, state, event, now, random);
            state = after;
            match action {
                Some(Action::Spawn) => {
                    prop_assert!(!there && !starting && state.hold == Hold::Free, "{event:?} {state:?}");
                    (starting, paused) = (true, false);
                    returns += u32::from(state.starts == before);
                }
                Some(Action::Pause) => {
                    prop_assert!(there && rules.pausable);
                    paused = true;
                }
                Some(Action::Resume) => {
                    prop_assert!(there && paused);
                    paused = false;
                }
                // The shell lets it go on with these.
                Some(Action::Signal | Action::Kill) => paused = false,
                None => {}
            }
            prop_assert_eq!(paused, state.phase == Phase::Paused, "{:?} {:?}", event, state);
            prop_assert_eq!(there || starting, state.alive(), "{:?} {:?}", event, state);
            if state.hold != Hold::Free {
                let works = matches!(state.phase, Phase::Warming | Phase::Running | Phase::Degraded);
                prop_assert!(!works && !starting, "{event:?} {state:?}");
            } else {
                prop_assert!(!matches!(state.phase, Phase::Paused | Phase::Waiting), "{event:?} {state:?}");
            }
        }
        prop_assert!(returns <= holds, "{returns} returns from {holds} holds");
    }
}
