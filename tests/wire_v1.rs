//! Version 1 of the wire, byte by byte.
//!
//! **If a test in this file fails, do not change the test.** It means that the meaning of bytes that rigs in the field
//! write has changed: a field or a variant was inserted, removed or moved. Put it back; append to the end of a top-level
//! struct or of an enum instead, or make a new major version with a file of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use rigd::alarm::{self, Cause};
use rigd::gpu::Driver;
use rigd::reading::{Fault, Faults, Missing, Snapshot, Stage};
use rigd::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};
use rigd::wire::{
    AlarmNow, AuditHash, AuditHead, Birth, BoardInfo, ChipInfo, Delivery, Encoding, Event, Fan, FanInfo, Header, Kind,
    Losses, Message, Online, OutboxInfo, Power, RailInfo, Reason, SensorInfo, Subject, Supply, SupplyInfo, Telemetry,
    Trouble, Value, Zone, ZoneInfo, decode, encode,
};

#[path = "wire_v1/commands.rs"]
mod commands;
#[path = "wire_v1/energy.rs"]
mod energy;
#[path = "wire_v1/gpus.rs"]
mod gpus;
#[path = "wire_v1/payloads.rs"]
mod payloads;

const BOOT: u32 = 0xfeed_5eed;

fn check<T: serde::Serialize>(header: Header, body: &T, message: &Message, postcard: &str, json: &str) {
    let bytes = encode(Encoding::Postcard, header, body);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let postcard: String = postcard.split_whitespace().collect();
    assert_eq!(hex, postcard, "the postcard bytes of {:?} have changed", header.kind);
    let text = String::from_utf8(encode(Encoding::Json, header, body)).unwrap();
    assert_eq!(text, json, "the JSON of {:?} has changed", header.kind);
    assert_eq!(decode(&bytes).unwrap(), (header, message.clone()));
    assert_eq!(decode(text.as_bytes()).unwrap(), (header, message.clone()));
}

/// The bytes of the first agents, which had no appended fields: they are still the beginning of what is written now, and are
/// read with those fields absent. JSON is read without them too.
fn check_appended<T: serde::Serialize>(
    header: Header,
    body: &T,
    message: &Message,
    appended: usize,
    postcard: &str,
    json: &str,
) {
    let bytes = encode(Encoding::Postcard, header, body);
    let (first, tail) = bytes.split_at(bytes.len() - appended);
    let hex: String = first.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, postcard.split_whitespace().collect::<String>(), "the postcard bytes of {:?}", header.kind);
    assert!(tail.iter().all(|byte| *byte == 0), "an absent field is a zero");
    for bytes in [&bytes[..], first, json.as_bytes()] {
        assert_eq!(decode(bytes).unwrap(), (header, message.clone()));
    }
    let (cut, _) = first.split_at(first.len() - 1);
    assert!(decode(cut).is_err(), "one byte less is a loss and not an age");
}

fn power(mv: u32, ma: i32, mw: Result<u32, Missing>) -> Power {
    Power { mv: Value(Ok(Millivolts(mv))), ma: Value(Ok(Milliamps(ma))), mw: Value(mw.map(Milliwatts)) }
}

#[test]
fn online() {
    let body = Online { online: true, connection: 300, reason: Reason::Lost };
    check(
        Header::new(Kind::Online, BOOT, 0),
        &body,
        &Message::Online(body),
        "a1010100 ed5eedfe 0000000000000000  01 ac02 02",
        r#"{"kind":"online","major":1,"flags":0,"boot":4276969197,"seq":0,"body":{"online":true,"connection":300,"reason":"lost"}}"#,
    );
}

