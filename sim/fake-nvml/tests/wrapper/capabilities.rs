//! What each class of card has and has not.

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};

use crate::rig::{Numbered, card, library, nvml, on_rig};

#[test]
fn it_comes_up_and_goes_without_a_panic_and_is_visibly_no_driver() {
    on_rig("capabilities::it_comes_up_and_goes_without_a_panic_and_is_visibly_no_driver", "ampere", |_, first| {
        assert_eq!(first.sys_driver_version().n().as_deref(), Ok("000.00 simulated"));
        assert_eq!(first.sys_nvml_version().n().as_deref(), Ok("12.000.00 simulated"));
        assert_eq!(first.device_count().n(), Ok(8));
        let gpu = first.device_by_index(3).unwrap();
        assert!(gpu.uuid().unwrap().starts_with("GPU-fa4e0003"), "{:?}", gpu.uuid());
        assert_eq!(first.device_by_uuid(gpu.uuid().unwrap()).unwrap().index().n(), Ok(3));
        let pci = gpu.pci_info().unwrap();
        assert_eq!((pci.bus_id.as_str(), pci.bus, pci.pci_device_id), ("00000000:04:00.0", 4, 0x2204_10de));
        assert!(gpu.name().unwrap().starts_with("Simulated"));
        let second = nvml();
        drop(second.create_event_set().unwrap());
        second.shutdown().unwrap();
        drop(nvml());
        assert_eq!(first.device_count().n(), Ok(8), "others come and go");
    });
}

/// What is told of one card; `None` where it is not supported.
fn told(gpu: &Device<'static>) -> [bool; 9] {
    let there = |result: Result<(), NvmlError>| match result {
        Ok(()) => true,
        Err(NvmlError::NotSupported) => false,
        Err(error) => panic!("{error:?}"),
    };
    [
        there(gpu.temperature(TemperatureSensor::Gpu).map(drop)),
        there(gpu.temperature_threshold(TemperatureThreshold::Slowdown).map(drop)),
        there(gpu.temperature_threshold(TemperatureThreshold::MemoryMax).map(drop)),
        there(gpu.total_energy_consumption().map(drop)),
        there(gpu.is_ecc_enabled().map(drop)),
        there(gpu.serial().map(drop)),
        there(gpu.num_fans().map(drop)),
        there(gpu.mig_mode().map(drop)),
        there(gpu.field_values_for(&[FieldId(185)]).unwrap().remove(0).and_then(|sample| sample.value).map(drop)),
    ]
}

#[test]
fn each_class_lacks_what_the_real_ones_lack() {
    let cards = "ampere,pascal,turing,ada,blackwell,datacenter";
    on_rig("capabilities::each_class_lacks_what_the_real_ones_lack", cards, |_, nvml| {
        for (index, class, expected) in [
            (0, "ampere", [true, true, false, true, false, false, true, false, true]),
            (1, "pascal", [true, true, false, false, false, false, true, false, false]),
            (2, "turing", [true, true, false, true, false, false, true, false, false]),
            (3, "ada", [true, false, false, true, true, true, true, false, true]),
            (4, "blackwell", [true, false, false, true, false, true, true, false, true]),
            (5, "datacenter", [true, true, true, true, true, true, false, true, false]),
        ] {
            assert_eq!(told(&card(nvml, index)), expected, "{class}");
        }
    });
}

#[test]
fn locks_are_refused_where_the_generation_has_none() {
    let cards = "ampere,pascal,turing";
    on_rig("capabilities::locks_are_refused_where_the_generation_has_none", cards, |_, nvml| {
        let lock = |index: u32| {
            let mut gpu = card(nvml, index);
            let core = nvml_wrapper::enums::device::GpuLockedClocksSetting::Numeric {
                min_clock_mhz: 900,
                max_clock_mhz: 1200,
            };
            (gpu.set_gpu_locked_clocks(core).n(), gpu.set_mem_locked_clocks(810, 810).n())
        };
        assert_eq!(lock(0), (Ok(()), Ok(())));
        assert_eq!(lock(1), (Err(3), Err(3)));
        assert_eq!(lock(2), (Ok(()), Err(3)));
    });
}

