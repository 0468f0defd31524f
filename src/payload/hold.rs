//! How far a payload is held back for the rig's sake: power, heat. Nobody's order to run or not is touched by it.
//!
//! ```text
//! control ── What::Hold ── Worker ── lifecycle::next ──┬── Pause ──> API, 2 s ──> freezer, 2 s ──> SIGSTOP ──> drained
//!                                                      ├── Drain ──> asked to end, its own grace
//!                                                      └── Stop ───> cgroup.kill
//! ```
//!
//! | pauses | what stops | what stays |
//! |---|---|---|
//! | an API that the manifest names (`[pause]`) | the program's work | connections, data sets; it may go on by itself, which its power shows |
//! | the cgroup freezer (cgroup-v2.rst, "cgroup.freeze", Linux 5.2) | every process of the payload, containers' too | memory, VRAM, sockets; peers see one that does not answer |
//! | SIGSTOP to the session, where there is no cgroup | what has not left the session | the same |
//!
//! A frozen CUDA program keeps its context and its VRAM, and what it has handed to the GPU already runs to its end: the GPU is
//! idle when its queue is, after milliseconds for miners. A pool or a server may drop a client that is silent for minutes; after that
//! it connects anew, as after any other break.
//!
//! What is frozen takes SIGTERM only when it goes on, and SIGKILL at once ("can be killed by a fatal signal", cgroup-v2.rst). A
//! payload is therefore thawed with every signal, and behind its last process.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, PauseUse};
use super::meter::{Meter, Token, tell};

/// How far a payload is held back, from the mildest. Order and numbers go to the wire and to files: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Not at all.
    #[default]
    Free,
    /// Paused: its processes are there and do not work. AI work is never paused, it is drained.
    Pause,
    /// Asked to end, in its own time; it runs again when it is free.
    Drain,
    /// Ended at once; it runs again when it is free.
    Stop,
}

/// What keeps a paused payload from working.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// It was asked to, and said yes.
    Api,
    /// Its cgroup is frozen.
    Freezer,
    /// SIGSTOP; what has left its session goes on.
    Signal,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "not held back",
            Self::Pause => "to be paused",
            Self::Drain => "to be drained",
            Self::Stop => "to be stopped",
        })
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Api => "by its API",
            Self::Freezer => "frozen",
            Self::Signal => "by SIGSTOP alone",
        })
    }
}

/// Why a payload that was ordered to run does not, for people.
#[must_use]
pub(super) fn waits(hold: Hold) -> String {
    format!("waits, {hold} for the rig's power or heat; it starts when that is over")
}

/// Asks a payload's API to rest, or to go on. `None` where its manifest names none.
///
/// # Errors
/// Why it did not say yes, for people. Takes no longer than [`super::meter::TIMEOUT`].
pub(super) async fn ask(manifest: &Manifest, rest: bool) -> Option<Result<(), String>> {
    let asked = manifest.pause.as_ref()?;
    Some(asking(manifest, asked, rest).await)
}

async fn asking(manifest: &Manifest, asked: &PauseUse, rest: bool) -> Result<(), String> {
    let meter = Meter::load(&asked.api).map_err(|problems| problems.to_string())?;
    let pausing = meter.pause.as_ref().ok_or("its API has no [pause]")?;
    let used = manifest.meter.as_ref();
    let port = asked.port.or(used.and_then(|used| used.port)).or(meter.port).ok_or("pause.port is not given")?;
    let path = asked.token_file.clone().or_else(|| used?.options.get("token_file").map(PathBuf::from));
    let token =
        path.map(|path| Token::read(&path).map_err(|error| format!("{}: {error}", path.display()))).transpose()?;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    tell(at, meter.format, pausing, rest, token.as_ref()).await.map_err(|missing| format!("port {port}: {missing}"))
}
