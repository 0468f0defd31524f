//! What is said on the local socket: a JSON object a line, both ways. Both ends come from one release, so fields may change;
//! the form of a line does not.
//!
//! ```text
//! > {"get":"history"}
//! < {"history":{"rig":"rig-0001",…,"slots":[0,1,2],"series":2}}
//! < {"series":{"quantity":"temperature","name":"intake","last":[24187,"bus",24250],"low":[…],"high":[…]}}
//! < {"series":{"quantity":"fan_drive","name":"fan1","last":[3250,3250,3250]}}
//! > {"get":"gpus"}
//! < {"gpus":{"driver":"up","version":"550.54.14","count":8}}
//! < {"gpu":{"info":{"pci":"0000:01:00.0",…},"now":{…},"more":{…}}}
//! > {"get":"energy"}
//! < {"energy":{"at_unix_ms":1700000000000,"basis":"input",…,"accounts":2}}
//! < {"energy_account":{"of":"rig","name":"","gpu":"","used":{"energy":720000000,"work":0,…},"unit":null,"milli_per_joule":null}}
//! > {"payload":{"name":"miner","order":"restart"}}
//! < "done"
//! > "reload"
//! < {"reloaded":{"added":[],"changed":["miner"],"removed":[],"problems":[]}}
//! > {"gpu_clear":{"gpu":"0000:01:00.0","profile":"eco"}}
//! < {"gpu_cleared":1}
//! > {"gpu_release":{"seconds":300}}
//! < {"gpu_released":"clean"}
//! > {"trial":{"gpu":"GPU-…","power_mw":220000,"core_mhz":1410,"seconds":15}}
//! < "done"
//! > {"calibrate":{"zone":"cards"}}
//! < {"calibration":{"begun":{"fans":["fan1","fan2"]}}}
//! < {"calibration":{"point":{"fan":"fan1","duty":10000,"rpm":5820}}}
//! < {"calibration":"done"}
//! > {"fly":"home"}
//! < {"error":"not understood: unknown variant `fly`, expected one of `get`, `payload`, `log`, `calibrate` at line 1 column 6"}
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arbiter::view::View;
use crate::board::Board;
use crate::calibration::FanCurve;
use crate::control::step::{Report, Stopped};
use crate::energy::{Account, Basis, Books, Kept};
use crate::gpu::{Driver, Released};
use crate::history::{History, Quantity, SLOT_MS, series};
use crate::payload::meter::Flag;
use crate::payload::supervisor::{Payloads, Reloaded, Status};
use crate::payload::{By, Hold, LogPart};
use crate::reading::{Snapshot, Zone};
use crate::units::{Duty, Megahertz, MilliPerSecond, Milliwatts, Rpm};
use crate::wire::{self, RigId, Value};

/// Longest line that a client may send, with its newline. A longer one is answered with an error, and the connection ends.
pub const MAX_REQUEST: usize = 4_096;

/// Longest time for which the agent lets go of the GPUs' driver, s: their fan rules and profiles stand still meanwhile.
pub const MAX_RELEASE: u32 = 3_600;

/// Longest time for which limits are tried on a GPU without being asked for again, s: whoever asks may be gone.
pub const MAX_TRIAL: u32 = 60;

/// What a client may send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Asks for something and changes nothing.
    Get(Get),
    /// Orders something of a payload: answered by [`Reply::Done`].
    Payload {
        /// Its name.
        name: String,
        /// What.
        order: PayloadOrder,
    },
    /// Reads the payloads' manifests again: answered by [`Reply::Reloaded`].
    Reload,
    /// Asks for a part of a payload's log: answered by [`Reply::Log`].
    Log {
        /// Its name.
        name: String,
        /// Offset from which on; its end where there is none.
        #[serde(default)]
        from: Option<u64>,
        /// Most bytes.
        bytes: usize,
    },
    /// Lets a profile out of quarantine on a GPU, or all of them: [`Reply::GpuCleared`].
    GpuClear {
        /// The GPU's PCI address.
        gpu: String,
        /// The profile's name; all where it is left out.
        #[serde(default)]
        profile: Option<String>,
    },
    /// Gives GPUs back to their driver and lets go of it for a time: [`Reply::GpuReleased`].
    GpuRelease {
        /// How long, at most [`MAX_RELEASE`]; 0 ends it at once.
        seconds: u32,
    },
    /// Tries limits on a GPU beside everything that holds it back anyway, the lower of both: answered by [`Reply::Done`]. No
    /// limits end it. One client at a time does so.
    Trial {
        /// The GPU's UUID.
        gpu: String,
        /// Highest power limit, mW; none leaves it.
        #[serde(default)]
        power_mw: Option<Milliwatts>,
        /// Highest core clock, MHz; none leaves it.
        #[serde(default)]
        core_mhz: Option<Megahertz>,
        /// Ends by itself after so long, at most [`MAX_TRIAL`], unless it is asked for again before.
        seconds: u32,
    },
    /// Measures the fans of a zone. Ends with the connection.
    Calibrate {
        /// Its name on the board.
        zone: String,
    },
}

