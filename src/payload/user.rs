//! Users and groups by name, from `/etc/passwd` and `/etc/group`: a static program has no other directory to ask.

use std::fs;

use rustix::thread::CapabilitySet;

use super::manifest::Manifest;
use crate::sorted;

/// Who a payload runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// All of its groups, `gid` included.
    pub(super) groups: Vec<u32>,
}

impl User {
    /// Looks up a user and, where one is named, a group in place of the user's own.
    ///
    /// # Errors
    /// What is not there, for people.
    pub(super) fn find(user: &str, group: Option<&str>) -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("could not read {path}: {error}"));
        resolve(&read("/etc/passwd")?, &read("/etc/group")?, user, group)
    }
}

fn resolve(passwd: &str, groups: &str, user: &str, group: Option<&str>) -> Result<User, String> {
    // name:password:uid:gid:comment:home:shell and name:password:gid:members
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find_map(|fields| match fields.as_slice() {
        [name, _, uid, gid, ..] if *name == user || *uid == user => {
            Some(((*name).to_owned(), uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?))
        }
        _ => None,
    });
    let (name, uid, own) = found.ok_or_else(|| format!("there is no user `{user}`"))?;
    let lines: Vec<Vec<&str>> = groups.lines().map(|line| line.split(':').collect()).collect();
    let known = lines.iter().filter_map(|fields| match fields.as_slice() {
        [name, _, gid, members, ..] => Some((*name, gid.parse::<u32>().ok()?, *members)),
        _ => None,
    });
    let known: Vec<_> = known.collect();
    let gid = match group {
        None => own,
        Some(wanted) => {
            let found = known.iter().find(|(name, gid, _)| *name == wanted || gid.to_string() == wanted);
            found.map(|(_, gid, _)| *gid).ok_or_else(|| format!("there is no group `{wanted}`"))?
        }
    };
    let member = known.iter().filter(|(_, _, members)| members.split(',').any(|member| member == name));
    let mut groups = sorted::list(member.map(|(_, gid, _)| *gid).chain([gid]));
    groups.dedup();
    Ok(User { name, uid, gid, groups })
}

/// The agent's own user, by number where it has no name.
#[must_use]
pub(super) fn own() -> User {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    User::find(&uid.to_string(), None).unwrap_or_else(|_| User { name: uid.to_string(), uid, gid, groups: vec![gid] })
}

/// Whether the agent may start a payload as somebody else. An ordinary user without that right, as on a developer's machine, has
/// nothing to lose to its own payloads that it would not lose to any program that it starts.
#[must_use]
pub(super) fn switches() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SETUID))
}

/// Who this manifest's payload runs as. Where the agent can become others it starts nothing as itself: such a payload would have the
/// agent's socket, its files and its devices.
///
/// # Errors
/// Why it must not run like that, or who is not there, for people.
pub(super) fn of(manifest: &Manifest, own: User) -> Result<User, String> {
    let named = manifest.user.as_deref().map(|name| User::find(name, manifest.group.as_deref())).transpose()?;
    choose(named, own, switches()).map_err(str::to_owned)
}

/// What is wrong with who this manifest names, as far as that is known before it is started. `agent` is the agent's user by number,
/// where whoever asks is not the agent; that one may become others as far as is known. Users of another rig are nobody here.
pub(super) fn wrong(manifest: &Manifest, agent: Option<u32>) -> Option<&'static str> {
    let named = match &manifest.user {
        Some(name) => Some(User::find(name, None).ok()?),
        None => None,
    };
    let own = own();
    let another = agent.filter(|agent| *agent != own.uid);
    choose(named, User { uid: another.unwrap_or(own.uid), ..own }, another.is_some() || switches()).err()
}

fn choose(named: Option<User>, own: User, switches: bool) -> Result<User, &'static str> {
    match named {
        None if own.uid == 0 => Err("would run as root; its manifest must name a user"),
        // Root is named by whoever means it.
        Some(user) if user.uid != own.uid || own.uid == 0 || !switches => Ok(user),
        None if !switches => Ok(own),
        Some(_) | None => Err("would run as the agent's own user; its manifest must name another"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_as_an_agent_that_can_become_others() {
        let user = |uid: u32| User { name: uid.to_string(), uid, gid: uid, groups: vec![uid] };
        let (root, own) = ("would run as root", "would run as the agent's own user");
        for (named, agent, switches, expected) in [
            // As root.
            (None, 0, true, Err(root)),
            (None, 0, false, Err(root)),
            (Some(0), 0, true, Ok(0)),
            (Some(990), 0, true, Ok(990)),
            // As systemd starts it, with CAP_SETUID.
            (None, 991, true, Err(own)),
            (Some(991), 991, true, Err(own)),
            (Some(990), 991, true, Ok(990)),
            (Some(0), 991, true, Ok(0)),
            // As anybody.
            (None, 1_000, false, Ok(1_000)),
            (Some(1_000), 1_000, false, Ok(1_000)),
            (Some(990), 1_000, false, Ok(990)),
        ] {
            let chosen = choose(named.map(user), user(agent), switches);
            let case = (named, agent, switches);
            match expected {
                Ok(uid) => assert_eq!(chosen, Ok(user(uid)), "{case:?}"),
                Err(why) => assert!(chosen.unwrap_err().starts_with(why), "{case:?}"),
            }
        }
    }

    #[test]
    fn whoever_asks_is_told_what_the_agent_would_say() {
        let manifest = |user: &str| {
            Manifest::parse("x.toml", "x", &format!("kind = \"ai\"\nargv = [\"/bin/true\"]\n{user}")).unwrap()
        };
        // An agent of another user than whoever asks, and that is not root's either.
        let agent = Some(own().uid + 60_991);
        assert!(wrong(&manifest(""), agent).unwrap().starts_with("would run as the agent's own user"));
        for user in ["user = \"root\"", "user = \"nobody\"", "user = \"of-another-rig\""] {
            assert_eq!(wrong(&manifest(user), agent), None, "{user}");
        }
        // Of somebody who has a name here.
        let nobody = User::find("nobody", None).unwrap().uid;
        assert!(wrong(&manifest("user = \"nobody\""), Some(nobody)).is_some() || own().uid == nobody);
        // Whoever asks is the agent, as far as is known.
        let refused = own().uid == 0 || switches();
        for agent in [None, Some(own().uid)] {
            assert_eq!(wrong(&manifest(""), agent).is_some(), refused, "{agent:?}");
        }
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nminer:x:990:991::/nonexistent:/usr/sbin/nologin\n";
        let groups = "root:x:0:\nminer:x:991:\nvideo:x:44:miner,other\nrender:x:109:miner\n";
        let found = |user, group| resolve(passwd, groups, user, group);
        let miner = User { name: "miner".to_owned(), uid: 990, gid: 991, groups: vec![44, 109, 991] };
        assert_eq!(found("miner", None), Ok(miner.clone()));
        assert_eq!(found("990", None), Ok(miner.clone()));
        let video = User { gid: 44, groups: vec![44, 109], ..miner };
        assert_eq!(found("miner", Some("video")), Ok(video.clone()));
        assert_eq!(found("miner", Some("44")), Ok(video));
        assert_eq!(found("nobody", None), Err("there is no user `nobody`".to_owned()));
        assert_eq!(found("miner", Some("x")), Err("there is no group `x`".to_owned()));
    }
}
