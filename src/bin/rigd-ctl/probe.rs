//! `rigd-ctl probe`: what is connected to this machine, as a board file to start from.
//!
//! ```text
//! survey: which buses ── for each: switch (with --muxes), scan ── draft ── file: the text of a board file
//!                                            └── rules and guard: what may be asked at all
//! ```

#[cfg(test)]
mod bench;
mod file;
mod guard;
mod json;
mod prose;
mod rules;
mod scan;
mod survey;
mod switch;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use embedded_hal::i2c::I2c;
use rigd::board::Board;
use rigd::bus::{self, Adapter, Device, Host, MuxPart, Segment, Selector};
use rigd::chip::PARTS;

use crate::kernel::Owner;
use crate::people::say;
use file::{Bus, Draft, Mux, Seen};
use prose::{explain, outcome};
use rules::Terms;
use scan::{Found, Scan, What};
use survey::{Place, Survey};

/// The command line.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  rigd-ctl probe > my-board.toml                    all buses but those to monitors
  rigd-ctl probe --adapter pci:0000:00:1f.4         one bus (see `rigd-ctl check` for the names)
  rigd-ctl probe --adapter usb:10c4:ea90 -o b.toml
  rigd-ctl probe --muxes                            also behind multiplexers that no kernel driver has
  rigd-ctl probe --json | jq '.buses[].found[]'     what was found, for programs

Nothing is written to a chip. Whether an address is taken is found out by a receive byte; a chip is identified by reading registers. Memory modules (0x30 to 0x37, 0x50 to 0x57) and what may be a common-slot supply, a port expander or a main board's clock generator are left alone. Only --muxes writes, to multiplexers, and closes them again.

The file passes `rigd-ctl check`. Its comments tell what is not sure; progress is told on standard error. Exit code 0 when all was looked at, 1 when not (the file then holds what was found), 2 for a wrong command line.")]
pub(crate) struct Arguments {
    /// Only this adapter: its name, pci:…, usb:…, path:…, or /dev/i2c-N; may be given several times
    #[arg(long, value_name = "NAME")]
    adapter: Vec<Selector>,
    /// Look at the sockets of a simulated rig instead
    #[arg(long, value_name = "DIR")]
    simulation: Option<PathBuf>,
    /// Write the board file here; a file that is there already is not touched
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Switch multiplexers that no kernel driver has, and look behind them
    #[arg(long)]
    muxes: bool,
    /// There is no port expander (0x20 to 0x27, 0x38 to 0x3f) or clock generator (0x69) at this address: ask it
    #[arg(long, value_name = "ADDR", value_parser = address)]
    ask: Vec<u8>,
    /// Print JSON: what was found on each bus, the board file, and what could not be looked at
    #[arg(long)]
    json: bool,
}

fn address(text: &str) -> Result<u8, String> {
    let hex = text.strip_prefix("0x").ok_or_else(|| "write it as 0x20".to_owned())?;
    let addr = u8::from_str_radix(hex, 16).map_err(|error| error.to_string())?;
    if rules::can_be_vouched_for(addr) {
        return Ok(addr);
    }
    Err("only what is left alone at 0x20 to 0x27, 0x38 to 0x3f or 0x69 can be asked".to_owned())
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(path) = &arguments.output
        && path.exists()
    {
        bail!("{} is there already: take another name, or remove it first", path.display());
    }
    let host = Host { simulation: arguments.simulation.clone(), ..Host::default() };
    let survey = match &arguments.simulation {
        Some(directory) => survey::sockets(directory, &arguments.adapter)?,
        None => survey::adapters(&host, &arguments.adapter)?,
    };
    let open = |adapter: &Adapter, segment: Option<Segment>, addr: u8| host.open(adapter, segment, addr);
    let mut prober = Prober {
        host: &host,
        open: &open,
        ask: &arguments.ask,
        muxes: arguments.muxes,
        tell: &tell,
        missed: Vec::new(),
    };
    let draft = prober.draft(&survey);
    let text = file::text(&draft);
    // What is printed here is checked here, and not by whoever wants to use it.
    Board::parse("the draft", &text).context("the draft is no good board file; this is a fault of rigd-ctl")?;
    if let Some(path) = &arguments.output {
        let written = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("could not write {}", path.display()))?;
    }
    if arguments.json || arguments.output.is_none() {
        say(arguments.json, &text, &json::facts(&draft, &text, &prober.missed))?;
    }
    match prober.missed.as_slice() {
        [] => Ok(()),
        missed => bail!("not all was looked at:\n  {}", missed.join("\n  ")),
    }
}

