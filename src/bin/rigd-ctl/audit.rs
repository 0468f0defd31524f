//! `rigd-ctl audit`: who made the rig do what, and whether the log of it is what was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::Subcommand;
use rigd::audit::{Head, Record, Report, Who, verify};
use rigd::wire::hex;

use crate::people::harmless;
use crate::print;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Check that no record was changed, removed, added or moved; exit: 0 whole, 1 not, or no record there
    #[command(after_help = "Example:\n  rigd-ctl audit verify /var/lib/rigd/audit --head 812:5f0c…")]
    Verify {
        /// The log's directory
        directory: PathBuf,
        /// What the rig told of its log's end: the number of a record and its hash
        #[arg(long, value_name = "N:HASH", value_parser = head)]
        head: Option<Head>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the records
    Show {
        /// The log's directory
        directory: PathBuf,
        /// Go on with what is added
        #[arg(short, long)]
        follow: bool,
        /// As JSON, one a line
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(verb: &Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Verify { directory, head, json } => whole(directory, *head, *json),
        Verb::Show { directory, follow, json } => show(directory, *follow, *json),
    }
}

fn head(text: &str) -> Result<Head, String> {
    let parsed = text.split_once(':').and_then(|(n, hash)| {
        let hash: rigd::wire::PublicKey = hash.parse().ok()?;
        Some(Head { n: n.parse().ok()?, hash: hash.0 })
    });
    parsed.ok_or_else(|| "must be a number, a colon and 64 hexadecimal digits".to_owned())
}

fn read(directory: &Path, each: impl FnMut(&Record)) -> anyhow::Result<Report> {
    verify(directory, each).with_context(|| format!("{}: could not be read", directory.display()))
}

/// What the log says to a head that the rig once told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It has that record with that hash.
    Same,
    /// It has another one there.
    Another,
    /// It does not go that far.
    Missing,
    /// That record was rotated away.
    Gone,
}

/// `before` is what record `wanted.n + 1` says of it.
fn compare(report: &Report, before: Option<[u8; 32]>, wanted: Head) -> Told {
    let found = if report.head.n == wanted.n { Some(report.head.hash) } else { before };
    match found {
        Some(hash) if hash == wanted.hash => Told::Same,
        Some(_) => Told::Another,
        None if wanted.n > report.head.n => Told::Missing,
        None => Told::Gone,
    }
}

