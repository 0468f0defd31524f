//! A simulated card under a keeper.

use super::*;
use crate::gpu::plan::tests::{card, undervolt, untouched};
use crate::gpu::plan::{defaults, drifted, plan};
use crate::gpu::profile::Limit;

pub(super) const RULES: Rules = Rules { probation: Duration::from_secs(60) };

/// A card with a driver, a helper and a disk, and whoever steps its keeper once a second.
pub(super) struct Rig {
    pub(super) state: Option<State>,
    pub(super) device: Device,
    pub(super) now: Instant,
    pub(super) wanted: Option<Profile>,
    pub(super) cap: Option<Milliwatts>,
    pub(super) ceiling: Option<Megahertz>,
    pub(super) memory: Option<Megahertz>,
    pub(super) sample: Option<Sample>,
    pub(super) answer: Option<Answer>,
    pub(super) saved: Option<bool>,
    pub(super) xid: Option<u64>,
    pub(super) lost: bool,
    pub(super) fresh: bool,
    pub(super) spared: bool,
    pub(super) brought: bool,
    /// What is set on the card.
    pub(super) settings: Settings,
    pub(super) core_lock: Option<(Megahertz, Megahertz)>,
    pub(super) memory_lock: Option<(Megahertz, Megahertz)>,
    /// What the driver answers when one of these is set.
    pub(super) refuse: Vec<(Knob, Code)>,
    /// What the driver takes and does not make.
    pub(super) ignore: Vec<Knob>,
    pub(super) unreadable: Option<Code>,
    pub(super) disk_full: bool,
    pub(super) disk_hangs: bool,
    /// What is in its hands, and for how long that is waited for.
    pub(super) hanging: Option<(Instant, Record)>,
    pub(super) disk: Record,
    /// Every setting that was asked for, with when.
    pub(super) asked: Vec<(Instant, Setting)>,
    pub(super) told: Vec<Happening>,
}

impl Rig {
    pub(super) fn new(wanted: Option<Profile>) -> Self {
        Self {
            state: Some(State::new(Record::default())),
            device: card(),
            now: crate::clock::now(),
            wanted,
            cap: None,
            ceiling: None,
            memory: None,
            sample: None,
            answer: None,
            saved: None,
            xid: None,
            lost: false,
            fresh: false,
            spared: false,
            brought: false,
            settings: untouched(),
            core_lock: None,
            memory_lock: None,
            refuse: Vec::new(),
            ignore: Vec::new(),
            unreadable: None,
            disk_full: false,
            disk_hangs: false,
            hanging: None,
            disk: Record::default(),
            asked: Vec::new(),
            told: Vec::new(),
        }
    }

    pub(super) fn state(&self) -> &State {
        self.state.as_ref().unwrap()
    }

    /// Steps at most this often, as long as there is something to do; gives how many acts there were.
    pub(super) fn steps(&mut self, most: usize) -> usize {
        for done in 0..most {
            match self.hanging.take() {
                // Given up by whoever waits for it.
                Some((until, _)) if self.disk_hangs && self.now >= until => self.saved = Some(false),
                Some(hanging) if self.disk_hangs => self.hanging = Some(hanging),
                Some((_, record)) => self.save(record),
                None => {}
            }
            let seen = Seen {
                now: self.now,
                unix_s: 7,
                device: &self.device,
                wanted: self.wanted.as_ref(),
                cap: self.cap,
                ceiling: self.ceiling,
                memory: self.memory,
                sample: self.sample.as_ref(),
                answer: self.answer.as_ref(),
                saved: self.saved.take(),
                xid: self.xid.take(),
                lost: self.lost,
                fresh: std::mem::take(&mut self.fresh),
                spared: std::mem::take(&mut self.spared),
                brought: self.brought,
            };
            let (state, act, told) = step(&RULES, self.state.take().unwrap(), &seen);
            let back = told.contains(&Happening::Applied(None));
            self.told.extend(told);
            let record = state.record().clone();
            self.state = Some(state);
            assert!(
                !back || self.holds(&defaults(&self.device).settings),
                "said to be given back: {:?}",
                self.settings
            );
            self.answer = None;
            let Some(act) = act else { return done };
            match act {
                Act::Set(setting) => self.answer = Some(Answer::Set(self.set(setting))),
                Act::Read => self.answer = Some(Answer::Read(self.unreadable.map_or(Ok(self.settings.clone()), Err))),
                Act::Save if self.disk_hangs => self.hanging = Some((self.now + Duration::from_secs(10), record)),
                Act::Save => self.save(record),
            }
        }
        most
    }

