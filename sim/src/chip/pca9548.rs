//! PCA9546 and PCA9548: a switch between one bus and several (NXP PCA9548A, 7.2).
//!
//! One control register, a bit for each channel; what is written selects at the stop. Any number of channels can be open
//! at a time, and their chips then all hear. Not modelled: that a channel which hangs holds the bus before it.

use std::time::Duration;

use super::{Ack, Ailment, Chip, repeat};

/// One switch.
#[derive(Clone, Debug)]
pub struct Pca9548 {
    channels: u8,
    control: u8,
}

impl Pca9548 {
    /// A switch just powered, all channels closed. It has so many of them, at most 8.
    #[must_use]
    pub const fn new(channels: u8) -> Self {
        Self { channels, control: 0 }
    }

    /// Whether this channel is open.
    #[must_use]
    pub fn is_open(&self, channel: u8) -> bool {
        1_u8.checked_shl(channel.into()).is_some_and(|bit| self.control & bit != 0)
    }
}

impl Chip for Pca9548 {
    fn reset(&mut self) {
        self.control = 0;
    }

    /// It measures nothing and has no id.
    fn ail(&mut self, _: Ailment) {}

    fn write(&mut self, bytes: &[u8], _: Duration) -> Ack {
        if let [.., control] = bytes {
            let exist = u8::MAX.checked_shr(u32::from(8_u8.saturating_sub(self.channels))).unwrap_or(0);
            self.control = control & exist;
        }
        Ack::Acked
    }

    fn read(&mut self, buffer: &mut [u8], _: Duration) -> Ack {
        repeat(buffer, &[self.control])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::probe::put;

    #[test]
    fn a_bit_for_each_channel() {
        for (channels, written, control) in [(8, 0xff, 0xff), (8, 0x08, 0x08), (4, 0xff, 0x0f), (4, 0x10, 0x00)] {
            let mut chip = Pca9548::new(channels);
            put(&mut chip, &[written]);
            let mut read = [0; 2];
            assert_eq!((chip.read(&mut read, Duration::ZERO), read), (Ack::Acked, [control; 2]), "{written:#04x}");
            for channel in 0..9 {
                assert_eq!(chip.is_open(channel), u16::from(control) >> channel & 1 == 1, "{written:#04x} {channel}");
            }
            chip.reset();
            assert!((0..8).all(|channel| !chip.is_open(channel)));
        }
    }
}
