//! Postcard by one writer. Messages, records and journals have parts in common; postcard's own `to_allocvec` and `to_extend` would
//! each bring the code for all of them once more.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// A value as bytes.
///
/// # Errors
/// A list of unknown length; none of ours is.
pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> postcard::Result<Vec<u8>> {
    append(Vec::new(), value)
}

/// [`write`], behind what is there already.
///
/// # Errors
/// Those of [`write`].
pub(crate) fn append<T: Serialize + ?Sized>(bytes: Vec<u8>, value: &T) -> postcard::Result<Vec<u8>> {
    postcard::serialize_with_flavor(value, Bytes(bytes))
}

struct Bytes(Vec<u8>);

impl Flavor for Bytes {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_postcard_makes_of_it(number in any::<u64>(), text in ".{0,40}", list in prop::collection::vec(any::<Option<i16>>(), 0..9)) {
            let value = (number, text, list);
            let expected = postcard::to_allocvec(&value).unwrap();
            prop_assert_eq!(append(b"head".to_vec(), &value), Ok([b"head", expected.as_slice()].concat()));
            prop_assert_eq!(write(&value), Ok(expected));
        }
    }
}