/// What may be ordered of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadOrder {
    /// Run it.
    Start,
    /// End it.
    Stop,
    /// End it and run it again.
    Restart,
    /// End it within so many seconds, however long it takes otherwise.
    Drain(u32),
    /// Lift its quarantine and forget its restarts.
    Clear,
}

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Get {
    /// The last hour: a [`Head`], then so many [`Series`] as it says, a line each.
    History,
    /// The GPUs as of the last tick: [`Gpus`], then so many [`Gpu`] as it says, a line each.
    Gpus,
    /// The payloads: how many there are, then a [`Payload`] a line.
    Payloads,
    /// What was used: an [`Energy`], then so many [`EnergyAccount`] as it says, a line each.
    Energy,
    /// Which payload is to have which GPU, and why: [`Reply::Plan`].
    Plan,
    /// What holds the rig's power back: [`Reply::Power`].
    Power,
}

/// A line of the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The answer to [`Get::History`] begins.
    History(Head),
    /// One series of it.
    Series(Series),
    /// The answer to [`Get::Gpus`] begins.
    Gpus(Gpus),
    /// One GPU of it.
    Gpu(Box<Gpu>),
    /// The answer to [`Get::Payloads`] begins: so many follow.
    Payloads(usize),
    /// One payload of it.
    Payload(Box<Payload>),
    /// The answer to [`Get::Energy`] begins.
    Energy(Energy),
    /// One account of it.
    EnergyAccount(EnergyAccount),
    /// What the arbiter has decided and does.
    Plan(Box<View>),
    /// What holds the rig's power back.
    Power(Box<PowerHeld>),
    /// It is done.
    Done,
    /// What came of reading the manifests again.
    Reloaded(Reloaded),
    /// A part of a log.
    Log(LogPart),
    /// So many profiles were in quarantine on the GPU and are not any more.
    GpuCleared(usize),
    /// How letting go of the GPUs' driver went.
    GpuReleased(Released),
    /// How a calibration goes; its last one is [`Calibration::Done`] or [`Calibration::Stopped`].
    Calibration(Calibration),
    /// The request could not be answered, and why, for people.
    Error(String),
}

/// One payload, in the words of the wire, and what only people want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// What does not change.
    pub info: wire::PayloadInfo,
    /// What every telemetry message says.
    pub now: wire::Payload,
    /// Its first process.
    pub pid: Option<i32>,
    /// The GPUs that it has.
    pub gpus: Vec<String>,
    /// How long it has been in its phase, s.
    pub for_s: u64,
    /// Why it was last not started.
    pub error: Option<String>,
    /// Whether its word on its work can be believed.
    pub belief: Flag,
    /// What it is expected to yield; none where nobody knows.
    pub expected: Option<MilliPerSecond>,
    /// Its manifest is gone.
    pub removed: bool,
    /// How far it is held back for the rig's power or heat.
    #[serde(default)]
    pub hold: Hold,
    /// What keeps it from working while it is paused.
    #[serde(default)]
    pub paused: Option<By>,
    /// Limits of its manifest that do not hold here.
    pub unlimited: Vec<String>,
    /// Layers of its sandbox that hold, and those that are missing, in words.
    pub layers: [String; 2],
}

impl Payload {
    /// A payload; `since_boot` is now on the clock that its status counts by.
    pub(super) fn new(status: &Status, since_boot: Duration) -> Self {
        Self {
            info: wire::PayloadInfo::new(status),
            now: wire::Payload::new(status),
            pid: status.pid,
            gpus: status.gpus.clone(),
            for_s: since_boot.saturating_sub(status.since).as_secs(),
            error: status.error.clone(),
            belief: status.belief,
            expected: status.expected.map(MilliPerSecond),
            removed: status.removed,
            hold: status.hold,
            paused: status.paused,
            unlimited: status.unlimited.iter().map(|limit| (*limit).to_owned()).collect(),
            layers: [status.layers.held.to_string(), status.layers.missing.to_string()],
        }
    }
}

