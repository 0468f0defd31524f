//! The GPU thread: a pass over the GPUs for each order, everything back to the driver when orders end.
//!
//! A pass reads the kernel log, starts a helper where one is due, drives fans, samples every GPU and carries profiles on.
//! It may take as long as the driver takes, up to a deadline per call: control goes on meanwhile with what it has, which
//! goes stale. A GPU whose calls do not come back twice is not asked again, so that it cannot take its neighbours along.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use tokio::sync::watch;

use super::backoff::{self, Backoff};
use super::card::Card;
use super::config::GpuConfig;
use super::helper::{Abandoned, Failure, Helper};
use super::keeper::{self, Act, Rules};
use super::kmsg::Reader;
use super::store::Store;
use super::wire::{Answer, Code, Read, Request};
use super::{Command, Driver, GpuSnapshot, Happening, Limits, Order, Places, Presence, What};
use crate::clock::{now, unix_ms};
use crate::reading::Missing;
use crate::sorted;

mod bus;
mod operator;
#[cfg(test)]
mod tests;
mod unblamed;

use unblamed::Unblamed;

/// Time between looks at the processes on each GPU.
const PROCESSES: Duration = Duration::from_secs(10);
/// So often a GPU's calls may not come back before it is left alone.
const HANGS: u32 = 2;
/// Acts for one GPU's profile in one pass: all its settings, read back.
const ACTS: usize = 16;

/// What a GPU is to have.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// No profile and no limits: everything is given back.
    Nothing,
    /// The profile that a payload brought along, or else that of the configuration, and what holds it back beside that.
    Of(Option<&'a str>, Limits),
}

/// The GPUs and the helper.
pub(super) struct Worker {
    places: Places,
    publish: watch::Sender<Arc<GpuSnapshot>>,
    tell: SyncSender<Happening>,
    helper: Option<Helper>,
    abandoned: Option<Abandoned>,
    backoff: Backoff,
    driver: Driver,
    /// The failure that was logged last.
    told: Option<String>,
    log: Reader,
    log_told: bool,
    looked: Option<Instant>,
    processes: Option<Instant>,
    cards: Vec<Card>,
    config: GpuConfig,
    store: Store,
    commands: Receiver<Command>,
    /// What held each GPU back in the order before this one.
    limits: Vec<Option<Limits>>,
    /// Let go of the driver until then.
    released: Option<Instant>,
    unblamed: Unblamed,
}

