//! Which pin of which chip sees or drives what in the world.

use anyhow::{Result, bail};
use rigd::board::{Board, Chip as BoardChip, ChipKind, Point};
use rigd::bus::Adapter;
use rigd::chip::{Part, Settings};

use crate::chip::Chip;
use crate::chip::ina226::Ina226;
use crate::chip::max31790::{FANS, Max31790};
use crate::chip::pmbus::{Absent, Inside, Pmbus};
use crate::chip::tmp75::{Kind as Thermometer, Lm75};
use crate::world::{Layout, Place, Probe, World};

/// A chip and what its pins are connected to: indices into the world.
pub(super) enum Wired {
    Ina226(Ina226, Option<usize>),
    Lm75(Lm75, Option<usize>),
    Max31790(Box<Max31790>, [Option<usize>; FANS]),
    Pmbus(Pmbus, usize),
}

/// What the board's names mean in the world, in the board's order; supplies are added chip by chip.
pub(super) fn layout(board: &Board) -> Layout {
    let part = |point: &Point| {
        let bus = board.buses.get(point.bus).filter(|bus| matches!(bus.adapter, Adapter::Socket(_)))?;
        match &bus.chips.get(point.chip)?.kind {
            ChipKind::I2c { part, .. } => Some(part.name),
            ChipKind::Hwmon(_) => None,
        }
    };
    let rails = board.rails.iter().filter(|rail| part(&rail.at) == Some("ina226"));
    let fans = board.fans.iter().filter(|fan| part(&fan.at) == Some("max31790"));
    let sensors = board.sensors.iter().filter(|sensor| matches!(part(&sensor.at), Some("tmp75" | "lm75")));
    let place = |name: &str| if name.starts_with("intake") { Place::Intake } else { Place::Exhaust };
    Layout {
        gpus: rails.map(|rail| rail.name.clone()).collect(),
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
    fn is(&self, point: &Point) -> bool {
        point.bus == self.bus && point.chip == self.chip
    }
}

impl Wired {
    pub(super) fn new(
        at: &At<'_>,
        chip: &BoardChip,
        part: &Part,
        settings: &Settings,
        absent: Absent,
        layout: &mut Layout,
    ) -> Result<Self> {
        match part.name {
            "ina226" => {
                let rail = at.board.rails.iter().find(|rail| at.is(&rail.at));
                let gpu = rail.and_then(|rail| layout.gpus.iter().position(|name| *name == rail.name));
                Ok(Self::Ina226(Ina226::new(settings.shunt.0), gpu))
            }
            "tmp75" | "lm75" => {
                let kind = if part.name == "lm75" { Thermometer::Lm75 } else { Thermometer::Tmp75 };
                let sensor = at.board.sensors.iter().find(|sensor| at.is(&sensor.at));
                let probe = sensor.and_then(|sensor| layout.probes.iter().position(|(name, _)| *name == sensor.name));
                Ok(Self::Lm75(Lm75::new(kind), probe))
            }
            "max31790" => {
                let mut pulses = [2; FANS];
                for (ours, fan) in pulses.iter_mut().zip(&settings.pulses) {
                    *ours = *fan;
                }
                let fans = std::array::from_fn(|channel| {
                    let fan = at.board.fans.iter().find(|fan| at.is(&fan.at) && fan.at.channel == channel)?;
                    layout.fans.iter().position(|(name, ..)| *name == fan.name)
                });
                Ok(Self::Max31790(Box::new(Max31790::new(pulses)), fans))
            }
            "pmbus" => {
                let supply = at.board.supplies.iter().find(|supply| at.is(&supply.output));
                layout.supplies.push(supply.map_or_else(|| chip.refdes.clone(), |supply| supply.name.clone()));
                Ok(Self::Pmbus(Pmbus::new(absent), layout.supplies.len() - 1))
            }
            other => bail!("{}: there is no simulated {other}", chip.refdes),
        }
    }

    pub(super) fn chip(&mut self) -> &mut dyn Chip {
        match self {
            Self::Ina226(chip, _) => chip,
            Self::Lm75(chip, _) => chip,
            Self::Max31790(chip, _) => chip.as_mut(),
            Self::Pmbus(chip, _) => chip,
        }
    }

    /// The chip sees the world as it is now.
    pub(super) fn sense(&mut self, world: &World) {
        match self {
            Self::Ina226(chip, gpu) => match gpu.and_then(|gpu| world.gpus.get(gpu)) {
                Some(gpu) => chip.measure(gpu.volts, gpu.amps()),
                None => chip.measure(world.bus_volts(), 0.0),
            },
            Self::Lm75(chip, probe) => {
                let probe = probe.and_then(|probe| world.probes.get(probe));
                chip.measure(probe.map_or(world.ambient, Probe::celsius));
            }
            Self::Max31790(chip, fans) => {
                chip.run(
                    world.time(),
                    fans.map(|fan| fan.and_then(|fan| world.fans.get(fan)).map_or(0.0, |fan| fan.rpm)),
                );
            }
            Self::Pmbus(chip, supply) => {
                if let Some(supply) = world.supplies.get(*supply) {
                    chip.measure(Inside {
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
                    });
                }
            }
        }
    }

    /// The world sees what the chip drives; a fan with an open PWM input runs at full speed.
    pub(super) fn drive(&self, world: &mut World, gone: bool) {
        match self {
            Self::Max31790(chip, fans) => {
                for (fan, output) in fans.iter().zip(chip.outputs()) {
                    if let Some(fan) = fan.and_then(|fan| world.fans.get_mut(fan)) {
                        fan.duty = if gone { 1.0 } else { output };
                    }
                }
            }
            Self::Ina226(..) | Self::Lm75(..) | Self::Pmbus(..) => {}
        }
    }
}
