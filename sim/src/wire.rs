//! Transactions, and one from a client's socket, parsed and bounded. The protocol is told in `rigd::bus::socket`.
//!
//! The bounds are the kernel's for I2C_RDWR: 42 messages of 8192 bytes. Whoever goes beyond them is cut off.

use std::io::{self, Read};

use anyhow::{Context, Result, ensure};
use rigd::bus::socket::{READ, Status, WRITE};

const MAX_OPERATIONS: u8 = 42;
const MAX_BYTES: u16 = 8192;
const MAX_ADDRESS: u8 = 0x7f;

/// A transaction as a master wants it.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The chip, 7 bits.
    pub addr: u8,
    /// What is done with it, without a stop between.
    pub operations: Vec<Operation>,
}

/// One part of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    /// These bytes.
    Write(Vec<u8>),
    /// So many bytes.
    Read(usize),
}

/// What became of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Operations that were done before the one it failed at; all of them where it did not.
    pub done: usize,
    /// What those of them that read have read, in their order.
    pub bytes: Vec<u8>,
}

impl Outcome {
    /// One that came to nothing.
    #[must_use]
    pub const fn failed(status: Status) -> Self {
        Self { status, done: 0, bytes: Vec::new() }
    }
}

impl Request {
    /// Reads one; `None` where the client has gone between two.
    pub(crate) fn read(from: &mut impl Read) -> Result<Option<Self>> {
        let mut addr = [0];
        match from.read_exact(&mut addr) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let ([addr], [operations]) = (addr, bytes(from)?);
        ensure!(addr <= MAX_ADDRESS, "{addr:#04x} is no 7-bit address");
        ensure!(operations <= MAX_OPERATIONS, "{operations} operations are more than {MAX_OPERATIONS}");
        let operations = (0..operations).map(|_| Operation::read(from)).collect::<Result<_>>()?;
        Ok(Some(Self { addr, operations }))
    }
}

impl Operation {
    fn read(from: &mut impl Read) -> Result<Self> {
        let ([kind], length) = (bytes(from)?, u16::from_le_bytes(bytes(from)?));
        ensure!(length <= MAX_BYTES, "a transfer of {length} bytes is more than {MAX_BYTES}");
        ensure!(kind == WRITE || kind == READ, "operation {kind} is neither write (0) nor read (1)");
        if kind == READ {
            return Ok(Self::Read(length.into()));
        }
        let mut data = vec![0; length.into()];
        from.read_exact(&mut data).context("the bytes of a write")?;
        Ok(Self::Write(data))
    }
}

fn bytes<const N: usize>(from: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).context("the rest of a request")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Result<Option<Request>> {
        Request::read(&mut bytes)
    }

    #[test]
    fn a_request_is_these_bytes() {
        let request = read(&[0x40, 2, 0, 1, 0, 0x02, 1, 2, 0]).ok().flatten();
        let operations = vec![Operation::Write(vec![0x02]), Operation::Read(2)];
        assert_eq!(request, Some(Request { addr: 0x40, operations }));
        assert!(read(&[]).is_ok_and(|request| request.is_none()), "gone between two requests");
    }

    #[test]
    fn what_breaks_the_protocol_is_told() {
        for (bytes, told) in [
            (&[0x40][..], "the rest of a request"),
            (&[0x80, 0], "0x80 is no 7-bit address"),
            (&[0x40, 43], "43 operations"),
            (&[0x40, 1, 2, 0, 0], "neither write (0) nor read (1)"),
            (&[0x40, 1, 1, 0x01, 0x20], "8193 bytes"),
            (&[0x40, 1, 0, 4, 0, 1, 2], "the bytes of a write"),
        ] {
            let error = read(bytes).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(told), "{bytes:?}: {error}");
        }
    }
}
