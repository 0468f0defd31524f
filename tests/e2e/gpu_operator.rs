//! What an operator does to GPUs through the agent: `rigd-ctl gpu clear` and `rigd-ctl gpu release`.

use std::process::Command;

use rigd::alarm::Cause;
use rigd::gpu::{Driver, Phase, Presence, Verdict};

use crate::agent::{Agent, until};
use crate::broker::Broker;
use crate::gpu_breaks::{World, set, setup, world};
use crate::subscriber::Subscriber;

/// Whether it went well, and all that it said.
fn gpu(world: &World, arguments: &[&str]) -> (bool, String) {
    let socket = world.agent.scratch.path.join("rigd.sock");
    let output = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"))
        .arg("gpu")
        .args(arguments)
        .arg("--socket")
        .arg(socket)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn the_driver_is_let_go_of_for_a_reset_and_taken_up_again() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    until("the fans are driven", || (0..8).all(|gpu| world.truth(gpu, "manual") == 1).then_some(()));
    let first = until("the helper runs", || world.helper());
    let (done, said) = gpu(&world, &["release", "--for", "1h"]);
    assert!(done && said.contains("takes it up again in 3600 s"), "{said}");
    assert_eq!(world.helper(), None, "nobody of ours holds the driver");
    for gpu in 0..8 {
        assert_eq!((world.truth(gpu, "manual"), world.truth(gpu, "limit_mw") > 200_000), (0, true), "GPU {gpu}");
    }
    world.subscriber.telemetry("it is told, and nothing old is", |telemetry| {
        telemetry.driver == Driver::Released && telemetry.gpus.iter().all(|gpu| gpu.temperature.0.is_err())
    });
    let (done, said) = gpu(&world, &["list"]);
    assert!(done && said.starts_with("driver: let go of"), "{said}");
    let (done, said) = gpu(&world, &["release", "--for", "0s"]);
    assert!(done && said.contains("now"), "{said}");
    world.subscriber.telemetry("all is set again, and was no strike", set);
    assert_ne!(world.helper(), Some(first));
    let (done, said) = gpu(&world, &["show", "0000:03:00.0"]);
    assert!(done && said.contains("0 in quarantine"), "{said}");
}

#[test]
fn a_gpu_that_was_left_alone_is_asked_again_after_a_release() {
    let world = world(setup());
    world.subscriber.telemetry("the profile is set", set);
    world.say("fault gpu 3 GetUtilizationRates hang");
    world.subscriber.telemetry("it is left alone", |telemetry| telemetry.gpus[3].presence == Presence::Hung);
    until("its fans are the driver's all the same", || (world.truth(3, "manual") == 0).then_some(()));
    world.say("clear gpu 3");
    let (done, said) = gpu(&world, &["release", "--for", "1s"]);
    assert!(done || said.contains("not every setting"), "{said}");
    world.subscriber.telemetry("it answers", |telemetry| {
        telemetry.gpus.len() == 8 && telemetry.gpus.iter().all(|gpu| gpu.presence == Presence::Seen)
    });
}

#[test]
fn a_profile_is_tried_again_when_it_is_let_out_of_quarantine() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let mut agent = Agent::prepare(&format!("mqtt://127.0.0.1:{}", broker.port), setup());
    agent.sim.control("fault gpu 6 SetPowerManagementLimit ignored").unwrap();
    agent.run();
    let world = World { agent, subscriber, _broker: broker };
    world.event("the quarantine", |event| {
        event.name == "0000:07:00.0" && matches!(event.cause, Some(Cause::Profile(Verdict::NotHeld(_))))
    });
    world.subscriber.telemetry("it has its defaults", |telemetry| telemetry.gpus[6].profile == Phase::Default);
    world.say("clear gpu 6");
    for (arguments, expected) in [
        (&["clear", "0000:01:00.0"][..], "has no profiles in quarantine"),
        (&["clear", "07:00", "--profile", "other"], "has no `other` in quarantine"),
        (&["clear", "0000:0f:00.0"], "there is no GPU"),
    ] {
        let (done, said) = gpu(&world, arguments);
        assert!(!done && said.contains(expected), "{arguments:?}: {said}");
    }
    let (done, said) = gpu(&world, &["clear", "07:00", "--profile", "eco"]);
    assert!(done && said.contains("one profile is out of quarantine"), "{said}");
    world.subscriber.telemetry("it is set like the others", set);
    until("with its limit", || (world.truth(6, "limit_mw") == 200_000).then_some(()));
}
