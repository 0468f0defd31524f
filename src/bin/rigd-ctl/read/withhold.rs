//! A chip's place on a bus on which reads are carried out and writes are not.
//!
//! Some drivers write while they read: a fault that is let go of, a watchdog that is armed again, a page. That is the
//! agent's business. The driver is told that it was done, and finds by reading back that nothing has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use embedded_hal::i2c::{I2c, Operation};
use rigd::bus::{Device, Error, Link};
use rigd::chip::{Form, Part};

/// What was not carried out so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Withheld(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU32,
    pages: AtomicU32,
}

impl Withheld {
    /// Writes.
    pub(super) fn writes(&self) -> u32 {
        self.0.writes.load(Relaxed)
    }

    /// Of those, selections of a page: what is read after one is another page's.
    pub(super) fn pages(&self) -> u32 {
        self.0.pages.load(Relaxed)
    }

    /// The place of a chip that the board says is this part.
    pub(super) fn device(&self, device: Device, part: &Part) -> Device {
        let common_slot = part.registers.list().iter().any(|register| register.form == Form::CommonSlot);
        // Larger memories have two bytes of address, and so no registers.
        let pointer = if part.holds_identity() && part.registers.list().is_empty() { 2 } else { 1 };
        let page = part.registers.list().iter().find(|register| register.name == PAGE).map(|register| register.at);
        Device::new(device.addr(), Box::new(ReadOnly { device, pointer, common_slot, page, withheld: self.clone() }))
    }
}

/// What the register is called that selects a page (PMBus part II, 11.10).
pub(super) const PAGE: &str = "PAGE";

struct ReadOnly {
    device: Device,
    /// Bytes that a register's number may have.
    pointer: usize,
    common_slot: bool,
    /// The register that selects a page, where the part has pages.
    page: Option<u8>,
    withheld: Withheld,
}

impl ReadOnly {
    fn reads(&self, operations: &[Operation<'_>]) -> bool {
        match operations {
            [Operation::Read(_)] => true,
            [Operation::Write(pointer), Operation::Read(_)] if pointer.len() <= self.pointer => true,
            [Operation::Write(request)] | [Operation::Write(request), Operation::Read(_)] => {
                self.common_slot && is_request(self.device.addr(), request)
            }
            _ => false,
        }
    }
}

/// What a common-slot supply is asked with: a register and its checksum. What it is written with has two bytes more.
fn is_request(addr: u8, bytes: &[u8]) -> bool {
    matches!(bytes, [register, checksum] if *checksum == request_checksum(addr, *register))
}

/// Address (8 bits), register and checksum add up to zero.
pub(super) const fn request_checksum(addr: u8, register: u8) -> u8 {
    (addr << 1).wrapping_add(register).wrapping_neg()
}

impl Link for ReadOnly {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        if self.reads(operations) {
            return self.device.transaction(address, operations);
        }
        if operations.iter().any(|operation| matches!(operation, Operation::Read(_))) {
            return Err(Error::Unsupported("read that begins with a write of several bytes"));
        }
        self.withheld.0.writes.fetch_add(1, Relaxed);
        if let [Operation::Write([register, _, ..])] = operations
            && self.page == Some(*register)
        {
            self.withheld.0.pages.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rigd::chip::{Certainty, Kernel, Register, Registers};

    use super::*;

    struct Recorder(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Link for Recorder {
        fn transaction(&mut self, _: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
            for operation in operations {
                match operation {
                    Operation::Write(bytes) => self.0.lock().unwrap().push(bytes.to_vec()),
                    Operation::Read(buffer) => buffer.fill(0x5a),
                }
            }
            Ok(())
        }
    }

    fn place(part: &Part) -> (Device, Withheld, Arc<Mutex<Vec<Vec<u8>>>>) {
        let (withheld, log) = (Withheld::default(), Arc::default());
        let device = withheld.device(Device::new(0x58, Box::new(Recorder(Arc::clone(&log)))), part);
        (device, withheld, log)
    }

    #[test]
    fn reads_are_carried_out_and_writes_are_not() {
        let (mut device, withheld, log) = place(Part::find("max31790").unwrap());
        let mut byte = [0; 1];
        assert_eq!(device.write_read(0x58, &[0x11], &mut byte), Ok(()));
        assert_eq!(
            (byte, device.write(0x58, &[0x40, 0x80, 0x00]), device.write(0x58, &[0x03])),
            ([0x5a], Ok(()), Ok(()))
        );
        assert!(device.write_read(0x58, &[0x00, 0x01], &mut byte).is_err(), "a write with a read behind it");
        assert_eq!((withheld.writes(), log.lock().unwrap().clone()), (2, vec![vec![0x11]]));
    }

    const fn part(registers: &'static [Register]) -> Part {
        Part {
            name: "a part of this test",
            about: "",
            addresses: &[0x58..=0x5f],
            certainty: Certainty::Word,
            power: &["in", "out"],
            temperature: &[],
            fan: &[],
            drives_fans: false,
            takes: &[],
            watchdog_s: &[],
            registers: Registers::of(registers),
            kernel: Kernel::NONE,
            open: |_, _| panic!("not opened"),
        }
    }

    #[test]
    fn a_page_that_was_not_selected_is_told() {
        static PAGED: Part = part(&[Register { name: "PAGE", at: 0x00, form: Form::U8, formula: "" }]);
        let (mut device, withheld, log) = place(&PAGED);
        assert_eq!(device.write(0x58, &[0x00, 0x03]), Ok(()));
        assert_eq!(device.write(0x58, &[0x3b, 0x00, 0x00]), Ok(()));
        assert_eq!((withheld.writes(), withheld.pages(), log.lock().unwrap().len()), (2, 1, 0));
    }

    #[test]
    fn a_common_slot_supply_is_asked_and_not_set() {
        static COMMON_SLOT: Part = part(&[Register { name: "Vin", at: 0x08, form: Form::CommonSlot, formula: "" }]);
        let (mut device, withheld, log) = place(&COMMON_SLOT);
        // 0xb0 + 0x08 + 0x48 = 0x100.
        assert_eq!(request_checksum(0x58, 0x08), 0x48);
        for (write, carried_out) in
            [(&[0x08, 0x48][..], true), (&[0x08, 0x49], false), (&[0x40, 0x10, 0x27, 0xd9], false)]
        {
            let before = log.lock().unwrap().len();
            assert_eq!(device.write(0x58, write), Ok(()));
            assert_eq!(log.lock().unwrap().len() > before, carried_out, "{write:02x?}");
        }
        assert_eq!((withheld.writes(), withheld.pages()), (2, 0));
    }
}
