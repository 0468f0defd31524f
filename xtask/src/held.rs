//! Child processes that end with their owner, whatever ends the owner.
//!
//! A child is started through this very program, which asks the kernel for a signal at the death of its parent and then
//! becomes the child: so not even SIGKILL leaves a process behind, without a line of unsafe code. Each child is a process
//! group of its own, so that Ctrl-C reaches only its owner, which then ends the children in the right order.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::args::Args;

/// The hidden command: `xtask tied <term|interrupt|kill> <parent's pid> <program> <arguments>`.
pub(crate) const TIED: &str = "tied";

/// A clean stop may take this long; then SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when its child fails.
const TAIL: usize = 20;

/// How a child is asked to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGTERM, then SIGKILL after a grace period: it has something to put in order.
    Term,
    /// SIGINT, then SIGKILL: it has the terminal and gives it back as after Ctrl-C.
    Interrupt,
    /// SIGKILL at once: it holds nothing.
    Kill,
}

impl Ending {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Interrupt => "interrupt",
            Self::Kill => "kill",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Kill => Signal::KILL,
        }
    }
}

/// A command that will not outlive the calling thread; start it from the main thread only.
pub(crate) fn tied(program: &Path, ending: Ending) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("xtask").args([TIED, ending.name(), &std::process::id().to_string()]).arg(program);
    command
}

/// The other half of [`tied`].
pub(crate) fn become_tied(mut args: Args) -> Result<()> {
    let signal = match args.value(TIED)?.as_str() {
        "term" => Ending::Term.signal(),
        "interrupt" => Ending::Interrupt.signal(),
        _ => Ending::Kill.signal(),
    };
    let parent: i32 = args.value(TIED)?.parse()?;
    let program = args.value(TIED)?;
    set_parent_process_death_signal(Some(signal))?;
    // A parent that died before that line would never send it.
    ensure!(getppid().map(Pid::as_raw_pid) == Some(parent), "the parent is gone");
    let rest = std::iter::from_fn(|| args.next());
    Err(Command::new(&program).args(rest).exec()).with_context(|| program)
}

/// A running child, ended when dropped.
pub(crate) struct Held {
    name: String,
    child: Child,
    ending: Ending,
    asked_to_end: Option<Instant>,
    log: Option<PathBuf>,
}

impl Held {
    /// Starts a command made by [`tied`]. What it says on stderr goes to the log.
    pub(crate) fn start(name: &str, command: &mut Command, ending: Ending, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stderr(file);
        let mut held = Self::start_in_foreground(name, command, ending)?;
        held.log = Some(log.to_owned());
        Ok(held)
    }

    /// The same for the one child that has the terminal, and Ctrl-C with it.
    pub(crate) fn start_in_foreground(name: &str, command: &mut Command, ending: Ending) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, ending, asked_to_end: None, log: None })
    }

    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Nothing while it runs.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with the end of its log, when the child has ended.
    pub(crate) fn still_running(&mut self) -> Result<()> {
        let Some(status) = self.ended()? else { return Ok(()) };
        bail!("{} ended early ({status}). The end of its log:\n{}", self.name, self.tail())
    }

    pub(crate) fn tail(&self) -> String {
        let text = self.log.as_ref().and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
        let skipped = text.lines().count().saturating_sub(TAIL);
        text.lines().skip(skipped).map(|line| format!("  {line}\n")).collect()
    }

    /// Asks for the end without waiting, so that many can end at the same time.
    pub(crate) fn ask_to_end(&mut self) -> Instant {
        *self.asked_to_end.get_or_insert_with(|| {
            if let Ok(None) = self.child.try_wait() {
                // Not reaped yet, so the number still belongs to this child.
                kill_process(Pid::from_child(&self.child), self.ending.signal()).ok();
            }
            Instant::now()
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let deadline = self.ask_to_end() + GRACE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= deadline {
                eprintln!("xtask: {} did not end within {GRACE:?} and was killed", self.name);
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            thread::sleep(POLL);
        }
    }
}
