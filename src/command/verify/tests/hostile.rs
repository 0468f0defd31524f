//! Ten thousand frames from somebody who has the broker, and every good frame that was ever sent, but no key.

use super::*;

/// Frames in all.
const FRAMES: u64 = 10_000;
/// Good commands that went before, by counter.
const TAKEN: std::ops::Range<u64> = 1_000..1_100;

fn id(number: u64) -> CommandId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    CommandId(id)
}

fn numbered(number: u64) -> Command {
    Command { id: id(number), counter: number, ..reboot() }
}

/// A number that depends on another in no simple way (splitmix64).
fn mixed(number: u64) -> usize {
    let mut it = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    usize::try_from((it ^ (it >> 27)) >> 16).unwrap()
}

#[test]
fn of_ten_thousand_hostile_frames_none_is_taken() {
    let mut seen = Memory::default();
    let mut sent = Vec::new();
    for number in TAKEN {
        let frame = frame(1, &numbered(number));
        let Ok(Verdict::New(verified)) = verify(&frame, &seen) else { panic!("{number} is good") };
        seen.take(&verified);
        sent.push(frame);
    }
    let (trust, me, now) = (trust(), me(), now());
    let mut refusals: BTreeMap<String, u32> = BTreeMap::new();
    let mut again = 0;
    for turn in 0..FRAMES {
        let fresh = numbered(10_000 + turn);
        let random = mixed(turn);
        let (mut bytes, mut retained) = (frame(1, &fresh), false);
        match turn % 12 {
            // Forged: one bit of a good frame, anywhere.
            0 => {
                let bit = random % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            1 => bytes = frame(if turn % 24 == 1 { 9 } else { 5 }, &fresh),
            // For another rig, or by another topic.
            2 => {
                let audience = Audience::Rig("rig-8".parse().unwrap());
                bytes = frame(1, &Command { audience, ..fresh });
            }
            3 => bytes = key(1).frame(None, "r1/rig-8/dn/cmd", &super::bytes(&fresh)),
            // Yesterday's, tomorrow's, and one for ever.
            4 => bytes = frame(1, &Command { not_before_ms: NOW - DAY, not_after_ms: NOW - DAY + 30_000, ..fresh }),
            5 => bytes = frame(1, &Command { not_before_ms: NOW + DAY, not_after_ms: NOW + DAY + 30_000, ..fresh }),
            6 => bytes = frame(1, &Command { not_after_ms: NOW + LIFETIME_MS, ..fresh }),
            // Again, byte by byte.
            7 => bytes.clone_from(&sent[random % sent.len()]),
            // Used counters, and older ones that come late, under new names.
            8 => {
                let counter = u64::try_from(random).unwrap() % TAKEN.end;
                bytes = frame(1, &Command { counter, ..fresh });
            }
            // A key that may not, or may not alone.
            9 => {
                bytes = if turn % 24 == 9 {
                    frame(4, &fresh)
                } else {
                    frame(2, &Command { order: rotate().order, ..fresh })
                }
            }
            // Kept by the broker.
            10 => retained = true,
            // An earlier start's, or cut off.
            _ if turn % 24 == 11 => bytes = frame(1, &Command { nonce: Some(NONCE ^ 1), ..fresh }),
            _ => bytes.truncate(random % bytes.len()),
        }
        let received = Received { topic: TOPIC, frame: &bytes, retained };
        match command(&received, &trust, &me, &now, &seen) {
            Ok(Verdict::New(verified)) => panic!("{turn} was taken: {verified:?}"),
            Ok(Verdict::Again(known)) => {
                assert!(turn % 12 == 7 && TAKEN.map(id).any(|id| id == known), "{turn}");
                again += 1;
            }
            Err(refused) => {
                let name = format!("{:?}", refused.refusal);
                let name = name.split(['(', ' ']).next().unwrap_or_default().to_owned();
                *refusals.entry(name).or_default() += 1;
            }
        }
    }
    assert_eq!(again, FRAMES / 12, "what comes again is known by its bytes: {refusals:?}");
    for expected in [
        "BadSignature",
        "UnknownKey",
        "RevokedKey",
        "WrongAudience",
        "Expired",
        "NotYet",
        "Replayed",
        "Scope",
        "SecondKey",
        "Retained",
        "Malformed",
    ] {
        assert!(refusals.get(expected).is_some_and(|count| *count > 100), "{expected}: {refusals:?}");
    }
}
