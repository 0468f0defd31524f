use super::*;
use crate::gpu::plan::tests::{card, sample, undervolt, untouched};
use crate::gpu::plan::{Knob, plan};
use crate::units::{Megahertz, MegahertzOffset};

mod ceiling;
mod chance;
mod persistence;
mod rig;

use rig::{Rig, eco, with_eco};

#[test]
fn a_profile_is_recorded_set_read_back_watched_and_committed() {
    let mut rig = Rig::new(Some(undervolt()));
    rig.steps(1);
    assert_eq!(
        (rig.disk.trying.as_ref().map(|trying| trying.digest), rig.asked.len()),
        (Some(undervolt().digest()), 0)
    );
    let asked = rig.asked_since(Rig::second);
    assert_eq!(asked, super::super::plan::ordered(&plan(&undervolt(), &card()).settings, Some(&untouched())));
    assert!(rig.has(&undervolt()) && rig.state().on_trial());
    rig.seconds(59);
    assert_eq!((rig.disk.last_good(), rig.state().on_trial()), (None, true));
    rig.seconds(2);
    assert_eq!((rig.disk.last_good(), rig.state().on_trial()), (Some(&undervolt()), false));
    assert_eq!(rig.disk.trying, None);
    let expected = [
        Happening::Began { profile: Some("undervolt".to_owned()), trial: true },
        Happening::Committed("undervolt".to_owned()),
    ];
    assert_eq!(rig.told, expected);
    // All is well: it is looked at and left alone.
    assert_eq!(rig.asked_since(|rig| rig.seconds(600)), []);
    // After a restart it is good already.
    rig.told.clear();
    rig.restart();
    rig.seconds(5);
    assert!(rig.has(&undervolt()) && !rig.state().on_trial());
    assert_eq!(rig.told.first(), Some(&Happening::Began { profile: Some("undervolt".to_owned()), trial: false }));
}

#[test]
fn each_failure_ends_in_quarantine_and_the_last_good_profile() {
    type Fault = fn(&mut Rig);
    let rows: [(&str, Fault, Reason); 8] = [
        (
            "refused",
            |rig| rig.refuse.push((Knob::CoreOffset, Code::INVALID_ARGUMENT)),
            Reason::Refused { knob: Knob::CoreOffset, code: Code::INVALID_ARGUMENT },
        ),
        ("taken and not made", |rig| rig.ignore.push(Knob::CoreOffset), Reason::NotHeld(Knob::CoreOffset)),
        (
            "gone in probation",
            |rig| {
                rig.seconds(10);
                rig.settings.core_offset = [Ok(MegahertzOffset(0)); 2];
            },
            Reason::NotHeld(Knob::CoreOffset),
        ),
        (
            "an Xid in probation",
            |rig| {
                rig.seconds(59);
                rig.xid = Some(13);
            },
            Reason::Xid(13),
        ),
        (
            "lost in probation",
            |rig| {
                rig.seconds(10);
                rig.lost = true;
                rig.seconds(10);
                rig.lost = false;
            },
            Reason::Lost,
        ),
        ("lost by a call", |rig| rig.refuse.push((Knob::CoreLock, Code::GPU_IS_LOST)), Reason::Lost),
        (
            "the clock outside its lock",
            |rig| {
                rig.seconds(10);
                rig.sample = Some(sample(1_800, 100, 0));
            },
            Reason::OutsideLock(Megahertz(1_800)),
        ),
        (
            "the helper dies each time",
            |rig| {
                rig.seconds(10);
                rig.reload();
                rig.seconds(10);
                rig.reload();
            },
            Reason::Crashed,
        ),
    ];
    for (what, fault, reason) in rows {
        let mut rig = with_eco();
        fault(&mut rig);
        rig.seconds(35);
        assert_eq!(rig.reasons(), [reason], "{what}");
        (rig.sample, rig.lost) = (None, false);
        rig.refuse.clear();
        rig.ignore.clear();
        rig.seconds(300);
        assert!(rig.has(&eco()), "{what}: {:?}", rig.settings);
        let quarantined = Happening::Quarantined { profile: "undervolt".to_owned(), reason };
        let instead = Happening::Instead { wanted: "undervolt".to_owned(), given: Some("eco".to_owned()) };
        assert_eq!((rig.was_told(&quarantined), rig.was_told(&instead)), (1, 1), "{what}");
        // Not after a restart either, until its content is another.
        rig.restart();
        rig.seconds(10);
        assert!(rig.has(&eco()), "{what}");
        let edited = Profile { core_offset: Some(MegahertzOffset(50)), ..undervolt() };
        rig.wanted = Some(edited.clone());
        rig.seconds(70);
        assert_eq!(rig.disk.last_good(), Some(&edited), "{what}");
    }
}

