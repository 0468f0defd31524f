//! The agent's end of `rigd-nvml`: starts it, calls it with deadlines, gives it up.
//!
//! One stream socket carries both directions, whoever began it: a child gets its other end as standard input and output; a
//! service manager that listens (`unix:` in the configuration) does the same for one that runs with more rights than the
//! agent. The end of the socket is the end of the helper, so nothing has to be killed to be let go.
//!
//! A helper that hangs in the driver cannot be killed at all: it is told to go by the end of its input, then by SIGKILL,
//! and after that it is given up ([`Abandoned`]) and never waited for.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::frame::{Frames, encode};
use super::wire::{Answer, Call, Code, Message, PROTOCOL, PciAddress, Request, Versions};
use crate::clock::now;

/// How long a helper may take to bring up the driver, where the configuration does not say: without persistence that takes
/// seconds per GPU, and 30 s were seen for eight.
pub const START: Duration = Duration::from_secs(90);
/// An answer later than this is worth a line.
const SLOW: Duration = Duration::from_secs(2);
/// How long an answer is waited for on a rig: calls of seconds were seen on GPUs that recovered.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long a helper may take to end by itself once its input has ended.
pub const GRACE: Duration = Duration::from_millis(2_500);
/// What a look at a socket takes that nothing comes from.
const MOMENT: Duration = Duration::from_millis(1);
/// Xids that wait to be taken; the oldest go first.
const XIDS: usize = 64;

/// How a helper is had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program to run.
    Run(PathBuf),
    /// A Unix socket on which somebody starts one for each connection.
    Connect(PathBuf),
}

/// What it takes to start one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The helper.
    pub program: Program,
    /// The library that it loads instead of the driver's own.
    pub library: Option<PathBuf>,
    /// Directory of the simulated rig, for a simulated library.
    pub simulation: Option<PathBuf>,
    /// A driver that is not up by then does not come up: [`START`] but where it is configured.
    pub start: Duration,
    /// An answer that is not there by then does not come: [`DEADLINE`] but in tests.
    pub deadline: Duration,
}

/// Why there is no helper, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started or reached.
    #[error("{program}: {error}")]
    Start {
        /// What was to be run or connected to.
        program: String,
        /// What the system says.
        error: io::Error,
    },
    /// It speaks another version.
    #[error("it is of another release: it speaks version {0} and not {PROTOCOL}")]
    Protocol(u16),
    /// It could not bring up NVML.
    #[error("{0}")]
    Nvml(Code),
    /// It ended in the middle.
    #[error("it ended{}", .0.map(|status| format!(" ({status})")).unwrap_or_default())]
    Gone(Option<ExitStatus>),
    /// It did not answer in time.
    #[error("no answer for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It answered something else than it was asked.
    #[error("it answers what was not asked")]
    Confused,
}

/// A running helper.
pub struct Helper {
    stream: UnixStream,
    child: Option<Child>,
    frames: Frames,
    next: u32,
    xids: Vec<(Option<PciAddress>, u64)>,
    deadline: Duration,
    /// What it loaded.
    pub versions: Arc<Versions>,
}

/// A helper that did not go when it was told to: our child, or whoever is at the other end of this socket.
pub struct Abandoned(Result<Child, UnixStream>);

impl Abandoned {
    /// Whether it has ended by now.
    pub fn ended(&mut self) -> bool {
        match &mut self.0 {
            Ok(child) => child.try_wait().is_ok_and(|status| status.is_some()),
            Err(stream) => closed_within(stream, MOMENT),
        }
    }
}

impl Launch {
    fn begin(&self) -> Result<(UnixStream, Option<Child>), Failure> {
        let (path, begun) = match &self.program {
            Program::Connect(path) => (path, UnixStream::connect(path).map(|stream| (stream, None))),
            Program::Run(path) => (path, self.run(path)),
        };
        begun.map_err(|error| Failure::Start { program: path.display().to_string(), error })
    }

    fn run(&self, path: &PathBuf) -> io::Result<(UnixStream, Option<Child>)> {
        let (ours, theirs) = UnixStream::pair()?;
        let output = OwnedFd::from(theirs.try_clone()?);
        let mut command = Command::new(path);
        command.stdin(OwnedFd::from(theirs)).stdout(output).stderr(Stdio::inherit());
        if let Some(library) = &self.library {
            command.arg("--library").arg(library);
        }
        if let Some(directory) = &self.simulation {
            command.env("RIGD_SIMULATION", directory);
        }
        let child = command.spawn()?;
        Ok((ours, Some(child)))
    }
}

