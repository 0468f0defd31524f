//! Whether the fake is what it says: NVIDIA's header has the same structs and declares the same functions, and NVIDIA's own
//! client gets from it what nvml-wrapper gets.
//!
//! Both come from PyPI into the folder that `RIGD_HONESTY` names; `cargo xtask test --only honesty` sees to that.

use std::env;
use std::fmt::{Display, Write};
use std::mem::offset_of;
use std::path::PathBuf;
use std::process::Command;

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureThreshold};
use nvml_wrapper::enums::device::{GpuLockedClocksSetting, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::*;
use rigd_sim::nvml::SYMBOLS;

use crate::rig::{Host, Numbered, Rig, library, on_rig};

fn fetched() -> PathBuf {
    PathBuf::from(env::var_os("RIGD_HONESTY").expect("RIGD_HONESTY is where pip put nvidia-nvml-dev and nvidia-ml-py"))
}

/// Each struct's size and each field's place, as Rust has them and as a C program that prints them.
macro_rules! layouts {
    ($($name:ident { $($field:ident $(as $c:ident)?),+ })+) => {{
        let (mut rust, mut c) = (String::new(), String::new());
        $(
            writeln!(rust, "{} {}", stringify!($name), size_of::<$name>()).unwrap();
            writeln!(c, "printf(\"{0} %zu\\n\", sizeof({0}));", stringify!($name)).unwrap();
            $(
                #[allow(unused_mut, unused_assignments, clippy::allow_attributes, reason = "not every field has another name in C")]
                let mut field = stringify!($field);
                $(field = stringify!($c);)?
                writeln!(rust, "{}.{field} {}", stringify!($name), offset_of!($name, $field)).unwrap();
                writeln!(c, "printf(\"{0}.{field} %zu\\n\", offsetof({0}, {field}));", stringify!($name)).unwrap();
            )+
        )+
        (rust, c)
    }};
}

#[test]
#[ignore = "needs NVIDIA's nvml.h: cargo xtask test --only honesty"]
fn structs_are_those_of_nvidias_header_which_declares_every_function() {
    let (mut rust, mut c) = layouts! {
        nvmlPciInfo_t { busIdLegacy, domain, bus, device, pciDeviceId, pciSubSystemId, busId }
        nvmlMemory_t { total, free, used }
        nvmlMemory_v2_t { version, total, reserved, free, used }
        nvmlUtilization_t { gpu, memory }
        nvmlProcessInfo_t { pid, usedGpuMemory, gpuInstanceId, computeInstanceId }
        nvmlFieldValue_t { fieldId, scopeId, timestamp, latencyUsec, valueType, nvmlReturn, value }
        nvmlValue_t { dVal, siVal, uiVal, ulVal, ullVal, sllVal, usVal }
        nvmlEventData_t { device, eventType, eventData, gpuInstanceId, computeInstanceId }
        nvmlClockOffset_v1_t { version, type_ as type, pstate, clockOffsetMHz, minClockOffsetMHz, maxClockOffsetMHz }
        nvmlTemperature_v1_t { version, sensorType, temperature }
        nvmlMarginTemperature_v1_t { version, marginTemperature }
        nvmlFanSpeedInfo_v1_t { version, fan, speed }
    };
    for (name, value) in [
        ("NVML_ERROR_GPU_IS_LOST", 15),
        ("NVML_ERROR_LIB_RM_VERSION_MISMATCH", 18),
        ("NVML_ERROR_ARGUMENT_VERSION_MISMATCH", 25),
        ("NVML_ERROR_DEPRECATED", 26),
        ("NVML_VALUE_TYPE_UNSIGNED_INT", 1),
        ("NVML_VALUE_TYPE_UNSIGNED_LONG_LONG", 3),
        ("NVML_VALUE_TYPE_SIGNED_INT", 5),
        ("NVML_PSTATE_UNKNOWN", 32),
        ("NVML_CLOCK_MEM", 2),
        ("NVML_BRAND_GEFORCE", 5),
        ("NVML_BRAND_NVIDIA_RTX", 13),
        ("NVML_BRAND_NVIDIA", 14),
        ("NVML_FAN_POLICY_MANUAL", 1),
        ("NVML_TEMPERATURE_THRESHOLD_SHUTDOWN", 0),
        ("NVML_TEMPERATURE_THRESHOLD_GPU_MAX", 3),
        ("NVML_FI_DEV_MEMORY_TEMP", 82),
        ("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 83),
        ("NVML_FI_DEV_REMAPPED_FAILURE", 145),
        ("NVML_FI_DEV_POWER_AVERAGE", 185),
        ("NVML_FI_DEV_POWER_INSTANT", 186),
        ("NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT", 193),
        ("NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT", 196),
        ("NVML_FI_DEV_PCIE_COUNT_RX_BYTES", 198),
        ("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", 230),
        ("nvmlEventTypeXidCriticalError", 8),
        ("nvmlClocksEventReasonSwPowerCap", 4),
        ("nvmlClocksThrottleReasonHwThermalSlowdown", 0x40),
        ("nvmlClocksEventReasonSwThermalSlowdown", 0x20),
    ] {
        writeln!(rust, "{name} {value}").unwrap();
        writeln!(c, "printf(\"{name} %llu\\n\", (unsigned long long)({name}));").unwrap();
    }
    // Of a function that is not declared there is no type.
    for name in SYMBOLS {
        writeln!(c, "(void)sizeof(__typeof__(&nvml{name}));").unwrap();
    }
    let program =
        format!("#include <stdio.h>\n#include <stddef.h>\n#include <nvml.h>\nint main(void) {{\n{c}return 0;\n}}\n");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, layout) = (folder.join("layout.c"), folder.join("layout"));
    std::fs::write(&source, program).unwrap();
    let include = fetched().join("nvidia/cu13/include");
    let compiled = Command::new("cc").arg("-w").arg("-I").arg(include).arg("-o").arg(&layout).arg(&source).status();
    assert!(compiled.unwrap().success(), "cc {}", source.display());
    let said = String::from_utf8(Command::new(layout).output().unwrap().stdout).unwrap();
    assert_eq!(said, rust);
}

/// Lines as the Python client prints them.
struct Lines(String);

impl Lines {
    fn show<T: Display>(&mut self, key: &str, value: Result<T, NvmlError>) {
        match value.n() {
            Ok(value) => writeln!(self.0, "{key} {value}").unwrap(),
            Err(code) => writeln!(self.0, "{key} error {code}").unwrap(),
        }
    }

    fn done(&mut self, key: &str, value: Result<(), NvmlError>) {
        self.show(key, value.map(|()| "done"));
    }

    fn reads(&mut self, nvml: &Nvml, gpu: &Device<'_>) {
        self.show("name", gpu.name());
        self.show("uuid", gpu.uuid());
        self.show("serial", gpu.serial());
        self.show("vbios", gpu.vbios_version());
        let pci = |pci: nvml_wrapper::struct_wrappers::device::PciInfo| {
            join([
                pci.bus_id,
                pci.bus.to_string(),
                pci.pci_device_id.to_string(),
                pci.pci_sub_system_id.unwrap().to_string(),
            ])
        };
        self.show("pci", gpu.pci_info().map(pci));
        self.show("minor", gpu.minor_number());
        let mut heat =
            nvmlTemperature_v1_t { version: version::<nvmlTemperature_v1_t>(), sensorType: 0, temperature: 0 };
        // SAFETY: the struct of that function, and a handle of this library.
        let code = unsafe { nvml.lib().nvmlDeviceGetTemperatureV(gpu.handle(), &raw mut heat) };
        self.raw("temperature", code, heat.temperature);
        self.show("slowdown", gpu.temperature_threshold(TemperatureThreshold::Slowdown));
        let mut margin =
            nvmlMarginTemperature_v1_t { version: version::<nvmlMarginTemperature_v1_t>(), marginTemperature: 0 };
        // SAFETY: the struct of that function, and a handle of this library.
        let code = unsafe { nvml.lib().nvmlDeviceGetMarginTemperature(gpu.handle(), &raw mut margin) };
        self.raw("margin", code, margin.marginTemperature);
        self.show("power", gpu.power_usage());
        self.show("limit", gpu.power_management_limit());
        let limits = gpu.power_management_limit_constraints();
        self.show("limits", limits.map(|limits| join([limits.min_limit, limits.max_limit])));
        self.show("energy", gpu.total_energy_consumption());
        self.show("sm", gpu.clock_info(Clock::SM));
        self.show("mem", gpu.clock_info(Clock::Memory));
        self.show("max", gpu.max_clock_info(Clock::SM));
        self.show("memory clocks", gpu.supported_memory_clocks().map(join));
        self.show("fans", gpu.num_fans());
        self.show("fan", gpu.fan_speed(0));
        self.show("rpm", gpu.fan_speed_rpm(0));
        self.show("reasons", gpu.current_throttle_reasons_strict().map(|reasons| reasons.bits()));
        let mut rows = [0; 4];
        let [corrected, uncorrected, waits, failed] = rows.each_mut().map(std::ptr::from_mut);
        // SAFETY: four numbers, and a handle of this library.
        let code = unsafe { nvml.lib().nvmlDeviceGetRemappedRows(gpu.handle(), corrected, uncorrected, waits, failed) };
        self.raw("rows", code, join(rows));
        self.show("utilization", gpu.utilization_rates().map(|rates| join([rates.gpu, rates.memory])));
        self.show("memory", gpu.memory_info().map(|memory| join([memory.total, memory.free, memory.used])));
        let pair = |process: nvml_wrapper::struct_wrappers::device::ProcessInfo| match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => [u64::from(process.pid), bytes],
            UsedGpuMemory::Unavailable => [u64::from(process.pid), u64::MAX],
        };
        let processes = gpu.running_compute_processes();
        self.show("processes", processes.map(|all| join(all.into_iter().flat_map(pair))));
        self.show("width", gpu.current_pcie_link_width());
        self.fields(nvml, gpu);
    }

    fn fields(&mut self, nvml: &Nvml, gpu: &Device<'_>) {
        let mut fields = [82, 83, 142, 185, 186, 193, 194, 230].map(|id| nvmlFieldValue_t {
            fieldId: id,
            scopeId: 0,
            timestamp: 0,
            latencyUsec: 0,
            valueType: 0,
            nvmlReturn: 0,
            value: nvmlValue_t { ullVal: 0 },
        });
        // SAFETY: eight field values, and a handle of this library.
        let code = unsafe { nvml.lib().nvmlDeviceGetFieldValues(gpu.handle(), 8, fields.as_mut_ptr()) };
        let each = fields.iter().map(|field| {
            // SAFETY: plain numbers, all bytes of which were written.
            let (signed, long) = unsafe { (field.value.siVal, field.value.ullVal) };
            let value = if field.valueType == 5 { signed.to_string() } else { long.to_string() };
            format!("{} {} {value}", field.nvmlReturn, field.valueType)
        });
        self.raw("fields", code, join(each));
    }

    fn raw<T: Display>(&mut self, key: &str, code: u32, value: T) {
        if code == 0 { writeln!(self.0, "{key} {value}") } else { writeln!(self.0, "{key} error {code}") }.unwrap();
    }
}

