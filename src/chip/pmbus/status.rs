//! What a unit says is wrong: STATUS_WORD and the registers that its bits point to (part II, section 17).
//!
//! A bit stays set until the unit is told to clear it, which we never do, or clears it itself. CML, "a command was not
//! understood", is left to the caller: whoever scans a bus sets it everywhere.

use super::command;
use crate::reading::{Fault, Faults};

/// What bits of a register mean.
type Bits<T> = &'static [(T, Fault)];

/// STATUS_WORD (table 16): bits that say all there is to say.
const WORD: Bits<u16> = &[
    (1 << 12, Fault::Other),
    (1 << 11, Fault::PowerGood),
    (1 << 6, Fault::Off),
    (1 << 5, Fault::OverVoltage),
    (1 << 4, Fault::OverCurrent),
    (1 << 3, Fault::UnderVoltage),
];
/// STATUS_WORD: a fan's fault or warning; STATUS_FANS_1_2 says which.
pub(crate) const FANS: u16 = 1 << 10;
/// STATUS_WORD: too hot, or about to be.
pub(crate) const TEMPERATURE: u16 = 1 << 2;
/// STATUS_WORD: something was not understood; STATUS_CML says what.
pub(crate) const CML: u16 = 1 << 1;
/// STATUS_WORD: a maker's own.
pub(crate) const MFR_SPECIFIC: u16 = 1 << 12;

/// STATUS_FANS_1_2 (17.9): the fault of fan 1 and of fan 2.
pub(crate) const FAN_FAULT: [u8; 2] = [1 << 7, 1 << 6];
/// STATUS_CML (17.7): a memory or the processor of the unit is damaged.
pub(crate) const CML_DAMAGED: u8 = 1 << 4 | 1 << 3;

/// A bit of STATUS_WORD that points to a register.
struct Pointer {
    bit: u16,
    command: u8,
    bits: Bits<u8>,
    /// What the bit alone means, where that register is not there or holds none of `bits`.
    alone: Fault,
}

/// Faults and warnings alike: 17.3 to 17.6.
const POINTERS: [Pointer; 4] = [
    Pointer {
        bit: 1 << 15,
        command: command::STATUS_VOUT,
        bits: &[(0b1100_0000, Fault::OverVoltage), (0b0011_0000, Fault::UnderVoltage)],
        alone: Fault::Other,
    },
    Pointer {
        bit: 1 << 14,
        command: command::STATUS_IOUT,
        bits: &[(0b1110_0000, Fault::OverCurrent), (0b0001_0000, Fault::UnderCurrent), (0b0000_0011, Fault::OverPower)],
        alone: Fault::Other,
    },
    Pointer {
        bit: 1 << 13,
        command: command::STATUS_INPUT,
        bits: &[
            (0b1100_0000, Fault::OverVoltage),
            // Bit 3: off because the input is too low.
            (0b0011_1000, Fault::UnderVoltage),
            (0b0000_0110, Fault::OverCurrent),
            (0b0000_0001, Fault::OverPower),
        ],
        alone: Fault::Input,
    },
    Pointer {
        bit: TEMPERATURE,
        command: command::STATUS_TEMPERATURE,
        // Too cold is nothing that the air of a rig could be blamed for.
        bits: &[(0b1100_0000, Fault::Temperature), (0b0011_0000, Fault::Other)],
        alone: Fault::Temperature,
    },
];

/// Everything that STATUS_WORD says but for its fans and CML. `read` gives a register that it points to, `None` where
/// the unit has not got it.
pub(crate) fn faults<E>(word: u16, mut read: impl FnMut(u8) -> Result<Option<u8>, E>) -> Result<Faults, E> {
    let mut faults = of(WORD, word).with(Fault::Input, word & 1 << 13 != 0);
    for pointer in POINTERS.iter().filter(|pointer| word & pointer.bit != 0) {
        let told = read(pointer.command)?.map_or(Faults::NONE, |byte| of(pointer.bits, byte));
        faults = faults.and(told).with(pointer.alone, told == Faults::NONE);
    }
    Ok(faults)
}

/// The faults whose bits are set.
fn of<T: Copy + Into<u16>>(bits: Bits<T>, status: T) -> Faults {
    let status: u16 = status.into();
    bits.iter().fold(Faults::NONE, |faults, (bits, fault)| faults.with(*fault, status & (*bits).into() != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_standards() {
        let set = |faults: &[Fault]| faults.iter().fold(Faults::NONE, |all, fault| all.with(*fault, true));
        for (what, word, register, expected) in [
            ("nothing", 0x0000, None, set(&[])),
            ("off, no power good, input low", 0x0848, None, set(&[Fault::Off, Fault::PowerGood, Fault::UnderVoltage])),
            ("output low", 0x8000, Some((0x7a, Some(0x10))), set(&[Fault::UnderVoltage])),
            ("output high", 0x8020, Some((0x7a, Some(0x80))), set(&[Fault::OverVoltage])),
            ("over-current alone", 0x4010, Some((0x7b, Some(0x80))), set(&[Fault::OverCurrent])),
            ("over-power alone", 0x4000, Some((0x7b, Some(0x02))), set(&[Fault::OverPower])),
            ("a register that is not there", 0x4000, Some((0x7b, None)), set(&[Fault::Other])),
            ("mains low", 0x2008, Some((0x7c, Some(0x20))), set(&[Fault::Input, Fault::UnderVoltage])),
            (
                "mains drawn too much of",
                0x2000,
                Some((0x7c, Some(0x03))),
                set(&[Fault::Input, Fault::OverCurrent, Fault::OverPower]),
            ),
            ("input, and no word why", 0x2000, Some((0x7c, None)), set(&[Fault::Input])),
            ("hot", 0x0004, Some((0x7d, Some(0x40))), set(&[Fault::Temperature])),
            ("cold", 0x0004, Some((0x7d, Some(0x20))), set(&[Fault::Other])),
            ("hot, and no word why", 0x0004, Some((0x7d, Some(0x00))), set(&[Fault::Temperature])),
            ("fans, CML, none of the above", 0x0403, None, set(&[])),
        ] {
            let read = |command| match register {
                Some((expected, byte)) if expected == command => Ok(byte),
                _ => Err(command),
            };
            assert_eq!(faults(word, read), Ok(expected), "{what}");
        }
    }
}
