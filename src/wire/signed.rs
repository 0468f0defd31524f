//! A message with signatures in front: the only form in which a rig takes orders.
//!
//! ```text
//! byte    0       1        2       3..                                     3 + 72 × count..
//!       0xA2  version 1  count  (key id 8, signature 64) for each, 1 or 2  message
//! ```
//!
//! The message is one like any other, envelope and body or JSON. A signature is Ed25519 (RFC 8032) over bytes that are never
//! rebuilt from something decoded:
//!
//! ```text
//! "rigd-signed-v1\0"  length of the topic, u16 LE  topic  key id 8  message
//! ```
//!
//! The topic is signed too, so that what was meant for one rig is nothing to another; the key id, so that a signature is
//! one key's alone. Of two, the lower key id comes first: nobody on the way can put them in another order. Signatures are
//! checked before the message is decoded.

use ring::{digest, signature};

use super::MAX_MESSAGE;
use super::command::{KeyId, PublicKey};

/// No frame is larger, signatures and all.
pub const LARGEST_FRAME: usize = MAX_MESSAGE;
const MAGIC: u8 = 0xa2;
const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"rigd-signed-v1\0";
const SIGNATURE: usize = 64;
/// A key id and a signature.
#[cfg(any(test, feature = "sign"))]
const ENTRY: usize = 8 + SIGNATURE;

/// Why bytes are no signed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Larger than any frame.
    #[error("{0} bytes are over the limit of {LARGEST_FRAME}")]
    TooLarge(usize),
    /// Something else.
    #[error("it does not start with the magic byte 0xa2")]
    NotSigned,
    /// Of a version that this reader does not know.
    #[error("unknown version {0}")]
    Version(u8),
    /// No signature, or more than two.
    #[error("{0} signatures, must be 1 or 2")]
    Count(u8),
    /// It ends before its signatures, or right behind them.
    #[error("it is cut short")]
    Truncated,
    /// The lower key id does not come first.
    #[error("its signatures are in the wrong order")]
    Order,
}

/// One signature of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose it says it is.
    pub key: KeyId,
    bytes: [u8; SIGNATURE],
}

/// A frame, taken apart and not yet believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// The first signature.
    pub first: Signature,
    /// The second, which may be of the same key and is worth nothing then.
    pub second: Option<Signature>,
    /// What is signed: to be decoded when the signatures fit.
    pub message: &'a [u8],
}

impl KeyId {
    /// The id of a key.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        let hash = digest::digest(&digest::SHA256, &key.0);
        Self(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl<'a> Signed<'a> {
    /// Takes a frame apart; checks no signature.
    ///
    /// # Errors
    /// Says what is wrong with the bytes; they may come from anybody.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadFrame> {
        if bytes.len() > LARGEST_FRAME {
            return Err(BadFrame::TooLarge(bytes.len()));
        }
        let (&magic, rest) = bytes.split_first().ok_or(BadFrame::Truncated)?;
        if magic != MAGIC {
            return Err(BadFrame::NotSigned);
        }
        let (&version, rest) = rest.split_first().ok_or(BadFrame::Truncated)?;
        if version != VERSION {
            return Err(BadFrame::Version(version));
        }
        let (&count, rest) = rest.split_first().ok_or(BadFrame::Truncated)?;
        if !matches!(count, 1 | 2) {
            return Err(BadFrame::Count(count));
        }
        let (first, mut message) = Signature::parse(rest)?;
        let mut second = None;
        if count == 2 {
            let (found, rest) = Signature::parse(message)?;
            if found.key < first.key {
                return Err(BadFrame::Order);
            }
            (second, message) = (Some(found), rest);
        }
        if message.is_empty() { Err(BadFrame::Truncated) } else { Ok(Self { first, second, message }) }
    }

    /// Every signature, one or two.
    pub fn signatures(&self) -> impl Iterator<Item = &Signature> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

impl Signature {
    fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), BadFrame> {
        let (key, rest) = bytes.split_first_chunk().ok_or(BadFrame::Truncated)?;
        let (signature, rest) = rest.split_first_chunk().ok_or(BadFrame::Truncated)?;
        Ok((Self { key: KeyId(*key), bytes: *signature }, rest))
    }

    /// Whether it is this key's, over this message on this topic.
    #[must_use]
    pub fn fits(&self, key: &PublicKey, topic: &str, message: &[u8]) -> bool {
        let signed = signed_bytes(topic, self.key, message);
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, key.0);
        key.verify(&signed, &self.bytes).is_ok()
    }
}

/// The bytes that a key signs.
#[must_use]
pub fn signed_bytes(topic: &str, key: KeyId, message: &[u8]) -> Vec<u8> {
    // No topic is longer: MQTT gives its length two bytes too.
    let length = u16::try_from(topic.len()).unwrap_or(u16::MAX).to_le_bytes();
    [DOMAIN, &length, topic.as_bytes(), &key.0, message].concat()
}

