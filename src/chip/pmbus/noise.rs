//! For tests: a chip that answers anything, and nothing now and then, but remembers what was written to it. No driver
//! may panic on it.

#![cfg(test)]

use std::collections::BTreeMap;

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

use crate::chip::{Driver, Part};
use crate::reading::Missing;
use crate::units::Duty;

pub(crate) struct Noise {
    random: u32,
    command: u8,
    written: BTreeMap<u8, Vec<u8>>,
}

impl Noise {
    /// Xorshift; every fourth byte is one of those at the ends of a range.
    fn byte(&mut self) -> u8 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let [byte, choice, end, _] = self.random.to_le_bytes();
        if choice % 4 == 0 { [0x00, 0x7f, 0x80, 0xff][usize::from(end % 4)] } else { byte }
    }
}

impl ErrorType for Noise {
    type Error = ErrorKind;
}

impl I2c for Noise {
    fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        if self.byte() == 0x55 {
            return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown));
        }
        for operation in operations {
            match operation {
                Operation::Write([command, data @ ..]) => {
                    self.command = *command;
                    if !data.is_empty() {
                        self.written.insert(*command, data.to_vec());
                    }
                }
                Operation::Write([]) => {}
                Operation::Read(bytes) => {
                    let known = self.written.get(&self.command).cloned().unwrap_or_default();
                    for (i, byte) in bytes.iter_mut().enumerate() {
                        *byte = known.get(i).copied().unwrap_or_else(|| self.byte());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Drives the part through many noises.
pub(crate) fn feed<D: Driver<ErrorKind>>(part: &Part, open: impl Fn(Noise) -> D) {
    let mut passes = 0;
    for seed in 1..=500 {
        let mut chip = open(Noise { random: seed, command: 0, written: BTreeMap::new() });
        let mut reading = part.missing(Missing::Stale);
        let _ = (chip.identify(), chip.configure());
        for channel in 0..2 * part.fan.len() {
            let _ = chip.set_duty(channel, Duty::FULL);
        }
        passes += usize::from(chip.read(&mut reading).is_ok()) + usize::from(chip.read(&mut reading).is_ok());
        assert_eq!(reading.power.len(), part.power.len());
    }
    assert!(passes > 0, "{part:?} refuses all noise before it reads anything");
}
