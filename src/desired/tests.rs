use std::fs;

use proptest::prelude::*;

use super::*;
use crate::arbiter::view::{GpuView, MarketView, View};
use crate::command::trust::{FleetConfig, Trust};
use crate::command::verify::Me;
use crate::units::{Millicelsius, Milliwatts};
use crate::wire::{
    Audience, DesiredPayload, DesiredProfile, EVERY_DAY, Encoding, FanTarget, Header, Kind, Market, MarketLease, Order,
    PayloadAct, PayloadPhase, PowerCap, Scope, SigningKey, StandingOrder, TrustedKey, Window, encode,
};

/// 2027-01-15 08:00 UTC, a Friday.
const NOW: u64 = 1_800_000_000_000;

fn desired(revision: u64) -> Desired {
    Desired {
        audience: Audience::Rig("r".parse().unwrap()),
        revision,
        issued_ms: NOW,
        not_after_ms: None,
        payloads: vec![payload("llm", true), payload("miner", false)],
        profiles: vec![
            DesiredProfile { gpu: None, profile: "eco".to_owned() },
            DesiredProfile { gpu: Some("G1".to_owned()), profile: "fast".to_owned() },
        ],
        power_cap: Some(cap(1_000)),
        fan_targets: vec![FanTarget { zone: "z".to_owned(), target_mc: Some(Millicelsius(50_000)) }],
        maintenance: false,
        standing: Vec::new(),
        market: None,
    }
}

fn payload(name: &str, run: bool) -> DesiredPayload {
    DesiredPayload { name: name.to_owned(), run, gpus: None }
}

const fn cap(watts: u32) -> PowerCap {
    PowerCap { cap_mw: Milliwatts(watts * 1_000), ramp_mw_per_s: 0, deadline_ms: 0, until_ms: None, floor_mw: None }
}

fn known() -> Known {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Known {
        payloads: names(&["llm", "miner"]),
        profiles: names(&["eco", "fast"]),
        gpus: names(&["G1", "G2"]),
        zones: names(&["z"]),
        power_cap: true,
    }
}

fn standing(
    name: &str,
    window: (u8, u16, u16),
    utc: bool,
    watts: Option<u32>,
    payloads: &[DesiredPayload],
) -> StandingOrder {
    let (days, from_min, to_min) = window;
    StandingOrder {
        name: name.to_owned(),
        when: Window { days, from_min, to_min },
        utc,
        power_cap: watts.map(cap),
        payloads: payloads.to_vec(),
    }
}

const fn moment(day: u8, minute: u16) -> Moment {
    Moment { unix_ms: Some(NOW), local: Some((day, minute)) }
}

#[test]
fn a_state_is_taken_whole_or_not_at_all() {
    let current = desired(5);
    let edit = |change: &dyn Fn(&mut Desired)| {
        let mut next = desired(6);
        change(&mut next);
        next
    };
    let own = |name: &str| standing("s", (1, 0, 10), true, None, &[payload(name, true)]);
    let pinned = |entry: DesiredPayload| DesiredPayload { gpus: Some(vec!["G1".to_owned()]), ..entry };
    for (what, candidate, expected) in [
        ("newer", desired(6), Ok(Taken::New)),
        ("the same once more", current.clone(), Ok(Taken::Same)),
        ("older", desired(4), Err("it is not newer than revision 5")),
        (
            "another of the same revision",
            Desired { maintenance: true, ..desired(5) },
            Err("it is not newer than revision 5"),
        ),
        ("no such payload", edit(&|d| d.payloads.push(payload("x", true))), Err("no payload `x` here")),
        ("no such profile", edit(&|d| d.profiles[1].profile = "x".to_owned()), Err("no profile `x` here")),
        ("no such GPU", edit(&|d| d.profiles[1].gpu = Some("G9".to_owned())), Err("no GPU `G9` here")),
        ("a payload's GPU", edit(&|d| d.payloads[0].gpus = Some(vec!["G9".to_owned()])), Err("no GPU `G9` here")),
        ("no such zone", edit(&|d| d.fan_targets[0].zone = "x".to_owned()), Err("no zone `x` here")),
        ("twice", edit(&|d| d.payloads.push(payload("llm", false))), Err("a payload is named twice")),
        (
            "a cap below its floor",
            edit(&|d| d.power_cap = Some(PowerCap { floor_mw: Some(Milliwatts(600_001)), ..cap(600) })),
            Err("a power cap below its own floor"),
        ),
        (
            "a window",
            edit(&|d| d.standing = vec![standing("s", (0x80, 0, 1), true, None, &[])]),
            Err("a window outside of the week"),
        ),
        (
            "what is not said for the rest of the day",
            edit(&|d| {
                d.payloads.pop();
                d.standing = vec![own("miner")];
            }),
            Err("a standing order names a payload that the state itself does not"),
        ),
        (
            "GPUs that are not given back",
            edit(&|d| d.standing = vec![standing("s", (1, 0, 10), true, None, &[pinned(payload("llm", true))])]),
            Err("a standing order gives GPUs to a payload to which the state itself gives none"),
        ),
        ("a standing order", edit(&|d| d.standing = vec![own("miner")]), Ok(Taken::New)),
    ] {
        let result = accept(Some(&current), 5, &candidate, &known()).map_err(|refused| refused.reason);
        assert_eq!(result, expected.map_err(str::to_owned), "{what}");
    }
    // The revision is remembered also where the state itself was lost.
    assert!(accept(None, 5, &desired(5), &known()).is_err());
    assert_eq!(accept(None, 0, &desired(1), &known()), Ok(Taken::New));
}

