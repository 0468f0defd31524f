//! What a board says of itself: name, revision and serial number, from its EEPROM.
//!
//! ```text
//!  0  magic "RIGD"
//!  4  version, 1
//!  5  length of the name, of the revision, of the serial number: a byte each
//!  8  the three texts, UTF-8, one behind the other
//!  …  CRC-32 of everything before it, least significant byte first
//! ```
//!
//! At most 128 bytes in all, so that the smallest EEPROM holds it. A later version may only append.

/// Who a board is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name, as board files have it.
    pub name: String,
    /// Revision, as board files have it.
    pub revision: String,
    /// Serial number.
    pub serial: String,
}

/// Why there is no identity in an EEPROM, or why one cannot be put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing was ever written there.
    #[error("the memory is blank")]
    Blank,
    /// Something else is there.
    #[error("the memory holds something else")]
    Foreign,
    /// It is of a version that this agent does not know.
    #[error("the identity is of version {0}")]
    Version(u8),
    /// Its texts do not fit.
    #[error("name, revision and serial number together must not be longer than {} bytes", LONGEST - HEADER - CHECKSUM)]
    TooLong,
    /// It is damaged.
    #[error("the checksum does not fit")]
    Checksum,
    /// Its texts are none.
    #[error("name, revision or serial number is not text, or holds control characters")]
    NotText,
}

/// Longest identity in bytes.
pub const LONGEST: usize = 128;
const MAGIC: [u8; 4] = *b"RIGD";
const VERSION: u8 = 1;
const HEADER: usize = 8;
const CHECKSUM: usize = 4;

impl Identity {
    /// What the EEPROM gets.
    ///
    /// # Errors
    /// `TooLong`, or `NotText` for control characters.
    pub fn encode(&self) -> Result<Vec<u8>, Problem> {
        let Self { name, revision, serial } = self;
        let texts = [name, revision, serial];
        if texts.iter().any(|text| text.contains(char::is_control)) {
            return Err(Problem::NotText);
        }
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        for text in texts {
            bytes.push(u8::try_from(text.len()).map_err(|_| Problem::TooLong)?);
        }
        for text in texts {
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&crc32(&bytes).to_le_bytes());
        if bytes.len() > LONGEST { Err(Problem::TooLong) } else { Ok(bytes) }
    }

    /// What the beginning of an EEPROM holds; whatever follows the identity is not looked at.
    ///
    /// # Errors
    /// Why there is no identity.
    pub fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        if [0x00, 0xff].iter().any(|blank| bytes.iter().all(|byte| byte == blank)) {
            return Err(Problem::Blank);
        }
        let Some((&[m0, m1, m2, m3, version, lengths @ ..], _)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(Problem::Foreign);
        };
        if [m0, m1, m2, m3] != MAGIC {
            return Err(Problem::Foreign);
        }
        if version != VERSION {
            return Err(Problem::Version(version));
        }
        let end = lengths.iter().fold(HEADER, |end, length| end + usize::from(*length));
        let (covered, rest) = bytes.split_at_checked(end).ok_or(Problem::TooLong)?;
        let checksum = rest.first_chunk::<CHECKSUM>().filter(|_| end + CHECKSUM <= LONGEST).ok_or(Problem::TooLong)?;
        if crc32(covered) != u32::from_le_bytes(*checksum) {
            return Err(Problem::Checksum);
        }
        let mut texts = covered.get(HEADER..).unwrap_or_default();
        let [name, revision, serial] = lengths.map(|length| {
            let (text, rest) = texts.split_at_checked(length.into())?;
            texts = rest;
            let text = str::from_utf8(text).ok()?;
            (!text.contains(char::is_control)).then(|| text.to_owned())
        });
        let text = |text: Option<String>| text.ok_or(Problem::NotText);
        Ok(Self { name: text(name)?, revision: text(revision)?, serial: text(serial)? })
    }
}

/// CRC-32 as in Ethernet and zip files (CRC-32/ISO-HDLC): 0x04c11db7 bit-reversed, all ones before and behind.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn octo() -> Identity {
        Identity { name: "octo".to_owned(), revision: "b".to_owned(), serial: "Ö-0042".to_owned() }
    }

    #[test]
    fn the_checksum_is_the_catalogues() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    /// Boards out there hold these bytes: if this test fails, do not change the test.
    #[test]
    fn the_layout_is_pinned() {
        let bytes = octo().encode().unwrap();
        assert_eq!(bytes, b"RIGD\x01\x04\x01\x07octob\xc3\x96-0042\x8e\x57\x8b\xe7");
        let mut memory = bytes;
        memory.resize(256, 0xff);
        assert_eq!(Identity::decode(&memory), Ok(octo()));
    }

    #[test]
    fn what_is_no_identity_says_why() {
        let good = octo().encode().unwrap();
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        let sealed = |bytes: &[u8]| [bytes, &crc32(bytes).to_le_bytes()].concat();
        for (what, bytes, problem) in [
            ("erased", vec![0xff; 128], Problem::Blank),
            ("zeros", vec![0; 128], Problem::Blank),
            ("a supply's FRU data", [&[1, 0, 0, 0, 1, 0, 0, 0xfe][..], &[0xff; 8]].concat(), Problem::Foreign),
            ("cut off in the header", good[..7].to_vec(), Problem::Foreign),
            ("from the future", changed(4, 2), Problem::Version(2)),
            ("cut off", good[..good.len() - 1].to_vec(), Problem::TooLong),
            ("longer than any", sealed(&[b"RIGD\x01\x75\x00\x00", &[b'a'; 0x75][..]].concat()), Problem::TooLong),
            ("a letter changed", changed(9, b'x'), Problem::Checksum),
            ("not UTF-8", sealed(b"RIGD\x01\x01\x00\x00\xc3"), Problem::NotText),
            ("a line feed", sealed(b"RIGD\x01\x01\x00\x00\n"), Problem::NotText),
        ] {
            assert_eq!(Identity::decode(&bytes), Err(problem), "{what}");
        }
    }

    #[test]
    fn what_would_not_fit_is_not_written() {
        let long =
            |length: usize| Identity { name: "n".repeat(length), revision: String::new(), serial: String::new() };
        assert_eq!(long(116).encode().map(|bytes| bytes.len()), Ok(128));
        assert_eq!(long(117).encode(), Err(Problem::TooLong));
        assert_eq!(long(300).encode(), Err(Problem::TooLong));
        assert_eq!(Identity { serial: "a\tb".to_owned(), ..octo() }.encode(), Err(Problem::NotText));
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_comes_back([name, revision, serial] in prop::array::uniform3("[^\\p{Cc}]{0,8}")) {
            let identity = Identity { name, revision, serial };
            if let Ok(bytes) = identity.encode() {
                prop_assert_eq!(Identity::decode(&bytes), Ok(identity));
            }
        }

        #[test]
        fn no_bytes_are_too_strange(head in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..160)) {
            let bytes = if head { [b"RIGD\x01", &bytes[..]].concat() } else { bytes };
            let _ = Identity::decode(&bytes);
        }
    }
}
