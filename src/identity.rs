//! What a board says of itself: name, revision and serial number, from its EEPROM.

/// Who a board is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name, as board files have it.
    pub name: String,
    /// Revision, as board files have it.
    pub revision: String,
    /// Serial number.
    pub serial: String,
}
