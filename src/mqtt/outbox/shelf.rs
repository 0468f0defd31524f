//! The segments of one lane, and which of them has to go when there are too many.

use std::collections::VecDeque;

use super::config::OutboxConfig;
use super::segment::Segment;
use super::{Lane, Lanes};

/// A clock that says less was never set: 2024. Ages that it gives mean nothing.
const SET_MS: u64 = 1_704_067_200_000;

/// The segments of one lane.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    /// Oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// No file has this number or a higher one.
    next: u64,
    /// The last one is not appended to any more.
    closed: bool,
}

impl Shelf {
    /// What was found on the disk. One that has damage is not appended to.
    pub(super) fn found(segments: Vec<Segment>, last_is_whole: bool) -> Self {
        let next = segments.last().map_or(1, |last| last.number.saturating_add(1));
        Self { segments: segments.into(), next, closed: !last_is_whole }
    }

    /// Where so many bytes go, with files of this size: the file's number, and where in it they begin.
    pub(super) fn place(&self, bytes: u64, size: u64) -> (u64, u64) {
        match self.segments.back() {
            Some(last) if !self.closed && last.bytes + bytes <= size => (last.number, last.bytes),
            _ => (self.next, 0),
        }
    }

    /// These records, number and time each, are there now; the file is this long.
    pub(super) fn placed(&mut self, number: u64, length: u64, boot: u32, records: &[(u64, u64)]) {
        if self.segments.back().is_none_or(|last| last.number < number) {
            self.segments.push_back(Segment { number, ..Segment::default() });
            self.next = number.saturating_add(1);
            self.closed = false;
        }
        if let Some(segment) = self.segments.back_mut() {
            (segment.bytes, segment.thinned, segment.remnant) = (length, false, false);
            records.iter().for_each(|(seq, unix_ms)| segment.note(boot, *seq, *unix_ms));
        }
    }

    /// Nobody knows what that file holds beyond what was there.
    pub(super) fn spoilt(&mut self, number: u64) {
        self.closed = true;
        self.next = self.next.max(number.saturating_add(1));
    }

    /// Puts what is left of a segment in its place; nothing is left where there is none.
    pub(super) fn replace(&mut self, number: u64, left: Option<Segment>) {
        let Some(index) = self.segments.iter().position(|segment| segment.number == number) else { return };
        match left {
            Some(left) => {
                if let Some(segment) = self.segments.get_mut(index) {
                    *segment = left;
                }
            }
            None => {
                self.closed |= index + 1 == self.segments.len();
                self.segments.remove(index);
            }
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.number == number)
    }

    /// The highest number of this boot below this one.
    pub(super) fn below(&self, boot: u32, seq: u64) -> Option<u64> {
        let runs = self.segments.iter().flat_map(|segment| &segment.runs).filter(|run| run.boot == boot);
        runs.filter_map(|run| run.below(seq)).max()
    }

    /// The last number of this boot; none where nothing of it is there.
    pub(super) fn last_of(&self, boot: u32) -> Option<u64> {
        let runs = self.segments.iter().flat_map(|segment| &segment.runs).filter(|run| run.boot == boot);
        runs.map(|run| run.last).max()
    }

    fn cost(&self) -> u64 {
        self.segments.iter().map(Segment::cost).sum()
    }
}

/// How a segment makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// It goes.
    Delete,
    /// One in ten stays.
    Thin,
    /// The last record of each boot stays, so that what is gone before it can be declared.
    Remnant,
}

