//! The driver of the simulated rig's cards: what `libnvidia-ml` would say of them and do to them, without any C.
//!
//! ```text
//! rigd-nvml ── nvml-wrapper ── librigd_fake_nvml.so ── DIR/nvml ── Driver ── world
//! ```
//!
//! One [`Call`] is one call of the C library, by its symbol; the [`Return`] has its code and numbers. Behaviour is that of
//! `nvml.h` (13.5) where that tells; what is guessed says so. State lives here and not in the client, so it survives the
//! client: a fan left manual stays manual.

mod call;
mod driver;
mod fault;
pub(crate) mod files;
mod read;
mod set;
mod text;
mod wire;

mod standalone;

pub use driver::Driver;
pub use fault::{Fault, Kind};
pub use standalone::Standalone;
pub(crate) use text::{HELP, obey, truth};
pub use wire::{Act, Call, NotUnderstood, Return, SYMBOLS};

/// Return codes of NVML that the driver gives.
pub mod code {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// Before init or after shutdown.
    pub const UNINITIALIZED: u32 = 1;
    /// A parameter is wrong or out of range.
    pub const INVALID_ARGUMENT: u32 = 2;
    /// Not on this card.
    pub const NOT_SUPPORTED: u32 = 3;
    /// Needs root.
    pub const NO_PERMISSION: u32 = 4;
    /// No such thing.
    pub const NOT_FOUND: u32 = 6;
    /// The buffer is too small.
    pub const INSUFFICIENT_SIZE: u32 = 7;
    /// The driver is not loaded.
    pub const DRIVER_NOT_LOADED: u32 = 9;
    /// Nothing came in time.
    pub const TIMEOUT: u32 = 10;
    /// The card fell off the bus.
    pub const GPU_IS_LOST: u32 = 15;
    /// Library and driver differ.
    pub const VERSION_MISMATCH: u32 = 18;
    /// No room for more.
    pub const INSUFFICIENT_RESOURCES: u32 = 23;
    /// A struct of a version that is not known.
    pub const ARGUMENT_VERSION_MISMATCH: u32 = 25;
    /// Gone from this driver.
    pub const DEPRECATED: u32 = 26;
    /// Anything else.
    pub const UNKNOWN: u32 = 999;
}

/// A copy of a library at `path` in which one symbol is missing, as in a driver that is too old for it.
///
/// The name is made another in every string table, so that a look-up does not find it.
///
/// # Errors
/// A file that cannot be read or written, or that has no such symbol.
pub fn without_symbol(path: &std::path::Path, symbol: &str, copy: &std::path::Path) -> anyhow::Result<()> {
    use anyhow::{Context, ensure};
    let mut library = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let name = [b"\0", symbol.as_bytes(), b"\0"].concat();
    let places: Vec<usize> =
        library.windows(name.len()).enumerate().filter(|(_, at)| *at == name).map(|(i, _)| i).collect();
    ensure!(!places.is_empty(), "{} has no symbol {symbol}", path.display());
    for place in places {
        if let Some(first) = library.get_mut(place + 1) {
            *first = b'x';
        }
    }
    std::fs::write(copy, library).with_context(|| format!("write {}", copy.display()))
}
