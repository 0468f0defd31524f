//! A simulated bus: chips on it, chips behind its multiplexers, and who of them hears an address.

use rigd::bus::Segment;
use rigd::bus::socket::Status;

use super::wired::Wired;
use crate::chip::pca9548::Pca9548;
use crate::chip::{Ack, Chip};
use crate::random::Random;
use crate::wire::{Operation, Outcome, Request};
use crate::world::World;

/// A simulated bus.
pub(crate) struct Bus {
    pub(crate) name: String,
    pub(crate) socket: String,
    pub(crate) muxes: Vec<Mux>,
    pub(crate) slots: Vec<Slot>,
}

/// A multiplexer on a bus.
pub(crate) struct Mux {
    pub(crate) refdes: String,
    pub(crate) addr: u8,
    pub(super) chip: Pca9548,
    pub(super) gone: bool,
}

impl Mux {
    /// One as the board has it.
    pub(super) fn new(mux: &rigd::board::Mux) -> Self {
        Self { refdes: mux.refdes.clone(), addr: mux.addr, chip: Pca9548::new(mux.channels), gone: false }
    }
}

/// A chip's place on a bus; on the bus itself where it has no segment.
pub(crate) struct Slot {
    pub(crate) refdes: String,
    pub(crate) addr: u8,
    pub(crate) segment: Option<Segment>,
    pub(super) wired: Wired,
    pub(super) gone: bool,
}

impl Bus {
    /// Address of what the schematic calls so.
    pub(crate) fn address(&self, refdes: &str) -> Option<u8> {
        let slots = self.slots.iter().map(|slot| (&slot.refdes, slot.addr));
        let muxes = self.muxes.iter().map(|mux| (&mux.refdes, mux.addr));
        slots.chain(muxes).find(|(known, _)| *known == refdes).map(|(_, addr)| addr)
    }

    /// Where something can answer.
    pub(super) fn addresses(&self) -> Vec<u8> {
        self.slots.iter().map(|slot| slot.addr).chain(self.muxes.iter().map(|mux| mux.addr)).collect()
    }

    /// One transaction. Whoever hears it takes part: where several do, one acknowledge is enough, and of what they read
    /// each bit is 0 that one of them pulls down. `noise` instead of what was read, where there is one.
    pub(super) fn transact(&mut self, request: &Request, world: &mut World, mut noise: Option<&mut Random>) -> Outcome {
        let now = world.time();
        let (muxes, slots) = (&mut self.muxes, &mut self.slots);
        let open = |segment: Segment| {
            let mux = muxes.iter().find(|mux| mux.addr == segment.mux && !mux.gone);
            mux.is_some_and(|mux| mux.chip.is_open(segment.channel))
        };
        let hears = |slot: &Slot| slot.addr == request.addr && !slot.gone && slot.segment.is_none_or(open);
        let mut heard: Vec<&mut Slot> = slots.iter_mut().filter(|slot| hears(slot)).collect();
        heard.iter_mut().for_each(|slot| slot.wired.sense(world));

        let switches = muxes.iter_mut().filter(|mux| mux.addr == request.addr && !mux.gone);
        let switches = switches.map(|mux| -> &mut dyn Chip { &mut mux.chip });
        let mut chips: Vec<&mut dyn Chip> = heard.iter_mut().map(|slot| slot.wired.chip()).chain(switches).collect();
        if chips.is_empty() {
            return Outcome::failed(Status::NoAddress);
        }
        let mut outcome = Outcome { status: Status::Ok, done: 0, bytes: Vec::new() };
        for operation in &request.operations {
            let mut ack = Ack::NotAcked;
            let mut read = match operation {
                Operation::Write(_) => Vec::new(),
                Operation::Read(length) => vec![u8::MAX; *length],
            };
            for chip in &mut chips {
                let mut buffer = vec![0; read.len()];
                let answer = match operation {
                    Operation::Write(bytes) => chip.write(bytes, now),
                    Operation::Read(_) => chip.read(&mut buffer, now),
                };
                if answer == Ack::Acked {
                    ack = Ack::Acked;
                    read.iter_mut().zip(buffer).for_each(|(line, byte)| *line &= byte);
                }
            }
            if ack == Ack::NotAcked {
                outcome.status = Status::NoData;
                break;
            }
            if let Some(noise) = &mut noise {
                read.fill_with(|| noise.byte());
            }
            outcome.bytes.extend(read);
            outcome.done += 1;
        }
        // What was written shows at once: a target at rate 0, a watchdog's end.
        for slot in heard {
            slot.wired.sense(world);
            slot.wired.drive(world, slot.gone);
        }
        outcome
    }
}
