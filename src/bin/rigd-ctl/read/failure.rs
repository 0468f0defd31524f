//! Why there are no values, and what to do about it.

use std::fmt;

use rigd::bus;
use rigd::chip;

/// Why there are no values.
pub(super) enum Failure {
    Chip(chip::Error<bus::Error>),
    /// They are on pages.
    Pages,
    /// The kernel has no such sensors, only those of these names.
    NoSensors(Vec<String>),
}

impl<E: Into<chip::Error<bus::Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Chip(error.into())
    }
}

impl Failure {
    pub(super) const TIMED_OUT: Self = Self::Chip(chip::Error::I2c(bus::Error::TimedOut));

    /// Whether the bus hung.
    pub(super) fn timed_out(&self) -> bool {
        matches!(self, Self::Chip(chip::Error::I2c(bus::Error::TimedOut)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chip(chip::Error::ReadBack { register, written, found }) => write!(
                f,
                "register {register:#04x} holds {found:#06x} where the agent sets {written:#06x}: it is not set up (the agent \
                 does that at its start), so its registers have no meaning yet"
            ),
            Self::Chip(error @ chip::Error::WrongPart { .. }) => write!(f, "{error}: is it what the board file says?"),
            Self::Chip(error) => error.fmt(f),
            Self::NoSensors(known) if known.is_empty() => f.write_str("the kernel has no sensors"),
            Self::NoSensors(known) => write!(f, "the kernel has no such sensors, only {}", known.join(", ")),
            Self::Pages => f.write_str(
                "its values are on pages, and to select one is a write: raw only, of the page that is selected now",
            ),
        }
    }
}
