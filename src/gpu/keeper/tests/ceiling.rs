//! Ceilings of the core and the memory clock beside a profile.

use super::*;

#[test]
fn a_ceiling_of_the_clock_is_the_lower_of_both_and_ends_as_the_profile_has_it() {
    let lock = |low: u32, high: u32| Setting::CoreLock(Some((Megahertz(low), Megahertz(high))));
    let (low, high) = undervolt().core_lock.map(|(low, high)| (low.0, high.0)).unwrap();
    let mut rig = with_eco();
    rig.seconds(5);
    for (ceiling, expected) in [
        (Some(high - 100), vec![lock(low.min(high - 100), high - 100)]),
        (Some(high - 200), vec![lock(low.min(high - 200), high - 200)]),
        (Some(300), vec![lock(low.min(300), 300)]),
        // Not above the profile's own.
        (Some(high + 100), vec![lock(low, high)]),
        (None, vec![]),
    ] {
        rig.ceiling = ceiling.map(Megahertz);
        assert_eq!(rig.asked_since(|rig| rig.seconds(5)), expected, "{ceiling:?}");
    }
    // Neither a trial nor a failure of one, and it holds for whatever comes next: no higher lock is ever set.
    rig.ceiling = Some(Megahertz(300));
    // As fast as the profile's own lock has it: somebody took the ceiling's away, and it is set again.
    rig.seconds(70);
    assert_eq!((rig.disk.last_good(), rig.reasons()), (Some(&undervolt()), vec![]));
    (rig.core_lock, rig.sample) = (None, Some(sample(high, 100, 0)));
    assert_eq!(rig.asked_since(|rig| rig.seconds(7)), [lock(low.min(300), 300)]);
    rig.sample = None;
    for wanted in [Some(eco()), None, Some(undervolt())] {
        rig.wanted = wanted;
        let above = |setting: &Setting| matches!(setting, Setting::CoreLock(lock) if lock.is_none_or(|(_, high)| high > Megahertz(300)));
        assert!(!rig.asked_since(|rig| rig.seconds(70)).iter().any(above));
        assert_eq!(rig.core_lock.map(|(_, high)| high), Some(Megahertz(300)));
    }
    rig.wanted = None;
    rig.seconds(100);
    rig.ceiling = None;
    rig.seconds(40);
    assert!(rig.is_as_made() && rig.state().is_given_back());
}

#[test]
fn a_card_without_a_profile_has_no_lock_after_a_ceiling() {
    let mut rig = Rig::new(None);
    rig.ceiling = Some(Megahertz(900));
    let lock = Some((Megahertz(0), Megahertz(900)));
    assert_eq!(rig.asked_since(|rig| rig.seconds(60)), [Setting::CoreLock(lock), Setting::Persistence(true)]);
    assert!(!rig.state().is_given_back() && rig.disk.ours);
    // An agent that was killed meanwhile finds it on record.
    rig.restart();
    rig.core_lock = lock;
    rig.ceiling = None;
    rig.seconds(3);
    assert!(rig.is_as_made() && rig.state().is_given_back() && !rig.disk.ours);
    rig.ceiling = Some(Megahertz(900));
    rig.seconds(3);
    rig.ceiling = None;
    assert_eq!(rig.asked_since(|rig| rig.seconds(60)), [Setting::CoreLock(None), Setting::Persistence(false)]);
    assert!(rig.state().is_given_back() && !rig.disk.ours);
    // A card that takes none is asked once.
    rig.refuse.push((Knob::CoreLock, Code::NOT_SUPPORTED));
    rig.ceiling = Some(Megahertz(900));
    let asked = rig.asked_since(|rig| rig.seconds(60));
    assert_eq!(asked.iter().filter(|setting| matches!(setting, Setting::CoreLock(_))).count(), 1);
}

/// Locks of the memory, as they are set.
fn memory(mhz: u32) -> Setting {
    Setting::MemoryLock(Some((Megahertz(mhz), Megahertz(mhz))))
}

#[test]
fn a_ceiling_of_the_memory_clock_is_a_clock_of_the_cards_and_ends_as_the_profile_has_it() {
    let own = |asked: &[Setting]| asked.iter().all(|setting| matches!(setting, Setting::MemoryLock(_)));
    let mut rig = with_eco();
    rig.seconds(70);
    for (ceiling, expected) in [
        (Some(9_400), vec![memory(5_001)]),
        (Some(5_001), vec![]),
        (Some(800), vec![memory(405)]),
        (Some(1), vec![]),
        (Some(810), vec![memory(810)]),
        (None, vec![Setting::MemoryLock(None)]),
    ] {
        rig.memory = ceiling.map(Megahertz);
        let asked = rig.asked_since(|rig| rig.seconds(5));
        assert!(own(&asked) && asked == expected, "{ceiling:?}: {asked:?}");
    }
    // The lower of it and the profile's own, whatever comes next, and neither a trial nor a failure of one.
    let locked = Profile { memory_lock: Some((Megahertz(810), Megahertz(5_001))), ..eco() };
    let profile = Setting::MemoryLock(locked.memory_lock);
    rig.wanted = Some(locked);
    rig.seconds(70);
    for (ceiling, expected) in [(Some(9_501), vec![]), (Some(900), vec![memory(810)]), (None, vec![profile])] {
        rig.memory = ceiling.map(Megahertz);
        assert_eq!(rig.asked_since(|rig| rig.seconds(5)), expected, "{ceiling:?}");
    }
    rig.memory = Some(Megahertz(810));
    for wanted in [Some(eco()), None, Some(undervolt())] {
        rig.wanted = wanted;
        let above = |setting: &Setting| matches!(setting, Setting::MemoryLock(lock) if lock.is_none_or(|(_, high)| high > Megahertz(810)));
        assert!(!rig.asked_since(|rig| rig.seconds(70)).iter().any(above));
        assert_eq!(rig.memory_lock, Some((Megahertz(810), Megahertz(810))));
    }
    assert_eq!(rig.reasons(), []);
}

#[test]
fn a_card_without_a_profile_has_no_lock_after_a_ceiling_whoever_goes_down_meanwhile() {
    type Fault = fn(&mut Rig);
    let rows: [(&str, Fault); 3] = [
        ("nothing", |_| {}),
        // What holds a card back for a time may end while its driver is away: the locks are on it all the same.
        ("the helper", |rig| rig.fresh = true),
        ("the agent", |rig| {
            (rig.state, rig.answer) = (Some(State::new(rig.disk.clone())), None);
            rig.fresh = true;
        }),
    ];
    for (what, fault) in rows {
        let mut rig = Rig::new(None);
        (rig.ceiling, rig.memory) = (Some(Megahertz(900)), Some(Megahertz(5_001)));
        let lock = Setting::CoreLock(Some((Megahertz(0), Megahertz(900))));
        assert_eq!(rig.asked_since(|rig| rig.seconds(60)), [lock, memory(5_001), Setting::Persistence(true)], "{what}");
        assert!(!rig.state().is_given_back() && rig.disk.ours, "{what}");
        (rig.ceiling, rig.memory) = (None, None);
        fault(&mut rig);
        rig.seconds(3);
        assert!(rig.is_as_made() && rig.state().is_given_back() && !rig.disk.ours, "{what}: {:?}", rig.asked);
    }
    // A card that takes none is asked once.
    let mut rig = Rig::new(None);
    rig.refuse.push((Knob::MemoryLock, Code::NOT_SUPPORTED));
    rig.memory = Some(Megahertz(5_001));
    assert_eq!(rig.asked_since(|rig| rig.seconds(60)).len(), 1);
    assert!(rig.state().is_given_back());
}
