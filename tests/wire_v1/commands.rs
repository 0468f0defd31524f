//! What commands and the desired state brought to the wire.

use rigd::units::{MicroPerKilowattHour, MicroPerTera, Millicelsius, Milliwatts};
use rigd::wire::{
    Ack, AckState, Audience, Command, CommandId, Desired, DesiredPayload, DesiredProfile, Difference, Encoding,
    FanTarget, Header, KeyId, Kind, Market, MarketLease, MarketValue, Message, Order, Outcome, PayloadAct, PowerCap,
    PublicKey, Refusal, RefusedRevision, Reported, Scope, StandingOrder, TrustedKey, Window, decode, encode,
};

use super::{BOOT, check, check_appended};

const ID: CommandId = CommandId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);

const CAP: PowerCap = PowerCap {
    cap_mw: Milliwatts(1_200_000),
    ramp_mw_per_s: 50_000,
    deadline_ms: 1_700_000_010_000,
    until_ms: Some(1_700_003_600_000),
    floor_mw: Some(Milliwatts(300)),
};

fn command(order: Order) -> Command {
    Command {
        audience: Audience::Rig("rig-7".parse().unwrap()),
        id: ID,
        counter: 300,
        not_before_ms: 1_700_000_000_000,
        not_after_ms: 1_700_000_030_000,
        nonce: Some(5),
        revision: None,
        order,
    }
}

