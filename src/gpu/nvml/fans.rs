//! Fans of GPUs, driven by hand, and above all given back: a fan that was set stays where it is for ever, whoever set it
//! ("you can burn your GPU", nvml.h). Always all fans of a GPU.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{NVML_FAN_POLICY_MANUAL, NVML_FAN_POLICY_TEMPERATURE_CONTINOUS_SW};

use super::Gpu;
use super::code::{code, raw, unit};
use crate::gpu::wire::{Code, FAN_PATIENCE, FanSample, PciAddress, Read};
use crate::units::Duty;

/// More than any card has.
const MOST_FANS: u32 = 16;
/// Least and most drive where the driver does not tell: lower than this, motors were seen not to start.
const LIMITS: (u32, u32) = (30, 100);

pub(super) fn count(gpu: &Gpu) -> Read<u8> {
    let count = gpu.device.num_fans().map_err(code)?;
    Ok(u8::try_from(count.min(MOST_FANS)).unwrap_or(u8::MAX))
}

fn indices(gpu: &Gpu) -> std::ops::Range<u32> {
    0..count(gpu).map_or(0, u32::from)
}

pub(super) fn samples(gpu: &Gpu) -> Vec<FanSample> {
    let sample = |fan| FanSample {
        // Above 100 is possible and means that more could be had than the maker calls all (nvml.h).
        duty: gpu.device.fan_speed(fan).map(|percent| Duty::saturating(percent.saturating_mul(100))).map_err(code),
        rpm: gpu.device.fan_speed_rpm(fan).map_err(code).and_then(unit),
        manual: is_manual(gpu, fan),
    };
    indices(gpu).map(sample).collect()
}

pub(super) fn is_manual(gpu: &Gpu, fan: u32) -> Read<bool> {
    let (nvml, mut policy) = (gpu.nvml, 0);
    raw!(nvml, nvmlDeviceGetFanControlPolicy_v2(gpu.handle(), fan, &raw mut policy))?;
    Ok(policy == NVML_FAN_POLICY_MANUAL)
}

/// All fans of a GPU at this drive, which was `before`, %; gives what it is now. Where one does not take it, all of them are
/// the driver's again.
pub(super) fn drive(gpu: &mut Gpu, duty: Duty, before: Option<u32>) -> Read<u32> {
    if count(gpu)? == 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    let limits = gpu.device.min_max_fan_speed().unwrap_or(LIMITS);
    let percent = percent(duty, limits);
    // A call that changes nothing costs as much as one that does, for each fan and each second.
    if before == Some(percent) && indices(gpu).all(|fan| is_manual(gpu, fan) == Ok(true)) {
        return Ok(percent);
    }
    let driven = indices(gpu).try_for_each(|fan| gpu.device.set_fan_speed(fan, percent).map_err(code));
    if let Err(refused) = driven {
        // The caller is told of the first failure; a second one is told when the fan is given back again.
        let _ = give_back(gpu);
        return Err(refused);
    }
    Ok(percent)
}

/// Rounded up, within what the fans take: rather more air than less.
fn percent(duty: Duty, (least, most): (u32, u32)) -> u32 {
    u32::from(duty.hundredths()).div_ceil(100).max(least).min(most.min(100))
}

/// All fans of a GPU back to the driver's own control; tries each of them and tells the first failure.
pub(super) fn give_back(gpu: &mut Gpu) -> Read<()> {
    let fans = 0..u32::from(count(gpu)?);
    fans.map(|fan| give_one_back(gpu, fan)).fold(Ok(()), Result::and)
}

/// By the function that is there for it ("to restore default control policy", nvml.h); where that is refused or missing, by
/// the policy that it restores. Where both are, tells why the first one was.
fn give_one_back(gpu: &mut Gpu, fan: u32) -> Read<()> {
    let Err(refused) = gpu.device.set_default_fan_speed(fan).map_err(code) else { return Ok(()) };
    let nvml = gpu.nvml;
    let automatic = NVML_FAN_POLICY_TEMPERATURE_CONTINOUS_SW;
    raw!(nvml, nvmlDeviceSetFanControlPolicy(gpu.handle(), fan, automatic)).map_err(|_| refused)
}

/// Which GPUs' fans are driven, when they were last, and how far, %.
#[derive(Debug, Default)]
pub(super) struct Driven(BTreeMap<PciAddress, (Instant, Option<u32>)>);

impl Driven {
    pub(super) fn drive(&mut self, pci: PciAddress, percent: Option<u32>, now: Instant) {
        self.0.insert(pci, (now, percent));
    }

    pub(super) fn percent(&self, pci: PciAddress) -> Option<u32> {
        self.0.get(&pci).and_then(|(_, percent)| *percent)
    }

    pub(super) fn is_driven(&self, pci: PciAddress) -> bool {
        self.0.contains_key(&pci)
    }

    pub(super) fn given_back(&mut self, pci: PciAddress) {
        self.0.remove(&pci);
    }

    pub(super) fn all(&self) -> Vec<PciAddress> {
        self.0.keys().copied().collect()
    }

    /// Those for which nothing came in time.
    pub(super) fn overdue(&self, now: Instant) -> Vec<PciAddress> {
        let late = |last: Instant| now.saturating_duration_since(last) >= FAN_PATIENCE;
        self.0.iter().filter(|(_, (last, _))| late(*last)).map(|(pci, _)| *pci).collect()
    }

    /// How long until one is overdue; `None` while none is driven.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        let left =
            |(last, _): &(Instant, Option<u32>)| FAN_PATIENCE.saturating_sub(now.saturating_duration_since(*last));
        self.0.values().map(left).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drive_stays_within_what_the_fans_take() {
        for (hundredths, limits, expected) in [
            (0, (30, 100), 30),
            (4_501, (30, 100), 46),
            (10_000, (30, 100), 100),
            (10_000, (0, 88), 88),
            (5_000, (0, 255), 50),
            (10_000, (0, 255), 100),
            (5_000, (60, 40), 40),
        ] {
            assert_eq!(percent(Duty::saturating(hundredths), limits), expected, "{hundredths} {limits:?}");
        }
    }

    #[test]
    fn each_gpu_has_its_own_patience() {
        let gpu = |bus| PciAddress { domain: 0, bus, device: 0 };
        let start = crate::clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut driven = Driven::default();
        assert_eq!(driven.patience(at(0)), None);
        driven.drive(gpu(1), None, at(0));
        driven.drive(gpu(2), None, at(3_000));
        assert_eq!(driven.patience(at(3_000)), Some(Duration::from_secs(2)));
        assert_eq!(driven.overdue(at(4_999)), []);
        assert_eq!(driven.overdue(at(5_000)), [gpu(1)]);
        assert_eq!(driven.overdue(at(8_000)), [gpu(1), gpu(2)]);
        driven.drive(gpu(1), None, at(4_000));
        assert_eq!(driven.overdue(at(8_000)), [gpu(2)]);
        driven.given_back(gpu(2));
        assert_eq!(driven.all(), [gpu(1)]);
        assert_eq!(driven.patience(at(60_000)), Some(Duration::ZERO));
    }
}