#[test]
fn telemetry() {
    let body = Telemetry {
        birth: 0x1234_5678,
        unix_ms: 1_700_000_000_123,
        uptime_ms: 65_000,
        rails: vec![power(12_015, -1_250, Ok(240_000)), power(0, 0, Err(Missing::Bus))],
        supplies: vec![Supply {
            input: power(230_000, 8_460, Ok(1_932_000)),
            output: power(12_125, 150_250, Ok(1_822_000)),
        }],
        sensors: vec![Value(Ok(Millicelsius(-250))), Value(Err(Missing::NotPresent)), Value(Err(Missing::Implausible))],
        fans: vec![
            Fan { rpm: Value(Ok(Rpm(2_160))), duty: Value(Ok(Duty::from_percent(45).unwrap())), fault: false },
            Fan { rpm: Value(Err(Missing::Stale)), duty: Value(Err(Missing::Off)), fault: true },
        ],
        zones: vec![Zone { duty: Value(Ok(Duty::FULL)), stage: Stage::Critical }],
        troubles: vec![Trouble {
            chip: 3,
            lost: Some(Missing::Bus),
            faults: Faults::NONE.with(Fault::OverVoltage, true).with(Fault::Other, true),
        }],
        alarms: vec![AlarmNow { alarm: alarm::Kind::ZoneCritical, subject: Subject::Zone(0) }],
        repairs: 1,
        lost_events: 2,
        dropped: 300,
        refused: 129,
        through_kernel: Vec::new(),
        tick_late_us: 0,
        driver: Driver::None,
        gpus: Vec::new(),
        gpu_detail: None,
        payloads: Vec::new(),
        beliefs: Vec::new(),
        energy: None,
        power: None,
        rungs: Vec::new(),
        unread: 0,
    };
    check_appended(
        Header::new(Kind::Telemetry, BOOT, 0x0102),
        &body,
        &Message::Telemetry(body.clone()),
        11,
        "a1030100 ed5eedfe 0201000000000000
         f8acd191 01 fbd095ffbc31 e8fb 03
         02 00ef5d 00c313 0080d30e  0000 0000 03
         01 00f0840e 009884 01 00e0f575 00dd5e 00d4ab12 00b09a6f
         03 00f303 01 05
         02 00f010 009423 00 04 02 01
         01 00904e 04
         01 03 01 02 8120
         01 05 02 00
         01 02 ac02 8101",
        concat!(
            r#"{"kind":"telemetry","major":1,"flags":0,"boot":4276969197,"seq":258,"body":{"birth":305419896,"#,
            r#""unix_ms":1700000000123,"uptime_ms":65000,"rails":[{"mv":12015,"ma":-1250,"mw":240000},"#,
            r#"{"mv":0,"ma":0,"mw":"bus"}],"supplies":[{"input":{"mv":230000,"ma":8460,"mw":1932000},"#,
            r#""output":{"mv":12125,"ma":150250,"mw":1822000}}],"sensors":[-250,"not_present","implausible"],"#,
            r#""fans":[{"rpm":2160,"duty":4500,"fault":false},{"rpm":"stale","duty":"off","fault":true}],"#,
            r#""zones":[{"duty":10000,"stage":"critical"}],"troubles":[{"chip":3,"lost":"bus","faults":4097}],"#,
            r#""alarms":[{"alarm":"zone_critical","subject":{"zone":0}}],"repairs":1,"lost_events":2,"dropped":300,"refused":129}}"#
        ),
    );
}

#[test]
fn event() {
    let body = Event {
        birth: 7,
        unix_ms: 1_700_000_000_123,
        uptime_ms: 65_000,
        alarm: alarm::Kind::OverPower,
        subject: Subject::Supply(1),
        name: "psu1".to_owned(),
        raised: true,
        cause: None,
        rung: None,
    };
    check_appended(
        Header::new(Kind::Event, BOOT, 1),
        &body,
        &Message::Event(body.clone()),
        2,
        "a1040100 ed5eedfe 0100000000000000  07 fbd095ffbc31 e8fb03 09 04 01 0470737531 01",
        concat!(
            r#"{"kind":"event","major":1,"flags":0,"boot":4276969197,"seq":1,"body":{"birth":7,"unix_ms":1700000000123,"#,
            r#""uptime_ms":65000,"alarm":"over_power","subject":{"supply":1},"name":"psu1","raised":true}}"#
        ),
    );
}

