//! One GPU in the GPU thread's hands: what is known of it, and what it is owed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info, warn};

use super::keeper::{self, Act, Happening, Record, Rules, Seen};
use super::profile::Profile;
use super::store::Saving;
use super::wire::{Answer, Code, Device, PciAddress, Read};
use super::worker::lost;
use super::xid::{self, Action, Xids};
use super::{Gpu, Limits, Presence, air};
use crate::clock::now;
use crate::reading::Missing;
use crate::units::Duty;

/// First wait before a GPU that is on the bus and does not answer is asked again; each further one waits twice as long.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The longest such wait: each attempt may cost a helper where the card hangs.
const LONGEST: Duration = Duration::from_secs(3_600);
/// A call that did not come back is forgotten after so long without another.
pub(super) const FORGIVEN: Duration = Duration::from_secs(600);

/// A GPU.
pub(super) struct Card {
    /// As it is published.
    pub(super) now: Gpu,
    /// Times that a helper was lost over it, and when it was the last.
    hangs: u32,
    hung: Option<Instant>,
    xids: Xids,
    /// Its fans may be where we put them: they are given back until that is known to have been done.
    ours: bool,
    /// The drive that was ordered last; none gives the fans back.
    ordered: Option<Duty>,
    /// It was left alone with its fans driven: one attempt to give them back is owed.
    owed: bool,
    /// When it is looked for again, while it is there and does not answer, and how long to wait after that.
    again: Option<Instant>,
    wait: Duration,
    /// What went wrong with its fans last, told once.
    refused: Option<Read<()>>,
    keeper: keeper::State,
    /// The answer to the keeper's last act.
    answer: Option<keeper::Answer>,
    /// Its record on the way to the disk.
    pub(super) saving: Option<Saving>,
    /// An Xid that the keeper has not seen.
    news: Option<u64>,
    /// The helper is a new one since the keeper's last step.
    fresh: bool,
    /// The last helper was lost over another GPU.
    spared: bool,
    /// What the fan rule was made of.
    rule: Option<u32>,
}

impl Card {
    pub(super) fn new(pci: PciAddress) -> Self {
        Self {
            now: Gpu::unseen(pci),
            hangs: 0,
            hung: None,
            xids: Xids::default(),
            ours: false,
            ordered: None,
            owed: false,
            again: None,
            wait: LOOK_AGAIN,
            refused: None,
            keeper: keeper::State::new(Record::default()),
            answer: None,
            saving: None,
            news: None,
            fresh: false,
            spared: false,
            rule: None,
        }
    }

    /// It is there, or it is not: said once. One that takes helpers along stays alone, whatever else is heard of it, until
    /// it is forgiven: a helper that lists it would be the next one to hang.
    pub(super) fn turn(&mut self, presence: Presence) {
        if self.now.presence == presence || self.now.presence == Presence::Hung {
            return;
        }
        self.owed = presence == Presence::Hung && self.ours;
        match presence {
            Presence::Lost | Presence::Hung => error!("GPU {}: {presence}", self.now.pci),
            Presence::Unlisted => warn!("GPU {}: {presence}", self.now.pci),
            Presence::Seen | Presence::Unseen => info!("GPU {}: {presence}", self.now.pci),
        }
        self.now.presence = presence;
        if presence != Presence::Seen {
            self.lose(Missing::Bus);
        }
    }

    /// A new helper sees it; `record` is what is kept of a GPU by its UUID. Another card in the same slot begins anew.
    pub(super) fn listed(&mut self, device: Device, record: Record) {
        if self.now.device.as_deref() != Some(&device) {
            info!("GPU {}: {} {}", device.pci, device.name, device.uuid);
            if self.now.device.as_ref().is_some_and(|before| before.uuid != device.uuid) {
                *self = Self::new(device.pci);
            }
            if self.now.device.is_none() {
                // An agent and a helper that were killed left fans where they were. A card without anything of ours on it
                // is not touched: somebody else may drive its fans.
                self.ours = record.ours();
                self.keeper = keeper::State::new(record);
            }
            self.now.device = Some(Arc::new(device));
            // Before its keeper's first step too nobody takes it for clean.
            self.now.profile.phase = self.keeper.stage();
            // Its fan rule depends on what the card can take.
            self.rule = None;
        }
        self.fresh = true;
        self.answer = None;
        (self.again, self.wait) = (None, LOOK_AGAIN);
        self.turn(Presence::Seen);
    }

