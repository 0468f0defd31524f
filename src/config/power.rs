//! `[power]`: how much the rig may draw, how that is held, and what its supplies and rails must never carry.
//!
//! ```toml
//! [power]
//! cap_w = 2400              # at the measured input; none where it is left out
//! ramp_w_per_s = 200        # how fast the rig comes down to it; at once where it is left out
//! floor_w = 900             # a cap_w below it is a mistake, for files that something computes
//! efficiency_pct = 88       # of the supplies at their worst, where the input is not measured
//! base_w = 250              # what the rig draws without its GPUs, at most
//! margin_pct = 3            # of a cap that stays unused while its meter is not believed
//! lend_pct = 4              # of a cap that cards at rest lend to the others at most: more is above the cap when they come back
//! release_w_per_s = 50      # how fast a cap that was raised or lifted is followed
//! jitter_s = 30             # how long it is waited before that, at most: each rig has its own share of it
//! guard_supplies = true     # what the board says that all supplies together may draw is a limit for all GPUs
//! [power.limit.psu1]        # a supply or a rail of the board: its breaker
//! w = 1200                  # or what the board says of it
//! gpus = ["0000:01:00.0", "GPU-5f0e…"]
//! ```
//!
//! A limit is no cap: no command, floor or ramp lifts it. That of all supplies together holds where `guard_supplies` asks
//! for it, and the board has to say of each what it may draw; which GPUs hang on which of several supplies only the configuration can
//! say.

use std::time::Duration;

use crate::board::Board;
use crate::control::limits::{Place, Rule};
use crate::control::step::power::{Cap, Policy, Source};
use crate::digest::fnv1a;
use crate::gpu::config::Card;
use crate::source::{Problem, Problems, Table};
use crate::units::{Milliwatts, MilliwattsPerSecond, Percent};

/// Most that may be written for any of them, W: a rig is no hall.
const MOST_W: u32 = 100_000;

/// What the configuration says of power.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerConfig {
    /// How caps are held; its jitter is the longest, see [`PowerConfig::policy`].
    policy: Policy,
    /// The configuration's own cap.
    pub cap: Option<Cap>,
    /// Where it is written that what the board's supplies may draw together is a limit for all GPUs; none where it is not.
    guard_supplies: Option<Problem>,
    limits: Vec<Limit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    /// Of a supply or a rail.
    name: String,
    limit: Option<Milliwatts>,
    gpus: Vec<Card>,
    /// Where it is written.
    at: Problem,
}

impl PowerConfig {
    pub(super) fn read(root: &Table<'_>) -> Self {
        let table = root.table("power");
        table.only(&[
            "cap_w",
            "ramp_w_per_s",
            "floor_w",
            "efficiency_pct",
            "base_w",
            "margin_pct",
            "lend_pct",
            "release_w_per_s",
            "jitter_s",
            "guard_supplies",
            "limit",
        ]);
        let watts = |key: &str, default: u32, low: u32| table.ranged(key, low, MOST_W).unwrap_or(default) * 1000;
        let percent =
            |key: &str, default: Percent, low: u8, high: u8| Percent(table.ranged(key, low, high).unwrap_or(default.0));
        let default = Policy::default();
        let policy = Policy {
            efficiency: percent("efficiency_pct", default.efficiency, 50, 100),
            base: Milliwatts(watts("base_w", default.base.0 / 1000, 0)),
            margin: percent("margin_pct", default.margin, 0, 50),
            lend: percent("lend_pct", default.lend, 0, 100),
            release: MilliwattsPerSecond(watts("release_w_per_s", default.release.0 / 1000, 1)),
            jitter: Duration::from_secs(table.ranged("jitter_s", 0, 3_600).unwrap_or(30_u32).into()),
        };
        let floor = Milliwatts(watts("floor_w", 0, 0));
        let cap = table.has("cap_w").then(|| Cap {
            ramp: table.has("ramp_w_per_s").then(|| MilliwattsPerSecond(watts("ramp_w_per_s", 1, 1))),
            ..Cap::at_once(Milliwatts(watts("cap_w", MOST_W, 50)), Source::Configuration)
        });
        for key in ["ramp_w_per_s", "floor_w"] {
            if cap.is_none() && table.has(key) {
                table.complain(key, "is of a cap, and there is no cap_w");
            }
        }
        if cap.is_some_and(|cap| floor > cap.limit) {
            table.complain("floor_w", "is above cap_w");
        }
        let limits = table.tables("limit").into_iter().map(|(name, limit)| Limit::read(name, &limit)).collect();
        let guard = table.flag("guard_supplies").unwrap_or(false);
        let guard_supplies = guard.then(|| table.place_of("guard_supplies"));
        Self { policy, cap, guard_supplies, limits }
    }

