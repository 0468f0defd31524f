//! What the arbiter has decided and does, for people.

use serde::{Deserialize, Serialize};

use super::switch::{Share, Step};
use super::yields::Known;
use crate::alarm::SwitchOutcome;
use crate::units::{MilliPerSecond, Milliwatts};
use crate::wire::PayloadUnit;

/// What it has decided and does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// It decides at all.
    pub enabled: bool,
    /// When it last planned, ms since 1970; 0 where it has not yet.
    pub planned_ms: u64,
    /// Why it decides nothing now; none where it does.
    pub waits: Option<String>,
    /// Each GPU.
    pub gpus: Vec<GpuView>,
    /// Leases that cannot be served, by payload.
    pub refused: Vec<String>,
    /// Payloads that are left out, and why.
    pub left_out: Vec<(String, String)>,
    /// What is under way.
    pub switches: Vec<SwitchView>,
    /// What was last done, the newest last; at most [`LAST`].
    pub last: Vec<Finished>,
    /// What it goes by.
    pub market: MarketView,
    /// What payloads yield, by GPU. An older agent does not tell.
    #[serde(default)]
    pub yields: Vec<YieldView>,
}

/// Finished switches that are remembered.
pub const LAST: usize = 16;

/// A GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuView {
    /// `GPU-…`.
    pub uuid: String,
    /// What has it, or will when what is under way is done.
    pub runs: Option<String>,
    /// What is planned for it.
    pub planned: Option<String>,
    /// Why, and what would change it.
    pub why: String,
    /// Where it sits. An older agent does not tell.
    #[serde(default)]
    pub pci: String,
}

/// What a payload yields on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YieldView {
    /// The payload.
    pub payload: String,
    /// `GPU-…`.
    pub uuid: String,
    /// Thousandths of its unit a second.
    pub rate: MilliPerSecond,
    /// Of that unit; none where nobody knows.
    pub unit: Option<PayloadUnit>,
    /// What the GPU draws with it, at the rig's input.
    pub power: Milliwatts,
    /// Where that is from.
    pub known: Known,
}

/// A switch that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchView {
    /// Who had GPUs.
    pub from: Vec<Share>,
    /// Who is to have them.
    pub to: Vec<Share>,
    /// How far it is.
    pub step: Step,
    /// It is being taken back.
    pub back: bool,
}

/// A switch that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// When, ms since 1970.
    pub at_ms: u64,
    /// Who had GPUs.
    pub from: Vec<Share>,
    /// Who was to have them.
    pub to: Vec<Share>,
    /// Milliseconds of each step: drain, free, reset, wipe, start.
    pub took: [u32; 5],
    /// What came of it.
    pub outcome: SwitchOutcome,
}

/// The market in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketView {
    /// Until when a signal's prices hold, ms since 1970; none where there is no signal.
    pub until_ms: Option<u64>,
    /// When this agent took it, ms since 1970.
    pub taken_ms: u64,
    /// Its prices hold no more; the configuration's do.
    pub stale: bool,
    /// What energy costs, millionths a kilowatt-hour.
    pub energy: i64,
    /// What the work of each payload is worth, millionths for 10^12 units.
    pub values: Vec<(String, u64)>,
}
