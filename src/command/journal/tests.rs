mod bounds;
mod damage;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::trust::{FleetConfig, Trust};
use super::super::verify::{self, Me, Now, Received, Verdict};
use super::*;
use crate::wire::{Audience, Command, Encoding, Header, Kind, PayloadAct, Scope, SigningKey, TrustedKey, encode};

const NOW: u64 = 1_800_000_000_000;
const KEY: KeyId = KeyId([7; 8]);

fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("rigd-journal-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn entry(number: u64, order: Order) -> Entry {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    Entry {
        id: CommandId(id),
        keys: vec![KEY],
        counter: number,
        digest: [1; 32],
        not_after_ms: NOW + 30_000,
        order,
        topic: "r1/r/dn/cmd".to_owned(),
        response: Some("answers".to_owned()),
        correlation: vec![1, 2, 3],
        at_ms: NOW,
        boot: 1,
    }
}

fn done(entry: &Entry, text: &str) -> Ack {
    Ack { id: entry.id, at_ms: NOW, state: AckState::Done(Outcome::Text(text.to_owned())) }
}

const NEW_FILE: &str = "commands.new";

fn open(directory: &Path) -> (Journal, Vec<Interrupted>) {
    Journal::open(directory, 1, Some(NOW)).unwrap()
}

#[test]
fn what_came_of_a_command_survives_and_is_told_again() {
    let directory = directory("survives");
    let (mut journal, interrupted) = open(&directory);
    assert_eq!(interrupted, []);
    let (first, second) = (entry(1, Order::Reboot), entry(2, Order::Probe));
    journal.accept(first.clone()).unwrap();
    assert_eq!(journal.answer(&first.id), Some(Answer::Open));
    journal.finish(&done(&first, "yes")).unwrap();
    journal.accept(second.clone()).unwrap();
    drop(journal);
    let (mut journal, interrupted) = open(&directory);
    assert_eq!(interrupted, [Interrupted { entry: second.clone(), then: AfterRestart::Again }]);
    assert_eq!(journal.answer(&first.id), Some(Answer::Finished(done(&first, "yes"))));
    assert_eq!(journal.digest(&first.id), Some(first.digest));
    assert_eq!(journal.finished(NOW + 60_000, 60_000), [(first.clone(), done(&first, "yes"))]);
    assert_eq!(journal.finished(NOW + 60_001, 60_000), []);
    assert!(!journal.fresh(&KEY, 1) && !journal.fresh(&KEY, 2) && journal.fresh(&KEY, 3));
    for used in [first, entry(2, Order::Reboot), Entry { id: CommandId([9; 16]), ..second }] {
        assert_eq!(journal.accept(used), Err(Refusal::Replayed));
    }
    fs::remove_dir_all(&directory).unwrap();
}

