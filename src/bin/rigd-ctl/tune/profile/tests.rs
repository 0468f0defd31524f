use super::*;
use crate::scratch::Scratch;

const TEXT: &str = "# mine\nboard = \"a\" # the board\n\n[gpu]\nprofile = \"day\"\n\n\
    [profile.day]   # with the sun\nmemory_offset_mhz = 1000 # fast\npower_limit_pct = 80\ncore_lock_mhz = [ 900, 1800 ]\n\n\
    # the night\n[profile.night]\nfan_pct = 40\n# quiet\npower_limit_w = 0x78 # W\n\n[control]\ntick_hz = 2";

const TUNED: Tuned = Tuned { watts: 220, core: Some(1_410), memory: None };

fn edited(name: &str, base: Option<&str>, tuned: Tuned) -> String {
    let after = edit(TEXT, name, base, tuned).unwrap();
    let parse = |text: &str| Config::parse("f", text, "rig").unwrap();
    assert!(is_only(name, base, tuned, &parse(TEXT), &parse(&after)), "{after}");
    after
}

#[test]
fn a_new_profile_comes_at_the_end_with_all_else_of_the_one_it_was_found_with() {
    let plain = "\n\n[profile.best]\npower_limit_w = 220\ncore_lock_mhz = [210, 1410]\n";
    let with_day = "\n\n[profile.best]\nmemory_offset_mhz = 1000\npower_limit_w = 220\ncore_lock_mhz = [900, 1410]\n";
    let with_lock =
        "\n\n[profile.best]\ncore_lock_mhz = [ 900, 1800 ]\nmemory_offset_mhz = 1000\npower_limit_w = 220\n";
    let odd = "\n\n[profile.\"a \\\"b\\\"\"]\npower_limit_w = 220\ncore_lock_mhz = [210, 1410]\n";
    for (name, base, tuned, expected) in [
        ("best", None, TUNED, plain),
        ("best", Some("day"), TUNED, with_day),
        ("best", Some("day"), Tuned { core: None, ..TUNED }, with_lock),
        ("a \"b\"", None, TUNED, odd),
    ] {
        assert_eq!(edited(name, base, tuned), format!("{TEXT}{expected}"), "{name} {base:?}");
    }
    let slow = edited("best", Some("day"), Tuned { core: Some(600), ..TUNED });
    assert!(slow.ends_with("core_lock_mhz = [600, 600]\n"), "{slow}");
    let memory = edited("best", Some("day"), Tuned { memory: Some(5_001), ..TUNED });
    assert!(memory.ends_with("core_lock_mhz = [900, 1410]\nmemory_lock_mhz = 5001\n"), "{memory}");
}

#[test]
fn an_old_profile_gets_its_new_values_where_they_were_and_nothing_else_is_touched() {
    for (name, base, from, to) in [
        (
            "night",
            None,
            "fan_pct = 40\n# quiet\npower_limit_w = 0x78 # W\n",
            "# quiet\npower_limit_w = 220 # W\ncore_lock_mhz = [210, 1410]\n",
        ),
        (
            "night",
            Some("night"),
            "# quiet\npower_limit_w = 0x78 # W\n",
            "# quiet\npower_limit_w = 220 # W\ncore_lock_mhz = [210, 1410]\n",
        ),
        (
            "day",
            Some("day"),
            "power_limit_pct = 80\ncore_lock_mhz = [ 900, 1800 ]\n",
            "core_lock_mhz = [900, 1410]\npower_limit_w = 220\n",
        ),
    ] {
        assert!(TEXT.contains(from));
        assert_eq!(edited(name, base, TUNED), TEXT.replace(from, to), "{name} {base:?}");
    }
    let last = "board = \"a\"\n[profile.x]";
    assert_eq!(
        edit(last, "x", None, TUNED).unwrap(),
        format!("{last}\npower_limit_w = 220\ncore_lock_mhz = [210, 1410]\n")
    );
}

#[test]
fn a_memory_lock_is_replaced_where_it_was_tuned_and_else_kept() {
    let text = "board = \"a\"\n[profile.x]\nmemory_lock_mhz = [405, 9501] # mine\n";
    let parse = |text: &str| Config::parse("f", text, "rig").unwrap();
    for (memory, expected) in
        [(Some(810), "memory_lock_mhz = 810 # mine\n"), (None, "memory_lock_mhz = [405, 9501] # mine\n")]
    {
        let tuned = Tuned { memory, core: None, ..TUNED };
        let after = edit(text, "x", Some("x"), tuned).unwrap();
        assert_eq!(after, format!("board = \"a\"\n[profile.x]\n{expected}power_limit_w = 220\n"));
        assert!(is_only("x", Some("x"), tuned, &parse(text), &parse(&after)));
    }
}

#[test]
fn what_cannot_be_written_well_is_refused_and_nothing_is_written() {
    let folder = Scratch::new("tune-refused");
    let path = folder.join("rigd.toml");
    let inline = "board = \"a\"\nprofile = { day = { fan_pct = 40 } }\n";
    let dotted = "board = \"a\"\nprofile.day.fan_pct = 40\n[control]\ntick_hz = 2\n";
    for (text, name, base, replace, expected) in [
        (TEXT, "day", None, false, "has a profile `day` already: --replace"),
        (TEXT, "none", None, false, "profile.none: cannot be a profile's name"),
        (TEXT, "best", Some("noon"), false, "there is no [profile.noon]"),
        (inline, "best", None, false, "the profile does not fit this file"),
        (inline, "day", None, true, "the profile does not fit this file"),
        (dotted, "day", None, true, "the profile does not fit this file"),
        ("board = 7", "best", None, false, "rigd.toml:1: board: must be a string"),
    ] {
        fs::write(&path, text).unwrap();
        let base = base.map(str::to_owned);
        let target = Target { path: path.clone(), name: name.to_owned(), base, replace };
        let error = format!("{:#}", target.check(TUNED).unwrap_err());
        assert!(error.contains(expected), "{name}: {error}");
        assert!(target.write(TUNED).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read_dir(&*folder).unwrap().count(), 1);
    }
}

#[test]
fn the_old_text_is_kept_and_the_file_keeps_its_mode_and_its_link() {
    let folder = Scratch::new("tune-written");
    let (path, link) = (folder.join("real.toml"), folder.join("rigd.toml"));
    fs::write(&path, TEXT).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let target = Target { path: link.clone(), name: "best".to_owned(), base: None, replace: false };
    target.check(TUNED).unwrap();
    let old = target.write(TUNED).unwrap();
    assert_eq!(fs::read_to_string(&old).unwrap(), TEXT);
    assert_eq!(fs::read_to_string(&link).unwrap(), edited("best", None, TUNED));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    let mut names: Vec<_> = fs::read_dir(&*folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["real.toml", "real.toml.old", "rigd.toml"], "nothing is left over");
    let somebody = put(&path, TEXT, "x").unwrap_err();
    assert!(format!("{somebody:#}").contains("somebody else has changed it"), "{somebody:#}");
}
