//! When a message is sent, freed, written, sent again.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LANES: [Lane; 2] = [Lane::Event, Lane::Telemetry];

#[test]
fn a_healthy_link_writes_no_telemetry_by_either_rule() {
    for delivery in [Delivery::Auto, Delivery::Puback, Delivery::Watermark] {
        for controller in [false, true] {
            let mut site = Site::new(rules(delivery));
            site.keeper.connected(site.now);
            if controller || delivery == Delivery::Watermark {
                site.keeper.controller(true, site.now);
            }
            // Whether there is a control plane is written down once.
            site.seconds(40);
            let before = site.disk.files.changes;
            for _ in 0..720 {
                let ticket = site.add(Lane::Telemetry);
                let sent = site.deliver();
                assert_eq!((seqs(&sent), sent[0].gap, sent[0].backlog), (vec![ticket.seq], 0, false));
                site.pass(Duration::from_millis(900));
                if site.keeper.by_watermark() {
                    site.mark(1, Lane::Telemetry, ticket.seq);
                }
                site.seconds(4);
                assert_eq!(site.keeper.waiting(), 0);
            }
            assert_eq!(site.disk.files.changes, before, "{delivery:?} {controller}");
        }
    }
}

#[test]
fn without_a_broker_telemetry_is_written_after_a_second_and_no_more_often() {
    let mut site = Site::new(rules(Delivery::Auto));
    site.add(Lane::Telemetry);
    site.pass(Duration::from_millis(999));
    assert_eq!(site.disk.files.writes, 0);
    site.pass(Duration::from_millis(1));
    assert_eq!((site.disk.files.writes, site.disk.files.syncs), (1, 2), "the file, and its name once");
    for _ in 0..600 {
        site.add(Lane::Telemetry);
        site.pass(Duration::from_millis(100));
    }
    assert!((59..=61).contains(&site.disk.files.writes), "{}", site.disk.files.writes);
    // At the default period: the worst day of the module's documentation.
    let mut site = Site::new(rules(Delivery::Auto));
    site.pad = 350;
    for _ in 0..17_280 {
        site.add(Lane::Telemetry);
        site.seconds(5);
    }
    let Fake { writes, syncs, bytes, .. } = site.disk.files;
    assert_eq!((writes, bytes), (17_280, 17_280 * (350 + 31)));
    assert!((17_280..17_300).contains(&syncs), "{syncs}");
}

#[test]
fn an_event_is_written_at_once_and_a_healthy_link_frees_it() {
    for lane in [Lane::Event, Lane::Ack] {
        let mut site = Site::new(rules(Delivery::Puback));
        site.keeper.connected(site.now);
        let ticket = site.push(lane);
        assert!(!site.keeper.safe(ticket));
        site.work();
        assert!(site.keeper.safe(ticket));
        assert_eq!((site.disk.files.writes, site.disk.files.syncs), (1, 2));
        assert_eq!(seqs(&site.deliver()), [1]);
        let files = site.disk.files.clone();
        // The cursor is written with the next breath, and the next start sends nothing.
        site.seconds(10);
        let mut next = site.restart(rules(Delivery::Puback), files);
        next.keeper.connected(next.now);
        next.seconds(1);
        assert_eq!((next.deliver(), next.keeper.waiting()), (Vec::new(), 0));
    }
}

#[test]
fn nothing_is_freed_before_it_is_delivered_and_events_go_first() {
    let mut site = Site::new(rules(Delivery::Puback));
    let [first, event, second] = [Lane::Telemetry, Lane::Event, Lane::Telemetry].map(|lane| site.push(lane));
    let tickets = |sent: Vec<Message>| sent.into_iter().map(|message| message.ticket).collect::<Vec<_>>();
    site.keeper.connected(site.now);
    assert_eq!(tickets(site.send(9)), [event, first, second]);
    site.keeper.settled(first, site.now);
    site.keeper.disconnected();
    site.keeper.connected(site.now);
    assert_eq!(tickets(site.send(9)), [event, second], "sent again");
    site.keeper.returned(second);
    assert_eq!(tickets(site.send(9)), [second]);
    for ticket in [event, second, second] {
        site.keeper.settled(ticket, site.now);
    }
    assert_eq!((site.keeper.waiting(), site.keeper.ram()), (0, 0));
}

