use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::*;

/// A copy of /sys: number, name and path below `devices` of each adapter.
pub(crate) fn host(test: &str, adapters: &[(u32, &str, &str)]) -> Host {
    let root = std::env::temp_dir().join(format!("rigd-probe-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    for (number, name, path) in adapters {
        let device = root.join("devices").join(path).join(format!("i2c-{number}"));
        let class = root.join(format!("class/i2c-dev/i2c-{number}"));
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&class).unwrap();
        for directory in [&device, &class] {
            fs::write(directory.join("name"), format!("{name}\n")).unwrap();
        }
        symlink(&device, class.join("device")).unwrap();
    }
    Host { sysfs: root, ..Host::default() }
}

const SMBUS: &str = "pci0000:00/0000:00:1f.4";
const USB: &str = "pci0000:00/0000:00:14.0/usb1/1-2";
const CARD: &str = "pci0000:00/0000:00:01.0/0000:01:00.0";

fn machine(test: &str) -> Host {
    let host = host(
        test,
        &[
            (0, "NVIDIA i2c adapter 1 at 1:00.0", CARD),
            (1, "i915 gmbus dpc", "pci0000:00/0000:00:02.0"),
            (2, "some bridge", "pci0000:00/0000:00:03.0"),
            (3, "DDC of a driver yet to be written", CARD),
            (4, "SMBus I801 adapter at efa0", SMBUS),
            (8, "i2c-4-mux (chan_id 0)", &format!("{SMBUS}/i2c-4/4-0070")),
            (9, "i2c-4-mux (chan_id 1)", &format!("{SMBUS}/i2c-4/4-0070")),
            (10, "CP2112 SMBus Bridge on hidraw0", &format!("{USB}/1-2:1.0")),
            (11, "30a20000.i2c", "platform/30a20000.i2c"),
            (12, "twin", "platform/a.i2c"),
            (13, "twin", "platform/b.i2c"),
        ],
    );
    let devices = host.sysfs.join("devices");
    fs::write(devices.join(CARD).join("class"), "0x030000\n").unwrap();
    for (file, text) in [("idVendor", "10c4\n"), ("idProduct", "ea90\n"), ("serial", "0001\n")] {
        fs::write(devices.join(USB).join(file), text).unwrap();
    }
    let mux = devices.join(SMBUS).join("i2c-4/4-0070");
    fs::write(mux.join("name"), "pca9548\n").unwrap();
    for channel in 0..2 {
        symlink(format!("../i2c-{}", 8 + channel), mux.join(format!("channel-{channel}"))).unwrap();
    }
    host
}

fn entries(survey: &Survey) -> Vec<(String, String)> {
    survey.places.iter().map(|place| (place.name.clone(), place.entry.1.clone())).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, entry)| ((*name).to_owned(), (*entry).to_owned())).collect()
}

#[test]
fn all_but_graphics_are_looked_at_and_named_by_what_stays() {
    let host = machine("all");
    let survey = adapters(&host, &[]).unwrap();
    assert_eq!(
        entries(&survey),
        pairs(&[
            ("some", "pci:0000:00:03.0"),
            ("smbus", "pci:0000:00:1f.4"),
            ("cp2112", "usb:10c4:ea90"),
            ("30a20000-i2c", "30a20000.i2c"),
            ("twin", "/dev/i2c-12"),
            ("twin_2", "/dev/i2c-13"),
            ("i2c-4-mux", "i2c-4-mux (chan_id 0)"),
            ("i2c-4-mux_2", "i2c-4-mux (chan_id 1)"),
        ])
    );
    let left_out: Vec<&str> = survey.left_out.iter().filter_map(|text| text.split(" (").next()).collect();
    let expected = ["NVIDIA i2c adapter 1 at 1:00.0", "i915 gmbus dpc", "DDC of a driver yet to be written"];
    assert_eq!(left_out, expected);
    let main_board: Vec<&str> =
        survey.places.iter().filter(|place| place.main_board).map(|place| place.name.as_str()).collect();
    assert_eq!(main_board, ["smbus", "i2c-4-mux", "i2c-4-mux_2"]);
    let last = survey.places.last().and_then(|place| place.channel.clone()).unwrap();
    assert_eq!((last.on, last.mux, last.channel, last.part), (4, 0x70, 1, Some("pca9548")));
    fs::remove_dir_all(&host.sysfs).unwrap();
}

