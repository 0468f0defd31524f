use std::fs;

use proptest::prelude::*;

use super::*;
use crate::collect::check::{LaneReport, completeness};
use crate::wire::{Encoding, Message, Online, Reason};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rigd-collect-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Store {
        Store::open(&self.0).unwrap()
    }

    fn lanes(&self) -> Vec<LaneReport> {
        completeness(&self.0, None).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A message of telemetry or an event, with whatever body: the store looks at headers.
#[derive(Clone, Debug)]
struct Sent {
    topic: String,
    payload: Vec<u8>,
    gap: Option<String>,
    ended: Option<&'static str>,
}

impl Sent {
    fn new(rig: &str, kind: Kind, boot: u32, seq: u64, gap: u64) -> Self {
        let header = Header::new(kind, boot, seq);
        let body = Message::Online(Online { online: true, connection: 1, reason: Reason::Connected });
        let (topic, payload) = if kind == Kind::Online {
            ("online", body.encode(Encoding::Postcard, header))
        } else if kind == Kind::Event {
            ("event", event(header))
        } else {
            ("tele", crate::wire::encode(Encoding::Postcard, header, &telemetry()))
        };
        Self { topic: format!("r1/{rig}/up/{topic}"), payload, gap: (gap > 0).then(|| gap.to_string()), ended: None }
    }

    fn incoming(&self) -> Incoming<'_> {
        let Self { topic, payload, gap, ended } = self;
        Incoming { topic: topic.as_bytes(), payload, gap: gap.as_deref(), early: None, ended: *ended }
    }
}

fn telemetry() -> crate::wire::Telemetry {
    let snapshot = crate::reading::Snapshot::default();
    crate::wire::Telemetry::new(1, 2, 3, &snapshot, crate::wire::Losses::default(), 0)
}

fn event(header: Header) -> Vec<u8> {
    let body = crate::wire::Event {
        birth: 1,
        unix_ms: 2,
        uptime_ms: 3,
        alarm: crate::alarm::Kind::FanStands,
        subject: crate::wire::Subject::Fan(0),
        name: "fan1".to_owned(),
        raised: true,
        cause: None,
        rung: None,
    };
    crate::wire::encode(Encoding::Postcard, header, &body)
}

fn tele(seq: u64) -> Sent {
    Sent::new("rig-1", Kind::Telemetry, 7, seq, 0)
}

fn commit(store: &mut Store, sent: &[Sent], now_ms: u64) -> Result<Outcome, Error> {
    let batch: Vec<Incoming<'_>> = sent.iter().map(Sent::incoming).collect();
    store.commit(&batch, now_ms)
}

/// The mark of boot 7's telemetry that a rig is told.
fn told(watermarks: &[(RigId, Watermark)]) -> Option<u64> {
    let (_, watermark) = watermarks.first()?;
    watermark.marks.iter().find(|mark| (mark.boot, mark.lane) == (7, Kind::Telemetry)).map(|mark| mark.seq)
}

#[test]
fn each_number_is_stored_once_and_the_mark_follows() {
    let scratch = Scratch::new("once");
    let mut store = scratch.open();
    let gap = |seq, gap| Sent::new("rig-1", Kind::Telemetry, 7, seq, gap);
    // Batch; stored, duplicates, rejected; the mark that is told, if any is.
    let rows = [
        ("the first", vec![tele(1)], (1, 0, 0), Some(1)),
        ("again, as after a lost watermark", vec![tele(1)], (0, 1, 0), Some(1)),
        ("twice in a batch, reordered", vec![tele(3), tele(2), tele(3)], (2, 1, 0), Some(3)),
        ("beyond a hole", vec![tele(5)], (1, 0, 0), None),
        ("a gap declared", vec![gap(9, 3)], (1, 0, 0), None),
        ("the hole filled", vec![tele(4)], (1, 0, 0), Some(9)),
        ("dropped by the rig, and there all the same", vec![tele(7)], (1, 0, 0), None),
        ("a gap over what is stored", vec![gap(12, 11)], (1, 0, 0), Some(12)),
        ("nonsense", vec![Sent { payload: b"?".to_vec(), ..tele(13) }], (0, 0, 1), None),
    ];
    for (name, batch, (stored, duplicates, rejected), mark) in rows {
        let outcome = commit(&mut store, &batch, 1).unwrap();
        assert_eq!((outcome.stored, outcome.duplicates, outcome.rejected), (stored, duplicates, rejected), "{name}");
        assert_eq!(told(&outcome.watermarks), mark, "{name}");
    }
    let [lane] = &scratch.lanes()[..] else { panic!("one lane") };
    assert_eq!((lane.highest, lane.complete, lane.stored, lane.dropped, lane.missing), (12, 12, 8, 4, 0));
    drop(store);
    assert_eq!(told(&scratch.open().watermarks().unwrap()), Some(12), "marks are in the store");
}

