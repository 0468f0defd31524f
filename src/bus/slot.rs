//! One chip in its bus thread: from unknown to identified to read, and back when it fails.
//!
//! ```text
//!            identify + configure + read ok
//!   Waiting ────────────────────────────────> Live ──┐ read ok
//!     ▲  │ failed: at the next pass, then       │ ▲  └──┘
//!     │  └─ after 1 s, 2 s … 60 s               │
//!     └──── failed, and again after a new identification at once
//! ```
//!
//! Any failure makes the chip identify itself and be configured anew before it is believed again: one that lost power for a
//! moment has forgotten its calibration and its watchdog.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::{Adapter, Error, Host};
use crate::board::{self, ChipKind};
use crate::chip::{self, Driver};
use crate::hwmon;
use crate::reading::{ChipReading, Health, Missing};
use crate::units::Duty;

/// First and last pause before a chip that failed twice is asked again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A drive that did not hold so many times in a row is tried only once per `BACK_OFF.1` from then on.
const REFUSALS: u8 = 5;

/// A chip and how it stands.
pub(super) struct Slot {
    chip: board::Chip,
    label: String,
    state: State,
    /// Failed passes in a row.
    failures: u32,
    drives: Vec<Drive>,
    /// Said to have failed; its return is worth a line.
    told: bool,
    /// A kernel driver owns the chip, and it is read through that.
    through_kernel: bool,
}

enum State {
    Waiting { until: Option<Instant> },
    Live(Box<dyn Driver<Error>>),
}

/// A fan channel's drive.
#[derive(Clone, Debug, Default)]
struct Drive {
    /// Set last, and held when it was read back; `None` until then.
    set: Option<Duty>,
    /// Times in a row that it did not hold.
    refusals: u8,
    /// Not to be tried before.
    until: Option<Instant>,
}

/// What a pass over one chip came to.
pub(super) struct Outcome {
    pub(super) health: Health,
    /// Settings found changed and written again.
    pub(super) repairs: u32,
    /// The bus timed out under this chip.
    pub(super) timed_out: bool,
}

impl Outcome {
    const fn new(health: Health) -> Self {
        Self { health, repairs: 0, timed_out: false }
    }
}

type ChipError = chip::Error<Error>;

impl Slot {
    pub(super) fn new(chip: board::Chip, bus: &str) -> Self {
        let (label, fans) = match &chip.kind {
            ChipKind::I2c { part, addr, .. } => {
                (format!("{} ({} at {addr:#04x} on {bus})", chip.refdes, part.name), part.fan.len())
            }
            ChipKind::Hwmon(hwmon) => (format!("{} (kernel driver {})", chip.refdes, hwmon.driver), 0),
        };
        let drives = vec![Drive::default(); fans];
        Self {
            chip,
            label,
            state: State::Waiting { until: None },
            failures: 0,
            drives,
            told: false,
            through_kernel: false,
        }
    }

    /// A reading with the chip's channels, all missing.
    pub(super) fn missing(&self, reason: Missing) -> ChipReading {
        match &self.chip.kind {
            ChipKind::I2c { part, .. } => part.missing(reason),
            ChipKind::Hwmon(hwmon) => {
                ChipReading::missing(hwmon.power.len(), hwmon.temperature.len(), hwmon.fan.len(), reason)
            }
        }
    }

    /// Reads, then applies `duties` (fan channel, drive); `reading` holds what was found.
    pub(super) fn pass(
        &mut self,
        host: &Host,
        adapter: &Adapter,
        now: Instant,
        duties: &[(usize, Duty)],
        reading: &mut ChipReading,
        before: Health,
    ) -> Outcome {
        if matches!(self.state, State::Waiting { until: Some(until) } if now < until) {
            return Outcome::new(before);
        }
        let result = match self.work(host, adapter, now, duties, reading) {
            // Once more at once, from the identification on: a single glitch is no reason to call a zone blind. A time-out
            // has cost the adapter's whole second already and is not repeated.
            Err(error) if !timed_out(&error) && matches!(self.state, State::Live(_)) => {
                self.state = State::Waiting { until: None };
                self.work(host, adapter, now, duties, reading)
            }
            done => done,
        };
        match result {
            Ok(repairs) => {
                self.failures = 0;
                if self.told {
                    info!("{}: answers again", self.label);
                    self.told = false;
                }
                let health = if self.through_kernel { Health::ThroughKernel } else { Health::Ok };
                Outcome { repairs, ..Outcome::new(health) }
            }
            Err(error) => self.failed(&error, now, reading),
        }
    }

    fn bring_up(&mut self, host: &Host, adapter: &Adapter) -> Result<&mut dyn Driver<Error>, ChipError> {
        if matches!(self.state, State::Waiting { .. }) {
            let mut through_kernel = false;
            let mut driver: Box<dyn Driver<Error>> = match &self.chip.kind {
                ChipKind::I2c { part, addr, segment, settings } => match host.open(adapter, *segment, *addr) {
                    Ok(device) => (part.open)(device, settings),
                    Err(Error::Owned) => {
                        let directory = host.kernel_device(adapter, *segment, *addr).ok_or(Error::Owned)?;
                        let device = hwmon::Device::owned(&directory, part).ok_or(Error::Owned)?;
                        if !self.through_kernel {
                            info!("{}: a kernel driver owns it; it is read through that", self.label);
                        }
                        through_kernel = true;
                        Box::new(device)
                    }
                    Err(error) => return Err(error.into()),
                },
                ChipKind::Hwmon(device) => Box::new(hwmon::Device::new(&host.sysfs, device.clone())),
            };
            driver.identify()?;
            driver.configure()?;
            self.drives.fill(Drive::default());
            self.through_kernel = through_kernel;
            self.state = State::Live(driver);
        }
        match &mut self.state {
            State::Live(driver) => Ok(driver.as_mut()),
            State::Waiting { .. } => Err(Error::NoAcknowledge.into()),
        }
    }

