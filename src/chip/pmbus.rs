//! PMBus (Power System Management Protocol, revision 1.2, parts I and II): what its parts share.
//!
//! ```text
//! supply.rs   the supplies that need nothing of their own ─┐
//! ../adm1275.rs  ../max34451.rs  ../max31785.rs ───────────┼─> link.rs    transfers: bytes, words, blocks, PAGE, PEC
//!                                                          ├─> format.rs  what a word means: LINEAR11, ULINEAR16, DIRECT, half
//!                                                          ├─> status.rs  what the status registers say
//!                                                          └─> maxim.rs   what Maxim's parts do alike
//! ```
//!
//! CLEAR_FAULTS is never sent: it surges the fans of some supplies. So a fault bit stays until the unit itself lets go
//! of it.

pub(crate) mod format;
pub(crate) mod link;
pub(crate) mod maxim;
#[cfg(test)]
pub(crate) mod noise;
pub(crate) mod status;
mod supply;

pub use supply::{DPS750TB, PART};

pub(super) use super::register::{byte, word_le as word};
use super::{Form, Register};

/// Command codes (part II, appendix I).
pub(crate) mod command {
    pub(crate) const PAGE: u8 = 0x00;
    pub(crate) const CAPABILITY: u8 = 0x19;
    pub(crate) const VOUT_MODE: u8 = 0x20;
    pub(crate) const FAN_CONFIG_1_2: u8 = 0x3a;
    pub(crate) const FAN_COMMAND_1: u8 = 0x3b;
    pub(crate) const STATUS_BYTE: u8 = 0x78;
    pub(crate) const STATUS_WORD: u8 = 0x79;
    pub(crate) const STATUS_VOUT: u8 = 0x7a;
    pub(crate) const STATUS_IOUT: u8 = 0x7b;
    pub(crate) const STATUS_INPUT: u8 = 0x7c;
    pub(crate) const STATUS_TEMPERATURE: u8 = 0x7d;
    pub(crate) const STATUS_CML: u8 = 0x7e;
    pub(crate) const STATUS_MFR_SPECIFIC: u8 = 0x80;
    pub(crate) const STATUS_FANS_1_2: u8 = 0x81;
    pub(crate) const READ_VIN: u8 = 0x88;
    pub(crate) const READ_IIN: u8 = 0x89;
    pub(crate) const READ_VOUT: u8 = 0x8b;
    pub(crate) const READ_IOUT: u8 = 0x8c;
    pub(crate) const READ_TEMPERATURE_1: u8 = 0x8d;
    pub(crate) const READ_TEMPERATURE_2: u8 = 0x8e;
    pub(crate) const READ_TEMPERATURE_3: u8 = 0x8f;
    pub(crate) const READ_FAN_SPEED_1: u8 = 0x90;
    pub(crate) const READ_FAN_SPEED_2: u8 = 0x91;
    pub(crate) const READ_POUT: u8 = 0x96;
    pub(crate) const READ_PIN: u8 = 0x97;
    pub(crate) const PMBUS_REVISION: u8 = 0x98;
    pub(crate) const MFR_ID: u8 = 0x99;
    pub(crate) const MFR_MODEL: u8 = 0x9a;
    pub(crate) const MFR_REVISION: u8 = 0x9b;
}

pub(crate) const fn block(name: &'static str, at: u8) -> Register {
    Register { name, at, form: Form::Block, formula: "" }
}
