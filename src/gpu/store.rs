//! `gpus.json` in the state directory: what each GPU's profiles have come to, by UUID.
//!
//! A card that is moved to another slot keeps its record, one that is taken to another rig begins anew there.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use log::warn;

use super::keeper::Record;
use crate::sorted;
use crate::statefile::StateFile;

/// Name of the file in the state directory.
const FILE: &str = "gpus.json";
/// Sixty-four full records take a fifth of that.
const LARGEST: u64 = 4 * 1024 * 1024;
/// Cards that are remembered; the one whose record has not changed for longest is forgotten, and that is told.
const CARDS: usize = 64;

/// The records of all GPUs that were ever seen here.
#[derive(Debug)]
pub(super) struct Store {
    file: StateFile,
    records: BTreeMap<String, Record>,
}

impl Store {
    /// What is in this state directory. A damaged file is put aside and told; the rig starts without what it held.
    #[must_use]
    pub(super) fn load(directory: &Path) -> Self {
        let file = StateFile::new(directory, FILE, LARGEST);
        let records: BTreeMap<String, Record> =
            file.load("no GPU has a profile that is known as good, and none is in quarantine");
        Self { file, records: sorted::map(records.into_iter().map(|(uuid, record)| (uuid, record.bounded()))) }
    }

    /// The record of this GPU; an empty one where it is new.
    #[must_use]
    pub(super) fn record(&self, uuid: &str) -> Record {
        self.records.get(uuid).cloned().unwrap_or_default()
    }

    /// Puts a record on the disk, whole or not at all.
    ///
    /// # Errors
    /// What the system says; the file holds what it held before, and the next save tries this record again.
    pub(super) fn save(&mut self, uuid: &str, record: &Record) -> io::Result<()> {
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
        self.file.save(&self.records)
    }
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
        let (mut state, mut answer) = (State::new(Record::default()), None);
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
                xid: None,
                lost: false,
                fresh: false,
                spared: false,
                brought: false,
            };
            let (next, act, _) = step(&rules, state, &seen);
            state = next;
            answer = act.map(|act| match act {
                Act::Set(_) => Answer::Set(Err(Code::INVALID_ARGUMENT)),
                Act::Read => Answer::Read(Ok(crate::gpu::plan::tests::untouched())),
                Act::Save => Answer::Saved(true),
            });
        }
        assert_eq!(state.record().quarantine().len(), 1);
        state.record().clone()
    }

    #[test]
    fn a_record_survives_and_is_its_gpus_alone() {
        let directory = Directory::new("survives");
        let record = refused();
        let mut store = Store::load(&directory.0);
        assert_eq!(store.record("GPU-1"), Record::default());
        store.save("GPU-1", &record).unwrap();
        let store = Store::load(&directory.0);
        assert_eq!((store.record("GPU-1"), store.record("GPU-2")), (record, Record::default()));
    }

    #[test]
    fn a_file_cut_off_anywhere_is_put_aside_and_never_half_believed() {
        let directory = Directory::new("cut");
        let record = refused();
        Store::load(&directory.0).save("GPU-1", &record).unwrap();
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
        store.save("GPU-1", &Record::default()).unwrap();
        // Where the new file would go there is a directory.
        fs::create_dir(directory.0.join("gpus.json.new")).unwrap();
        assert!(store.save("GPU-1", &refused()).is_err());
        assert_eq!(Store::load(&directory.0).record("GPU-1"), Record::default());
        fs::remove_dir(directory.0.join("gpus.json.new")).unwrap();
        store.save("GPU-2", &Record::default()).unwrap();
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
            store.save(&format!("GPU-{i}"), &record).unwrap();
        }
        let store = Store::load(&directory.0);
        assert_eq!(store.records.len(), CARDS);
        // The newest in the store is the oldest by the clock, and it is the one that is being written.
        assert_eq!(store.record("GPU-63"), Record::default());
        assert_ne!(store.record("GPU-64"), Record::default());
        assert!(fs::metadata(directory.0.join(FILE)).unwrap().len() < LARGEST / 4);
    }
}
