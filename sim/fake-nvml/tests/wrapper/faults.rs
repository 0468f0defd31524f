//! What is broken while somebody uses it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::rig::{Host, Numbered, card, library, on_rig};

const GPU: TemperatureSensor = TemperatureSensor::Gpu;

#[test]
fn codes_come_at_the_call_they_are_for_after_as_many_as_asked() {
    on_rig("faults::codes_come_at_the_call_they_are_for_after_as_many_as_asked", "ampere", |rig, nvml| {
        let (gpu, other) = (card(nvml, 3), card(nvml, 2));
        rig.say("fault gpu 3 GetTemperature code 999 after 2");
        let got = [0; 4].map(|_| gpu.temperature(GPU).map_err(|error| error.to_string()).is_ok());
        assert_eq!(got, [true, true, false, false]);
        assert!(other.temperature(GPU).is_ok() && gpu.power_usage().is_ok());
        for (word, number) in
            [("not-supported", 3), ("no-permission", 4), ("unknown", 999), ("deprecated", 26), ("code 28", 28)]
        {
            rig.say("clear gpu 3");
            rig.say(&format!("fault gpu 3 GetPowerUsage {word}"));
            assert_eq!(gpu.power_usage().n(), Err(number), "{word}");
        }
        rig.say("clear all");
        assert!(gpu.power_usage().is_ok() && gpu.temperature(GPU).is_ok());
        rig.say("fault gpu 3 GetHandleByIndex_v2 unknown");
        assert_eq!((nvml.device_by_index(3).map(drop).n(), nvml.device_by_index(2).map(drop).n()), (Err(999), Ok(())));
    });
}

#[test]
fn a_card_that_falls_is_lost_for_every_call_and_the_others_are_not() {
    on_rig("faults::a_card_that_falls_is_lost_for_every_call_and_the_others_are_not", "ampere", |rig, nvml| {
        let gpu = card(nvml, 3);
        rig.say("gpu 3 fall");
        let lost = 15;
        assert_eq!(gpu.temperature(GPU).n(), Err(lost));
        assert_eq!(gpu.uuid().n(), Err(lost));
        assert_eq!(nvml.device_by_index(3).map(drop).n(), Err(lost));
        assert_eq!(nvml.device_by_pci_bus_id("00000000:04:00.0").map(drop).n(), Err(lost));
        assert_eq!(nvml.device_count().n(), Ok(8), "it keeps its index until the driver is loaded again");
        assert!((0..8).filter(|index| *index != 3).all(|index| card(nvml, index).power_usage().is_ok()));
        rig.say("advance 60");
        assert_eq!((rig.truth("gpu.3.presence").as_str(), gpu.power_usage().n()), ("lost", Err(lost)));
        assert!(rig.number("rail.gpu3.mw") < 40_000.0);
        rig.say("clear gpu 3");
        assert!(gpu.power_usage().is_ok());
        rig.say("fault gpu 3 GetName lost after 1");
        assert!(gpu.name().is_ok() && gpu.power_usage().is_ok());
        assert_eq!((gpu.name().n(), gpu.power_usage().n()), (Err(15), Err(15)), "from then on");
    });
}

#[test]
fn heat_slows_a_card_and_then_switches_it_off() {
    on_rig("faults::heat_slows_a_card_and_then_switches_it_off", "ampere", |rig, nvml| {
        let gpu = card(nvml, 0);
        rig.say("set gpu 0 load 1");
        for fan in 1..=6 {
            rig.say(&format!("fault fan seized {fan}"));
        }
        rig.say("advance 300");
        let reasons = gpu.current_throttle_reasons_strict().unwrap().bits();
        assert!(reasons & 0x68 != 0, "thermal: {reasons:#x} at {}", rig.truth("gpu.0.mc"));
        assert!(gpu.clock_info(nvml_wrapper::enum_wrappers::device::Clock::SM).unwrap() < 1500);
        rig.say("set ambient 80000");
        rig.say("advance 600");
        assert_eq!((rig.truth("gpu.0.presence").as_str(), gpu.power_usage().n()), ("off", Err(15)));
    });
}

#[test]
fn an_xid_comes_as_an_event_to_those_who_wait() {
    on_rig("faults::an_xid_comes_as_an_event_to_those_who_wait", "ampere", |rig, nvml| {
        let set = nvml.create_event_set().unwrap();
        let gpu = card(nvml, 5);
        assert!(gpu.supported_event_types().unwrap().contains(EventTypes::CRITICAL_XID_ERROR));
        let set = gpu.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error).unwrap();
        assert!(matches!(set.wait(1), Err(NvmlError::Timeout)));
        rig.say("gpu 4 xid 48");
        rig.say("gpu 5 xid 13");
        let event = set.wait(5_000).unwrap();
        assert!(format!("{:?}", event.event_data).contains("13"), "{:?}", event.event_data);
        assert_eq!(event.device.pci_info().unwrap().bus, 6);
        rig.say("gpu 5 xid 79");
        let event = set.wait(5_000).unwrap();
        assert!(format!("{:?}", event.event_data).contains("79"), "{:?}", event.event_data);
        assert!(matches!(set.wait(5_000), Err(NvmlError::GpuLost)), "no more of that card, and that at once");
    });
}

