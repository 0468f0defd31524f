//! Who answers on one bus, and what it is.
//!
//! ```text
//! open ── a kernel driver owns it ──> Owned
//!   │
//! receive byte ── no acknowledge ──> nobody
//!   │ answers
//! rule of the address ── no more is asked ──> Unasked, with the reason
//!   │
//! identify of each part that can be there ──┬── its id registers match ──> Sure
//!                                           ├── its fixed bits match ────> Likely, with all others that match
//!                                           └── none ────────────────────> Unknown
//! ```

use std::cmp::Reverse;

use embedded_hal::i2c::I2c;
use rigd::bus::{Device, Error};
use rigd::chip::{self, Certainty, Form, Part, Settings};
use rustix::io::Errno;

use super::guard::Guard;
use super::rules::{ADDRESSES, LOOK, MUXES, Rule, Terms};

/// Addresses in a row that time out or fail, after which a bus is given up: each time-out costs the adapter's whole second.
const STRIKES: u8 = 2;
/// As many addresses as three pins can select.
const HANDFUL: usize = 8;

/// What answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// This part, by its id registers.
    Sure(&'static Part),
    /// One of these parts, by bits that cannot be otherwise; the likeliest first.
    Likely(Vec<&'static Part>),
    /// No part that the agent can tell.
    Unknown,
    /// Somebody who was not asked who it is.
    Unasked(Why),
    /// A kernel driver has the address.
    Owned,
    /// A transfer failed that was no question of who is there: a time-out, a disturbed line.
    Fails(Error),
}

/// Why something was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// 0x50 to 0x57: a memory.
    Memory,
    /// 0x30 to 0x37: write protection of memory modules.
    WriteProtection,
    /// 0x58 to 0x5f and no PMBus part: a common-slot supply is asked by a write.
    Supply,
    /// It gives one byte over and over, as a port expander does.
    PortExpander,
    /// 0x70 to 0x77: a multiplexer.
    Mux,
    /// 0x69 of a main board.
    Clock,
}

/// Something on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) addr: u8,
    pub(crate) what: What,
}

/// What came of a bus.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// By address.
    pub(crate) found: Vec<Found>,
    /// Where and why the rest was not asked.
    pub(crate) given_up: Option<(u8, Error)>,
    /// Addresses that this adapter has no harmless question for.
    pub(crate) no_question: Vec<u8>,
}

/// How a chip's place is opened.
pub(crate) type Open<'a> = &'a dyn Fn(u8) -> Result<Device, Error>;

