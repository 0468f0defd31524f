//! A helper that was lost in the middle of several calls: nobody knows over which.

use std::time::Instant;

use crate::gpu::card::FORGIVEN;

/// The last such loss.
#[derive(Debug, Default)]
pub(super) struct Unblamed {
    when: Option<Instant>,
    /// It has been counted against nobody.
    open: bool,
}

impl Unblamed {
    /// One is lost now.
    pub(super) const fn lost(&mut self, now: Instant) {
        *self = Self { when: Some(now), open: true };
    }

    /// It is not forgotten yet: calls go one after the other, so that the one that does it again is known.
    pub(super) fn lately(&self, now: Instant) -> bool {
        self.when.is_some_and(|lost| now.saturating_duration_since(lost) < FORGIVEN)
    }

    /// A helper is lost over a GPU that is known: whether the loss before counts against it too. It was one GPU's doing, so it
    /// counts against the first one alone; another that answers late once, as a card does that recovers, is not left alone.
    pub(super) fn blame(&mut self, now: Instant) -> bool {
        std::mem::take(&mut self.open) && self.lately(now)
    }
}
