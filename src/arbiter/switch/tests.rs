use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const S: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);
const STARTUP: Duration = Duration::from_secs(20);

fn share(payload: &str, gpus: &[&str]) -> Share {
    Share { payload: payload.to_owned(), gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect() }
}

/// How a payload of the test behaves.
#[derive(Clone, Copy, Debug)]
struct Nature {
    /// Seconds until it has ended; it is killed at the end of its grace, or is not.
    ends: u32,
    unkillable: bool,
    /// Seconds until it is healthy; none: it ends at once, again and again.
    starts: Option<u32>,
    /// It cannot be wiped.
    sticky: bool,
    /// Somebody takes it out of the plan after so many seconds.
    barred: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Rest,
    Starting(Duration),
    Up(Duration),
    Ending(Duration),
    Crashing,
}

/// A rig of two GPUs on which everything that can go wrong does.
struct World {
    now: Duration,
    payloads: BTreeMap<String, (Nature, Is, Vec<String>)>,
    given: BTreeMap<String, Vec<String>>,
    /// Seconds until memory is given back, and until a profile is; none never.
    lags: [Option<u32>; 2],
    /// Since when nobody has a GPU, and whose profile it has.
    idle: BTreeMap<String, (Duration, Option<String>)>,
    /// Private folders that are there, and the GPUs that their payloads had: on the disk, and not to be forgotten.
    left: BTreeMap<String, Vec<String>>,
    unwiped: BTreeSet<String>,
}

impl World {
    fn new(natures: &[(&str, Nature)], lags: [Option<u32>; 2]) -> Self {
        let one = |(name, nature): &(&str, Nature)| ((*name).to_owned(), (*nature, Is::Rest, vec![]));
        Self {
            now: 100 * S,
            payloads: natures.iter().map(one).collect(),
            given: BTreeMap::new(),
            lags,
            idle: ["g", "h"].map(|gpu| (gpu.to_owned(), (Duration::ZERO, None))).into(),
            left: BTreeMap::new(),
            unwiped: BTreeSet::new(),
        }
    }

    fn run(&mut self, share: &Share) {
        let place = self.payloads.get_mut(&share.payload).unwrap();
        (place.1, place.2) = (Is::Up(self.now), share.gpus.clone());
        self.given.insert(share.payload.clone(), share.gpus.clone());
        self.left.insert(share.payload.clone(), share.gpus.clone());
    }

    fn owner(&self, gpu: &str) -> Option<&String> {
        let has = |(_, is, gpus): &(Nature, Is, Vec<String>)| *is != Is::Rest && gpus.iter().any(|own| own == gpu);
        let owners: Vec<_> = self.payloads.iter().filter(|(_, payload)| has(payload)).map(|(name, _)| name).collect();
        assert!(owners.len() <= 1, "two on one GPU: {owners:?}");
        owners.first().copied()
    }

    fn tick(&mut self) {
        self.now += S;
        let now = self.now;
        for (nature, is, _) in self.payloads.values_mut() {
            *is = match *is {
                Is::Starting(since) => match nature.starts {
                    Some(time) if now - since >= time * S => Is::Up(now),
                    Some(_) => Is::Starting(since),
                    None => Is::Crashing,
                },
                Is::Ending(since) if now - since >= nature.ends * S && !nature.unkillable => Is::Rest,
                Is::Ending(since) if now - since >= GRACE && !nature.unkillable => Is::Rest,
                as_it_was @ (Is::Rest | Is::Up(_) | Is::Ending(_) | Is::Crashing) => as_it_was,
            };
        }
        for gpu in ["g", "h"] {
            let owner = self.owner(gpu).cloned();
            let idle = self.idle.get_mut(gpu).unwrap();
            match owner {
                Some(owner) => *idle = (now, Some(format!("profile of {owner}"))),
                None if self.lags[1].is_some_and(|lag| now - idle.0 >= lag * S) => idle.1 = None,
                None => {}
            }
        }
    }

    fn seen(&self) -> Seen {
        let life = |(name, (nature, is, _)): (&String, &(Nature, Is, Vec<String>))| {
            let life = Life {
                rest: *is == Is::Rest,
                ending: matches!(is, Is::Ending(_)),
                healthy: match is {
                    Is::Up(since) => Some(*since),
                    Is::Rest | Is::Starting(_) | Is::Ending(_) | Is::Crashing => None,
                },
                failed: *is == Is::Crashing,
                restarts: 0,
                barred: nature.barred.is_some_and(|after| self.now >= (100 + after) * S),
                times: [GRACE, STARTUP],
                profile: Some(format!("profile of {name}")),
            };
            (name.clone(), life)
        };
        let card = |(gpu, (since, profile)): (&String, &(Duration, Option<String>))| {
            let given_back = self.lags[0].is_some_and(|lag| self.now - *since >= lag * S);
            let free = self.owner(gpu).is_none() && given_back;
            let keeps = |(name, gpus): &(&String, &Vec<String>)| {
                gpus.contains(gpu) && self.payloads.get(*name).is_none_or(|payload| payload.1 == Is::Rest)
            };
            let private = self.left.iter().filter(keeps).map(|(name, _)| name.clone()).collect();
            (gpu.clone(), Card { there: true, free, private, profile: profile.clone(), ..Card::default() })
        };
        Seen {
            payloads: self.payloads.iter().map(life).collect(),
            cards: self.idle.iter().map(card).collect(),
            looked: self.now,
            left: self.left.keys().map(|name| (name.clone(), self.unwiped.contains(name))).collect(),
        }
    }

