//! Removes what a tenant's payload leaves in its private folder. It follows no link, leaves no file system, and ends somewhere.
//!
//! A tenant may leave as many files as its disk holds, in folders as deep as it likes, and nobody else has its GPUs before they are
//! gone. So files are removed while their names are read, and a pass that has removed as many as it may leaves the rest to the next
//! one. No folder is too deep: one inside of another moves up before it has its turn.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Names that are dealt with in one pass at most; one more and it has failed. Half a minute on a slow disk.
const MOST: u32 = 200_000;

/// Removes everything in this folder and the folder; one that is not there is removed already. What stands in its place, a link
/// above all, is removed and not followed. `number` is any that is not always the same: folders that move up are named by it and
/// those that follow it, and nobody can have taken all of these names.
///
/// # Errors
/// What the system says, and where there is more than goes in one pass. What was removed is, so that another pass gets further.
pub(super) fn wipe(folder: &Path, number: u64) -> io::Result<()> {
    pass(folder, number, MOST)
}

fn pass(folder: &Path, number: u64, left: u32) -> io::Result<()> {
    match unlinkat(CWD, folder, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A folder: EISDIR in Linux, EPERM in POSIX (unlink(2)).
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let root = open(CWD, folder)?;
    let device = fstat(&root)?.st_dev;
    Pass { root: root.as_fd(), device, left, number }.clean(root.as_fd(), Pass::remove)?;
    unlinkat(CWD, folder, AtFlags::REMOVEDIR)?;
    Ok(())
}

fn open<P: rustix::path::Arg>(at: BorrowedFd<'_>, path: P) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    Ok(openat(at, path, flags, Mode::empty())?)
}

struct Pass<'a> {
    root: BorrowedFd<'a>,
    device: u64,
    left: u32,
    number: u64,
}

impl Pass<'_> {
    fn count(&mut self) -> io::Result<()> {
        let left = self.left.checked_sub(1);
        self.left =
            left.ok_or_else(|| io::Error::other("more than is removed at once; the rest goes the next time"))?;
        Ok(())
    }

    /// Removes every file of a folder, and does `then` with each folder in it, until nothing is in it any more.
    fn clean(
        &mut self,
        folder: BorrowedFd<'_>,
        then: fn(&mut Self, BorrowedFd<'_>, &CStr) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let mut is_empty = true;
            for entry in Dir::read_from(folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                is_empty = false;
                self.count()?;
                match unlinkat(folder, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => then(self, folder, name)?,
                    Err(error) => return Err(error.into()),
                }
            }
            // Names that come or go while they are read may have been passed over.
            if is_empty {
                return Ok(());
            }
        }
    }

    /// Empties a folder and removes it.
    fn remove(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let inner = open(folder, name)?;
        if fstat(&inner)?.st_dev != self.device {
            return Err(io::Error::other("something is mounted in it"));
        }
        self.clean(inner.as_fd(), Self::raise)?;
        Ok(unlinkat(folder, name, AtFlags::REMOVEDIR)?)
    }

    /// Moves a folder up, under a name of ours. An empty one that has this name already goes by that (rename(2)).
    fn raise(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            let new = self.number.to_string();
            self.number = self.number.wrapping_add(1);
            match renameat(folder, name, self.root, new) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => self.count()?,
                done => return Ok(done?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn base(name: &str) -> PathBuf {
        let base = std::env::temp_dir().join(format!("rigd-wipe-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        base
    }

    #[test]
    fn everything_in_it_goes_and_nothing_outside_does() {
        let base = base("all");
        let private = base.join("state/private");
        fs::create_dir_all(private.join("deep/er")).unwrap();
        fs::create_dir_all(base.join("other")).unwrap();
        for file in ["state/kept", "other/kept", "state/private/one", "state/private/deep/er/two"] {
            fs::write(base.join(file), "x").unwrap();
        }
        symlink(base.join("other"), private.join("way-out")).unwrap();
        symlink(base.join("other/kept"), private.join("deep/file-out")).unwrap();
        symlink(base.join("other"), private.join("deep/er/way-out")).unwrap();
        wipe(&private, 0).unwrap();
        assert!(!private.exists() && base.join("state/kept").exists() && base.join("other/kept").exists());
        wipe(&private, 0).unwrap();
        // A link in the place of the folder is what goes.
        symlink(base.join("other"), &private).unwrap();
        wipe(&private, 0).unwrap();
        assert!(private.symlink_metadata().is_err() && base.join("other/kept").exists());
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn no_folder_is_too_deep_and_no_name_is_in_its_way() {
        let base = base("too-deep");
        let private = base.join("private");
        fs::create_dir_all(private.join("d/".repeat(1_500))).unwrap();
        // The names that folders get when they move up: a folder with something in it, a file, an empty folder.
        fs::create_dir_all(private.join("7/full")).unwrap();
        fs::write(private.join("8"), "x").unwrap();
        fs::create_dir_all(private.join("9")).unwrap();
        wipe(&private, 7).unwrap();
        assert!(!private.exists());
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn what_is_more_than_one_pass_removes_is_gone_after_some() {
        for (name, folder, files) in [("flat", "", 101), ("wide", "0/", 40), ("deep", "d/d/d/d/d/d/d/d/d/d/d/d/", 40)] {
            let base = base(name);
            let private = base.join("private");
            fs::create_dir_all(private.join(folder)).unwrap();
            for file in 0..files {
                fs::write(private.join(folder).join(file.to_string()), "x").unwrap();
            }
            let tried = (0..20).position(|again| match pass(&private, again, 20) {
                Err(error) => {
                    assert!(error.to_string().contains("more than is removed"), "{name}: {error}");
                    false
                }
                Ok(()) => true,
            });
            assert!(tried.is_some_and(|tried| tried > 1), "{name}: {tried:?}");
            assert!(!private.exists());
            fs::remove_dir_all(&base).unwrap();
        }
    }
}