#[test]
fn birth() {
    let body = Birth {
        id: 9,
        rig: "r".parse().unwrap(),
        agent: "0.1.0".to_owned(),
        simulated: true,
        started_unix_ms: 5,
        connection: 2,
        encoding: Encoding::Postcard,
        kinds: vec![(Kind::Online, 1), (Kind::Event, 1)],
        period_ms: 1_000,
        delivery: Delivery::Puback,
        outbox: OutboxInfo { waiting: 1, dropped: 2, refused: 3 },
        board: BoardInfo { name: "b".to_owned(), revision: "a".to_owned() },
        chips: vec![
            ChipInfo { refdes: "U1".to_owned(), part: "ina226".to_owned(), bus: "main".to_owned(), addr: Some(0x40) },
            ChipInfo { refdes: "cpu".to_owned(), part: "k10temp".to_owned(), bus: "hwmon".to_owned(), addr: None },
        ],
        rails: vec![RailInfo {
            name: "gpu0".to_owned(),
            chip: 0,
            min_mv: Some(Millivolts(11_400)),
            max_mv: None,
            max_ma: Some(Milliamps(40_000)),
            max_mw: Some(Milliwatts(450_000)),
        }],
        supplies: vec![SupplyInfo { name: "psu".to_owned(), chip: 0, max_input_mw: None }],
        sensors: vec![SensorInfo { name: "air".to_owned(), chip: 1 }],
        fans: vec![FanInfo { name: "f".to_owned(), chip: 0, min_rpm: Rpm(500), max_rpm: Rpm(6_000), zone: Some(0) }],
        zones: vec![ZoneInfo { name: "z".to_owned(), critical_mc: Millicelsius(70_000), sensors: vec![0] }],
        serial: None,
        driver: None,
        gpus: Vec::new(),
        payloads: Vec::new(),
        nonce: 0,
        clock_set: false,
        audit_head: None,
        receipt_key: None,
    };
    check_appended(
        Header::new(Kind::Birth, BOOT, 0),
        &body,
        &Message::Birth(body.clone()),
        8,
        "a1020100 ed5eedfe 0000000000000000
         09 0172 05302e312e30 01 05 02 00 02 00 01 03 01 e807 00 01 02 03
         0162 0161
         02 025531 06696e61323236 046d61696e 0140  03637075 076b313074656d70 0568776d6f6e 00
         01 0467707530 00 018859 00 0180f104 01d0bb1b
         01 03707375 00 00
         01 03616972 01
         01 0166 00 f403 f02e 0100
         01 017a e0c508 01 00",
        concat!(
            r#"{"kind":"birth","major":1,"flags":0,"boot":4276969197,"seq":0,"body":{"id":9,"rig":"r","agent":"0.1.0","#,
            r#""simulated":true,"started_unix_ms":5,"connection":2,"encoding":"postcard","#,
            r#""kinds":[["online",1],["event",1]],"period_ms":1000,"delivery":"puback","#,
            r#""outbox":{"waiting":1,"dropped":2,"refused":3},"board":{"name":"b","revision":"a"},"#,
            r#""chips":[{"refdes":"U1","part":"ina226","bus":"main","addr":64},"#,
            r#"{"refdes":"cpu","part":"k10temp","bus":"hwmon","addr":null}],"#,
            r#""rails":[{"name":"gpu0","chip":0,"min_mv":11400,"max_mv":null,"max_ma":40000,"max_mw":450000}],"#,
            r#""supplies":[{"name":"psu","chip":0,"max_input_mw":null}],"sensors":[{"name":"air","chip":1}],"#,
            r#""fans":[{"name":"f","chip":0,"min_rpm":500,"max_rpm":6000,"zone":0}],"#,
            r#""zones":[{"name":"z","critical_mc":70000,"sensors":[0]}]}}"#
        ),
    );
}

