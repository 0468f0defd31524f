//! From a bus full of chips to a file that passes the check.

use std::collections::BTreeMap;
use std::path::Path;

use rigd::board::ChipKind;

use super::bench::Bench;
use super::*;

/// A machine with these buses, by the name of their socket or of their device file.
struct Machine {
    host: Host,
    benches: BTreeMap<String, Bench>,
}

impl Machine {
    fn simulated(benches: &[(&str, &Bench)]) -> (Self, Survey) {
        let benches = benches.iter().map(|(name, bench)| ((*name).to_owned(), (*bench).clone()));
        let machine = Self { host: Host::default(), benches: benches.collect() };
        let place = |name: &String| Place {
            adapter: Adapter::Socket(name.clone()),
            entry: ("socket", name.clone()),
            title: format!("simulated bus {name}"),
            name: name.clone(),
            number: None,
            main_board: false,
            channel: None,
        };
        let survey = Survey { places: machine.benches.keys().map(place).collect(), left_out: Vec::new() };
        (machine, survey)
    }

    fn open(&self, adapter: &Adapter, segment: Option<Segment>, addr: u8) -> Result<Device, bus::Error> {
        let name = match adapter {
            Adapter::Socket(name) => name.clone(),
            Adapter::Kernel { selector, .. } => selector.to_string(),
            Adapter::Hwmon => panic!("hwmon is no bus"),
        };
        let bench = self.benches.get(&name).ok_or_else(|| bus::Error::Gone(format!("no bus {name}")))?;
        segment.map_or_else(|| bench.open(addr), |segment| bench.open_behind(segment, addr))
    }

    /// The file, which is good as it is and with every proposal taken in; and what was missed.
    fn probe(&self, survey: &Survey, muxes: bool) -> (String, Vec<String>) {
        let open = |adapter: &Adapter, segment: Option<Segment>, addr: u8| self.open(adapter, segment, addr);
        let mut prober = Prober { host: &self.host, open: &open, ask: &[], muxes, tell: &|_| {}, missed: Vec::new() };
        let text = file::text(&prober.draft(survey));
        good(&text);
        (text, prober.missed)
    }
}

