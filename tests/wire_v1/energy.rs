//! What energy brought to the wire.

use rigd::energy::{Account, Interval, Key, Line};
use rigd::reading::Snapshot;
use rigd::units::Microjoules;
use rigd::wire::{
    Birth, ChainHash, Encoding, Energy, Header, Kind, Losses, Message, PublicKey, Receipt, Telemetry, Topic, Work,
    decode, encode,
};

use super::{BOOT, check};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn energy() -> Energy {
    Energy {
        rig_mwh: 300,
        supplies_mwh: vec![200, 100],
        gpus_mwh: vec![7],
        payloads: vec![Work { mwh: 250, work: 1_000 }],
        gap_ms: 60_000,
    }
}

#[test]
fn what_was_used_ends_the_telemetry() {
    let mut telemetry = Telemetry::new(1, 2, 3, &Snapshot::default(), Losses::default(), 0);
    let header = Header::new(Kind::Telemetry, BOOT, 1);
    let without = encode(Encoding::Postcard, header, &telemetry);
    telemetry.energy = Some(energy());
    let bytes = encode(Encoding::Postcard, header, &telemetry);
    let tail = "01 ac02 02c80164 0107 01fa01e807 e0d403 000000".replace(' ', "");
    assert_eq!(hex(&bytes), hex(&without[..without.len() - 4]) + &tail);
    let text = String::from_utf8(encode(Encoding::Json, header, &telemetry)).unwrap();
    let end = concat!(
        r#""energy":{"rig_mwh":300,"supplies_mwh":[200,100],"gpus_mwh":[7],"payloads":[{"mwh":250,"work":1000}],"#,
        r#""gap_ms":60000},"power":null,"rungs":[],"unread":0}}"#
    );
    assert!(text.ends_with(end), "{text}");
    for bytes in [&bytes, text.as_bytes()] {
        assert_eq!(decode(bytes), Ok((header, Message::Telemetry(telemetry.clone()))));
    }
    // An agent from before there was energy.
    telemetry.energy = None;
    assert_eq!(decode(&without[..without.len() - 4]), Ok((header, Message::Telemetry(telemetry))));
}

#[test]
fn the_key_of_receipts_ends_the_birth() {
    let board = rigd::board::Board::load("simulated-8gpu").unwrap();
    let birth = Birth::new("r".parse().unwrap(), &board, Encoding::Postcard, 1_000, 5);
    let bytes = |receipt_key| postcard::to_allocvec(&Birth { receipt_key, ..birth.clone() }).unwrap();
    let (absent, present) = (bytes(None), bytes(Some(PublicKey([0xab; 32]))));
    assert_eq!(hex(&present), hex(&absent[..absent.len() - 1]) + "01" + &"ab".repeat(32));
}

#[test]
fn receipt() {
    let used = Account { energy: Microjoules(300), work: 2, counted_ms: 900_000, gap_ms: 1, thousandths: 7 };
    let payloads = vec![Line { name: "p".to_owned(), gpu: "g".to_owned(), used }];
    let interval = Interval { index: 300, from_ms: 1, to_ms: 2, rig: used, payloads, ..Interval::default() };
    let mut body = Receipt::after(ChainHash([0x11; 32]), &interval);
    Key::of(&[7; 32]).unwrap().sign(&mut body);
    assert_eq!(body.check(None, 0), Ok(interval));
    let inner = "ac02010200ac0202a0f73601070000000000000001017001 67ac0202a0f7360107".replace(' ', "");
    assert_eq!(hex(&body.body.0), inner);
    let previous = "11".repeat(32);
    // SHA-256 and Ed25519 (RFC 8032) of another maker's: Python's hashlib and cryptography.
    let (hash, key, signature) = (
        "61111ca8ad5406b3502c5d90c5900a2d462f870e42954b13f4952240ea8fe813",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "ead2707b98a06ffae60f27cb3d6d16f3f54920d9189e27ab0785d5e65e58c63b11921bfc70abc4ab05d39a50e65713de69b9f4e953b97dde82727a9c8954100f",
    );
    check(
        Header::new(Kind::Receipt, BOOT, 9),
        &body,
        &Message::Receipt(body.clone()),
        &format!("a10b0100 ed5eedfe 0900000000000000 {previous} 21 {inner} {hash} {key} 40 {signature}"),
        &format!(
            r#"{{"kind":"receipt","major":1,"flags":0,"boot":4276969197,"seq":9,"body":{{"previous":"{previous}","body":"{inner}","hash":"{hash}","key":"{key}","signature":"{signature}"}}}}"#
        ),
    );
    assert_eq!(Topic::new("rig-7".parse().unwrap(), Kind::Receipt).to_string(), "r1/rig-7/up/rcp");
}
