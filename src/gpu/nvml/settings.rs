//! What can be set on a GPU, and what was.

use nvml_wrapper::enum_wrappers::device::{Clock, PerformanceState};
use nvml_wrapper::enums::device::GpuLockedClocksSetting;

use super::Gpu;
use super::code::{cannot, code, or_older};
use crate::gpu::wire::{Code, Read, Setting, Settings};
use crate::units::{Megahertz, MegahertzOffset, Milliwatts};

pub(super) fn settings(gpu: &Gpu) -> Settings {
    Settings {
        limit: gpu.device.power_management_limit().map(Milliwatts).map_err(code),
        core_offset: offsets(gpu, Clock::Graphics),
        memory_offset: offsets(gpu, Clock::Memory),
        persistence: gpu.device.is_in_persistent_mode().map_err(code),
    }
}

/// In P0 and in P2. The older function knows one offset for all states and is taken for P0.
fn offsets(gpu: &Gpu, clock: Clock) -> [Read<MegahertzOffset>; 2] {
    let newer = |state| gpu.device.clock_offset(clock, state).map(|told| told.clock_offset_mhz).map_err(code);
    let older = || match clock {
        Clock::Memory => gpu.device.mem_clock_vf_offset().map_err(code),
        Clock::Graphics | Clock::SM | Clock::Video => gpu.device.gpc_clock_vf_offset().map_err(code),
    };
    let p0 = or_older(newer(PerformanceState::Zero), older);
    [p0, newer(PerformanceState::Two)].map(|told| told.map(MegahertzOffset))
}

pub(super) fn set(gpu: &mut Gpu, setting: Setting) -> Read<()> {
    let nvml = &mut gpu.device;
    match setting {
        Setting::PowerLimit(Milliwatts(limit)) => nvml.set_power_management_limit(limit).map_err(code),
        Setting::CoreLock(Some((Megahertz(min_clock_mhz), Megahertz(max_clock_mhz)))) => {
            let lock = GpuLockedClocksSetting::Numeric { min_clock_mhz, max_clock_mhz };
            nvml.set_gpu_locked_clocks(lock).map_err(code)
        }
        Setting::CoreLock(None) => nvml.reset_gpu_locked_clocks().map_err(code),
        Setting::MemoryLock(Some((Megahertz(least), Megahertz(most)))) => {
            nvml.set_mem_locked_clocks(least, most).map_err(code)
        }
        Setting::MemoryLock(None) => nvml.reset_mem_locked_clocks().map_err(code),
        Setting::CoreOffset(MegahertzOffset(offset)) => set_offset(gpu, Clock::Graphics, offset),
        Setting::MemoryOffset(MegahertzOffset(offset)) => set_offset(gpu, Clock::Memory, offset),
        Setting::Persistence(on) => nvml.set_persistent(on).map_err(code),
    }
}

/// CUDA runs GeForce cards in P2, all else runs in P0: both, where there are both.
fn set_offset(gpu: &mut Gpu, clock: Clock, offset: i32) -> Read<()> {
    let newer = gpu.device.set_clock_offset(clock, PerformanceState::Zero, offset).map_err(code);
    if newer.is_err() {
        return or_older(newer, || match clock {
            Clock::Memory => gpu.device.set_mem_clock_vf_offset(offset).map_err(code),
            Clock::Graphics | Clock::SM | Clock::Video => gpu.device.set_gpc_clock_vf_offset(offset).map_err(code),
        });
    }
    let has_p2 = gpu.device.clock_offset(clock, PerformanceState::Two).map(drop).map_err(code);
    let second = gpu.device.set_clock_offset(clock, PerformanceState::Two, offset).map_err(code);
    both(has_p2, second)
}

/// A GPU that has no P2, or whose P2 follows P0, refuses the second half; that is no failure of the first.
fn both(has_p2: Read<()>, second: Read<()>) -> Read<()> {
    match (has_p2, second) {
        (_, Err(Code::NOT_SUPPORTED)) => Ok(()),
        (Err(none), Err(refused)) if cannot(none) && cannot(refused) => Ok(()),
        (_, second) => second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_p2_is_no_failure_and_a_refused_value_is() {
        let invalid = Err(Code::INVALID_ARGUMENT);
        for (has_p2, second, expected) in [
            (Ok(()), Ok(()), Ok(())),
            (Ok(()), Err(Code::NOT_SUPPORTED), Ok(())),
            (invalid, invalid, Ok(())),
            (Ok(()), invalid, invalid),
            (Ok(()), Err(Code::NO_PERMISSION), Err(Code::NO_PERMISSION)),
            (invalid, Err(Code::GPU_IS_LOST), Err(Code::GPU_IS_LOST)),
        ] {
            assert_eq!(both(has_p2, second), expected, "{has_p2:?} {second:?}");
        }
    }
}
