//! Functions that fill structs. The ones with a version take theirs alone: `NVML_STRUCT_VERSION` has size and number.

use std::ffi::{c_char, c_uint};

use nvml_wrapper_sys::bindings::*;
use rigd_sim::nvml::code;

use crate::link::{call, card};
use crate::{at, exports, guard, put_text};

/// Refuses a struct of another version than `number`.
fn known<T>(version: c_uint, number: u32) -> Result<(), u32> {
    let size = u32::try_from(size_of::<T>()).map_err(|_| code::UNKNOWN)?;
    if version == size | number << 24 { Ok(()) } else { Err(code::ARGUMENT_VERSION_MISMATCH) }
}

/// Reads what the caller put into a struct.
///
/// # Safety
/// `from` must be null or good for a read.
unsafe fn taken<T: Copy>(from: *mut T) -> Result<T, u32> {
    // SAFETY: read only where it is not null.
    if from.is_null() { Err(code::INVALID_ARGUMENT) } else { Ok(unsafe { from.read() }) }
}

exports! {
    nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) {
        taken(pci)?;
        let returned = call("nvmlDeviceGetPciInfo_v3", Some(card(device)?), &[], "")?;
        let values = &returned.values;
        let mut info = nvmlPciInfo_t {
            busIdLegacy: [0; 16],
            domain: at(values, 0)?,
            bus: at(values, 1)?,
            device: at(values, 2)?,
            pciDeviceId: at(values, 3)?,
            pciSubSystemId: at(values, 4)?,
            busId: [0; 32],
        };
        put_array(&returned.text, &mut info.busId)?;
        put_array(returned.text.get(4..).unwrap_or_default(), &mut info.busIdLegacy)?;
        pci.write(info);
        Ok(())
    }
    nvmlDeviceGetTemperatureV(device: nvmlDevice_t, temperature: *mut nvmlTemperature_t) {
        let mut info = taken(temperature)?;
        known::<nvmlTemperature_v1_t>(info.version, 1)?;
        let asked = i64::from(info.sensorType);
        info.temperature = at(&call("nvmlDeviceGetTemperatureV", Some(card(device)?), &[asked], "")?.values, 0)?;
        temperature.write(info);
        Ok(())
    }
    nvmlDeviceGetMarginTemperature(device: nvmlDevice_t, margin: *mut nvmlMarginTemperature_t) {
        let mut info = taken(margin)?;
        known::<nvmlMarginTemperature_v1_t>(info.version, 1)?;
        info.marginTemperature = at(&call("nvmlDeviceGetMarginTemperature", Some(card(device)?), &[], "")?.values, 0)?;
        margin.write(info);
        Ok(())
    }
    nvmlDeviceGetClockOffsets(device: nvmlDevice_t, offsets: *mut nvmlClockOffset_t) {
        let mut info = taken(offsets)?;
        known::<nvmlClockOffset_v1_t>(info.version, 1)?;
        let asked = [info.type_.into(), info.pstate.into()];
        let returned = call("nvmlDeviceGetClockOffsets", Some(card(device)?), &asked, "")?;
        info.clockOffsetMHz = at(&returned.values, 0)?;
        info.minClockOffsetMHz = at(&returned.values, 1)?;
        info.maxClockOffsetMHz = at(&returned.values, 2)?;
        offsets.write(info);
        Ok(())
    }
    nvmlDeviceSetClockOffsets(device: nvmlDevice_t, offsets: *mut nvmlClockOffset_t) {
        let info = taken(offsets)?;
        known::<nvmlClockOffset_v1_t>(info.version, 1)?;
        let asked = [info.type_.into(), info.pstate.into(), info.clockOffsetMHz.into()];
        call("nvmlDeviceSetClockOffsets", Some(card(device)?), &asked, "").map(drop)
    }
    nvmlDeviceGetFanSpeedRPM(device: nvmlDevice_t, speed: *mut nvmlFanSpeedInfo_t) {
        let mut info = taken(speed)?;
        known::<nvmlFanSpeedInfo_v1_t>(info.version, 1)?;
        let asked = i64::from(info.fan);
        info.speed = at(&call("nvmlDeviceGetFanSpeedRPM", Some(card(device)?), &[asked], "")?.values, 0)?;
        speed.write(info);
        Ok(())
    }
    nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) {
        taken(memory)?;
        let values = call("nvmlDeviceGetMemoryInfo", Some(card(device)?), &[], "")?.values;
        // Version 1 counts what is reserved as used.
        let (reserved, used): (u64, u64) = (at(&values, 1)?, at(&values, 3)?);
        memory.write(nvmlMemory_t { total: at(&values, 0)?, free: at(&values, 2)?, used: reserved.saturating_add(used) });
        Ok(())
    }
    nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) {
        let version = taken(memory)?.version;
        known::<nvmlMemory_v2_t>(version, 2)?;
        let values = call("nvmlDeviceGetMemoryInfo_v2", Some(card(device)?), &[], "")?.values;
        let [total, reserved, free, used] = [at(&values, 0)?, at(&values, 1)?, at(&values, 2)?, at(&values, 3)?];
        memory.write(nvmlMemory_v2_t { version, total, reserved, free, used });
        Ok(())
    }
    nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t) {
        taken(utilization)?;
        let values = call("nvmlDeviceGetUtilizationRates", Some(card(device)?), &[], "")?.values;
        utilization.write(nvmlUtilization_t { gpu: at(&values, 0)?, memory: at(&values, 1)? });
        Ok(())
    }
}

fn put_array<const N: usize>(text: &str, to: &mut [c_char; N]) -> Result<(), u32> {
    // SAFETY: the array is good for its own length.
    unsafe { put_text(text, to.as_mut_ptr(), c_uint::try_from(N).map_err(|_| code::UNKNOWN)?) }
}
