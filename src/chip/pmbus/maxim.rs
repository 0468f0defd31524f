//! What Maxim's PMBus parts do alike: their id registers and their temperatures.

use embedded_hal::i2c::I2c;

use super::command;
use super::format::Direct;
use super::link::Link;
use crate::chip::Error;
use crate::reading::{Missing, Reading};
use crate::units::Millicelsius;

/// MFR_ID: one byte, not a block.
const MAXIM: u8 = b'M';
/// READ_TEMPERATURE_1 is in hundredths of a degree.
const TEMPERATURE: Direct = Direct { m: 1, b: 0, r: 2 };
/// READ_TEMPERATURE_1 of a sensor that does not answer or whose diode is open.
const FAULTY: u16 = 0x7fff;

/// Makes sure that the maker is Maxim and the part has this MFR_MODEL. These commands answer on any page.
pub(crate) fn identify<I: I2c>(link: &mut Link<I>, model: u8) -> Result<(), Error<I::Error>> {
    for (register, id) in [(command::MFR_ID, MAXIM), (command::MFR_MODEL, model)] {
        let found = link.read_byte(register)?;
        if found != id {
            return Err(Error::WrongPart { register, found: found.into() });
        }
    }
    Ok(())
}

/// The temperature sensors of one part. A sensor that is switched off reads as zero; one that has read anything else
/// since the part was identified is on, and its 0 °C is believed.
#[derive(Debug, Default)]
pub(crate) struct Sensors {
    /// A bit for each sensor that is known to be on.
    on: u32,
}

impl Sensors {
    /// READ_TEMPERATURE_1 of sensor number `index`.
    pub(crate) fn convert(&mut self, index: usize, raw: u16) -> Reading<Millicelsius> {
        let bit = u32::try_from(index).ok().and_then(|index| 1_u32.checked_shl(index)).unwrap_or(0);
        if raw != 0 {
            self.on |= bit;
        }
        match raw {
            FAULTY => Err(Missing::Implausible),
            0 if self.on & bit == 0 => Err(Missing::NotPresent),
            _ => Ok(TEMPERATURE.decode(raw, 3).ok_or(Missing::Implausible)?.try_into()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_are_hundredths_and_zero_may_mean_off() {
        let mut sensors = Sensors::default();
        for (index, raw, expected) in [
            (0, 2_550, Ok(Millicelsius(25_500))),
            (0, 0xff38, Ok(Millicelsius(-2_000))),
            (0, 0, Ok(Millicelsius(0))),
            (1, 0, Err(Missing::NotPresent)),
            (1, 0x7fff, Err(Missing::Implausible)),
            (4, 1, Ok(Millicelsius(10))),
            (99, 0, Err(Missing::NotPresent)),
        ] {
            assert_eq!(sensors.convert(index, raw), expected, "sensor {index}: {raw:#06x}");
        }
    }
}
