//! AT24C02 to AT24C256: the EEPROM that says which board it sits on (Microchip; see [`crate::identity`]).
//!
//! The AT24C02 has one byte of address, the others two. Nothing tells them apart, nor from the EEPROM of a memory module or
//! a supply, so a board's word is taken for the part, and nothing is written but by [`write_identity`], which somebody asked
//! for: not even an address, to see whether it is there. One that takes two bytes of address needs an adapter with plain
//! I2C: without it the address could only be set by a transfer that a smaller EEPROM takes for a write, and that would be
//! the end of a memory module whose address was mistaken for the board's.
//!
//! Driven, it is read once after it was found; later passes only make sure that it still answers.

use std::sync::Arc;

use embedded_hal::i2c::{ErrorKind, I2c};

use super::{Certainty, Driver, Error, Form, Kernel, Part, Register, Registers, Settings};
use crate::bus;
use crate::identity::{Identity, LONGEST, Problem};
use crate::reading::{ChipReading, Fault, Faults};

/// 256 bytes.
pub static AT24C02: Part = part("at24c02", "the board's identity: 256 bytes", REGISTERS, |device, _| {
    Box::new(At24::new(device.addr(), device, C02))
});

/// 4 KiB.
pub static AT24C32: Part = part("at24c32", "the board's identity: 4 KiB", &[], |device, _| {
    Box::new(At24::new(device.addr(), device, wide(4)))
});

/// 8 KiB.
pub static AT24C64: Part = part("at24c64", "the board's identity: 8 KiB", &[], |device, _| {
    Box::new(At24::new(device.addr(), device, wide(8)))
});

/// 16 KiB.
pub static AT24C128: Part = part("at24c128", "the board's identity: 16 KiB", &[], |device, _| {
    Box::new(At24::new(device.addr(), device, wide(16)))
});

/// 32 KiB.
pub static AT24C256: Part = part("at24c256", "the board's identity: 32 KiB", &[], |device, _| {
    Box::new(At24::new(device.addr(), device, wide(32)))
});

const fn part(
    name: &'static str,
    about: &'static str,
    registers: &'static [Register],
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about,
        addresses: &[0x50..=0x57],
        certainty: Certainty::Word,
        power: &[],
        temperature: &[],
        fan: &[],
        drives_fans: false,
        takes: &[],
        watchdog_s: &[],
        registers: Registers::of(registers),
        kernel: Kernel::NONE,
        open,
    }
}

/// Of the EEPROM whose addresses have one byte.
const REGISTERS: &[Register] = &[
    Register { name: "Magic", at: 0, form: Form::Be(4), formula: "0x52494744: RIGD" },
    Register { name: "Version", at: 4, form: Form::U8, formula: "1" },
];

/// How an EEPROM is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    size: u16,
    /// Bytes that are written at once, all in one page of the chip's.
    page: usize,
    wide: bool,
}

const C02: Model = Model { size: 256, page: 8, wide: false };

/// One whose addresses have two bytes. Its pages have 32 bytes and more; half of that.
const fn wide(kib: u16) -> Model {
    Model { size: kib * 1024, page: 16, wide: true }
}

impl Model {
    /// The model of a part; `None` where it is no EEPROM.
    #[must_use]
    pub fn of(part: &Part) -> Option<Self> {
        match part.name {
            "at24c02" => Some(C02),
            "at24c32" => Some(wide(4)),
            "at24c64" => Some(wide(8)),
            "at24c128" => Some(wide(16)),
            "at24c256" => Some(wide(32)),
            _ => None,
        }
    }

    /// The address as it is sent; an error for bytes beyond the end, where the chip would start over.
    fn address<E>(self, offset: usize, length: usize) -> Result<Vec<u8>, Error<E>> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= usize::from(self.size));
        let [high, low] = u16::try_from(offset).ok().filter(|_| inside).ok_or(Error::NoChannel)?.to_be_bytes();
        Ok(if self.wide { vec![high, low] } else { vec![low] })
    }
}

/// Most that one transfer reads on every adapter.
const BLOCK: usize = 32;
/// What an SMBus adapter reads that has no blocks.
const WORD: usize = 2;
/// Times that a chip which is writing is asked whether it is done; each is followed by a pause of a millisecond.
const POLLS: u8 = 10;

