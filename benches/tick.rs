//! What a tick computes: the decision, and each message written and read. Beside each a floor from the same run: a copy of
//! the same bytes, the same numbers as a flat JSON list, a copy of what the decision remembers.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use rigd::board::Board;
use rigd::clock;
use rigd::control::step::{Inputs, State, step};
use rigd::reading::{Fan, Power, Snapshot, Stage, Zone};
use rigd::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};
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
    };
    let (settled, orders) = (1..60)
        .fold(step(board, State::new(board, start), &at(0)), |(state, _), second| step(board, state, &at(second)));
    assert!(orders.zones.iter().all(|zone| zone.stage == Stage::Normal), "inputs are good");
    let mut group = criterion.benchmark_group("step");
    group.bench_function("good inputs", |b| b.iter(|| step(board, black_box(&settled).clone(), black_box(&at(60)))));
    group.bench_function("floor: copy of its state", |b| b.iter(|| black_box(&settled).clone()));
    group.finish();
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
