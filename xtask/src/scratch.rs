//! A folder for a while.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A scratch directory that goes when dropped, and within seconds even when its owner is killed.
pub(crate) struct Scratch {
    path: PathBuf,
    sweeper: Child,
}

impl Scratch {
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("rigd-{purpose}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        // Its standard input ends with this process; the pause is for the other children to end first.
        let sweeper = Command::new("sh")
            .args(["-c", "read -r _; sleep 2; rm -rf -- \"$1\"", "sweeper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start sh")?;
        Ok(Self { path, sweeper })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.sweeper.kill().ok();
        self.sweeper.wait().ok();
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("xtask: remove {}: {error}", self.path.display());
        }
    }
}
