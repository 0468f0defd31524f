//! The process around it: frames in, frames out, and an end in time whatever hangs.
//!
//! ```text
//! stdin ─┬─ calls ────────────────> main: NVML ──┬────────────────────────── stdout
//!        └─ hang-up ──> watcher ─> Ending        ├── 256 frames ── writer ──┘ where it is full
//! SIGTERM ── signals ────────────> Ending    xid ┘
//! ```
//!
//! Only main calls NVML, and xid waits in it. Main reads the calls itself, which spares a change of threads for what the
//! agent asks at once. So it sees nothing while a call hangs; the watcher sees the end of the agent then, and sleeps through
//! everything else. Main never waits for the writer, so that fans are given back while the agent does not read. Whoever sees
//! the end, main has 1.8 s to give the fans back; then the watcher ends the process without it. It ends by `_exit`: the
//! library's own clean-up may hang in the driver as well.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use log::warn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::serve::Server;
use super::{Nvml, xid};
use crate::clock;
use crate::gpu::frame::{Frames, encode};
use crate::gpu::wire::{Call, Hello, Message, PROTOCOL, Request};
use ending::Ending;
pub use ending::{End, block_signals};

mod ending;

/// Frames that wait to be read. What comes beyond is dropped and said: the agent asks every second, and a call that is not
/// answered runs into its deadline there. Calls wait in the socket; where that is full the agent waits, up to that deadline.
const QUEUE: usize = 256;
/// What is read at once: the calls of a tick for forty GPUs.
const READ: usize = 4096;
/// Longest that an answer waits for calls that are answered after it, and most that waits.
const HELD: Duration = Duration::from_millis(5);
const HELD_BYTES: usize = 16 * 1024;
/// For the last frames to be taken.
const LAST_FRAMES: Duration = Duration::from_millis(500);
/// For the wait for Xids to end before NVML is let go.
const LAST_WAIT: Duration = Duration::from_millis(1_500);

/// Frames on their way out: at once where the agent's end takes them, which spares a change of threads for each; by the
/// writer where it does not.
#[derive(Clone)]
struct Out {
    frames: SyncSender<Vec<u8>>,
    line: Arc<Line>,
}

/// The agent's end.
struct Line {
    /// Held for a whole frame.
    output: Mutex<File>,
    /// Frames that the writer has or will have: a later one must not overtake them.
    queued: AtomicUsize,
}

impl Out {
    fn send(&self, message: &Message) {
        self.send_frames(encode(message));
    }

    /// Whole frames, one or more.
    fn send_frames(&self, mut frame: Vec<u8>) {
        let line = self.line.output.try_lock();
        if let Ok(output) = &line
            && self.line.queued.load(Ordering::Acquire) == 0
        {
            let taken = send_now(output, &frame);
            if taken >= frame.len() {
                return;
            }
            frame.drain(..taken);
        }
        self.line.queued.fetch_add(1, Ordering::AcqRel);
        if self.frames.try_send(frame).is_err() {
            self.line.queued.fetch_sub(1, Ordering::AcqRel);
            warn!("nobody reads the answers; one is dropped");
        }
    }
}

/// How many of these bytes the agent's end takes without a wait; none where it is no socket.
fn send_now(output: &File, bytes: &[u8]) -> usize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length are those of a live slice, which is only read.
    let taken = unsafe { libc::send(output.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    // An error is the writer's to meet, who ends the process over it.
    usize::try_from(taken).unwrap_or(0)
}

/// Loads the library and speaks on these two until one of them ends or the agent says so. Signals must be blocked by
/// [`block_signals`] before.
///
/// # Errors
/// A thread cannot be started.
pub fn run(input: File, output: File, library: Option<&Path>) -> io::Result<End> {
    let ending = Ending::new()?;
    let (frames, sent) = sync_channel(QUEUE);
    let line = Arc::new(Line { output: Mutex::new(output), queued: AtomicUsize::new(0) });
    let out = Out { frames, line: Arc::clone(&line) };
    // All before the library is loaded, which is the first call that may hang.
    let written = start_writer(line, sent, ending.clone())?;
    start("signals", ending.clone(), |ending| ending.begin(ending::wait_for_signal()))?;
    start("watcher", (input.try_clone()?, ending.clone()), |(input, ending)| ending.watch(input))?;
    let nvml = Nvml::load(library);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    out.send(&Message::Hello(Hello { protocol: PROTOCOL, version, nvml: nvml.map(Nvml::versions) }));
    let Ok(nvml) = nvml else {
        finish(out, &written);
        return Ok(End::Failed);
    };
    let mut server = Server::new(nvml);
    let xids = Xids::start(nvml, out.clone())?;
    let Some(last) = serve(&mut server, Calls::new(input), &ending, &out) else { return Ok(End::Done) };
    if xids.stop() {
        server.shut_down();
    } else {
        warn!("the wait for Xids hangs; ending without letting go of NVML first");
    }
    // The agent goes when it has read that, and is not to be waited for.
    ending.expected();
    out.send(&last);
    finish(out, &written);
    Ok(End::Done)
}

/// Waits for the last frame to be taken; whoever has not taken it by then does not.
fn finish(out: Out, written: &Receiver<()>) {
    drop(out);
    let _ = written.recv_timeout(LAST_FRAMES);
}

/// The thread that waits for Xids.
struct Xids {
    stop: Arc<AtomicBool>,
    thread: Thread,
    /// Nothing is ever sent: the other end is dropped when the thread ends.
    done: Receiver<()>,
}

impl Xids {
    fn start(nvml: Nvml, out: Out) -> io::Result<Self> {
        let (stop, (ended, done)) = (Arc::new(AtomicBool::new(false)), sync_channel(1));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("xid".to_owned()).spawn(move || {
            xid::watch(nvml, &stopped, |message| out.send(message));
            drop((out, ended));
        })?;
        Ok(Self { stop, thread: thread.thread().clone(), done })
    }

    /// True once it makes no more calls.
    fn stop(self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
        self.done.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Disconnected)
    }
}

