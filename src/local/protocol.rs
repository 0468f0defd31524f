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
//! > {"trial":{"gpu":"GPU-…","power_mw":220000,"core_mhz":1410,"memory_mhz":5001,"seconds":15}}
//! < "done"
//! > {"calibrate":{"zone":"cards"}}
//! < {"calibration":{"begun":{"fans":["fan1","fan2"]}}}
//! < {"calibration":{"point":{"fan":"fan1","duty":10000,"rpm":5820}}}
//! < {"calibration":"done"}
//! > {"fly":"home"}
//! < {"error":"not understood: unknown variant `fly`, expected one of `get`, `payload`, `log`, `calibrate` at line 1 column 6"}
//! ```

mod calibration;
mod energy;
mod gpu;
mod history;
mod payload;
mod power;

use serde::{Deserialize, Serialize};

pub use self::calibration::Calibration;
pub use self::energy::{Energy, EnergyAccount, Use};
pub use self::gpu::{Gpu, Gpus};
pub use self::history::{Head, Series};
pub use self::payload::Payload;
pub use self::power::{GpuHeld, PowerHeld};
use crate::arbiter::view::View;
use crate::gpu::Released;
use crate::payload::LogPart;
use crate::payload::supervisor::Reloaded;
use crate::units::{Megahertz, Milliwatts};

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
        /// Highest memory clock, MHz; none leaves it.
        #[serde(default)]
        memory_mhz: Option<Megahertz>,
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
