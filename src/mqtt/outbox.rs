//! Messages that wait for the broker: numbered per lane, bounded in bytes, freed when they are acknowledged.
//!
//! ```text
//! push ──> Waiting ── next ──> InFlight ── acknowledged ──> gone
//!             ▲                   │
//!             └─ disconnected, ───┘
//!                  returned
//! ```
//!
//! At the bound the oldest waiting telemetry goes first and events only when there is no telemetry left to drop; every
//! message that is dropped is counted, and the count is published. What is in flight is never dropped: at most a window.

use std::collections::VecDeque;

use crate::wire::Kind;

/// Bytes counted for a record beside its payload: its place in the queue.
const OVERHEAD: usize = size_of::<Record>();

/// Which queue a message waits in; each counts its messages from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Events: last to be dropped, first to be sent.
    Event,
    /// Telemetry.
    Telemetry,
}

impl Lane {
    const ALL: [Self; 2] = [Self::Event, Self::Telemetry];

    /// What its messages are.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Event => Kind::Event,
            Self::Telemetry => Kind::Telemetry,
        }
    }
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its lane.
    pub lane: Lane,
    /// Its number there.
    pub seq: u64,
}

#[derive(Debug)]
struct Record {
    seq: u64,
    payload: Vec<u8>,
    in_flight: bool,
}

impl Record {
    fn cost(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// The messages that wait.
#[derive(Debug)]
pub struct Outbox {
    events: Queue,
    telemetry: Queue,
    budget: usize,
    /// Dropped for want of room since the start.
    dropped: u32,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of their numbers.
    records: VecDeque<Record>,
    last_seq: u64,
    bytes: usize,
}

impl Queue {
    fn position(&self, seq: u64) -> Option<usize> {
        self.records.binary_search_by_key(&seq, |record| record.seq).ok()
    }

    fn remove(&mut self, index: usize) -> bool {
        let removed = self.records.remove(index);
        self.bytes -= removed.as_ref().map_or(0, Record::cost);
        removed.is_some()
    }

    fn drop_oldest_waiting(&mut self) -> bool {
        self.records.iter().position(|record| !record.in_flight).is_some_and(|index| self.remove(index))
    }
}

impl Outbox {
    /// An empty outbox that holds at most `budget` bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { events: Queue::default(), telemetry: Queue::default(), budget, dropped: 0 }
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Event => &mut self.events,
            Lane::Telemetry => &mut self.telemetry,
        }
    }

    /// Takes a message; `encode` is given its number. Drops older ones where the budget asks for it.
    pub fn push(&mut self, lane: Lane, encode: impl FnOnce(u64) -> Vec<u8>) -> Ticket {
        let queue = self.queue(lane);
        queue.last_seq += 1;
        let seq = queue.last_seq;
        let record = Record { seq, payload: encode(seq), in_flight: false };
        queue.bytes += record.cost();
        queue.records.push_back(record);
        while self.bytes() > self.budget && (self.telemetry.drop_oldest_waiting() || self.events.drop_oldest_waiting())
        {
            self.dropped = self.dropped.saturating_add(1);
        }
        Ticket { lane, seq }
    }

    /// The next message to send: events before telemetry, the oldest first. It stays until it is acknowledged.
    #[must_use]
    pub fn next(&self) -> Option<(Ticket, &[u8])> {
        Lane::ALL.into_iter().find_map(|lane| {
            let queue = match lane {
                Lane::Event => &self.events,
                Lane::Telemetry => &self.telemetry,
            };
            let record = queue.records.iter().find(|record| !record.in_flight)?;
            Some((Ticket { lane, seq: record.seq }, record.payload.as_slice()))
        })
    }

    /// It was handed to the link.
    pub fn sent(&mut self, ticket: Ticket) {
        let queue = self.queue(ticket.lane);
        if let Some(record) = queue.position(ticket.seq).and_then(|index| queue.records.get_mut(index)) {
            record.in_flight = true;
        }
    }

    /// The broker has answered for it: done, delivered or refused. One that is not there any more is fine.
    pub fn settled(&mut self, ticket: Ticket) {
        let queue = self.queue(ticket.lane);
        if let Some(index) = queue.position(ticket.seq) {
            queue.remove(index);
        }
    }