/// What holds the rig's power back, as of the last tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerHeld {
    /// The cap that holds; none where nothing is held back.
    pub now: Option<wire::PowerNow>,
    /// Drawn at the inputs of all supplies together.
    pub meter: Value<Milliwatts>,
    /// Each GPU.
    pub gpus: Vec<GpuHeld>,
}

/// What holds a GPU back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuHeld {
    /// Where it sits.
    pub pci: String,
    /// What it draws.
    pub power: Value<Milliwatts>,
    /// Its highest power limit; none leaves that of its profile.
    pub limit: Option<Milliwatts>,
    /// Its highest core clock; none leaves that of its profile.
    pub clock: Option<Megahertz>,
    /// How far it is held back, and why.
    pub rungs: wire::Rungs,
}

impl PowerHeld {
    /// Of a snapshot.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let gpus = snapshot.gpus.gpus.iter().zip(&snapshot.restraint.gpus).map(|(gpu, held)| GpuHeld {
            pci: gpu.pci.to_string(),
            power: wire::Gpu::new(gpu, Zone::NONE).power,
            limit: held.limits.power,
            clock: held.limits.clock,
            rungs: wire::Rungs::new(held),
        });
        Self {
            now: wire::PowerNow::new(&snapshot.restraint),
            meter: Value(crate::control::limits::input(snapshot)),
            gpus: gpus.collect(),
        }
    }
}

/// How it stands with the GPUs' driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// Whether it answers.
    pub driver: Driver,
    /// Its version, while it answers.
    pub version: Option<String>,
    /// How many GPUs follow.
    pub count: usize,
}

/// One GPU, in the words of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// What does not change.
    pub info: wire::GpuInfo,
    /// What every telemetry message says.
    pub now: wire::Gpu,
    /// The rest.
    pub more: wire::GpuDetail,
}

impl Gpu {
    /// GPU number `index` of a snapshot.
    pub(super) fn new(index: usize, snapshot: &Snapshot) -> Option<Self> {
        let gpu = snapshot.gpus.gpus.get(index)?;
        let air = snapshot.gpu_air.get(index).copied().unwrap_or(Zone::NONE);
        Some(Self {
            info: wire::GpuInfo::new(gpu),
            now: wire::Gpu::new(gpu, air),
            more: wire::GpuDetail::new(index, gpu),
        })
    }
}

/// What was used, as it was last written to the disk, up to ten seconds ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Energy {
    /// When that was, ms since 1970; 0 where the books are not open yet.
    pub at_unix_ms: u64,
    /// What the rig's numbers are made of.
    pub basis: Basis,
    /// When the interval that is open began, ms since 1970.
    pub opened_ms: u64,
    /// Receipts that were written.
    pub receipts: u64,
    /// The hash of the last one.
    pub hash: wire::ChainHash,
    /// The key that signs them; none where there is none.
    pub key: Option<wire::PublicKey>,
    /// How many accounts follow.
    pub accounts: usize,
}

/// Whose account it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// The rig's.
    Rig,
    /// The part of the rig's that no payload used.
    Overhead,
    /// A supply's, at its input.
    SupplyInput,
    /// A supply's, at its output.
    SupplyOutput,
    /// What a GPU drew itself.
    Gpu,
    /// A payload's part of the rig's, on one GPU.
    Payload,
}

/// One account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnergyAccount {
    /// Whose.
    pub of: Use,
    /// The supply's, the GPU's or the payload's name.
    pub name: String,
    /// The GPU of a payload.
    pub gpu: String,
    /// How much.
    pub used: Account,
    /// What its work counts; none where it has no meter, or does not run any more.
    pub unit: Option<wire::PayloadUnit>,
    /// Thousandths of that for a joule; none where nothing was used.
    pub milli_per_joule: Option<u64>,
}

impl Energy {
    /// The head of these books.
    pub(super) fn new(kept: &Kept, key: Option<wire::PublicKey>, accounts: usize) -> Self {
        Self {
            at_unix_ms: kept.at.unix_ms,
            basis: kept.books.basis,
            opened_ms: kept.opened_ms,
            receipts: kept.records,
            hash: kept.chain,
            key,
            accounts,
        }
    }
}

