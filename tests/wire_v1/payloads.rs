//! What payloads brought to the wire.

use rigd::alarm::{self, Cause};
use rigd::payload::meter::Flag;
use rigd::reading::{Missing, Snapshot};
use rigd::units::MilliPerSecond;
use rigd::wire::{
    Encoding, Event, Header, Kind, Losses, Message, Payload, PayloadCause, PayloadInfo, PayloadKind, PayloadPhase,
    PayloadUnit, Subject, Telemetry, Value, decode, encode,
};

use super::BOOT;

fn hex<T: serde::Serialize>(value: &T) -> String {
    postcard::to_allocvec(value).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn miner() -> Payload {
    Payload {
        phase: PayloadPhase::Running,
        cause: Some(PayloadCause::Exited(-1)),
        held: None,
        restarts: 300,
        adopted: true,
        layers: 0x1ff,
        missing_layers: 0x200,
        gpus: 8,
        rate: Value(Ok(MilliPerSecond(61_430_000_000))),
        accepted: Value(Ok(4_711)),
        rejected: Value(Ok(11)),
        stale: Value(Err(Missing::NotPresent)),
        queue: Value(Err(Missing::Stale)),
    }
}

fn held() -> Payload {
    Payload {
        phase: PayloadPhase::Quarantined,
        cause: Some(PayloadCause::LowRate),
        held: Some(PayloadCause::LowRate),
        restarts: 1,
        adopted: false,
        layers: 0,
        missing_layers: 0,
        gpus: 0,
        rate: Value(Err(Missing::NotPresent)),
        accepted: Value(Err(Missing::NotPresent)),
        rejected: Value(Err(Missing::NotPresent)),
        stale: Value(Err(Missing::NotPresent)),
        queue: Value(Err(Missing::NotPresent)),
    }
}

/// A struct inside of a list has no place for an appended field: these never change.
#[test]
fn payloads_byte_by_byte() {
    let info = PayloadInfo { name: "m".to_owned(), kind: PayloadKind::Ai, unit: Some(PayloadUnit::Tokens) };
    let bare = PayloadInfo { name: "b".to_owned(), kind: PayloadKind::Batch, unit: None };
    for (bytes, expected) in [
        (hex(&miner()), "03 01 01 01 00 ac02 01 ff03 8004 08 00 80d3 8dec e401 00 e724 00 0b 01 04"),
        (hex(&held()), "0a 01 07 01 07 01 00 00 00 00 01 01 01 01 01"),
        (hex(&info), "01 6d 01 01 01"),
        (hex(&bare), "01 62 02 00"),
    ] {
        assert_eq!(bytes, expected.split_whitespace().collect::<String>());
    }
    let json = serde_json::to_string(&miner()).unwrap();
    let expected = concat!(
        r#"{"phase":"running","cause":{"exited":-1},"held":null,"restarts":300,"adopted":true,"layers":511,"#,
        r#""missing_layers":512,"gpus":8,"rate":61430000000,"accepted":4711,"rejected":11,"stale":"not_present","#,
        r#""queue":"stale"}"#
    );
    assert_eq!(json, expected);
    let json = serde_json::to_string(&info).unwrap();
    assert_eq!(json, r#"{"name":"m","kind":"ai","unit":"tokens"}"#);
}

#[test]
fn payloads_and_whether_they_are_believed_end_the_telemetry() {
    let mut telemetry = Telemetry::new(1, 2, 3, &Snapshot::default(), Losses::default(), 0);
    telemetry.payloads = vec![miner(), held()];
    telemetry.beliefs = vec![Flag::Frozen, Flag::Unknown];
    let header = Header::new(Kind::Telemetry, BOOT, 1);
    let bytes = encode(Encoding::Postcard, header, &telemetry);
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(text.ends_with(&format!("02{}{}02020000000000", hex(&miner()), hex(&held()))), "{text}");
    for bytes in [bytes.clone(), encode(Encoding::Json, header, &telemetry)] {
        assert_eq!(decode(&bytes).unwrap(), (header, Message::Telemetry(telemetry.clone())));
    }
    // An agent from before there were beliefs, and what was appended after them.
    telemetry.beliefs.clear();
    let before = bytes.split_at(bytes.len() - 7).0;
    assert_eq!(decode(before).unwrap(), (header, Message::Telemetry(telemetry)));
}

#[test]
fn what_holds_power_back_ends_the_telemetry() {
    use rigd::alarm::Cause;
    use rigd::control::step::{ladder, power};
    use rigd::units::{Milliwatts, Percent};
    use rigd::wire::{PowerNow, Rungs};
    let mut telemetry = Telemetry::new(1, 2, 3, &Snapshot::default(), Losses::default(), 0);
    telemetry.power = Some(PowerNow {
        cap_mw: Some(Milliwatts(1_200_000)),
        source: Some(power::Source::Grid),
        basis: power::Basis::Parts { margin: Percent(3) },
        estimate_mw: Milliwatts(300),
    });
    let free = Rungs { power: power::Rung::Free, power_cause: None, heat: ladder::Rung::Free, heat_cause: None };
    let cap = Some(Cause::Cap(power::Source::Command));
    let zone = Some(Cause::Zone { zone: 300, stage: rigd::reading::Stage::Critical });
    let held = Rungs { power: power::Rung::Drain, power_cause: cap, heat: ladder::Rung::Stop, heat_cause: zone };
    telemetry.rungs = vec![free, held];
    let header = Header::new(Kind::Telemetry, BOOT, 1);
    let bytes = encode(Encoding::Postcard, header, &telemetry);
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "01 01809f49 0103 0103 ac02  02 00000000 04010c01 040110ac0204 00".replace(' ', "");
    assert!(text.ends_with(&expected), "{text} does not end with {expected}");
    for bytes in [bytes, encode(Encoding::Json, header, &telemetry)] {
        assert_eq!(decode(&bytes).unwrap(), (header, Message::Telemetry(telemetry.clone())));
    }
    fn numbers<T: serde::Serialize>(all: &[T]) -> Vec<u8> {
        all.iter().flat_map(|one| postcard::to_allocvec(one).unwrap()).collect()
    }
    use alarm::Kind as A;
    let alarms = [A::PowerLimited, A::PowerClocks, A::PowerPaused, A::PowerDrained, A::PowerStopped];
    assert_eq!(numbers(&alarms), [26, 27, 28, 29, 30]);
    assert_eq!(numbers(&[A::GpuHot, A::HeatLimited, A::HeatPaused, A::HeatStopped]), [31, 32, 33, 34]);
    let causes = [Cause::Supplies, Cause::Supply(300), Cause::Rail(1), Cause::Cooling];
    assert_eq!(numbers(&causes), [13, 14, 172, 2, 15, 1, 17]);
    use power::{Rung, Source};
    let rungs = [Rung::Free, Rung::Limit, Rung::Clocks, Rung::Pause, Rung::Drain, Rung::Stop];
    assert_eq!(numbers(&rungs), [0, 1, 2, 3, 4, 5]);
    use ladder::Rung as H;
    assert_eq!(numbers(&[H::Free, H::Air, H::Limit, H::Pause, H::Stop]), [0, 1, 2, 3, 4]);
    let sources = [Source::Configuration, Source::Command, Source::Schedule, Source::Grid];
    assert_eq!(numbers(&sources), [0, 1, 2, 3]);
}

#[test]
fn what_payloads_appended_to_enums() {
    fn numbers<T: serde::Serialize>(all: &[T]) -> Vec<u8> {
        all.iter().flat_map(|one| postcard::to_allocvec(one).unwrap()).collect()
    }
    use alarm::Kind as A;
    let alarms = [A::PayloadFailed, A::PayloadQuarantined, A::PayloadFailing, A::PayloadDoubtful, A::PayloadSwitch];
    assert_eq!(numbers(&alarms), [21, 22, 23, 24, 25]);
    assert_eq!(numbers(&[Subject::Payload(300)]), [8, 172, 2]);
    use PayloadPhase as P;
    let phases = [
        P::Stopped,
        P::Starting,
        P::Warming,
        P::Running,
        P::Degraded,
        P::Draining,
        P::BackingOff,
        P::FailedToStart,
        P::Ended,
        P::OutOfBudget,
        P::Quarantined,
        P::Paused,
        P::Waiting,
    ];
    assert_eq!(numbers(&phases), (0..13).collect::<Vec<_>>());
    use PayloadCause as C;
    let causes =
        [C::NotStarted, C::Exited(3), C::Signal(9), C::OutOfMemory, C::Unseen, C::NeverReady, C::Unhealthy, C::LowRate];
    assert_eq!(numbers(&causes), [0, 1, 6, 2, 18, 3, 4, 5, 6, 7]);
    assert_eq!(numbers(&[PayloadKind::Mining, PayloadKind::Ai, PayloadKind::Batch]), [0, 1, 2]);
    let units = [PayloadUnit::Hashes, PayloadUnit::Tokens, PayloadUnit::Requests, PayloadUnit::Jobs];
    assert_eq!(numbers(&units), [0, 1, 2, 3]);
    let flags = [Flag::Unknown, Flag::Believed, Flag::Frozen, Flag::Adrift, Flag::Hollow, Flag::Barren];
    assert_eq!(numbers(&flags), [0, 1, 2, 3, 4, 5]);
    use alarm::SwitchOutcome as O;
    let outcomes = [O::Done, O::Back, O::Lost, O::Stuck, O::Held, O::Unwiped, O::Dropped];
    assert_eq!(numbers(&outcomes), [0, 1, 2, 3, 4, 5, 6]);
    let switched = alarm::Switched {
        from: Some(300),
        to: None,
        drain_ms: 1,
        free_ms: 2,
        reset_ms: 3,
        wipe_ms: 4,
        start_ms: 129,
        outcome: O::Unwiped,
    };
    for (cause, expected) in [
        (Cause::Payload(Some(C::Signal(11))), [9, 1, 2, 22].as_slice()),
        (Cause::Payload(None), &[9, 0]),
        (Cause::Belief(Flag::Barren), &[10, 5]),
        (Cause::Switch(switched), &[11, 1, 172, 2, 0, 1, 2, 3, 4, 129, 1, 5]),
    ] {
        assert_eq!(numbers(&[cause]), expected, "{cause:?}");
    }
}

#[test]
fn an_event_of_a_payload_byte_by_byte() {
    let event = Event {
        birth: 7,
        unix_ms: 1,
        uptime_ms: 2,
        alarm: alarm::Kind::PayloadFailing,
        subject: Subject::Payload(1),
        name: "m".to_owned(),
        raised: true,
        cause: Some(Cause::Payload(Some(PayloadCause::OutOfMemory))),
        rung: None,
    };
    let header = Header::new(Kind::Event, BOOT, 1);
    let bytes = encode(Encoding::Postcard, header, &event);
    let body: String = bytes.iter().skip(16).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(body, "07 01 02 17 08 01 01 6d 01 01 09 01 03 00".replace(' ', ""));
    let json = String::from_utf8(encode(Encoding::Json, header, &event)).unwrap();
    let end = r#""alarm":"payload_failing","subject":{"payload":1},"name":"m","raised":true,"cause":{"payload":"out_of_memory"},"rung":null}}"#;
    assert!(json.ends_with(end), "{json}");
    for bytes in [bytes.as_slice(), json.as_bytes()] {
        assert_eq!(decode(bytes).unwrap(), (header, Message::Event(event.clone())));
    }
}
