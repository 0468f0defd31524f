//! Directories of payloads, made and opened so that no payload decides which ones these are.
//!
//! A payload that may write in a directory can put a link in the place of one that is below it. Whoever follows that link gives a
//! directory of the system to the payload's user, or puts it within the payload's reach (`sandbox.rs`). So each name on the way is
//! opened by itself, in what the name before it has led to, and what comes of it is used as a descriptor and never by its name again.
//! A link is followed only where root or the agent has made it, as on a rig that has its states on another disk; not where that is
//! also who the payload runs as.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, fstat, mkdirat, openat, readlinkat,
};
use rustix::io::Errno;

use super::user::User;

/// Links on one way, as many as the kernel follows (path_resolution(7)).
const LINKS: usize = 40;

/// Opens what is there, as a place (`O_PATH`), a file as well as a directory. `user` is who could have made a link on the way;
/// nobody where only the agent may write there.
///
/// # Errors
/// What the system says; `InvalidInput` where a link is not to be followed.
pub(super) fn open(path: &Path, user: Option<&User>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = || rustix::fs::open("/", flags, Mode::empty());
    let (mut at, mut links) = (root()?, 0);
    // The next one is the last of them.
    let mut names = steps(path);
    while let Some(name) = names.pop() {
        let next = openat(&at, name.as_os_str(), flags, Mode::empty())?;
        let found = fstat(&next)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
            at = next;
            continue;
        }
        links += 1;
        let ours = found.st_uid == 0 || found.st_uid == rustix::process::geteuid().as_raw();
        if links > LINKS || !ours || user.is_some_and(|user| user.uid == found.st_uid) {
            let text = format!("`{}` is a link that the payload may have made; name what it leads to", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let target = OsString::from_vec(readlinkat(&next, "", Vec::new())?.into_bytes());
        if target.as_bytes().starts_with(b"/") {
            at = root()?;
        }
        names.extend(steps(Path::new(&target)));
    }
    Ok(at)
}

/// The names of a path, the last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.collect()
}

/// Makes a directory where there is none, with this mode and for this owner, and opens it. One that is there stays as it is, but for one
/// that was made and not given away, where `user` is nobody.
///
/// # Errors
/// As [`open`]; what is above it must be there.
pub(super) fn make(path: &Path, mode: u32, user: Option<&User>, owner: Option<&User>) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return open(path, user) };
    let (parent, mode) = (open(parent, user)?, Mode::from_raw_mode(mode));
    match mkdirat(&parent, name, mode) {
        Err(Errno::EXIST) => {
            let directory = open(path, user)?;
            let found = fstat(&directory)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR.into());
            }
            // Where only the agent may write, one that is still its own is left of an agent that was killed before it gave it away.
            if let (None, Some(User { uid, gid, .. })) = (user, owner)
                && *uid != found.st_uid
                && found.st_uid == rustix::process::geteuid().as_raw()
            {
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                chownat(&directory, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
            }
            return Ok(directory);
        }
        made => made?,
    }
    let directory = opened(&parent, name)?;
    // The agent's umask has taken bits away.
    fchmod(&directory, mode)?;
    if let Some(User { uid, gid, .. }) = owner {
        fchown(&directory, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
    }
    Ok(directory)
}

/// What was made a moment ago; whoever has put something else in its place since put no link there that is followed.
fn opened(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
    use std::path::PathBuf;

    use super::*;

    fn place(name: &str) -> PathBuf {
        let place = std::env::temp_dir().join(format!("rigd-directory-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(place.join("there/deep")).unwrap();
        place.canonicalize().unwrap()
    }

    fn user(uid: u32) -> User {
        User { name: "x".to_owned(), uid, gid: uid, groups: vec![uid] }
    }

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn links_of_the_payload_are_not_followed_wherever_they_stand() {
        let place = place("links");
        let (links, there) = (place.join("links"), place.join("there"));
        fs::create_dir(&links).unwrap();
        symlink(&there, links.join("absolute")).unwrap();
        symlink("../there", links.join("relative")).unwrap();
        symlink("absolute", links.join("twice")).unwrap();
        symlink("round", links.join("round")).unwrap();
        // The one that has made them runs the payload, or somebody else does.
        let (maker, other) = (user(own()), user(own() + 1));
        for (path, by_other, by_maker) in [
            ("there", true, true),
            ("there/deep", true, true),
            ("links/absolute", true, false),
            ("links/relative", true, false),
            ("links/twice", true, false),
            ("links/absolute/deep", true, false),
            ("links/relative/deep", true, false),
            ("links/round", false, false),
            ("links/none", false, false),
        ] {
            let path = place.join(path);
            assert_eq!(open(&path, Some(&other)).is_ok(), by_other, "{path:?}");
            assert_eq!(open(&path, None).is_ok(), by_other, "{path:?}");
            assert_eq!(open(&path, Some(&maker)).is_ok(), by_maker, "{path:?}");
            let Ok(found) = open(&path, Some(&other)) else { continue };
            assert_eq!(fstat(&found).unwrap().st_ino, fs::metadata(&path).unwrap().ino(), "{path:?}");
        }
        let told = open(&links.join("absolute/deep"), Some(&maker)).unwrap_err().to_string();
        assert!(told.starts_with("`absolute` is a link that the payload may have made"), "{told}");
        // Somebody else's, neither root's nor the agent's: only root can put one there.
        if own() == 0 {
            lchown(links.join("absolute"), Some(65_534), None).unwrap();
            for (path, user) in [("absolute", None), ("absolute/deep", Some(&other)), ("twice", None)] {
                assert_eq!(open(&links.join(path), user).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path}");
            }
        }
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn a_directory_is_made_once_and_what_stands_in_its_place_is_not_touched() {
        let place = place("make");
        let (new, there) = (place.join("new"), place.join("there"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let nobody = user(65_534);
        let (owner, expected) = if own() == 0 { (Some(&nobody), 65_534) } else { (None, own()) };
        let made = make(&new, 0o711, Some(&nobody), owner).unwrap();
        assert_eq!(fstat(&made).unwrap().st_ino, fs::metadata(&new).unwrap().ino());
        assert_eq!((mode(&new), fs::metadata(&new).unwrap().uid()), (0o711, expected));
        // It is there: no other mode, no other owner.
        let before = (mode(&there), fs::metadata(&there).unwrap().uid());
        make(&there, 0o123, Some(&nobody), Some(&nobody)).unwrap();
        assert_eq!((mode(&there), fs::metadata(&there).unwrap().uid()), before);
        // Only where the agent alone may write is it known to be a start that was not finished.
        if own() == 0 {
            fs::create_dir(place.join("begun")).unwrap();
            make(&place.join("begun"), 0o700, None, Some(&nobody)).unwrap();
            assert_eq!(fs::metadata(place.join("begun")).unwrap().uid(), 65_534);
        }
        // A link of the payload's in its place, or above it, and a file.
        let maker = user(own());
        symlink(&there, place.join("link")).unwrap();
        fs::write(place.join("file"), "").unwrap();
        for path in ["link", "link/new", "file", "none/new"] {
            assert!(make(&place.join(path), 0o700, Some(&maker), owner).is_err(), "{path}");
        }
        assert!(!there.join("new").exists());
        assert_eq!((mode(&there), fs::metadata(&there).unwrap().uid()), before);
        fs::remove_dir_all(place).unwrap();
    }
}
