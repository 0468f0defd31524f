//! What it costs that nothing is lost: records written and synced, read back, found again at a start; each beside the bare
//! calls on the same bytes in the same run. And what a sample weighs, beside JSON and Sparkplug B.
//!
//! `TMPDIR` says which disk.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stdout, reason = "what it finds is for people")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rigd::board::Board;
use rigd::clock::now;
use rigd::mqtt::outbox::config::{Delivery, OutboxConfig};
use rigd::mqtt::outbox::{Lane, Outbox};
use rigd::reading::{Fan, Power, Snapshot, Stage, Zone};
use rigd::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};
use rigd::wire::{Encoding, Header, Kind, Losses, Telemetry, encode};
use serde_json::Value;

/// Bytes of a message, and what the disk holds beside it for each.
const MESSAGE: usize = 350;
const BESIDE: usize = 31;
const RECORD: usize = MESSAGE + BESIDE;
/// Of a full disk.
const FULL: usize = 64 << 20;

fn main() {
    let root = std::env::temp_dir().join(format!("rigd-outbox-bench-{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for batch in [1, 32] {
        let count = 2_000 * batch.min(8);
        let (bare, took) = (bare_append(&root, batch, count), runtime.block_on(append(&root, batch, count)));
        line(&format!("append, synced per {batch}: bare write + fdatasync"), count, bare);
        line(&format!("append, synced per {batch}: outbox"), count, took);
    }
    runtime.block_on(full(&root.join("full")));
    let begun = now();
    let (files, bytes) = read_all(&root.join("full"));
    println!(
        "{:<52} {:>8} ms",
        format!("{files} files of {} MiB: bare read", bytes >> 20),
        begun.elapsed().as_millis()
    );
    runtime.block_on(recover_and_drain(&root.join("full")));
    fs::remove_dir_all(&root).unwrap();
    weigh();
}

fn line(what: &str, count: usize, took: Duration) {
    let rate = f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64();
    println!("{what:<52} {rate:>8.0} records/s");
}

fn outbox(directory: PathBuf, boot: u32) -> Outbox {
    let config = OutboxConfig {
        ram_bytes: 1 << 20,
        disk_bytes: 256 << 20,
        max_age: Duration::from_secs(86_400),
        delivery: Delivery::Puback,
        pace: Duration::ZERO,
    };
    Outbox::new(config, boot, 7, directory)
}

async fn append(root: &Path, batch: usize, count: usize) -> Duration {
    let mut outbox = outbox(root.join(format!("append-{batch}")), 1);
    // The disk is opened before the clock runs.
    let first = outbox.push(Lane::Event, Vec::new(), |_| vec![0; MESSAGE]);
    while !outbox.safe(first) {
        outbox.happened().await;
    }
    let begun = now();
    for _ in 0..count / batch {
        let mut last = first;
        for _ in 0..batch {
            last = outbox.push(Lane::Event, Vec::new(), |_| vec![7; MESSAGE]);
        }
        while !outbox.safe(last) {
            outbox.happened().await;
        }
    }
    begun.elapsed()
}

fn bare_append(root: &Path, batch: usize, count: usize) -> Duration {
    let mut file = File::create(root.join("bare")).unwrap();
    let bytes = vec![7; RECORD * batch];
    let begun = now();
    for _ in 0..count / batch {
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
    begun.elapsed()
}

/// Fills a disk's budget with events that nobody took.
async fn full(directory: &Path) {
    let mut outbox = outbox(directory.to_owned(), 1);
    for _ in 0..FULL / RECORD / 256 {
        let mut last = outbox.push(Lane::Event, Vec::new(), |_| vec![7; MESSAGE]);
        for _ in 1..256 {
            last = outbox.push(Lane::Event, Vec::new(), |_| vec![7; MESSAGE]);
        }
        while !outbox.safe(last) {
            outbox.happened().await;
        }
    }
    outbox.close().await;
}

fn read_all(directory: &Path) -> (usize, usize) {
    let files = fs::read_dir(directory.join("event")).unwrap();
    files.fold((0, 0), |(files, bytes), file| (files + 1, bytes + fs::read(file.unwrap().path()).unwrap().len()))
}

async fn recover_and_drain(directory: &Path) {
    let begun = now();
    let mut outbox = outbox(directory.to_owned(), 2);
    while outbox.waiting() == 0 {
        outbox.happened().await;
    }
    let waiting = outbox.waiting();
    println!("{:<52} {:>8} ms", format!("found again: {waiting} records"), begun.elapsed().as_millis());
    outbox.connected();
    let begun: Instant = now();
    let mut count = 0;
    while outbox.waiting() > 0 {
        while let Some(message) = outbox.next_message() {
            outbox.sent(message.ticket);
            outbox.settled(message.ticket);
            count += 1;
        }
        outbox.happened().await;
    }
    line("drained, each acknowledged at once", count, begun.elapsed());
}

/// The same sample in each form.
fn weigh() {
    let board = Board::load("simulated-8gpu").unwrap();
    let power =
        |mv, ma, mw| Power { voltage: Ok(Millivolts(mv)), current: Ok(Milliamps(ma)), power: Ok(Milliwatts(mw)) };
    let duty = Duty::from_percent(45).unwrap();
    let supply = [power(230_000, 11_460, 2_632_000), power(12_125, 203_000, 2_461_000)];
    let snapshot = Snapshot {
        rails: board.rails.iter().map(|_| power(12_015, 24_250, 291_000)).collect(),
        supplies: board.supplies.iter().map(|_| supply).collect(),
        sensors: board.sensors.iter().map(|_| Ok(Millicelsius(41_250))).collect(),
        fans: board.fans.iter().map(|_| Fan { rpm: Ok(Rpm(2_160)), duty: Ok(duty), fault: false }).collect(),
        zones: board.zones.iter().map(|_| Zone { duty: Ok(duty), stage: Stage::Normal }).collect(),
        ..Snapshot::default()
    };
    let telemetry = Telemetry::new(1 << 31, 1_700_000_000_123, 65_000_000, &snapshot, Losses::default(), 0);
    let header = Header::new(Kind::Telemetry, 0xfeed_5eed, 65_000);
    let mut leaves = Vec::new();
    flatten(&serde_json::to_value(&telemetry).unwrap(), &mut leaves);
    println!("a sample of {} values:", leaves.len());
    for (what, bytes) in [
        ("postcard, with its header of 16 bytes", encode(Encoding::Postcard, header, &telemetry).len()),
        ("JSON", encode(Encoding::Json, header, &telemetry).len()),
        ("Sparkplug B, aliases, one timestamp", sparkplug(&leaves, false).len()),
        ("Sparkplug B, aliases, a timestamp per metric", sparkplug(&leaves, true).len()),
    ] {
        println!("  {what:<50} {bytes:>8} bytes");
    }
}

fn flatten(value: &Value, leaves: &mut Vec<Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, leaves)),
        Value::Object(values) => values.values().for_each(|value| flatten(value, leaves)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => leaves.push(value.clone()),
    }
}