/// The segment that has to go next, if any. `done` says that nothing in one has to be sent.
///
/// What is done with goes first, then what is too old. Over the budget the oldest telemetry is thinned, until the thinned
/// half of the budget is full; then the oldest of it is dropped. Acks, receipts and events follow when no telemetry is left.
pub(super) fn reclaim(
    lanes: &Lanes<&Shelf>,
    done: impl Fn(Lane, &Segment) -> bool,
    rules: &OutboxConfig,
    unix_ms: u64,
) -> Option<(Lane, u64, Reclaim)> {
    let max_age = u64::try_from(rules.max_age.as_millis()).unwrap_or(u64::MAX);
    let old = |segment: &Segment| {
        unix_ms >= SET_MS && segment.newest_ms >= SET_MS && unix_ms.saturating_sub(segment.newest_ms) > max_age
    };
    for lane in Lane::ALL {
        let segments = &lanes.get(lane).segments;
        // The last one is appended to, and is small.
        let closed = segments.iter().take(segments.len().saturating_sub(1));
        let goes = closed.clone().find(|segment| done(lane, segment)).or_else(|| segments.iter().find(|one| old(one)));
        if let Some(segment) = goes {
            return Some((lane, segment.number, Reclaim::Delete));
        }
    }
    if Lane::ALL.into_iter().map(|lane| lanes.get(lane).cost()).sum::<u64>() <= rules.disk_bytes {
        return None;
    }
    let telemetry = &lanes.telemetry.segments;
    let thinned: u64 = telemetry.iter().filter(|segment| segment.thinned).map(Segment::cost).sum();
    let full = telemetry.iter().take(telemetry.len().saturating_sub(1)).find(|segment| !segment.thinned);
    let thin = telemetry.iter().find(|segment| segment.thinned && !segment.remnant);
    let choice = match (full, thin) {
        (Some(full), None) => Some((Lane::Telemetry, full, Reclaim::Thin)),
        (Some(full), Some(_)) if thinned <= rules.disk_bytes / 2 => Some((Lane::Telemetry, full, Reclaim::Thin)),
        (_, Some(thin)) => Some((Lane::Telemetry, thin, Reclaim::Remnant)),
        (None, None) => Lane::DROPPED.into_iter().find_map(|lane| {
            let first = lanes.get(lane).segments.iter().find(|segment| !segment.remnant)?;
            Some((lane, first, Reclaim::Remnant))
        }),
    };
    // What declares the rest goes when there is nothing else, which takes a great many starts of the agent.
    let choice = choice.or_else(|| {
        Lane::DROPPED.into_iter().find_map(|lane| Some((lane, lanes.get(lane).segments.front()?, Reclaim::Delete)))
    });
    choice.map(|(lane, segment, how)| (lane, segment.number, how))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::config::Delivery;
    use super::*;

    const MIB: u64 = 1 << 20;
    const NOW: u64 = SET_MS + 1_000_000_000;

    fn rules(disk_bytes: u64) -> OutboxConfig {
        let (max_age, pace) = (Duration::from_secs(3_600), Duration::from_millis(50));
        OutboxConfig { ram_bytes: 1 << 20, disk_bytes, max_age, delivery: Delivery::Auto, pace }
    }

    fn shelf(segments: &[(u64, bool, bool)]) -> Shelf {
        let segment = |(number, (bytes, thinned, remnant)): (u64, &(u64, bool, bool))| {
            let mut segment =
                Segment { number, bytes: *bytes, thinned: *thinned, remnant: *remnant, ..Segment::default() };
            segment.note(1, number, NOW);
            segment
        };
        Shelf::found((1..).zip(segments).map(segment).collect(), true)
    }

    /// Which one goes, with 4 MiB to keep to.
    fn choice(telemetry: &Shelf, ack: &Shelf, event: &Shelf) -> Option<(Lane, u64, Reclaim)> {
        let receipt = &shelf(&[]);
        reclaim(&Lanes { event, ack, telemetry, receipt }, |_, _| false, &rules(4 * MIB), NOW)
    }

    #[test]
    fn over_the_budget_telemetry_is_thinned_then_dropped_and_events_go_last() {
        let (full, thin, rest) = ((MIB, false, false), (MIB, true, false), (MIB, true, true));
        let none = shelf(&[]);
        for (telemetry, event, expected) in [
            (vec![full; 4], vec![], None),
            (vec![full; 5], vec![], Some((Lane::Telemetry, 1, Reclaim::Thin))),
            (vec![thin, full, full, full, full], vec![], Some((Lane::Telemetry, 2, Reclaim::Thin))),
            (vec![thin, thin, thin, full, full], vec![], Some((Lane::Telemetry, 1, Reclaim::Remnant))),
            (vec![rest, thin, thin, full, full], vec![], Some((Lane::Telemetry, 2, Reclaim::Remnant))),
            (vec![thin, full], vec![full; 3], Some((Lane::Telemetry, 1, Reclaim::Remnant))),
            (vec![full], vec![full; 4], Some((Lane::Telemetry, 1, Reclaim::Remnant))),
            (vec![rest], vec![full; 4], Some((Lane::Event, 1, Reclaim::Remnant))),
            (vec![rest], vec![rest; 4], Some((Lane::Telemetry, 1, Reclaim::Delete))),
            (vec![], vec![full; 5], Some((Lane::Event, 1, Reclaim::Remnant))),
            (vec![], vec![rest, full, full, full, full], Some((Lane::Event, 2, Reclaim::Remnant))),
        ] {
            assert_eq!(choice(&shelf(&telemetry), &none, &shelf(&event)), expected, "{telemetry:?} {event:?}");
        }
        let acks = choice(&none, &shelf(&[full; 3]), &shelf(&[full; 3]));
        assert_eq!(acks, Some((Lane::Ack, 1, Reclaim::Remnant)), "acks before events");
        let (receipts, events) = (shelf(&[full; 3]), shelf(&[full; 3]));
        let lanes = Lanes { event: &events, ack: &none, telemetry: &none, receipt: &receipts };
        let receipts = reclaim(&lanes, |_, _| false, &rules(4 * MIB), NOW);
        assert_eq!(receipts, Some((Lane::Receipt, 1, Reclaim::Remnant)), "receipts before events");
    }

    #[test]
    fn what_is_done_with_goes_first_and_the_last_stays_open() {
        let (telemetry, none) = (shelf(&[(MIB, false, false); 9]), shelf(&[]));
        let lanes = Lanes { event: &none, ack: &none, telemetry: &telemetry, receipt: &none };
        let done = |number: u64| move |_: Lane, segment: &Segment| segment.number == number;
        let delete = |number: u64| Some((Lane::Telemetry, number, Reclaim::Delete));
        assert_eq!(reclaim(&lanes, done(7), &rules(4 * MIB), NOW), delete(7));
        assert_eq!(reclaim(&lanes, done(9), &rules(64 * MIB), NOW), None);
    }

    #[test]
    fn what_is_too_old_goes_unless_a_clock_was_never_set() {
        let (none, mut event) = (shelf(&[]), shelf(&[(100, false, false); 2]));
        let age = |event: &Shelf, now: u64| {
            let lanes = Lanes { event, ack: &none, telemetry: &none, receipt: &none };
            reclaim(&lanes, |_, _| false, &rules(64 * MIB), now)
        };
        assert_eq!(age(&event, NOW + 3_600_000), None);
        assert_eq!(age(&event, NOW + 3_600_001), Some((Lane::Event, 1, Reclaim::Delete)));
        assert_eq!(age(&event, 5), None, "it is 1970");
        event.segments.iter_mut().for_each(|segment| segment.newest_ms = 5);
        assert_eq!(age(&event, NOW + 3_600_001), None, "it was 1970");
    }

    #[test]
    fn a_segment_is_appended_to_until_it_is_full_or_spoilt() {
        let mut shelf = Shelf::found(Vec::new(), true);
        assert_eq!(shelf.place(100, MIB), (1, 0));
        shelf.placed(1, 100, 7, &[(1, NOW), (2, NOW)]);
        assert_eq!(shelf.place(100, MIB), (1, 100));
        assert_eq!(shelf.place(MIB, MIB), (2, 0));
        shelf.spoilt(1);
        assert_eq!(shelf.place(100, MIB), (2, 0));
        shelf.spoilt(2);
        assert_eq!(shelf.place(100, MIB), (3, 0), "a number is used once");
        shelf.placed(3, 100, 7, &[(3, NOW)]);
        assert_eq!((shelf.below(7, 9), shelf.below(7, 3), shelf.below(8, 9)), (Some(3), Some(2), None));
        shelf.replace(3, None);
        assert_eq!((shelf.place(100, MIB), shelf.last_of(7)), ((4, 0), Some(2)));
    }
}
