//! Topic names: one type builds and parses them. `up` is written only by the rig, `dn` only by the control plane.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Kind;

/// Major version of the topic tree.
const ROOT: &str = "r1";
/// Where the control plane says whether it is there.
pub const CONTROLLER: &str = "r1/ctl/state";

/// A rig's name: certificate CN, MQTT client id and part of its topics, so 1 to 64 of `a-z 0-9 -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RigId(String);

/// A name that cannot be a rig's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot be a rig's name: 1 to 64 characters of a-z, 0-9 and -")]
pub struct BadRigId(String);

impl RigId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RigId {
    type Error = BadRigId;

    fn try_from(name: String) -> Result<Self, BadRigId> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=64).contains(&name.len()) && name.chars().all(good) { Ok(Self(name)) } else { Err(BadRigId(name)) }
    }
}

impl FromStr for RigId {
    type Err = BadRigId;

    fn from_str(name: &str) -> Result<Self, BadRigId> {
        Self::try_from(name.to_owned())
    }
}

impl From<RigId> for String {
    fn from(rig: RigId) -> Self {
        rig.0
    }
}

impl fmt::Display for RigId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a rig's messages of one kind go.
///
/// ```
/// use rigd::wire::{Kind, Topic};
/// let topic = Topic::new("rig-7".parse()?, Kind::Telemetry);
/// assert_eq!(topic.to_string(), "r1/rig-7/up/tele");
/// assert_eq!(Topic::parse("r1/rig-7/up/tele"), Some(topic));
/// # Ok::<(), rigd::wire::BadRigId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Whose.
    pub rig: RigId,
    /// Of what.
    pub kind: Kind,
}

/// The last two levels of a kind's topic; none for a kind that is not one rig's.
const fn leaf(kind: Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Online => Some(("up", "online")),
        Kind::Birth => Some(("up", "birth")),
        Kind::Telemetry => Some(("up", "tele")),
        Kind::Event => Some(("up", "event")),
        Kind::Watermark => Some(("dn", "wm")),
        Kind::Controller => None,
    }
}

impl Topic {
    /// The topic of this rig's messages of this kind.
    #[must_use]
    pub const fn new(rig: RigId, kind: Kind) -> Self {
        Self { rig, kind }
    }

    /// What a topic name means; `None` for anything that is not one rig's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut levels = name.split('/');
        let (root, rig, way, last) = (levels.next()?, levels.next()?, levels.next()?, levels.next()?);
        let kind = Kind::ALL.into_iter().find(|kind| leaf(*kind) == Some((way, last)))?;
        let ours = root == ROOT && levels.next().is_none();
        Some(Self { rig: rig.parse().ok()?, kind }).filter(|_| ours)
    }

    /// The filter for all that a rig says, or all rigs where there is none.
    #[must_use]
    pub fn filter(rig: Option<&RigId>) -> String {
        format!("{ROOT}/{}/up/+", rig.map_or("+", RigId::as_str))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match leaf(self.kind) {
            Some((way, leaf)) => write!(f, "{ROOT}/{}/{way}/{leaf}", self.rig),
            None => f.write_str(CONTROLLER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_topic_that_parses_back() {
        for kind in Kind::ALL {
            let topic = Topic::new("a".parse().unwrap(), kind);
            let one_rigs = kind != Kind::Controller;
            assert_eq!(Topic::parse(&topic.to_string()), one_rigs.then_some(topic), "{kind:?}");
        }
    }

    #[test]
    fn nothing_else_is_a_rigs_topic() {
        for name in [
            "",
            "r1",
            "r2/a/up/tele",
            "r1/a/dn/tele",
            "r1/a/up/wm",
            "r1/a/up/tele/x",
            "r1/A/up/tele",
            "r1/+/up/tele",
            "r1/a/up/",
            CONTROLLER,
        ] {
            assert_eq!(Topic::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_rigs_name_is_safe_in_a_topic_and_in_a_certificate() {
        for bad in ["", "Rig", "rig_1", "rig/1", "rig+1", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<RigId>().is_err(), "{bad}");
        }
        assert!("rig-0001".parse::<RigId>().is_ok());
    }
}
