//! `rigd-ctl check`: is the configuration right, and what does it mean on this machine?

use std::fmt::Write;
use std::path::{Path, PathBuf};

use rigd::board::{Board, Bus, ChipKind, Point, Zone};
use rigd::bus::{self, Adapter, Host, adapters};
use rigd::chip::{Part, Setting};
use rigd::command::trust::FleetConfig;
use rigd::config::{self, Config};
use rigd::control::limits::Place;
use rigd::mqtt::tls::{self, Certificate};
use rigd::units::Millicelsius;
use rigd::wire::KeyId;

use crate::people::{milli, percent, say};

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
    /// Print JSON: whether it is good, and then what it means or what is wrong, by lines
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let found = look(arguments);
    let told = |good: bool, text: &str| serde_json::json!({ "good": good, "lines": text.lines().collect::<Vec<_>>() });
    match &found {
        Ok(text) => say(arguments.json, text, &told(true, text))?,
        Err(error) if arguments.json => say(true, "", &told(false, &format!("{error:#}")))?,
        Err(_) => {}
    }
    found.map(drop)
}

fn look(arguments: &Arguments) -> anyhow::Result<String> {
    let mut text = String::new();
    let (board, host) = match &arguments.board {
        Some(board) => (Board::load(board)?, Host::default()),
        None => {
            let config = Config::load(&arguments.config)?;
            let board = Board::load(&config.place.board)?;
            let host = config.place.host(&arguments.config, &board)?;
            config.broker.password()?;
            let now = i64::try_from(rigd::clock::unix_ms() / 1000).unwrap_or(i64::MAX);
            let loaded = config.broker.tls.as_ref().map(|files| tls::check(files, &config.rig, now)).transpose()?;
            describe_config(&mut text, &arguments.config, &config, loaded.and_then(|loaded| loaded.own))?;
            payloads(&mut text, &config)?;
            power(&mut text, &config, &board)?;
            (board, host)
        }
    };
    describe(&mut text, &board, &host)?;
    Ok(text)
}

fn describe_config(text: &mut String, path: &Path, config: &Config, own: Option<Certificate>) -> std::fmt::Result {
    writeln!(text, "Configuration {}", path.display())?;
    writeln!(text, "  rig        {}", config.rig)?;
    for (i, address) in config.broker.addresses.iter().enumerate() {
        writeln!(text, "  {:<10} {address}", if i == 0 { "broker" } else { "" })?;
    }
    if let Some(own) = own {
        let name = own.common_name.as_deref().unwrap_or("nobody");
        writeln!(text, "  as         {name}, certificate valid until {}", tls::date(own.not_after))?;
    }
    writeln!(text, "  socket     {}", config.socket.display())?;
    writeln!(text, "  state      {}", config.state.display())?;
    writeln!(text, "  encoding   {}", config.encoding.content_type())?;
    writeln!(text, "  tick       {} ms", config.tick.as_millis())?;
    writeln!(text, "  telemetry  every {} ms", config.period.as_millis())?;
    let (ram, disk) = (config.outbox.ram_bytes / 1024, config.outbox.disk_bytes / 1024 / 1024);
    writeln!(text, "  outbox     {ram} KiB of memory, {disk} MiB on the disk")?;
    let FleetConfig { keys, revoked, groups, site, trust_clock } = &config.fleet;
    for (what, name) in groups.iter().map(|name| ("group", name)).chain(site.iter().map(|name| ("site", name))) {
        writeln!(text, "  {what:<10} {name}")?;
    }
    if *trust_clock {
        writeln!(text, "  clock      trusted, whatever the kernel says")?;
    }
    if keys.is_empty() {
        writeln!(text, "  commands   from nobody: there is no [key.NAME]")?;
    }
    for (i, key) in keys.iter().enumerate() {
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.name()).collect();
        let head = if i == 0 { "commands" } else { "" };
        writeln!(text, "  {head:<10} key {} (id {}): {}", key.name, KeyId::of(&key.public), scopes.join(", "))?;
    }
    for id in revoked {
        writeln!(text, "  {:<10} key (id {id}): revoked", "")?;
    }
    writeln!(text)
}