    /// Whether it is time to look for it again, which is asked while it is on the bus and does not answer.
    pub(super) fn may_look(&mut self, now: Instant) -> bool {
        if !matches!(self.now.presence, Presence::Lost | Presence::Unlisted | Presence::Unseen) {
            return false;
        }
        let due = self.again.is_some_and(|again| now >= again);
        if due {
            self.wait = (self.wait * 2).min(LONGEST);
        }
        if due || self.again.is_none() {
            self.again = Some(now + self.wait);
        }
        due
    }

    /// The operator has let somebody reset it: it is asked again as if for the first time.
    pub(super) fn forgive(&mut self) {
        (self.hangs, self.hung, self.again, self.wait) = (0, None, None, LOOK_AGAIN);
        self.xids.forget_incidents();
        if self.now.presence != Presence::Seen {
            self.now.presence = Presence::Unseen;
        }
    }

    /// Lets a profile out of quarantine, or all: how many were.
    pub(super) fn clear(&mut self, profile: Option<&str>) -> usize {
        self.keeper.clear(profile)
    }

    /// Nothing is known of it now.
    pub(super) fn lose(&mut self, missing: Missing) {
        self.now.sample = Err(missing);
        self.now.processes = Err(missing);
    }

    /// The helper was lost over another GPU, or was not.
    pub(super) const fn spare(&mut self, spared: bool) {
        self.spared = spared;
    }

    /// Whether its fans may be where a helper left them that is gone, and are to be given back first.
    pub(super) const fn give_back(&mut self) -> bool {
        self.ordered = None;
        self.ours
    }

    /// A helper was lost over it: how many times by now.
    pub(super) fn hangs(&mut self, now: Instant) -> u32 {
        if self.hung.is_none_or(|hung| now.saturating_duration_since(hung) >= FORGIVEN) {
            self.hangs = 0;
        }
        self.hung = Some(now);
        self.hangs += 1;
        self.hangs
    }

    /// An Xid of it; what it asks for, where it is a new one.
    pub(super) fn xid(&mut self, code: u64, now: Instant) -> Option<Action> {
        let action = self.xids.note(code, now)?;
        warn!("GPU {}: Xid {code} ({}): {action}", self.now.pci, xid::name(code));
        self.now.xids = self.xids.count;
        self.now.last_xid = Some(code);
        self.news = Some(code);
        Some(action)
    }

    /// What the helper must be told of its fans, if anything: each drive on every pass, for the helper gives them back
    /// when it hears nothing; their return until it is done. Of a GPU that is left alone their return once: it may hang.
    pub(super) fn drive(&mut self, ordered: Option<Duty>) -> Option<Option<Duty>> {
        self.ordered = match self.now.presence {
            Presence::Seen => ordered,
            Presence::Hung if std::mem::take(&mut self.owed) => None,
            Presence::Hung | Presence::Lost | Presence::Unlisted | Presence::Unseen => return None,
        };
        self.ours |= self.ordered.is_some();
        self.ours.then_some(self.ordered)
    }