#[test]
fn more_than_128_clocks_trap_the_wrapper_as_a_real_blackwell_does() {
    on_rig(
        "capabilities::more_than_128_clocks_trap_the_wrapper_as_a_real_blackwell_does",
        "ampere,blackwell",
        |_, nvml| {
            let clocks = |index: u32, memory| card(nvml, index).supported_graphics_clocks(memory).unwrap();
            let (few, many) = (clocks(0, 9501), clocks(1, 14_001));
            assert_eq!((few.len(), few.first(), few.last()), (127, Some(&2100), Some(&210)));
            assert_eq!(many, vec![0; 128], "the wrapper swallows INSUFFICIENT_SIZE");
            assert_eq!(card(nvml, 1).max_clock_info(Clock::SM).n(), Ok(3090));
        },
    );
}

#[test]
fn the_offsets_to_t_limit_are_signed_and_the_margin_shrinks_with_heat() {
    on_rig(
        "capabilities::the_offsets_to_t_limit_are_signed_and_the_margin_shrinks_with_heat",
        "blackwell",
        |rig, nvml| {
            use nvml_wrapper_sys::bindings::{nvmlFieldValue_t, nvmlMarginTemperature_v1_t, nvmlValue_t};
            let gpu = card(nvml, 0);
            // The wrapper does not know signed values; below it they are there.
            let wrapped = gpu.field_values_for(&[FieldId(193)]).unwrap().remove(0);
            assert!(matches!(wrapped.map(|sample| sample.value), Err(_) | Ok(Err(_))));
            let mut field = nvmlFieldValue_t {
                fieldId: 193,
                scopeId: 0,
                timestamp: 0,
                latencyUsec: 0,
                valueType: 0,
                nvmlReturn: 9,
                value: nvmlValue_t { ullVal: 0 },
            };
            // SAFETY: one field value, and a handle of this library.
            let code = unsafe { nvml.lib().nvmlDeviceGetFieldValues(gpu.handle(), 1, &raw mut field) };
            // SAFETY: the type says that it is this member.
            assert_eq!((code, field.nvmlReturn, field.valueType, unsafe { field.value.siVal }), (0, 0, 5, -5));
            assert!(field.timestamp > 0);

            let margin = |version: u32| {
                let mut margin = nvmlMarginTemperature_v1_t { version, marginTemperature: 0 };
                // SAFETY: the struct of that function, and a handle of this library.
                let code = unsafe { nvml.lib().nvmlDeviceGetMarginTemperature(gpu.handle(), &raw mut margin) };
                (code, margin.marginTemperature)
            };
            let size = u32::try_from(size_of::<nvmlMarginTemperature_v1_t>()).unwrap();
            assert_eq!(margin(size | 2 << 24).0, 25, "another version");
            assert_eq!(margin(0).0, 25);
            let before = margin(size | 1 << 24);
            rig.say("set gpu all load 1");
            rig.say("advance 300");
            let after = margin(size | 1 << 24);
            assert!(before.0 == 0 && after.0 == 0 && after.1 < before.1, "{before:?} {after:?}");
            let told = i64::from(gpu.temperature(TemperatureSensor::Gpu).unwrap());
            assert_eq!(told, 92 - i64::from(after.1));
        },
    );
}

