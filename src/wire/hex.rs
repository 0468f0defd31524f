//! Fixed numbers of bytes that people read: as they are in postcard, as hexadecimal digits in JSON and on a terminal.

/// Why a text is no such number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {0} hexadecimal digits")]
pub struct BadHex(pub(super) usize);

/// Exactly `2 * N` hexadecimal digits.
pub(super) fn parse<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let bad = BadHex(2 * N);
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(bad);
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high).ok_or(bad)? << 4 | digit(low).ok_or(bad)?;
    }
    Ok(bytes)
}

/// Bytes as hexadecimal digits, two each, in small letters.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0x0f)]).collect()
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident($length:literal)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&$crate::wire::hex(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::wire::BadHex;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::wire::hex::parse(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $length]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}
pub(super) use hex_bytes;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::KeyId;

    #[test]
    fn digits_come_back_and_nothing_else_is_taken() {
        let id = KeyId([0, 1, 0x7f, 0x80, 0xab, 0xcd, 0xef, 0xff]);
        assert_eq!((id.to_string(), hex(&[])), ("00017f80abcdefff".to_owned(), String::new()));
        assert_eq!("00017F80abcdefff".parse(), Ok(id));
        for bad in
            ["", "00017f80abcdeff", "00017f80abcdeffff", "00017f80abcdef+f", "00017f80abcdefä", "0x017f80abcdefff"]
        {
            assert_eq!(bad.parse::<KeyId>().unwrap_err().to_string(), "must be 16 hexadecimal digits", "{bad}");
        }
    }
}
