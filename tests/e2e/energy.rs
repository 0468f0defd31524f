//! What the agent counts against what the simulated world says it has used, an agent that is killed, and receipts all the way to
//! a collector's store.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rigd::clock;
use rigd::energy::{Books, Kept, Moment, SAVE_EVERY, Store};
use rigd::local::{Energy, EnergyAccount, Use};
use rigd::wire::Message;
use rustix::process::Signal;

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::collect::Collector;
use crate::gpu_breaks::library;
use crate::house::api;
use crate::subscriber::Subscriber;
use crate::truth::{Seen, Used};

fn ctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).arg("energy").args(arguments).output().unwrap()
}

fn shown(agent: &Agent) -> Option<(Energy, Vec<EnergyAccount>)> {
    let socket = agent.scratch.path.join("rigd.sock");
    let said = ctl(&["show", "--json", "--socket", socket.to_str().unwrap()]);
    let text = String::from_utf8(said.stdout).unwrap();
    let (head, accounts) = text.split_once('\n')?;
    let accounts = accounts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    serde_json::from_str::<Energy>(head).ok().filter(|head| head.at_unix_ms > 0).map(|head| (head, accounts))
}

fn kept(agent: &Agent) -> Kept {
    Kept::read(&agent.scratch.path).unwrap()
}

/// The world, looked at all the time, with a load that rests only when it is told to.
struct World {
    agent: Agent,
    seen: RefCell<Seen>,
    calm: Cell<bool>,
}

impl World {
    fn look(&self) {
        let at_ms = clock::unix_ms();
        let high = !self.calm.get() && (at_ms / 2_000).is_multiple_of(2);
        self.agent.sim.control(&format!("set gpu all load {}", if high { 0.9 } else { 0.35 })).unwrap();
        self.seen.borrow_mut().look(at_ms, &self.agent.sim.control("get world").unwrap());
    }

    fn until<T>(&self, what: &str, ask: impl Fn() -> Option<T>) -> T {
        until(what, || {
            self.look();
            ask()
        })
    }

    fn until_ms(&self, unix_ms: u64) {
        self.until("some seconds more", || (clock::unix_ms() >= unix_ms).then_some(()));
    }

    /// Books that were kept after the load had rested for two seconds, which it goes on to do: of counters that are some tenths of a
    /// second old it matters little then how old.
    fn rested(&self) -> Kept {
        self.calm.set(true);
        let from = clock::unix_ms() + 2_000;
        self.until("books kept at rest", || Some(kept(&self.agent)).filter(|kept| kept.at.unix_ms >= from))
    }

    fn between(&self, from: &Kept, to: &Kept) -> Used {
        self.seen.borrow().between(from.at.unix_ms, to.at.unix_ms)
    }
}

/// The parts are the whole, to the microjoule.
fn assert_whole(books: &Books) {
    let payloads: u64 = books.payloads.iter().map(|(.., account)| account.energy.0).sum();
    assert_eq!(payloads + books.overhead.energy.0, books.rig.energy.0);
}

fn near(what: &str, counted_uj: u64, true_mj: f64, percent: f64) {
    #[expect(clippy::cast_precision_loss, reason = "for a comparison in parts of a thousand")]
    let counted = counted_uj as f64 / 1_000.0;
    let off = (counted - true_mj) / true_mj * 100.0;
    println!("{what}: counted {counted:.0} mJ, true {true_mj:.0} mJ, off by {off:.3} %");
    assert!(off.abs() <= percent, "{what}: {counted} mJ of {true_mj}, off by {off} %");
}

