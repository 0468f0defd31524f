//! A payload's own cgroup (cgroup v2, Documentation/admin-guide/cgroup-v2.rst): what was started in it cannot leave, is counted,
//! limited and killed as one, and is found again after the agent was gone.
//!
//! ```text
//! BASE                      that of rigd-payloads.service, which systemd keeps for them; else the agent's own; or one from the configuration
//! ├── agent                 the agent, moved here where BASE is its own: no group has both processes and controllers that it passes on
//! └── payloads
//!     ├── NAME              the payload
//!     └── NAME.log          who writes its log down: outlives it by what is still in the pipe
//! ```
//!
//! Not below the unit of the agent: systemd starts the next agent in that unit's own group, and the kernel lets nobody into a group that
//! passes controllers on. What binds that group, memory and device files, would bind the payloads too.
//!
//! Without a cgroup2 file system, or where nothing may be made in it, a payload is its session, and what left that is lost.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{info, warn};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::Interest;

use super::manifest::Limits;
use super::watch;

/// Rounds of killing one by one, on kernels without `cgroup.kill` (before 5.14).
const ROUNDS: usize = 16;
/// Name of the group of groups.
const GROUPS: &str = "payloads";
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// The unit beside the agent's whose group is delegated for payloads.
const UNIT: &str = "rigd-payloads.service";

/// Where payloads' groups are made.
#[derive(Clone, Debug)]
pub(super) struct Root {
    path: PathBuf,
}

impl Root {
    /// Below this is the group of groups: `configured`, or above the agent's own.
    fn base(configured: Option<&Path>) -> Result<PathBuf, String> {
        if let Some(path) = configured {
            return Ok(path.to_owned());
        }
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let mount = mount(&read("/proc/self/mountinfo")?).ok_or("no cgroup2 is mounted")?;
        let own = own(&read("/proc/self/cgroup")?).ok_or("the agent is in no cgroup v2")?;
        Ok(base(&mount, &own, |group| group.join("cgroup.procs").exists()))
    }

    /// Makes the group of groups, below `configured` or the agent's own.
    ///
    /// # Errors
    /// Why there can be none: then the layer is missing.
    pub(super) fn make(configured: Option<&Path>) -> Result<Self, String> {
        let base = Self::base(configured)?;
        let path = base.join(GROUPS);
        let made = fs::create_dir(&path).or_else(|error| {
            if error.kind() == ErrorKind::AlreadyExists && path.join("cgroup.procs").exists() {
                Ok(())
            } else {
                Err(error)
            }
        });
        made.map_err(|error| format!("{}: {error}", path.display()))?;
        if !path.join("cgroup.procs").exists() {
            // A directory of another file system: the configuration names no cgroup.
            let _ = fs::remove_dir(&path);
            return Err(format!("{} is no cgroup", base.display()));
        }
        pass_on(&base, &path);
        Ok(Self { path })
    }

    /// The group of a payload, made or not.
    #[must_use]
    pub(super) fn group(&self, name: &str) -> Group {
        Group { path: self.path.join(name) }
    }

