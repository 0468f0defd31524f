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

/// Names this boot of the kernel, in 32 hexadecimal digits, so that a reboot can be told; `None` where nobody tells.
///
/// The unit's `ProcSubset=pid` hides the kernel's own word from the agent, so systemd hands it in: `Environment=RIGD_BOOT_ID=%b`, the
/// specifier for random(4)'s boot id (systemd.unit(5)). Where there is no such variable the kernel is asked.
#[must_use]
pub fn kernel_boot_id() -> Option<String> {
    let told = std::env::var("RIGD_BOOT_ID").ok();
    let told = told.or_else(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok());
    told.and_then(|text| boot_id(&text))
}

/// systemd writes it without the hyphens that the kernel writes.
fn boot_id(text: &str) -> Option<String> {
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    let good = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    good.then(|| digits.to_ascii_lowercase())
}

/// [`kernel_boot_id`] as a number; 0 where nobody tells.
#[must_use]
pub fn kernel_boot() -> u32 {
    kernel_boot_id().map_or(0, |id| crate::digest::fnv1a(id.as_bytes()))
}

/// Since the rig was booted, sleep included (CLOCK_BOOTTIME): what one agent writes down, the next understands.
#[must_use]
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A clock that was never set stands before 2024: this agent is of 2026.
const SET_S: u64 = 1_704_067_200;

/// [`unix_ms`], where the clock is known to be right: the kernel says that somebody disciplines it (`adjtimex(2)`: no error state,
/// STA_UNSYNC clear; chrony, systemd-timesyncd and ntpd clear it), and it stands after this version was written.
#[must_use]
pub fn synced_unix_ms() -> Option<u64> {
    believed(unix_ms(), kernel_synced())
}

fn believed(unix_ms: u64, synced: bool) -> Option<u64> {
    /// 2026-01-01, in milliseconds: nobody runs this version earlier.
    const WRITTEN_MS: u64 = 1_767_225_600_000;
    (synced && unix_ms >= WRITTEN_MS).then_some(unix_ms)
}

fn kernel_synced() -> bool {
    // SAFETY: all zeros are a valid `timex`: numbers; `modes` of 0 asks and changes nothing (adjtimex(2)).
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live value of ours, which the kernel fills and does not keep.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (0..libc::TIME_ERROR).contains(&state) && timex.status & libc::STA_UNSYNC == 0
}

/// Minute of the local day, 0 to 1439, by the system's time zone; `None` where the clock was never set: before 2024.
#[must_use]
pub fn local_minute() -> Option<u16> {
    local_week().map(|(_, minute)| minute)
}

/// Day of the local week, 0 for Monday, and minute of that day, 0 to 1439; `None` where the clock was never set.
#[must_use]
#[cfg_attr(target_env = "musl", expect(deprecated, reason = "time_t: a notice that musl's will be 64 bits everywhere"))]
pub fn local_week() -> Option<(u8, u16)> {
    let seconds = unix_ms() / 1000;
    let seconds = (seconds >= SET_S).then(|| libc::time_t::try_from(seconds).ok()).flatten()?;
    // SAFETY: all zeros are a valid `tm`: numbers, and a pointer that may be null.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of ours; localtime_r keeps neither (POSIX).
    let result = unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    if result.is_null() {
        return None;
    }
    let minute = u16::try_from(local.tm_hour * 60 + local.tm_min).ok().filter(|minute| *minute < 1440)?;
    // POSIX counts from Sunday.
    Some((u8::try_from((local.tm_wday + 6) % 7).ok()?, minute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_only_where_the_kernel_is_and_after_this_was_written() {
        for (unix_ms, synced, expected) in [
            (1_800_000_000_000, true, true),
            (1_800_000_000_000, false, false),
            (0, true, false),
            (1_767_225_599_999, true, false),
        ] {
            assert_eq!(believed(unix_ms, synced), expected.then_some(unix_ms));
        }
        // Whatever this machine's clock is, it is the same one.
        let now = unix_ms();
        assert!(synced_unix_ms().is_none_or(|synced| synced.abs_diff(now) < 3_600_000));
    }

    #[test]
    fn one_boot_has_one_name_whoever_tells_it() {
        let name = "0f3c1d2e4b5a69788796a5b4c3d2e1f0";
        for (text, expected) in [
            ("0f3c1d2e-4b5a-6978-8796-a5b4c3d2e1f0\n", Some(name)),
            (name, Some(name)),
            // A systemd that does not know the specifier.
            ("%b", None),
            ("", None),
        ] {
            assert_eq!(boot_id(text).as_deref(), expected, "{text}");
        }
        let unit = include_str!("../systemd/rigd.service");
        assert!(!unit.contains("ProcSubset=pid") || unit.lines().any(|line| line == "Environment=RIGD_BOOT_ID=%b"));
    }

    #[test]
    fn the_weeks_day_is_the_calendars() {
        if let Some((day, minute)) = local_week() {
            assert!(day < 7 && minute < 1440);
            // 1970-01-01 was a Thursday; no time zone is more than a day away.
            let utc = (unix_ms() / 86_400_000 + 3) % 7;
            assert!([6, 0, 1].contains(&((u64::from(day) + 7 - utc) % 7)), "{day} against {utc}");
        }
    }
}
