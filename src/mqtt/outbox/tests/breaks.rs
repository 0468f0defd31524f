//! Disks that are full, read-only, hang, lose power, or give back something else.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::super::disk::Files;
use super::super::files::Real;
use super::super::segment;
use super::*;

const RETRY: u64 = 10;

#[test]
fn full_read_only_or_broken_it_is_memory_alone_until_the_disk_works_again() {
    for kind in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem, ErrorKind::Other] {
        for from_the_start in [true, false] {
            let refuses = Some(kind).filter(|_| from_the_start);
            let mut site = Site::on(rules(Delivery::Puback), Fake::that(refuses, None), 1);
            site.disk.files.refuses = Some(kind);
            site.add(Lane::Event);
            assert!(site.keeper.trouble().is_some());
            let failures = site.keeper.failures();
            for _ in 0..60 {
                site.add(Lane::Telemetry);
                site.seconds(1);
            }
            let tries = site.keeper.failures() - failures;
            assert!((5..=6).contains(&tries), "each ten seconds: {tries}");
            // All the rest goes on.
            site.keeper.connected(site.now);
            assert_eq!(site.deliver().len(), 30 + 1, "half a minute, and one of the backlog");
            site.disk.files.refuses = None;
            site.seconds(RETRY);
            assert_eq!(site.keeper.trouble(), None);
            assert!(site.disk.files.writes > 0);
        }
    }
}

#[test]
fn a_disk_that_does_not_answer_stops_nothing() {
    let mut site = Site::new(rules(Delivery::Puback));
    site.hangs = true;
    site.keeper.connected(site.now);
    for _ in 0..100 {
        site.add(Lane::Event);
        site.add(Lane::Telemetry);
        assert_eq!(site.deliver().len(), 2);
        site.seconds(1);
    }
    assert_eq!(site.keeper.waiting(), 0);
}

#[test]
fn two_agents_on_one_directory_one_of_them_writes() {
    let directory = std::env::temp_dir().join(format!("rigd-outbox-{}", std::process::id()));
    let (mut first, mut second) = (Real::default(), Real::default());
    first.make(&directory).unwrap();
    let lock = directory.join("lock");
    assert!(first.lock(&lock).unwrap() && first.lock(&lock).unwrap());
    assert!(!second.lock(&lock).unwrap());
    drop(first);
    assert!(second.lock(&lock).unwrap());
    std::fs::remove_dir_all(&directory).unwrap();
}

/// The real file system does what the fake one is taken for.
#[test]
fn on_real_files_it_is_the_same() {
    let root = std::env::temp_dir().join(format!("rigd-outbox-real-{}", std::process::id()));
    let mut keeper = Keeper::new(rules(Delivery::Puback), 1, 7);
    let mut disk = Disk::new(Real::default(), root.clone());
    let now = clock::now();
    let work = |keeper: &mut Keeper, disk: &mut Disk<Real>, now| {
        while let Some(job) = keeper.job(now, START_MS) {
            let answer = disk.execute(job);
            keeper.answered(answer, now);
        }
    };
    for seq in 1..=3_u64 {
        keeper.push(Lane::Event, (now, START_MS), b"extra".to_vec(), |_| vec![0; 100]);
        work(&mut keeper, &mut disk, now);
        assert_eq!(keeper.trouble(), None, "{seq}");
    }
    let mut locked = Keeper::new(rules(Delivery::Puback), 9, 7);
    work(&mut locked, &mut Disk::new(Real::default(), root.clone()), now);
    assert_eq!(locked.trouble(), Some("another agent writes there"));
    drop(disk);
    let mut keeper = Keeper::new(rules(Delivery::Puback), 2, 7);
    let mut disk = Disk::new(Real::default(), root.clone());
    keeper.connected(now);
    for seq in 1..=3 {
        let now = now + Duration::from_secs(seq);
        work(&mut keeper, &mut disk, now);
        let message = keeper.next(now).unwrap();
        assert_eq!((message.ticket.seq, message.extra.as_slice(), message.payload.len()), (seq, &b"extra"[..], 100));
        keeper.sent(message.ticket, now);
        keeper.settled(message.ticket, now);
    }
    keeper.stop();
    work(&mut keeper, &mut disk, now + Duration::from_secs(4));
    drop(disk);
    let mut keeper = Keeper::new(rules(Delivery::Puback), 3, 7);
    work(&mut keeper, &mut Disk::new(Real::default(), root.clone()), now);
    assert_eq!(keeper.waiting(), 0, "the cursor was read");
    std::fs::remove_dir_all(&root).unwrap();
}

/// What a start finds in one segment of ten events.
fn found(bytes: Vec<u8>) -> Vec<Message> {
    let mut files = Fake::default();
    files.write(std::path::Path::new("/outbox/event/00000001"), 0, &bytes).unwrap();
    let mut site = Site::on(rules(Delivery::Puback), files, 2);
    site.keeper.connected(site.now);
    site.seconds(2);
    let own = site.add(Lane::Event);
    let mut sent = site.deliver_for(Duration::from_secs(2));
    assert_eq!(sent.remove(0).ticket, own);
    assert!(site.disk.files.files().values().all(|length| *length > 0));
    sent
}