fn whole(directory: &Path, wanted: Option<Head>, json: bool) -> anyhow::Result<ExitCode> {
    let mut before = None;
    let report = read(directory, |record| {
        if wanted.is_some_and(|wanted| record.n == wanted.n + 1) {
            before = Some(record.prev);
        }
    })?;
    let told = wanted.map(|wanted| compare(&report, before, wanted));
    // A directory without a record is no log that could be whole: more likely the wrong one.
    let good = report.broken.is_none() && report.head.n > 0 && !matches!(told, Some(Told::Another | Told::Missing));
    if json {
        let broken =
            report.broken.as_ref().map(|one| serde_json::json!({"file": one.file, "n": one.n, "why": one.why}));
        let value = serde_json::json!({
            "whole": good, "first": report.first, "head": {"n": report.head.n, "hash": hex(&report.head.hash)},
            "broken": broken, "cut": report.cut, "missed": report.missed,
            "told": told.map(|told| format!("{told:?}").to_lowercase()),
        });
        print(&format!("{value}\n"))?;
    } else {
        print(&words(&report, told))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(report: &Report, told: Option<Told>) -> String {
    let Report { first, head, broken, cut, missed } = report;
    let mut text = match head.n {
        0 => "there is no record: is this the log's own directory, such as /var/lib/rigd/audit?\n".to_owned(),
        n => format!("records {first} to {n} hold together; the last is {n}:{}\n", hex(&head.hash)),
    };
    if let Some(broken) = broken {
        text += &format!("BROKEN at record {}: {} ({})\n", broken.n, broken.why, broken.file);
    }
    if *cut > 0 {
        text += &format!("{cut} bytes at the end are no whole record: a power cut, or somebody's hand\n");
    }
    if *missed > 0 {
        text += &format!("{missed} entries could not be written\n");
    }
    text += match told {
        None => "",
        Some(Told::Same) => "what the rig told of it is in it\n",
        Some(Told::Another) => "WRITTEN ANEW: what the rig told of it is not what is in it\n",
        Some(Told::Missing) => "CUT OFF: it ends before what the rig told of it\n",
        Some(Told::Gone) => "what the rig told of it was rotated away\n",
    };
    text
}

fn show(directory: &Path, follow: bool, json: bool) -> anyhow::Result<ExitCode> {
    let mut shown = 0;
    let mut seen = None;
    loop {
        // A log that did not change is not read again: it may have sixteen megabytes.
        let now = stamp(directory);
        if now != seen || now.is_none() {
            let mut text = String::new();
            let report = read(directory, |record| {
                if record.n > shown {
                    text += &if json { to_json(record) } else { line(record) };
                }
            })?;
            print(&text)?;
            if let Some(broken) = report.broken {
                anyhow::bail!("{}: broken at record {}: {}", broken.file, broken.n, broken.why);
            }
            (shown, seen) = (report.head.n, now);
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK);
    }
}

/// What changes when the log does.
fn stamp(directory: &Path) -> Option<Vec<(PathBuf, u64)>> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let mut files: Vec<_> = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect();
    files.sort();
    Some(files)
}

fn who(who: &Who) -> String {
    match who {
        Who::Keys(keys) => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
        Who::Local { uid } => format!("uid {uid}"),
        Who::Control => "control".to_owned(),
        Who::Config => "configuration".to_owned(),
        Who::Unknown => "nobody known".to_owned(),
    }
}

fn line(record: &Record) -> String {
    let Record { n, prev: _, missed, entry } = record;
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(entry.at_ms.min(clock_end())));
    let at = at.map_or_else(String::new, |at| humantime::format_rfc3339_seconds(at).to_string());
    let lost = if *missed > 0 { format!("({missed} entries before it could not be written) ") } else { String::new() };
    harmless(&format!("{n} {at} {}: {lost}{}: {}", who(&entry.who), entry.what, entry.outcome)) + "\n"
}

/// The last moment that has a text: the end of the year 9999, ms since 1970.
const fn clock_end() -> u64 {
    253_402_300_799_000
}

fn to_json(record: &Record) -> String {
    let Record { n, prev, missed, entry } = record;
    let value = serde_json::json!({
        "n": n, "prev": hex(prev), "missed": missed, "at_ms": entry.at_ms, "boot": entry.boot,
        "who": who(&entry.who), "what": entry.what, "outcome": entry.outcome,
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use rigd::audit::{Audit, Entry};
    use rigd::wire::KeyId;

    use super::*;

    #[test]
    fn a_log_is_shown_and_compared_with_what_the_rig_told() {
        let directory = std::env::temp_dir().join(format!("rigd-ctl-audit-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let (mut audit, _) = Audit::open(&directory).unwrap();
        let entry = |what: &str| Entry {
            at_ms: 1_700_000_000_000,
            boot: 7,
            who: Who::Keys(vec![KeyId([0xab; 8])]),
            what: what.to_owned(),
            outcome: "done\x1b[2J".to_owned(),
        };
        let heads: Vec<Head> = ["one", "two", "three"].map(|what| audit.append(entry(what)).unwrap()).into();
        let mut lines = Vec::new();
        let report = read(&directory, |record| lines.push(line(record))).unwrap();
        assert_eq!(lines[1], "2 2023-11-14T22:13:20Z abababababababab: two: done\u{fffd}[2J\n");
        let prev = |n: u64| {
            let mut found = None;
            read(&directory, |record| found = (record.n == n + 1).then_some(record.prev).or(found)).unwrap();
            found
        };
        for (wanted, expected) in [
            (heads[2], Told::Same),
            (heads[0], Told::Same),
            (Head { hash: [0; 32], ..heads[1] }, Told::Another),
            (Head { n: 9, ..heads[2] }, Told::Missing),
        ] {
            assert_eq!(compare(&report, prev(wanted.n), wanted), expected, "{wanted:?}");
        }
        assert_eq!(head(&format!("3:{}", hex(&heads[2].hash))), Ok(heads[2]));
        assert!(head("3").is_err());
        assert!(whole(&directory, Some(heads[2]), true).is_ok());
        fs::remove_dir_all(&directory).unwrap();
    }
}
