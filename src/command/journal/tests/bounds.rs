//! How large it gets, what it keeps then, and disks that are full or lose power.

use std::process::Command as Process;

use super::*;

#[test]
fn it_is_bounded() {
    let directory = directory("bounded");
    let (mut journal, _) = open(&directory);
    let half = u64::try_from(MOST_OPEN / 2).unwrap();
    for number in 1..=half {
        journal.accept(entry(number, Order::Probe)).unwrap();
    }
    assert_eq!(journal.accept(entry(1_000, Order::Probe)), Err(Refusal::TooMany));
    // Another key has half of what is left, and what was refused used nothing up.
    for number in 0..half / 2 {
        let keys = vec![KeyId([8; 8])];
        journal.accept(Entry { keys, ..entry(1_000 + number, Order::Probe) }).unwrap();
    }
    let other = Entry { keys: vec![KeyId([8; 8])], ..entry(1_100, Order::Probe) };
    assert_eq!(journal.accept(other), Err(Refusal::TooMany));
    // Long answers are kept in part, lines from the end.
    let first = entry(1, Order::Probe);
    let lines: Vec<String> = (0..200).map(|line| format!("line {line:03} {}", "-".repeat(80))).collect();
    journal.finish(&Ack { id: first.id, at_ms: NOW, state: AckState::Done(Outcome::Lines(lines.clone())) }).unwrap();
    let Some(Answer::Finished(Ack { state: AckState::Done(Outcome::Lines(kept)), .. })) = journal.answer(&first.id)
    else {
        panic!()
    };
    assert_eq!(kept, lines[195..]);
    let second = entry(2, Order::Probe);
    journal.finish(&done(&second, &"ä".repeat(1_000))).unwrap();
    assert_eq!(journal.answer(&second.id), Some(Answer::Finished(done(&second, &"ä".repeat(256)))));
    // More than it keeps: the oldest finished ones go, and those that are open stay.
    let forgotten: Vec<_> = (0..6_000).map(|number| entry(2_000 + number, Order::Snapshot)).collect();
    for entry in &forgotten {
        journal.apply(Record::Accepted(Box::new(entry.clone())));
        journal.apply(Record::Finished(done(entry, "")));
    }
    journal.accept(Entry { keys: vec![KeyId([9; 8])], ..entry(9_999, Order::Snapshot) }).unwrap();
    assert!((MOST..=MOST + MOST_OPEN).contains(&journal.order.len()));
    assert_eq!(
        (journal.answer(&forgotten[0].id), journal.answer(&entry(3, Order::Probe).id)),
        (None, Some(Answer::Open))
    );
    fs::remove_dir_all(&directory).unwrap();
}

/// The longest that can be signed, and the longest answer that is kept.
fn longest(number: u64) -> (Entry, Ack) {
    let name = |index: u64| format!("{index:064}");
    let order = Order::Assign { payload: name(0), gpus: (0..32).map(name).collect() };
    let long = Entry {
        topic: "t".repeat(80),
        response: Some("t".repeat(80)),
        correlation: vec![7; 127],
        ..entry(number, order)
    };
    let ack = done(&long, &"x".repeat(LONGEST_KEPT));
    (long, ack)
}

#[test]
fn a_day_of_commands_fits_and_the_longest_do_not_fill_the_disk() {
    let directory = directory("size");
    let (mut journal, _) = open(&directory);
    let profile = Order::SetProfile { gpu: None, profile: Some("night-shift".to_owned()) };
    let usual = Entry { counter: NOW, topic: "r1/rig-0001/dn/cmd".to_owned(), ..entry(1, profile) };
    let before = journal.file.length();
    journal
        .accept(Entry { response: Some("r1/rig-0001/up/ack".to_owned()), correlation: vec![1; 16], ..usual.clone() })
        .unwrap();
    journal.finish(&done(&usual, "read back on 8 GPUs")).unwrap();
    let usual = usize::try_from(journal.file.length() - before).unwrap();
    assert!(usual * MOST <= KEPT_BYTES);
    let (mut largest, mut written) = (0, 0);
    for number in 2..=2_000 {
        let (long, ack) = longest(NOW + number);
        let length = journal.file.length();
        journal.accept(long).unwrap();
        journal.finish(&ack).unwrap();
        written += u32::from(journal.file.length() < length);
        largest = largest.max(journal.file.length());
    }
    assert!(largest < COMPACT_AT + 8_192 && (1..=10).contains(&written), "{largest} {written}");
    assert!(journal.commands.len() > 330);
    drop(journal);
    let (journal, _) = open(&directory);
    assert!(!journal.lost(0) && !journal.fresh(&KEY, NOW + 2_000) && !journal.fresh(&KEY, NOW + 2));
    fs::remove_dir_all(&directory).unwrap();
}

