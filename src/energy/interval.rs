//! What was used in a quarter of an hour, as a record that nobody can change afterwards without it being seen.
//!
//! A record's hash is SHA-256 over the hash of the one before it and its own bytes, so the last hash stands for all of them.
//! The rig's key signs each hash, and with it every record up to that one. It is a record of what this rig measured, by meters
//! that nobody has calibrated: no legal metrology. What is on the disk is what goes out ([`Receipt`]), so an interval's form is
//! the wire's: only its end may grow.

use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::{Account, Basis, Books};
use crate::compact;
use crate::wire::{ChainHash, Hex, PublicKey, Receipt};

/// What stands in front of a hash where it is signed: no signature for something else is one for this.
pub(super) const DOMAIN: &[u8] = b"rigd-energy-v1\0";

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
    /// End; what is shorter than a quarter was cut off by a clock that was set, or begins where the one before was cut. What is
    /// longer has a time in it in which nobody measured, or in which the disk took nothing.
    pub to_ms: u64,
    /// What the rig's numbers are made of.
    pub basis: Basis,
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

/// Where a chain is broken: the number that the record says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A record's bytes are not those that were hashed, or no interval.
    #[error("record {0} was changed")]
    Changed(u64),
    /// A record does not follow the one before it.
    #[error("a record is missing or was put in before record {0}")]
    Order(u64),
    /// The rig could not sign it.
    #[error("record {0} is not signed")]
    Unsigned(u64),
    /// It is signed by somebody else.
    #[error("record {number} is signed by another key: {key}")]
    Stranger {
        /// Which.
        number: u64,
        /// Who says to have signed it.
        key: PublicKey,
    },
    /// Its signature is not its key's.
    #[error("the signature of record {0} is not that of the key that it names")]
    Forged(u64),
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
            basis: closed.basis,
            rig: closed.rig.since(&opened.rig),
            overhead: closed.overhead.since(&opened.overhead),
            supplies: supplies.collect(),
            gpus: gpus.collect(),
            payloads: payloads.collect(),
        }
    }
}

impl Receipt {
    /// The next link after the one of this hash, not signed yet.
    #[must_use]
    pub fn after(previous: ChainHash, interval: &Interval) -> Self {
        // Fails for a body of unknown length only; lists have one.
        let body = compact::write(interval).unwrap_or_default();
        let (hash, key) = (hash(&previous, &body), PublicKey([0; 32]));
        Self { previous, hash, body: Hex(body), key, signature: Hex::default() }
    }

    /// A record as it is in the file; none where these bytes are something else.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        postcard::from_bytes(body).ok()
    }

    /// What it says; none where its bytes are no interval.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        postcard::from_bytes(&self.body.0).ok()
    }

    /// Whether it is as it was hashed, and signed by this key, or by the one that it names where none is given; what it says.
    ///
    /// # Errors
    /// What is wrong with it; `place` is its number where it does not say one.
    pub fn check(&self, key: Option<&PublicKey>, place: u64) -> Result<Interval, Broken> {
        let interval = self.interval();
        let number = interval.as_ref().map_or(place, |interval| interval.index);
        let interval = interval.ok_or(Broken::Changed(number))?;
        if hash(&self.previous, &self.body.0) != self.hash {
            return Err(Broken::Changed(number));
        }
        if self.signature.0.is_empty() {
            return Err(Broken::Unsigned(number));
        }
        if key.is_some_and(|key| *key != self.key) {
            return Err(Broken::Stranger { number, key: self.key });
        }
        let signed = [DOMAIN, &self.hash.0].concat();
        let fits = UnparsedPublicKey::new(&ED25519, self.key.0).verify(&signed, &self.signature.0);
        fits.map(|()| interval).map_err(|_| Broken::Forged(number))
    }
}

/// Whether these records, in a row from anywhere in the chain, are as they were written, and signed by this key, or each by the
/// one that it names where none is given.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(records: &[Receipt], key: Option<&PublicKey>) -> Result<(), Broken> {
    let mut before: Option<(ChainHash, u64)> = None;
    for (place, record) in (0..).zip(records) {
        let number = record.check(key, place)?.index;
        if before.is_some_and(|(hash, last)| hash != record.previous || last + 1 != number) {
            return Err(Broken::Order(number));
        }
        before = Some((record.hash, number));
    }
    Ok(())
}

fn hash(previous: &ChainHash, body: &[u8]) -> ChainHash {
    let found = digest(&SHA256, &[previous.0.as_slice(), body].concat());
    // SHA-256 is 32 bytes long.
    ChainHash(found.as_ref().try_into().unwrap_or_default())
}
