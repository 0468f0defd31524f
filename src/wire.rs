//! The wire: the only types that reach the broker. Usable alone, by whoever subscribes.
//!
//! A message is a header and a body. As postcard (content type [`Encoding::content_type`]) the header is a fixed 16-byte
//! envelope in front of the body; as JSON both are one object. Within a major version only the end of a top-level struct
//! grows, and enums only append; `tests/wire_v1.rs` pins the bytes, and `wire/README.md` has all of it
//! byte by byte, for other languages. Bodies:
//!
//! | topic `r1/{rig}/up/…` | body | retained | when |
//! |---|---|---|---|
//! | `online` | [`Online`] | yes | on connect, on a clean stop; the broker says it for us when we vanish |
//! | `birth` | [`Birth`] | yes | on connect: all that does not change until the next one |
//! | `tele` | [`Telemetry`] | no | each period, and at once with an event |
//! | `event` | [`Event`] | no | on an alarm's edge |
//! | `ack` | [`Ack`] | no | on each step of a command |
//! | `rep` | [`Reported`] | yes | when the rig comes nearer to its desired state, or away from it |
//! | `rcp` | [`Receipt`] | no | at the end of each quarter of an hour: its energy, signed; the last one once more at each start |
//! | `log` | [`LogLines`] | no, QoS 0 | as a payload's log grows, for as long as a command asked for |
//!
//! What the control plane writes:
//!
//! | topic | body | retained | when |
//! |---|---|---|---|
//! | `r1/{rig}/dn/wm` | [`Watermark`] | yes | when it has stored more of what the rig said |
//! | `r1/ctl/state` | [`Controller`] | yes | when it comes and goes; the broker says it for it when it vanishes |
//! | `r1/{rig}/dn/cmd`, `r1/g/{group}/dn/cmd` | [`Command`], [signed](Signed) | no | on demand |
//! | `r1/{rig}/dn/des` | [`Desired`], [signed](Signed) | yes | on a change, and signed anew each day |
//!
//! # Completeness
//!
//! (boot, kind, seq) names a message of telemetry or an event for ever: numbers run from 1 in each lane of each boot without
//! a hole. What the rig had to drop is declared with the next message of that lane, in the MQTT user property
//! [`GAP`]: so many numbers right before it do not exist any more. A subscriber that has every number, or a
//! declaration for it, has everything. A message that comes twice is the same message.
//!
//! A killed start may leave nothing behind that could declare a gap: it lost what was in its memory, and a later number is stored
//! already. The next start names it in [`ENDED`] as soon as nothing of it waits there. What a killed start numbered after the last
//! message that is stored nobody knows of: of telemetry one second at most.

mod birth;
mod command;
mod desired;
mod envelope;
mod event;
mod gpu;
mod hex;
mod log;
mod online;
mod payload;
mod power;
mod receipt;
mod signed;
mod telemetry;
mod topic;
mod value;
mod watermark;

pub use birth::{
    AuditHash, AuditHead, Birth, BoardInfo, ChipInfo, Delivery, FanInfo, OutboxInfo, RailInfo, SensorInfo, SupplyInfo,
    ZoneInfo,
};
pub use command::{
    Ack, AckState, Audience, Command, CommandId, KeyId, LONGEST_NAME, LONGEST_TEXT, MOST_FOLLOWED_S, MOST_GPUS,
    MOST_LINES, Order, Outcome, PayloadAct, PowerCap, PublicKey, Refusal, Scope, TrustedKey,
};
pub use desired::{
    Desired, DesiredPayload, DesiredProfile, Difference, EVERY_DAY, FanTarget, MOST_DIFFERENCES, MOST_ENTRIES, Market,
    MarketLease, MarketValue, RefusedRevision, Reported, StandingOrder, Window,
};
pub use envelope::{BACKFILL, Encoding, Header, Kind, MAX_MESSAGE, decode, decode_to_a_rig, encode, mark_backfill};
pub use event::{Event, Subject};
pub use gpu::{Capability, Gpu, GpuDetail, GpuInfo};
pub use hex::{BadHex, hex};
pub use log::LogLines;
pub use online::{Online, Reason};
pub use payload::{Payload, PayloadCause, PayloadInfo, PayloadKind, PayloadPhase, PayloadUnit};
pub use power::{PowerNow, Rungs};
pub use receipt::{ChainHash, Energy, Hex, Receipt, Work};
#[cfg(any(test, feature = "sign"))]
pub use signed::SigningKey;
pub use signed::{BadFrame, LARGEST_FRAME, Signature, Signed, signed_bytes};
pub use telemetry::{AlarmNow, Fan, Losses, Power, Supply, Telemetry, Trouble, Zone};
pub use topic::{BadGroupId, BadRigId, CONTROLLER, GroupId, GroupTopic, RigId, Topic};
pub use value::Value;
pub use watermark::{Controller, MARKS, Mark, Watermark};

