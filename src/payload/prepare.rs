//! All that a start takes, made before the fork: who, where, with what in its environment, and within which limits.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit};

use super::Grant;
use super::log::Mask;
use super::manifest::{Limits, Manifest};
use super::process::{NotStarted, Site, make};
use super::sandbox::{Layer, LayerSet, Reach, Rules, filters};
use super::spawn::Launch;
use super::user::{self, User};
use crate::sorted;

/// A secret of more is none.
const LARGEST_SECRET: u64 = 16 * 1024;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All of a start that lasts from one to the next.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) launch: Launch,
    /// What its log must not show.
    pub(super) mask: Mask,
    /// Limits that cannot hold here.
    pub(super) unlimited: Vec<&'static str>,
}

/// Makes a start ready.
///
/// # Errors
/// What is in the way, for people.
pub(super) fn prepare(
    site: &Site,
    manifest: &Manifest,
    grant: &Grant,
    output: OwnedFd,
) -> Result<Prepared, NotStarted> {
    let own = user::own();
    let user = match &manifest.user {
        Some(name) => User::find(name, manifest.group.as_deref()).map_err(NotStarted::refused)?,
        None if own.uid == 0 => return Err(NotStarted::refused("would run as root; its manifest must name a user")),
        None => own.clone(),
    };
    site.make_home(&manifest.name)?;
    let home = site.home(&manifest.name);
    let state = manifest.state_directory.clone().unwrap_or_else(|| home.join("state"));
    let tmp = home.join("tmp");
    for directory in [&state, &tmp] {
        let made = make(directory, 0o700)
            .and_then(|made| if made { chown(directory, Some(user.uid), Some(user.gid)) } else { Ok(()) });
        made.map_err(|error| NotStarted::io(&format!("could not make {}", directory.display()), &error))?;
    }
    let directory = manifest.working_directory.clone().unwrap_or_else(|| state.clone());
    let uuids: Vec<String> = grant.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    let command = manifest.command(&uuids);
    let program = command.first().cloned().unwrap_or_default();
    let secrets = read_secrets(manifest)?;
    let mask = Mask::new(&manifest.log.mask, secrets.iter().map(|(_, secret)| secret.clone()));
    let environment = environment(manifest, &user, &state, &tmp, &uuids, secrets);
    let mut wanted =
        Layer::ALL.into_iter().filter(|layer| !manifest.sandbox.off.has(*layer)).fold(LayerSet::NONE, LayerSet::with);
    let sandbox = &manifest.sandbox;
    let mut reach = Reach {
        read: sandbox.read.clone(),
        write: sandbox.write.iter().cloned().chain([state.clone(), directory.clone(), tmp.clone()]).collect(),
        devices: grant.gpus.iter().flat_map(|gpu| gpu.nodes.iter().cloned()).collect(),
        bind: sandbox.tcp_bind.clone(),
        connect: sandbox.tcp_connect.clone(),
    };
    // Its own would hide these.
    let hidden = [&state, &directory, &tmp, &PathBuf::from(&program)].into_iter().any(|path| path.starts_with("/tmp"));
    let own_tmp = wanted.has(Layer::Tmp) && !hidden;
    if own_tmp {
        reach.write.push(tmp.clone());
    }
    let reach = reach.with_system().with_program(Path::new(&program));
    let landlocked = Rules::wanted(&reach, sandbox.off);
    if !landlocked.has(Layer::Ports) {
        wanted = wanted.without(Layer::Ports);
    }
    let rules = Rules::new(&reach, landlocked)
        .map_err(|error| NotStarted::refused(format!("could not make its file rules: {error}")))?;
    let filters = if wanted.has(Layer::SystemCalls) { filters().unwrap_or_default() } else { Vec::new() };
    let null = File::options().read(true).open("/dev/null").map_err(|error| NotStarted::io("/dev/null", &error))?;
    let (cgroup, unlimited) = match site.group(&manifest.name) {
        Some(group) => {
            // What a container engine left below it would keep a process out.
            if !group.populated() {
                group.remove();
            }
            let made = group.make().map_err(|error| NotStarted::passing("could not make its cgroup", &error))?;
            (Some(made), group.limit(&manifest.limits))
        }
        None => (None, Vec::new()),
    };
    let text = |text: String| {
        CString::new(text).map_err(|_| NotStarted::refused("has a zero byte in its command or environment"))
    };
    let mut limits = limits(&manifest.limits);
    // Where the kernel does not count a group's processes it counts a user's, which is more than nothing and more than the payload's.
    if let Some(pids) = manifest.limits.pids.filter(|_| unlimited.contains(&"pids.max") && user.uid != own.uid) {
        limits.push((Resource::Nproc, Rlimit { current: Some(pids.into()), maximum: Some(pids.into()) }));
    }
    let launch = Launch {
        program: text(program)?,
        arguments: command.into_iter().map(text).collect::<Result<_, _>>()?,
        environment: environment.into_iter().map(text).collect::<Result<_, _>>()?,
        directory: text(directory.display().to_string())?,
        input: null.into(),
        output,
        cgroup,
        user: (user.uid != own.uid || user.gid != own.gid).then_some(user),
        tmp: if own_tmp { Some(text(tmp.display().to_string())?) } else { None },
        limits,
        rules,
        filters,
        wanted,
        require: sandbox.require,
    };
    Ok(Prepared { launch, mask, unlimited })
}

