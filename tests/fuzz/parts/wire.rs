//! Bytes from anybody: a message or an error, and a message is written as it was read; a signed frame is taken apart or not,
//! and none that nobody signed is believed.

use rigd::command::replay::Used;
use rigd::command::trust::{FleetConfig, Trust};
use rigd::command::verify::{self, Digest, Me, Now, Received, Seen};
use rigd::wire::{CommandId, Encoding, KeyId, PublicKey, RigId, Scope, Signed, TrustedKey, decode};

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

/// Nothing was seen before.
struct Nothing;

impl Seen for Nothing {
    fn digest(&self, _: &CommandId) -> Option<Digest> {
        None
    }

    fn fresh(&self, _: &KeyId, counter: u64) -> bool {
        Used::default().fresh(counter)
    }

    fn lost(&self, _: u64) -> bool {
        false
    }
}

/// A frame from somebody without a key; where it names the rig's own key, its signature is still none.
pub(crate) fn frame(bytes: &[u8]) {
    let public = PublicKey([0x66; 32]);
    let own = KeyId::of(&public);
    let keys = vec![TrustedKey { name: "own".to_owned(), public, scopes: Scope::ALL.to_vec() }];
    let trust = Trust::new(&FleetConfig { keys, ..FleetConfig::default() });
    let Ok(rig) = RigId::try_from("rig".to_owned()) else { return };
    let me = Me { rig, groups: Vec::new(), site: None };
    let now = Now { unix_ms: Some(1_800_000_000_000), nonce: 1, revision: 0 };
    let mut named = [&[0xa2, 1, 1][..], &own.0, bytes].concat();
    named.resize(named.len().max(3 + 72 + 1), 0);
    for frame in [bytes, &named] {
        let parsed = Signed::parse(frame);
        let received = Received { topic: "r1/rig/dn/cmd", frame, retained: false };
        let command = verify::command(&received, &trust, &me, &now, &Nothing);
        assert!(command.is_err(), "nobody signed {frame:02x?}");
        assert!(command.is_err_and(|refused| refused.id.is_none() && refused.keys.is_empty()));
        assert!(verify::desired(&received, &trust, &me, None, true).is_err());
        if let Ok(signed) = parsed {
            exercise(signed.message);
        }
    }
}
