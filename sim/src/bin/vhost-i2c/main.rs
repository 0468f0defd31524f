//! `vhost-i2c`: a simulated rig, one bus of which is an I2C adapter of a virtual machine.
//!
//! So an unmodified kernel is the judge of the simulated chips: its own drivers bind to them, read and drive them, through
//! `/dev/i2c-N` and hwmon as on a rig. Reading order: `request` (what the guest asks), `device` (how it arrives).

mod device;
mod request;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rigd::board::Board;
use rigd::bus::Adapter;
use rigd_sim::{Options, Sim};
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use device::Device;

const HELP: &str = "\
vhost-i2c: a simulated rig with one bus as an I2C adapter of a virtual machine

usage: vhost-i2c --dir DIR --board NAME|FILE --bus NAME [--seed N] [--speed F] [--strict]

  --dir DIR          where the sockets go: those of rigd-sim, and DIR/vhost for the virtual machine
  --board NAME|FILE  what the rig consists of
  --bus NAME         the bus that the virtual machine gets
  --seed N           what chance there is in it (default 1)
  --speed F          simulated seconds per second, 0 to 1000 (default 1); at 0 the world stands still
  --strict           PMBus supplies refuse commands that they have not got, as the standard says
  --help             this text

Prints `simulated bus ready: DIR/vhost`, serves one virtual machine, and ends when that does. For QEMU:

  -object memory-backend-memfd,id=ram,size=256M,share=on -machine memory-backend=ram
  -chardev socket,id=i2c,path=DIR/vhost -device vhost-user-i2c-pci,chardev=i2c
";

struct Arguments {
    dir: PathBuf,
    board: String,
    bus: String,
    options: Options,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "vhost-i2c: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some(Arguments { dir, board, bus, options }) = parse(std::env::args().skip(1))? else {
        return Ok(io::stdout().write_all(HELP.as_bytes())?);
    };
    let board = Board::load(&board)?;
    let simulated = |known: &&rigd::board::Bus| matches!(known.adapter, Adapter::Socket(_)) && known.name == bus;
    ensure!(board.buses.iter().any(|known| simulated(&known)), "board {} has no simulated bus `{bus}`", board.name);
    let sim = Sim::start(&board, &dir, options)?;
    let socket = dir.join("vhost");
    let device = Arc::new(Mutex::new(Device::new(sim, bus)));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon =
        VhostUserDaemon::new("vhost-i2c".to_owned(), device, memory).map_err(|error| anyhow!("{error}"))?;
    writeln!(io::stdout(), "simulated bus ready: {}", socket.display())?;
    daemon.serve(&socket).map_err(|error| anyhow!("{}: {error}", socket.display()))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
    let (mut dir, mut board, mut bus, mut options) = (None, None, None, Options::default());
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value; see --help"));
        match arg.as_str() {
            "--dir" => dir = Some(PathBuf::from(value()?)),
            "--board" => board = Some(value()?),
            "--bus" => bus = Some(value()?),
            "--seed" => options.seed = value()?.parse().context("--seed needs a whole number")?,
            "--speed" => options.speed = value()?.parse().context("--speed needs a number")?,
            "--strict" => options.absent = rigd_sim::chip::pmbus::Absent::Nack,
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown argument {arg}; see --help"),
        }
    }
    let needed = |name| move || format!("{name} is needed; see --help");
    Ok(Some(Arguments {
        dir: dir.with_context(needed("--dir"))?,
        board: board.with_context(needed("--board"))?,
        bus: bus.with_context(needed("--bus"))?,
        options,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Option<Arguments>> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_taken_and_mistakes_told() {
        let taken = args("--dir /tmp/x --board b.toml --bus main --seed 7 --speed 0 --strict").ok().flatten();
        assert!(taken.is_some_and(|taken| {
            let Arguments { dir, board, bus, options } = taken;
            *dir == *"/tmp/x" && board == "b.toml" && bus == "main" && options.seed == 7 && options.speed == 0.0
        }));
        assert!(args("--help").is_ok_and(|taken| taken.is_none()));
        for (line, told) in [
            ("--dir x --board b", "--bus is needed"),
            ("--dir", "--dir needs a value"),
            ("--seed many", "whole number"),
            ("--dri x", "unknown argument --dri"),
        ] {
            let error = args(line).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
