//! The text that sets, breaks and asks: one command a line.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::fault::{Fault, address};
use crate::nvml;
use crate::quantize::whole;
use crate::rig::Rig;
use crate::world::{Gpu, World};

/// What can be said.
pub(crate) const HELP: &str = "\
fault air nack 0x48        the chip at 0x48 (or U30) of bus air does not acknowledge
fault main stuck           every transfer on bus main is held for 1 s, then times out
fault air gone 0x20        taken out; comes back with its registers reset
fault air frozen 0x49      measured values stay as they are
fault air garbage 0x49     reads give noise
fault main wrong-id 0x40   another part answers
fault main slow 50ms       each transfer takes longer
fault main busgone         the adapter itself is away: its socket closes
fault fan seized fan3      stands whatever its drive; also by number, or a supply's own fan by the supply's name
clear all | BUS | BUS ADDR | fan | fan NAME
set gpu 3 load 1.0         0 to 1; `all` instead of a number
set gpu 3 memory-bound 1   part of the time in which its work waits for memory, 0 to 1: get world tells work_ppm
set gpu 3 mc 93000         held there whatever its power and its air, m°C, -40000 to 200000; `free` ends it
set ambient 35000          m°C, -40000 to 80000
set mains 230000           mV, 0 to 300000; 0 is a power cut
set speed 60               simulated seconds per second, 0 to 1000; chip watchdogs run on simulated time
advance 10                 simulated seconds at once, 0 to 600
get fans | world | faults
";

/// Simulated seconds per second, at most.
pub(crate) const MAX_SPEED: f64 = 1000.0;

/// Simulated seconds that a command moves on, at most.
const MAX_ADVANCE: f64 = 600.0;

/// What a command changes besides the rig.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// Lines to answer with.
    Text(String),
    /// Another speed of time.
    Speed(f64),
}

/// Does what one line says.
pub(crate) fn obey(rig: &mut Rig, line: &str) -> Result<Said> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let Some(said) = nvml::obey(&mut rig.driver, &mut rig.world, &words) {
        return said.map(Said::Text).map_err(anyhow::Error::msg);
    }
    match words.as_slice() {
        ["help"] => return Ok(Said::Text(format!("{HELP}{}", nvml::HELP))),
        ["fault", words @ ..] => fault(rig, words)?,
        ["clear", words @ ..] => clear(rig, words)?,
        ["set", "speed", speed] => return Ok(Said::Speed(number(speed, 0.0, MAX_SPEED)?)),
        ["set", "gpu", which, "load", load] => {
            let load = number(load, 0.0, 1.0)?;
            each(&mut rig.world, which, |gpu| gpu.load = load)?;
        }
        ["set", "gpu", which, "memory-bound", part] => {
            let part = number(part, 0.0, 1.0)?;
            each(&mut rig.world, which, |gpu| gpu.memory_bound = part)?;
        }
        ["set", "gpu", which, "mc", "free"] => each(&mut rig.world, which, |gpu| gpu.held = None)?,
        ["set", "gpu", which, "mc", mc] => {
            let celsius = number(mc, -40_000.0, 200_000.0)? / 1000.0;
            each(&mut rig.world, which, |gpu| (gpu.held, gpu.celsius) = (Some(celsius), celsius))?;
        }
        ["set", "ambient", mc] => rig.world.ambient = number(mc, -40_000.0, 80_000.0)? / 1000.0,
        ["set", "mains", mv] => rig.world.mains = number(mv, 0.0, 300_000.0)? / 1000.0,
        ["advance", seconds] => rig.advance(Duration::from_secs_f64(number(seconds, 0.0, MAX_ADVANCE)?)),
        ["get", "fans"] => return Ok(Said::Text(fans(&rig.world))),
        ["get", "world"] => return Ok(Said::Text(world(&rig.world) + &nvml::truth(&rig.driver, &rig.world))),
        ["get", "faults"] => {
            let faults = rig.faults().iter().map(Fault::to_string);
            let faults = faults.chain(rig.driver.faults().map(nvml::Fault::to_string));
            return Ok(Said::Text(faults.map(|fault| format!("fault={fault}\n")).collect()));
        }
        ["set", ..] => {
            bail!(
                "set gpu N load 0.6, set gpu N memory-bound 0.9, set gpu N mc 93000, set ambient 35000, set mains 230000 or \
                 set speed 60"
            )
        }
        ["get", ..] => bail!("get fans, get world, get faults, get hits or get settings"),
        _ => bail!("no command `{line}`; there are fault, clear, set, gpu, driver, advance, get and help"),
    }
    Ok(Said::Text(String::new()))
}

