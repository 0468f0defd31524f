//! What changes of a GPU: some thirty calls, none of which waits for the GPU to measure.

use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper_sys::bindings::{
    nvmlMarginTemperature_t, nvmlMemory_t, nvmlTemperature_t, nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU,
};

use super::code::{code, degrees, fewer, or_older, raw, version};
use super::fields::{ENERGY, Fields, MEMORY_TEMPERATURE, OF_A_SAMPLE, POWER_AVERAGE, POWER_NOW, RECOVERY};
use super::{Gpu, fans};
use crate::gpu::wire::{Code, Read, Sample};
use crate::units::{Mebibytes, Megahertz, Millicelsius, Millijoules, Milliwatts, Percent};

pub(super) fn sample(gpu: &Gpu) -> Sample {
    let nvml = &gpu.device;
    let fields = Fields::read(gpu, &OF_A_SAMPLE);
    let milliwatts = |id| Ok(Milliwatts(u32::try_from(fields.get(id)?).map_err(|_| Code::UNKNOWN)?));
    let mhz = |clock| nvml.clock_info(clock).map(Megahertz).map_err(code);
    let load = nvml.utilization_rates().map_err(code);
    let percent = |part: u32| fewer(part).map(Percent);
    Sample {
        temperature: temperature(gpu),
        margin: margin(gpu),
        memory_temperature: fields.get(MEMORY_TEMPERATURE).and_then(degrees),
        power: milliwatts(POWER_AVERAGE).or_else(|_| nvml.power_usage().map(Milliwatts).map_err(code)),
        power_now: milliwatts(POWER_NOW),
        energy: energy(gpu, &fields),
        limit: nvml.power_management_limit().map(Milliwatts).map_err(code),
        enforced_limit: nvml.enforced_power_limit().map(Milliwatts).map_err(code),
        sm_clock: mhz(Clock::SM),
        memory_clock: mhz(Clock::Memory),
        pstate: pstate(gpu),
        load: load.as_ref().map_err(|code| *code).and_then(|load| percent(load.gpu)),
        memory_load: load.as_ref().map_err(|code| *code).and_then(|load| percent(load.memory)),
        memory_used: memory(gpu).and_then(|(_, used)| mebibytes(used)),
        fans: fans::samples(gpu),
        reasons: reasons(gpu),
        pcie_generation: nvml.current_pcie_link_gen().map_err(code).and_then(fewer),
        pcie_width: nvml.current_pcie_link_width().map_err(code).and_then(fewer),
        replays: nvml.pcie_replay_counter().map_err(code),
        ecc: ecc(gpu),
        remapped: fields.remapped(),
        recovery: fields.get(RECOVERY).and_then(|action| u32::try_from(action).map_err(|_| Code::UNKNOWN)),
    }
}

pub(super) fn temperature(gpu: &Gpu) -> Read<Millicelsius> {
    or_older(newer_temperature(gpu).and_then(degrees), || {
        degrees(gpu.device.temperature(TemperatureSensor::Gpu).map_err(code)?)
    })
}

/// °C, signed.
pub(super) fn newer_temperature(gpu: &Gpu) -> Read<i32> {
    let nvml = gpu.nvml;
    let mut told = nvmlTemperature_t {
        version: version::<nvmlTemperature_t>(1),
        sensorType: nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU,
        temperature: 0,
    };
    raw!(nvml, nvmlDeviceGetTemperatureV(gpu.handle(), &raw mut told))?;
    Ok(told.temperature)
}

pub(super) fn margin(gpu: &Gpu) -> Read<Millicelsius> {
    let nvml = gpu.nvml;
    let mut told = nvmlMarginTemperature_t { version: version::<nvmlMarginTemperature_t>(1), marginTemperature: 0 };
    raw!(nvml, nvmlDeviceGetMarginTemperature(gpu.handle(), &raw mut told))?;
    degrees(told.marginTemperature)
}

fn energy(gpu: &Gpu, fields: &Fields) -> Read<Millijoules> {
    let told = fields.get(ENERGY).and_then(|energy| u64::try_from(energy).map_err(|_| Code::UNKNOWN));
    told.or_else(|_| gpu.device.total_energy_consumption().map_err(code)).map(Millijoules)
}

/// 0 to 15; `NVML_PSTATE_UNKNOWN`, 32, is no state.
pub(super) fn pstate(gpu: &Gpu) -> Read<u8> {
    let (nvml, mut state) = (gpu.nvml, 0);
    raw!(nvml, nvmlDeviceGetPerformanceState(gpu.handle(), &raw mut state))?;
    fewer(state).and_then(|state: u8| if state < 32 { Ok(state) } else { Err(Code::UNKNOWN) })
}

pub(super) fn reasons(gpu: &Gpu) -> Read<u64> {
    let (nvml, mut bits) = (gpu.nvml, 0);
    let newer = raw!(nvml, nvmlDeviceGetCurrentClocksEventReasons(gpu.handle(), &raw mut bits));
    or_older(newer, || raw!(nvml, nvmlDeviceGetCurrentClocksThrottleReasons(gpu.handle(), &raw mut bits)))?;
    Ok(bits)
}

/// Bytes in all and in use. Drivers before 510 lack the newer form, whose number leaves out what the driver holds itself.
pub(super) fn memory(gpu: &Gpu) -> Read<(u64, u64)> {
    let newer = gpu.device.memory_info().map(|memory| (memory.total, memory.used)).map_err(code);
    or_older(newer, || {
        let (nvml, mut memory) = (gpu.nvml, nvmlMemory_t { total: 0, free: 0, used: 0 });
        raw!(nvml, nvmlDeviceGetMemoryInfo(gpu.handle(), &raw mut memory))?;
        Ok((memory.total, memory.used))
    })
}

pub(super) fn mebibytes(bytes: u64) -> Read<Mebibytes> {
    u32::try_from(bytes >> 20).map(Mebibytes).map_err(|_| Code::UNKNOWN)
}

pub(super) fn ecc(gpu: &Gpu) -> Read<(u64, u64)> {
    let count = |kind| gpu.device.total_ecc_errors(kind, EccCounter::Volatile).map_err(code);
    Ok((count(MemoryError::Corrected)?, count(MemoryError::Uncorrected)?))
}
