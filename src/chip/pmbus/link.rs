//! Transfers with one PMBus unit: bytes, words and blocks, on pages, with or without a packet error code.
//!
//! With it (PEC, SMBus 3.1, section 6.4) each transfer ends with a CRC-8 over all its bytes, addresses included. A read
//! that it does not fit is repeated twice at most; a unit ignores a write that it does not fit, and the read-back shows
//! that.

use embedded_hal::i2c::I2c;

use super::command;
use crate::chip::{Error, holds, read_le, read_u8};
use crate::reading::Missing;

/// Longest block (SMBus 3.1, section 6.5.7; PMBus stayed at 32 where SMBus 3 allows 255).
const BLOCK_MAX: u8 = 32;
/// Times that a read whose packet error code does not fit is repeated.
const RETRIES: usize = 2;
/// What a line reads as that nobody drives.
const RELEASED: u8 = 0xff;

/// One unit's place on the bus.
pub(crate) struct Link<I> {
    i2c: I,
    addr: u8,
    pec: bool,
    /// Waits as long as the unit needs between two accesses.
    gap: fn(),
}

impl<I: I2c> Link<I> {
    /// The unit at `addr`; nothing is sent yet.
    pub(crate) fn new(addr: u8, i2c: I, pec: bool) -> Self {
        Self { i2c, addr, pec, gap: || {} }
    }

    /// The same for a unit that has to be left alone for a while between two accesses.
    pub(crate) fn with_gap(self, gap: fn()) -> Self {
        Self { gap, ..self }
    }

    /// Selects a page for the one access that follows: another master may have selected another one meanwhile.
    pub(crate) fn page(&mut self, page: u8) -> Result<&mut Self, Error<I::Error>> {
        self.send(&[command::PAGE, page])?;
        Ok(self)
    }

    pub(crate) fn read_byte(&mut self, command: u8) -> Result<u8, Error<I::Error>> {
        if self.pec {
            let [byte, _] = self.read_checked(command)?;
            return Ok(byte);
        }
        (self.gap)();
        read_u8(&mut self.i2c, self.addr, command)
    }

    pub(crate) fn read_word(&mut self, command: u8) -> Result<u16, Error<I::Error>> {
        if self.pec {
            let [low, high, _] = self.read_checked(command)?;
            return Ok(u16::from_le_bytes([low, high]));
        }
        (self.gap)();
        read_le(&mut self.i2c, self.addr, command)
    }

