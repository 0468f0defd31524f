//! What a control plane orders, and what the rig answers.
//!
//! A [`Command`] travels only inside of a [signed frame](super::Signed). No order runs a text: what is not in [`Order`] a
//! rig cannot be made to do. Fields that are appended to a command later must not narrow what it orders, for an agent that
//! does not know them carries it out without them; what narrows becomes a new order.

use serde::{Deserialize, Serialize};

use super::hex::hex_bytes;
use super::{GroupId, GroupTopic, Kind, RigId, Topic};
use crate::units::{Millicelsius, Milliwatts};

/// Longest name in a command, bytes: of a payload, a profile, a zone, a key, a GPU's UUID.
pub const LONGEST_NAME: usize = 64;
/// Longest text in an answer, bytes; what is longer is cut.
pub const LONGEST_TEXT: usize = 4 * 1024;
/// GPUs in one command at most.
pub const MOST_GPUS: usize = 32;
/// Lines of a log in one answer at most.
pub const MOST_LINES: usize = 200;
/// A log is followed for so long at most, s.
pub const MOST_FOLLOWED_S: u16 = 600;

hex_bytes!(
    /// Names a command for ever: 16 random bytes. A command that comes again under the same id is the same command.
    CommandId(16)
);
hex_bytes!(
    /// Names a key: the first 8 bytes of the SHA-256 of its public half.
    KeyId(8)
);
hex_bytes!(
    /// The public half of an Ed25519 key.
    PublicKey(32)
);

/// Whom a command is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// One rig.
    Rig(RigId),
    /// The rigs whose configuration names this group.
    Group(GroupId),
    /// The rigs of this site, which is a group that a rig is in only one of: its topic is that of the group of this name.
    Site(GroupId),
}

impl Audience {
    /// The one topic by which a command, or a desired state, for this audience comes; `None` for what nobody sends them.
    #[must_use]
    pub fn topic(&self, kind: Kind) -> Option<String> {
        match self {
            Self::Rig(rig) => {
                matches!(kind, Kind::Command | Kind::Desired).then(|| Topic::new(rig.clone(), kind).to_string())
            }
            Self::Group(group) | Self::Site(group) => {
                (kind == Kind::Command).then(|| GroupTopic(group.clone()).to_string())
            }
        }
    }
}

/// Body of `dn/cmd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Whom it is for.
    pub audience: Audience,
    /// Its name.
    pub id: CommandId,
    /// Counts the commands of each key that signs, over all rigs and restarts: a number that one of them used is used up.
    pub counter: u64,
    /// Not to be carried out earlier, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Not to be carried out later, milliseconds since 1970.
    pub not_after_ms: u64,
    /// The nonce of the rig's birth: makes it good for this start of the agent only, and good without a clock.
    pub nonce: Option<u64>,
    /// Only where the rig has reached this revision of its desired state.
    pub revision: Option<u64>,
    /// What to do.
    pub order: Order,
}

/// What a rig can be told to do. Order and numbers are on the wire: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A GPU gets a profile.
    SetProfile {
        /// By UUID; every GPU where there is none.
        gpu: Option<String>,
        /// By name, as the rig's configuration has it; the one that the configuration assigns where there is none.
        profile: Option<String>,
    },
    /// The whole rig's input stays below this; none takes the cap away.
    SetPowerCap(Option<PowerCap>),
    /// A zone is held at this temperature.
    SetFanTarget {
        /// The zone, as the board file has it.
        zone: String,
        /// Thousandths of a degree; the board's own where there is none.
        target_mc: Option<Millicelsius>,
    },
    /// A payload is started, stopped, restarted or drained.
    Payload {
        /// Its name.
        name: String,
        /// What with it.
        act: PayloadAct,
    },
    /// A payload gets these GPUs.
    Assign {
        /// Its name.
        payload: String,
        /// By UUID, at most [`MOST_GPUS`]; none gives it back to the rig's own choice.
        gpus: Vec<String>,
    },
    /// The rig shows where it stands.
    Identify {
        /// For so many seconds.
        seconds: u16,
    },
    /// The buses are scanned, and what was found is told.
    Probe,
    /// The last lines that a payload wrote.
    Logs {
        /// Its name.
        payload: String,
        /// At most so many, and no more than [`MOST_LINES`].
        lines: u16,
    },
    /// Birth and telemetry at once.
    Snapshot,
    /// The configuration is read again.
    Reload,
    /// The agent ends and is started again; payloads go on.
    RestartAgent,
    /// The whole rig starts again.
    Reboot,
    /// A key is trusted from now on, or is not any more, or one takes the place of the other.
    RotateKey {
        /// Trusted from now on.
        add: Option<TrustedKey>,
        /// Not trusted any more.
        revoke: Option<KeyId>,
    },
    /// Somebody works at the rig: payloads rest.
    Maintenance {
        /// Begins or ends.
        on: bool,
        /// Ends by itself then, milliseconds since 1970.
        until_ms: Option<u64>,
    },
    /// What a payload writes is told as it writes it, on `up/log`. One payload at a time: another such order ends this one.
    FollowLogs {
        /// Its name.
        payload: String,
        /// For so many seconds, at most [`MOST_FOLLOWED_S`]; 0 only ends what is under way.
        seconds: u16,
    },
}

