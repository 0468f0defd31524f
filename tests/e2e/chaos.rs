//! The proof that nothing accepted is lost: broker, agent and collector are killed by turns, while samples, events and commands go on.
//!
//! ```text
//! agent ── mosquitto, nothing on disk ── rigd-ctl collect, away for the first fifth
//!   X            X                          X
//! ```
//!
//! By default it is three kills of broker and agent each, in about 20 s, each time at the same moments. `RIGD_CHAOS=20,600` is the
//! whole proof: 20 of each, over 600 s, at random moments by the seed that is printed; `RIGD_CHAOS=20,600,7` repeats it with the
//! seed 7.
//!
//! **What counts as lost.** Events and acks: a number that is missing in the store, or that a bystander heard and the store has not.
//! Telemetry: of each start that was killed, the time between the last sample in the store and the kill (by the start's own uptime),
//! and every number that is missing before; so what was never numbered in that time counts as lost too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rigd::clock;
use rigd::wire::{
    AckState, Audience, Command, CommandId, Encoding, Header, Kind, MAX_MESSAGE, Message, Order, Refusal, SigningKey,
    decode, encode,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};
use rustix::process::Signal;

use crate::agent::{Agent, Setup};
use crate::broker::Broker;
use crate::collect::Collector;

/// Samples a second: the most that can be configured.
const PER_SECOND: u64 = 100;
/// What a killed agent may cost, ms of telemetry: it is written when it is 1 s old, and the disk takes its time on a busy machine.
const LOST_MS: u64 = 3_000;
/// What of that may be in holes before the last sample in the store.
const HOLES_MS: u64 = 1_000 + 250;
const TOPIC: &str = "r1/rig-1/dn/cmd";
/// A command is sent, or a fan seized or freed, so often.
const EACH: Duration = Duration::from_millis(300);

/// Numbers without end from a seed (xorshift64*, Vigna 2014).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of so many.
    pub(crate) fn below(&mut self, many: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(many).unwrap()).unwrap()
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = u64::try_from((high - low).as_millis()).unwrap() + 1;
        low + Duration::from_millis(self.next() % span)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    KillBroker,
    StartBroker,
    KillAgent,
    StartAgent,
    KillCollector,
    StartCollector,
}

/// What happens when, in order: broker and agent by turns, each away for a while, sometimes both.
fn plan(kills: u32, whole: Duration, dice: &mut Dice) -> Vec<(Duration, Act)> {
    let gap = whole / (2 * kills);
    let mut moments: Vec<Duration> = Vec::new();
    for turn in 0..2 * kills {
        moments.push(gap * turn + dice.between(gap / 10, gap * 9 / 10));
    }
    let mut acts = vec![(whole / 5, Act::StartCollector)];
    for (turn, at) in moments.iter().enumerate() {
        let again = moments.get(turn + 2).copied().unwrap_or(whole);
        let longest = ((again - *at) * 8 / 10).min(Duration::from_secs(8));
        if turn % 2 == 0 {
            let away = dice.between(Duration::from_millis(50), longest.max(Duration::from_millis(51)));
            acts.extend([(*at, Act::KillBroker), (*at + away, Act::StartBroker)]);
        } else {
            let away = dice.between(Duration::ZERO, Duration::from_millis(200));
            acts.extend([(*at, Act::KillAgent), (*at + away, Act::StartAgent)]);
        }
    }
    // The collector in the middle of slots of its own, which do not overlap.
    let slots = kills.div_ceil(2);
    let slot = whole * 7 / 10 / slots;
    for turn in 0..slots {
        let at = whole / 4 + slot * turn + dice.between(Duration::ZERO, slot / 2);
        acts.push((at, Act::KillCollector));
        acts.push((at + dice.between(Duration::from_millis(50), slot / 3), Act::StartCollector));
    }
    acts.sort();
    acts
}

/// Messages by boot, kind and number.
type Numbered = BTreeMap<(u32, Kind, u64), Message>;

/// A bystander: what of events and acks has reached anybody.
struct Bystander {
    heard: Arc<Mutex<Numbered>>,
    client: Client,
}

