//! Command codes that more than one part has (PMBus 1.2 part II, appendix I). A table of our own, not the drivers': a wrong code
//! there must not be a wrong code here.

pub(super) const CLEAR_FAULTS: u8 = 0x03;
pub(super) const CAPABILITY: u8 = 0x19;
pub(super) const READ_VIN: u8 = 0x88;
pub(super) const READ_VOUT: u8 = 0x8b;
pub(super) const READ_IOUT: u8 = 0x8c;
pub(super) const READ_TEMPERATURE_1: u8 = 0x8d;
pub(super) const READ_PIN: u8 = 0x97;
pub(super) const PMBUS_REVISION: u8 = 0x98;
pub(super) const MFR_ID: u8 = 0x99;
pub(super) const MFR_MODEL: u8 = 0x9a;

/// A block read: its length, then its text.
pub(super) fn block(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
