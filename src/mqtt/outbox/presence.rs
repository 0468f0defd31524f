//! Whether a control plane has to confirm what the broker takes: heard now, known from before, or forgotten.
//!
//! ```text
//!                heard, or known at this broker from an earlier start
//!  not known yet ───────────────────────────────────────────────────> watermark ──┐ no sign of it for `max_age_h`,
//!        │ 30 s without a word on a first start,                          ▲        │ or its retained word is cleared
//!        │ 2 s where an earlier start found nobody                        │ heard  │
//!        └───────────────────────────────────────────> PUBACK ────────────┴────────┘
//! ```
//!
//! A control plane that was heard once is kept on the disk with the broker that it was heard at, so that the next start waits for
//! it and not for luck. On a first start events and answers wait for [`FIRST`] to learn whether there is one, which is a
//! collector's longest pause between two attempts to connect; telemetry waits for [`HEARING`], and the backlog goes out from then on.
//!
//! A sign of it is what it says live: that it comes or goes, or a watermark. What is retained is only a sign where there was none
//! before. One that was tried once and never came back is forgotten after `max_age_h`, for what waits for it is dropped after that
//! anyway.

use std::time::{Duration, Instant};

use super::Lane;
use super::config::Delivery;

/// So long after the connection a control plane would have been heard that had spoken before: its word is retained.
const HEARING: Duration = Duration::from_secs(2);
/// So long on the first start at a broker: one that cannot connect tries again after 30 s at most.
const FIRST: Duration = Duration::from_secs(30);
/// A connection must have lasted so long before its silence says anything about a control plane that was known.
const GRACE: Duration = Duration::from_secs(60);
/// The rig's clock was never set before 2024: it says nothing about how long ago anything was.
const SET_MS: u64 = 1_704_067_200_000;

/// When a message is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Watermark,
    Puback,
    /// It is not known yet whether there is a control plane.
    Open,
}

/// What is known of a control plane.
#[derive(Debug)]
pub(super) struct Presence {
    delivery: Delivery,
    max_age: Duration,
    /// A number of the broker.
    broker: u32,
    /// Whether it is there by its last word in this start, and since when.
    word: Option<(bool, Instant)>,
    /// When it was last heard of at this broker, ms since 1970; 0 where somebody listened and nobody was there.
    known_ms: Option<u64>,
    /// Its last live sign in this start.
    sign: Option<Instant>,
    /// There was a sign that is not in `known_ms` yet.
    unstamped: bool,
    /// When it was first looked at.
    began: Option<Instant>,
    /// A connection lasted long enough for what is retained.
    quiet: bool,
    /// There is none.
    nobody: bool,
    /// There was one, too long ago.
    forgotten: bool,
}

impl Presence {
    pub(super) const fn new(delivery: Delivery, max_age: Duration, broker: u32) -> Self {
        Self {
            delivery,
            max_age,
            broker,
            word: None,
            known_ms: None,
            sign: None,
            unstamped: false,
            began: None,
            quiet: false,
            nobody: false,
            forgotten: false,
        }
    }

    /// What frees a message of this lane.
    pub(super) fn rule(&self, lane: Lane) -> Rule {
        match self.delivery {
            Delivery::Watermark => Rule::Watermark,
            Delivery::Puback => Rule::Puback,
            Delivery::Auto if self.waits() => Rule::Watermark,
            Delivery::Auto if self.nobody || (self.quiet && lane == Lane::Telemetry) => Rule::Puback,
            Delivery::Auto => Rule::Open,
        }
    }

    fn known(&self) -> bool {
        self.known_ms.is_some_and(|at| at > 0)
    }

    /// One has to confirm, there or not.
    fn waits(&self) -> bool {
        !self.forgotten && (self.word.is_some() || self.known())
    }

