//! `rigd-ctl boards`: what there is, and a file to start from.

use std::fmt::Write;

use anyhow::bail;
use rigd::board::{BUILTIN, Board};
use rigd::chip::PARTS;

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl boards                             list them, and the parts that a board may use\n  rigd-ctl boards simulated-8gpu > my.toml    start from one"
)]
pub(crate) struct Arguments {
    /// Print this board's file
    name: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.name {
        None => crate::print(&list()?),
        Some(name) => match BUILTIN.iter().find(|(known, _)| known == name) {
            Some((_, text)) => crate::print(text),
            None => bail!("no built-in board `{name}`; `rigd-ctl boards` lists them"),
        },
    }
}

fn list() -> anyhow::Result<String> {
    let mut text = String::from("Boards:\n");
    for (name, source) in BUILTIN {
        let board = Board::parse(name, source)?;
        writeln!(text, "  {name:<24} {}", board.description)?;
    }
    text.push_str("\nParts that a board may use:\n");
    for part in PARTS {
        writeln!(text, "  {:<24} {}", part.name, part.about)?;
    }
    Ok(text)
}
