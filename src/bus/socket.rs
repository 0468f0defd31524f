//! A bus of the simulated rig: a Unix socket instead of an adapter.
//!
//! One transaction is one exchange. Request: address u8, number of operations u8, then for each a kind u8 (0 write, 1
//! read), a length u16 little-endian and, for a write, the bytes. Reply: a [`Status`] u8 and, when that is `Ok`, the
//! bytes of all reads in their order.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use embedded_hal::i2c::Operation;

use super::{Error, Link};

/// Operation kind on the socket: bytes to the chip.
pub const WRITE: u8 = 0;
/// Operation kind on the socket: bytes from the chip.
pub const READ: u8 = 1;

/// Longer than the simulated adapter's own time-out of one second, so that it is the adapter that times out.
const DEADLINE: Duration = Duration::from_secs(3);

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The address was not acknowledged.
    NoAddress = 1,
    /// A byte was not acknowledged.
    NoData = 2,
    /// Start or stop at a wrong place.
    Bus = 3,
    /// Another master won.
    ArbitrationLost = 4,
    /// The clock or data line stayed low.
    TimedOut = 5,
}

/// EIO, as a kernel adapter reports a bus error.
const EIO: i32 = 5;

impl Status {
    fn from_byte(byte: u8) -> Result<(), Error> {
        const OK: u8 = Status::Ok as u8;
        const NO_ADDRESS: u8 = Status::NoAddress as u8;
        const NO_DATA: u8 = Status::NoData as u8;
        const ARBITRATION_LOST: u8 = Status::ArbitrationLost as u8;
        const TIMED_OUT: u8 = Status::TimedOut as u8;
        match byte {
            OK => Ok(()),
            NO_ADDRESS | NO_DATA => Err(Error::NoAcknowledge),
            ARBITRATION_LOST => Err(Error::ArbitrationLost),
            TIMED_OUT => Err(Error::TimedOut),
            _ => Err(Error::Os(EIO)),
        }
    }
}

/// A connection to a simulated bus.
pub(super) struct Socket {
    path: PathBuf,
    /// Dropped on any error: after a time-out the reply that comes late would be taken for the next one's.
    stream: Option<UnixStream>,
}

impl Socket {
    pub(super) fn connect(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), stream: Some(open(path)?) })
    }
}

impl Link for Socket {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        let request = request(address, operations)?;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => open(&self.path)?,
        };
        let status = exchange(&mut stream, &request, operations).map_err(|error| {
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                Error::TimedOut
            } else {
                Error::Gone(format!("simulated bus: {error}"))
            }
        })?;
        self.stream = Some(stream);
        Status::from_byte(status)
    }
}

fn open(path: &Path) -> Result<UnixStream, Error> {
    let gone = |error: std::io::Error| Error::Gone(format!("{}: {error}", path.display()));
    let stream = UnixStream::connect(path).map_err(gone)?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(gone)?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(gone)?;
    Ok(stream)
}

/// Sends the request and takes the reply in; what was read follows a good status only.
fn exchange(stream: &mut UnixStream, request: &[u8], operations: &mut [Operation<'_>]) -> std::io::Result<u8> {
    stream.write_all(request)?;
    let mut status = [0; 1];
    stream.read_exact(&mut status)?;
    let [status] = status;
    if status == Status::Ok as u8 {
        for operation in operations {
            if let Operation::Read(buffer) = operation {
                stream.read_exact(buffer)?;
            }
        }
    }
    Ok(status)
}

fn request(address: u8, operations: &[Operation<'_>]) -> Result<Vec<u8>, Error> {
    let count = u8::try_from(operations.len()).map_err(|_| Error::Unsupported("transaction of over 255 parts"))?;
    let mut request = vec![address, count];
    for operation in operations {
        let (kind, length) = match operation {
            Operation::Write(bytes) => (WRITE, bytes.len()),
            Operation::Read(buffer) => (READ, buffer.len()),
        };
        let length = u16::try_from(length).map_err(|_| Error::Unsupported("transfer of over 65535 bytes"))?;
        request.push(kind);
        request.extend(length.to_le_bytes());
        if let Operation::Write(bytes) = operation {
            request.extend_from_slice(bytes);
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_these_bytes() {
        let mut buffer = [0; 2];
        let operations = [Operation::Write(&[0x02]), Operation::Read(&mut buffer)];
        assert_eq!(request(0x40, &operations), Ok(vec![0x40, 2, 0, 1, 0, 0x02, 1, 2, 0]));
    }

    #[test]
    fn every_status_is_told_apart() {
        let statuses =
            [Status::Ok, Status::NoAddress, Status::NoData, Status::Bus, Status::ArbitrationLost, Status::TimedOut];
        let results: Vec<_> = statuses.into_iter().map(|status| Status::from_byte(status as u8)).collect();
        let no_ack = || Err(Error::NoAcknowledge);
        let rest = [Err(Error::Os(EIO)), Err(Error::ArbitrationLost), Err(Error::TimedOut)];
        assert_eq!(results, [Ok(()), no_ack(), no_ack()].into_iter().chain(rest).collect::<Vec<_>>());
    }
}