/// What a payload's log must not show, where it was not this agent that made it ready. Secrets that cannot be read hide nothing.
#[must_use]
pub(super) fn mask(manifest: &Manifest) -> Mask {
    let secrets = read_secrets(manifest).unwrap_or_default();
    Mask::new(&manifest.log.mask, secrets.into_iter().map(|(_, secret)| secret))
}

fn read_secrets(manifest: &Manifest) -> Result<Vec<(String, String)>, NotStarted> {
    let read = |path: &Path| {
        if fs::metadata(path)?.len() > LARGEST_SECRET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too large for a secret"));
        }
        fs::read_to_string(path)
    };
    let secrets = manifest.secrets.iter().map(|(name, path)| {
        let value = read(path).map_err(|error| NotStarted::io(&format!("could not read its secret {name}"), &error))?;
        Ok((name.clone(), value.trim_end_matches(['\r', '\n']).to_owned()))
    });
    secrets.collect()
}

/// Nothing of the agent's own.
fn environment(
    manifest: &Manifest,
    user: &User,
    state: &Path,
    tmp: &Path,
    uuids: &[String],
    secrets: Vec<(String, String)>,
) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let mut variables = sorted::map([
        ("PATH".to_owned(), PATH.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("HOME".to_owned(), text(state)),
        ("TMPDIR".to_owned(), text(tmp)),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
        ("RIGD_PAYLOAD".to_owned(), manifest.name.clone()),
        // None are named where it was given none: left out, it would mean all of them.
        ("CUDA_VISIBLE_DEVICES".to_owned(), uuids.join(",")),
        ("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned()),
    ]);
    variables.extend(manifest.environment.clone());
    variables.extend(secrets);
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn limits(limits: &Limits) -> Vec<(Resource, Rlimit)> {
    let megabytes = limits.locked_mib.unwrap_or(8);
    let root = rustix::process::geteuid().is_root();
    let wanted = [
        (Resource::Nofile, u64::from(limits.open_files)),
        (Resource::Memlock, u64::from(megabytes) << 20),
        (Resource::Core, 0),
        (Resource::Rtprio, 0),
    ];
    let fitted = wanted.map(|(resource, most)| {
        // Only root may raise what it was given.
        let most = if root { most } else { getrlimit(resource).maximum.map_or(most, |given| given.min(most)) };
        (resource, Rlimit { current: Some(most), maximum: Some(most) })
    });
    fitted.to_vec()
}