fn hex<T: serde::Serialize>(value: &T) -> String {
    postcard::to_allocvec(value).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_command() {
    let body = command(Order::SetPowerCap(Some(CAP)));
    check(
        Header::new(Kind::Command, BOOT, 0),
        &body,
        &Message::Command(body.clone()),
        "a1090100 ed5eedfe 0000000000000000 00057269672d37000102030405060708090a0b0c0d0effac0280d095ffbc31b0ba97ffbc31010500 0101809f49d08603909e96ffbc310180adf180bd3101ac02",
        concat!(
            r#"{"kind":"command","major":1,"flags":0,"boot":4276969197,"seq":0,"body":{"audience":{"rig":"rig-7"},""#,
            r#"id":"000102030405060708090a0b0c0d0eff","counter":300,"not_before_ms":1700000000000,"not_after_ms":17"#,
            r#"00000030000,"nonce":5,"revision":null,"order":{"set_power_cap":{"cap_mw":1200000,"ramp_mw_per_s":500"#,
            r#"00,"deadline_ms":1700000010000,"until_ms":1700003600000,"floor_mw":300}}}}"#,
        ),
    );
}

#[test]
fn an_answer() {
    let body = Ack { id: ID, at_ms: 1_700_000_000_123, state: AckState::Done(Outcome::Text("ok".to_owned())) };
    check(
        Header::new(Kind::Ack, BOOT, 2),
        &body,
        &Message::Ack(body.clone()),
        "a1070100 ed5eedfe 0200000000000000 000102030405060708090a0b0c0d0efffbd095ffbc310201026f6b",
        concat!(
            r#"{"kind":"ack","major":1,"flags":0,"boot":4276969197,"seq":2,"body":{"id":"000102030405060708090a0b0c"#,
            r#"0d0eff","at_ms":1700000000123,"state":{"done":{"text":"ok"}}}}"#,
        ),
    );
}

fn payload(name: &str) -> DesiredPayload {
    DesiredPayload { name: name.to_owned(), run: true, gpus: Some(vec!["GPU-1".to_owned()]) }
}

#[test]
fn a_desired_state() {
    let body = Desired {
        audience: Audience::Rig("r".parse().unwrap()),
        revision: 129,
        issued_ms: 1_700_000_000_000,
        not_after_ms: None,
        payloads: vec![payload("llm")],
        profiles: vec![DesiredProfile { gpu: None, profile: "eco".to_owned() }],
        power_cap: Some(CAP),
        fan_targets: vec![FanTarget { zone: "z".to_owned(), target_mc: Some(Millicelsius(-1)) }],
        maintenance: true,
        standing: vec![StandingOrder {
            name: "night".to_owned(),
            when: Window { days: 0x7f, from_min: 1_320, to_min: 360 },
            utc: false,
            power_cap: None,
            payloads: vec![payload("m")],
        }],
        market: None,
    };
    check_appended(
        Header::new(Kind::Desired, BOOT, 0),
        &body,
        &Message::Desired(body.clone()),
        1,
        "a10a0100 ed5eedfe 0000000000000000 000172810180d095ffbc310001036c6c6d010101054750552d3101000365636f01809f49d0860390 9e96ffbc310180adf180bd3101ac0201017a01010101056e696768747fa80ae802000001016d0101 01054750552d31",
        concat!(
            r#"{"kind":"desired","major":1,"flags":0,"boot":4276969197,"seq":0,"body":{"audience":{"rig":"r"},"revi"#,
            r#"sion":129,"issued_ms":1700000000000,"not_after_ms":null,"payloads":[{"name":"llm","run":true,"gpus":"#,
            r#"["GPU-1"]}],"profiles":[{"gpu":null,"profile":"eco"}],"power_cap":{"cap_mw":1200000,"ramp_mw_per_s":"#,
            r#"50000,"deadline_ms":1700000010000,"until_ms":1700003600000,"floor_mw":300},"fan_targets":[{"zone":"z"#,
            r#"","target_mc":-1}],"maintenance":true,"standing":[{"name":"night","when":{"days":127,"from_min":1320"#,
            r#","to_min":360},"utc":false,"power_cap":null,"payloads":[{"name":"m","run":true,"gpus":["GPU-1"]}]}]}"#,
            r#"}"#,
        ),
    );
    let body = Desired {
        market: Some(Market {
            until_ms: 300,
            energy: Some(MicroPerKilowattHour(-1)),
            values: vec![MarketValue { payload: "m".to_owned(), value: MicroPerTera(129) }],
            leases: vec![MarketLease { payload: "l".to_owned(), from_ms: 1, to_ms: 2, priority: 7 }],
        }),
        ..body
    };
    let header = Header::new(Kind::Desired, BOOT, 0);
    let bytes = encode(Encoding::Postcard, header, &body);
    let tail: String = bytes.iter().skip(bytes.len() - 16).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(tail, "01ac02010101016d81010101 6c010207".replace(' ', ""));
    assert_eq!(decode(&bytes), Ok((header, Message::Desired(body.clone()))));
    assert_eq!(decode(&encode(Encoding::Json, header, &body)), Ok((header, Message::Desired(body))));
}

#[test]
fn a_report() {
    let body = Reported {
        reached: 0,
        accepted: 129,
        refused: Some(RefusedRevision { revision: 130, reason: "no".to_owned() }),
        differences: vec![Difference {
            what: "a".to_owned(),
            want: "b".to_owned(),
            have: "c".to_owned(),
            why: "d".to_owned(),
        }],
        standing: vec!["night".to_owned()],
        stale_h: Some(80),
    };
    check(
        Header::new(Kind::Reported, BOOT, 0),
        &body,
        &Message::Reported(body.clone()),
        "a1080100 ed5eedfe 0000000000000000 008101018201026e6f01016101620163016401056e696768740150",
        concat!(
            r#"{"kind":"reported","major":1,"flags":0,"boot":4276969197,"seq":0,"body":{"reached":0,"accepted":129,"#,
            r#""refused":{"revision":130,"reason":"no"},"differences":[{"what":"a","want":"b","have":"c","why":"d"}"#,
            r#"],"standing":["night"],"stale_h":80}}"#,
        ),
    );
}

/// Each order with its number and its fields.
#[test]
fn orders_byte_by_byte() {
    let text = |text: &str| text.to_owned();
    let key =
        TrustedKey { name: text("k"), public: PublicKey([0xee; 32]), scopes: vec![Scope::Observe, Scope::Safety] };
    for (order, expected) in [
        (Order::SetProfile { gpu: Some(text("G")), profile: None }, "00 01 01 47 00"),
        (Order::SetPowerCap(None), "01 00"),
        (Order::SetFanTarget { zone: text("z"), target_mc: Some(Millicelsius(64)) }, "02 01 7a 01 8001"),
        (Order::Payload { name: text("p"), act: PayloadAct::Drain }, "03 01 70 03"),
        (Order::Assign { payload: text("p"), gpus: vec![text("G")] }, "04 01 70 01 01 47"),
        (Order::Identify { seconds: 300 }, "05 ac02"),
        (Order::Probe, "06"),
        (Order::Logs { payload: text("p"), lines: 200 }, "07 01 70 c801"),
        (Order::Snapshot, "08"),
        (Order::Reload, "09"),
        (Order::RestartAgent, "0a"),
        (Order::Reboot, "0b"),
        (
            Order::RotateKey { add: Some(key), revoke: Some(KeyId([1; 8])) },
            "0c 01 01 6b eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee 02 00 05 01 0101010101010101",
        ),
        (Order::Maintenance { on: true, until_ms: Some(300) }, "0d 01 01 ac02"),
        (Order::FollowLogs { payload: text("p"), seconds: 300 }, "0e 01 70 ac02"),
    ] {
        assert_eq!(hex(&order), expected.split_whitespace().collect::<String>(), "{order:?}");
    }
}

#[test]
fn enums_of_commands_only_append() {
    let group = || "g".parse().unwrap();
    let audiences = [Audience::Rig("r".parse().unwrap()), Audience::Group(group()), Audience::Site(group())];
    assert_eq!(audiences.map(|audience| hex(&audience)), ["000172", "010167", "020167"]);
    let acts = [PayloadAct::Start, PayloadAct::Stop, PayloadAct::Restart, PayloadAct::Drain];
    assert_eq!(acts.map(|act| hex(&act)), ["00", "01", "02", "03"]);
    let scopes = [Scope::Observe, Scope::Operate, Scope::Tune, Scope::Payload, Scope::Update, Scope::Safety];
    assert_eq!(scopes.map(|scope| hex(&scope)), ["00", "01", "02", "03", "04", "05"]);
    assert_eq!(Scope::ALL, scopes);
    let text = || "t".to_owned();
    let outcomes = [Outcome::Nothing, Outcome::Text(text()), Outcome::Lines(vec![text()])];
    assert_eq!(outcomes.map(|outcome| hex(&outcome)), ["00", "010174", "02010174"]);
    let states = [
        AckState::Accepted,
        AckState::Running { percent: 50, text: text() },
        AckState::Done(Outcome::Nothing),
        AckState::Failed(text()),
        AckState::Refused(Refusal::Expired),
        AckState::Unknown,
    ];
    assert_eq!(states.map(|state| hex(&state)), ["00", "01320174", "0200", "030174", "0405", "05"]);
    let refusals = [
        Refusal::Malformed(text()),
        Refusal::UnknownKey,
        Refusal::RevokedKey,
        Refusal::BadSignature,
        Refusal::WrongAudience,
        Refusal::Expired,
        Refusal::NotYet,
        Refusal::ClockUnset,
        Refusal::Replayed,
        Refusal::Scope(Scope::Tune),
        Refusal::SecondKey,
        Refusal::Retained,
        Refusal::TooMany,
        Refusal::Policy(text()),
    ];
    let expected = ["000174", "01", "02", "03", "04", "05", "06", "07", "08", "0902", "0a", "0b", "0c", "0d0174"];
    assert_eq!(refusals.map(|refusal| hex(&refusal)), expected);
    let kinds = [Kind::Ack, Kind::Reported, Kind::Command, Kind::Desired, Kind::Log];
    assert_eq!(
        kinds.map(|kind| (kind as u8, hex(&kind))),
        [(7, 6), (8, 7), (9, 8), (10, 9), (12, 11)].map(|(n, i)| (n, format!("{i:02x}")))
    );
}

#[cfg(feature = "ctl")]
mod frame {
    use rigd::wire::SigningKey;

    /// Ed25519 has no chance in it: the same key, topic and message give the same frame.
    #[test]
    fn a_frame_byte_by_byte() {
        let key = |seed| SigningKey::from_seed(&[seed; 32]).unwrap();
        let frame = key(1).frame(Some(&key(2)), "r1/r/dn/cmd", b"{}");
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a20102
             34750f98bd59fcfc
             d8b0363550a6a45704091140eae18cfb77093229bbbcff640a113a6d18b0735d2b6b34fe1c6d0e017318b23f43fbc0f0fe867069b2c90568e10123083a25e001
             6a3803d5f059902a
             2f55a29aa54fb524a9325e72602c54309871332477dcbb87811a139e8035dcf35388517a8e66d59b750d329f7012315cbc70be822b825fdbd95fa888dadf200d
             7b7d".split_whitespace().collect::<String>());
    }
}
