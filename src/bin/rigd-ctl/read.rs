//! `rigd-ctl read`: what a chip says right now, raw and decoded.

mod failure;
mod raw;
mod values;
mod withhold;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use rigd::board::{Board, Bus, Chip, ChipKind};
use rigd::bus::{self, Host, Segment};
use rigd::chip::{Driver, Form, Part};
use rigd::config::{self, Place};
use rigd::hwmon;
use rigd::reading::{ChipReading, Missing};
use serde_json::{Map, Value, json};

use crate::kernel::{Owner, Sensors};
use crate::people::say;
use failure::Failure;
use withhold::Withheld;

/// The command line.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["refdes", "all"]), after_help = "\
Examples:
  rigd-ctl read U12               registers and values of one chip
  rigd-ctl read --all             one line for each chip
  rigd-ctl read U12 --raw-only    registers only
  rigd-ctl read U12 --board ./my-board.toml
  rigd-ctl read --all --json | jq 'select(.error)'

Nothing is written but to a multiplexer on the way to a chip, and to a common-slot supply, which is asked by writes; so it is safe while the agent runs. But a fan controller takes any read for a sign of life: while it is read again and again, its watchdog may not give full air when the agent is gone. What a chip clears by being read, the agent does not see then; a chip with pages shows the one that is selected now. A chip that the agent has not set up is shown raw only.

Exit code 0 when every chip was read, 1 when not, 2 for a wrong command line.")]
pub(crate) struct Arguments {
    /// Reference designator of the chip, as the board file has it
    refdes: Option<String>,
    /// One line for each chip of the board
    #[arg(long, conflicts_with = "raw_only")]
    all: bool,
    /// Registers only, no values
    #[arg(long)]
    raw_only: bool,
    /// Print JSON, one chip a line; values as in telemetry: mV, mA, mW, m°C, rpm, hundredths of a percent, or why there is none
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// Where a command finds the board and its buses.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// The rig's configuration
    #[arg(long, default_value = config::PATH)]
    config: PathBuf,
    /// Take this board instead of the configuration's: a built-in one's name, or a file
    #[arg(long)]
    board: Option<String>,
}

impl Source {
    /// The board and where its buses are.
    pub(crate) fn load(&self) -> anyhow::Result<(Board, Host)> {
        let place = match &self.board {
            Some(board) => Place { board: board.clone(), simulation: None },
            None => Place::load(&self.config)?,
        };
        let board = Board::load(&place.board)?;
        if self.board.is_some() && board.simulated() {
            bail!("the board `{}` is a simulated rig: give the --config that says where it runs", board.name);
        }
        let host = place.host(&self.config, &board)?;
        Ok((board, host))
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (board, host) = arguments.source.load()?;
    match &arguments.refdes {
        Some(refdes) => one(&board, &host, refdes, arguments),
        None => all(&board, &host, arguments.json),
    }
}

/// A chip with its place in the board.
struct Target<'a> {
    place: values::Place<'a>,
    bus: &'a Bus,
    chip: &'a Chip,
    host: &'a Host,
}

fn targets<'a>(board: &'a Board, host: &'a Host) -> impl Iterator<Item = Target<'a>> {
    board.buses.iter().enumerate().flat_map(move |(bus, on)| {
        on.chips.iter().enumerate().map(move |(chip, on_bus)| Target {
            place: values::Place { board, bus, chip },
            bus: on,
            chip: on_bus,
            host,
        })
    })
}

fn one(board: &Board, host: &Host, refdes: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let target = targets(board, host).find(|target| target.chip.refdes == refdes).with_context(|| {
        if let Some((what, chip)) = use_of(board, refdes) {
            return format!("{refdes} is {what} of {chip}: rigd-ctl read {chip}");
        }
        let known: Vec<&str> = board.chips().map(|(_, chip)| chip.refdes.as_str()).collect();
        format!("board {} has no chip `{refdes}`; there are {}", board.name, known.join(", "))
    })?;
    let Shown { text, facts, reached, outcome } = target.show(arguments.raw_only);
    say(arguments.json, &text, &told(facts, outcome.as_ref().err()))?;
    if reached {
        // With stderr gone there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{}", target.afterwards());
    }
    outcome
}