fn fault(rig: &mut Rig, words: &[&str]) -> Result<()> {
    // The schematic's names are as good as addresses.
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    if let [bus, _, chip, ..] = words.as_mut_slice()
        && let Ok(bus) = rig.bus(bus)
        && let Some(addr) = bus.address(chip)
    {
        *chip = format!("{addr:#04x}");
    }
    let fault = words.join(" ").parse::<Fault>().map_err(anyhow::Error::msg)?;
    rig.break_it(fault)
}

fn clear(rig: &mut Rig, words: &[&str]) -> Result<()> {
    match words {
        ["all"] => {
            rig.driver.repair(&mut rig.world, None);
            rig.repair(|_| false)
        }
        ["fan"] => rig.repair(|fault| fault.seized().is_none()),
        ["fan", name] => rig.repair(|fault| fault.seized().is_none_or(|seized| seized != name)),
        [bus] => {
            rig.bus(bus)?;
            rig.repair(|fault| !matches!(fault, Fault::On { bus: on, .. } if on == bus))
        }
        [bus, chip] => {
            let at = rig.bus(bus)?.address(chip);
            let at = at.map_or_else(|| address(chip), Ok).map_err(anyhow::Error::msg)?;
            rig.repair(|fault| !matches!(fault, Fault::On { bus: on, addr, .. } if on == bus && *addr == Some(at)))
        }
        _ => bail!("clear all, clear main, clear main 0x40, clear fan or clear fan fan3"),
    };
    Ok(())
}

/// On one GPU, or on all.
fn each(world: &mut World, which: &str, set: impl FnMut(&mut Gpu)) -> Result<()> {
    if which == "all" {
        world.gpus.iter_mut().for_each(set);
        return Ok(());
    }
    let index: usize = which.parse().with_context(|| format!("`{which}` is no GPU; write a number from 0, or all"))?;
    let many = world.gpus.len();
    let gpu = world
        .gpus
        .get_mut(index)
        .with_context(|| format!("no GPU {index}; there are 0 to {}", many.saturating_sub(1)))?;
    std::iter::once(gpu).for_each(set);
    Ok(())
}

fn number(text: &str, low: f64, high: f64) -> Result<f64> {
    let value: f64 = text.parse().with_context(|| format!("`{text}` is not a number"))?;
    ensure!((low..=high).contains(&value), "{text} is outside {low} to {high}");
    Ok(value)
}

fn milli(value: f64) -> i32 {
    whole(value * 1000.0, i32::MIN, i32::MAX)
}

fn fans(world: &World) -> String {
    world.fans.iter().fold(String::new(), |mut text, fan| {
        let (duty, rpm) = (fan.duty * 100.0, whole(fan.rpm, 0, 65_535));
        // Writing to a String does not fail.
        let _ =
            writeln!(text, "fan.{0}.duty_pct={duty:.2}\nfan.{0}.rpm={rpm}\nfan.{0}.seized={1}", fan.name, fan.seized);
        text
    })
}

