//! Multiplexers: PCA9546/PCA9548 and their kin (NXP PCA9548A, 7.2: a bit of the control register for each channel).
//!
//! Where the kernel's i2c-mux-pca954x has the multiplexer, each channel is an adapter of its own and the kernel does the
//! switching. Where it has not, we do: the channel is selected before each transaction, under a lock on the adapter's
//! device file, so that the agent and the operator's tool never switch under one another. That is as far as it goes: a
//! program that switches without taking the lock would make two chips of one address speak at once, and a chip that holds
//! the data line low behind an open channel holds the whole bus; only the multiplexer's reset pin ends that.

use std::fs::{File, TryLockError};
use std::thread;
use std::time::Duration;

use embedded_hal::i2c::Operation;

use super::{Error, Link};
use crate::clock;

/// A multiplexer that boards can name.
pub struct MuxPart {
    /// Name in board files.
    pub name: &'static str,
    /// Channels, from 0.
    pub channels: u8,
}

/// Every multiplexer that the agent knows; all of them have one control register with a bit for each channel.
pub const MUXES: &[MuxPart] = &[
    MuxPart { name: "pca9546", channels: 4 },
    MuxPart { name: "pca9548", channels: 8 },
    MuxPart { name: "tca9546a", channels: 4 },
    MuxPart { name: "tca9548a", channels: 8 },
];

/// Addresses that a multiplexer's pins can select.
pub(crate) const ADDRESSES: std::ops::RangeInclusive<u8> = 0x70..=0x77;

/// The bus behind one channel of a multiplexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Address of the multiplexer on the adapter's own bus.
    pub mux: u8,
    /// Channel, from 0.
    pub channel: u8,
    /// No other multiplexer is on that bus, so that the channel may stay selected after a transaction.
    pub alone: bool,
}

/// A chip behind a multiplexer that we switch.
pub(super) struct Muxed {
    segment: Segment,
    mux: Box<dyn Link>,
    chip: Box<dyn Link>,
    /// The adapter's device file, for its lock; a simulated bus has none.
    lock: Option<File>,
}

impl Muxed {
    pub(super) fn new(segment: Segment, mux: Box<dyn Link>, chip: Box<dyn Link>, lock: Option<File>) -> Self {
        Self { segment, mux, chip, lock }
    }

    fn select(&mut self, channels: u8) -> Result<(), Error> {
        let Segment { mux, channel, .. } = self.segment;
        let result = self.mux.transaction(mux, &mut [Operation::Write(&[channels])]);
        if result == Err(Error::NoAcknowledge) {
            return Err(Error::Gone(format!("the multiplexer at {mux:#04x} before channel {channel} does not answer")));
        }
        result
    }

    fn switched(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        let select = 1_u8.checked_shl(self.segment.channel.into()).unwrap_or(0);
        self.select(select)?;
        let result = self.chip.transaction(address, operations);
        // A channel that hangs is closed if that still can be done: its neighbours shall not hang with it.
        if !self.segment.alone || matches!(result, Err(Error::TimedOut)) {
            let closed = self.select(0);
            return result.and(closed);
        }
        result
    }
}

/// A transaction takes milliseconds: who holds the lock for longer is stopped, and safety does not wait for that.
const LOCK: Duration = Duration::from_millis(200);
/// Between two looks at a lock that is taken.
const LOOK: Duration = Duration::from_millis(1);

fn lock(file: &File) -> Result<(), Error> {
    let began = clock::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if clock::now().saturating_duration_since(began) < LOCK => {
                thread::sleep(LOOK)
            }
            Err(TryLockError::WouldBlock) => return Err(Error::TimedOut),
            Err(TryLockError::Error(error)) => return Err(super::linux::from_io(&error)),
        }
    }
}

impl Link for Muxed {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        if let Some(file) = &self.lock {
            lock(file)?;
        }
        let result = self.switched(address, operations);
        if let Some(file) = &self.lock {
            // Cannot fail for a lock that is held; closing the file would end it too.
            let _ = file.unlock();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Written = Vec<(u8, Vec<u8>)>;

    /// What was written to whom; the chip answers with `error` where there is one.
    struct Recorder {
        log: Arc<Mutex<Written>>,
        error: Option<Error>,
    }

    impl Link for Recorder {
        fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
            for operation in operations {
                if let Operation::Write(bytes) = operation {
                    self.log.lock().unwrap().push((address, bytes.to_vec()));
                }
            }
            self.error.clone().map_or(Ok(()), Err)
        }
    }

    fn run(alone: bool, mux_error: Option<Error>, chip_error: Option<Error>) -> (Result<(), Error>, Written) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let link = |error| Box::new(Recorder { log: Arc::clone(&log), error });
        let mut muxed = Muxed::new(Segment { mux: 0x70, channel: 3, alone }, link(mux_error), link(chip_error), None);
        let result = muxed.transaction(0x40, &mut [Operation::Write(&[0x02])]);
        let written = log.lock().unwrap().clone();
        (result, written)
    }

    #[test]
    fn a_lock_that_is_never_let_go_is_a_time_out_and_no_wait_for_ever() {
        let path = std::env::temp_dir().join(format!("rigd-mux-lock-{}", std::process::id()));
        let (ours, theirs) = (File::create(&path).unwrap(), File::open(&path).unwrap());
        theirs.lock().unwrap();
        assert_eq!(lock(&ours), Err(Error::TimedOut));
        theirs.unlock().unwrap();
        assert_eq!(lock(&ours), Ok(()));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_channel_is_selected_before_each_transaction_and_closed_where_it_must_be() {
        let (select, chip, close) = ((0x70, vec![0x08]), (0x40, vec![0x02]), (0x70, vec![0x00]));
        for (what, alone, mux, error, result, written) in [
            ("one multiplexer", true, None, None, Ok(()), vec![select.clone(), chip.clone()]),
            ("one of several", false, None, None, Ok(()), vec![select.clone(), chip.clone(), close.clone()]),
            (
                "a channel that hangs",
                true,
                None,
                Some(Error::TimedOut),
                Err(Error::TimedOut),
                vec![select.clone(), chip.clone(), close.clone()],
            ),
            (
                "a multiplexer that is not there",
                true,
                Some(Error::NoAcknowledge),
                None,
                Err(Error::Gone("the multiplexer at 0x70 before channel 3 does not answer".to_owned())),
                vec![select.clone()],
            ),
        ] {
            assert_eq!(run(alone, mux, error), (result, written), "{what}");
        }
    }
}
