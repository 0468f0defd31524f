//! Where the time comes from: the only place that reads a clock. Shells ask here and hand it on; what decides takes it
//! as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Since the rig was booted, sleep included (CLOCK_BOOTTIME): what one agent writes down, the next understands.
#[must_use]
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Minute of the local day, 0 to 1439, by the system's time zone; `None` where the clock was never set: before 2024.
#[must_use]
#[cfg_attr(target_env = "musl", expect(deprecated, reason = "time_t: a notice that musl's will be 64 bits everywhere"))]
pub fn local_minute() -> Option<u16> {
    const SET: u64 = 1_704_067_200;
    let seconds = unix_ms() / 1000;
    let seconds = (seconds >= SET).then(|| libc::time_t::try_from(seconds).ok()).flatten()?;
    // SAFETY: all zeros are a valid `tm`: numbers, and a pointer that may be null.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of ours; localtime_r keeps neither (POSIX).
    let result = unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    if result.is_null() {
        return None;
    }
    u16::try_from(local.tm_hour * 60 + local.tm_min).ok().filter(|minute| *minute < 1440)
}
