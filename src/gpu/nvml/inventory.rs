//! What does not change of a GPU while its driver is loaded.

use nvml_wrapper::enum_wrappers::device::{Clock, PerformanceState, TemperatureThreshold};

use super::code::{code, degrees, fewer, or_older, raw};
use super::{Gpu, Nvml, fans, sample};
use crate::gpu::wire::{Code, Device, Read};
use crate::units::{Duty, Megahertz, MegahertzOffset, Milliwatts};

/// One per index; an error where a GPU does not even tell who it is.
pub(super) fn inventory(nvml: Nvml) -> Read<Vec<Read<Device>>> {
    Ok((0..nvml.count()?).map(|index| device(&nvml.by_index(index)?)).collect())
}

pub(super) fn device(gpu: &Gpu) -> Read<Device> {
    let nvml = &gpu.device;
    let mhz = |clock| nvml.max_clock_info(clock).map(Megahertz).map_err(code);
    Ok(Device {
        pci: gpu.address()?,
        uuid: nvml.uuid().map_err(code)?,
        name: nvml.name().map_err(code)?,
        serial: nvml.serial().map_err(code),
        vbios: nvml.vbios_version().map_err(code),
        minor: nvml.minor_number().map_err(code),
        architecture: architecture(gpu),
        memory: sample::memory(gpu).and_then(|(total, _)| sample::mebibytes(total)),
        limits: nvml
            .power_management_limit_constraints()
            .map(|limits| (Milliwatts(limits.min_limit), Milliwatts(limits.max_limit)))
            .map_err(code),
        default_limit: nvml.power_management_limit_default().map(Milliwatts).map_err(code),
        max_sm_clock: mhz(Clock::SM),
        max_memory_clock: mhz(Clock::Memory),
        core_offsets: core_offsets(gpu),
        memory_offsets: memory_offsets(gpu),
        fans: fans::count(gpu).unwrap_or(0),
        fan_drive: fan_drive(gpu),
        slowdown: threshold(gpu, TemperatureThreshold::Slowdown),
        shutdown: threshold(gpu, TemperatureThreshold::Shutdown),
        pcie_max_generation: nvml.max_pcie_link_gen().map_err(code).and_then(fewer),
        pcie_max_width: nvml.max_pcie_link_width().map_err(code).and_then(fewer),
        memory_clocks: memory_clocks(gpu),
    })
}

/// By performance state. The list of supported clocks, which says the same, is not asked for: on one card that took the whole
/// machine down (NVIDIA/open-gpu-kernel-modules, issue 1239).
pub(super) fn memory_clocks(gpu: &Gpu) -> Read<Vec<(u8, Megahertz)>> {
    let clock = |state: PerformanceState| {
        let (_, clock) = gpu.device.min_max_clock_of_pstate(Clock::Memory, state).ok()?;
        Some((fewer(state.as_c()).ok()?, Megahertz(clock)))
    };
    // A state whose clock is not told is no use, and the others are.
    Ok(gpu.device.supported_performance_states().map_err(code)?.into_iter().filter_map(clock).collect())
}

pub(super) fn architecture(gpu: &Gpu) -> Read<u32> {
    let (nvml, mut architecture) = (gpu.nvml, 0);
    raw!(nvml, nvmlDeviceGetArchitecture(gpu.handle(), &raw mut architecture))?;
    Ok(architecture)
}

fn threshold(gpu: &Gpu, which: TemperatureThreshold) -> Read<crate::units::Millicelsius> {
    degrees(gpu.device.temperature_threshold(which).map_err(code)?)
}

fn fan_drive(gpu: &Gpu) -> Read<(Duty, Duty)> {
    let (least, most) = gpu.device.min_max_fan_speed().map_err(code)?;
    let duty = |percent: u32| fewer(percent).and_then(|percent| Duty::from_percent(percent).ok_or(Code::UNKNOWN));
    Ok((duty(least)?, duty(most)?))
}

type Range = (MegahertzOffset, MegahertzOffset);

/// In P0, the state in which offsets matter.
pub(super) fn offsets(gpu: &Gpu, clock: Clock) -> Read<Range> {
    let offset = gpu.device.clock_offset(clock, PerformanceState::Zero).map_err(code)?;
    Ok((MegahertzOffset(offset.min_clock_offset_mhz), MegahertzOffset(offset.max_clock_offset_mhz)))
}

fn core_offsets(gpu: &Gpu) -> Read<Range> {
    or_older(offsets(gpu, Clock::Graphics), || {
        let (nvml, mut least, mut most) = (gpu.nvml, 0, 0);
        raw!(nvml, nvmlDeviceGetGpcClkMinMaxVfOffset(gpu.handle(), &raw mut least, &raw mut most))?;
        Ok((MegahertzOffset(least), MegahertzOffset(most)))
    })
}

fn memory_offsets(gpu: &Gpu) -> Read<Range> {
    or_older(offsets(gpu, Clock::Memory), || {
        let (nvml, mut least, mut most) = (gpu.nvml, 0, 0);
        raw!(nvml, nvmlDeviceGetMemClkMinMaxVfOffset(gpu.handle(), &raw mut least, &raw mut most))?;
        Ok((MegahertzOffset(least), MegahertzOffset(most)))
    })
}