#[test]
fn what_is_counted_is_what_the_world_used_and_the_time_without_an_agent_is_a_gap() {
    let broker = Broker::start();
    let manifests = Scratch::new("energy-manifests");
    let name = manifests.path.file_name().unwrap().to_str().unwrap().replace("rigd-", "");
    let manifest = format!(
        "kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", \"exec sleep 1000\"]\n\
         [gpus]\ncount = 2\n[meter]\nname = \"generic-json\"\nport = {}\ninterval_s = 1\n",
        api()
    );
    fs::write(manifests.path.join(format!("{name}.toml")), manifest).unwrap();
    let tables = format!("[gpu]\nlibrary = {:?}\n[payload]\nmanifests = {:?}\n", library(), manifests.path);
    let subscriber = Subscriber::new(broker.port);
    let agent = Agent::start(&broker, Setup { broker: tables, ..Setup::default() });
    let mut world = World { agent, seen: RefCell::default(), calm: Cell::default() };
    let works = |agent: &Agent| {
        shown(agent).filter(|(_, accounts)| accounts.iter().any(|one| one.of == Use::Payload && one.used.energy.0 > 0))
    };
    // From the first books that know of everything on: in those the GPUs may be seconds late.
    world.until("the payload's energy", || works(&world.agent));
    let first = world.rested();
    world.calm.set(false);
    world.until_ms(first.at.unix_ms + 20_000);
    world.rested();
    world.until("and some that are lost", || {
        Some(()).filter(|()| clock::unix_ms() >= kept(&world.agent).at.unix_ms + 4_000)
    });
    world.agent.signal(Signal::KILL);
    let _ = world.agent.ended();
    let killed = kept(&world.agent);
    let used = world.between(&first, &killed).input_mj;
    near("the rig before the kill", killed.books.rig.energy.0 - first.books.rig.energy.0, used, 0.5);
    world.agent.run();
    let again = world.until("the next agent's books", || {
        let kept = kept(&world.agent);
        (kept.at.unix_ms > killed.at.unix_ms).then_some(kept)
    });
    let gap = again.books.rig.gap_ms - killed.books.rig.gap_ms;
    let away = again.at.unix_ms - killed.at.unix_ms;
    assert!(gap.abs_diff(away) <= 20 && gap >= 4_000, "{gap} ms of {away} are a gap");
    assert_eq!(again.books.rig.energy, killed.books.rig.energy, "and nothing is made up for it");
    // Of a new agent the GPUs are heard some seconds late.
    world.calm.set(true);
    let own = |kept: &Kept, gpu: usize| {
        let mut uuids: Vec<_> = kept.books.gpus.iter().collect();
        uuids.sort_by_key(|(uuid, _)| uuid);
        uuids[gpu].1
    };
    let all = |later: &Kept| (0..8).all(|gpu| own(later, gpu).counted_ms > own(&again, gpu).counted_ms);
    let begun = world.until("every GPU's", || Some(kept(&world.agent)).filter(all));
    world.calm.set(false);
    world.until_ms(clock::unix_ms() + 36_000);
    world.calm.set(true);
    world.until_ms(clock::unix_ms() + 2_000);
    let stopping = clock::unix_ms();
    world.agent.signal(Signal::TERM);
    assert!(world.agent.ended().success());
    world.look();
    let last = kept(&world.agent);
    assert!(last.at.unix_ms + 2_000 >= stopping, "a clean stop keeps everything: {} at {stopping}", last.at.unix_ms);
    let used = world.between(&again, &last).input_mj;
    near("the rig after it", last.books.rig.energy.0 - again.books.rig.energy.0, used, 0.5);
    near("its supply", last.books.supplies[0].1.energy.0 - again.books.supplies[0].1.energy.0, used, 0.5);
    let used = world.between(&begun, &last).gpus_mj;
    for (gpu, used) in used.iter().enumerate() {
        let counted = own(&last, gpu).since(&own(&begun, gpu));
        assert_eq!(counted.gap_ms, 0, "GPU {gpu}");
        near(&format!("GPU {gpu}"), counted.energy.0, *used, 0.5);
    }
    for books in [&first.books, &killed.books, &again.books, &last.books] {
        assert_whole(books);
    }
    assert_eq!(last.books.payloads.len(), 2, "on two GPUs");
    let payload = last.books.payload(&name);
    assert!(payload.work > 100 && payload.milli_per_joule().is_some_and(|milli| milli > 0), "{payload:?}");
    // What telemetry said was what was kept, and never less than before.
    let told = subscriber.all(|heard| {
        let Message::Telemetry(telemetry) = &heard.message else { return None };
        telemetry.energy.clone()
    });
    assert!(told.windows(2).all(|pair| pair[0].rig_mwh <= pair[1].rig_mwh && pair[0].gap_ms <= pair[1].gap_ms));
    let end = told.last().unwrap();
    assert!(
        end.rig_mwh <= last.books.rig.energy.milliwatt_hours() && end.rig_mwh > 0 && end.gpus_mwh.len() == 8,
        "{end:?}"
    );
    assert_eq!((end.supplies_mwh.clone(), end.payloads.len()), (vec![end.rig_mwh], 1));
    // For people.
    world.agent.run();
    until("the table", || {
        let socket = world.agent.scratch.path.join("rigd.sock");
        let said = String::from_utf8(ctl(&["show", "--socket", socket.to_str().unwrap()]).stdout).unwrap();
        let rows = ["rig ", "overhead ", "psu1 in ", "psu1 out ", "jobs/J", "MISSING is time", "receipts, signed by "];
        rows.iter().all(|row| said.contains(row)).then_some(())
    });
    let mut stop = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
    stop.args(["stop", &name, "--socket"]).arg(world.agent.scratch.path.join("rigd.sock"));
    assert!(stop.status().unwrap().success());
}

