//! What a message that came from the broker is: pure.

use crate::wire::{Header, Kind, MARKS, RigId, Topic, decode};

/// A message as the broker handed it over.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Its topic.
    pub topic: &'a [u8],
    /// Its bytes.
    pub payload: &'a [u8],
    /// Value of the user property [`crate::wire::GAP`].
    pub gap: Option<&'a str>,
    /// Value of the user property [`crate::wire::EARLY`].
    pub early: Option<&'a str>,
    /// Value of the user property [`crate::wire::ENDED`].
    pub ended: Option<&'a str>,
}

/// Numbers that do not exist at the rig any more, from first to last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) why: &'static str,
}

/// The rig had to drop them.
pub(super) const DROPPED: &str = "dropped";
/// The rig had delivered them before there was a collector, or to another one.
pub(super) const EARLIER: &str = "earlier";
/// A start that was killed took them with it.
pub(super) const LOST: &str = "lost";

/// What is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// One of a lane's numbers; before it, these ranges do not exist at the rig any more, and of these starts nothing does that is not
    /// stored.
    Numbered { rig: RigId, header: Header, gone: Vec<Gone>, ended: Vec<u32> },
    /// Retained state, without a number.
    State { rig: RigId, header: Header },
    /// Said to whoever listened at the time, and kept by nobody.
    Passing,
    /// Nothing that a rig may say, for this reason.
    Rejected(String),
}

/// Sorts it. A lane is whatever has numbers, so that a later kind needs no word here.
pub(super) fn sort(incoming: Incoming<'_>) -> Entry {
    let Some(topic) = std::str::from_utf8(incoming.topic).ok().and_then(Topic::parse) else {
        return Entry::Rejected("no topic of a rig".to_owned());
    };
    let header = match decode(incoming.payload) {
        Ok((header, _)) => header,
        Err(error) => return Entry::Rejected(error.to_string()),
    };
    if header.kind != topic.kind {
        return Entry::Rejected(format!("a {:?} on the topic of a {:?}", header.kind, topic.kind));
    }
    if header.kind == Kind::Log {
        return Entry::Passing;
    }
    if header.seq == 0 {
        return Entry::State { rig: topic.rig, header };
    }
    if i64::try_from(header.seq).is_err() {
        return Entry::Rejected(format!("the number {} is out of range", header.seq));
    }
    // A declaration that nobody understands must not look like one that was never made.
    let Some(mut ended) = ended(incoming.ended.unwrap_or_default()) else {
        return Entry::Rejected(format!("its ended starts are no numbers: {:?}", incoming.ended));
    };
    ended.retain(|boot| *boot != header.boot);
    let Some(gap) = incoming.gap else {
        return Entry::Numbered { rig: topic.rig, header, gone: Vec::new(), ended };
    };
    let Ok(length) = gap.parse::<u64>() else {
        return Entry::Rejected(format!("its gap is no number: {gap:?}"));
    };
    let last = header.seq - 1;
    let first = header.seq.saturating_sub(length).max(1);
    let Ok(early) = incoming.early.unwrap_or("0").parse::<u64>() else {
        return Entry::Rejected(format!("its early part of a gap is no number: {:?}", incoming.early));
    };
    let middle = first.saturating_add(early).min(header.seq);
    let parts = [(first, middle - 1, EARLIER), (middle, last, DROPPED)];
    let parts = parts.into_iter().filter(|(first, last, _)| first <= last);
    let gone = parts.map(|(first, last, why)| Gone { first, last, why }).collect();
    Entry::Numbered { rig: topic.rig, header, gone, ended }
}