#[test]
fn what_a_killed_agent_left_is_not_taken_for_the_cards_defaults() {
    let mut rig = with_eco();
    assert_eq!(State::new(Record::default()).stage(), crate::gpu::Phase::Default);
    assert_eq!(State::new(rig.disk.clone()).stage(), crate::gpu::Phase::RollingBack);
    rig.restart();
    (rig.wanted, rig.lost) = (None, false);
    rig.seconds(10);
    assert_eq!(rig.state().stage(), crate::gpu::Phase::Default);
    assert!(rig.is_as_made());
}

#[test]
fn what_one_payload_brought_along_is_not_given_to_another() {
    let edited = Profile { core_offset: Some(MegahertzOffset(50)), ..undervolt() };
    // By what the card's own profile is: what it has in place of a payload's that fails.
    for own in [None, Some(eco())] {
        let mut rig = Rig::new(own.clone());
        rig.seconds(70);
        let another = Profile {
            name: "another".to_owned(),
            power_limit: Some(crate::gpu::profile::Limit::Power(Milliwatts(190_000))),
            ..eco()
        };
        (rig.wanted, rig.brought) = (Some(another.clone()), true);
        rig.seconds(70);
        assert_eq!(rig.disk.last_good(), Some(&another));
        rig.wanted = Some(undervolt());
        rig.seconds(5);
        rig.xid = Some(31);
        rig.seconds(35);
        assert_eq!(rig.reasons(), [Reason::Xid(31)]);
        assert_eq!(rig.state().profile(), own.as_ref());
        // Its own edition of before is no other's.
        rig.wanted = Some(edited.clone());
        rig.seconds(70);
        rig.wanted = Some(undervolt());
        rig.seconds(10);
        assert_eq!(rig.state().profile(), Some(&edited));
        // Nor does the card keep it when nobody brings any.
        (rig.wanted, rig.brought) = (own.clone(), false);
        rig.seconds(10);
        assert_eq!(rig.state().profile(), own.as_ref());
    }
}

#[test]
fn without_a_good_profile_the_card_is_given_back() {
    let mut rig = Rig::new(Some(undervolt()));
    rig.seconds(5);
    rig.xid = Some(31);
    rig.seconds(5);
    assert!(rig.is_as_made());
    assert_eq!(rig.state().profile(), None);
    let mut rig2 = Rig::new(Some(undervolt()));
    rig2.refuse.push((Knob::PowerLimit, Code::UNKNOWN));
    rig2.seconds(5);
    assert_eq!(rig2.reasons(), [Reason::Refused { knob: Knob::PowerLimit, code: Code::UNKNOWN }]);
}

#[test]
fn what_a_card_cannot_do_is_told_once_and_the_rest_holds() {
    let mut rig = Rig::new(Some(undervolt()));
    rig.refuse = vec![(Knob::CoreLock, Code::NOT_SUPPORTED), (Knob::MemoryLock, Code::NOT_SUPPORTED)];
    rig.seconds(70);
    // The offset was meant for the lock.
    let offset = MegahertzOffset(0);
    assert_eq!((rig.settings.core_offset, rig.settings.limit), ([Ok(offset); 2], Ok(Milliwatts(300_000))));
    assert_eq!(rig.disk.last_good(), Some(&undervolt()));
    for i in 0..3 {
        rig.reload();
        rig.seconds(30 + i);
    }
    let tries = |knob| rig.asked.iter().filter(|(_, setting)| Knob::from(*setting) == knob).count();
    assert_eq!((tries(Knob::CoreLock), tries(Knob::MemoryLock)), (1, 1));
    let unable = |knob| Happening::Adapted(Note::Unable { knob, code: Code::NOT_SUPPORTED });
    assert_eq!((rig.was_told(&unable(Knob::CoreLock)), rig.was_told(&unable(Knob::MemoryLock))), (1, 1));
    assert_eq!(rig.was_told(&Happening::Adapted(Note::Unlocked(Knob::CoreOffset))), 1);
}

