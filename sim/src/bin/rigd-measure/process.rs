//! Children that end with the run, and the signal that ends the run.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rigd::clock;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A clean stop may take this long; then SIGKILL.
const GRACE: Duration = Duration::from_secs(6);
const POLL: Duration = Duration::from_millis(5);
/// Lines of a log that are shown when its process fails.
const TAIL: usize = 10;

/// A running child, ended when dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    /// Taken right before it was started.
    pub(crate) started: Instant,
}

impl Running {
    /// In a process group of its own: Ctrl-C reaches us, and we end it.
    pub(crate) fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let started = clock::now();
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log, started })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the end of its log, when it has ended.
    pub(crate) fn still_running(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let skipped = text.lines().count().saturating_sub(TAIL);
        let tail: String = text.lines().skip(skipped).map(|line| format!("\n  {line}")).collect();
        bail!("{} ended early ({status}). The end of its log:{tail}", self.name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let deadline = clock::now() + GRACE;
        if let Ok(None) = self.child.try_wait() {
            // Not reaped yet, so the number still belongs to this child.
            kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        }
        while let Ok(None) = self.child.try_wait() {
            if clock::now() >= deadline {
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            thread::sleep(POLL);
        }
    }
}

/// Set once somebody wants the run to end: Ctrl-C, SIGTERM, or a closed terminal.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Fails once it came; what runs is then ended on the way out.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}
