//! Commands by the thousand: strangers', old ones, the same again, and a burst of good ones.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::process::Command;

use rigd::clock;
use rigd::command::journal::Journal;
use rigd::wire::{AckState, Audience, CommandId, Message, Order, Refusal};

use super::{RIG, frame, text, world, world_at};
use crate::agent::until;
use crate::broker::Broker;

#[test]
fn a_thousand_duplicates_are_carried_out_once_and_a_good_command_gets_through_after_them() {
    let world = world();
    let key = world.secret("ops");
    let topic = "r1/rig-1/dn/cmd";
    let command = world.command(1, 1_000);
    let sent = frame(&key, topic, &command);
    for _ in 0..1_000 {
        world.publish(topic, false, sent.clone());
    }
    // Which of both depends on how long each that is looked at takes the disk.
    world.subscriber.first("more come than it takes", |heard| {
        let unread = matches!(&heard.message, Message::Telemetry(telemetry) if telemetry.unread > 0);
        let refused = matches!(&heard.message, Message::Ack(ack) if ack.state == AckState::Refused(Refusal::TooMany));
        (unread || refused).then_some(())
    });
    let started = clock::now();
    let next = rigd::wire::Command { id: CommandId([2; 16]), counter: 1_001, ..command.clone() };
    // What comes in the flood may be dropped with it; sent again it is the same command.
    until("a good command after the flood", || {
        world.publish(topic, false, frame(&key, topic, &next));
        std::thread::park_timeout(std::time::Duration::from_millis(200));
        world.answers(next.id).iter().any(|state| matches!(state, AckState::Done(_))).then_some(())
    });
    assert!(clock::now().duration_since(started).as_secs() < 30);
    assert_eq!((world.carried_out(command.id), world.carried_out(next.id)), (1, 1));
}

