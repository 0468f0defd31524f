//! Registers: what one is for people, and how its value is read, written and kept.

use embedded_hal::i2c::I2c;

use super::Error;
use crate::reading::Reading;

/// A register, for people.
pub struct Register {
    /// Its name in the datasheet.
    pub name: &'static str,
    /// Its number or command code.
    pub at: u8,
    /// How it is read.
    pub form: Form,
    /// How a number in it becomes a quantity, for people; empty where it is bits.
    pub formula: &'static str,
}

/// A part's registers, for people. In the agent, which shows none to anybody, the list takes no room.
pub struct Registers(#[cfg(feature = "ctl")] &'static [Register]);

impl Registers {
    /// These.
    #[must_use]
    pub const fn of(list: &'static [Register]) -> Self {
        #[cfg(not(feature = "ctl"))]
        let _ = list;
        Self(
            #[cfg(feature = "ctl")]
            list,
        )
    }

    /// The list, in the order of the datasheet.
    #[cfg(feature = "ctl")]
    #[must_use]
    pub const fn list(&self) -> &'static [Register] {
        self.0
    }
}

/// Width and order of a register on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One byte.
    U8,
    /// So many bytes, the most significant first (TI, Linear, Maxim).
    Be(u8),
    /// So many bytes, the least significant first (SMBus, PMBus).
    Le(u8),
    /// A length, then so many bytes: SMBus block read.
    Block,
    /// The checksummed words of common-slot supplies.
    CommonSlot,
}

/// A byte, by its datasheet name.
pub(super) const fn byte(name: &'static str, at: u8, formula: &'static str) -> Register {
    Register { name, at, form: Form::U8, formula }
}

/// Two bytes, the most significant first.
pub(super) const fn word(name: &'static str, at: u8, formula: &'static str) -> Register {
    Register { name, at, form: Form::Be(2), formula }
}

/// Two bytes, the least significant first.
pub(super) const fn word_le(name: &'static str, at: u8, formula: &'static str) -> Register {
    Register { name, at, form: Form::Le(2), formula }
}

/// Reads a byte register.
pub(crate) fn read_u8<I: I2c>(i2c: &mut I, addr: u8, register: u8) -> Result<u8, Error<I::Error>> {
    let mut byte = [0; 1];
    i2c.write_read(addr, &[register], &mut byte)?;
    let [value] = byte;
    Ok(value)
}

/// Reads a 16-bit register that has its most significant byte first (TI, Linear, Maxim).
pub(crate) fn read_be<I: I2c>(i2c: &mut I, addr: u8, register: u8) -> Result<u16, Error<I::Error>> {
    let mut bytes = [0; 2];
    i2c.write_read(addr, &[register], &mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

/// Reads a register of `N` bytes, most significant first, as a number. `N` is at most 8.
pub(crate) fn read_wide<const N: usize, I: I2c>(i2c: &mut I, addr: u8, register: u8) -> Result<u64, Error<I::Error>> {
    let mut bytes = [0; N];
    i2c.write_read(addr, &[register], &mut bytes)?;
    Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// Reads a 16-bit register that has its least significant byte first (SMBus, PMBus).
pub(crate) fn read_le<I: I2c>(i2c: &mut I, addr: u8, register: u8) -> Result<u16, Error<I::Error>> {
    let mut bytes = [0; 2];
    i2c.write_read(addr, &[register], &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

/// One quantity, out of the answer that holds it: one that came disturbed goes missing alone.
pub(crate) fn quantity<A, T, E: embedded_hal::i2c::Error>(
    answer: Result<A, Error<E>>,
    convert: impl FnOnce(A) -> Reading<T>,
) -> Result<Reading<T>, Error<E>> {
    match answer {
        Ok(raw) => Ok(convert(raw)),
        Err(error @ Error::Checksum { .. }) => Ok(Err(error.missing())),
        Err(error) => Err(error),
    }
}

/// Writes a byte register and makes sure that it holds.
pub(crate) fn write_u8<I: I2c>(i2c: &mut I, addr: u8, register: u8, value: u8) -> Result<(), Error<I::Error>> {
    i2c.write(addr, &[register, value])?;
    let found = read_u8(i2c, addr, register)?;
    holds(register, value.into(), found.into())
}

/// Writes a 16-bit register, most significant byte first, and makes sure that it holds.
pub(crate) fn write_be<I: I2c>(i2c: &mut I, addr: u8, register: u8, value: u16) -> Result<(), Error<I::Error>> {
    let [high, low] = value.to_be_bytes();
    i2c.write(addr, &[register, high, low])?;
    let found = read_be(i2c, addr, register)?;
    holds(register, value, found)
}

/// Makes sure that a setting still holds: a part that lost power for a moment has forgotten it.
pub(crate) fn holds<E>(register: u8, written: u16, found: u16) -> Result<(), Error<E>> {
    if found == written { Ok(()) } else { Err(Error::ReadBack { register, written, found }) }
}

/// Reads a byte register and makes sure that the bits of `mask` still are `bits`.
pub(crate) fn verify_u8<I: I2c>(
    i2c: &mut I,
    addr: u8,
    register: u8,
    mask: u8,
    bits: u8,
) -> Result<u8, Error<I::Error>> {
    let found = read_u8(i2c, addr, register)?;
    holds(register, bits.into(), (found & mask).into())?;
    Ok(found)
}

/// Brings the bits of `mask` to `bits` and makes sure that they hold. The register's other bits stay as they are, and
/// nothing is written where there is nothing to change.
pub(crate) fn change_u8<I: I2c>(
    i2c: &mut I,
    addr: u8,
    register: u8,
    mask: u8,
    bits: u8,
) -> Result<(), Error<I::Error>> {
    let before = read_u8(i2c, addr, register)?;
    if before & mask == bits {
        return Ok(());
    }
    i2c.write(addr, &[register, before & !mask | bits])?;
    verify_u8(i2c, addr, register, mask, bits).map(drop)
}
