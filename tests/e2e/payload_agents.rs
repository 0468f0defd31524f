//! The real agent, killed again and again under load: its payloads write logs and are measured all the while, and notice nothing.
//!
//! 20 kills, or as many as `RIGD_TEST_KILLS` says: 100 take about a minute.

use std::fs;
use std::thread;
use std::time::Duration;

use rigd::wire::PayloadPhase;
use rustix::process::Signal;

use crate::agent::until;
use crate::house::{House, Seen, api, cgroup, kill, procs};

const KILLS: usize = 20;

/// Writes down that it was started, then 50 numbered lines a second.
const BODY: &str = "echo $$ >> starts; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";

/// How long each agent has before it is killed: before it reads its configuration, while it adopts, long after. The same each time.
fn times() -> impl Iterator<Item = Duration> {
    let mut random = 0x9e37_79b9_u64;
    std::iter::repeat_with(move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        Duration::from_micros(random % 400_000)
    })
}

/// Each line is the one after the one before, or the first of a run.
fn assert_whole(name: &str, log: &str, runs: usize) -> usize {
    let numbers: Vec<usize> = log
        .lines()
        .map(|line| {
            line.strip_prefix("line ")
                .and_then(|number| number.parse().ok())
                .unwrap_or_else(|| panic!("{name}: {line:?}"))
        })
        .collect();
    let torn = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1 && pair[1] != 1);
    assert_eq!(torn, None, "{name}: its log has a hole");
    assert_eq!(numbers.iter().filter(|number| **number == 1).count(), runs, "{name}: runs in its log");
    numbers.len()
}

#[test]
fn payloads_under_load_outlive_every_agent_and_are_never_doubled() {
    let kills = std::env::var("RIGD_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let manifest = || {
        format!(
            "kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", \"{BODY}\"]\n\
             [restart]\nbudget = 3\nmin_s = 1\n[meter]\nname = \"generic-json\"\nport = {}\ninterval_s = 1\n",
            api()
        )
    };
    let mut house = House::new("load", &[manifest(), manifest(), manifest()]);
    let all = [0, 1, 2];
    let measured = |house: &House, place: usize| {
        house.until(place, "it is measured", |payload| payload.now.accepted.0.is_ok() && payload.now.rate.0.is_ok())
    };
    // The last one has spent two of its three starts before the first agent dies.
    let first = house.runs(2);
    until("it has spoken", || house.log(2).contains("line 1\n").then_some(()));
    kill(first);
    house.until(2, "started again", |payload| payload.now.restarts == 1 && payload.now.phase == PayloadPhase::Running);
    let before = all.map(|place| Seen::of(house.runs(place)).unwrap());
    let counted = all.map(|place| measured(&house, place).now.accepted.0.unwrap());
    let written = all.map(|place| house.log(place));
    let starts = |house: &House, place: usize| fs::read_to_string(house.home(place).join("state/starts")).unwrap();
    let started = all.map(|place| starts(&house, place));
    for (round, time) in times().take(kills).enumerate() {
        house.agent.signal(Signal::KILL);
        let _ = house.agent.ended();
        house.agent.run();
        if round % 4 == 0 {
            for place in all {
                house.runs(place);
            }
        } else {
            thread::sleep(time);
        }
        for place in all {
            let now = Seen::of(before[place].pid).filter(|now| now.start == before[place].start && now.state != 'Z');
            assert!(now.is_some(), "{}: gone after agent {round}, {time:?}", house.names[place]);
            assert_eq!(starts(&house, place), started[place], "after agent {round}, {time:?}");
        }
    }
    for place in all {
        let now = measured(&house, place);
        assert_eq!((now.pid, now.now.adopted), (Some(before[place].pid), true));
        assert_eq!(now.now.restarts, u32::from(place == 2), "starts that nobody ordered are still known");
        assert!(now.now.accepted.0.unwrap() > counted[place], "its counter goes on where it was");
        let log = house.log(place);
        assert!(log.starts_with(&written[place]), "{}: its log does not begin as it did", house.names[place]);
        let lines = assert_whole(&house.names[place], &log, if place == 2 { 2 } else { 1 });
        assert!(lines > written[place].lines().count());
        // Nothing in its cgroup but its first process and what that has started: none doubled, none orphaned.
        let Some(group) = cgroup(before[place].pid).filter(|group| group.ends_with(&house.names[place])) else {
            continue;
        };
        until("its shell and the sleep of that, if any", || {
            let strangers = procs(&group).into_iter().filter(|pid| *pid != before[place].pid);
            strangers.filter_map(Seen::of).all(|stranger| stranger.parent == before[place].pid).then_some(())
        });
        let keepers = procs(&group.with_file_name(format!("{}.log", house.names[place])));
        assert_eq!(keepers.len(), 2, "two keep its log: {keepers:?}");
    }
    let agent = i32::try_from(house.agent.pid()).unwrap();
    until("nobody has died whom the agent does not know of", || {
        Seen::all().iter().all(|seen| seen.parent != agent || seen.state != 'Z').then_some(())
    });
    // The third start is its last: what it spent under other agents is spent.
    kill(before[2].pid);
    let third = house.until(2, "its third start", |payload| payload.now.restarts == 2 && payload.pid.is_some());
    until("its third start is written down", || (starts(&house, 2).lines().count() == 3).then_some(()));
    kill(third.pid.unwrap());
    house.until(2, "no fourth start", |payload| payload.now.phase == PayloadPhase::OutOfBudget);
    assert_eq!(starts(&house, 2).lines().count(), 3);
}