impl EnergyAccount {
    /// Every account of these books.
    pub(super) fn all(books: &Books, payloads: &Payloads) -> Vec<Self> {
        let plain = |of, name: &str, used| Self {
            of,
            name: name.to_owned(),
            gpu: String::new(),
            used,
            unit: None,
            milli_per_joule: None,
        };
        let mut all = vec![plain(Use::Rig, "", books.rig), plain(Use::Overhead, "", books.overhead)];
        all.extend(books.supplies.iter().map(|(name, input, _)| plain(Use::SupplyInput, name, *input)));
        all.extend(books.supplies.iter().map(|(name, _, output)| plain(Use::SupplyOutput, name, *output)));
        all.extend(books.gpus.iter().map(|(uuid, used)| plain(Use::Gpu, uuid, *used)));
        all.extend(books.payloads.iter().map(|(name, gpu, used)| {
            let status = payloads.0.iter().find(|status| status.name == *name);
            Self {
                gpu: gpu.clone(),
                unit: status.and_then(|status| status.unit).map(Into::into),
                milli_per_joule: used.milli_per_joule(),
                ..plain(Use::Payload, name, *used)
            }
        }));
        all
    }
}

/// How a calibration goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// It begins with these fans, one after the other.
    Begun {
        /// Their names.
        fans: Vec<String>,
    },
    /// A fan turns so fast at this drive.
    Point {
        /// Its name.
        fan: String,
        /// Drive, hundredths of a percent.
        duty: Duty,
        /// Speed.
        rpm: Rpm,
    },
    /// A fan is done.
    Learnt {
        /// Its name.
        fan: String,
        /// What was learnt.
        curve: FanCurve,
    },
    /// All are done.
    Done,
    /// It ended early; the fans already done stay learnt.
    Stopped(Stopped),
}

impl Calibration {
    /// A report with the names of the board.
    pub(super) fn new(report: Report, board: &Board) -> Self {
        let name = |fan: usize| board.fans.get(fan).map_or_else(|| "?".to_owned(), |fan| fan.name.clone());
        match report {
            Report::Point { fan, duty, rpm } => Self::Point { fan: name(fan), duty, rpm },
            Report::Learnt { fan, curve } => Self::Learnt { fan: name(fan), curve },
            Report::Done => Self::Done,
            Report::Stopped(why) => Self::Stopped(why),
        }
    }

    /// Nothing comes after it.
    pub(super) const fn ends(&self) -> bool {
        matches!(self, Self::Done | Self::Stopped(_))
    }
}

/// Whose history it is, and of when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The rig's name.
    pub rig: RigId,
    /// Some of it is a simulated rig: no watt of it is real.
    pub simulated: bool,
    /// Now, ms since 1970; only as good as the rig's clock.
    pub unix_ms: u64,
    /// Now, ms since the agent's start.
    pub uptime_ms: u64,
    /// Length of a slot.
    pub slot_ms: u64,
    /// The slots that there are, the oldest first: slot n began n lengths after the agent's start.
    pub slots: Vec<u32>,
    /// How many series follow.
    pub series: usize,
}

/// One quantity over the slots of the head: in each a number or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// What it is about, and so its unit.
    pub quantity: Quantity,
    /// Of what, by its name on the board.
    pub name: String,
    /// The last reading of each slot.
    pub last: Vec<Value<i32>>,
    /// The lowest of each slot; of drives there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub low: Vec<Value<i32>>,
    /// The highest of each slot; of drives there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub high: Vec<Value<i32>>,
}

impl Head {
    /// The head of this history.
    pub(super) fn new(rig: &super::Rig, history: &History, unix_ms: u64, uptime_ms: u64) -> Self {
        Self {
            rig: rig.name.clone(),
            simulated: rig.board.simulated(),
            unix_ms,
            uptime_ms,
            slot_ms: SLOT_MS,
            slots: history.slots().collect(),
            series: series(&rig.board).len(),
        }
    }
}

impl Series {
    /// One of [`series`] by its index.
    pub(super) fn new(history: &History, index: usize, quantity: Quantity, name: &str) -> Self {
        let mut this = Self { quantity, name: name.to_owned(), last: Vec::new(), low: Vec::new(), high: Vec::new() };
        for sample in history.samples(index) {
            this.last.push(sample.last.into());
            if let Some([low, high]) = sample.range {
                this.low.push(low.into());
                this.high.push(high.into());
            }
        }
        this
    }
}
