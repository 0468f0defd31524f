//! `rigd-ctl energy`: what a rig has used and what came of it, and whether its receipts are what the rig has signed.
//!
//! ```text
//! show      the agent's socket ──> a table                records ── state directory, or a collector's store ──> lines
//! verify    state directory, collector's store, or such lines ──> each hash, each link, each signature
//! ```

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use rigd::collect::receipts;
use rigd::energy::{Account, Basis, Interval, records, verify};
use rigd::local::{Energy, EnergyAccount, Get, Reply, Request, Use};
use rigd::units::Microjoules;
use rigd::wire::{Message, PayloadUnit, PublicKey, Receipt, decode};
use rigd::{config, energy};
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, unexpected};
use crate::people::{harmless_lines, milli, span, time};
use crate::print;

/// A file of exported lines is no longer: some hundred thousand receipts.
const LONGEST: u64 = 256 * 1024 * 1024;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Show what this rig, its supplies, its GPUs and its payloads have used, and what came of it
    Show {
        /// The agent's socket
        #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
        socket: PathBuf,
        /// Print JSON, one account a line
        #[arg(long)]
        json: bool,
    },
    /// List the receipts of each quarter of an hour
    #[command(after_help = "Example:\n  rigd-ctl energy records /var/lib/rigd --json > rig-7.jsonl")]
    Records {
        /// A rig's state directory, or a collector's store
        #[arg(value_name = "PATH", default_value = config::STATE)]
        from: PathBuf,
        /// Print JSON, one a line: what `verify` takes
        #[arg(long)]
        json: bool,
    },
    /// Check that no receipt was changed, removed or added, and that the rig has signed them; exit: 0 good, 1 not
    #[command(
        after_help = "Example:\n  rigd-ctl energy verify --key 5f0c… rig-7.jsonl\n\nThe key is in the rig's birth and in `rigd-ctl energy show`: note it when the rig is set up."
    )]
    Verify {
        /// The rig's public key; without it a receipt is only held against the key that it names itself
        #[arg(long, value_name = "PUBLIC")]
        key: Option<PublicKey>,
        /// Lines of `records --json`, a rig's state directory, or a collector's store
        #[arg(value_name = "FILE|DIR")]
        from: PathBuf,
    },
}

/// A line of `records --json`. What it says of the interval is for people: the receipt has it in its own bytes.
#[derive(Serialize, Deserialize)]
struct Exported {
    rig: Option<String>,
    interval: Option<Interval>,
    receipt: Receipt,
}

/// Receipts of one rig, in the order of their numbers; its name where that is known.
type Chain = (Option<String>, Vec<Receipt>);

pub(crate) fn run(verb: &Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Show { socket, json } => show(socket, *json).map(|()| ExitCode::SUCCESS),
        Verb::Records { from, json } => {
            let text: String = chains(from)?.iter().map(|chain| list(chain, *json)).collect();
            print(if text.is_empty() {
                "There is no receipt yet: the first comes at the next full quarter of an hour.\n"
            } else {
                &text
            })
            .map(|()| ExitCode::SUCCESS)
        }
        Verb::Verify { key, from } => {
            let chains = chains(from)?;
            let (mut text, mut good) = (String::new(), true);
            for (rig, receipts) in &chains {
                good &= judge(&mut text, rig.as_deref(), receipts, key.as_ref());
            }
            if chains.iter().all(|(_, receipts)| receipts.is_empty()) {
                bail!("{}: there is no receipt in it", from.display());
            }
            print(&harmless_lines(&text))?;
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// What is to be found there.
fn chains(from: &Path) -> anyhow::Result<Vec<Chain>> {
    let shown = from.display();
    if from.is_dir() && !from.join("collect.db").exists() {
        let kept = energy::Kept::read(from).with_context(|| format!("{shown}: could not be read"))?;
        let found = records(from).with_context(|| format!("{shown}: could not be read"))?;
        if let Some(last) = found.last().filter(|last| kept.records > 0 && last.hash != kept.chain) {
            let last = last.interval().map_or(0, |interval| interval.index);
            bail!("{shown}: a record is missing: the books know of {}, the last one there is {last}", kept.records - 1);
        }
        if found.is_empty() && kept.records > 0 {
            bail!("{shown}: {} records are missing: the books know of them", kept.records);
        }
        return Ok(vec![(None, found)]);
    }
    let length = fs::metadata(from).with_context(|| format!("{shown}: could not be read"))?.len();
    let head = fs::File::open(from).and_then(|file| {
        let mut head = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, 16), &mut head).map(|_| head)
    });
    if from.is_dir() || head.is_ok_and(|head| head == b"SQLite format 3\0") {
        return stored(from);
    }
    anyhow::ensure!(length <= LONGEST, "{shown}: longer than {LONGEST} bytes, which no such file is");
    let text = fs::read_to_string(from).with_context(|| format!("{shown}: could not be read"))?;
    let mut chains: Vec<Chain> = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let Exported { rig, receipt, .. } = serde_json::from_str(line)
            .with_context(|| format!("{shown}: line {number} is no line of `rigd-ctl energy records --json`"))?;
        put(&mut chains, rig, receipt);
    }
    Ok(chains)
}