    /// Since when the backlog may flow over a connection that stands since `up`: it is held while the control plane that has to
    /// confirm it is away.
    pub(super) fn flows(&self, up: Option<Instant>) -> Option<Instant> {
        match (self.rule(Lane::Event), self.word) {
            (Rule::Puback, _) => up,
            (Rule::Watermark, Some((true, since))) => up.map(|up| up.max(since)),
            (Rule::Open, _) => up.filter(|_| self.quiet),
            (Rule::Watermark, _) => None,
        }
    }

    /// It said whether it is there; whether that is news.
    pub(super) fn said(&mut self, online: bool, now: Instant) -> bool {
        self.unstamped |= self.delivery == Delivery::Auto && !self.known();
        let news = self.word.is_none_or(|(was, _)| was != online);
        if news {
            self.word = Some((online, now));
        }
        news
    }

    /// It lives: what it said just now was said to us and not kept by the broker.
    pub(super) fn lives(&mut self, now: Instant) {
        // A watermark of one that never said that it is there obliges nobody to wait for more of them.
        if self.delivery == Delivery::Auto && (self.word.is_some() || self.known()) {
            (self.sign, self.unstamped, self.forgotten) = (Some(now), true, false);
        }
    }

    /// Its retained word was cleared: there is none any more.
    pub(super) fn cleared(&mut self) {
        (self.word, self.known_ms, self.sign, self.unstamped) = (None, Some(0), None, false);
        (self.quiet, self.nobody, self.forgotten) = (true, true, false);
    }

    /// What an earlier start left on the disk.
    pub(super) fn found(&mut self, known: Option<(u32, u64)>) {
        if let Some((_, at)) = known.filter(|(broker, _)| *broker == self.broker) {
            self.known_ms = Some(self.known_ms.unwrap_or(0).max(at));
        }
    }

    /// What the next start has to know.
    pub(super) fn to_keep(&self) -> Option<(u32, u64)> {
        self.known_ms.map(|at| (self.broker, at))
    }

    /// What time alone decides, over a connection that stands since `up`.
    pub(super) fn look(&mut self, now: Instant, unix_ms: u64, up: Option<Instant>) {
        let began = *self.began.get_or_insert(now);
        let age = |at: u64| Duration::from_millis(unix_ms.saturating_sub(at));
        // Often enough to tell ages apart, and seldom enough to spare the disk.
        if std::mem::take(&mut self.unstamped) && self.known_ms.is_none_or(|at| at == 0 || age(at) > self.max_age / 8) {
            self.known_ms = Some(unix_ms.max(1));
        }
        let Some(up) = up else { return };
        if self.waits() && now >= up + GRACE {
            // By the clock only what was before this start: what was said in it is timed by what no clock's jump changes.
            let before = self.known_ms.filter(|at| *at >= SET_MS && unix_ms >= SET_MS).map_or(Duration::ZERO, age);
            let here = now.saturating_duration_since(self.sign.unwrap_or(began));
            if here > self.max_age || (self.sign.is_none() && before > self.max_age) {
                (self.quiet, self.nobody, self.forgotten) = (true, true, true);
            }
        }
        if self.rule(Lane::Event) == Rule::Open {
            self.quiet |= now >= up + HEARING;
            let patience = if self.known_ms == Some(0) { HEARING } else { FIRST };
            if now >= up + patience {
                (self.nobody, self.known_ms) = (true, Some(0));
            }
        }
    }

