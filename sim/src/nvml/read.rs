//! Calls that read a card.

use super::call::{Answer, numbers, of, text};
use super::code;
use super::driver::{Card, Driver, pci, uuid};
use crate::quantize::whole;
use crate::world::card::Profile;
use crate::world::{Gpu, World, reason};

/// `NVML_CLOCK_GRAPHICS`, `..._SM`, `..._MEM`, `..._VIDEO`.
const GRAPHICS: i64 = 0;
const SM: i64 = 1;
const MEMORY: i64 = 2;
const VIDEO: i64 = 3;
/// Event types that every card can tell of: Xid errors. The others are of no use to anybody here.
pub(super) const EVENT_TYPES: i64 = super::driver::XID_EVENT;
/// Speed of a card's fan at full drive, rpm; a guess.
const FULL_RPM: f64 = 3400.0;
/// The video clock follows the core clock; a guess.
const VIDEO_PART: f64 = 0.9;

/// `nvmlValueType_t`.
const UNSIGNED: i64 = 1;
const UNSIGNED_LONG_LONG: i64 = 3;
const SIGNED: i64 = 5;

/// Answers a call that reads; a lost card does not come here.
#[expect(clippy::too_many_lines, reason = "a table: one line for each function of the library")]
pub(super) fn answer(driver: &Driver, world: &World, index: usize, name: &str, arguments: &[i64]) -> Answer {
    let (Some(gpu), Some(card)) = (world.gpus.get(index), driver.cards.get(index)) else {
        return Err(code::INVALID_ARGUMENT);
    };
    let profile = gpu.profile;
    let first = arguments.first().copied().unwrap_or(0);
    let second = arguments.get(1).copied().unwrap_or(0);
    let only = |is: bool| if is { Ok(()) } else { Err(code::NOT_SUPPORTED) };
    let [least_limit, default_limit, most_limit] = profile.limits.map(i64::from);
    let [hot, ..] = profile.hot.map(i64::from);
    match name {
        "DeviceGetIndex" => {
            let at = driver.order.iter().position(|card| *card == index);
            numbers([of(at.ok_or(code::NOT_FOUND)?)])
        }
        "DeviceGetUUID" => text(uuid(index)),
        "DeviceGetName" => text(profile.name),
        "DeviceGetPciInfo_v3" => {
            let ids = [profile.pci_device, profile.pci_subsystem].map(i64::from);
            Ok((vec![0, of(index) + 1, 0, ids[0], ids[1]], format!("0000{}", pci(index))))
        }
        "DeviceGetSerial" => only(profile.serial).and_then(|()| text(format!("fa4e{index:09}"))),
        "DeviceGetVbiosVersion" => text(profile.vbios),
        "DeviceGetArchitecture" => numbers([profile.architecture.into()]),
        "DeviceGetMinorNumber" => numbers([of(index)]),
        "DeviceGetBrand" => numbers([profile.brand.into()]),
        "DeviceGetTemperature" | "DeviceGetTemperatureV" if first == 0 => numbers([celsius(gpu)]),
        "DeviceGetTemperature" | "DeviceGetTemperatureV" => Err(code::INVALID_ARGUMENT),
        "DeviceGetTemperatureThreshold" => threshold(profile, first),
        "DeviceGetMarginTemperature" => only(!profile.absolute).and_then(|()| numbers([hot - celsius(gpu)])),
        "DeviceGetPowerUsage" => numbers([milliwatts(if profile.averages { gpu.average_watts } else { gpu.watts })]),
        "DeviceGetPowerManagementLimit" | "DeviceGetEnforcedPowerLimit" => numbers([gpu.control.limit.into()]),
        "DeviceGetPowerManagementDefaultLimit" => numbers([default_limit]),
        "DeviceGetPowerManagementLimitConstraints" => numbers([least_limit, most_limit]),
        "DeviceGetTotalEnergyConsumption" => only(profile.energy).and_then(|()| numbers([millijoules(gpu, card)])),
        "DeviceGetClockInfo" => clock(gpu, first).and_then(|mhz| numbers([mhz])),
        "DeviceGetMaxClockInfo" => highest(profile, first).and_then(|mhz| numbers([mhz])),
        "DeviceGetSupportedMemoryClocks" => {
            Ok((profile.memory.iter().map(|(_, mhz)| i64::from(*mhz)).collect(), String::new()))
        }
        "DeviceGetSupportedGraphicsClocks" => {
            let known = profile.memory.iter().any(|(_, mhz)| i64::from(*mhz) == first);
            let clocks = profile.core_clocks().into_iter().map(i64::from).collect();
            if known { Ok((clocks, String::new())) } else { Err(code::NOT_FOUND) }
        }
        "DeviceGetClockOffsets" => offsets(gpu, first, second),
        "DeviceGetGpcClkVfOffset" => offset(gpu, GRAPHICS, 0).and_then(|offset| numbers([offset])),
        "DeviceGetMemClkVfOffset" => offset(gpu, MEMORY, 0).and_then(|offset| numbers([offset])),
        "DeviceGetGpcClkMinMaxVfOffset" => numbers(profile.core_offsets.map(i64::from)),
        "DeviceGetMemClkMinMaxVfOffset" => numbers(profile.memory_offsets.map(i64::from)),
        "DeviceGetPerformanceState" => numbers([gpu.pstate.into()]),
        "DeviceGetSupportedPerformanceStates" => {
            Ok((profile.memory.iter().map(|(pstate, _)| i64::from(*pstate)).collect(), String::new()))
        }
        "DeviceGetMinMaxClockOfPState" => {
            let (_, mhz) =
                profile.memory.iter().find(|(pstate, _)| i64::from(*pstate) == second).ok_or(code::INVALID_ARGUMENT)?;
            let [low, _, high] = profile.core.map(i64::from);
            match first {
                GRAPHICS | SM => numbers([low, high]),
                MEMORY => numbers([i64::from(*mhz); 2]),
                _ => Err(code::NOT_SUPPORTED),
            }
        }
        "DeviceGetNumFans" => only(profile.fans > 0).and_then(|()| numbers([of(profile.fans)])),
        "DeviceGetMinMaxFanSpeed" => only(profile.fans > 0).and_then(|()| numbers([profile.least_fan.into(), 100])),
        "DeviceGetFanSpeed" | "DeviceGetFanSpeed_v2" | "DeviceGetTargetFanSpeed" => {
            // The header: the intended speed; a fan that is blocked does not show in it.
            numbers([whole(fan(gpu, first)?.intended * 100.0, 0, 100).into()])
        }
        "DeviceGetFanSpeedRPM" => numbers([whole(fan(gpu, first)?.speed * FULL_RPM, 0, i32::MAX).into()]),
        "DeviceGetFanControlPolicy_v2" => numbers([i64::from(fan(gpu, first)?.manual.is_some())]),
        "DeviceGetCurrentClocksThrottleReasons" | "DeviceGetCurrentClocksEventReasons" => {
            numbers([i64::try_from(gpu.reasons).unwrap_or(0)])
        }
        "DeviceGetSupportedClocksThrottleReasons" | "DeviceGetSupportedClocksEventReasons" => {
            let all = reason::IDLE | reason::POWER_CAP | reason::HW_SLOWDOWN | reason::SW_THERMAL | reason::HW_THERMAL;
            numbers([i64::try_from(all).unwrap_or(0)])
        }
        "DeviceGetEccMode" => only(profile.ecc).and_then(|()| numbers([1, 1])),
        "DeviceGetTotalEccErrors" => {
            only(profile.ecc)?;
            let at = usize::try_from(first).ok().and_then(|at| card.ecc.get(at));
            numbers([*at.ok_or(code::INVALID_ARGUMENT)?])
        }
        "DeviceGetRemappedRows" => only(profile.rows).and_then(|()| numbers(card.rows)),
        // Retired pages are of Kepler to Volta data-centre cards; none of these is one.
        "DeviceGetRetiredPages_v2" | "DeviceGetRetiredPagesPendingStatus" => Err(code::NOT_SUPPORTED),
        "DeviceGetSupportedEventTypes" => numbers([EVENT_TYPES]),
        "DeviceGetFieldValues" => Ok((arguments.iter().flat_map(|id| field(gpu, card, *id)).collect(), String::new())),
        "DeviceGetComputeRunningProcesses_v3" => {
            let all = card.processes.iter().flat_map(|(pid, bytes)| [i64::from(*pid), *bytes]);
            Ok((all.collect(), String::new()))
        }
        "DeviceGetUtilizationRates" => numbers([percent(gpu.load), percent(gpu.load * 0.8)]),
        "DeviceGetMemoryInfo" | "DeviceGetMemoryInfo_v2" => {
            let [total, reserved] = [profile.memory_mib, profile.reserved_mib].map(|mib| i64::from(mib) << 20);
            let used: i64 = card.processes.iter().map(|(_, bytes)| bytes).sum();
            numbers([total, reserved, (total - reserved - used).max(0), used])
        }
        "DeviceGetPcieThroughput" if (0..=1).contains(&first) => numbers([500 + percent(gpu.load) * 40]),
        "DeviceGetCurrPcieLinkGeneration" => {
            let rests = gpu.reasons & reason::IDLE != 0;
            numbers([if rests { 1 } else { profile.pcie.into() }])
        }
        "DeviceGetMaxPcieLinkGeneration" => numbers([profile.pcie.into()]),
        "DeviceGetCurrPcieLinkWidth" => numbers([card.width]),
        "DeviceGetMaxPcieLinkWidth" => numbers([16]),
        "DeviceGetPcieReplayCounter" => numbers([card.replays]),
        "DeviceGetPersistenceMode" => numbers([i64::from(card.persistent)]),
        "DeviceGetComputeMode" => numbers([card.compute_mode]),
        // Only GA100 of these divides itself, and not by default.
        "DeviceGetMigMode" => only(profile.class == "datacenter").and_then(|()| numbers([0, 0])),
        _ => Err(code::INVALID_ARGUMENT),
    }
}