fn version<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap() | 1 << 24
}

fn join<T: Display>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(" ")
}

/// What client.py does, through nvml-wrapper.
fn as_the_client_does(rig: &Rig, nvml: &Nvml) -> String {
    let mut lines = Lines(String::new());
    lines.show("driver", nvml.sys_driver_version());
    lines.show("count", nvml.device_count());
    rig.say("gpu 0 process 4242 1024");
    rig.say("advance 30");
    let mut gpus: Vec<Device<'_>> = (0..6).map(|index| nvml.device_by_index(index).unwrap()).collect();
    for gpu in &gpus {
        lines.reads(nvml, gpu);
    }
    let lock = || GpuLockedClocksSetting::Numeric { min_clock_mhz: 900, max_clock_mhz: 1200 };
    let [first, second, ..] = gpus.as_mut_slice() else { panic!("six cards") };
    lines.done("set limit", first.set_power_management_limit(200_000));
    lines.done("set limit", first.set_power_management_limit(1));
    lines.done("lock", first.set_gpu_locked_clocks(lock()));
    lines.done("lock memory", first.set_mem_locked_clocks(0, 5400));
    lines.done("lock", second.set_gpu_locked_clocks(lock()));
    lines.done("offset", first.set_mem_clock_vf_offset(500));
    lines.done("set fan", first.set_fan_speed(0, 70));
    lines.done("set fan", first.set_fan_speed(0, 20));
    lines.done("persistence", first.set_persistent(true));
    rig.say("advance 30");
    lines.reads(nvml, first);
    lines.done("free", first.set_default_fan_speed(0));
    rig.say("gpu 0 fall");
    lines.reads(nvml, first);
    lines.done("by address", nvml.device_by_pci_bus_id("00000000:01:00.0").map(drop));
    lines.done("by address", nvml.device_by_pci_bus_id("00000000:02:00.0").map(drop));
    lines.done("by uuid", nvml.device_by_uuid("GPU-none").map(drop));
    lines.0 + "error GPU is lost\nafter error 1\n"
}

