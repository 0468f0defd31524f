//! A small JSON file in the state directory: whole or not at all.
//!
//! Writing is a file beside it, fsync, rename, fsync of the directory: a power cut at any instant leaves the old file or
//! the new one. A file that cannot be read or understood never stops a start: it is put aside under another name, for
//! whoever wants to look, and told.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use log::warn;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One such file.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// What is longer is not read, bytes: nothing of ours comes near.
    largest: u64,
}

impl StateFile {
    /// The file of this name, which ends in `.json`, in this directory.
    pub(crate) fn new(directory: &Path, name: &str, largest: u64) -> Self {
        Self { path: directory.join(name), largest }
    }

    /// What it holds; the default where there is none yet, or where it was damaged. `consequence` says in the warning what
    /// that means.
    pub(crate) fn load<T: DeserializeOwned + Default>(&self, consequence: &str) -> T {
        match self.read() {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => T::default(),
            Err(error) => {
                let aside = self.path.with_extension("json.bad");
                // The one that was put aside before goes: one is kept, so that they do not fill the disk.
                let put = match fs::rename(&self.path, &aside) {
                    Ok(()) => format!("it is kept as {}", aside.display()),
                    Err(error) => format!("it could not be put aside: {error}"),
                };
                warn!("{}: {error}; {consequence}; {put}", self.path.display());
                T::default()
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// What the system says; the old file is there then.
    pub(crate) fn save<T: Serialize>(&self, kept: &T) -> io::Result<()> {
        replace(&self.path, "json.new", &serde_json::to_vec_pretty(kept)?)
    }

    fn read<T: DeserializeOwned>(&self) -> io::Result<T> {
        if fs::metadata(&self.path)?.len() > self.largest {
            return Err(io::Error::other(format!("longer than {} bytes, which nothing of ours is", self.largest)));
        }
        Ok(serde_json::from_slice(&fs::read(&self.path)?)?)
    }
}

/// Puts these bytes into the place of a file, in one step: a power cut leaves the old file or the new one. They are written beside
/// it first, under its name with this extension.
///
/// # Errors
/// What the system says; the old file is there then.
pub(crate) fn replace(path: &Path, extension: &str, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension(extension);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
