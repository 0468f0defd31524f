//! The real file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::Files;
use crate::lock::Lock;

/// Files by their paths; the one that was written last stays open.
#[derive(Debug, Default)]
pub(super) struct Real {
    lock: Option<Lock>,
    open: Option<(PathBuf, File)>,
}

impl Real {
    fn file(&mut self, path: &Path) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            self.open = Some((path.to_owned(), file));
        }
        self.open.as_ref().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn let_go(&mut self, path: &Path) {
        self.open.take_if(|(open, _)| open == path);
    }
}

impl Files for Real {
    fn make(&mut self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)
    }

    fn lock(&mut self, path: &Path) -> io::Result<bool> {
        if self.lock.is_none() {
            self.lock = Lock::take(path)?;
        }
        Ok(self.lock.is_some())
    }

    fn list(&mut self, directory: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&mut self, path: &Path, from: u64, most: usize) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let there = usize::try_from(file.metadata()?.len().saturating_sub(from)).unwrap_or(most);
        let mut bytes = vec![0; there.min(most)];
        file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }

    fn write(&mut self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(path)?;
        if file.metadata()?.len() > at {
            file.set_len(at)?;
        }
        file.write_all_at(bytes, at)
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        let done = self.file(path)?.sync_data();
        if done.is_err() {
            // The next attempt begins with a file of its own.
            self.let_go(path);
        }
        done
    }

    fn sync_names(&mut self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.let_go(from);
        self.let_go(to);
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.let_go(path);
        fs::remove_file(path)
    }
}