    /// The broker would not take it now: it waits again.
    pub fn returned(&mut self, ticket: Ticket) {
        let queue = self.queue(ticket.lane);
        if let Some(record) = queue.position(ticket.seq).and_then(|index| queue.records.get_mut(index)) {
            record.in_flight = false;
        }
    }

    /// The connection is gone: everything in flight waits again.
    pub fn disconnected(&mut self) {
        for record in self.events.records.iter_mut().chain(&mut self.telemetry.records) {
            record.in_flight = false;
        }
    }

    /// Messages that are neither delivered nor dropped.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.events.records.len() + self.telemetry.records.len()
    }

    /// Messages dropped for want of room since the start.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    fn bytes(&self) -> usize {
        self.events.bytes + self.telemetry.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(outbox: &mut Outbox, lane: Lane) -> Ticket {
        outbox.push(lane, |seq| vec![u8::try_from(seq % 256).unwrap_or(0); 100])
    }

    fn drain(outbox: &mut Outbox) -> Vec<Ticket> {
        let mut sent = Vec::new();
        while let Some((ticket, _)) = outbox.next() {
            outbox.sent(ticket);
            sent.push(ticket);
        }
        sent
    }

    #[test]
    fn nothing_is_freed_before_it_is_acknowledged() {
        let mut outbox = Outbox::new(usize::MAX);
        let first = push(&mut outbox, Lane::Telemetry);
        let event = push(&mut outbox, Lane::Event);
        let second = push(&mut outbox, Lane::Telemetry);
        assert_eq!(drain(&mut outbox), [event, first, second], "events first, then by age");
        outbox.settled(first);
        outbox.disconnected();
        assert_eq!(drain(&mut outbox), [event, second], "sent again");
        outbox.settled(event);
        outbox.settled(second);
        outbox.settled(second);
        assert_eq!((outbox.waiting(), outbox.bytes()), (0, 0));
    }

    #[test]
    fn at_the_bound_the_oldest_telemetry_goes_and_events_stay() {
        let room = 10 * (100 + OVERHEAD);
        let mut outbox = Outbox::new(room);
        for _ in 0..3 {
            push(&mut outbox, Lane::Event);
        }
        for _ in 0..20 {
            push(&mut outbox, Lane::Telemetry);
        }
        let kept: Vec<_> = drain(&mut outbox).into_iter().map(|ticket| (ticket.lane, ticket.seq)).collect();
        let events = (1..=3).map(|seq| (Lane::Event, seq));
        assert_eq!(kept, events.chain((14..=20).map(|seq| (Lane::Telemetry, seq))).collect::<Vec<_>>());
        assert_eq!(outbox.dropped(), 13);
    }

    #[test]
    fn events_are_dropped_only_when_no_telemetry_is_left() {
        let mut outbox = Outbox::new(2 * (100 + OVERHEAD));
        push(&mut outbox, Lane::Telemetry);
        for _ in 0..4 {
            push(&mut outbox, Lane::Event);
        }
        let kept: Vec<_> = drain(&mut outbox).into_iter().map(|ticket| ticket.seq).collect();
        assert_eq!((kept, outbox.dropped()), (vec![3, 4], 3));
    }

    proptest! {
        /// Law 6 in memory: whatever happens, each number is delivered, still waiting, or counted as dropped; and the
        /// budget holds beyond what is in flight.
        #[test]
        fn every_message_is_accounted_for(actions in prop::collection::vec(0..5u8, 0..300)) {
            let budget = 8 * (100 + OVERHEAD);
            let mut outbox = Outbox::new(budget);
            let mut flying: VecDeque<Ticket> = VecDeque::new();
            let (mut pushed, mut delivered) = (0, 0);
            for action in actions {
                match action {
                    0 | 1 => { push(&mut outbox, if action == 0 { Lane::Event } else { Lane::Telemetry }); pushed += 1; }
                    2 => if let Some((ticket, _)) = outbox.next() && flying.len() < 4 { outbox.sent(ticket); flying.push_back(ticket); },
                    3 => if let Some(ticket) = flying.pop_front() { outbox.settled(ticket); delivered += 1; },
                    _ => { outbox.disconnected(); flying.clear(); }
                }
                let dropped = usize::try_from(outbox.dropped()).unwrap_or(usize::MAX);
                prop_assert_eq!(pushed, delivered + outbox.waiting() + dropped);
                prop_assert!(outbox.bytes() <= budget);
            }
        }
    }
}