/// What can be done with a payload. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadAct {
    /// It shall run.
    Start,
    /// It shall not run.
    Stop,
    /// It ends and is started again.
    Restart,
    /// It takes no new work, ends what it has, and rests.
    Drain,
}

/// A limit for the rig's measured input power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerCap {
    /// The limit.
    pub cap_mw: Milliwatts,
    /// How fast power changes towards it, in milliwatts each second; 0 is as fast as can be.
    pub ramp_mw_per_s: u32,
    /// Held from then on at the latest, milliseconds since 1970, however slow the ramp; 0 leaves it to the ramp, and without one is
    /// at once.
    pub deadline_ms: u64,
    /// Ends by itself then, milliseconds since 1970; never where there is none.
    pub until_ms: Option<u64>,
    /// A limit below it is refused: for limits that somebody computes.
    pub floor_mw: Option<Milliwatts>,
}

/// A key that may sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// Its name for people.
    pub name: String,
    /// Its public half.
    pub public: PublicKey,
    /// What it may order.
    pub scopes: Vec<Scope>,
}

/// What a key may order. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look: nothing changes.
    Observe,
    /// What an operator does each day: restart, maintenance, desired state.
    Operate,
    /// Clocks, power, temperatures, inside the rig's own limits.
    Tune,
    /// Which payload runs where.
    Payload,
    /// The agent itself, and who is trusted.
    Update,
    /// Limits that protect the rig.
    Safety,
}

impl Scope {
    /// Every scope, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Observe, Self::Operate, Self::Tune, Self::Payload, Self::Update, Self::Safety];

    /// Its name, as in configurations and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Operate => "operate",
            Self::Tune => "tune",
            Self::Payload => "payload",
            Self::Update => "update",
            Self::Safety => "safety",
        }
    }
}

/// Body of `up/ack`: how far a command has come. Several for one command; the last one that is not [`AckState::Running`]
/// or [`AckState::Accepted`] is its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Of which command; zeros where a refused frame did not get as far as to tell.
    pub id: CommandId,
    /// By the rig's clock, milliseconds since 1970.
    pub at_ms: u64,
    /// How far.
    pub state: AckState,
}

/// How far a command has come. Order and numbers are on the wire: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckState {
    /// It is verified and written down: it will be carried out.
    Accepted,
    /// It is being carried out.
    Running {
        /// So far, 0 to 100.
        percent: u8,
        /// Doing what.
        text: String,
    },
    /// It was carried out.
    Done(Outcome),
    /// It was tried and did not work; why.
    Failed(String),
    /// It was not tried.
    Refused(Refusal),
    /// It was accepted before a restart, and whether it was carried out cannot be known.
    Unknown,
}

impl AckState {
    /// Nothing follows for this command.
    #[must_use]
    pub const fn last(&self) -> bool {
        match self {
            Self::Accepted | Self::Running { .. } => false,
            Self::Done(_) | Self::Failed(_) | Self::Refused(_) | Self::Unknown => true,
        }
    }
}

