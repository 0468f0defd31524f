//! What it answers.

use std::io::Write;

use rigd::gpu::frame::encode;
use rigd::gpu::wire::{Answer, Call, Code, Message, PciAddress, Request, Setting, Settings};
use rigd::units::{Duty, Mebibytes, Megahertz, MegahertzOffset, Milliwatts};

use crate::process::{Process, Rig, until};

fn settings(process: &mut Process, gpu: PciAddress) -> Settings {
    let Answer::Settings(Ok(settings)) = process.call(Request::Settings(gpu)) else { panic!("not what was asked") };
    settings
}

#[test]
fn every_card_is_listed_with_what_it_can() {
    let rig = Rig::new("inventory", "ampere:2,blackwell,datacenter");
    let mut process = rig.start();
    let devices: Vec<_> = process.inventory().into_iter().map(Result::unwrap).collect();
    assert!(devices.len() >= 4);
    for device in &devices {
        assert!(device.uuid.starts_with("GPU-") && !device.name.is_empty(), "{device:?}");
        assert!(device.limits.is_ok_and(|(least, most)| least < most), "{device:?}");
        let sample = process.sample(device.pci).unwrap();
        assert_eq!(sample.fans.len(), usize::from(device.fans), "{device:?}");
        assert!(sample.temperature.is_ok_and(|t| (1_000..110_000).contains(&t.0)), "{sample:?}");
        assert!(sample.power.is_ok_and(|power| power > Milliwatts(1_000)), "{sample:?}");
        assert!(sample.reasons.is_ok() && sample.sm_clock.is_ok() && sample.memory_used.is_ok(), "{sample:?}");
    }
    let (ampere, datacenter) = (devices.first().unwrap(), devices.get(3).unwrap());
    assert_eq!(ampere.architecture, Ok(7));
    assert_eq!(process.sample(ampere.pci).unwrap().ecc, Err(Code::NOT_SUPPORTED));
    rig.say("gpu 3 ecc 5 1");
    rig.say("gpu 3 rows 1 0 1 0");
    let sample = process.sample(datacenter.pci).unwrap();
    assert_eq!(sample.ecc, Ok((5, 1)));
    assert!(sample.remapped.is_ok_and(|rows| rows.corrected == 1 && rows.pending && !rows.failed), "{sample:?}");
}

#[test]
fn what_is_set_is_read_back() {
    let rig = Rig::new("set", "ampere");
    let mut process = rig.start();
    let gpu = process.first();
    let set = |process: &mut Process, setting| process.set(Request::Set(gpu, setting));
    assert_eq!(set(&mut process, Setting::PowerLimit(Milliwatts(200_000))), Ok(()));
    assert_eq!(set(&mut process, Setting::PowerLimit(Milliwatts(1))), Err(Code::INVALID_ARGUMENT));
    assert_eq!(set(&mut process, Setting::CoreOffset(MegahertzOffset(90))), Ok(()));
    assert_eq!(set(&mut process, Setting::MemoryOffset(MegahertzOffset(-200))), Ok(()));
    assert_eq!(set(&mut process, Setting::Persistence(true)), Ok(()));
    let told = settings(&mut process, gpu);
    assert_eq!(told.limit, Ok(Milliwatts(200_000)));
    assert_eq!(told.core_offset, [Ok(MegahertzOffset(90)); 2]);
    assert_eq!(told.memory_offset, [Ok(MegahertzOffset(-200)); 2]);
    assert_eq!(told.persistence, Ok(true));
    for setting in [
        Setting::CoreLock(Some((Megahertz(1_200), Megahertz(1_200)))),
        Setting::CoreLock(None),
        Setting::MemoryLock(Some((Megahertz(5_001), Megahertz(5_001)))),
        Setting::MemoryLock(None),
    ] {
        assert_eq!(set(&mut process, setting), Ok(()), "{setting:?}");
    }
}

#[test]
fn every_fan_is_driven_and_given_back() {
    let rig = Rig::new("drive", "ampere");
    let mut process = rig.start();
    let gpu = process.first();
    assert_eq!(process.set(Request::Drive(gpu, Duty::from_percent(70))), Ok(()));
    rig.say("advance 20");
    let fans = process.sample(gpu).unwrap().fans;
    assert!(!fans.is_empty());
    assert!(fans.iter().all(|fan| fan.manual == Ok(true) && fan.duty == Ok(Duty::saturating(7_000))), "{fans:?}");
    assert_eq!(process.set(Request::Drive(gpu, None)), Ok(()));
    let fans = process.sample(gpu).unwrap().fans;
    assert!(fans.iter().all(|fan| fan.manual == Ok(false)), "{fans:?}");
}

#[test]
fn a_fan_that_refuses_gives_all_of_them_back() {
    let rig = Rig::new("refuse", "ampere");
    let mut process = rig.start();
    let gpu = process.first();
    rig.say("fault gpu 0 SetFanSpeed_v2 code 999 after 1");
    assert_eq!(process.set(Request::Drive(gpu, Duty::from_percent(70))), Err(Code::UNKNOWN));
    let fans = process.sample(gpu).unwrap().fans;
    assert!(fans.iter().all(|fan| fan.manual == Ok(false)), "{fans:?}");
}

