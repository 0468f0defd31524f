//! What the next agent has to know of a payload: `record.json` in its directory, and two files beside it.
//!
//! It is written before anything of the payload runs and whenever its state changes. What runs is found again by its cgroup and
//! the moment at which its process was started, never by a process id alone: these are used again.
//!
//! What only has to survive the agent is written over in its place, by turns in `record.0` and `record.1`, each with a checksum: one
//! call, nothing made, nothing renamed, and no journal of the file system that could keep a restart waiting. A kill in the middle of
//! one leaves the other, which is the state before. What has to survive a power cut, or to be read by an agent of before these
//! two, is `record.json`, replaced whole. The newest of the three counts, by the number that each has one higher than the last.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use log::warn;
use serde::{Deserialize, Serialize};

use super::Grant;
use super::cgroup::small;
use super::lifecycle::State;
use super::sandbox::Layers;
use crate::digest::fnv1a;

const FILE: &str = "record.json";
const BY_TURNS: [&str; 2] = ["record.0", "record.1"];
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
    /// One higher than that of the record before.
    #[serde(default)]
    pub(super) turn: u64,
    /// Out of the plan until somebody starts it.
    #[serde(default)]
    pub(super) out: bool,
}

/// What a record must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survives {
    /// The agent's end.
    Agent,
    /// And its replacement by an older one.
    Downgrade,
    /// And a power cut.
    PowerCut,
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
    /// Of the newest record.
    turn: Arc<AtomicU64>,
}

impl Shelf {
    pub(super) fn new(directory: &Path, boot: &str) -> Self {
        Self { path: directory.join(FILE), boot: boot.to_owned(), turn: Arc::default() }
    }

    /// What was written last, as far as it still holds after a boot of the rig; nothing where there is none. One that cannot be
    /// understood is put aside.
    #[must_use]
    pub(super) fn load(&self) -> Option<Record> {
        let whole = match read(&self.path) {
            Ok(record) if record.version == VERSION => Some(record),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => {
                let reason = other.err().map_or_else(|| "of another version".to_owned(), |error| error.to_string());
                warn!("payloads: {}: {reason}; put aside", self.path.display());
                let _ = fs::rename(&self.path, self.path.with_extension("json.bad"));
                None
            }
        };
        // Written by an agent of before there were turns: what stands beside it is from before that one.
        let first = whole.as_ref().is_some_and(|record| record.turn == 0);
        if first {
            for file in BY_TURNS {
                let _ = fs::remove_file(self.path.with_file_name(file));
            }
        }
        let by_turns = BY_TURNS.iter().filter_map(|file| read_checked(&self.path.with_file_name(file)));
        let record = whole.into_iter().chain(by_turns).max_by_key(|record| record.turn)?;
        self.turn.store(record.turn, Relaxed);
        let record = if record.boot == self.boot {
            record
        } else {
            Record { state: record.state.after_boot(), process: None, ..record }
        };
        if first && let Err(error) = self.save(&record, Survives::Downgrade) {
            warn!("payloads: {}: {error}", self.path.display());
        }
        Some(record)
    }

    /// Writes it; whoever reads finds the old one or the new one.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn save(&self, record: &Record, survives: Survives) -> io::Result<()> {
        let turn = self.turn.fetch_add(1, Relaxed) + 1;
        let record = Record { version: VERSION, boot: self.boot.clone(), turn, ..record.clone() };
        let lasting = match survives {
            Survives::Agent => {
                let [even, odd] = BY_TURNS;
                return self.write_over(if turn.is_multiple_of(2) { even } else { odd }, &serde_json::to_vec(&record)?);
            }
            Survives::Downgrade => false,
            Survives::PowerCut => true,
        };
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

    /// In one call. What is left of a longer one behind it counts for nothing.
    fn write_over(&self, file: &str, record: &[u8]) -> io::Result<()> {
        let mut all = format!("{:08x} {:08x}\n", fnv1a(record), record.len()).into_bytes();
        all.extend_from_slice(record);
        let mut file = File::options().write(true).create(true).truncate(false).open(self.path.with_file_name(file))?;
        file.write_all(&all)
    }
}

