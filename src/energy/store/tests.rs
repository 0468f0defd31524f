use std::fs;

use super::*;
use crate::energy::tests::{gpu, mw, run};
use crate::energy::{Key, verify};

fn directory(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("rigd-energy-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn books_and_chain_survive_a_restart_and_a_torn_end() {
    let directory = directory("restart");
    let books = |seconds| run(seconds, mw(1_000), &[gpu("a", 500, Some("p"))], &[]);
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    assert_eq!(kept, Kept::default());
    let key = Key::of(&[7; 32]).unwrap();
    for minute in 0..40 {
        let mut record = kept.turn(&books(minute * 6), at(7 * QUARTER + 60_000 + u64::from(minute) * 60_000));
        record.iter_mut().for_each(|record| key.sign(record));
        store.save(&kept, record.as_ref(), false).unwrap();
        store.save(&kept, record.as_ref(), false).unwrap();
    }
    drop(store);
    // The last record is torn: the one before it is ten seconds old.
    let path = directory.join("energy");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let (_, again) = Store::open(&directory).unwrap();
    assert_eq!((again.books.rig.energy.0, again.records), (39 * 6_000_000_000, 2), "each was written twice");
    assert_eq!((again.chain, again.opened_ms), (kept.chain, kept.opened_ms));
    let found = records(&directory).unwrap();
    assert_eq!((found.len(), verify(&found, Some(&key.public()))), (2, Ok(())));
    let intervals: Vec<Interval> = found.iter().map(|record| record.interval().unwrap()).collect();
    assert_eq!(intervals.iter().map(|one| one.to_ms).collect::<Vec<_>>(), [8 * QUARTER, 9 * QUARTER]);
    assert_eq!(intervals[0].rig.energy.0, 14 * 6_000_000_000);
    assert_eq!(intervals[1].payloads[0].used.energy.0, 15 * 6_000_000_000);
    // The books were not written any more when the second record was: the chain goes on behind it all the same, and where there
    // are none at all they are the sum of the records.
    fs::remove_file(&path).unwrap();
    let (_, lost) = Store::open(&directory).unwrap();
    assert_eq!((lost.chain, lost.records), (kept.chain, 2));
    let expected = books(29 * 6);
    assert_eq!((lost.books.rig, &lost.books.gpus), (expected.rig, &expected.gpus));
    assert_eq!((&lost.books.payloads, lost.books.overhead), (&expected.payloads, expected.overhead));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_books_file_does_not_grow_for_ever() {
    let directory = directory("wear");
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    kept.books = run(10, mw(1_000), &[gpu("a", 500, Some("p"))], &[]);
    let mut longest = 0;
    for _ in 0..4_000 {
        store.save(&kept, None, false).unwrap();
        longest = longest.max(fs::metadata(directory.join("energy")).unwrap().len());
    }
    assert!((200_000..270_000).contains(&longest), "{longest}");
    let (_, again) = Store::open(&directory).unwrap();
    assert_eq!(again, kept);
    fs::remove_dir_all(&directory).unwrap();
}

/// By a clock that stands where the kernel's does.
fn at(unix_ms: u64) -> Moment {
    Moment { unix_ms, boot: 1, since_boot_ms: unix_ms }
}

/// Second by second: what the rig's clock says, and by how much it was set before; the intervals that come of it.
fn intervals(seconds: u64, from_ms: u64, set: &[(u64, i64)]) -> Vec<(u64, u64, u64)> {
    let (mut kept, mut records, mut off) = (Kept::default(), Vec::new(), 0_i64);
    for second in 0..=seconds {
        off += set.iter().filter(|(at, _)| *at == second).map(|(_, by)| by).sum::<i64>();
        let mut books = Books::default();
        books.rig.add(second * 1_000_000, second * 1_000);
        let unix_ms = (from_ms + second * 1_000).checked_add_signed(off).unwrap();
        let now = Moment { unix_ms, boot: 1, since_boot_ms: 5_000 + second * 1_000 };
        records.extend(kept.turn(&books, now).and_then(|record| record.interval()));
        assert_eq!(kept.books, books);
    }
    let mut whole: u64 = records.iter().map(|one| one.rig.energy.0).sum();
    whole += kept.books.rig.energy.0 - kept.opened.rig.energy.0;
    assert_eq!(whole, seconds * 1_000_000, "everything once");
    records.into_iter().map(|one| (one.from_ms, one.to_ms, one.rig.energy.0 / 1_000_000)).collect()
}

#[test]
fn intervals_end_with_their_quarter_and_wherever_the_clock_is_set() {
    let day = 86_400_000_i64;
    let q = |quarters: u64| 1_000_000 * QUARTER + quarters * QUARTER;
    let (begun, ms) = (q(0) + 600_000, 1_000);
    assert_eq!(intervals(299, begun, &[]), []);
    assert_eq!(
        intervals(2_000, begun, &[]),
        [(begun, q(1), 300), (q(1), q(2), 900)],
        "the first is short, the rest are whole"
    );
    assert_eq!(
        intervals(1_000, begun, &[(100, day)]),
        [(begun, begun + 100 * ms, 100), (begun + 86_500 * ms, q(97), 200)],
        "a day ahead"
    );
    assert_eq!(
        intervals(1_000, begun, &[(100, -day)]),
        [(begun, begun + 100 * ms, 100), (begun - 86_300 * ms, q(0) - 86_400 * ms + QUARTER, 200)],
        "a day back"
    );
    // Never set, until somebody sets it.
    let set = i64::try_from(begun).unwrap() - 7_000;
    assert_eq!(intervals(400, 7_000, &[(100, set)]), [(7_000, 107_000, 100), (begun + 100 * ms, q(1), 200)]);
    assert_eq!(intervals(400, begun, &[(100, 1_500), (200, -1_500)]), [(begun, q(1), 300)], "steps of a good clock");
    // Back over the beginning of the interval: what was counted stays where it was.
    assert_eq!(
        intervals(20, q(1) - 5_000, &[(6, -1_500)]),
        [(q(1) - 5_000, q(1), 5), (q(1), q(1) + 1_000, 1), (q(1) - 500, q(1), 1)]
    );
}

#[test]
fn a_time_in_which_nobody_ran_is_in_one_interval_and_not_in_its_energy() {
    let books = |seconds: u64| {
        let mut books = Books::default();
        books.rig.add(seconds * 1_000_000, seconds * 1_000);
        books
    };
    let begun = 2_000_000 * QUARTER + 60_000;
    let second = |n: u64| begun + n * 1_000;
    let (mut kept, mut records) = (Kept::default(), Vec::new());
    for n in 0..=100 {
        records.extend(kept.turn(&books(n), at(second(n))));
    }
    // Killed; the next one is there half a minute later, and goes on.
    let now = at(second(130));
    assert_eq!(now.since(&kept.at), 30_000);
    records.extend(kept.turn(&books(100), now));
    assert_eq!(records, []);
    // Killed again; two hours later.
    let now = at(second(7_330));
    let one = kept.turn(&books(100), now).and_then(|record| record.interval()).unwrap();
    assert_eq!((one.from_ms, one.to_ms, one.rig.energy.0), (begun, second(7_330), 100_000_000));
    assert_eq!(kept.opened_ms, second(7_330));
    // The kernel was booted anew, with a clock that was never set: it is off for at least as long as the kernel runs.
    let booted = Moment { unix_ms: 9_000, boot: 2, since_boot_ms: 9_000 };
    assert_eq!(booted.since(&kept.at), 9_000);
    let one = kept.turn(&books(110), booted).and_then(|record| record.interval()).unwrap();
    assert_eq!((one.from_ms, one.to_ms, one.rig.energy.0), (second(7_330), second(7_330), 10_000_000));
    // And with one that goes on.
    assert_eq!(Moment { unix_ms: second(9_000), boot: 3, since_boot_ms: 9_000 }.since(&at(second(8_000))), 1_000_000);
    assert_eq!(
        Moment { unix_ms: second(9_000), boot: 3, since_boot_ms: 9_000 }.since(&booted),
        9_000,
        "1970 tells nothing"
    );
}

#[test]
fn books_that_are_torn_or_changed_anywhere_lose_what_stood_there_and_no_more() {
    let directory = directory("damage");
    let path = directory.join("energy");
    let kept = |seconds: u32| {
        let mut kept = Kept::default();
        kept.go_on(&run(seconds, mw(1_000), &[], &[]), at(1_000_000 * QUARTER));
        kept
    };
    let fresh = || {
        for name in ["energy", "energy.bad", "energy-intervals"] {
            let _ = fs::remove_file(directory.join(name));
        }
        Store::open(&directory).unwrap().0
    };
    let states = [kept(10), kept(20), kept(30)];
    let mut store = fresh();
    let ends: Vec<usize> = states
        .iter()
        .map(|kept| {
            store.save(kept, None, false).unwrap();
            usize::try_from(fs::metadata(&path).unwrap().len()).unwrap()
        })
        .collect();
    let bytes = fs::read(&path).unwrap();
    for offset in 0..bytes.len() {
        fs::write(&path, &bytes[..offset]).unwrap();
        let whole = ends.iter().filter(|end| **end <= offset).count();
        let expected = if whole == 0 { Kept::default() } else { states[whole - 1].clone() };
        assert_eq!(Store::open(&directory).unwrap().1, expected, "torn at {offset}");
        let mut changed = bytes.clone();
        changed[offset] ^= 0x40;
        fs::write(&path, &changed).unwrap();
        let expected = if offset < ends[1] { &states[2] } else { &states[1] };
        let (mut store, found) = Store::open(&directory).unwrap();
        assert_eq!(&found, expected, "changed at {offset}");
        // And it goes on from there, for whoever comes next.
        store.save(&states[2], None, false).unwrap();
        assert_eq!(Store::open(&directory).unwrap().1, states[2], "changed at {offset}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn records_that_are_changed_are_put_aside_and_the_chain_goes_on() {
    let directory = directory("records");
    let key = Key::of(&[7; 32]).unwrap();
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    let write = |store: &mut Store, kept: &mut Kept, quarter: u64| {
        for ms in [quarter * QUARTER, (quarter + 1) * QUARTER - 1] {
            let mut record = kept.turn(&Books::default(), at(1_000_000 * QUARTER + ms));
            record.iter_mut().for_each(|record| key.sign(record));
            store.save(kept, record.as_ref(), false).unwrap();
        }
    };
    (0..4).for_each(|quarter| write(&mut store, &mut kept, quarter));
    let path = directory.join("energy-intervals");
    let mut bytes = fs::read(&path).unwrap();
    bytes[30] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (mut store, found) = Store::open(&directory).unwrap();
    assert_eq!((found.records, found.chain), (kept.records, kept.chain));
    kept = found;
    (4..6).for_each(|quarter| write(&mut store, &mut kept, quarter));
    let found = records(&directory).unwrap();
    let numbers: Vec<u64> = found.iter().map(|one| one.interval().unwrap().index).collect();
    assert_eq!(
        (numbers, verify(&found, None)),
        (vec![1, 2, 3, 4], Ok(())),
        "the first is lost, the rest hold together"
    );
    fs::remove_dir_all(&directory).unwrap();
}

/// The next record of this chain.
fn next(kept: &mut Kept, size: usize) -> Receipt {
    let line = crate::energy::Line { name: "x".repeat(size), ..Default::default() };
    let interval = Interval { index: kept.records, gpus: vec![line], ..Interval::default() };
    let mut record = Receipt::after(kept.chain, &interval);
    Key::of(&[7; 32]).unwrap().sign(&mut record);
    (kept.chain, kept.records) = (record.hash, kept.records + 1);
    record
}

fn numbers(directory: &Path) -> Vec<u64> {
    records(directory).unwrap().iter().map(|one| one.interval().unwrap().index).collect()
}

/// What cannot be forced to any disk, and takes all that is written.
#[test]
fn a_record_that_is_not_synced_is_not_written() {
    let directory = directory("unsynced");
    std::os::unix::fs::symlink("/dev/null", directory.join("energy-intervals")).unwrap();
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    let record = next(&mut kept, 1);
    for attempt in 0..3 {
        assert!(store.save(&kept, Some(&record), true).is_err(), "attempt {attempt}");
    }
    assert_eq!(Kept::read(&directory).unwrap(), Kept::default(), "the books are behind their records");
    // And where the disk takes it at last it is there once.
    fs::remove_file(directory.join("energy-intervals")).unwrap();
    store.records = Framed::open(&directory.join("energy-intervals"), LARGEST_RECORDS, |_| ()).unwrap().0;
    store.save(&kept, Some(&record), true).unwrap();
    store.save(&kept, Some(&record), true).unwrap();
    assert_eq!((numbers(&directory), Kept::read(&directory).unwrap()), (vec![0], kept));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_first_record_that_is_torn_after_a_rotation_takes_nothing_with_it() {
    let directory = directory("rotated");
    let path = |name: &str| directory.join(name);
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    let write = |store: &mut Store, kept: &mut Kept| {
        let record = next(kept, 40);
        store.save(kept, Some(&record), true).unwrap();
    };
    // What was damaged once: the first of five is lost, the rest is whole, and one more comes.
    (0..5).for_each(|_| write(&mut store, &mut kept));
    let mut bytes = fs::read(path("energy-intervals")).unwrap();
    bytes[30] ^= 1;
    fs::write(path("energy-intervals"), bytes).unwrap();
    (store, kept) = Store::open(&directory).unwrap();
    (0..2).for_each(|_| write(&mut store, &mut kept));
    assert_eq!(numbers(&directory), [1, 2, 3, 4, 5, 6]);
    drop(store);
    fs::rename(path("energy-intervals"), path("energy-intervals.old")).unwrap();
    (store, kept) = Store::open(&directory).unwrap();
    let before = kept.clone();
    assert_eq!(Kept::newest(&directory).unwrap().map(|record| record.hash), Some(kept.chain), "not the damaged one's");
    write(&mut store, &mut kept);
    drop(store);
    let (first, aside) = (fs::read(path("energy-intervals")).unwrap(), fs::read(path("energy-intervals.bad")).unwrap());
    for cut in 0..=first.len() {
        fs::write(path("energy-intervals"), &first[..cut]).unwrap();
        // The books are as old as the record before it, too.
        let _ = fs::remove_file(path("energy"));
        let (mut store, found) = Store::open(&directory).unwrap();
        let expected = if cut == first.len() { &kept } else { &before };
        assert_eq!((found.records, found.chain), (expected.records, expected.chain), "cut at {cut}");
        assert!(fs::read(path("energy-intervals.bad")).unwrap() == aside, "cut at {cut}");
        let mut found = found;
        write(&mut store, &mut found);
        assert_eq!(numbers(&directory), (1..found.records).collect::<Vec<_>>(), "cut at {cut}");
        assert_eq!(verify(&records(&directory).unwrap(), None), Ok(()), "cut at {cut}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_is_damaged_again_and_again_loses_what_stood_there_and_no_more() {
    let directory = directory("again");
    let path = directory.join("energy-intervals");
    let (mut store, mut kept) = Store::open(&directory).unwrap();
    let mut lost = Vec::new();
    for round in 0..4_u64 {
        for _ in 0..4 {
            let record = next(&mut kept, 40);
            store.save(&kept, Some(&record), true).unwrap();
        }
        // The first of this round's four.
        let mut bytes = fs::read(&path).unwrap();
        let size = bytes.len() / if round == 0 { 4 } else { salvage(&bytes, LONGEST[1]).len() };
        let at = bytes.len() - 4 * size + 30;
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        lost.push(round * 4);
        (store, kept) = Store::open(&directory).unwrap();
        let expected: Vec<u64> = (0..(round + 1) * 4).filter(|number| !lost.contains(number)).collect();
        assert_eq!(numbers(&directory), expected, "round {round}");
    }
    // Nothing of ours, and longer than any record.
    fs::write(&path, vec![0xff; 200_000]).unwrap();
    let before = numbers(&directory);
    drop(store);
    let (mut store, mut found) = Store::open(&directory).unwrap();
    assert!(before.starts_with(&numbers(&directory)) && !numbers(&directory).is_empty());
    let record = next(&mut found, 40);
    store.save(&found, Some(&record), true).unwrap();
    assert_eq!(numbers(&directory).last(), Some(&(found.records - 1)));
    fs::remove_dir_all(&directory).unwrap();
}

/// The second try finds what the first has left: the old records are away, and a new file may be there already.
#[test]
fn a_rotation_that_fails_half_way_is_gone_on_with() {
    for fresh in [false, true] {
        let directory = directory(if fresh { "half-fresh" } else { "half" });
        let path = directory.join("energy-intervals");
        let (mut store, mut kept) = Store::open(&directory).unwrap();
        while store.records.length() <= LARGEST_RECORDS {
            let record = next(&mut kept, 100_000);
            store.save(&kept, Some(&record), true).unwrap();
        }
        let all = kept.records;
        fs::rename(&path, directory.join("energy-intervals.old")).unwrap();
        if fresh {
            fs::write(&path, b"").unwrap();
        }
        let record = next(&mut kept, 40);
        store.save(&kept, Some(&record), true).unwrap();
        assert_eq!(numbers(&directory), (0..=all).collect::<Vec<_>>(), "{fresh}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