impl Bystander {
    fn new(port: u16) -> Self {
        let mut options = MqttOptions::new("bystander", "127.0.0.1", port);
        options.set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok());
        let (client, mut connection) = Client::new(options, 64);
        let heard: Arc<Mutex<Numbered>> = Arc::default();
        let (ours, speaker) = (Arc::clone(&heard), client.clone());
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for kind in ["event", "ack"] {
                            let _ = speaker.try_subscribe(format!("r1/rig-1/up/{kind}"), QoS::AtLeastOnce);
                        }
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let (header, message) = decode(&publish.payload).unwrap();
                        // An answer without a number is kept nowhere and promised to nobody.
                        if header.seq == 0 {
                            continue;
                        }
                        let number = (header.boot, header.kind, header.seq);
                        let before = ours.lock().unwrap().insert(number, message.clone());
                        assert!(before.is_none_or(|before| before == message), "{number:?} was two messages");
                    }
                    Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                    Ok(_) => {}
                    Err(_) => thread::park_timeout(Duration::from_millis(20)),
                }
            }
        });
        Self { heard, client }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.client.try_disconnect();
    }
}

/// A start of the agent: when, and when it was killed, ms since 1970.
#[derive(Debug)]
struct Start {
    at: u64,
    killed: Option<u64>,
}

struct Chaos {
    broker: Broker,
    agent: Agent,
    collector: Collector,
    bystander: Bystander,
    key: SigningKey,
    starts: Vec<Start>,
    /// Frames by the id of their command.
    sent: BTreeMap<CommandId, Vec<u8>>,
}

impl Chaos {
    fn new() -> Self {
        let broker = Broker::start();
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let tables = format!(
            "[fleet]\ntrust_clock = true\n[outbox]\ndelivery = \"watermark\"\nbacklog_per_s = 1000\n\
             [key.ops]\npublic = \"{}\"\nscopes = [\"observe\", \"operate\"]\n",
            key.public()
        );
        let setup = Setup { broker: tables, tick_hz: 100, ..Setup::default() };
        let agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), setup);
        let bystander = Bystander::new(broker.port);
        let collector = Collector::absent(&broker);
        let starts = Vec::new();
        let mut chaos = Self { broker, agent, collector, bystander, key, starts, sent: BTreeMap::new() };
        chaos.period(1_000 / PER_SECOND);
        chaos
    }

    /// Writes the time between samples, ms, into the agent's configuration.
    fn period(&mut self, period_ms: u64) {
        let path = self.agent.scratch.path.join("rigd.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| match line.split_once(" = ") {
            Some(("period_ms", _)) => format!("period_ms = {period_ms}\n"),
            _ => format!("{line}\n"),
        });
        std::fs::write(&path, lines.collect::<String>()).unwrap();
    }

    fn start_agent(&mut self) {
        self.starts.push(Start { at: clock::unix_ms(), killed: None });
        self.agent.run();
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::KillBroker => self.broker.kill(),
            Act::StartBroker => self.broker.run(),
            Act::KillAgent => {
                self.agent.signal(Signal::KILL);
                self.starts.last_mut().unwrap().killed = Some(clock::unix_ms());
                self.agent.ended();
            }
            Act::StartAgent => self.start_agent(),
            Act::KillCollector => self.collector.kill(),
            Act::StartCollector => self.collector.run(),
        }
    }

    /// Something happens at the rig, or somebody wants something of it.
    fn stir(&mut self, turn: u64) {
        if turn.is_multiple_of(4) {
            let line = ["fault fan seized fan3", "fault air nack 0x48", "clear fan fan3", "clear air 0x48"];
            self.agent.sim.control(line[usize::try_from(turn / 4 % 4).unwrap()]).unwrap();
            return;
        }
        let now = clock::unix_ms();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&turn.to_be_bytes());
        let order = if turn % 4 == 1 { Order::Snapshot } else { Order::Identify { seconds: 0 } };
        let command = Command {
            audience: Audience::Rig("rig-1".parse().unwrap()),
            id: CommandId(id),
            counter: turn,
            not_before_ms: now,
            not_after_ms: now + 600_000,
            nonce: None,
            revision: None,
            order,
        };
        let message = encode(Encoding::Postcard, Header::new(Kind::Command, 0, 0), &command);
        let frame = self.key.frame(None, TOPIC, &message);
        // Where the broker is away it may go nowhere: whoever commands asks again.
        let _ = self.bystander.client.try_publish(TOPIC, QoS::AtLeastOnce, false, frame.clone());
        self.sent.insert(command.id, frame);
    }

    fn run(&mut self, acts: &[(Duration, Act)]) {
        let began = clock::now();
        let (mut acts, mut stirred, mut turn) = (acts.iter(), began, 0);
        let mut next = acts.next();
        while let Some((at, act)) = next {
            let now = clock::now();
            if now >= began + *at {
                println!("{:>9} ms: {act:?}", (now - began).as_millis());
                self.act(*act);
                next = acts.next();
            } else if now >= stirred + EACH {
                stirred = now;
                turn += 1;
                self.stir(turn);
            } else {
                thread::park_timeout((began + *at).min(stirred + EACH) - now);
            }
        }
    }

    /// Ids of the commands that have come to an end, by the store.
    fn ended(&self) -> BTreeSet<CommandId> {
        let acks = self.collector.stored().into_iter().filter(|(_, kind, ..)| kind == "ack");
        acks.filter_map(|(.., payload)| {
            let Message::Ack(ack) = decode(&payload).unwrap().1 else { return None };
            ack.state.last().then_some(ack.id)
        })
        .collect()
    }

    /// Asks again for what was not answered, below the rate that the agent looks at, until all is. Returns what that was.
    fn ask_again(&self) -> BTreeSet<CommandId> {
        let open = |ended: &BTreeSet<CommandId>| -> Vec<CommandId> {
            self.sent.keys().filter(|id| !ended.contains(*id)).copied().collect()
        };
        let asked = open(&self.ended());
        let (mut left, deadline) = (asked.clone(), clock::now() + Duration::from_secs(180));
        while !left.is_empty() {
            assert!(clock::now() < deadline, "no end of {left:?}");
            for id in &left {
                let _ = self.bystander.client.try_publish(TOPIC, QoS::AtLeastOnce, false, self.sent[id].clone());
                thread::park_timeout(Duration::from_millis(120));
            }
            thread::park_timeout(Duration::from_secs(1));
            left = open(&self.ended());
        }
        asked.into_iter().collect()
    }

    /// Ends the agent, and lets another start, which says little itself, deliver what is left on the disk.
    fn drain(&mut self) {
        self.agent.signal(Signal::TERM);
        assert!(self.agent.ended().success());
        self.period(1_000);
        self.start_agent();
        let deadline = clock::now() + Duration::from_secs(240);
        let (mut least, mut since) = (0, clock::now());
        // Nothing waits that moves no more: the backlog goes out at 1000 a second.
        while clock::now().saturating_duration_since(since) < Duration::from_secs(6) {
            let count = self.collector.stored().len();
            if count > least + 30 {
                (least, since) = (count, clock::now());
            }
            assert!(clock::now() < deadline, "it does not drain");
            thread::park_timeout(Duration::from_millis(500));
        }
        self.agent.signal(Signal::TERM);
        assert!(self.agent.ended().success());
        self.collector.stop();
    }
}