#[test]
fn a_lock_that_cannot_be_had_takes_back_an_offset_that_was_already_there() {
    let mut rig = Rig::new(Some(undervolt()));
    rig.settings.core_offset = [Ok(MegahertzOffset(300)); 2];
    rig.refuse = vec![(Knob::CoreLock, Code::NOT_SUPPORTED)];
    rig.seconds(2);
    assert_eq!(rig.settings.core_offset, [Ok(MegahertzOffset(0)); 2]);
}

#[test]
fn what_is_not_the_profiles_fault_is_no_failure_and_tried_again() {
    for code in [Code::NO_PERMISSION, Code::LIB_RM_VERSION_MISMATCH, Code::DRIVER_NOT_LOADED] {
        let mut rig = Rig::new(Some(undervolt()));
        rig.refuse = vec![(Knob::Persistence, code)];
        rig.seconds(3_600);
        assert_eq!((rig.reasons(), rig.disk.trying.clone()), (vec![], None), "{code}");
        assert_eq!(rig.asked.len(), 12, "{code}: every five minutes");
        assert_eq!(rig.was_told(&Happening::Refused { knob: Knob::Persistence, code }), 1);
        rig.refuse.clear();
        rig.seconds(370);
        assert_eq!(rig.disk.last_good(), Some(&undervolt()), "{code}");
    }
}

#[test]
fn a_rig_that_goes_down_twice_with_a_profile_is_not_asked_a_third_time() {
    let mut rig = with_eco();
    rig.seconds(10);
    rig.restart();
    rig.seconds(10);
    assert!(rig.has(&undervolt()) && rig.state().on_trial());
    assert_eq!(rig.was_told(&Happening::Strike("undervolt".to_owned())), 1);
    rig.restart();
    let asked = rig.asked_since(|rig| rig.seconds(100));
    assert_eq!(rig.reasons(), [Reason::Crashed]);
    assert!(rig.has(&eco()) && !asked.contains(&Setting::CoreOffset(MegahertzOffset(150))));
    // One strike alone is forgotten with a probation that goes well.
    let mut rig = with_eco();
    for _ in 0..3 {
        rig.seconds(10);
        rig.restart();
        rig.seconds(75);
        assert_eq!(rig.disk.last_good(), Some(&undervolt()));
        rig.wanted = Some(Profile { name: "again".to_owned(), ..undervolt() });
    }
    assert_eq!(rig.reasons(), []);
}

#[test]
fn what_cannot_be_recorded_is_not_tried() {
    let mut rig = Rig::new(Some(undervolt()));
    rig.disk_full = true;
    assert_eq!(rig.asked_since(|rig| rig.seconds(120)), []);
    assert_eq!(rig.was_told(&Happening::Unrecorded), 1);
    rig.disk_full = false;
    rig.seconds(100);
    assert_eq!(rig.disk.last_good(), Some(&undervolt()));
    // Giving back needs no disk.
    rig.disk_full = true;
    rig.wanted = None;
    rig.seconds(5);
    assert!(rig.is_as_made() && rig.state().is_given_back());
}

#[test]
fn drift_is_told_and_repaired_until_the_budget_is_gone() {
    let mut rig = with_eco();
    rig.seconds(70);
    rig.settings.limit = Ok(Milliwatts(390_000));
    rig.seconds(31);
    assert!(rig.has(&undervolt()));
    let drift = Happening::Drift {
        expected: Setting::PowerLimit(Milliwatts(300_000)),
        found: Found::Set(Setting::PowerLimit(Milliwatts(390_000))),
    };
    assert_eq!(rig.was_told(&drift), 1);
    let mut minutes = 0;
    while rig.reasons().is_empty() {
        rig.settings.limit = Ok(Milliwatts(390_000));
        rig.second();
        minutes += 1;
        assert!(minutes < 600, "repaired for ever");
    }
    assert_eq!(rig.reasons(), [Reason::WillNotHold(Knob::PowerLimit)]);
    assert!((5..=7).contains(&rig.was_told(&drift)), "{}", rig.was_told(&drift));
    rig.seconds(5);
    assert!(rig.has(&eco()));
}

