//! The header in front of every message, and the two ways to write one down.
//!
//! ```text
//! byte    0     1     2      3      4..8        8..16      16..
//!       0xA1  kind  major  flags  boot u32 LE  seq u64 LE  postcard body
//! ```

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::{
    Ack, Birth, Command, Controller, Desired, Error, Event, LogLines, Message, Online, Receipt, Reported, Telemetry,
    Watermark,
};
use crate::compact;

/// No message is larger: what a subscriber has to be ready for, and what a decoder reads at most.
pub const MAX_MESSAGE: usize = 64 * 1024;
const MAGIC: u8 = 0xa1;
const LENGTH: usize = 16;
/// Flag of a message that waited while the broker or the control plane was away: it is older than what came before it.
pub const BACKFILL: u8 = 1 << 3;
/// The major version that this code writes, of every kind.
const MAJOR: u8 = 1;

/// What a body is. Numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// [`Online`].
    Online = 1,
    /// [`Birth`].
    Birth = 2,
    /// [`Telemetry`].
    Telemetry = 3,
    /// [`Event`].
    Event = 4,
    /// [`Watermark`].
    Watermark = 5,
    /// [`Controller`].
    Controller = 6,
    /// [`Ack`].
    Ack = 7,
    /// [`Reported`].
    Reported = 8,
    /// [`Command`], inside of a signed frame only.
    Command = 9,
    /// [`Desired`], inside of a signed frame only.
    Desired = 10,
    /// [`Receipt`].
    Receipt = 11,
    /// [`LogLines`].
    Log = 12,
}

impl Kind {
    /// Every kind that this code knows.
    pub const ALL: [Self; 12] = [
        Self::Online,
        Self::Birth,
        Self::Telemetry,
        Self::Event,
        Self::Watermark,
        Self::Controller,
        Self::Ack,
        Self::Reported,
        Self::Command,
        Self::Desired,
        Self::Receipt,
        Self::Log,
    ];

    /// A rig writes it, and nobody else.
    #[must_use]
    pub const fn is_a_rigs(self) -> bool {
        match self {
            Self::Online | Self::Birth | Self::Telemetry | Self::Event | Self::Ack | Self::Reported => true,
            Self::Receipt | Self::Log => true,
            Self::Watermark | Self::Controller | Self::Command | Self::Desired => false,
        }
    }

    /// Bytes of the fields that were appended since the first agent, in their shortest form.
    const fn appended(self) -> usize {
        match self {
            Self::Online | Self::Watermark | Self::Controller => 0,
            Self::Ack | Self::Reported | Self::Command | Self::Receipt | Self::Log => 0,
            Self::Desired => 1,
            Self::Event => 2,
            Self::Birth => 8,
            Self::Telemetry => 11,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte).ok_or(Error::UnknownKind(byte))
    }
}

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Small: a seventh of the JSON.
    #[default]
    Postcard,
    /// For those who prefer to look.
    Json,
}

impl Encoding {
    /// The MQTT 5 content type that tells a subscriber which it is.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Postcard => "application/vnd.rigd.v1+postcard",
            Self::Json => "application/json",
        }
    }

    /// How this message was written.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        if message.first() == Some(&b'{') { Self::Json } else { Self::Postcard }
    }
}

/// Whose message it is and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// Its major version.
    pub major: u8,
    /// [`BACKFILL`], or zero.
    pub flags: u8,
    /// Random per start of the agent.
    pub boot: u32,
    /// Counts the messages of this kind's lane since the start, from 1; a gap is a loss. 0 where the kind has no lane.
    pub seq: u64,
}

impl Header {
    /// A header of the version that this code writes.
    #[must_use]
    pub const fn new(kind: Kind, boot: u32, seq: u64) -> Self {
        Self { kind, major: MAJOR, flags: 0, boot, seq }
    }
}

#[derive(Serialize)]
struct JsonOut<'a, T> {
    kind: Kind,
    major: u8,
    flags: u8,
    boot: u32,
    seq: u64,
    body: &'a T,
}

/// All but the body, whose type is not known before.
#[derive(Deserialize)]
struct JsonHeader {
    kind: Kind,
    major: u8,
    #[serde(default)]
    flags: u8,
    boot: u32,
    seq: u64,
    #[serde(rename = "body")]
    _body: IgnoredAny,
}

#[derive(Deserialize)]
struct JsonBody<T> {
    body: T,
}

/// A message as bytes.
#[must_use]
pub fn encode<T: Serialize>(encoding: Encoding, header: Header, body: &T) -> Vec<u8> {
    let Header { kind, major, flags, boot, seq } = header;
    match encoding {
        Encoding::Postcard => {
            let mut bytes = Vec::with_capacity(512);
            bytes.extend([MAGIC, kind as u8, major, flags]);
            bytes.extend(boot.to_le_bytes());
            bytes.extend(seq.to_le_bytes());
            // Fails for a body of unknown length or a full buffer; ours have neither.
            compact::append(bytes, body).unwrap_or_default()
        }
        Encoding::Json => serde_json::to_vec(&JsonOut { kind, major, flags, boot, seq, body }).unwrap_or_default(),
    }
}

