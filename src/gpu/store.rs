//! `gpus.json` in the state directory: what each GPU's profiles have come to, by UUID.
//!
//! A card that is moved to another slot keeps its record, one that is taken to another rig begins anew there.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::keeper::Record;
use crate::clock::now;
use crate::mailbox::{Sender, mailbox};
use crate::sorted;
use crate::statefile::StateFile;

/// Name of the file in the state directory.
const FILE: &str = "gpus.json";
/// Sixty-four full records take a fifth of that.
const LARGEST: u64 = 4 * 1024 * 1024;
/// Cards that are remembered; the one whose record has not changed for longest is forgotten, and that is told.
const CARDS: usize = 64;

/// A disk that has not answered by then is one that cannot be written: who waits goes on without.
const PATIENCE: Duration = Duration::from_secs(10);
/// A disk that is well answers by then, and is waited for, so that a profile does not take a pass for each record.
const PROMPT: Duration = Duration::from_millis(100);
/// It makes JSON of some records; little is on its stack.
const STACK: usize = 128 * 1024;

/// The records of all GPUs that were ever seen here. They are written by a thread of their own: a disk that hangs keeps no limit and
/// no fan waiting.
pub(super) struct Store {
    file: StateFile,
    records: BTreeMap<String, Record>,
    /// Started for the first record.
    writer: Option<Sender<(u64, BTreeMap<String, Record>)>>,
    /// How many times something was to be written.
    asked: u64,
    done: Arc<(Mutex<Done>, Condvar)>,
}

/// What the disk said last.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// Of which request; those before it are in it.
    number: u64,
    saved: bool,
}

/// A record on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saving {
    number: u64,
    until: Instant,
}

impl Store {
    /// What is in this state directory. A damaged file is put aside and told; the rig starts without what it held.
    #[must_use]
    pub(super) fn load(directory: &Path) -> Self {
        let file = StateFile::new(directory, FILE, LARGEST);
        let records: BTreeMap<String, Record> =
            file.load("no GPU has a profile that is known as good, and none is in quarantine");
        let records = sorted::map(records.into_iter().map(|(uuid, record)| (uuid, record.bounded())));
        Self { file, records, writer: None, asked: 0, done: Arc::default() }
    }

    /// The record of this GPU; an empty one where it is new.
    #[must_use]
    pub(super) fn record(&self, uuid: &str) -> Record {
        self.records.get(uuid).cloned().unwrap_or_default()
    }

    /// Begins to put a record on the disk, whole or not at all: [`Self::saved`] tells what comes of it. The file holds what it held
    /// before where that fails, and the next save tries this record again.
    pub(super) fn save(&mut self, uuid: &str, record: &Record) -> Saving {
        self.records.insert(uuid.to_owned(), record.clone());
        while self.records.len() > CARDS {
            let others = self.records.iter().filter(|(other, _)| *other != uuid);
            let Some(oldest) = others.min_by_key(|(_, record)| record.changed_unix_s).map(|(uuid, _)| uuid.clone())
            else {
                break;
            };
            warn!("{FILE}: more than {CARDS} GPUs; what is known of {oldest} is forgotten");
            self.records.remove(&oldest);
        }
        self.asked += 1;
        let saving = Saving { number: self.asked, until: now() + PATIENCE };
        // One that still has something to write is waited for no second time.
        let free = lock(&self.done.0).number + 1 == saving.number;
        if self.writer.is_none() {
            self.writer = self.start().inspect_err(|error| warn!("{FILE}: no thread to write it: {error}")).ok();
        }
        match &self.writer {
            Some(writer) => writer.put((saving.number, self.records.clone())),
            None => tell(&self.done, Done { number: saving.number, saved: false }),
        }
        if free {
            self.wait(&saving, now() + PROMPT);
        }
        saving
    }

    /// Whether it is on the disk; not known yet where the disk has not answered in its time.
    pub(super) fn saved(&self, saving: &Saving, now: Instant) -> Option<bool> {
        let done = *lock(&self.done.0);
        if done.number >= saving.number {
            return Some(done.saved);
        }
        (now >= saving.until).then_some(false)
    }

    /// Waits for the disk's answer, until then at most; whether there is one.
    pub(super) fn wait(&self, saving: &Saving, until: Instant) -> bool {
        let (done, changed) = &*self.done;
        let time = until.saturating_duration_since(now());
        let waits = |done: &mut Done| done.number < saving.number;
        let waited = changed.wait_timeout_while(lock(done), time, waits).unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    fn start(&self) -> io::Result<Sender<(u64, BTreeMap<String, Record>)>> {
        let (sender, inbox) = mailbox();
        let (file, done) = (self.file.clone(), Arc::clone(&self.done));
        thread::Builder::new().name("gpu records".to_owned()).stack_size(STACK).spawn(move || {
            let mut told = false;
            while let Some((number, records)) = inbox.take() {
                let saved = file.save(&records).inspect_err(|error| {
                    if !std::mem::replace(&mut told, true) {
                        warn!("{FILE}: what is known of the GPUs' profiles could not be kept: {error}");
                    }
                });
                told &= saved.is_err();
                tell(&done, Done { number, saved: saved.is_ok() });
            }
        })?;
        Ok(sender)
    }
}

fn tell((done, changed): &(Mutex<Done>, Condvar), now: Done) {
    *lock(done) = now;
    changed.notify_all();
}

/// Each change is one assignment, so nobody has left it half-done.
fn lock(done: &Mutex<Done>) -> MutexGuard<'_, Done> {
    done.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::gpu::keeper::{Act, Answer, Rules, Seen, State, step};
    use crate::gpu::plan::tests::{card, undervolt};
    use crate::gpu::wire::Code;