/// What is known of a chip, with what went wrong.
fn told(mut facts: Map<String, Value>, error: Option<&anyhow::Error>) -> Value {
    facts.insert("error".to_owned(), error.map(|error| format!("{error:#}")).into());
    Value::Object(facts)
}

/// What has this name on the board, and the chip that measures it.
fn use_of<'a>(board: &'a Board, name: &str) -> Option<(&'static str, &'a str)> {
    let rails = board.rails.iter().map(|rail| ("a rail", &rail.name, rail.at));
    let supplies = board.supplies.iter().map(|supply| ("a supply", &supply.name, supply.input));
    let sensors = board.sensors.iter().map(|sensor| ("a sensor", &sensor.name, sensor.at));
    let fans = board.fans.iter().map(|fan| ("a fan", &fan.name, fan.at));
    let mut all = rails.chain(supplies).chain(sensors).chain(fans);
    let (what, _, at) = all.find(|(_, known, _)| *known == name)?;
    Some((what, &board.buses.get(at.bus)?.chips.get(at.chip)?.refdes))
}

/// What its watchdog makes of being read.
fn feeds(refdes: &str) -> String {
    format!(
        "Reading {refdes} feeds its watchdog: while this is repeated, full air may not come when the agent is gone."
    )
}

/// Time-outs after which the rest of a bus is not asked.
const TIME_OUTS: u32 = 2;

fn all(board: &Board, host: &Host, json: bool) -> anyhow::Result<()> {
    let (mut failed, mut fed) = (Vec::new(), Vec::new());
    let (mut bus, mut time_outs) = (None, 0);
    for target in targets(board, host) {
        if bus != Some(target.place.bus) {
            (bus, time_outs) = (Some(target.place.bus), 0);
        }
        let result = if time_outs < TIME_OUTS { target.values() } else { Err(Failure::TIMED_OUT) };
        let refdes = &target.chip.refdes;
        let mut facts = target.facts();
        let text = match &result {
            Ok(values) => {
                facts.extend(target.decoded(values));
                fed.extend(target.part().filter(|part| !part.watchdog_s.is_empty()).map(|_| refdes.as_str()));
                values::short(&values.reading)
            }
            Err(error) => {
                time_outs += u32::from(error.timed_out());
                failed.push(refdes.as_str());
                error.to_string()
            }
        };
        let error = result.err().map(|error| anyhow::anyhow!("{error}"));
        say(json, &format!("{refdes:<14} {:<34} {text}\n", target.what()), &told(facts, error.as_ref()))?;
    }
    if !fed.is_empty() {
        // With stderr gone there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{}", feeds(&fed.join(", ")));
    }
    if failed.is_empty() { Ok(()) } else { bail!("could not be read: {}", failed.join(", ")) }
}

/// What one pass of a driver gave.
struct Values {
    reading: ChipReading,
    /// Writes of the driver that were not carried out.
    withheld: u32,
}

/// What came of one chip.
struct Shown {
    text: String,
    /// The same for programs.
    facts: Map<String, Value>,
    /// Whether it answered anything.
    reached: bool,
    /// What went wrong, which is told after the text.
    outcome: anyhow::Result<()>,
}