/// Sets [`BACKFILL`] in a message that [`encode`] made; any other stays as it is.
pub fn mark_backfill(message: &mut [u8]) {
    const JSON: &[u8] = br#""flags":"#;
    let flags = match message.first() {
        Some(&MAGIC) => message.get_mut(3),
        // The one key of this name that comes first is the header's: `JsonOut` is written in the order of its fields.
        Some(b'{') => {
            let key = message.windows(JSON.len()).position(|window| window == JSON);
            key.and_then(|key| message.get_mut(key + JSON.len())).filter(|digit| **digit == b'0')
        }
        _ => None,
    };
    if let Some(flags) = flags {
        // In JSON the digit 0 becomes the digit 8 by the same bit.
        *flags |= BACKFILL;
    }
}

/// A message of either encoding; the first byte tells them apart, so a lost content type does no harm.
///
/// # Errors
/// Says what is wrong with the bytes; they may come from anybody.
pub fn decode(bytes: &[u8]) -> Result<(Header, Message), Error> {
    let (header, body) = parse(bytes)?;
    let message = match header.kind {
        Kind::Online => Message::Online(body.decode::<Online>()?),
        Kind::Birth => Message::Birth(body.decode::<Birth>()?),
        Kind::Telemetry => Message::Telemetry(body.decode::<Telemetry>()?),
        Kind::Event => Message::Event(body.decode::<Event>()?),
        Kind::Ack => Message::Ack(body.decode::<Ack>()?),
        Kind::Reported => Message::Reported(body.decode::<Reported>()?),
        Kind::Receipt => Message::Receipt(body.decode::<Receipt>()?),
        Kind::Log => Message::Log(body.decode::<LogLines>()?),
        Kind::Watermark | Kind::Controller | Kind::Command | Kind::Desired => body.decode_to_a_rig()?,
    };
    Ok((header, message))
}

/// [`decode`] for the agent, which only ever reads what is written to a rig: the readers of all else are left out of it.
///
/// # Errors
/// Those of [`decode`], and [`Error::ARigs`].
pub fn decode_to_a_rig(bytes: &[u8]) -> Result<(Header, Message), Error> {
    let (header, body) = parse(bytes)?;
    Ok((header, body.decode_to_a_rig()?))
}

fn parse(bytes: &[u8]) -> Result<(Header, Body<'_>), Error> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Error::TooLarge(bytes.len()));
    }
    let (header, body) = match bytes.first() {
        Some(&MAGIC) => {
            let (envelope, body) = bytes.split_first_chunk::<LENGTH>().ok_or(Error::Truncated)?;
            let header = open(*envelope)?;
            (header, Body::Postcard(header.kind, body))
        }
        Some(b'{') => {
            let JsonHeader { kind, major, flags, boot, seq, _body } =
                serde_json::from_slice(bytes).map_err(|error| Error::Json(error.to_string()))?;
            (Header { kind, major, flags, boot, seq }, Body::Json(kind, bytes))
        }
        _ => return Err(Error::NotOurs),
    };
    let Header { kind, major, .. } = header;
    if major == MAJOR { Ok((header, body)) } else { Err(Error::UnknownMajor { kind, major }) }
}

fn open(envelope: [u8; LENGTH]) -> Result<Header, Error> {
    let [_, kind, major, flags, boot @ .., _, _, _, _, _, _, _, _] = envelope;
    let [_, _, _, _, _, _, _, _, seq @ ..] = envelope;
    let boot = u32::from_le_bytes(boot);
    Ok(Header { kind: Kind::from_byte(kind)?, major, flags, boot, seq: u64::from_le_bytes(seq) })
}

/// The shortest form of every appended field.
const APPENDED: [u8; 16] = [0; 16];