/// The table of what becomes of an interrupted order.
#[test]
fn what_was_interrupted_is_carried_out_again_or_nobody_can_tell() {
    use AfterRestart::{Again, Done, Unknown};
    let text = || "x".to_owned();
    let payload = |act| Order::Payload { name: text(), act };
    for (order, same, other) in [
        (Order::SetProfile { gpu: None, profile: None }, Again, Again),
        (Order::SetPowerCap(None), Again, Again),
        (Order::SetFanTarget { zone: text(), target_mc: None }, Again, Again),
        (payload(PayloadAct::Start), Again, Again),
        (payload(PayloadAct::Stop), Again, Again),
        (payload(PayloadAct::Drain), Again, Again),
        (payload(PayloadAct::Restart), Unknown, Unknown),
        (Order::Assign { payload: text(), gpus: Vec::new() }, Again, Again),
        (Order::Identify { seconds: 1 }, Unknown, Unknown),
        (Order::Probe, Again, Again),
        (Order::Logs { payload: text(), lines: 1 }, Again, Again),
        (Order::FollowLogs { payload: text(), seconds: 1 }, Done, Done),
        (Order::Snapshot, Again, Again),
        (Order::Reload, Done, Done),
        (Order::RestartAgent, Done, Done),
        (Order::Reboot, Unknown, Done),
        (Order::RotateKey { add: None, revoke: Some(KEY) }, Again, Again),
        (Order::Maintenance { on: true, until_ms: None }, Again, Again),
    ] {
        assert_eq!((after_restart(&order, true), after_restart(&order, false)), (same, other), "{order:?}");
    }
    // A boot that nobody named may be this one: then nobody can tell whether the reboot was.
    for (name, before, after, then) in
        [("same", 1, 1, Unknown), ("other", 1, 2, Done), ("then", 0, 2, Unknown), ("now", 1, 0, Unknown)]
    {
        let directory = directory(&format!("boot-{name}"));
        let (mut journal, _) = open(&directory);
        journal.accept(Entry { boot: before, ..entry(1, Order::Reboot) }).unwrap();
        let (_, interrupted) = Journal::open(&directory, after, Some(NOW)).unwrap();
        assert_eq!(interrupted[0].then, then, "{name}");
        fs::remove_dir_all(&directory).unwrap();
    }
    // What is too late, or may be, is not begun again.
    let directory = directory("late");
    let (mut journal, _) = open(&directory);
    journal.accept(entry(1, Order::Probe)).unwrap();
    for (unix_ms, then) in
        [(Some(NOW + 30_000 + SKEW_MS), Again), (Some(NOW + 30_001 + SKEW_MS), Unknown), (None, Unknown)]
    {
        let (_, interrupted) = Journal::open(&directory, 1, unix_ms).unwrap();
        assert_eq!(interrupted[0].then, then, "{unix_ms:?}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn written_anew_it_keeps_the_newest_and_every_counter() {
    let directory = directory("compact");
    let (mut journal, _) = open(&directory);
    let old = entry(1, Order::Reload);
    journal.accept(old.clone()).unwrap();
    journal.finish(&done(&old, "old")).unwrap();
    let open_one = Entry { at_ms: NOW - KEEP_MS, ..entry(2, Order::Probe) };
    journal.accept(open_one.clone()).unwrap();
    let last = entry(3, Order::Snapshot);
    journal.accept(Entry { at_ms: NOW + KEEP_MS, ..last.clone() }).unwrap();
    journal.finish(&done(&last, "new")).unwrap();
    journal.compact(NOW + KEEP_MS).unwrap();
    let check = |journal: &Journal| {
        assert_eq!(journal.answer(&old.id), None);
        assert_eq!(journal.answer(&open_one.id), Some(Answer::Open));
        assert_eq!(journal.answer(&last.id), Some(Answer::Finished(done(&last, "new"))));
        assert!((1..=3).all(|counter| !journal.fresh(&KEY, counter)) && journal.fresh(&KEY, 5));
    };
    check(&journal);
    journal.accept(entry(4, Order::Snapshot)).unwrap();
    drop(journal);
    let (journal, interrupted) = open(&directory);
    check(&journal);
    assert_eq!(interrupted.len(), 2);
    // A file that was being written when the power went is nothing.
    fs::write(directory.join(NEW_FILE), b"half").unwrap();
    check(&open(&directory).0);
    fs::remove_dir_all(&directory).unwrap();
}

/// The one that was interrupted would otherwise undo the one that was done after it.
#[test]
fn what_was_overtaken_is_not_carried_out_again() {
    let profile = |name: &str| Order::SetProfile { gpu: None, profile: Some(name.to_owned()) };
    let payload = |act| Order::Payload { name: "miner".to_owned(), act };
    let maintenance = Order::Maintenance { on: true, until_ms: None };
    for (name, first, second, then) in [
        ("profile", profile("eco"), profile("boost"), AfterRestart::Unknown),
        ("start", payload(PayloadAct::Drain), payload(PayloadAct::Start), AfterRestart::Unknown),
        ("maintenance", payload(PayloadAct::Start), maintenance, AfterRestart::Unknown),
        ("something else", profile("eco"), payload(PayloadAct::Stop), AfterRestart::Again),
        (
            "another",
            Order::Payload { name: "llm".to_owned(), act: PayloadAct::Start },
            payload(PayloadAct::Stop),
            AfterRestart::Again,
        ),
        ("only looks", Order::Probe, Order::Probe, AfterRestart::Again),
    ] {
        let directory = directory(&format!("overtaken-{name}"));
        let (mut journal, _) = open(&directory);
        let (first, second) = (entry(1, first), entry(2, second));
        journal.accept(first.clone()).unwrap();
        journal.accept(second.clone()).unwrap();
        journal.finish(&done(&second, "yes")).unwrap();
        drop(journal);
        assert_eq!(open(&directory).1, [Interrupted { entry: first, then }], "{name}");
        fs::remove_dir_all(&directory).unwrap();
    }
}

/// What a rig does with frames, with the end of the agent possible at any point.
struct Rig {
    directory: PathBuf,
    journal: Journal,
    trust: Trust,
    me: Me,
    /// How often each command was carried out.
    executed: BTreeMap<CommandId, u32>,
    answers: BTreeMap<CommandId, Ack>,
}

/// Where the agent ends while it takes a command.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Never,
    Accepted,
    Executed,
}

impl Rig {
    fn take(&mut self, frame: &[u8], end: End) {
        let now = Now { unix_ms: Some(NOW), nonce: 1, revision: 0 };
        let received = Received { topic: "r1/r/dn/cmd", frame, retained: false };
        match verify::command(&received, &self.trust, &self.me, &now, &self.journal) {
            Ok(Verdict::New(verified)) => {
                let command = verified.command;
                let entry = Entry {
                    keys: verified.keys,
                    counter: command.counter,
                    digest: verified.digest,
                    id: command.id,
                    ..entry(0, command.order)
                };
                if self.journal.accept(entry.clone()).is_err() || end == End::Accepted {
                    return;
                }
                *self.executed.entry(entry.id).or_default() += 1;
                if end != End::Executed {
                    self.finish(&done(&entry, "done"));
                }
            }
            Ok(Verdict::Again(id)) => {
                if let (Some(Answer::Finished(now)), Some(before)) = (self.journal.answer(&id), self.answers.get(&id)) {
                    assert_eq!(now, *before, "the first answer is repeated");
                }
            }
            Err(_) => {}
        }
    }

    fn finish(&mut self, ack: &Ack) {
        self.journal.finish(ack).unwrap();
        self.answers.insert(ack.id, ack.clone());
    }

    fn restart(&mut self) {
        let (journal, interrupted) = open(&self.directory);
        self.journal = journal;
        for Interrupted { entry, then } in interrupted {
            // Orders here are those that must not be carried out twice.
            assert_ne!(then, AfterRestart::Again);
            self.finish(&Ack { id: entry.id, at_ms: NOW, state: AckState::Unknown });
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize, End),
    Forged(usize, usize),
    Restart,
    /// Bytes that no fsync ever covered, torn at any of them.
    Torn(usize, usize),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![3 => Just(End::Never), 1 => Just(End::Accepted), 1 => Just(End::Executed)];
    prop_oneof![
        6 => (0..12_usize, end).prop_map(|(which, end)| Step::Deliver(which, end)),
        2 => (0..12_usize, 0..200_usize).prop_map(|(which, at)| Step::Forged(which, at)),
        2 => Just(Step::Restart),
        1 => (0..12_usize, 0..200_usize).prop_map(|(which, cut)| Step::Torn(which, cut)),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_carried_out_twice_and_nothing_that_was_not_signed(steps in prop::collection::vec(step(), 1..40), case in any::<u64>()) {
        let directory = directory(&format!("random-{case}"));
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let trusted = TrustedKey { name: "k".to_owned(), public: key.public(), scopes: vec![Scope::Operate] };
        let trust = Trust::new(&FleetConfig { keys: vec![trusted], ..FleetConfig::default() });
        let me = Me { rig: "r".parse().unwrap(), groups: Vec::new(), site: None };
        let frames: Vec<(CommandId, Vec<u8>)> = (0..12_u8).map(|number| {
            let command = Command {
                audience: Audience::Rig("r".parse().unwrap()),
                id: CommandId([number; 16]),
                // Two of them have one counter: only one of these may ever be carried out.
                counter: u64::from(number.max(1)),
                not_before_ms: NOW,
                not_after_ms: NOW + 1_000,
                nonce: None,
                revision: None,
                order: if number % 2 == 0 { Order::Reboot } else { Order::Identify { seconds: 1 } },
            };
            let message = encode(Encoding::Postcard, Header::new(Kind::Command, 0, 0), &command);
            (command.id, key.frame(None, "r1/r/dn/cmd", &message))
        }).collect();
        let mut rig = Rig { journal: open(&directory).0, directory: directory.clone(), trust, me, executed: BTreeMap::new(), answers: BTreeMap::new() };
        for step in steps {
            match step {
                Step::Deliver(which, end) => {
                    rig.take(&frames[which].1, end);
                    if end != End::Never {
                        rig.restart();
                    }
                }
                Step::Forged(which, at) => {
                    let before = rig.executed.clone();
                    let mut frame = frames[which].1.clone();
                    let at = at % frame.len();
                    frame[at] ^= 0x40;
                    rig.take(&frame, End::Never);
                    prop_assert_eq!(&before, &rig.executed);
                }
                Step::Restart => rig.restart(),
                Step::Torn(which, cut) => {
                    // The power goes while the next record is written: no fsync has returned for it.
                    let record = framed::frame(&body(&Record::Accepted(Box::new(entry(500 + u64::try_from(which).unwrap(), Order::Reboot)))).unwrap());
                    let path = directory.join(FILE);
                    let mut bytes = fs::read(&path).unwrap();
                    bytes.extend(&record[..cut % record.len()]);
                    fs::write(&path, bytes).unwrap();
                    rig.restart();
                }
                Step::Compact => rig.journal.compact(NOW).unwrap(),
            }
        }
        prop_assert!(rig.executed.values().all(|times| *times == 1), "{:?}", rig.executed);
        let first_two = [&frames[0].0, &frames[1].0].into_iter().filter(|id| rig.executed.contains_key(id)).count();
        prop_assert!(first_two <= 1, "a counter was used twice");
        fs::remove_dir_all(&directory).unwrap();
    }
}
