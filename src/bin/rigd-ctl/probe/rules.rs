//! What may be asked at an address before it is known what sits there.
//!
//! Presence is found out by a receive byte (SMBus 3.1, 6.5.3): the address, and one byte that the chip gives. It writes
//! nothing at all, where i2cdetect's quick write is itself a write. What comes after that is up to the address:
//!
//! | address | asked | because |
//! |---|---|---|
//! | 0x10 to 0x2f, 0x38 to 0x4f, 0x60 to 0x6f | registers: their number, then a read | sensors and fan controllers sit here |
//! | 0x20 to 0x27, 0x38 to 0x3f | the same, after a look | a PCF8574 takes a register's number for the state of its pins |
//! | 0x30 to 0x37 | presence | memory modules have their write protection here, and addressing it can be enough to set it |
//! | 0x50 to 0x57 | presence | memory modules, supplies and boards keep their data here |
//! | 0x58 to 0x5f | PMBus commands that read | supplies; one of the common-slot kind is asked by a write and is left alone |
//! | 0x69 on a main board | nothing | its clock generator can take the bus down when it is read (i2cdetect's manual) |
//! | 0x70 to 0x77 | presence | a multiplexer takes a register's number for the channels that it is to open |
//!
//! Below 0x10 nothing sits that the agent knows, and 0x0c is the SMBus alert, which a read would take away.
//!
//! A register's number is the only byte that is ever sent to a chip that is not known yet, and always with a read behind it.

use std::ops::RangeInclusive;

/// The addresses that are asked.
pub(crate) const ADDRESSES: RangeInclusive<u8> = 0x10..=0x77;
/// Where multiplexers sit.
pub(crate) const MUXES: RangeInclusive<u8> = 0x70..=0x77;
/// The clock generator of a main board.
const CLOCK: u8 = 0x69;
/// The most that a plain read may take where a look comes first.
pub(crate) const LOOK: usize = 32;

/// What may be asked at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing, not even whether it is there.
    Nothing,
    /// Whether it is there: one byte, without a register's number.
    Presence,
    /// Plain reads; registers only when those show that it has some.
    Look,
    /// PMBus commands that read.
    Pmbus,
    /// Any register.
    Registers,
}

/// What the operator and the adapter change about the rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// The adapter is a PC main board's SMBus.
    pub(crate) main_board: bool,
    /// Addresses that the operator vouches for.
    pub(crate) ask: Vec<u8>,
}

impl Terms {
    /// What may be asked at this address.
    pub(crate) fn rule(&self, addr: u8) -> Rule {
        let vouched = self.ask.contains(&addr);
        match addr {
            0x30..=0x37 | 0x50..=0x57 | 0x70..=0x77 => Rule::Presence,
            0x58..=0x5f => Rule::Pmbus,
            CLOCK if self.main_board && !vouched => Rule::Nothing,
            0x20..=0x27 | 0x38..=0x3f if !vouched => Rule::Look,
            _ if ADDRESSES.contains(&addr) => Rule::Registers,
            _ => Rule::Nothing,
        }
    }
}

/// Whether an operator's word changes anything about this address.
pub(crate) fn can_be_vouched_for(addr: u8) -> bool {
    let terms = |ask: &[u8]| Terms { main_board: true, ask: ask.to_vec() };
    terms(&[]).rule(addr) != terms(&[addr]).rule(addr)
}

/// PMBus commands that read and do nothing else (PMBus 1.3 part II, appendix I): CAPABILITY, VOUT_MODE, STATUS_BYTE to
/// STATUS_FANS_3_4, READ_EIN to READ_PIN and PMBUS_REVISION, MFR_ID to MFR_SERIAL, the ratings, IC_DEVICE_ID and
/// IC_DEVICE_REV. The commands that act on their code alone, such as CLEAR_FAULTS, are far from these.
pub(crate) const fn is_pmbus_read(command: u8) -> bool {
    matches!(command, 0x19 | 0x20 | 0x78..=0x82 | 0x86..=0x9e | 0xa0..=0xa9 | 0xad | 0xae)
}

