//! The desired state over a real broker: brought about, kept over a restart, refused whole, and audited.

use std::fs;

use rigd::audit;
use rigd::clock;
use rigd::wire::{
    Audience, Desired, DesiredPayload, EVERY_DAY, Encoding, Header, Kind, Message, PayloadPhase, PowerCap, Reported,
    SigningKey, StandingOrder, Window, encode,
};
use rumqttc::v5::mqttbytes::QoS;

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::house::sweep;
use crate::subscriber::Subscriber;

const TOPIC: &str = "r1/rig-1/dn/des";

struct World {
    agent: Agent,
    subscriber: Subscriber,
    broker: Broker,
    key: SigningKey,
    /// The payload's name, of this test alone: rigs on one machine share its cgroups.
    payload: String,
    _manifests: Scratch,
}

/// A key that may look and no more.
fn viewer() -> SigningKey {
    SigningKey::from_seed(&[6; 32]).unwrap()
}

fn world() -> World {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let manifests = Scratch::new("wanted");
    let payload = manifests.path.file_name().unwrap().to_str().unwrap().replace("rigd-wanted", "wish");
    let manifest = "kind = \"batch\"\nuser = \"nobody\"\nargv = [\"/bin/sleep\", \"1000\"]\n";
    fs::write(manifests.path.join(format!("{payload}.toml")), manifest).unwrap();
    let key = SigningKey::from_seed(&[5; 32]).unwrap();
    let tables = format!(
        "[fleet]\ntrust_clock = true\n[key.plane]\npublic = \"{}\"\nscopes = [\"operate\", \"tune\", \"payload\"]\n\
         [key.viewer]\npublic = \"{}\"\nscopes = [\"observe\"]\n[payload]\nmanifests = {:?}\n",
        key.public(),
        viewer().public(),
        manifests.path
    );
    let agent = Agent::start(&broker, Setup { broker: tables, ..Setup::default() });
    subscriber.telemetry("a start", |telemetry| !telemetry.payloads.is_empty());
    World { agent, subscriber, broker, key, payload, _manifests: manifests }
}

impl World {
    fn desired(&self, revision: u64, run: bool) -> Desired {
        Desired {
            audience: Audience::Rig("rig-1".parse().unwrap()),
            revision,
            issued_ms: clock::unix_ms(),
            not_after_ms: None,
            payloads: vec![DesiredPayload { name: self.payload.clone(), run, gpus: None }],
            profiles: Vec::new(),
            power_cap: None,
            fan_targets: Vec::new(),
            maintenance: false,
            standing: Vec::new(),
            market: None,
        }
    }

    fn publish(&self, desired: &Desired) {
        self.publish_by(&self.key, desired);
    }

    fn publish_by(&self, key: &SigningKey, desired: &Desired) {
        let message = encode(Encoding::Postcard, Header::new(Kind::Desired, 0, 0), desired);
        let frame = key.frame(None, TOPIC, &message);
        self.subscriber.client().publish(TOPIC, QoS::AtLeastOnce, true, frame).unwrap();
    }

    /// Waits for a report that comes from now on and satisfies `good`.
    fn reported(&self, what: &str, good: impl Fn(&Reported) -> bool) -> Reported {
        self.subscriber.wait(what, |heard| {
            let last = heard.iter().rev().find_map(|one| {
                let Message::Reported(reported) = &one.message else { return None };
                Some(reported.clone())
            });
            last.filter(&good)
        })
    }

    fn phase(&self, expected: PayloadPhase) {
        let phase = |telemetry: &rigd::wire::Telemetry| telemetry.payloads.first().map(|payload| payload.phase);
        self.subscriber.telemetry(&format!("{expected:?}"), |telemetry| phase(telemetry) == Some(expected));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A payload outlives its agent, and must not outlive its test.
        if self.agent.runs() {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
            command.args(["drain", &self.payload, "--within", "1s", "--socket"]);
            let _ = command.arg(self.agent.scratch.path.join("rigd.sock")).output();
            sweep(self.agent.pid(), std::slice::from_ref(&self.payload));
        }
    }
}

