//! Users and groups by name, from `/etc/passwd` and `/etc/group`: a static program has no other directory to ask.

use crate::sorted;
use std::fs;

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

#[cfg(test)]
mod tests {
    use super::*;

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
