//! What is asked of the rig beyond its configuration: profiles of GPUs, targets of zones, which payload gets which GPUs, how much
//! it may draw, maintenance, and that its fans pulse so that somebody finds it.
//!
//! ```text
//! command, desired state ── Desk: is it possible here? ── watch<Setpoints> ──> control, which alone gives orders
//!                                        └── setpoints.json, for the next start
//! ```
//!
//! A setpoint moves what control aims at and no limit: a zone's critical temperature, a fan's minimum and a card's constraints
//! are the board's, the configuration's and the driver's, whoever asks.

mod power;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::warn;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::board::Board;
use crate::clock;
use crate::gpu::Limits;
use crate::gpu::config::{GpuConfig, NONE};
use crate::reading::Snapshot;
use crate::statefile::StateFile;
use crate::units::Millicelsius;
use crate::wire::Market;

/// A target so near to the critical temperature would be held by full air alone.
const ROOM: i32 = 10_000;
/// A target below it is a slip of the pen: air is not colder.
const COLDEST: i32 = 20_000;
/// Full air for so long, then as before for so long: it is heard from the end of the aisle.
const PULSE: Duration = Duration::from_secs(4);
/// Longest time to blink.
pub const LONGEST_IDENTIFY: Duration = Duration::from_secs(600);
/// The state file is a few names a card.
const LARGEST: u64 = 64 * 1024;

/// What survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// Of every GPU that is not named below; `none` leaves them alone.
    profile: Option<String>,
    /// By UUID.
    profiles: BTreeMap<String, String>,
    /// By zone, m°C.
    targets: BTreeMap<String, i32>,
    /// UUIDs of GPUs by payload.
    assigned: BTreeMap<String, Vec<String>>,
    maintenance: Option<Maintenance>,
    caps: power::Caps,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A command to this rig or to a group, or a person on the rig.
    Command,
    /// A command to the whole site.
    Site,
    /// The desired state.
    Desired,
}

/// Somebody works at the rig: its payloads rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Maintenance {
    /// Ends by itself then, ms since 1970.
    pub until_ms: Option<u64>,
    /// Payloads that ran when it began, and run again when it ends.
    pub resume: Vec<String>,
    /// The desired state began it, and ends it.
    pub desired: bool,
}

/// What control aims at.
#[derive(Clone, Debug)]
pub struct Setpoints {
    kept: Kept,
    /// The board with the targets that hold now.
    pub board: Arc<Board>,
    /// The caps that hold.
    caps: Vec<power::Held>,
    identify: Option<(Instant, Instant)>,
    /// What a watt earns with each payload, by name, in any unit that is the same for all.
    worths: BTreeMap<String, u64>,
    /// What a search for better settings tries now, by UUID, and until when at most.
    trials: BTreeMap<String, (Limits, Instant)>,
    /// GPUs that the plan has given to payloads, by UUID. Whoever plans keeps it on the disk.
    given: BTreeMap<String, Vec<String>>,
    /// Prices and leases of the desired state, which is on the disk.
    market: Option<Arc<Market>>,
}

impl Setpoints {
    /// Nothing beyond the configuration.
    #[must_use]
    pub fn none(board: Arc<Board>) -> Self {
        Self {
            kept: Kept::default(),
            board,
            caps: Vec::new(),
            identify: None,
            worths: BTreeMap::new(),
            trials: BTreeMap::new(),
            given: BTreeMap::new(),
            market: None,
        }
    }

    fn new(kept: Kept, configured: &Board) -> Self {
        let mut board = configured.clone();
        for zone in &mut board.zones {
            if let (Some(hold), Some(target)) = (&mut zone.hold, kept.targets.get(&zone.name)) {
                hold.target = Millicelsius(*target);
            }
        }
        Self { kept, ..Self::none(Arc::new(board)) }
    }

    /// The profile asked for of the GPU with this UUID; none leaves it to the configuration.
    #[must_use]
    pub fn profile(&self, uuid: &str) -> Option<&str> {
        self.kept.profiles.get(uuid).or(self.kept.profile.as_ref()).map(String::as_str)
    }

    /// The GPUs asked for of this payload, by UUID; none leaves them to its manifest.
    #[must_use]
    pub fn assigned(&self, payload: &str) -> Option<&[String]> {
        self.kept.assigned.get(payload).map(Vec::as_slice)
    }

    /// The GPUs that the plan has given to this payload, by UUID; none where it has given it none.
    #[must_use]
    pub fn given(&self, payload: &str) -> Option<&[String]> {
        self.given.get(payload).map(Vec::as_slice)
    }

    /// Prices and leases that were last told.
    #[must_use]
    pub const fn market(&self) -> Option<&Arc<Market>> {
        self.market.as_ref()
    }

    /// Temperatures asked for, by zone.
    pub fn targets(&self) -> impl Iterator<Item = (&str, Millicelsius)> {
        self.kept.targets.iter().map(|(zone, target)| (zone.as_str(), Millicelsius(*target)))
    }

