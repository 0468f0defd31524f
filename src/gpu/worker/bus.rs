//! What is known of GPUs without their driver: the PCI bus and the kernel's log.

use log::{info, warn};

use super::Worker;
use crate::clock::now;
use crate::gpu::card::Card;
use crate::gpu::inventory::{self, How};
use crate::gpu::wire::{Answer, PciAddress, Request};
use crate::gpu::xid::Action;
use crate::gpu::{LOOK, Presence, What, kmsg};

/// Most GPUs that are kept; a main board has slots for fewer.
const GPUS: usize = 32;

impl Worker {
    /// What the PCI bus has, which does not need the driver.
    pub(super) fn look(&mut self) {
        if self.places.launch.is_none()
            || self.looked.is_some_and(|looked| now().saturating_duration_since(looked) < LOOK)
        {
            return;
        }
        self.looked = Some(now());
        let found = match inventory::cards(&self.places.sysfs) {
            Ok(found) => found,
            Err(error) => {
                warn!("the PCI bus could not be looked at: {error}");
                return;
            }
        };
        for card in &found {
            self.card(card.pci);
        }
        let expected: Vec<PciAddress> = self.cards.iter().map(|card| card.now.pci).collect();
        let seen: Vec<PciAddress> =
            self.cards.iter().filter(|card| card.now.presence == Presence::Seen).map(|card| card.now.pci).collect();
        let lost = inventory::compare(&expected, &found, self.helper.as_ref().map(|_| seen.as_slice()));
        for lost in lost {
            let Some(card) = self.cards.iter_mut().find(|card| card.now.pci == lost.pci) else { continue };
            let presence = match lost.how {
                How::Gone | How::Dead => Presence::Lost,
                How::Hidden if card.now.presence == Presence::Unseen => Presence::Unlisted,
                How::Hidden => card.now.presence,
            };
            card.turn(presence);
        }
        let alive: Vec<PciAddress> = found.iter().filter(|card| !card.dead).map(|card| card.pci).collect();
        self.look_again(&alive);
    }

    /// A GPU that is on the bus and did not answer may do so again: after a reset, or when it was busy as the helper came
    /// up. Asked by itself and rarely, for it may cost the helper.
    fn look_again(&mut self, alive: &[PciAddress]) {
        for index in 0..self.cards.len() {
            let Some(card) = self.cards.get_mut(index) else { return };
            let pci = card.now.pci;
            if self.helper.is_none() || !alive.contains(&pci) || !card.may_look(now()) {
                continue;
            }
            let sample = match self.call(Some(index), Request::Sample(pci)) {
                Some(Answer::Sample(Ok(sample))) => sample,
                _ => continue,
            };
            if sample.temperature.is_ok() {
                self.calls(&[(index, Request::Device(pci))]);
            }
        }
    }

    /// The card that sits there, new where it was not known; none where there are too many already.
    pub(super) fn card(&mut self, pci: PciAddress) -> Option<&mut Card> {
        let index = self.cards.iter().position(|card| card.now.pci == pci);
        if index.is_none() && self.cards.len() < GPUS {
            info!("GPU {pci}: found");
            self.cards.push(Card::new(pci));
        }
        let index = index.unwrap_or_else(|| self.cards.len().saturating_sub(1));
        self.cards.get_mut(index).filter(|card| card.now.pci == pci)
    }

    pub(super) fn read_log(&mut self) {
        let poll = self.log.poll();
        if let Some(error) = poll.error
            && !std::mem::replace(&mut self.log_told, true)
        {
            warn!("{}: {error}: what the kernel says of GPUs there is not heard", self.places.kmsg.display());
        }
        if poll.lost {
            warn!("{}: some of the kernel's log was overwritten before it was read", self.places.kmsg.display());
        }
        for event in poll.events {
            let index = event.pci.and_then(|pci| self.cards.iter().position(|card| card.now.pci == pci));
            match event.kind {
                kmsg::Kind::Xid(code) => self.xid(event.pci, code),
                kmsg::Kind::FellOff => {
                    if let Some(card) = index.and_then(|index| self.cards.get_mut(index)) {
                        card.turn(Presence::Lost);
                    }
                }
                kmsg::Kind::NotStarted => {
                    if let Some(card) = index.and_then(|index| self.cards.get_mut(index)) {
                        card.turn(Presence::Unlisted);
                    }
                }
                kmsg::Kind::Recovery(number) => {
                    if let Some(index) = index {
                        self.say(index, What::Asks(Action::of_recovery(number)));
                    }
                }
            }
        }
    }

    /// An Xid of the event set or of the kernel's log. One that names no GPU is nobody's.
    pub(super) fn xid(&mut self, pci: Option<PciAddress>, code: u64) {
        let index = pci.and_then(|pci| self.cards.iter().position(|card| card.now.pci == pci));
        let Some((index, card)) = index.and_then(|index| Some((index, self.cards.get_mut(index)?))) else {
            warn!("the GPUs' driver tells Xid {code} of no GPU");
            return;
        };
        if let Some(action) = card.xid(code, now()) {
            self.say(index, What::Xid { code, action });
        }
    }
}
