use super::*;
use crate::config::Config;

#[test]
fn urls() {
    for (url, expected) in [
        ("mqtt://broker", Some(("broker", 1883, false))),
        ("mqtts://broker", Some(("broker", 8883, true))),
        ("mqtts://broker:8884", Some(("broker", 8884, true))),
        ("mqtt://10.0.0.1:2883", Some(("10.0.0.1", 2883, false))),
        ("mqtt://[::1]:1884", Some(("[::1]", 1884, false))),
        ("mqtt://[::1]", Some(("[::1]", 1883, false))),
        ("mqtts://[fd00::1]", Some(("[fd00::1]", 8883, true))),
        ("mqtt://[::1]x", None),
        ("mqtt://", None),
        ("mqtt://a:0", None),
        ("mqtt://a:b", None),
        ("mqtt://user@a", None),
        ("ws://a", None),
        ("broker:1883", None),
    ] {
        let found = Address::parse(url).ok();
        let found = found.as_ref().map(|address| (address.host.as_str(), address.port, address.tls));
        assert_eq!(found, expected, "{url}");
    }
}

fn broker(lines: &str) -> Result<Broker, String> {
    let text = format!("board = \"a\"\n[broker]\n{lines}");
    Config::parse("rigd.toml", &text, "host-1").map(|config| config.broker).map_err(|problems| problems.to_string())
}

#[test]
fn what_is_not_encrypted_stays_on_this_machine_unless_it_is_allowed_to_leave() {
    for url in ["mqtt://127.0.0.1", "mqtt://127.8.9.1:1884", "mqtt://localhost", "mqtt://[::1]"] {
        assert!(broker(&format!("url = \"{url}\"")).is_ok(), "{url}");
    }
    for url in
        ["mqtt://broker", "mqtt://10.0.0.1", "mqtt://localhost.example", "mqtt://[fd00::1]", "mqtt://127.0.0.1.nip.io"]
    {
        let error = broker(&format!("url = \"{url}\"")).unwrap_err();
        let expected =
            format!("rigd.toml:3: broker.url: {url}:1883 is not encrypted and leaves this machine: use mqtts://");
        assert!(error.starts_with(&expected), "{error}");
        assert!(broker(&format!("url = \"{url}\"\nplain_text = true")).is_ok(), "{url}");
    }
    let error = broker("url = [\"mqtt://localhost\", \"mqtt://b\"]").unwrap_err();
    assert!(error.contains("mqtt://b:1883 is not encrypted"), "{error}");
}

#[test]
fn several_are_kept_in_their_order() {
    let several = broker("url = [\"mqtts://a\", \"mqtts://b:1\"]\nca_file = \"ca\"").unwrap();
    let shown: Vec<_> = several.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["mqtts://a:8883", "mqtts://b:1"]);
    for list in
        ["[]", "[1]", "[\"mqtt://127.0.0.1\", \"x\"]", &format!("[{}]", "\"mqtt://127.0.0.1\", ".repeat(MOST + 1))]
    {
        assert!(broker(&format!("url = {list}")).unwrap_err().contains("broker.url: must be "), "{list}");
    }
}

#[test]
fn files_for_tls_fit_together() {
    let good =
        broker("url = \"mqtts://a\"\nca_file = \"/ca\"\ncert_file = \"/c\"\nkey_file = \"/k\"\nserver_name = \"b\"")
            .unwrap();
    let identity = Some(("/c".into(), "/k".into()));
    assert_eq!(good.tls, Some(TlsFiles { ca: "/ca".into(), identity, server_name: Some("b".to_owned()) }));
    assert!(broker("url = \"mqtts://a\"\nca_file = \"/ca\"").unwrap().tls.unwrap().identity.is_none());
    for (lines, expected) in [
        ("url = \"mqtts://a\"", "rigd.toml:2: broker.ca_file: is missing: mqtts:// needs"),
        (
            "url = \"mqtts://a\"\nca_file = \"x\"\ncert_file = \"x\"",
            "rigd.toml:5: broker.cert_file: needs a key_file too",
        ),
        (
            "url = \"mqtts://a\"\nca_file = \"x\"\nkey_file = \"x\"",
            "rigd.toml:5: broker.key_file: needs a cert_file too",
        ),
        ("ca_file = \"x\"", "rigd.toml:3: broker.ca_file: is of no use without mqtts://"),
        ("server_name = \"x\"", "rigd.toml:3: broker.server_name: is of no use without mqtts://"),
        ("url = \"mqtts://a b\"\nca_file = \"x\"", "rigd.toml:3: broker.url: `a b` cannot be in a certificate"),
        (
            "url = \"mqtts://a\"\nca_file = \"x\"\nserver_name = \"a b\"",
            "rigd.toml:5: broker.server_name: `a b` cannot be",
        ),
        ("plain_text = 1", "rigd.toml:3: broker.plain_text: must be `true` or `false`"),
    ] {
        let error = broker(lines).unwrap_err();
        assert!(error.starts_with(expected), "{lines:?} gave {error:?}");
    }
}
