//! The energy books, as the socket shows them.

use serde::{Deserialize, Serialize};

use crate::energy::{Account, Basis, Books, Kept};
use crate::payload::supervisor::Payloads;
use crate::wire;

/// What was used, as it was last written to the disk, up to ten seconds ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Energy {
    /// When that was, ms since 1970; 0 where the books are not open yet.
    pub at_unix_ms: u64,
    /// What the rig's numbers are made of.
    pub basis: Basis,
    /// When the interval that is open began, ms since 1970.
    pub opened_ms: u64,
    /// Receipts that were written.
    pub receipts: u64,
    /// The hash of the last one.
    pub hash: wire::ChainHash,
    /// The key that signs them; none where there is none.
    pub key: Option<wire::PublicKey>,
    /// How many accounts follow.
    pub accounts: usize,
}

/// Whose account it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// The rig's.
    Rig,
    /// The part of the rig's that no payload used.
    Overhead,
    /// A supply's, at its input.
    SupplyInput,
    /// A supply's, at its output.
    SupplyOutput,
    /// What a GPU drew itself.
    Gpu,
    /// A payload's part of the rig's, on one GPU.
    Payload,
}

/// One account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyAccount {
    /// Whose.
    pub of: Use,
    /// The supply's, the GPU's or the payload's name.
    pub name: String,
    /// The GPU of a payload.
    pub gpu: String,
    /// How much.
    pub used: Account,
    /// What its work counts; none where it has no meter, or does not run any more.
    pub unit: Option<wire::PayloadUnit>,
    /// Thousandths of that for a joule; none where nothing was used.
    pub milli_per_joule: Option<u64>,
}

impl Energy {
    /// The head of these books.
    pub(in crate::local) fn new(kept: &Kept, key: Option<wire::PublicKey>, accounts: usize) -> Self {
        Self {
            at_unix_ms: kept.at.unix_ms,
            basis: kept.books.basis,
            opened_ms: kept.opened_ms,
            receipts: kept.records,
            hash: kept.chain,
            key,
            accounts,
        }
    }
}

impl EnergyAccount {
    /// Every account of these books.
    pub(in crate::local) fn all(books: &Books, payloads: &Payloads) -> Vec<Self> {
        let plain = |of, name: &str, used| Self {
            of,
            name: name.to_owned(),
            gpu: String::new(),
            used,
            unit: None,
            milli_per_joule: None,
        };
        let mut all = vec![plain(Use::Rig, "", books.rig), plain(Use::Overhead, "", books.overhead)];
        all.extend(books.supplies.iter().map(|(name, input, _)| plain(Use::SupplyInput, name, *input)));
        all.extend(books.supplies.iter().map(|(name, _, output)| plain(Use::SupplyOutput, name, *output)));
        all.extend(books.gpus.iter().map(|(uuid, used)| plain(Use::Gpu, uuid, *used)));
        all.extend(books.payloads.iter().map(|(name, gpu, used)| {
            let status = payloads.0.iter().find(|status| status.name == *name);
            Self {
                gpu: gpu.clone(),
                unit: status.and_then(|status| status.unit).map(Into::into),
                milli_per_joule: used.milli_per_joule(),
                ..plain(Use::Payload, name, *used)
            }
        }));
        all
    }
}