#[test]
fn boots_and_lanes_have_marks_of_their_own_and_the_newest_come_first() {
    let scratch = Scratch::new("boots");
    let mut store = scratch.open();
    let sent = |boot, kind, seq| Sent::new("rig-1", kind, boot, seq, 0);
    let (tele, event) = (Kind::Telemetry, Kind::Event);
    let batch = [sent(9, tele, 1), sent(3, tele, 1), sent(3, event, 1), sent(9, tele, 2), sent(3, event, 3)];
    let outcome = commit(&mut store, &batch, 1).unwrap();
    let marks = |boot, lane, seq| Mark { boot, lane, seq };
    let expected = vec![marks(3, event, 1), marks(3, tele, 1), marks(9, tele, 2)];
    assert_eq!(outcome.watermarks, [("rig-1".parse().unwrap(), Watermark { marks: expected })]);
}

/// More lanes than a watermark has room for: the one that speaks is spoken of, and one that left memory comes back whole.
#[test]
fn an_old_lane_leaves_memory_and_comes_back() {
    let scratch = Scratch::new("lanes");
    let mut store = scratch.open();
    let sent = |boot, seq| Sent::new("rig-1", Kind::Telemetry, boot, seq, 0);
    commit(&mut store, &[sent(1, 1), sent(1, 3)], 1).unwrap();
    let boots: Vec<Sent> = (100..100 + 2 * u32::try_from(MARKS).unwrap()).map(|boot| sent(boot, 1)).collect();
    let outcome = commit(&mut store, &boots, 2).unwrap();
    let marks = &outcome.watermarks[0].1.marks;
    assert_eq!((marks.len(), marks[0].boot), (MARKS, 100 + 2 * u32::try_from(MARKS).unwrap() - 1));
    let outcome = commit(&mut store, &[sent(1, 2), sent(1, 3)], 3).unwrap();
    assert_eq!((outcome.stored, outcome.duplicates), (1, 1));
    assert!(outcome.watermarks[0].1.marks.contains(&Mark { boot: 1, lane: Kind::Telemetry, seq: 3 }));
    assert!(scratch.lanes().iter().all(|lane| lane.missing == 0 && lane.complete == lane.highest));
}

/// A start that was killed lost what was in its memory, and what it sent later is stored: the next start says that there is no more.
#[test]
fn what_a_killed_start_took_with_it_is_declared_by_the_next_one() {
    let scratch = Scratch::new("ended");
    let mut store = scratch.open();
    let from = |boot, seq| Sent::new("rig-1", Kind::Telemetry, boot, seq, 0);
    // Holes of the killed start, of another one that may have them still, of another rig's, of the speaker's own.
    let mut batch: Vec<Sent> = [1, 2, 11, 13].map(|seq| from(7, seq)).into();
    batch.extend([from(8, 1), from(8, 5), from(9, 2), Sent::new("rig-2", Kind::Telemetry, 7, 2, 0)]);
    batch.extend([1, 3].map(|seq| Sent::new("rig-1", Kind::Event, 7, seq, 0)));
    assert_eq!(told(&commit(&mut store, &batch, 1).unwrap().watermarks), Some(2));
    let ended = |seq| Sent { ended: Some("7,9,1234"), ..from(9, seq) };
    // In the batch in which its last messages come, too.
    let outcome = commit(&mut store, &[from(7, 15), ended(3)], 2).unwrap();
    assert_eq!((outcome.stored, told(&outcome.watermarks)), (2, Some(15)));
    let missing = || {
        let lanes = scratch.lanes().into_iter();
        let row = lanes.map(|it| (it.rig, it.boot, it.lane, it.complete, it.dropped, it.missing_ranges));
        row.collect::<Vec<_>>()
    };
    let row = |rig: &str, boot, lane: &str, complete, dropped, missing: &[(u64, u64)]| {
        (rig.to_owned(), boot, lane.to_owned(), complete, dropped, missing.to_vec())
    };
    let expected = [
        row("rig-1", 7, "telemetry", 15, 10, &[]),
        row("rig-1", 8, "telemetry", 1, 0, &[(2, 4)]),
        row("rig-1", 9, "telemetry", 0, 0, &[(1, 1)]),
        row("rig-1", 7, "event", 3, 1, &[]),
        row("rig-2", 7, "telemetry", 0, 0, &[(1, 1)]),
    ];
    assert_eq!(missing(), expected);
    // Said again it is no news; the store has it by heart; and what comes all the same is stored.
    assert_eq!(commit(&mut store, &[ended(4)], 3).unwrap().watermarks, []);
    drop(store);
    let mut store = scratch.open();
    assert_eq!(told(&store.watermarks().unwrap()), Some(15));
    commit(&mut store, &[from(7, 12)], 4).unwrap();
    assert_eq!(missing()[0], row("rig-1", 7, "telemetry", 15, 9, &[]));
}

