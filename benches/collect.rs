//! What the collector's store takes: batches of messages, each synced to the disk, as large as a quiet site's, as a broker's
//! window of 20, and full. Beside each a floor from the same run: bare SQLite inserts of the same bytes, synced as often.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use rigd::collect::{Incoming, Store};
use rigd::reading::Snapshot;
use rigd::wire::{Encoding, Header, Kind, Losses, Telemetry, encode};
use rusqlite::Connection;

/// As many rigs send in turn.
const RIGS: u64 = 100;
/// Added to a sample without readings, so that a message has the 287 bytes of one with all: a later version's tail.
const TAIL: usize = 240;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .nresamples(10_000)
        .configure_from_args();
    let directory = std::env::temp_dir().join(format!("rigd-bench-collect-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let mut store = Store::open(&directory).unwrap();
    let bare = bare(&directory.join("bare.db"));
    let mut group = criterion.benchmark_group("collect");
    let mut number = 0;
    for size in [1, 20, 500] {
        group.throughput(Throughput::Elements(size));
        group.bench_with_input(BenchmarkId::new("stored", size), &size, |b, size| {
            b.iter_batched(
                || batch(&mut number, *size),
                |batch| {
                    let batch: Vec<Incoming<'_>> = batch
                        .iter()
                        .map(|(topic, payload)| Incoming {
                            topic: topic.as_bytes(),
                            payload,
                            gap: None,
                            early: None,
                            ended: None,
                        })
                        .collect();
                    assert_eq!(store.commit(&batch, 1_700_000_000_000).unwrap().stored, *size);
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_with_input(BenchmarkId::new("bare SQLite", size), &size, |b, size| {
            b.iter_batched(
                || batch(&mut number, *size),
                |batch| {
                    bare.execute_batch("BEGIN IMMEDIATE").unwrap();
                    let mut insert = bare.prepare("INSERT INTO message (payload) VALUES (?1)").unwrap();
                    for (_, payload) in &batch {
                        insert.execute([payload]).unwrap();
                    }
                    bare.execute_batch("COMMIT").unwrap();
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    criterion.final_summary();
    std::fs::remove_dir_all(&directory).unwrap();
}

/// The next messages of all rigs in turn.
fn batch(number: &mut u64, size: u64) -> Vec<(String, Vec<u8>)> {
    (0..size)
        .map(|_| {
            *number += 1;
            let header = Header::new(Kind::Telemetry, 1, *number / RIGS + 1);
            let body = Telemetry::new(1, 1_700_000_000_000, *number, &Snapshot::default(), Losses::default(), 0);
            let mut payload = encode(Encoding::Postcard, header, &body);
            payload.extend([0; TAIL]);
            (format!("r1/rig-{:04}/up/tele", *number % RIGS), payload)
        })
        .collect()
}

fn bare(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.execute_batch("CREATE TABLE message (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)").unwrap();
    connection
}
