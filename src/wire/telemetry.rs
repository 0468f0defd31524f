//! What changes: values only, in the order of the birth's lists.

use serde::{Deserialize, Serialize};

use super::{Energy, Gpu, GpuDetail, Payload, PowerNow, Rungs, Subject, Value};
use crate::alarm;
use crate::gpu::Driver;
use crate::payload::meter::Flag;
use crate::reading::{self, Faults, Health, Missing, Snapshot, Stage};
use crate::units::{Duty, Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

/// Body of `up/tele`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    /// The birth that the lists belong to.
    pub birth: u32,
    /// Wall clock, ms since 1970; only as good as the rig's clock.
    pub unix_ms: u64,
    /// Since the agent's start, ms; never jumps.
    pub uptime_ms: u64,
    /// One per rail.
    pub rails: Vec<Power>,
    /// One per supply.
    pub supplies: Vec<Supply>,
    /// One per temperature sensor, m°C.
    pub sensors: Vec<Value<Millicelsius>>,
    /// One per fan.
    pub fans: Vec<Fan>,
    /// One per zone.
    pub zones: Vec<Zone>,
    /// Chips that have something to say; those that are well are left out.
    pub troubles: Vec<Trouble>,
    /// Alarms that stand raised.
    pub alarms: Vec<AlarmNow>,
    /// Settings found changed and repaired since the agent's start.
    pub repairs: u32,
    /// Events that were lost inside the agent since its start.
    pub lost_events: u32,
    /// Messages that the outbox had to drop since the agent's start.
    pub dropped: u32,
    /// Messages that the broker refused for good since the agent's start.
    pub refused: u32,
    /// Indices into the birth's chips: those that are read through the kernel driver that owns them.
    #[serde(default)]
    pub through_kernel: Vec<u16>,
    /// How late the last control tick came, microseconds.
    #[serde(default)]
    pub tick_late_us: u32,
    /// How it stands with the GPUs' driver.
    #[serde(default)]
    pub driver: Driver,
    /// One per GPU.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// More of one GPU; with each message of the next.
    #[serde(default)]
    pub gpu_detail: Option<GpuDetail>,
    /// One per payload.
    #[serde(default)]
    pub payloads: Vec<Payload>,
    /// Whether each payload's word on its work can be believed.
    #[serde(default)]
    pub beliefs: Vec<Flag>,
    /// What was used, ever; none before the books are open.
    #[serde(default)]
    pub energy: Option<Energy>,
    /// The cap that holds; none where nothing is held back.
    #[serde(default)]
    pub power: Option<PowerNow>,
    /// How far each GPU is held back; empty where none is.
    #[serde(default)]
    pub rungs: Vec<Rungs>,
    /// Commands to which nothing was answered since the agent's start: they came too fast, or there was no room for them.
    #[serde(default)]
    pub unread: u32,
}

/// What was lost on the way to the broker since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events inside the agent.
    pub events: u32,
    /// Messages dropped by the outbox.
    pub dropped: u32,
    /// Messages refused by the broker.
    pub refused: u32,
    /// Commands dropped unread.
    pub unread: u32,
}

/// A power measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// Voltage, mV.
    pub mv: Value<Millivolts>,
    /// Current, mA.
    pub ma: Value<Milliamps>,
    /// Power, mW.
    pub mw: Value<Milliwatts>,
}

/// Both sides of a supply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supply {
    /// Drawn from the mains.
    pub input: Power,
    /// Given to the rig.
    pub output: Power,
}

/// A fan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fan {
    /// Speed, revolutions a minute.
    pub rpm: Value<Rpm>,
    /// Drive as the chip holds it, hundredths of a percent.
    pub duty: Value<Duty>,
    /// The chip says that this fan does not follow.
    pub fault: bool,
}

/// A thermal zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Drive ordered in this tick, hundredths of a percent; not present while nothing is ordered yet.
    pub duty: Value<Duty>,
    /// Why.
    pub stage: Stage,
}

