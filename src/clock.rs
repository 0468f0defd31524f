//! Where the time comes from: the only place that reads a clock. Shells ask here and hand it on; what decides takes it
//! as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Now, on a clock that never jumps (CLOCK_MONOTONIC).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place where it is read")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970 by the rig's clock, which may be wrong: many controllers have no battery. 0 before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place where it is read")]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