fn put(chains: &mut Vec<Chain>, rig: Option<String>, receipt: Receipt) {
    match chains.iter_mut().find(|(known, _)| *known == rig) {
        Some((_, receipts)) => receipts.push(receipt),
        None => chains.push((rig, vec![receipt])),
    }
}

/// A collector's store. The newest receipt comes again at each start of an agent, and they may come in any order.
fn stored(from: &Path) -> anyhow::Result<Vec<Chain>> {
    let mut chains = Vec::new();
    for (rig, message) in receipts(from)? {
        if let Ok((_, Message::Receipt(receipt))) = decode(&message) {
            put(&mut chains, Some(rig), receipt);
        }
    }
    for (_, receipts) in &mut chains {
        receipts.sort_by_key(|receipt| receipt.interval().map_or(u64::MAX, |interval| interval.index));
        receipts.dedup_by_key(|receipt| receipt.hash);
    }
    Ok(chains)
}

/// Whether these hold together; says so.
fn judge(text: &mut String, rig: Option<&str>, receipts: &[Receipt], key: Option<&PublicKey>) -> bool {
    let name = rig.map(|rig| format!("{rig}: ")).unwrap_or_default();
    let (Some(first), Some(last)) = (receipts.first(), receipts.last()) else { return true };
    let number = |receipt: &Receipt| receipt.interval().map_or(0, |interval| interval.index);
    // Writing to a string does not fail.
    let _ = match verify(receipts, key) {
        Err(broken) => writeln!(text, "{name}BROKEN: {broken}"),
        Ok(()) => {
            let total = receipts.iter().filter_map(Receipt::interval).fold((0_u64, 0_u64), |(energy, gap), one| {
                (energy.saturating_add(one.rig.energy.0), gap.saturating_add(one.rig.gap_ms))
            });
            let (from, to) = (number(first), number(last));
            writeln!(
                text,
                "{name}receipts {from} to {to} hold together: {} kWh, {} s not measured; the last is {}",
                kilowatt_hours(Microjoules(total.0)),
                total.1 / 1_000,
                last.hash
            )
        }
    };
    let good = verify(receipts, key).is_ok();
    if good {
        let mut keys: Vec<PublicKey> = receipts.iter().map(|receipt| receipt.key).collect();
        keys.dedup();
        for signer in keys {
            let whose = if key.is_some() { "" } else { ", which nobody has compared with the rig's: give --key" };
            let _ = writeln!(text, "{name}signed by {signer}{whose}");
        }
    }
    good
}

fn list((rig, receipts): &Chain, json: bool) -> String {
    let mut text = String::new();
    for receipt in receipts {
        let interval = receipt.interval();
        if json {
            let line = Exported { rig: rig.clone(), interval, receipt: receipt.clone() };
            text += &serde_json::to_string(&line).unwrap_or_default();
        } else if let Some(one) = interval {
            let name = rig.as_deref().map(|rig| format!("{rig} ")).unwrap_or_default();
            let payloads: u64 = one.payloads.iter().map(|line| line.used.energy.0).sum();
            let _ = write!(
                text,
                "{name}{:>6}  {} to {}  {:>12} kWh, {:>12} of it payloads; {} s not measured",
                one.index,
                time(one.from_ms),
                time(one.to_ms),
                kilowatt_hours(one.rig.energy),
                kilowatt_hours(Microjoules(payloads)),
                one.rig.gap_ms / 1_000
            );
        } else {
            text += "a record that cannot be read";
        }
        text.push('\n');
    }
    harmless_lines(&text)
}

