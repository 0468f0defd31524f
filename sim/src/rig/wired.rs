//! Which pin of which chip sees or drives what in the world.

use anyhow::{Result, bail};
use rigd::board::{Board, Chip as BoardChip, ChipKind, Point};
use rigd::bus::Adapter;
use rigd::chip::{Part, Settings};

use crate::chip::Chip;
use crate::chip::adm1275::{Adm1275, Kind as HotSwap};
use crate::chip::common_slot::CommonSlot;
use crate::chip::emc2305::{self, Emc2305};
use crate::chip::ina226::Ina226;
use crate::chip::ina3221::{self, Ina3221};
use crate::chip::max31790::{self, Max31790};
use crate::chip::pmbus::{Absent, Inside, Pmbus};
use crate::chip::tmp75::{Kind as Thermometer, Lm75};
use crate::chip::tmp421::{self, Tmp421};
use crate::world::{Fan, Layout, Place, Probe, Supply, World};

/// A chip and what its pins are connected to: indices into the world, by channel.
pub(super) enum Wired {
    Adm1275(Adm1275, Pin, Pin),
    CommonSlot(CommonSlot, usize),
    Emc2305(Box<Emc2305>, [Pin; emc2305::FANS]),
    Ina226(Ina226, Pin),
    Ina3221(Ina3221, [Pin; ina3221::CHANNELS]),
    Lm75(Lm75, Pin),
    Max31790(Box<Max31790>, [Pin; max31790::FANS]),
    Pmbus(Pmbus, usize),
    Tmp421(Tmp421, [Pin; tmp421::CHANNELS]),
}

/// What a pin is connected to, if it is.
type Pin = Option<usize>;

/// Parts that measure a card's rail, drive the frame's fans, and have thermometers in its air.
const MONITORS: [&str; 5] = ["adm1272", "adm1275", "adm1278", "ina226", "ina3221"];
const FAN_DRIVERS: [&str; 5] = ["emc2301", "emc2302", "emc2303", "emc2305", "max31790"];
const THERMOMETERS: [&str; 8] = ["adm1272", "adm1278", "lm75", "tmp105", "tmp421", "tmp422", "tmp423", "tmp75"];

/// What the board's names mean in the world, in the board's order; supplies are added chip by chip.
pub(super) fn layout(board: &Board) -> Layout {
    let is = |point: &Point, parts: &[&str]| {
        let bus = board.buses.get(point.bus).filter(|bus| matches!(bus.adapter, Adapter::Socket(_)));
        let chip = bus.and_then(|bus| bus.chips.get(point.chip));
        chip.is_some_and(|chip| match &chip.kind {
            ChipKind::I2c { part, .. } => parts.contains(&part.name),
            ChipKind::Hwmon(_) => false,
        })
    };
    let rails = board.rails.iter().filter(|rail| is(&rail.at, &MONITORS));
    let fans = board.fans.iter().filter(|fan| is(&fan.at, &FAN_DRIVERS));
    let sensors = board.sensors.iter().filter(|sensor| is(&sensor.at, &THERMOMETERS));
    let place = |name: &str| if name.starts_with("intake") { Place::Intake } else { Place::Exhaust };
    Layout {
        gpus: rails.map(|rail| rail.name.clone()).collect(),
        profiles: Vec::new(),
        fans: fans
            .map(|fan| (fan.name.clone(), fan.max_rpm.0.into(), f64::from(fan.start.hundredths()) / 10_000.0))
            .collect(),
        probes: sensors.map(|sensor| (sensor.name.clone(), place(&sensor.name))).collect(),
        supplies: Vec::new(),
    }
}

/// A chip's place on the board, to find what the board connects to it.
pub(super) struct At<'a> {
    pub(super) board: &'a Board,
    pub(super) bus: usize,
    pub(super) chip: usize,
}