#[test]
fn an_agent_that_is_killed_twenty_times_never_tells_less_than_before() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::start(&broker, Setup::default());
    let told = || {
        subscriber.all(|heard| {
            let Message::Telemetry(telemetry) = &heard.message else { return None };
            Some((heard.header.boot, telemetry.energy.clone()?))
        })
    };
    let begun = until("its first books", || Some(kept(&agent)).filter(|kept| kept.at.unix_ms > 0));
    let mut before = begun.clone();
    for kill in 0..20 {
        agent.sim.control(&format!("set gpu all load {}", if kill % 2 == 0 { 1.0 } else { 0.1 })).unwrap();
        let boot = told().last().map(|(boot, _)| *boot);
        if kill % 6 == 5 {
            until("more is kept", || Some(()).filter(|()| kept(&agent).books.rig.energy > before.books.rig.energy));
        } else {
            until("this start's books", || Some(()).filter(|()| kept(&agent).at != before.at || kill == 0));
        }
        agent.signal(Signal::KILL);
        let _ = agent.ended();
        let now = kept(&agent);
        assert!(clock::unix_ms() - now.at.unix_ms <= 2 * u64::try_from(SAVE_EVERY.as_millis()).unwrap(), "kill {kill}");
        assert!(now.books.rig.energy >= before.books.rig.energy && now.books.rig.gap_ms >= before.books.rig.gap_ms);
        before = now;
        agent.run();
        until("the next one tells of them", || told().last().map(|(now, _)| *now).filter(|now| Some(*now) != boot));
    }
    let last = until("the last one's books", || Some(kept(&agent)).filter(|kept| kept.at != before.at));
    let told = told();
    let less =
        told.windows(2).find(|pair| pair[0].1.rig_mwh > pair[1].1.rig_mwh || pair[0].1.gap_ms > pair[1].1.gap_ms);
    assert_eq!(less, None);
    // Every millisecond since the first books is counted or said to be missing.
    let known = |kept: &Kept| kept.books.rig.counted_ms + kept.books.rig.gap_ms;
    let passed = last.at.unix_ms - begun.at.unix_ms;
    assert!((known(&last) - known(&begun)).abs_diff(passed) <= 20 * 21, "{last:?} {passed}");
    assert!(last.books.rig.gap_ms > 0 && last.books.rig.energy > begun.books.rig.energy);
    assert_whole(&last.books);
}

/// What an agent of an hour ago left behind: an interval that the next one closes at once.
fn left_behind(state: &Path) {
    let (mut store, _) = Store::open(state).unwrap();
    let hour = Duration::from_secs(3_600);
    let since_boot_ms = u64::try_from(clock::since_boot().saturating_sub(hour).as_millis()).unwrap();
    let at = Moment { unix_ms: clock::unix_ms() - 3_600_000, boot: clock::kernel_boot(), since_boot_ms };
    let mut kept = Kept::default();
    kept.go_on(&Books::default(), at);
    store.save(&kept, None, true).unwrap();
}

