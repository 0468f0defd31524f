//! A file that is locked for as long as somebody is at work beside it.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The lock on such a file, until it is dropped.
///
/// A lock belongs to the open file, which a child that was just forked shares until its exec: closing ours would leave the file
/// locked for that moment, and whoever opens it next would find somebody there. So it is unlocked, which counts for every copy
/// (flock(2)).
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Locks this file, which is made where there is none; nothing where somebody else has it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Where this fails, closing it unlocks it, later perhaps.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn it_is_free_once_it_is_let_go_also_where_a_child_has_a_copy() {
        let scratch = Scratch::new("lock");
        let path = scratch.join("lock");
        let lock = Lock::take(&path).unwrap().unwrap();
        // As a child has it between fork and exec.
        let copy = lock.0.try_clone().unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(Lock::take(&path).unwrap().is_some());
        drop(copy);
    }
}
