//! Every built-in meter against an answer of its payload, and the transport against servers that behave as badly as they
//! come.
//!
//! The answers lie beside this file. `Recorded` ones were given by a running program and published; wallets, pools and
//! names of rigs are made unreadable, what no meter reads may be left out, nothing else is touched. `Documented` ones
//! could not be found recorded: their keys are in the named sources, their numbers are invented.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod transport;

use std::time::Duration;

use rigd::payload::meter::{Answer, BUILTIN, Counters, Meter, Sample, read};
use rigd::reading::{Missing, Reading};

use Evidence::{Documented, Ours, Recorded};

enum Evidence {
    Recorded(&'static str),
    Documented(&'static str),
    /// The meter is for what a user writes after its comment.
    Ours,
}

struct Row {
    meter: &'static str,
    answer: &'static [u8],
    evidence: Evidence,
    /// Everything that is there, ten seconds after the same answer came before.
    expected: &'static str,
}

macro_rules! row {
    ($meter:literal, $file:literal, $evidence:expr, $expected:literal) => {
        Row { meter: $meter, answer: include_bytes!($file), evidence: $evidence, expected: $expected }
    };
}

const ROWS: &[Row] = &[
    row!(
        "bzminer",
        "bzminer.json",
        Documented(
            "github.com/bzminer/bzminer/issues/67 (a pool's keys, recorded) and adapters: RainbowMiner, UG-Miner \
             Includes/MinerAPIs/BzMiner.ps1 (devices)"
        ),
        "rate 10250 work 5 accepted 5 rejected 2 stale 1 uptime 10 version v100.45"
    ),
    row!(
        "ccminer",
        "ccminer.txt",
        Recorded("github.com/delawr0190/foreman-apps, CcMinerYescryptITest.java: the fake API's answer"),
        "rate 3370000 work 1 accepted 1 rejected 0 uptime 17 version Yescrypt/R16/R32.V10"
    ),
    row!(
        "cgminer",
        "cgminer.json",
        Recorded(
            "github.com/getminera/minera/issues/236, cgminer 4.9.2, the answer to `summary` out of one to several commands, \
                  with the NUL that api.c sends behind it"
        ),
        "rate 181714210000000 work 187 accepted 187 rejected 0 stale 0 uptime 18955 version cgminer 4.9.2"
    ),
    // A number as text and a line feed inside a string; closed here where the copy that was found ends.
    row!(
        "cgminer",
        "cgminer-s15.json",
        Recorded("github.com/getminera/minera/issues/236, cgminer 4.9.0 of an Antminer S15, the same way"),
        "rate 28982240000000000 work 76504 accepted 76504 rejected 73 stale 56 uptime 1301337 version cgminer 4.9.0"
    ),
    row!(
        "generic-json",
        "generic-json.json",
        Ours,
        "rate 12500 work 4711 accepted 4700 rejected 11 running 2 queue 0 uptime 60 version 1"
    ),
    row!("generic-prometheus", "generic-prometheus.txt", Ours, "rate 0 work 42 running 2 queue 7 uptime 61"),
    row!(
        "gminer",
        "gminer.json",
        Recorded("github.com/delawr0190/foreman-apps, GminerITest.java: the fake API's answer; a version before 1.50"),
        "rate 253000 work 5 accepted 5 rejected 0 uptime 37"
    ),
    row!(
        "llama-cpp",
        "llama-cpp.txt",
        Recorded("github.com/ikawrakow/ik_llama.cpp/pull/695, whose metrics are llama.cpp's of August 2025"),
        "rate 0 work 3469 running 0 queue 0"
    ),
    row!(
        "lolminer",
        "lolminer.json",
        Recorded("drismir.ca, 2024-12-05, «Using an old PC to mine crypto»"),
        "rate 5654916174 work 68 accepted 68 rejected 0 stale 0 uptime 3710 version lolMiner 1.92"
    ),
    row!("ollama", "ollama.json", Recorded("github.com/attogram/ollama-bash-lib, demos/ps.md, v0.39.1"), "loaded 2"),
    row!(
        "rigel",
        "rigel.json",
        Recorded("public code with `REAL_API_RESPONSE`, «captured live 2026-09-23 from a real Rigel v1.23.2»"),
        "rate 12112196 work 1405 accepted 1405 rejected 0 uptime 286 version 1.23.2"
    ),
    row!(
        "sglang",
        "sglang.txt",
        Recorded("github.com/sgl-project/sglang, docs/references/production_metrics.md"),
        "rate 0 work 7557572 running 162 queue 2826"
    ),
    row!(
        "srbminer",
        "srbminer.json",
        Documented(
            "github.com/doktor83/SRBMiner-Multi/issues/44 (0.7.3, recorded, up to the devices); `algorithms` as a \
             public `test_parse_srbminer` recorded it in 2026, with a mean as RainbowMiner reads it"
        ),
        "rate 89900000000000000 work 1 accepted 1 rejected 0 uptime 15459 version 0.7.3"
    ),
    row!(
        "t-rex",
        "t-rex.json",
        Recorded("github.com/delawr0190/foreman-apps, trex/json/Summary.java, T-Rex 0.6.3; one of its eight cards"),
        "rate 150645350000 work 10 accepted 10 rejected 0 uptime 31 version 0.6.3"
    ),
    row!(
        "teamredminer",
        "teamredminer.json",
        Recorded("github.com/delawr0190/foreman-apps, TeamRedMiner_0_3_10_ITest.java"),
        "rate 1794000000 work 9 accepted 9 rejected 0 uptime 103 version TeamRedMiner 0.3.10"
    ),
    row!(
        "tgi",
        "tgi.txt",
        Documented(
            "github.com/huggingface/text-generation-inference, docs/source/reference/metrics.md and router/src/server.rs; \
             the form as metrics-exporter-prometheus writes it"
        ),
        "rate 0 work 12345 accepted 42 rejected 1 running 3 queue 2"
    ),
    row!(
        "triton",
        "triton.txt",
        Recorded(
            "public code with `ModelMetricsWriter` and `gpt_neo_cola_ensemble`: an ensemble of four parts, shortened"
        ),
        "rate 0 work 6644 accepted 6644 rejected 0"
    ),
    row!(
        "vllm",
        "vllm.txt",
        Recorded(
            "github.com/IBM/vllm/pull/18 (counters) and github.com/vllm-project/production-stack/issues/318 (gauges)"
        ),
        "rate 0 work 218152 running 0 queue 0"
    ),
    // Broken off in the middle, as it was reported: what stands before counts.
    row!(
        "xmrig",
        "xmrig.json",
        Recorded(
            "github.com/xmrig/xmrig/issues/3363: 6.20.0, its `hashrate` from the 6.21.0 further down; `kind` by APP_KIND"
        ),
        "rate 1276230 work 0 accepted 0 rejected 0 uptime 4 version 6.20.0"
    ),
];

fn meter(name: &str) -> Meter {
    Meter::load(name).unwrap_or_else(|problems| panic!("{problems}"))
}

fn answer(bytes: &[u8], whole: bool) -> Answer {
    Answer { bytes: bytes.to_vec(), whole }
}

/// All values by name; the rate in thousandths a second.
fn values(sample: &Sample) -> Vec<(&'static str, Reading<String>)> {
    let count = |reading: Reading<u64>| reading.map(|count| count.to_string());
    let Sample { rate, work, accepted, rejected, stale, running, queue, loaded, uptime_s, version, counters: _ } =
        sample;
    vec![
        ("rate", count(rate.map(|rate| rate.0))),
        ("work", count(*work)),
        ("accepted", count(*accepted)),
        ("rejected", count(*rejected)),
        ("stale", count(*stale)),
        ("running", count(*running)),
        ("queue", count(*queue)),
        ("loaded", count(*loaded)),
        ("uptime", count(*uptime_s)),
        ("version", version.clone()),
    ]
}

fn ten_seconds_later(meter: &Meter, answer: &Answer) -> Sample {
    let first: Counters = read(meter, answer, None, Duration::ZERO).counters;
    read(meter, answer, Some(&first), Duration::from_secs(10))
}

#[test]
fn every_built_in_meter_reads_its_payload_s_answer() {
    for row in ROWS {
        let sample = ten_seconds_later(&meter(row.meter), &answer(row.answer, true));
        let there: Vec<_> = values(&sample)
            .into_iter()
            .filter_map(|(name, value)| match value {
                Ok(value) => Some(format!("{name} {value}")),
                // Behind the break of an answer that was recorded broken.
                Err(Missing::NotPresent | Missing::Bus) => None,
                Err(reason) => panic!("{}: {name}: {reason}", row.meter),
            })
            .collect();
        assert_eq!(there.join(" "), row.expected, "{}", row.meter);
    }
}

#[test]
fn every_built_in_meter_has_an_answer_with_its_source() {
    for (name, text) in BUILTIN {
        assert!(ROWS.iter().any(|row| row.meter == *name), "{name} has no answer in tests/meters");
        assert_eq!(meter(name).name, *name, "a meter is called what its file is called");
        assert!(text.starts_with("# "), "{name} does not say what it is for");
    }
    for row in ROWS {
        assert!(!row.answer.is_empty(), "{}", row.meter);
        match row.evidence {
            Recorded(source) | Documented(source) => assert!(source.len() > 20, "{}", row.meter),
            Ours => assert!(row.meter.starts_with("generic-"), "{}", row.meter),
        }
    }
}

#[test]
fn an_answer_that_is_cut_anywhere_gives_the_right_value_or_none() {
    for row in ROWS {
        let meter = meter(row.meter);
        let right = values(&read(&meter, &answer(row.answer, true), None, Duration::ZERO));
        for end in 0..row.answer.len() {
            let cut = values(&read(&meter, &answer(&row.answer[..end], false), None, Duration::ZERO));
            for ((name, right), (_, value)) in right.iter().zip(cut) {
                assert!(value.is_err() || value == *right, "{} cut at {end}: {name} is {value:?}", row.meter);
            }
        }
    }
}

#[test]
fn a_labelled_copy_takes_one_model_of_many() {
    let text = BUILTIN.iter().find(|(name, _)| *name == "triton").map(|(_, text)| *text).unwrap();
    let one = text
        .replace("\"nv_inference_request_success\"", "'nv_inference_request_success{model=\"gpt_neo_cola_ensemble\"}'");
    let meter = Meter::parse("triton.toml", &one).unwrap_or_else(|problems| panic!("{problems}"));
    let row = ROWS.iter().find(|row| row.meter == "triton").unwrap();
    assert_eq!(read(&meter, &answer(row.answer, true), None, Duration::ZERO).work, Ok(1_208));
}
