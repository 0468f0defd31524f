//! What was used in a quarter of an hour, as a record that nobody can change afterwards without it being seen.
//!
//! A record's hash is SHA-256 over the hash of the one before it and its own bytes, so the last hash stands for all of them.
//! Whoever signs that one hash has signed every record up to it. It is a record of what this rig measured, by meters that nobody
//! has calibrated: no legal metrology.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Account, Books};

/// Length of an interval, ms; they begin at whole quarters of an hour by the rig's clock.
pub const QUARTER: u64 = 15 * 60 * 1000;

/// What one account has got in an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Whose: a supply, a GPU's UUID, a payload.
    pub name: String,
    /// On which GPU, for a payload.
    pub gpu: String,
    /// How much.
    pub used: Account,
}

/// One interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Which of all that this rig has written, from 0.
    pub index: u64,
    /// When it began and ended by the rig's clock, ms since 1970.
    pub from_ms: u64,
    /// End; what is shorter than a quarter was cut off by a start of the agent or a clock that was set.
    pub to_ms: u64,
    /// The rig.
    pub rig: Account,
    /// Its part that no payload used.
    pub overhead: Account,
    /// The supplies' inputs.
    pub supplies: Vec<Line>,
    /// What the GPUs drew themselves.
    pub gpus: Vec<Line>,
    /// The payloads' parts.
    pub payloads: Vec<Line>,
}

/// An interval with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of the record before it; zeros for the first.
    pub previous: [u8; 32],
    /// The interval, as postcard: what is hashed is what is kept.
    pub body: Vec<u8>,
    /// The hash of both: what is signed.
    pub hash: [u8; 32],
}

/// Where a chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A record's bytes are not those that were hashed.
    #[error("record {0} was changed")]
    Changed(usize),
    /// A record does not follow the one before it.
    #[error("a record is missing or was put in before record {0}")]
    Order(usize),
}

impl Interval {
    /// From what the books said when it began to what they say now. Who has used nothing and missed nothing is left out.
    #[must_use]
    pub fn between(index: u64, from: (u64, &Books), to: (u64, &Books)) -> Self {
        let (opened, closed) = (from.1, to.1);
        let line = |name: &str, gpu: &str, now: &Account, before: Option<&Account>| {
            let used = now.since(before.unwrap_or(&Account::default()));
            (used != Account::default()).then(|| Line { name: name.to_owned(), gpu: gpu.to_owned(), used })
        };
        let gpus = closed.gpus.iter().filter_map(|(uuid, now)| {
            let before = opened.gpus.iter().find(|(known, _)| known == uuid).map(|(_, account)| account);
            line(uuid, "", now, before)
        });
        let payloads = closed.payloads.iter().filter_map(|(name, gpu, now)| {
            let before = opened.payloads.iter().find(|(known, on, _)| known == name && on == gpu);
            line(name, gpu, now, before.map(|(.., account)| account))
        });
        let supplies = closed.supplies.iter().filter_map(|(name, now, _)| {
            let before = opened.supplies.iter().find(|(known, ..)| known == name).map(|(_, account, _)| account);
            line(name, "", now, before)
        });
        Self {
            index,
            from_ms: from.0,
            to_ms: to.0,
            rig: closed.rig.since(&opened.rig),
            overhead: closed.overhead.since(&opened.overhead),
            supplies: supplies.collect(),
            gpus: gpus.collect(),
            payloads: payloads.collect(),
        }
    }
}

impl Record {
    /// The next link after the one of this hash.
    #[must_use]
    pub fn after(previous: [u8; 32], interval: &Interval) -> Self {
        // Fails for a body of unknown length only; lists have one.
        let body = postcard::to_allocvec(interval).unwrap_or_default();
        Self { previous, hash: hash(&previous, &body), body }
    }

    /// What it says; none where its bytes are no interval.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        postcard::from_bytes(&self.body).ok()
    }
}

/// Whether these records, in a row from anywhere in the chain, are as they were written.
///
/// # Errors
/// Where they are not.
pub fn verify(records: &[Record]) -> Result<(), Broken> {
    let mut before: Option<[u8; 32]> = None;
    for (index, record) in records.iter().enumerate() {
        if hash(&record.previous, &record.body) != record.hash {
            return Err(Broken::Changed(index));
        }
        if before.is_some_and(|before| before != record.previous) {
            return Err(Broken::Order(index));
        }
        before = Some(record.hash);
    }
    Ok(())
}

fn hash(previous: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let found = digest(&SHA256, &[previous.as_slice(), body].concat());
    // SHA-256 is 32 bytes long.
    found.as_ref().try_into().unwrap_or_default()
}
