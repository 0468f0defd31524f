//! A small site from nothing, by `rigd-ctl enroll` alone: authorities, the shipped broker's certificate, a rig that keeps its
//! key, a control plane that commands it over TLS, and an operator who may only look.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker_tls::shipped;

fn ctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What it says when it goes well.
fn enroll(arguments: &[&str]) -> String {
    let output = ctl(&[&["enroll"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn fingerprint(said: &str) -> String {
    said.lines().find_map(|line| line.strip_prefix("fingerprint")).unwrap().trim().to_owned()
}

#[test]
fn a_site_is_made_and_works_with_the_shipped_broker() {
    let scratch = Scratch::new("enroll");
    let at = |name: &str| scratch.path.join(name);
    let (authority, rig, desk) = (at("authority"), at("rig"), at("desk"));
    enroll(&["--authority", text(&authority)]);

    let (mut broker, control_port) =
        shipped(|config| config.replace("#crlfile {dir}/rigs.crl", "crlfile {dir}/rigs.crl"));
    let names = ["--broker", "localhost", "127.0.0.1", "--sign-with", text(&authority)];
    enroll(&[&names[..], &["--out", text(broker.directory())]].concat());
    // A list with a rig that is gone, for the broker to start with.
    enroll(&["rig-0", "--sign-with", text(&authority), "--out", text(&desk)]);
    let place = broker.directory().to_owned();
    let revoke = |name| enroll(&["--revoke", name, "--sign-with", text(&authority), "--out", text(&place)]);
    assert!(revoke("rig-0").contains("1 certificates of rig-0 revoked now, 1 in all"));
    // As the words of the tool have it, but that the test's broker may run as anybody.
    fs::set_permissions(broker.directory(), PermissionsExt::from_mode(0o755)).unwrap();
    for file in ["broker.key", "rigd.acl"] {
        fs::set_permissions(broker.directory().join(file), PermissionsExt::from_mode(0o644)).unwrap();
    }
    broker.run();

    // On the rig a key is made, which stays there; its request travels.
    let asked = enroll(&["rig-1", "--out", text(&rig)]);
    let request = rig.join("rig-1.csr");
    let signed = ["--request", text(&request), "--sign-with", text(&authority), "--out", text(&desk)];
    let other = ctl(&[&["enroll", "rig-2"], &signed[..]].concat());
    assert!(!other.status.success() && said(&other).contains("is for `rig-1` and not for rig-2"), "{}", said(&other));
    let answered = enroll(&[&["rig-1"], &signed[..]].concat());
    assert_eq!(fingerprint(&asked), fingerprint(&answered));
    assert!(!desk.join("rig-1.key").exists());
    for file in ["rig-1.pem", "control-ca.pem"] {
        fs::copy(desk.join(file), rig.join(file)).unwrap();
    }
    for name in ["control", "operator"] {
        enroll(&["--controller", name, "--sign-with", text(&authority), "--out", text(&desk)]);
    }

    let ops = desk.join("ops.key");
    let keys = ctl(&["keygen", "ops", "--scope", "operate", "--out", text(&ops)]);
    let lines = format!(
        "ca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\n{}",
        rig.join("control-ca.pem"),
        rig.join("rig-1.pem"),
        rig.join("rig-1.key"),
        String::from_utf8(keys.stdout).unwrap()
    );
    let url = format!("mqtts://localhost:{}", broker.port);
    let mut agent = Agent::prepare(&url, Setup { broker: lines, ..Setup::default() });
    agent.run();
    agent.logged("connected to");
    let file = agent.scratch.path.join("rigd.toml");
    let checked = ctl(&["check", "--config", text(&file)]);
    assert!(said(&checked).contains("as         rig-1, certificate valid until"), "{}", said(&checked));

    let url = format!("mqtts://localhost:{control_port}");
    let ca = desk.join("control-ca.pem");
    let by = |verb: &[&str], identity: &Path| {
        let (cert, key) = (identity.with_extension("pem"), identity.with_extension("key"));
        let place = ["--broker", &url, "--ca", text(&ca), "--cert", text(&cert), "--key", text(&key)];
        ctl(&[&verb[..1], &place, &verb[1..]].concat())
    };
    let send = ["send", "--rig", "rig-1", "--sign", text(&ops), "identify", "30s"];
    let named = |name: &str| desk.join(format!("ctl.{name}.x"));
    let done = by(&send, &named("control"));
    assert_eq!((done.status.code(), said(&done).as_str()), (Some(0), "rig-1: accepted\nrig-1: done\n"));
    agent.fans("full air is heard", |percent| percent == 100);
    let refused = by(&send, &named("operator"));
    assert!(!refused.status.success() && said(&refused).contains("NotAuthorized"), "{}", said(&refused));
    let watched = by(&["watch", "--once", "--rig", "rig-1"], &named("operator"));
    assert!(said(&watched).contains("rig-1  online  simulated-8gpu"), "{}", said(&watched));
    // A rig's certificate opens no door of the control plane.
    let intruder = by(&["watch", "--once"], &rig.join("rig-1.x"));
    assert!(
        !intruder.status.success()
            && said(&intruder).contains("does not know the authority that signed our certificate"),
        "{}",
        said(&intruder)
    );

    // Revoked, it is let in no more; who is not named still is.
    let knock = || {
        let (cert, key) = (rig.join("rig-1.pem"), rig.join("rig-1.key"));
        let url = format!("mqtts://localhost:{}", broker.port);
        ctl(&["watch", "--for", "1", "--broker", &url, "--ca", text(&ca), "--cert", text(&cert), "--key", text(&key)])
    };
    assert!(knock().status.success(), "{}", said(&knock()));
    assert!(revoke("rig-1").contains("1 certificates of rig-1 revoked now, 2 in all"));
    broker.signal(Signal::HUP);
    let refused = until("it is refused", || Some(knock()).filter(|output| !output.status.success()));
    assert!(said(&refused).contains("our certificate (cert_file) is revoked"), "{}", said(&refused));
    let nobody = ctl(&["enroll", "--revoke", "rig-9", "--sign-with", text(&authority)]);
    assert!(
        !nobody.status.success() && said(&nobody).contains("nothing was ever signed for rig-9"),
        "{}",
        said(&nobody)
    );
}
