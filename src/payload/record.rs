//! What the next agent has to know of a payload: `record.json` in its directory.
//!
//! It is written before anything of the payload runs and whenever its state changes. What runs is found again by its cgroup and
//! the moment at which its process was started, never by a process id alone: these are used again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use log::warn;
use serde::{Deserialize, Serialize};

use super::Grant;
use super::lifecycle::State;
use super::sandbox::Layers;

const FILE: &str = "record.json";
const VERSION: u32 = 1;
/// A hundred starts in a window are a tenth of that.
const LARGEST: u64 = 64 * 1024;

/// A payload as the next agent finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of this format.
    pub(super) version: u32,
    /// Of the rig: another one, and nothing runs of what is written here.
    pub(super) boot: String,
    /// Its life.
    pub(super) state: State,
    /// Its process, while there is one.
    pub(super) process: Option<Known>,
    /// The GPUs it was given.
    pub(super) grant: Grant,
    /// What its meter counted.
    pub(super) counters: Vec<u64>,
    /// The pipe of its log, by its inode; 0 where it has none.
    #[serde(default)]
    pub(super) pipe: u64,
}

/// How to know a process again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) pid: i32,
    /// Ticks since boot (proc_pid_stat(5), field 22).
    pub(super) start: u64,
    /// Whether it is in its cgroup.
    pub(super) grouped: bool,
    /// The kernel's kills for memory in that group before this run.
    pub(super) oom_kills: u64,
    /// What keeps it to itself.
    pub(super) layers: Layers,
}

/// Where records are kept.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    boot: String,
}

impl Shelf {
    pub(super) fn new(directory: &Path, boot: &str) -> Self {
        Self { path: directory.join(FILE), boot: boot.to_owned() }
    }

    /// What was written last, as far as it still holds after a boot of the rig; nothing where there is none. One that cannot be
    /// understood is put aside.
    #[must_use]
    pub(super) fn load(&self) -> Option<Record> {
        let record = match read(&self.path) {
            Ok(record) if record.version == VERSION => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            other => {
                let reason = other.err().map_or_else(|| "of another version".to_owned(), |error| error.to_string());
                warn!("payloads: {}: {reason}; put aside", self.path.display());
                let _ = fs::rename(&self.path, self.path.with_extension("json.bad"));
                return None;
            }
        };
        if record.boot == self.boot {
            return Some(record);
        }
        Some(Record { state: record.state.after_boot(), process: None, ..record })
    }

    /// Writes it; whoever reads finds the old one or the new one. `lasting` says that it must also survive a power cut.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn save(&self, record: &Record, lasting: bool) -> io::Result<()> {
        let record = Record { version: VERSION, boot: self.boot.clone(), ..record.clone() };
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        if lasting {
            file.sync_all()?;
        }
        fs::rename(&new, &self.path)?;
        if lasting && let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Record> {
    if fs::metadata(path)?.len() > LARGEST {
        return Err(io::Error::other("too large for a payload's record"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// When this process was started, in ticks since boot; `None` where there is none.
#[must_use]
pub(super) fn started(pid: i32) -> Option<u64> {
    start_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Start and exit status of a process that has ended and that its parent has not waited for; the status takes the right to trace
/// it, and is 0 without (proc_pid_stat(5), field 52).
#[must_use]
pub(super) fn dead(pid: i32) -> Option<(u64, i32)> {
    dead_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn dead_of(stat: &str) -> Option<(u64, i32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let status = rest.split_ascii_whitespace().nth(49)?.parse().ok()?;
    rest.trim_start().starts_with('Z').then_some((start_of(stat)?, status))
}

/// The second field is the program's name in brackets, which may hold blanks and brackets.
fn start_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Gpu;
    use super::super::lifecycle::{Cause, Event, Expectation, Policy, Restart, Rules, next};
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21";
        for name in ["cat", "a b", "x) S 1 (y", "))"] {
            assert_eq!(start_of(&format!("42 ({name}) {rest}")), Some(987_654), "{name}");
        }
        assert_eq!((start_of(""), start_of("42 (x) S 1")), (None, None));
        assert!(started(i32::try_from(std::process::id()).unwrap()).is_some());
        assert_eq!(started(i32::MAX), None);
    }

    #[test]
    fn a_zombie_says_how_it_ended() {
        // As Linux 6.18 shows one that was killed.
        let stat = "24893 (python3) Z 1 24834 26771 0 -1 4228172 205 0 0 0 0 0 0 0 20 0 1 0 2665046 0 0 18446744073709551615 \
            0 0 0 0 0 0 0 16781312 2 1 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 9";
        assert_eq!(dead_of(stat), Some((2_665_046, 9)));
        assert_eq!(dead_of(&stat.replace(") Z", ") S")), None);
    }

    #[test]
    fn a_record_is_found_again_and_after_a_boot_only_what_outlives_it() {
        let directory = std::env::temp_dir().join(format!("rigd-record-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let shelf = Shelf::new(&directory, "boot-1");
        assert_eq!(shelf.load(), None);
        let second = Duration::from_secs(1);
        let restart =
            Restart { policy: Policy::Always, min: second, max: second, budget: 3, window: second, stable: second };
        let expect = Some(Expectation { rate: Some(1), min_pct: 50, warmup: second, low: second });
        let rules = Rules { restart, grace: second, probe: None, expect };
        let (mut state, _) = next(&rules, State::default(), Event::Start, second, 0);
        state.held = Some(Cause::LowRate);
        let known = Known { pid: 42, start: 7, grouped: true, oom_kills: 1, layers: Layers::default() };
        let grant = Grant { gpus: vec![Gpu { uuid: "GPU-1".to_owned(), nodes: vec!["/dev/nvidia0".into()] }] };
        let record = Record { state, process: Some(known), grant, counters: vec![1, 2], ..Record::default() };
        shelf.save(&record, true).unwrap();
        let found = shelf.load().unwrap();
        assert_eq!((&found.state, found.process, &found.counters), (&record.state, Some(known), &record.counters));
        let found = Shelf::new(&directory, "boot-2").load().unwrap();
        assert_eq!(found.process, None);
        assert_eq!((found.state.wanted, found.state.held, found.state.alive()), (true, Some(Cause::LowRate), false));
        for damage in ["", "{}", "{\"version\":2}", &"x".repeat(100_000)] {
            fs::write(directory.join(FILE), damage).unwrap();
            assert_eq!(shelf.load(), None, "{}", damage.len());
            assert!(!directory.join(FILE).exists());
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
