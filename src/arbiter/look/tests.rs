use std::sync::Arc;

use super::super::explore::{DAY_MS, choose};
use super::super::switch::Share;
use super::*;
use crate::board::Board;
use crate::gpu::plan::tests::{card as device, sample};
use crate::gpu::wire::{Device, Process, Sample};
use crate::payload::Terms;
use crate::payload::lifecycle::Failure;
use crate::payload::manifest::Planned;
use crate::plan::plan;
use crate::setpoint::Desk;
use crate::units::{MicroPerTera, MilliPerSecond, Milliwatts, Percent};
use crate::wire::{Market, MarketLease, MarketValue};

const NOW_MS: u64 = 1_800_000_000_000;
const NOW: Duration = Duration::from_secs(100_000);

/// A rig whose parts a test changes.
struct Bench {
    config: PlanConfig,
    profiles: GpuConfig,
    payloads: Vec<Status>,
    gpus: Vec<Gpu>,
    market: Option<Market>,
    yields: Yields,
    bars: BTreeMap<String, (u32, Duration)>,
    switches: Vec<Switch>,
    trial: Option<Trial>,
    left: BTreeMap<String, Left>,
    unwiped: BTreeMap<String, String>,
    clock_known: bool,
}

fn gpu(number: u8, used_mib: u32) -> Gpu {
    let device = Device { uuid: format!("G{number}"), ..device() };
    let told = Sample { memory_used: Ok(Mebibytes(used_mib)), ..sample(1_500, 99, 0) };
    let pci = device.pci;
    let (device, sample) = (Some(Arc::new(device)), Ok(Arc::new(told)));
    Gpu { device, presence: Presence::Seen, sample, processes: Ok(Vec::new()), ..Gpu::unseen(pci) }
}

/// A planned payload that was never started.
pub(crate) fn payload(name: &str, value: u64, most_gpus: u8) -> Status {
    let terms = Terms {
        plan: Planned { value: MicroPerTera(value), most_gpus, hours: None, lost_milli: 0, guess: None },
        uuids: Vec::new(),
        min_vram_mib: 0,
        grace: Duration::from_secs(1),
        startup: Duration::from_secs(30),
        warmup: Duration::from_secs(60),
        private: None,
    };
    Status { plan: Some(Arc::new(terms)), known: true, ..Status::of(name) }
}

impl Bench {
    /// Two GPUs, a miner that was measured on one of them and a model that was never.
    fn new() -> Self {
        let config = PlanConfig {
            enabled: true,
            every: Duration::from_secs(60),
            horizon: Duration::from_secs(3_600),
            stickiness: Percent(5),
            energy: MicroPerKilowattHour(100_000),
            idle: Milliwatts(20_000),
            lead: Duration::from_secs(120),
            free: Mebibytes(600),
        };
        let mut yields = Yields::default();
        let on = [("G0".to_owned(), Milliwatts(220_000))];
        yields.learn("miner", &on, true, MilliPerSecond(100_000_000_000), 3_600);
        Self {
            config,
            profiles: GpuConfig::default(),
            payloads: vec![payload("miner", 1_000_000, 2), payload("llm", 2_000_000, 1)],
            gpus: vec![gpu(0, 1), gpu(1, 1)],
            market: None,
            yields,
            bars: BTreeMap::new(),
            switches: Vec::new(),
            trial: None,
            left: BTreeMap::new(),
            unwiped: BTreeMap::new(),
            clock_known: true,
        }
    }

    /// A tenant had this GPU, and has left something.
    fn leaves(&mut self, name: &str, gpu: &str) {
        let left = Left { folders: vec!["/private".into()], gpus: vec![gpu.to_owned()] };
        self.left.insert(name.to_owned(), left);
    }