/// What limits its power, and what nothing lifts.
fn power(text: &mut String, config: &Config, board: &Board) -> anyhow::Result<()> {
    let rules = config.power.rules(board)?;
    let policy = config.power.policy(config.rig.as_str());
    if let Some(cap) = config.power.cap {
        let back = policy.jitter.as_secs();
        writeln!(text, "Power is capped at {} W; followed upwards after {back} s", milli(cap.limit.0, 0))?;
    }
    for rule in &rules {
        let place = match rule.place {
            Place::Supplies => "All supplies together".to_owned(),
            Place::Supply(index) => {
                board.supplies.get(index).map_or_else(String::new, |one| format!("Supply {}", one.name))
            }
            Place::Rail(index) => board.rails.get(index).map_or_else(String::new, |one| format!("Rail {}", one.name)),
        };
        let gpus =
            rule.gpus.as_ref().map_or_else(|| "every GPU is".to_owned(), |gpus| format!("{} GPUs are", gpus.len()));
        writeln!(
            text,
            "{place}: at most {} W, whatever is asked for; {gpus} held back for it",
            milli(rule.limit.0, 0)
        )?;
    }
    if config.power.cap.is_some() || !rules.is_empty() {
        text.push('\n');
    }
    Ok(())
}

fn payloads(text: &mut String, config: &Config) -> anyhow::Result<()> {
    let (manifests, problems) = rigd::payload::config::manifests(config);
    if let Some(wrong) = problems.into_iter().reduce(|mut all, more| {
        all.0.extend(more.0);
        all
    }) {
        return Err(wrong.into());
    }
    for manifest in &manifests {
        let gpus = match usize::from(manifest.gpus.count).max(manifest.gpus.uuids.len()) {
            0 => String::new(),
            count => format!(" on {count} GPUs"),
        };
        writeln!(text, "Payload {}{gpus}: {}", manifest.name, manifest.command(&[]).join(" "))?;
    }
    if !manifests.is_empty() {
        text.push('\n');
    }
    Ok(())
}

fn describe(text: &mut String, board: &Board, host: &Host) -> std::fmt::Result {
    writeln!(text, "Board {} revision {}: {}", board.name, board.revision, board.description)?;
    let width = board.chips().map(|(_, chip)| chip.refdes.chars().count()).max().unwrap_or(0).max(14);
    let names = board.buses.iter().map(|bus| bus.name.chars().count()).max().unwrap_or(0).max(12);
    for bus in &board.buses {
        writeln!(text, "  bus {:<names$} {}", bus.name, place(bus, host))?;
        for chip in &bus.chips {
            match &chip.kind {
                ChipKind::I2c { part, addr, segment, settings } => {
                    write!(text, "    {:<width$} {} at {addr:#04x}", chip.refdes, part.name)?;
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
                ChipKind::Hwmon(hwmon) => writeln!(text, "    {:<width$} kernel driver {}", chip.refdes, hwmon.driver)?,
            }
        }
    }
    let uses = uses(board);
    let width = uses.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0);
    for (kind, name, meaning) in &uses {
        writeln!(text, "  {kind:<6} {name:<width$}  {meaning}")?;
    }
    if board.zones.is_empty() {
        writeln!(text, "  no zone: no fan is driven")?;
    }
    if board.revision == DRAFT {
        writeln!(text, "Warning: revision is \"{DRAFT}\": put the one there that is printed on the board.")?;
    }
    writeln!(text, "No mistakes found.")
}

/// The revision of what `rigd-ctl probe` drafts.
const DRAFT: &str = "draft";