enum Body<'a> {
    Postcard(Kind, &'a [u8]),
    /// The whole message: it is read once more for its body, by the reader that the agent has for its own files.
    Json(Kind, &'a [u8]),
}

impl Body<'_> {
    fn decode_to_a_rig(self) -> Result<Message, Error> {
        let (Self::Postcard(kind, _) | Self::Json(kind, _)) = self;
        match kind {
            Kind::Watermark => Ok(Message::Watermark(self.decode::<Watermark>()?)),
            Kind::Controller => Ok(Message::Controller(self.decode::<Controller>()?)),
            Kind::Command => Ok(Message::Command(self.decode::<Command>()?)),
            Kind::Desired => Ok(Message::Desired(self.decode::<Desired>()?)),
            Kind::Online | Kind::Birth | Kind::Telemetry | Kind::Event | Kind::Ack => Err(Error::ARigs(kind)),
            Kind::Reported | Kind::Receipt | Kind::Log => Err(Error::ARigs(kind)),
        }
    }

    /// A longer tail is a later minor version's and is left alone. One that is short by no more than what was appended
    /// since the first version is an earlier one's: what it lacks is absent, which in every appended field is a zero.
    fn decode<T: DeserializeOwned>(self) -> Result<T, Error> {
        match self {
            Self::Postcard(kind, bytes) => {
                let padded: Vec<u8>;
                let result = match postcard::take_from_bytes(bytes) {
                    Err(postcard::Error::DeserializeUnexpectedEnd) => {
                        padded = [bytes, APPENDED.get(..kind.appended()).unwrap_or_default()].concat();
                        postcard::take_from_bytes(&padded)
                    }
                    done => done,
                };
                let text = |error: postcard::Error| Error::Body { kind, text: error.to_string() };
                result.map(|(body, _later)| body).map_err(text)
            }
            Self::Json(kind, bytes) => {
                let text = |error: serde_json::Error| Error::Body { kind, text: error.to_string() };
                serde_json::from_slice(bytes).map(|JsonBody { body }| body).map_err(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Reason;

    const ONLINE: Online = Online { online: true, connection: 3, reason: Reason::Connected };

    #[test]
    fn a_message_that_waited_says_so_in_both_encodings() {
        let header = Header::new(Kind::Online, 0xdead_beef, 7);
        for encoding in [Encoding::Postcard, Encoding::Json] {
            let mut bytes = encode(encoding, header, &ONLINE);
            mark_backfill(&mut bytes);
            mark_backfill(&mut bytes);
            let marked = Header { flags: BACKFILL, ..header };
            assert_eq!(decode(&bytes), Ok((marked, Message::Online(ONLINE))), "{encoding:?}");
        }
        let mut other = *b"nothing of ours";
        mark_backfill(&mut other);
        assert_eq!(&other, b"nothing of ours");
    }

    #[test]
    fn both_encodings_come_back_the_same() {
        let header = Header::new(Kind::Online, 0xdead_beef, 0);
        for encoding in [Encoding::Postcard, Encoding::Json] {
            let bytes = encode(encoding, header, &ONLINE);
            assert_eq!(decode(&bytes), Ok((header, Message::Online(ONLINE))), "{encoding:?}");
        }
    }

    #[test]
    fn the_agent_reads_nothing_that_a_rig_writes() {
        for kind in Kind::ALL {
            // No body at all: it is the kind that is refused, before that.
            let bytes = encode(Encoding::Postcard, Header::new(kind, 1, 0), &());
            let refused = decode_to_a_rig(&bytes) == Err(Error::ARigs(kind));
            assert_eq!(refused, kind.is_a_rigs(), "{kind:?}");
        }
        let header = Header::new(Kind::Controller, 1, 0);
        let body = Controller { online: true, instance: 7 };
        for encoding in [Encoding::Postcard, Encoding::Json] {
            let bytes = encode(encoding, header, &body);
            assert_eq!(decode_to_a_rig(&bytes), Ok((header, Message::Controller(body))), "{encoding:?}");
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_by_name() {
        let good = encode(Encoding::Postcard, Header::new(Kind::Online, 1, 0), &ONLINE);
        let with = |index: usize, byte: u8| {
            let mut bytes = good.clone();
            if let Some(place) = bytes.get_mut(index) {
                *place = byte;
            }
            decode(&bytes)
        };
        assert_eq!(decode(&[]), Err(Error::NotOurs));
        assert_eq!(with(0, 0x7f), Err(Error::NotOurs));
        assert_eq!(with(1, 99), Err(Error::UnknownKind(99)));
        assert_eq!(with(2, 2), Err(Error::UnknownMajor { kind: Kind::Online, major: 2 }));
        assert_eq!(decode(good.get(..9).unwrap_or_default()), Err(Error::Truncated));
        assert!(matches!(decode(good.get(..16).unwrap_or_default()), Err(Error::Body { kind: Kind::Online, .. })));
        assert_eq!(decode(&vec![MAGIC; MAX_MESSAGE + 1]), Err(Error::TooLarge(MAX_MESSAGE + 1)));
        assert!(matches!(decode(b"{\"kind\":\"online\"}"), Err(Error::Json(_))));
    }

    #[test]
    fn a_longer_tail_is_a_later_version_and_is_accepted() {
        let header = Header::new(Kind::Online, 1, 0);
        let mut bytes = encode(Encoding::Postcard, header, &ONLINE);
        bytes.extend([1, 2, 3]);
        assert_eq!(decode(&bytes), Ok((header, Message::Online(ONLINE))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(kind in 0..13u8, body in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = vec![MAGIC, kind, MAJOR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(&body);
            let _ = decode(&bytes);
            let _ = decode(&body);
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text in "\\{\"kind\":\"(telemetry|birth|event|online|command|desired|ack|reported|receipt)\",\"major\":1,\"boot\":1,\"seq\":1,\"body\":.{0,60}\\}") {
            let _ = decode(text.as_bytes());
        }
    }
}