/// The secret half of a key, for whoever gives orders.
#[cfg(any(test, feature = "sign"))]
pub struct SigningKey(signature::Ed25519KeyPair);

#[cfg(any(test, feature = "sign"))]
impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

#[cfg(any(test, feature = "sign"))]
impl SigningKey {
    /// A key by its 32 secret bytes, which are random and nothing else (RFC 8032, 5.1.5); `None` where ring cannot take them.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        signature::Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let bytes = signature::KeyPair::public_key(&self.0).as_ref();
        PublicKey(bytes.try_into().unwrap_or_default())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.public())
    }

    /// Its signature over a message on a topic, behind its id: one entry of a frame.
    fn sign(&self, topic: &str, message: &[u8]) -> (KeyId, [u8; SIGNATURE]) {
        let id = self.id();
        let signature = self.0.sign(&signed_bytes(topic, id, message));
        (id, signature.as_ref().try_into().unwrap_or([0; SIGNATURE]))
    }

    /// The frame of a message on a topic, signed by this key and perhaps by a second one.
    #[must_use]
    pub fn frame(&self, second: Option<&Self>, topic: &str, message: &[u8]) -> Vec<u8> {
        let mut signatures = vec![self.sign(topic, message)];
        signatures.extend(second.map(|key| key.sign(topic, message)));
        signatures.sort_unstable_by_key(|(id, _)| *id);
        let mut frame = Vec::with_capacity(3 + 2 * ENTRY + message.len());
        frame.extend([MAGIC, VERSION, if second.is_some() { 2 } else { 1 }]);
        for (id, signature) in signatures {
            frame.extend(id.0);
            frame.extend(signature);
        }
        frame.extend(message);
        frame
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOPIC: &str = "r1/rig-7/dn/cmd";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    /// RFC 8032, 7.1, test 1: so that a seed means the same key to every program.
    #[test]
    fn a_seed_gives_the_rfcs_key() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse::<PublicKey>().unwrap();
        let public = SigningKey::from_seed(&seed.0).unwrap().public();
        assert_eq!(public.to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(KeyId::of(&public).to_string(), "21fe31dfa154a261");
    }

    #[test]
    fn what_was_signed_fits_and_nothing_else_does() {
        let (a, b) = (key(1), key(2));
        let frame = a.frame(Some(&b), TOPIC, b"message");
        let parsed = Signed::parse(&frame).unwrap();
        assert_eq!(parsed.message, b"message");
        for signature in parsed.signatures() {
            let (own, other) = if signature.key == a.id() { (&a, &b) } else { (&b, &a) };
            assert!(signature.fits(&own.public(), TOPIC, b"message"));
            assert!(!signature.fits(&other.public(), TOPIC, b"message"));
            assert!(!signature.fits(&own.public(), "r1/rig-8/dn/cmd", b"message"));
            assert!(!signature.fits(&own.public(), TOPIC, b"messagf"));
            let renamed = Signature { key: other.id(), ..*signature };
            assert!(!renamed.fits(&own.public(), TOPIC, b"message"));
        }
    }

    #[test]
    fn what_is_no_frame_says_why() {
        let frame = key(1).frame(Some(&key(2)), TOPIC, b"m");
        let with = |at: usize, byte: u8| {
            let mut bytes = frame.clone();
            bytes[at] = byte;
            bytes
        };
        for end in 0..frame.len() {
            assert_eq!(Signed::parse(&frame[..end]), Err(BadFrame::Truncated), "cut at {end}");
        }
        let swapped = [&frame[..3], &frame[3 + ENTRY..3 + 2 * ENTRY], &frame[3..3 + ENTRY], b"m"].concat();
        for (bytes, problem) in [
            (with(0, 0xa1), BadFrame::NotSigned),
            (with(1, 2), BadFrame::Version(2)),
            (with(2, 0), BadFrame::Count(0)),
            (with(2, 3), BadFrame::Count(3)),
            (swapped, BadFrame::Order),
            (vec![MAGIC; LARGEST_FRAME + 1], BadFrame::TooLarge(LARGEST_FRAME + 1)),
        ] {
            assert_eq!(Signed::parse(&bytes), Err(problem));
        }
    }

    /// Length and topic are signed apart from the message: no byte can wander from one to the other.
    #[test]
    fn no_two_messages_have_the_same_signed_bytes() {
        assert_ne!(signed_bytes("r1/a", KeyId([b'x'; 8]), b"y"), signed_bytes("r1/ax", KeyId([b'x'; 8]), b"y"));
        let bytes = signed_bytes("t", KeyId([7; 8]), b"m");
        assert_eq!(bytes, b"rigd-signed-v1\0\x01\0t\x07\x07\x07\x07\x07\x07\x07\x07m");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(head in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = if head { [&[MAGIC, VERSION], &bytes[..]].concat() } else { bytes };
            if let Ok(signed) = Signed::parse(&bytes) {
                prop_assert_eq!(signed.message.len() + 3 + ENTRY * signed.signatures().count(), bytes.len());
            }
        }
    }
}