    /// How caps are held by the rig of this name: its share of the jitter is always the same.
    #[must_use]
    pub fn policy(&self, rig: &str) -> Policy {
        let most = u64::try_from(self.policy.jitter.as_millis()).unwrap_or(u64::MAX);
        let share = most * u64::from(fnv1a(rig.as_bytes())) / u64::from(u32::MAX);
        Policy { jitter: Duration::from_millis(share), ..self.policy.clone() }
    }

    /// What nothing lifts, for this board: first all supplies together, then what the configuration names.
    ///
    /// # Errors
    /// Limits of what the board does not have, or says nothing of; with file, line and key.
    pub fn rules(&self, board: &Board) -> Result<Vec<Rule>, Problems> {
        let mut rules: Vec<Rule> = Vec::new();
        let mut problems = Vec::new();
        if let Some(at) = &self.guard_supplies {
            match together(board) {
                Ok(limit) => rules.push(Rule { place: Place::Supplies, limit, gpus: None }),
                Err(text) => problems.push(Problem { text, ..at.clone() }),
            }
        }
        for Limit { name, limit, gpus, at } in &self.limits {
            let supply = board.supplies.iter().position(|supply| supply.name == *name);
            let rail = board.rails.iter().position(|rail| rail.name == *name);
            let (place, known) = match (supply, rail) {
                (Some(index), _) => (Place::Supply(index), board.supplies.get(index).and_then(|one| one.max_input)),
                (None, Some(index)) => (Place::Rail(index), board.rails.get(index).and_then(|one| one.max_power)),
                (None, None) => {
                    let supplies = board.supplies.iter().map(|supply| supply.name.as_str());
                    let known: Vec<&str> = supplies.chain(board.rails.iter().map(|rail| rail.name.as_str())).collect();
                    let text = format!("the board `{}` has only {}", board.name, known.join(", "));
                    problems.push(Problem { text, ..at.clone() });
                    continue;
                }
            };
            match limit.or(known) {
                Some(limit) => rules.push(Rule { place, limit, gpus: Some(gpus.clone()) }),
                None => {
                    let text = "needs `w`: the board says nothing of it".to_owned();
                    problems.push(Problem { text, ..at.clone() });
                }
            }
        }
        if problems.is_empty() { Ok(rules) } else { Err(Problems(problems)) }
    }
}

/// What all supplies of the board may draw together; what is wrong where it does not say that of each.
fn together(board: &Board) -> Result<Milliwatts, String> {
    if board.supplies.is_empty() {
        return Err(format!("the board `{}` has no supply", board.name));
    }
    let silent = board.supplies.iter().filter(|supply| supply.max_input.is_none()).map(|supply| supply.name.as_str());
    let silent: Vec<&str> = silent.collect();
    if !silent.is_empty() {
        let names = silent.join(", ");
        return Err(format!("the board `{}` does not say max_input_mw of {names}", board.name));
    }
    let most = board.supplies.iter().filter_map(|supply| supply.max_input);
    Ok(most.fold(Milliwatts(0), |sum, most| Milliwatts(sum.0.saturating_add(most.0))))
}