    fn act(&mut self, deed: &Deed) {
        let now = self.now;
        match deed {
            Deed::Stop(name) => {
                let place = self.payloads.get_mut(name).unwrap();
                place.1 = if place.1 == Is::Crashing { Is::Rest } else { Is::Ending(now) };
            }
            Deed::Wipe(name) => {
                assert_eq!(self.payloads[name].1, Is::Rest, "{name} loses what it works with");
                if self.payloads[name].0.sticky {
                    self.unwiped.insert(name.clone());
                } else {
                    self.left.remove(name);
                }
            }
            Deed::Give(share) => {
                self.given.insert(share.payload.clone(), share.gpus.clone());
                self.left.insert(share.payload.clone(), share.gpus.clone());
                self.unwiped.remove(&share.payload);
            }
            Deed::Start(name) => {
                let gpus = self.given[name].clone();
                for gpu in &gpus {
                    let others = self.owner(gpu).filter(|owner| *owner != name);
                    assert_eq!(others, None, "{name} is started on somebody's GPU");
                    let profile = self.idle[gpu].1.clone();
                    let of_others = profile.filter(|profile| *profile != format!("profile of {name}"));
                    assert_eq!(of_others, None, "{name} is started with somebody's profile");
                    let left = self.left.iter().find(|(other, gpus)| *other != name && gpus.contains(gpu));
                    assert_eq!(left, None, "{name} is started beside what is private of somebody");
                }
                let place = self.payloads.get_mut(name).unwrap();
                if place.1 == Is::Rest || place.1 == Is::Crashing {
                    (place.1, place.2) = (Is::Starting(now), gpus);
                }
            }
            Deed::Finish(_) => {}
        }
    }
}

/// What the next agent reads.
fn reread(journal: &str, now: Duration) -> Switch {
    Switch { since: now, ..serde_json::from_str(journal).unwrap() }
}

/// Runs a switch to its end, with an agent that is killed at these moments: before a deed, or after writing down a step.
fn drive(world: &mut World, begun: Switch, kills: &[bool]) -> (Switch, Outcome) {
    let mut kills = kills.iter().copied();
    let mut switch = begun;
    let mut journal = serde_json::to_string(&switch).unwrap();
    for _ in 0..3_000 {
        let (after, deeds) = next(switch.clone(), &world.seen(), world.now);
        if (after.step, after.back, after.told) != (switch.step, switch.back, switch.told) {
            if kills.next().unwrap_or(false) {
                switch = reread(&journal, world.now);
                continue;
            }
            journal = serde_json::to_string(&after).unwrap();
        }
        let quiet = after == switch && deeds.is_empty();
        switch = after;
        let mut killed = false;
        for deed in &deeds {
            if let Deed::Finish(outcome) = deed {
                return (switch, *outcome);
            }
            killed = kills.next().unwrap_or(false);
            if killed {
                break;
            }
            world.act(deed);
        }
        if killed {
            // The wipe that was under way is not known any more.
            world.unwiped.clear();
            switch = reread(&journal, world.now);
        }
        if quiet || !deeds.is_empty() {
            world.tick();
        }
    }
    panic!("it never ends: {switch:?}");
}

const GOOD: Nature = Nature { ends: 2, unkillable: false, starts: Some(3), sticky: false, barred: None };

