//! All that a start takes, made before the fork: who, where, with what in its environment, and within which limits.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use log::debug;
use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Resource, Rlimit, getrlimit};
use rustix::thread::CapabilitySet;

use super::Grant;
use super::directory;
use super::log::Mask;
use super::manifest::{Limits, Manifest};
use super::process::{NotStarted, Site};
use super::sandbox::{Layer, LayerSet, Reach, Rules, filters};
use super::spawn::{Launch, ignored};
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
    let user = user::of(manifest, own.clone()).map_err(NotStarted::refused)?;
    site.make_home(&manifest.name)?;
    let home = site.home(&manifest.name);
    let state = manifest.state_directory.clone().unwrap_or_else(|| home.join("state"));
    let tmp = home.join("tmp");
    // What is not in the agent's own directory may be where the payload can write.
    let foreign = Some(&user);
    let mut opened = Vec::new();
    for (directory, may_link) in [(&state, foreign.filter(|_| manifest.state_directory.is_some())), (&tmp, None)] {
        let made = directory::make(directory, 0o700, may_link, Some(&user));
        let failed = |error| NotStarted::io(&format!("could not make {}", directory.display()), &error);
        opened.push(made.map_err(failed)?);
    }
    // What says `> /dev/stderr` opens it anew, under its own name and user. Not where it has no log.
    let pipe = site.pipe(&manifest.name);
    if let Err(error) = chown(&pipe, Some(user.uid), None) {
        debug!("payload {}: cannot open its output anew: {}: {error}", manifest.name, pipe.display());
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
    for path in sandbox.write.iter().chain(&manifest.working_directory).filter(|_| wanted.has(Layer::Files)) {
        match directory::open(path, foreign) {
            Ok(found) => opened.push(found),
            // What does not exist needs no rule.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NotStarted::io(&format!("could not open {}", path.display()), &error)),
        }
    }
    let reach = Reach {
        read: sandbox.read.clone(),
        write: Vec::new(),
        own: opened,
        devices: grant.gpus.iter().flat_map(|gpu| gpu.nodes.iter().cloned()).chain([pipe]).collect(),
        bind: sandbox.tcp_bind.clone(),
        connect: sandbox.tcp_connect.clone(),
    };
    // Its own would hide these.
    let hidden = [&state, &directory, &tmp, &PathBuf::from(&program)].into_iter().any(|path| path.starts_with("/tmp"));
    let own_tmp = wanted.has(Layer::Tmp) && !hidden;
    let reach = reach.with_system().with_program(Path::new(&program));
    let landlocked = Rules::wanted(&reach, sandbox.off);
    if !landlocked.has(Layer::Ports) {
        wanted = wanted.without(Layer::Ports);
    }
    let rules = Rules::new(&reach, landlocked)
        .map_err(|error| NotStarted::refused(format!("could not make its file rules: {error}")))?;
    let filters = if wanted.has(Layer::SystemCalls) { filters().unwrap_or_default() } else { Vec::new() };
    let null = File::options().read(true).open("/dev/null").map_err(|error| NotStarted::io("/dev/null", &error))?;
    let (cgroup, procs, unlimited) = match site.group(&manifest.name) {
        Some(group) => {
            // What a container engine left below it would keep a process out.
            if !group.populated() {
                group.remove();
            }
            let made = group.make().map_err(|error| NotStarted::passing("could not make its cgroup", &error))?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let procs = openat(&made, "cgroup.procs", flags, Mode::empty())
                .map_err(|error| NotStarted::passing("could not open its cgroup", &error.into()))?;
            (Some(made), Some(procs), group.limit(&manifest.limits))
        }
        None => (None, None, Vec::new()),
    };
    let text = |text: String| {
        CString::new(text).map_err(|_| NotStarted::refused("has a zero byte in its command or environment"))
    };
    let (mut limits, unfit) = limits(&manifest.limits);
    // No other user is to be had: told, as every downgrade.
    let same = (user.uid == own.uid && own.uid != 0).then_some("a user of its own");
    let unlimited: Vec<_> = unlimited.into_iter().chain(unfit).chain(same).collect();
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
        procs,
        ignored: ignored(),
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

/// The limits of its processes, and the names of those that are lower than they should be.
fn limits(limits: &Limits) -> (Vec<(Resource, Rlimit)>, Vec<&'static str>) {
    // Root without it, as in a container or under a unit's bounds, may raise as little as anybody.
    let raises =
        rustix::thread::capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE));
    fitted(limits, |resource| if raises { None } else { getrlimit(resource).maximum })
}

/// `most` is what the agent may give at most; `None` where that is any.
fn fitted(limits: &Limits, most: impl Fn(Resource) -> Option<u64>) -> (Vec<(Resource, Rlimit)>, Vec<&'static str>) {
    let megabytes = limits.locked_mib.unwrap_or(8);
    let wanted = [
        (Resource::Nofile, u64::from(limits.open_files), "open_files"),
        (Resource::Memlock, u64::from(megabytes) << 20, "locked_mib"),
        (Resource::Core, 0, ""),
        (Resource::Rtprio, 0, ""),
    ];
    let (mut fitted, mut unfit) = (Vec::new(), Vec::new());
    for (resource, wanted, name) in wanted {
        let given = most(resource).map_or(wanted, |most| most.min(wanted));
        if given < wanted {
            unfit.push(name);
        }
        fitted.push((resource, Rlimit { current: Some(given), maximum: Some(given) }));
    }
    (fitted, unfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_above_what_the_agent_may_give_is_lowered_and_told() {
        let wanted = |locked_mib| Limits { open_files: 65_536, locked_mib, ..Limits::default() };
        for (locked_mib, most, files, bytes, told) in [
            (None, None, 65_536, 8 << 20, vec![]),
            (Some(4_096), None, 65_536, 4_096 << 20, vec![]),
            (None, Some((524_288, 8 << 20)), 65_536, 8 << 20, vec![]),
            (Some(9), Some((524_288, 8 << 20)), 65_536, 8 << 20, vec!["locked_mib"]),
            (Some(9), Some((4_096, 65_536)), 4_096, 65_536, vec!["open_files", "locked_mib"]),
        ] {
            let given = |resource| most.map(|(files, bytes)| if resource == Resource::Nofile { files } else { bytes });
            let (limits, unfit) = fitted(&wanted(locked_mib), given);
            let now: Vec<_> = limits.iter().map(|(_, limit)| (limit.current, limit.maximum)).collect();
            let both = |value| (Some(value), Some(value));
            assert_eq!(now, [both(files), both(bytes), both(0), both(0)], "{locked_mib:?} {most:?}");
            assert_eq!(unfit, told, "{locked_mib:?} {most:?}");
        }
    }
}