fn celsius(gpu: &Gpu) -> i64 {
    whole(gpu.celsius, -100, 1000).into()
}

fn milliwatts(watts: f64) -> i64 {
    whole(watts * 1000.0, 0, i32::MAX).into()
}

fn percent(part: f64) -> i64 {
    whole(part * 100.0, 0, 100).into()
}

fn millijoules(gpu: &Gpu, card: &Card) -> i64 {
    let joules = gpu.joules - card.energy_from;
    i64::from(whole(joules.floor(), 0, i32::MAX)) * 1000 + i64::from(whole(joules.fract() * 1000.0, 0, 999))
}

/// By `nvmlTemperatureThresholds_t`: shutdown, slowdown, memory, GPU maximum; target temperatures are not modelled.
fn threshold(profile: &Profile, which: i64) -> Answer {
    let [hot, slowdown, shutdown] = profile.hot.map(i64::from);
    if !profile.absolute {
        return Err(code::NOT_SUPPORTED);
    }
    match which {
        0 => numbers([shutdown]),
        1 => numbers([slowdown]),
        2 => numbers([profile.memory_hot.ok_or(code::NOT_SUPPORTED)?.into()]),
        3 => numbers([hot]),
        4..=7 => Err(code::NOT_SUPPORTED),
        _ => Err(code::INVALID_ARGUMENT),
    }
}

