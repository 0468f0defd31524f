use rigd::gpu::{Phase, Presence};
use rigd::reading::Missing;
use rigd::units::Milliwatts;
use rigd::wire::Value;

use super::*;

/// What was measured as it was.
const FIRST: Measured = Measured {
    rate: 1,
    power_mw: 1,
    clock_mhz: Some(1_695),
    memory_mhz: Some(9_501),
    pstate: Some(2),
    noise: 0,
    refused: 0,
};
/// The states of `sim/src/world/card.rs`, ampere.
const CLOCKS: [(u8, u32); 5] = [(0, 9_751), (2, 9_501), (3, 5_001), (5, 810), (8, 405)];

/// A card with so high a limit now, W.
fn card(limit: u32, capabilities: &[Capability]) -> Gpu {
    // Nothing but what matters here is there.
    let missing = || serde_json::to_value(Value::<u32>(Err(Missing::NotPresent))).unwrap();
    let text = serde_json::json!({
        "info": {
            "pci": "0000:01:00.0", "uuid": "GPU-1", "name": "", "vbios": null, "serial": null, "memory_mib": null,
            "min_limit_mw": 100_000, "max_limit_mw": 480_000, "default_limit_mw": 350_000, "max_sm_mhz": 2_100,
            "max_memory_mhz": null, "slowdown_mc": null, "fans": 0, "pcie_max_generation": null,
            "pcie_max_width": null, "capabilities": capabilities,
        },
        "now": {
            "presence": Presence::Seen, "temperature": missing(), "memory_temperature": missing(), "power": missing(),
            "sm_mhz": missing(), "memory_mhz": missing(), "load": missing(), "memory_used": missing(),
            "fan_duty": missing(), "reasons": missing(), "air": {"duty": missing(), "stage": "normal"},
            "profile": Phase::Default,
        },
        "more": {
            "gpu": 0, "margin": missing(), "power_now": missing(), "energy": missing(),
            "limit": Value(Ok(Milliwatts(limit * 1000))), "enforced_limit": missing(), "pstate": missing(),
            "memory_load": missing(), "fans": [], "pcie_generation": missing(), "pcie_width": missing(),
            "replays": missing(), "ecc": null, "remapped": null, "recovery": missing(), "xids": 0, "last_xid": null,
            "profile": null, "quarantined": 0, "processes": [],
        },
        "memory_clocks": CLOCKS,
    });
    serde_json::from_value(text).unwrap()
}

fn wishes(power: Option<(u32, u32)>, core: Option<(u32, u32)>, only: Option<Only>) -> Wishes {
    Wishes { power, power_step: 10, core, core_step: 30, memory: None, only }
}

#[test]
fn a_space_is_within_what_the_card_takes_and_has_now() {
    const BOTH: &[Capability] = &[Capability::PowerLimit, Capability::CoreLock];
    let (all, power) = ((100, 350, 680, 1_695), (BOTH, 350));
    for (wished, (capabilities, limit), expected, now) in [
        (wishes(None, None, None), power, Some((100, 350, 705, 1_695)), (350, 1_695)),
        (wishes(None, None, Some(Only::Power)), power, Some((100, 350, 1_695, 1_695)), (350, 1_695)),
        (wishes(None, None, Some(Only::Core)), power, Some((350, 350, 705, 1_695)), (350, 1_695)),
        (wishes(None, None, None), (&BOTH[..1], 350), Some((100, 350, 1_695, 1_695)), (350, 1_695)),
        (wishes(None, None, None), (BOTH, 225), Some((105, 225, 705, 1_695)), (225, 1_695)),
        (wishes(Some((50, 900)), Some((1_200, 9_000)), None), power, Some((100, 350, 1_215, 1_695)), (350, 1_695)),
        (wishes(Some((150, 200)), Some((1_200, 1_500)), None), power, Some((150, 200, 1_200, 1_500)), (350, 1_695)),
        (wishes(Some((400, 450)), None, None), power, None, (0, 0)),
        (wishes(None, None, Some(Only::Core)), (&BOTH[..1], 350), None, (0, 0)),
        (wishes(None, None, Some(Only::Power)), (BOTH, 100), None, (0, 0)),
    ] {
        let card = card(limit, capabilities);
        let numbers = wished.room(&[card], &FIRST).ok().map(|Room { space, now, .. }| {
            assert!(space.memory.is_empty() && now.memory.is_none(), "nobody wishes for it");
            let Space { limit, core, .. } = space;
            let watts = (limit.lowest / 1000, limit.highest / 1000, core.lowest, core.highest);
            (watts, (now.limit.0 / 1000, now.core.0))
        });
        assert_eq!(numbers, expected.map(|expected| (expected, now)), "{wished:?}");
    }
    assert_eq!(axis(all.0, all.1, 1).unwrap().step, 1);
    assert_eq!(axis(0, 100_000, 1), Some(Axis { lowest: 0, highest: 100_000, step: 400 }));
}

