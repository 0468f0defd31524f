//! Looks at a rig from outside while its GPUs change hands, whatever the agent says: by the kernel, which process has which GPU's
//! lock file open; by the simulated world, what is set on each card and what was used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rigd::clock;

use crate::truth::{Diary, Seen};

/// What a card may have set while a payload is on it: the payload's name ends so.
pub(crate) type Locks = Vec<(&'static str, &'static str)>;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) seen: Seen,
    pub(crate) diary: Diary,
    /// What must never be.
    pub(crate) broken: Vec<String>,
    /// Looks at processes, and how many of these found a payload on a GPU.
    pub(crate) looks: [u32; 2],
}

/// It looks until it is dropped.
pub(crate) struct Referee {
    notes: Arc<Mutex<Notes>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Whistle {
    world: BufReader<UnixStream>,
    state: PathBuf,
    folder: PathBuf,
    gpus: Vec<String>,
    locks: Locks,
}

impl Referee {
    /// Over the rig whose sockets are in `sim`, whose agent's state is `state`, and whose payloads open a file in `folder` for each
    /// GPU that they have, named after it.
    pub(crate) fn new(sim: &Path, state: &Path, folder: &Path, gpus: &[&str], locks: Locks) -> Self {
        let world = BufReader::new(UnixStream::connect(sim.join("control")).unwrap());
        let gpus = gpus.iter().map(|gpu| (*gpu).to_owned()).collect();
        let mut whistle = Whistle { world, state: state.to_owned(), folder: folder.to_owned(), gpus, locks };
        let (notes, stop) = (Arc::<Mutex<Notes>>::default(), Arc::<AtomicBool>::default());
        let (ours, ends) = (Arc::clone(&notes), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for turn in 0_u64.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                // Processes are many files to read.
                whistle.look(&mut ours.lock().unwrap(), turn.is_multiple_of(3));
                thread::park_timeout(Duration::from_millis(80));
            }
        });
        Self { notes, stop, thread: Some(thread) }
    }

    /// What was seen so far; it looks no further while this is looked at.
    pub(crate) fn notes<T>(&self, look: impl FnOnce(&Notes) -> T) -> T {
        look(&self.notes.lock().unwrap())
    }
}

impl Drop for Referee {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Whistle {
    fn look(&mut self, notes: &mut Notes, processes: bool) {
        let before = if processes { self.holders() } else { BTreeMap::new() };
        let at_ms = clock::unix_ms();
        let world = self.say("get world");
        notes.seen.look(at_ms, &world);
        notes.diary.look(&self.state);
        if !processes {
            return;
        }
        let after = self.holders();
        notes.looks[0] += 1;
        notes.looks[1] += u32::from(!after.is_empty());
        for (gpu, names) in &after {
            if names.len() > 1 {
                notes.broken.push(format!("{gpu} has {names:?} at once"));
            }
            // On it before the look at the card and after it.
            let both = names.iter().filter(|name| before.get(gpu).is_some_and(|names| names.contains(*name)));
            for name in both {
                let set = self.setting(&world, gpu, "core_lock_mhz");
                let own = self.locks.iter().find(|(end, _)| name.ends_with(end)).map(|(_, lock)| *lock);
                if set != "none" && Some(set.as_str()) != own {
                    notes.broken.push(format!("{name} is on {gpu}, which has the lock {set} of another"));
                }
            }
        }
    }

    fn setting(&self, world: &str, gpu: &str, what: &str) -> String {
        let place = self.gpus.iter().position(|known| known == gpu).unwrap();
        let key = format!("gpu.{place}.{what}=");
        world.lines().find_map(|line| line.strip_prefix(&key)).unwrap().to_owned()
    }

    fn say(&mut self, line: &str) -> String {
        self.world.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut all = String::new();
        loop {
            let mut one = String::new();
            assert!(self.world.read_line(&mut one).unwrap() > 0, "the world is gone");
            if one == "ok\n" {
                return all;
            }
            all.push_str(&one);
        }
    }

    /// Payloads by GPU: whose processes have its file open.
    fn holders(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let path = process.path();
            let Ok(files) = fs::read_dir(path.join("fd")) else { continue };
            for file in files.flatten() {
                let Ok(target) = fs::read_link(file.path()) else { continue };
                let Ok(gpu) = target.strip_prefix(&self.folder) else { continue };
                let Some(gpu) = gpu.to_str().filter(|gpu| self.gpus.iter().any(|known| known == gpu)) else { continue };
                let Some(name) = payload(&path) else { continue };
                holders.entry(gpu.to_owned()).or_default().insert(name);
            }
        }
        holders
    }
}

/// What the agent told a process that it is.
fn payload(process: &Path) -> Option<String> {
    let environment = fs::read(process.join("environ")).ok()?;
    let variables = environment.split(|byte| *byte == 0).filter_map(|one| std::str::from_utf8(one).ok());
    variables.filter_map(|one| one.strip_prefix("RIGD_PAYLOAD=")).map(str::to_owned).next()
}