/// What a killed start cost.
#[derive(Debug)]
struct Cost {
    /// From the last sample in the store to the kill, ms.
    tail_ms: u64,
    /// Numbers before it that are not there.
    holes: u64,
    samples: u64,
}

/// Of each start that was killed. `telemetry`: of each boot, time of start by its own word, and uptime by number.
fn costs(starts: &[Start], telemetry: &BTreeMap<u32, (u64, BTreeMap<u64, u64>)>) -> Vec<Cost> {
    let killed = starts.iter().filter_map(|start| Some((start.at, start.killed?)));
    killed
        .map(|(at, killed)| {
            let mine = telemetry.values().find(|(began, _)| (at.saturating_sub(5)..=killed).contains(began));
            let Some((began, samples)) = mine else { return Cost { tail_ms: killed - at, holes: 0, samples: 0 } };
            let (last, uptime) = samples.last_key_value().unwrap();
            let there = u64::try_from(samples.len()).unwrap();
            Cost { tail_ms: killed.saturating_sub(began + uptime), holes: last - there, samples: there }
        })
        .collect()
}

fn asked() -> (u32, u64, u64) {
    let asked = std::env::var("RIGD_CHAOS").unwrap_or_else(|_| "3,16,1".to_owned());
    let numbers: Vec<u64> = asked.split(',').map(|word| word.trim().parse().expect("KILLS,SECONDS[,SEED]")).collect();
    let seed = numbers.get(2).copied().unwrap_or_else(|| clock::unix_ms() % 1_000_000 + 1);
    (u32::try_from(numbers[0]).unwrap(), numbers[1], seed)
}