#[test]
fn a_lock_that_somebody_reset_is_seen_by_the_clock_and_set_again() {
    let mut rig = with_eco();
    rig.seconds(70);
    (rig.core_lock, rig.sample) = (None, Some(sample(1_900, 100, 0)));
    let asked = rig.asked_since(|rig| rig.seconds(6));
    assert_eq!(asked, [Setting::CoreLock(undervolt().core_lock)]);
    let expected = Setting::CoreLock(undervolt().core_lock);
    assert_eq!(rig.was_told(&Happening::Drift { expected, found: Found::Clock(Megahertz(1_900)) }), 1);
    rig.sample = None;
    assert_eq!(rig.asked_since(|rig| rig.seconds(100)), []);
}

#[test]
fn what_a_reload_lost_is_one_event_and_all_of_it_is_set_again() {
    let mut rig = with_eco();
    rig.seconds(70);
    rig.told.clear();
    for _ in 0..5 {
        rig.reload();
        let asked = rig.asked_since(|rig| rig.seconds(5));
        // The locks, too, which nobody can read back.
        assert!(asked.len() == 6 && rig.has(&undervolt()));
    }
    assert_eq!((rig.was_told(&Happening::Reloaded), rig.reasons()), (5, vec![]));
    assert!(rig.told.iter().all(|told| !matches!(told, Happening::Drift { .. })));
    // A new helper that lost nothing is no event.
    rig.fresh = true;
    rig.told.clear();
    rig.seconds(5);
    assert_eq!(rig.told, [Happening::Applied(Some("undervolt".to_owned()))]);
}

#[test]
fn a_helper_that_was_lost_over_another_gpus_settings_is_no_strike() {
    for spared in [true, false] {
        let mut rig = with_eco();
        for _ in 0..2 {
            rig.seconds(3);
            (rig.fresh, rig.spared) = (true, spared);
        }
        rig.seconds(3);
        assert_eq!(rig.reasons().is_empty(), spared, "{:?}", rig.told);
    }
}

#[test]
fn when_its_owner_leaves_the_card_is_as_its_maker_set_it() {
    let mut rig = with_eco();
    rig.seconds(3);
    assert!(!rig.state().is_given_back());
    rig.wanted = None;
    rig.second();
    assert!(rig.is_as_made() && rig.state().is_given_back());
    assert_eq!((rig.disk.ours, rig.disk.trying.clone(), rig.reasons()), (false, None, vec![]));
    // From then on it is nobody's: what an operator sets by hand stays.
    rig.settings.limit = Ok(Milliwatts(200_000));
    assert_eq!(rig.asked_since(|rig| rig.seconds(100)), []);
    // An agent that was killed gives back what it had set.
    rig.wanted = Some(undervolt());
    rig.seconds(3);
    rig.wanted = None;
    rig.state = Some(State::new(rig.disk.clone()));
    rig.seconds(3);
    assert!(rig.is_as_made());
}

#[test]
fn what_cannot_be_given_back_is_given_up_and_the_rest_is_done() {
    let mut rig = with_eco();
    rig.seconds(70);
    rig.wanted = None;
    rig.refuse = vec![(Knob::PowerLimit, Code::UNKNOWN)];
    rig.seconds(3_600);
    assert_eq!((rig.core_lock, rig.settings.core_offset), (None, [Ok(MegahertzOffset(0)); 2]));
    assert_eq!(rig.was_told(&Happening::GaveUp(Knob::PowerLimit)), 1);
    assert_eq!(rig.was_told(&Happening::Refused { knob: Knob::PowerLimit, code: Code::UNKNOWN }), 1);
    assert!(rig.state().is_given_back() && rig.disk.ours);
    rig.refuse.clear();
    rig.reload();
    rig.seconds(3);
    assert!(rig.is_as_made() && !rig.disk.ours);
}

