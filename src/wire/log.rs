//! What a payload says, as it says it.

use serde::{Deserialize, Serialize};

/// Body of `up/log`: a piece of a payload's log, to whoever asked to follow it. It goes out once, at QoS 0, and waits for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// The payload's name.
    pub payload: String,
    /// Whole lines, masked as everywhere; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// Offset of the first byte in the log, counted from the first that was ever written.
    pub from: u64,
    /// Bytes of the log that were passed over since this following began: the payload says more than may go out, or the link is
    /// slow.
    pub skipped: u64,
}
