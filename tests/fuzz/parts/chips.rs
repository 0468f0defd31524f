//! A part's driver on a chip of any content, which fails when it likes and forgets what it likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use embedded_hal::i2c::Operation;
use rigd::bus::{Device, Error, Link};
use rigd::chip::{PARTS, Settings};
use rigd::reading::{ChipReading, Missing};
use rigd::units::{Duty, Microohms};

use crate::tape::Tape;

/// More transfers than any driver makes in one call; one that gets there would go on for ever.
const MOST: usize = 1_000;
/// The one part whose registers are asked for with a checksum behind their number, which is a write like any other: a scan
/// leaves it alone for that.
const ASKED_BY_WRITING: &str = "hp-common-slot";
/// More calls tell nothing new.
const CALLS: usize = 64;

/// Does with a part what the bytes say. Panics where a driver does, or breaks its word.
pub(crate) fn exercise(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let Some(part) = PARTS.get(usize::from(tape.byte()) % PARTS.len()) else { return };
    let settings = Settings {
        shunt: Microohms(u32::from_le_bytes(std::array::from_fn(|_| tape.byte())) >> (tape.byte() % 32)),
        watchdog_s: tape.byte(),
        pulses: (0..part.fan.len()).map(|_| tape.byte()).collect(),
        pec: tape.byte() & 1 == 1,
        current_divisor: tape.byte().into(),
    };
    let calls: Vec<[u8; 3]> =
        (0..usize::from(tape.byte()) % CALLS).map(|_| std::array::from_fn(|_| tape.byte())).collect();
    let pec = settings.pec;
    let chip = Arc::new(Mutex::new(Chip { tape, pec, content: BTreeMap::new(), transfers: 0, writes: 0 }));
    let mut driver = (part.open)(Device::new(0x40, Box::new(Shared(Arc::clone(&chip)))), &settings);
    for [call, first, second] in calls {
        let before = started(&chip);
        match call % 8 {
            0 => {
                let _ = driver.identify();
                let wrote = lock(&chip).writes != before;
                assert!(!wrote || part.name == ASKED_BY_WRITING, "{part:?}: identify wrote to the chip");
            }
            1 => drop(driver.configure()),
            2 => drop(driver.set_duty(first.into(), Duty::saturating(u32::from(second) * 50))),
            _ => {
                let mut reading = part.missing(Missing::NotPresent);
                if driver.read(&mut reading).is_ok() {
                    let ChipReading { power, temperature, fan, .. } = &reading;
                    let channels = [power.len(), temperature.len(), fan.len()];
                    assert_eq!(channels, [part.power.len(), part.temperature.len(), part.fan.len()], "{part:?}");
                }
            }
        }
    }
}

/// Counts the transfers of a call from here on; gives the writes so far.
fn started(chip: &Mutex<Chip>) -> usize {
    let mut chip = lock(chip);
    chip.transfers = 0;
    chip.writes
}

fn lock(chip: &Mutex<Chip>) -> std::sync::MutexGuard<'_, Chip> {
    chip.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Registers of any content. What was written is read back, most of the time.
struct Chip {
    tape: Tape,
    /// Its answers may end with a packet error code that fits.
    pec: bool,
    content: BTreeMap<u8, Vec<u8>>,
    transfers: usize,
    writes: usize,
}

struct Shared(Arc<Mutex<Chip>>);

impl Link for Shared {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        lock(&self.0).transaction(address, operations)
    }
}

impl Chip {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        self.transfers += 1;
        assert!(self.transfers <= MOST, "over {MOST} transfers in one call");
        let fate = self.tape.byte();
        match fate {
            0xf8 => return Err(Error::NoAcknowledge),
            0xf9 => return Err(Error::TimedOut),
            0xfa => return Err(Error::ArbitrationLost),
            0xfb => return Err(Error::Os(5)),
            0xfc => return Err(Error::Unsupported("transfer")),
            _ => {}
        }
        let mut command = 0;
        let mut sent = Vec::new();
        for operation in operations {
            match operation {
                Operation::Write(bytes) => {
                    sent = bytes.to_vec();
                    if let [register, data @ ..] = bytes {
                        command = *register;
                        if !data.is_empty() {
                            self.writes += 1;
                            self.content.insert(command, data.to_vec());
                        }
                    }
                }
                Operation::Read(buffer) => self.answer(address, command, &sent, fate, buffer),
            }
        }
        Ok(())
    }

    fn answer(&mut self, address: u8, command: u8, sent: &[u8], fate: u8, buffer: &mut [u8]) {
        let noise = fate & 0xf0 == 0xe0;
        let known = self.content.get(&command).filter(|known| !noise && known.len() >= buffer.len());
        let content: Vec<u8> = match known {
            Some(known) => known.clone(),
            None => buffer.iter().map(|_| self.tape.byte()).collect(),
        };
        buffer.copy_from_slice(content.get(..buffer.len()).unwrap_or_default());
        if self.pec
            && fate & 1 == 0
            && let Some((code, data)) = buffer.split_last_mut()
        {
            let frame = [&[address << 1], sent, &[address << 1 | 1], &*data].concat();
            *code = crc8(&frame);
        }
        if !noise {
            self.content.insert(command, content);
        }
    }
}

/// The packet error code: x^8 + x^2 + x + 1 (SMBus 3.1, 6.4.1).
fn crc8(frame: &[u8]) -> u8 {
    let shift = |crc: u8, _: u32| if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x07 };
    frame.iter().fold(0, |crc, byte| (0..8).fold(crc ^ byte, shift))
}