/// Asks every address but those of `leave_out`, multiplexers first.
pub(crate) fn scan(terms: &Terms, parts: &[&'static Part], leave_out: &[u8], open: Open<'_>) -> Scan {
    let mut scan = Scan::default();
    let mut strikes = 0;
    let order = MUXES.chain(ADDRESSES.filter(|addr| !MUXES.contains(addr)));
    for addr in order.filter(|addr| !leave_out.contains(addr)) {
        let what = match look(terms, parts, addr, open) {
            Ok(what) => what,
            Err(Failure::Transfer(error)) => Some(What::Fails(error)),
            Err(Failure::NoQuestion) => {
                scan.no_question.push(addr);
                continue;
            }
            Err(Failure::Adapter(error)) => {
                scan.given_up = Some((addr, error));
                break;
            }
        };
        if let Some(What::Fails(error)) = &what {
            strikes += 1;
            scan.given_up = (strikes >= STRIKES).then(|| (addr, error.clone()));
        } else {
            strikes = 0;
        }
        scan.found.extend(what.map(|what| Found { addr, what }));
        if scan.given_up.is_some() {
            break;
        }
    }
    scan.found.sort_by_key(|found| found.addr);
    scan
}

/// Why an address could not be looked at.
enum Failure {
    /// The adapter cannot be used at all.
    Adapter(Error),
    /// The transfer failed, as it does where a line is stuck.
    Transfer(Error),
    /// The adapter cannot ask without a risk.
    NoQuestion,
}

fn look(terms: &Terms, parts: &[&'static Part], addr: u8, open: Open<'_>) -> Result<Option<What>, Failure> {
    let rule = terms.rule(addr);
    if rule == Rule::Nothing {
        return Ok(Some(What::Unasked(Why::Clock)));
    }
    let device = match open(addr) {
        Ok(device) => device,
        Err(Error::Owned) => return Ok(Some(What::Owned)),
        Err(error) => return Err(Failure::Adapter(error)),
    };
    if !is_there(Guard::device(device, rule), rule)? {
        return Ok(None);
    }
    let unasked = |why| Ok(Some(What::Unasked(why)));
    match rule {
        Rule::Presence if MUXES.contains(&addr) => unasked(Why::Mux),
        Rule::Presence if addr < 0x40 => unasked(Why::WriteProtection),
        Rule::Presence | Rule::Nothing => unasked(Why::Memory),
        Rule::Look => match has_registers(addr, open) {
            Ok(true) => Ok(Some(identify(parts, addr, Rule::Registers, open))),
            Ok(false) => unasked(Why::PortExpander),
            Err(error) => Ok(Some(What::Fails(error))),
        },
        Rule::Pmbus => {
            let what = identify(parts, addr, rule, open);
            if what == What::Unknown { unasked(Why::Supply) } else { Ok(Some(what)) }
        }
        Rule::Registers => Ok(Some(identify(parts, addr, rule, open))),
    }
}

/// Whether an adapter cannot do a kind of transfer.
fn is_unsupported(error: &Error) -> bool {
    *error == Error::Os(Errno::OPNOTSUPP.raw_os_error()) || matches!(error, Error::Unsupported(_))
}

/// Whether nobody acknowledged; not one message done and no error told is i2c-virtio's way to say so.
fn is_nobody(error: &Error) -> bool {
    matches!(error, Error::NoAcknowledge | Error::Short { done: 0, .. })
}

/// A receive byte; where the adapter has none, a register that can be read without a risk.
fn is_there(mut device: Device, rule: Rule) -> Result<bool, Failure> {
    let addr = device.addr();
    let mut ask = || match device.read(addr, &mut [0]) {
        Err(error) if is_unsupported(&error) => match rule {
            Rule::Registers => device.write_read(addr, &[0x00], &mut [0]),
            Rule::Pmbus => device.write_read(addr, &[0x98], &mut [0]),
            Rule::Nothing | Rule::Presence | Rule::Look => Err(error),
        },
        done => done,
    };
    let result = match ask() {
        // Another master was faster: once more.
        Err(Error::ArbitrationLost) => ask(),
        done => done,
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_nobody(&error) => Ok(false),
        Err(error) if is_unsupported(&error) => Err(Failure::NoQuestion),
        Err(error @ (Error::Gone(_) | Error::Owned)) => Err(Failure::Adapter(error)),
        Err(error) => Err(Failure::Transfer(error)),
    }
}

/// Whether plain reads give different bytes: a chip with registers goes on to the next, a port expander has but one byte.
fn has_registers(addr: u8, open: Open<'_>) -> Result<bool, Error> {
    let mut device = Guard::device(open(addr)?, Rule::Look);
    let mut bytes = [0; LOOK];
    match device.read(addr, &mut bytes) {
        Err(error) if is_unsupported(&error) => {
            for byte in &mut bytes {
                device.read(addr, std::slice::from_mut(byte))?;
            }
        }
        done => done?,
    }
    let [first, ..] = bytes;
    Ok(bytes.iter().any(|byte| *byte != first))
}

/// Asks each part that can be there whether it is itself.
fn identify(parts: &[&'static Part], addr: u8, rule: Rule, open: Open<'_>) -> What {
    let mut matching = Vec::new();
    for part in candidates(parts, addr) {
        let device = match open(addr) {
            Ok(device) => Guard::device(device, rule),
            Err(error) => return What::Fails(error),
        };
        match (part.open)(device, &Settings::default()).identify() {
            Ok(()) if part.certainty == Certainty::Id => return What::Sure(part),
            Ok(()) => matching.push(part),
            Err(chip::Error::I2c(error @ (Error::TimedOut | Error::Gone(_)))) => return What::Fails(error),
            // Another part, or one that refuses the question, or a question that may not be asked here.
            Err(_) => {}
        }
    }
    if matching.is_empty() { What::Unknown } else { What::Likely(matching) }
}

/// The parts that can say of themselves that they are at this address, the surest first; among equals those with fewer
/// addresses, because what fits everywhere says little. A handful more or less is no difference: those stay in the order
/// of the list, where the plainer part of a family comes first and reads its relatives too.
fn candidates(parts: &[&'static Part], addr: u8) -> Vec<&'static Part> {
    let asked = |part: &&Part| part.certainty != Certainty::Word && !needs_writes(part) && part.can_be_at(addr);
    let mut candidates: Vec<&Part> = parts.iter().copied().filter(|part| asked(part)).collect();
    candidates.sort_by_key(|part| {
        let addresses: usize = part.addresses.iter().map(ExactSizeIterator::len).sum();
        (Reverse(part.certainty), addresses.max(HANDFUL))
    });
    candidates
}

/// Whether a part is read by writing to it first: a common-slot supply takes a command with its checksum.
pub(crate) fn needs_writes(part: &Part) -> bool {
    part.registers.list().iter().any(|register| register.form == Form::CommonSlot)
}

#[cfg(test)]
mod tests;