/// Name of the MQTT user property that declares a gap: its value is how many numbers of the lane right before this message
/// were dropped, as decimal digits.
pub const GAP: &str = "gap";

/// Name of the MQTT user property that says of a gap how many of its numbers, the lowest, were not dropped, as decimal digits: they
/// were delivered to the broker, or to another control plane, before the one was there that has to confirm now.
pub const EARLY: &str = "early";

/// Name of the MQTT user property of telemetry that names earlier starts of this rig, by their boots in decimal digits with commas
/// between them: nothing of them waits there any more, in any lane. What is not stored of them, up to the highest number that is, is lost.
pub const ENDED: &str = "ended";

/// Any message of a rig or to one.
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
    /// What the control plane has.
    Watermark(Watermark),
    /// Whether the control plane is there.
    Controller(Controller),
    /// How far a command has come.
    Ack(Ack),
    /// How near the rig is to its desired state.
    Reported(Reported),
    /// What was used in a quarter of an hour, signed.
    Receipt(Receipt),
    /// What a payload says.
    Log(LogLines),
    /// An order; nothing without its signature.
    Command(Command),
    /// What the rig shall be; nothing without its signature.
    Desired(Desired),
}

impl Message {
    /// It as bytes, as [`encode`] writes its body.
    #[must_use]
    pub fn encode(&self, encoding: Encoding, header: Header) -> Vec<u8> {
        match self {
            Self::Online(body) => encode(encoding, header, body),
            Self::Birth(body) => encode(encoding, header, body),
            Self::Telemetry(body) => encode(encoding, header, body),
            Self::Event(body) => encode(encoding, header, body),
            Self::Watermark(body) => encode(encoding, header, body),
            Self::Controller(body) => encode(encoding, header, body),
            Self::Ack(body) => encode(encoding, header, body),
            Self::Reported(body) => encode(encoding, header, body),
            Self::Receipt(body) => encode(encoding, header, body),
            Self::Log(body) => encode(encoding, header, body),
            Self::Command(body) => encode(encoding, header, body),
            Self::Desired(body) => encode(encoding, header, body),
        }
    }

    /// Which kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Online(_) => Kind::Online,
            Self::Birth(_) => Kind::Birth,
            Self::Telemetry(_) => Kind::Telemetry,
            Self::Event(_) => Kind::Event,
            Self::Watermark(_) => Kind::Watermark,
            Self::Controller(_) => Kind::Controller,
            Self::Ack(_) => Kind::Ack,
            Self::Reported(_) => Kind::Reported,
            Self::Receipt(_) => Kind::Receipt,
            Self::Log(_) => Kind::Log,
            Self::Command(_) => Kind::Command,
            Self::Desired(_) => Kind::Desired,
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
    /// Of a kind that a rig writes, where one to a rig is read.
    #[error("a {0:?} is a rig's to write")]
    ARigs(Kind),
    /// The JSON is not what a message looks like.
    #[error("not a message: {0}")]
    Json(String),
}