#[test]
fn receipts_reach_the_store_signed_and_whoever_changes_one_is_found_out() {
    let broker = Broker::start();
    let mut collector = Collector::absent(&broker);
    collector.run();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), Setup::default());
    left_behind(&agent.scratch.path);
    agent.run();
    let receipt = subscriber.first("a receipt", |heard| {
        let Message::Receipt(receipt) = &heard.message else { return None };
        Some((heard.topic.clone(), receipt.clone()))
    });
    let (topic, receipt) = receipt;
    let key = subscriber.first("the birth's key", |heard| {
        let Message::Birth(birth) = &heard.message else { return None };
        birth.receipt_key
    });
    let interval = receipt.check(Some(&key), 0).unwrap();
    assert_eq!((topic.as_str(), interval.index, interval.rig.energy.0), ("r1/rig-1/up/rcp", 0, 0));
    assert!(interval.rig.gap_ms.abs_diff(3_600_000) < 60_000, "nobody measured in that hour: {interval:?}");
    // The next agent sends it again: it may not have got out the first time.
    agent.signal(Signal::KILL);
    let _ = agent.ended();
    agent.run();
    until("it comes again", || {
        // What the first one had on its disk comes once more too.
        let all = subscriber.all(|heard| matches!(heard.message, Message::Receipt(_)).then_some(heard.header.boot));
        all.iter().any(|boot| *boot != all[0]).then_some(())
    });
    let store = collector.store().to_str().unwrap().to_owned();
    let state = agent.scratch.path.to_str().unwrap().to_owned();
    let public = key.to_string();
    let verify = |arguments: &[&str]| {
        let said = ctl(&[&["verify"], arguments].concat());
        (said.status.code(), String::from_utf8([said.stdout, said.stderr].concat()).unwrap())
    };
    let good = until("the collector has both", || {
        Some(verify(&["--key", &public, &store])).filter(|(code, _)| *code == Some(0))
    });
    assert!(good.1.starts_with("rig-1: receipts 0 to 0 hold together: 0.000 kWh, 3"), "{}", good.1);
    let lines = agent.scratch.path.join("lines");
    for from in [&store, &state] {
        let exported = ctl(&["records", "--json", from]);
        fs::write(&lines, &exported.stdout).unwrap();
        let (code, said) = verify(&["--key", &public, lines.to_str().unwrap()]);
        assert!(code == Some(0) && said.contains("receipts 0 to 0 hold together"), "{said}");
    }
    let (code, said) = verify(&[&state]);
    assert!(code == Some(0) && said.contains("which nobody has compared"), "{said}");
    let stranger = "5f".repeat(32);
    let (code, said) = verify(&["--key", &stranger, &state]);
    assert!(
        code == Some(1) && said.contains(&format!("BROKEN: record 0 is signed by another key: {public}")),
        "{said}"
    );
    // Somebody takes a record away: the books know of it.
    agent.signal(Signal::TERM);
    let _ = agent.ended();
    let path = agent.scratch.path.join("energy-intervals");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, b"").unwrap();
    let (code, said) = verify(&[&state]);
    assert!(code == Some(1) && said.contains("1 records are missing"), "{said}");
    fs::write(&path, bytes).unwrap();
    // And a collector's copy is changed on its way to somebody's bill.
    let text = fs::read_to_string(&lines).unwrap();
    let at = text.find("\"body\":\"").unwrap() + 30;
    let digit = if &text[at..=at] == "0" { "1" } else { "0" };
    fs::write(&lines, format!("{}{digit}{}", &text[..at], &text[at + 1..])).unwrap();
    let (code, said) = verify(&["--key", &public, lines.to_str().unwrap()]);
    assert!(code == Some(1) && said.contains("record 0 was changed"), "{said}");
}
