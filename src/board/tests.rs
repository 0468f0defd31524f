use super::*;
use crate::chip::PARTS;

/// A board that is right, to break.
const GOOD: &str = r#"name = "t"
revision = "a"
[bus.a]
adapter = "i2c-gpio0"
[chip.U1]
part = "ina226"
bus = "a"
addr = 0x40
shunt_microohms = 500
[chip.U2]
part = "max31790"
bus = "a"
addr = 0x20
[chip.U3]
part = "tmp75"
bus = "a"
addr = 0x48
[chip.PS1]
part = "pmbus"
bus = "a"
addr = 0x58
[hwmon.cpu]
driver = "k10temp"
[rail.gpu0]
chip = "U1"
min_mv = 11_400
max_mv = 12_600
[supply.psu]
chip = "PS1"
input = "in"
output = "out"
[sensor.air]
chip = "U3"
[sensor.cpu]
chip = "cpu"
channel = 1
[fan.front]
chip = "U2"
channel = 3
pulses = 4
min_rpm = 500
max_rpm = 5_000
[zone.z]
sensors = ["air", "cpu"]
fans = ["front"]
curve = [[30_000, 30], [60_000, 100]]
critical_mc = 70_000
"#;

fn problems(text: &str) -> String {
    Board::parse("b.toml", text).map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
}

/// `GOOD` with one line replaced; the line must be there.
fn with(line: &str, replacement: &str) -> String {
    assert!(GOOD.contains(line), "{line:?} is not in the good board");
    GOOD.replacen(line, replacement, 1)
}

#[test]
fn names_become_indices() {
    let board = Board::parse("b.toml", GOOD).unwrap();
    assert_eq!(board.buses.iter().map(|bus| bus.name.as_str()).collect::<Vec<_>>(), ["a", "hwmon"]);
    let refdes: Vec<_> = board.chips().map(|(_, chip)| chip.refdes.as_str()).collect();
    assert_eq!(refdes, ["PS1", "U1", "U2", "U3", "cpu"]);
    assert_eq!(board.rails[0].at, Point { bus: 0, chip: 1, channel: 0 });
    assert_eq!((board.supplies[0].input.channel, board.supplies[0].output.channel), (0, 1));
    assert_eq!(board.sensors[1].at, Point { bus: 1, chip: 0, channel: 0 });
    assert_eq!((board.fans[0].at.channel, board.fans[0].zone), (2, Some(0)));
    let ChipKind::I2c { settings, .. } = &board.buses[0].chips[2].kind else { panic!("a chip of our own") };
    assert_eq!((settings.watchdog_s, settings.pulses.as_slice()), (10, &[2, 2, 4, 2, 2, 2][..]));
    assert!(!board.simulated());
}