impl Helper {
    /// Starts one and waits until it has brought up NVML, [`Launch::start`] at most.
    ///
    /// # Errors
    /// Why it is of no use; it has been let go then, and is handed out where it did not go.
    pub fn start(launch: &Launch) -> Result<Self, (Failure, Option<Abandoned>)> {
        let (stream, child) = launch.begin().map_err(|failure| (failure, None))?;
        let versions = Arc::new(Versions { driver: String::new(), nvml: String::new() });
        let frames = Frames::default();
        let deadline = launch.deadline;
        let mut helper = Self { stream, child, frames, next: 1, xids: Vec::new(), deadline, versions };
        match helper.hello(launch.start) {
            Ok(versions) => {
                helper.versions = Arc::new(versions);
                Ok(helper)
            }
            Err(failure) => Err((failure, helper.give_up())),
        }
    }

    fn hello(&mut self, limit: Duration) -> Result<Versions, Failure> {
        let deadline = now() + limit;
        loop {
            match self.message(limit, deadline)? {
                Message::Hello(hello) if hello.protocol != PROTOCOL => return Err(Failure::Protocol(hello.protocol)),
                Message::Hello(hello) => return hello.nvml.map_err(Failure::Nvml),
                Message::Xid { gpu, code } => self.xid(gpu, code),
                Message::Reply { .. } => return Err(Failure::Confused),
            }
        }
    }

    /// Calls it several times at once and hands each answer to `take` with the index of its request, in their order. Each
    /// answer has [`Launch::deadline`] from the one before it.
    ///
    /// # Errors
    /// What went wrong, and the index of the request that has no answer.
    pub fn calls(&mut self, requests: &[Request], mut take: impl FnMut(usize, Answer)) -> Result<(), (usize, Failure)> {
        let first = self.next;
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend(encode(&Call { id: self.next, request: request.clone() }));
            self.next = self.next.wrapping_add(1);
        }
        self.send(&bytes, now() + self.deadline).map_err(|failure| (0, failure))?;
        for index in 0..requests.len() {
            let asked = now();
            let id = u32::try_from(index).map_or(first, |index| first.wrapping_add(index));
            let answer = self.answer(id, asked + self.deadline).map_err(|failure| (index, failure))?;
            let took = now().saturating_duration_since(asked);
            if took > SLOW {
                // Answers are held back for a moment, so it may have been one of the calls behind it.
                warn!("the GPU driver took {} ms, from {:?} on", took.as_millis(), requests.get(index));
            }
            take(index, answer);
        }
        Ok(())
    }

    /// Calls it once.
    ///
    /// # Errors
    /// What went wrong.
    pub fn call(&mut self, request: Request) -> Result<Answer, Failure> {
        let mut found = None;
        self.calls(&[request], |_, answer| found = Some(answer)).map_err(|(_, failure)| failure)?;
        found.ok_or(Failure::Confused)
    }

    fn answer(&mut self, id: u32, deadline: Instant) -> Result<Answer, Failure> {
        loop {
            match self.message(self.deadline, deadline)? {
                Message::Reply { id: of, answer } if of == id => return Ok(answer),
                Message::Xid { gpu, code } => self.xid(gpu, code),
                Message::Reply { .. } | Message::Hello(_) => return Err(Failure::Confused),
            }
        }
    }

    fn xid(&mut self, gpu: Option<PciAddress>, code: u64) {
        if self.xids.len() >= XIDS {
            self.xids.remove(0);
        }
        self.xids.push((gpu, code));
    }

    /// The Xids that came since the last time, 64 at most.
    pub fn xids(&mut self) -> Vec<(Option<PciAddress>, u64)> {
        std::mem::take(&mut self.xids)
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Failure> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() || self.stream.set_write_timeout(Some(left)).is_err() {
                return Err(Failure::Silent(self.deadline));
            }
            match self.stream.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if again(&error) => {}
                Err(_) => return Err(self.gone()),
            }
        }
        Ok(())
    }

    fn message(&mut self, limit: Duration, deadline: Instant) -> Result<Message, Failure> {
        loop {
            if let Some(message) = self.frames.next() {
                return Ok(message);
            }
            let mut bytes = [0; 8 * 1024];
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Err(Failure::Silent(limit));
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(self.gone()),
                Ok(read) => self.frames.push(bytes.get(..read).unwrap_or_default()),
                Err(error) if again(&error) => {}
                Err(_) => return Err(self.gone()),
            }
        }
    }

    /// Its end of the socket is closed: it is ending or has ended, which is waited for but for a moment.
    fn gone(&mut self) -> Failure {
        let status = self.child.as_mut().and_then(|child| patiently(child, Duration::from_millis(100)));
        Failure::Gone(status)
    }

    /// Lets it go: by the end of its input, then by SIGKILL. Handed out where not even that ended it in time. One that is
    /// not our child cannot be killed; its end of the socket is closed when it has ended, and not before.
    pub fn give_up(self) -> Option<Abandoned> {
        let Self { mut stream, child, .. } = self;
        let Some(mut child) = child else {
            // An error is that the other end is closed already.
            let _ = stream.shutdown(Shutdown::Write);
            return if closed_within(&mut stream, GRACE) { None } else { Some(Abandoned(Err(stream))) };
        };
        drop(stream);
        if patiently(&mut child, GRACE).is_some() {
            return None;
        }
        // An error is that it has ended meanwhile.
        let _ = child.kill();
        let killed = patiently(&mut child, Duration::from_millis(500)).is_some();
        if killed { None } else { Some(Abandoned(Ok(child))) }
    }
}

