//! Removes what a tenant's payload leaves in its private folder. It follows no link, leaves no file system, and ends somewhere.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;

/// Files and folders that are removed at most; one more and it has failed. Half a minute on a slow disk.
const MOST: u32 = 200_000;
/// Folders inside of each other.
const DEEPEST: u32 = 64;

/// Removes everything in this folder and the folder; one that is not there is removed already. What stands in its place, a link
/// above all, is removed and not followed.
///
/// # Errors
/// What the system says, and where there is more than a payload leaves. What was removed is.
pub(super) fn wipe(folder: &Path) -> io::Result<()> {
    let mut left = MOST;
    match unlinkat(CWD, folder, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A folder: EISDIR in Linux, EPERM in POSIX (unlink(2)).
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let root = open(CWD, folder)?;
    let device = fstat(&root)?.st_dev;
    clean(root.as_fd(), device, &mut left, DEEPEST)?;
    unlinkat(CWD, folder, AtFlags::REMOVEDIR)?;
    Ok(())
}

fn open<P: rustix::path::Arg>(at: BorrowedFd<'_>, path: P) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(openat(at, path, flags, Mode::empty())?)
}

fn clean(folder: BorrowedFd<'_>, device: u64, left: &mut u32, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("folders too deep inside of each other"));
    }
    let mut names: Vec<CString> = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *left = left.checked_sub(1).ok_or_else(|| io::Error::other("more files than are removed at once"))?;
        names.push(name.to_owned());
    }
    for name in names {
        match unlinkat(folder, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let inner = open(folder, &name)?;
        if fstat(&inner)?.st_dev != device {
            return Err(io::Error::other("something is mounted in it"));
        }
        clean(inner.as_fd(), device, left, depth - 1)?;
        unlinkat(folder, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn everything_in_it_goes_and_nothing_outside_does() {
        let base = std::env::temp_dir().join(format!("rigd-wipe-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let private = base.join("state/private");
        fs::create_dir_all(private.join("deep/er")).unwrap();
        fs::create_dir_all(base.join("other")).unwrap();
        for file in ["state/kept", "other/kept", "state/private/one", "state/private/deep/er/two"] {
            fs::write(base.join(file), "x").unwrap();
        }
        symlink(base.join("other"), private.join("way-out")).unwrap();
        symlink(base.join("other/kept"), private.join("deep/file-out")).unwrap();
        wipe(&private).unwrap();
        assert!(!private.exists() && base.join("state/kept").exists() && base.join("other/kept").exists());
        wipe(&private).unwrap();
        // A link in the place of the folder is what goes.
        symlink(base.join("other"), &private).unwrap();
        wipe(&private).unwrap();
        assert!(private.symlink_metadata().is_err() && base.join("other/kept").exists());
        // Deeper than anybody's files are.
        fs::create_dir_all(private.join("d/".repeat(70))).unwrap();
        assert!(wipe(&private).unwrap_err().to_string().contains("too deep"));
        fs::remove_dir_all(&base).unwrap();
    }
}
