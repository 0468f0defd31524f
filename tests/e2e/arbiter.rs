//! The arbiter under the real agent: a market flips two GPUs from a miner to a model and back, while the agent is killed, a payload
//! does not listen and another does not start. What must never be is looked at from outside: each payload takes a lock on every GPU
//! that it is given, and says so where somebody else has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use rigd::alarm::{self, Cause, SwitchOutcome};
use rigd::arbiter::view::View;
use rigd::clock;
use rigd::local::Payload;
use rigd::units::{Megahertz, MicroPerKilowattHour, MicroPerTera};
use rigd::wire::{
    Audience, Desired, Encoding, Header, Kind, Market, MarketLease, MarketValue, Message, PayloadPhase, SigningKey,
    encode,
};
use rumqttc::v5::mqttbytes::QoS;
use rustix::process::Signal;

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

const TOPIC: &str = "r1/rig-1/dn/des";
/// The first two GPUs of the simulated rig.
const GPUS: [&str; 2] = ["GPU-fa4e0000-0000-4000-8000-000000000000", "GPU-fa4e0001-0000-4000-8000-000000000001"];
/// What a payload does: a lock on each GPU first, a word where it is taken.
const PROGRAM: &str = r#"n=3
for gpu in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do
  eval "exec $n>>LOCKS/$gpu"
  flock -n $n || echo "NAME finds $gpu taken" >> LOCKS/conflicts
  n=$((n+1))
done
mkdir -p "$STATE/private" && echo secret > "$STATE/private/model"
[ -e LOCKS/fail-NAME ] && exit 3
[ -e LOCKS/deaf-NAME ] && trap '' TERM
exec sleep 1000
"#;

struct World {
    agent: Agent,
    subscriber: Subscriber,
    key: SigningKey,
    /// Miner and model; of this test alone: rigs on one machine share its cgroups.
    names: [String; 2],
    locks: Scratch,
    revision: u64,
    _manifests: Scratch,
    _broker: Broker,
}

fn world() -> World {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let (manifests, locks) = (Scratch::new("turns"), Scratch::new("locks"));
    fs::set_permissions(&locks.path, fs::Permissions::from_mode(0o777)).unwrap();
    let base = manifests.path.file_name().unwrap().to_str().unwrap().replace("rigd-", "");
    let names = [format!("{base}-mine"), format!("{base}-llm")];
    let key = SigningKey::from_seed(&[5; 32]).unwrap();
    let library = PathBuf::from(env!("CARGO_BIN_EXE_rigd")).with_file_name("deps/librigd_fake_nvml.so");
    let tables = format!(
        "[gpu]\nlibrary = {library:?}\nprobation_s = 10\n[profile.mine]\ncore_lock_mhz = [210, 900]\n[profile.llm]\ncore_lock_mhz = [210, 1200]\n\
         [fleet]\ntrust_clock = true\n[key.plane]\npublic = \"{}\"\nscopes = [\"operate\", \"tune\", \"payload\"]\n\
         [plan]\nenabled = true\nevery_s = 1\n[payload]\nmanifests = {:?}\n",
        key.public(),
        manifests.path
    );
    let agent = Agent::prepare(
        &format!("mqtt://127.0.0.1:{}", broker.port),
        Setup { broker: tables, tick_hz: 10, ..Setup::default() },
    );
    for (name, (kind, profile)) in names.iter().zip([("mining", "mine"), ("ai", "llm")]) {
        let state = agent.scratch.path.join("payloads").join(name).join("state");
        let program = PROGRAM
            .replace("LOCKS", locks.path.to_str().unwrap())
            .replace("NAME", profile)
            .replace("$STATE", state.to_str().unwrap());
        let manifest = format!(
            "kind = {kind:?}\ntenant = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", '''\n{program}''']\n\
             [gpus]\nuuids = {GPUS:?}\nprofile = {profile:?}\n[plan]\nmost_gpus = 2\n[stop]\ngrace_s = 2\n\
             [restart]\nbudget = 100\nwindow_s = 10\n[sandbox]\nwrite = [{:?}]\n",
            locks.path
        );
        fs::write(manifests.path.join(format!("{name}.toml")), manifest).unwrap();
    }
    // As if both had worked for an hour on each.
    let mean = |value: u64| serde_json::json!({ "value": value, "weight": 3_600 });
    let both = GPUS.map(|gpu| (gpu.to_owned(), serde_json::json!([mean(100_000_000_000), mean(220_000)])));
    let learnt = serde_json::json!({ "gpus": serde_json::Map::from_iter(both) });
    let yields = serde_json::json!({ &names[0]: learnt, &names[1]: learnt });
    fs::write(agent.scratch.path.join("yields.json"), yields.to_string()).unwrap();
    let mut world = World { agent, subscriber, key, names, locks, revision: 0, _manifests: manifests, _broker: broker };
    world.agent.run();
    until("a plan", || world.view().filter(|view| view.planned_ms > 0));
    world
}