/// What graphics drivers call the buses to their monitors: a scan there asks monitors and a card's own regulators.
const GRAPHICS: [&str; 12] = [
    "AMDGPU",
    "AST i2c",
    "AURA GPU",
    "AUX ",
    "DPDDC",
    "DPMST",
    "NVIDIA i2c adapter",
    "Radeon",
    "card",
    "dmdc",
    "i915 ",
    "nvkm-",
];

/// Whether a graphics driver calls its buses so.
pub(crate) fn is_graphics(name: &str) -> bool {
    GRAPHICS.iter().any(|known| name.starts_with(known))
}

/// Whether this is what the chipset drivers of PC main boards call their SMBus ("SMBus I801 adapter at efa0").
pub(crate) fn is_main_board(name: &str) -> bool {
    name.starts_with("SMBus ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_rule() {
        for (what, main_board, ask, addrs, expected) in [
            ("reserved", false, &[][..], vec![0x00, 0x08, 0x0c, 0x0f, 0x78, 0x7f], Rule::Nothing),
            ("sensors", false, &[], vec![0x10, 0x1f, 0x28, 0x2f, 0x40, 0x4f, 0x60, 0x69, 0x6f], Rule::Registers),
            ("port expanders", false, &[], vec![0x20, 0x27, 0x38, 0x3f], Rule::Look),
            ("vouched for", false, &[0x20], vec![0x20], Rule::Registers),
            ("write protection", true, &[0x30, 0x37], vec![0x30, 0x37], Rule::Presence),
            ("memories", true, &[0x50, 0x57], vec![0x50, 0x57], Rule::Presence),
            ("supplies", true, &[0x58, 0x5f], vec![0x58, 0x5f], Rule::Pmbus),
            ("multiplexers", true, &[0x70, 0x77], vec![0x70, 0x77], Rule::Presence),
            ("a clock generator", true, &[], vec![0x69], Rule::Nothing),
            ("one that is none", true, &[0x69], vec![0x69], Rule::Registers),
        ] {
            let terms = Terms { main_board, ask: ask.to_vec() };
            for addr in addrs {
                assert_eq!(terms.rule(addr), expected, "{what}, {addr:#04x}");
            }
        }
        let can: Vec<u8> = (0..=0x7f).filter(|addr| can_be_vouched_for(*addr)).collect();
        assert_eq!(can, (0x20..=0x27).chain(0x38..=0x3f).chain([0x69]).collect::<Vec<_>>());
    }

    #[test]
    fn no_command_that_acts_is_a_read() {
        // PMBus 1.3 part II, appendix I: the commands of type "send byte", and the pages.
        for command in [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18] {
            assert!(!is_pmbus_read(command), "{command:#04x}");
        }
        for command in [0x20, 0x79, 0x88, 0x98, 0x99, 0x9a] {
            assert!(is_pmbus_read(command), "{command:#04x}");
        }
    }

    #[test]
    fn buses_are_known_by_their_names() {
        for name in [
            "i915 gmbus dpc",
            "AUX A/DDI A/PHY A",
            "DPDDC-A",
            "NVIDIA i2c adapter 1 at 1:00.0",
            "AMDGPU DM i2c hw bus 0",
            "AMDGPU SMU 0",
            "Radeon i2c bit bus 0x90",
            "nvkm-0000:01:00.0-bus-0000",
        ] {
            assert!(is_graphics(name) && !is_main_board(name), "{name}");
        }
        for name in ["SMBus I801 adapter at efa0", "SMBus PIIX4 adapter port 0 at 0b00"] {
            assert!(is_main_board(name) && !is_graphics(name), "{name}");
        }
        for name in
            ["CP2112 SMBus Bridge on hidraw0", "30a20000.i2c", "bcm2835 (i2c@7e804000)", "i2c-4-mux (chan_id 0)"]
        {
            assert!(!is_main_board(name) && !is_graphics(name), "{name}");
        }
    }
}