fn good(text: &str) -> Board {
    let taken_in: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(proposal) if !proposal.starts_with([' ', '#']) => format!("{proposal}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    Board::parse("with proposals", &taken_in).unwrap_or_else(|problems| panic!("{problems}\n{taken_in}"));
    Board::parse("draft", text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// Refdes, part, address and channel of every chip, and the kernel's sensors.
fn chips(text: &str) -> Vec<String> {
    let board = good(text);
    let chip = |chip: &rigd::board::Chip| match &chip.kind {
        ChipKind::I2c { part, addr, segment, .. } => {
            let behind = segment.map_or(String::new(), |segment| format!(" {:02x}.{}", segment.mux, segment.channel));
            format!("{} {} {addr:02x}{behind}", chip.refdes, part.name)
        }
        ChipKind::Hwmon(hwmon) => format!("{} hwmon {} {:?}", chip.refdes, hwmon.driver, hwmon.device),
    };
    board.chips().map(|(_, on)| chip(on)).collect()
}

const INA226: [(u8, u16); 2] = [(0xfe, 0x5449), (0xff, 0x2260)];

#[test]
fn every_outcome_gives_a_good_file_that_says_what_is_unsure() {
    let air = Bench::default()
        .constant(0x20, 0xff)
        .constant(0x36, 0)
        .words(0x40, &INA226)
        .constant(0x45, 0xff)
        .fails(0x4e, bus::Error::Os(5))
        .constant(0x50, 0)
        .constant(0x5f, 0xff)
        .mux(0x70, 8, 0);
    let main = Bench::default().words(0x40, &INA226);
    let (machine, survey) = Machine::simulated(&[("air", &air), ("main", &main)]);
    let (text, missed) = machine.probe(&survey, false);
    assert_eq!(missed, Vec::<String>::new());
    assert_eq!(chips(&text), ["INA226_40 ina226 40", "INA226_40_2 ina226 40"]);
    for expected in [
        "# Nothing was written to any chip.",
        "revision = \"draft\"",
        "[bus.air]\nsocket = \"air\"\n",
        "# 0x20 gives the same byte over and over: may be a port expander",
        "# 0x36 answers: memory modules have their write protection there.",
        "# Sure, by its id registers.\n[chip.INA226_40]\n",
        "shunt_microohms = 1_000       # a guess",
        "# 0x45 answers, and is no part that the agent can tell. It could be ltc4282",
        "#[chip.LTC4282_45]\n#part = \"ltc4282\"\n#bus = \"air\"\n#addr = 0x45\n",
        "# 0x4e fails when it is asked: Input/output error",
        "# 0x50 answers: a memory",
        "# 0x5f answers, and is no PMBus part that the agent can tell: may be a common-slot supply; not asked",
        "# 0x70 answers: may be a multiplexer. Not switched",
        "#[mux.MUX_70]\n#part = \"pca9548\"\n",
        "[rail.ina226_40_2]\nchip = \"INA226_40_2\"\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn a_bus_without_anything_gives_a_file_too() {
    let (machine, survey) = Machine::simulated(&[("air", &Bench::default())]);
    let (text, _) = machine.probe(&survey, false);
    assert!(text.contains("# Nothing answered.") && chips(&text).is_empty(), "{text}");
}

#[test]
fn a_bus_that_hangs_is_told_and_the_others_are_looked_at() {
    let stuck = (0x10..=0x77).fold(Bench::default(), |bench, addr| bench.fails(addr, bus::Error::TimedOut));
    let (machine, survey) = Machine::simulated(&[("a", &stuck), ("b", &Bench::default().words(0x40, &INA226))]);
    let (text, missed) = machine.probe(&survey, false);
    assert_eq!(chips(&text), ["INA226_40 ina226 40"]);
    assert_eq!(missed.len(), 1);
    assert!(missed.iter().all(|text| text.starts_with("simulated bus a: it times out again and again")), "{missed:?}");
    assert!(text.contains("# Given up at 0x71: it times out again and again"), "{text}");
}

#[test]
fn multiplexers_are_switched_on_demand_and_closed_again() {
    let behind = Bench::default().words(0x41, &INA226).words(0x40, &INA226).switching();
    let bench = || {
        let bench = Bench::default().words(0x40, &INA226).mux(0x71, 8, 0x20).mux(0x72, 4, 0).constant(0x74, 0xff);
        bench.behind(0x71, 5, behind.clone()).behind(0x72, 0, Bench::default().words(0x42, &INA226).switching())
    };
    // Not on demand: nothing is written, and the open channel is heard on the bus.
    let closed = bench();
    let (machine, survey) = Machine::simulated(&[("a", &closed)]);
    let (text, _) = machine.probe(&survey, false);
    assert_eq!(chips(&text), ["INA226_40 ina226 40", "INA226_41 ina226 41"]);
    assert_eq!(closed.control(0x71), Some(0x20));
    // On demand: each chip where it is, though the one at 0x40 hides the other.
    let switched = bench().switching();
    let (machine, survey) = Machine::simulated(&[("a", &switched)]);
    let (text, missed) = machine.probe(&survey, true);
    assert_eq!(missed, Vec::<String>::new());
    assert_eq!(chips(&text), ["INA226_40 ina226 40", "INA226_41 ina226 41 71.5", "INA226_42 ina226 42 72.0"]);
    assert_eq!((switched.control(0x71), switched.control(0x72)), (Some(0), Some(0)));
    for expected in
        ["[mux.PCA9548_71]", "[mux.PCA9546_72]", "# 0x74 answers: may be a multiplexer.", "but to multiplexers"]
    {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn a_bus_that_hangs_is_not_looked_behind() {
    let stuck = (0x10..=0x77).fold(Bench::default().switching(), |bench, addr| match addr {
        0x70 => bench.mux(addr, 8, 0),
        _ => bench.fails(addr, bus::Error::TimedOut),
    });
    let (machine, survey) = Machine::simulated(&[("a", &stuck)]);
    let (_, missed) = machine.probe(&survey, true);
    assert_eq!(missed.len(), 1, "{missed:?}");
    let time_outs = stuck.log().iter().filter(|(addr, ..)| *addr != 0x70).count();
    assert_eq!(time_outs, 3, "one while looking for multiplexers, two in a row");
}

/// A copy of /sys as the kernel has it: a multiplexer with a driver, chips with and without one of ours.
fn kernel_machine(root: &Path) -> (Machine, Survey) {
    use std::fs;
    use std::os::unix::fs::symlink;

    const SMBUS: &str = "devices/pci0000:00/0000:00:1f.4/i2c-4";
    let _ = fs::remove_dir_all(root);
    for (number, name, path) in [
        (4, "SMBus I801 adapter at efa0", SMBUS.to_owned()),
        (8, "i2c-4-mux (chan_id 0)", format!("{SMBUS}/4-0070/i2c-8")),
        (9, "i2c-4-mux (chan_id 3)", format!("{SMBUS}/4-0070/i2c-9")),
    ] {
        let class = root.join(format!("class/i2c-dev/i2c-{number}"));
        fs::create_dir_all(root.join(&path)).unwrap();
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("name"), name).unwrap();
        symlink(root.join(&path), class.join("device")).unwrap();
    }
    let device = |name: &str, above: &str, chip: &str, driver: &str| {
        let directory = root.join(above).join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(root.join("bus/i2c/devices")).unwrap();
        fs::write(directory.join("name"), format!("{chip}\n")).unwrap();
        symlink(format!("../drivers/{driver}"), directory.join("driver")).unwrap();
        symlink(&directory, root.join("bus/i2c/devices").join(name)).unwrap();
        directory
    };
    let mux = device("4-0070", SMBUS, "pca9548", "pca954x");
    symlink("../i2c-8", mux.join("channel-0")).unwrap();
    symlink("../i2c-9", mux.join("channel-3")).unwrap();
    device("4-0048", SMBUS, "tmp75", "lm75");
    device("4-0050", SMBUS, "ee1004", "ee1004");
    let hwmon = device("4-0018", SMBUS, "jc42", "jc42").join("hwmon/hwmon2");
    fs::create_dir_all(&hwmon).unwrap();
    symlink("../../../4-0018", hwmon.join("device")).unwrap();
    for (file, text) in [("name", "jc42\n"), ("temp1_input", "30000\n"), ("temp1_crit", "95000\n")] {
        fs::write(hwmon.join(file), text).unwrap();
    }
    let host = Host { sysfs: root.to_owned(), ..Host::default() };
    let survey = survey::adapters(&host, &[]).unwrap();
    let on_all = |bench: Bench| bench.words(0x40, &INA226);
    let benches = [
        ("/dev/i2c-4", on_all(Bench::default().owned(0x18).owned(0x48).owned(0x50).owned(0x70).constant(0x69, 0))),
        ("/dev/i2c-8", on_all(Bench::default().words(0x41, &INA226).mux(0x71, 8, 0))),
        ("/dev/i2c-9", on_all(Bench::default().words(0x41, &INA226))),
    ];
    let benches = benches.into_iter().map(|(path, bench)| (path.to_owned(), bench)).collect();
    (Machine { host, benches }, survey)
}

#[test]
fn what_the_kernel_has_is_left_to_it() {
    let root = std::env::temp_dir().join(format!("rigd-probe-kernel-{}", std::process::id()));
    let (machine, survey) = kernel_machine(&root);
    let (text, missed) = machine.probe(&survey, true);
    assert_eq!(missed, Vec::<String>::new());
    assert_eq!(
        chips(&text),
        [
            "INA226_40 ina226 40",
            "INA226_41 ina226 41 70.0",
            "INA226_41_2 ina226 41 70.3",
            "TMP75_48 tmp75 48",
            "JC42_18 hwmon jc42 Some(\"4-0018\")",
        ],
        "{text}"
    );
    for expected in [
        "[bus.smbus]\nadapter = \"pci:0000:00:1f.4\"\n",
        "# The kernel's driver switches it.\n[mux.PCA9548_70]\npart = \"pca9548\"\nbus = \"smbus\"\naddr = 0x70\n",
        "# The kernel's driver lm75 (tmp75) has it: the agent reads it through that.\n[chip.TMP75_48]\n",
        "# The kernel's driver jc42 (jc42) has the address 0x18.\n[hwmon.JC42_18]\ndriver = \"jc42\"\n",
        "[sensor.jc42_18_1]\nchip = \"JC42_18\"\nchannel = 1\n",
        "# 0x50: The kernel's driver ee1004 (ee1004) has it, and measures nothing there.",
        "# 0x71 answers: may be a multiplexer; board files know none behind another one's channel.",
        "# 0x69 was not asked: main boards have their clock generator there",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    std::fs::remove_dir_all(&root).unwrap();
}

/// Whatever chips say, the rules are kept (the bench sees to that) and the file is good.
#[test]
fn noise_at_every_address_gives_a_good_file() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..40 {
        let bench = (0x08..=0x7f_u8).fold(Bench::default(), |bench, addr| {
            let seed = random();
            match seed % 4 {
                0 => bench,
                1 => bench.constant(addr, u8::try_from(seed >> 8 & 0xff).unwrap()),
                // Registers with mostly zeros, as shapes like them.
                _ => bench.chip(addr, move |pointer, length| {
                    let word = seed.rotate_left(u32::from(pointer)) & seed.rotate_right(7) & 0xfff0;
                    let [.., high, low] = word.to_be_bytes();
                    Ok([high, low].into_iter().cycle().skip(usize::from(pointer & 1)).take(length).collect())
                }),
            }
        });
        let bench = if round % 2 == 0 { bench } else { bench.smbus_only() };
        let (machine, survey) = Machine::simulated(&[("noise", &bench)]);
        machine.probe(&survey, false);
    }
}

#[test]
fn only_what_is_left_alone_can_be_asked() {
    assert_eq!((address("0x20"), address("0x69")), (Ok(0x20), Ok(0x69)));
    for text in ["32", "0x50", "0x30", "0x70", "0x100", "0x48"] {
        assert!(address(text).is_err(), "{text}");
    }
}