#[test]
fn windows_hold_over_midnight_and_every_cap_of_theirs_with_them() {
    let mut state = desired(1);
    state.standing = vec![
        // Friday 22:00 to Saturday 06:00, local.
        standing("night", (1 << 4, 1_320, 360), false, Some(600), &[payload("miner", true), payload("llm", false)]),
        standing("peak", (EVERY_DAY, 1_320, 1_380), false, Some(800), &[]),
        standing("high", (EVERY_DAY, 0, 1_440), false, Some(2_000), &[]),
        // 08:00 in UTC is now.
        standing("utc", (1 << 4, 480, 481), true, Some(900), &[]),
    ];
    let caps = |watts: &[u32]| watts.iter().map(|watts| cap(*watts)).collect::<Vec<_>>();
    for (day, minute, watts, holds, mining) in [
        (4, 1_319, &[1_000, 2_000, 900][..], &["high", "utc"][..], false),
        (4, 1_320, &[1_000, 600, 800, 2_000, 900], &["night", "peak", "high", "utc"], true),
        (5, 0, &[1_000, 600, 2_000, 900], &["night", "high", "utc"], true),
        (5, 359, &[1_000, 600, 2_000, 900], &["night", "high", "utc"], true),
        (5, 360, &[1_000, 2_000, 900], &["high", "utc"], false),
        (5, 1_330, &[1_000, 800, 2_000, 900], &["peak", "high", "utc"], false),
    ] {
        let all = effective(&state, &moment(day, minute));
        assert_eq!(
            (all.power_caps, all.standing.iter().map(String::as_str).collect::<Vec<_>>()),
            (caps(watts), holds.to_vec()),
            "{day} {minute}"
        );
        assert_eq!(all.payloads, [payload("llm", !mining), payload("miner", mining)]);
    }
    // Nobody knows the time: every cap, no payload.
    let all = effective(&state, &Moment { unix_ms: None, local: None });
    let every = caps(&[1_000, 600, 800, 2_000, 900]);
    assert_eq!((all.power_caps, all.standing.len(), all.payloads), (every, 4, state.payloads.clone()));
    let all = effective(&Desired { maintenance: true, ..state.clone() }, &moment(0, 0));
    assert!(all.maintenance && all.payloads.iter().all(|payload| !payload.run));
    state.power_cap = Some(PowerCap { until_ms: Some(NOW), ..cap(1) });
    assert_eq!(effective(&state, &moment(0, 0)).power_caps, caps(&[2_000, 900]), "one that is over, and each once");
    let whole_day = Window { days: 1, from_min: 300, to_min: 300 };
    let hours = [(0, 299), (0, 300), (1, 299), (1, 300)].map(|(day, minute)| whole_day.holds(day, minute));
    assert_eq!(hours, [false, true, true, false]);
}

fn actual(llm: PayloadPhase, miner: PayloadPhase) -> Actual {
    let payload = |name: &str, phase| ActualPayload { name: name.to_owned(), phase, assigned: None };
    let gpu = |uuid: &str, profile: &str| ActualGpu {
        uuid: uuid.to_owned(),
        profile: Some(profile.to_owned()),
        changing: false,
        failed: None,
    };
    Actual {
        payloads: vec![payload("llm", llm), payload("miner", miner)],
        gpus: vec![gpu("G1", "fast"), gpu("G2", "eco")],
        power_caps: vec![cap(1_000)],
        fan_targets: desired(1).fan_targets,
        maintenance: false,
    }
}