#[test]
fn a_cap_is_set_at_once_beside_the_transaction_and_lifted_at_rest() {
    let mut rig = with_eco();
    rig.seconds(5);
    let limit = |watts: u32| Setting::PowerLimit(Milliwatts(watts * 1000));
    for (cap, expected) in [
        (Some(250), vec![limit(250)]),
        (Some(400), vec![limit(300)]),
        (Some(20), vec![limit(100)]),
        (None, vec![limit(300)]),
    ] {
        rig.cap = cap.map(|watts: u32| Milliwatts(watts * 1000));
        assert_eq!(rig.asked_since(|rig| rig.seconds(8)), expected, "{cap:?}");
    }
    // Neither a trial nor a failure of one.
    rig.seconds(40);
    assert_eq!((rig.disk.last_good(), rig.reasons()), (Some(&undervolt()), vec![]));
    // It holds for whatever comes next, and no limit above it is ever set.
    rig.cap = Some(Milliwatts(150_000));
    for wanted in [Some(eco()), None, Some(undervolt())] {
        rig.wanted = wanted;
        let asked = rig.asked_since(|rig| rig.seconds(70));
        assert!(asked.iter().all(|setting| !matches!(setting, Setting::PowerLimit(limit) if limit.0 > 150_000)));
        assert_eq!(rig.settings.limit, Ok(Milliwatts(150_000)));
    }
    // A new helper does not wait its turn for it, nor for the disk, be that full or without an answer.
    for hangs in [false, true] {
        (rig.disk_full, rig.disk_hangs) = (!hangs, hangs);
        for _ in 0..20 {
            rig.reload();
            rig.second();
            assert_eq!(rig.settings.limit, Ok(Milliwatts(150_000)));
        }
    }
    // Nor does an order, in the midst of a record on its way.
    for (cap, ceiling) in [(140_000, 900), (130_000, 800), (120_000, 700)] {
        rig.disk_hangs = false;
        rig.seconds(31);
        rig.disk_hangs = true;
        rig.state.as_mut().unwrap().clear(None);
        (rig.cap, rig.ceiling) = (Some(Milliwatts(cap)), Some(Megahertz(ceiling)));
        rig.second();
        assert!(rig.hanging.is_some() && rig.settings.limit == Ok(Milliwatts(cap)));
        assert_eq!(rig.core_lock.map(|(_, high)| high), Some(Megahertz(ceiling)));
    }
    rig.disk_hangs = false;
    rig.wanted = None;
    rig.seconds(1_300);
    (rig.cap, rig.ceiling) = (None, None);
    rig.seconds(40);
    assert!(rig.is_as_made());
}

#[test]
fn a_card_without_a_profile_is_touched_by_a_cap_alone_and_gets_its_own_limit_back() {
    let mut rig = Rig::new(None);
    rig.settings.limit = Ok(Milliwatts(280_000));
    assert_eq!(rig.asked_since(|rig| rig.seconds(100)), []);
    for (cap, expected) in
        [(Some(300), 280), (Some(200), 200), (Some(180), 180), (Some(350), 280), (Some(150), 150), (None, 280)]
    {
        rig.cap = cap.map(|watts: u32| Milliwatts(watts * 1000));
        rig.seconds(31);
        assert_eq!(rig.settings.limit, Ok(Milliwatts(expected * 1000)), "{cap:?}");
    }
    assert!(rig.state().is_given_back() && !rig.disk.ours);
    rig.cap = Some(Milliwatts(200_000));
    rig.seconds(2);
    rig.refuse.push((Knob::PowerLimit, Code::NO_PERMISSION));
    rig.cap = Some(Milliwatts(100_000));
    assert_eq!(rig.asked_since(|rig| rig.seconds(60)).len(), 2);
}

#[test]
fn an_operator_clears_a_quarantine() {
    let mut rig = with_eco();
    rig.seconds(5);
    rig.xid = Some(62);
    rig.seconds(5);
    assert!(rig.has(&eco()));
    let mut state = rig.state.take().unwrap();
    assert_eq!((state.clear(Some("other")), state.clear(Some("undervolt"))), (0, 1));
    rig.state = Some(state);
    rig.seconds(70);
    assert_eq!(rig.disk.last_good(), Some(&undervolt()));
}

#[test]
fn an_answer_of_the_old_helper_is_not_taken_for_one_of_the_new() {
    let mut rig = Rig::new(Some(undervolt()));
    rig.steps(3);
    assert_eq!(rig.asked.len(), 1);
    (rig.answer, rig.fresh) = (Some(Answer::Set(Err(Code::INVALID_ARGUMENT))), true);
    rig.seconds(2);
    assert_eq!(rig.reasons(), []);
    assert!(rig.has(&undervolt()));
}