#[test]
fn what_waited_long_follows_at_its_pace_beside_what_is_new() {
    let mut site = Site::new(rules(Delivery::Puback));
    for _ in 0..100 {
        site.add(Lane::Telemetry);
        site.seconds(1);
    }
    site.keeper.connected(site.now);
    let at_once = site.deliver();
    let live: Vec<u64> = at_once.iter().filter(|message| !message.backlog).map(|message| message.ticket.seq).collect();
    assert_eq!(live, (71..=100).collect::<Vec<_>>(), "what is younger than half a minute, in order");
    assert_eq!(at_once.len(), 31, "and one of the backlog");
    site.seconds(1);
    let new = site.add(Lane::Telemetry);
    let sent = site.deliver();
    assert_eq!(sent[0].ticket, new);
    let rest = site.deliver_for(5 * SECOND);
    assert_eq!(sent.len() - 1 + rest.len(), 69);
    assert!(rest.iter().all(|message| message.backlog && message.gap == 0));
    assert!(site.deliver_for(SECOND).is_empty() && site.keeper.waiting() == 0);
    let slow = |count: usize| Duration::from_millis(50) * u32::try_from(count).unwrap();
    assert!(slow(rest.len()) <= 5 * SECOND, "20 a second");
}

#[test]
fn a_restart_sends_what_was_not_delivered_and_says_that_it_is_old() {
    for delivery in [Delivery::Puback, Delivery::Watermark] {
        let mut site = Site::new(rules(delivery));
        for _ in 0..50 {
            LANES.into_iter().for_each(|lane| _ = site.add(lane));
            site.seconds(2);
        }
        let files = site.disk.files.clone();
        let mut next = site.restart(rules(delivery), files);
        next.keeper.connected(next.now);
        next.keeper.controller(true, next.now);
        assert_eq!(next.keeper.waiting(), 100);
        let own = next.add(Lane::Telemetry);
        let mut sent = next.deliver();
        assert_eq!(sent.remove(0).ticket, own, "what is new goes first");
        sent.extend(next.deliver_for(10 * SECOND));
        let of = |lane| sent.iter().filter(|one| one.ticket.lane == lane).map(|one| one.ticket.seq).collect::<Vec<_>>();
        assert_eq!((of(Lane::Event), of(Lane::Telemetry)), ((1..=50).collect(), (1..=50).collect()));
        assert!(sent.iter().all(|message| message.backlog && message.ticket.boot == 1 && message.gap == 0));
        if delivery == Delivery::Watermark {
            assert_eq!(next.keeper.waiting(), 101, "the broker's word frees nothing");
            LANES.into_iter().for_each(|lane| next.mark(1, lane, 50));
            next.mark(2, Lane::Telemetry, 1);
        }
        assert_eq!(next.keeper.waiting(), 0);
        // And the start after that has nothing to send.
        next.seconds(20);
        let files = next.disk.files.clone();
        let mut third = next.restart(rules(delivery), files);
        third.keeper.connected(third.now);
        third.keeper.controller(true, third.now);
        assert!(third.deliver_for(5 * SECOND).is_empty());
    }
}

#[test]
fn a_watermark_that_came_before_the_disk_was_read_counts() {
    let mut site = Site::new(rules(Delivery::Watermark));
    site.add(Lane::Event);
    let files = site.disk.files.clone();
    let mut next = Site { hangs: true, ..Site::new(rules(Delivery::Watermark)) };
    (next.disk, next.keeper) = (Disk::new(files, "/outbox".into()), Keeper::new(rules(Delivery::Watermark), 2, 7));
    next.mark(1, Lane::Event, 1);
    next.hangs = false;
    next.work();
    assert_eq!(next.keeper.waiting(), 0);
}

#[test]
fn a_watermark_for_what_was_never_sent_is_nothing() {
    let mut site = Site::new(rules(Delivery::Watermark));
    site.add(Lane::Telemetry);
    site.mark(1, Lane::Telemetry, 2);
    site.mark(99, Lane::Telemetry, 2);
    assert_eq!(site.keeper.waiting(), 1);
    assert!(!site.keeper.is_freed(99, Lane::Telemetry, 1));
}