impl Limit {
    fn read(name: String, table: &Table<'_>) -> Self {
        table.only(&["w", "gpus"]);
        let limit = table.ranged("w", 10, MOST_W).map(|watts| Milliwatts(watts * 1000));
        let gpus = table.texts("gpus");
        if gpus.is_empty() {
            table.complain("gpus", "must name the GPUs that it feeds: nothing else is held back for it");
        }
        let card = |gpu: &String| {
            let card = Card::named(gpu);
            if card.is_none() {
                table.complain("gpus", format!("`{gpu}` must be like GPU-… (its UUID) or 0000:01:00.0"));
            }
            card
        };
        Self { name, limit, gpus: gpus.iter().filter_map(card).collect(), at: table.place() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<PowerConfig, String> {
        let text = format!("board = \"a\"\n{text}");
        Config::parse("rigd.toml", &text, "host").map(|config| config.power).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_said_of_power_and_what_is_not() {
        assert_eq!(parse("").unwrap().cap, None);
        let config =
            parse("[power]\ncap_w = 2400\nramp_w_per_s = 200\nfloor_w = 900\nbase_w = 100\njitter_s = 0").unwrap();
        let cap = Cap {
            ramp: Some(MilliwattsPerSecond(200_000)),
            ..Cap::at_once(Milliwatts(2_400_000), Source::Configuration)
        };
        assert_eq!(config.cap, Some(cap));
        assert_eq!(config.policy("r"), Policy { base: Milliwatts(100_000), ..Policy::default() });
    }

    #[test]
    fn each_rig_has_its_own_share_of_the_jitter_and_keeps_it() {
        let config = parse("[power]\njitter_s = 60").unwrap();
        let shares: Vec<Duration> = (0..20).map(|rig| config.policy(&format!("rig-{rig}")).jitter).collect();
        assert!(shares.iter().all(|share| *share <= Duration::from_secs(60)));
        assert_eq!(shares[7], config.policy("rig-7").jitter);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(*most - *least > Duration::from_secs(20), "{shares:?}");
    }

    #[test]
    fn every_mistake_names_file_line_and_key() {
        for (text, expected) in [
            ("cap_w = 10", "rigd.toml:3: power.cap_w: must be 50 to 100000, not 10"),
            ("cap_w = 100\nfloor_w = 200", "rigd.toml:4: power.floor_w: is above cap_w"),
            ("floor_w = 200", "rigd.toml:3: power.floor_w: is of a cap, and there is no cap_w"),
            ("efficiency_pct = 40", "rigd.toml:3: power.efficiency_pct: must be 50 to 100, not 40"),
            ("cap = 1", "rigd.toml:3: power.cap: unknown key"),
            ("[power.limit.psu1]\nw = 100", "rigd.toml:3: power.limit.psu1.gpus: must name the GPUs"),
            (
                "[power.limit.psu1]\ngpus = [\"1\"]",
                "rigd.toml:4: power.limit.psu1.gpus: `1` must be like GPU-… (its UUID)",
            ),
            ("[power.limit.psu1]\nwatts = 1\ngpus = [\"GPU-1\"]", "rigd.toml:4: power.limit.psu1.watts: unknown key"),
        ] {
            let error = parse(&format!("[power]\n{text}")).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn limits_are_of_what_the_board_has() {
        let one = Board::load("simulated-8gpu").unwrap();
        let two = Board::load("frame-12gpu").unwrap();
        let rules =
            |text: &str, board: &Board| parse(text).unwrap().rules(board).map_err(|problems| problems.to_string());
        let whole = |watts: u32| Rule { place: Place::Supplies, limit: Milliwatts(watts * 1000), gpus: None };
        assert_eq!(rules("", &one), Ok(vec![]), "nobody asked for it");
        let all = "[power]\nguard_supplies = true\n";
        assert_eq!(rules(all, &one), Ok(vec![whole(3_200)]));
        assert_eq!(rules(all, &two), Ok(vec![whole(2_600)]));
        let card = || Some(vec![Card::named("GPU-1").unwrap()]);
        let own = |place, watts: u32| Rule { place, limit: Milliwatts(watts * 1000), gpus: card() };
        let text = "[power.limit.gpu3]\nw = 300\ngpus = [\"GPU-1\"]\n[power.limit.psu1]\ngpus = [\"GPU-1\"]";
        assert_eq!(rules(text, &one), Ok(vec![own(Place::Rail(3), 300), own(Place::Supply(0), 3_200)]));
        let error = rules("[power.limit.psu9]\ngpus = [\"GPU-1\"]", &one).unwrap_err();
        assert!(
            error.starts_with("rigd.toml:2: power.limit.psu9: the board `simulated-8gpu` has only psu1, gpu0"),
            "{error}"
        );
        let mut silent = one.clone();
        silent.supplies[0].max_input = None;
        let expected =
            "rigd.toml:3: power.guard_supplies: the board `simulated-8gpu` does not say max_input_mw of psu1";
        assert_eq!(rules(all, &silent), Err(expected.to_owned()), "what guards nothing is not taken for a guard");
        assert_eq!(rules("[power]\nguard_supplies = false\n", &silent), Ok(vec![]));
        let bare = Board { supplies: Vec::new(), ..one.clone() };
        let expected = "rigd.toml:3: power.guard_supplies: the board `simulated-8gpu` has no supply";
        assert_eq!(rules(all, &bare), Err(expected.to_owned()));
        let many = Board { supplies: vec![one.supplies[0].clone(); 2_000], ..one.clone() };
        assert_eq!(rules(all, &many).unwrap()[0].limit, Milliwatts(u32::MAX), "no sum wraps");
        // Every mistake at once.
        let both = format!("{all}[power.limit.psu1]\ngpus = [\"GPU-1\"]");
        assert_eq!(rules(&both, &silent).unwrap_err().lines().count(), 2);
        let error = rules("[power.limit.psu1]\ngpus = [\"GPU-1\"]", &silent).unwrap_err();
        assert_eq!(error, "rigd.toml:2: power.limit.psu1: needs `w`: the board says nothing of it");
    }
}