/// Reads what is stored from `offset` on.
///
/// # Errors
/// `I2c`; `NoChannel` for bytes beyond the end.
pub fn read_bytes<I: I2c>(
    i2c: &mut I,
    addr: u8,
    model: Model,
    offset: usize,
    buffer: &mut [u8],
) -> Result<(), Error<I::Error>> {
    match read_in(BLOCK, i2c, addr, model, offset, buffer) {
        Err(error) if unsupported(&error) && !model.wide => read_in(WORD, i2c, addr, model, offset, buffer),
        result => result,
    }
}

fn read_in<I: I2c>(
    step: usize,
    i2c: &mut I,
    addr: u8,
    model: Model,
    offset: usize,
    buffer: &mut [u8],
) -> Result<(), Error<I::Error>> {
    for (chunk, at) in buffer.chunks_mut(step).zip((offset..).step_by(step)) {
        let address = model.address(at, chunk.len())?;
        i2c.write_read(addr, &address, chunk)?;
    }
    Ok(())
}

/// Whether it was the adapter that could not do this kind of transfer.
fn unsupported<E: embedded_hal::i2c::Error>(error: &Error<E>) -> bool {
    matches!(error, Error::I2c(error) if error.kind() == ErrorKind::Other)
}

/// Why an identity was not written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError<E> {
    /// The EEPROM holds something else, which is not overwritten unasked.
    #[error("the memory holds something else")]
    Foreign,
    /// It is longer than an identity can be.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// The transfer failed, or what was written is not there.
    #[error("{0}")]
    Chip(Error<E>),
}

impl<E> From<Error<E>> for WriteError<E> {
    fn from(error: Error<E>) -> Self {
        Self::Chip(error)
    }
}

/// Writes an identity (see [`Identity::encode`]) and makes sure that it is there. `pause` waits for a millisecond. What is
/// neither blank nor an identity is only overwritten where `force` is set.
///
/// # Errors
/// Why it was not written; a write-protected EEPROM is one that does not hold what was written.
pub fn write_identity<I: I2c>(
    i2c: &mut I,
    addr: u8,
    model: Model,
    identity: &[u8],
    force: bool,
    mut pause: impl FnMut(),
) -> Result<(), WriteError<I::Error>> {
    if identity.len() > LONGEST {
        return Err(WriteError::TooLong);
    }
    let mut found = [0; LONGEST];
    read_bytes(i2c, addr, model, 0, &mut found)?;
    if Identity::decode(&found) == Err(Problem::Foreign) && !force {
        return Err(WriteError::Foreign);
    }
    match write_in(model.page, i2c, addr, model, identity, &mut pause) {
        Err(error) if unsupported(&error) && !model.wide => write_in(1, i2c, addr, model, identity, &mut pause)?,
        result => result?,
    }
    read_bytes(i2c, addr, model, 0, &mut found)?;
    for ((at, written), found) in (0..).zip(identity).zip(found) {
        super::holds(at, u16::from(*written), found.into())?;
    }
    Ok(())
}

fn write_in<I: I2c>(
    step: usize,
    i2c: &mut I,
    addr: u8,
    model: Model,
    bytes: &[u8],
    pause: &mut impl FnMut(),
) -> Result<(), Error<I::Error>> {
    for (page, at) in bytes.chunks(step).zip((0..).step_by(step)) {
        let mut frame = model.address(at, page.len())?;
        frame.extend_from_slice(page);
        i2c.write(addr, &frame)?;
        written(i2c, addr, pause)?;
    }
    Ok(())
}

/// Waits until the chip answers again: while it writes it does not.
fn written<I: I2c>(i2c: &mut I, addr: u8, pause: &mut impl FnMut()) -> Result<(), Error<I::Error>> {
    let mut polls = 1;
    loop {
        match i2c.read(addr, &mut [0]) {
            Err(_) if polls < POLLS => {
                polls += 1;
                pause();
            }
            result => return Ok(result?),
        }
    }
}

/// What was found in an EEPROM.
#[derive(Clone)]
struct Found {
    identity: Option<Arc<Identity>>,
    /// An identity that cannot be read.
    damaged: bool,
}

