//! Whatever comes from outside, nothing panics: chips of any content, board files with any mistake,
//! answers of any payload, messages from anybody.
//!
//! The bytes are drawn by chance here; `cargo xtask fuzz` looks for those that lead somewhere new.

#[path = "fuzz/parts/boards.rs"]
mod boards;
#[path = "fuzz/parts/chips.rs"]
mod chips;
#[path = "fuzz/parts/energy.rs"]
mod energy;
#[path = "fuzz/parts/meters.rs"]
mod meters;
#[path = "fuzz/parts/tape.rs"]
mod tape;
#[path = "fuzz/parts/wire.rs"]
mod wire;

use proptest::prelude::*;
use rigd::board::Board;
use rigd::chip::PARTS;
use rigd::payload::manifest::Manifest;
use rigd::wire::{Birth, Encoding, Header, Kind, encode};

const MANIFESTS: [&str; 3] = [
    include_str!("../examples/payloads/t-rex.toml"),
    include_str!("../examples/payloads/vllm.toml"),
    include_str!("../examples/payloads/open-webui.toml"),
];

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    // Few: the Maxim PMBus parts want a pause before each access, and their drivers keep it here too.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chip_of_any_content(bytes in bytes(3_000)) {
        for part in 0..PARTS.len() {
            let part = u8::try_from(part).unwrap_or(u8::MAX);
            chips::exercise(&[&[part], bytes.as_slice()].concat());
        }
    }
}

proptest! {
    // Each is eighteen meters.
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_of_a_payload(bytes in bytes(300), json in r#"[\[\]{},:"a-z0-9.nif \\-]{0,200}"#, text in r#"[a-z_:{}="|; \\\n0-9]{0,200}"#) {
        meters::exercise(&bytes);
        meters::exercise(json.as_bytes());
        meters::exercise(text.as_bytes());
        meters::take(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_board_file_with_mistakes(bytes in bytes(60)) {
        boards::exercise(&bytes);
    }

    #[test]
    fn no_board_file_at_all(text in ".{0,200}") {
        boards::take(&text);
    }

    #[test]
    fn a_manifest_with_mistakes(which in 0..MANIFESTS.len(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..8)) {
        let mut text: Vec<char> = MANIFESTS.get(which).map(|text| text.chars().collect()).unwrap_or_default();
        for (at, letter) in edits {
            let at = at.index(text.len());
            if let Some(slot) = text.get_mut(at) {
                *slot = letter;
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = Manifest::parse("x.toml", "x", &text) {
            prop_assert!(!problems.0.is_empty());
        }
    }

    #[test]
    fn a_receipt_from_anybody(bytes in bytes(400)) {
        energy::exercise(&bytes);
    }

    #[test]
    fn a_message_from_anybody(kind in 0..13u8, bytes in bytes(400)) {
        wire::exercise(&bytes);
        wire::frame(&bytes);
        wire::frame(&[&[0xa2, 1, 1 + kind % 2], bytes.as_slice()].concat());
        // Behind a good header, and after the first half of a good body.
        wire::exercise(&[&[0xa1, kind, 1, 0], bytes.as_slice()].concat());
        let board = Board::load("simulated-8gpu").map_err(|error| TestCaseError::fail(error.to_string()))?;
        let rig = "rig".parse().map_err(|_| TestCaseError::fail("a rig's name"))?;
        let birth = Birth::new(rig, &board, Encoding::Postcard, 1_000, 0);
        let birth = encode(Encoding::Postcard, Header::new(Kind::Birth, 1, 1), &birth);
        wire::exercise(&[birth.get(..birth.len() / 2).unwrap_or_default(), bytes.as_slice()].concat());
        for kind in [9, 10] {
            // An audience and a name, then whatever comes.
            let head = [0xa1, kind, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, b'r', b'i', b'g'];
            wire::exercise(&[&head[..], bytes.as_slice()].concat());
        }
    }
}