/// A payload with a metric for each value (`sparkplug_b.proto`): timestamp 1, metrics 2, seq 3; in a metric alias 2,
/// timestamp 3, `is_null` 7, `int_value` 10, `long_value` 11, `boolean_value` 14, `string_value` 15. Names and types are in
/// the birth.
fn sparkplug(leaves: &[Value], stamped: bool) -> Vec<u8> {
    const STAMP: u64 = 1_700_000_000_123;
    let mut payload = field(1, STAMP);
    for (alias, leaf) in (0..).zip(leaves) {
        let mut metric = field(2, alias);
        if stamped {
            metric.extend(field(3, STAMP));
        }
        match leaf {
            Value::Null => metric.extend(field(7, 1)),
            Value::Bool(value) => metric.extend(field(14, (*value).into())),
            Value::Number(value) => {
                let value = value.as_u64().unwrap();
                metric.extend(field(if u32::try_from(value).is_ok() { 10 } else { 11 }, value));
            }
            Value::String(value) => metric.extend(text(15, value.as_bytes())),
            Value::Array(_) | Value::Object(_) => {}
        }
        payload.extend(text(2, &metric));
    }
    payload.extend(field(3, 42));
    payload
}

/// A number, wire type 0.
fn field(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

/// Bytes with their length, wire type 2.
fn text(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(u64::try_from(bytes.len()).unwrap()), bytes.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}