/// A lane that nobody has spoken of for long is not in memory, and is closed all the same.
#[test]
fn a_start_that_is_out_of_memory_is_closed_too() {
    let scratch = Scratch::new("ended-long-ago");
    let mut store = scratch.open();
    commit(&mut store, &[tele(1), tele(4)], 1).unwrap();
    for boot in 100..100 + u32::try_from(2 * MARKS).unwrap() {
        commit(&mut store, &[Sent::new("rig-1", Kind::Telemetry, boot, 1, 0)], 2).unwrap();
    }
    assert_eq!(told(&store.watermarks().unwrap()), None);
    let last = Sent { ended: Some("7"), ..Sent::new("rig-1", Kind::Telemetry, 500, 1, 0) };
    commit(&mut store, &[last], 3).unwrap();
    let lane = scratch.lanes().into_iter().find(|lane| lane.boot == 7).unwrap();
    assert_eq!((lane.complete, lane.dropped, lane.missing), (4, 2, 0));
}

#[test]
fn where_the_disk_is_full_nothing_is_stored_and_later_all_is() {
    let scratch = Scratch::new("full");
    let mut store = scratch.open();
    commit(&mut store, &[tele(1)], 1).unwrap();
    let pages: i64 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    store.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let many: Vec<Sent> = (2..2_000).map(tele).collect();
    let error = commit(&mut store, &many, 2).unwrap_err();
    assert!(error.passes() && error.to_string().contains("full"), "{error}");
    assert_eq!(told(&store.watermarks().unwrap()), Some(1), "no mark speaks of what was rolled back");
    store.connection.pragma_update(None, "max_page_count", 1_000_000).unwrap();
    let outcome = commit(&mut store, &many, 3).unwrap();
    assert_eq!((outcome.stored, told(&outcome.watermarks)), (1_998, Some(1_999)));
}

#[test]
fn one_collector_has_a_store_and_anybody_reads_it() {
    let scratch = Scratch::new("lock");
    let mut store = scratch.open();
    commit(&mut store, &[tele(1)], 1).unwrap();
    let error = Store::open(&scratch.0).map(drop).unwrap_err();
    assert!(matches!(error, Error::Taken(_)) && !error.passes(), "{error}");
    assert_eq!(scratch.lanes().len(), 1);
    drop(store);
    scratch.open();
}

