//! What the control plane tells every rig: that it is there, and what it has of the rig's messages.
//!
//! A message is delivered when the control plane has stored it, not when the broker has acknowledged it: a broker that dies
//! takes with it what it had acknowledged and not passed on.

use serde::{Deserialize, Serialize};

use super::Kind;

/// Marks in one [`Watermark`] at most: a rig has four lanes a boot, and few boots of which anything is still open.
pub const MARKS: usize = 64;

/// Body of `dn/wm`: what the control plane has of this rig.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The newest boots first, at most [`MARKS`]; a boot that is not among them is not spoken of.
    pub marks: Vec<Mark>,
}

/// How far one lane of one boot is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Start of the agent that numbered them.
    pub boot: u32,
    /// The lane: the kind of its messages.
    pub lane: Kind,
    /// Every number from 1 to this one is stored, or declared as dropped by the rig.
    pub seq: u64,
}

/// Body of `r1/ctl/state`: whether a control plane is there that sends watermarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// There; `false` is its last will, or its goodbye. A rig keeps what it has until it is back.
    pub online: bool,
    /// Random per start of the control plane.
    pub instance: u32,
}
