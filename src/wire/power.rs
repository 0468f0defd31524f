//! What holds the rig's power back.

use serde::{Deserialize, Serialize};

use crate::alarm::Cause;
use crate::control::limits::{Restrained, Restraint};
use crate::control::step::ladder;
use crate::control::step::power::{self, Source};
use crate::units::Milliwatts;

/// The cap that holds, and what it is held by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerNow {
    /// What may be drawn at the input now, ramps included; none where nothing is capped.
    pub cap_mw: Option<Milliwatts>,
    /// Whose cap it is.
    pub source: Option<Source>,
    /// What it is held by.
    pub basis: power::Basis,
    /// What the rig draws by that: measured, or the sum of its parts with the margin in it.
    pub estimate_mw: Milliwatts,
}

/// How far a GPU is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rungs {
    /// By power.
    pub power: power::Rung,
    /// Why.
    pub power_cause: Option<Cause>,
    /// By heat.
    pub heat: ladder::Rung,
    /// Why.
    pub heat_cause: Option<Cause>,
}

impl PowerNow {
    /// None where nothing holds anything back.
    #[must_use]
    pub fn new(restraint: &Restraint) -> Option<Self> {
        let Restraint { cap, basis, estimate, .. } = restraint;
        let told = cap.is_some() || !Rungs::all(restraint).is_empty();
        told.then_some(Self {
            cap_mw: cap.map(|(limit, _)| limit),
            source: cap.map(|(_, source)| source),
            basis: *basis,
            estimate_mw: *estimate,
        })
    }
}

impl Rungs {
    /// Of one GPU.
    #[must_use]
    pub const fn new(Restrained { power, heat, .. }: &Restrained) -> Self {
        Self { power: power.0, power_cause: power.1, heat: heat.0, heat_cause: heat.1 }
    }

    /// Of each GPU; empty where all are free.
    pub(super) fn all(restraint: &Restraint) -> Vec<Self> {
        if restraint.gpus.iter().all(Restrained::is_free) {
            Vec::new()
        } else {
            restraint.gpus.iter().map(Self::new).collect()
        }
    }
}