#[test]
fn what_is_read_is_what_the_world_has() {
    on_rig("capabilities::what_is_read_is_what_the_world_has", "ampere,datacenter", |rig, nvml| {
        rig.say("set gpu 0 load 1");
        rig.say("gpu 0 process 4242 1024");
        rig.say("gpu 1 ecc 5 1");
        rig.say("gpu 1 rows 3 1 1 0");
        rig.say("gpu 0 width 4");
        rig.say("gpu 0 replays 7");
        rig.say("advance 30");
        let gpu = card(nvml, 0);
        let watts = f64::from(gpu.power_usage().unwrap());
        assert!((watts - rig.number("rail.gpu0.mw")).abs() < 5_000.0, "{watts}");
        assert_eq!(gpu.clock_info(Clock::SM).map(f64::from).n(), Ok(rig.number("gpu.0.clock_mhz")));
        assert_eq!(gpu.clock_info(Clock::Memory).n(), Ok(9501));
        let heat = rig.number("gpu.0.mc") / 1000.0;
        assert!((f64::from(gpu.temperature(TemperatureSensor::Gpu).unwrap()) - heat).abs() <= 0.5);
        assert_eq!(gpu.utilization_rates().map(|rates| rates.gpu).n(), Ok(100));
        let processes = gpu.running_compute_processes().unwrap();
        assert_eq!(processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [4242]);
        assert_eq!(gpu.memory_info().map(|memory| memory.used).n(), Ok(1 << 30));
        assert_eq!((gpu.current_pcie_link_width().n(), gpu.pcie_replay_counter().n()), (Ok(4), Ok(7)));
        assert_eq!(nvml.sys_process_name(4242, 64).n().as_deref(), Ok("/simulated/payload"));
        let first = gpu.total_energy_consumption().unwrap();
        rig.say("advance 10");
        let joules = f64::from(u32::try_from(gpu.total_energy_consumption().unwrap() - first).unwrap()) / 1000.0;
        assert!((joules - 10.0 * watts / 1000.0).abs() < 200.0, "{joules} J in 10 s at {watts} mW");
        let fields = card(nvml, 1).field_values_for(&[142, 143, 144, 145].map(FieldId)).unwrap();
        let rows: Vec<String> =
            fields.into_iter().map(|field| format!("{:?}", field.unwrap().value.unwrap())).collect();
        assert_eq!(rows, ["U32(3)", "U32(1)", "U32(1)", "U32(0)"]);
        use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};
        assert_eq!(card(nvml, 1).total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).n(), Ok(1));
    });
}

#[test]
fn without_a_rig_it_has_cards_of_its_own() {
    const NAME: &str = "capabilities::without_a_rig_it_has_cards_of_its_own";
    let again = |variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME]).env_remove("RIGD_SIMULATION").envs(variables.iter().copied());
        command.output().unwrap().status.success()
    };
    match std::env::var("RIGD_FAKE_NVML").as_deref() {
        Ok("voodoo") => assert_eq!(Nvml::builder().lib_path(library().as_os_str()).init().map(drop).n(), Err(9)),
        Ok(_) => {
            let nvml = nvml();
            let gpu = nvml.device_by_index(1).unwrap();
            assert_eq!((nvml.device_count().n(), gpu.serial().is_ok()), (Ok(3), true), "the second is an ada");
            assert_eq!(nvml.device_by_index(2).unwrap().power_usage().n(), Err(999));
            // Each call is a second at some 70 W.
            let millijoules: Vec<u64> = (0..11).map(|_| gpu.total_energy_consumption().unwrap()).collect();
            assert!((600_000..=720_000).contains(&(millijoules[10] - millijoules[0])), "{millijoules:?}");
        }
        Err(_) => {
            assert!(again(&[
                ("RIGD_FAKE_NVML", "ampere,ada:2"),
                ("RIGD_FAKE_NVML_SAY", "load 1; fault gpu 2 GetPowerUsage unknown"),
                ("RIGD_FAKE_NVML_STEP_MS", "1000"),
            ]));
            assert!(again(&[("RIGD_FAKE_NVML", "voodoo")]));
        }
    }
}

#[test]
fn every_symbol_is_there_and_one_can_be_taken_out() {
    let whole = library();
    let less = std::env::temp_dir().join(format!("rigd-fake-nvml-less-{}.so", std::process::id()));
    rigd_sim::nvml::without_symbol(&whole, "nvmlDeviceGetMemoryInfo_v2", &less).unwrap();
    let found = |path: &std::path::Path| {
        // SAFETY: a library of ours, with nothing that runs when it is loaded.
        let lib = unsafe { nvml_wrapper_sys::bindings::NvmlLib::new(path) }.unwrap();
        (lib.nvmlDeviceGetMemoryInfo_v2.is_ok(), lib.nvmlDeviceGetMemoryInfo.is_ok(), lib.nvmlErrorString.is_ok())
    };
    assert_eq!((found(&whole), found(&less)), ((true, true, true), (false, true, true)));
    let error = rigd_sim::nvml::without_symbol(&whole, "nvmlDance", &less).unwrap_err().to_string();
    assert!(error.contains("no symbol nvmlDance"), "{error}");
    std::fs::remove_file(less).unwrap();
}