#[test]
#[ignore = "needs nvidia-ml-py: cargo xtask test --only honesty"]
fn nvidias_own_client_gets_what_the_wrapper_gets() {
    const NAME: &str = "honesty::nvidias_own_client_gets_what_the_wrapper_gets";
    const CARDS: &str = "ampere,pascal,turing,ada,blackwell,datacenter";
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wrapper/client.py");
    let file = fetched().join("wrapper.txt");
    on_rig(NAME, CARDS, |rig, nvml| std::fs::write(&file, as_the_client_does(rig, nvml)).unwrap());
    if env::var_os("RIGD_SIMULATION").is_some() {
        return;
    }
    let host = Host::new(CARDS);
    let mut client = Command::new("python3");
    client.arg(SCRIPT).arg(library()).env("RIGD_SIMULATION", &host.dir).env("PYTHONPATH", fetched());
    let output = client.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (theirs, ours) = (String::from_utf8(output.stdout).unwrap(), std::fs::read_to_string(file).unwrap());
    for (number, (theirs, ours)) in theirs.lines().zip(ours.lines()).enumerate() {
        assert_eq!(theirs, ours, "line {}", number + 1);
    }
    assert_eq!(theirs.lines().count(), ours.lines().count());
    assert!(theirs.lines().count() > 200 && theirs.contains("error 3") && theirs.contains("error 15"), "{theirs}");
}