    /// The groups that are there.
    #[must_use]
    pub(super) fn groups(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Whether nothing runs of a payload that has no manifest, as its cgroup says; not where there are none. `configured` is the group
/// that the configuration names.
pub(crate) fn deserted(configured: Option<&Path>, name: &str) -> bool {
    let root = Root::base(configured).map(|base| Root { path: base.join(GROUPS) });
    root.is_ok_and(|root| root.path.join("cgroup.procs").exists() && !root.group(name).populated())
}

/// Passes controllers on to the payloads' groups, as far as that goes. Without them limits do not hold, and all else does.
fn pass_on(base: &Path, payloads: &Path) {
    let available = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    let wanted: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| available.split(' ').any(|a| a.trim() == *name)).collect();
    if wanted.len() < CONTROLLERS.len() {
        info!("payloads: of the cgroup controllers {} there are: {}", CONTROLLERS.join(", "), wanted.join(", "));
    }
    // First of all: cpu and pids can be passed on by a group with processes in it, and then has threads below it and no processes
    // (cgroup-v2.rst, "Threads"). Only the root of all groups may have both, and has no type.
    if !wanted.is_empty()
        && base.join("cgroup.type").exists()
        && let Err(error) = step_aside(base)
    {
        warn!("payloads: no cgroup controller can be passed on, limits do not hold: {error}");
        return;
    }
    for name in wanted {
        let enable = |group: &Path| fs::write(group.join("cgroup.subtree_control"), format!("+{name}"));
        if let Err(error) = enable(base).and_then(|()| enable(payloads)) {
            warn!("payloads: the cgroup controller {name} cannot be passed on, its limits do not hold: {error}");
        }
    }
}

/// Moves the agent into a group of its own, where it is in this one.
fn step_aside(base: &Path) -> io::Result<()> {
    let procs = fs::read_to_string(base.join("cgroup.procs"))?;
    if procs.is_empty() {
        return Ok(());
    }
    let own = std::process::id().to_string();
    if procs.lines().any(|pid| pid != own) {
        return Err(io::Error::other("others are in the agent's cgroup"));
    }
    if base.extension().is_some_and(|kind| kind == "service") {
        return Err(io::Error::other(format!("there is no {UNIT}, and systemd could not start the agent again")));
    }
    let aside = base.join("agent");
    fs::create_dir(&aside)
        .or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
    fs::write(aside.join("cgroup.procs"), own)
}

/// Mount point of the cgroup2 file system, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        (after.split(' ').next()? == "cgroup2").then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

/// The agent's group, from `/proc/self/cgroup`.
fn own(cgroups: &str) -> Option<String> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Of a process in this group, the payload's group of this name, from the mount.
fn above(own: &str, name: &str) -> Option<PathBuf> {
    let known = Path::new(GROUPS).join(name);
    let found = Path::new(own).ancestors().find(|group| group.ends_with(&known))?;
    found.strip_prefix("/").ok().map(Path::to_owned)
}

/// That of the unit beside ours which is there for payloads; else the group above `agent`, where that is what an earlier run or
/// systemd (DelegateSubgroup=agent) made of ours.
fn base(mount: &Path, own: &str, is_there: impl Fn(&Path) -> bool) -> PathBuf {
    let own = own.trim_start_matches('/');
    let own = Path::new(own);
    let above = if own.ends_with("agent") { own.parent().unwrap_or(own) } else { own };
    let beside = above.parent().map(|slice| mount.join(slice).join(UNIT));
    beside.filter(|group| is_there(group)).unwrap_or_else(|| mount.join(above))
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    /// Makes it, where it is not there, and gives a descriptor to start processes in it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(File::open(&self.path)?.into())
    }

