//! The process around it: frames in, frames out, and an end in time whatever hangs.
//!
//! ```text
//! stdin ── reader ── 256 calls ── main: NVML ──┬────────────────────────── stdout
//!             └─ end of input ──> Ending       ├── 256 frames ── writer ──┘ where it is full
//! SIGTERM ── signals ──────────> Ending   xid ─┘
//! ```
//!
//! Only main calls NVML, and xid waits in it. The reader never waits for main, so that the end of the agent is seen while a
//! call hangs; main never waits for the writer, so that fans are given back while the agent does not read. Whoever sees
//! the end leaves main 1.8 s to give the fans back; then the process ends without it. It ends by `_exit`: the
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

use log::{error, info, warn};

use super::serve::Server;
use super::{Nvml, xid};
use crate::gpu::frame::{Frames, encode};
use crate::gpu::wire::{Call, Hello, Message, PROTOCOL, Request};
use crate::{clock, logger};

/// Calls that wait, and frames that wait to be read. What comes beyond is dropped and said: the agent asks every second,
/// and a call that is not answered runs into its deadline there.
const QUEUE: usize = 256;
/// For fans to be given back at the end; the agent waits for 2.5 s.
const GRACE: Duration = Duration::from_millis(1_800);
/// Longest that an answer waits for calls that are answered after it, and most that waits.
const HELD: Duration = Duration::from_millis(5);
const HELD_BYTES: usize = 16 * 1024;
/// For the last frames to be taken.
const LAST_FRAMES: Duration = Duration::from_millis(500);
/// For the wait for Xids to end before NVML is let go.
const LAST_WAIT: Duration = Duration::from_millis(1_500);

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was asked to.
    Done = 0,
    /// There is no NVML, or it hung.
    Failed = 1,
}

impl End {
    /// Ends the process now; nothing of the library runs any more.
    pub fn exit(self) -> ! {
        logger::finish();
        // SAFETY: `_exit` takes any number and does not return.
        unsafe { libc::_exit(self as i32) }
    }
}

enum Event {
    Call(Call),
    End,
}

/// Set once the process is to end; main is woken by an event.
#[derive(Clone)]
struct Ending {
    came: Arc<AtomicBool>,
    events: SyncSender<Event>,
}

impl Ending {
    /// Says so, and ends the process if main does not.
    fn begin(&self, why: &str) -> ! {
        if !self.came.swap(true, Ordering::Relaxed) {
            info!("{why}: giving the fans back");
        }
        // Where the queue is full, main is awake and looks at the flag before the next call.
        let _ = self.events.try_send(Event::End);
        thread::sleep(GRACE);
        error!("a call of the driver hangs; ending without it");
        End::Failed.exit()
    }
}

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
    let (events, calls) = sync_channel(QUEUE);
    let (frames, sent) = sync_channel(QUEUE);
    let line = Arc::new(Line { output: Mutex::new(output), queued: AtomicUsize::new(0) });
    let (out, came) = (Out { frames, line: Arc::clone(&line) }, Arc::new(AtomicBool::new(false)));
    let ending = Ending { came: Arc::clone(&came), events };
    // All before the library is loaded, which is the first call that may hang.
    let written = start_writer(line, sent, ending.clone())?;
    start("signals", ending.clone(), |ending| ending.begin(wait_for_signal()))?;
    start("reader", (input, ending), |(input, ending)| read(input, &ending))?;
    let nvml = Nvml::load(library);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    out.send(&Message::Hello(Hello { protocol: PROTOCOL, version, nvml: nvml.map(Nvml::versions) }));
    let Ok(nvml) = nvml else {
        finish(out, &written);
        return Ok(End::Failed);
    };
    let mut server = Server::new(nvml);
    let xids = Xids::start(nvml, out.clone())?;
    let Some(last) = serve(&mut server, &calls, &came, &out) else { return Ok(End::Done) };
    if xids.stop() {
        server.shut_down();
    } else {
        warn!("the wait for Xids hangs; ending without letting go of NVML first");
    }
    // The agent goes when it has read that, and is not to be waited for.
    came.store(true, Ordering::Relaxed);
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

/// The answer to [`Request::Release`], for when NVML has been let go; nothing where the process is to end without.
fn serve(server: &mut Server, calls: &Receiver<Event>, came: &AtomicBool, out: &Out) -> Option<Message> {
    let mut held = Held::default();
    loop {
        let event = calls.try_recv().or_else(|_| {
            held.send(out);
            match server.patience(clock::now()) {
                Some(patience) => calls.recv_timeout(patience),
                None => calls.recv().map_err(|_| RecvTimeoutError::Disconnected),
            }
        });
        let now = clock::now();
        let ended = came.load(Ordering::Relaxed);
        match event {
            Ok(Event::Call(Call { id, request })) if !ended => {
                let reply = Message::Reply { id, answer: server.answer(&request, now) };
                if request == Request::Release {
                    held.send(out);
                    return Some(reply);
                }
                held.push(&reply, out);
            }
            Err(RecvTimeoutError::Timeout) if !ended => {}
            Ok(_) | Err(_) => {
                // Each failure is logged where it happens; there is nobody else to tell.
                let _ = server.give_all_back(now);
                return None;
            }
        }
        server.give_overdue_back(clock::now());
    }
}

fn read(mut input: File, ending: &Ending) -> ! {
    let (mut frames, mut torn, mut bytes) = (Frames::default(), 0, [0; 4096]);
    loop {
        match input.read(&mut bytes) {
            Ok(0) => ending.begin("the agent is gone"),
            Ok(count) => frames.push(bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => ending.begin(&format!("the agent cannot be read: {error}")),
        }
        while let Some(call) = frames.next() {
            if ending.events.try_send(Event::Call(call)).is_err() {
                warn!("{QUEUE} calls wait for the driver; one is dropped");
            }
        }
        if frames.torn() > torn {
            torn = frames.torn();
            warn!("what came is no call; {torn} so far");
        }
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

const SIGNALS: [(i32, &str); 3] = [(libc::SIGTERM, "SIGTERM"), (libc::SIGINT, "SIGINT"), (libc::SIGHUP, "SIGHUP")];

fn signals() -> libc::sigset_t {
    // SAFETY: all zeros are a valid set to initialize; sigemptyset and sigaddset write only there.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for (signal, _) in SIGNALS {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Keeps the signals that end a process for the thread that waits for them. Before any other thread is started: each
/// inherits it.
pub fn block_signals() {
    let set = signals();
    // SAFETY: the set is a live value of ours, and the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

fn wait_for_signal() -> &'static str {
    let (set, mut came) = (signals(), 0);
    // SAFETY: both pointers are to live values of ours.
    while unsafe { libc::sigwait(&raw const set, &raw mut came) } != 0 {
        // EINTR is the only failure there is for a valid set (sigwait(3)).
    }
    SIGNALS.iter().find(|(signal, _)| *signal == came).map_or("a signal", |(_, name)| name)
}