    /// Whether somebody works at the rig.
    #[must_use]
    pub fn maintenance(&self) -> Option<&Maintenance> {
        self.kept.maintenance.as_ref()
    }

    /// What a watt earns with this payload, in a unit that is the same for all; 1 where nobody knows.
    #[must_use]
    pub fn worth(&self, payload: &str) -> u64 {
        self.worths.get(payload).copied().unwrap_or(1)
    }

    /// What is tried on the GPU with this UUID now, beside everything else that holds it back.
    #[must_use]
    pub fn trial(&self, uuid: &str, now: Instant) -> Limits {
        self.trials.get(uuid).filter(|(_, until)| now < *until).map_or_else(Limits::default, |(limits, _)| *limits)
    }

    /// Whether the fans are to be heard now: full air and as before by turns.
    #[must_use]
    pub fn pulses(&self, now: Instant) -> bool {
        self.identify.is_some_and(|(from, until)| {
            let since = now.saturating_duration_since(from).as_secs();
            now < until && (since / PULSE.as_secs()).is_multiple_of(2)
        })
    }
}

/// Where setpoints are changed. Each change is checked against what this rig has, and refused whole.
#[derive(Clone)]
pub struct Desk {
    configured: Arc<Board>,
    profiles: Arc<Vec<String>>,
    sender: watch::Sender<Arc<Setpoints>>,
    file: StateFile,
    /// One change is written at a time, the newest last.
    writing: Arc<Mutex<()>>,
}

/// What was asked for is not possible here; the text says why, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(pub String);

impl Desk {
    /// A desk over what the last start left in the state directory, and where control looks. What does not fit this board and
    /// configuration any more is forgotten and told.
    #[must_use]
    pub fn open(state: &Path, board: &Arc<Board>, gpus: &GpuConfig) -> (Self, watch::Receiver<Arc<Setpoints>>) {
        let file = StateFile::new(state, "setpoints.json", LARGEST);
        let mut kept: Kept = file.load("what was asked for beyond the configuration is forgotten");
        let profiles = gpus.profiles.iter().map(|profile| profile.name.clone()).collect();
        let (sender, receiver) = watch::channel(Arc::new(Setpoints::none(Arc::clone(board))));
        let desk = Self {
            configured: Arc::clone(board),
            profiles: Arc::new(profiles),
            sender,
            file,
            writing: Arc::new(Mutex::new(())),
        };
        let known =
            |name: &String| desk.known_profile(name).map_err(|error| warn!("setpoint forgotten: {error}")).is_ok();
        kept.profile = kept.profile.filter(known);
        kept.profiles.retain(|_, name| known(name));
        kept.targets.retain(|zone, target| {
            desk.good_target(zone, *target).map_err(|error| warn!("setpoint forgotten: {error}")).is_ok()
        });
        let caps = kept.caps.held(clock::now());
        desk.sender.send_replace(Arc::new(Setpoints { caps, ..Setpoints::new(kept, board) }));
        (desk, receiver)
    }

    /// Gives a profile to one GPU, or to every one; none takes back what was asked for, so that the configuration holds.
    ///
    /// # Errors
    /// Where there is no such profile, or no such GPU.
    pub fn set_profile(&self, gpu: Option<&str>, profile: Option<&str>, snapshot: &Snapshot) -> Result<(), Impossible> {
        if let Some(name) = profile {
            self.known_profile(name)?;
        }
        let has = |uuid| snapshot.gpus.gpus.iter().any(|gpu| gpu.has(uuid));
        match gpu {
            Some(uuid) if !has(uuid) => return Err(Impossible(format!("there is no GPU {uuid}"))),
            Some(uuid) => self.change(|kept| {
                match profile {
                    Some(name) => kept.profiles.insert(uuid.to_owned(), name.to_owned()),
                    None => kept.profiles.remove(uuid),
                };
            }),
            None => self.change(|kept| {
                kept.profiles.clear();
                kept.profile = profile.map(str::to_owned);
            }),
        }
        Ok(())
    }

    /// Moves the temperature that a zone holds; none goes back to the board's.
    ///
    /// # Errors
    /// Where there is no such zone, it holds none, or it could not hold this one.
    pub fn set_target(&self, zone: &str, target: Option<i32>) -> Result<(), Impossible> {
        self.good_target(zone, target.unwrap_or(COLDEST))?;
        self.change(|kept| {
            match target {
                Some(target) => kept.targets.insert(zone.to_owned(), target),
                None => kept.targets.remove(zone),
            };
        });
        Ok(())
    }

    /// Gives GPUs to a payload, by UUID, from its next start on; none leaves them to its manifest.
    ///
    /// # Errors
    /// Where there is no such GPU.
    pub fn assign(&self, payload: &str, gpus: &[String], snapshot: &Snapshot) -> Result<(), Impossible> {
        gpus.iter().try_for_each(|uuid| known_gpu(uuid, snapshot))?;
        self.change(|kept| {
            match gpus {
                [] => kept.assigned.remove(payload),
                _ => kept.assigned.insert(payload.to_owned(), gpus.to_vec()),
            };
        });
        Ok(())
    }

