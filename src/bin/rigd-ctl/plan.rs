//! `rigd-ctl plan`: which payload is to have which GPU of this rig, why, and what would change it.

use std::fmt::Write;
use std::path::PathBuf;

use rigd::arbiter::switch::Share;
use rigd::arbiter::view::{Finished, MarketView, View};
use rigd::config;
use rigd::local::{Get, Reply, Request};

use crate::agent::{Agent, unexpected};

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
    for gpu in &view.gpus {
        let change = if gpu.runs == gpu.planned {
            word(&gpu.runs)
        } else {
            format!("{} -> {}", word(&gpu.runs), word(&gpu.planned))
        };
        writeln!(text, "{}  {change}\n    {}", gpu.uuid, gpu.why)?;
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
    market(&mut text, &view.market, now_ms)?;
    for one in &view.last {
        finished(&mut text, one, now_ms)?;
    }
    Ok(text)
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
    write!(text, ": energy {} /kWh", micro(market.energy))?;
    for (name, value) in &market.values {
        write!(text, ", {name} {} /T", micro(i64::try_from(*value).unwrap_or(i64::MAX)))?;
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

/// Millionths as people write them.
fn micro(value: i64) -> String {
    let (sign, whole) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
    format!("{sign}{}.{:06}", whole / 1_000_000, whole % 1_000_000)
}

#[cfg(test)]
mod tests {
    use rigd::arbiter::switch::Step;
    use rigd::arbiter::view::{GpuView, SwitchView};

    use super::*;

    #[test]
    fn a_plan_is_told_with_why_and_by_what() {
        let share = |payload: &str| vec![Share { payload: payload.to_owned(), gpus: vec!["GPU-a".to_owned()] }];
        let view = View {
            enabled: true,
            planned_ms: 1,
            gpus: vec![GpuView {
                uuid: "GPU-a".to_owned(),
                runs: Some("miner".to_owned()),
                planned: Some("llm".to_owned()),
                why: "llm: leased".to_owned(),
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
        let expected = "GPU-a  miner -> llm\n    llm: leased\nother: left out: stopped\n\
            under way: miner (1) to llm (1): free, on the way there\n\
            Market signal, 60 s old, for 58 min more: energy -0.280000 /kWh, miner 0.001500 /T.\n";
        assert_eq!(text(&view, 120_000).unwrap(), expected);
        assert!(text(&View::default(), 0).unwrap().contains("does not plan"));
    }
}
