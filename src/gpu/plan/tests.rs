use proptest::prelude::*;

use super::*;
use crate::gpu::profile::FanRule;
use crate::units::{Duty, Millicelsius};

const NO: Code = Code::NOT_SUPPORTED;

/// A card like a GeForce RTX 3090: limits 100 to 480 W as `nvidia-smi -q` prints them, offsets as LACT shows them.
pub(crate) fn card() -> Device {
    Device {
        pci: "0000:01:00.0".parse().unwrap(),
        uuid: "GPU-fa4e".to_owned(),
        name: "simulated".to_owned(),
        serial: Err(NO),
        vbios: Err(NO),
        minor: Ok(0),
        architecture: Ok(7),
        memory: Err(NO),
        limits: Ok((Milliwatts(100_000), Milliwatts(480_000))),
        default_limit: Ok(Milliwatts(390_000)),
        max_sm_clock: Ok(Megahertz(2_100)),
        max_memory_clock: Ok(Megahertz(9_751)),
        core_offsets: Ok((MegahertzOffset(-1_000), MegahertzOffset(1_000))),
        memory_offsets: Ok((MegahertzOffset(-2_000), MegahertzOffset(6_000))),
        fans: 2,
        fan_drive: Err(NO),
        slowdown: Err(NO),
        shutdown: Err(NO),
        pcie_max_generation: Err(NO),
        pcie_max_width: Err(NO),
        memory_clocks: Ok([(0, 9_751), (2, 9_501), (3, 5_001), (5, 810), (8, 405)]
            .map(|(of, mhz)| (of, Megahertz(mhz)))
            .into()),
    }
}

/// What such a card tells without any setting of ours.
pub(crate) fn untouched() -> Settings {
    Settings {
        limit: Ok(Milliwatts(390_000)),
        core_offset: [Ok(MegahertzOffset(0)); 2],
        memory_offset: [Ok(MegahertzOffset(0)); 2],
        persistence: Ok(false),
    }
}

pub(crate) fn sample(clock: u32, load: u8, reasons: u64) -> Sample {
    Sample {
        temperature: Err(NO),
        margin: Err(NO),
        memory_temperature: Err(NO),
        power: Err(NO),
        power_now: Err(NO),
        energy: Err(NO),
        limit: Err(NO),
        enforced_limit: Err(NO),
        sm_clock: Ok(Megahertz(clock)),
        memory_clock: Err(NO),
        pstate: Err(NO),
        load: Ok(Percent(load)),
        memory_load: Err(NO),
        memory_used: Err(NO),
        fans: Vec::new(),
        reasons: Ok(reasons),
        pcie_generation: Err(NO),
        pcie_width: Err(NO),
        replays: Err(NO),
        ecc: Err(NO),
        remapped: Err(NO),
        recovery: Err(NO),
    }
}

/// An undervolt: a lock with an offset above zero.
pub(crate) fn undervolt() -> Profile {
    Profile {
        name: "undervolt".to_owned(),
        power_limit: Some(Limit::Power(Milliwatts(300_000))),
        core_lock: Some((Megahertz(210), Megahertz(1_500))),
        core_offset: Some(MegahertzOffset(150)),
        memory_offset: Some(MegahertzOffset(1_000)),
        ..Profile::default()
    }
}

const fn watts(watts: u32) -> Setting {
    Setting::PowerLimit(Milliwatts(watts * 1000))
}

const fn core(offset: i32) -> Setting {
    Setting::CoreOffset(MegahertzOffset(offset))
}

const fn memory(offset: i32) -> Setting {
    Setting::MemoryOffset(MegahertzOffset(offset))
}

const fn lock(low: u32, high: u32) -> Setting {
    Setting::CoreLock(Some((Megahertz(low), Megahertz(high))))
}

#[test]
fn a_plan_names_every_setting_that_the_card_has() {
    let planned = plan(&undervolt(), &card());
    let expected =
        [Setting::Persistence(true), watts(300), lock(210, 1_500), Setting::MemoryLock(None), core(150), memory(1_000)];
    assert_eq!(planned, Plan { settings: expected.to_vec(), notes: vec![] });
    let expected = [watts(390), Setting::CoreLock(None), Setting::MemoryLock(None), core(0), memory(0)];
    assert_eq!(defaults(&card()), Plan { settings: expected.to_vec(), notes: vec![] });
}