    /// Begins, changes or ends a maintenance; what it was before.
    pub fn set_maintenance(&self, maintenance: Option<Maintenance>) -> Option<Maintenance> {
        let before = self.sender.borrow().kept.maintenance.clone();
        self.change(|kept| kept.maintenance = maintenance);
        before
    }

    /// The profiles that this rig knows, by name.
    #[must_use]
    pub fn profiles(&self) -> &[String] {
        &self.profiles
    }

    /// What holds now.
    #[must_use]
    pub fn now(&self) -> Arc<Setpoints> {
        Arc::clone(&self.sender.borrow())
    }

    /// Lets the rig be heard for so long, at most [`LONGEST_IDENTIFY`]; no time ends it.
    pub fn identify(&self, now: Instant, time: Duration) {
        self.sender.send_modify(|setpoints| {
            let identify = Some((now, now + time.min(LONGEST_IDENTIFY)));
            *setpoints = Arc::new(Setpoints { identify, ..Setpoints::clone(setpoints) });
        });
    }

    /// Tells what a watt earns with each payload: where power is short, those that earn least give it first.
    pub fn set_worths(&self, worths: BTreeMap<String, u64>) {
        self.sender.send_if_modified(|setpoints| {
            let changed = setpoints.worths != worths;
            if changed {
                *setpoints = Arc::new(Setpoints { worths, ..Setpoints::clone(setpoints) });
            }
            changed
        });
    }

    /// Tells which GPUs the plan has given to each payload.
    pub fn set_given(&self, given: BTreeMap<String, Vec<String>>) {
        self.sender.send_if_modified(|setpoints| {
            let changed = setpoints.given != given;
            if changed {
                *setpoints = Arc::new(Setpoints { given, ..Setpoints::clone(setpoints) });
            }
            changed
        });
    }

    /// Tells prices and leases; none are none.
    pub fn set_market(&self, market: Option<&Market>) {
        self.sender.send_if_modified(|setpoints| {
            let changed = setpoints.market.as_deref() != market;
            if changed {
                let market = market.cloned().map(Arc::new);
                *setpoints = Arc::new(Setpoints { market, ..Setpoints::clone(setpoints) });
            }
            changed
        });
    }

    /// Tries limits on one GPU until then at most; no limits end it. It is a search's, and forgotten with the agent.
    ///
    /// # Errors
    /// Where there is no such GPU.
    pub fn set_trial(&self, uuid: &str, limits: Limits, until: Instant, snapshot: &Snapshot) -> Result<(), Impossible> {
        known_gpu(uuid, snapshot)?;
        self.sender.send_modify(|setpoints| {
            let mut next = Setpoints::clone(setpoints);
            if limits == Limits::default() {
                next.trials.remove(uuid);
            } else {
                next.trials.insert(uuid.to_owned(), (limits, until));
            }
            *setpoints = Arc::new(next);
        });
        Ok(())
    }

    /// Writes what is asked for, for the next start. Waits for the disk: not from a task.
    ///
    /// # Errors
    /// What the system says; what was asked for holds all the same, until the next start.
    pub fn save(&self) -> std::io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.sender.borrow().kept.clone();
        self.file.save(&kept)
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        self.sender.send_modify(|setpoints| {
            let mut kept = setpoints.kept.clone();
            change(&mut kept);
            let Setpoints { kept, board, .. } = Setpoints::new(kept, &self.configured);
            *setpoints = Arc::new(Setpoints { kept, board, ..Setpoints::clone(setpoints) });
        });
    }

    fn known_profile(&self, name: &str) -> Result<(), Impossible> {
        if name == NONE || self.profiles.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(Impossible(format!("there is no profile `{name}`, only: {}", self.profiles.join(", "))))
    }

    fn good_target(&self, name: &str, target: i32) -> Result<(), Impossible> {
        let Some(zone) = self.configured.zones.iter().find(|zone| zone.name == name) else {
            let known: Vec<&str> = self.configured.zones.iter().map(|zone| zone.name.as_str()).collect();
            return Err(Impossible(format!("there is no zone `{name}`, only: {}", known.join(", "))));
        };
        if zone.hold.is_none() {
            return Err(Impossible(format!("zone `{name}` follows a curve and holds no temperature")));
        }
        let highest = zone.critical.0.saturating_sub(ROOM);
        if (COLDEST..=highest).contains(&target) {
            return Ok(());
        }
        Err(Impossible(format!("zone `{name}` can hold {COLDEST} to {highest} m°C, not {target}")))
    }
}

fn known_gpu(uuid: &str, snapshot: &Snapshot) -> Result<(), Impossible> {
    let has = |gpu: &crate::gpu::Gpu| gpu.has(uuid);
    if snapshot.gpus.gpus.iter().any(has) { Ok(()) } else { Err(Impossible(format!("there is no GPU {uuid}"))) }
}

#[cfg(test)]
mod tests;