    /// When time alone decides something next.
    pub(super) fn wake(&self, up: Option<Instant>) -> Option<Instant> {
        let patience = if self.quiet { FIRST } else { HEARING };
        up.filter(|_| self.rule(Lane::Event) == Rule::Open).map(|up| up + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW_MS: u64 = SET_MS + 1_000_000_000;
    const BROKER: u32 = 7;

    fn presence(known: Option<(u32, u64)>) -> (Presence, Instant) {
        let mut presence = Presence::new(Delivery::Auto, 3 * DAY, BROKER);
        let now = clock::now() + DAY;
        presence.found(known);
        presence.look(now, NOW_MS, None);
        (presence, now)
    }

    fn days(days: u64) -> u64 {
        days * 86_400_000
    }

    /// What the rules are after so long a silence.
    #[test]
    fn a_first_start_waits_longer_than_one_that_found_nobody_and_one_that_knows_waits_for_it() {
        use Rule::{Open, Puback, Watermark};
        let known = |ms| Some((BROKER, ms));
        for (name, known, seconds, events, telemetry) in [
            ("first", None, 1, Open, Open),
            ("first", None, 2, Open, Puback),
            ("first", None, 29, Open, Puback),
            ("first", None, 30, Puback, Puback),
            ("nobody before", known(0), 1, Open, Open),
            ("nobody before", known(0), 2, Puback, Puback),
            ("another broker's", Some((8, NOW_MS)), 29, Open, Puback),
            ("known", known(NOW_MS - days(2)), 3_600, Watermark, Watermark),
            ("known long ago, the connection is young", known(NOW_MS - days(4)), 59, Watermark, Watermark),
            ("known long ago", known(NOW_MS - days(4)), 60, Puback, Puback),
            ("known by a clock that was not set", known(1_000), 3_600, Watermark, Watermark),
            ("and never came", known(1_000), 4 * 86_400, Puback, Puback),
        ] {
            let (mut presence, up) = presence(known);
            for second in (0..=seconds).step_by(if seconds > 100 { 60 } else { 1 }) {
                let now_ms = NOW_MS + second * 1_000;
                presence.look(up + Duration::from_secs(second), now_ms, Some(up));
            }
            let rules = (presence.rule(Lane::Event), presence.rule(Lane::Telemetry));
            assert_eq!(rules, (events, telemetry), "{name} {seconds}");
            assert_eq!(presence.rule(Lane::Ack), events, "{name}: answers wait as events do");
        }
    }

    #[test]
    fn what_was_heard_is_kept_and_what_was_tried_once_is_forgotten() {
        let (mut presence, up) = presence(None);
        assert!(presence.said(false, up), "its goodbye, retained");
        presence.look(up, NOW_MS, Some(up));
        assert_eq!(presence.to_keep(), Some((BROKER, NOW_MS)));
        assert_eq!((presence.rule(Lane::Event), presence.flows(Some(up))), (Rule::Watermark, None));
        // Each connection brings it again, which is no sign of life.
        let later = up + 3 * DAY + GRACE;
        presence.said(false, later);
        presence.look(later, NOW_MS + days(4), Some(up));
        assert_eq!((presence.rule(Lane::Event), presence.flows(Some(up))), (Rule::Puback, Some(up)));
        presence.said(false, later);
        assert_eq!(presence.rule(Lane::Event), Rule::Puback);
        // It comes after all.
        presence.said(true, later);
        presence.lives(later);
        presence.look(later, NOW_MS + days(4), Some(up));
        assert_eq!((presence.rule(Lane::Event), presence.flows(Some(up))), (Rule::Watermark, Some(later)));
        assert_eq!(presence.to_keep(), Some((BROKER, NOW_MS + days(4))));
    }

    #[test]
    fn a_clock_that_jumps_forgets_nobody_that_was_heard_in_this_start() {
        let (mut presence, up) = presence(None);
        presence.said(true, up);
        presence.lives(up);
        presence.look(up, NOW_MS, Some(up));
        presence.look(up + GRACE, NOW_MS + days(1_000), Some(up));
        assert_eq!(presence.rule(Lane::Event), Rule::Watermark);
    }

    #[test]
    fn a_word_that_is_cleared_is_the_end_of_it_and_a_watermark_alone_is_no_word() {
        let (mut presence, up) = presence(Some((BROKER, NOW_MS)));
        presence.said(true, up);
        presence.cleared();
        assert_eq!((presence.rule(Lane::Event), presence.to_keep()), (Rule::Puback, Some((BROKER, 0))));
        presence.lives(up);
        presence.look(up, NOW_MS, Some(up));
        assert_eq!((presence.rule(Lane::Event), presence.to_keep()), (Rule::Puback, Some((BROKER, 0))));
    }
}
