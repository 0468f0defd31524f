//! What is set on a card and what becomes of it in the world.

use nvml_wrapper::enum_wrappers::device::{Clock, PerformanceState};
use nvml_wrapper::enums::device::{FanControlPolicy, GpuLockedClocksSetting};

use crate::rig::{Host, Numbered, card, nvml, on_rig};

#[test]
fn a_lock_changes_clock_watts_and_the_current_of_its_rail() {
    on_rig("settings::a_lock_changes_clock_watts_and_the_current_of_its_rail", "ampere:2", |rig, nvml| {
        rig.say("set gpu all load 1");
        rig.say("advance 20");
        let mut gpu = card(nvml, 0);
        let free = (gpu.clock_info(Clock::SM).unwrap(), gpu.power_usage().unwrap(), rig.number("rail.gpu0.ma"));
        gpu.set_gpu_locked_clocks(GpuLockedClocksSetting::Numeric { min_clock_mhz: 1200, max_clock_mhz: 1200 })
            .unwrap();
        rig.say("advance 20");
        let held = (gpu.clock_info(Clock::SM).unwrap(), gpu.power_usage().unwrap(), rig.number("rail.gpu0.ma"));
        assert_eq!(held.0, 1200);
        assert!(held.1 * 10 < free.1 * 8 && held.2 < free.2 * 0.8, "{free:?} {held:?}");
        gpu.reset_gpu_locked_clocks().unwrap();
        rig.say("advance 20");
        assert!(gpu.clock_info(Clock::SM).unwrap() > 1500);
    });
}

#[test]
fn the_limit_clips_power_says_why_and_is_refused_outside_its_bounds() {
    on_rig("settings::the_limit_clips_power_says_why_and_is_refused_outside_its_bounds", "ampere", |rig, nvml| {
        rig.say("set gpu 0 load 1");
        let mut gpu = card(nvml, 0);
        let bounds = gpu.power_management_limit_constraints().unwrap();
        assert_eq!((bounds.min_limit, bounds.max_limit), (100_000, 480_000));
        for outside in [99_999, 480_001] {
            assert_eq!(gpu.set_power_management_limit(outside).n(), Err(2));
        }
        gpu.set_power_management_limit(200_000).unwrap();
        assert_eq!(gpu.enforced_power_limit().n(), Ok(200_000));
        rig.say("advance 20");
        let drawn = gpu.power_usage().unwrap();
        assert!((190_000..=201_000).contains(&drawn), "{drawn}");
        let clock = gpu.clock_info(Clock::SM).unwrap();
        assert!((600..1650).contains(&clock), "{clock}");
        assert_eq!(gpu.current_throttle_reasons_strict().unwrap().bits() & 4, 4, "SW_POWER_CAP");
        assert!((rig.number("rail.gpu0.mw") - 200_000.0).abs() < 5_000.0);
    });
}

#[test]
fn a_memory_lock_goes_to_a_state_and_offsets_move_clocks() {
    on_rig("settings::a_memory_lock_goes_to_a_state_and_offsets_move_clocks", "ampere", |rig, nvml| {
        let mut gpu = card(nvml, 0);
        gpu.set_mem_locked_clocks(0, 5_400).unwrap();
        rig.say("advance 5");
        assert_eq!(gpu.clock_info(Clock::Memory).n(), Ok(5001));
        assert_eq!(rig.truth("gpu.0.memory_lock_mhz"), "5001");
        gpu.reset_mem_locked_clocks().unwrap();
        gpu.set_clock_offset(Clock::Memory, PerformanceState::Two, 1000).unwrap();
        let core = gpu.clock_info(Clock::SM).unwrap();
        gpu.set_clock_offset(Clock::Graphics, PerformanceState::Two, 150).unwrap();
        rig.say("advance 5");
        assert_eq!(gpu.clock_info(Clock::Memory).n(), Ok(9501 + 500), "the clock moves by half of the data rate");
        assert!(gpu.clock_info(Clock::SM).unwrap() > core, "{core}");
        let offset = gpu.clock_offset(Clock::Graphics, PerformanceState::Two).unwrap();
        assert_eq!(
            (offset.clock_offset_mhz, offset.min_clock_offset_mhz, offset.max_clock_offset_mhz),
            (150, -1000, 1000)
        );
        assert_eq!(
            gpu.clock_offset(Clock::Graphics, PerformanceState::Zero).unwrap().clock_offset_mhz,
            0,
            "each its own"
        );
        assert_eq!(gpu.set_clock_offset(Clock::Graphics, PerformanceState::Two, 1001).n(), Err(2));
        assert_eq!(gpu.set_clock_offset(Clock::Graphics, PerformanceState::Fifteen, 0).n(), Err(2));
        gpu.set_gpc_clock_vf_offset(-100).unwrap();
        assert_eq!(gpu.clock_offset(Clock::Graphics, PerformanceState::Two).unwrap().clock_offset_mhz, -100);
    });
}