/// Answers that wait for the calls behind them, which lie here already: each frame by itself would wake the agent, and
/// that costs more than the call. Held for [`HELD`] at most between two calls, so an agent that wants to know which
/// call hangs sends one at a time.
#[derive(Default)]
struct Held {
    frames: Vec<u8>,
    since: Option<Instant>,
}

impl Held {
    fn push(&mut self, reply: &Message, out: &Out) {
        self.frames.extend(encode(reply));
        let since = *self.since.get_or_insert_with(clock::now);
        if self.frames.len() >= HELD_BYTES || clock::now().saturating_duration_since(since) >= HELD {
            self.send(out);
        }
    }

    fn send(&mut self, out: &Out) {
        self.since = None;
        if !self.frames.is_empty() {
            out.send_frames(std::mem::take(&mut self.frames));
        }
    }
}

/// What the agent asks, read by whoever answers it.
struct Calls {
    input: File,
    frames: Frames,
    torn: u32,
    bytes: [u8; READ],
}

impl Calls {
    fn new(input: File) -> Self {
        Self { input, frames: Frames::default(), torn: 0, bytes: [0; READ] }
    }

    /// The next of those that were read already.
    fn next(&mut self) -> Option<Call> {
        let call = self.frames.next();
        if self.frames.torn() > self.torn {
            self.torn = self.frames.torn();
            warn!("what came is no call; {} so far", self.torn);
        }
        call
    }

    /// Waits until more can be read, which it reads, or the process is to end, or for that long.
    fn wait(&mut self, ending: &Ending, patience: Option<Duration>) {
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut both =
            [PollFd::new(&self.input, PollFlags::IN), PollFd::from_borrowed_fd(ending.bell(), PollFlags::IN)];
        match poll(&mut both, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return,
            Ok(_) => {}
            Err(error) => return ending.begin(&format!("the agent cannot be waited for: {error}")),
        }
        let [input, _] = both;
        if input.revents().is_empty() {
            return;
        }
        match self.input.read(&mut self.bytes) {
            Ok(0) => ending.begin("the agent is gone"),
            Ok(count) => self.frames.push(self.bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => ending.begin(&format!("the agent cannot be read: {error}")),
        }
    }
}

/// The answer to [`Request::Release`], for when NVML has been let go; nothing where the process is to end without.
fn serve(server: &mut Server, mut calls: Calls, ending: &Ending, out: &Out) -> Option<Message> {
    let mut held = Held::default();
    loop {
        let call = calls.next();
        if call.is_none() {
            held.send(out);
            calls.wait(ending, server.patience(clock::now()));
        }
        let now = clock::now();
        if ending.came() {
            // Each failure is logged where it happens; there is nobody else to tell.
            let _ = server.give_all_back(now);
            return None;
        }
        if let Some(Call { id, request }) = call {
            let reply = Message::Reply { id, answer: server.answer(&request, now) };
            if request == Request::Release {
                held.send(out);
                return Some(reply);
            }
            held.push(&reply, out);
        }
        server.give_overdue_back(clock::now());
    }
}

/// Writes frames until nobody sends or nobody reads; the receiver is disconnected when all is written.
fn start_writer(line: Arc<Line>, frames: Receiver<Vec<u8>>, ending: Ending) -> io::Result<Receiver<()>> {
    let (done, written) = sync_channel::<()>(1);
    start("writer", done, move |done| {
        for frame in frames {
            let written = line.output.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame);
            if let Err(error) = written {
                ending.begin(&format!("the agent does not read: {error}"));
                break;
            }
            line.queued.fetch_sub(1, Ordering::AcqRel);
        }
        drop(done);
    })?;
    Ok(written)
}

fn start<T: Send + 'static>(name: &str, with: T, run: impl FnOnce(T) + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || run(with)).map(drop)
}