#[test]
fn memory_clocks_are_the_cards_own_below_what_it_works_at() {
    const ALL: &[Capability] = &[Capability::PowerLimit, Capability::CoreLock, Capability::MemoryLock];
    let with = |memory: Option<(u32, u32)>, only| Wishes { memory, ..wishes(None, None, only) };
    let all = with(Some(ANY), None);
    let one = || vec![card(350, ALL)];
    let other = |clocks: &[(u8, u32)], capabilities| {
        let clocks = clocks.iter().map(|(state, clock)| (*state, Megahertz(*clock))).collect();
        vec![card(350, ALL), Gpu { memory_clocks: clocks, ..card(350, capabilities) }]
    };
    let fast = Measured { memory_mhz: Some(10_501), ..FIRST };
    let first = Measured { pstate: Some(0), memory_mhz: Some(9_751), ..FIRST };
    let silent = Measured { memory_mhz: None, ..FIRST };
    let low = Measured { pstate: Some(8), memory_mhz: Some(405), ..FIRST };
    for (wished, gpus, measured, expected) in [
        (&all, one(), FIRST, Ok(vec![405, 810, 5_001, 9_501])),
        (&with(Some((800, 5_100)), None), one(), FIRST, Ok(vec![810, 5_001, 9_501])),
        (&with(None, Some(Only::Memory)), one(), FIRST, Ok(vec![405, 810, 5_001, 9_501])),
        // An offset makes it faster: its own states are not below it for that.
        (&all, one(), fast, Ok(vec![405, 810, 5_001, 10_501])),
        (&all, one(), first, Ok(vec![405, 810, 5_001, 9_501, 9_751])),
        (&all, other(&[(0, 10_501), (2, 9_501), (5, 810), (6, 810), (8, 0)], ALL), FIRST, Ok(vec![810, 9_501])),
        (&all, other(&[], ALL), FIRST, Err("does not tell which memory clocks it has")),
        (&all, other(&CLOCKS, &ALL[..2]), FIRST, Err("takes no lock of it")),
        (&all, one(), silent, Err("does not tell it")),
        (&all, one(), low, Err("has no lower one")),
        (&with(Some((6_000, 9_000)), None), one(), FIRST, Err("has no lower one from 6000 to 9000 MHz")),
    ] {
        let room = wished.room(&gpus, &measured).unwrap();
        let clocks: Vec<u32> = room.space.memory.iter().map(|clock| clock.0).collect();
        assert_eq!(clocks, expected.clone().unwrap_or_default());
        assert_eq!(room.now.memory.map(|clock| clock.0), clocks.last().copied(), "it begins as it was");
        let left = room.left.join("");
        match expected {
            Ok(_) => assert_eq!(left, ""),
            Err(why) => assert!(
                left.starts_with("the memory clock is left as it is: GPU GPU-1 ") && left.ends_with(why),
                "{left}"
            ),
        }
        let is_only = wished.only == Some(Only::Memory);
        assert_eq!(room.space.limit.lowest == room.space.limit.highest, is_only);
    }
    let none = with(None, Some(Only::Memory)).room(&[card(350, &ALL[..2])], &FIRST).map(drop).unwrap_err();
    assert!(none.to_string().contains("takes no lock of it"), "{none}");
    let left = all.room(&[card(350, &ALL[..1])], &FIRST).unwrap().left;
    assert_eq!((left.len(), left[0].as_str()), (2, "the core clock is left as it is: GPU GPU-1 takes no lock of it"));
}

#[test]
fn what_is_wished_and_not_varied_is_refused() {
    let range = Some((100, 200));
    for (wished, expected) in [
        (wishes(range, range, None), ""),
        (wishes(range, None, Some(Only::Power)), ""),
        (wishes(range, None, Some(Only::Core)), "--power has no effect beside --only core"),
        (wishes(None, range, Some(Only::Memory)), "--core has no effect beside --only memory"),
        (
            Wishes { memory: range, ..wishes(None, None, Some(Only::Power)) },
            "--memory has no effect beside --only power",
        ),
    ] {
        assert_eq!(wished.check().err().map(|error| error.to_string()).unwrap_or_default(), expected);
    }
}

#[test]
fn a_range_is_two_numbers() {
    for (text, expected) in
        [("150-250", Some((150, 250))), ("150-150", Some((150, 150))), ("250-150", None), ("150", None), ("a-b", None)]
    {
        assert_eq!(range(text).ok(), expected, "{text}");
        assert_eq!(range_or_all(text).ok(), expected, "{text}");
    }
    assert_eq!((range("all").ok(), range_or_all("all")), (None, Ok(ANY)));
}
