//! What does not change until the next birth: names, parts, limits. Telemetry refers to it by its id.

use serde::{Deserialize, Serialize};

use super::hex::hex_bytes;
use super::{Encoding, GpuInfo, Kind, PayloadInfo, PublicKey, RigId};
use crate::board::{Board, ChipKind, Point};
use crate::compact;
use crate::digest::fnv1a;
use crate::gpu::GpuSnapshot;
use crate::payload::supervisor::Payloads;
use crate::units::{Milliamps, Millicelsius, Millivolts, Milliwatts, Rpm};

/// Body of `up/birth`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// Hash of the lists below: the same board gives the same id.
    pub id: u32,
    /// The rig's name.
    pub rig: RigId,
    /// Version of the agent.
    pub agent: String,
    /// Some of it is a simulated rig: no watt of it is real.
    pub simulated: bool,
    /// When the agent started, ms since 1970 by the rig's clock.
    pub started_unix_ms: u64,
    /// Counts the connections of this start, from 1.
    pub connection: u32,
    /// How messages are written.
    pub encoding: Encoding,
    /// The kinds that this agent writes and the major version of each.
    pub kinds: Vec<(Kind, u8)>,
    /// Time between telemetry messages, ms.
    pub period_ms: u32,
    /// When a message counts as delivered.
    pub delivery: Delivery,
    /// How the outbox stands at this connection.
    pub outbox: OutboxInfo,
    /// The board.
    pub board: BoardInfo,
    /// Chips, bus by bus.
    pub chips: Vec<ChipInfo>,
    /// Rails.
    pub rails: Vec<RailInfo>,
    /// Supplies.
    pub supplies: Vec<SupplyInfo>,
    /// Temperature sensors.
    pub sensors: Vec<SensorInfo>,
    /// Fans.
    pub fans: Vec<FanInfo>,
    /// Zones.
    pub zones: Vec<ZoneInfo>,
    /// Serial number of the board, where its EEPROM says one.
    #[serde(default)]
    pub serial: Option<String>,
    /// Version of the GPUs' driver, once it is up.
    #[serde(default)]
    pub driver: Option<String>,
    /// GPUs, in the order in which they were first seen.
    #[serde(default)]
    pub gpus: Vec<GpuInfo>,
    /// Payloads, by name.
    #[serde(default)]
    pub payloads: Vec<PayloadInfo>,
    /// Random per start of the agent; 0 where it takes no commands. A command that carries it is good without a clock.
    #[serde(default)]
    pub nonce: u64,
    /// The rig's clock is known to be right; without it a command must carry the nonce.
    #[serde(default)]
    pub clock_set: bool,
    /// How far the rig's audit log went when this was said; none before the first record. A log that ends before it was cut.
    #[serde(default)]
    pub audit_head: Option<AuditHead>,
    /// The key that signs this rig's receipts; none where it has none.
    #[serde(default)]
    pub receipt_key: Option<PublicKey>,
}

hex_bytes!(
    /// The SHA-256 of a record of the audit log.
    AuditHash(32)
);

/// The end of a rig's audit log: `rigd-ctl audit verify --head N:HASH` compares a log with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The number of its last record, from 1.
    pub n: u64,
    /// Its hash.
    pub hash: AuditHash,
}

/// When a message leaves the outbox. Numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// When the broker has acknowledged it: no control plane announced itself.
    Puback,
    /// When the control plane's watermark has passed it.
    Watermark,
}

/// How the outbox stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxInfo {
    /// Messages that wait.
    pub waiting: u32,
    /// Messages dropped for want of room since the agent's start, the oldest telemetry first.
    pub dropped: u32,
    /// Messages that the broker refused since the agent's start.
    pub refused: u32,
}

/// Which board file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardInfo {
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: String,
}

/// A chip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipInfo {
    /// Reference designator.
    pub refdes: String,
    /// Part, or the kernel driver that it is read through.
    pub part: String,
    /// Bus.
    pub bus: String,
    /// Address on it; none where a kernel driver has it.
    pub addr: Option<u8>,
}

/// A rail and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RailInfo {
    /// Name.
    pub name: String,
    /// Index into the chips.
    pub chip: u16,
    /// Lowest good voltage, mV.
    pub min_mv: Option<Millivolts>,
    /// Highest good voltage, mV.
    pub max_mv: Option<Millivolts>,
    /// Highest good current, mA.
    pub max_ma: Option<Milliamps>,
    /// Highest good power, mW.
    pub max_mw: Option<Milliwatts>,
}

/// A supply and its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupplyInfo {
    /// Name.
    pub name: String,
    /// Index into the chips.
    pub chip: u16,
    /// Most that it may draw, mW.
    pub max_input_mw: Option<Milliwatts>,
}

/// A temperature sensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SensorInfo {
    /// Name.
    pub name: String,
    /// Index into the chips.
    pub chip: u16,
}

/// A fan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanInfo {
    /// Name.
    pub name: String,
    /// Index into the chips.
    pub chip: u16,
    /// Slowest that counts as turning.
    pub min_rpm: Rpm,
    /// Speed at full drive.
    pub max_rpm: Rpm,
    /// Index into the zones; none where it is only watched.
    pub zone: Option<u16>,
}

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneInfo {
    /// Name.
    pub name: String,
    /// Full air from here on, m°C.
    pub critical_mc: Millicelsius,
    /// Indices into the sensors.
    pub sensors: Vec<u16>,
}