#[test]
fn a_fan_by_hand_cools_or_heats_and_stays_so_when_its_owner_dies() {
    const NAME: &str = "settings::a_fan_by_hand_cools_or_heats_and_stays_so_when_its_owner_dies";
    on_rig(NAME, "ampere:2", |rig, nvml| {
        rig.say("set gpu all load 0.5");
        let (mut slow, mut fast) = (card(nvml, 0), card(nvml, 1));
        for fan in 0..slow.num_fans().unwrap() {
            slow.set_fan_speed(fan, 30).unwrap();
            fast.set_fan_speed(fan, 100).unwrap();
        }
        assert_eq!(slow.fan_control_policy(1).n(), Ok(FanControlPolicy::Manual));
        assert_eq!(slow.set_fan_speed(0, 29).n(), Err(2), "below what the motor takes");
        assert_eq!(slow.set_fan_speed(2, 50).n(), Err(2), "no such fan");
        rig.say("advance 300");
        assert_eq!((slow.fan_speed(0).n(), fast.fan_speed(1).n()), (Ok(30), Ok(100)));
        assert!(fast.fan_speed_rpm(0).unwrap() > 3 * slow.fan_speed_rpm(0).unwrap());
        assert!(rig.number("gpu.0.mc") > rig.number("gpu.1.mc") + 5_000.0);
        rig.say("fault gpu 1 fan stuck");
        rig.say("advance 10");
        assert_eq!((fast.fan_speed(0).n(), fast.fan_speed_rpm(0).n()), (Ok(100), Ok(0)), "intended, and what turns");
        fast.set_default_fan_speed(0).unwrap();
        assert_eq!(rig.truth("gpu.1.manual"), "false,true");
    });
    if std::env::var_os("RIGD_SIMULATION").is_none() {
        let host = Host::new("ampere");
        assert!(host.start("settings::takes_a_fan_and_dies").wait().unwrap().code().is_none(), "killed");
        assert!(host.say("get world").contains("gpu.0.manual=true,false\n"), "{}", host.say("get world"));
    }
}

/// Not a test by itself: the owner of a fan.
#[test]
fn takes_a_fan_and_dies() {
    if std::env::var_os("RIGD_SIMULATION").is_none() {
        return;
    }
    let nvml = nvml();
    nvml.device_by_index(0).unwrap().set_fan_speed(0, 40).unwrap();
    std::process::abort();
}

#[test]
fn settings_need_root() {
    if std::env::var_os("RIGD_SIMULATION").is_none() {
        let host = Host::new("ampere");
        let output = host.again("settings::settings_need_root").env("RIGD_FAKE_NVML_UID", "1000").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(host.say("get settings").contains("0 nvmlDeviceSetPowerManagementLimit 300000 -> 4\n"));
        return;
    }
    let nvml = nvml();
    let mut gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.set_power_management_limit(300_000).n(), Err(4));
    assert_eq!(gpu.reset_gpu_locked_clocks().n(), Err(4));
    assert_eq!(gpu.set_default_fan_speed(0).n(), Err(4));
    assert!(gpu.power_usage().is_ok());
}

#[test]
fn settings_go_with_the_last_client_unless_the_card_is_persistent() {
    on_rig("settings::settings_go_with_the_last_client_unless_the_card_is_persistent", "ampere:2", |rig, first| {
        // This process keeps one reference of its own; it gives that up here.
        card(first, 0).set_power_management_limit(200_000).unwrap();
        let mut kept = card(first, 1);
        kept.set_persistent(true).unwrap();
        kept.set_power_management_limit(200_000).unwrap();
        assert_eq!(rig.truth("gpu.0.limit_mw"), "200000");
        // SAFETY: as the wrapper does it when it is dropped.
        assert_eq!(unsafe { first.lib().nvmlShutdown() }, 0);
        assert_eq!((rig.truth("gpu.0.limit_mw").as_str(), rig.truth("gpu.1.limit_mw").as_str()), ("350000", "200000"));
        assert_eq!(kept.power_usage().n(), Err(1));
    });
}