/// A chip that is lost or says that something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Index into the birth's chips.
    pub chip: u16,
    /// Why it does not answer; none where it does.
    pub lost: Option<Missing>,
    /// What it says is wrong: a bit for each [`reading::Fault`].
    pub faults: Faults,
}

/// An alarm that stands raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmNow {
    /// What is wrong.
    pub alarm: alarm::Kind,
    /// With what.
    pub subject: Subject,
}

impl From<reading::Power> for Power {
    fn from(power: reading::Power) -> Self {
        Self { mv: power.voltage.into(), ma: power.current.into(), mw: power.power.into() }
    }
}

impl Telemetry {
    /// A snapshot as it goes out; `turn` counts messages, for what takes turns.
    #[must_use]
    pub fn new(birth: u32, unix_ms: u64, uptime_ms: u64, snapshot: &Snapshot, losses: Losses, turn: usize) -> Self {
        let gpus = &snapshot.gpus.gpus;
        let airs = snapshot.gpu_air.iter().copied().chain(std::iter::repeat(reading::Zone::NONE));
        let turn = turn.checked_rem(gpus.len());
        let fan = |fan: &reading::Fan| Fan { rpm: fan.rpm.into(), duty: fan.duty.into(), fault: fan.fault };
        Self {
            birth,
            unix_ms,
            uptime_ms,
            rails: snapshot.rails.iter().map(|power| Power::from(*power)).collect(),
            supplies: snapshot
                .supplies
                .iter()
                .map(|[input, output]| Supply { input: (*input).into(), output: (*output).into() })
                .collect(),
            sensors: snapshot.sensors.iter().map(|sensor| Value(*sensor)).collect(),
            fans: snapshot.fans.iter().map(fan).collect(),
            zones: snapshot.zones.iter().map(|zone| Zone { duty: zone.duty.into(), stage: zone.stage }).collect(),
            troubles: troubles(&snapshot.chips),
            alarms: snapshot
                .alarms
                .iter()
                .map(|alarm| AlarmNow { alarm: alarm.kind, subject: alarm.subject.into() })
                .collect(),
            repairs: snapshot.repairs,
            lost_events: losses.events,
            dropped: losses.dropped,
            refused: losses.refused,
            unread: losses.unread,
            through_kernel: through_kernel(&snapshot.chips),
            tick_late_us: u32::try_from(snapshot.late.as_micros()).unwrap_or(u32::MAX),
            driver: snapshot.gpus.driver,
            gpus: gpus.iter().zip(airs).map(|(gpu, air)| Gpu::new(gpu, air)).collect(),
            gpu_detail: turn.and_then(|index| Some(GpuDetail::new(index, gpus.get(index)?))),
            payloads: snapshot.payloads.0.iter().map(Payload::new).collect(),
            beliefs: snapshot.payloads.0.iter().map(|payload| payload.belief).collect(),
            energy: None,
            power: PowerNow::new(&snapshot.restraint),
            rungs: Rungs::all(&snapshot.restraint),
        }
    }
}

fn through_kernel(chips: &[(Health, Faults)]) -> Vec<u16> {
    let indices = (0..).zip(chips).filter(|(_, (health, _))| *health == Health::ThroughKernel);
    indices.map(|(index, _)| index).collect()
}

fn troubles(chips: &[(Health, Faults)]) -> Vec<Trouble> {
    let trouble = |(index, (health, faults)): (usize, &(Health, Faults))| {
        let lost = match health {
            Health::Failed(missing) => Some(*missing),
            Health::Ok | Health::ThroughKernel | Health::Unknown => None,
        };
        let chip = u16::try_from(index).unwrap_or(u16::MAX);
        (lost.is_some() || *faults != Faults::NONE).then_some(Trouble { chip, lost, faults: *faults })
    };
    chips.iter().enumerate().filter_map(trouble).collect()
}