    /// An answer about it.
    pub(super) fn told(&mut self, answer: Answer) {
        let gone = match &answer {
            // A handle may outlive its card: then each value says it.
            Answer::Sample(Ok(sample)) => [lost(&sample.temperature), lost(&sample.power)].contains(&true),
            Answer::Sample(answer) => lost(answer),
            Answer::Set(answer) => lost(answer),
            Answer::Processes(answer) => lost(answer),
            Answer::Inventory(_) | Answer::Settings(_) | Answer::Selftest(_) | Answer::Device(_) => false,
        };
        if gone {
            self.turn(Presence::Lost);
            return;
        }
        match answer {
            Answer::Sample(Ok(sample)) => {
                if let Ok(width) = sample.pcie_width {
                    self.now.widest = self.now.widest.max(Some(width));
                }
                self.now.sample = Ok(Arc::from(sample));
            }
            Answer::Sample(Err(code)) => self.now.sample = Err(code.into()),
            Answer::Processes(processes) => self.now.processes = processes.map_err(Missing::from),
            Answer::Set(done) => self.drove(done),
            Answer::Inventory(_) | Answer::Settings(_) | Answer::Selftest(_) | Answer::Device(_) => {}
        }
    }

    /// The next act for its profile, and what happened. `saved` is the disk's word on its record.
    pub(super) fn keep(
        &mut self,
        rules: &Rules,
        saved: Option<bool>,
        (wanted, brought): (Option<&Profile>, bool),
        limits: Limits,
        unix_s: u64,
    ) -> (Option<Act>, Vec<Happening>) {
        let Some(device) = self.now.device.clone() else { return (None, Vec::new()) };
        let answer = self.answer.take();
        let fresh = std::mem::take(&mut self.fresh);
        let spared = fresh && std::mem::take(&mut self.spared);
        let sample = self.now.sample.clone().ok();
        let seen = Seen {
            now: now(),
            unix_s,
            device: &device,
            wanted,
            brought,
            cap: limits.power,
            ceiling: limits.clock,
            memory: limits.memory,
            sample: sample.as_deref(),
            answer: answer.as_ref(),
            saved,
            xid: self.news.take(),
            lost: !matches!(self.now.presence, Presence::Seen | Presence::Unseen),
            fresh,
            spared,
        };
        let before = std::mem::replace(&mut self.keeper, keeper::State::new(Record::default()));
        let (state, act, told) = keeper::step(rules, before, &seen);
        self.keeper = state;
        for happening in &told {
            info!("GPU {}: {happening}", self.now.pci);
        }
        self.show(&device);
        (act, told)
    }

    /// What came of the keeper's act.
    pub(super) fn answered(&mut self, answer: keeper::Answer) {
        self.answer = Some(answer);
    }

    /// What is kept of it.
    pub(super) const fn record(&self) -> &Record {
        self.keeper.record()
    }

    /// Nothing of ours is on it.
    pub(super) fn is_given_back(&self) -> bool {
        self.now.device.is_none() || self.keeper.is_given_back()
    }

    fn show(&mut self, device: &Device) {
        let profile = self.keeper.profile();
        let digest = profile.map(Profile::digest);
        if digest != self.rule || self.now.profile.name.is_some() != profile.is_some() {
            self.rule = digest;
            let rule = profile.and_then(|profile| profile.fans.as_ref());
            self.now.air = air::zone(self.now.pci, rule, device).map(Arc::new);
            self.now.profile.name = profile.map(|profile| Arc::from(profile.name.as_str()));
        }
        self.now.profile.phase = self.keeper.stage();
        self.now.profile.limit = self.keeper.uncapped(device);
        self.now.profile.quarantined = u16::try_from(self.keeper.record().quarantine().len()).unwrap_or(u16::MAX);
    }

    fn drove(&mut self, done: Read<()>) {
        let unable = |code| matches!(code, Code::NOT_SUPPORTED | Code::FUNCTION_NOT_FOUND | Code::DEPRECATED);
        if self.ordered.is_none() && done.err().is_none_or(unable) {
            self.ours = false;
        }
        if self.refused == Some(done) {
            return;
        }
        if let Err(code) = done {
            match self.ordered {
                Some(_) => warn!("GPU {}: its fans are left to the driver: {code}", self.now.pci),
                None => error!("GPU {}: its fans are not given back, and are tried again: {code}", self.now.pci),
            }
        }
        self.refused = Some(done);
    }
}

#[cfg(test)]
mod tests;