/// The truth, in the units of the agent's telemetry.
fn world(world: &World) -> String {
    let mut lines = vec![
        ("time_ms".to_owned(), millis(world.time())),
        ("ambient_mc".to_owned(), milli(world.ambient).to_string()),
        ("mains_mv".to_owned(), milli(world.mains).to_string()),
        ("exhaust_mc".to_owned(), milli(world.exhaust).to_string()),
        ("airflow_pct".to_owned(), format!("{:.2}", world.airflow() * 100.0)),
    ];
    for (index, gpu) in world.gpus.iter().enumerate() {
        let key = |what: &str| format!("gpu.{index}.{what}");
        lines.push((key("load"), format!("{:.3}", gpu.load)));
        lines.push((key("mc"), milli(gpu.celsius).to_string()));
        let key = |what: &str| format!("rail.{}.{what}", gpu.name);
        lines.push((key("mv"), milli(gpu.volts).to_string()));
        lines.push((key("ma"), milli(gpu.amps()).to_string()));
        lines.push((key("mw"), milli(gpu.watts).to_string()));
        lines.push((format!("gpu.{index}.energy_mj"), millijoules(gpu.joules)));
    }
    for supply in &world.supplies {
        let key = |what: &str| format!("supply.{}.{what}", supply.name);
        lines.push((key("input_mv"), milli(supply.input_volts).to_string()));
        lines.push((key("input_ma"), milli(supply.input_amps).to_string()));
        lines.push((key("input_mw"), milli(supply.input_watts).to_string()));
        lines.push((key("input_mj"), millijoules(supply.joules)));
        lines.push((key("output_mv"), milli(supply.volts).to_string()));
        lines.push((key("output_ma"), milli(supply.output_amps()).to_string()));
        lines.push((key("output_mw"), milli(supply.output_watts).to_string()));
        lines.push((key("mc"), milli(supply.celsius).to_string()));
        lines.push((key("rpm"), whole(supply.fan_rpm, 0, 65_535).to_string()));
        for (what, is) in [
            ("off", supply.off),
            ("input_low", supply.input_low()),
            ("hot", supply.hot()),
            ("fan_fails", supply.fan_fails()),
            ("overloaded", supply.overloaded()),
        ] {
            lines.push((key(what), is.to_string()));
        }
    }
    for probe in &world.probes {
        lines.push((format!("sensor.{}.mc", probe.name), milli(probe.celsius()).to_string()));
    }
    lines.into_iter().map(|(key, value)| format!("{key}={value}\n")).collect::<String>() + &fans(world)
}

