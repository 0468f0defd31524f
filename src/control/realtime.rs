//! The control thread's place in time: absolute-time sleep that a stop can end, SCHED_FIFO and locked memory where allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use log::{debug, info};
use rustix::mm::MlockAllFlags;
use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};

/// Real-time priority, 1 to 99: above everything of the rig's payloads, below the kernel's own threads at 50 and up.
const PRIORITY: i32 = 45;

/// Asks the control thread to end; clones ask the same thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU32>);

const STOPPED: u32 = 1;

impl Stop {
    /// Ends the control thread's sleep, and the thread with it.
    pub fn stop(&self) {
        self.0.store(STOPPED, Ordering::Release);
        if let Err(error) = futex::wake(&self.0, futex::Flags::PRIVATE, 1) {
            debug!("could not wake the control thread, it will see the stop at its next tick: {error}");
        }
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.0.load(Ordering::Acquire) == STOPPED
    }

    /// Sleeps until `deadline` of CLOCK_MONOTONIC, or until stopped. FUTEX_WAIT_BITSET takes its time-out as an absolute
    /// time (futex(2)), so a late wake-up never adds up.
    pub(super) fn sleep_until(&self, deadline: Moment) {
        while !self.stopped() {
            let mask = std::num::NonZeroU32::MAX;
            match futex::wait_bitset(&self.0, futex::Flags::PRIVATE, 0, Some(&deadline.0), mask) {
                Err(rustix::io::Errno::INTR) | Ok(()) => {}
                // TIMEDOUT is the deadline, AGAIN a stop that came in between.
                Err(_) => return,
            }
        }
    }
}

/// A point of CLOCK_MONOTONIC, which is also what `Instant` counts; this one can be handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(rustix::time::Timespec);

const NANOS: i64 = 1_000_000_000;

impl Moment {
    pub(super) fn now() -> Self {
        Self(clock_gettime(ClockId::Monotonic))
    }

    pub(super) fn after(self, duration: Duration) -> Self {
        let nanos = self.0.tv_nsec + i64::from(duration.subsec_nanos());
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let carry = nanos.div_euclid(NANOS);
        Self(rustix::time::Timespec {
            tv_sec: self.0.tv_sec.saturating_add(seconds).saturating_add(carry),
            tv_nsec: nanos.rem_euclid(NANOS),
        })
    }

    /// How far past this moment it is.
    pub(super) fn elapsed(self) -> Duration {
        let now = Self::now();
        let nanos = (now.0.tv_sec - self.0.tv_sec).saturating_mul(NANOS).saturating_add(now.0.tv_nsec - self.0.tv_nsec);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// Asks for SCHED_FIFO and for memory that is never paged out. Both need a privilege; without it the agent works, only
/// later on a loaded machine (measured: 16 ms instead of 0.1 ms at the 99th percentile).
pub(super) fn claim_realtime() {
    // ONFAULT: only what is used is locked, not the whole of every stack.
    let lock = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    if let Err(error) = lock {
        info!("memory is not locked ({error}); the control loop may wait for a page");
    }
    let parameter = sched_param();
    // SAFETY: pthread_self is this thread, and the parameter lives across the call. musl has no sched_setscheduler for a
    // thread, so rustix and nix have no safe call for it either.
    let result = unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_FIFO, &raw const parameter) };
    if result != 0 {
        let error = std::io::Error::from_raw_os_error(result);
        info!("no real-time scheduling ({error}); the control loop may be late on a loaded machine");
    }
}

/// musl's `sched_param` has reserved fields, glibc's has none.
fn sched_param() -> libc::sched_param {
    // SAFETY: `sched_param` consists of integers, for which all zeros is a value.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = PRIORITY;
    parameter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_carries_its_nanoseconds() {
        let moment = Moment(rustix::time::Timespec { tv_sec: 7, tv_nsec: 999_999_999 });
        let later = moment.after(Duration::new(1, 2));
        assert_eq!((later.0.tv_sec, later.0.tv_nsec), (9, 1));
    }

    #[test]
    fn a_stop_ends_a_sleep_that_would_last_a_day() {
        let stop = Stop::default();
        let sleeper = stop.clone();
        let thread = std::thread::spawn(move || sleeper.sleep_until(Moment::now().after(Duration::from_secs(86_400))));
        stop.stop();
        assert!(thread.join().is_ok());
    }

    #[test]
    fn a_deadline_in_the_past_does_not_sleep() {
        let past = Moment(rustix::time::Timespec { tv_sec: 0, tv_nsec: 1 });
        Stop::default().sleep_until(past);
        assert!(past.elapsed() > Duration::ZERO);
    }
}
