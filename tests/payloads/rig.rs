//! A supervisor of its own for each test, and ways to wait.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rigd::clock;
use rigd::payload::manifest::Manifest;
use rigd::payload::supervisor::{
    self, Found, Hooks, Inputs, Meter, NoGrant, ORDERS, Order, Payloads, Refusal, Reloaded, Status, What,
};
use rigd::payload::{Gpu, Grant, Hold, LOG_MOST};
use rigd::reading::{Missing, Reading};
use rigd::units::Milliwatts;
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Nothing here takes as long, but on a machine that is busy with much else. It is waited out only by a test that fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Whether there is what cgroups and other users take.
pub(crate) fn root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid_is_root();
    if !root {
        eprintln!("not root: without cgroups and other users");
    }
    root
}

trait Owner {
    fn uid_is_root(&self) -> bool;
}

impl Owner for fs::Metadata {
    fn uid_is_root(&self) -> bool {
        std::os::unix::fs::MetadataExt::uid(self) == 0
    }
}

/// A directory on disk that is not `/tmp`, which payloads do not see.
pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(format!("/var/tmp/rigd-payloads-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

/// A cgroup of its own; none where none can be made.
pub(crate) fn cgroup(name: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let group = mount.map(|mount| Path::new(mount).join(format!("rigd-test-{}-{name}", std::process::id())));
    let group = group.filter(|group| fs::create_dir_all(group).is_ok());
    if group.is_none() {
        eprintln!("no cgroup v2 that may be written: without");
    }
    group
}

/// A manifest of a shell script that runs as nobody, where that is possible.
pub(crate) fn script(name: &str, script: &str, more: &str) -> Manifest {
    script_of("ai", name, script, more)
}

/// The same of another kind.
pub(crate) fn script_of(kind: &str, name: &str, script: &str, more: &str) -> Manifest {
    let user = if root() { "user = \"nobody\"\n" } else { "" };
    let text = format!("kind = \"{kind}\"\nargv = [\"/bin/sh\", \"-c\", '''{script}''']\n{user}{more}");
    Manifest::parse("test", name, &text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Has no GPUs and no meters.
struct Nobody;

impl Hooks for Nobody {
    fn grant(&self, _: &Manifest) -> Result<Grant, NoGrant> {
        Ok(Grant::default())
    }

    fn power(&self, _: &[Gpu]) -> Reading<Milliwatts> {
        Err(Missing::NotPresent)
    }

    fn quarantined(&self, _: &Manifest) {}

    fn meter(&self, _: &Manifest, _: &[u64]) -> Option<Box<dyn Meter>> {
        None
    }
}

pub(crate) fn inputs(
    directory: &Path,
    cgroup: Option<PathBuf>,
    manifests: Vec<Manifest>,
) -> (Inputs, mpsc::Sender<Order>, watch::Receiver<Arc<Payloads>>) {
    let (orders, waiting) = mpsc::channel(ORDERS);
    let (payloads, seen) = watch::channel(Arc::default());
    let hooks = Arc::new(Nobody);
    let (_, reloads) = mpsc::channel(1);
    let inputs = Inputs {
        state: directory.to_owned(),
        cgroup,
        manifests,
        load: Arc::new(Found::default),
        orders: waiting,
        reloads,
        payloads,
        hooks,
        seed: 7,
    };
    (inputs, orders, seen)
}

/// A supervisor that runs.
pub(crate) struct Rig {
    pub(crate) directory: PathBuf,
    pub(crate) cgroup: Option<PathBuf>,
    orders: mpsc::Sender<Order>,
    reloads: mpsc::Sender<oneshot::Sender<Reloaded>>,
    /// What is found when the manifests are read again.
    found: Arc<Mutex<Found>>,
    payloads: watch::Receiver<Arc<Payloads>>,
    task: JoinHandle<()>,
    guard: Guard,
}

/// Kills what a test that fails has left running.
pub(crate) struct Guard(pub(crate) Option<PathBuf>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(group) = self.0.as_ref().filter(|_| std::thread::panicking()) {
            let _ = fs::write(group.join("cgroup.kill"), "1");
        }
    }
}

impl Rig {
    pub(crate) fn new(name: &str, manifests: Vec<Manifest>) -> Self {
        Self::with(directory(name), cgroup(name), manifests, |_| {})
    }

    pub(crate) fn with(
        directory: PathBuf,
        cgroup: Option<PathBuf>,
        manifests: Vec<Manifest>,
        change: impl FnOnce(&mut Inputs),
    ) -> Self {
        let (mut inputs, orders, payloads) = inputs(&directory, cgroup.clone(), manifests);
        change(&mut inputs);
        let guard = Guard(cgroup.clone());
        let found: Arc<Mutex<Found>> = Arc::default();
        let source = Arc::clone(&found);
        inputs.load = Arc::new(move || source.lock().unwrap().clone());
        let (reloads, reloaded) = mpsc::channel(1);
        inputs.reloads = reloaded;
        let task = tokio::spawn(supervisor::run(inputs));
        Self { directory, cgroup, orders, reloads, found, payloads, task, guard }
    }

    pub(crate) async fn order<T>(&self, name: &str, what: impl FnOnce(oneshot::Sender<T>) -> What) -> T {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order { name: name.to_owned(), what: what(reply) }).await.unwrap();
        tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap()
    }

    /// Has it read these manifests in place of those before.
    pub(crate) async fn reload(&self, found: Found) -> Reloaded {
        *self.found.lock().unwrap() = found;
        tokio::time::timeout(DEADLINE, self.begin_reload().await).await.unwrap().unwrap()
    }

    async fn begin_reload(&self) -> oneshot::Receiver<Reloaded> {
        let (reply, answer) = oneshot::channel();
        self.reloads.send(reply).await.unwrap();
        answer
    }

    /// Has them read again from a disk that answers when `meanwhile` is over.
    pub(crate) async fn reload_slowly(&self, meanwhile: impl Future<Output = ()>) -> Reloaded {
        // Held by a thread of its own, as a disk is.
        let ((held, holds), (release, released)) = (oneshot::channel(), std::sync::mpsc::sync_channel::<()>(0));
        let found = Arc::clone(&self.found);
        let disk = std::thread::spawn(move || {
            let _found = found.lock().unwrap();
            held.send(()).unwrap();
            let _ = released.recv();
        });
        holds.await.unwrap();
        let answer = self.begin_reload().await;
        meanwhile.await;
        drop(release);
        disk.join().unwrap();
        tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap()
    }

    pub(crate) async fn start(&self, name: &str) -> Result<(), Refusal> {
        self.order(name, What::Start).await
    }

    /// Says how far it is held back, as control does.
    pub(crate) async fn hold(&self, name: &str, hold: Hold) {
        self.orders.send(Order { name: name.to_owned(), what: What::Hold(hold) }).await.unwrap();
    }

    pub(crate) async fn stop(&self, name: &str) -> Status {
        self.order(name, What::Stop).await.unwrap();
        self.until(name, |status| status.phase == rigd::payload::lifecycle::Phase::Stopped).await
    }

    /// Waits until a payload is as it should be.
    pub(crate) async fn until(&self, name: &str, is: impl Fn(&Status) -> bool) -> Status {
        let mut payloads = self.payloads.clone();
        let find = |payloads: &Payloads| payloads.0.iter().find(|status| status.name == name).cloned();
        let wanted = payloads.wait_for(|payloads| find(payloads).is_some_and(|status| is(&status)));
        match tokio::time::timeout(DEADLINE, wanted).await {
            Ok(payloads) => find(&payloads.unwrap()).unwrap(),
            Err(_) => panic!("{name} is not as it should be: {:?}", find(&self.payloads.borrow())),
        }
    }

    pub(crate) async fn log(&self, name: &str) -> String {
        self.order(name, |reply| What::Log(Some(0), LOG_MOST, reply)).await.unwrap().text
    }

    /// Waits until its log says something.
    pub(crate) async fn until_said(&self, name: &str, what: &str) -> String {
        let deadline = clock::now() + DEADLINE;
        loop {
            let log = self.log(name).await;
            if log.contains(what) {
                return log;
            }
            assert!(clock::now() < deadline, "no `{what}` in: {log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Processes in a payload's cgroup, groups below it left out.
    pub(crate) fn procs(&self, name: &str) -> Vec<i32> {
        procs(self.cgroup.as_deref().unwrap(), name)
    }

    /// Ends the supervisor; payloads go on.
    pub(crate) async fn leave(self) -> (PathBuf, Option<PathBuf>) {
        let Self { directory, cgroup, orders, reloads, payloads, task, guard: _guard, .. } = self;
        drop((orders, reloads, payloads));
        tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
        (directory, cgroup)
    }

    /// Ends the supervisor and what is left.
    pub(crate) async fn end(self) {
        let (directory, cgroup) = self.leave().await;
        clean(&directory, cgroup.as_deref());
    }
}

pub(crate) fn procs(cgroup: &Path, name: &str) -> Vec<i32> {
    let procs = fs::read_to_string(cgroup.join("payloads").join(name).join("cgroup.procs")).unwrap_or_default();
    procs.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// Kills what is left in a test's cgroup and removes what it has made.
pub(crate) fn clean(directory: &Path, cgroup: Option<&Path>) {
    if let Some(group) = cgroup.filter(|group| group.exists()) {
        let _ = fs::write(group.join("cgroup.kill"), "1");
        until("the cgroup is empty", || {
            !fs::read_to_string(group.join("cgroup.events")).unwrap().contains("populated 1")
        });
        for inner in fs::read_dir(group.join("payloads")).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(inner.path());
        }
        let _ = fs::remove_dir(group.join("payloads"));
        fs::remove_dir(group).unwrap();
    }
    let _ = fs::remove_dir_all(directory);
}

/// Waits, and lets the supervisor go on meanwhile.
pub(crate) async fn until_quiet(what: &str, is: impl Fn() -> bool) {
    let deadline = clock::now() + DEADLINE;
    while !is() {
        assert!(clock::now() < deadline, "{what}: for ever");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = clock::now() + DEADLINE;
    while !is() {
        assert!(clock::now() < deadline, "{what}: never");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process is there and no zombie.
pub(crate) fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

/// This thread's kernel is an old one from here on.
pub(crate) fn no_clone3() {
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, absent, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

/// Runs on one thread, as the agent does.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Processes of a payload and of its log that have ended and that nobody has waited for.
pub(crate) fn zombies(name: &str) -> usize {
    let theirs = |path: &Path| {
        let cgroup = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        cgroup.contains(&format!("/payloads/{name}")) && stat.contains(") Z ")
    };
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| theirs(&entry.path())).count()
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}