#[test]
fn settings_that_are_accepted_may_change_nothing() {
    on_rig("faults::settings_that_are_accepted_may_change_nothing", "ampere", |rig, nvml| {
        let mut gpu = card(nvml, 0);
        rig.say("fault gpu 0 SetPowerManagementLimit ignored");
        assert_eq!(gpu.set_power_management_limit(200_000).n(), Ok(()));
        assert_eq!(gpu.power_management_limit().n(), Ok(350_000));
        rig.say("clear gpu 0");
        gpu.set_power_management_limit(200_000).unwrap();
        assert_eq!(gpu.power_management_limit().n(), Ok(200_000));
        let set = "0 nvmlDeviceSetPowerManagementLimit 200000 -> 0\n";
        assert_eq!(rig.say("get settings"), set.repeat(2), "who looks at what was called sees both");
    });
}

#[test]
fn lists_may_grow_and_lie_and_numbers_may_be_noise() {
    on_rig("faults::lists_may_grow_and_lie_and_numbers_may_be_noise", "ampere", |rig, nvml| {
        let gpu = card(nvml, 0);
        rig.say("gpu 0 process 77 10");
        rig.say("fault gpu 0 GetComputeRunningProcesses_v3 race");
        assert!(matches!(gpu.running_compute_processes(), Err(NvmlError::InsufficientSize(_))));
        rig.say("clear gpu 0");
        rig.say("fault gpu 0 any garbage");
        let noise: Vec<u32> = (0..4).map(|_| gpu.power_usage().unwrap()).collect();
        assert!(noise.iter().any(|value| *value > 10_000_000), "{noise:?}");
        let mut length = 16;
        let mut clocks = [0; 16];
        // SAFETY: as many as it is told.
        let code = unsafe {
            nvml.lib().nvmlDeviceGetSupportedMemoryClocks(gpu.handle(), &raw mut length, clocks.as_mut_ptr())
        };
        assert_eq!((code, length), (0, 16), "5 are there");
        rig.say("clear all");
        assert_eq!(gpu.power_management_limit().n(), Ok(350_000));
    });
}

#[test]
fn the_order_changes_and_a_reload_forgets() {
    on_rig("faults::the_order_changes_and_a_reload_forgets", "ampere", |rig, nvml| {
        let bus = |index: u32| nvml.device_by_index(index).unwrap().pci_info().unwrap().bus;
        let uuid = card(nvml, 0).uuid().unwrap();
        rig.say("driver order 1 0");
        assert_eq!([bus(0), bus(1), bus(2)], [2, 1, 3]);
        assert_eq!(nvml.device_by_uuid(uuid).unwrap().pci_info().unwrap().bus, 1, "who asks by name finds it");
        let mut gpu = card(nvml, 2);
        gpu.set_power_management_limit(200_000).unwrap();
        let energy = gpu.total_energy_consumption().unwrap();
        rig.say("advance 20");
        rig.say("gpu 0 fall");
        rig.say("driver reload");
        assert_eq!(gpu.power_usage().n(), Err(1));
        let again = crate::rig::nvml();
        assert_eq!((again.device_count().n(), bus(0)), (Ok(7), 2), "the lost one is not found, the others move up");
        assert_eq!(gpu.power_management_limit().n(), Ok(350_000));
        rig.say("advance 1");
        assert!(gpu.total_energy_consumption().unwrap() < energy + 5_000_000);
        rig.say("gpu 2 energy-reset");
        assert_eq!(gpu.total_energy_consumption().n(), Ok(0));
        drop(again);
    });
}

/// How a process ends that makes a call which is broken so.
fn victim(fault: &str) -> (Option<i32>, Option<i32>) {
    let host = Host::new("ampere");
    host.say(fault);
    let status = host.start("faults::calls_and_ends").wait().unwrap();
    (status.code(), status.signal())
}