impl At<'_> {
    fn is(&self, point: &Point, channel: usize) -> bool {
        point.bus == self.bus && point.chip == self.chip && point.channel == channel
    }

    /// The card whose rail each channel measures.
    fn rails<const N: usize>(&self, layout: &Layout) -> [Pin; N] {
        std::array::from_fn(|channel| {
            let rail = self.board.rails.iter().find(|rail| self.is(&rail.at, channel))?;
            layout.gpus.iter().position(|name| *name == rail.name)
        })
    }

    /// The thermometer of each channel.
    fn probes<const N: usize>(&self, layout: &Layout) -> [Pin; N] {
        std::array::from_fn(|channel| {
            let sensor = self.board.sensors.iter().find(|sensor| self.is(&sensor.at, channel))?;
            layout.probes.iter().position(|(name, _)| *name == sensor.name)
        })
    }

    /// The fan of each channel.
    fn fans<const N: usize>(&self, layout: &Layout) -> [Pin; N] {
        std::array::from_fn(|channel| {
            let fan = self.board.fans.iter().find(|fan| self.is(&fan.at, channel))?;
            layout.fans.iter().position(|(name, ..)| *name == fan.name)
        })
    }

    /// A supply of its own, by the name that the board has for it.
    fn supply(&self, refdes: &str, layout: &mut Layout) -> usize {
        let mine = |point: &Point| point.bus == self.bus && point.chip == self.chip;
        let supply = self.board.supplies.iter().find(|supply| mine(&supply.output));
        layout.supplies.push(supply.map_or_else(|| refdes.to_owned(), |supply| supply.name.clone()));
        layout.supplies.len() - 1
    }
}

impl Wired {
    pub(super) fn new(
        at: &At<'_>,
        chip: &BoardChip,
        part: &Part,
        addr: u8,
        settings: &Settings,
        absent: Absent,
        layout: &mut Layout,
    ) -> Result<Self> {
        let shunt = settings.shunt.0;
        let hot_swap = |kind, layout: &Layout| {
            let ([rail], [probe]) = (at.rails(layout), at.probes(layout));
            Self::Adm1275(Adm1275::new(kind, shunt), rail, probe)
        };
        let thermometer = |kind, layout: &Layout| {
            let [probe] = at.probes(layout);
            Self::Lm75(Lm75::new(kind), probe)
        };
        let fans =
            |many, layout: &Layout| Self::Emc2305(Box::new(Emc2305::new(many, pulses(settings))), at.fans(layout));
        Ok(match part.name {
            "adm1272" => hot_swap(HotSwap::Adm1272, layout),
            "adm1275" => hot_swap(HotSwap::Adm1275, layout),
            "adm1278" => hot_swap(HotSwap::Adm1278, layout),
            "emc2301" => fans(1, layout),
            "emc2302" => fans(2, layout),
            "emc2303" => fans(3, layout),
            "emc2305" => fans(5, layout),
            "hp-common-slot" => {
                let supply = at.supply(&chip.refdes, layout);
                Self::CommonSlot(CommonSlot::new(addr, settings.current_divisor), supply)
            }
            "ina226" => {
                let [rail] = at.rails(layout);
                Self::Ina226(Ina226::new(shunt), rail)
            }
            "ina3221" => Self::Ina3221(Ina3221::new(shunt), at.rails(layout)),
            "lm75" => thermometer(Thermometer::Lm75, layout),
            "max31790" => Self::Max31790(Box::new(Max31790::new(pulses(settings))), at.fans(layout)),
            "pmbus" => Self::Pmbus(Pmbus::new(absent), at.supply(&chip.refdes, layout)),
            "tmp105" | "tmp75" => thermometer(Thermometer::Tmp75, layout),
            "tmp421" => Self::Tmp421(Tmp421::new(2), at.probes(layout)),
            "tmp422" => Self::Tmp421(Tmp421::new(3), at.probes(layout)),
            "tmp423" => Self::Tmp421(Tmp421::new(4), at.probes(layout)),
            other => bail!("{}: there is no simulated {other}", chip.refdes),
        })
    }

    pub(super) fn chip(&mut self) -> &mut dyn Chip {
        match self {
            Self::Adm1275(chip, ..) => chip,
            Self::CommonSlot(chip, _) => chip,
            Self::Emc2305(chip, _) => chip.as_mut(),
            Self::Ina226(chip, _) => chip,
            Self::Ina3221(chip, _) => chip,
            Self::Lm75(chip, _) => chip,
            Self::Max31790(chip, _) => chip.as_mut(),
            Self::Pmbus(chip, _) => chip,
            Self::Tmp421(chip, _) => chip,
        }
    }

