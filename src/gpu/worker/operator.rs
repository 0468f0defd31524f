//! How the GPUs are given back: at the end, and when an operator asks for it. And what else an operator may ask for.

use std::time::Duration;

use log::info;

use super::{Wanted, Worker};
use crate::clock::now;
use crate::gpu::card::Card;
use crate::gpu::wire::{Answer, PciAddress, Request};
use crate::gpu::{Command, Released};
use crate::reading::Missing;

/// What giving all back may take, within control's own time to leave.
const LEAVE: Duration = Duration::from_secs(3);
/// What giving all back may take on request.
const RELEASE: Duration = Duration::from_secs(20);

impl Worker {
    /// Everything back to the driver's defaults at the end of the agent; whether all of it got there.
    pub(in crate::gpu) fn leave(mut self) -> bool {
        self.let_go(LEAVE)
    }

    /// Everything back to the driver's defaults, for as long as `patience` lasts, and the helper lets go of NVML; whether all
    /// of it got there.
    pub(super) fn let_go(&mut self, patience: Duration) -> bool {
        let deadline = now() + patience;
        loop {
            for index in 0..self.cards.len() {
                while now() < deadline && self.act(index, Wanted::Nothing) {}
            }
            // The disk comes last: one that hangs keeps no card from its defaults.
            let Some(saving) = self.cards.iter().find_map(|card| card.saving) else { break };
            if !self.store.wait(&saving, deadline) {
                break;
            }
        }
        let back = self.cards.iter().all(Card::is_given_back);
        if let Some(mut helper) = self.helper.take() {
            let released = matches!(helper.call(Request::Release), Ok(Answer::Set(Ok(()))));
            self.abandoned = helper.give_up();
            return self.abandoned.is_none() && released && back;
        }
        back
    }

    /// What an operator asks for, who may have stopped waiting for the answer.
    pub(super) fn commanded(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Clear { pci, profile, answer } => {
                    let _ = answer.send(self.clear(pci, profile.as_deref()));
                }
                Command::Release { time, answer } => {
                    let _ = answer.send(self.release(time));
                }
            }
        }
    }

    /// How many profiles are out of quarantine; on the disk at once, for the keeper may wait for its card.
    fn clear(&mut self, pci: PciAddress, profile: Option<&str>) -> Option<usize> {
        let card = self.cards.iter_mut().find(|card| card.now.pci == pci)?;
        let uuid = card.now.device.as_deref()?.uuid.clone();
        let cleared = card.clear(profile);
        self.store.save(&uuid, card.record());
        Some(cleared)
    }

    /// Lets go of the driver for so long: profiles and fans are given back first. No time takes it up again at once.
    fn release(&mut self, time: Duration) -> Released {
        if self.abandoned.as_mut().is_some_and(|abandoned| !abandoned.ended()) {
            return Released::Hung;
        }
        if time.is_zero() {
            self.released = self.released.map(|_| now());
            return Released::Clean;
        }
        let clean = self.helper.is_none() || self.let_go(RELEASE);
        self.released = Some(now() + time);
        info!("the GPUs' driver is let go of for {} s", time.as_secs());
        for card in &mut self.cards {
            card.lose(Missing::Off);
            card.forgive();
        }
        match (&self.abandoned, clean) {
            (Some(_), _) => Released::Hung,
            (None, true) => Released::Clean,
            (None, false) => Released::Partly,
        }
    }
}
