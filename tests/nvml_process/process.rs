//! The process with the other end of its socket, and a rig for it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rigd::board::Board;
use rigd::clock::now;
use rigd::gpu::frame::{Frames, encode};
use rigd::gpu::wire::{Answer, Call, Device, Hello, Message, PciAddress, Read as Told, Request, Sample};
use rigd_sim::world::card::Profile;
use rigd_sim::{Options, Sim};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(2);

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rigd-nvml"))
}

/// The simulated library; a test of the whole workspace has built it, one of this package alone may not have.
pub(crate) fn library() -> PathBuf {
    // A library that tests depend on is left among the dependencies, not beside the programs.
    Path::new(env!("CARGO_BIN_EXE_rigd-nvml")).with_file_name("deps/librigd_fake_nvml.so")
}

/// Waits until it is so.
pub(crate) fn until(condition: impl Fn() -> bool) {
    let began = now();
    while !condition() {
        assert!(now() - began < DEADLINE, "it does not happen");
        thread::sleep(POLL);
    }
}

/// A rig whose time stands, with these cards first.
pub(crate) struct Rig {
    sim: Option<Sim>,
    pub(crate) dir: PathBuf,
}

impl Rig {
    pub(crate) fn new(test: &str, cards: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("rigd-nvml-{test}-{}", std::process::id()));
        let options = Options { manual: true, gpus: Profile::list(cards).unwrap(), ..Options::default() };
        let sim = Sim::start(&Board::load("simulated-8gpu").unwrap(), &dir, options).unwrap();
        Self { sim: Some(sim), dir }
    }

    pub(crate) fn say(&self, line: &str) -> String {
        self.sim.as_ref().unwrap().control(line).unwrap()
    }

    /// The calls that changed something, by their names.
    pub(crate) fn settings(&self, symbol: &str) -> Vec<String> {
        let settings = self.say("get settings");
        settings.lines().filter(|line| line.contains(symbol)).map(str::to_owned).collect()
    }

    /// A process on this rig that has told who it is.
    pub(crate) fn start(&self) -> Process {
        let mut process = self.start_silent();
        process.hello().nvml.unwrap();
        process
    }

    pub(crate) fn start_silent(&self) -> Process {
        Process::start(&mut program(), &library(), Some(&self.dir))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.sim = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) stream: UnixStream,
    frames: Frames,
    next: u32,
}

impl Process {
    pub(crate) fn start(command: &mut Command, library: &Path, rig: Option<&Path>) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        command.arg("--library").arg(library).stderr(Stdio::piped());
        command.stdin(OwnedFd::from(theirs.try_clone().unwrap())).stdout(OwnedFd::from(theirs));
        if let Some(rig) = rig {
            command.env("RIGD_SIMULATION", rig);
        }
        let child = command.spawn().unwrap();
        // The command holds its ends as long as it lives.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self { child, stream, frames: Frames::default(), next: 1 }
    }

    /// The next frame; nothing once its end is closed.
    pub(crate) fn message(&mut self) -> Option<Message> {
        let deadline = now() + DEADLINE;
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.frames.next() {
                return Some(message);
            }
            self.stream.set_read_timeout(Some(deadline - now())).unwrap();
            match self.stream.read(&mut bytes).unwrap() {
                0 => return None,
                count => self.frames.push(bytes.get(..count).unwrap()),
            }
        }
    }

    pub(crate) fn hello(&mut self) -> Hello {
        match self.message() {
            Some(Message::Hello(hello)) => hello,
            other => panic!("{other:?} instead of the greeting"),
        }
    }

    pub(crate) fn send(&mut self, request: Request) -> u32 {
        let id = self.next;
        self.next += 1;
        self.stream.write_all(&encode(&Call { id, request })).unwrap();
        id
    }

    pub(crate) fn call(&mut self, request: Request) -> Answer {
        let asked = self.send(request);
        loop {
            match self.message() {
                Some(Message::Reply { id, answer }) if id == asked => return answer,
                Some(Message::Xid { .. }) => {}
                other => panic!("{other:?} instead of the answer"),
            }
        }
    }

    pub(crate) fn set(&mut self, request: Request) -> Told<()> {
        let Answer::Set(done) = self.call(request) else { panic!("not what was asked") };
        done
    }

    pub(crate) fn inventory(&mut self) -> Vec<Told<Device>> {
        let Answer::Inventory(Ok(devices)) = self.call(Request::Inventory) else { panic!("not what was asked") };
        devices
    }

    /// The first card.
    pub(crate) fn first(&mut self) -> PciAddress {
        self.inventory().into_iter().next().unwrap().unwrap().pci
    }

    pub(crate) fn sample(&mut self, pci: PciAddress) -> Told<Box<Sample>> {
        let Answer::Sample(sample) = self.call(Request::Sample(pci)) else { panic!("not what was asked") };
        sample
    }

    /// How it ended, and all that it said on stderr.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let deadline = now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(now() < deadline, "it does not end");
            thread::sleep(POLL);
        };
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