impl World {
    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args(arguments).arg("--socket").arg(self.agent.scratch.path.join("rigd.sock"));
        command.output().unwrap()
    }

    fn view(&self) -> Option<View> {
        serde_json::from_slice(&self.ctl(&["plan", "--json"]).stdout).ok()
    }

    fn payload(&self, which: usize) -> Option<Payload> {
        let said = String::from_utf8(self.ctl(&["ps", "--json"]).stdout).unwrap();
        let all = said.lines().filter_map(|line| serde_json::from_str::<Payload>(line).ok());
        all.into_iter().find(|payload| payload.info.name == self.names[which])
    }

    fn published(&mut self, market: Market) {
        self.revision += 1;
        let desired = Desired {
            audience: Audience::Rig("rig-1".parse().unwrap()),
            revision: self.revision,
            issued_ms: clock::unix_ms(),
            not_after_ms: None,
            payloads: Vec::new(),
            profiles: Vec::new(),
            power_cap: None,
            fan_targets: Vec::new(),
            maintenance: false,
            standing: Vec::new(),
            market: Some(market),
        };
        let message = encode(Encoding::Postcard, Header::new(Kind::Desired, 0, 0), &desired);
        let frame = self.key.frame(None, TOPIC, &message);
        self.subscriber.client().publish(TOPIC, QoS::AtLeastOnce, true, frame).unwrap();
    }

    /// Makes the work of one of both worth three times that of the other; of none of them anything.
    fn worth(&mut self, which: Option<usize>) {
        let value = |(at, name): (usize, &String)| {
            let each = match which {
                Some(which) if which == at => 3_000_000,
                Some(_) => 1_000_000,
                None => 0,
            };
            MarketValue { payload: name.clone(), value: MicroPerTera(each) }
        };
        let values = self.names.iter().enumerate().map(value).collect();
        // What works for nothing costs its energy.
        let energy = Some(MicroPerKilowattHour(250_000));
        self.published(Market { until_ms: clock::unix_ms() + 3_600_000, energy, values, ..Market::default() });
    }

    /// Waits until one of both runs on both GPUs and the other rests, with nothing under way.
    fn has_both(&self, which: usize) {
        until(&format!("{} has both GPUs", self.names[which]), || {
            let (one, other) = (self.payload(which)?, self.payload(1 - which)?);
            let mut gpus = one.gpus.clone();
            gpus.sort();
            let runs = one.now.phase == PayloadPhase::Running && one.pid.is_some() && gpus == GPUS;
            let rests = other.pid.is_none() && other.gpus.is_empty();
            (runs && rests && self.view()?.switches.is_empty()).then_some(())
        });
        self.sound();
        let (highest, profile) = [(900, "mine"), (1_200, "llm")][which];
        until("its profile is on both", || {
            let shown = String::from_utf8(self.ctl(&["gpu", "list", "--json"]).stdout).unwrap();
            // An agent that is killed twice while a profile is on probation takes that for the profile's doing.
            for (gpu, line) in ["01:00", "02:00"].iter().zip(shown.lines()) {
                if !line.contains("\"quarantined\":0") {
                    assert!(self.ctl(&["gpu", "clear", gpu]).status.success());
                }
            }
            (shown.matches(&format!("\"profile\":\"{profile}\"")).count() == 2).then_some(())
        });
        self.subscriber.telemetry("the profile of one, and nothing of the other", |telemetry| {
            let clock = |gpu: &rigd::wire::Gpu| gpu.sm_mhz.0.is_ok_and(|clock| clock <= Megahertz(highest));
            telemetry.gpus.iter().take(2).all(clock)
        });
    }

    /// Nobody has ever found its GPU taken.
    fn sound(&self) {
        let conflicts = fs::read_to_string(self.locks.path.join("conflicts")).unwrap_or_default();
        assert_eq!(conflicts, "");
    }

    fn mark(&self, what: &str, which: usize, set: bool) {
        let file = self.locks.path.join(format!("{what}-{}", ["mine", "llm"][which]));
        if set {
            fs::write(file, "").unwrap();
        } else {
            let _ = fs::remove_file(file);
        }
    }

    /// Waits until the journal has a switch at this step, or none any more.
    fn at_step(&self, step: &str, done: usize) {
        until("the step", || {
            let journal = fs::read_to_string(self.agent.scratch.path.join("arbiter.json")).unwrap_or_default();
            let is_there = journal.contains(&format!("\"step\": \"{step}\""));
            (is_there || self.payload(done).is_some_and(|payload| payload.now.phase == PayloadPhase::Running))
                .then_some(())
        });
    }

    fn outcomes(&self) -> Vec<SwitchOutcome> {
        self.subscriber.all(|heard| {
            let Message::Event(event) = &heard.message else { return None };
            let Some(Cause::Switch(switched)) = event.cause else { return None };
            (event.alarm == alarm::Kind::PayloadSwitch).then_some(switched.outcome)
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Payloads outlive their agent, and must not outlive their test.
        if self.agent.runs() {
            for name in &self.names {
                let _ = self.ctl(&["drain", name, "--within", "1s"]);
            }
        }
    }
}

/// How often GPUs change hands: some times, or as often as somebody wants.
fn rounds() -> usize {
    std::env::var("RIGD_SWITCHES").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

#[test]
fn a_market_flips_the_gpus_and_nothing_is_ever_on_one_twice() {
    let mut world = world();
    let steps = ["drain", "free", "reset", "wipe", "start"];
    world.worth(Some(0));
    world.has_both(0);
    for round in 1..=rounds() {
        let (comer, leaver) = (round % 2, 1 - round % 2);
        match round % 3 {
            0 => {
                // One that fails at once: it is taken back, and left out until somebody forgives it.
                world.mark("fail", comer, true);
                let before = world.outcomes().len();
                world.worth(Some(comer));
                until("taken back", || world.outcomes().get(before..)?.contains(&SwitchOutcome::Back).then_some(()));
                world.has_both(leaver);
                world.mark("fail", comer, false);
                assert!(world.ctl(&["clear", &world.names[comer]]).status.success());
            }
            1 => {
                // Killed in the middle, at another step each time; and who comes now will not listen when it is to go.
                world.mark("deaf", comer, true);
                world.worth(Some(comer));
                world.at_step(steps[round / 3 % steps.len()], comer);
                world.agent.signal(Signal::KILL);
                let _ = world.agent.ended();
                world.agent.run();
            }
            _ => world.worth(Some(comer)),
        }
        world.has_both(comer);
        world.mark("deaf", comer, false);
        let private = world.agent.scratch.path.join("payloads").join(&world.names[leaver]).join("state/private");
        assert!(!private.exists(), "what was private of the one that left is gone");
    }
    assert!(world.outcomes().contains(&SwitchOutcome::Done));
    // Nothing pays: nobody runs, and no profile is left behind.
    world.worth(None);
    until("both rest", || {
        let rests = |which| world.payload(which).is_some_and(|payload: Payload| payload.pid.is_none());
        (rests(0) && rests(1) && world.view()?.switches.is_empty()).then_some(())
    });
    let shown = String::from_utf8(world.ctl(&["gpu", "list", "--json"]).stdout).unwrap();
    assert!(!shown.contains("\"profile\":\"mine\"") && !shown.contains("\"profile\":\"llm\""), "{shown}");
    let said = String::from_utf8(world.ctl(&["plan"]).stdout).unwrap();
    assert!(said.contains("idle") && said.contains("Market signal"), "{said}");
    world.sound();
}

#[test]
fn what_somebody_stopped_stays_out_of_the_plan_and_a_lease_goes_first() {
    let mut world = world();
    world.worth(Some(0));
    world.has_both(0);
    // The miner is stopped by hand: the other one earns less, and has the GPUs all the same.
    let private = world.agent.scratch.path.join("payloads").join(&world.names[0]).join("state/private");
    assert!(private.exists());
    assert!(world.ctl(&["stop", &world.names[0]]).status.success());
    until("what was private of it is gone", || (!private.exists()).then_some(()));
    world.has_both(1);
    world.agent.signal(Signal::KILL);
    let _ = world.agent.ended();
    world.agent.run();
    until("it is told that it is out", || {
        let view = world.view()?;
        view.left_out
            .iter()
            .any(|(name, why)| *name == world.names[0] && why.contains("stopped by somebody"))
            .then_some(())
    });
    assert!(world.ctl(&["start", &world.names[0]]).status.success());
    world.has_both(0);
    // A process on a GPU that nobody knows of: it is not given away before that is gone.
    let lease =
        MarketLease { payload: world.names[1].clone(), from_ms: 0, to_ms: clock::unix_ms() + 3_600_000, priority: 1 };
    let mut stranger = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    world.agent.sim.control(&format!("gpu 1 process {} 2000", stranger.id())).unwrap();
    world.published(Market { leases: vec![lease], ..Market::default() });
    until("it waits for the GPU", || {
        let waits = |view: &View| view.switches.iter().any(|switch| switch.step == rigd::arbiter::switch::Step::Free);
        world.view().filter(waits).map(drop)
    });
    assert!(world.payload(1).unwrap().pid.is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    world.agent.sim.control(&format!("gpu 1 process {} 0", stranger.id())).unwrap();
    world.has_both(1);
    assert!(world.view().unwrap().gpus[0].why.contains("leased"));
}