    fn save(&mut self, record: Record) {
        if !self.disk_full {
            self.disk = record;
        }
        self.saved = Some(!self.disk_full);
    }

    pub(super) fn set(&mut self, setting: Setting) -> Read<()> {
        self.asked.push((self.now, setting));
        let knob = Knob::from(setting);
        if let Some((_, code)) = self.refuse.iter().find(|(refused, _)| *refused == knob) {
            return Err(*code);
        }
        if !self.ignore.contains(&knob) {
            match setting {
                Setting::PowerLimit(limit) => self.settings.limit = Ok(limit),
                Setting::CoreLock(lock) => self.core_lock = lock,
                Setting::MemoryLock(lock) => self.memory_lock = lock,
                Setting::CoreOffset(offset) => self.settings.core_offset = [Ok(offset); 2],
                Setting::MemoryOffset(offset) => self.settings.memory_offset = [Ok(offset); 2],
                Setting::Persistence(on) => self.settings.persistence = Ok(on),
            }
        }
        Ok(())
    }

    /// One second.
    pub(super) fn second(&mut self) {
        let acts = self.steps(64);
        assert!(acts < 64, "no end of acts: {:?}", self.state());
        self.now += Duration::from_secs(1);
    }

    pub(super) fn seconds(&mut self, seconds: u32) {
        (0..seconds).for_each(|_| self.second());
    }

    /// The driver is loaded anew, with a new helper.
    pub(super) fn reload(&mut self) {
        (self.settings, self.core_lock, self.memory_lock, self.fresh) = (untouched(), None, None, true);
    }

    /// The agent is started anew with what is on the disk; after a power cut the card is as new, too.
    pub(super) fn restart(&mut self) {
        (self.state, self.answer) = (Some(State::new(self.disk.clone())), None);
        self.reload();
    }

    pub(super) fn asked_since(&mut self, act: impl FnOnce(&mut Self)) -> Vec<Setting> {
        let before = self.asked.len();
        act(self);
        self.asked[before..].iter().map(|(_, setting)| *setting).collect()
    }

    pub(super) fn is_as_made(&self) -> bool {
        self.core_lock.is_none()
            && self.memory_lock.is_none()
            && defaults(&self.device).settings.iter().all(|setting| drifted(*setting, &self.settings).is_none())
    }

    pub(super) fn has(&self, profile: &Profile) -> bool {
        let settings = plan(profile, &self.device).settings;
        let locks = [Setting::CoreLock(self.core_lock), Setting::MemoryLock(self.memory_lock)];
        let locked = locks.iter().all(|lock| settings.contains(lock));
        locked && settings.iter().all(|setting| drifted(*setting, &self.settings).is_none())
    }

    /// Whether these read back, but for what the card cannot do.
    pub(super) fn holds(&self, settings: &[Setting]) -> bool {
        let able = settings.iter().filter(|setting| !self.state().unable.contains(&Knob::from(**setting)));
        able.into_iter().all(|setting| {
            // A cap may hold beside it.
            let capped = self.cap.is_some() && Knob::from(*setting) == Knob::PowerLimit;
            capped || drifted(*setting, &self.settings).is_none()
        })
    }

    pub(super) fn was_told(&self, happening: &Happening) -> usize {
        self.told.iter().filter(|told| *told == happening).count()
    }

    pub(super) fn reasons(&self) -> Vec<Reason> {
        self.disk.quarantine().iter().map(|entry| entry.reason).collect()
    }
}

pub(super) fn eco() -> Profile {
    Profile { name: "eco".to_owned(), power_limit: Some(Limit::Power(Milliwatts(220_000))), ..Profile::default() }
}

/// A rig on which `eco` is known as good and `undervolt` is wanted now.
pub(super) fn with_eco() -> Rig {
    let mut rig = Rig::new(Some(eco()));
    rig.seconds(70);
    assert_eq!(rig.disk.last_good(), Some(&eco()));
    rig.wanted = Some(undervolt());
    rig.told.clear();
    rig
}