#[test]
fn what_the_card_does_not_take_is_clamped_and_told() {
    let clamped = |asked, given| Note::Clamped { asked, given };
    for (profile, note) in [
        (
            Profile { power_limit: Some(Limit::Power(Milliwatts(90_000))), ..Profile::default() },
            clamped(watts(90), watts(100)),
        ),
        (
            Profile { power_limit: Some(Limit::OfDefault(Percent(200))), ..Profile::default() },
            clamped(watts(780), watts(480)),
        ),
        (
            Profile { core_lock: Some((Megahertz(2_200), Megahertz(2_500))), ..Profile::default() },
            clamped(lock(2_200, 2_500), lock(2_100, 2_100)),
        ),
        (
            Profile { core_offset: Some(MegahertzOffset(-1_500)), ..Profile::default() },
            clamped(core(-1_500), core(-1_000)),
        ),
    ] {
        let planned = plan(&profile, &card());
        assert_eq!(planned.notes, [note]);
        let Note::Clamped { given, .. } = note else { unreachable!() };
        assert_eq!(planned.get(given.into()), Some(given));
    }
    let half = Profile { power_limit: Some(Limit::OfDefault(Percent(50))), ..Profile::default() };
    assert_eq!(plan(&half, &card()).get(Knob::PowerLimit), Some(watts(195)));
}

#[test]
fn what_the_card_cannot_do_is_left_out_and_told_only_where_it_was_asked_for() {
    let pascal = Device { architecture: Ok(4), core_offsets: Err(NO), limits: Err(NO), ..card() };
    let planned = plan(&undervolt(), &pascal);
    assert_eq!(planned.settings, [Setting::Persistence(true), memory(1_000)]);
    let unable = |knob| Note::Unable { knob, code: NO };
    assert_eq!(planned.notes, [unable(Knob::PowerLimit), unable(Knob::CoreLock), unable(Knob::CoreOffset)]);
    assert_eq!(defaults(&pascal), Plan { settings: vec![memory(0)], notes: vec![] });
    // Nobody knows how fast it may go.
    let silent = Device { max_sm_clock: Err(NO), ..card() };
    assert_eq!(plan(&undervolt(), &silent).get(Knob::CoreLock), None);
    // Limits the wrong way round are none.
    let odd = Device { limits: Ok((Milliwatts(5), Milliwatts(3))), ..card() };
    assert_eq!(defaults(&odd).get(Knob::PowerLimit), None);
}

#[test]
fn an_offset_above_zero_is_not_set_without_the_lock_that_it_was_meant_for() {
    let turned_out = |knob| {
        let mut planned = plan(&undervolt(), &card());
        planned.without(knob, &card());
        planned
    };
    for planned in [plan(&undervolt(), &Device { architecture: Ok(4), ..card() }), turned_out(Knob::CoreLock)] {
        assert_eq!(planned.get(Knob::CoreLock), None);
        assert_eq!(planned.get(Knob::CoreOffset), Some(core(0)));
        assert_eq!(planned.notes.last(), Some(&Note::Unlocked(Knob::CoreOffset)));
    }
    // The profile locks no memory: that lock is not missed.
    assert_eq!(turned_out(Knob::MemoryLock).get(Knob::MemoryOffset), Some(memory(1_000)));
    assert_eq!(turned_out(Knob::PowerLimit).get(Knob::CoreOffset), Some(core(150)));
}

#[test]
fn what_slows_down_goes_first_and_what_speeds_up_last() {
    let slow = Settings { limit: Ok(Milliwatts(200_000)), core_offset: [Ok(MegahertzOffset(-50)); 2], ..untouched() };
    let fast = Settings {
        limit: Ok(Milliwatts(400_000)),
        core_offset: [Ok(MegahertzOffset(300)); 2],
        memory_offset: [Ok(MegahertzOffset(2_000)), Err(NO)],
        ..untouched()
    };
    let settings = plan(&undervolt(), &card()).settings;
    let (on, locks) = (Setting::Persistence(true), [lock(210, 1_500), Setting::MemoryLock(None)]);
    for (what, present, expected) in [
        ("a slower card", Some(&slow), [on, locks[0], locks[1], watts(300), core(150), memory(1_000)]),
        ("a faster card", Some(&fast), [on, core(150), memory(1_000), watts(300), locks[0], locks[1]]),
        ("untouched", Some(&untouched()), [on, watts(300), locks[0], locks[1], core(150), memory(1_000)]),
        ("unknown", None, [on, watts(300), locks[0], locks[1], core(150), memory(1_000)]),
    ] {
        assert_eq!(ordered(&settings, present), expected, "{what}");
    }
    let back = defaults(&card()).settings;
    assert_eq!(ordered(&back, None).first(), Some(&core(0)));
    assert_eq!(ordered(&[Setting::Persistence(false), core(10)], None), [core(10), Setting::Persistence(false)]);
}