    /// A directory that goes when the test is over.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rigd-gpus-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The record of a GPU whose driver refuses everything: a profile in quarantine.
    fn refused() -> Record {
        let (rules, device, profile) = (Rules { probation: Duration::from_secs(60) }, card(), undervolt());
        let (mut state, mut answer, mut saved) = (State::new(Record::default()), None, None);
        for _ in 0..32 {
            let seen = Seen {
                now: crate::clock::now(),
                unix_s: 7,
                device: &device,
                wanted: Some(&profile),
                cap: None,
                ceiling: None,
                memory: None,
                sample: None,
                answer: answer.as_ref(),
                saved: saved.take(),
                xid: None,
                lost: false,
                fresh: false,
                spared: false,
                brought: false,
            };
            let (next, act, _) = step(&rules, state, &seen);
            state = next;
            saved = (act == Some(Act::Save)).then_some(true);
            answer = match act {
                Some(Act::Set(_)) => Some(Answer::Set(Err(Code::INVALID_ARGUMENT))),
                Some(Act::Read) => Some(Answer::Read(Ok(crate::gpu::plan::tests::untouched()))),
                Some(Act::Save) | None => None,
            };
        }
        assert_eq!(state.record().quarantine().len(), 1);
        state.record().clone()
    }

    /// Saves, and waits for the disk's word.
    fn save(store: &mut Store, uuid: &str, record: &Record) -> bool {
        let saving = store.save(uuid, record);
        assert!(store.wait(&saving, now() + Duration::from_secs(60)), "no answer");
        store.saved(&saving, now()).unwrap()
    }

    #[test]
    fn a_disk_that_hangs_is_given_up_and_takes_the_newest_when_it_is_back() {
        let directory = Directory::new("hangs");
        // A file that is opened for writing is waited for until somebody reads: as on such a disk.
        let hanging = directory.0.join("gpus.json.new");
        let owner = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &hanging, rustix::fs::FileType::Fifo, owner, 0).unwrap();
        let mut store = Store::load(&directory.0);
        let first = store.save("GPU-1", &Record::default());
        assert_eq!((store.saved(&first, now()), store.saved(&first, now() + PATIENCE)), (None, Some(false)));
        let second = store.save("GPU-1", &refused());
        assert_eq!((store.saved(&second, now()), store.record("GPU-1")), (None, refused()));
        // It goes on: what was in its hands is lost with the pipe that it went into, the newest is written behind it.
        let aside = directory.0.join("pipe");
        fs::rename(&hanging, &aside).unwrap();
        let reader = fs::File::open(&aside).unwrap();
        assert!(store.wait(&second, now() + Duration::from_secs(60)), "no answer");
        assert_eq!(store.saved(&second, now()), Some(true));
        drop(reader);
        assert_eq!(Store::load(&directory.0).record("GPU-1"), refused());
    }

    #[test]
    fn a_record_survives_and_is_its_gpus_alone() {
        let directory = Directory::new("survives");
        let record = refused();
        let mut store = Store::load(&directory.0);
        assert_eq!(store.record("GPU-1"), Record::default());
        assert!(save(&mut store, "GPU-1", &record));
        let store = Store::load(&directory.0);
        assert_eq!((store.record("GPU-1"), store.record("GPU-2")), (record, Record::default()));
    }

    #[test]
    fn a_file_cut_off_anywhere_is_put_aside_and_never_half_believed() {
        let directory = Directory::new("cut");
        let record = refused();
        assert!(save(&mut Store::load(&directory.0), "GPU-1", &record));
        let (path, aside) = (directory.0.join(FILE), directory.0.join("gpus.json.bad"));
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(Store::load(&directory.0).record("GPU-1"), Record::default(), "{length} bytes");
            assert!(!path.exists(), "{length} bytes");
            assert_eq!(fs::read(&aside).unwrap(), &whole[..length]);
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(Store::load(&directory.0).record("GPU-1"), record);
    }

    #[test]
    fn what_cannot_be_written_is_told_and_leaves_the_old_file() {
        let directory = Directory::new("unwritable");
        let mut store = Store::load(&directory.0);
        assert!(save(&mut store, "GPU-1", &Record::default()));
        // Where the new file would go there is a directory.
        fs::create_dir(directory.0.join("gpus.json.new")).unwrap();
        assert!(!save(&mut store, "GPU-1", &refused()));
        assert_eq!(Store::load(&directory.0).record("GPU-1"), Record::default());
        fs::remove_dir(directory.0.join("gpus.json.new")).unwrap();
        assert!(save(&mut store, "GPU-2", &Record::default()));
        assert_eq!(Store::load(&directory.0).record("GPU-1"), refused());
    }

    #[test]
    fn the_card_that_was_not_heard_of_for_longest_is_forgotten_first() {
        let directory = Directory::new("many");
        let mut store = Store::load(&directory.0);
        let full = refused();
        for i in 0..=64_u64 {
            let mut record = full.clone();
            record.changed_unix_s = 1_000 - i;
            assert!(save(&mut store, &format!("GPU-{i}"), &record));
        }
        let store = Store::load(&directory.0);
        assert_eq!(store.records.len(), CARDS);
        // The newest in the store is the oldest by the clock, and it is the one that is being written.
        assert_eq!(store.record("GPU-63"), Record::default());
        assert_ne!(store.record("GPU-64"), Record::default());
        assert!(fs::metadata(directory.0.join(FILE)).unwrap().len() < LARGEST / 4);
    }
}
