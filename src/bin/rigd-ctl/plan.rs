//! `rigd-ctl plan`: which payload is to have which GPU of this rig, why, and what would change it.

use std::fmt::Write;
use std::path::PathBuf;

use rigd::arbiter::switch::Share;
use rigd::arbiter::view::{Finished, GpuView, MarketView, View, YieldView};
use rigd::arbiter::yields::Known;
use rigd::config;
use rigd::local::{Get, Reply, Request};
use rigd::units::{MilliPerSecond, Milliwatts};

use crate::agent::{Agent, unexpected};
use crate::payload::speed;
use crate::people::watts;

/// The command line of `plan`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
    socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut agent = Agent::ask(&arguments.socket, &Request::Get(Get::Plan), None)?;
    let Reply::Plan(view) = agent.reply()? else { return Err(unexpected()) };
    if arguments.json {
        return crate::print(&format!("{}\n", serde_json::to_string(&view)?));
    }
    crate::print(&text(&view, rigd::clock::unix_ms())?)
}

fn text(view: &View, now_ms: u64) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if !view.enabled {
        writeln!(text, "This agent does not plan: people start and stop every payload ([plan] enabled = true).")?;
        return Ok(text);
    }
    if let Some(why) = &view.waits {
        writeln!(text, "Nothing is decided now: {why}.")?;
    }
    let word = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    for (at, gpu) in view.gpus.iter().enumerate() {
        let change = if gpu.runs == gpu.planned {
            word(&gpu.runs)
        } else {
            format!("{} -> {}", word(&gpu.runs), word(&gpu.planned))
        };
        let place = if gpu.pci.is_empty() { String::new() } else { format!("{}  ", gpu.pci) };
        writeln!(text, "{place}{}  {change}", gpu.uuid)?;
        // What is the same for several is said once.
        let same = |next: &GpuView| (&next.runs, &next.planned, &next.why) == (&gpu.runs, &gpu.planned, &gpu.why);
        if !view.gpus.get(at + 1).is_some_and(same) {
            writeln!(text, "    {}", gpu.why)?;
        }
    }
    for name in &view.refused {
        writeln!(text, "{name}: is leased, and there are not GPUs enough for it")?;
    }
    for (name, why) in &view.left_out {
        writeln!(text, "{name}: left out: {why}")?;
    }
    for switch in &view.switches {
        let way = if switch.back { "back" } else { "there" };
        let step = format!("{:?}", switch.step).to_lowercase();
        writeln!(text, "under way: {} to {}: {step}, on the way {way}", told(&switch.from), told(&switch.to))?;
    }
    yields(&mut text, view)?;
    market(&mut text, &view.market, now_ms)?;
    for one in &view.last {
        finished(&mut text, one, now_ms)?;
    }
    Ok(text)
}

/// What each payload yields and draws on a GPU: the mean of those of which that is known in the same way.
fn yields(text: &mut String, view: &View) -> std::fmt::Result {
    let mut said: Vec<(&str, Known)> = Vec::new();
    for YieldView { payload, unit, known, .. } in &view.yields {
        if said.contains(&(payload, *known)) {
            continue;
        }
        said.push((payload, *known));
        let alike = |one: &&YieldView| one.payload == *payload && one.known == *known;
        let (mut rate, mut power, mut count) = (0_u128, 0_u128, 0_u128);
        for one in view.yields.iter().filter(alike) {
            (rate, power, count) = (rate + u128::from(one.rate.0), power + u128::from(one.power.0), count + 1);
        }
        let mean = |sum: u128| u64::try_from(sum / count.max(1)).unwrap_or(u64::MAX);
        let speed = speed(MilliPerSecond(mean(rate)), *unit);
        let power = watts(Milliwatts(u32::try_from(mean(power)).unwrap_or(u32::MAX)));
        let how = match known {
            Known::Measured => "measured on",
            Known::Alike => "taken from others of their make for",
            Known::Guessed => "guessed, and never measured, for",
        };
        let gpus = if count == 1 { "GPU" } else { "GPUs" };
        writeln!(text, "{payload}: {speed} and {power} W a GPU, {how} {count} {gpus}")?;
    }
    Ok(())
}

