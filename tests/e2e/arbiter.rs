//! The arbiter under the real agent: a market flips two GPUs from a miner to a model and back, while agent and driver are killed, a
//! payload does not listen and another does not start, each at a random step. What must never be is looked at from outside: each
//! payload takes a lock on every GPU that it is given, and says so where somebody else has it; and a [`Referee`] looks at processes,
//! at what is set on the cards, and at what was used, all the time.
//!
//! By default the GPUs change hands six times, with the same faults each time. `RIGD_SWITCHES=200` is the whole proof, with random
//! faults by the seed that is printed; `RIGD_SWITCHES=200,7` repeats it with the seed 7.

mod fault;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use fault::Fault;
use rigd::alarm::{self, Cause, SwitchOutcome};
use rigd::arbiter::view::View;
use rigd::clock;
use rigd::local::{Get, Payload, Reply, Request};
use rigd::units::{MicroPerKilowattHour, MicroPerTera};
use rigd::wire::{
    Audience, Desired, Encoding, Header, Kind, Market, MarketLease, MarketValue, Message, PayloadPhase, SigningKey,
    encode,
};
use rumqttc::v5::mqttbytes::QoS;
use rustix::process::Signal;

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::chaos::Dice;
use crate::referee::Referee;
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

/// What is set on a card for each payload.
const LOCKS: [(&str, &str); 2] = [("-mine", "210-900"), ("-llm", "210-1200")];

struct World {
    referee: Referee,
    agent: Agent,
    subscriber: Subscriber,
    key: SigningKey,
    /// Miner and model; of this test alone: rigs on one machine share its cgroups.
    names: [String; 2],
    locks: Scratch,
    revision: u64,
    /// The driver's process was killed in this agent's life.
    helper_died: bool,
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
    let referee = Referee::new(agent.sim.dir(), &agent.scratch.path, &locks.path, &GPUS, LOCKS.to_vec());
    let mut world = World {
        referee,
        agent,
        subscriber,
        key,
        names,
        locks,
        revision: 0,
        helper_died: false,
        _manifests: manifests,
        _broker: broker,
    };
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