/// Boots with commas between them, of which a rig names no more than it is told marks; none where there is anything else in it.
fn ended(text: &str) -> Option<Vec<u32>> {
    text.split_terminator(',').take(MARKS).map(|boot| boot.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Encoding, Online, Reason, encode};

    #[test]
    fn each_message_is_one_thing() {
        let body = Online { online: true, connection: 1, reason: Reason::Connected };
        let online = |seq| encode(Encoding::Postcard, Header::new(Kind::Online, 9, seq), &body);
        let rig: RigId = "rig-1".parse().unwrap();
        let gone = |why, range: Option<(u64, u64)>| range.map(|(first, last)| Gone { first, last, why });
        let closing = |seq, gone, ended| Entry::Numbered {
            rig: rig.clone(),
            header: Header::new(Kind::Online, 9, seq),
            gone,
            ended,
        };
        let parts = |seq, gone| closing(seq, gone, Vec::new());
        let numbered = |seq, dropped| parts(seq, gone(DROPPED, dropped).into_iter().collect());
        let log = crate::wire::LogLines { payload: "llm".to_owned(), text: "hello".to_owned(), from: 0, skipped: 0 };
        let log = encode(Encoding::Postcard, Header::new(Kind::Log, 9, 0), &log);
        let rejected = |text: &str| Entry::Rejected(text.to_owned());
        let topic = "r1/rig-1/up/online";
        let rows = [
            (
                "state",
                topic,
                online(0),
                None,
                Entry::State { rig: rig.clone(), header: Header::new(Kind::Online, 9, 0) },
            ),
            ("a number", topic, online(7), None, numbered(7, None)),
            ("after a gap", topic, online(7), Some("2"), numbered(7, Some((5, 6)))),
            ("after all that there was", topic, online(7), Some("6"), numbered(7, Some((1, 6)))),
            ("after more than there was", topic, online(7), Some("900"), numbered(7, Some((1, 6)))),
            ("after a gap of none", topic, online(7), Some("0"), numbered(7, None)),
            ("nothing can be before the first", topic, online(1), Some("3"), numbered(1, None)),
            ("a gap in words", topic, online(7), Some("two"), rejected("its gap is no number: \"two\"")),
            ("another's topic", "r1/rig-1/up/tele", online(7), None, rejected("a Online on the topic of a Telemetry")),
            ("no topic of ours", "r1/rig-1/up/x/y", online(7), None, rejected("no topic of a rig")),
            (
                "no number of SQLite's",
                topic,
                online(u64::MAX),
                None,
                rejected("the number 18446744073709551615 is out of range"),
            ),
            ("no bytes of ours", topic, b"hello".to_vec(), None, rejected(&crate::wire::Error::NotOurs.to_string())),
        ];
        for (name, topic, payload, gap, expected) in rows {
            let incoming = Incoming { topic: topic.as_bytes(), payload: &payload, gap, early: None, ended: None };
            assert_eq!(sort(incoming), expected, "{name}");
        }
        for (early, expected) in [
            ("0", numbered(9, Some((2, 8)))),
            ("3", parts(9, gone(EARLIER, Some((2, 4))).into_iter().chain(gone(DROPPED, Some((5, 8)))).collect())),
            ("7", parts(9, gone(EARLIER, Some((2, 8))).into_iter().collect())),
            ("18446744073709551615", parts(9, gone(EARLIER, Some((2, 8))).into_iter().collect())),
            ("some", rejected("its early part of a gap is no number: Some(\"some\")")),
        ] {
            let payload = online(9);
            let (gap, early) = (Some("7"), Some(early));
            let incoming = Incoming { topic: topic.as_bytes(), payload: &payload, gap, early, ended: None };
            assert_eq!(sort(incoming), expected, "{early:?} early");
        }
        for (ended, expected) in [
            ("", numbered(9, None)),
            ("4294967295", closing(9, Vec::new(), vec![u32::MAX])),
            ("7,9,8", closing(9, Vec::new(), vec![7, 8])),
            ("4294967296", rejected("its ended starts are no numbers: Some(\"4294967296\")")),
            ("7;8", rejected("its ended starts are no numbers: Some(\"7;8\")")),
        ] {
            let (payload, ended) = (online(9), Some(ended));
            let incoming = Incoming { topic: topic.as_bytes(), payload: &payload, gap: None, early: None, ended };
            assert_eq!(sort(incoming), expected, "{ended:?} have ended");
        }
        let incoming = Incoming { topic: b"r1/rig-1/up/log", payload: &log, gap: None, early: None, ended: None };
        assert_eq!(sort(incoming), Entry::Passing);
    }
}
