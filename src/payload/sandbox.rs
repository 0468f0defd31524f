//! What keeps a payload to itself: layers, each of which holds or is said not to.
//!
//! | layer | what it does | needs |
//! |---|---|---|
//! | `cgroup` | ends everything that the payload started, however it was detached | cgroup v2 |
//! | `tmp` | a `/tmp` of its own, in its state directory | CAP_SYS_ADMIN |
//! | `no-new-privs` | no set-uid program gives it anything | Linux 3.5 |
//! | `capabilities` | none, and none to be had | |
//! | `files` | reads the system, writes its own directories, opens its own GPUs and no others | landlock, Linux 5.13; without it what its user may |
//! | `ports` | listens on and connects to the TCP ports of its manifest, where that names any | landlock 4, Linux 6.7 |
//! | `scope` | no signal and no abstract socket to outside | landlock 6, Linux 6.12 |
//! | `system-calls` | no mount, module, kexec, ptrace, bpf, keyring, clock, other processor architecture … | seccomp |
//!
//! A kernel without a layer does not keep a payload from earning: what held is in [`Layers`], in telemetry and in the log, and
//! a manifest that insists (`sandbox.require`) is not started without. Another user is no layer: where the switch fails, there is
//! no start. Nor is it one that a payload has none of the agent's own capabilities: without `capabilities` it has those of its user,
//! which are root's or none.
//!
//! Everything is made ready before the fork: rules as a file descriptor, filters as an array. Between fork and exec there are
//! system calls only. A stage of the agent's own binary in between (`rigd payload-exec`) would allow any code there, and would
//! cost a second exec in a path that has to take a millisecond, a verb that anybody may call, and a test host of its own.
//!
//! System calls are denied by name and not allowed by name: a list of what CUDA, Python and a dozen closed miners may call is
//! wrong with their next version, at night. The deny list is that of container engines for what needs a privilege anyway.

mod landlock;
mod system_calls;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(super) use self::landlock::Rules;
pub(super) use self::system_calls::{Filter, filters};

/// One way of keeping a payload to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Layer {
    /// Its own cgroup.
    Cgroup,
    /// Its own `/tmp`.
    Tmp,
    /// No privilege by exec.
    NoNewPrivs,
    /// No capability.
    Capabilities,
    /// Files by landlock.
    Files,
    /// TCP ports by landlock.
    Ports,
    /// Signals and abstract sockets by landlock.
    Scope,
    /// System calls by seccomp.
    SystemCalls,
}

impl Layer {
    /// Every one, in the order of the bits.
    pub const ALL: [Self; 8] = [
        Self::Cgroup,
        Self::Tmp,
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::Files,
        Self::Ports,
        Self::Scope,
        Self::SystemCalls,
    ];

    /// Its name in manifests and telemetry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Tmp => "tmp",
            Self::NoNewPrivs => "no-new-privs",
            Self::Capabilities => "capabilities",
            Self::Files => "files",
            Self::Ports => "ports",
            Self::Scope => "scope",
            Self::SystemCalls => "system-calls",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// Some of the layers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSet(u16);

impl LayerSet {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// What is left off for a program that builds a container: mounts, set-uid helpers, capabilities and all files are its trade.
    pub const CONTAINER: Self = Self::NONE
        .with(Layer::Tmp)
        .with(Layer::NoNewPrivs)
        .with(Layer::Capabilities)
        .with(Layer::Files)
        .with(Layer::Ports)
        .with(Layer::Scope)
        .with(Layer::SystemCalls);

    /// With this one.
    #[must_use]
    pub const fn with(self, layer: Layer) -> Self {
        Self(self.0 | layer.bit())
    }

    /// Without this one.
    #[must_use]
    pub const fn without(self, layer: Layer) -> Self {
        Self(self.0 & !layer.bit())
    }

    /// A bit for each layer, in their order.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether this one is in it.
    #[must_use]
    pub const fn has(self, layer: Layer) -> bool {
        self.0 & layer.bit() != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in it, in order.
    pub fn iter(self) -> impl Iterator<Item = Layer> {
        Layer::ALL.into_iter().filter(move |layer| self.has(*layer))
    }
}

impl std::fmt::Debug for LayerSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for LayerSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, layer) in self.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            f.write_str(layer.name())?;
        }
        Ok(())
    }
}