#[test]
fn what_is_read_back_holds_within_a_step_and_unknown_is_no_drift() {
    let found = Settings {
        limit: Ok(Milliwatts(299_400)),
        core_offset: [Ok(MegahertzOffset(150)), Ok(MegahertzOffset(0))],
        memory_offset: [Ok(MegahertzOffset(998)), Err(NO)],
        persistence: Err(NO),
    };
    for (setting, expected) in [
        (watts(300), None),
        (watts(390), Some(Setting::PowerLimit(Milliwatts(299_400)))),
        (core(150), Some(core(0))),
        (memory(1_000), None),
        (memory(0), Some(memory(998))),
        (Setting::Persistence(true), None),
        (lock(1, 2), None),
    ] {
        assert_eq!(drifted(setting, &found), expected, "{setting:?}");
    }
}

#[test]
fn a_core_lock_is_judged_by_the_clock_under_load() {
    let lock = (Megahertz(900), Megahertz(1_500));
    for (what, clock, load, reasons, out) in [
        ("within", 1_500, 100, 0, false),
        ("a step above", 1_515, 100, 0, false),
        ("above", 1_530, 100, 0, true),
        ("above at rest", 1_900, 10, 1, false),
        ("below, power", 700, 100, 0x4, false),
        ("below, no reason", 700, 100, 0, true),
        ("below, the user's clocks", 700, 100, 0x2, true),
        ("a little below", 825, 100, 0, false),
        ("below at rest", 210, 3, 0, false),
    ] {
        assert_eq!(outside(lock, &sample(clock, load, reasons)), out.then_some(Megahertz(clock)), "{what}");
    }
    let silent = Sample { load: Err(NO), ..sample(1_900, 0, 0) };
    assert_eq!(outside(lock, &silent), None);
}

#[test]
fn a_cap_only_lowers() {
    let watts = |watts: u32| Some(Milliwatts(watts * 1000));
    for (limit, cap, expected) in [
        (watts(300), None, watts(300)),
        (watts(300), watts(250), watts(250)),
        (watts(300), watts(350), watts(300)),
        (watts(300), watts(10), watts(100)),
        (None, watts(250), watts(250)),
        (None, None, None),
    ] {
        assert_eq!(limited(limit, cap, &card()), expected, "{limit:?} {cap:?}");
    }
}

fn read<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Read<T>> {
    prop_oneof![4 => value.prop_map(Ok), 1 => any::<u32>().prop_map(|code| Err(Code(code)))]
}

prop_compose! {
    pub(crate) fn any_profile()(
        name in "[a-z]{1,8}",
        limit in prop::option::of(any::<(bool, u32, u8)>()),
        core_lock in prop::option::of(any::<(u32, u32)>()),
        memory_lock in prop::option::of(any::<(u32, u32)>()),
        core_offset in prop::option::of(any::<i32>()),
        memory_offset in prop::option::of(any::<i32>()),
        fans in prop::option::of(prop::collection::vec((any::<i32>(), any::<u16>()), 0..4)),
        persistence in any::<Option<bool>>(),
    ) -> Profile {
        let clocks = |(low, high)| (Megahertz(low), Megahertz(high));
        Profile {
            name,
            power_limit: limit.map(|(absolute, power, percent)| {
                if absolute { Limit::Power(Milliwatts(power)) } else { Limit::OfDefault(Percent(percent)) }
            }),
            core_lock: core_lock.map(clocks),
            memory_lock: memory_lock.map(clocks),
            core_offset: core_offset.map(MegahertzOffset),
            memory_offset: memory_offset.map(MegahertzOffset),
            fans: fans.map(|points| {
                FanRule::Curve(points.into_iter().map(|(t, d)| (Millicelsius(t), Duty::saturating(d.into()))).collect())
            }),
            persistence,
        }
    }
}

