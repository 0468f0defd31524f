//! What a tick computes: the decision, and each message written and read. Beside each a floor from the same run: a copy of
//! the same bytes, the same numbers as a flat JSON list, a copy of what the decision remembers.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use rigd::board::Board;
use rigd::clock;
use rigd::control::step::ladder::Rung;
use rigd::control::step::power::{self, Cap, Guard, Payload, Policy, Source};
use rigd::control::step::{GpuLimited, Inputs, State, step};
use rigd::gpu::wire::{Code, Device, PciAddress, Sample};
use rigd::gpu::{Gpu, Presence};
use rigd::payload::manifest::Kind as PayloadKind;
use rigd::reading::{Fan, Power, Snapshot, Stage, Zone};
use rigd::units::{Duty, Megahertz, Milliamps, Millicelsius, Millivolts, Milliwatts, Percent, Rpm};
use rigd::wire::{Birth, Encoding, Header, Kind, Losses, Telemetry, decode, encode};
use serde::Serialize;

/// The simulated board has three.
const SENSORS: usize = 12;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(10_000)
        .configure_from_args();
    let board = board();
    let birth = Birth::new("rig-0001".parse().unwrap(), &board, Encoding::Postcard, 1_000, 1_700_000_000_000);
    let snapshot = snapshot(&board);
    decision(&mut criterion, &board, &snapshot);
    let telemetry = Telemetry::new(birth.id, 1_700_000_000_123, 65_000, &snapshot, Losses::default(), 0);
    let mut group = criterion.benchmark_group("telemetry");
    group.bench_function("from a snapshot", |b| {
        b.iter(|| Telemetry::new(birth.id, 1_700_000_000_123, 65_000, black_box(&snapshot), Losses::default(), 0));
    });
    message(&mut group, Header::new(Kind::Telemetry, 0xfeed_5eed, 65), &telemetry);
    floor(&mut group, &numbers(&snapshot));
    group.finish();
    let mut group = criterion.benchmark_group("birth");
    message(&mut group, Header::new(Kind::Birth, 0xfeed_5eed, 0), &birth);
    group.finish();
    criterion.final_summary();
}

fn decision(criterion: &mut Criterion, board: &Board, snapshot: &Snapshot) {
    let start = clock::now();
    let at = |seconds| Inputs {
        now: start + Duration::from_secs(seconds),
        sensors: &snapshot.sensors,
        fans: &snapshot.fans,
        rails: &snapshot.rails,
        curves: &[],
        quiet: None,
        gpus: &[],
        request: None,
        power: None,
    };
    let (settled, orders) = (1..60)
        .fold(step(board, State::new(board, start), &at(0)), |(state, _), second| step(board, state, &at(second)));
    assert!(orders.zones.iter().all(|zone| zone.stage == Stage::Normal), "inputs are good");
    let rig = Sixteen::new();
    let rich =
        |seconds| Inputs { gpus: &rig.gpus, power: Some((&rig.policy, rig.inputs(start, seconds))), ..at(seconds) };
    let held = (1..60)
        .fold(step(board, State::new(board, start), &rich(0)), |(state, _), second| step(board, state, &rich(second)));
    let limited = |gpu: &GpuLimited| gpu.limits.power.is_some() && gpu.heat.rung >= Rung::Limit;
    assert!(held.1.limited.gpus.iter().all(limited), "a cap holds, and heat does");
    let held = held.0;
    let mut group = criterion.benchmark_group("step");
    group.bench_function("good inputs", |b| b.iter(|| step(board, black_box(&settled).clone(), black_box(&at(60)))));
    group.bench_function("floor: copy of its state", |b| b.iter(|| black_box(&settled).clone()));
    group.bench_function("16 hot GPUs under a cap", |b| {
        b.iter(|| step(board, black_box(&held).clone(), black_box(&rich(60))))
    });
    group.bench_function("floor: copy of its state with 16 GPUs", |b| b.iter(|| black_box(&held).clone()));
    group.finish();
}

/// Sixteen hot GPUs with a payload each, a cap that holds all of them back, and a breaker for each half.
struct Sixteen {
    policy: Policy,
    gpus: Vec<Gpu>,
    power: Vec<power::Gpu>,
    payloads: Vec<Payload>,
    caps: Vec<Cap>,
    guards: Vec<Guard>,
}

impl Sixteen {
    fn new() -> Self {
        let own = |payload: usize| power::Gpu {
            limits: Some((Milliwatts(100_000), Milliwatts(480_000))),
            top: Milliwatts(350_000),
            power: Ok(Milliwatts(150_000)),
            idle: Milliwatts(25_000),
            clock: Ok(Megahertz(1_500)),
            max_clock: Some(Megahertz(2_100)),
            payload: Some(payload),
            worth: u64::try_from(payload / 4).unwrap(),
        };
        let guard = |first: usize| Guard {
            limit: Milliwatts(2_000_000),
            meters: vec![Ok(Milliwatts(1_400_000))],
            gpus: (first..first + 8).collect(),
            input: true,
        };
        let payload =
            Payload { kind: PayloadKind::Mining, grace: Duration::from_secs(30), running: true, paused: false };
        Self {
            policy: Policy::default(),
            gpus: (0..16).map(gpu).collect(),
            power: (0..16).map(own).collect(),
            payloads: vec![payload; 16],
            caps: vec![Cap::at_once(Milliwatts(2_800_000), Source::Command)],
            guards: vec![guard(0), guard(8)],
        }
    }

    fn inputs(&self, start: Instant, seconds: u64) -> power::Inputs<'_> {
        let Self { gpus: _, policy: _, power, payloads, caps, guards } = self;
        let meters = &[Ok(Milliwatts(2_790_000))];
        power::Inputs { now: start + Duration::from_secs(seconds), caps, meters, guards, gpus: power, payloads }
    }
}

