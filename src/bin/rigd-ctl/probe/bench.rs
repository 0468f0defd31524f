//! A bus for tests that writes down everything it is asked, and fails the test that does it harm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use embedded_hal::i2c::Operation;
use rigd::bus::{Device, Error, Link, Segment};

use super::rules::MUXES;

/// One transaction: the address, what was written, how much was read.
pub(crate) type Asked = (u8, Vec<u8>, usize);

/// A chip: what it gives, from the last register number on, to a read of so many bytes.
type Answer = Box<dyn Fn(u8, usize) -> Result<Vec<u8>, Error> + Send>;

#[derive(Default)]
struct State {
    chips: BTreeMap<u8, Chip>,
    /// What is behind a multiplexer's channel.
    behind: BTreeMap<(u8, u8), Bench>,
    log: Vec<Asked>,
    /// Multiplexers may be switched.
    switching: bool,
    /// The adapter speaks SMBus only.
    smbus_only: bool,
}

enum Chip {
    Answers { pointer: u8, answer: Answer },
    Owned,
    Mux { channels: u8, control: u8 },
}

/// The bus.
#[derive(Clone, Default)]
pub(crate) struct Bench(Arc<Mutex<State>>);

impl Bench {
    fn with(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.0.lock().unwrap());
        self
    }

    /// A chip that gives what `answer` says.
    pub(crate) fn chip(self, addr: u8, answer: impl Fn(u8, usize) -> Result<Vec<u8>, Error> + Send + 'static) -> Self {
        let answer = Box::new(answer);
        self.with(|state| drop(state.chips.insert(addr, Chip::Answers { pointer: 0, answer })))
    }

    /// One that has no registers: a port expander.
    pub(crate) fn constant(self, addr: u8, byte: u8) -> Self {
        self.chip(addr, move |_, length| Ok(vec![byte; length]))
    }

    /// One with registers of two bytes, most significant first; those that are not given read as zero.
    pub(crate) fn words(self, addr: u8, words: &[(u8, u16)]) -> Self {
        let words: BTreeMap<u8, u16> = words.iter().copied().collect();
        self.chip(addr, move |pointer, length| {
            let bytes = words.get(&pointer).copied().unwrap_or(0).to_be_bytes();
            Ok(bytes.into_iter().cycle().take(length).collect())
        })
    }

    /// One whose every register fails like this.
    pub(crate) fn fails(self, addr: u8, error: Error) -> Self {
        self.chip(addr, move |_, _| Err(error.clone()))
    }

    /// One that a kernel driver owns.
    pub(crate) fn owned(self, addr: u8) -> Self {
        self.with(|state| drop(state.chips.insert(addr, Chip::Owned)))
    }

    /// A multiplexer that nobody owns, with a channel left open.
    pub(crate) fn mux(self, addr: u8, channels: u8, control: u8) -> Self {
        self.with(|state| drop(state.chips.insert(addr, Chip::Mux { channels, control })))
    }

    /// What is behind one of its channels.
    pub(crate) fn behind(self, mux: u8, channel: u8, bench: Self) -> Self {
        self.with(|state| drop(state.behind.insert((mux, channel), bench)))
    }

    /// Multiplexers may be switched from here on.
    pub(crate) fn switching(self) -> Self {
        self.with(|state| state.switching = true)
    }

    /// The adapter takes no plain read of several bytes.
    pub(crate) fn smbus_only(self) -> Self {
        self.with(|state| state.smbus_only = true)
    }

    /// A chip's place on it, as the agent's host gives it.
    pub(crate) fn open(&self, addr: u8) -> Result<Device, Error> {
        if matches!(self.0.lock().unwrap().chips.get(&addr), Some(Chip::Owned)) {
            return Err(Error::Owned);
        }
        Ok(Device::new(addr, Box::new(self.clone())))
    }

    /// The same behind a channel, which is open for one transaction only.
    pub(crate) fn open_behind(&self, segment: Segment, addr: u8) -> Result<Device, Error> {
        assert!(!segment.alone, "a channel must not stay open after a scan");
        Ok(Device::new(addr, Box::new(Behind { bench: self.clone(), segment })))
    }

    /// What it was asked so far.
    pub(crate) fn log(&self) -> Vec<Asked> {
        self.0.lock().unwrap().log.clone()
    }

    /// What the multiplexer at this address has open.
    pub(crate) fn control(&self, mux: u8) -> Option<u8> {
        match self.0.lock().unwrap().chips.get(&mux) {
            Some(Chip::Mux { control, .. }) => Some(*control),
            _ => None,
        }
    }
}

