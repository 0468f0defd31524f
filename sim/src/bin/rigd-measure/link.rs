//! A signed command from its sending to its answer, over a real broker on the loopback, beside an echo that does nothing else.
//!
//! The agent verifies, writes a journal, carries out, writes its end down, and answers through an outbox that is on the disk: twice
//! it waits for the disk, and twice more the disk is synced beside it. Commands come below the rate that the agent looks at. The echo is a rumqttc client
//! that sends back what it gets, at the same pace and back to back; then what a signature and one `fdatasync` take on this machine.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rigd::clock;
use rigd::command::trust::{FleetConfig, Trust};
use rigd::command::verify::{self, Digest, Me, Now, Received, Seen};
use rigd::wire::{
    AckState, Audience, CommandId, Encoding, Header, KeyId, Kind, MAX_MESSAGE, Message, Order, Scope, SigningKey,
    TrustedKey, decode, encode,
};
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};

use crate::Options;
use crate::broker::Broker;
use crate::process::Running;
use crate::scratch::Scratch;
use crate::statistic::Values;
use crate::table::columns;

const RIG: &str = "measure-link";
const TOPIC: &str = "r1/measure-link/dn/cmd";
const REQUEST: &str = "measure/request";
const RESPONSE: &str = "measure/response";
/// Eight a second: the agent looks at ten.
const PACE: Duration = Duration::from_millis(125);
/// At once: the agent looks at twenty after a silence.
const BURST: u64 = 20;
/// An answer that does not come within this is lost.
const WITHIN: Duration = Duration::from_secs(5);
/// Times that a signature, a write and an echo back to back are measured.
const TIMES: u32 = 1_000;

/// A client of the broker, and what it hears.
struct Ear {
    client: Client,
    heard: Receiver<(Instant, String, Vec<u8>)>,
}

fn options(name: &str, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network).set_max_packet_size(u32::try_from(2 * MAX_MESSAGE).ok());
    options
}

impl Ear {
    /// Returns when the subscription stands.
    fn new(port: u16, topics: &[&str]) -> Result<Self> {
        let (client, mut connection) = Client::new(options("measure-ear", port), 64);
        for topic in topics {
            client.try_subscribe(*topic, QoS::AtLeastOnce).context("subscribe")?;
        }
        let (ready, subscribed) = sync_channel(topics.len());
        // Minutes of answers; when it is full the listener waits.
        let (tell, heard) = sync_channel(4_096);
        thread::Builder::new().name("ear".to_owned()).spawn(move || {
            for event in connection.iter() {
                let Ok(event) = event else { return };
                if !hear(event, &ready, &tell) {
                    return;
                }
            }
        })?;
        for _ in topics {
            subscribed.recv_timeout(WITHIN).context("the subscription does not stand")?;
        }
        Ok(Self { client, heard })
    }

    fn next(&self) -> Result<(Instant, String, Vec<u8>)> {
        self.heard.recv_timeout(WITHIN).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow::anyhow!("no answer within {WITHIN:?}"),
            RecvTimeoutError::Disconnected => anyhow::anyhow!("the broker is lost"),
        })
    }

    fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<()> {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).context("publish")
    }

    /// When the end of this command came.
    fn end_of(&self, id: CommandId) -> Result<Instant> {
        loop {
            let (at, _, payload) = self.next()?;
            let (_, message) = decode(&payload)?;
            let Message::Ack(ack) = message else { continue };
            match ack.state {
                AckState::Accepted | AckState::Running { .. } => {}
                AckState::Done(_) if ack.id == id => return Ok(at),
                AckState::Done(_) => {}
                AckState::Failed(_) | AckState::Refused(_) | AckState::Unknown => bail!("{:?}", ack.state),
            }
        }
    }
}

