//! The rules of a scan, held where nothing gets past them: between a driver and the bus.

use embedded_hal::i2c::{I2c, Operation};
use rigd::bus::{Device, Error, Link};

use super::rules::{LOOK, Rule, is_pmbus_read};

/// What a question that is against the rules is answered with; nothing of it reaches the bus.
pub(crate) const REFUSED: Error = Error::Unsupported("question that might do harm");

/// A chip's place on a bus that lets only harmless questions through.
pub(crate) struct Guard {
    device: Device,
    rule: Rule,
}

impl Guard {
    /// A place that looks like any other to a driver.
    pub(crate) fn device(device: Device, rule: Rule) -> Device {
        Device::new(device.addr(), Box::new(Self { device, rule }))
    }

    fn allows(&self, operations: &[Operation<'_>]) -> bool {
        match (self.rule, operations) {
            (Rule::Nothing, _) => false,
            (Rule::Look, [Operation::Read(buffer)]) => buffer.len() <= LOOK,
            (_, [Operation::Read(buffer)]) => buffer.len() == 1,
            (Rule::Registers, [Operation::Write([_]), Operation::Read(_)]) => true,
            (Rule::Pmbus, [Operation::Write([command]), Operation::Read(_)]) => is_pmbus_read(*command),
            (Rule::Presence | Rule::Look | Rule::Pmbus | Rule::Registers, _) => false,
        }
    }
}

impl Link for Guard {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        // A driver that asks another address than its own is none of ours.
        if address != self.device.addr() || !self.allows(operations) {
            return Err(REFUSED);
        }
        self.device.transaction(address, operations)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    #[test]
    fn only_harmless_questions_reach_the_bus() {
        let (register, pointer, long) = ([0x98], [0x03], [0x00, 0x01]);
        let mut buffers = ([0; 1], [0; 2], [0; LOOK], [0; LOOK + 1]);
        let (one, two, look, more) = (&mut buffers.0, &mut buffers.1, &mut buffers.2, &mut buffers.3);
        let rules = [Rule::Nothing, Rule::Presence, Rule::Look, Rule::Pmbus, Rule::Registers];
        let check = |what: &str, operations: &mut [Operation<'_>], allowed: [bool; 5]| {
            for (rule, allowed) in rules.into_iter().zip(allowed) {
                let bench = Bench::default().constant(0x42, 0x00);
                let mut device = Guard::device(bench.open(0x42).unwrap(), rule);
                let result = device.transaction(0x42, operations);
                assert_eq!(result, if allowed { Ok(()) } else { Err(REFUSED) }, "{what} under {rule:?}");
                assert_eq!(bench.log().len(), usize::from(allowed), "{what} under {rule:?}");
            }
        };
        check("receive byte", &mut [Operation::Read(one)], [false, true, true, true, true]);
        check("plain read", &mut [Operation::Read(look)], [false, false, true, false, false]);
        check("too long a read", &mut [Operation::Read(more)], [false; 5]);
        let mut read = [Operation::Write(&register), Operation::Read(two)];
        check("PMBUS_REVISION", &mut read, [false, false, false, true, true]);
        let mut read = [Operation::Write(&pointer), Operation::Read(two)];
        check("CLEAR_FAULTS with a read", &mut read, [false, false, false, false, true]);
        check("a long pointer", &mut [Operation::Write(&long), Operation::Read(two)], [false; 5]);
        check("a write", &mut [Operation::Write(&long)], [false; 5]);
        check("a send byte", &mut [Operation::Write(&pointer)], [false; 5]);
        check("nothing", &mut [], [false; 5]);
    }

    #[test]
    fn another_address_is_not_reached() {
        let bench = Bench::default().constant(0x42, 0).constant(0x50, 0);
        let mut device = Guard::device(bench.open(0x42).unwrap(), Rule::Registers);
        assert_eq!(device.write_read(0x50, &[0], &mut [0]), Err(REFUSED));
        assert!(bench.log().is_empty());
    }
}
