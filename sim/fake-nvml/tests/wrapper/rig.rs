//! A simulated rig whose time stands, and a process of its own that has the fake library of it.
//!
//! The library is one for a process and is told by the environment where its rig is, so each test starts itself again:
//! the parent has the rig, the child has the library and runs the test.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use rigd::board::Board;
use rigd_sim::world::card::Profile;
use rigd_sim::{Options, Sim};

/// The library, where Cargo puts it with what tests need.
pub(crate) fn library() -> PathBuf {
    let program = env::current_exe().unwrap();
    program.with_file_name("librigd_fake_nvml.so")
}

/// The library, initialised as the agent does it.
pub(crate) fn nvml() -> Nvml {
    Nvml::builder().lib_path(library().as_os_str()).init().unwrap()
}

/// The control socket of the rig, as the child has it.
pub(crate) struct Rig(UnixStream);

impl Rig {
    /// Says a line and gives the answer without its `ok`.
    pub(crate) fn say(&self, line: &str) -> String {
        (&self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        for line in BufReader::new(&self.0).lines() {
            let line = line.unwrap();
            assert!(!line.starts_with("error:"), "{line}");
            if line == "ok" {
                break;
            }
            answer += &format!("{line}\n");
        }
        answer
    }

    /// A key of `get world`.
    pub(crate) fn truth(&self, key: &str) -> String {
        let world = self.say("get world");
        let line = world.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key} in {world}")).to_owned()
    }

    /// The same as a number.
    pub(crate) fn number(&self, key: &str) -> f64 {
        self.truth(key).parse().unwrap()
    }
}

/// Runs `body` in a process of its own, on a rig with these cards first.
pub(crate) fn on_rig(test: &str, cards: &str, body: impl FnOnce(&Rig, &'static Nvml)) {
    if let Some(dir) = env::var_os("RIGD_SIMULATION") {
        let rig = Rig(UnixStream::connect(Path::new(&dir).join("control")).unwrap());
        // The agent's helper keeps it for good too.
        return body(&rig, Box::leak(Box::new(nvml())));
    }
    let host = Host::new(cards);
    let output = host.again(test).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{test} is not its name: {said}");
}

/// The parent's side: a rig in a directory of its own.
pub(crate) struct Host {
    pub(crate) sim: Option<Sim>,
    pub(crate) dir: PathBuf,
}

impl Host {
    pub(crate) fn new(cards: &str) -> Self {
        // Short: the path of a socket has 107 bytes.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("rigd-fake-nvml-{}-{number}", std::process::id()));
        let gpus = Profile::list(cards).unwrap();
        let options = Options { manual: true, gpus, ..Options::default() };
        let sim = Sim::start(&Board::load("simulated-8gpu").unwrap(), &dir, options).unwrap();
        Self { sim: Some(sim), dir }
    }

    pub(crate) fn say(&self, line: &str) -> String {
        self.sim.as_ref().unwrap().control(line).unwrap()
    }

    /// This test program again, for one test, with the library of this rig.
    pub(crate) fn again(&self, test: &str) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--include-ignored"]).env("RIGD_SIMULATION", &self.dir);
        command
    }

    /// Starts it, with lines to read.
    pub(crate) fn start(&self, test: &str) -> Child {
        self.again(test).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.sim = None;
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// The card in slot `bus`.
pub(crate) fn card(nvml: &'static Nvml, bus: u32) -> Device<'static> {
    nvml.device_by_pci_bus_id(format!("0000:{:02x}:00.0", bus + 1)).unwrap()
}

/// A result whose error can be compared: the number of `nvml.h`.
pub(crate) trait Numbered<T> {
    fn n(self) -> Result<T, u32>;
}

impl<T> Numbered<T> for Result<T, NvmlError> {
    fn n(self) -> Result<T, u32> {
        self.map_err(nvml_wrapper_sys::bindings::nvmlReturn_t::from)
    }
}