fn hear(event: Event, ready: &SyncSender<()>, tell: &SyncSender<(Instant, String, Vec<u8>)>) -> bool {
    let at = clock::now();
    if let Event::Incoming(Packet::SubAck(_)) = event {
        ready.try_send(()).ok();
    } else if let Event::Incoming(Packet::Publish(publish)) = event {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        return tell.send((at, topic, publish.payload.to_vec())).is_ok();
    }
    true
}

/// Sends back what it gets, for as long as the broker lives.
fn echo(port: u16) -> Result<()> {
    let (client, mut connection) = Client::new(options("measure-echo", port), 64);
    client.try_subscribe(REQUEST, QoS::AtLeastOnce).context("subscribe")?;
    let (ready, subscribed) = sync_channel(1);
    thread::Builder::new().name("echo".to_owned()).spawn(move || {
        for event in connection.iter() {
            match event {
                Ok(Event::Incoming(Packet::SubAck(_))) => {
                    ready.try_send(()).ok();
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    client.try_publish(RESPONSE, QoS::AtLeastOnce, false, publish.payload.to_vec()).ok();
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    })?;
    subscribed.recv_timeout(WITHIN).context("the echo's subscription does not stand")
}

/// Commands of one key, each with a number of its own.
struct Commander {
    key: SigningKey,
    count: u64,
}

impl Commander {
    fn next(&mut self) -> (CommandId, Vec<u8>) {
        self.count += 1;
        let mut id = [0; 16];
        id.iter_mut().zip(self.count.to_be_bytes()).for_each(|(to, from)| *to = from);
        let id = CommandId(id);
        let now = clock::unix_ms();
        let command = rigd::wire::Command {
            audience: Audience::Rig(rig()),
            id,
            counter: self.count,
            not_before_ms: now,
            not_after_ms: now + 60_000,
            nonce: None,
            revision: None,
            order: Order::Identify { seconds: 0 },
        };
        let message = encode(Encoding::Postcard, Header::new(Kind::Command, 0, 0), &command);
        (id, self.key.frame(None, TOPIC, &message))
    }
}

#[expect(clippy::expect_used, reason = "a constant that is a name")]
fn rig() -> rigd::wire::RigId {
    RIG.parse().expect("a rig's name")
}

/// A rig that has seen nothing.
struct Nothing;

impl Seen for Nothing {
    fn digest(&self, _: &CommandId) -> Option<Digest> {
        None
    }

    fn fresh(&self, _: &KeyId, _: u64) -> bool {
        true
    }

    fn lost(&self, _: u64) -> bool {
        false
    }
}

/// Runs all of it in turn and gives the table.
pub(crate) fn run(options: &Options) -> Result<String> {
    let scratch = Scratch::new()?;
    let broker = Broker::start(scratch.path())?;
    let ear = Ear::new(broker.port, &["r1/measure-link/up/birth", "r1/measure-link/up/ack", RESPONSE])?;
    let key = SigningKey::from_seed(&[7; 32]).context("a key")?;
    let mut commander = Commander { key, count: 0 };
    let board = scratch.path().join("board.toml");
    fs::write(&board, "name = \"bare\"\nrevision = \"a\"\n")?;
    let config = scratch.path().join("rigd.toml");
    fs::write(
        &config,
        format!(
            "rig = \"{RIG}\"\nboard = {board:?}\nstate = {:?}\n[control]\ntick_hz = 1\n[telemetry]\nperiod_ms = 1000\n\
             [local]\nsocket = {:?}\n[fleet]\ntrust_clock = true\n[key.measure]\npublic = \"{}\"\nscopes = [\"operate\"]\n\
             [broker]\nurl = \"mqtt://127.0.0.1:{}\"\n",
            scratch.path(),
            scratch.path().join("rigd.sock"),
            commander.key.public(),
            broker.port
        ),
    )?;
    let mut agent = Command::new(&options.rigd);
    let mut agent = Running::start("rigd", agent.arg("run").arg("--config").arg(&config), scratch.path())?;
    // Its birth; then what the rule of delivery takes to settle.
    ear.next()?;
    thread::sleep(options.settle.max(Duration::from_secs(3)));
    let mut rows = vec![["", "p50, us", "p99, us", "most, us", "of"].map(str::to_owned).to_vec()];
    let mut row = |name: &str, values: &Values| {
        let micros = |part| values.part(part).map_or_else(|| "?".to_owned(), |micros| format!("{micros:.0}"));
        rows.push(vec![name.to_owned(), micros(0.5), micros(0.99), micros(1.0), values.len().to_string()]);
    };

    let began = clock::now();
    let burst: Vec<_> = (0..BURST).map(|_| commander.next()).collect();
    for (_, frame) in &burst {
        ear.publish(TOPIC, frame.clone())?;
    }
    let mut ends = Values::default();
    for (id, _) in &burst {
        ends.push(micros(ear.end_of(*id)?.saturating_duration_since(began)));
    }
    row(&format!("{BURST} commands at once: command -> done"), &ends);
    // The bucket is empty.
    thread::sleep(Duration::from_secs(3));

    let paced = u32::try_from(options.window.as_millis() / PACE.as_millis())?;
    let mut done = Values::default();
    for _ in 0..paced {
        let began = clock::now();
        let (id, frame) = commander.next();
        let sent = clock::now();
        ear.publish(TOPIC, frame)?;
        done.push(micros(ear.end_of(id)?.saturating_duration_since(sent)));
        agent.still_running()?;
        thread::sleep(PACE.saturating_sub(clock::now().saturating_duration_since(began)));
    }
    row("8 a second: command -> done", &done);

    echo(broker.port)?;
    for (name, times, pace) in
        [("8 a second: bare echo", paced, PACE), ("back to back: bare echo", TIMES, Duration::ZERO)]
    {
        let mut values = Values::default();
        for _ in 0..times {
            let (_, frame) = commander.next();
            let sent = clock::now();
            ear.publish(REQUEST, frame)?;
            let at = loop {
                let (at, topic, _) = ear.next()?;
                if topic == RESPONSE {
                    break at;
                }
            };
            values.push(micros(at.saturating_duration_since(sent)));
            thread::sleep(pace.saturating_sub(clock::now().saturating_duration_since(sent)));
        }
        row(name, &values);
    }
    drop(agent);

    row("one signature verified, decoded and judged", &verified(&mut commander)?);
    row("one fdatasync of 300 bytes appended", &synced(&scratch)?);
    Ok(format!(
        "a signed command over mosquitto on the loopback, QoS 1, journal and outbox on the disk\n{}goals: p50 1500 us, p99 5000 us\n",
        columns(&rows)
    ))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn verified(commander: &mut Commander) -> Result<Values> {
    let trusted =
        TrustedKey { name: "measure".to_owned(), public: commander.key.public(), scopes: vec![Scope::Operate] };
    let trust = Trust::new(&FleetConfig { keys: vec![trusted], ..FleetConfig::default() });
    let me = Me { rig: rig(), groups: Vec::new(), site: None };
    let mut values = Values::default();
    for _ in 0..TIMES {
        let (_, frame) = commander.next();
        let received = Received { topic: TOPIC, frame: &frame, retained: false };
        let now = Now { unix_ms: Some(clock::unix_ms()), nonce: 1, revision: 0 };
        let began = clock::now();
        let verdict = verify::command(&received, &trust, &me, &now, &Nothing);
        values.push(micros(clock::now().saturating_duration_since(began)));
        verdict.map_err(|refused| anyhow::anyhow!("{}", refused.refusal))?;
    }
    Ok(values)
}

fn synced(scratch: &Scratch) -> Result<Values> {
    let mut file = File::create(scratch.path().join("synced"))?;
    let mut values = Values::default();
    for _ in 0..TIMES {
        file.write_all(&[0xa5; 300])?;
        let began = clock::now();
        file.sync_data()?;
        values.push(micros(clock::now().saturating_duration_since(began)));
    }
    Ok(values)
}