    fn work(
        &mut self,
        host: &Host,
        adapter: &Adapter,
        now: Instant,
        duties: &[(usize, Duty)],
        reading: &mut ChipReading,
    ) -> Result<u32, ChipError> {
        // Read before anything is set: a drive that somebody else changed is seen before it is written over.
        self.bring_up(host, adapter)?.read(reading)?;
        let mut repairs = 0;
        let mut failure = Ok(());
        for (channel, _) in duties {
            // Each fan is tried, also after one that failed, unless the bus hangs.
            match self.drive(*channel, self.wanted(*channel, duties), now, reading) {
                Ok(repaired) => repairs += u32::from(repaired),
                Err(error) if timed_out(&error) => return Err(error),
                Err(error) => failure = Err(error),
            }
        }
        failure.map(|()| repairs)
    }

    /// The drive of a fan: of several that hang on one output, the most that one of them is to have.
    fn wanted(&self, channel: usize, duties: &[(usize, Duty)]) -> Duty {
        let shared = |other: usize| match &self.chip.kind {
            ChipKind::I2c { part, .. } => part.share_output(channel, other),
            ChipKind::Hwmon(_) => false,
        };
        let of = duties.iter().filter(|(other, _)| *other == channel || shared(*other));
        of.map(|(_, duty)| *duty).max().unwrap_or(Duty::FULL)
    }

    /// Brings one fan to its drive; `true` where it had been changed behind our back.
    fn drive(
        &mut self,
        channel: usize,
        wanted: Duty,
        now: Instant,
        reading: &mut ChipReading,
    ) -> Result<bool, ChipError> {
        let State::Live(driver) = &mut self.state else { return Ok(false) };
        let drive = self.drives.get_mut(channel).ok_or(chip::Error::NoChannel)?;
        let fan = reading.fan.get_mut(channel).ok_or(chip::Error::NoChannel)?;
        let drifted = matches!((drive.set, fan.duty), (Some(set), Ok(reads)) if !driver.holds(channel, set, reads));
        if drifted {
            warn!("{}: fan {} was not at {} any more; set again", self.label, channel + 1, Shown(drive.set));
        }
        if drive.set == Some(wanted) && !drifted {
            return Ok(false);
        }
        if drive.until.is_some_and(|until| now < until) {
            fan.fault = true;
            return Ok(false);
        }
        match driver.set_duty(channel, wanted) {
            Ok(()) => {
                *drive = Drive { set: Some(wanted), ..Drive::default() };
                Ok(drifted)
            }
            Err(error @ (chip::Error::ReadBack { .. } | chip::Error::NoChannel | chip::Error::Refused(_))) => {
                // The chip is well, this one output is not: the other fans go on, and this one is tried less and less.
                fan.fault = true;
                drive.set = None;
                drive.refusals = drive.refusals.saturating_add(1);
                if drive.refusals == REFUSALS {
                    warn!("{}: fan {} does not take a drive: {error}", self.label, channel + 1);
                }
                drive.until = if drive.refusals >= REFUSALS { now.checked_add(BACK_OFF.1) } else { None };
                Ok(drifted)
            }
            Err(error) => {
                drive.set = None;
                Err(error)
            }
        }
    }

    fn failed(&mut self, error: &ChipError, now: Instant, reading: &mut ChipReading) -> Outcome {
        let reason = error.missing();
        reading.lose(reason);
        if !self.told {
            warn!("{}: {error}", self.label);
            self.told = true;
        }
        let pause = match self.failures {
            0 => None,
            failures => Some(BACK_OFF.0.saturating_mul(1 << (failures - 1).min(6)).min(BACK_OFF.1)),
        };
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting { until: pause.and_then(|pause| now.checked_add(pause)) };
        Outcome { timed_out: timed_out(error), ..Outcome::new(Health::Failed(reason)) }
    }

    /// Full air on these channels, whatever state the chip is in. Each is tried; the error is the first.
    pub(super) fn leave(&mut self, host: &Host, adapter: &Adapter, channels: &[usize]) -> Result<(), ChipError> {
        let driver = self.bring_up(host, adapter)?;
        let mut result = Ok(());
        for channel in channels {
            if let Err(error) = driver.set_duty(*channel, Duty::FULL) {
                if timed_out(&error) {
                    return Err(error);
                }
                result = result.and(Err(error));
            }
        }
        result
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }
}

const fn timed_out(error: &ChipError) -> bool {
    matches!(error, chip::Error::I2c(Error::TimedOut))
}

/// A drive for a log line, where it may be unknown.
struct Shown(Option<Duty>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(duty) => duty.fmt(f),
            None => f.write_str("an unknown drive"),
        }
    }
}

#[cfg(test)]
mod tests;