    fn with<T>(&self, look: impl Fn(&Facts<'_>) -> T) -> T {
        let board = Arc::new(Board::load("simulated-8gpu").unwrap());
        let (desk, _held) = Desk::open(&std::env::temp_dir().join("rigd-nowhere"), &board, &self.profiles);
        desk.set_market(self.market.as_ref());
        let setpoints = desk.now();
        look(&Facts {
            config: &self.config,
            profiles: &self.profiles,
            payloads: &self.payloads,
            gpus: &self.gpus,
            setpoints: &setpoints,
            yields: &self.yields,
            bars: &self.bars,
            left: &self.left,
            unwiped: &self.unwiped,
            switches: &self.switches,
            trial: self.trial.as_ref(),
            alive: &|pid| pid == 7,
            unix_ms: (NOW_MS, self.clock_known),
            minute: 0,
            now: NOW,
        })
    }

    /// What is tried beside what is planned.
    fn tried(&self) -> Option<Trial> {
        self.with(|facts| {
            let draft = facts.draft();
            choose(facts, &draft, &plan(&facts.inputs(&draft)).gpus)
        })
    }

    /// What each GPU gets.
    fn planned(&self) -> Vec<String> {
        self.with(|facts| {
            let draft = facts.draft();
            let made = plan(&facts.inputs(&draft));
            let name = |place: &Option<usize>| place.map_or("-".to_owned(), |at| draft.payloads[at].name.clone());
            made.gpus.iter().map(name).collect()
        })
    }
}

#[test]
fn what_is_known_is_planned_with_and_what_is_not_there_is_not() {
    type Change = fn(&mut Bench);
    let changes: [(&str, Change, [&str; 2]); 20] = [
        ("the miner, on the one and on its like", |_| {}, ["miner", "miner"]),
        ("a GPU that is lost", |bench| bench.gpus[1].presence = Presence::Lost, ["miner", "-"]),
        ("one that does not tell", |bench| bench.gpus[1].sample = Err(Missing::Stale), ["miner", "-"]),
        ("one with memory in use", |bench| bench.gpus[1] = gpu(1, 601), ["miner", "-"]),
        (
            "one with a process that is there",
            |bench| bench.gpus[1].processes = Ok(vec![Process { pid: 7, memory: Ok(Mebibytes(1)) }]),
            ["miner", "-"],
        ),
        (
            "one with a process that has ended since",
            |bench| bench.gpus[1].processes = Ok(vec![Process { pid: 8, memory: Ok(Mebibytes(1)) }]),
            ["miner", "miner"],
        ),
        ("one without a word of what runs on it", |bench| bench.gpus[1].processes = Err(Missing::Bus), ["miner", "-"]),
        (
            "one that tells of its memory alone",
            |bench| bench.gpus[1].processes = Err(Missing::NotPresent),
            ["miner"; 2],
        ),
        (
            "one with somebody's who is not planned",
            |bench| {
                let own = Status { gpus: vec!["G1".to_owned()], phase: Phase::Running, ..Status::of("own") };
                bench.payloads.push(own);
            },
            ["miner", "-"],
        ),
        ("one on which something private is left", |bench| bench.leaves("llm", "G1"), ["miner", "-"]),
        ("of one that nobody knows any more", |bench| bench.leaves("gone", "G1"), ["miner", "-"]),
        ("one that is not started again before that is gone", |bench| bench.leaves("miner", "G7"), ["-", "-"]),
        (
            "one that runs, and will leave something",
            |bench| {
                bench.leaves("miner", "G1");
                bench.payloads[0].phase = Phase::Running;
                bench.payloads[0].gpus = vec!["G1".to_owned()];
            },
            ["miner", "miner"],
        ),
        ("one that somebody stopped", |bench| bench.payloads[0].out = true, ["-", "-"]),
        ("one that failed", |bench| bench.payloads[0].phase = Phase::Failed(Failure::Budget), ["-", "-"]),
        ("one whose manifest is gone", |bench| bench.payloads[0].removed = true, ["-", "-"]),
        ("one that is held back", |bench| bench.payloads[0].hold = Hold::Stop, ["-", "-"]),
        (
            "one that did not work a moment ago",
            |bench| {
                bench.bars.insert("miner".to_owned(), (1, NOW + Duration::from_secs(1)));
            },
            ["-", "-"],
        ),
        (
            "one that did not work some time ago",
            |bench| {
                bench.bars.insert("miner".to_owned(), (1, NOW));
            },
            ["miner", "miner"],
        ),
        (
            "what is under way is left to its end",
            |bench| {
                let share = |name: &str| Share { payload: name.to_owned(), gpus: vec!["G1".to_owned()] };
                bench.switches.push(Switch::new(vec![share("miner")], vec![share("llm")], NOW));
            },
            ["-", "-"],
        ),
    ];
    for (name, change, expected) in changes {
        let mut bench = Bench::new();
        change(&mut bench);
        assert_eq!(bench.planned(), expected, "{name}");
    }
}

#[test]
fn a_signal_goes_before_the_configuration_while_it_holds_and_a_lease_always() {
    let value = |payload: &str, value| MarketValue { payload: payload.to_owned(), value: MicroPerTera(value) };
    let lease = |from_ms, to_ms| MarketLease { payload: "llm".to_owned(), from_ms, to_ms, priority: 0 };
    let market = |until_ms, values, leases| Some(Market { until_ms, energy: None, values, leases });
    for (name, market, clock_known, expected) in [
        ("nothing", None, true, ["miner", "miner"]),
        ("worth nothing", market(NOW_MS + 1, vec![value("miner", 0)], vec![]), true, ["-", "-"]),
        ("that is over", market(NOW_MS, vec![value("miner", 0)], vec![]), true, ["miner", "miner"]),
        ("nobody knows the time", market(NOW_MS + 1, vec![value("miner", 0)], vec![]), false, ["miner", "miner"]),
        ("a lease under a signal that is over", market(0, vec![], vec![lease(0, NOW_MS + 1)]), true, ["llm", "miner"]),
        ("one that begins soon", market(0, vec![], vec![lease(NOW_MS + 120_000, u64::MAX)]), true, ["llm", "miner"]),
        ("one that does not", market(0, vec![], vec![lease(NOW_MS + 120_001, u64::MAX)]), true, ["miner", "miner"]),
        ("one that is over", market(0, vec![], vec![lease(0, NOW_MS)]), true, ["miner", "miner"]),
        ("nobody knows whether one has begun", market(0, vec![], vec![lease(0, u64::MAX)]), false, ["miner", "miner"]),
    ] {
        let mut planned = Bench { market, clock_known, ..Bench::new() }.planned();
        planned.sort();
        assert_eq!(planned, expected, "{name}");
    }
    // One that runs goes on, whatever a wrong clock says of its end.
    let over = market(0, vec![], vec![lease(0, NOW_MS - 1)]);
    let mut bench = Bench { market: over, clock_known: false, ..Bench::new() };
    bench.payloads[1].phase = Phase::Running;
    bench.payloads[1].gpus = vec!["G1".to_owned()];
    assert_eq!(bench.planned(), ["miner", "llm"]);
    let dear =
        Some(Market { until_ms: NOW_MS + 1, energy: Some(MicroPerKilowattHour(9_000_000)), ..Market::default() });
    assert_eq!(Bench { market: dear, ..Bench::new() }.planned(), ["-", "-"]);
}

#[test]
fn what_nobody_knows_is_tried_once_a_day_where_a_gpu_can_be_spared() {
    let tried = |bench: &Bench| bench.tried().map(|trial| (trial.payload, trial.uuid));
    let on = |uuid: &str| Some(("llm".to_owned(), uuid.to_owned()));
    let mut bench = Bench::new();
    assert_eq!(tried(&bench), on("G0"));
    bench.payloads[0] =
        Status { phase: Phase::Running, gpus: vec!["G0".to_owned()], since: NOW, ..bench.payloads[0].clone() };
    assert_eq!(tried(&bench), on("G1"), "an idle one first");
    bench.payloads[0].gpus.push("G1".to_owned());
    assert_eq!(tried(&bench), None, "it has run for no time");
    bench.payloads[0].since = NOW - Duration::from_secs(3_600);
    assert_eq!(tried(&bench), on("G0"));
    bench.yields.tried("llm", NOW_MS + 1 - DAY_MS);
    assert_eq!(tried(&bench), None, "once a day");
    bench.yields.tried("llm", NOW_MS - DAY_MS);
    assert_eq!(tried(&bench), on("G0"));
    // While it is tried it goes before all others, on that GPU alone; then the plan has the word again.
    bench.trial = bench.tried();
    assert_eq!(bench.trial.as_ref().unwrap().until, NOW + Duration::from_secs(30 + 60 + 300));
    assert_eq!(bench.planned(), ["llm", "miner"]);
    bench.trial = None;
    assert_eq!(bench.planned(), ["miner", "miner"]);
    // Known on one make, it is tried on the other all the same.
    bench.yields.learn("llm", &[("G0".to_owned(), Milliwatts(220_000))], true, MilliPerSecond(1), 3_600);
    assert_eq!(tried(&bench), None, "its like is known");
    let other = Device { name: "another make".to_owned(), ..Device::clone(bench.gpus[1].device.as_ref().unwrap()) };
    bench.gpus[1].device = Some(Arc::new(other));
    assert_eq!(tried(&bench), on("G1"));
    let worthless = Market { until_ms: NOW_MS + 1, values: vec![], ..Market::default() };
    let value = MarketValue { payload: "llm".to_owned(), value: MicroPerTera(0) };
    bench.market = Some(Market { values: vec![value], ..worthless });
    assert_eq!(tried(&bench), None, "its work is worth nothing");
}

#[test]
fn what_was_promised_is_held_back_last() {
    let mut bench = Bench::new();
    for (at, gpu) in ["G0", "G1"].into_iter().enumerate() {
        bench.payloads[at].phase = Phase::Running;
        bench.payloads[at].gpus = vec![gpu.to_owned()];
    }
    let worths = |bench: &Bench| {
        bench.with(|facts| {
            let draft = facts.draft();
            crate::arbiter::worths(&draft, &facts.inputs(&draft))
        })
    };
    let worth = |bench: &Bench, name: &str| worths(bench).get(name).copied();
    assert!(worth(&bench, "miner").is_some_and(|worth| worth > 1));
    assert_eq!(worth(&bench, "llm"), None, "nobody knows what it yields");
    let lease = MarketLease { payload: "llm".to_owned(), from_ms: NOW_MS, to_ms: NOW_MS + 1, priority: 3 };
    bench.market = Some(Market { until_ms: NOW_MS + 1, leases: vec![lease], ..Market::default() });
    assert!(worth(&bench, "llm") > worth(&bench, "miner"));
    bench.market = None;
    bench.trial = Some(Trial { payload: "llm".to_owned(), uuid: "G1".to_owned(), until: NOW });
    assert_eq!(worth(&bench, "llm"), None, "what is only tried was promised to nobody");
}

#[test]
fn it_is_told_what_keeps_a_gpu_from_every_payload() {
    type Change = fn(&mut Bench);
    let changes: [(&str, Change, Option<&str>); 8] = [
        ("nothing", |_| {}, None),
        ("memory", |bench| bench.gpus[1] = gpu(1, 601), Some("not free: 601 MiB are in use, and no payload is on it")),
        (
            "a process",
            |bench| bench.gpus[1].processes = Ok(vec![Process { pid: 7, memory: Ok(Mebibytes(1)) }]),
            Some("not free: process 7 is on it, and no payload"),
        ),
        (
            "what is not known",
            |bench| bench.gpus[1].processes = Err(Missing::Bus),
            Some("not free: what runs on it is not known: bus"),
        ),
        (
            "a payload",
            |bench| {
                bench.payloads[0].phase = Phase::Running;
                bench.payloads[0].gpus = vec!["G1".to_owned()];
            },
            None,
        ),
        (
            "what is private",
            |bench| {
                bench.leaves("gone", "G1");
                bench.leaves("llm", "G1");
            },
            Some("not free: what is private of gone, llm is not removed yet"),
        ),
        ("what is private elsewhere", |bench| bench.leaves("gone", "G0"), None),
        ("a fault", |bench| bench.gpus[1].presence = Presence::Lost, Some("does not answer")),
    ];
    for (name, change, expected) in changes {
        let mut bench = Bench::new();
        change(&mut bench);
        assert_eq!(bench.with(|facts| facts.taken("G1")).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_guess_is_planned_with_until_somebody_knows_better() {
    let guess = |bench: &mut Bench, rate: u64| {
        let mut terms = Terms::clone(bench.payloads[1].plan.as_ref().unwrap());
        terms.plan.guess = Some(Yield { rate: MilliPerSecond(rate), power: Milliwatts(220_000) });
        bench.payloads[1].plan = Some(Arc::new(terms));
    };
    let known = |bench: &Bench| bench.with(|facts| facts.draft().known[1].clone());
    let tried = |bench: &Bench| bench.tried().map(|trial| trial.payload);
    let mut bench = Bench::new();
    assert_eq!(known(&bench), [None; 2]);
    // A tenth of the miner's rate at twice its value: it would never have its turn, and is tried all the same.
    guess(&mut bench, 10_000_000_000);
    assert_eq!(known(&bench), [Some(Known::Guessed); 2]);
    assert_eq!((bench.planned(), tried(&bench)), (vec!["miner".to_owned(); 2], Some("llm".to_owned())));
    guess(&mut bench, 100_000_000_000);
    let mut planned = bench.planned();
    planned.sort();
    assert_eq!(planned, ["llm", "miner"]);
    bench.yields.learn("llm", &[("G1".to_owned(), Milliwatts(220_000))], true, MilliPerSecond(20_000_000_000), 60);
    assert_eq!(known(&bench), [Some(Known::Alike), Some(Known::Measured)]);
    assert_eq!((bench.planned(), tried(&bench)), (vec!["miner".to_owned(); 2], None));
}

#[test]
fn a_start_waits_for_every_payloads_past() {
    let mut bench = Bench::new();
    assert!(bench.with(|facts| facts.ready()));
    bench.payloads[1].known = false;
    assert!(!bench.with(|facts| facts.ready()));
}
