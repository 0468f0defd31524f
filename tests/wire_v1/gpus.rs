//! What GPUs brought to the wire.

use rigd::alarm::{self, Cause};
use rigd::gpu::xid::Action;
use rigd::gpu::{Driver, Knob, Phase, Presence, Verdict};
use rigd::reading::{Missing, Snapshot, Stage};
use rigd::units::{Duty, Mebibytes, Megahertz, Millicelsius, Millijoules, Milliwatts, Percent, Rpm};
use rigd::wire::{
    Capability, Encoding, Gpu, GpuDetail, GpuInfo, Header, Kind, Losses, Subject, Telemetry, Value, Zone, encode,
};

use super::BOOT;

/// A card that tells much, and one that is lost: what eight of the first take is told by the last test.
fn gpus() -> (Gpu, Gpu, GpuDetail, GpuInfo) {
    let one = Gpu {
        presence: Presence::Seen,
        temperature: Value(Ok(Millicelsius(61_000))),
        memory_temperature: Value(Err(Missing::NotPresent)),
        power: Value(Ok(Milliwatts(219_870))),
        sm_mhz: Value(Ok(Megahertz(1_500))),
        memory_mhz: Value(Ok(Megahertz(9_751))),
        load: Value(Ok(Percent(100))),
        memory_used: Value(Ok(Mebibytes(9_216))),
        fan_duty: Value(Ok(Duty::from_percent(60).unwrap())),
        reasons: Value(Ok(4)),
        air: Zone { duty: Value(Ok(Duty::from_percent(60).unwrap())), stage: Stage::Normal },
        profile: Phase::Committed,
    };
    let lost = Gpu {
        presence: Presence::Lost,
        temperature: Value(Err(Missing::Bus)),
        memory_temperature: Value(Err(Missing::Bus)),
        power: Value(Err(Missing::Bus)),
        sm_mhz: Value(Err(Missing::Bus)),
        memory_mhz: Value(Err(Missing::Bus)),
        load: Value(Err(Missing::Bus)),
        memory_used: Value(Err(Missing::Bus)),
        fan_duty: Value(Err(Missing::Bus)),
        reasons: Value(Err(Missing::Bus)),
        air: Zone { duty: Value(Err(Missing::NotPresent)), stage: Stage::Normal },
        profile: Phase::Applying,
    };
    let detail = GpuDetail {
        gpu: 7,
        margin: Value(Ok(Millicelsius(32_000))),
        power_now: Value(Ok(Milliwatts(221_000))),
        energy: Value(Ok(Millijoules(123_456_789_000))),
        limit: Value(Ok(Milliwatts(220_000))),
        enforced_limit: Value(Ok(Milliwatts(220_000))),
        pstate: Value(Ok(2)),
        memory_load: Value(Ok(Percent(85))),
        fans: vec![(Value(Ok(Duty::from_percent(60).unwrap())), Value(Ok(Rpm(1_980)))); 2],
        pcie_generation: Value(Ok(3)),
        pcie_width: Value(Ok(1)),
        replays: Value(Ok(300)),
        ecc: Some((1, 0)),
        remapped: Some((0, 2, true, false)),
        recovery: Value(Err(Missing::NotPresent)),
        xids: 3,
        last_xid: Some(79),
        profile: Some("eco".to_owned()),
        quarantined: 1,
        processes: vec![(4_321, Value(Ok(Mebibytes(9_000))))],
    };
    let info = GpuInfo {
        pci: "0000:01:00.0".to_owned(),
        uuid: "GPU-1".to_owned(),
        name: "N".to_owned(),
        vbios: Some("94".to_owned()),
        serial: None,
        memory_mib: Some(Mebibytes(24_576)),
        min_limit_mw: Some(Milliwatts(100_000)),
        max_limit_mw: Some(Milliwatts(480_000)),
        default_limit_mw: Some(Milliwatts(350_000)),
        max_sm_mhz: Some(Megahertz(2_100)),
        max_memory_mhz: Some(Megahertz(9_751)),
        slowdown_mc: Some(Millicelsius(95_000)),
        fans: 2,
        pcie_max_generation: Some(4),
        pcie_max_width: Some(16),
        capabilities: vec![Capability::Temperature, Capability::FanDrive],
    };
    (one, lost, detail, info)
}

/// A struct inside of a list has no place for an appended field: these never change.
#[test]
fn gpus_byte_by_byte() {
    fn hex<T: serde::Serialize>(value: &T) -> String {
        postcard::to_allocvec(value).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
    }
    let (one, lost, detail, info) = gpus();
    for (bytes, expected) in [
        (hex(&one), "010090b9070100deb50d00dc0b00974c006400804800f02e000800f02e0103"),
        (hex(&lost), "02030303030303030303010101"),
        (
            hex(&detail),
            "070080f40300c8be0d0088b4e4f4cb0300e0b60d00e0b60d000200550200f02e00bc0f00f02e00bc0f0003000100ac0201010001000201000103014f010365636f0101e12100a846",
        ),
        (
            hex(&info),
            "0c303030303a30313a30302e30054750552d31014e01023934000180c00101a08d060180a61d01b0ae1501b41001974c01b0cc0b0201040110020010",
        ),
    ] {
        assert_eq!(bytes, expected.split_whitespace().collect::<String>());
    }
}

