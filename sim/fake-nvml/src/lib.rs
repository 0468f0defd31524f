//! A simulated `libnvidia-ml`: the C face of the simulated rig's cards, for tests. Never shipped, and never named like the
//! real one: it is loaded by its path.
//!
//! ```text
//! RIGD_SIMULATION=DIR            a client of the rig that `rigd-sim --dir DIR` runs: its driver, its world, its faults
//! RIGD_FAKE_NVML=ampere:8,ada:2  without that: cards of its own (default one ampere), with time by the wall clock
//! RIGD_FAKE_NVML_STEP_MS=100     ... or by so much at each call
//! RIGD_FAKE_NVML_SAY='load 1; fault gpu 0 GetPowerUsage code 3'   ... and said to it first
//! RIGD_FAKE_NVML_UID=1000        who calls, for what needs root (default: who it is)
//! ```
//!
//! Here are only C structs, buffers and what kills a process; what a call means is in `rigd_sim::nvml`. Types come from
//! nvml-wrapper-sys, and the compiler holds each function against the type that the wrapper looks it up with. A pointer
//! must be null or good for what `nvml.h` says the function does with it.

mod error;
mod link;
mod lists;
mod structs;

use std::ffi::{c_char, c_uint, c_ulonglong};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nvml_wrapper_sys::bindings::*;
use rigd_sim::nvml::code;

use link::{call, card, handle};

/// Runs a function's body; a panic must not cross into C.
fn guard(body: impl FnOnce() -> Result<(), u32>) -> nvmlReturn_t {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => code::SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => code::UNKNOWN,
    }
}

/// A number that C takes.
trait Number {
    fn of(value: i64) -> Self;
}

impl Number for u32 {
    /// The low bits: noise is longer than what it is put into.
    fn of(value: i64) -> Self {
        let [a, b, c, d, ..] = value.to_le_bytes();
        Self::from_le_bytes([a, b, c, d])
    }
}

impl Number for i32 {
    fn of(value: i64) -> Self {
        u32::of(value).cast_signed()
    }
}

impl Number for u64 {
    fn of(value: i64) -> Self {
        value.cast_unsigned()
    }
}

/// The number at this place of what came back.
fn at<T: Number>(values: &[i64], index: usize) -> Result<T, u32> {
    values.get(index).map(|value| T::of(*value)).ok_or(code::UNKNOWN)
}

/// Exports functions whose bodies give a `Result`, each of the type that nvml-wrapper-sys has for its name.
macro_rules! exports {
    ($($name:ident($($arg:ident: $type:ty),*) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> nvmlReturn_t {
                // SAFETY: the caller keeps to nvml.h: each pointer is null or good for what is read and written there.
                guard(|| unsafe { $body })
            }
        )*
        const _: fn(&mut NvmlLib) = |lib| { $(lib.$name = Ok($name);)* };
    };
}
pub(crate) use exports;

/// The same for bodies in which nothing is unsafe.
macro_rules! tame {
    ($($name:ident($($arg:ident: $type:ty),*) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> nvmlReturn_t {
                guard(|| $body)
            }
        )*
        const _: fn(&mut NvmlLib) = |lib| { $(lib.$name = Ok($name);)* };
    };
}
pub(crate) use tame;

/// Exports functions of a card that take numbers and give numbers.
macro_rules! plain {
    ($($name:ident($($arg:ident: $in:ty),*) $(-> $($out:ident: $type:ty),+)?;)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(device: nvmlDevice_t, $($arg: $in,)* $($($out: *mut $type),+)?) -> nvmlReturn_t {
                guard(|| {
                    let nulls: &[bool] = &[$($($out.is_null()),+)?];
                    if nulls.contains(&true) {
                        return Err(code::INVALID_ARGUMENT);
                    }
                    let returned = call(stringify!($name), Some(card(device)?), &[$(i64::from($arg)),*], "")?;
                    let mut values = returned.values.iter().copied();
                    // SAFETY: not null, and the caller keeps to nvml.h: good for a write.
                    $($(unsafe { $out.write(<$type>::of(values.next().ok_or(code::UNKNOWN)?)) };)+)?
                    let _ = values.next();
                    Ok(())
                })
            }
        )*
        const _: fn(&mut NvmlLib) = |lib| { $(lib.$name = Ok($name);)* };
    };
}