#[test]
fn every_mistake_names_file_line_key_and_what_is_wrong() {
    let rows: &[(&str, &str, &str)] = &[
        ("unknown key", "revision = \"a\"\n", "b.toml:3: colour: unknown key; known here are name, revision"),
        ("addr = 0x40", "addr = \"0x40\"", "b.toml:8: chip.U1.addr: must be a whole number, not a string"),
        ("addr = 0x40", "addr = 0x1040", "b.toml:8: chip.U1.addr: 0x1040 is out of range"),
        (
            "part = \"ina226\"",
            "part = \"ina999\"",
            "b.toml:6: chip.U1.part: no driver for the part `ina999`; there are adm1272",
        ),
        ("addr = 0x40", "addr = 0x20", "b.toml:8: chip.U1.addr: ina226 can only be at 0x40 to 0x4f, not at 0x20"),
        ("addr = 0x58", "addr = 0x40", "b.toml:8: chip.U1.addr: 0x40 on bus `a` is already PS1"),
        ("shunt_microohms = 500\n", "", "b.toml:5: chip.U1.shunt_microohms: ina226 needs its shunt's resistance"),
        ("shunt_microohms = 500", "shunt_microohms = 0", "b.toml:9: chip.U1.shunt_microohms: must be above zero"),
        (
            "addr = 0x20",
            "addr = 0x20\nwatchdog_s = 7",
            "b.toml:14: chip.U2.watchdog_s: max31790 can only be set to [10, 5, 30]",
        ),
        ("addr = 0x48", "addr = 0x48\nwatchdog_s = 5", "b.toml:18: chip.U3.watchdog_s: tmp75 has no watchdog"),
        ("adapter = \"i2c-gpio0\"\n", "", "b.toml:3: bus.a: needs either `adapter` or `socket`"),
        ("[chip.U1]", "[bus.b]\nadapter = \"i2c-gpio0\"\n[chip.U1]", "b.toml:5: bus.b: is the same as bus `a`"),
        ("adapter = \"i2c-gpio0\"", "socket = \"../x\"", "b.toml:4: bus.a.socket: must be a plain file name"),
        ("chip = \"U1\"", "chip = \"U9\"", "b.toml:25: rail.gpu0.chip: there is no chip `U9`"),
        ("chip = \"U1\"", "chip = \"U3\"", "b.toml:25: rail.gpu0.chip: tmp75 measures no power"),
        (
            "chip = \"U1\"",
            "chip = \"PS1\"",
            "b.toml:25: rail.gpu0.chip: pmbus has several power channels, name one of in, out",
        ),
        ("min_mv = 11_400", "min_mv = 12_600", "b.toml:26: rail.gpu0.min_mv: must be below max_mv (12600)"),
        ("output = \"out\"", "output = \"in\"", "b.toml:31: supply.psu.output: input and output are one channel"),
        (
            "output = \"out\"",
            "output = \"out\"\nmax_input_mw = 0",
            "b.toml:32: supply.psu.max_input_mw: must be 1 to 100000000, not 0",
        ),
        (
            "output = \"out\"",
            "output = \"out\"\nmax_input_mw = 100_000_001",
            "b.toml:32: supply.psu.max_input_mw: must be 1 to 100000000, not 100000001",
        ),
        (
            "channel = 3",
            "channel = 7",
            "b.toml:39: fan.front.channel: max31790 has no fan channel `7`, only 1, 2, 3, 4, 5, 6",
        ),
        (
            "channel = 3",
            "channel = 1.5",
            "b.toml:39: fan.front.channel: must be a number or a name, not a number with a fraction",
        ),
        (
            "min_rpm = 500",
            "min_rpm = 5000",
            "b.toml:41: fan.front.min_rpm: must be above zero and below max_rpm (5000)",
        ),
        ("pulses = 4", "pulses = 0", "b.toml:40: fan.front.pulses: must be above zero"),
        ("sensors = [\"air\", \"cpu\"]", "sensors = []", "b.toml:44: zone.z.sensors: needs at least one sensor"),
        ("sensors = [\"air\", \"cpu\"]", "sensors = [\"ari\"]", "b.toml:44: zone.z.sensors: there is no sensor `ari`"),
        ("fans = [\"front\"]", "fans = [\"front\", \"front\"]", "b.toml:45: zone.z.fans: fan `front` is named twice"),
        ("[60_000, 100]", "[20_000, 100]", "b.toml:46: zone.z.curve: must rise: 20000 m°C at 100 % does not"),
        ("[60_000, 100]", "[60_000, 120]", "b.toml:46: zone.z.curve: 120 % is more than all"),
        ("critical_mc = 70_000", "critical_mc = 50_000", "b.toml:46: zone.z.curve: ends above critical_mc (50000)"),
        (
            "driver = \"k10temp\"",
            "driver = \"k10temp\"\n[chip.cpu]\npart = \"tmp75\"\nbus = \"a\"\naddr = 0x49",
            "b.toml:22: hwmon.cpu: there is a chip of this name too",
        ),
        (
            "part = \"tmp75\"\nbus = \"a\"",
            "part = \"tmp75\"\nbus = \"b\"",
            "b.toml:16: chip.U3.bus: there is no bus `b`",
        ),
        ("name = \"t\"", "name = \"\"", "b.toml:1: name: must not be empty"),
        ("name = \"t\"", "name = ", "b.toml:1: "),
    ];
    let mut wrong = Vec::new();
    for (line, replacement, expected) in rows {
        let text = if *line == "unknown key" {
            with(replacement, "revision = \"a\"\ncolour = \"red\"\n")
        } else {
            with(line, replacement)
        };
        let found = problems(&text);
        if !found.contains(expected) {
            wrong.push(format!("{line} → {replacement}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_fan_that_can_only_be_watched_cannot_be_in_a_zone() {
    let text = with("chip = \"U2\"\nchannel = 3", "chip = \"PS1\"\nchannel = 1");
    assert_eq!(problems(&text), "b.toml:45: zone.z.fans: the chip of fan `front` can only watch it, not drive it");
}

#[test]
fn fans_on_one_output_cannot_be_in_two_zones() {
    let fan = |n: u8| format!("[fan.f{n}]\nchip = \"U8\"\nchannel = {n}\nmin_rpm = 500\nmax_rpm = 5_000\n");
    let zone = |fans: &str| {
        format!(
            "[zone.z{}]\nsensors = [\"air\"]\ncurve = [[30_000, 30]]\ncritical_mc = 70_000\nfans = [{fans}]\n",
            fans.len()
        )
    };
    let board =
        format!("{GOOD}[chip.U8]\npart = \"adt7475\"\nbus = \"a\"\naddr = 0x2e\n{}{}{}", fan(2), fan(3), fan(4));
    assert_eq!(problems(&format!("{board}{}", zone("\"f2\", \"f3\", \"f4\""))), "");
    assert_eq!(
        problems(&format!("{board}{}{}", zone("\"f4\""), zone("\"f2\", \"f3\""))),
        "b.toml:71: zone.z4.fans: fan `f4` hangs on the output of fan `f3`, of another zone"
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = with("addr = 0x40", "addr = 0x10")
        .replace("pulses = 4", "pulses = 0")
        .replace("fans = [\"front\"]", "fans = [\"back\"]");
    assert_eq!(problems(&text).lines().count(), 3);
}

#[test]
fn the_kernels_attributes_can_be_named_one_by_one() {
    let text = with("chip = \"U1\"", "chip = \"cpu\"\nchannel = \"in3, curr2, power2\"");
    let board = Board::parse("b.toml", &text).unwrap();
    let ChipKind::Hwmon(hwmon) = &board.buses[1].chips[0].kind else { panic!("a kernel driver's") };
    assert_eq!(hwmon.power, [["in3", "curr2", "power2"].map(str::to_owned)]);
    assert_eq!(hwmon.temperature, ["temp1"]);
}

#[test]
fn every_built_in_board_is_right_and_uses_known_parts_only() {
    for (name, _) in BUILTIN {
        let board = Board::load(name).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(board.name, *name, "a board is called what its file is called");
        assert!(!board.description.is_empty(), "{name} has no description");
    }
    assert!(PARTS.iter().all(|part| Part::find(part.name) == Some(part)));
}

#[test]
fn every_file_in_the_boards_folder_is_right_and_a_rigs_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("boards");
    let mut files = Vec::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "toml") {
            let board = Board::load(path.to_str().unwrap()).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(Some(board.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            files.push(board.name);
        }
    }
    files.retain(|name| !name.starts_with("guest-"));
    files.sort();
    let mut built_in: Vec<_> = BUILTIN.iter().map(|(name, _)| (*name).to_owned()).collect();
    built_in.sort();
    assert_eq!(built_in, files);
}

#[test]
fn a_board_that_is_not_there_is_named_with_those_that_are() {
    let error = Board::load("octo").unwrap_err().to_string();
    assert!(error.starts_with("octo: no built-in board of this name; there are "), "{error}");
    assert!(error.contains("simulated-8gpu"), "{error}");
    let error = Board::load("./nowhere.toml").unwrap_err().to_string();
    assert!(error.starts_with("./nowhere.toml: could not read the board file: "), "{error}");
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A board file comes from a person: whatever is in it, there is an answer.
        #[test]
        fn no_board_file_makes_the_parser_panic(cut in 0..GOOD.len(), junk in "[ -~\\n]{0,12}", skip in 0..40usize) {
            let text: String = GOOD.chars().take(cut).chain(junk.chars()).chain(GOOD.chars().skip(cut + skip)).collect();
            let _ = Board::parse("b.toml", &text);
        }
    }
}

/// `GOOD` with a multiplexer and a chip behind it.
const BEHIND: &str = r#"
[mux.U40]
part = "pca9548"
bus = "a"
addr = 0x70
[chip.U41]
part = "tmp75"
mux = "U40"
channel = 2
addr = 0x49
"#;

#[test]
fn a_chip_behind_a_multiplexer_is_on_its_bus() {
    let board = Board::parse("b.toml", &format!("{GOOD}{BEHIND}")).unwrap();
    let chip = board.buses[0].chips.iter().find(|chip| chip.refdes == "U41").unwrap();
    let ChipKind::I2c { segment, .. } = chip.kind else { panic!("a chip of our own") };
    assert_eq!(segment, Some(Segment { mux: 0x70, channel: 2, alone: true }));
    // One address on two channels is two chips; on the bus itself it is heard on all of them.
    let twice = format!("{GOOD}{BEHIND}[chip.U42]\npart = \"tmp75\"\nmux = \"U40\"\nchannel = 3\naddr = 0x49\n");
    assert_eq!(problems(&twice), "");
    let both = format!("{GOOD}{BEHIND}[chip.U42]\npart = \"tmp75\"\nbus = \"a\"\naddr = 0x49\n");
    assert!(problems(&both).contains("0x49 on bus `a` is already U41"), "{}", problems(&both));
}

#[test]
fn mistakes_about_multiplexers_are_told() {
    for (line, replacement, expected) in [
        ("part = \"pca9548\"", "part = \"pca9\"", "mux.U40.part: no multiplexer `pca9`; there are pca9546,"),
        ("addr = 0x70", "addr = 0x20", "mux.U40.addr: must be 0x70 to 0x77, not 0x20"),
        ("channel = 2", "channel = 8", "chip.U41.channel: U40 has channels 0 to 7, not 8"),
        ("channel = 2\n", "", "chip.U41: needs the `channel` of U40 that it is on"),
        ("mux = \"U40\"", "mux = \"U4\"", "chip.U41.mux: there is no multiplexer `U4`"),
        ("mux = \"U40\"", "bus = \"a\"", "chip.U41.channel: is a multiplexer's, and no `mux` is named"),
        ("mux = \"U40\"\n", "", "chip.U41: needs either `bus`, or `mux` and `channel`"),
    ] {
        assert!(BEHIND.contains(line));
        let text = problems(&format!("{GOOD}{}", BEHIND.replacen(line, replacement, 1)));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_zone_may_hold_a_temperature_with_or_without_a_curve() {
    let hold = "target_mc = 50_000\nintegral_s = 60\npower = [\"gpu0\"]\nfeed_forward_pct_per_kw = 20\n";
    let curve = "curve = [[30_000, 30], [60_000, 100]]\n";
    let board = Board::parse("b.toml", &with(curve, hold)).unwrap();
    let expected = Hold {
        target: Millicelsius(50_000),
        gain: Duty::from_percent(4).unwrap(),
        integral: Duration::from_secs(60),
        power: vec![0],
        feed_forward: Duty::from_percent(20).unwrap(),
    };
    assert_eq!((board.zones[0].hold.as_ref(), board.zones[0].curve.len()), (Some(&expected), 0));
    for (line, replacement, expected) in [
        (curve, "", "zone.z.curve: needs at least one point, or the zone a target_mc"),
        (curve, "target_mc = 70_000\n", "zone.z.target_mc: must be below critical_mc (70000)"),
        (curve, "target_mc = 5\npower = [\"gpu0\"]\n", "zone.z.power: and feed_forward_pct_per_kw go together"),
        (curve, "target_mc = 5\npower = [\"x\"]\nfeed_forward_pct_per_kw = 1\n", "zone.z.power: there is no rail `x`"),
        (curve, "target_mc = 5\ngain_pct_per_k = 0\n", "zone.z.gain_pct_per_k: must be 1 to 100"),
        ("critical_mc = 70_000\n", "critical_mc = 70_000\nintegral_s = 5\n", "zone.z.integral_s: needs a target_mc"),
        (
            "critical_mc = 70_000\n",
            "critical_mc = 70_000\nspare_fans = 1\n",
            "zone.z.spare_fans: must leave one of the zone's 1 fans",
        ),
        ("[sensor.air]\n", "[sensor.air]\nmax_k_per_s = 0\n", "sensor.air.max_k_per_s: must be above zero"),
        ("max_rpm = 5_000\n", "max_rpm = 5_000\nmin_pct = 40\n", "fan.front.min_pct: must be at most start_pct (30)"),
        ("revision = \"a\"\n", "revision = \"a\"\nidentity = \"U1\"\n", "identity: U1 is no EEPROM"),
        ("revision = \"a\"\n", "revision = \"a\"\nidentity = \"U9\"\n", "identity: there is no chip `U9`"),
    ] {
        let text = problems(&with(line, replacement));
        assert!(text.contains(expected), "{text}");
    }
}

/// A fan whose speed another chip measures, one whose speed nobody measures, and the mistakes.
#[test]
fn a_drive_without_a_tachometer_needs_a_word_about_it() {
    let pwm = "[chip.U7]\npart = \"pca9685\"\nbus = \"a\"\naddr = 0x50\n[fan.x]\nchip = \"U7\"\nchannel = 1\n";
    let rpm = "min_rpm = 500\nmax_rpm = 5_000\n";
    let board = |more: &str| Board::parse("b.toml", &format!("{GOOD}{pwm}{more}"));
    let fan = |more: &str| board(more).unwrap().fans.into_iter().find(|fan| fan.name == "x").unwrap();
    let other = fan(&format!("{rpm}tach_chip = \"U2\"\ntach_channel = 5\npulses = 4\n"));
    assert_eq!(other.tachometer.map(|at| (at.chip, at.channel)), Some((2, 4)));
    assert_eq!(fan("tachometer = false\n").tachometer, None);
    for (more, expected) in [
        (rpm.to_owned(), "fan.x: its chip measures no speed"),
        (
            format!("{rpm}tach_chip = \"U2\"\ntach_channel = 3\n"),
            "fan.x.tach_channel: this tachometer is already that of fan `front`",
        ),
        (format!("{rpm}tach_chip = \"U1\"\n"), "fan.x.tach_chip: ina226 measures no fan"),
        ("tachometer = false\ntach_chip = \"U2\"\n".to_owned(), "fan.x.tachometer: is false, and a tach_chip is named"),
    ] {
        let text = board(&more).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

/// The page that teaches board files by example: its blocks, one after the other, are a board.
#[test]
fn what_the_page_teaches_is_a_good_board() {
    let page = include_str!("../../boards/README.md");
    let blocks: String = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let board = Board::parse("README.md", &blocks).unwrap_or_else(|problems| panic!("{problems}\n{blocks}"));
    assert_eq!((board.rails.len(), board.supplies.len(), board.sensors.len(), board.fans.len()), (1, 1, 1, 3));
    assert!(board.identity.is_some() && board.zones.iter().all(|zone| zone.hold.is_some() && zone.spare_fans == 1));
}