/// What the board measures and drives: kind, name, and what the file says of it.
fn uses(board: &Board) -> Vec<(&'static str, &str, String)> {
    let mut uses = Vec::new();
    for rail in &board.rails {
        uses.push(("rail", rail.name.as_str(), at(board, rail.at, |part| part.power)));
    }
    for supply in &board.supplies {
        uses.push(("supply", &supply.name, at(board, supply.input, |part| part.power)));
    }
    for sensor in &board.sensors {
        let critical = sensor.critical.map_or(String::new(), |own| format!(", critical at {}", degrees(own)));
        uses.push(("sensor", &sensor.name, at(board, sensor.at, |part| part.temperature) + &critical));
    }
    for fan in &board.fans {
        let zone = fan.zone.and_then(|zone| board.zones.get(zone));
        let zone = zone.map_or("watched only".to_owned(), |zone| format!("zone {}", zone.name));
        let place = at(board, fan.at, |part| part.fan);
        uses.push(("fan", &fan.name, format!("{place}, {} to {}, {zone}", fan.min_rpm, fan.max_rpm)));
    }
    for zone in &board.zones {
        uses.push(("zone", &zone.name, meaning(zone)));
    }
    uses
}

fn meaning(zone: &Zone) -> String {
    let mut parts = Vec::new();
    if !zone.curve.is_empty() {
        let points = zone.curve.iter().map(|(at, duty)| format!("{}: {}", degrees(*at), percent(*duty)));
        parts.push(points.collect::<Vec<_>>().join(", "));
    }
    if let Some(hold) = &zone.hold {
        parts.push(format!("holds {} at {} a kelvin", degrees(hold.target), percent(hold.gain)));
    }
    if zone.spare_fans > 0 {
        parts.push(format!("makes up for {} dead of {} fans", zone.spare_fans, zone.fans.len()));
    }
    parts.push(format!("full air from {}", degrees(zone.critical)));
    parts.join("; ")
}

/// Whole degrees without a fraction, others with all of it.
fn degrees(temperature: Millicelsius) -> String {
    let text = milli(temperature.0, 3);
    format!("{} °C", text.trim_end_matches('0').trim_end_matches('.'))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(board: &str) -> String {
        let board = Board::parse("b.toml", board).unwrap_or_else(|problems| panic!("{problems}"));
        let mut text = String::new();
        describe(&mut text, &board, &Host::default()).unwrap();
        text
    }

    #[test]
    fn a_board_is_told_as_people_say_it() {
        let text = told(
            r#"name = "t"
revision = "draft"
[bus.a]
adapter = "x"
[chip.U2]
part = "max31790"
bus = "a"
addr = 0x20
[chip.U3]
part = "tmp75"
bus = "a"
addr = 0x48
[sensor.air_behind_the_cards]
chip = "U3"
critical_mc = 62_500
[fan.front]
chip = "U2"
channel = 1
min_rpm = 500
max_rpm = 5_000
[fan.rear]
chip = "U2"
channel = 2
min_rpm = 500
max_rpm = 5_000
[fan.side]
chip = "U2"
channel = 3
min_rpm = 500
max_rpm = 5_000
[zone.z]
sensors = ["air_behind_the_cards"]
fans = ["front", "rear"]
curve = [[30_000, 30], [60_000, 100]]
critical_mc = 70_000
spare_fans = 1
"#,
        );
        for expected in [
            "  sensor air_behind_the_cards  U3 channel 1, critical at 62.5 °C\n",
            "  fan    front                 U2 channel 1, 500 rpm to 5000 rpm, zone z\n",
            "  fan    side                  U2 channel 3, 500 rpm to 5000 rpm, watched only\n",
            "  zone   z                     30 °C: 30 %, 60 °C: 100 %; makes up for 1 dead of 2 fans; full air from 70 °C\n",
            "Warning: revision is \"draft\": ",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        let (_, frame) = rigd::board::BUILTIN.iter().find(|(name, _)| *name == "frame-12gpu").unwrap();
        let text = told(frame);
        assert!(text.contains("; holds ") && !text.contains("Warning"), "{text}");
    }

    #[test]
    fn degrees_have_as_many_decimals_as_they_need() {
        for (millicelsius, expected) in [(0, "0 °C"), (-500, "-0.5 °C"), (100_000, "100 °C"), (62_125, "62.125 °C")]
        {
            assert_eq!(degrees(Millicelsius(millicelsius)), expected);
        }
    }
}
