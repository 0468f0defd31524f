//! Which numbers of one lane of one boot do not have to be sent any more.
//!
//! ```text
//!  1 ……… upto │ waiting │ beyond: delivered ahead of what waits │ waiting │ lost: given up, though a file may still have it
//! ```

use super::segment::Run;

/// Stretches that are remembered beyond the contiguous part; what is forgotten at the bound is sent twice, not lost.
const STRETCHES: usize = 64;

/// What is done with, of one lane of one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    /// Every number up to here is delivered, or was declared as a gap.
    upto: u64,
    /// Of those, every number up to here is the control plane's by its own word; the others were delivered to a broker alone, or to
    /// a control plane before this one.
    confirmed: u64,
    /// `(after, last]`: each delivered with the gap up to `after` declared.
    beyond: Vec<(u64, u64)>,
    /// `first..=last`: refused for good, and to be declared by whatever comes next.
    lost: Vec<(u64, u64)>,
}

impl Freed {
    pub(super) const fn upto(&self) -> u64 {
        self.upto
    }

    /// The control plane's own word: it has everything up to here, and of what follows it has heard nothing.
    pub(super) fn confirm(&mut self, upto: u64) {
        self.confirmed = upto;
    }

    /// As far as the control plane has heard of it by its own word.
    pub(super) fn confirmed(&self) -> u64 {
        self.upto.min(self.confirmed)
    }

    /// `seq` is delivered, and with it the word that nothing exists between `after` and it.
    pub(super) fn settle(&mut self, after: u64, seq: u64) {
        if after <= self.upto {
            self.pass(seq);
        } else if let Some(stretch) = self.beyond.iter_mut().find(|(from, last)| *from <= after && after <= *last) {
            stretch.1 = stretch.1.max(seq);
        } else {
            let place = self.beyond.partition_point(|other| *other <= (after, seq));
            self.beyond.insert(place, (after, seq));
            if self.beyond.len() > STRETCHES {
                self.beyond.remove(0);
            }
        }
    }

    /// Every number up to this one is done with; whether that is news.
    pub(super) fn pass(&mut self, upto: u64) -> bool {
        let news = upto > self.upto;
        self.upto = self.upto.max(upto);
        while let Some(index) = self.beyond.iter().position(|(after, _)| *after <= self.upto) {
            let (_, last) = self.beyond.remove(index);
            self.upto = self.upto.max(last);
        }
        self.lost.retain(|(_, last)| *last > self.upto);
        news
    }

    /// `seq` will never be delivered.
    pub(super) fn lose(&mut self, seq: u64) {
        if let Some(stretch) = self.lost.iter_mut().find(|(first, last)| *first <= seq && seq <= last.saturating_add(1))
        {
            stretch.1 = stretch.1.max(seq);
        } else if self.lost.len() < STRETCHES {
            self.lost.push((seq, seq));
        }
    }

    /// Nothing has to be done about it any more.
    pub(super) fn contains(&self, seq: u64) -> bool {
        seq <= self.upto
            || self.beyond.iter().any(|(after, last)| *after < seq && seq <= *last)
            || self.lost_from(seq).is_some()
    }

    /// Nothing of this run has to be sent any more.
    pub(super) fn done(&self, run: Run) -> bool {
        let lost =
            || self.lost_from(run.last).is_some_and(|first| run.below(first).is_none_or(|below| below <= self.upto));
        run.last <= self.upto || lost()
    }

    /// How many of this run's numbers have to be sent.
    pub(super) fn left(&self, run: Run) -> u64 {
        if self.done(run) { 0 } else { run.above(self.upto) }
    }

    /// The first number of the lost stretch that this one is in.
    pub(super) fn lost_from(&self, seq: u64) -> Option<u64> {
        self.lost.iter().find(|(first, last)| *first <= seq && seq <= *last).map(|(first, _)| *first)
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Segment;
    use super::*;

    #[test]
    fn delivered_in_any_order_it_comes_to_the_same() {
        let orders: [&[(u64, u64)]; 4] = [
            &[(0, 1), (1, 2), (2, 5), (5, 6)],
            &[(5, 6), (2, 5), (1, 2), (0, 1)],
            &[(1, 2), (5, 6), (0, 1), (2, 5)],
            &[(2, 5), (5, 6), (1, 2), (0, 1)],
        ];
        for order in orders {
            let mut freed = Freed::default();
            for (after, seq) in order {
                freed.settle(*after, *seq);
                assert!(freed.contains(*seq));
            }
            assert_eq!(freed, Freed { upto: 6, ..Freed::default() }, "{order:?}");
        }
    }

    #[test]
    fn what_was_delivered_ahead_leaves_the_rest_to_be_sent() {
        let mut freed = Freed::default();
        freed.settle(7, 8);
        freed.settle(8, 9);
        assert_eq!((freed.upto(), freed.beyond.len()), (0, 1), "one stretch, however long");
        assert!(!freed.contains(7) && freed.contains(8) && freed.contains(9) && !freed.contains(10));
        assert!(freed.pass(7));
        assert_eq!(freed.upto(), 9);
        assert!(!freed.pass(3), "no way back");
    }

    #[test]
    fn what_is_lost_does_not_count_as_delivered() {
        let mut freed = Freed::default();
        for seq in 3..=5 {
            freed.lose(seq);
        }
        freed.settle(0, 1);
        freed.settle(1, 2);
        assert_eq!((freed.upto(), freed.lost_from(5), freed.lost_from(6)), (2, Some(3), None));
        assert!(freed.contains(4));
        let mut segment = Segment::default();
        (1..=5).for_each(|seq| segment.note(1, seq, 0));
        assert_eq!((freed.done(segment.runs[0]), freed.left(segment.runs[0])), (true, 0), "3 to 5 are lost");
        segment.note(1, 6, 0);
        assert_eq!((freed.done(segment.runs[0]), freed.left(segment.runs[0])), (false, 4));
        // The next one declares the gap.
        freed.settle(2, 6);
        assert_eq!(freed, Freed { upto: 6, ..Freed::default() });
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let mut freed = Freed::default();
        for i in 1..1000 {
            freed.settle(i * 10, i * 10 + 1);
            freed.lose(i * 10 + 5);
        }
        assert!(freed.beyond.len() <= STRETCHES && freed.lost.len() <= STRETCHES);
    }
}
