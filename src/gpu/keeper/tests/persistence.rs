//! What keeps a limit on a card when the driver's last client is gone.

use super::*;

fn limit(watts: u32) -> Setting {
    Setting::PowerLimit(Milliwatts(watts * 1_000))
}

const ON: Setting = Setting::Persistence(true);
const OFF: Setting = Setting::Persistence(false);

/// A card without a profile, under a cap.
fn capped(persistent: Read<bool>) -> Rig {
    let mut rig = Rig::new(None);
    rig.settings.persistence = persistent;
    rig.cap = Some(Milliwatts(200_000));
    rig
}

fn lift(rig: &mut Rig) -> Vec<Setting> {
    rig.cap = None;
    rig.asked_since(|rig| rig.seconds(40))
}

#[test]
fn it_goes_on_behind_the_first_limit_and_off_behind_the_last_where_it_was_off() {
    for (found, first, last) in [
        (Ok(false), vec![limit(200), ON], vec![OFF]),
        (Ok(true), vec![limit(200)], vec![]),
        (Err(Code::NOT_SUPPORTED), vec![limit(200)], vec![]),
    ] {
        let mut rig = capped(found);
        assert_eq!(rig.asked_since(|rig| rig.seconds(100)), first, "{found:?}");
        assert_eq!(rig.disk.persists, first.contains(&ON), "{found:?}");
        rig.cap = Some(Milliwatts(150_000));
        assert_eq!(rig.asked_since(|rig| rig.seconds(2)), [limit(150)], "{found:?}");
        let back = lift(&mut rig);
        assert!(matches!(back[0], Setting::PowerLimit(_)) && back[1..] == last, "{found:?}: {back:?}");
        assert!(rig.is_as_made() && rig.state().is_given_back() && !rig.disk.persists, "{found:?}");
        assert_eq!(rig.settings.persistence, found);
        // The next cap does not wait for the one before.
        rig.cap = Some(Milliwatts(200_000));
        assert_eq!(rig.asked_since(|rig| rig.seconds(2)), first, "{found:?}");
    }
}

/// The card keeps everything, and the next agent knows by the record whose persistence that is.
#[test]
fn an_agent_that_was_killed_is_followed_by_one_that_gives_it_back() {
    for stays in [true, false] {
        let mut rig = capped(Ok(false));
        rig.seconds(2);
        rig.state = Some(State::new(rig.disk.clone()));
        if stays {
            let asked = rig.asked_since(|rig| rig.seconds(100));
            assert!(!asked.iter().any(|setting| matches!(setting, Setting::Persistence(_))), "{asked:?}");
        }
        assert_eq!(lift(&mut rig).iter().filter(|setting| **setting == OFF).count(), 1);
        assert!(rig.is_as_made() && rig.settings.persistence == Ok(false));
        rig.seconds(40);
        assert!(rig.state().is_given_back() && !rig.disk.persists && !rig.disk.ours);
    }
}

#[test]
fn a_profile_has_a_word_of_its_own_on_it() {
    for (wanted, kept) in [(None, true), (Some(true), true), (Some(false), false)] {
        let mut rig = capped(Ok(false));
        rig.seconds(2);
        rig.wanted = Some(Profile { persistence: wanted, ..eco() });
        rig.seconds(70);
        assert_eq!((rig.settings.persistence, rig.disk.persists), (Ok(kept), false), "{wanted:?}");
        assert_eq!(rig.settings.limit, Ok(Milliwatts(200_000)));
        assert!(!lift(&mut rig).contains(&OFF), "{wanted:?}");
        assert_eq!(rig.reasons(), [], "{wanted:?}");
    }
}

#[test]
fn what_is_not_taken_or_does_not_hold_costs_no_limit_and_is_not_asked_for_without_end() {
    type Fault = fn(&mut Rig);
    let rows: [(&str, Fault, usize); 3] = [
        ("cannot", |rig| rig.refuse.push((Knob::Persistence, Code::NOT_SUPPORTED)), 1),
        ("refused", |rig| rig.refuse.push((Knob::Persistence, Code::NO_PERMISSION)), 12),
        ("taken and not made", |rig| rig.ignore.push(Knob::Persistence), 12),
    ];
    for (what, fault, most) in rows {
        let mut rig = capped(Ok(false));
        fault(&mut rig);
        let asked = rig.asked_since(|rig| rig.seconds(3_600));
        let times = asked.iter().filter(|setting| **setting == ON).count();
        assert!((1..=most).contains(&times), "{what}: {times}");
        assert_eq!((asked.len() - times, rig.settings.limit), (1, Ok(Milliwatts(200_000))), "{what}");
        let code = if what == "cannot" { Code::NOT_SUPPORTED } else { Code::NO_PERMISSION };
        let refused = rig.was_told(&Happening::Refused { knob: Knob::Persistence, code })
            + rig.was_told(&Happening::Adapted(Note::Unable { knob: Knob::Persistence, code }));
        assert_eq!(refused, usize::from(what != "taken and not made"), "{what}: told once");
        lift(&mut rig);
        assert!(rig.is_as_made() && rig.state().is_given_back(), "{what}");
    }
}

/// Clocks cannot be read: one that was given free before control has said how low it must be would be above the cap.
#[test]
fn a_new_agent_frees_no_clock_before_it_knows_how_far_the_card_is_held_back() {
    for wanted in [None, Some(eco())] {
        let mut rig = capped(Ok(false));
        rig.ceiling = Some(Megahertz(900));
        rig.seconds(2);
        let lock = rig.core_lock;
        assert_eq!(lock, Some((Megahertz(0), Megahertz(900))));
        rig.state = Some(State::new(rig.disk.clone()));
        (rig.ceiling, rig.wanted) = (None, wanted);
        for second in 0..3 {
            rig.second();
            assert_eq!((rig.core_lock, rig.settings.limit), (lock, Ok(Milliwatts(200_000))), "after {second} s");
        }
        rig.ceiling = Some(Megahertz(1_000));
        rig.seconds(60);
        let highest = rig.core_lock.map(|(_, high)| high);
        assert_eq!((highest, rig.settings.limit), (Some(Megahertz(1_000)), Ok(Milliwatts(200_000))));
        let freed = |(_, setting): &(Instant, Setting)| matches!(setting, Setting::CoreLock(None));
        assert!(!rig.asked.iter().any(freed));
        (rig.cap, rig.ceiling, rig.wanted) = (None, None, None);
        rig.seconds(70);
        assert!(rig.is_as_made() && rig.state().is_given_back() && !rig.disk.ours);
    }
}