/// Whether the other end closes within that time; what it still says is not heard.
fn closed_within(stream: &mut UnixStream, limit: Duration) -> bool {
    let (deadline, mut bytes) = (now() + limit, [0; 1024]);
    loop {
        let left = deadline.saturating_duration_since(now());
        // It is looked at once at least: this thread may not have run for longer than that time.
        if stream.set_read_timeout(Some(left.max(MOMENT))).is_err() {
            return false;
        }
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if again(&error) => {}
            Err(_) => return true,
        }
        if left.is_zero() {
            return false;
        }
    }
}

/// No failure of the socket: a time-out that the deadline decides about, or a signal.
fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Waits for its end, but not for longer than that: never in waitpid, which a process that hangs in the driver holds.
fn patiently(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::gpu::wire::Hello;
    use crate::scratch::Scratch;

    /// Whoever listens there cannot be killed by us: only the end of its socket says that it has ended.
    #[test]
    fn one_behind_a_socket_has_ended_when_its_end_is_closed_and_not_before() {
        let scratch = Scratch::new("helper");
        let path = scratch.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let program = Program::Connect(path.clone());
        let launch = Launch { program, library: None, simulation: None, start: START, deadline: DEADLINE };
        let (hand, held) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut theirs, _) = listener.accept().unwrap();
                let nvml = Ok(Versions { driver: "1".to_owned(), nvml: "2".to_owned() });
                let hello = Message::Hello(Hello { protocol: PROTOCOL, version: String::new(), nvml });
                theirs.write_all(&encode(&hello)).unwrap();
                hand.send(theirs).unwrap();
            }
        });
        let helper = Helper::start(&launch).map_err(|(failure, _)| failure).unwrap();
        let theirs = held.recv().unwrap();
        let mut abandoned = helper.give_up().expect("it has not closed its end");
        assert!(!abandoned.ended());
        // Not dropped: a child that another test has just forked may have a copy of it.
        theirs.shutdown(Shutdown::Both).unwrap();
        let end = now() + Duration::from_secs(60);
        while !abandoned.ended() {
            assert!(now() < end, "its end is closed");
        }
        let helper = Helper::start(&launch).map_err(|(failure, _)| failure).unwrap();
        let mut theirs = held.recv().unwrap();
        let (reads, reading) = std::sync::mpsc::sync_channel(0);
        let polite = std::thread::spawn(move || {
            reads.send(()).unwrap();
            let read = theirs.read(&mut [0; 64]).unwrap();
            theirs.shutdown(Shutdown::Both).unwrap();
            read
        });
        reading.recv().unwrap();
        assert!(helper.give_up().is_none(), "it ends when its input does");
        assert_eq!(polite.join().unwrap(), 0);
    }

    #[test]
    fn a_closed_end_is_seen_also_when_no_time_is_left() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        assert!(!closed_within(&mut ours, Duration::ZERO));
        theirs.shutdown(Shutdown::Both).unwrap();
        assert!(closed_within(&mut ours, Duration::ZERO));
    }
}
