//! Topic names: one type builds and parses them. `up` is written only by the rig, `dn` only by the control plane.
//!
//! A command for many rigs comes by their group's topic. A site has none of its own: it is a group too, so that a broker's
//! access list needs one line for both, and names of groups and sites are of one kind and must differ.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Kind;

/// Major version of the topic tree.
const ROOT: &str = "r1";
/// Where the control plane says whether it is there.
pub const CONTROLLER: &str = "r1/ctl/state";

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $(#[$bad_doc:meta])* $bad:ident, $text:literal, $taken:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        $(#[$bad_doc])*
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[error($text)]
        pub struct $bad(String);

        impl $name {
            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $bad;

            fn try_from(name: String) -> Result<Self, $bad> {
                if good(&name, $taken) { Ok(Self(name)) } else { Err($bad(name)) }
            }
        }

        impl FromStr for $name {
            type Err = $bad;

            fn from_str(name: &str) -> Result<Self, $bad> {
                Self::try_from(name.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A rig's name: certificate CN, MQTT client id and part of its topics, so 1 to 64 of `a-z 0-9 -`, and neither
    /// `g` nor `ctl`, whose topics are the groups' and the control plane's.
    RigId,
    /// A name that cannot be a rig's.
    BadRigId,
    "`{0}` cannot be a rig's name: 1 to 64 characters of a-z, 0-9 and -",
    // Parts of topics that are nobody's own.
    &["g", "ctl"]
);
id!(
    /// The name of a group of rigs, or of a site: part of a topic, so of the same 1 to 64 of `a-z 0-9 -`.
    GroupId,
    /// A name that cannot be a group's.
    BadGroupId,
    "`{0}` cannot be a group's name: 1 to 64 characters of a-z, 0-9 and -",
    &[]
);

fn good(name: &str, taken: &[&str]) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&name.len()) && name.chars().all(good) && !taken.contains(&name)
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
        Kind::Ack => Some(("up", "ack")),
        Kind::Reported => Some(("up", "rep")),
        Kind::Command => Some(("dn", "cmd")),
        Kind::Desired => Some(("dn", "des")),
        Kind::Receipt => Some(("up", "rcp")),
        Kind::Log => Some(("up", "log")),
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

    /// The filter for all that is said to a rig.
    #[must_use]
    pub fn commands(rig: &RigId) -> String {
        format!("{ROOT}/{rig}/dn/+")
    }

    /// The filter for all that any rig says, at whatever level, as one who keeps it wants it.
    #[must_use]
    pub fn everything() -> String {
        format!("{ROOT}/+/up/#")
    }

    /// The filter for the events of a rig, or all rigs where there is none.
    #[must_use]
    pub fn events(rig: Option<&RigId>) -> String {
        format!("{ROOT}/{}/up/event", rig.map_or("+", RigId::as_str))
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

/// Where commands for a group, or a site, come from: `r1/g/{group}/dn/cmd`.
///
/// ```
/// use rigd::wire::GroupTopic;
/// let topic = GroupTopic("hall-2".parse()?);
/// assert_eq!(topic.to_string(), "r1/g/hall-2/dn/cmd");
/// assert_eq!(GroupTopic::parse("r1/g/hall-2/dn/cmd"), Some(topic));
/// # Ok::<(), rigd::wire::BadGroupId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTopic(pub GroupId);

impl GroupTopic {
    /// What a topic name means; `None` for anything that is not one group's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut levels = name.split('/');
        let (root, g, group) = (levels.next()?, levels.next()?, levels.next()?);
        let ours = root == ROOT && g == "g" && levels.eq(["dn", "cmd"]);
        Some(Self(group.parse().ok()?)).filter(|_| ours)
    }
}

impl fmt::Display for GroupTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ROOT}/g/{}/dn/cmd", self.0)
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
            "r1/a/up/cmd",
            "r1/g/a/dn/cmd",
            CONTROLLER,
        ] {
            assert_eq!(Topic::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_groups_topic_is_no_rigs_also_where_a_rig_is_called_g() {
        for name in
            ["", "r1/g/dn/cmd", "r1/g/a/dn/des", "r1/g/a/up/cmd", "r1/g/A/dn/cmd", "r1/g/a/dn/cmd/x", "r2/g/a/dn/cmd"]
        {
            assert_eq!(GroupTopic::parse(name), None, "{name}");
        }
        assert_eq!(Topic::parse("r1/g/dn/cmd"), None, "nor is that a rig's");
        assert!("Hall 2".parse::<GroupId>().is_err());
    }

    #[test]
    fn a_rigs_name_is_safe_in_a_topic_and_in_a_certificate() {
        for bad in ["", "g", "ctl", "Rig", "rig_1", "rig/1", "rig+1", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<RigId>().is_err(), "{bad}");
        }
        assert!("rig-0001".parse::<RigId>().is_ok());
    }
}