fn index(i: usize) -> u16 {
    u16::try_from(i).unwrap_or(u16::MAX)
}

impl Birth {
    /// The birth of a rig with this board; what belongs to a connection is filled in by who connects.
    #[must_use]
    pub fn new(rig: RigId, board: &Board, encoding: Encoding, period_ms: u32, started_unix_ms: u64) -> Self {
        let chip =
            |at: Point| index(board.buses.iter().take(at.bus).map(|bus| bus.chips.len()).sum::<usize>() + at.chip);
        let mut birth = Self {
            id: 0,
            rig,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            simulated: board.simulated(),
            started_unix_ms,
            connection: 0,
            encoding,
            kinds: Kind::ALL.into_iter().filter(|kind| kind.is_a_rigs()).map(|kind| (kind, 1)).collect(),
            period_ms,
            delivery: Delivery::Puback,
            outbox: OutboxInfo::default(),
            board: BoardInfo { name: board.name.clone(), revision: board.revision.clone() },
            chips: board.chips().map(|(bus, chip)| chip_info(&bus.name, chip)).collect(),
            rails: Vec::new(),
            supplies: Vec::new(),
            sensors: board
                .sensors
                .iter()
                .map(|sensor| SensorInfo { name: sensor.name.clone(), chip: chip(sensor.at) })
                .collect(),
            fans: Vec::new(),
            zones: Vec::new(),
            serial: None,
            driver: None,
            gpus: Vec::new(),
            payloads: Vec::new(),
            nonce: 0,
            clock_set: false,
            audit_head: None,
            receipt_key: None,
        };
        birth.rails.extend(board.rails.iter().map(|rail| RailInfo {
            name: rail.name.clone(),
            chip: chip(rail.at),
            min_mv: rail.min_voltage,
            max_mv: rail.max_voltage,
            max_ma: rail.max_current,
            max_mw: rail.max_power,
        }));
        birth.supplies.extend(board.supplies.iter().map(|supply| SupplyInfo {
            name: supply.name.clone(),
            chip: chip(supply.input),
            max_input_mw: supply.max_input,
        }));
        birth.fans.extend(board.fans.iter().map(|fan| FanInfo {
            name: fan.name.clone(),
            chip: chip(fan.at),
            min_rpm: fan.min_rpm,
            max_rpm: fan.max_rpm,
            zone: fan.zone.map(index),
        }));
        birth.zones.extend(board.zones.iter().map(|zone| ZoneInfo {
            name: zone.name.clone(),
            critical_mc: zone.critical,
            sensors: zone.sensors.iter().copied().map(index).collect(),
        }));
        birth.id = birth.hash();
        birth
    }

    /// Takes in what became known of GPUs and payloads; whether that made it another birth.
    pub fn learn(&mut self, gpus: &GpuSnapshot, payloads: &Payloads) -> bool {
        self.payloads = payloads.0.iter().map(PayloadInfo::new).collect();
        let driver = gpus.versions.as_ref().map(|versions| versions.driver.clone()).or_else(|| self.driver.clone());
        let found: Vec<GpuInfo> = gpus.gpus.iter().map(GpuInfo::new).collect();
        let before = self.gpus.drain(..).map(Some).chain(std::iter::repeat_with(|| None));
        let merged: Vec<GpuInfo> = found.into_iter().zip(before).map(|(new, old)| new.after(old)).collect();
        let before = (self.id, self.driver.take());
        (self.driver, self.gpus) = (driver, merged);
        self.id = self.hash();
        before != (self.id, self.driver.clone())
    }

    /// Of the board and the lists: what telemetry's meaning depends on.
    fn hash(&self) -> u32 {
        let lists = (&self.board, &self.chips, &self.rails, &self.supplies, &self.sensors, &self.fans, &self.zones);
        // Fails for a body of unknown length only; lists have one.
        let mut bytes = compact::write(&lists).unwrap_or_default();
        if !self.gpus.is_empty() || !self.payloads.is_empty() {
            bytes.extend(compact::write(&(&self.gpus, &self.payloads)).unwrap_or_default());
        }
        fnv1a(&bytes)
    }
}

fn chip_info(bus: &str, chip: &crate::board::Chip) -> ChipInfo {
    let (part, addr) = match &chip.kind {
        ChipKind::I2c { part, addr, .. } => (part.name.to_owned(), Some(*addr)),
        ChipKind::Hwmon(hwmon) => (hwmon.driver.clone(), None),
    };
    ChipInfo { refdes: chip.refdes.clone(), part, bus: bus.to_owned(), addr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_boards_and_not_the_connections() {
        let board = Board::load("simulated-8gpu").unwrap();
        let rig: RigId = "a".parse().unwrap();
        let birth = Birth::new(rig.clone(), &board, Encoding::Json, 1000, 5);
        assert_eq!(birth.id, Birth::new(rig.clone(), &board, Encoding::Postcard, 9, 6).id);
        let mut other = board.clone();
        other.rails.swap(0, 1);
        assert_ne!(birth.id, Birth::new(rig, &other, Encoding::Json, 1000, 5).id);
        let part = |index: u16| birth.chips.get(usize::from(index)).map(|chip| chip.part.as_str());
        assert!(birth.rails.iter().all(|rail| part(rail.chip) == Some("ina226")));
        assert!(birth.fans.iter().all(|fan| part(fan.chip) == Some("max31790")));
    }
}
