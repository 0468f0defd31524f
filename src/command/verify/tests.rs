mod hostile;

use std::collections::BTreeMap;

use super::super::replay::Used;
use super::super::trust::FleetConfig;
use super::*;
use crate::wire::{Encoding, Header, Order, Scope, SigningKey, encode};

const TOPIC: &str = "r1/rig-7/dn/cmd";
const NOW: u64 = 1_800_000_000_000;
const DAY: u64 = 24 * 3_600 * 1_000;
const NONCE: u64 = 77;

/// What was seen before.
#[derive(Default)]
struct Memory {
    digests: BTreeMap<CommandId, Digest>,
    used: BTreeMap<KeyId, Used>,
    lost: bool,
}

impl Seen for Memory {
    fn digest(&self, id: &CommandId) -> Option<Digest> {
        self.digests.get(id).copied()
    }

    fn fresh(&self, key: &KeyId, counter: u64) -> bool {
        self.used.get(key).is_none_or(|used| used.fresh(counter))
    }

    fn lost(&self, not_before_ms: u64) -> bool {
        self.lost && not_before_ms < NOW
    }
}

impl Memory {
    fn take(&mut self, verified: &Verified) {
        self.digests.insert(verified.command.id, verified.digest);
        for key in &verified.keys {
            self.used.entry(*key).or_default().take(verified.command.counter);
        }
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

/// 1 does the day's work, 2 and 3 may change keys, 4 looks on, 5 was revoked; 9 is nobody's.
fn trust() -> Trust {
    let of = |seed, scopes: &[Scope]| crate::wire::TrustedKey {
        name: format!("key-{seed}"),
        public: key(seed).public(),
        scopes: scopes.to_vec(),
    };
    let keys = vec![
        of(1, &[Scope::Operate, Scope::Tune, Scope::Payload]),
        of(2, &[Scope::Update, Scope::Operate]),
        of(3, &[Scope::Update]),
        of(4, &[Scope::Observe]),
        of(5, &[Scope::Operate]),
    ];
    let trust = Trust::new(&FleetConfig { keys, ..FleetConfig::default() });
    trust.rotated(None, Some(key(5).id())).unwrap()
}

fn me() -> Me {
    Me { rig: "rig-7".parse().unwrap(), groups: vec!["a".parse().unwrap()], site: Some("hall-2".parse().unwrap()) }
}

const fn now() -> Now {
    Now { unix_ms: Some(NOW), nonce: NONCE, revision: 5 }
}

fn reboot() -> Command {
    Command {
        audience: Audience::Rig("rig-7".parse().unwrap()),
        id: CommandId([1; 16]),
        counter: 1,
        not_before_ms: NOW - 1_000,
        not_after_ms: NOW + 30_000,
        nonce: None,
        revision: None,
        order: Order::Reboot,
    }
}

fn rotate() -> Command {
    Command { order: Order::RotateKey { add: None, revoke: Some(key(4).id()) }, ..reboot() }
}

fn bytes(command: &Command) -> Vec<u8> {
    encode(Encoding::Postcard, Header::new(Kind::Command, 0, 0), command)
}

fn frame(signer: u8, command: &Command) -> Vec<u8> {
    key(signer).frame(None, TOPIC, &bytes(command))
}

fn verify(frame: &[u8], seen: &Memory) -> Result<Verdict, Refused> {
    command(&Received { topic: TOPIC, frame, retained: false }, &trust(), &me(), &now(), seen)
}

fn refusal(frame: &[u8]) -> Option<Refusal> {
    verify(frame, &Memory::default()).err().map(|refused| refused.refusal)
}

#[test]
fn what_comes_by_the_sites_topic_is_the_sites_word() {
    let nowhere = Me { site: None, ..me() };
    for (me, audience, expected) in [
        (me(), Audience::Rig("rig-7".parse().unwrap()), Source::Command),
        (me(), Audience::Group("a".parse().unwrap()), Source::Command),
        (me(), Audience::Site("hall-2".parse().unwrap()), Source::Site),
        // A journal from before the rig was moved.
        (nowhere, Audience::Site("hall-2".parse().unwrap()), Source::Command),
    ] {
        assert_eq!(me.speaker(&audience.topic(Kind::Command).unwrap()), expected, "{audience:?}");
    }
    assert_eq!(me().speaker(""), Source::Command);
}

#[test]
fn a_good_command_is_taken_in_either_encoding() {
    for encoding in [Encoding::Postcard, Encoding::Json] {
        let message = encode(encoding, Header::new(Kind::Command, 0, 0), &reboot());
        let frame = key(1).frame(None, TOPIC, &message);
        let Ok(Verdict::New(verified)) = verify(&frame, &Memory::default()) else { panic!("{encoding:?}") };
        assert_eq!((verified.command, verified.keys), (reboot(), vec![key(1).id()]));
    }
}

#[test]
fn what_is_not_right_is_refused_by_name() {
    let good = reboot();
    let edit = |change: &dyn Fn(&mut Command)| {
        let mut command = good.clone();
        change(&mut command);
        command
    };
    let long = "x".repeat(65);
    let rig = |name: &str| Audience::Rig(name.parse().unwrap());
    let group = Audience::Group("a".parse().unwrap());
    let rows: Vec<(&str, Vec<u8>, Option<Refusal>)> = vec![
        ("good", frame(1, &good), None),
        ("another rig", frame(1, &edit(&|c| c.audience = rig("rig-8"))), Some(Refusal::WrongAudience)),
        (
            "a group's, by the rig's topic",
            frame(1, &edit(&|c| c.audience = group.clone())),
            Some(Refusal::WrongAudience),
        ),
        ("signed for another topic", key(1).frame(None, "r1/rig-8/dn/cmd", &bytes(&good)), Some(Refusal::BadSignature)),
        ("unknown key", frame(9, &good), Some(Refusal::UnknownKey)),
        ("revoked key", frame(5, &good), Some(Refusal::RevokedKey)),
        ("too small a scope", frame(4, &good), Some(Refusal::Scope(Scope::Operate))),
        (
            "over",
            frame(1, &edit(&|c| c.not_after_ms = NOW - SKEW_MS - 1)),
            Some(Refusal::Malformed("it ends before it begins".to_owned())),
        ),
        (
            "over for long",
            frame(1, &edit(&|c| (c.not_before_ms, c.not_after_ms) = (NOW - 60_000, NOW - SKEW_MS - 1))),
            Some(Refusal::Expired),
        ),
        (
            "over, but for clocks",
            frame(1, &edit(&|c| (c.not_before_ms, c.not_after_ms) = (NOW - 60_000, NOW - SKEW_MS))),
            None,
        ),
        (
            "too early",
            frame(1, &edit(&|c| c.not_before_ms = NOW + SKEW_MS + 1)),
            Some(Refusal::Malformed("it ends before it begins".to_owned())),
        ),
        (
            "much too early",
            frame(1, &edit(&|c| (c.not_before_ms, c.not_after_ms) = (NOW + SKEW_MS + 1, NOW + 60_000))),
            Some(Refusal::NotYet),
        ),
        (
            "valid for too long",
            frame(1, &edit(&|c| c.not_after_ms = NOW - 1_000 + LIFETIME_MS + 1)),
            Some(Refusal::NotYet),
        ),
        ("its nonce", frame(1, &edit(&|c| c.nonce = Some(NONCE))), None),
        ("another nonce", frame(1, &edit(&|c| c.nonce = Some(NONCE + 1))), Some(Refusal::Replayed)),
        ("the revision", frame(1, &edit(&|c| c.revision = Some(5))), None),
        (
            "another revision",
            frame(1, &edit(&|c| c.revision = Some(4))),
            Some(Refusal::Policy("the rig is at revision 5, not 4".to_owned())),
        ),
        (
            "a long name",
            frame(1, &edit(&|c| c.order = Order::Logs { payload: long.clone(), lines: 1 })),
            Some(Refusal::Malformed("a name that is too long".to_owned())),
        ),
        ("two keys for one", key(1).frame(Some(&key(4)), TOPIC, &bytes(&good)), None),
        ("two keys, one unknown", key(1).frame(Some(&key(9)), TOPIC, &bytes(&good)), Some(Refusal::UnknownKey)),
        ("two keys for two", key(2).frame(Some(&key(3)), TOPIC, &bytes(&rotate())), None),
        ("one key for two", frame(2, &rotate()), Some(Refusal::SecondKey)),
        ("one key twice for two", key(2).frame(Some(&key(2)), TOPIC, &bytes(&rotate())), Some(Refusal::SecondKey)),
        (
            "a second key that may not",
            key(2).frame(Some(&key(1)), TOPIC, &bytes(&rotate())),
            Some(Refusal::Scope(Scope::Update)),
        ),
        (
            "no command",
            key(1).frame(
                None,
                TOPIC,
                &encode(Encoding::Postcard, Header::new(Kind::Watermark, 0, 0), &crate::wire::Watermark::default()),
            ),
            Some(Refusal::Malformed("not a command".to_owned())),
        ),
    ];
    for (what, frame, expected) in rows {
        assert_eq!(refusal(&frame), expected, "{what}");
    }
}

#[test]
fn bytes_that_are_no_frame_are_refused_before_anything() {
    let good = frame(1, &reboot());
    for end in 0..good.len() {
        let refused = verify(&good[..end], &Memory::default()).unwrap_err();
        assert_eq!((refused.id, refused.keys.len()), (None, 0), "cut at {end}");
        assert!(matches!(refused.refusal, Refusal::Malformed(_) | Refusal::BadSignature), "cut at {end}");
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert!(refusal(&bytes).is_some(), "byte {at}");
    }
    let mut version = good.clone();
    version[1] = 2;
    for (bytes, expected) in [
        (vec![0x55; 300], "not a signed command: it does not start with the magic byte 0xa2"),
        (vec![0xa2; LARGEST_FRAME + 1], "not a signed command: 65537 bytes are over the limit of 65536"),
        (version, "not a signed command: unknown version 2"),
        (bytes(&reboot()), "not a signed command: it does not start with the magic byte 0xa2"),
        (key(1).frame(None, TOPIC, b"garbage"), "not a signed command: this is no message of a rig"),
    ] {
        assert!(refusal(&bytes).unwrap().to_string().starts_with(expected), "{:?}", refusal(&bytes));
    }
}

#[test]
fn a_retained_message_is_no_command() {
    let frame = frame(1, &reboot());
    let received = Received { topic: TOPIC, frame: &frame, retained: true };
    let refused = command(&received, &trust(), &me(), &now(), &Memory::default()).unwrap_err();
    assert_eq!(refused.refusal, Refusal::Retained);
}

#[test]
fn groups_and_sites_are_reached_by_their_topic_alone() {
    for (audience, topic, taken) in [
        (Audience::Group("a".parse().unwrap()), "r1/g/a/dn/cmd", true),
        (Audience::Site("hall-2".parse().unwrap()), "r1/g/hall-2/dn/cmd", true),
        (Audience::Group("b".parse().unwrap()), "r1/g/b/dn/cmd", false),
        (Audience::Group("hall-2".parse().unwrap()), "r1/g/hall-2/dn/cmd", false),
        (Audience::Site("a".parse().unwrap()), "r1/g/a/dn/cmd", false),
        (Audience::Group("a".parse().unwrap()), "r1/g/hall-2/dn/cmd", false),
    ] {
        let frame = key(1).frame(None, topic, &bytes(&Command { audience: audience.clone(), ..reboot() }));
        let received = Received { topic, frame: &frame, retained: false };
        let result = command(&received, &trust(), &me(), &now(), &Memory::default());
        let expected = if taken { None } else { Some(Refusal::WrongAudience) };
        assert_eq!(result.err().map(|refused| refused.refusal), expected, "{audience:?} by {topic}");
    }
}

#[test]
fn what_was_seen_is_told_again_and_what_is_out_of_order_is_taken_once() {
    let mut seen = Memory::default();
    let counted = |counter: u64| {
        let id = CommandId([u8::try_from(counter).unwrap(); 16]);
        frame(1, &Command { id, counter, ..reboot() })
    };
    for counter in [1, 5, 3, 4, 2] {
        let Ok(Verdict::New(verified)) = verify(&counted(counter), &seen) else { panic!("{counter}") };
        seen.take(&verified);
        assert_eq!(verify(&counted(counter), &seen), Ok(Verdict::Again(verified.command.id)));
    }
    // The same name for something else, and a used number under a new name.
    let other = frame(1, &Command { id: CommandId([1; 16]), counter: 99, ..reboot() });
    let renamed = frame(1, &Command { id: CommandId([9; 16]), counter: 3, ..reboot() });
    for bytes in [other, renamed] {
        assert_eq!(verify(&bytes, &seen).unwrap_err().refusal, Refusal::Replayed);
    }
    // Another key has numbers of its own.
    let of_two = frame(2, &Command { id: CommandId([8; 16]), counter: 3, ..reboot() });
    assert!(matches!(verify(&of_two, &seen), Ok(Verdict::New(_))));
}

#[test]
fn without_a_clock_only_the_births_nonce_counts() {
    let judge = |unix_ms, lost, change: &dyn Fn(&mut Command)| {
        let mut order = reboot();
        change(&mut order);
        let frame = frame(1, &order);
        let received = Received { topic: TOPIC, frame: &frame, retained: false };
        let seen = Memory { lost, ..Memory::default() };
        command(&received, &trust(), &me(), &Now { unix_ms, ..now() }, &seen).err().map(|refused| refused.refusal)
    };
    let with_nonce = |c: &mut Command| c.nonce = Some(NONCE);
    assert_eq!(judge(None, false, &|_| {}), Some(Refusal::ClockUnset));
    assert_eq!(judge(None, false, &with_nonce), None);
    assert_eq!(judge(None, false, &|c| c.nonce = Some(0)), Some(Refusal::Replayed));
    // A clock that is believed and wrong by a day refuses, with the nonce too.
    for (wrong, refusal) in [(NOW + DAY, Refusal::Expired), (NOW - DAY, Refusal::NotYet)] {
        assert_eq!(judge(Some(wrong), false, &|_| {}), Some(refusal.clone()));
        assert_eq!(judge(Some(wrong), false, &with_nonce), Some(refusal));
    }
    // Counters that were lost.
    assert!(matches!(judge(Some(NOW), true, &|_| {}), Some(Refusal::Policy(_))));
    assert_eq!(judge(Some(NOW), true, &with_nonce), None);
    // What was signed after the loss was never carried out.
    assert_eq!(judge(Some(NOW), true, &|c| c.not_before_ms = NOW), None);
}

/// Whoever has the broker can take a frame of two signatures apart, and put them into another order.
#[test]
fn a_command_of_two_keys_uses_up_the_counter_of_both() {
    let (first, second) = (key(2), key(3));
    let of = |id, order| bytes(&Command { id: CommandId([id; 16]), order, ..rotate() });
    let message = of(1, rotate().order);
    let mut seen = Memory::default();
    let Ok(Verdict::New(verified)) = verify(&first.frame(Some(&second), TOPIC, &message), &seen) else { panic!() };
    seen.take(&verified);
    // Its name was forgotten, as an old one is; the counters were not.
    seen.digests.clear();
    let swapped = second.frame(Some(&first), TOPIC, &message);
    assert_eq!(verify(&swapped, &seen).unwrap_err().refusal, Refusal::Replayed);
    // And neither key alone, nor with another one, has it for something else.
    let other = of(2, Order::Reboot);
    for frame in [second.frame(None, TOPIC, &other), key(1).frame(Some(&second), TOPIC, &other)] {
        assert_eq!(verify(&frame, &seen).unwrap_err().refusal, Refusal::Replayed);
    }
    let alone = key(1).frame(None, TOPIC, &other);
    assert!(matches!(verify(&alone, &seen), Ok(Verdict::New(_))));
}

#[test]
fn what_is_too_many_is_named_where_a_key_of_ours_signed_it_and_it_is_new() {
    let excess = |frame: &[u8], retained, seen: &Memory| {
        in_excess(&Received { topic: TOPIC, frame, retained }, &trust(), seen).map(|(id, _)| id)
    };
    let mut seen = Memory::default();
    let good = frame(1, &reboot());
    assert_eq!(excess(&good, false, &seen), Some(reboot().id));
    assert_eq!(excess(&good, true, &seen), None);
    for signer in [5, 9] {
        assert_eq!(excess(&frame(signer, &reboot()), false, &seen), None, "key {signer}");
    }
    assert_eq!(excess(&good[..good.len() - 1], false, &seen), None);
    let Ok(Verdict::New(verified)) = verify(&good, &seen) else { panic!() };
    seen.take(&verified);
    assert_eq!(excess(&good, false, &seen), None, "it was answered");
    seen.digests.clear();
    assert_eq!(excess(&good, false, &seen), None, "it was used up");
}

#[test]
fn a_refusal_says_no_more_than_what_was_signed() {
    let refused = verify(&frame(4, &reboot()), &Memory::default()).unwrap_err();
    assert_eq!((refused.id, refused.keys), (Some(CommandId([1; 16])), vec![key(4).id()]));
    let refused = verify(&frame(9, &reboot()), &Memory::default()).unwrap_err();
    assert_eq!((refused.id, refused.keys), (None, vec![]));
}

#[test]
fn a_desired_state_is_a_desired_state_on_its_own_topic() {
    const DES: &str = "r1/rig-7/dn/des";
    let state = Desired {
        audience: Audience::Rig("rig-7".parse().unwrap()),
        revision: 1,
        issued_ms: NOW - DAY,
        not_after_ms: Some(NOW - SKEW_MS - 1),
        payloads: Vec::new(),
        profiles: Vec::new(),
        power_cap: None,
        fan_targets: Vec::new(),
        maintenance: false,
        standing: Vec::new(),
        market: None,
    };
    let judge = |signer: u8, topic: &str, state: &Desired, unix_ms, fresh| {
        let message = encode(Encoding::Postcard, Header::new(Kind::Desired, 0, 0), state);
        let frame = key(signer).frame(None, topic, &message);
        let received = Received { topic, frame: &frame, retained: true };
        desired(&received, &trust(), &me(), unix_ms, fresh).map(|(state, _)| state).map_err(|refused| refused.refusal)
    };
    let open = Desired { not_after_ms: None, ..state.clone() };
    assert_eq!(judge(1, DES, &open, Some(NOW), true), Ok(open.clone()));
    assert_eq!(judge(1, DES, &state, Some(NOW), true), Err(Refusal::Expired));
    // From the rig's own disk, or without a clock: its revision protects it.
    assert_eq!(judge(1, DES, &state, Some(NOW), false), Ok(state.clone()));
    assert_eq!(judge(1, DES, &state, None, true), Ok(state));
    assert_eq!(judge(1, TOPIC, &open, Some(NOW), true), Err(Refusal::WrongAudience));
    assert_eq!(judge(2, DES, &open, Some(NOW), true), Err(Refusal::Scope(Scope::Tune)));
    let early = Desired { issued_ms: NOW + DAY, ..open };
    assert_eq!(judge(1, DES, &early, Some(NOW), true), Err(Refusal::NotYet));
    let command = frame(1, &reboot());
    let received = Received { topic: TOPIC, frame: &command, retained: true };
    let refused = desired(&received, &trust(), &me(), Some(NOW), true).unwrap_err();
    assert_eq!(refused.refusal, Refusal::Malformed("not a desired state".to_owned()));
}
