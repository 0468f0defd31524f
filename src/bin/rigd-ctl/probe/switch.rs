//! Multiplexers that no kernel driver has: made sure of, and closed. The only writes of a scan, and only with `--muxes`.
//!
//! The PCA954x have no id register. They are known by doing what they do: the byte that is written is the set of open
//! channels and reads back. A four-channel one has no upper half.

use embedded_hal::i2c::I2c;
use rigd::bus::{Device, Error, MUXES, MuxPart};

/// Tries the channels of what answers at a multiplexer's address, and leaves it closed. `None` where it is no multiplexer;
/// then the byte that it gave at first is written back.
pub(crate) fn make_sure(mut device: Device) -> Result<Option<&'static MuxPart>, Error> {
    let addr = device.addr();
    let before = control(&mut device)?;
    for channels in [0x01, 0x02, 0x00] {
        device.write(addr, &[channels])?;
        if control(&mut device)? != channels {
            device.write(addr, &[before])?;
            return Ok(None);
        }
    }
    device.write(addr, &[0x80])?;
    let upper_half = control(&mut device)? == 0x80;
    device.write(addr, &[0x00])?;
    let channels = if upper_half { 8 } else { 4 };
    Ok(MUXES.iter().find(|part| part.channels == channels))
}

fn control(device: &mut Device) -> Result<u8, Error> {
    let mut byte = [0; 1];
    device.read(device.addr(), &mut byte)?;
    let [control] = byte;
    Ok(control)
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    fn name(bench: &Bench) -> Option<&'static str> {
        make_sure(bench.open(0x71).unwrap()).unwrap().map(|part| part.name)
    }

    #[test]
    fn a_multiplexer_is_known_by_what_it_does_and_left_closed() {
        for (channels, expected) in [(8, "pca9548"), (4, "pca9546")] {
            let bench = Bench::default().mux(0x71, channels, 0x04).switching();
            assert_eq!(name(&bench), Some(expected));
            assert_eq!(bench.control(0x71), Some(0), "it had a channel open before");
        }
    }

    #[test]
    fn what_does_not_give_back_what_it_was_given_is_none() {
        let bench = Bench::default().constant(0x71, 0xff).switching();
        assert_eq!(name(&bench), None);
        assert_eq!(bench.log().last(), Some(&(0x71, vec![0xff], 0)), "as it was");
    }
}