#[test]
fn broker_agent_and_collector_are_killed_by_turns_and_nothing_accepted_is_lost() {
    let (kills, seconds, seed) = asked();
    println!("RIGD_CHAOS={kills},{seconds},{seed}");
    let mut chaos = Chaos::new();
    let acts = plan(kills, Duration::from_secs(seconds), &mut Dice(seed));
    let count = |act: Act| acts.iter().filter(|(_, it)| *it == act).count();
    println!(
        "{} broker, {} agent, {} collector kills",
        count(Act::KillBroker),
        count(Act::KillAgent),
        count(Act::KillCollector)
    );
    chaos.start_agent();
    chaos.run(&acts);
    let asked_again = chaos.ask_again();
    let drained = clock::now();
    chaos.drain();
    println!(
        "{} commands, {} asked again; drained in {:?}",
        chaos.sent.len(),
        asked_again.len(),
        clock::now() - drained
    );

    let complete = chaos.collector.complete();
    println!("{}", String::from_utf8_lossy(&complete.stdout));
    let mut stored = Numbered::new();
    let mut telemetry: BTreeMap<u32, (u64, BTreeMap<u64, u64>)> = BTreeMap::new();
    for (boot, kind, seq, payload) in chaos.collector.stored() {
        let (header, message) = decode(&payload).unwrap();
        assert_eq!((header.boot, header.seq), (boot, seq));
        if let Message::Telemetry(sample) = &message {
            let began = sample.unix_ms.saturating_sub(sample.uptime_ms);
            telemetry.entry(boot).or_insert_with(|| (began, BTreeMap::new())).1.insert(seq, sample.uptime_ms);
            continue;
        }
        assert!(stored.insert((boot, header.kind, seq), message).is_none(), "{kind} {seq} of {boot} is there twice");
    }
    // Events and acks: each number once, none missing, and whatever anybody heard.
    for kind in [Kind::Event, Kind::Ack] {
        let mut numbers: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        stored
            .keys()
            .filter(|(_, it, _)| *it == kind)
            .for_each(|(boot, _, seq)| numbers.entry(*boot).or_default().push(*seq));
        let all: usize = numbers.values().map(Vec::len).sum();
        println!("{all} of {kind:?} in {} starts", numbers.len());
        assert!(all > usize::try_from(kills).unwrap(), "too little happened");
        for (boot, numbers) in numbers {
            assert!(numbers.iter().zip(1..).all(|(seq, expected)| *seq == expected), "{kind:?} of {boot}: {numbers:?}");
        }
    }
    for (number, message) in chaos.bystander.heard.lock().unwrap().iter() {
        assert_eq!(stored.get(number), Some(message), "{number:?} was heard");
    }
    // No command twice: an Identify is not taken up again after a restart.
    let log = chaos.agent.log();
    for id in chaos.sent.keys() {
        let times = log.matches(&format!("command {id}: Identify")).count();
        assert!(times <= 1, "{id} was carried out {times} times");
    }
    // One that never came, and is asked for again after 64 later ones, cannot be told from a replay.
    for message in stored.values() {
        let Message::Ack(ack) = message else { continue };
        if let AckState::Refused(refusal) = &ack.state {
            assert!(*refusal == Refusal::Replayed && asked_again.contains(&ack.id), "{ack:?}");
        }
    }
    // Telemetry.
    let costs = costs(&chaos.starts, &telemetry);
    let tails: Vec<u64> = costs.iter().map(|cost| cost.tail_ms).collect();
    let samples: usize = telemetry.values().map(|(_, samples)| samples.len()).sum();
    println!(
        "{samples} samples stored; lost by each kill of the agent, ms: {tails:?}; holes: {}",
        costs.iter().map(|cost| cost.holes).sum::<u64>()
    );
    for cost in &costs {
        let holes_ms = cost.holes * (1_000 / PER_SECOND);
        assert!(cost.tail_ms + holes_ms <= LOST_MS && holes_ms <= HOLES_MS, "{cost:?} of {costs:?}");
    }
    assert!(costs.iter().all(|cost| cost.samples > 0), "{costs:?}");
    assert!(complete.status.success(), "something is missing");
}