/// The broker acknowledged and died with it.
#[test]
fn acknowledged_and_not_confirmed_it_is_sent_again_with_patience_and_never_while_nobody_confirms() {
    let mut site = Site::new(rules(Delivery::Watermark));
    site.keeper.connected(site.now);
    site.keeper.controller(true, site.now);
    for _ in 0..3 {
        site.add(Lane::Telemetry);
    }
    assert_eq!(seqs(&site.deliver()), [1, 2, 3]);
    site.mark(1, Lane::Telemetry, 1);
    assert!(site.deliver_for(Duration::from_millis(9_900)).is_empty());
    let again = site.deliver_for(SECOND);
    assert_eq!((seqs(&again), again[0].backlog), (vec![2, 3], true));
    assert!(site.deliver_for(19 * SECOND).is_empty(), "twice the patience");
    assert_eq!(site.deliver_for(2 * SECOND).len(), 2);
    // It is away: held, though what is new goes out for whoever else listens.
    site.keeper.controller(false, site.now);
    let new = site.add(Lane::Telemetry);
    assert_eq!(seqs(&site.deliver_for(200 * SECOND)), [new.seq]);
    site.keeper.controller(true, site.now);
    assert!(site.deliver_for(9 * SECOND).is_empty(), "the broker may have kept it for the control plane");
    assert_eq!(seqs(&site.deliver_for(80 * SECOND)), [2, 3, 4]);
    site.mark(1, Lane::Telemetry, 4);
    assert_eq!((site.deliver_for(900 * SECOND).len(), site.keeper.waiting()), (0, 0));
}

#[test]
fn with_nobody_heard_the_brokers_word_is_enough_after_a_moment() {
    let mut site = Site::new(rules(Delivery::Auto));
    site.keeper.connected(site.now);
    site.add(Lane::Telemetry);
    site.deliver();
    assert_eq!(site.keeper.waiting(), 1, "a control plane may still say that it is there");
    site.seconds(2);
    assert_eq!((site.keeper.waiting(), site.keeper.by_watermark()), (0, false));
    site.add(Lane::Telemetry);
    site.deliver();
    assert_eq!(site.keeper.waiting(), 0);
    // From the moment one is heard its word is needed, on later connections too.
    site.keeper.controller(false, site.now);
    site.keeper.disconnected();
    site.keeper.connected(site.now);
    site.add(Lane::Telemetry);
    site.deliver();
    assert_eq!((site.keeper.waiting(), site.keeper.by_watermark()), (1, true));
}

#[test]
fn what_is_refused_is_a_gap_before_the_next_one() {
    for lane in LANES {
        let mut site = Site::new(rules(Delivery::Watermark));
        site.keeper.connected(site.now);
        site.keeper.controller(true, site.now);
        site.add(lane);
        let second = site.add(lane);
        site.seconds(2);
        site.send(9);
        site.keeper.refused(second);
        site.add(lane);
        assert_eq!(site.deliver()[0].gap, 1, "{lane:?}");
    }
}

#[test]
fn a_clean_stop_writes_everything() {
    let mut site = Site::new(rules(Delivery::Auto));
    site.push(Lane::Telemetry);
    site.push(Lane::Event);
    site.keeper.stop();
    site.work();
    let files = site.disk.files.after_the_cut(false);
    let next = site.restart(rules(Delivery::Auto), files);
    assert_eq!(next.keeper.waiting(), 2);
}

/// A broker that dies after it acknowledged, a control plane that comes after: what nobody may have is on the disk before what is
/// newer is sent, so that an agent killed then leaves no hole.
#[test]
fn what_was_acknowledged_to_nobody_is_written_at_once() {
    let began = |site: &mut Site, controller: bool| {
        site.keeper.connected(site.now);
        if controller {
            site.keeper.controller(true, site.now);
        }
        for _ in 0..5 {
            site.add(Lane::Telemetry);
        }
        assert_eq!(site.deliver().len(), 5);
        assert_eq!(site.disk.files.writes, 0, "the broker has them");
    };
    let killed = |site: Site| {
        let files = site.disk.files.clone();
        let mut next = site.restart(rules(Delivery::Watermark), files);
        next.keeper.connected(next.now);
        next.keeper.controller(true, next.now);
        next.deliver_for(SECOND)
    };
    let mut site = Site::new(rules(Delivery::Watermark));
    began(&mut site, true);
    site.keeper.disconnected();
    site.work();
    site.keeper.connected(site.now);
    site.work();
    assert_eq!(seqs(&killed(site)), [1, 2, 3, 4, 5], "the broker died");
    let mut site = Site::new(rules(Delivery::Watermark));
    began(&mut site, false);
    site.keeper.controller(true, site.now);
    site.work();
    assert_eq!(seqs(&killed(site)), [1, 2, 3, 4, 5], "the control plane came late");
    // What goes out after that is no worse than before.
    let mut site = Site::new(rules(Delivery::Watermark));
    began(&mut site, true);
    site.keeper.disconnected();
    site.seconds(2);
    site.keeper.connected(site.now);
    site.add(Lane::Telemetry);
    site.deliver();
    let writes = site.disk.files.writes;
    site.pass(Duration::from_millis(900));
    assert_eq!(site.disk.files.writes, writes);
}

