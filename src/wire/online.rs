//! Whether a rig is there. Retained; the broker publishes the `Lost` one, our last will, when the rig vanishes.

use serde::{Deserialize, Serialize};

/// Body of `up/online`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Online {
    /// There, or not.
    pub online: bool,
    /// Counts the connections of this start of the agent, from 1: ties a last will to the birth that it ends.
    pub connection: u32,
    /// Why.
    pub reason: Reason,
}

/// Why a rig is online or not. Numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It has just connected.
    Connected,
    /// The agent was stopped on purpose; it has ordered full air.
    Stopped,
    /// It vanished: power, network or agent.
    Lost,
}