fn market(text: &mut String, market: &MarketView, now_ms: u64) -> std::fmt::Result {
    match market.until_ms {
        None => write!(text, "Prices are the configuration's")?,
        Some(_) if market.stale => write!(text, "The market signal is over: prices are the configuration's")?,
        Some(until) => {
            let (age, left) = (now_ms.saturating_sub(market.taken_ms), until.saturating_sub(now_ms));
            write!(text, "Market signal, {} old, for {} more", minutes(age), minutes(left))?;
        }
    }
    write!(text, ": energy {}/kWh", micro(market.energy))?;
    for (name, value) in &market.values {
        write!(text, ", {name} {}/T", micro(i64::try_from(*value).unwrap_or(i64::MAX)))?;
    }
    writeln!(text, ".")
}

fn finished(text: &mut String, one: &Finished, now_ms: u64) -> std::fmt::Result {
    let [drain, free, reset, wipe, start] = one.took;
    let age = minutes(now_ms.saturating_sub(one.at_ms));
    let outcome = one.outcome;
    writeln!(text, "{age} ago: {} to {}: {outcome}", told(&one.from), told(&one.to))?;
    writeln!(text, "    drain {drain} ms, free {free}, reset {reset}, wipe {wipe}, start {start}")
}

fn told(shares: &[Share]) -> String {
    let one = |share: &Share| format!("{} ({})", share.payload, share.gpus.len());
    if shares.is_empty() { "nobody".to_owned() } else { shares.iter().map(one).collect::<Vec<_>>().join(" + ") }
}

fn minutes(millis: u64) -> String {
    match millis / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// Millionths as people write them, with four decimals or as many as there are.
fn micro(value: i64) -> String {
    let (sign, whole) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
    let text = format!("{sign}{}.{:06}", whole / 1_000_000, whole % 1_000_000);
    let short = text.strip_suffix("00").unwrap_or_else(|| text.strip_suffix('0').unwrap_or(&text));
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use rigd::arbiter::switch::Step;
    use rigd::arbiter::view::SwitchView;
    use rigd::wire::PayloadUnit;

    use super::*;

    #[test]
    fn a_plan_is_told_with_why_and_by_what() {
        let share = |payload: &str| vec![Share { payload: payload.to_owned(), gpus: vec!["GPU-a".to_owned()] }];
        let figure = |gpu: &str, rate, known| YieldView {
            payload: "miner".to_owned(),
            uuid: gpu.to_owned(),
            rate: MilliPerSecond(rate),
            unit: Some(PayloadUnit::Hashes),
            power: Milliwatts(220_000),
            known,
        };
        let view = View {
            enabled: true,
            planned_ms: 1,
            yields: vec![
                figure("GPU-a", 90_000_000_000, Known::Measured),
                figure("GPU-b", 100_000_000_000, Known::Alike),
                figure("GPU-c", 100_000_000_000, Known::Measured),
            ],
            gpus: vec![GpuView {
                uuid: "GPU-a".to_owned(),
                runs: Some("miner".to_owned()),
                planned: Some("llm".to_owned()),
                why: "llm: leased".to_owned(),
                pci: "0000:01:00.0".to_owned(),
            }],
            left_out: vec![("other".to_owned(), "stopped".to_owned())],
            switches: vec![SwitchView { from: share("miner"), to: share("llm"), step: Step::Free, back: false }],
            market: MarketView {
                until_ms: Some(3_600_000),
                taken_ms: 60_000,
                energy: -280_000,
                values: vec![("miner".to_owned(), 1_500)],
                ..MarketView::default()
            },
            ..View::default()
        };
        let expected = "0000:01:00.0  GPU-a  miner -> llm\n    llm: leased\nother: left out: stopped\n\
            under way: miner (1) to llm (1): free, on the way there\n\
            miner: 95.00 MH/s and 220.0 W a GPU, measured on 2 GPUs\n\
            miner: 100.00 MH/s and 220.0 W a GPU, taken from others of their make for 1 GPU\n\
            Market signal, 60 s old, for 58 min more: energy -0.2800/kWh, miner 0.0015/T.\n";
        assert_eq!(text(&view, 120_000).unwrap(), expected);
        assert!(text(&View::default(), 0).unwrap().contains("does not plan"));
    }
}