/// What commands brought to the birth: its last bytes.
#[test]
fn a_birth_ends_with_its_nonce_and_whether_the_clock_is_set() {
    let board = rigd::board::Board::load("simulated-8gpu").unwrap();
    let birth = Birth::new("r".parse().unwrap(), &board, Encoding::Postcard, 1_000, 5);
    let bytes = |nonce, clock_set| postcard::to_allocvec(&Birth { nonce, clock_set, ..birth.clone() }).unwrap();
    let (absent, present) = (bytes(0, false), bytes(300, true));
    assert!(absent.ends_with(&[0, 0, 0, 0]) && present.ends_with(&[0xac, 0x02, 1, 0, 0]));
    assert_eq!(absent[..absent.len() - 4], present[..present.len() - 5]);
}

/// How far the audit log went: a tag, the number, the hash as it is.
#[test]
fn a_birth_ends_with_the_head_of_the_audit_log() {
    let board = rigd::board::Board::load("simulated-8gpu").unwrap();
    let mut birth = Birth::new("r".parse().unwrap(), &board, Encoding::Postcard, 1_000, 5);
    birth.audit_head = Some(AuditHead { n: 812, hash: AuditHash([0xab; 32]) });
    let bytes = postcard::to_allocvec(&birth).unwrap();
    assert!(bytes.ends_with(&[&[0, 0, 1, 0xac, 0x06][..], &[0xab; 32], &[0]].concat()));
    let header = Header::new(Kind::Birth, BOOT, 0);
    for encoding in [Encoding::Postcard, Encoding::Json] {
        let message = encode(encoding, header, &birth);
        assert_eq!(decode(&message).unwrap(), (header, Message::Birth(birth.clone())));
    }
    let json = String::from_utf8(encode(Encoding::Json, header, &birth)).unwrap();
    assert!(
        json.ends_with(&format!(r#""audit_head":{{"n":812,"hash":"{}"}},"receipt_key":null}}}}"#, "ab".repeat(32)))
    );
}

/// The numbers of every enum that is on the wire, each written out.
#[test]
fn enums_only_append() {
    fn numbers<T: serde::Serialize>(all: &[T]) -> Vec<u8> {
        all.iter().flat_map(|one| postcard::to_allocvec(one).unwrap()).collect()
    }
    use alarm::Kind as A;
    let alarms = [
        A::ChipLost,
        A::ChipFault,
        A::WatchdogRanOut,
        A::FanStands,
        A::ZoneBlind,
        A::ZoneCritical,
        A::UnderVoltage,
        A::OverVoltage,
        A::OverCurrent,
        A::OverPower,
        A::FanFault,
    ];
    assert_eq!(numbers(&alarms), (0..11).collect::<Vec<_>>());
    let stages = [Stage::Starting, Stage::Normal, Stage::FanFailed, Stage::Blind, Stage::Critical];
    assert_eq!(numbers(&stages), [0, 1, 2, 3, 4]);
    let reasons = [Missing::NotPresent, Missing::Off, Missing::Bus, Missing::Stale, Missing::Implausible];
    assert_eq!(numbers(&reasons), [0, 1, 2, 3, 4]);
    assert_eq!(numbers(&reasons.map(|reason| Value::<Rpm>(Err(reason)))), [1, 2, 3, 4, 5]);
    assert_eq!(numbers(&Fault::ALL), (0..13).collect::<Vec<_>>());
    assert_eq!(numbers(&[Reason::Connected, Reason::Stopped, Reason::Lost]), [0, 1, 2]);
    assert_eq!(numbers(&[Delivery::Puback, Delivery::Watermark]), [0, 1]);
    assert_eq!(numbers(&[Encoding::Postcard, Encoding::Json]), [0, 1]);
    assert_eq!(numbers(&Kind::ALL), (0..12).collect::<Vec<_>>());
    let kinds = [Kind::Online, Kind::Birth, Kind::Telemetry, Kind::Event, Kind::Watermark, Kind::Controller];
    assert!(Kind::ALL.starts_with(&kinds));
}

/// What a rig with eight rails, six fans and a supply sends each time is within the goal of 310 bytes.
#[test]
fn a_full_sample_is_small() {
    let fan = Fan { rpm: Value(Ok(Rpm(3_000))), duty: Value(Ok(Duty::FULL)), fault: false };
    let body = Telemetry {
        birth: u32::MAX,
        unix_ms: 1_900_000_000_000,
        uptime_ms: 31_536_000_000,
        rails: vec![power(12_000, 30_000, Ok(360_000)); 8],
        supplies: vec![Supply {
            input: power(230_000, 14_000, Ok(3_200_000)),
            output: power(12_000, 250_000, Ok(3_000_000)),
        }],
        sensors: vec![Value(Ok(Millicelsius(45_000))); 12],
        fans: vec![fan; 6],
        zones: vec![Zone { duty: Value(Ok(Duty::FULL)), stage: Stage::Normal }],
        troubles: Vec::new(),
        alarms: Vec::new(),
        repairs: 0,
        lost_events: 0,
        dropped: 0,
        refused: 0,
        through_kernel: Vec::new(),
        tick_late_us: 40,
        driver: Driver::None,
        gpus: Vec::new(),
        gpu_detail: None,
        payloads: Vec::new(),
        beliefs: Vec::new(),
        energy: None,
        power: None,
        rungs: Vec::new(),
        unread: 0,
    };
    let bytes = encode(Encoding::Postcard, Header::new(Kind::Telemetry, BOOT, 1 << 20), &body).len();
    let json = encode(Encoding::Json, Header::new(Kind::Telemetry, BOOT, 1 << 20), &body).len();
    assert!(bytes <= 310, "{bytes} bytes");
    assert!(bytes * 4 < json, "postcard {bytes} bytes against JSON {json}");
}

/// What later agents appended, byte by byte.
#[test]
fn appended_fields() {
    let tail = |bytes: Vec<u8>, count: usize| {
        bytes.iter().skip(bytes.len() - count).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let mut telemetry = Telemetry::new(1, 2, 3, &Snapshot::default(), Losses::default(), 0);
    telemetry.through_kernel = vec![2, 300];
    telemetry.tick_late_us = 129;
    let bytes = encode(Encoding::Postcard, Header::new(Kind::Telemetry, BOOT, 1), &telemetry);
    assert_eq!(tail(bytes, 15), "0202ac028101000000000000000000");
    telemetry.unread = 300;
    let bytes = encode(Encoding::Postcard, Header::new(Kind::Telemetry, BOOT, 1), &telemetry);
    assert_eq!(tail(bytes, 3), "00ac02");
    let event = |cause, rung| {
        let event = Event {
            birth: 7,
            unix_ms: 1,
            uptime_ms: 2,
            alarm: alarm::Kind::TemperatureJump,
            subject: Subject::Sensor(3),
            name: String::new(),
            raised: true,
            cause: Some(cause),
            rung,
        };
        let header = Header::new(Kind::Event, BOOT, 1);
        let bytes = encode(Encoding::Postcard, header, &event);
        assert_eq!(decode(&bytes).unwrap(), (header, Message::Event(event.clone())));
        let text = encode(Encoding::Json, header, &event);
        assert_eq!(decode(&text).unwrap(), (header, Message::Event(event)));
        bytes.iter().skip(16 + 3).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for (cause, rung, expected) in [
        (Cause::Limit { value: -2, limit: 400 }, Some(Stage::Quiet), "0c 05 03 00 01 01 00 03 a006 01 06"),
        (Cause::Missing(Missing::Stale), Some(Stage::FanMadeUp), "0c 05 03 00 01 01 01 03 01 05"),
        (
            Cause::Faults(Faults::NONE.with(Fault::Other, true)),
            Some(Stage::Calibrating),
            "0c 05 03 00 01 01 02 8020 01 07",
        ),
        (Cause::Identity, None, "0c 05 03 00 01 01 03 00"),
    ] {
        assert_eq!(event(cause, rung), expected.split_whitespace().collect::<String>(), "{cause:?}");
    }
}