/// What a command brought. Order and numbers are on the wire: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done, and that is all.
    Nothing,
    /// A text, at most [`LONGEST_TEXT`].
    Text(String),
    /// Lines, at most [`MOST_LINES`].
    Lines(Vec<String>),
}

/// Why a command was not carried out. Order and numbers are on the wire: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// These bytes are no signed command.
    #[error("not a signed command: {0}")]
    Malformed(String),
    /// No key of this rig has this id.
    #[error("signed by a key that this rig does not know")]
    UnknownKey,
    /// The key is not trusted any more.
    #[error("signed by a key that was revoked")]
    RevokedKey,
    /// The signature is not that of this key over these bytes and this topic.
    #[error("the signature does not fit")]
    BadSignature,
    /// It is for somebody else, or came by another topic.
    #[error("it is for another rig, or came by a topic that is not its own")]
    WrongAudience,
    /// Too late.
    #[error("it is no longer valid")]
    Expired,
    /// Too early, or valid for longer than any command may be.
    #[error("it is not valid yet, or valid for too long")]
    NotYet,
    /// The rig does not know the time, and the command does not carry the nonce of its birth.
    #[error("the rig's clock is not set: the command must carry the nonce of its birth")]
    ClockUnset,
    /// Its counter was used before, or is too old to tell; or its nonce is of another birth.
    #[error("its counter or its nonce was used up")]
    Replayed,
    /// The key may not order this.
    #[error("the key needs the scope {}", .0.name())]
    Scope(Scope),
    /// This order takes two keys.
    #[error("this order takes the signatures of two keys")]
    SecondKey,
    /// It was a retained message, which the broker gives to whoever comes.
    #[error("a retained message is not a command")]
    Retained,
    /// Faster than a rig takes commands.
    #[error("too many commands")]
    TooMany,
    /// The rig's own rules are against it, or its state is.
    #[error("{0}")]
    Policy(String),
}

impl Command {
    /// Every text and list within its bounds.
    ///
    /// # Errors
    /// What is too long.
    pub fn check(&self) -> Result<(), &'static str> {
        let name = |text: &str| name(text);
        match &self.order {
            Order::SetProfile { gpu, profile } => gpu.iter().chain(profile).try_for_each(|text| name(text)),
            Order::SetFanTarget { zone: text, .. }
            | Order::Payload { name: text, .. }
            | Order::Logs { payload: text, .. } => name(text),
            Order::Assign { payload, gpus } if gpus.len() <= MOST_GPUS => {
                gpus.iter().chain([payload]).try_for_each(|text| name(text))
            }
            Order::FollowLogs { seconds, .. } if *seconds > MOST_FOLLOWED_S => Err("followed for too long"),
            Order::FollowLogs { payload, .. } => name(payload),
            Order::Assign { .. } => Err("too many GPUs"),
            Order::RotateKey { add: Some(key), .. } => {
                if key.scopes.len() > Scope::ALL.len() {
                    Err("too many scopes")
                } else {
                    name(&key.name)
                }
            }
            Order::SetPowerCap(Some(cap)) => cap.check(),
            Order::RotateKey { add: None, revoke: None } => Err("neither a key to add nor one to revoke"),
            Order::RotateKey { add: None, revoke: Some(_) }
            | Order::SetPowerCap(None)
            | Order::Identify { .. }
            | Order::Probe
            | Order::Snapshot
            | Order::Reload
            | Order::RestartAgent
            | Order::Reboot
            | Order::Maintenance { .. } => Ok(()),
        }
    }
}

impl PowerCap {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let below = self.floor_mw.is_some_and(|floor| floor > self.cap_mw);
        if below { Err("a power cap below its own floor") } else { Ok(()) }
    }
}

/// A name that something can have: not empty, not long, no control characters.
pub(super) fn name(text: &str) -> Result<(), &'static str> {
    match text {
        "" => Err("an empty name"),
        long if long.len() > LONGEST_NAME => Err("a name that is too long"),
        odd if odd.contains(char::is_control) => Err("a name with control characters"),
        _ => Ok(()),
    }
}