    /// A status register of one byte; `None` where the unit does not acknowledge it or it came disturbed. The bit that
    /// points to it then speaks for itself.
    pub(crate) fn status_byte(&mut self, command: u8) -> Result<Option<u8>, Error<I::Error>> {
        match self.read_byte(command) {
            Err(error) if matches!(error, Error::Checksum { .. }) || error.missing() == Missing::NotPresent => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// A block (SMBus block read) that is expected to hold `expected` bytes; empty where it says more than 32. It is
    /// read to its very length, because a unit that is read beyond its end calls that a fault; one of another length is
    /// read once more.
    pub(crate) fn read_block(&mut self, command: u8, expected: u8) -> Result<Vec<u8>, Error<I::Error>> {
        let mut length = expected.min(BLOCK_MAX);
        for _ in 0..=RETRIES {
            let mut frame = vec![0; 1 + usize::from(length) + usize::from(self.pec)];
            let fits = self.transfer(command, &mut frame)?;
            match frame.first() {
                Some(said) if *said == length && fits => {
                    return Ok(frame.into_iter().skip(1).take(length.into()).collect());
                }
                Some(said) if *said > BLOCK_MAX => return Ok(Vec::new()),
                Some(said) => length = *said,
                None => {}
            }
        }
        Err(Error::Checksum { register: command })
    }

    /// Writes a byte and makes sure that it holds.
    pub(crate) fn write_byte(&mut self, command: u8, value: u8) -> Result<(), Error<I::Error>> {
        self.send(&[command, value])?;
        let found = self.read_byte(command)?;
        holds(command, value.into(), found.into())
    }

    /// Writes a word and makes sure that it holds.
    pub(crate) fn write_word(&mut self, command: u8, value: u16) -> Result<(), Error<I::Error>> {
        self.send_word(command, value)?;
        let found = self.read_word(command)?;
        holds(command, value, found)
    }

    /// Writes a word.
    pub(crate) fn send_word(&mut self, command: u8, value: u16) -> Result<(), Error<I::Error>> {
        let [low, high] = value.to_le_bytes();
        self.send(&[command, low, high])
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error<I::Error>> {
        (self.gap)();
        if self.pec {
            let code = crc8(crc8(0, &[self.addr << 1]), bytes);
            self.i2c.write(self.addr, &[bytes, &[code]].concat())?;
        } else {
            self.i2c.write(self.addr, bytes)?;
        }
        Ok(())
    }

    /// `N` bytes, the last of which is the packet error code of the others.
    fn read_checked<const N: usize>(&mut self, command: u8) -> Result<[u8; N], Error<I::Error>> {
        let mut frame = [0; N];
        for _ in 0..=RETRIES {
            // Nobody drives the line after a command that the unit has not got; that is not a disturbance.
            if self.transfer(command, &mut frame)? || frame == [RELEASED; N] {
                return Ok(frame);
            }
        }
        Err(Error::Checksum { register: command })
    }

    /// One read; whether the packet error code at its end fits, where it has one.
    fn transfer(&mut self, command: u8, frame: &mut [u8]) -> Result<bool, Error<I::Error>> {
        (self.gap)();
        self.i2c.write_read(self.addr, &[command], frame)?;
        let head = [self.addr << 1, command, self.addr << 1 | 1];
        // Over a message and its own code the CRC is zero.
        Ok(!self.pec || crc8(crc8(0, &head), frame) == 0)
    }
}

/// CRC-8 with the polynomial x^8 + x^2 + x + 1, carried on from `crc` (SMBus 3.1, section 6.4.1).
fn crc8(crc: u8, bytes: &[u8]) -> u8 {
    let bit = |crc: u8| if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x07 };
    bytes.iter().fold(crc, |crc, byte| (0..8).fold(crc ^ byte, |crc, _| bit(crc)))
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x58;

    /// The code of a read of `bytes` with `command`, by the definition: over everything on the wire.
    fn code(command: u8, bytes: &[u8]) -> u8 {
        crc8(0, &[&[0xb0, command, 0xb1], bytes].concat())
    }

    #[test]
    fn crc_is_the_smbus_one() {
        assert_eq!(crc8(0, b"123456789"), 0xf4, "the check value that CRC catalogues give for CRC-8/SMBUS");
        assert_eq!(crc8(0, &[0x01]), 0x07);
    }

    #[test]
    fn without_pec_nothing_is_added() {
        let mut mock = Mock::new(&[
            T::write_read(ADDR, vec![0x98], vec![0x22]),
            T::write(ADDR, vec![0x00, 0x03]),
            T::write_read(ADDR, vec![0x8b], vec![0x34, 0x12]),
            T::write(ADDR, vec![0x3b, 0x10, 0x27]),
            T::write_read(ADDR, vec![0x3b], vec![0x10, 0x27]),
            T::write(ADDR, vec![0x3a, 0x90]),
            T::write_read(ADDR, vec![0x3a], vec![0x80]),
        ]);
        let mut link = Link::new(ADDR, mock.clone(), false);
        assert_eq!(link.read_byte(0x98), Ok(0x22));
        assert_eq!(link.page(3).and_then(|link| link.read_word(0x8b)), Ok(0x1234));
        assert_eq!(link.write_word(0x3b, 0x2710), Ok(()));
        assert_eq!(link.write_byte(0x3a, 0x90), Err(Error::ReadBack { register: 0x3a, written: 0x90, found: 0x80 }));
        mock.done();
    }

    #[test]
    fn with_pec_writes_carry_a_code_and_reads_are_repeated_twice_at_most() {
        let good = vec![0x34, 0x12, code(0x8b, &[0x34, 0x12])];
        let bad = vec![0x34, 0x13, code(0x8b, &[0x34, 0x12])];
        let read = |bytes: &Vec<u8>| T::write_read(ADDR, vec![0x8b], bytes.clone());
        let mut mock = Mock::new(&[
            T::write(ADDR, vec![0x00, 0x03, crc8(0, &[0xb0, 0x00, 0x03])]),
            read(&good),
            read(&bad),
            read(&bad),
            read(&good),
            read(&bad),
            read(&bad),
            read(&bad),
            // What the unit has not got: nobody drives the line.
            read(&vec![0xff, 0xff, 0xff]),
            T::write_read(ADDR, vec![0x7a], vec![0x10, code(0x7a, &[0x10])]),
        ]);
        let mut link = Link::new(ADDR, mock.clone(), true);
        assert_eq!(link.page(3).and_then(|link| link.read_word(0x8b)), Ok(0x1234));
        assert_eq!(link.read_word(0x8b), Ok(0x1234), "at the third attempt");
        assert_eq!(link.read_word(0x8b), Err(Error::Checksum { register: 0x8b }));
        assert_eq!(link.read_word(0x8b), Ok(0xffff));
        assert_eq!(link.read_byte(0x7a), Ok(0x10));
        mock.done();
    }

    #[test]
    fn a_status_byte_that_was_refused_or_came_disturbed_is_missing_alone() {
        use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
        let read = |value: u8| T::write_read(ADDR, vec![0x7a], vec![value, code(0x7a, &[0x10])]);
        let failed = |kind| read(0x10).with_error(kind);
        let mut mock = Mock::new(&[
            read(0x10),
            read(0x11),
            read(0x11),
            read(0x11),
            failed(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Data)),
            failed(ErrorKind::Bus),
        ]);
        let mut link = Link::new(ADDR, mock.clone(), true);
        assert_eq!(link.status_byte(0x7a), Ok(Some(0x10)));
        assert_eq!(link.status_byte(0x7a), Ok(None), "disturbed");
        assert_eq!(link.status_byte(0x7a), Ok(None), "refused");
        assert_eq!(link.status_byte(0x7a), Err(Error::I2c(ErrorKind::Bus)), "the bus is no matter of one byte");
        mock.done();
    }

    #[test]
    fn a_block_is_read_to_its_length_and_no_further() {
        let read = |bytes: &[u8]| T::write_read(ADDR, vec![0x9a], bytes.to_vec());
        let mut mock = Mock::new(&[
            read(b"\x03ADI"),
            // Longer and shorter than expected.
            read(b"\x05DE"),
            read(b"\x05DELTA"),
            read(b"\x01X\xff"),
            read(b"\x01X"),
            read(b"\xff\xff\xff"),
            read(b"\x00\xff\xff"),
            read(b"\x00"),
            // A length that changes with each read is a disturbed line.
            read(b"\x01\xff\xff"),
            read(b"\x02A"),
            read(b"\x03AB"),
        ]);
        let mut link = Link::new(ADDR, mock.clone(), false);
        assert_eq!(link.read_block(0x9a, 3), Ok(b"ADI".to_vec()));
        assert_eq!(link.read_block(0x9a, 2), Ok(b"DELTA".to_vec()));
        assert_eq!(link.read_block(0x9a, 2), Ok(b"X".to_vec()));
        assert_eq!(link.read_block(0x9a, 2), Ok(Vec::new()), "more than 32 is no length");
        assert_eq!(link.read_block(0x9a, 2), Ok(Vec::new()));
        assert_eq!(link.read_block(0x9a, 2), Err(Error::Checksum { register: 0x9a }));
        mock.done();
    }

    #[test]
    fn a_block_has_its_code_behind_its_last_byte() {
        let with_code = |bytes: &[u8]| [bytes, &[code(0x99, bytes)]].concat();
        let mut damaged = with_code(b"\x03ADI");
        damaged[2] ^= 0x40;
        let mut mock = Mock::new(&[
            T::write_read(ADDR, vec![0x99], damaged),
            T::write_read(ADDR, vec![0x99], with_code(b"\x03ADI")),
            // Longer than expected: what came first is no code.
            T::write_read(ADDR, vec![0x99], b"\x03AD".to_vec()),
            T::write_read(ADDR, vec![0x99], with_code(b"\x03ADI")),
        ]);
        let mut link = Link::new(ADDR, mock.clone(), true);
        assert_eq!(link.read_block(0x99, 3), Ok(b"ADI".to_vec()));
        assert_eq!(link.read_block(0x99, 1), Ok(b"ADI".to_vec()));
        mock.done();
    }

    #[test]
    fn each_access_waits_for_the_gap() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static WAITS: AtomicUsize = AtomicUsize::new(0);
        let mut mock = Mock::new(&[
            T::write(ADDR, vec![0x00, 0x01]),
            T::write_read(ADDR, vec![0x90], vec![0x00, 0x10]),
            T::write_read(ADDR, vec![0x81], vec![0x00]),
        ]);
        let mut link = Link::new(ADDR, mock.clone(), false).with_gap(|| {
            WAITS.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(link.page(1).and_then(|link| link.read_word(0x90)), Ok(0x1000));
        assert_eq!(link.read_byte(0x81), Ok(0));
        assert_eq!(WAITS.load(Ordering::Relaxed), 3);
        mock.done();
    }
}