#[test]
fn a_memory_lock_is_a_clock_of_the_cards_and_never_above_the_ceiling() {
    let silent = || Device { memory_clocks: Err(NO), ..card() };
    let unknown = || Device { max_memory_clock: Err(NO), ..silent() };
    for (device, lock, ceiling, expected) in [
        (card(), None, None, None),
        (card(), Some((810, 9_501)), None, Some((810, 9_501))),
        (card(), Some((810, 9_501)), Some(9_501), Some((810, 9_501))),
        (card(), Some((810, 9_501)), Some(9_500), Some((5_001, 5_001))),
        (card(), None, Some(20_000), Some((9_751, 9_751))),
        (card(), None, Some(9_501), Some((9_501, 9_501))),
        (card(), None, Some(6_000), Some((5_001, 5_001))),
        (card(), None, Some(100), Some((405, 405))),
        (silent(), None, Some(6_000), Some((6_000, 6_000))),
        (silent(), None, Some(20_000), Some((9_751, 9_751))),
        (unknown(), None, Some(20_000), Some((20_000, 20_000))),
    ] {
        let lock = lock.map(|(low, high)| (Megahertz(low), Megahertz(high)));
        let found = memory_below(lock, ceiling.map(Megahertz), &device);
        assert_eq!(found.map(|(low, high)| (low.0, high.0)), expected, "{lock:?} {ceiling:?}");
    }
}

prop_compose! {
    fn any_card()(
        architecture in read(0_u32..12),
        limits in read(any::<(u32, u32)>()),
        default_limit in read(any::<u32>()),
        clocks in (read(any::<u32>()), read(any::<u32>())),
        core in read(any::<(i32, i32)>()),
        memory in read(any::<(i32, i32)>()),
    ) -> Device {
        let range = |(low, high)| (MegahertzOffset(low), MegahertzOffset(high));
        Device {
            architecture,
            limits: limits.map(|(low, high)| (Milliwatts(low), Milliwatts(high))),
            default_limit: default_limit.map(Milliwatts),
            max_sm_clock: clocks.0.map(Megahertz),
            max_memory_clock: clocks.1.map(Megahertz),
            core_offsets: core.map(range),
            memory_offsets: memory.map(range),
            ..card()
        }
    }
}

/// Whether the card says that it takes that.
fn takes(device: &Device, setting: Setting) -> bool {
    let lock = |lock: Option<(Megahertz, Megahertz)>, highest: Read<Megahertz>, first| {
        device.architecture.is_ok_and(|architecture| architecture >= first) | device.architecture.is_err()
            && lock.is_none_or(|(low, high)| highest.is_ok_and(|highest| low <= highest && high <= highest))
    };
    let within = |offset, range: Read<_>| range.is_ok_and(|(low, high)| low <= offset && offset <= high);
    match setting {
        Setting::PowerLimit(limit) => device.limits.is_ok_and(|(low, high)| low <= limit && limit <= high),
        Setting::CoreLock(asked) => lock(asked, device.max_sm_clock, 5),
        Setting::MemoryLock(asked) => lock(asked, device.max_memory_clock, 7),
        Setting::CoreOffset(offset) => within(offset, device.core_offsets),
        Setting::MemoryOffset(offset) => within(offset, device.memory_offsets),
        Setting::Persistence(_) => true,
    }
}

proptest! {
    #[test]
    fn no_setting_leaves_what_the_card_takes(profile in any_profile(), device in any_card(), cap in any::<Option<u32>>()) {
        for planned in [plan(&profile, &device), defaults(&device)] {
            for setting in &planned.settings {
                prop_assert!(takes(&device, *setting), "{:?}", setting);
                let of_it = planned.settings.iter().filter(|other| Knob::from(**other) == Knob::from(*setting));
                prop_assert_eq!(of_it.count(), 1);
            }
            for gone in planned.settings.clone() {
                let mut fewer = planned.clone();
                fewer.without(gone.into(), &device);
                prop_assert!(fewer.get(gone.into()).is_none());
                prop_assert!(fewer.settings.iter().all(|setting| takes(&device, *setting)));
            }
        }
        if let Some(limit) = limited(None, cap.map(Milliwatts), &device) {
            prop_assert!(takes(&device, Setting::PowerLimit(limit)));
        }
    }
}
