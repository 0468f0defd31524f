use std::fs;
use std::os::unix::fs::symlink;

use rigd::chip;

use super::*;

/// A copy of /sys with one kernel driver's sensors.
fn host(test: &str) -> Host {
    let sysfs = std::env::temp_dir().join(format!("rigd-read-{test}-{}", std::process::id()));
    let hwmon = sysfs.join("class/hwmon/hwmon0");
    fs::create_dir_all(&hwmon).unwrap();
    fs::create_dir_all(sysfs.join("devices/0000:00:18.3")).unwrap();
    symlink("../../../devices/0000:00:18.3", hwmon.join("device")).unwrap();
    for (file, text) in
        [("name", "k10temp\n"), ("temp1_input", "45250\n"), ("temp1_crit", "95000\n"), ("temp3_label", "x\n")]
    {
        fs::write(hwmon.join(file), text).unwrap();
    }
    Host { sysfs, ..Host::default() }
}

fn board(device: &str) -> Board {
    let text = format!(
        "name = \"a\"\nrevision = \"a\"\n[hwmon.CPU]\ndriver = \"k10temp\"\ndevice = \"{device}\"\n\
         [sensor.cpu]\nchip = \"CPU\"\nchannel = 1\n[sensor.die]\nchip = \"CPU\"\nchannel = 3\n"
    );
    Board::parse("a.toml", &text).unwrap()
}

#[test]
fn a_kernel_drivers_attributes_are_shown_as_they_are_and_decoded() {
    let host = host("hwmon");
    let board = board("0000:00:18.3");
    let target = targets(&board, &host).next().unwrap();
    let (text, outcome) = target.show(false);
    assert!(outcome.is_ok(), "{outcome:?}");
    for expected in [
        "CPU  kernel driver k10temp\n",
        "A kernel driver has it: k10temp in ",
        "temp1_crit              95000\n",
        "temp1_input             45250\n",
        "temp3_label             x\n",
        "  temperature temp1  45250 m°C                           cpu\n",
        "  temperature temp3  not present                         die\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    let (raw, _) = target.show(true);
    assert!(raw.contains("temp1_input") && !raw.contains("VALUES"));
    fs::remove_dir_all(&host.sysfs).unwrap();
}

#[test]
fn a_driver_that_is_not_there_is_an_error() {
    let host = host("gone");
    let board = board("0000:00:19.3");
    let (_, outcome) = targets(&board, &host).next().unwrap().show(false);
    assert_eq!(outcome.unwrap_err().to_string(), "CPU: the kernel has no such sensors, only k10temp");
    fs::remove_dir_all(&host.sysfs).unwrap();
}

#[test]
fn every_failure_says_what_it_means() {
    for (failure, expected) in [
        (Failure::from(bus::Error::TimedOut), "timed out"),
        (
            Failure::from(chip::Error::<bus::Error>::ReadBack { register: 5, written: 0x800, found: 0 }),
            "register 0x05 holds 0x0000 where the agent sets 0x0800: it is not set up",
        ),
        (
            Failure::from(chip::Error::<bus::Error>::WrongPart { register: 0xfe, found: 0x1234 }),
            "register 0xfe reads 0x1234, which is not this part's: is it what the board file says?",
        ),
        (Failure::Pages, "its values are on pages, and to select one is a write"),
    ] {
        assert!(failure.to_string().starts_with(expected), "{failure}");
    }
    assert!(Failure::TIMED_OUT.timed_out() && !Failure::Pages.timed_out());
}
