//! What it says before it has a GPU.

use std::fs;
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;

use rigd::gpu::wire::{Code, PROTOCOL, Read as Told, Request};
use rigd::units::Duty;
use rigd_sim::nvml::without_symbol;

use crate::process::{Process, Rig, library, program};

fn hello_of(library: &Path) -> (Told<()>, Option<i32>, String) {
    let mut process = Process::start(&mut program(), library, None);
    let hello = process.hello();
    assert_eq!((hello.protocol, hello.version.as_str()), (PROTOCOL, env!("CARGO_PKG_VERSION")));
    assert_eq!(process.message(), None, "the greeting is the last frame");
    let (status, said) = process.end();
    (hello.nvml.map(drop), status.code(), said)
}

#[test]
fn without_a_library_it_says_so_and_ends() {
    let (nvml, code, said) = hello_of(Path::new("/nonexistent/libnvidia-ml.so.1"));
    assert_eq!((nvml, code), (Err(Code::LIBRARY_NOT_FOUND), Some(1)));
    assert!(said.contains("/nonexistent/libnvidia-ml.so.1"), "{said}");
}

#[test]
fn a_library_that_is_no_nvml_is_refused() {
    let (nvml, code, said) = hello_of(Path::new("libc.so.6"));
    assert_eq!((nvml, code), (Err(Code::FUNCTION_NOT_FOUND), Some(1)), "{said}");
}

#[test]
fn the_drivers_own_code_says_why_there_is_no_nvml() {
    let rig = Rig::new("mismatch", "ampere");
    rig.say("fault nvml init mismatch");
    let mut process = rig.start_silent();
    assert_eq!(process.hello().nvml.map(drop), Err(Code::LIB_RM_VERSION_MISMATCH));
    assert_eq!(process.end().0.code(), Some(1));
}

#[test]
fn it_tells_how_it_is_used() {
    let say = |arguments: &[&str]| program().args(arguments).output().unwrap();
    let help = say(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.starts_with("rigd-nvml - ") && help.contains("--library"), "{help}");
    let version = say(&["--version"]);
    assert_eq!(String::from_utf8(version.stdout).unwrap(), concat!("rigd-nvml ", env!("CARGO_PKG_VERSION"), "\n"));
    for wrong in [&["--library"][..], &["run"]] {
        let refused = say(wrong);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn what_the_agent_had_open_is_closed() {
    let rig = Rig::new("inherited", "ampere");
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9</dev/null; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_rigd-nvml")]);
    let mut process = Process::start(&mut shell, &library(), Some(&rig.dir));
    process.hello().nvml.unwrap();
    let open = |fd: u32| fs::read_link(format!("/proc/{}/fd/{fd}", process.child.id())).ok();
    assert!(open(0).is_some());
    assert_ne!(open(9).as_deref(), Some(Path::new("/dev/null")));
}

/// Old drivers lack functions; the wrapper panics in some places where one is missing.
#[test]
fn a_missing_function_costs_its_own_value_and_nothing_else() {
    let rig = Rig::new("missing", "ampere");
    let symbols = [
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetFieldValues",
        "nvmlEventSetFree",
        "nvmlEventSetCreate",
        "nvmlShutdown",
        "nvmlDeviceSetDefaultFanSpeed_v2",
        "nvmlDeviceSetFanControlPolicy",
    ];
    for symbol in symbols {
        let less = rig.dir.join(format!("{symbol}.so"));
        without_symbol(&library(), symbol, &less).unwrap();
        let mut process = Process::start(&mut program(), &less, Some(&rig.dir));
        process.hello().nvml.unwrap();
        let gpu = process.first();
        let sample = process.sample(gpu).unwrap();
        assert!(sample.temperature.is_ok() && sample.reasons.is_ok() && sample.power.is_ok(), "{symbol}: {sample:?}");
        assert_eq!(process.set(Request::Drive(gpu, Duty::from_percent(60))), Ok(()), "{symbol}");
        assert_eq!(process.set(Request::Drive(gpu, None)), Ok(()), "{symbol}");
        let fans = process.sample(gpu).unwrap().fans;
        assert!(!fans.is_empty() && fans.iter().all(|fan| fan.manual == Ok(false)), "{symbol}: {fans:?}");
        let fields = sample.power_now.map(drop);
        let expected = if symbol.contains("FieldValues") { Err(Code::FUNCTION_NOT_FOUND) } else { Ok(()) };
        assert_eq!(fields, expected, "{symbol}");
        if symbol.contains("Device") {
            process.stream.shutdown(Shutdown::Both).unwrap();
        } else {
            assert_eq!(process.set(Request::Release), Ok(()), "{symbol}");
        }
        assert_eq!(process.end().0.code(), Some(0), "{symbol}");
    }
}