plain! {
    nvmlDeviceGetIndex() -> index: c_uint;
    nvmlDeviceGetArchitecture() -> architecture: nvmlDeviceArchitecture_t;
    nvmlDeviceGetMinorNumber() -> minor: c_uint;
    nvmlDeviceGetBrand() -> brand: nvmlBrandType_t;
    nvmlDeviceGetTemperature(sensor: nvmlTemperatureSensors_t) -> temperature: c_uint;
    nvmlDeviceGetTemperatureThreshold(threshold: nvmlTemperatureThresholds_t) -> temperature: c_uint;
    nvmlDeviceGetPowerUsage() -> power: c_uint;
    nvmlDeviceGetPowerManagementLimit() -> limit: c_uint;
    nvmlDeviceGetPowerManagementDefaultLimit() -> limit: c_uint;
    nvmlDeviceGetPowerManagementLimitConstraints() -> least: c_uint, most: c_uint;
    nvmlDeviceGetEnforcedPowerLimit() -> limit: c_uint;
    nvmlDeviceSetPowerManagementLimit(limit: c_uint);
    nvmlDeviceGetTotalEnergyConsumption() -> energy: c_ulonglong;
    nvmlDeviceGetClockInfo(clock: nvmlClockType_t) -> mhz: c_uint;
    nvmlDeviceGetMaxClockInfo(clock: nvmlClockType_t) -> mhz: c_uint;
    nvmlDeviceSetGpuLockedClocks(low: c_uint, high: c_uint);
    nvmlDeviceResetGpuLockedClocks();
    nvmlDeviceSetMemoryLockedClocks(low: c_uint, high: c_uint);
    nvmlDeviceResetMemoryLockedClocks();
    nvmlDeviceGetGpcClkVfOffset() -> offset: i32;
    nvmlDeviceSetGpcClkVfOffset(offset: i32);
    nvmlDeviceGetMemClkVfOffset() -> offset: i32;
    nvmlDeviceSetMemClkVfOffset(offset: i32);
    nvmlDeviceGetGpcClkMinMaxVfOffset() -> low: i32, high: i32;
    nvmlDeviceGetMemClkMinMaxVfOffset() -> low: i32, high: i32;
    nvmlDeviceGetPerformanceState() -> pstate: nvmlPstates_t;
    nvmlDeviceGetMinMaxClockOfPState(clock: nvmlClockType_t, pstate: nvmlPstates_t) -> low: c_uint, high: c_uint;
    nvmlDeviceGetNumFans() -> fans: c_uint;
    nvmlDeviceGetFanSpeed() -> speed: c_uint;
    nvmlDeviceGetFanSpeed_v2(fan: c_uint) -> speed: c_uint;
    nvmlDeviceGetTargetFanSpeed(fan: c_uint) -> speed: c_uint;
    nvmlDeviceGetMinMaxFanSpeed() -> low: c_uint, high: c_uint;
    nvmlDeviceGetFanControlPolicy_v2(fan: c_uint) -> policy: nvmlFanControlPolicy_t;
    nvmlDeviceSetFanControlPolicy(fan: c_uint, policy: nvmlFanControlPolicy_t);
    nvmlDeviceSetFanSpeed_v2(fan: c_uint, speed: c_uint);
    nvmlDeviceSetDefaultFanSpeed_v2(fan: c_uint);
    nvmlDeviceGetCurrentClocksThrottleReasons() -> reasons: c_ulonglong;
    nvmlDeviceGetCurrentClocksEventReasons() -> reasons: c_ulonglong;
    nvmlDeviceGetSupportedClocksThrottleReasons() -> reasons: c_ulonglong;
    nvmlDeviceGetSupportedClocksEventReasons() -> reasons: c_ulonglong;
    nvmlDeviceGetEccMode() -> now: nvmlEnableState_t, pending: nvmlEnableState_t;
    nvmlDeviceGetTotalEccErrors(kind: nvmlMemoryErrorType_t, counter: nvmlEccCounterType_t) -> many: c_ulonglong;
    nvmlDeviceGetRemappedRows() -> corrected: c_uint, uncorrected: c_uint, waits: c_uint, failed: c_uint;
    nvmlDeviceGetRetiredPagesPendingStatus() -> waits: nvmlEnableState_t;
    nvmlDeviceGetSupportedEventTypes() -> types: c_ulonglong;
    nvmlDeviceGetPcieThroughput(counter: nvmlPcieUtilCounter_t) -> value: c_uint;
    nvmlDeviceGetCurrPcieLinkGeneration() -> generation: c_uint;
    nvmlDeviceGetMaxPcieLinkGeneration() -> generation: c_uint;
    nvmlDeviceGetCurrPcieLinkWidth() -> width: c_uint;
    nvmlDeviceGetMaxPcieLinkWidth() -> width: c_uint;
    nvmlDeviceGetPcieReplayCounter() -> replays: c_uint;
    nvmlDeviceGetPersistenceMode() -> mode: nvmlEnableState_t;
    nvmlDeviceSetPersistenceMode(mode: nvmlEnableState_t);
    nvmlDeviceGetComputeMode() -> mode: nvmlComputeMode_t;
    nvmlDeviceSetComputeMode(mode: nvmlComputeMode_t);
    nvmlDeviceGetMigMode() -> now: c_uint, pending: c_uint;
}