#[test]
fn what_is_no_store_is_refused_by_name() {
    let scratch = Scratch::new("damaged");
    let path = scratch.0.join("collect.db");
    let refused = |what: &str| {
        let error = Store::open(&path).map(drop).unwrap_err();
        assert!(!error.passes(), "{what}: {error}");
        error.to_string()
    };
    fs::write(&path, "a text of more than sixteen bytes, as a header has ".repeat(20)).unwrap();
    assert!(refused("a text").ends_with("is no store of a collector"));
    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
    assert!(refused("another's").ends_with("is no store of a collector"));
    fs::remove_file(&path).unwrap();
    drop(scratch.open());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert!(refused("a later version").ends_with("its tables are version 2, this one knows 1"));
    fs::remove_file(&path).unwrap();
    // Overwritten from the third page on, while nobody had it open.
    let mut store = scratch.open();
    commit(&mut store, &(1..500).map(tele).collect::<Vec<_>>(), 1).unwrap();
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    bytes[2 * 4096..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let error = Store::open(&path).and_then(|mut store| commit(&mut store, &[tele(500)], 2)).unwrap_err();
    assert!(!error.passes() && error.to_string().contains("malformed"), "{error}");
}

#[test]
fn old_telemetry_goes_and_stays_accounted_for() {
    let scratch = Scratch::new("retention");
    let mut store = scratch.open();
    let mut old: Vec<Sent> = (1..=20).filter(|seq| *seq != 11).map(tele).collect();
    old.push(Sent::new("rig-1", Kind::Event, 7, 1, 0));
    commit(&mut store, &old, 1_000).unwrap();
    commit(&mut store, &[tele(21), tele(23)], 5_000).unwrap();
    // In steps, and never what is young.
    let steps: Vec<usize> = (0..5).map(|_| store.expire(2_000, 8).unwrap()).collect();
    assert_eq!((steps.iter().sum::<usize>(), steps[0] <= 8, steps[4]), (19, true, 0));
    let lane = |lanes: Vec<LaneReport>, name: &str| lanes.into_iter().find(|lane| lane.lane == name).unwrap();
    let telemetry = lane(scratch.lanes(), "telemetry");
    assert_eq!((telemetry.stored, telemetry.expired, telemetry.missing), (2, 19, 2));
    assert_eq!(telemetry.missing_ranges, [(11, 11), (22, 22)], "what never came is missing for ever");
    assert_eq!(lane(scratch.lanes(), "event").stored, 1, "events stay");
    // The same after a start, and what has gone is not stored again.
    drop(store);
    let mut store = scratch.open();
    assert_eq!(told(&store.watermarks().unwrap()), Some(10));
    let outcome = commit(&mut store, &[tele(5), tele(15), tele(11)], 6_000).unwrap();
    assert_eq!((outcome.stored, outcome.duplicates, told(&outcome.watermarks)), (1, 2, Some(21)));
    let telemetry = lane(scratch.lanes(), "telemetry");
    assert_eq!((telemetry.stored, telemetry.expired, telemetry.missing), (3, 19, 1));
    let ranges: i64 = store.connection.query_row("SELECT count(*) FROM range", [], |row| row.get(0)).unwrap();
    assert_eq!(ranges, 1, "numbers beyond a hole are kept as a range");
}

#[test]
fn state_is_kept_when_it_is_news_and_rejects_are_bounded() {
    let scratch = Scratch::new("state");
    let mut store = scratch.open();
    let online = |boot| Sent::new("rig-1", Kind::Online, boot, 0, 0);
    let outcome = commit(&mut store, &[online(1), online(1), online(2), online(1)], 1).unwrap();
    assert_eq!((outcome.stored, outcome.duplicates, outcome.watermarks.len()), (3, 1, 0));
    let newest = |what: &str| store.connection.query_row(what, [], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    assert_eq!(newest("SELECT payload FROM newest"), online(1).payload);
    let words: Vec<Sent> = (10..1_200).map(online).collect();
    commit(&mut store, &words, 2).unwrap();
    assert_eq!(store.trim().unwrap(), 193);
    let junk = Sent { topic: "x".repeat(999), payload: vec![b'?'; 5_000], gap: None, ended: None };
    for _ in 0..11 {
        commit(&mut store, &vec![junk.clone(); 1_000], 3).unwrap();
    }
    let longest = "SELECT count(*), max(length(topic)), max(length(payload)), min(reason) FROM rejected";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?));
    let rejected: (i64, i64, i64, String) = store.connection.query_row(longest, [], read).unwrap();
    assert_eq!(rejected, (10_000, 256, 1_024, "no topic of a rig".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    /// Whatever comes in whatever order, with starts in between: what is stored is what was sent, marks are those of the set.
    #[test]
    fn the_store_is_the_set_of_what_was_sent(
        batches in prop::collection::vec(
            (prop::collection::vec((0..2_u32, 1..25_u64, prop_oneof![4 => Just(0_u64), 1 => 1..4_u64]), 0..12), any::<bool>()), 1..8,
        ),
    ) {
        let scratch = Scratch::new("property");
        let mut store = scratch.open();
        let (mut stored, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        for (batch, reopen) in batches {
            let sent: Vec<Sent> =
                batch.iter().map(|(boot, seq, gap)| Sent::new("rig-1", Kind::Telemetry, *boot, *seq, *gap)).collect();
            let outcome = commit(&mut store, &sent, 1).unwrap();
            let before = stored.len();
            for (boot, seq, gap) in batch {
                stored.insert((boot, seq));
                dropped.extend((seq.saturating_sub(gap).max(1)..seq).map(|seq| (boot, seq)));
            }
            prop_assert_eq!(outcome.stored, u64::try_from(stored.len() - before).unwrap());
            if reopen {
                drop(store);
                store = scratch.open();
            }
            let has = |boot, seq: u64| stored.contains(&(boot, seq)) || dropped.contains(&(boot, seq));
            for (_, watermark) in store.watermarks().unwrap() {
                for mark in watermark.marks {
                    let complete = (1..).take_while(|seq| has(mark.boot, *seq)).last().unwrap_or(0);
                    prop_assert_eq!(mark.seq, complete);
                }
            }
            for lane in scratch.lanes() {
                let all: Vec<u64> = (1..=lane.highest).collect();
                let count = |good: &dyn Fn(u64) -> bool| all.iter().filter(|seq| good(**seq)).count() as u64;
                prop_assert_eq!(lane.stored, count(&|seq| stored.contains(&(lane.boot, seq))));
                let only = |seq| dropped.contains(&(lane.boot, seq)) && !stored.contains(&(lane.boot, seq));
                prop_assert_eq!(lane.dropped, count(&only));
                prop_assert_eq!(lane.missing, count(&|seq| !has(lane.boot, seq)));
            }
        }
    }
}
