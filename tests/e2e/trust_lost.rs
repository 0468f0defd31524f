//! A rig that has lost who was revoked: it trusts nobody, says so, and trusts again when somebody on the rig says that it may.

use std::fs;
use std::process::{Command, Output};

use crate::agent::{Agent, Scratch, Setup, until};
use crate::broker::Broker;
use crate::commands::keygen;
use crate::subscriber::Subscriber;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn who_was_revoked_is_gone_and_nobody_is_trusted_until_the_mark_is_removed() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let keys = Scratch::new("lost-keys");
    let tables = format!("[fleet]\ntrust_clock = true\n{}", keygen(&keys, "ops", &["observe"]));
    let mut agent =
        Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), Setup { broker: tables, ..Setup::default() });
    let mark = agent.scratch.path.join("trust.mark");
    fs::write(&mark, "keys.json\n").unwrap();
    agent.run();
    subscriber.telemetry("a sample", |_| true);
    let send = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        command.args(["send", "--rig", "rig-1", "--broker", &format!("mqtt://127.0.0.1:{}", broker.port)]);
        command.arg("--sign").arg(keys.path.join("ops.key")).arg("snapshot").output().unwrap()
    };
    let refused = send();
    assert!(!refused.status.success() && text(&refused).contains("keys.json: is gone"), "{}", text(&refused));
    agent.logged("nobody is trusted: keys.json: is gone");
    fs::remove_file(&mark).unwrap();
    let done = send();
    assert!(done.status.success(), "{}", text(&done));
    agent.logged("trust.mark is gone: trusts again, keys: 1");
    until("both are in the log of who did what", || {
        let mut audit = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
        let shown = text(&audit.args(["audit", "show"]).arg(agent.scratch.path.join("audit")).output().unwrap());
        let [lost, again] =
            ["trusts nobody: keys.json: is gone", "gone: trusts again, keys: 1"].map(|it| shown.find(it));
        (lost.is_some() && lost < again).then_some(())
    });
}
