//! Chips at register level: what a master on the bus sees of the world.
//!
//! Each model keeps its own register table, written from the datasheet and not shared with the agent's drivers, so that
//! a slip in either shows. A model knows no world: it is given what its pins would see (`measure`) and asked what it
//! drives.

pub mod adm1275;
mod command;
pub mod common_slot;
pub mod emc2305;
pub mod ina226;
pub mod ina3221;
pub mod max31790;
pub mod pca9548;
pub mod pmbus;
mod status;
pub mod tmp421;
pub mod tmp75;

use std::time::Duration;

/// Whether the chip acknowledged what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// All bytes.
    Acked,
    /// Not all of them.
    NotAcked,
}

/// How a chip itself is at fault, as opposed to the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ailment {
    /// Measured values no longer change.
    pub frozen: bool,
    /// It is another part than the board says.
    pub wrong_id: bool,
}

/// A chip on a bus. `now` is the world's time.
pub trait Chip: Send {
    /// Power off and on: every register at its reset value.
    fn reset(&mut self);

    /// Falls ill or gets well.
    fn ail(&mut self, ailment: Ailment);

    /// A write addressed to the chip; the first byte is the register pointer.
    fn write(&mut self, bytes: &[u8], now: Duration) -> Ack;

    /// A read from where the pointer stands.
    fn read(&mut self, buffer: &mut [u8], now: Duration) -> Ack;
}

/// Answers a read with these bytes, over and over.
fn repeat(buffer: &mut [u8], bytes: &[u8]) -> Ack {
    for (to, from) in buffer.iter_mut().zip(bytes.iter().cycle()) {
        *to = *from;
    }
    Ack::Acked
}

/// What a read finds when nothing drives the line.
const RELEASED: u8 = 0xff;

#[cfg(test)]
pub(crate) mod probe {
    //! A master's hands for the models' tests.

    use super::{Ack, Chip};
    use std::time::Duration;

    /// Writes the pointer and reads `N` bytes.
    pub(crate) fn get<const N: usize>(chip: &mut dyn Chip, register: u8) -> [u8; N] {
        get_at(chip, register, Duration::ZERO)
    }

    pub(crate) fn get_at<const N: usize>(chip: &mut dyn Chip, register: u8, now: Duration) -> [u8; N] {
        let mut buffer = [0; N];
        assert_eq!(chip.write(&[register], now), Ack::Acked);
        assert_eq!(chip.read(&mut buffer, now), Ack::Acked);
        buffer
    }

    pub(crate) fn put(chip: &mut dyn Chip, bytes: &[u8]) {
        assert_eq!(chip.write(bytes, Duration::ZERO), Ack::Acked);
    }
}