/// Whoever has the broker sends 10 000 commands that nobody gave and one that was given a thousand times more, as fast as it goes.
/// The agent looks at as many as its limit lets through; `src/command/verify` has a test that looks at 10 000.
#[test]
fn of_ten_thousand_hostile_commands_and_a_thousand_duplicates_none_is_carried_out() {
    let mut broker = Broker::with("allow_anonymous true\nmax_queued_messages 0\n");
    broker.run();
    let mut world = world_at(broker);
    let (key, stranger) = (world.secret("ops"), world.secret("stranger"));
    let topic = "r1/rig-1/dn/cmd";
    let name = |number: u64| {
        let mut id = [0xee; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        CommandId(id)
    };
    let number = |number: u64, seconds: u16| rigd::wire::Command {
        id: name(number),
        order: Order::Identify { seconds },
        ..world.command(0, 1_000 + number)
    };
    let given = number(0, 0);
    let sent = frame(&key, topic, &given);
    world.publish(topic, false, sent.clone());
    world.answered("the good one is done", given.id, |answers| answers.len() == 2);
    let mut published = 1;
    let other = Audience::Rig("rig-2".parse().unwrap());
    for turn in 1..=10_000_u64 {
        let hostile = number(turn, 60);
        let payload = match turn % 7 {
            0 => {
                let mut forged = frame(&key, topic, &hostile);
                let place = usize::try_from(turn).unwrap() % forged.len();
                forged[place] ^= 1;
                forged
            }
            1 => frame(&stranger, topic, &hostile),
            2 => frame(&key, topic, &rigd::wire::Command { audience: other.clone(), ..hostile }),
            3 => frame(&key, "r1/rig-2/dn/cmd", &hostile),
            4 => {
                let before = hostile.not_before_ms - 700_000;
                frame(&key, topic, &rigd::wire::Command { not_before_ms: before, not_after_ms: before + 1, ..hostile })
            }
            // Its counter was used by the good one.
            5 => frame(&key, topic, &rigd::wire::Command { counter: given.counter, ..hostile }),
            _ => frame(&key, topic, &rigd::wire::Command { nonce: Some(world.nonce ^ 1), ..hostile }),
        };
        world.publish(topic, false, payload);
        published += 1;
        if turn % 10 == 0 {
            world.publish(topic, false, sent.clone());
            published += 1;
        }
    }
    let answered = || {
        world.subscriber.all(|heard| {
            let Message::Ack(ack) = &heard.message else { return None };
            Some(ack.state.clone())
        })
    };
    let dropped = || -> usize {
        let counts = world.agent.log();
        let counts = counts
            .lines()
            .filter_map(|line| line.split_once("commands: ")?.1.split_once(' '))
            .filter(|(_, what)| ["came too fast and were dropped unread", "more than are taken at once"].contains(what))
            .map(|(count, _)| count);
        counts.map(|count| count.parse::<usize>().unwrap()).sum()
    };
    // One more good one gets through when all that came before is over with.
    let last = number(20_000, 0);
    let tries = Cell::new(0);
    until("a good command after the flood", || {
        world.publish(topic, false, frame(&key, topic, &last));
        tries.set(tries.get() + 1);
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        world.answers(last.id).iter().any(|state| matches!(state, AckState::Done(_))).then_some(())
    });
    let refused = answered().iter().filter(|state| matches!(state, AckState::Refused(_))).count();
    // Each was looked at, which is one answer, and one more where it was carried out; or it was dropped unread, and telemetry counts
    // that. None vanishes, and none holds a place in the broker's window.
    published += tries.get();
    let looked = || answered().len() - 2;
    let unread = || {
        let counts = world.subscriber.all(|heard| {
            let Message::Telemetry(telemetry) = &heard.message else { return None };
            Some(telemetry.unread)
        });
        usize::try_from(counts.into_iter().max().unwrap()).unwrap()
    };
    until("each is accounted for", || (looked() + unread() >= published).then_some(()));
    let unread = unread();
    assert_eq!(looked() + unread, published);
    println!("{published} sent, {} answers, {refused} refused, {unread} dropped unread", answered().len());
    // What found no room is in telemetry alone.
    until("the log tells of those that came too fast", || (dropped() > 0).then_some(()));
    assert!(dropped() <= published && refused >= 20 && unread > 1_000);
    assert!(
        answered().iter().all(|state| matches!(state, AckState::Refused(_) | AckState::Accepted | AckState::Done(_)))
    );
    let log = world.agent.log();
    let carried: BTreeSet<&str> = log.lines().filter(|line| line.contains(": Identify")).collect();
    assert_eq!((world.carried_out(given.id), world.carried_out(last.id), carried.len()), (1, 1, 2), "{carried:?}");
    assert!(world.agent.sim.fans().iter().any(|(_, duty, _)| duty.hundredths() < 10_000), "nobody asked for full air");
    world.agent.signal(rustix::process::Signal::KILL);
    world.agent.ended();
    let (journal, interrupted) =
        Journal::open(&world.agent.scratch.path, clock::kernel_boot(), Some(clock::unix_ms())).unwrap();
    assert!(journal.entry(&given.id).is_some() && interrupted.is_empty());
    assert!((1..=10_000).all(|turn| journal.entry(&name(turn)).is_none()));
}

/// They are answered where that is cheap; neither the outbox nor the audit log has a place for each.
#[test]
fn strangers_cost_no_place_in_a_lane_and_one_line_in_the_log() {
    let mut world = world();
    let (stranger, key) = (world.secret("stranger"), world.secret("ops"));
    let topic = "r1/rig-1/dn/cmd";
    for number in 1..=15 {
        world.publish(topic, false, frame(&stranger, topic, &world.command(number, number.into())));
    }
    let acks = || {
        world.subscriber.all(|heard| {
            let Message::Ack(ack) = &heard.message else { return None };
            Some((heard.header.seq, ack.state.clone()))
        })
    };
    let refused = AckState::Refused(Refusal::UnknownKey);
    until("each is answered", || (acks().len() == 15).then_some(()));
    assert!(acks().iter().all(|(seq, state)| *seq == 0 && *state == refused), "{:?}", acks());
    let good = world.command(100, 100);
    world.publish(topic, false, frame(&key, topic, &good));
    world.answered("the good one", good.id, |answers| answers.len() == 2);
    let numbers: Vec<u64> = acks().iter().map(|(seq, _)| *seq).filter(|seq| *seq != 0).collect();
    assert_eq!(numbers, [1, 2], "the lane has what was said to somebody known");
    world.agent.logged("no key of ours signed; the last: signed by a key that this rig does not know");
    // What the next birth tells of the log is in it, and the strangers are two entries at most.
    world.agent.signal(rustix::process::Signal::KILL);
    world.agent.ended();
    world.agent.run();
    let head = world.subscriber.first("a birth with the head of the log", |heard| {
        let Message::Birth(birth) = &heard.message else { return None };
        birth.audit_head.filter(|_| birth.nonce != world.nonce && birth.nonce != 0)
    });
    let directory = world.agent.scratch.path.join("audit");
    let verify = |head: String| {
        let mut verify = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        verify.args(["audit", "verify"]).arg(&directory).args(["--json", "--head", &head]).output().unwrap()
    };
    let output = verify(format!("{}:{}", head.n, head.hash));
    assert!(output.status.success() && text(&output).contains("\"told\":\"same\""), "{}", text(&output));
    let output = verify(format!("{}:{}", head.n + 1_000, head.hash));
    assert!(!output.status.success() && text(&output).contains("\"told\":\"missing\""), "{}", text(&output));
    let mut strangers = 0;
    let count = |record: &rigd::audit::Record| strangers += usize::from(record.entry.what.contains("no key of ours"));
    rigd::audit::verify(&directory, count).unwrap();
    assert!((1..=2).contains(&strangers), "{strangers}");
}

#[test]
fn a_burst_is_answered_to_the_last_and_what_was_too_many_can_be_sent_again() {
    let world = world();
    let key = world.secret("ops");
    let topic = "r1/rig-1/dn/cmd";
    let commands: Vec<_> = (1..=60_u8)
        .map(|number| rigd::wire::Command {
            order: Order::Identify { seconds: 0 },
            ..world.command(number, 1_000 + u64::from(number))
        })
        .collect();
    let last = |id| world.answers(id).iter().rev().find(|state| state.last()).cloned();
    // So many at a time, because the client of this test loses messages where the broker has no room for them.
    for some in commands.chunks(15) {
        some.iter().for_each(|command| world.publish(topic, false, frame(&key, topic, command)));
        until("each has an end", || some.iter().all(|command| last(command.id).is_some()).then_some(()));
    }
    let too_many: Vec<_> =
        commands.iter().filter(|one| last(one.id) == Some(AckState::Refused(Refusal::TooMany))).collect();
    assert!(too_many.len() <= 40, "{} were too many", too_many.len());
    let numbers = Cell::new(0_u64);
    let another = || {
        let number = numbers.get() + 1;
        numbers.set(number);
        let mut id = [0xcc; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let next = rigd::wire::Command { id: CommandId(id), counter: 5_000 + number, ..commands[0].clone() };
        world.publish(topic, false, frame(&key, topic, &next));
        std::thread::park_timeout(std::time::Duration::from_millis(15));
        next
    };
    // Where each took the disk so long that none of them was too many, more are sent than the rig takes.
    let more = RefCell::new(Vec::new());
    let again = too_many.first().copied().cloned().unwrap_or_else(|| {
        until("one is too many", || {
            let mut more = more.borrow_mut();
            more.push(another());
            more.iter().rev().find(|one| last(one.id) == Some(AckState::Refused(Refusal::TooMany))).cloned()
        })
    });
    // The same frame, later: its number was not used up.
    until("it is done in the end", || {
        world.publish(topic, false, frame(&key, topic, &again));
        std::thread::park_timeout(std::time::Duration::from_millis(300));
        world.answers(again.id).iter().any(|state| matches!(state, AckState::Done(_))).then_some(())
    });
    // The tool has a code of its own for it.
    until("the tool is told", || {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        tool.arg("send").arg("--broker").arg(format!("mqtt://127.0.0.1:{}", world.broker.port));
        tool.arg("--sign").arg(world.key("ops")).args(["--rig", RIG, "--wait", "5s", "identify", "0s"]);
        let mut tool = tool.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Others send more than the rig takes, until the tool has its answer.
        while tool.try_wait().unwrap().is_none() {
            another();
        }
        let output = tool.wait_with_output().unwrap();
        let told = text(&output).contains("refused: too many commands");
        assert_eq!(told, output.status.code() == Some(4), "{}", text(&output));
        told.then_some(())
    });
}
