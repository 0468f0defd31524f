use std::fs;
use std::os::unix::fs::symlink;

use rigd::chip;

use super::*;

/// A copy of /sys with one kernel driver's sensors.
fn host(test: &str) -> Host {
    let sysfs = std::env::temp_dir().join(format!("rigd-read-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&sysfs);
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
    let Shown { text, facts, reached, outcome } = target.show(false);
    assert!(outcome.is_ok() && reached, "{outcome:?}");
    assert_eq!(target.afterwards(), "Nothing was set: the kernel's driver was asked for what it has.");
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
    let facts = told(facts, None);
    assert_eq!((&facts["chip"], &facts["part"], &facts["error"]), (&json!("CPU"), &Value::Null, &Value::Null));
    assert_eq!(facts["attributes"][1], json!({ "attribute": "temp1_input", "text": "45250", "error": null }));
    assert_eq!(facts["temperature"][0], json!({ "channel": "temp1", "names": ["cpu"], "mc": 45_250 }));
    assert_eq!(facts["temperature"][1]["mc"], "not_present");
    let raw = target.show(true);
    assert!(raw.text.contains("temp1_input") && !raw.text.contains("VALUES"));
    assert!(raw.facts.contains_key("attributes") && !raw.facts.contains_key("temperature"));
    fs::remove_dir_all(&host.sysfs).unwrap();
}

#[test]
fn a_driver_that_is_not_there_is_an_error() {
    let host = host("gone");
    let board = board("0000:00:19.3");
    let Shown { reached, outcome, .. } = targets(&board, &host).next().unwrap().show(false);
    assert!(!reached);
    assert_eq!(outcome.unwrap_err().to_string(), "CPU: the kernel has no such sensors, only k10temp");
    fs::remove_dir_all(&host.sysfs).unwrap();
}

#[test]
fn what_reading_has_changed_is_told_for_each_kind_of_chip() {
    let text = "name = \"a\"\nrevision = \"a\"\n[bus.b]\nadapter = \"x\"\n\
                [mux.M]\npart = \"pca9548\"\nbus = \"b\"\naddr = 0x70\n\
                [chip.A]\npart = \"tmp75\"\nbus = \"b\"\naddr = 0x48\n\
                [chip.B]\npart = \"tmp75\"\nmux = \"M\"\nchannel = 2\naddr = 0x49\n\
                [chip.C]\npart = \"hp-common-slot\"\nbus = \"b\"\naddr = 0x5f\n\
                [chip.D]\npart = \"max31790\"\nbus = \"b\"\naddr = 0x20\n\
                [chip.E]\npart = \"max34451\"\nmux = \"M\"\nchannel = 0\naddr = 0x74\n";
    let board = Board::parse("a.toml", text).unwrap_or_else(|problems| panic!("{problems}"));
    let host = Host::default();
    let said: Vec<String> = targets(&board, &host).map(|target| target.afterwards()).collect();
    let tail = ": safe while the agent runs. What a chip clears by being read, the agent does not see";
    assert_eq!(said[0], format!("Nothing was written{tail}."));
    let switched = "Nothing was written to it, but the multiplexer at 0x70 was switched to channel";
    assert_eq!(said[1], format!("{switched} 2{tail}."));
    assert_eq!(said[2], format!("Nothing was set, but each question to it is a write{tail}."));
    assert_eq!(said[3], format!("Nothing was written{tail}.\n{}", feeds("D")));
    assert_eq!(said[4], format!("{switched} 0{tail}; of its pages, it is the one selected now."));
}

#[test]
fn a_name_that_is_no_chips_leads_to_its_chip() {
    let board = Board::load("simulated-8gpu").unwrap();
    for (name, expected) in [
        ("gpu0", Some(("a rail", "U10"))),
        ("psu1", Some(("a supply", "PS1"))),
        ("intake", Some(("a sensor", "U30"))),
        ("fan6", Some(("a fan", "U20"))),
        ("cards", None),
    ] {
        assert_eq!(use_of(&board, name), expected, "{name}");
    }
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
