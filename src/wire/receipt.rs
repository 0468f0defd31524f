//! What was used: counters in telemetry, and signed receipts of each quarter of an hour.
//!
//! ```text
//! hash      = SHA-256( previous 32 bytes  body )
//! signature = Ed25519( "rigd-energy-v1\0"  hash 32 bytes )           by the key that the birth names
//! body      = postcard of an `energy::Interval`: exactly these bytes were hashed, and nobody has to build them again
//! ```
//!
//! `previous` is the hash of the receipt before, so a receipt stands for all that came before it, and one that is missing is
//! seen. The newest one is sent once more at each start of the agent: who keeps receipts knows them by their hash. Where no key
//! could be made, `key` is zeros and there is no signature.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PublicKey;
use super::hex::{hex, hex_bytes};
use crate::board::Board;
use crate::energy::Books;
use crate::reading::Snapshot;

hex_bytes!(
    /// A SHA-256 hash.
    #[derive(Default)]
    ChainHash(32)
);

/// Bytes of any number: as they are in postcard, as hexadecimal digits in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex(&self.0))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Vec::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>();
        let bytes = bytes.filter(|_| rest.is_empty());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("must be pairs of hexadecimal digits"))
    }
}

/// Body of `up/rcp`: an interval with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The hash of the receipt before it; zeros for the first.
    pub previous: ChainHash,
    /// The interval, as postcard.
    pub body: Hex,
    /// The hash of both.
    pub hash: ChainHash,
    /// Who signed it; zeros where the rig could make no key.
    pub key: PublicKey,
    /// The signature, 64 bytes; none where the rig could make no key.
    pub signature: Hex,
}

/// What was used since the books were opened, as of up to ten seconds ago. It never gets less, also where the agent is killed; a
/// power cut may take up to five minutes of it back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Energy {
    /// The rig, mWh.
    pub rig_mwh: u64,
    /// Each supply's input, mWh, in the birth's order.
    pub supplies_mwh: Vec<u64>,
    /// What each GPU drew itself, mWh, in the birth's order.
    pub gpus_mwh: Vec<u64>,
    /// Each payload's part of the rig's, in the birth's order.
    pub payloads: Vec<Work>,
    /// How long the rig was not measured, ms: that time is in none of the others.
    pub gap_ms: u64,
}

/// What a payload has used, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Used, mWh.
    pub mwh: u64,
    /// Work done, in the payload's unit; 0 where it has no meter.
    pub work: u64,
}

impl Energy {
    /// What the books say of whatever the birth names: of supplies in the board's order, of GPUs and payloads in the snapshot's.
    #[must_use]
    pub fn new(books: &Books, board: &Board, snapshot: &Snapshot) -> Self {
        let supply = |name: &str| books.supplies.iter().find(|(known, ..)| known == name).map(|(_, input, _)| input);
        let gpu = |uuid: &str| books.gpus.iter().find(|(known, _)| known == uuid).map(|(_, account)| account);
        let device = |gpu: &crate::gpu::Gpu| gpu.device.clone();
        let gpus = snapshot.gpus.gpus.iter().map(|one| device(one).and_then(|device| gpu(&device.uuid)));
        let work = |name: &str| {
            let all = books.payload(name);
            Work { mwh: all.energy.milliwatt_hours(), work: all.work }
        };
        Self {
            rig_mwh: books.rig.energy.milliwatt_hours(),
            supplies_mwh: board
                .supplies
                .iter()
                .map(|one| supply(&one.name).map_or(0, |account| account.energy.milliwatt_hours()))
                .collect(),
            gpus_mwh: gpus.map(|account| account.map_or(0, |account| account.energy.milliwatt_hours())).collect(),
            payloads: snapshot.payloads.0.iter().map(|status| work(&status.name)).collect(),
            gap_ms: books.rig.gap_ms,
        }
    }
}