/// What became of the layers of one start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// In force.
    pub held: LayerSet,
    /// Wanted, and not possible here.
    pub missing: LayerSet,
}

/// What a payload's file rules are made of.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Read, and run programs from.
    pub(super) read: Vec<PathBuf>,
    /// Anything.
    pub(super) write: Vec<PathBuf>,
    /// The same, of what a payload could have put a link in the place of: as it was found, and not by its name.
    pub(super) own: Vec<OwnedFd>,
    /// Device nodes.
    pub(super) devices: Vec<PathBuf>,
    /// TCP ports to listen on; any where there is no list.
    pub(super) bind: Option<Vec<u16>>,
    /// TCP ports to connect to; any where there is no list.
    pub(super) connect: Option<Vec<u16>>,
}

/// Read, and run programs from, by every payload: programs, libraries, what libraries read, and what the kernel shows of the rig.
/// Of `/etc` only what programs need; neither passwords nor ours.
const SYSTEM: [&str; 31] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/sys",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/nsswitch.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/passwd",
    "/etc/group",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/OpenCL",
    "/etc/vulkan",
    "/etc/nvidia",
    "/etc/mime.types",
    "/etc/machine-id",
];
/// Devices that any program may use.
const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"];
/// Shared memory: what multi-GPU libraries exchange data through.
const SHARED: [&str; 2] = ["/dev/shm", "/dev/mqueue"];

impl Reach {
    /// Adds what every payload may reach.
    #[must_use]
    pub(super) fn with_system(mut self) -> Self {
        self.read.extend(SYSTEM.map(PathBuf::from));
        self.devices.extend(DEVICES.map(PathBuf::from));
        self.write.extend(SHARED.map(PathBuf::from));
        self
    }

    /// Adds a program and, where it is installed in a directory of its own, what lies beside it.
    #[must_use]
    pub(super) fn with_program(mut self, program: &Path) -> Self {
        let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        // Of these one below is somebody's, or something's, as a whole.
        let shared = ["/home", "/var"].iter().any(|shared| real.starts_with(shared));
        let deep = if shared { 3 } else { 2 };
        let own = real.parent().filter(|parent| parent.components().count() > deep && !parent.starts_with("/etc"));
        self.read.push(own.unwrap_or(&real).to_owned());
        self.read.push(real);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_by_name() {
        let set = LayerSet::NONE.with(Layer::Files).with(Layer::Cgroup);
        assert_eq!(set.to_string(), "cgroup, files");
        assert!(set.has(Layer::Files) && !set.has(Layer::Tmp));
        for (i, layer) in Layer::ALL.into_iter().enumerate() {
            assert_eq!(layer.bit(), 1 << i, "{layer:?}");
        }
    }

    #[test]
    fn a_program_brings_its_own_directory_and_no_shared_one() {
        for (program, expected) in [
            ("/opt/miners/x/miner", "/opt/miners/x"),
            ("/opt/x/miner", "/opt/x"),
            ("/opt/miner", "/opt/miner"),
            ("/etc/x/y/script", "/etc/x/y/script"),
            ("/home/alice/miner", "/home/alice/miner"),
            ("/home/alice/x/miner", "/home/alice/x"),
            ("/var/lib/miner", "/var/lib/miner"),
            ("/var/lib/x/miner", "/var/lib/x"),
        ] {
            let reach = Reach::default().with_program(Path::new(program));
            assert_eq!(reach.read.first().map(PathBuf::as_path), Some(Path::new(expected)), "{program}");
        }
    }

    #[test]
    fn neither_passwords_nor_our_own_files_are_part_of_the_system() {
        let reach = Reach::default().with_system();
        for secret in
            ["/etc/shadow", "/etc/rigd/secrets/x", "/root", "/home/x", "/var/lib/rigd/outbox", "/dev/i2c-0", "/dev/mem"]
        {
            let paths = reach.read.iter().chain(&reach.write).chain(&reach.devices);
            assert!(paths.into_iter().all(|path| !Path::new(secret).starts_with(path)), "{secret}");
        }
    }
}
