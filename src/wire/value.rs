//! A reading on the wire: a value, or the reason why there is none.
//!
//! In postcard one byte says which: 0 and the value follows, or 1 + the number of the [`Missing`]. In JSON it is the
//! number itself, or the reason as a string.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};

use crate::reading::{Missing, Reading};

/// A [`Reading`] with its form on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<T>(pub Reading<T>);

impl<T> From<Reading<T>> for Value<T> {
    fn from(reading: Reading<T>) -> Self {
        Self(reading)
    }
}

/// In the order of their bytes, from 1.
const REASONS: [Missing; 5] = [Missing::NotPresent, Missing::Off, Missing::Bus, Missing::Stale, Missing::Implausible];

const fn byte_of(missing: Missing) -> u8 {
    match missing {
        Missing::NotPresent => 1,
        Missing::Off => 2,
        Missing::Bus => 3,
        Missing::Stale => 4,
        Missing::Implausible => 5,
    }
}

impl<T: Serialize> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (&self.0, serializer.is_human_readable()) {
            (Ok(value), true) => value.serialize(serializer),
            (Err(missing), true) => missing.serialize(serializer),
            (Ok(value), false) => {
                let mut pair = serializer.serialize_tuple(2)?;
                pair.serialize_element(&0_u8)?;
                pair.serialize_element(value)?;
                pair.end()
            }
            (Err(missing), false) => serializer.serialize_u8(byte_of(*missing)),
        }
    }
}

impl<'de, T: DeserializeOwned + TryFrom<i64>> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Form(PhantomData))
        } else {
            deserializer.deserialize_tuple(2, Form(PhantomData))
        }
    }
}

struct Form<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned + TryFrom<i64>> Visitor<'de> for Form<T> {
    type Value = Value<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number or the reason why there is none")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<T>, A::Error> {
        let cut = || de::Error::invalid_length(0, &"a value or a reason");
        match seq.next_element::<u8>()?.ok_or_else(cut)? {
            0 => Ok(Value(Ok(seq.next_element()?.ok_or_else(cut)?))),
            byte => {
                let reason = REASONS.get(usize::from(byte) - 1);
                reason.map(|missing| Value(Err(*missing))).ok_or_else(|| de::Error::custom("unknown reason"))
            }
        }
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value<T>, E> {
        T::try_from(number)
            .map(|value| Value(Ok(value)))
            .map_err(|_| de::Error::custom("number is outside its unit's range"))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value<T>, E> {
        self.visit_i64(i64::try_from(number).map_err(de::Error::custom)?)
    }

    fn visit_str<E: de::Error>(self, reason: &str) -> Result<Value<T>, E> {
        Missing::deserialize(de::value::StrDeserializer::new(reason)).map(|missing| Value(Err(missing)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Milliamps, Rpm};

    #[test]
    fn both_forms_are_these_and_come_back() {
        let rows: [(Value<Milliamps>, &[u8], &str); 4] = [
            (Value(Ok(Milliamps(-1))), &[0, 1], "-1"),
            (Value(Ok(Milliamps(20_000))), &[0, 0xc0, 0xb8, 0x02], "20000"),
            (Value(Err(Missing::NotPresent)), &[1], "\"not_present\""),
            (Value(Err(Missing::Implausible)), &[5], "\"implausible\""),
        ];
        for (value, bytes, json) in rows {
            assert_eq!(postcard::to_allocvec(&value).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<Value<Milliamps>>(bytes), Ok(value));
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value<Milliamps>>(json).unwrap(), value);
        }
        for (index, missing) in REASONS.into_iter().enumerate() {
            assert_eq!(usize::from(byte_of(missing)), index + 1);
        }
    }

    #[test]
    fn an_unknown_reason_or_a_number_out_of_range_is_an_error() {
        assert!(postcard::from_bytes::<Value<Rpm>>(&[6]).is_err());
        assert!(postcard::from_bytes::<Value<Rpm>>(&[0]).is_err());
        assert!(serde_json::from_str::<Value<Rpm>>("65536").is_err());
        assert!(serde_json::from_str::<Value<Rpm>>("\"asleep\"").is_err());
    }
}