#[test]
fn what_is_named_comes_with_its_multiplexer_and_nothing_else() {
    let host = machine("named");
    for (wanted, expected) in [
        (vec!["i915 gmbus dpc"], pairs(&[("i915", "pci:0000:00:02.0")])),
        (vec!["/dev/i2c-11", "usb:10c4:ea90"], pairs(&[("cp2112", "usb:10c4:ea90"), ("30a20000-i2c", "30a20000.i2c")])),
        (
            vec!["i2c-4-mux (chan_id 1)"],
            pairs(&[("smbus", "pci:0000:00:1f.4"), ("i2c-4-mux", "i2c-4-mux (chan_id 1)")]),
        ),
        (
            vec!["pci:0000:00:1f.4"],
            pairs(&[
                ("smbus", "pci:0000:00:1f.4"),
                ("i2c-4-mux", "i2c-4-mux (chan_id 0)"),
                ("i2c-4-mux_2", "i2c-4-mux (chan_id 1)"),
            ]),
        ),
    ] {
        let wanted: Vec<Selector> = wanted.into_iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(entries(&adapters(&host, &wanted).unwrap()), expected, "{wanted:?}");
    }
    let error = format!("{:#}", adapters(&host, &["octo".parse().unwrap()]).unwrap_err());
    assert!(error.starts_with("--adapter octo; there are NVIDIA i2c"), "{error}");
    assert!(error.ends_with("there is no adapter `octo`"), "{error}");
    fs::remove_dir_all(&host.sysfs).unwrap();
}

#[test]
fn a_machine_without_adapters_is_told_what_may_be_missing() {
    let host = Host { sysfs: PathBuf::from("/nonexistent"), ..Host::default() };
    assert!(adapters(&host, &[]).unwrap_err().to_string().contains("modprobe i2c-dev"));
}

#[test]
fn the_sockets_of_a_simulated_rig_are_its_buses() {
    let directory = std::env::temp_dir().join(format!("rigd-sockets-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let error = sockets(&directory, &[]).unwrap_err().to_string();
    assert!(error.ends_with("holds no bus of a simulated rig: is it running?"), "{error}");
    let _listeners = ["main", "air", "control", "nvml"].map(|name| UnixListener::bind(directory.join(name)).unwrap());
    fs::write(directory.join("notes"), "").unwrap();
    assert_eq!(entries(&sockets(&directory, &[]).unwrap()), pairs(&[("air", "air"), ("main", "main")]));
    assert_eq!(entries(&sockets(&directory, &["air".parse().unwrap()]).unwrap()), pairs(&[("air", "air")]));
    let error = sockets(&directory, &["octo".parse().unwrap()]).unwrap_err().to_string();
    assert_eq!(error, "--adapter octo: the simulated rig has no such bus, only air, main");
    fs::remove_dir_all(&directory).unwrap();
    assert!(sockets(&directory, &[]).is_err());
}

#[test]
fn names_are_keys_of_toml_and_given_once() {
    for (text, expected) in [("SMBus", "smbus"), ("30a20000.i2c", "30a20000-i2c"), ("(x)", "x"), ("Ä", "bus")] {
        assert_eq!(slug(text), expected);
    }
    assert_eq!(slug("hwmon"), "hwmon-bus", "board files keep it for the kernel's sensors");
    let mut names = Names::default();
    assert_eq!(["a", "b", "a", "a"].map(|name| names.take(name)), ["a", "b", "a_2", "a_3"]);
}
