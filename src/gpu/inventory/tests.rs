use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A copy of /sys; a card's place is below `devices`, as the kernel has it.
struct Sysfs(PathBuf);

impl Sysfs {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("rigd-inventory-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("bus/pci/devices")).unwrap();
        Self(root)
    }

    /// A device with these files and this configuration.
    fn add(&self, place: &str, config: &[u8], files: &[(&str, &str)]) {
        let directory = self.0.join("devices").join(place);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config"), config).unwrap();
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
        let name = directory.file_name().unwrap();
        symlink(Path::new("../../../devices").join(place), self.0.join("bus/pci/devices").join(name)).unwrap();
    }

    fn gpu(&self, place: &str, config: &[u8], driver: Option<&str>, more: &[(&str, &str)]) {
        self.add(place, config, &[&[("vendor", "0x10de\n"), ("class", "0x030000\n")], more].concat());
        if let Some(driver) = driver {
            let link = self.0.join("devices").join(place).join("driver");
            symlink(format!("../../../../bus/pci/drivers/{driver}"), link).unwrap();
        }
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A GPU's first bytes: 10de:2204.
const ALIVE: &[u8] = &[0xde, 0x10, 0x04, 0x22, 0x07, 0x04];

fn at(bus: u8) -> PciAddress {
    PciAddress { domain: 0, bus, device: 0 }
}

#[test]
fn cards_are_found_with_their_port_driver_and_link() {
    let sysfs = Sysfs::new("find");
    // The kinds are cut short; the whole of a real file is below 512 bytes.
    let port = [
        ("aer_dev_correctable", "Receiver Error 2\nBad TLP 0\nTOTAL_ERR_COR 2\n"),
        ("aer_dev_fatal", "Undefined 0\nTOTAL_ERR_FATAL 1\n"),
        ("aer_dev_nonfatal", "Undefined 0\nTOTAL_ERR_NONFATAL 3\n"),
    ];
    sysfs.add("pci0000:00/0000:00:1c.4", ALIVE, &port);
    let link = [
        ("aer_dev_correctable", "Receiver Error 5\nTOTAL_ERR_COR 5\n"),
        ("aer_dev_fatal", "TOTAL_ERR_FATAL 0\n"),
        ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL 0\n"),
        ("current_link_speed", "2.5 GT/s PCIe\n"),
        ("max_link_speed", "16.0 GT/s PCIe\n"),
        ("current_link_width", "1\n"),
        ("max_link_width", "16\n"),
    ];
    sysfs.gpu("pci0000:00/0000:00:1c.4/0000:0a:00.0", ALIVE, Some("nvidia"), &link);
    // A 3D controller straight on the root complex, with no driver and nothing told of its link.
    sysfs.add("pci0000:00/0000:00:02.0", ALIVE, &[("vendor", "0x10de\n"), ("class", "0x030200\n")]);
    // The first card's sound, another maker's GPU, NVIDIA's network card, and a port.
    let sound = [("vendor", "0x10de\n"), ("class", "0x040300\n")];
    sysfs.add("pci0000:00/0000:00:1c.4/0000:0a:00.1", ALIVE, &sound);
    sysfs.add("pci0000:00/0000:00:03.0", ALIVE, &[("vendor", "0x1002\n"), ("class", "0x030000\n")]);
    sysfs.add("pci0000:00/0000:00:04.0", ALIVE, &[("vendor", "0x10de\n"), ("class", "0x020000\n")]);
    sysfs.add("pci0000:00/0000:00:05.0", ALIVE, &[]);
    let first = Card {
        pci: "0000:00:02.0".parse().unwrap(),
        dead: false,
        driver: None,
        port: None,
        link: Link::default(),
        errors: None,
    };
    let second = Card {
        pci: at(0x0a),
        dead: false,
        driver: Some("nvidia".to_owned()),
        port: Some("0000:00:1c.4".to_owned()),
        link: Link { generation: Some(1), max_generation: Some(4), width: Some(1), max_width: Some(16) },
        errors: Some(Errors { corrected: 7, uncorrected: 4 }),
    };
    assert_eq!(cards(&sysfs.0).unwrap(), [first, second]);
    assert_eq!(cards(&sysfs.0.join("nowhere")).unwrap(), [], "a host without PCI");
}

#[test]
fn a_card_that_answers_with_ones_is_dead_and_tells_no_link() {
    let sysfs = Sysfs::new("dead");
    // What the kernel makes of a link status of ones: drivers/pci/pci-sysfs.c, PCI_EXP_LNKSTA_NLW.
    let link = [("current_link_speed", "Unknown\n"), ("current_link_width", "63\n"), ("max_link_width", "16\n")];
    sysfs.gpu("pci0000:00/0000:00:01.0/0000:01:00.0", &[0xff; 64], Some("nvidia"), &link);
    // One that cannot be read is no sign of death.
    sysfs.gpu("pci0000:00/0000:00:01.1/0000:02:00.0", &[], Some("nvidia"), &[("current_link_width", "4\n")]);
    // Ones in the device number alone are a card.
    sysfs.gpu("pci0000:00/0000:00:01.2/0000:03:00.0", &[0xde, 0x10, 0xff, 0xff], Some("nvidia"), &link);
    let found = cards(&sysfs.0).unwrap();
    let what: Vec<_> = found.iter().map(|card| (card.pci, card.dead, card.link.width, card.link.max_width)).collect();
    assert_eq!(what, [(at(1), true, None, Some(16)), (at(2), false, Some(4), None), (at(3), false, None, Some(16))]);
}

#[test]
fn no_more_cards_are_taken_than_a_rig_can_have() {
    let sysfs = Sysfs::new("most");
    for bus in 0..=MOST_CARDS {
        sysfs.gpu(&format!("pci0000:00/0000:00:01.0/0000:{bus:02x}:00.0"), ALIVE, None, &[]);
    }
    assert_eq!(cards(&sysfs.0).unwrap().len(), MOST_CARDS);
}

#[test]
fn speeds_of_old_and_new_kernels_are_generations() {
    for (speed, expected) in [
        ("2.5 GT/s PCIe", Some(1)),
        ("2.5 GT/s", Some(1)),
        ("5.0 GT/s PCIe", Some(2)),
        ("5 GT/s", Some(2)),
        ("8 GT/s", Some(3)),
        ("16.0 GT/s PCIe", Some(4)),
        ("32.0 GT/s PCIe", Some(5)),
        ("64.0 GT/s PCIe", Some(6)),
        ("Unknown", None),
        ("Unknown speed", None),
        ("", None),
        ("7 GT/s", None),
    ] {
        assert_eq!(generation(speed), expected, "{speed}");
    }
}

#[test]
fn what_is_lost_is_told_once_with_the_reason() {
    let card = |bus, dead, driver: Option<&str>| Card {
        pci: at(bus),
        dead,
        driver: driver.map(str::to_owned),
        port: None,
        link: Link::default(),
        errors: None,
    };
    let good = card(1, false, Some("nvidia"));
    let lost = |bus, how| Lost { pci: at(bus), how };
    let both = [at(1), at(2)];
    for (what, expected, on_bus, seen, result) in [
        ("all is well", &both[..1], vec![good.clone()], Some(&both[..1]), vec![]),
        ("a new card", &[], vec![good.clone()], Some(&both[..1]), vec![]),
        ("taken away", &both, vec![good.clone()], Some(&both[..1]), vec![lost(2, How::Gone)]),
        ("NVML shows what the bus has lost", &both, vec![good.clone()], Some(&both), vec![lost(2, How::Gone)]),
        ("told twice", &[at(2), at(2)], vec![], Some(&[]), vec![lost(2, How::Gone)]),
        ("not shown", &both[..1], vec![good.clone()], Some(&[]), vec![lost(1, How::Hidden)]),
        ("no driver took it", &[], vec![card(1, false, None)], Some(&[]), vec![lost(1, How::Hidden)]),
        ("a virtual machine has it", &both[..1], vec![card(1, false, Some("vfio-pci"))], Some(&[]), vec![]),
        ("dead, though NVML still shows it", &[], vec![card(1, true, None)], Some(&both), vec![lost(1, How::Dead)]),
        ("dead in a virtual machine", &[], vec![card(1, true, Some("vfio-pci"))], None, vec![lost(1, How::Dead)]),
        ("NVML does not answer", &both, vec![good], None, vec![lost(2, How::Gone)]),
    ] {
        assert_eq!(compare(expected, &on_bus, seen), result, "{what}");
    }
}

#[test]
fn the_loaded_module_is_known_by_its_file() {
    for (text, expected) in [
        // Talos's documentation of 515, the University of Sheffield's of 384, a forum post of 2008.
        ("NVIDIA UNIX x86_64 Kernel Module  515.65.01  Wed Mar 16 11:24:05 UTC 2022", Some(("515.65.01", false))),
        ("NVIDIA UNIX x86_64 Kernel Module  384.81  Wed Aug 17 22:24:07 PDT 2016", Some(("384.81", false))),
        ("NVIDIA UNIX x86 Kernel Module  169.12  Thu Feb 14 17:53:07 PST 2008", Some(("169.12", false))),
        // SUSE's documentation of 555, and Jetson's form.
        (
            "NVIDIA UNIX Open Kernel Module for x86_64  555.42.06  Release Build  (abuild@host)  Thu Jul 11 12:00:00 UTC 2024",
            Some(("555.42.06", true)),
        ),
        ("NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (b@m-d8000)", Some(("540.4.0", true))),
        ("NVIDIA UNIX x86_64 Kernel Module", None),
        ("NVIDIA UNIX x86_64 Kernel Module  5.x.1  .  1.  1..2", None),
        ("", None),
    ] {
        let text = format!("NVRM version: {text}\nGCC version:  gcc version 12.2.0 (GCC)\n");
        let expected = expected.map(|(version, open)| Module { version: version.to_owned(), open });
        assert_eq!(parse_module(&text), expected, "{text}");
    }
    let sysfs = Sysfs::new("module");
    let path = sysfs.0.join("version");
    assert_eq!(module(&path).unwrap(), None, "not loaded");
    fs::write(&path, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n")
        .unwrap();
    assert_eq!(module(&path).unwrap().map(|module| module.version), Some("550.54.14".to_owned()));
    fs::write(&path, "GCC version: 12.2.0\n").unwrap();
    assert_eq!(module(&path).unwrap_err().kind(), ErrorKind::InvalidData);
}