#[test]
fn each_way_it_can_go() {
    let bad = Nature { starts: None, ..GOOD };
    let slow = Nature { starts: Some(60), ..GOOD };
    let deaf = Nature { ends: 9_999, ..GOOD };
    let stuck = Nature { unkillable: true, ..GOOD };
    let sticky = Nature { sticky: true, ..GOOD };
    let gone = Nature { barred: Some(1), ..GOOD };
    let quick = [Some(1), Some(1)];
    for (name, a, b, lags, expected, up) in [
        ("all is well", GOOD, GOOD, quick, Outcome::Done, vec!["b"]),
        ("one that does not listen is killed", deaf, GOOD, quick, Outcome::Done, vec!["b"]),
        ("one that cannot be killed keeps its GPU", stuck, GOOD, quick, Outcome::Stuck, vec![]),
        ("one that ends at once goes, and the other is back", GOOD, bad, quick, Outcome::Back, vec!["a"]),
        ("one that takes too long", GOOD, slow, quick, Outcome::Back, vec!["a"]),
        ("neither", bad, bad, quick, Outcome::Lost, vec![]),
        ("memory that is not given back", GOOD, GOOD, [None, Some(1)], Outcome::Held, vec![]),
        ("a profile that does not go", GOOD, GOOD, [Some(1), None], Outcome::Held, vec![]),
        ("what is private and does not go", sticky, GOOD, quick, Outcome::Unwiped, vec![]),
        ("one that somebody took out", GOOD, gone, quick, Outcome::Back, vec!["a"]),
        ("the one before was taken out since", gone, bad, quick, Outcome::Back, vec![]),
    ] {
        let mut world = World::new(&[("a", a), ("b", b)], lags);
        world.run(&share("a", &["g"]));
        world.tick();
        let switch = Switch::new(vec![share("a", &["g"])], vec![share("b", &["g"])], world.now);
        let (end, outcome) = drive(&mut world, switch, &[]);
        assert_eq!(outcome, expected, "{name}: {end:?}");
        let works = |(_, (_, is, _)): &(&String, &(Nature, Is, Vec<String>))| matches!(is, Is::Up(_));
        let running: Vec<&str> = world.payloads.iter().filter(works).map(|(name, _)| name.as_str()).collect();
        assert_eq!(running, up, "{name}");
    }
}

#[test]
fn a_look_from_before_its_end_proves_nothing() {
    let mut world = World::new(&[("a", GOOD), ("b", GOOD)], [Some(0), Some(0)]);
    let mut switch = Switch::new(vec![share("a", &["g"])], vec![share("b", &["g"])], world.now);
    switch.step = Step::Free;
    world.tick();
    let seen = world.seen();
    for (looked, step) in [(switch.since - S, Step::Free), (switch.since, Step::Free), (switch.since + S, Step::Reset)]
    {
        let (after, _) = next(switch.clone(), &Seen { looked, ..seen.clone() }, world.now);
        assert_eq!(after.step, step);
    }
}

#[test]
fn what_is_private_of_who_is_not_part_of_it_keeps_a_gpu() {
    for (of, expected) in [("a", Outcome::Done), ("gone", Outcome::Held)] {
        let mut world = World::new(&[("a", GOOD), ("b", GOOD)], [Some(0), Some(0)]);
        world.run(&share("a", &["g"]));
        world.left = [(of.to_owned(), vec!["g".to_owned()])].into();
        world.tick();
        let switch = Switch::new(vec![share("a", &["g"])], vec![share("b", &["g"])], world.now);
        let (end, outcome) = drive(&mut world, switch, &[]);
        assert_eq!((outcome, world.left.contains_key(of)), (expected, of == "gone"), "{end:?}");
    }
}

#[test]
fn one_that_nobody_knows_any_more_is_wiped_too() {
    let mut world = World::new(&[("b", GOOD)], [Some(0), Some(0)]);
    let mut switch = Switch::new(vec![share("a", &["g"])], vec![share("b", &["g"])], world.now);
    switch.step = Step::Wipe;
    world.left.insert("a".to_owned(), vec!["g".to_owned()]);
    assert_eq!(next(switch.clone(), &world.seen(), world.now), (switch.clone(), vec![Deed::Wipe("a".to_owned())]));
    world.left.clear();
    assert_eq!(next(switch, &world.seen(), world.now).0.step, Step::Start);
}

#[test]
fn what_is_still_being_taken_back_or_not_known_yet_is_not_reset() {
    let mut world = World::new(&[("a", GOOD), ("b", GOOD)], [None, None]);
    let mut switch = Switch::new(vec![share("a", &["g"])], vec![share("b", &["g"])], world.now);
    switch.step = Step::Reset;
    world.tick();
    let with = |change: &dyn Fn(&mut Card)| {
        let mut seen = world.seen();
        seen.cards.entry("g".to_owned()).and_modify(|card| {
            card.profile = None;
            change(card);
        });
        next(switch.clone(), &seen, world.now).0.step
    };
    assert_eq!(with(&|_| ()), Step::Wipe);
    // No name any more, and on the card until that is done.
    assert_eq!(with(&|card| card.resetting = true), Step::Reset);
    assert_eq!(with(&|card| card.profile = Some("profile of a".to_owned())), Step::Reset);
    assert_eq!(with(&|card| card.profile = Some("profile of b".to_owned())), Step::Wipe);
    let mut seen = world.seen();
    seen.cards.clear();
    assert_eq!(next(switch.clone(), &seen, world.now).0.step, Step::Reset);
}

