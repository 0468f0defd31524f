//! The last hour, as the socket shows it.

use serde::{Deserialize, Serialize};

use crate::history::{History, Quantity, SLOT_MS, series};
use crate::local::Rig;
use crate::wire::{RigId, Value};

/// Whose history it is, and of when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The rig's name.
    pub rig: RigId,
    /// Some of it is a simulated rig: no watt of it is real.
    pub simulated: bool,
    /// Now, ms since 1970; only as good as the rig's clock.
    pub unix_ms: u64,
    /// Now, ms since the agent's start.
    pub uptime_ms: u64,
    /// Length of a slot.
    pub slot_ms: u64,
    /// The slots that there are, the oldest first: slot n began n lengths after the agent's start.
    pub slots: Vec<u32>,
    /// How many series follow.
    pub series: usize,
}

/// One quantity over the slots of the head: in each a number or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// What it is about, and so its unit.
    pub quantity: Quantity,
    /// Of what, by its name on the board.
    pub name: String,
    /// The last reading of each slot.
    pub last: Vec<Value<i32>>,
    /// The lowest of each slot; of drives there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub low: Vec<Value<i32>>,
    /// The highest of each slot; of drives there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub high: Vec<Value<i32>>,
}

impl Head {
    /// The head of this history.
    pub(in crate::local) fn new(rig: &Rig, history: &History, unix_ms: u64, uptime_ms: u64) -> Self {
        Self {
            rig: rig.name.clone(),
            simulated: rig.board.simulated(),
            unix_ms,
            uptime_ms,
            slot_ms: SLOT_MS,
            slots: history.slots().collect(),
            series: series(&rig.board).len(),
        }
    }
}

impl Series {
    /// One of [`series`] by its index.
    pub(in crate::local) fn new(history: &History, index: usize, quantity: Quantity, name: &str) -> Self {
        let mut this = Self { quantity, name: name.to_owned(), last: Vec::new(), low: Vec::new(), high: Vec::new() };
        for sample in history.samples(index) {
            this.last.push(sample.last.into());
            if let Some([low, high]) = sample.range {
                this.low.push(low.into());
                this.high.push(high.into());
            }
        }
        this
    }
}
