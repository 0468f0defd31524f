//! What was found and what was not, in words.

use rigd::bus;
use rigd::chip::Part;
use rustix::io::Errno;

use super::scan::{What, Why};
use crate::kernel::Owner;

/// What was found, in a few words.
pub(super) fn outcome(what: &What) -> String {
    match what {
        What::Sure(part) => part.name.to_owned(),
        What::Likely(parts) => {
            let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
            format!("likely {}", names.join(" or "))
        }
        What::Unknown => "answers, and is no part that the agent can tell".to_owned(),
        What::Owned => "a kernel driver has it".to_owned(),
        What::Unasked(Why::Clock) => "not asked: a main board's clock generator".to_owned(),
        What::Unasked(Why::Memory) => "answers; a memory, left alone".to_owned(),
        What::Unasked(Why::WriteProtection) => "answers; write protection of memory modules, left alone".to_owned(),
        What::Unasked(Why::Supply) => "answers; may be a common-slot supply, left alone".to_owned(),
        What::Unasked(Why::PortExpander) => "answers; may be a port expander, left alone".to_owned(),
        What::Unasked(Why::Mux) => "answers; may be a multiplexer".to_owned(),
        What::Fails(error) => format!("fails when it is asked: {error}"),
    }
}

/// Why a bus was given up, with what can be done about it.
pub(super) fn explain(error: &bus::Error) -> String {
    let refused = [Errno::ACCESS, Errno::PERM].map(|errno| bus::Error::Os(errno.raw_os_error()));
    if *error == bus::Error::TimedOut {
        "it times out again and again; a chip holds a line, or there are no pull-ups".to_owned()
    } else if refused.contains(error) {
        format!("{error}; this needs root, or the group i2c")
    } else {
        error.to_string()
    }
}

pub(super) fn who(owner: &Owner) -> String {
    let chip = if owner.chip.is_empty() { "an unknown chip" } else { &owner.chip };
    match &owner.driver {
        Some(driver) => format!("The kernel's driver {driver} ({chip})"),
        None => format!("The kernel ({chip})"),
    }
}

fn list(parts: &[&Part]) -> String {
    parts.iter().map(|part| part.name).collect::<Vec<_>>().join(", ")
}

pub(super) fn likely(part: &Part, others: &[&Part]) -> String {
    let name = part.name;
    match others {
        [] => format!("Likely, by bits that cannot be otherwise in {name}; it has no id."),
        others => format!("Likely: {name} cannot be told from {} by reading; the chip's marking can.", list(others)),
    }
}

pub(super) fn could_be(parts: &[&Part]) -> String {
    if parts.is_empty() { String::new() } else { format!(" It could be {}.", list(parts)) }
}

pub(super) fn unasked(why: Why, addr: u8, behind: bool) -> String {
    match why {
        Why::Memory => "answers: a memory (of this board, a supply or a memory module); not asked what it holds. Where it is the\n\
                        board's own and is to hold the board's identity, take it in and put `identity = \"...\"` at the top."
            .to_owned(),
        Why::WriteProtection => {
            "answers: memory modules have their write protection there. Not asked more; nothing to be read.".to_owned()
        }
        Why::Supply => {
            "answers, and is no PMBus part that the agent can tell: may be a common-slot supply; not asked, because it is\n\
             asked by a write; add it by hand."
                .to_owned()
        }
        Why::PortExpander => format!(
            "gives the same byte over and over: may be a port expander, whose pins a question would set. Not asked.\n\
             Where you know that none is there: rigd-ctl probe --ask {addr:#04x}"
        ),
        Why::Mux if behind => {
            "answers: may be a multiplexer; board files know none behind another one's channel.".to_owned()
        }
        Why::Mux => "answers: may be a multiplexer. Not switched; `rigd-ctl probe --muxes` makes sure and looks behind it."
            .to_owned(),
        Why::Clock => "was not asked: main boards have their clock generator there, which can take the bus down.\n\
                       Where you know better: rigd-ctl probe --ask 0x69"
            .to_owned(),
    }
}