#[test]
fn what_is_missing_is_ordered_and_what_is_on_its_way_is_not() {
    use PayloadPhase as P;
    let state = effective(&desired(1), &moment(0, 0));
    let act = |name: &str, act| vec![Order::Payload { name: name.to_owned(), act }];
    for (llm, miner, orders, differences) in [
        (P::Running, P::Stopped, vec![], 0),
        (P::Degraded, P::Ended, vec![], 0),
        (P::Ended, P::Quarantined, vec![], 0),
        (P::Stopped, P::Stopped, act("llm", PayloadAct::Start), 1),
        (P::Running, P::Running, act("miner", PayloadAct::Stop), 1),
        (P::Stopped, P::BackingOff, [act("miner", PayloadAct::Stop), act("llm", PayloadAct::Start)].concat(), 2),
        (P::Warming, P::Draining, vec![], 2),
        (P::Quarantined, P::FailedToStart, vec![], 1),
        (P::Draining, P::OutOfBudget, vec![], 1),
        (P::Paused, P::Stopped, vec![], 1),
        (P::Waiting, P::Paused, act("miner", PayloadAct::Stop), 2),
        (P::Running, P::Waiting, act("miner", PayloadAct::Stop), 1),
    ] {
        let plan = plan(&state, &actual(llm, miner));
        assert_eq!((plan.orders, plan.differences.len()), (orders, differences), "{llm:?} {miner:?}");
    }
}

#[test]
fn every_other_setting_has_its_order_and_its_reason() {
    let state = effective(&desired(1), &moment(0, 0));
    let good = || actual(PayloadPhase::Running, PayloadPhase::Stopped);
    let check = |change: &dyn Fn(&mut Actual), orders: &[Order], difference: (&str, &str)| {
        let mut actual = good();
        change(&mut actual);
        let plan = plan(&state, &actual);
        assert_eq!(plan.orders, orders);
        let told: Vec<_> = plan.differences.iter().map(|one| (one.what.as_str(), one.why.as_str())).collect();
        assert_eq!(told, [difference]);
    };
    let profile =
        |gpu: &str, profile: &str| Order::SetProfile { gpu: Some(gpu.to_owned()), profile: Some(profile.to_owned()) };
    check(&|a| a.power_caps.clear(), &[], ("power cap", "ordered now"));
    check(&|a| a.gpus[0].profile = None, &[profile("G1", "fast")], ("GPU G1", "ordered now"));
    check(&|a| a.gpus[1].profile = Some("fast".to_owned()), &[profile("G2", "eco")], ("GPU G2", "ordered now"));
    check(&|a| a.gpus[1].changing = true, &[], ("GPU G2", "on its way"));
    check(&|a| a.gpus[1].failed = Some("Xid 79".to_owned()), &[], ("GPU G2", "Xid 79"));
    check(&|a| drop(a.gpus.remove(0)), &[], ("GPU G1", "the GPU is not there now"));
    let target = Order::SetFanTarget { zone: "z".to_owned(), target_mc: Some(Millicelsius(50_000)) };
    check(&|a| a.fan_targets.clear(), &[target], ("zone z", "ordered now"));
    check(
        &|a| a.maintenance = true,
        &[Order::Maintenance { on: false, until_ms: None }],
        ("maintenance", "ordered now"),
    );
    check(&|a| drop(a.payloads.remove(0)), &[], ("payload llm", "there is no such payload any more"));
}