#[test]
fn one_lost_card_is_that_card_alone() {
    let rig = Rig::new("lost", "ampere:2");
    let mut process = rig.start();
    let all: Vec<PciAddress> = process.inventory().into_iter().map(|device| device.unwrap().pci).collect();
    let (lost, other) = (*all.first().unwrap(), *all.get(1).unwrap());
    rig.say("gpu 0 fall");
    match process.sample(lost) {
        Err(code) => assert_eq!(code, Code::GPU_IS_LOST),
        Ok(sample) => assert_eq!(sample.temperature, Err(Code::GPU_IS_LOST)),
    }
    assert!(process.sample(other).unwrap().temperature.is_ok());
    let inventory = process.inventory();
    assert_eq!(inventory.iter().filter(|device| device.is_err()).count(), 1, "{inventory:?}");
    let nobody = PciAddress { domain: 0, bus: 0xff, device: 0x1f };
    assert_eq!(process.sample(nobody).map(drop), Err(Code::NOT_FOUND));
}

#[test]
fn an_xid_is_told_by_itself() {
    let rig = Rig::new("xid", "ampere:2");
    // It greets before it has asked to be told: that it has is seen by what it meets there, which breaks nothing.
    rig.say("fault gpu 1 RegisterEvents slow 1ms");
    let mut process = rig.start();
    let second = process.inventory().into_iter().nth(1).unwrap().unwrap().pci;
    until(|| rig.say("get hits").starts_with("1 gpu 1 nvmlDeviceRegisterEvents"));
    rig.say("gpu 1 xid 31");
    assert_eq!(process.message(), Some(Message::Xid { gpu: Some(second), code: 31 }));
}

#[test]
fn processes_are_told_with_their_memory() {
    let rig = Rig::new("processes", "ampere");
    let mut process = rig.start();
    let gpu = process.first();
    rig.say("gpu 0 process 4242 1024");
    let Answer::Processes(Ok(running)) = process.call(Request::Processes(gpu)) else { panic!("no list") };
    let found = running.iter().find(|process| process.pid == 4242).unwrap();
    assert_eq!(found.memory, Ok(Mebibytes(1024)));
}

#[test]
fn a_self_test_asks_everything_once_and_sets_nothing() {
    let rig = Rig::new("selftest", "ampere");
    let mut process = rig.start();
    let gpu = process.first();
    let Answer::Selftest(Ok(probes)) = process.call(Request::Selftest(gpu)) else { panic!("no list") };
    let probe = |call: &str| probes.iter().find(|probe| probe.call == call).unwrap();
    assert!(probe("nvmlDeviceGetTemperatureV").result.is_ok());
    assert_eq!(probe("nvmlDeviceGetFieldValues 82").result, Err(Code::NOT_SUPPORTED));
    let clocks = probe("nvmlDeviceGetMinMaxClockOfPState memory").result.clone().unwrap();
    assert!(clocks.contains("(2, Megahertz(9501)), (3, Megahertz(5001))"), "{clocks}");
    assert!(probes.len() > 40 && !probes.iter().any(|probe| probe.call.contains("DeviceSet")), "{probes:?}");
    assert!(!probes.iter().any(|probe| probe.call.contains("SupportedGraphicsClocks")), "{probes:?}");
    assert_eq!(rig.say("get settings"), "");
}

#[test]
fn garbage_is_skipped_and_noise_from_the_driver_is_survived() {
    let rig = Rig::new("garbage", "ampere");
    let mut process = rig.start();
    let gpu = process.first();
    process.stream.write_all(b"\xff\xff\xffnothing of ours\0\0\0").unwrap();
    assert!(process.sample(gpu).unwrap().temperature.is_ok());
    rig.say("fault gpu all any garbage");
    for request in [Request::Inventory, Request::Sample(gpu), Request::Settings(gpu), Request::Selftest(gpu)] {
        // Whatever is in it, it is an answer.
        process.call(request);
    }
    rig.say("clear gpu");
    assert!(process.sample(gpu).unwrap().temperature.is_ok());
}

/// Far more calls than one read takes, or than a tick has.
#[test]
fn as_many_calls_as_come_at_once_are_answered_in_their_order() {
    const CALLS: u32 = 1_200;
    let rig = Rig::new("many", "ampere");
    let mut process = rig.start();
    let gpu = process.first();
    let calls: Vec<u8> = (0..CALLS).flat_map(|id| encode(&Call { id, request: Request::Processes(gpu) })).collect();
    assert!(calls.len() > 2 * 4096, "{} bytes", calls.len());
    process.stream.write_all(&calls).unwrap();
    for expected in 0..CALLS {
        match process.message() {
            Some(Message::Reply { id, answer: Answer::Processes(Ok(_)) }) => assert_eq!(id, expected),
            other => panic!("{other:?} instead of answer {expected}"),
        }
    }
}
