//! Commands from the control plane, by the operator's tool, over a real broker: carried out once, answered, and refused where
//! they must be.

mod hostile;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rigd::clock;
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
