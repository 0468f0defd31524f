//! Transfers of the kernel's I2C adapters, `/dev/i2c-N`.
//!
//! linux-embedded-hal transfers by the ioctl I2C_RDWR only. SMBus adapters, which every PC main board has (i2c-i801,
//! i2c-piix4, also i2c-stub), refuse that with EOPNOTSUPP, so the adapter's function bits decide: with I2C_FUNC_I2C its
//! `I2cdev` is used, without it the same embedded-hal calls are mapped to SMBus ioctls as far as they have an equivalent.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use embedded_hal::i2c::Operation;
use linux_embedded_hal::I2cdev;
use linux_embedded_hal::i2cdev::core::{I2CDevice, I2CMessage, I2CTransfer};
use linux_embedded_hal::i2cdev::linux::{LinuxI2CDevice, LinuxI2CError, LinuxI2CMessage};
use rustix::io::Errno;

use super::{Error, Link};

/// `I2C_FUNC_I2C` of include/uapi/linux/i2c.h: plain I2C messages.
const FUNC_I2C: u64 = 0x0000_0001;
/// `I2C_FUNC_SMBUS_READ_I2C_BLOCK`.
const FUNC_READ_I2C_BLOCK: u64 = 0x0400_0000;
/// `I2C_FUNC_SMBUS_WRITE_I2C_BLOCK`.
const FUNC_WRITE_I2C_BLOCK: u64 = 0x0800_0000;
/// The ioctl that tells them (include/uapi/linux/i2c-dev.h).
const I2C_FUNCS: rustix::ioctl::Opcode = 0x0705;
/// The ioctl that sets the adapter's time-out.
const I2C_TIMEOUT: rustix::ioctl::Opcode = 0x0702;
/// `I2C_SMBUS_BLOCK_MAX`.
const BLOCK_MAX: usize = 32;

/// Opens a chip's place on the adapter with this device file.
pub(super) fn open(path: &Path, addr: u8, timeout: Option<Duration>) -> Result<Box<dyn Link>, Error> {
    let file = device_file(path)?;
    let functions = functions(&file)?;
    if let Some(timeout) = timeout {
        set_timeout(&file, timeout)?;
    }
    if functions & FUNC_I2C != 0 {
        let mut dev = I2cdev::new(path)?;
        dev.set_slave_address(addr.into())?;
        Ok(Box::new(Raw(dev)))
    } else {
        let dev = LinuxI2CDevice::new(path, addr.into())?;
        Ok(Box::new(Smbus { dev, functions }))
    }
}

/// The adapter's device file, opened with no address.
pub(super) fn device_file(path: &Path) -> Result<File, Error> {
    File::options().read(true).write(true).open(path).map_err(|error| from_io(&error))
}

/// Sets how long the adapter waits, in the kernel's steps of 10 ms. It holds for everybody who uses this adapter.
fn set_timeout(file: &File, timeout: Duration) -> Result<(), Error> {
    let steps = usize::try_from(timeout.as_millis().div_ceil(10)).unwrap_or(usize::MAX);
    // SAFETY: I2C_TIMEOUT takes a number in place of the pointer and touches no memory of ours (drivers/i2c/i2c-dev.c).
    let result = unsafe { rustix::ioctl::ioctl(file, rustix::ioctl::IntegerSetter::<I2C_TIMEOUT>::new_usize(steps)) };
    result.map_err(from_errno)
}

/// The adapter's function bits.
fn functions(file: &File) -> Result<u64, Error> {
    // SAFETY: I2C_FUNCS takes a pointer to one `unsigned long` and writes nothing else (drivers/i2c/i2c-dev.c).
    let bits = unsafe { rustix::ioctl::ioctl(file, rustix::ioctl::Getter::<I2C_FUNCS, libc::c_ulong>::new()) };
    #[expect(clippy::useless_conversion, reason = "c_ulong has 32 bits on 32-bit targets")]
    bits.map(u64::from).map_err(from_errno)
}

pub(super) fn from_io(error: &std::io::Error) -> Error {
    error.raw_os_error().map_or(Error::Os(0), |errno| from_errno(Errno::from_raw_os_error(errno)))
}

/// Adapters disagree on what a missing acknowledge is: ENXIO by the kernel's own rule (Documentation/i2c/fault-codes.rst),
/// EREMOTEIO on i2c-bcm2835, ENODEV from i2c-stub.
fn from_errno(errno: Errno) -> Error {
    match errno {
        Errno::NXIO | Errno::REMOTEIO | Errno::NODEV => Error::NoAcknowledge,
        Errno::TIMEDOUT => Error::TimedOut,
        Errno::AGAIN => Error::ArbitrationLost,
        Errno::BUSY => Error::Owned,
        Errno::NOENT => Error::Gone("the adapter is gone".to_owned()),
        other => Error::Os(other.raw_os_error()),
    }
}

impl From<LinuxI2CError> for Error {
    fn from(error: LinuxI2CError) -> Self {
        match error {
            LinuxI2CError::Errno(errno) => from_errno(Errno::from_raw_os_error(errno)),
            LinuxI2CError::Io(error) => from_io(&error),
        }
    }
}

/// Raw I2C through linux-embedded-hal; one open device per chip, since it reopens its file whenever the address changes.
pub(super) struct Raw(I2cdev);