#[test]
fn what_gpus_appended_to_enums() {
    fn numbers<T: serde::Serialize>(all: &[T]) -> Vec<u8> {
        all.iter().flat_map(|one| postcard::to_allocvec(one).unwrap()).collect()
    }
    use alarm::Kind as A;
    let alarms = [A::GpuLost, A::GpuDriver, A::GpuLink, A::GpuXid, A::GpuDrift, A::GpuProfile];
    assert_eq!(numbers(&alarms), [15, 16, 17, 18, 19, 20]);
    assert_eq!(numbers(&[Subject::Gpu(300), Subject::Driver]), [6, 172, 2, 7]);
    let drivers = [
        Driver::None,
        Driver::Starting,
        Driver::Up,
        Driver::Down(12),
        Driver::Mismatch,
        Driver::Hung,
        Driver::Released,
    ];
    assert_eq!(numbers(&drivers), [0, 1, 2, 3, 12, 4, 5, 6]);
    let presences = [Presence::Unseen, Presence::Seen, Presence::Lost, Presence::Hung, Presence::Unlisted];
    assert_eq!(numbers(&presences), [0, 1, 2, 3, 4]);
    let phases = [Phase::Default, Phase::Applying, Phase::Probation, Phase::Committed, Phase::RollingBack];
    assert_eq!(numbers(&phases), [0, 1, 2, 3, 4]);
    let actions =
        [Action::Record, Action::RestartApplication, Action::ResetGpu, Action::RestartMachine, Action::CheckHardware];
    assert_eq!(numbers(&actions), [0, 1, 2, 3, 4]);
    let knobs =
        [Knob::PowerLimit, Knob::CoreLock, Knob::MemoryLock, Knob::CoreOffset, Knob::MemoryOffset, Knob::Persistence];
    assert_eq!(numbers(&knobs), [0, 1, 2, 3, 4, 5]);
    use Capability as C;
    let capabilities = [
        C::Temperature,
        C::Margin,
        C::MemoryTemperature,
        C::Power,
        C::Energy,
        C::Load,
        C::Reasons,
        C::FanSpeed,
        C::PcieLink,
        C::Ecc,
        C::RemappedRows,
        C::PowerLimit,
        C::CoreLock,
        C::MemoryLock,
        C::CoreOffset,
        C::MemoryOffset,
        C::FanDrive,
    ];
    assert_eq!(numbers(&capabilities), (0..17).collect::<Vec<_>>());
    let verdicts = [
        Verdict::Committed,
        Verdict::Refused(knobs[0], 4),
        Verdict::NotHeld(knobs[0]),
        Verdict::WillNotHold(knobs[0]),
        Verdict::Xid(79),
        Verdict::Lost,
        Verdict::OutsideLock(1_500),
        Verdict::Crashed,
        Verdict::RolledBack,
        Verdict::Reloaded,
    ];
    assert_eq!(numbers(&verdicts), [0, 1, 0, 4, 2, 0, 3, 0, 4, 79, 5, 6, 220, 11, 7, 8, 9]);
    for (cause, expected) in [
        (Cause::Presence(Presence::Lost), [4, 2].as_slice()),
        (Cause::Driver(Driver::Down(9)), &[5, 3, 9]),
        (Cause::Xid { code: 79, action: Action::CheckHardware }, &[6, 79, 4]),
        (Cause::Drift { knob: Knob::CoreLock, wanted: -1, found: 300 }, &[7, 1, 1, 216, 4]),
        (Cause::Profile(Verdict::Xid(13)), &[8, 4, 13]),
    ] {
        assert_eq!(numbers(&[cause]), expected, "{cause:?}");
    }
}

/// Eight GPUs, and the rest of one of them.
#[test]
fn eight_gpus_are_small() {
    let (one, _, detail, _) = gpus();
    let mut body =
        Telemetry::new(u32::MAX, 1_900_000_000_000, 31_536_000_000, &Snapshot::default(), Losses::default(), 0);
    let length = |body: &Telemetry| encode(Encoding::Postcard, Header::new(Kind::Telemetry, BOOT, 1 << 20), body).len();
    let without = length(&body);
    body.gpus = vec![one; 8];
    let eight = length(&body) - without;
    body.gpu_detail = Some(detail);
    let more = length(&body) - without - eight;
    assert!(eight <= 256 && more <= 96, "{eight} bytes for eight GPUs, {more} for the rest of one");
}