/// How a chip's place is opened: on a bus, or behind a multiplexer's channel.
type Open<'a> = &'a dyn Fn(&Adapter, Option<Segment>, u8) -> Result<Device, bus::Error>;

struct Prober<'a> {
    host: &'a Host,
    open: Open<'a>,
    ask: &'a [u8],
    muxes: bool,
    /// Where progress is told.
    tell: &'a dyn Fn(&str),
    /// What could not be looked at, a line each.
    missed: Vec<String>,
}

impl Prober<'_> {
    fn draft(&mut self, survey: &Survey) -> Draft {
        for text in &survey.left_out {
            (self.tell)(text);
        }
        let mut draft = Draft::default();
        draft.notes.push(if self.muxes {
            "Nothing was written but to multiplexers, which were closed again.".to_owned()
        } else {
            "Nothing was written to any chip.".to_owned()
        });
        draft.notes.extend(survey.left_out.iter().cloned());
        // Addresses that were found taken on each bus: they are heard behind its multiplexers, too.
        let mut taken: Vec<(Option<u32>, Vec<u8>)> = Vec::new();
        for place in &survey.places {
            let above = |on: u32| taken.iter().find(|(number, _)| *number == Some(on)).map(|(_, taken)| taken.clone());
            let heard = place.channel.as_ref().and_then(|channel| above(channel.on)).unwrap_or_default();
            let bus = self.bus(place, &heard);
            let own = bus.seen.iter().filter(|seen| seen.behind.is_none()).map(|seen| seen.addr);
            let own: Vec<u8> = own.chain(bus.muxes.iter().map(|mux| mux.addr)).chain(heard).collect();
            taken.push((place.number, own));
            join(&mut draft, survey, place, bus);
        }
        draft
    }

    /// One bus, and what is behind its multiplexers where they may be switched.
    fn bus(&mut self, place: &Place, heard: &[u8]) -> Bus {
        (self.tell)(&format!("{}: asking 0x10 to 0x77", place.title));
        let mut bus = Bus {
            name: place.name.clone(),
            entry: place.entry.clone(),
            title: place.title.clone(),
            notes: Vec::new(),
            muxes: Vec::new(),
            seen: Vec::new(),
        };
        // Board files know no multiplexer behind another one's channel.
        let closed = if self.muxes && place.channel.is_none() { self.close(place) } else { Vec::new() };
        let (found, whole) = self.scan(place, None, heard, &mut bus.notes);
        for Found { addr, what } in found {
            let owner = (what == What::Owned).then(|| self.owner(place, addr));
            if let Some((_, part)) = closed.iter().find(|(mux, _)| *mux == addr) {
                bus.muxes.push(Mux { part: part.name, addr, kernel: false });
            } else if let Some(part) =
                owner.as_ref().filter(|owner| owner.mux).and_then(|owner| survey::mux_part(&owner.chip))
            {
                bus.muxes.push(Mux { part, addr, kernel: true });
            } else {
                bus.seen.push(Seen { addr, behind: None, what, owner });
            }
        }
        let seen = bus.seen.iter().map(|seen| seen.addr);
        let on_it: Vec<u8> = seen.chain(bus.muxes.iter().map(|mux| mux.addr)).collect();
        // What is behind a multiplexer is not asked on a bus that was given up.
        for (mux, part) in closed.into_iter().filter(|_| whole) {
            for channel in 0..part.channels {
                (self.tell)(&format!("{}: behind channel {channel} of {mux:#04x}", place.title));
                // Not alone, whether or not it is: so that each transaction closes it again.
                let segment = Segment { mux, channel, alone: false };
                let (found, _) = self.scan(place, Some(segment), &on_it, &mut bus.notes);
                let behind = Some((mux, channel));
                bus.seen.extend(found.into_iter().map(|Found { addr, what }| Seen { addr, behind, what, owner: None }));
            }
        }
        bus
    }

    /// Who is on a bus or behind a channel, and whether all of it was asked.
    fn scan(
        &mut self,
        place: &Place,
        segment: Option<Segment>,
        leave_out: &[u8],
        notes: &mut Vec<String>,
    ) -> (Vec<Found>, bool) {
        let terms = Terms { main_board: place.main_board, ask: self.ask.to_vec() };
        let open = |addr: u8| (self.open)(&place.adapter, segment, addr);
        let Scan { found, given_up, no_question } = scan::scan(&terms, PARTS, leave_out, &open);
        for found in &found {
            (self.tell)(&format!("  {:#04x} {}", found.addr, outcome(&found.what)));
        }
        if let Some((addr, error)) = &given_up {
            let text = format!("Given up at {addr:#04x}: {}.", explain(error));
            (self.tell)(&format!("  {text}"));
            self.missed.push(format!("{}: {}", place.title, explain(error)));
            notes.push(text);
        }
        if let [first, .., last] = no_question.as_slice() {
            let text =
                format!("This adapter has no harmless question for some addresses from {first:#04x} to {last:#04x}.");
            (self.tell)(&format!("  {text}"));
            notes.push(text);
        }
        (found, given_up.is_none())
    }

    /// Makes sure of the multiplexers on a bus and closes them, so that nothing behind them is heard on it.
    fn close(&mut self, place: &Place) -> Vec<(u8, &'static MuxPart)> {
        let mut closed = Vec::new();
        for addr in rules::MUXES {
            // One that is not there, or that a kernel driver has, or a bus that fails: the scan will tell.
            let Ok(mut device) = (self.open)(&place.adapter, None, addr) else { continue };
            match device.read(addr, &mut [0]) {
                Ok(()) => {}
                Err(bus::Error::TimedOut) => break,
                Err(_) => continue,
            }
            match lock(self.host, place).and_then(|_lock| Ok(switch::make_sure(device)?)) {
                Ok(Some(part)) => closed.push((addr, part)),
                Ok(None) => (self.tell)(&format!("  {addr:#04x} does not do what a multiplexer does")),
                Err(error) => {
                    let text = format!("{}: the multiplexer at {addr:#04x}: {error:#}", place.title);
                    (self.tell)(&format!("  {text}"));
                    self.missed.push(text);
                }
            }
        }
        closed
    }

    fn owner(&self, place: &Place, addr: u8) -> Owner {
        let directory = self.host.kernel_device(&place.adapter, None, addr);
        directory.map(|directory| Owner::of(&directory)).unwrap_or_default()
    }
}