#[test]
fn a_lease_that_is_not_served_is_told_with_its_reason() {
    let lease = |from_ms, to_ms| MarketLease { payload: "llm".to_owned(), from_ms, to_ms, priority: 0 };
    let enabled = || View { enabled: true, ..View::default() };
    let runs = GpuView { runs: Some("llm".to_owned()), ..GpuView::default() };
    let known = MarketView { values: vec![("llm".to_owned(), 1)], ..MarketView::default() };
    let now = (NOW, NOW + 1);
    for ((from, to), clock, view, expected) in [
        (now, Some(NOW), View { gpus: vec![runs], ..enabled() }, None),
        (now, Some(NOW), View::default(), Some("this agent leaves payloads to people: `[plan]` is not enabled")),
        (now, Some(NOW), enabled(), Some("its manifest has no `[plan]`")),
        (now, Some(NOW), View { market: known.clone(), ..enabled() }, Some("on its way")),
        (
            now,
            Some(NOW),
            View { market: known, refused: vec!["llm".to_owned()], ..enabled() },
            Some("no GPU can be found for it"),
        ),
        (
            now,
            Some(NOW),
            View { left_out: vec![("llm".to_owned(), "in quarantine".to_owned())], ..enabled() },
            Some("in quarantine"),
        ),
        (
            now,
            Some(NOW),
            View { waits: Some("somebody works at the rig".to_owned()), ..enabled() },
            Some("somebody works at the rig"),
        ),
        ((NOW + 1, NOW + 2), Some(NOW), enabled(), None),
        ((NOW - 1, NOW), Some(NOW), enabled(), None),
        (now, None, enabled(), None),
    ] {
        let mut plan = Plan::default();
        unserved(&Market { leases: vec![lease(from, to)], ..Market::default() }, clock, &view, &mut plan);
        let told: Vec<_> = plan.differences.iter().map(|told| (told.what.as_str(), told.why.as_str())).collect();
        assert_eq!(told, expected.map(|why| ("lease of payload llm", why)).into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_report_says_how_near_it_is_and_how_old() {
    let state = desired(9);
    let now = effective(&state, &moment(0, 0));
    let reached = plan(&now, &actual(PayloadPhase::Running, PayloadPhase::Stopped));
    let away = plan(&now, &actual(PayloadPhase::Stopped, PayloadPhase::Stopped));
    let report = |plan: &Plan, later| super::report(Some(&state), None, Some(&now), plan, Some(NOW + later));
    assert_eq!((report(&reached, 0).reached, report(&away, 0).reached, report(&away, 0).accepted), (9, 0, 9));
    assert_eq!((report(&reached, STALE_MS).stale_h, report(&reached, STALE_MS + 1).stale_h), (None, Some(72)));
    assert_eq!(super::report(None, None, None, &Plan::default(), None), Reported::default());
}

#[test]
fn what_is_kept_is_believed_only_with_its_signature() {
    let directory = std::env::temp_dir().join(format!("rigd-desired-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let store = Store::new(&directory);
    assert_eq!(store.load().unwrap(), Kept::default());
    let key = SigningKey::from_seed(&[1; 32]).unwrap();
    let trusted = TrustedKey { name: "k".to_owned(), public: key.public(), scopes: Scope::ALL.to_vec() };
    let two = TrustedKey {
        name: "l".to_owned(),
        public: SigningKey::from_seed(&[2; 32]).unwrap().public(),
        ..trusted.clone()
    };
    let three = TrustedKey {
        name: "m".to_owned(),
        public: SigningKey::from_seed(&[3; 32]).unwrap().public(),
        ..trusted.clone()
    };
    let trust = Trust::new(&FleetConfig { keys: vec![trusted, two, three], ..FleetConfig::default() });
    let me = Me { rig: "r".parse().unwrap(), groups: Vec::new(), site: None };
    let topic = "r1/r/dn/des";
    let message = encode(Encoding::Postcard, Header::new(Kind::Desired, 0, 0), &desired(7));
    let kept = Kept { revision: 7, topic: topic.to_owned(), frame: key.frame(None, topic, &message) };
    store.save(&kept).unwrap();
    let found = store.load().unwrap();
    assert_eq!((&found, found.desired(&trust, &me)), (&kept, Ok(Some(desired(7)))));
    assert!(found.desired(&trust.rotated(None, Some(key.id())).unwrap(), &me).is_err());
    assert!(found.desired(&trust, &Me { rig: "s".parse().unwrap(), ..me.clone() }).is_err());
    assert_eq!(Kept::default().desired(&trust, &me), Ok(None));
    // Somebody's hand in the file, with a good checksum and without.
    let forged = Kept { frame: [&kept.frame[..kept.frame.len() - 1], &[9]].concat(), ..kept };
    store.save(&forged).unwrap();
    assert!(store.load().unwrap().desired(&trust, &me).is_err());
    let path = directory.join("desired.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(store.load().is_err());
    fs::remove_dir_all(&directory).unwrap();
}

/// What the rig would be after some time, were the orders carried out.
fn carry_out(actual: &mut Actual, orders: &[Order], fails: bool) {
    for payload in &mut actual.payloads {
        payload.phase = match payload.phase {
            PayloadPhase::Starting | PayloadPhase::BackingOff if fails => PayloadPhase::Quarantined,
            PayloadPhase::Starting | PayloadPhase::BackingOff => PayloadPhase::Warming,
            // Whoever held it back lets go.
            PayloadPhase::Waiting => PayloadPhase::Starting,
            PayloadPhase::Warming | PayloadPhase::Paused => PayloadPhase::Running,
            PayloadPhase::Draining => PayloadPhase::Stopped,
            rests @ (PayloadPhase::Stopped
            | PayloadPhase::Running
            | PayloadPhase::Degraded
            | PayloadPhase::FailedToStart
            | PayloadPhase::Ended
            | PayloadPhase::OutOfBudget
            | PayloadPhase::Quarantined) => rests,
        };
    }
    for gpu in &mut actual.gpus {
        if std::mem::take(&mut gpu.changing) && fails {
            gpu.failed = Some("will not hold".to_owned());
        }
    }
    for order in orders {
        match order {
            Order::Payload { name, act } => {
                let payload = actual.payloads.iter_mut().find(|payload| payload.name == *name).unwrap();
                payload.phase = if *act == PayloadAct::Start { PayloadPhase::Starting } else { PayloadPhase::Draining };
            }
            Order::Assign { payload, gpus } => {
                let payload = actual.payloads.iter_mut().find(|own| own.name == *payload).unwrap();
                payload.assigned = Some(gpus.clone());
            }
            Order::SetProfile { gpu, profile } => {
                let gpu = actual.gpus.iter_mut().find(|own| Some(&own.uuid) == gpu.as_ref()).unwrap();
                (gpu.profile, gpu.changing, gpu.failed) = (profile.clone(), true, None);
            }
            Order::SetFanTarget { zone, target_mc } => {
                actual.fan_targets.retain(|target| target.zone != *zone);
                actual.fan_targets.push(FanTarget { zone: zone.clone(), target_mc: *target_mc });
            }
            Order::Maintenance { on, .. } => actual.maintenance = *on,
            Order::SetPowerCap(_)
            | Order::Identify { .. }
            | Order::Probe
            | Order::Logs { .. }
            | Order::FollowLogs { .. }
            | Order::Snapshot
            | Order::Reload
            | Order::RestartAgent
            | Order::Reboot
            | Order::RotateKey { .. } => panic!("a plan orders {order:?}"),
        }
    }
}

fn any_phase() -> impl Strategy<Value = PayloadPhase> {
    use PayloadPhase as P;
    prop::sample::select(vec![
        P::Stopped,
        P::Starting,
        P::Warming,
        P::Running,
        P::Degraded,
        P::Draining,
        P::BackingOff,
        P::FailedToStart,
        P::Ended,
        P::OutOfBudget,
        P::Quarantined,
        P::Paused,
        P::Waiting,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_gets_there_and_orders_nothing_twice(
        phases in (any_phase(), any_phase()),
        runs in (any::<bool>(), any::<bool>()),
        pinned in prop::option::of(prop::sample::subsequence(vec!["G1", "G2"], 0..=2)),
        have in (any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(0..3_u32)),
        want in (prop::option::of(0..3_u32), any::<bool>(), any::<bool>()),
        fails in any::<bool>(),
    ) {
        let mut state = desired(1);
        state.payloads = vec![payload("llm", runs.0), payload("miner", runs.1)];
        state.payloads[0].gpus = pinned.map(|gpus| gpus.into_iter().map(str::to_owned).collect());
        (state.power_cap, state.maintenance) = (want.0.map(cap), want.1);
        if want.2 {
            state.fan_targets[0].target_mc = None;
        }
        let mut now = actual(phases.0, phases.1);
        (now.maintenance, now.gpus[0].changing) = (have.0, have.1);
        now.power_caps = have.3.map(cap).into_iter().collect();
        if have.2 {
            now.gpus[1].profile = None;
        }
        let state = effective(&state, &moment(0, 0));
        let mut given: Vec<Order> = Vec::new();
        for _ in 0..8 {
            let next = plan(&state, &now);
            for order in &next.orders {
                prop_assert!(!given.contains(order), "ordered twice: {:?}", order);
            }
            given.extend(next.orders.clone());
            if let Some(caps) = next.caps {
                prop_assert!(caps != now.power_caps, "held already");
                now.power_caps = caps;
            }
            carry_out(&mut now, &next.orders, fails);
        }
        let last = plan(&state, &now);
        prop_assert!(last.orders.is_empty() && last.caps.is_none(), "{last:?}");
        // What is left was given up, and says so.
        for left in &last.differences {
            prop_assert!(left.why.contains("given up") || left.why == "will not hold", "{left:?}");
        }
        let gave_up = [phases.0, phases.1].iter().any(|phase| matches!(phase, PayloadPhase::FailedToStart | PayloadPhase::OutOfBudget | PayloadPhase::Quarantined));
        prop_assert!(fails || gave_up || last.differences.is_empty(), "{last:?}");
    }
}