impl Found {
    fn new(memory: &[u8]) -> Self {
        match Identity::decode(memory) {
            Ok(identity) => Self { identity: Some(Arc::new(identity)), damaged: false },
            Err(Problem::Blank | Problem::Foreign) => Self { identity: None, damaged: false },
            Err(Problem::Version(_) | Problem::TooLong | Problem::Checksum | Problem::NotText) => {
                Self { identity: None, damaged: true }
            }
        }
    }
}

/// Driver of one EEPROM.
pub struct At24<I> {
    i2c: I,
    addr: u8,
    model: Model,
    found: Option<Found>,
}

impl<I: I2c> At24<I> {
    fn new(addr: u8, i2c: I, model: Model) -> Self {
        Self { i2c, addr, model, found: None }
    }
}

impl<I: I2c + Send> Driver<I::Error> for At24<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        Ok(self.i2c.read(self.addr, &mut [0])?)
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        let found = if let Some(found) = self.found.clone() {
            self.identify()?;
            found
        } else {
            let mut memory = [0; LONGEST];
            read_bytes(&mut self.i2c, self.addr, self.model, 0, &mut memory)?;
            self.found.insert(Found::new(&memory)).clone()
        };
        reading.identity = found.identity;
        reading.faults = Faults::NONE.with(Fault::Communication, found.damaged);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal::i2c::NoAcknowledgeSource;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;
    use crate::chip::PARTS;
    use crate::reading::Missing;

    const ADDR: u8 = 0x50;
    const NACK: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown);

    fn identity() -> Identity {
        Identity { name: "octo".to_owned(), revision: "b".to_owned(), serial: "7".to_owned() }
    }

    fn memory() -> Vec<u8> {
        let mut memory = identity().encode().unwrap();
        memory.resize(LONGEST, 0xff);
        memory
    }

    /// Reads all of it in blocks, with one byte of address.
    fn blocks(memory: &[u8]) -> impl Iterator<Item = T> {
        (0..).step_by(32).zip(memory.chunks(32)).map(|(at, block)| T::write_read(ADDR, vec![at], block.to_vec()))
    }

    #[test]
    fn a_model_is_found_by_its_part() {
        for part in PARTS {
            assert_eq!(Model::of(part).is_some(), part.name.starts_with("at24"), "{part:?}");
        }
    }

    #[test]
    fn is_read_once_and_then_only_asked_for() {
        let mut all = vec![T::read(ADDR, vec![0xff])];
        all.extend(blocks(&memory()));
        all.extend([T::read(ADDR, vec![0xff]), T::read(ADDR, vec![0]).with_error(NACK)]);
        let mut mock = Mock::new(&all);
        let mut chip = At24::new(ADDR, mock.clone(), C02);
        assert_eq!(chip.identify(), Ok(()));
        assert_eq!(chip.configure(), Ok(()));
        let mut reading = AT24C02.missing(Missing::Stale);
        for _ in 0..2 {
            reading.identity = None;
            assert_eq!(chip.read(&mut reading), Ok(()));
            assert_eq!(reading.identity.as_deref(), Some(&identity()));
        }
        assert_eq!(chip.read(&mut reading).map_err(|error| error.missing()), Err(Missing::NotPresent));
        mock.done();
    }

    #[test]
    fn blank_and_foreign_are_no_faults_and_damaged_is_one() {
        let mut damaged = memory();
        damaged[9] = b'x';
        for (memory, fault) in [(vec![0xff; LONGEST], false), (vec![1; LONGEST], false), (damaged, true)] {
            let mut mock = Mock::new(&blocks(&memory).collect::<Vec<_>>());
            let mut reading = AT24C02.missing(Missing::Stale);
            assert_eq!(At24::new(ADDR, mock.clone(), C02).read(&mut reading), Ok(()));
            assert_eq!((reading.identity, reading.faults.has(Fault::Communication)), (None, fault));
            mock.done();
        }
    }

    #[test]
    fn two_bytes_of_address_are_sent_and_never_otherwise() {
        let failed = |at: u16| T::write_read(ADDR, at.to_be_bytes().to_vec(), vec![0; 32]).with_error(ErrorKind::Other);
        let mut mock = Mock::new(&[T::write_read(ADDR, vec![0x01, 0x00], vec![7; 4]), failed(0)]);
        let mut buffer = [0; 4];
        assert_eq!(read_bytes(&mut mock, ADDR, wide(4), 0x100, &mut buffer), Ok(()));
        assert_eq!(buffer, [7; 4]);
        assert_eq!(read_bytes(&mut mock, ADDR, wide(4), 0xffd, &mut buffer), Err(Error::NoChannel));
        let mut reading = AT24C32.missing(Missing::Stale);
        let refused = Err(Error::I2c(ErrorKind::Other));
        assert_eq!(At24::new(ADDR, mock.clone(), wide(4)).read(&mut reading), refused);
        mock.done();
    }

    #[test]
    fn an_adapter_without_blocks_reads_words_and_writes_bytes() {
        let bytes = identity().encode().unwrap();
        let unsupported = T::write_read(ADDR, vec![0], vec![0; 32]).with_error(ErrorKind::Other);
        let words = |memory: &[u8]| -> Vec<T> {
            let word = |(at, word): (u8, &[u8])| T::write_read(ADDR, vec![at], word.to_vec());
            std::iter::once(unsupported.clone()).chain((0..).step_by(2).zip(memory.chunks(2)).map(word)).collect()
        };
        let mut all = words(&[0xff; LONGEST]);
        all.push(T::write(ADDR, [&[0][..], &bytes[..8]].concat()).with_error(ErrorKind::Other));
        for (at, byte) in (0..).zip(&bytes) {
            all.extend([T::write(ADDR, vec![at, *byte]), T::read(ADDR, vec![0xff])]);
        }
        all.extend(words(&memory()));
        let mut mock = Mock::new(&all);
        assert_eq!(write_identity(&mut mock, ADDR, C02, &bytes, false, || ()), Ok(()));
        mock.done();
    }

    #[test]
    fn pages_are_written_polled_for_and_read_back() {
        let bytes = identity().encode().unwrap();
        let writes = |polls: usize| -> Vec<T> {
            let page = |(at, page): (u8, &[u8])| {
                let busy = vec![T::read(ADDR, vec![0]).with_error(NACK); polls];
                [vec![T::write(ADDR, [&[at][..], page].concat())], busy, vec![T::read(ADDR, vec![0xff])]].concat()
            };
            (0..).step_by(8).zip(bytes.chunks(8)).flat_map(page).collect()
        };
        let mut all: Vec<T> = blocks(&[0xff; LONGEST]).collect();
        all.extend(writes(3));
        all.extend(blocks(&memory()));
        // Once more over it, but the memory is write-protected.
        all.extend(blocks(&memory()));
        all.extend(writes(0));
        all.extend(blocks(&[0xff; LONGEST]));
        let mut mock = Mock::new(&all);
        let mut pauses = 0;
        assert_eq!(write_identity(&mut mock, ADDR, C02, &bytes, false, || pauses += 1), Ok(()));
        assert_eq!(pauses, 3 * bytes.len().div_ceil(8));
        let lost = Error::ReadBack { register: 0, written: b'R'.into(), found: 0xff };
        assert_eq!(write_identity(&mut mock, ADDR, C02, &bytes, false, || ()), Err(WriteError::Chip(lost)));
        mock.done();
    }

    #[test]
    fn what_is_not_ours_is_overwritten_only_when_asked_for() {
        let bytes = identity().encode().unwrap();
        let mut all: Vec<T> = blocks(&[1; LONGEST]).chain(blocks(&[1; LONGEST])).collect();
        all.push(T::write(ADDR, [&[0][..], &bytes[..8]].concat()));
        all.extend(vec![T::read(ADDR, vec![0]).with_error(NACK); usize::from(POLLS)]);
        let mut mock = Mock::new(&all);
        assert_eq!(write_identity(&mut mock, ADDR, C02, &bytes, false, || ()), Err(WriteError::Foreign));
        let hangs = WriteError::Chip(Error::I2c(NACK));
        assert_eq!(write_identity(&mut mock, ADDR, C02, &bytes, true, || ()), Err(hangs), "one that never is done");
        assert_eq!(write_identity(&mut mock, ADDR, C02, &[0; 129], true, || ()), Err(WriteError::TooLong));
        mock.done();
    }
}
