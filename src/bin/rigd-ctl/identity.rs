//! `rigd-ctl identity`: which board is this? Read from the board's own EEPROM, or written there once, at its first start.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::NonEmptyStringValueParser;
use rigd::board::{Board, ChipKind};
use rigd::bus::{self, Device, Host};
use rigd::chip;
use rigd::chip::at24::{Model, WriteError, read_bytes, write_identity};
use rigd::identity::{Identity, LONGEST, Problem};

use crate::kernel::Owner;
use crate::people::say;
use crate::read::Source;

/// The command line.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  rigd-ctl identity read
  rigd-ctl identity write --serial 0042
  rigd-ctl identity write --serial 0042 --revision c --board ./my-board.toml

The board file says which chip it is: `identity = \"U40\"`, an EEPROM of its [chip.*].

Exit code 0 when it was read or written, 1 when not, 2 for a wrong command line.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Show what the EEPROM says of the board
    Read(Read),
    /// Write it; what is overwritten is shown, and what was written is read back
    Write(NewIdentity),
}

#[derive(clap::Args)]
struct Read {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(clap::Args)]
#[command(after_help = "\
Something that is no identity is not overwritten without --force. That of a memory module or a supply never should be: it would not be known any more. A running agent tells the new identity after its next start.")]
struct NewIdentity {
    /// Serial number of this board
    #[arg(long, value_name = "SN", value_parser = NonEmptyStringValueParser::new())]
    serial: String,
    /// Name of the board; the board file's, where it is left out
    #[arg(long)]
    name: Option<String>,
    /// Revision of the board; the board file's, where it is left out
    #[arg(long)]
    revision: Option<String>,
    /// Overwrite what is no identity, too
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.verb {
        Verb::Read(arguments) => {
            let (board, host) = arguments.source.load()?;
            let (label, mut memory) = Memory::of(&board, &host)?;
            let identity = Identity::decode(&memory.read()?).with_context(|| format!("{label}: no identity"))?;
            let text = format!("{label}\n{}{}", shown(&identity), compared(&identity, &board));
            say(arguments.json, &text, &facts(&label, &identity, None))
        }
        Verb::Write(arguments) => write(arguments),
    }
}

fn write(arguments: &NewIdentity) -> anyhow::Result<()> {
    let (board, host) = arguments.source.load()?;
    let identity = Identity {
        name: arguments.name.clone().unwrap_or_else(|| board.name.clone()),
        revision: arguments.revision.clone().unwrap_or_else(|| board.revision.clone()),
        serial: arguments.serial.clone(),
    };
    // Before anything is touched.
    let bytes = identity.encode()?;
    let (label, mut memory) = Memory::of(&board, &host)?;
    let before = memory.read()?;
    let found = Identity::decode(&before);
    let mut text = format!("{label}\n\nBefore:\n{}", describe(&found, &before));
    if found.as_ref() == Ok(&identity) {
        text += "\nIt says that already: nothing was written.\n";
        return say(arguments.json, &text, &facts(&label, &identity, Some(false)));
    }
    let foreign = matches!(found, Err(Problem::Foreign | Problem::Version(_)));
    if foreign && !arguments.force {
        if !arguments.json {
            crate::print(&text)?;
        }
        bail!("{label}: it holds something that is no identity of ours: not overwritten without --force");
    }
    memory.write(&bytes, arguments.force).with_context(|| format!("{label}: not written"))?;
    let after = Identity::decode(&memory.read()?).with_context(|| format!("{label}: what was written is not there"))?;
    if after != identity {
        bail!("{label}: what was written reads back otherwise:\n{}", shown(&after));
    }
    let _ = write!(text, "\nWritten, and read back:\n{}{}", shown(&identity), compared(&identity, &board));
    say(arguments.json, &text, &facts(&label, &identity, Some(true)))
}

/// `written`: whether something was; none where that was not asked for.
fn facts(label: &str, identity: &Identity, written: Option<bool>) -> serde_json::Value {
    let Identity { name, revision, serial } = identity;
    serde_json::json!({ "eeprom": label, "name": name, "revision": revision, "serial": serial, "written": written })
}

fn shown(identity: &Identity) -> String {
    let Identity { name, revision, serial } = identity;
    format!("  name      {name}\n  revision  {revision}\n  serial    {serial}\n")
}

/// A line where the EEPROM and the board file mean different boards.
fn compared(identity: &Identity, board: &Board) -> String {
    if (&identity.name, &identity.revision) == (&board.name, &board.revision) {
        return String::new();
    }
    format!("The board file is for another one: {} revision {}.\n", board.name, board.revision)
}

fn describe(found: &Result<Identity, Problem>, bytes: &[u8; LONGEST]) -> String {
    match found {
        Ok(identity) => shown(identity),
        Err(Problem::Blank) => "  blank\n".to_owned(),
        Err(problem) => format!("  {problem}; it begins with\n{}", dump(bytes)),
    }
}

/// The first bytes, in hexadecimal and as text.
fn dump(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text: String =
            bytes.iter().map(|byte| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' }).collect();
        format!("  {hex} {text}\n")
    };
    bytes.chunks(16).take(4).map(line).collect()
}

/// The EEPROM, by the agent's own transfers or through the kernel's driver.
enum Memory {
    Chip { device: Device, model: Model },
    Kernel(PathBuf),
}