/// Takes the lock that the agent takes to switch a multiplexer; it ends with the file.
fn lock(host: &Host, place: &Place) -> anyhow::Result<Option<File>> {
    let Adapter::Kernel { selector, .. } = &place.adapter else { return Ok(None) };
    let path = bus::find(host, selector)?.path;
    let file = File::options().read(true).write(true).open(path)?;
    file.lock()?;
    Ok(Some(file))
}

/// Puts a bus into the draft: a channel of a multiplexer that board files know goes to the bus that it is on.
fn join(draft: &mut Draft, survey: &Survey, place: &Place, bus: Bus) {
    if let Some(channel) = &place.channel
        && let Some(part) = channel.part
        && let Some(above) = survey.places.iter().find(|above| above.number == Some(channel.on))
        && above.channel.is_none()
        && let Some(parent) = draft.buses.iter_mut().find(|parent| parent.name == above.name)
        && parent.muxes.iter().any(|mux| mux.addr == channel.mux && mux.part == part)
    {
        let behind = Some((channel.mux, channel.channel));
        parent.notes.extend(bus.notes.into_iter().map(|note| format!("{}: {note}", bus.title)));
        parent.seen.extend(bus.seen.into_iter().map(|seen| Seen { behind, ..seen }));
    } else {
        draft.buses.push(bus);
    }
}

/// One line on standard error: how far it is. With stderr gone there is nobody to tell.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests;
