//! Each NVML call that the agent uses and that changes nothing, once, with what came back and how long it took: the first
//! thing to ask a rig for.

use std::fmt::Debug;
use std::time::Instant;

use nvml_wrapper::enum_wrappers::device::{Clock, PerformanceState, TemperatureSensor, TemperatureThreshold};

use super::code::code;
use super::fields::{Fields, OF_A_SAMPLE};
use super::{Gpu, fans, inventory, processes, sample};
use crate::clock;
use crate::gpu::wire::{Probe, Read};

/// Characters of a result.
const LONGEST: usize = 120;

pub(super) fn selftest(gpu: &Gpu) -> Vec<Probe> {
    let nvml = &gpu.device;
    let mut bench = Bench::default();
    let b = &mut bench;
    b.probe("GetPciInfo_v3", || gpu.address());
    b.probe("GetUUID", || nvml.uuid().map_err(code));
    b.probe("GetName", || nvml.name().map_err(code));
    b.probe("GetSerial", || nvml.serial().map_err(code));
    b.probe("GetVbiosVersion", || nvml.vbios_version().map_err(code));
    b.probe("GetMinorNumber", || nvml.minor_number().map_err(code));
    b.probe("GetArchitecture", || inventory::architecture(gpu));
    b.probe("GetMemoryInfo_v2", || nvml.memory_info().map(|memory| (memory.total, memory.used)).map_err(code));
    b.probe("GetPowerManagementLimitConstraints", || nvml.power_management_limit_constraints().map_err(code));
    b.probe("GetPowerManagementDefaultLimit", || nvml.power_management_limit_default().map_err(code));
    b.probe("GetPowerManagementLimit", || nvml.power_management_limit().map_err(code));
    b.probe("GetEnforcedPowerLimit", || nvml.enforced_power_limit().map_err(code));
    b.probe("GetPowerUsage", || nvml.power_usage().map_err(code));
    b.probe("GetTotalEnergyConsumption", || nvml.total_energy_consumption().map_err(code));
    for id in OF_A_SAMPLE {
        b.probe(&format!("GetFieldValues {id}"), || Fields::read(gpu, &[id]).get(id));
    }
    b.probe("GetTemperatureV", || sample::newer_temperature(gpu));
    b.probe("GetTemperature", || nvml.temperature(TemperatureSensor::Gpu).map_err(code));
    b.probe("GetMarginTemperature", || sample::margin(gpu));
    b.probe("GetTemperatureThreshold shutdown", || {
        nvml.temperature_threshold(TemperatureThreshold::Shutdown).map_err(code)
    });
    b.probe("GetTemperatureThreshold slowdown", || {
        nvml.temperature_threshold(TemperatureThreshold::Slowdown).map_err(code)
    });
    for clock in [Clock::SM, Clock::Memory] {
        b.probe(&format!("GetClockInfo {clock:?}"), || nvml.clock_info(clock).map_err(code));
        b.probe(&format!("GetMaxClockInfo {clock:?}"), || nvml.max_clock_info(clock).map_err(code));
    }
    for clock in [Clock::Graphics, Clock::Memory] {
        b.probe(&format!("GetClockOffsets {clock:?} P0 range"), || inventory::offsets(gpu, clock));
        for state in [PerformanceState::Zero, PerformanceState::Two] {
            let name = format!("GetClockOffsets {clock:?} {state:?}");
            b.probe(&name, || nvml.clock_offset(clock, state).map(|told| told.clock_offset_mhz).map_err(code));
        }
    }
    b.probe("GetGpcClkVfOffset", || nvml.gpc_clock_vf_offset().map_err(code));
    b.probe("GetMemClkVfOffset", || nvml.mem_clock_vf_offset().map_err(code));
    b.probe("GetMinMaxClockOfPState memory", || inventory::memory_clocks(gpu));
    b.probe("GetPerformanceState", || sample::pstate(gpu));
    b.probe("GetCurrentClocksEventReasons", || sample::reasons(gpu).map(|bits| format!("{bits:#x}")));
    b.probe("GetUtilizationRates", || nvml.utilization_rates().map_err(code));
    b.probe("GetNumFans", || fans::count(gpu));
    b.probe("GetMinMaxFanSpeed", || nvml.min_max_fan_speed().map_err(code));
    for fan in 0..fans::count(gpu).map_or(0, u32::from) {
        b.probe(&format!("GetFanSpeed_v2 {fan}"), || nvml.fan_speed(fan).map_err(code));
        b.probe(&format!("GetFanSpeedRPM {fan}"), || nvml.fan_speed_rpm(fan).map_err(code));
        b.probe(&format!("GetFanControlPolicy_v2 {fan} manual"), || fans::is_manual(gpu, fan));
    }
    b.probe("GetMaxPcieLinkGeneration", || nvml.max_pcie_link_gen().map_err(code));
    b.probe("GetMaxPcieLinkWidth", || nvml.max_pcie_link_width().map_err(code));
    b.probe("GetCurrPcieLinkGeneration", || nvml.current_pcie_link_gen().map_err(code));
    b.probe("GetCurrPcieLinkWidth", || nvml.current_pcie_link_width().map_err(code));
    b.probe("GetPcieReplayCounter", || nvml.pcie_replay_counter().map_err(code));
    b.probe("GetTotalEccErrors", || sample::ecc(gpu));
    b.probe("GetComputeRunningProcesses_v3", || processes::processes(gpu).map(|running| running.len()));
    b.probe("GetPersistenceMode", || nvml.is_in_persistent_mode().map_err(code));
    bench.0
}

#[derive(Default)]
struct Bench(Vec<Probe>);

impl Bench {
    fn probe<T: Debug>(&mut self, call: &str, run: impl FnOnce() -> Read<T>) {
        let began = clock::now();
        let result = run();
        let micros = micros_since(began, clock::now());
        let result = result.map(|value| format!("{value:?}").chars().take(LONGEST).collect());
        self.0.push(Probe { call: format!("nvmlDevice{call}"), result, micros });
    }
}

fn micros_since(began: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(began).as_micros()).unwrap_or(u32::MAX)
}
