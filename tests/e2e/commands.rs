//! Commands from the control plane, by the operator's tool, over a real broker: carried out once, answered, and refused where
//! they must be.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rigd::clock;
use rigd::command::journal::Journal;
use rigd::wire::{
    Ack, AckState, Audience, CommandId, Encoding, Header, Kind, Message, Order, Refusal, SigningKey, encode,
};
use rumqttc::v5::mqttbytes::QoS;

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

const RIG: &str = "rig-1";

struct World {
    agent: Agent,
    subscriber: Subscriber,
    keys: Scratch,
    broker: Broker,
    nonce: u64,
}

/// Makes a key by the tool, and gives back its table.
pub(crate) fn keygen(keys: &Scratch, name: &str, scopes: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
    command.args(["keygen", name]).arg("--out").arg(keys.path.join(format!("{name}.key")));
    for scope in scopes {
        command.args(["--scope", scope]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn world() -> World {
    world_at(Broker::start())
}

fn world_at(broker: Broker) -> World {
    let subscriber = Subscriber::new(broker.port);
    let keys = Scratch::new("keys");
    let mut tables =
        String::from("[fleet]\ngroups = [\"hall-2\"]\ntrust_clock = true\n[profile.eco]\npower_limit_w = 200\n");
    for (name, scopes) in [
        ("ops", &["observe", "operate", "tune", "payload"][..]),
        ("viewer", &["observe"]),
        ("root-a", &["update"]),
        ("root-b", &["update"]),
    ] {
        tables += &keygen(&keys, name, scopes);
    }
    let manifests = keys.path.join("manifests");
    fs::create_dir(&manifests).unwrap();
    tables += &format!("[payload]\nmanifests = {manifests:?}\n");
    // Made, and trusted by nobody.
    keygen(&keys, "stranger", &["operate"]);
    let agent = Agent::start(&broker, Setup { broker: tables, ..Setup::default() });
    let birth = another_birth(&subscriber, 0);
    World { agent, subscriber, keys, broker, nonce: birth }
}

/// The nonce of the first birth that has another one than this.
fn another_birth(subscriber: &Subscriber, before: u64) -> u64 {
    subscriber.first("a birth", |heard| {
        let Message::Birth(birth) = &heard.message else { return None };
        (birth.nonce != before).then_some(birth.nonce)
    })
}

impl World {
    /// `rigd-ctl send`, with the key of this name.
    fn send(&self, key: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.arg("send").arg("--broker").arg(format!("mqtt://127.0.0.1:{}", self.broker.port));
        command.arg("--sign").arg(self.key(key));
        command.args(arguments).output().unwrap()
    }

    fn key(&self, name: &str) -> PathBuf {
        self.keys.path.join(format!("{name}.key"))
    }

    /// The secret half of a key, for frames that the tool would not send.
    fn secret(&self, name: &str) -> SigningKey {
        let text = fs::read_to_string(self.key(name)).unwrap();
        let seed = text.trim().rsplit(' ').next().unwrap().parse::<rigd::wire::PublicKey>().unwrap();
        SigningKey::from_seed(&seed.0).unwrap()
    }

    fn command(&self, id: u8, counter: u64) -> rigd::wire::Command {
        rigd::wire::Command {
            audience: Audience::Rig(RIG.parse().unwrap()),
            id: CommandId([id; 16]),
            counter,
            not_before_ms: clock::unix_ms(),
            not_after_ms: clock::unix_ms() + 60_000,
            nonce: Some(self.nonce),
            revision: None,
            order: Order::Identify { seconds: 60 },
        }
    }

    fn publish(&self, topic: &str, retain: bool, payload: Vec<u8>) {
        self.subscriber.client().publish(topic, QoS::AtLeastOnce, retain, payload).unwrap();
    }

    /// The answers to this id so far.
    fn answers(&self, id: CommandId) -> Vec<AckState> {
        self.subscriber.all(|heard| {
            let Message::Ack(ack) = &heard.message else { return None };
            (ack.id == id).then(|| ack.state.clone())
        })
    }

    /// How often the agent says that it carries this one out.
    fn carried_out(&self, id: CommandId) -> usize {
        self.agent.log().matches(&format!("command {id}: Identify")).count()
    }

    fn answered(&self, what: &str, id: CommandId, good: impl Fn(&[AckState]) -> bool) {
        until(what, || good(&self.answers(id)).then_some(()));
    }
}

fn frame(key: &SigningKey, topic: &str, command: &rigd::wire::Command) -> Vec<u8> {
    key.frame(None, topic, &encode(Encoding::Postcard, Header::new(Kind::Command, 0, 0), command))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn an_order_is_accepted_done_and_answered_and_the_exit_code_tells() {
    let world = world();
    let output = world.send("ops", &["--rig", RIG, "identify", "60s"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "rig-1: accepted\nrig-1: done\n"));
    world.agent.fans("full air is heard", |percent| percent == 100);
    let output = world.send("ops", &["--group", "hall-2", "--wait", "3s", "--json", "probe"]);
    assert!(output.status.success() && text(&output).contains("\"lines\":[\""), "{}", text(&output));
    let output = world.send("viewer", &["--rig", RIG, "identify"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("refused: the key needs the scope operate"), "{}", text(&output));
    let output = world.send("stranger", &["--rig", RIG, "identify"]);
    assert!(text(&output).contains("refused: signed by a key that this rig does not know"), "{}", text(&output));
    let output = world.send("ops", &["--rig", RIG, "set-profile", "turbo"]);
    assert!(text(&output).contains("refused: there is no profile `turbo`, only: eco"), "{}", text(&output));
    let output = world.send("ops", &["--rig", "rig-2", "--wait", "1s", "probe"]);
    assert_ne!(output.status.code(), Some(0), "nobody is there: {}", text(&output));
}

#[test]
fn a_key_changes_by_two_keys_and_a_restart_remembers() {
    let mut world = world();
    let table = world.keys.path.join("next.toml");
    fs::write(&table, keygen(&world.keys, "next", &["operate"])).unwrap();
    let table = table.to_str().unwrap();
    let output = world.send("root-a", &["--rig", RIG, "rotate-key", "--add", table]);
    assert!(text(&output).contains("takes the signatures of two keys"), "{}", text(&output));
    let second = world.key("root-b");
    let output =
        world.send("root-a", &["--rig", RIG, "--second", second.to_str().unwrap(), "rotate-key", "--add", table]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(world.send("next", &["--rig", RIG, "identify"]).status.success());
    world.agent.signal(rustix::process::Signal::KILL);
    world.agent.ended();
    world.agent.run();
    another_birth(&world.subscriber, world.nonce);
    assert!(world.send("next", &["--rig", RIG, "identify", "0s"]).status.success());
    let id = world.secret("next").id().to_string();
    let revoke = ["--rig", RIG, "--second", second.to_str().unwrap(), "rotate-key", "--revoke", &id];
    assert!(world.send("root-a", &revoke).status.success());
    let output = world.send("next", &["--rig", RIG, "identify"]);
    assert!(text(&output).contains("signed by a key that was revoked"), "{}", text(&output));
}

#[test]
fn what_is_not_signed_for_this_rig_and_now_does_nothing() {
    let world = world();
    let key = world.secret("ops");
    let topic = "r1/rig-1/dn/cmd";
    let good = world.command(1, 100);
    let refusals = || -> Vec<Refusal> {
        world.subscriber.all(|heard| {
            let Message::Ack(Ack { state: AckState::Refused(refusal), .. }) = &heard.message else { return None };
            Some(refusal.clone())
        })
    };
    let mut forged = frame(&key, topic, &good);
    *forged.last_mut().unwrap() ^= 1;
    let other = rigd::wire::Command { audience: Audience::Rig("rig-2".parse().unwrap()), ..good.clone() };
    let stale = rigd::wire::Command { nonce: Some(world.nonce ^ 1), ..good.clone() };
    let moved = |ms: i64| rigd::wire::Command {
        not_before_ms: good.not_before_ms.saturating_add_signed(ms),
        not_after_ms: good.not_after_ms.saturating_add_signed(ms),
        ..good.clone()
    };
    for (payload, expected) in [
        (b"reboot".to_vec(), "Malformed"),
        (forged, "BadSignature"),
        (frame(&world.secret("stranger"), topic, &good), "UnknownKey"),
        (frame(&key, "r1/rig-2/dn/cmd", &good), "BadSignature"),
        (frame(&key, topic, &other), "WrongAudience"),
        (frame(&key, topic, &stale), "Replayed"),
        (frame(&key, topic, &moved(-700_000)), "Expired"),
        (frame(&key, topic, &moved(86_400_000)), "NotYet"),
        (vec![0xa2; 60_000], "Malformed"),
    ] {
        let before = refusals().len();
        world.publish(topic, false, payload);
        let refusal = until(expected, || refusals().get(before).cloned());
        assert!(format!("{refusal:?}").starts_with(expected), "{refusal:?} and not {expected}");
    }
    assert!(world.agent.sim.fans().iter().any(|(_, duty, _)| duty.hundredths() < 10_000), "nothing was carried out");
}

#[test]
fn a_command_that_comes_again_is_answered_again_and_not_carried_out_again() {
    let mut world = world();
    let key = world.secret("ops");
    let topic = "r1/rig-1/dn/cmd";
    let first = world.command(7, 500);
    let sent = frame(&key, topic, &first);
    world.publish(topic, false, sent.clone());
    let done = |answers: &[AckState]| answers.iter().filter(|state| matches!(state, AckState::Done(_))).count();
    world.answered("the first answer", first.id, |answers| done(answers) == 1);
    world.publish(topic, false, sent.clone());
    world.answered("the same answer again", first.id, |answers| done(answers) == 2);
    assert_eq!(world.carried_out(first.id), 1);
    // The same counter for another order.
    let used = rigd::wire::Command { id: CommandId([8; 16]), ..first.clone() };
    world.publish(topic, false, frame(&key, topic, &used));
    world.answered("a used counter", used.id, |answers| answers == [AckState::Refused(Refusal::Replayed)]);
    // Killed and started again: what was answered is still known, though its nonce is another start's.
    world.agent.signal(rustix::process::Signal::KILL);
    world.agent.ended();
    world.agent.run();
    another_birth(&world.subscriber, world.nonce);
    world.publish(topic, false, sent);
    world.answered("the answer of before the restart", first.id, |answers| done(answers) >= 3);
    let late = rigd::wire::Command { id: CommandId([9; 16]), counter: 600, ..first };
    world.publish(topic, false, frame(&key, topic, &late));
    world.answered("an old nonce", late.id, |answers| answers == [AckState::Refused(Refusal::Replayed)]);
}

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
    world.agent.logged("came too fast and were dropped unread");
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
    assert!((1..=40).contains(&too_many.len()), "{} were too many", too_many.len());
    // The same frame, later: its number was not used up.
    let again = too_many[0];
    until("it is done in the end", || {
        world.publish(topic, false, frame(&key, topic, again));
        std::thread::park_timeout(std::time::Duration::from_millis(300));
        world.answers(again.id).iter().any(|state| matches!(state, AckState::Done(_))).then_some(())
    });
    // The tool has a code of its own for it.
    let numbers = std::cell::Cell::new(0_u64);
    until("the tool is told", || {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        tool.arg("send").arg("--broker").arg(format!("mqtt://127.0.0.1:{}", world.broker.port));
        tool.arg("--sign").arg(world.key("ops")).args(["--rig", RIG, "--wait", "5s", "identify", "0s"]);
        let mut tool = tool.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // Others send more than the rig takes, until the tool has its answer.
        while tool.try_wait().unwrap().is_none() {
            let number = numbers.get() + 1;
            numbers.set(number);
            let mut id = [0xcc; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let next = rigd::wire::Command { id: CommandId(id), counter: 5_000 + number, ..commands[0].clone() };
            world.publish(topic, false, frame(&key, topic, &next));
            std::thread::park_timeout(std::time::Duration::from_millis(15));
        }
        let output = tool.wait_with_output().unwrap();
        let told = text(&output).contains("refused: too many commands");
        assert_eq!(told, output.status.code() == Some(4), "{}", text(&output));
        told.then_some(())
    });
}

#[test]
fn nothing_starts_by_itself_while_somebody_works_at_the_rig() {
    let world = world();
    let name = format!("idle-{}", std::process::id());
    let manifest = "kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sleep\", \"1000\"]\n";
    let phase = || {
        let mut ps = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        ps.args(["ps", "--json", "--socket"]).arg(world.agent.scratch.path.join("rigd.sock"));
        let ps = ps.output().unwrap();
        let line: serde_json::Value = serde_json::from_slice(&ps.stdout).ok()?;
        Some(line["now"]["phase"].to_string())
    };
    assert!(world.send("ops", &["--rig", RIG, "maintenance", "on"]).status.success());
    fs::write(world.keys.path.join(format!("manifests/{name}.toml")), manifest).unwrap();
    let output = world.send("ops", &["--rig", RIG, "reload"]);
    assert!(output.status.success() && text(&output).contains(&format!("added {name}")), "{}", text(&output));
    world.agent.logged(&format!("payload {name}: is not started while somebody works at the rig"));
    assert_eq!(phase().as_deref(), Some("\"stopped\""));
    let output = world.send("ops", &["--rig", RIG, "payload", "start", &name]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(world.send("ops", &["--rig", RIG, "maintenance", "off"]).status.success());
    assert!(world.send("ops", &["--rig", RIG, "payload", "start", &name]).status.success());
    until("it runs", || (phase()? == "\"running\"").then_some(()));
    assert!(world.send("ops", &["--rig", RIG, "payload", "stop", &name]).status.success());
}
