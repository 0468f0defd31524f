//! Buses: one OS thread per adapter, so that a slow or stuck bus delays nobody else.
//!
//! ```text
//! control ── Order, one a tick, the newest wins ──> bus thread: duties, then a pass over the chips ── watch<BusSnapshot> ──> control
//! ```
//!
//! A bus thread has no clock of its own: it works when control has finished a tick and sends an [`Order`]. So a chip's
//! watchdog is fed by finished ticks alone, and when control ends, for whatever reason, its end closes and the thread's
//! last deed is full air.
//!
//! # What is bounded, and what the kernel alone can do
//!
//! A transaction that lost arbitration is tried three times. A chip that fails is identified anew and tried once more in the
//! same pass, then left for 1 s, 2 s … 60 s. Two time-outs end a pass; the rest of its chips are missing, and the next pass
//! begins behind the one that hung. The time-out itself is the adapter's (mostly a second); `timeout_ms` in the board file
//! changes it. A line that a chip holds low can only be freed by clocking it out, which is the adapter driver's to do
//! (i2c-imx, i2c-gpio, i2c-designware and others do; the chipsets' SMBus and USB bridges reset their own engine), by the
//! multiplexer's reset pin, or by taking the chip's power away: nothing on this side of the device file can. An adapter that
//! is unplugged is looked for by name at every attempt, so that it is used again when it is back, under whatever number.
//!
//! A [`Device`] is one chip's place on a bus and implements `embedded_hal::i2c::I2c`; what is behind it is the adapter's
//! business: raw I2C or SMBus calls of the kernel, or the simulated rig's socket.

mod adapter;
mod linux;
mod mux;
mod slot;
pub mod socket;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

pub use adapter::{AdapterInfo, Selector, adapters, find};
pub(crate) use mux::ADDRESSES as MUX_ADDRESSES;
pub use mux::{MUXES, MuxPart, Segment};
pub use worker::{Handle, Leaving, Order, Worker, spawn};

/// What a transfer failed of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody acknowledged: no chip there, or one that refuses this command.
    #[error("no acknowledge")]
    NoAcknowledge,
    /// The adapter gave up waiting: a stuck clock or data line.
    #[error("timed out")]
    TimedOut,
    /// Another master won.
    #[error("arbitration lost")]
    ArbitrationLost,
    /// A kernel driver owns the address; its readings are in hwmon.
    #[error("a kernel driver owns this address: read it as [hwmon.*] instead")]
    Owned,
    /// There is no such adapter, device or socket now.
    #[error("{0}")]
    Gone(String),
    /// The adapter carried out fewer messages than asked and called that a success.
    #[error("only {done} of {asked} messages were transferred")]
    Short {
        /// Messages done.
        done: u32,
        /// Messages asked for.
        asked: u32,
    },
    /// The adapter cannot do this kind of transfer.
    #[error("this adapter speaks SMBus only and cannot do a {0}: it needs a raw I2C adapter")]
    Unsupported(&'static str),
    /// Anything else, by the system's error number.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
}

impl embedded_hal::i2c::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            // Not one message done and no error told is i2c-virtio's way to say that nobody acknowledged.
            Self::NoAcknowledge | Self::Short { done: 0, .. } => ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown),
            Self::ArbitrationLost => ErrorKind::ArbitrationLoss,
            Self::TimedOut | Self::Owned | Self::Gone(_) | Self::Short { .. } | Self::Os(_) => ErrorKind::Bus,
            Self::Unsupported(_) => ErrorKind::Other,
        }
    }
}

/// Times that a transaction is tried on a bus that another master uses too.
const ATTEMPTS: u32 = 3;

/// One chip's place on a bus.
pub struct Device {
    addr: u8,
    link: Box<dyn Link>,
}

/// What carries transactions out.
pub trait Link: Send {
    /// One transaction with the chip at `address`, as `embedded_hal::i2c::I2c::transaction` has it.
    ///
    /// # Errors
    /// What it failed of.
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error>;
}

impl Device {
    /// The chip at `addr` (7 bits) behind this link.
    #[must_use]
    pub fn new(addr: u8, link: Box<dyn Link>) -> Self {
        Self { addr, link }
    }

