//! Whatever happens: faults drawn by chance.

use proptest::prelude::*;

use super::*;
use crate::gpu::plan::tests::any_profile;

/// What may go wrong in a second.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Refuse(Knob, Code),
    Ignore(Knob),
    Unreadable(Code),
    Cured,
    Miner,
    Xid,
    Reload,
    Fresh,
    Lost,
    Restart,
    DiskFull,
    DiskHangs,
    Clock,
    Operator,
}

fn fault() -> impl Strategy<Value = Fault> {
    let knob = prop::sample::select(vec![
        Knob::PowerLimit,
        Knob::CoreLock,
        Knob::MemoryLock,
        Knob::CoreOffset,
        Knob::MemoryOffset,
        Knob::Persistence,
    ]);
    let code = prop::sample::select(vec![1, 2, 3, 4, 9, 10, 15, 18, 26, 999]).prop_map(Code);
    prop_oneof![
        1 => (knob.clone(), code.clone()).prop_map(|(knob, code)| Fault::Refuse(knob, code)),
        1 => knob.prop_map(Fault::Ignore),
        1 => code.prop_map(Fault::Unreadable),
        4 => Just(Fault::Cured),
        2 => Just(Fault::Miner),
        1 => Just(Fault::Xid),
        2 => Just(Fault::Reload),
        1 => Just(Fault::Fresh),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Restart),
        1 => Just(Fault::DiskFull),
        1 => Just(Fault::DiskHangs),
        1 => Just(Fault::Clock),
        1 => Just(Fault::Operator),
    ]
}

impl Rig {
    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Refuse(knob, code) => self.refuse.push((knob, code)),
            Fault::Ignore(knob) => self.ignore.push(knob),
            Fault::Unreadable(code) => self.unreadable = Some(code),
            Fault::Cured => {
                self.refuse.clear();
                self.ignore.clear();
                (self.unreadable, self.lost, self.sample) = (None, false, None);
                (self.disk_full, self.disk_hangs) = (false, false);
            }
            Fault::Miner => {
                self.settings.limit = Ok(Milliwatts(390_000));
                self.settings.core_offset = [Ok(MegahertzOffset(77)); 2];
                (self.core_lock, self.memory_lock) = (None, None);
            }
            Fault::Xid => self.xid = Some(13),
            Fault::Reload => self.reload(),
            Fault::Fresh => self.fresh = true,
            Fault::Lost => self.lost = true,
            Fault::Restart => self.restart(),
            Fault::DiskFull => self.disk_full = true,
            Fault::DiskHangs => self.disk_hangs = true,
            Fault::Clock => self.sample = Some(sample(5_000, 100, 0)),
            Fault::Operator => {
                (self.cap, self.ceiling) = match (self.cap, self.ceiling) {
                    (None, None) => (Some(Milliwatts(150_000)), None),
                    (Some(cap), None) => (Some(cap), Some(Megahertz(900))),
                    (Some(_), Some(ceiling)) => (None, Some(ceiling)),
                    (None, Some(_)) => (None, None),
                };
                self.memory = self.ceiling.map(|_| Megahertz(5_001));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_calls_of_an_hour_are_bounded_and_a_quarantine_holds(
        profile in any_profile(),
        faults in prop::collection::vec((0_u32..120, fault()), 0..60),
        storm in any::<bool>(),
    ) {
        let mut rig = with_eco();
        rig.wanted = Some(profile.clone());
        let (start, mut faults) = (rig.asked.len(), faults.into_iter());
        let (mut wait, mut fault, mut helpers, mut restarts) = (0, None, 0, 0);
        for second in 0..3_600 {
            if wait == 0 {
                if let Some(fault) = fault.take() {
                    restarts += usize::from(matches!(fault, Fault::Restart));
                    // An order for another cap is one call, too.
                    helpers += usize::from(matches!(fault, Fault::Reload | Fault::Fresh | Fault::Operator));
                    rig.suffer(fault);
                }
                if let Some((seconds, next)) = faults.next() {
                    (wait, fault) = (seconds, Some(next));
                }
            }
            wait = u32::saturating_sub(wait, 1);
            // A helper that dies every second, and a miner that sets its own.
            if storm && second % 2 == 0 {
                helpers += 1;
                rig.suffer(if second % 4 == 0 { Fault::Fresh } else { Fault::Miner });
            }
            let barred = rig.state().record().bars(profile.digest());
            rig.second();
            if barred {
                prop_assert_ne!(rig.state().profile().map(Profile::digest), Some(profile.digest()));
            }
        }
        let calls = rig.asked.len() - start;
        // Starts and repairs as the module says, a hundred for trials and what comes instead, a cap set again by each new
        // helper as both ceilings are, and a budget of ten starts and five repairs more for each restart.
        let bound = 240 + 210 + 100 + 3 * helpers + 90 * restarts;
        prop_assert!(calls <= bound, "{} calls, {} helpers, {} restarts", calls, helpers, restarts);
    }

    #[test]
    fn with_all_well_again_the_card_comes_to_rest_at_one_profile_or_as_it_was_made(
        profile in any_profile(),
        faults in prop::collection::vec((0_u32..60, fault()), 0..30),
        leaves in any::<bool>(),
    ) {
        let mut rig = with_eco();
        rig.wanted = Some(profile.clone());
        for (seconds, fault) in faults {
            rig.suffer(fault);
            rig.seconds(seconds);
        }
        rig.suffer(Fault::Cured);
        (rig.cap, rig.ceiling, rig.memory) = (None, None, None);
        rig.fresh = true;
        if leaves {
            rig.wanted = None;
        }
        rig.seconds(3_600);
        prop_assert!(!rig.state().on_trial() && rig.disk.trying.is_none());
        match rig.state().profile() {
            Some(_) if leaves => prop_assert!(false, "not given back"),
            None => {
                prop_assert!(leaves || rig.disk.bars(profile.digest()));
                // From the moment on when it is given back it is nobody's, and a miner's settings stay.
                prop_assert!(!rig.disk.ours || rig.state().gave_up);
                prop_assert!(!rig.disk.persists);
            }
            Some(on) => {
                prop_assert!(on.digest() == profile.digest() || rig.disk.bars(profile.digest()));
                prop_assert!(rig.disk.knows(on.digest()));
                prop_assert!(rig.holds(&rig.state().plan.settings), "{:?} {:?}", rig.state().plan, rig.settings);
            }
        }
    }

    #[test]
    fn with_all_well_any_profile_is_committed(profile in any_profile()) {
        let mut rig = Rig::new(Some(profile.clone()));
        rig.seconds(65);
        prop_assert_eq!(rig.disk.last_good(), Some(&profile));
        prop_assert!(rig.has(&profile));
        rig.wanted = None;
        rig.second();
        prop_assert!(rig.is_as_made() && rig.state().is_given_back());
    }
}