    /// Asks the agent, without a process for each time; none where it does not answer.
    fn ask(&self, what: Get) -> Option<Vec<Reply>> {
        let mut stream = UnixStream::connect(self.agent.scratch.path.join("rigd.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request = serde_json::to_string(&Request::Get(what)).unwrap();
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let lines = BufReader::new(stream).lines();
        let mut replies = Vec::new();
        for line in lines {
            replies.push(serde_json::from_str(&line.ok()?).unwrap());
            let more = if let Reply::Payloads(count) = &replies[0] { *count } else { 0 };
            if replies.len() > more {
                return Some(replies);
            }
        }
        None
    }

    fn view(&self) -> Option<View> {
        let Reply::Plan(view) = self.ask(Get::Plan)?.pop()? else { return None };
        Some(*view)
    }

    fn payload(&self, which: usize) -> Option<Payload> {
        let mut payloads = self.ask(Get::Payloads)?.into_iter().filter_map(|reply| {
            let Reply::Payload(payload) = reply else { return None };
            Some(*payload)
        });
        payloads.find(|payload| payload.info.name == self.names[which])
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

    /// Waits until one of both runs on both GPUs and the other rests, with nothing under way. What did not work for want of a driver
    /// is forgiven, as a person would.
    fn has_both(&self, which: usize) {
        patiently(&format!("{} has both GPUs", self.names[which]), || {
            let (one, other) = (self.payload(which)?, self.payload(1 - which)?);
            let mut gpus = one.gpus.clone();
            gpus.sort();
            let runs = one.now.phase == PayloadPhase::Running && one.pid.is_some() && gpus == GPUS;
            let rests = other.pid.is_none() && other.gpus.is_empty();
            let view = self.view()?;
            if self.is_barred(&view, which) {
                println!("{} is forgiven: {:?}", self.names[which], view.last.last());
                self.clear(which);
            }
            (runs && rests && view.switches.is_empty()).then_some(())
        });
        patiently("its profile is on both, and nobody's on the others", || {
            // An agent that is killed twice while a profile is on probation takes that for the profile's doing.
            let shown = String::from_utf8(self.ctl(&["gpu", "list", "--json"]).stdout).unwrap();
            for (gpu, line) in ["01:00", "02:00"].iter().zip(shown.lines()) {
                if !line.contains("\"quarantined\":0") {
                    // It may be cleared already: the list is that of the last tick.
                    let _ = self.ctl(&["gpu", "clear", gpu]);
                }
            }
            let on = |gpu: usize| if gpu < 2 { LOCKS[which].1 } else { "none" };
            let good = self.settings().iter().enumerate().all(|(gpu, set)| set[0] == on(gpu));
            let profile = ["mine", "llm"][which];
            (good && shown.matches(&format!("\"profile\":\"{profile}\"")).count() == 2).then_some(())
        });
        self.sound();
    }

    /// What is really set on each card: core lock, memory lock, limit, offsets.
    fn settings(&self) -> Vec<[String; 5]> {
        let world = self.agent.sim.control("get world").unwrap();
        let of = |gpu: usize, what: &str| {
            let key = format!("gpu.{gpu}.{what}=");
            world.lines().find_map(|line| line.strip_prefix(&key)).unwrap().to_owned()
        };
        let keys = ["core_lock_mhz", "memory_lock_mhz", "limit_mw", "core_offset_mhz", "memory_offset_mhz"];
        (0..8).map(|gpu| keys.map(|key| of(gpu, key))).collect()
    }

    /// Left out because it did not work when its turn came.
    fn is_barred(&self, view: &View, which: usize) -> bool {
        view.left_out.iter().any(|(name, why)| *name == self.names[which] && why.starts_with("did not work"))
    }

    fn clear(&self, which: usize) {
        assert!(self.ctl(&["clear", &self.names[which]]).status.success());
    }

    /// Nobody has ever found its GPU taken, nobody was seen with another, or with another's profile.
    fn sound(&self) {
        let conflicts = fs::read_to_string(self.locks.path.join("conflicts")).unwrap_or_default();
        assert_eq!(conflicts, "");
        self.referee.notes(|notes| assert_eq!(notes.broken, [""; 0]));
    }

    fn kill(&mut self) {
        self.agent.signal(Signal::KILL);
        let _ = self.agent.ended();
        self.agent.run();
        self.helper_died = false;
    }

    fn mark(&self, what: &str, which: usize, set: bool) {
        let file = self.locks.path.join(format!("{what}-{}", ["mine", "llm"][which]));
        if set {
            fs::write(file, "").unwrap();
        } else {
            let _ = fs::remove_file(file);
        }
    }

    /// What its program writes that nobody else is to see.
    fn private(&self, which: usize) -> PathBuf {
        self.agent.scratch.path.join("payloads").join(&self.names[which]).join("state/private")
    }

    /// Waits until the journal has a switch at this step, or none any more.
    fn at_step(&self, step: &str, done: usize) {
        patiently("the step", || {
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

/// Longer than all the steps of a switch and of the way back may take.
fn patiently<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let deadline = clock::now() + Duration::from_secs(240);
    loop {
        let left = deadline.saturating_duration_since(clock::now());
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(!left.is_zero(), "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Payloads outlive their agent, and must not outlive their test.
        if self.agent.runs() {
            for name in &self.names {
                let _ = self.ctl(&["drain", name, "--within", "1s"]);
            }
            let rest = || (0..2).all(|which| self.payload(which).is_none_or(|payload| payload.pid.is_none()));
            let _ = (0..300).any(|_| {
                std::thread::park_timeout(Duration::from_millis(10));
                rest()
            });
        }
    }
}

/// How often GPUs change hands, and the seed of what breaks meanwhile.
fn rounds() -> (usize, u64) {
    let asked = std::env::var("RIGD_SWITCHES").unwrap_or_else(|_| "6,1".to_owned());
    let (rounds, seed) = asked.split_once(',').unwrap_or((&asked, ""));
    (rounds.parse().unwrap_or(6), seed.parse().unwrap_or_else(|_| clock::unix_ms() | 1))
}

#[test]
fn a_market_flips_the_gpus_and_nothing_is_ever_on_one_twice() {
    let (rounds, seed) = rounds();
    println!("RIGD_SWITCHES={rounds},{seed}");
    let mut dice = Dice::new(seed);
    let mut world = world();
    let untouched = world.settings();
    let steps = ["drain", "free", "reset", "wipe", "start"];
    world.worth(Some(0));
    world.has_both(0);
    let began = clock::now();
    let mut met = Vec::new();
    for round in 1..=rounds {
        let (comer, leaver) = (round % 2, 1 - round % 2);
        // The first ones are each time the same, so that also a short run has seen the worst of them.
        let fault = match round {
            1 => Fault::Killed,
            2 => Fault::Fails,
            _ => Fault::any(&mut dice),
        };
        let (step, deaf) = (steps[dice.below(steps.len())], dice.below(3) == 0);
        let wait = dice.between(Duration::ZERO, Duration::from_millis(400));
        println!("round {round} after {} s: {fault:?} at {step}, deaf {deaf}", began.elapsed().as_secs());
        world.agent.sim.control(&format!("set gpu all load {}", [0.7, 0.4][comer])).unwrap();
        // Who comes now will not listen when it is to go.
        world.mark("deaf", comer, deaf);
        world.mark("fail", comer, fault == Fault::Fails);
        let private = world.private(leaver);
        until("who has them has something private", || private.exists().then_some(()));
        world.worth(Some(comer));
        if fault != Fault::None && fault != Fault::Fails {
            world.at_step(step, comer);
            let at = clock::now() + wait;
            until("any moment of it", || (clock::now() >= at).then_some(()));
            met.push((fault, step));
        }
        world.inject(fault, comer, &mut dice);
        if fault == Fault::Fails {
            // It is taken back, and left out until somebody forgives it.
            patiently("taken back", || world.view().filter(|view| world.is_barred(view, comer)).map(drop));
            world.has_both(leaver);
            world.mark("fail", comer, false);
            world.clear(comer);
        }
        world.has_both(comer);
        world.mark("deaf", comer, false);
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
    assert_eq!(world.settings(), untouched, "the cards are as they were before anybody came");
    let said = String::from_utf8(world.ctl(&["plan"]).stdout).unwrap();
    assert!(said.contains("idle") && said.contains("Market signal"), "{said}");
    world.sound();
    world.agent.signal(Signal::TERM);
    let _ = world.agent.ended();
    // One more look, so that the world is known until the end.
    let stopped = clock::unix_ms();
    until("a look after the end", || world.referee.notes(|notes| notes.seen.until_ms() > stopped).then_some(()));
    world.referee.notes(|notes| {
        let [looks, busy] = notes.looks;
        println!("{rounds} changes of hands in {} s, {looks} looks, {met:?}", began.elapsed().as_secs());
        assert!(busy * 2 > looks, "in {looks} looks somebody was on a GPU {busy} times only");
        let (rig, supply, gpus) = notes.diary.sums(&notes.seen);
        rig.assert_near("the rig", 0.5, 20.0);
        supply.assert_near("its supply", 0.5, 20.0);
        for (gpu, sum) in gpus.iter().enumerate() {
            // Lives are short here and passes slow; over a long one each is within 0.5 %: see `energy.rs`. A short run has no
            // stretch of a GPU that is worth the name.
            if sum.millis() > 60_000 {
                sum.assert_near(&format!("GPU {gpu}"), 0.5, 300.0);
            }
        }
    });
    // The referee does see what it says that it has never seen.
    let file = fs::File::options().append(true).open(world.locks.path.join(GPUS[0])).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    world.agent.run();
    until("it answers", || world.view().map(drop));
    world.worth(Some(0));
    until("a conflict", || {
        let conflicts = fs::read_to_string(world.locks.path.join("conflicts")).unwrap_or_default();
        conflicts.contains(&format!("mine finds {} taken", GPUS[0])).then_some(())
    });
}

#[test]
fn what_somebody_stopped_stays_out_of_the_plan_and_a_lease_goes_first() {
    let mut world = world();
    world.worth(Some(0));
    world.has_both(0);
    // The miner is stopped by hand: the other one earns less, and has the GPUs all the same.
    let private = world.private(0);
    until("it has something private", || private.exists().then_some(()));
    assert!(world.ctl(&["stop", &world.names[0]]).status.success());
    until("what was private of it is gone", || (!private.exists()).then_some(()));
    world.has_both(1);
    world.kill();
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