#[test]
fn an_agent_that_was_just_started_waits_for_the_gpus_and_not_for_ever() {
    let world = World::new(&[("a", GOOD), ("b", GOOD)], [Some(0), Some(0)]);
    let mut switch = Switch::new(vec![share("a", &["g"])], vec![share("b", &["g"])], world.now);
    switch.step = Step::Start;
    let mut seen = world.seen();
    seen.cards.clear();
    let (after, deeds) = next(switch.clone(), &seen, world.now + FREE);
    assert_eq!((after, deeds), (switch.clone(), vec![]));
    assert!(next(switch.clone(), &seen, world.now + FREE + S).0.back);
    let (after, deeds) = next(switch, &world.seen(), world.now + S);
    assert!(after.told);
    assert_eq!(deeds, [Deed::Give(share("b", &["g"])), Deed::Start("b".to_owned())]);
}

#[test]
fn what_it_took_is_told_by_step() {
    let mut world = World::new(&[("a", GOOD), ("b", GOOD)], [Some(4), Some(7)]);
    world.run(&share("a", &["g"]));
    world.tick();
    let switch = Switch::new(vec![share("a", &["g"])], vec![share("b", &["g"])], world.now);
    let (end, outcome) = drive(&mut world, switch, &[]);
    assert_eq!(outcome, Outcome::Done);
    let [drain, free, reset, wipe, start] = end.took;
    assert!((2_000..=4_000).contains(&drain) && (2_000..=5_000).contains(&free), "{end:?}");
    assert!((1_000..=4_000).contains(&reset) && wipe <= 1_000 && (5_000..=7_000).contains(&start), "{end:?}");
}

fn nature() -> impl Strategy<Value = Nature> {
    (
        0..30_u32,
        prop::bool::weighted(0.1),
        prop::option::weighted(0.7, 0..40_u32),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 0..60_u32),
    )
        .prop_map(|(ends, unkillable, starts, sticky, barred)| Nature { ends, unkillable, starts, sticky, barred })
}

proptest! {
    /// Whatever goes wrong and whenever the agent is killed: never two on one GPU, never started with somebody's profile or before
    /// what was private of somebody is gone, and it ends in a state that its outcome tells.
    #[test]
    fn whatever_happens_it_ends_well(
        natures in [nature(), nature(), nature()],
        lags in [prop::option::weighted(0.9, 0..60_u32), prop::option::weighted(0.9, 0..80_u32)],
        shape in 0..4_usize,
        kills in prop::collection::vec(prop::bool::weighted(0.4), 0..40),
    ) {
        let [a, b, c] = natures;
        let mut world = World::new(&[("a", a), ("b", b), ("c", c)], lags);
        let (from, to) = match shape {
            0 => (vec![share("a", &["g"])], vec![share("b", &["g"])]),
            1 => (vec![share("a", &["g", "h"])], vec![share("a", &["g"]), share("b", &["h"])]),
            2 => (vec![share("a", &["g"]), share("b", &["h"])], vec![share("c", &["g", "h"])]),
            _ => (vec![], vec![share("b", &["g", "h"])]),
        };
        from.iter().for_each(|share| world.run(share));
        world.tick();
        let begun = Switch::new(from, to, world.now);
        let (end, outcome) = drive(&mut world, begun, &kills);
        let is = |share: &Share| world.payloads[&share.payload].1;
        let up = |share: &&Share| matches!(is(share), Is::Up(_));
        match outcome {
            Outcome::Done => prop_assert!(end.to.iter().all(|share| up(&share)), "{end:?}"),
            Outcome::Back => {
                let barred = |share: &Share| world.seen().payloads[&share.payload].barred;
                prop_assert!(end.from.iter().all(|share| up(&share) || barred(share)), "{end:?}");
            }
            // Nobody was started over what is left.
            Outcome::Held | Outcome::Unwiped => {
                prop_assert!(end.coming().iter().all(|share| is(share) == Is::Rest), "{end:?}");
            }
            Outcome::Stuck => prop_assert!(end.leaving().iter().any(|share| is(share) != Is::Rest), "{end:?}"),
            Outcome::Lost => prop_assert!(end.back, "{end:?}"),
            Outcome::Dropped => prop_assert!(false, "nobody asked for it"),
        }
        if matches!(outcome, Outcome::Done | Outcome::Back | Outcome::Lost) {
            let stays = |share: &Share| end.coming().iter().any(|other| other.payload == share.payload);
            let mut gone = end.leaving().iter().filter(|share| !stays(share));
            prop_assert!(gone.all(|share| !world.left.contains_key(&share.payload)), "{end:?}");
        }
        for gpu in ["g", "h"] {
            let _ = world.owner(gpu);
        }
    }
}
