//! `rigd-ctl boards`: what there is, a file to start from, and what a part can do.

use std::fmt::Write;

use anyhow::bail;
use rigd::board::{BUILTIN, Board};
use rigd::bus::MUXES;
use rigd::chip::{Certainty, Kernel, PARTS, Part, Setting};
use serde_json::{Value, json};

use crate::people::say;

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl boards                             list them, and the parts that a board may use\n  rigd-ctl boards simulated-8gpu > my.toml    start from one\n  rigd-ctl boards max31790                    what a part can do and what a board says about it"
)]
pub(crate) struct Arguments {
    /// Print this board's file, or what this part can do
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.name {
        None if arguments.json => say(true, "", &all()?),
        None => crate::print(&list()?),
        Some(name) => match BUILTIN.iter().find(|(known, _)| known == name) {
            Some((_, text)) => say(arguments.json, text, &json!({ "board": name, "file": text })),
            None => match Part::find(name) {
                Some(part) => say(arguments.json, &describe(part)?, &facts(part)),
                None => bail!("no built-in board and no part `{name}`; `rigd-ctl boards` lists them"),
            },
        },
    }
}

fn all() -> anyhow::Result<Value> {
    let boards = BUILTIN.iter().map(|(name, source)| {
        let board = Board::parse(name, source)?;
        Ok(json!({ "board": name, "about": board.description }))
    });
    let boards = boards.collect::<anyhow::Result<Vec<_>>>()?;
    let muxes: Vec<_> = MUXES.iter().map(|mux| json!({ "mux": mux.name, "channels": mux.channels })).collect();
    Ok(json!({ "boards": boards, "parts": PARTS.iter().map(|part| facts(part)).collect::<Vec<_>>(), "muxes": muxes }))
}

fn facts(part: &Part) -> Value {
    let addresses: Vec<_> = part.addresses.iter().map(|range| [*range.start(), *range.end()]).collect();
    json!({
        "part": part.name, "about": part.about, "addresses": addresses, "drives_fans": part.drives_fans,
        "power": part.power, "temperature": part.temperature, "fan": part.fan,
    })
}

fn list() -> anyhow::Result<String> {
    let mut text = String::from("Boards:\n");
    for (name, source) in BUILTIN {
        let board = Board::parse(name, source)?;
        writeln!(text, "  {name:<24} {}", board.description)?;
    }
    text.push_str("\nParts that a board may use:\n");
    let mut parts = PARTS.to_vec();
    parts.sort_by_key(|part| part.name);
    for part in parts {
        writeln!(text, "  {:<24} {}", part.name, part.about)?;
    }
    text.push_str("\nMultiplexers:\n");
    for mux in MUXES {
        writeln!(text, "  {:<24} {} channels, 0 to {}", mux.name, mux.channels, mux.channels - 1)?;
    }
    Ok(text)
}

fn describe(part: &Part) -> Result<String, std::fmt::Error> {
    let mut text = format!("{}: {}\n", part.name, part.about);
    let ranges: Vec<String> =
        part.addresses.iter().map(|range| format!("{:#04x} to {:#04x}", range.start(), range.end())).collect();
    writeln!(text, "  addresses            {}", ranges.join(", "))?;
    let known_by = match part.certainty {
        Certainty::Id => "its id registers",
        Certainty::Shape => "bits that cannot be otherwise; a relative may pass for it",
        Certainty::Word => "nothing but its answer: the board's word is taken for it",
    };
    writeln!(text, "  known by             {known_by}")?;
    let fans = if part.drives_fans { "fans, driven" } else { "fans, watched only" };
    for (what, channels) in [("power", part.power), ("temperature", part.temperature), (fans, part.fan)] {
        if !channels.is_empty() {
            writeln!(text, "  {what:<20} channel {}", channels.join(", "))?;
        }
    }
    for setting in part.takes {
        let key = match setting {
            Setting::Shunt => "shunt_microohms      resistance of its shunt: needed",
            Setting::Pec => "pec                  true: each transfer with a packet error code",
            Setting::Tachometer => "tach_chip            in each fan: who measures its speed, or tachometer = false",
            Setting::CurrentDivisor => "current_divisor      counts per ampere of its output current",
        };
        writeln!(text, "  {key}")?;
    }
    if !part.watchdog_s.is_empty() {
        let seconds: Vec<String> = part.watchdog_s.iter().map(u8::to_string).collect();
        writeln!(text, "  watchdog_s           full air when the agent is gone for so long: {}", seconds.join(", "))?;
    }
    let Kernel { power, temperature, fan } = &part.kernel;
    let kernel = if !(power.is_empty() && temperature.is_empty() && fan.is_empty()) {
        "where one owns it, it is read through that"
    } else if part.holds_identity() || part.takes.contains(&Setting::Tachometer) {
        "not used through one: it must be free of it"
    } else {
        "not read through one: name it as [hwmon.*]"
    };
    writeln!(text, "  kernel driver        {kernel}")?;
    Ok(text)
}
