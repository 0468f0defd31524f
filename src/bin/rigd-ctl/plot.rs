//! `rigd-ctl plot`: the last hour of this rig, which its agent keeps in memory, as a chart.
//!
//! ```text
//! agent ──> head and series ── select ── chart: panels of lines ──┬── terminal: braille dots
//!                                                                        └── picture: lines, areas, texts ──┬── svg
//!                                                                                                           └── png
//! ```

mod chart;
mod picture;
mod png;
mod scale;
pub(crate) mod steps;
mod svg;
mod terminal;

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use rigd::config;
use rigd::history::{Quantity, SLOT_MS, SLOTS};
use rigd::local::{Get, Head, Reply, Request, Series};
use rustix::termios::tcgetwinsize;

use crate::agent::{Agent, unexpected};
use chart::Chart;
use terminal::Screen;

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl plot                                     the last hour, on this terminal\n  rigd-ctl plot --since 10m --what watts            ten minutes of power\n  rigd-ctl plot --only exhaust1 gpu0 -o rig.png     a picture for a ticket; .svg too\n  rigd-ctl plot --json | jq -c 'select(.series.name == \"gpu0\").series.last'\n\nLines are the last reading of every 5 s; between the lowest and the highest of those 5 s is shaded (on a terminal, a bar). Where a line has a gap there was no reading, and the legend says why."
)]
pub(crate) struct Arguments {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
    socket: PathBuf,
    /// How far back: 90s, 30m; the agent keeps an hour
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = since)]
    since: Duration,
    /// Which readings
    #[arg(long, default_value = "all")]
    what: What,
    /// Only what has one of these names on the board
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
    /// Write a picture: FILE.svg or FILE.png
    #[arg(short, long, value_name = "FILE", value_parser = Output::parse)]
    output: Option<Output>,
    /// The numbers, as the agent gives them: lines of JSON
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// From one slot of the agent's to all of them.
fn since(text: &str) -> Result<Duration, String> {
    let since = humantime::parse_duration(text).map_err(|error| format!("{error}: a time is like 90s, 30m or 1h"))?;
    let slot = Duration::from_millis(SLOT_MS);
    if (slot..=slot * SLOTS).contains(&since) {
        Ok(since)
    } else {
        Err("must be 5s to 1h: the agent keeps an hour".to_owned())
    }
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Everything
    All,
    /// Sensors
    Temperatures,
    /// Fans and zones
    Duties,
    /// Rails and both sides of supplies
    Watts,
}

impl What {
    const fn has(self, quantity: Quantity) -> bool {
        match (self, quantity) {
            (Self::All, _) => true,
            (what, Quantity::Temperature) => matches!(what, Self::Temperatures),
            (what, Quantity::FanDrive | Quantity::ZoneDrive) => matches!(what, Self::Duties),
            (what, Quantity::RailPower | Quantity::SupplyInput | Quantity::SupplyOutput) => matches!(what, Self::Watts),
        }
    }
}

/// A picture's file; its name says which kind of picture.
#[derive(Clone, Debug)]
enum Output {
    Svg(PathBuf),
    Png(PathBuf),
}

impl Output {
    fn parse(path: &str) -> Result<Self, String> {
        match Path::new(path).extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase).as_deref() {
            Some("svg") => Ok(Self::Svg(path.into())),
            Some("png") => Ok(Self::Png(path.into())),
            Some(_) | None => Err("the name must end with .svg or .png".to_owned()),
        }
    }
}

/// The last hour of the agent at this socket.
fn history(path: &Path) -> anyhow::Result<(Head, Vec<Series>)> {
    let mut agent = Agent::ask(path, &Request::Get(Get::History), None)?;
    let Reply::History(head) = agent.reply()? else { return Err(unexpected()) };
    let mut all = Vec::new();
    for _ in 0..head.series {
        let Reply::Series(series) = agent.reply()? else { return Err(unexpected()) };
        all.push(series);
    }
    Ok((head, all))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (head, series) = select(arguments, history(&arguments.socket)?)?;
    if arguments.json {
        return crate::print(&json(head, series)?);
    }
    let chart = Chart::new(&head, &series, arguments.since);
    let (path, bytes) = match &arguments.output {
        None => return crate::print(&terminal::draw(&chart, &screen())),
        Some(Output::Svg(path)) => (path, svg::draw(&picture::draw(&chart)).into_bytes()),
        Some(Output::Png(path)) => (path, png::draw(&picture::draw(&chart))?),
    };
    fs::write(path, bytes).with_context(|| format!("could not write {}", path.display()))
}

/// What was asked for of what there is.
fn select(arguments: &Arguments, (mut head, mut series): (Head, Vec<Series>)) -> anyhow::Result<(Head, Vec<Series>)> {
    ensure!(!head.slots.is_empty(), "the agent has no readings yet: it has only just started");
    let all: Vec<String> = series.iter().map(|series| series.name.clone()).collect();
    series.retain(|series| arguments.what.has(series.quantity));
    let known: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
    ensure!(!known.is_empty(), "the board of {} has nothing of that kind", head.rig);
    if let Some(stranger) = arguments.only.iter().find(|name| !known.contains(&name.as_str())) {
        if all.contains(stranger) {
            let what = arguments.what.to_possible_value();
            let what = what.as_ref().map_or("", |value| value.get_name());
            bail!(
                "`{stranger}` is not of the {what}: leave --what out; of them there are {}",
                unique(&known).join(", ")
            );
        }
        bail!("nothing is called `{stranger}` here; there are {}", unique(&known).join(", "));
    }
    series.retain(|series| arguments.only.is_empty() || arguments.only.contains(&series.name));
    let since = u64::try_from(arguments.since.as_millis()).unwrap_or(u64::MAX);
    let oldest = head.uptime_ms.saturating_sub(since);
    // A slot that reaches into that time is shown whole.
    let skip = head.slots.iter().take_while(|slot| (u64::from(**slot) + 1) * head.slot_ms <= oldest).count();
    let skip = skip.min(head.slots.len() - 1);
    head.slots.drain(..skip);
    for Series { last, low, high, .. } in &mut series {
        for values in [last, low, high] {
            values.drain(..skip.min(values.len()));
        }
    }
    head.series = series.len();
    Ok((head, series))
}

/// A supply has two series of one name.
fn unique<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut unique = names.to_vec();
    unique.dedup();
    unique
}

fn json(head: Head, series: Vec<Series>) -> anyhow::Result<String> {
    let mut text = String::new();
    for reply in std::iter::once(Reply::History(head)).chain(series.into_iter().map(Reply::Series)) {
        writeln!(text, "{}", serde_json::to_string(&reply)?)?;
    }
    Ok(text)
}

/// Where the chart is printed to.
fn screen() -> Screen {
    let out = std::io::stdout();
    let size = tcgetwinsize(&out).ok().filter(|size| size.ws_col > 0);
    let terminal = out.is_terminal();
    Screen {
        width: size.map_or(100, |size| size.ws_col.into()),
        height: size.map(|size| size.ws_row.into()),
        // As https://no-color.org has it.
        colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

#[cfg(test)]
mod tests;
