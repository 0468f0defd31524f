//! Whether a meter can be believed: that of a cap, which is all supplies together, and that of each guard.
//!
//! It is not believed when it shows less than its GPUs draw (a supply makes no energy), far more than all parts together, nothing, or
//! when a supply shows the same to the last bit while the GPUs' draw has moved and the sum has not: each for [`DOUBT`], in which
//! nothing is learnt from it. It is believed again after [`TRUST`] without any of these. A meter that shows too little by no more
//! than what its supply loses and what else hangs on it, some 15 % of it, cannot be told from a good one. Of a rail, which knows
//! neither, only that it shows nothing, the same, or less than its cards can have from it is seen.

use std::time::{Duration, Instant};

use crate::reading::{Reading, sum};
use crate::units::Milliwatts;

/// A meter that cannot be true for so long is not believed: longer than a PMBus supply and a GPU can be apart.
pub(super) const DOUBT: Duration = Duration::from_millis(700);
/// And it must be good for so long before it is believed again.
const TRUST: Duration = Duration::from_secs(5);
/// The draw has moved: by this part of what is shown, and for one of several meters so much on top. Less is noise of as many cards.
const MOVED: (i64, i64) = (60, 3_000);
/// Of several, one of so many parts of what is a supply's where all share was seen by no meter. Less is what an efficiency changes.
const UNSEEN: u64 = 2;
/// One of several supplies that shows less than this part of all of them rests in standby, and may show the same for an hour. What it
/// hides is a tenth at most.
const MATTERS: i64 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judge {
    pub(super) believed: bool,
    /// What it shows now, where that is good.
    pub(super) good: Option<i64>,
    /// Since when it is good, or bad, as opposed to `believed`.
    turning: Option<Instant>,
    /// One for each supply.
    same: Vec<Option<Same>>,
}

/// A reading for as long as it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Same {
    meter: Milliwatts,
    /// Since when.
    since: Instant,
    /// The GPUs' draw when it came.
    drawn: i64,
    /// What else was drawn, as it was known then.
    rest: i64,
    /// How far all meters were from both.
    off: u64,
    /// Since when they have been further from it than then, by a draw that has moved.
    unseen: Option<Instant>,
}

/// What a meter is held against.
pub(super) struct Parts {
    /// What its GPUs draw, as far as they tell it.
    pub(super) drawn: i64,
    /// Thousandths that it shows for one at a GPU.
    pub(super) loss: i64,
    /// What else it shows, as it was learnt.
    pub(super) rest: Option<i64>,
    /// The least and the most that it can show.
    pub(super) bounds: (i64, i64),
}

impl Judge {
    pub(super) const fn new() -> Self {
        Self { believed: true, good: None, turning: None, same: Vec::new() }
    }

    /// Looks at what they show; whether it is believed from now on, and what was learnt before is from another time.
    pub(super) fn look(&mut self, meters: &[Reading<Milliwatts>], parts: &Parts, now: Instant) -> bool {
        self.good = self.plausible(meters, parts, now);
        let good = self.good.is_some();
        if good == self.believed {
            self.turning = None;
            return false;
        }
        let began = *self.turning.get_or_insert(now);
        let turns = now.saturating_duration_since(began) >= if self.believed { DOUBT } else { TRUST };
        if turns {
            (self.believed, self.turning) = (good, None);
        }
        turns && good
    }

    fn plausible(&mut self, meters: &[Reading<Milliwatts>], parts: &Parts, now: Instant) -> Option<i64> {
        self.same.resize(meters.len(), None);
        let value = i64::from(sum(meters.iter().copied()).ok()?.0);
        let rest = value - parts.drawn.saturating_mul(parts.loss) / 1000;
        let known = parts.rest.unwrap_or(rest);
        let alone = meters.len() == 1;
        let share = u64::try_from(meters.len()).unwrap_or(u64::MAX).saturating_mul(UNSEEN).max(1);
        let mut frozen = false;
        for (memory, meter) in self.same.iter_mut().zip(meters.iter().flatten()) {
            let off = rest.abs_diff(known);
            let fresh = Same { meter: *meter, since: now, drawn: parts.drawn, rest: known, off, unseen: None };
            let same = memory.insert(memory.filter(|same| same.meter == *meter).unwrap_or(fresh));
            let moved = parts.drawn.abs_diff(same.drawn);
            // What the cards tell is a mean and comes to where the meter is already: that is no draw that the meter does not see.
            let unseen = if alone {
                let away = parts.rest.is_none() || off.max(rest.abs_diff(same.rest)) > same.off;
                away && moved > (value / MOVED.0).unsigned_abs()
            } else {
                let far = moved > (value / MOVED.0 + MOVED.1).unsigned_abs();
                let matters = i64::from(meter.0) * MATTERS > value;
                matters && far && rest.abs_diff(same.rest) > same.off + moved / share
            };
            let passed = |since| now.saturating_duration_since(since) >= DOUBT;
            if unseen {
                // One that has stood for long already has had its time.
                same.unseen.get_or_insert(if alone { same.since } else { now });
            } else if !alone && !same.unseen.is_some_and(passed) {
                // Of several one may stand by chance while the draw of another's cards is on its way to that one's meter.
                same.unseen = None;
            }
            // Once that has been long enough it stays frozen, also when the draw comes back, until it shows something else.
            frozen |= same.unseen.is_some_and(passed);
        }
        (!frozen && (parts.bounds.0..=parts.bounds.1).contains(&value)).then_some(value)
    }
}