impl Worker {
    pub(super) fn new(
        places: Places,
        (config, store): (GpuConfig, Store),
        publish: watch::Sender<Arc<GpuSnapshot>>,
        tell: SyncSender<Happening>,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            log: Reader::new(places.kmsg.clone()),
            places,
            publish,
            tell,
            helper: None,
            abandoned: None,
            backoff: Backoff::default(),
            driver: Driver::None,
            told: None,
            log_told: false,
            looked: None,
            processes: None,
            cards: Vec::new(),
            config,
            store,
            commands,
            limits: Vec::new(),
            released: None,
            unblamed: Unblamed::default(),
        }
    }

    /// One pass.
    pub(super) fn pass(&mut self, order: &Order) {
        self.commanded();
        self.look();
        if self.cards.is_empty() {
            self.driver = Driver::None;
        } else {
            self.read_log();
            self.bring_up();
            // A limit that changes does not wait for the samples of all GPUs.
            if self.limits != order.limits {
                self.limits.clone_from(&order.limits);
                self.keep(order);
            }
            self.ask(order);
            self.keep(order);
        }
        self.publish();
    }

    fn publish(&self) {
        let snapshot = GpuSnapshot {
            taken: Some(now()),
            driver: self.driver,
            versions: self.helper.as_ref().map(|helper| Arc::clone(&helper.versions)),
            gpus: self.cards.iter().map(|card| card.now.clone()).collect(),
        };
        self.publish.send_replace(Arc::new(snapshot));
    }

    fn say(&self, gpu: usize, what: What) {
        // The log has it in any case, and control has not looked for sixty of them.
        if self.tell.try_send(Happening { gpu, what }).is_err() {
            debug!("control does not take what happened to a GPU");
        }
    }

    /// Starts a helper where there is none and one is due.
    fn bring_up(&mut self) {
        if self.abandoned.as_mut().is_some_and(|abandoned| !abandoned.ended()) {
            self.driver = Driver::Hung;
            return;
        }
        self.abandoned = None;
        match self.released {
            Some(until) if now() < until => {
                self.driver = Driver::Released;
                return;
            }
            Some(_) => {
                info!("the GPUs' driver is taken up again");
                (self.released, self.backoff, self.driver) = (None, Backoff::default(), Driver::None);
            }
            None => {}
        }
        if self.helper.is_some() || !self.backoff.may_start(now()) {
            return;
        }
        let Some(launch) = self.places.launch.clone() else { return };
        if self.driver == Driver::None {
            self.driver = Driver::Starting;
            self.publish();
        }
        match Helper::start(&launch) {
            Ok(helper) => {
                info!("the GPUs' driver is {} (NVML {})", helper.versions.driver, helper.versions.nvml);
                self.backoff.started(now());
                self.driver = Driver::Up;
                self.told = None;
                self.helper = Some(helper);
                // What the last one said of processes is forgotten with it.
                self.processes = None;
                self.list();
                // What it does not list is told in the next pass, not half a minute later.
                self.looked = None;
            }
            Err((failure, abandoned)) => {
                self.abandoned = abandoned;
                self.failed(&failure);
            }
        }
    }

    /// What a new helper sees, one GPU after the other: one that takes the helper along is known by that. Before anything
    /// else, fans that the last one left where they were are given back: this one may die of the next call, as that did.
    fn list(&mut self) {
        let mut calls = Vec::new();
        let left_alone = |card: &Card| card.now.presence == Presence::Hung;
        for (index, card) in self.cards.iter_mut().enumerate().filter(|(_, card)| !left_alone(card)) {
            if card.give_back() {
                calls.push((index, Request::Drive(card.now.pci, None)));
            }
        }
        for (index, card) in self.cards.iter().enumerate().filter(|(_, card)| !left_alone(card)) {
            calls.push((index, Request::Device(card.now.pci)));
        }
        self.calls(&calls);
    }

    /// Carries every GPU's profile on: a setting or two a pass, so that the next sample is not far. Each GPU in its turn, so
    /// that no limit waits for another card's profile, or for the disk. One that control has not decided on yet is left as it is:
    /// an agent that was killed may have left a limit on it that still holds.
    fn keep(&mut self, order: &Order) {
        let mut busy: Vec<usize> = (0..self.cards.len()).collect();
        for _ in 0..ACTS {
            busy.retain(|index| {
                let brought = order.profiles.get(*index).and_then(Option::as_deref);
                let limits = order.limits.get(*index).copied().flatten();
                limits.is_some_and(|limits| self.act(*index, Wanted::Of(brought, limits)))
            });
        }
    }

    /// One act of the keeper of one GPU; whether there was one.
    fn act(&mut self, index: usize, wanted: Wanted<'_>) -> bool {
        let rules = Rules { probation: self.config.probation };
        let Some(card) = self.cards.get_mut(index) else { return false };
        let waits = match card.now.presence {
            // Nobody knows yet whether it is there.
            Presence::Unseen => true,
            Presence::Seen => self.helper.is_none(),
            Presence::Lost | Presence::Hung | Presence::Unlisted => false,
        };
        if waits {
            return false;
        }
        let Some(device) = card.now.device.clone() else { return false };
        let (wanted, limits) = match wanted {
            Wanted::Nothing => ((None, false), Limits::default()),
            Wanted::Of(Some(brought), limits) => ((self.config.named_profile(brought), true), limits),
            Wanted::Of(None, limits) => ((self.config.wanted(&device.uuid, device.pci), false), limits),
        };
        let saved = card.saving.and_then(|saving| self.store.saved(&saving, now()));
        card.saving = card.saving.filter(|_| saved.is_none());
        let (act, told) = card.keep(&rules, saved, wanted, limits, unix_ms() / 1000);
        for what in told.iter().filter_map(What::of) {
            self.say(index, what);
        }
        let answer = match act {
            None => return false,
            Some(Act::Save) => {
                let Some(card) = self.cards.get_mut(index) else { return false };
                card.saving = Some(self.store.save(&device.uuid, card.record()));
                return true;
            }
            Some(Act::Read) => match self.call(Some(index), Request::Settings(device.pci)) {
                Some(Answer::Settings(settings)) => Some(keeper::Answer::Read(settings)),
                Some(_) => self.confused(),
                None => None,
            },
            Some(Act::Set(setting)) => match self.call(Some(index), Request::Set(device.pci, setting)) {
                Some(Answer::Set(done)) => Some(keeper::Answer::Set(done)),
                Some(_) => self.confused(),
                None => None,
            },
        };
        let Some((card, answer)) = self.cards.get_mut(index).zip(answer) else { return false };
        card.answered(answer);
        true
    }

    /// An answer to something else: what it was asked is never answered, so the keeper waits for another helper.
    fn confused(&mut self) -> Option<keeper::Answer> {
        self.lose(None, &Failure::Confused);
        None
    }

    /// One call; the card that it is about, if it is about one, bears the blame where it does not come back.
    fn call(&mut self, card: Option<usize>, request: Request) -> Option<Answer> {
        match self.helper.as_mut()?.call(request) {
            Ok(answer) => Some(answer),
            Err(failure) => {
                self.lose(card, &failure);
                None
            }
        }
    }

    /// The helper is of no use any more. What it was asked about when it fell silent or died may be the reason.
    fn lose(&mut self, card: Option<usize>, failure: &Failure) {
        if let Some(card) = card.and_then(|index| self.cards.get_mut(index)) {
            warn!("GPU {}: {failure}, while it was asked", card.now.pci);
            // The time before it was somebody, most likely the one that does it again.
            if card.hangs(now()) + u32::from(self.unblamed.blame(now())) >= HANGS {
                error!("GPU {}: left alone from now on: it takes the driver's helper along", card.now.pci);
                card.turn(Presence::Hung);
            }
        }
        if let Some(helper) = self.helper.take() {
            self.abandoned = helper.give_up();
        }
        for (index, other) in self.cards.iter_mut().enumerate() {
            other.lose(Missing::Bus);
            // What one GPU's call does to the helper says nothing of its neighbours' profiles.
            other.spare(card.is_some_and(|blamed| blamed != index));
        }
        self.failed(failure);
    }

    /// Said once per reason.
    fn failed(&mut self, failure: &Failure) {
        self.driver = if self.abandoned.is_some() { Driver::Hung } else { backoff::driver(failure) };
        let hopeless = matches!(self.driver, Driver::Mismatch | Driver::Hung);
        self.backoff.failed(hopeless, now());
        let text = failure.to_string();
        if self.told.as_ref() == Some(&text) {
            return;
        }
        match self.driver {
            Driver::Mismatch => error!("GPUs: {text}: the driver was upgraded under us, reboot needed"),
            Driver::Hung => error!("GPUs: {text}, and the helper cannot be ended: driver hung, reboot needed"),
            Driver::None | Driver::Starting | Driver::Up | Driver::Down(_) | Driver::Released => warn!("GPUs: {text}"),
        }
        self.told = Some(text);
    }

    /// Fans and samples of all GPUs, in one go.
    fn ask(&mut self, order: &Order) {
        if self.helper.is_none() {
            return;
        }
        let mut calls = Vec::new();
        // Last what may hang: the fans of a GPU that is left alone.
        let hung = |card: &Card| card.now.presence == Presence::Hung;
        let cards = sorted::list_by(self.cards.iter_mut().enumerate(), |(_, a), (_, b)| hung(a).cmp(&hung(b)));
        for (index, card) in cards {
            if let Some(drive) = card.drive(order.fans.get(index).copied().flatten()) {
                calls.push((index, Request::Drive(card.now.pci, drive)));
            }
            if card.now.presence == Presence::Seen {
                calls.push((index, Request::Sample(card.now.pci)));
            }
        }
        if self.processes.is_none_or(|looked| now().saturating_duration_since(looked) >= PROCESSES) {
            self.processes = Some(now());
            for (index, card) in self.cards.iter().enumerate().filter(|(_, card)| card.now.presence == Presence::Seen) {
                calls.push((index, Request::Processes(card.now.pci)));
            }
        }
        self.calls(&calls);
    }

    /// Calls, each about a card that takes the answer. All at once, which costs the least; where that has cost a helper
    /// lately, one after the other, so that the one that does it again is known.
    fn calls(&mut self, calls: &[(usize, Request)]) {
        if !self.unblamed.lately(now()) {
            return self.calls_at_once(calls);
        }
        for call in calls {
            self.calls_at_once(std::slice::from_ref(call));
        }
    }

    fn calls_at_once(&mut self, calls: &[(usize, Request)]) {
        let Self { helper: Some(helper), cards, store, .. } = self else { return };
        let requests: Vec<Request> = calls.iter().map(|(_, request)| request.clone()).collect();
        let about = |request: usize| calls.get(request).map(|(card, _)| *card);
        let mut unloaded = false;
        let asked = helper.calls(&requests, |request, answer| {
            let Some(card) = about(request).and_then(|index| cards.get_mut(index)) else { return };
            match answer {
                Answer::Sample(Ok(sample)) => {
                    unloaded |= sample.temperature == Err(Code::UNINITIALIZED);
                    card.told(Answer::Sample(Ok(sample)));
                }
                Answer::Sample(Err(code)) => {
                    unloaded |= code == Code::UNINITIALIZED;
                    card.told(Answer::Sample(Err(code)));
                }
                Answer::Device(Ok(device)) if device.pci == card.now.pci => {
                    let record = store.record(&device.uuid);
                    card.listed(*device, record);
                }
                Answer::Device(Ok(device)) => warn!("GPU {}: the driver takes it for {}", card.now.pci, device.pci),
                Answer::Device(Err(Code::GPU_IS_LOST)) => card.turn(Presence::Lost),
                Answer::Device(Err(code)) => warn!("GPU {}: the driver does not tell of it: {code}", card.now.pci),
                told @ (Answer::Inventory(_)
                | Answer::Settings(_)
                | Answer::Processes(_)
                | Answer::Set(_)
                | Answer::Selftest(_)) => card.told(told),
            }
        });
        let xids = helper.xids();
        match asked {
            Err((_, failure)) if calls.len() > 1 => {
                self.unblamed.lost(now());
                self.lose(None, &failure);
                // Nobody's profile is struck for what may be another's doing.
                self.cards.iter_mut().for_each(|card| card.spare(true));
            }
            Err((request, failure)) => self.lose(about(request), &failure),
            // The driver was reloaded under it: it must begin anew.
            Ok(()) if unloaded => self.lose(None, &Failure::Nvml(Code::UNINITIALIZED)),
            Ok(()) => {}
        }
        for (pci, code) in xids {
            self.xid(pci, code);
        }
    }
}

/// A GPU that is lost says so in the code of any call.
pub(super) fn lost<T>(answer: &Read<T>) -> bool {
    matches!(answer, Err(Code::GPU_IS_LOST))
}
