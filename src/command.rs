//! Commands from the control plane: who may give them, whether this is one, and that each is carried out at most once.
//!
//! ```text
//! frame ─ rate ─ verify ─ journal: accepted, fsync ─ broker's acknowledgement ─ execute ─ journal: finished, fsync ─ answer
//!         │       └ no key of ours signed it: an answer that nobody keeps, a count; no fsync, no place in a lane
//!         └ too many: refused by name, where a key of ours signed it; unread, where even that would be too much
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`trust`] | whose signatures count, for which orders: the table |
//! | [`verify`] | a frame's bytes against trust, topic, clock and what was seen before: pure |
//! | [`replay`] | the counters of a key that were used |
//! | [`rate`] | how many commands a second are looked at |
//! | [`mark`] | which of the files below must be there |
//! | [`act`] | carries an order out |
//! | [`journal`] | what was accepted and what came of it, on disk, so that nothing is carried out twice |
//!
//! Nothing here but `act` reads a clock, and nothing the network; only journal, trust and mark write files, and block while they do.

pub mod act;
pub mod journal;
pub mod mark;
pub mod rate;
pub mod replay;
pub mod trust;
pub mod verify;
