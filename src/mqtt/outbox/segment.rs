//! A segment: one file of framed records, and what is known of it without their bodies.
//!
//! ```text
//! body:   0       1..5       5..13      13..21            21..23       23..
//!        form   boot u32   seq u64   ms since 1970 u64   n u16   n bytes of extra, then the message
//! ```
//!
//! All numbers are little-endian. The lane is the directory's.

use crate::framed;
use crate::wire::MAX_MESSAGE;

/// Bytes that a file takes on the disk at least.
const BLOCK: u64 = 4096;
/// First byte of each body.
const FORM: u8 = 0xb1;
const HEAD: usize = 1 + 4 + 8 + 8 + 2;
/// Longest `extra`.
const EXTRA: usize = u16::MAX as usize;

/// A record as it is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) boot: u32,
    pub(super) seq: u64,
    /// When it was made, by the rig's clock.
    pub(super) unix_ms: u64,
    pub(super) extra: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// A framed record.
pub(super) fn write(boot: u32, seq: u64, unix_ms: u64, extra: &[u8], payload: &[u8]) -> Vec<u8> {
    let extra = extra.get(..EXTRA).unwrap_or(extra);
    let length = u16::try_from(extra.len()).unwrap_or(u16::MAX);
    let mut body = Vec::with_capacity(HEAD + extra.len() + payload.len());
    body.push(FORM);
    body.extend(boot.to_le_bytes());
    body.extend(seq.to_le_bytes());
    body.extend(unix_ms.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    body.extend(payload);
    framed::frame(&body)
}

/// The numbers of a body, and what comes after them.
fn head(body: &[u8]) -> Option<(u32, u64, u64, &[u8])> {
    let (form, rest) = body.split_first()?;
    let (boot, rest) = rest.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (unix_ms, rest) = rest.split_first_chunk()?;
    let numbers = (u32::from_le_bytes(*boot), u64::from_le_bytes(*seq), u64::from_le_bytes(*unix_ms));
    (*form == FORM).then_some((numbers.0, numbers.1, numbers.2, rest))
}

impl Stored {
    /// A record from its body.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let (boot, seq, unix_ms, rest) = head(body)?;
        let (length, rest) = rest.split_first_chunk()?;
        let (extra, payload) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        Some(Self { boot, seq, unix_ms, extra: extra.to_vec(), payload: payload.to_vec() })
    }
}

/// The first whole record at or after `at`: where it begins, where it ends, and its body. What is damaged is passed over:
/// a record is where the length is possible, the body begins as ours do, and the checksum is right.
pub(super) fn find(bytes: &[u8], at: usize) -> Option<(usize, usize, &[u8])> {
    let largest = HEAD + EXTRA + MAX_MESSAGE;
    let possible = |rest: &[u8]| {
        let length = rest.first_chunk().map(|length| u32::from_le_bytes(*length));
        let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        (HEAD..=largest).contains(&length) && rest.get(framed::OVERHEAD) == Some(&FORM)
    };
    (at..bytes.len()).find_map(|begin| {
        let rest = bytes.get(begin..)?;
        let (body, after) = possible(rest).then(|| framed::next(rest))??;
        Some((begin, bytes.len() - after.len(), body))
    })
}

/// Numbers of one boot in steps of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) boot: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    step: u64,
}

impl Run {
    /// The highest of its numbers below this one.
    pub(super) const fn below(self, seq: u64) -> Option<u64> {
        if seq <= self.first {
            return None;
        }
        let below = if seq > self.last { self.last } else { seq - 1 };
        Some(below - (below - self.first) % self.step)
    }

    /// How many of its numbers are above this one.
    pub(super) const fn above(self, upto: u64) -> u64 {
        if upto >= self.last {
            return 0;
        }
        let first = if upto < self.first { self.first } else { upto + self.step - (upto - self.first) % self.step };
        (self.last - first) / self.step + 1
    }
}

/// What is known of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its name; a higher one is newer.
    pub(super) number: u64,
    /// Bytes of its file.
    pub(super) bytes: u64,
    /// What is in it, in order.
    pub(super) runs: Vec<Run>,
    /// When its newest record was made.
    pub(super) newest_ms: u64,
    /// One in ten is left.
    pub(super) thinned: bool,
    /// Only the last of each boot is left.
    pub(super) remnant: bool,
}

