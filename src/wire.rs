//! The wire: the only types that reach the broker. Usable alone, by whoever subscribes.
//!
//! A message is a header and a body. As postcard (content type [`Encoding::content_type`]) the header is a fixed 16-byte
//! envelope in front of the body; as JSON both are one object. Within a major version only the end of a top-level struct
//! grows, and enums only append; `tests/wire_v1.rs` pins the bytes. Bodies:
//!
//! | topic `r1/{rig}/up/…` | body | retained | when |
//! |---|---|---|---|
//! | `online` | [`Online`] | yes | on connect, on a clean stop; the broker says it for us when we vanish |
//! | `birth` | [`Birth`] | yes | on connect: all that does not change until the next one |
//! | `tele` | [`Telemetry`] | no | each period, and at once with an event |
//! | `event` | [`Event`] | no | on an alarm's edge |

mod birth;
mod envelope;
mod event;
mod gpu;
mod online;
mod payload;
mod telemetry;
mod topic;
mod value;

pub use birth::{
    Birth, BoardInfo, ChipInfo, Delivery, FanInfo, OutboxInfo, RailInfo, SensorInfo, SupplyInfo, ZoneInfo,
};
pub use envelope::{Encoding, Header, Kind, MAX_MESSAGE, decode, encode};
pub use event::{Event, Subject};
pub use gpu::{Capability, Gpu, GpuDetail, GpuInfo};
pub use online::{Online, Reason};
pub use payload::{Payload, PayloadCause, PayloadInfo, PayloadKind, PayloadPhase, PayloadUnit};
pub use telemetry::{AlarmNow, Fan, Losses, Power, Supply, Telemetry, Trouble, Zone};
pub use topic::{BadRigId, RigId, Topic};
pub use value::Value;

/// Any message of a rig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Whether the rig is there.
    Online(Online),
    /// What does not change.
    Birth(Birth),
    /// What does.
    Telemetry(Telemetry),
    /// An alarm's edge.
    Event(Event),
}

impl Message {
    /// Which kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Online(_) => Kind::Online,
            Self::Birth(_) => Kind::Birth,
            Self::Telemetry(_) => Kind::Telemetry,
            Self::Event(_) => Kind::Event,
        }
    }
}

/// What a message cannot be decoded for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Larger than any message of ours.
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// Neither our envelope nor a JSON object.
    #[error("this is no message of a rig: it starts neither with the magic byte 0xa1 nor with {{")]
    NotOurs,
    /// The envelope ends before its 16 bytes.
    #[error("the envelope is cut short")]
    Truncated,
    /// A kind from a later version.
    #[error("unknown kind {0}")]
    UnknownKind(u8),
    /// A major version that this reader does not know; never guessed at.
    #[error("{kind:?} of major version {major} is newer than this reader")]
    UnknownMajor {
        /// Its kind.
        kind: Kind,
        /// Its version.
        major: u8,
    },
    /// The body is not what its kind says.
    #[error("the body of a {kind:?} could not be decoded: {text}")]
    Body {
        /// Its kind.
        kind: Kind,
        /// What the decoder said.
        text: String,
    },
    /// The JSON is not what a message looks like.
    #[error("not a message: {0}")]
    Json(String),
}
