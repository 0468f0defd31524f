//! What is torn, changed or gone.

use super::*;

/// What is signed for from here on was not carried out before a loss at [`NOW`].
const SURE: u64 = NOW + 2 * SKEW_MS;

#[test]
fn damage_that_may_hide_counters_asks_for_the_nonce_until_nothing_old_is_valid() {
    let directory = directory("damage");
    let (mut journal, _) = open(&directory);
    for number in 1..=3 {
        journal.accept(entry(number, Order::Probe)).unwrap();
    }
    assert!(!journal.lost(0));
    drop(journal);
    let path = directory.join(FILE);
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        // Also when it is opened once more, where the file is whole again.
        let (mut journal, _) = open(&directory);
        assert!(journal.lost(NOW) && journal.lost(SURE - 1) && !journal.lost(SURE));
        journal.compact(NOW).unwrap();
    }
    // With no clock when it was found, it counts from when there is one.
    fs::write(&path, &bytes).unwrap();
    let (journal, _) = Journal::open(&directory, 1, None).unwrap();
    assert!(journal.lost(NOW) && journal.lost(u64::MAX));
    let (journal, _) = open(&directory);
    assert!(journal.lost(NOW) && !journal.lost(SURE));
    // A torn end is none.
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(!open(&directory).0.lost(0));
    fs::remove_dir_all(&directory).unwrap();
}

/// A new rig has none, and has lost nothing; one that had a journal has.
#[test]
fn a_journal_that_is_gone_counts_as_lost_and_a_new_rigs_does_not() {
    let directory = directory("gone");
    let (mut journal, _) = open(&directory);
    assert!(!journal.lost(0));
    journal.accept(entry(1, Order::Probe)).unwrap();
    drop(journal);
    assert!(!open(&directory).0.lost(0));
    let path = directory.join(FILE);
    for loss in [|path: &Path| fs::remove_file(path).unwrap(), |path: &Path| fs::write(path, "").unwrap()] {
        loss(&path);
        // Noted once, whatever is done with it then.
        for now in [NOW, NOW + KEEP_MS] {
            let (mut journal, _) = Journal::open(&directory, 1, Some(now)).unwrap();
            assert!(journal.lost(SURE - 1) && !journal.lost(SURE));
            journal.compact(now).unwrap();
        }
    }
    // Where nobody can tell what was there, no command is taken.
    fs::remove_file(directory.join("trust.mark")).unwrap();
    fs::create_dir(directory.join("trust.mark")).unwrap();
    assert!(Journal::open(&directory, 1, Some(NOW)).is_err());
    fs::remove_dir_all(&directory).unwrap();
    // The state directory as a whole: a new rig.
    fs::create_dir_all(&directory).unwrap();
    assert!(!open(&directory).0.lost(0));
    fs::remove_dir_all(&directory).unwrap();
}

/// Whoever opens it twice must not find it whole because the first attempt cut the damage off and got no further.
#[test]
fn damage_that_could_not_be_noted_is_still_there_the_next_time() {
    let directory = directory("unnoted");
    let (mut journal, _) = open(&directory);
    for number in 1..=3 {
        journal.accept(entry(number, Order::Probe)).unwrap();
    }
    drop(journal);
    let path = directory.join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    // Where the new file should be written there is something else: as good as a full disk.
    fs::create_dir(directory.join(NEW_FILE)).unwrap();
    for _ in 0..2 {
        assert!(Journal::open(&directory, 1, Some(NOW)).is_err());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::remove_dir(directory.join(NEW_FILE)).unwrap();
    assert!(open(&directory).0.lost(NOW));
    // Noted once, not at each start anew.
    let (journal, _) = Journal::open(&directory, 1, Some(SURE)).unwrap();
    assert!(!journal.lost(SURE));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_record_that_nobody_understands_counts_as_lost_once() {
    let directory = directory("unknown-record");
    let (mut journal, _) = open(&directory);
    journal.accept(entry(1, Order::Probe)).unwrap();
    drop(journal);
    let path = directory.join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(framed::frame(&[0x7f; 40]));
    fs::write(&path, &bytes).unwrap();
    assert!(open(&directory).0.lost(NOW));
    let (journal, _) = Journal::open(&directory, 1, Some(SURE)).unwrap();
    assert!(!journal.lost(SURE) && journal.answer(&entry(1, Order::Probe).id).is_some());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_clock_that_is_set_later_ends_the_wait_for_nonces() {
    let directory = directory("clock-later");
    fs::write(directory.join(FILE), [framed::frame(&[0x7f; 4]), framed::frame(&[0x7f; 4])].concat()).unwrap();
    let (mut journal, _) = Journal::open(&directory, 1, None).unwrap();
    journal.clock_set(None).unwrap();
    assert!(journal.lost(u64::MAX));
    journal.clock_set(Some(NOW)).unwrap();
    assert!(journal.lost(NOW) && !journal.lost(SURE));
    fs::remove_dir_all(&directory).unwrap();
}