impl Link for Raw {
    /// Goes below linux-embedded-hal's own `transaction`, which drops the count of messages done (i2c-virtio reports an
    /// absent chip that way: zeros would become readings) and sends neighbouring writes without a start between them
    /// as messages that most adapters cannot do. Neighbours of one kind are joined here instead, which is what
    /// embedded-hal's contract says they mean.
    fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        if let [Operation::Write(bytes), Operation::Read(buffer)] = operations {
            return self.transfer(&mut [LinuxI2CMessage::write(bytes), LinuxI2CMessage::read(buffer)]);
        }
        let mut runs = join(operations);
        let mut messages: Vec<LinuxI2CMessage<'_>> = runs
            .iter_mut()
            .map(|run| match run {
                Run::Write(bytes) => LinuxI2CMessage::write(bytes),
                Run::Read(buffer) => LinuxI2CMessage::read(buffer),
            })
            .collect();
        self.transfer(&mut messages)?;
        drop(messages);
        scatter(&runs, operations);
        Ok(())
    }
}

impl Raw {
    fn transfer(&mut self, messages: &mut [LinuxI2CMessage<'_>]) -> Result<(), Error> {
        let asked = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let done = self.0.transfer(messages)?;
        if done == asked { Ok(()) } else { Err(Error::Short { done, asked }) }
    }
}

/// Neighbouring operations of one direction, as one message.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    Write(Vec<u8>),
    Read(Vec<u8>),
}

fn join(operations: &[Operation<'_>]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for operation in operations {
        match (operation, runs.last_mut()) {
            (Operation::Write(bytes), Some(Run::Write(all))) => all.extend_from_slice(bytes),
            (Operation::Write(bytes), _) => runs.push(Run::Write(bytes.to_vec())),
            (Operation::Read(buffer), Some(Run::Read(all))) => all.resize(all.len() + buffer.len(), 0),
            (Operation::Read(buffer), _) => runs.push(Run::Read(vec![0; buffer.len()])),
        }
    }
    runs
}

/// Hands what was read back to the buffers it was read for.
fn scatter(runs: &[Run], operations: &mut [Operation<'_>]) {
    let mut read = runs.iter().filter_map(|run| if let Run::Read(bytes) = run { Some(bytes) } else { None }).flatten();
    for operation in operations {
        if let Operation::Read(buffer) = operation {
            for (to, from) in buffer.iter_mut().zip(&mut read) {
                *to = *from;
            }
        }
    }
}

/// The same calls on an adapter that speaks SMBus only.
pub(super) struct Smbus {
    dev: LinuxI2CDevice,
    functions: u64,
}

impl Link for Smbus {
    fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        match operations {
            [Operation::Write(bytes)] => self.write(bytes),
            [Operation::Write([register]), Operation::Read(buffer)] => self.write_read(*register, buffer),
            [Operation::Read([byte])] => {
                *byte = self.dev.smbus_read_byte()?;
                Ok(())
            }
            [Operation::Read(_)] => Err(Error::Unsupported("read of several bytes without a register")),
            [Operation::Write(_), Operation::Read(_)] => {
                Err(Error::Unsupported("read with a register number of several bytes"))
            }
            _ => Err(Error::Unsupported("transaction of several parts")),
        }
    }
}

impl Smbus {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match bytes {
            [register] => self.dev.smbus_write_byte(*register)?,
            [register, value] => self.dev.smbus_write_byte_data(*register, *value)?,
            [register, low, high] => self.dev.smbus_write_word_data(*register, u16::from_le_bytes([*low, *high]))?,
            [register, block @ ..] if block.len() <= BLOCK_MAX && self.functions & FUNC_WRITE_I2C_BLOCK != 0 => {
                self.dev.smbus_write_i2c_block_data(*register, block)?;
            }
            _ => return Err(Error::Unsupported("write of this length")),
        }
        Ok(())
    }

    fn write_read(&mut self, register: u8, buffer: &mut [u8]) -> Result<(), Error> {
        match buffer {
            [byte] => *byte = self.dev.smbus_read_byte_data(register)?,
            // SMBus sends the low byte first, so this is the order on the wire, whatever the chip means by it.
            [first, second] => [*first, *second] = self.dev.smbus_read_word_data(register)?.to_le_bytes(),
            block if (1..=BLOCK_MAX).contains(&block.len()) && self.functions & FUNC_READ_I2C_BLOCK != 0 => {
                let length = u8::try_from(block.len()).unwrap_or(u8::MAX);
                let read = self.dev.smbus_read_i2c_block_data(register, length)?;
                if read.len() != block.len() {
                    return Err(Error::Short { done: 1, asked: 2 });
                }
                block.copy_from_slice(&read);
            }
            _ => return Err(Error::Unsupported("read of this length")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_direction_become_one_message() {
        let (mut first, mut second) = ([0; 1], [0; 2]);
        let mut operations = [
            Operation::Write(&[1]),
            Operation::Write(&[2, 3]),
            Operation::Read(&mut first),
            Operation::Read(&mut second),
            Operation::Write(&[4]),
        ];
        assert_eq!(join(&operations), [Run::Write(vec![1, 2, 3]), Run::Read(vec![0; 3]), Run::Write(vec![4])]);
        scatter(&[Run::Write(vec![1, 2, 3]), Run::Read(vec![7, 8, 9]), Run::Write(vec![4])], &mut operations);
        assert_eq!((first, second), ([7], [8, 9]));
    }

    #[test]
    fn every_adapters_way_to_say_no_acknowledge_is_known() {
        for (errno, expected) in [
            (Errno::NXIO, Error::NoAcknowledge),
            (Errno::REMOTEIO, Error::NoAcknowledge),
            (Errno::NODEV, Error::NoAcknowledge),
            (Errno::TIMEDOUT, Error::TimedOut),
            (Errno::AGAIN, Error::ArbitrationLost),
            (Errno::BUSY, Error::Owned),
            (Errno::OPNOTSUPP, Error::Os(95)),
        ] {
            assert_eq!(from_errno(errno), expected, "{errno}");
        }
    }
}
