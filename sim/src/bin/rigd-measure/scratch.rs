//! A folder for the length of a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        Self::below(&std::env::temp_dir())
    }

    /// For what must be seen by who has another `/tmp`.
    pub(crate) fn outside_tmp() -> Result<Self> {
        Self::below(Path::new("/var/tmp"))
    }

    fn below(folder: &Path) -> Result<Self> {
        let path = folder.join(format!("rigd-measure-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