fn clock(gpu: &Gpu, which: i64) -> Result<i64, u32> {
    match which {
        GRAPHICS | SM => Ok(gpu.core_mhz.into()),
        MEMORY => Ok(gpu.memory_mhz.into()),
        VIDEO => Ok(whole(f64::from(gpu.core_mhz) * VIDEO_PART, 0, i32::MAX).into()),
        _ => Err(code::INVALID_ARGUMENT),
    }
}

fn highest(profile: &Profile, which: i64) -> Result<i64, u32> {
    let [.., core] = profile.core;
    match which {
        GRAPHICS | SM => Ok(core.into()),
        MEMORY => Ok(profile.memory.first().map_or(0, |(_, mhz)| (*mhz).into())),
        VIDEO => Ok(whole(f64::from(core) * VIDEO_PART, 0, i32::MAX).into()),
        _ => Err(code::INVALID_ARGUMENT),
    }
}

fn fan(gpu: &Gpu, index: i64) -> Result<&crate::world::CardFan, u32> {
    if gpu.fans.is_empty() {
        return Err(code::NOT_SUPPORTED);
    }
    usize::try_from(index).ok().and_then(|index| gpu.fans.get(index)).ok_or(code::INVALID_ARGUMENT)
}

/// The offset of a clock in a performance state that the card has.
fn offset(gpu: &Gpu, clock: i64, pstate: i64) -> Result<i64, u32> {
    let known = gpu.profile.memory.iter().any(|(known, _)| i64::from(*known) == pstate);
    let at = usize::try_from(pstate).ok().filter(|_| known).ok_or(code::INVALID_ARGUMENT)?;
    let offsets = match clock {
        GRAPHICS => &gpu.control.core_offset,
        MEMORY => &gpu.control.memory_offset,
        _ => return Err(code::INVALID_ARGUMENT),
    };
    Ok(offsets.get(at).copied().unwrap_or(0).into())
}

