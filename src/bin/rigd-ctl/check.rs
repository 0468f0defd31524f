//! `rigd-ctl check`: is the configuration right, and what does it mean on this machine?

use std::fmt::Write;
use std::path::{Path, PathBuf};

use rigd::board::{Board, Bus, ChipKind, Point};
use rigd::bus::{self, Adapter, Host, adapters};
use rigd::chip::{Part, Setting};
use rigd::config::{self, Config};

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl check                               this rig\n  rigd-ctl check --board ./my-board.toml       a board file alone\n\nReads files and /sys only; no chip is touched. Every mistake is one line: FILE:LINE: KEY: what is wrong."
)]
pub(crate) struct Arguments {
    /// The rig's configuration
    #[arg(long, default_value = config::PATH)]
    config: PathBuf,
    /// Check this board instead of a configuration: a built-in one's name, or a file
    #[arg(long)]
    board: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut text = String::new();
    let (board, host) = match &arguments.board {
        Some(board) => (Board::load(board)?, Host::default()),
        None => {
            let config = Config::load(&arguments.config)?;
            let board = Board::load(&config.place.board)?;
            let host = config.place.host(&arguments.config, &board)?;
            config.broker.password()?;
            describe_config(&mut text, &arguments.config, &config)?;
            (board, host)
        }
    };
    describe(&mut text, &board, &host)?;
    crate::print(&text)
}

fn describe_config(text: &mut String, path: &Path, config: &Config) -> std::fmt::Result {
    writeln!(text, "Configuration {}", path.display())?;
    writeln!(text, "  rig        {}", config.rig)?;
    writeln!(text, "  broker     mqtt://{}:{}", config.broker.host, config.broker.port)?;
    writeln!(text, "  socket     {}", config.socket.display())?;
    writeln!(text, "  state      {}", config.state.display())?;
    writeln!(text, "  encoding   {}", config.encoding.content_type())?;
    writeln!(text, "  tick       {} ms", config.tick.as_millis())?;
    writeln!(text, "  telemetry  every {} ms", config.period.as_millis())?;
    writeln!(text, "  outbox     {} KiB\n", config.outbox_bytes / 1024)
}

fn describe(text: &mut String, board: &Board, host: &Host) -> std::fmt::Result {
    writeln!(text, "Board {} revision {}: {}", board.name, board.revision, board.description)?;
    for bus in &board.buses {
        writeln!(text, "  bus {:<12} {}", bus.name, place(bus, host))?;
        for chip in &bus.chips {
            match &chip.kind {
                ChipKind::I2c { part, addr, segment, settings } => {
                    write!(text, "    {:<14} {} at {addr:#04x}", chip.refdes, part.name)?;
                    if let Some(segment) = segment {
                        write!(text, " behind channel {} of {:#04x}", segment.channel, segment.mux)?;
                    }
                    if part.takes.contains(&Setting::Shunt) {
                        write!(text, ", shunt {}", settings.shunt)?;
                    }
                    if settings.watchdog_s > 0 {
                        write!(text, ", watchdog {} s", settings.watchdog_s)?;
                    }
                    writeln!(text, ": {}", part.about)?;
                }
                ChipKind::Hwmon(hwmon) => writeln!(text, "    {:<14} kernel driver {}", chip.refdes, hwmon.driver)?,
            }
        }
    }
    for rail in &board.rails {
        writeln!(text, "  rail {:<11} {}", rail.name, at(board, rail.at, |part| part.power))?;
    }
    for supply in &board.supplies {
        writeln!(text, "  supply {:<9} {}", supply.name, at(board, supply.input, |part| part.power))?;
    }
    for sensor in &board.sensors {
        writeln!(text, "  sensor {:<9} {}", sensor.name, at(board, sensor.at, |part| part.temperature))?;
    }
    for fan in &board.fans {
        let zone = fan.zone.and_then(|zone| board.zones.get(zone)).map_or("watched only", |zone| &zone.name);
        writeln!(
            text,
            "  fan {:<12} {}, {} to {}, zone {zone}",
            fan.name,
            at(board, fan.at, |part| part.fan),
            fan.min_rpm,
            fan.max_rpm
        )?;
    }
    for zone in &board.zones {
        let curve: Vec<String> =
            zone.curve.iter().map(|(celsius, duty)| format!("{}: {duty}", celsius.0 / 1000)).collect();
        write!(text, "  zone {:<11} ", zone.name)?;
        if !curve.is_empty() {
            write!(text, "{} °C; ", curve.join(", "))?;
        }
        if let Some(hold) = &zone.hold {
            write!(text, "holds {} °C at {} a kelvin; ", hold.target.0 / 1000, hold.gain)?;
        }
        writeln!(text, "full air from {} °C", zone.critical.0 / 1000)?;
    }
    if board.zones.is_empty() {
        writeln!(text, "  no zone: no fan is driven")?;
    }
    writeln!(text, "No mistakes found.")
}

/// Chip and channel as the board file names them.
fn at(board: &Board, point: Point, names: impl Fn(&Part) -> &[&'static str]) -> String {
    let Some(chip) = board.buses.get(point.bus).and_then(|bus| bus.chips.get(point.chip)) else {
        return "?".to_owned();
    };
    let name = match &chip.kind {
        ChipKind::I2c { part, .. } => names(part).get(point.channel).copied(),
        ChipKind::Hwmon(_) => None,
    };
    let name = name.map_or_else(|| (point.channel + 1).to_string(), str::to_owned);
    format!("{} channel {name}", chip.refdes)
}

/// Where a bus is on this machine, or that it is not: the rig may be another one.
fn place(bus: &Bus, host: &Host) -> String {
    match &bus.adapter {
        Adapter::Hwmon => "the kernel's own sensors".to_owned(),
        Adapter::Socket(name) => format!("simulated, socket {name}"),
        Adapter::Kernel { selector, .. } => match bus::find(host, selector) {
            Ok(adapter) => format!("{} = {}", adapter.name, adapter.path.display()),
            Err(error) => {
                let names: Vec<String> = adapters(host).into_iter().map(|adapter| adapter.name).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                format!("not on this machine: {error} (it has {names})")
            }
        },
    }
}