/// Whole millijoule; what a simulated rig uses in a test is far from the end of a float's whole numbers.
fn millijoules(joules: f64) -> String {
    format!("{:.0}", joules * 1000.0)
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use rigd::board::Board;

    use super::*;
    use crate::chip::pmbus::Absent;

    fn rig() -> Rig {
        let board = Board::load("simulated-8gpu").map_err(anyhow::Error::new);
        board.and_then(|board| Rig::new(&board, 1, Absent::Ones)).unwrap()
    }

    fn text(rig: &mut Rig, line: &str) -> String {
        match obey(rig, line) {
            Ok(Said::Text(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_truth_is_told_as_keys_and_values() {
        let mut rig = rig();
        text(&mut rig, "set gpu 3 load 1.0");
        text(&mut rig, "set ambient 35000");
        rig.advance(Duration::from_secs(5));
        let world = text(&mut rig, "get world");
        for line in
            ["time_ms=5000", "ambient_mc=35000", "gpu.3.load=1.000", "gpu.2.load=0.600", "supply.psu1.off=false"]
        {
            assert!(world.lines().any(|l| l == line), "{line} in:\n{world}");
        }
        assert!(
            world
                .lines()
                .all(|line| line.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty()))
        );
        let fans = text(&mut rig, "get fans");
        assert!(fans.contains("fan.fan1.duty_pct=29.94\n") && fans.contains("fan.fan6.seized=false\n"), "{fans}");
        assert!(world.contains("rail.gpu7.mw=") && world.contains("sensor.exhaust2.mc="), "{world}");
    }

    #[test]
    fn a_held_card_is_as_hot_as_it_was_said_to_be() {
        let mut rig = rig();
        text(&mut rig, "set gpu 3 mc 93000");
        rig.advance(Duration::from_secs(60));
        assert!(text(&mut rig, "get world").contains("gpu.3.mc=93000\n"));
        text(&mut rig, "set gpu 3 mc free");
        rig.advance(Duration::from_secs(60));
        assert!(!text(&mut rig, "get world").contains("gpu.3.mc=93000\n"));
        for line in ["set gpu 3 mc 300000", "set gpu 8 mc 50000", "set gpu 3 mc warm"] {
            assert!(obey(&mut rig, line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_was_taken_from_the_mains_is_the_sum_of_every_step() {
        let mut rig = rig();
        let joules = |rig: &mut Rig| {
            let world = text(rig, "get world");
            let of = |key: &str| world.lines().find_map(|line| line.strip_prefix(key)?.parse::<f64>().ok()).unwrap();
            (of("supply.psu1.input_mj=") / 1_000.0, of("gpu.3.energy_mj=") / 1_000.0)
        };
        let before = joules(&mut rig);
        let (mut taken, mut drawn) = (0.0, 0.0);
        for step in 0..600 {
            text(&mut rig, if step % 100 < 50 { "set gpu all load 1.0" } else { "set gpu all load 0.1" });
            rig.advance(Duration::from_millis(100));
            taken += rig.world.supplies[0].input_watts * 0.1;
            drawn += rig.world.gpus[3].watts * 0.1;
        }
        let after = joules(&mut rig);
        assert!((after.0 - before.0 - taken).abs() < 0.01 && taken > 10_000.0, "{after:?} {taken}");
        assert!((after.1 - before.1 - drawn).abs() < 0.01 && drawn > 3_000.0, "{after:?} {drawn}");
    }

    #[test]
    fn time_can_be_moved_on() {
        let mut rig = rig();
        text(&mut rig, "advance 12.5");
        assert!(text(&mut rig, "get world").starts_with("time_ms=12500\n"));
    }

    #[test]
    fn faults_come_and_go_by_bus_chip_and_fan() {
        let mut rig = rig();
        for line in [
            "fault air nack U30",
            "fault air nack 0x49",
            "fault main stuck",
            "fault fan seized fan3",
            "fault main stuck",
        ] {
            text(&mut rig, line);
        }
        let all = "fault=air nack 0x48\nfault=air nack 0x49\nfault=main stuck\nfault=fan seized fan3\n";
        assert_eq!(text(&mut rig, "get faults"), all);
        text(&mut rig, "clear air 0x48");
        text(&mut rig, "clear fan fan3");
        assert_eq!(text(&mut rig, "get faults"), "fault=air nack 0x49\nfault=main stuck\n");
        text(&mut rig, "clear main");
        text(&mut rig, "clear air U31");
        assert_eq!(text(&mut rig, "get faults"), "");
        text(&mut rig, "fault fan seized 2");
        assert!(text(&mut rig, "get fans").contains("fan.fan2.seized=true"));
        text(&mut rig, "clear all");
        assert!(!text(&mut rig, "get fans").contains("seized=true"));
    }

    #[test]
    fn mistakes_teach() {
        let mut rig = rig();
        for (line, told) in [
            ("", "there are fault, clear"),
            ("brake air", "there are fault, clear"),
            ("fault water nack", "there are air, main"),
            ("fault air nack 0x50", "there are 0x20, 0x48"),
            ("fault air nack U99", "write it as 0x48"),
            ("fault fan seized fan9", "there are fan1, fan2"),
            ("clear water", "there are air, main"),
            ("clear", "clear all"),
            ("set gpu 8 load 1", "there are 0 to 7"),
            ("set gpu x load 1", "a number from 0"),
            ("set gpu 1 load 2", "outside 0 to 1"),
            ("set gpu 1 memory-bound 2", "outside 0 to 1"),
            ("set gpu 8 memory-bound 1", "there are 0 to 7"),
            ("set ambient warm", "not a number"),
            ("set speed NaN", "outside 0 to 1000"),
            ("set", "set ambient 35000"),
            ("advance 601", "outside 0 to 600"),
            ("get", "get fans"),
        ] {
            let error = obey(&mut rig, line).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(told), "{line}: {error}");
        }
    }

    #[test]
    fn every_line_of_the_help_works() {
        for line in HELP.lines().chain(nvml::HELP.lines()) {
            let command = line.split("  ").next().unwrap_or_default();
            for command in alternatives(command) {
                assert!(obey(&mut rig(), &command).is_ok(), "{command}: {:?}", obey(&mut rig(), &command).err());
            }
        }
    }

    /// `clear all | BUS ADDR` is two commands.
    fn alternatives(command: &str) -> Vec<String> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let concrete = |part: &str| part.replace("BUS", "main").replace("ADDR", "0x40").replace("NAME", "fan3");
        rest.split(" | ").map(|part| format!("{verb} {}", concrete(part))).collect()
    }
}
