//! Functions that fill lists and wait for events.

use std::ffi::{c_int, c_uint, c_ulonglong};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nvml_wrapper_sys::bindings::*;
use rigd_sim::nvml::{Act, Return, code};

use crate::link::{call, card, handle};
use crate::{at, exports, guard, tame};

/// How often a wait for events asks.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Writes a list where it fits, and how long it is in any case.
///
/// # Safety
/// `many` must be null or good; `items` null or good for as many as `many` says.
unsafe fn put_list<T>(returned: &Return, items: &[T], many: *mut c_uint, to: *mut T) -> Result<(), u32>
where
    T: Copy,
{
    if many.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    let length = c_uint::try_from(items.len()).map_err(|_| code::UNKNOWN)?;
    // SAFETY: not null, and good for a read and writes.
    unsafe {
        let room = if to.is_null() { 0 } else { many.read() };
        if returned.act == Act::Race {
            many.write(room.saturating_add(1));
            return Err(code::INSUFFICIENT_SIZE);
        }
        many.write(length);
        if length > room {
            return Err(code::INSUFFICIENT_SIZE);
        }
        if returned.act == Act::Sizes {
            many.write(length.saturating_mul(3).saturating_add(1));
        }
        std::ptr::copy_nonoverlapping(items.as_ptr(), to, items.len());
    }
    Ok(())
}

fn clocks(returned: &Return) -> Vec<c_uint> {
    returned.values.iter().map(|value| crate::Number::of(*value)).collect()
}

tame! {
    nvmlEventSetFree(set: nvmlEventSet_t) { call("nvmlEventSetFree", None, &[number(set)], "").map(drop) }
    nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t) {
        call("nvmlDeviceRegisterEvents", Some(card(device)?), &[types.cast_signed(), number(set)], "").map(drop)
    }
}

exports! {
    nvmlDeviceGetSupportedMemoryClocks(device: nvmlDevice_t, many: *mut c_uint, mhz: *mut c_uint) {
        let returned = call("nvmlDeviceGetSupportedMemoryClocks", Some(card(device)?), &[], "")?;
        put_list(&returned, &clocks(&returned), many, mhz)
    }
    nvmlDeviceGetSupportedGraphicsClocks(device: nvmlDevice_t, memory: c_uint, many: *mut c_uint, mhz: *mut c_uint) {
        let returned = call("nvmlDeviceGetSupportedGraphicsClocks", Some(card(device)?), &[memory.into()], "")?;
        put_list(&returned, &clocks(&returned), many, mhz)
    }
    nvmlDeviceGetComputeRunningProcesses_v3(device: nvmlDevice_t, many: *mut c_uint, infos: *mut nvmlProcessInfo_t) {
        let returned = call("nvmlDeviceGetComputeRunningProcesses_v3", Some(card(device)?), &[], "")?;
        let mut processes = Vec::new();
        for pair in returned.values.chunks_exact(2) {
            // All ones: not divided into instances.
            processes.push(nvmlProcessInfo_t {
                pid: at(pair, 0)?,
                usedGpuMemory: at(pair, 1)?,
                gpuInstanceId: c_uint::MAX,
                computeInstanceId: c_uint::MAX,
            });
        }
        put_list(&returned, &processes, many, infos)
    }
    nvmlDeviceGetRetiredPages_v2(
        device: nvmlDevice_t, cause: nvmlPageRetirementCause_t, many: *mut c_uint, addresses: *mut c_ulonglong,
        _timestamps: *mut c_ulonglong
    ) {
        let returned = call("nvmlDeviceGetRetiredPages_v2", Some(card(device)?), &[cause.into()], "")?;
        put_list(&returned, &[], many, addresses)
    }
    nvmlDeviceGetSupportedPerformanceStates(device: nvmlDevice_t, pstates: *mut nvmlPstates_t, size: c_uint) {
        let returned = call("nvmlDeviceGetSupportedPerformanceStates", Some(card(device)?), &[], "")?;
        let room = usize::try_from(size).unwrap_or(0) / size_of::<nvmlPstates_t>();
        if pstates.is_null() {
            return Err(code::INVALID_ARGUMENT);
        }
        if returned.values.len() > room || returned.act == Act::Race {
            return Err(code::INSUFFICIENT_SIZE);
        }
        // What is left of the array is told to be unknown.
        for (index, pstate) in clocks(&returned).into_iter().chain(std::iter::repeat(32)).take(room).enumerate() {
            pstates.add(index).write(pstate);
        }
        Ok(())
    }
    nvmlDeviceGetFieldValues(device: nvmlDevice_t, many: c_int, values: *mut nvmlFieldValue_t) {
        let many = usize::try_from(many).ok().filter(|many| *many > 0 && !values.is_null());
        let fields = std::slice::from_raw_parts_mut(values, many.ok_or(code::INVALID_ARGUMENT)?);
        let ids: Vec<i64> = fields.iter().map(|field| field.fieldId.into()).collect();
        let returned = call("nvmlDeviceGetFieldValues", Some(card(device)?), &ids, "")?;
        for (field, got) in fields.iter_mut().zip(returned.values.chunks_exact(3)) {
            field.timestamp = now();
            field.latencyUsec = 1;
            field.nvmlReturn = at(got, 0)?;
            field.valueType = at(got, 1)?;
            // The longest member: the shorter ones are its low bytes.
            field.value = nvmlValue_t { ullVal: at(got, 2)? };
        }
        Ok(())
    }
    nvmlEventSetCreate(set: *mut nvmlEventSet_t) {
        if set.is_null() {
            return Err(code::INVALID_ARGUMENT);
        }
        let id: u32 = at(&call("nvmlEventSetCreate", None, &[], "")?.values, 0)?;
        set.write(std::ptr::without_provenance_mut(usize::try_from(id).map_err(|_| code::UNKNOWN)?));
        Ok(())
    }
    nvmlEventSetWait_v2(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout_ms: c_uint) {
        if data.is_null() {
            return Err(code::INVALID_ARGUMENT);
        }
        let [gpu, kind, event] = wait(number(set), Duration::from_millis(timeout_ms.into()))?;
        data.write(nvmlEventData_t {
            device: handle(crate::Number::of(gpu)),
            eventType: crate::Number::of(kind),
            eventData: crate::Number::of(event),
            gpuInstanceId: c_uint::MAX,
            computeInstanceId: c_uint::MAX,
        });
        Ok(())
    }
}

fn number(set: nvmlEventSet_t) -> i64 {
    i64::try_from(set.addr()).unwrap_or(0)
}

#[expect(clippy::disallowed_methods, reason = "the caller waits by the wall clock")]
fn wait(set: i64, time: Duration) -> Result<[i64; 3], u32> {
    let until = Instant::now() + time;
    let mut again = 0;
    loop {
        match call("nvmlEventSetWait_v2", None, &[set, again], "") {
            Ok(returned) => return returned.values.try_into().map_err(|_| code::UNKNOWN),
            Err(code::TIMEOUT) => {}
            Err(code) => return Err(code),
        }
        again = 1;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(code::TIMEOUT);
        }
        thread::sleep(left.min(ASK_AGAIN));
    }
}

/// Microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the time stamp of a value is wall time")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