impl Target<'_> {
    fn part(&self) -> Option<&'static Part> {
        match &self.chip.kind {
            ChipKind::I2c { part, .. } => Some(part),
            ChipKind::Hwmon(_) => None,
        }
    }

    /// Said after it was read: what that has changed, and what it may hide.
    fn afterwards(&self) -> String {
        let ChipKind::I2c { part, segment, .. } = &self.chip.kind else {
            return THROUGH_KERNEL.to_owned();
        };
        let mut text = if self.sensors().is_some() { THROUGH_KERNEL.to_owned() } else { directly(part, *segment) };
        if !part.watchdog_s.is_empty() {
            text.push('\n');
            text.push_str(&feeds(&self.chip.refdes));
        }
        text
    }

    fn what(&self) -> String {
        match &self.chip.kind {
            ChipKind::I2c { part, addr, segment, .. } => {
                let behind =
                    segment.map_or(String::new(), |on| format!(" behind {:#04x} channel {}", on.mux, on.channel));
                format!("{} at {addr:#04x} on {}{behind}", part.name, self.bus.name)
            }
            ChipKind::Hwmon(hwmon) => format!("kernel driver {}", hwmon.driver),
        }
    }

    /// Which chip it is.
    fn facts(&self) -> Map<String, Value> {
        let part = self.part().map(|part| part.name);
        [("chip", json!(self.chip.refdes)), ("part", part.into()), ("where", self.what().into())]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// What it measures.
    fn decoded(&self, values: &Values) -> Map<String, Value> {
        let mut facts = values::facts(self.place, self.chip, &values.reading);
        facts.insert("withheld".to_owned(), values.withheld.into());
        facts
    }

    /// All there is to show.
    fn show(&self, raw_only: bool) -> Shown {
        let mut reached = false;
        let mut facts = self.facts();
        let mut text = format!("{}  {}\n\n", self.chip.refdes, self.what());
        if let Some(sensors) = self.sensors() {
            text.push_str(&attributes(&sensors));
            let attribute = |(name, text): (String, std::io::Result<String>)| match text {
                Ok(text) => json!({ "attribute": name, "text": text, "error": null }),
                Err(error) => json!({ "attribute": name, "text": null, "error": error.to_string() }),
            };
            facts.insert("attributes".to_owned(), sensors.attributes().into_iter().map(attribute).collect());
            reached = true;
        } else if let ChipKind::I2c { part, addr, segment, .. } = &self.chip.kind {
            let (rows, outcome) = match self.host.open(&self.bus.adapter, *segment, *addr) {
                Ok(device) => raw::registers(&mut Withheld::default().device(device, part), part),
                Err(error) => (Vec::new(), Err(error)),
            };
            text.push_str(&raw::table(&rows));
            facts.insert("registers".to_owned(), raw::facts(&rows));
            if let Err(error) = outcome {
                let outcome = Err(anyhow::anyhow!("{}: {error}", self.chip.refdes));
                return Shown { text, facts, reached, outcome };
            }
            // A part that shows no register has not been asked yet.
            reached = !part.registers.list().is_empty();
        }
        if raw_only {
            return Shown { text, facts, reached, outcome: Ok(()) };
        }
        let values = match self.values() {
            Ok(values) => values,
            Err(error) => {
                let outcome = Err(anyhow::anyhow!("{}: {error}", self.chip.refdes));
                return Shown { text, facts, reached, outcome };
            }
        };
        facts.extend(self.decoded(&values));
        text.push_str("\nVALUES\n");
        text.push_str(&values::lines(self.place, self.chip, &values.reading));
        if values.withheld > 0 {
            text.push_str("\nThe driver would have written to it (to let go of a fault, or to arm a watchdog): left to the agent.\n");
        }
        Shown { text, facts, reached: true, outcome: Ok(()) }
    }

    /// The kernel's sensors, where a driver of its own has the chip.
    fn sensors(&self) -> Option<Sensors> {
        match &self.chip.kind {
            ChipKind::Hwmon(hwmon) => Sensors::find(&self.host.sysfs, hwmon),
            ChipKind::I2c { addr, segment, .. } => match self.host.open(&self.bus.adapter, *segment, *addr) {
                Err(bus::Error::Owned) => Owner::of(&self.kernel_device(*segment, *addr)?).sensors,
                Ok(_) | Err(_) => None,
            },
        }
    }

    fn kernel_device(&self, segment: Option<Segment>, addr: u8) -> Option<PathBuf> {
        self.host.kernel_device(&self.bus.adapter, segment, addr)
    }

    /// One pass: who it is, and what it measures. A driver also learns while it sets a chip up, so it is let to, with
    /// every write withheld: where the agent has set the chip up, nothing is to be written. Where that fails it is a chip
    /// that nobody set up; what can be said of it all the same, `read` says.
    fn values(&self) -> Result<Values, Failure> {
        match self.pass(true) {
            // A time-out has cost a second already and is not repeated.
            Err(failure) if !failure.timed_out() => self.pass(false),
            done => done,
        }
    }

    fn pass(&self, learn: bool) -> Result<Values, Failure> {
        let withheld = Withheld::default();
        let mut driver = self.driver(&withheld)?;
        let mut reading = match &self.chip.kind {
            ChipKind::I2c { part, .. } => part.missing(Missing::Stale),
            ChipKind::Hwmon(hwmon) => {
                ChipReading::missing(hwmon.power.len(), hwmon.temperature.len(), hwmon.fan.len(), Missing::Stale)
            }
        };
        let mut before = 0;
        let result = driver
            .identify()
            .and_then(|()| if learn { driver.configure() } else { Ok(()) })
            .inspect(|()| before = withheld.writes())
            .and_then(|()| driver.read(&mut reading));
        // Whatever came of it, it was another page's.
        if withheld.pages() > 0 {
            return Err(Failure::Pages);
        }
        result?;
        Ok(Values { reading, withheld: withheld.writes() - before })
    }

    fn driver(&self, withheld: &Withheld) -> Result<Box<dyn Driver<bus::Error>>, Failure> {
        let (part, addr, segment, settings) = match &self.chip.kind {
            ChipKind::I2c { part, addr, segment, settings } => (part, *addr, *segment, settings),
            ChipKind::Hwmon(hwmon) if self.sensors().is_some() => {
                return Ok(Box::new(hwmon::Device::new(&self.host.sysfs, hwmon.clone())));
            }
            ChipKind::Hwmon(_) => {
                let known = Sensors::all(&self.host.sysfs).into_iter().map(|sensors| sensors.name).collect();
                return Err(Failure::NoSensors(known));
            }
        };
        match self.host.open(&self.bus.adapter, segment, addr) {
            Ok(device) => Ok((part.open)(withheld.device(device, part), settings)),
            Err(bus::Error::Owned) => {
                let directory = self.kernel_device(segment, addr).ok_or(bus::Error::Owned)?;
                Ok(Box::new(hwmon::Device::owned(&directory, part).ok_or(bus::Error::Owned)?))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Said after the kernel's driver was asked.
const THROUGH_KERNEL: &str = "Nothing was set: the kernel's driver was asked for what it has.";

/// What asking this part itself has changed, and what it may hide.
fn directly(part: &Part, segment: Option<Segment>) -> String {
    let registers = part.registers.list();
    let by_writes = registers.iter().any(|register| register.form == Form::CommonSlot);
    let switched =
        segment.map(|on| format!("the multiplexer at {:#04x} was switched to channel {}", on.mux, on.channel));
    let mut text = match (by_writes, switched) {
        (false, None) => "Nothing was written".to_owned(),
        (false, Some(switched)) => format!("Nothing was written to it, but {switched}"),
        (true, None) => "Nothing was set, but each question to it is a write".to_owned(),
        (true, Some(switched)) => format!("Nothing was set, but each question to it is a write, and {switched}"),
    };
    text.push_str(": safe while the agent runs. What a chip clears by being read, the agent does not see");
    if registers.iter().any(|register| register.name == withhold::PAGE) {
        text.push_str("; of its pages, it is the one selected now");
    }
    text.push('.');
    text
}

/// A kernel driver's attributes as they are.
fn attributes(sensors: &Sensors) -> String {
    let mut text = format!(
        "A kernel driver has it: {} in {}\n\n{:<24}TEXT\n",
        sensors.name,
        sensors.directory.display(),
        "ATTRIBUTE"
    );
    for (name, value) in sensors.attributes() {
        let value = value.unwrap_or_else(|error| error.to_string());
        text.push_str(&format!("{name:<24}{value}\n"));
    }
    text
}

#[cfg(test)]
mod tests;
