//! What payloads yield is learnt by the real agent, kept, and planned with: a guess that was wrong loses its GPU, and a payload of which
//! nobody knows anything is tried.

use std::fs;
use std::time::Duration;

use rigd::arbiter::view::{View, YieldView};
use rigd::arbiter::yields::Known;
use rigd::clock;
use rigd::units::MilliPerSecond;
use rigd::wire::PayloadPhase;
use rustix::process::Signal;

use crate::agent::until;
use crate::gpu_breaks::library;
use crate::house::{House, api_of};

const GPUS: [&str; 2] = ["GPU-fa4e0000-0000-4000-8000-000000000000", "GPU-fa4e0001-0000-4000-8000-000000000001"];

fn manifest(gpu: &str, rate: &'static str, guess: &str) -> String {
    format!(
        "kind = \"ai\"\nuser = \"nobody\"\nargv = [\"/bin/sleep\", \"1000\"]\n[gpus]\nuuids = [{gpu:?}]\n\
         [plan]\nvalue_micro_per_tera = 1_000_000_000_000_000\n{guess}\n\
         [stop]\ngrace_s = 2\n[meter]\nname = \"generic-json\"\nport = {}\ninterval_s = 1\n",
        api_of(rate)
    )
}

fn view(house: &House) -> Option<View> {
    serde_json::from_slice(&house.ctl(&["plan", "--json"]).stdout).ok()
}

fn figure(house: &House, place: usize) -> Option<YieldView> {
    view(house)?.yields.into_iter().find(|one| one.payload == house.names[place] && one.uuid == GPUS[place / 2])
}

/// A figure takes a minute to be believed and a minute to rest on enough.
fn within_minutes<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let deadline = clock::now() + Duration::from_secs(300);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(clock::now() < deadline, "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(500));
    }
}

#[test]
fn a_wrong_guess_is_found_out_and_what_was_learnt_outlives_the_agent() {
    let tables = format!("[gpu]\nlibrary = {:?}\n[plan]\nenabled = true\nevery_s = 1\n", library());
    let manifests = [
        // Ten times what it does.
        manifest(GPUS[0], "10.0", "guess_rate = 100\nguess_w = 200"),
        manifest(GPUS[0], "40.0", "guess_rate = 40\nguess_w = 200"),
        manifest(GPUS[1], "12.5", ""),
    ];
    let mut house = House::with("learnt", &tables, &manifests);
    house.runs(0);
    let guessed = until("its guess", || figure(&house, 0));
    assert_eq!((guessed.rate, guessed.known), (MilliPerSecond(100_000), Known::Guessed));
    // What nobody knows is tried on the GPU that nobody wants.
    house.runs(2);
    assert!(view(&house).unwrap().gpus[1].why.contains("tried for some minutes"));
    assert_eq!(figure(&house, 2), None);
    let said = |house: &House| String::from_utf8(house.ctl(&["plan"]).stdout).unwrap();
    assert!(said(&house).contains("guessed"), "{}", said(&house));

    let learnt = within_minutes("a measure of it", || figure(&house, 0).filter(|one| one.known == Known::Measured));
    assert_eq!(learnt.rate, MilliPerSecond(10_000));
    within_minutes("the other one has its GPU", || {
        let (one, other) = (house.one(0)?, house.one(1)?);
        let runs = other.now.phase == PayloadPhase::Running && other.gpus == [GPUS[0]];
        (runs && one.pid.is_none()).then_some(())
    });
    let tried = within_minutes("a measure of that", || figure(&house, 2));
    assert_eq!((tried.rate, tried.known), (MilliPerSecond(12_500), Known::Measured));

    let before = house.runs(1);
    house.agent.signal(Signal::KILL);
    let _ = house.agent.ended();
    house.agent.run();
    until("the next agent's plan", || view(&house).filter(|view| view.planned_ms > 0 && view.gpus.len() == 8));
    for (place, rate) in [(0, 10_000), (2, 12_500)] {
        let one = until("what the first one learnt", || figure(&house, place));
        assert_eq!((one.rate, one.known), (MilliPerSecond(rate), Known::Measured));
    }
    let view = until("a plan with all of it", || {
        view(&house).filter(|view| view.gpus[1].planned.is_some() && view.gpus[0].planned.is_some())
    });
    assert_eq!(view.gpus[0].planned.as_ref(), Some(&house.names[1]), "{view:?}");
    assert_eq!(view.gpus[1].planned.as_ref(), Some(&house.names[2]), "{view:?}");
    assert_eq!(house.runs(1), before, "nobody had to be started anew");
    let said = said(&house);
    assert!(said.contains("10.00") && said.contains("measured"), "{said}");
    assert!(fs::metadata(house.agent.scratch.path.join("yields.json")).is_ok());
}