    /// The chip sees the world as it is now.
    pub(super) fn sense(&mut self, world: &World) {
        match self {
            Self::Adm1275(chip, gpu, probe) => {
                let (volts, amps) = rail(world, *gpu);
                chip.measure(volts, amps, celsius(world, *probe).unwrap_or(world.ambient));
            }
            Self::CommonSlot(chip, supply) => {
                if let Some(supply) = world.supplies.get(*supply) {
                    chip.measure(world.time(), inside(supply));
                }
            }
            Self::Emc2305(chip, fans) => chip.run(world.time(), speeds(world, fans)),
            Self::Ina226(chip, gpu) => {
                let (volts, amps) = rail(world, *gpu);
                chip.measure(volts, amps);
            }
            Self::Ina3221(chip, gpus) => chip.measure(gpus.map(|gpu| rail(world, gpu))),
            Self::Lm75(chip, probe) => chip.measure(celsius(world, *probe).unwrap_or(world.ambient)),
            Self::Max31790(chip, fans) => chip.run(world.time(), speeds(world, fans)),
            Self::Pmbus(chip, supply) => {
                if let Some(supply) = world.supplies.get(*supply) {
                    chip.measure(inside(supply));
                }
            }
            Self::Tmp421(chip, probes) => {
                let [own, first, second, third] = probes.map(|probe| celsius(world, probe));
                // Its own temperature it has always.
                chip.measure([own.or(Some(world.ambient)), first, second, third]);
            }
        }
    }

    /// The world sees what the chip drives; a fan with an open PWM input runs at full speed.
    pub(super) fn drive(&self, world: &mut World, gone: bool) {
        match self {
            Self::Emc2305(chip, fans) => drive(world, fans, &chip.outputs(), gone),
            Self::Max31790(chip, fans) => drive(world, fans, &chip.outputs(), gone),
            Self::Adm1275(..) | Self::CommonSlot(..) | Self::Ina226(..) | Self::Ina3221(..) => {}
            Self::Lm75(..) | Self::Pmbus(..) | Self::Tmp421(..) => {}
        }
    }
}

fn pulses<const N: usize>(settings: &Settings) -> [u8; N] {
    let mut pulses = [2; N];
    for (ours, fan) in pulses.iter_mut().zip(&settings.pulses) {
        *ours = *fan;
    }
    pulses
}

/// Volts and amperes of a card's rail; without a card, of one that nothing draws from.
fn rail(world: &World, gpu: Pin) -> (f64, f64) {
    let gpu = gpu.and_then(|gpu| world.gpus.get(gpu));
    gpu.map_or((world.bus_volts(), 0.0), |gpu| (gpu.volts, gpu.amps()))
}

fn celsius(world: &World, probe: Pin) -> Option<f64> {
    probe.and_then(|probe| world.probes.get(probe)).map(Probe::celsius)
}

fn speeds<const N: usize>(world: &World, fans: &[Pin; N]) -> [f64; N] {
    fans.map(|fan| fan.and_then(|fan| world.fans.get(fan)).map_or(0.0, |fan: &Fan| fan.rpm))
}

fn drive(world: &mut World, fans: &[Pin], outputs: &[f64], gone: bool) {
    for (fan, output) in fans.iter().zip(outputs) {
        if let Some(fan) = fan.and_then(|fan| world.fans.get_mut(fan)) {
            fan.duty = if gone { 1.0 } else { *output };
        }
    }
}

fn inside(supply: &Supply) -> Inside {
    Inside {
        input_volts: supply.input_volts,
        input_amps: supply.input_amps,
        input_watts: supply.input_watts,
        output_volts: supply.volts,
        output_amps: supply.output_amps(),
        output_watts: supply.output_watts,
        inlet: supply.inlet,
        celsius: supply.celsius,
        fan_rpm: supply.fan_rpm,
        off: supply.off,
        input_low: supply.input_low(),
        hot: supply.hot(),
        fan_fails: supply.fan_fails(),
        overloaded: supply.overloaded(),
    }
}