/// A card at 90 °C, which is hot: it does not tell where it slows down.
fn gpu(bus: u8) -> Gpu {
    let pci = PciAddress { domain: 0, bus, device: 0 };
    let no = Code::NOT_SUPPORTED;
    let device = Device {
        pci,
        uuid: format!("GPU-{bus}"),
        name: "simulated".to_owned(),
        serial: Err(no),
        vbios: Err(no),
        minor: Ok(bus.into()),
        architecture: Ok(7),
        memory: Err(no),
        limits: Ok((Milliwatts(100_000), Milliwatts(480_000))),
        default_limit: Ok(Milliwatts(350_000)),
        max_sm_clock: Ok(Megahertz(2_100)),
        max_memory_clock: Ok(Megahertz(9_751)),
        memory_clocks: Err(no),
        core_offsets: Err(no),
        memory_offsets: Err(no),
        fans: 2,
        fan_drive: Err(no),
        slowdown: Err(no),
        shutdown: Err(no),
        pcie_max_generation: Ok(4),
        pcie_max_width: Ok(16),
    };
    let sample = Sample {
        temperature: Ok(Millicelsius(90_000)),
        margin: Err(no),
        memory_temperature: Err(no),
        power: Ok(Milliwatts(150_000)),
        power_now: Ok(Milliwatts(150_000)),
        energy: Err(no),
        limit: Ok(Milliwatts(160_000)),
        enforced_limit: Ok(Milliwatts(160_000)),
        sm_clock: Ok(Megahertz(1_500)),
        memory_clock: Ok(Megahertz(9_501)),
        pstate: Ok(2),
        load: Ok(Percent(100)),
        memory_load: Ok(Percent(80)),
        memory_used: Err(no),
        fans: Vec::new(),
        reasons: Ok(4),
        pcie_generation: Ok(4),
        pcie_width: Ok(16),
        replays: Ok(0),
        ecc: Err(no),
        remapped: Err(no),
        recovery: Err(no),
    };
    let (device, sample) = (Some(Arc::new(device)), Ok(Arc::new(sample)));
    Gpu { device, presence: Presence::Seen, sample, ..Gpu::unseen(pci) }
}

fn message<T: Serialize>(group: &mut BenchmarkGroup<'_, WallTime>, header: Header, body: &T) {
    for (name, encoding) in [("postcard", Encoding::Postcard), ("JSON", Encoding::Json)] {
        let bytes = encode(encoding, header, body);
        assert!(decode(&bytes).is_ok());
        let named = |what: &str| format!("{what} {name}, {} B", bytes.len());
        group.bench_function(named("encode"), |b| b.iter(|| encode(encoding, header, black_box(body))));
        group.bench_function(named("decode"), |b| b.iter(|| decode(black_box(&bytes))));
        group.bench_function(named("floor: copy of"), |b| b.iter(|| black_box(&bytes).clone()));
    }
}

/// The same numbers as JSON without names, structure or header.
fn floor(group: &mut BenchmarkGroup<'_, WallTime>, numbers: &[i64]) {
    let text = serde_json::to_vec(numbers).unwrap();
    let named = |what: &str| format!("floor: {what} {} numbers as JSON, {} B", numbers.len(), text.len());
    group.bench_function(named("encode"), |b| b.iter(|| serde_json::to_vec(black_box(numbers))));
    group.bench_function(named("decode"), |b| b.iter(|| serde_json::from_slice::<Vec<i64>>(black_box(&text))));
}

/// 8 rails, 6 fans, 12 sensors and a supply.
fn board() -> Board {
    let mut board = Board::load("simulated-8gpu").unwrap();
    let sensor = board.sensors.last().cloned().unwrap();
    board.sensors.resize(SENSORS, sensor);
    // Readings that stand still are good here.
    board.sensors.iter_mut().for_each(|sensor| sensor.frozen_after = None);
    board
}

fn snapshot(board: &Board) -> Snapshot {
    let power =
        |mv, ma, mw| Power { voltage: Ok(Millivolts(mv)), current: Ok(Milliamps(ma)), power: Ok(Milliwatts(mw)) };
    let duty = Duty::from_percent(45).unwrap();
    Snapshot {
        rails: board.rails.iter().map(|_| power(12_015, 24_250, 291_000)).collect(),
        supplies: board
            .supplies
            .iter()
            .map(|_| [power(230_000, 11_460, 2_632_000), power(12_125, 203_000, 2_461_000)])
            .collect(),
        sensors: board.sensors.iter().map(|_| Ok(Millicelsius(41_250))).collect(),
        fans: board.fans.iter().map(|_| Fan { rpm: Ok(Rpm(2_160)), duty: Ok(duty), fault: false }).collect(),
        zones: board.zones.iter().map(|_| Zone { duty: Ok(duty), stage: Stage::Normal }).collect(),
        ..Snapshot::default()
    }
}

fn numbers(snapshot: &Snapshot) -> Vec<i64> {
    let powers = snapshot.rails.iter().chain(snapshot.supplies.iter().flatten());
    let powers = powers.flat_map(|power| {
        [power.voltage.unwrap().0.into(), power.current.unwrap().0.into(), power.power.unwrap().0.into()]
    });
    let sensors = snapshot.sensors.iter().map(|sensor| sensor.unwrap().0.into());
    let fans = snapshot.fans.iter().flat_map(|fan| [fan.rpm.unwrap().0.into(), fan.duty.unwrap().hundredths().into()]);
    powers.chain(sensors).chain(fans).collect()
}
