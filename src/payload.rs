//! What runs on the rig and earns: miners and AI servers, as the rig sees them.

pub mod meter;