    /// The chip's address, 7 bits.
    #[must_use]
    pub const fn addr(&self) -> u8 {
        self.addr
    }
}

impl ErrorType for Device {
    type Error = Error;
}

impl I2c for Device {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            match self.link.transaction(address, operations) {
                // Another master was faster and nothing of ours was carried out: the only error that is safe to repeat here.
                Err(Error::ArbitrationLost) if attempt < ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }
}

/// Where a bus is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// A kernel I2C adapter.
    Kernel {
        /// Which.
        selector: Selector,
        /// How long it waits for a transfer; the kernel's own time, mostly a second, where none is given.
        timeout: Option<Duration>,
    },
    /// A bus of the simulated rig: the name of a Unix socket in its directory.
    Socket(String),
    /// `/sys/class/hwmon`: chips that a kernel driver owns.
    Hwmon,
}

/// Where buses are found on this machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// `/sys`, or a copy of it.
    pub sysfs: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// Directory of the simulated rig's sockets.
    pub simulation: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self { sysfs: PathBuf::from("/sys"), dev: PathBuf::from("/dev"), simulation: None }
    }
}

impl Host {
    /// Opens a chip's place on a bus, behind a multiplexer's channel where it has one. The kernel refuses an address that a
    /// driver of its own owns; we do not go around it.
    ///
    /// # Errors
    /// `Gone` where there is no such bus now, `Owned`, or what the system says.
    pub fn open(&self, adapter: &Adapter, segment: Option<Segment>, addr: u8) -> Result<Device, Error> {
        let link: Box<dyn Link> = match adapter {
            Adapter::Kernel { selector, timeout } => {
                let found = adapter::find(self, selector)?;
                match segment {
                    None => linux::open(&found.path, addr, *timeout)?,
                    Some(segment) => match found.channel(self, segment)? {
                        Some(channel) => linux::open(&channel, addr, *timeout)?,
                        None => {
                            let lock = linux::device_file(&found.path)?;
                            let mux = linux::open(&found.path, segment.mux, *timeout)?;
                            Box::new(mux::Muxed::new(
                                segment,
                                mux,
                                linux::open(&found.path, addr, *timeout)?,
                                Some(lock),
                            ))
                        }
                    },
                }
            }
            Adapter::Socket(name) => {
                let directory = self.simulation.as_ref();
                let directory =
                    directory.ok_or_else(|| Error::Gone("`simulation` is not set in rigd.toml".to_owned()))?;
                let connect = || socket::Socket::connect(&directory.join(name)).map(Box::new);
                match segment {
                    None => connect()?,
                    Some(segment) => Box::new(mux::Muxed::new(segment, connect()?, connect()?, None)),
                }
            }
            Adapter::Hwmon => return Err(Error::Gone("hwmon has no addresses".to_owned())),
        };
        Ok(Device::new(addr, link))
    }

    /// The kernel's directory of the device at this address: what its driver, where one owns it, shows of it.
    #[must_use]
    pub fn kernel_device(&self, adapter: &Adapter, segment: Option<Segment>, addr: u8) -> Option<PathBuf> {
        let Adapter::Kernel { selector, .. } = adapter else { return None };
        let found = adapter::find(self, selector).ok()?;
        let number = match segment {
            None => found.number()?,
            Some(segment) => AdapterInfo::number_of(&found.channel(self, segment).ok()??)?,
        };
        let path = self.sysfs.join(format!("bus/i2c/devices/{number}-{addr:04x}"));
        path.exists().then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loses arbitration so many times.
    struct Busy(u32);

    impl Link for Busy {
        fn transaction(&mut self, _: u8, _: &mut [Operation<'_>]) -> Result<(), Error> {
            match self.0.checked_sub(1) {
                Some(left) => {
                    self.0 = left;
                    Err(Error::ArbitrationLost)
                }
                None => Ok(()),
            }
        }
    }

    #[test]
    fn lost_arbitration_is_tried_again_but_not_for_ever() {
        for (times, expected) in [(0, Ok(())), (2, Ok(())), (3, Err(Error::ArbitrationLost))] {
            assert_eq!(Device::new(0x40, Box::new(Busy(times))).write(0x40, &[0]), expected, "{times} times");
        }
    }
}