/// One that was written over in its place; `None` where there is none, and where it was cut short.
fn read_checked(path: &Path) -> Option<Record> {
    if fs::metadata(path).ok()?.len() > LARGEST {
        return None;
    }
    let all = fs::read(path).ok()?;
    let (head, rest) = all.split_at_checked(18)?;
    let (sum, length) = std::str::from_utf8(head).ok()?.trim_end().split_once(' ')?;
    let hex = |text| u32::from_str_radix(text, 16).ok();
    let record = rest.get(..usize::try_from(hex(length)?).ok()?).filter(|record| Some(fnv1a(record)) == hex(sum))?;
    serde_json::from_slice(record).ok().filter(|record: &Record| record.version == VERSION)
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
    start_of(&small(Path::new(&format!("/proc/{pid}/stat"))).ok()?)
}

/// Start and exit status of a process that has ended and that its parent has not waited for; the status takes the right to trace
/// it, and is 0 without (proc_pid_stat(5), field 52).
#[must_use]
pub(super) fn dead(pid: i32) -> Option<(u64, i32)> {
    dead_of(&small(Path::new(&format!("/proc/{pid}/stat"))).ok()?)
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
    use crate::scratch::Scratch;
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
        let directory = Scratch::new("record");
        let shelf = Shelf::new(&directory, "boot-1");
        assert_eq!(shelf.load(), None);
        let second = Duration::from_secs(1);
        let restart =
            Restart { policy: Policy::Always, min: second, max: second, budget: 3, window: second, stable: second };
        let expect = Some(Expectation { rate: Some(1), min_pct: 50, warmup: second, low: second });
        let rules = Rules { restart, grace: second, probe: None, expect, pausable: true };
        let (mut state, _) = next(&rules, State::default(), Event::Start, second, 0);
        state.held = Some(Cause::LowRate);
        let known = Known { pid: 42, start: 7, grouped: true, oom_kills: 1, layers: Layers::default() };
        let grant = Grant { gpus: vec![Gpu { uuid: "GPU-1".to_owned(), nodes: vec!["/dev/nvidia0".into()] }] };
        let record = Record { state, process: Some(known), grant, counters: vec![1, 2], ..Record::default() };
        shelf.save(&record, Survives::PowerCut).unwrap();
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
    }

    #[test]
    fn the_newest_record_counts_and_one_that_was_cut_short_does_not() {
        let directory = Scratch::new("records");
        let shelf = Shelf::new(&directory, "boot-1");
        let record = |counters: &[u64]| Record { counters: counters.to_vec(), ..Record::default() };
        let found = || Shelf::new(&directory, "boot-1").load().map(|record| record.counters);
        let turns = [Survives::Agent, Survives::Agent, Survives::PowerCut, Survives::Agent, Survives::Downgrade];
        for (number, survives) in (1..).zip(turns.into_iter().chain([Survives::Agent; 4])) {
            // The later ones are shorter: what stands behind them is none of theirs.
            shelf.save(&record(&vec![number; 20 - usize::try_from(number).unwrap()]), survives).unwrap();
            assert_eq!(found().and_then(|counters| counters.first().copied()), Some(number));
        }
        // The ninth is in `record.1`; the kill came in the middle of it, wherever that is.
        let last = directory.join(BY_TURNS[1]);
        let whole = fs::read(&last).unwrap();
        for cut in 0..whole.len() {
            let mut torn = whole.clone();
            torn[cut..].fill(b'7');
            fs::write(&last, &torn).unwrap();
            let first = found().and_then(|counters| counters.first().copied());
            assert!(matches!(first, Some(8 | 9)), "{cut}: {first:?}");
        }
        fs::write(&last, "").unwrap();
        // The next agent goes on counting from there, and so the one after it finds what it wrote.
        let next = Shelf::new(&directory, "boot-1");
        assert_eq!(next.load().unwrap().turn, 8);
        next.save(&record(&[99]), Survives::Agent).unwrap();
        assert_eq!(found(), Some(vec![99]));
        let by_turns = || BY_TURNS.map(|file| directory.join(file)).into_iter().filter(|path| path.exists()).count();
        // An older agent was here meanwhile, which knows one file and no turns: its word counts, also to the agents after the next.
        let text = fs::read_to_string(directory.join(FILE)).unwrap();
        let (turns, without) = (",\"turn\":5", text.replace(",\"turn\":5", "").replace('5', "6"));
        assert!(text.contains(turns) && by_turns() == 2);
        fs::write(directory.join(FILE), without).unwrap();
        assert_eq!((found(), by_turns()), (Some(vec![6; 15]), 0));
        let next = Shelf::new(&directory, "boot-1");
        next.load().unwrap();
        next.save(&record(&[100]), Survives::Agent).unwrap();
        assert_eq!((found(), by_turns()), (Some(vec![100]), 1));
    }
}
