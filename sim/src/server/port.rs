//! A listening socket that can be closed and opened again, and the gate that ends all waiting.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Shared, lock, serve};

/// A client that does not take its reply for so long is cut off.
const WRITE_TIME_OUT: Duration = Duration::from_secs(3);
/// Connections to one socket at a time; the next is closed at once.
const MAX_CONNECTIONS: usize = 64;
/// After a failed accept (no file descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Closed once, for good; whoever waits at it wakes.
#[derive(Default)]
pub(crate) struct Gate {
    closed: Mutex<bool>,
    closing: Condvar,
}

impl Gate {
    pub(crate) fn close(&self) {
        *lock(&self.closed) = true;
        self.closing.notify_all();
    }

    /// Waits; true when it is closed, which it notices at once.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let waited = self.closing.wait_timeout_while(lock(&self.closed), time, |closed| !*closed);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A listening socket that can be closed and opened again.
pub(crate) struct Port {
    path: PathBuf,
    serves: Serves,
    open: Mutex<Option<Open>>,
    /// Threads of sockets closed meanwhile.
    retired: Mutex<Vec<JoinHandle<()>>>,
    /// A bus does one transaction at a time.
    line: Mutex<()>,
}

/// What a connection to it speaks.
#[derive(Clone, Copy)]
pub(super) enum Serves {
    Bus(usize),
    Control,
    Nvml,
}

/// Connections by number, to shut them down.
type Connections = Arc<Mutex<Vec<(u64, UnixStream)>>>;

struct Open {
    /// A second handle of the listening socket, to shut it down.
    listener: UnixStream,
    connections: Connections,
    thread: JoinHandle<()>,
}

impl Port {
    pub(crate) fn bus(dir: &Path, socket: &str, index: usize) -> Self {
        Self::new(dir.join(socket), Serves::Bus(index))
    }

    pub(crate) fn control(dir: &Path) -> Self {
        Self::new(dir.join("control"), Serves::Control)
    }

    pub(crate) fn nvml(dir: &Path) -> Self {
        Self::new(dir.join("nvml"), Serves::Nvml)
    }

    fn new(path: PathBuf, serves: Serves) -> Self {
        Self { path, serves, open: Mutex::default(), retired: Mutex::default(), line: Mutex::default() }
    }

    /// Listens, if it does not yet.
    pub(crate) fn open(&self, shared: &Arc<Shared>) -> Result<()> {
        let mut open = lock(&self.open);
        if open.is_some() {
            return Ok(());
        }
        remove_stale(&self.path)?;
        let listener = UnixListener::bind(&self.path).with_context(|| format!("listen on {}", self.path.display()))?;
        let handle = UnixStream::from(OwnedFd::from(listener.try_clone()?));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (serves, kept, shared) = (self.serves, Arc::clone(&connections), Arc::clone(shared));
        let thread = thread::Builder::new()
            .name(format!("sim {}", self.path.file_name().unwrap_or_default().display()))
            .spawn(move || accept(&listener, serves, &kept, &shared))?;
        *open = Some(Open { listener: handle, connections, thread });
        Ok(())
    }

    /// Closes the socket and every connection; later ones are refused.
    pub(crate) fn close(&self) {
        let Some(Open { listener, connections, thread }) = lock(&self.open).take() else { return };
        // Who waits in accept() returns, and connect() is refused from here on, also to those in the queue.
        listener.shutdown(Shutdown::Both).ok();
        std::fs::remove_file(&self.path).ok();
        for (_, connection) in lock(&connections).iter() {
            connection.shutdown(Shutdown::Both).ok();
        }
        let mut retired = lock(&self.retired);
        retired.retain(|thread| !thread.is_finished());
        retired.push(thread);
    }

    /// Waits for the bus to be free.
    pub(super) fn line(&self) -> MutexGuard<'_, ()> {
        lock(&self.line)
    }

    /// Waits for the threads of a closed socket. They do not take long once the gate is closed too.
    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut *lock(&self.retired));
        for thread in threads {
            thread.join().ok();
        }
    }
}

/// A socket that nobody listens on any more may be replaced; anything else is left alone.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    ensure!(found.file_type().is_socket(), "{} is there and is no socket", path.display());
    ensure!(UnixStream::connect(path).is_err(), "{} is served by another simulated rig", path.display());
    std::fs::remove_file(path).with_context(|| format!("remove the stale {}", path.display()))
}

fn accept(listener: &UnixListener, serves: Serves, connections: &Connections, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for id in 0.. {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Shut down.
            Err(error) if error.kind() == ErrorKind::InvalidInput => break,
            Err(error) => {
                log::warn!("simulated rig: accept: {error}");
                if shared.gate.wait(ACCEPT_PAUSE) {
                    break;
                }
                continue;
            }
        };
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= MAX_CONNECTIONS {
            log::warn!("simulated rig: {MAX_CONNECTIONS} connections to one socket are enough; closed another");
            continue;
        }
        match spawn(id, stream, serves, connections, shared) {
            Ok(thread) => threads.push(thread),
            Err(error) => log::warn!("simulated rig: connection: {error:#}"),
        }
    }
    // Connections made while the listener was being shut down.
    for (_, connection) in lock(connections).iter() {
        connection.shutdown(Shutdown::Both).ok();
    }
    for thread in threads {
        thread.join().ok();
    }
}

fn spawn(
    id: u64,
    stream: UnixStream,
    serves: Serves,
    connections: &Connections,
    shared: &Arc<Shared>,
) -> Result<JoinHandle<()>> {
    stream.set_write_timeout(Some(WRITE_TIME_OUT))?;
    lock(connections).push((id, stream.try_clone()?));
    let (kept, shared) = (Arc::clone(connections), Arc::clone(shared));
    let thread = thread::Builder::new().name(format!("sim connection {id}")).spawn(move || {
        if let Err(error) = serve(serves, stream, &shared) {
            log::warn!("simulated rig: closed connection {id}: {error:#}");
        }
        lock(&kept).retain(|(other, connection)| {
            let ours = *other == id;
            if ours {
                connection.shutdown(Shutdown::Both).ok();
            }
            !ours
        });
    })?;
    Ok(thread)
}
