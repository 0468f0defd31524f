use super::*;

fn meter(text: &str) -> Meter {
    Meter::parse("m.toml", text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn answer(text: &str) -> Answer {
    Answer { bytes: text.as_bytes().to_vec(), whole: true }
}

const JSON: &str = "name = \"m\"\nunit = \"H/s\"\ntransport = \"http\"\nformat = \"json\"\npath = \"/\"\n";
const COUNTER: &str = "name = \"m\"\nunit = \"tokens/s\"\ntransport = \"http\"\nformat = \"prometheus\"\npath = \"/metrics\"\n[rate]\nat = [\"done\"]\ncounter = true\n[values]\nuptime = [\"up\"]\n";

#[test]
fn a_mistake_in_a_meter_file_is_told_with_its_line_and_key() {
    let text = "name = \"m\"\nunit = \"MH/s\"\ntransport = \"tcp\"\nformat = \"json\"\nport = 70000\npath = \"/x\"\nrequest = \"a\\nb\"\nfoo = 1\n[guard]\nat = \"x\"\n[rate]\nat = [\"/a\", \"/b\", \"c\"]\nunits = [\"MH/s\", \"W\"]\n[values]\naccepted = \"/a\"\n";
    let problems = Meter::parse("m.toml", text).unwrap_err().to_string();
    for expected in [
        "m.toml:2: unit: must be one of H/s, tokens/s, requests/s, jobs/s",
        "m.toml:5: port: 70000 is out of range",
        "m.toml:6: path: does not go with this transport, which wants `request`",
        "m.toml:7: request: must be one line",
        "m.toml:8: foo: unknown key",
        "m.toml:9: guard.starts: must name at least one beginning",
        "m.toml:10: guard.at: `x` is no place: a JSON pointer begins with `/`",
        "m.toml:12: rate.at: `c` is no place: a JSON pointer begins with `/`",
        "m.toml:13: rate.units: `W` is no unit that comes down to jobs/s",
        "m.toml:15: values.accepted: must be a list, not a string",
    ] {
        assert!(problems.lines().any(|line| line.starts_with(expected)), "{expected}\n--\n{problems}");
    }
    for (more, expected) in [
        ("path = \"/a b\"", "path: must begin with `/`"),
        ("path = \"http://elsewhere/\"", "path: must begin with `/`"),
        ("path = \"/\"\n[rate]\nat = []", "rate.at: must name at least one place"),
        (
            "path = \"/\"\n[rate]\nat = [\"/a\", \"/b\", \"/c\"]\nunits = [\"H/s\", \"kH/s\"]",
            "rate.units: must be one for all",
        ),
        ("", "path: is missing"),
        ("path = \"/\"\n[pause]\npause = \"GET /p\"\nat = \"/a\"\nstarts = [\"x\"]", "pause.resume: is missing"),
        ("path = \"/\"\n[pause]\npause = \"PUT /p {}\"", "pause.pause: must be `GET /PATH` or `POST /PATH BODY`"),
        ("path = \"/\"\n[pause]\npause = \"POST /p\"", "pause.pause: must be `GET /PATH` or `POST /PATH BODY`"),
        ("path = \"/\"\n[pause]\npause = \"GET /p x\"", "pause.pause: must be `GET /PATH` or `POST /PATH BODY`"),
        ("path = \"/\"\n[pause]\npause = \"GET p\"", "pause.pause: must be `GET /PATH` or `POST /PATH BODY`"),
        ("path = \"/\"\n[pause]\npause = \"POST /p a\\nb\"", "pause.pause: must be `GET /PATH` or `POST /PATH BODY`"),
    ] {
        let text = format!("{}{more}\n", JSON.replace("path = \"/\"\n", ""));
        let problems = Meter::parse("m.toml", &text).unwrap_err().to_string();
        assert!(problems.contains(expected), "{expected}\n--\n{problems}");
    }
    assert!(Meter::load("no-such").unwrap_err().to_string().contains("there are bzminer, ccminer"));
}

#[test]
fn a_program_is_told_to_rest_as_its_file_says() {
    let read = |text: &str| meter(&format!("{JSON}{text}")).pause.unwrap();
    let pausing = read(
        "[pause]\npause = \"GET /control?pause=true\"\nresume = 'POST /x {\"a\": 1}'\nat = \"/ok\"\nstarts = [\"1\"]\n",
    );
    let call = |path: &str, body: Option<&str>| Call { path: path.to_owned(), body: body.map(str::to_owned) };
    assert_eq!(pausing.pause, call("/control?pause=true", None));
    assert_eq!(pausing.resume, call("/x", Some("{\"a\": 1}")));
    assert_eq!(pausing.done.starts, ["1"]);
    let able: Vec<_> =
        BUILTIN.iter().filter(|(name, _)| Meter::load(name).unwrap().pause.is_some()).map(|(name, _)| *name).collect();
    assert_eq!(able, ["xmrig"]);
}

#[test]
fn a_rate_comes_down_to_its_unit_or_is_none() {
    let told = "[rate]\nat = [\"/r\"]\nunit_at = [\"/u\"]\n";
    let factor = "[rate]\nat = [\"/r\"]\nfactor_at = [\"/f\"]\n";
    let several = "[rate]\nat = [\"/ghs\", \"/mhs\", \"/khs\"]\nunits = [\"GH/s\", \"MH/s\", \"kH/s\"]\n";
    let ok = |milli| Ok(MilliPerSecond(milli));
    for (rate, text, expected) in [
        (told, r#"{"r": 24.5, "u": "Mh/s"}"#, ok(24_500_000_000)),
        (told, r#"{"r": 24.5, "u": "sol/s"}"#, ok(24_500)),
        (told, r#"{"r": 24.5, "u": "g/s"}"#, ok(24_500)),
        (told, r#"{"r": 24.5, "u": "kg/s"}"#, ok(24_500_000)),
        (told, r#"{"r": 24.5, "u": "GH/s"}"#, ok(24_500_000_000_000)),
        (told, r#"{"r": 24.5, "u": "furlongs"}"#, Err(Missing::Implausible)),
        (told, r#"{"r": 24.5}"#, Err(Missing::NotPresent)),
        (factor, r#"{"r": 5.65, "f": 1000000}"#, ok(5_650_000_000)),
        (factor, r#"{"r": 5.65}"#, Err(Missing::NotPresent)),
        (factor, r#"{"r": 5.65, "f": "x"}"#, Err(Missing::Implausible)),
        (several, r#"{"ghs": "28982.24", "khs": 1}"#, ok(28_982_240_000_000_000)),
        (several, r#"{"ghs": null, "khs": 1.5}"#, ok(1_500_000)),
        (several, r#"{"mhs": 0}"#, ok(0)),
        (several, r#"{"mhs": -1}"#, Err(Missing::Implausible)),
        (several, r#"{"mhs": 1e300}"#, Err(Missing::Implausible)),
        (several, r#"{"mhs": nan}"#, Err(Missing::Implausible)),
        (several, r#"{"mhs": "inf"}"#, Err(Missing::Implausible)),
        (several, r#"{"mhs": "fast"}"#, Err(Missing::Implausible)),
        (several, r#"{"mhs": 1"#, Err(Missing::Bus)),
        (several, "{}", Err(Missing::NotPresent)),
        (several, "total nonsense", Err(Missing::Bus)),
    ] {
        let sample = read(&meter(&format!("{JSON}{rate}")), &answer(text), None, Duration::ZERO);
        assert_eq!(sample.rate, expected, "{text}");
    }
}

#[test]
fn an_old_form_is_read_beside_the_new_one() {
    // Lolliedieb/lolMiner-releases, issue 74: one rate for all, and its unit by name.
    let text = r#"{"Software": "lolMiner 1.12", "Session": {"Uptime": 5, "Performance_Summary": 31.5, "Performance_Unit": "mh/s", "Accepted": 7}}"#;
    let sample = read(&Meter::load("lolminer").unwrap(), &answer(text), None, Duration::ZERO);
    assert_eq!((sample.rate, sample.accepted), (Ok(MilliPerSecond(31_500_000_000)), Ok(7)));
}

#[test]
fn a_counter_becomes_a_rate_and_a_restart_none() {
    let meter = meter(COUNTER);
    let mut counters = None;
    for (step, text, elapsed_ms, rate, work) in [
        ("first", "done 1000\nup 50\n", 0, Err(Missing::NotPresent), Ok(1_000)),
        ("grown", "done{a=\"1\"} 1000\ndone{a=\"2\"} 500\nup 60\n", 10_000, Ok(50_000), Ok(1_500)),
        ("stands", "done 1500\nup 70\n", 10_000, Ok(0), Ok(1_500)),
        ("too soon", "done 1501\nup 70\n", 1, Err(Missing::NotPresent), Ok(1_501)),
        ("then all of it", "done 1520\nup 80\n", 9_999, Ok(2_000), Ok(1_520)),
        ("gone for once", "up 90\n", 10_000, Err(Missing::NotPresent), Err(Missing::NotPresent)),
        ("broken off", "do", 10_000, Err(Missing::Bus), Err(Missing::Bus)),
        ("over all that time", "done 1550\nup 110\n", 10_000, Ok(1_000), Ok(1_550)),
        ("started again", "done 5\nup 4\n", 10_000, Err(Missing::NotPresent), Ok(5)),
        ("grown again", "done 25\nup 14\n", 10_000, Ok(2_000), Ok(25)),
        ("started again and faster", "done 90\nup 1\n", 10_000, Err(Missing::NotPresent), Ok(90)),
        ("absurd", "done -7\nup 5\n", 10_000, Err(Missing::Implausible), Err(Missing::Implausible)),
        ("and well again", "done 130\nup 25\n", 10_000, Ok(2_000), Ok(130)),
        ("not a number", "done NaN\nup 15\n", 10_000, Err(Missing::Implausible), Err(Missing::Implausible)),
    ] {
        let sample = read(&meter, &answer(text), counters.as_ref(), Duration::from_millis(elapsed_ms));
        assert_eq!((sample.rate, sample.work), (rate.map(MilliPerSecond), work), "{step}");
        counters = Some(sample.counters);
    }
}

#[test]
fn a_payload_that_was_not_asked_keeps_its_counters() {
    let meter = meter(COUNTER);
    let first = read(&meter, &answer("done 100\n"), None, Duration::ZERO);
    let away = Sample::missing(Missing::Bus, Some(&first.counters), Duration::from_secs(5));
    assert_eq!(away.rate, Err(Missing::Bus));
    let back = read(&meter, &answer("done 200\n"), Some(&away.counters), Duration::from_secs(5));
    assert_eq!(back.rate, Ok(MilliPerSecond(10_000)));
}

#[test]
fn another_program_at_the_port_is_not_this_payload() {
    let meter =
        meter(&format!("{JSON}[guard]\nat = \"/name\"\nstarts = [\"t-rex\", \"rex\"]\n[rate]\nat = [\"/hashrate\"]\n"));
    for (text, expected) in [
        (r#"{"name": "t-rex 1", "hashrate": 5}"#, Ok(MilliPerSecond(5_000))),
        (r#"{"name": "other", "hashrate": 5}"#, Err(Missing::NotPresent)),
        (r#"{"hashrate": 5}"#, Err(Missing::NotPresent)),
        (r#"{"hashrate": 5, "na"#, Err(Missing::Bus)),
    ] {
        assert_eq!(read(&meter, &answer(text), None, Duration::ZERO).rate, expected, "{text}");
    }
}

#[test]
fn a_version_is_a_short_line() {
    let meter = meter(&format!("{JSON}[values]\nversion = [\"/v\"]\n"));
    for (text, expected) in [
        (r#"{"v": "6.20.0"}"#, Ok("6.20.0")),
        (r#"{"v": 2}"#, Ok("2")),
        (r#"{"v": ""}"#, Err(Missing::Implausible)),
        (r#"{"v": "a\u001b[31m"}"#, Err(Missing::Implausible)),
        (&format!("{{\"v\": \"{}\"}}", "x".repeat(65)), Err(Missing::Implausible)),
    ] {
        let version = read(&meter, &answer(text), None, Duration::ZERO).version;
        assert_eq!(version, expected.map(str::to_owned), "{text}");
    }
}

#[test]
fn the_example_in_the_module_s_words_is_a_meter() {
    let module = include_str!("../meter.rs");
    let example = module.split("//! ```toml\n").nth(1).and_then(|rest| rest.split("//! ```\n").next()).unwrap();
    let text: String =
        example.lines().map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n").collect();
    assert_eq!(meter(&text).name, "xmrig");
}