fn offsets(gpu: &Gpu, clock: i64, pstate: i64) -> Answer {
    let now = offset(gpu, clock, pstate)?;
    let [low, high] = if clock == MEMORY { gpu.profile.memory_offsets } else { gpu.profile.core_offsets };
    numbers([now, low.into(), high.into()])
}

/// A field: its code, the type of its value, the value. Ids and types as `nvml.h` has them.
fn field(gpu: &Gpu, card: &Card, id: i64) -> [i64; 3] {
    let profile = gpu.profile;
    let good = |kind: i64, value: i64| [0, kind, value];
    let only = |is: bool, kind: i64, value: i64| {
        if is { good(kind, value) } else { [code::NOT_SUPPORTED.into(), UNSIGNED, 0] }
    };
    let [least_limit, default_limit, most_limit] = profile.limits.map(i64::from);
    let [hot, slowdown, shutdown] = profile.hot.map(i64::from);
    let [corrected, uncorrected, waits, failed] = card.rows;
    match id {
        // Memory is some degrees warmer than the chip; a guess.
        82 => only(profile.memory_hot.is_some(), UNSIGNED, celsius(gpu) + 8),
        83 => only(profile.energy, UNSIGNED_LONG_LONG, millijoules(gpu, card)),
        142 => only(profile.rows, UNSIGNED, corrected),
        143 => only(profile.rows, UNSIGNED, uncorrected),
        144 => only(profile.rows, UNSIGNED, waits),
        145 => only(profile.rows, UNSIGNED, failed),
        185 => only(profile.averages, UNSIGNED, milliwatts(gpu.average_watts)),
        186 => good(UNSIGNED, milliwatts(gpu.watts)),
        187 => good(UNSIGNED, least_limit),
        188 => good(UNSIGNED, most_limit),
        189 => good(UNSIGNED, default_limit),
        190 | 192 => good(UNSIGNED, gpu.control.limit.into()),
        193 => only(!profile.absolute, SIGNED, hot - shutdown),
        194 => only(!profile.absolute, SIGNED, hot - slowdown),
        196 => only(!profile.absolute, SIGNED, 0),
        197 | 198 => good(UNSIGNED_LONG_LONG, whole(gpu.joules, 0, i32::MAX).into()),
        230 => good(UNSIGNED, card.recovery),
        1..=300 => [code::NOT_SUPPORTED.into(), UNSIGNED, 0],
        _ => [code::INVALID_ARGUMENT.into(), UNSIGNED, 0],
    }
}
