//! `bus-traps`: where an adapter with raw I2C misleads its users, and that the agent's bus layer is not misled.
//!
//! Runs in the guest of tests/guest, on i2c-virtio, which has all of these traps. Each is first shown to be there, with
//! linux-embedded-hal as it is, and then tried with the agent's own `bus::Device`. When a trap is there no more, what
//! the agent does against it can go.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use embedded_hal::i2c::{Error as _, ErrorKind, I2c, Operation};
use linux_embedded_hal::I2cdev;
use rigd::bus::{Adapter, Error, Host, Selector, adapters};

const HELP: &str = "\
bus-traps: tries the agent's bus layer where an adapter misleads

usage: bus-traps ADAPTER free|owned

  ADAPTER   its name, as in a board file; an INA226 must be at 0x40 on it and nothing at 0x33
  free      no kernel driver has the INA226: transfers that are cut short, absent chips, neighbouring writes and reads
  owned     one has

Prints `same WHAT` or `DIFFERENT WHAT: RESULT` for each.
";

const INA226: u8 = 0x40;
const NOBODY: u8 = 0x33;
// Registers of the INA226.
const ALERT_LIMIT: u8 = 0x07;
const MANUFACTURER_ID: u8 = 0xfe;
const TI: [u8; 2] = [0x54, 0x49];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "bus-traps: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let results = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [adapter, "free"] => free(adapter)?,
        [adapter, "owned"] => owned(adapter),
        ["--help" | "-h"] => return Ok(io::stdout().write_all(HELP.as_bytes())?),
        _ => bail!("an adapter, then free or owned; see --help"),
    };
    let mut out = io::stdout();
    for (what, result) in results {
        match result {
            Ok(()) => writeln!(out, "same {what}")?,
            Err(result) => writeln!(out, "DIFFERENT {what}: {result}")?,
        }
    }
    Ok(())
}

/// What was tried, and what came of it where that was not what should.
type Tried = (&'static str, Result<(), String>);

fn check(what: &'static str, result: impl std::fmt::Debug, expected: bool) -> Tried {
    (what, if expected { Ok(()) } else { Err(format!("{result:?}")) })
}

fn kernel(adapter: &str) -> Adapter {
    Adapter::Kernel { selector: Selector::Name(adapter.to_owned()), timeout: None }
}

fn owned(adapter: &str) -> Vec<Tried> {
    let opened = Host::default().open(&kernel(adapter), None, INA226).map(|_| "opened");
    vec![check("an address that a kernel driver owns is refused", &opened, opened == Err(Error::Owned))]
}

fn free(adapter: &str) -> Result<Vec<Tried>> {
    let host = Host::default();
    let mut naive = I2cdev::new(path(&host, adapter)?)?;
    let open = |addr| host.open(&kernel(adapter), None, addr);
    let (mut chip, mut nobody) = (open(INA226)?, open(NOBODY)?);
    let mut tried = Vec::new();

    let mut buffer = [0xaa; 2];
    let result = naive.write_read(NOBODY, &[MANUFACTURER_ID], &mut buffer);
    tried.push(check("trap: an absent chip reads as zeros", (&result, buffer), result.is_ok() && buffer == [0; 2]));
    let result = nobody.write_read(NOBODY, &[MANUFACTURER_ID], &mut [0; 2]);
    let kind = result.as_ref().err().map(Error::kind);
    tried.push(check("an absent chip is no acknowledge", &result, matches!(kind, Some(ErrorKind::NoAcknowledge(_)))));

    // More messages than the adapter's queue has room for; the agent's drivers use two.
    let result = thrice(&mut naive);
    tried.push(check("trap: half a transaction is a success", &result, matches!(result, Ok([TI, TI, [0xaa, 0xaa]]))));
    let result = thrice(&mut chip);
    let expected = Err(Error::Short { done: 4, asked: 6 });
    tried.push(check("half a transaction is an error", &result, result == expected));

    let result = limit(&mut naive, [0x12, 0x34]);
    tried.push(check("trap: neighbouring writes write nothing", &result, matches!(result, Ok([0, 0]))));
    let result = limit(&mut chip, [0x12, 0x34]);
    tried.push(check("neighbouring writes are one", &result, result == Ok([0x12, 0x34])));
    let result = limit(&mut chip, [0, 0]);
    tried.push(check("and leave the register as it was", &result, result == Ok([0, 0])));

    let result = bytewise(&mut naive);
    tried.push(check("trap: neighbouring reads begin anew", &result, matches!(result, Ok([0x54, 0x54]))));
    let result = bytewise(&mut chip);
    tried.push(check("neighbouring reads are one", &result, result == Ok(TI)));
    Ok(tried)
}

fn path(host: &Host, adapter: &str) -> Result<PathBuf> {
    let found = adapters(host).into_iter().find(|found| found.name == adapter);
    Ok(found.with_context(|| format!("no adapter `{adapter}`"))?.path)
}

/// The maker's id three times, in one transaction of six parts.
fn thrice<I: I2c>(i2c: &mut I) -> Result<[[u8; 2]; 3], I::Error> {
    let [mut first, mut second, mut third] = [[0xaa; 2]; 3];
    let register = [MANUFACTURER_ID];
    i2c.transaction(
        INA226,
        &mut [
            Operation::Write(&register),
            Operation::Read(&mut first),
            Operation::Write(&register),
            Operation::Read(&mut second),
            Operation::Write(&register),
            Operation::Read(&mut third),
        ],
    )?;
    Ok([first, second, third])
}

/// Writes the alert limit, register and value apart, and reads it back.
fn limit<I: I2c>(i2c: &mut I, value: [u8; 2]) -> Result<[u8; 2], I::Error> {
    i2c.transaction(INA226, &mut [Operation::Write(&[ALERT_LIMIT]), Operation::Write(&value)])?;
    let mut found = [0xaa; 2];
    i2c.write_read(INA226, &[ALERT_LIMIT], &mut found)?;
    Ok(found)
}

/// The maker's id, each byte into a buffer of its own.
fn bytewise<I: I2c>(i2c: &mut I) -> Result<[u8; 2], I::Error> {
    let [mut high, mut low] = [[0xaa]; 2];
    let mut operations = [Operation::Write(&[MANUFACTURER_ID]), Operation::Read(&mut high), Operation::Read(&mut low)];
    i2c.transaction(INA226, &mut operations)?;
    let ([high], [low]) = (high, low);
    Ok([high, low])
}
