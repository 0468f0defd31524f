//! One chip in its bus thread: from unknown to identified to read, and back when it fails.
//!
//! ```text
//!            identify + configure ok
//!   Waiting ───────────────────────────> Live ──┐ read ok
//!     ▲  │ failed: again after a back-off ▲  └──┘
//!     │  └─ 1 s, 2 s … 60 s               │
//!     └────────── 3 passes in a row failed ┘
//! ```

use std::time::{Duration, Instant};

use log::{info, warn};

use super::{Adapter, Error, Host};
use crate::board::{self, ChipKind};
use crate::chip::{self, Driver};
use crate::hwmon;
use crate::reading::{ChipReading, Health, Missing};
use crate::units::Duty;

/// Failed passes in a row until a chip has to identify itself again: one glitch does not cost a reading's neighbours
/// the time of an identification, and a chip that was swapped or lost power is not trusted for longer than this.
const STRIKES: u8 = 3;
/// First and last pause before a chip that failed is asked again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Fans read back in the chip's own steps; half a step of an 8-bit PWM is 0.196 %.
const DUTY_TOLERANCE: u16 = 20;

/// A chip and how it stands.
pub(super) struct Slot {
    chip: board::Chip,
    label: String,
    state: State,
    back_off: Duration,
    /// The drive that was set last, by fan channel; `None` until it is.
    set: Vec<Option<Duty>>,
    /// Said to have failed; its return is worth a line.
    told: bool,
}

enum State {
    Waiting { until: Option<Instant> },
    Live { driver: Box<dyn Driver<Error>>, strikes: u8 },
}

/// What a pass over one chip came to.
pub(super) struct Outcome {
    pub(super) health: Health,
    /// A setting was found changed and is written again.
    pub(super) repairs: u32,
    /// The bus timed out under this chip.
    pub(super) timed_out: bool,
}

impl Outcome {
    const fn new(health: Health) -> Self {
        Self { health, repairs: 0, timed_out: false }
    }
}

impl Slot {
    pub(super) fn new(chip: board::Chip, bus: &str) -> Self {
        let (label, fans) = match &chip.kind {
            ChipKind::I2c { part, addr, .. } => {
                (format!("{} ({} at {addr:#04x} on {bus})", chip.refdes, part.name), part.fan.len())
            }
            ChipKind::Hwmon(hwmon) => (format!("{} (kernel driver {})", chip.refdes, hwmon.driver), 0),
        };
        Self {
            chip,
            label,
            state: State::Waiting { until: None },
            back_off: BACK_OFF.0,
            set: vec![None; fans],
            told: false,
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
        if let Err(error) = self.bring_up(host, adapter) {
            return self.failed(&error, now, reading);
        }
        // One more attempt at once: a single glitch of the bus is no reason to call a zone blind. A time-out has cost the
        // adapter's whole second already and is not repeated.
        let result = match self.work(duties, reading) {
            Err(error) if !matches!(error, chip::Error::I2c(Error::TimedOut)) => self.work(duties, reading),
            done => done,
        };
        match result {
            Ok(repairs) => Outcome { repairs, ..Outcome::new(Health::Ok) },
            Err(error) => self.failed(&error, now, reading),
        }
    }

    fn bring_up(&mut self, host: &Host, adapter: &Adapter) -> Result<(), chip::Error<Error>> {
        if matches!(self.state, State::Live { .. }) {
            return Ok(());
        }
        let mut driver: Box<dyn Driver<Error>> = match &self.chip.kind {
            ChipKind::I2c { part, addr, settings } => (part.open)(host.open(adapter, *addr)?, settings),
            ChipKind::Hwmon(device) => Box::new(hwmon::Device::new(&host.sysfs, device.clone())),
        };
        driver.identify()?;
        driver.configure()?;
        self.set.fill(None);
        self.back_off = BACK_OFF.0;
        if self.told {
            info!("{}: answers again", self.label);
            self.told = false;
        }
        self.state = State::Live { driver, strikes: 0 };
        Ok(())
    }

    fn work(&mut self, duties: &[(usize, Duty)], reading: &mut ChipReading) -> Result<u32, chip::Error<Error>> {
        let State::Live { driver, strikes } = &mut self.state else { return Ok(0) };
        let mut repairs = 0;
        // Read before anything is set: a drive that somebody else changed is seen before it is written over.
        driver.read(reading)?;
        for (channel, wanted) in duties {
            let holds = reading.fan.get(*channel).and_then(|fan| fan.duty.ok());
            let set = self.set.get_mut(*channel).ok_or(chip::Error::NoChannel)?;
            let drifted = matches!((*set, holds), (Some(set), Some(holds)) if !same(holds, set));
            if *set == Some(*wanted) && !drifted {
                continue;
            }
            if drifted {
                let fan = channel + 1;
                warn!("{}: fan channel {fan} was at {} and not where it was set; set again", self.label, Shown(holds));
                repairs += 1;
            }
            driver.set_duty(*channel, *wanted)?;
            *set = Some(*wanted);
        }
        *strikes = 0;
        Ok(repairs)
    }

    fn failed(&mut self, error: &chip::Error<Error>, now: Instant, reading: &mut ChipReading) -> Outcome {
        let reason = error.missing();
        reading.lose(reason);
        let timed_out = matches!(error, chip::Error::I2c(Error::TimedOut));
        let keep = match &mut self.state {
            State::Live { strikes, .. } => {
                *strikes += 1;
                *strikes < STRIKES
            }
            State::Waiting { .. } => false,
        };
        if !keep {
            if !self.told {
                warn!("{}: {error}", self.label);
                self.told = true;
            }
            self.state = State::Waiting { until: now.checked_add(self.back_off) };
            self.back_off = (self.back_off * 2).min(BACK_OFF.1);
        }
        Outcome { timed_out, ..Outcome::new(Health::Failed(reason)) }
    }

    /// Full air on these channels, whatever state the chip is in; said where it cannot be done.
    pub(super) fn leave(
        &mut self,
        host: &Host,
        adapter: &Adapter,
        channels: &[usize],
    ) -> Result<(), chip::Error<Error>> {
        self.bring_up(host, adapter)?;
        let State::Live { driver, .. } = &mut self.state else { return Ok(()) };
        for channel in channels {
            driver.set_duty(*channel, Duty::FULL)?;
        }
        Ok(())
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }
}

/// Whether a drive read back is the one that was set, in the chip's own steps.
fn same(holds: Duty, wanted: Duty) -> bool {
    holds.hundredths().abs_diff(wanted.hundredths()) <= DUTY_TOLERANCE
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
