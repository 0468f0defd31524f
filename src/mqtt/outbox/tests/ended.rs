//! What a killed start took with it is declared by the next one.

use super::*;
use crate::wire::MARKS;

const TELE: Lane = Lane::Telemetry;
const NONE: [u32; 0] = [];

fn ended(site: &mut Site) -> Vec<u32> {
    let ticket = site.add(TELE);
    let sent = site.deliver();
    let last = sent.iter().find(|message| message.ticket == ticket);
    last.unwrap_or_else(|| panic!("{ticket:?} is not sent at once")).ended.clone()
}

/// A start that is killed when numbers 3 to 5 were only in memory and at a broker that is gone, and 6 is stored.
fn killed() -> Site {
    let mut site = Site::new(rules(Delivery::Watermark));
    site.keeper.connected(site.now);
    site.keeper.controller(true, site.now);
    for _ in 0..5 {
        site.add(TELE);
    }
    assert_eq!(seqs(&site.deliver()), [1, 2, 3, 4, 5]);
    site.mark(1, TELE, 2);
    site.keeper.disconnected();
    // Nothing was written yet that could declare them.
    site.hangs = true;
    site.push(TELE);
    site.keeper.connected(site.now);
    assert_eq!(seqs(&site.deliver()), [6]);
    site.hangs = false;
    let files = site.disk.files.clone();
    let mut next = site.restart(rules(Delivery::Watermark), files);
    next.keeper.connected(next.now);
    next.keeper.controller(true, next.now);
    next
}

#[test]
fn it_is_told_until_a_message_that_says_so_in_each_copy_is_confirmed() {
    let mut site = killed();
    assert_eq!(ended(&mut site), NONE, "who knows of it is not known yet");
    site.marks(&[(2, TELE, 1), (1, TELE, 2)]);
    // The second message is the first that says so; a copy of it that went out before, as of one sent again, would not have.
    for confirmed in [1, 2, 3] {
        assert_eq!(ended(&mut site), [1]);
        site.marks(&[(2, TELE, confirmed), (1, TELE, 6)]);
    }
    assert_eq!(ended(&mut site), NONE);
    site.mark(1, TELE, 6);
    assert_eq!(ended(&mut site), NONE);
    // A control plane that has lost what it had confirmed is told once more.
    site.marks(&[(2, TELE, 0), (1, TELE, 2)]);
    assert_eq!(ended(&mut site), [1]);
}

#[test]
fn nothing_is_said_of_a_start_of_which_something_waits() {
    for lane in [Lane::Event, TELE] {
        let mut site = Site::new(rules(Delivery::Watermark));
        for _ in 0..3 {
            site.add(lane);
        }
        site.seconds(2);
        let files = site.disk.files.clone();
        let mut site = site.restart(rules(Delivery::Watermark), files);
        site.keeper.connected(site.now);
        site.keeper.controller(true, site.now);
        for (confirmed, expected) in [(0, &[][..]), (2, &[]), (3, &[1])] {
            site.marks(&[(1, lane, confirmed), (1, Lane::Ack, 0)]);
            assert_eq!(ended(&mut site), expected, "{lane:?}: {confirmed} of 3 are confirmed");
        }
    }
}

#[test]
fn nothing_is_said_before_the_disk_was_seen_and_all_of_it() {
    let files = Fake::that(Some(std::io::ErrorKind::StorageFull), None);
    let mut site = Site::on(rules(Delivery::Watermark), files, 2);
    site.keeper.connected(site.now);
    site.mark(1, TELE, 2);
    assert_eq!(ended(&mut site), NONE);
    site.disk.files.refuses = None;
    site.seconds(20);
    assert_eq!(ended(&mut site), [1]);
    // A file that could not be read may hold anything.
    let mut site = Site::new(rules(Delivery::Watermark));
    site.add(Lane::Event);
    let mut files = site.disk.files.clone();
    files.unreadable = Some(std::io::ErrorKind::PermissionDenied);
    let mut site = site.restart(rules(Delivery::Watermark), files);
    site.keeper.connected(site.now);
    site.mark(7, TELE, 2);
    assert_eq!(ended(&mut site), NONE);
}

#[test]
fn a_crowd_is_told_a_few_at_a_time() {
    let mut site = Site::on(rules(Delivery::Watermark), Fake::default(), 1_000);
    site.keeper.connected(site.now);
    let crowd: Vec<(u32, Lane, u64)> = (1..).take(MARKS - 1).map(|boot| (boot, TELE, 2)).collect();
    let mut told = std::collections::BTreeSet::new();
    for confirmed in 0..8 {
        site.marks(&[&crowd[..], &[(1_000, TELE, confirmed)]].concat());
        let named = ended(&mut site);
        assert!(named.len() <= 16, "{named:?}");
        told.extend(named);
    }
    assert_eq!(told.len(), MARKS - 1);
}
