//! What each request does. One thread owns all of it, so that no two calls ever wait for each other in the driver; only
//! the wait for Xids is elsewhere.

use std::time::{Duration, Instant};

use log::{error, info, warn};

use super::{Gpu, Nvml, fans, inventory, processes, sample, selftest, settings};
use crate::gpu::wire::{Answer, FAN_PATIENCE, PciAddress, Read, Request};
use crate::units::Duty;

/// NVML, and which fans it drives for the agent.
pub struct Server {
    nvml: Nvml,
    driven: fans::Driven,
    /// GPUs whose fans could not be given back: said once.
    stuck: Vec<PciAddress>,
}

impl Server {
    /// Touches nothing: whose fans are found driven by hand is the agent's to know, who may have another one of us running.
    #[must_use]
    pub fn new(nvml: Nvml) -> Self {
        Self { nvml, driven: fans::Driven::default(), stuck: Vec::new() }
    }

    /// Does what is asked, however long the driver takes over it. After [`Request::Release`] only [`Self::shut_down`] is left.
    pub fn answer(&mut self, request: &Request, now: Instant) -> Answer {
        let gpu = |pci: PciAddress| self.nvml.by_address(pci);
        match *request {
            Request::Inventory => Answer::Inventory(inventory::inventory(self.nvml)),
            Request::Device(pci) => Answer::Device(gpu(pci).and_then(|gpu| inventory::device(&gpu).map(Box::new))),
            Request::Sample(pci) => Answer::Sample(gpu(pci).map(|gpu| Box::new(sample::sample(&gpu)))),
            Request::Settings(pci) => Answer::Settings(gpu(pci).map(|gpu| settings::settings(&gpu))),
            Request::Processes(pci) => Answer::Processes(gpu(pci).and_then(|gpu| processes::processes(&gpu))),
            Request::Set(pci, setting) => Answer::Set(gpu(pci).and_then(|mut gpu| settings::set(&mut gpu, setting))),
            Request::Drive(pci, Some(duty)) => Answer::Set(self.drive(pci, duty, now)),
            Request::Drive(pci, None) => Answer::Set(self.give_back(pci, now)),
            Request::Selftest(pci) => Answer::Selftest(gpu(pci).map(|gpu| selftest::selftest(&gpu))),
            Request::Release => Answer::Set(self.give_all_back(now)),
        }
    }

    fn drive(&mut self, pci: PciAddress, duty: Duty, now: Instant) -> Read<()> {
        let mut gpu = self.nvml.by_address(pci)?;
        let before = self.driven.percent(pci);
        // Even a call that fails may have moved a fan.
        self.driven.drive(pci, None, now);
        let driven = fans::drive(&mut gpu, duty, before).map(|percent| self.driven.drive(pci, Some(percent), now));
        if driven.is_err() {
            // Fans that cannot be driven at all are none of ours to give back.
            let manual = fans::samples(&gpu).iter().any(|fan| fan.manual == Ok(true));
            if !manual {
                self.driven.given_back(pci);
            }
        }
        driven
    }

    fn give_back(&mut self, pci: PciAddress, now: Instant) -> Read<()> {
        let given = self.nvml.by_address(pci).and_then(|mut gpu: Gpu| fans::give_back(&mut gpu));
        match given {
            Ok(()) => {
                self.driven.given_back(pci);
                self.stuck.retain(|stuck| *stuck != pci);
            }
            // Tried again when the patience is over; a GPU that was never driven is left alone.
            Err(code) if self.driven.is_driven(pci) => {
                self.driven.drive(pci, None, now);
                if !self.stuck.contains(&pci) {
                    error!("gpu {pci}: its fans stay driven: {code}");
                    self.stuck.push(pci);
                }
            }
            Err(_) => {}
        }
        given
    }

    /// Every fan that is driven becomes the driver's again, at the end; tells the first failure, and logs how many there are.
    ///
    /// # Errors
    /// What NVML says.
    pub fn give_all_back(&mut self, now: Instant) -> Read<()> {
        let given: Vec<_> = self.driven.all().into_iter().map(|pci| self.give_back(pci, now)).collect();
        let left = given.iter().filter(|given| given.is_err()).count();
        if left > 0 {
            error!(
                "the fans of {left} of {} driven GPUs stay as they are: the driver does not take them back",
                given.len()
            );
        }
        given.into_iter().fold(Ok(()), Result::and)
    }

    /// Gives back the fans for which no drive came within [`FAN_PATIENCE`]: the agent hangs, or thinks of other things.
    pub fn give_overdue_back(&mut self, now: Instant) {
        for pci in self.driven.overdue(now) {
            let known = self.stuck.contains(&pci);
            if self.give_back(pci, now).is_ok() {
                let seconds = FAN_PATIENCE.as_secs();
                if known {
                    info!("gpu {pci}: the driver has its fans again");
                } else {
                    warn!("gpu {pci}: no drive for {seconds} s; the driver has its fans again");
                }
            }
        }
    }

    /// How long until [`Self::give_overdue_back`] has something to do; `None` while no fan is driven.
    #[must_use]
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        self.driven.patience(now)
    }

    /// Lets go of the driver, after which only the end of the process is left.
    pub fn shut_down(self) {
        self.nvml.shut_down();
    }
}