/// Not a test by itself: a process that makes a few calls.
#[test]
fn calls_and_ends() {
    if std::env::var_os("RIGD_SIMULATION").is_none() {
        return;
    }
    println!("calls");
    let nvml = Nvml::builder().lib_path(library().as_os_str()).init();
    let nvml =
        nvml.unwrap_or_else(|error| std::process::exit(i32::try_from(Err::<(), _>(error).n().unwrap_err()).unwrap()));
    let temperature = nvml.device_by_index(0).and_then(|gpu: Device<'_>| gpu.temperature(GPU));
    println!("called {temperature:?}");
    std::mem::forget(nvml);
    std::process::exit(0);
}

#[test]
fn init_fails_as_it_does_with_a_wrong_or_no_driver() {
    assert_eq!(victim("fault nvml init mismatch"), (Some(18), None));
    assert_eq!(victim("fault nvml init not-loaded"), (Some(9), None));
    assert_eq!(victim("fault gpu 1 any hang"), (Some(0), None));
}

#[test]
fn a_call_may_kill_who_makes_it() {
    assert_eq!(victim("fault gpu 0 GetTemperature segv"), (None, Some(11)));
    assert_eq!(victim("fault gpu 0 GetTemperature abort"), (None, Some(6)));
}

/// Lines of a child, as they come.
fn lines(child: &mut std::process::Child) -> std::sync::mpsc::Receiver<String> {
    let stdout = child.stdout.take().unwrap();
    let (send, receive) = sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

fn until(lines: &std::sync::mpsc::Receiver<String>, word: &str) -> bool {
    while let Ok(line) = lines.recv_timeout(Duration::from_secs(60)) {
        if line.contains(word) {
            return true;
        }
    }
    false
}

/// Waits until somebody has met what is broken.
#[expect(clippy::disallowed_methods, reason = "what a client waits for is wall time")]
fn await_hit(host: &Host) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !host.say("get hits").starts_with("1 gpu 0 nvmlDeviceGetTemperature") {
        assert!(Instant::now() < give_up, "{}", host.say("get hits"));
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_call_may_hang_for_good_and_hangs_that_process_alone() {
    let host = Host::new("ampere");
    host.say("fault gpu 0 GetTemperature hang");
    let mut stuck = host.start("faults::calls_and_ends");
    let said = lines(&mut stuck);
    assert!(until(&said, "calls"));
    await_hit(&host);
    // Another process that asks another card comes and goes meanwhile.
    host.say("driver order 1 0");
    let mut well = host.start("faults::calls_and_ends");
    assert_eq!(well.wait().unwrap().code(), Some(0));
    let called = said.recv_timeout(Duration::from_secs(1));
    assert!(called.is_err() && stuck.try_wait().unwrap().is_none(), "{called:?}");
    stuck.kill().unwrap();
    assert_eq!(stuck.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_call_may_take_its_time() {
    let host = Host::new("ampere");
    host.say("fault gpu 0 GetTemperature slow 700ms");
    // Before it is started: what it says may be heard late.
    #[expect(clippy::disallowed_methods, reason = "what a client waits for is wall time")]
    let began = Instant::now();
    let mut slow = host.start("faults::calls_and_ends");
    let said = lines(&mut slow);
    assert!(until(&said, "called Ok("));
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert!(slow.wait().unwrap().success());
}

#[test]
fn the_kernel_shows_what_fell() {
    use std::io::Read;
    let host = Host::new("ampere,blackwell");
    let file = |name: &str| std::fs::read(host.dir.join("sys/bus/pci/devices/0000:02:00.0").join(name)).unwrap();
    let text = |name: &str| String::from_utf8(file(name)).unwrap();
    assert_eq!((text("vendor").as_str(), text("device").as_str()), ("0x10de\n", "0x2bb4\n"));
    assert_eq!((&file("config")[..4], text("current_link_width").as_str()), (&[0xde, 0x10, 0xb4, 0x2b][..], "16\n"));
    host.say("gpu 1 width 4");
    assert_eq!(text("current_link_width"), "4\n");
    let mut log = std::fs::File::open(host.dir.join("kmsg")).unwrap();
    host.say("gpu 0 xid 79");
    host.say("gpu 1 fall");
    let mut records = String::new();
    while records.lines().count() < 2 {
        let mut some = [0; 256];
        let read = log.read(&mut some).unwrap();
        records += std::str::from_utf8(&some[..read]).unwrap();
    }
    assert_eq!(
        records,
        "6,0,0,-;NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n\
         6,1,0,-;NVRM: GPU 0000:02:00.0: GPU has fallen off the bus.\n"
    );
    assert_eq!((text("vendor").as_str(), &file("config")[..4]), ("0x10de\n", &[0xff; 4][..]));
    assert!(std::fs::read_to_string(host.dir.join("proc-driver-nvidia-version")).unwrap().contains("simulated"));
    host.say("clear gpu 1");
    assert_eq!(&file("config")[..2], [0xde, 0x10]);
    // Nobody reads: the rig goes on.
    for _ in 0..2_000 {
        host.say("gpu 2 xid 31");
    }
    let dir = host.dir.clone();
    drop(host);
    assert!(!dir.join("kmsg").exists() && !dir.join("sys/bus/pci/devices").exists());
}