fn show(socket: &Path, json: bool) -> anyhow::Result<()> {
    let mut agent = Agent::ask(socket, &Request::Get(Get::Energy), None)?;
    let Reply::Energy(head) = agent.reply()? else { return Err(unexpected()) };
    let mut accounts = Vec::new();
    for _ in 0..head.accounts {
        let Reply::EnergyAccount(account) = agent.reply()? else { return Err(unexpected()) };
        accounts.push(account);
    }
    if json {
        let mut text = format!("{}\n", serde_json::to_string(&head)?);
        for account in &accounts {
            writeln!(text, "{}", serde_json::to_string(account)?)?;
        }
        return print(&text);
    }
    print(&harmless_lines(&table(&head, &accounts)))
}

/// With three decimals, cut: a thousandth is a watt-hour.
fn kilowatt_hours(energy: Microjoules) -> String {
    milli(i64::try_from(energy.milliwatt_hours() / 1_000).unwrap_or(i64::MAX), 3)
}

fn table(head: &Energy, accounts: &[EnergyAccount]) -> String {
    if head.at_unix_ms == 0 {
        return "Nothing is counted yet: the books are not open.\n".to_owned();
    }
    let basis = match head.basis {
        Basis::Input => "the supplies' inputs",
        Basis::Rails => "the rails, for the board has no supply that tells its input",
        Basis::Gpus => "what the GPUs tell, for the board measures nothing",
    };
    let mut text = format!("{:<28} {:>14} {:>12} {:>18}  {}\n", "", "KWH", "MISSING", "WORK", "FOR A JOULE");
    for EnergyAccount { of, name, gpu, used, unit, milli_per_joule } in accounts {
        let name = match of {
            Use::Rig => "rig".to_owned(),
            Use::Overhead => "overhead".to_owned(),
            Use::SupplyInput => format!("{name} in"),
            Use::SupplyOutput => format!("{name} out"),
            Use::Gpu => name.clone(),
            Use::Payload => format!("{name} on {gpu}"),
        };
        let Account { energy, work, gap_ms, .. } = used;
        let (work, rate) = match unit {
            Some(unit) => (format!("{work} {}", word(*unit)), milli_per_joule.map(|milli| per_joule(milli, *unit))),
            None if *work > 0 => (work.to_string(), None),
            None => (String::new(), None),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:<28} {:>14} {:>12} {work:>18}  {}",
            kilowatt_hours(*energy),
            gap(*gap_ms),
            rate.unwrap_or_default()
        );
    }
    let _ =
        writeln!(text, "\nThe rig is {basis}; payloads and overhead are its parts. As of {}.", time(head.at_unix_ms));
    let _ = writeln!(text, "MISSING is time in which nobody measured: nothing is counted for it.");
    let key = head.key.map_or_else(|| "nobody".to_owned(), |key| key.to_string());
    let _ = writeln!(text, "{} receipts, signed by {key}", head.receipts);
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn gap(ms: u64) -> String {
    if ms == 0 { "-".to_owned() } else { span(ms / 1_000) }
}

const fn word(unit: PayloadUnit) -> &'static str {
    match unit {
        PayloadUnit::Hashes => "hashes",
        PayloadUnit::Tokens => "tokens",
        PayloadUnit::Requests => "requests",
        PayloadUnit::Jobs => "jobs",
    }
}

/// Hashes come by the million; of all else there are few.
fn per_joule(milli_per_joule: u64, unit: PayloadUnit) -> String {
    let steps = [("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000), ("", 1)];
    let (prefix, scale) = steps.into_iter().find(|(_, scale)| milli_per_joule / 1_000 >= *scale).unwrap_or(("", 1));
    let shown = milli(i64::try_from(milli_per_joule / scale).unwrap_or(i64::MAX), 3);
    let unit = if unit == PayloadUnit::Hashes { "H" } else { word(unit) };
    format!("{shown} {prefix}{unit}/J")
}

#[cfg(test)]
mod tests;
