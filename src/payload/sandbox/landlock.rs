//! Landlock: which files, ports, signals and abstract sockets are within reach (landlock(7)).

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs::{FileType, Mode, OFlags, fstat};

use super::{Layer, LayerSet, Reach};

/// What `landlock_create_ruleset` answers its own version for.
const VERSION: libc::c_uint = 1;

/// Rules that are ready to be put in force, and what they are made of.
#[derive(Debug)]
pub(crate) struct Rules {
    /// For `landlock_restrict_self`.
    pub(crate) fd: OwnedFd,
    /// The layers that it makes.
    pub(crate) layers: LayerSet,
}

impl Rules {
    /// Makes them of the layers that are wanted and that the kernel has; `None` where that leaves nothing.
    ///
    /// # Errors
    /// What landlock says of a rule.
    pub(crate) fn new(reach: &Reach, wanted: LayerSet) -> Result<Option<Self>, RulesetError> {
        let abi = version();
        let ports = reach.bind.is_some() || reach.connect.is_some();
        let on = |layer, least, needed| wanted.has(layer) && abi >= least && needed;
        let (files, ports, scope) = (on(Layer::Files, 1, true), on(Layer::Ports, 4, ports), on(Layer::Scope, 6, true));
        let mut layers = LayerSet::NONE;
        let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        // Of the newest that is understood here; what the kernel does not know is left out of it.
        let newest = ABI::V6;
        if files {
            rules = rules.handle_access(AccessFs::from_all(newest))?;
            layers = layers.with(Layer::Files);
        }
        if ports {
            let bind = reach.bind.is_some().then_some(AccessNet::BindTcp);
            let connect = reach.connect.is_some().then_some(AccessNet::ConnectTcp);
            let handled: BitFlags<AccessNet> = bind.into_iter().chain(connect).collect();
            rules = rules.handle_access(handled)?;
            layers = layers.with(Layer::Ports);
        }
        if scope {
            rules = rules.scope(Scope::AbstractUnixSocket | Scope::Signal)?;
            layers = layers.with(Layer::Scope);
        }
        if layers == LayerSet::NONE {
            return Ok(None);
        }
        let mut rules = rules.create()?;
        if files {
            let read = AccessFs::from_read(newest);
            let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
            let paths = reach.read.iter().map(|path| (path, read));
            let paths = paths.chain(reach.write.iter().map(|path| (path, AccessFs::from_all(newest))));
            let paths = paths.chain(reach.devices.iter().map(|path| (path, device)));
            // What does not exist needs no rule.
            let opened: Vec<_> = paths.filter_map(|(path, access)| Some((open(path)?, access))).collect();
            let own = reach.own.iter().map(|fd| (fd, AccessFs::from_all(newest)));
            for (fd, access) in opened.iter().map(|(fd, access)| (fd, *access)).chain(own) {
                let Ok(found) = fstat(fd) else { continue };
                let directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
                let access = if directory { access } else { access & AccessFs::from_file(newest) };
                rules = rules.add_rule(PathBeneath::new(fd, access))?;
            }
        }
        if ports {
            for port in reach.bind.iter().flatten() {
                rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
            }
            for port in reach.connect.iter().flatten() {
                rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
            }
        }
        let fd: Option<OwnedFd> = rules.into();
        Ok(fd.map(|fd| Self { fd, layers }))
    }

    /// The layers among these that are made here, and that this manifest has a use for.
    #[must_use]
    pub(crate) fn wanted(reach: &Reach, off: LayerSet) -> LayerSet {
        let ports = reach.bind.is_some() || reach.connect.is_some();
        let all = [(Layer::Files, true), (Layer::Ports, ports), (Layer::Scope, true)];
        let on = all.into_iter().filter(|(layer, needed)| *needed && !off.has(*layer));
        on.fold(LayerSet::NONE, |set, (layer, _)| set.with(layer))
    }
}

/// What a path of the system leads to, over every link.
fn open(path: &Path) -> Option<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// The kernel's landlock, 0 where it has none.
#[must_use]
fn version() -> libc::c_long {
    // SAFETY: with this flag the kernel reads no attribute and answers a number (landlock_create_ruleset(2)).
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    version.max(0)
}