fn ten_events() -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), vec![]);
    for seq in 1..=10 {
        let body = Online { online: true, connection: 1, reason: Reason::Connected };
        let message = encode(Encoding::Postcard, Header::new(Kind::Online, 1, seq), &body);
        bytes.extend(segment::write(1, seq, START_MS, b"", &message));
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn cut_or_damaged_anywhere_the_rest_arrives_with_its_gap() {
    let (bytes, ends) = ten_events();
    for at in 0..bytes.len() {
        let whole = ends.iter().filter(|end| **end <= at).count();
        let cut = found(bytes[..at].to_vec());
        assert_eq!(cut.len(), whole, "cut at {at}");
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x5a;
        let sent = found(damaged);
        let hit = u64::try_from(whole).unwrap() + 1;
        assert_eq!(seqs(&sent), (1..=10).filter(|seq| *seq != hit).collect::<Vec<_>>(), "damaged at {at}");
        let gaps = sent.iter().filter(|message| message.gap > 0).map(|message| message.ticket.seq).collect::<Vec<_>>();
        assert_eq!(gaps, (hit < 10).then_some(hit + 1).into_iter().collect::<Vec<_>>(), "damaged at {at}");
    }
}

#[test]
fn damage_that_comes_later_is_found_as_it_is_read() {
    let mut site = Site::new(rules(Delivery::Puback));
    for _ in 0..200 {
        site.add(Lane::Event);
    }
    let files = site.disk.files.clone();
    let mut next = site.restart(rules(Delivery::Puback), files);
    next.disk.files.file("/outbox/event/00000001")[40_000] ^= 1;
    next.keeper.connected(next.now);
    let sent = next.deliver_for(Duration::from_secs(12));
    assert_eq!(sent.len(), 199);
    assert_eq!(sent.iter().map(|message| 1 + message.gap).sum::<u64>(), 200);
    assert_eq!((next.keeper.waiting(), next.keeper.dropped()), (0, 1));
}

/// What could not be read as the agent started looked like an empty file, and was removed as soon as there was a newer one.
#[test]
fn a_file_that_could_not_be_read_at_the_start_is_read_later() {
    let mut site = Site::new(rules(Delivery::Puback));
    site.add(Lane::Event);
    site.add(Lane::Event);
    let mut files = site.disk.files.after_the_cut(true);
    files.unreadable = Some(ErrorKind::Other);
    let mut next = site.restart(rules(Delivery::Puback), files);
    next.add(Lane::Event);
    next.disk.files.unreadable = None;
    next.keeper.connected(next.now);
    let all = next.deliver_for(Duration::from_secs(5));
    let old: Vec<Message> = all.into_iter().filter(|message| message.ticket.boot == 1).collect();
    assert_eq!(seqs(&old), [1, 2]);
    assert_eq!(next.keeper.waiting(), 0);
}

#[test]
fn a_file_that_cannot_be_read_is_given_up_after_a_while() {
    let mut site = Site::new(rules(Delivery::Puback));
    site.add(Lane::Event);
    let files = site.disk.files.clone();
    let mut next = site.restart(rules(Delivery::Puback), files);
    next.disk.files.unreadable = Some(ErrorKind::Other);
    next.keeper.connected(next.now);
    for _ in 0..4 {
        next.seconds(10);
        let new = next.add(Lane::Telemetry);
        assert_eq!(seqs(&next.deliver()), [new.seq]);
    }
    assert_eq!((next.keeper.waiting(), next.keeper.dropped()), (0, 1));
}

/// A day in the life of an outbox with little room; returns the events that the disk confirmed, and what was freed.
fn busy_day(site: &mut Site) -> (BTreeSet<u64>, u64) {
    let (mut safe, mut freed) = (BTreeSet::new(), 0);
    for round in 0..30_u64 {
        site.pad = 4_000;
        let event = site.push(Lane::Event);
        site.work();
        let line = site.keeper.line(Lane::Event);
        if line.shelf.below(event.boot, event.seq + 1) == Some(event.seq) {
            safe.insert(event.seq);
        }
        for _ in 0..3 {
            site.add(Lane::Telemetry);
        }
        site.seconds(3);
        if round % 10 == 9 {
            site.keeper.connected(site.now);
            site.keeper.controller(true, site.now);
            site.deliver_for(Duration::from_secs(1));
            freed = event.seq - 5;
            site.mark(1, Lane::Event, freed);
            site.keeper.disconnected();
        }
    }
    (safe, freed)
}

#[test]
fn the_power_may_go_at_any_operation() {
    let tight = OutboxConfig { ram_bytes: 1 << 20, disk_bytes: 300 << 10, ..rules(Delivery::Watermark) };
    let mut whole = Site::new(tight.clone());
    busy_day(&mut whole);
    let changes = whole.disk.files.changes;
    assert!(changes > 100 && whole.keeper.dropped() > 20, "{changes}");
    for cut in 0..changes {
        let mut site = Site::on(tight.clone(), Fake::that(None, Some(cut)), 1);
        let (safe, freed) = busy_day(&mut site);
        for everything in [true, false] {
            let files = site.disk.files.after_the_cut(everything);
            let mut next = Site::on(tight.clone(), files, 2);
            next.keeper.connected(next.now);
            next.keeper.controller(true, next.now);
            let sent = next.deliver_for(Duration::from_secs(20));
            let events: BTreeSet<u64> =
                sent.iter().filter(|one| one.ticket.lane == Lane::Event).map(|one| one.ticket.seq).collect();
            let lost: Vec<_> = safe.iter().filter(|seq| **seq > freed && !events.contains(seq)).collect();
            assert!(lost.is_empty(), "cut at {cut}: {lost:?}");
            let mut telemetry: Vec<_> = sent.iter().filter(|one| one.ticket.lane == Lane::Telemetry).collect();
            telemetry.sort_by_key(|message| message.ticket.seq);
            let mut upto = 0;
            for message in telemetry {
                assert!(
                    message.ticket.seq - message.gap <= upto + 1,
                    "cut at {cut}: not declared: {upto}, {message:?}"
                );
                upto = message.ticket.seq;
            }
        }
    }
}
