//! How far a payload is held back for the rig's sake: power, heat. Nobody's order to run or not is touched by it.

use serde::{Deserialize, Serialize};

/// How far a payload is held back, from the mildest. Order and numbers go to the wire and to files: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Not at all.
    #[default]
    Free,
    /// Paused: its processes are there and do not work. AI work is never paused, it is drained.
    Pause,
    /// Asked to end, in its own time; it runs again when it is free.
    Drain,
    /// Ended at once; it runs again when it is free.
    Stop,
}
