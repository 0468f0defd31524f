use std::os::unix::fs::symlink;

use super::*;

/// A copy of /sys with these adapters: number, name, path below `devices`.
fn host(test: &str, adapters: &[(u32, &str, &str)]) -> Host {
    let root = std::env::temp_dir().join(format!("rigd-adapters-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    for (number, name, path) in adapters {
        let device = root.join("devices").join(path).join(format!("i2c-{number}"));
        let class = root.join(format!("class/i2c-dev/i2c-{number}"));
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("name"), format!("{name}\n")).unwrap();
        symlink(&device, class.join("device")).unwrap();
    }
    Host { sysfs: root, ..Host::default() }
}

fn found(host: &Host, selector: &str) -> Result<String, Error> {
    find(host, &selector.parse().unwrap()).map(|adapter| adapter.path.display().to_string())
}

#[test]
fn an_adapter_is_found_by_each_of_its_names() {
    const USB: &str = "pci0000:00/0000:00:14.0/usb1/1-2";
    let host = host(
        "names",
        &[
            (0, "i915 gmbus dpc", "pci0000:00/0000:00:02.0"),
            (4, "SMBus I801 adapter at efa0", "pci0000:00/0000:00:1f.4"),
            (5, "i2c-4-mux (chan_id 0)", "pci0000:00/0000:00:1f.4/i2c-4/4-0070"),
            (7, "CP2112 SMBus Bridge on hidraw0", &format!("{USB}/1-2:1.0")),
            (10, "CP2112 SMBus Bridge on hidraw1", "pci0000:00/0000:00:14.0/usb1/1-3/1-3:1.0"),
        ],
    );
    for (device, serial) in [("1-2", "0001"), ("1-3", "0002")] {
        let device = host.sysfs.join("devices/pci0000:00/0000:00:14.0/usb1").join(device);
        for (file, text) in [("idVendor", "10c4\n"), ("idProduct", "ea90\n"), ("serial", serial)] {
            fs::write(device.join(file), text).unwrap();
        }
    }
    for (selector, expected) in [
        ("SMBus I801 adapter at efa0", "/dev/i2c-4"),
        ("pci:0000:00:1f.4", "/dev/i2c-4"),
        ("/dev/i2c-4", "/dev/i2c-4"),
        ("usb:10c4:ea90:0002", "/dev/i2c-10"),
        ("path:usb1/1-2", "/dev/i2c-7"),
        ("path:4-0070", "/dev/i2c-5"),
    ] {
        assert_eq!(found(&host, selector), Ok(expected.to_owned()), "{selector}");
    }
    for (selector, expected) in [
        ("i2c-gpio0", "there is no adapter `i2c-gpio0`"),
        ("usb:10c4:ea91", "there is no adapter `usb:10c4:ea91`"),
        ("usb:10c4:ea90", "2 adapters are `usb:10c4:ea90`; name one by `path:` and a part of "),
    ] {
        let Err(Error::Gone(text)) = found(&host, selector) else { panic!("{selector} was found") };
        assert!(text.starts_with(expected), "{text}");
    }
    fs::remove_dir_all(&host.sysfs).unwrap();
}

#[test]
fn a_selector_that_cannot_be_meant_is_refused() {
    for (text, expected) in [
        ("", "must not be empty"),
        ("pci:1f.4", "`1f.4` is no PCI address such as 0000:00:1f.4"),
        ("pci:0000:zz:zz.z", "`0000:zz:zz.z` is no PCI address such as 0000:00:1f.4"),
        ("path:", "`path:` names nothing"),
        ("usb:10C4:EA90", "`10C4:EA90` is no pair of USB ids in lower case such as 10c4:ea90"),
    ] {
        assert_eq!(text.parse::<Selector>(), Err(expected.to_owned()));
    }
    for text in
        ["i2c-4-mux (chan_id 0)", "pci:0000:00:1f.4", "usb:10c4:ea90", "usb:10c4:ea90:00:1", "path:a/b", "/dev/i2c-1"]
    {
        assert_eq!(text.parse::<Selector>().map(|selector| selector.to_string()), Ok(text.to_owned()));
    }
}

#[test]
fn a_channel_of_the_kernels_multiplexer_is_its_adapter() {
    let host = host("mux", &[(4, "host", "platform/x.i2c")]);
    let adapter = find(&host, &Selector::Name("host".to_owned())).unwrap();
    let segment = |channel| Segment { mux: 0x70, channel, alone: true };
    assert_eq!(adapter.channel(&host, segment(0)), Ok(None), "nobody has it: it is ours to switch");
    let mux = host.sysfs.join("bus/i2c/devices/4-0070");
    fs::create_dir_all(&mux).unwrap();
    for channel in 0..4 {
        symlink(format!("../i2c-{}", 8 + channel), mux.join(format!("channel-{channel}"))).unwrap();
    }
    assert_eq!(adapter.channel(&host, segment(2)), Ok(Some(PathBuf::from("/dev/i2c-10"))));
    let none = Error::Gone("the multiplexer at 0x70 has no channel 7".to_owned());
    assert_eq!(adapter.channel(&host, segment(7)), Err(none));
    fs::remove_dir_all(&host.sysfs).unwrap();
}