    /// Puts limits in force, and gives those that did not hold.
    #[must_use]
    pub(super) fn limit(&self, limits: &Limits) -> Vec<&'static str> {
        let Limits { memory_mib, cpu_weight, cpu_pct, pids, open_files: _, locked_mib: _ } = limits;
        let max = |value: Option<u64>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        let bytes = memory_mib.map(|mib| u64::from(mib) << 20);
        // Of 100 ms (cgroup-v2.rst: "cpu.max"): 1 % of a processor is 1 ms in each.
        let quota = cpu_pct.map(|pct| u64::from(pct) * 1_000);
        let files = [
            ("memory.max", bytes.is_some(), max(bytes)),
            ("memory.swap.max", bytes.is_some(), if bytes.is_some() { "0".to_owned() } else { max(None) }),
            ("cpu.weight", cpu_weight.is_some(), cpu_weight.unwrap_or(100).to_string()),
            ("cpu.max", quota.is_some(), format!("{} 100000", max(quota))),
            ("pids.max", pids.is_some(), max(pids.map(u64::from))),
        ];
        let written = files.into_iter().map(|(file, wanted, value)| {
            // Written also where nothing is wanted: the group may have had another limit.
            (file, wanted && file != "memory.swap.max", fs::write(self.path.join(file), value))
        });
        written.filter(|(_, wanted, result)| *wanted && result.is_err()).map(|(file, ..)| file).collect()
    }

    /// Whether anybody is in it; not where it is not there.
    #[must_use]
    pub(super) fn populated(&self) -> bool {
        small(&self.path.join("cgroup.events")).is_ok_and(|events| value(&events, "populated") == Some(1))
    }

    /// Kills of the kernel for want of memory, so far; 0 where nobody counts.
    #[must_use]
    pub(super) fn oom_kills(&self) -> u64 {
        let events = small(&self.path.join("memory.events"));
        events.ok().and_then(|events| value(&events, "oom_kill")).unwrap_or(0)
    }

    /// The payload's group of this name that a process is in, or in one that was made below it: where the kernel says that it is.
    /// `None` where it is in no such group; in it there is none where that place cannot be seen from here.
    #[must_use]
    pub(super) fn of(pid: i32, name: &str) -> Option<Option<Self>> {
        let path = above(&own(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)?, name)?;
        let mount = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|mountinfo| mount(&mountinfo));
        let group = mount.map(|mount| Self { path: mount.join(path) });
        Some(group.filter(|group| group.path.join("cgroup.procs").exists()))
    }

    pub(super) fn procs(&self) -> Vec<u32> {
        let procs = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Processes in it and in all groups below it.
    fn everyone(&self) -> Vec<u32> {
        let below = self.below().iter().flat_map(Self::everyone).collect();
        [self.procs(), below].concat()
    }

    /// The groups that were made in it: a container engine makes some.
    fn below(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.map(|entry| Self { path: entry.path() }).collect()
    }

    /// Kills everything in it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn kill(&self) -> io::Result<()> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == ErrorKind::NotFound && self.path.exists() => self.kill_one_by_one(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    /// Frozen first, and with it all groups below: what does not run cannot fork away from it. A SIGKILL gets through to what is frozen.
    fn kill_one_by_one(&self) -> io::Result<()> {
        let freeze = self.path.join("cgroup.freeze");
        let _ = fs::write(&freeze, "1");
        for _ in 0..ROUNDS {
            let procs = self.everyone();
            if procs.is_empty() {
                break;
            }
            for pid in procs.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                // Whoever is gone already needs no signal.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        fs::write(&freeze, "0")
    }

    /// Freezes everything in it, also in groups below it, and waits until it is, at most so long.
    ///
    /// # Errors
    /// `TimedOut` where something is in a driver's hands still: it freezes as soon as it is let go of. Otherwise what the system
    /// says, and nothing is frozen.
    pub(super) async fn freeze(&self, limit: Duration) -> io::Result<()> {
        // Not made where it is not there: before Linux 5.2.
        File::options().write(true).open(self.path.join("cgroup.freeze"))?.write_all(b"1")?;
        self.becomes("frozen", 1, limit).await
    }

    /// Lets everything in it go on.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn thaw(&self) -> io::Result<()> {
        match File::options().write(true).open(self.path.join("cgroup.freeze")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            opened => opened?.write_all(b"0"),
        }
    }

    /// Whether it is to be frozen.
    #[must_use]
    pub(super) fn freezes(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// Waits until nobody is in it, at most so long.
    ///
    /// # Errors
    /// `TimedOut` where somebody still is, or what the system says.
    pub(super) async fn emptied(&self, limit: Duration) -> io::Result<()> {
        self.becomes("populated", 0, limit).await
    }

    /// Waits until `cgroup.events` says so or it is gone, at most so long. The kernel signals each change.
    async fn becomes(&self, key: &str, wanted: u64, limit: Duration) -> io::Result<()> {
        let events = match File::open(self.path.join("cgroup.events")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => watch(opened?.into(), Interest::PRIORITY | Interest::ERROR)?,
        };
        let wait = async {
            let is = |text: String| value(&text, key).is_none_or(|now| now == wanted);
            while !small(&self.path.join("cgroup.events")).map_or(true, is) {
                let mut changed = events.ready(Interest::PRIORITY | Interest::ERROR).await?;
                changed.clear_ready();
            }
            Ok(())
        };
        tokio::time::timeout(limit, wait).await.map_err(|_| io::Error::from(ErrorKind::TimedOut))?
    }

    /// Removes it, where nobody is in it.
    pub(super) fn remove(&self) {
        // Those below go first, deepest first.
        self.below().iter().for_each(Self::remove);
        // What it passed on to them would keep a process out of it.
        let passed_on = fs::read_to_string(self.path.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in passed_on.split_whitespace() {
            let _ = fs::write(self.path.join("cgroup.subtree_control"), format!("-{controller}"));
        }
        match fs::remove_dir(&self.path) {
            // Busy: the kernel still clears up behind what was removed from it. It is used again as it is.
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) => {
                warn!("payloads: the cgroup {} could not be removed: {error}", self.path.display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// A file of the kernel's that is a line or a few, in one reading.
pub(super) fn small(path: &Path) -> io::Result<String> {
    let mut bytes = [0; 1024];
    let length = File::open(path)?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned())
}

/// The value of a flat keyed file.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_beside_version_one() {
        let mountinfo = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(mount("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw"), None);
    }

    #[test]
    fn payloads_are_beside_the_agent_and_not_below_it() {
        let cgroups = "9:name=systemd:/\n0::/system.slice/rigd.service/agent\n";
        let unit = "/c/system.slice/rigd-payloads.service";
        for (own, there, expected) in [
            (own(cgroups).unwrap(), "", "/c/system.slice/rigd.service"),
            ("/system.slice/rigd.service".to_owned(), "", "/c/system.slice/rigd.service"),
            ("/system.slice/rigd.service".to_owned(), unit, unit),
            (own(cgroups).unwrap(), unit, unit),
            // Another slice's is not ours.
            ("/a.slice/rigd.service".to_owned(), unit, "/c/a.slice/rigd.service"),
            ("/".to_owned(), unit, "/c"),
        ] {
            let base = base(Path::new("/c"), &own, |group| group == Path::new(there));
            assert_eq!(base, Path::new(expected), "{own} {there}");
        }
    }

    #[test]
    fn a_payloads_group_is_found_above_what_was_made_in_it_under_any_root() {
        for (own, expected) in [
            ("/payloads/x", Some("payloads/x")),
            ("/system.slice/rigd.service/payloads/x", Some("system.slice/rigd.service/payloads/x")),
            ("/old/payloads/x/libpod/container", Some("old/payloads/x")),
            ("/old/payloads/x.log", None),
            ("/old/payloads/xy/x", None),
            ("/old/agent", None),
        ] {
            assert_eq!(above(own, "x").as_deref(), expected.map(Path::new), "{own}");
        }
    }

    #[test]
    fn flat_keyed_files_are_read_by_whole_keys() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((value(events, "oom_kill"), value(events, "oom"), value(events, "max")), (Some(2), Some(3), None));
    }

    #[test]
    fn limits_are_in_the_kernels_units_and_those_that_do_not_hold_are_named() {
        let directory = std::env::temp_dir().join(format!("rigd-limits-{}", std::process::id()));
        let group = Group { path: directory.clone() };
        let limits = Limits {
            memory_mib: Some(64),
            cpu_weight: Some(50),
            cpu_pct: Some(150),
            pids: Some(9),
            ..Limits::default()
        };
        // Where there is no group nothing holds; and nothing that is not wanted is missed.
        assert_eq!(group.limit(&limits), ["memory.max", "cpu.weight", "cpu.max", "pids.max"]);
        assert!(group.limit(&Limits::default()).is_empty());
        fs::create_dir_all(&directory).unwrap();
        let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
        assert!(group.limit(&limits).is_empty());
        let written = ["memory.max", "memory.swap.max", "cpu.weight", "cpu.max", "pids.max"].map(read);
        assert_eq!(written, ["67108864", "0", "50", "150000 100000", "9"]);
        // A limit that was taken out of the manifest is lifted.
        assert!(group.limit(&Limits::default()).is_empty());
        let written = ["memory.max", "memory.swap.max", "cpu.weight", "cpu.max", "pids.max"].map(read);
        assert_eq!(written, ["max", "max", "100", "max 100000", "max"]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_older_kernels_group_is_killed_one_by_one() {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let base = mount(&mountinfo).map(|mount| mount.join(format!("rigd-unit-{}", std::process::id())));
        // Without a cgroup2 that may be written there is nothing to kill in.
        let Some(base) = base.filter(|base| fs::create_dir(base).is_ok()) else { return };
        let root = Root::make(Some(&base)).unwrap();
        let group = root.group("old");
        group.make().unwrap();
        let mut children: Vec<_> =
            (0..20).map(|_| std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap()).collect();
        for child in &children {
            fs::write(group.path.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        // As a container engine does it: one is moved below, and a second one below that.
        let inner = [group.path.join("a"), group.path.join("a/b")];
        for (path, child) in inner.iter().zip(&children) {
            fs::create_dir(path).unwrap();
            fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        for child in children.iter().take(3) {
            let pid = i32::try_from(child.id()).unwrap();
            assert_eq!((Group::of(pid, "old"), Group::of(pid, "ol")), (Some(Some(group.clone())), None));
        }
        assert!(group.populated());
        group.kill_one_by_one().unwrap();
        let deadline = crate::clock::now() + Duration::from_secs(60);
        while group.populated() {
            assert!(crate::clock::now() < deadline, "{:?} are left", group.everyone());
            std::thread::sleep(Duration::from_millis(1));
        }
        for child in &mut children {
            assert!(!child.wait().unwrap().success());
        }
        group.remove();
        assert!(!group.path.exists());
        for group in [&root.path, &base] {
            fs::remove_dir(group).unwrap();
        }
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused() {
        let directory = std::env::temp_dir().join(format!("rigd-cgroup-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        assert!(Root::make(Some(&directory)).unwrap_err().ends_with("is no cgroup"));
        assert!(Root::make(Some(Path::new("/nonexistent"))).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
