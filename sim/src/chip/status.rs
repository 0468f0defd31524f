//! The status registers of a PMBus part (PMBus 1.2 part II, 10.2 and 17): bits that stay until they are cleared.

/// The registers of one quantity each, with the bit of STATUS_WORD that says to look into them (part II, table 16).
const REGISTERS: [(u8, u16); 6] = [
    (STATUS_VOUT, 0x8000),
    (STATUS_IOUT, 0x4000),
    (STATUS_INPUT, 0x2000),
    (STATUS_TEMPERATURE, 0x0004),
    (STATUS_CML, 0x0002),
    (STATUS_FANS_1_2, 0x0400),
];
const STATUS_BYTE: u8 = 0x78;
const STATUS_WORD: u8 = 0x79;
pub(super) const STATUS_VOUT: u8 = 0x7a;
pub(super) const STATUS_IOUT: u8 = 0x7b;
pub(super) const STATUS_INPUT: u8 = 0x7c;
pub(super) const STATUS_TEMPERATURE: u8 = 0x7d;
pub(super) const STATUS_CML: u8 = 0x7e;
pub(super) const STATUS_FANS_1_2: u8 = 0x81;

// Their bits (part II, tables 18 to 23); those of VOUT and of the input's voltage are the same.
pub(super) const OV_WARNING: u8 = 0x40;
pub(super) const UV_WARNING: u8 = 0x20;
pub(super) const IOUT_OC_FAULT: u8 = 0x80;
pub(super) const IOUT_OC_WARNING: u8 = 0x20;
pub(super) const VIN_UV_FAULT: u8 = 0x10;
pub(super) const OT_WARNING: u8 = 0x40;
pub(super) const INVALID_COMMAND: u8 = 0x80;
pub(super) const FAN_1_FAULT: u8 = 0x80;

// STATUS_WORD bits that repeat one of those, or follow by themselves.
const POWER_GOOD_NEGATED: u16 = 0x0800;
const OFF: u16 = 0x0040;
const IOUT_OC: u16 = 0x0010;
const VIN_UV: u16 = 0x0008;

/// What went wrong since it was cleared, and whether the unit is off now.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    latched: [u8; REGISTERS.len()],
    pub(super) off: bool,
}

impl Status {
    /// Sets bits of the register behind a command.
    pub(super) fn raise(&mut self, command: u8, bits: u8) {
        if let Some(latched) = self.register(command) {
            *latched |= bits;
        }
    }

    /// CLEAR_FAULTS: what is still true is to be raised again.
    pub(super) fn clear(&mut self) {
        self.latched.fill(0);
    }

    /// What a command reads, least significant byte first; `None` where it is none of these registers.
    pub(super) fn read(&self, command: u8) -> Option<Vec<u8>> {
        let word = self.word().to_le_bytes();
        match command {
            STATUS_BYTE => Some(word.into_iter().take(1).collect()),
            STATUS_WORD => Some(word.to_vec()),
            _ => {
                let mut registers = REGISTERS.iter().zip(self.latched);
                registers.find(|((known, _), _)| *known == command).map(|(_, latched)| vec![latched])
            }
        }
    }

    /// A write clears the bits that are 1 in it (part II, 10.2.4); `false` where it is none of these registers. The two
    /// that sum up cannot be written, and do not mind.
    pub(super) fn write(&mut self, command: u8, clear: u8) -> bool {
        match self.register(command) {
            Some(latched) => *latched &= !clear,
            None => return matches!(command, STATUS_BYTE | STATUS_WORD),
        }
        true
    }

    fn register(&mut self, command: u8) -> Option<&mut u8> {
        let mut registers = REGISTERS.iter().zip(&mut self.latched);
        registers.find(|((known, _), _)| *known == command).map(|(_, latched)| latched)
    }

    fn word(&self) -> u16 {
        let registers = REGISTERS.iter().zip(self.latched);
        let word = registers.fold(0, |word, ((command, bit), latched)| {
            let repeats = match *command {
                STATUS_IOUT if latched & IOUT_OC_FAULT != 0 => IOUT_OC,
                STATUS_INPUT if latched & VIN_UV_FAULT != 0 => VIN_UV,
                _ => 0,
            };
            word | repeats | if latched != 0 { *bit } else { 0 }
        });
        word | if self.off { OFF | POWER_GOOD_NEGATED } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_point_to_each_other_as_in_the_standard() {
        for (command, bits, word) in [
            (STATUS_VOUT, OV_WARNING, 0x8000),
            (STATUS_IOUT, IOUT_OC_WARNING, 0x4000),
            (STATUS_IOUT, IOUT_OC_FAULT, 0x4010),
            (STATUS_INPUT, UV_WARNING, 0x2000),
            (STATUS_INPUT, VIN_UV_FAULT, 0x2008),
            (STATUS_TEMPERATURE, OT_WARNING, 0x0004),
            (STATUS_CML, INVALID_COMMAND, 0x0002),
            (STATUS_FANS_1_2, FAN_1_FAULT, 0x0400),
        ] {
            let mut status = Status::default();
            status.raise(command, bits);
            assert_eq!(status.read(0x79), Some(u16::to_le_bytes(word).to_vec()), "{command:#04x}");
            assert_eq!(status.read(0x78), Some(u16::to_le_bytes(word)[..1].to_vec()), "{command:#04x}");
            assert!(status.write(command, !bits) && status.read(command) == Some(vec![bits]), "another bit");
            assert!(status.write(0x79, 0xff) && status.read(command) == Some(vec![bits]), "the sum");
            assert!(status.write(command, bits) && status.read(command) == Some(vec![0]), "this bit");
        }
        assert!(!Status::default().write(0x88, 0xff) && Status::default().read(0x88).is_none());
        assert_eq!(Status { off: true, ..Status::default() }.read(0x79), Some(vec![0x40, 0x08]));
    }
}
