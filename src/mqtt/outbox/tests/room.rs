//! Budgets: what goes first, and what is said of it.

use super::super::keeper::Keeper;
use super::*;

const MIB: u64 = 1 << 20;

fn small() -> OutboxConfig {
    OutboxConfig { ram_bytes: 128 << 10, disk_bytes: 4 * MIB, ..rules(Delivery::Puback) }
}

/// So many messages of 20 kB, a second apart.
fn fill(site: &mut Site, lane: Lane, count: usize) {
    site.pad = 20_000;
    for _ in 0..count {
        site.add(lane);
        site.seconds(1);
    }
}

fn on_disk(site: &Site) -> u64 {
    site.disk.files.files().values().map(|length| u64::try_from(*length).unwrap()).sum()
}

#[test]
fn memory_lets_go_of_what_the_disk_has_and_loses_nothing() {
    let mut site = Site::new(small());
    fill(&mut site, Lane::Telemetry, 100);
    assert!(site.keeper.ram() <= 128 << 10 && site.keeper.dropped() == 0);
    assert_eq!(site.keeper.waiting(), 100);
    site.keeper.connected(site.now);
    let mut sent = seqs(&site.deliver_for(Duration::from_secs(10)));
    sent.sort_unstable();
    assert_eq!((sent, site.keeper.waiting()), ((1..=100).collect(), 0));
}

#[test]
fn without_a_disk_the_oldest_telemetry_goes_then_acks_then_events() {
    let mut site = Site::new(OutboxConfig { ram_bytes: 100_000, ..small() });
    site.disk.files.refuses = Some(std::io::ErrorKind::StorageFull);
    fill(&mut site, Lane::Event, 2);
    fill(&mut site, Lane::Ack, 1);
    fill(&mut site, Lane::Telemetry, 5);
    site.keeper.connected(site.now);
    let waiting = |keeper: &Keeper| [Lane::Event, Lane::Ack, Lane::Telemetry].map(|lane| keeper.line(lane).new.len());
    assert_eq!((waiting(&site.keeper), site.keeper.dropped()), ([2, 1, 1], 4));
    let sent = site.send(9);
    let last = sent.last().unwrap();
    assert_eq!((last.ticket.lane, last.ticket.seq, last.gap), (Lane::Telemetry, 5, 4));
    // What is on its way stays.
    fill(&mut site, Lane::Event, 3);
    assert_eq!(waiting(&site.keeper), [2, 1, 1]);
    site.keeper.disconnected();
    fill(&mut site, Lane::Event, 3);
    assert_eq!(waiting(&site.keeper), [4, 0, 0]);
    assert_eq!(site.keeper.waiting() + site.keeper.dropped(), 8 + 1 + 5);
}

#[test]
fn over_the_budget_telemetry_is_thinned_then_dropped_and_events_stay() {
    let mut site = Site::new(small());
    fill(&mut site, Lane::Event, 20);
    fill(&mut site, Lane::Telemetry, 700);
    assert!(on_disk(&site) <= 4 * MIB + MIB / 16, "{}", on_disk(&site));
    assert_eq!(site.keeper.waiting() + site.keeper.dropped(), 720);
    site.keeper.connected(site.now);
    site.pass(Duration::from_millis(10));
    let sent = site.deliver_for(Duration::from_secs(60));
    let events = sent.iter().filter(|message| message.ticket.lane == Lane::Event);
    assert_eq!(
        events.map(|message| (message.ticket.seq, message.gap)).collect::<Vec<_>>(),
        (1..=20).map(|seq| (seq, 0)).collect::<Vec<_>>()
    );
    let mut telemetry: Vec<_> = sent.iter().filter(|one| one.ticket.lane == Lane::Telemetry).collect();
    telemetry.sort_by_key(|message| message.ticket.seq);
    // Whole: the numbers and their gaps make up all that ever was.
    let mut next = 1;
    for message in &telemetry {
        assert_eq!(message.ticket.seq - message.gap, next.min(message.ticket.seq - message.gap), "{message:?}");
        assert!(
            message.ticket.seq - message.gap <= next,
            "nobody was told of what is missing before {}",
            message.ticket.seq
        );
        next = message.ticket.seq + 1;
    }
    assert_eq!(next, 701);
    let kept: Vec<u64> = telemetry.iter().map(|message| message.ticket.seq).collect();
    assert!(kept.iter().filter(|seq| **seq <= 400).all(|seq| seq % 10 == 0), "{kept:?}");
    assert!(kept.ends_with(&(601..=700).collect::<Vec<_>>()), "the newest are all there");
    assert!(kept.len() > 110 && u64::try_from(kept.len()).unwrap() + site.keeper.dropped() == 700);
    assert_eq!(site.keeper.waiting(), 0);
}

#[test]
fn events_are_dropped_when_there_is_nothing_else_and_the_last_one_tells() {
    let mut site = Site::new(small());
    fill(&mut site, Lane::Event, 300);
    assert!(on_disk(&site) <= 4 * MIB + MIB / 16);
    let files = site.disk.files.clone();
    let mut next = site.restart(small(), files);
    next.keeper.connected(next.now);
    let sent = next.deliver_for(Duration::from_secs(30));
    let last = sent.last().unwrap();
    assert_eq!(last.ticket.seq, 300);
    assert_eq!(sent.iter().map(|message| 1 + message.gap).sum::<u64>(), 300, "{:?}", seqs(&sent));
}

#[test]
fn what_is_older_than_three_days_goes() {
    let mut site = Site::new(small());
    fill(&mut site, Lane::Telemetry, 60);
    site.seconds(72 * 3_600 - 60);
    assert_eq!(site.keeper.waiting(), 60);
    fill(&mut site, Lane::Telemetry, 10);
    site.seconds(45);
    assert!((50..=60).contains(&site.keeper.dropped()), "{}", site.keeper.dropped());
    assert_eq!(site.keeper.waiting() + site.keeper.dropped(), 70);
    site.keeper.connected(site.now);
    let sent = site.deliver_for(Duration::from_secs(10));
    let mut all: Vec<u64> =
        sent.iter().flat_map(|message| message.ticket.seq - message.gap..=message.ticket.seq).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (1..=70).collect::<Vec<_>>());
}

/// A rig without a battery boots years ago, and its events are written with that date before somebody tells it the time.
#[test]
fn a_clock_that_is_put_right_makes_nothing_old() {
    let mut site = Site::new(small());
    fill(&mut site, Lane::Event, 20);
    let years_ms = 3 * 365 * 86_400_000;
    let later = site.unix_ms() + years_ms;
    assert!(site.keeper.job(site.now, later).is_none());
    let files = site.disk.files.clone();
    let mut next = site.restart(small(), files);
    let later = next.unix_ms() + years_ms;
    assert!(next.keeper.job(next.now, later).is_none());
    assert_eq!((next.keeper.waiting(), next.keeper.dropped()), (20, 0));
}

#[test]
fn files_that_are_done_with_are_removed() {
    let mut site = Site::new(small());
    fill(&mut site, Lane::Telemetry, 130);
    assert!(site.disk.files.files().len() >= 40);
    site.keeper.connected(site.now);
    site.deliver_for(Duration::from_secs(20));
    site.seconds(10);
    let left: Vec<_> = site.disk.files.files().into_keys().collect();
    assert_eq!(left.len(), 2, "the cursor, and the file that is appended to: {left:?}");
}