impl Segment {
    /// What a file's bytes hold, and whether all of it is whole.
    pub(super) fn scan(number: u64, bytes: &[u8]) -> (Self, bool) {
        let mut segment = Self { number, bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX), ..Self::default() };
        let (mut at, mut whole) = (0, true);
        while let Some((begin, end, body)) = find(bytes, at) {
            whole &= begin == at;
            at = end;
            if let Some((boot, seq, unix_ms, _)) = head(body) {
                segment.note(boot, seq, unix_ms);
            }
        }
        (segment, whole && at == bytes.len())
    }

    /// A file that could not be read yet, and may have so many bytes: it counts as one message that waits, of no start of an agent.
    pub(super) fn unseen(number: u64, most: usize) -> Self {
        let mut segment = Self { number, bytes: u64::try_from(most).unwrap_or(u64::MAX), ..Self::default() };
        segment.note(0, 1, 0);
        segment
    }

    /// Takes in the record that comes next.
    pub(super) fn note(&mut self, boot: u32, seq: u64, unix_ms: u64) {
        self.newest_ms = self.newest_ms.max(unix_ms);
        if let Some(run) = self.runs.last_mut().filter(|run| run.boot == boot && seq > run.last) {
            let step = seq - run.last;
            if run.first == run.last || run.step == step {
                (run.step, run.last) = (step, seq);
                return;
            }
        }
        self.runs.push(Run { boot, first: seq, last: seq, step: 1 });
    }

    /// What it takes of the budget.
    pub(super) fn cost(&self) -> u64 {
        self.bytes.max(BLOCK)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Records 1 to `count` of a boot, and where each ends.
    pub(in super::super) fn bytes(boot: u32, count: u64) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for seq in 1..=count {
            bytes.extend(write(boot, seq, 1_000 + seq, b"to", &[7; 9]));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn numbers(segment: &Segment) -> Vec<u64> {
        let each = |run: &Run| (run.first..=run.last).step_by(usize::try_from(run.step).unwrap()).collect::<Vec<_>>();
        segment.runs.iter().flat_map(each).collect()
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = write(5, u64::MAX, 77, b"extra", b"payload");
        let (begin, end, body) = find(&record, 0).unwrap();
        assert_eq!((begin, end), (0, record.len()));
        let stored = Stored::read(body).unwrap();
        let (extra, payload) = (b"extra".to_vec(), b"payload".to_vec());
        assert_eq!(stored, Stored { boot: 5, seq: u64::MAX, unix_ms: 77, extra, payload });
    }

    #[test]
    fn cut_anywhere_it_holds_what_was_whole() {
        let (bytes, ends) = bytes(3, 6);
        for cut in 0..=bytes.len() {
            let (segment, whole) = Segment::scan(1, &bytes[..cut]);
            let left = u64::try_from(ends.iter().filter(|end| **end <= cut).count()).unwrap();
            assert_eq!(numbers(&segment), (1..=left).collect::<Vec<_>>(), "cut at {cut}");
            assert_eq!(whole, cut == 0 || ends.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn damaged_anywhere_it_loses_that_record_and_no_other() {
        let (bytes, ends) = bytes(3, 6);
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let hit = u64::try_from(ends.iter().filter(|end| **end <= at).count()).unwrap() + 1;
                let (segment, whole) = Segment::scan(1, &damaged);
                let expected: Vec<u64> = (1..=6).filter(|seq| *seq != hit).collect();
                assert_eq!((numbers(&segment), whole), (expected, false), "byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn runs_know_each_number(steps in prop::collection::vec(prop_oneof![Just(1u64), Just(10), 1..4u64], 1..60)) {
            let mut segment = Segment::default();
            let mut all = BTreeSet::new();
            let mut seq = 0;
            for step in steps {
                seq += step;
                all.insert(seq);
                segment.note(1, seq, 0);
            }
            prop_assert_eq!(numbers(&segment), all.iter().copied().collect::<Vec<_>>());
            for at in 0..seq + 3 {
                let below = segment.runs.iter().filter_map(|run| run.below(at)).max();
                prop_assert_eq!(below, all.range(..at).next_back().copied());
                let above: u64 = segment.runs.iter().map(|run| run.above(at)).sum();
                prop_assert_eq!(usize::try_from(above).unwrap(), all.range(at + 1..).count());
            }
        }

        #[test]
        fn any_bytes_are_scanned_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (segment, _) = Segment::scan(1, &bytes);
            prop_assert!(segment.runs.is_empty());
        }
    }
}