/// Numbers that a broker was given before there was a control plane are told to it, and told from what was dropped.
#[test]
fn a_control_plane_that_comes_late_is_told_what_went_out_before_it() {
    for lane in LANES {
        let mut site = Site::new(rules(Delivery::Auto));
        site.keeper.connected(site.now);
        site.seconds(40);
        for _ in 0..5 {
            site.add(lane);
        }
        assert_eq!(site.deliver().len(), 5);
        assert_eq!(site.keeper.waiting(), 0);
        site.keeper.controller(true, site.now);
        site.add(lane);
        let sent = site.deliver();
        assert_eq!((seqs(&sent), sent[0].gap, sent[0].early), (vec![6], 5, 5), "{lane:?}");
        site.mark(1, lane, 6);
        site.add(lane);
        let next = site.deliver();
        assert_eq!((seqs(&next), next[0].gap, next[0].early), (vec![7], 0, 0), "once is enough");
        // It lost its store, and says so: what it had is told again with the first that waits.
        site.mark(1, lane, 0);
        let again = site.deliver_for(12 * SECOND);
        assert_eq!((seqs(&again), again[0].gap, again[0].early), (vec![7], 6, 6), "{lane:?}");
        site.mark(1, lane, 7);
        assert_eq!(site.keeper.waiting(), 0);
    }
}

/// Known from an earlier start, it is waited for though nobody is heard; on a first start for half a minute.
#[test]
fn events_wait_for_a_control_plane_that_was_known_and_on_a_first_start_for_half_a_minute() {
    let mut site = Site::new(rules(Delivery::Auto));
    site.keeper.connected(site.now);
    LANES.into_iter().for_each(|lane| _ = site.add(lane));
    site.deliver();
    site.seconds(3);
    assert_eq!(site.keeper.waiting(), 1, "the event waits");
    site.keeper.controller(true, site.now);
    site.mark(1, Lane::Event, 1);
    site.seconds(20);
    let files = site.disk.files.clone();
    let mut next = site.restart(rules(Delivery::Auto), files);
    next.keeper.connected(next.now);
    LANES.into_iter().for_each(|lane| _ = next.add(lane));
    next.deliver();
    next.seconds(3_600);
    assert_eq!((next.keeper.waiting(), next.keeper.by_watermark()), (2, true), "it was known, and is away");
    // Its word is cleared: the broker's is enough, and what it has taken is done with.
    next.keeper.cleared();
    next.work();
    assert_eq!((next.keeper.waiting(), next.keeper.by_watermark()), (0, false));
    next.seconds(20);
    let files = next.disk.files.clone();
    let mut third = next.restart(rules(Delivery::Auto), files);
    third.keeper.connected(third.now);
    third.add(Lane::Event);
    third.deliver();
    third.seconds(2);
    assert_eq!((third.keeper.waiting(), third.keeper.by_watermark()), (0, false), "nobody was there before");
}

/// One that was tried once and went holds the backlog no longer than anything may wait.
#[test]
fn a_control_plane_that_never_came_back_is_forgotten_and_the_backlog_flows() {
    let mut site = Site::new(rules(Delivery::Auto));
    site.keeper.connected(site.now);
    site.keeper.controller(false, site.now);
    site.add(Lane::Event);
    site.keeper.disconnected();
    site.seconds(100);
    site.keeper.connected(site.now);
    assert!(site.deliver_for(100 * SECOND).is_empty(), "the backlog is held");
    site.seconds(73 * 3_600);
    // By its age it is dropped just then; what comes now goes to whoever is there.
    site.add(Lane::Event);
    let sent = site.deliver_for(2 * SECOND);
    assert_eq!(sent.last().map(|message| message.ticket.seq), Some(2));
    assert_eq!((site.keeper.by_watermark(), site.keeper.waiting()), (false, 0));
}

#[test]
fn what_loses_its_worth_with_the_next_is_written_with_it() {
    let mut site = Site::new(rules(Delivery::Watermark));
    site.keeper.connected(site.now);
    site.keeper.controller(true, site.now);
    site.seconds(20);
    let before = (site.disk.files.writes, site.disk.files.syncs);
    let accepted = site.push(Lane::Ack);
    site.keeper.unhurried(accepted);
    site.work();
    assert_eq!((site.disk.files.writes, site.disk.files.syncs), before, "not for its own sake");
    let done = site.add(Lane::Ack);
    assert_eq!((site.disk.files.writes - before.0, site.disk.files.syncs - before.1), (1, 2), "the file and its name");
    assert!(site.keeper.safe(accepted) && site.keeper.safe(done));
    let alone = site.push(Lane::Ack);
    site.keeper.unhurried(alone);
    site.seconds(1);
    assert!(site.keeper.safe(alone), "after a second");
}
