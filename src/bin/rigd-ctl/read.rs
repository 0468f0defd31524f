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
use rigd::chip::Driver;
use rigd::config::{self, Place};
use rigd::hwmon;
use rigd::reading::{ChipReading, Missing};

use crate::kernel::{Owner, Sensors};
use failure::Failure;
use withhold::Withheld;

/// The command line.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  rigd-ctl read U12               registers and values of one chip
  rigd-ctl read --all             one line for each chip
  rigd-ctl read U12 --raw-only    registers only
  rigd-ctl read U12 --board ./my-board.toml

Nothing is written but to a multiplexer on the way to a chip, so it is safe while the agent runs. What a chip clears by being read, the agent does not see then; a chip with pages shows the one that is selected now. A chip that the agent has not set up is shown raw only.

Exit code 0 when every chip was read, 1 when not, 2 for a wrong command line.")]
pub(crate) struct Arguments {
    /// Reference designator of the chip, as the board file has it
    #[arg(required_unless_present = "all")]
    refdes: Option<String>,
    /// One line for each chip of the board
    #[arg(long, conflicts_with_all = ["refdes", "raw_only"])]
    all: bool,
    /// Registers only, no values
    #[arg(long)]
    raw_only: bool,
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
        Some(refdes) => one(&board, &host, refdes, arguments.raw_only),
        None => all(&board, &host),
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

fn one(board: &Board, host: &Host, refdes: &str, raw_only: bool) -> anyhow::Result<()> {
    let target = targets(board, host).find(|target| target.chip.refdes == refdes).with_context(|| {
        let known: Vec<&str> = board.chips().map(|(_, chip)| chip.refdes.as_str()).collect();
        format!("board {} has no chip `{refdes}`; there are {}", board.name, known.join(", "))
    })?;
    let (text, outcome) = target.show(raw_only);
    crate::print(&text)?;
    // With stderr gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{AFTERWARDS}");
    outcome
}

/// Said after a chip was read.
const AFTERWARDS: &str = "Nothing was written: safe while the agent runs. What a chip clears by being read, the agent does \
                          not see; of a chip with pages, it is the one selected now.";

/// Time-outs after which the rest of a bus is not asked.
const TIME_OUTS: u32 = 2;

fn all(board: &Board, host: &Host) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    let (mut bus, mut time_outs) = (None, 0);
    for target in targets(board, host) {
        if bus != Some(target.place.bus) {
            (bus, time_outs) = (Some(target.place.bus), 0);
        }
        let result = if time_outs < TIME_OUTS { target.values() } else { Err(Failure::TIMED_OUT) };
        let refdes = &target.chip.refdes;
        let text = match &result {
            Ok(values) => values::short(&values.reading),
            Err(error) => {
                time_outs += u32::from(error.timed_out());
                failed.push(refdes.as_str());
                error.to_string()
            }
        };
        crate::print(&format!("{refdes:<14} {:<34} {text}\n", target.what()))?;
    }
    if failed.is_empty() { Ok(()) } else { bail!("could not be read: {}", failed.join(", ")) }
}

/// What one pass of a driver gave.
struct Values {
    reading: ChipReading,
    /// Writes of the driver that were not carried out.
    withheld: u32,
}

impl Target<'_> {
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

    /// All there is to show; and what went wrong, which is told after it.
    fn show(&self, raw_only: bool) -> (String, anyhow::Result<()>) {
        let mut text = format!("{}  {}\n\n", self.chip.refdes, self.what());
        if let Some(sensors) = self.sensors() {
            text.push_str(&attributes(&sensors));
        } else if let ChipKind::I2c { part, addr, segment, .. } = &self.chip.kind {
            let (raw, outcome) = match self.host.open(&self.bus.adapter, *segment, *addr) {
                Ok(device) => raw::table(&mut Withheld::default().device(device, part), part),
                Err(error) => (String::new(), Err(error)),
            };
            text.push_str(&raw);
            if let Err(error) = outcome {
                return (text, Err(anyhow::anyhow!("{}: {error}", self.chip.refdes)));
            }
        }
        if raw_only {
            return (text, Ok(()));
        }
        let values = match self.values() {
            Ok(values) => values,
            Err(error) => return (text, Err(anyhow::anyhow!("{}: {error}", self.chip.refdes))),
        };
        text.push_str("\nVALUES\n");
        text.push_str(&values::lines(self.place, self.chip, &values.reading));
        if values.withheld > 0 {
            text.push_str("\nThe driver would have written to it (to let go of a fault, or to arm a watchdog): left to the agent.\n");
        }
        (text, Ok(()))
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
