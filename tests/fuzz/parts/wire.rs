//! Bytes from anybody: a message or an error, and a message is written as it was read.

use rigd::wire::{Encoding, decode};

pub(crate) fn exercise(bytes: &[u8]) {
    let Ok((header, message)) = decode(bytes) else { return };
    assert_eq!(header.kind, message.kind());
    for encoding in [Encoding::Postcard, Encoding::Json] {
        let again = message.encode(encoding, header);
        match decode(&again) {
            Ok(read) => assert_eq!(read, (header, message.clone()), "{encoding:?}"),
            // JSON of what came as postcard may be larger than any message.
            Err(error) => assert!(again.len() > rigd::wire::MAX_MESSAGE, "{encoding:?}: {error}"),
        }
    }
}