impl Link for Bench {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap();
        let (mut written, mut read) = (Vec::new(), 0);
        for operation in operations.iter() {
            match operation {
                Operation::Write(bytes) => written.extend_from_slice(bytes),
                Operation::Read(buffer) => read += buffer.len(),
            }
        }
        harmless(address, &written, read, state.switching);
        if state.smbus_only && written.is_empty() && read > 1 {
            return Err(Error::Unsupported("read of several bytes without a register"));
        }
        state.log.push((address, written.clone(), read));
        let State { chips, behind, .. } = &mut *state;
        let bytes = match chips.get_mut(&address) {
            Some(Chip::Answers { pointer, answer }) => {
                *pointer = written.first().copied().unwrap_or(*pointer);
                answer(*pointer, read)?
            }
            Some(Chip::Mux { channels, control }) => {
                if let Some(byte) = written.first() {
                    *control = if *channels == 8 { *byte } else { byte & 0x0f };
                }
                vec![*control; read]
            }
            // What an open channel lets through is heard on the bus itself.
            _ => {
                let open = |(mux, channel): &(u8, u8)| matches!(chips.get(mux), Some(Chip::Mux { control, .. }) if control & (1 << channel) != 0);
                let through = behind
                    .iter_mut()
                    .find(|(place, bench)| open(place) && bench.0.lock().unwrap().chips.contains_key(&address));
                let (_, bench) = through.ok_or(Error::NoAcknowledge)?;
                return bench.transaction(address, operations);
            }
        };
        let mut bytes = bytes.into_iter();
        for operation in operations {
            if let Operation::Read(buffer) = operation {
                buffer.fill_with(|| bytes.next().unwrap_or(0xff));
            }
        }
        Ok(())
    }
}

/// The rules once more, written down apart from those under test.
fn harmless(addr: u8, written: &[u8], read: usize, switching: bool) {
    if switching && MUXES.contains(&addr) && written.len() <= 1 {
        return;
    }
    assert!(read > 0, "{addr:#04x} was written to: {written:02x?}");
    match (addr, written) {
        (0x30..=0x37 | 0x50..=0x57 | 0x70..=0x77, []) => assert_eq!(read, 1, "{addr:#04x}: more than a receive byte"),
        (0x10..=0x2f | 0x38..=0x4f | 0x58..=0x6f, []) => {}
        (0x10..=0x2f | 0x38..=0x4f | 0x60..=0x6f, [_]) => {}
        (0x58..=0x5f, [0x19 | 0x20 | 0x78..=0x82 | 0x86..=0x9e | 0xa0..=0xa9 | 0xad | 0xae]) => {}
        _ => panic!("{addr:#04x} must not be asked like this: {written:02x?}, {read} bytes"),
    }
}

/// A chip behind a channel: selected, asked, and closed again.
struct Behind {
    bench: Bench,
    segment: Segment,
}

impl Link for Behind {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        let Segment { mux, channel, .. } = self.segment;
        self.bench.transaction(mux, &mut [Operation::Write(&[1 << channel])])?;
        let result = self.bench.transaction(address, operations);
        self.bench.transaction(mux, &mut [Operation::Write(&[0])])?;
        result
    }
}