/// At the bound, with the power gone at each operation by which the file is written anew.
#[test]
fn the_power_may_go_while_it_is_written_anew() {
    let directory = directory("bound");
    let (mut journal, _) = open(&directory);
    let mut number = 1;
    while journal.file.length() <= COMPACT_AT {
        let (long, ack) = longest(number);
        journal.accept(long).unwrap();
        journal.finish(&ack).unwrap();
        number += 1;
    }
    let path = directory.join(FILE);
    let old = fs::read(&path).unwrap();
    let last = longest(number).0;
    journal.accept(last.clone()).unwrap();
    let accepted = framed::frame(&body(&Record::Accepted(Box::new(last.clone()))).unwrap());
    let all = fs::read(&path).unwrap();
    let new = all[..all.len() - accepted.len()].to_vec();
    assert!(new.len() < old.len() && all.ends_with(&accepted));
    drop(journal);
    // What stands under both names: made, written in part, written, renamed; then the command itself, in part.
    let half = new[..new.len() / 2].to_vec();
    let torn = all[..all.len() - 1].to_vec();
    for (what, file, beside) in [
        ("made", &old, Some(Vec::new())),
        ("half written", &old, Some(half)),
        ("written", &old, Some(new.clone())),
        ("renamed", &new, None),
        ("the command in part", &torn, None),
        ("the command", &all, None),
    ] {
        fs::write(&path, file).unwrap();
        let _ = fs::remove_file(directory.join(NEW_FILE));
        if let Some(bytes) = beside {
            fs::write(directory.join(NEW_FILE), bytes).unwrap();
        }
        let (mut journal, interrupted) = open(&directory);
        let taken = what == "the command";
        assert_eq!((interrupted.len(), journal.fresh(&KEY, number)), (usize::from(taken), !taken), "{what}");
        assert!((1..number).all(|counter| !journal.fresh(&KEY, counter)) && !journal.lost(0), "{what}");
        assert!(matches!(journal.answer(&longest(number - 1).0.id), Some(Answer::Finished(_))), "{what}");
        // And it goes on.
        assert_eq!(journal.accept(last.clone()).is_ok(), !taken, "{what}");
        assert!(journal.file.length() <= COMPACT_AT, "{what}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

/// Run by the test below, where no file may grow over some kilobytes.
#[test]
#[ignore = "the next test runs it"]
fn with_a_full_disk() {
    let directory = directory("full");
    let (mut journal, _) = open(&directory);
    let mut taken = 0;
    let refusal = loop {
        let next = entry(taken + 1, Order::Snapshot);
        match journal.accept(next.clone()) {
            Ok(()) => journal.finish(&done(&next, "")).unwrap_or_default(),
            Err(refusal) => break refusal,
        }
        taken += 1;
    };
    assert!(matches!(&refusal, Refusal::Policy(text) if text.starts_with("journal: File too large")), "{refusal:?}");
    // What was refused is not known, in memory or on disk, and is refused again.
    let refused = entry(taken + 1, Order::Snapshot);
    assert!(taken > 10 && journal.answer(&refused.id).is_none() && journal.accept(refused.clone()).is_err());
    drop(journal);
    let (journal, _) = open(&directory);
    assert!(journal.answer(&refused.id).is_none() && journal.answer(&entry(taken - 1, Order::Probe).id).is_some());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_cannot_be_written_down_is_refused() {
    let script =
        "trap '' XFSZ; ulimit -f 16; exec \"$0\" --ignored --exact command::journal::tests::bounds::with_a_full_disk";
    let output = Process::new("sh").args(["-c", script]).arg(std::env::current_exe().unwrap()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}