#[test]
fn a_desired_state_is_brought_about_kept_and_refused_whole_where_it_is_bad() {
    let mut world = world();
    world.publish(&world.desired(3, true));
    world.reported("revision 3 is reached", |reported| reported.reached == 3);
    world.phase(PayloadPhase::Running);
    // An older one, and one that names what is not there: neither changes anything.
    world.publish(&world.desired(2, false));
    let reported = world.reported("revision 2 is refused", |reported| {
        reported.refused.as_ref().is_some_and(|refused| refused.revision == 2)
    });
    assert_eq!(reported.accepted, 3);
    let mut wrong = world.desired(4, false);
    wrong.payloads.push(DesiredPayload { name: "ghost".to_owned(), run: true, gpus: None });
    world.publish(&wrong);
    let reported = world.reported("revision 4 is refused", |reported| {
        reported.refused.as_ref().is_some_and(|refused| refused.revision == 4)
    });
    assert!(reported.refused.unwrap().reason.contains("no payload `ghost` here"));
    let mut capped = world.desired(5, true);
    let watts = rigd::units::Milliwatts(1_000_000);
    let cap = PowerCap { cap_mw: watts, ramp_mw_per_s: 0, deadline_ms: 0, until_ms: None, floor_mw: None };
    capped.power_cap = Some(cap);
    world.publish(&capped);
    world.reported("revision 5 is reached", |reported| reported.reached == 5);
    world.phase(PayloadPhase::Running);
    // Whoever signs with a key that may not is told so; a stranger hears nothing, and neither changes anything.
    world.publish_by(&SigningKey::from_seed(&[9; 32]).unwrap(), &world.desired(7, false));
    world.publish_by(&viewer(), &world.desired(6, false));
    let reported = world.reported("revision 6 is refused", |reported| {
        let refused = reported.refused.as_ref().map(|refused| refused.revision);
        assert_ne!(refused, Some(7));
        refused == Some(6)
    });
    assert_eq!((reported.accepted, reported.refused.unwrap().reason.as_str()), (5, "the key needs the scope operate"));
    world.publish(&world.desired(8, true));
    world.reported("revision 8 is reached", |reported| reported.reached == 8 && reported.refused.is_none());
    // What was taken holds after a restart, with the broker away: a person's hand is undone.
    world.broker.kill();
    world.agent.signal(rustix::process::Signal::KILL);
    world.agent.ended();
    world.agent.run();
    let ctl = |verb: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args([verb, &world.payload, "--socket"]).arg(world.agent.scratch.path.join("rigd.sock"));
        command.output().unwrap()
    };
    until("the local socket answers", || ctl("stop").status.success().then_some(()));
    world.agent.logged("desired state: Payload");
    // Another one stops it, by a standing order that always holds.
    world.broker.run();
    let mut standing = world.desired(9, true);
    standing.standing.push(StandingOrder {
        name: "rest".to_owned(),
        when: Window { days: EVERY_DAY, from_min: 0, to_min: 1440 },
        utc: true,
        power_cap: None,
        payloads: vec![DesiredPayload { name: world.payload.clone(), run: false, gpus: None }],
    });
    world.publish(&standing);
    world.reported("revision 9 is reached", |reported| reported.reached == 9 && reported.standing == ["rest"]);
    world.phase(PayloadPhase::Stopped);
    // All of that is in the audit log, and its chain holds.
    let mut told = Vec::new();
    let report = audit::verify(&world.agent.scratch.path.join("audit"), |record| {
        told.push(format!("{:?} {}: {}", record.entry.who, record.entry.what, record.entry.outcome));
    });
    let report = report.unwrap();
    assert!(report.broken.is_none() && report.head.n >= 5, "{told:#?}");
    let [plane, looks] = [&world.key, &viewer()].map(|key| audit::Who::Keys(vec![key.id()]));
    for part in [
        &format!("{plane:?} desired state; revision 3 is in force: taken"),
        &format!("{looks:?} desired state; revision 5 is in force: refused: the key needs the scope operate"),
        "Unknown desired state; revision 5 is in force: refused: signed by a key that this rig does not know",
        "it is not newer than revision 3",
        "no payload `ghost` here",
        "Start",
        ": Stop: asked for",
    ] {
        assert!(told.iter().any(|line| line.contains(part)), "{part} is not in {told:#?}");
    }
}