impl Memory {
    /// The one that the board names, and what to call it.
    fn of(board: &Board, host: &Host) -> anyhow::Result<(String, Self)> {
        let named = board.identity.and_then(|(bus, chip)| {
            let bus = board.buses.get(bus)?;
            Some((bus, bus.chips.get(chip)?))
        });
        let Some((bus, chip)) = named else {
            bail!(
                "board {} has no EEPROM for its identity; `identity = \"U40\"` at the top of its file would name it",
                board.name
            );
        };
        let ChipKind::I2c { part, addr, segment, .. } = &chip.kind else { bail!("{} is no EEPROM", chip.refdes) };
        let label = format!("{} ({} at {addr:#04x} on {})", chip.refdes, part.name, bus.name);
        let model = Model::of(part).with_context(|| format!("{label} is no EEPROM"))?;
        let memory = match host.open(&bus.adapter, *segment, *addr) {
            Ok(device) => Self::Chip { device, model },
            Err(bus::Error::Owned) => {
                let directory = host.kernel_device(&bus.adapter, *segment, *addr).unwrap_or_default();
                Self::through_kernel(directory).with_context(|| label.clone())?
            }
            Err(error) => return Err(error).context(label),
        };
        Ok((label, memory))
    }

    /// Only the kernel's at24 is taken: other drivers of memories (ee1004, spd5118) are those of memory modules.
    fn through_kernel(directory: PathBuf) -> anyhow::Result<Self> {
        let owner = Owner::of(&directory);
        match owner.driver.as_deref() {
            Some("at24") => Ok(Self::Kernel(directory.join("eeprom"))),
            driver => bail!("the kernel's driver {} has it: this is no EEPROM of the board", driver.unwrap_or("?")),
        }
    }

    fn read(&mut self) -> anyhow::Result<[u8; LONGEST]> {
        let mut bytes = [0; LONGEST];
        match self {
            Self::Chip { device, model } => {
                let addr = device.addr();
                read_bytes(device, addr, *model, 0, &mut bytes)?;
            }
            Self::Kernel(path) => {
                let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0));
                read.with_context(|| format!("could not read {}", path.display()))?;
            }
        }
        Ok(bytes)
    }

    fn write(&mut self, bytes: &[u8], force: bool) -> anyhow::Result<()> {
        match self {
            Self::Chip { device, model } => {
                let addr = device.addr();
                let pause = || thread::sleep(Duration::from_millis(1));
                match write_identity(device, addr, *model, bytes, force, pause) {
                    Err(error @ WriteError::Chip(chip::Error::ReadBack { .. })) => {
                        Err(anyhow::Error::new(error)
                            .context("it does not keep what is written; is it write-protected?"))
                    }
                    done => Ok(done?),
                }
            }
            Self::Kernel(path) => {
                let written = File::options().write(true).open(&path).and_then(|file| file.write_all_at(bytes, 0));
                written.with_context(|| format!("could not write {}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::scratch::Scratch;

    fn octo() -> Identity {
        Identity { name: "octo".to_owned(), revision: "b".to_owned(), serial: "0042".to_owned() }
    }

    #[test]
    fn the_kernels_driver_is_used_where_it_has_the_chip() {
        let root = Scratch::new("identity");
        symlink("../drivers/at24", root.join("driver")).unwrap();
        fs::write(root.join("eeprom"), [0xff; 256]).unwrap();
        let mut memory = Memory::through_kernel(root.to_owned()).unwrap();
        assert_eq!(Identity::decode(&memory.read().unwrap()), Err(Problem::Blank));
        memory.write(&octo().encode().unwrap(), false).unwrap();
        assert_eq!(Identity::decode(&memory.read().unwrap()), Ok(octo()));
        assert_eq!(fs::metadata(root.join("eeprom")).unwrap().len(), 256);
        // A memory module's is never written to.
        fs::remove_file(root.join("driver")).unwrap();
        symlink("../drivers/ee1004", root.join("driver")).unwrap();
        let error = Memory::through_kernel(root.to_owned()).map(drop).unwrap_err().to_string();
        assert_eq!(error, "the kernel's driver ee1004 has it: this is no EEPROM of the board");
    }

    #[test]
    fn what_is_there_is_described() {
        let mut bytes = [0xff; LONGEST];
        assert_eq!(describe(&Err(Problem::Blank), &bytes), "  blank\n");
        bytes[..8].copy_from_slice(b"\x01\0\0\0DELT");
        let text = describe(&Identity::decode(&bytes), &bytes);
        assert!(
            text.starts_with("  the memory holds something else; it begins with\n  01 00 00 00 44 45 4c 54 ff "),
            "{text}"
        );
        assert!(text.contains("  ....DELT........\n"), "{text}");
        let board = Board::load("simulated-8gpu").unwrap();
        assert_eq!(compared(&octo(), &board), "The board file is for another one: simulated-8gpu revision a.\n");
        let same = Identity { name: board.name.clone(), revision: board.revision.clone(), ..octo() };
        assert_eq!(compared(&same, &board), "");
    }

    #[test]
    fn a_board_without_an_eeprom_says_how_to_name_one() {
        let board = Board::load("simulated-8gpu").unwrap();
        let error = Memory::of(&board, &Host::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains("`identity = \"U40\"` at the top of its file"), "{error}");
    }
}
