//! When a helper that failed is started again, and when not any more. Pure.

use std::time::{Duration, Instant};

use super::Driver;
use super::helper::Failure;
use super::wire::Code;

/// First wait after a failure; each further one waits twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// A helper that lasted so long failed for another reason than the one before it.
const LASTED: Duration = Duration::from_secs(300);

/// What is remembered of helpers that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    wait: Option<Duration>,
    until: Option<Instant>,
    started: Option<Instant>,
}

impl Backoff {
    /// Whether one may be started now.
    pub(super) fn may_start(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// One is up.
    pub(super) const fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// One failed, or could not be brought up. What a reboot alone mends is tried again at the longest wait only, so that
    /// an operator who did mend it otherwise need not restart the agent.
    pub(super) fn failed(&mut self, hopeless: bool, now: Instant) {
        let lasted = self.started.take().is_some_and(|started| now.saturating_duration_since(started) >= LASTED);
        let wait = match self.wait.filter(|_| !lasted) {
            _ if hopeless => LONGEST,
            None => FIRST,
            Some(before) => (before * 2).min(LONGEST),
        };
        (self.wait, self.until) = (Some(wait), Some(now + wait));
    }
}

/// How it stands with the driver after this failure.
pub(super) const fn driver(failure: &Failure) -> Driver {
    match failure {
        Failure::Nvml(Code::LIB_RM_VERSION_MISMATCH) => Driver::Mismatch,
        Failure::Nvml(Code(code)) => Driver::Down(*code),
        Failure::Start { .. } | Failure::Protocol(_) | Failure::Gone(_) | Failure::Silent(_) | Failure::Confused => {
            Driver::Down(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_over_after_one_that_lasted() {
        let start = crate::clock::now();
        let mut backoff = Backoff::default();
        assert!(backoff.may_start(start));
        let mut now = start;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            backoff.failed(false, now);
            let due = now + Duration::from_secs(wait);
            assert!(!backoff.may_start(due - Duration::from_millis(1)) && backoff.may_start(due), "{wait} s");
            now = due;
            backoff.started(now);
        }
        now += LASTED;
        backoff.failed(false, now);
        assert!(backoff.may_start(now + FIRST));
        backoff.failed(true, now);
        assert!(!backoff.may_start(now + LONGEST - FIRST) && backoff.may_start(now + LONGEST));
    }

    #[test]
    fn every_failure_has_its_state() {
        assert_eq!(driver(&Failure::Nvml(Code(18))), Driver::Mismatch);
        assert_eq!(driver(&Failure::Nvml(Code(9))), Driver::Down(9));
        assert_eq!(driver(&Failure::Protocol(2)), Driver::Down(0));
    }
}