/// Writes a text with its zero, if it fits.
///
/// # Safety
/// `to` must be null or good for `length` bytes.
unsafe fn put_text(text: &str, to: *mut c_char, length: c_uint) -> Result<(), u32> {
    let length = usize::try_from(length).map_err(|_| code::INVALID_ARGUMENT)?;
    if to.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    if text.len() >= length {
        return Err(code::INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its zero are no longer than what the caller says that there is room for.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// A text that comes in.
///
/// # Safety
/// `from` must be null or end with a zero.
unsafe fn take_text(from: *const c_char) -> Result<String, u32> {
    if from.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    // SAFETY: not null, and ends with a zero.
    let text = unsafe { std::ffi::CStr::from_ptr(from) };
    text.to_str().map(str::to_owned).map_err(|_| code::INVALID_ARGUMENT)
}

fn put_handle(name: &str, arguments: &[i64], text: &str, device: *mut nvmlDevice_t) -> Result<(), u32> {
    if device.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    let card = at::<u32>(&call(name, None, arguments, text)?.values, 0)?;
    // SAFETY: not null, and the caller keeps to nvml.h: good for a write.
    unsafe { device.write(handle(card)) };
    Ok(())
}

tame! {
    nvmlInit_v2() { call("nvmlInit_v2", None, &[], "").map(drop) }
    nvmlInitWithFlags(flags: c_uint) { call("nvmlInitWithFlags", None, &[flags.into()], "").map(drop) }
    nvmlShutdown() { call("nvmlShutdown", None, &[], "").map(drop) }
    nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) {
        put_handle("nvmlDeviceGetHandleByIndex_v2", &[index.into()], "", device)
    }
}

exports! {
    nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) {
        put_text(&call("nvmlSystemGetDriverVersion", None, &[], "")?.text, version, length)
    }
    nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) {
        put_text(&call("nvmlSystemGetNVMLVersion", None, &[], "")?.text, version, length)
    }
    nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) {
        put_text(&call("nvmlSystemGetProcessName", None, &[pid.into()], "")?.text, name, length)
    }
    nvmlDeviceGetCount_v2(many: *mut c_uint) {
        if many.is_null() {
            return Err(code::INVALID_ARGUMENT);
        }
        many.write(at(&call("nvmlDeviceGetCount_v2", None, &[], "")?.values, 0)?);
        Ok(())
    }
    nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) {
        put_handle("nvmlDeviceGetHandleByUUID", &[], &take_text(uuid)?, device)
    }
    nvmlDeviceGetHandleByPciBusId_v2(pci: *const c_char, device: *mut nvmlDevice_t) {
        put_handle("nvmlDeviceGetHandleByPciBusId_v2", &[], &take_text(pci)?, device)
    }
    nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) {
        put_text(&call("nvmlDeviceGetUUID", Some(card(device)?), &[], "")?.text, uuid, length)
    }
    nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) {
        put_text(&call("nvmlDeviceGetName", Some(card(device)?), &[], "")?.text, name, length)
    }
    nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) {
        put_text(&call("nvmlDeviceGetSerial", Some(card(device)?), &[], "")?.text, serial, length)
    }
    nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) {
        put_text(&call("nvmlDeviceGetVbiosVersion", Some(card(device)?), &[], "")?.text, version, length)
    }
}
