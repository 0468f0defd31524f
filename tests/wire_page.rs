//! The page about the wire for other languages, `src/wire/README.md`, held against the code: its tables against the source
//! of the types, its test vectors against encoder and decoder, and all of it against a reader in Python that knows nothing
//! else.
//!
//! `cargo test --test wire_page -- --ignored` writes the tables anew, and the bytes of a vector that has none.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rigd::wire::{self, Encoding, Kind, Signed, Topic, decode};

#[path = "wire_page/tables.rs"]
mod tables;

const BEGIN: &str = "<!-- From here on written by tests/wire_page.rs from the source. -->\n\n";
const END: &str = "<!-- To here. -->\n";
const VECTOR: &str = "```vector\n";
const WRITE: &str = "cargo test --test wire_page -- --ignored";

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn page() -> String {
    read("src/wire/README.md")
}

/// A message of the page: its bytes, and its JSON.
fn vectors() -> Vec<(Vec<u8>, String)> {
    let page = page();
    let blocks = page.split(VECTOR).skip(1).map(|rest| rest.split("```").next().unwrap());
    let vectors = blocks.map(|block| {
        let (hex, json) = block.split_once('{').unwrap();
        (unhex(hex), format!("{{{}", json.trim()))
    });
    vectors.collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2).unwrap(), 16).unwrap();
    (0..digits.len()).step_by(2).map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tables, and bytes where a vector has none.
#[test]
#[ignore = "writes the page"]
fn write_the_page() {
    let page = page();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut blocks = after.split(VECTOR);
    let mut written = format!("{before}{BEGIN}{}{END}{}", tables::render(read), blocks.next().unwrap());
    for block in blocks {
        written += VECTOR;
        if block.starts_with('{') {
            let (header, message) = decode(block.lines().next().unwrap().as_bytes()).unwrap();
            written += &(hex(&message.encode(Encoding::Postcard, header)) + "\n");
        }
        written += block;
    }
    fs::write(root("src/wire/README.md"), written).unwrap();
    assert_eq!(vectors().len(), page.matches(VECTOR).count());
}

#[test]
fn the_tables_are_those_of_the_source() {
    let page = page();
    let (_, rest) = page.split_once(BEGIN).unwrap();
    let (found, _) = rest.split_once(END).unwrap();
    let expected = tables::render(read);
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "the page differs from the source: {WRITE}");
    }
    assert_eq!(found, expected, "{WRITE}");
}

#[test]
fn there_is_a_vector_for_each_kind_and_each_is_what_the_code_writes() {
    let vectors = vectors();
    let mut kinds = Vec::new();
    for (bytes, json) in &vectors {
        let (header, message) = decode(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
        let written = message.encode(Encoding::Postcard, header);
        assert_eq!(hex(bytes), hex(&written), "the bytes of {json}");
        assert_eq!(String::from_utf8(message.encode(Encoding::Json, header)).unwrap(), *json);
        assert_eq!(decode(bytes), Ok((header, message)));
        kinds.push(header.kind);
    }
    for kind in Kind::ALL {
        assert!(kinds.contains(&kind), "the page has no vector of a {kind:?}");
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let page = page();
    for (name, value) in [
        ("MAX_MESSAGE", wire::MAX_MESSAGE),
        ("LARGEST_FRAME", wire::LARGEST_FRAME),
        ("LONGEST_NAME", wire::LONGEST_NAME),
        ("LONGEST_TEXT", wire::LONGEST_TEXT),
        ("MOST_GPUS", wire::MOST_GPUS),
        ("MOST_LINES", wire::MOST_LINES),
        ("MOST_ENTRIES", wire::MOST_ENTRIES),
        ("MOST_DIFFERENCES", wire::MOST_DIFFERENCES),
        ("MARKS", wire::MARKS),
    ] {
        assert!(page.contains(&format!("| `{name}` | {value} |")), "{name} is {value}");
    }
    for text in [
        wire::GAP,
        wire::EARLY,
        wire::ENDED,
        wire::CONTROLLER,
        Encoding::Postcard.content_type(),
        Encoding::Json.content_type(),
    ] {
        assert!(page.contains(&format!("`{text}`")), "{text}");
    }
    for kind in Kind::ALL {
        let topic = Topic::new("x".parse().unwrap(), kind).to_string().replace("/x/", "/{rig}/");
        assert!(page.contains(&format!("`{topic}`")), "{topic}");
    }
}

#[test]
fn the_signed_vector_fits() {
    let page = page();
    let block = page.split("```signed\n").nth(1).unwrap().split("```").next().unwrap();
    let (line, frame) = block.split_once('\n').unwrap();
    let (topic, key) = line.split_once(' ').unwrap();
    let frame = unhex(frame);
    let signed = Signed::parse(&frame).unwrap();
    assert!(signed.first.fits(&key.parse().unwrap(), topic, signed.message));
    assert!(decode(signed.message).is_ok());
}

/// The reader in Python has the page and nothing else.
#[test]
fn a_reader_of_the_page_alone_reads_every_vector() {
    let vectors = vectors();
    let mut python = Command::new("python3")
        .arg(root("tests/subscriber.py"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("python3: {error}"));
    let lines: String = vectors.iter().map(|(bytes, _)| hex(bytes) + "\n").collect();
    python.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), vectors.len());
    for (line, (_, expected)) in text.lines().zip(&vectors) {
        let read: serde_json::Value = serde_json::from_str(line).unwrap();
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(read.get("message"), Some(&expected));
    }
}
